/* The session client: one function per call of the session pool's API, old and new
 * shapes behind one table, plus the executed helper for what the file calls can't do.
 * Knows nothing of files on local disk or of FUSE.
 *
 * Paths are relative to the session's file root (/mnt/data), parts joined by '/', no
 * leading '/', "" is the root; UTF-8. Every call takes a callback that runs exactly once,
 * from the loop, never from within the call itself, unless session_cancel() comes first.
 * What callbacks are given lives only during the call. */
#ifndef ACAFS_SESSION_SESSION_H
#define ACAFS_SESSION_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "http/http.h"
#include "session/answer.h"

struct session;
struct session_call;

struct session_options {
    const char *endpoint; /* pool management endpoint URL, with or without trailing '/' or query */
    const char *unix_socket; /* the local pool's, or NULL */
    const char *identifier;  /* NULL: of no session: only the calls about the pool may be made */
    const char *api_version; /* NULL or "auto": negotiate, newest first */
    int64_t deadline_ms;     /* for each file call in all, retries included; default 120,000.
                                Transfers of content are bounded by lack of progress instead */
};

/* 0, or -errno with *why (malloc'd, one line). Copies the options; auth may be NULL. */
int session_new(struct loop *, struct http *, const struct http_authorizer *auth,
                const struct session_options *, struct session **out, char **why);
/* Cancels what is under way. */
void session_free(struct session *);

const char *session_identifier(const struct session *);
const char *session_endpoint(const struct session *);
/* The version in use: settled by the first answered call. */
const char *session_api_version(const struct session *);

/* How answers so far show the session; for status and for noticing that it was recycled. */
struct session_state {
    const char *etag;        /* last known, or NULL */
    const char *identity;    /* tells this session from a later one of its identifier, or NULL */
    uint64_t generation;     /* grows when the session was seen to be a new, empty one */
    struct timespec expires; /* tv_nsec -1: not known */
};
void session_get_state(const struct session *, struct session_state *);
/* What an earlier client knew as its identity: should it be another by now, generation grows as
 * soon as session_info() tells. Before the first call; 0 or -ENOMEM. */
int session_expect(struct session *, const char *identity);
/* Called when generation grows. */
void session_on_recycled(struct session *, void (*fn)(void *arg), void *arg);

void session_cancel(struct session_call *);

/* Settles the API version and what the pool can do (version, separate kernel, ranges).
 * Every other call does it first when it was not done. */
typedef void session_done_fn(void *arg, const struct session_error *error); /* err 0: well */
struct session_call *session_connect(struct session *, session_done_fn *, void *arg);

/* Whether the file calls of the settled version can name this path; what they can't goes
 * through the helper. The functions below choose by themselves. */
bool session_path_plain(const struct session *, const char *path);

/* Lists one directory, all pages together, or with `recursive` everything below it. A directory
 * that the file calls can't name is scanned by the helper. *complete_tree tells whether the
 * listing really is recursive (older versions can't). */
struct session_list_result {
    const struct listing *listing;
    bool recursive;
};
typedef void session_list_fn(void *arg, const struct session_error *,
                             const struct session_list_result *);
struct session_call *session_list(struct session *, const char *path, bool recursive,
                                  session_list_fn *, void *arg);

/* What listings may leave out, in the whole store, told by the helper: symlinks, and everything
 * whose path is not plain. Entries' `directory` is relative to the root. */
struct session_call *session_list_hidden(struct session *, session_list_fn *, void *arg);

/* Downloads from offset on; of servers with ranges and the helper no more than `length` bytes
 * (0: to the end). on_head tells where the bytes that follow belong (a server
 * without ranges starts at 0 whatever was asked; a retry starts over) and the whole size,
 * -1 when not known. */
struct session_sink {
    int (*on_head)(void *arg, uint64_t start, int64_t size, const struct timespec *mtime);
    int (*on_data)(void *arg, const void *data, size_t len); /* 0, or -errno to stop */
    session_done_fn *done;
    void *arg;
    uint64_t length;
    bool no_namesake; /* below a directory: no file at the top is known that has its name. Saves a
                         look at whether this server would give that one instead */
};
struct session_call *session_download(struct session *, const char *path, uint64_t offset,
                                      const struct session_sink *);
/* Whether the server was seen to honour ranges: 1, 0, or -1 for not known yet. */
int session_ranges(const struct session *);

