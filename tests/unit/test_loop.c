/* loop/: timers, descriptors, work on the helper thread, waking up. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop/loop.h"
#include "util/text.h"

enum { MANY = 200, GIVE_UP_MS = 20000 };

struct fixture {
    struct loop *loop;
    struct loop_timer watchdog;
    int trace[4096];
    size_t len;
};

static void give_up(void *arg)
{
    fail_msg("the loop did not end");
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (!f || loop_new(&f->loop))
        return -1;
    loop_timer_init(&f->watchdog, f->loop, give_up, f);
    loop_timer_set(&f->watchdog, GIVE_UP_MS);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    loop_timer_stop(&f->watchdog);
    loop_free(f->loop);
    free(f);
    return 0;
}

static void note(struct fixture *f, int what)
{
    assert_true(f->len < sizeof f->trace / sizeof *f->trace);
    f->trace[f->len++] = what;
}

/* What happened, as a string of letters. */
static void assert_trace(const struct fixture *f, const char *letters)
{
    char seen[4097] = "";
    for (size_t i = 0; i < f->len; i++)
        seen[i] = (char)f->trace[i];
    assert_string_equal(seen, letters);
}

static void quit(void *arg)
{
    struct fixture *f = arg;
    loop_quit(f->loop, 7);
}

static void run(struct fixture *f)
{
    assert_int_equal(loop_run(f->loop), 7);
}

static void run_for(struct fixture *f, int64_t ms)
{
    struct loop_timer end;
    loop_timer_init(&end, f->loop, quit, f);
    loop_timer_set(&end, ms);
    run(f);
}

/* --- timers */

struct ticker {
    struct loop_timer timer;
    struct fixture *f;
    int letter;
    struct ticker *other;
    int times;
};

static void tick(void *arg)
{
    struct ticker *t = arg;
    note(t->f, t->letter);
}

static void ticker_init(struct ticker *t, struct fixture *f, int letter, void (*fn)(void *))
{
    *t = (struct ticker){.f = f, .letter = letter};
    loop_timer_init(&t->timer, f->loop, fn, t);
}

static void timers_run_in_order(void **state)
{
    struct fixture *f = *state;
    static const int64_t after[] = {30, 0, 10, 0, 20, -5, 10};
    struct ticker t[7];
    for (int i = 0; i < 7; i++) {
        ticker_init(&t[i], f, 'a' + i, tick);
        assert_false(loop_timer_is_set(&t[i].timer));
    }
    int64_t start = clock_ms();
    for (int i = 0; i < 7; i++)
        loop_timer_set(&t[i].timer, after[i]);
    run_for(f, 31);
    assert_trace(f, "bdfcgea");
    assert_true(clock_ms() - start >= 31);
    for (int i = 0; i < 7; i++)
        assert_false(loop_timer_is_set(&t[i].timer));
}

static void timer_is_moved_and_stopped(void **state)
{
    struct fixture *f = *state;
    struct ticker a, b, c;
    ticker_init(&a, f, 'a', tick);
    ticker_init(&b, f, 'b', tick);
    ticker_init(&c, f, 'c', tick);
    loop_timer_set(&a.timer, 0);
    loop_timer_set(&b.timer, 5);
    loop_timer_set(&c.timer, 8);
    loop_timer_set(&a.timer, 10); /* behind them now, and runs once */
    loop_timer_stop(&b.timer);
    loop_timer_stop(&b.timer);
    assert_false(loop_timer_is_set(&b.timer));
    run_for(f, 20);
    assert_trace(f, "ca");
    loop_timer_set(&a.timer, INT64_MAX);
    assert_true(loop_timer_is_set(&a.timer));
    run_for(f, 5);
    assert_trace(f, "ca");
    loop_timer_stop(&a.timer);
}

static void stop_other(void *arg)
{
    struct ticker *t = arg;
    tick(t);
    loop_timer_stop(&t->other->timer);
}

