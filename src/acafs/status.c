#include "acafs/status.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "acafs/control.h"
#include "acafs/pool.h"

enum {
    PENDING_MAX = 1000,     /* files named of all sessions of a pool */
    DELETIONS_LISTED = 100, /* of many more, mostly */
};

static void add_time(cJSON *object, const char *name, time_t seconds)
{
    struct tm tm;
    char text[32];
    gmtime_r(&seconds, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    cJSON_AddStringToObject(object, name, text);
}

static void add_pending(void *arg, const struct store_pending *p)
{
    cJSON *file = cJSON_CreateObject();
    struct buf path = {0};
    cJSON_AddStringToObject(file, "path", inode_path(p->inode, &path) ? path.data : p->inode->name);
    buf_free(&path);
    cJSON_AddNumberToObject(file, "size", (double)p->size);
    cJSON_AddNumberToObject(file, "tries", p->tries);
    cJSON_AddBoolToObject(file, "uploading", p->uploading);
    cJSON_AddBoolToObject(file, "kept", p->kept);
    cJSON_AddBoolToObject(file, "failed", p->failed);
    if (p->err)
        cJSON_AddStringToObject(file, "error", strerror(-p->err));
    else
        cJSON_AddNullToObject(file, "error");
    cJSON_AddItemToArray(arg, file);
}

static void add_deletion(void *arg, const struct store_deletion *d)
{
    struct buf path = {0};
    if (cJSON_GetArraySize(arg) >= DELETIONS_LISTED || !inode_child_path(d->dir, d->name, &path))
        return;
    cJSON *deletion = cJSON_CreateObject();
    cJSON_AddStringToObject(deletion, "path", path.data);
    buf_free(&path);
    cJSON_AddNumberToObject(deletion, "tries", d->tries);
    if (d->err)
        cJSON_AddStringToObject(deletion, "error", strerror(-d->err));
    else
        cJSON_AddNullToObject(deletion, "error");
    cJSON_AddItemToArray(arg, deletion);
}

static void add_session(cJSON *status, const struct mount *m)
{
    struct session_state state;
    session_get_state(m->client.session, &state);
    cJSON_AddStringToObject(status, "pool", m->config->endpoint);
    cJSON_AddStringToObject(status, "session", session_identifier(m->client.session));
    cJSON_AddStringToObject(status, "api_version", session_api_version(m->client.session));
    if (state.etag)
        cJSON_AddStringToObject(status, "etag", state.etag);
    else
        cJSON_AddNullToObject(status, "etag");
    if (state.expires.tv_nsec >= 0)
        add_time(status, "expires", state.expires.tv_sec);
    else
        cJSON_AddNullToObject(status, "expires");
    cJSON_AddNumberToObject(status, "recycled", (double)state.generation);
}

static void add_head(cJSON *status, const struct volume *v)
{
    cJSON_AddStringToObject(status, "version", ACAFS_VERSION);
    cJSON_AddStringToObject(status, "mountpoint", v->mountpoint);
    cJSON_AddNumberToObject(status, "pid", getpid());
    cJSON_AddNumberToObject(status, "unmount_timeout_ms", (double)v->config->unmount_timeout_ms);
    add_time(status, "since", v->since);
}

static void add_credential(cJSON *status, const struct client *client)
{
    cJSON_AddItemToObject(status, "credential",
                          client->credential ? credential_status(client->credential)
                                             : cJSON_CreateNull());
}

static void add_away(cJSON *status, int err, bool silent)
{
    cJSON_AddBoolToObject(status, "reachable", !err && !silent);
    if (err)
        cJSON_AddStringToObject(status, "away", strerror(-err));
    else
        cJSON_AddNullToObject(status, "away");
}

static cJSON *add_cache(cJSON *status, const struct config *c, const struct store_stats *s)
{
    cJSON *cache = cJSON_AddObjectToObject(status, "cache");
    cJSON_AddNumberToObject(cache, "bytes", (double)s->cached_bytes);
    cJSON_AddNumberToObject(cache, "limit", (double)c->cache_size);
    cJSON_AddNumberToObject(cache, "files", (double)s->cached_files);
    cJSON_AddNumberToObject(cache, "inodes", (double)s->inodes);
    cJSON_AddNumberToObject(cache, "hidden_names", (double)s->hidden);
    return cache;
}

static void add_counters(cJSON *status, const struct http *http, const struct store_stats *s)
{
    struct http_stats h;
    http_get_stats(http, &h);
    cJSON *counters = cJSON_AddObjectToObject(status, "counters");
    cJSON_AddNumberToObject(counters, "requests", (double)h.requests);
    cJSON_AddNumberToObject(counters, "attempts", (double)h.attempts);
    cJSON_AddNumberToObject(counters, "errors", (double)h.errors);
    cJSON_AddNumberToObject(counters, "bytes_in", (double)h.bytes_in);
    cJSON_AddNumberToObject(counters, "bytes_out", (double)h.bytes_out);
    cJSON_AddNumberToObject(counters, "downloads", (double)s->downloads);
    cJSON_AddNumberToObject(counters, "downloads_ahead", (double)s->downloads_ahead);
    cJSON_AddNumberToObject(counters, "uploads", (double)s->uploads);
    cJSON_AddNumberToObject(counters, "refreshes", (double)s->refreshes);
    cJSON_AddNumberToObject(counters, "cache_hits", (double)s->cache_hits);
}

static void add_troubles(cJSON *status, const struct store_stats *s)
{
    cJSON_AddNumberToObject(status, "pending_deletes", (double)s->removals);
    cJSON_AddNumberToObject(status, "failed", (double)s->failed_files);
    cJSON_AddNumberToObject(status, "conflicts", (double)s->conflicts);
    cJSON_AddNumberToObject(status, "lost", (double)s->lost);
}

cJSON *status_json(struct mount *m, const struct jobs *jobs)
{
    cJSON *status = cJSON_CreateObject();
    struct store_stats s;
    store_get_stats(m->store, &s);
    add_head(status, m->volume);
    add_session(status, m);
    add_credential(status, &m->client);
    add_away(status, s.away, s.silent);
    store_each_pending(m->store, add_pending, cJSON_AddArrayToObject(status, "pending"));
    add_troubles(status, &s);
    store_each_removal(m->store, add_deletion, cJSON_AddArrayToObject(status, "deleting"));
    cJSON_AddStringToObject(add_cache(status, m->config, &s), "directory",
                            store_directory(m->store));
    add_counters(status, m->client.http, &s);
    cJSON_AddNumberToObject(status, "jobs_waiting", jobs_waiting(jobs));
    return status;
}

/* --- of a whole pool */

static unsigned all_jobs_waiting(const struct volume *v)
{
    const struct mount *m;
    unsigned n = 0;
    DL_FOREACH (v->mounts, m) {
        n += jobs_waiting(control_jobs(m->control));
    }
    return n;
}

/* The first of them; of how many there are more. */
struct all_pending {
    const struct mount *mount;
    cJSON *list;
    unsigned listed, more;
};

/* Paths are those in the mount: the session's directory first. */
static void add_one_pending(void *arg, const struct store_pending *p)
{
    struct all_pending *all = arg;
    struct buf path = {0};
    if (all->listed >= PENDING_MAX) {
        all->more++;
        return;
    }
    all->listed++;
    add_pending(all->list, p);
    const cJSON *file = all->list->child->prev;
    cJSON *old = cJSON_GetObjectItemCaseSensitive(file, "path");
    const char *session = session_identifier(all->mount->client.session);
    if (!buf_addf(&path, "%s/%s", session, old->valuestring))
        cJSON_SetValuestring(old, path.data);
    buf_free(&path);
}

static void add_all_pending(cJSON *status, const struct volume *v, const struct store_stats *s)
{
    struct all_pending all = {.list = cJSON_AddArrayToObject(status, "pending")};
    DL_FOREACH (v->mounts, all.mount) {
        store_each_pending(all.mount->store, add_one_pending, &all);
    }
    cJSON_AddNumberToObject(status, "pending_more", all.more);
    cJSON_AddNumberToObject(status, "pending_bytes", (double)s->dirty_bytes);
}

static void add_sessions(cJSON *status, const struct pool_stats *p)
{
    cJSON *sessions = cJSON_AddObjectToObject(status, "sessions");
    cJSON_AddNumberToObject(sessions, "known", p->known);
    cJSON_AddNumberToObject(sessions, "open", p->open);
    cJSON_AddNumberToObject(sessions, "hidden", (double)p->hidden);
    cJSON_AddBoolToObject(sessions, "listed", p->listable);
}

cJSON *status_pool_json(const struct volume *v)
{
    cJSON *status = cJSON_CreateObject();
    struct store_stats s;
    struct pool_stats p;
    volume_get_stats(v, &s);
    pool_get_stats(v->pool, &p);
    add_head(status, v);
    cJSON_AddStringToObject(status, "pool", v->config->endpoint);
    add_sessions(status, &p);
    add_credential(status, &v->client);
    add_away(status, s.away ? s.away : p.away, s.silent);
    add_all_pending(status, v, &s);
    add_troubles(status, &s);
    add_cache(status, v->config, &s);
    add_counters(status, v->client.http, &s);
    cJSON_AddNumberToObject(status, "jobs_waiting", all_jobs_waiting(v));
    return status;
}

static void metric(struct buf *out, const char *type, const char *name, const char *help,
                   double value)
{
    buf_addf(out, "# HELP acafs_%s %s\n# TYPE acafs_%s %s\nacafs_%s %.17g\n", name, help, name,
             type, name, value);
}

static void add_meter_outcomes(struct buf *out, const struct http *http)
{
    buf_adds(out, "# HELP acafs_http_results_total Requests that are over, by kind and result.\n"
                  "# TYPE acafs_http_results_total counter\n");
    for (unsigned kind = 0; kind < HTTP_KINDS; kind++) {
        const struct http_meter *m = http_get_meter(http, kind);
        for (unsigned i = 0; i < HTTP_OUTCOMES; i++)
            buf_addf(out, "acafs_http_results_total{kind=\"%s\",result=\"%s\"} %llu\n",
                     http_kind_name(kind), http_outcome_name(i),
                     (unsigned long long)m->outcomes[i]);
    }
}

static void add_meter_times(struct buf *out, const struct http *http)
{
    static const char name[] = "acafs_http_duration_seconds";
    buf_addf(out, "# HELP %s How long requests took, retries included.\n# TYPE %s histogram\n",
             name, name);
    for (unsigned kind = 0; kind < HTTP_KINDS; kind++) {
        const struct http_meter *m = http_get_meter(http, kind);
        const char *label = http_kind_name(kind);
        unsigned long long count = 0;
        for (unsigned i = 0; i < HTTP_BUCKETS; i++) {
            count += m->buckets[i];
            buf_addf(out, "%s_bucket{kind=\"%s\",le=\"%g\"} %llu\n", name, label,
                     (double)http_bucket_bound(i) / 1000, count);
        }
        count += m->buckets[HTTP_BUCKETS];
        buf_addf(out, "%s_bucket{kind=\"%s\",le=\"+Inf\"} %llu\n", name, label, count);
        buf_addf(out, "%s_sum{kind=\"%s\"} %.3f\n%s_count{kind=\"%s\"} %llu\n", name, label,
                 (double)m->milliseconds / 1000, name, label, count);
    }
}

static void add_pool_metrics(struct buf *out, const struct pool *pool)
{
    struct pool_stats p;
    pool_get_stats(pool, &p);
    metric(out, "gauge", "sessions", "Sessions shown.", p.known);
    metric(out, "gauge", "sessions_open", "Of these, opened.", p.open);
}

int status_metrics(struct mount *m, const struct jobs *jobs, struct buf *out)
{
    struct store_stats s;
    struct http_stats h;
    if (jobs)
        store_get_stats(m->store, &s);
    else
        volume_get_stats(m->volume, &s);
    http_get_stats(m->client.http, &h);
    metric(out, "counter", "http_requests_total", "Requests to the pool.", (double)h.requests);
    metric(out, "counter", "http_attempts_total", "Attempts, retries included.",
           (double)h.attempts);
    metric(out, "counter", "http_errors_total", "Requests that failed.", (double)h.errors);
    metric(out, "counter", "received_bytes_total", "Bytes received.", (double)h.bytes_in);
    metric(out, "counter", "sent_bytes_total", "Bytes sent.", (double)h.bytes_out);
    metric(out, "counter", "downloads_total", "Files fetched.", (double)s.downloads);
    metric(out, "counter", "uploads_total", "Files sent.", (double)s.uploads);
    metric(out, "counter", "listings_total", "Listings asked for.", (double)s.refreshes);
    metric(out, "counter", "cache_hits_total", "Opens of files that were at hand.",
           (double)s.cache_hits);
    metric(out, "gauge", "cache_bytes", "Content on local disk.", (double)s.cached_bytes);
    metric(out, "gauge", "inodes", "Names known.", (double)s.inodes);
    metric(out, "gauge", "pending_files", "Files not on the server yet.", (double)s.dirty_files);
    metric(out, "gauge", "pending_bytes", "Their size.", (double)s.dirty_bytes);
    metric(out, "gauge", "pending_deletes", "Names not deleted on the server yet.",
           (double)s.removals);
    metric(out, "gauge", "failed_files", "Of these, refused by the pool.", (double)s.failed_files);
    metric(out, "counter", "conflicts_total", "Files that somebody else changed as well.",
           (double)s.conflicts);
    metric(out, "counter", "lost_files_total", "Files of recycled sessions kept aside.",
           (double)s.lost);
    metric(out, "gauge", "jobs_waiting", "Jobs queued or running.",
           jobs ? jobs_waiting(jobs) : all_jobs_waiting(m->volume));
    if (!jobs)
        add_pool_metrics(out, m->volume->pool);
    metric(out, "gauge", "pool_away", "1 while the pool does not answer.",
           s.away || s.silent ? 1 : 0);
    if (m->client.credential && credential_expires(m->client.credential))
        metric(out, "gauge", "token_expiry_seconds", "When the token held ends, in Unix time.",
               (double)credential_expires(m->client.credential));
    add_meter_outcomes(out, m->client.http);
    add_meter_times(out, m->client.http);
    return 0;
}
