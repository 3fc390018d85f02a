/* What sessions take of memory, seen from outside: one pass over /proc. rlimits bound each
 * process; this bounds their sum, with no need for a writable cgroup. */
#ifndef ACAFS_ACAPOOL_WATCH_H
#define ACAFS_ACAPOOL_WATCH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct watched {
    pid_t root;      /* in: the sandbox's first process as we see it */
    unsigned spared; /* in: generations that are not the session's own code (0: the root) */
    uint64_t memory; /* out: resident bytes of all its descendants */
    pid_t largest;   /* out: among those not spared; 0: none */
};

/* 0 or -errno. */
int watch_memory(struct watched *, size_t count);

#endif
