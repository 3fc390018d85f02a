#include "acapool/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.py.h"
#include "util/buf.h"
#include "util/cleanup.h"
#include "util/text.h"

enum { ARGUMENTS = 192, CONTROL_FD = 3, INSIDE_UID = 1000, ACKNOWLEDGE_MS = 2000 };

static const char loader[] =
    "import sys; exec(compile(sys.stdin.buffer.read(), '<acapool>', 'exec'))";
static const char passwd[] = "root:x:0:0:root:/root:/usr/sbin/nologin\n"
                             "session:x:1000:1000:session:/home/session:/bin/sh\n";
static const char group[] = "root:x:0:\nsession:x:1000:\n";
static const char hosts[] = "127.0.0.1 localhost session\n::1 localhost\n";

/* The environment of everything in a session. */
static const char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin",
                                          "HOME=/home/session",
                                          "USER=session",
                                          "LOGNAME=session",
                                          "SHELL=/bin/sh",
                                          "LANG=C.UTF-8",
                                          "MPLBACKEND=agg",
                                          NULL};

/* An argument list under construction; `owned` are the descriptors that it names. */
struct command {
    char *argv[ARGUMENTS];
    size_t count;
    int fds[8];
    size_t fd_count;
    bool failed;
};

static void command_free(struct command *c)
{
    for (size_t i = 0; i < c->count; i++)
        free(c->argv[i]);
    for (size_t i = 0; i < c->fd_count; i++)
        close(c->fds[i]);
}
#define _cleanup_command_ __attribute__((cleanup(command_free)))

static void add(struct command *c, const char *word)
{
    char *copy = c->count + 1 < ARGUMENTS ? strdup(word) : NULL;
    if (copy)
        c->argv[c->count++] = copy;
    else
        c->failed = true;
}

#define add_all(c, ...) add_words(c, (const char *const[]){__VA_ARGS__, NULL})

static void add_words(struct command *c, const char *const *words)
{
    for (; *words; words++)
        add(c, *words);
}

static void add_number(struct command *c, uint64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    add(c, text);
}

