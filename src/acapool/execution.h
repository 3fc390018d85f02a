/* Executions: what a session was asked to run and what came of it. The last ones are
 * remembered, so that they can be asked for by id and never run twice under the same id. */
#ifndef ACAFS_ACAPOOL_EXECUTION_H
#define ACAFS_ACAPOOL_EXECUTION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "acapool/kernel.h"
#include "acapool/session.h"

/* NOT_STARTED → RUNNING → SUCCEEDED | FAILED | CANCELED; the last three are final. */
enum execution_state {
    EXECUTION_NOT_STARTED,
    EXECUTION_RUNNING,
    EXECUTION_SUCCEEDED,
    EXECUTION_FAILED,
    EXECUTION_CANCELED, /* its session was ended */
};

struct execution {
    struct session *session; /* borrowed: the session outlives what it remembers */
    struct execution *prev, *next;
    atomic_uint references;
    char *id, *code;
    enum session_kernel kernel;
    bool asynchronous, old_values;
    int64_t deadline;
    uint64_t streams_max;
    enum execution_state state;  /* under the session's lock; when final: */
    struct kernel_result result; /* does not change any more */
};

struct execution_request {
    const char *id; /* operation-id, or NULL for a new one */
    const char *code;
    bool asynchronous, empty_kernel, old_values;
    int64_t timeout_ms;
    uint64_t streams_max; /* characters */
};

/* Runs it, to its end or, when asynchronous, in a thread of its own. *repeated: an execution
 * of that id is known already; it is given as it stands and nothing was run. 0 or -ENOMEM. */
int execution_submit(struct session *, const struct execution_request *, struct execution **out,
                     bool *repeated);
/* NULL when not known (any more). */
struct execution *execution_find(struct session *, const char *id);
enum execution_state execution_state(struct execution *);
void execution_unref(struct execution *);

/* Forgets all of a session's. */
void executions_free(struct session *);

#endif