static void timer_stops_one_that_is_due(void **state)
{
    struct fixture *f = *state;
    struct ticker a, b;
    ticker_init(&a, f, 'a', stop_other);
    ticker_init(&b, f, 'b', tick);
    a.other = &b;
    loop_timer_set(&a.timer, 0);
    loop_timer_set(&b.timer, 0);
    run_for(f, 5);
    assert_trace(f, "a");
}

static void tick_again(void *arg)
{
    struct ticker *t = arg;
    tick(t);
    if (--t->times)
        loop_timer_set(&t->timer, 0);
}

/* 0 ms means the next turn: what is ready by then gets its own turn in between. */
static void timer_set_by_itself_waits_its_turn(void **state)
{
    struct fixture *f = *state;
    struct ticker a, b;
    ticker_init(&a, f, 'a', tick_again);
    ticker_init(&b, f, 'b', tick_again);
    a.times = 2;
    b.times = 3;
    loop_timer_set(&a.timer, 0);
    loop_timer_set(&b.timer, 0);
    run_for(f, 5);
    assert_trace(f, "ababb");
}

static void heap_keeps_order(void **state)
{
    struct fixture *f = *state;
    static struct ticker t[1000];
    int64_t at[1000];
    srand(3);
    for (int i = 0; i < 1000; i++)
        ticker_init(&t[i], f, i, tick);
    for (int round = 0; round < 5000; round++) {
        int i = rand() % 1000;
        if (rand() % 4)
            loop_timer_set(&t[i].timer, rand() % 60);
        else
            loop_timer_stop(&t[i].timer);
    }
    size_t set = 0;
    for (int i = 0; i < 1000; i++) {
        at[i] = loop_timer_is_set(&t[i].timer) ? t[i].timer.at : -1;
        set += at[i] >= 0;
    }
    run_for(f, 200);
    assert_int_equal(f->len, set);
    for (size_t i = 1; i < f->len; i++)
        assert_true(at[f->trace[i - 1]] <= at[f->trace[i]]);
}

/* --- descriptors */

struct watched {
    struct fixture *f;
    struct loop_fd *fd;
    int ends[2];
    int letter;
    short revents;
    struct watched *other;
};

static void on_byte(void *arg, short revents)
{
    struct watched *w = arg;
    char byte;
    w->revents = revents;
    note(w->f, w->letter);
    if (read(w->ends[0], &byte, 1) != 1)
        loop_fd_events(w->fd, 0);
}

static void watch(struct watched *w, struct fixture *f, int letter, loop_fd_fn *fn)
{
    *w = (struct watched){.f = f, .letter = letter};
    assert_int_equal(pipe2(w->ends, O_CLOEXEC | O_NONBLOCK), 0);
    w->fd = loop_fd_add(f->loop, w->ends[0], CURL_WAIT_POLLIN, fn, w);
    assert_non_null(w->fd);
}

static void unwatch(struct watched *w)
{
    loop_fd_del(w->fd);
    close(w->ends[0]);
    close(w->ends[1]);
}

static void poke(const struct watched *w)
{
    assert_int_equal(write(w->ends[1], "x", 1), 1);
}

static void descriptors_are_watched(void **state)
{
    struct fixture *f = *state;
    static struct watched w[MANY];
    for (int i = 0; i < MANY; i++)
        watch(&w[i], f, i, on_byte);
    poke(&w[3]);
    poke(&w[MANY - 1]);
    poke(&w[0]);
    run_for(f, 5);
    assert_int_equal(f->len, 3);
    assert_int_equal(f->trace[0], 0);
    assert_int_equal(f->trace[1], 3);
    assert_int_equal(f->trace[2], MANY - 1);
    assert_int_equal(w[3].revents, CURL_WAIT_POLLIN);
    loop_fd_events(w[4].fd, 0); /* no interest for now */
    poke(&w[4]);
    run_for(f, 5);
    assert_int_equal(f->len, 3);
    loop_fd_events(w[4].fd, CURL_WAIT_POLLIN);
    run_for(f, 5);
    assert_int_equal(f->len, 4);
    for (int i = 0; i < MANY; i++)
        unwatch(&w[i]);
}

