/* The session client and acapool, old and new shape: what was put there is there, for code of the
 * session too. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "session_fixture.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

static const char *const versions[] = {"2025-10-02-preview", "2025-02-02-preview",
                                       "2024-10-02-preview", "2024-02-02-preview"};
enum { VERSIONS = sizeof versions / sizeof *versions };

/* Runs code in the session's own kernel; its value. */
static const cJSON *run(struct fixture *f, const char *code)
{
    const struct session_code what = {.code = code};
    fixture_wait(f, session_execute(f->session, &what, on_execution, f));
    assert_well(f);
    if (f->execution.state != EXECUTION_SUCCEEDED)
        fail_msg("%s:\n%s", code, f->execution.err);
    return f->execution.result;
}

/* The file as code of the session sees it: its length, and its content's digest by hashlib. */
static void assert_seen(struct fixture *f, const char *path, const void *data, size_t len)
{
    _cleanup_buf_ struct buf coded = {0}, code = {0}, name = {0};
    assert_int_equal(text_base64(&coded, len ? data : "", len < 65536 ? len : 65536), 0);
    assert_int_equal(text_base64(&name, path, strlen(path)), 0);
    assert_int_equal(buf_addf(&code,
                              "def f(b=__import__('base64').b64decode):\n"
                              "    d = open(b'/mnt/data/' + b('%s'), 'rb').read()\n"
                              "    return len(d) == %zu and d[:65536] == b('%s')\n"
                              "f()",
                              name.data, len, len ? coded.data : ""),
                     0);
    if (!cJSON_IsTrue(run(f, code.data)))
        fail_msg("'%s' is not what was sent", path);
}

static void versions_are_found(void **state)
{
    struct fixture *f = *state;
    fixture_wait(f, session_connect(f->session, on_done, f));
    assert_well(f);
    assert_string_equal(session_api_version(f->session), versions[0]);
}

static void files_of_all_names(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"plain.txt",
                                        "a b.txt",
                                        "sub/plain.txt",
                                        "sub/deep/er/and/deeper/still/f",
                                        "\xc3\xa9t\xc3\xa9/\xe6\x96\x87\xe4\xbb\xb6.txt",
                                        "a+b%41%2f.txt",
                                        "$&=;,#^()@",
                                        ".hidden",
                                        ".git/config",
                                        "v1.2/index.html",
                                        "index.html",
                                        "it's \"q\" \\n {}[]|<>?*~`!:",
                                        "tab\tand\nline",
                                        "\xf0\x9f\x8e\x89",
                                        "ends."};
    char *data = fixture_pattern(300000);
    static const size_t sizes[] = {0, 5, 300000};
    for (int v = 0; v < VERSIONS; v++) {
        fixture_client(f, versions[v]);
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            size_t len = sizes[(i + (size_t)v) % 3];
            fixture_upload(f, names[i], data, len);
            assert_well(f);
            assert_int_equal(f->entry.size, len);
            assert_seen(f, names[i], data, len);
            fixture_download(f, names[i], 0);
            assert_well(f);
            assert_int_equal(f->content.len, len);
            assert_true(!len || memcmp(f->content.data, data, len) == 0);
            fixture_upload(f, names[i], "again", 5);
            assert_well(f);
            assert_seen(f, names[i], "again", 5);
            fixture_wait(f, session_unlink(f->session, names[i], false, on_done, f));
            assert_well(f);
            fixture_download(f, names[i], 0);
            assert_int_equal(f->err, -ENOENT);
        }
    }
    free(data);
}

static void large_file(void **state)
{
    struct fixture *f = *state;
    const off_t size = (129 << 20) + 5;
    int fd = memfd_create("large", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, size), 0);
    for (off_t at = 0; at < size - 8; at += 1 << 20)
        assert_int_equal(pwrite(fd, &at, 8, at), 8);
    fixture_wait(f, session_upload(f->session, "big", fd, (uint64_t)size, on_entry, f));
    assert_well(f);
    close(fd);
    assert_true(
        cJSON_IsTrue(run(f, "import os\nd = open('/mnt/data/big', 'rb').read()\n"
                            "len(d) == 129 * 2**20 + 5 and os.listdir('/mnt/data') == ['big'] and "
                            "all(int.from_bytes(d[i:i+8], 'little') == i "
                            "for i in range(0, len(d) - 8, 2**20))")));
    fixture_download(f, "big", (uint64_t)size - 7);
    assert_well(f);
    assert_int_equal(f->size, size);
    assert_int_equal(f->content.len, size);
    assert_int_equal(session_ranges(f->session), 1);
}

