/* `.acafs` at the root of a session, and (without jobs) of a pool that is mounted whole: control,
 * status, metrics and the last jobs. Nothing in it is in the session; it is hidden from listings of
 * the root. Files are read without a cache.
 *
 * Each open handle of `control` is one conversation: a command line is written, its reply (one
 * JSON document) read from the same handle; the read waits until the command is done. A handle
 * that only writes gets the command's error from the write itself. */
#ifndef ACAFS_ACAFS_CONTROL_H
#define ACAFS_ACAFS_CONTROL_H

#include "acafs/mount.h"

struct control *control_new(struct mount *);
void control_free(struct control *);
struct jobs *control_jobs(struct control *);
/* As jobs_drain(). */
int control_drain(struct control *, struct waiter *);

/* Whether no handle is open, and all jobs are over and on disk. */
bool control_is_idle(const struct control *);

/* A new JSON object: what .acafs/status says. */
cJSON *control_status(const struct control *);

/* Whether an inode number (of mount_id()) is one of the control directory's. */
bool control_owns(fuse_ino_t);

/* The FUSE operations there; each answers the request, now or later. */
void control_lookup(struct control *, fuse_req_t, fuse_ino_t parent, const char *name);
void control_getattr(struct control *, fuse_req_t, fuse_ino_t);
void control_readlink(struct control *, fuse_req_t, fuse_ino_t);
void control_readdir(struct control *, fuse_req_t, fuse_ino_t, size_t size, off_t, bool plus);
void control_open(struct control *, fuse_req_t, fuse_ino_t, struct fuse_file_info *);
void control_read(struct control *, fuse_req_t, fuse_ino_t, size_t size, off_t,
                  struct fuse_file_info *);
void control_write(struct control *, fuse_req_t, const char *data, size_t, struct fuse_file_info *);
void control_flush(struct control *, fuse_req_t, struct fuse_file_info *);
void control_release(struct control *, fuse_req_t, struct fuse_file_info *);

#endif
