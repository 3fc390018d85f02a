/* Sending: what was written here goes to the server, a moment after it was closed and kept, so
 * that a file that is renamed into place goes up once. See enum send_state. Before content takes
 * the place of a version on the server that version is looked at: it must be the one that was here
 * last. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "store/fault.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    DELAY_MS = 25,         /* from close to upload: a rename mostly comes at once */
    RETRY_MS = 1000,       /* after the first failure; twice as long after each more */
    RETRY_MOST_MS = 30000, /* but no longer */
};

/* An upload under way. Its file may be renamed or deleted meanwhile: then it goes on for the
 * removal of what it makes, for a request that was broken off may still be carried out later. */
struct sending {
    struct file *file;       /* or NULL */
    struct removal *removal; /* or NULL */
    struct session_call *call;
    int fd; /* its own: the content may be put away */
    uint64_t size;
};

/* --- states */

static bool is_active(enum send_state state)
{
    return state == SEND_CHECKING || state == SEND_COMPARING || state == SEND_TELLING ||
           state == SEND_SENDING;
}

static void set_state(struct file *f, enum send_state state)
{
    struct store *s = f->store;
    if (f->send == SEND_NONE && state != SEND_NONE)
        DL_APPEND2(s->outbox, f, out_prev, out_next);
    if (f->send != SEND_NONE && state == SEND_NONE)
        DL_DELETE2(s->outbox, f, out_prev, out_next);
    s->sending += is_active(state);
    s->sending -= is_active(f->send);
    f->send = state;
}

/* What waits for the outcome looks again. */
static void tell_waiting(struct file *f, int err)
{
    struct store *s = f->store;
    waitq_wake(&s->wakeup, &f->flushing, err);
    waitq_wake(&s->wakeup, &s->idle, 0);
    waitq_wake(&s->wakeup, &s->changed, 0);
    loop_timer_set(&s->pump, 0);
}

static void end_call(struct file *f)
{
    if (f->call)
        session_cancel(f->call);
    f->call = NULL;
    waiter_leave(&f->telling);
    if (f->call_fd >= 0)
        close(f->call_fd);
    f->call_fd = -1;
}

static void free_sending(struct sending *k)
{
    if (k->file)
        k->file->sender = NULL;
    if (k->call)
        session_cancel(k->call);
    if (k->fd >= 0)
        close(k->fd);
    free(k);
}

void sending_cancel(struct sending *k)
{
    free_sending(k);
}

void sending_for_removal(struct sending *k, struct removal *r)
{
    k->removal = r;
}

bool store_pool_away(const struct store *s)
{
    return s->away && clock_ms() < s->away_until;
}

int64_t store_backoff_ms(unsigned tries)
{
    int64_t ms = RETRY_MS;
    while (tries-- > 1 && ms < RETRY_MOST_MS)
        ms *= 2;
    return ms < RETRY_MOST_MS ? ms : RETRY_MOST_MS;
}

/* Another try would end the same way, until the content or the name changes. */
static bool is_final(int err)
{
    switch (err) {
    case -EFBIG:
    case -EINVAL:
    case -ENAMETOOLONG:
    case -EISDIR:
    case -ENOTDIR:
    case -EILSEQ:
        return true;
    default:
        return false;
    }
}

/* Or until somebody changes what the pool allows. */
bool store_is_refusal(int err)
{
    return is_final(err) || err == -EACCES || err == -EPERM;
}

void file_failed(struct file *f, int err, const char *message)
{
    const char *cause = message ? message : strerror(-err);
    bool refused = store_is_refusal(err);
    f->tries++;
    f->error = err;
    f->failed_ms = clock_ms();
    f->due_ms = is_final(err) ? INT64_MAX : f->failed_ms + store_backoff_ms(f->tries);
    set_state(f, refused ? SEND_FAILED : SEND_RETRY);
    if (refused)
        log_error("%s: the pool refuses it: %s: its content is kept here (acafs status)",
                  f->inode->name, cause);
    else
        log_warning("%s: not on the server yet: %s", f->inode->name, cause);
    store_note_reach(f->store, err);
    tell_waiting(f, err);
}

/* --- the server has it */

