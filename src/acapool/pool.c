#include "acapool/pool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#include "acapool/watch.h"
#include "util/buf.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    TICK_MS = 1000,
    FIRST_UID = 1900000000, /* far from anyone's: one user for each session when we are root */
    UIDS = 65536,
    STALE_S = 60,
};

static const char directory_prefix[] = "acapool-";

struct pool {
    struct pool_options options;
    struct mainthread *main;
    char *path;  /* the pool's directory */
    int lock_fd; /* its lock file: says that this pool lives */
    struct timespec created;

    pthread_mutex_t lock;
    pthread_cond_t wake, released;
    struct session *sessions; /* hash by identifier */
    struct session *gone;     /* out of the table, to be freed once nobody holds them */
    unsigned next_uid;
    unsigned requests;  /* under way */
    int64_t request_ms; /* the last one's end */
    bool closing;
    pthread_t keeper;
};

const struct pool_options *pool_options(const struct pool *p)
{
    return &p->options;
}

struct mainthread *pool_mainthread(const struct pool *p)
{
    return p->main;
}

const struct timespec *pool_created(const struct pool *p)
{
    return &p->created;
}

/* --- the pool's directory */

/* A pool that was killed leaves its directory behind; its lock tells. */
static void remove_stale(const char *parent, int parent_fd, const char *name)
{
    struct stat st;
    if (fstatat(parent_fd, name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISDIR(st.st_mode) ||
        st.st_uid != geteuid() || time(NULL) - st.st_mtime < STALE_S)
        return;
    _cleanup_close_ int dir =
        openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return;
    _cleanup_close_ int lock = openat(dir, "lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB))
        return;
    log_info("%s/%s: removing what a pool left that did not end properly", parent, name);
    int err = files_remove_tree(parent_fd, name);
    if (err)
        log_warning("%s/%s: %s", parent, name, strerror(-err));
}

static void remove_all_stale(const char *parent)
{
    DIR *dir = opendir(parent);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strncmp(entry->d_name, directory_prefix, sizeof directory_prefix - 1) == 0)
            remove_stale(parent, dirfd(dir), entry->d_name);
    }
    closedir(dir);
}

