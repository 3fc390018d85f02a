/* What a pool tells of its sessions, without touching one: the list, and whether there is one of
 * that identifier; and what is done to one by its identifier alone. */
#include "session/answer_private.h"
#include "session/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "util/cleanup.h"

enum { PAGES_MAX = 1000, NAMES_MAX = 250000 };

/* The calls for it, newest first. What one pool knows another answers with 400 or 404. */
static const struct form {
    const char *method, *list, *find, *end_method, *end, *version;
} forms[] = {
    {"GET", "listSessions", "session", "DELETE", "session", "2025-10-02-preview"},
    {"GET", "listSessions", "session", "DELETE", "session", "2025-02-02-preview"},
    {"POST", ".management/listSessions", ".management/getSession", "POST",
     ".management/stopSession", "2025-02-02-preview"},
};
enum { FORMS = sizeof forms / sizeof *forms };

/* Those between them list files as their neighbours do. */
static const char *const file_versions[] = {"2025-10-02-preview", "2024-10-02-preview",
                                            "2024-02-02-preview"};

struct known_name {
    UT_hash_handle hh;
    char name[];
};

struct sessions_call {
    struct session_call call;
    session_names_fn *names_fn;
    session_info_fn *info_fn;
    session_done_fn *done;
    char *identifier; /* find, end */
    unsigned form;
    char *url; /* list: of the page on its way */
    struct known_name *known;
    struct session_names names;
    uint64_t listed; /* entries so far, hidden ones too */
    unsigned pages;
    struct session_info info;
};

static void forget_names(struct sessions_call *k)
{
    struct known_name *n, *next;
    HASH_ITER (hh, k->known, n, next) {
        HASH_DEL(k->known, n);
        free(n);
    }
    session_names_free(&k->names);
    k->listed = 0;
    k->pages = 0;
}

static void release(struct session_call *c)
{
    struct sessions_call *k = (struct sessions_call *)c;
    forget_names(k);
    session_info_free(&k->info);
    free(k->identifier);
    free(k->url);
}

/* Whether the pool has no such call, in this form. */
static bool form_unknown(const struct session_error *e)
{
    if (e->err == -ENOENT && e->code && strcasestr(e->code, "session"))
        return false; /* no such session, by name */
    return e->hint == HINT_OTHER_VERSION || e->hint == HINT_OTHER_SHAPE || e->status == 400 ||
           e->status == 403 || e->status == 404 || e->status == 405 || e->status == 501;
}

/* Tries the next form after an error, where there is one; else ends. */
static void next_form(struct session_call *c, void (*ask)(struct session_call *))
{
    struct sessions_call *k = (struct sessions_call *)c;
    if (!form_unknown(&c->error)) {
        call_end(c);
    } else if (k->form + 1 < FORMS) {
        k->form++;
        ask(c);
    } else if (c->error.status == 403) {
        call_end(c);
    } else {
        call_fail(c, -EOPNOTSUPP, "the pool has no such call");
    }
}

static void send_form(struct session_call *c, const char *method, const char *url, step_fn *step)
{
    bool post = method[0] == 'P';
    struct http_request r = {.kind = HTTP_KIND_SESSION,
                             .method = method,
                             .retry = HTTP_RETRY_SAFE,
                             .deadline_ms = call_left(c),
                             .body = post ? HTTP_BODY_BYTES : HTTP_BODY_NONE,
                             .content_type = post ? "application/json" : NULL,
                             .data = "{}",
                             .len = post ? 2 : 0};
    wire_defaults(c->session, &r);
    call_send(c, &r, url ? strdup(url) : NULL, step);
}

/* --- the list */

static void ask_page(struct session_call *);

static int add_name(struct sessions_call *k, const char *name, bool *fresh)
{
    size_t len = strlen(name);
    struct known_name *n;
    HASH_FIND(hh, k->known, name, len, n);
    if (n)
        return 0;
    if (k->names.count >= NAMES_MAX)
        return -EFBIG;
    char **longer = realloc(k->names.names, (k->names.count + 1) * sizeof *longer);
    if (!longer)
        return -ENOMEM;
    k->names.names = longer;
    if (!(n = calloc(1, sizeof *n + len + 1)))
        return -ENOMEM;
    memcpy(n->name, name, len);
    if (!(longer[k->names.count] = strdup(name))) {
        free(n);
        return -ENOMEM;
    }
    HASH_ADD(hh, k->known, name, len, n);
    k->names.count++;
    *fresh = true;
    return 0;
}

/* A page that has nothing new ends the list, whatever it says of others that follow. */
static int take_page(struct sessions_call *k, const struct session_names *page, bool *fresh)
{
    int err = 0;
    for (size_t i = 0; i < page->count && !err; i++)
        err = add_name(k, page->names[i], fresh);
    k->names.hidden += page->hidden;
    k->listed += page->count + page->hidden;
    return err;
}

static char *page_url(const struct sessions_call *k)
{
    const struct form *f = &forms[k->form];
    return url_pool(k->call.session, f->list, f->version, NULL, k->listed);
}