/* Directories come with what is in them. */
static void parents_made(struct inode *inode)
{
    for (struct inode *dir = inode->parent; dir && !dir->on_server; dir = dir->parent)
        dir->on_server = true;
}

void file_saved(struct file *f, uint64_t written, const struct version *now)
{
    struct store *s = f->store;
    struct inode *inode = f->inode;
    end_call(f);
    f->tries = 0;
    f->error = 0;
    f->maybe_sent = f->sent_other = f->taken = false;
    f->sent_size = 0;
    f->saved = written;
    f->version = inode->base = *now;
    inode->on_server = true;
    parents_made(inode);
    inode_touch(&s->inodes, inode);
    bool all = f->saved == f->written;
    if (all)
        f->state = FILE_WHOLE;
    set_state(f, SEND_NONE);
    store_note(s, inode);
    if (!all && f->kept == f->written)
        file_queue(f);
    store_note_reach(s, 0);
    tell_waiting(f, 0);
}

static void upload_failed(struct file *f, const struct session_error *e)
{
    f->maybe_sent = f->maybe_sent || !e->unsent;
    f->sent_other = f->sent_other && f->maybe_sent;
    if (f->written == f->sending) {
        file_failed(f, e->err, e->message);
    } else {
        set_state(f, SEND_NONE); /* old content: what matters is how the new one fares */
        if (f->kept == f->written)
            file_queue(f);
        tell_waiting(f, 0);
    }
    if (!f->maybe_sent)
        store_note(f->store, f->inode);
}

static void upload_done(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct sending *k = arg;
    struct file *f = k->file;
    struct version now = {.size = (int64_t)k->size, .mtime = {.tv_nsec = -1}};
    k->call = NULL;
    if (k->removal)
        store_removal_sent(k->removal);
    free_sending(k);
    if (!f)
        return;
    if (e->err) {
        upload_failed(f, e);
        return;
    }
    fault_point("upload-done");
    if (entry && entry->mtime.tv_nsec >= 0 && (entry->size < 0 || entry->size == now.size))
        now.mtime = entry->mtime;
    file_saved(f, f->sending, &now);
}

static int own_fd(const struct file *f, int *fd)
{
    *fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
    return *fd < 0 ? -errno : 0;
}

static int send_content(struct file *f)
{
    struct store *s = f->store;
    _cleanup_buf_ struct buf path = {0};
    struct sending *k = inode_path(f->inode, &path) ? calloc(1, sizeof *k) : NULL;
    if (!k)
        return -ENOMEM;
    int err = own_fd(f, &k->fd);
    k->file = f;
    k->size = (uint64_t)f->inode->size;
    f->sender = k;
    if (!err)
        k->call = session_upload(s->session, path.data, k->fd, k->size, upload_done, k);
    if (!err && !k->call)
        err = -ENOMEM;
    if (err)
        free_sending(k);
    return err;
}

static void begin_upload(struct file *f)
{
    int err = send_content(f);
    if (err) {
        file_failed(f, err, NULL);
        return;
    }
    set_state(f, SEND_SENDING);
    f->sending = f->written;
    f->store->uploads++;
    if (f->sender->size > f->sent_size)
        f->sent_size = f->sender->size;
}

/* Whether that could be written or not. */
static void told(struct waiter *w)
{
    struct file *f = (struct file *)((char *)w - offsetof(struct file, telling));
    waiter_take_error(w);
    begin_upload(f);
}

static void start_upload(struct file *f)
{
    struct store *s = f->store;
    if (!f->told_unsent) {
        begin_upload(f);
        return;
    }
    set_state(f, SEND_TELLING);
    waiter_init(&f->telling, told);
    if (store_written(s, &f->telling, store_note(s, f->inode)) != STORE_WAIT)
        begin_upload(f);
}

/* --- another version is there: is it what we have? */

static int compare_head(void *arg, uint64_t start, int64_t size, const struct timespec *mtime)
{
    struct file *f = arg;
    if (start > f->compared)
        return -ESTALE;
    f->compared = start;
    return 0;
}

