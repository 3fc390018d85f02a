/* What one name in the session is now: GET files/{name}, and the helper for what that does not
 * see (symlinks) or can't name. */
#include "session/answer_private.h"
#include "session/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/json.h"

void call_stat(struct session_call *c, const char *path, step_fn *step)
{
    struct http_request r = {.kind = HTTP_KIND_STAT,
                             .method = "GET",
                             .retry = HTTP_RETRY_SAFE,
                             .deadline_ms = call_left(c)};
    wire_defaults(c->session, &r);
    call_send(c, &r, url_file(c->session, path, false), step);
}

struct stat_call {
    struct session_call call;
    session_entry_fn *fn;
    char *path;
    struct entry entry;
};

static void stat_finish(struct session_call *c)
{
    struct stat_call *k = (struct stat_call *)c;
    k->fn(c->arg, &c->error, c->error.err ? NULL : &k->entry);
}

static void stat_release(struct session_call *c)
{
    struct stat_call *k = (struct stat_call *)c;
    entry_free(&k->entry);
    free(k->path);
}

static void described(struct session_call *c, const cJSON *value)
{
    struct stat_call *k = (struct stat_call *)c;
    if (value && answer_one_entry(value, &k->entry))
        call_fail(c, -EPROTO, "the helper's word on a file is none");
    else
        call_end(c);
}

static void ask_helper(struct session_call *c)
{
    struct stat_call *k = (struct stat_call *)c;
    call_forget_error(c);
    call_ask(c, helper_op("stat", k->path), described);
}

static void told(struct session_call *c, const struct answer *a)
{
    struct stat_call *k = (struct stat_call *)c;
    if (a)
        answer_entry(a, &k->entry, &c->error);
    int err = c->error.err;
    if (err == -ENOENT || err == -EPROTO || (err && name_refused(c, k->path)))
        ask_helper(c);
    else
        call_end(c);
}

static void stat_begin(struct session_call *c)
{
    struct stat_call *k = (struct stat_call *)c;
    if (path_by_file_calls(c->session, k->path))
        call_stat(c, k->path, told);
    else
        ask_helper(c);
}

struct session_call *session_stat(struct session *s, const char *path, session_entry_fn *fn,
                                  void *arg)
{
    static const struct call_kind kind = {stat_begin, stat_finish, stat_release};
    struct stat_call *k = call_new(s, sizeof *k, &kind, arg);
    if (!k)
        return NULL;
    k->fn = fn;
    k->path = strdup(path);
    if (!k->path)
        k->call.error.err = -ENOMEM;
    else if (!*path || !path_ok(path))
        k->call.error.err = -EINVAL;
    return &k->call;
}
