/* A job's way:
 *
 *     SENDING ──▶ STARTING ──▶ WATCHING ──▶ FETCHING ──▶ CLEARING ──▶ OVER
 *    (long code)     │           │    ▲       (result, images)  ▲
 *                    │           ▼    │                         │
 *                    │         a long output, downloaded        │
 *                    └── no process to be had: in the kernel ──▶ WATCHING
 *
 * Plain code is STARTING, WATCHING (one execution), OVER.
 *
 * A job that its owner gave a name is HELD between FETCHING and CLEARING: it is cleared only when
 * the owner has put down what came of it. One that is resumed begins with WATCHING.
 *
 * Each but the last has one call to the session at a time, or a timer for the next; what fails and
 * may be tried again is. Start is told apart by the folder's name, so that it takes place once;
 * looks tell from where on they want the outputs, so that nothing is lost or comes twice. Stopping
 * has a call of its own:
 *
 *     wanted ──▶ told (SIGINT) ──▶ the watching sees the end; a supervisor kills after 5 s
 *        │            └── in the kernel ──▶ killed from here after 5 s
 *        └── nothing heard of the session for 10 s, told or not ──▶ OVER
 *
 * The session's helper does one thing after another, for others as well: what waits in there waits
 * only a moment, and the pauses between are made here. */
#include "job/private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.py.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"
#include "watch.py.h"

enum {
    BACKOFF_MS = 200,
    BACKOFF_MAX_MS = 5000,
    START_PATIENCE_MS = 20000,
    PATIENCE_MS = 600000,
    TELL_TROUBLE_MS = 1000,
    STOP_AGAIN_MS = 300,
    KILL_AFTER_MS = 5000,
    LISTEN_MS = 500, /* between looks whether a session that is to stop a run is heard of */
    DEAF_MS =
        10000, /* a session that is to stop a run, and not heard of for so long, is given up */
    CODE_INLINE = 96 << 10, /* longer code is uploaded first */
};

/* --- giving things out */

const char *job_state_name(enum job_state state)
{
    static const char *const names[] = {
        [JOB_SUCCEEDED] = "succeeded", [JOB_FAILED] = "failed", [JOB_CANCELED] = "canceled",
        [JOB_TIMED_OUT] = "timed-out", [JOB_LOST] = "lost",
    };
    return names[state];
}

static void job_free(struct job *j)
{
    session_cancel(j->call);
    session_cancel(j->stop_call);
    kernel_free(j);
    loop_timer_stop(&j->next);
    loop_timer_stop(&j->stop_next);
    for (char **arg = j->args; arg && *arg; arg++)
        free(*arg);
    free(j->args);
    free((char *)j->spec.path);
    free((char *)j->spec.code);
    free((char *)j->spec.code_name);
    for (size_t i = 0; i < j->result.image_count; i++) {
        free(j->result.images[i].name);
        buf_free(&j->result.images[i].bytes);
    }
    free(j->result.images);
    free(j->result.message);
    cJSON_Delete(j->result.value);
    free(j->result.text);
    session_error_free(&j->result.error);
    run_status_free(&j->status);
    buf_free(&j->text);
    free(j);
}

void job_enter(struct job *j)
{
    j->entered++;
}

bool job_leave(struct job *j)
{
    if (--j->entered || !j->abandoned)
        return !j->abandoned;
    job_free(j);
    return false;
}

bool job_output(struct job *j, int stream, const void *data, size_t len)
{
    j->streams[stream].offset += len;
    if (len && !j->abandoned)
        j->events.output(j->events.arg, stream + 1, data, len);
    return !j->abandoned;
}

/* The last thing that happens to a job, unless it is held. */
static void job_tell(struct job *j)
{
    j->phase = j->held ? JOB_HELD : JOB_OVER;
    session_cancel(j->stop_call);
    j->stop_call = NULL;
    loop_timer_stop(&j->stop_next);
    loop_timer_stop(&j->next);
    if (j->no_process) {
        struct buf line = {0};
        buf_addf(&line, "%s%sran in the session's own kernel, for no process can be started there",
                 j->result.message ? j->result.message : "", j->result.message ? "; " : "");
        free(j->result.message);
        j->result.message = buf_take(&line);
    }
    job_enter(j);
    j->events.done(j->events.arg, &j->result);
    if (!j->held)
        j->abandoned = true;
    job_leave(j);
}

