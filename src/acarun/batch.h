/* Many scripts, several at a time: what the two ways to run them share. Not for several threads at
 * once: who has some locks. */
#ifndef ACAFS_ACARUN_BATCH_H
#define ACAFS_ACARUN_BATCH_H

#include "acarun/options.h"
#include "acarun/output.h"
#include "acarun/report.h"
#include "acarun/task.h"

/*     WAITING ──batch_next()──▶ RUNNING ──batch_over()──▶ OVER
 *        │                         └──batch_stopped()──▶ STOPPED
 *        └── never started ─────────────────────────────▶ STOPPED */
enum item_state { ITEM_WAITING, ITEM_RUNNING, ITEM_OVER, ITEM_STOPPED };

/* One script. */
struct item {
    const char *script; /* as it was given */
    char *name, *dir;
    struct place place; /* in a mount, when root is set */
    enum item_state state;
    int64_t since, took_ms; /* clock_ms() */
    struct output *output;  /* while RUNNING */
    struct report report;
    int code;         /* OVER: the exit status */
    char *message;    /* OVER: one line, or NULL */
    char *last_line;  /* of its output so far; or NULL */
    unsigned fetched; /* files */
};

struct progress;

struct batch {
    const struct options *options;
    int signal_fd;
    struct item *items;
    size_t count, next;
    bool stop;     /* nothing more is started, what runs is to end */
    bool canceled; /* by a signal */
    int code;      /* what ended all, else 0 */
    struct progress *progress;
};

/* The next script, its output open; NULL when there is none to be started. */
struct item *batch_next(struct batch *);
/* It is over: code -1 when its report tells how, else the exit status, and message (copied, may be
 * NULL) why. Puts its output files into their places. */
void batch_over(struct batch *, struct item *, int code, const char *message);
/* It was ended because of another one, or of a signal. */
void batch_stopped(struct batch *, struct item *);
/* Takes a piece of output; its last line is shown while the script runs. */
void batch_output(struct item *, int stream, const void *data, size_t len);
/* What it waits for is shown instead. */
void batch_waits(struct item *, const char *why);

/* Each runs them to their end. */
void many_direct(struct batch *);
void many_mounted(struct batch *);

/* The command: the exit code. */
int many_run(const struct options *, int signal_fd);

#endif
