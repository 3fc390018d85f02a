/* Executions: the request in both shapes, polling, and the shape that the pool wants. */
#include "session/private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

enum { DEADLINE_MS = 240000, DEADLINE_MARGIN_MS = 20000 };

static cJSON *body_json(const struct session *s, const struct session_code *code)
{
    const struct execution_form form = execution_form(s, code);
    cJSON *body = cJSON_CreateObject(), *inner = body;
    if (s->envelope)
        inner = cJSON_AddObjectToObject(body, "properties");
    cJSON_AddStringToObject(inner, "codeInputType", s->envelope ? "inline" : "Inline");
    const char *type = code->asynchronous ? "Asynchronous" : "Synchronous";
    if (s->envelope)
        type = code->asynchronous ? "asynchronous" : "synchronous";
    cJSON_AddStringToObject(inner, "executionType", type);
    cJSON_AddStringToObject(inner, "code", code->code);
    if (code->timeout_s > 0)
        cJSON_AddNumberToObject(inner, "timeoutInSeconds", (double)code->timeout_s);
    if (form.streams_max)
        cJSON_AddNumberToObject(inner, "outputStreamsMaxLength", (double)code->streams_max);
    if (form.empty_kernel)
        cJSON_AddBoolToObject(inner, "useEmptyKernel", true);
    return body;
}

struct http_call *execution_start(struct session *s, const struct session_code *code,
                                  void (*done)(void *arg, const struct http_result *), void *arg)
{
    _cleanup_json_ cJSON *json = body_json(s, code);
    _cleanup_free_ char *body = cJSON_PrintUnformatted(json);
    bool old = s->shape.old || s->old_execute;
    _cleanup_free_ char *url = url_plain(s, old ? "code/execute" : "executions",
                                         s->old_execute ? "2024-02-02-preview" : NULL);
    if (!body || !url)
        return NULL;
    int64_t deadline = code->deadline_ms;
    if (deadline <= 0)
        deadline = code->timeout_s > 0 ? code->timeout_s * 1000 + DEADLINE_MARGIN_MS : DEADLINE_MS;
    char id[160] = "";
    const char *headers[] = {id, NULL};
    if (code->operation_id)
        snprintf(id, sizeof id, "operation-id: %.128s", code->operation_id);
    struct http_request r = {
        .kind = HTTP_KIND_EXECUTE,
        .method = "POST",
        .url = url,
        .headers = *id ? headers : NULL,
        .body = HTTP_BODY_BYTES,
        .content_type = "application/json",
        .data = body,
        .len = strlen(body),
        .retry = HTTP_RETRY_UNSENT,
        .deadline_ms = deadline,
        .idle_ms = deadline, /* nothing comes while the code runs */
        .done = done,
        .arg = arg,
    };
    wire_defaults(s, &r);
    return http_start(s->http, &r);
}

struct execution_form execution_form(const struct session *s, const struct session_code *code)
{
    bool options = s->shape.empty_kernel && !s->old_execute;
    return (struct execution_form){
        .envelope = s->envelope,
        .empty_kernel = code->empty_kernel && options && s->empty_kernel != OPTION_REFUSED,
        .streams_max = code->streams_max && options && s->streams_max != OPTION_REFUSED,
        .old = s->shape.old || s->old_execute,
    };
}

void execution_accepted(struct session *s, const struct execution_form *form)
{
    if (form->empty_kernel)
        s->empty_kernel = OPTION_TAKEN;
    if (form->streams_max)
        s->streams_max = OPTION_TAKEN;
}

bool execution_refused(struct session *s, const struct session_error *e,
                       struct execution_form *form)
{
    if (e->status != 400)
        return false;
    if (e->hint == HINT_OTHER_SHAPE) {
        if (form->other_shape_tried && form->old)
            return false;
        if (form->other_shape_tried) {
            /* Some pools refuse both shapes here and run the same code the old way. */
            s->old_execute = s->envelope = true;
            return true;
        }
        if (s->envelope == form->envelope)
            s->envelope = !s->envelope; /* else another call found out meanwhile */
        form->other_shape_tried = true;
        return true;
    }
    if (e->hint != HINT_NONE)
        return false;
    if (form->streams_max && s->streams_max == OPTION_UNKNOWN) {
        s->streams_max = OPTION_REFUSED;
        return true;
    }
    if (form->empty_kernel && s->empty_kernel == OPTION_UNKNOWN) {
        s->empty_kernel = OPTION_REFUSED;
        return true;
    }
    return false;
}

