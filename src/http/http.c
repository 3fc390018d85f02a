#include "http/http.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <utlist.h>

#include "http/pin.h"
#include "http/retry.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    DEFAULT_CONNECT_MS = 10000,
    DEFAULT_IDLE_MS = 60000,
    DEFAULT_RETRIES = 4,
    DEFAULT_TRANSFERS = 16,
    DEFAULT_MAX_BODY = 64 << 20,
    SPARE_HANDLES = 32,
    TRANSFER_BUFFER = 128 << 10, /* each way, while a transfer runs */
    ERROR_BODY_MAX = 256 << 10,  /* of an answer that says why not */
};

/* One call, all attempts together:
 *
 *     WAITING (a place) ──▶ TOKEN ──▶ SENDING ──▶ done
 *         ▲                              │
 *         └───────── BACKOFF ◀───────────┘  (retry.c decides; a 401 goes round once at once)
 */
enum call_state { CALL_WAITING, CALL_TOKEN, CALL_SENDING, CALL_BACKOFF, CALL_ENDING };

struct http_call {
    struct http_call *prev, *next; /* in http->waiting or http->active */
    struct http *http;
    enum call_state state;
    struct http_request request; /* strings and data are copies */
    char *data_copy;
    struct curl_slist *headers;

    CURL *easy;
    curl_mime *mime;
    struct curl_slist *sent_headers; /* of this attempt: holds the token */
    char *token;
    void *token_wait;
    bool renewed; /* a 401 was answered with a new token already */
    size_t part_at;

    struct loop_timer later; /* backoff, or an immediate end */
    struct loop_timer deadline;
    struct loop_timer idle;
    int64_t deadline_at; /* clock_ms(); 0: none */
    int64_t progress_at;
    curl_off_t moved; /* bytes both ways at the last look */
    bool timed_out;   /* the idle timer ended this attempt */

    int attempts;
    int status;
    bool streaming; /* on_head accepted: the body goes to on_data */
    bool head_told;
    int user_err; /* what on_head or on_data returned */
    bool sent;
    struct buf body;
    int err;
    char why[CURL_ERROR_SIZE + 256];
    char curl_error[CURL_ERROR_SIZE];
    bool calling;   /* a callback of this call is running */
    bool cancelled; /* by that callback: freed after it */
};

struct http {
    struct loop *loop;
    struct http_options options;
    char *user_agent;
    struct http_call *waiting, *active, *sleeping;
    unsigned active_count, waiting_count;
    CURL *spare[SPARE_HANDLES];
    unsigned spare_count;
    CURLSH *share;
    struct http_stats stats;
};

static void start_attempt(struct http_call *);
static void end_call(struct http_call *, int err);
static void next_waiting(struct http *);
static void attempt_ended(struct http_call *, CURLcode);

/* --- the life of a call */

static void wipe_headers(struct curl_slist *list)
{
    for (struct curl_slist *line = list; line; line = line->next)
        explicit_bzero(line->data, strlen(line->data));
    curl_slist_free_all(list);
}

static void free_attempt(struct http_call *c)
{
    if (c->easy) {
        struct http *h = c->http;
        curl_multi_remove_handle(loop_multi(h->loop), c->easy);
        curl_easy_reset(c->easy);
        /* curl keeps the last bytes received in the handle; one that saw a secret is not kept. */
        if (h->spare_count < SPARE_HANDLES && !c->request.secret)
            h->spare[h->spare_count++] = c->easy;
        else
            curl_easy_cleanup(c->easy);
        c->easy = NULL;
    }
    curl_mime_free(c->mime);
    c->mime = NULL;
    wipe_headers(c->sent_headers);
    c->sent_headers = NULL;
}

static void drop_token(struct http_call *c)
{
    if (!c->token)
        return;
    explicit_bzero(c->token, strlen(c->token));
    free(c->token);
    c->token = NULL;
}

