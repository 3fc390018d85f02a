#include "acapool/form.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util/text.h"

enum { HEADERS_MAX = 8192, BOUNDARY_MAX = 70 };

/* --- header parameters */

static const char *skip_space(const char *at)
{
    return at + strspn(at, " \t");
}

/* Appends one value, quoted or not; returns where it ends. */
static const char *read_value(const char *at, struct buf *out)
{
    if (*at != '"') {
        size_t len = strcspn(at, "; \t");
        buf_add(out, at, len);
        return at + len;
    }
    for (at++; *at && *at != '"'; at++) {
        /* Browsers and their like escape the quote; a lone backslash is a Windows path's. */
        if (at[0] == '\\' && (at[1] == '"' || at[1] == '\\'))
            at++;
        buf_add(out, at, 1);
    }
    return *at ? at + 1 : at;
}

static int hex(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *found = c ? strchr(digits, c >= 'A' && c <= 'F' ? c | 0x20 : c) : NULL;
    return found ? (int)(found - digits) : -1;
}

/* RFC 8187: utf-8'LANGUAGE'%e2%82%ac. False for another charset and for what is none. */
static bool decode_extended(const char *text, struct buf *out)
{
    const char *at = strncasecmp(text, "utf-8'", 6) == 0 ? strchr(text + 6, '\'') : NULL;
    if (!at)
        return false;
    for (at++; *at; at++) {
        char c = *at;
        if (c == '%') {
            int high = hex(at[1]), low = high < 0 ? -1 : hex(at[2]);
            if (low < 0 || (high == 0 && low == 0))
                return false;
            c = (char)(high << 4 | low);
            at += 2;
        }
        buf_add(out, &c, 1);
    }
    return out->data && text_is_utf8(out->data, out->len);
}

bool form_parameter(const char *header, const char *name, struct buf *out)
{
    size_t len = strlen(name);
    bool found = false, extended = false;
    _cleanup_buf_ struct buf value = {0}, decoded = {0};
    for (const char *at = strchr(header, ';'); at && *at;) {
        at = skip_space(at + 1);
        bool ours = strncasecmp(at, name, len) == 0;
        bool star = ours && at[len] == '*';
        const char *equals = at + strcspn(at, "=;");
        ours = ours && equals == at + len + star && *equals == '=';
        value.len = decoded.len = 0;
        at = *equals == '=' ? read_value(skip_space(equals + 1), &value) : equals;
        at += strcspn(at, ";");
        if (!ours || extended || (found && !star))
            continue;
        if (star && !decode_extended(value.data ? value.data : "", &decoded))
            continue;
        const struct buf *chosen = star ? &decoded : &value;
        out->len = 0;
        buf_add(out, chosen->len ? chosen->data : "", chosen->len);
        found = true;
        extended = star;
    }
    return found;
}

/* --- the stream */

int form_init(struct form *f, const char *content_type, const struct form_handler *handler)
{
    *f = (struct form){.handler = *handler};
    static const char kind[] = "multipart/form-data";
    _cleanup_buf_ struct buf boundary = {0};
    if (!content_type || strncasecmp(content_type, kind, sizeof kind - 1) != 0 ||
        !form_parameter(content_type, "boundary", &boundary) || boundary.len == 0 ||
        boundary.len > BOUNDARY_MAX)
        return -EINVAL;
    memcpy(f->delimiter, "\r\n--", 4);
    memcpy(f->delimiter + 4, boundary.data, boundary.len);
    f->delimiter_len = 4 + boundary.len;
    /* The first delimiter may stand at the very start: as if a line had ended before it. */
    return buf_add(&f->pending, "\r\n", 2);
}

void form_free(struct form *f)
{
    buf_free(&f->pending);
}

bool form_complete(const struct form *f)
{
    return f->state == FORM_EPILOGUE;
}

static const char *find(const struct form *f, const char *what, size_t len)
{
    return memmem(f->pending.data, f->pending.len, what, len);
}

