#include "acafs/jobs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "acafs/notify.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"

enum { KEEP_RUNS = 64 };

struct jobs {
    struct mount *mount;
    struct run *runs; /* oldest first */
    struct run *current;
    struct loop_timer next;
    uint64_t last_id;
    bool ending;
    struct waitq drained; /* for the end of the current run */
};

static void proceed(struct run *);

static void run_free(struct run *run)
{
    struct jobs *jobs = run->jobs;
    DL_DELETE(jobs->runs, run);
    waiter_leave(&run->waiter);
    if (run->job)
        job_abandon(run->job);
    for (int i = 0; i < 2; i++) {
        if (run->streams[i].fd >= 0)
            close(run->streams[i].fd);
    }
    for (char **arg = run->args; arg && *arg; arg++)
        free(*arg);
    free(run->args);
    free(run->path);
    free(run->code);
    free(run->code_name);
    cJSON_Delete(run->report);
    free(run);
}

/* --- from the queue to the end */

static void start_next(void *arg)
{
    struct jobs *jobs = arg;
    if (jobs->current)
        return;
    struct run *run;
    DL_FOREACH (jobs->runs, run) {
        if (run->state == RUN_QUEUED) {
            jobs->current = run;
            run->state = RUN_SENDING;
            waiter_init(&run->waiter, run->waiter.wake);
            proceed(run);
            return;
        }
    }
}

static void forget_old(struct jobs *jobs)
{
    struct run *run, *next;
    unsigned count = 0;
    DL_COUNT(jobs->runs, run, count);
    DL_FOREACH_SAFE (jobs->runs, run, next) {
        if (count <= KEEP_RUNS)
            break;
        if (run->state == RUN_OVER && !run->changed.head) {
            run_free(run);
            count--;
        }
    }
}

static void log_end(const struct run *run)
{
    const char *message = json_string(run->report, "message");
    log_write(run->err ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, "job %llu, %s: %s%s%s",
              (unsigned long long)run->id, run->path, run_state_name(run), message ? ": " : "",
              message ? message : "");
}

static void over(struct run *run)
{
    struct jobs *jobs = run->jobs;
    run->state = RUN_OVER;
    if (run->unattended)
        log_end(run);
    waitq_wake(&jobs->mount->volume->wakeup, &run->changed, 0);
    if (jobs->current == run) {
        jobs->current = NULL;
        waitq_wake(&jobs->mount->volume->wakeup, &jobs->drained, 0);
    }
    loop_timer_set(&jobs->next, 0);
}

static cJSON *new_report(const struct run *run, const char *state, int exit_code)
{
    cJSON *report = cJSON_CreateObject();
    cJSON_AddNumberToObject(report, "job", (double)run->id);
    cJSON_AddStringToObject(report, "state", state);
    cJSON_AddNumberToObject(report, "exit_code", exit_code);
    return report;
}

static void add_text(cJSON *object, const char *name, const char *text)
{
    if (text)
        cJSON_AddStringToObject(object, name, text);
    else
        cJSON_AddNullToObject(object, name);
}

static void add_error(cJSON *report, int err, const char *code, const char *message)
{
    if (!err) {
        cJSON_AddNullToObject(report, "error");
        return;
    }
    cJSON *error = cJSON_AddObjectToObject(report, "error");
    cJSON_AddStringToObject(error, "errno", strerrorname_np(-err));
    add_text(error, "code", code);
    cJSON_AddStringToObject(error, "message", message ? message : strerror(-err));
}

/* Ends a run that never got to the session. */
static void never_ran(struct run *run, const char *state, int exit_code, int err,
                      const char *message)
{
    run->report = new_report(run, state, exit_code);
    add_text(run->report, "message", message);
    add_error(run->report, err, NULL, message);
    run->err = err ? err : -EINTR;
    over(run);
}

static const char *const job_state_names[] = {
    [JOB_SUCCEEDED] = "succeeded", [JOB_FAILED] = "failed", [JOB_CANCELED] = "canceled",
    [JOB_TIMED_OUT] = "timed-out", [JOB_LOST] = "lost",
};

static void job_output(void *arg, int stream, const void *data, size_t len)
{
    struct run *run = arg;
    struct output *out = &run->streams[stream == 2];
    if (out->fd < 0)
        return;
    ssize_t n = pwrite(out->fd, data, len, (off_t)out->len);
    if (n != (ssize_t)len)
        log_warning("job %llu: its output does not fit the cache directory",
                    (unsigned long long)run->id);
    out->len += n > 0 ? (uint64_t)n : 0;
    waitq_wake(&run->jobs->mount->volume->wakeup, &run->changed, 0);
}

