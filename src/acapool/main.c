/* acapool(8): sets the pool up, serves until told to stop, takes it down. The main thread
 * starts sandboxes and waits for signals; see mainthread.h. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "acapool/listen.h"
#include "acapool/mainthread.h"
#include "acapool/options.h"
#include "acapool/server.h"
#include "util/cleanup.h"
#include "util/text.h"

enum { DRAIN_MS = 3000 }; /* for answers to leave, once nothing holds them up */

struct program {
    struct options options;
    struct mainthread main;
    struct pool *pool;
    struct server *tcp, *local;
    int lock; /* of the Unix socket */
    int signals;
    struct buf token;
};

/* --- telling whoever started us */

static void tell(int fd, const char *text)
{
    if (fd >= 0 && write(fd, text, strlen(text)) < 0)
        log_debug("ready descriptor: %s", strerror(errno));
}

/* "ready", or "failed: why", each one line. */
static void report(const struct options *o, const char *failure)
{
    if (o->ready_fd < 0)
        return;
    _cleanup_buf_ struct buf line = {0};
    if (failure)
        buf_addf(&line, "failed: %s\n", failure);
    tell(o->ready_fd, failure ? line.data : "ready\n");
    close(o->ready_fd);
}

static void announce(const struct program *p)
{
    const struct options *o = &p->options;
    if (p->tcp)
        printf("http://%s:%u\n", o->listen_host, o->port);
    if (p->tcp && !o->token_file)
        printf("token %s\n", p->token.data);
    if (p->local)
        printf("unix:%s\n", o->socket);
    fflush(stdout);
}

/* --- the token */

static int read_token(const char *path, struct buf *out, char **why)
{
    enum { TOKEN_MAX = 4096 };
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat st;
    ssize_t n = -1;
    if (fd >= 0 && !fstat(fd, &st) && !buf_reserve(out, TOKEN_MAX))
        n = read(fd, out->data, TOKEN_MAX);
    if (n < 0) {
        *why = strdup(strerror(errno));
        return -EIO;
    }
    if (st.st_mode & 077)
        log_warning("%s: others can read the token: chmod 600 it", path);
    out->len = (size_t)n;
    while (out->len && strchr(" \t\r\n", out->data[out->len - 1]))
        out->len--;
    out->data[out->len] = '\0';
    if (out->len && strlen(out->data) == out->len && !strpbrk(out->data, " \t\r\n"))
        return 0;
    *why = strdup("it does not hold one token");
    return -EINVAL;
}

static int get_token(struct program *p, char **why)
{
    if (p->options.token_file) {
        _cleanup_free_ char *reason = NULL;
        int err = read_token(p->options.token_file, &p->token, &reason);
        struct buf line = {0};
        if (err && !buf_addf(&line, "%s: %s", p->options.token_file, reason ? reason : "?"))
            *why = buf_take(&line);
        return err;
    }
    char token[65];
    text_random_hex(token, 32);
    int err = buf_adds(&p->token, token);
    explicit_bzero(token, sizeof token);
    return err;
}

/* --- life */

static int start_tcp(struct program *p, int fd, char **why)
{
    int err = get_token(p, why);
    return err ? err : server_start(p->pool, fd, p->token.data, &p->tcp);
}

static int serve_tcp(struct program *p, char **why)
{
    int fd = -1;
    int err = listen_loopback(&p->options.port, &fd, why);
    return err ? err : start_tcp(p, fd, why);
}

static int serve_local(struct program *p, char **why)
{
    int fd = -1;
    int err = listen_private(p->options.socket, &fd, &p->lock, why);
    return err ? err : server_start(p->pool, fd, NULL, &p->local);
}

/* What systemd made is served as if it had been asked for here. */
static int serve_handed_over(struct program *p, char **why)
{
    struct options *o = &p->options;
    struct handed_over sockets;
    int err = listen_take_over(&sockets, why);
    o->socket = sockets.path;
    if (!err && sockets.local >= 0)
        err = server_start(p->pool, sockets.local, NULL, &p->local);
    if (!err && sockets.tcp >= 0) {
        o->listen_host = "127.0.0.1";
        o->port = sockets.port;
        err = start_tcp(p, sockets.tcp, why);
    }
    return err;
}

