#include "acafs/jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utlist.h>

#include "acafs/job_log.h"
#include "acafs/job_request.h"
#include "acafs/notify.h"
#include "store/fault.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"

enum { KEEP_RUNS = 64 }; /* that are over, and the newest */

struct jobs {
    struct mount *mount;
    struct job_log *log;
    struct run *runs; /* oldest first */
    struct run *current;
    struct loop_timer next;
    uint64_t last_id;
    unsigned writings; /* of all runs */
    bool begun, ending;
    struct waitq drained; /* for the end of the current run, and of writings */
    void (*on_replaced)(void *arg, const struct run *);
    void *on_replaced_arg;
};

static void proceed(struct run *);

static void run_free(struct run *run)
{
    struct jobs *jobs = run->jobs;
    DL_DELETE(jobs->runs, run);
    waiter_leave(&run->waiter);
    job_log_forget(jobs->log, run);
    jobs->writings -= run->writings;
    if (run->job && run->cancel && run->state == RUN_RUNNING)
        job_abandon(run->job);
    else if (run->job)
        job_detach(run->job); /* the next mount finds it */
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
    free(run->etag);
    cJSON_Delete(run->request);
    cJSON_Delete(run->report);
    free(run);
}

/* --- on this disk */

/* A run's document: its request, and of the rest what applies. */
static cJSON *new_document(const struct run *run)
{
    cJSON *d = cJSON_CreateObject();
    cJSON_AddItemReferenceToObject(d, "request", run->request);
    if (run->content) {
        char text[20];
        snprintf(text, sizeof text, "%016llx", (unsigned long long)run->content);
        cJSON_AddStringToObject(d, "content", text);
    }
    if (*run->name)
        cJSON_AddStringToObject(d, "name", run->name);
    if (run->etag)
        cJSON_AddStringToObject(d, "etag", run->etag);
    cJSON_AddBoolToObject(d, "begun", run->begun);
    cJSON_AddBoolToObject(d, "cancel", run->cancel);
    if (run->report) {
        cJSON_AddItemReferenceToObject(d, "report", run->report);
        cJSON_AddNumberToObject(d, "err", -run->err);
        cJSON_AddBoolToObject(d, "cleared", run->cleared);
    }
    return d;
}

static void never_ran(struct run *, const char *state, int exit_code, int err, const char *message);

static void written(void *arg, int err)
{
    struct run *run = arg;
    struct jobs *jobs = run->jobs;
    struct wakeup *wakeup = &jobs->mount->volume->wakeup;
    run->writings--;
    jobs->writings--;
    run->write_err = err;
    if (err)
        log_error("job %llu: not kept in the cache directory: %s", (unsigned long long)run->id,
                  strerror(-err));
    else if (!run->kept)
        fault_point("job-kept");
    run->kept = run->kept || !err;
    if (!run->kept && run->state == RUN_QUEUED)
        never_ran(run, "lost", 69, err, "it could not be kept in the cache directory");
    if (!run->writings)
        waitq_wake(wakeup, &run->written, 0);
    if (jobs->ending && !jobs->writings)
        waitq_wake(wakeup, &jobs->drained, 0);
    loop_timer_set(&jobs->next, 0);
}

static void put(struct run *run)
{
    _cleanup_json_ cJSON *document = new_document(run);
    run->writings++;
    run->jobs->writings++;
    job_log_put(run->jobs->log, run->id, document, written, run);
}

int jobs_kept(struct run *run, struct waiter *w)
{
    if (!run->writings)
        return run->kept ? 0 : run->write_err;
    waitq_park(&run->written, w);
    return STORE_WAIT;
}

/* --- from the queue to the end */

/* One that has a name was started by the mount before, if at all. */
static void start_next(void *arg)
{
    struct jobs *jobs = arg;
    struct run *run;
    if (jobs->current || !jobs->begun || jobs->ending)
        return;
    DL_FOREACH (jobs->runs, run) {
        if (run->state == RUN_QUEUED)
            break;
    }
    if (!run || !run->kept)
        return;
    jobs->current = run;
    run->state = *run->name ? RUN_NAMING : RUN_SENDING;
    waiter_init(&run->waiter, run->waiter.wake);
    proceed(run);
}