static void leave_list(struct http_call *c)
{
    struct http *h = c->http;
    switch (c->state) {
    case CALL_WAITING:
        DL_DELETE(h->waiting, c);
        h->waiting_count--;
        break;
    case CALL_TOKEN:
    case CALL_SENDING:
        DL_DELETE(h->active, c);
        h->active_count--;
        break;
    case CALL_BACKOFF:
    case CALL_ENDING:
        DL_DELETE(h->sleeping, c);
        break;
    }
}

static void enter(struct http_call *c, enum call_state state)
{
    struct http *h = c->http;
    leave_list(c);
    c->state = state;
    switch (state) {
    case CALL_WAITING:
        DL_APPEND(h->waiting, c);
        h->waiting_count++;
        break;
    case CALL_TOKEN:
    case CALL_SENDING:
        DL_APPEND(h->active, c);
        h->active_count++;
        break;
    case CALL_BACKOFF:
    case CALL_ENDING:
        DL_APPEND(h->sleeping, c);
        break;
    }
}

static void call_free(struct http_call *c)
{
    leave_list(c);
    if (c->token_wait)
        c->request.auth->cancel(c->request.auth->self, c->token_wait);
    loop_timer_stop(&c->later);
    loop_timer_stop(&c->deadline);
    loop_timer_stop(&c->idle);
    free_attempt(c);
    drop_token(c);
    wipe_headers(c->headers);
    if (c->request.secret && c->data_copy)
        explicit_bzero(c->data_copy, c->request.len);
    free((char *)c->request.thumbprint);
    free((char *)c->request.url);
    free((char *)c->request.unix_socket);
    free((char *)c->request.content_type);
    free((char *)c->request.part_name);
    free(c->data_copy);
    if (c->request.secret)
        buf_wipe(&c->body);
    else
        buf_free(&c->body);
    free(c);
}

/* Runs a callback of the call; false when it cancelled the call, which is then gone. */
#define CALL_OUT(c, statement)                                                                     \
    ({                                                                                             \
        (c)->calling = true;                                                                       \
        statement;                                                                                 \
        (c)->calling = false;                                                                      \
        bool alive_ = !(c)->cancelled;                                                             \
        alive_;                                                                                    \
    })

void http_cancel(struct http_call *c)
{
    if (!c)
        return;
    if (c->calling) {
        c->cancelled = true;
        return;
    }
    struct http *h = c->http;
    call_free(c);
    next_waiting(h);
}

static void finish(struct http_call *c)
{
    struct http *h = c->http;
    const struct http_result result = {
        .err = c->err,
        .status = c->err ? 0 : c->status,
        .why = c->why,
        .body = c->body.data ? c->body.data : "",
        .body_len = c->body.len,
        .attempts = c->attempts,
        .sent = c->sent,
        .call = c,
    };
    h->stats.errors += c->err || c->status >= 400;
    loop_timer_stop(&c->idle);
    loop_timer_stop(&c->deadline);
    c->calling = true;
    c->request.done(c->request.arg, &result);
    c->calling = false;
    call_free(c);
    next_waiting(h);
}

static void finish_later(void *arg)
{
    finish(arg);
}

/* done never runs from within http_start or a foreign callback. */
static void end_call(struct http_call *c, int err)
{
    c->err = err;
    enter(c, CALL_ENDING);
    c->later.fn = finish_later;
    loop_timer_set(&c->later, 0);
    next_waiting(c->http);
}

static void next_waiting(struct http *h)
{
    while (h->waiting && h->active_count < h->options.max_transfers)
        start_attempt(h->waiting);
}

static void admit(struct http_call *c)
{
    if (c->request.secret)
        start_attempt(c);
    else
        next_waiting(c->http);
}

/* --- curl's callbacks */

static void progressed(struct http_call *c)
{
    c->progress_at = clock_ms();
}

