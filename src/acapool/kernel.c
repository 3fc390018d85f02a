#include "acapool/kernel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "acapool/sandbox.h"
#include "acapool/wire.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"

enum {
    GRACE_MS = 2000,       /* from SIGINT to SIGKILL */
    MAX_REPLY = 96 << 20,  /* kernel.py's own limits are below it */
    MAX_STREAM = 16 << 20, /* characters, whatever is asked for */
    SCRATCH = 64 * 1024,
    PIPE_BYTES = 1024 * 1024,
};

/* --- whose turn it is */

struct kernel_turn {
    struct kernel_turn *prev, *next;
};

void kernel_init(struct kernel *k)
{
    *k = (struct kernel){.channel = -1, .out = -1, .err = -1};
    pthread_mutex_init(&k->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&k->turn, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static bool take_turn(struct kernel *k, struct kernel_turn *turn, int64_t deadline)
{
    struct timespec until = {deadline / 1000, deadline % 1000 * 1000000};
    pthread_mutex_lock(&k->lock);
    DL_APPEND(k->queue, turn);
    int err = 0;
    while (k->queue != turn && err != ETIMEDOUT)
        err = pthread_cond_timedwait(&k->turn, &k->lock, &until);
    bool mine = k->queue == turn;
    if (!mine)
        DL_DELETE(k->queue, turn);
    pthread_mutex_unlock(&k->lock);
    return mine;
}

static void pass_turn(struct kernel *k, struct kernel_turn *turn)
{
    pthread_mutex_lock(&k->lock);
    DL_DELETE(k->queue, turn);
    pthread_cond_broadcast(&k->turn);
    pthread_mutex_unlock(&k->lock);
}

/* --- its process */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void forget(struct kernel *k)
{
    close_fd(&k->channel);
    close_fd(&k->out);
    close_fd(&k->err);
    sandbox_unref(k->sandbox);
    k->sandbox = NULL;
    k->state = KERNEL_ABSENT;
}

void kernel_destroy(struct kernel *k)
{
    forget(k);
    pthread_cond_destroy(&k->turn);
    pthread_mutex_destroy(&k->lock);
}

static int open_ends(struct kernel *k, int theirs[3])
{
    int channel[2], out[2], err[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel))
        return -errno;
    k->channel = channel[0];
    theirs[0] = channel[1];
    if (pipe2(out, O_CLOEXEC))
        return -errno;
    k->out = out[0];
    theirs[1] = out[1];
    if (pipe2(err, O_CLOEXEC))
        return -errno;
    k->err = err[0];
    theirs[2] = err[1];
    fcntl(k->out, F_SETPIPE_SZ, PIPE_BYTES);
    fcntl(k->err, F_SETPIPE_SZ, PIPE_BYTES);
    return 0;
}

static int start(struct kernel *k, const struct kernel_request *request)
{
    static atomic_uint numbers;
    struct sandbox *sandbox = request->sandbox(request->arg);
    if (!sandbox)
        return -EPERM;
    int theirs[3] = {-1, -1, -1};
    int err = open_ends(k, theirs);
    k->number = ++numbers;
    if (!err)
        err = sandbox_start_kernel(sandbox, k->number, theirs);
    for (int i = 0; i < 3; i++)
        close_fd(&theirs[i]);
    k->sandbox = sandbox;
    k->state = KERNEL_IDLE;
    if (err)
        forget(k);
    return err;
}

/* --- one execution */

struct capture {
    struct buf data;
    size_t limit; /* bytes that can matter; the rest is read and dropped */
};

struct run {
    struct kernel *kernel;
    struct capture out, err;
    struct buf request, reply;
    size_t sent;
    char scratch[SCRATCH];
};

/* Takes what is there, at most `most` bytes. Returns what read() did. */
static ssize_t take(struct run *run, int fd, struct capture *c, size_t most)
{
    ssize_t n = read(fd, run->scratch, most < SCRATCH ? most : SCRATCH);
    if (n > 0) {
        size_t room = c->limit - c->data.len;
        buf_add(&c->data, run->scratch, (size_t)n < room ? (size_t)n : room);
    }
    return n;
}

/* What was written before the reply is in the pipe by now; what others still write must
 * not keep us. */
static void take_rest(struct run *run, int fd, struct capture *c)
{
    int waiting = 0;
    if (ioctl(fd, FIONREAD, &waiting))
        return;
    while (waiting > 0) {
        ssize_t n = take(run, fd, c, (size_t)waiting);
        if (n <= 0)
            return;
        waiting -= (int)n;
    }
}

static int send_some(struct run *run)
{
    ssize_t n = send(run->kernel->channel, run->request.data + run->sent,
                     run->request.len - run->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    run->sent += (size_t)n;
    return 0;
}

static uint32_t number_at(const struct buf *b, size_t at)
{
    uint32_t big_endian;
    memcpy(&big_endian, b->data + at, sizeof big_endian);
    return ntohl(big_endian);
}

/* 1: the reply is complete, 0: not yet, -EPROTO: it is none. */
static int reply_state(const struct run *run)
{
    if (run->reply.len < 9)
        return 0;
    uint32_t size = number_at(&run->reply, 0);
    if (size < 5 || size > MAX_REPLY || number_at(&run->reply, 4) != run->kernel->sequence)
        return -EPROTO;
    if (run->reply.len < 4 + (size_t)size)
        return 0;
    return run->reply.len == 4 + (size_t)size ? 1 : -EPROTO;
}

static int receive_some(struct run *run)
{
    int err = buf_reserve(&run->reply, SCRATCH);
    if (err)
        return err;
    ssize_t n = recv(run->kernel->channel, run->reply.data + run->reply.len, SCRATCH, MSG_DONTWAIT);
    if (n == 0)
        return -EPIPE;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    run->reply.len += (size_t)n;
    return reply_state(run);
}

/* 1: replied, -ETIMEDOUT: the deadline came first, else why there will be no reply. */
static int converse(struct run *run, int64_t deadline)
{
    struct kernel *k = run->kernel;
    bool out_open = true, err_open = true;
    for (;;) {
        int64_t left = deadline - clock_ms();
        if (left <= 0)
            return -ETIMEDOUT;
        bool unsent = run->sent < run->request.len;
        struct pollfd p[] = {{k->channel, (short)(POLLIN | (unsent ? POLLOUT : 0)), 0},
                             {out_open ? k->out : -1, POLLIN, 0},
                             {err_open ? k->err : -1, POLLIN, 0}};
        if (poll(p, 3, left > INT32_MAX ? INT32_MAX : (int)left) < 0 && errno != EINTR)
            return -errno;
        if (p[1].revents)
            out_open = take(run, k->out, &run->out, SCRATCH) != 0;
        if (p[2].revents)
            err_open = take(run, k->err, &run->err, SCRATCH) != 0;
        int state = p[0].revents & POLLOUT ? send_some(run) : 0;
        if (!state && p[0].revents & ~POLLOUT)
            state = receive_some(run);
        if (state)
            return state;
    }
}

/* The deadline has passed: SIGINT, as Ctrl-C would; and if that is not heeded, the end. */
static void interrupt(struct run *run)
{
    struct kernel *k = run->kernel;
    int err = sandbox_signal(k->sandbox, k->number, SIGINT);
    if (!err)
        err = converse(run, clock_ms() + GRACE_MS);
    if (err == 1)
        return;
    log_debug("kernel %u did not heed its interrupt: restarting it", k->number);
    sandbox_signal(k->sandbox, k->number, SIGKILL);
    forget(k);
}

static int prepare(struct run *run, const struct kernel_request *request)
{
    struct kernel *k = run->kernel;
    size_t most = request->streams_max < MAX_STREAM ? (size_t)request->streams_max : MAX_STREAM;
    run->out.limit = run->err.limit = most * 4;
    size_t len = strlen(request->code);
    uint32_t head[2] = {htonl((uint32_t)len + 5), htonl(++k->sequence)};
    int err = buf_add(&run->request, head, sizeof head);
    if (!err)
        err = buf_adds(&run->request, request->old_values ? "O" : "N");
    return err ? err : buf_add(&run->request, request->code, len);
}

static bool is_json(const char *text, size_t len)
{
    cJSON *json = json_parse(text, len);
    cJSON_Delete(json);
    return json != NULL;
}

/* What the kernel says is the session's word only: its value goes into our answer if it is JSON. */
static void read_reply(struct run *run, struct kernel_result *out)
{
    const char *value = run->reply.data + 9;
    size_t len = run->reply.len - 9;
    out->outcome = run->reply.data[8] == 'S' ? KERNEL_SUCCEEDED : KERNEL_FAILED;
    if (len && is_json(value, len))
        buf_add(&out->value, value, len);
}

static void finish(struct run *run, const struct kernel_request *request, struct kernel_result *out)
{
    size_t most = request->streams_max < MAX_STREAM ? (size_t)request->streams_max : MAX_STREAM;
    wire_clean(&out->out, run->out.data.data, run->out.data.len, most);
    wire_clean(&out->err, run->err.data.data, run->err.data.len, most);
    buf_free(&run->out.data);
    buf_free(&run->err.data);
    buf_free(&run->request);
    buf_free(&run->reply);
}

static void run_code(struct kernel *k, const struct kernel_request *request,
                     struct kernel_result *out)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run) {
        out->outcome = KERNEL_NO_START;
        return;
    }
    run->kernel = k;
    int state = prepare(run, request);
    if (!state) {
        k->state = KERNEL_RUNNING;
        state = converse(run, request->deadline);
    }
    if (state == 1) {
        read_reply(run, out);
    } else if (state == -ETIMEDOUT) {
        out->outcome = KERNEL_TIMED_OUT;
        interrupt(run);
    } else {
        out->outcome = KERNEL_ABORTED;
    }
    if (k->state == KERNEL_RUNNING) {
        take_rest(run, k->out, &run->out);
        take_rest(run, k->err, &run->err);
    }
    if (out->outcome == KERNEL_ABORTED) {
        /* Often it is dead already; one that spoke nonsense is not. */
        sandbox_signal(k->sandbox, k->number, SIGKILL);
        forget(k);
    }
    if (k->state == KERNEL_RUNNING)
        k->state = KERNEL_IDLE;
    finish(run, request, out);
    free(run);
}

