#include "acafs/mount.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "acafs/autorun.h"
#include "acafs/control.h"
#include "acafs/jobs.h"
#include "acafs/notify.h"
#include "acafs/passthrough.h"
#include "acafs/pool.h"
#include "acafs/request.h"
#include "util/cleanup.h"
#include "util/log.h"

struct mount *volume_mount(const struct volume *v, fuse_ino_t ino)
{
    if (!v->pool)
        return v->mounts;
    const struct member *member = pool_at(v->pool, ino);
    return member ? member->mount : pool_root(v->pool);
}

static int open_store(struct mount *m, uint64_t first_id)
{
    const struct volume *v = m->volume;
    const struct config *c = m->config;
    const struct store_options options = {
        .cache_dir = c->cache_dir,
        .cache_size = c->cache_size,
        .room = v->room,
        .attr_timeout_ms = c->attr_timeout_ms,
        .max_uploads = c->max_transfers,
        .uid = c->uid == (uid_t)-1 ? v->owner : c->uid,
        .gid = c->gid == (gid_t)-1 ? v->owner_group : c->gid,
        .umask = c->umask,
        .restore = c->restore,
        .keepalive = c->keepalive || client_is_local(c), /* costs nothing there */
        .first_id = first_id,
        .events = notifier_events(m),
    };
    _cleanup_free_ char *why = NULL;
    int err = store_new(m->loop, m->client.session, &options, &m->store, &why);
    if (err == -EBUSY)
        log_error("%s", why ? why : "this session is mounted already on this machine");
    else if (err)
        log_error("cache: %s", why ? why : strerror(-err));
    return err;
}

int mount_new(struct volume *v, const struct config *config, fuse_ino_t slot,
              struct session *session, uint64_t first_id, struct mount **out)
{
    struct mount *m = calloc(1, sizeof *m);
    if (!m) {
        session_free(session);
        return -ENOMEM;
    }
    m->volume = v;
    m->slot = slot;
    m->config = config;
    m->loop = v->loop;
    m->notifier = v->notifier;
    m->client = v->client;
    m->client.session = session;
    DL_APPEND(v->mounts, m);
    int err = open_store(m, first_id);
    if (!err && !(m->control = control_new(m)))
        err = -ENOMEM;
    const char *glob = config->autorun;
    if (!err && glob && !(m->autorun = autorun_new(m, control_jobs(m->control), glob)))
        err = -ENOMEM;
    if (err) {
        mount_free(m);
        return err;
    }
    *out = m;
    return 0;
}

void mount_free(struct mount *m)
{
    if (!m)
        return;
    DL_DELETE(m->volume->mounts, m);
    waiter_leave(&m->recovery);
    waiter_leave(&m->drain);
    requests_end(m, -ENOTCONN);
    mount_close_directories(m);
    passthrough_free(m);
    autorun_free(m->autorun);
    control_free(m->control);
    store_free(m->store);
    session_free(m->client.session);
    free(m);
}

int mount_recover(struct mount *m, struct waiter *w)
{
    if (m->recovered)
        return 0;
    int err = store_recover(m->store, w);
    m->recovered = !err;
    if (m->recovered && m->volume->pool)
        jobs_begin(control_jobs(m->control)); /* of the only session: when it is mounted */
    return err;
}

static void recovery_woken(struct waiter *w)
{
    mount_recover((struct mount *)((char *)w - offsetof(struct mount, recovery)), w);
}

void mount_recover_begin(struct mount *m)
{
    waiter_init(&m->recovery, recovery_woken);
    mount_recover(m, &m->recovery);
}

/* --- the end */

/* Whether nothing is left to wait for. */
static bool drain(struct mount *m)
{
    int err = control_drain(m->control, &m->drain);
    if (err != STORE_WAIT)
        err = store_sync(m->store, &m->drain);
    if (err != STORE_WAIT)
        m->draining = DRAINED;
    return m->draining == DRAINED;
}

static void drain_woken(struct waiter *w)
{
    struct mount *m = (struct mount *)((char *)w - offsetof(struct mount, drain));
    if (drain(m))
        m->drained(m->drained_arg);
}

bool mount_drain(struct mount *m, void (*drained)(void *arg), void *arg)
{
    if (m->draining)
        return m->draining == DRAINED;
    m->draining = DRAIN_WAITS;
    m->drained = drained;
    m->drained_arg = arg;
    waiter_init(&m->drain, drain_woken);
    return drain(m);
}

void volume_get_stats(const struct volume *v, struct store_stats *sum)
{
    const struct mount *m;
    *sum = (struct store_stats){0};
    DL_FOREACH (v->mounts, m) {
        struct store_stats s;
        store_get_stats(m->store, &s);
        sum->inodes += s.inodes;
        sum->hidden += s.hidden;
        sum->cached_bytes += s.cached_bytes;
        sum->cached_files += s.cached_files;
        sum->dirty_files += s.dirty_files;
        sum->failed_files += s.failed_files;
        sum->removals += s.removals;
        sum->conflicts += s.conflicts;
        sum->lost += s.lost;
        sum->dirty_bytes += s.dirty_bytes;
        sum->downloads += s.downloads;
        sum->uploads += s.uploads;
        sum->downloads_ahead += s.downloads_ahead;
        sum->refreshes += s.refreshes;
        sum->cache_hits += s.cache_hits;
        sum->away = sum->away ? sum->away : s.away;
        sum->silent = sum->silent || s.silent;
    }
}
