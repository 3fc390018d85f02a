/* One script, run in the session by the in-session harness (harness.py) in a fresh
 * interpreter process, or in the session's own kernel; watched until it ends. Used by
 * acarun without a mount and by the control file of a mount. Runs on the loop. */
#ifndef ACAFS_JOB_JOB_H
#define ACAFS_JOB_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "session/session.h"

struct job;

enum { JOB_NAME_SIZE = 27 }; /* acafs-job-, 16 hex digits, NUL */

/* A script's content as one number, never 0: the first 64 bits of its SHA-256; the last of them
 * tells whether it is exact. What is not exact can be told apart, but not looked for. */
static inline uint64_t script_content(const unsigned char *hash, bool exact)
{
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++)
        bits = bits << 8 | hash[i];
    return exact ? bits | 1 : (bits & ~(uint64_t)1) | 2;
}

static inline bool script_is_exact(uint64_t content)
{
    return content & 1;
}

struct job_spec {
    const char *path; /* the script in the session, or NULL with code */
    uint64_t content; /* script_content() of what the script has to be, else it is not run; or 0 */
    const char *code; /* code to run as it is ("-c", standard input) */
    const char *code_name;   /* its sys.argv[0]: "-" for standard input; NULL: "-c" */
    const char *const *args; /* sys.argv[1:], NULL-terminated; may be NULL */
    bool in_kernel;          /* the session's kernel: variables stay */
    bool plain;              /* code as it is, by one execution in that kernel; takes no args. Its
                                output comes when it is over, and no more than the pool tells */
    bool keep_outputs;       /* harness leaves PATH.stdout, .stderr, .result and images beside
                                the script in the session, replacing those of earlier runs */
    int64_t timeout_ms;      /* 0: none */
    const char *name;        /* of its folder in the session, or of the plain code's execution, as
                                job_new_name() gives it: by that the run is found again, and what is
                                left of it stays until job_clear(). NULL: nobody will look for it */
    bool resume;             /* it may have been started before, by that name: it is looked for, and
                                its outputs come from their beginning; it is never started */
    unsigned others;         /* jobs that are under way in the session at the same time: its helper
                                does one thing after another, so all wait the less in there */
};

enum job_state { JOB_SUCCEEDED, JOB_FAILED, JOB_CANCELED, JOB_TIMED_OUT, JOB_LOST };
/* "succeeded", "failed", "canceled", "timed-out" or "lost". */
const char *job_state_name(enum job_state);

struct job_image {
    char *name; /* file name beside the script: hello.py.result.png; of code: code.result.png */
    char extension[16];
    struct buf bytes; /* empty with keep_outputs: the file is in the session */
};

struct job_result {
    enum job_state state;
    int exit_code; /* as acarun's table: the script's own code, 1 when it raised, ... */
    char *message; /* one line for people, or NULL */
    cJSON *value;  /* last expression, or NULL; */
    char *text;    /* as the session wrote it, or NULL: there are numbers that a cJSON can't hold */
    struct job_image *images;
    size_t image_count;
    int64_t milliseconds;
    bool replaced;              /* not run, for it was another script than the spec's, or none */
    bool kernel_ended;          /* the session's, and its variables with it */
    bool untraced;              /* resumed, and nothing in the session tells of the run */
    struct session_error error; /* why the run could not be started or followed */
};

/* output: bytes of stdout (1) or stderr (2), complete and in order for each, as they come.
 * begun (may be NULL): the session has been heard to know of the run, which is not over.
 * waits (NULL: it is logged): what is asked of the session has failed for a while, and is tried
 * again for so long in all; once for each such time. done: exactly once; the result lives during
 * the call only. cleared: after job_clear(), the last of all. */
struct job_events {
    void (*begun)(void *arg);
    void (*waits)(void *arg, const struct session_error *, int64_t patience_ms);
    void (*output)(void *arg, int stream, const void *data, size_t len);
    void (*done)(void *arg, const struct job_result *);
    void (*cleared)(void *arg);
    void *arg;
};

void job_new_name(char name[JOB_NAME_SIZE]);
/* NULL only when out of memory. The spec is copied. */
struct job *job_start(struct loop *, struct session *, const struct job_spec *,
                      const struct job_events *);
/* SIGINT to the script, SIGKILL after 5 s; done follows with JOB_CANCELED. */
void job_cancel(struct job *);
/* Forgets the job at once, without done; the script in the session is ended in the background. */
void job_abandon(struct job *);
/* Forgets it likewise, and leaves it in the session to be resumed by its name. */
void job_detach(struct job *);
/* For a job with a name that is done, or was resumed only for this: what is left of it in the
 * session goes, then `cleared` is called. */
void job_clear(struct job *);

#endif
