#include "http_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { GIVE_UP_MS = 20000, LOOK_EVERY_MS = 2 };

static void give_up(void *arg)
{
    fail_msg("what was waited for did not happen");
}

static void look(void *arg)
{
    struct fixture *f = arg;
    if (f->until(f->until_arg))
        loop_quit(f->loop, 0);
    else
        loop_timer_set(&f->poll, LOOK_EVERY_MS);
}

void fixture_start(struct fixture *f, const struct http_options *options)
{
    *f = (struct fixture){0};
    assert_int_equal(loop_new(&f->loop), 0);
    assert_int_equal(http_new(f->loop, options, &f->http), 0);
    loop_timer_init(&f->watchdog, f->loop, give_up, f);
    loop_timer_init(&f->poll, f->loop, look, f);
}

void fixture_serve(struct fixture *f, const struct step *steps, size_t count,
                   const struct server_options *options)
{
    server_stop(f->server);
    f->server = server_start(steps, count, options);
}

void fixture_stop(struct fixture *f)
{
    http_free(f->http);
    loop_timer_stop(&f->watchdog);
    loop_timer_stop(&f->poll);
    loop_free(f->loop);
    server_stop(f->server);
}

void fixture_until(struct fixture *f, bool (*until)(void *), void *arg)
{
    f->until = until;
    f->until_arg = arg;
    loop_timer_set(&f->watchdog, GIVE_UP_MS);
    loop_timer_set(&f->poll, 0);
    loop_run(f->loop);
    loop_timer_stop(&f->watchdog);
    loop_timer_stop(&f->poll);
}

struct wanted {
    struct server *server;
    size_t count;
};

static bool has_requests(void *arg)
{
    struct wanted *w = arg;
    return server_requests(w->server) >= w->count;
}

void fixture_until_requests(struct fixture *f, size_t count)
{
    struct wanted w = {f->server, count};
    fixture_until(f, has_requests, &w);
}

static bool counted_down(void *arg)
{
    return --*(int *)arg == 0;
}

void fixture_turns(struct fixture *f)
{
    int turns = 10;
    fixture_until(f, counted_down, &turns);
}

/* --- calls */

int result_head(void *arg, struct http_call *call, int status)
{
    struct result *r = arg;
    assert_int_equal(status / 100, 2);
    assert_ptr_equal(call, r->call);
    assert_int_equal(r->done, 0);
    r->heads++;
    r->data.len = 0; /* a new attempt starts over */
    if (r->at_head)
        r->at_head(r);
    return r->head_returns;
}

int result_data(void *arg, const void *data, size_t len)
{
    struct result *r = arg;
    assert_int_equal(r->done, 0);
    r->datas++;
    assert_int_equal(buf_add(&r->data, data, len), 0);
    if (r->at_data)
        r->at_data(r);
    return r->data_returns;
}

void result_sent(void *arg, uint64_t bytes)
{
    struct result *r = arg;
    assert_int_equal(r->done, 0);
    r->last_sent = bytes;
    if (r->at_sent)
        r->at_sent(r);
}

static void on_done(void *arg, const struct http_result *h)
{
    struct result *r = arg;
    const char *header = http_header(h->call, "x-tEST");
    r->done++;
    r->err = h->err;
    r->status = h->status;
    r->attempts = h->attempts;
    r->sent = h->sent;
    r->body_len = h->body_len;
    assert_int_equal(strlen(h->body) > h->body_len, 0);
    snprintf(r->body, sizeof r->body, "%s", h->body);
    snprintf(r->why, sizeof r->why, "%s", h->why);
    snprintf(r->header, sizeof r->header, "%s", header ? header : "");
    assert_non_null(h->why);
    assert_null(strchr(h->why, '\n'));
    if (r->at_done)
        r->at_done(r);
    r->call = NULL;
}

void request_start(struct fixture *f, struct result *r, struct http_request *q, const char *path)
{
    char url[300];
    snprintf(url, sizeof url, "%s%s", f->server ? server_url(f->server) : "", path);
    r->f = f;
    q->url = url;
    q->method = q->method ? q->method : "GET";
    q->done = on_done;
    q->arg = r;
    r->call = http_start(f->http, q);
    assert_non_null(r->call);
    assert_int_equal(r->done, 0); /* never from within http_start */
}

static bool is_done(void *arg)
{
    return ((struct result *)arg)->done;
}

void request_wait(struct result *r)
{
    fixture_until(r->f, is_done, r);
    assert_int_equal(r->done, 1);
}

void request_run(struct fixture *f, struct result *r, struct http_request *q, const char *path)
{
    request_start(f, r, q, path);
    request_wait(r);
}

void result_free(struct result *r)
{
    buf_free(&r->data);
}

/* --- the authorizer */

static void give_token(void *arg)
{
    struct fake_auth *a = arg;
    char token[64];
    a->given++;
    snprintf(token, sizeof token, "token-%u", a->given);
    http_token_fn *done = a->done;
    a->done = NULL;
    if (a->err && a->given > a->good)
        done(a->arg, a->err, NULL, "nobody gives a token");
    else
        done(a->arg, 0, a->first && a->given == 1 ? a->first : token, NULL);
}

static void *auth_get(void *self, http_token_fn *done, void *arg)
{
    struct fake_auth *a = self;
    a->done = done;
    a->arg = arg;
    if (a->never)
        return a;
    if (a->later) {
        loop_timer_set(&a->timer, 0);
        return a;
    }
    give_token(a);
    return NULL;
}

static void auth_cancel(void *self, void *handle)
{
    struct fake_auth *a = self;
    assert_ptr_equal(handle, a);
    a->cancelled++;
    a->done = NULL;
    loop_timer_stop(&a->timer);
}

static void auth_refused(void *self, const char *token)
{
    struct fake_auth *a = self;
    a->refused++;
    snprintf(a->last_refused, sizeof a->last_refused, "%s", token);
}

void auth_init(struct fake_auth *a, struct fixture *f)
{
    *a = (struct fake_auth){.f = f};
    a->authorizer = (struct http_authorizer){a, auth_get, auth_cancel, auth_refused};
    loop_timer_init(&a->timer, f->loop, give_token, a);
}
