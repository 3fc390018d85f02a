/* The jobs of one mount: run one after another, in order of arrival, each when everything that
 * was pending is on the server, and over only when what it made can be seen in the mount.
 *
 *     QUEUED ──▶ SENDING ──▶ NAMING ──▶ RUNNING ──▶ KEEPING ──▶ CLEARING ──▶ LOOKING ──▶ SHOWING
 * ──▶ OVER │      (uploads)   (on disk)      ▲     (result on disk)         (refresh)    (kernel) ▲
 *        │          │                      │ │ └──────────┴─ canceled, or uploads failed
 * ─────────────────────────────────────────────────┘
 *
 * The queue is on this disk (job_log.h): a job before its `submit` is answered, the name of its run
 * before it is started, how it went before the session forgets it. So the next mount of the session
 * goes on with it, after a crash as well: it looks for the run by its name, and starts it only
 * where it never was; where that can't be known the job is `lost`, for no job is run twice.
 */
#ifndef ACAFS_ACAFS_JOBS_H
#define ACAFS_ACAFS_JOBS_H

#include <cjson/cJSON.h>

#include "acafs/mount.h"
#include "job/job.h"
#include "util/buf.h"

enum run_state {
    RUN_QUEUED,
    RUN_SENDING,
    RUN_NAMING,
    RUN_RUNNING,
    RUN_KEEPING,
    RUN_CLEARING,
    RUN_LOOKING,
    RUN_SHOWING,
    RUN_OVER
};

/* What a stream of a job has put out: in a file, whatever its length; fd below 0: nothing yet, or
 * nowhere to put it. */
struct output {
    int fd;
    uint64_t len;
};

struct run {
    struct run *prev, *next;
    struct jobs *jobs;
    struct waiter waiter;
    uint64_t id;
    enum run_state state;
    char *path, *code, *code_name, **args; /* the spec's strings */
    cJSON *request;                        /* that they are from */
    struct job_spec spec;
    struct job *job;
    uint64_t ticket;          /* SHOWING */
    struct output streams[2]; /* stdout, stderr */
    struct waitq changed;     /* output came, or it is over */
    bool cancel;
    bool unattended;  /* nobody waits for it: its end is logged */
    uint64_t content; /* script_content(), of autorun.c; 0: it is none of its own */
    bool replaced;    /* not run, for that content was not there any more */

    char name[JOB_NAME_SIZE]; /* of its run in the session, or "" */
    char *etag;               /* of the session that it was started in, or NULL */
    bool resume;              /* a mount before may have started it */
    bool begun;               /* the session ran it, or may have */
    bool cleared;             /* nothing is left of it there */
    bool kept;                /* it is on disk, */
    unsigned writings;        /* but for these changes */
    int write_err;            /* of the last one */
    struct waitq written;

    cJSON *report; /* OVER: the reply to `wait` */
    int err;       /* OVER: 0 when the script succeeded, else -errno for a plain write */
};

/* With what the mount before left; none of it is run before jobs_begin(). */
struct jobs *jobs_new(struct mount *);
void jobs_begin(struct jobs *);
/* Called with each run that is over and was not run, for its script was replaced. */
void jobs_on_replaced(struct jobs *, void (*fn)(void *arg, const struct run *), void *arg);
void jobs_free(struct jobs *);

/* Takes {"path"|"code", "args", "in_kernel", "plain", "timeout", "outputs", "code_name"}, the
 * members of struct job_spec (timeout in seconds; outputs false: none beside the script): the new
 * run, or NULL with *why (a literal). */
struct run *jobs_submit(struct jobs *, const cJSON *request, const char **why);
/* As above, for a script; `content` is kept with it. */
struct run *jobs_submit_script(struct jobs *, const char *path, uint64_t content, const char **why);
/* Until what was last done with it is on disk: STORE_WAIT, 0, or -errno when it could not be taken.
 */
int jobs_kept(struct run *, struct waiter *);
struct run *jobs_find(struct jobs *, uint64_t id);
/* The oldest kept run with an id above this one, or NULL: for listing. */
struct run *jobs_next(struct jobs *, uint64_t id);
void jobs_cancel(struct run *);
/* Takes no more, and cancels the jobs that somebody waits for: STORE_WAIT until they are over, and
 * what was told is on disk, else 0. The others are the next mount's; one that runs goes on. */
int jobs_drain(struct jobs *, struct waiter *);
unsigned jobs_waiting(const struct jobs *);
/* Whether all are over, and all there is to know of them on disk. */
bool jobs_are_idle(const struct jobs *);
const char *run_state_name(const struct run *);

#endif
