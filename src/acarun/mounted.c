/* Runs in the session of a mount, by its control file:
 *
 *     submit ──▶ job N ──▶ .acafs/jobs/N/stdout and stderr, each read by a thread as they grow
 *                     └──▶ wait N, by a third; it ends last, for the mount shows the files by then
 *
 * The main thread waits for the third and for signals: the first cancels the job, the next one ends
 * us. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "acarun/exit.h"
#include "acarun/mounted.h"
#include "acarun/signals.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"

enum { BLOCK = 64 << 10 };

static const char *const stream_names[] = {"stdout", "stderr"};

struct stream {
    struct output *output;
    int number, fd;
    pthread_t thread;
};

struct conversation {
    int fd, over; /* of the control file; an eventfd */
    char line[48];
    struct buf reply;
    int err;
    pthread_t thread;
};

/* --- the control file */

static int open_in(const struct place *p, const char *name, int flags)
{
    _cleanup_buf_ struct buf path = {0};
    if (buf_addf(&path, "%s/.acafs/%s", p->root, name))
        return -ENOMEM;
    int fd = open(path.data, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int read_all(int fd, struct buf *out)
{
    for (;;) {
        if (buf_reserve(out, BLOCK))
            return -ENOMEM;
        ssize_t n = read(fd, out->data + out->len, BLOCK);
        if (n == 0)
            return buf_adds(out, "");
        if (n > 0)
            out->len += (size_t)n;
        else if (errno != EINTR)
            return -errno;
    }
}

/* One command and its reply, also that of a command that was refused. */
static int talk(int fd, const char *line, struct buf *reply)
{
    size_t len = strlen(line);
    if (write(fd, line, len) != (ssize_t)len && errno != EINVAL)
        return -errno;
    return read_all(fd, reply);
}

static int errno_of_name(const char *name)
{
    for (int number = 1; name && number < 200; number++) {
        const char *known = strerrorname_np(number);
        if (known && strcmp(known, name) == 0)
            return -number;
    }
    return -EIO;
}

/* Says why a mount did not do it: the exit code. */
static int refused(const struct task *t, const struct place *p, const cJSON *error)
{
    const char *message = json_string(error, "message");
    output_end_line(t->output);
    log_error("%s: %s", p->root, message ? message : "the mount did not answer");
    return exit_of_error(errno_of_name(json_string(error, "errno")));
}

const char *mounted_explain(int err)
{
    switch (err) {
    case -ENOTCONN:
    case -ECONNABORTED:
        return "the mount is gone, for its daemon was ended: unmount it (fusermount3 -u) and mount "
               "it again";
    default:
        return strerror(-err);
    }
}

static int failed(const struct task *t, const struct place *p, int err)
{
    output_end_line(t->output);
    log_error("%s: %s", p->root,
              err == -EACCES ? "only who mounted it may run scripts in it" : mounted_explain(err));
    return exit_of_error(err);
}

/* --- the job */

static char *submission(const struct task *t, const struct place *p)
{
    const struct options *o = t->options;
    _cleanup_json_ cJSON *request = cJSON_CreateObject();
    if (t->code) {
        cJSON_AddStringToObject(request, "code", t->code);
        cJSON_AddStringToObject(request, "code_name", t->code_name);
    } else {
        cJSON_AddStringToObject(request, "path", p->path);
    }
    cJSON *args = cJSON_AddArrayToObject(request, "args");
    for (const char *const *arg = o->args; arg && *arg; arg++)
        cJSON_AddItemToArray(args, cJSON_CreateString(*arg));
    bool plain = task_is_plain(t);
    cJSON_AddBoolToObject(request, "plain", plain);
    cJSON_AddBoolToObject(request, "in_kernel", !plain && (o->in_kernel || t->code));
    cJSON_AddBoolToObject(request, "outputs", t->harness_outputs);
    if (o->timeout_ms)
        cJSON_AddNumberToObject(request, "timeout", (double)o->timeout_ms / 1000);
    _cleanup_free_ char *text = cJSON_PrintUnformatted(request);
    struct buf line = {0};
    return text && buf_addf(&line, "submit %s\n", text) == 0 ? buf_take(&line) : NULL;
}

int mounted_submit(const struct task *t, const struct place *p, uint64_t *job)
{
    _cleanup_close_ int fd = open_in(p, "control", O_RDWR);
    if (fd < 0)
        return failed(t, p, fd);
    _cleanup_free_ char *line = submission(t, p);
    _cleanup_buf_ struct buf reply = {0};
    int err = line ? talk(fd, line, &reply) : -ENOMEM;
    if (err)
        return failed(t, p, err);
    _cleanup_json_ cJSON *json = json_parse(reply.data, reply.len);
    return json_uint(json, "job", job) ? 0 : refused(t, p, json_object(json, "error"));
}

static void *read_stream(void *arg)
{
    struct stream *s = arg;
    _cleanup_free_ char *block = malloc(BLOCK);
    ssize_t n;
    while (block && ((n = read(s->fd, block, BLOCK)) > 0 || (n < 0 && errno == EINTR))) {
        if (n > 0)
            output_write(s->output, s->number, block, (size_t)n);
    }
    return NULL;
}

static void *await_end(void *arg)
{
    struct conversation *c = arg;
    uint64_t one = 1;
    c->err = talk(c->fd, c->line, &c->reply);
    if (write(c->over, &one, sizeof one) != sizeof one)
        log_debug("eventfd: %s", strerror(errno));
    return NULL;
}

void mounted_cancel(const struct place *p, uint64_t job)
{
    char line[48];
    _cleanup_buf_ struct buf reply = {0};
    _cleanup_close_ int fd = open_in(p, "control", O_RDWR);
    snprintf(line, sizeof line, "cancel %llu\n", (unsigned long long)job);
    if (fd < 0 || talk(fd, line, &reply))
        log_warning("%s: the job could not be canceled", p->root);
}

/* Until the job is over; cancels it at a signal, or when nobody reads its output any more. At a
 * second signal the process ends: what it has not read is the mount's to keep. */
static void wait_for_end(struct task *t, const struct place *p, uint64_t job, int over)
{
    bool canceled = false;
    struct pollfd fds[] = {{.fd = over, .events = POLLIN}, {.fd = t->signal_fd, .events = POLLIN}};
    while (!fds[0].revents) {
        int n = poll(fds, 2, 200);
        bool asked = n > 0 && fds[1].revents && signals_take(t->signal_fd);
        if (asked && canceled)
            _exit(EXIT_INTERRUPTED);
        if (!canceled && (asked || output_no_reader(t->output))) {
            canceled = true;
            output_hurry(t->output);
            mounted_cancel(p, job);
        }
    }
}

/* --- what became of it */

static int take_images(struct task *t, const struct place *p, const cJSON *images)
{
    const cJSON *image;
    const char *slash = strrchr(p->path, '/');
    int dir = slash ? (int)(slash - p->path) : 0;
    unsigned number = cJSON_GetArraySize(images) > 1;
    cJSON_ArrayForEach (image, images) {
        const char *format = json_string(image, "format"), *name = json_string(image, "name"),
                   *data = json_string(image, "base64_data");
        _cleanup_buf_ struct buf bytes = {0}, path = {0};
        cJSON *entry = cJSON_CreateObject();
        cJSON_AddItemToArray(t->report->images, entry);
        int err = 0;
        if (!t->harness_outputs) {
            err = data ? text_unbase64(&bytes, data, strlen(data)) : -EPROTO;
            err = err ? err
                      : output_image(t->output, number, format ? format : "", bytes.data, bytes.len,
                                     entry);
        } else if (format && name) {
            cJSON_AddStringToObject(entry, "name", name);
            cJSON_AddStringToObject(entry, "format", format);
            err = buf_addf(&path, "%s/%.*s%s%s", p->root, dir, p->path, dir ? "/" : "", name);
            cJSON_AddStringToObject(entry, "path", err ? name : path.data);
        }
        if (err)
            return err;
        number += number > 0;
    }
    return 0;
}

/* -1, or the exit code after saying why there is no report. */
static int take_report(struct task *t, const struct place *p, const struct conversation *c)
{
    if (c->err)
        return failed(t, p, c->err);
    _cleanup_json_ cJSON *json = json_parse(c->reply.data, c->reply.len);
    struct report *r = t->report;
    const char *state = json_string(json, "state"), *message = json_string(json, "message");
    const cJSON *error = json_object(json, "error");
    uint64_t code, milliseconds = 0;
    if (!state || !json_uint(json, "exit_code", &code) || code > 255)
        return refused(t, p, error);
    json_uint(json, "milliseconds", &milliseconds);
    snprintf(r->state, sizeof r->state, "%s", state);
    r->exit_code = (int)code;
    if (strcmp(state, "lost") == 0)
        r->exit_code =
            error ? exit_of_error(errno_of_name(json_string(error, "errno"))) : EXIT_UNREACHABLE;
    r->milliseconds = (int64_t)milliseconds;
    r->message = message ? strdup(message) : NULL;
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(json, "value");
    r->value = value && !cJSON_IsNull(value) ? cJSON_Duplicate(value, true) : NULL;
    int err = take_images(t, p, json_array(json, "images"));
    return err ? failed(t, p, err) : -1;
}

static void take_session(struct task *t, const struct place *p)
{
    _cleanup_buf_ struct buf text = {0};
    _cleanup_close_ int fd = open_in(p, "status", O_RDONLY);
    if (fd < 0 || read_all(fd, &text))
        return;
    _cleanup_json_ cJSON *status = json_parse(text.data, text.len);
    const char *session = json_string(status, "session");
    snprintf(t->session, sizeof t->session, "%s", session ? session : "");
}

int mounted_wait(struct task *t, const struct place *p, uint64_t job)
{
    struct conversation c = {.fd = open_in(p, "control", O_RDWR)};
    snprintf(c.line, sizeof c.line, "wait %llu\n", (unsigned long long)job);
    c.err = c.fd < 0 ? c.fd : talk(c.fd, c.line, &c.reply);
    int code = take_report(t, p, &c);
    cleanup_close(&c.fd);
    buf_free(&c.reply);
    return code;
}

int mounted_read(struct task *t, const struct place *p, uint64_t job)
{
    for (int stream = 1; stream <= 2; stream++) {
        char name[64];
        snprintf(name, sizeof name, "jobs/%llu/%s", (unsigned long long)job,
                 stream_names[stream - 1]);
        struct stream s = {.output = t->output, .number = stream, .fd = open_in(p, name, O_RDONLY)};
        if (s.fd < 0)
            return s.fd;
        read_stream(&s);
        close(s.fd);
    }
    return 0;
}

static int open_job(const struct place *p, uint64_t job, struct stream streams[2],
                    struct conversation *c)
{
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "jobs/%llu/%s", (unsigned long long)job, stream_names[i]);
        streams[i].number = i + 1;
        if ((streams[i].fd = open_in(p, name, O_RDONLY)) < 0)
            return streams[i].fd;
    }
    snprintf(c->line, sizeof c->line, "wait %llu\n", (unsigned long long)job);
    if ((c->fd = open_in(p, "control", O_RDWR)) < 0)
        return c->fd;
    c->over = eventfd(0, EFD_CLOEXEC);
    return c->over < 0 ? -errno : 0;
}

