/* HTTP requests on the loop: timeouts, a deadline, retries, cancellation, a bearer
 * token where asked for. Knows nothing of sessions.
 *
 * A request is described by a struct http_request and started with http_start(); its
 * `done` runs exactly once, from the loop and never from within http_start(), unless
 * http_cancel() comes first: then nothing is called any more.
 *
 * Safety kept here for every request: no redirect is followed; https only, plain http
 * to loopback addresses and Unix sockets only; the token goes only with requests that
 * name an authorizer, never into a log. */
#ifndef ACAFS_HTTP_HTTP_H
#define ACAFS_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "http/meter.h"
#include "loop/loop.h"
#include "util/buf.h"

struct http;
struct http_call;

/* Where bearer tokens come from: credential/ implements it. `get` calls done exactly
 * once, at once (and returns NULL) or later (and returns a handle for `cancel`, after which
 * done is not called). err is 0 or -errno; token and why live during the call only.
 * `refused` says that the pool answered 401 to this token. */
typedef void http_token_fn(void *arg, int err, const char *token, const char *why);
struct http_authorizer {
    void *self;
    void *(*get)(void *self, http_token_fn *done, void *arg);
    void (*cancel)(void *self, void *handle);
    void (*refused)(void *self, const char *token);
};

struct http_options {
    const char *user_agent;
    int64_t connect_ms;  /* default 10,000 */
    int64_t idle_ms;     /* longest time without progress; default 60,000 */
    unsigned retries;    /* further attempts after the first; default 4 */
    unsigned max_transfers; /* at once; more wait their turn; default 16 */
};

/* What may be sent a second time after a failure that leaves its fate unknown. */
enum http_retry {
    HTTP_RETRY_SAFE,    /* GET, and PUT-like: always */
    HTTP_RETRY_UNSENT,  /* execute: only when no byte of it can have been acted upon
                           (name resolution, connect or TLS failed; 429; a 503 with Retry-After) */
    HTTP_RETRY_NEVER,
};

enum http_body {
    HTTP_BODY_NONE,
    HTTP_BODY_BYTES, /* data, len, content_type; copied by http_start */
    HTTP_BODY_PART,  /* multipart/form-data with one part "file": part_name as its file
                        name; content from data/len, or len bytes of fd from offset, by pread */
};

/* What came back; owned by the call, gone when done returns. */
struct http_result {
    int err;           /* 0 when the server answered (look at status); else -errno:
                          -EHOSTUNREACH no route, refused or unresolved; -ETIMEDOUT connect, idle
                          or deadline; -EIO broken transfer; -EPROTO not HTTP, bad TLS certificate,
                          or a redirect; -EACCES no token to be had; -EFBIG body over the limit;
                          or what on_head/on_data returned */
    int status;        /* HTTP status, 0 when none */
    const char *why;   /* one line for people, never NULL, no secret in it */
    const char *body;  /* NUL-terminated, never NULL; empty when on_data took the bytes */
    size_t body_len;
    int attempts;
    bool sent;         /* the request may have been acted upon */
    struct http_call *call; /* for http_header() */
};

struct http_request {
    enum http_kind kind; /* what it is counted as */
    const char *method;  /* a literal */
    const char *url;
    const char *unix_socket;           /* NULL: TCP */
    const char *const *headers;        /* "Name: value", NULL-terminated; may be NULL; copied */
    enum http_body body;
    const char *content_type;
    const void *data;                  /* with HTTP_BODY_PART: copied, unless fd >= 0 */
    size_t len;
    int fd;                            /* HTTP_BODY_PART from a file: >= 0, borrowed until done */
    off_t offset;
    const char *part_name;
    const struct http_authorizer *auth; /* NULL: no Authorization header */
    enum http_retry retry;
    int64_t deadline_ms;               /* for all attempts together; 0: none */
    int64_t idle_ms;                   /* 0: the default of http_options */
    size_t max_body;                   /* largest body kept in memory; 0: 64 MiB */

    /* For requests that fetch tokens (credential/). */
    bool secret;   /* it or its answer holds secrets: every copy is wiped and its connection closed.
                      Starts at once, whatever max_transfers says: the calls that hold the places may
                      be waiting for the token it brings */
    bool metadata; /* asks a service of this machine or of its host: no proxy, and plain http is
                      allowed to link-local and private addresses too (http_metadata_check) */
    const char *thumbprint; /* SHA-1 or SHA-256 in hex of the one certificate that is accepted,
                               whoever signed it; NULL: the usual authorities. Copied */

    /* Optional streaming of a 2xx body. on_head runs at the headers of each attempt that
     * was answered 2xx; a retry after bytes were given out calls it again, and the taker
     * starts over. Each returns 0, or -errno to end the request with that error. */
    int (*on_head)(void *arg, struct http_call *, int status);
    int (*on_data)(void *arg, const void *data, size_t len);
    /* Optional: bytes of the request body sent so far in this attempt. */
    void (*on_sent)(void *arg, uint64_t bytes);

    void (*done)(void *arg, const struct http_result *);
    void *arg;
};

/* 0 or -errno. `options` may be NULL for the defaults; copied. */
int http_new(struct loop *, const struct http_options *, struct http **out);
/* Ends what is under way without a call to done. */
void http_free(struct http *);

/* NULL only when out of memory; every other failure goes to done. */
struct http_call *http_start(struct http *, const struct http_request *);
void http_cancel(struct http_call *);

/* A response header of the attempt that ended (or is in on_head), or NULL; case-insensitive. */
const char *http_header(struct http_call *, const char *name);

/* Whether a URL may be used at all: https, or http to loopback (or with a Unix socket).
 * 0, or -EINVAL with *why (a literal) saying what is wrong. */
int http_url_check(const char *url, const char *unix_socket, const char **why);
/* The same for a metadata service: plain http also to link-local and private addresses. */
int http_metadata_check(const char *url, const char **why);
/* Same scheme, host and port: whether a token for one may go to the other. */
bool http_same_origin(const char *a, const char *b);

/* Counters for .acafs/status. */
struct http_stats {
    uint64_t requests, attempts, errors, bytes_in, bytes_out;
    unsigned active, waiting;
};
void http_get_stats(const struct http *, struct http_stats *);
const struct http_meter *http_get_meter(const struct http *, enum http_kind);

#endif
