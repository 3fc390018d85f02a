#include "acafs/autorun.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "util/cleanup.h"
#include "util/log.h"

enum {
    BLOCK = 64 << 10,
    HASH_MAX = 16 << 20, /* what is longer is new whenever it is written */
};

/* A file that is open for writing. */
struct writer {
    UT_hash_handle hh;
    uint64_t ino;
    unsigned handles;
    bool wrote;
};

/* What was last run, or waits to be, at a path. */
struct script {
    UT_hash_handle hh;
    char *path;
    uint64_t hash; /* of the content; 0: none */
    uint64_t job;
    uint64_t ino; /* of the file, when it was submitted */
};

struct autorun {
    struct mount *mount;
    struct jobs *jobs;
    const char *glob; /* the config's */
    bool whole_path;
    struct writer *writers;
    struct script *scripts;
};

/* --- which */

static bool matches(const struct autorun *a, const char *path)
{
    static const char ending[] = ".py";
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t len = strlen(name), end = sizeof ending - 1;
    if (len < end || strcmp(name + len - end, ending) != 0)
        return false;
    return fnmatch(a->glob, a->whole_path ? path : name, FNM_PATHNAME | FNM_PERIOD) == 0;
}

static struct script *find_script(const struct autorun *a, const char *path)
{
    struct script *s;
    HASH_FIND_STR(a->scripts, path, s);
    return s;
}

static void free_script(struct autorun *a, struct script *s)
{
    HASH_DEL(a->scripts, s);
    free(s->path);
    free(s);
}

/* The script's record, made when there is none; NULL: out of memory. */
static struct script *get_script(struct autorun *a, const char *path)
{
    struct script *s = find_script(a, path);
    if (s || !(s = calloc(1, sizeof *s)))
        return s;
    if (!(s->path = strdup(path))) {
        free(s);
        return NULL;
    }
    HASH_ADD_KEYPTR(hh, a->scripts, s->path, strlen(s->path), s);
    return s;
}

static struct writer *find_writer(const struct autorun *a, const struct inode *inode)
{
    struct writer *w;
    HASH_FIND(hh, a->writers, &inode->id, sizeof inode->id, w);
    return w;
}

/* --- content */

static void not_waited_for(struct waiter *w)
{
}

/* The digest of what can be read at once; false: not all can be. */
static bool digest(struct autorun *a, struct inode *inode, EVP_MD_CTX *sum)
{
    uint64_t size = (uint64_t)inode->size;
    unsigned char block[BLOCK];
    struct waiter w;
    bool good = size <= HASH_MAX;
    waiter_init(&w, not_waited_for);
    for (uint64_t at = 0; at < size && good;) {
        size_t available = 0;
        int fd;
        good = store_read(a->mount->store, &w, inode, at, sizeof block, &fd, &available) == 0;
        ssize_t n = good ? pread(fd, block, available, (off_t)at) : -1;
        good = n > 0 && EVP_DigestUpdate(sum, block, (size_t)n);
        at += good ? (uint64_t)n : 0;
    }
    waiter_leave(&w);
    return good;
}

/* The content as one number, never 0; what can't be read at once counts as new. */
static uint64_t hash_of(struct autorun *a, struct inode *inode)
{
    unsigned char hash[EVP_MAX_MD_SIZE] = {0};
    EVP_MD_CTX *sum = EVP_MD_CTX_new();
    bool good = sum && EVP_DigestInit_ex(sum, EVP_sha256(), NULL),
         exact = good && digest(a, inode, sum);
    if (good && !exact)
        EVP_DigestUpdate(sum, &inode->mtime, sizeof inode->mtime);
    if (good)
        EVP_DigestFinal_ex(sum, hash, NULL);
    EVP_MD_CTX_free(sum);
    return script_content(hash, exact);
}

/* --- running */

static void submit(struct autorun *a, struct script *s)
{
    const char *why;
    struct run *run = jobs_submit_script(a->jobs, s->path, s->hash, &why);
    if (!run) {
        log_error("autorun: %s is not run: %s", s->path, why);
        return;
    }
    s->job = run->id;
}

/* Takes back the script's job when it has not come to the session yet. */
static bool recall(struct autorun *a, struct script *s)
{
    struct run *run = s && s->job ? jobs_find(a->jobs, s->job) : NULL;
    if (!run || (run->state != RUN_QUEUED && run->state != RUN_SENDING))
        return false;
    run->unattended = false;
    run->content = 0; /* it was not run */
    s->job = 0;
    jobs_cancel(run);
    return true;
}

/* A file that is whole, and may be new, where it is now. */
static void consider(struct autorun *a, struct inode *inode)
{
    _cleanup_buf_ struct buf path = {0};
    if (!S_ISREG(inode->mode) || inode->size <= 0 || !inode_path(inode, &path) ||
        !matches(a, path.data))
        return;
    uint64_t hash = hash_of(a, inode);
    struct script *s = get_script(a, path.data);
    if (!s) {
        log_error("autorun: %s is not run: out of memory", path.data);
        return;
    }
    if (s->hash == hash)
        return;
    recall(a, s); /* what it held before, if that did not run yet */
    s->hash = hash;
    s->ino = inode->id;
    submit(a, s);
}

