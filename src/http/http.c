#include "http/http.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include <utlist.h>

#include "http/call.h"
#include "http/retry.h"
#include "util/log.h"
#include "util/text.h"

enum {
    DEFAULT_CONNECT_MS = 10000,
    DEFAULT_IDLE_MS = 60000,
    DEFAULT_RETRIES = 4,
    DEFAULT_TRANSFERS = 16,
    DEFAULT_MAX_BODY = 64 << 20,
};

/* --- words */

void call_say(struct http_call *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(c->why, sizeof c->why, format, args);
    va_end(args);
    for (char *p = c->why; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = ' ';
}

void call_peer(const struct http_call *c, char *out, size_t size)
{
    if (c->request.unix_socket) {
        snprintf(out, size, "%s", c->request.unix_socket);
        return;
    }
    CURLU *u = curl_url();
    char *host = NULL, *port = NULL;
    if (u && curl_url_set(u, CURLUPART_URL, c->request.url, 0) == CURLUE_OK) {
        curl_url_get(u, CURLUPART_HOST, &host, 0);
        curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT);
    }
    snprintf(out, size, "%s:%s", host ? host : "?", port ? port : "?");
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(u);
}

/* --- the lists */

static struct http_call **list_of(struct http_call *c)
{
    struct http *h = c->http;
    switch (c->state) {
    case CALL_WAITING:
        return c->request.secret ? &h->urgent : &h->waiting;
    case CALL_TOKEN:
    case CALL_SENDING:
        return &h->active;
    case CALL_BACKOFF:
    case CALL_ENDING:
        break;
    }
    return &h->sleeping;
}

static void count(struct http_call *c, int change)
{
    if (c->state == CALL_WAITING)
        c->http->waiting_count += (unsigned)change;
    else if (c->state == CALL_TOKEN || c->state == CALL_SENDING)
        c->http->active_count += (unsigned)change;
}

static void leave(struct http_call *c)
{
    struct http_call **list = list_of(c);
    DL_DELETE(*list, c);
    count(c, -1);
}

static void join(struct http_call *c, enum call_state state)
{
    c->state = state;
    struct http_call **list = list_of(c);
    DL_APPEND(*list, c);
    count(c, 1);
}

static void enter(struct http_call *c, enum call_state state)
{
    leave(c);
    join(c, state);
}

/* --- admission: calls get their places in the order in which they came, secret ones at once */

static void start_attempt(struct http_call *);

static struct http_call *next_to_start(const struct http *h)
{
    if (h->urgent)
        return h->urgent;
    return h->active_count < h->options.max_transfers ? h->waiting : NULL;
}

static void admit(struct http *h)
{
    struct http_call *c;
    if (h->in_curl) {
        loop_timer_set(&h->kick, 0);
        return;
    }
    if (h->admitting)
        return; /* the loop below sees what was added */
    h->admitting = true;
    while ((c = next_to_start(h)))
        start_attempt(c);
    h->admitting = false;
}

static void kicked(void *arg)
{
    admit(arg);
}

/* --- ends */

static void drop_token(struct http_call *c)
{
    if (c->token)
        explicit_bzero(c->token, strlen(c->token));
    free(c->token);
    c->token = NULL;
}

static void free_request(struct http_request *r)
{
    free((char *)r->url);
    free((char *)r->unix_socket);
    free((char *)r->content_type);
    free((char *)r->part_name);
    free((char *)r->thumbprint);
}

static void wipe_headers(struct curl_slist *list)
{
    for (struct curl_slist *line = list; line; line = line->next)
        explicit_bzero(line->data, strlen(line->data));
    curl_slist_free_all(list);
}

static void stop_waiting(struct http_call *c)
{
    loop_timer_stop(&c->later);
    loop_timer_stop(&c->deadline);
    loop_timer_stop(&c->idle);
    if (c->token_wait)
        c->request.auth->cancel(c->request.auth->self, c->token_wait);
    c->token_wait = NULL;
}

static void call_free(struct http_call *c)
{
    leave(c);
    stop_waiting(c);
    attempt_stop(c);
    drop_token(c);
    wipe_headers(c->headers);
    if (c->request.secret) {
        if (c->data_copy)
            explicit_bzero(c->data_copy, c->request.len);
        buf_wipe(&c->body);
    }
    buf_free(&c->body);
    free(c->data_copy);
    free_request(&c->request);
    free(c);
}

static void end_cancelled(void *arg)
{
    struct http_call *c = arg;
    struct http *h = c->http;
    call_free(c);
    admit(h);
}

