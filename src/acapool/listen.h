/* Listening sockets. Each returns 0 or -errno with *why (malloc'd, one line). */
#ifndef ACAFS_ACAPOOL_LISTEN_H
#define ACAFS_ACAPOOL_LISTEN_H

/* On 127.0.0.1; *port 0 becomes the one that was free. */
int listen_loopback(unsigned *port, int *fd, char **why);

/* A Unix socket for this user alone: in a directory of mode 0700 that is ours (made if
 * missing, refused otherwise), itself 0600. A socket that nobody serves any more is replaced; *lock
 * (beside it, PATH.lock) is held as long as this pool serves. */
int listen_private(const char *path, int *fd, int *lock, char **why);

#endif
