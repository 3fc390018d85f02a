/* One session: its files, its sandbox, its three kernels and the executions it remembers.
 * Owned by the pool; a thread that works on one holds it (pool_acquire/pool_release). */
#ifndef ACAFS_ACAPOOL_SESSION_H
#define ACAFS_ACAPOOL_SESSION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include <uthash.h>

#include "acapool/files.h"
#include "acapool/kernel.h"
#include "acapool/sandbox.h"

struct pool;
struct execution;

enum session_kernel { KERNEL_SYNCHRONOUS, KERNEL_ASYNCHRONOUS, KERNEL_EMPTY, SESSION_KERNELS };

struct session {
    struct pool *pool;
    char *identifier;
    char guid[37]; /* the etag: tells one session from the next of the same identifier */
    char *path;
    uid_t uid; /* (uid_t)-1: our own */
    struct files files;

    /* of the pool, under its lock */
    UT_hash_handle hh;
    struct session *prev, *next; /* once it is out of the table: among those to be freed */
    unsigned held;
    struct timespec created, accessed; /* wall clock, for people */
    int64_t used_ms;                   /* clock_ms(), for the cooldown */

    pthread_mutex_t sandbox_lock;
    struct sandbox *sandbox; /* kernels refer to it too */
    bool closing;

    struct kernel kernels[SESSION_KERNELS];

    pthread_mutex_t lock; /* of the executions */
    struct execution *executions;

    /* the keeper's; usage is read by others */
    atomic_uint_fast64_t usage;
    int64_t next_usage_ms;
};

/* path is made here. 0 or -errno. */
int session_new(struct pool *, const char *identifier, const char *path, uid_t uid,
                struct session **out);
/* Nobody may hold it any more. Waits for its processes, removes its files. */
void session_free(struct session *);

/* A reference to the sandbox, started if there is none; NULL when there is none to be had. For
 * kernel_request. */
struct sandbox *session_sandbox(void *session);
/* Ends every process of the session. closing: for good. */
void session_kill(struct session *, bool closing);
bool session_closing(struct session *);
/* The first process of its sandbox, 0: none runs. */
pid_t session_process(struct session *);

#endif
