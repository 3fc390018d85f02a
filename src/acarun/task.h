/* One thing to run, and the two ways to run it: through the control file of a mount, and straight
 * in the pool. */
#ifndef ACAFS_ACARUN_TASK_H
#define ACAFS_ACARUN_TASK_H

#include "acarun/options.h"
#include "acarun/output.h"
#include "acarun/report.h"
#include "util/place.h"

struct task {
    const struct options *options;
    const char *code;      /* or options->script */
    const char *code_name; /* of it: "-c" or "-" */
    struct output *output; /* takes what the run puts out, images included */
    int signal_fd;
    bool harness_outputs;  /* in a mount: the session itself leaves the outputs beside the script */
    struct report *report; /* how it went, when the exit code is below zero */
    char session[160];     /* in which it ran, "" when that is not known */
};

/* Whether code goes as it is: see struct job_spec. */
static inline bool task_is_plain(const struct task *t)
{
    return t->code && !(t->options->args && *t->options->args) && !t->options->in_kernel;
}

/* Each runs it to its end: -1 when the report tells how that was, else the exit code, after saying
 * why. */
int mounted_run(struct task *, const struct place *);
int direct_run(struct task *);

/* Takes a job's result into the report, and its images to where outputs go: 0, or -errno for them.
 */
struct job_result;
int task_take_result(struct report *, struct output *, const struct job_result *);

/* The latter for several tasks, one after another, in one session. NULL with the exit code, after
 * saying why. */
struct direct;
struct direct *direct_open(const struct options *, int signal_fd, int *code);
int direct_task(struct direct *, struct task *); /* as direct_run() */
/* Deletes the session when nobody named it. */
void direct_close(struct direct *);

#endif