/* Whether the 2xx body is the caller's to stream; told once an attempt. */
static int tell_head(struct http_call *c)
{
    long status = 0;
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    c->status = (int)status;
    c->head_told = true;
    if (!c->request.on_data || status < 200 || status > 299)
        return 0;
    c->streaming = true;
    if (!c->request.on_head)
        return 0;
    int err = 0;
    if (!CALL_OUT(c, err = c->request.on_head(c->request.arg, c, c->status)))
        return -ECANCELED;
    return err;
}

static size_t take_body(char *data, size_t one, size_t len, void *arg)
{
    struct http_call *c = arg;
    progressed(c);
    c->http->stats.bytes_in += len;
    if (c->cancelled)
        return 0;
    if (!c->head_told && (c->user_err = tell_head(c)))
        return 0;
    if (c->streaming) {
        int err = 0;
        if (!CALL_OUT(c, err = c->request.on_data(c->request.arg, data, len)))
            return 0;
        c->user_err = err;
        return err ? 0 : len;
    }
    size_t limit = c->status >= 400 ? ERROR_BODY_MAX : c->request.max_body;
    if (len > limit - c->body.len) {
        if (c->status >= 400)
            return len; /* what matters stands in front */
        c->user_err = -EFBIG;
        return 0;
    }
    c->user_err = buf_add(&c->body, data, len);
    return c->user_err ? 0 : len;
}

static int on_progress(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                       curl_off_t up)
{
    struct http_call *c = arg;
    if (down + up != c->moved) {
        c->moved = down + up;
        progressed(c);
        if (c->request.on_sent)
            c->request.on_sent(c->request.arg, (uint64_t)up);
    }
    return c->cancelled;
}

static size_t read_part(char *to, size_t one, size_t room, void *arg)
{
    struct http_call *c = arg;
    size_t left = c->request.len - c->part_at, n = left < room ? left : room;
    if (n == 0)
        return 0;
    ssize_t got = pread(c->request.fd, to, n, c->request.offset + (off_t)c->part_at);
    if (got <= 0) {
        /* Shorter than it was said to be: better no upload than half of one. */
        c->user_err = got < 0 ? -errno : -EIO;
        return CURL_READFUNC_ABORT;
    }
    c->part_at += (size_t)got;
    c->http->stats.bytes_out += (size_t)got;
    return (size_t)got;
}

static int seek_part(void *arg, curl_off_t offset, int origin)
{
    struct http_call *c = arg;
    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > c->request.len)
        return CURL_SEEKFUNC_CANTSEEK;
    c->part_at = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* --- one attempt */

static int set_part(struct http_call *c)
{
    const struct http_request *r = &c->request;
    c->mime = curl_mime_init(c->easy);
    curl_mimepart *part = c->mime ? curl_mime_addpart(c->mime) : NULL;
    if (!part || curl_mime_name(part, "file") || curl_mime_filename(part, r->part_name) ||
        curl_mime_type(part, r->content_type ? r->content_type : "application/octet-stream"))
        return -ENOMEM;
    CURLcode code;
    if (r->fd >= 0)
        code = curl_mime_data_cb(part, (curl_off_t)r->len, read_part, seek_part, NULL, c);
    else
        code = curl_mime_data(part, r->data ? r->data : "", r->len);
    c->part_at = 0;
    curl_easy_setopt(c->easy, CURLOPT_MIMEPOST, c->mime);
    return code ? -ENOMEM : 0;
}

static int set_body(struct http_call *c)
{
    const struct http_request *r = &c->request;
    switch (r->body) {
    case HTTP_BODY_NONE:
        if (strcmp(r->method, "HEAD") == 0)
            curl_easy_setopt(c->easy, CURLOPT_NOBODY, 1L);
        else if (strcmp(r->method, "GET") == 0)
            return 0;
        else if (strcmp(r->method, "POST") == 0) {
            curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)0);
            curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, "");
        }
        break;
    case HTTP_BODY_BYTES:
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->len);
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, r->data ? r->data : "");
        break;
    case HTTP_BODY_PART:
        if (set_part(c))
            return -ENOMEM;
        break;
    }
    curl_easy_setopt(c->easy, CURLOPT_CUSTOMREQUEST, r->method);
    return 0;
}

