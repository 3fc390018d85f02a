/* Changes of names: told to the server first, then done in the tree. A change under way goes
 * on when the operation that asked for it gives up; it pins what it needs. While it runs nothing
 * at or below its names is uploaded, and it begins only when nothing there is being uploaded.
 *
 *     checks ──▶ CALLED ──▶ DONE ──▶ result taken (or forgotten: freed at once)
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum change_kind { CHANGE_UNLINK, CHANGE_RMDIR, CHANGE_MKDIR, CHANGE_SYMLINK, CHANGE_RENAME };

struct change {
    struct change *prev, *next;
    struct store *store;
    enum change_kind kind;
    struct inode *dir, *to_dir; /* pinned; to_dir: renames only */
    struct inode *inode;        /* pinned: what is unlinked, removed or moved, then what was made */
    struct inode *other;        /* pinned: what a rename replaces or swaps with, or NULL */
    char *name;                 /* in dir, or in to_dir for a rename */
    char *target;               /* symlinks */
    mode_t mode;
    enum session_rename how;
    struct session_call *call;
    struct waitq waiting;
    bool done, forgotten;
    int err;
};

static void unpin(struct store *s, struct inode *inode)
{
    if (inode)
        inode_unpin(&s->inodes, inode);
}

static void change_free(struct change *c)
{
    struct store *s = c->store;
    DL_DELETE(s->change_list, c);
    if (c->call)
        session_cancel(c->call);
    unpin(s, c->inode);
    unpin(s, c->other);
    unpin(s, c->dir);
    unpin(s, c->to_dir);
    free(c->name);
    free(c->target);
    free(c);
}

static struct inode *pinned(struct inode *inode)
{
    if (inode)
        inode_pin(inode);
    return inode;
}

static struct change *change_new(struct store *s, enum change_kind kind, struct inode *dir,
                                 const char *name, struct inode *inode)
{
    struct change *c = calloc(1, sizeof *c);
    if (!c || !(c->name = strdup(name))) {
        free(c);
        return NULL;
    }
    c->store = s;
    c->kind = kind;
    c->dir = pinned(dir);
    c->inode = pinned(inode);
    DL_APPEND(s->change_list, c);
    return c;
}

bool store_changing(const struct store *s, const struct inode *inode)
{
    const struct change *c;
    DL_FOREACH (s->change_list, c) {
        if (!c->done && ((c->inode && inode_below(inode, c->inode)) ||
                         (c->other && inode_below(inode, c->other))))
            return true;
    }
    return false;
}

void store_changes_free(struct store *s)
{
    struct change *c, *next;
    DL_FOREACH_SAFE (s->change_list, c, next) {
        change_free(c);
    }
}

void store_change_forget(struct change *c)
{
    if (!c)
        return;
    c->forgotten = true;
    if (c->done)
        change_free(c);
}

/* --- what a change that the server made does to the tree */

static void dir_changed(struct store *s, struct inode *dir)
{
    clock_gettime(CLOCK_REALTIME, &dir->mtime);
    dir->ctime = dir->mtime;
}

static void take_away(struct store *s, struct inode *inode)
{
    struct inode *dir = inode->parent;
    if (!dir)
        return;
    store_bury(s, dir, inode->name);
    dir_changed(s, dir);
    inode_pin(inode);
    inode_remove(&s->inodes, inode);
    clock_gettime(CLOCK_REALTIME, &inode->ctime);
    if (S_ISREG(inode->mode))
        store_file_orphaned(s, inode);
    inode_unpin(&s->inodes, inode);
}

static int put_made(struct change *c)
{
    struct store *s = c->store;
    struct inode *inode = inode_child(c->dir, c->name);
    if (!inode && !(inode = inode_add(&s->inodes, c->dir, c->name, c->mode)))
        return -ENOMEM;
    inode->on_server = true;
    clock_gettime(CLOCK_REALTIME, &inode->mtime);
    inode->atime = inode->ctime = inode->mtime;
    if (c->kind == CHANGE_MKDIR) {
        inode->mode = c->mode;
        inode->own_mode = true;
    } else if (!inode->target) {
        inode->target = c->target;
        inode->size = (int64_t)strlen(c->target);
        c->target = NULL;
    }
    inode_touch(&s->inodes, inode);
    dir_changed(s, c->dir);
    c->inode = pinned(inode);
    return 0;
}

static int put_moved(struct change *c)
{
    struct store *s = c->store;
    struct inode *inode = c->inode;
    if (c->how == RENAME_SWAP) {
        if (inode->parent && c->other->parent)
            inode_swap(&s->inodes, inode, c->other);
        return 0;
    }
    struct inode *there = inode_child(c->to_dir, c->name);
    if (there == inode)
        return 0;
    if (there)
        take_away(s, there);
    if (!inode->parent)
        return 0; /* a listing took it away meanwhile; the next one shows it */
    store_bury(s, inode->parent, inode->name);
    dir_changed(s, inode->parent);
    dir_changed(s, c->to_dir);
    clock_gettime(CLOCK_REALTIME, &inode->ctime);
    return inode_move(&s->inodes, inode, c->to_dir, c->name);
}

