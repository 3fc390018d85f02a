#include "acafs/passthrough.h"

#ifdef HAVE_FUSE_PASSTHROUGH

#include <fcntl.h>
#include <stdlib.h>

#include <utlist.h>

#include "util/log.h"

enum {
    SMALLEST = 128 << 10 /* bytes: below, the two calls to set it up cost more than it saves */
};

/* An inode whose handles all pass through. */
struct passthrough {
    struct passthrough *prev, *next;
    uint64_t inode;
    int id; /* the kernel's, of the backing file */
    unsigned handles;
    struct timespec written; /* the content's, before any of them could write */
};

void passthrough_init(struct volume *v, struct fuse_conn_info *conn)
{
    if (!(conn->capable & FUSE_CAP_PASSTHROUGH))
        return;
    conn->want |= FUSE_CAP_PASSTHROUGH;
    conn->max_backing_stack_depth = FUSE_BACKING_STACKED_OVER; /* the cache may be in a container */
    v->may_pass_through = true;
}

static struct passthrough *find(const struct mount *m, const struct inode *inode)
{
    struct passthrough *p;
    DL_SEARCH_SCALAR(m->passthrough, p, inode, inode->id);
    return p;
}

static struct passthrough *begin(struct mount *m, fuse_req_t req, struct inode *inode)
{
    struct timespec written;
    int fd = inode->size >= SMALLEST ? store_back(inode, &written) : -1;
    struct passthrough *p = fd >= 0 ? calloc(1, sizeof *p) : NULL;
    if (!p)
        return NULL;
    *p = (struct passthrough){.inode = inode->id, .written = written};
    p->id = fuse_passthrough_open(req, fd);
    if (p->id <= 0) {
        log_info(
            "the kernel reads no file by itself here (it takes root, and a cache on an ordinary "
            "file system)");
        m->volume->may_pass_through = false;
        store_unback(inode);
        free(p);
        return NULL;
    }
    DL_APPEND(m->passthrough, p);
    return p;
}

void passthrough_open(struct mount *m, fuse_req_t req, struct inode *inode,
                      struct fuse_file_info *fi)
{
    bool reads = (fi->flags & O_ACCMODE) == O_RDONLY && !(fi->flags & O_TRUNC);
    struct passthrough *p = m->volume->may_pass_through ? find(m, inode) : NULL;
    if (!p && m->volume->may_pass_through && reads)
        p = begin(m, req, inode);
    if (!p)
        return;
    p->handles++;
    fi->backing_id = p->id;
    fi->keep_cache = 0;
    fi->direct_io = !reads;
}

void passthrough_close(struct mount *m, fuse_req_t req, struct inode *inode, bool wrote)
{
    struct passthrough *p = find(m, inode);
    if (!p)
        return;
    if (wrote)
        store_written_past(m->store, inode, &p->written);
    if (--p->handles)
        return;
    fuse_passthrough_close(req, p->id);
    store_unback(inode);
    DL_DELETE(m->passthrough, p);
    free(p);
}

void passthrough_free(struct mount *m)
{
    struct passthrough *p, *next;
    DL_FOREACH_SAFE (m->passthrough, p, next)
        free(p);
    m->passthrough = NULL;
}

#else

void passthrough_init(struct volume *v, struct fuse_conn_info *conn)
{
}

void passthrough_open(struct mount *m, fuse_req_t req, struct inode *inode,
                      struct fuse_file_info *fi)
{
}

void passthrough_close(struct mount *m, fuse_req_t req, struct inode *inode, bool wrote)
{
}

void passthrough_free(struct mount *m)
{
}

#endif