static int add_header(struct curl_slist **list, const char *line)
{
    struct curl_slist *longer = curl_slist_append(*list, line);
    if (!longer)
        return -ENOMEM;
    *list = longer;
    return 0;
}

static int set_headers(struct http_call *c)
{
    int err = 0;
    for (struct curl_slist *line = c->headers; line && !err; line = line->next)
        err = add_header(&c->sent_headers, line->data);
    if (!err)
        err = add_header(&c->sent_headers, "Expect:");
    if (!err && c->request.body == HTTP_BODY_BYTES && c->request.content_type) {
        _cleanup_buf_ struct buf line = {0};
        err = buf_addf(&line, "Content-Type: %s", c->request.content_type);
        err = err ? err : add_header(&c->sent_headers, line.data);
    }
    if (!err && c->token) {
        struct buf line = {0};
        err = buf_addf(&line, "Authorization: Bearer %s", c->token);
        err = err ? err : add_header(&c->sent_headers, line.data);
        buf_wipe(&line);
    }
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, c->sent_headers);
    return err;
}

/* What curl would take from the environment, and besides it what no proxy can reach. */
static void set_no_proxy(CURL *e)
{
    const char *told = getenv("no_proxy");
    if (!told)
        told = getenv("NO_PROXY");
    _cleanup_buf_ struct buf hosts = {0};
    if (told && strcmp(told, "*") == 0)
        buf_adds(&hosts, told);
    else
        buf_addf(&hosts, "%s%slocalhost,127.0.0.1,::1,169.254.169.254", told ? told : "",
                 told && *told ? "," : "");
    curl_easy_setopt(e, CURLOPT_NOPROXY, hosts.data); /* copied */
}

static void set_common(struct http_call *c)
{
    CURL *e = c->easy;
    const struct http *h = c->http;
    curl_easy_setopt(e, CURLOPT_URL, c->request.url);
    curl_easy_setopt(e, CURLOPT_PRIVATE, c);
    curl_easy_setopt(e, CURLOPT_SHARE, h->share);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->curl_error);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(e, CURLOPT_USERAGENT, h->user_agent);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)h->options.connect_ms);
    curl_easy_setopt(e, CURLOPT_BUFFERSIZE, (long)TRANSFER_BUFFER);
    curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, (long)TRANSFER_BUFFER);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(e, CURLOPT_XFERINFODATA, c);
    const char *ca = getenv("SSL_CERT_FILE");
    if (ca && *ca)
        curl_easy_setopt(e, CURLOPT_CAINFO, ca);
    if (c->request.thumbprint)
        http_pin(e, c->request.thumbprint);
    if (c->request.secret)
        curl_easy_setopt(e, CURLOPT_FORBID_REUSE, 1L);
    /* When a kept connection turns out to be closed, curl sends the request again by itself, also
     * one that may have been acted upon (its Curl_retry_request). On a new connection it does not.
     */
    if (c->request.retry != HTTP_RETRY_SAFE)
        curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, 1L);
    if (c->request.unix_socket) {
        curl_easy_setopt(e, CURLOPT_UNIX_SOCKET_PATH, c->request.unix_socket);
        curl_easy_setopt(e, CURLOPT_PROXY, "");
    } else if (c->request.metadata) {
        curl_easy_setopt(e, CURLOPT_PROXY, "");
    } else {
        set_no_proxy(e);
    }
}

static int64_t idle_limit(const struct http_call *c)
{
    return c->request.idle_ms ? c->request.idle_ms : c->http->options.idle_ms;
}

