#include "acarun/tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "acarun/sanitize.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/span.h"
#include "util/text.h"

enum { VALUE_DEPTH = SPAN_DEPTH - 8 }; /* it goes into a message */

static const char tool_name[] = "code_interpreter";
static const char about_tool[] =
    "Runs Python code in a sandboxed session that keeps its variables and files between calls. "
    "Returns JSON with the value of the last expression (result), stdout and stderr. Use it to "
    "calculate, to work with files in the current directory and to make plots.";
static const char about_code[] = "The Python code to run.";

static int print(const cJSON *json, struct buf *out)
{
    _cleanup_free_ char *text = cJSON_PrintUnformatted(json);
    return text ? buf_adds(out, text) : -ENOMEM;
}

const char *tool_about(void)
{
    return about_tool;
}

cJSON *tool_schema(void)
{
    cJSON *parameters = cJSON_CreateObject();
    cJSON_AddStringToObject(parameters, "type", "object");
    cJSON *properties = cJSON_AddObjectToObject(parameters, "properties");
    cJSON *code = cJSON_AddObjectToObject(properties, "python_code");
    cJSON_AddStringToObject(code, "type", "string");
    cJSON_AddStringToObject(code, "description", about_code);
    cJSON *required = cJSON_AddArrayToObject(parameters, "required");
    cJSON_AddItemToArray(required, cJSON_CreateString("python_code"));
    return parameters;
}

int tool_definition(enum tool_api api, struct buf *out)
{
    _cleanup_json_ cJSON *tool = cJSON_CreateObject();
    cJSON_AddStringToObject(tool, "type", "function");
    cJSON *function = api == TOOL_API_CHAT ? cJSON_AddObjectToObject(tool, "function") : tool;
    cJSON_AddStringToObject(function, "name", tool_name);
    cJSON_AddStringToObject(function, "description", about_tool);
    cJSON_AddItemToObject(function, "parameters", tool_schema());
    int err = print(tool, out);
    return err ? err : buf_adds(out, "\n");
}

/* --- a call */

void tool_calls_free(struct tool_calls *t)
{
    for (size_t i = 0; i < t->count; i++) {
        free(t->calls[i].id);
        free(t->calls[i].code);
    }
    free(t->calls);
    buf_free(&t->others);
    *t = (struct tool_calls){0};
}

static int take_code(const char *arguments, struct tool_call *out)
{
    _cleanup_json_ cJSON *json = arguments ? json_parse(arguments, strlen(arguments)) : NULL;
    const char *code = json_string(json, "python_code");
    if (!code) {
        out->wrong =
            json ? "the arguments have no string python_code" : "the arguments are no JSON";
        return 0;
    }
    if (json_has_nul(arguments, strlen(arguments))) {
        out->wrong = "the code holds a NUL character, which Python does not take";
        return 0;
    }
    if (!(out->code = strdup(code)))
        return -ENOMEM;
    sanitize_code(out->code);
    return 0;
}

static const char *no_call(enum tool_api api)
{
    return api == TOOL_API_CHAT
               ? "there is no tool call of Chat Completions in it (id, type \"function\")"
               : "there is no function call of the Responses API in it (call_id, type "
                 "\"function_call\")";
}

static int add_other(struct tool_calls *out, const char *name)
{
    int err = out->others.len ? buf_adds(&out->others, ", ") : 0;
    return err ? err : text_printable(&out->others, name, strlen(name), 100);
}

static int add_call(struct tool_calls *out, const char *id, const char *arguments)
{
    struct tool_call *more = realloc(out->calls, (out->count + 1) * sizeof *more);
    if (!more)
        return -ENOMEM;
    out->calls = more;
    struct tool_call *call = &more[out->count++];
    *call = (struct tool_call){.id = strdup(id)};
    return call->id ? take_code(arguments, call) : -ENOMEM;
}

/* -EINVAL: a call that can't be answered. What is no call at all is passed over. */
static int take_call(enum tool_api api, const cJSON *call, struct tool_calls *out)
{
    bool chat = api == TOOL_API_CHAT;
    const char *type = json_string(call, "type"), *id = json_string(call, chat ? "id" : "call_id");
    const cJSON *function = chat ? json_object(call, "function") : call;
    if (type && strcmp(type, chat ? "custom" : "custom_tool_call") == 0) {
        const char *name = json_string(chat ? json_object(call, "custom") : call, "name");
        return add_other(out, name ? name : "?");
    }
    if (!type || strcmp(type, chat ? "function" : "function_call") != 0)
        return 0;
    const char *name = json_string(function, "name");
    if (!id || !name)
        return -EINVAL;
    return strcmp(name, tool_name) == 0 ? add_call(out, id, json_string(function, "arguments"))
                                        : add_other(out, name);
}

