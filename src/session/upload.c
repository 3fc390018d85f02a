/* Uploads. Which way a file goes:
 *
 *     plain path, up to 128 MB ──▶ POST files ──(413)──▶ parts
 *                                     │ (name refused, or it landed elsewhere)
 *     another path ───────────────────┴──▶ small: helper put
 *                                          else:  POST as acafs-stage-*, helper adopt
 *     larger ──▶ parts: POST as acafs-part-*, one after another, helper join
 *
 * The first file that goes into a directory by POST goes there under a stage name, and the helper
 * adopts it: at a server that ignores `path` or takes it for another place, nothing of the same
 * name is written over. What a failed or cancelled upload leaves is removed. */
#include "session/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"

enum {
    PART_SIZE = 100 << 20,
    PART_SMALLEST = 1 << 20,
    PARTS_MAX = 4096,
};

struct upload_call {
    struct session_call call;
    session_entry_fn *fn;
    char *path;
    char *directory;
    int fd;     /* -1: from data */
    char *data; /* our copy */
    uint64_t size;
    char stage[40];
    uint64_t part_size, part_at; /* part_at: start of the one on its way */
    cJSON *parts;                /* names of those that arrived */
    cJSON *left;                 /* stage files that may be there */
    struct entry entry;
};

static void upload_finish(struct session_call *c)
{
    struct upload_call *u = (struct upload_call *)c;
    u->fn(c->arg, &c->error, c->error.err ? NULL : &u->entry);
}

static void drop_left(struct upload_call *u)
{
    if (u->left)
        stage_drop(u->call.session, u->left);
    u->left = NULL;
}

static void upload_release(struct session_call *c)
{
    struct upload_call *u = (struct upload_call *)c;
    cJSON_Delete(u->parts);
    drop_left(u);
    entry_free(&u->entry);
    free(u->path);
    free(u->directory);
    free(u->data);
}

static void by_helper(struct session_call *);
static void by_parts(struct session_call *);

/* Sends len bytes from offset on as `name` in `directory`. */
static void post(struct session_call *c, const char *directory, const char *name, uint64_t offset,
                 uint64_t len, step_fn *step)
{
    struct upload_call *u = (struct upload_call *)c;
    struct http_request r = {
        .kind = HTTP_KIND_UPLOAD,
        .method = "POST",
        .retry = HTTP_RETRY_SAFE,
        .body = HTTP_BODY_PART,
        .part_name = name,
        .data = u->fd < 0 ? u->data + offset : NULL,
        .len = (size_t)len,
        .offset = (off_t)offset,
    };
    wire_defaults(c->session, &r);
    r.fd = u->fd;
    call_send(c, &r, url_upload(c->session, directory), step);
}

/* The same under a new stage name. */
static void post_stage(struct session_call *c, const char *directory, const char *prefix,
                       uint64_t offset, uint64_t len, step_fn *step)
{
    struct upload_call *u = (struct upload_call *)c;
    _cleanup_buf_ struct buf path = {0};
    stage_name(u->stage, prefix);
    int err = buf_addf(&path, "%s%s%s", directory ? directory : "", directory ? "/" : "", u->stage);
    u->left = u->left ? u->left : cJSON_CreateArray();
    if (err || !cJSON_AddItemToArray(u->left, cJSON_CreateString(path.data)))
        call_fail(c, -ENOMEM, NULL);
    else
        post(c, directory, u->stage, offset, len, step);
}

/* --- the answer of the helper's put, adopt and join: an entry */

static bool take_entry(struct session_call *c, const cJSON *value)
{
    struct upload_call *u = (struct upload_call *)c;
    const char *mtime = json_string(value, "mtime");
    uint64_t size = 0, mode = 0;
    if (!json_uint(value, "size", &size) || size != u->size)
        return false;
    json_uint(value, "mode", &mode);
    /* A time that the file calls told stays: the next listing tells the same. */
    struct timespec time = u->entry.mtime;
    bool known = u->entry.name && time.tv_nsec >= 0;
    entry_free(&u->entry);
    u->entry.kind = ENTRY_FILE;
    u->entry.size = (int64_t)size;
    u->entry.mode = mode & 07777;
    u->entry.mtime = time;
    if (!known && (!mtime || text_parse_time(mtime, &u->entry.mtime)))
        u->entry.mtime.tv_nsec = -1;
    u->entry.name = strdup(path_base(u->path));
    u->entry.directory = strdup(u->directory);
    return u->entry.name && u->entry.directory;
}