/* Ends an attempt in which nothing moved for too long; looks again when something did. */
static void idle_look(void *arg)
{
    struct http_call *c = arg;
    int64_t left = c->progress_at + idle_limit(c) - clock_ms();
    if (left > 0) {
        loop_timer_set(&c->idle, left);
        return;
    }
    c->timed_out = true;
    snprintf(c->why, sizeof c->why, "no answer for %.1f s", (double)idle_limit(c) / 1000);
    attempt_ended(c, CURLE_OPERATION_TIMEDOUT);
}

static void send_attempt(struct http_call *c)
{
    struct http *h = c->http;
    c->easy = h->spare_count ? h->spare[--h->spare_count] : curl_easy_init();
    c->attempts++;
    c->status = 0;
    c->head_told = c->streaming = c->timed_out = false;
    c->user_err = 0;
    c->moved = 0;
    c->curl_error[0] = '\0';
    c->body.len = 0;
    if (c->body.data)
        c->body.data[0] = '\0';
    h->stats.attempts++;
    if (!c->easy) {
        end_call(c, -ENOMEM);
        return;
    }
    set_common(c);
    if (set_body(c) || set_headers(c) ||
        curl_multi_add_handle(loop_multi(h->loop), c->easy) != CURLM_OK) {
        snprintf(c->why, sizeof c->why, "out of memory");
        free_attempt(c);
        end_call(c, -ENOMEM);
        return;
    }
    enter(c, CALL_SENDING);
    progressed(c);
    loop_timer_set(&c->idle, idle_limit(c));
}

static void token_came(void *arg, int err, const char *token, const char *why)
{
    struct http_call *c = arg;
    c->token_wait = NULL;
    drop_token(c);
    if (err || !(c->token = strdup(token))) {
        snprintf(c->why, sizeof c->why, "%s", why ? why : "no token");
        end_call(c, err ? err : -ENOMEM);
        return;
    }
    send_attempt(c);
}

static void start_attempt(struct http_call *c)
{
    enter(c, CALL_TOKEN);
    if (!c->request.auth) {
        send_attempt(c);
        return;
    }
    void *wait = c->request.auth->get(c->request.auth->self, token_came, c);
    if (wait)
        c->token_wait = wait;
}

/* --- what came of it */

static int errno_of(CURLcode code)
{
    switch (code) {
    case CURLE_OK:
        return 0;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_INTERFACE_FAILED:
        return -EHOSTUNREACH;
    case CURLE_OPERATION_TIMEDOUT:
        return -ETIMEDOUT;
    case CURLE_OUT_OF_MEMORY:
        return -ENOMEM;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
        return -EPROTO;
    default:
        return -EIO;
    }
}

/* Whether the server may have acted upon the attempt: anything once bytes of it went out. */
static bool attempt_sent(struct http_call *c, CURLcode code)
{
    long request_size = 0;
    curl_easy_getinfo(c->easy, CURLINFO_REQUEST_SIZE, &request_size);
    if (request_size > 0 || c->moved > 0)
        return true;
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
        return false;
    case CURLE_OPERATION_TIMEDOUT: {
        curl_off_t connected = 0;
        curl_easy_getinfo(c->easy, CURLINFO_PRETRANSFER_TIME_T, &connected);
        return connected > 0;
    }
    default:
        return true;
    }
}

static void describe(struct http_call *c, CURLcode code)
{
    CURLU *u = curl_url();
    char *host = NULL, *port = NULL;
    if (u && curl_url_set(u, CURLUPART_URL, c->request.url, 0) == CURLUE_OK) {
        curl_url_get(u, CURLUPART_HOST, &host, 0);
        curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT);
    }
    char *end = strchr(c->curl_error, '?'); /* never a query: it holds the session's name */
    if (end)
        *end = '\0';
    const char *said = *c->curl_error ? c->curl_error : curl_easy_strerror(code);
    char text[CURL_ERROR_SIZE];
    snprintf(text, sizeof text, "%.250s", c->timed_out ? c->why : said);
    if (c->request.unix_socket)
        snprintf(c->why, sizeof c->why, "%.150s: %.200s", c->request.unix_socket, text);
    else
        snprintf(c->why, sizeof c->why, "%.150s:%.8s: %.200s", host ? host : "?", port ? port : "?",
                 text);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(u);
}

