#include "acafs/login_check.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "acafs/daemon.h"
#include "client/client.h"
#include "config/config.h"
#include "credential/answer.h"
#include "credential/credential.h"
#include "http/http.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum { DEADLINE_MS = 60000 };

static const char role[] = "Azure ContainerApps Session Executor";

struct check {
    const struct config *config;
    struct loop *loop;
    struct http *http;
    struct credential *credential;
    struct claims claims;
    bool has_claims;
    struct loop_timer begin;
};

/* --- the chain and the token */

static void print_links(const struct check *c)
{
    static const char *const words[] = {"not asked", "skipped", "failed", "chosen"};
    struct credential_link l;
    printf("credentials for " CREDENTIAL_RESOURCE ":\n");
    for (unsigned i = 0; credential_link(c->credential, i, &l); i++)
        printf("  %-28s %s%s%s\n", l.name, words[l.state], l.why ? ": " : "", l.why ? l.why : "");
}

static void print_advice(const char *why)
{
    /* The links stand above; what follows them in the text is what to do. */
    const char *line = why;
    while (line && (line = strchr(line, '\n'))) {
        line++;
        if (*line != ' ')
            break;
    }
    if (line)
        printf("%s\n", line);
}

static void print_claim(const char *name, const char *value)
{
    if (value)
        printf("  %-10s %s\n", name, value);
}

static void print_expiry(time_t expires)
{
    char text[32];
    struct tm tm;
    long long left = (long long)(expires - time(NULL));
    if (!expires || !localtime_r(&expires, &tm) ||
        !strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &tm))
        printf("  %-10s not known\n", "expires");
    else if (left < 0)
        printf("  %-10s %s: over since %lld min\n", "expires", text, -left / 60);
    else
        printf("  %-10s %s, in %lld min\n", "expires", text, left / 60);
}

static void print_token(const struct check *c)
{
    printf("token:\n");
    if (!c->has_claims)
        printf("  of a kind that only the pool can read\n");
    print_claim("tenant", c->claims.tenant);
    print_claim("principal", c->claims.principal);
    print_claim("object id", c->claims.object);
    print_claim("audience", c->claims.audience);
    print_expiry(credential_expires(c->credential));
}

/* --- the pool */

static bool is_plain(const char *text, size_t len, const char *more)
{
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)text[i]) && !strchr(more, text[i]))
            return false;
    }
    return len > 0;
}

/* …/subscriptions/S/resourceGroups/G/sessionPools/P names the resource to which roles are given. */
static int add_scope(struct buf *out, const char *endpoint)
{
    static const char *const names[] = {"/subscriptions/", "/resourceGroups/", "/sessionPools/"};
    static const char *const unknown[] = {"SUBSCRIPTION", "GROUP", "POOL"};
    char parts[3][128];
    const char *at = strstr(endpoint, names[0]);
    for (int i = 0; i < 3; i++) {
        at = at ? strstr(at, names[i]) : NULL;
        at = at ? at + strlen(names[i]) : NULL;
        size_t len = at ? strcspn(at, "/?") : 0;
        bool ok = len < sizeof parts[i] && is_plain(at, len, "-_.()");
        snprintf(parts[i], sizeof parts[i], "%.*s", ok ? (int)len : 32, ok ? at : unknown[i]);
    }
    return buf_addf(out, "%s%s%s%s/providers/Microsoft.App%s%s", names[0], parts[0], names[1],
                    parts[1], names[2], parts[2]);
}

static void print_role(const struct check *c)
{
    _cleanup_buf_ struct buf scope = {0};
    const char *who = c->claims.object;
    if (add_scope(&scope, c->config->endpoint))
        return;
    if (!who || !is_plain(who, strlen(who), "-"))
        who = "OBJECT-ID";
    printf("  not let in (HTTP 403): the role '%s' on the pool is missing, or was given\n"
           "  only minutes ago. Whoever may give it types:\n"
           "    az role assignment create --role '%s' \\\n"
           "      --assignee-object-id %s --assignee-principal-type %s \\\n"
           "      --scope '%s'\n",
           role, role, who, c->claims.is_application ? "ServicePrincipal" : "User", scope.data);
}

static void print_refused(const struct check *c)
{
    const char *audience = c->claims.audience;
    size_t len = strlen(CREDENTIAL_RESOURCE);
    bool right = audience && strncmp(audience, CREDENTIAL_RESOURCE, len) == 0 &&
                 (audience[len] == '\0' || strcmp(audience + len, "/") == 0);
    if (!c->credential || !credential_authorizer(c->credential))
        printf("  not let in (HTTP 401): this pool wants a token, but credential = none\n");
    else if (audience && !right)
        printf("  not let in (HTTP 401): the token's audience is %s, not " CREDENTIAL_RESOURCE "\n",
               audience);
    else
        printf("  not let in (HTTP 401): the token is not for this pool: is it "
               "for " CREDENTIAL_RESOURCE
               ",\n  not expired, of the pool's tenant; and is the endpoint the pool's own?\n");
}

/* The session asked for does not exist: 404 is the answer of a pool that let us ask. But also of
 * any other web server. */
static void print_let_in(const struct check *c, const struct http_result *r)
{
    if (r->status == 404 && !memmem(r->body, r->body_len, "Session", 7))
        printf("  answered HTTP 404 without naming a session: is %s\n"
               "  the pool's management endpoint?\n",
               c->config->endpoint);
    else
        printf("  lets this principal in (HTTP %d)\n", r->status);
}