/* Images of a script stand beside it; what has no place in the mount is in the report itself. */
static void add_images(cJSON *report, const struct job_result *result)
{
    cJSON *images = cJSON_AddArrayToObject(report, "images");
    for (size_t i = 0; i < result->image_count; i++) {
        const struct job_image *from = &result->images[i];
        cJSON *image = cJSON_CreateObject();
        cJSON_AddStringToObject(image, "name", from->name);
        cJSON_AddStringToObject(image, "format", from->extension);
        _cleanup_buf_ struct buf data = {0};
        if (from->bytes.len && text_base64(&data, from->bytes.data, from->bytes.len) == 0)
            cJSON_AddStringToObject(image, "base64_data", data.data);
        cJSON_AddItemToArray(images, image);
    }
}

static void job_done(void *arg, const struct job_result *result)
{
    struct run *run = arg;
    run->job = NULL;
    cJSON *report = new_report(run, job_state_names[result->state], result->exit_code);
    cJSON_AddNumberToObject(report, "milliseconds", (double)result->milliseconds);
    add_text(report, "message", result->message);
    cJSON_AddItemToObject(
        report, "value", result->value ? cJSON_Duplicate(result->value, true) : cJSON_CreateNull());
    add_images(report, result);
    add_error(report, result->error.err, result->error.code, result->error.message);
    run->report = report;
    run->err = result->state == JOB_SUCCEEDED ? 0 : result->error.err ? result->error.err : -EIO;
    run->state = RUN_LOOKING;
    store_invalidate(run->jobs->mount->store);
    waiter_init(&run->waiter, run->waiter.wake);
    proceed(run);
}

static void start(struct run *run)
{
    struct mount *m = run->jobs->mount;
    const struct job_events events = {.output = job_output, .done = job_done, .arg = run};
    run->state = RUN_RUNNING;
    run->job = job_start(m->loop, m->client.session, &run->spec, &events);
    if (!run->job)
        never_ran(run, "lost", 1, -ENOMEM, "out of memory");
}

/* Takes the next step of the current run. */
static void proceed(struct run *run)
{
    struct mount *m = run->jobs->mount;
    int err;
    switch (run->state) {
    case RUN_SENDING:
        if (run->cancel) {
            never_ran(run, "canceled", 130, 0, "Canceled");
            return;
        }
        err = store_sync(m->store, &run->waiter);
        if (err < 0)
            never_ran(run, "lost", 69, err, "files that it may read could not be uploaded");
        else if (err == 0)
            start(run);
        return;
    case RUN_LOOKING:
        err = store_refresh_all(m->store, &run->waiter);
        if (err == STORE_WAIT)
            return;
        if (err)
            log_warning("job %llu is over, but its files could not be listed: %s",
                        (unsigned long long)run->id, strerror(-err));
        run->state = RUN_SHOWING;
        proceed(run);
        return;
    case RUN_SHOWING:
        if (notifier_flush(m->notifier, &run->waiter, &run->ticket) != STORE_WAIT)
            over(run);
        return;
    case RUN_QUEUED:
    case RUN_RUNNING:
    case RUN_OVER:
        return;
    }
}

static void woken(struct waiter *w)
{
    proceed((struct run *)((char *)w - offsetof(struct run, waiter)));
}

void jobs_cancel(struct run *run)
{
    run->cancel = true;
    if (run->job)
        job_cancel(run->job);
    else if (run->state == RUN_QUEUED || run->state == RUN_SENDING) {
        waiter_leave(&run->waiter);
        never_ran(run, "canceled", 130, 0, "Canceled");
    }
}

int jobs_drain(struct jobs *jobs, struct waiter *w)
{
    struct run *run;
    if (!jobs->ending) {
        jobs->ending = true;
        DL_FOREACH (jobs->runs, run) {
            if (run->state != RUN_OVER)
                jobs_cancel(run);
        }
    }
    if (!jobs->current)
        return 0;
    waitq_park(&jobs->drained, w);
    return STORE_WAIT;
}

/* --- taking them in */

/* A path below the mount's root, without "." and ".." parts. */
static bool path_ok(const char *path)
{
    if (!*path)
        return false;
    while (*path) {
        size_t len = strcspn(path, "/");
        if (len == 0 || (len == 1 && path[0] == '.') ||
            (len == 2 && path[0] == '.' && path[1] == '.'))
            return false;
        path += len;
        if (*path == '/' && !*++path)
            return false;
    }
    return true;
}

static const char *take_args(struct run *run, const cJSON *request)
{
    const cJSON *args = json_array(request, "args"), *arg;
    size_t n = args ? (size_t)cJSON_GetArraySize(args) : 0, i = 0;
    if (!(run->args = calloc(n + 1, sizeof *run->args)))
        return "out of memory";
    if (!args && cJSON_GetObjectItemCaseSensitive(request, "args"))
        return "args must be strings";
    cJSON_ArrayForEach (arg, args) {
        if (!cJSON_IsString(arg))
            return "args must be strings";
        if (!(run->args[i++] = strdup(arg->valuestring)))
            return "out of memory";
    }
    return NULL;
}