void http_cancel(struct http_call *c)
{
    if (!c || c->cancelled)
        return;
    if (c->calling) {
        c->cancelled = true; /* who called it looks */
        return;
    }
    if (!c->http->in_curl || !c->easy) {
        end_cancelled(c);
        return;
    }
    /* From within a callback of another call's transfer. */
    c->cancelled = true;
    stop_waiting(c);
    enter(c, CALL_ENDING);
    c->later.fn = end_cancelled;
    loop_timer_set(&c->later, 0);
    admit(c->http);
}

/* One line a call: without the query, which names the session, and without what a secret one asks.
 */
static void trace(const struct http_call *c, int64_t milliseconds)
{
    char peer[256];
    const char *url = c->request.url, *path = strstr(url, "://");
    path = path ? strchrnul(path + 3, '/') : "";
    call_peer(c, peer, sizeof peer);
    log_debug("%s %s%.*s: HTTP %d%s%s, %lld ms, %d attempts", c->request.method, peer,
              (int)strcspn(path, "?"), path, c->err ? 0 : c->status, c->err ? ", " : "",
              c->err ? c->why : "", (long long)milliseconds, c->attempts);
}

static void finish(struct http_call *c)
{
    struct http *h = c->http;
    stop_waiting(c);
    const struct http_result result = {
        .err = c->err,
        .status = c->err ? 0 : c->status,
        .why = c->why,
        .body = c->body.data ? c->body.data : "",
        .body_len = c->body.len,
        .attempts = c->attempts,
        .sent = c->sent || c->sent_before,
        .call = c,
    };
    h->stats.errors += c->err || c->status >= 400;
    int64_t took = clock_ms() - c->started_at;
    http_meter_count(&h->meters[c->request.kind], c->err, c->status, took);
    if (log_enabled(LOG_LEVEL_DEBUG))
        trace(c, took);
    c->calling = true;
    c->request.done(c->request.arg, &result);
    c->calling = false;
    call_free(c);
    admit(h);
}

static void end_now(void *arg)
{
    finish(arg);
}

/* done never runs from within http_start or a foreign callback. */
static void end_call(struct http_call *c, int err)
{
    c->err = err;
    enter(c, CALL_ENDING);
    c->later.fn = end_now;
    loop_timer_set(&c->later, 0);
    admit(c->http);
}

/* --- attempts */

static void send_attempt(struct http_call *c)
{
    int err = attempt_start(c);
    if (err) {
        call_say(c, "%s",
                 err == -EINVAL ? "a header or the token is no single line" : strerror(-err));
        end_call(c, err);
        return;
    }
    enter(c, CALL_SENDING);
}

static void token_came(void *arg, int err, const char *token, const char *why)
{
    struct http_call *c = arg;
    c->token_wait = NULL;
    drop_token(c);
    if (!err && !(c->token = strdup(token)))
        err = -ENOMEM;
    if (err) {
        call_say(c, "%s", why && *why ? why : "no token to be had");
        c->sent = false;
        end_call(c, err);
        return;
    }
    send_attempt(c);
}

static void start_attempt(struct http_call *c)
{
    const struct http_authorizer *auth = c->request.auth;
    enter(c, CALL_TOKEN);
    if (!auth) {
        send_attempt(c);
        return;
    }
    void *wait = auth->get(auth->self, token_came, c);
    if (wait)
        c->token_wait = wait;
}

static void back_to_queue(void *arg)
{
    struct http_call *c = arg;
    enter(c, CALL_WAITING);
    admit(c->http);
}

static uint32_t random_bits(void)
{
    uint32_t bits;
    if (getrandom(&bits, sizeof bits, GRND_NONBLOCK) != sizeof bits)
        bits = (uint32_t)clock_ms() * 2654435761u;
    return bits;
}

/* Whether the server said that it did nothing: such an attempt does not forbid the next one. */
static bool was_turned_away(struct http_call *c)
{
    return !c->err && (c->status == 401 || c->status == 429 ||
                       (c->status == 503 && http_header(c, "Retry-After")));
}

static void forget_attempt(struct http_call *c)
{
    c->sent_before = c->sent_before || (c->sent && !was_turned_away(c));
    c->sent = false;
    attempt_stop(c);
}

