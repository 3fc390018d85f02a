#include "session/session.h"
#include "session/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "util/cleanup.h"
#include "util/text.h"

enum { DEFAULT_DEADLINE_MS = 120000 };

/* --- the session */

static char *copy_or_null(const char *text)
{
    return text ? strdup(text) : NULL;
}

static void begin_ready(void *arg);

static void tell_recycled(void *arg)
{
    struct session *s = arg;
    if (s->recycled)
        s->recycled(s->recycled_arg);
}

static int copy_options(struct session *s, const struct session_options *o)
{
    s->endpoint = strdup(o->endpoint);
    size_t len = strcspn(o->endpoint, "?#");
    const char *query = o->endpoint[len] == '?' ? o->endpoint + len + 1 : "";
    s->query = strndup(query, strcspn(query, "#"));
    while (len > 0 && o->endpoint[len - 1] == '/')
        len--;
    s->base = strndup(o->endpoint, len);
    s->unix_socket = copy_or_null(o->unix_socket);
    s->identifier = copy_or_null(o->identifier);
    bool negotiate = !o->api_version || !*o->api_version || strcmp(o->api_version, "auto") == 0;
    s->wanted_version = negotiate ? NULL : strdup(o->api_version);
    s->version = strdup(negotiate ? "2025-10-02-preview" : o->api_version);
    s->deadline_ms = o->deadline_ms > 0 ? o->deadline_ms : DEFAULT_DEADLINE_MS;
    bool whole = s->endpoint && s->base && s->query && s->version &&
                 (!o->identifier || s->identifier) && (!o->unix_socket || s->unix_socket) &&
                 (negotiate || s->wanted_version);
    return whole ? 0 : -ENOMEM;
}

int session_new(struct loop *loop, struct http *http, const struct http_authorizer *auth,
                const struct session_options *options, struct session **out, char **why)
{
    const char *problem;
    int err = options->identifier ? session_identifier_check(options->identifier, &problem) : 0;
    if (!err)
        err = http_url_check(options->endpoint, options->unix_socket, &problem);
    if (err) {
        *why = strdup(problem);
        return err;
    }
    struct session *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->http = http;
    s->auth = auth;
    s->ranges = -1;
    s->expires.tv_nsec = -1;
    loop_timer_init(&s->recycled_later, loop, tell_recycled, s);
    loop_timer_init(&s->begin, loop, begin_ready, s);
    err = copy_options(s, options);
    if (!err)
        err = helper_new(s);
    if (err) {
        session_free(s);
        return err;
    }
    shape_of(s->version, &s->shape);
    s->envelope = s->shape.old;
    *out = s;
    return 0;
}

void session_free(struct session *s)
{
    if (!s)
        return;
    while (s->calls)
        session_cancel(s->calls);
    connect_stop(s);
    helper_free(s);
    loop_timer_stop(&s->recycled_later);
    loop_timer_stop(&s->begin);
    free(s->endpoint);
    free(s->base);
    free(s->query);
    free(s->unix_socket);
    free(s->identifier);
    free(s->wanted_version);
    free(s->version);
    known_forget(&s->etag);
    known_forget(&s->header_etag);
    known_forget(&s->guid);
    free(s);
}

const char *session_identifier(const struct session *s)
{
    return s->identifier;
}

const char *session_endpoint(const struct session *s)
{
    return s->endpoint;
}

const char *session_api_version(const struct session *s)
{
    return s->version;
}

int session_ranges(const struct session *s)
{
    return s->ranges;
}

void session_get_state(const struct session *s, struct session_state *out)
{
    *out = (struct session_state){.etag = s->etag.now ? s->etag.now : s->header_etag.now,
                                  .identity = s->etag.now,
                                  .generation = s->generation,
                                  .expires = s->expires};
}

int session_expect(struct session *s, const char *identity)
{
    if (s->etag.now)
        return 0;
    s->etag.now = strdup(identity);
    return s->etag.now ? 0 : -ENOMEM;
}

void session_on_recycled(struct session *s, void (*fn)(void *arg), void *arg)
{
    s->recycled = fn;
    s->recycled_arg = arg;
}

void session_new_allocation(struct session *s, const struct known *teller)
{
    struct known *const all[] = {&s->etag, &s->header_etag, &s->guid};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] != teller)
            known_forget(all[i]);
    s->expires.tv_nsec = -1;
    s->generation++;
    loop_timer_set(&s->recycled_later, 0);
}

