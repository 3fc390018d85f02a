#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "acapool/execution.h"
#include "acapool/request.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

enum { STREAMS_MAX = 4096 }; /* characters, where the request does not say */

/* --- what is asked for */

static void invalid(struct request *r, const char *what)
{
    reply_error(r, 400, "SessionRequestValidationFailed", "%s", what);
}

/* The service's framework answers bodies that are no JSON by itself. */
static void not_json(struct request *r)
{
    reply_text(r, 400, "application/problem+json; charset=utf-8",
               "{\"type\":\"https://tools.ietf.org/html/rfc9110#section-15.5.1\",\"title\":\"One "
               "or more validation errors occurred.\",\"status\":400,\"errors\":{\"$\":[\"The JSON "
               "value could not be converted.\"]}}");
}

static bool read_type(struct request *r, const cJSON *body, bool *asynchronous)
{
    const char *type = json_string(body, "executionType");
    *asynchronous = type && strcasecmp(type, "asynchronous") == 0;
    if (!type || *asynchronous || strcasecmp(type, "synchronous") == 0)
        return true;
    invalid(r, "executionType is neither Synchronous nor Asynchronous.");
    return false;
}

static bool read_timeout(struct request *r, const cJSON *body, int64_t *ms)
{
    int64_t most = pool_options(r->pool)->execution_timeout_s * 1000;
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(body, "timeoutInSeconds");
    uint64_t seconds = 0;
    *ms = most;
    if (!member || cJSON_IsNull(member))
        return true;
    if (!json_uint(body, "timeoutInSeconds", &seconds) || seconds == 0) {
        invalid(r, "timeoutInSeconds is not a positive whole number.");
        return false;
    }
    if (seconds < (uint64_t)most / 1000)
        *ms = (int64_t)seconds * 1000;
    return true;
}

static bool read_streams(struct request *r, const cJSON *body, uint64_t *most)
{
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(body, "outputStreamsMaxLength");
    *most = STREAMS_MAX;
    if (!member || cJSON_IsNull(member) || json_uint(body, "outputStreamsMaxLength", most))
        return true;
    invalid(r, "outputStreamsMaxLength is not a whole number.");
    return false;
}

/* *code is of the body, or decoded into *decoded. */
static bool read_code(struct request *r, const cJSON *body, struct buf *decoded, const char **code)
{
    const char *type = json_string(body, "codeInputType");
    *code = json_string(body, "code");
    if (!*code) {
        reply_error(r, 400, "SessionPropertiesMissing",
                    "The request body lacks the required property 'code'.");
        return false;
    }
    if (!type || strcasecmp(type, "inline") == 0 || strcasecmp(type, "inlineText") == 0)
        return true;
    if (strcasecmp(type, "inlineBase64") != 0) {
        invalid(r, "codeInputType is none of Inline, InlineBase64, InlineText.");
        return false;
    }
    if (text_unbase64(decoded, *code, strlen(*code)) ||
        (decoded->data && memchr(decoded->data, '\0', decoded->len))) {
        invalid(r, "code is not text in base64.");
        return false;
    }
    *code = decoded->data ? decoded->data : "";
    return true;
}

static bool read_id(struct request *r, const char **id)
{
    *id = request_header(r, "operation-id");
    if (!*id || wire_operation_id_ok(*id))
        return true;
    invalid(r, "The operation-id header is not an identifier.");
    return false;
}

/* Runs what the document asks for. NULL: it was answered with an error. */
static struct execution *submit(struct request *r, const cJSON *body)
{
    _cleanup_buf_ struct buf decoded = {0};
    struct execution_request request = {.old_values = r->version & API_OLD_SHAPE};
    json_bool(body, "useEmptyKernel", &request.empty_kernel);
    if (!read_code(r, body, &decoded, &request.code) ||
        !read_type(r, body, &request.asynchronous) || !read_timeout(r, body, &request.timeout_ms) ||
        !read_streams(r, body, &request.streams_max) || !read_id(r, &request.id))
        return NULL;
    struct execution *e = NULL;
    bool repeated;
    if (execution_submit(r->session, &request, &e, &repeated))
        reply_empty(r, 500);
    return e;
}

/* --- what is answered */

static const char *const state_names[] = {
    [EXECUTION_NOT_STARTED] = "NotStarted", [EXECUTION_RUNNING] = "Running",
    [EXECUTION_SUCCEEDED] = "Succeeded",    [EXECUTION_FAILED] = "Failed",
    [EXECUTION_CANCELED] = "Canceled",
};

