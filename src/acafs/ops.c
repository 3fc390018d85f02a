/* The low-level FUSE operations over the store: each a step that runs until nothing is left
 * to wait for. What concerns .acafs goes to control.c. */
#include "acafs/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <linux/fs.h>

#include <utlist.h>

#include "acafs/autorun.h"
#include "acafs/control.h"
#include "acafs/link_target.h"
#include "acafs/passthrough.h"
#include "acafs/request.h"
#include "util/log.h"

static struct mount *mount_of(fuse_req_t req, fuse_ino_t ino)
{
    return volume_mount(fuse_req_userdata(req), ino);
}

static bool is_controls(fuse_ino_t ino)
{
    return control_owns(mount_id(ino));
}

/* The inode of a request; NULL after answering ESTALE. */
static struct inode *inode_of(fuse_req_t req, fuse_ino_t ino)
{
    struct inode *inode = inode_find(store_inodes(mount_of(req, ino)->store), mount_id(ino));
    if (!inode)
        fuse_reply_err(req, ESTALE);
    return inode;
}

static struct request *begin(fuse_req_t req, fuse_ino_t ino, int (*step)(struct request *))
{
    struct inode *inode = inode_of(req, ino);
    return inode ? request_new(mount_of(req, ino), req, inode, step) : NULL;
}

static bool is_control(fuse_ino_t parent, const char *name)
{
    return mount_id(parent) == INODE_ROOT_ID && strcmp(name, ".acafs") == 0;
}

/* As begin(), for an operation on a name; the name is copied. */
static struct request *begin_named(fuse_req_t req, fuse_ino_t parent, const char *name,
                                   int (*step)(struct request *))
{
    if (is_controls(parent) || is_control(parent, name)) {
        fuse_reply_err(req, EPERM);
        return NULL;
    }
    struct request *r = begin(req, parent, step);
    if (r && !(r->name = strdup(name)))
        r->step = NULL; /* answered ENOMEM by request_run() */
    return r;
}

static void fill_stat(const struct mount *m, const struct inode *inode, struct stat *st)
{
    store_stat(inode, st);
    st->st_ino = mount_ino(m, inode->id);
}

static void fill_entry(const struct mount *m, const struct inode *inode, struct fuse_entry_param *e)
{
    *e = (struct fuse_entry_param){.ino = mount_ino(m, inode->id)};
    fill_stat(m, inode, &e->attr);
    e->attr_timeout = e->entry_timeout = (double)store_ttl_ms(m->store, inode) / 1000;
}

static int reply_entry(struct request *r, struct inode *inode)
{
    struct fuse_entry_param e;
    fill_entry(r->mount, inode, &e);
    inode_looked_up(inode);
    if (fuse_reply_entry(r->req, &e))
        inode_forget(store_inodes(r->mount->store), inode, 1);
    return 0;
}

/* What a user makes is that user's, unless an owner was set for all. */
static void own(struct request *r, struct inode *inode)
{
    const struct fuse_ctx *who = fuse_req_ctx(r->req);
    const struct config *c = r->mount->config;
    uid_t uid = who && c->uid == (uid_t)-1 ? who->uid : inode->uid;
    gid_t gid = who && c->gid == (gid_t)-1 ? who->gid : inode->gid;
    if (uid != inode->uid || gid != inode->gid)
        store_set_owner(r->mount->store, inode, uid, gid);
}

static int reply_attr(struct request *r)
{
    struct stat st;
    fill_stat(r->mount, r->inode, &st);
    fuse_reply_attr(r->req, &st, (double)store_ttl_ms(r->mount->store, r->inode) / 1000);
    return 0;
}

static int step_told(struct request *r)
{
    int err = store_commit_told(r->mount->store, &r->waiter, &r->ticket);
    if (err)
        return err;
    return r->other ? reply_entry(r, r->other) : reply_attr(r);
}

/* Answers when what was set here is in the journal, so that the end of the daemon leaves it: with
 * what was made, or the attributes. */
