/* The parsers of what comes to acapool from outside. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "acapool/form.h"
#include "acapool/wire.h"

/* --- targets */

static void test_target(void **state)
{
    struct target t;
    assert_int_equal(target_parse("/files/a%20b%2Fc/content?path=x%2fy+z&Identifier=%41&flag", &t),
                     0);
    assert_int_equal(t.count, 3);
    assert_string_equal(t.segment[0], "files");
    assert_string_equal(t.segment[1], "a b/c");
    assert_string_equal(t.segment[2], "content");
    assert_string_equal(target_parameter(&t, "path"), "x/y z");
    assert_string_equal(target_parameter(&t, "identifier"), "A");
    assert_string_equal(target_parameter(&t, "flag"), "");
    assert_null(target_parameter(&t, "other"));
    free(t.storage);
}

static void test_target_decodes_once(void **state)
{
    struct target t;
    assert_int_equal(target_parse("/%2541+b?x=%252B%2b", &t), 0);
    assert_string_equal(t.segment[0], "%41+b");
    assert_string_equal(target_parameter(&t, "x"), "%2B+");
    free(t.storage);
}

static void test_target_prefix(void **state)
{
    static const char *const same[] = {"/files", "//files/",
                                       "/subscriptions/s/resourceGroups/g/sessionPools/p/files",
                                       "/Subscriptions/s/RESOURCEGROUPS/g/sessionpools/p//files/"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct target t;
        assert_int_equal(target_parse(same[i], &t), 0);
        assert_int_equal(t.count, 1);
        assert_string_equal(t.segment[0], "files");
        free(t.storage);
    }
    struct target t;
    assert_int_equal(target_parse("/subscriptions/s/resourceGroups/g/pools/p/files", &t), 0);
    assert_int_equal(t.count, 7);
    free(t.storage);
}

static void test_target_refuses(void **state)
{
    static const char *const bad[] = {"",       "files",  "/%",      "/%4",     "/%zz",
                                      "/a%00b", "/?a=%0", "/?%gg=1", "/?a=%00", "http://x/"};
    struct target t;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(target_parse(bad[i], &t), -EINVAL);
    char deep[2 * TARGET_SEGMENTS + 3];
    for (size_t i = 0; i < sizeof deep - 1; i++)
        deep[i] = i % 2 ? 'a' : '/';
    deep[sizeof deep - 1] = '\0';
    assert_int_equal(target_parse(deep, &t), -E2BIG);
    char wide[3 + 2 * (TARGET_PARAMETERS + 1)] = "/?";
    for (int i = 0; i <= TARGET_PARAMETERS; i++)
        strcat(wide, "a&");
    assert_int_equal(target_parse(wide, &t), -E2BIG);
}

/* --- names */

