/* The session client against a pool of the test's own (fake_pool.py): versions, shapes, files,
 * listings, the helper, and faults. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "session_fixture.h"
#include "util/json.h"
#include "util/log.h"

/* --- versions */

static void newest_version_first(void **state)
{
    struct fixture *f = *state;
    fixture_wait(f, session_connect(f->session, on_done, f));
    assert_well(f);
    assert_string_equal(session_api_version(f->session), "2025-10-02-preview");
    assert_int_equal(fixture_count(f, "GET"), 1);
}

static void older_versions_in_turn(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"versions\": [\"2024-02-02-preview\"]}");
    fixture_wait(f, session_connect(f->session, on_done, f));
    assert_well(f);
    assert_string_equal(session_api_version(f->session), "2024-02-02-preview");
    assert_int_equal(fixture_count(f, "GET"), 4);
}

static void offered_version_at_once(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"versions\": [\"2024-02-02-preview\"], \"refusal\": \"InvalidApiVersion\","
                     "\"api-supported-versions\": \"2023-01-01, 2024-02-02-preview\"}");
    fixture_wait(f, session_connect(f->session, on_done, f));
    assert_well(f);
    assert_string_equal(session_api_version(f->session), "2024-02-02-preview");
    assert_int_equal(fixture_count(f, "GET"), 2);
}

static void one_negotiation_for_all(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 5; i++)
        assert_non_null(session_connect(f->session, on_done, f));
    fixture_wait_all(f, 5);
    assert_well(f);
    assert_int_equal(fixture_count(f, "GET"), 1);
}

static void forced_version_is_not_given_up(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"versions\": [\"2024-02-02-preview\"]}");
    fixture_client(f, "2025-02-02-preview");
    fixture_wait(f, session_connect(f->session, on_done, f));
    assert_int_equal(f->err, -EPROTO);
    assert_int_equal(fixture_count(f, "GET"), 1);
}

/* --- files */

static void plain_file_goes_by_the_file_calls(void **state)
{
    struct fixture *f = *state;
    fixture_upload(f, "a b.txt", "hello", 5);
    assert_well(f);
    assert_string_equal(f->entry.name, "a b.txt");
    assert_int_equal(f->entry.size, 5);
    assert_true(fixture_holds(f, "a b.txt", "hello", 5));
    fixture_download(f, "a b.txt", 0);
    assert_well(f);
    assert_int_equal(f->content.len, 5);
    assert_memory_equal(f->content.data, "hello", 5);
    assert_int_equal(f->size, 5);
    fixture_wait(f, session_unlink(f->session, "a b.txt", false, on_done, f));
    assert_well(f);
    assert_false(fixture_exists(f, "a b.txt"));
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 0);
}

static void empty_file(void **state)
{
    struct fixture *f = *state;
    fixture_upload(f, "empty", "", 0);
    assert_well(f);
    fixture_upload(f, "d.d/empty", "", 0);
    assert_well(f);
    fixture_download(f, "empty", 0);
    assert_well(f);
    assert_int_equal(f->content.len, 0);
    assert_int_equal(f->heads, 1);
    fixture_download(f, "d.d/empty", 0);
    assert_well(f);
    assert_int_equal(f->heads, 1);
}

static void odd_names_go_by_the_helper(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"a+b%20.txt", "it's \"q\"", ".git/config",
                                        "v1.2/x",     "tab\there",  "\xf0\x9f\x8e\x89",
                                        "index.html", "quote\\n'",  "sub/\xc3\xa9t\xc3\xa9.d/f"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        fixture_upload(f, names[i], "odd", 3);
        assert_well(f);
        assert_int_equal(f->entry.size, 3);
        assert_true(fixture_holds(f, names[i], "odd", 3));
        fixture_download(f, names[i], 0);
        assert_well(f);
        assert_int_equal(f->content.len, 3);
        fixture_wait(f, session_unlink(f->session, names[i], false, on_done, f));
        assert_well(f);
        assert_false(fixture_exists(f, names[i]));
    }
}

static void large_odd_file_goes_through_a_stage_name(void **state)
{
    struct fixture *f = *state;
    size_t len = (1 << 20) + 7;
    char *data = fixture_pattern(len);
    fixture_upload(f, "v1.2/large", data, len);
    assert_well(f);
    assert_true(fixture_holds(f, "v1.2/large", data, len));
    fixture_download(f, "v1.2/large", 0);
    assert_well(f);
    assert_int_equal(f->content.len, len);
    assert_memory_equal(f->content.data, data, len);
    free(data);
    fixture_wait(f, session_list(f->session, "", false, on_list, f));
    assert_well(f);
    assert_int_equal(f->listing.count, 1); /* no stage name is left */
}

static void large_file_goes_in_parts(void **state)
{
    struct fixture *f = *state;
    size_t len = (3 << 20) + 11;
    char *data = fixture_pattern(len);
    fixture_rules(f, "{\"limit\": 2000000}");
    fixture_upload(f, "big", data, len);
    assert_well(f);
    assert_true(fixture_holds(f, "big", data, len));
    free(data);
    fixture_wait(f, session_list(f->session, "", false, on_list, f));
    assert_int_equal(f->listing.count, 1);
}

static void file_descriptor_is_uploaded(void **state)
{
    struct fixture *f = *state;
    char *data = fixture_pattern(300000);
    char path[128];
    fixture_write(f, "../source", data, 300000);
    snprintf(path, sizeof path, "%s/source", f->top);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    fixture_wait(f, session_upload(f->session, "copy", fd, 300000, on_entry, f));
    assert_well(f);
    assert_true(fixture_holds(f, "copy", data, 300000));
    fixture_wait(f, session_upload(f->session, "c.d/copy", fd, 1000, on_entry, f));
    assert_well(f);
    assert_true(fixture_holds(f, "c.d/copy", data, 1000));
    close(fd);
    free(data);
}

