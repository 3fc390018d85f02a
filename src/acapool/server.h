/* The HTTP front: one listening socket, a thread for each connection. */
#ifndef ACAFS_ACAPOOL_SERVER_H
#define ACAFS_ACAPOOL_SERVER_H

struct pool;
struct server;

/* Serves on the listening socket fd (taken over). token: what callers must bear; NULL: the
 * socket is a private Unix one, and callers must be this user or root. The token stays the
 * caller's. 0 or -errno. */
int server_start(struct pool *, int fd, const char *token, struct server **out);
/* No new connections from now on. */
void server_quiesce(struct server *);
/* Waits for the requests under way: close the pool first. */
void server_stop(struct server *);

#endif