static void test_names(void **state)
{
    char longest[257];
    memset(longest, 'n', sizeof longest);
    longest[255] = '\0';
    const char *good[] = {
        "a",   "a b",  "a.b.c", ".hidden", "-_@$&=;,#%^()", "\xc3\xa9", "\xe6\x97\xa5\xe6\x9c\xac",
        "...", longest};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(wire_file_name_ok(good[i]));
    const char *bad[] = {"",  ".",  "..", "a/b", "a+b",  "a~",   "a!",       "'",           "\"",
                         "[", "]",  "{",  "}",   ":",    "*",    "?",        "<",           ">",
                         "|", "\\", "`",  "a\n", "\x7f", "\xff", "\xc2\x85", "\xed\xa0\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(wire_file_name_ok(bad[i]));
    longest[255] = 'n';
    longest[256] = '\0';
    assert_false(wire_file_name_ok(longest));
    assert_false(wire_directory_ok(longest));
}

static void test_directories(void **state)
{
    static const char *const good[] = {"", "/", "a", "a/b c/d", "/a//b/", "\xe6\x97\xa5/x"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(wire_directory_ok(good[i]));
    static const char *const bad[] = {".", "..", "a/../b", ".git", "v1.2", "a+b", "a\\b", "a\x01"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(wire_directory_ok(bad[i]));
}

static void test_identifiers(void **state)
{
    assert_true(wire_identifier_ok("test"));
    assert_true(wire_identifier_ok("a|b-c&d^e%f$g#h(i){j}[k];<l>_"));
    assert_false(wire_identifier_ok("abc"));
    assert_false(wire_identifier_ok("a b c"));
    assert_false(wire_identifier_ok("a/b/c"));
    assert_false(wire_identifier_ok("ab\xc3\xa9"));
    assert_true(wire_operation_id_ok("3f-a_b.c:d"));
    assert_false(wire_operation_id_ok(""));
    assert_false(wire_operation_id_ok("a b"));
    assert_false(wire_operation_id_ok("a\r\nb"));
    assert_string_equal(wire_base_name("/mnt/data/x"), "x");
    assert_string_equal(wire_base_name("x"), "x");
    assert_string_equal(wire_base_name("x/"), "");
}

static void test_bearer(void **state)
{
    assert_string_equal(wire_bearer("Bearer abc"), "abc");
    assert_string_equal(wire_bearer("bEARER   abc"), "abc");
    assert_null(wire_bearer("Basic abc"));
    assert_null(wire_bearer("Bearerabc"));
    assert_null(wire_bearer(NULL));
}

/* --- ranges and dates */

static void expect_range(const char *header, uint64_t size, enum wire_range kind, uint64_t first,
                         uint64_t last)
{
    uint64_t from = 0, to = 0;
    assert_int_equal(wire_range(header, size, &from, &to), kind);
    if (kind == RANGE_PART) {
        assert_int_equal(from, first);
        assert_int_equal(to, last);
    }
}

static void test_ranges(void **state)
{
    expect_range("bytes=0-0", 10, RANGE_PART, 0, 0);
    expect_range("BYTES=2-", 10, RANGE_PART, 2, 9);
    expect_range("bytes=-4", 10, RANGE_PART, 6, 9);
    expect_range("bytes=-40", 10, RANGE_PART, 0, 9);
    expect_range("bytes=3-18446744073709551615", 10, RANGE_PART, 3, 9);
    expect_range("bytes=10-", 10, RANGE_UNSATISFIABLE, 0, 0);
    expect_range("bytes=-0", 10, RANGE_UNSATISFIABLE, 0, 0);
    static const char *const whole[] = {NULL,
                                        "",
                                        "bytes",
                                        "bytes=",
                                        "bytes=-",
                                        "bytes=5-4",
                                        "bytes=1-2,3-4",
                                        "bytes=1 -2",
                                        "bytes=+1-2",
                                        "bytes=1-+2",
                                        "bytes=0x1-",
                                        "rows=1-2",
                                        "bytes=18446744073709551616-"};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        expect_range(whole[i], 10, RANGE_WHOLE, 0, 0);
    expect_range("bytes=0-", 0, RANGE_WHOLE, 0, 0);
}

static void test_dates(void **state)
{
    static const char *const same[] = {"Sun, 06 Nov 1994 08:49:37 GMT",
                                       "Sunday, 06-Nov-94 08:49:37 GMT",
                                       "Sun Nov  6 08:49:37 1994"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        time_t date = 0;
        assert_int_equal(wire_parse_date(same[i], &date), 0);
        assert_int_equal(date, 784111777);
    }
    char text[40];
    wire_format_date(784111777, text);
    assert_string_equal(text, same[0]);
    time_t date;
    assert_int_equal(wire_parse_date("yesterday", &date), -EINVAL);
    assert_int_equal(wire_parse_date("Sun, 06 Nov 1994 08:49:37 GMT+1", &date), -EINVAL);
    wire_format_time(&(struct timespec){784111777, 12345678}, 9, text);
    assert_string_equal(text, "1994-11-06T08:49:37.012345678Z");
    wire_format_time(&(struct timespec){784111777, 12345678}, 7, text);
    assert_string_equal(text, "1994-11-06T08:49:37.0123456Z");
}

/* --- output */

static void expect_clean(const char *in, size_t len, size_t limit, const char *want)
{
    struct buf out = {0};
    assert_int_equal(wire_clean(&out, in, len, limit), 0);
    assert_string_equal(out.data ? out.data : "", want);
    buf_free(&out);
}

static void test_clean(void **state)
{
    expect_clean("abc", 3, 10, "abc");
    expect_clean("abc", 3, 2, "ab");
    expect_clean("abc", 3, 0, "");
    expect_clean("\xc3\xa9\xc3\xa9", 4, 1, "\xc3\xa9");
    expect_clean("a\xff\xc3", 3, 9, "a\xef\xbf\xbd\xef\xbf\xbd");
    expect_clean("\xe2\x82\xac", 3, 9, "\xe2\x82\xac");
    expect_clean("\xe2\x82", 2, 9, "\xef\xbf\xbd\xef\xbf\xbd");
    expect_clean("\xed\xa0\x80", 3, 1, "\xef\xbf\xbd");
}

/* --- forms */

struct seen {
    struct buf text; /* name|file name|data per part */
};

static void on_part(void *arg, const char *name, const char *file_name)
{
    struct seen *s = arg;
    buf_addf(&s->text, "<%s|%s>", name, file_name ? file_name : "-");
}

static void on_data(void *arg, const void *data, size_t len)
{
    struct seen *s = arg;
    buf_add(&s->text, data, len);
}

/* Feeds body in pieces of every size, and wants the same each time. */
static void expect_form(const char *type, const char *body, const char *want)
{
    size_t len = strlen(body);
    for (size_t piece = 1; piece <= len; piece++) {
        struct seen seen = {{0}};
        struct form_handler handler = {on_part, on_data, &seen};
        struct form form;
        assert_int_equal(form_init(&form, type, &handler), 0);
        for (size_t at = 0; at < len; at += piece)
            assert_int_equal(form_feed(&form, body + at, piece < len - at ? piece : len - at), 0);
        assert_true(form_complete(&form));
        assert_string_equal(seen.text.data ? seen.text.data : "", want);
        form_free(&form);
        buf_free(&seen.text);
    }
}

static void test_forms(void **state)
{
    const char *type = "multipart/form-data; boundary=XX";
    expect_form(type,
                "--XX\r\nContent-Disposition: form-data; name=\"file\"; "
                "filename=\"a\"\r\n\r\ndata\r\n--XX--\r\n",
                "<file|a>data");
    expect_form(
        type,
        "before\r\n--XX  \r\nX: y\r\ncontent-disposition:form-data;name=f\r\n\r\n\r\n--XX--after",
        "<f|->");
    expect_form(type, "--XX\r\n\r\nbare\r\n--XX\r\n\r\n--X\r\n--XY\r\n-\r\n--XX--",
                "<|->bare<|->--X\r\n--XY\r\n-");
    expect_form(type, "--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n--XX--", "<a|->");
    expect_form("Multipart/Form-Data; charset=x; boundary=\"a b\"",
                "--a b\r\nContent-Disposition: form-data; filename*=utf-8''%C3%A9; name=n; "
                "filename=x\r\n\r\n1\r\n--a b--",
                "<n|\xc3\xa9>1");
}

static void test_forms_that_are_none(void **state)
{
    struct form form;
    struct seen nothing = {{0}};
    struct form_handler handler = {on_part, on_data, &nothing};
    static const char *const bad[] = {
        NULL,
        "",
        "text/plain",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary="
        "12345678901234567890123456789012345678901234567890123456789012345678901"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(form_init(&form, bad[i], &handler), -EINVAL);
    struct seen seen = {{0}};
    handler.arg = &seen;
    assert_int_equal(form_init(&form, "multipart/form-data; boundary=XX", &handler), 0);
    assert_int_equal(form_feed(&form, "--XXgarbage", 11), -EBADMSG);
    form_free(&form);
    assert_int_equal(form_init(&form, "multipart/form-data; boundary=XX", &handler), 0);
    assert_int_equal(form_feed(&form, "--XX\r\n\r\nhalf\r\n--XX", 18), 0);
    assert_false(form_complete(&form));
    form_free(&form);
    buf_free(&seen.text);
}

static void test_form_headers_have_a_limit(void **state)
{
    struct seen seen = {{0}};
    struct form_handler handler = {on_part, on_data, &seen};
    struct form form;
    assert_int_equal(form_init(&form, "multipart/form-data; boundary=XX", &handler), 0);
    assert_int_equal(form_feed(&form, "--XX\r\nA: ", 9), 0);
    int err = 0;
    for (int i = 0; i < 20 && !err; i++) {
        char filler[1024];
        memset(filler, 'x', sizeof filler);
        err = form_feed(&form, filler, sizeof filler);
    }
    assert_int_equal(err, -EBADMSG);
    form_free(&form);
}

static void expect_parameter(const char *header, const char *want)
{
    struct buf out = {0};
    assert_int_equal(form_parameter(header, "filename", &out), want != NULL);
    if (want)
        assert_string_equal(out.data ? out.data : "", want);
    buf_free(&out);
}

static void test_parameters(void **state)
{
    expect_parameter("form-data; filename=\"a;b\"", "a;b");
    expect_parameter("form-data; filename=a; x=y", "a");
    expect_parameter("form-data; FileName = \"a\"", NULL);
    expect_parameter("form-data; filename=\"a\\\"b\"", "a\"b");
    expect_parameter("form-data; filename=\"C:\\dir\\x\"", "C:\\dir\\x");
    expect_parameter("form-data; filename=\"\"", "");
    expect_parameter("form-data; filename=\"open", "open");
    expect_parameter("form-data; filename=a; filename=b", "a");
    expect_parameter("form-data; filename=a; filename*=UTF-8'en'%e2%82%ac", "\xe2\x82\xac");
    expect_parameter("form-data; filename*=utf-8''x; filename=a", "x");
    expect_parameter("form-data; filename=a; filename*=iso-8859-1''%e9", "a");
    expect_parameter("form-data; filename=a; filename*=utf-8''%ff", "a");
    expect_parameter("form-data; filename=a; filename*=utf-8''%00", "a");
    expect_parameter("form-data; xfilename=a; filenames=b", NULL);
    expect_parameter("form-data; name=\"; filename=x\"", NULL);
    expect_parameter("filename=a", NULL);
    expect_parameter("form-data;;;", NULL);
    expect_parameter("", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_target),
        cmocka_unit_test(test_target_decodes_once),
        cmocka_unit_test(test_target_prefix),
        cmocka_unit_test(test_target_refuses),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_identifiers),
        cmocka_unit_test(test_bearer),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_clean),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_forms_that_are_none),
        cmocka_unit_test(test_form_headers_have_a_limit),
        cmocka_unit_test(test_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
