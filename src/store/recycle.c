/* The session was replaced by a new, empty one. What is whole here is all there is of it: with
 * `restore` it goes up again; without, it is put where it can be found, at the path it had below
 * `lost/` in the cache, and the mount shows what there is. What was not on the server yet goes to
 * the new session either way. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utlist.h>

#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    COPY_BLOCK = 1 << 20,
    TOUCH_LEAST_MS = 2000, /* between the calls that keep the session */
    TOUCH_MS = 60000,      /* where the pool does not tell when it expires */
    NEWS_LEAST_MS = 1000,  /* between questions when it expires */
    NEWS_LIFE = 10,        /* how often, while it is used, in the time that it has left */
};

/* --- lost/ */

static int make_parents(int dir, const char *path)
{
    _cleanup_free_ char *part = strdup(path);
    if (!part)
        return -ENOMEM;
    for (char *p = strchr(part, '/'); p; p = strchr(p + 1, '/')) {
        *p = '\0';
        if (mkdirat(dir, part, 0700) && errno != EEXIST)
            return -errno;
        *p = '/';
    }
    return 0;
}

static int copy_content(int from, int lost, const char *path)
{
    _cleanup_close_ int to = openat(lost, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (to < 0)
        return -errno;
    loff_t at = 0;
    ssize_t n;
    while ((n = copy_file_range(from, &at, to, NULL, COPY_BLOCK, 0)) > 0)
        ;
    return n < 0 ? -errno : 0;
}

/* A lost file of the same path goes: the newer one is of the later session. Content that is open
 * may still be written here, and is copied. */
static int put_lost(const struct file *f, int lost)
{
    char from[40];
    _cleanup_buf_ struct buf path = {0};
    if (!inode_path(f->inode, &path))
        return -ENOMEM;
    int err = make_parents(lost, path.data);
    if (err)
        return err;
    unlinkat(lost, path.data, 0);
    snprintf(from, sizeof from, "/proc/self/fd/%d", f->fd);
    if (!f->opens && linkat(AT_FDCWD, from, lost, path.data, AT_SYMLINK_FOLLOW) == 0)
        return 0;
    return copy_content(f->fd, lost, path.data);
}

static int open_lost(const struct store *s)
{
    int fd = openat(shelf_dir(s->shelf), "lost", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

static bool is_copy_of_the_old(const struct file *f)
{
    return f->state == FILE_WHOLE && f->inode->parent && !file_outdated(f);
}

static void save_lost(struct store *s)
{
    const struct file *f;
    size_t count = 0;
    int lost = -1, err = 0;
    DL_FOREACH (s->files, f) {
        if (!is_copy_of_the_old(f))
            continue;
        if (lost < 0 && (lost = open_lost(s)) < 0) {
            err = lost;
            break;
        }
        int failed = put_lost(f, lost);
        if (failed)
            log_error("%s: not kept in .acafs/lost: %s", f->inode->name, strerror(-failed));
        else
            count++;
    }
    if (lost >= 0)
        close(lost);
    if (err)
        log_error("%s/lost: %s", s->directory, strerror(-err));
    s->lost += count;
    log_warning("the session was recycled: its files are gone; %zu that were at hand are in "
                ".acafs/lost (with -o restore they would be put back)",
                count);
}

/* --- restore */

struct remake {
    struct remake *prev, *next;
    struct store *store;
    struct session_call *call;
    char *path;
};

static void free_remake(struct remake *r)
{
    DL_DELETE(r->store->remakes, r);
    if (r->call)
        session_cancel(r->call);
    free(r->path);
    free(r);
}

static void remade(void *arg, const struct session_error *e)
{
    struct remake *r = arg;
    r->call = NULL;
    if (e->err && e->err != -EEXIST)
        log_warning("%s: not restored: %s", r->path, e->message ? e->message : strerror(-e->err));
    free_remake(r);
}

/* Directories, and symlinks, are made anew by the helper. */
static void remake(struct store *s, const struct inode *inode)
{
    _cleanup_buf_ struct buf path = {0};
    struct remake *r = inode_path(inode, &path) ? calloc(1, sizeof *r) : NULL;
    if (!r)
        return;
    r->store = s;
    r->path = buf_take(&path);
    DL_APPEND(s->remakes, r);
    r->call = S_ISDIR(inode->mode) ? session_mkdir(s->session, r->path, 0777, remade, r)
                                   : session_symlink(s->session, inode->target ? inode->target : "",
                                                     r->path, remade, r);
    if (!r->call)
        free_remake(r);
}

/* Parents first. */
static void remake_below(struct store *s, struct inode *dir)
{
    struct inode *child, *next;
    HASH_ITER (by_name, dir->children, child, next) {
        if (S_ISREG(child->mode))
            continue;
        remake(s, child);
        inode_touch(&s->inodes, child); /* a listing asked before does not take it away */
        if (S_ISDIR(child->mode))
            remake_below(s, child);
    }
}

static void nothing_there(struct inode *inode)
{
    inode->on_server = false;
    inode->base = (struct version){.size = -1, .mtime = {.tv_nsec = -1}};
}

static void send_again(struct store *s)
{
    struct file *f;
    size_t count = 0;
    remake_below(s, s->inodes.root);
    DL_FOREACH (s->files, f) {
        if (!is_copy_of_the_old(f))
            continue;
        f->written++;
        f->state = FILE_DIRTY;
        nothing_there(f->inode);
        inode_touch(&s->inodes, f->inode);
        int err = file_keep(f);
        if (err)
            log_error("%s: not restored: %s", f->inode->name, strerror(-err));
        else
            count++;
    }
    log_warning("the session was recycled: %zu files that were at hand are put back", count);
}

/* Before it was heard from, this mount had nothing of it but what is not on the server. An error:
 * while it mounts nothing less is shown. */
static void recycled_before(struct store *s)
{
    const struct file *f;
    size_t count = 0;
    DL_FOREACH (s->files, f) {
        count += f->written != f->saved;
    }
    log_error("the session was recycled since it was mounted last: its files are gone, but for "
              "%zu that were not on the server yet and go up now",
              count);
}

/* The journal tells of the session as it is. */
static void note_identity(struct store *s)
{
    struct session_state state;
    session_get_state(s->session, &state);
    const char *now = state.identity ? state.identity : "";
    if (strcmp(now, s->identity ? s->identity : "") == 0)
        return;
    free(s->identity);
    s->identity = *now ? strdup(now) : NULL;
    store_record(s, RECORD_SESSION, now, NULL, false);
}

int store_identity_note(const struct store *s, struct buf *frames)
{
    const struct record r = {.type = RECORD_SESSION, .path = s->identity, .other = ""};
    return s->identity ? store_frame(frames, &r) : 0;
}

static void recycled(void *arg)
{
    struct store *s = arg;
    struct session_state state;
    session_get_state(s->session, &state);
    if (state.generation == s->generation)
        return;
    s->generation = state.generation;
    struct file *f;
    DL_FOREACH (s->files, f) {
        if (f->written != f->saved)
            nothing_there(f->inode);
    }
    bool before = s->identity && !s->identity_heard && state.identity;
    s->identity_heard = state.identity;
    s->identity_asks = 0;
    note_identity(s);
    if (s->deleted)
        log_info("the session was deleted");
    else if (before)
        recycled_before(s);
    else if (s->options.restore)
        send_again(s);
    else
        save_lost(s);
    s->deleted = false;
    store_invalidate(s);
}

void store_recycle_check(struct store *s)
{
    recycled(s);
}

void store_expect_new(struct store *s, bool expected)
{
    s->deleted = expected;
}

/* --- keepalive */

static void set_touch_timer(struct store *s)
{
    struct session_state state;
    struct timespec now;
    session_get_state(s->session, &state);
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t left = TOUCH_MS;
    if (state.expires.tv_nsec >= 0)
        left = (state.expires.tv_sec - now.tv_sec) * 1000 / 3;
    left = left > TOUCH_MS ? TOUCH_MS : left < TOUCH_LEAST_MS ? TOUCH_LEAST_MS : left;
    loop_timer_set(&s->touch, left);
}

static void info_told(void *arg, const struct session_error *e, const struct session_info *info)
{
    struct store *s = arg;
    s->info_call = NULL;
    if (e->err == -EHOSTUNREACH || e->err == -ETIMEDOUT)
        s->info_generation = UINT64_MAX; /* asked again when it answers */
    recycled(s);
    s->identity_heard = s->identity_heard || !e->err;
    note_identity(s);
    if (s->tree.listed_ms)
        store_ask_identity(s);
    if (s->options.keepalive)
        set_touch_timer(s);
}

void store_ask_info(struct store *s)
{
    struct session_state state;
    if (s->info_call)
        return;
    session_get_state(s->session, &state);
    s->identity_asks++;
    s->info_generation = state.generation;
    s->info_ms = clock_ms();
    clock_gettime(CLOCK_REALTIME, &s->info_asked);
    s->info_call = session_info(s->session, info_told, s);
}

/* Each use puts the end off, and only one call tells how far. */
void store_note_use(struct store *s)
{
    struct session_state state;
    session_get_state(s->session, &state);
    bool unheard = s->info_generation != state.generation;
    if (s->info_call || (state.expires.tv_nsec < 0 && !unheard))
        return; /* or the pool does not tell */
    int64_t life = (state.expires.tv_sec - s->info_asked.tv_sec) * 1000 / NEWS_LIFE;
    life = life > TOUCH_MS ? TOUCH_MS : life < NEWS_LEAST_MS ? NEWS_LEAST_MS : life;
    if (unheard || clock_ms() - s->info_ms >= life)
        store_ask_info(s);
}

/* Once more: where nothing but that is not answered it never will be. */
void store_ask_identity(struct store *s)
{
    if (!s->identity_heard && s->identity_asks < 2)
        store_ask_info(s);
}

/* A listing counts as use of the session wherever asking for its expiry may not. */
static void touch(void *arg)
{
    struct store *s = arg;
    if (!s->deleted)
        store_ask_tree(s);
    if (!s->deleted)
        store_ask_info(s);
    if (!s->info_call)
        set_touch_timer(s);
}

void store_recycle_init(struct store *s)
{
    struct session_state state;
    session_get_state(s->session, &state);
    s->generation = state.generation;
    loop_timer_init(&s->touch, s->loop, touch, s);
    session_on_recycled(s->session, recycled, s);
}

void store_recycle_free(struct store *s)
{
    session_on_recycled(s->session, NULL, NULL);
    loop_timer_stop(&s->touch);
    if (s->info_call)
        session_cancel(s->info_call);
    while (s->remakes)
        free_remake(s->remakes);
    free(s->identity);
}
