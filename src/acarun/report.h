/* How a run went, whichever way it was run, and what is said about it. */
#ifndef ACAFS_ACARUN_REPORT_H
#define ACAFS_ACARUN_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "util/buf.h"

/* Zero-initialise; free with report_free. */
struct report {
    char state[16]; /* succeeded, failed, canceled, timed-out, lost */
    int exit_code;
    char *message; /* one line for people, or NULL */
    cJSON *value;  /* of the last expression, or NULL; */
    char *text;    /* as the session wrote it, or NULL */
    cJSON *images; /* array of {"name", "format", "path" where it is, or "base64_data"} */
    int64_t milliseconds;
};
void report_free(struct report *);

/* The document of --json, with '\n': 0 or -ENOMEM. Bytes of out and err that are no UTF-8 become
 * U+FFFD; the true ones then stand in stdout_base64 or stderr_base64. session may be NULL. */
int report_json(const struct report *, const struct buf *out, const struct buf *err,
                const char *session, struct buf *json);

/* What is left in NAME.result, without '\n': the value, written as Python does, and of a run that
 * was lost {"status", "message"}. 0 or -ENOMEM. */
int report_result(const struct report *, struct buf *json);

/* Appends bytes as a JSON string, what is no UTF-8 in them as U+FFFD. 0 or -ENOMEM; *exact
 * tells whether nothing was lost; may be NULL. */
int report_json_string(struct buf *json, const char *data, size_t len, bool *exact);

#endif
