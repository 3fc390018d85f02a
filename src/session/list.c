/* Listings: by GET files, page after page; by the helper where that can't name the directory,
 * and for what GET files leaves out. */
#include "session/answer_private.h"
#include "session/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"

enum { PAGES_MAX = 10000, ENTRIES_MAX = 1000000, HELPER_ENTRIES = 200000 };

struct list_call {
    struct session_call call;
    session_list_fn *fn;
    char *path;
    char *url; /* of the page on its way: nextLink must be of the same origin */
    bool recursive;
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

/* --- by the helper: {"entries": [...], "skipped": n} */

static void list_scanned(struct session_call *c, const cJSON *value)
{
    struct list_call *l = (struct list_call *)c;
    if (!value) {
        call_end(c);
        return;
    }
    const cJSON *entries = json_array(value, "entries");
    uint64_t skipped = 0;
    if (!entries)
        answer_nonsense(&c->error, "the helper's list has no entries in it");
    else if (answer_entries(entries, false, &l->listing))
        answer_no_memory(&c->error);
    if (json_uint(value, "skipped", &skipped))
        l->listing.skipped += skipped;
    call_end(c);
}

static void scan(struct session_call *c)
{
    struct list_call *l = (struct list_call *)c;
    listing_free(&l->listing);
    l->recursive = false;
    cJSON *request = helper_op("scan", l->path);
    cJSON_AddNumberToObject(request, "limit", HELPER_ENTRIES);
    call_ask(c, request, list_scanned);
}

static void hidden_begin(struct session_call *c)
{
    struct list_call *l = (struct list_call *)c;
    const struct session *s = c->session;
    l->recursive = true;
    cJSON *request = helper_op("hidden", NULL);
    cJSON_AddBoolToObject(request, "top_only", s->shape.old || s->subdirectories == PATH_BAD);
    cJSON_AddNumberToObject(request, "limit", HELPER_ENTRIES);
    call_ask(c, request, list_scanned);
}

/* --- by GET files */

static void ask_page(struct session_call *);

/* Moves the entries of one page to the whole. */
static int append(struct listing *all, struct listing *page)
{
    size_t count = all->count + page->count;
    if (count > ENTRIES_MAX)
        return -EFBIG;
    struct entry *longer = realloc(all->entries, (count + 1) * sizeof *longer);
    if (!longer)
        return -ENOMEM;
    if (page->count)
        memcpy(longer + all->count, page->entries, page->count * sizeof *longer);
    all->entries = longer;
    all->count = count;
    all->skipped += page->skipped;
    page->count = 0;
    return 0;
}

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
    else
        call_end(c);
}

static void ask_page(struct session_call *c)
{
    struct list_call *l = (struct list_call *)c;
    struct http_request r = {
        .method = "GET", .retry = HTTP_RETRY_SAFE, .deadline_ms = call_left(c)};
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
