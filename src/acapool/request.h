/* One HTTP request on its way through acapool:
 *
 *   head came ──→ checked (token, version, route, identifier) ──→ session held ──→ body came ──→
 * call ──→ reply └────────── refused: the body is read and dropped ───────────────────────────────↗
 *
 * server.c moves it along; the calls of the API (calls_*.c) fill in its reply. */
#ifndef ACAFS_ACAPOOL_REQUEST_H
#define ACAFS_ACAPOOL_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include <cjson/cJSON.h>
#include <microhttpd.h>

#include "acapool/files.h"
#include "acapool/form.h"
#include "acapool/pool.h"
#include "acapool/wire.h"
#include "util/buf.h"

/* One bit each. */
enum api {
    API_2024_02 = 1,
    API_2024_08 = 2,
    API_2024_10 = 4,
    API_2025_02 = 8,
    API_2025_10 = 16,
    API_OLD_SHAPE = API_2024_02 | API_2024_08,
    API_NEW_SHAPE = API_2024_10 | API_2025_02 | API_2025_10,
    API_SESSIONS = API_2025_02 | API_2025_10,
};

enum body { BODY_NONE, BODY_JSON, BODY_FILE };
enum need { NEED_NOTHING, NEED_IDENTIFIER, NEED_SESSION /* allocated on first use */ };

struct request;

struct route {
    unsigned versions;
    const char *method, *path; /* "*": any segment, "**" at the end: the rest */
    enum need need;
    enum body body;
    void (*call)(struct request *);
};

/* The route of a request, or NULL; wild: what its first '*' or '**' stands for. */
const struct route *route_find(unsigned version, const char *method, const struct target *,
                               size_t *wild);
/* 0 when the word is no version; NULL-safe. */
unsigned api_find(const char *word);
extern const char api_versions[]; /* as the service lists them */

struct request {
    struct pool *pool;
    struct MHD_Connection *connection;
    struct target target;
    bool target_bad;
    bool begun;
    unsigned version;
    const struct route *route;
    size_t wild;
    const char *identifier;
    struct session *session; /* held */
    bool fresh;              /* this request allocated it */

    struct buf body;   /* BODY_JSON */
    uint64_t received; /* bytes of body, kept or not */
    bool body_too_large;
    struct form form; /* BODY_FILE */
    bool has_form;
    struct upload upload;
    enum { FILE_AWAITED, FILE_RECEIVING, FILE_COMPLETE } file;
    char *file_name; /* as the client said */
    int file_error;  /* -errno of receiving it */

    unsigned status; /* 0: no reply yet */
    struct MHD_Response *reply;
};

/* The segment that the route's wildcard stands for. */
const char *request_wild(const struct request *);
/* Directory of a new-shape file call: the `path` parameter, "" if there is none. The service's
 * samples and LangChain's bash tool say /mnt/data for the top. */
const char *request_path(const struct request *);
const char *request_header(const struct request *, const char *name);

/* --- replies: the first one counts */

void reply_empty(struct request *, unsigned status);
void reply_text(struct request *, unsigned status, const char *type, const char *text);
/* Takes the document over. NULL: out of memory. */
void reply_json(struct request *, unsigned status, cJSON *);
/* {"error": {"code", "message"}} and x-ms-error-code. */
void reply_error(struct request *, unsigned status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* A failed system call on a session's file. */
void reply_errno(struct request *, int err, const char *directory, const char *name);
void reply_add(struct request *, const char *header, const char *value);

/* Text of a session as a JSON string: unlike cJSON's own it may hold NUL. */
cJSON *reply_string(const char *text, size_t len);

/* --- the calls */
void call_list(struct request *);
void call_stat(struct request *);
void call_download(struct request *);
void call_upload(struct request *);
void call_delete_file(struct request *);
void call_list_old(struct request *);
void call_stat_old(struct request *);
void call_download_old(struct request *);
void call_upload_old(struct request *);
void call_delete_file_old(struct request *);
void call_execute(struct request *);
void call_execute_old(struct request *);
void call_execution(struct request *);
void call_session(struct request *);
void call_delete_session(struct request *);
void call_list_sessions(struct request *);
void call_metadata(struct request *);
void call_manage_get(struct request *);
void call_manage_list(struct request *);
void call_manage_stop(struct request *);

/* Receives a piece of an upload's body. */
void upload_receive(struct request *, const char *data, size_t len);
/* Frees what upload_receive() made. */
void upload_forget(struct request *);

#endif