static void back_to_queue(void *arg)
{
    struct http_call *c = arg;
    enter(c, CALL_WAITING);
    admit(c);
}

static bool try_again(struct http_call *c)
{
    const char *after = c->err ? NULL : http_header(c, "Retry-After");
    const struct retry_outcome outcome = {
        .err = c->err, .status = c->status, .sent = c->sent, .retry_after = after};
    int64_t left = c->deadline_at ? c->deadline_at - clock_ms() : -1;
    if (c->deadline_at && left < 0)
        left = 0;
    uint32_t random = 0;
    if (getrandom(&random, sizeof random, 0) < 0)
        random = (uint32_t)clock_ms();
    int64_t delay = retry_delay(c->request.retry, &outcome, (unsigned)c->attempts,
                                c->http->options.retries, left, random, time(NULL));
    if (delay < 0)
        return false;
    log_debug("%s: trying again in %lld ms", c->why, (long long)delay);
    free_attempt(c);
    enter(c, CALL_BACKOFF);
    c->later.fn = back_to_queue;
    loop_timer_set(&c->later, delay);
    next_waiting(c->http);
    return true;
}

/* A refused token is replaced and the request sent again, once. */
static bool renew_token(struct http_call *c)
{
    if (c->err || c->status != 401 || !c->request.auth || c->renewed || !c->token)
        return false;
    c->renewed = true;
    c->request.auth->refused(c->request.auth->self, c->token);
    free_attempt(c);
    start_attempt(c);
    return true;
}

