/* One kernel of a session: a Python process that keeps its variables from one execution to
 * the next. Executions queue in the order they came; each caller's thread waits for its own. */
#ifndef ACAFS_ACAPOOL_KERNEL_H
#define ACAFS_ACAPOOL_KERNEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/buf.h"

struct sandbox;

/*            first use                    execution done, or interrupted in time
 *   ABSENT ────────────→ IDLE ⇄ RUNNING ──────────────────────────────────────→ IDLE
 *      ↑                              │ process died, spoke nonsense, or ignored SIGINT
 *      └──────────────────────────────┘ */
enum kernel_state { KERNEL_ABSENT, KERNEL_IDLE, KERNEL_RUNNING };

struct kernel_turn;

struct kernel {
    pthread_mutex_t lock; /* of queue; who is first in it owns the rest */
    pthread_cond_t turn;
    struct kernel_turn *queue;
    enum kernel_state state;
    struct sandbox *sandbox; /* the one its process is in: a reference */
    unsigned number;         /* what the supervisor knows it by */
    uint32_t sequence;
    int channel, out, err;
};

enum kernel_outcome {
    KERNEL_SUCCEEDED,
    KERNEL_FAILED, /* the code raised */
    KERNEL_TIMED_OUT,
    KERNEL_ABORTED,  /* its process is gone, and the variables with it */
    KERNEL_NO_START, /* there is no sandbox to run it in */
};

struct kernel_request {
    const char *code;
    bool old_values;      /* show values as the old shape does: see kernel.py */
    int64_t deadline;     /* clock_ms() */
    uint64_t streams_max; /* characters to keep of stdout and of stderr */
    /* A reference to the session's sandbox, started if need be; NULL when there is none to be had.
     */
    struct sandbox *(*sandbox)(void *arg);
    void (*started)(void *arg); /* its turn has come */
    void *arg;
};

struct kernel_result {
    enum kernel_outcome outcome;
    struct buf out, err; /* UTF-8 */
    struct buf value;    /* JSON, empty: none */
    int64_t milliseconds;
};
void kernel_result_free(struct kernel_result *);

void kernel_init(struct kernel *);
/* No execution may be under way. */
void kernel_destroy(struct kernel *);

/* Runs code; out is zeroed first. Whoever kills the sandbox meanwhile makes it KERNEL_ABORTED. */
void kernel_execute(struct kernel *, const struct kernel_request *, struct kernel_result *out);

/* Between executions: throws away what background processes wrote, lest they block. */
void kernel_drain(struct kernel *);

#endif
