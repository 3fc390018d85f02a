/* From the command line to a session of a pool: settings, the loop, and the client on it. */
#ifndef ACAFS_ACARUN_LINK_H
#define ACAFS_ACARUN_LINK_H

#include <stdbool.h>

#include "acarun/options.h"
#include "client/client.h"

/* Zero-initialise. */
struct link {
    struct config config; /* its session is never NULL once open */
    struct loop *loop;
    struct client client;
    bool own_session; /* nobody named it: to be deleted after use */
};

/* -1, or the exit code after saying why; link_close() is to follow in any case. Starts the pool on
 * this machine when that is the one and it does not run. */
int link_open(struct link *, const struct options *);
/* Cancels what is under way. */
void link_close(struct link *);

#endif
