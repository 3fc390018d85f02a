/* job/answer.c and job/system_exit.c: what watch.py says is taken by type, and anything else
 * refused: it comes from a session where anybody's code runs. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "job/answer.h"
#include "job/system_exit.h"
#include "util/cleanup.h"
#include "util/json.h"

#define STREAMS "\"out\":{\"size\":3,\"data\":\"YWJj\"},\"err\":{\"size\":9,\"data\":\"\"}"
#define STATUS(state, code, more)                                                                  \
    "\"status\":{\"state\":\"" state "\",\"exit_code\":" code ",\"milliseconds\":12" more "}"
#define OVER(rest) "{\"state\":\"over\"," STREAMS "," rest "}"

static int parse(const char *text, struct watch_answer *out)
{
    _cleanup_json_ cJSON *value = json_parse(text, strlen(text));
    if (!value)
        fail_msg("the test's own document is no JSON: %s", text);
    return watch_answer_parse(value, out);
}

static void refused(const char *text)
{
    struct watch_answer a;
    int err = parse(text, &a);
    if (err != -EPROTO)
        fail_msg("%d for %.200s", err, text);
}

static void taken(const char *text, struct watch_answer *out)
{
    int err = parse(text, out);
    if (err)
        fail_msg("%d for %.200s", err, text);
}

/* --- what watch.py says */

static void running(void **state)
{
    struct watch_answer a;
    taken("{\"state\":\"running\"," STREAMS "}", &a);
    assert_int_equal(a.state, WATCH_RUNNING);
    assert_int_equal(a.streams[0].data.len, 3);
    assert_memory_equal(a.streams[0].data.data, "abc", 3);
    assert_int_equal(a.streams[0].size, 3);
    assert_int_equal(a.streams[1].data.len, 0);
    assert_int_equal(a.streams[1].size, 9);
    assert_false(a.has_result);
    watch_answer_free(&a);
}

static void over(void **state)
{
    struct watch_answer a;
    taken(
        OVER(STATUS(
            "failed", "3",
            ",\"message\":\"no luck\",\"images\":[{\"file\":\"image-1.png\",\"name\":\"x\","
            "\"extension\":\"png\"},{\"file\":\"image-12.svg\",\"extension\":\"svg\"}]") ",\"result"
                                                                                         "\":\"MQ=="
                                                                                         "\""),
        &a);
    assert_int_equal(a.state, WATCH_OVER);
    assert_int_equal(a.status.state, JOB_FAILED);
    assert_int_equal(a.status.exit_code, 3);
    assert_int_equal(a.status.milliseconds, 12);
    assert_string_equal(a.status.message, "no luck");
    assert_int_equal(a.status.image_count, 2);
    assert_string_equal(a.status.images[1].file, "image-12.svg");
    assert_string_equal(a.status.images[1].extension, "svg");
    assert_true(a.has_result);
    assert_int_equal(a.result.len, 1);
    watch_answer_free(&a);
}

static void states_without_more(void **state)
{
    static const struct {
        const char *word;
        enum watch_state state;
    } words[] = {{"gone", WATCH_GONE},
                 {"missing", WATCH_MISSING},
                 {"replaced", WATCH_REPLACED},
                 {"no process", WATCH_NO_PROCESS}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        struct watch_answer a;
        char text[64];
        snprintf(text, sizeof text, "{\"state\":\"%s\"}", words[i].word);
        taken(text, &a);
        assert_int_equal(a.state, words[i].state);
        watch_answer_free(&a);
    }
}

