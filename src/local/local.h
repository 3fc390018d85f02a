/* The user's own session pool on this machine: finds the acapool that listens on the
 * user's socket, or starts one that ends by itself when idle. Blocking; for start-up. */
#ifndef ACAFS_LOCAL_LOCAL_H
#define ACAFS_LOCAL_LOCAL_H

/* Where the socket is: $XDG_RUNTIME_DIR/acafs/pool.sock, else /run/user/UID/acafs/pool.sock where
 * that exists, else /tmp/acafs-UID/pool.sock. malloc'd; NULL when out of memory. */
char *local_pool_socket(void);

/* Makes the directory of `socket` (0700) or checks that it is this user's alone: 0, or -errno
 * with *why as below. */
int local_pool_directory(const char *socket, char **why);

/* Makes sure a pool answers on `socket`: 0, or -errno with *why (malloc'd, one line). The
 * directory is made 0700; one owned by someone else or open to others is refused (-EACCES).
 * program: the acapool to start; NULL: beside this program, else in PATH. Two callers at once start
 * one. */
int local_pool_ensure(const char *socket, const char *program, char **why);

#endif
