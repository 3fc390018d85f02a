/* Brings back the files of a session that a script made or changed. Runs on the loop. */
#ifndef ACAFS_ACARUN_FETCH_H
#define ACAFS_ACARUN_FETCH_H

#include "acarun/options.h"
#include "session/session.h"

struct fetch;

/* err: 0 or -errno, with why (lives during the call; may be NULL). count: files brought. */
typedef void fetch_done_fn(void *arg, int err, const char *why, unsigned count);

/* Files go below dir (made when there is one), by their paths in the session, each whole or not at
 * all. globs are as of fnmatch(3): without a slash for names in any directory, else for paths. All
 * are borrowed. NULL when out of memory. */
struct fetch *fetch_new(struct session *, const struct option_list *globs, const char *dir,
                        fetch_done_fn *, void *arg);
/* Remembers what there is; then brings what is new or another since. Each calls done once, unless
 * fetch_free() comes first. */
void fetch_remember(struct fetch *);
void fetch_changed(struct fetch *);
/* Cancels what is under way. */
void fetch_free(struct fetch *);

#endif
