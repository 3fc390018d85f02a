/* A credential on a leash, for test_credential.py. Arguments are NAME=VALUE of struct
 * credential_options, or retries=N of struct http_options; commands come on stdin, one a line, and
 * each is answered by one line of JSON:
 *
 *     get N        asks N times at once: {"errs":[…],"sums":[…],"why":…}, tokens as SHA-256 only
 *     cancel N     asks N times and takes it all back
 *     call URL N   N authorized GETs at once: {"statuses":[…],"errs":[…],"why":…}
 *     refuse       reports the last token as refused
 *     clock S      moves the clock by S seconds
 *     status       what credential_status() says, with "why": the whole text of the last failure
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "credential/credential.h"
#include "credential/secret.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"

static time_t clock_offset; /* the driver's own: options take a function without an argument */

static time_t moved_clock(void)
{
    return time(NULL) + clock_offset;
}

struct driver {
    struct loop *loop;
    struct http *http;
    struct credential *credential;
    struct loop_fd *input;
    struct buf line;
    char *last; /* token */
    unsigned expected;
    cJSON *reply, *errs, *details;
    char *url;
};

static void say(cJSON *json)
{
    _cleanup_free_ char *text = cJSON_PrintUnformatted(json);
    puts(text);
    fflush(stdout);
    cJSON_Delete(json);
}

static void add_sum(cJSON *list, const char *token)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    unsigned len;
    EVP_Digest(token, strlen(token), digest, &len, EVP_sha256(), NULL);
    for (unsigned i = 0; i < len; i++)
        sprintf(hex + 2 * i, "%02x", digest[i]);
    cJSON_AddItemToArray(list, cJSON_CreateString(hex));
}

static void begin(struct driver *d, const char *details, unsigned expected)
{
    d->reply = cJSON_CreateObject();
    d->errs = cJSON_AddArrayToObject(d->reply, "errs");
    d->details = cJSON_AddArrayToObject(d->reply, details);
    d->expected = expected;
}

static void one_more(struct driver *d, int err, const char *why)
{
    cJSON_AddItemToArray(d->errs, cJSON_CreateString(err ? strerrorname_np(-err) : "0"));
    if (why && !cJSON_HasObjectItem(d->reply, "why"))
        cJSON_AddStringToObject(d->reply, "why", why);
    if (--d->expected == 0)
        say(d->reply);
}

static void token_came(void *arg, int err, const char *token, const char *why)
{
    struct driver *d = arg;
    if (token) {
        add_sum(d->details, token);
        secret_free(d->last);
        d->last = secret_new(token, strlen(token));
    }
    one_more(d, err, why);
}

static void call_ended(void *arg, const struct http_result *r)
{
    struct driver *d = arg;
    cJSON_AddItemToArray(d->details, cJSON_CreateNumber(r->status));
    one_more(d, r->err, r->why);
}

