/* acarun/notebook: reading, outputs, and writing with every other byte as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>

#include <cmocka.h>

#include "acarun/notebook.h"
#include "util/cleanup.h"
#include "util/json.h"

static const char two_cells[] =
    "{\"nbformat\":4,\"n\":12345678901234567890,\"cells\":[\n"
    "{\"outputs\":[1,{\"]\":2}],\"x\":1.0,\"cell_type\":\"code\",\"execution_count\":5,"
    "\"source\":[\"a\\n\",\"b\"]},\n"
    "{\"cell_type\":\"markdown\",\"source\":\"m\"},"
    "{\"metadata\":{\"tags\":[\"raises-exception\"]},\"source\":\"\",\"cell_type\":\"code\"}]} ";

static void cells_are_found(void **state)
{
    struct notebook n;
    char *why;
    assert_int_equal(notebook_parse(two_cells, strlen(two_cells), &n, &why), 0);
    assert_int_equal(n.cell_count, 3);
    assert_string_equal(n.cells[0].source, "a\nb");
    assert_false(n.cells[0].may_fail);
    assert_null(n.cells[1].source);
    assert_string_equal(n.cells[2].source, "");
    assert_true(n.cells[2].may_fail);
    notebook_free(&n);
}

static void only_outputs_and_counts_change(void **state)
{
    static const char want[] =
        "{\"nbformat\":4,\"n\":12345678901234567890,\"cells\":[\n"
        "{\"outputs\":[\n    {}\n   ],\"x\":1.0,\"cell_type\":\"code\",\"execution_count\":12,"
        "\"source\":[\"a\\n\",\"b\"]},\n"
        "{\"cell_type\":\"markdown\",\"source\":\"m\"},"
        "{\n   \"execution_count\": null,\n   \"outputs\": [],"
        "\"metadata\":{\"tags\":[\"raises-exception\"]},\"source\":\"\",\"cell_type\":\"code\"}]} ";
    struct notebook n;
    char *why;
    _cleanup_buf_ struct buf out = {0};
    assert_int_equal(notebook_parse(two_cells, strlen(two_cells), &n, &why), 0);
    n.cells[0].count = 12;
    buf_adds(&n.cells[0].outputs, "    {}");
    assert_int_equal(notebook_write(&n, &out), 0);
    assert_string_equal(out.data, want);
    notebook_free(&n);
}

static void others_are_refused(void **state)
{
    static const char *const bad[][2] = {
        {"", "line 1: this is no JSON"},
        {"{\"nbformat\":4,\n\"cells\":[}", "line 2: this is no JSON"},
        {"[]", "this is no notebook"},
        {"{\"nbformat\":3}",
         "another version of the notebook format than 4: open it in Jupyter and save it"},
        {"{\"nbformat\":4}", "it has no cells"},
        {"{\"nbformat\":4,\"cells\":[[]]}", "a cell is no JSON object"},
        {"{\"nbformat\":4,\"cells\":[{\"cell_type\":\"code\",\"source\":[1]}]}",
         "the source of a cell is no text"},
        {"{\"nbformat\":4,\"cells\":[],\"metadata\":{\"language_info\":{\"name\":\"julia\"}}}",
         "it is of another language than Python, which is what sessions run"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct notebook n;
        char *why;
        assert_int_equal(notebook_parse(bad[i][0], strlen(bad[i][0]), &n, &why), -EINVAL);
        assert_string_equal(why, bad[i][1]);
        free(why);
        notebook_free(&n);
    }
}

/* --- outputs, without the white space between */

static void assert_outputs(const char *told, const char *out, const char *err,
                           const struct notebook_failure *failure, const char *want)
{
    _cleanup_json_ cJSON *json = told ? json_parse(told, strlen(told)) : NULL;
    struct buf streams[2] = {{(char *)out, strlen(out), 0}, {(char *)err, strlen(err), 0}};
    _cleanup_buf_ struct buf list = {0}, array = {0};
    assert_int_equal(notebook_outputs(json, &streams[0], &streams[1], failure, &list), 0);
    buf_addf(&array, "[%s]", list.data ? list.data : "");
    _cleanup_json_ cJSON *got = json_parse(array.data, array.len),
                         *wanted = json_parse(want, strlen(want));
    assert_non_null(wanted);
    if (!cJSON_Compare(got, wanted, true))
        fail_msg("%s", array.data);
}