static int compare_data(void *arg, const void *data, size_t len)
{
    struct file *f = arg;
    char ours[16384];
    for (size_t at = 0; at < len;) {
        size_t n = len - at < sizeof ours ? len - at : sizeof ours;
        ssize_t got = pread(f->call_fd, ours, n, (off_t)(f->compared + at));
        if (got != (ssize_t)n || memcmp(ours, (const char *)data + at, n))
            return -ECANCELED;
        at += n;
    }
    f->compared += len;
    return 0;
}

static void compare_done(void *arg, const struct session_error *e)
{
    struct file *f = arg;
    f->call = NULL;
    end_call(f);
    bool same = e->err == 0;
    if (e->err && e->err != -ECANCELED) {
        file_failed(f, e->err, e->message);
    } else if (same && f->compared == (uint64_t)f->inode->size) {
        file_saved(f, f->sending, &f->theirs);
    } else if (same && f->maybe_sent) {
        f->inode->base = f->theirs; /* a part of an upload that broke off */
        start_upload(f);
    } else {
        file_conflict(f);
    }
}

static void start_compare(struct file *f)
{
    struct store *s = f->store;
    _cleanup_buf_ struct buf path = {0};
    end_call(f);
    int err = inode_path(f->inode, &path) ? own_fd(f, &f->call_fd) : -ENOMEM;
    if (err) {
        file_failed(f, err, NULL);
        return;
    }
    set_state(f, SEND_COMPARING);
    f->sending = f->written;
    f->compared = 0;
    const struct session_sink sink = {
        .on_head = compare_head, .on_data = compare_data, .done = compare_done, .arg = f};
    f->call = session_download(s->session, path.data, 0, &sink);
    if (!f->call)
        file_failed(f, -ENOMEM, NULL);
}

/* --- what does the server have? */

static void differs(struct file *f, const struct entry *entry)
{
    const struct inode *inode = f->inode;
    bool broken_off = f->maybe_sent && entry->size >= 0 && (uint64_t)entry->size <= f->sent_size;
    f->theirs = (struct version){.size = entry->size, .mtime = entry->mtime};
    if (entry->kind != ENTRY_FILE)
        file_conflict(f);
    else if (broken_off && f->sent_other)
        start_upload(f); /* of content that is no more: nothing to compare with */
    else if (entry->size == inode->size || (broken_off && entry->size < inode->size))
        start_compare(f);
    else
        file_conflict(f);
}

static void checked(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct file *f = arg;
    struct inode *inode = f->inode;
    f->call = NULL;
    if (e->err && e->err != -ENOENT) {
        file_failed(f, e->err, e->message);
        return;
    }
    const struct version now = {.size = entry ? entry->size : -1,
                                .mtime = entry ? entry->mtime : (struct timespec){.tv_nsec = -1}};
    if (!entry ||
        (inode->on_server && entry->kind == ENTRY_FILE && version_same(&inode->base, &now)))
        start_upload(f);
    else
        differs(f, entry);
}

/* A name that is new here, in a directory that was listed a moment ago, is free. */
static bool needs_check(const struct file *f)
{
    return f->inode->on_server || f->maybe_sent || f->taken ||
           store_ttl_ms(f->store, f->inode) <= 0;
}

/* Not tried while the pool is known not to answer, which was logged once for all, unless somebody
 * asked for it since. */
static void postpone(struct file *f)
{
    struct store *s = f->store;
    f->error = s->away;
    f->failed_ms = clock_ms();
    f->due_ms = s->away_until + store_backoff_ms(++f->tries);
    set_state(f, SEND_RETRY);
    tell_waiting(f, f->error);
}

static void start(struct file *f)
{
    struct store *s = f->store;
    _cleanup_buf_ struct buf path = {0};
    if (store_pool_away(s) && f->hurried_ms < s->away_ms) {
        postpone(f);
        return;
    }
    if (!needs_check(f)) {
        start_upload(f);
        return;
    }
    set_state(f, SEND_CHECKING);
    f->call = inode_path(f->inode, &path) ? session_stat(s->session, path.data, checked, f) : NULL;
    if (!f->call)
        file_failed(f, -ENOMEM, NULL);
}

/* --- the queue */

