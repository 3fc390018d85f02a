/* Listening sockets. Each returns 0 or -errno with *why (malloc'd, one line). */
#ifndef ACAFS_ACAPOOL_LISTEN_H
#define ACAFS_ACAPOOL_LISTEN_H

#include <stdbool.h>

/* On 127.0.0.1; *port 0 becomes the one that was free. */
int listen_loopback(unsigned *port, int *fd, char **why);

/* A Unix socket for this user alone: in a directory of mode 0700 that is ours (made if
 * missing, refused otherwise), itself 0600. A socket that nobody serves any more is replaced; *lock
 * (beside it, PATH.lock) is held as long as this pool serves. */
int listen_private(const char *path, int *fd, int *lock, char **why);

/* Whether systemd hands over sockets that already listen (sd_listen_fds(3)) to this process. */
bool listen_is_handed_over(void);
/* Takes them: at most one Unix socket, with its path (malloc'd), and one of the loopback interface,
 * with its port; -1 for what is not among them. They are private to this process from here on, and
 * the variables that told of them are gone. */
struct handed_over {
    int local, tcp;
    char *path;
    unsigned port;
};
int listen_take_over(struct handed_over *out, char **why);

#endif