/* Everything that a client of this version learns of the tree by asking as the store does. */
static void walk(struct fixture *f, const char *directory, cJSON *all)
{
    fixture_wait(f, session_list(f->session, directory, true, on_list, f));
    assert_well(f);
    struct listing mine = f->listing;
    bool whole = f->recursive;
    f->listing = (struct listing){0};
    for (size_t i = 0; i < mine.count; i++) {
        const struct entry *e = &mine.entries[i];
        _cleanup_buf_ struct buf path = {0};
        const char *parts[] = {directory, e->directory, e->name};
        for (int k = 0; k < 3; k++)
            if (*parts[k])
                buf_addf(&path, "%s%s", path.len ? "/" : "", parts[k]);
        if (!cJSON_GetObjectItemCaseSensitive(all, path.data))
            cJSON_AddNumberToObject(all, path.data, e->kind);
        if (!whole && e->kind == ENTRY_DIRECTORY)
            walk(f, path.data, all);
    }
    listing_free(&mine);
}

static void listings_tell_the_whole_tree(void **state)
{
    struct fixture *f = *state;
    fixture_wait(f, session_connect(f->session, on_done, f));
    run(f, "import os\nos.chdir('/mnt/data')\n"
           "for d in ('a/b/c', '.git/x', 'v1.2/plain', 'a/b.c/d', 'empty', "
           "'\xc3\xa9/\xf0\x9f\x8e\x89'):\n"
           "    os.makedirs(d, exist_ok=True)\n"
           "    if d != 'empty':\n"
           "        for n in ('plain', 'x+y', 'index.html', 'dot.txt', '\xc3\xa9', 'q\\'\\n'):\n"
           "            open(d + '/' + n, 'w').close()\n"
           "os.symlink('a/b', 'link'); os.symlink('/etc/passwd', 'a/out')\n"
           "os.mkfifo('pipe'); os.chdir('/')");
    const cJSON *truth = run(
        f, "__import__('json').dumps({os.path.relpath(os.path.join(t, n), '/mnt/data'):"
           " 2 if os.path.islink(os.path.join(t, n)) else int(os.path.isdir(os.path.join(t, n)))"
           " for t, ds, fs in os.walk('/mnt/data') for n in ds + fs if n != 'pipe'})");
    const char *text = cJSON_GetStringValue(truth);
    _cleanup_json_ cJSON *wanted =
        text ? json_parse(text, strlen(text)) : cJSON_Duplicate(truth, 1);
    assert_true(cJSON_GetArraySize(wanted) > 30);
    for (int v = 0; v < VERSIONS; v++) {
        _cleanup_json_ cJSON *found = cJSON_CreateObject();
        fixture_client(f, versions[v]);
        walk(f, "", found);
        fixture_wait(f, session_list_hidden(f->session, on_list, f));
        assert_well(f);
        for (size_t i = 0; i < f->listing.count; i++) {
            const struct entry *e = &f->listing.entries[i];
            _cleanup_buf_ struct buf path = {0};
            buf_addf(&path, "%s%s%s", e->directory, *e->directory ? "/" : "", e->name);
            if (!cJSON_GetObjectItemCaseSensitive(found, path.data))
                cJSON_AddNumberToObject(found, path.data, e->kind);
        }
        const cJSON *item;
        cJSON_ArrayForEach (item, wanted) {
            const cJSON *it = cJSON_GetObjectItemCaseSensitive(found, item->string);
            if (!it || it->valueint != item->valueint)
                fail_msg("%s: '%s' is %s", versions[v], item->string,
                         it ? "another kind" : "missing");
        }
        assert_int_equal(cJSON_GetArraySize(found), cJSON_GetArraySize(wanted));
    }
}

