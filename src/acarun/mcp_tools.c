#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "acarun/mcp_private.h"
#include "acarun/sanitize.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"

enum {
    INLINE_MAX = 4 << 20, /* of a file in an answer */
    BEAT_MS = 5000,
};

static void fail(struct call *c, const struct session_error *e)
{
    _cleanup_buf_ struct buf text = {0};
    client_explain(&text, e);
    mcp_answer(c, content_error(text.data ? text.data : strerror(-e->err)));
}

static void begun(struct call *c)
{
    c->mcp->used = true;
    if (!c->under_way)
        mcp_answer_error(c, RPC_INTERNAL_ERROR, "out of memory");
}

/* --- code */

static void put_out(void *arg, int stream, const void *data, size_t len)
{
    struct mcp *m = arg;
    if (m->runs && clip_add(stream == 2 ? &m->runs->err : &m->runs->out, data, len))
        log_error("out of memory: output is lost");
}

/* The value, without the names of image files: there are none here, the images follow. */
static cJSON *shown_value(const struct job_result *r)
{
    cJSON *value = r->value ? cJSON_Duplicate(r->value, true) : NULL;
    const char *type = json_string(value, "type");
    if (r->image_count && type && strcmp(type, "image") == 0) {
        cJSON_DeleteItemFromObjectCaseSensitive(value, "file");
        cJSON_DeleteItemFromObjectCaseSensitive(value, "files");
    }
    return value;
}

static cJSON *code_result(const struct call *c, const struct job_result *r)
{
    _cleanup_json_ cJSON *value = shown_value(r);
    struct report report = {.exit_code = r->exit_code,
                            .message = r->message,
                            .value = value,
                            .text = r->image_count ? NULL : r->text};
    snprintf(report.state, sizeof report.state, "%s", job_state_name(r->state));
    cJSON *result = content_code(c->mcp->version, &report, &c->out, &c->err);
    for (size_t i = 0; result && i < r->image_count; i++)
        content_add_image(result, r->images[i].extension, &r->images[i].bytes);
    return result;
}

static void done(void *arg, const struct job_result *r)
{
    struct mcp *m = arg;
    struct call *c = m->runs;
    m->job = NULL;
    loop_timer_stop(&m->beat);
    m->restarted = m->restarted || (r->kernel_ended && !c); /* whoever asked for it hears nothing */
    if (c && r->error.err)
        fail(c, &r->error);
    else if (c)
        mcp_answer(c, code_result(c, r));
    tool_next(m);
    mcp_ended(m);
}

static void run(struct call *c)
{
    struct mcp *m = c->mcp;
    _cleanup_free_ char *code = strdup(json_string(c->arguments, "python_code"));
    const struct job_events events = {.output = put_out, .done = done, .arg = m};
    if (code)
        sanitize_code(code);
    const struct job_spec spec = {
        .code = code, .in_kernel = true, .timeout_ms = m->options->timeout_ms};
    m->used = true;
    m->runs = c;
    m->job = code ? job_start(m->link.loop, m->link.client.session, &spec, &events) : NULL;
    if (!m->job)
        mcp_answer_error(c, RPC_INTERNAL_ERROR, "out of memory");
    else if (c->token)
        loop_timer_set(&m->beat, BEAT_MS);
}

void tool_next(struct mcp *m)
{
    struct call *c;
    if (m->job || m->phase >= STOPPING)
        return;
    DL_FOREACH (m->calls, c) {
        if (c->tool == TOOL_CODE) {
            run(c);
            return;
        }
    }
}

/* Who waits learns that the code still runs. */
void tool_beat(void *arg)
{
    struct mcp *m = arg;
    struct call *c = m->runs;
    if (!c || !c->token)
        return;
    cJSON *params = cJSON_CreateObject();
    cJSON_AddRawToObject(params, "progressToken", c->token);
    cJSON_AddNumberToObject(params, "progress", ++c->progress);
    if (m->version >= MCP_2025_03_26)
        cJSON_AddStringToObject(params, "message", "the code is running");
    mcp_notify(m, "notifications/progress", params);
    loop_timer_set(&m->beat, BEAT_MS);
}

/* --- files */

static void listed(void *arg, const struct session_error *e, const struct session_list_result *r)
{
    struct call *c = arg;
    c->under_way = NULL;
    if (e->err)
        fail(c, e);
    else
        mcp_answer(c, content_listing(c->mcp->version, c->path, r->listing));
}

static void list(struct call *c)
{
    bool recursive = false;
    json_bool(c->arguments, "recursive", &recursive);
    c->under_way = session_list(c->mcp->link.client.session, c->path, recursive, listed, c);
    begun(c);
}

static cJSON *moved(const struct call *c, uint64_t size)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "path", c->path);
    cJSON_AddNumberToObject(json, "size", (double)size);
    return content_structured(c->mcp->version, json);
}

static void uploaded(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct call *c = arg;
    c->under_way = NULL;
    if (e->err)
        fail(c, e);
    else
        mcp_answer(c, moved(c, c->position));
}

