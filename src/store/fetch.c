/* Fetching: content streams in from the server while it is read. See enum file_state. */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/log.h"

bool file_outdated(const struct file *f)
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
    int err = file_reserve(f, f->position + len);
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
        file_drop(f);
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
    file_account(f, f->filled);
    waitq_wake(&f->store->wakeup, &f->waiting, 0);
}

static int fetch(struct file *f)
{
    struct store *s = f->store;
    _cleanup_buf_ struct buf path = {0};
    if (!inode_path(f->inode, &path))
        return -ESTALE;
    int err = file_new_content(f);
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
    file_drop(f);
    return -ENOMEM;
}

static int need_bytes(struct store *s, struct waiter *w, struct inode *inode, uint64_t end)
{
    int err = waiter_take_error(w);
    if (err)
        return err;
    struct file *f = file_get(s, inode);
    if (!f)
        return -ENOMEM;
    if (file_outdated(f))
        file_drop(f);
    if (f->state == FILE_WHOLE || f->state == FILE_DIRTY) {
        file_used(f);
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
        file_drop(f);
    /* Open or on its way: the next read sees file_outdated(). */
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
