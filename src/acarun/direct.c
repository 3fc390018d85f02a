/* Runs straight in the pool, one task after another in one session:
 *
 *     direct_open ──▶ (script) UPLOADING ──▶ RUNNING ──▶ over ──▶ the next task, or direct_close:
 *                          └── failed, signal ────────────▲        (a session of our own) DELETING
 *
 * The first signal cancels the run, the next one ends us where we are. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "acarun/exit.h"
#include "acarun/link.h"
#include "acarun/signals.h"
#include "acarun/task.h"
#include "job/job.h"
#include "util/cleanup.h"
#include "util/gauge.h"
#include "util/log.h"

struct direct {
    struct link link;
    struct task *task; /* under way */
    int signal_fd;
    struct loop_fd *signals;
    struct loop_timer begin, tick;
    struct gauge gauge;        /* of the upload */
    struct session_call *call; /* the upload, or the deletion */
    struct job *job;
    char *name; /* of the script in the session */
    int script; /* descriptor, or -1 */
    enum { SESSION_NONE, SESSION_UNCLEAR, SESSION_THERE } made;
    bool running; /* the job: heard of in the session */
    bool canceled, closing, quiet;
    bool in_haste; /* no time for goodbyes */
    int code;      /* -1: the report tells */
};

/* Until there is a session only what ends the run is told, in one line. */
static void set_log_level(const struct direct *d, bool begun)
{
    enum log_level level = LOG_LEVEL_INFO;
    log_level_parse(d->link.config.log_level, &level);
    if (level != LOG_LEVEL_DEBUG && (!begun || d->quiet))
        level = LOG_LEVEL_ERROR;
    log_set_level(level);
}

static void begun(struct direct *d)
{
    if (d->made != SESSION_THERE)
        set_log_level(d, true);
    d->made = SESSION_THERE;
}

/* code: -1, or what to exit with. */
static void over(struct direct *d, int code)
{
    d->code = code;
    loop_quit(d->link.loop, 0);
}

static void failed(struct direct *d, const char *what, const struct session_error *e)
{
    _cleanup_buf_ struct buf text = {0};
    if (d->made == SESSION_NONE && (e->err == -EIO || e->err == -ETIMEDOUT))
        d->made = SESSION_UNCLEAR;
    client_explain(&text, e);
    output_end_line(d->task->output);
    log_error("%s: %s", what, text.data ? text.data : strerror(-e->err));
    over(d, exit_of_error(e->err));
}

/* --- the run */

static void cancel(struct direct *d)
{
    d->canceled = true;
    output_hurry(d->task->output);
    job_cancel(d->job);
}

static void job_begun(void *arg)
{
    struct direct *d = arg;
    d->running = true;
    begun(d);
}

static void put_out(void *arg, int stream, const void *data, size_t len)
{
    struct direct *d = arg;
    job_begun(d);
    output_write(d->task->output, stream, data, len);
    if (output_no_reader(d->task->output) && !d->canceled)
        cancel(d);
}

static char *message_of(const struct job_result *result)
{
    struct buf text = {0};
    if (!result->error.err)
        return result->message ? strdup(result->message) : NULL;
    client_explain(&text, &result->error);
    return buf_take(&text);
}

static void waits(void *arg, const struct session_error *e, int64_t patience_ms)
{
    struct direct *d = arg;
    _cleanup_buf_ struct buf text = {0};
    if (d->quiet || d->canceled)
        return;
    client_explain(&text, e);
    output_end_line(d->task->output);
    set_log_level(d, true);
    log_warning("%s: %s; trying for up to %lld s", d->link.config.endpoint,
                text.data ? text.data : strerror(-e->err), (long long)patience_ms / 1000);
    set_log_level(d, d->made == SESSION_THERE);
}

int task_take_result(struct report *r, struct output *output, const struct job_result *result)
{
    snprintf(r->state, sizeof r->state, "%s", job_state_name(result->state));
    r->exit_code = result->error.err           ? exit_of_error(result->error.err)
                   : result->state == JOB_LOST ? EXIT_UNREACHABLE
                                               : result->exit_code;
    r->milliseconds = result->milliseconds;
    r->message = message_of(result);
    r->value = result->value ? cJSON_Duplicate(result->value, true) : NULL;
    r->text = result->text ? strdup(result->text) : NULL;
    for (size_t i = 0; i < result->image_count; i++) {
        const struct job_image *image = &result->images[i];
        cJSON *entry = cJSON_CreateObject();
        cJSON_AddItemToArray(r->images, entry);
        unsigned number = result->image_count > 1 ? (unsigned)i + 1 : 0;
        int err = output_image(output, number, image->extension, image->bytes.data,
                               image->bytes.len, entry);
        if (err)
            return err;
    }
    return 0;
}

static void done(void *arg, const struct job_result *result)
{
    struct direct *d = arg;
    d->job = NULL;
    if (result->error.err && !d->running) {
        failed(d, d->link.config.endpoint, &result->error);
        return;
    }
    begun(d);
    int err = task_take_result(d->task->report, d->task->output, result);
    if (err)
        log_error("an image can't be kept: %s", strerror(-err));
    over(d, err ? EXIT_NO_OUTPUT : -1);
}

