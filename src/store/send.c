/* Sending: what was written here goes to the server. See enum file_state. */
#include "store/internal.h"

#include <errno.h>
#include <string.h>

#include <utlist.h>

#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum { RETRY_MS = 15000 /* a file whose upload failed is tried again after this */ };

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

void file_send(struct file *f)
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
            file_send(f);
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
    file_send(f);
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
            file_send(f);
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
