#include "acafs/tools.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "acafs/daemon.h"
#include "acafs/overview.h"
#include "config/config.h"
#include "credential/credential.h"
#include "http/http.h"
#include "session/session.h"
#include "util/buf.h"
#include "util/cleanup.h"
#include "util/gauge.h"
#include "util/json.h"
#include "util/log.h"

/* Opens a file of a mount's .acafs; says what is wrong and returns -1 when that fails. */
static int open_control(const char *mountpoint, const char *name, int flags)
{
    _cleanup_buf_ struct buf path = {0};
    buf_addf(&path, "%s/.acafs/%s", mountpoint, name);
    int fd = open(path.data, flags | O_CLOEXEC);
    if (fd < 0)
        log_error("%s: %s", mountpoint,
                  errno == ENOENT || errno == ENOTDIR ? "no session is mounted there"
                                                      : strerror(errno));
    return fd;
}

/* --- sync: one thread waits in the mount, the other tells what for */

struct sync {
    const char *mountpoint;
    int control;
    int ends[2]; /* the waiting one closes the second when it is done */
    int err;     /* then: 0 or -errno */
};

static void *wait_synced(void *arg)
{
    struct sync *s = arg;
    s->err = write(s->control, "sync\n", 5) == 5 ? 0 : -errno;
    close(s->ends[1]);
    return NULL;
}

struct queue {
    size_t files;
    uint64_t bytes, sent;
    char trouble[200];
};

/* As the mount tells it; false when it does not. */
static bool look(const struct sync *s, struct queue *q)
{
    _cleanup_buf_ struct buf text = {0};
    if (overview_read(s->mountpoint, &text))
        return false;
    _cleanup_json_ cJSON *status = json_parse(text.data, text.len);
    const cJSON *pending = json_array(status, "pending"), *file;
    const char *away = json_string(status, "away");
    bool reachable = true;
    *q = (struct queue){.files = (size_t)cJSON_GetArraySize(pending)};
    cJSON_ArrayForEach (file, pending) {
        uint64_t size = 0;
        json_uint(file, "size", &size);
        q->bytes += size;
    }
    json_uint(json_object(status, "counters"), "bytes_out", &q->sent);
    json_bool(status, "reachable", &reachable);
    if (!reachable)
        snprintf(q->trouble, sizeof q->trouble, "the pool does not answer%s%.150s%s",
                 away ? " (" : "", away ? away : "", away ? ")" : "");
    return status != NULL;
}

static void show_until_done(const struct sync *s)
{
    struct pollfd done = {.fd = s->ends[0], .events = POLLIN};
    struct queue q = {0};
    struct gauge gauge;
    look(s, &q);
    gauge_begin(&gauge, "acafs", "waiting for the session to have", q.sent);
    while (poll(&done, 1, GAUGE_MS) == 0) {
        if (look(s, &q))
            gauge_show(&gauge, q.files, q.bytes, q.sent, *q.trouble ? q.trouble : NULL);
    }
    gauge_end(&gauge);
}

static int sync_mount(struct sync *s)
{
    pthread_t waiting;
    if (pipe2(s->ends, O_CLOEXEC))
        return -errno;
    int err = -pthread_create(&waiting, NULL, wait_synced, s);
    if (err) {
        close(s->ends[1]);
    } else {
        show_until_done(s);
        pthread_join(waiting, NULL);
    }
    close(s->ends[0]);
    return err ? err : s->err;
}

int tool_sync(int argc, char **argv)
{
    if (argc != 2) {
        log_error("usage: acafs sync MOUNTPOINT");
        return EXIT_USAGE;
    }
    _cleanup_close_ int fd = open_control(argv[1], "control", O_WRONLY);
    if (fd < 0)
        return EXIT_MOUNTPOINT;
    struct sync s = {.mountpoint = argv[1], .control = fd};
    int err = sync_mount(&s);
    if (!err)
        return EXIT_OK;
    log_error("%s: %s: see %s/.acafs/status", argv[1], strerror(-err), argv[1]);
    return EXIT_OTHER;
}

/* --- */

/* What a mount with such a value would end with. */
static int judge(const char *option, const char *value, const char **why)
{
    if (strcmp(option, "session") == 0)
        return session_identifier_check(value, why);
    if (strcmp(option, "endpoint") == 0 && strcmp(value, "local") != 0)
        return http_url_check(value, NULL, why);
    *why = NULL;
    if (strcmp(option, "credential") == 0 && !credential_is_kind(value))
        *why = "no such credential";
    if (strcmp(option, "cache-dir") == 0 && *value != '/')
        *why = "want an absolute path";
    return *why ? -EINVAL : 0;
}

static int show_config(char **why)
{
    struct config config = {0};
    int err = config_load(&config, NULL, why);
    if (!err)
        err = config_finish(&config, why);
    if (!err)
        config_print(&config, stdout);
    config_free(&config);
    return err;
}

int tool_config(int argc, char **argv)
{
    _cleanup_free_ char *why = NULL;
    int err = 0;
    if (argc == 3 && strcmp(argv[1], "--check") == 0) {
        err = config_check_file(argv[2], judge, &why);
    } else if (argc == 2 && strcmp(argv[1], "--options") == 0) {
        config_options(stdout);
    } else if (argc == 1) {
        err = show_config(&why);
    } else {
        log_error("usage: acafs config [--check FILE | --options]");
        return EXIT_USAGE;
    }
    if (err)
        log_error("%s", why ? why : strerror(-err));
    return err ? EXIT_CONFIG : EXIT_OK;
}