static void start(struct direct *d)
{
    const struct task *t = d->task;
    const struct options *o = t->options;
    bool plain = task_is_plain(t);
    const struct job_spec spec = {
        .path = t->code ? NULL : d->name,
        .code = t->code,
        .code_name = t->code_name,
        .args = o->args,
        .plain = plain,
        .in_kernel = !plain && (o->in_kernel || t->code),
        .timeout_ms = o->timeout_ms,
    };
    const struct job_events events = {
        .begun = job_begun, .waits = waits, .output = put_out, .done = done, .arg = d};
    d->job = job_start(d->link.loop, d->link.client.session, &spec, &events);
    if (!d->job)
        failed(d, "job", &(struct session_error){.err = -ENOMEM});
}

/* --- the upload of the script */

static uint64_t bytes_sent(const struct direct *d)
{
    struct http_stats http;
    http_get_stats(d->link.client.http, &http);
    return http.bytes_out;
}

static void tick(void *arg)
{
    struct direct *d = arg;
    struct stat st;
    if (fstat(d->script, &st) == 0)
        gauge_show(&d->gauge, 1, (uint64_t)st.st_size, bytes_sent(d), NULL);
    loop_timer_set(&d->tick, GAUGE_MS);
}

static void begin_gauge(struct direct *d)
{
    if (d->quiet)
        return;
    gauge_begin(&d->gauge, "acarun", "sending", bytes_sent(d));
    loop_timer_set(&d->tick, GAUGE_MS);
}

static void end_gauge(struct direct *d)
{
    loop_timer_stop(&d->tick);
    gauge_end(&d->gauge);
}

static void uploaded(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct direct *d = arg;
    d->call = NULL;
    end_gauge(d);
    if (e->err) {
        failed(d, d->link.config.endpoint, e);
        return;
    }
    begun(d);
    start(d);
}

static void begin(void *arg)
{
    struct direct *d = arg;
    if (d->script < 0) {
        start(d);
        return;
    }

    struct stat st;
    if (fstat(d->script, &st)) {
        failed(d, d->name, &(struct session_error){.err = -errno});
        return;
    }
    d->call = session_upload(d->link.client.session, d->name, d->script, (uint64_t)st.st_size,
                             uploaded, d);
    if (d->call)
        begin_gauge(d);
    else
        failed(d, d->name, &(struct session_error){.err = -ENOMEM});
}

static void signalled(void *arg, short revents)
{
    struct direct *d = arg;
    if (!signals_take(d->signal_fd))
        return;
    if (d->job && !d->canceled) {
        cancel(d);
        return;
    }
    if (d->call && d->made == SESSION_NONE)
        d->made = SESSION_UNCLEAR; /* the upload may have got there */
    session_cancel(d->call);
    d->call = NULL;
    end_gauge(d);
    d->in_haste = d->canceled || d->closing;
    d->canceled = true;
    over(d, EXIT_INTERRUPTED);
}

/* --- the session */

static void deleted(void *arg, const struct session_error *e)
{
    struct direct *d = arg;
    d->call = NULL;
    if (e->err && e->err != -ENOENT && d->made == SESSION_THERE)
        log_warning("session %s stays until it expires: %s", d->link.config.session,
                    e->message ? e->message : strerror(-e->err));
    loop_quit(d->link.loop, 0);
}

struct direct *direct_open(const struct options *o, int signal_fd, int *code)
{
    struct direct *d = calloc(1, sizeof *d);
    *code = EXIT_RAISED;
    if (!d)
        return NULL;
    d->signal_fd = signal_fd;
    d->script = -1;
    d->quiet = o->quiet;
    *code = link_open(&d->link, o);
    if (*code < 0) {
        set_log_level(d, false);
        loop_timer_init(&d->begin, d->link.loop, begin, d);
        loop_timer_init(&d->tick, d->link.loop, tick, d);
        d->signals = loop_fd_add(d->link.loop, signal_fd, CURL_WAIT_POLLIN, signalled, d);
        if (d->signals)
            return d;
        *code = EXIT_RAISED;
    }
    direct_close(d);
    return NULL;
}

void direct_close(struct direct *d)
{
    d->closing = true;
    if (d->link.own_session && d->made != SESSION_NONE && !d->in_haste)
        d->call = session_delete(d->link.client.session, deleted, d);
    if (d->call)
        loop_run(d->link.loop);
    if (d->job)
        job_abandon(d->job);
    session_cancel(d->call);
    if (d->signals)
        loop_fd_del(d->signals);
    link_close(&d->link);
    free(d);
}

/* --- tasks */

static int open_script(struct direct *d)
{
    const char *script = d->task->code ? NULL : d->task->options->script;
    if (!script)
        return -1;
    _cleanup_free_ char *copy = strdup(script);
    d->script = open(script, O_RDONLY | O_CLOEXEC);
    if (d->script < 0) {
        log_error("%s: %s", script, strerror(errno));
        return EXIT_NO_SCRIPT;
    }
    d->name = copy ? strdup(basename(copy)) : NULL;
    return d->name ? -1 : EXIT_RAISED;
}

int direct_task(struct direct *d, struct task *t)
{
    d->task = t;
    d->running = false;
    snprintf(t->session, sizeof t->session, "%s", d->link.config.session);
    d->code = open_script(d);
    if (d->code < 0) {
        loop_timer_set(&d->begin, 0);
        loop_run(d->link.loop);
    }
    loop_timer_stop(&d->begin);
    end_gauge(d);
    cleanup_close(&d->script);
    d->script = -1;
    free(d->name);
    d->name = NULL;
    return d->code;
}

int direct_run(struct task *t)
{
    int code;
    struct direct *d = direct_open(t->options, t->signal_fd, &code);
    if (!d)
        return code;
    code = direct_task(d, t);
    direct_close(d);
    return code;
}
