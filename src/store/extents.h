/* Which bytes of a file are at hand: ranges in order, none touching another. */
#ifndef ACAFS_STORE_EXTENTS_H
#define ACAFS_STORE_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct extent {
    uint64_t start, end;
};

/* Zero-initialise; extents_clear() frees. */
struct extents {
    struct extent *list;
    size_t count;
};

/* Adds [start, end). 0 or -ENOMEM. */
int extents_add(struct extents *, uint64_t start, uint64_t end);
/* Takes [start, end) away, as far as there is memory for another piece; how many of its bytes were
 * at hand and are no more. */
uint64_t extents_remove(struct extents *, uint64_t start, uint64_t end);
/* Where the bytes at hand end that begin at `at`; `at` itself when it is not among them. */
uint64_t extents_end(const struct extents *, uint64_t at);
/* Where the bytes at hand begin that reach up to `at`, without a gap before it; else `at`. */
uint64_t extents_start(const struct extents *, uint64_t at);
/* Where the next bytes at hand begin, at or behind `at`; UINT64_MAX when there are none. */
uint64_t extents_next(const struct extents *, uint64_t at);
void extents_clear(struct extents *);

#endif