void file_queue(struct file *f)
{
    if (f->send != SEND_NONE || !f->inode->parent)
        return;
    f->due_ms = clock_ms() + DELAY_MS;
    if (f->due_ms < f->store->settled_ms)
        f->due_ms = f->store->settled_ms;
    set_state(f, SEND_QUEUED);
    loop_timer_set(&f->store->pump, 0);
}

void file_hurry(struct file *f)
{
    if (is_active(f->send) || !f->inode->parent)
        return;
    if (f->send == SEND_NONE)
        file_queue(f);
    f->due_ms = f->store->settled_ms;
    f->hurried_ms = clock_ms();
    loop_timer_set(&f->store->pump, 0);
}

void file_unqueue(struct file *f)
{
    f->tries = 0;
    f->error = 0;
    f->sent_other = f->maybe_sent || f->send == SEND_SENDING;
    if (f->send == SEND_SENDING)
        return;
    end_call(f);
    set_state(f, SEND_NONE);
    tell_waiting(f, 0);
}

void file_cancel_upload(struct file *f)
{
    if (f->send != SEND_SENDING)
        return;
    free_sending(f->sender);
    f->maybe_sent = true;
    set_state(f, SEND_NONE);
    tell_waiting(f, 0);
}

struct sending *file_detach_upload(struct file *f)
{
    struct sending *k = f->send == SEND_SENDING ? f->sender : NULL;
    if (!k)
        return NULL;
    k->file = NULL;
    f->sender = NULL;
    set_state(f, SEND_NONE);
    tell_waiting(f, 0);
    return k;
}

void store_pump(struct store *s)
{
    struct file *f, *next;
    int64_t now = clock_ms(), first = INT64_MAX;
    DL_FOREACH_SAFE2(s->outbox, f, next, out_next)
    {
        if (is_active(f->send))
            continue;
        if (f->due_ms > now)
            first = f->due_ms < first ? f->due_ms : first;
        else if (s->sending >= s->options.max_uploads)
            break;
        else if (!store_changing(s, f->inode) && !store_removal_in_way(s, f))
            start(f); /* else: the end of those comes back here */
    }
    int64_t removal = store_removals_pump(s);
    first = removal < first ? removal : first;
    if (first != INT64_MAX && !loop_timer_is_set(&s->pump))
        loop_timer_set(&s->pump, first - now);
}

static void pump(void *arg)
{
    store_pump(arg);
}

/* A pool that is back is given all that waited for it; refusals are none of its being away. */
void store_note_reach(struct store *s, int err)
{
    struct file *f;
    if (err == -EHOSTUNREACH || err == -ETIMEDOUT) {
        store_set_away(s, err);
        return;
    }
    if (!err)
        store_note_use(s);
    if (!err && room_tell_away(s->room, false))
        log_info("the pool answers again");
    if (!s->away || err)
        return;
    s->away = 0;
    s->removals.hurried_ms = clock_ms();
    DL_FOREACH2(s->outbox, f, out_next)
    {
        if (f->send == SEND_RETRY)
            f->due_ms = 0;
    }
    loop_timer_set(&s->pump, 0);
}

void store_send_init(struct store *s)
{
    loop_timer_init(&s->pump, s->loop, pump, s);
}

void store_send_free(struct store *s)
{
    if (s->pump.fn)
        loop_timer_stop(&s->pump);
}

/* --- those who wait */

/* Whether there is nothing to wait for: what was written when the ticket was drawn, now if it was
 * not yet, is on the server, or the name is gone. */
static bool is_there(const struct inode *inode, uint64_t *ticket)
{
    const struct file *f = inode->file;
    if (!f || !inode->parent)
        return true;
    if (!*ticket)
        *ticket = f->written;
    return f->saved >= *ticket;
}

int store_commit(struct store *s, struct waiter *w, struct inode *inode, uint64_t *ticket)
{
    int err = waiter_take_error(w);
    struct file *f = inode->file;
    if (is_there(inode, ticket))
        return 0;
    if (f->kept >= *ticket)
        return f->send == SEND_FAILED ? f->error : 0;
    if (err || (err = file_keep(f)))
        return err;
    waitq_park(&f->kept_waiting, w);
    return STORE_WAIT;
}

