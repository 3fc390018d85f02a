#include "acafs/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utlist.h>

#include "acafs/control.h"
#include "acafs/jobs.h"
#include "acafs/mount.h"
#include "acafs/notify.h"
#include "acafs/pool.h"
#include "acafs/request.h"
#include "acafs/service.h"
#include "acafs/status.h"
#include "util/cleanup.h"
#include "util/gauge.h"
#include "util/log.h"
#include "util/text.h"

enum {
    BATCH = 16,        /* kernel requests taken in a row before transfers get their turn */
    LISTED_LEFT = 100, /* files named of those that could not be sent */
};

/* The life of the daemon:
 *
 *     CONNECTING ──answered──▶ SERVING ──signal, unmounted──▶ DRAINING ──▶ ENDING ──▶ loop quits
 *          └──────────────── failed, signal ────────────────────────────────────────▶
 */
enum phase { CONNECTING, SERVING, DRAINING, ENDING };

struct daemon {
    struct volume volume;
    struct mount *mount; /* the session, when it is one */
    const struct daemon_options *options;
    enum phase phase;
    int ready_fd; /* tells the waiting parent the exit code; -1: nobody waits */
    int signal_fd;
    struct loop_fd *signal_watch;
    struct session_call *connecting;
    struct waiter waiter; /* of the first listing, the drain, then the last notices */
    uint64_t ticket;      /* of those */
    struct loop_timer drain_timer, progress_timer;
    struct gauge gauge;      /* DRAINING, on a terminal */
    bool told_to_end;        /* by a signal */
    struct service *service; /* who started us wants to know; or NULL */
    int code;                /* ENDING, or CONNECTING failed: the exit code, where that is known */
    struct fuse_buf request; /* where the kernel's requests are read to */
};

/* --- setting up */