static bool try_again(struct http_call *c)
{
    const struct retry_outcome outcome = {.err = c->err,
                                          .status = c->status,
                                          .sent = c->sent || c->sent_before,
                                          .retry_after =
                                              c->err ? NULL : http_header(c, "Retry-After")};
    int64_t left = -1;
    if (c->deadline_at) {
        left = c->deadline_at - clock_ms();
        left = left > 0 ? left : 0;
    }
    int64_t delay = retry_delay(c->request.retry, &outcome, (unsigned)c->attempts,
                                c->http->options.retries, left, random_bits(), time(NULL));
    if (delay < 0)
        return false;
    log_debug("%s %s: trying again in %lld ms", c->request.method, c->why, (long long)delay);
    forget_attempt(c);
    enter(c, CALL_BACKOFF);
    c->later.fn = back_to_queue;
    loop_timer_set(&c->later, delay);
    admit(c->http);
    return true;
}

/* A refused token is replaced and the request sent again, once. */
static bool renew_token(struct http_call *c)
{
    const struct http_authorizer *auth = c->request.auth;
    if (c->err || c->status != 401 || !auth || c->renewed || !c->token)
        return false;
    c->renewed = true;
    auth->refused(auth->self, c->token);
    forget_attempt(c);
    start_attempt(c);
    return true;
}

static void judge(struct http_call *c, CURLcode code)
{
    c->sent = attempt_acted(c, code);
    c->err = c->user_err ? c->user_err : attempt_errno(code);
    if (c->user_err == -EFBIG && !c->streaming)
        call_say(c, "an answer of more than %zu bytes", c->request.max_body);
    else if (c->user_err)
        call_say(c, "%s", strerror(-c->user_err));
    else if (code)
        attempt_describe(c, code);
    else
        call_say(c, "HTTP %d", c->status);
    if (!c->err && c->status >= 300 && c->status < 400 && c->status != 304) {
        call_say(c, "HTTP %d: redirects are not followed", c->status);
        c->err = -EPROTO;
    }
}

static void attempt_ended(struct http_call *c, CURLcode code)
{
    loop_timer_stop(&c->idle);
    if (code == CURLE_OK && !c->cancelled)
        c->user_err = attempt_head(c);
    if (c->cancelled) {
        end_cancelled(c);
        return;
    }
    judge(c, code);
    if (!c->user_err && (renew_token(c) || try_again(c)))
        return;
    finish(c);
}

static void transfer_ended(void *arg, CURL *easy, CURLcode code)
{
    struct http_call *c = NULL;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &c);
    if (c)
        attempt_ended(c, code);
}

/* Ends an attempt in which nothing moved for too long; looks again later when something did. */
static void idle_look(void *arg)
{
    struct http_call *c = arg;
    int64_t left = c->progress_at + attempt_idle_limit(c) - clock_ms();
    if (left > 0) {
        loop_timer_set(&c->idle, left);
        return;
    }
    c->idled = true;
    attempt_ended(c, CURLE_OPERATION_TIMEDOUT);
}

static void deadline_passed(void *arg)
{
    struct http_call *c = arg;
    double seconds = (double)c->request.deadline_ms / 1000;
    char peer[300];
    if (c->cancelled) {
        end_cancelled(c);
        return;
    }
    call_peer(c, peer, sizeof peer);
    switch (c->state) {
    case CALL_ENDING:
        return;
    case CALL_SENDING:
        c->sent = attempt_acted(c, CURLE_OPERATION_TIMEDOUT);
        call_say(c, "%s: no complete answer within %.1f s", peer, seconds);
        c->err = -ETIMEDOUT;
        break;
    case CALL_TOKEN:
        call_say(c, "no token for %s within %.1f s", peer, seconds);
        c->err = -ETIMEDOUT;
        break;
    case CALL_WAITING:
    case CALL_BACKOFF:
        if (c->attempts)
            break; /* what came of the last attempt says more than "timed out" */
        call_say(c, "%s: no turn within %.1f s, behind %u other transfers", peer, seconds,
                 c->http->active_count + c->http->waiting_count - 1);
        c->err = -ETIMEDOUT;
        break;
    }
    finish(c);
}

/* --- beginnings */

static char *copy(const char *text, bool *failed)
{
    char *mine = text ? strdup(text) : NULL;
    *failed = *failed || (text && !mine);
    return mine;
}

static int copy_data(struct http_call *c, const struct http_request *r)
{
    if (r->body == HTTP_BODY_NONE || (r->body == HTTP_BODY_PART && r->fd >= 0))
        return 0;
    c->request.fd = -1;
    c->data_copy = malloc(r->len + 1);
    if (!c->data_copy)
        return -ENOMEM;
    if (r->len)
        memcpy(c->data_copy, r->data, r->len);
    c->data_copy[r->len] = '\0';
    return 0;
}