/* --- words with watch.py */

static void add_args(cJSON *args, const struct job *j)
{
    cJSON *list = cJSON_AddArrayToObject(args, "args");
    for (char **arg = j->args; *arg; arg++) {
        _cleanup_buf_ struct buf text = {0}; /* whatever bytes they are of */
        text_base64(&text, *arg, strlen(*arg));
        cJSON_AddItemToArray(list, cJSON_CreateString(text.data ? text.data : ""));
    }
}

static void add_code(cJSON *args, const struct job *j)
{
    _cleanup_buf_ struct buf text = {0};
    text_base64(&text, j->spec.code, strlen(j->spec.code));
    cJSON_AddStringToObject(args, "code", text.data ? text.data : "");
}

static void add_start(cJSON *args, const struct job *j)
{
    cJSON_AddStringToObject(args, "harness", harness_py);
    if (j->spec.path)
        cJSON_AddStringToObject(args, "path", j->spec.path);
    else
        cJSON_AddNullToObject(args, "path");
    if (j->spec.code && !*j->upload)
        add_code(args, j);
    if (j->spec.content) {
        char text[20];
        snprintf(text, sizeof text, "%016llx", (unsigned long long)j->spec.content);
        cJSON_AddStringToObject(args, "content", text);
    }
    cJSON_AddStringToObject(args, "label", j->spec.code ? j->spec.code_name : "");
    cJSON_AddBoolToObject(args, "keep", j->spec.keep_outputs && j->spec.path);
    cJSON_AddNumberToObject(args, "timeout", (double)j->spec.timeout_ms / 1000);
    add_args(args, j);
}

cJSON *job_request(const struct job *j, const char *verb, int64_t wait_ms, size_t length)
{
    cJSON *request = cJSON_CreateObject();
    cJSON_AddStringToObject(request, "op", "call");
    cJSON_AddStringToObject(request, "code", watch_py);
    cJSON_AddNumberToObject(request, "length", (double)length); /* for the helper's own sums */
    cJSON *args = cJSON_AddObjectToObject(request, "args");
    cJSON_AddStringToObject(args, "job", j->name);
    cJSON_AddStringToObject(args, "do", verb);
    cJSON_AddNumberToObject(args, "wait", (double)wait_ms);
    cJSON_AddNumberToObject(args, "length", (double)length);
    cJSON_AddNumberToObject(args, "out", (double)j->streams[0].offset);
    cJSON_AddNumberToObject(args, "err", (double)j->streams[1].offset);
    if (*j->upload)
        cJSON_AddStringToObject(args, "upload", j->upload);
    if (strcmp(verb, "start") == 0)
        add_start(args, j);
    return request;
}

/* --- trouble */

static void set_end(struct job *j, enum job_state state, int exit_code, const char *message)
{
    j->result.state = state;
    j->result.exit_code = exit_code;
    if (!j->result.milliseconds)
        j->result.milliseconds = clock_ms() - j->started_at;
    if (message && !j->result.message)
        j->result.message = strdup(message);
}

/* As somebody wanted it to end. */
static void set_stopped(struct job *j)
{
    bool late = j->stop_state == JOB_TIMED_OUT;
    set_end(j, j->stop_state, late ? 124 : 130, late ? "timed out" : "Canceled");
}

static bool is_passing(int err)
{
    return err == -EIO || err == -ETIMEDOUT || err == -EHOSTUNREACH || err == -EAGAIN ||
           err == -EBUSY;
}

static void nobody_told(void *arg, const struct session_error *e, const cJSON *value)
{
    if (e->err)
        log_warning("an abandoned job may be left in the session: %s",
                    e->message ? e->message : strerror(-e->err));
}

/* Tells the session to end and forget it, without waiting for an answer. */
static void forget_in_session(const struct job *j)
{
    session_helper(j->session, job_request(j, "abandon", 0, 0), nobody_told, NULL);
}

