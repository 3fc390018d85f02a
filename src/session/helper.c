/* The executed helper: requests made while one execution of helper.py is under way wait and go
 * together, in order, in the next.
 *
 *     IDLE ──▶ SENT ──▶ IDLE
 *                │ ▲
 *                ▼ │ (broken connection, or answered before it was done: GET executions/{id})
 *              LOOKING
 *
 * The code is one expression that leaves no name behind in the user's namespace; program and
 * requests travel as base64, so nothing of theirs is ever read as code. When it can't be learnt
 * whether an execution took place, what is safe to repeat goes once more; the rest fails. */
#include "session/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "helper.py.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"

enum {
    CODE_LIMIT = 384 << 10, /* of one execution; a larger request goes alone */
    ANSWER_LIMIT = 1 << 20, /* of the contents asked for in one execution */
    REQUESTS_MAX = 256,
    LOOK_FIRST_MS = 200,
    LOOK_LONGEST_MS = 3000,
    TIMEOUT_S = 200,                     /* below the service's own 220 s */
    GIVE_UP_MS = 2 * HELPER_DEADLINE_MS, /* it may stand behind a script of the user's */
};

struct helper_request {
    struct helper_request *prev, *next;
    struct helper *helper;
    char *text; /* JSON */
    size_t answer_size;
    bool repeatable, again;
    void (*done)(void *arg, const struct session_error *, const cJSON *value);
    void *arg;
};

enum helper_state { HELPER_IDLE, HELPER_SENT, HELPER_LOOKING };

struct helper {
    struct session *session;
    enum helper_state state;
    struct helper_request *waiting, *sent;
    struct loop_timer later; /* start the next, or look again */
    struct http_call *http;
    char *code; /* of the batch: sent again in another shape */
    char nonce[33];
    char operation_id[130];
    struct execution_form form;
    bool looked;       /* for a lost answer, once */
    char *lost_saying; /* what a gateway said in its place */
    int64_t look_ms, give_up_at;
    char *program; /* helper.py as base64 */
};

static void send_batch(struct helper *);
static void look(struct helper *);

static void request_free(struct helper_request *r)
{
    free(r->text);
    free(r);
}

/* --- answers */

/* Gives each request of the batch its part. A callback may ask and forget as it likes, so each
 * leaves the list first. */
static void answer_batch(struct helper *h, const struct session_error *e, const cJSON *results)
{
    int i = 0;
    h->state = HELPER_IDLE;
    free(h->code);
    free(h->lost_saying);
    h->code = h->lost_saying = NULL;
    while (h->sent) {
        struct helper_request *r = h->sent;
        const cJSON *result = cJSON_GetArrayItem(results, i++);
        const cJSON *ok = cJSON_GetObjectItemCaseSensitive(result, "ok");
        struct session_error own = {0};
        uint64_t number = 0;
        if (!e->err && !ok) {
            json_uint(result, "errno", &number);
            own.err = number > 0 && number < 4096 ? -(int)number : -EIO;
            struct buf line = {0};
            const char *message = json_string(result, "message");
            if (message && text_printable(&line, message, strlen(message), 500) == 0)
                own.message = buf_take(&line);
        }
        DL_DELETE(h->sent, r);
        r->helper = NULL;
        if (r->done)
            r->done(r->arg, e->err ? e : &own, ok);
        request_free(r);
        session_error_free(&own);
    }
    if (h->waiting)
        loop_timer_set(&h->later, 0);
}

static void fail_batch(struct helper *h, struct session_error *e)
{
    answer_batch(h, e, NULL);
    session_error_free(e);
}

/* Whether doing it twice is the same as doing it once: reading, and writing whole what was sent. */
static bool is_repeatable(const cJSON *request)
{
    static const char *const ops[] = {"scan", "hidden", "space",  "stat", "probe",
                                      "get",  "put",    "expose", "drop", "illegal"};
    const char *op = json_string(request, "op");
    for (size_t i = 0; op && i < sizeof ops / sizeof *ops; i++)
        if (strcmp(op, ops[i]) == 0)
            return true;
    return false;
}

/* The batch was sent and nobody can say whether it was done. */
static void fate_unknown(struct helper *h, struct session_error *e)
{
    struct helper_request *r, *next, *again = NULL;
    DL_FOREACH_SAFE (h->sent, r, next) {
        if (r->repeatable && !r->again) {
            DL_DELETE(h->sent, r);
            r->again = true;
            DL_APPEND(again, r);
        }
    }
    DL_CONCAT(again, h->waiting);
    h->waiting = again;
    e->err = -EIO;
    if (h->lost_saying) {
        session_error_free(e);
        *e = (struct session_error){.err = -EIO, .message = h->lost_saying};
        h->lost_saying = NULL;
    }
    fail_batch(h, e);
}

cJSON *helper_document(const cJSON *value)
{
    const char *text = cJSON_GetStringValue(value);
    size_t len = text ? strlen(text) : 0;
    while (len >= 2 && (*text == '"' || *text == '\'') && text[len - 1] == *text) {
        text++;
        len -= 2;
    }
    _cleanup_buf_ struct buf json = {0};
    if (!len || text_unbase64(&json, text, len) || !json.len)
        return NULL;
    return json_parse(json.data, json.len);
}