/* The job did not find the content that it was to run. If nothing was submitted since, the file may
 * be whole again by now. */
static void replaced(void *arg, const struct run *run)
{
    struct autorun *a = arg;
    struct script *s = a->scripts;
    while (s && s->job != run->id)
        s = s->hh.next;
    if (!s)
        return;
    s->hash = s->job = 0;
    struct inode *inode = inode_find(store_inodes(a->mount->store), s->ino);
    struct writer *w = inode ? find_writer(a, inode) : NULL;
    if (w)
        w->wrote = true;
    else if (inode)
        consider(a, inode);
}

/* --- what happens to files */

void autorun_opened(struct autorun *a, const struct inode *inode, bool emptied)
{
    struct writer *w = a ? find_writer(a, inode) : NULL;
    if (!a || (!w && !(w = calloc(1, sizeof *w))))
        return;
    if (!w->handles) {
        w->ino = inode->id;
        HASH_ADD(hh, a->writers, ino, sizeof w->ino, w);
    }
    w->handles++;
    w->wrote = w->wrote || emptied;
    _cleanup_buf_ struct buf path = {0};
    struct script *s = inode_path(inode, &path) ? find_script(a, path.data) : NULL;
    if (recall(a, s)) {
        s->hash = 0;
        w->wrote = true;
    }
}

void autorun_wrote(struct autorun *a, const struct inode *inode)
{
    struct writer *w = a ? find_writer(a, inode) : NULL;
    if (w)
        w->wrote = true;
}

void autorun_closed(struct autorun *a, struct inode *inode)
{
    struct writer *w = a ? find_writer(a, inode) : NULL;
    if (!w || --w->handles)
        return;
    bool wrote = w->wrote;
    HASH_DEL(a->writers, w);
    free(w);
    if (wrote)
        consider(a, inode);
}

/* Other content than before has this name. */
static void placed(struct autorun *a, struct inode *inode)
{
    struct writer *w = find_writer(a, inode);
    if (w)
        w->wrote = true;
    else
        consider(a, inode);
}

/* A script that was run, or waits to be, has a new name. */
static void follow(struct autorun *a, struct script *from, const char *to)
{
    struct script *s = get_script(a, to);
    if (!s)
        return;
    bool waits = recall(a, from);
    recall(a, s); /* what it replaces */
    s->hash = from->hash;
    s->job = from->job;
    s->ino = from->ino;
    free_script(a, from);
    if (waits)
        submit(a, s);
}

void autorun_renamed(struct autorun *a, const struct inode *from_dir, const char *from,
                     const struct inode *to_dir, const char *to)
{
    _cleanup_buf_ struct buf from_path = {0}, to_path = {0};
    struct inode *inode = a ? inode_child(to_dir, to) : NULL;
    if (!inode || !inode_child_path(from_dir, from, &from_path) ||
        !inode_child_path(to_dir, to, &to_path) || !matches(a, to_path.data))
        return;
    struct script *s = find_script(a, from_path.data);
    if (s)
        follow(a, s, to_path.data);
    else if (!matches(a, from_path.data)) /* else it was in place already */
        placed(a, inode);
}

void autorun_swapped(struct autorun *a, const struct inode *dir, const char *name,
                     const struct inode *other_dir, const char *other)
{
    struct inode *one = a ? inode_child(dir, name) : NULL,
                 *two = a ? inode_child(other_dir, other) : NULL;
    if (one)
        placed(a, one);
    if (two)
        placed(a, two);
}

/* --- */

/* What the mount before ran, or left to be run. */
static void take_over(struct autorun *a)
{
    const struct run *run = NULL;
    for (uint64_t id = 0; (run = jobs_next(a->jobs, id)); id = run->id) {
        struct script *s = run->content ? get_script(a, run->path) : NULL;
        if (!s)
            continue;
        s->hash = run->content;
        s->job = run->id;
    }
}

struct autorun *autorun_new(struct mount *m, struct jobs *jobs, const char *glob)
{
    struct autorun *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    glob += *glob == '/' && glob[1];
    *a = (struct autorun){
        .mount = m, .jobs = jobs, .glob = glob, .whole_path = strchr(glob, '/') != NULL};
    take_over(a);
    jobs_on_replaced(jobs, replaced, a);
    return a;
}

void autorun_free(struct autorun *a)
{
    if (!a)
        return;
    jobs_on_replaced(a->jobs, NULL, NULL);
    struct writer *w, *next;
    struct script *s, *after;
    HASH_ITER (hh, a->writers, w, next) {
        HASH_DEL(a->writers, w);
        free(w);
    }
    HASH_ITER (hh, a->scripts, s, after) {
        free_script(a, s);
    }
    free(a);
}