static void tell_trouble(struct job *j, const struct session_error *e, int64_t patience_ms)
{
    j->trouble_told = true;
    if (!j->events.waits) {
        log_warning("%s: %s; trying for %lld s", j->name,
                    e->message ? e->message : strerror(-e->err), (long long)patience_ms / 1000);
        return;
    }
    job_enter(j);
    j->events.waits(j->events.arg, e, patience_ms);
    job_leave(j);
}

bool job_bear(struct job *j, const struct session_error *e)
{
    int64_t now = clock_ms();
    bool begun = j->phase > JOB_STARTING;
    if (j->phase == JOB_STARTING && (e->err == -EIO || e->err == -ETIMEDOUT))
        j->maybe_started = true;
    if (!j->trouble_since) {
        j->trouble_since = now;
        j->trouble_told = false;
        j->backoff_ms = BACKOFF_MS;
    }
    if (!begun && j->stop_wanted) {
        forget_in_session(j);
        set_stopped(j);
        job_tell(j);
        return false;
    }
    int64_t patience = begun ? PATIENCE_MS : START_PATIENCE_MS, since = now - j->trouble_since;
    if (is_passing(e->err) && since < patience && (begun || j->maybe_started)) {
        log_debug("%s: %s; again in %lld ms", j->name, e->message ? e->message : strerror(-e->err),
                  (long long)j->backoff_ms);
        loop_timer_set(&j->next, j->backoff_ms);
        j->backoff_ms = j->backoff_ms * 2 < BACKOFF_MAX_MS ? j->backoff_ms * 2 : BACKOFF_MAX_MS;
        if (since >= TELL_TROUBLE_MS && !j->trouble_told)
            tell_trouble(j, e, patience);
        return true;
    }
    if (begun || j->maybe_started || *j->upload)
        forget_in_session(j);
    job_lose(j, e, NULL);
    return false;
}

/* --- the end */

static void clearing_over(struct job *j)
{
    if (!j->held) {
        job_tell(j);
        return;
    }
    j->phase = JOB_OVER;
    job_enter(j);
    j->events.cleared(j->events.arg);
    j->abandoned = true;
    job_leave(j);
}

static void cleared(void *arg, const struct session_error *e, const cJSON *value)
{
    struct job *j = arg;
    j->call = NULL;
    if (e->err && is_passing(e->err) && j->backoff_ms < BACKOFF_MAX_MS) {
        loop_timer_set(&j->next, j->backoff_ms);
        j->backoff_ms *= 2;
        return;
    }
    if (e->err)
        log_warning("%s is left in the session: %s", j->name,
                    e->message ? e->message : strerror(-e->err));
    clearing_over(j);
}

static void clear(struct job *j)
{
    j->call =
        !j->to_clear ? NULL : session_helper(j->session, job_request(j, "clear", 0, 0), cleared, j);
    if (!j->call)
        clearing_over(j);
}

/* All is known of the run, and its place may be cleared: at once, or when its owner says so. */
static void ended(struct job *j)
{
    loop_timer_stop(&j->next); /* a look at the run that was due */
    j->backoff_ms = BACKOFF_MS;
    j->to_clear = !j->spec.plain; /* which left nothing in the session */
    if (j->held || j->spec.plain) {
        job_tell(j);
        return;
    }
    j->phase = JOB_CLEARING;
    clear(j);
}

void job_clear(struct job *j)
{
    if (j->phase != JOB_HELD)
        j->to_clear = !j->spec.plain;
    j->backoff_ms = BACKOFF_MS;
    j->phase = JOB_CLEARING;
    loop_timer_set(&j->next, 0);
}

void job_end(struct job *j, enum job_state state, int exit_code, const char *message)
{
    set_end(j, state, exit_code, message);
    ended(j);
}

void job_lose(struct job *j, const struct session_error *e, const char *message)
{
    struct session_error *own = &j->result.error;
    if (e) {
        *own = (struct session_error){.err = e->err, .status = e->status, .hint = e->hint};
        own->code = e->code ? strdup(e->code) : NULL;
        own->message = e->message ? strdup(e->message) : NULL;
        own->versions = e->versions ? strdup(e->versions) : NULL;
        message = message ? message : e->message ? e->message : strerror(-e->err);
    }
    set_end(j, JOB_LOST, 1, message);
    job_tell(j);
}

