/* A streaming multipart/form-data parser: constant memory whatever the size of a part.
 * libmicrohttpd's own does not know unquoted parameters nor filename*, which .NET sends.
 * Pure: no input is trusted. */
#ifndef ACAFS_ACAPOOL_FORM_H
#define ACAFS_ACAPOOL_FORM_H

#include <stdbool.h>
#include <stddef.h>

#include "util/buf.h"

struct form_handler {
    /* A part begins. file_name: NULL if it has none. Strings live during the call. */
    void (*part)(void *arg, const char *name, const char *file_name);
    void (*data)(void *arg, const void *data, size_t len);
    void *arg;
};

/*   PREAMBLE ──delimiter──→ BOUNDARY ──line end──→ HEADERS ──empty line──→ BODY
 *                              │ "--"                                       │
 *                              ↓           ←────────────delimiter───────────┘ (to BOUNDARY)
 *                           EPILOGUE */
enum form_state { FORM_PREAMBLE, FORM_BOUNDARY, FORM_HEADERS, FORM_BODY, FORM_EPILOGUE };

struct form {
    enum form_state state;
    struct form_handler handler;
    char delimiter[80]; /* "\r\n--boundary" */
    size_t delimiter_len;
    struct buf pending; /* what could not be decided yet */
    size_t skip;        /* its first bytes that are not the body's: the line end before it */
};

/* From a Content-Type header: 0, or -EINVAL when it is no form's. */
int form_init(struct form *, const char *content_type, const struct form_handler *);
/* 0, -EBADMSG or -ENOMEM; after an error no more may be fed. */
int form_feed(struct form *, const char *data, size_t len);
/* Whether the closing delimiter was seen. */
bool form_complete(const struct form *);
void form_free(struct form *);

/* The value of a header parameter (name="a b", name=a, name*=utf-8''a%20b; the last kind wins):
 * appended to out. False when there is none. */
bool form_parameter(const char *header, const char *name, struct buf *out);

#endif
