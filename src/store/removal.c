/* What the server still has under a name that is gone here: files that were deleted, what the
 * rename of a file left whose new content goes up under the new name alone, or an upload that was
 * broken off. It is deleted once the file that took its content is up, if it still is the version
 * that was known here; a listing that was asked a moment ago tells as well as a look at it.
 *
 *     WAITING ──its turn──▶ CHECKING ──as we knew it──▶ DELETING ──▶ gone
 *       ▲ ▲ │                  │ │ └─ another version, or none ────▶ gone, left to whoever made it
 *       │ │ └──seen just now───┼─┼────────────────────▶ DELETING ──▶ refused: it is shown again
 *       │ └────── failed ──────┴─┼────────────────────────┘
 *       └── many: listed anew ───┘
 *
 * A new file of that name goes up in its place, and then nothing is deleted. But a request to
 * delete it that was sent may be carried out whatever becomes of its answer: once there was one the
 * new file waits until the server says that the old one is gone. */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "store/fault.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    LISTED_FROM = 32,  /* one listing rather than a look at each of so many... */
    LISTED_SHARE = 64, /* ...unless it tells of so many more names */
    NAME_LIMIT = 255,
    KEY_LIMIT = sizeof(uint64_t) + NAME_LIMIT,
};

struct removal {
    struct removal *prev, *next; /* in the list: those that failed last */
    UT_hash_handle hh;
    struct store *store;
    struct inode *dir;      /* pinned */
    struct inode *after;    /* pinned, or NULL */
    char *name;             /* in `key` */
    struct version base;    /* what is to be deleted; unknown: whatever there is */
    int64_t seen_ms;        /* when the server was last asked what it is; 0: look */
    struct sending *sender; /* makes it at this moment */
    struct session_call *call;
    bool deleting;
    bool sent;   /* a request to delete it, that may be carried out yet */
    bool listed; /* a listing was asked for its sake, and did not show it yet */
    bool hidden; /* the file calls do not see it */
    unsigned tries;
    int error;
    int64_t due_ms, failed_ms;
    struct waitq waiting; /* until it is over or failed */
    char key[];
};

/* --- by name */

static size_t make_key(char key[KEY_LIMIT + 1], const struct inode *dir, const char *name)
{
    size_t len = strlen(name);
    len = len < NAME_LIMIT ? len : NAME_LIMIT; /* no name is longer */
    memcpy(key, &dir->id, sizeof dir->id);
    memcpy(key + sizeof dir->id, name, len);
    key[sizeof dir->id + len] = '\0';
    return sizeof dir->id + len;
}

struct removal *store_removal(const struct store *s, const struct inode *dir, const char *name)
{
    char key[KEY_LIMIT + 1];
    struct removal *r = NULL;
    if (s->removals.by_name) {
        size_t len = make_key(key, dir, name);
        HASH_FIND(hh, s->removals.by_name, key, len, r);
    }
    return r;
}

static struct removal *new_removal(struct store *s, struct inode *dir, const char *name)
{
    char key[KEY_LIMIT + 1];
    size_t len = make_key(key, dir, name);
    struct removal *r = calloc(1, sizeof *r + len + 1);
    if (!r)
        abort(); /* a file would be left on the server for ever */
    memcpy(r->key, key, len + 1);
    r->name = r->key + sizeof dir->id;
    r->store = s;
    r->dir = dir;
    inode_pin(dir);
    DL_APPEND(s->removals.list, r);
    HASH_ADD_KEYPTR(hh, s->removals.by_name, r->key, len, r);
    return r;
}

static void set_call(struct removal *r, struct session_call *call)
{
    r->store->removals.active += (call != NULL) - (r->call != NULL);
    r->call = call;
}

static void free_removal(struct removal *r)
{
    struct store *s = r->store;
    DL_DELETE(s->removals.list, r);
    HASH_DEL(s->removals.by_name, r);
    if (r->call)
        session_cancel(r->call);
    set_call(r, NULL);
    if (r->sender)
        sending_cancel(r->sender);
    waitq_wake(&s->wakeup, &r->waiting, 0);
    inode_unpin(&s->inodes, r->dir);
    if (r->after)
        inode_unpin(&s->inodes, r->after);
    free(r);
}

