/* Content on local disk: its place, the room all of it may take, what goes first. See enum
 * file_state. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <utlist.h>

#include "util/text.h"

enum {
    RESERVED_FDS = 128,    /* of the process's limit, for everything but content */
    DISK_LEFT = 128 << 20, /* the disk is full for us when others have no more than that... */
    DISK_SHARE = 50,       /* ...or a fiftieth of it, if that is less */
    DISK_CHECK_MS = 200,
};

/* --- the list of files, and the room they take */

void file_used(struct file *f)
{
    DL_DELETE(f->store->files, f);
    DL_APPEND(f->store->files, f);
}

void file_account(struct file *f, uint64_t bytes)
{
    f->store->cached_bytes += bytes - f->bytes;
    f->bytes = bytes;
}

void file_drop(struct file *f)
{
    file_stop_fetching(f);
    if (f->fd >= 0) {
        close(f->fd);
        f->store->cached_files--;
    }
    f->fd = -1;
    f->state = FILE_ABSENT;
    file_account(f, 0);
    file_unname(f);
}

static void evict_one(struct file *f)
{
    struct inode *inode = f->inode;
    inode->file = NULL;
    store_file_free(f);
}

/* Whether the disk that the cache is on can take so much more and have something left for others.
 */
static bool disk_has_room(struct store *s, uint64_t more)
{
    struct statvfs fs;
    int64_t now = clock_ms();
    if (now - s->space_checked_ms < DISK_CHECK_MS && s->disk_room >= (int64_t)more)
        return true;
    s->space_checked_ms = now;
    if (fstatvfs(shelf_content(s->shelf), &fs))
        return true;
    uint64_t share = (uint64_t)fs.f_blocks * fs.f_frsize / DISK_SHARE;
    uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize;
    s->disk_room = (int64_t)(left - (share < DISK_LEFT ? share : DISK_LEFT));
    return s->disk_room >= (int64_t)more;
}

static bool has_room(struct store *s, uint64_t more, size_t fds)
{
    return s->cached_bytes + more <= s->options.cache_size && s->cached_files < fds &&
           (!more || disk_has_room(s, more));
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
        if (has_room(s, more, fds))
            return 0;
        if (f == keep || f->opens || !file_idle(f))
            continue;
        evict_one(f);
    }
    return has_room(s, more, fds) ? 0 : -ENOSPC;
}

void store_evict(struct store *s)
{
    struct file *f, *next;
    DL_FOREACH_SAFE (s->files, f, next) {
        if (!f->opens && file_idle(f))
            evict_one(f);
    }
}

struct file *file_get(struct store *s, struct inode *inode)
{
    if (inode->file)
        return inode->file;
    struct file *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->store = s;
    f->inode = inode;
    f->fd = f->call_fd = -1;
    inode->file = f;
    DL_APPEND(s->files, f);
    return f;
}

/* Gives the file an empty place on disk. */
int file_new_content(struct file *f)
{
    file_drop(f);
    int err = make_room(f->store, f, 0);
    if (err)
        return err;
    f->fd = openat(shelf_content(f->store->shelf), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (f->fd < 0)
        return -errno;
    f->store->cached_files++;
    return 0;
}

/* Room for the file to reach `end` bytes. */
int file_reserve(struct file *f, uint64_t end)
{
    if (end <= f->bytes)
        return 0;
    int err = make_room(f->store, f, end - f->bytes);
    if (err)
        return err;
    f->store->disk_room -= (int64_t)(end - f->bytes);
    file_account(f, end);
    return 0;
}

void store_file_free(struct file *f)
{
    struct store *s = f->store;
    bool leave = s->closing && f->written != f->saved; /* to the next mount */
    if (leave)
        f->content = f->old_content = 0;
    file_unqueue(f);
    file_cancel_upload(f);
    file_drop(f);
    file_keep_forget(f);
    waitq_wake(&s->wakeup, &f->waiting, -EIO);
    waitq_wake(&s->wakeup, &f->kept_waiting, -EIO);
    waitq_wake(&s->wakeup, &f->flushing, -EIO);
    DL_DELETE(s->files, f);
    free(f);
}

bool store_file_dirty(const struct inode *inode)
{
    return S_ISREG(inode->mode) && inode->file && inode->file->written != inode->file->saved;
}

bool store_dirty_below(struct store *s, const struct inode *inode)
{
    const struct file *f;
    if (!S_ISDIR(inode->mode))
        return store_file_dirty(inode);
    DL_FOREACH (s->files, f) {
        if (f->written != f->saved && inode_below(f->inode, inode))
            return true;
    }
    return false;
}
