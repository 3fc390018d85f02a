/* A job of a mount, from outside: its control file. Each blocks; from any thread. */
#ifndef ACAFS_ACARUN_MOUNTED_H
#define ACAFS_ACARUN_MOUNTED_H

#include <stdint.h>

#include "acarun/task.h"

/* What an -errno of a file in a mount means to its user. */
const char *mounted_explain(int err);

/* 0 with the job's number, else the exit code after saying why. */
int mounted_submit(const struct task *, const struct place *, uint64_t *job);
/* Waits for its end: -1 when the task's report tells it, else as above. */
int mounted_wait(struct task *, const struct place *, uint64_t job);
/* All that it put out goes to the task's output: 0 or -errno. */
int mounted_read(struct task *, const struct place *, uint64_t job);
void mounted_cancel(const struct place *, uint64_t job);

#endif