static void names_change_in_the_session(void **state)
{
    struct fixture *f = *state;
    struct session *s = f->session;
    fixture_wait(f, session_mkdir(s, ".d", 0755, on_done, f));
    assert_well(f);
    fixture_upload(f, ".d/f", "f", 1);
    fixture_upload(f, "g", "gg", 2);
    fixture_wait(f, session_rename(s, ".d/f", "g", RENAME_KEEP, on_done, f));
    assert_int_equal(f->err, -EEXIST);
    fixture_wait(f, session_rename(s, ".d/f", "g", RENAME_SWAP, on_done, f));
    assert_well(f);
    assert_seen(f, ".d/f", "gg", 2);
    fixture_wait(f, session_rmdir(s, ".d", on_done, f));
    assert_int_equal(f->err, -ENOTEMPTY);
    fixture_wait(f, session_rename(s, ".d", "e", RENAME_PLAIN, on_done, f));
    assert_well(f);
    assert_seen(f, "e/f", "gg", 2);
    fixture_wait(f, session_symlink(s, "e/f", "l", on_done, f));
    assert_well(f);
    fixture_download(f, "l", 0);
    assert_well(f);
    assert_int_equal(f->content.len, 2);
    fixture_wait(f, session_unlink(s, "l", false, on_done, f));
    assert_well(f);
    fixture_wait(f, session_unlink(s, "e", false, on_done, f));
    assert_true(f->err == -EISDIR || f->err == -EPERM);
    assert_seen(f, "e/f", "gg", 2);
    fixture_wait(f, session_mkdir(s, "empty", 0755, on_done, f));
    assert_well(f);
    fixture_wait(f, session_unlink(s, "empty", false, on_done, f));
    assert_true(f->err == -EISDIR || f->err == -EPERM);
    fixture_wait(f, session_rmdir(s, "empty", on_done, f));
    assert_well(f);
    fixture_wait(f, session_space(s, on_space, f));
    assert_well(f);
    assert_true(f->space.free > 0 && f->space.free <= f->space.total);
}

static void namespace_of_the_user_is_left_alone(void **state)
{
    struct fixture *f = *state;
    for (int v = 0; v < VERSIONS; v++) {
        fixture_client(f, versions[v]);
        run(f, "x = 42\ndef open(*_): raise SystemExit('mine')\nlen = exec = json = b = d = 7\n"
               "import os; os.chdir('/tmp')");
        fixture_upload(f, "o+d/f", "odd", 3);
        assert_well(f);
        fixture_download(f, "o+d/f", 0);
        assert_well(f);
        assert_int_equal(f->content.len, 3);
        const cJSON *names =
            run(f, "' '.join(sorted(k for k in globals() if k[0] != '_')) + str(x) + os.getcwd()");
        assert_string_equal(cJSON_GetStringValue(names), "b d exec json len open os x42/tmp");
        run(f, "del open, len, exec, json, b, d");
    }
}

/* While a script of the user's runs, files come and go, and the helper is answered in the end. */
static void busy_session(void **state)
{
    struct fixture *f = *state;
    fixture_wait(f, session_connect(f->session, on_done, f));
    const struct session_code code = {.code = "import time; time.sleep(2)"};
    assert_non_null(session_execute(f->session, &code, on_execution, f));
    fixture_upload(f, "plain", "1", 1);
    assert_well(f);
    assert_int_equal(f->execution.state, 0); /* still under way */
    fixture_wait(f, session_mkdir(f->session, "d", 0777, on_done, f));
    fixture_wait_all(f, f->execution.result || f->answers > 1 ? 1 : 2);
    assert_well(f);
    assert_true(cJSON_IsTrue(run(f, "__import__('os').path.isdir('/mnt/data/d')")));
}

