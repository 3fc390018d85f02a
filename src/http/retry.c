#include "http/retry.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

enum {
    FIRST_DELAY_MS = 400,
    LONGEST_DELAY_MS = 20000,
    LONGEST_RETRY_AFTER_S = 24 * 3600,
};

int64_t retry_after_parse(const char *value, time_t now)
{
    if (!value)
        return -1;
    value += strspn(value, " \t");
    if (isdigit((unsigned char)*value)) {
        char *end;
        errno = 0;
        long long seconds = strtoll(value, &end, 10);
        end += strspn(end, " \t");
        return *end || errno || seconds > LONGEST_RETRY_AFTER_S ? -1 : seconds;
    }
    if (strlen(value) > 64)
        return -1;
    time_t date = curl_getdate(value, NULL);
    if (date < 0 || date - now > LONGEST_RETRY_AFTER_S)
        return -1;
    return date > now ? date - now : 0;
}

static bool status_is_passing(int status)
{
    return status == 408 || status == 429 || status == 500 || (status >= 502 && status <= 504);
}

/* Whether another attempt can do no harm and may help. */
static bool may_retry(enum http_retry rule, const struct retry_outcome *o, bool told_when)
{
    bool broken = o->err == -EIO || o->err == -ETIMEDOUT || o->err == -EHOSTUNREACH;
    switch (rule) {
    case HTTP_RETRY_SAFE:
        return o->err ? broken : status_is_passing(o->status);
    case HTTP_RETRY_UNSENT:
        return o->err ? broken && !o->sent : o->status == 429 || (o->status == 503 && told_when);
    case HTTP_RETRY_NEVER:
        break;
    }
    return false;
}

int64_t retry_delay(enum http_retry rule, const struct retry_outcome *o, unsigned attempts,
                    unsigned retries, int64_t left_ms, uint32_t random, time_t now)
{
    int64_t after_s = o->err ? -1 : retry_after_parse(o->retry_after, now);
    if (attempts > retries || left_ms == 0 || !may_retry(rule, o, after_s >= 0))
        return -1;
    int64_t delay = FIRST_DELAY_MS;
    for (unsigned i = 1; i < attempts && delay < LONGEST_DELAY_MS; i++)
        delay *= 2;
    if (delay > LONGEST_DELAY_MS)
        delay = LONGEST_DELAY_MS;
    delay = delay * 3 / 4 + (int64_t)(random % (uint32_t)(delay / 2 + 1));
    if (after_s >= 0)
        delay = after_s * 1000;
    return left_ms >= 0 && delay >= left_ms ? -1 : delay;
}
