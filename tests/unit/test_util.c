/* util/: buffers, JSON access, encodings, times. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "util/buf.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

static void buffers_grow_and_shrink(void **state)
{
    _cleanup_buf_ struct buf b = {0};
    for (int i = 0; i < 1000; i++)
        assert_int_equal(buf_addf(&b, "%d,", i), 0);
    assert_int_equal(b.len, strlen(b.data));
    buf_consume(&b, 2);
    assert_memory_equal(b.data, "1,2,", 4);
}

static void base64_round_trips_and_refuses(void **state)
{
    for (size_t len = 0; len < 40; len++) {
        unsigned char bytes[40];
        memset(bytes, (int)(len * 37), len);
        _cleanup_buf_ struct buf text = {0}, back = {0};
        text_base64(&text, bytes, len);
        assert_int_equal(text_unbase64(&back, text.data ? text.data : "", text.len), 0);
        assert_int_equal(back.len, len);
        if (len)
            assert_memory_equal(back.data, bytes, len);
    }
    static const char *const bad[] = {"***",   "a",     "ab",   "abc", "ab=c",
                                      "abcd=", "ab==x", "=abc", "YR=="};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        _cleanup_buf_ struct buf out = {0};
        assert_int_equal(text_unbase64(&out, bad[i], strlen(bad[i])), -EINVAL);
    }
}

static void times_of_every_spelling(void **state)
{
    struct timespec t;
    assert_int_equal(text_parse_time("2024-05-02T07:21:07.9922617Z", &t), 0);
    assert_int_equal(t.tv_sec, 1714634467);
    assert_int_equal(t.tv_nsec, 992261700);
    assert_int_equal(text_parse_time("2024-11-02T14:33:05+02:00", &t), 0);
    assert_int_equal(t.tv_sec, 1730550785);
    assert_int_equal(text_parse_time("1969-12-31T23:59:59.5Z", &t), 0);
    assert_int_equal(t.tv_sec, -1);
    assert_int_equal(t.tv_nsec, 500000000);
    assert_int_equal(text_parse_time("yesterday", &t), -EINVAL);
    assert_int_equal(text_parse_time("2024-13-02T07:21:07Z", &t), -EINVAL);
    assert_int_equal(text_parse_time("2024-05-02T07:21:07Zx", &t), -EINVAL);
}

static void utf8_is_checked(void **state)
{
    assert_true(text_is_utf8("\xf0\x9f\x8e\x89 ok", 7));
    assert_false(text_is_utf8("\xc0\x80", 2));
    assert_false(text_is_utf8("\xed\xa0\x80", 3));
    assert_false(text_is_utf8("\xf4\x90\x80\x80", 4));
    assert_false(text_is_utf8("\xe2\x82", 2));
    assert_false(text_is_utf8("\x80", 1));
}

static void json_is_strict_at_the_border(void **state)
{
    const char deep[] = "[[[[1]]]]";
    _cleanup_json_ cJSON *json = json_parse(deep, strlen(deep));
    assert_non_null(json);
    assert_null(json_parse("{} x", 4));
    assert_null(json_parse("", 0));
    char many[1000];
    memset(many, '[', sizeof many);
    assert_null(json_parse(many, sizeof many));
    const char nul[] = "{\"n\":\"a\\u0000b\",\"m\":\"\\\\u0000\"}";
    _cleanup_json_ cJSON *named = json_parse(nul, strlen(nul));
    assert_string_equal(json_string(named, "n"), "a\xef\xbf\xbd"
                                                 "b");
    assert_string_equal(json_string(named, "m"), "\\u0000");
    assert_true(json_has_nul(nul, strlen(nul)));
    assert_false(json_has_nul("[\"\\\\u0000\"]", 11));
    assert_null(json_string(named, "absent"));
    assert_null(json_string(NULL, "n"));
}

static void sizes_with_units(void **state)
{
    uint64_t n;
    assert_int_equal(text_parse_size("2G", &n), 0);
    assert_int_equal(n, 2147483648u);
    assert_int_equal(text_parse_size("512", &n), 0);
    assert_int_equal(text_parse_size("-1", &n), -EINVAL);
    assert_int_equal(text_parse_size("99999999999T", &n), -EINVAL);
    assert_int_equal(text_parse_size("2X", &n), -EINVAL);
}

static void text_for_terminals(void **state)
{
    _cleanup_buf_ struct buf out = {0};
    text_printable(&out, "a\x1b[2Jb\r\nc", 9, 100);
    assert_string_equal(out.data, "a?[2Jb c");
    out.len = 0;
    text_printable(&out,
                   "\xc2\x9b"
                   "2J\xc2\xa0\xc3\x9b",
                   8, 100);
    assert_string_equal(out.data, "?2J\xc2\xa0\xc3\x9b");
    static const struct {
        size_t limit;
        const char *shown;
    } cut[] = {{1, "a..."},
               {2, "a..."},
               {3, "a\xc3\xa9..."},
               {4, "a\xc3\xa9..."},
               {5, "a\xc3\xa9..."},
               {6, "a\xc3\xa9..."},
               {7, "a\xc3\xa9\xf0\x9f\x98\x80"},
               {0, "..."}};
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
        out.len = 0;
        text_printable(&out, "a\xc3\xa9\xf0\x9f\x98\x80", 7, cut[i].limit);
        assert_string_equal(out.data, cut[i].shown);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffers_grow_and_shrink),
        cmocka_unit_test(base64_round_trips_and_refuses),
        cmocka_unit_test(times_of_every_spelling),
        cmocka_unit_test(utf8_is_checked),
        cmocka_unit_test(json_is_strict_at_the_border),
        cmocka_unit_test(sizes_with_units),
        cmocka_unit_test(text_for_terminals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
