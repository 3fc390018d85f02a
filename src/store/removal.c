/* What the server still has under a name that is gone here: left by the rename of a file whose
 * new content goes up under the new name alone, or by an upload that was broken off. It is deleted
 * once the file that took its content is up, if it still is the version that was known here.
 *
 *     WAITING ──its turn──▶ CHECKING ──as we knew it──▶ DELETING ──▶ gone
 *        ▲                     │ └─ another version, or none ──────▶ gone, left to whoever made it
 *        └───── failed ────────┴──────────────────────────┘
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "store/fault.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

struct removal {
    struct removal *prev, *next;
    struct store *store;
    struct inode *dir;   /* pinned */
    struct inode *after; /* pinned, or NULL */
    char *name;
    struct version base;    /* what is to be deleted; unknown: whatever there is */
    struct sending *sender; /* makes it at this moment */
    struct session_call *call;
    bool deleting;
    unsigned tries;
    int error;
    int64_t due_ms, failed_ms;
};

static void free_removal(struct removal *r)
{
    struct store *s = r->store;
    DL_DELETE(s->removals, r);
    if (r->call)
        session_cancel(r->call);
    if (r->sender)
        sending_cancel(r->sender);
    inode_unpin(&s->inodes, r->dir);
    if (r->after)
        inode_unpin(&s->inodes, r->after);
    free(r->name);
    free(r);
}

static bool path_of(const struct removal *r, struct buf *out)
{
    return inode_child_path(r->dir, r->name, out);
}

static void over(struct removal *r)
{
    struct store *s = r->store;
    _cleanup_buf_ struct buf path = {0};
    if (path_of(r, &path))
        store_record(s, RECORD_DONE, path.data, NULL, false);
    free_removal(r);
    waitq_wake(&s->wakeup, &s->idle, 0);
    waitq_wake(&s->wakeup, &s->changed, 0);
}

static void failed(struct removal *r, int err)
{
    struct store *s = r->store;
    r->deleting = false;
    r->error = err;
    r->failed_ms = clock_ms();
    r->due_ms = r->failed_ms + store_backoff_ms(++r->tries);
    log_warning("%s: its old copy is still in the session: %s", r->name, strerror(-err));
    store_note_reach(s, err);
    waitq_wake(&s->wakeup, &s->idle, 0);
    waitq_wake(&s->wakeup, &s->changed, 0);
    loop_timer_set(&s->pump, 0);
}

static void deleted(void *arg, const struct session_error *e)
{
    struct removal *r = arg;
    r->call = NULL;
    if (e->err && e->err != -ENOENT) {
        failed(r, e->err);
        return;
    }
    fault_point("removal-done");
    store_bury(r->store, r->dir, r->name);
    over(r);
}

static void checked(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct removal *r = arg;
    struct store *s = r->store;
    r->call = NULL;
    if (e->err == -ENOENT) {
        over(r);
        return;
    }
    if (e->err) {
        failed(r, e->err);
        return;
    }
    const struct version now = {.size = entry->size, .mtime = entry->mtime};
    if (entry->kind != ENTRY_FILE || !version_same(&r->base, &now)) {
        log_warning("%s: changed by somebody else since it was renamed here: it stays", r->name);
        over(r);
        return;
    }
    _cleanup_buf_ struct buf path = {0};
    r->deleting = true;
    r->call = path_of(r, &path) ? session_unlink(s->session, path.data, deleted, r) : NULL;
    if (!r->call)
        failed(r, -ENOMEM);
}

static void begin(struct removal *r)
{
    struct store *s = r->store;
    _cleanup_buf_ struct buf path = {0};
    if (!path_of(r, &path)) {
        over(r); /* its directory is gone */
        return;
    }
    r->call = session_stat(s->session, path.data, checked, r);
    if (!r->call)
        failed(r, -ENOMEM);
}

static bool waits_for_upload(const struct removal *r)
{
    return r->after && r->after->parent && store_file_dirty(r->after);
}