static void ends_and_codes_agree(void **state)
{
    struct watch_answer a;
    taken(OVER(STATUS("succeeded", "0", "")), &a);
    assert_false(a.has_result);
    watch_answer_free(&a);
    taken(OVER(STATUS("timed-out", "124", "")), &a);
    assert_int_equal(a.status.state, JOB_TIMED_OUT);
    watch_answer_free(&a);
    taken(OVER(STATUS("canceled", "130", "")), &a);
    watch_answer_free(&a);
    refused(OVER(STATUS("succeeded", "1", "")));
    refused(OVER(STATUS("failed", "0", "")));
    refused(OVER(STATUS("failed", "256", "")));
    refused(OVER(STATUS("failed", "-1", "")));
    refused(OVER(STATUS("failed", "1.5", "")));
    refused(OVER(STATUS("failed", "null", "")));
    refused(OVER(STATUS("lost", "1", "")));
    refused(OVER(STATUS("", "1", "")));
    refused(OVER("\"status\":null"));
    refused(OVER("\"status\":[]"));
    refused(OVER("\"x\":1"));
}

/* --- what it never says */

static void other_documents(void **state)
{
    static const char *const texts[] = {
        "null",
        "1",
        "\"running\"",
        "[]",
        "{}",
        "[{\"state\":\"gone\"}]",
        "{\"state\":1}",
        "{\"state\":null}",
        "{\"state\":\"Running\"}",
        "{\"state\":\"running \"}",
        "{\"STATE\":\"gone\"}",
        "{\"state\":\"running\"}",
        "{\"state\":\"running\",\"out\":[],\"err\":[]}",
        "{\"state\":\"running\",\"out\":{\"size\":1,\"data\":\"YQ==\"}}",
        "{\"state\":\"died\",\"out\":{\"size\":1,\"data\":\"YQ==\"},\"err\":\"x\"}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        refused(texts[i]);
    struct watch_answer a;
    assert_int_equal(watch_answer_parse(NULL, &a), -EPROTO);
}

static void streams_of_other_types(void **state)
{
    static const char *const streams[] = {
        "{\"size\":-1,\"data\":\"\"}",
        "{\"size\":1e300,\"data\":\"\"}",
        "{\"size\":1.5,\"data\":\"\"}",
        "{\"size\":null,\"data\":\"\"}",
        "{\"size\":[],\"data\":\"\"}",
        "{\"data\":\"\"}",
        "{\"size\":1}",
        "{\"size\":1,\"data\":1}",
        "{\"size\":1,\"data\":null}",
        "{\"size\":1,\"data\":\"*\"}",
        "{\"size\":1,\"data\":\"YQ=\"}",
        "{\"size\":1,\"data\":\"YQ==YQ==\"}",
        "{\"size\":1,\"data\":[\"YQ==\"]}",
    };
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        char text[256];
        snprintf(text, sizeof text,
                 "{\"state\":\"running\",\"out\":%s,\"err\":{\"size\":0,\"data\":\"\"}}",
                 streams[i]);
        refused(text);
        snprintf(text, sizeof text,
                 "{\"state\":\"running\",\"err\":%s,\"out\":{\"size\":0,\"data\":\"\"}}",
                 streams[i]);
        refused(text);
    }
}

/* More bytes than the file is said to hold would be given out, and then asked for again. */
static void more_data_than_there_is(void **state)
{
    refused("{\"state\":\"running\",\"out\":{\"size\":2,\"data\":\"YWJj\"},"
            "\"err\":{\"size\":0,\"data\":\"\"}}");
}

