/* A mount's root is the topmost directory on the same device; a session's holds .acafs. In the
 * mount of a whole pool, whose own .acafs has no jobs, sessions are the directories of the root. */
#include "util/place.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/cleanup.h"

void place_free(struct place *p)
{
    free(p->root);
    free(p->path);
    *p = (struct place){0};
}

/* The absolute path, its directory resolved but not its last part. malloc'd, NULL with errno. */
static char *absolute(const char *path)
{
    _cleanup_free_ char *for_dir = strdup(path), *for_name = strdup(path), *dir = NULL;
    if (!for_dir || !for_name)
        return NULL;
    const char *name = basename(for_name);
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, "/") == 0)
        return realpath(path, NULL);
    dir = realpath(dirname(for_dir), NULL);
    if (!dir)
        return NULL;
    struct buf full = {0};
    if (buf_addf(&full, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, name)) {
        errno = ENOMEM;
        return NULL;
    }
    return buf_take(&full);
}

/* How much of a path (without its last part, unless it is a directory) is the mount's root. */
static size_t root_length(const char *full, dev_t dev)
{
    size_t root = strlen(full);
    for (size_t at = root; at > 0;) {
        while (at > 0 && full[at - 1] != '/')
            at--;
        while (at > 0 && full[at - 1] == '/')
            at--;
        _cleanup_free_ char *parent = at ? strndup(full, at) : strdup("/");
        struct stat st;
        if (!parent || stat(parent, &st) || st.st_dev != dev)
            break;
        root = at;
    }
    return root;
}

/* Whether the root has that file in .acafs, or does not let us look: somebody else's, or one whose
 * daemon is gone. */
static bool has(const char *root, const char *name)
{
    _cleanup_buf_ struct buf path = {0};
    if (buf_addf(&path, "%s/.acafs/%s", root, name))
        return false;
    return access(path.data, F_OK) == 0 || errno == EACCES || errno == ENOTCONN;
}

/* The root's length, or in a pool's mount that of the session's directory: the root's where the
 * path leads no further. */
static size_t session_length(const char *full, size_t root)
{
    _cleanup_free_ char *top = strndup(full, root), *session = NULL;
    if (!top || !full[root] || !has(top, "control") || has(top, "jobs"))
        return root;
    size_t len = root + 1 + strcspn(full + root + 1, "/");
    session = strndup(full, len);
    return session && has(session, "jobs") ? len : root;
}

int place_find(const char *path, struct place *out)
{
    struct stat st;
    *out = (struct place){0};
    _cleanup_free_ char *full = absolute(path);
    if (!full || lstat(full, &st))
        return -errno;
    size_t len = session_length(full, root_length(full, st.st_dev));
    out->root = len ? strndup(full, len) : strdup("/");
    out->path = strdup(full + len + (full[len] == '/'));
    if (!out->root || !out->path || !has(out->root, "control")) {
        int err = out->root && out->path ? -ENOENT : -ENOMEM;
        place_free(out);
        return err;
    }
    return 0;
}
