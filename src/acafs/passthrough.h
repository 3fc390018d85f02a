/* FUSE passthrough: the kernel reads a complete, clean file straight from its place in the cache,
 * without asking us. Needs libfuse 3.17 when built, and Linux 6.9 and CAP_SYS_ADMIN at run
 * time; without one of them nothing here does anything.
 *
 * An inode is either read so or through the page cache: while one handle passes through, all
 * that are opened do, and those that may write have their reads and writes come to us all the
 * same. Only their mappings write past us, which is looked for when they are closed. */
#ifndef ACAFS_ACAFS_PASSTHROUGH_H
#define ACAFS_ACAFS_PASSTHROUGH_H

#include "acafs/mount.h"

/* In the answer to the kernel's greeting. */
void passthrough_init(struct volume *, struct fuse_conn_info *);
/* The inode was opened by store_open(): chooses how, before the kernel is told. */
void passthrough_open(struct mount *, fuse_req_t, struct inode *, struct fuse_file_info *);
/* That handle is being closed, or could not be told; before store_close(). */
void passthrough_close(struct mount *, fuse_req_t, struct inode *, bool wrote);
void passthrough_free(struct mount *);

#endif