static void refused_and_redirected_names_fall_back(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"refuse\": [\"no\"], \"redirect\": [\"moved\"]}");
    fixture_upload(f, "no", "1", 1);
    assert_well(f);
    assert_true(fixture_holds(f, "no", "1", 1));
    fixture_download(f, "no", 0);
    assert_well(f);
    assert_int_equal(f->content.len, 1);
    fixture_upload(f, "moved", "22", 2);
    assert_well(f);
    fixture_download(f, "moved", 0);
    assert_well(f);
    assert_int_equal(f->content.len, 2);
}

static void subdirectory_is_verified_once(void **state)
{
    struct fixture *f = *state;
    fixture_upload(f, "d/e/f", "1", 1);
    assert_well(f);
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 1);
    fixture_upload(f, "d/e/g", "1", 1);
    assert_well(f);
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 1);
    assert_true(session_path_plain(f->session, "d/e/g"));
    fixture_wait(f, session_unlink(f->session, "d/e/g", false, on_done, f));
    assert_well(f);
    assert_int_equal(fixture_count(f, "DELETE"), 1);
}

static void misplaced_subdirectory_is_noticed(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"lose_path\": true}");
    fixture_upload(f, "d/f", "1", 1);
    assert_well(f);
    assert_true(fixture_holds(f, "d/f", "1", 1));
    assert_false(session_path_plain(f->session, "d/f"));
    fixture_upload(f, "d/g", "22", 2);
    assert_well(f);
    assert_true(fixture_holds(f, "d/g", "22", 2));
    assert_int_equal(fixture_count(f, "path=d"), 1);
}

static void file_at_the_top_survives_an_ignored_path(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"ignore_path\": true}");
    fixture_write(f, "x", "top", 3);
    fixture_upload(f, "d/x", "below", 5);
    assert_well(f);
    assert_true(fixture_holds(f, "x", "top", 3));
    assert_true(fixture_holds(f, "d/x", "below", 5));
    fixture_download(f, "d/x", 0);
    assert_well(f);
    assert_int_equal(f->content.len, 5);
    fixture_wait(f, session_space(f->session, on_space, f)); /* behind the tidying */
    assert_int_equal(fixture_stages(f), 0);
}

static void downloads_know_an_ignored_path(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"ignore_content_path\": true}");
    fixture_write(f, "x", "top", 3);
    fixture_write(f, "d/x", "below", 5);
    fixture_write(f, "d/y", "alone", 5);
    static const char *const paths[] = {"d/x", "d/y", "d/x"};
    static const char *const contents[] = {"below", "alone", "below"};
    for (size_t i = 0; i < 3; i++) {
        fixture_download(f, paths[i], 0);
        assert_well(f);
        assert_int_equal(f->content.len, 5);
        assert_memory_equal(f->content.data, contents[i], 5);
    }
    assert_int_equal(fixture_count(f, "/content?"), 1);
    fixture_download(f, "d/none", 0);
    assert_int_equal(f->err, -ENOENT);
}

/* Who knows that there is no such name at the top saves the look, and is not misled either. */
static void downloads_without_a_namesake_begin_at_once(void **state)
{
    struct fixture *f = *state;
    struct session_sink sink = fixture_sink(f);
    sink.no_namesake = true;
    fixture_write(f, "d/x", "below", 5);
    fixture_wait(f, session_connect(f->session, on_done, f));
    unsigned before = fixture_count(f, "files/x");
    fixture_wait(f, session_download(f->session, "d/x", 0, &sink));
    assert_well(f);
    assert_memory_equal(f->content.data, "below", 5);
    assert_int_equal(fixture_count(f, "files/x") - before, 1);
}

static void downloads_without_a_namesake_know_an_ignored_path(void **state)
{
    struct fixture *f = *state;
    struct session_sink sink = fixture_sink(f);
    sink.no_namesake = true;
    fixture_rules(f, "{\"ignore_content_path\": true}");
    fixture_write(f, "d/x", "below", 5);
    fixture_wait(f, session_download(f->session, "d/x", 0, &sink));
    assert_well(f);
    assert_int_equal(f->content.len, 5);
    assert_memory_equal(f->content.data, "below", 5);
}

static void downloads_of_directories_are_verified_once(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, "d/x", "below", 5);
    for (int i = 0; i < 3; i++) {
        fixture_download(f, "d/x", i);
        assert_well(f);
        assert_int_equal(f->content.len, 5);
    }
    assert_int_equal(fixture_count(f, "GET /pool/files/x?"), 1);
    assert_int_equal(fixture_count(f, "GET /pool/files/x/content?"), 3);
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 0);
}

static void connect_then(struct fixture *f, const char *rules)
{
    fixture_wait(f, session_connect(f->session, on_done, f));
    fixture_rules(f, rules);
}

static void failed_upload_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    char *data = fixture_pattern(3 << 20);
    connect_then(f, "{\"refuse\": [\"no\"]}");
    fixture_write(f, "v1.2", "no directory", 12);
    fixture_upload(f, "v1.2/x", data, 1 << 20); /* adopt fails */
    assert_int_equal(f->err, -EEXIST);
    fixture_rules(f, "{\"limit\": 2000000}");
    fixture_upload(f, "v1.2/x", data, 3 << 20); /* join fails */
    assert_int_equal(f->err, -EEXIST);
    fixture_upload(f, "bad\xff", data, 1 << 20);
    assert_int_equal(f->err, -EILSEQ);
    free(data);
    fixture_wait(f, session_space(f->session, on_space, f));
    assert_int_equal(fixture_stages(f), 0);
}

static void quit_loop(void *arg)
{
    loop_quit(((struct fixture *)arg)->loop, 7);
}

static void run_for(struct fixture *f, int64_t ms)
{
    struct loop_timer pause;
    loop_timer_init(&pause, f->loop, quit_loop, f);
    loop_timer_set(&pause, ms);
    assert_int_equal(loop_run(f->loop), 7);
}

/* Runs the loop until the pool's log has a line with `text`. */
static void run_until_logged(struct fixture *f, const char *text)
{
    for (int i = 0; i < 500 && fixture_count(f, text) == 0; i++)
        run_for(f, 10);
    assert_true(fixture_count(f, text) > 0);
}

