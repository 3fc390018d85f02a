#include "acapool/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "local/local.h"
#include "util/buf.h"
#include "util/cleanup.h"

enum {
    BACKLOG = 128,
    FIRST_HANDED_OVER = 3, /* SD_LISTEN_FDS_START */
};

static int explain(char **why, int err, const char *what, const char *path)
{
    struct buf line = {0};
    buf_addf(&line, "%s%s%s", path, what, strerror(-err));
    *why = buf_take(&line);
    return err;
}

int listen_loopback(unsigned *port, int *fd, char **why)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)*port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int on = 1;
    _cleanup_close_ int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0 || setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
        bind(sock, (struct sockaddr *)&address, len) || listen(sock, BACKLOG) ||
        getsockname(sock, (struct sockaddr *)&address, &len)) {
        char where[32];
        snprintf(where, sizeof where, "127.0.0.1:%u", *port);
        return explain(why, -errno, ": ", where);
    }
    *port = ntohs(address.sin_port);
    *fd = sock;
    sock = -1;
    return 0;
}

static int lock_socket(const char *path, int *lock, char **why)
{
    _cleanup_buf_ struct buf name = {0};
    int err = buf_addf(&name, "%s.lock", path);
    if (err)
        return err;
    *lock = open(name.data, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (*lock < 0)
        return explain(why, -errno, ": ", name.data);
    if (flock(*lock, LOCK_EX | LOCK_NB) == 0)
        return 0;
    close(*lock);
    *lock = -1;
    return explain(why, -EADDRINUSE, ": another pool serves this socket: ", path);
}

static int bind_private(const char *path, int *fd, char **why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return explain(why, -ENAMETOOLONG, ": ", path);
    memcpy(address.sun_path, path, strlen(path));
    _cleanup_close_ int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* The lock is ours, so a socket that is there is left over. */
    if (sock < 0 || (unlink(path) && errno != ENOENT))
        return explain(why, -errno, ": ", path);
    mode_t before = umask(0177);
    int err = bind(sock, (struct sockaddr *)&address, sizeof address) ? -errno : 0;
    umask(before);
    if (!err && listen(sock, BACKLOG))
        err = -errno;
    if (err)
        return explain(why, err, ": ", path);
    *fd = sock;
    sock = -1;
    return 0;
}

int listen_private(const char *path, int *fd, int *lock, char **why)
{
    int err = local_pool_directory(path, why);
    if (!err)
        err = lock_socket(path, lock, why);
    if (!err)
        err = bind_private(path, fd, why);
    return err;
}

/* --- sockets that systemd made */

static long variable(const char *name)
{
    const char *text = getenv(name);
    char *end;
    long value = text ? strtol(text, &end, 10) : 0;
    return text && *text && !*end ? value : 0;
}

bool listen_is_handed_over(void)
{
    return variable("LISTEN_PID") == getpid() && variable("LISTEN_FDS") > 0;
}

static int refuse(char **why, int fd, const char *what)
{
    struct buf line = {0};
    buf_addf(&line, "socket handed over as descriptor %d: %s", fd, what);
    *why = buf_take(&line);
    return -EINVAL;
}

static int take_local(int fd, const struct sockaddr_un *address, socklen_t len,
                      struct handed_over *out, char **why)
{
    size_t path_len = len - offsetof(struct sockaddr_un, sun_path);
    if (out->local >= 0)
        return refuse(why, fd, "a second Unix socket");
    if (len <= offsetof(struct sockaddr_un, sun_path) || address->sun_path[0] != '/')
        return refuse(why, fd, "it has no path");
    out->local = fd;
    out->path = strndup(address->sun_path, path_len);
    return out->path ? 0 : -ENOMEM;
}

static int take_tcp(int fd, const struct sockaddr_in *address, struct handed_over *out, char **why)
{
    if (out->tcp >= 0)
        return refuse(why, fd, "a second port");
    if (ntohl(address->sin_addr.s_addr) >> 24 != IN_LOOPBACKNET)
        return refuse(why, fd, "not of the loopback interface: what goes over it is not encrypted");
    out->tcp = fd;
    out->port = ntohs(address->sin_port);
    return 0;
}

static int take_one(int fd, struct handed_over *out, char **why)
{
    union {
        struct sockaddr any;
        struct sockaddr_un local;
        struct sockaddr_in tcp;
    } address = {0};
    socklen_t len = sizeof address, one = sizeof(int);
    int listening = 0, type = 0;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) || getsockname(fd, &address.any, &len) ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &one) ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &one))
        return refuse(why, fd, strerror(errno));
    if (type != SOCK_STREAM || !listening)
        return refuse(why, fd, "it takes no connections (Accept=yes, or not ListenStream=)");
    if (address.any.sa_family == AF_UNIX)
        return take_local(fd, &address.local, len, out, why);
    if (address.any.sa_family == AF_INET)
        return take_tcp(fd, &address.tcp, out, why);
    return refuse(why, fd, "neither a Unix socket nor one of 127.0.0.1");
}

int listen_take_over(struct handed_over *out, char **why)
{
    long count = variable("LISTEN_FDS");
    int err = 0;
    *out = (struct handed_over){.local = -1, .tcp = -1};
    for (int fd = FIRST_HANDED_OVER; fd < FIRST_HANDED_OVER + count && !err; fd++)
        err = take_one(fd, out, why);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return err;
}