static int make_directory(struct pool *p)
{
    const char *parent = p->options.data ? p->options.data : "/var/tmp";
    struct buf path = {0};
    int err = buf_addf(&path, "%s/%sXXXXXX", parent, directory_prefix);
    if (err)
        return err;
    if (!mkdtemp(path.data)) {
        err = -errno;
        buf_free(&path);
        return err;
    }
    p->path = buf_take(&path);
    /* The session's user must get through, if it is another; names in it are not to be guessed. */
    if (chmod(p->path, 0711))
        return -errno;
    _cleanup_buf_ struct buf lock = {0};
    err = buf_addf(&lock, "%s/lock", p->path);
    if (err)
        return err;
    p->lock_fd = open(lock.data, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (p->lock_fd < 0 || flock(p->lock_fd, LOCK_EX | LOCK_NB))
        return -errno;
    remove_all_stale(parent);
    return 0;
}

/* --- the keeper */

static bool over(const struct pool *p, const struct session *s, int64_t now)
{
    return p->closing || (!s->held && now - s->used_ms > p->options.cooldown_s * 1000);
}

/* Under the lock: takes a session out of the table. Its processes are ended by the keeper
 * or by who holds it. */
static void take_out(struct pool *p, struct session *s)
{
    HASH_DEL(p->sessions, s);
    DL_APPEND(p->gone, s);
}

static void expire(struct pool *p)
{
    int64_t now = clock_ms();
    struct session *s, *next;
    HASH_ITER (hh, p->sessions, s, next) {
        if (over(p, s, now)) {
            log_debug("session %s expired", s->guid);
            take_out(p, s);
        }
    }
}

/* Those that are gone and held by nobody, as a list of the caller's. */
static struct session *take_free(struct pool *p)
{
    struct session *s, *next, *taken = NULL;
    DL_FOREACH_SAFE (p->gone, s, next) {
        if (!s->held) {
            DL_DELETE(p->gone, s);
            DL_APPEND(taken, s);
        }
    }
    return taken;
}

static void free_sessions(struct session *list)
{
    struct session *s, *next;
    DL_FOREACH_SAFE (list, s, next) {
        DL_DELETE(list, s);
        session_free(s);
    }
}

/* Holds all sessions without that counting as use. Returns how many. */
static size_t hold_all(struct pool *p, struct session ***out)
{
    size_t count = HASH_COUNT(p->sessions), n = 0;
    *out = calloc(count ? count : 1, sizeof **out);
    struct session *s, *next;
    if (!*out)
        return 0;
    HASH_ITER (hh, p->sessions, s, next) {
        s->held++;
        (*out)[n++] = s;
    }
    return n;
}

static void let_go(struct pool *p, struct session *s)
{
    pthread_mutex_lock(&p->lock);
    s->held--;
    pthread_mutex_unlock(&p->lock);
}

static void watch_disk(struct pool *p, struct session *s)
{
    int64_t began = clock_ms();
    if (began < s->next_usage_ms)
        return;
    uint64_t before = s->usage, now = 0;
    if (files_usage(&s->files, &now))
        return;
    s->usage = now;
    s->next_usage_ms = began + TICK_MS / 2 + 20 * (clock_ms() - began);
    /* Only while it grows: whoever is over the limit must be able to clean up. */
    if (now > p->options.disk && now > before) {
        log_warning("session %s: its files take %llu bytes, more than --disk: ending its processes",
                    s->guid, (unsigned long long)now);
        session_kill(s, false);
    }
}

static void watch_all_memory(struct pool *p, struct session **sessions, size_t count)
{
    struct watched *watched = calloc(count ? count : 1, sizeof *watched);
    size_t n = 0;
    for (size_t i = 0; watched && i < count; i++) {
        pid_t root = session_process(sessions[i]);
        if (root)
            watched[n++] =
                (struct watched){.root = root, .spared = p->options.sandbox.bare ? 0 : 1};
    }
    if (n && !watch_memory(watched, n)) {
        for (size_t i = 0; i < n; i++) {
            if (watched[i].memory <= p->options.sandbox.limits.memory || !watched[i].largest)
                continue;
            log_warning("a session takes %llu bytes of memory, more than --memory: ending its "
                        "largest process",
                        (unsigned long long)watched[i].memory);
            kill(watched[i].largest, SIGKILL);
        }
    }
    free(watched);
}

static void watch(struct pool *p, struct session **sessions, size_t count)
{
    watch_all_memory(p, sessions, count);
    for (size_t i = 0; i < count; i++) {
        watch_disk(p, sessions[i]);
        for (int k = 0; k < SESSION_KERNELS; k++)
            kernel_drain(&sessions[i]->kernels[k]);
        let_go(p, sessions[i]);
    }
}

static bool idle(const struct pool *p)
{
    return p->options.idle_exit_s && !p->sessions && !p->requests &&
           clock_ms() - p->request_ms > p->options.idle_exit_s * 1000;
}

static void wait_tick(struct pool *p)
{
    int64_t until = clock_ms() + TICK_MS;
    struct timespec when = {until / 1000, until % 1000 * 1000000};
    if (!p->closing)
        pthread_cond_timedwait(&p->wake, &p->lock, &when);
}

static void *keep(void *arg)
{
    struct pool *p = arg;
    pthread_mutex_lock(&p->lock);
    while (!p->closing) {
        wait_tick(p);
        expire(p);
        struct session *freed = take_free(p), **sessions;
        size_t count = hold_all(p, &sessions);
        if (idle(p))
            mainthread_stop(p->main);
        pthread_mutex_unlock(&p->lock);
        free_sessions(freed);
        watch(p, sessions, count);
        free(sessions);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* --- life */

static void init_locks(struct pool *p)
{
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->wake, &monotonic);
    pthread_cond_init(&p->released, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static void remove_directory(struct pool *p)
{
    if (p->path) {
        int err = files_remove_tree(AT_FDCWD, p->path);
        if (err)
            log_warning("%s: %s", p->path, strerror(-err));
    }
    if (p->lock_fd >= 0)
        close(p->lock_fd);
    free(p->path);
}

int pool_new(const struct pool_options *options, struct mainthread *main, struct pool **out,
             char **why)
{
    int err = sandbox_probe(&options->sandbox, geteuid() ? (uid_t)-1 : FIRST_UID, why);
    if (err)
        return err;
    struct pool *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    *p = (struct pool){.options = *options, .main = main, .lock_fd = -1, .request_ms = clock_ms()};
    clock_gettime(CLOCK_REALTIME, &p->created);
    init_locks(p);
    err = make_directory(p);
    if (err) {
        struct buf line = {0};
        buf_addf(&line, "a directory for the sessions' files in %s: %s",
                 options->data ? options->data : "/var/tmp", strerror(-err));
        *why = buf_take(&line);
    } else {
        err = -pthread_create(&p->keeper, NULL, keep, p);
    }
    if (err) {
        remove_directory(p);
        free(p);
        return err;
    }
    *out = p;
    return 0;
}

void pool_close(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->keeper, NULL);
    pthread_mutex_lock(&p->lock);
    expire(p);
    struct session *s;
    DL_FOREACH (p->gone, s)
        session_kill(s, true);
    pthread_mutex_unlock(&p->lock);
}

void pool_free(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    struct session *s;
    DL_FOREACH (p->gone, s) {
        while (s->held)
            pthread_cond_wait(&p->released, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    free_sessions(p->gone);
    remove_directory(p);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->released);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* --- sessions */

/* Under the lock. */
static int allocate(struct pool *p, const char *identifier, struct session **out)
{
    if (p->closing)
        return -ESHUTDOWN;
    if (HASH_COUNT(p->sessions) >= p->options.max_sessions)
        return -EUSERS;
    uid_t uid = geteuid() ? (uid_t)-1 : FIRST_UID + p->next_uid++ % UIDS;
    char name[33];
    text_random_hex(name, 16);
    _cleanup_buf_ struct buf path = {0};
    int err = buf_addf(&path, "%s/%s", p->path, name);
    if (!err)
        err = session_new(p, identifier, path.data, uid, out);
    if (err)
        return err;
    HASH_ADD_KEYPTR(hh, p->sessions, (*out)->identifier, strlen((*out)->identifier), *out);
    log_debug("session %s allocated", (*out)->guid);
    return 0;
}

static void used(struct session *s)
{
    s->used_ms = clock_ms();
    clock_gettime(CLOCK_REALTIME, &s->accessed);
}

int pool_acquire(struct pool *p, const char *identifier, bool may_allocate, struct session **out,
                 bool *fresh)
{
    struct session *s = NULL;
    *fresh = false;
    pthread_mutex_lock(&p->lock);
    HASH_FIND(hh, p->sessions, identifier, strlen(identifier), s);
    /* The keeper comes by once a second; who is late by less is late all the same. */
    if (s && over(p, s, clock_ms())) {
        take_out(p, s);
        pthread_cond_signal(&p->wake);
        s = NULL;
    }
    int err = 0;
    if (!s) {
        err = may_allocate ? allocate(p, identifier, &s) : -ENOENT;
        *fresh = !err;
    }
    if (!err) {
        s->held++;
        used(s);
        *out = s;
    }
    pthread_mutex_unlock(&p->lock);
    return err;
}

void pool_hold(struct session *s)
{
    pthread_mutex_lock(&s->pool->lock);
    s->held++;
    pthread_mutex_unlock(&s->pool->lock);
}

void pool_release(struct session *s)
{
    struct pool *p = s->pool;
    pthread_mutex_lock(&p->lock);
    s->held--;
    used(s);
    pthread_cond_broadcast(&p->released);
    pthread_mutex_unlock(&p->lock);
}

int pool_delete(struct pool *p, const char *identifier)
{
    struct session *s = NULL;
    pthread_mutex_lock(&p->lock);
    HASH_FIND(hh, p->sessions, identifier, strlen(identifier), s);
    if (s) {
        take_out(p, s);
        s->held++;
    }
    pthread_mutex_unlock(&p->lock);
    if (!s)
        return -ENOENT;
    session_kill(s, true);
    pthread_mutex_lock(&p->lock);
    s->held--;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    return 0;
}

static void view(const struct pool *p, const struct session *s, struct session_view *v)
{
    *v = (struct session_view){.identifier = s->identifier,
                               .guid = s->guid,
                               .created = s->created,
                               .accessed = s->accessed,
                               .expires = s->accessed};
    v->expires.tv_sec += p->options.cooldown_s;
}

void pool_view(struct session *s, struct session_view *v)
{
    pthread_mutex_lock(&s->pool->lock);
    view(s->pool, s, v);
    pthread_mutex_unlock(&s->pool->lock);
}

void pool_each(struct pool *p, void (*fn)(void *arg, const struct session_view *), void *arg)
{
    pthread_mutex_lock(&p->lock);
    struct session *s, *next;
    HASH_ITER (hh, p->sessions, s, next) {
        struct session_view v;
        view(p, s, &v);
        fn(arg, &v);
    }
    pthread_mutex_unlock(&p->lock);
}

uint64_t pool_count(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    uint64_t count = HASH_COUNT(p->sessions);
    pthread_mutex_unlock(&p->lock);
    return count;
}

void pool_enter(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->requests++;
    pthread_mutex_unlock(&p->lock);
}

void pool_leave(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->requests--;
    p->request_ms = clock_ms();
    pthread_cond_broadcast(&p->released);
    pthread_mutex_unlock(&p->lock);
}

void pool_drain(struct pool *p, int64_t most_ms)
{
    int64_t until = clock_ms() + most_ms;
    struct timespec when = {until / 1000, until % 1000 * 1000000};
    pthread_mutex_lock(&p->lock);
    while (p->requests && pthread_cond_timedwait(&p->released, &p->lock, &when) != ETIMEDOUT) {
    }
    pthread_mutex_unlock(&p->lock);
}