/* A descriptor to read text from. */
static int text_fd(const char *text, size_t len)
{
    int fd = memfd_create("acapool", MFD_CLOEXEC);
    if (fd >= 0 && (write(fd, text, len) != (ssize_t)len || lseek(fd, 0, SEEK_SET))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* A file of the sandbox made of text. */
static void add_file(struct command *c, const char *text, const char *path)
{
    int fd = text_fd(text, strlen(text));
    if (fd < 0 || c->fd_count == sizeof c->fds / sizeof *c->fds) {
        c->failed = true;
        return;
    }
    c->fds[c->fd_count++] = fd;
    add(c, "--ro-bind-data");
    add_number(c, (uint64_t)fd);
    add(c, path);
}

static void add_scratch(struct command *c, const char *path, const char *mode, uint64_t size)
{
    add_all(c, "--perms", mode, "--size");
    add_number(c, size);
    add_all(c, "--tmpfs", path);
}

/* /usr as it is, and /bin and its like as they are on this machine. */
static void add_system(struct command *c)
{
    static const char *const tops[] = {"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"};
    add_all(c, "--ro-bind", "/usr", "/usr");
    for (size_t i = 0; i < sizeof tops / sizeof *tops; i++) {
        char target[64];
        ssize_t len = readlink(tops[i], target, sizeof target - 1);
        if (len > 0) {
            target[len] = '\0';
            add_all(c, "--symlink", target, tops[i]);
        } else {
            add_all(c, "--ro-bind-try", tops[i], tops[i]);
        }
    }
    static const char *const settings[] = {
        "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
        "/etc/localtime",    "/etc/timezone",    "/etc/fonts",      "/etc/mime.types",
        "/etc/matplotlibrc", "/etc/python3",     "/etc/python3.11", "/etc/ssl/certs"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        add_all(c, "--ro-bind-try", settings[i], settings[i]);
}

static void add_bwrap(struct command *c, const struct sandbox_options *o, const char *data)
{
    add_all(c, "bwrap", "--unshare-user", "--disable-userns", "--unshare-pid", "--unshare-ipc",
            "--unshare-uts", "--unshare-net", "--unshare-cgroup-try", "--hostname", "session",
            "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--uid");
    add_number(c, INSIDE_UID);
    add(c, "--gid");
    add_number(c, INSIDE_UID);
    for (size_t i = 0; environment[i]; i++) {
        const char *equals = strchr(environment[i], '=');
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)(equals - environment[i]), environment[i]);
        add_all(c, "--setenv", name, equals + 1);
    }
    add_system(c);
    add_file(c, passwd, "/etc/passwd");
    add_file(c, group, "/etc/group");
    add_file(c, hosts, "/etc/hosts");
    add_all(c, "--proc", "/proc", "--dev", "/dev");
    add_scratch(c, "/dev/shm", "1777", o->limits.memory / 4);
    add_scratch(c, "/tmp", "1777", o->limits.memory / 4);
    add_scratch(c, "/home/session", "0700", o->limits.memory / 8);
    add_all(c, "--bind", data, "/mnt/data", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir",
            "/mnt/data", "--");
}

static void add_supervisor(struct command *c, const struct sandbox_limits *limits)
{
    char settings[128];
    snprintf(settings, sizeof settings, "{\"memory\": %llu, \"disk\": %llu, \"processes\": %llu}",
             (unsigned long long)limits->memory, (unsigned long long)limits->disk,
             (unsigned long long)limits->processes);
    add_all(c, "/usr/bin/python3", "-I", "-X", "utf8", "-c", loader, settings);
}

/* --- in the child, between fork and exec: system calls only */

/* Of this machine's mounts those that bwrap asks for, and the current directory at /mnt, become
 * all that there is. What else is mounted here would be held by the sandbox as long as it lives,
 * though unmounted elsewhere: a disk could not be taken out, a FUSE daemon would not end. */
static int leave_other_mounts(void)
{
    static const char *const kept[][2] = {
        {"/usr", "/mnt/usr"}, {"/etc", "/mnt/etc"}, {"/dev", "/mnt/dev"}, {"/proc", "/mnt/proc"}};
    if (mount("/", "/mnt", NULL, MS_BIND, NULL))
        return -1;
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        if (mount(kept[i][0], kept[i][1], NULL, MS_BIND | MS_REC, NULL))
            return -1;
    }
    if (mount(".", "/mnt/mnt", NULL, MS_BIND, NULL) || chdir("/mnt") ||
        syscall(SYS_pivot_root, ".", "."))
        return -1;
    return umount2(".", MNT_DETACH);
}

/* As root we can go where the session's user can't: its directory is brought to /mnt in a
 * mount namespace of the child's own. Where that is not allowed, the path must do. */
static const char *bring_near(const char *data)
{
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) || chdir(data))
        return data;
    if (leave_other_mounts() && (chdir(data) || mount(".", "/mnt", NULL, MS_BIND, NULL)))
        return data;
    return "/mnt";
}

/* The system calls themselves: glibc's would tell our other threads, which fork left behind. */
static int become(uid_t uid)
{
    if (syscall(SYS_setgroups, 0, NULL) || syscall(SYS_setresgid, uid, uid, uid) ||
        syscall(SYS_setresuid, uid, uid, uid))
        return -1;
    return 0;
}

static void prefer_for_oom(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!write(fd, "800", 3);
    close(fd);
}

struct start {
    struct command *command;
    const char *data; /* NULL for a probe */
    size_t data_at;   /* which argument it is; 0: none */
    bool bare;
    uid_t uid;   /* (uid_t)-1: stay who we are */
    int in, err; /* become 0, and 1 and 2; -1: /dev/null, ours */
    int control; /* becomes CONTROL_FD */
};

static void inherit(int fd)
{
    fcntl(fd, F_SETFD, 0);
}