/* Signals come through a descriptor; every thread that follows inherits the mask. */
static int block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void raise_descriptors(void)
{
    struct rlimit limit;
    if (!getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int set_up(struct program *p, char **why)
{
    raise_descriptors();
    p->signals = block_signals();
    int err = p->signals < 0 ? -errno : mainthread_init(&p->main);
    if (!err)
        err = pool_new(&p->options.pool, &p->main, &p->pool, why);
    if (!err && p->options.handed_over)
        return serve_handed_over(p, why);
    if (!err && p->options.socket)
        err = serve_local(p, why);
    if (!err && p->options.listen_host)
        err = serve_tcp(p, why);
    return err;
}

static void serve(struct program *p)
{
    for (;;) {
        struct pollfd fds[] = {{p->signals, POLLIN, 0}, {p->main.event, POLLIN, 0}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return;
        if (fds[0].revents || (fds[1].revents && mainthread_serve(&p->main)))
            return;
    }
}

static void tear_down(struct program *p)
{
    if (p->lock >= 0 && p->local)
        unlink(p->options.socket);
    if (p->local)
        server_quiesce(p->local);
    if (p->tcp)
        server_quiesce(p->tcp);
    if (p->pool) {
        mainthread_close(&p->main);
        pool_close(p->pool);
        pool_drain(p->pool, DRAIN_MS);
    }
    if (p->local)
        server_stop(p->local);
    if (p->tcp)
        server_stop(p->tcp);
    if (p->pool) {
        pool_free(p->pool);
        mainthread_destroy(&p->main);
    }
    if (p->lock >= 0)
        close(p->lock);
    if (p->signals >= 0)
        close(p->signals);
    buf_wipe(&p->token);
}

static void detach(const struct options *o)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        return;
    log_set_sink(LOG_SINK_SYSLOG);
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    close(null);
}

static int run(struct program *p)
{
    _cleanup_free_ char *why = NULL;
    int err = set_up(p, &why);
    if (err) {
        const char *reason = why ? why : strerror(-err);
        bool sandbox = !p->pool;
        log_error("%s%s", reason,
                  sandbox && !p->options.pool.sandbox.bare && err == -EPERM
                      ? " (--no-sandbox runs without one: sessions' code then is you)"
                      : "");
        report(&p->options, reason);
        tear_down(p);
        return EX_UNAVAILABLE;
    }
    announce(p);
    report(&p->options, NULL);
    if (p->options.daemon)
        detach(&p->options);
    serve(p);
    tear_down(p);
    return 0;
}

/* --daemon: the caller's process waits for the word and leaves with it. In the child, returns. */
static int go_to_background(struct options *o)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return -errno;
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        close(ends[0]);
        setsid();
        if (chdir("/"))
            return -errno;
        o->ready_fd = ends[1];
        return 0;
    }
    close(ends[1]);
    char line[512];
    ssize_t n = read(ends[0], line, sizeof line);
    bool ready = n >= 5 && memcmp(line, "ready", 5) == 0;
    if (n > 0)
        tell(o->ready_fd, ready ? "ready\n" : "failed\n");
    exit(ready ? 0 : EX_UNAVAILABLE);
}

int main(int argc, char **argv)
{
    log_init("acapool", LOG_LEVEL_INFO);
    struct program p = {.lock = -1, .signals = -1};
    int status;
    if (!options_parse(argc, argv, &p.options, &status)) {
        options_free(&p.options);
        return status;
    }
    log_set_level(p.options.log_level);
    if (p.options.ready_fd >= 0)
        fcntl(p.options.ready_fd, F_SETFD, FD_CLOEXEC);
    int err = p.options.daemon ? go_to_background(&p.options) : 0;
    if (err) {
        log_error("going to the background: %s", strerror(-err));
        status = EX_OSERR;
    } else {
        status = run(&p);
    }
    options_free(&p.options);
    return status;
}
