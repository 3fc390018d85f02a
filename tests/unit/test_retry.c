/* http/retry.h: when another attempt is made, and after how long. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "http/retry.h"

#define NOW 1700000000 /* Tue, 14 Nov 2023 22:13:20 GMT */

static int64_t delay_of(enum http_retry rule, struct retry_outcome o, unsigned attempts,
                        int64_t left)
{
    return retry_delay(rule, &o, attempts, 4, left, 0, NOW);
}

static bool retried(enum http_retry rule, struct retry_outcome o)
{
    return delay_of(rule, o, 1, -1) >= 0;
}

static void retry_after_in_every_spelling(void **state)
{
    static const struct {
        const char *value;
        int64_t seconds;
    } cases[] = {
        {"0", 0},
        {"7", 7},
        {" 7 ", 7},
        {"\t12", 12},
        {"86400", 86400},
        {"86401", -1},
        {"99999999999999999999999", -1},
        {"Tue, 14 Nov 2023 22:13:50 GMT", 30},
        {"Tuesday, 14-Nov-23 22:13:50 GMT", 30},
        {"Tue Nov 14 22:13:50 2023", 30},
        {"Tue, 14 Nov 2023 22:13:20 GMT", 0},
        {"Mon, 13 Nov 2023 22:13:20 GMT", 0}, /* passed: now */
        {"Thu, 16 Nov 2023 22:13:20 GMT", -1},
        {"", -1},
        {"-1", -1},
        {"+5", -1},
        {"1.5", -1},
        {"7 seconds", -1},
        {"soon", -1},
        {"Tue, 14 Nov 2023 22:13:50 GMT and then a great deal more text than any date", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t seconds = retry_after_parse(cases[i].value, NOW);
        if (seconds != cases[i].seconds)
            fail_msg("\"%s\" gives %lld", cases[i].value, (long long)seconds);
    }
    assert_int_equal(retry_after_parse(NULL, NOW), -1);
}

/* Which ends of an attempt each rule retries. */
static void rules(void **state)
{
    static const struct {
        struct retry_outcome o;
        bool safe, unsent;
    } cases[] = {
        {{.status = 200, .sent = true}, false, false},
        {{.status = 304, .sent = true}, false, false},
        {{.status = 400, .sent = true}, false, false},
        {{.status = 401, .sent = true}, false, false},
        {{.status = 403, .sent = true}, false, false},
        {{.status = 404, .sent = true}, false, false},
        {{.status = 408, .sent = true}, true, false},
        {{.status = 409, .sent = true}, false, false},
        {{.status = 413, .sent = true}, false, false},
        {{.status = 429, .sent = true}, true, true},
        {{.status = 429, .sent = true, .retry_after = "1"}, true, true},
        {{.status = 500, .sent = true}, true, false},
        {{.status = 500, .sent = true, .retry_after = "1"}, true, false},
        {{.status = 501, .sent = true}, false, false},
        {{.status = 502, .sent = true}, true, false},
        {{.status = 503, .sent = true}, true, false},
        {{.status = 503, .sent = true, .retry_after = "never"}, true, false},
        {{.status = 503, .sent = true, .retry_after = "1"}, true, true},
        {{.status = 504, .sent = true}, true, false},
        {{.status = 504, .sent = true, .retry_after = "1"}, true, false},
        {{.err = -EHOSTUNREACH}, true, true},
        {{.err = -ETIMEDOUT}, true, true},
        {{.err = -EIO}, true, true},                         /* TLS failed */
        {{.err = -EHOSTUNREACH, .sent = true}, true, false}, /* refused, after one that was sent */
        {{.err = -ETIMEDOUT, .sent = true}, true, false},
        {{.err = -EIO, .sent = true}, true, false},
        {{.err = -EPROTO}, false, false},
        {{.err = -EACCES}, false, false},
        {{.err = -EFBIG, .sent = true}, false, false},
        {{.err = -ENOMEM}, false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct retry_outcome *o = &cases[i].o;
        if (retried(HTTP_RETRY_SAFE, *o) != cases[i].safe ||
            retried(HTTP_RETRY_UNSENT, *o) != cases[i].unsent || retried(HTTP_RETRY_NEVER, *o))
            fail_msg("err %d, status %d, sent %d", o->err, o->status, o->sent);
    }
}

static void backoff_doubles_with_jitter(void **state)
{
    static const struct retry_outcome o = {.status = 500, .sent = true};
    int64_t middle = 400;
    for (unsigned attempt = 1; attempt <= 12; attempt++) {
        int64_t least = INT64_MAX, most = 0;
        for (uint32_t random = 0; random < 30000; random += 7) {
            int64_t d = retry_delay(HTTP_RETRY_SAFE, &o, attempt, 20, -1, random, NOW);
            least = d < least ? d : least;
            most = d > most ? d : most;
        }
        assert_int_equal(least, middle * 3 / 4);
        assert_in_range(most, middle * 5 / 4 - 7, middle * 5 / 4);
        middle = middle * 2 > 20000 ? 20000 : middle * 2;
    }
    assert_in_range(
        retry_delay(HTTP_RETRY_SAFE, &o, UINT32_MAX - 1, UINT32_MAX, -1, UINT32_MAX, NOW), 15000,
        25000);
}

static void retry_after_goes_before_backoff(void **state)
{
    const struct retry_outcome o = {.status = 429, .retry_after = "3"};
    assert_int_equal(delay_of(HTTP_RETRY_SAFE, o, 1, -1), 3000);
    assert_int_equal(delay_of(HTTP_RETRY_SAFE, o, 4, -1), 3000);
    /* of a broken attempt there is no header */
    const struct retry_outcome broken = {.err = -EIO, .retry_after = "3"};
    assert_int_equal(delay_of(HTTP_RETRY_SAFE, broken, 1, -1), 300);
}

static void ends(void **state)
{
    const struct retry_outcome o = {.status = 503, .retry_after = "2"};
    assert_int_equal(delay_of(HTTP_RETRY_SAFE, o, 4, -1), 2000);
    assert_int_equal(delay_of(HTTP_RETRY_SAFE, o, 5, -1), -1); /* retries used up */
    assert_int_equal(retry_delay(HTTP_RETRY_SAFE, &o, 1, 0, -1, 0, NOW), -1);
    /* not when the deadline would be over by then */
    assert_int_equal(delay_of(HTTP_RETRY_SAFE, o, 1, 2001), 2000);
    assert_int_equal(delay_of(HTTP_RETRY_SAFE, o, 1, 2000), -1);
    assert_int_equal(delay_of(HTTP_RETRY_SAFE, o, 1, 0), -1);
    const struct retry_outcome now = {.status = 503, .retry_after = "0"};
    assert_int_equal(delay_of(HTTP_RETRY_SAFE, now, 1, 1), 0);
    assert_int_equal(delay_of(HTTP_RETRY_SAFE, now, 1, 0), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(retry_after_in_every_spelling),
        cmocka_unit_test(rules),
        cmocka_unit_test(backoff_doubles_with_jitter),
        cmocka_unit_test(retry_after_goes_before_backoff),
        cmocka_unit_test(ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
