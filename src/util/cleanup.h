/* Scope-bound release of locals, after nbdkit's and systemd's idiom.
 * `_cleanup_free_ char *s = NULL;` frees s on every way out of the scope. */
#ifndef ACAFS_UTIL_CLEANUP_H
#define ACAFS_UTIL_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

#include <cjson/cJSON.h>

static inline void cleanup_free(void *p)
{
    free(*(void **)p);
}

static inline void cleanup_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void cleanup_json(cJSON **json)
{
    cJSON_Delete(*json);
}

#define _cleanup_free_ __attribute__((cleanup(cleanup_free)))
#define _cleanup_close_ __attribute__((cleanup(cleanup_close)))
#define _cleanup_json_ __attribute__((cleanup(cleanup_json)))

#endif
