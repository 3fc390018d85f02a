#include "acafs/pool_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "acafs/control.h"
#include "acafs/request.h"
#include "util/cleanup.h"
#include "util/log.h"

enum { SLOTS = 1 << (62 - SLOT_SHIFT) /* the first is the pool's root */ };

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

struct member *pool_find(const struct pool *p, const char *name)
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

const struct config *member_config(const struct pool *p, const struct member *m)
{
    return m->config ? m->config : p->volume->config;
}

/* Of most there are no others than those of all. */
static void set_up_config(const struct pool *p, struct member *m)
{
    _cleanup_free_ char *why = NULL;
    int err = config_of_session(p->volume->config, m->name, &m->config, &why);
    if (err)
        log_error("the settings of a session: %s", why ? why : strerror(-err));
}

static void free_member(struct member *m)
{
    if (m->config)
        config_free(m->config);
    free(m->config);
    free(m);
}

struct member *pool_get(struct pool *p, const char *name)
{
    struct member *m = pool_find(p, name);
    if (m)
        return m;
    size_t len = strlen(name);
    uint32_t slot = free_slot(p);
    if (!slot || !(m = calloc(1, sizeof *m + len + 1)))
        return NULL;
    memcpy(m->name, name, len);
    m->slot = slot;
    set_up_config(p, m);
    const struct config *c = member_config(p, m);
    m->mode = 0777 & ~c->umask;
    m->uid = c->uid == (uid_t)-1 ? p->volume->owner : c->uid;
    m->gid = c->gid == (gid_t)-1 ? p->volume->owner_group : c->gid;
    m->mtime.tv_sec = p->volume->since;
    p->slots[slot] = m;
    HASH_ADD_STR(p->by_name, name, m);
    return m;
}

void pool_drop_unused(struct pool *p, struct member *m)
{
    if (m->mount || m->lookups || m->ping || m->resume || pool_shows(p, m) ||
        pool_asked_about(p, m))
        return;
    if (!m->gone)
        HASH_DEL(p->by_name, m);
    p->slots[m->slot] = NULL;
    if (m->slot < p->first_free)
        p->first_free = m->slot;
    free_member(m);
}

void pool_forget(struct pool *p, struct member *m, uint64_t count)
{
    m->lookups -= count < m->lookups ? count : m->lookups;
    pool_drop_unused(p, m);
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

static void tell_of_all(void *arg, const char *option, const char *origin)
{
    log_warning("%s: %s is the same for all sessions of a pool that is mounted whole", origin,
                option);
}

void pool_begin(struct pool *p)
{
    config_each_of_all(p->volume->config, tell_of_all, NULL);
    pool_names_begin(p);
    pool_resume(p);
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
    *out = (struct pool_stats){
        .hidden = p->hidden, .listable = !p->mute_ms, .away = p->away, .open = p->open_count};
    for (uint32_t slot = 1; slot < p->slot_count; slot++)
        out->known += p->slots[slot] && pool_shows(p, p->slots[slot]);
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
    pool_keep_init(p);
    if (pool_open_init(p) || !(p->root.control = control_new(&p->root))) {
        pool_free(p);
        return NULL;
    }
    return p;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    requests_end(&p->root, -ENOTCONN);
    pool_names_free(p);
    pool_keep_free(p);
    control_free(p->root.control); /* its commands may wait for what is now closed */
    pool_open_free(p);
    HASH_CLEAR(hh, p->by_name);
    for (uint32_t slot = 1; slot < p->slot_count; slot++) {
        if (p->slots[slot])
            free_member(p->slots[slot]);
    }
    free(p->slots);
    free(p);
}