static bool path_of(const struct removal *r, struct buf *out)
{
    return inode_child_path(r->dir, r->name, out);
}

/* --- ends */

/* Barriers look again when the last of those under way is over: there may be many. */
static void tell_waiting(struct store *s)
{
    if (!s->removals.active || !s->removals.list)
        waitq_wake(&s->wakeup, &s->idle, 0);
    waitq_wake(&s->wakeup, &s->changed, 0);
    loop_timer_set(&s->pump, 0);
}

static void over(struct removal *r)
{
    struct store *s = r->store;
    _cleanup_buf_ struct buf path = {0};
    if (path_of(r, &path))
        store_record(s, RECORD_DONE, path.data, NULL, false);
    free_removal(r);
    tell_waiting(s);
}

/* A new file of that name that waits for this. */
static struct file *kept_waiting(const struct removal *r)
{
    const struct inode *inode = inode_child(r->dir, r->name);
    struct file *f = inode && S_ISREG(inode->mode) ? inode->file : NULL;
    return f && (f->send == SEND_QUEUED || f->send == SEND_RETRY) ? f : NULL;
}

static void failed(struct removal *r, int err, bool unsent)
{
    struct store *s = r->store;
    struct file *f = kept_waiting(r);
    r->sent = r->sent || (r->deleting && !unsent);
    r->deleting = false;
    r->error = err;
    r->failed_ms = clock_ms();
    r->due_ms = r->failed_ms + store_backoff_ms(++r->tries);
    DL_DELETE(s->removals.list, r);
    DL_APPEND(s->removals.list, r);
    if (err != -EHOSTUNREACH && err != -ETIMEDOUT) /* of which store_note_reach() tells once */
        log_warning("%s: it is still in the session: %s", r->name, strerror(-err));
    if (f)
        file_failed(f, err, NULL);
    store_note_reach(s, err);
    waitq_wake(&s->wakeup, &r->waiting, 0);
    tell_waiting(s);
}

/* Listings show what there is. */
static void refused(struct removal *r, const struct session_error *e)
{
    struct store *s = r->store;
    _cleanup_buf_ struct buf path = {0};
    path_of(r, &path);
    log_error("%s: the pool refuses to delete it: %s: it is shown again", path.data,
              e->message ? e->message : strerror(-e->err));
    s->removals.refusal = e->err;
    s->removals.told_ms = 0;
    over(r);
    store_invalidate(s);
}

static void went_wrong(struct removal *r, const struct session_error *e)
{
    if (store_is_refusal(e->err))
        refused(r, e);
    else
        failed(r, e->err, e->unsent);
}

static void deleted(void *arg, const struct session_error *e)
{
    struct removal *r = arg;
    struct store *s = r->store;
    set_call(r, NULL);
    if (e->err == -ENOENT && r->seen_ms && !r->hidden) {
        r->hidden = true; /* or gone: look */
        r->deleting = false;
        loop_timer_set(&s->pump, 0);
    } else if (e->err && e->err != -ENOENT) {
        went_wrong(r, e);
    } else {
        fault_point("removal-done");
        store_note_reach(s, 0);
        store_bury(s, r->dir, r->name);
        over(r);
    }
}

/* --- the way */

static void delete_it(struct removal *r, const char *path)
{
    fault_point("removal-begun");
    r->deleting = true;
    set_call(r, session_unlink(r->store->session, path, !r->hidden, deleted, r));
    if (!r->call)
        failed(r, -ENOMEM, true);
}

static void checked(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct removal *r = arg;
    struct store *s = r->store;
    set_call(r, NULL);
    if (e->err == -ENOENT) {
        over(r);
        return;
    }
    if (e->err) {
        went_wrong(r, e);
        return;
    }
    const struct version now = {.size = entry->size, .mtime = entry->mtime};
    if (entry->kind != ENTRY_FILE || !version_same(&r->base, &now)) {
        log_warning("%s: changed by somebody else since it was renamed or deleted here: it stays",
                    r->name);
        over(r);
        store_invalidate(s);
        return;
    }
    _cleanup_buf_ struct buf path = {0};
    r->seen_ms = clock_ms();
    if (path_of(r, &path))
        delete_it(r, path.data);
    else
        failed(r, -ENOMEM, true);
}