/* The last line of stderr that says something, for the message. */
static void last_line(const char *text, struct buf *out)
{
    size_t len = text ? strlen(text) : 0;
    while (len && strchr("\r\n \t", text[len - 1]))
        len--;
    size_t start = len;
    while (start && text[start - 1] != '\n')
        start--;
    text_printable(out, text ? text + start : "", len - start, 300);
}

static void batch_ended(struct helper *h, const struct execution *x)
{
    struct session_error e = {0};
    _cleanup_json_ cJSON *value = helper_document(x->result);
    const char *nonce = json_string(value, "nonce");
    const cJSON *results = json_array(value, "results");
    if (nonce && strcmp(nonce, h->nonce) == 0 && results) {
        answer_batch(h, &e, results);
        return;
    }
    _cleanup_buf_ struct buf line = {0};
    last_line(x->message ? x->message : x->err, &line);
    _cleanup_buf_ struct buf message = {0};
    if (x->state == EXECUTION_RUNNING)
        buf_adds(&message, "the session is busy with other code");
    else
        buf_addf(&message, "code run in the session gave no answer%s%s", line.len ? ": " : "",
                 line.len ? line.data : "");
    bool late = x->state == EXECUTION_TIMED_OUT || x->state == EXECUTION_RUNNING;
    e.err = late ? -ETIMEDOUT : -EIO;
    e.message = buf_take(&message);
    e.code = x->code ? strdup(x->code) : NULL;
    fail_batch(h, &e);
}

/* --- looking after an execution whose answer was lost or is still to come */

static void look_later(struct helper *h)
{
    h->state = HELPER_LOOKING;
    loop_timer_set(&h->later, h->look_ms);
    h->look_ms = h->look_ms * 2 < LOOK_LONGEST_MS ? h->look_ms * 2 : LOOK_LONGEST_MS;
}

static void looked(void *arg, const struct http_result *r)
{
    struct helper *h = arg;
    struct session_error e = {0};
    struct execution x = {0};
    h->http = NULL;
    if (r->err) {
        wire_error(r, &e);
        fate_unknown(h, &e);
        return;
    }
    struct answer a;
    wire_answer(r, &a);
    if (answer_execute(&a, &x, &e)) {
        fate_unknown(h, &e);
    } else if (x.state == EXECUTION_RUNNING && clock_ms() < h->give_up_at) {
        look_later(h);
    } else {
        batch_ended(h, &x);
    }
    execution_free(&x);
}

static void look(struct helper *h)
{
    struct session *s = h->session;
    struct http_request r = {.kind = HTTP_KIND_EXECUTE,
                             .method = "GET",
                             .retry = HTTP_RETRY_SAFE,
                             .deadline_ms = s->deadline_ms,
                             .done = looked,
                             .arg = h};
    _cleanup_free_ char *url = url_execution(s, h->operation_id);
    wire_defaults(s, &r);
    r.url = url;
    h->http = url ? http_start(s->http, &r) : NULL;
    if (!h->http) {
        struct session_error e = {.err = -ENOMEM};
        fail_batch(h, &e);
    }
}

/* --- sending */

/* May be said by what stands in front of the session: the code may have run all the same. */
static bool is_gateway_trouble(const struct session_error *e)
{
    return e->status == 408 || (e->status >= 500 && e->status != 501 && e->status != 507);
}

static void batch_answered(void *arg, const struct http_result *r)
{
    struct helper *h = arg;
    struct session *s = h->session;
    struct session_error e = {0};
    h->http = NULL;
    if (r->err) {
        bool unclear = r->sent && (r->err == -EIO || r->err == -ETIMEDOUT);
        if (unclear && !h->looked && !s->shape.old) {
            h->looked = true;
            look_later(h);
            return;
        }
        wire_error(r, &e);
        if (unclear)
            fate_unknown(h, &e);
        else
            fail_batch(h, &e);
        return;
    }
    struct answer a;
    struct execution x;
    wire_notice(s, r);
    wire_answer(r, &a);
    if (answer_execute(&a, &x, &e)) {
        if (execution_refused(s, &e, &h->form)) {
            session_error_free(&e);
            send_batch(h);
            return;
        }
        if (is_gateway_trouble(&e) && !h->looked && !s->shape.old) {
            h->looked = true;
            h->lost_saying = e.message ? e.message : strdup("the pool broke off its answer");
            e.message = NULL;
            session_error_free(&e);
            look_later(h);
            return;
        }
        fail_batch(h, &e);
        return;
    }
    execution_accepted(s, &h->form);
    if (x.state == EXECUTION_RUNNING && !s->shape.old) {
        if (x.id && strlen(x.id) < sizeof h->operation_id)
            strcpy(h->operation_id, x.id); /* some choose their own */
        look_later(h);
    } else {
        batch_ended(h, &x);
    }
    execution_free(&x);
}

