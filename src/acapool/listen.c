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

enum { BACKLOG = 128 };

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