static void images_that_climb(void **state)
{
    static const char *const images[] = {
        "{\"file\":\"../x.png\",\"extension\":\"png\"}",
        "{\"file\":\"image-1.png/../../x\",\"extension\":\"png/../../x\"}",
        "{\"file\":\"image-1.\",\"extension\":\"\"}",
        "{\"file\":\"image-.png\",\"extension\":\"png\"}",
        "{\"file\":\"image-1.png\",\"extension\":\"svg\"}",
        "{\"file\":\"image-1.png\"}",
        "{\"extension\":\"png\"}",
        "{\"file\":\"image-1.PNG\",\"extension\":\"PNG\"}",
        "{\"file\":\"image-1.p g\",\"extension\":\"p g\"}",
        "{\"file\":\"image-1.\xc3\xa9\",\"extension\":\"\xc3\xa9\"}",
        "{\"file\":\"image-1.png\\u0000\",\"extension\":\"png\\u0000\"}",
        "{\"file\":\"image-1.abcdefghijklmnop\",\"extension\":\"abcdefghijklmnop\"}",
        "{\"file\":\"image-11111111111111111111111111111111.png\",\"extension\":\"png\"}",
        "{\"file\":\"Image-1.png\",\"extension\":\"png\"}",
        "{\"file\":1,\"extension\":\"png\"}",
        "\"image-1.png\"",
        "null",
        "[]",
    };
    for (size_t i = 0; i < sizeof images / sizeof *images; i++) {
        char text[512];
        snprintf(text, sizeof text, OVER(STATUS("succeeded", "0", ",\"images\":[%s]")), images[i]);
        refused(text);
        snprintf(text, sizeof text,
                 OVER(STATUS("succeeded", "0",
                             ",\"images\":[{\"file\":\"image-1.png\",\"extension\":\"png\"},%s]")),
                 images[i]);
        refused(text);
    }
}

static void no_images(void **state)
{
    static const char *const images[] = {"[]", "null", "{}", "1", "\"x\""};
    for (size_t i = 0; i < sizeof images / sizeof *images; i++) {
        struct watch_answer a;
        char text[512];
        snprintf(text, sizeof text, OVER(STATUS("succeeded", "0", ",\"images\":%s")), images[i]);
        taken(text, &a);
        assert_int_equal(a.status.image_count, 0);
        watch_answer_free(&a);
    }
}

/* An answer of a run with n images. */
static char *with_images(unsigned n)
{
    struct buf text = {0};
    buf_adds(&text, "{\"state\":\"over\"," STREAMS ",\"status\":{\"state\":\"succeeded\","
                    "\"exit_code\":0,\"images\":[");
    for (unsigned i = 0; i < n; i++)
        buf_addf(&text, "%s{\"file\":\"image-%u.png\",\"extension\":\"png\"}", i ? "," : "", i + 1);
    buf_adds(&text, "]}}");
    return buf_take(&text);
}

static void images_without_end(void **state)
{
    struct watch_answer a;
    char *text = with_images(10000);
    taken(text, &a);
    assert_int_equal(a.status.image_count, 10000);
    assert_string_equal(a.status.images[9999].file, "image-10000.png");
    watch_answer_free(&a);
    free(text);
    text = with_images(10001);
    refused(text);
    free(text);
}

static void results_of_other_types(void **state)
{
    refused(OVER(STATUS("succeeded", "0", "") ",\"result\":\"***\""));
    struct watch_answer a;
    static const char *const none[] = {OVER(STATUS("succeeded", "0", "") ",\"result\":null"),
                                       OVER(STATUS("succeeded", "0", "") ",\"result\":[1]")};
    for (size_t i = 0; i < 2; i++) {
        taken(none[i], &a); /* then it is fetched */
        assert_false(a.has_result);
        watch_answer_free(&a);
    }
    taken(OVER(STATUS("succeeded", "0", "") ",\"result\":\"\""), &a);
    assert_true(a.has_result);
    assert_int_equal(a.result.len, 0);
    watch_answer_free(&a);
}

/* Messages are shown on terminals. */
static void messages_are_one_printable_line(void **state)
{
    struct watch_answer a;
    taken("{\"state\":\"no process\",\"why\":\"a\\nb\\u001b[31mred\\u0007\\r\"}", &a);
    for (const char *c = a.why; *c; c++)
        assert_true((unsigned char)*c >= 0x20 && *c != 0x7f);
    assert_non_null(strstr(a.why, "red"));
    watch_answer_free(&a);
    struct buf text = {0};
    buf_adds(&text, "{\"state\":\"over\"," STREAMS ",\"status\":{\"state\":\"failed\","
                    "\"exit_code\":1,\"message\":\"");
    for (int i = 0; i < 100000; i++)
        buf_adds(&text, "\xc3\xa9");
    buf_adds(&text, "\"}}");
    taken(text.data, &a);
    assert_true(strlen(a.status.message) < 5000);
    watch_answer_free(&a);
    buf_free(&text);
    taken(OVER(STATUS("failed", "1", ",\"message\":\"\"")), &a);
    assert_null(a.status.message);
    watch_answer_free(&a);
    taken(OVER(STATUS("failed", "1", ",\"message\":{}")), &a);
    assert_null(a.status.message);
    watch_answer_free(&a);
}