__attribute__((noreturn)) static void child(const struct start *s)
{
    char **argv = s->command->argv;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prefer_for_oom();
    if (s->uid != (uid_t)-1) {
        if (s->data_at)
            argv[s->data_at] = (char *)bring_near(s->data);
        if (become(s->uid))
            _exit(71);
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user clears it */
    }
    if (s->bare && s->data && chdir(s->data))
        _exit(71);
    int in = s->in >= 0 ? s->in : open("/dev/null", O_RDWR);
    int err = s->err >= 0 ? s->err : STDERR_FILENO;
    if (dup2(in, 0) || dup2(err, 1) != 1 || dup2(err, 2) != 2)
        _exit(71);
    if (s->control >= 0 && (s->control == CONTROL_FD ? fcntl(CONTROL_FD, F_SETFD, 0)
                                                     : dup2(s->control, CONTROL_FD)) < 0)
        _exit(71);
    for (size_t i = 0; i < s->command->fd_count; i++)
        inherit(s->command->fds[i]);
    if (s->bare)
        execve(argv[0], argv, (char *const *)environment);
    else
        execvp(argv[0], argv);
    _exit(72);
}

/* --- in the parent */

static size_t find_word(const struct command *c, const char *word)
{
    for (size_t i = 1; i < c->count; i++) {
        if (strcmp(c->argv[i], word) == 0)
            return i;
    }
    return 0;
}

/* Descriptors that a child is given must not be the numbers it is given them at. */
static int clear_of_standard(int fd)
{
    if (fd < 0 || fd > CONTROL_FD)
        return fd;
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, CONTROL_FD + 1);
    close(fd);
    return moved;
}

static int read_all(int fd, struct buf *out)
{
    for (;;) {
        int err = buf_reserve(out, 4096);
        if (err)
            return err;
        ssize_t n = read(fd, out->data + out->len, 4096);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : 0;
        out->len += (size_t)n;
        out->data[out->len] = '\0';
    }
}

static int explain(int status, const char *said, char **why)
{
    struct buf line = {0};
    if (WIFEXITED(status) && WEXITSTATUS(status) == 72)
        buf_adds(&line, "bubblewrap (bwrap) is not installed");
    else if (said && *said)
        text_printable(&line, said, strcspn(said, "\n"), 300);
    else
        buf_addf(&line, "bwrap ended with status %d", status);
    *why = buf_take(&line);
    return -EPERM;
}

int sandbox_probe(const struct sandbox_options *o, uid_t uid, char **why)
{
    if (access("/usr/bin/python3", X_OK)) {
        *why = strdup("/usr/bin/python3 is not there");
        return -ENOENT;
    }
    if (o->bare)
        return 0;
    _cleanup_command_ struct command c = {0};
    add_bwrap(&c, o, "/usr");
    add(&c, "/usr/bin/true");
    int ends[2];
    if (c.failed || pipe2(ends, O_CLOEXEC))
        return -ENOMEM;
    _cleanup_close_ int said_fd = ends[0];
    struct start s = {.command = &c, .uid = uid, .in = -1, .err = ends[1], .control = -1};
    pid_t pid = fork();
    if (pid == 0)
        child(&s);
    close(ends[1]);
    if (pid < 0)
        return -errno;
    _cleanup_buf_ struct buf said = {0};
    read_all(said_fd, &said);
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status ? explain(status, said.data, why) : 0;
}

static struct sandbox *sandbox_new(void)
{
    struct sandbox *sb = calloc(1, sizeof *sb);
    if (sb) {
        pthread_mutex_init(&sb->lock, NULL);
        sb->control = -1;
        sb->references = 1;
    }
    return sb;
}

