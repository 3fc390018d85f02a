#include "acafs/service.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/log.h"

enum {
    STATUS_MS = 2000,      /* between looks at the status */
    END_MARGIN_MS = 10000, /* for the steps of an end that are not the drain */
};

struct service {
    struct sockaddr_un address;
    socklen_t address_len;
    int fd;
    struct buf unsent; /* lines, while the manager does not take them */
    struct buf status; /* as told last */
    void (*describe)(void *arg, struct buf *);
    void *arg;
    int64_t watchdog_ms; /* 0: nobody waits for a sign of life */
    struct loop_timer status_timer, watchdog_timer;
};

/* --- sending */

/* Sends what is there. While the manager's queue is full it stays for the next time; a manager
 * that is gone hears nothing more. */
static void send_lines(struct service *s)
{
    if (!s->unsent.len)
        return;
    ssize_t n = sendto(s->fd, s->unsent.data, s->unsent.len, MSG_NOSIGNAL | MSG_DONTWAIT,
                       (const struct sockaddr *)&s->address, s->address_len);
    if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS))
        return;
    if (n < 0)
        log_debug("telling the service manager: %s", strerror(errno));
    s->unsent.len = 0;
}

static void tell_status(struct service *s)
{
    struct buf now = {0};
    s->describe(s->arg, &now);
    bool changed =
        now.len && (now.len != s->status.len || memcmp(now.data, s->status.data, now.len) != 0);
    if (!changed || buf_addf(&s->unsent, "STATUS=%.*s\n", (int)now.len, now.data)) {
        buf_free(&now);
        return;
    }
    buf_free(&s->status);
    s->status = now;
}

static void look(void *arg)
{
    struct service *s = arg;
    if (!s->unsent.len)
        tell_status(s);
    send_lines(s);
    loop_timer_set(&s->status_timer, STATUS_MS);
}

static void show_life(void *arg)
{
    struct service *s = arg;
    if (!s->unsent.len)
        buf_adds(&s->unsent, "WATCHDOG=1\n");
    send_lines(s);
    loop_timer_set(&s->watchdog_timer, s->watchdog_ms / 2);
}

/* --- from the environment */

/* '/…', or '@…' for a name that is no file. */
static bool set_address(struct service *s, const char *path)
{
    size_t len = strlen(path);
    if ((*path != '/' && *path != '@') || len < 2 || len >= sizeof s->address.sun_path)
        return false;
    s->address.sun_family = AF_UNIX;
    memcpy(s->address.sun_path, path, len);
    if (*path == '@')
        s->address.sun_path[0] = '\0';
    s->address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    return true;
}

static int64_t number(const char *text)
{
    char *end;
    errno = 0;
    long long value = text ? strtoll(text, &end, 10) : 0;
    return text && *text && !*end && !errno && value > 0 ? value : 0;
}

static int64_t watchdog_ms(void)
{
    const char *pid = getenv("WATCHDOG_PID");
    if (pid && number(pid) != getpid())
        return 0;
    int64_t ms = number(getenv("WATCHDOG_USEC")) / 1000;
    return ms > 1 ? ms : 0;
}

int service_new(struct loop *loop, void (*status)(void *arg, struct buf *), void *arg,
                struct service **out)
{
    const char *path = getenv("NOTIFY_SOCKET");
    *out = NULL;
    if (!path || !*path)
        return 0;
    struct service *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->fd = set_address(s, path) ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    s->watchdog_ms = watchdog_ms();
    s->describe = status;
    s->arg = arg;
    loop_timer_init(&s->status_timer, loop, look, s);
    loop_timer_init(&s->watchdog_timer, loop, show_life, s);
    if (s->fd < 0)
        log_warning("NOTIFY_SOCKET %s can't be used", path);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    if (s->fd < 0)
        service_free(s);
    else
        *out = s;
    return 0;
}

void service_free(struct service *s)
{
    if (!s)
        return;
    loop_timer_stop(&s->status_timer);
    loop_timer_stop(&s->watchdog_timer);
    if (s->fd >= 0) {
        send_lines(s);
        close(s->fd);
    }
    buf_free(&s->unsent);
    buf_free(&s->status);
    free(s);
}

/* --- */

void service_ready(struct service *s)
{
    if (!s || buf_adds(&s->unsent, "READY=1\n"))
        return;
    tell_status(s);
    send_lines(s);
    loop_timer_set(&s->status_timer, STATUS_MS);
    if (s->watchdog_ms)
        show_life(s);
}

void service_stopping(struct service *s, int64_t ms)
{
    if (s && !buf_addf(&s->unsent, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%" PRId64 "\n",
                       (ms + END_MARGIN_MS) * 1000))
        send_lines(s);
}

bool service_has_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    char ours[64];
    struct stat st;
    if (!stream || fstat(STDERR_FILENO, &st))
        return false;
    snprintf(ours, sizeof ours, "%" PRIu64 ":%" PRIu64, (uint64_t)st.st_dev, (uint64_t)st.st_ino);
    return strcmp(stream, ours) == 0;
}