/* To make room for a new one. What waits to be run counts for nothing: of a long queue, the jobs
 * that are over first are those that are waited for first. */
static void forget_old(struct jobs *jobs)
{
    struct run *run, *next;
    unsigned count = 0;
    DL_FOREACH (jobs->runs, run) {
        count += run->state == RUN_OVER;
    }
    DL_FOREACH_SAFE (jobs->runs, run, next) {
        if (count < KEEP_RUNS)
            break;
        if (run->state == RUN_OVER && !run->changed.head && !run->written.head && !run->job) {
            job_log_drop(jobs->log, run->id);
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
    put(run);
    if (run->unattended)
        log_end(run);
    waitq_wake(&jobs->mount->volume->wakeup, &run->changed, 0);
    if (jobs->current == run) {
        jobs->current = NULL;
        waitq_wake(&jobs->mount->volume->wakeup, &jobs->drained, 0);
    }
    loop_timer_set(&jobs->next, 0);
    if (run->replaced && jobs->on_replaced)
        jobs->on_replaced(jobs->on_replaced_arg, run);
}

void jobs_on_replaced(struct jobs *jobs, void (*fn)(void *arg, const struct run *), void *arg)
{
    jobs->on_replaced = fn;
    jobs->on_replaced_arg = arg;
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
    run->cleared = true;
    over(run);
}

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

/* Once a job is begun, the next mount does not start it, whatever it finds. */
static void job_begun(void *arg)
{
    struct run *run = arg;
    fault_point("job-begun");
    if (run->begun)
        return;
    run->begun = true;
    put(run);
}

static const char *current_etag(const struct run *run)
{
    struct session_state state;
    session_get_state(run->jobs->mount->client.session, &state);
    return state.etag;
}

/* Of a run that left no trace: whether that is because it was never started. A session that is not
 * the one in which it was to be has no trace either way. */
static bool never_started(const struct run *run)
{
    const char *etag = current_etag(run);
    return !run->begun && !run->cancel && run->etag && etag && strcmp(run->etag, etag) == 0;
}

/* By the same name: should the start be on its way still, it takes place once. */
static void start_after_all(struct run *run)
{
    job_detach(run->job);
    run->job = NULL;
    run->resume = false;
    run->state = RUN_SENDING;
    waiter_init(&run->waiter, run->waiter.wake);
    proceed(run);
}

static void job_done(void *arg, const struct job_result *result)
{
    struct run *run = arg;
    fault_point("job-done");
    if (result->untraced && never_started(run)) {
        start_after_all(run);
        return;
    }
    if (result->replaced) {
        run->replaced = true;
        run->content = 0; /* it was not run */
        run->unattended = false;
    }
    cJSON *report = new_report(run, job_state_name(result->state), result->exit_code);
    cJSON_AddNumberToObject(report, "milliseconds", (double)result->milliseconds);
    add_text(report, "message", result->message);
    cJSON_AddItemToObject(
        report, "value", result->value ? cJSON_Duplicate(result->value, true) : cJSON_CreateNull());
    add_images(report, result);
    add_error(report, result->error.err, result->error.code, result->error.message);
    run->report = report;
    run->err = result->state == JOB_SUCCEEDED ? 0 : result->error.err ? result->error.err : -EIO;
    run->state = RUN_KEEPING;
    waiter_init(&run->waiter, run->waiter.wake);
    put(run);
    proceed(run);
}

static void job_cleared(void *arg)
{
    struct run *run = arg;
    run->job = NULL;
    run->cleared = true;
    if (run->state == RUN_OVER) { /* the mount before saw it end */
        put(run);
        return;
    }
    run->state = RUN_LOOKING;
    store_invalidate(run->jobs->mount->store);
    waiter_init(&run->waiter, run->waiter.wake);
    proceed(run);
}

static struct job *new_job(struct run *run)
{
    struct mount *m = run->jobs->mount;
    const struct job_events events = {.begun = job_begun,
                                      .output = job_output,
                                      .done = job_done,
                                      .cleared = job_cleared,
                                      .arg = run};
    run->spec.name = run->name;
    run->spec.resume = run->resume;
    run->spec.content = script_is_exact(run->content) ? run->content : 0;
    return job_start(m->loop, m->client.session, &run->spec, &events);
}

/* Not before there is something to write or read: a long queue would take all descriptors. */
static void open_streams(struct run *run)
{
    for (int i = 0; i < 2; i++) {
        struct output *out = &run->streams[i];
        struct stat st = {0};
        if (out->fd < 0)
            out->fd = job_log_stream(run->jobs->log, run->id, i);
        if (out->fd < 0)
            log_warning("job %llu: its output can't be kept in the cache directory: %s",
                        (unsigned long long)run->id, strerror(-out->fd));
        else if (fstat(out->fd, &st) == 0)
            out->len = (uint64_t)st.st_size;
    }
}

static void start(struct run *run)
{
    open_streams(run);
    for (int i = 0; i < 2; i++) { /* outputs come from their beginning, resumed or not */
        struct output *out = &run->streams[i];
        out->len = 0;
        if (out->fd >= 0 && ftruncate(out->fd, 0))
            log_warning("job %llu: %s", (unsigned long long)run->id, strerror(errno));
    }
    run->state = RUN_RUNNING;
    run->job = new_job(run);
    if (!run->job)
        never_ran(run, "lost", 1, -ENOMEM, "out of memory");
    else if (run->cancel)
        job_cancel(run->job);
}

/* Gives the run its name, for this mount and the next. */
static void name_run(struct run *run)
{
    const char *etag = current_etag(run);
    run->state = RUN_NAMING;
    if (*run->name)
        return;
    job_new_name(run->name);
    run->etag = etag ? strdup(etag) : NULL;
    put(run);
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
        if (err)
            return;
        name_run(run);
        proceed(run);
        return;
    case RUN_NAMING:
        err = jobs_kept(run, &run->waiter);
        if (err == STORE_WAIT)
            return;
        fault_point("job-named");
        if (run->write_err)
            never_ran(run, "lost", 69, run->write_err,
                      "it could not be kept in the cache directory");
        else
            start(run);
        return;
    case RUN_KEEPING:
        if (jobs_kept(run, &run->waiter) == STORE_WAIT)
            return;
        fault_point("job-told");
        run->state = RUN_CLEARING;
        job_clear(run->job);
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
    case RUN_CLEARING:
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
    if (run->state > RUN_RUNNING)
        return;
    run->cancel = true;
    if (run->job || run->resume) {
        put(run);
        if (run->job)
            job_cancel(run->job);
    } else {
        waiter_leave(&run->waiter);
        never_ran(run, "canceled", 130, 0, "Canceled");
    }
}

/* What is not started, is not started any more. */
static void put_back(struct run *run)
{
    waiter_leave(&run->waiter);
    run->state = RUN_QUEUED;
    run->jobs->current = NULL;
    if (!run->resume && *run->name) {
        *run->name = '\0';
        put(run);
    }
}

static void begin_end(struct jobs *jobs)
{
    struct run *run;
    unsigned left = 0;
    jobs->ending = true;
    DL_FOREACH (jobs->runs, run) {
        if (run->state <= RUN_RUNNING && run->changed.head)
            jobs_cancel(run);
        if (run == jobs->current && run->state < RUN_RUNNING)
            put_back(run);
        left += run->state <= RUN_RUNNING && !run->cancel;
    }
    if (left)
        log_info("%u jobs that nobody waits for go on with the next mount of the session", left);
}

int jobs_drain(struct jobs *jobs, struct waiter *w)
{
    if (!jobs->ending)
        begin_end(jobs);
    const struct run *run = jobs->current;
    bool goes_on = run && run->state == RUN_RUNNING && !run->cancel;
    if ((!run || goes_on) && !jobs->writings)
        return 0;
    waitq_park(&jobs->drained, w);
    return STORE_WAIT;
}

/* --- taking them in */

static struct run *new_run(struct jobs *jobs, uint64_t id)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run)
        return NULL;
    run->jobs = jobs;
    run->id = id;
    waiter_init(&run->waiter, woken);
    DL_APPEND(jobs->runs, run);
    run->streams[0].fd = run->streams[1].fd = -1;
    return run;
}

