/* How sys.exit() ended code, where a pool tells of it as of an exception that nobody caught: by a
 * traceback, the last that there is in stderr. */
#ifndef ACAFS_JOB_SYSTEM_EXIT_H
#define ACAFS_JOB_SYSTEM_EXIT_H

#include <stdbool.h>
#include <stddef.h>

struct system_exit {
    size_t before;    /* bytes of stderr that are the code's own */
    int code;         /* what the process of a script would end with */
    const char *text; /* what it would print, within stderr and to its end, or NULL */
};
/* Whether stderr ends so. */
bool system_exit_find(const char *err, struct system_exit *out);

#endif
