/* Which sessions of a pool are open, for the next mount after a crash: an empty file each, named by
 * the identifier, in a directory for the user alone. Written by the helper thread, in the order of
 * the calls and before whatever the session's journal then tells. */
#ifndef ACAFS_ACAFS_OPEN_MARK_H
#define ACAFS_ACAFS_OPEN_MARK_H

#include "loop/loop.h"

/* Where they are; malloc'd. */
char *open_mark_directory(const char *cache_dir, const char *endpoint);
void open_mark_make(struct loop *, const char *directory, const char *identifier);
void open_mark_remove(struct loop *, const char *directory, const char *identifier);
/* Calls fn for each identifier that is marked. */
void open_mark_each(const char *directory, void (*fn)(void *arg, const char *identifier),
                    void *arg);

#endif