static struct run *submit(struct jobs *jobs, const cJSON *request, uint64_t content,
                          const char **why)
{
    *why = "the mount is about to end";
    if (jobs->ending)
        return NULL;
    struct run *run = new_run(jobs, jobs->last_id + 1);
    *why = "out of memory";
    if (!run)
        return NULL;
    *why = job_request_take(request, run);
    run->request = cJSON_Duplicate(request, true);
    if (!*why && !run->request)
        *why = "out of memory";
    if (*why) {
        run_free(run);
        return NULL;
    }
    jobs->last_id++;
    run->content = content;
    put(run);
    forget_old(jobs);
    return run;
}

struct run *jobs_submit(struct jobs *jobs, const cJSON *request, const char **why)
{
    return submit(jobs, request, 0, why);
}

struct run *jobs_submit_script(struct jobs *jobs, const char *path, uint64_t content,
                               const char **why)
{
    _cleanup_json_ cJSON *request = cJSON_CreateObject();
    cJSON_AddStringToObject(request, "path", path);
    struct run *run = submit(jobs, request, content, why);
    if (run)
        run->unattended = true;
    return run;
}

/* --- from the mount before */

static const char *restore(struct run *run, const cJSON *document)
{
    const char *why = job_request_take(json_object(document, "request"), run),
               *name = json_string(document, "name"), *etag = json_string(document, "etag"),
               *content = json_string(document, "content");
    const cJSON *report = json_object(document, "report");
    uint64_t err = 0;
    json_bool(document, "begun", &run->begun);
    json_bool(document, "cancel", &run->cancel);
    json_bool(document, "cleared", &run->cleared);
    json_uint(document, "err", &err);
    if (name)
        snprintf(run->name, sizeof run->name, "%s", name);
    run->request = cJSON_Duplicate(json_object(document, "request"), true);
    run->report = cJSON_Duplicate(report, true);
    run->etag = etag ? strdup(etag) : NULL;
    if (!why && (!run->request || (report && !run->report) || (etag && !run->etag)))
        return "out of memory";
    run->content = content ? strtoull(content, NULL, 16) : 0;
    run->err = -(int)err;
    run->kept = true;
    run->resume = name != NULL;
    run->unattended = !report;
    run->state = report ? RUN_OVER : RUN_QUEUED;
    if (report)
        open_streams(run);
    return why;
}

