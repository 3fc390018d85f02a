/* Listings: by GET files, page after page; by the helper where that can't name the directory,
 * and for what GET files leaves out. */
#include "session/answer_private.h"
#include "session/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"

enum { PAGES_MAX = 10000, ENTRIES_MAX = 1000000 };

struct list_call {
    struct session_call call;
    session_list_fn *fn;
    char *path;
    char *url; /* of the page on its way: nextLink must be of the same origin */
    bool recursive, hidden;
    struct listing listing;
    unsigned pages;
};

static void list_finish(struct session_call *c)
{
    struct list_call *l = (struct list_call *)c;
    const struct session_list_result result = {.listing = &l->listing, .recursive = l->recursive};
    l->fn(c->arg, &c->error, c->error.err ? NULL : &result);
}

static void list_release(struct session_call *c)
{
    struct list_call *l = (struct list_call *)c;
    listing_free(&l->listing);
    free(l->path);
    free(l->url);
}

/* Moves the entries of one page to the whole, but for the stage files of transfers under way. */
static int append(struct listing *all, struct listing *page)
{
    size_t count = all->count + page->count;
    if (count > ENTRIES_MAX)
        return -EFBIG;
    struct entry *longer = realloc(all->entries, (count + 1) * sizeof *longer);
    if (!longer)
        return -ENOMEM;
    all->entries = longer;
    for (size_t i = 0; i < page->count; i++) {
        if (is_stage_name(page->entries[i].name))
            entry_free(&page->entries[i]);
        else
            all->entries[all->count++] = page->entries[i];
    }
    all->skipped += page->skipped;
    all->placed = all->placed || page->placed;
    page->count = 0;
    return 0;
}

/* --- by the helper: {"entries": [...], "skipped": n, "after": where the next page begins} */

static void ask_helper(struct session_call *, const char *after);

static void list_told(struct session_call *c, const cJSON *value)
{
    struct list_call *l = (struct list_call *)c;
    if (!value) {
        call_end(c);
        return;
    }
    struct listing page = {0};
    const cJSON *entries = json_array(value, "entries");
    const char *after = json_string(value, "after");
    if (!entries) {
        call_fail(c, -EPROTO, "the helper's list has no entries in it");
        return;
    }
    int err = answer_entries(entries, false, &page);
    uint64_t skipped = 0;
    if (json_uint(value, "skipped", &skipped))
        page.skipped += skipped;
    if (!err)
        err = append(&l->listing, &page);
    listing_free(&page);
    if (err || (after && ++l->pages >= PAGES_MAX))
        call_fail(c, err ? err : -EFBIG, "the session's list of files is too long");
    else if (after)
        ask_helper(c, after);
    else
        call_end(c);
}

static void ask_helper(struct session_call *c, const char *after)
{
    const struct list_call *l = (struct list_call *)c;
    const struct session *s = c->session;
    cJSON *request = helper_op(l->hidden ? "hidden" : "scan", l->hidden ? NULL : l->path);
    cJSON_AddStringToObject(request, "after", after);
    if (l->hidden)
        cJSON_AddBoolToObject(request, "top_only", s->shape.old || s->subdirectories == PATH_BAD);
    call_ask(c, request, list_told);
}

static void scan(struct session_call *c)
{
    struct list_call *l = (struct list_call *)c;
    listing_free(&l->listing);
    l->recursive = false;
    l->pages = 0;
    ask_helper(c, "");
}

static void hidden_begin(struct session_call *c)
{
    ((struct list_call *)c)->hidden = true;
    ask_helper(c, "");
}

/* --- by GET files */

static void ask_page(struct session_call *);

/* What a listing of one directory holds lies in it, however the server words that. */
static int flatten(struct listing *page)
{
    for (size_t i = 0; i < page->count; i++) {
        char *here = strdup("");
        if (!here)
            return -ENOMEM;
        free(page->entries[i].directory);
        page->entries[i].directory = here;
    }
    return 0;
}

/* A server that does not know recursive=true gives the top alone, and has no `directory` for its
 * entries: then nothing tells what the directories hold. */
static bool is_flat(const struct listing *l)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->entries[i].kind == ENTRY_DIRECTORY)
            return !l->placed;
    return false;
}

static void page_came(struct session_call *c, const struct answer *a)
{
    struct list_call *l = (struct list_call *)c;
    struct listing page = {0};
    if (a)
        answer_list(a, l->url, &page, &c->error);
    if (c->error.err) {
        listing_free(&page);
        if (name_refused(c, l->path) || (*l->path && name_refused(c, "x/x")))
            scan(c);
        else
            call_end(c);
        return;
    }
    int err = l->recursive ? 0 : flatten(&page);
    err = err ? err : append(&l->listing, &page);
    free(l->url);
    l->url = page.next;
    page.next = NULL;
    listing_free(&page);
    if (err || (l->url && ++l->pages >= PAGES_MAX))
        call_fail(c, err ? err : -EFBIG, "the pool's list of files is too long");
    else if (l->url)
        ask_page(c);
    else {
        l->recursive = l->recursive && !is_flat(&l->listing);
        call_end(c);
    }
}

static void ask_page(struct session_call *c)
{
    struct list_call *l = (struct list_call *)c;
    struct http_request r = {.kind = HTTP_KIND_LIST,
                             .method = "GET",
                             .retry = HTTP_RETRY_SAFE,
                             .deadline_ms = call_left(c)};
    wire_defaults(c->session, &r);
    call_send(c, &r, l->url ? strdup(l->url) : NULL, page_came);
}

static void list_begin(struct session_call *c)
{
    struct list_call *l = (struct list_call *)c;
    const struct session *s = c->session;
    /* The old listing tells files only: a directory that it leaves out is not gone. */
    if (s->shape.old || !directory_plain(s, l->path)) {
        scan(c);
        return;
    }
    l->recursive = l->recursive && s->shape.recursive;
    l->url = url_list(s, l->path, l->recursive);
    ask_page(c);
}

static struct session_call *new_list(struct session *s, const struct call_kind *kind,
                                     const char *path, bool recursive, session_list_fn *fn,
                                     void *arg)
{
    struct list_call *l = call_new(s, sizeof *l, kind, arg);
    if (!l)
        return NULL;
    l->fn = fn;
    l->recursive = recursive;
    l->path = strdup(path);
    if (!l->path)
        l->call.error.err = -ENOMEM;
    return &l->call;
}

struct session_call *session_list(struct session *s, const char *path, bool recursive,
                                  session_list_fn *fn, void *arg)
{
    static const struct call_kind kind = {list_begin, list_finish, list_release};
    return new_list(s, &kind, path, recursive, fn, arg);
}

struct session_call *session_list_hidden(struct session *s, session_list_fn *fn, void *arg)
{
    static const struct call_kind kind = {hidden_begin, list_finish, list_release};
    return new_list(s, &kind, "", true, fn, arg);
}
