/* Sessions of the pool are opened when something in them is asked for, and closed when they are
 * idle. See pool.h. */
#include "acafs/pool_private.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "acafs/control.h"
#include "acafs/jobs.h"
#include "acafs/notify.h"
#include "acafs/open_mark.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    IDLE_TIMES = 12,    /* attribute timeouts until an idle session is closed, */
    KEEPING_TIMES = 60, /* and as many times that while it has content at hand */
    IDLE_MIN_MS = 1000,
    CLOSING_MS = 20,  /* between looks whether what a session's end had to record is on disk */
    CROWDED_MS = 100, /* between looks while too many are open */
};

static int64_t idle_ms(const struct config *c)
{
    int64_t ms = c->attr_timeout_ms * IDLE_TIMES;
    return ms > IDLE_MIN_MS ? ms : IDLE_MIN_MS;
}

/* --- closing */

/* The directory is what it was when it was last open. */
static void restore_root(const struct member *m)
{
    struct inode *root = store_inodes(m->mount->store)->root;
    root->mode = S_IFDIR | m->mode;
    root->uid = m->uid;
    root->gid = m->gid;
    root->mtime = root->atime = root->ctime = m->mtime;
}

static void save_root(struct member *m)
{
    const struct inode_table *inodes = store_inodes(m->mount->store);
    m->mode = inodes->root->mode & 07777;
    m->uid = inodes->root->uid;
    m->gid = inodes->root->gid;
    m->mtime = inodes->root->mtime;
    m->next_id = inodes->next_id;
}

static void close_member(struct pool *p, struct member *m)
{
    save_root(m);
    open_mark_remove(p->volume->loop, p->marks, m->name);
    struct session_state state;
    session_get_state(m->mount->client.session, &state);
    const struct timespec expires = state.expires;
    mount_free(m->mount);
    m->mount = NULL;
    p->open_count--;
    p->moved = true;
    if (!m->gone)
        pool_keep(p, m, &expires);
    if (m->gone)
        waitq_wake(&p->volume->wakeup, &p->closed, 0);
    pool_drop_unused(p, m);
}

static bool is_idle(const struct mount *m)
{
    return !m->requests && !m->directories && control_is_idle(m->control) &&
           store_is_idle(m->store);
}

/* What it keeps would have to be fetched again, and of what `restore` may have to put back there is
 * nothing else. */
static bool is_due(const struct mount *m)
{
    struct store_stats s;
    store_get_stats(m->store, &s);
    if (s.cached_files && m->config->restore)
        return false;
    return clock_ms() - m->used_ms >= idle_ms(m->config) * (s.cached_files ? KEEPING_TIMES : 1);
}

/* Sessions that are open have descriptors: from then on those that are idle are closed, due or not.
 */
static bool is_crowded(const struct pool *p)
{
    return p->open_count >= store_room_stores() / 2;
}

/* What is at hand goes first, for the journal hears of it: once that is written the next mount of
 * the session can have its place. */
static bool may_close(struct mount *m)
{
    store_evict(m->store);
    return store_is_idle(m->store);
}

bool pool_close_gone(struct pool *p, const char *name)
{
    bool later = false;
    struct mount *m, *next;
    DL_FOREACH_SAFE (p->volume->mounts, m, next) {
        struct member *member = pool_at(p, m->slot);
        if (!member->gone)
            continue;
        if (may_close(m))
            close_member(p, member);
        else
            later = later || !name || strcmp(member->name, name) == 0;
    }
    return later;
}

/* One that is idle: closed, or its inodes that the kernel holds for nothing asked back. True: it
 * can be closed a moment later. */
static bool close_if_unused(struct pool *p, struct member *member, int64_t prune_ms)
{
    struct mount *m = member->mount;
    if (!inode_in_use(store_inodes(m->store))) {
        if (!may_close(m))
            return true;
        close_member(p, member);
    } else if (clock_ms() - m->pruned_ms >= prune_ms) {
        m->pruned_ms = clock_ms();
        notifier_prune(m);
    }
    return false;
}

/* Closes sessions that are idle, least recently used first: those that are due, or any while there
 * are too many. True: one of them a moment later. */
static bool close_idle(struct pool *p, bool all)
{
    bool later = false, crowded = all || is_crowded(p);
    struct mount *m, *next;
    DL_FOREACH_SAFE (p->volume->mounts, m, next) {
        struct member *member = pool_at(p, m->slot);
        if (member->gone || pool_asked_about(p, member) || m->draining || !is_idle(m) ||
            !(crowded || is_due(m)))
            continue;
        if (close_if_unused(p, member, crowded ? CROWDED_MS : idle_ms(m->config)))
            later = true;
        crowded = all || (crowded && is_crowded(p));
    }
    return later;
}

/* --- opening */