int sandbox_start(const struct sandbox_options *o, const char *data, uid_t uid,
                  struct sandbox **out)
{
    _cleanup_command_ struct command c = {0};
    if (!o->bare)
        add_bwrap(&c, o, data);
    size_t data_at = o->bare ? 0 : find_word(&c, data);
    add_supervisor(&c, &o->limits);
    if (c.failed)
        return -ENOMEM;
    _cleanup_close_ int program = clear_of_standard(text_fd(kernel_py, sizeof kernel_py - 1));
    int pair[2];
    if (program < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return -errno;
    _cleanup_close_ int theirs = clear_of_standard(pair[1]);
    struct sandbox *sb = sandbox_new();
    if (!sb) {
        close(pair[0]);
        return -ENOMEM;
    }
    sb->control = pair[0];
    struct start s = {.command = &c,
                      .data = data,
                      .data_at = data_at,
                      .bare = o->bare,
                      .uid = uid,
                      .in = program,
                      .err = -1,
                      .control = theirs};
    char *path = data_at ? c.argv[data_at] : NULL;
    sb->pid = fork();
    if (sb->pid == 0)
        child(&s);
    if (path)
        c.argv[data_at] = path;
    if (sb->pid < 0) {
        int err = -errno;
        close(sb->control);
        pthread_mutex_destroy(&sb->lock);
        free(sb);
        return err;
    }
    *out = sb;
    return 0;
}

static int command(struct sandbox *sb, const char *text, const int *fds, size_t count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(3 * sizeof(int))];
    } space = {0};
    struct iovec iov = {(char *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count) {
        message.msg_control = space.bytes;
        message.msg_controllen = CMSG_SPACE(count * sizeof *fds);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(count * sizeof *fds);
        memcpy(CMSG_DATA(head), fds, count * sizeof *fds);
    }
    return sendmsg(sb->control, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int sandbox_start_kernel(struct sandbox *sb, unsigned number, const int fds[3])
{
    char text[64];
    snprintf(text, sizeof text, "{\"start\": %u}", number);
    pthread_mutex_lock(&sb->lock);
    int err = sb->dead ? -ESHUTDOWN : command(sb, text, fds, 3);
    pthread_mutex_unlock(&sb->lock);
    return err;
}

static int acknowledged(struct sandbox *sb)
{
    struct pollfd p = {sb->control, POLLIN, 0};
    int n = poll(&p, 1, ACKNOWLEDGE_MS);
    char byte;
    if (n <= 0)
        return n < 0 ? -errno : -ETIMEDOUT;
    return recv(sb->control, &byte, 1, MSG_DONTWAIT) == 1 ? 0 : -ESHUTDOWN;
}

int sandbox_signal(struct sandbox *sb, unsigned number, int signal)
{
    char text[64];
    snprintf(text, sizeof text, "{\"kernel\": %u, \"signal\": %d}", number, signal);
    pthread_mutex_lock(&sb->lock);
    int err = sb->dead ? -ESHUTDOWN : command(sb, text, NULL, 0);
    if (!err)
        err = acknowledged(sb);
    pthread_mutex_unlock(&sb->lock);
    return err;
}

void sandbox_kill(struct sandbox *sb)
{
    pthread_mutex_lock(&sb->lock);
    if (!sb->dead) {
        sb->dead = true;
        /* Both ways to the same end: process 1 exits when its control socket closes, and
         * bwrap takes it along. Without a sandbox only the first ends what a script detached. */
        shutdown(sb->control, SHUT_RDWR);
    }
    pthread_mutex_unlock(&sb->lock);
}

struct sandbox *sandbox_ref(struct sandbox *sb)
{
    sb->references++;
    return sb;
}

void sandbox_unref(struct sandbox *sb)
{
    if (!sb || --sb->references)
        return;
    sandbox_kill(sb);
    int64_t deadline = clock_ms() + ACKNOWLEDGE_MS;
    pid_t done;
    while ((done = waitpid(sb->pid, NULL, WNOHANG)) == 0 && clock_ms() < deadline)
        poll(NULL, 0, 2);
    if (done == 0) {
        kill(sb->pid, SIGKILL);
        while (waitpid(sb->pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    close(sb->control);
    pthread_mutex_destroy(&sb->lock);
    free(sb);
}
