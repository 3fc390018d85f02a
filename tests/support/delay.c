/* A proxy that makes a TCP server on this machine look far away: delay TARGET-PORT ROUND-TRIP-MS
 * listens on a free port of 127.0.0.1, prints it, and passes bytes on half a round trip after
 * they came. A new connection costs the round trip of its handshake too. Bandwidth is not limited,
 * and up to HELD_MAX bytes are on their way at once, so that the delay is the only difference to
 * a direct connection. It ends when its standard input does. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <utlist.h>

enum {
    BLOCK = 1 << 20,
    HELD_MAX = 64 << 20,
    CONNECTIONS_MAX = 256,
};

struct chunk {
    struct chunk *next;
    int64_t due; /* ns */
    size_t len, sent;
    char data[];
};

/* One direction of a connection. */
struct flow {
    int from, to;
    struct chunk *chunks, *last;
    size_t held;
    int64_t not_before; /* ns: the handshake is not over earlier */
    int64_t eof_due;    /* 0: more may come */
    bool shut;          /* the end was passed on */
};

struct connection {
    struct connection *prev, *next;
    struct flow up, down;
    bool broken;
};

static struct connection *connections;
static unsigned connection_count;
static int64_t round_trip; /* ns */
static int target_port;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void tune(int fd)
{
    int on = 1, size = 4 << 20;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void take_connection(int listener)
{
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        return;
    struct sockaddr_in address = loopback(target_port);
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct connection *c = calloc(1, sizeof *c);
    if (!c || server < 0 || connect(server, (struct sockaddr *)&address, sizeof address)) {
        free(c);
        close(server);
        close(client);
        return;
    }
    tune(client);
    tune(server);
    int64_t now = now_ns();
    c->up = (struct flow){
        .from = client, .to = server, .not_before = now + round_trip + round_trip / 2};
    c->down = (struct flow){.from = server, .to = client, .not_before = now + round_trip};
    DL_APPEND(connections, c);
    connection_count++;
}

static void end_connection(struct connection *c)
{
    struct flow *flows[] = {&c->up, &c->down};
    for (int i = 0; i < 2; i++) {
        struct chunk *chunk, *next;
        LL_FOREACH_SAFE (flows[i]->chunks, chunk, next)
            free(chunk);
        close(flows[i]->from);
    }
    DL_DELETE(connections, c);
    connection_count--;
    free(c);
}

static bool fatal(ssize_t n)
{
    return n < 0 && errno != EAGAIN && errno != EINTR;
}

static int64_t due_time(const struct flow *f, int64_t now)
{
    int64_t due = now + round_trip / 2;
    return due > f->not_before ? due : f->not_before;
}

/* False when the connection broke. */
static bool take_bytes(struct flow *f, int64_t now)
{
    static char block[BLOCK];
    ssize_t n = recv(f->from, block, sizeof block, 0);
    if (n == 0)
        f->eof_due = due_time(f, now);
    if (n <= 0)
        return !fatal(n);
    struct chunk *chunk = malloc(sizeof *chunk + (size_t)n);
    if (!chunk)
        die("malloc");
    *chunk = (struct chunk){.due = due_time(f, now), .len = (size_t)n};
    memcpy(chunk->data, block, (size_t)n);
    if (f->chunks)
        f->last->next = chunk;
    else
        f->chunks = chunk;
    f->last = chunk;
    f->held += (size_t)n;
    return true;
}

static bool give_bytes(struct flow *f, int64_t now)
{
    while (f->chunks && f->chunks->due <= now) {
        struct chunk *chunk = f->chunks;
        ssize_t n = send(f->to, chunk->data + chunk->sent, chunk->len - chunk->sent, MSG_NOSIGNAL);
        if (n < 0)
            return !fatal(n);
        chunk->sent += (size_t)n;
        f->held -= (size_t)n;
        if (chunk->sent < chunk->len)
            return true;
        f->chunks = chunk->next;
        free(chunk);
    }
    if (f->eof_due && f->eof_due <= now && !f->chunks && !f->shut) {
        shutdown(f->to, SHUT_WR);
        f->shut = true;
    }
    return true;
}

/* What poll() should watch for a direction; *wake is moved to when it next has something due. */
static void watch(const struct flow *f, short *from, short *to, int64_t now, int64_t *wake)
{
    if (!f->eof_due && f->held < HELD_MAX)
        *from |= POLLIN;
    int64_t due = f->chunks ? f->chunks->due : f->eof_due && !f->shut ? f->eof_due : INT64_MAX;
    if (due <= now)
        *to |= f->chunks ? POLLOUT : 0;
    else if (due < *wake)
        *wake = due;
}

static bool serve(struct connection *c, short client, short server)
{
    int64_t now = now_ns();
    if ((client & (POLLERR | POLLNVAL)) || (server & (POLLERR | POLLNVAL)))
        return false;
    if ((client & (POLLIN | POLLHUP)) && !c->up.eof_due && !take_bytes(&c->up, now))
        return false;
    if ((server & (POLLIN | POLLHUP)) && !c->down.eof_due && !take_bytes(&c->down, now))
        return false;
    return give_bytes(&c->up, now) && give_bytes(&c->down, now) && !(c->up.shut && c->down.shut);
}

static void turn(int listener)
{
    static struct pollfd fds[2 + 2 * CONNECTIONS_MAX];
    struct connection *c, *next;
    int64_t now = now_ns(), wake = INT64_MAX;
    nfds_t n = 2;
    fds[0] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
    fds[1] =
        (struct pollfd){.fd = connection_count < CONNECTIONS_MAX ? listener : -1, .events = POLLIN};
    DL_FOREACH (connections, c) {
        fds[n] = (struct pollfd){.fd = c->up.from};
        fds[n + 1] = (struct pollfd){.fd = c->down.from};
        watch(&c->up, &fds[n].events, &fds[n + 1].events, now, &wake);
        watch(&c->down, &fds[n + 1].events, &fds[n].events, now, &wake);
        for (nfds_t i = n; i < n + 2; i++)
            if (!fds[i].events)
                fds[i].fd = -1; /* a hang-up that can't be acted upon yet would make us spin */
        n += 2;
    }
    int64_t left = wake > now ? wake - now : 0;
    struct timespec pause = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    if (ppoll(fds, n, wake == INT64_MAX ? NULL : &pause, NULL) < 0 && errno != EINTR)
        die("poll");
    n = 2;
    DL_FOREACH_SAFE (connections, c, next) {
        if (!serve(c, fds[n].revents, fds[n + 1].revents))
            end_connection(c);
        n += 2;
    }
    if (fds[1].revents)
        take_connection(listener);
    char byte;
    if (fds[0].revents && read(STDIN_FILENO, &byte, 1) <= 0)
        exit(0);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "delay TARGET-PORT ROUND-TRIP-MS\n");
        return 64;
    }
    target_port = atoi(argv[1]);
    round_trip = (int64_t)(atof(argv[2]) * 1e6);
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in address = loopback(0);
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, len) || listen(listener, 128) ||
        getsockname(listener, (struct sockaddr *)&address, &len))
        die("listen");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;)
        turn(listener);
}
