/* Downloads: by GET content; by the helper, in pieces or through a stage name, where the file
 * calls can't say the path. */
#include "session/private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

/* More than this is left after the first piece: worth two helper runs for a plain transfer. */
enum { EXPOSE_FROM = 2 * INLINE_LIMIT };

struct download_call {
    struct session_call call;
    struct session_sink sink;
    char *path;
    uint64_t offset;
    bool asked_range;
    bool staged; /* the transfer is of the stage name */
    char stage[40];
    uint64_t position; /* of the next byte to give out */
    int64_t size;      /* the whole file's, -1: not known */
    uint64_t expected; /* end of this body, UINT64_MAX: not known */
    char *mtime;       /* the helper's words: pieces must be of one file */
};

static void download_finish(struct session_call *c)
{
    struct download_call *d = (struct download_call *)c;
    d->sink.done(c->arg, &c->error);
}

static void download_release(struct session_call *c)
{
    struct download_call *d = (struct download_call *)c;
    free(d->path);
    free(d->mtime);
}

static void ask_piece(struct session_call *);
static void get_content(struct session_call *, const char *path);

/* --- GET content */

/* Content-Range: bytes 5-9/10 (or an unknown size: '*'). */
static bool parse_range(const char *text, uint64_t *start, int64_t *size)
{
    unsigned long long first, last, whole;
    if (!text || strncasecmp(text, "bytes ", 6) != 0 || strchr(text, '-') == text + 6)
        return false;
    if (sscanf(text + 6, "%19llu-%19llu/%19llu", &first, &last, &whole) == 3) {
        if (first > last || last >= whole || whole > INT64_MAX)
            return false;
        *size = (int64_t)whole;
    } else if (sscanf(text + 6, "%19llu-%19llu/*", &first, &last) == 2 && first <= last) {
        *size = -1;
    } else {
        return false;
    }
    *start = first;
    return true;
}

static int64_t content_length(struct http_call *http)
{
    const char *text = http_header(http, "Content-Length");
    const char *coding = http_header(http, "Content-Encoding");
    if (!text || (coding && strcasecmp(coding, "identity") != 0))
        return -1;
    size_t digits = strspn(text, "0123456789");
    return digits && digits < 19 && !text[digits] ? strtoll(text, NULL, 10) : -1;
}

static int content_head(void *arg, struct http_call *http, int status)
{
    struct download_call *d = arg;
    struct session *s = d->call.session;
    uint64_t start = 0;
    int64_t size = content_length(http);
    d->expected = size >= 0 ? (uint64_t)size : UINT64_MAX;
    if (status == 206) {
        int64_t body = size;
        if (!d->asked_range || !parse_range(http_header(http, "Content-Range"), &start, &size) ||
            start > d->offset)
            return -EPROTO;
        d->expected = body >= 0 ? start + (uint64_t)body : size >= 0 ? (uint64_t)size : UINT64_MAX;
        s->ranges = 1;
    } else if (d->asked_range) {
        s->ranges = 0;
    }
    const char *date = http_header(http, "Last-Modified");
    time_t seconds = date ? curl_getdate(date, NULL) : -1;
    const struct timespec mtime = {.tv_sec = seconds};
    d->position = start;
    d->size = size;
    return d->sink.on_head(d->call.arg, start, size, seconds >= 0 ? &mtime : NULL);
}

static int content_data(void *arg, const void *data, size_t len)
{
    struct download_call *d = arg;
    d->position += len;
    if (d->position > d->expected)
        return -EPROTO;
    return d->sink.on_data(d->call.arg, data, len); /* may cancel: nothing of d after it */
}

static void dropped(struct session_call *c, const cJSON *value)
{
    call_forget_error(c); /* a stage name left over is a nuisance, no failure */
    call_end(c);
}

static void end_content(struct session_call *c)
{
    struct download_call *d = (struct download_call *)c;
    if (!d->staged) {
        call_end(c);
        return;
    }
    cJSON *request = helper_op("drop", NULL);
    cJSON_AddStringToObject(request, "name", d->stage);
    if (c->error.err) {
        /* The failure is what the caller waits for; tidying goes on without it. */
        helper_ask(c->session, request, NULL, NULL);
        call_end(c);
    } else {
        call_ask(c, request, dropped);
    }
}

/* The offset is at or behind the end. */
static bool nothing_there(struct session_call *c, const struct answer *a)
{
    struct download_call *d = (struct download_call *)c;
    return a && a->status == 416 && d->asked_range;
}

