/* A run in the session's own kernel: one execution, whose answer tells only that it is over. What
 * it puts out is watched meanwhile, where the pool has another kernel for that; else afterwards. */
#include "job/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "harness.py.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    TIMEOUT_MARGIN_S = 10, /* we end it in a gentler way */
    FIRST_LOOK_MS = 50,
    LOOK_AGAIN_MS = 100,
    UNKNOWN_FATE_MS = 5000, /* an execution whose answer was lost may begin so late */
    ANSWER_LATE_MS = 10000, /* so late after the run is over */
};

static int add_base64(struct buf *code, const char *text)
{
    int err = buf_adds(code, "b('");
    err = err ? err : text_base64(code, text, strlen(text));
    return err ? err : buf_adds(code, "')");
}

/* in_kernel(folder, script, arguments, keep, label, code) of harness.py. Everything of others is in
 * base64; no name is left behind. */
static char *execution_code(const struct job *j)
{
    struct buf code = {0};
    int err = buf_adds(&code, "(lambda d, b, t: (__import__('builtins').exec(compile(");
    err = err ? err : add_base64(&code, harness_py);
    err =
        err ? err
            : buf_addf(&code, ", '<acafs>', 'exec'), d), d['in_kernel']('/mnt/data/%s', ", j->name);
    if (j->spec.code)
        err = err ? err : buf_addf(&code, "'/mnt/data/%s/code'", j->name);
    else {
        err = err ? err : buf_adds(&code, "'/mnt/data/' + t(");
        err = err ? err : add_base64(&code, j->spec.path);
        err = err ? err : buf_adds(&code, ")");
    }
    err = err ? err : buf_adds(&code, ", [");
    for (char **arg = j->args; *arg && !err; arg++) {
        err = buf_adds(&code, "t(");
        err = err ? err : add_base64(&code, *arg);
        err = err ? err : buf_adds(&code, "), ");
    }
    bool keep = j->spec.keep_outputs && j->spec.path;
    err = err ? err : buf_addf(&code, "], %s, t(", keep ? "True" : "False");
    err = err ? err : add_base64(&code, j->spec.code ? j->spec.code_name : "");
    err = err ? err : buf_adds(&code, "), ");
    err = err ? err : j->spec.code ? add_base64(&code, j->spec.code) : buf_adds(&code, "None");
    err = err ? err
              : buf_adds(&code, "))[1])({'__name__': 'acafs_job'}, "
                                "__import__('binascii').a2b_base64, __import__('os').fsdecode)");
    if (err)
        buf_free(&code);
    return err ? NULL : buf_take(&code);
}

static bool says_missing(const cJSON *value)
{
    const char *text = cJSON_GetStringValue(value);
    return text && (strcmp(text, "missing") == 0 || strcmp(text, "'missing'") == 0);
}

/* Whether an execution that failed so can't have begun. */
static bool never_began(int err)
{
    return err && err != -EIO && err != -ETIMEDOUT;
}

static void executed(void *arg, const struct session_error *e, const struct execution *x)
{
    struct job *j = arg;
    j->execution = NULL;
    j->executed = true;
    j->executed_at = clock_ms();
    if (e->err) {
        j->execution_error =
            (struct session_error){.err = e->err, .status = e->status, .hint = e->hint};
        j->execution_error.code = e->code ? strdup(e->code) : NULL;
        j->execution_error.message = e->message ? strdup(e->message) : NULL;
    } else {
        j->execution_state = x->state;
        j->execution_says = job_last_line(x->message ? x->message : x->err);
    }
    if (j->phase != JOB_WATCHING)
        return;
    if (never_began(e->err) && !j->stop_wanted) {
        session_cancel(j->call);
        j->call = NULL;
        job_lose(j, &j->execution_error, NULL);
        return;
    }
    if (!e->err && says_missing(x->result)) {
        session_cancel(j->call);
        j->call = NULL;
        job_end_missing(j);
    } else if (!j->call) {
        watch_at_once(j);
    }
}

void kernel_start(struct job *j)
{
    int64_t seconds = (j->spec.timeout_ms + 999) / 1000 + TIMEOUT_MARGIN_S;
    if (!j->spec.timeout_ms || seconds > SERVICE_LIMIT_S)
        seconds = SERVICE_LIMIT_S;
    _cleanup_free_ char *text = execution_code(j);
    const struct session_code code = {.code = text, .timeout_s = seconds};
    j->phase = JOB_WATCHING;
    j->execution = text ? session_execute(j->session, &code, executed, j) : NULL;
    if (!j->execution)
        job_lose(j, &(struct session_error){.err = -ENOMEM}, NULL);
    else
        loop_timer_set(&j->next, FIRST_LOOK_MS);
}

static void look_again(struct job *j)
{
    loop_timer_set(&j->next, LOOK_AGAIN_MS);
}

/* No trace of the run. */
static bool not_there(struct job *j)
{
    int err = j->execution_error.err;
    bool unclear = err == -EIO || err == -ETIMEDOUT || j->execution_state == EXECUTION_RUNNING;
    if (!j->executed || (unclear && clock_ms() - j->executed_at < UNKNOWN_FATE_MS)) {
        look_again(j);
        return true;
    }
    if (j->called_at <= j->executed_at) { /* looked at before the run's answer: it may be there */
        watch_at_once(j);
        return true;
    }
    if (err)
        job_lose(j, &j->execution_error, NULL);
    else
        job_end_unexplained(j, j->execution_says ? j->execution_says
                                                 : "the session's kernel did not run the script");
    return true;
}

bool kernel_watched(struct job *j, struct watch_answer *a)
{
    static const char at_limit[] = "ended by the service's limit for one execution";
    bool timed_out = j->executed && j->execution_state == EXECUTION_TIMED_OUT;
    switch (a->state) {
    case WATCH_GONE:
        return not_there(j);
    case WATCH_RUNNING:
        if (j->spec.timeout_ms && !j->clock_runs) {
            j->clock_runs = true;
            if (!j->stop_wanted)
                loop_timer_set(&j->stop_next, j->spec.timeout_ms);
        }
        return false;
    case WATCH_DIED:
        j->result.kernel_ended = timed_out;
        if (timed_out)
            job_end(j, JOB_TIMED_OUT, 124,
                    "ended by the service's limit for one execution, and the session's kernel "
                    "with it: its variables and imports are gone");
        return timed_out;
    case WATCH_OVER:
        /* The pool may end a kernel whose caller goes away before the answer. */
        if (!j->over_since)
            j->over_since = clock_ms();
        if (!j->executed && clock_ms() - j->over_since < ANSWER_LATE_MS) {
            look_again(j);
            return true;
        }
        if (timed_out && a->status.state == JOB_FAILED) {
            a->status.state = JOB_TIMED_OUT;
            a->status.exit_code = 124;
            free(a->status.message); /* of the interrupt that ended it */
            a->status.message = strdup(at_limit);
        }
        return false;
    case WATCH_MISSING:
    case WATCH_REPLACED:
    case WATCH_NO_PROCESS:
        return false;
    }
    return false;
}

void kernel_free(struct job *j)
{
    session_cancel(j->execution);
    session_error_free(&j->execution_error);
    free(j->execution_says);
}