static void canceled_transfers_leave_nothing(void **state)
{
    struct fixture *f = *state;
    size_t len = 1 << 20;
    char *data = fixture_pattern(len);
    connect_then(f, "{\"slow_files\": 3}");
    struct session_call *call = session_upload_bytes(f->session, "v1.2/x", data, len, on_entry, f);
    run_until_logged(f, "has acafs-stage-");
    session_cancel(call);
    fixture_write(f, "v1.2/y", data, len);
    const struct session_sink sink = fixture_sink(f);
    call = session_download(f->session, "v1.2/y", 0, &sink);
    run_until_logged(f, "gives acafs-stage-");
    session_cancel(call);
    free(data);
    fixture_wait(f, session_space(f->session, on_space, f));
    assert_well(f);
    assert_int_equal(fixture_stages(f), 0);
    assert_false(fixture_exists(f, "v1.2/x"));
}

static void unverified_subdirectory_is_not_deleted_from(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"ignore_path\": true}");
    fixture_write(f, "x", "top", 3);
    fixture_write(f, "d/x", "sub", 3);
    fixture_wait(f, session_unlink(f->session, "d/x", false, on_done, f));
    assert_well(f);
    assert_true(fixture_exists(f, "x"));
    assert_false(fixture_exists(f, "d/x"));
}

/* Whatever became of the file since it was seen. */
static void directory_is_never_unlinked(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, "d/e/f", "1", 1);
    fixture_upload(f, "d/g", "1", 1); /* verifies the directory */
    static const char *const paths[] = {"d", "d/e"};
    for (size_t i = 0; i < 2; i++) {
        fixture_wait(f, session_unlink(f->session, paths[i], false, on_done, f));
        assert_true(f->err == -EISDIR || f->err == -EPERM);
    }
    assert_true(fixture_holds(f, "d/e/f", "1", 1));
    assert_int_equal(fixture_count(f, "DELETE"), 0);
}

static void lost_answer_of_a_delete_is_no_error(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, "x", "1", 1);
    fixture_rules(f, "{\"drop_delete\": 1}");
    fixture_wait(f, session_unlink(f->session, "x", false, on_done, f));
    assert_well(f);
    assert_false(fixture_exists(f, "x"));
    assert_int_equal(fixture_count(f, "DELETE"), 2);
}

static void what_was_seen_is_deleted_by_one_request(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, "x", "1", 1);
    fixture_wait(f, session_unlink(f->session, "x", true, on_done, f));
    assert_well(f);
    assert_false(fixture_exists(f, "x"));
    int requests = fixture_count(f, "GET files/x");
    assert_int_equal(fixture_count(f, "DELETE"), 1);
    assert_int_equal(requests, 0);
    fixture_wait(f, session_unlink(f->session, "x", true, on_done, f));
    assert_int_equal(f->err, -ENOENT);
}

static void missing_things_are_missing(void **state)
{
    struct fixture *f = *state;
    fixture_download(f, "none", 0);
    assert_int_equal(f->err, -ENOENT);
    fixture_download(f, "none.d/none", 0);
    assert_int_equal(f->err, -ENOENT);
    fixture_wait(f, session_unlink(f->session, "none", false, on_done, f));
    assert_int_equal(f->err, -ENOENT);
    fixture_wait(f, session_rmdir(f->session, "none", on_done, f));
    assert_int_equal(f->err, -ENOENT);
}

static void ranges(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, "r", "0123456789", 10);
    fixture_download(f, "r", 4);
    assert_well(f);
    assert_int_equal(f->content.len, 10);
    assert_memory_equal(f->content.data + 4, "456789", 6);
    assert_int_equal(f->size, 10);
    assert_int_equal(session_ranges(f->session), 1);
    fixture_rules(f, "{\"no_ranges\": true}");
    fixture_download(f, "r", 4);
    assert_well(f);
    assert_memory_equal(f->content.data, "0123456789", 10);
    assert_int_equal(session_ranges(f->session), 0);
}

static void cut_download_is_tried_again(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, "r", "0123456789", 10);
    fixture_rules(f, "{\"cut\": 1}");
    fixture_download(f, "r", 0);
    assert_well(f);
    assert_int_equal(f->heads, 2);
    assert_int_equal(f->content.len, 10);
    assert_memory_equal(f->content.data, "0123456789", 10);
}

/* --- listings */

static void recursive_listing_in_pages(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, "a", "1", 1);
    fixture_write(f, "d/b", "22", 2);
    fixture_write(f, "d/e/c", "333", 3);
    fixture_rules(f, "{\"page\": 2}");
    fixture_wait(f, session_list(f->session, "", true, on_list, f));
    assert_well(f);
    assert_true(f->recursive);
    assert_int_equal(f->listing.count, 5);
    assert_int_equal(fixture_find(f, "d/e", "c")->size, 3);
    assert_int_equal(fixture_find(f, "", "d")->kind, ENTRY_DIRECTORY);
    fixture_wait(f, session_list(f->session, "d", false, on_list, f));
    assert_int_equal(f->listing.count, 2);
    assert_false(f->recursive);
    assert_non_null(fixture_find(f, "", "b"));
}

static void page_elsewhere_is_refused(void **state)
{
    struct fixture *f = *state;
    fixture_wait(f, session_connect(f->session, on_done, f));
    fixture_rules(f, "{\"evil\": true}");
    fixture_wait(f, session_list(f->session, "", true, on_list, f));
    assert_int_equal(f->err, -EPROTO);
}

static void stage_files_are_not_listed(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, "d/acafs-stage-0123456789abcdef", "1", 1);
    fixture_write(f, "d/acafs-stage-0123456789abcde", "mine", 4);
    fixture_write(f, "acafs-part-0123456789abcdef", "1", 1);
    fixture_wait(f, session_list(f->session, "", true, on_list, f));
    assert_well(f);
    assert_int_equal(f->listing.count, 2);
    assert_non_null(fixture_find(f, "d", "acafs-stage-0123456789abcde"));
}

static void listing_of_the_top_alone_is_known(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, "d/b", "22", 2);
    fixture_rules(f, "{\"top_only\": true}");
    fixture_wait(f, session_list(f->session, "", true, on_list, f));
    assert_well(f);
    assert_false(f->recursive);
    fixture_rules(f, "{}");
    fixture_wait(f, session_list(f->session, "", true, on_list, f));
    assert_true(f->recursive);
    assert_non_null(fixture_find(f, "d", "b"));
}

