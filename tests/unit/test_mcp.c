/* acarun mcp: messages, and what is said about the tools and by them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "acarun/mcp_content.h"
#include "acarun/rpc.h"
#include "util/cleanup.h"
#include "util/json.h"

/* --- messages */

static void messages_are_told_apart(void **state)
{
    static const struct {
        const char *line;
        enum rpc_kind kind;
        const char *id, *method;
        int code;
    } cases[] = {
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}", RPC_REQUEST, "1", "m", 0},
        {" {\"id\" : \"\\u0031\", \"method\":\"m\\n\",\"jsonrpc\":\"2.0\"} ", RPC_REQUEST,
         "\"\\u0031\"", "m\n", 0},
        {"{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":{}}", RPC_NOTIFICATION, NULL, "m", 0},
        {"{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":[]}", RPC_NOTIFICATION, NULL, "m",
         RPC_INVALID_PARAMS},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":5}", RPC_RESPONSE, "1", NULL, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"params\":null}", RPC_BAD, "1", "m",
         RPC_INVALID_PARAMS},
        {"{\"jsonrpc\":\"2.0\",\"id\":true,\"method\":\"m\"}", RPC_BAD, NULL, "m",
         RPC_INVALID_REQUEST},
        {"{\"jsonrpc\":2.0,\"id\":3,\"method\":\"m\"}", RPC_BAD, "3", NULL, RPC_INVALID_REQUEST},
        {"{\"jsonrpc\":\"2.0\",\"id\":4,\"method\":\"m\",\"params\":{\"a\":\"\\ud800\"}}", RPC_BAD,
         "4", "m", RPC_PARSE_ERROR},
        {"[]", RPC_BAD, NULL, NULL, RPC_INVALID_REQUEST},
        {"{", RPC_BAD, NULL, NULL, RPC_PARSE_ERROR},
        {"", RPC_BAD, NULL, NULL, RPC_PARSE_ERROR},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rpc_line l;
        assert_int_equal(rpc_parse(cases[i].line, strlen(cases[i].line), &l), 0);
        const struct rpc_message *m = l.messages;
        assert_int_equal(l.count, 1);
        assert_false(l.batch);
        assert_int_equal(m->kind, cases[i].kind);
        assert_int_equal(m->code, cases[i].code);
        if (cases[i].id)
            assert_string_equal(m->id, cases[i].id);
        else
            assert_null(m->id);
        if (cases[i].method)
            assert_string_equal(m->method, cases[i].method);
        else
            assert_null(m->method);
        rpc_line_free(&l);
    }
}

