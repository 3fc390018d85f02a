/* One script, run in the session by the in-session harness (harness.py) in a fresh
 * interpreter process, or in the session's own kernel; watched until it ends. Used by
 * acarun without a mount and by the control file of a mount. Runs on the loop. */
#ifndef ACAFS_JOB_JOB_H
#define ACAFS_JOB_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "session/session.h"

struct job;

struct job_spec {
    const char *path;        /* the script in the session, or NULL with code */
    const char *code;        /* code to run as it is ("-c", standard input) */
    const char *code_name;   /* its sys.argv[0]: "-" for standard input; NULL: "-c" */
    const char *const *args; /* sys.argv[1:], NULL-terminated; may be NULL */
    bool in_kernel;          /* the session's kernel: variables stay */
    bool plain;              /* code as it is, by one execution in that kernel; takes no args. Its
                                output comes when it is over, and no more than the pool tells */
    bool keep_outputs;       /* harness leaves PATH.stdout, .stderr, .result and images beside
                                the script in the session, replacing those of earlier runs */
    int64_t timeout_ms;      /* 0: none */
    unsigned others;         /* jobs that are under way in the session at the same time: its helper
                                does one thing after another, so all wait the less in there */
};

enum job_state { JOB_SUCCEEDED, JOB_FAILED, JOB_CANCELED, JOB_TIMED_OUT, JOB_LOST };

struct job_image {
    char *name; /* file name beside the script: hello.py.result.png; of code: code.result.png */
    char extension[16];
    struct buf bytes; /* empty with keep_outputs: the file is in the session */
};

struct job_result {
    enum job_state state;
    int exit_code; /* as acarun's table: the script's own code, 1 when it raised, ... */
    char *message; /* one line for people, or NULL */
    cJSON *value;  /* last expression, or NULL */
    struct job_image *images;
    size_t image_count;
    int64_t milliseconds;
    struct session_error error; /* why the run could not be started or followed */
};

/* output: bytes of stdout (1) or stderr (2), complete and in order for each, as they come.
 * done: exactly once; the result lives during the call only. */
struct job_events {
    void (*output)(void *arg, int stream, const void *data, size_t len);
    void (*done)(void *arg, const struct job_result *);
    void *arg;
};

/* NULL only when out of memory. The spec is copied. */
struct job *job_start(struct loop *, struct session *, const struct job_spec *,
                      const struct job_events *);
/* SIGINT to the script, SIGKILL after 5 s; done follows with JOB_CANCELED. */
void job_cancel(struct job *);
/* Forgets the job at once, without done; the script in the session is ended in the background. */
void job_abandon(struct job *);

#endif
