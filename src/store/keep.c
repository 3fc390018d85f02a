/* Making durable: what is told is gathered in the next batch; the helper thread writes one batch
 * after another, so closes that come while it works share one fdatasync.
 *
 *     told ──▶ `next` ──the loop's next turn──▶ `running` ──▶ waiters woken, files sent
 *
 * In a batch: content gets its name and is synced, then the records are written and synced, then
 * content that no record names any more is deleted. What could not be written is not lost to the
 * journal: the next batch then writes the whole tree anew. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "store/fault.h"
#include "store/journal.h"
#include "util/cleanup.h"
#include "util/log.h"

enum { COMPACT_BYTES = 1 << 20 /* a journal shorter than that is let grow */ };

/* Content on its way to be kept. */
struct kept {
    struct kept *prev, *next;
    struct file *file; /* NULL: gone meanwhile */
    int fd;            /* our own */
    uint64_t content;
    uint64_t written;
};

struct batch {
    struct store *store; /* NULL: gone meanwhile */
    struct shelf *shelf;
    uint64_t number;
    struct kept *files;
    struct buf records;
    struct buf unnamed; /* numbers of content, uint64_t each */
    bool durable;       /* somebody waits, or content is deleted */
    bool whole;         /* the records are to be the whole journal */
    struct waitq waiting;
    uint64_t journal_size;
};

static void free_batch(struct batch *b)
{
    struct kept *k, *next;
    DL_FOREACH_SAFE (b->files, k, next) {
        if (k->file && k->file->keeping == k)
            k->file->keeping = NULL;
        close(k->fd);
        free(k);
    }
    buf_free(&b->records);
    buf_free(&b->unnamed);
    shelf_unref(b->shelf);
    free(b);
}

/* --- on the helper thread */

static void content_name(char name[24], uint64_t content)
{
    snprintf(name, 24, "%llu", (unsigned long long)content);
}

static int name_content(const struct batch *b, const struct kept *k)
{
    char from[40], name[24];
    snprintf(from, sizeof from, "/proc/self/fd/%d", k->fd);
    content_name(name, k->content);
    if (linkat(AT_FDCWD, from, shelf_content(b->shelf), name, AT_SYMLINK_FOLLOW) == 0 ||
        errno == EEXIST)
        return 0;
    return -errno;
}

static int sync_content(const struct batch *b)
{
    const struct kept *k;
    int err = 0;
    DL_FOREACH (b->files, k) {
        if (!err)
            err = name_content(b, k);
    }
    if (b->files)
        fault_point("content-named");
    DL_FOREACH (b->files, k) {
        if (!err && fdatasync(k->fd))
            err = -errno;
    }
    if (!err && b->files && fsync(shelf_content(b->shelf)))
        err = -errno;
    if (b->files)
        fault_point("content-synced");
    return err;
}

static void delete_unnamed(const struct batch *b)
{
    char name[24];
    for (size_t at = 0; at < b->unnamed.len; at += sizeof(uint64_t)) {
        uint64_t content;
        memcpy(&content, b->unnamed.data + at, sizeof content);
        content_name(name, content);
        if (unlinkat(shelf_content(b->shelf), name, 0) && errno != ENOENT)
            log_warning("cache: deleting content %s: %s", name, strerror(errno));
    }
    if (b->unnamed.len)
        fault_point("content-unnamed");
}

static int write_batch(void *arg)
{
    struct batch *b = arg;
    struct journal *j = *shelf_journal(b->shelf);
    int err = sync_content(b);
    if (!err && b->whole)
        err = journal_replace(j, &b->records);
    else if (!err && (b->records.len || b->durable))
        err = journal_append(j, &b->records, b->durable);
    if (!err && b->durable)
        fault_point("journal-synced");
    if (!err)
        delete_unnamed(b);
    b->journal_size = journal_size(j);
    return err;
}

/* --- on the loop */

static struct batch *next_batch(struct store *s)
{
    if (s->next)
        return s->next;
    struct batch *b = calloc(1, sizeof *b);
    if (!b)
        abort(); /* what happened could be told to nobody */
    b->store = s;
    b->shelf = shelf_ref(s->shelf);
    b->number = ++s->batches;
    b->whole = s->whole_due;
    s->next = b;
    if (!s->running)
        loop_timer_set(&s->begin, 0);
    return b;
}

static void files_kept(struct batch *b, int err)
{
    struct store *s = b->store;
    struct kept *k;
    DL_FOREACH (b->files, k) {
        struct file *f = k->file;
        if (!f)
            continue;
        if (f->keeping == k)
            f->keeping = NULL;
        if (!err && k->written > f->kept)
            f->kept = k->written;
        if (err)
            f->told = f->kept;
        waitq_wake(&s->wakeup, &f->kept_waiting, err);
        /* What can't be kept here is sent all the same. */
        if (f->inode->parent && f->saved < f->written && (err || f->kept == f->written))
            file_queue(f);
    }
}

