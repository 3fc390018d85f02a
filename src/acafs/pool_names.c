/* What the pool tells of its sessions, and orders to make one or delete it. */
#include "acafs/pool_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "acafs/control.h"
#include "acafs/notify.h"
#include "util/log.h"
#include "util/text.h"

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

/* --- names that were deleted here while a list was under way, which may still hold them */

struct grave {
    struct grave *next;
    int64_t when_ms;
    char name[];
};

static void bury(struct pool *p, const char *name)
{
    size_t len = strlen(name);
    struct grave *g = p->listing ? calloc(1, sizeof *g + len + 1) : NULL;
    if (!g)
        return;
    g->when_ms = clock_ms();
    memcpy(g->name, name, len);
    LL_PREPEND(p->graves, g);
}

static bool is_buried(const struct pool *p, const char *name)
{
    const struct grave *g;
    LL_FOREACH (p->graves, g) {
        if (strcmp(g->name, name) == 0)
            return true;
    }
    return false;
}

static void clear_graves(struct pool *p)
{
    struct grave *g, *next;
    LL_FOREACH_SAFE (p->graves, g, next) {
        free(g);
    }
    p->graves = NULL;
}

/* --- the list */

/* The kernel may believe that there is no such name. */
static void tell_new(const struct pool *p, const char *name)
{
    if (p->missed_ms && clock_ms() - p->missed_ms <= p->volume->config->attr_timeout_ms)
        notifier_entry(&p->root, INODE_ROOT_ID, name);
}

static void take_name(struct pool *p, const char *name)
{
    struct member *m = pool_find(p, name);
    bool shown = m && (m->ours || m->epoch == p->epoch - 1);
    if (!m && is_buried(p, name))
        return;
    if (!m && !(m = pool_get(p, name))) {
        p->hidden++;
        return;
    }
    m->epoch = p->epoch;
    if (!shown)
        tell_new(p, name);
}

/* Takes what the pool says that it has: the rest is not there any more. */
static void take_list(struct pool *p, const struct session_names *names)
{
    p->epoch++;
    p->hidden = names->hidden;
    for (size_t i = 0; i < names->count; i++)
        take_name(p, names->names[i]);
    for (uint32_t slot = 1; slot < p->slot_count; slot++) {
        struct member *m = p->slots[slot];
        if (!m || m->gone || pool_shows(p, m))
            continue;
        if (m->lookups)
            notifier_entry(&p->root, INODE_ROOT_ID, m->name);
        pool_drop_unused(p, m);
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
    clear_graves(p);
    waitq_wake(&p->volume->wakeup, &p->listed, p->away);
}

void pool_ask_list(struct pool *p)
{
    p->asked_ms = clock_ms();
    p->listing = session_sessions(p->volume->client.session, list_came, p);
}

/* Waits for a list that was asked for then or later, where the pool tells. */
static int listed_since(struct pool *p, struct waiter *w, int64_t oldest)
{
    if (p->listed_ms >= oldest || (p->mute_ms && clock_ms() - p->mute_ms < ASK_AGAIN_MS))
        return 0;
    if (!p->listing)
        pool_ask_list(p);
    if (!p->listing)
        return -ENOMEM;
    waitq_park(&p->listed, w);
    return STORE_WAIT;
}

int pool_fresh(struct pool *p, struct waiter *w)
{
    int err = waiter_take_error(w);
    if (err)
        return err == -EACCES || !p->listed_ms ? err : 0;
    /* From the beginning of the operation on, or not older than may be. */
    int64_t oldest = clock_ms() - p->volume->config->attr_timeout_ms;
    return listed_since(p, w, oldest < w->born ? oldest : w->born);
}

void pool_names_begin(struct pool *p)
{
    if (p->mute_ms)
        tell_mute();
}

/* --- whether asking makes a session. It must not: names are looked for that nobody means, by file
 * managers and shells, and before each that is made. What the service does with GET session of an
 * identifier that it does not know is not told, so that is found out with one that is nobody's;
 * where it makes one, names are looked for in the list. */

static void probe_ended(void *arg, const struct session_error *e)
{
    struct pool *p = arg;
    p->probing = NULL;
    if (e->err)
        log_debug("the session that asking made: %s", e->message ? e->message : strerror(-e->err));
    waitq_wake(&p->volume->wakeup, &p->probed, 0);
}

static void probed(void *arg, const struct session_error *e, const struct session_info *info)
{
    struct pool *p = arg;
    int err = e->err == -ENOENT || e->err == -EOPNOTSUPP ? 0 : e->err;
    p->probing = NULL;
    if (!err)
        p->asking = e->err ? ASKING_HARMLESS : ASKING_MAKES_ONE;
    if (!e->err) {
        log_warning("this pool makes a session of each name that is asked for: its list is asked "
                    "instead");
        p->probing = session_end(p->volume->client.session, p->probe, probe_ended, p);
    }
    if (!p->probing)
        waitq_wake(&p->volume->wakeup, &p->probed, err);
}

/* Waits until it is known. */
static int settle_asking(struct pool *p, struct waiter *w)
{
    if (p->asking != ASKING_UNKNOWN && !p->probing)
        return 0;
    if (!p->probing) {
        text_uuid(p->probe);
        p->probing = session_find(p->volume->client.session, p->probe, probed, p);
    }
    if (!p->probing)
        return -ENOMEM;
    waitq_park(&p->probed, w);
    return STORE_WAIT;
}

/* --- one name */

bool pool_asked_about(const struct pool *p, const struct member *m)
{
    struct inquiry *q;
    HASH_FIND_STR(p->inquiries, m->name, q);
    return q && q->member == m;
}

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
    struct member *m = err ? NULL : pool_get(p, q->name);
    if (m && e->err)
        m->maybe = true;
    else if (m)
        m->epoch = p->epoch ? p->epoch : ++p->epoch;
    inquiry_end(q, err ? err : m ? 0 : -ENOMEM);
}

