/* A request of the kernel that may have to wait. Its step runs until it answers; parked by the
 * store it is run again when woken. It ends early when its deadline passes without progress
 * (-ETIMEDOUT) or, when the caller was interrupted, with -EINTR: at once when that kills it, a
 * moment later else. Every request is answered exactly once. */
#ifndef ACAFS_ACAFS_REQUEST_H
#define ACAFS_ACAFS_REQUEST_H

#include "acafs/mount.h"
#include "util/buf.h"

struct request {
    struct waiter waiter; /* first: a waiter is cast back to its request */
    struct request *prev, *next;
    struct mount *mount;
    fuse_req_t req;
    /* STORE_WAIT; 0 when it has answered; -errno to be answered. */
    int (*step)(struct request *);
    struct loop_timer deadline, grace;
    int64_t deadline_ms; /* 0: none: what it waits for has its own */
    bool watched;        /* the interrupt handler and timers are set */

    struct inode *inode; /* pinned */
    struct inode *other; /* pinned: where a rename goes, or what mknod made */
    char *name, *to_name;
    struct change *change;
    struct fuse_file_info fi;
    struct stat attr;
    int to_set;
    mode_t mode;
    unsigned flags;
    bool begun; /* of a change without a `change` of the store's: it is under way */
    uint64_t offset, ticket;
    size_t size;
    struct buf data;
    void *handle; /* the control directory's */
};

/* Starts a request at an inode (may be NULL). NULL after answering: no memory, or the mount goes.
 */
struct request *request_new(struct mount *, fuse_req_t, struct inode *,
                            int (*step)(struct request *));
/* Takes the first step. */
void request_run(struct request *);
/* Ends every waiting request with this error: the mount goes away. */
void requests_end(struct mount *, int err);

#endif