static void take_document(void *arg, uint64_t id, const cJSON *document)
{
    struct jobs *jobs = arg;
    jobs->last_id = id > jobs->last_id ? id : jobs->last_id;
    struct run *run = document ? new_run(jobs, id) : NULL;
    const char *why = run ? restore(run, document) : document ? "out of memory" : "damaged";
    if (!why)
        return;
    log_error("job %llu of the mount before is lost: what was kept of it: %s",
              (unsigned long long)id, why);
    if (run)
        run_free(run);
}

static int older(const struct run *a, const struct run *b)
{
    return a->id < b->id ? -1 : a->id > b->id;
}

void jobs_begin(struct jobs *jobs)
{
    struct run *run;
    jobs->begun = true;
    loop_timer_set(&jobs->next, 0);
    DL_FOREACH (jobs->runs, run) {
        if (run->state == RUN_OVER && *run->name && !run->cleared && (run->job = new_job(run)))
            job_clear(run->job);
    }
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

bool jobs_are_idle(const struct jobs *jobs)
{
    const struct run *run;
    DL_FOREACH (jobs->runs, run) {
        if (run->state != RUN_OVER || run->job || run->changed.head)
            return false;
    }
    return !jobs->writings;
}

const char *run_state_name(const struct run *run)
{
    static const char *const names[] = {
        [RUN_QUEUED] = "queued",   [RUN_SENDING] = "uploading", [RUN_NAMING] = "uploading",
        [RUN_RUNNING] = "running", [RUN_KEEPING] = "running",   [RUN_CLEARING] = "running",
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
    const char *directory = store_directory(m->store);
    int err = job_log_open(m->loop, directory, &jobs->log);
    err = err ? err : job_log_read(jobs->log, take_document, jobs);
    if (err) {
        log_error("%s/jobs: %s", directory, strerror(-err));
        jobs_free(jobs);
        return NULL;
    }
    DL_SORT(jobs->runs, older);
    return jobs;
}

void jobs_free(struct jobs *jobs)
{
    if (!jobs)
        return;
    while (jobs->runs)
        run_free(jobs->runs);
    loop_timer_stop(&jobs->next);
    job_log_close(jobs->log);
    free(jobs);
}
