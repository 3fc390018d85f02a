/* The FUSE operations of a whole pool: its root here, and what is inside a session by mount_ops
 * once that session is open. */
#include "acafs/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "acafs/control.h"
#include "acafs/request.h"

static struct pool *pool_of(fuse_req_t req)
{
    const struct volume *v = fuse_req_userdata(req);
    return v->pool;
}

static bool is_root(fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID;
}

/* The session that the inode number is the directory of; NULL: it is not such. */
static struct member *top_of(fuse_req_t req, fuse_ino_t ino)
{
    return mount_id(ino) == INODE_ROOT_ID ? pool_at(pool_of(req), ino) : NULL;
}

/* Opens the session that the inode is in; false after answering. The numbers of a mount that was
 * closed are stale but for its directory and control files. */
static bool reach(fuse_req_t req, fuse_ino_t ino)
{
    struct pool *p = pool_of(req);
    if (!(ino & SLOT_MASK))
        return true; /* .acafs of the root */
    struct member *m = pool_at(p, ino);
    bool lasts = mount_id(ino) == INODE_ROOT_ID || control_owns(mount_id(ino));
    int err = !m || (!m->mount && !lasts) ? -ESTALE : pool_open(p, m);
    if (err)
        fuse_reply_err(req, -err);
    return !err;
}

/* As reach(), for what changes something there. */
static bool reach_to_change(fuse_req_t req, fuse_ino_t ino)
{
    if (!reach(req, ino))
        return false;
    const struct member *m = pool_at(pool_of(req), ino);
    bool refused = m && member_config(pool_of(req), m)->read_only;
    if (refused)
        fuse_reply_err(req, EROFS);
    return !refused;
}

static struct request *begin(fuse_req_t req, const char *name, int (*step)(struct request *))
{
    struct request *r = request_new(pool_root(pool_of(req)), req, NULL, step);
    if (r && name && !(r->name = strdup(name)))
        r->step = NULL;
    return r;
}

/* --- names and attributes of the root and of sessions' directories */

/* For as long as is believed what is told of a session (NULL: of the root). */
static double timeout_of(fuse_req_t req, const struct member *m)
{
    const struct volume *v = fuse_req_userdata(req);
    const struct config *c = m ? member_config(v->pool, m) : v->config;
    return (double)c->attr_timeout_ms / 1000;
}

static void fill_root(const struct volume *v, struct stat *st)
{
    const struct config *c = v->config;
    *st = (struct stat){
        .st_ino = FUSE_ROOT_ID,
        .st_mode = S_IFDIR | (0777 & ~c->umask),
        .st_nlink = 2,
        .st_uid = c->uid == (uid_t)-1 ? v->owner : c->uid,
        .st_gid = c->gid == (gid_t)-1 ? v->owner_group : c->gid,
        .st_mtim.tv_sec = v->since,
        .st_ctim.tv_sec = v->since,
        .st_atim.tv_sec = v->since,
    };
}

static void fill_member(const struct member *m, struct stat *st)
{
    *st = (struct stat){.st_mode = S_IFDIR | m->mode,
                        .st_nlink = 2,
                        .st_uid = m->uid,
                        .st_gid = m->gid,
                        .st_mtim = m->mtime,
                        .st_ctim = m->mtime,
                        .st_atim = m->mtime};
    if (m->mount)
        store_stat(store_inodes(m->mount->store)->root, st);
    st->st_ino = member_ino(m);
}

static void fill_entry(fuse_req_t req, const struct member *m, struct fuse_entry_param *e)
{
    *e = (struct fuse_entry_param){.ino = member_ino(m)};
    fill_member(m, &e->attr);
    e->attr_timeout = e->entry_timeout = timeout_of(req, m);
}

static int reply_member(struct request *r, struct member *m)
{
    struct fuse_entry_param e;
    fill_entry(r->req, m, &e);
    m->lookups++;
    if (fuse_reply_entry(r->req, &e))
        pool_forget(pool_of(r->req), m, 1);
    return 0;
}

static int step_lookup(struct request *r)
{
    struct member *m;
    int err = pool_lookup(r->mount->volume->pool, &r->waiter, r->name, &m);
    if (err == -ENOENT) {
        struct fuse_entry_param none = {.entry_timeout = timeout_of(r->req, NULL)};
        fuse_reply_entry(r->req, &none);
        return 0;
    }
    return err ? err : reply_member(r, m);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    if (!is_root(parent) || strcmp(name, ".acafs") == 0) {
        if (reach(req, parent))
            mount_ops.lookup(req, parent, name);
        return;
    }
    struct request *r = begin(req, name, step_lookup);
    if (r)
        request_run(r);
}

