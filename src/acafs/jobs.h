/* The jobs of one mount: run one after another, in order of arrival, each when everything that
 * was pending is on the server, and over only when what it made can be seen in the mount.
 *
 *     QUEUED ──▶ SENDING (uploads) ──▶ RUNNING ──▶ LOOKING (refresh) ──▶ SHOWING (kernel) ──▶ OVER
 *        └───────────┴── canceled, or uploads failed ────────────────────────────────────────▶ OVER
 */
#ifndef ACAFS_ACAFS_JOBS_H
#define ACAFS_ACAFS_JOBS_H

#include <cjson/cJSON.h>

#include "acafs/mount.h"
#include "job/job.h"
#include "util/buf.h"

enum run_state { RUN_QUEUED, RUN_SENDING, RUN_RUNNING, RUN_LOOKING, RUN_SHOWING, RUN_OVER };

/* What a stream of a job has put out: in a nameless file, whatever its length. */
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
    struct job_spec spec;
    struct job *job;
    uint64_t ticket;          /* SHOWING */
    struct output streams[2]; /* stdout, stderr */
    struct waitq changed;     /* output came, or it is over */
    bool cancel;
    bool unattended; /* nobody waits for it: its end is logged */
    cJSON *report;   /* OVER: the reply to `wait` */
    int err;         /* OVER: 0 when the script succeeded, else -errno for a plain write */
};

struct jobs *jobs_new(struct mount *);
void jobs_free(struct jobs *);

/* Takes {"path"|"code", "args", "in_kernel", "plain", "timeout", "outputs", "code_name"}, the
 * members of struct job_spec (timeout in seconds; outputs false: none beside the script): the new
 * run, or NULL with *why (a literal). */
struct run *jobs_submit(struct jobs *, const cJSON *request, const char **why);
struct run *jobs_find(struct jobs *, uint64_t id);
/* The oldest kept run with an id above this one, or NULL: for listing. */
struct run *jobs_next(struct jobs *, uint64_t id);
void jobs_cancel(struct run *);
/* Takes no more, and ends what there is: STORE_WAIT until all are over, else 0. */
int jobs_drain(struct jobs *, struct waiter *);
unsigned jobs_waiting(const struct jobs *);
const char *run_state_name(const struct run *);

#endif