int store_flush(struct store *s, struct waiter *w, struct inode *inode, uint64_t *ticket)
{
    int err = waiter_take_error(w);
    struct file *f = inode->file;
    if (is_there(inode, ticket))
        return 0;
    if (err)
        return err;
    if (f->kept < *ticket || f->kept != f->written) {
        if ((err = file_keep(f)))
            return err;
        waitq_park(&f->kept_waiting, w);
        return STORE_WAIT;
    }
    if (store_changing(s, inode)) {
        waitq_park(&s->changed, w);
        return STORE_WAIT;
    }
    file_hurry(f);
    waitq_park(&f->flushing, w);
    return STORE_WAIT;
}

/* One file's part of a barrier: true while its outcome is open; else *err is what it failed with
 * since. */
static bool settle(struct file *f, int64_t since, int *err)
{
    if (f->kept != f->written && f->send == SEND_NONE) {
        int failed = file_keep(f);
        *err = *err ? *err : failed;
        return !failed;
    }
    bool failed = (f->send == SEND_RETRY || f->send == SEND_FAILED) && f->failed_ms > since;
    if (failed)
        *err = *err ? *err : f->error;
    else
        file_hurry(f);
    return !failed;
}

int store_sync(struct store *s, struct waiter *w)
{
    int err = waiter_take_error(w);
    struct file *f;
    bool busy = false;
    DL_FOREACH (s->files, f) {
        if (f->written != f->saved && f->inode->parent && settle(f, w->born, &err))
            busy = true;
    }
    if (store_removals_left(s, w->born, &err))
        busy = true;
    if (!busy)
        return err;
    waitq_park(&s->idle, w);
    return STORE_WAIT;
}

/* What the server had before a change is no news after it: it is looked at again. */
static void look_later(struct file *f)
{
    f->told_unsent = f->told_unsent || f->send == SEND_TELLING; /* as long as it may say so */
    end_call(f);
    set_state(f, SEND_QUEUED);
    loop_timer_set(&f->store->pump, 0);
}

int store_uploads_below(struct store *s, struct waiter *w, struct inode *inode)
{
    int err = waiter_take_error(w);
    if (err)
        return err;
    struct file *f;
    bool busy = store_removals_below(s, inode);
    DL_FOREACH2(s->sending ? s->outbox : NULL, f, out_next)
    {
        if (!is_active(f->send) || !inode_below(f->inode, inode))
            continue;
        if (f->send == SEND_SENDING)
            busy = true;
        else
            look_later(f);
    }
    if (!busy)
        return 0;
    waitq_park(&s->changed, w);
    return STORE_WAIT;
}

void store_uploads_doubt(struct store *s, const struct inode *inode)
{
    struct file *f;
    DL_FOREACH (s->files, f) {
        if (f->written == f->saved || !inode_below(f->inode, inode))
            continue;
        f->maybe_sent = f->sent_other = false;
        f->taken = true;
        store_note(s, f->inode);
    }
}

void store_file_orphaned(struct store *s, struct inode *inode)
{
    struct file *f = inode->file;
    if (!f)
        return;
    file_unqueue(f);
    file_cancel_upload(f);
    file_unname(f);
    waitq_wake(&s->wakeup, &f->kept_waiting, 0);
    waitq_wake(&s->wakeup, &f->flushing, 0);
    waitq_wake(&s->wakeup, &s->idle, 0);
}

/* --- status */

void store_each_pending(struct store *s, void (*fn)(void *arg, const struct store_pending *),
                        void *arg)
{
    const struct file *f;
    DL_FOREACH (s->files, f) {
        if (f->written == f->saved || !f->inode->parent)
            continue;
        const struct store_pending p = {.inode = f->inode,
                                        .size = (uint64_t)f->inode->size,
                                        .tries = f->tries,
                                        .err = f->error,
                                        .kept = f->kept == f->written,
                                        .failed = f->send == SEND_FAILED,
                                        .uploading = f->send == SEND_SENDING};
        fn(arg, &p);
    }
}

int store_error(const struct inode *inode)
{
    return store_file_dirty(inode) ? inode->file->error : 0;
}
