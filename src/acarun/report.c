#include "acarun/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/text.h"

void report_free(struct report *r)
{
    free(r->message);
    cJSON_Delete(r->value);
    free(r->text);
    cJSON_Delete(r->images);
    *r = (struct report){0};
}

/* --- strings of any bytes */

/* The length of the UTF-8 character at s, 0 when there is none. */
static size_t character(const char *s, size_t len)
{
    for (size_t n = 1; n <= 4 && n <= len; n++) {
        if (text_is_utf8(s, n))
            return n;
    }
    return 0;
}

static int add_escaped(struct buf *json, char c)
{
    switch (c) {
    case '"':
        return buf_adds(json, "\\\"");
    case '\\':
        return buf_adds(json, "\\\\");
    case '\n':
        return buf_adds(json, "\\n");
    case '\t':
        return buf_adds(json, "\\t");
    case '\r':
        return buf_adds(json, "\\r");
    default:
        return buf_addf(json, "\\u%04x", (unsigned char)c);
    }
}

static bool is_plain(char c)
{
    return (unsigned char)c >= ' ' && c != '"' && c != '\\' && (unsigned char)c < 0x7f;
}

int report_json_string(struct buf *json, const char *data, size_t len, bool *exact)
{
    bool all = true;
    int err = buf_adds(json, "\"");
    while (len && !err) {
        size_t n = 0;
        while (n < len && is_plain(data[n]))
            n++;
        if (n == 0 && (unsigned char)*data >= 0x80)
            n = character(data, len);
        else if (n == 0)
            err = add_escaped(json, *data);
        if (n)
            err = buf_add(json, data, n);
        else if ((unsigned char)*data >= 0x80) {
            err = buf_adds(json, "\xef\xbf\xbd");
            all = false;
        }
        n = n ? n : 1;
        data += n;
        len -= n;
    }
    if (exact)
        *exact = all;
    return err ? err : buf_adds(json, "\"");
}

/* --- the result */

/* With a space after each comma and colon, as json.dumps() has it. */
static int add_spaced(struct buf *json, const char *text)
{
    bool quoted = false;
    int err = 0;
    for (; *text && !err; text++) {
        err = buf_add(json, text, 1);
        if (*text == '"')
            quoted = !quoted;
        else if (quoted && *text == '\\' && !err)
            err = buf_add(json, ++text, 1);
        else if (!quoted && (*text == ',' || *text == ':') && !err)
            err = buf_adds(json, " ");
    }
    return err;
}

int report_result(const struct report *r, struct buf *json)
{
    if (strcmp(r->state, "lost") == 0) {
        const char *why = r->message ? r->message : "";
        int err = buf_adds(json, "{\"status\": \"lost\", \"message\": ");
        err = err ? err : report_json_string(json, why, strlen(why), NULL);
        return err ? err : buf_adds(json, "}");
    }
    if (r->text)
        return buf_adds(json, r->text);
    _cleanup_free_ char *text = r->value ? cJSON_PrintUnformatted(r->value) : strdup("null");
    return text ? add_spaced(json, text) : -ENOMEM;
}

/* --- the document */

static int add_member(cJSON *object, const char *name, struct buf *raw)
{
    return cJSON_AddRawToObject(object, name, raw->data) ? 0 : -ENOMEM;
}

static int add_stream(cJSON *object, const char *name, const struct buf *bytes)
{
    _cleanup_buf_ struct buf raw = {0}, base64 = {0}, longer = {0};
    bool exact;
    int err = report_json_string(&raw, bytes->data, bytes->len, &exact);
    if (!err)
        err = add_member(object, name, &raw);
    if (err || exact)
        return err;
    if (buf_addf(&longer, "%s_base64", name) || text_base64(&base64, bytes->data, bytes->len) ||
        !cJSON_AddStringToObject(object, longer.data, base64.data))
        return -ENOMEM;
    return 0;
}

static cJSON *text_or_null(const char *text)
{
    return text ? cJSON_CreateString(text) : cJSON_CreateNull();
}

int report_json(const struct report *r, const struct buf *out, const struct buf *err,
                const char *session, struct buf *json)
{
    _cleanup_json_ cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "status", r->state);
    cJSON_AddNumberToObject(object, "exit_code", r->exit_code);
    if (add_stream(object, "stdout", out) || add_stream(object, "stderr", err))
        return -ENOMEM;
    cJSON_AddItemToObject(object, "result",
                          r->value ? cJSON_Duplicate(r->value, true) : cJSON_CreateNull());
    cJSON_AddItemToObject(object, "images",
                          r->images ? cJSON_Duplicate(r->images, true) : cJSON_CreateArray());
    cJSON_AddNumberToObject(object, "milliseconds", (double)r->milliseconds);
    cJSON_AddItemToObject(object, "message", text_or_null(r->message));
    cJSON_AddItemToObject(object, "session", text_or_null(session));
    _cleanup_free_ char *text = cJSON_PrintUnformatted(object);
    return text ? buf_addf(json, "%s\n", text) : -ENOMEM;
}
