#include "acarun/fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <uthash.h>
#include <utlist.h>

#include "util/cleanup.h"

/* A file as it was before the script. */
struct known {
    UT_hash_handle hh;
    char *path;
    int64_t size;
    struct timespec mtime;
};

struct wanted {
    struct wanted *next;
    char *path;
};

struct fetch {
    struct session *session;
    const struct option_list *globs;
    const char *dir;
    fetch_done_fn *done;
    void *arg;
    struct known *known;
    struct wanted *wanted;
    struct session_call *call;
    char *target, *temp; /* of the file under way */
    int fd;
    uint64_t position;
    int err;
    unsigned count;
};

static void close_file(struct fetch *f)
{
    if (f->fd >= 0)
        close(f->fd);
    if (f->temp)
        unlink(f->temp);
    free(f->temp);
    free(f->target);
    f->temp = f->target = NULL;
    f->fd = -1;
}

static void forget(struct fetch *f)
{
    struct known *k, *next;
    HASH_ITER (hh, f->known, k, next) {
        HASH_DEL(f->known, k);
        free(k->path);
        free(k);
    }
    struct wanted *w, *after;
    LL_FOREACH_SAFE (f->wanted, w, after) {
        free(w->path);
        free(w);
    }
    f->wanted = NULL;
}

static void end(struct fetch *f, int err, const char *why)
{
    close_file(f);
    forget(f);
    f->done(f->arg, err, why, f->count);
}

/* --- which */

static bool is_ours(const char *name)
{
    static const char *const starts[] = {"acafs-job-", "acafs-stage-", "acafs-part-"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        if (strncmp(name, starts[i], strlen(starts[i])) == 0)
            return true;
    }
    return false;
}

/* The path of a listed file, malloc'd; NULL for what is none of the script's. */
static char *path_of(const struct entry *e)
{
    struct buf path = {0};
    if (e->kind != ENTRY_FILE || is_ours(e->directory) || is_ours(e->name))
        return NULL;
    if (buf_addf(&path, "%s%s%s", e->directory, *e->directory ? "/" : "", e->name))
        return NULL;
    return buf_take(&path);
}

static bool matches(const struct fetch *f, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    for (size_t i = 0; i < f->globs->count; i++) {
        const char *glob = f->globs->values[i];
        if (fnmatch(glob, strchr(glob, '/') ? path : name, FNM_PATHNAME | FNM_PERIOD) == 0)
            return true;
    }
    return false;
}

static bool is_known(const struct fetch *f, const char *path, const struct entry *e)
{
    const struct known *k;
    HASH_FIND_STR(f->known, path, k);
    return k && k->size == e->size && k->mtime.tv_sec == e->mtime.tv_sec &&
           k->mtime.tv_nsec == e->mtime.tv_nsec;
}

static int remember(struct fetch *f, const struct entry *e)
{
    char *path = path_of(e);
    struct known *k = path && matches(f, path) ? calloc(1, sizeof *k) : NULL;
    if (!k) {
        free(path);
        return 0;
    }
    *k = (struct known){.path = path, .size = e->size, .mtime = e->mtime};
    HASH_ADD_KEYPTR(hh, f->known, k->path, strlen(k->path), k);
    return 0;
}

static int want(struct fetch *f, const struct entry *e)
{
    _cleanup_free_ char *path = path_of(e);
    if (!path || !matches(f, path) || is_known(f, path, e))
        return 0;
    struct wanted *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    w->path = path;
    path = NULL;
    LL_APPEND(f->wanted, w);
    return 0;
}

/* --- files */