/* Whether the idle kernel is still there: it can die between executions. */
static bool alive(const struct kernel *k)
{
    char byte;
    return k->state == KERNEL_IDLE && recv(k->channel, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
           errno == EAGAIN;
}

static void throw_away(int fd)
{
    char scratch[SCRATCH];
    int waiting = 0;
    if (fd < 0 || ioctl(fd, FIONREAD, &waiting))
        return;
    while (waiting > 0) {
        ssize_t n = read(fd, scratch, (size_t)waiting < SCRATCH ? (size_t)waiting : SCRATCH);
        if (n <= 0)
            return;
        waiting -= (int)n;
    }
}

void kernel_execute(struct kernel *k, const struct kernel_request *request,
                    struct kernel_result *out)
{
    *out = (struct kernel_result){.outcome = KERNEL_TIMED_OUT};
    struct kernel_turn turn;
    if (!take_turn(k, &turn, request->deadline))
        return;
    int64_t began = clock_ms();
    request->started(request->arg);
    if (k->state == KERNEL_IDLE && !alive(k)) {
        sandbox_signal(k->sandbox, k->number, SIGKILL);
        forget(k);
    }
    if (k->state == KERNEL_ABSENT && start(k, request)) {
        out->outcome = KERNEL_NO_START;
    } else {
        throw_away(k->out);
        throw_away(k->err);
        run_code(k, request, out);
    }
    out->milliseconds = clock_ms() - began;
    pass_turn(k, &turn);
}

void kernel_drain(struct kernel *k)
{
    struct kernel_turn turn;
    pthread_mutex_lock(&k->lock);
    bool free_now = !k->queue;
    if (free_now)
        DL_APPEND(k->queue, &turn);
    pthread_mutex_unlock(&k->lock);
    if (!free_now)
        return;
    if (k->state == KERNEL_IDLE) {
        throw_away(k->out);
        throw_away(k->err);
    }
    pass_turn(k, &turn);
}

void kernel_result_free(struct kernel_result *r)
{
    buf_free(&r->out);
    buf_free(&r->err);
    buf_free(&r->value);
}