static bool seen_just_now(const struct removal *r)
{
    const struct store *s = r->store;
    return !r->hidden && r->seen_ms > s->stale_ms &&
           clock_ms() - r->seen_ms < s->options.attr_timeout_ms;
}

/* Waits for a listing to tell what a look at each of many would. */
static bool is_listed(struct removal *r)
{
    struct store *s = r->store;
    size_t count = HASH_COUNT(s->removals.by_name);
    if (!r->listed && !r->hidden && count >= LISTED_FROM && s->options.attr_timeout_ms)
        return r->listed = store_ask_names(s, r->dir, LISTED_SHARE * count);
    return false;
}

static void begin(struct removal *r)
{
    struct store *s = r->store;
    _cleanup_buf_ struct buf path = {0};
    if (!path_of(r, &path)) {
        over(r); /* its directory is gone */
        return;
    }
    if (seen_just_now(r)) {
        delete_it(r, path.data);
        return;
    }
    if (is_listed(r))
        return;
    set_call(r, session_stat(s->session, path.data, checked, r));
    if (!r->call)
        failed(r, -ENOMEM, true);
}

static bool waits_for_upload(const struct removal *r)
{
    return r->after && r->after->parent && store_file_dirty(r->after);
}

/* The next try's time: at once, and though the pool is away, for those that failed before somebody
 * asked. */
static int64_t due_ms(const struct removal *r)
{
    const struct store *s = r->store;
    int64_t asked = s->removals.hurried_ms;
    int64_t due = r->failed_ms && r->failed_ms <= asked ? s->settled_ms : r->due_ms;
    bool away = store_pool_away(s) && asked < s->away_ms;
    return away && due < s->away_until ? s->away_until : due;
}

int64_t store_removals_pump(struct store *s)
{
    struct removal *r, *next;
    int64_t now = clock_ms(), first = INT64_MAX;
    const struct inode *listing = NULL; /* the last one seen with a listing under way */
    if (s->intents)
        return first; /* where names are is not known yet */
    DL_FOREACH_SAFE (s->removals.list, r, next) {
        if (s->removals.active >= s->options.max_uploads)
            break;
        if (r->call || r->sender || (r->listed && r->dir == listing) || waits_for_upload(r) ||
            store_changing(s, r->dir))
            continue;
        int64_t due = due_ms(r);
        if (due > now)
            first = due < first ? due : first;
        else if (r->listed && store_names_awaited(s, r->dir))
            listing = r->dir;
        else
            begin(r);
    }
    return first;
}

void store_removal_listed(struct removal *r, const struct version *now, int64_t asked_ms)
{
    bool same = now && version_same(&r->base, now);
    r->seen_ms = same ? asked_ms : 0;
    r->listed = r->listed && !same;
}

void store_removal_sent(struct removal *r)
{
    r->sender = NULL;
    waitq_wake(&r->store->wakeup, &r->store->changed, 0);
    loop_timer_set(&r->store->pump, 0);
}

uint64_t store_remove_later(struct store *s, struct inode *dir, const char *name,
                            const struct version *base, int64_t seen_ms, struct inode *after,
                            struct sending *sender)
{
    _cleanup_buf_ struct buf path = {0}, after_path = {0};
    struct removal *r = store_removal(s, dir, name);
    if (!r) {
        r = new_removal(s, dir, name);
        r->base = *base;
        r->seen_ms = seen_ms;
        r->after = after;
        r->due_ms = s->settled_ms;
        r->sender = sender;
        if (sender)
            sending_for_removal(sender, r);
        if (after)
            inode_pin(after);
    } /* else its new file never went up */
    loop_timer_set(&s->pump, 0);
    if (!path_of(r, &path))
        return s->batches;
    if (r->after)
        inode_path(r->after,
                   &after_path); /* it may have lost its name: then nothing is waited for */
    return store_record_left(s, path.data, after_path.data, &r->base);
}

