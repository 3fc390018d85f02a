/* What became of requests, by kind: for metrics. */
#ifndef ACAFS_HTTP_METER_H
#define ACAFS_HTTP_METER_H

#include <stdint.h>

enum http_kind {
    HTTP_KIND_OTHER,
    HTTP_KIND_LIST,
    HTTP_KIND_STAT,
    HTTP_KIND_DOWNLOAD,
    HTTP_KIND_UPLOAD,
    HTTP_KIND_DELETE,
    HTTP_KIND_EXECUTE,
    HTTP_KIND_SESSION,
    HTTP_KIND_TOKEN,
    HTTP_KINDS,
};
enum http_outcome {
    HTTP_OUTCOME_OK,        /* below 400 */
    HTTP_OUTCOME_NOT_FOUND, /* 404: often just an answer */
    HTTP_OUTCOME_THROTTLED, /* 429 */
    HTTP_OUTCOME_REFUSED,   /* other 4xx */
    HTTP_OUTCOME_FAILED,    /* 5xx */
    HTTP_OUTCOME_BROKEN,    /* no answer */
    HTTP_OUTCOMES,
};
enum { HTTP_BUCKETS = 12 };

/* Calls that are over, all attempts of one together. */
struct http_meter {
    uint64_t outcomes[HTTP_OUTCOMES];
    uint64_t buckets[HTTP_BUCKETS + 1]; /* how many took no longer than the bound; the last: more */
    uint64_t milliseconds;              /* in all */
};

const char *http_kind_name(enum http_kind);
const char *http_outcome_name(enum http_outcome);
/* The upper bound of a bucket in milliseconds. */
int64_t http_bucket_bound(unsigned bucket);

/* err: -errno when there was no answer, else status counts. */
void http_meter_count(struct http_meter *, int err, int status, int64_t milliseconds);

#endif