/* Takes a member that is true or false, when it is there: false when it is something else. */
static bool take_flag(const cJSON *request, const char *name, bool *flag)
{
    return json_bool(request, name, flag) || !cJSON_GetObjectItemCaseSensitive(request, name);
}

static bool only_known_members(const cJSON *request)
{
    static const char known[] = " path code code_name args in_kernel plain timeout outputs ";
    const cJSON *member;
    cJSON_ArrayForEach (member, request) {
        _cleanup_buf_ struct buf word = {0};
        if (buf_addf(&word, " %s ", member->string) || !strstr(known, word.data))
            return false;
    }
    return true;
}

static const char *take_spec(struct run *run, const cJSON *request)
{
    if (!only_known_members(request))
        return "members are path, code, code_name, args, in_kernel, plain, timeout and outputs";
    const char *path = json_string(request, "path"), *code = json_string(request, "code"),
               *name = json_string(request, "code_name");
    if (!path == !code)
        return "give either a path or code";
    if (path && !path_ok(path))
        return "the path must be relative to the mount's top, without . and ..";
    run->path = path ? strdup(path) : NULL;
    run->code = code ? strdup(code) : NULL;
    run->code_name = name ? strdup(name) : NULL;
    if (!run->path && !run->code)
        return "out of memory";
    const cJSON *timeout = cJSON_GetObjectItemCaseSensitive(request, "timeout");
    if (timeout && !cJSON_IsNull(timeout) &&
        (!cJSON_IsNumber(timeout) || !(timeout->valuedouble >= 0 && timeout->valuedouble < 1e9)))
        return "timeout must be a number of seconds";
    const char *why = take_args(run, request);
    run->spec = (struct job_spec){
        .path = run->path,
        .code = run->code,
        .code_name = run->code_name,
        .args = (const char *const *)run->args,
        .keep_outputs = true,
        .timeout_ms = cJSON_IsNumber(timeout) ? (int64_t)(timeout->valuedouble * 1000) : 0,
    };
    if (!take_flag(request, "in_kernel", &run->spec.in_kernel) ||
        !take_flag(request, "plain", &run->spec.plain) ||
        !take_flag(request, "outputs", &run->spec.keep_outputs))
        return "in_kernel, plain and outputs are true or false";
    if (!why && run->spec.plain && (path || run->args[0]))
        return "plain is for code without args";
    return why;
}

struct run *jobs_submit(struct jobs *jobs, const cJSON *request, const char **why)
{
    *why = "the mount is about to end";
    if (jobs->ending)
        return NULL;
    struct run *run = calloc(1, sizeof *run);
    *why = "out of memory";
    if (!run)
        return NULL;
    run->jobs = jobs;
    waiter_init(&run->waiter, woken);
    DL_APPEND(jobs->runs, run);
    for (int i = 0; i < 2; i++)
        run->streams[i].fd =
            open(jobs->mount->config->cache_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    *why = take_spec(run, request);
    if (*why) {
        run_free(run);
        return NULL;
    }
    run->id = ++jobs->last_id;
    forget_old(jobs);
    loop_timer_set(&jobs->next, 0);
    return run;
}

struct run *jobs_find(struct jobs *jobs, uint64_t id)
{
    struct run *run = jobs_next(jobs, id - 1);
    return run && run->id == id ? run : NULL;
}

struct run *jobs_next(struct jobs *jobs, uint64_t id)
{
    struct run *run;
    DL_FOREACH (jobs->runs, run) {
        if (run->id > id)
            return run;
    }
    return NULL;
}

unsigned jobs_waiting(const struct jobs *jobs)
{
    const struct run *run;
    unsigned n = 0;
    DL_FOREACH (jobs->runs, run) {
        n += run->state != RUN_OVER;
    }
    return n;
}

const char *run_state_name(const struct run *run)
{
    static const char *const names[] = {
        [RUN_QUEUED] = "queued",   [RUN_SENDING] = "uploading", [RUN_RUNNING] = "running",
        [RUN_LOOKING] = "running", [RUN_SHOWING] = "running",   [RUN_OVER] = "over"};
    const char *state = run->report ? json_string(run->report, "state") : NULL;
    return run->state == RUN_OVER && state ? state : names[run->state];
}

struct jobs *jobs_new(struct mount *m)
{
    struct jobs *jobs = calloc(1, sizeof *jobs);
    if (!jobs)
        return NULL;
    jobs->mount = m;
    loop_timer_init(&jobs->next, m->loop, start_next, jobs);
    return jobs;
}

void jobs_free(struct jobs *jobs)
{
    if (!jobs)
        return;
    while (jobs->runs)
        run_free(jobs->runs);
    loop_timer_stop(&jobs->next);
    free(jobs);
}
