/* What a pool's answers mean: from status, headers and body to typed values. Pure
 * functions; every byte is hostile. Accepts every spelling that servers were seen to use
 * (both API shapes, either envelope, type casing, numbers as strings); refuses what would
 * be a hole (names that climb, pages on another host, wrong types where it matters). */
#ifndef ACAFS_SESSION_ANSWER_H
#define ACAFS_SESSION_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cjson/cJSON.h>

#include "util/buf.h"

/* An answer as it came; strings NULL where the header is absent. */
struct answer {
    int status;
    const char *body;
    size_t len;
    const char *content_type;
    const char *retry_after;
    const char *supported_versions; /* api-supported-versions */
    const char *error_code;         /* x-ms-error-code */
    const char *www_authenticate;
};

enum session_hint { HINT_NONE, HINT_TOKEN, HINT_ROLE, HINT_OTHER_SHAPE, HINT_OTHER_VERSION };

/* Why a call failed, for programs and for people. Zero-initialise; free with session_error_free. */
struct session_error {
    int err;       /* -errno, by the one table of acafs(8); 0: no error */
    int status;    /* HTTP status, 0: none */
    bool unsent;   /* of a call: nothing of it came to the server */
    char *code;    /* the service's code, or NULL */
    char *message; /* one printable line, or NULL */
    enum session_hint hint;
    char *versions; /* with HINT_OTHER_VERSION: the api-supported-versions value */
};
void session_error_free(struct session_error *);

enum entry_kind { ENTRY_FILE, ENTRY_DIRECTORY, ENTRY_SYMLINK };

struct entry {
    char *name;      /* 1..255 bytes, no '/', not "." or ".."; may hold control characters */
    char *directory; /* relative to what was listed, "" for its top, parts joined by '/' */
    char *target;    /* symlinks: where to; else NULL */
    enum entry_kind kind;
    int64_t size;          /* bytes; -1: not known */
    struct timespec mtime; /* UTC; tv_nsec -1: not known */
    uint32_t mode;         /* permission bits; 0: not known (only executed helpers tell) */
};

struct listing {
    struct entry *entries;
    size_t count;
    size_t skipped; /* entries that a mount must not show */
    bool placed;    /* some entry told its directory, were it the top */
    char *next;     /* URL of the next page, same origin as base, or NULL */
};
void listing_free(struct listing *);
void entry_free(struct entry *);

enum execution_state {
    EXECUTION_RUNNING,
    EXECUTION_SUCCEEDED,
    EXECUTION_FAILED,
    EXECUTION_CANCELED,
    EXECUTION_TIMED_OUT, /* ended by the service's own limit */
};

struct execution {
    enum execution_state state;
    char *id;        /* operation id, or NULL */
    char *out, *err; /* stdout and stderr, or NULL when the answer had none */
    cJSON *result;   /* last expression's value; NULL when absent. An image loses base64_data */
    int64_t milliseconds; /* -1: not known */
    struct buf image;     /* decoded bytes; empty: no image */
    char extension[16];   /* for the image's file name: the format when that is safe, else "img" */
    char *code, *message; /* of an error object, or NULL */
};
void execution_free(struct execution *);

struct session_info {
    char *etag;
    struct timespec expires; /* tv_nsec -1: not known */
};
void session_info_free(struct session_info *);

/* Identifiers of a pool's sessions. */
struct session_names {
    char **names;
    size_t count;
    size_t hidden; /* entries without an identifier that could be asked for, or be a file's name */
    bool more;     /* another page follows */
    char *next;    /* its URL, same origin as base; NULL: as this one, by `skip` */
};
void session_names_free(struct session_names *);

/* Each fills out (zeroed first) and returns 0, or fills error and returns its -errno.
 * base: the URL that was asked, for the origin check of nextLink. */
int answer_list(const struct answer *, const char *base, struct listing *out,
                struct session_error *);
int answer_entry(const struct answer *, struct entry *out, struct session_error *);
int answer_delete(const struct answer *, struct session_error *);
int answer_execute(const struct answer *, struct execution *out, struct session_error *);
int answer_session(const struct answer *, struct session_info *out, struct session_error *);
int answer_sessions(const struct answer *, const char *base, struct session_names *out,
                    struct session_error *);
/* For answers whose body is taken elsewhere (downloads): the error of a non-2xx status. */
int answer_error(const struct answer *, struct session_error *);

/* An identifier that the service allows, which is also a file's name: 0, or -EINVAL with *why (a
 * literal). */
int session_identifier_check(const char *identifier, const char **why);
/* A name that a directory can show: see struct entry. */
bool entry_name_ok(const char *name, size_t len);

#endif