static void content_done(struct session_call *c, const struct answer *a)
{
    struct download_call *d = (struct download_call *)c;
    if (nothing_there(c, a)) {
        bool gone = false;
        c->gone = &gone;
        int err = d->sink.on_head(c->arg, d->offset, -1, NULL);
        if (gone)
            return;
        c->gone = NULL;
        c->error.err = err;
        end_content(c);
        return;
    }
    if (a && answer_error(a, &c->error) == 0 && d->expected != UINT64_MAX &&
        d->position != d->expected) {
        c->error.err = -EIO;
        c->error.message = strdup("the file's content ended early");
    }
    if (!d->staged && c->error.err && name_refused(c, d->path)) {
        ask_piece(c);
        return;
    }
    end_content(c);
}

static void get_content(struct session_call *c, const char *path)
{
    struct download_call *d = (struct download_call *)c;
    char range[48];
    const char *headers[] = {range, NULL};
    snprintf(range, sizeof range, "Range: bytes=%llu-", (unsigned long long)d->offset);
    d->asked_range = d->offset > 0 && c->session->ranges != 0;
    struct http_request r = {.method = "GET",
                             .retry = HTTP_RETRY_SAFE,
                             .headers = d->asked_range ? headers : NULL,
                             .on_head = content_head,
                             .on_data = content_data};
    wire_defaults(c->session, &r);
    call_send(c, &r, url_file(c->session, path, true), content_done);
}

/* --- by the helper: {"data": base64, "size": n, "mtime": text} */

static void exposed(struct session_call *c, const cJSON *value)
{
    struct download_call *d = (struct download_call *)c;
    const char *name = json_string(value, "name");
    if (!value) {
        call_end(c);
    } else if (!name || strlen(name) >= sizeof d->stage || strchr(name, '/')) {
        call_fail(c, -EPROTO, "the helper's answer names no stage file");
    } else {
        strcpy(d->stage, name);
        d->staged = true;
        d->offset = d->position;
        get_content(c, d->stage);
    }
}

/* Gives out one piece; false: the call has ended. */
static bool give_piece(struct session_call *c, const struct buf *data, const char *mtime)
{
    struct download_call *d = (struct download_call *)c;
    bool gone = false, first = !d->mtime;
    int err = 0;
    c->gone = &gone;
    if (first) {
        struct timespec time = {.tv_nsec = -1};
        d->mtime = strdup(mtime);
        bool known = d->mtime && text_parse_time(mtime, &time) == 0;
        err = d->sink.on_head(c->arg, d->position, d->size, known ? &time : NULL);
    }
    if (!gone && !err && data->len) {
        d->position += data->len;
        err = d->sink.on_data(c->arg, data->data, data->len);
    }
    if (gone)
        return false;
    c->gone = NULL;
    if (err || !d->mtime)
        call_fail(c, err ? err : -ENOMEM, NULL);
    return !err;
}

static void piece_came(struct session_call *c, const cJSON *value)
{
    struct download_call *d = (struct download_call *)c;
    if (!value) {
        call_end(c);
        return;
    }
    _cleanup_buf_ struct buf data = {0};
    const char *text = json_string(value, "data"), *mtime = json_string(value, "mtime");
    uint64_t size;
    if (!text || !mtime || !json_uint(value, "size", &size) ||
        text_unbase64(&data, text, strlen(text)) || data.len > INLINE_LIMIT) {
        call_fail(c, -EPROTO, "the helper's answer holds no content");
        return;
    }
    if (d->mtime && (strcmp(d->mtime, mtime) != 0 || (int64_t)size != d->size)) {
        call_fail(c, -EIO, "the file changed while it was read");
        return;
    }
    d->size = (int64_t)size;
    if (!give_piece(c, &data, mtime))
        return;
    if (d->position >= size)
        call_end(c);
    else if (data.len == 0)
        call_fail(c, -EIO, "the file's content ended early");
    else if (size - d->position > EXPOSE_FROM)
        call_ask(c, helper_op("expose", d->path), exposed);
    else
        ask_piece(c);
}

static void ask_piece(struct session_call *c)
{
    struct download_call *d = (struct download_call *)c;
    call_forget_error(c);
    if (!d->mtime)
        d->position = d->offset;
    cJSON *request = helper_op("get", d->path);
    cJSON_AddNumberToObject(request, "offset", (double)d->position);
    cJSON_AddNumberToObject(request, "length", INLINE_LIMIT);
    call_ask(c, request, piece_came);
}

static void download_begin(struct session_call *c)
{
    struct download_call *d = (struct download_call *)c;
    if (session_path_plain(c->session, d->path))
        get_content(c, d->path);
    else
        ask_piece(c);
}

struct session_call *session_download(struct session *s, const char *path, uint64_t offset,
                                      const struct session_sink *sink)
{
    static const struct call_kind kind = {download_begin, download_finish, download_release};
    struct download_call *d = call_new(s, sizeof *d, &kind, sink->arg);
    if (!d)
        return NULL;
    d->sink = *sink;
    d->offset = offset;
    d->size = -1;
    d->expected = UINT64_MAX;
    d->path = strdup(path);
    if (!d->path)
        d->call.error.err = -ENOMEM;
    return &d->call;
}
