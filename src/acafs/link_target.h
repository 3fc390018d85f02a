/* What a symlink says on this machine. Code in the session makes links, and who opens one here goes
 * where it says here: with symlinks=contain that is never outside the session.
 *
 * A target is shown as it is when it goes no higher than the session's top: a way down, or first up
 * no more often than the link lies deep (".." behind a name may be anywhere: the name may be a
 * link). One that begins with the session's own root is made relative. What was made through this
 * mount is its user's will. All else can't be read. */
#ifndef ACAFS_ACAFS_LINK_TARGET_H
#define ACAFS_ACAFS_LINK_TARGET_H

#include "store/inode.h"
#include "util/buf.h"

/* Appends it: 0, -EPERM, -ENOMEM. */
int link_target(const struct inode *, struct buf *out);

#endif
