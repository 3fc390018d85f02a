#include "acafs/open_mark.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "session/answer.h"
#include "store/store.h"
#include "util/buf.h"
#include "util/cleanup.h"
#include "util/log.h"

/* What the helper thread does; owns its strings. */
struct work {
    char *directory, *identifier;
    bool remove;
};

char *open_mark_directory(const char *cache_dir, const char *endpoint)
{
    _cleanup_free_ char *pool = store_pool_directory(cache_dir, endpoint);
    char *path = NULL;
    return pool && asprintf(&path, "%s/open", pool) >= 0 ? path : NULL;
}

static int make(int dir, const char *identifier)
{
    _cleanup_close_ int fd =
        openat(dir, identifier, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 || fsync(dir) ? -errno : 0;
}

static int do_work(void *arg)
{
    const struct work *w = arg;
    if (!w->remove && mkdir(w->directory, 0700) && errno != EEXIST)
        return -errno;
    _cleanup_close_ int dir = open(w->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    if (!w->remove)
        return make(dir, w->identifier);
    return unlinkat(dir, w->identifier, 0) && errno != ENOENT ? -errno : 0;
}

static void work_done(void *arg, int result)
{
    struct work *w = arg;
    if (result)
        log_warning("%s: %s: after a crash somebody has to look into the session before what is "
                    "pending there goes on",
                    w->directory, strerror(-result));
    free(w->directory);
    free(w->identifier);
    free(w);
}

static void start(struct loop *loop, const char *directory, const char *identifier, bool removes)
{
    struct work *w = calloc(1, sizeof *w);
    if (!w)
        return;
    *w = (struct work){strdup(directory), strdup(identifier), removes};
    if (!w->directory || !w->identifier || loop_work(loop, do_work, work_done, w))
        work_done(w, -ENOMEM);
}

void open_mark_make(struct loop *loop, const char *directory, const char *identifier)
{
    start(loop, directory, identifier, false);
}

void open_mark_remove(struct loop *loop, const char *directory, const char *identifier)
{
    start(loop, directory, identifier, true);
}

void open_mark_each(const char *directory, void (*fn)(void *arg, const char *identifier), void *arg)
{
    DIR *dir = opendir(directory);
    const struct dirent *entry;
    const char *why;
    while (dir && (entry = readdir(dir))) {
        if (session_identifier_check(entry->d_name, &why) == 0)
            fn(arg, entry->d_name);
    }
    if (dir)
        closedir(dir);
}
