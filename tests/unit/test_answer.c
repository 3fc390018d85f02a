/* session/answer.c against every answer that servers were seen to give (tests/vectors/). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "session/answer.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

static const char *const base = "https://pool.example/files?api-version=x";

static const struct {
    const char *name;
    int err;
} errnos[] = {
    {"EPROTO", -EPROTO}, {"ENOENT", -ENOENT}, {"EACCES", -EACCES}, {"EAGAIN", -EAGAIN},
    {"EINVAL", -EINVAL}, {"EFBIG", -EFBIG},   {"EIO", -EIO},
};

static int errno_named(const char *name)
{
    for (size_t i = 0; i < sizeof errnos / sizeof *errnos; i++)
        if (strcmp(errnos[i].name, name) == 0)
            return errnos[i].err;
    fail_msg("the vectors name an unknown errno: %s", name);
    return 0;
}

static void check_text(const cJSON *expect, const char *member, const char *got)
{
    const cJSON *want = cJSON_GetObjectItemCaseSensitive(expect, member);
    if (!want)
        return;
    if (cJSON_IsNull(want)) {
        assert_null(got);
        return;
    }
    assert_non_null(got);
    assert_string_equal(got, want->valuestring);
}

static void check_time(const cJSON *expect, const char *member, struct timespec got)
{
    const char *text = json_string(expect, member);
    struct timespec want = {.tv_nsec = -1};
    if (text)
        assert_int_equal(text_parse_time(text, &want), 0);
    assert_int_equal(got.tv_nsec, want.tv_nsec);
    if (text)
        assert_int_equal(got.tv_sec, want.tv_sec);
}

static void check_entry(const cJSON *want, const struct entry *got)
{
    check_text(want, "name", got->name);
    check_text(want, "directory", got->directory);
    assert_string_equal(json_string(want, "kind"),
                        got->kind == ENTRY_DIRECTORY ? "directory" : "file");
    uint64_t size;
    assert_int_equal(got->size, json_uint(want, "size", &size) ? (int64_t)size : -1);
    check_time(want, "mtime", got->mtime);
}

static void check_list(const cJSON *expect, const struct listing *got)
{
    const cJSON *files = json_array(expect, "files");
    assert_int_equal(got->count, cJSON_GetArraySize(files));
    for (size_t i = 0; i < got->count; i++)
        check_entry(cJSON_GetArrayItem(files, (int)i), &got->entries[i]);
    uint64_t skipped;
    assert_true(json_uint(expect, "skipped", &skipped));
    assert_int_equal(got->skipped, skipped);
    check_text(expect, "next", got->next);
}

static const char *const state_words[] = {"running", "succeeded", "failed", "canceled",
                                          "timed out"};

static void check_execution(const cJSON *expect, const struct execution *got)
{
    assert_string_equal(json_string(expect, "state"), state_words[got->state]);
    check_text(expect, "id", got->id);
    check_text(expect, "stdout", got->out);
    check_text(expect, "stderr", got->err);
    check_text(expect, "code", got->code);
    check_text(expect, "message", got->message);
    const cJSON *result = cJSON_GetObjectItemCaseSensitive(expect, "result");
    if (result)
        assert_true(cJSON_Compare(result, got->result, true));
    uint64_t milliseconds;
    if (json_uint(expect, "milliseconds", &milliseconds))
        assert_int_equal(got->milliseconds, milliseconds);

    struct buf hex = {0};
    for (size_t i = 0; i < got->image.len; i++)
        buf_addf(&hex, "%02x", (unsigned char)got->image.data[i]);
    const char *image = json_string(expect, "image");
    assert_string_equal(hex.data ? hex.data : "", image ? image : "");
    buf_free(&hex);
    if (image)
        assert_string_equal(got->extension, json_string(expect, "extension")
                                                ? json_string(expect, "extension")
                                                : "png");
}

static void check_error(const cJSON *expect, const struct session_error *e)
{
    const char *name = json_string(expect, "error");
    if (!name) {
        assert_int_equal(e->err, 0);
        return;
    }
    assert_int_equal(e->err, errno_named(name));
    check_text(expect, "code", e->code);
    check_text(expect, "message", e->message);
    const char *hint = json_string(expect, "hint");
    if (hint)
        assert_int_equal(e->hint, strcmp(hint, "token") == 0 ? HINT_TOKEN : HINT_ROLE);
    const char *retry = json_string(expect, "retry");
    if (retry && strcmp(retry, "the other shape, once") == 0)
        assert_int_equal(e->hint, HINT_OTHER_SHAPE);
    if (retry && strncmp(retry, "20", 2) == 0) {
        assert_int_equal(e->hint, HINT_OTHER_VERSION);
        assert_string_equal(e->versions, retry);
    }
}

/* Runs one call, compares what it made of the answer, and returns its errno. */
static int run_call(const char *call, const struct answer *a, const cJSON *expect,
                    struct session_error *e)
{
    int err;
    if (strcmp(call, "list") == 0) {
        struct listing list;
        err = answer_list(a, base, &list, e);
        if (!err)
            check_list(expect, &list);
        listing_free(&list);
    } else if (strcmp(call, "upload") == 0) {
        struct entry entry;
        err = answer_entry(a, &entry, e);
        if (!err)
            check_entry(expect, &entry);
        entry_free(&entry);
    } else if (strcmp(call, "execute") == 0) {
        struct execution x;
        err = answer_execute(a, &x, e);
        if (!err)
            check_execution(expect, &x);
        execution_free(&x);
    } else if (strcmp(call, "session") == 0) {
        struct session_info info;
        err = answer_session(a, &info, e);
        if (!err) {
            check_text(expect, "etag", info.etag);
            check_time(expect, "expires", info.expires);
        }
        session_info_free(&info);
    } else {
        assert_string_equal(call, "delete");
        err = answer_delete(a, e);
    }
    return err;
}

