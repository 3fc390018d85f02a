/* An HTTP server for unit tests, on threads of its own: it reads requests, remembers them
 * byte for byte, and answers each with the next of its steps, whatever the request was. */
#ifndef ACAFS_TESTS_CANNED_SERVER_H
#define ACAFS_TESTS_CANNED_SERVER_H

#include <stdbool.h>
#include <stddef.h>

enum step_end {
    STEP_KEEP,   /* read the next request of this connection */
    STEP_CLOSE,  /* close the connection */
    STEP_FREEZE, /* say nothing more, and keep the connection open */
};

struct step {
    const char *reply; /* raw bytes; NULL: none */
    size_t len;        /* of the reply; 0: it is a string */
    enum step_end end;
    bool hold;        /* wait for server_release() before the reply */
    unsigned drip_ms; /* send the reply byte by byte, so far apart */
};

struct server_options {
    const char *unix_path; /* NULL: TCP on 127.0.0.1 */
    bool tls;              /* with a certificate of its own, for "localhost" */
    bool deaf;             /* refuses connections until server_listen() */
    bool frozen;           /* never accepts what the kernel holds for it */
};

struct server;

/* The last step is repeated for ever. The steps must outlive the server. */
struct server *server_start(const struct step *steps, size_t count, const struct server_options *);
void server_stop(struct server *);
void server_listen(struct server *);
/* Lets so many held replies go. */
void server_release(struct server *, unsigned count);

/* http://127.0.0.1:PORT, or https://localhost:PORT, or http://localhost. */
const char *server_url(const struct server *);
/* PEM file with the certificate of a TLS server. */
const char *server_certificate(const struct server *);

size_t server_requests(struct server *);
size_t server_connections(struct server *);
/* The most requests that waited for their reply at the same time. */
size_t server_most_at_once(struct server *);
/* Whether the client of the last TLS connection would speak HTTP/2. */
bool server_http2_offered(struct server *);
/* The head and the body of a request, NUL-terminated; body_len may be NULL. The server's. */
const char *server_head(struct server *, size_t request);
const char *server_body(struct server *, size_t request, size_t *body_len);

#define OK_REPLY(body_len, body) "HTTP/1.1 200 OK\r\nContent-Length: " #body_len "\r\n\r\n" body

#endif
