/* The pool: a table of sessions that come into being on first use and go when nobody used
 * them for the cooldown. A thread of its own, the keeper, sees to that, watches what sessions
 * take of memory and disk, and frees what is gone. */
#ifndef ACAFS_ACAPOOL_POOL_H
#define ACAFS_ACAPOOL_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "acapool/mainthread.h"
#include "acapool/sandbox.h"
#include "acapool/session.h"

struct pool_options {
    const char *data; /* where the pool makes its directory; NULL: /var/tmp */
    int64_t cooldown_s, execution_timeout_s;
    int64_t idle_exit_s; /* 0: never */
    uint64_t max_sessions;
    uint64_t disk; /* bytes, each session */
    struct sandbox_options sandbox;
};

struct pool;

/* 0, or -errno with *why (malloc'd). main: where sandboxes are started. */
int pool_new(const struct pool_options *, struct mainthread *main, struct pool **out, char **why);
/* Ends every session, cuts executions short: after it nothing blocks on the pool. */
void pool_close(struct pool *);
/* After pool_close(), when every thread that holds a session is through. */
void pool_free(struct pool *);

const struct pool_options *pool_options(const struct pool *);
struct mainthread *pool_mainthread(const struct pool *);
/* When this pool began. */
const struct timespec *pool_created(const struct pool *);

/* The session of that identifier, held; allocated if there is none and `allocate` is set. Counts
 * as use. -ENOENT: there is none; -EUSERS: there are too many; else why it can't be made. */
int pool_acquire(struct pool *, const char *identifier, bool allocate, struct session **out,
                 bool *fresh);
/* One more holder of a session that the caller holds. */
void pool_hold(struct session *);
void pool_release(struct session *);
/* Ends it and its executions: 0 or -ENOENT. */
int pool_delete(struct pool *, const char *identifier);

struct session_view {
    const char *identifier, *guid;
    struct timespec created, accessed, expires;
};
void pool_view(struct session *, struct session_view *);
/* All sessions, oldest first; under the pool's lock. */
void pool_each(struct pool *, void (*fn)(void *arg, const struct session_view *), void *arg);
uint64_t pool_count(struct pool *);

/* Around each request, for --idle-exit. */
void pool_enter(struct pool *);
void pool_leave(struct pool *);
/* After pool_close(): gives the requests under way time to be answered. */
void pool_drain(struct pool *, int64_t most_ms);

#endif
