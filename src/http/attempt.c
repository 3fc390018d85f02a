/* One attempt of a call: the options of the transfer, curl's callbacks, what an error means. */
#include "http/call.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "http/pin.h"
#include "util/text.h"

enum {
    TRANSFER_BUFFER = 128 << 10, /* each way, while a transfer runs */
    ERROR_BODY_MAX = 256 << 10,  /* of an answer that says why not */
};

/* --- curl's callbacks. Curl's own functions may not be called from within them: what a caller
 * starts or cancels there waits for the next turn of the loop (http->in_curl). */

static void moved(struct http_call *c)
{
    c->progress_at = clock_ms();
}

/* Runs a callback of the caller. */
#define TELL(c, statement)                                                                         \
    do {                                                                                           \
        (c)->calling = true;                                                                       \
        statement;                                                                                 \
        (c)->calling = false;                                                                      \
    } while (0)

int attempt_head(struct http_call *c)
{
    long status = 0;
    int err = 0;
    if (c->head_told)
        return 0;
    c->head_told = true;
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    c->status = (int)status;
    if (status < 200 || status > 299)
        return 0;
    c->streaming = c->request.on_data;
    if (c->request.on_head)
        TELL(c, err = c->request.on_head(c->request.arg, c, c->status));
    return err;
}

/* A buffer that grows leaves its bytes behind; one with a secret may not. */
static int keep_secret(struct buf *body, const void *data, size_t len)
{
    struct buf larger = {0};
    if (body->len + len < body->size)
        return buf_add(body, data, len);
    int err = buf_reserve(&larger, 2 * (body->len + len));
    if (err)
        return err;
    buf_add(&larger, body->data, body->len);
    buf_add(&larger, data, len);
    buf_wipe(body);
    *body = larger;
    return 0;
}

static int keep_body(struct http_call *c, const void *data, size_t len)
{
    bool failed = c->status >= 400;
    size_t limit = failed ? ERROR_BODY_MAX : c->request.max_body;
    if (len > limit - c->body.len)
        return failed ? 0 : -EFBIG; /* what matters of an error stands in front */
    return c->request.secret ? keep_secret(&c->body, data, len) : buf_add(&c->body, data, len);
}

static size_t take_body(char *data, size_t one, size_t len, void *arg)
{
    struct http_call *c = arg;
    if (c->cancelled)
        return 0;
    moved(c);
    c->http->stats.bytes_in += len;
    c->http->in_curl++;
    c->user_err = attempt_head(c);
    if (!c->user_err && !c->cancelled) {
        if (c->streaming)
            TELL(c, c->user_err = c->request.on_data(c->request.arg, data, len));
        else
            c->user_err = keep_body(c, data, len);
    }
    c->http->in_curl--;
    return c->user_err || c->cancelled ? 0 : len;
}

/* curl's progress counts no headers. */
static size_t take_header(char *data, size_t one, size_t len, void *arg)
{
    moved(arg);
    return len;
}

static int on_progress(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                       curl_off_t up)
{
    struct http_call *c = arg;
    if (c->cancelled)
        return 1;
    bool sent_more = up != c->moved_up;
    if (!sent_more && down == c->moved_down)
        return 0;
    moved(c);
    if (up > c->moved_up)
        c->http->stats.bytes_out += (uint64_t)(up - c->moved_up);
    c->moved_up = up;
    c->moved_down = down;
    if (sent_more && c->request.on_sent) {
        c->http->in_curl++;
        TELL(c, c->request.on_sent(c->request.arg, (uint64_t)up));
        c->http->in_curl--;
    }
    return c->cancelled;
}

static size_t read_part(char *to, size_t one, size_t room, void *arg)
{
    struct http_call *c = arg;
    const struct http_request *r = &c->request;
    size_t left = r->len - c->part_at, n = left < room ? left : room;
    if (c->cancelled)
        return CURL_READFUNC_ABORT; /* the descriptor may be another's by now */
    if (n == 0)
        return 0;
    ssize_t got = (ssize_t)n;
    if (r->fd < 0)
        memcpy(to, c->data_copy + c->part_at, n);
    else
        got = pread(r->fd, to, n, r->offset + (off_t)c->part_at);
    if (got <= 0) {
        /* Shorter than it was said to be: better no upload than half of one. */
        c->user_err = got < 0 ? -errno : -EIO;
        return CURL_READFUNC_ABORT;
    }
    c->part_at += (size_t)got;
    return (size_t)got;
}

static int seek_part(void *arg, curl_off_t offset, int origin)
{
    struct http_call *c = arg;
    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > c->request.len)
        return CURL_SEEKFUNC_FAIL;
    c->part_at = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* --- the request */

/* curl writes the part's header: in the file name '"', CR and LF are percent-encoded, as browsers
 * do; everything else, backslashes too, goes as it is. */