static void send_batch(struct helper *h)
{
    struct session *s = h->session;
    const struct session_code code = {.code = h->code,
                                      .timeout_s = TIMEOUT_S,
                                      .empty_kernel = true,
                                      .operation_id = h->operation_id,
                                      .deadline_ms = HELPER_DEADLINE_MS};
    bool tried = h->form.other_shape_tried;
    h->form = execution_form(s, &code);
    h->form.other_shape_tried = tried;
    h->state = HELPER_SENT;
    h->http = h->code ? execution_start(s, &code, batch_answered, h) : NULL;
    if (!h->http) {
        struct session_error e = {.err = -ENOMEM};
        fail_batch(h, &e);
    }
}

/* exec() is told the dictionary to work in; the lambda's argument is the only reference to it. */
static char *batch_code(struct helper *h, const struct buf *requests)
{
    _cleanup_buf_ struct buf coded = {0};
    struct buf code = {0};
    int err = text_base64(&coded, requests->data, requests->len);
    err = err ? err
              : buf_addf(&code,
                         "(lambda d, b, x: (x(b('%s').decode(), d), d['run'](b('%s'), '%s'))[1])("
                         "{'__name__': 'acafs_helper'}, __import__('binascii').a2b_base64, "
                         "__import__('builtins').exec)",
                         h->program, coded.data, h->nonce);
    if (err)
        buf_free(&code);
    return err ? NULL : buf_take(&code);
}

static void start_batch(struct helper *h)
{
    _cleanup_buf_ struct buf requests = {0};
    size_t answers = 0;
    int count = 0, err = buf_adds(&requests, "[");
    while (h->waiting && !err && count < REQUESTS_MAX) {
        struct helper_request *r = h->waiting;
        size_t code = (requests.len + strlen(r->text)) / 3 * 4 + strlen(h->program);
        if (count && (code > CODE_LIMIT || answers + r->answer_size > ANSWER_LIMIT))
            break;
        err = buf_addf(&requests, "%s%s", count ? "," : "", r->text);
        answers += r->answer_size;
        count++;
        DL_DELETE(h->waiting, r);
        DL_APPEND(h->sent, r);
    }
    err = err ? err : buf_adds(&requests, "]");
    text_random_hex(h->nonce, 16);
    text_uuid(h->operation_id);
    h->form.other_shape_tried = h->looked = false;
    h->look_ms = LOOK_FIRST_MS;
    h->give_up_at = clock_ms() + GIVE_UP_MS;
    h->code = err ? NULL : batch_code(h, &requests);
    log_debug("helper: %d requests, %zu bytes", count, h->code ? strlen(h->code) : 0);
    send_batch(h);
}

static void helper_later(void *arg)
{
    struct helper *h = arg;
    if (h->state == HELPER_LOOKING)
        look(h);
    else if (h->state == HELPER_IDLE && h->waiting)
        start_batch(h);
}

struct helper_request *
helper_ask(struct session *s, cJSON *request,
           void (*done)(void *arg, const struct session_error *, const cJSON *value), void *arg)
{
    struct helper *h = s->helper;
    struct helper_request *r = calloc(1, sizeof *r);
    uint64_t length = 0;
    json_uint(request, "length", &length);
    if (r) {
        r->text = request ? cJSON_PrintUnformatted(request) : NULL;
        r->repeatable = is_repeatable(request);
    }
    cJSON_Delete(request);
    if (r && r->text && !text_is_utf8(r->text, strlen(r->text))) {
        /* A name of other bytes: no JSON, and it would spoil what it goes with. */
        free(r->text);
        r->text = strdup("{\"op\":\"illegal\"}");
    }
    if (!r || !r->text) {
        free(r);
        return NULL;
    }
    r->helper = h;
    r->answer_size = length / 3 * 4;
    r->done = done;
    r->arg = arg;
    DL_APPEND(h->waiting, r);
    if (h->state == HELPER_IDLE && !loop_timer_is_set(&h->later))
        loop_timer_set(&h->later, 0);
    return r;
}

void helper_forget(struct helper_request *r)
{
    struct helper *h = r->helper;
    if (!h)
        return; /* its callback is running */
    struct helper_request *other;
    DL_FOREACH (h->waiting, other) {
        if (other == r) {
            DL_DELETE(h->waiting, r);
            request_free(r);
            return;
        }
    }
    r->done = NULL; /* under way: what it does is done, and nobody told */
}

int helper_new(struct session *s)
{
    struct helper *h = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
    struct buf program = {0};
    h->session = s;
    loop_timer_init(&h->later, s->loop, helper_later, h);
    s->helper = h;
    if (text_base64(&program, helper_py, sizeof helper_py - 1))
        return -ENOMEM;
    h->program = buf_take(&program);
    return 0;
}

void helper_free(struct session *s)
{
    struct helper *h = s->helper;
    if (!h)
        return;
    http_cancel(h->http);
    loop_timer_stop(&h->later);
    struct helper_request *r, *next;
    DL_FOREACH_SAFE (h->waiting, r, next) {
        request_free(r);
    }
    DL_FOREACH_SAFE (h->sent, r, next) {
        request_free(r);
    }
    free(h->code);
    free(h->lost_saying);
    free(h->program);
    free(h);
    s->helper = NULL;
}