static void streams_stand_alone(void **state)
{
    assert_outputs(NULL, "", "", NULL, "[]");
    assert_outputs(NULL, "a\nb", "e\n", NULL,
                   "[{\"name\":\"stdout\",\"output_type\":\"stream\",\"text\":[\"a\\n\",\"b\"]},"
                   "{\"name\":\"stderr\",\"output_type\":\"stream\",\"text\":[\"e\\n\"]}]");
    assert_outputs("{\"steps\":5}", "\xff", "", NULL,
                   "[{\"name\":\"stdout\",\"output_type\":\"stream\",\"text\":[\"\ufffd\"]}]");
}

static void steps_divide_the_streams(void **state)
{
    assert_outputs("{\"steps\":[{\"out\":2,\"err\":0},{\"out\":2,\"err\":1},{\"out\":4,\"err\":1},"
                   "{\"out\":5,\"err\":1,\"output\":\"{\\\"output_type\\\": "
                   "\\\"display_data\\\",\\n \\\"n\\\":1}\"}]}",
                   "abcdef", "1", NULL,
                   "[{\"name\":\"stdout\",\"output_type\":\"stream\",\"text\":[\"ab\"]},"
                   "{\"name\":\"stderr\",\"output_type\":\"stream\",\"text\":[\"1\"]},"
                   "{\"name\":\"stdout\",\"output_type\":\"stream\",\"text\":[\"cde\"]},"
                   "{\"output_type\":\"display_data\",\"n\":1},"
                   "{\"name\":\"stdout\",\"output_type\":\"stream\",\"text\":[\"f\"]}]");
}

static void what_is_cleared_goes(void **state)
{
    assert_outputs(
        "{\"steps\":[{\"out\":1,\"err\":0,\"output\":\"{\\\"output_type\\\": \\\"error\\\"}\"},"
        "{\"out\":3,\"err\":0,\"clear\":true}]}",
        "abcd", "", NULL, "[{\"name\":\"stdout\",\"output_type\":\"stream\",\"text\":[\"d\"]}]");
    assert_outputs("{\"steps\":[{\"out\":99,\"err\":99,\"clear\":true}]}", "abcd", "e", NULL, "[]");
}

static void nonsense_is_left_out(void **state)
{
    assert_outputs(
        "{\"steps\":[1,null,{\"out\":-1,\"err\":0},{\"out\":1e300,\"err\":0},{\"out\":1},"
        "{\"out\":0,\"err\":0,\"output\":\"{\\\"output_type\\\": \\\"stream\\\"}\"},"
        "{\"out\":0,\"err\":0,\"output\":\"{\\\"output_type\\\": \\\"error\\\"}, {}\"},"
        "{\"out\":0,\"err\":0,\"output\":\"{\\\"output_type\\\": \\\"error\\\", \\\"x\\\": NaN}\"},"
        "{\"out\":0,\"err\":0,\"output\":\"{\\\"output_type\\\": \\\"er\\nror\\\"}\"},"
        "{\"out\":0,\"err\":0,\"output\":\"[]\"},{\"out\":2,\"err\":0},{\"out\":1,\"err\":0}]}",
        "abc", "", NULL, "[{\"name\":\"stdout\",\"output_type\":\"stream\",\"text\":[\"abc\"]}]");
}

static void failures_come_last(void **state)
{
    const struct notebook_failure failure = {"TimeoutError", "it \"took\" long"};
    assert_outputs(NULL, "a", "", &failure,
                   "[{\"name\":\"stdout\",\"output_type\":\"stream\",\"text\":[\"a\"]},"
                   "{\"ename\":\"TimeoutError\",\"evalue\":\"it \\\"took\\\" long\","
                   "\"output_type\":\"error\","
                   "\"traceback\":[\"TimeoutError: it \\\"took\\\" long\"]}]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_are_found),
        cmocka_unit_test(only_outputs_and_counts_change),
        cmocka_unit_test(others_are_refused),
        cmocka_unit_test(streams_stand_alone),
        cmocka_unit_test(steps_divide_the_streams),
        cmocka_unit_test(what_is_cleared_goes),
        cmocka_unit_test(nonsense_is_left_out),
        cmocka_unit_test(failures_come_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