static int set_part(struct http_call *c)
{
    const struct http_request *r = &c->request;
    const char *type = r->content_type ? r->content_type : "application/octet-stream";
    c->part_at = 0;
    c->mime = curl_mime_init(c->easy);
    curl_mimepart *part = c->mime ? curl_mime_addpart(c->mime) : NULL;
    if (!part || curl_mime_name(part, "file") ||
        curl_mime_filename(part, r->part_name ? r->part_name : "") || curl_mime_type(part, type) ||
        curl_mime_data_cb(part, (curl_off_t)r->len, read_part, seek_part, NULL, c))
        return -ENOMEM;
    curl_easy_setopt(c->easy, CURLOPT_MIMEPOST, c->mime);
    return 0;
}

static int set_body(struct http_call *c)
{
    const struct http_request *r = &c->request;
    CURL *e = c->easy;
    switch (r->body) {
    case HTTP_BODY_NONE:
        if (strcmp(r->method, "GET") == 0)
            return 0;
        if (strcmp(r->method, "HEAD") == 0) {
            curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
            return 0;
        }
        if (strcmp(r->method, "POST") == 0) {
            curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)0);
            curl_easy_setopt(e, CURLOPT_POSTFIELDS, "");
        }
        break;
    case HTTP_BODY_BYTES:
        curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->len);
        curl_easy_setopt(e, CURLOPT_POSTFIELDS, c->data_copy);
        break;
    case HTTP_BODY_PART:
        if (set_part(c))
            return -ENOMEM;
        break;
    }
    curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, r->method);
    return 0;
}

/* curl sends what it is given: a line end would begin another header. */
static int add_header(struct curl_slist **list, const char *name, const char *value)
{
    struct buf line = {0};
    struct curl_slist *longer = NULL;
    if (strpbrk(name, "\r\n") || strpbrk(value, "\r\n"))
        return -EINVAL;
    if (buf_addf(&line, "%s%s", name, value) == 0)
        longer = curl_slist_append(*list, line.data);
    buf_wipe(&line);
    if (!longer)
        return -ENOMEM;
    *list = longer;
    return 0;
}

static int set_headers(struct http_call *c)
{
    const struct http_request *r = &c->request;
    /* No waiting for "100 Continue": it costs a round trip, or a second where nobody says it. */
    int err = add_header(&c->sent_headers, "Expect:", "");
    for (struct curl_slist *line = c->headers; line && !err; line = line->next)
        err = add_header(&c->sent_headers, line->data, "");
    if (!err && r->body == HTTP_BODY_BYTES && r->content_type)
        err = add_header(&c->sent_headers, "Content-Type: ", r->content_type);
    if (!err && c->token)
        err = add_header(&c->sent_headers, "Authorization: Bearer ", c->token);
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, c->sent_headers);
    return err;
}

/* libcurl does not look at these by itself; OpenSSL's tools and the curl program do. */
static void set_authorities(CURL *e)
{
    const char *file = getenv("SSL_CERT_FILE");
    if (!file || !*file)
        file = getenv("CURL_CA_BUNDLE");
    if (file && *file)
        curl_easy_setopt(e, CURLOPT_CAINFO, file);
}

/* A proxy from the environment (curl reads *_proxy and no_proxy) never gets what is meant for
 * this machine: plain http with a token in it. */
static void set_peer(struct http_call *c)
{
    const struct http_request *r = &c->request;
    curl_easy_setopt(c->easy, CURLOPT_URL, r->url);
    if (r->unix_socket)
        curl_easy_setopt(c->easy, CURLOPT_UNIX_SOCKET_PATH, r->unix_socket);
    if (r->unix_socket || r->metadata || url_is_loopback(r->url))
        curl_easy_setopt(c->easy, CURLOPT_PROXY, "");
    set_authorities(c->easy);
    if (r->thumbprint)
        http_pin(c->easy, r->thumbprint);
}

static void set_reuse(struct http_call *c)
{
    CURL *e = c->easy;
    curl_easy_setopt(e, CURLOPT_SHARE, c->http->share);
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    if (c->request.secret)
        curl_easy_setopt(e, CURLOPT_FORBID_REUSE, 1L);
    /* When a kept connection turns out to be closed, curl sends the request again by itself, also
     * one that may have been acted upon (its Curl_retry_request). On a new connection it does not.
     */
    if (c->request.retry != HTTP_RETRY_SAFE)
        curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, 1L);
    else if (strncasecmp(c->request.url, "https:", 6) == 0)
        curl_easy_setopt(e, CURLOPT_PIPEWAIT, 1L); /* many transfers on one HTTP/2 connection */
}

static void set_common(struct http_call *c)
{
    CURL *e = c->easy;
    const struct http *h = c->http;
    curl_easy_setopt(e, CURLOPT_PRIVATE, c);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->curl_error);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(e, CURLOPT_USERAGENT, h->user_agent);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)h->options.connect_ms);
    curl_easy_setopt(e, CURLOPT_BUFFERSIZE, (long)TRANSFER_BUFFER);
    curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, (long)TRANSFER_BUFFER);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(e, CURLOPT_HEADERDATA, c);
    curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(e, CURLOPT_XFERINFODATA, c);
    set_peer(c);
    set_reuse(c);
}

