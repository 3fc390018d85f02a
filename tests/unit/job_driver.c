/* job/ for tests that start real pools:
 *
 *     job_driver [OPTION]... SCRIPT [ARG]...     or, with -c CODE, no SCRIPT
 *
 * runs it in the session, its outputs to stdout and descriptor 4 as they come; stderr has our log.
 * Descriptor 3 gets one line of JSON at the end. SIGINT cancels; SIGTERM abandons the job, and
 * waits for the session's answer to one more call. Options: -s SOCKET or -u URL (token in
 * ACAFS_TOKEN), -i SESSION, -c CODE, -n NAME of the code, -k in the kernel, -o keep outputs, -t
 * MILLISECONDS. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "job/job.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

struct driver {
    struct loop *loop;
    struct session *session;
    struct job *job;
    int signals;
    unsigned ends;
};

/* The token that the test was told. */
static void *get_token(void *self, http_token_fn *done, void *arg)
{
    done(arg, 0, self, NULL);
    return NULL;
}

static void cancel_token(void *self, void *handle)
{
}

static void refused_token(void *self, const char *token)
{
}

static void output(void *arg, int stream, const void *data, size_t len)
{
    const char *p = data;
    for (ssize_t n; len; p += n, len -= (size_t)n)
        if ((n = write(stream == 1 ? 1 : 4, p, len)) <= 0)
            _exit(99);
}

static void done(void *arg, const struct job_result *r)
{
    static const char *const states[] = {"succeeded", "failed", "canceled", "timed-out", "lost"};
    struct driver *d = arg;
    d->ends++;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "state", states[r->state]);
    cJSON_AddNumberToObject(json, "exit_code", r->exit_code);
    cJSON_AddNumberToObject(json, "milliseconds", (double)r->milliseconds);
    cJSON_AddStringToObject(json, "message", r->message ? r->message : "");
    cJSON_AddItemToObject(json, "value",
                          r->value ? cJSON_Duplicate(r->value, true) : cJSON_CreateNull());
    cJSON_AddNumberToObject(json, "err", -r->error.err);
    cJSON *images = cJSON_AddObjectToObject(json, "images");
    for (size_t i = 0; i < r->image_count; i++) {
        _cleanup_buf_ struct buf text = {0};
        text_base64(&text, r->images[i].bytes.data, r->images[i].bytes.len);
        cJSON_AddStringToObject(images, r->images[i].name, text.data ? text.data : "");
    }
    char *text = cJSON_PrintUnformatted(json);
    dprintf(3, "%s\n", text);
    free(text);
    cJSON_Delete(json);
    d->job = NULL;
    loop_quit(d->loop, 0);
}

static void settled(void *arg, const struct session_error *e, const struct session_space *space)
{
    struct driver *d = arg;
    loop_quit(d->loop, e->err ? 98 : 0);
}

static void signalled(void *arg, short revents)
{
    struct driver *d = arg;
    struct signalfd_siginfo info;
    if (read(d->signals, &info, sizeof info) != sizeof info || !d->job)
        return;
    if (info.ssi_signo == SIGINT) {
        job_cancel(d->job);
    } else {
        job_abandon(d->job);
        d->job = NULL;
        session_space(d->session, settled, d);
    }
}

int main(int argc, char **argv)
{
    struct driver d = {0};
    struct session_options where = {.endpoint = "http://localhost", .identifier = "test"};
    struct job_spec spec = {0};
    const struct http_authorizer auth = {getenv("ACAFS_TOKEN"), get_token, cancel_token,
                                         refused_token};
    int option;
    log_init("job_driver", LOG_LEVEL_DEBUG);
    while ((option = getopt(argc, argv, "+s:u:i:c:n:kot:")) != -1) {
        if (option == 's')
            where.unix_socket = optarg;
        else if (option == 'u')
            where.endpoint = optarg;
        else if (option == 'i')
            where.identifier = optarg;
        else if (option == 'c')
            spec.code = *optarg == '@' ? getenv(optarg + 1) : optarg;
        else if (option == 'n')
            spec.code_name = optarg;
        else if (option == 'k')
            spec.in_kernel = true;
        else if (option == 'o')
            spec.keep_outputs = true;
        else if (option == 't')
            spec.timeout_ms = atoll(optarg);
        else
            return 97;
    }
    if (!spec.code)
        spec.path = argv[optind++];
    spec.args = (const char *const *)argv + optind;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    d.signals = signalfd(-1, &set, SFD_CLOEXEC);
    struct http *http;
    char *why = NULL;
    const struct http_options options = {.retries = 2};
    if (loop_new(&d.loop) || http_new(d.loop, &options, &http) ||
        session_new(d.loop, http, auth.self ? &auth : NULL, &where, &d.session, &why)) {
        fprintf(stderr, "%s\n", why ? why : "?");
        return 97;
    }
    struct loop_fd *fd = loop_fd_add(d.loop, d.signals, CURL_WAIT_POLLIN, signalled, &d);
    const struct job_events events = {.output = output, .done = done, .arg = &d};
    d.job = job_start(d.loop, d.session, &spec, &events);
    int code = loop_run(d.loop);
    loop_fd_del(fd);
    close(d.signals);
    session_free(d.session);
    http_free(http);
    loop_free(d.loop);
    return d.ends > 1 ? 96 : code;
}
