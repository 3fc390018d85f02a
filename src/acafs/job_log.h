/* What is known of a mount's jobs, safe on this disk: in the session's directory of the cache,
 * below `jobs`, a file N with one JSON document for job N, and what it put out in N.out and N.err.
 * A document is replaced whole, so that a crash leaves the one before or the one after. What it
 * says is its writer's business (jobs.c).
 *
 * Everything is called on the loop; writing takes place on the helper thread, in order. */
#ifndef ACAFS_ACAFS_JOB_LOG_H
#define ACAFS_ACAFS_JOB_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "loop/loop.h"

struct job_log;

/* In the session's directory: 0 or -errno. */
int job_log_open(struct loop *, const char *directory, struct job_log **out);
/* What is being written is still written, and `done` called for none of it. */
void job_log_close(struct job_log *);

/* Hands out each document, in no order: NULL for one that makes no sense. Takes away what belongs
 * to none. 0 or -errno. */
int job_log_read(struct job_log *, void (*fn)(void *arg, uint64_t id, const cJSON *), void *arg);

/* The file of a stream (0: stdout, 1: stderr), made when there is none: a descriptor, or -errno. */
int job_log_stream(struct job_log *, uint64_t id, int stream);

/* Puts a document in place of the job's, with what its streams hold so far, on disk when `done` is
 * called, with 0 or -errno. */
void job_log_put(struct job_log *, uint64_t id, const cJSON *, void (*done)(void *arg, int err),
                 void *arg);
/* `done` is not called any more for what was put with this arg. */
void job_log_forget(struct job_log *, const void *arg);
/* Removes all there is of a job. */
void job_log_drop(struct job_log *, uint64_t id);

#endif