static void batch_written(void *arg, int err)
{
    struct batch *b = arg;
    struct store *s = b->store;
    if (!s) {
        if (err)
            log_error("journal: %s", strerror(-err));
        free_batch(b);
        return;
    }
    s->running = NULL;
    s->batches_done = b->number;
    if (err)
        log_error("journal in %s: %s: what is written now is not safe here", s->directory,
                  strerror(-err));
    files_kept(b, err);
    waitq_wake(&s->wakeup, &b->waiting, err);
    if (b->whole && !err)
        s->compact_size = b->journal_size;
    /* What could not be written is told again with what comes next: no sooner, for the disk
     * may be full. */
    s->whole_due = err || b->journal_size > COMPACT_BYTES + 2 * s->compact_size;
    if (s->next) {
        s->next->whole = s->next->whole || s->whole_due;
        loop_timer_set(&s->begin, 0);
    }
    free_batch(b);
}

static int whole_tree(struct store *s, struct buf *out);

static void begin_batch(void *arg)
{
    struct store *s = arg;
    struct batch *b = s->next;
    if (s->running || !b)
        return;
    if (b->whole) {
        _cleanup_buf_ struct buf all = {0};
        int err = whole_tree(s, &all);
        if (err) {
            log_error("journal: %s", strerror(-err));
            b->whole = false;
        } else {
            buf_free(&b->records);
            b->records = all;
            all = (struct buf){0};
        }
    }
    s->next = NULL;
    s->running = b;
    if (loop_work(s->loop, write_batch, batch_written, b))
        batch_written(b, -ENOMEM);
}

void store_keep_init(struct store *s)
{
    loop_timer_init(&s->begin, s->loop, begin_batch, s);
}

static void orphan(struct batch *b)
{
    struct kept *k;
    DL_FOREACH (b->files, k) {
        k->file = NULL;
    }
    b->store = NULL;
}

/* What was told is still written: loop_free() waits for it. */
void store_keep_free(struct store *s)
{
    if (s->begin.fn)
        loop_timer_stop(&s->begin);
    if (s->running) {
        waitq_wake(&s->wakeup, &s->running->waiting, -EIO);
        orphan(s->running);
    }
    struct batch *b = s->next;
    if (!b)
        return;
    waitq_wake(&s->wakeup, &b->waiting, -EIO);
    orphan(b);
    b->whole = false;
    if (loop_work(s->loop, write_batch, batch_written, b))
        batch_written(b, -ENOMEM);
}

static int await(struct store *s, struct waiter *w, uint64_t number, bool durable)
{
    int err = waiter_take_error(w);
    if (err || number <= s->batches_done)
        return err;
    struct batch *b = s->next && s->next->number == number ? s->next : s->running;
    b->durable = b->durable || (durable && b == s->next);
    waitq_park(&b->waiting, w);
    return STORE_WAIT;
}

int store_recorded(struct store *s, struct waiter *w, uint64_t number)
{
    return await(s, w, number, true);
}

int store_written(struct store *s, struct waiter *w, uint64_t number)
{
    return await(s, w, number, false);
}

int store_commit_names(struct store *s, struct waiter *w, uint64_t *ticket)
{
    if (!*ticket) {
        struct batch *b = next_batch(s);
        b->durable = true;
        *ticket = b->number;
    }
    return store_recorded(s, w, *ticket);
}

int store_commit_told(struct store *s, struct waiter *w, uint64_t *ticket)
{
    if (!*ticket)
        *ticket = next_batch(s)->number;
    return store_written(s, w, *ticket);
}

/* --- records */

static int frame(struct buf *out, const struct record *r)
{
    _cleanup_buf_ struct buf body = {0};
    int err = record_write(&body, r);
    return err ? err : journal_frame(out, body.data, body.len);
}

static uint64_t tell(struct store *s, const struct record *r, bool durable)
{
    struct batch *b = next_batch(s);
    b->durable = b->durable || durable;
    if (frame(&b->records, r))
        b->whole = true;
    return b->number;
}

/* The number under which the next mount finds content that the server does not have; 0: none. What
 * the server has is not named: it may be changed in place, and then be neither. */
static uint64_t named_content(const struct file *f)
{
    return !f ? 0 : f->content && f->told > f->saved ? f->content : f->old_content;
}

/* Content of an upload whose answer may never be seen here: should this mount end now, the next
 * one must know it for ours. */
static uint64_t sent_before(const struct file *f)
{
    return f && f->sent_other ? f->sent_size : 0;
}

static bool is_unsent(const struct file *f)
{
    return f && !f->maybe_sent && f->send != SEND_TELLING && f->send != SEND_SENDING;
}

static void fill_facts(const struct inode *inode, struct node_facts *out)
{
    const struct file *f = S_ISREG(inode->mode) ? inode->file : NULL;
    *out = (struct node_facts){
        .flags = (inode->on_server ? NODE_ON_SERVER : 0) | (inode->own_mode ? NODE_OWN_MODE : 0) |
                 (inode->own_owner ? NODE_OWN_OWNER : 0) | (is_unsent(f) ? NODE_UNSENT : 0),
        .mode = inode->mode,
        .uid = inode->uid,
        .gid = inode->gid,
        .content = named_content(f),
        .size = inode->size,
        .mtime = inode->mtime,
        .atime = inode->atime,
        .ctime = inode->ctime,
        .base = inode->base,
        .sent = sent_before(f),
    };
}

