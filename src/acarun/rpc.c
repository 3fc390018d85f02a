#include "acarun/rpc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/span.h"

static void message_free(struct rpc_message *m)
{
    free(m->id);
    free(m->method);
    free(m->request);
    free(m->token);
    cJSON_Delete(m->params);
}

void rpc_line_free(struct rpc_line *l)
{
    for (size_t i = 0; i < l->count; i++)
        message_free(&l->messages[i]);
    free(l->messages);
    *l = (struct rpc_line){0};
}

/* --- reading */

/* The text of an identifier; NULL when it is none. */
static char *identifier(struct span s)
{
    bool is_number = s.len && (*s.at == '-' || (*s.at >= '0' && *s.at <= '9'));
    return is_number || span_is(s, '"') ? strndup(s.at, s.len) : NULL;
}

static void bad(struct rpc_message *m, int code, const char *why)
{
    m->kind = RPC_BAD;
    m->code = code;
    m->why = why;
}

static void read_params(struct span params, struct rpc_message *m)
{
    if (!params.at)
        return;
    if (!span_is(params, '{')) { /* by position: no method here has such */
        bad(m, RPC_INVALID_PARAMS, "params is no object");
        return;
    }
    m->params = json_parse(params.at, params.len);
    if (!m->params)
        bad(m, RPC_PARSE_ERROR, "a string in params is no text");
    else if (json_has_nul(params.at, params.len)) /* which would come out as another character */
        bad(m, RPC_INVALID_PARAMS, "a string in params holds \\u0000; base64 can hold any byte");
    m->request = identifier(span_member(params, "requestId"));
    m->token = identifier(span_member(span_member(params, "_meta"), "progressToken"));
}

static void read_message(struct span s, struct rpc_message *m)
{
    struct span id = span_member(s, "id"), method = span_member(s, "method");
    *m = (struct rpc_message){.id = identifier(id), .kind = id.at ? RPC_REQUEST : RPC_NOTIFICATION};
    _cleanup_free_ char *version = span_string(span_member(s, "jsonrpc"));
    if (!version || strcmp(version, "2.0") != 0) {
        bad(m, RPC_INVALID_REQUEST, "it is no message of JSON-RPC 2.0");
        return;
    }
    if (!method.at && (span_member(s, "result").at || span_member(s, "error").at)) {
        m->kind = RPC_RESPONSE;
        return;
    }
    m->method = span_string(method);
    if (!m->method)
        bad(m, RPC_INVALID_REQUEST, "it has no method");
    else if (id.at && !m->id)
        bad(m, RPC_INVALID_REQUEST, "its id is neither text nor a number");
    else
        read_params(span_member(s, "params"), m);
    if (m->kind == RPC_BAD && !id.at && m->method)
        m->kind = RPC_NOTIFICATION; /* nobody waits for an answer, and it says nothing */
}

static int read_batch(struct span batch, struct rpc_line *out)
{
    struct span item = {0};
    size_t n = 0;
    while (span_next(batch, &item))
        n++;
    struct rpc_message *messages = calloc(n, sizeof *messages);
    if (!messages)
        return -ENOMEM;
    free(out->messages);
    *out = (struct rpc_line){.messages = messages, .batch = true};
    item = (struct span){0};
    while (span_next(batch, &item))
        read_message(item, &messages[out->count++]);
    return 0;
}

int rpc_parse(const char *line, size_t len, struct rpc_line *out)
{
    struct span top, first = {0};
    *out = (struct rpc_line){.messages = calloc(1, sizeof *out->messages), .count = 1};
    if (!out->messages) {
        out->count = 0;
        return -ENOMEM;
    }
    if (!span_check(line, len, SPAN_DEPTH, &top, NULL))
        bad(out->messages, RPC_PARSE_ERROR, "it is no JSON");
    else if (span_next(top, &first))
        return read_batch(top, out);
    else
        read_message(top, out->messages);
    return 0;
}

/* --- writing */

static int begin(struct buf *out, const char *id)
{
    return buf_addf(out, "{\"jsonrpc\":\"2.0\",\"id\":%s,", id ? id : "null");
}

/* A member whose value is taken over. */
static int add(struct buf *out, const char *name, cJSON *value)
{
    _cleanup_json_ cJSON *own = value;
    _cleanup_free_ char *text = own ? cJSON_PrintUnformatted(own) : NULL;
    return text ? buf_addf(out, "\"%s\":%s", name, text) : -ENOMEM;
}

int rpc_result(struct buf *out, const char *id, const cJSON *result)
{
    _cleanup_free_ char *text = cJSON_PrintUnformatted(result);
    int err = text ? begin(out, id) : -ENOMEM;
    return err ? err : buf_addf(out, "\"result\":%s}", text);
}

int rpc_error(struct buf *out, const char *id, int code, const char *message)
{
    int err = begin(out, id);
    err = err ? err : buf_addf(out, "\"error\":{\"code\":%d,", code);
    err = err ? err : add(out, "message", cJSON_CreateString(message));
    return err ? err : buf_adds(out, "}}");
}

int rpc_notification(struct buf *out, const char *method, const cJSON *params)
{
    _cleanup_free_ char *text = cJSON_PrintUnformatted(params);
    return text ? buf_addf(out, "{\"jsonrpc\":\"2.0\",\"method\":\"%s\",\"params\":%s}", method,
                           text)
                : -ENOMEM;
}
