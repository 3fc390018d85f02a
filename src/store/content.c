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
#include <unistd.h>

#include <utlist.h>

#include "util/cleanup.h"

enum { RESERVED_FDS = 128 /* of the process's limit, for everything but content */ };

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
    file_account(f, 0);
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

struct file *file_get(struct store *s, struct inode *inode)
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
int file_new_content(struct file *f)
{
    file_drop(f);
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
int file_reserve(struct file *f, uint64_t end)
{
    if (end <= f->bytes)
        return 0;
    int err = make_room(f->store, f, end - f->bytes);
    if (!err)
        file_account(f, end);
    return err;
}

void store_file_free(struct file *f)
{
    struct store *s = f->store;
    file_drop(f);
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