static void long_scans_come_in_pages(void **state)
{
    struct fixture *f = *state;
    enum { COUNT = 1500 };
    char name[256];
    memset(name, 'x', sizeof name);
    memcpy(name, ".d/", 3);
    name[240] = '\0';
    for (int i = 0; i < COUNT; i++) {
        snprintf(name + 220, 20, "%d.%d", i, i % 3);
        fixture_write(f, name, "", 0);
    }
    /* A name of 235 bytes makes an entry of about 350; twice as much as an answer holds. */
    for (int i = 0; i < 3 * COUNT; i++) {
        snprintf(name + 220, 20, "more%d", i);
        fixture_write(f, name, "", 0);
    }
    fixture_wait(f, session_list(f->session, ".d", false, on_list, f));
    assert_well(f);
    assert_int_equal(f->listing.count, 4 * COUNT);
    fixture_wait(f, session_list_hidden(f->session, on_list, f));
    assert_well(f);
    assert_int_equal(f->listing.count, 4 * COUNT + 1);
    assert_true(fixture_count(f, "POST /pool/executions") >= 4);
}

static void hidden_things_are_told(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, "plain", "1", 1);
    fixture_write(f, "d/plain", "1", 1);
    fixture_write(f, ".git/config", "12", 2);
    fixture_write(f, "a+b", "123", 3);
    fixture_write(f, "acafs-stage-0123456789abcdef", "1", 1);
    fixture_wait(f, session_symlink(f->session, "d/plain", "link", on_done, f));
    assert_well(f);
    fixture_wait(f, session_list_hidden(f->session, on_list, f));
    assert_well(f);
    assert_null(fixture_find(f, "", "plain"));
    assert_null(fixture_find(f, "d", "plain"));
    assert_null(fixture_find(f, "", "acafs-stage-0123456789abcdef"));
    const struct entry *config = fixture_find(f, ".git", "config");
    assert_non_null(config);
    assert_int_equal(config->size, 2);
    assert_true(config->mtime.tv_nsec >= 0);
    assert_non_null(fixture_find(f, "", "a+b"));
    const struct entry *link = fixture_find(f, "", "link");
    assert_non_null(link);
    assert_int_equal(link->kind, ENTRY_SYMLINK);
    assert_string_equal(link->target, "d/plain");
}

static void odd_directory_is_scanned(void **state)
{
    struct fixture *f = *state;
    fixture_write(f, ".git/objects/x", "1", 1);
    fixture_wait(f, session_list(f->session, ".git", false, on_list, f));
    assert_well(f);
    assert_int_equal(f->listing.count, 1);
    assert_int_equal(fixture_find(f, "", "objects")->kind, ENTRY_DIRECTORY);
    assert_true(fixture_find(f, "", "objects")->mode != 0);
}

/* --- the helper */

static void names_are_changed(void **state)
{
    struct fixture *f = *state;
    fixture_wait(f, session_mkdir(f->session, "d", 0777, on_done, f));
    assert_well(f);
    fixture_wait(f, session_mkdir(f->session, "d", 0777, on_done, f));
    assert_int_equal(f->err, -EEXIST);
    fixture_write(f, "d/x", "x", 1);
    fixture_write(f, "d/y", "yy", 2);
    fixture_wait(f, session_rmdir(f->session, "d", on_done, f));
    assert_int_equal(f->err, -ENOTEMPTY);
    fixture_wait(f, session_rename(f->session, "d/x", "d/y", RENAME_KEEP, on_done, f));
    assert_int_equal(f->err, -EEXIST);
    fixture_wait(f, session_rename(f->session, "d/x", "d/y", RENAME_SWAP, on_done, f));
    assert_well(f);
    assert_true(fixture_holds(f, "d/y", "x", 1));
    fixture_wait(f, session_rename(f->session, "d/x", "d/y", RENAME_PLAIN, on_done, f));
    assert_well(f);
    assert_true(fixture_holds(f, "d/y", "yy", 2));
    fixture_wait(f, session_mkdir(f->session, "../out", 0777, on_done, f));
    assert_int_equal(f->err, -EINVAL);
    fixture_wait(f, session_space(f->session, on_space, f));
    assert_well(f);
    assert_true(f->space.total > 0 && f->space.free <= f->space.total);
}

static void helpers_are_batched_in_order(void **state)
{
    struct fixture *f = *state;
    fixture_wait(f, session_connect(f->session, on_done, f));
    char path[400] = "d";
    for (int i = 0; i < 30; i++) {
        assert_non_null(session_mkdir(f->session, path, 0777, on_done, f));
        strcat(path, "/d");
    }
    fixture_wait_all(f, 31);
    assert_well(f);
    *strrchr(path, '/') = '\0';
    assert_true(fixture_exists(f, path)); /* each in the one before */
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 1);
}

static void requests_wait_for_the_one_under_way(void **state)
{
    struct fixture *f = *state;
    fixture_wait(f, session_connect(f->session, on_done, f));
    fixture_rules(f, "{\"slow\": 0.5}");
    struct session_call *first = session_mkdir(f->session, "d", 0777, on_done, f);
    assert_non_null(first);
    run_until_logged(f, "POST /pool/executions");
    session_cancel(first); /* under way: done all the same, and not told */
    char path[16];
    for (int i = 0; i < 20; i++) {
        snprintf(path, sizeof path, "d/%d", i);
        assert_non_null(session_mkdir(f->session, path, 0777, on_done, f));
    }
    fixture_wait_all(f, 21);
    assert_well(f);
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 2);
    assert_int_equal(f->answers, 21);
}

