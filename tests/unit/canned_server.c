#include "canned_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

enum { MAX_REQUESTS = 256, MAX_CONNECTIONS = 256 };

struct request {
    char *text;
    size_t head_len, len;
};

struct connection {
    struct server *server;
    pthread_t thread;
    int fd;
    SSL *tls;
};

struct server {
    const struct step *steps;
    size_t step_count;
    struct server_options options;
    int listener;
    char url[64], certificate[64];
    SSL_CTX *tls;
    pthread_t acceptor;
    /* Under the lock. */
    pthread_mutex_t lock;
    pthread_cond_t change;
    size_t next;
    struct request requests[MAX_REQUESTS];
    size_t request_count;
    struct connection connections[MAX_CONNECTIONS];
    size_t connection_count;
    size_t at_once, most_at_once;
    unsigned releases;
    bool http2_offered;
    bool stopping;
};

static void need(bool well, const char *what)
{
    if (well)
        return;
    fprintf(stderr, "canned server: %s: %s\n", what, strerror(errno));
    abort();
}

/* --- bytes */

static ssize_t get_bytes(struct connection *c, void *to, size_t room)
{
    return c->tls ? SSL_read(c->tls, to, (int)room) : recv(c->fd, to, room, 0);
}

static bool put_bytes(struct connection *c, const char *data, size_t len)
{
    while (len) {
        ssize_t n =
            c->tls ? SSL_write(c->tls, data, (int)len) : send(c->fd, data, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

/* A whole request of those with a Content-Length; false at the end of the connection. */
static bool read_request(struct connection *c, struct request *r)
{
    size_t size = 64 << 10, want = SIZE_MAX;
    *r = (struct request){.text = malloc(size + 1)};
    need(r->text, "memory");
    while (r->len < want) {
        if (r->len == size) {
            size *= 2;
            r->text = realloc(r->text, size + 1);
            need(r->text, "memory");
        }
        ssize_t n = get_bytes(c, r->text + r->len, size - r->len);
        if (n <= 0) {
            free(r->text);
            return false;
        }
        r->len += (size_t)n;
        r->text[r->len] = '\0';
        char *end = want == SIZE_MAX ? strstr(r->text, "\r\n\r\n") : NULL;
        if (end) {
            const char *length = strcasestr(r->text, "\r\nContent-Length:");
            r->head_len = (size_t)(end + 4 - r->text);
            want = r->head_len + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
        }
    }
    return true;
}

/* --- steps */

static const struct step *take_step(struct server *s, const struct request *r)
{
    pthread_mutex_lock(&s->lock);
    need(s->request_count < MAX_REQUESTS, "too many requests");
    s->requests[s->request_count++] = *r;
    if (++s->at_once > s->most_at_once)
        s->most_at_once = s->at_once;
    const struct step *step = &s->steps[s->next];
    if (s->next + 1 < s->step_count)
        s->next++;
    while (step->hold && !s->releases && !s->stopping)
        pthread_cond_wait(&s->change, &s->lock);
    if (step->hold && s->releases)
        s->releases--;
    s->at_once--;
    pthread_mutex_unlock(&s->lock);
    return step;
}

static bool play(struct connection *c, const struct step *step)
{
    if (!step->reply)
        return true;
    size_t len = step->len ? step->len : strlen(step->reply);
    if (!step->drip_ms)
        return put_bytes(c, step->reply, len);
    const struct timespec pause = {.tv_nsec = step->drip_ms * 1000000L};
    for (size_t i = 0; i < len; i++) {
        if (!put_bytes(c, step->reply + i, 1))
            return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

static bool begin_tls(struct connection *c)
{
    if (!c->server->tls)
        return true;
    c->tls = SSL_new(c->server->tls);
    SSL_set_fd(c->tls, c->fd);
    return SSL_accept(c->tls) == 1;
}

static void *serve(void *arg)
{
    struct connection *c = arg;
    struct request r;
    if (begin_tls(c)) {
        while (read_request(c, &r)) {
            const struct step *step = take_step(c->server, &r);
            char end;
            if (!play(c, step) || step->end == STEP_CLOSE)
                break;
            if (step->end == STEP_FREEZE) {
                while (recv(c->fd, &end, 1, 0) > 0)
                    ;
                break;
            }
        }
    }
    if (c->tls && SSL_get_state(c->tls) == TLS_ST_OK)
        SSL_shutdown(c->tls);
    shutdown(c->fd, SHUT_RDWR);
    return NULL;
}

static void *accept_all(void *arg)
{
    struct server *s = arg;
    for (;;) {
        int fd = accept(s->listener, NULL, NULL);
        pthread_mutex_lock(&s->lock);
        if (fd < 0 || s->stopping) {
            pthread_mutex_unlock(&s->lock);
            if (fd >= 0)
                close(fd);
            return NULL;
        }
        need(s->connection_count < MAX_CONNECTIONS, "too many connections");
        struct connection *c = &s->connections[s->connection_count++];
        *c = (struct connection){.server = s, .fd = fd};
        need(!pthread_create(&c->thread, NULL, serve, c), "thread");
        pthread_mutex_unlock(&s->lock);
    }
}

/* Notes what the client offers, and chooses nothing: HTTP/1.1. */
static int see_protocols(SSL *tls, const unsigned char **out, unsigned char *out_len,
                         const unsigned char *offered, unsigned len, void *arg)
{
    struct server *s = arg;
    pthread_mutex_lock(&s->lock);
    s->http2_offered = memmem(offered, len, "\2h2", 3) != NULL;
    pthread_mutex_unlock(&s->lock);
    return SSL_TLSEXT_ERR_NOACK;
}

/* --- a certificate for localhost that nobody vouches for */

static void make_certificate(struct server *s)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, key);
    X509_NAME *name = X509_get_subject_name(x);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1,
                               0);
    X509_set_issuer_name(x, name);
    X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:localhost");
    X509_add_ext(x, names, -1);
    X509_EXTENSION_free(names);
    need(X509_sign(x, key, EVP_sha256()) > 0, "certificate");
    strcpy(s->certificate, "/tmp/acafs-cert-XXXXXX");
    int fd = mkstemp(s->certificate);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    need(file && PEM_write_X509(file, x) && fclose(file) == 0, "certificate");
    s->tls = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_alpn_select_cb(s->tls, see_protocols, s);
    need(SSL_CTX_use_certificate(s->tls, x) == 1 && SSL_CTX_use_PrivateKey(s->tls, key) == 1,
         "TLS");
    X509_free(x);
    EVP_PKEY_free(key);
}

/* --- life */

static void bind_unix(struct server *s)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", s->options.unix_path);
    unlink(a.sun_path);
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(bind(s->listener, (struct sockaddr *)&a, sizeof a) == 0, "bind");
    strcpy(s->url, "http://localhost");
}

static void bind_tcp(struct server *s)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(bind(s->listener, (struct sockaddr *)&a, len) == 0, "bind");
    getsockname(s->listener, (struct sockaddr *)&a, &len);
    snprintf(s->url, sizeof s->url, "%s:%d", s->tls ? "https://localhost" : "http://127.0.0.1",
             ntohs(a.sin_port));
}