static int copy_request(struct http_call *c, const struct http_request *r)
{
    bool failed = false;
    c->request = *r;
    c->request.url = copy(r->url, &failed);
    c->request.unix_socket = copy(r->unix_socket, &failed);
    c->request.content_type = copy(r->content_type, &failed);
    c->request.part_name = copy(r->part_name, &failed);
    c->request.thumbprint = copy(r->thumbprint, &failed);
    c->request.headers = NULL;
    c->request.data = NULL;
    c->request.max_body = r->max_body ? r->max_body : DEFAULT_MAX_BODY;
    for (const char *const *line = r->headers; line && *line && !failed; line++) {
        struct curl_slist *longer = curl_slist_append(c->headers, *line);
        failed = !longer;
        c->headers = longer ? longer : c->headers;
    }
    return failed ? -ENOMEM : copy_data(c, r);
}

struct http_call *http_start(struct http *h, const struct http_request *r)
{
    struct http_call *c = calloc(1, sizeof *c);
    const char *why = NULL;
    if (!c)
        return NULL;
    c->http = h;
    loop_timer_init(&c->later, h->loop, end_now, c);
    loop_timer_init(&c->deadline, h->loop, deadline_passed, c);
    loop_timer_init(&c->idle, h->loop, idle_look, c);
    c->request.secret = r->secret;
    join(c, CALL_WAITING);
    if (copy_request(c, r)) {
        call_free(c);
        return NULL;
    }
    h->stats.requests++;
    c->started_at = clock_ms();
    if (r->metadata ? http_metadata_check(r->url, &why)
                    : http_url_check(r->url, r->unix_socket, &why)) {
        call_say(c, "%s", why);
        end_call(c, -EPROTO);
        return c;
    }
    if (r->deadline_ms > 0) {
        c->deadline_at = clock_ms() + r->deadline_ms;
        loop_timer_set(&c->deadline, r->deadline_ms);
    }
    admit(h);
    return c;
}

const char *http_header(struct http_call *c, const char *name)
{
    struct curl_header *header;
    if (!c->easy || curl_easy_header(c->easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
        return NULL;
    return header->value;
}

void http_get_stats(const struct http *h, struct http_stats *out)
{
    *out = h->stats;
    out->active = h->active_count;
    out->waiting = h->waiting_count;
}

const struct http_meter *http_get_meter(const struct http *h, enum http_kind kind)
{
    return &h->meters[kind];
}

static void set_options(struct http *h, const struct http_options *options)
{
    h->options = options ? *options : (struct http_options){.retries = DEFAULT_RETRIES};
    if (h->options.connect_ms <= 0)
        h->options.connect_ms = DEFAULT_CONNECT_MS;
    if (h->options.idle_ms <= 0)
        h->options.idle_ms = DEFAULT_IDLE_MS;
    if (!h->options.max_transfers)
        h->options.max_transfers = DEFAULT_TRANSFERS;
    if (!h->options.user_agent)
        h->options.user_agent = "acafs/" ACAFS_VERSION " (Language=C)";
    h->user_agent = strdup(h->options.user_agent);
    h->options.user_agent = NULL; /* theirs */
}

int http_new(struct loop *loop, const struct http_options *options, struct http **out)
{
    struct http *h = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
    h->loop = loop;
    set_options(h, options);
    loop_timer_init(&h->kick, loop, kicked, h);
    h->spare = calloc(h->options.max_transfers, sizeof(CURL *));
    h->share = curl_share_init();
    if (!h->user_agent || !h->spare || !h->share) {
        http_free(h);
        return -ENOMEM;
    }
    curl_share_setopt(h->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
    curl_multi_setopt(loop_multi(loop), CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
    curl_multi_setopt(loop_multi(loop), CURLMOPT_MAXCONNECTS, (long)h->options.max_transfers);
    loop_set_transfers(loop, transfer_ended, h);
    *out = h;
    return 0;
}

void http_free(struct http *h)
{
    if (!h)
        return;
    h->admitting = true; /* nothing starts any more */
    struct http_call **lists[] = {&h->active, &h->sleeping, &h->waiting, &h->urgent};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        while (*lists[i])
            call_free(*lists[i]);
    loop_timer_stop(&h->kick);
    while (h->spare_count)
        curl_easy_cleanup(h->spare[--h->spare_count]);
    curl_share_cleanup(h->share);
    free(h->spare);
    free(h->user_agent);
    free(h);
}