static void many_at_once(void **state)
{
    struct fixture *f = *state;
    char *data = fixture_pattern(500000);
    char path[32];
    for (unsigned i = 0; i < 40; i++) {
        static const char *const before[] = {"f", "sub/f", "v1.2/f", "s/t/f+"};
        snprintf(path, sizeof path, "%s%u", before[i % 4], i);
        assert_non_null(
            session_upload_bytes(f->session, path, data, 1000 + i * 12000, on_entry, f));
    }
    fixture_wait_all(f, 40);
    assert_well(f);
    assert_true(fixture_holds(f, "sub/f37", data, 1000 + 37 * 12000));
    assert_true(fixture_holds(f, "v1.2/f38", data, 1000 + 38 * 12000));
    assert_true(fixture_holds(f, "s/t/f+39", data, 1000 + 39 * 12000));
    free(data);
}

/* --- callbacks that cancel their own call, and callbacks that ask for more */

struct canceler {
    struct fixture *f;
    struct session_call *call;
    bool at_head;
};

static int cancel_head(void *arg, uint64_t start, int64_t size, const struct timespec *mtime)
{
    struct canceler *c = arg;
    if (c->at_head) {
        session_cancel(c->call);
        loop_quit(c->f->loop, 7);
    }
    return 0;
}

static int cancel_data(void *arg, const void *data, size_t len)
{
    struct canceler *c = arg;
    assert_false(c->at_head);
    session_cancel(c->call);
    loop_quit(c->f->loop, 7);
    return 0;
}

static void cancel_done(void *arg, const struct session_error *e)
{
    fail_msg("a canceled download was answered");
}

static void download_may_be_canceled_by_its_taker(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"plain", "o+d"};
    fixture_write(f, "plain", "0123456789", 10);
    fixture_write(f, "o+d", "0123456789", 10);
    for (int i = 0; i < 4; i++) {
        struct canceler c = {.f = f, .at_head = i / 2};
        const struct session_sink sink = {
            .on_head = cancel_head, .on_data = cancel_data, .done = cancel_done, .arg = &c};
        c.call = session_download(f->session, names[i % 2], 0, &sink);
        assert_int_equal(loop_run(f->loop), 7);
        fixture_wait(f, session_connect(f->session, on_done, f));
    }
}

static int refuse_data(void *arg, const void *data, size_t len)
{
    return -ENOSPC;
}

static void taker_may_stop_a_download(void **state)
{
    struct fixture *f = *state;
    struct session_sink sink = fixture_sink(f);
    sink.on_data = refuse_data;
    fixture_write(f, "plain", "0123456789", 10);
    fixture_write(f, "o+d", "0123456789", 10);
    fixture_wait(f, session_download(f->session, "plain", 0, &sink));
    assert_int_equal(f->err, -ENOSPC);
    fixture_wait(f, session_download(f->session, "o+d", 0, &sink));
    assert_int_equal(f->err, -ENOSPC);
}

static void on_done_then_more(void *arg, const struct session_error *e)
{
    struct fixture *f = arg;
    assert_non_null(session_mkdir(f->session, "d/e", 0777, on_done, f));
    on_done(arg, e);
}

static void callback_may_ask_for_more(void **state)
{
    struct fixture *f = *state;
    assert_non_null(session_mkdir(f->session, "d", 0777, on_done_then_more, f));
    fixture_wait_all(f, 2);
    assert_well(f);
    assert_true(fixture_exists(f, "d/e"));
}

static void canceled_request_is_not_sent(void **state)
{
    struct fixture *f = *state;
    fixture_wait(f, session_connect(f->session, on_done, f));
    struct session_call *call = session_mkdir(f->session, "no", 0777, on_done, f);
    session_cancel(call);
    fixture_wait(f, session_mkdir(f->session, "yes", 0777, on_done, f));
    assert_well(f);
    assert_true(fixture_exists(f, "yes"));
    assert_false(fixture_exists(f, "no"));
}

static void lost_answer_is_looked_for(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"drop\": 1}");
    fixture_wait(f, session_mkdir(f->session, "d", 0777, on_done, f));
    assert_well(f); /* a second execution would have said EEXIST */
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 1);
    assert_int_equal(fixture_count(f, "GET /pool/executions/"), 1);
}

static void gateway_error_is_no_answer(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"gateway\": 1}");
    fixture_wait(f, session_mkdir(f->session, "d", 0777, on_done, f));
    assert_well(f); /* it had been made */
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 1);
    assert_int_equal(fixture_count(f, "GET /pool/executions/"), 1);
    fixture_rules(f, "{\"gateway\": 2, \"forgets\": true}");
    fixture_wait(f, session_mkdir(f->session, "e", 0777, on_done, f));
    assert_int_equal(f->err, -EIO);
    assert_string_equal(f->message, "the gateway is tired");
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 2);
}

static void lost_for_good(void **state)
{
    struct fixture *f = *state;
    fixture_wait(f, session_connect(f->session, on_done, f));
    fixture_rules(f, "{\"drop\": 1, \"forgets\": true}");
    assert_non_null(session_mkdir(f->session, "d", 0777, on_done, f));
    fixture_wait(f, session_space(f->session, on_space, f));
    fixture_wait_all(f, 2);
    assert_int_equal(f->err, 0); /* space, asked again */
    assert_true(f->space.total > 0);
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 2);
    fixture_rules(f, "{\"drop\": 3, \"forgets\": true}");
    fixture_wait(f, session_rename(f->session, "d", "e", RENAME_PLAIN, on_done, f));
    assert_int_equal(f->err, -EIO); /* it was done, or it was not */
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 3);
}

static void never_done_is_done_again_where_that_is_safe(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"unheard\": 1}");
    fixture_upload(f, "o+d", "1", 1);
    assert_well(f);
    assert_true(fixture_holds(f, "o+d", "1", 1));
    fixture_rules(f, "{\"unheard\": 9}");
    fixture_upload(f, "o+d", "22", 2); /* not for ever */
    assert_int_equal(f->err, -EIO);
    assert_true(fixture_holds(f, "o+d", "1", 1));
    fixture_rules(f, "{}");
    fixture_upload(f, "o+d", "22", 2);
    assert_well(f);
}

