/* ManagedIdentityCredential: the identity that Azure gives to what runs in it. Each kind of host
 * has a token service of its own; the environment tells which. */
#include "credential/link.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "credential/secret.h"
#include "http/retry.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    PROBE_MS = 1000,
    DEADLINE_MS = 30000,
    IMDS_RETRIES = 5,
    FOREIGN_RETRIES = 2, /* of what does not look like Azure */
    LONGEST_WAIT_S = 60, /* of a Retry-After */
    MAX_ANSWER = 256 << 10,
    MAX_ARC_KEY = 4096,
};

/* How each service is asked. A user-assigned identity is named by client id, object id or resource
 * id; NULL where the service knows no such name. */
struct service {
    const char *name;
    const char *method;
    const char *api_version; /* NULL: no query at all, a form instead */
    const char *header;      /* before its value; see headers() */
    const char *client, *object, *resource;
};

static const struct service app_service = {
    "App Service", "GET",          "2019-08-01", "X-IDENTITY-HEADER: ",
    "client_id",   "principal_id", "mi_res_id"};
static const struct service service_fabric = {
    "Service Fabric", "GET", "2019-07-01-preview", "Secret: ", "client_id", NULL, NULL};
static const struct service arc = {"Azure Arc", "GET", "2019-11-01", NULL, NULL, NULL, NULL};
static const struct service cloud_shell = {"Cloud Shell", "POST", NULL, NULL,
                                           "client_id",   NULL,   NULL};
static const struct service azure_ml = {
    "Azure ML", "GET", "2017-09-01", "secret: ", "clientid", NULL, NULL};
static const struct service imds = {"IMDS",      "GET",       "2018-02-01", NULL,
                                    "client_id", "object_id", "msi_res_id"};

/*     PROBING ──any answer──▶ ASKING ──200──▶ given
 *        │                    │  ▲  │
 *        │       401 of Arc ──┘  │  └──404, 410, 429, 5xx of IMDS──▶ WAITING ──┐
 *        │       (once, with key)└──────────────────────────────────────────────┘
 *        └──nothing within 1 s──▶ unavailable
 */
enum state { PROBING, ASKING, WAITING };

struct attempt {
    const struct settings *settings;
    outcome_fn *done;
    void *arg;
    const struct service *service;
    enum state state;
    const char *endpoint; /* of settings, or a literal */
    const char *secret;   /* of settings */
    struct buf url, form;
    char *key; /* Arc's */
    unsigned retries;
    bool foreign; /* so far it answered as any web server does that knows no such page */
    struct http_call *call;
    struct loop_timer timer;
};

static void attempt_free(struct attempt *a)
{
    http_cancel(a->call);
    loop_timer_stop(&a->timer);
    buf_free(&a->url);
    buf_free(&a->form);
    secret_free(a->key);
    free(a);
}

static void end(struct attempt *a, enum verdict verdict, int err, const char *why)
{
    struct outcome o = {.verdict = verdict, .err = err, .why = why};
    a->done(a->arg, &o);
    attempt_free(a);
}

/* --- asking */

static void answered(void *arg, const struct http_result *);

static int add_header(struct buf *line, const char *name, const char *value)
{
    return buf_addf(line, "%s%s", name, value);
}

/* False when it ended the attempt, which is then gone. */
static bool ask(struct attempt *a)
{
    struct buf secret = {0};
    const char *headers[4] = {NULL};
    unsigned n = 0;
    bool marked = !a->service->header; /* the services without a secret want a mark instead */
    if (marked && a->state != PROBING)
        headers[n++] = "Metadata: true";
    int err = 0;
    if (a->key)
        err = add_header(&secret, "Authorization: Basic ", a->key);
    else if (a->service->header)
        err = add_header(&secret, a->service->header, a->secret);
    if (secret.len)
        headers[n++] = secret.data;
    const struct http_request request = {
        .kind = HTTP_KIND_TOKEN,
        .method = a->service->method,
        .url = a->url.data,
        .headers = headers,
        .body = a->form.len ? HTTP_BODY_BYTES : HTTP_BODY_NONE,
        .content_type = "application/x-www-form-urlencoded",
        .data = a->form.data,
        .len = a->form.len,
        .retry = a->service == &imds ? HTTP_RETRY_NEVER : HTTP_RETRY_SAFE,
        .deadline_ms = a->state == PROBING ? PROBE_MS : DEADLINE_MS,
        .max_body = MAX_ANSWER,
        .secret = true,
        .metadata = true,
        .thumbprint = a->service == &service_fabric ? a->settings->identity_thumbprint : NULL,
        .done = answered,
        .arg = a,
    };
    a->call = err ? NULL : http_start(a->settings->http, &request);
    buf_wipe(&secret);
    if (a->call)
        return true;
    end(a, TOKEN_FAILED, -ENOMEM, "out of memory");
    return false;
}

