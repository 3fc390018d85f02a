#include "acafs/job_request.h"

#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"

/* A path below the mount's root, without "." and ".." parts. */
static bool path_ok(const char *path)
{
    if (!*path)
        return false;
    while (*path) {
        size_t len = strcspn(path, "/");
        if (len == 0 || (len == 1 && path[0] == '.') ||
            (len == 2 && path[0] == '.' && path[1] == '.'))
            return false;
        path += len;
        if (*path == '/' && !*++path)
            return false;
    }
    return true;
}

static const char *take_args(struct run *run, const cJSON *request)
{
    const cJSON *args = json_array(request, "args"), *arg;
    size_t n = args ? (size_t)cJSON_GetArraySize(args) : 0, i = 0;
    if (!(run->args = calloc(n + 1, sizeof *run->args)))
        return "out of memory";
    if (!args && cJSON_GetObjectItemCaseSensitive(request, "args"))
        return "args must be strings";
    cJSON_ArrayForEach (arg, args) {
        if (!cJSON_IsString(arg))
            return "args must be strings";
        if (!(run->args[i++] = strdup(arg->valuestring)))
            return "out of memory";
    }
    return NULL;
}

/* Takes a member that is true or false, when it is there: false when it is something else. */
static bool take_flag(const cJSON *request, const char *name, bool *flag)
{
    return json_bool(request, name, flag) || !cJSON_GetObjectItemCaseSensitive(request, name);
}

static bool only_known_members(const cJSON *request)
{
    static const char *const known[] = {"path",      "code",  "code_name", "args",
                                        "in_kernel", "plain", "timeout",   "outputs"};
    const cJSON *member;
    cJSON_ArrayForEach (member, request) {
        size_t i = 0, n = sizeof known / sizeof *known;
        while (i < n && strcmp(member->string, known[i]) != 0)
            i++;
        if (i == n)
            return false;
    }
    return true;
}

/* Rounded up: 0 is no timeout. */
static int64_t milliseconds(double seconds)
{
    int64_t ms = (int64_t)(seconds * 1000);
    return (double)ms < seconds * 1000 ? ms + 1 : ms;
}

const char *job_request_take(const cJSON *request, struct run *run)
{
    if (!only_known_members(request))
        return "members are path, code, code_name, args, in_kernel, plain, timeout and outputs";
    const char *path = json_string(request, "path"), *code = json_string(request, "code"),
               *name = json_string(request, "code_name");
    if (!path == !code)
        return "give either a path or code";
    if (path && !path_ok(path))
        return "the path must be relative to the mount's top, without . and ..";
    run->path = path ? strdup(path) : NULL;
    run->code = code ? strdup(code) : NULL;
    run->code_name = name ? strdup(name) : NULL;
    if (!run->path && !run->code)
        return "out of memory";
    const cJSON *timeout = cJSON_GetObjectItemCaseSensitive(request, "timeout");
    if (timeout && !cJSON_IsNull(timeout) &&
        (!cJSON_IsNumber(timeout) || !(timeout->valuedouble >= 0 && timeout->valuedouble < 1e9)))
        return "timeout must be a number of seconds";
    const char *why = take_args(run, request);
    run->spec = (struct job_spec){
        .path = run->path,
        .code = run->code,
        .code_name = run->code_name,
        .args = (const char *const *)run->args,
        .keep_outputs = true,
        .timeout_ms = cJSON_IsNumber(timeout) ? milliseconds(timeout->valuedouble) : 0,
    };
    if (!take_flag(request, "in_kernel", &run->spec.in_kernel) ||
        !take_flag(request, "plain", &run->spec.plain) ||
        !take_flag(request, "outputs", &run->spec.keep_outputs))
        return "in_kernel, plain and outputs are true or false";
    if (!why && run->spec.plain && (path || run->args[0]))
        return "plain is for code without args";
    return why;
}
