#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "acapool/mime.h"
#include "acapool/request.h"
#include "util/cleanup.h"
#include "util/text.h"

enum { UPLOAD_MAX = 128 << 20 };

/* --- names */

static bool name_ok(struct request *r, const char *name)
{
    if (wire_file_name_ok(name))
        return true;
    reply_error(r, 400, "FileNameInvalid",
                "File Name '%s' is invalid because 'filename cannot contain any reserved file "
                "path characters'.",
                text_is_utf8(name, strlen(name)) ? name : "?");
    return false;
}

static bool path_ok(struct request *r, const char *path)
{
    if (wire_directory_ok(path))
        return true;
    reply_error(r, 400, "FilePathInvalid",
                "File Path '%s%s' is invalid because 'path cannot contain any reserved file path "
                "characters'.",
                *path == '/' ? "" : "/", text_is_utf8(path, strlen(path)) ? path : "?");
    return false;
}

/* The old shape has no `path`; a client may say /mnt/data/NAME, with slashes as they are. */
struct old_path {
    struct buf directory;
    const char *name;
};

static void old_path_free(struct old_path *p)
{
    buf_free(&p->directory);
}
#define _cleanup_old_path_ __attribute__((cleanup(old_path_free)))

static bool old_path(struct request *r, struct old_path *out)
{
    _cleanup_buf_ struct buf whole = {0};
    for (size_t i = r->wild; i < r->target.count; i++)
        buf_addf(&whole, "/%s", r->target.segment[i]);
    const char *at = whole.data ? whole.data : "";
    while (at[0] == '/' && at[1] == '/')
        at++;
    if (strncmp(at, "/mnt/data/", 10) == 0)
        at += 9;
    const char *slash = strrchr(at, '/');
    if (!slash || buf_add(&out->directory, at, (size_t)(slash - at)))
        return false;
    /* The last segment may itself hold an escaped path: what counts is in the storage. */
    const char *last = r->target.segment[r->target.count - 1];
    out->name = wire_base_name(last);
    return path_ok(r, out->directory.data) && name_ok(r, out->name);
}

/* --- entries */

static cJSON *entry(const struct request *r, const struct file_info *info)
{
    char time[40];
    wire_format_time(&info->mtime, 9, time);
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "name", info->name);
    cJSON_AddStringToObject(json, "type", info->is_directory ? "directory" : "file");
    if (!info->is_directory)
        cJSON_AddStringToObject(json, "contentType", mime_type(info->name));
    cJSON_AddNumberToObject(json, "sizeInBytes", (double)info->size);
    cJSON_AddStringToObject(json, "lastModifiedAt", time);
    if (r->version & API_2025_10)
        cJSON_AddStringToObject(json, "directory", info->directory);
    return json;
}

static void add_id(cJSON *json, unsigned *id)
{
    char text[16];
    snprintf(text, sizeof text, "%u", ++*id);
    cJSON_AddStringToObject(json, "$id", text);
}

static cJSON *old_entry(const struct file_info *info, unsigned *id)
{
    char time[40];
    wire_format_time(&info->mtime, 7, time);
    cJSON *json = cJSON_CreateObject();
    add_id(json, id);
    cJSON *properties = cJSON_AddObjectToObject(json, "properties");
    add_id(properties, id);
    cJSON_AddStringToObject(properties, "filename", info->name);
    cJSON_AddNumberToObject(properties, "size", (double)info->size);
    cJSON_AddStringToObject(properties, "lastModifiedTime", time);
    return json;
}

/* --- list */

struct list {
    struct request *request;
    cJSON *value;
    unsigned id;
};

static int list_entry(void *arg, const struct file_info *info)
{
    struct list *l = arg;
    cJSON_AddItemToArray(l->value, entry(l->request, info));
    return 0;
}

static int list_old_entry(void *arg, const struct file_info *info)
{
    struct list *l = arg;
    if (!info->is_directory)
        cJSON_AddItemToArray(l->value, old_entry(info, &l->id));
    return 0;
}

void call_list(struct request *r)
{
    const char *path = request_path(r);
    if (!path_ok(r, path))
        return;
    const char *deep = target_parameter(&r->target, "recursive");
    bool recursive = deep && strcasecmp(deep, "true") == 0 && r->version & API_2025_10;
    cJSON *json = cJSON_CreateObject();
    struct list l = {.request = r, .value = cJSON_AddArrayToObject(json, "value")};
    int err = files_list(&r->session->files, path, recursive, list_entry, &l);
    if (err) {
        cJSON_Delete(json);
        reply_errno(r, err, path, "");
        return;
    }
    cJSON_AddNullToObject(json, "nextLink");
    reply_json(r, 200, json);
}

