/* URLs and headers: what goes over the wire, old and new. */
#include "session/private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

void wire_defaults(const struct session *s, struct http_request *r)
{
    r->unix_socket = s->unix_socket;
    r->auth = s->auth;
    r->fd = r->fd ? r->fd : -1;
}

void wire_answer(const struct http_result *r, struct answer *out)
{
    *out = (struct answer){
        .status = r->status,
        .body = r->body,
        .len = r->body_len,
        .content_type = http_header(r->call, "Content-Type"),
        .retry_after = http_header(r->call, "Retry-After"),
        .supported_versions = http_header(r->call, "api-supported-versions"),
        .error_code = http_header(r->call, "x-ms-error-code"),
        .www_authenticate = http_header(r->call, "WWW-Authenticate"),
    };
}

void wire_error(const struct http_result *r, struct session_error *e)
{
    memset(e, 0, sizeof *e);
    e->err = r->err;
    e->message = strdup(r->why);
}

bool known_note(struct known *k, const char *value)
{
    if (!value || !*value || (k->now && strcmp(k->now, value) == 0) ||
        (k->before && strcmp(k->before, value) == 0))
        return false;
    bool changed = k->now != NULL;
    free(k->before);
    k->before = k->now;
    k->now = strdup(value);
    return changed;
}

void known_forget(struct known *k)
{
    free(k->now);
    free(k->before);
    *k = (struct known){0};
}

void wire_notice(struct session *s, const struct http_result *r)
{
    /* Other statuses come from what stands in front of the session. */
    if (r->status / 100 != 2 && r->status != 404)
        return;
    const char *guid = http_header(r->call, "x-ms-session-guid");
    const char *fresh = http_header(r->call, "x-ms-new-allocation");
    const struct known *teller = NULL;
    bool same = s->guid.now && guid && strcmp(s->guid.now, guid) == 0;
    /* Not the very first of these: the session was just made then. */
    bool changed = fresh && strcasecmp(fresh, "true") == 0 && s->tells_allocation && !same;
    s->tells_allocation = s->tells_allocation || fresh;
    if (known_note(&s->header_etag, http_header(r->call, "x-ms-session-etag")))
        teller = &s->header_etag;
    if (known_note(&s->guid, guid))
        teller = &s->guid;
    if (teller || changed) {
        log_warning("the session is a new, empty one: the service recycled the old one");
        session_new_allocation(s, teller);
    }
}

/* --- URLs: base/what?[the endpoint's query&]api-version=V&identifier=I */

static int add_identifier(struct buf *url, const char *identifier)
{
    int err = buf_adds(url, "&identifier=");
    return err ? err : text_percent(url, identifier, strlen(identifier));
}

static int add_version(struct buf *url, const struct session *s, const char *version)
{
    int err = buf_addf(url, "?%s%sapi-version=", s->query, *s->query ? "&" : "");
    return err ? err : text_percent(url, version, strlen(version));
}

static int add_query(struct buf *url, const struct session *s, const char *version)
{
    int err = add_version(url, s, version);
    return err ? err : add_identifier(url, s->identifier);
}

static int add_directory(struct buf *url, const char *directory)
{
    if (!directory || !*directory)
        return 0;
    int err = buf_adds(url, "&path=");
    return err ? err : text_percent(url, directory, strlen(directory));
}

static char *finish_url(struct buf *url, int err)
{
    if (err) {
        buf_free(url);
        return NULL;
    }
    return buf_take(url);
}

char *url_plain(const struct session *s, const char *what, const char *version)
{
    struct buf url = {0};
    int err = buf_addf(&url, "%s/%s", s->base, what);
    err = err ? err : add_query(&url, s, version ? version : s->version);
    return finish_url(&url, err);
}

char *url_pool(const struct session *s, const char *what, const char *version,
               const char *identifier, uint64_t skip)
{
    struct buf url = {0};
    int err = buf_addf(&url, "%s/%s", s->base, what);
    err = err ? err : add_version(&url, s, version);
    if (!err && identifier)
        err = add_identifier(&url, identifier);
    if (!err && skip)
        err = buf_addf(&url, "&skip=%" PRIu64, skip);
    return finish_url(&url, err);
}

char *url_list(const struct session *s, const char *directory, bool recursive)
{
    struct buf url = {0};
    int err = buf_addf(&url, "%s/files", s->base);
    err = err ? err : add_query(&url, s, s->version);
    err = err ? err : add_directory(&url, directory);
    if (!err && recursive)
        err = buf_adds(&url, "&recursive=true");
    return finish_url(&url, err);
}

char *url_upload(const struct session *s, const char *directory)
{
    struct buf url = {0};
    int err = buf_addf(&url, "%s/files%s", s->base, s->shape.old ? "/upload" : "");
    err = err ? err : add_query(&url, s, s->version);
    err = err ? err : add_directory(&url, directory);
    return finish_url(&url, err);
}

char *url_file(const struct session *s, const char *path, bool content)
{
    const char *name = path_base(path);
    _cleanup_free_ char *directory = path_parent(path);
    struct buf url = {0};
    int err = directory ? 0 : -1;
    err = err ? err
              : buf_addf(&url, "%s/files/%s", s->base, content && s->shape.old ? "content/" : "");
    err = err ? err : text_percent(&url, name, strlen(name));
    if (!err && content && !s->shape.old)
        err = buf_adds(&url, "/content");
    err = err ? err : add_query(&url, s, s->version);
    err = err ? err : add_directory(&url, directory);
    return finish_url(&url, err);
}

char *url_execution(const struct session *s, const char *id)
{
    struct buf url = {0};
    int err = buf_addf(&url, "%s/executions/", s->base);
    err = err ? err : text_percent(&url, id, strlen(id));
    err = err ? err : add_query(&url, s, s->version);
    return finish_url(&url, err);
}