int64_t attempt_idle_limit(const struct http_call *c)
{
    return c->request.idle_ms > 0 ? c->request.idle_ms : c->http->options.idle_ms;
}

static void forget_last(struct http_call *c)
{
    c->status = 0;
    c->user_err = 0;
    c->head_told = c->streaming = c->idled = c->sent = false;
    c->moved_up = c->moved_down = 0;
    c->curl_error[0] = '\0';
    c->body.len = 0;
    if (c->body.data)
        c->body.data[0] = '\0';
}

int attempt_start(struct http_call *c)
{
    struct http *h = c->http;
    forget_last(c);
    c->easy = h->spare_count ? h->spare[--h->spare_count] : curl_easy_init();
    if (!c->easy)
        return -ENOMEM;
    set_common(c);
    int err = set_body(c);
    err = err ? err : set_headers(c);
    if (!err && curl_multi_add_handle(loop_multi(h->loop), c->easy) != CURLM_OK)
        err = -ENOMEM;
    if (err) {
        attempt_stop(c);
        return err;
    }
    c->attempts++;
    h->stats.attempts++;
    moved(c);
    loop_timer_set(&c->idle, attempt_idle_limit(c));
    return 0;
}

static void wipe_headers(struct curl_slist *list)
{
    for (struct curl_slist *line = list; line; line = line->next)
        explicit_bzero(line->data, strlen(line->data));
    curl_slist_free_all(list);
}

void attempt_stop(struct http_call *c)
{
    struct http *h = c->http;
    loop_timer_stop(&c->idle);
    if (!c->easy)
        return;
    curl_multi_remove_handle(loop_multi(h->loop), c->easy);
    curl_easy_reset(c->easy);
    /* curl keeps the last bytes received in the handle; one that saw a secret is not kept. */
    if (h->spare_count < h->options.max_transfers && !c->request.secret)
        h->spare[h->spare_count++] = c->easy;
    else
        curl_easy_cleanup(c->easy);
    c->easy = NULL;
    curl_mime_free(c->mime);
    c->mime = NULL;
    wipe_headers(c->sent_headers);
    c->sent_headers = NULL;
}

/* --- what came of it */

int attempt_errno(CURLcode code)
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

bool attempt_acted(struct http_call *c, CURLcode code)
{
    long request_size = 0;
    curl_off_t ready = 0;
    curl_easy_getinfo(c->easy, CURLINFO_REQUEST_SIZE, &request_size);
    if (request_size > 0 || c->moved_up || c->moved_down)
        return true;
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_PEER_FAILED_VERIFICATION:
        return false;
    case CURLE_OPERATION_TIMEDOUT:
        curl_easy_getinfo(c->easy, CURLINFO_PRETRANSFER_TIME_T, &ready);
        return ready > 0;
    default:
        return true; /* nothing is proof */
    }
}

/* Whether curl tried to connect to the server itself and not to a proxy. */
static bool names_peer(const char *said, const char *peer)
{
    char host[300];
    size_t bracket = *peer == '[';
    snprintf(host, sizeof host, "%s", peer + bracket);
    char *end = strchr(host, bracket ? ']' : ':');
    if (end)
        *end = '\0';
    return strstr(said, host);
}

/* The system's word for a failed connection, and curl's own where that was about a proxy. */
static const char *connect_error(struct http_call *c, const char *said, const char *peer)
{
    long os_error = 0;
    curl_easy_getinfo(c->easy, CURLINFO_OS_ERRNO, &os_error);
    if (os_error && (c->request.unix_socket || names_peer(said, peer)))
        return strerror((int)os_error);
    return said;
}

/* curl quotes a proxy it can't use as it was given, its password included. */
static void hide_password(char *text)
{
    char *host = strstr(text, "://"), *at = host ? strrchr(host, '@') : NULL;
    if (at)
        memmove(host + 3, at + 1, strlen(at + 1) + 1);
}

void attempt_describe(struct http_call *c, CURLcode code)
{
    char peer[300];
    call_peer(c, peer, sizeof peer);
    hide_password(c->curl_error);
    char *query = strchr(c->curl_error, '?'); /* it holds the session's identifier */
    if (query)
        *query = '\0';
    const char *said = *c->curl_error ? c->curl_error : curl_easy_strerror(code);
    if (c->idled)
        call_say(c, "%s: no answer for %.1f s", peer, (double)attempt_idle_limit(c) / 1000);
    else if (code == CURLE_COULDNT_CONNECT)
        call_say(c, "cannot connect to %s: %s", peer, connect_error(c, said, peer));
    else if (code == CURLE_OPERATION_TIMEDOUT && !c->sent)
        call_say(c, "cannot connect to %s: no answer within %.1f s", peer,
                 (double)c->http->options.connect_ms / 1000);
    else
        call_say(c, "%s: %s", peer, said);
}
