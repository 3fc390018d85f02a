/* The journal's file and its records: what was whole is read back, what was torn is not. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/journal.h"
#include "store/record.h"

static char directory[64];

static int make_directory(void **state)
{
    strcpy(directory, "/tmp/test-journal-XXXXXX");
    if (!mkdtemp(directory))
        return -1;
    int *fd = malloc(sizeof *fd);
    *fd = open(directory, O_RDONLY | O_DIRECTORY);
    *state = fd;
    return *fd < 0;
}

static int drop_directory(void **state)
{
    int *fd = *state;
    unlinkat(*fd, "journal", 0);
    unlinkat(*fd, "journal.new", 0);
    close(*fd);
    free(fd);
    return rmdir(directory);
}

/* Collects what it is given, a line each. */
static int collect(void *arg, const void *body, size_t len)
{
    buf_add(arg, body, len);
    return buf_adds(arg, "\n");
}

static struct journal *reopen(int dir, const char *expected, uint64_t lost)
{
    struct buf seen = {0};
    struct journal *j = NULL;
    uint64_t dropped = 12345;
    assert_int_equal(journal_open(dir, collect, &seen, &j, &dropped), 0);
    assert_string_equal(seen.data ? seen.data : "", expected);
    assert_int_equal(dropped, lost);
    buf_free(&seen);
    return j;
}

static void append(struct journal *j, const char *one, const char *two)
{
    struct buf frames = {0};
    assert_int_equal(journal_frame(&frames, one, strlen(one)), 0);
    if (two)
        assert_int_equal(journal_frame(&frames, two, strlen(two)), 0);
    assert_int_equal(journal_append(j, &frames, true), 0);
    buf_free(&frames);
}

static void test_what_was_written_is_read(void **state)
{
    int dir = **(int **)state;
    struct journal *j = reopen(dir, "", 0);
    append(j, "a", "");
    append(j, "longer", NULL);
    journal_close(j);
    j = reopen(dir, "a\n\nlonger\n", 0);
    append(j, "more", NULL);
    journal_close(j);
    journal_close(reopen(dir, "a\n\nlonger\nmore\n", 0));
}

static void test_a_torn_end_is_cut_off_wherever_it_is(void **state)
{
    int dir = **(int **)state;
    struct journal *j = reopen(dir, "", 0);
    append(j, "first", NULL);
    uint64_t whole = journal_size(j);
    append(j, "second", NULL);
    uint64_t all = journal_size(j);
    journal_close(j);
    for (uint64_t end = all - 1; end > whole; end--) {
        int fd = openat(dir, "journal", O_RDWR);
        assert_int_equal(ftruncate(fd, (off_t)end), 0);
        close(fd);
        j = reopen(dir, "first\n", end - whole);
        assert_int_equal(journal_size(j), whole);
        append(j, "second", NULL);
        journal_close(j);
        journal_close(reopen(dir, "first\nsecond\n", 0));
    }
}

static void test_a_flipped_bit_is_never_misread(void **state)
{
    int dir = **(int **)state;
    struct journal *j = reopen(dir, "", 0);
    append(j, "first", NULL);
    uint64_t whole = journal_size(j);
    append(j, "second", NULL);
    uint64_t all = journal_size(j);
    journal_close(j);
    for (uint64_t at = whole; at < all; at++) {
        int fd = openat(dir, "journal", O_RDWR);
        unsigned char byte;
        assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
        byte ^= 1 << at % 8;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
        close(fd);
        j = reopen(dir, "first\n", all - whole);
        append(j, "second", NULL);
        journal_close(j);
    }
}

static void test_a_journal_cut_while_it_was_made_is_new(void **state)
{
    int dir = **(int **)state;
    int fd = openat(dir, "journal", O_RDWR | O_CREAT, 0600);
    assert_int_equal(write(fd, "aca", 3), 3);
    close(fd);
    struct journal *j = reopen(dir, "", 3);
    append(j, "a", NULL);
    journal_close(j);
    journal_close(reopen(dir, "a\n", 0));
}

static void test_another_version_is_refused_and_left_alone(void **state)
{
    int dir = **(int **)state;
    int fd = openat(dir, "journal", O_RDWR | O_CREAT, 0600);
    assert_int_equal(write(fd, "acafsj9\nwhatever", 16), 16);
    struct journal *j;
    uint64_t dropped;
    struct stat st;
    assert_int_equal(journal_open(dir, collect, NULL, &j, &dropped), -EPROTO);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 16);
    close(fd);
}