static int apply(struct change *c)
{
    switch (c->kind) {
    case CHANGE_UNLINK:
    case CHANGE_RMDIR:
        take_away(c->store, c->inode);
        return 0;
    case CHANGE_MKDIR:
    case CHANGE_SYMLINK:
        return put_made(c);
    case CHANGE_RENAME:
        break;
    }
    return put_moved(c);
}

static void change_done(void *arg, const struct session_error *e)
{
    struct change *c = arg;
    struct store *s = c->store;
    c->call = NULL;
    c->done = true;
    c->err = e->err;
    if (c->kind == CHANGE_UNLINK && e->err == -ENOENT)
        c->err = 0; /* gone is what was wanted */
    if (!c->err)
        c->err = apply(c);
    else if (c->err != -ENOTEMPTY && c->err != -EEXIST)
        log_warning("%s: %s", c->name, e->message ? e->message : strerror(-e->err));
    waitq_wake(&s->wakeup, &c->waiting, 0);
    waitq_wake(&s->wakeup, &s->changed, 0);
    if (c->forgotten)
        change_free(c);
}

/* --- the operation's side */

/* Parks the waiter until the change is done; then gives its result, once. */
static int change_result(struct change **change, struct waiter *w, struct inode **made)
{
    struct change *c = *change;
    waiter_take_error(w);
    if (!c->done) {
        waitq_park(&c->waiting, w);
        return STORE_WAIT;
    }
    int err = c->err;
    if (made)
        *made = c->inode;
    *change = NULL;
    change_free(c);
    return err;
}

/* The call was made (or not, for want of memory): the operation waits for it. */
static int called(struct change *c, struct session_call *call, struct change **change,
                  struct waiter *w)
{
    if (!call) {
        change_free(c);
        return -ENOMEM;
    }
    c->call = call;
    *change = c;
    return change_result(change, w, NULL);
}

/* The server has nothing to do with it: done in the tree alone. */
static int done_here(struct change *c)
{
    int err = apply(c);
    change_free(c);
    return err;
}

/* What is open must have its content here before its name goes. */
static int before_name_goes(struct store *s, struct waiter *w, struct inode *inode)
{
    if (!S_ISREG(inode->mode) || !inode->file || !inode->file->opens ||
        inode->file->state == FILE_WHOLE || inode->file->state == FILE_DIRTY)
        return 0;
    int err = store_file_whole(s, w, inode);
    return err == -ENOENT ? 0 : err;
}

int store_unlink(struct store *s, struct waiter *w, struct inode *dir, const char *name,
                 struct change **change)
{
    if (*change)
        return change_result(change, w, NULL);
    struct inode *inode;
    int err = store_lookup(s, w, dir, name, &inode);
    if (err)
        return err;
    if (S_ISDIR(inode->mode))
        return -EISDIR;
    if ((err = before_name_goes(s, w, inode)) || (err = store_uploads_below(s, w, inode)))
        return err;
    struct change *c = change_new(s, CHANGE_UNLINK, dir, name, inode);
    if (!c)
        return -ENOMEM;
    if (!inode->on_server)
        return done_here(c);
    _cleanup_buf_ struct buf path = {0};
    struct session_call *call =
        inode_path(inode, &path) ? session_unlink(s->session, path.data, change_done, c) : NULL;
    return called(c, call, change, w);
}

int store_rmdir(struct store *s, struct waiter *w, struct inode *dir, const char *name,
                struct change **change)
{
    if (*change)
        return change_result(change, w, NULL);
    struct inode *inode;
    int err = store_lookup(s, w, dir, name, &inode);
    if (err)
        return err;
    if (!S_ISDIR(inode->mode))
        return -ENOTDIR;
    struct inode *child, *next;
    HASH_ITER (by_name, inode->children, child, next) {
        if (!child->on_server || store_file_dirty(child))
            return -ENOTEMPTY;
    }
    struct change *c = change_new(s, CHANGE_RMDIR, dir, name, inode);
    if (!c)
        return -ENOMEM;
    _cleanup_buf_ struct buf path = {0};
    struct session_call *call =
        inode_path(inode, &path) ? session_rmdir(s->session, path.data, change_done, c) : NULL;
    return called(c, call, change, w);
}

/* A name that is to be made: allowed, and free as far as the news goes. */
static int free_name(struct store *s, struct waiter *w, struct inode *dir, const char *name)
{
    int err = store_name_check(dir, name);
    if (!err)
        err = store_fresh(s, w, dir);
    if (!err && inode_child(dir, name))
        err = -EEXIST;
    return err;
}