static void add_streams(cJSON *to, const struct kernel_result *result, const char *value_name)
{
    cJSON_AddItemToObject(to, "stdout", reply_string(result->out.data, result->out.len));
    cJSON_AddItemToObject(to, "stderr", reply_string(result->err.data, result->err.len));
    /* No value shows as the empty string (api.md 1.3). */
    cJSON_AddItemToObject(to, value_name,
                          result->value.len ? cJSON_CreateRaw(result->value.data)
                                            : cJSON_CreateString(""));
    cJSON_AddNumberToObject(to, "executionTimeInMilliseconds", (double)result->milliseconds);
}

static cJSON *resource(const struct request *r, const struct execution *e,
                       enum execution_state state)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "id", e->id);
    cJSON_AddStringToObject(json, "identifier", r->identifier);
    cJSON_AddStringToObject(json, "executionType",
                            e->asynchronous ? "Asynchronous" : "Synchronous");
    cJSON_AddStringToObject(json, "status", state_names[state]);
    if (state == EXECUTION_SUCCEEDED || state == EXECUTION_FAILED)
        add_streams(cJSON_AddObjectToObject(json, "result"), &e->result, "executionResult");
    else
        cJSON_AddNullToObject(json, "result");
    return json;
}

static void add_execution_headers(struct request *r, const struct execution *e,
                                  enum execution_state state)
{
    _cleanup_buf_ struct buf location = {0};
    buf_adds(&location, "/executions/");
    text_percent(&location, e->id, strlen(e->id));
    buf_addf(&location, "?api-version=%s&identifier=", target_parameter(&r->target, "api-version"));
    text_percent(&location, r->identifier, strlen(r->identifier));
    reply_add(r, "operation-id", e->id);
    if (location.data)
        reply_add(r, "Operation-Location", location.data);
    if (state < EXECUTION_SUCCEEDED)
        return;
    static const char *const names[] = {"X-Ms-Overall-Execution-Time",
                                        "X-Ms-Total-Execution-Service-Time",
                                        "X-Ms-Container-Execution-Duration"};
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)e->result.milliseconds);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        reply_add(r, names[i], text);
}

static void answer(struct request *r, struct execution *e)
{
    enum execution_state state = execution_state(e);
    unsigned status = state < EXECUTION_SUCCEEDED && r->route->body == BODY_JSON ? 202 : 200;
    reply_json(r, status, resource(r, e, state));
    add_execution_headers(r, e, state);
}

void call_execute(struct request *r)
{
    _cleanup_json_ cJSON *body = json_parse(r->body.data ? r->body.data : "", r->body.len);
    if (!cJSON_IsObject(body)) {
        not_json(r);
        return;
    }
    struct execution *e = submit(r, body);
    if (e)
        answer(r, e);
    execution_unref(e);
}

void call_execution(struct request *r)
{
    struct execution *e = execution_find(r->session, request_wild(r));
    if (e)
        answer(r, e);
    else
        reply_error(r, 404, "ExecutionNotFound", "No execution available for operation Id: %s",
                    wire_operation_id_ok(request_wild(r)) ? request_wild(r) : "?");
    execution_unref(e);
}

static void answer_old(struct request *r, struct execution *e)
{
    bool later = r->version & API_2024_08;
    enum execution_state state = execution_state(e);
    const char *status = state == EXECUTION_SUCCEEDED  ? "Success"
                         : state < EXECUTION_SUCCEEDED ? state_names[state]
                                                       : "Failure";
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "$id", "1");
    cJSON *properties = cJSON_AddObjectToObject(json, "properties");
    cJSON_AddStringToObject(properties, "$id", "2");
    cJSON_AddStringToObject(properties, "status", status);
    static const struct kernel_result none;
    add_streams(properties, state < EXECUTION_SUCCEEDED ? &none : &e->result,
                later ? "executionResult" : "result");
    reply_json(r, 200, json);
    add_execution_headers(r, e, state);
}

void call_execute_old(struct request *r)
{
    _cleanup_json_ cJSON *body = json_parse(r->body.data ? r->body.data : "", r->body.len);
    if (!body) {
        not_json(r);
        return;
    }
    const cJSON *properties = json_object(body, "properties");
    if (!properties) {
        reply_error(r, 400, "SessionPropertiesMissing",
                    "The request body lacks the required property 'properties'.");
        return;
    }
    struct execution *e = submit(r, properties);
    if (e)
        answer_old(r, e);
    execution_unref(e);
}
