/* Small helpers for text that crosses a border: encodings, checks, clocks. */
#ifndef ACAFS_UTIL_TEXT_H
#define ACAFS_UTIL_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "util/buf.h"

/* Appends text percent-encoded for a URL path segment or query value (RFC 3986 unreserved
 * characters stay). Returns 0 or -ENOMEM. */
int text_percent(struct buf *out, const char *text, size_t len);

/* Standard base64 with padding. Decoding accepts only what it would itself write
 * (white space between groups aside): 0, -EINVAL or -ENOMEM. */
int text_base64(struct buf *out, const void *data, size_t len);
int text_unbase64(struct buf *out, const char *text, size_t len);

/* Well-formed UTF-8, no surrogates, no overlong forms. */
bool text_is_utf8(const char *text, size_t len);

/* Appends text fit for a terminal: line ends become one space, other control
 * characters '?'. At most `limit` bytes, of whole characters, then "...". */
int text_printable(struct buf *out, const char *text, size_t len, size_t limit);

/* RFC 3339 with any number of fraction digits and Z or an offset. Returns 0 or -EINVAL. */
int text_parse_time(const char *text, struct timespec *out);

/* Sizes as people write them: 4096, 64K, 2G (powers of 1024). Returns 0 or -EINVAL. */
int text_parse_size(const char *text, uint64_t *out);

/* len random bytes as lower-case hex, NUL-terminated: out holds 2 * len + 1. */
void text_random_hex(char *out, size_t len);
/* A random (version 4) UUID; out holds 37 bytes. */
void text_uuid(char out[37]);

/* CLOCK_MONOTONIC in milliseconds: for deadlines and ages. */
int64_t clock_ms(void);

#endif
