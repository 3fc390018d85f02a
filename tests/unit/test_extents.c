/* store/extents.c against a map of bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/extents.h"

enum { SIZE = 200 };

static void check(const struct extents *e, const char *map)
{
    for (size_t at = 0; at < SIZE; at++) {
        size_t end = at, start = at, next = at;
        while (end < SIZE && map[end])
            end++;
        while (start > 0 && map[start - 1])
            start--;
        while (next < SIZE && !map[next])
            next++;
        assert_int_equal(extents_end(e, at), end);
        assert_int_equal(extents_start(e, at), start);
        assert_int_equal(extents_next(e, at), next == SIZE ? UINT64_MAX : next);
    }
    for (size_t i = 1; i < e->count; i++)
        assert_true(e->list[i - 1].end < e->list[i].start);
}

static void any_order(void **state)
{
    srand(7);
    for (int round = 0; round < 200; round++) {
        struct extents e = {0};
        char map[SIZE] = {0};
        for (int i = 0; i < 12; i++) {
            size_t start = (size_t)rand() % SIZE, len = (size_t)rand() % 40;
            len = start + len > SIZE ? SIZE - start : len;
            assert_int_equal(extents_add(&e, start, start + len), 0);
            memset(map + start, 1, len);
            check(&e, map);
        }
        extents_clear(&e);
        assert_int_equal(e.count, 0);
    }
}

static void taken_away(void **state)
{
    srand(8);
    for (int round = 0; round < 500; round++) {
        struct extents e = {0};
        char map[SIZE] = {0};
        for (int i = 0; i < 16; i++) {
            size_t start = (size_t)rand() % SIZE, len = (size_t)rand() % 60, were = 0;
            len = start + len > SIZE ? SIZE - start : len;
            for (size_t at = start; at < start + len; at++)
                were += map[at] != 0;
            if (i % 2)
                assert_int_equal(extents_remove(&e, start, start + len), were);
            else
                assert_int_equal(extents_add(&e, start, start + len), 0);
            memset(map + start, !(i % 2), len);
            check(&e, map);
        }
        extents_clear(&e);
    }
}

static void in_order_is_one(void **state)
{
    struct extents e = {0};
    for (uint64_t at = 0; at < 1000; at += 10)
        assert_int_equal(extents_add(&e, at, at + 10), 0);
    assert_int_equal(e.count, 1);
    assert_int_equal(extents_end(&e, 0), 1000);
    extents_clear(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_order),
        cmocka_unit_test(taken_away),
        cmocka_unit_test(in_order_is_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