void call_list_old(struct request *r)
{
    cJSON *json = cJSON_CreateObject();
    struct list l = {.request = r};
    add_id(json, &l.id);
    l.value = cJSON_AddArrayToObject(json, "value");
    int err = files_list(&r->session->files, "", false, list_old_entry, &l);
    if (err) {
        cJSON_Delete(json);
        reply_errno(r, err, "", "");
        return;
    }
    reply_json(r, 200, json);
}

/* --- metadata of one */

void call_stat(struct request *r)
{
    const char *path = request_path(r), *name = request_wild(r);
    if (!path_ok(r, path) || !name_ok(r, name))
        return;
    struct file_info info;
    int err = files_stat(&r->session->files, path, name, &info);
    if (err)
        reply_errno(r, err, path, name);
    else
        reply_json(r, 200, entry(r, &info));
}

static void reply_old_entry(struct request *r, const struct file_info *info)
{
    unsigned id = 0;
    cJSON *json = cJSON_CreateObject();
    add_id(json, &id);
    cJSON_AddItemToArray(cJSON_AddArrayToObject(json, "value"), old_entry(info, &id));
    reply_json(r, 200, json);
}

void call_stat_old(struct request *r)
{
    _cleanup_old_path_ struct old_path at = {0};
    if (!old_path(r, &at))
        return;
    struct file_info info;
    int err = files_stat(&r->session->files, at.directory.data, at.name, &info);
    if (err)
        reply_errno(r, err, at.directory.data, at.name);
    else
        reply_old_entry(r, &info);
}

/* --- download */

/* What the conditions of a GET come to: 200 (go on), 304 or 412. */
static unsigned conditions(const struct request *r, time_t modified)
{
    time_t date;
    const char *unless = request_header(r, "If-Unmodified-Since");
    if (unless && !wire_parse_date(unless, &date) && modified > date)
        return 412;
    const char *since = request_header(r, "If-Modified-Since");
    if (since && !wire_parse_date(since, &date) && modified <= date)
        return 304;
    return 200;
}

/* The range asked for, if it still is of the file that the client knows. */
static const char *range_header(const struct request *r, time_t modified)
{
    const char *same = request_header(r, "If-Range");
    time_t date;
    if (same && (wire_parse_date(same, &date) || date != modified))
        return NULL;
    return request_header(r, "Range");
}

/* A piece of a file on its way out. Not sendfile(): libmicrohttpd would wait for ever for the
 * rest of a file that was cut short meanwhile. */
struct piece {
    int fd;
    uint64_t first;
};

static ssize_t read_piece(void *arg, uint64_t at, char *to, size_t most)
{
    const struct piece *p = arg;
    ssize_t n = pread(p->fd, to, most, (off_t)(p->first + at));
    return n > 0 ? n : MHD_CONTENT_READER_END_WITH_ERROR;
}

static void free_piece(void *arg)
{
    struct piece *p = arg;
    close(p->fd);
    free(p);
}

/* Takes fd over. */
static void reply_bytes(struct request *r, unsigned status, int fd, uint64_t first, uint64_t count)
{
    enum { BLOCK = 256 * 1024 };
    struct piece *p = malloc(sizeof *p);
    if (p) {
        *p = (struct piece){.fd = fd, .first = first};
        r->reply = MHD_create_response_from_callback(count, BLOCK, read_piece, p, free_piece);
    }
    if (!r->reply) {
        free(p);
        close(fd);
    }
    r->status = r->reply ? status : 500;
}

static void reply_file(struct request *r, int fd, const struct file_info *info)
{
    uint64_t first, last;
    unsigned status = conditions(r, info->mtime.tv_sec);
    enum wire_range range =
        wire_range(range_header(r, info->mtime.tv_sec), info->size, &first, &last);
    if (status != 200 || range == RANGE_UNSATISFIABLE) {
        close(fd);
        reply_empty(r, status != 200 ? status : 416);
    } else if (range == RANGE_PART) {
        reply_bytes(r, 206, fd, first, last - first + 1);
    } else {
        reply_bytes(r, 200, fd, 0, info->size);
    }
    char text[96];
    unsigned long long size = info->size;
    if (r->status == 206)
        snprintf(text, sizeof text, "bytes %llu-%llu/%llu", (unsigned long long)first,
                 (unsigned long long)last, size);
    else
        snprintf(text, sizeof text, "bytes */%llu", size);
    if (r->status == 206 || r->status == 416)
        reply_add(r, "Content-Range", text);
    wire_format_date(info->mtime.tv_sec, text);
    reply_add(r, "Last-Modified", text);
    reply_add(r, "Accept-Ranges", "bytes");
    if (r->status == 200 || r->status == 206)
        reply_add(r, "Content-Type", mime_type(info->name));
}

static void download(struct request *r, const char *directory, const char *name)
{
    int fd = -1;
    struct file_info info;
    int err = files_read(&r->session->files, directory, name, &fd, &info);
    if (err)
        reply_errno(r, err, directory, name);
    else
        reply_file(r, fd, &info);
}

