#include "session/answer.h"
#include "session/answer_private.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

void execution_free(struct execution *x)
{
    free(x->id);
    free(x->out);
    free(x->err);
    cJSON_Delete(x->result);
    buf_free(&x->image);
    free(x->code);
    free(x->message);
    memset(x, 0, sizeof *x);
}

static const struct {
    const char *word;
    enum execution_state state;
} states[] = {
    {"NotStarted", EXECUTION_RUNNING},  {"Running", EXECUTION_RUNNING},
    {"Succeeded", EXECUTION_SUCCEEDED}, {"Success", EXECUTION_SUCCEEDED},
    {"Failed", EXECUTION_FAILED},       {"Failure", EXECUTION_FAILED},
    {"Canceled", EXECUTION_CANCELED},   {"Cancelled", EXECUTION_CANCELED},
};

static bool read_state(const char *word, enum execution_state *out)
{
    for (size_t i = 0; word && i < sizeof states / sizeof *states; i++) {
        if (strcasecmp(word, states[i].word) == 0) {
            *out = states[i].state;
            return true;
        }
    }
    return false;
}

/* An image format that may end a file name. */
static void set_extension(struct execution *x, const char *format)
{
    size_t len = format ? strlen(format) : 0;
    bool safe = len >= 1 && len < sizeof x->extension;
    for (size_t i = 0; i < len && safe; i++)
        safe = isalnum((unsigned char)format[i]);
    strcpy(x->extension, safe ? format : "img");
}

/* {"type":"image","format":...,"base64_data":...}: the bytes move to x->image. Data that
 * is no base64 stays where it is. */
static int take_image(struct execution *x)
{
    const char *type = json_string(x->result, "type");
    const char *data = json_string(x->result, "base64_data");
    if (!type || strcmp(type, "image") != 0 || !data)
        return 0;
    int err = text_unbase64(&x->image, data, strlen(data));
    if (err || x->image.len == 0) {
        buf_free(&x->image);
        return err == -ENOMEM ? err : 0;
    }
    set_extension(x, json_string(x->result, "format"));
    cJSON_DeleteItemFromObjectCaseSensitive(x->result, "base64_data");
    return 0;
}

static int copy_text(const cJSON *object, const char *name, char **out)
{
    const char *text = json_string(object, name);
    if (!text)
        return 0;
    *out = strdup(text);
    return *out ? 0 : -ENOMEM;
}

/* The members of `result` (new) or `properties` (old). */
static int read_result(cJSON *holder, struct execution *x)
{
    int err = copy_text(holder, "stdout", &x->out);
    if (!err)
        err = copy_text(holder, "stderr", &x->err);
    uint64_t milliseconds;
    if (json_uint(holder, "executionTimeInMilliseconds", &milliseconds))
        x->milliseconds = (int64_t)milliseconds;
    x->result = cJSON_DetachItemFromObjectCaseSensitive(holder, "executionResult");
    if (!x->result)
        x->result = cJSON_DetachItemFromObjectCaseSensitive(holder, "result");
    return err ? err : take_image(x);
}

/* The service's own limit shows in the words of stderr only. */
static bool timed_out(const struct execution *x)
{
    return x->state == EXECUTION_FAILED && x->err &&
           strstr(x->err, "Request timed out waiting for code execution to complete") == x->err;
}

int answer_execute(const struct answer *a, struct execution *out, struct session_error *e)
{
    memset(out, 0, sizeof *out);
    out->milliseconds = -1;
    _cleanup_json_ cJSON *body = NULL;
    int err = answer_document(a, &body, e);
    if (err)
        return err;
    cJSON *properties = cJSON_GetObjectItemCaseSensitive(body, "properties");
    cJSON *top = cJSON_IsObject(properties) ? properties : body;
    if (!read_state(json_string(top, "status"), &out->state))
        return answer_nonsense(e, "the pool's answer to an execution has no known status");

    cJSON *holder = cJSON_GetObjectItemCaseSensitive(top, "result");
    if (top == properties && !json_string(holder, "stdout") && !json_string(holder, "stderr"))
        holder = top;
    err = copy_text(top, "id", &out->id);
    if (!err && !out->id && top != body)
        err = copy_text(body, "id", &out->id);
    if (!err && cJSON_IsObject(holder))
        err = read_result(holder, out);
    const cJSON *error = answer_error_object(top);
    out->code = answer_line(json_string(error, "code"), CODE_LIMIT);
    out->message = answer_line(json_string(error, "message"), MESSAGE_LIMIT);
    if (timed_out(out))
        out->state = EXECUTION_TIMED_OUT;
    if (err) {
        execution_free(out);
        return answer_no_memory(e);
    }
    return 0;
}
