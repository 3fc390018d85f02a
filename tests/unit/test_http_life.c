/* http/: how calls wait for each other, and how they end: by time, by cancellation, with http. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "http_fixture.h"
#include "util/text.h"

#define EMPTY "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
#define HALF "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234"
#define FIFTY "01234567890123456789012345678901234567890123456789"
#define BUSY_FOR_LONG "HTTP/1.1 503 Busy\r\nRetry-After: 600\r\nContent-Length: 0\r\n\r\n"

static struct fixture f;

static int setup(void **state)
{
    const struct http_options options = {.retries = 2, .max_transfers = 2};
    fixture_start(&f, &options);
    return 0;
}

static int teardown(void **state)
{
    fixture_stop(&f);
    return 0;
}

static void start(struct result *r, struct http_request q)
{
    request_start(&f, r, &q, "/");
}

static void run(struct result *r, struct http_request q)
{
    request_run(&f, r, &q, "/");
}

static struct http_request streaming(void)
{
    return (struct http_request){.on_head = result_head, .on_data = result_data};
}

static unsigned active(void)
{
    struct http_stats stats;
    http_get_stats(f.http, &stats);
    return stats.active;
}

static unsigned waiting(void)
{
    struct http_stats stats;
    http_get_stats(f.http, &stats);
    return stats.waiting;
}

static bool none_active(void *arg)
{
    return active() == 0;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* --- time */

static void assert_times_out(struct http_request q, int64_t ms, const char *why)
{
    struct result r = {0};
    int64_t began = clock_ms();
    double cpu = cpu_seconds();
    run(&r, q);
    int64_t took = clock_ms() - began;
    assert_int_equal(r.err, -ETIMEDOUT);
    assert_int_equal(r.status, 0);
    assert_true(r.sent);
    assert_in_range(took, ms, ms + 5000);    /* the machine may be busy */
    assert_true(cpu_seconds() - cpu < 0.15); /* the fixture looks every 2 ms; nothing spins */
    if (!strstr(r.why, why))
        fail_msg("\"%s\" lacks \"%s\"", r.why, why);
    result_free(&r);
}

static void deadline_ends_a_frozen_answer(void **state)
{
    SERVE(&f, {.end = STEP_FREEZE});
    assert_times_out((struct http_request){.deadline_ms = 400}, 400,
                     "no complete answer within 0.4 s");
}

/* The kernel connects and takes bytes for a server that never looks. */
static void deadline_ends_a_frozen_server(void **state)
{
    const struct server_options options = {.frozen = true};
    fixture_serve(&f, NULL, 0, &options);
    static char large[8 << 20];
    assert_times_out((struct http_request){.method = "POST",
                                           .body = HTTP_BODY_BYTES,
                                           .data = large,
                                           .len = sizeof large,
                                           .deadline_ms = 400},
                     400, "no complete answer");
}

static void deadline_holds_for_all_attempts(void **state)
{
    SERVE(&f, {.reply = "HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"},
          {.end = STEP_FREEZE});
    assert_times_out((struct http_request){.deadline_ms = 800}, 800, "no complete answer");
    assert_int_equal(server_requests(f.server), 2);
}

static void deadline_passes_in_the_queue(void **state)
{
    SERVE(&f, {.end = STEP_FREEZE});
    struct result first = {0}, second = {0}, third = {0};
    start(&first, (struct http_request){0});
    start(&second, (struct http_request){0});
    run(&third, (struct http_request){.deadline_ms = 50});
    assert_int_equal(third.err, -ETIMEDOUT);
    assert_false(third.sent);
    assert_int_equal(third.attempts, 0);
    assert_non_null(strstr(third.why, "behind 2 other transfers"));
    http_cancel(first.call);
    http_cancel(second.call);
}

static void deadline_passes_without_a_token(void **state)
{
    SERVE(&f, {.reply = EMPTY});
    struct fake_auth a;
    struct result r = {0};
    auth_init(&a, &f);
    a.never = true;
    run(&r, (struct http_request){.auth = &a.authorizer, .deadline_ms = 50});
    assert_int_equal(r.err, -ETIMEDOUT);
    assert_false(r.sent);
    assert_int_equal(a.cancelled, 1);
    assert_non_null(strstr(r.why, "no token"));
}

static void silence_ends_an_attempt(void **state)
{
    SERVE(&f, {.reply = HALF, .end = STEP_FREEZE});
    struct http_request q = streaming();
    q.idle_ms = 400;
    q.retry = HTTP_RETRY_NEVER;
    assert_times_out(q, 400, "no answer for 0.4 s");
}

static void silence_is_retried(void **state)
{
    SERVE(&f, {.reply = HALF, .end = STEP_FREEZE}, {.reply = OK_REPLY(1, "x")});
    struct result r = {0};
    run(&r, (struct http_request){.idle_ms = 400});
    assert_int_equal(r.status, 200);
    assert_int_equal(r.attempts, 2);
    assert_string_equal(r.body, "x");
}

