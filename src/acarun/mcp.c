#include "acarun/mcp.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "acarun/exit.h"
#include "acarun/mcp_private.h"
#include "acarun/signals.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"

enum {
    BLOCK = 64 << 10,
    PIECE = PIPE_BUF,       /* a pipe that can be written to takes so much without waiting */
    MESSAGE_MAX = 64 << 20, /* of a message */
    OUT_MAX = 16 << 20,     /* while more waits to be read, nothing more is asked of us */
    CALLS_MAX = 256,
    DRAIN_MS = 1000, /* how often whoever reads is looked for, once our input ended */
    STOP_MS = 2000,
    DELETE_MS = 2000,
};

static void stop(struct mcp *);

/* --- messages out */

static void nobody_reads(struct mcp *m)
{
    m->out.len = 0;
    m->code = EXIT_NO_READER;
    loop_fd_events(m->output, 0);
    stop(m);
}

static bool can_write(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    return poll(&p, 1, 0) > 0;
}

static bool has_reader(int fd)
{
    struct pollfd p = {.fd = fd};
    return poll(&p, 1, 0) == 0;
}

static void writable(void *arg, short revents)
{
    struct mcp *m = arg;
    size_t done = 0;
    while (done < m->out.len && can_write(m->output_fd)) {
        size_t left = m->out.len - done;
        ssize_t n = write(m->output_fd, m->out.data + done, left < PIECE ? left : PIECE);
        if (n < 0 && errno != EINTR && errno != EAGAIN) {
            nobody_reads(m);
            return;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    buf_consume(&m->out, done);
    if (!m->out.len)
        loop_fd_events(m->output, 0);
    if (m->out.len < OUT_MAX && m->phase == SERVING)
        loop_fd_events(m->input, CURL_WAIT_POLLIN);
    mcp_ended(m);
}

static void send_line(struct mcp *m, const struct buf *text)
{
    if (m->code == EXIT_NO_READER)
        return;
    if (buf_add(&m->out, text->data, text->len) || buf_adds(&m->out, "\n")) {
        log_error("out of memory");
        stop(m);
        return;
    }
    loop_fd_events(m->output, CURL_WAIT_POLLOUT);
    if (m->out.len >= OUT_MAX)
        loop_fd_events(m->input, 0);
}

static void deliver(struct mcp *m, struct batch *b, const struct buf *text)
{
    if (!b) {
        send_line(m, text);
        return;
    }
    if (buf_adds(&b->text, b->text.len ? "," : "[") || buf_add(&b->text, text->data, text->len))
        log_error("out of memory");
}

/* One of those that the batch waited for is answered, or never will be. */
static void batch_next(struct mcp *m, struct batch *b)
{
    if (!b || --b->waiting)
        return;
    if (b->text.len && buf_adds(&b->text, "]") == 0)
        send_line(m, &b->text);
    buf_free(&b->text);
    free(b);
}

static void send_error(struct mcp *m, struct batch *b, const char *id, int code, const char *why)
{
    _cleanup_buf_ struct buf text = {0};
    if (rpc_error(&text, id, code, why) == 0)
        deliver(m, b, &text);
}

static void send_result(struct mcp *m, struct batch *b, const char *id, cJSON *result)
{
    _cleanup_json_ cJSON *own = result;
    _cleanup_buf_ struct buf text = {0};
    if (own && rpc_result(&text, id, own) == 0)
        deliver(m, b, &text);
    else
        send_error(m, b, id, RPC_INTERNAL_ERROR, "out of memory");
}

void mcp_notify(struct mcp *m, const char *method, cJSON *params)
{
    _cleanup_json_ cJSON *own = params;
    _cleanup_buf_ struct buf text = {0};
    if (own && rpc_notification(&text, method, own) == 0)
        send_line(m, &text);
}

/* --- calls */

void mcp_forget(struct call *c)
{
    struct mcp *m = c->mcp;
    DL_DELETE(m->calls, c);
    if (m->runs == c)
        m->runs = NULL;
    session_cancel(c->under_way);
    shared_file_close(&c->local);
    clip_free(&c->out);
    clip_free(&c->err);
    buf_free(&c->content);
    cJSON_Delete(c->arguments);
    batch_next(m, c->batch);
    free(c->id);
    free(c->token);
    free(c->path);
    free(c);
}

void mcp_answer(struct call *c, cJSON *result)
{
    struct mcp *m = c->mcp;
    if (m->recycled && result)
        content_add_text(result, "Note: the session had ended, and this is a new, empty one: "
                                 "variables and files of earlier calls are gone.");
    else if (m->restarted && result)
        content_add_text(result, "Note: the session's interpreter had to be ended with a call that "
                                 "was cancelled: variables and imports of earlier calls are gone.");
    if (result)
        m->recycled = m->restarted = false;
    send_result(m, c->batch, c->id, result);
    mcp_forget(c);
    mcp_ended(m);
}

void mcp_answer_error(struct call *c, int code, const char *message)
{
    struct mcp *m = c->mcp;
    send_error(m, c->batch, c->id, code, message);
    mcp_forget(c);
    mcp_ended(m);
}

static char *copy_or_null(const char *text)
{
    return text ? strdup(text) : NULL;
}

static struct call *call_new(struct mcp *m, const struct rpc_message *message, struct batch *b)
{
    struct call *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->mcp = m;
    c->id = strdup(message->id);
    c->token = copy_or_null(message->token);
    c->batch = b;
    if (b)
        b->waiting++;
    DL_APPEND(m->calls, c);
    return c;
}

static void call_tool(struct mcp *m, struct rpc_message *message, struct batch *b)
{
    const struct call *other;
    unsigned n = 0;
    enum tool tool = tool_by_name(json_string(message->params, "name"));
    if (tool == TOOL_NONE) {
        send_error(m, b, message->id, RPC_INVALID_PARAMS, "there is no tool of that name");
        return;
    }
    DL_COUNT(m->calls, other, n);
    struct call *c = n < CALLS_MAX ? call_new(m, message, b) : NULL;
    if (!c) {
        send_error(m, b, message->id, RPC_INTERNAL_ERROR, "too many calls at once");
        return;
    }
    c->tool = tool;
    c->arguments = cJSON_DetachItemFromObjectCaseSensitive(message->params, "arguments");
    bool malformed = c->arguments && !cJSON_IsObject(c->arguments);
    const char *wrong = malformed ? "arguments is no object" : tool_begin(c);
    if (wrong && !malformed && m->version >= MCP_2025_11_25)
        mcp_answer(c, content_error(wrong)); /* from which a model learns */
    else if (wrong)
        mcp_answer_error(c, RPC_INVALID_PARAMS, wrong);
}

static void cancel_call(struct mcp *m, const char *id)
{
    struct call *c;
    DL_FOREACH (m->calls, c) {
        if (strcmp(c->id, id) == 0) {
            tool_cancel(c);
            return;
        }
    }
}

/* --- messages in */

static void hello(struct mcp *m, const struct rpc_message *message, struct batch *b)
{
    const char *asked = json_string(message->params, "protocolVersion");
    if (b) {
        send_error(m, b, message->id, RPC_INVALID_REQUEST, "initialize is not for batches");
        return;
    }
    if (!asked) {
        send_error(m, b, message->id, RPC_INVALID_PARAMS, "protocolVersion is missing");
        return;
    }
    m->version = mcp_version_choose(asked);
    send_result(m, b, message->id, content_hello(m->version));
}

/* The list is whole: no cursor of ours leads on in it. */
static void list_tools(struct mcp *m, const struct rpc_message *message, struct batch *b)
{
    const cJSON *cursor = cJSON_GetObjectItemCaseSensitive(message->params, "cursor");
    if (cursor && !cJSON_IsNull(cursor))
        send_error(m, b, message->id, RPC_INVALID_PARAMS, "there is no such cursor");
    else
        send_result(m, b, message->id, content_tools(m->version, m->shared.fd >= 0));
}

static void take_request(struct mcp *m, struct rpc_message *message, struct batch *b)
{
    const char *method = message->method;
    if (strcmp(method, "initialize") == 0)
        hello(m, message, b);
    else if (strcmp(method, "ping") == 0)
        send_result(m, b, message->id, cJSON_CreateObject());
    else if (strcmp(method, "tools/list") == 0)
        list_tools(m, message, b);
    else if (strcmp(method, "tools/call") == 0)
        call_tool(m, message, b);
    else
        send_error(m, b, message->id, RPC_METHOD_NOT_FOUND, "there is no such method");
}

static void take_message(struct mcp *m, struct rpc_message *message, struct batch *b)
{
    switch (message->kind) {
    case RPC_REQUEST:
        take_request(m, message, b);
        return;
    case RPC_NOTIFICATION:
        if (strcmp(message->method, "notifications/cancelled") == 0 && message->request)
            cancel_call(m, message->request);
        return;
    case RPC_RESPONSE: /* we ask nothing */
        return;
    case RPC_BAD:
        send_error(m, b, message->id, message->code, message->why);
        return;
    }
}

static void take_line(struct mcp *m, const char *line, size_t len)
{
    struct rpc_line parsed;
    struct batch *b = NULL;
    if (len == 0 || (len == 1 && *line == '\r'))
        return;
    bool good = rpc_parse(line, len, &parsed) == 0;
    if (!good || (parsed.batch && !(b = calloc(1, sizeof *b)))) {
        send_error(m, NULL, NULL, RPC_INTERNAL_ERROR, "out of memory");
    } else if (b && m->version >= MCP_2025_06_18) {
        send_error(m, NULL, NULL, RPC_INVALID_REQUEST, "this revision has no batches");
        free(b);
    } else {
        if (b)
            b->waiting = 1; /* us */
        for (size_t i = 0; i < parsed.count; i++)
            take_message(m, &parsed.messages[i], b);
        batch_next(m, b);
    }
    rpc_line_free(&parsed);
}

/* Bytes of a line that is too long are dropped as they come. */
static void drop_long(struct mcp *m)
{
    if (m->in.len <= MESSAGE_MAX)
        return;
    if (!m->too_long)
        send_error(m, NULL, NULL, RPC_INVALID_REQUEST, "a message is 64 MiB at most");
    m->too_long = true;
    m->in.len = m->searched = 0;
}

static void take_lines(struct mcp *m)
{
    size_t start = 0;
    const char *end;
    while (m->phase == SERVING &&
           (end = memchr(m->in.data + m->searched, '\n', m->in.len - m->searched))) {
        size_t at = (size_t)(end - m->in.data);
        if (!m->too_long)
            take_line(m, m->in.data + start, at - start);
        m->too_long = false;
        start = m->searched = at + 1;
    }
    buf_consume(&m->in, start);
    m->searched = m->in.len;
    drop_long(m);
}

static void input_ended(struct mcp *m)
{
    if (m->in.len && !m->too_long)
        take_line(m, m->in.data, m->in.len); /* a last line without its end counts as whole */
    m->in.len = 0;
    loop_fd_events(m->input, 0);
    if (m->phase != SERVING)
        return;
    m->phase = DRAINING;
    loop_timer_set(&m->late, DRAIN_MS);
    mcp_ended(m);
}

/* Only when something is there: then a read of any file does not wait. */
static void readable(void *arg, short revents)
{
    struct mcp *m = arg;
    if (buf_reserve(&m->in, BLOCK)) {
        log_error("out of memory");
        stop(m);
        return;
    }
    ssize_t n = read(STDIN_FILENO, m->in.data + m->in.len, BLOCK);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        input_ended(m);
        return;
    }
    m->in.len += (size_t)n;
    take_lines(m);
}

/* --- the end */

static void deleted(void *arg, const struct session_error *e)
{
    struct mcp *m = arg;
    m->deletion = NULL;
    if (e->err && e->err != -ENOENT)
        log_warning("session %s stays until it expires: %s", m->link.config.session,
                    e->message ? e->message : strerror(-e->err));
    loop_quit(m->link.loop, 0);
}

static void delete_session(struct mcp *m)
{
    m->phase = DELETING;
    loop_timer_set(&m->late, DELETE_MS);
    if (m->link.own_session && m->used)
        m->deletion = session_delete(m->link.client.session, deleted, m);
    if (!m->deletion)
        loop_quit(m->link.loop, 0);
}

/* A session that stays is to be left without our job; one that goes takes it along. */
static void stop(struct mcp *m)
{
    if (m->phase >= STOPPING)
        return;
    m->phase = STOPPING;
    loop_fd_events(m->input, 0);
    loop_timer_set(&m->late, m->link.own_session ? 0 : STOP_MS);
    while (m->calls)
        mcp_forget(m->calls);
    if (m->job && !m->link.own_session)
        job_cancel(m->job);
    mcp_ended(m);
}

void mcp_ended(struct mcp *m)
{
    if (m->phase == DRAINING && !m->calls && !m->out.len)
        stop(m);
    else if (m->phase == STOPPING && !m->job)
        loop_timer_set(&m->late, 0);
}

static void late(void *arg)
{
    struct mcp *m = arg;
    switch (m->phase) {
    case SERVING:
        return;
    case DRAINING:
        if (has_reader(m->output_fd))
            loop_timer_set(&m->late, DRAIN_MS);
        else
            stop(m);
        return;
    case STOPPING:
        delete_session(m);
        return;
    case DELETING:
        log_warning("session %s stays until it expires: the pool does not answer",
                    m->link.config.session);
        loop_quit(m->link.loop, 0);
        return;
    }
}

static void signalled(void *arg, short revents)
{
    struct mcp *m = arg;
    if (!signals_take(m->signal_fd))
        return;
    if (m->phase >= STOPPING) /* the second one */
        loop_quit(m->link.loop, 0);
    stop(m);
}

static void recycled(void *arg)
{
    struct mcp *m = arg;
    m->recycled = true;
}

/* --- from start to end */

/* Whatever else is printed goes to stderr, not among the messages. */
static int take_output(struct mcp *m)
{
    m->output_fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (m->output_fd < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
        return -errno;
    return 0;
}

static int set_up(struct mcp *m)
{
    const struct options *o = m->options;
    int err = shared_open(&m->shared, o->files);
    if (err) {
        log_error("--files %s: %s", o->files, strerror(-err));
        return EXIT_BAD_USAGE;
    }
    err = take_output(m);
    if (err) {
        log_error("standard output: %s", strerror(-err));
        return EXIT_NO_TERMINAL;
    }
    int code = link_open(&m->link, o);
    if (code >= 0)
        return code;
    struct loop *loop = m->link.loop;
    session_on_recycled(m->link.client.session, recycled, m);
    loop_timer_init(&m->late, loop, late, m);
    loop_timer_init(&m->beat, loop, tool_beat, m);
    m->input = loop_fd_add(loop, STDIN_FILENO, CURL_WAIT_POLLIN, readable, m);
    m->output = loop_fd_add(loop, m->output_fd, 0, writable, m);
    m->signals = loop_fd_add(loop, m->signal_fd, CURL_WAIT_POLLIN, signalled, m);
    return m->input && m->output && m->signals ? -1 : EXIT_RAISED;
}

static void tear_down(struct mcp *m)
{
    while (m->calls)
        mcp_forget(m->calls);
    session_cancel(m->deletion);
    if (m->job)
        job_abandon(m->job);
    if (m->late.loop) {
        loop_timer_stop(&m->late);
        loop_timer_stop(&m->beat);
    }
    loop_fd_del(m->input);
    loop_fd_del(m->output);
    loop_fd_del(m->signals);
    link_close(&m->link);
    shared_close(&m->shared);
    buf_free(&m->in);
    buf_free(&m->out);
    cleanup_close(&m->output_fd);
}

int mcp_run(const struct options *o, int signal_fd)
{
    struct mcp m = {.options = o, .signal_fd = signal_fd, .output_fd = -1, .version = MCP_LATEST};
    int code = set_up(&m);
    if (code < 0) {
        m.code = EXIT_OK;
        loop_run(m.link.loop);
        code = m.code;
    }
    tear_down(&m);
    return code;
}