/* Tokens are kept from others, and content may take all descriptors there are. */
static void prepare_process(void)
{
    struct rlimit files;
    client_harden();
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

static int exit_code(int err)
{
    switch (err) {
    case 0:
        return EXIT_OK;
    case -EACCES:
        return EXIT_DENIED;
    case -EINVAL:
        return EXIT_USAGE;
    case -EBUSY:
        return EXIT_IN_USE;
    case -EHOSTUNREACH:
    case -ETIMEDOUT:
    case -EIO:
    case -EAGAIN:
    case -EPROTO:
    case -ENOENT:
        return EXIT_UNREACHABLE;
    default:
        return EXIT_OTHER;
    }
}

static int new_client(struct volume *v)
{
    _cleanup_free_ char *why = NULL;
    int err =
        client_new(&v->client, v->loop, v->config, "acafs/" ACAFS_VERSION " (Language=C)", &why);
    if (err)
        log_error("%s", why ? why : strerror(-err));
    return err;
}

/* Why no cache could be opened: a wrong setting, unless it may mend itself. */
static int cache_exit_code(int err)
{
    switch (err) {
    case -EACCES:
    case -EPERM:
    case -ENOENT:
    case -ENOTDIR:
    case -ELOOP:
    case -ENAMETOOLONG:
    case -EROFS:
    case -EINVAL:
        return EXIT_CONFIG;
    case -EBUSY:
        return EXIT_IN_USE;
    default:
        return EXIT_OTHER;
    }
}

static int new_mount(struct daemon *d)
{
    struct session *session = d->volume.client.session;
    d->volume.client.session = NULL;
    int err = mount_new(&d->volume, d->volume.config, 0, session, 0, &d->mount);
    d->code = err ? cache_exit_code(err) : 0;
    return err;
}

/* --- the kernel's side */

static void shut_down(struct daemon *);

static void fuse_ready(void *arg, short revents)
{
    struct daemon *d = arg;
    struct fuse_session *fuse = d->volume.fuse;
    for (int i = 0; i < BATCH && !fuse_session_exited(fuse); i++) {
        int n = fuse_session_receive_buf(fuse, &d->request);
        if (n == -EINTR)
            continue;
        if (n <= 0)
            break;
        fuse_session_process_buf(fuse, &d->request);
    }
    if (fuse_session_exited(fuse)) {
        /* The kernel let go: umount(8), or fusermount3 -u. */
        loop_fd_del(d->volume.fuse_fd);
        d->volume.fuse_fd = NULL;
        shut_down(d);
    }
}

static int fuse_arguments(const struct daemon_options *o, struct fuse_args *args)
{
    const struct config *c = o->config;
    _cleanup_buf_ struct buf options = {0};
    /* libfuse splits at commas; a backslash keeps one. */
    buf_adds(&options, "subtype=acafs,default_permissions,fsname=");
    for (const char *s = o->source; *s; s++) {
        if (*s == ',' || *s == '\\')
            buf_adds(&options, "\\");
        buf_add(&options, s, 1);
    }
    if (c->allow_other)
        buf_adds(&options, ",allow_other");
    if (c->read_only)
        buf_adds(&options, ",ro");
    if (c->fuse_options && *c->fuse_options)
        buf_addf(&options, ",%s", c->fuse_options);
    if (fuse_opt_add_arg(args, "acafs") || fuse_opt_add_arg(args, "-o") ||
        fuse_opt_add_arg(args, options.data) || (o->debug && fuse_opt_add_arg(args, "-d")))
        return -ENOMEM;
    return 0;
}

/* libfuse's own words go where ours go: one line, at the level they deserve. */
static void libfuse_says(enum fuse_log_level level, const char *format, va_list args)
{
    _cleanup_buf_ struct buf text = {0};
    if (buf_vaddf(&text, format, args))
        return;
    while (text.len && text.data[text.len - 1] == '\n')
        text.data[--text.len] = '\0';
    log_write(level <= FUSE_LOG_ERR ? LOG_LEVEL_ERROR : LOG_LEVEL_DEBUG, "%s", text.data);
}

static int mount_fuse(struct daemon *d)
{
    struct volume *v = &d->volume;
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    fuse_set_log_func(libfuse_says);
    int err = fuse_arguments(d->options, &args);
    const struct fuse_lowlevel_ops *ops = v->pool ? &pool_ops : &mount_ops;
    if (!err && !(v->fuse = fuse_session_new(&args, ops, sizeof *ops, v)))
        err = -EINVAL;
    fuse_opt_free_args(&args);
    if (err)
        return err;
    if (fuse_session_mount(v->fuse, v->mountpoint))
        return -ENOTCONN; /* libfuse said why */
    int fd = fuse_session_fd(v->fuse);
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
        return -errno;
    v->fuse_fd = loop_fd_add(v->loop, fd, CURL_WAIT_POLLIN, fuse_ready, d);
    return v->fuse_fd ? 0 : -ENOMEM;
}

/* --- phases */

static void ready(struct daemon *d, int code)
{
    if (d->ready_fd < 0)
        return;
    unsigned char byte = (unsigned char)code;
    if (write(d->ready_fd, &byte, 1) != 1)
        log_debug("the starting process is gone");
    close(d->ready_fd);
    d->ready_fd = -1;
}

/* Not before it has mounted: an automount lets only the process group near the mount point that
 * was started to mount there, and has all others wait for it. */
static void leave_group(const struct daemon *d)
{
    if (!d->options->foreground)
        setsid();
}

static void detach_output(const struct daemon *d)
{
    if (d->options->foreground)
        return;
    log_set_sink(LOG_SINK_SYSLOG);
    int null = open("/dev/null", O_RDWR);
    if (null >= 0) {
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        if (null > 2)
            close(null);
    }
}

static void fail(struct daemon *d, int err, const char *message)
{
    log_error("%s", message ? message : strerror(-err));
    loop_quit(d->volume.loop, exit_code(err));
}

/* Until then only what ends the start is told, in one line; all at the level debug. */
static void set_log_level(const struct daemon *d, bool serving)
{
    enum log_level level = LOG_LEVEL_INFO;
    log_level_parse(d->volume.config->log_level, &level);
    if (d->options->debug)
        level = LOG_LEVEL_DEBUG;
    log_set_level(serving || level == LOG_LEVEL_DEBUG ? level : LOG_LEVEL_ERROR);
}

static void serve(struct daemon *d)
{
    int err = mount_fuse(d);
    if (err) {
        loop_quit(d->volume.loop, EXIT_OTHER);
        return;
    }
    d->phase = SERVING;
    if (d->mount)
        jobs_begin(control_jobs(d->mount->control));
    set_log_level(d, true);
    leave_group(d);
    ready(d, EXIT_OK);
    service_ready(d->service);
    detach_output(d);
    log_info("mounted on %s", d->volume.mountpoint);
}

/* The first listing also tells whether the pool lets us in. */
static void first_listing(struct waiter *w)
{
    struct daemon *d = (struct daemon *)((char *)w - offsetof(struct daemon, waiter));
    struct store *s = d->mount->store;
    int err = mount_recover(d->mount, w);
    if (!err)
        err = store_fresh(s, w, store_inodes(s)->root);
    if (err == STORE_WAIT)
        return;
    if (err)
        fail(d, err, NULL);
    else
        serve(d);
}

static void connected(void *arg, const struct session_error *e)
{
    struct daemon *d = arg;
    d->connecting = NULL;
    if (e->err) {
        _cleanup_buf_ struct buf text = {0};
        buf_addf(&text, "pool %s: ", d->options->config->endpoint);
        client_explain(&text, e);
        fail(d, e->err, text.data);
        return;
    }
    waiter_init(&d->waiter, first_listing);
    first_listing(&d->waiter);
}

/* The same for a whole pool: it tells what it has, or that it never does. */
static void first_sessions(struct waiter *w)
{
    struct daemon *d = (struct daemon *)((char *)w - offsetof(struct daemon, waiter));
    struct pool *p = d->volume.pool;
    _cleanup_buf_ struct buf text = {0};
    int err = pool_fresh(p, w);
    if (err == STORE_WAIT)
        return;
    if (!err) {
        serve(d);
        pool_begin(p);
        return;
    }
    const char *why = pool_trouble(p);
    buf_addf(&text, "pool %s: %s", d->options->config->endpoint, why ? why : strerror(-err));
    fail(d, err, text.data);
}

/* --- the end */

static void list_left(void *arg, const struct store_pending *p)
{
    _cleanup_buf_ struct buf path = {0};
    unsigned *count = arg;
    if (++*count > LISTED_LEFT || !inode_path(p->inode, &path))
        return;
    log_error("not on the server: %s (%llu bytes): %s%s", path.data, (unsigned long long)p->size,
              p->err ? strerror(-p->err) : "no time left",
              p->kept ? "" : "; and NOT in the journal");
}

/* The last line: what the next mount of the session goes on with. */
static unsigned tell_left(const struct daemon *d)
{
    struct store_stats s;
    unsigned left = 0;
    const struct mount *m;
    DL_FOREACH (d->volume.mounts, m) {
        store_each_pending(m->store, list_left, &left);
    }
    volume_get_stats(&d->volume, &s);
    if (left > LISTED_LEFT)
        log_error("and %u more", left - LISTED_LEFT);
    if (left || s.removals)
        log_error("%u files and %zu deletes stay in the journal: mount the session again to go on "
                  "with them",
                  left, s.removals);
    return left + (unsigned)s.removals;
}

static void end_requests(struct volume *v)
{
    struct mount *m;
    DL_FOREACH (v->mounts, m) {
        requests_end(m, -ENOTCONN);
    }
    if (v->pool)
        requests_end(pool_root(v->pool), -ENOTCONN);
}

static void tell_kernel(struct waiter *w)
{
    struct daemon *d = (struct daemon *)((char *)w - offsetof(struct daemon, waiter));
    if (notifier_flush(d->volume.notifier, w, &d->ticket) != STORE_WAIT)
        loop_quit(d->volume.loop, d->code);
}

/* The helper thread may be telling the kernel of changes, and wait there for a directory that is
 * locked by a caller who waits for us: until it is done all callers get their answer. */
static void end_drain(struct daemon *d)
{
    if (d->phase == ENDING)
        return;
    d->phase = ENDING;
    loop_timer_stop(&d->drain_timer);
    loop_timer_stop(&d->progress_timer);
    gauge_end(&d->gauge);
    d->code = tell_left(d) ? EXIT_OTHER : EXIT_OK;
    d->volume.ending = true;
    end_requests(&d->volume);
    waiter_init(&d->waiter, tell_kernel);
    tell_kernel(&d->waiter);
}

/* Sessions may be opened while others drain. */
static void drain_step(void *arg)
{
    struct daemon *d = arg;
    struct mount *m;
    bool all = true;
    DL_FOREACH (d->volume.mounts, m) {
        all = mount_drain(m, drain_step, d) && all;
    }
    if (all)
        end_drain(d);
}

static void drain_timed_out(void *arg)
{
    end_drain(arg);
}

static uint64_t bytes_sent(const struct daemon *d)
{
    struct http_stats http;
    http_get_stats(d->volume.client.http, &http);
    return http.bytes_out;
}

static void show_progress(void *arg)
{
    struct daemon *d = arg;
    struct store_stats s;
    volume_get_stats(&d->volume, &s);
    gauge_show(&d->gauge, s.dirty_files, s.dirty_bytes, bytes_sent(d),
               s.away     ? strerror(-s.away)
               : s.silent ? "the pool does not answer"
                          : NULL);
    loop_timer_set(&d->progress_timer, GAUGE_MS);
}

/* Begins the orderly end: everything pending goes to the server within the unmount timeout, then
 * the loop ends. Harmless when called again. */
static void shut_down(struct daemon *d)
{
    const struct config *c = d->volume.config;
    if (d->phase == CONNECTING) {
        loop_quit(d->volume.loop, EXIT_OTHER);
        return;
    }
    if (d->phase != SERVING)
        return;
    d->phase = DRAINING;
    service_stopping(d->service, c->unmount_timeout_ms);
    loop_timer_set(&d->drain_timer, c->unmount_timeout_ms);
    if (isatty(STDERR_FILENO)) {
        gauge_begin(&d->gauge, "acafs", NULL, bytes_sent(d));
        show_progress(d);
    }
    drain_step(d);
}

/* What .acafs/status says, for when the mount can't be read; its session stays a secret. */
static void log_state(const struct daemon *d)
{
    const struct pool *p = d->volume.pool;
    _cleanup_json_ cJSON *status =
        p ? status_pool_json(&d->volume) : control_status(d->mount->control);
    const cJSON *member;
    cJSON_DeleteItemFromObjectCaseSensitive(status, "session");
    if (p) /* these paths begin with sessions */
        cJSON_DeleteItemFromObjectCaseSensitive(status, "pending");
    cJSON_ArrayForEach (member, status) {
        _cleanup_free_ char *text = cJSON_PrintUnformatted(member);
        log_info("state: %s: %s", member->string, text ? text : "?");
    }
}

/* Ctrl-C while it drains, or being told once more. Not SIGHUP: a session manager sends that right
 * after SIGTERM, and may have sent it before. */
static bool has_waited_enough(const struct daemon *d, uint32_t signal)
{
    return signal == SIGINT || (signal == SIGTERM && d->told_to_end);
}

static void signalled(void *arg, short revents)
{
    struct daemon *d = arg;
    struct signalfd_siginfo info;
    if (read(d->signal_fd, &info, sizeof info) != sizeof info)
        return;
    if (info.ssi_signo == SIGUSR1) {
        log_state(d);
        return;
    }
    if (d->phase == DRAINING && has_waited_enough(d, info.ssi_signo)) {
        log_warning("%s: not waiting for what is left", strsignal((int)info.ssi_signo));
        end_drain(d);
        return;
    }
    log_info("%s: ending", strsignal((int)info.ssi_signo));
    d->told_to_end = d->told_to_end || info.ssi_signo != SIGHUP;
    shut_down(d);
}

static int watch_signals(struct daemon *d)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    if (sigprocmask(SIG_BLOCK, &set, NULL))
        return -errno;
    signal(SIGPIPE, SIG_IGN);
    d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (d->signal_fd < 0)
        return -errno;
    d->signal_watch = loop_fd_add(d->volume.loop, d->signal_fd, CURL_WAIT_POLLIN, signalled, d);
    return d->signal_watch ? 0 : -ENOMEM;
}

