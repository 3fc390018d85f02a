/* Changes of names: told to the server first, then done in the tree. A change under way goes
 * on when the operation that asked for it gives up; it pins what it needs. While it runs nothing
 * at or below its names is uploaded or deleted, and it begins only when nothing there is.
 *
 *     checks ──▶ (INTENDED) ──▶ CALLED ──▶ DONE ──recorded──▶ result taken (or forgotten: freed at
 * once)
 *
 * What the server may hear of later is done here alone: a file is deleted in the tree and in the
 * journal, and one with content that is not on the server yet is renamed there, and goes up under
 * its new name. What the server had under the old one is then removed (removal.c). So those
 * renames, and deletes of files, work while the pool is away; all other changes are then refused
 * at once, for they could not be seen to be possible. A rename by the server of what the journal
 * tells of is INTENDED first: see recover.c. */
#include "store/internal.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "store/fault.h"
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
    char *old_path, *new_path; /* of a rename by the server */
    bool intended;             /* the journal tells of it */
    struct waiter begin;       /* until it does */
    uint64_t batch;            /* with which its records are kept */
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
    waiter_leave(&c->begin);
    unpin(s, c->inode);
    unpin(s, c->other);
    unpin(s, c->dir);
    unpin(s, c->to_dir);
    free(c->name);
    free(c->target);
    free(c->old_path);
    free(c->new_path);
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

/* Whether the journal may tell of the name, or of one below it. */
static bool is_recorded(const struct inode *inode)
{
    return inode->recorded || S_ISDIR(inode->mode);
}

static void take_away(struct change *c, struct inode *inode)
{
    struct store *s = c->store;
    struct inode *dir = inode->parent;
    _cleanup_buf_ struct buf path = {0};
    if (!dir)
        return;
    if (is_recorded(inode) && inode_path(inode, &path))
        c->batch = store_record(s, RECORD_GONE, path.data, NULL, store_file_dirty(inode));
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
        store_note(s, inode);
    } else if (!inode->target) {
        inode->target = c->target;
        inode->own_target = true;
        inode->size = (int64_t)strlen(c->target);
        c->target = NULL;
    }
    inode_touch(&s->inodes, inode);
    dir_changed(s, c->dir);
    c->inode = pinned(inode);
    return 0;
}

static int swap(struct change *c)
{
    struct store *s = c->store;
    _cleanup_buf_ struct buf one = {0}, other = {0};
    if (!c->inode->parent || !c->other->parent)
        return 0;
    if (!inode_path(c->inode, &one) || !inode_path(c->other, &other))
        return -ENOMEM;
    c->batch = store_record(s, RECORD_SWAP, one.data, other.data, true);
    return inode_swap(&s->inodes, c->inode, c->other);
}

static int put_moved(struct change *c)
{
    struct store *s = c->store;
    struct inode *inode = c->inode;
    _cleanup_buf_ struct buf from = {0}, to = {0};
    if (c->how == RENAME_SWAP)
        return swap(c);
    struct inode *there = inode_child(c->to_dir, c->name);
    if (there == inode)
        return 0;
    if (there)
        take_away(c, there);
    if (!inode->parent)
        return 0; /* a listing took it away meanwhile; the next one shows it */
    if (!inode_path(inode, &from) || !inode_child_path(c->to_dir, c->name, &to))
        return -ENOMEM;
    store_bury(s, inode->parent, inode->name);
    dir_changed(s, inode->parent);
    dir_changed(s, c->to_dir);
    clock_gettime(CLOCK_REALTIME, &inode->ctime);
    int err = inode_move(&s->inodes, inode, c->to_dir, c->name);
    if (!err && is_recorded(inode))
        c->batch = store_record(s, RECORD_MOVE, from.data, to.data, true);
    return err;
}

static int apply(struct change *c)
{
    switch (c->kind) {
    case CHANGE_UNLINK:
    case CHANGE_RMDIR:
        take_away(c, c->inode);
        return 0;
    case CHANGE_MKDIR:
    case CHANGE_SYMLINK:
        return put_made(c);
    case CHANGE_RENAME:
        break;
    }
    return put_moved(c);
}

