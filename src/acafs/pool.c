#include "acafs/pool.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "acafs/control.h"
#include "acafs/jobs.h"
#include "acafs/notify.h"
#include "acafs/open_mark.h"
#include "acafs/request.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    SLOTS = 1 << (62 - SLOT_SHIFT), /* the first is the pool's root */
    IDLE_TIMES = 12,                /* attribute timeouts until an idle session is closed, */
    KEEPING_TIMES = 60,             /* and as many times that while it has content at hand */
    IDLE_MIN_MS = 1000,
    CLOSING_MS = 20,      /* between looks whether what a session's end had to record is on disk */
    ASK_AGAIN_MS = 60000, /* a pool that did not tell what it has */
};

/* A question to the pool, or an order, about one name: all who want the same wait for one. */
struct inquiry {
    UT_hash_handle hh;
    struct pool *pool;
    struct session_call *call;
    struct member *member; /* being made or removed; NULL: being looked for */
    struct waitq waiting;
    bool removes;
    char name[];
};

struct pool {
    struct volume *volume;
    struct mount root;
    struct member *by_name;
    struct member **slots; /* by slot; NULL: free */
    uint32_t slot_count, first_free;
    struct inquiry *inquiries;
    struct session_call *listing;
    struct waitq listed;
    struct waitq closed; /* a session that was deleted */
    int64_t asked_ms;    /* of the list under way */
    int64_t listed_ms;   /* when the one that was last answered was asked; 0: none */
    int64_t mute_ms;     /* when the pool last said that it does not tell; 0: it does */
    uint32_t epoch;
    size_t hidden;
    int away;
    char *trouble;
    char *marks; /* open_mark.h */
    struct loop_timer idle;
    bool moved; /* sessions were opened or closed since it last ran */
};

static int64_t idle_ms(const struct pool *p)
{
    int64_t ms = p->volume->config->attr_timeout_ms * IDLE_TIMES;
    return ms > IDLE_MIN_MS ? ms : IDLE_MIN_MS;
}

/* --- the table */

fuse_ino_t member_ino(const struct member *m)
{
    return (fuse_ino_t)m->slot << SLOT_SHIFT | INODE_ROOT_ID;
}

static uint32_t slot_of(fuse_ino_t ino)
{
    return (uint32_t)((ino & SLOT_MASK) >> SLOT_SHIFT);
}

struct member *pool_at(const struct pool *p, fuse_ino_t ino)
{
    uint32_t slot = slot_of(ino);
    return slot < p->slot_count ? p->slots[slot] : NULL;
}

bool pool_shows(const struct pool *p, const struct member *m)
{
    return !m->gone && (m->ours || (p->epoch && m->epoch == p->epoch));
}

struct member *pool_next(const struct pool *p, uint32_t slot)
{
    while (++slot < p->slot_count) {
        if (p->slots[slot] && pool_shows(p, p->slots[slot]))
            return p->slots[slot];
    }
    return NULL;
}

static struct member *find(const struct pool *p, const char *name)
{
    struct member *m;
    HASH_FIND_STR(p->by_name, name, m);
    return m;
}

/* A free slot, or 0. */
static uint32_t free_slot(struct pool *p)
{
    uint32_t slot = p->first_free;
    while (slot < p->slot_count && p->slots[slot])
        slot++;
    if (slot >= SLOTS)
        return 0;
    if (slot >= p->slot_count) {
        uint32_t count = p->slot_count ? p->slot_count * 2 : 64;
        struct member **more = realloc(p->slots, count * sizeof *more);
        if (!more)
            return 0;
        memset(more + p->slot_count, 0, (count - p->slot_count) * sizeof *more);
        p->slots = more;
        p->slot_count = count;
    }
    p->first_free = slot + 1;
    return slot;
}

/* The member of that name, made when there is none; NULL: out of memory or slots. */
static struct member *get(struct pool *p, const char *name)
{
    const struct config *c = p->volume->config;
    struct member *m = find(p, name);
    if (m)
        return m;
    size_t len = strlen(name);
    uint32_t slot = free_slot(p);
    if (!slot || !(m = calloc(1, sizeof *m + len + 1)))
        return NULL;
    memcpy(m->name, name, len);
    m->slot = slot;
    m->mode = 0777 & ~c->umask;
    m->uid = c->uid == (uid_t)-1 ? p->volume->owner : c->uid;
    m->gid = c->gid == (gid_t)-1 ? p->volume->owner_group : c->gid;
    m->mtime.tv_sec = p->volume->since;
    p->slots[slot] = m;
    HASH_ADD_STR(p->by_name, name, m);
    return m;
}

