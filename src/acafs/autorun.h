/* Drop-in: runs scripts of a mount that match autorun=GLOB, once for each content that came to be
 * here.
 *
 * A script is run when its last writer has closed it, or when it is renamed to a matching place;
 * never because it was there already, or was opened, or written with what it held. A script that is
 * opened for writing while its job waits loses its place: it is run when it is whole again. The
 * same holds when it is replaced in the moment in which its job starts: the session runs it only if
 * it is the content for which the job is.
 *
 * GLOB is as of fnmatch(3). Without a slash it is held against names in any directory, else against
 * the path from the mount's top. Only names that end in .py are looked at, so outputs never match.
 */
#ifndef ACAFS_ACAFS_AUTORUN_H
#define ACAFS_ACAFS_AUTORUN_H

#include "acafs/jobs.h"
#include "acafs/mount.h"

struct autorun;

/* NULL when out of memory. */
struct autorun *autorun_new(struct mount *, struct jobs *, const char *glob);
void autorun_free(struct autorun *);

/* What ops.c has done; each takes NULL, for a mount without autorun. Opened: for writing, each to
 * be followed by a close. */
void autorun_opened(struct autorun *, const struct inode *, bool emptied);
void autorun_wrote(struct autorun *, const struct inode *);
/* While the inode is still open. */
void autorun_closed(struct autorun *, struct inode *);
void autorun_renamed(struct autorun *, const struct inode *from_dir, const char *from,
                     const struct inode *to_dir, const char *to);
/* RENAME_EXCHANGE. */
void autorun_swapped(struct autorun *, const struct inode *dir, const char *name,
                     const struct inode *other_dir, const char *other);

#endif