void call_download(struct request *r)
{
    if (path_ok(r, request_path(r)) && name_ok(r, request_wild(r)))
        download(r, request_path(r), request_wild(r));
}

void call_download_old(struct request *r)
{
    _cleanup_old_path_ struct old_path at = {0};
    if (old_path(r, &at))
        download(r, at.directory.data, at.name);
}

/* --- delete */

void call_delete_file(struct request *r)
{
    const char *path = request_path(r), *name = request_wild(r);
    if (!path_ok(r, path) || !name_ok(r, name))
        return;
    int err = files_delete(&r->session->files, path, name);
    if (err)
        reply_errno(r, err, path, name);
    else
        reply_empty(r, 204);
}

void call_delete_file_old(struct request *r)
{
    _cleanup_old_path_ struct old_path at = {0};
    if (!old_path(r, &at))
        return;
    int err = files_delete(&r->session->files, at.directory.data, at.name);
    if (err)
        reply_errno(r, err, at.directory.data, at.name);
    else
        reply_text(r, 200, "application/json; charset=utf-8",
                   "{\"message\":\"file deleted successfully\"}");
}

/* --- upload: the first part called `file` that has a file name */

static bool disk_full(const struct request *r)
{
    return r->session->usage + r->upload.size > pool_options(r->pool)->disk;
}

static int begin_file(struct request *r, const char *file_name)
{
    r->file_name = strdup(file_name);
    if (!r->file_name)
        return -ENOMEM;
    r->file = FILE_RECEIVING;
    return upload_begin(&r->upload, &r->session->files);
}

static void begin_part(void *arg, const char *name, const char *file_name)
{
    struct request *r = arg;
    if (r->file == FILE_RECEIVING)
        r->file = FILE_COMPLETE;
    else if (r->file == FILE_AWAITED && file_name && strcasecmp(name, "file") == 0)
        r->file_error = begin_file(r, file_name);
}

static void receive_data(void *arg, const void *data, size_t len)
{
    struct request *r = arg;
    if (r->file != FILE_RECEIVING || r->file_error)
        return; /* after an error the rest is read and dropped, to answer properly */
    if (r->upload.size + len > UPLOAD_MAX)
        r->file_error = -EFBIG;
    else if (disk_full(r))
        r->file_error = -ENOSPC;
    else
        r->file_error = upload_write(&r->upload, data, len);
}

void upload_receive(struct request *r, const char *data, size_t len)
{
    const struct form_handler handler = {.part = begin_part, .data = receive_data, .arg = r};
    if (!r->has_form && !r->file_error) {
        r->file_error = form_init(&r->form, request_header(r, "Content-Type"), &handler);
        r->has_form = !r->file_error;
    }
    int err = r->has_form ? form_feed(&r->form, data, len) : 0;
    if (!err)
        return;
    r->file_error = err;
    form_free(&r->form);
    r->has_form = false;
}

void upload_forget(struct request *r)
{
    form_free(&r->form);
    if (r->upload.files)
        upload_abort(&r->upload);
    free(r->file_name);
    r->file_name = NULL;
}

/* The body is here: is it a whole form with a file in it? */
static bool file_received(struct request *r)
{
    bool whole = r->has_form && form_complete(&r->form);
    if (r->file_error == -EFBIG)
        reply_error(r, 413, "FileTooLarge", "The file is larger than %d MB.", UPLOAD_MAX >> 20);
    else if (r->file_error && r->has_form)
        reply_errno(r, r->file_error, "", r->file_name ? wire_base_name(r->file_name) : "");
    else if (!whole)
        reply_error(r, 400, "SessionRequestValidationFailed",
                    "The body is not a complete multipart/form-data document.");
    else if (r->file == FILE_AWAITED)
        reply_error(r, 400, "SessionRequestValidationFailed",
                    "The form has no part called 'file' with a file name.");
    return !r->status;
}

static bool put_in_place(struct request *r, const char *directory, struct file_info *info)
{
    if (!file_received(r))
        return false;
    const char *name = wire_base_name(r->file_name);
    if (!name_ok(r, name))
        return false;
    int err = upload_commit(&r->upload, directory, name, info);
    if (err)
        reply_errno(r, err, directory, name);
    else
        r->session->usage += info->size;
    return !err;
}

void call_upload(struct request *r)
{
    struct file_info info;
    if (path_ok(r, request_path(r)) && put_in_place(r, request_path(r), &info)) {
        info.directory = request_path(r);
        reply_json(r, 200, entry(r, &info));
    }
}

void call_upload_old(struct request *r)
{
    struct file_info info;
    if (put_in_place(r, "", &info))
        reply_old_entry(r, &info);
}