/* Its outcome is known, and in the next batch. */
static void change_over(struct change *c)
{
    struct store *s = c->store;
    if (c->intended)
        store_record(s, RECORD_SETTLED, c->old_path, c->new_path, false);
    c->done = true;
    waitq_wake(&s->wakeup, &c->waiting, 0);
    waitq_wake(&s->wakeup, &s->changed, 0);
    loop_timer_set(&s->pump, 0); /* for what was not sent meanwhile */
    if (c->forgotten)
        change_free(c);
}

/* Whether it may have been made all the same: the answer is lost. */
static bool is_doubtful(int err)
{
    return err == -EIO || err == -ETIMEDOUT || err == -EHOSTUNREACH;
}

static void change_done(void *arg, const struct session_error *e)
{
    struct change *c = arg;
    struct store *s = c->store;
    c->call = NULL;
    c->err = e->err;
    if (c->kind == CHANGE_UNLINK && e->err == -ENOENT)
        c->err = 0; /* gone is what was wanted */
    if (!c->err)
        fault_point("change-made");
    if (!c->err)
        c->err = apply(c);
    else if (c->err != -ENOTEMPTY && c->err != -EEXIST)
        log_warning("%s: %s", c->name, e->message ? e->message : strerror(-e->err));
    if (c->kind == CHANGE_RENAME && is_doubtful(e->err)) {
        store_uploads_doubt(s, c->inode);
        if (c->other)
            store_uploads_doubt(s, c->other);
    }
    store_note_reach(s, e->err);
    change_over(c);
}

/* --- the operation's side */

