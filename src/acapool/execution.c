#include "acapool/execution.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "acapool/pool.h"
#include "util/text.h"

enum { REMEMBERED = 100, REMEMBERED_BYTES = 64 << 20 };

void execution_unref(struct execution *e)
{
    if (!e || --e->references)
        return;
    kernel_result_free(&e->result);
    free(e->id);
    free(e->code);
    free(e);
}

void executions_free(struct session *s)
{
    struct execution *e, *next;
    DL_FOREACH_SAFE (s->executions, e, next) {
        DL_DELETE(s->executions, e);
        execution_unref(e);
    }
}

static bool is_final(const struct execution *e)
{
    return e->state >= EXECUTION_SUCCEEDED;
}

static size_t weight(const struct execution *e)
{
    return is_final(e) ? e->result.out.len + e->result.err.len + e->result.value.len : 0;
}

/* Under the session's lock: drops the oldest that are over, beyond number or size. */
static void forget_old(struct session *s)
{
    size_t count = 0, bytes = 0;
    struct execution *e, *before;
    for (e = s->executions ? s->executions->prev : NULL; e; e = before) {
        before = e == s->executions ? NULL : e->prev;
        count++;
        bytes += weight(e);
        /* The newest stays whatever its size: its caller may ask again. */
        if (count == 1 || !is_final(e) || (count <= REMEMBERED && bytes <= REMEMBERED_BYTES))
            continue;
        DL_DELETE(s->executions, e);
        execution_unref(e);
    }
}

static struct execution *find(struct session *s, const char *id)
{
    struct execution *e;
    DL_FOREACH (s->executions, e) {
        if (strcmp(e->id, id) == 0) {
            e->references++;
            return e;
        }
    }
    return NULL;
}

struct execution *execution_find(struct session *s, const char *id)
{
    pthread_mutex_lock(&s->lock);
    struct execution *e = find(s, id);
    pthread_mutex_unlock(&s->lock);
    return e;
}

enum execution_state execution_state(struct execution *e)
{
    pthread_mutex_lock(&e->session->lock);
    enum execution_state state = e->state;
    pthread_mutex_unlock(&e->session->lock);
    return state;
}

static void set_state(struct execution *e, enum execution_state state)
{
    pthread_mutex_lock(&e->session->lock);
    e->state = state;
    if (is_final(e))
        forget_old(e->session);
    pthread_mutex_unlock(&e->session->lock);
}

static void started(void *arg)
{
    struct execution *e = arg;
    set_state(e, EXECUTION_RUNNING);
}

static struct sandbox *get_sandbox(void *arg)
{
    struct execution *e = arg;
    return session_sandbox(e->session);
}

/* The texts are the service's own (api.md 1.3). */
static const char *reason(enum kernel_outcome outcome)
{
    switch (outcome) {
    case KERNEL_TIMED_OUT:
        return "Request timed out waiting for code execution to complete";
    case KERNEL_ABORTED:
        return "Execution aborted";
    case KERNEL_NO_START:
        return "Execution aborted: the sandbox of this session can't be started";
    default:
        return NULL;
    }
}

static enum execution_state run(struct execution *e)
{
    struct kernel_request request = {.code = e->code,
                                     .old_values = e->old_values,
                                     .deadline = e->deadline,
                                     .streams_max = e->streams_max,
                                     .sandbox = get_sandbox,
                                     .started = started,
                                     .arg = e};
    kernel_execute(&e->session->kernels[e->kernel], &request, &e->result);
    const char *why = reason(e->result.outcome);
    if (why) {
        buf_free(&e->result.err);
        buf_adds(&e->result.err, why);
    }
    if (e->result.outcome == KERNEL_SUCCEEDED)
        return EXECUTION_SUCCEEDED;
    bool ended = e->result.outcome == KERNEL_ABORTED || e->result.outcome == KERNEL_NO_START;
    return ended && session_closing(e->session) ? EXECUTION_CANCELED : EXECUTION_FAILED;
}

static void *run_asynchronous(void *arg)
{
    struct execution *e = arg;
    struct session *s = e->session;
    set_state(e, run(e));
    execution_unref(e);
    pool_release(s);
    return NULL;
}

static int start_thread(struct execution *e)
{
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pool_hold(e->session);
    e->references++;
    pthread_t thread;
    int err = pthread_create(&thread, &detached, run_asynchronous, e);
    pthread_attr_destroy(&detached);
    if (err) {
        e->references--;
        pool_release(e->session);
    }
    return -err;
}

static void refuse(struct execution *e)
{
    buf_adds(&e->result.err, "Execution aborted: there is no thread for it");
    set_state(e, EXECUTION_FAILED);
}

static struct execution *execution_new(struct session *s, const struct execution_request *request)
{
    struct execution *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    char uuid[37];
    text_uuid(uuid);
    e->session = s;
    e->references = 1;
    e->id = strdup(request->id ? request->id : uuid);
    e->code = strdup(request->code);
    e->asynchronous = request->asynchronous;
    e->old_values = request->old_values;
    e->kernel = request->empty_kernel   ? KERNEL_EMPTY
                : request->asynchronous ? KERNEL_ASYNCHRONOUS
                                        : KERNEL_SYNCHRONOUS;
    e->deadline = clock_ms() + request->timeout_ms;
    e->streams_max = request->streams_max;
    if (!e->id || !e->code) {
        execution_unref(e);
        return NULL;
    }
    return e;
}

int execution_submit(struct session *s, const struct execution_request *request,
                     struct execution **out, bool *repeated)
{
    struct execution *e = execution_new(s, request);
    if (!e)
        return -ENOMEM;
    pthread_mutex_lock(&s->lock);
    struct execution *known = find(s, e->id);
    if (!known) {
        e->references++;
        DL_APPEND(s->executions, e);
    }
    pthread_mutex_unlock(&s->lock);
    *repeated = known != NULL;
    *out = known ? known : e;
    if (known)
        execution_unref(e);
    else if (!e->asynchronous)
        set_state(e, run(e));
    else if (start_thread(e))
        refuse(e);
    return 0;
}