static void put_done(struct session_call *c, const cJSON *value)
{
    struct upload_call *u = (struct upload_call *)c;
    if (!value) {
        call_end(c);
        return;
    }
    cJSON_Delete(u->left);
    u->left = NULL;
    if (take_entry(c, value))
        call_end(c);
    else
        call_fail(c, -EIO, "the file in the session is not as long as what was sent");
}

/* --- POST to the path itself */

static void posted(struct session_call *c, const struct answer *a)
{
    struct upload_call *u = (struct upload_call *)c;
    entry_free(&u->entry);
    if (a)
        answer_entry(a, &u->entry, &c->error);
    if (c->error.status == 413)
        by_parts(c);
    else if (c->error.err && name_refused(c, u->path))
        by_helper(c);
    else if (c->error.err)
        call_end(c);
    else if (strcmp(u->entry.name, path_base(u->path)) != 0)
        by_helper(c);
    else if (u->entry.size >= 0 && (uint64_t)u->entry.size != u->size)
        call_fail(c, -EIO, "the pool's file is not as long as what was sent");
    else
        call_end(c);
}

/* --- the first POST into a directory: to a stage name there */

static void ask_adopt(struct session_call *c, const char *stage, value_step_fn *step)
{
    struct upload_call *u = (struct upload_call *)c;
    cJSON *request = helper_op("adopt", u->path);
    cJSON_AddStringToObject(request, "stage", stage);
    call_ask(c, request, step);
}

static void landed(struct session_call *c, const cJSON *value)
{
    struct upload_call *u = (struct upload_call *)c;
    struct session *s = c->session;
    if (value)
        s->subdirectories = PATH_GOOD;
    if (c->error.err != -ENOENT) {
        put_done(c, value);
        return;
    }
    if (s->subdirectories == PATH_UNKNOWN) {
        log_warning("the pool puts files with a path elsewhere than below /mnt/data: files in "
                    "directories go by executed code");
        s->subdirectories = PATH_BAD;
    }
    cJSON_AddItemToArray(u->left, cJSON_CreateString(u->stage)); /* there, if path was ignored */
    drop_left(u);
    by_helper(c);
}

static void posted_aside(struct session_call *c, const struct answer *a)
{
    struct upload_call *u = (struct upload_call *)c;
    entry_free(&u->entry);
    if (a)
        answer_entry(a, &u->entry, &c->error);
    if (c->error.status == 413)
        by_parts(c);
    else if (c->error.err && name_refused(c, u->path))
        by_helper(c);
    else if (c->error.err)
        call_end(c);
    else
        ask_adopt(c, cJSON_GetStringValue(cJSON_GetArrayItem(u->left, 0)), landed);
}

/* --- any path: put, or POST to a stage name and adopt */

static int read_whole(struct upload_call *u)
{
    if (u->fd < 0)
        return 0;
    _cleanup_free_ char *data = malloc(u->size + 1);
    if (!data)
        return -ENOMEM;
    for (uint64_t at = 0; at < u->size;) {
        ssize_t n = pread(u->fd, data + at, u->size - at, (off_t)at);
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        at += (uint64_t)n;
    }
    free(u->data);
    u->data = data;
    data = NULL;
    return 0;
}

static void put(struct session_call *c)
{
    struct upload_call *u = (struct upload_call *)c;
    int err = read_whole(u);
    _cleanup_buf_ struct buf text = {0};
    err = err ? err : buf_adds(&text, "");
    err = err ? err : text_base64(&text, u->data ? u->data : "", u->size);
    if (err) {
        call_fail(c, err, NULL);
        return;
    }
    cJSON *request = helper_op("put", u->path);
    cJSON_AddStringToObject(request, "data", text.data);
    call_ask(c, request, put_done);
}

static void staged(struct session_call *c, const struct answer *a)
{
    struct upload_call *u = (struct upload_call *)c;
    if (a)
        answer_error(a, &c->error);
    if (c->error.status == 413)
        by_parts(c);
    else if (c->error.err)
        call_end(c);
    else
        ask_adopt(c, u->stage, put_done);
}

