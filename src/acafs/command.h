/* The control file's commands: one line in, one JSON document out. */
#ifndef ACAFS_ACAFS_COMMAND_H
#define ACAFS_ACAFS_COMMAND_H

#include "acafs/jobs.h"
#include "acafs/mount.h"

/* One command under way. Starts with command_start(); `step` is repeated until it no longer
 * says STORE_WAIT. */
struct command {
    struct mount *mount;
    struct jobs *jobs;
    struct waiter *waiter;
    int (*step)(struct command *);
    uint64_t run_id;
    struct session_call *call;
    bool told; /* delete-session was answered */
    struct waitq asked;
    char *path;      /* of refresh; NULL: all */
    uint64_t ticket; /* of what the kernel is told */
    cJSON *reply;    /* when done; owned here */
    int err;         /* when done: 0 or -errno */
};

/* Understands a line: 0, or -EINVAL with the reply saying why. The waiter is the caller's. */
int command_start(struct command *, struct mount *, struct jobs *, struct waiter *,
                  const char *line);
/* As command_start() for a line that is none at all: its -EINVAL, with the reply saying why. */
int command_refuse(struct command *, const char *why);
/* STORE_WAIT, or 0 when reply and err are set. */
int command_step(struct command *);
/* Forgets it, done or not: jobs go on. */
void command_end(struct command *);

#endif
