/* Secrets in memory, in files and in text. A secret lives in pages of its own that are locked
 * and left out of core dumps, and is overwritten before they go back. */
#ifndef ACAFS_CREDENTIAL_SECRET_H
#define ACAFS_CREDENTIAL_SECRET_H

#include <stdbool.h>
#include <stddef.h>

#include "util/buf.h"

/* A NUL-terminated copy, or NULL when out of memory. text may be NULL for zeroes. */
char *secret_new(const char *text, size_t len);
void secret_free(char *);

static inline void secret_cleanup(char **secret)
{
    secret_free(*secret);
}
#define _cleanup_secret_ __attribute__((cleanup(secret_cleanup)))

/* A variable of the environment, moved out of it: copied, overwritten in place, unset.
 * *out is NULL when it is not set or empty. 0 or -ENOMEM. */
int secret_take_environment(const char *name, char **out);

/* The names of all such variables, NULL-terminated: what no child may inherit. */
extern const char *const secret_variables[];
/* Overwrites and unsets those that are still there. */
void secret_forget_environment(void);

/* Reads a regular file of at most max bytes into a secret, without the white space at its end
 * if `text`. Warns when every user may read it, unless *told says that it did so before (NULL:
 * always). 0, or -errno with why appended: "PATH: reason". */
int secret_read(const char *path, size_t max, bool text, bool *told, char **out, size_t *len,
                struct buf *why);

/* An absolute path for a file named in the settings: a relative name is one of
 * $CREDENTIALS_DIRECTORY if it is there, else of the working directory. malloc'd. */
char *secret_path(const char *name);

/* Whether text may stand in a header as a token or key: printable ASCII without blanks, not empty. */
bool secret_is_word(const char *text);

/* Appends what another program or server said, fit to be shown: its first `limit` bytes in one
 * line, without any of `secrets` (NULL-terminated; may be NULL) and without anything that looks like a
 * token. 0 or -ENOMEM. */
int secret_quote(struct buf *out, const char *said, size_t len, size_t limit,
                 const char *const *secrets);

/* Overwrites what the use of a secret left in registers and on the stack below the caller;
 * secret_free() does it by itself. */
void secret_wipe_traces(void);

/* Makes free() of this program overwrite what it is given; does nothing but link it in. */
void secret_wipe_on_free(void);

#endif
