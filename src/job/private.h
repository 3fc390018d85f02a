/* Inside job/: the job as its parts see it.
 *
 *     job.c     ── its states, troubles, stop and end
 *     watch.c   ── starting and watching: the calls of watch.py and what their answers mean
 *     kernel.c  ── a run in the session's own kernel
 *     plain.c   ── code as it is, by one execution; system_exit.c: how that was ended
 *     fetch.c   ── what is too large for an answer: long outputs, the result, images
 *     answer.c  ── answers of watch.py, by type
 */
#ifndef ACAFS_JOB_PRIVATE_H
#define ACAFS_JOB_PRIVATE_H

#include "job/answer.h"
#include "job/job.h"
#include "loop/loop.h"

enum {
    SERVICE_LIMIT_S = 220,               /* for one execution */
    PIECE = 192 << 10,                   /* bytes of output that one answer brings */
    DOWNLOAD_FROM = 1 << 20,             /* more than this is fetched by a download */
    RESULT_MAX = (16 << 20) + (1 << 20), /* the harness's own bound, and what describes images */
    IMAGE_MAX = 64 << 20,
    IMAGES_MAX = 256 << 20,
};

enum job_phase {
    JOB_SENDING,
    JOB_STARTING,
    JOB_WATCHING,
    JOB_FETCHING,
    JOB_HELD,
    JOB_CLEARING,
    JOB_OVER,
};

struct job_stream {
    uint64_t offset; /* bytes given out */
    uint64_t size;   /* bytes there are, as last heard */
};

struct job {
    struct session *session;
    struct job_spec spec; /* its strings are ours */
    char **args;
    struct job_events events;
    char name[JOB_NAME_SIZE];   /* its folder */
    char upload[JOB_NAME_SIZE]; /* where long code was uploaded to, or "" */
    bool held;                  /* stays when it is done, until it is cleared */
    bool to_clear;              /* something of it may be in the session */
    bool begun;                 /* and its owner was told so */
    enum job_phase phase;
    bool in_kernel;            /* the spec's, or because nothing else can be done */
    bool no_process;           /* the latter */
    struct session_call *call; /* of the phase */
    struct loop_timer next;    /* the phase's next step */
    struct job_stream streams[2];
    int64_t started_at;

    /* trouble */
    int64_t trouble_since; /* of the first failed call in a row, 0: the last one went well */
    bool trouble_told;
    int64_t backoff_ms;
    bool maybe_started; /* a start call may have reached the session */
    unsigned died;      /* answers in a row that say so, */
    unsigned gone;      /* or that there is no such run */
    unsigned bad_downloads;

    /* watching */
    unsigned quiet; /* calls in a row without output */
    int64_t quiet_since;
    int64_t called_at; /* the last call, not counting glances at the folder */

    /* stopping: a call of its own, which does not wait for the phase's */
    bool stop_wanted, stop_told;
    int64_t stop_wanted_at, heard_at; /* clock_ms(); heard_at: of anything from the session */
    enum job_state stop_state;
    struct session_call *stop_call;
    struct loop_timer stop_next;

    /* in the kernel */
    struct session_call *execution;
    bool executed, killed;
    struct session_error execution_error;
    enum execution_state execution_state;
    char *execution_says; /* the last line of its stderr, or NULL */
    int64_t executed_at, over_since;
    bool clock_runs; /* the time that the spec gives it */

    struct run_status status;
    struct job_result result;
    /* fetching */
    struct buf text; /* the result's */
    bool have_text;
    unsigned bad_fetches; /* of it, in a row */
    size_t image;         /* the next one to fetch */
    size_t image_bytes;   /* of all so far */
    int fetching;         /* the stream under way, or -1 */
    uint64_t position;    /* of the next byte that comes */

    unsigned entered; /* callbacks of ours that give things out: the job outlives them */
    bool abandoned;
};

/* --- job.c */
/* Around whatever calls events.output; false: the job is gone. */
void job_enter(struct job *);
bool job_leave(struct job *);
/* Gives out what follows; false when the job was abandoned meanwhile. */
bool job_output(struct job *, int stream, const void *data, size_t len);
/* {"op": "call"} for watch.py. */
cJSON *job_request(const struct job *, const char *verb, int64_t wait_ms, size_t length);
/* The run is over and its outputs are given out: result, images, clearing up. */
void job_fetched(struct job *);
/* A failed call of the phase: whether it shall be made again; else the job is ended. Takes what
 * it needs of the error. */
bool job_bear(struct job *, const struct session_error *);
void job_end(struct job *, enum job_state, int exit_code, const char *message);
/* As above, without clearing up, for there is nothing to clear or no way to. */
void job_lose(struct job *, const struct session_error *, const char *message);
void job_stop(struct job *, enum job_state);
/* The session answered, or a piece of an answer came. */
void job_heard(struct job *);
/* An end that nobody told of: as it was wanted if it was, else lost. */
void job_end_unexplained(struct job *, const char *message);
void job_end_missing(struct job *);
void job_end_replaced(struct job *);
/* The last line of what an execution wrote, printable, malloc'd; NULL when there is none. */
char *job_last_line(const char *text);

/* --- watch.c */
void watch_send(struct job *);
void watch_start(struct job *);
void watch_again(struct job *);
/* The outputs may have more; looks at once. */
void watch_at_once(struct job *);

/* --- kernel.c */
void kernel_start(struct job *);
/* What an answer means while the kernel works; true when it was dealt with. */
bool kernel_watched(struct job *, struct watch_answer *);
void kernel_free(struct job *);

/* --- plain.c */
void plain_start(struct job *);
void plain_look(struct job *);
void plain_stop(struct job *);

/* --- fetch.c */
void fetch_stream(struct job *, int stream);
void fetch_results(struct job *);

#endif
