/* A FUSE mount (the volume) and the sessions mounted in it: one, or those of a whole pool that are
 * open. The daemon's only context; everything runs on its loop. */
#ifndef ACAFS_ACAFS_MOUNT_H
#define ACAFS_ACAFS_MOUNT_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "client/client.h"
#include "config/config.h"
#include "loop/loop.h"
#include "store/store.h"

struct autorun;
struct control;
struct dir_handle;
struct notifier;
struct passthrough;
struct pool;

/* What the kernel and the pool see: one of each. */
struct volume {
    const struct config *config;
    const char *mountpoint;
    struct loop *loop;
    struct client client;
    struct notifier *notifier;
    struct room *room; /* that all sessions' content shares; NULL: there is one session */
    struct fuse_session *fuse;
    struct loop_fd *fuse_fd;
    struct wakeup wakeup; /* for queues of this layer */
    struct mount *mounts; /* open sessions */
    struct pool *pool;    /* all of them are here; or NULL: one is */
    bool ending;          /* every request is refused */
    bool may_pass_through;
    uid_t owner; /* who mounted: owns .acafs */
    gid_t owner_group;
    time_t since;
};

/* A mounted session. */
struct mount {
    struct mount *prev, *next; /* in volume->mounts */
    struct volume *volume;
    fuse_ino_t slot; /* bits that its inode numbers have for the kernel; 0: the only session */
    const struct config *config; /* the volume's, or its own */
    struct loop *loop;
    struct client client; /* the volume's, and the session */
    struct store *store;
    struct control *control;
    struct autorun *autorun; /* or NULL */
    struct notifier *notifier;
    struct request *requests;        /* being waited for */
    struct dir_handle *directories;  /* open */
    struct passthrough *passthrough; /* files that the kernel reads by itself */
    bool recovered;                  /* what the mount before left undone is known */
    bool told_of_symlinks;           /* that one leads out */
    struct waiter recovery;
    int64_t used_ms, pruned_ms; /* of a pool's: last used; last asked of the kernel to let go */
    struct waiter drain;
    enum { NOT_DRAINING, DRAIN_WAITS, DRAINED } draining;
    void (*drained)(void *arg);
    void *drained_arg;
};

/* Inode numbers as the kernel has them: bit 62 is .acafs's, 44 to 61 tell the session, the rest is
 * an id of its own. */
#define SLOT_SHIFT 44
#define SLOT_MASK ((((fuse_ino_t)1 << 62) - 1) & ~(((fuse_ino_t)1 << SLOT_SHIFT) - 1))

static inline fuse_ino_t mount_ino(const struct mount *m, uint64_t id)
{
    return m->slot | id;
}

static inline uint64_t mount_id(fuse_ino_t ino)
{
    return ino & ~SLOT_MASK;
}

/* The session that an inode number belongs to; it is open. */
struct mount *volume_mount(const struct volume *, fuse_ino_t);

/* Opens the session's cache; the session becomes the mount's, the settings are borrowed. Inodes
 * have ids from first_id on (0: the beginning). 0, or -errno after logging why. */
int mount_new(struct volume *, const struct config *, fuse_ino_t slot, struct session *,
              uint64_t first_id, struct mount **out);
/* Waits for what comes before the first listing: store_recover(), once. */
int mount_recover(struct mount *, struct waiter *);
/* Begins it, for nobody yet. */
void mount_recover_begin(struct mount *);
/* Whatever still waits ends with -ENOTCONN. The kernel must not ask any more for what was open. */
void mount_free(struct mount *);
/* Has everything pending sent and jobs ended: true when that is done, else `drained` is called
 * then. Harmless when called again. */
bool mount_drain(struct mount *, void (*drained)(void *arg), void *arg);
/* Of all open sessions together. */
void volume_get_stats(const struct volume *, struct store_stats *);

/* The table for fuse_session_new(); userdata is the struct volume. */
extern const struct fuse_lowlevel_ops mount_ops;
/* The kernel forgets an inode that it looked up so many times. */
void mount_forget(struct mount *, fuse_ino_t, uint64_t count);
/* Closes the directories that are still open when the kernel asks no more. */
void mount_close_directories(struct mount *);

#endif
