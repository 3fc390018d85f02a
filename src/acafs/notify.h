/* Tells the kernel what its caches may not keep. The notices block while a directory is
 * locked by a caller who may be waiting for us, so they are sent from the helper thread. */
#ifndef ACAFS_ACAFS_NOTIFY_H
#define ACAFS_ACAFS_NOTIFY_H

#include "acafs/mount.h"

struct notifier *notifier_new(struct volume *);
void notifier_free(struct notifier *);
/* The table for store_options of one mounted session. */
struct store_events notifier_events(struct mount *);
/* Tells that a directory's entry is another, or none. */
void notifier_entry(const struct mount *, uint64_t dir_id, const char *name);
/* Has the kernel let go of the inodes that nobody uses: it then forgets them. */
void notifier_prune(struct mount *);
/* Waits until everything told before the first call has reached the kernel; *ticket starts at 0.
 * STORE_WAIT, 0 or -ENOMEM. */
int notifier_flush(struct notifier *, struct waiter *, uint64_t *ticket);

#endif