static void running_execution_is_followed(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"running\": 2}");
    fixture_wait(f, session_mkdir(f->session, "d", 0777, on_done, f));
    assert_well(f);
    assert_int_equal(fixture_count(f, "GET /pool/executions/"), 3);
    fixture_rules(f, "{\"running\": 4, \"own_id\": true}");
    fixture_wait(f, session_mkdir(f->session, "e", 0777, on_done, f));
    assert_well(f);
    assert_true(fixture_count(f, "GET /pool/executions/the-pool") > 0);
}

static void servers_differ_and_the_helper_works(void **state)
{
    struct fixture *f = *state;
    static const char *const servers[] = {
        "{\"quote\": true}",
        "{\"repr\": true}",
        "{\"repr\": true, \"quote\": true}",
        "{\"envelope\": true}",
        "{\"refused_options\": [\"useEmptyKernel\"]}",
        "{\"busy\": 1}",
        "{\"envelope\": true, \"refused_options\": [\"useEmptyKernel\"]}",
        "{\"versions\": [\"2024-02-02-preview\"]}",
        "{\"versions\": [\"2024-02-02-preview\"], \"envelope\": false, \"quote\": true}",
        "{\"versions\": [\"2024-10-02-preview\"]}",
        "{\"old_only\": true}",
    };
    for (size_t i = 0; i < sizeof servers / sizeof *servers; i++) {
        char name[8];
        snprintf(name, sizeof name, "d%zu", i);
        fixture_rules(f, servers[i]);
        fixture_client(f, NULL);
        fixture_wait(f, session_mkdir(f->session, name, 0777, on_done, f));
        assert_well(f);
        assert_true(fixture_exists(f, name));
    }
}

static void name_of_other_bytes_spoils_no_other(void **state)
{
    struct fixture *f = *state;
    fixture_wait(f, session_connect(f->session, on_done, f));
    assert_non_null(session_mkdir(f->session, "good", 0777, on_done, f));
    assert_non_null(session_mkdir(f->session, "bad\xff", 0777, on_done, f));
    fixture_wait_all(f, 3);
    assert_int_equal(f->err, -EILSEQ);
    assert_true(fixture_exists(f, "good"));
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 1);
}

static void broken_execution_is_an_error(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"no_execute\": true}");
    fixture_wait(f, session_mkdir(f->session, "d", 0777, on_done, f));
    assert_int_equal(f->err, -EIO);
    assert_string_equal(f->message, "broken");
    assert_int_equal(fixture_count(f, "POST /pool/executions"), 1); /* never a second time */
}

static void any_code_is_called(void **state)
{
    struct fixture *f = *state;
    cJSON *request = cJSON_CreateObject();
    cJSON_AddStringToObject(request, "op", "call");
    cJSON_AddStringToObject(request, "code",
                            "def main(args):\n    return args['a'] + '\\ud800\\''\n");
    cJSON_AddStringToObject(cJSON_AddObjectToObject(request, "args"), "a", "\xc3\xa9'\"\n");
    fixture_wait(f, session_helper(f->session, request, on_value, f));
    assert_well(f);
    assert_string_equal(cJSON_GetStringValue(f->value), "\xc3\xa9'\"\n?'");
    request = cJSON_CreateObject();
    cJSON_AddStringToObject(request, "op", "nonsense");
    fixture_wait(f, session_helper(f->session, request, on_value, f));
    assert_int_equal(f->err, -EINVAL);
}

/* --- old shape, executions, the session itself */

static void old_shape(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"versions\": [\"2024-02-02-preview\"]}");
    fixture_upload(f, "a.txt", "hello", 5);
    assert_well(f);
    fixture_upload(f, "d/b.txt", "22", 2);
    assert_well(f);
    assert_true(fixture_holds(f, "d/b.txt", "22", 2));
    fixture_download(f, "a.txt", 0);
    assert_well(f);
    assert_int_equal(f->content.len, 5);
    fixture_download(f, "d/b.txt", 0);
    assert_well(f);
    assert_int_equal(f->content.len, 2);
    fixture_wait(f, session_list(f->session, "", true, on_list, f));
    assert_well(f);
    assert_false(f->recursive);
    assert_int_equal(f->listing.count, 2);
    fixture_wait(f, session_list_hidden(f->session, on_list, f));
    assert_well(f);
    assert_non_null(fixture_find(f, "d", "b.txt"));
    assert_null(fixture_find(f, "", "a.txt"));
    fixture_wait(f, session_unlink(f->session, "a.txt", false, on_done, f));
    assert_well(f);
    assert_int_equal(fixture_count(f, "POST /pool/files/upload?"), 1);
    assert_int_equal(fixture_count(f, "GET /pool/files/content/a.txt"), 1);
}

static void execution(void **state)
{
    struct fixture *f = *state;
    const struct session_code code = {.code = "6 * 7", .operation_id = "my-id"};
    fixture_wait(f, session_execute(f->session, &code, on_execution, f));
    assert_well(f);
    assert_int_equal(f->execution.state, EXECUTION_SUCCEEDED);
    assert_int_equal(f->execution.result->valueint, 42);
    assert_string_equal(f->execution.id, "my-id");
    fixture_wait(f, session_execution(f->session, "my-id", on_execution, f));
    assert_well(f);
    assert_int_equal(f->execution.result->valueint, 42);
    fixture_wait(f, session_execution(f->session, "other", on_execution, f));
    assert_int_equal(f->err, -ENOENT);
    const struct session_code bad = {.code = "1/0"};
    fixture_wait(f, session_execute(f->session, &bad, on_execution, f));
    assert_well(f);
    assert_int_equal(f->execution.state, EXECUTION_FAILED);
    assert_non_null(strstr(f->execution.err, "ZeroDivisionError"));
}