static int frame_node(struct buf *out, struct inode *inode)
{
    _cleanup_buf_ struct buf path = {0};
    if (!inode_path(inode, &path))
        return inode->parent ? -ENOMEM : 0;
    struct record r = {.type = RECORD_NODE, .path = path.data ? path.data : "", .other = ""};
    fill_facts(inode, &r.facts);
    inode->recorded = true;
    if (S_ISREG(inode->mode) && inode->file)
        inode->file->told_unsent = r.facts.flags & NODE_UNSENT;
    return frame(out, &r);
}

uint64_t store_note(struct store *s, struct inode *inode)
{
    struct batch *b = next_batch(s);
    if (frame_node(&b->records, inode))
        b->whole = true;
    return b->number;
}

uint64_t store_record(struct store *s, enum record_type type, const char *path, const char *other,
                      bool durable)
{
    const struct record r = {.type = type, .path = path, .other = other ? other : ""};
    return tell(s, &r, durable);
}

uint64_t store_record_intent(struct store *s, const char *path, const char *other, int how)
{
    const struct record r = {
        .type = RECORD_INTENT, .path = path, .other = other, .how = (uint32_t)how};
    return tell(s, &r, false);
}

static struct record left_record(const char *path, const char *after, const struct version *base)
{
    return (struct record){
        .type = RECORD_LEFT, .path = path, .other = after ? after : "", .facts.base = *base};
}

uint64_t store_record_left(struct store *s, const char *path, const char *after,
                           const struct version *base)
{
    const struct record r = left_record(path, after, base);
    return tell(s, &r, false);
}

/* --- files */

static void forget(struct batch *b, const struct file *f)
{
    struct kept *k;
    DL_FOREACH (b ? b->files : NULL, k) {
        if (k->file == f)
            k->file = NULL;
    }
}

void file_keep_forget(struct file *f)
{
    forget(f->store->running, f);
    forget(f->store->next, f);
    f->keeping = NULL;
}

/* Its own descriptor, so that the file's may go meanwhile. */
static int duplicate(const struct file *f)
{
    int fd;
    do
        fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
    while (fd < 0 && errno == EMFILE && room_spare_fd(f->store));
    return fd < 0 ? -errno : fd;
}

int file_keep(struct file *f)
{
    struct store *s = f->store;
    if (f->kept == f->written || (f->keeping && f->keeping->written == f->written))
        return 0;
    struct kept *k = calloc(1, sizeof *k);
    if (!k || (k->fd = duplicate(f)) < 0) {
        int err = k ? k->fd : -ENOMEM;
        free(k);
        return err;
    }
    struct batch *b = next_batch(s);
    if (!f->content)
        f->content = ++s->contents;
    k->file = f;
    k->content = f->content;
    k->written = f->written;
    DL_APPEND(b->files, k);
    b->durable = true;
    f->keeping = k;
    f->over_left = false;
    f->told = k->written;
    store_note(s, f->inode);
    if (f->old_content)
        buf_add(&b->unnamed, &f->old_content, sizeof f->old_content);
    f->old_content = 0;
    return 0;
}

static void unname(struct file *f, uint64_t *content)
{
    if (*content && !f->store->replaying) {
        struct batch *b = next_batch(f->store);
        b->durable = true;
        buf_add(&b->unnamed, content, sizeof *content);
    }
    *content = 0;
}

void file_unname(struct file *f)
{
    unname(f, &f->content);
    unname(f, &f->old_content);
}

/* --- the whole tree */

static bool is_to_be_told(const struct inode *inode)
{
    return inode->parent &&
           (inode->recorded || (S_ISREG(inode->mode) && inode->file && named_content(inode->file)));
}

static int frame_left(struct buf *out, const struct inode *inode)
{
    _cleanup_buf_ struct buf path = {0};
    if (!inode_path(inode, &path))
        return -ENOMEM;
    const struct record r = left_record(path.data, NULL, &inode->base);
    return frame(out, &r);
}

static int whole_tree(struct store *s, struct buf *out)
{
    struct inode *inode;
    int err = 0;
    for (size_t at = 0; (inode = inode_next(&s->inodes, &at));) {
        if (!err && is_to_be_told(inode))
            err = frame_node(out, inode);
        if (!err && S_ISREG(inode->mode) && inode->parent && inode->file && inode->file->over_left)
            err = frame_left(out, inode);
    }
    if (!err)
        err = store_identity_note(s, out);
    if (!err)
        err = store_removals_note(s, out);
    return err ? err : store_changes_note(s, out);
}

int store_frame(struct buf *out, const struct record *r)
{
    return frame(out, r);
}

int store_compact_now(struct store *s)
{
    _cleanup_buf_ struct buf all = {0};
    struct journal *j = *shelf_journal(s->shelf);
    int err = whole_tree(s, &all);
    if (!err)
        err = journal_replace(j, &all);
    s->compact_size = journal_size(j);
    return err;
}