int store_mkdir(struct store *s, struct waiter *w, struct inode *dir, const char *name, mode_t mode,
                struct change **change, struct inode **out)
{
    if (*change)
        return change_result(change, w, out);
    int err = free_name(s, w, dir, name);
    if (err)
        return err;
    struct change *c = change_new(s, CHANGE_MKDIR, dir, name, NULL);
    if (!c)
        return -ENOMEM;
    c->mode = S_IFDIR | (mode & 07777);
    _cleanup_buf_ struct buf path = {0};
    struct session_call *call = inode_child_path(dir, name, &path)
                                    ? session_mkdir(s->session, path.data, 0777, change_done, c)
                                    : NULL;
    return called(c, call, change, w);
}

int store_symlink(struct store *s, struct waiter *w, struct inode *dir, const char *name,
                  const char *target, struct change **change, struct inode **out)
{
    if (*change)
        return change_result(change, w, out);
    if (!text_is_utf8(target, strlen(target)))
        return -EILSEQ;
    int err = free_name(s, w, dir, name);
    if (err)
        return err;
    struct change *c = change_new(s, CHANGE_SYMLINK, dir, name, NULL);
    if (!c)
        return -ENOMEM;
    c->mode = S_IFLNK | 0777;
    c->target = strdup(target);
    _cleanup_buf_ struct buf path = {0};
    struct session_call *call = c->target && inode_child_path(dir, name, &path)
                                    ? session_symlink(s->session, target, path.data, change_done, c)
                                    : NULL;
    return called(c, call, change, w);
}

/* What rename(2) asks of the two names. */
static int rename_check(const struct inode *inode, const struct inode *other,
                        const struct inode *to_dir, enum session_rename how)
{
    if (S_ISDIR(inode->mode) && inode_below(to_dir, inode))
        return -EINVAL;
    if (how == RENAME_SWAP)
        return !other ? -ENOENT : inode_below(inode->parent, other) ? -EINVAL : 0;
    if (!other)
        return 0;
    if (how == RENAME_KEEP)
        return -EEXIST;
    if (S_ISDIR(other->mode) && !S_ISDIR(inode->mode))
        return -EISDIR;
    if (!S_ISDIR(other->mode) && S_ISDIR(inode->mode))
        return -ENOTDIR;
    return other->children ? -ENOTEMPTY : 0;
}

/* A file that the server does not have yet takes its new name here; its upload follows. What it
 * replaces stays on the server until then, so that a crash leaves the old or the new. */
static int rename_here(struct change *c)
{
    struct inode *inode = c->inode, *other = c->other;
    if (other && other->on_server) {
        inode->on_server = true;
        inode->base = other->base;
    }
    return done_here(c);
}

int store_rename(struct store *s, struct waiter *w, struct inode *from_dir, const char *from,
                 struct inode *to_dir, const char *to, enum session_rename how,
                 struct change **change)
{
    if (*change)
        return change_result(change, w, NULL);
    struct inode *inode, *other = NULL;
    int err = store_name_check(to_dir, to);
    if (!err)
        err = store_lookup(s, w, from_dir, from, &inode);
    if (!err && (err = store_lookup(s, w, to_dir, to, &other)) == -ENOENT)
        err = 0;
    if (err)
        return err;
    if (inode == other)
        return 0;
    if ((err = rename_check(inode, other, to_dir, how)))
        return err;
    if (how == RENAME_SWAP) {
        /* Both must be on the server to be swapped there. */
        uint64_t ticket = 0, other_ticket = 0;
        if (!inode->on_server && (err = store_flush(s, w, inode, &ticket)))
            return err;
        if (!other->on_server && (err = store_flush(s, w, other, &other_ticket)))
            return err;
    }
    if ((other && how != RENAME_SWAP && (err = before_name_goes(s, w, other))) ||
        (err = store_uploads_below(s, w, inode)) ||
        (other && (err = store_uploads_below(s, w, other))))
        return err;
    struct change *c = change_new(s, CHANGE_RENAME, from_dir, to, inode);
    if (!c)
        return -ENOMEM;
    c->other = pinned(other);
    c->to_dir = pinned(to_dir);
    c->how = how;
    if (!inode->on_server && how != RENAME_SWAP)
        return rename_here(c);
    if (how == RENAME_PLAIN && other && !other->on_server)
        store_file_orphaned(s, other);
    _cleanup_buf_ struct buf old_path = {0}, new_path = {0};
    struct session_call *call =
        inode_path(inode, &old_path) && inode_child_path(to_dir, to, &new_path)
            ? session_rename(s->session, old_path.data, new_path.data, how, change_done, c)
            : NULL;
    return called(c, call, change, w);
}
