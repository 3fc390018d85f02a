/* A program run without a shell, its output read on the loop. */
#ifndef ACAFS_CREDENTIAL_PROCESS_H
#define ACAFS_CREDENTIAL_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "loop/loop.h"
#include "util/buf.h"

struct process;

struct process_result {
    int err;        /* 0 when it ended by itself; -ETIMEDOUT, -EFBIG (too much output), -ECHILD */
    int exit_code;  /* -1 when a signal ended it */
    const struct buf *out, *errors; /* what it wrote; live during the call, and are wiped after it */
};
typedef void process_fn(void *arg, const struct process_result *);

/* The absolute path of a program in PATH, malloc'd, or NULL. Relative parts of PATH are passed over:
 * the child runs elsewhere. */
char *process_find(const char *name);

/* Starts argv[0] (an absolute path) in /bin with stdin empty, our environment without what
 * secret.h calls secret, and `extra` ("NAME=value") added. It leads a process group of its own,
 * which is killed at the deadline. done runs once, unless process_cancel comes first.
 * 0 or -errno. */
int process_start(struct loop *, const char *const *argv, const char *extra, int64_t deadline_ms,
                  process_fn *done, void *arg, struct process **out);
/* Kills it with its group. */
void process_cancel(struct process *);

#endif
