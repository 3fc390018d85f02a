/* What the outside sends as text, taken apart: request targets, names, ranges, dates.
 * Pure functions, no input is trusted. Percent signs are decoded once, here and nowhere else. */
#ifndef ACAFS_ACAPOOL_WIRE_H
#define ACAFS_ACAPOOL_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "util/buf.h"

enum { TARGET_SEGMENTS = 64, TARGET_PARAMETERS = 32 };

/* A request target ("/a/b%20c?x=1"), split first and decoded afterwards: a segment may hold
 * '/'. Nothing holds NUL. A pool's own prefix (/subscriptions/…/sessionPools/NAME) is gone. */
struct target {
    size_t count;
    const char *segment[TARGET_SEGMENTS];
    size_t parameters;
    struct target_parameter {
        const char *name, *value;
    } parameter[TARGET_PARAMETERS];
    char *storage; /* free() it */
};

/* 0, -EINVAL (bad escape, NUL, no leading '/'), -E2BIG or -ENOMEM. */
int target_parse(const char *raw, struct target *out);
/* The first parameter of that name in any case, or NULL. */
const char *target_parameter(const struct target *, const char *name);

/* The service's rules (api.md 1.12): for the name of a file, for the path of a directory,
 * for session identifiers and for operation ids. */
bool wire_file_name_ok(const char *name);
bool wire_directory_ok(const char *path);
bool wire_identifier_ok(const char *identifier);
bool wire_operation_id_ok(const char *id);

/* The part of an upload's file name that counts: after the last '/'. */
const char *wire_base_name(const char *name);

/* The token of an Authorization header, or NULL. */
const char *wire_bearer(const char *header);

/* One byte range of a representation of `size` bytes. Anything but one well-formed range
 * means the whole, as RFC 9110 allows. */
enum wire_range { RANGE_WHOLE, RANGE_PART, RANGE_UNSATISFIABLE };
enum wire_range wire_range(const char *header, uint64_t size, uint64_t *first, uint64_t *last);

/* HTTP dates: the three forms of RFC 9110 are read (0 or -EINVAL), the first is written. */
int wire_parse_date(const char *text, time_t *out);
void wire_format_date(time_t time, char out[32]);
/* "2024-08-06T16:21:22.242394400Z" with 9 digits, or 7 as the service shows sessions. */
void wire_format_time(const struct timespec *time, int digits, char out[40]);

/* Appends at most `limit` characters of bytes that should be UTF-8; every byte that is not
 * becomes U+FFFD. Returns 0 or -ENOMEM. */
int wire_clean(struct buf *out, const char *data, size_t len, size_t limit);

#endif
