#include "http/meter.h"

static const int64_t bounds[HTTP_BUCKETS] = {5,   10,   25,   50,   100,   250,
                                             500, 1000, 2500, 5000, 30000, 240000};

const char *http_kind_name(enum http_kind kind)
{
    static const char *const names[HTTP_KINDS] = {
        [HTTP_KIND_OTHER] = "other",     [HTTP_KIND_LIST] = "list",
        [HTTP_KIND_STAT] = "stat",       [HTTP_KIND_DOWNLOAD] = "download",
        [HTTP_KIND_UPLOAD] = "upload",   [HTTP_KIND_DELETE] = "delete",
        [HTTP_KIND_EXECUTE] = "execute", [HTTP_KIND_SESSION] = "session",
        [HTTP_KIND_TOKEN] = "token",
    };
    return names[kind];
}

const char *http_outcome_name(enum http_outcome outcome)
{
    static const char *const names[HTTP_OUTCOMES] = {
        [HTTP_OUTCOME_OK] = "ok",
        [HTTP_OUTCOME_NOT_FOUND] = "not_found",
        [HTTP_OUTCOME_THROTTLED] = "throttled",
        [HTTP_OUTCOME_REFUSED] = "refused",
        [HTTP_OUTCOME_FAILED] = "failed",
        [HTTP_OUTCOME_BROKEN] = "broken",
    };
    return names[outcome];
}

int64_t http_bucket_bound(unsigned bucket)
{
    return bounds[bucket];
}

static enum http_outcome outcome_of(int err, int status)
{
    if (err)
        return HTTP_OUTCOME_BROKEN;
    if (status < 400)
        return HTTP_OUTCOME_OK;
    if (status >= 500)
        return HTTP_OUTCOME_FAILED;
    return status == 404   ? HTTP_OUTCOME_NOT_FOUND
           : status == 429 ? HTTP_OUTCOME_THROTTLED
                           : HTTP_OUTCOME_REFUSED;
}

void http_meter_count(struct http_meter *m, int err, int status, int64_t milliseconds)
{
    unsigned bucket = 0;
    while (bucket < HTTP_BUCKETS && milliseconds > bounds[bucket])
        bucket++;
    m->buckets[bucket]++;
    m->outcomes[outcome_of(err, status)]++;
    m->milliseconds += milliseconds > 0 ? (uint64_t)milliseconds : 0;
}
