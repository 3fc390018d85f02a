/* What watch.py says, by type: it comes from a session, where anybody's code runs. */
#ifndef ACAFS_JOB_ANSWER_H
#define ACAFS_JOB_ANSWER_H

#include <stdbool.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "job/job.h"
#include "util/buf.h"

enum watch_state {
    WATCH_RUNNING,
    WATCH_OVER,
    WATCH_DIED,       /* nobody looks after the script any more, and nobody said how it went */
    WATCH_GONE,       /* no such run */
    WATCH_MISSING,    /* no such script */
    WATCH_REPLACED,   /* another script than it should be */
    WATCH_NO_PROCESS, /* the session can't start one */
};

struct run_image {
    char file[32]; /* in the job's folder */
    char extension[16];
};

struct run_status {
    enum job_state state;
    int exit_code;
    int64_t milliseconds;
    char *message; /* one printable line, or NULL */
    struct run_image *images;
    size_t image_count;
};
void run_status_free(struct run_status *);

struct watch_answer {
    enum watch_state state;
    struct {
        struct buf data;
        uint64_t size;
    } streams[2];
    char *why;                /* with WATCH_NO_PROCESS, or NULL */
    struct run_status status; /* with WATCH_OVER */
    bool has_result;
    struct buf result; /* JSON */
};
/* 0, -EPROTO or -ENOMEM; to be freed only after 0. */
int watch_answer_parse(const cJSON *, struct watch_answer *);
void watch_answer_free(struct watch_answer *);

#endif
