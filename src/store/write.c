/* Open files and changes of their content. See enum file_state. */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/log.h"

int store_open(struct store *s, struct inode *inode, bool trunc, bool *keep)
{
    struct file *f = file_get(s, inode);
    if (!f)
        return -ENOMEM;
    bool outdated = file_outdated(f);
    *keep = !outdated && (f->state == FILE_WHOLE || f->state == FILE_DIRTY);
    if (*keep)
        s->cache_hits++;
    if (trunc) {
        struct waiter none = {0};
        int err = store_truncate(s, &none, inode, 0);
        if (err)
            return err;
    }
    file_used(f);
    f->opens++;
    inode_pin(inode);
    return 0;
}

void store_close(struct store *s, struct inode *inode)
{
    struct file *f = inode->file;
    if (--f->opens == 0 && f->state == FILE_DIRTY && inode->parent && f->kept != f->written) {
        /* A close that never flushed: the kernel's own, at the end of a mapping. */
        int err = file_keep(f);
        if (err)
            log_error("%s: what was written is not safe here: %s", inode->name, strerror(-err));
    }
    if (!f->opens && file_outdated(f))
        file_drop(f);
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
    struct removal *removal = store_removal(s, dir, name);
    inode = inode_add(&s->inodes, dir, name, S_IFREG | (mode & 07777));
    if (!inode)
        return -ENOMEM;
    inode->own_mode = true;
    clock_gettime(CLOCK_REALTIME, &inode->mtime);
    inode->atime = inode->ctime = inode->mtime;
    dir->mtime = dir->ctime = inode->mtime;
    inode_touch(&s->inodes, inode);
    struct file *f = file_get(s, inode);
    err = f ? file_new_content(f) : -ENOMEM;
    if (err) {
        inode_remove(&s->inodes, inode);
        return err;
    }
    if (removal) {
        store_removal_replace(s, removal, &inode->base);
        inode->on_server = true;
        f->over_left = true;
    }
    f->state = FILE_DIRTY;
    f->written = 1;
    f->opens = 1;
    inode_pin(inode);
    *out = inode;
    return 0;
}

static void content_changed(struct file *f)
{
    struct store *s = f->store;
    struct inode *inode = f->inode;
    f->written++;
    f->state = FILE_DIRTY;
    clock_gettime(CLOCK_REALTIME, &inode->mtime);
    inode->ctime = inode->mtime;
    inode_touch(&s->inodes, inode);
    file_unqueue(f);
}

int store_write(struct store *s, struct waiter *w, struct inode *inode, uint64_t offset,
                const void *data, size_t len)
{
    int err = store_file_whole(s, w, inode);
    if (err)
        return err;
    struct file *f = inode->file;
    if ((err = file_reserve(f, offset + len)))
        return err;
    content_changed(f);
    ssize_t n = pwrite(f->fd, data, len, (off_t)offset);
    if (n > 0 && offset + (uint64_t)n > (uint64_t)inode->size)
        inode->size = (int64_t)(offset + (uint64_t)n);
    if (n != (ssize_t)len)
        return n < 0 ? -errno : -ENOSPC;
    return 0;
}

/* An empty place for what comes; what the journal names stays until it names that. */
static int start_anew(struct file *f)
{
    uint64_t old = f->told > f->saved && f->content ? f->content : f->old_content;
    if (old == f->content)
        f->content = 0;
    if (old)
        f->old_content = 0;
    int err = file_new_content(f);
    f->old_content = old;
    return err;
}

int store_truncate(struct store *s, struct waiter *w, struct inode *inode, uint64_t size)
{
    struct file *f = file_get(s, inode);
    if (!f)
        return -ENOMEM;
    int err;
    bool unsafe = f->state == FILE_DIRTY && !f->content; /* no crash would leave it */
    if (size > 0 || unsafe || f->backed) {
        if ((err = store_file_whole(s, w, inode)) || (err = file_reserve(f, size)))
            return err;
        if (ftruncate(f->fd, (off_t)size))
            return -errno;
    } else {
        waiter_take_error(w);
        if ((err = start_anew(f)))
            return err;
        waitq_wake(&s->wakeup, &f->waiting, 0);
    }
    content_changed(f);
    inode->size = (int64_t)size;
    file_account(f, size);
    return 0;
}

/* --- for readers that do not come here */

static struct timespec written_at(const struct file *f)
{
    struct stat st;
    return fstat(f->fd, &st) ? (struct timespec){.tv_nsec = -1} : st.st_mtim;
}

int store_back(struct inode *inode, struct timespec *written)
{
    struct file *f = inode->file;
    if (!f || f->opens != 1 || f->state != FILE_WHOLE || f->backed || file_outdated(f))
        return -1;
    *written = written_at(f);
    if (written->tv_nsec < 0)
        return -1;
    f->backed = true;
    return f->fd;
}

void store_unback(struct inode *inode)
{
    if (inode->file)
        inode->file->backed = false;
}

void store_written_past(struct store *s, struct inode *inode, struct timespec *written)
{
    struct file *f = inode->file;
    struct timespec now = f && f->fd >= 0 ? written_at(f) : *written;
    if (now.tv_sec == written->tv_sec && now.tv_nsec == written->tv_nsec)
        return;
    *written = now;
    content_changed(f);
    int err = file_keep(f);
    if (err)
        log_error("%s: what was written is not safe here: %s", inode->name, strerror(-err));
}
