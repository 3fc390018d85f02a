/* A whole pool as one mount: each directory of its root is a session. This is the table of them,
 * and what the pool tells; pool_ops.c has the FUSE operations.
 *
 * A session that is only a name costs its entry here. It is opened (a struct mount: session client,
 * cache, control directory) when something in it is asked for, and closed when it was idle for
 * a while, nothing is left to be sent, and the kernel holds none of its inodes. One that is to be
 * kept from expiring is so when it is closed, too.
 *
 *     unknown ──listed, found, made──▶ known ──something inside is asked for──▶ open
 *                                       ▲ │                                     │
 *                          ours: always │ │ not listed any more, and not ours   │ idle
 *                                       │ ▼                                     │
 *                                       └──────────────◀────────────────────────┘
 */
#ifndef ACAFS_ACAFS_POOL_H
#define ACAFS_ACAFS_POOL_H

#include <uthash.h>

#include "acafs/mount.h"
#include "util/buf.h"

/* A session of the pool. */
struct member {
    UT_hash_handle hh;     /* by name, until it is gone */
    struct mount *mount;   /* or NULL: not open */
    uint64_t lookups;      /* the kernel's, of its directory */
    uint64_t next_id;      /* inodes of former mounts have ids below it */
    struct config *config; /* its own settings; or NULL: those of all */
    struct ping *ping;     /* under way, that it does not expire */
    int64_t ping_ms;       /* not open: when the next is due; 0: it never was open */
    struct timespec mtime;
    uint32_t slot;
    uint32_t epoch; /* of the last list that had it */
    mode_t mode;    /* its directory's */
    uid_t uid;
    gid_t gid;
    bool maybe;  /* the pool does not tell whether there is one: found by name, not shown */
    bool ours;   /* made or opened here: it is shown whatever the pool lists */
    bool gone;   /* deleted here; the kernel still has its inodes */
    bool resume; /* the mount before had it open, and may have left something to do */
    char name[];
};

struct pool_stats {
    unsigned known, open;
    size_t hidden; /* sessions listed that can't be shown */
    bool listable; /* the pool tells what it has */
    int away;      /* -errno of the last list that was asked for in vain */
};

/* For a volume whose client has the pool's own handle. */
struct pool *pool_new(struct volume *);
/* Closes what is open; the kernel asks no more. */
void pool_free(struct pool *);
/* What answers at the pool's root: .acafs, and requests that wait. It has no store. */
struct mount *pool_root(struct pool *);
void pool_get_stats(const struct pool *, struct pool_stats *);
/* Why the last list failed, for people; or NULL. */
const char *pool_trouble(const struct pool *);

/* --- these may have to wait, as the store's functions do */

/* Makes the list no older than the attribute timeout. An old one will do while the pool does not
 * answer, and none where it never tells. */
int pool_fresh(struct pool *, struct waiter *);
/* The session of that name: known, or the pool says that there is one. Where it tells nothing there
 * is any that may be. -ENOENT. */
int pool_lookup(struct pool *, struct waiter *, const char *name, struct member **out);
/* Makes a session, which is then open; *begun starts as false. -EEXIST, -EINVAL for a name that no
 * session can have. */
int pool_make(struct pool *, struct waiter *, const char *name, bool *begun, struct member **out);
/* Deletes one that holds nothing or, where its settings have `force`, whatever it holds; what is
 * pending is sent first, so that nothing comes later. -ENOENT, -ENOTEMPTY, -EBUSY while something
 * in it is open, -EROFS. */
int pool_remove(struct pool *, struct waiter *, const char *name, uint64_t *ticket, bool *begun);
/* Sends what is pending in all sessions, as store_sync(). */
int pool_sync(struct pool *, struct waiter *);

/* --- members */

/* The one of an inode number; NULL: none. */
struct member *pool_at(const struct pool *, fuse_ino_t);
fuse_ino_t member_ino(const struct member *);
/* Whether it is to be seen. */
bool pool_shows(const struct pool *, const struct member *);
/* The settings that hold for it. */
const struct config *member_config(const struct pool *, const struct member *);
/* The first to be seen in a slot above this one, or NULL. */
struct member *pool_next(const struct pool *, uint32_t slot);
/* Opens it unless it is: 0, or -errno after logging why. Counts as use. */
int pool_open(struct pool *, struct member *);
void pool_forget(struct pool *, struct member *, uint64_t count);

/* It is mounted: says what there is to say, and opens the sessions that a mount of this pool before
 * did not close: what they had pending goes on. */
void pool_begin(struct pool *);

/* The table for fuse_session_new(); userdata is the struct volume. */
extern const struct fuse_lowlevel_ops pool_ops;

#endif