static bool asked_about(const struct pool *p, const struct member *m)
{
    struct inquiry *q;
    HASH_FIND_STR(p->inquiries, m->name, q);
    return q && q->member == m;
}

/* Forgets a member that nobody needs to know. */
static void drop_unused(struct pool *p, struct member *m)
{
    if (m->mount || m->lookups || pool_shows(p, m) || asked_about(p, m))
        return;
    if (!m->gone)
        HASH_DEL(p->by_name, m);
    p->slots[m->slot] = NULL;
    if (m->slot < p->first_free)
        p->first_free = m->slot;
    free(m);
}

void pool_forget(struct pool *p, struct member *m, uint64_t count)
{
    m->lookups -= count < m->lookups ? count : m->lookups;
    drop_unused(p, m);
}

/* --- open and closed */

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
    mount_free(m->mount);
    m->mount = NULL;
    p->moved = true;
    if (m->gone)
        waitq_wake(&p->volume->wakeup, &p->closed, 0);
    drop_unused(p, m);
}

static bool is_idle(const struct mount *m)
{
    return !m->requests && !m->directories && control_is_idle(m->control) &&
           store_is_idle(m->store);
}

/* How long it was idle, of what it may be; what it keeps would have to be fetched again. */
static bool is_due(const struct pool *p, const struct mount *m)
{
    struct store_stats s;
    store_get_stats(m->store, &s);
    return clock_ms() - m->used_ms >= idle_ms(p) * (s.cached_files ? KEEPING_TIMES : 1);
}

/* What is at hand goes first, for the journal hears of it: once that is written the next mount of
 * the session can have its place. */
static bool may_close(struct mount *m)
{
    store_evict(m->store);
    return store_is_idle(m->store);
}

/* Closes those that were deleted, as soon as nothing of theirs is being written; true: one of that
 * name (NULL: any) later. */
static bool close_gone(struct pool *p, const char *name)
{
    bool later = false;
    for (uint32_t slot = 1; slot < p->slot_count; slot++) {
        struct member *m = p->slots[slot];
        if (!m || !m->gone || !m->mount)
            continue;
        if (may_close(m->mount))
            close_member(p, m);
        else
            later = later || !name || strcmp(m->name, name) == 0;
    }
    return later;
}

/* Closes sessions that are idle: those for long enough, or all. What the kernel holds of them it is
 * told to let go, and it has until the next time. True: one of them a moment later. */
static bool close_idle(struct pool *p, bool all)
{
    bool later = false;
    for (uint32_t slot = 1; slot < p->slot_count; slot++) {
        struct member *member = p->slots[slot];
        struct mount *m = member ? member->mount : NULL;
        if (!m || asked_about(p, member) || m->draining || !is_idle(m) || !(all || is_due(p, m)))
            continue;
        if (!inode_in_use(store_inodes(m->store))) {
            if (may_close(m))
                close_member(p, member);
            else
                later = true;
        } else if (clock_ms() - m->pruned_ms >= idle_ms(p)) {
            m->pruned_ms = clock_ms();
            notifier_prune(m);
        }
    }
    return later;
}

static void ask_list(struct pool *);

static void idle_look(void *arg)
{
    struct pool *p = arg;
    const struct config *c = p->volume->config;
    /* A pool of this machine ends when nobody asks it anything, and keeps open sessions for
     * nothing. */
    if (client_is_local(c) && clock_ms() - p->asked_ms > ASK_AGAIN_MS && !p->listing)
        ask_list(p);
    bool later = close_gone(p, NULL);
    if (!c->keepalive && !client_is_local(c) && !p->volume->ending)
        later = close_idle(p, false) || later;
    if (p->moved)
        malloc_trim(0); /* what is free lies between what the open ones have */
    p->moved = false;
    loop_timer_set(&p->idle, later ? CLOSING_MS : idle_ms(p) / 4);
}