static void test_replacing_takes_the_place_of_all(void **state)
{
    int dir = **(int **)state;
    struct journal *j = reopen(dir, "", 0);
    append(j, "old", "older");
    struct buf frames = {0};
    assert_int_equal(journal_frame(&frames, "new", 3), 0);
    assert_int_equal(journal_replace(j, &frames), 0);
    buf_free(&frames);
    append(j, "newer", NULL);
    journal_close(j);
    journal_close(reopen(dir, "new\nnewer\n", 0));
}

static void test_a_record_may_not_be_too_long(void **state)
{
    struct buf frames = {0};
    char *body = calloc(1, JOURNAL_RECORD_MAX + 1);
    assert_int_equal(journal_frame(&frames, body, JOURNAL_RECORD_MAX + 1), -EMSGSIZE);
    assert_int_equal(frames.len, 0);
    assert_int_equal(journal_frame(&frames, body, JOURNAL_RECORD_MAX), 0);
    free(body);
    buf_free(&frames);
}

/* --- records */

static const struct record samples[] = {
    {.type = RECORD_NODE,
     .path = "d/\xc3\xa9 x",
     .other = "",
     .facts = {.flags = NODE_ON_SERVER | NODE_OWN_MODE,
               .mode = S_IFREG | 0640,
               .uid = 1,
               .gid = UINT32_MAX,
               .content = UINT64_MAX,
               .size = -1,
               .mtime = {-1, 999999999},
               .atime = {1, 2},
               .ctime = {3, 4},
               .base = {.size = INT64_MAX, .mtime = {.tv_nsec = -1}},
               .sent = UINT64_MAX}},
    {.type = RECORD_GONE, .path = "a", .other = ""},
    {.type = RECORD_MOVE, .path = "a", .other = "b/c"},
    {.type = RECORD_LEFT, .path = "a", .other = "", .facts.base = {.size = 7}},
    {.type = RECORD_INTENT, .path = "a", .other = "b", .how = 2},
    {.type = RECORD_SETTLED, .path = "a", .other = "b"},
    {.type = RECORD_SESSION, .path = "0123-4567", .other = ""},
};

static void test_records_are_read_as_written(void **state)
{
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        struct buf body = {0};
        struct record r;
        assert_int_equal(record_write(&body, &samples[i]), 0);
        assert_int_equal(record_read(body.data, body.len, &r), 0);
        assert_int_equal(r.type, samples[i].type);
        assert_int_equal(r.how, samples[i].how);
        assert_string_equal(r.path, samples[i].path);
        assert_string_equal(r.other, samples[i].other);
        assert_memory_equal(&r.facts, &samples[i].facts, sizeof r.facts);
        buf_free(&body);
    }
}

static bool has_facts(enum record_type type)
{
    return type == RECORD_NODE || type == RECORD_LEFT;
}

static void test_records_of_old_journals_are_read(void **state)
{
    struct buf body = {0};
    struct record r;
    assert_int_equal(record_write(&body, &samples[0]), 0);
    assert_int_equal(record_read(body.data, body.len - 8, &r), 0); /* without `sent` */
    assert_int_equal(r.facts.base.size, samples[0].facts.base.size);
    assert_int_equal(r.facts.sent, 0);
    buf_free(&body);
}

static void test_records_cut_short_are_refused(void **state)
{
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        struct buf body = {0};
        struct record r;
        assert_int_equal(record_write(&body, &samples[i]), 0);
        for (size_t len = 0; len < body.len; len++) {
            if (!has_facts(samples[i].type) || len != body.len - 8)
                assert_int_equal(record_read(body.data, len, &r), -EPROTO);
        }
        assert_int_equal(buf_add(&body, "", 1), 0);
        assert_int_equal(record_read(body.data, body.len, &r), -EPROTO);
        buf_free(&body);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define ON_DISK(test) cmocka_unit_test_setup_teardown(test, make_directory, drop_directory)
        ON_DISK(test_what_was_written_is_read),
        ON_DISK(test_a_torn_end_is_cut_off_wherever_it_is),
        ON_DISK(test_a_flipped_bit_is_never_misread),
        ON_DISK(test_a_journal_cut_while_it_was_made_is_new),
        ON_DISK(test_another_version_is_refused_and_left_alone),
        ON_DISK(test_replacing_takes_the_place_of_all),
        cmocka_unit_test(test_a_record_may_not_be_too_long),
        cmocka_unit_test(test_records_are_read_as_written),
        cmocka_unit_test(test_records_of_old_journals_are_read),
        cmocka_unit_test(test_records_cut_short_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