static void upload_bytes(struct call *c, const void *data, size_t len)
{
    c->position = len;
    c->under_way =
        session_upload_bytes(c->mcp->link.client.session, c->path, data, len, uploaded, c);
    begun(c);
}

/* Why a file of this machine can't be had. */
static void refuse_local(struct call *c, const char *path, int err)
{
    _cleanup_buf_ struct buf text = {0};
    const char *why =
        err == -EXDEV || err == -ELOOP    ? "it leads out of the directory that is shared"
        : err == -ENOSYS || err == -EPERM ? "this kernel can't keep to a directory (openat2)"
                                          : strerror(-err);
    buf_addf(&text, "local_path %s: %s", path, why);
    mcp_answer(c, content_error(text.data ? text.data : why));
}

static bool shares(struct call *c)
{
    if (c->mcp->shared.fd >= 0)
        return true;
    mcp_answer(c,
               content_error("local_path: no directory of the user's machine is shared with this "
                             "server; the user can start it with --files DIR"));
    return false;
}

static void upload_local(struct call *c, const char *path)
{
    if (!shares(c))
        return;
    int err = shared_read(&c->mcp->shared, path, &c->local);
    if (err) {
        refuse_local(c, path, err);
        return;
    }
    c->position = c->local.size;
    c->under_way = session_upload(c->mcp->link.client.session, c->path, c->local.fd, c->local.size,
                                  uploaded, c);
    begun(c);
}

static void upload(struct call *c)
{
    const char *text = json_string(c->arguments, "text"),
               *base64 = json_string(c->arguments, "base64");
    _cleanup_buf_ struct buf bytes = {0};
    if (text) {
        upload_bytes(c, text, strlen(text));
    } else if (!base64) {
        upload_local(c, json_string(c->arguments, "local_path"));
    } else if (buf_adds(&bytes, "") || text_unbase64(&bytes, base64, strlen(base64))) {
        mcp_answer(c, content_error("base64: this is not valid base64 text (RFC 4648)"));
    } else {
        upload_bytes(c, bytes.data, bytes.len);
    }
}

static int head(void *arg, uint64_t start, int64_t size, const struct timespec *mtime)
{
    struct call *c = arg;
    buf_free(&c->content);
    c->position = 0;
    if (start)
        return -EPROTO;
    if (c->local.open)
        return ftruncate(c->local.fd, 0) ? -errno : 0;
    return size > INLINE_MAX ? -EFBIG : 0;
}

static int data(void *arg, const void *bytes, size_t len)
{
    struct call *c = arg;
    if (!c->local.open)
        return len > INLINE_MAX - c->content.len ? -EFBIG : buf_add(&c->content, bytes, len);
    for (const char *p = bytes; len;) {
        ssize_t n = pwrite(c->local.fd, p, len, (off_t)c->position);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            p += n;
            len -= (size_t)n;
            c->position += (uint64_t)n;
        }
    }
    return 0;
}

static void downloaded(void *arg, const struct session_error *e)
{
    struct call *c = arg;
    c->under_way = NULL;
    if (e->err == -EFBIG && !c->local.open) {
        mcp_answer(c, content_error("the file is larger than 4 MiB, too large for an answer: read "
                                    "the parts that matter with code_interpreter"));
        return;
    }
    if (e->err) {
        fail(c, e);
        return;
    }
    if (!c->local.open) {
        mcp_answer(c, content_file(c->path, &c->content));
        return;
    }
    int err = shared_place(&c->local);
    if (err)
        refuse_local(c, json_string(c->arguments, "local_path"), err);
    else
        mcp_answer(c, moved(c, c->position));
}

static void download(struct call *c)
{
    const struct session_sink sink = {
        .on_head = head, .on_data = data, .done = downloaded, .arg = c};
    const char *local = json_string(c->arguments, "local_path");
    if (local && !shares(c))
        return;
    int err = local ? shared_create(&c->mcp->shared, local, &c->local) : 0;
    if (err) {
        refuse_local(c, local, err);
        return;
    }
    c->under_way = session_download(c->mcp->link.client.session, c->path, 0, &sink);
    begun(c);
}

/* --- any */

static void begin_with_path(struct call *c)
{
    const char *given = json_string(c->arguments, "path");
    c->path = content_path(given ? given : "");
    if (!c->path || (!*c->path && c->tool != TOOL_LIST)) {
        mcp_answer(c, content_error("path: it must lie below /mnt/data, without \"..\""));
        return;
    }
    if (c->tool == TOOL_LIST)
        list(c);
    else if (c->tool == TOOL_UPLOAD)
        upload(c);
    else
        download(c);
}

const char *tool_begin(struct call *c)
{
    const char *wrong = content_check(c->tool, c->arguments);
    if (wrong)
        return wrong;
    if (c->tool == TOOL_CODE)
        tool_next(c->mcp);
    else
        begin_with_path(c);
    return NULL;
}

void tool_cancel(struct call *c)
{
    struct mcp *m = c->mcp;
    if (c == m->runs)
        job_cancel(m->job);
    mcp_forget(c);
    mcp_ended(m);
}
