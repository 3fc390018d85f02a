/* What mount(8) asks of a helper that a file system server does not do: mount.acafs, remounts. */
#ifndef ACAFS_ACAFS_HELPER_H
#define ACAFS_ACAFS_HELPER_H

#include <stdbool.h>
#include <stddef.h>

/* Whether the program was started under the name of a mount helper (mount.acafs). */
bool helper_is(const char *argv0);

/* Whether one of the -o arguments holds this option ("remount", "setuid="). */
bool helper_has(char *const *options, size_t count, const char *option);

/* mount -o remount,ro: changes the mount's flags; the daemon goes on. Returns the exit code. */
int helper_remount(const char *mountpoint, char *const *options, size_t count);

/* -o setuid=USER: libfuse's helper changes to that user, then starts us. Returns only on failure, with
 * the exit code. */
int helper_as_user(const char *source, const char *mountpoint, char *const *options, size_t count);

#endif
