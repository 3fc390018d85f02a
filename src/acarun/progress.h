/* What is said while many scripts run, on stderr: on a terminal a line for each that runs, redrawn;
 * elsewhere a line when one starts and when it ends. */
#ifndef ACAFS_ACARUN_PROGRESS_H
#define ACAFS_ACARUN_PROGRESS_H

#include "acarun/batch.h"

enum { PROGRESS_MS = 200 }; /* between calls of progress_draw() */

/* NULL when out of memory; quiet: says nothing. */
struct progress *progress_new(const struct batch *, bool quiet);
/* Leaves the terminal clean. */
void progress_free(struct progress *);

void progress_started(struct progress *, const struct item *);
void progress_ended(struct progress *, const struct item *);
/* Bytes to and from the pool so far, retries included. */
void progress_traffic(struct progress *, uint64_t sent, uint64_t received);
void progress_draw(struct progress *);

/* The table of how all went, on stdout: 0 or -errno. */
int progress_table(const struct batch *);

#endif
