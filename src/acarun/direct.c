/* Runs straight in the pool:
 *
 *     (script) UPLOADING ──▶ RUNNING ──▶ (a session of our own) DELETING ──▶ over
 *                  └── failed, signal ──────▶ as above, or over
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

#include <curl/curl.h>

#include "acarun/exit.h"
#include "acarun/signals.h"
#include "acarun/task.h"
#include "client/client.h"
#include "job/job.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

struct direct {
    struct task *task;
    struct config config;
    struct loop *loop;
    struct client client;
    struct loop_fd *signals;
    struct loop_timer begin;
    struct session_call *call; /* the upload, or the deletion */
    struct job *job;
    char *name;       /* of the script in the session */
    int script;       /* descriptor, or -1 */
    bool own_session; /* to be deleted afterwards, once there is one: */
    enum { SESSION_NONE, SESSION_UNCLEAR, SESSION_THERE } made;
    bool canceled;
    int code; /* -1: the report tells */
};

/* --- settings */

static int take_settings(struct direct *d, char **why)
{
    const struct options *o = d->task->options;
    struct config *c = &d->config;
    _cleanup_free_ char *file = NULL;
    for (size_t i = 0; i < o->setting_count && !file; i++)
        file = config_file_option(o->settings[i]);
    int err = config_load(c, file, why);
    if (err) {
        d->code = EXIT_CONFIG;
        return err;
    }
    d->code = EXIT_BAD_USAGE;
    for (size_t i = 0; i < o->setting_count && !err; i++)
        err = config_mount_options(c, o->settings[i], why);
    if (!err && o->pool)
        err = config_source(c, o->pool, why);
    if (!err && o->session) {
        free(c->session);
        c->session = strdup(o->session);
        err = c->session ? 0 : -ENOMEM;
    }
    return err ? err : config_finish(c, why);
}

static int check_settings(struct direct *d)
{
    struct config *c = &d->config;
    const char *wrong;
    if (!client_is_local(c) && http_url_check(c->endpoint, NULL, &wrong)) {
        log_error("pool %s: %s", c->endpoint, wrong);
        return -EINVAL;
    }
    if (c->session && session_identifier_check(c->session, &wrong)) {
        log_error("session identifier: %s", wrong);
        return -EINVAL;
    }
    if (!c->session) {
        char uuid[37];
        text_uuid(uuid);
        c->session = strdup(uuid);
        d->own_session = true;
    }
    snprintf(d->task->session, sizeof d->task->session, "%s", c->session ? c->session : "");
    return c->session ? 0 : -ENOMEM;
}

/* --- the end */

static void deleted(void *arg, const struct session_error *e)
{
    struct direct *d = arg;
    d->call = NULL;
    if (e->err && e->err != -ENOENT && d->made == SESSION_THERE)
        log_warning("session %s stays until it expires: %s", d->config.session,
                    e->message ? e->message : strerror(-e->err));
    loop_quit(d->loop, 0);
}

/* code: -1, or what to exit with. */
static void over(struct direct *d, int code)
{
    d->code = code;
    if (d->own_session && d->made != SESSION_NONE)
        d->call = session_delete(d->client.session, deleted, d);
    if (!d->call)
        loop_quit(d->loop, 0);
}

static void failed(struct direct *d, const char *what, const struct session_error *e)
{
    _cleanup_buf_ struct buf text = {0};
    if (d->made == SESSION_NONE && (e->err == -EIO || e->err == -ETIMEDOUT))
        d->made = SESSION_UNCLEAR;
    client_explain(&text, e);
    log_error("%s: %s", what, text.data ? text.data : strerror(-e->err));
    over(d, exit_of_error(e->err));
}

/* --- the run */

/* Until there is a session only what ends the run is told, in one line. */
static void set_log_level(const struct direct *d, bool begun)
{
    enum log_level level = LOG_LEVEL_INFO;
    log_level_parse(d->config.log_level, &level);
    if (level != LOG_LEVEL_DEBUG && (!begun || d->task->options->quiet))
        level = LOG_LEVEL_ERROR;
    log_set_level(level);
}

static void begun(struct direct *d)
{
    if (d->made != SESSION_THERE)
        set_log_level(d, true);
    d->made = SESSION_THERE;
}

static void cancel(struct direct *d)
{
    d->canceled = true;
    output_hurry(d->task->output);
    job_cancel(d->job);
}

static void put_out(void *arg, int stream, const void *data, size_t len)
{
    struct direct *d = arg;
    begun(d);
    output_write(d->task->output, stream, data, len);
    if (output_no_reader(d->task->output) && !d->canceled)
        cancel(d);
}

