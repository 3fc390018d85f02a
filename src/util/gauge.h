/* How a transfer goes, for who waits for it at stderr. On a terminal a line that is drawn over,
 *
 *     [########------------] 41.2 of 100.0 MiB, 3.4 MiB/s, 2 files
 *
 * after a moment; elsewhere a line of the log after some seconds, and then ever more rarely. */
#ifndef ACAFS_UTIL_GAUGE_H
#define ACAFS_UTIL_GAUGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/buf.h"

enum { GAUGE_MS = 500 }; /* between calls of gauge_show() */

struct gauge {
    const char *program; /* what the line begins with */
    const char *what;    /* of the log's line: "waiting for the session to have" */
    bool terminal;
    bool drawn;
    int64_t began_ms, due_ms, pause_ms; /* due: of the log's next line */
    int64_t seen_ms;                    /* of the numbers before */
    uint64_t moved_first, moved;        /* that counter, at first and before */
    uint64_t total;                     /* the most there was to do */
    double rate;                        /* bytes a second */
    int64_t still_since_ms;             /* nothing moved */
};

/* moved: a counter of bytes that only grows, as it is before the first was sent. The strings are
 * borrowed. */
void gauge_begin(struct gauge *, const char *program, const char *what, uint64_t moved);
/* left: bytes that are not there yet, whole files. trouble: why it takes so long, or NULL. */
void gauge_show(struct gauge *, size_t files, uint64_t left, uint64_t moved, const char *trouble);
/* Only counts, for who draws by himself: see moved and rate. */
void gauge_measure(struct gauge *, uint64_t moved);
/* Leaves the terminal clean. */
void gauge_end(struct gauge *);

/* Appends a size as people read it: 512 bytes, 41.2 MiB. */
int gauge_size(struct buf *, uint64_t bytes);

#endif