static int follow(struct task *t, const struct place *p, uint64_t job, struct stream streams[2],
                  struct conversation *c)
{
    int started = 0;
    while (started < 2 &&
           pthread_create(&streams[started].thread, NULL, read_stream, &streams[started]) == 0)
        started++;
    int err = started == 2 ? -pthread_create(&c->thread, NULL, await_end, c) : -EAGAIN;
    if (err) /* the streams end with the job */
        mounted_cancel(p, job);
    else {
        wait_for_end(t, p, job, c->over);
        pthread_join(c->thread, NULL);
    }
    while (started)
        pthread_join(streams[--started].thread, NULL);
    return err;
}

int mounted_run(struct task *t, const struct place *p)
{
    uint64_t job;
    struct stream streams[2] = {{.output = t->output, .fd = -1}, {.output = t->output, .fd = -1}};
    struct conversation c = {.fd = -1, .over = -1};
    int code = mounted_submit(t, p, &job);
    if (code)
        return code;
    int err = open_job(p, job, streams, &c);
    if (err)
        mounted_cancel(p, job);
    else
        err = follow(t, p, job, streams, &c);
    code = err ? failed(t, p, err) : take_report(t, p, &c);
    if (t->options->json)
        take_session(t, p);
    cleanup_close(&streams[0].fd);
    cleanup_close(&streams[1].fd);
    cleanup_close(&c.fd);
    cleanup_close(&c.over);
    buf_free(&c.reply);
    return code;
}