/* Each step returns 1 when there may be more to do, 0 when it needs more bytes. */

static int take_preamble(struct form *f)
{
    const char *at = find(f, f->delimiter, f->delimiter_len);
    size_t keep = f->delimiter_len - 1;
    if (at) {
        buf_consume(&f->pending, (size_t)(at - f->pending.data) + f->delimiter_len);
        f->state = FORM_BOUNDARY;
    } else if (f->pending.len > keep) {
        buf_consume(&f->pending, f->pending.len - keep);
    }
    return at != NULL;
}

static int take_boundary(struct form *f)
{
    if (f->pending.len < 2)
        return 0;
    if (memcmp(f->pending.data, "--", 2) == 0) {
        f->state = FORM_EPILOGUE;
        return 0;
    }
    size_t padding = strspn(f->pending.data, " \t");
    if (f->pending.len < padding + 2)
        return padding > HEADERS_MAX ? -EBADMSG : 0;
    if (memcmp(f->pending.data + padding, "\r\n", 2) != 0)
        return -EBADMSG;
    /* The line end stays: headers are lines that follow one, and there may be none. */
    buf_consume(&f->pending, padding);
    f->state = FORM_HEADERS;
    return 1;
}

static void begin_part(struct form *f, char *headers)
{
    _cleanup_buf_ struct buf name = {0}, file_name = {0};
    bool has_file = false;
    static const char wanted[] = "content-disposition:";
    char *rest = headers, *line;
    while ((line = strsep(&rest, "\n"))) {
        line[strcspn(line, "\r")] = '\0';
        if (strncasecmp(line, wanted, sizeof wanted - 1) != 0)
            continue;
        form_parameter(line, "name", &name);
        has_file = form_parameter(line, "filename", &file_name);
    }
    f->handler.part(f->handler.arg, name.data ? name.data : "",
                    !has_file       ? NULL
                    : file_name.len ? file_name.data
                                    : "");
}

static int take_headers(struct form *f)
{
    char *at = (char *)find(f, "\r\n\r\n", 4);
    if (!at)
        return f->pending.len > HEADERS_MAX ? -EBADMSG : 0;
    size_t len = (size_t)(at - f->pending.data);
    if (len > HEADERS_MAX || memchr(f->pending.data, '\0', len))
        return -EBADMSG;
    *at = '\0';
    begin_part(f, f->pending.data);
    /* A delimiter may follow at once, with the line end that closes the headers. */
    buf_consume(&f->pending, len + 2);
    f->skip = 2;
    f->state = FORM_BODY;
    return 1;
}

/* Hands over the first len bytes of what is pending. */
static void deliver(struct form *f, size_t len)
{
    size_t skip = len < f->skip ? len : f->skip;
    f->skip -= skip;
    if (len > skip)
        f->handler.data(f->handler.arg, f->pending.data + skip, len - skip);
    buf_consume(&f->pending, len);
}

static int take_body(struct form *f)
{
    const char *at = find(f, f->delimiter, f->delimiter_len);
    size_t keep = f->delimiter_len - 1;
    if (at) {
        deliver(f, (size_t)(at - f->pending.data));
        buf_consume(&f->pending, f->delimiter_len);
        f->skip = 0;
        f->state = FORM_BOUNDARY;
    } else if (f->pending.len > keep) {
        deliver(f, f->pending.len - keep);
    }
    return at != NULL;
}

static int take(struct form *f)
{
    switch (f->state) {
    case FORM_PREAMBLE:
        return take_preamble(f);
    case FORM_BOUNDARY:
        return take_boundary(f);
    case FORM_HEADERS:
        return take_headers(f);
    case FORM_BODY:
        return take_body(f);
    default:
        buf_consume(&f->pending, f->pending.len); /* what follows means nothing */
        return 0;
    }
}

int form_feed(struct form *f, const char *data, size_t len)
{
    int state = buf_add(&f->pending, data, len);
    if (!state)
        state = 1;
    while (state == 1)
        state = take(f);
    return state;
}