static void options_of_executions_that_are_refused(void **state)
{
    struct fixture *f = *state;
    const struct session_code code = {
        .code = "6 * 7", .empty_kernel = true, .streams_max = 1000000};
    static const char *const rules[] = {
        "{\"refused_options\": [\"useEmptyKernel\"]}",
        "{\"refused_options\": [\"outputStreamsMaxLength\"]}",
        "{\"refused_options\": [\"useEmptyKernel\", \"outputStreamsMaxLength\"]}"};
    for (size_t i = 0; i < 3; i++) {
        fixture_rules(f, rules[i]);
        fixture_client(f, NULL);
        fixture_wait(f, session_execute(f->session, &code, on_execution, f));
        assert_well(f);
        assert_int_equal(f->execution.result->valueint, 42);
    }
    /* What was taken once is not blamed: the request is not sent a second time. */
    fixture_rules(f, "{}");
    fixture_client(f, NULL);
    fixture_wait(f, session_execute(f->session, &code, on_execution, f));
    unsigned before = fixture_count(f, "POST /pool/executions");
    fixture_rules(f, rules[2]);
    fixture_wait(f, session_execute(f->session, &code, on_execution, f));
    assert_int_equal(f->err, -EINVAL);
    assert_int_equal(fixture_count(f, "POST /pool/executions"), before + 1);
}

static void on_info(void *arg, const struct session_error *e, const struct session_info *info)
{
    assert_true(e->err || info->etag);
    on_done(arg, e);
}

static void recycled_session_is_noticed(void **state)
{
    struct fixture *f = *state;
    struct session_state now;
    fixture_rules(f, "{\"x-ms-session-guid\": \"one\", \"x-ms-new-allocation\": \"true\"}");
    fixture_wait(f, session_connect(f->session, on_done, f));
    fixture_wait(f, session_list(f->session, "", false, on_list, f));
    assert_int_equal(f->recycled, 0);
    fixture_rules(f, "{\"x-ms-session-guid\": \"two\", \"x-ms-new-allocation\": \"true\"}");
    fixture_wait(f, session_list(f->session, "", false, on_list, f));
    fixture_wait(f, session_list(f->session, "", false, on_list, f));
    assert_int_equal(f->recycled, 1);
    fixture_rules(f, "{\"x-ms-session-guid\": \"two\"}");
    fixture_wait(f, session_info(f->session, on_info, f));
    session_get_state(f->session, &now);
    assert_string_equal(now.etag, "e1");
    assert_true(now.expires.tv_sec > 0);
    fixture_rules(f, "{\"etag\": \"e2\"}");
    fixture_wait(f, session_info(f->session, on_info, f));
    fixture_wait(f, session_connect(f->session, on_done, f));
    assert_int_equal(f->recycled, 2);
    session_get_state(f->session, &now);
    assert_int_equal(now.generation, 2);
    fixture_wait(f, session_delete(f->session, on_done, f));
    assert_well(f);
}

/* The tellers of one recycling are heard one after another, late answers of the old one between. */
static void one_recycling_is_told_once(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *rules;
        bool info;
        unsigned recycled;
    } steps[] = {
        {"{\"x-ms-session-guid\": \"one\", \"x-ms-session-etag\": \"a\", \"etag\": \"e1\"}", true,
         0},
        {"{\"x-ms-session-guid\": \"two\"}", false, 1},
        {"{\"x-ms-session-guid\": \"one\"}", false, 1},
        {"{\"x-ms-session-guid\": \"two\", \"x-ms-session-etag\": \"b\"}", false, 1},
        {"{\"x-ms-session-guid\": \"two\", \"etag\": \"e2\"}", true, 1},
        {"{\"x-ms-session-etag\": \"c\", \"x-ms-session-guid\": \"three\"}", false, 2},
        {"{\"etag\": \"e3\"}", true, 2},
        {"{\"etag\": \"e4\"}", true, 3},
        {"{\"x-ms-session-guid\": \"four\", \"x-ms-session-etag\": \"d\"}", false, 3},
        {"{\"x-ms-new-allocation\": \"true\"}", false, 3}, /* the first of these */
        {"{\"x-ms-new-allocation\": \"false\"}", false, 3},
        {"{\"x-ms-new-allocation\": \"true\"}", false, 4},
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        fixture_rules(f, steps[i].rules);
        if (steps[i].info)
            fixture_wait(f, session_info(f->session, on_info, f));
        else
            fixture_wait(f, session_list(f->session, "", false, on_list, f));
        fixture_wait(f, session_connect(f->session, on_done, f));
        if (f->recycled != steps[i].recycled)
            fail_msg("step %zu: %u recyclings, not %u", i, f->recycled, steps[i].recycled);
    }
}

/* --- about the pool */

static void on_names(void *arg, const struct session_error *e, const struct session_names *n)
{
    struct fixture *f = arg;
    f->size = n ? (int64_t)n->count : -1;
    f->heads = n ? (unsigned)n->hidden : 0;
    on_done(arg, e);
}

static void sessions_are_listed_page_by_page(void **state)
{
    struct fixture *f = *state;
    static const char *const rules[] = {
        "\"relative\": 1", "\"relative\": 0",
        "\"forms\": [\"GET listSessions 2025-02\"], \"relative\": 1",
        "\"forms\": [\"POST .management/listSessions 2025-02\"], \"relative\": 1"};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        char text[300];
        snprintf(text, sizeof text,
                 "{\"identifiers\": [\"one1\", \"two2\", \"a/b/c\", \"four\", \"five\"], \"page\": "
                 "2, %s}",
                 rules[i]);
        fixture_rules(f, text);
        for (int again = 0; again < 2; again++) {
            fixture_wait(f, session_sessions(f->session, on_names, f));
            assert_well(f);
            assert_int_equal(f->size, 4);
            assert_int_equal(f->heads, 1);
        }
    }
    assert_int_equal(fixture_count(f, "GET /pool/files"), 0); /* no session was touched */
}

static void lists_that_never_end_do(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"identifiers\": [\"one1\", \"two2\"], \"page\": 2, \"endless\": 1}");
    fixture_wait(f, session_sessions(f->session, on_names, f));
    assert_well(f);
    assert_int_equal(f->size, 2);
    assert_int_equal(fixture_count(f, "listSessions"), 2);
    fixture_rules(f, "{\"identifiers\": [\"one1\"], \"evil\": 1}");
    fixture_wait(f, session_sessions(f->session, on_names, f));
    assert_int_equal(f->err, -EPROTO);
}

