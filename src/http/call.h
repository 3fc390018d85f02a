/* Private to http/: a call, and what http.c (its life, from the queue to the result) and
 * attempt.c (one transfer of it on curl) ask of each other. */
#ifndef ACAFS_HTTP_CALL_H
#define ACAFS_HTTP_CALL_H

#include "http/http.h"

/* One call, all attempts together:
 *
 *     WAITING (a place) ──▶ TOKEN ──▶ SENDING ──▶ done
 *         ▲                   ▲          │
 *         │                   └──────────┤ a 401, once: a new token
 *         └───────── BACKOFF ◀───────────┘ retry.c decides
 *
 * From each of them ENDING leads to the end in the next turn of the loop. */
enum call_state { CALL_WAITING, CALL_TOKEN, CALL_SENDING, CALL_BACKOFF, CALL_ENDING };

struct http_call {
    struct http_call *prev, *next; /* in the list of its state */
    struct http *http;
    enum call_state state;
    struct http_request request; /* strings and data are copies */
    char *data_copy;
    struct curl_slist *headers;
    char *token;
    void *token_wait;
    bool renewed; /* a 401 was answered with a new token already */
    int attempts;
    bool sent_before; /* an attempt before this one may have been acted upon */

    int64_t started_at;      /* clock_ms() */
    struct loop_timer later; /* the end of the backoff, or of the call */
    struct loop_timer deadline;
    struct loop_timer idle;
    int64_t deadline_at; /* clock_ms(); 0: none */

    /* Of the attempt under way or ended. */
    CURL *easy; /* NULL: none */
    curl_mime *mime;
    struct curl_slist *sent_headers; /* holds the token */
    size_t part_at;                  /* how much of the part curl has read */
    int64_t progress_at;             /* clock_ms() of the last byte in either direction */
    curl_off_t moved_up, moved_down;
    bool idled; /* ended here, for want of progress */
    bool head_told;
    bool streaming; /* the body goes to on_data */
    int user_err;   /* what on_head or on_data returned */
    int status;
    struct buf body;
    char curl_error[CURL_ERROR_SIZE];

    /* What came of it, as in http_result. */
    int err;
    bool sent;
    char why[512];

    bool calling;   /* a callback of this call is running */
    bool cancelled; /* where it could not be freed at once: no callback runs any more */
};

struct http {
    struct loop *loop;
    struct http_options options;
    char *user_agent;
    struct http_call *urgent, *waiting, *active, *sleeping; /* urgent: secret ones that wait */
    unsigned active_count, waiting_count;
    bool admitting;         /* calls are being started: not again from within */
    unsigned in_curl;       /* a callback of curl is running: its functions may not be called */
    struct loop_timer kick; /* starts what was added then */
    CURL **spare;           /* easy handles for reuse: options.max_transfers of them */
    unsigned spare_count;
    CURLSH *share; /* TLS sessions */
    struct http_stats stats;
    struct http_meter meters[HTTP_KINDS];
};

/* --- attempt.c */

/* Hands the transfer to curl. 0, or -ENOMEM or -EINVAL (a header that is none) and nothing is
 * under way. */
int attempt_start(struct http_call *);
/* Ends it, wherever it is. Not from within a callback of curl. */
void attempt_stop(struct http_call *);
/* Tells on_head unless that was done, for answers without a body; sets the status. */
int attempt_head(struct http_call *);
/* Whether the server may have acted upon the attempt that ended so: anything, once bytes of the
 * request went out. */
bool attempt_acted(struct http_call *, CURLcode);
int attempt_errno(CURLcode);
/* Sets `why`: what happened and with whom, without any secret. */
void attempt_describe(struct http_call *, CURLcode);
int64_t attempt_idle_limit(const struct http_call *);

/* --- http.c */

/* Sets `why`, one line. */
void call_say(struct http_call *, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* "host:port" or the socket's path, for messages. */
void call_peer(const struct http_call *, char *out, size_t size);

/* --- url.c */

/* Whether the URL's host is this machine. */
bool url_is_loopback(const char *url);

#endif
