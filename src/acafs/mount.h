/* One mount: what its parts share. The daemon's only context; everything runs on its loop. */
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

struct mount {
    const struct config *config;
    const char *mountpoint;
    struct loop *loop;
    struct client client;
    struct store *store;
    struct control *control;
    struct autorun *autorun; /* or NULL */
    struct notifier *notifier;
    struct fuse_session *fuse;
    struct loop_fd *fuse_fd;
    struct request *requests;        /* being waited for */
    struct dir_handle *directories;  /* open */
    struct passthrough *passthrough; /* files that the kernel reads by itself */
    bool may_pass_through;
    bool ending; /* every request is refused */
    uid_t owner; /* who mounted: owns .acafs */
    gid_t owner_group;
    time_t since;
};

/* The table for fuse_session_new(); userdata is the struct mount. */
extern const struct fuse_lowlevel_ops mount_ops;
/* Closes the directories that are still open when the kernel asks no more. */
void mount_close_directories(struct mount *);

/* Begins the orderly end: everything pending goes to the server within the unmount timeout, then
 * the loop ends. Harmless when called again. */
void mount_shutdown(struct mount *);

#endif
