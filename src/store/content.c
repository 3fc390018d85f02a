/* Content on local disk: its place. See enum file_state. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

void file_drop(struct file *f)
{
    file_stop_fetching(f);
    if (f->fd >= 0) {
        close(f->fd);
        room_took_place(f, false);
    }
    f->fd = -1;
    f->state = FILE_ABSENT;
    file_account(f, 0);
    file_unname(f);
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
    room_add(f);
    return f;
}

/* Gives the file an empty place on disk. */
int file_new_content(struct file *f)
{
    file_drop(f);
    int err = room_make(f, 0);
    if (err)
        return err;
    f->fd = openat(shelf_content(f->store->shelf), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (f->fd < 0)
        return -errno;
    room_took_place(f, true);
    return 0;
}

/* Room for the file to reach `end` bytes. */
int file_reserve(struct file *f, uint64_t end)
{
    if (end <= f->bytes)
        return 0;
    uint64_t more = end - f->bytes; /* to make room may take from it, too */
    int err = room_make(f, more);
    if (!err)
        file_account(f, f->bytes + more);
    return err;
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
    room_remove(f);
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