static void run_case(const cJSON *item)
{
    const cJSON *headers = json_object(item, "headers");
    const cJSON *expect = json_object(item, "expect");
    const char *body = json_string(item, "body");
    struct answer a = {
        .status = cJSON_GetObjectItemCaseSensitive(item, "status")->valueint,
        .body = body,
        .len = strlen(body),
        .content_type = json_string(headers, "Content-Type"),
        .retry_after = json_string(headers, "Retry-After"),
        .supported_versions = json_string(headers, "api-supported-versions"),
        .www_authenticate = json_string(headers, "WWW-Authenticate"),
    };
    struct session_error e = {0};
    print_message("%s\n", json_string(item, "name"));
    int err = run_call(json_string(item, "call"), &a, expect, &e);
    assert_int_equal(err, e.err);
    check_error(expect, &e);
    session_error_free(&e);
}

static void vectors(void **state)
{
    (void)state;
    const char *path = getenv("ACAFS_VECTORS");
    assert_non_null(path);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    struct buf text = {0};
    char block[4096];
    size_t n;
    while ((n = fread(block, 1, sizeof block, file)) > 0)
        buf_add(&text, block, n);
    fclose(file);
    cJSON *all = cJSON_ParseWithLength(text.data, text.len);
    assert_true(cJSON_GetArraySize(all) >= 100);
    const cJSON *item;
    cJSON_ArrayForEach (item, all) {
        run_case(item);
    }
    cJSON_Delete(all);
    buf_free(&text);
}

static void error_header_counts_when_the_body_is_empty(void **state)
{
    (void)state;
    struct answer a = {.status = 400, .body = "", .error_code = "SessionPropertiesMissing"};
    struct session_error e;
    assert_int_equal(answer_error(&a, &e), -EPROTO);
    assert_string_equal(e.code, "SessionPropertiesMissing");
    assert_int_equal(e.hint, HINT_OTHER_SHAPE);
    session_error_free(&e);
}