static void batches_are_taken_apart(void **state)
{
    static const char line[] =
        "[{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":{\"requestId\":7}},"
        "1,{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"b\",\"params\":"
        "{\"_meta\":{\"progressToken\":\"t\"},\"requestId\":{}}}]";
    struct rpc_line l;
    assert_int_equal(rpc_parse(line, sizeof line - 1, &l), 0);
    assert_true(l.batch);
    assert_int_equal(l.count, 3);
    assert_string_equal(l.messages[0].request, "7");
    assert_null(l.messages[0].token);
    assert_int_equal(l.messages[1].kind, RPC_BAD);
    assert_string_equal(l.messages[2].token, "\"t\"");
    assert_null(l.messages[2].request);
    rpc_line_free(&l);
}

static void answers_are_lines(void **state)
{
    _cleanup_buf_ struct buf out = {0};
    _cleanup_json_ cJSON *text = cJSON_CreateString("a\nb");
    rpc_result(&out, "12345678901234567890", text);
    assert_string_equal(out.data,
                        "{\"jsonrpc\":\"2.0\",\"id\":12345678901234567890,\"result\":\"a\\nb\"}");
    out.len = 0;
    rpc_error(&out, NULL, -32700, "a \"b\"");
    assert_string_equal(out.data, "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,"
                                  "\"message\":\"a \\\"b\\\"\"}}");
    out.len = 0;
    rpc_notification(&out, "m", text);
    assert_string_equal(out.data, "{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":\"a\\nb\"}");
}

/* --- paths */

static void paths_stay_below(void **state)
{
    static const char *const cases[][2] = {
        {"", ""},
        {"a", "a"},
        {"/mnt/data", ""},
        {"/mnt/data/", ""},
        {"/mnt/data/a/b", "a/b"},
        {"./a//b/./c/", "a/b/c"},
        {"a..b/...", "a..b/..."},
        {"mnt/data/a", "mnt/data/a"},
        {"/", NULL},
        {"/mnt", NULL},
        {"/mnt/database", NULL},
        {"/etc/passwd", NULL},
        {"..", NULL},
        {"a/../b", NULL},
        {"a/..", NULL},
        {"/mnt/data/../x", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        _cleanup_free_ char *path = content_path(cases[i][0]);
        if (cases[i][1])
            assert_string_equal(path, cases[i][1]);
        else
            assert_null(path);
    }
}

/* --- streams */

static void clips_keep_both_ends(void **state)
{
    struct clip c = {0};
    _cleanup_buf_ struct buf text = {0};
    assert_int_equal(clip_text(&c, &text), 0);
    assert_string_equal(text.data, "");
    for (int i = 0; i < 100000; i++) {
        char line[16];
        int n = snprintf(line, sizeof line, "%09d\n", i);
        assert_int_equal(clip_add(&c, line, (size_t)n), 0);
    }
    assert_int_equal(clip_text(&c, &text), 0);
    assert_memory_equal(text.data, "000000000\n000000001\n", 20);
    assert_string_equal(text.data + text.len - 20, "000099998\n000099999\n");
    assert_true(text.len < (65 << 10));
    /* What is said to be missing and what is there make the whole. */
    const char *note = strstr(text.data, "\n[... ");
    assert_non_null(note);
    unsigned long long left_out = strtoull(note + 6, NULL, 10);
    size_t note_len = (size_t)(strstr(note, "...]\n") + 5 - note);
    assert_int_equal(left_out + text.len - note_len, 1000000);
    clip_free(&c);
}

static void what_fits_is_whole(void **state)
{
    struct clip c = {0};
    _cleanup_free_ char *data = malloc(64 << 10);
    _cleanup_buf_ struct buf text = {0};
    memset(data, 'x', 64 << 10);
    assert_int_equal(clip_add(&c, data, 64 << 10), 0);
    assert_int_equal(clip_text(&c, &text), 0);
    assert_int_equal(text.len, 64 << 10);
    assert_null(strchr(text.data, '['));
    clip_free(&c);
}

/* --- results */

static const char *first_type(const cJSON *result)
{
    return json_string(cJSON_GetArrayItem(json_array(result, "content"), 0), "type");
}

static void files_are_shown_as_what_they_are(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *type, *mime;
    } cases[] = {
        {"", 0, "text", NULL},
        {"a\n\u00e9", 4, "text", NULL},
        {"a\0b", 3, "resource", NULL},
        {"\xff", 1, "resource", NULL},
        {"\x89PNG\r\n\x1a\n...", 11, "image", "image/png"},
        {"\x89PNG\r\n\x1a", 7, "resource", NULL},
        {"\xff\xd8\xff\xe0", 4, "image", "image/jpeg"},
        {"GIF89a", 6, "image", "image/gif"},
        {"RIFF\1\2\3\4WEBPVP8 ", 16, "image", "image/webp"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        _cleanup_buf_ struct buf bytes = {0};
        buf_add(&bytes, cases[i].bytes, cases[i].len);
        _cleanup_json_ cJSON *result = content_file("a b/\u00e9", &bytes);
        const cJSON *item = cJSON_GetArrayItem(json_array(result, "content"), 0);
        assert_string_equal(first_type(result), cases[i].type);
        if (cases[i].mime)
            assert_string_equal(json_string(item, "mimeType"), cases[i].mime);
        const cJSON *resource = json_object(item, "resource");
        if (resource)
            assert_string_equal(json_string(resource, "uri"), "session:///mnt/data/a%20b/%C3%A9");
    }
}

static void listings_hide_what_is_ours(void **state)
{
    char *const job = (char *)"acafs-job-0123456789abcdef", *const top = (char *)"";
    struct entry entries[] = {
        {job, top, NULL, ENTRY_DIRECTORY, -1, {0, -1}, 0},
        {(char *)"out", job, NULL, ENTRY_FILE, 1, {0, -1}, 0},
        {(char *)"acafs-job-mine", top, NULL, ENTRY_FILE, 2, {1700000000, 5}, 0},
        {(char *)"l", (char *)"d", (char *)"target", ENTRY_SYMLINK, -1, {0, -1}, 0},
    };
    const struct listing l = {.entries = entries, .count = 4, .skipped = 2};
    _cleanup_json_ cJSON *result = content_listing(MCP_LATEST, "", &l),
                         *below = content_listing(MCP_2024_11_05, "top", &l);
    static const char want[] =
        "{\"files\":[{\"path\":\"acafs-job-mine\",\"type\":\"file\",\"size\":2,"
        "\"modified\":\"2023-11-14T22:13:20Z\"},{\"path\":\"d/l\",\"type\":\"symlink\"}],"
        "\"left_out\":2}";
    const cJSON *structured = cJSON_GetObjectItemCaseSensitive(result, "structuredContent");
    assert_string_equal(structured->valuestring, want); /* raw */
    assert_string_equal(json_string(cJSON_GetArrayItem(json_array(result, "content"), 0), "text"),
                        want);
    assert_null(cJSON_GetObjectItemCaseSensitive(below, "structuredContent"));
    assert_non_null(strstr(json_string(cJSON_GetArrayItem(json_array(below, "content"), 0), "text"),
                           "\"top/d/l\""));
}

static void arguments_are_checked(void **state)
{
    static const struct {
        enum tool tool;
        const char *arguments;
        bool good;
    } cases[] = {
        {TOOL_CODE, "{\"python_code\":\"1\"}", true},
        {TOOL_CODE, "{\"python_code\":1}", false},
        {TOOL_CODE, "{}", false},
        {TOOL_LIST, "{}", true},
        {TOOL_LIST, "{\"path\":\"\",\"recursive\":false,\"more\":1}", true},
        {TOOL_LIST, "{\"recursive\":1}", false},
        {TOOL_UPLOAD, "{\"path\":\"a\",\"text\":\"\"}", true},
        {TOOL_UPLOAD, "{\"path\":\"a\",\"local_path\":\"b\"}", true},
        {TOOL_UPLOAD, "{\"path\":\"a\"}", false},
        {TOOL_UPLOAD, "{\"path\":\"a\",\"text\":\"\",\"local_path\":\"\"}", false},
        {TOOL_UPLOAD, "{\"path\":\"a\",\"text\":\"\",\"base64\":null}", false},
        {TOOL_DOWNLOAD, "{\"path\":\"a\"}", true},
        {TOOL_DOWNLOAD, "{\"local_path\":\"a\"}", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        _cleanup_json_ cJSON *json = json_parse(cases[i].arguments, strlen(cases[i].arguments));
        const char *wrong = content_check(cases[i].tool, json);
        assert_int_equal(!wrong, cases[i].good);
    }
    assert_null(content_check(TOOL_LIST, NULL));
    assert_non_null(content_check(TOOL_CODE, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_are_told_apart),
        cmocka_unit_test(batches_are_taken_apart),
        cmocka_unit_test(answers_are_lines),
        cmocka_unit_test(paths_stay_below),
        cmocka_unit_test(clips_keep_both_ends),
        cmocka_unit_test(what_fits_is_whole),
        cmocka_unit_test(files_are_shown_as_what_they_are),
        cmocka_unit_test(listings_hide_what_is_ours),
        cmocka_unit_test(arguments_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