static void ask_again(void *arg)
{
    struct attempt *a = arg;
    a->state = ASKING;
    ask(a);
}

/* --- answers */

static void given(struct attempt *a, const struct http_result *r)
{
    struct outcome o = {.verdict = TOKEN_GIVEN};
    _cleanup_buf_ struct buf why = {0};
    const char *wrong;
    int err = answer_token(r->body, r->body_len, a->settings->now(), &o.token, &wrong);
    if (err && a->service == &imds && !memmem(r->body, r->body_len, "access_token", 12)) {
        /* A gateway's page for whatever is asked of it. */
        buf_addf(&why, "no managed identity service at %s: %s", a->endpoint, wrong);
        end(a, TOKEN_UNAVAILABLE, -EACCES, why.data);
        return;
    }
    if (err) {
        buf_addf(&why, "%s at %s: %s", a->service->name, a->endpoint, wrong);
        end(a, TOKEN_FAILED, err, why.data);
        return;
    }
    a->done(a->arg, &o);
    token_free(&o.token);
    attempt_free(a);
}

/* Azure Arc shows that the caller may read a root-only file: its answer names the file, and what
 * stands in it goes back. A forged answer must not get us to hand out any other file. */
static void take_challenge(struct attempt *a, const struct http_result *r)
{
    _cleanup_buf_ struct buf why = {0};
    const char *wrong;
    size_t len;
    _cleanup_free_ char *path = answer_arc_key(http_header(r->call, "WWW-Authenticate"),
                                               a->settings->arc_directory, &wrong);
    if (!path)
        buf_addf(&why, "Azure Arc at %s: %s", a->endpoint, wrong);
    else if (secret_read(path, MAX_ARC_KEY, true, NULL, &a->key, &len, &why) == -EACCES)
        buf_adds(&why, " (users of Arc's identity belong to the group himds)");
    else if (a->key && !secret_is_word(a->key))
        buf_addf(&why, "%s: holds no key", path);
    if (why.len)
        end(a, TOKEN_FAILED, -EACCES, why.data);
    else
        ask(a);
}

/* IMDS always words its errors. */
static bool is_worded(const struct http_result *r)
{
    return memmem(r->body, r->body_len, "\"error\"", 7);
}

/* Whether IMDS may answer otherwise in a moment. 404 is what it says while it is being updated; but
 * other clouds have their metadata service at the same address and say 404 for ever: soon told. */
static bool is_passing(struct attempt *a, const struct http_result *r)
{
    int status = r->status;
    a->foreign = a->foreign && status == 404 && !is_worded(r);
    return (status == 404 || status == 410 || status == 429 || status >= 500) &&
           a->retries < (a->foreign ? FOREIGN_RETRIES : IMDS_RETRIES);
}

static void wait(struct attempt *a, const struct http_result *r)
{
    int64_t ms = a->settings->imds_backoff_ms << a->retries++;
    int64_t told = retry_after_parse(http_header(r->call, "Retry-After"), time(NULL));
    if (told > LONGEST_WAIT_S)
        told = LONGEST_WAIT_S;
    if (told * 1000 > ms)
        ms = told * 1000;
    log_debug("%s: HTTP %d: asking again in %lld ms", a->endpoint, r->status, (long long)ms);
    a->state = WAITING;
    loop_timer_set(&a->timer, ms);
}

/* Whether an answer of IMDS's address says that there is no identity to be had here, rather than
 * that one was refused: no such identity is assigned; or it is no Azure that answers, but another
 * cloud's metadata service or a gateway; or a container's network is in between. */
static bool means_none(const struct http_result *r)
{
    if (r->status == 400)
        return true;
    return r->status < 429 && (!is_worded(r) || memmem(r->body, r->body_len, "unreachable", 11));
}

static void turned_down(struct attempt *a, const struct http_result *r)
{
    const char *const secrets[] = {a->secret ? a->secret : "", a->key, NULL};
    _cleanup_buf_ struct buf why = {0};
    bool none = a->service == &imds && means_none(r);
    if (none && r->status == 400 && a->settings->client)
        buf_addf(&why, "the identity %s is not assigned to this machine: ", a->settings->client);
    else if (none && r->status == 400)
        buf_adds(&why, "no identity is assigned to this machine: ");
    else if (none)
        buf_addf(&why, "no managed identity service at %s: ", a->endpoint);
    else
        buf_addf(&why, "%s at %s refused: ", a->service->name, a->endpoint);
    answer_refusal(&why, r->status, r->body, r->body_len, secrets);
    int err = r->status == 429 ? -EAGAIN : r->status >= 500 ? -EIO : -EACCES;
    end(a, none ? TOKEN_UNAVAILABLE : TOKEN_FAILED, none ? -EACCES : err, why.data);
}

