/* store/inode.c: names come and go, inodes stay as long as someone needs them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/inode.h"

static unsigned released;

static void count_release(void *arg, struct inode *inode)
{
    released++;
}

static int set_up(void **state)
{
    struct inode_table *t = malloc(sizeof *t);
    assert_int_equal(inode_table_init(t, 1000, 1000, 022), 0);
    t->release = count_release;
    released = 0;
    *state = t;
    return 0;
}

static int tear_down(void **state)
{
    inode_table_free(*state);
    free(*state);
    return 0;
}

static const char *path_of(const struct inode *inode)
{
    static char text[8192];
    struct buf b = {0};
    if (!inode_path(inode, &b))
        return NULL;
    snprintf(text, sizeof text, "%s", b.data);
    buf_free(&b);
    return text;
}

static void paths_follow_the_tree(void **state)
{
    struct inode_table *t = *state;
    struct inode *d = inode_add(t, t->root, "d", S_IFDIR | 0755);
    struct inode *e = inode_add(t, d, "e", S_IFDIR | 0755);
    struct inode *f = inode_add(t, e, "f g", S_IFREG | 0644);
    assert_string_equal(path_of(t->root), "");
    assert_string_equal(path_of(d), "d");
    assert_string_equal(path_of(f), "d/e/f g");
    struct buf b = {0};
    assert_true(inode_child_path(t->root, "x", &b));
    assert_string_equal(b.data, "x");
    b.len = 0;
    assert_true(inode_child_path(e, "x", &b));
    assert_string_equal(b.data, "d/e/x");
    buf_free(&b);
    assert_int_equal(inode_move(t, e, t->root, "E"), 0);
    assert_string_equal(path_of(f), "E/f g");
    assert_null(inode_child(d, "e"));
    assert_ptr_equal(inode_child(t->root, "E"), e);
    assert_true(inode_below(f, e));
    assert_true(inode_below(e, e));
    assert_false(inode_below(e, f));
    assert_ptr_equal(inode_find(t, f->id), f);
}

static void an_inode_in_use_outlives_its_name(void **state)
{
    struct inode_table *t = *state;
    struct inode *f = inode_add(t, t->root, "f", S_IFREG | 0644);
    uint64_t id = f->id;
    inode_looked_up(f);
    inode_looked_up(f);
    inode_pin(f);
    inode_remove(t, f);
    assert_null(inode_child(t->root, "f"));
    assert_ptr_equal(inode_find(t, id), f);
    assert_null(path_of(f));
    inode_forget(t, f, 2);
    assert_ptr_equal(inode_find(t, id), f);
    inode_unpin(t, f);
    assert_null(inode_find(t, id));
    assert_int_equal(released, 1);
}

static void ids_are_never_used_twice(void **state)
{
    struct inode_table *t = *state;
    struct inode *f = inode_add(t, t->root, "f", S_IFREG | 0644);
    uint64_t id = f->id;
    inode_remove(t, f);
    assert_int_equal(released, 1);
    f = inode_add(t, t->root, "f", S_IFREG | 0644);
    assert_int_not_equal(f->id, id);
}

static void forgetting_too_much_does_no_harm(void **state)
{
    struct inode_table *t = *state;
    struct inode *f = inode_add(t, t->root, "f", S_IFREG | 0644);
    inode_looked_up(f);
    inode_forget(t, f, 99);
    assert_ptr_equal(inode_child(t->root, "f"), f); /* still named */
    inode_forget(t, t->root, 5);
    assert_ptr_equal(inode_find(t, INODE_ROOT_ID), t->root);
}

static void a_tree_is_removed_but_for_what_is_open(void **state)
{
    struct inode_table *t = *state;
    struct inode *d = inode_add(t, t->root, "d", S_IFDIR | 0755), *at = d, *open_file = NULL;
    for (int i = 0; i < 3000; i++) { /* deeper than a stack of recursion would like */
        struct inode *next = inode_add(t, at, "d", S_IFDIR | 0755);
        struct inode *f = inode_add(t, at, "f", S_IFREG | 0644);
        if (i == 1500) {
            open_file = f;
            inode_pin(f);
        }
        at = next;
    }
    inode_remove(t, d);
    assert_int_equal(t->count, 2); /* the root and the open file */
    inode_unpin(t, open_file);
    assert_int_equal(t->count, 1);
}

static void names_are_exchanged(void **state)
{
    struct inode_table *t = *state;
    struct inode *d = inode_add(t, t->root, "d", S_IFDIR | 0755);
    struct inode *a = inode_add(t, t->root, "a", S_IFREG | 0644);
    struct inode *b = inode_add(t, d, "b", S_IFREG | 0644);
    inode_swap(t, a, b);
    assert_ptr_equal(inode_child(t->root, "a"), b);
    assert_ptr_equal(inode_child(d, "b"), a);
    assert_string_equal(path_of(a), "d/b");
    assert_string_equal(path_of(b), "a");
    struct inode *c = inode_add(t, t->root, "c", S_IFREG | 0644);
    inode_swap(t, b, c);
    assert_ptr_equal(inode_child(t->root, "a"), c);
    assert_ptr_equal(inode_child(t->root, "c"), b);
}

static void many_names_in_one_directory(void **state)
{
    struct inode_table *t = *state;
    char name[32];
    for (int i = 0; i < 100000; i++) {
        snprintf(name, sizeof name, "file-%d", i);
        assert_non_null(inode_add(t, t->root, name, S_IFREG | 0644));
    }
    for (int i = 0; i < 100000; i++) {
        snprintf(name, sizeof name, "file-%d", i);
        inode_remove(t, inode_child(t->root, name));
    }
    assert_int_equal(t->count, 1);
    assert_true(sizeof(struct inode) <= 320);
}

static void ids_are_found_while_others_go(void **state)
{
    struct inode_table *t = *state;
    struct inode *made[3000] = {0};
    char name[16];
    srand(3);
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "n%u", i);
        made[i] = inode_add(t, t->root, name, S_IFREG | 0644);
        unsigned gone = (unsigned)rand() % (i + 1);
        if (i % 3 && made[gone]) {
            uint64_t id = made[gone]->id;
            inode_remove(t, made[gone]);
            made[gone] = NULL;
            assert_null(inode_find(t, id));
        }
    }
    size_t left = 1; /* the root */
    for (unsigned i = 0; i < 3000; i++) {
        left += made[i] != NULL;
        if (made[i])
            assert_ptr_equal(inode_find(t, made[i]->id), made[i]);
    }
    size_t seen = 0;
    for (size_t at = 0; inode_next(t, &at);)
        seen++;
    assert_int_equal(seen, left);
    assert_int_equal(t->count, left);
}

/* With 8 bytes before it, up to 16 in the table of ids and 3 in that of names. */
static void an_inode_is_small(void **state)
{
    assert_true(sizeof(struct inode) <= 256 - 8 - 16 - 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(paths_follow_the_tree, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_inode_in_use_outlives_its_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ids_are_never_used_twice, set_up, tear_down),
        cmocka_unit_test_setup_teardown(forgetting_too_much_does_no_harm, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_tree_is_removed_but_for_what_is_open, set_up, tear_down),
        cmocka_unit_test_setup_teardown(names_are_exchanged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_names_in_one_directory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ids_are_found_while_others_go, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_inode_is_small, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