/* Every byte counts, however long all of them take (of the head, every line). */
static void slow_bytes_are_progress(void **state)
{
    SERVE(&f, {.reply = "HTTP/1.1 200 OK\r\n\r\n" FIFTY FIFTY FIFTY FIFTY,
               .end = STEP_CLOSE,
               .drip_ms = 5});
    struct result r = {0};
    int64_t began = clock_ms();
    run(&r, (struct http_request){.idle_ms = 1000, .retry = HTTP_RETRY_NEVER});
    assert_int_equal(r.status, 200);
    assert_int_equal(r.body_len, 200);
    assert_true(clock_ms() - began > 1000);
}

/* --- the queue */

static bool enough_sent(void *arg)
{
    return server_requests(f.server) >= *(size_t *)arg;
}

static void calls_wait_their_turn(void **state)
{
    SERVE(&f, {.reply = EMPTY, .hold = true});
    enum { CALLS = 7 };
    struct result r[CALLS] = {0};
    for (size_t i = 0; i < CALLS; i++) {
        const char path[] = {'/', (char)('0' + i), '\0'};
        struct http_request q = {0};
        request_start(&f, &r[i], &q, path);
    }
    for (size_t sent = 2; sent <= CALLS; sent++) {
        fixture_until(&f, enough_sent, &sent);
        fixture_turns(&f);
        assert_int_equal(server_requests(f.server), sent);
        assert_int_equal(active(), 2);
        assert_int_equal(waiting(), CALLS - sent);
        server_release(f.server, 1);
    }
    server_release(f.server, 1);
    for (size_t i = 0; i < CALLS; i++)
        request_wait(&r[i]);
    assert_int_equal(server_most_at_once(f.server), 2);
    for (size_t i = 2; i < CALLS; i++) { /* two side by side, else as they came */
        const char line[] = {'G', 'E', 'T', ' ', '/', (char)('0' + i), ' ', '\0'};
        assert_memory_equal(server_head(f.server, i), line, sizeof line - 1);
    }
    assert_int_equal(active() + waiting(), 0);
}

static void secret_call_waits_for_nobody(void **state)
{
    SERVE(&f, {.reply = EMPTY, .hold = true}, {.reply = EMPTY, .hold = true},
          {.reply = OK_REPLY(6, "secret")});
    struct result first = {0}, second = {0}, third = {0}, secret = {0};
    start(&first, (struct http_request){0});
    start(&second, (struct http_request){0});
    fixture_until_requests(&f, 2);
    start(&third, (struct http_request){0});
    run(&secret, (struct http_request){.secret = true});
    assert_string_equal(secret.body, "secret");
    assert_int_equal(third.done, 0);
    server_release(f.server, 2);
    request_wait(&first);
    request_wait(&second);
    request_wait(&third);
}

/* A call that waits for its next attempt takes no place. */
static void backoff_gives_its_place_away(void **state)
{
    SERVE(&f, {.reply = BUSY_FOR_LONG, .hold = true}, {.reply = BUSY_FOR_LONG, .hold = true},
          {.reply = EMPTY});
    struct result a = {0}, b = {0}, c = {0};
    start(&a, (struct http_request){0});
    start(&b, (struct http_request){0});
    start(&c, (struct http_request){0});
    fixture_until_requests(&f, 2); /* or c's might come before b's */
    server_release(f.server, 2);
    request_wait(&c);
    assert_int_equal(c.status, 200);
    fixture_until(&f, none_active, NULL);
    assert_int_equal(a.done + b.done, 0);
    assert_int_equal(waiting(), 0);
    http_cancel(a.call);
    http_cancel(b.call);
}

/* Tokens that are refused at once, for a queue as long as this, must not nest. */
static void long_queue_fails_at_once(void **state)
{
    SERVE(&f, {.reply = EMPTY});
    enum { CALLS = 20000 };
    struct fake_auth a;
    struct result *r = calloc(CALLS, sizeof *r), first = {0}, second = {0};
    struct fake_auth never;
    auth_init(&a, &f);
    auth_init(&never, &f);
    a.err = -EACCES;
    never.never = true;
    start(&first, (struct http_request){.auth = &never.authorizer});
    start(&second, (struct http_request){.auth = &never.authorizer});
    for (size_t i = 0; i < CALLS; i++)
        start(&r[i], (struct http_request){.auth = &a.authorizer});
    assert_int_equal(waiting(), CALLS);
    http_cancel(first.call);
    for (size_t i = 0; i < CALLS; i++)
        request_wait(&r[i]);
    assert_int_equal(r[CALLS - 1].err, -EACCES);
    http_cancel(second.call);
    free(r);
}