static void pools_that_do_not_tell(void **state)
{
    struct fixture *f = *state;
    fixture_rules(f, "{\"identifiers\": [], \"forms\": []}");
    fixture_wait(f, session_sessions(f->session, on_names, f));
    assert_int_equal(f->err, -EOPNOTSUPP);
    fixture_wait(f, session_find(f->session, "alice", on_info, f));
    assert_int_equal(f->err, -EOPNOTSUPP);
}

static void one_session_is_looked_for(void **state)
{
    struct fixture *f = *state;
    static const char *const forms[] = {"GET session 2025-10", "GET session 2025-02",
                                        "POST .management/getSession 2025-02"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char text[200];
        snprintf(text, sizeof text, "{\"identifiers\": [\"alice\"], \"forms\": [\"%s\"]}",
                 forms[i]);
        fixture_rules(f, text);
        fixture_wait(f, session_find(f->session, "alice", on_info, f));
        assert_well(f);
        fixture_wait(f, session_find(f->session, "nobody", on_info, f));
        assert_int_equal(f->err, -ENOENT);
    }
}

static void identifier_stays_out_of_the_log(void **state)
{
    struct fixture *f = *state;
    char path[96], text[8192];
    snprintf(path, sizeof path, "%s/stderr", f->top);
    int kept = dup(2), fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    dup2(fd, 2);
    log_set_level(LOG_LEVEL_DEBUG);
    fixture_rules(f, "{\"x-ms-session-guid\": \"one\"}");
    fixture_wait(f, session_mkdir(f->session, "d", 0777, on_done, f));
    fixture_rules(f, "{\"x-ms-session-guid\": \"two\", \"lose_path\": true, \"busy\": 1}");
    fixture_upload(f, "d/x", "1", 1);
    fixture_rules(f, "{\"no_execute\": true}");
    fixture_wait(f, session_mkdir(f->session, "e", 0777, on_done, f));
    log_set_level(LOG_LEVEL_WARNING);
    dup2(kept, 2);
    close(kept);
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    close(fd);
    assert_true(n > 0);
    text[n] = '\0';
    assert_non_null(strstr(text, "new, empty one"));
    assert_null(strstr(text, "test|session"));
    assert_null(strstr(text, "test%7Csession"));
}

static void nothing_is_called_after_free(void **state)
{
    struct fixture *f = *state;
    const struct session_sink sink = fixture_sink(f);
    fixture_write(f, "r", "0123456789", 10);
    assert_non_null(session_download(f->session, "r", 0, &sink));
    assert_non_null(session_mkdir(f->session, "d", 0777, on_done, f));
    fixture_client(f, NULL); /* frees the client with both under way */
    fixture_wait(f, session_connect(f->session, on_done, f));
    assert_int_equal(f->answers, 1);
}

static void identifiers(void **state)
{
    (void)state;
    const char *why = NULL;
    assert_int_equal(session_identifier_check("abc-1234", &why), 0);
    assert_int_equal(session_identifier_check("abc", &why), -EINVAL);
    assert_non_null(why);
    assert_int_equal(session_identifier_check("with space", &why), -EINVAL);
}

#define with_pool(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_pool(newest_version_first),
        with_pool(older_versions_in_turn),
        with_pool(offered_version_at_once),
        with_pool(one_negotiation_for_all),
        with_pool(forced_version_is_not_given_up),
        with_pool(plain_file_goes_by_the_file_calls),
        with_pool(empty_file),
        with_pool(odd_names_go_by_the_helper),
        with_pool(large_odd_file_goes_through_a_stage_name),
        with_pool(large_file_goes_in_parts),
        with_pool(file_descriptor_is_uploaded),
        with_pool(refused_and_redirected_names_fall_back),
        with_pool(subdirectory_is_verified_once),
        with_pool(misplaced_subdirectory_is_noticed),
        with_pool(file_at_the_top_survives_an_ignored_path),
        with_pool(downloads_know_an_ignored_path),
        with_pool(downloads_without_a_namesake_begin_at_once),
        with_pool(downloads_without_a_namesake_know_an_ignored_path),
        with_pool(downloads_of_directories_are_verified_once),
        with_pool(failed_upload_leaves_nothing),
        with_pool(canceled_transfers_leave_nothing),
        with_pool(unverified_subdirectory_is_not_deleted_from),
        with_pool(directory_is_never_unlinked),
        with_pool(lost_answer_of_a_delete_is_no_error),
        with_pool(what_was_seen_is_deleted_by_one_request),
        with_pool(missing_things_are_missing),
        with_pool(ranges),
        with_pool(cut_download_is_tried_again),
        with_pool(recursive_listing_in_pages),
        with_pool(page_elsewhere_is_refused),
        with_pool(stage_files_are_not_listed),
        with_pool(listing_of_the_top_alone_is_known),
        with_pool(long_scans_come_in_pages),
        with_pool(hidden_things_are_told),
        with_pool(odd_directory_is_scanned),
        with_pool(names_are_changed),
        with_pool(helpers_are_batched_in_order),
        with_pool(requests_wait_for_the_one_under_way),
        with_pool(many_at_once),
        with_pool(download_may_be_canceled_by_its_taker),
        with_pool(taker_may_stop_a_download),
        with_pool(callback_may_ask_for_more),
        with_pool(canceled_request_is_not_sent),
        with_pool(lost_answer_is_looked_for),
        with_pool(gateway_error_is_no_answer),
        with_pool(lost_for_good),
        with_pool(never_done_is_done_again_where_that_is_safe),
        with_pool(running_execution_is_followed),
        with_pool(servers_differ_and_the_helper_works),
        with_pool(name_of_other_bytes_spoils_no_other),
        with_pool(broken_execution_is_an_error),
        with_pool(any_code_is_called),
        with_pool(old_shape),
        with_pool(execution),
        with_pool(options_of_executions_that_are_refused),
        with_pool(recycled_session_is_noticed),
        with_pool(one_recycling_is_told_once),
        with_pool(sessions_are_listed_page_by_page),
        with_pool(lists_that_never_end_do),
        with_pool(pools_that_do_not_tell),
        with_pool(one_session_is_looked_for),
        with_pool(identifier_stays_out_of_the_log),
        with_pool(nothing_is_called_after_free),
        cmocka_unit_test(identifiers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
