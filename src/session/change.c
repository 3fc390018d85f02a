/* Changes of names, space, and any other operation of the helper. */
#include "session/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/json.h"

cJSON *helper_op(const char *op, const char *path)
{
    cJSON *request = cJSON_CreateObject();
    cJSON_AddStringToObject(request, "op", op);
    if (path)
        cJSON_AddStringToObject(request, "path", path);
    return request;
}

/* A call whose whole work is one request to the helper. */
struct ask_call {
    struct session_call call;
    cJSON *request;
    cJSON *value; /* a copy of the answer */
    session_done_fn *done;
    session_value_fn *value_fn;
    session_space_fn *space_fn;
    char *path; /* unlink */
    bool seen;  /* it was a file a moment ago... */
    bool told;  /* ...says the caller */
};

static void ask_finish(struct session_call *c)
{
    struct ask_call *k = (struct ask_call *)c;
    const cJSON *value = c->error.err ? NULL : k->value;
    if (k->done) {
        k->done(c->arg, &c->error);
    } else if (k->value_fn) {
        k->value_fn(c->arg, &c->error, value);
    } else {
        struct session_space space = {0};
        json_uint(value, "total", &space.total);
        json_uint(value, "free", &space.free);
        k->space_fn(c->arg, &c->error, value ? &space : NULL);
    }
}

static void ask_release(struct session_call *c)
{
    struct ask_call *k = (struct ask_call *)c;
    cJSON_Delete(k->request);
    cJSON_Delete(k->value);
    free(k->path);
}

static void ask_told(struct session_call *c, const cJSON *value)
{
    struct ask_call *k = (struct ask_call *)c;
    if (value && !k->done && !(k->value = cJSON_Duplicate(value, true)))
        c->error.err = -ENOMEM;
    call_end(c);
}

static void ask_begin(struct session_call *c)
{
    struct ask_call *k = (struct ask_call *)c;
    cJSON *request = k->request;
    k->request = NULL;
    call_ask(c, request, ask_told);
}

static struct ask_call *new_ask(struct session *s, cJSON *request, void *arg)
{
    static const struct call_kind kind = {ask_begin, ask_finish, ask_release};
    struct ask_call *k = request ? call_new(s, sizeof *k, &kind, arg) : NULL;
    if (!k) {
        cJSON_Delete(request);
        return NULL;
    }
    k->request = request;
    return k;
}

static struct session_call *ask_done(struct session *s, cJSON *request, session_done_fn *done,
                                     void *arg)
{
    struct ask_call *k = new_ask(s, request, arg);
    if (!k)
        return NULL;
    k->done = done;
    return &k->call;
}

struct session_call *session_helper(struct session *s, cJSON *request, session_value_fn *fn,
                                    void *arg)
{
    struct ask_call *k = new_ask(s, request, arg);
    if (!k)
        return NULL;
    k->value_fn = fn;
    return &k->call;
}

struct session_call *session_space(struct session *s, session_space_fn *fn, void *arg)
{
    struct ask_call *k = new_ask(s, helper_op("space", NULL), arg);
    if (!k)
        return NULL;
    k->space_fn = fn;
    return &k->call;
}

struct session_call *session_mkdir(struct session *s, const char *path, unsigned mode,
                                   session_done_fn *done, void *arg)
{
    cJSON *request = helper_op("mkdir", path);
    cJSON_AddNumberToObject(request, "mode", mode);
    return ask_done(s, request, done, arg);
}

struct session_call *session_rmdir(struct session *s, const char *path, session_done_fn *done,
                                   void *arg)
{
    return ask_done(s, helper_op("rmdir", path), done, arg);
}

struct session_call *session_rename(struct session *s, const char *from, const char *to,
                                    enum session_rename how, session_done_fn *done, void *arg)
{
    static const char *const words[] = {"plain", "keep", "swap"};
    cJSON *request = helper_op("rename", NULL);
    cJSON_AddStringToObject(request, "from", from);
    cJSON_AddStringToObject(request, "to", to);
    cJSON_AddStringToObject(request, "how", words[how]);
    return ask_done(s, request, done, arg);
}

struct session_call *session_symlink(struct session *s, const char *target, const char *path,
                                     session_done_fn *done, void *arg)
{
    cJSON *request = helper_op("symlink", path);
    cJSON_AddStringToObject(request, "target", target);
    return ask_done(s, request, done, arg);
}

/* --- unlink: DELETE files/{name}, and the helper for what that does not see (symlinks) or can't
 * name. In subdirectories only once `path` is known to be understood: a server that ignores it
 * would delete the file of that name at the top.
 *
 * DELETE takes directories too, some servers with all that is in them. So what the name is now is
 * asked first, unless the caller knows; the old shape has no word for it, and its servers delete
 * empty ones at most. */

static void by_helper(struct session_call *c)
{
    call_forget_error(c);
    ask_begin(c);
}

/* No file, says the server, or not now: the helper's error is the true one. */
static bool helper_knows_better(const struct session_call *c, const char *path)
{
    int err = c->error.err;
    return err == -ENOENT || err == -EBUSY || (err && name_refused(c, path));
}

static void unlinked(struct session_call *c, const struct answer *a)
{
    struct ask_call *k = (struct ask_call *)c;
    if (a)
        answer_delete(a, &c->error);
    bool gone = k->seen && c->error.err == -ENOENT;
    if (gone && !k->told)
        call_forget_error(c); /* by an earlier try, whose answer was lost */
    if (!gone && helper_knows_better(c, k->path))
        by_helper(c);
    else
        call_end(c);
}

static void delete_file(struct session_call *c)
{
    struct ask_call *k = (struct ask_call *)c;
    struct http_request r = {.kind = HTTP_KIND_DELETE,
                             .method = "DELETE",
                             .retry = HTTP_RETRY_SAFE,
                             .deadline_ms = call_left(c)};
    wire_defaults(c->session, &r);
    call_send(c, &r, url_file(c->session, k->path, false), unlinked);
}

static void kind_told(struct session_call *c, const struct answer *a)
{
    struct ask_call *k = (struct ask_call *)c;
    struct entry entry = {0};
    if (a)
        answer_entry(a, &entry, &c->error);
    k->seen = !c->error.err && entry.kind == ENTRY_FILE;
    entry_free(&entry);
    if (k->seen)
        delete_file(c);
    else if (!c->error.err || c->error.err == -EPROTO || helper_knows_better(c, k->path))
        by_helper(c);
    else
        call_end(c);
}

static void unlink_begin(struct session_call *c)
{
    struct ask_call *k = (struct ask_call *)c;
    struct session *s = c->session;
    if (!path_by_file_calls(s, k->path))
        ask_begin(c);
    else if (k->seen || s->shape.old)
        delete_file(c);
    else
        call_stat(c, k->path, kind_told);
}

struct session_call *session_unlink(struct session *s, const char *path, bool seen,
                                    session_done_fn *done, void *arg)
{
    static const struct call_kind kind = {unlink_begin, ask_finish, ask_release};
    struct ask_call *k = call_new(s, sizeof *k, &kind, arg);
    if (!k)
        return NULL;
    k->done = done;
    k->seen = k->told = seen;
    k->path = strdup(path);
    k->request = helper_op("unlink", path);
    if (!k->path || !k->request)
        k->call.error.err = -ENOMEM;
    else if (!*path || !path_ok(path))
        k->call.error.err = -EINVAL;
    return &k->call;
}