/* The line that `systemctl status` shows. */
static void describe(void *arg, struct buf *out)
{
    const struct daemon *d = arg;
    struct store_stats s;
    volume_get_stats(&d->volume, &s);
    buf_adds(out, d->phase == DRAINING ? "Ending" : "Mounted");
    if (s.dirty_files)
        buf_addf(out, ", %zu files (%llu bytes) not in the session yet", s.dirty_files,
                 (unsigned long long)s.dirty_bytes);
    else
        buf_adds(out, ", every file is in the session");
    if (s.away)
        buf_addf(out, ", the pool does not answer: %s", strerror(-s.away));
    else if (s.silent)
        buf_adds(out, ", the pool has not answered for some seconds");
}

/* Only a daemon in front is a service: one in the background is not the process that was started.
 */
static int set_up_service(struct daemon *d)
{
    if (!d->options->foreground)
        return 0;
    return service_new(d->volume.loop, describe, d, &d->service);
}

static int set_up_session(struct daemon *d)
{
    int err = new_mount(d);
    if (err)
        return err;
    d->connecting = session_connect(d->mount->client.session, connected, d);
    return d->connecting ? 0 : -ENOMEM;
}

static int set_up_pool(struct daemon *d)
{
    struct volume *v = &d->volume;
    _cleanup_free_ char *why = NULL;
    int err = store_pool_prepare(v->config->cache_dir, session_endpoint(v->client.session), &why);
    if (err) {
        log_error("%s", why ? why : strerror(-err));
        d->code = cache_exit_code(err);
        return err;
    }
    if (!(v->room = store_room_new(v->config->cache_size)) || !(v->pool = pool_new(v)))
        return -ENOMEM;
    waiter_init(&d->waiter, first_sessions);
    first_sessions(&d->waiter);
    return 0;
}

