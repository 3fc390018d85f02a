/* A line of the control file, understood. Pure.
 *
 *     WORD [ARGUMENTS…]   between blanks, which are part of none, nor is the \r of a \r\n
 *     WORD {"path": …}    JSON, for what holds blanks, line ends or anything else
 */
#ifndef ACAFS_ACAFS_COMMAND_LINE_H
#define ACAFS_ACAFS_COMMAND_LINE_H

#include <stdint.h>

#include <cjson/cJSON.h>

enum command_word {
    WORD_RUN,
    WORD_SUBMIT,
    WORD_WAIT,
    WORD_CANCEL,
    WORD_SYNC,
    WORD_REFRESH,
    WORD_DELETE_SESSION,
    WORDS /* none of them */
};

/* Zero-initialise; free with command_line_free. */
struct command_line {
    enum command_word word;
    cJSON *request; /* of run and submit: an object, as jobs_submit() takes it */
    uint64_t job;   /* of wait and cancel */
    char *path;     /* of refresh; NULL: of everything */
};

/* NULL, or what is wrong with it (a literal). */
const char *command_line_parse(const char *line, struct command_line *);
void command_line_free(struct command_line *);

#endif
