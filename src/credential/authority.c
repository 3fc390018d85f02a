/* The credentials that ask Entra ID itself: a service principal with its secret or certificate
 * from the environment, and workload identity. All post one form to the tenant's token
 * endpoint (RFC 6749 4.4, RFC 7523). */
#include "credential/link.h"

#include <errno.h>
#include <string.h>

#include "credential/certificate.h"
#include "credential/secret.h"
#include "util/cleanup.h"
#include "util/text.h"

enum {
    DEADLINE_MS = 30000,
    MAX_ANSWER = 256 << 10,
    MAX_SECRET_FILE = 64 << 10,
    MAX_CERTIFICATE = 1 << 20,
    FORM_SIZE = 16 << 10, /* reserved, so that a form with a secret seldom moves in memory */
};

struct attempt {
    const struct settings *settings;
    outcome_fn *done;
    void *arg;
    struct http_call *call;
    struct buf form;
    char *secret; /* what the form holds, so that an error never quotes it */
};

static void attempt_free(struct attempt *a)
{
    http_cancel(a->call);
    buf_wipe(&a->form);
    secret_free(a->secret);
    free(a);
}

/* --- the answer */

static void refused(struct attempt *a, const struct http_result *r)
{
    int err = r->status == 429 ? -EAGAIN : r->status >= 500 ? -EIO : -EACCES;
    _cleanup_buf_ struct buf why = {0};
    struct buf sent = {0}; /* what stood in the form: some servers say back what they were sent */
    text_percent(&sent, a->secret, strlen(a->secret));
    const char *const secrets[] = {a->secret, sent.data ? sent.data : "", NULL};
    buf_addf(&why, "%s refused: ", a->settings->authority);
    answer_refusal(&why, r->status, r->body, r->body_len, secrets);
    outcome_failed(a->done, a->arg, err, why.data);
    buf_wipe(&sent);
}

static void answered(void *arg, const struct http_result *r)
{
    struct attempt *a = arg;
    a->call = NULL;
    _cleanup_buf_ struct buf why = {0};
    struct outcome o = {.verdict = TOKEN_GIVEN};
    const char *wrong;
    int err;
    if (r->err == -EFBIG) {
        buf_addf(&why, "%s: %s", a->settings->authority, r->why);
        outcome_failed(a->done, a->arg, -EPROTO, why.data);
    } else if (r->err == -EPROTO) {
        /* A wrong certificate, a redirect: whoever answers there is not to be trusted. */
        buf_addf(&why, "no answer from the authority that can be trusted: %s", r->why);
        outcome_failed(a->done, a->arg, -EACCES, why.data);
    } else if (r->err) {
        buf_addf(&why, "no answer from the authority: %s", r->why);
        outcome_failed(a->done, a->arg, r->err, why.data);
    } else if (r->status != 200) {
        refused(a, r);
    } else if ((err = answer_token(r->body, r->body_len, a->settings->now(), &o.token, &wrong))) {
        buf_addf(&why, "%s: %s", a->settings->authority, wrong);
        outcome_failed(a->done, a->arg, err, why.data);
    } else {
        a->done(a->arg, &o);
        token_free(&o.token);
    }
    attempt_free(a);
}

/* --- the request */

static int add_member(struct attempt *a, const char *name, const char *value)
{
    int err = buf_addf(&a->form, "%s%s=", a->form.len ? "&" : "", name);
    return err ? err : text_percent(&a->form, value, strlen(value));
}

static struct attempt *attempt_new(const struct settings *s, outcome_fn *done, void *arg)
{
    struct attempt *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    *a = (struct attempt){.settings = s, .done = done, .arg = arg};
    if (buf_reserve(&a->form, FORM_SIZE) || add_member(a, "client_id", s->client) ||
        add_member(a, "grant_type", "client_credentials") ||
        add_member(a, "scope", CREDENTIAL_SCOPE)) {
        attempt_free(a);
        return NULL;
    }
    return a;
}

static int endpoint(const struct settings *s, struct buf *url)
{
    return buf_addf(url, "%s/%s/oauth2/v2.0/token", s->authority, s->tenant);
}

static void *fail(struct attempt *a, int err, const char *why)
{
    outcome_failed(a->done, a->arg, err, why);
    attempt_free(a);
    return NULL;
}

/* Takes the attempt over; its `secret` stands in the form under `name`. */
static void *post(struct attempt *a, const char *name)
{
    _cleanup_buf_ struct buf url = {0};
    if (add_member(a, name, a->secret) || endpoint(a->settings, &url))
        return fail(a, -ENOMEM, "out of memory");
    static const char *const headers[] = {"Accept: application/json", NULL};
    const struct http_request request = {
        .kind = HTTP_KIND_TOKEN,
        .method = "POST",
        .url = url.data,
        .headers = headers,
        .body = HTTP_BODY_BYTES,
        .content_type = "application/x-www-form-urlencoded",
        .data = a->form.data,
        .len = a->form.len,
        .retry = HTTP_RETRY_SAFE,
        .deadline_ms = DEADLINE_MS,
        .max_body = MAX_ANSWER,
        .secret = true,
        .done = answered,
        .arg = a,
    };
    a->call = http_start(a->settings->http, &request);
    buf_wipe(&a->form);
    return a->call ? a : fail(a, -ENOMEM, "out of memory");
}