/* --- cancellation */

static void cancel(struct result *r)
{
    http_cancel(r->call);
    r->call = NULL;
}

static void assert_silent(struct result *r)
{
    unsigned heads = r->heads, datas = r->datas;
    uint64_t sent = r->last_sent;
    fixture_turns(&f);
    assert_int_equal(r->done, 0);
    assert_int_equal(r->heads, heads);
    assert_int_equal(r->datas, datas);
    assert_int_equal(r->last_sent, sent);
    assert_int_equal(active() + waiting(), 0);
    result_free(r);
}

static void cancel_at_once(void **state)
{
    SERVE(&f, {.reply = EMPTY});
    struct result r = {0};
    start(&r, (struct http_request){0});
    cancel(&r);
    assert_silent(&r);
    http_cancel(NULL);
}

static void cancel_in_the_queue(void **state)
{
    SERVE(&f, {.reply = EMPTY, .hold = true});
    struct result first = {0}, second = {0}, third = {0};
    start(&first, (struct http_request){0});
    start(&second, (struct http_request){0});
    start(&third, (struct http_request){0});
    fixture_until_requests(&f, 2);
    cancel(&third);
    server_release(f.server, 2);
    request_wait(&first);
    request_wait(&second);
    assert_silent(&third);
    assert_int_equal(server_requests(f.server), 2);
}

static void cancel_gives_the_place_to_the_next(void **state)
{
    SERVE(&f, {.end = STEP_FREEZE}, {.end = STEP_FREEZE}, {.reply = EMPTY});
    struct result first = {0}, second = {0}, third = {0};
    start(&first, (struct http_request){0});
    start(&second, (struct http_request){0});
    fixture_until_requests(&f, 2);
    start(&third, (struct http_request){0});
    cancel(&first);
    request_wait(&third);
    cancel(&second);
    assert_silent(&first);
    assert_silent(&second);
}

static void cancel_waiting_for_a_token(void **state)
{
    SERVE(&f, {.reply = EMPTY});
    struct fake_auth a;
    struct result r = {0};
    auth_init(&a, &f);
    a.later = true;
    start(&r, (struct http_request){.auth = &a.authorizer});
    cancel(&r);
    assert_int_equal(a.cancelled, 1);
    assert_silent(&r);
    assert_int_equal(a.given, 0);
}

static void cancel_waiting_for_an_answer(void **state)
{
    SERVE(&f, {.end = STEP_FREEZE});
    struct result r = {0};
    start(&r, (struct http_request){.deadline_ms = 5000, .idle_ms = 4000});
    fixture_until_requests(&f, 1);
    cancel(&r);
    assert_silent(&r);
}

static bool has_data(void *arg)
{
    return ((struct result *)arg)->datas > 0;
}

static void cancel_amid_the_body(void **state)
{
    SERVE(&f, {.reply = HALF, .end = STEP_FREEZE});
    struct result r = {0};
    start(&r, streaming());
    fixture_until(&f, has_data, &r);
    cancel(&r);
    assert_silent(&r);
}

static void cancel_in_backoff(void **state)
{
    SERVE(&f, {.reply = BUSY_FOR_LONG});
    struct result r = {0};
    start(&r, (struct http_request){0});
    fixture_until_requests(&f, 1);
    fixture_until(&f, none_active, NULL);
    assert_int_equal(r.done, 0);
    cancel(&r);
    assert_silent(&r);
}

static void cancel_before_a_certain_end(void **state)
{
    struct result r = {0};
    struct http_request q = {0};
    request_start(&f, &r, &q, "http://pool.example/");
    cancel(&r);
    assert_silent(&r);
}

static void callback_cancels_its_own_call(void **state)
{
    SERVE(&f, {.reply = OK_REPLY(10, "0123456789")});
    static char large[1 << 20];
    struct http_request q = streaming();
    q.on_sent = result_sent;
    q.method = "POST";
    q.body = HTTP_BODY_BYTES;
    q.data = large;
    q.len = sizeof large;
    struct result head = {.at_head = cancel}, data = {.at_data = cancel},
                  sent = {.at_sent = cancel}, empty = {.at_head = cancel};
    start(&head, q);
    fixture_until(&f, none_active, NULL);
    assert_silent(&head);
    start(&data, q);
    fixture_until(&f, none_active, NULL);
    assert_silent(&data);
    start(&sent, q);
    fixture_until(&f, none_active, NULL);
    assert_silent(&sent);
    fixture_serve(&f, &(const struct step){.reply = EMPTY}, 1, NULL);
    start(&empty, streaming());
    fixture_until(&f, none_active, NULL);
    assert_int_equal(empty.heads, 1);
    assert_silent(&empty);
}

