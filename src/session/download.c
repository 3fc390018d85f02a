/* Downloads: by GET content; by the helper, in pieces or through a stage name, where the file
 * calls can't say the path.
 *
 * A server that ignores `path` would give the file of the same name at the top. So until one file
 * of a directory came that has no namesake at the top, the top is asked first, and the helper is
 * believed rather than a 404. */
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
    uint64_t offset, stop; /* UINT64_MAX: to the end */
    bool asked_range;
    bool unverified;   /* the first of a directory: see above */
    bool missing;      /* GET content said so */
    char stage[40];    /* the transfer is of this name, unless empty */
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
    cJSON *names = *d->stage ? cJSON_CreateArray() : NULL;
    if (names) {
        cJSON_AddItemToArray(names, cJSON_CreateString(d->stage));
        stage_drop(c->session, names);
    }
    free(d->path);
    free(d->mtime);
}

static void ask_piece(struct session_call *);

/* --- GET content */

bool content_range(const char *text, uint64_t *start, int64_t *size)
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
        if (!d->asked_range || !content_range(http_header(http, "Content-Range"), &start, &size) ||
            start > d->offset)
            return -EPROTO;
        d->expected = body >= 0 ? start + (uint64_t)body : size >= 0 ? (uint64_t)size : UINT64_MAX;
        s->ranges = 1;
    } else if (d->asked_range) {
        s->ranges = 0;
    }
    if (d->unverified)
        s->content = PATH_GOOD;
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

/* Tidying is waited for where the file came well: a program may end after it. */
static void dropped(struct session_call *c, const cJSON *value)
{
    struct download_call *d = (struct download_call *)c;
    if (value)
        *d->stage = '\0';
    call_forget_error(c); /* a stage file left over is a nuisance, no failure */
    call_end(c);
}

static void end_content(struct session_call *c)
{
    struct download_call *d = (struct download_call *)c;
    if (!*d->stage || c->error.err) {
        call_end(c);
        return;
    }
    cJSON *request = helper_op("drop", NULL);
    cJSON *names = cJSON_AddArrayToObject(request, "names");
    cJSON_AddItemToArray(names, cJSON_CreateString(d->stage));
    call_ask(c, request, dropped);
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
    d->missing = d->unverified && c->error.err == -ENOENT;
    if (!*d->stage && c->error.err && (d->missing || name_refused(c, d->path)))
        ask_piece(c);
    else
        end_content(c);
}

static void get_content(struct session_call *c, const char *path)
{
    struct download_call *d = (struct download_call *)c;
    char range[64];
    const char *headers[] = {range, NULL};
    int n = snprintf(range, sizeof range, "Range: bytes=%llu-", (unsigned long long)d->offset);
    if (d->stop != UINT64_MAX)
        snprintf(range + n, sizeof range - (size_t)n, "%llu", (unsigned long long)d->stop - 1);
    d->asked_range = (d->offset > 0 || d->stop != UINT64_MAX) && c->session->ranges != 0;
    struct http_request r = {.kind = HTTP_KIND_DOWNLOAD,
                             .method = "GET",
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
    if (!value) {
        call_end(c);
        return;
    }
    d->unverified = false;
    d->offset = d->position;
    get_content(c, d->stage);
}

static void expose(struct session_call *c)
{
    struct download_call *d = (struct download_call *)c;
    stage_name(d->stage, STAGE_PREFIX);
    cJSON *request = helper_op("expose", d->path);
    cJSON_AddStringToObject(request, "stage", d->stage);
    call_ask(c, request, exposed);
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
    if (d->missing)
        c->session->content = PATH_BAD;
    d->size = (int64_t)size;
    if (!give_piece(c, &data, mtime))
        return;
    uint64_t end = size < d->stop ? size : d->stop;
    if (d->position >= end)
        call_end(c);
    else if (data.len == 0)
        call_fail(c, -EIO, "the file's content ended early");
    else if (end - d->position > EXPOSE_FROM)
        expose(c);
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

/* Whether there is a file of the same name at the top. */
static void top_known(struct session_call *c, const struct answer *a)
{
    struct download_call *d = (struct download_call *)c;
    bool none = a && answer_error(a, &c->error) && c->error.status == 404;
    call_forget_error(c);
    if (none)
        get_content(c, d->path);
    else
        ask_piece(c);
}

static void download_begin(struct session_call *c)
{
    struct download_call *d = (struct download_call *)c;
    struct session *s = c->session;
    bool below = strchr(d->path, '/') != NULL;
    if (!session_path_plain(s, d->path) || (below && s->content == PATH_BAD)) {
        ask_piece(c);
    } else if (below && s->content == PATH_UNKNOWN) {
        d->unverified = true;
        if (d->sink.no_namesake)
            get_content(c, d->path);
        else
            call_stat(c, path_base(d->path), top_known);
    } else {
        get_content(c, d->path);
    }
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
    d->stop = sink->length ? offset + sink->length : UINT64_MAX;
    d->size = -1;
    d->expected = UINT64_MAX;
    d->path = strdup(path);
    if (!d->path)
        d->call.error.err = -ENOMEM;
    return &d->call;
}
