/* The session itself: GET and DELETE session, GET metadata. */
#include "session/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "session/answer_private.h"

struct about_call {
    struct session_call call;
    session_info_fn *info_fn;
    session_done_fn *done;
    session_value_fn *value_fn;
    struct session_info info;
    cJSON *value;
};

static void about_finish(struct session_call *c)
{
    struct about_call *k = (struct about_call *)c;
    bool well = !c->error.err;
    if (k->info_fn)
        k->info_fn(c->arg, &c->error, well ? &k->info : NULL);
    else if (k->value_fn)
        k->value_fn(c->arg, &c->error, well ? k->value : NULL);
    else
        k->done(c->arg, &c->error);
}

static void about_release(struct session_call *c)
{
    struct about_call *k = (struct about_call *)c;
    session_info_free(&k->info);
    cJSON_Delete(k->value);
}

/* These calls came with 2025-02-02-preview; where files speak an older version, the newest is
 * asked all the same. */
static void ask_about(struct session_call *c, const char *method, const char *what, step_fn *step)
{
    const struct session *s = c->session;
    struct http_request r = {.kind = HTTP_KIND_SESSION,
                             .method = method,
                             .retry = HTTP_RETRY_SAFE,
                             .deadline_ms = call_left(c)};
    wire_defaults(s, &r);
    call_send(c, &r, url_plain(s, what, s->shape.session ? NULL : "2025-10-02-preview"), step);
}

static void info_came(struct session_call *c, const struct answer *a)
{
    struct about_call *k = (struct about_call *)c;
    struct session *s = c->session;
    if (a && answer_session(a, &k->info, &c->error) == 0) {
        if (known_note(&s->etag, k->info.etag))
            session_new_allocation(s, &s->etag);
        s->expires = k->info.expires;
    }
    call_end(c);
}

static void info_begin(struct session_call *c)
{
    ask_about(c, "GET", "session", info_came);
}

static void deleted(struct session_call *c, const struct answer *a)
{
    struct session *s = c->session;
    if (a && answer_delete(a, &c->error) == -ENOENT)
        call_forget_error(c); /* gone already: what was wanted */
    if (!c->error.err) {
        s->tells_allocation = false; /* what answers next is new, and no news */
        session_new_allocation(s, NULL);
    }
    call_end(c);
}

static void delete_begin(struct session_call *c)
{
    ask_about(c, "DELETE", "session", deleted);
}

static void metadata_came(struct session_call *c, const struct answer *a)
{
    struct about_call *k = (struct about_call *)c;
    if (a)
        answer_document(a, &k->value, &c->error);
    call_end(c);
}

static void metadata_begin(struct session_call *c)
{
    ask_about(c, "GET", "metadata", metadata_came);
}

struct session_call *session_info(struct session *s, session_info_fn *fn, void *arg)
{
    static const struct call_kind kind = {info_begin, about_finish, about_release};
    struct about_call *k = call_new(s, sizeof *k, &kind, arg);
    if (!k)
        return NULL;
    k->info_fn = fn;
    return &k->call;
}

struct session_call *session_delete(struct session *s, session_done_fn *done, void *arg)
{
    static const struct call_kind kind = {delete_begin, about_finish, about_release};
    struct about_call *k = call_new(s, sizeof *k, &kind, arg);
    if (!k)
        return NULL;
    k->done = done;
    return &k->call;
}

struct session_call *session_metadata(struct session *s, session_value_fn *fn, void *arg)
{
    static const struct call_kind kind = {metadata_begin, about_finish, about_release};
    struct about_call *k = call_new(s, sizeof *k, &kind, arg);
    if (!k)
        return NULL;
    k->value_fn = fn;
    return &k->call;
}