static void done_may_cancel_its_own_call(void **state)
{
    SERVE(&f, {.reply = EMPTY});
    struct result r = {.at_done = cancel};
    run(&r, (struct http_request){0});
    fixture_turns(&f);
    assert_int_equal(r.done, 1);
}

static void cancel_other(struct result *r)
{
    if (r->other)
        cancel(r->other);
    r->other = NULL;
}

/* From within curl's callback, when its functions may not be called. */
static void callback_cancels_another_call(void **state)
{
    static const struct step steps[] = {{.reply = HALF, .end = STEP_FREEZE},
                                        {.reply = OK_REPLY(10, "0123456789")}};
    for (int at = 0; at < 3; at++) {
        fixture_serve(&f, steps, 2, NULL);
        struct result other = {0}, r = {.other = &other};
        if (at == 0)
            r.at_head = cancel_other;
        else if (at == 1)
            r.at_data = cancel_other;
        else
            r.at_done = cancel_other;
        start(&other, streaming());
        fixture_until(&f, has_data, &other);
        run(&r, streaming());
        assert_int_equal(r.status, 200);
        assert_string_equal(r.data.data, "0123456789");
        assert_silent(&other);
        result_free(&r);
    }
}

static void cancel_queued_other(void **state)
{
    SERVE(&f, {.reply = HALF, .end = STEP_FREEZE}, {.reply = OK_REPLY(10, "0123456789")});
    struct result frozen = {0}, queued = {0}, r = {.at_data = cancel_other, .other = &queued};
    start(&frozen, streaming());
    fixture_until(&f, has_data, &frozen);
    start(&r, streaming());
    start(&queued, streaming());
    request_wait(&r);
    cancel(&frozen);
    assert_silent(&queued);
    assert_silent(&frozen);
    assert_int_equal(server_requests(f.server), 2);
    result_free(&r);
}

static void start_other(struct result *r)
{
    struct result *other = r->other;
    r->other = NULL;
    if (other)
        start(other, (struct http_request){.secret = other->attempts < 0});
}

/* Also from within curl's callbacks. */
static void callback_starts_another_call(void **state)
{
    SERVE(&f, {.reply = OK_REPLY(10, "0123456789")});
    for (int at = 0; at < 3; at++) {
        struct result other = {0}, secret = {.attempts = -1}, r = {.other = &other};
        struct result again = {.other = &secret};
        void (**where[])(struct result *) = {&r.at_head, &r.at_data, &r.at_done};
        void (**later[])(struct result *) = {&again.at_head, &again.at_data, &again.at_done};
        *where[at] = *later[at] = start_other;
        run(&r, streaming());
        request_wait(&other);
        assert_string_equal(other.body, "0123456789");
        run(&again, streaming());
        request_wait(&secret);
        assert_string_equal(secret.body, "0123456789");
        result_free(&r);
        result_free(&again);
    }
}

/* --- http_free */

static void nothing_is_called_after_free(void **state)
{
    SERVE(&f, {.end = STEP_FREEZE});
    struct fake_auth a;
    struct result frozen = {0}, token = {0}, queued = {0}, ended = {0};
    auth_init(&a, &f);
    a.never = true;
    start(&frozen, (struct http_request){0});
    fixture_until_requests(&f, 1);
    start(&token, (struct http_request){.auth = &a.authorizer});
    start(&queued, (struct http_request){0});
    struct http_request bad = {0};
    request_start(&f, &ended, &bad, "x"); /* a port that is none */
    assert_int_equal(active(), 2);
    http_free(f.http);
    f.http = NULL;
    assert_int_equal(a.cancelled, 1);
    fixture_turns(&f);
    assert_int_equal(frozen.done + token.done + queued.done + ended.done, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(deadline_ends_a_frozen_answer),
        TEST(deadline_ends_a_frozen_server),
        TEST(deadline_holds_for_all_attempts),
        TEST(deadline_passes_in_the_queue),
        TEST(deadline_passes_without_a_token),
        TEST(silence_ends_an_attempt),
        TEST(silence_is_retried),
        TEST(slow_bytes_are_progress),
        TEST(calls_wait_their_turn),
        TEST(secret_call_waits_for_nobody),
        TEST(backoff_gives_its_place_away),
        TEST(long_queue_fails_at_once),
        TEST(cancel_at_once),
        TEST(cancel_in_the_queue),
        TEST(cancel_gives_the_place_to_the_next),
        TEST(cancel_waiting_for_a_token),
        TEST(cancel_waiting_for_an_answer),
        TEST(cancel_amid_the_body),
        TEST(cancel_in_backoff),
        TEST(cancel_before_a_certain_end),
        TEST(callback_cancels_its_own_call),
        TEST(done_may_cancel_its_own_call),
        TEST(callback_cancels_another_call),
        TEST(cancel_queued_other),
        TEST(callback_starts_another_call),
        TEST(nothing_is_called_after_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
