#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "acapool/request.h"
#include "util/cleanup.h"

const char *request_wild(const struct request *r)
{
    return r->target.segment[r->wild];
}

const char *request_path(const struct request *r)
{
    static const char root[] = "/mnt/data";
    const size_t len = sizeof root - 1;
    const char *path = target_parameter(&r->target, "path");
    if (path && strncmp(path, root, len) == 0 && (path[len] == '/' || !path[len]))
        path += len + (path[len] == '/');
    return path ? path : "";
}

const char *request_header(const struct request *r, const char *name)
{
    return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

void reply_add(struct request *r, const char *header, const char *value)
{
    if (r->reply)
        MHD_add_response_header(r->reply, header, value);
}

/* Takes text over. */
static void reply_owned(struct request *r, unsigned status, const char *type, char *text)
{
    if (r->status) {
        free(text);
        return;
    }
    r->status = status;
    r->reply = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!r->reply)
        free(text);
    if (type)
        reply_add(r, "Content-Type", type);
}

void reply_empty(struct request *r, unsigned status)
{
    if (r->status)
        return;
    r->status = status;
    r->reply = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
}

void reply_text(struct request *r, unsigned status, const char *type, const char *text)
{
    char *copy = strdup(text);
    if (copy)
        reply_owned(r, status, type, copy);
}

void reply_json(struct request *r, unsigned status, cJSON *json)
{
    char *text = json ? cJSON_PrintUnformatted(json) : NULL;
    cJSON_Delete(json);
    if (text)
        reply_owned(r, status, "application/json; charset=utf-8", text);
    else
        reply_empty(r, 500);
}

void reply_error(struct request *r, unsigned status, const char *code, const char *format, ...)
{
    if (r->status)
        return;
    _cleanup_buf_ struct buf message = {0};
    va_list args;
    va_start(args, format);
    buf_vaddf(&message, format, args);
    va_end(args);
    cJSON *json = cJSON_CreateObject();
    cJSON *error = cJSON_AddObjectToObject(json, "error");
    cJSON_AddStringToObject(error, "code", code);
    cJSON_AddStringToObject(error, "message", message.data ? message.data : "");
    reply_json(r, status, json);
    reply_add(r, "x-ms-error-code", code);
}

void reply_errno(struct request *r, int err, const char *directory, const char *name)
{
    const char *slash = *directory && *name ? "/" : "";
    switch (-err) {
    case ENOENT:
    case ENOTDIR:
        reply_error(r, 404, *name ? "ERR_FILE_NOT_FOUND" : "ERR_DIR_NOT_FOUND",
                    "'%s%s%s' is not there", directory, slash, name);
        break;
    case ELOOP:
        reply_error(r, 400, "ERR_SYMLINK_NOT_ALLOWED", "'%s%s%s' is or leads through a symlink",
                    directory, slash, name);
        break;
    case EISDIR:
    case ENODEV:
    case EINVAL:
        reply_error(r, 400, "ERR_NOT_A_FILE", "'%s%s%s' is not a file", directory, slash, name);
        break;
    case ENAMETOOLONG:
        reply_error(r, 400, "FileNameInvalid", "a name in '%s%s%s' is too long", directory, slash,
                    name);
        break;
    case ENOTEMPTY:
    case EEXIST:
        reply_error(r, 409, "ERR_DIR_NOT_EMPTY", "'%s%s%s' is not empty", directory, slash, name);
        break;
    case EACCES:
    case EPERM:
        reply_error(r, 403, "ERR_NOT_PERMITTED", "'%s%s%s' is closed to this call", directory,
                    slash, name);
        break;
    case ENOSPC:
    case EDQUOT:
        reply_error(r, 507, "ERR_NO_SPACE", "no space is left for this session's files");
        break;
    default:
        reply_error(r, 500, "InternalError", "'%s%s%s': %s", directory, slash, name,
                    strerror(-err));
    }
}

/* cJSON's strings end at NUL: each piece is quoted by cJSON and the quotes between two are
 * replaced by the escape. */
static cJSON *with_nul(const char *text, size_t len)
{
    _cleanup_buf_ struct buf all = {0};
    const char *end = text + len;
    for (const char *at = text; at <= end;) {
        cJSON piece = {.type = cJSON_String, .valuestring = (char *)at};
        char *quoted = cJSON_PrintUnformatted(&piece);
        if (!quoted)
            return NULL;
        size_t n = strlen(at);
        at += n + 1;
        if (all.len)
            buf_adds(&all, "\\u0000");
        buf_add(&all, quoted + (all.len ? 1 : 0), strlen(quoted) - (all.len ? 2 : 1));
        free(quoted);
    }
    if (buf_adds(&all, "\""))
        return NULL;
    return cJSON_CreateRaw(all.data);
}

cJSON *reply_string(const char *text, size_t len)
{
    if (!text)
        return cJSON_CreateString("");
    return memchr(text, '\0', len) ? with_nul(text, len) : cJSON_CreateString(text);
}