static int open_mount(struct pool *p, struct member *m)
{
    struct volume *v = p->volume;
    const struct config *c = member_config(p, m);
    _cleanup_free_ char *why = NULL;
    struct session *session;
    int err = client_session(&v->client, v->loop, c, m->name, &session, &why);
    if (err) {
        log_error("%s", why ? why : strerror(-err));
        return err;
    }
    return mount_new(v, c, (fuse_ino_t)m->slot << SLOT_SHIFT, session, m->next_id, &m->mount);
}

/* Goes to the end of what is closed first. */
static void use(struct mount *m)
{
    m->used_ms = clock_ms();
    DL_DELETE(m->volume->mounts, m);
    DL_APPEND(m->volume->mounts, m);
}

/* Asks the pool nothing yet. */
static int open_quietly(struct pool *p, struct member *m)
{
    if (m->mount) {
        use(m->mount);
        return 0;
    }
    if (p->volume->ending)
        return -ENOTCONN;
    if (m->gone)
        return -ESTALE;
    int err = open_mount(p, m);
    if (err == -EMFILE) {
        close_idle(p, true);
        err = open_mount(p, m);
    }
    if (err)
        return err;
    m->ours = true;
    p->moved = true;
    p->open_count++;
    m->mount->used_ms = clock_ms();
    if (is_crowded(p))
        pool_look_idle(p);
    restore_root(m);
    open_mark_make(p->volume->loop, p->marks, m->name);
    return 0;
}

int pool_open(struct pool *p, struct member *m)
{
    bool was_open = m->mount;
    int err = open_quietly(p, m);
    if (!err && !was_open)
        mount_recover_begin(m->mount);
    return err;
}

/* --- from time to time */

static bool has_work(const struct mount *m)
{
    struct store_stats s;
    store_get_stats(m->store, &s);
    return s.dirty_files || s.removals || !jobs_are_idle(control_jobs(m->control));
}

/* One of which nothing is left to do is closed again before the pool hears of it: it may have been
 * deleted meanwhile, and use would make another. */
static void resume(struct pool *p, struct member *m)
{
    if (open_quietly(p, m))
        return;
    bool work = has_work(m->mount) || !store_is_idle(m->mount->store);
    m->ours = work || p->mute_ms;
    if (work) {
        log_info("a session that was open is opened again: what is pending goes on");
        mount_recover_begin(m->mount);
    } else {
        close_member(p, m);
    }
}

/* Opens those that the mount before had open, as far as there is room. */
static void resume_some(struct pool *p)
{
    p->resume = false;
    for (uint32_t slot = 1; slot < p->slot_count; slot++) {
        struct member *m = p->slots[slot];
        if (!m || !m->resume)
            continue;
        p->resume = is_crowded(p);
        if (p->resume)
            return;
        m->resume = false;
        resume(p, m);
    }
}

static void idle_look(void *arg)
{
    struct pool *p = arg;
    const struct config *c = p->volume->config;
    /* A pool of this machine ends when nobody asks it anything. */
    if (client_is_local(c) && clock_ms() - p->asked_ms > ASK_AGAIN_MS && !p->listing)
        pool_ask_list(p);
    bool later = pool_close_gone(p, NULL);
    if (!p->volume->ending)
        later = close_idle(p, false) || later;
    if (p->resume && !p->volume->ending)
        resume_some(p);
    if (p->moved)
        malloc_trim(0); /* what is free lies between what the open ones have */
    p->moved = false;
    loop_timer_set(&p->idle, later ? CLOSING_MS : is_crowded(p) ? CROWDED_MS : idle_ms(c) / 4);
}

void pool_look_idle(struct pool *p)
{
    loop_timer_set(&p->idle, 0);
}

static void to_resume(void *arg, const char *name)
{
    struct pool *p = arg;
    struct member *m = pool_get(p, name);
    if (!m)
        return;
    m->resume = p->resume = true;
}

void pool_resume(struct pool *p)
{
    open_mark_each(p->marks, to_resume, p);
    if (p->resume)
        pool_look_idle(p);
}

/* --- the end */

/* What could not be sent is for the next mount. */
static void end_member(struct pool *p, struct member *m)
{
    if (!has_work(m->mount))
        open_mark_remove(p->volume->loop, p->marks, m->name);
    mount_free(m->mount);
}

int pool_open_init(struct pool *p)
{
    struct volume *v = p->volume;
    loop_timer_init(&p->idle, v->loop, idle_look, p);
    p->marks = open_mark_directory(v->config->cache_dir, session_endpoint(v->client.session));
    if (!p->marks)
        return -ENOMEM;
    loop_timer_set(&p->idle, idle_ms(v->config) / 4);
    return 0;
}

void pool_open_free(struct pool *p)
{
    loop_timer_stop(&p->idle);
    struct mount *m, *next;
    DL_FOREACH_SAFE (p->volume->mounts, m, next) {
        end_member(p, pool_at(p, m->slot));
    }
    free(p->marks);
}