void server_listen(struct server *s)
{
    need(listen(s->listener, 64) == 0, "listen");
    s->options.deaf = false;
    if (!s->options.frozen)
        need(!pthread_create(&s->acceptor, NULL, accept_all, s), "thread");
}

struct server *server_start(const struct step *steps, size_t count,
                            const struct server_options *options)
{
    struct server *s = calloc(1, sizeof *s);
    need(s, "memory");
    signal(SIGPIPE, SIG_IGN); /* OpenSSL's writes */
    s->steps = steps;
    s->step_count = count;
    if (options)
        s->options = *options;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->change, NULL);
    if (s->options.tls)
        make_certificate(s);
    if (s->options.unix_path)
        bind_unix(s);
    else
        bind_tcp(s);
    if (!s->options.deaf)
        server_listen(s);
    return s;
}

static void stop_threads(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->change);
    shutdown(s->listener, SHUT_RDWR);
    for (size_t i = 0; i < s->connection_count; i++)
        shutdown(s->connections[i].fd, SHUT_RDWR);
    pthread_mutex_unlock(&s->lock);
    if (!s->options.deaf && !s->options.frozen)
        pthread_join(s->acceptor, NULL);
    for (size_t i = 0; i < s->connection_count; i++) {
        pthread_join(s->connections[i].thread, NULL);
        SSL_free(s->connections[i].tls);
        close(s->connections[i].fd);
    }
}

void server_stop(struct server *s)
{
    if (!s)
        return;
    stop_threads(s);
    close(s->listener);
    if (s->options.unix_path)
        unlink(s->options.unix_path);
    if (*s->certificate)
        unlink(s->certificate);
    for (size_t i = 0; i < s->request_count; i++)
        free(s->requests[i].text);
    SSL_CTX_free(s->tls);
    pthread_cond_destroy(&s->change);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void server_release(struct server *s, unsigned count)
{
    pthread_mutex_lock(&s->lock);
    s->releases += count;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
}

/* --- what came */

const char *server_url(const struct server *s)
{
    return s->url;
}

const char *server_certificate(const struct server *s)
{
    return s->certificate;
}

static size_t read_count(struct server *s, const size_t *count)
{
    pthread_mutex_lock(&s->lock);
    size_t n = *count;
    pthread_mutex_unlock(&s->lock);
    return n;
}

size_t server_requests(struct server *s)
{
    return read_count(s, &s->request_count);
}

size_t server_connections(struct server *s)
{
    return read_count(s, &s->connection_count);
}

size_t server_most_at_once(struct server *s)
{
    return read_count(s, &s->most_at_once);
}

bool server_http2_offered(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    bool offered = s->http2_offered;
    pthread_mutex_unlock(&s->lock);
    return offered;
}

const char *server_head(struct server *s, size_t i)
{
    need(i < server_requests(s), "no such request");
    return s->requests[i].text;
}

const char *server_body(struct server *s, size_t i, size_t *len)
{
    need(i < server_requests(s), "no such request");
    if (len)
        *len = s->requests[i].len - s->requests[i].head_len;
    return s->requests[i].text + s->requests[i].head_len;
}