void job_fetched(struct job *j)
{
    struct run_status *s = &j->status;
    j->result.milliseconds = s->milliseconds;
    job_end(j, s->state, s->exit_code, s->message);
}

char *job_last_line(const char *text)
{
    size_t len = text ? strlen(text) : 0;
    while (len && strchr("\r\n ", text[len - 1]))
        len--;
    size_t start = len;
    while (start && text[start - 1] != '\n')
        start--;
    struct buf line = {0};
    if (!len || text_printable(&line, text + start, len - start, 300))
        buf_free(&line);
    return line.data;
}

/* --- stopping */

static void stop_told(void *arg, const struct session_error *e, const cJSON *value)
{
    struct job *j = arg;
    const char *state = json_string(value, "state");
    j->stop_call = NULL;
    if (!e->err)
        job_heard(j);
    if (e->err || !state || strcmp(state, "gone") == 0) {
        /* A kernel may come to it later; a process's start was told before this, or is lost. */
        loop_timer_set(&j->stop_next, STOP_AGAIN_MS);
        return;
    }
    j->killed = j->stop_told;
    j->stop_told = true;
    loop_timer_set(&j->stop_next, j->in_kernel && !j->killed ? KILL_AFTER_MS : LISTEN_MS);
    if (!j->call && j->phase == JOB_WATCHING)
        loop_timer_set(&j->next, 0);
}

void job_heard(struct job *j)
{
    j->heard_at = clock_ms();
}

/* Nothing was heard of the session for too long since the stop was wanted: it is away, or its only
 * kernel runs the script and nothing else can be run beside it. */
static bool is_deaf(const struct job *j)
{
    int64_t since = j->heard_at > j->stop_wanted_at ? j->heard_at : j->stop_wanted_at;
    return clock_ms() - since >= DEAF_MS;
}

static void stop_unheard(struct job *j)
{
    bool late = j->stop_state == JOB_TIMED_OUT;
    set_end(j, j->stop_state, late ? 124 : 130,
            late ? "timed out; the session could not be told: the script may go on there"
                 : "Canceled; the session could not be told: the script may go on there");
    session_cancel(j->call);
    j->call = NULL;
    forget_in_session(j);
    job_tell(j);
}

static void tell_stop(void *arg)
{
    struct job *j = arg;
    if (j->phase > JOB_WATCHING)
        return;
    if (!j->stop_wanted) { /* the time is over, in the kernel */
        job_stop(j, JOB_TIMED_OUT);
        return;
    }
    if (j->spec.plain) {
        plain_stop(j);
        return;
    }
    if (j->phase == JOB_SENDING) {
        session_cancel(j->call);
        j->call = NULL;
        set_stopped(j);
        job_end(j, j->stop_state, j->result.exit_code, NULL);
        return;
    }
    if (is_deaf(j)) {
        stop_unheard(j);
        return;
    }
    if (j->stop_call || (j->stop_told && (!j->in_kernel || j->killed))) {
        loop_timer_set(&j->stop_next, LISTEN_MS);
        return;
    }
    cJSON *request = job_request(j, j->stop_told ? "kill" : "stop", 0, 0);
    cJSON_AddStringToObject(cJSON_GetObjectItemCaseSensitive(request, "args"), "why",
                            j->stop_state == JOB_TIMED_OUT ? "timed-out" : "canceled");
    j->stop_call = session_helper(j->session, request, stop_told, j);
    loop_timer_set(&j->stop_next, j->stop_call ? LISTEN_MS : STOP_AGAIN_MS);
}

void job_stop(struct job *j, enum job_state state)
{
    if (j->stop_wanted || j->phase > JOB_WATCHING)
        return;
    j->stop_wanted = true;
    j->stop_wanted_at = clock_ms();
    j->stop_state = state;
    loop_timer_set(&j->stop_next, 0);
}

void job_end_unexplained(struct job *j, const char *message)
{
    if (j->stop_wanted)
        set_stopped(j);
    job_end(j, j->stop_wanted ? j->stop_state : JOB_LOST, j->stop_wanted ? j->result.exit_code : 1,
            message);
}

void job_end_replaced(struct job *j)
{
    j->result.replaced = true;
    job_end(j, JOB_CANCELED, 130, "Canceled: the script was replaced before it was run");
}