static void forget(struct pool *p, fuse_ino_t ino, uint64_t count)
{
    struct member *m = pool_at(p, ino);
    if (m && mount_id(ino) == INODE_ROOT_ID)
        pool_forget(p, m, count);
    else if (m && m->mount)
        mount_forget(m->mount, ino, count);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    forget(pool_of(req), ino, count);
    fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *list)
{
    for (size_t i = 0; i < count; i++)
        forget(pool_of(req), list[i].ino, list[i].nlookup);
    fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    const struct member *m = top_of(req, ino);
    struct stat st;
    if (is_root(ino))
        fill_root(fuse_req_userdata(req), &st);
    else if (m)
        fill_member(m, &st);
    else if (!reach(req, ino))
        return;
    else {
        mount_ops.getattr(req, ino, fi);
        return;
    }
    fuse_reply_attr(req, &st, timeout_of(req, m));
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                       struct fuse_file_info *fi)
{
    if (is_root(ino))
        fuse_reply_err(req, EPERM);
    else if (reach_to_change(req, ino))
        mount_ops.setattr(req, ino, attr, to_set, fi);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    if (reach(req, ino))
        mount_ops.readlink(req, ino);
}

/* --- directories. The root's offsets are slots: names come once each whatever comes and goes */

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if (!is_root(ino)) {
        if (reach(req, ino))
            mount_ops.opendir(req, ino, fi);
        return;
    }
    fi->fh = 0;
    fuse_reply_open(req, fi);
}

enum { OFFSET_DOT, OFFSET_DOT_DOT, OFFSET_SLOTS };

/* Adds one entry; false when there is no room. member NULL: the root itself. */
static bool add_entry(struct request *r, const char *name, struct member *member, uint64_t next)
{
    char *at = r->data.data + r->data.len;
    size_t room = r->size - r->data.len, used;
    struct fuse_entry_param e = {.ino = FUSE_ROOT_ID};
    if (member)
        fill_entry(r->req, member, &e);
    else
        fill_root(r->mount->volume, &e.attr);
    if (r->flags)
        used = fuse_add_direntry_plus(r->req, at, room, name, &e, (off_t)next);
    else
        used = fuse_add_direntry(r->req, at, room, name, &e.attr, (off_t)next);
    if (used > room)
        return false;
    if (r->flags && member)
        member->lookups++;
    r->data.len += used;
    return true;
}

static int step_readdir(struct request *r)
{
    struct pool *p = r->mount->volume->pool;
    uint64_t at = r->offset;
    int err = at == OFFSET_DOT ? pool_fresh(p, &r->waiter) : 0;
    if (!err)
        err = buf_reserve(&r->data, r->size);
    if (err)
        return err;
    if (at == OFFSET_DOT && add_entry(r, ".", NULL, OFFSET_DOT_DOT))
        at++;
    if (at == OFFSET_DOT_DOT && add_entry(r, "..", NULL, OFFSET_SLOTS))
        at++;
    struct member *m = at >= OFFSET_SLOTS ? pool_next(p, (uint32_t)(at - OFFSET_SLOTS)) : NULL;
    while (m && add_entry(r, m->name, m, m->slot + OFFSET_SLOTS))
        m = pool_next(p, m->slot);
    fuse_reply_buf(r->req, r->data.data, r->data.len);
    return 0;
}

static void readdir_root(fuse_req_t req, size_t size, off_t offset, bool plus)
{
    struct request *r = begin(req, NULL, step_readdir);
    if (!r)
        return;
    r->size = size;
    r->offset = (uint64_t)offset;
    r->flags = plus;
    request_run(r);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
    if (is_root(ino))
        readdir_root(req, size, offset, false);
    else if (reach(req, ino))
        mount_ops.readdir(req, ino, size, offset, fi);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                           struct fuse_file_info *fi)
{
    if (is_root(ino))
        readdir_root(req, size, offset, true);
    else if (reach(req, ino))
        mount_ops.readdirplus(req, ino, size, offset, fi);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if (is_root(ino))
        fuse_reply_err(req, 0);
    else if (reach(req, ino))
        mount_ops.releasedir(req, ino, fi);
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    if (is_root(ino))
        fuse_reply_err(req, 0);
    else if (reach(req, ino))
        mount_ops.fsyncdir(req, ino, datasync, fi);
}