static int take_images(struct task *t, const struct job_result *result)
{
    for (size_t i = 0; i < result->image_count; i++) {
        const struct job_image *image = &result->images[i];
        cJSON *entry = cJSON_CreateObject();
        cJSON_AddItemToArray(t->report->images, entry);
        unsigned number = result->image_count > 1 ? (unsigned)i + 1 : 0;
        int err = output_image(t->output, number, image->extension, image->bytes.data,
                               image->bytes.len, entry);
        if (err)
            return err;
    }
    return 0;
}

static void done(void *arg, const struct job_result *result)
{
    static const char *const states[] = {
        [JOB_SUCCEEDED] = "succeeded", [JOB_FAILED] = "failed", [JOB_CANCELED] = "canceled",
        [JOB_TIMED_OUT] = "timed-out", [JOB_LOST] = "lost",
    };
    struct direct *d = arg;
    struct report *r = d->task->report;
    d->job = NULL;
    if (result->error.err) {
        failed(d, d->config.endpoint, &result->error);
        return;
    }
    begun(d);
    snprintf(r->state, sizeof r->state, "%s", states[result->state]);
    r->exit_code = result->exit_code;
    r->milliseconds = result->milliseconds;
    r->message = result->message ? strdup(result->message) : NULL;
    r->value = result->value ? cJSON_Duplicate(result->value, true) : NULL;
    int err = take_images(d->task, result);
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
    const struct job_events events = {.output = put_out, .done = done, .arg = d};
    d->job = job_start(d->loop, d->client.session, &spec, &events);
    if (!d->job)
        failed(d, "job", &(struct session_error){.err = -ENOMEM});
}

static void uploaded(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct direct *d = arg;
    d->call = NULL;
    if (e->err) {
        failed(d, d->config.endpoint, e);
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
    d->call =
        session_upload(d->client.session, d->name, d->script, (uint64_t)st.st_size, uploaded, d);
    if (!d->call)
        failed(d, d->name, &(struct session_error){.err = -ENOMEM});
}

static void signalled(void *arg, short revents)
{
    struct direct *d = arg;
    if (!signals_take(d->task->signal_fd))
        return;
    if (d->job && !d->canceled) {
        cancel(d);
    } else {
        if (d->call && d->made == SESSION_NONE)
            d->made = SESSION_UNCLEAR; /* the upload may have got there */
        session_cancel(d->call);
        d->call = NULL;
        if (d->canceled) {
            d->code = EXIT_INTERRUPTED;
            loop_quit(d->loop, 0);
        } else {
            over(d, EXIT_INTERRUPTED);
        }
    }
    d->canceled = true;
}

/* --- in order */

static int open_script(struct direct *d)
{
    const char *script = d->task->options->script;
    if (!script)
        return 0;
    _cleanup_free_ char *copy = strdup(script);
    d->script = open(script, O_RDONLY | O_CLOEXEC);
    if (d->script < 0) {
        int err = -errno;
        log_error("%s: %s", script, strerror(-err));
        d->code = EXIT_NO_SCRIPT;
        return err;
    }
    d->name = copy ? strdup(basename(copy)) : NULL;
    return d->name ? 0 : -ENOMEM;
}

static int set_up(struct direct *d)
{
    _cleanup_free_ char *why = NULL;
    int err = take_settings(d, &why);
    if (!err)
        set_log_level(d, false);
    if (!err && (err = check_settings(d)))
        return err;
    if (!err && (err = open_script(d)))
        return err;
    if (!err && (err = client_ensure_local(&d->config, &why)))
        d->code = err == -EACCES ? EXIT_DENIED : EXIT_UNREACHABLE;
    if (!err)
        err = loop_new(&d->loop);
    if (!err && (err = client_new(&d->client, d->loop, &d->config,
                                  "acarun/" ACAFS_VERSION " (Language=C)", &why)))
        d->code = err == -EACCES ? EXIT_DENIED : EXIT_CONFIG;
    if (!err)
        d->signals = loop_fd_add(d->loop, d->task->signal_fd, CURL_WAIT_POLLIN, signalled, d);
    if (!err && !d->signals)
        err = -ENOMEM;
    if (err)
        log_error("%s", why ? why : strerror(-err));
    return err;
}

static void tear_down(struct direct *d)
{
    if (d->job)
        job_abandon(d->job);
    session_cancel(d->call);
    if (d->signals)
        loop_fd_del(d->signals);
    client_free(&d->client);
    if (d->loop)
        loop_free(d->loop);
    config_free(&d->config);
    cleanup_close(&d->script);
    free(d->name);
}

int direct_run(struct task *t)
{
    struct direct d = {.task = t, .script = -1, .code = EXIT_RAISED};
    client_harden();
    curl_global_init(CURL_GLOBAL_DEFAULT);
    if (set_up(&d) == 0) {
        loop_timer_init(&d.begin, d.loop, begin, &d);
        loop_timer_set(&d.begin, 0);
        loop_run(d.loop);
    }
    int code = d.code;
    tear_down(&d);
    curl_global_cleanup();
    return code;
}