/* --- how sys.exit() ended code */

#define TRACE                                                                                      \
    "Traceback (most recent call last):\n  File \"<x>\", line 1, in <module>\n    exit()\n"
#define DURING "\nDuring handling of the above exception, another exception occurred:\n\n"
#define RULE "---------------------------------------------------------------------------\n"
#define IPYTHON                                                                                    \
    RULE "SystemExit                                Traceback (most recent call last)\n"           \
         "Cell In[1], line 1\n----> 1 exit()\n\n"

static void exits(const char *err, size_t before, int code, const char *text)
{
    struct system_exit end;
    if (!system_exit_find(err, &end))
        fail_msg("nothing found in %s", err);
    assert_int_equal(end.before, before);
    assert_int_equal(end.code, code);
    if (text)
        assert_string_equal(end.text, text);
    else
        assert_null(end.text);
}

static void does_not_exit(const char *err)
{
    struct system_exit end;
    if (system_exit_find(err, &end))
        fail_msg("found %d in %s", end.code, err);
}

static void exits_are_told_from_other_ends(void **state)
{
    exits(TRACE "SystemExit: 7\n", 0, 7, NULL);
    exits("mine\n" TRACE "SystemExit: -1\n", 5, 255, NULL);
    exits("no newline" TRACE "SystemExit: 7\n", 10, 7, NULL);
    exits(TRACE "SystemExit\n", 0, 0, NULL);
    exits(TRACE "SystemExit: None\n", 0, 0, NULL);
    exits(TRACE "SystemExit: two\nlines\n", 0, 1, "two\nlines\n");
    exits(TRACE "SystemExit: 7 of 9\n", 0, 1, "7 of 9\n");
    exits(TRACE "SystemExit: " TRACE "ValueError\n", 0, 1, TRACE "ValueError\n");
    exits(TRACE "ValueError: x\n" DURING TRACE "SystemExit: 2\n", 0, 2, NULL);
    exits(TRACE "ValueError: shown\n" TRACE "SystemExit: 2\n", strlen(TRACE "ValueError: shown\n"),
          2, NULL);
    exits("a\n" IPYTHON "SystemExit: 3\n", 2, 3, NULL);
    exits(IPYTHON "SystemExit: why", 0, 1, "why");
    exits("An exception has occurred, use %tb to see the full traceback.\n\nSystemExit: 4\n", 0, 4,
          NULL);
    does_not_exit("");
    does_not_exit("SystemExit: 7\n");
    does_not_exit(TRACE);
    does_not_exit(TRACE "ValueError: SystemExit: 7\n");
    does_not_exit(TRACE "SystemExitOfMine: 7\n");
    does_not_exit(TRACE "SystemExit\nand more\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(running),
        cmocka_unit_test(over),
        cmocka_unit_test(states_without_more),
        cmocka_unit_test(ends_and_codes_agree),
        cmocka_unit_test(other_documents),
        cmocka_unit_test(streams_of_other_types),
        cmocka_unit_test(more_data_than_there_is),
        cmocka_unit_test(images_that_climb),
        cmocka_unit_test(no_images),
        cmocka_unit_test(images_without_end),
        cmocka_unit_test(results_of_other_types),
        cmocka_unit_test(messages_are_one_printable_line),
        cmocka_unit_test(exits_are_told_from_other_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
