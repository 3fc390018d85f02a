/* What the files of the session client share: the session, its calls, and how a call
 * goes on from one request to the next. */
#ifndef ACAFS_SESSION_PRIVATE_H
#define ACAFS_SESSION_PRIVATE_H

#include "session/session.h"

enum {
    UPLOAD_LIMIT = 128 << 20, /* the service's, for one request */
    INLINE_LIMIT = 192 << 10, /* content that goes with a helper's request or answer */
    HELPER_DEADLINE_MS = 240000,
};

/* What a version of the API looks like. */
struct shape {
    const char *version;
    bool old;          /* paths and the `properties` envelope of 2024-02-02-preview */
    bool recursive;    /* lists: recursive=true and `directory` */
    bool empty_kernel; /* executions: useEmptyKernel and outputStreamsMaxLength */
    bool session;      /* GET and DELETE session, GET metadata */
};

/* Runs once: NEW ──▶ ASKING ──▶ SETTLED; back to NEW when asking failed. */
enum connect_state { CONNECT_NEW, CONNECT_ASKING, CONNECT_SETTLED };

/* Whether `path=` is understood, and means below /mnt/data. */
enum subdirectories { PATH_UNKNOWN, PATH_GOOD, PATH_BAD };

/* Whether the pool takes a member of an execution's request; what was once taken is never
 * blamed for a refusal. */
enum option { OPTION_UNKNOWN, OPTION_TAKEN, OPTION_REFUSED };

/* A header's value, and the one that it replaced: late answers still bear that. */
struct known {
    char *now, *before;
};

struct helper; /* helper.c */

struct session {
    struct loop *loop;
    struct http *http;
    const struct http_authorizer *auth;
    char *endpoint;       /* as given */
    char *base;           /* without query and trailing '/' */
    char *query;          /* of the endpoint, or "" */
    char *unix_socket;    /* or NULL */
    char *identifier;     /* NULL: the pool's own handle */
    char *wanted_version; /* NULL: negotiate */
    char *version;        /* in use or being tried */
    int64_t deadline_ms;

    struct shape shape;
    enum connect_state connect;
    struct http_call *connecting;
    unsigned candidate; /* next of the versions to try */
    bool offered;       /* api-supported-versions chose the one being tried */

    bool envelope;    /* body shape of executions */
    bool old_execute; /* executions go the old way, whatever the version of the rest */
    enum option empty_kernel, streams_max;
    int ranges;
    unsigned sessions_form;             /* in which the pool answered what it has */
    enum subdirectories subdirectories; /* of uploads, lists and deletes */
    enum subdirectories content;        /* of downloads */

    bool tells_allocation; /* answers bear x-ms-new-allocation */
    struct known etag, header_etag, guid;
    uint64_t generation;
    struct timespec expires;
    void (*recycled)(void *arg);
    void *recycled_arg;
    struct loop_timer recycled_later;

    struct session_call *calls; /* all of them, in the order in which they were made */
    struct session_call *ready; /* those that begin in the loop's next turn, in that order too */
    struct loop_timer begin;
    struct helper *helper;
};

struct session_call;
typedef void step_fn(struct session_call *, const struct answer *);
typedef void value_step_fn(struct session_call *, const cJSON *value);

struct call_kind {
    void (*begin)(struct session_call *);   /* the version is settled */
    void (*finish)(struct session_call *);  /* gives c->error and what was found to the caller */
    void (*release)(struct session_call *); /* frees what the kind added; may be NULL */
};

/* The head of every call; the kinds append their own members.
 *
 *     created ──▶ (waits for the version) ──▶ begin ──▶ step ... step ──▶ finish, freed
 */
struct session_call {
    struct session_call *prev, *next;
    struct session_call *ready_prev, *ready_next;
    struct session *session;
    const struct call_kind *kind;
    struct session_error error;
    bool ready;      /* in the session's list */
    bool waits;      /* for the version */
    bool pool;       /* asks of the pool, touches no session: needs no version */
    bool redirected; /* the last request was answered 3xx */
    bool sent;       /* a request of it may have been acted upon */
    int64_t deadline_at;
    struct http_call *http;
    step_fn *step;
    struct helper_request *asked;
    value_step_fn *value_step;
    bool *gone; /* told when the call is freed while a callback of its caller runs */
    void *arg;
};

/* A call of `size` bytes that begins in the loop's next turn; NULL when out of memory. */
void *call_new(struct session *, size_t size, const struct call_kind *, void *arg);
/* Has the call begin, or end when c->error is set, in the loop's next turn. Calls made one after
 * another begin in that order: a directory is made before what goes into it. */