/* Makes the directories that a path below dir needs. */
static int make_directories(struct fetch *f, char *path)
{
    if (mkdir(f->dir, 0777) && errno != EEXIST)
        return -errno;
    for (char *slash = strchr(path + strlen(f->dir) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int err = mkdir(path, 0777) && errno != EEXIST ? -errno : 0;
        *slash = '/';
        if (err)
            return err;
    }
    return 0;
}

static int open_file(struct fetch *f, const char *path)
{
    struct buf target = {0}, temp = {0};
    int err = buf_addf(&target, "%s/%s", f->dir, path);
    if (!err)
        err = buf_addf(&temp, "%s.XXXXXX", target.data);
    f->target = buf_take(&target);
    if (!err)
        err = make_directories(f, f->target);
    if (!err) {
        f->fd = mkostemp(temp.data, O_CLOEXEC);
        err = f->fd < 0 ? -errno : 0;
    }
    if (err)
        buf_free(&temp);
    else
        f->temp = buf_take(&temp);
    return err;
}

static int keep_file(struct fetch *f)
{
    mode_t mask = umask(0);
    umask(mask);
    if (fchmod(f->fd, 0666 & ~mask) || rename(f->temp, f->target))
        return -errno;
    free(f->temp);
    f->temp = NULL;
    f->count++;
    return 0;
}

static int take_head(void *arg, uint64_t start, int64_t size, const struct timespec *mtime)
{
    struct fetch *f = arg;
    f->position = start;
    return ftruncate(f->fd, (off_t)start) ? (f->err = -errno) : 0;
}

static int take_data(void *arg, const void *data, size_t len)
{
    struct fetch *f = arg;
    ssize_t n = pwrite(f->fd, data, len, (off_t)f->position);
    if (n != (ssize_t)len)
        return f->err = n < 0 ? -errno : -ENOSPC;
    f->position += len;
    return 0;
}

static void next_file(struct fetch *);

static void file_done(void *arg, const struct session_error *e)
{
    struct fetch *f = arg;
    f->call = NULL;
    int err = f->err ? f->err : e->err;
    if (err == -ENOENT)
        err = 0; /* gone since */
    else if (!err)
        err = keep_file(f);
    const char *why = f->err || !e->err ? NULL : e->message;
    if (err) {
        end(f, err, why);
        return;
    }
    struct wanted *done = f->wanted;
    LL_DELETE(f->wanted, done);
    free(done->path);
    free(done);
    close_file(f);
    next_file(f);
}

static void next_file(struct fetch *f)
{
    if (!f->wanted) {
        end(f, 0, NULL);
        return;
    }
    const struct session_sink sink = {
        .on_head = take_head, .on_data = take_data, .done = file_done, .arg = f};
    int err = open_file(f, f->wanted->path);
    if (!err && !(f->call = session_download(f->session, f->wanted->path, 0, &sink)))
        err = -ENOMEM;
    if (err)
        end(f, err, NULL);
}

/* --- the two looks */

static void listed(struct fetch *f, const struct session_error *e,
                   const struct session_list_result *r,
                   int (*take)(struct fetch *, const struct entry *), void (*then)(struct fetch *))
{
    f->call = NULL;
    int err = e->err;
    for (size_t i = 0; !err && i < r->listing->count; i++)
        err = take(f, &r->listing->entries[i]);
    if (err)
        end(f, err, e->message);
    else
        then(f);
}

static void remembered(struct fetch *f)
{
    f->done(f->arg, 0, NULL, 0);
}

static void listed_before(void *arg, const struct session_error *e,
                          const struct session_list_result *r)
{
    listed(arg, e, r, remember, remembered);
}

static void listed_after(void *arg, const struct session_error *e,
                         const struct session_list_result *r)
{
    listed(arg, e, r, want, next_file);
}

static void list(struct fetch *f, session_list_fn *then)
{
    f->call = session_list(f->session, "", true, then, f);
    if (!f->call)
        end(f, -ENOMEM, NULL);
}

void fetch_remember(struct fetch *f)
{
    list(f, listed_before);
}

void fetch_changed(struct fetch *f)
{
    list(f, listed_after);
}

struct fetch *fetch_new(struct session *session, const struct option_list *globs, const char *dir,
                        fetch_done_fn *done, void *arg)
{
    struct fetch *f = calloc(1, sizeof *f);
    if (f)
        *f = (struct fetch){
            .session = session, .globs = globs, .dir = dir, .done = done, .arg = arg, .fd = -1};
    return f;
}

void fetch_free(struct fetch *f)
{
    if (!f)
        return;
    session_cancel(f->call);
    close_file(f);
    forget(f);
    free(f);
}
