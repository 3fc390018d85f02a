/* CACHE-DIR/<of the pool>/<of the session>/ with `lock`, `journal`, `content/` and `lost/`. The
 * session's identifier is the key to it: names on disk are hashes. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "store/journal.h"
#include "util/cleanup.h"

enum { HASH_BYTES = 20 /* of SHA-256: more than will ever meet by chance */ };

struct shelf {
    unsigned refs;
    int dir_fd, content_fd, lock_fd;
    struct journal *journal;
};

/* mkdir -p, for this user alone. */
static int make_directories(const char *path)
{
    _cleanup_free_ char *part = strdup(path);
    if (!part)
        return -ENOMEM;
    for (char *p = part + 1;; p++) {
        char end = *p;
        if (end && end != '/')
            continue;
        *p = '\0';
        if (mkdir(part, 0700) && errno != EEXIST)
            return -errno;
        if (!end)
            return 0;
        *p = end;
    }
}

static int add_hash(struct buf *out, const char *text)
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    if (!EVP_Digest(text, strlen(text), hash, NULL, EVP_sha256(), NULL))
        return -ENOMEM;
    int err = buf_adds(out, "/");
    for (int i = 0; i < HASH_BYTES && !err; i++)
        err = buf_addf(out, "%02x", hash[i]);
    return err;
}

static int explain(char **why, const char *path, int err)
{
    if (asprintf(why, "cache directory %s: %s", path, strerror(-err)) < 0)
        *why = NULL;
    return err;
}

static int open_dir(int at, const char *path)
{
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int make_directory(const struct shelf *sh, const char *name)
{
    return mkdirat(sh->dir_fd, name, 0700) && errno != EEXIST ? -errno : 0;
}

/* Holds the session's directory for this process. */
static int lock(struct shelf *sh, char **why)
{
    sh->lock_fd = openat(sh->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (sh->lock_fd < 0)
        return -errno;
    char owner[24] = "";
    if (flock(sh->lock_fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK)
            return -errno;
        ssize_t n = pread(sh->lock_fd, owner, sizeof owner - 1, 0);
        owner[n > 0 ? n : 0] = '\0';
        owner[strcspn(owner, "\n")] = '\0';
        if (asprintf(why,
                     "this session is mounted already on this machine, by process %s: unmount it "
                     "there and wait for its end, or use another cache-dir",
                     *owner ? owner : "?") < 0)
            *why = NULL;
        return -EBUSY;
    }
    int len = snprintf(owner, sizeof owner, "%d\n", (int)getpid());
    if (ftruncate(sh->lock_fd, 0) || pwrite(sh->lock_fd, owner, (size_t)len, 0) != len)
        return -errno;
    return 0;
}

char *store_pool_directory(const char *cache_dir, const char *endpoint)
{
    struct buf path = {0};
    if (buf_adds(&path, cache_dir) || add_hash(&path, endpoint)) {
        buf_free(&path);
        return NULL;
    }
    return buf_take(&path);
}

int store_pool_prepare(const char *cache_dir, const char *endpoint, char **why)
{
    _cleanup_free_ char *path = store_pool_directory(cache_dir, endpoint);
    int err = path ? make_directories(path) : -ENOMEM;
    if (!err && access(path, R_OK | W_OK | X_OK))
        err = -errno;
    return err ? explain(why, cache_dir, err) : 0;
}

int shelf_open(const struct store_options *o, const char *endpoint, const char *identifier,
               struct shelf **out, char **path, char **why)
{
    _cleanup_buf_ struct buf name = {0};
    struct shelf *sh = calloc(1, sizeof *sh);
    if (!sh)
        return -ENOMEM;
    *sh = (struct shelf){.refs = 1, .dir_fd = -1, .content_fd = -1, .lock_fd = -1};
    int err = buf_adds(&name, o->cache_dir);
    err = err ? err : add_hash(&name, endpoint);
    err = err ? err : add_hash(&name, identifier);
    err = err ? err : make_directories(name.data);
    if (!err && (sh->dir_fd = open_dir(AT_FDCWD, name.data)) < 0)
        err = sh->dir_fd;
    err = err ? err : lock(sh, why);
    err = err ? err : make_directory(sh, "content");
    err = err ? err : make_directory(sh, "lost");
    if (!err && (sh->content_fd = open_dir(sh->dir_fd, "content")) < 0)
        err = sh->content_fd;
    if (err) {
        shelf_unref(sh);
        return *why ? err : explain(why, name.data ? name.data : o->cache_dir, err);
    }
    *out = sh;
    *path = buf_take(&name);
    return 0;
}

struct shelf *shelf_ref(struct shelf *sh)
{
    sh->refs++;
    return sh;
}

void shelf_unref(struct shelf *sh)
{
    if (!sh || --sh->refs)
        return;
    journal_close(sh->journal);
    if (sh->content_fd >= 0)
        close(sh->content_fd);
    if (sh->dir_fd >= 0)
        close(sh->dir_fd);
    if (sh->lock_fd >= 0)
        close(sh->lock_fd);
    free(sh);
}

int shelf_dir(const struct shelf *sh)
{
    return sh->dir_fd;
}

int shelf_content(const struct shelf *sh)
{
    return sh->content_fd;
}

struct journal **shelf_journal(struct shelf *sh)
{
    return &sh->journal;
}
