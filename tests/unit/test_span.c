/* util/span: JSON by the letter, and its parts as they stand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "util/span.h"

static bool check(const char *text, size_t *wrong)
{
    struct span value;
    /* On the heap, without the NUL: a step too far is seen by the sanitizers. */
    size_t len = strlen(text);
    char *copy = malloc(len ? len : 1);
    memcpy(copy, text, len);
    bool good = span_check(copy, len, SPAN_DEPTH, &value, wrong);
    free(copy);
    return good;
}

static void takes_what_the_standard_allows(void **state)
{
    static const char *const good[] = {
        "{}",
        "[]",
        "null",
        " true\n",
        "false",
        "0",
        "-0",
        "-0.5e-10",
        "1E+5",
        "12345678901234567890",
        "\"\"",
        "\"\\u00e9\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "\"\u00e9\"",
        "[1, [2, {\"a\": []}]]",
        "{\"a\" : 1 , \"\" : {} }",
        "\t[\r\n]",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(check(good[i], NULL));
}

static void refuses_the_rest_and_says_where(void **state)
{
    static const struct {
        const char *text;
        size_t wrong;
    } bad[] = {
        {"", 0},
        {" ", 1},
        {"[1,]", 3},
        {"{,}", 1},
        {"{\"a\"}", 4},
        {"{\"a\":}", 5},
        {"{a:1}", 1},
        {"[1 2]", 3},
        {"01", 1},
        {"1.", 2},
        {".5", 0},
        {"+1", 0},
        {"1e", 2},
        {"-", 1},
        {"NaN", 0},
        {"nul", 3},
        {"nulL", 3},
        {"'a'", 0},
        {"\"a", 2},
        {"\"\\x\"", 2},
        {"\"\\u12g4\"", 5},
        {"\"a\nb\"", 2},
        {"[}", 1},
        {"[] x", 3},
        {"\"\xff\"", 1},
        {"[\"a\", \"\xc3\"]", 7},
        {"\"\xed\xa0\x80\"", 1},
        {"[1", 2},
        {"{\"a\":1", 6},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t wrong = 99;
        assert_false(check(bad[i].text, &wrong));
        assert_int_equal(wrong, bad[i].wrong);
    }
}

static void depth_is_bounded(void **state)
{
    char text[400] = "";
    memset(text, '[', 128);
    memset(text + 128, ']', 128);
    assert_true(check(text, NULL));
    memset(text, '[', 129);
    memset(text + 129, ']', 129);
    assert_false(check(text, NULL));
}

static struct span parse(const char *text)
{
    struct span value;
    assert_true(span_check(text, strlen(text), SPAN_DEPTH, &value, NULL));
    return value;
}

static void assert_span(struct span s, const char *text)
{
    assert_int_equal(s.len, strlen(text));
    assert_memory_equal(s.at, text, s.len);
}

static void members_are_found(void **state)
{
    struct span o =
        parse(" {\"a\": {\"b\": \"}]\\\"\", \"c\":[1,2]} , \"n\":-1.50e3,\"\\u006eo\": null,"
              "\"t\" : true, \"n\": 12345678901234567890 }");
    assert_true(span_is(o, '{'));
    assert_span(span_member(span_member(o, "a"), "b"), "\"}]\\\"\"");
    assert_span(span_member(span_member(o, "a"), "c"), "[1,2]");
    assert_span(span_member(o, "n"), "12345678901234567890"); /* the last one of a name */
    assert_span(span_member(o, "no"), "null");
    assert_span(span_member(o, "t"), "true");
    assert_null(span_member(o, "b").at);
    assert_null(span_member(o, "").at);
    assert_null(span_member(parse("{}"), "a").at);
    assert_null(span_member(parse("[1]"), "a").at);
    assert_null(span_member((struct span){0}, "a").at);
}

static void arrays_are_gone_through(void **state)
{
    static const char *const want[] = {"1", "\"a]\"", "[ 2 , 3 ]", "{\"b\":[]}", "null", "-1e5"};
    struct span array = parse("[1 ,\"a]\",\n[ 2 , 3 ],{\"b\":[]}, null,-1e5 ]"), item = {0};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_true(span_next(array, &item));
        assert_span(item, want[i]);
    }
    assert_false(span_next(array, &item));
    item = (struct span){0};
    assert_false(span_next(parse("[ ]"), &item));
    assert_false(span_next(parse("{}"), &item));
    assert_false(span_next((struct span){0}, &item));
}

static void strings_are_decoded(void **state)
{
    static const char *const cases[][2] = {
        {"\"\"", ""},
        {"\"a\\n\\u00e9\\ud83d\\ude00\"", "a\n\u00e9\U0001f600"},
        {"\"a\\u0000b\"", "a\ufffdb"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = span_string(parse(cases[i][0]));
        assert_string_equal(text, cases[i][1]);
        free(text);
    }
    assert_null(span_string(parse("1")));
    assert_null(span_string((struct span){0}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_what_the_standard_allows),
        cmocka_unit_test(refuses_the_rest_and_says_where),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(members_are_found),
        cmocka_unit_test(arrays_are_gone_through),
        cmocka_unit_test(strings_are_decoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
