/* The retry rules, apart from any transfer, so that they can be tested alone. */
#ifndef ACAFS_HTTP_RETRY_H
#define ACAFS_HTTP_RETRY_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "http/http.h"

/* How one attempt ended. */
struct retry_outcome {
    int err;                 /* as in http_result; 0: answered */
    int status;
    bool sent;               /* the server may have acted upon it */
    const char *retry_after; /* the header's value or NULL */
};

/* Milliseconds to wait before the next attempt (attempts counts those made, from 1), or -1
 * for "do not". Honours Retry-After (seconds or an HTTP date); otherwise 0.4 s doubled per
 * attempt up to 20 s, with jitter of +-25 % taken from `random` (any 32 bits). left_ms: until
 * the deadline, or -1 for none; an attempt that would begin after it is not waited for. */
int64_t retry_delay(enum http_retry, const struct retry_outcome *, unsigned attempts,
                    unsigned retries, int64_t left_ms, uint32_t random, time_t now);

/* Retry-After: seconds from `now`, or -1 when absent, nonsense or more than a day. */
int64_t retry_after_parse(const char *value, time_t now);

#endif