void job_end_missing(struct job *j)
{
    if (j->spec.content) {
        job_end_replaced(j);
        return;
    }
    _cleanup_buf_ struct buf line = {0};
    const char *path = j->spec.path ? j->spec.path : "";
    text_printable(&line, path, strlen(path), 300);
    buf_adds(&line, ": no such script in the session");
    job_end(j, JOB_FAILED, 66, line.data);
}

void job_cancel(struct job *j)
{
    job_stop(j, JOB_CANCELED);
}

void job_abandon(struct job *j)
{
    if (j->abandoned)
        return; /* from within its own end */
    session_cancel(j->call);
    j->call = NULL;
    if (!j->spec.plain)
        forget_in_session(j);
    job_detach(j);
}

void job_detach(struct job *j)
{
    if (j->abandoned)
        return;
    j->abandoned = true;
    session_cancel(j->call);
    j->call = NULL;
    job_enter(j);
    job_leave(j);
}

/* --- the beginning */

static void next_step(void *arg)
{
    struct job *j = arg;
    switch (j->phase) {
    case JOB_SENDING:
        watch_send(j);
        return;
    case JOB_STARTING:
        if (j->spec.plain)
            plain_start(j);
        else
            watch_start(j);
        return;
    case JOB_WATCHING:
        if (j->spec.plain)
            plain_look(j);
        else
            watch_again(j);
        return;
    case JOB_FETCHING:
        fetch_results(j);
        return;
    case JOB_CLEARING:
        clear(j);
        return;
    case JOB_HELD:
    case JOB_OVER:
        return;
    }
}

static char *copy_or_null(const char *text)
{
    return text ? strdup(text) : NULL;
}

static bool copy_spec(struct job *j, const struct job_spec *spec)
{
    size_t n = 0;
    while (spec->args && spec->args[n])
        n++;
    j->spec = *spec;
    j->spec.args = NULL;
    j->spec.name = NULL; /* ours is in the job */
    j->spec.path = spec->code ? NULL : copy_or_null(spec->path);
    j->spec.code = copy_or_null(spec->code);
    j->spec.code_name = strdup(spec->code_name ? spec->code_name : "-c");
    if (!(j->args = calloc(n + 1, sizeof *j->args)))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!(j->args[i] = strdup(spec->args[i])))
            return false;
    return (j->spec.path || j->spec.code) && j->spec.code_name;
}

void job_new_name(char name[JOB_NAME_SIZE])
{
    strcpy(name, "acafs-job-");
    text_random_hex(name + strlen(name), 8);
}

/* Long code goes to a place that follows from the job's name, so that it is found again too. */
static void name_upload(struct job *j)
{
    char *last = j->upload + JOB_NAME_SIZE - 2;
    strcpy(j->upload, j->name);
    *last = *last == '0' ? '1' : '0';
}

/* The run was started before, if at all: whatever there is of it, is watched. */
static void resume(struct job *j)
{
    j->phase = JOB_WATCHING;
    j->quiet_since = clock_ms();
    j->executed = j->in_kernel; /* its answer went to another */
    j->executed_at = clock_ms();
    j->execution_state = EXECUTION_RUNNING;
}

struct job *job_start(struct loop *loop, struct session *session, const struct job_spec *spec,
                      const struct job_events *events)
{
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return NULL;
    j->session = session;
    j->events = *events;
    j->fetching = -1;
    j->started_at = clock_ms();
    j->in_kernel = spec->in_kernel;
    loop_timer_init(&j->next, loop, next_step, j);
    loop_timer_init(&j->stop_next, loop, tell_stop, j);
    job_new_name(j->name);
    if (spec->name)
        snprintf(j->name, sizeof j->name, "%s", spec->name);
    j->held = spec->name != NULL;
    if (!copy_spec(j, spec)) {
        job_free(j);
        return NULL;
    }
    if (spec->code && !spec->in_kernel && !spec->plain && strlen(spec->code) > CODE_INLINE)
        name_upload(j);
    j->phase = *j->upload ? JOB_SENDING : JOB_STARTING;
    if (spec->resume)
        resume(j);
    loop_timer_set(&j->next, 0);
    return j;
}
