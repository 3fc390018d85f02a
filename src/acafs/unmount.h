/* umount.fuse.acafs, which umount(8) calls for `umount -a` and systemd: unmounts, and returns when
 * the daemon has sent what was pending, so that a machine that shuts down keeps its network for as
 * long. */
#ifndef ACAFS_ACAFS_UNMOUNT_H
#define ACAFS_ACAFS_UNMOUNT_H

#include <stdbool.h>

/* Whether the program was started under the name of an unmount helper. */
bool unmount_is(const char *argv0);

/* DIR [-lfnrv…] as umount(8) gives them; -l and -f wait for nothing. Returns the exit code. */
int unmount_run(int argc, char **argv);

#endif