static void genuine_replacement_character_is_a_name(void **state)
{
    (void)state;
    const char *body = "[{\"name\":\"a\xef\xbf\xbd\",\"type\":\"file\"}]";
    struct answer a = {.status = 200, .body = body, .len = strlen(body)};
    struct session_error e;
    struct listing list;
    assert_int_equal(answer_list(&a, base, &list, &e), 0);
    assert_int_equal(list.count, 1);
    assert_int_equal(list.entries[0].mtime.tv_nsec, -1);
    listing_free(&list);
}

static void names(void **state)
{
    (void)state;
    assert_true(entry_name_ok("a", 1));
    assert_true(entry_name_ok("...", 3));
    assert_false(entry_name_ok("", 0));
    assert_false(entry_name_ok("..", 2));
    assert_false(entry_name_ok("a\0b", 3));
}

static void lists_of_sessions(void **state)
{
    static const struct {
        const char *body;
        int err;
        size_t count, hidden;
        const char *first, *next;
        bool more;
    } cases[] = {
        {"{\"sessions\":[{\"identifier\":\"alice\"},{\"identifier\":\"b|^;<>#1\"}],\"nextLink\":"
         "null}",
         0, 2, 0, "alice", NULL, false},
        {"{\"value\":[{\"identifier\":\"alice\",\"etag\":7}],\"count\":1}", 0, 1, 0, "alice", NULL,
         false},
        {"[\"alice\", {\"properties\":{\"identifier\":\"second\"}}]", 0, 2, 0, "alice", NULL,
         false},
        {"{\"sessions\":null}", 0, 0, 0, NULL, NULL, false},
        {"{\"sessions\":[],\"nextLink\":\"\"}", 0, 0, 0, NULL, NULL, false},
        {"{\"sessions\":[{\"identifier\":\"../x\"},{\"identifier\":\"a/"
         "bc\"},{\"identifier\":\"abc\"},"
         "{\"identifier\":9},{},7,null,{\"identifier\":\"al\\u0000ice\"},{\"identifier\":\"....\"}]"
         "}",
         0, 0, 9, NULL, NULL, false},
        {"{\"sessions\":[],\"nextLink\":\"/listSessions?skip=300\"}", 0, 0, 0, NULL, NULL, true},
        {"{\"sessions\":[],\"nextLink\":\"https://pool.example/x?skip=3\"}", 0, 0, 0, NULL,
         "https://pool.example/x?skip=3", true},
        {"{\"sessions\":[{\"identifier\":\"alice\"}],\"nextLink\":\"https://evil.example/x\"}",
         -EPROTO, 0, 0, NULL, NULL, false},
        {"{\"sessions\":7}", -EPROTO, 0, 0, NULL, NULL, false},
        {"{}", -EPROTO, 0, 0, NULL, NULL, false},
        {"7", -EPROTO, 0, 0, NULL, NULL, false},
        {"{\"sessions\":[", -EPROTO, 0, 0, NULL, NULL, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct answer a = {.status = 200, .body = cases[i].body, .len = strlen(cases[i].body)};
        struct session_error e;
        struct session_names n;
        assert_int_equal(answer_sessions(&a, base, &n, &e), cases[i].err);
        assert_int_equal(n.count, cases[i].count);
        assert_int_equal(n.hidden, cases[i].hidden);
        if (cases[i].first)
            assert_string_equal(n.names[0], cases[i].first);
        assert_int_equal(n.more, cases[i].more);
        if (cases[i].next)
            assert_string_equal(n.next, cases[i].next);
        else
            assert_null(n.next);
        session_names_free(&n);
        session_error_free(&e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors),
        cmocka_unit_test(error_header_counts_when_the_body_is_empty),
        cmocka_unit_test(genuine_replacement_character_is_a_name),
        cmocka_unit_test(names),
        cmocka_unit_test(lists_of_sessions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
