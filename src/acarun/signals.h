/* SIGINT, SIGTERM and SIGHUP as a descriptor. */
#ifndef ACAFS_ACARUN_SIGNALS_H
#define ACAFS_ACARUN_SIGNALS_H

#include <stdbool.h>

/* Blocks those signals that were not ignored and returns a signalfd of them, non-blocking; -errno.
 * Also ignores SIGPIPE: writing then says so. Before any thread is started. */
int signals_open(void);
/* Takes one signal: its number, 0 when none waits. */
int signals_take(int fd);

#endif