static int answer_told(struct request *r)
{
    r->step = step_told;
    r->ticket = 0;
    return step_told(r);
}

static int answer_made(struct request *r, struct inode *inode)
{
    own(r, inode);
    r->other = inode;
    inode_pin(inode);
    return answer_told(r);
}

/* --- names and attributes */

static int step_lookup(struct request *r)
{
    struct inode *inode;
    int err = store_lookup(r->mount->store, &r->waiter, r->inode, r->name, &inode);
    if (err == -ENOENT) {
        struct fuse_entry_param none = {
            .entry_timeout = (double)store_names_ttl_ms(r->mount->store, r->inode) / 1000};
        fuse_reply_entry(r->req, &none);
        return 0;
    }
    return err ? err : reply_entry(r, inode);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct mount *m = mount_of(req, parent);
    if (is_controls(parent) || is_control(parent, name)) {
        control_lookup(m->control, req, mount_id(parent), name);
        return;
    }
    struct request *r = begin_named(req, parent, name, step_lookup);
    if (r)
        request_run(r);
}

void mount_forget(struct mount *m, fuse_ino_t ino, uint64_t count)
{
    struct inode *inode =
        is_controls(ino) ? NULL : inode_find(store_inodes(m->store), mount_id(ino));
    if (inode)
        inode_forget(store_inodes(m->store), inode, count);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    mount_forget(mount_of(req, ino), ino, count);
    fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *list)
{
    for (size_t i = 0; i < count; i++)
        mount_forget(mount_of(req, list[i].ino), list[i].ino, list[i].nlookup);
    fuse_reply_none(req);
}

static int step_getattr(struct request *r)
{
    int err = store_fresh_attr(r->mount->store, &r->waiter, r->inode);
    return err ? err : reply_attr(r);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if (is_controls(ino)) {
        control_getattr(mount_of(req, ino)->control, req, mount_id(ino));
        return;
    }
    struct request *r = begin(req, ino, step_getattr);
    if (r)
        request_run(r);
}

static void set_times(struct request *r)
{
    struct timespec now, *atime = NULL, *mtime = NULL;
    clock_gettime(CLOCK_REALTIME, &now);
    if (r->to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW))
        atime = r->to_set & FUSE_SET_ATTR_ATIME_NOW ? &now : &r->attr.st_atim;
    if (r->to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW))
        mtime = r->to_set & FUSE_SET_ATTR_MTIME_NOW ? &now : &r->attr.st_mtim;
    if (atime || mtime)
        store_set_times(r->mount->store, r->inode, atime, mtime);
}

/* What a close waits for: that content is safe on this disk or, with -o sync, on the server. */
static int wait_safe(struct request *r, struct inode *inode)
{
    struct store *s = r->mount->store;
    return r->mount->config->sync ? store_flush(s, &r->waiter, inode, &r->ticket)
                                  : store_commit(s, &r->waiter, inode, &r->ticket);
}

/* A size set by path has no close that would keep and send it: that is done here. */
static int set_size(struct request *r)
{
    struct store *s = r->mount->store;
    if (S_ISDIR(r->inode->mode))
        return -EISDIR;
    if (r->to_set & FUSE_SET_ATTR_SIZE) {
        int err = store_truncate(s, &r->waiter, r->inode, (uint64_t)r->attr.st_size);
        if (err)
            return err;
        r->to_set &= ~FUSE_SET_ATTR_SIZE;
        autorun_wrote(r->mount->autorun, r->inode);
    }
    return r->flags ? 0 : wait_safe(r, r->inode);
}