static void hang_up_shows_as_readable(void **state)
{
    struct fixture *f = *state;
    struct watched w;
    watch(&w, f, 'a', on_byte);
    close(w.ends[1]);
    w.ends[1] = -1;
    run_for(f, 5);
    assert_trace(f, "a");
    assert_true(w.revents & CURL_WAIT_POLLIN);
    unwatch(&w);
}

static void on_writable(void *arg, short revents)
{
    struct watched *w = arg;
    w->revents = revents;
    note(w->f, w->letter);
    loop_fd_events(w->fd, revents & CURL_WAIT_POLLIN ? 0 : CURL_WAIT_POLLIN);
}

static void interest_changes(void **state)
{
    struct fixture *f = *state;
    struct watched w = {.f = f, .letter = 'w'};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w.ends), 0);
    w.fd = loop_fd_add(f->loop, w.ends[0], CURL_WAIT_POLLOUT, on_writable, &w);
    run_for(f, 5);
    assert_trace(f, "w");
    assert_int_equal(w.revents, CURL_WAIT_POLLOUT);
    poke(&w);
    run_for(f, 5);
    assert_trace(f, "ww");
    assert_int_equal(w.revents, CURL_WAIT_POLLIN);
    loop_fd_events(w.fd, CURL_WAIT_POLLIN | CURL_WAIT_POLLOUT);
    run_for(f, 5);
    assert_trace(f, "www");
    assert_int_equal(w.revents, CURL_WAIT_POLLIN | CURL_WAIT_POLLOUT);
    unwatch(&w);
}

static void delete_both(void *arg, short revents)
{
    struct watched *w = arg;
    note(w->f, w->letter);
    loop_fd_del(w->other->fd);
    loop_fd_del(w->fd);
    w->fd = w->other->fd = NULL;
}

static void callback_removes_itself_and_others(void **state)
{
    struct fixture *f = *state;
    struct watched a, b;
    watch(&a, f, 'a', delete_both);
    watch(&b, f, 'b', delete_both);
    a.other = &b;
    b.other = &a;
    poke(&a);
    poke(&b);
    run_for(f, 5);
    assert_trace(f, "a");
    unwatch(&a);
    unwatch(&b);
}

/* A descriptor with the number of one just closed is another one. */
static void replace_other(void *arg, short revents)
{
    struct watched *w = arg;
    note(w->f, w->letter);
    unwatch(w->other);
    watch(w->other, w->f, 'n', on_byte);
    loop_fd_events(w->fd, 0);
}

static void number_is_used_again(void **state)
{
    struct fixture *f = *state;
    struct watched a, b;
    watch(&a, f, 'a', replace_other);
    watch(&b, f, 'b', on_byte);
    a.other = &b;
    poke(&a);
    poke(&b);
    run_for(f, 5);
    assert_trace(f, "a");
    poke(&b);
    run_for(f, 5);
    assert_trace(f, "an");
    unwatch(&a);
    unwatch(&b);
}

static void lose_interest(void *arg, short revents)
{
    struct watched *w = arg;
    note(w->f, w->letter);
    loop_fd_events(w->fd, 0);
    loop_fd_events(w->other->fd, 0);
}

static void interest_lost_in_the_same_turn(void **state)
{
    struct fixture *f = *state;
    struct watched a, b;
    watch(&a, f, 'a', lose_interest);
    watch(&b, f, 'b', lose_interest);
    a.other = &b;
    b.other = &a;
    poke(&a);
    poke(&b);
    run_for(f, 5);
    assert_trace(f, "a");
    unwatch(&a);
    unwatch(&b);
}

/* --- work */

struct job {
    struct fixture *f;
    int number;
    pthread_t ran_on, told_on;
    bool signals_blocked;
    struct job *next;
};

static int do_work(void *arg)
{
    struct job *j = arg;
    sigset_t mask;
    j->ran_on = pthread_self();
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    j->signals_blocked = sigismember(&mask, SIGTERM) && sigismember(&mask, SIGINT);
    return j->number * 10;
}

