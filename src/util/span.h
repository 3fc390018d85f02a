/* JSON as text: checked by the letter of RFC 8259, and taken apart without a change to any byte.
 * For documents of which a part is to be replaced while the rest stays as it is, and for values
 * that are only passed on: cJSON's numbers are doubles, and it takes what other readers refuse. */
#ifndef ACAFS_UTIL_SPAN_H
#define ACAFS_UTIL_SPAN_H

#include <stdbool.h>
#include <stddef.h>

/* A value in a text that lives elsewhere; at NULL: none. */
struct span {
    const char *at;
    size_t len;
};

enum { SPAN_DEPTH = 128 }; /* as json_parse() has it */

/* Whether text is one value in well-formed UTF-8, nested no deeper than depth, with nothing but
 * white space around it: it goes to *value. Else *wrong, which may be NULL, is where it ceases to
 * be. */
bool span_check(const char *text, size_t len, int depth, struct span *value, size_t *wrong);

/* Of checked text only. Each tolerates a span of another kind, and none. */

/* The value of an object's member: the last one of that name, as most readers have it. */
struct span span_member(struct span object, const char *name);
/* Goes through an array: item is zero at the start; false at the end. */
bool span_next(struct span array, struct span *item);

bool span_is(struct span, char first); /* '{', '[', '"', 'n', ... */
/* The decoded text of a string, malloc'd; \u0000 becomes U+FFFD. NULL when it is no string, or when
 * out of memory. */
char *span_string(struct span);

#endif