/* Parks the waiter until the change is done; then gives its result, once. */
static int change_result(struct change **change, struct waiter *w, struct inode **made)
{
    struct change *c = *change;
    if (!c->done) {
        waiter_take_error(w);
        waitq_park(&c->waiting, w);
        return STORE_WAIT;
    }
    int err = c->kind == CHANGE_UNLINK ? store_written(c->store, w, c->batch)
                                       : store_recorded(c->store, w, c->batch);
    if (err == STORE_WAIT)
        return err;
    if (c->err)
        err = c->err;
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

/* The server has nothing to do with it: done in the tree and the journal alone. */
static int done_here(struct change *c, struct change **change, struct waiter *w)
{
    c->err = apply(c);
    c->done = true;
    *change = c;
    return change_result(change, w, NULL);
}

static const struct version unknown = {.size = -1, .mtime = {.tv_nsec = -1}};

/* Whether the server may have something of a file that never arrived there as a whole. */
static bool may_be_there(const struct inode *inode)
{
    const struct file *f = inode->file;
    return f && (f->maybe_sent || f->send == SEND_SENDING);
}

/* A file goes here; what the server has of it follows. A power cut may bring it back, as on a local
 * disk: what is waited for is that nothing else does. */
static int unlink_here(struct change *c, struct change **change, struct waiter *w)
{
    struct store *s = c->store;
    struct inode *inode = c->inode;
    bool in_part = may_be_there(inode), seen = !in_part && !store_file_dirty(inode);
    if (inode->on_server || in_part)
        c->batch = store_remove_later(s, c->dir, c->name, in_part ? &unknown : &inode->base,
                                      seen ? store_news_ms(s, c->dir) : 0, NULL,
                                      in_part ? file_detach_upload(inode->file) : NULL);
    return done_here(c, change, w);
}

/* What the server must do is not even tried while it is known not to answer. */
static int reach(const struct store *s)
{
    return store_pool_away(s) ? s->away : 0;
}

/* What is open must have its content here before its name goes. */
static int before_name_goes(struct store *s, struct waiter *w, struct inode *inode)
{
    if (!S_ISREG(inode->mode) || !inode->file || !inode->file->opens ||
        inode->file->state == FILE_WHOLE || inode->file->state == FILE_DIRTY)
        return 0;
    int err = store_file_whole(s, w, inode);
    return err == -ENOENT || err == -ENOSPC ? 0 : err; /* gone already, or more than fits here */
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
    if (inode->on_server && (err = before_name_goes(s, w, inode)))
        return err;
    if (S_ISLNK(inode->mode) && (err = reach(s)))
        return err;
    struct change *c = change_new(s, CHANGE_UNLINK, dir, name, inode);
    if (!c)
        return -ENOMEM;
    if (S_ISREG(inode->mode))
        return unlink_here(c, change, w);
    _cleanup_buf_ struct buf path = {0};
    struct session_call *call = inode_path(inode, &path)
                                    ? session_unlink(s->session, path.data, false, change_done, c)
                                    : NULL;
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
    if ((err = store_removal_wait(s, w, inode, NULL)) || (err = inode->on_server ? reach(s) : 0))
        return err;
    struct change *c = change_new(s, CHANGE_RMDIR, dir, name, inode);
    if (!c)
        return -ENOMEM;
    if (!inode->on_server)
        return done_here(c, change, w);
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
    if (!err)
        err = store_removal_wait(s, w, dir, name);
    return err ? err : reach(s);
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

/* Whether the rename concerns a file whose content goes up under the new name anyway. */
static bool is_local(const struct inode *inode, const struct inode *other, enum session_rename how)
{
    return how != RENAME_SWAP && (!other || S_ISREG(other->mode)) &&
           (S_ISREG(inode->mode) ? !inode->on_server || store_file_dirty(inode)
                                 : !inode->on_server);
}

/* What the file takes the place of on the server, from an inode or a removal. */
static void takes_place(struct file *f, bool on_server, const struct version *base,
                        const struct file *other)
{
    f->inode->on_server = on_server;
    f->inode->base = on_server ? *base : unknown;
    f->maybe_sent = f->sent_other = other && other->maybe_sent;
    f->sent_size = f->maybe_sent ? other->sent_size : 0;
}

/* The file takes its new name here; its upload follows. What it replaces stays on the server until
 * then, so that a crash leaves the old or the new; what it had there itself goes after that. */
static int rename_here(struct change *c, struct change **change, struct waiter *w)
{
    struct store *s = c->store;
    struct inode *inode = c->inode, *other = c->other;
    if (!S_ISREG(inode->mode) || !inode->file)
        return done_here(c, change, w);
    struct file *f = inode->file;
    bool there = may_be_there(inode), leaves = inode->on_server || there;
    struct version base = there ? unknown : inode->base;
    struct removal *removal = store_removal(s, c->to_dir, c->name);
    _cleanup_free_ char *old_name = strdup(inode->name);
    if (!old_name) {
        change_free(c);
        return -ENOMEM;
    }
    struct sending *sender = file_detach_upload(f);
    file_unqueue(f);
    if (removal) {
        struct version left;
        store_removal_replace(s, removal, &left);
        takes_place(f, true, &left, NULL);
        f->over_left = !f->content;
    } else {
        takes_place(f, other && other->on_server, other ? &other->base : NULL,
                    other ? other->file : NULL);
    }
    c->err = apply(c);
    c->done = true;
    if (inode->parent && inode->recorded)
        c->batch = store_note(s, inode);
    if (leaves)
        c->batch = store_remove_later(s, c->dir, old_name, &base, 0, inode, sender);
    if (f->kept == f->written)
        file_queue(f);
    *change = c;
    return change_result(change, w, NULL);
}

/* --- renames by the server */

static void rename_call(struct change *c)
{
    struct store *s = c->store;
    fault_point("change-intended");
    c->call = session_rename(s->session, c->old_path, c->new_path, c->how, change_done, c);
    if (c->call)
        return;
    c->err = -ENOMEM;
    change_over(c);
}

static void intent_kept(struct waiter *w)
{
    struct change *c = (struct change *)((char *)w - offsetof(struct change, begin));
    int err = waiter_take_error(w);
    if (err) {
        c->err = err;
        change_over(c);
    } else {
        rename_call(c);
    }
}

/* Only what the journal tells of is in danger of coming back under its old name. */
static int rename_there(struct change *c, struct change **change, struct waiter *w)
{
    struct store *s = c->store;
    _cleanup_buf_ struct buf old_path = {0}, new_path = {0};
    if (!inode_path(c->inode, &old_path) || !inode_child_path(c->to_dir, c->name, &new_path)) {
        change_free(c);
        return -ENOMEM;
    }
    c->old_path = buf_take(&old_path);
    c->new_path = buf_take(&new_path);
    c->intended = is_recorded(c->inode) || (c->other && is_recorded(c->other));
    *change = c;
    if (!c->intended) {
        rename_call(c);
        return change_result(change, w, NULL);
    }
    waiter_init(&c->begin, intent_kept);
    c->batch = store_record_intent(s, c->old_path, c->new_path, c->how);
    if (store_recorded(s, &c->begin, c->batch) != STORE_WAIT)
        rename_call(c);
    return change_result(change, w, NULL);
}

int store_changes_note(struct store *s, struct buf *frames)
{
    const struct change *c;
    int err = 0;
    DL_FOREACH (s->change_list, c) {
        const struct record r = {.type = RECORD_INTENT,
                                 .path = c->old_path,
                                 .other = c->new_path,
                                 .how = (uint32_t)c->how};
        if (!err && c->intended && !c->done)
            err = store_frame(frames, &r);
    }
    return err;
}

static int find_both(struct store *s, struct waiter *w, struct inode *from_dir, const char *from,
                     struct inode *to_dir, const char *to, struct inode **inode,
                     struct inode **other)
{
    int err = store_name_check(to_dir, to);
    if (!err)
        err = store_lookup(s, w, from_dir, from, inode);
    if (!err && (err = store_lookup(s, w, to_dir, to, other)) == -ENOENT)
        err = 0;
    return err;
}

/* Both must be on the server to be swapped there; so must a file to replace what is none. */
static int bring_up(struct store *s, struct waiter *w, struct inode *inode)
{
    uint64_t ticket = 0;
    return inode->on_server ? 0 : store_flush(s, w, inode, &ticket);
}

/* Waits for what must be over before the server is asked. */
static int prepare(struct store *s, struct waiter *w, struct inode *inode, struct inode *other,
                   enum session_rename how)
{
    int err = bring_up(s, w, inode);
    if (!err && other && how == RENAME_SWAP)
        err = bring_up(s, w, other);
    if (!err && other && how != RENAME_SWAP)
        err = before_name_goes(s, w, other);
    if (!err)
        err = store_uploads_below(s, w, inode);
    if (!err && other)
        err = store_uploads_below(s, w, other);
    return err ? err : reach(s);
}

int store_rename(struct store *s, struct waiter *w, struct inode *from_dir, const char *from,
                 struct inode *to_dir, const char *to, enum session_rename how,
                 struct change **change)
{
    if (*change)
        return change_result(change, w, NULL);
    struct inode *inode, *other = NULL;
    int err = find_both(s, w, from_dir, from, to_dir, to, &inode, &other);
    if (err)
        return err;
    if (inode == other)
        return 0;
    if ((err = rename_check(inode, other, to_dir, how)))
        return err;
    bool local = is_local(inode, other, how);
    if (local && other)
        err = before_name_goes(s, w, other);
    if (local && other && !err)
        err = store_uploads_below(s, w, other);
    if (local && !err && S_ISDIR(inode->mode))
        err = store_uploads_below(s, w, inode);
    if (!local)
        err = prepare(s, w, inode, other, how);
    if (!err && (!local || !S_ISREG(inode->mode)))
        err = store_removal_wait(s, w, to_dir, to); /* it would hit what has the name then */
    if (err)
        return err;
    struct change *c = change_new(s, CHANGE_RENAME, from_dir, to, inode);
    if (!c)
        return -ENOMEM;
    c->other = pinned(other);
    c->to_dir = pinned(to_dir);
    c->how = how;
    return local ? rename_here(c, change, w) : rename_there(c, change, w);
}