static int step_setattr(struct request *r)
{
    struct store *s = r->mount->store;
    if (r->to_set & FUSE_SET_ATTR_SIZE || r->ticket) {
        int err = set_size(r);
        if (err)
            return err;
    }
    if (r->to_set & FUSE_SET_ATTR_MODE)
        store_set_mode(s, r->inode, r->attr.st_mode);
    if (r->to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
        store_set_owner(s, r->inode, r->to_set & FUSE_SET_ATTR_UID ? r->attr.st_uid : (uid_t)-1,
                        r->to_set & FUSE_SET_ATTR_GID ? r->attr.st_gid : (gid_t)-1);
    set_times(r);
    return r->to_set ? answer_told(r) : reply_attr(r);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                       struct fuse_file_info *fi)
{
    if (is_controls(ino)) {
        control_getattr(mount_of(req, ino)->control, req,
                        mount_id(ino)); /* O_TRUNC of the control file */
        return;
    }
    struct request *r = begin(req, ino, step_setattr);
    if (!r)
        return;
    r->attr = *attr;
    r->to_set = to_set;
    r->flags = fi != NULL; /* open: its close sends */
    request_run(r);
}

static void reply_contained(fuse_req_t req, struct mount *m, const struct inode *inode)
{
    _cleanup_buf_ struct buf target = {0};
    int err = link_target(inode, &target);
    if (err == -EPERM && !m->told_of_symlinks) {
        m->told_of_symlinks = true;
        log_warning("%s: a symlink that leads out of the session: it, and others like it, can't be "
                    "read (symlinks=follow shows them)",
                    inode->name);
    }
    if (err)
        fuse_reply_err(req, -err);
    else
        fuse_reply_readlink(req, target.data);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    if (is_controls(ino)) {
        control_readlink(mount_of(req, ino)->control, req, mount_id(ino));
        return;
    }
    const struct inode *inode = inode_of(req, ino);
    if (!inode)
        return;
    if (!S_ISLNK(inode->mode))
        fuse_reply_err(req, EINVAL);
    else if (strcmp(mount_of(req, ino)->config->symlinks, "follow") == 0)
        fuse_reply_readlink(req, inode->target ? inode->target : "");
    else
        reply_contained(req, mount_of(req, ino), inode);
}

/* --- directories: an open one is a snapshot, so that names come once each */

struct dir_handle {
    struct dir_handle *prev, *next;
    struct inode **entries; /* pinned */
    size_t count;
    bool taken;
};

static void drop_snapshot(struct mount *m, struct dir_handle *h)
{
    for (size_t i = 0; i < h->count; i++)
        inode_unpin(store_inodes(m->store), h->entries[i]);
    free(h->entries);
    h->entries = NULL;
    h->count = 0;
    h->taken = false;
}

static int take_snapshot(struct mount *m, struct dir_handle *h, struct inode *dir)
{
    drop_snapshot(m, h);
    size_t n = HASH_CNT(by_name, dir->children);
    h->entries = calloc(n ? n : 1, sizeof *h->entries);
    if (!h->entries)
        return -ENOMEM;
    struct inode *child, *next;
    HASH_ITER (by_name, dir->children, child, next) {
        inode_pin(child);
        h->entries[h->count++] = child;
    }
    h->taken = true;
    return 0;
}

static void close_directory(struct mount *m, struct dir_handle *h)
{
    DL_DELETE(m->directories, h);
    drop_snapshot(m, h);
    free(h);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if (is_controls(ino)) {
        fi->fh = 0;
        fuse_reply_open(req, fi);
        return;
    }
    struct dir_handle *h = calloc(1, sizeof *h);
    if (!h) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    struct mount *m = mount_of(req, ino);
    DL_APPEND(m->directories, h);
    fi->fh = (uintptr_t)h;
    if (fuse_reply_open(req, fi))
        close_directory(m, h);
}

void mount_close_directories(struct mount *m)
{
    while (m->directories)
        close_directory(m, m->directories);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct dir_handle *h = (struct dir_handle *)(uintptr_t)fi->fh;
    if (h)
        close_directory(mount_of(req, ino), h);
    fuse_reply_err(req, 0);
}

/* Adds one entry to the answer; false when it is full. */
static bool add_entry(struct request *r, const char *name, struct inode *inode, uint64_t next,
                      bool counted)
{
    char *at = r->data.data + r->data.len;
    size_t room = r->size - r->data.len, used;
    if (r->flags) {
        struct fuse_entry_param e;
        fill_entry(r->mount, inode, &e);
        used = fuse_add_direntry_plus(r->req, at, room, name, &e, (off_t)next);
        if (used <= room && counted)
            inode_looked_up(inode);
    } else {
        struct stat st = {.st_ino = mount_ino(r->mount, inode->id), .st_mode = inode->mode};
        used = fuse_add_direntry(r->req, at, room, name, &st, (off_t)next);
    }
    if (used > room)
        return false;
    r->data.len += used;
    return true;
}

static int step_readdir(struct request *r)
{
    struct dir_handle *h = (struct dir_handle *)(uintptr_t)r->fi.fh;
    int err = 0;
    if (r->offset == 0 || !h->taken) {
        err = store_fresh(r->mount->store, &r->waiter, r->inode);
        if (!err)
            err = take_snapshot(r->mount, h, r->inode);
    }
    if (!err)
        err = buf_reserve(&r->data, r->size);
    if (err)
        return err;
    struct inode *parent = r->inode->parent ? r->inode->parent : r->inode;
    uint64_t i = r->offset;
    if (i == 0 && add_entry(r, ".", r->inode, 1, false))
        i++;
    if (i == 1 && add_entry(r, "..", parent, 2, false))
        i++;
    for (; i >= 2 && i - 2 < h->count; i++) {
        struct inode *inode = h->entries[i - 2];
        /* What went or moved since the snapshot is passed over. */
        if (inode->parent == r->inode && !add_entry(r, inode->name, inode, i + 1, true))
            break;
    }
    fuse_reply_buf(r->req, r->data.data, r->data.len);
    return 0;
}

static void readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi, bool plus)
{
    if (is_controls(ino)) {
        control_readdir(mount_of(req, ino)->control, req, mount_id(ino), size, offset, plus);
        return;
    }
    struct request *r = begin(req, ino, step_readdir);
    if (!r)
        return;
    r->fi = *fi;
    r->size = size;
    r->offset = (uint64_t)offset;
    r->flags = plus;
    request_run(r);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
    readdir(req, ino, size, offset, fi, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                           struct fuse_file_info *fi)
{
    readdir(req, ino, size, offset, fi, true);
}

/* --- files */

/* fi->fh of regular files: whether closing it is a reason to send. */
enum { HANDLE_READS, HANDLE_WRITES };

static void close_file(struct mount *m, fuse_req_t req, struct inode *inode, uint64_t handle)
{
    passthrough_close(m, req, inode, handle == HANDLE_WRITES);
    store_close(m->store, inode);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct mount *m = mount_of(req, ino);
    if (is_controls(ino)) {
        control_open(m->control, req, mount_id(ino), fi);
        return;
    }
    struct inode *inode = inode_of(req, ino);
    if (!inode)
        return;
    bool keep = false;
    int err = store_open(m->store, inode, fi->flags & O_TRUNC, &keep);
    if (err) {
        fuse_reply_err(req, -err);
        return;
    }
    fi->fh = (fi->flags & O_ACCMODE) == O_RDONLY ? HANDLE_READS : HANDLE_WRITES;
    fi->keep_cache = keep;
    fi->direct_io = inode->size < 0; /* read until it ends: no listing told its size */
    passthrough_open(m, req, inode, fi);
    if (fuse_reply_open(req, fi))
        close_file(m, req, inode, fi->fh);
    else if (fi->fh == HANDLE_WRITES)
        autorun_opened(m->autorun, inode, fi->flags & O_TRUNC);
}

static int step_create(struct request *r)
{
    struct mount *m = r->mount;
    struct inode *inode;
    int err = store_create(m->store, &r->waiter, r->inode, r->name, r->mode, &inode);
    if (err == -EEXIST && !(r->fi.flags & O_EXCL)) {
        /* It came to be since the kernel looked. */
        bool keep;
        inode = inode_child(r->inode, r->name);
        err = !S_ISREG(inode->mode) ? -EISDIR
                                    : store_open(m->store, inode, r->fi.flags & O_TRUNC, &keep);
    } else if (!err) {
        own(r, inode);
    }
    if (err)
        return err;
    r->fi.fh = HANDLE_WRITES;
    struct fuse_entry_param e;
    fill_entry(m, inode, &e);
    inode_looked_up(inode);
    passthrough_open(m, r->req, inode, &r->fi);
    if (fuse_reply_create(r->req, &e, &r->fi)) {
        close_file(m, r->req, inode, HANDLE_WRITES);
        inode_forget(store_inodes(m->store), inode, 1);
    } else {
        autorun_opened(m->autorun, inode, true);
    }
    return 0;
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
    struct request *r = begin_named(req, parent, name, step_create);
    if (!r)
        return;
    r->mode = mode;
    r->fi = *fi;
    request_run(r);
}

static int step_mknod(struct request *r)
{
    struct mount *m = r->mount;
    if (!r->other) {
        int err = store_create(m->store, &r->waiter, r->inode, r->name, r->mode, &r->other);
        if (err)
            return err;
        inode_pin(r->other);
        own(r, r->other);
        store_close(m->store, r->other);
    }
    int err = wait_safe(r, r->other);
    return err ? err : reply_entry(r, r->other);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev)
{
    if (!S_ISREG(mode)) {
        fuse_reply_err(req, EPERM); /* "does not support the type of node requested" */
        return;
    }
    struct request *r = begin_named(req, parent, name, step_mknod);
    if (!r)
        return;
    r->mode = mode;
    request_run(r);
}

/* Of reads and writes EAGAIN says that the file does not block: Python's read() and others then
 * return what they have so far, as at the file's end. A pool that throttles must not cut it. */
static int content_error(int err)
{
    return err == -EAGAIN ? -EBUSY : err;
}

static int step_read(struct request *r)
{
    int fd;
    size_t available;
    int err =
        store_read(r->mount->store, &r->waiter, r->inode, r->offset, r->size, &fd, &available);
    if (err)
        return content_error(err);
    struct fuse_bufvec data = FUSE_BUFVEC_INIT(available);
    data.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    data.buf[0].fd = fd;
    data.buf[0].pos = (off_t)r->offset;
    fuse_reply_data(r->req, &data, FUSE_BUF_SPLICE_MOVE);
    return 0;
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    if (is_controls(ino)) {
        control_read(mount_of(req, ino)->control, req, mount_id(ino), size, offset, fi);
        return;
    }
    struct request *r = begin(req, ino, step_read);
    if (!r)
        return;
    r->size = size;
    r->offset = (uint64_t)offset;
    request_run(r);
}

static int step_write(struct request *r)
{
    int err =
        store_write(r->mount->store, &r->waiter, r->inode, r->offset, r->data.data, r->data.len);
    if (err)
        return content_error(err);
    autorun_wrote(r->mount->autorun, r->inode);
    fuse_reply_write(r->req, r->data.len);
    return 0;
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    struct mount *m = mount_of(req, ino);
    if (is_controls(ino)) {
        control_write(m->control, req, data, size, fi);
        return;
    }
    struct request *r = begin(req, ino, step_write);
    if (!r)
        return;
    r->offset = (uint64_t)offset;
    if (buf_add(&r->data, data, size))
        r->step = NULL;
    request_run(r);
}

static int answer_saved(struct request *r, int err)
{
    if (!err)
        fuse_reply_err(r->req, 0);
    return err;
}

static int step_flush(struct request *r)
{
    return answer_saved(r, wait_safe(r, r->inode));
}

static int step_fsync(struct request *r)
{
    return answer_saved(r, store_flush(r->mount->store, &r->waiter, r->inode, &r->ticket));
}

/* What was changed is in the journal, and what was deleted gone from the server. */
static int step_fsyncdir(struct request *r)
{
    struct store *s = r->mount->store;
    int err = store_commit_names(s, &r->waiter, &r->ticket);
    return answer_saved(r, err ? err : store_removal_wait(s, &r->waiter, r->inode, NULL));
}

static void save(fuse_req_t req, fuse_ino_t ino, int (*step)(struct request *))
{
    struct request *r = begin(req, ino, step);
    if (!r)
        return;
    r->deadline_ms = 0; /* the upload has its own limits, by progress */
    request_run(r);
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if (is_controls(ino))
        control_flush(mount_of(req, ino)->control, req, fi);
    else if (fi->fh == HANDLE_READS)
        fuse_reply_err(req, 0);
    else
        save(req, ino, step_flush);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    if (is_controls(ino))
        fuse_reply_err(req, 0);
    else
        save(req, ino, step_fsync);
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    if (is_controls(ino))
        fuse_reply_err(req, 0);
    else
        save(req, ino, step_fsyncdir);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct mount *m = mount_of(req, ino);
    if (is_controls(ino)) {
        control_release(m->control, req, fi);
        return;
    }
    struct inode *inode = inode_of(req, ino);
    if (!inode)
        return;
    if (fi->fh == HANDLE_WRITES)
        autorun_closed(m->autorun, inode);
    close_file(m, req, inode, fi->fh);
    fuse_reply_err(req, 0);
}

/* --- changes of names */

static int step_unlink(struct request *r)
{
    struct store *s = r->mount->store;
    int err = r->begun ? 0 : store_unlink(s, &r->waiter, r->inode, r->name, &r->change);
    if (!err && r->mount->config->sync) {
        r->begun = true;
        err = store_removal_wait(s, &r->waiter, r->inode, r->name);
    }
    return answer_saved(r, err);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct request *r = begin_named(req, parent, name, step_unlink);
    if (r)
        request_run(r);
}

static int step_rmdir(struct request *r)
{
    int err = store_rmdir(r->mount->store, &r->waiter, r->inode, r->name, &r->change);
    if (!err)
        fuse_reply_err(r->req, 0);
    return err;
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct request *r = begin_named(req, parent, name, step_rmdir);
    if (r)
        request_run(r);
}

static int step_mkdir(struct request *r)
{
    struct inode *inode;
    int err =
        store_mkdir(r->mount->store, &r->waiter, r->inode, r->name, r->mode, &r->change, &inode);
    return err ? err : answer_made(r, inode);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct request *r = begin_named(req, parent, name, step_mkdir);
    if (!r)
        return;
    r->mode = mode;
    request_run(r);
}

static int step_symlink(struct request *r)
{
    struct inode *inode;
    int err = store_symlink(r->mount->store, &r->waiter, r->inode, r->name, r->to_name, &r->change,
                            &inode);
    return err ? err : answer_made(r, inode);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    struct request *r = begin_named(req, parent, name, step_symlink);
    if (!r)
        return;
    if (!(r->to_name = strdup(target)))
        r->step = NULL;
    request_run(r);
}

static int step_rename(struct request *r)
{
    enum session_rename how = r->flags & RENAME_EXCHANGE    ? RENAME_SWAP
                              : r->flags & RENAME_NOREPLACE ? RENAME_KEEP
                                                            : RENAME_PLAIN;
    int err = store_rename(r->mount->store, &r->waiter, r->inode, r->name, r->other, r->to_name,
                           how, &r->change);
    if (err)
        return err;
    if (how == RENAME_SWAP)
        autorun_swapped(r->mount->autorun, r->inode, r->name, r->other, r->to_name);
    else
        autorun_renamed(r->mount->autorun, r->inode, r->name, r->other, r->to_name);
    fuse_reply_err(r->req, 0);
    return 0;
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
                      const char *newname, unsigned flags)
{
    bool is_ours = is_controls(newparent) || is_control(newparent, newname);
    if (is_ours || flags & ~(unsigned)(RENAME_EXCHANGE | RENAME_NOREPLACE)) {
        fuse_reply_err(req, is_ours ? EPERM : EINVAL);
        return;
    }
    if (mount_of(req, parent) != mount_of(req, newparent)) {
        fuse_reply_err(req, EXDEV);
        return;
    }
    struct inode *to_dir = inode_of(req, newparent);
    if (!to_dir)
        return;
    struct request *r = begin_named(req, parent, name, step_rename);
    if (!r)
        return;
    inode_pin(to_dir);
    r->other = to_dir;
    r->flags = flags;
    if (!(r->to_name = strdup(newname)))
        r->step = NULL;
    request_run(r);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(req, EPERM); /* "the filesystem does not support the creation of hard links" */
}

/* --- the rest */

static int step_statfs(struct request *r)
{
    struct session_space space;
    int err = store_space(r->mount->store, &r->waiter, &space);
    if (err == STORE_WAIT)
        return err;
    if (err)
        space = (struct session_space){0}; /* df shows zeros rather than an error */
    struct statvfs st = {
        .f_bsize = 4096,
        .f_frsize = 4096,
        .f_blocks = space.total / 4096,
        .f_bfree = space.free / 4096,
        .f_bavail = space.free / 4096,
        .f_namemax = 255,
    };
    fuse_reply_statfs(r->req, &st);
    return 0;
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct request *r = request_new(mount_of(req, ino), req, NULL, step_statfs);
    if (r)
        request_run(r);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags)
{
    fuse_reply_err(req, ENOTSUP);
}

static const char error_xattr[] = "user.acafs.error";

/* What sending the file failed with; NULL: nothing. */
static const char *trouble(fuse_req_t req, fuse_ino_t ino)
{
    const struct inode *inode =
        is_controls(ino) ? NULL
                         : inode_find(store_inodes(mount_of(req, ino)->store), mount_id(ino));
    int err = inode ? store_error(inode) : 0;
    return err ? strerror(-err) : NULL;
}

static void reply_xattr(fuse_req_t req, const char *value, size_t len, size_t size)
{
    if (!size)
        fuse_reply_xattr(req, len);
    else if (size < len)
        fuse_reply_err(req, ERANGE);
    else
        fuse_reply_buf(req, value, len);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    const char *value = strcmp(name, error_xattr) == 0 ? trouble(req, ino) : NULL;
    if (value)
        reply_xattr(req, value, strlen(value), size);
    else
        fuse_reply_err(req, ENODATA);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    reply_xattr(req, error_xattr, trouble(req, ino) ? sizeof error_xattr : 0, size);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    fuse_reply_err(req, ENODATA);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    conn->want |=
        conn->capable & (FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
                         FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_READ |
                         FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    /* Requests are read into memory: what must wait could not stay in a pipe. */
    conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_WRITEBACK_CACHE);
    conn->max_write = 1 << 20;
    conn->max_readahead = 1 << 20;
    conn->max_background = 64;
    conn->congestion_threshold = 48;
    passthrough_init(userdata, conn);
}

const struct fuse_lowlevel_ops mount_ops = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .readlink = op_readlink,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .readdirplus = op_readdirplus,
    .releasedir = op_releasedir,
    .fsyncdir = op_fsyncdir,
    .open = op_open,
    .create = op_create,
    .mknod = op_mknod,
    .read = op_read,
    .write = op_write,
    .flush = op_flush,
    .fsync = op_fsync,
    .release = op_release,
    .unlink = op_unlink,
    .rmdir = op_rmdir,
    .mkdir = op_mkdir,
    .symlink = op_symlink,
    .rename = op_rename,
    .link = op_link,
    .statfs = op_statfs,
    .setxattr = op_setxattr,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .removexattr = op_removexattr,
};