/* --- calls */

struct execute_call {
    struct session_call call;
    session_execution_fn *fn;
    struct session_code code;
    char *code_text, *operation_id; /* copies */
    struct execution_form form;     /* of the request on its way */
    struct execution execution;
};

static void execute_begin(struct session_call *);

static void execute_finish(struct session_call *c)
{
    struct execute_call *x = (struct execute_call *)c;
    x->fn(c->arg, &c->error, c->error.err ? NULL : &x->execution);
}

static void execute_release(struct session_call *c)
{
    struct execute_call *x = (struct execute_call *)c;
    execution_free(&x->execution);
    free(x->code_text);
    free(x->operation_id);
}

static void executed(void *arg, const struct http_result *r)
{
    struct session_call *c = arg;
    struct execute_call *x = arg;
    c->http = NULL;
    if (r->err) {
        wire_error(r, &c->error);
        call_end(c);
        return;
    }
    struct answer a;
    wire_notice(c->session, r);
    wire_answer(r, &a);
    if (answer_execute(&a, &x->execution, &c->error) &&
        execution_refused(c->session, &c->error, &x->form)) {
        call_forget_error(c);
        execute_begin(c);
        return;
    }
    const char *id = http_header(r->call, "operation-id");
    if (!c->error.err)
        execution_accepted(c->session, &x->form);
    if (!c->error.err && !x->execution.id && id)
        x->execution.id = strdup(id);
    call_end(c);
}

static void execute_begin(struct session_call *c)
{
    struct execute_call *x = (struct execute_call *)c;
    struct session *s = c->session;
    bool tried = x->form.other_shape_tried;
    x->form = execution_form(s, &x->code);
    x->form.other_shape_tried = tried;
    c->http = execution_start(s, &x->code, executed, c);
    if (!c->http)
        call_fail(c, -ENOMEM, NULL);
}

struct session_call *session_execute(struct session *s, const struct session_code *code,
                                     session_execution_fn *fn, void *arg)
{
    static const struct call_kind kind = {execute_begin, execute_finish, execute_release};
    struct execute_call *x = call_new(s, sizeof *x, &kind, arg);
    if (!x)
        return NULL;
    x->fn = fn;
    x->code = *code;
    x->code.code = x->code_text = strdup(code->code);
    x->operation_id = code->operation_id ? strdup(code->operation_id) : NULL;
    x->code.operation_id = x->operation_id;
    if (!x->code_text || (code->operation_id && !x->operation_id))
        x->call.error.err = -ENOMEM;
    return &x->call;
}

/* --- GET executions/{id} */

static void polled(struct session_call *c, const struct answer *a)
{
    struct execute_call *x = (struct execute_call *)c;
    if (a)
        answer_execute(a, &x->execution, &c->error);
    call_end(c);
}

static void poll_begin(struct session_call *c)
{
    struct execute_call *x = (struct execute_call *)c;
    if (c->session->shape.old) {
        call_fail(c, -EOPNOTSUPP, "this API version can't look after executions");
        return;
    }
    struct http_request r = {.kind = HTTP_KIND_EXECUTE,
                             .method = "GET",
                             .retry = HTTP_RETRY_SAFE,
                             .deadline_ms = call_left(c)};
    wire_defaults(c->session, &r);
    call_send(c, &r, url_execution(c->session, x->operation_id), polled);
}

struct session_call *session_execution(struct session *s, const char *id, session_execution_fn *fn,
                                       void *arg)
{
    static const struct call_kind kind = {poll_begin, execute_finish, execute_release};
    struct execute_call *x = call_new(s, sizeof *x, &kind, arg);
    if (!x)
        return NULL;
    x->fn = fn;
    x->operation_id = strdup(id);
    if (!x->operation_id)
        x->call.error.err = -ENOMEM;
    return &x->call;
}
