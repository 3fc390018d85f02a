/* Tells the kernel what its caches may not keep. The notices block while a directory is
 * locked by a caller who may be waiting for us, so they are sent from the helper thread. */
#ifndef ACAFS_ACAFS_NOTIFY_H
#define ACAFS_ACAFS_NOTIFY_H

#include "acafs/mount.h"

struct notifier *notifier_new(struct mount *);
void notifier_free(struct notifier *);
/* The table for store_options. */
struct store_events notifier_events(struct notifier *);
/* Calls done from the loop once everything told so far has reached the kernel. 0 or -ENOMEM. */
int notifier_barrier(struct notifier *, void (*done)(void *arg), void *arg);

#endif
