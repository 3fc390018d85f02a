/* Where the output of a run goes: to the terminal as it comes, into memory, and into files that
 * take their places whole when the run is over. */
#ifndef ACAFS_ACARUN_OUTPUT_H
#define ACAFS_ACARUN_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include <cjson/cJSON.h>

#include "util/buf.h"

struct output;

struct output_options {
    bool show;        /* on our stdout and stderr */
    bool keep;        /* in memory */
    const char *dir;  /* where files go; NULL: no files */
    const char *name; /* what their names begin with: hello.py */
    bool streams;     /* NAME.stdout, .stderr and .result too, not images alone */
    int signal_fd;    /* a signal there ends the wait for a terminal that takes nothing */
};

/* 0, or -errno with *why (malloc'd, one line). The options' strings are borrowed. */
int output_new(const struct output_options *, struct output **out, char **why);
/* Files that did not take their places are removed. */
void output_free(struct output *);

/* stream: 1 or 2. Each stream may have a thread of its own. */
void output_write(struct output *, int stream, const void *data, size_t len);
/* From now on a terminal that takes nothing is waited for at the end only, and is not shown all of
 * what is long: the run is to end. From any thread. */
void output_hurry(struct output *);
/* Whether whoever read our stdout went away. */
bool output_no_reader(const struct output *);
const struct buf *output_kept(const struct output *, int stream);

/* An image of the run, to be kept in a file, or in entry (base64_data) when there are none; number:
 * 0 when it is the only one, else from 1. The name goes to entry. 0 or -errno. */
int output_image(struct output *, unsigned number, const char *extension, const void *data,
                 size_t len, cJSON *entry);

/* The run is over. Puts the files into their places, and shows what is still to be shown; files
 * of an earlier run that are not replaced are removed. result goes to NAME.result, with '\n'; NULL:
 * there are no streams either. 0, or -errno with *why as above. */
int output_finish(struct output *, const char *result, char **why);
/* Before something is said on stderr: ends a line of what was shown there. NULL: nothing was. */
void output_end_line(struct output *);
/* The error of showing it, -errno, or 0. */
int output_error(const struct output *);

#endif