static void work_done(void *arg, int result)
{
    struct job *j = arg;
    j->told_on = pthread_self();
    assert_int_equal(result, j->number * 10);
    note(j->f, j->number);
    if (j->next)
        assert_int_equal(loop_work(j->f->loop, do_work, work_done, j->next), 0);
    else
        loop_quit(j->f->loop, 7);
}

static void work_is_done_in_order_elsewhere(void **state)
{
    struct fixture *f = *state;
    static struct job jobs[MANY];
    for (int i = 0; i < MANY; i++)
        jobs[i] = (struct job){.f = f, .number = i};
    struct job *last = &jobs[MANY - 1];
    jobs[MANY - 2].next = last; /* who is told of one may add another */
    for (int i = 0; i < MANY - 1; i++)
        assert_int_equal(loop_work(f->loop, do_work, work_done, &jobs[i]), 0);
    while (f->len < MANY)
        run(f);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(f->trace[i], i);
    assert_false(pthread_equal(jobs[0].ran_on, pthread_self()));
    assert_true(pthread_equal(jobs[0].ran_on, last->ran_on));
    assert_true(pthread_equal(jobs[0].told_on, pthread_self()));
    assert_true(jobs[0].signals_blocked);
}

static void freeing_waits_for_work(void **state)
{
    struct fixture f = {0};
    struct job a = {.f = &f, .number = 1}, b = {.f = &f, .number = 2};
    assert_int_equal(loop_new(&f.loop), 0);
    assert_int_equal(loop_work(f.loop, do_work, work_done, &a), 0);
    assert_int_equal(loop_work(f.loop, do_work, work_done, &b), 0);
    loop_free(f.loop);
    assert_int_equal(f.len, 2);
}

/* --- waking up and sleeping */

static void *wake(void *arg)
{
    struct fixture *f = arg;
    loop_wakeup(f->loop);
    return NULL;
}

static void wakes_up_from_another_thread(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;
    int64_t start = clock_ms();
    assert_int_equal(pthread_create(&thread, NULL, wake, f), 0);
    curl_multi_poll(loop_multi(f->loop), NULL, 0, GIVE_UP_MS, NULL);
    assert_true(clock_ms() - start < GIVE_UP_MS / 2);
    pthread_join(thread, NULL);
    for (int i = 0; i < 100000; i++)
        loop_wakeup(f->loop); /* more than a pipe holds: nobody blocks */
    run_for(f, 5);
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void sleeps_when_nothing_is_due(void **state)
{
    struct fixture *f = *state;
    struct watched quiet, deaf;
    watch(&quiet, f, 'q', on_byte);
    watch(&deaf, f, 'd', on_byte);
    poke(&deaf);
    loop_fd_events(deaf.fd, 0);
    double before = cpu_seconds();
    run_for(f, 300);
    assert_true(cpu_seconds() - before < 0.05);
    assert_int_equal(f->len, 0);
    unwatch(&quiet);
    unwatch(&deaf);
}

static void runs_again_after_quitting(void **state)
{
    struct fixture *f = *state;
    struct loop_timer t;
    loop_timer_init(&t, f->loop, quit, f);
    for (int i = 0; i < 3; i++) {
        loop_timer_set(&t, 0);
        run(f);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(timers_run_in_order),
        TEST(timer_is_moved_and_stopped),
        TEST(timer_stops_one_that_is_due),
        TEST(timer_set_by_itself_waits_its_turn),
        TEST(heap_keeps_order),
        TEST(descriptors_are_watched),
        TEST(hang_up_shows_as_readable),
        TEST(interest_changes),
        TEST(callback_removes_itself_and_others),
        TEST(number_is_used_again),
        TEST(interest_lost_in_the_same_turn),
        TEST(work_is_done_in_order_elsewhere),
        cmocka_unit_test(freeing_waits_for_work),
        TEST(wakes_up_from_another_thread),
        TEST(sleeps_when_nothing_is_due),
        TEST(runs_again_after_quitting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