static void no_answer(struct attempt *a, const struct http_result *r)
{
    _cleanup_buf_ struct buf why = {0};
    if (a->service == &imds) {
        buf_addf(&why, "no managed identity service at %s: %s", a->endpoint,
                 r->err == -ETIMEDOUT && a->state == PROBING ? "no answer within 1 s" : r->why);
        end(a, TOKEN_UNAVAILABLE, r->err, why.data);
        return;
    }
    buf_addf(&why, "no answer from %s at %s: %s", a->service->name, a->endpoint, r->why);
    end(a, TOKEN_FAILED, r->err, why.data);
}

static void probed(struct attempt *a, const struct http_result *r)
{
    a->foreign = r->status == 404 && !is_worded(r);
    ask_again(a);
}

static void answered(void *arg, const struct http_result *r)
{
    struct attempt *a = arg;
    a->call = NULL;
    if (r->err)
        no_answer(a, r);
    else if (a->state == PROBING)
        probed(a, r);
    else if (r->status == 200)
        given(a, r);
    else if (a->service == &arc && r->status == 401 && !a->key)
        take_challenge(a, r);
    else if (a->service == &imds && is_passing(a, r))
        wait(a, r);
    else
        turned_down(a, r);
}

/* --- setting up */

static void choose_service(struct attempt *a)
{
    const struct settings *s = a->settings;
    if (s->identity_endpoint && s->identity_header) {
        a->service = s->identity_thumbprint ? &service_fabric : &app_service;
        a->endpoint = s->identity_endpoint;
        a->secret = s->identity_header;
    } else if (s->identity_endpoint && s->imds_endpoint) {
        a->service = &arc;
        a->endpoint = s->identity_endpoint;
    } else if (s->msi_endpoint) {
        a->service = s->msi_secret ? &azure_ml : &cloud_shell;
        a->endpoint = s->msi_endpoint;
        a->secret = s->msi_secret;
    } else {
        a->service = &imds;
        a->endpoint = s->pod_authority ? s->pod_authority : "http://169.254.169.254";
    }
}

static int add_member(struct buf *out, const char *name, const char *value)
{
    int err = buf_addf(out, "%s%s=", out->len ? "&" : "", name);
    return err ? err : text_percent(out, value, strlen(value));
}

/* The member that names a user-assigned identity; false when the service takes no such name. */
static bool add_identity(struct attempt *a, struct buf *out)
{
    const char *id = a->settings->client, *name = a->service->client;
    if (!id && a->service == &azure_ml)
        id = a->settings->ml_client;
    if (!id)
        return true;
    if (strncasecmp(id, "/subscriptions/", 15) == 0) {
        name = a->service->resource;
    } else if (strncmp(id, "object:", 7) == 0) {
        name = a->service->object;
        id += 7;
    }
    return name && add_member(out, name, id) == 0;
}

static int build(struct attempt *a)
{
    struct buf members = {0};
    int err = 0;
    if (a->service->api_version)
        err = add_member(&members, "api-version", a->service->api_version);
    err = err ? err : add_member(&members, "resource", CREDENTIAL_RESOURCE);
    if (!err && !add_identity(a, &members))
        err = -ENOTSUP;
    size_t len = strlen(a->endpoint);
    while (a->service == &imds && len && a->endpoint[len - 1] == '/')
        len--;
    err = err ? err : buf_add(&a->url, a->endpoint, len);
    if (!err && a->service == &imds)
        err = buf_adds(&a->url, "/metadata/identity/oauth2/token");
    if (err || !a->service->api_version) {
        a->form = members;
        return err;
    }
    err = buf_addf(&a->url, "%s%s", strchr(a->endpoint, '?') ? "&" : "?", members.data);
    buf_free(&members);
    return err;
}

static void *start(const struct settings *s, outcome_fn *done, void *arg)
{
    struct attempt *a = calloc(1, sizeof *a);
    if (!a) {
        outcome_failed(done, arg, -ENOMEM, "out of memory");
        return NULL;
    }
    *a = (struct attempt){.settings = s, .done = done, .arg = arg};
    loop_timer_init(&a->timer, s->loop, ask_again, a);
    choose_service(a);
    _cleanup_buf_ struct buf why = {0};
    int err = build(a);
    if (err == -ENOTSUP)
        buf_addf(&why,
                 "%s has no user-assigned identity %s: unset AZURE_CLIENT_ID to use the "
                 "machine's own",
                 a->service->name, s->client);
    else if (a->secret && !secret_is_word(a->secret))
        buf_addf(&why, "the secret that %s set in the environment can't stand in a header",
                 a->service->name);
    if (err || why.len) {
        end(a, TOKEN_UNAVAILABLE, -EACCES, why.len ? why.data : "out of memory");
        return NULL;
    }
    bool probe = a->service == &imds && !s->alone;
    a->state = probe ? PROBING : ASKING;
    return ask(a) ? a : NULL;
}

static void cancel(void *attempt)
{
    attempt_free(attempt);
}

const struct link managed_link = {
    .name = "ManagedIdentityCredential",
    .word = "managed-identity",
    .start = start,
    .cancel = cancel,
};