void store_removals_pump(struct store *s)
{
    struct removal *r, *next;
    int64_t now = clock_ms();
    DL_FOREACH_SAFE (s->removals, r, next) {
        if (r->call || r->sender || waits_for_upload(r) || store_changing(s, r->dir))
            continue;
        if (r->due_ms <= now && !store_pool_away(s))
            begin(r);
        else if (!loop_timer_is_set(&s->pump))
            loop_timer_set(&s->pump, r->due_ms > now ? r->due_ms - now : s->away_until - now);
    }
}

void store_removal_sent(struct removal *r)
{
    r->sender = NULL;
    waitq_wake(&r->store->wakeup, &r->store->changed, 0);
    loop_timer_set(&r->store->pump, 0);
}

struct removal *store_removal(const struct store *s, const struct inode *dir, const char *name)
{
    struct removal *r;
    DL_FOREACH (s->removals, r) {
        if (r->dir == dir && strcmp(r->name, name) == 0)
            return r;
    }
    return NULL;
}

uint64_t store_remove_later(struct store *s, struct inode *dir, const char *name,
                            const struct version *base, struct inode *after, struct sending *sender)
{
    struct removal *r = calloc(1, sizeof *r);
    if (!r || !(r->name = strdup(name)))
        abort(); /* a file would be left on the server for ever */
    r->store = s;
    r->dir = dir;
    r->after = after;
    r->base = *base;
    r->due_ms = s->settled_ms;
    r->sender = sender;
    if (sender)
        sending_for_removal(sender, r);
    inode_pin(dir);
    if (after)
        inode_pin(after);
    DL_APPEND(s->removals, r);
    loop_timer_set(&s->pump, 0);
    _cleanup_buf_ struct buf path = {0}, after_path = {0};
    if (!path_of(r, &path) || (after && !inode_path(after, &after_path)))
        return s->batches;
    return store_record_left(s, path.data, after_path.data, base);
}

void store_removal_drop(struct store *s, struct removal *r, struct version *base)
{
    *base = r->base;
    free_removal(r);
    waitq_wake(&s->wakeup, &s->idle, 0);
    waitq_wake(&s->wakeup, &s->changed, 0);
}

bool store_removal_busy(const struct removal *r)
{
    return r->deleting || r->sender;
}

/* One removal's part of a barrier: true while its outcome is open. */
static bool settle(struct removal *r, int64_t since, int *err)
{
    const struct file *f = waits_for_upload(r) ? r->after->file : NULL;
    int failure = f && f->failed_ms > since                      ? f->error
                  : r->error && !r->call && r->failed_ms > since ? r->error
                                                                 : 0;
    if (failure) {
        *err = *err ? *err : failure;
        return false;
    }
    if (f)
        file_hurry(r->after->file);
    r->due_ms = r->store->settled_ms;
    loop_timer_set(&r->store->pump, 0);
    return true;
}

int store_removal_wait(struct store *s, struct waiter *w, const struct inode *dir, const char *name)
{
    struct removal *r;
    int err = 0;
    bool busy = false;
    waiter_take_error(w);
    DL_FOREACH (s->removals, r) {
        if (name ? r->dir == dir && strcmp(r->name, name) == 0 : inode_below(r->dir, dir))
            busy = settle(r, w->born, &err) || busy;
    }
    if (!busy)
        return err;
    waitq_park(&s->changed, w);
    return STORE_WAIT;
}

bool store_removals_left(struct store *s, int64_t since, int *err)
{
    struct removal *r;
    bool left = false;
    DL_FOREACH (s->removals, r) {
        left = settle(r, since, err) || left;
    }
    return left;
}

bool store_removals_below(const struct store *s, const struct inode *inode)
{
    const struct removal *r;
    DL_FOREACH (s->removals, r) {
        if ((r->call || r->sender) && inode_below(r->dir, inode))
            return true;
    }
    return false;
}

size_t store_removals_count(const struct store *s)
{
    const struct removal *r;
    size_t count;
    DL_COUNT(s->removals, r, count);
    return count;
}

int store_removals_note(struct store *s, struct buf *frames)
{
    const struct removal *r;
    int err = 0;
    DL_FOREACH (s->removals, r) {
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
    while (s->removals)
        free_removal(s->removals);
}