static void *post_assertion(struct attempt *a)
{
    if (add_member(a, "client_assertion_type",
                   "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"))
        return fail(a, -ENOMEM, "out of memory");
    return post(a, "client_assertion");
}

static void cancel(void *attempt)
{
    attempt_free(attempt);
}

/* --- EnvironmentCredential */

static void *start_secret(struct attempt *a)
{
    const struct settings *s = a->settings;
    _cleanup_buf_ struct buf why = {0};
    size_t len;
    int err = 0;
    if (s->secret_file)
        err = secret_read(s->secret_file, MAX_SECRET_FILE, true, NULL, &a->secret, &len, &why);
    else if (!(a->secret = secret_new(s->secret, strlen(s->secret))))
        err = -ENOMEM;
    if (err)
        return fail(a, -EACCES, why.len ? why.data : strerror(-err));
    return post(a, "client_secret");
}

static int read_certificate(const struct settings *s, struct certificate **out, struct buf *why)
{
    _cleanup_secret_ char *bytes = NULL;
    _cleanup_secret_ char *password = NULL;
    size_t len, password_len;
    const char *wrong;
    int err = secret_read(s->certificate, MAX_CERTIFICATE, false, NULL, &bytes, &len, why);
    if (!err && s->certificate_password_file)
        err = secret_read(s->certificate_password_file, MAX_SECRET_FILE, true, NULL, &password,
                          &password_len, why);
    if (err)
        return err;
    err = certificate_parse(bytes, len, password ? password : s->certificate_password, out, &wrong);
    if (err)
        buf_addf(why, "%s: %s", s->certificate, wrong);
    return err;
}

static int assert_holder(struct attempt *a, struct buf *why)
{
    const struct settings *s = a->settings;
    struct certificate *certificate = NULL;
    struct buf assertion = {0};
    _cleanup_buf_ struct buf url = {0};
    int err = read_certificate(s, &certificate, why);
    if (err)
        return err;
    err = endpoint(s, &url);
    err = err ? err
              : certificate_assertion(certificate, url.data, s->client, s->now(), s->send_chain,
                                      &assertion);
    if (!err && !(a->secret = secret_new(assertion.data, assertion.len)))
        err = -ENOMEM;
    if (err)
        buf_addf(why, "%s: its key can't sign: %s", s->certificate, strerror(-err));
    certificate_free(certificate);
    buf_wipe(&assertion);
    return err;
}

static void *start_certificate(struct attempt *a)
{
    _cleanup_buf_ struct buf why = {0};
    if (assert_holder(a, &why))
        return fail(a, -EACCES, why.len ? why.data : "out of memory");
    return post_assertion(a);
}

static void add_missing(struct buf *why, bool missing, const char *name)
{
    if (missing)
        buf_addf(why, "%s%s", why->len ? ", " : "not set: ", name);
}

static void *start_environment(const struct settings *s, outcome_fn *done, void *arg)
{
    bool secret = s->secret || s->secret_file;
    _cleanup_buf_ struct buf why = {0};
    add_missing(&why, !s->tenant, "AZURE_TENANT_ID");
    add_missing(&why, !s->client, "AZURE_CLIENT_ID");
    add_missing(&why, !secret && !s->certificate,
                "AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH");
    if (why.len) {
        outcome_unavailable(done, arg, why.data);
        return NULL;
    }
    struct attempt *a = attempt_new(s, done, arg);
    if (!a) {
        outcome_failed(done, arg, -ENOMEM, "out of memory");
        return NULL;
    }
    return secret ? start_secret(a) : start_certificate(a);
}

const struct link environment_link = {
    .name = "EnvironmentCredential",
    .word = "environment",
    .start = start_environment,
    .cancel = cancel,
};

/* --- WorkloadIdentityCredential */

static void *start_workload(const struct settings *s, outcome_fn *done, void *arg)
{
    _cleanup_buf_ struct buf why = {0};
    add_missing(&why, !s->tenant, "AZURE_TENANT_ID");
    add_missing(&why, !s->client, "AZURE_CLIENT_ID");
    add_missing(&why, !s->federated_file, "AZURE_FEDERATED_TOKEN_FILE");
    if (why.len) {
        outcome_unavailable(done, arg, why.data);
        return NULL;
    }
    struct attempt *a = attempt_new(s, done, arg);
    if (!a) {
        outcome_failed(done, arg, -ENOMEM, "out of memory");
        return NULL;
    }
    /* The platform replaces the file before what it holds expires. */
    size_t len;
    if (secret_read(s->federated_file, MAX_SECRET_FILE, true, NULL, &a->secret, &len, &why))
        return fail(a, -EACCES, why.data);
    return post_assertion(a);
}

const struct link workload_link = {
    .name = "WorkloadIdentityCredential",
    .word = "workload-identity",
    .start = start_workload,
    .cancel = cancel,
};
