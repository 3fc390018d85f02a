/* What systemd is told of a mount that it started (sd_notify(3), without its library): that it is
 * there, what it is doing, that it ends, and that it is alive where a watchdog asks. A datagram
 * each, to $NOTIFY_SOCKET; where that is not set there is no service, and NULL serves for one. */
#ifndef ACAFS_ACAFS_SERVICE_H
#define ACAFS_ACAFS_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "loop/loop.h"
#include "util/buf.h"

struct service;

/* status: appends one line, what the mount is doing; asked every few seconds once it is ready.
 * Takes $NOTIFY_SOCKET and the watchdog's variables out of the environment: they are not for
 * children. 0 with *out, NULL where nobody is to be told; -ENOMEM. */
int service_new(struct loop *, void (*status)(void *arg, struct buf *), void *arg,
                struct service **out);
void service_free(struct service *);

void service_ready(struct service *);
/* The end began; it may take as long as that. */
void service_stopping(struct service *, int64_t ms);

/* Whether stderr is the journal, which reads a level at the head of each line. */
bool service_has_journal(void);

#endif