/* As pool_lookup(), of a name that is not known. */
static int look_for(struct pool *p, struct waiter *w, const char *name)
{
    struct inquiry *q = inquiry_of(p, name);
    if (!q) {
        if (!(q = inquiry_new(p, name)))
            return -ENOMEM;
        q->call = session_find(p->volume->client.session, name, looked, q);
    }
    return inquiry_wait(q, w);
}

static int look_in_list(struct pool *p, struct waiter *w, const char *name)
{
    int err = listed_since(p, w, w->born);
    if (err)
        return err;
    struct member *m = p->mute_ms ? pool_get(p, name) : pool_find(p, name);
    if (!m)
        return p->mute_ms ? -ENOMEM : -ENOENT;
    m->maybe = p->mute_ms;
    return m->maybe || pool_shows(p, m) ? 0 : -ENOENT;
}

static void note_missed(struct pool *p, int err)
{
    if (err == -ENOENT)
        p->missed_ms = clock_ms();
}

int pool_lookup(struct pool *p, struct waiter *w, const char *name, struct member **out)
{
    const char *why;
    int err = waiter_take_error(w);
    note_missed(p, err);
    if (err)
        return err;
    struct member *m = pool_find(p, name);
    struct inquiry *q = inquiry_of(p, name);
    if (m && (pool_shows(p, m) || m->maybe) && !(q && q->removes)) {
        *out = m;
        return 0;
    }
    if (session_identifier_check(name, &why))
        return strlen(name) > 255 ? -ENAMETOOLONG : -ENOENT;
    if (q)
        return inquiry_wait(q, w);
    err = settle_asking(p, w);
    if (!err && p->asking != ASKING_MAKES_ONE)
        err = look_for(p, w, name);
    else if (!err && !(err = look_in_list(p, w, name)))
        *out = pool_find(p, name);
    note_missed(p, err);
    return err;
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
    struct member *m = pool_find(p, name);
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
    if (pool_close_gone(p, name)) {
        waitq_park(&p->closed, w); /* the one before has its place on disk */
        return STORE_WAIT;
    }
    if (!m && !(m = pool_get(p, name)))
        return -ENOMEM;
    err = pool_open(p, m);
    m->ours = false; /* not before it is made */
    if (err || !(q = inquiry_new(p, name))) {
        pool_drop_unused(p, m);
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
        bury(p, m->name);
    }
    inquiry_end(q, err);
    if (err && m->mount)
        store_expect_new(m->mount->store, false);
    if (m->gone && m->mount)
        pool_look_idle(p);
    else
        pool_drop_unused(p, m);
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
    /* No listing may be under way that reaches the pool after the order, and makes a new one. */
    if (!err)
        err = store_refresh_all(s, w);
    if (err && err != STORE_WAIT && force)
        err = 0;
    if (!err)
        err = store_sync(s, w);
    store_get_stats(s, &stats);
    if (!err && !force && (store_inodes(s)->root->children || stats.hidden))
        err = -ENOTEMPTY;
    if (!err && is_used(m))
        err = -EBUSY;
    return err ? err : store_commit_names(s, w, ticket);
}

int pool_remove(struct pool *p, struct waiter *w, const char *name, uint64_t *ticket, bool *begun)
{
    struct inquiry *q = inquiry_of(p, name);
    struct member *m = pool_find(p, name);
    if (q)
        return inquiry_wait(q, w);
    if (*begun)
        return waiter_take_error(w);
    if (!m || !pool_shows(p, m))
        return -ENOENT;
    if (member_config(p, m)->read_only)
        return -EROFS;
    int err = pool_open(p, m);
    err = err ? err : may_remove(m->mount, w, m->mount->config->force, ticket);
    if (err)
        return err;
    if (!(q = inquiry_new(p, name)))
        return -ENOMEM;
    *begun = true;
    q->member = m;
    q->removes = true;
    pool_keep_stop(m);
    store_expect_new(m->mount->store, true); /* nothing that uses it */
    q->call = session_end(p->volume->client.session, name, removed, q);
    return inquiry_wait(q, w);
}

void pool_names_free(struct pool *p)
{
    struct inquiry *q, *next;
    HASH_ITER (hh, p->inquiries, q, next) {
        session_cancel(q->call);
        inquiry_end(q, -ENOTCONN);
    }
    session_cancel(p->listing);
    session_cancel(p->probing);
    clear_graves(p);
    free(p->trouble);
}