void call_ready(struct session_call *);
/* Ends the call with c->error as it is; frees it. */
void call_end(struct session_call *);
/* Ends it with an error of our own. */
void call_fail(struct session_call *, int err, const char *message);
/* Whether there is no error; c->error is cleared when there is one that the call gets over. */
void call_forget_error(struct session_call *);
/* Milliseconds left of the call's deadline, at least 1. */
int64_t call_left(const struct session_call *);

/* Sends r (its url is taken over) and goes on with step; the answer is NULL when there was none,
 * and c->error says why. */
void call_send(struct session_call *, struct http_request *r, char *url, step_fn *);
/* Has the helper do request (taken over) and goes on with step: value NULL and c->error set when
 * it failed. */
void call_ask(struct session_call *, cJSON *request, value_step_fn *);
/* {"op": op, "path": path} or NULL. */
cJSON *helper_op(const char *op, const char *path);

/* --- wire.c */
void wire_answer(const struct http_result *, struct answer *out);
/* The error of a request that was not answered. */
void wire_error(const struct http_result *, struct session_error *);
/* Takes note of the headers that tell about the session. */
void wire_notice(struct session *, const struct http_result *);
/* Takes note of a value; true when it says that the session is another than before. */
bool known_note(struct known *, const char *value);
void known_forget(struct known *);
/* The session is another one, as *teller says (NULL: we know by ourselves): what the other
 * tellers said was of the old one, and their next words are no news. */
void session_new_allocation(struct session *, const struct known *teller);
void wire_defaults(const struct session *, struct http_request *);

/* URLs; NULL when out of memory. directory NULL or "": no path parameter. */
char *url_plain(const struct session *, const char *what, const char *version);
/* identifier NULL: none; skip 0: left out. */
char *url_pool(const struct session *, const char *what, const char *version,
               const char *identifier, uint64_t skip);
char *url_list(const struct session *, const char *directory, bool recursive);
char *url_upload(const struct session *, const char *directory);
char *url_file(const struct session *, const char *path, bool content);
char *url_execution(const struct session *, const char *id);

/* --- download.c: Content-Range: bytes 5-9/10; *size is -1 for an unknown one ('*'). */
bool content_range(const char *text, uint64_t *start, int64_t *size);

/* --- stat.c */
/* The next step is asking what one name is: GET files/{name}. */
void call_stat(struct session_call *, const char *path, step_fn *);

/* --- paths.c */
bool path_ok(const char *path); /* parts joined by '/', none of them empty, "." or ".." */
bool directory_plain(const struct session *, const char *path);
char *path_parent(const char *path); /* malloc'd */
const char *path_base(const char *path);
/* Whether the file calls are the way to change or look at this path: in directories only once
 * `path` is known to be understood. */
bool path_by_file_calls(const struct session *, const char *path);
/* Whether an answer says that the file calls can't take this name. */
bool name_refused(const struct session_call *, const char *path);
/* prefix, one of these two, and 16 hex digits. */
#define STAGE_PREFIX "acafs-stage-"
#define PART_PREFIX "acafs-part-"
void stage_name(char out[40], const char *prefix);
bool is_stage_name(const char *name);
/* Has the helper remove stage files (an array of paths, taken over) when it has time. */
void stage_drop(struct session *, cJSON *names);

/* --- connect.c */
void connect_need(struct session_call *);
void connect_stop(struct session *);
bool shape_of(const char *version, struct shape *out);

/* --- execute.c: one execution, without the call around it */
struct http_call *execution_start(struct session *, const struct session_code *,
                                  void (*done)(void *arg, const struct http_result *), void *arg);
/* How an execution was sent. */
struct execution_form {
    bool envelope, empty_kernel, streams_max, old;
    bool other_shape_tried;
};
struct execution_form execution_form(const struct session *, const struct session_code *);
void execution_accepted(struct session *, const struct execution_form *);
/* Notes that a shape or option was refused; true: worth the same request again, as the code did
 * not run. */
bool execution_refused(struct session *, const struct session_error *, struct execution_form *);

/* --- helper.c */
struct helper_request;
int helper_new(struct session *);
void helper_free(struct session *);
/* NULL when out of memory (request is freed all the same). */
struct helper_request *
helper_ask(struct session *, cJSON *request,
           void (*done)(void *arg, const struct session_error *, const cJSON *value), void *arg);
void helper_forget(struct helper_request *);
/* What an execution's value holds: {"nonce":, "results":} as base64, in quotes at some servers.
 * NULL: no such thing. */
cJSON *helper_document(const cJSON *value);

#endif