/* --- calls */

static void call_free(struct session_call *c)
{
    DL_DELETE(c->session->calls, c);
    if (c->ready)
        DL_DELETE2(c->session->ready, c, ready_prev, ready_next);
    http_cancel(c->http);
    if (c->asked)
        helper_forget(c->asked);
    if (c->kind->release)
        c->kind->release(c);
    if (c->gone)
        *c->gone = true;
    session_error_free(&c->error);
    free(c);
}

static void call_begin(struct session_call *c)
{
    if (c->error.err)
        call_end(c);
    else if (c->session->connect == CONNECT_SETTLED || c->pool)
        c->kind->begin(c);
    else
        connect_need(c);
}

static void begin_ready(void *arg)
{
    struct session *s = arg;
    int count;
    struct session_call *c;
    DL_COUNT2(s->ready, c, count, ready_next);
    while (count-- > 0 && s->ready) {
        c = s->ready;
        DL_DELETE2(s->ready, c, ready_prev, ready_next);
        c->ready = false;
        call_begin(c);
    }
    if (s->ready)
        loop_timer_set(&s->begin, 0);
}

void call_ready(struct session_call *c)
{
    struct session *s = c->session;
    c->ready = true;
    DL_APPEND2(s->ready, c, ready_prev, ready_next);
    if (!loop_timer_is_set(&s->begin))
        loop_timer_set(&s->begin, 0);
}

void *call_new(struct session *s, size_t size, const struct call_kind *kind, void *arg)
{
    struct session_call *c = calloc(1, size);
    if (!c)
        return NULL;
    c->session = s;
    c->kind = kind;
    c->arg = arg;
    c->deadline_at = clock_ms() + s->deadline_ms;
    DL_APPEND(s->calls, c);
    call_ready(c);
    return c;
}

void call_end(struct session_call *c)
{
    bool gone = false;
    c->gone = &gone;
    c->error.unsent = c->error.err && !c->sent;
    c->kind->finish(c);
    if (gone)
        return;
    c->gone = NULL;
    call_free(c);
}

void call_forget_error(struct session_call *c)
{
    session_error_free(&c->error);
}

void call_fail(struct session_call *c, int err, const char *message)
{
    call_forget_error(c);
    c->error.err = err;
    c->error.message = message ? strdup(message) : NULL;
    call_end(c);
}

int64_t call_left(const struct session_call *c)
{
    int64_t left = c->deadline_at - clock_ms();
    return left > 0 ? left : 1;
}

void session_cancel(struct session_call *c)
{
    if (c)
        call_free(c);
}

static void call_answered(void *arg, const struct http_result *r)
{
    struct session_call *c = arg;
    c->http = NULL;
    c->sent = c->sent || !r->err || r->sent;
    call_forget_error(c);
    c->redirected = r->err == -EPROTO && http_header(r->call, "Location");
    if (r->err) {
        wire_error(r, &c->error);
        c->step(c, NULL);
        return;
    }
    wire_notice(c->session, r);
    struct answer a;
    wire_answer(r, &a);
    c->step(c, &a);
}

void call_send(struct session_call *c, struct http_request *r, char *url, step_fn *step)
{
    _cleanup_free_ char *mine = url;
    r->url = url;
    r->done = call_answered;
    r->arg = c;
    c->step = step;
    c->http = url ? http_start(c->session->http, r) : NULL;
    if (!c->http)
        call_fail(c, -ENOMEM, NULL);
}

static void call_told(void *arg, const struct session_error *e, const cJSON *value)
{
    struct session_call *c = arg;
    c->asked = NULL;
    call_forget_error(c);
    if (e->err) {
        c->error = *e;
        c->error.code = copy_or_null(e->code);
        c->error.message = copy_or_null(e->message);
        c->error.versions = copy_or_null(e->versions);
    }
    c->value_step(c, e->err ? NULL : value);
}

void call_ask(struct session_call *c, cJSON *request, value_step_fn *step)
{
    c->value_step = step;
    c->sent = true; /* together with others': not known */
    c->asked = request ? helper_ask(c->session, request, call_told, c) : NULL;
    if (!c->asked)
        call_fail(c, -ENOMEM, NULL);
}
