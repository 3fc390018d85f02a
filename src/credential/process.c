#include "credential/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "credential/secret.h"
#include "util/cleanup.h"

extern char **environ;

enum {
    MAX_OUTPUT =
        256 << 10, /* of each stream; reserved at once, so that nothing is left behind by growing */
    REAP_MS = 1000,
};

struct stream {
    struct process *process;
    int fd;
    struct loop_fd *watch;
    struct buf bytes;
};

/* Lives until it has ended. Its pipes may stay open beyond that: az leaves a child behind that
 * reports telemetry; what the pipes hold at its end is all there is. */
struct process {
    struct loop *loop;
    pid_t pid;
    int pidfd;
    struct loop_fd *watch;
    struct stream out, errors;
    struct loop_timer deadline;
    int err;
    process_fn *done;
    void *arg;
};

static void stream_close(struct stream *s)
{
    loop_fd_del(s->watch);
    s->watch = NULL;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

static void process_free(struct process *p)
{
    stream_close(&p->out);
    stream_close(&p->errors);
    buf_wipe(&p->out.bytes);
    buf_wipe(&p->errors.bytes);
    loop_fd_del(p->watch);
    if (p->pidfd >= 0)
        close(p->pidfd);
    loop_timer_stop(&p->deadline);
    free(p);
}

static void kill_group(struct process *p)
{
    /* The leader is not reaped yet, so the number can't be another's. */
    kill(-p->pid, SIGKILL);
}

void process_cancel(struct process *p)
{
    if (!p)
        return;
    kill_group(p);
    /* Killed means gone within an instant, unless a dead network disk holds it: then init reaps it.
     */
    siginfo_t info;
    struct pollfd gone = {.fd = p->pidfd, .events = POLLIN};
    poll(&gone, 1, REAP_MS);
    waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED | WNOHANG);
    process_free(p);
}

static void give_up(struct process *p, int err)
{
    if (!p->err)
        p->err = err;
    kill_group(p);
}

static void deadline_passed(void *arg)
{
    give_up(arg, -ETIMEDOUT);
}

/* --- output */

static void stream_read(struct stream *s)
{
    while (s->fd >= 0) {
        size_t room = MAX_OUTPUT - s->bytes.len;
        if (room == 0) {
            give_up(s->process, -EFBIG);
            stream_close(s);
            return;
        }
        ssize_t n = read(s->fd, s->bytes.data + s->bytes.len, room);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            stream_close(s);
            return;
        }
        s->bytes.len += (size_t)n;
        s->bytes.data[s->bytes.len] = '\0';
    }
}

static void stream_ready(void *arg, short events)
{
    stream_read(arg);
}

static int stream_open(struct stream *s, struct process *p, int *write_end)
{
    int ends[2];
    s->process = p;
    if (buf_reserve(&s->bytes, MAX_OUTPUT))
        return -ENOMEM;
    if (pipe2(ends, O_CLOEXEC))
        return -errno;
    *write_end = ends[1];
    s->fd = ends[0];
    if (fcntl(s->fd, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    s->watch = loop_fd_add(p->loop, s->fd, CURL_WAIT_POLLIN, stream_ready, s);
    return s->watch ? 0 : -ENOMEM;
}

/* --- its end */

static void ended(void *arg, short events)
{
    struct process *p = arg;
    siginfo_t info = {0};
    if (waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED | WNOHANG) && !p->err)
        p->err = -ECHILD;
    else if (!p->err && info.si_pid == 0)
        return;
    stream_read(&p->out);
    stream_read(&p->errors);
    const struct process_result result = {
        .err = p->err,
        .exit_code = info.si_code == CLD_EXITED ? info.si_status : -1,
        .out = &p->out.bytes,
        .errors = &p->errors.bytes,
    };
    p->done(p->arg, &result);
    process_free(p);
}

/* --- its beginning */

char *process_find(const char *name)
{
    const char *path = getenv("PATH");
    if (!path)
        path = "/usr/local/bin:/usr/bin:/bin";
    while (*path) {
        size_t len = strcspn(path, ":");
        struct buf file = {0};
        struct stat st;
        if (*path == '/' && buf_addf(&file, "%.*s/%s", (int)len, path, name) == 0 &&
            stat(file.data, &st) == 0 && S_ISREG(st.st_mode) && access(file.data, X_OK) == 0)
            return buf_take(&file);
        buf_free(&file);
        path += len;
        path += *path == ':';
    }
    return NULL;
}

static bool is_secret(const char *assignment)
{
    size_t len = strcspn(assignment, "=");
    for (const char *const *name = secret_variables; *name; name++) {
        if (strlen(*name) == len && strncmp(*name, assignment, len) == 0)
            return true;
    }
    return false;
}

/* Pointers into our environment: the array alone is the caller's to free. */
static const char **child_environment(const char *extra)
{
    size_t n = 0;
    while (environ && environ[n])
        n++;
    const char **out = calloc(n + 2, sizeof *out);
    size_t used = 0;
    for (size_t i = 0; out && i < n; i++) {
        if (!is_secret(environ[i]))
            out[used++] = environ[i];
    }
    if (out && extra)
        out[used] = extra;
    return out;
}

static int spawn(struct process *p, const char *const *argv, const char *extra, int out, int errors)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t how;
    sigset_t none, all;
    const char **env = child_environment(extra);
    if (!env)
        return -ENOMEM;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(&how);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_setflags(&how, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                       POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&how, 0);
    posix_spawnattr_setsigmask(&how, &none); /* the daemon blocks what its signalfd takes */
    posix_spawnattr_setsigdefault(&how, &all);
    int err = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    err = err ? err : posix_spawn_file_actions_adddup2(&files, out, 1);
    err = err ? err : posix_spawn_file_actions_adddup2(&files, errors, 2);
    err = err ? err : posix_spawn_file_actions_addclosefrom_np(&files, 3);
    err = err ? err : posix_spawn_file_actions_addchdir_np(&files, "/bin");
    err =
        err ? err
            : posix_spawn(&p->pid, argv[0], &files, &how, (char *const *)argv, (char *const *)env);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&how);
    free(env);
    return -err;
}

static int launch(struct process *p, const char *const *argv, const char *extra)
{
    _cleanup_close_ int out = -1;
    _cleanup_close_ int errors = -1;
    int err = stream_open(&p->out, p, &out);
    err = err ? err : stream_open(&p->errors, p, &errors);
    err = err ? err : spawn(p, argv, extra, out, errors);
    if (err)
        return err;
    p->pidfd = pidfd_open(p->pid, 0);
    if (p->pidfd >= 0)
        p->watch = loop_fd_add(p->loop, p->pidfd, CURL_WAIT_POLLIN, ended, p);
    if (p->watch)
        return 0;
    err = p->pidfd < 0 ? -errno : -ENOMEM;
    kill_group(p);
    waitpid(p->pid, NULL, 0);
    return err;
}

int process_start(struct loop *loop, const char *const *argv, const char *extra,
                  int64_t deadline_ms, process_fn *done, void *arg, struct process **out)
{
    struct process *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    *p = (struct process){.loop = loop, .pidfd = -1, .done = done, .arg = arg};
    p->out.fd = p->errors.fd = -1;
    loop_timer_init(&p->deadline, loop, deadline_passed, p);
    int err = launch(p, argv, extra);
    if (err) {
        process_free(p);
        return err;
    }
    loop_timer_set(&p->deadline, deadline_ms);
    *out = p;
    return 0;
}