/* Replaces or creates a file with size bytes of fd (borrowed until done). Missing parent
 * directories are made. Names the file calls refuse, and sizes over 128 MB, go by the
 * helper; small ones without a second round trip. */
typedef void session_entry_fn(void *arg, const struct session_error *, const struct entry *);
struct session_call *session_upload(struct session *, const char *path, int fd, uint64_t size,
                                    session_entry_fn *, void *arg);
/* As above from memory (copied). */
struct session_call *session_upload_bytes(struct session *, const char *path, const void *data,
                                          size_t len, session_entry_fn *, void *arg);

/* What a name is now: -ENOENT when there is none. */
struct session_call *session_stat(struct session *, const char *path, session_entry_fn *,
                                  void *arg);

/* A file or symlink; -ENOENT when it was not there. `seen`: it was a file a moment ago, which saves
 * a look at what it is, for the call would take a directory too. -ENOENT is then no more than what
 * the file call says. */
struct session_call *session_unlink(struct session *, const char *path, bool seen,
                                    session_done_fn *, void *arg);

/* --- by the helper. Errors are those of the system call in the session. */
struct session_call *session_mkdir(struct session *, const char *path, unsigned mode,
                                   session_done_fn *, void *arg);
struct session_call *session_rmdir(struct session *, const char *path, session_done_fn *,
                                   void *arg); /* -ENOTEMPTY */
enum session_rename { RENAME_PLAIN, RENAME_KEEP /* RENAME_NOREPLACE */, RENAME_SWAP };
struct session_call *session_rename(struct session *, const char *from, const char *to,
                                    enum session_rename, session_done_fn *, void *arg);
struct session_call *session_symlink(struct session *, const char *target, const char *path,
                                     session_done_fn *, void *arg);
struct session_space {
    uint64_t total, free; /* bytes */
};
typedef void session_space_fn(void *arg, const struct session_error *,
                              const struct session_space *);
struct session_call *session_space(struct session *, session_space_fn *, void *arg);
/* Any operation of helper.py: `request` (taken over) is {"op": ..., ...}; the answer's value. Used
 * by job/. Requests made while one helper is under way go together in the next. */
typedef void session_value_fn(void *arg, const struct session_error *, const cJSON *value);
struct session_call *session_helper(struct session *, cJSON *request, session_value_fn *,
                                    void *arg);

/* --- executions */
struct session_code {
    const char *code;
    int64_t timeout_s; /* told to the service; 0: leave it out */
    bool asynchronous;
    bool empty_kernel;        /* ignored where the pool has none */
    uint64_t streams_max;     /* outputStreamsMaxLength; 0: leave it out */
    const char *operation_id; /* or NULL */
    int64_t deadline_ms;      /* for the caller's wait; 0: 240,000 or timeout_s + 20 s */
};
typedef void session_execution_fn(void *arg, const struct session_error *,
                                  const struct execution *);
struct session_call *session_execute(struct session *, const struct session_code *,
                                     session_execution_fn *, void *arg);
struct session_call *session_execution(struct session *, const char *id, session_execution_fn *,
                                       void *arg);

/* --- the session itself */
typedef void session_info_fn(void *arg, const struct session_error *, const struct session_info *);
struct session_call *session_info(struct session *, session_info_fn *, void *arg);
struct session_call *session_delete(struct session *, session_done_fn *, void *arg);
/* --- about the pool: these touch no session, and need no identifier of their own */
typedef void session_names_fn(void *arg, const struct session_error *,
                              const struct session_names *);
/* All sessions the pool has: -EOPNOTSUPP where it does not tell. */
struct session_call *session_sessions(struct session *, session_names_fn *, void *arg);
/* Whether the pool has a session of that identifier: -ENOENT when not, -EOPNOTSUPP where it does
 * not tell. */
struct session_call *session_find(struct session *, const char *identifier, session_info_fn *,
                                  void *arg);
/* Deletes the session of that identifier: -ENOENT when there is none. Its clients are not told. */
struct session_call *session_end(struct session *, const char *identifier, session_done_fn *,
                                 void *arg);
/* Uses the session of that identifier, by asking for its files: it does not expire for a while.
 * There is one afterwards, whether there was or not. */
struct session_call *session_touch(struct session *, const char *identifier, session_done_fn *,
                                   void *arg);
/* GET metadata, as the service words it. */
struct session_call *session_metadata(struct session *, session_value_fn *, void *arg);

#endif