static int open_mount(struct pool *p, struct member *m)
{
    struct volume *v = p->volume;
    _cleanup_free_ char *why = NULL;
    struct session *session;
    int err = client_session(&v->client, v->loop, v->config, m->name, &session, &why);
    if (err) {
        log_error("%s", why ? why : strerror(-err));
        return err;
    }
    return mount_new(v, (fuse_ino_t)m->slot << SLOT_SHIFT, session, m->next_id, &m->mount);
}

int pool_open(struct pool *p, struct member *m)
{
    if (m->mount) {
        m->mount->used_ms = clock_ms();
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
    m->mount->used_ms = clock_ms();
    restore_root(m);
    open_mark_make(p->volume->loop, p->marks, m->name);
    mount_recover_begin(m->mount);
    return 0;
}

/* --- what the pool tells */

static void set_trouble(struct pool *p, const struct session_error *e)
{
    struct buf text = {0};
    free(p->trouble);
    p->trouble = NULL;
    if (e->err && client_explain(&text, e) == 0)
        p->trouble = buf_take(&text);
    buf_free(&text);
}

/* Takes what the pool says that it has: the rest is not there any more. */
static void take_list(struct pool *p, const struct session_names *names)
{
    p->epoch++;
    p->hidden = names->hidden;
    for (size_t i = 0; i < names->count; i++) {
        struct member *m = get(p, names->names[i]);
        if (m)
            m->epoch = p->epoch;
        else
            p->hidden++;
    }
    for (uint32_t slot = 1; slot < p->slot_count; slot++) {
        struct member *m = p->slots[slot];
        if (!m || m->gone || pool_shows(p, m))
            continue;
        if (m->lookups)
            notifier_entry(&p->root, INODE_ROOT_ID, m->name);
        drop_unused(p, m);
    }
}

static void tell_mute(void)
{
    log_warning("the pool does not list its sessions: only those opened here are shown");
}

static void list_came(void *arg, const struct session_error *e, const struct session_names *names)
{
    struct pool *p = arg;
    p->listing = NULL;
    set_trouble(p, e);
    p->away = e->err == -EOPNOTSUPP ? 0 : e->err;
    if (!e->err) {
        p->listed_ms = p->asked_ms;
        p->mute_ms = 0;
        take_list(p, names);
    } else if (e->err == -EOPNOTSUPP) {
        if (!p->mute_ms && p->listed_ms)
            tell_mute();
        p->mute_ms = p->asked_ms;
    }
    waitq_wake(&p->volume->wakeup, &p->listed, p->away);
}

static void ask_list(struct pool *p)
{
    p->asked_ms = clock_ms();
    p->listing = session_sessions(p->volume->client.session, list_came, p);
}

int pool_fresh(struct pool *p, struct waiter *w)
{
    int err = waiter_take_error(w);
    if (err)
        return err == -EACCES || !p->listed_ms ? err : 0;
    /* From the beginning of the operation on, or not older than may be. */
    int64_t oldest = clock_ms() - p->volume->config->attr_timeout_ms;
    oldest = oldest < w->born ? oldest : w->born;
    if (p->listed_ms >= oldest || (p->mute_ms && clock_ms() - p->mute_ms < ASK_AGAIN_MS))
        return 0;
    if (!p->listing)
        ask_list(p);
    if (!p->listing)
        return -ENOMEM;
    waitq_park(&p->listed, w);
    return STORE_WAIT;
}

/* --- one name */

static struct inquiry *inquiry_of(const struct pool *p, const char *name)
{
    struct inquiry *q;
    HASH_FIND_STR(p->inquiries, name, q);
    return q;
}

static struct inquiry *inquiry_new(struct pool *p, const char *name)
{
    size_t len = strlen(name);
    struct inquiry *q = calloc(1, sizeof *q + len + 1);
    if (!q)
        return NULL;
    q->pool = p;
    memcpy(q->name, name, len);
    HASH_ADD_STR(p->inquiries, name, q);
    return q;
}

/* Ends it; whoever waits goes on with err. */
static void inquiry_end(struct inquiry *q, int err)
{
    struct pool *p = q->pool;
    HASH_DEL(p->inquiries, q);
    waitq_wake(&p->volume->wakeup, &q->waiting, err);
    free(q);
}

static int inquiry_wait(struct inquiry *q, struct waiter *w)
{
    if (!q->call) {
        inquiry_end(q, -ENOMEM);
        return -ENOMEM;
    }
    waitq_park(&q->waiting, w);
    return STORE_WAIT;
}

static void looked(void *arg, const struct session_error *e, const struct session_info *info)
{
    struct inquiry *q = arg;
    struct pool *p = q->pool;
    int err = e->err;
    if (err == -EOPNOTSUPP)
        err = p->mute_ms ? 0 : -ENOENT; /* what a list does not have, is not */
    struct member *m = err ? NULL : get(p, q->name);
    if (m && e->err)
        m->ours = true;
    else if (m)
        m->epoch = p->epoch ? p->epoch : ++p->epoch;
    inquiry_end(q, err ? err : m ? 0 : -ENOMEM);
}

int pool_lookup(struct pool *p, struct waiter *w, const char *name, struct member **out)
{
    const char *why;
    int err = waiter_take_error(w);
    if (err)
        return err;
    struct member *m = find(p, name);
    struct inquiry *q = inquiry_of(p, name);
    if (m && pool_shows(p, m) && !(q && q->removes)) {
        *out = m;
        return 0;
    }
    if (session_identifier_check(name, &why))
        return strlen(name) > 255 ? -ENAMETOOLONG : -ENOENT;
    if (!q) {
        if (!(q = inquiry_new(p, name)))
            return -ENOMEM;
        q->call = session_find(p->volume->client.session, name, looked, q);
    }
    return inquiry_wait(q, w);
}

static void made(void *arg, const struct session_error *e)
{
    struct inquiry *q = arg;
    struct member *m = q->member;
    q->call = NULL;
    m->ours = !e->err;
    if (e->err)
        log_error("a session could not be made: %s",
                  e->message ? e->message : strerror(-e->err)); /* its mount is closed when idle */
    inquiry_end(q, e->err);
}

int pool_make(struct pool *p, struct waiter *w, const char *name, bool *begun, struct member **out)
{
    const char *why;
    int err = waiter_take_error(w);
    struct member *m = find(p, name);
    struct inquiry *q = inquiry_of(p, name);
    if (err && *begun)
        return err;
    if (q)
        return inquiry_wait(q, w);
    if (m && pool_shows(p, m)) {
        *out = m;
        return *begun ? 0 : -EEXIST;
    }
    if (session_identifier_check(name, &why)) {
        log_info("mkdir: %s", why);
        return -EINVAL;
    }
    if (close_gone(p, name)) {
        waitq_park(&p->closed, w); /* the one before has its place on disk */
        return STORE_WAIT;
    }
    if (!m && !(m = get(p, name)))
        return -ENOMEM;
    err = pool_open(p, m);
    m->ours = false; /* not before it is made */
    if (err || !(q = inquiry_new(p, name))) {
        drop_unused(p, m);
        return err ? err : -ENOMEM;
    }
    *begun = true;
    q->member = m;
    q->call = session_connect(m->mount->client.session, made, q); /* a data call: it allocates */
    return inquiry_wait(q, w);
}

static void removed(void *arg, const struct session_error *e)
{
    struct inquiry *q = arg;
    struct pool *p = q->pool;
    struct member *m = q->member;
    q->call = NULL;
    int err = e->err == -ENOENT ? 0 : e->err;
    if (err)
        log_error("a session could not be deleted: %s", e->message ? e->message : strerror(-err));
    else {
        HASH_DEL(p->by_name, m);
        m->gone = true;
    }
    inquiry_end(q, err);
    if (m->gone && m->mount)
        loop_timer_set(&p->idle, 0);
    else
        drop_unused(p, m);
}

static bool is_used(const struct mount *m)
{
    const struct inode *inode;
    if (m->requests || m->directories || !control_is_idle(m->control))
        return true;
    for (size_t at = 0; (inode = inode_next(store_inodes(m->store), &at));) {
        if (inode->pins)
            return true;
    }
    return false;
}

/* Whether it may go: 0, -errno or STORE_WAIT. */
static int may_remove(struct mount *m, struct waiter *w, bool force, uint64_t *ticket)
{
    struct store *s = m->store;
    struct store_stats stats;
    int err = mount_recover(m, w);
    if (!err && !force)
        err = store_refresh_all(s, w);
    if (!err)
        err = store_sync(s, w);
    store_get_stats(s, &stats);
    if (!err && !force && (store_inodes(s)->root->children || stats.hidden))
        err = -ENOTEMPTY;
    if (!err && is_used(m))
        err = -EBUSY;
    return err ? err : store_commit_names(s, w, ticket);
}

int pool_remove(struct pool *p, struct waiter *w, const char *name, bool force, uint64_t *ticket,
                bool *begun)
{
    struct inquiry *q = inquiry_of(p, name);
    struct member *m = find(p, name);
    if (q)
        return inquiry_wait(q, w);
    if (*begun)
        return waiter_take_error(w);
    if (!m || !pool_shows(p, m))
        return -ENOENT;
    int err = pool_open(p, m);
    err = err ? err : may_remove(m->mount, w, force, ticket);
    if (err)
        return err;
    if (!(q = inquiry_new(p, name)))
        return -ENOMEM;
    *begun = true;
    q->member = m;
    q->removes = true;
    q->call = session_end(p->volume->client.session, name, removed, q);
    return inquiry_wait(q, w);
}

/* --- all */

int pool_sync(struct pool *p, struct waiter *w)
{
    struct mount *m;
    int first = 0;
    DL_FOREACH (p->volume->mounts, m) {
        int err = store_sync(m->store, w);
        if (err == STORE_WAIT)
            return err;
        first = first ? first : err;
    }
    return first;
}

static void resume(void *arg, const char *name)
{
    struct pool *p = arg;
    struct member *m = get(p, name);
    if (m && pool_open(p, m) == 0)
        log_info("a session that was open is opened again: what is pending goes on");
}

void pool_begin(struct pool *p)
{
    if (p->mute_ms)
        tell_mute();
    open_mark_each(p->marks, resume, p);
}

struct mount *pool_root(struct pool *p)
{
    return &p->root;
}

const char *pool_trouble(const struct pool *p)
{
    return p->trouble;
}

void pool_get_stats(const struct pool *p, struct pool_stats *out)
{
    *out = (struct pool_stats){.hidden = p->hidden, .listable = !p->mute_ms, .away = p->away};
    for (uint32_t slot = 1; slot < p->slot_count; slot++) {
        const struct member *m = p->slots[slot];
        out->known += m && pool_shows(p, m);
        out->open += m && m->mount;
    }
}

/* What could not be sent is for the next mount. */
static void end_member(struct pool *p, struct member *m)
{
    struct store_stats s;
    store_get_stats(m->mount->store, &s);
    if (!s.dirty_files && !s.removals && jobs_are_idle(control_jobs(m->mount->control)))
        open_mark_remove(p->volume->loop, p->marks, m->name);
    mount_free(m->mount);
}

struct pool *pool_new(struct volume *v)
{
    struct pool *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->volume = v;
    p->first_free = 1;
    p->root.volume = v;
    p->root.config = v->config;
    p->root.loop = v->loop;
    p->root.client = v->client;
    p->root.notifier = v->notifier;
    loop_timer_init(&p->idle, v->loop, idle_look, p);
    p->marks = open_mark_directory(v->config->cache_dir, session_endpoint(v->client.session));
    if (!p->marks || !(p->root.control = control_new(&p->root))) {
        free(p->marks);
        free(p);
        return NULL;
    }
    loop_timer_set(&p->idle, idle_ms(p) / 4);
    return p;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    struct inquiry *q, *next;
    requests_end(&p->root, -ENOTCONN);
    HASH_ITER (hh, p->inquiries, q, next) {
        session_cancel(q->call);
        inquiry_end(q, -ENOTCONN);
    }
    session_cancel(p->listing);
    control_free(p->root.control); /* its commands may wait for what is now closed */
    loop_timer_stop(&p->idle);
    HASH_CLEAR(hh, p->by_name);
    for (uint32_t slot = 1; slot < p->slot_count; slot++) {
        struct member *m = p->slots[slot];
        if (m && m->mount)
            end_member(p, m);
        free(m);
    }
    free(p->slots);
    free(p->marks);
    free(p->trouble);
    free(p);
}
