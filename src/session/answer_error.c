#include "session/answer.h"
#include "session/answer_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

void session_error_free(struct session_error *e)
{
    free(e->code);
    free(e->message);
    free(e->versions);
    memset(e, 0, sizeof *e);
}

char *answer_line(const char *text, size_t limit)
{
    if (!text || !*text)
        return NULL;
    struct buf line = {0};
    if (text_printable(&line, text, strlen(text), limit)) {
        buf_free(&line);
        return NULL;
    }
    return buf_take(&line);
}

int answer_nonsense(struct session_error *e, const char *message)
{
    e->err = -EPROTO;
    free(e->message);
    e->message = strdup(message);
    return e->err;
}

int answer_no_memory(struct session_error *e)
{
    e->err = -ENOMEM;
    return e->err;
}

/* Codes that say more than their status does. */
static const struct {
    const char *code;
    int err;
    enum session_hint hint;
} known_codes[] = {
    {"SessionPropertiesMissing", -EPROTO, HINT_OTHER_SHAPE},
    {"SessionRequestNotSupported", -EPROTO, HINT_OTHER_VERSION},
    {"InvalidApiVersion", -EPROTO, HINT_OTHER_VERSION},
    {"InvalidApiVersionParameter", -EPROTO, HINT_OTHER_VERSION},
    {"UnsupportedApiVersion", -EPROTO, HINT_OTHER_VERSION},
    {"UnsupportedApiVersionValue", -EPROTO, HINT_OTHER_VERSION},
    {"SessionWithIdentifierNotFound", -ENOENT, HINT_NONE},
    {"NoSessionFoundError", -ENOENT, HINT_NONE},
    {"FileNotFound", -ENOENT, HINT_NONE},
};

/* The table of acafs(8). */
static int status_errno(int status)
{
    switch (status) {
    case 401:
    case 403:
        return -EACCES;
    case 404:
    case 410:
        return -ENOENT;
    case 408:
        return -ETIMEDOUT;
    case 409:
        return -EBUSY;
    case 413:
        return -EFBIG;
    case 414:
        return -ENAMETOOLONG;
    case 429:
        return -EAGAIN;
    case 501:
        return -EOPNOTSUPP;
    case 507:
        return -ENOSPC;
    }
    if (status >= 500 && status <= 599)
        return -EIO;
    return status >= 400 && status <= 499 ? -EINVAL : -EPROTO;
}

static void classify(struct session_error *e)
{
    e->err = status_errno(e->status);
    e->hint = e->status == 401 ? HINT_TOKEN : e->status == 403 ? HINT_ROLE : HINT_NONE;
    if (!e->code || e->status < 400 || e->status == 401 || e->status == 403)
        return;
    for (size_t i = 0; i < sizeof known_codes / sizeof *known_codes; i++) {
        if (strcasecmp(e->code, known_codes[i].code) == 0) {
            e->err = known_codes[i].err;
            e->hint = known_codes[i].hint;
        }
    }
}

const cJSON *answer_error_object(const cJSON *document)
{
    const cJSON *outer = json_object(document, "error");
    const cJSON *inner = json_object(outer, "error");
    return inner ? inner : outer;
}

/* An error body is {"error":{code,message}}, {code,message}, problem+json with a title,
 * {"message"}, a JSON string, or text. */
static void read_body(const struct answer *a, struct session_error *e)
{
    _cleanup_json_ cJSON *body = json_parse(a->body ? a->body : "", a->body ? a->len : 0);
    const cJSON *object = answer_error_object(body);
    if (!object)
        object = body;
    const char *message = json_string(object, "message");
    if (!message)
        message = json_string(object, "title");
    if (!message)
        message = cJSON_GetStringValue(body);
    bool html = a->content_type && strncasecmp(a->content_type, "text/html", 9) == 0;
    if (!message && !body && !html && a->len && memchr(a->body, '\0', a->len) == NULL)
        message = a->body;
    e->code = answer_line(json_string(object, "code"), CODE_LIMIT);
    e->message = answer_line(message, MESSAGE_LIMIT);
}

int answer_error(const struct answer *a, struct session_error *e)
{
    memset(e, 0, sizeof *e);
    e->status = a->status;
    if (a->status >= 200 && a->status <= 299)
        return 0;
    if (a->status >= 300 && a->status <= 399) {
        e->err = -EPROTO;
        e->message = strdup("the pool answered with a redirect, which is not followed");
        return e->err;
    }
    read_body(a, e);
    if (!e->code)
        e->code = answer_line(a->error_code, CODE_LIMIT);
    if (!e->message && a->status == 401)
        e->message = answer_line(a->www_authenticate, MESSAGE_LIMIT);
    classify(e);
    if (e->hint == HINT_OTHER_VERSION)
        e->versions = answer_line(a->supported_versions, MESSAGE_LIMIT);
    return e->err;
}

int answer_document(const struct answer *a, cJSON **out, struct session_error *e)
{
    int err = answer_error(a, e);
    if (err)
        return err;
    *out = json_parse(a->body ? a->body : "", a->body ? a->len : 0);
    return *out ? 0 : answer_nonsense(e, "the pool's answer is not JSON");
}

int answer_delete(const struct answer *a, struct session_error *e)
{
    return answer_error(a, e);
}