static void attempt_ended(struct http_call *c, CURLcode code)
{
    loop_timer_stop(&c->idle);
    if (c->cancelled) {
        struct http *h = c->http;
        call_free(c);
        next_waiting(h);
        return;
    }
    c->sent = c->sent || attempt_sent(c, code);
    if (code == CURLE_OK && !c->head_told) {
        c->user_err = tell_head(c); /* an answer without a body */
        if (c->cancelled) {
            attempt_ended(c, code);
            return;
        }
    }
    if (c->user_err) {
        snprintf(c->why, sizeof c->why, "%s", strerror(-c->user_err));
        c->err = c->user_err;
        finish(c);
        return;
    }
    c->err = errno_of(code);
    if (code)
        describe(c, code);
    else
        snprintf(c->why, sizeof c->why, "HTTP %d", c->status);
    if (!c->err && c->status >= 300 && c->status < 400 && c->status != 304) {
        snprintf(c->why, sizeof c->why, "HTTP %d: redirects are not followed", c->status);
        c->err = -EPROTO;
    }
    if (renew_token(c) || try_again(c))
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

static void deadline_passed(void *arg)
{
    struct http_call *c = arg;
    if (c->state == CALL_ENDING)
        return;
    if (c->state == CALL_SENDING)
        c->sent = c->sent || attempt_sent(c, CURLE_OPERATION_TIMEDOUT);
    if (c->token_wait) {
        c->request.auth->cancel(c->request.auth->self, c->token_wait);
        c->token_wait = NULL;
    }
    if (c->state == CALL_SENDING || !c->why[0]) {
        c->timed_out = true;
        snprintf(c->why, sizeof c->why, "no complete answer within %.1f s",
                 (double)c->request.deadline_ms / 1000);
        describe(c, CURLE_OPERATION_TIMEDOUT);
    }
    loop_timer_stop(&c->later);
    loop_timer_stop(&c->idle);
    /* What kept it from an answer till now says more than "timed out". */
    c->err = c->state == CALL_BACKOFF && c->err ? c->err : -ETIMEDOUT;
    finish(c);
}

/* --- */

static int copy_request(struct http_call *c, const struct http_request *r)
{
    c->request = *r;
    c->request.url = strdup(r->url);
    c->request.unix_socket = r->unix_socket ? strdup(r->unix_socket) : NULL;
    c->request.content_type = r->content_type ? strdup(r->content_type) : NULL;
    c->request.part_name = r->part_name ? strdup(r->part_name) : NULL;
    c->request.thumbprint = r->thumbprint ? strdup(r->thumbprint) : NULL;
    c->request.headers = NULL;
    if (!r->max_body)
        c->request.max_body = DEFAULT_MAX_BODY;
    if (r->body != HTTP_BODY_PART)
        c->request.fd = -1;
    bool from_memory = r->body == HTTP_BODY_BYTES || (r->body == HTTP_BODY_PART && r->fd < 0);
    if (from_memory) {
        c->data_copy = malloc(r->len + 1);
        if (c->data_copy && r->len)
            memcpy(c->data_copy, r->data, r->len);
        c->request.data = c->data_copy;
    }
    int err = !c->request.url || (r->unix_socket && !c->request.unix_socket) ||
              (r->content_type && !c->request.content_type) ||
              (r->part_name && !c->request.part_name) ||
              (r->thumbprint && !c->request.thumbprint) || (from_memory && !c->data_copy);
    for (const char *const *line = r->headers; line && *line && !err; line++)
        err = add_header(&c->headers, *line);
    return err ? -ENOMEM : 0;
}

struct http_call *http_start(struct http *h, const struct http_request *r)
{
    struct http_call *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->http = h;
    c->state = CALL_WAITING;
    DL_APPEND(h->waiting, c);
    h->waiting_count++;
    loop_timer_init(&c->later, h->loop, finish_later, c);
    loop_timer_init(&c->deadline, h->loop, deadline_passed, c);
    loop_timer_init(&c->idle, h->loop, idle_look, c);
    if (copy_request(c, r)) {
        call_free(c);
        return NULL;
    }
    h->stats.requests++;
    const char *why;
    if (r->metadata ? http_metadata_check(r->url, &why)
                    : http_url_check(r->url, r->unix_socket, &why)) {
        snprintf(c->why, sizeof c->why, "%s", why);
        end_call(c, -EPROTO);
        return c;
    }
    if (r->deadline_ms) {
        c->deadline_at = clock_ms() + r->deadline_ms;
        loop_timer_set(&c->deadline, r->deadline_ms);
    }
    admit(c);
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

int http_new(struct loop *loop, const struct http_options *options, struct http **out)
{
    struct http *h = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
    h->loop = loop;
    h->options = options ? *options : (struct http_options){.retries = DEFAULT_RETRIES};
    if (h->options.connect_ms <= 0)
        h->options.connect_ms = DEFAULT_CONNECT_MS;
    if (h->options.idle_ms <= 0)
        h->options.idle_ms = DEFAULT_IDLE_MS;
    if (!h->options.max_transfers)
        h->options.max_transfers = DEFAULT_TRANSFERS;
    h->user_agent = strdup(h->options.user_agent ? h->options.user_agent
                                                 : "acafs/" ACAFS_VERSION " (Language=C)");
    h->share = curl_share_init();
    if (!h->user_agent || !h->share) {
        http_free(h);
        return -ENOMEM;
    }
    curl_share_setopt(h->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
    curl_multi_setopt(loop_multi(loop), CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
    curl_multi_setopt(loop_multi(loop), CURLMOPT_MAXCONNECTS, (long)h->options.max_transfers * 2);
    loop_set_transfers(loop, transfer_ended, h);
    *out = h;
    return 0;
}

void http_free(struct http *h)
{
    if (!h)
        return;
    while (h->waiting)
        call_free(h->waiting);
    while (h->active)
        call_free(h->active);
    while (h->sleeping)
        call_free(h->sleeping);
    while (h->spare_count)
        curl_easy_cleanup(h->spare[--h->spare_count]);
    curl_share_cleanup(h->share);
    free(h->user_agent);
    free(h);
}