static int judge(const struct check *c, const struct http_result *r)
{
    if (r->err) {
        printf("  %s: %s\n", r->err == -EACCES ? "no token" : "unreachable", r->why);
        return r->err == -EACCES ? EXIT_DENIED : EXIT_UNREACHABLE;
    }
    if (r->status == 401) {
        print_refused(c);
        return EXIT_DENIED;
    }
    if (r->status == 403) {
        print_role(c);
        return EXIT_DENIED;
    }
    if ((r->status >= 200 && r->status <= 299) || r->status == 404 || r->status == 400) {
        print_let_in(c, r);
        return EXIT_OK;
    }
    printf("  answered HTTP %d: try again later\n", r->status);
    return EXIT_UNREACHABLE;
}

static void pool_answered(void *arg, const struct http_result *r)
{
    struct check *c = arg;
    loop_quit(c->loop, judge(c, r));
}

/* The one call that needs the role but makes no session: asking for one that isn't there. */
static int session_url(const char *endpoint, struct buf *url)
{
    char nonce[17];
    text_random_hex(nonce, 8);
    size_t len = strcspn(endpoint, "?");
    const char *query = endpoint[len] ? endpoint + len + 1 : "";
    while (len && endpoint[len - 1] == '/')
        len--;
    return buf_addf(url,
                    "%.*s/session?%s%sapi-version=2025-10-02-preview&identifier=login-check-%s",
                    (int)len, endpoint, query, *query ? "&" : "", nonce);
}

static void ask_pool(struct check *c)
{
    _cleanup_buf_ struct buf url = {0};
    printf("pool %s:\n", c->config->endpoint);
    fflush(stdout);
    struct http_request request = {
        .method = "GET",
        .auth = credential_authorizer(c->credential),
        .retry = HTTP_RETRY_SAFE,
        .deadline_ms = DEADLINE_MS,
        .done = pool_answered,
        .arg = c,
    };
    if (session_url(c->config->endpoint, &url) == 0) {
        request.url = url.data;
        if (http_start(c->http, &request))
            return;
    }
    loop_quit(c->loop, EXIT_OTHER);
}

/* --- in order */

static void token_came(void *arg, int err, const char *token, const char *why)
{
    struct check *c = arg;
    print_links(c);
    if (err) {
        print_advice(credential_why(c->credential));
        loop_quit(c->loop,
                  err == -EHOSTUNREACH || err == -ETIMEDOUT ? EXIT_UNREACHABLE : EXIT_DENIED);
        return;
    }
    c->has_claims = claims_read(token, &c->claims);
    print_token(c);
    ask_pool(c);
}

static void begin(void *arg)
{
    struct check *c = arg;
    const struct http_authorizer *a = credential_authorizer(c->credential);
    if (a) {
        a->get(a->self, token_came, c);
        return;
    }
    printf("credentials: none is used (credential = none)\n");
    ask_pool(c);
}

static int new_credential(struct check *c)
{
    _cleanup_free_ char *why = NULL;
    int err = client_credential(c->loop, c->http, c->config, true, &c->credential, &why);
    if (err)
        log_error("%s", why ? why : strerror(-err));
    return err;
}

static int run(struct check *c)
{
    const struct http_options http = {
        .connect_ms = c->config->connect_ms,
        .idle_ms = c->config->read_ms,
        .retries = c->config->max_retries,
    };
    int err = loop_new(&c->loop), code = EXIT_CONFIG;
    err = err ? err : http_new(c->loop, &http, &c->http);
    err = err ? err : new_credential(c);
    if (!err) {
        loop_timer_init(&c->begin, c->loop, begin, c);
        loop_timer_set(&c->begin, 0);
        code = loop_run(c->loop);
    }
    claims_free(&c->claims);
    credential_free(c->credential);
    if (c->http)
        http_free(c->http);
    loop_free(c->loop);
    return code;
}

static int settings(int argc, char **argv, struct config *config)
{
    _cleanup_free_ char *why = NULL;
    const char *wrong;
    int err = config_load(config, NULL, &why);
    if (!err && argc == 2)
        err = config_source(config, argv[1], &why);
    if (!err)
        err = config_finish(config, &why);
    if (err) {
        log_error("%s", why ? why : strerror(-err));
        return EXIT_CONFIG;
    }
    if (client_is_local(config)) {
        puts("the pool on this machine needs no credential; name another: acafs login-check POOL");
        return EXIT_OK;
    }
    if (http_url_check(config->endpoint, NULL, &wrong)) {
        log_error("pool %s: %s", config->endpoint, wrong);
        return EXIT_USAGE;
    }
    return -1;
}

int login_check(int argc, char **argv)
{
    if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
        fputs("usage: acafs login-check [POOL]\n", argc == 2 ? stdout : stderr);
        return argc == 2 && strcmp(argv[1], "--help") == 0 ? EXIT_OK : EXIT_USAGE;
    }
    struct config config = {0};
    struct check c = {.config = &config};
    client_harden();
    log_set_level(LOG_LEVEL_WARNING);
    int code = settings(argc, argv, &config);
    if (code < 0) {
        curl_global_init(CURL_GLOBAL_DEFAULT);
        code = run(&c);
        curl_global_cleanup();
    }
    config_free(&config);
    return code;
}
