/* `acafs status` and `acafs list`: what .acafs/status of mounts says, as people read it. */
#ifndef ACAFS_ACAFS_OVERVIEW_H
#define ACAFS_ACAFS_OVERVIEW_H

#include "util/buf.h"

/* Each takes its own argv and returns the exit code. */
int overview_status(int argc, char **argv);
int overview_list(int argc, char **argv);

/* What the mount at root tells of itself, JSON: 0 or -errno. */
int overview_read(const char *root, struct buf *out);

#endif
