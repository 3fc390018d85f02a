/* Which API version to speak: GET files, newest first, settled once for all calls. */
#include "session/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "util/cleanup.h"
#include "util/log.h"

static const struct shape shapes[] = {
    {"2025-10-02-preview", false, true, true, true},
    {"2025-02-02-preview", false, false, false, true},
    {"2024-10-02-preview", false, false, false, false},
    {"2024-02-02-preview", true, false, false, false},
};

enum { SHAPES = sizeof shapes / sizeof *shapes };

bool shape_of(const char *version, struct shape *out)
{
    for (size_t i = 0; i < SHAPES; i++) {
        if (strcmp(version, shapes[i].version) == 0) {
            *out = shapes[i];
            return true;
        }
    }
    /* A version of another date looks like the newest one before it. */
    for (size_t i = 0; i < SHAPES; i++) {
        if (strcmp(version, shapes[i].version) > 0) {
            *out = shapes[i];
            return false;
        }
    }
    *out = shapes[SHAPES - 1];
    return false;
}

static void ask(struct session *);

static void settle(struct session *s, const struct session_error *e)
{
    s->connect = e->err ? CONNECT_NEW : CONNECT_SETTLED;
    if (!e->err)
        log_debug("API version %s", s->version);
    struct session_call *c;
    DL_FOREACH (s->calls, c) {
        if (!c->waits)
            continue;
        c->waits = false;
        c->error = *e;
        c->error.code = e->code ? strdup(e->code) : NULL;
        c->error.message = e->message ? strdup(e->message) : NULL;
        c->error.versions = NULL;
        call_ready(c);
    }
}

/* The newest of ours that the server's list (comma-separated) offers, or -1. */
static int offered_version(const char *list, unsigned from)
{
    for (unsigned i = from; list && i < SHAPES; i++)
        if (strstr(list, shapes[i].version))
            return (int)i;
    return -1;
}

static bool is_about_version(const struct session_error *e)
{
    return e->hint == HINT_OTHER_VERSION || e->status == 404 ||
           (e->status == 400 && e->message && strcasestr(e->message, "api-version"));
}

/* The next version to try after this refusal; false: none. */
static bool next_version(struct session *s, const struct session_error *e, const char *supported)
{
    if (s->wanted_version || !is_about_version(e))
        return false;
    int offered = s->offered ? -1 : offered_version(supported, s->candidate + 1);
    if (s->candidate + 1 >= SHAPES)
        return false;
    s->offered = s->offered || offered >= 0;
    s->candidate = offered >= 0 ? (unsigned)offered : s->candidate + 1;
    return true;
}

static void connect_answered(void *arg, const struct http_result *r)
{
    struct session *s = arg;
    s->connecting = NULL;
    struct session_error e = {0};
    if (r->err) {
        wire_error(r, &e);
        settle(s, &e);
    } else {
        struct answer a;
        struct listing ignored;
        wire_notice(s, r);
        wire_answer(r, &a);
        _cleanup_free_ char *url = url_list(s, NULL, false);
        if (!url)
            e.err = -ENOMEM;
        else
            answer_list(&a, url, &ignored, &e);
        if (url && !e.err)
            listing_free(&ignored);
        if (e.err && next_version(s, &e, a.supported_versions))
            ask(s);
        else
            settle(s, &e);
    }
    session_error_free(&e);
}

static void ask(struct session *s)
{
    if (!s->wanted_version) {
        char *version = strdup(shapes[s->candidate].version);
        if (version) {
            free(s->version);
            s->version = version;
        }
        shape_of(s->version, &s->shape);
        s->envelope = s->shape.old;
    }
    struct http_request r = {.kind = HTTP_KIND_LIST,
                             .method = "GET",
                             .retry = HTTP_RETRY_SAFE,
                             .deadline_ms = s->deadline_ms};
    wire_defaults(s, &r);
    _cleanup_free_ char *url = url_list(s, NULL, false);
    r.url = url;
    r.done = connect_answered;
    r.arg = s;
    s->connecting = url ? http_start(s->http, &r) : NULL;
    s->connect = CONNECT_ASKING;
    if (!s->connecting) {
        struct session_error e = {.err = -ENOMEM};
        settle(s, &e);
    }
}

void connect_need(struct session_call *c)
{
    struct session *s = c->session;
    c->waits = true;
    if (s->connect != CONNECT_NEW)
        return;
    s->candidate = 0;
    s->offered = false;
    ask(s);
}

void connect_stop(struct session *s)
{
    http_cancel(s->connecting);
    s->connecting = NULL;
}

/* --- session_connect: a call that has nothing to do once the version is settled */

struct connect_call {
    struct session_call call;
    session_done_fn *done;
};

static void connect_finish(struct session_call *c)
{
    ((struct connect_call *)c)->done(c->arg, &c->error);
}

struct session_call *session_connect(struct session *s, session_done_fn *done, void *arg)
{
    static const struct call_kind kind = {.begin = call_end, .finish = connect_finish};
    struct connect_call *c = call_new(s, sizeof *c, &kind, arg);
    if (!c)
        return NULL;
    c->done = done;
    return &c->call;
}
