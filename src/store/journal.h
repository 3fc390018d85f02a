/* The journal: records appended to one file, each with its length and checksum, so that after a
 * crash what was synced is there and a torn end is cut off, never misread. What a record means is
 * its writer's business (record.h). A file of another version is refused, not overwritten.
 *
 * One thread at a time: the store opens it on the loop and then writes on the helper thread. */
#ifndef ACAFS_STORE_JOURNAL_H
#define ACAFS_STORE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/buf.h"

enum { JOURNAL_RECORD_MAX = 1 << 16 };

struct journal;

/* Called for each whole record, oldest first; what it returns but 0 ends the reading. */
typedef int journal_record_fn(void *arg, const void *body, size_t len);

/* Opens, or makes, `journal` in that directory (borrowed) and hands out its records. *dropped:
 * bytes of a torn end that were cut off. 0, -EPROTO for a file that is none of ours, or -errno. */
int journal_open(int dir_fd, journal_record_fn *, void *arg, struct journal **out,
                 uint64_t *dropped);
void journal_close(struct journal *);

/* Adds one record, framed, to `out`: 0, -EMSGSIZE or -ENOMEM. */
int journal_frame(struct buf *out, const void *body, size_t len);
/* Appends framed records; `durable`: on disk when it returns. On an error the journal is as it
 * was before. */
int journal_append(struct journal *, const struct buf *frames, bool durable);
/* Puts these in the place of all records there are, at once and durably. */
int journal_replace(struct journal *, const struct buf *frames);
/* Bytes of the file. */
uint64_t journal_size(const struct journal *);

/* Reads records out of memory: the bytes that were whole records. */
size_t journal_scan(const void *data, size_t len, journal_record_fn *, void *arg);

#endif