/* --- the root's names are sessions: made and deleted, nothing else */

static int step_mkdir(struct request *r)
{
    struct member *m;
    int err = pool_make(r->mount->volume->pool, &r->waiter, r->name, &r->begun, &m);
    if (err)
        return err;
    const struct fuse_ctx *who = fuse_req_ctx(r->req);
    const struct config *c = member_config(r->mount->volume->pool, m);
    if (m->mount)
        store_set_owner(m->mount->store, store_inodes(m->mount->store)->root,
                        c->uid == (uid_t)-1 ? who->uid : m->uid,
                        c->gid == (gid_t)-1 ? who->gid : m->gid);
    return reply_member(r, m);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    if (!is_root(parent)) {
        if (reach_to_change(req, parent))
            mount_ops.mkdir(req, parent, name, mode);
        return;
    }
    struct request *r = begin(req, name, step_mkdir);
    if (r)
        request_run(r);
}

static int step_rmdir(struct request *r)
{
    int err = pool_remove(r->mount->volume->pool, &r->waiter, r->name, &r->ticket, &r->begun);
    if (!err)
        fuse_reply_err(r->req, 0);
    return err;
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    if (!is_root(parent)) {
        if (reach_to_change(req, parent))
            mount_ops.rmdir(req, parent, name);
        return;
    }
    struct request *r = begin(req, name, step_rmdir);
    if (r)
        request_run(r);
}

/* Whether an operation on a name in that directory can be: false after answering. */
static bool may_name(fuse_req_t req, fuse_ino_t parent)
{
    if (is_root(parent)) {
        fuse_reply_err(req, EPERM);
        return false;
    }
    return reach_to_change(req, parent);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev)
{
    if (may_name(req, parent))
        mount_ops.mknod(req, parent, name, mode, dev);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
    if (may_name(req, parent))
        mount_ops.create(req, parent, name, mode, fi);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    if (may_name(req, parent))
        mount_ops.unlink(req, parent, name);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    if (may_name(req, parent))
        mount_ops.symlink(req, target, parent, name);
}

static bool other_session(fuse_req_t req, fuse_ino_t a, fuse_ino_t b)
{
    bool other = (a & SLOT_MASK) != (b & SLOT_MASK);
    if (other)
        fuse_reply_err(req, EXDEV);
    return other;
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
                      const char *newname, unsigned flags)
{
    if (is_root(parent) || is_root(newparent))
        fuse_reply_err(req, EPERM);
    else if (!other_session(req, parent, newparent) && reach_to_change(req, parent))
        mount_ops.rename(req, parent, name, newparent, newname, flags);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    if (!other_session(req, ino, parent) && may_name(req, parent))
        mount_ops.link(req, ino, parent, name);
}

/* --- files, all in sessions (and in the root's .acafs) */

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    bool changes = (fi->flags & O_ACCMODE) != O_RDONLY || fi->flags & O_TRUNC;
    if (changes ? reach_to_change(req, ino) : reach(req, ino))
        mount_ops.open(req, ino, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    if (reach(req, ino))
        mount_ops.read(req, ino, size, offset, fi);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    if (reach(req, ino))
        mount_ops.write(req, ino, data, size, offset, fi);
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if (reach(req, ino))
        mount_ops.flush(req, ino, fi);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    if (reach(req, ino))
        mount_ops.fsync(req, ino, datasync, fi);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if (reach(req, ino))
        mount_ops.release(req, ino, fi);
}

/* --- the rest */

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    const struct statvfs none = {.f_bsize = 4096, .f_frsize = 4096, .f_namemax = 128};
    if (is_root(ino))
        fuse_reply_statfs(req, &none);
    else if (reach(req, ino))
        mount_ops.statfs(req, ino);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags)
{
    fuse_reply_err(req, ENOTSUP);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    if (is_root(ino) || top_of(req, ino))
        fuse_reply_err(req, ENODATA);
    else if (reach(req, ino))
        mount_ops.getxattr(req, ino, name, size);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    if (!is_root(ino) && !top_of(req, ino)) {
        if (reach(req, ino))
            mount_ops.listxattr(req, ino, size);
    } else if (size) {
        fuse_reply_buf(req, NULL, 0);
    } else {
        fuse_reply_xattr(req, 0);
    }
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    fuse_reply_err(req, ENODATA);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    mount_ops.init(userdata, conn);
}

const struct fuse_lowlevel_ops pool_ops = {
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