static void executions(void **state)
{
    struct fixture *f = *state;
    const struct session_code failing = {.code = "1/0", .empty_kernel = true};
    fixture_wait(f, session_execute(f->session, &failing, on_execution, f));
    assert_well(f);
    assert_int_equal(f->execution.state, EXECUTION_FAILED);
    assert_non_null(strstr(f->execution.err, "ZeroDivisionError"));
    const struct session_code loud = {.code = "print('x' * 50000)", .streams_max = 100000};
    fixture_wait(f, session_execute(f->session, &loud, on_execution, f));
    assert_well(f);
    assert_int_equal(strlen(f->execution.out), 50001);
    const struct session_code late = {.code = "__import__('time').sleep(.3); 5",
                                      .asynchronous = true};
    fixture_wait(f, session_execute(f->session, &late, on_execution, f));
    assert_well(f);
    char id[128];
    assert_non_null(f->execution.id);
    snprintf(id, sizeof id, "%s", f->execution.id);
    int64_t deadline = clock_ms() + 20000;
    while (f->execution.state == EXECUTION_RUNNING && clock_ms() < deadline) {
        fixture_wait(f, session_execution(f->session, id, on_execution, f));
        assert_well(f);
    }
    assert_int_equal(f->execution.state, EXECUTION_SUCCEEDED);
    assert_int_equal(f->execution.result->valueint, 5);
}

static void on_info(void *arg, const struct session_error *e, const struct session_info *info)
{
    assert_true(e->err || (info->etag && info->expires.tv_nsec >= 0));
    on_done(arg, e);
}

static void session_that_goes_away(void **state)
{
    struct fixture *f = *state;
    fixture_upload(f, "f", "1", 1);
    fixture_wait(f, session_info(f->session, on_info, f));
    assert_well(f);
    run(f, "1");
    fixture_wait(f, session_metadata(f->session, on_value, f));
    assert_well(f);
    assert_int_equal(f->recycled, 0);
    struct session *other = fixture_session(f, NULL);
    fixture_wait(f, session_delete(other, on_done, f));
    assert_well(f);
    session_free(other);
    run(f, "1");
    fixture_wait(f, session_info(f->session, on_info, f));
    run(f, "1");
    fixture_wait(f, session_list(f->session, "", true, on_list, f));
    assert_well(f);
    assert_int_equal(f->listing.count, 0);
    assert_int_equal(f->recycled, 1);
    fixture_wait(f, session_delete(f->session, on_done, f));
    assert_well(f);
    run(f, "1");
    fixture_wait(f, session_delete(f->session, on_done, f));
    fixture_wait(f, session_delete(f->session, on_done, f)); /* gone already */
    assert_well(f);
}

static void on_names(void *arg, const struct session_error *e, const struct session_names *n)
{
    struct fixture *f = arg;
    f->size = n ? (int64_t)n->count : -1;
    on_done(arg, e);
}

static void sessions_of_the_pool(void **state)
{
    struct fixture *f = *state;
    const struct session_options options = {
        .endpoint = f->url, .unix_socket = f->socket, .deadline_ms = 20000};
    char *why = NULL;
    struct session *handle;
    assert_int_equal(session_new(f->loop, f->http, NULL, &options, &handle, &why), 0);
    fixture_wait(f, session_sessions(handle, on_names, f));
    assert_well(f);
    assert_int_equal(f->size, 0);
    fixture_wait(f, session_find(handle, "test|session", on_info, f));
    assert_int_equal(f->err, -ENOENT);
    fixture_upload(f, "f", "1", 1);
    fixture_wait(f, session_sessions(handle, on_names, f));
    assert_int_equal(f->size, 1);
    fixture_wait(f, session_find(handle, "test|session", on_info, f));
    assert_well(f);
    session_free(handle);
}

#define with_pool(test)                                                                            \
    cmocka_unit_test_setup_teardown(test, fixture_setup_acapool, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_pool(versions_are_found),
        with_pool(files_of_all_names),
        with_pool(large_file),
        with_pool(listings_tell_the_whole_tree),
        with_pool(names_change_in_the_session),
        with_pool(namespace_of_the_user_is_left_alone),
        with_pool(busy_session),
        with_pool(executions),
        with_pool(session_that_goes_away),
        with_pool(sessions_of_the_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