static int set_up(struct daemon *d)
{
    struct volume *v = &d->volume;
    int err = loop_new(&v->loop);
    if (err)
        return err;
    wakeup_init(&v->wakeup, v->loop);
    loop_timer_init(&d->drain_timer, v->loop, drain_timed_out, d);
    loop_timer_init(&d->progress_timer, v->loop, show_progress, d);
    if (!(v->notifier = notifier_new(v)))
        return -ENOMEM;
    if ((err = set_up_service(d)) || (err = watch_signals(d)) || (err = new_client(v)))
        return err;
    return v->config->all ? set_up_pool(d) : set_up_session(d);
}

static void tear_down(struct daemon *d)
{
    struct volume *v = &d->volume;
    if (!v->loop)
        return;
    loop_timer_stop(&d->drain_timer);
    loop_timer_stop(&d->progress_timer);
    service_free(d->service);
    waiter_leave(&d->waiter);
    end_requests(v);
    if (v->fuse_fd)
        loop_fd_del(v->fuse_fd);
    if (v->fuse)
        fuse_session_unmount(v->fuse); /* or only forgets the mount point, where it is gone */
    if (v->pool)
        pool_free(v->pool);
    else
        mount_free(d->mount);
    store_room_free(v->room);
    notifier_free(v->notifier);
    loop_timer_stop(&v->wakeup.timer);
    if (v->fuse)
        fuse_session_destroy(v->fuse);
    free(d->request.mem);
    client_free(&v->client);
    if (d->signal_watch)
        loop_fd_del(d->signal_watch);
    if (d->signal_fd >= 0)
        close(d->signal_fd);
    loop_free(v->loop);
}

