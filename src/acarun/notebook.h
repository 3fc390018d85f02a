/* Notebooks: nbformat 4 (https://nbformat.readthedocs.io/en/latest/format_description.html) read
 * and written as text. Only the outputs and execution counts of code cells are replaced, so that
 * everything else stays byte for byte: members that this program does not know, numbers that no
 * double can hold, the order of members, white space. Pure: no files, no session. */
#ifndef ACAFS_ACARUN_NOTEBOOK_H
#define ACAFS_ACARUN_NOTEBOOK_H

#include <stdbool.h>

#include <cjson/cJSON.h>

#include "util/buf.h"
#include "util/span.h"

struct notebook_cell {
    char *source;                      /* of a code cell; NULL: it is of another type */
    bool may_fail;                     /* tagged raises-exception */
    unsigned count;                    /* the new execution count; 0: null */
    struct buf outputs;                /* the new ones: what notebook_outputs() gives */
    struct span whole, old_count, old; /* in the text */
};

/* Zero-initialise; free with notebook_free. */
struct notebook {
    struct buf text; /* as it was read */
    struct notebook_cell *cells;
    size_t cell_count;
};
void notebook_free(struct notebook *);

/* 0, or -errno with *why (malloc'd, one line; NULL when out of memory): no JSON, another version of
 * the format, another language than Python. Copies the text, but for a byte order mark, with which
 * Jupyter would not open it. */
int notebook_parse(const char *text, size_t len, struct notebook *out, char **why);

/* The notebook with the cells' new outputs and counts: 0 or -ENOMEM. Those of code cells that were
 * given none are empty: what an earlier run left there is not mixed with this one's. */
int notebook_write(const struct notebook *, struct buf *out);

/* Why a cell did not end by itself. */
struct notebook_failure {
    const char *name, *message; /* as an exception's */
};

/* The outputs of one cell, as the items of a JSON array, each on lines of its own: the streams,
 * divided as cell.py told in `told` (NULL, or anything that is not understood: not at all), what it
 * told between, and the failure, which may be NULL. 0 or -ENOMEM. */
int notebook_outputs(const cJSON *told, const struct buf *out, const struct buf *err,
                     const struct notebook_failure *, struct buf *json);

#endif
