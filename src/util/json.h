/* Type-checked access to cJSON documents from outside: every accessor tolerates a
 * missing object, a missing member and a member of another type. */
#ifndef ACAFS_UTIL_JSON_H
#define ACAFS_UTIL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

/* Parses a whole document; a byte order mark in front and white space around are
 * accepted, anything after the document is not. NULL when it is no JSON, is nested
 * deeper than 128, or is too large for memory. cJSON ends strings at \u0000: the
 * escape is replaced by U+FFFD here, so no name is silently cut short. Whoever must
 * tell the two apart asks json_has_nul(). */
cJSON *json_parse(const char *text, size_t len);
/* Whether a string of a document that was parsed holds the escape \u0000. */
bool json_has_nul(const char *text, size_t len);

/* The member's string, or NULL. Owned by the document. */
const char *json_string(const cJSON *object, const char *name);
/* The member object or array, or NULL. */
const cJSON *json_object(const cJSON *object, const char *name);
const cJSON *json_array(const cJSON *object, const char *name);
/* A whole number in [0, 2^53], also when written as a string of digits; false otherwise. */
bool json_uint(const cJSON *object, const char *name, uint64_t *out);
bool json_bool(const cJSON *object, const char *name, bool *out);

#endif
