/* Code as it is, as the Python client's execute() runs it: one execution in the session's own
 * kernel. Nothing can be watched meanwhile, and no more than STREAM_MAX of each output is told.
 *
 *     stop ──▶ the kernel is interrupted ──▶ the execution answers, or has had its time
 *       └── it can't be: the code goes on, with nobody to wait for it
 *
 * Of one that was started before, by another, the pool is asked what became of it. */
#include "job/private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interrupt.py.h"
#include "job/system_exit.h"

enum {
    STREAM_MAX = 1 << 20, /* characters that we ask for; a pool may know no such wish, */
    STREAM_USUAL = 4096,  /* and then gives so many */
    STOP_MS = 5000,
    LOOK_MS = 1000,
};

/* Whether an output ends where a pool cuts it. */
static bool is_cut(const char *text)
{
    size_t characters = 0;
    for (; text && *text; text++)
        characters += ((unsigned char)*text & 0xc0) != 0x80;
    return characters == STREAM_USUAL || characters >= STREAM_MAX;
}

static void take_value(struct job *j, const struct execution *x)
{
    const char *text = cJSON_GetStringValue(x->result);
    if (x->result && !cJSON_IsNull(x->result) &&
        !(text && !*text)) /* "" is what no value looks like */
        j->result.value = cJSON_Duplicate(x->result, true);
}

static bool take_image(struct job *j, const struct execution *x)
{
    if (!x->image.len)
        return true;
    struct job_image *image = calloc(1, sizeof *image);
    struct buf name = {0};
    if (!image || buf_addf(&name, "code.result.%s", x->extension) ||
        buf_add(&image->bytes, x->image.data, x->image.len)) {
        buf_free(&name);
        free(image);
        return false;
    }
    image->name = buf_take(&name);
    snprintf(image->extension, sizeof image->extension, "%s", x->extension);
    j->result.images = image;
    j->result.image_count = 1;
    return true;
}

/* code: of an execution that failed. */
static void end_as(struct job *j, const struct execution *x, int code)
{
    char *said = x->message ? strdup(x->message) : job_last_line(x->err);
    switch (x->state) {
    case EXECUTION_SUCCEEDED:
        job_end(j, JOB_SUCCEEDED, 0,
                is_cut(x->out) || is_cut(x->err)
                    ? "the pool may have cut the output: run a script for all of it"
                    : NULL);
        break;
    case EXECUTION_FAILED:
        job_end(j, code ? JOB_FAILED : JOB_SUCCEEDED, code, code ? said : NULL);
        break;
    case EXECUTION_CANCELED:
        job_end(j, JOB_CANCELED, 130, "Canceled");
        break;
    case EXECUTION_TIMED_OUT:
        job_end(j, JOB_TIMED_OUT, 124,
                j->spec.timeout_ms
                    ? "timed out"
                    : "ended by the service's limit for one execution: run a script, "
                      "which has none");
        break;
    case EXECUTION_RUNNING:
        job_end(j, JOB_LOST, 1, "the pool left it unsaid how the code ended");
        break;
    }
    free(said);
}

static void take_execution(struct job *j, const struct execution *x)
{
    if (x->milliseconds >= 0)
        j->result.milliseconds = x->milliseconds;
    take_value(j, x);
    if (!take_image(j, x)) {
        job_lose(j, &(struct session_error){.err = -ENOMEM}, NULL);
        return;
    }
    struct system_exit end;
    bool exited = x->state == EXECUTION_FAILED && x->err && system_exit_find(x->err, &end);
    job_enter(j);
    if (x->out)
        job_output(j, 0, x->out, strlen(x->out));
    if (x->err)
        job_output(j, 1, x->err, exited ? end.before : strlen(x->err));
    if (exited && end.text)
        job_output(j, 1, end.text, strlen(end.text));
    if (!job_leave(j))
        return;
    if (j->stop_wanted && x->state == EXECUTION_FAILED)
        job_end(j, JOB_CANCELED, 130, "Canceled");
    else
        end_as(j, x, exited ? end.code : 1);
}

static void executed(void *arg, const struct session_error *e, const struct execution *x)
{
    struct job *j = arg;
    j->execution = NULL;
    if (e->err)
        job_lose(j, e, NULL);
    else
        take_execution(j, x);
}

static void looked(void *arg, const struct session_error *e, const struct execution *x)
{
    struct job *j = arg;
    j->execution = NULL;
    if (e->err == -ENOENT || e->err == -EOPNOTSUPP) {
        job_end_unexplained(j, "the pool does not tell what became of the code");
    } else if (e->err) {
        job_bear(j, e);
    } else {
        j->trouble_since = 0;
        if (x->state == EXECUTION_RUNNING)
            loop_timer_set(&j->next, LOOK_MS);
        else
            take_execution(j, x);
    }
}

void plain_look(struct job *j)
{
    j->execution = session_execution(j->session, j->name, looked, j);
    if (!j->execution)
        job_lose(j, &(struct session_error){.err = -ENOMEM}, NULL);
}

void plain_start(struct job *j)
{
    int64_t seconds = (j->spec.timeout_ms + 999) / 1000;
    if (!seconds || seconds > SERVICE_LIMIT_S)
        seconds = SERVICE_LIMIT_S;
    const struct session_code code = {.code = j->spec.code,
                                      .timeout_s = seconds,
                                      .streams_max = STREAM_MAX,
                                      .operation_id = j->held ? j->name : NULL};
    j->phase = JOB_WATCHING;
    j->execution = session_execute(j->session, &code, executed, j);
    if (!j->execution)
        job_lose(j, &(struct session_error){.err = -ENOMEM}, NULL);
}

static void give_up(struct job *j)
{
    session_cancel(j->execution);
    j->execution = NULL;
    job_end(j, JOB_CANCELED, 130,
            "Canceled; the code may go on in the session until its time is over");
}

static void interrupted(void *arg, const struct session_error *e, const cJSON *value)
{
    struct job *j = arg;
    j->stop_call = NULL;
    if (e->err || !cJSON_IsTrue(value))
        give_up(j);
}

void plain_stop(struct job *j)
{
    if (j->stop_told || (!j->execution && !j->spec.resume)) {
        give_up(j);
        return;
    }
    cJSON *request = cJSON_CreateObject();
    cJSON_AddStringToObject(request, "op", "call");
    cJSON_AddStringToObject(request, "code", interrupt_py);
    j->stop_told = true;
    j->stop_call = session_helper(j->session, request, interrupted, j);
    if (j->stop_call)
        loop_timer_set(&j->stop_next, STOP_MS);
    else
        give_up(j);
}
