/* Sessions that are to be kept from expiring and are not open, where nothing but their entry in the
 * table is left: each is used in time, by its identifier.
 *
 * It is looked for first, for use of one that is gone would make another. One that expired all the
 * same, or was deleted elsewhere, is let go: there is nothing of it here that could be put back. */
#include "acafs/pool_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "acafs/notify.h"
#include "util/log.h"
#include "util/text.h"

enum {
    PINGS_MAX = 4,         /* at once: whoever waits for something else comes first */
    PING_MS = 60000,       /* where the pool does not tell when a session expires */
    PING_LEAST_MS = 2000,  /* between two of the same */
    PING_AGAIN_MS = 10000, /* after one that failed */
};

struct ping {
    struct ping *prev, *next; /* in pool->pings */
    struct pool *pool;
    struct member *member;
    struct session_call *call;
    struct timespec expires; /* as told; tv_nsec -1: not known */
};

static bool is_kept(const struct pool *p, const struct member *m)
{
    const struct config *c = member_config(p, m);
    return m->ours && !m->gone && !m->mount && m->ping_ms && (c->keepalive || client_is_local(c));
}

static int64_t due_ms(const struct timespec *expires)
{
    struct timespec now;
    int64_t left = PING_MS;
    clock_gettime(CLOCK_REALTIME, &now);
    if (expires->tv_nsec >= 0)
        left = (expires->tv_sec - now.tv_sec) * 1000 / 3;
    return clock_ms() + (left < PING_LEAST_MS ? PING_LEAST_MS : left);
}

static void look_by(struct pool *p, int64_t when)
{
    int64_t now = clock_ms();
    loop_timer_set(&p->keep, when > now ? when - now : 0);
}

static void ping_free(struct ping *ping)
{
    ping->member->ping = NULL;
    DL_DELETE(ping->pool->pings, ping);
    free(ping);
}

static void ping_end(struct ping *ping, int64_t next_ms)
{
    struct pool *p = ping->pool;
    struct member *m = ping->member;
    ping_free(ping);
    m->ping_ms = next_ms;
    look_by(p, 0);
    pool_drop_unused(p, m);
}

static void used(void *arg, const struct session_error *e)
{
    struct ping *ping = arg;
    ping->call = NULL;
    if (e->err)
        log_warning("a session could not be kept from expiring: %s",
                    e->message ? e->message : strerror(-e->err));
    ping_end(ping, e->err ? clock_ms() + PING_AGAIN_MS : due_ms(&ping->expires));
}

static void let_go(struct ping *ping)
{
    struct pool *p = ping->pool;
    struct member *m = ping->member;
    if (!m->mount) {
        m->ours = false;
        m->epoch = 0;
        if (m->lookups)
            notifier_entry(&p->root, INODE_ROOT_ID, m->name);
        log_warning("a session that was to be kept is not there any more");
    }
    ping_end(ping, 0);
}

static void found(void *arg, const struct session_error *e, const struct session_info *info)
{
    struct ping *ping = arg;
    struct pool *p = ping->pool;
    ping->call = NULL;
    if (e->err == -ENOENT) {
        let_go(ping);
        return;
    }
    /* A pool that does not tell whether there is one has it used all the same. */
    if (e->err && e->err != -EOPNOTSUPP) {
        ping_end(ping, clock_ms() + PING_AGAIN_MS);
        return;
    }
    if (info)
        ping->expires = info->expires;
    ping->call = session_touch(p->volume->client.session, ping->member->name, used, ping);
    if (!ping->call)
        ping_end(ping, clock_ms() + PING_AGAIN_MS);
}

static void begin(struct pool *p, struct member *m)
{
    struct ping *ping = calloc(1, sizeof *ping);
    m->ping_ms = clock_ms() + PING_AGAIN_MS;
    if (!ping)
        return;
    *ping = (struct ping){.pool = p, .member = m, .expires.tv_nsec = -1};
    m->ping = ping;
    DL_APPEND(p->pings, ping);
    ping->call = session_find(p->volume->client.session, m->name, found, ping);
    if (!ping->call)
        ping_free(ping);
}

static void look(void *arg)
{
    struct pool *p = arg;
    const struct ping *ping;
    unsigned under_way;
    int64_t now = clock_ms(), next = INT64_MAX;
    DL_COUNT(p->pings, ping, under_way);
    for (uint32_t slot = 1; slot < p->slot_count; slot++) {
        struct member *m = p->slots[slot];
        if (!m || m->ping || !is_kept(p, m) || pool_asked_about(p, m))
            continue;
        if (m->ping_ms <= now && under_way < PINGS_MAX && !p->volume->ending)
            begin(p, m);
        if (m->ping)
            under_way++;
        else if (m->ping_ms < next)
            next = m->ping_ms;
    }
    if (next < INT64_MAX && under_way < PINGS_MAX)
        look_by(p, next); /* else: when one of them is over */
}

void pool_keep_init(struct pool *p)
{
    loop_timer_init(&p->keep, p->volume->loop, look, p);
}

void pool_keep(struct pool *p, struct member *m, const struct timespec *expires)
{
    m->ping_ms = due_ms(expires);
    if (is_kept(p, m))
        look_by(p, 0);
}

void pool_keep_stop(struct member *m)
{
    if (!m->ping)
        return;
    session_cancel(m->ping->call);
    ping_free(m->ping);
}

void pool_keep_free(struct pool *p)
{
    loop_timer_stop(&p->keep);
    while (p->pings) {
        session_cancel(p->pings->call);
        ping_free(p->pings);
    }
}
