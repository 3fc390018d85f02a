/* Content at hand: fetched as it streams in, changed here, sent back. See enum file_state. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utlist.h>

#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    RETRY_MS = 15000,   /* a file whose upload failed is tried again after this */
    RESERVED_FDS = 128, /* of the process's limit, for everything but content */
};

static void send_file(struct file *);

/* mkdir -p, for this user alone. */
static int make_directories(const char *path)
{
    _cleanup_free_ char *part = strdup(path);
    if (!part)
        return -ENOMEM;
    for (char *p = part + 1;; p++) {
        char end = *p;
        if (end && end != '/')
            continue;
        *p = '\0';
        if (mkdir(part, 0700) && errno != EEXIST)
            return -errno;
        if (!end)
            return 0;
        *p = end;
    }
}

int store_files_init(struct store *s, char **why)
{
    int err = make_directories(s->options.cache_dir);
    if (!err &&
        (s->cache_dir_fd = open(s->options.cache_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        err = -errno;
    if (err && asprintf(why, "cache directory %s: %s", s->options.cache_dir, strerror(-err)) < 0)
        *why = NULL;
    return err;
}

/* --- the list of files, and the room they take */

static void touch_lru(struct file *f)
{
    DL_DELETE(f->store->files, f);
    DL_APPEND(f->store->files, f);
}

static void account(struct file *f, uint64_t bytes)
{
    f->store->cached_bytes += bytes - f->bytes;
    f->bytes = bytes;
}

static void drop_content(struct file *f)
{
    if (f->download)
        session_cancel(f->download);
    f->download = NULL;
    if (f->fd >= 0) {
        close(f->fd);
        f->store->cached_files--;
    }
    f->fd = -1;
    f->filled = 0;
    f->state = FILE_ABSENT;
    account(f, 0);
}

static void evict_one(struct file *f)
{
    struct inode *inode = f->inode;
    inode->file = NULL;
    store_file_free(f);
}

static size_t fd_budget(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur < 2 * RESERVED_FDS)
        return RESERVED_FDS;
    return limit.rlim_cur - RESERVED_FDS;
}

/* Makes room for `more` bytes and one more file by dropping clean content that nobody has
 * open. -ENOSPC when what is left may not be dropped. */
static int make_room(struct store *s, const struct file *keep, uint64_t more)
{
    size_t fds = fd_budget();
    struct file *f, *next;
    DL_FOREACH_SAFE (s->files, f, next) {
        if (s->cached_bytes + more <= s->options.cache_size && s->cached_files < fds)
            return 0;
        if (f != keep && !f->opens && f->state == FILE_WHOLE && !f->waiting.head)
            evict_one(f);
    }
    return s->cached_bytes + more <= s->options.cache_size && s->cached_files < fds ? 0 : -ENOSPC;
}

static struct file *get_file(struct store *s, struct inode *inode)
{
    if (inode->file)
        return inode->file;
    struct file *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->store = s;
    f->inode = inode;
    f->fd = -1;
    inode->file = f;
    DL_APPEND(s->files, f);
    return f;
}

/* Gives the file an empty place on disk. */
static int new_content(struct file *f)
{
    drop_content(f);
    int err = make_room(f->store, f, 0);
    if (err)
        return err;
    f->fd = openat(f->store->cache_dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (f->fd < 0)
        return -errno;
    f->store->cached_files++;
    return 0;
}

/* Room for the file to reach `end` bytes. */
static int reserve(struct file *f, uint64_t end)
{
    if (end <= f->bytes)
        return 0;
    int err = make_room(f->store, f, end - f->bytes);
    if (!err)
        account(f, end);
    return err;
}

void store_file_free(struct file *f)
{
    struct store *s = f->store;
    drop_content(f);
    if (f->upload) {
        session_cancel(f->upload);
        s->uploading--;
    }
    waitq_wake(&s->wakeup, &f->waiting, -EIO);
    waitq_wake(&s->wakeup, &f->flushing, -EIO);
    DL_DELETE(s->files, f);
    free(f);
}

void store_files_free(struct store *s)
{
    if (s->retry.fn)
        loop_timer_stop(&s->retry);
    close(s->cache_dir_fd);
}

bool store_file_dirty(const struct inode *inode)
{
    return S_ISREG(inode->mode) && inode->file && inode->file->written != inode->file->saved;
}

/* --- fetching */

static bool is_outdated(const struct file *f)
{
    return f->state == FILE_WHOLE && !version_same(&f->version, &f->inode->base);
}

static int download_head(void *arg, uint64_t start, int64_t size, const struct timespec *mtime)
{
    struct file *f = arg;
    if (start > f->filled || (f->expected >= 0 && size >= 0 && size != f->expected && start > 0))
        return -ESTALE;
    f->position = start;
    f->filled = start;
    f->expected = size;
    return 0;
}

static int download_data(void *arg, const void *data, size_t len)
{
    struct file *f = arg;
    if (f->expected >= 0 && len > (uint64_t)f->expected - f->position)
        return -EPROTO;
    int err = reserve(f, f->position + len);
    if (err)
        return err;
    ssize_t n = pwrite(f->fd, data, len, (off_t)f->position);
    if (n != (ssize_t)len)
        return n < 0 ? -errno : -ENOSPC;
    f->position += len;
    f->filled = f->position;
    waitq_wake(&f->store->wakeup, &f->waiting, 0);
    return 0;
}

static void download_done(void *arg, const struct session_error *e)
{
    struct file *f = arg;
    struct inode *inode = f->inode;
    f->download = NULL;
    int err = e->err;
    if (!err && f->expected >= 0 && f->filled != (uint64_t)f->expected)
        err = -EIO;
    if (err) {
        /* Renamed on the way: what waits asks again under the new name. */
        bool moved = err == -ENOENT && inode->parent && inode->changed > f->asked_clock;
        if (!moved)
            log_warning("%s: download failed: %s", inode->name,
                        e->message ? e->message : strerror(-err));
        drop_content(f);
        waitq_wake(&f->store->wakeup, &f->waiting, moved ? 0 : err);
        return;
    }
    if (ftruncate(f->fd, (off_t)f->filled) == 0 && inode->size != (int64_t)f->filled) {
        /* The server's file is another by now than the listing said: this is what it is. */
        inode->size = (int64_t)f->filled;
        inode->base = (struct version){.size = inode->size, .mtime = {.tv_nsec = -1}};
        f->version = inode->base;
    }
    f->state = FILE_WHOLE;
    account(f, f->filled);
    waitq_wake(&f->store->wakeup, &f->waiting, 0);
}

static int fetch(struct file *f)
{
    struct store *s = f->store;
    _cleanup_buf_ struct buf path = {0};
    if (!inode_path(f->inode, &path))
        return -ESTALE;
    int err = new_content(f);
    if (err)
        return err;
    f->state = FILE_FILLING;
    f->expected = -1;
    f->position = 0;
    f->version = f->inode->base;
    f->asked_clock = s->inodes.clock;
    s->downloads++;
    const struct session_sink sink = {
        .on_head = download_head, .on_data = download_data, .done = download_done, .arg = f};
    f->download = session_download(s->session, path.data, 0, &sink);
    if (f->download)
        return 0;
    drop_content(f);
    return -ENOMEM;
}

static int need_bytes(struct store *s, struct waiter *w, struct inode *inode, uint64_t end)
{
    int err = waiter_take_error(w);
    if (err)
        return err;
    struct file *f = get_file(s, inode);
    if (!f)
        return -ENOMEM;
    if (is_outdated(f))
        drop_content(f);
    if (f->state == FILE_WHOLE || f->state == FILE_DIRTY) {
        touch_lru(f);
        return 0;
    }
    if (f->state == FILE_FILLING && f->filled >= end)
        return 0;
    if (f->state == FILE_ABSENT && (err = fetch(f)))
        return err;
    waitq_park(&f->waiting, w);
    return STORE_WAIT;
}

int store_file_whole(struct store *s, struct waiter *w, struct inode *inode)
{
    return need_bytes(s, w, inode, UINT64_MAX);
}

void store_file_outdated(struct store *s, struct inode *inode)
{
    struct file *f = inode->file;
    if (f && f->state == FILE_WHOLE && !f->opens)
        drop_content(f);
    /* Open or on its way: the next read sees is_outdated(). */
}

/* --- sending */

static void start_retry_timer(struct store *s);

static void upload_ended(struct file *f, int err)
{
    struct store *s = f->store;
    f->upload = NULL;
    s->uploading--;
    waitq_wake(&s->wakeup, &f->flushing, err);
    waitq_wake(&s->wakeup, &s->idle, 0);
    waitq_wake(&s->wakeup, &s->changed, 0);
}

static void upload_done(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct file *f = arg;
    struct store *s = f->store;
    struct inode *inode = f->inode;
    f->error = e->err;
    if (e->err) {
        f->tries++;
        f->failed_ms = clock_ms();
        log_warning("%s: not on the server yet: %s", inode->name,
                    e->message ? e->message : strerror(-e->err));
        upload_ended(f, e->err);
        start_retry_timer(s);
        return;
    }
    f->tries = 0;
    f->saved = f->sending;
    inode->on_server = true;
    inode->base = (struct version){.size = -1, .mtime = {.tv_nsec = -1}};
    if (f->saved == f->written) {
        f->state = FILE_WHOLE;
        inode->base.size = inode->size;
    }
    if (entry && entry->mtime.tv_nsec >= 0 && entry->size == inode->base.size)
        inode->base.mtime = entry->mtime;
    f->version = inode->base;
    inode_touch(&s->inodes, inode);
    upload_ended(f, 0);
}

static void send_file(struct file *f)
{
    struct store *s = f->store;
    _cleanup_buf_ struct buf path = {0};
    if (f->upload || !inode_path(f->inode, &path))
        return;
    f->sending = f->written;
    s->uploads++;
    s->uploading++;
    f->upload =
        session_upload(s->session, path.data, f->fd, (uint64_t)f->inode->size, upload_done, f);
    if (!f->upload)
        upload_ended(f, -ENOMEM);
}

static void retry_uploads(void *arg)
{
    struct store *s = arg;
    struct file *f;
    bool later = false;
    DL_FOREACH (s->files, f) {
        if (f->written == f->saved || !f->error || f->upload || !f->inode->parent)
            continue;
        if (store_changing(s, f->inode))
            later = true;
        else
            send_file(f);
    }
    if (later)
        start_retry_timer(s);
}

static void start_retry_timer(struct store *s)
{
    if (!s->retry.fn)
        loop_timer_init(&s->retry, s->loop, retry_uploads, s);
    if (!loop_timer_is_set(&s->retry))
        loop_timer_set(&s->retry, RETRY_MS);
}

int store_flush(struct store *s, struct waiter *w, struct inode *inode, uint64_t *ticket)
{
    int err = waiter_take_error(w);
    struct file *f = inode->file;
    if (!f || !inode->parent)
        return 0;
    if (!*ticket)
        *ticket = f->written;
    if (f->saved >= *ticket)
        return 0;
    if (err)
        return err;
    if (store_changing(s, inode)) {
        waitq_park(&s->changed, w);
        return STORE_WAIT;
    }
    send_file(f);
    waitq_park(&f->flushing, w);
    return STORE_WAIT;
}

int store_sync(struct store *s, struct waiter *w)
{
    waiter_take_error(w);
    struct file *f;
    bool busy = false;
    DL_FOREACH (s->files, f) {
        if (f->written == f->saved || !f->inode->parent)
            continue;
        if (f->error && !f->upload && f->failed_ms >= w->born)
            return f->error;
        if (!store_changing(s, f->inode))
            send_file(f);
        busy = true;
    }
    if (!busy)
        return 0;
    waitq_park(&s->idle, w);
    return STORE_WAIT;
}

int store_uploads_below(struct store *s, struct waiter *w, struct inode *inode)
{
    int err = waiter_take_error(w);
    if (err)
        return err;
    struct file *f;
    if (s->uploading == 0)
        return 0;
    DL_FOREACH (s->files, f) {
        if (f->upload && inode_below(f->inode, inode)) {
            waitq_park(&s->changed, w);
            return STORE_WAIT;
        }
    }
    return 0;
}

void store_file_orphaned(struct store *s, struct inode *inode)
{
    struct file *f = inode->file;
    if (!f)
        return;
    if (f->upload) {
        session_cancel(f->upload);
        upload_ended(f, 0);
    }
    waitq_wake(&s->wakeup, &f->flushing, 0);
    waitq_wake(&s->wakeup, &s->idle, 0);
}

/* --- open, read, write */

int store_open(struct store *s, struct inode *inode, bool trunc, bool *keep)
{
    struct file *f = get_file(s, inode);
    if (!f)
        return -ENOMEM;
    bool outdated = is_outdated(f);
    *keep = !outdated && (f->state == FILE_WHOLE || f->state == FILE_DIRTY);
    if (*keep)
        s->cache_hits++;
    if (trunc) {
        struct waiter none = {0};
        int err = store_truncate(s, &none, inode, 0);
        if (err)
            return err;
    }
    touch_lru(f);
    f->opens++;
    inode_pin(inode);
    return 0;
}

void store_close(struct store *s, struct inode *inode)
{
    struct file *f = inode->file;
    if (--f->opens == 0 && f->state == FILE_DIRTY && inode->parent && !f->upload)
        send_file(f); /* a close that never flushed: the kernel's own, at the end of a mapping */
    if (!f->opens && is_outdated(f))
        drop_content(f);
    inode_unpin(&s->inodes, inode);
}

int store_create(struct store *s, struct waiter *w, struct inode *dir, const char *name,
                 mode_t mode, struct inode **out)
{
    int err = store_name_check(dir, name);
    if (!err)
        err = store_fresh(s, w, dir);
    if (err)
        return err;
    struct inode *inode = inode_child(dir, name);
    if (inode)
        return -EEXIST;
    inode = inode_add(&s->inodes, dir, name, S_IFREG | (mode & 07777));
    if (!inode)
        return -ENOMEM;
    inode->own_mode = true;
    clock_gettime(CLOCK_REALTIME, &inode->mtime);
    inode->atime = inode->ctime = inode->mtime;
    dir->mtime = dir->ctime = inode->mtime;
    inode_touch(&s->inodes, inode);
    struct file *f = get_file(s, inode);
    err = f ? new_content(f) : -ENOMEM;
    if (err) {
        inode_remove(&s->inodes, inode);
        return err;
    }
    f->state = FILE_DIRTY;
    f->written = 1;
    f->opens = 1;
    inode_pin(inode);
    *out = inode;
    return 0;
}

int store_read(struct store *s, struct waiter *w, struct inode *inode, uint64_t offset, size_t len,
               int *fd, size_t *available)
{
    uint64_t end = offset + len;
    if (inode->size >= 0 && end > (uint64_t)inode->size)
        end = (uint64_t)inode->size;
    int err = need_bytes(s, w, inode, end);
    if (err)
        return err;
    const struct file *f = inode->file;
    uint64_t have = f->state == FILE_FILLING ? f->filled : (uint64_t)inode->size;
    *fd = f->fd;
    *available = offset >= have ? 0 : have - offset < len ? (size_t)(have - offset) : len;
    return 0;
}

static void content_changed(struct file *f)
{
    struct store *s = f->store;
    struct inode *inode = f->inode;
    f->written++;
    f->error = 0;
    f->state = FILE_DIRTY;
    clock_gettime(CLOCK_REALTIME, &inode->mtime);
    inode->ctime = inode->mtime;
    inode_touch(&s->inodes, inode);
    if (f->upload) {
        /* What is being sent is old: those who wait for it get the new. */
        session_cancel(f->upload);
        f->upload = NULL;
        s->uploading--;
        inode->on_server = true; /* the upload may have got there */
        waitq_wake(&s->wakeup, &f->flushing, 0);
        waitq_wake(&s->wakeup, &s->idle, 0);
        waitq_wake(&s->wakeup, &s->changed, 0);
    }
}

int store_write(struct store *s, struct waiter *w, struct inode *inode, uint64_t offset,
                const void *data, size_t len)
{
    int err = store_file_whole(s, w, inode);
    if (err)
        return err;
    struct file *f = inode->file;
    if ((err = reserve(f, offset + len)))
        return err;
    content_changed(f);
    ssize_t n = pwrite(f->fd, data, len, (off_t)offset);
    if (n > 0 && offset + (uint64_t)n > (uint64_t)inode->size)
        inode->size = (int64_t)(offset + (uint64_t)n);
    if (n != (ssize_t)len)
        return n < 0 ? -errno : -ENOSPC;
    return 0;
}

int store_truncate(struct store *s, struct waiter *w, struct inode *inode, uint64_t size)
{
    struct file *f = get_file(s, inode);
    if (!f)
        return -ENOMEM;
    int err;
    if (size > 0 || f->state == FILE_DIRTY) {
        if ((err = store_file_whole(s, w, inode)) || (err = reserve(f, size)))
            return err;
        if (ftruncate(f->fd, (off_t)size))
            return -errno;
    } else {
        waiter_take_error(w);
        if ((err = new_content(f)))
            return err;
        waitq_wake(&s->wakeup, &f->waiting, 0);
    }
    content_changed(f);
    inode->size = (int64_t)size;
    account(f, size);
    return 0;
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
                                        .uploading = f->upload != NULL};
        fn(arg, &p);
    }
}
