#include "acapool/server.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include "acapool/request.h"
#include "util/log.h"

enum {
    JSON_BODY_MAX = 32 << 20,
    DISCARD_MAX = 512 << 20, /* bytes of a refused body that are read to answer politely */
    CONNECTION_BUFFER = 256 * 1024,
    IDLE_S = 120, /* an idle connection, or a client that stalls in the middle of a request */
};

struct server {
    struct pool *pool;
    struct MHD_Daemon *daemon;
    bool token_needed;
    unsigned char token_hash[SHA256_DIGEST_LENGTH];
};

/* --- checks, in the order of the service */

/* Hashes are compared, so that neither content nor length shows in the time taken. */
static bool token_ok(const struct server *s, const char *token)
{
    unsigned char hash[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)token, strlen(token), hash);
    return CRYPTO_memcmp(hash, s->token_hash, sizeof hash) == 0;
}

/* The socket's own permissions say so too; this is for a directory that was opened up. */
static bool peer_ok(const struct request *r)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct ucred peer;
    socklen_t len = sizeof peer;
    return info && !getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) &&
           (peer.uid == geteuid() || peer.uid == 0);
}

static bool authorized(const struct server *s, struct request *r)
{
    if (!s->token_needed) {
        if (peer_ok(r))
            return true;
        reply_error(r, 403, "Forbidden", "This socket is for its owner.");
        return false;
    }
    const char *token = wire_bearer(request_header(r, "Authorization"));
    if (token && token_ok(s, token))
        return true;
    reply_empty(r, 401);
    reply_add(r, "WWW-Authenticate", token ? "Bearer error=\"invalid_token\"" : "Bearer");
    return false;
}

static bool routed(struct request *r, const char *method)
{
    const char *word = target_parameter(&r->target, "api-version");
    r->version = api_find(word);
    if (!r->version) {
        reply_error(r, 400, word ? "InvalidApiVersion" : "MissingApiVersionParameter",
                    "The api-version is not one of: %s.", api_versions);
        return false;
    }
    r->route = route_find(r->version, method, &r->target, &r->wild);
    if (!r->route)
        reply_error(r, 400, "SessionRequestNotSupported",
                    "The request is not supported by api-version %s.", word);
    return r->route != NULL;
}

static bool identified(struct request *r)
{
    if (r->route->need == NEED_NOTHING)
        return true;
    r->identifier = target_parameter(&r->target, "identifier");
    if (r->identifier && wire_identifier_ok(r->identifier))
        return true;
    reply_error(r, 400, "SessionRequestValidationFailed",
                r->identifier ? "The identifier is not 4 to 128 letters, digits or | - _ & ^ %% $ "
                                "# ( ) { } [ ] ; < >."
                              : "The query parameter 'identifier' is missing.");
    return false;
}

/* The service says this one without the usual envelope. */
static void too_many(struct request *r)
{
    char text[256];
    unsigned long long most = pool_options(r->pool)->max_sessions;
    snprintf(text, sizeof text,
             "{\"code\":\"SessionsCountExceedsLimit\",\"message\":\"The request sessions count is "
             "'1'. There are already '%llu' active sessions and the maximum active sessions count "
             "is '%llu'.\"}",
             (unsigned long long)pool_count(r->pool), most);
    reply_text(r, 429, "application/json; charset=utf-8", text);
    reply_add(r, "x-ms-error-code", "SessionsCountExceedsLimit");
    reply_add(r, "Retry-After", "5");
}

static void acquire(struct request *r)
{
    if (r->route->need != NEED_SESSION)
        return;
    int err = pool_acquire(r->pool, r->identifier, true, &r->session, &r->fresh);
    if (err == -EUSERS)
        too_many(r);
    else if (err)
        reply_error(r, 503, "SessionAllocationFailed", "A session can't be allocated: %s.",
                    strerror(-err));
}

static void begin(const struct server *s, struct request *r, const char *method)
{
    r->begun = true;
    if (!authorized(s, r))
        return;
    if (r->target_bad)
        reply_error(r, 400, "SessionRequestValidationFailed", "The request target is malformed.");
    else if (r->target.count == 0 && strcmp(method, "POST") != 0)
        reply_text(r, 200, "application/json; charset=utf-8",
                   "{\"name\":\"acapool\",\"version\":\"" ACAFS_VERSION "\"}");
    else if (routed(r, method) && identified(r))
        acquire(r);
}

/* --- bodies */

