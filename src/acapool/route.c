#include "acapool/request.h"

#include <string.h>
#include <strings.h>

static const struct {
    const char *word;
    unsigned version;
} versions[] = {
    {"2024-02-02-preview", API_2024_02}, {"2024-08-02-preview", API_2024_08},
    {"2024-10-02-preview", API_2024_10}, {"2025-02-02-preview", API_2025_02},
    {"2025-10-02-preview", API_2025_10},
};

const char api_versions[] = "2024-02-02-preview, 2024-08-02-preview, 2024-10-02-preview, "
                            "2025-02-02-preview, 2025-10-02-preview";

unsigned api_find(const char *word)
{
    for (size_t i = 0; word && i < sizeof versions / sizeof *versions; i++) {
        if (strcasecmp(word, versions[i].word) == 0)
            return versions[i].version;
    }
    return 0;
}

static const struct route routes[] = {
    {API_NEW_SHAPE, "POST", "executions", NEED_SESSION, BODY_JSON, call_execute},
    {API_NEW_SHAPE, "GET", "executions/*", NEED_SESSION, BODY_NONE, call_execution},
    {API_NEW_SHAPE, "GET", "files", NEED_SESSION, BODY_NONE, call_list},
    {API_NEW_SHAPE, "POST", "files", NEED_SESSION, BODY_FILE, call_upload},
    {API_NEW_SHAPE, "GET", "files/*", NEED_SESSION, BODY_NONE, call_stat},
    {API_NEW_SHAPE, "GET", "files/*/content", NEED_SESSION, BODY_NONE, call_download},
    {API_NEW_SHAPE, "DELETE", "files/*", NEED_SESSION, BODY_NONE, call_delete_file},

    {API_SESSIONS, "GET", "session", NEED_IDENTIFIER, BODY_NONE, call_session},
    {API_SESSIONS, "DELETE", "session", NEED_IDENTIFIER, BODY_NONE, call_delete_session},
    {API_SESSIONS, "GET", "listSessions", NEED_NOTHING, BODY_NONE, call_list_sessions},
    {API_SESSIONS, "GET", "metadata", NEED_NOTHING, BODY_NONE, call_metadata},
    {API_SESSIONS, "POST", ".management/getSession", NEED_IDENTIFIER, BODY_JSON, call_manage_get},
    {API_SESSIONS, "POST", ".management/listSessions", NEED_NOTHING, BODY_JSON, call_manage_list},
    {API_SESSIONS, "POST", ".management/stopSession", NEED_IDENTIFIER, BODY_JSON, call_manage_stop},

    {API_OLD_SHAPE, "POST", "code/execute", NEED_SESSION, BODY_JSON, call_execute_old},
    {API_OLD_SHAPE, "GET", "files", NEED_SESSION, BODY_NONE, call_list_old},
    {API_OLD_SHAPE, "POST", "files/upload", NEED_SESSION, BODY_FILE, call_upload_old},
    {API_OLD_SHAPE, "GET", "files/content/**", NEED_SESSION, BODY_NONE, call_download_old},
    {API_OLD_SHAPE, "GET", "files/**", NEED_SESSION, BODY_NONE, call_stat_old},
    {API_OLD_SHAPE, "DELETE", "files/**", NEED_SESSION, BODY_NONE, call_delete_file_old},
};

static bool matches(const char *pattern, const struct target *t, size_t *wild)
{
    size_t i = 0;
    *wild = 0;
    while (*pattern) {
        size_t len = strcspn(pattern, "/");
        if (i == t->count)
            return false;
        if (*pattern == '*') {
            *wild = i;
            if (len == 2)
                return true;
        } else if (strlen(t->segment[i]) != len || strncasecmp(t->segment[i], pattern, len) != 0) {
            return false;
        }
        pattern += len + (pattern[len] == '/');
        i++;
    }
    return i == t->count;
}

const struct route *route_find(unsigned version, const char *method, const struct target *t,
                               size_t *wild)
{
    if (strcmp(method, "HEAD") == 0)
        method = "GET";
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (routes[i].versions & version && strcmp(routes[i].method, method) == 0 &&
            matches(routes[i].path, t, wild))
            return &routes[i];
    }
    return NULL;
}
