#include <fcntl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "acapool/request.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

enum { PAGE = 300 };

static void add_time(cJSON *json, const char *name, const struct timespec *time)
{
    char text[40];
    wire_format_time(time, 7, text);
    cJSON_AddStringToObject(json, name, text);
}

static cJSON *session_json(const struct session_view *v, const char *expiry_name)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "identifier", v->identifier);
    cJSON_AddStringToObject(json, "etag", v->guid);
    add_time(json, "createdAt", &v->created);
    add_time(json, "lastAccessedAt", &v->accessed);
    add_time(json, expiry_name, &v->expires);
    return json;
}

/* Holds the session for the request if there is one. */
static bool find(struct request *r)
{
    bool fresh;
    return !pool_acquire(r->pool, r->identifier, false, &r->session, &fresh);
}

static void not_found(struct request *r, unsigned status, const char *code)
{
    reply_error(r, status, code, "Session with identifier '%s' not found.", r->identifier);
}

void call_session(struct request *r)
{
    if (!find(r)) {
        not_found(r, 404, "SessionWithIdentifierNotFound");
        return;
    }
    struct session_view v;
    pool_view(r->session, &v);
    reply_json(r, 200, session_json(&v, "expireAt"));
}

void call_manage_get(struct request *r)
{
    if (!find(r)) {
        not_found(r, 400, "SessionWithIdentifierNotFound");
        return;
    }
    struct session_view v;
    pool_view(r->session, &v);
    reply_json(r, 200, session_json(&v, "expiresAt"));
}

void call_delete_session(struct request *r)
{
    if (pool_delete(r->pool, r->identifier))
        not_found(r, 404, "NoSessionFoundError");
    else
        reply_empty(r, 204);
}

void call_manage_stop(struct request *r)
{
    if (pool_delete(r->pool, r->identifier)) {
        not_found(r, 400, "SessionWithIdentifierNotFound");
        return;
    }
    char text[256];
    snprintf(text, sizeof text, "Session %s in session pool local stopped.", r->identifier);
    reply_text(r, 200, "text/plain; charset=utf-8", text);
}

/* --- lists */

struct page {
    cJSON *sessions;
    const char *expiry_name;
    uint64_t skip, seen;
};

static void add_session(void *arg, const struct session_view *v)
{
    struct page *page = arg;
    if (page->seen >= page->skip && page->seen < page->skip + PAGE)
        cJSON_AddItemToArray(page->sessions, session_json(v, page->expiry_name));
    page->seen++;
}

static uint64_t skip_of(const struct request *r)
{
    const char *text = target_parameter(&r->target, "skip");
    return text && *text && strlen(text) < 10 && !text[strspn(text, "0123456789")]
               ? strtoull(text, NULL, 10)
               : 0;
}

static void add_next(const struct request *r, cJSON *json, const struct page *page)
{
    _cleanup_buf_ struct buf next = {0};
    if (page->seen > page->skip + PAGE) {
        buf_addf(&next, "/%s?api-version=%s&skip=%llu", r->route->path,
                 target_parameter(&r->target, "api-version"),
                 (unsigned long long)(page->skip + PAGE));
        cJSON_AddStringToObject(json, "nextLink", next.data);
    } else {
        cJSON_AddNullToObject(json, "nextLink");
    }
}

static void reply_sessions(struct request *r, const char *member, const char *expiry_name,
                           bool count)
{
    cJSON *json = cJSON_CreateObject();
    struct page page = {.sessions = cJSON_AddArrayToObject(json, member),
                        .expiry_name = expiry_name,
                        .skip = skip_of(r)};
    pool_each(r->pool, add_session, &page);
    if (count)
        cJSON_AddNumberToObject(json, "count", cJSON_GetArraySize(page.sessions));
    add_next(r, json, &page);
    reply_json(r, 200, json);
}

void call_list_sessions(struct request *r)
{
    reply_sessions(r, "sessions", "expireAt", false);
}

void call_manage_list(struct request *r)
{
    reply_sessions(r, "value", "expiresAt", true);
}

/* --- metadata: asked of the Python that sessions use */

static const char packages_code[] =
    "import importlib.metadata as m, json, platform\n"
    "found = {d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name']}\n"
    "print(json.dumps({'runtimes': [{'name': 'Python', 'version': platform.python_version()}],"
    " 'preInstalledPackages': [{'name': n, 'version': found[n]} for n in sorted(found)]}))\n";

static cJSON *ask_python(void)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return NULL;
    pid_t pid = fork();
    if (pid == 0) {
        const char *const argv[] = {"python3", "-I", "-c", packages_code, NULL};
        const char *const environment[] = {"LANG=C.UTF-8", NULL};
        if (dup2(ends[1], 1) == 1)
            execve("/usr/bin/python3", (char *const *)argv, (char *const *)environment);
        _exit(72);
    }
    close(ends[1]);
    _cleanup_close_ int from = ends[0];
    _cleanup_buf_ struct buf text = {0};
    ssize_t n = 0;
    while (pid > 0 && !buf_reserve(&text, 65536) &&
           (n = read(from, text.data + text.len, 65536)) > 0)
        text.len += (size_t)n;
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return json_parse(text.data ? text.data : "", text.len);
}

void call_metadata(struct request *r)
{
    cJSON *json = ask_python();
    if (!json) {
        reply_error(r, 500, "InternalError", "python3 did not tell what it has");
        return;
    }
    add_time(json, "createdAt", pool_created(r->pool));
    add_time(json, "lastUpdatedAt", pool_created(r->pool));
    cJSON *kernel = cJSON_AddObjectToObject(json, "jupyterKernel");
    cJSON_AddStringToObject(kernel, "name", "acapool");
    cJSON_AddStringToObject(kernel, "version", ACAFS_VERSION);
    cJSON_AddStringToObject(kernel, "description", "a kernel in a sandbox on this machine");
    reply_json(r, 200, json);
}