static bool receive(struct request *r, const char *data, size_t len)
{
    r->received += len;
    if (r->status)
        return r->received <= DISCARD_MAX;
    if (r->route->body == BODY_FILE) {
        upload_receive(r, data, len);
        return r->received <= DISCARD_MAX;
    }
    if (r->body_too_large || r->body.len + len > JSON_BODY_MAX) {
        r->body_too_large = true;
        return r->received <= DISCARD_MAX;
    }
    return r->route->body == BODY_NONE || !buf_add(&r->body, data, len);
}

/* --- the reply */

static enum MHD_Result send_reply(struct request *r)
{
    if (!r->reply)
        return MHD_NO;
    reply_add(r, "api-supported-versions", api_versions);
    reply_add(r, "Cache-Control", "no-store");
    if (r->session) {
        reply_add(r, "x-ms-session-guid", r->session->guid);
        reply_add(r, "x-ms-session-etag", r->session->guid);
        reply_add(r, "x-ms-new-allocation", r->fresh ? "true" : "false");
    }
    enum MHD_Result result = MHD_queue_response(r->connection, r->status, r->reply);
    MHD_destroy_response(r->reply);
    r->reply = NULL;
    return result;
}

/* --- what libmicrohttpd calls */

static void *on_target(void *arg, const char *raw, struct MHD_Connection *connection)
{
    struct server *s = arg;
    struct request *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->pool = s->pool;
    r->connection = connection;
    r->target_bad = target_parse(raw, &r->target) != 0;
    pool_enter(s->pool);
    return r;
}

/* An execution may take longer than an idle connection may live. */
static void set_patience(struct MHD_Connection *connection, unsigned seconds)
{
    MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, seconds);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *http, const char *data,
                                  size_t *len, void **state)
{
    const struct server *s = arg;
    struct request *r = *state;
    if (!r)
        return MHD_NO;
    if (!r->begun) {
        begin(s, r, method);
        /* A client that asks first is told before it sends its body. */
        const char *expect = request_header(r, "Expect");
        return r->status && expect && strcasecmp(expect, "100-continue") == 0 ? send_reply(r)
                                                                              : MHD_YES;
    }
    if (*len) {
        bool good = receive(r, data, *len);
        *len = 0;
        return good ? MHD_YES : MHD_NO;
    }
    if (r->body_too_large)
        reply_error(r, 413, "RequestTooLarge", "The body is larger than %d MB.",
                    JSON_BODY_MAX >> 20);
    if (!r->status) {
        set_patience(connection, 0);
        r->route->call(r);
        set_patience(connection, IDLE_S); /* which starts it anew */
    }
    return send_reply(r);
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    struct server *s = arg;
    struct request *r = *state;
    if (!r)
        return;
    *state = NULL;
    upload_forget(r);
    if (r->reply)
        MHD_destroy_response(r->reply);
    if (r->session)
        pool_release(r->session);
    buf_free(&r->body);
    free(r->target.storage);
    free(r);
    pool_leave(s->pool);
}

/* Targets are decoded once, in wire.c. */
static size_t do_not_unescape(void *arg, struct MHD_Connection *connection, char *text)
{
    return strlen(text);
}

static void on_log(void *arg, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));
static void on_log(void *arg, const char *format, va_list args)
{
    char line[512];
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = '\0';
    log_debug("http: %s", line);
}

int server_start(struct pool *pool, int fd, const char *token, struct server **out)
{
    struct server *s = calloc(1, sizeof *s);
    if (!s) {
        close(fd);
        return -ENOMEM;
    }
    s->pool = pool;
    s->token_needed = token != NULL;
    if (token)
        SHA256((const unsigned char *)token, strlen(token), s->token_hash);
    s->daemon =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION |
                             MHD_USE_POLL | MHD_USE_ITC | MHD_USE_ERROR_LOG,
                         0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
                         MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_URI_LOG_CALLBACK, on_target, s,
                         MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_UNESCAPE_CALLBACK,
                         do_not_unescape, NULL, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                         (size_t)CONNECTION_BUFFER, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
                         MHD_OPTION_THREAD_STACK_SIZE, (size_t)1 << 20, MHD_OPTION_END);
    if (!s->daemon) {
        close(fd);
        free(s);
        return -EIO;
    }
    *out = s;
    return 0;
}

void server_quiesce(struct server *s)
{
    int fd = MHD_quiesce_daemon(s->daemon);
    if (fd >= 0)
        close(fd);
}

void server_stop(struct server *s)
{
    MHD_stop_daemon(s->daemon);
    free(s);
}
