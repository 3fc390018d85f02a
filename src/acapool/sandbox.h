/* The sandbox of one session: bubblewrap with a Python supervisor as its process 1 (kernel.py).
 * Inside: a read-only system, the session's files at /mnt/data, a /tmp and a home of its own,
 * no network, no host process. Memory, file size and process number are limited per process
 * by rlimits in kernel.py; what a session takes in all is watched from outside (watch.h). */
#ifndef ACAFS_ACAPOOL_SANDBOX_H
#define ACAFS_ACAPOOL_SANDBOX_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sandbox_limits {
    uint64_t memory;    /* bytes, each process */
    uint64_t disk;      /* bytes, each file */
    uint64_t processes; /* in the session */
};

struct sandbox_options {
    bool bare; /* --no-sandbox: the supervisor runs as it is */
    struct sandbox_limits limits;
};

struct sandbox {
    pid_t pid;   /* bwrap, or the supervisor itself */
    int control; /* SOCK_SEQPACKET to the supervisor */
    bool dead;
    atomic_uint references;
    pthread_mutex_t lock; /* for commands and their acknowledgement */
};

/* Whether user `uid` can have a sandbox here: 0, or -errno with *why (malloc'd, one line). */
int sandbox_probe(const struct sandbox_options *, uid_t uid, char **why);

/* Starts one over directory `data`, as user `uid` ((uid_t)-1: as we are). Call it on the main
 * thread only: the sandbox dies with the thread that started it. */
int sandbox_start(const struct sandbox_options *, const char *data, uid_t uid,
                  struct sandbox **out);

/* Asks for kernel `number` on these descriptors, which stay the caller's. */
int sandbox_start_kernel(struct sandbox *, unsigned number, const int fds[3]);
/* Signals a kernel and its process group; returns once that was done, -ETIMEDOUT if not within 2 s.
 */
int sandbox_signal(struct sandbox *, unsigned number, int signal);

/* Ends everything in it. Any thread. */
void sandbox_kill(struct sandbox *);
struct sandbox *sandbox_ref(struct sandbox *);
/* The last one kills it, waits for its end and frees it. Any thread. */
void sandbox_unref(struct sandbox *);

#endif