void store_removal_replace(struct store *s, struct removal *r, struct version *base)
{
    *base = r->base;
    if (r->deleting || r->sent || r->sender)
        return;
    free_removal(r);
    tell_waiting(s);
}

bool store_removal_in_way(struct store *s, const struct file *f)
{
    const struct inode *inode = f->inode;
    struct removal *r = inode->parent ? store_removal(s, inode->parent, inode->name) : NULL;
    if (r && f->hurried_ms > s->removals.hurried_ms)
        s->removals.hurried_ms = f->hurried_ms;
    return r != NULL;
}

/* --- those who wait */

static void hurry(struct store *s, int64_t since)
{
    if (since > s->removals.hurried_ms)
        s->removals.hurried_ms = since;
    loop_timer_set(&s->pump, 0);
}

/* One removal's part of a barrier: true while its outcome is open. */
static bool is_open(const struct removal *r, int64_t since, int *err)
{
    const struct store *s = r->store;
    struct file *f = waits_for_upload(r) ? r->after->file : NULL;
    int failure = f && f->failed_ms > since                      ? f->error
                  : r->error && !r->call && r->failed_ms > since ? r->error
                  : s->away && !r->call && s->away_ms > since    ? s->away
                                                                 : 0;
    if (failure)
        *err = *err ? *err : failure;
    else if (f)
        file_hurry(f);
    return !failure;
}

static int wait_for(struct removal *r, struct waiter *w)
{
    hurry(r->store, w->born);
    waitq_park(waits_for_upload(r) || r->sender ? &r->store->changed : &r->waiting, w);
    return STORE_WAIT;
}

int store_removal_wait(struct store *s, struct waiter *w, const struct inode *dir, const char *name)
{
    struct removal *r;
    int err = 0;
    waiter_take_error(w);
    if (name) {
        r = store_removal(s, dir, name);
        return r && is_open(r, w->born, &err) ? wait_for(r, w) : err;
    }
    DL_FOREACH (s->removals.list, r) {
        if (inode_below(r->dir, dir) && is_open(r, w->born, &err))
            return wait_for(r, w);
    }
    return err;
}

/* Told to the first barrier that began since, and to those that waited by then. */
static int refusal(struct store *s, int64_t since)
{
    struct removals *all = &s->removals;
    if (all->told_ms && since >= all->told_ms)
        return 0;
    if (all->refusal && !all->told_ms)
        all->told_ms = clock_ms();
    return all->refusal;
}

bool store_removals_left(struct store *s, int64_t since, int *err)
{
    struct removal *r;
    int failure = 0;
    DL_FOREACH (s->removals.list, r) {
        if (is_open(r, since, &failure)) {
            hurry(s, since);
            return true;
        }
    }
    if (!*err)
        *err = failure ? failure : refusal(s, since);
    return false;
}

bool store_removals_below(const struct store *s, const struct inode *inode)
{
    const struct removal *r;
    DL_FOREACH (s->removals.list, r) {
        if ((r->call || r->sender) && inode_below(r->dir, inode))
            return true;
    }
    return false;
}

/* --- status and journal */

size_t store_removals_count(const struct store *s)
{
    return HASH_COUNT(s->removals.by_name);
}

void store_each_removal(const struct store *s, void (*fn)(void *arg, const struct store_deletion *),
                        void *arg)
{
    const struct removal *r;
    DL_FOREACH (s->removals.list, r) {
        const struct store_deletion d = {
            .dir = r->dir, .name = r->name, .tries = r->tries, .err = r->error};
        fn(arg, &d);
    }
}

int store_removals_note(struct store *s, struct buf *frames)
{
    const struct removal *r;
    int err = 0;
    DL_FOREACH (s->removals.list, r) {
        _cleanup_buf_ struct buf path = {0}, after = {0};
        if (err || !path_of(r, &path))
            continue;
        if (r->after)
            inode_path(r->after, &after);
        const struct record record = {.type = RECORD_LEFT,
                                      .path = path.data,
                                      .other = after.data ? after.data : "",
                                      .facts.base = r->base};
        err = store_frame(frames, &record);
    }
    return err;
}

void store_removals_free(struct store *s)
{
    while (s->removals.list)
        free_removal(s->removals.list);
}
