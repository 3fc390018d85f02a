/* A loop, an http and a canned server; calls whose result is kept; a fake authorizer. */
#ifndef ACAFS_TESTS_HTTP_FIXTURE_H
#define ACAFS_TESTS_HTTP_FIXTURE_H

#include "canned_server.h"
#include "http/http.h"

struct fixture {
    struct loop *loop;
    struct http *http;
    struct server *server;
    struct loop_timer watchdog, poll;
    bool (*until)(void *arg);
    void *until_arg;
};

/* One call and what came of it; nothing of it points into http. */
struct result {
    struct fixture *f;
    struct http_call *call;
    unsigned done; /* times */
    int err, status, attempts;
    bool sent;
    char why[512], body[4096], header[64];
    size_t body_len;
    /* Of on_head, on_data, on_sent. */
    unsigned heads, datas;
    uint64_t last_sent;
    struct buf data;
    int head_returns, data_returns;
    void (*at_head)(struct result *), (*at_data)(struct result *), (*at_sent)(struct result *),
        (*at_done)(struct result *);
    struct result *other;
};

struct fake_auth {
    struct http_authorizer authorizer;
    struct fixture *f;
    int err;       /* what is answered instead of a token, */
    unsigned good; /* after so many tokens */
    bool later, never;
    const char *first; /* instead of "token-1" */
    unsigned given, refused, cancelled;
    char last_refused[64];
    struct loop_timer timer;
    http_token_fn *done;
    void *arg;
};

/* max_transfers 0 and idle_ms 0: the defaults. */
void fixture_start(struct fixture *, const struct http_options *);
void fixture_serve(struct fixture *, const struct step *steps, size_t count,
                   const struct server_options *);
void fixture_stop(struct fixture *);
/* Runs the loop until it is true; fails the test when that lasts. */
void fixture_until(struct fixture *, bool (*until)(void *arg), void *arg);
void fixture_until_requests(struct fixture *, size_t count);
/* Some turns of the loop, for what must not happen. */
void fixture_turns(struct fixture *);

void auth_init(struct fake_auth *, struct fixture *);

/* What a request may name as its on_head, on_data and on_sent. */
int result_head(void *arg, struct http_call *, int status);
int result_data(void *arg, const void *data, size_t len);
void result_sent(void *arg, uint64_t bytes);

/* http_start() with q's url, done and arg filled in; path goes behind the server's URL. */
void request_start(struct fixture *, struct result *, struct http_request *q, const char *path);
void request_wait(struct result *);
void request_run(struct fixture *, struct result *, struct http_request *q, const char *path);
void result_free(struct result *);

#define SERVE(f, ...)                                                                              \
    static const struct step steps[] = {__VA_ARGS__};                                              \
    fixture_serve(f, steps, sizeof steps / sizeof *steps, NULL)

#endif
