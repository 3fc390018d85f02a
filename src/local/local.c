#include "local/local.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/cleanup.h"
#include "util/text.h"

enum {
    ANSWER_MS = 5000, /* for a pool that listens to say something */
    START_MS = 30000, /* for a new one to be ready; another starter's included */
    RETRY_MS = 50,
};

/* Sets *why; returns err. */
static int explain(char **why, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int explain(char **why, int err, const char *format, ...)
{
    struct buf line = {0};
    va_list args;
    va_start(args, format);
    buf_vaddf(&line, format, args);
    va_end(args);
    free(*why);
    *why = buf_take(&line);
    return err;
}

char *local_pool_socket(void)
{
    struct buf path = {0};
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    struct stat st;
    int err;
    if (runtime && *runtime == '/') {
        err = buf_adds(&path, runtime);
    } else {
        err = buf_addf(&path, "/run/user/%u", (unsigned)geteuid());
        if (!err && (stat(path.data, &st) || !S_ISDIR(st.st_mode))) {
            buf_free(&path);
            err = buf_addf(&path, "/tmp/acafs-%u/pool.sock", (unsigned)geteuid());
            return err ? NULL : buf_take(&path);
        }
    }
    if (!err)
        err = buf_adds(&path, "/acafs/pool.sock");
    if (err)
        buf_free(&path);
    return err ? NULL : buf_take(&path);
}

/* mkdir -p, each for its owner alone. */
static int make_directories(char *path)
{
    for (char *p = path + 1;; p++) {
        char end = *p;
        if (end && end != '/')
            continue;
        *p = '\0';
        int err = mkdir(path, 0700) && errno != EEXIST ? -errno : 0;
        *p = end;
        if (err || !end)
            return err;
    }
}

int local_pool_directory(const char *socket, char **why)
{
    _cleanup_free_ char *copy = strdup(socket);
    if (!copy)
        return -ENOMEM;
    char *path = dirname(copy);
    int err = make_directories(path);
    if (err)
        return explain(why, err, "%s: %s", path, strerror(-err));
    struct stat st;
    if (lstat(path, &st))
        return explain(why, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return explain(why, -EACCES, "%s is no directory", path);
    if (st.st_uid != geteuid())
        return explain(why, -EACCES,
                       "%s belongs to someone else: remove it, or set XDG_RUNTIME_DIR", path);
    if (st.st_mode & 077)
        return explain(why, -EACCES, "%s is open to others: chmod 700 it", path);
    return 0;
}

/* --- is there one? */

static int connect_to(const char *socket_path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(socket_path) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    memcpy(address.sun_path, socket_path, strlen(socket_path));
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        return -errno;
    int connected = fd;
    fd = -1;
    return connected;
}

/* A real request: it also puts off the end of a pool that was about to leave for idleness. */
static int ask(const char *socket_path)
{
    static const char request[] = "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n";
    _cleanup_close_ int fd = connect_to(socket_path);
    if (fd < 0)
        return fd;
    if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0)
        return -errno;
    struct pollfd p = {fd, POLLIN, 0};
    char answer[16];
    int n = poll(&p, 1, ANSWER_MS);
    if (n <= 0)
        return n < 0 ? -errno : -ETIMEDOUT;
    ssize_t len = recv(fd, answer, sizeof answer, 0);
    if (len < 0)
        return -errno;
    return len >= 7 && memcmp(answer, "HTTP/1.", 7) == 0 ? 0 : -ECONNRESET;
}

/* --- starting one */

static bool is_program(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* acapool where it is installed, acafs in sbin and acarun and it in bin, or built, in the folder
 * beside this program's own; else the one in PATH. malloc'd; NULL when out of memory. */
static char *find_program(void)
{
    static const char *const places[] = {"/", "/../bin/", "/../acapool/"};
    char self[4096];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (len <= 0)
        return strdup("acapool");
    self[len] = '\0';
    const char *folder = dirname(self);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct buf path = {0};
        if (!buf_addf(&path, "%s%sacapool", folder, places[i]) && is_program(path.data))
            return buf_take(&path);
        buf_free(&path);
    }
    return strdup("acapool");
}

/* Where the messages of a pool go that has no terminal; a fresh file for each. */
static int open_log(const char *socket_path)
{
    _cleanup_buf_ struct buf path = {0};
    if (buf_addf(&path, "%s.log", socket_path))
        return -1;
    return open(path.data, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
}

/* In the child of a child: nobody has to wait for it. */
__attribute__((noreturn)) static void become(const char *program, const char *socket_path, int log,
                                             int ready)
{
    char number[16];
    snprintf(number, sizeof number, "%d", ready);
    setsid();
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || log < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0 ||
        fcntl(ready, F_SETFD, 0) || chdir("/"))
        _exit(71);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execlp(program, program, "--socket", socket_path, "--idle-exit", "60", "--ready-fd", number,
           (char *)NULL);
    _exit(72);
}

static int spawn(const char *program, const char *socket_path, int ready)
{
    _cleanup_close_ int log = open_log(socket_path);
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        pid_t second = fork();
        if (second == 0)
            become(program, socket_path, log, ready);
        _exit(second < 0 ? 1 : 0);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return status ? -EAGAIN : 0;
}

/* Waits for the line "ready" or "failed: why". */
static int await_ready(int fd, const char *program, char **why)
{
    char line[512];
    size_t len = 0;
    int64_t deadline = clock_ms() + START_MS;
    while (len < sizeof line - 1 && !memchr(line, '\n', len)) {
        struct pollfd p = {fd, POLLIN, 0};
        int64_t left = deadline - clock_ms();
        if (left <= 0)
            return explain(why, -ETIMEDOUT, "%s was started but does not answer", program);
        if (poll(&p, 1, (int)left) <= 0)
            continue;
        ssize_t n = read(fd, line + len, sizeof line - 1 - len);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    line[len] = '\0';
    line[strcspn(line, "\n")] = '\0';
    if (strcmp(line, "ready") == 0)
        return 0;
    if (!*line)
        return explain(why, -ENOENT, "%s could not be started: is acapool installed?", program);
    return explain(why, -EHOSTUNREACH, "%s: %s", program, line);
}

static int start(const char *socket_path, const char *program, char **why)
{
    _cleanup_free_ char *found = program ? strdup(program) : find_program();
    int ends[2];
    if (!found || pipe2(ends, O_CLOEXEC))
        return -ENOMEM;
    _cleanup_close_ int from = ends[0];
    int err = spawn(found, socket_path, ends[1]);
    close(ends[1]);
    if (err)
        return explain(why, err, "starting %s: %s", found, strerror(-err));
    return await_ready(from, found, why);
}

/* Held while one of us looks and starts: the others then find what the first one started. */
static int lock_starting(const char *socket_path, int *lock, char **why)
{
    _cleanup_buf_ struct buf path = {0};
    if (buf_addf(&path, "%s.start", socket_path))
        return -ENOMEM;
    *lock = open(path.data, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (*lock < 0)
        return explain(why, -errno, "%s: %s", path.data, strerror(errno));
    int64_t deadline = clock_ms() + START_MS;
    while (flock(*lock, LOCK_EX | LOCK_NB)) {
        if (clock_ms() > deadline)
            return explain(why, -ETIMEDOUT, "%s: another program holds it", path.data);
        poll(NULL, 0, RETRY_MS);
    }
    return 0;
}

int local_pool_ensure(const char *socket_path, const char *program, char **why)
{
    *why = NULL;
    int err = local_pool_directory(socket_path, why);
    if (err)
        return err;
    if (ask(socket_path) == 0)
        return 0;
    _cleanup_close_ int lock = -1;
    err = lock_starting(socket_path, &lock, why);
    if (err)
        return err;
    if (ask(socket_path) == 0)
        return 0;
    return start(socket_path, program, why);
}