static void page_came(struct session_call *c, const struct answer *a)
{
    struct sessions_call *k = (struct sessions_call *)c;
    struct session_names page = {0};
    if (a)
        answer_sessions(a, k->url, &page, &c->error);
    if (c->error.err) {
        if (k->pages)
            call_end(c);
        else
            next_form(c, ask_page);
        return;
    }
    bool fresh = false;
    int err = take_page(k, &page, &fresh);
    free(k->url);
    k->url = page.next;
    page.next = NULL;
    bool more = page.more && fresh;
    session_names_free(&page);
    if (err || (more && ++k->pages >= PAGES_MAX))
        call_fail(c, err ? err : -EFBIG, "the pool's list of sessions is too long");
    else if (more)
        ask_page(c);
    else
        call_end(c);
}

static void ask_page(struct session_call *c)
{
    struct sessions_call *k = (struct sessions_call *)c;
    if (!k->pages) {
        free(k->url);
        k->url = NULL;
    }
    if (!k->url)
        k->url = page_url(k);
    send_form(c, forms[k->form].method, k->url, page_came);
}

static void list_finish(struct session_call *c)
{
    struct sessions_call *k = (struct sessions_call *)c;
    if (!c->error.err)
        c->session->sessions_form = k->form;
    k->names_fn(c->arg, &c->error, c->error.err ? NULL : &k->names);
}

struct session_call *session_sessions(struct session *s, session_names_fn *fn, void *arg)
{
    static const struct call_kind kind = {ask_page, list_finish, release};
    struct sessions_call *k = call_new(s, sizeof *k, &kind, arg);
    if (!k)
        return NULL;
    k->names_fn = fn;
    k->call.pool = true;
    k->form = s->sessions_form;
    return &k->call;
}

/* --- one of them */

static void ask_find(struct session_call *);

static void found(struct session_call *c, const struct answer *a)
{
    struct sessions_call *k = (struct sessions_call *)c;
    if (a)
        answer_session(a, &k->info, &c->error);
    if (c->error.err)
        next_form(c, ask_find);
    else
        call_end(c);
}

static void ask_find(struct session_call *c)
{
    struct sessions_call *k = (struct sessions_call *)c;
    const struct form *f = &forms[k->form];
    _cleanup_free_ char *url = url_pool(c->session, f->find, f->version, k->identifier, 0);
    send_form(c, f->method, url, found);
}

static void find_finish(struct session_call *c)
{
    struct sessions_call *k = (struct sessions_call *)c;
    k->info_fn(c->arg, &c->error, c->error.err ? NULL : &k->info);
}

struct session_call *session_find(struct session *s, const char *identifier, session_info_fn *fn,
                                  void *arg)
{
    static const struct call_kind kind = {ask_find, find_finish, release};
    struct sessions_call *k = call_new(s, sizeof *k, &kind, arg);
    if (!k)
        return NULL;
    k->info_fn = fn;
    k->call.pool = true;
    k->form = s->sessions_form;
    if (!(k->identifier = strdup(identifier)))
        k->call.error.err = -ENOMEM;
    return &k->call;
}

/* --- the end of one */

static void ask_end(struct session_call *);

static void ended(struct session_call *c, const struct answer *a)
{
    if (a)
        answer_delete(a, &c->error);
    if (c->error.err)
        next_form(c, ask_end);
    else
        call_end(c);
}

static void ask_end(struct session_call *c)
{
    struct sessions_call *k = (struct sessions_call *)c;
    const struct form *f = &forms[k->form];
    _cleanup_free_ char *url = url_pool(c->session, f->end, f->version, k->identifier, 0);
    send_form(c, f->end_method, url, ended);
}

static void end_finish(struct session_call *c)
{
    ((struct sessions_call *)c)->done(c->arg, &c->error);
}

struct session_call *session_end(struct session *s, const char *identifier, session_done_fn *done,
                                 void *arg)
{
    static const struct call_kind kind = {ask_end, end_finish, release};
    struct sessions_call *k = call_new(s, sizeof *k, &kind, arg);
    if (!k)
        return NULL;
    k->done = done;
    k->call.pool = true;
    k->form = s->sessions_form;
    if (!(k->identifier = strdup(identifier)))
        k->call.error.err = -ENOMEM;
    return &k->call;
}

/* --- use of one */

static void ask_touch(struct session_call *);

/* What is in the list says nothing here. */
static void touched(struct session_call *c, const struct answer *a)
{
    struct sessions_call *k = (struct sessions_call *)c;
    bool last = k->form + 1 == sizeof file_versions / sizeof *file_versions;
    if (a)
        answer_error(a, &c->error);
    if (!c->error.err || last || !form_unknown(&c->error)) {
        call_end(c);
        return;
    }
    k->form++;
    ask_touch(c);
}

static void ask_touch(struct session_call *c)
{
    struct sessions_call *k = (struct sessions_call *)c;
    _cleanup_free_ char *url =
        url_pool(c->session, "files", file_versions[k->form], k->identifier, 0);
    send_form(c, "GET", url, touched);
}

struct session_call *session_touch(struct session *s, const char *identifier, session_done_fn *done,
                                   void *arg)
{
    static const struct call_kind kind = {ask_touch, end_finish, release};
    struct sessions_call *k = call_new(s, sizeof *k, &kind, arg);
    if (!k)
        return NULL;
    k->done = done;
    k->call.pool = true;
    if (!(k->identifier = strdup(identifier)))
        k->call.error.err = -ENOMEM;
    return &k->call;
}