static void get(struct driver *d, unsigned count)
{
    const struct http_authorizer *a = credential_authorizer(d->credential);
    begin(d, "sums", count);
    if (!a) {
        cJSON_AddStringToObject(d->reply, "none", "no authorizer");
        say(d->reply);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        a->get(a->self, token_came, d);
}

static void never(void *arg, int err, const char *token, const char *why)
{
    fputs("driver: a cancelled request was answered\n", stderr);
    exit(2);
}

static void cancel(struct driver *d, unsigned count)
{
    const struct http_authorizer *a = credential_authorizer(d->credential);
    void *handles[100];
    for (unsigned i = 0; i < count && i < 100; i++)
        handles[i] = a->get(a->self, never, d);
    for (unsigned i = 0; i < count && i < 100; i++)
        a->cancel(a->self, handles[(i * 7 + 3) % count]); /* in no particular order */
    say(cJSON_CreateObject());
}

static void call(struct driver *d, const char *url, unsigned count)
{
    begin(d, "statuses", count);
    for (unsigned i = 0; i < count; i++) {
        const struct http_request request = {
            .method = "GET",
            .url = url,
            .auth = credential_authorizer(d->credential),
            .retry = HTTP_RETRY_SAFE,
            .deadline_ms = 60000,
            .done = call_ended,
            .arg = d,
        };
        http_start(d->http, &request);
    }
}

static void add_links(struct driver *d, cJSON *json)
{
    const char *why = credential_why(d->credential);
    cJSON_AddNumberToObject(json, "expires_at", (double)credential_expires(d->credential));
    cJSON_AddNumberToObject(json, "clock", (double)moved_clock());
    if (why)
        cJSON_AddStringToObject(json, "why", why);
}

static void obey(struct driver *d, char *line)
{
    unsigned count;
    long seconds;
    char url[512];
    if (sscanf(line, "get %u", &count) == 1) {
        get(d, count);
    } else if (sscanf(line, "call %511s %u", url, &count) == 2) {
        call(d, url, count);
    } else if (sscanf(line, "cancel %u", &count) == 1) {
        cancel(d, count);
    } else if (sscanf(line, "clock %ld", &seconds) == 1) {
        clock_offset += seconds;
        say(cJSON_CreateObject());
    } else if (strcmp(line, "refuse") == 0) {
        const struct http_authorizer *a = credential_authorizer(d->credential);
        if (d->last)
            a->refused(a->self, d->last);
        secret_free(d->last);
        d->last = NULL;
        say(cJSON_CreateObject());
    } else if (strcmp(line, "status") == 0) {
        cJSON *status = credential_status(d->credential);
        add_links(d, status);
        say(status);
    } else {
        fprintf(stderr, "driver: what is %s?\n", line);
        exit(2);
    }
}

static void input_ready(void *arg, short events)
{
    struct driver *d = arg;
    char block[4096];
    ssize_t n = read(0, block, sizeof block);
    if (n <= 0) {
        loop_quit(d->loop, 0);
        return;
    }
    buf_add(&d->line, block, (size_t)n);
    char *end;
    while (d->line.len && (end = memchr(d->line.data, '\n', d->line.len))) {
        *end = '\0';
        _cleanup_free_ char *line = strdup(d->line.data);
        buf_consume(&d->line, (size_t)(end - d->line.data) + 1);
        obey(d, line);
    }
}

static void parse_option(struct credential_options *o, char *argument)
{
    static const struct {
        const char *name;
        size_t at;
    } map[] = {
        {"kind", offsetof(struct credential_options, kind)},
        {"token_file", offsetof(struct credential_options, token_file)},
        {"tenant_id", offsetof(struct credential_options, tenant_id)},
        {"client_id", offsetof(struct credential_options, client_id)},
        {"client_secret_file", offsetof(struct credential_options, client_secret_file)},
        {"certificate", offsetof(struct credential_options, certificate)},
        {"certificate_password_file",
         offsetof(struct credential_options, certificate_password_file)},
        {"authority", offsetof(struct credential_options, authority)},
        {"federated_token_file", offsetof(struct credential_options, federated_token_file)},
        {"arc_directory", offsetof(struct credential_options, arc_directory)},
    };
    char *value = strchr(argument, '=');
    *value++ = '\0';
    for (size_t i = 0; i < sizeof map / sizeof *map; i++) {
        if (strcmp(argument, map[i].name) == 0)
            *(const char **)((char *)o + map[i].at) = value;
    }
    if (strcmp(argument, "imds_backoff_ms") == 0)
        o->imds_backoff_ms = atol(value);
    if (strcmp(argument, "send_certificate_chain") == 0)
        o->send_certificate_chain = *value == '1';
}

int main(int argc, char **argv)
{
    struct driver d = {0};
    struct credential_options options = {.token = getenv("ACAFS_TOKEN"), .now = moved_clock};
    struct http_options http = {.retries = 4};
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "retries=", 8) == 0)
            http.retries = (unsigned)atoi(argv[i] + 8);
        else
            parse_option(&options, argv[i]);
    }
    log_init("driver", LOG_LEVEL_DEBUG);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    loop_new(&d.loop);
    http_new(d.loop, &http, &d.http);
    _cleanup_free_ char *why = NULL;
    int err = credential_new(d.loop, d.http, &options, &d.credential, &why), code = 1;
    if (err) {
        fprintf(stderr, "refused: %s\n", why);
    } else {
        fcntl(0, F_SETFL, O_NONBLOCK);
        d.input = loop_fd_add(d.loop, 0, CURL_WAIT_POLLIN, input_ready, &d);
        puts("{}");
        fflush(stdout);
        code = loop_run(d.loop);
        loop_fd_del(d.input);
    }
    credential_free(d.credential);
    http_free(d.http);
    loop_free(d.loop);
    secret_free(d.last);
    buf_free(&d.line);
    if (d.expected)
        cJSON_Delete(d.reply); /* those who asked were forgotten */
    curl_global_cleanup();
    return code;
}