/* Where calls are in what holds them; NULL when it holds none, or is a call itself. */
static const cJSON *find_calls(enum tool_api api, const cJSON *json)
{
    if (cJSON_IsArray(json))
        return json;
    if (api == TOOL_API_RESPONSES)
        return json_array(json, "output");
    const cJSON *choice = cJSON_GetArrayItem(json_array(json, "choices"), 0);
    const cJSON *message = json_object(choice ? choice : json, "message");
    return json_array(message ? message : json, "tool_calls");
}

int tool_calls_parse(enum tool_api api, const char *text, size_t len, struct tool_calls *out,
                     const char **why)
{
    _cleanup_json_ cJSON *json = json_parse(text, len);
    const cJSON *list = find_calls(api, json), *call;
    int err = 0;
    out->one = !list;
    *why = "it is no JSON";
    if (!json || !text_is_utf8(text, len))
        return -EINVAL;
    *why = no_call(api);
    if (!list)
        err = take_call(api, json, out);
    cJSON_ArrayForEach (call, list) {
        err = err ? err : take_call(api, call, out);
    }
    if (err || out->count)
        return err;
    if (out->others.len)
        *why = "it calls other functions than code_interpreter";
    return -EINVAL;
}

/* --- the answer */

/* How it ended, or what is left out, when stderr does not tell. An exception is told by its
 * traceback there. */
static int add_end(const struct report *r, struct buf *err)
{
    bool told = r->message && strcmp(r->state, "failed") == 0 && err->len;
    const char *line = err->len && err->data[err->len - 1] != '\n' ? "\n" : "";
    if (told || (!r->message && !r->exit_code))
        return 0;
    return r->message ? buf_addf(err, "%s%s", line, r->message)
                      : buf_addf(err, "%sexit %d", line, r->exit_code);
}

/* As the session wrote it, where that is JSON on one line: there are numbers no double can hold. */
static char *value_text(const struct report *r)
{
    struct span value;
    if (r->text && !cJSON_GetArraySize(r->images) &&
        span_check(r->text, strlen(r->text), VALUE_DEPTH, &value, NULL) &&
        !memchr(value.at, '\n', value.len) && !memchr(value.at, '\r', value.len))
        return strndup(value.at, value.len);
    return r->value ? cJSON_PrintUnformatted(r->value) : strdup("null");
}

int tool_content(const struct report *r, const struct buf *out, const struct buf *err,
                 struct buf *text)
{
    _cleanup_free_ char *value = value_text(r);
    _cleanup_buf_ struct buf said = {0};
    if (!value || buf_adds(&said, "") || buf_add(&said, err->data, err->len) || add_end(r, &said) ||
        buf_addf(text, "{\"result\": %s, \"stdout\": ", value) ||
        report_json_string(text, out->data, out->len, NULL) || buf_adds(text, ", \"stderr\": ") ||
        report_json_string(text, said.data, said.len, NULL))
        return -ENOMEM;
    return buf_adds(text, "}");
}

int tool_answer(enum tool_api api, const struct tool_call *c, const struct report *r,
                const struct buf *stdout_text, const struct buf *stderr_text, struct buf *out)
{
    _cleanup_json_ cJSON *message = cJSON_CreateObject();
    _cleanup_buf_ struct buf text = {0};
    int err = r ? tool_content(r, stdout_text, stderr_text, &text)
                : buf_addf(&text, "{\"error\": \"%s\"}", c->wrong);
    if (err)
        return err;
    if (api == TOOL_API_CHAT) {
        cJSON_AddStringToObject(message, "role", "tool");
        cJSON_AddStringToObject(message, "tool_call_id", c->id);
        cJSON_AddStringToObject(message, "name", tool_name);
        cJSON_AddStringToObject(message, "content", text.data);
    } else {
        cJSON_AddStringToObject(message, "type", "function_call_output");
        cJSON_AddStringToObject(message, "call_id", c->id);
        cJSON_AddStringToObject(message, "output", text.data);
    }
    return print(message, out);
}
