/* From settings to a mount that answers, and to its orderly end. */
#ifndef ACAFS_ACAFS_DAEMON_H
#define ACAFS_ACAFS_DAEMON_H

#include <stdbool.h>

#include "config/config.h"

/* Exit codes of acafs, as acafs(8) has them. */
enum {
    EXIT_OK = 0,
    EXIT_OTHER = 1,
    EXIT_USAGE = 64,
    EXIT_MOUNTPOINT = 66,
    EXIT_UNREACHABLE = 69,
    EXIT_IN_USE = 75, /* the session is mounted already, with the same cache */
    EXIT_DENIED = 77,
    EXIT_CONFIG = 78,
};

struct daemon_options {
    const struct config *config; /* finished */
    const char *source;          /* as shown in the mount table */
    const char *mountpoint;      /* absolute */
    bool foreground;
    bool debug; /* trace FUSE requests */
};

/* Mounts and serves until unmounted or told to end; returns the exit code. Unless in the foreground
 * the caller's process returns as soon as the mount answers, and a child goes on. */
int daemon_run(const struct daemon_options *);

#endif