static void by_helper(struct session_call *c)
{
    struct upload_call *u = (struct upload_call *)c;
    call_forget_error(c);
    entry_free(&u->entry); /* of a file elsewhere */
    if (u->size <= INLINE_LIMIT)
        put(c);
    else
        post_stage(c, NULL, STAGE_PREFIX, 0, u->size, staged);
}

/* --- in parts */

static void next_part(struct session_call *);

static uint64_t part_length(const struct upload_call *u)
{
    uint64_t left = u->size - u->part_at;
    return left < u->part_size ? left : u->part_size;
}

static void part_came(struct session_call *c, const struct answer *a)
{
    struct upload_call *u = (struct upload_call *)c;
    if (a)
        answer_error(a, &c->error);
    if (c->error.status == 413 && u->part_size / 2 >= PART_SMALLEST) {
        u->part_size /= 2;
        call_forget_error(c);
        next_part(c);
        return;
    }
    if (c->error.err) {
        call_end(c);
        return;
    }
    cJSON_AddItemToArray(u->parts, cJSON_CreateString(u->stage));
    u->part_at += part_length(u);
    if (u->part_at < u->size) {
        next_part(c);
        return;
    }
    cJSON *request = helper_op("join", u->path);
    cJSON_AddItemToObject(request, "parts", cJSON_Duplicate(u->parts, true));
    call_ask(c, request, put_done);
}

static void next_part(struct session_call *c)
{
    struct upload_call *u = (struct upload_call *)c;
    if (cJSON_GetArraySize(u->parts) >= PARTS_MAX) {
        call_fail(c, -EFBIG, "the file is too large to be uploaded");
        return;
    }
    post_stage(c, NULL, PART_PREFIX, u->part_at, part_length(u), part_came);
}

static void by_parts(struct session_call *c)
{
    struct upload_call *u = (struct upload_call *)c;
    u->part_size = PART_SIZE;
    if (u->size <= PART_SIZE)
        u->part_size = u->size / 2 + 1; /* refused as a whole */
    if (u->part_size < PART_SMALLEST) {
        call_end(c);
        return;
    }
    call_forget_error(c);
    drop_left(u);
    u->parts = cJSON_CreateArray();
    if (u->parts)
        next_part(c);
    else
        call_fail(c, -ENOMEM, NULL);
}

static void upload_begin(struct session_call *c)
{
    struct upload_call *u = (struct upload_call *)c;
    if (u->size > UPLOAD_LIMIT)
        by_parts(c);
    else if (!session_path_plain(c->session, u->path))
        by_helper(c);
    else if (*u->directory && c->session->subdirectories == PATH_UNKNOWN)
        post_stage(c, u->directory, STAGE_PREFIX, 0, u->size, posted_aside);
    else
        post(c, u->directory, path_base(u->path), 0, u->size, posted);
}

static struct upload_call *new_upload(struct session *s, const char *path, session_entry_fn *fn,
                                      void *arg)
{
    static const struct call_kind kind = {upload_begin, upload_finish, upload_release};
    struct upload_call *u = call_new(s, sizeof *u, &kind, arg);
    if (!u)
        return NULL;
    u->fn = fn;
    u->fd = -1;
    u->path = strdup(path);
    u->directory = path_parent(path);
    if (!u->path || !u->directory)
        u->call.error.err = -ENOMEM;
    else if (!*path || !path_ok(path))
        u->call.error.err = -EINVAL;
    return u;
}

struct session_call *session_upload(struct session *s, const char *path, int fd, uint64_t size,
                                    session_entry_fn *fn, void *arg)
{
    struct upload_call *u = new_upload(s, path, fn, arg);
    if (!u)
        return NULL;
    u->fd = fd;
    u->size = size;
    return &u->call;
}

struct session_call *session_upload_bytes(struct session *s, const char *path, const void *data,
                                          size_t len, session_entry_fn *fn, void *arg)
{
    struct upload_call *u = new_upload(s, path, fn, arg);
    if (!u)
        return NULL;
    u->size = len;
    u->data = malloc(len + 1);
    if (!u->data)
        u->call.error.err = -ENOMEM;
    else if (len)
        memcpy(u->data, data, len);
    return &u->call;
}