/* The daemon's process, from here to its exit code. */
static int run(const struct daemon_options *options, int ready_fd)
{
    struct daemon d = {
        .volume = {.config = options->config,
                   .mountpoint = options->mountpoint,
                   .owner = getuid(),
                   .owner_group = getgid(),
                   .since = time(NULL)},
        .options = options,
        .ready_fd = ready_fd,
        .signal_fd = -1,
    };
    prepare_process();
    set_log_level(&d, false);
    int err = set_up(&d);
    int code = !err ? loop_run(d.volume.loop) : d.code ? d.code : exit_code(err);
    tear_down(&d);
    ready(&d, code);
    return code;
}

/* Until it detaches a daemon in the background talks to whoever starts it. */
static void choose_sink(const struct daemon_options *o)
{
    log_set_mount(o->mountpoint);
    if (!o->foreground)
        return;
    if (service_has_journal())
        log_set_sink(LOG_SINK_JOURNAL);
    else if (strcmp(o->config->log_format, "json") == 0)
        log_set_sink(LOG_SINK_JSON);
}

int daemon_run(const struct daemon_options *options)
{
    const struct config *c = options->config;
    choose_sink(options);
    _cleanup_free_ char *why = NULL;
    int err = client_ensure_local(c, &why);
    if (err) {
        log_error("local pool: %s", why ? why : strerror(-err));
        return err == -EACCES ? EXIT_DENIED : EXIT_UNREACHABLE;
    }
    if (options->foreground)
        return run(options, -1);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) {
        log_error("pipe: %s", strerror(errno));
        return EXIT_OTHER;
    }
    pid_t child = fork();
    if (child < 0) {
        log_error("fork: %s", strerror(errno));
        return EXIT_OTHER;
    }
    if (child == 0) {
        close(ends[0]);
        if (chdir("/"))
            log_debug("chdir /: %s", strerror(errno));
        exit(run(options, ends[1]));
    }
    close(ends[1]);
    unsigned char code = EXIT_OTHER;
    if (read(ends[0], &code, 1) != 1)
        log_error("the daemon ended before the mount answered");
    return code;
}
