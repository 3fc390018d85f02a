/* http/: what goes over the wire, what comes of answers, and what is sent again. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "http_fixture.h"

#define HEAD_OF(status) "HTTP/1.1 " status "\r\n"
#define EMPTY "Content-Length: 0\r\n\r\n"
#define AT_ONCE "Retry-After: 0\r\n"

static struct fixture f;

static int setup(void **state)
{
    const struct http_options options = {.retries = 2};
    fixture_start(&f, &options);
    return 0;
}

static int teardown(void **state)
{
    fixture_stop(&f);
    return 0;
}

static void run(struct result *r, struct http_request q, const char *path)
{
    request_run(&f, r, &q, path);
}

static void assert_head_has(size_t request, const char *line)
{
    if (!strcasestr(server_head(f.server, request), line))
        fail_msg("no \"%s\" in:\n%s", line, server_head(f.server, request));
}

static void assert_head_lacks(size_t request, const char *line)
{
    const char *found = strcasestr(server_head(f.server, request), line);
    if (found && found < server_body(f.server, request, NULL))
        fail_msg("\"%s\" in:\n%s", line, server_head(f.server, request));
}

/* --- requests */

static void get(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("200 OK") "X-Test: yes\r\nContent-Length: 5\r\n\r\nhello"});
    static const char *const headers[] = {"Accept: application/json", "X-Mine: 1", NULL};
    struct result r = {0};
    run(&r, (struct http_request){.headers = headers}, "/a%20b?c=d");
    assert_int_equal(r.err, 0);
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "hello");
    assert_int_equal(r.body_len, 5);
    assert_string_equal(r.header, "yes");
    assert_string_equal(r.why, "HTTP 200");
    assert_int_equal(r.attempts, 1);
    assert_true(r.sent);
    assert_head_has(0, "GET /a%20b?c=d HTTP/1.1\r\n");
    assert_head_has(0, "\r\nAccept: application/json\r\n");
    assert_head_has(0, "\r\nX-Mine: 1\r\n");
    assert_head_has(0, "\r\nUser-Agent: acafs/");
    assert_head_lacks(0, "Authorization");
    assert_head_lacks(0, "Accept-Encoding");
    assert_head_lacks(0, "Upgrade");
}

static void bodies(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("204 No Content") "\r\n"});
    struct result r = {0};
    struct http_request q = {.method = "POST",
                             .body = HTTP_BODY_BYTES,
                             .content_type = "application/json",
                             .data = "{\"a\":\0}",
                             .len = 7};
    size_t len;
    run(&r, q, "/");
    assert_int_equal(r.status, 204);
    assert_head_has(0, "\r\nContent-Type: application/json\r\n");
    assert_head_has(0, "\r\nContent-Length: 7\r\n");
    assert_head_lacks(0, "Expect");
    assert_memory_equal(server_body(f.server, 0, &len), "{\"a\":\0}", 7);
    assert_int_equal(len, 7);
    static const char *const methods[] = {"POST", "PUT", "DELETE", "PATCH", "HEAD"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        struct result none = {0};
        run(&none, (struct http_request){.method = methods[i]}, "/x");
        assert_int_equal(none.status, 204);
        assert_int_equal(strncmp(server_head(f.server, i + 1), methods[i], strlen(methods[i])), 0);
        assert_head_has(i + 1, " /x HTTP/1.1\r\n");
        server_body(f.server, i + 1, &len);
        assert_int_equal(len, 0);
    }
}

/* Larger than the socket's buffers and curl's: and no 100-continue for it. */
static void large_body(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("200 OK") EMPTY});
    size_t size = 3 << 20, len;
    char *data = malloc(size);
    for (size_t i = 0; i < size; i++)
        data[i] = (char)(i * 31 >> 3);
    struct result r = {0};
    struct http_request q = {.method = "POST",
                             .body = HTTP_BODY_BYTES,
                             .data = data,
                             .len = size,
                             .on_sent = result_sent};
    run(&r, q, "/");
    assert_int_equal(r.status, 200);
    assert_int_equal(r.last_sent, size);
    assert_head_lacks(0, "Expect");
    const char *got = server_body(f.server, 0, &len);
    assert_int_equal(len, size);
    assert_memory_equal(got, data, size);
    struct http_stats stats;
    http_get_stats(f.http, &stats);
    assert_int_equal(stats.bytes_out, size);
    free(data);
}

/* --- multipart */

static void assert_part(size_t request, const char *name, const char *type, const void *data,
                        size_t len)
{
    size_t got;
    const char *body = server_body(f.server, request, &got);
    const char *boundary = strstr(server_head(f.server, request), "boundary=");
    assert_non_null(boundary);
    int boundary_len = (int)strcspn(boundary + 9, "\r\n");
    char *want = malloc(len + 1024);
    int head = sprintf(want,
                       "--%.*s\r\nContent-Disposition: form-data; name=\"file\"; "
                       "filename=\"%s\"\r\nContent-Type: %s\r\n\r\n",
                       boundary_len, boundary + 9, name, type);
    memcpy(want + head, data, len);
    int tail = sprintf(want + head + len, "\r\n--%.*s--\r\n", boundary_len, boundary + 9);
    assert_int_equal(got, (size_t)head + len + (size_t)tail);
    assert_memory_equal(body, want, got);
    free(want);
}

static void part_from_memory(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("200 OK") EMPTY});
    static const struct {
        const char *name, *sent;
    } names[] = {
        {"plain.txt", "plain.txt"},
        {"a b%41;=,'.txt", "a b%41;=,'.txt"},
        {"\xc3\xa9\xf0\x9f\x98\x80", "\xc3\xa9\xf0\x9f\x98\x80"},
        {"qu\"ote", "qu%22ote"},
        {"back\\slash", "back\\slash"},
        {"two\r\nlines", "two%0D%0Alines"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct result r = {0};
        struct http_request q = {.method = "POST",
                                 .body = HTTP_BODY_PART,
                                 .data = "a\0b\r\n--",
                                 .len = i ? 7 : 0, /* the first is empty */
                                 .fd = -1,
                                 .part_name = names[i].name};
        run(&r, q, "/");
        assert_int_equal(r.status, 200);
        assert_head_has(i, "\r\nContent-Length: ");
        assert_head_lacks(i, "Transfer-Encoding");
        assert_head_lacks(i, "Expect");
        assert_part(i, names[i].sent, "application/octet-stream", "a\0b\r\n--", i ? 7 : 0);
    }
}

static int file_of(const char *data, size_t len)
{
    char path[] = "/tmp/acafs-part-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(write(fd, data, len), (ssize_t)len);
    return fd;
}

static struct http_request part_of_file(int fd, off_t offset, size_t len)
{
    return (struct http_request){.method = "POST",
                                 .body = HTTP_BODY_PART,
                                 .fd = fd,
                                 .offset = offset,
                                 .len = len,
                                 .part_name = "name",
                                 .content_type = "text/x-python"};
}

/* Sent again whole after it was turned away, and after the connection broke. */
static void part_from_file(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("503 Busy") AT_ONCE EMPTY}, {.end = STEP_CLOSE},
          {.reply = HEAD_OF("200 OK") EMPTY});
    size_t size = 300000;
    char *data = malloc(size);
    for (size_t i = 0; i < size; i++)
        data[i] = (char)(i >> 4);
    int fd = file_of(data, size);
    struct result r = {0};
    run(&r, part_of_file(fd, 1000, 250000), "/");
    assert_int_equal(r.status, 200);
    assert_int_equal(server_requests(f.server), 3); /* of two attempts: curl makes one of its own */
    for (size_t i = 0; i < 3; i++)
        assert_part(i, "name", "text/x-python", data + 1000, 250000);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), (off_t)size); /* pread leaves it */
    free(data);
    close(fd);
}

static void empty_part_from_file(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("200 OK") EMPTY});
    int fd = file_of("", 0);
    struct result r = {0};
    run(&r, part_of_file(fd, 0, 0), "/");
    assert_int_equal(r.status, 200);
    assert_part(0, "name", "text/x-python", "", 0);
    close(fd);
}

static void file_that_shrank_is_not_sent(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("200 OK") EMPTY});
    int fd = file_of("12345", 5);
    struct result r = {0};
    run(&r, part_of_file(fd, 0, 6), "/");
    assert_int_equal(r.err, -EIO);
    assert_int_equal(r.attempts, 1);
    close(fd);
    struct result unreadable = {0};
    fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    run(&unreadable, part_of_file(fd, 0, 6), "/");
    assert_int_equal(unreadable.err, -EBADF);
    close(fd);
    assert_int_equal(server_requests(f.server), 0);
}

/* --- connections */

static void connection_is_kept(void **state)
{
    SERVE(&f, {.reply = OK_REPLY(1, "x")});
    for (int i = 0; i < 5; i++) {
        struct result r = {0};
        run(&r, (struct http_request){0}, "/");
        assert_int_equal(r.status, 200);
    }
    assert_int_equal(server_connections(f.server), 1);
}

/* A kept connection may be closed before the answer: what must not run twice isn't sent on one. */
static void execution_is_sent_once(void **state)
{
    SERVE(&f, {.reply = OK_REPLY(1, "x")}, {.end = STEP_CLOSE});
    struct result first = {0}, r = {0};
    run(&first, (struct http_request){0}, "/");
    struct http_request q = {.method = "POST",
                             .body = HTTP_BODY_BYTES,
                             .data = "run",
                             .len = 3,
                             .retry = HTTP_RETRY_UNSENT};
    run(&r, q, "/");
    assert_int_equal(r.err, -EIO);
    assert_true(r.sent);
    assert_int_equal(r.attempts, 1);
    assert_int_equal(server_requests(f.server), 2);
    assert_int_equal(server_connections(f.server), 2);
}

static void unix_socket(void **state)
{
    static const struct step steps[] = {{.reply = OK_REPLY(1, "x")}};
    const struct server_options options = {.unix_path = "/tmp/acafs-test-http.sock"};
    fixture_serve(&f, steps, 1, &options);
    struct result r = {0};
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    run(&r, (struct http_request){.unix_socket = options.unix_path}, "/where");
    unsetenv("http_proxy");
    assert_int_equal(r.status, 200);
    assert_head_has(0, "GET /where HTTP/1.1\r\n");
    assert_head_has(0, "\r\nHost: localhost\r\n");
    struct result away = {0};
    struct http_request q = {.unix_socket = "/nonexistent/sock", .retry = HTTP_RETRY_NEVER};
    run(&away, q, "/?identifier=hush");
    assert_int_equal(away.err, -EHOSTUNREACH);
    assert_false(away.sent);
    assert_string_equal(away.why, "cannot connect to /nonexistent/sock: No such file or directory");
}

static void loopback_goes_by_no_proxy(void **state)
{
    SERVE(&f, {.reply = OK_REPLY(1, "x")});
    struct result r = {0};
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("all_proxy", "http://127.0.0.1:1", 1);
    run(&r, (struct http_request){0}, "/");
    unsetenv("http_proxy");
    unsetenv("all_proxy");
    assert_int_equal(r.status, 200);
}

static void others_go_by_the_proxy(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("403 Forbidden") EMPTY});
    struct result r = {0};
    setenv("https_proxy", server_url(f.server), 1);
    struct http_request q = {.retry = HTTP_RETRY_NEVER};
    struct server *server = f.server;
    f.server = NULL; /* the URL is whole */
    request_run(&f, &r, &q, "https://pool.invalid/x?identifier=hush");
    f.server = server;
    unsetenv("https_proxy");
    assert_int_equal(r.err, -EIO);
    assert_int_equal(server_requests(f.server), 1);
    assert_head_has(0, "CONNECT pool.invalid:443 HTTP/1.1\r\n");
    assert_head_lacks(0, "hush");
    assert_null(strstr(r.why, "hush"));
}

static void nobody_listens(void **state)
{
    static const struct step steps[] = {{.reply = OK_REPLY(1, "x")}};
    const struct server_options options = {.deaf = true};
    fixture_serve(&f, steps, 1, &options);
    char want[128];
    struct result r = {0};
    struct http_request q = {.retry = HTTP_RETRY_NEVER};
    run(&r, q, "/path?identifier=hush");
    snprintf(want, sizeof want, "cannot connect to %s: Connection refused",
             server_url(f.server) + strlen("http://"));
    assert_string_equal(r.why, want);
    assert_int_equal(r.err, -EHOSTUNREACH);
    assert_int_equal(r.status, 0);
    assert_false(r.sent);
    assert_string_equal(r.body, "");
}

static bool tried_once(void *arg)
{
    struct http_stats stats;
    http_get_stats(f.http, &stats);
    return stats.attempts == 1 && stats.active == 0;
}

/* Code that could not be sent is sent when the server is there. */
static void unsent_is_retried(void **state)
{
    static const struct step steps[] = {{.reply = OK_REPLY(1, "x")}};
    const struct server_options options = {.deaf = true};
    fixture_serve(&f, steps, 1, &options);
    struct result r = {0};
    struct http_request q = {.method = "POST", .retry = HTTP_RETRY_UNSENT};
    request_start(&f, &r, &q, "/");
    fixture_until(&f, tried_once, NULL);
    server_listen(f.server);
    request_wait(&r);
    assert_int_equal(r.status, 200);
    assert_int_equal(r.attempts, 2);
    assert_int_equal(server_requests(f.server), 1);
}

/* --- answers */

static void redirect_is_refused(void **state)
{
    SERVE(&f, {.reply =
                   HEAD_OF("302 Found") "Location: http://127.0.0.1:1/\r\nX-Test: seen\r\n" EMPTY});
    struct result r = {0};
    run(&r, (struct http_request){0}, "/");
    assert_int_equal(r.err, -EPROTO);
    assert_int_equal(r.attempts, 1);
    assert_string_equal(r.header, "seen");
    assert_non_null(strstr(r.why, "302"));
}

static void not_modified_is_an_answer(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("304 Not Modified") "\r\n"});
    struct result r = {0};
    run(&r, (struct http_request){0}, "/");
    assert_int_equal(r.err, 0);
    assert_int_equal(r.status, 304);
}

static void nonsense_is_no_answer(void **state)
{
    SERVE(&f, {.reply = "SSH-2.0-OpenSSH_9.2\r\n", .end = STEP_CLOSE});
    struct result r = {0};
    run(&r, (struct http_request){0}, "/");
    assert_int_equal(r.err, -EPROTO);
    assert_int_equal(r.attempts, 1);
}

static void body_has_a_limit(void **state)
{
    SERVE(&f, {.reply = OK_REPLY(10, "0123456789")});
    struct result fits = {0}, r = {0};
    run(&fits, (struct http_request){.max_body = 10}, "/");
    assert_int_equal(fits.err, 0);
    run(&r, (struct http_request){.max_body = 9}, "/");
    assert_int_equal(r.err, -EFBIG);
    assert_int_equal(r.attempts, 1);
    assert_non_null(strstr(r.why, "more than 9 bytes"));
}

static void endless_error_is_cut(void **state)
{
    static const char head[] = HEAD_OF("400 Bad") "Content-Length: 1048576\r\n\r\n";
    static char reply[sizeof head - 1 + (1 << 20)];
    memset(reply, 'x', sizeof reply);
    memcpy(reply, head, sizeof head - 1);
    const struct step step = {.reply = reply, .len = sizeof reply};
    fixture_serve(&f, &step, 1, NULL);
    struct result r = {0};
    run(&r, (struct http_request){.max_body = 1000}, "/");
    assert_int_equal(r.err, 0);
    assert_int_equal(r.status, 400);
    assert_in_range(r.body_len, 128 << 10, 256 << 10);
}

static void truncated_body_is_broken(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("200 OK") "Content-Length: 10\r\n\r\n01234", .end = STEP_CLOSE});
    struct result r = {0};
    run(&r, (struct http_request){.retry = HTTP_RETRY_NEVER}, "/");
    assert_int_equal(r.err, -EIO);
    assert_int_equal(r.status, 0);
    assert_true(r.sent);
}

/* --- streaming */

static struct http_request streaming(void)
{
    return (struct http_request){.on_head = result_head, .on_data = result_data};
}

static void stream(void **state)
{
    SERVE(&f, {.reply = OK_REPLY(10, "0123456789")});
    struct result r = {0};
    run(&r, streaming(), "/");
    assert_int_equal(r.status, 200);
    assert_int_equal(r.heads, 1);
    assert_string_equal(r.data.data, "0123456789");
    assert_string_equal(r.body, "");
    result_free(&r);
}

static void empty_stream_has_a_head(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("200 OK") EMPTY});
    struct result r = {0};
    run(&r, streaming(), "/");
    assert_int_equal(r.heads, 1);
    assert_int_equal(r.datas, 0);
}

static void stream_starts_over(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("200 OK") "Content-Length: 10\r\n\r\n01234", .end = STEP_CLOSE},
          {.reply = HEAD_OF("503 Busy") AT_ONCE "Content-Length: 4\r\n\r\nbusy"},
          {.reply = HEAD_OF("200 OK") "Content-Length: 10\r\n\r\nabcdefghij"});
    struct result r = {0};
    run(&r, streaming(), "/");
    assert_int_equal(r.status, 200);
    assert_int_equal(r.attempts, 3);
    assert_int_equal(r.heads, 2);
    assert_string_equal(r.data.data, "abcdefghij");
    assert_string_equal(r.body, "");
    result_free(&r);
}

static void error_is_not_streamed(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("404 Not Found") "Content-Length: 4\r\n\r\ngone"});
    struct result r = {0};
    run(&r, streaming(), "/");
    assert_int_equal(r.status, 404);
    assert_int_equal(r.heads, 0);
    assert_int_equal(r.datas, 0);
    assert_string_equal(r.body, "gone");
}

static void taker_ends_the_stream(void **state)
{
    SERVE(&f, {.reply = OK_REPLY(10, "0123456789")});
    struct result head = {.head_returns = -ESTALE}, data = {.data_returns = -ENOSPC};
    run(&head, streaming(), "/");
    assert_int_equal(head.err, -ESTALE);
    assert_int_equal(head.datas, 0);
    assert_int_equal(head.attempts, 1);
    run(&data, streaming(), "/");
    assert_int_equal(data.err, -ENOSPC);
    assert_int_equal(data.attempts, 1);
    result_free(&data);
}

/* --- retries */

static void passing_errors_are_retried(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("429 Slow down") AT_ONCE EMPTY},
          {.reply = HEAD_OF("500 Oops") AT_ONCE EMPTY}, {.reply = OK_REPLY(1, "x")});
    struct result r = {0};
    run(&r, (struct http_request){.method = "PUT"}, "/");
    assert_int_equal(r.status, 200);
    assert_int_equal(r.attempts, 3);
    assert_string_equal(r.body, "x");
}

static void retries_end(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("429 Slow down") "X-Test: t\r\n" AT_ONCE
                                                 "Content-Length: 4\r\n\r\nwhy?"});
    struct result r = {0};
    run(&r, (struct http_request){0}, "/");
    assert_int_equal(r.err, 0);
    assert_int_equal(r.status, 429);
    assert_int_equal(r.attempts, 3);
    assert_string_equal(r.body, "why?");
    assert_string_equal(r.header, "t");
    assert_int_equal(server_requests(f.server), 3);
}

static void execution_turned_away_is_retried(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("429 Slow down") AT_ONCE EMPTY},
          {.reply = HEAD_OF("503 Busy") AT_ONCE EMPTY}, {.reply = OK_REPLY(1, "x")});
    struct result r = {0};
    run(&r, (struct http_request){.method = "POST", .retry = HTTP_RETRY_UNSENT}, "/");
    assert_int_equal(r.status, 200);
    assert_int_equal(r.attempts, 3);
}

/* Each of these may have run it. */
static void execution_in_doubt_is_not_retried(void **state)
{
    static const struct step cases[] = {
        {.reply = HEAD_OF("503 Busy") EMPTY},
        {.reply = HEAD_OF("500 Oops") AT_ONCE EMPTY},
        {.reply = HEAD_OF("504 Late") AT_ONCE EMPTY},
        {.end = STEP_CLOSE},
        {.reply = "HTTP/1.1 200 O", .end = STEP_CLOSE},
        {.reply = HEAD_OF("200 OK") "Content-Length: 10\r\n\r\n01234", .end = STEP_CLOSE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture_serve(&f, &cases[i], 1, NULL);
        struct result r = {0};
        run(&r, (struct http_request){.method = "POST", .retry = HTTP_RETRY_UNSENT}, "/");
        assert_true(r.err == -EIO || r.status >= 500);
        assert_int_equal(r.attempts, 1);
        assert_true(r.sent);
        assert_int_equal(server_requests(f.server), 1);
    }
}

static void never_means_never(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("429 Slow down") AT_ONCE EMPTY});
    struct result r = {0};
    run(&r, (struct http_request){.retry = HTTP_RETRY_NEVER}, "/");
    assert_int_equal(r.status, 429);
    assert_int_equal(r.attempts, 1);
}

static void wait_beyond_the_deadline_is_not_begun(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("503 Busy") "Retry-After: 60\r\n" EMPTY});
    struct result r = {0};
    run(&r, (struct http_request){.deadline_ms = 15000}, "/");
    assert_int_equal(r.status, 503);
    assert_int_equal(r.attempts, 1);
}

/* --- tokens */

static void token_goes_where_it_is_asked_for(void **state)
{
    SERVE(&f, {.reply = OK_REPLY(1, "x")});
    struct fake_auth a;
    struct result with = {0}, later = {0}, without = {0};
    auth_init(&a, &f);
    run(&with, (struct http_request){.auth = &a.authorizer}, "/");
    a.later = true;
    run(&later, (struct http_request){.auth = &a.authorizer}, "/");
    run(&without, (struct http_request){0}, "/"); /* on the same easy handle */
    assert_int_equal(without.status, 200);
    assert_head_has(0, "\r\nAuthorization: Bearer token-1\r\n");
    assert_head_has(1, "\r\nAuthorization: Bearer token-2\r\n");
    assert_head_lacks(2, "Authorization");
    assert_int_equal(server_connections(f.server), 1);
}

static void refused_token_is_renewed_once(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("401 Who?") EMPTY}, {.reply = OK_REPLY(1, "x")},
          {.reply = HEAD_OF("401 Who?") EMPTY});
    struct fake_auth a;
    struct result r = {0}, again = {0}, anonymous = {0};
    auth_init(&a, &f);
    a.later = true;
    struct http_request q = {.method = "POST", .auth = &a.authorizer, .retry = HTTP_RETRY_NEVER};
    run(&r, q, "/");
    assert_int_equal(r.status, 200);
    assert_int_equal(r.attempts, 2);
    assert_int_equal(a.refused, 1);
    assert_string_equal(a.last_refused, "token-1");
    assert_head_has(1, "\r\nAuthorization: Bearer token-2\r\n");
    run(&again, q, "/"); /* refused twice: that is the answer */
    assert_int_equal(again.status, 401);
    assert_int_equal(again.attempts, 2);
    assert_int_equal(a.refused, 2);
    run(&anonymous, (struct http_request){0}, "/");
    assert_int_equal(anonymous.status, 401);
    assert_int_equal(anonymous.attempts, 1);
}

/* A 429 is proof that nothing ran, whatever happens after it. */
static void refusal_is_no_execution(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("429 Slow down") AT_ONCE EMPTY, .end = STEP_CLOSE});
    struct fake_auth a;
    struct result r = {0};
    auth_init(&a, &f);
    a.err = -EACCES;
    a.good = 1; /* none for the second attempt */
    struct http_request q = {.method = "POST", .auth = &a.authorizer, .retry = HTTP_RETRY_UNSENT};
    run(&r, q, "/");
    assert_int_equal(r.attempts, 1);
    assert_int_equal(r.err, -EACCES);
    assert_false(r.sent);
}

static void no_token_no_request(void **state)
{
    SERVE(&f, {.reply = OK_REPLY(1, "x")});
    for (int later = 0; later < 2; later++) {
        struct fake_auth a;
        struct result r = {0};
        auth_init(&a, &f);
        a.err = -EACCES;
        a.later = later;
        run(&r, (struct http_request){.auth = &a.authorizer}, "/");
        assert_int_equal(r.err, -EACCES);
        assert_string_equal(r.why, "nobody gives a token");
        assert_false(r.sent);
        assert_int_equal(r.attempts, 0);
    }
    assert_int_equal(server_requests(f.server), 0);
}

/* Nothing that is sent can begin another header. */
static void line_ends_are_refused(void **state)
{
    SERVE(&f, {.reply = OK_REPLY(1, "x")});
    struct fake_auth a;
    auth_init(&a, &f);
    a.first = "token\r\nX-Evil: 1";
    static const char *const headers[] = {"X-Mine: 1\nX-Evil: 1", NULL};
    const struct http_request bad[] = {
        {.auth = &a.authorizer},
        {.headers = headers},
        {.method = "POST", .body = HTTP_BODY_BYTES, .content_type = "a/b\rX-Evil: 1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct result r = {0};
        run(&r, bad[i], "/");
        assert_int_equal(r.err, -EINVAL);
        assert_null(strstr(r.why, "Evil"));
    }
    assert_int_equal(server_requests(f.server), 0);
}

/* --- addresses */

static void urls_are_checked(void **state)
{
    static const struct {
        const char *url;
        bool good, good_for_metadata;
    } cases[] = {
        {"https://pool.example/x?y", true, true},
        {"https://pool.example:8443", true, true},
        {"HTTPS://POOL.example", true, true},
        {"http://localhost:1/", true, true},
        {"http://LOCALHOST/", true, true},
        {"http://127.0.0.1:1/", true, true},
        {"http://127.1.2.3/", true, true},
        {"http://[::1]:1/", true, true},
        {"http://169.254.169.254/metadata", false, true},
        {"http://10.1.2.3/", false, true},
        {"http://172.31.0.1/", false, true},
        {"http://192.168.0.1/", false, true},
        {"http://[fe80::1]/", false, true},
        {"http://[fd00::1]/", false, true},
        {"http://172.32.0.1/", false, false},
        {"http://8.8.8.8/", false, false},
        {"http://pool.example/", false, false},
        {"http://localhost.example/", false, false},
        {"http://127.0.0.1.example/", false, false},
        {"http://127.0.0.1@pool.example/", false, false},
        {"http://127.0.0.999/", false, false},
        {"http://0.0.0.0/", false, false},
        {"http://[::]/", false, false},
        {"http://[2001:db8::1]/", false, false},
        {"https://user@pool.example/", false, false},
        {"https://user:password@pool.example/", false, false},
        {"ftp://pool.example/", false, false},
        {"file:///etc/passwd", false, false},
        {"pool.example", false, false},
        {"https://", false, false},
        {"https:// pool.example/", false, false},
        {"https://pool.example/\r\nX: 1", false, false},
        {"", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *why = "unset";
        int err = http_url_check(cases[i].url, NULL, &why);
        if ((err == 0) != cases[i].good || (err == 0) != (why == NULL))
            fail_msg("%s: %d, %s", cases[i].url, err, why ? why : "-");
        err = http_metadata_check(cases[i].url, &why);
        if ((err == 0) != cases[i].good_for_metadata)
            fail_msg("metadata: %s: %d, %s", cases[i].url, err, why ? why : "-");
    }
    const char *why;
    assert_int_equal(http_url_check("http://pool", "/run/sock", &why), 0);
    assert_int_equal(http_url_check("ftp://pool", "/run/sock", &why), -EINVAL);
}

static void plain_http_elsewhere_is_refused(void **state)
{
    struct result r = {0};
    struct fake_auth a;
    auth_init(&a, &f);
    struct http_request q = {.auth = &a.authorizer};
    request_run(&f, &r, &q, "http://pool.example/?identifier=hush");
    assert_int_equal(r.err, -EPROTO);
    assert_int_equal(r.attempts, 0);
    assert_int_equal(a.given, 0);
    assert_non_null(strstr(r.why, "https://"));
    assert_null(strstr(r.why, "hush"));
}

static void origins(void **state)
{
    assert_true(http_same_origin("https://a/x", "https://A:443/y?z"));
    assert_true(http_same_origin("http://a:80/", "http://a"));
    assert_false(http_same_origin("https://a/", "http://a:443/"));
    assert_false(http_same_origin("https://a/", "https://a:444/"));
    assert_false(http_same_origin("https://a/", "https://b/"));
    assert_false(http_same_origin("https://a/", "https://a.b/"));
    assert_false(http_same_origin("https://a/", "/x"));
    assert_false(http_same_origin("", ""));
}

/* --- TLS */

static void certificate_is_checked(void **state)
{
    static const struct step steps[] = {{.reply = OK_REPLY(1, "x")}};
    const struct server_options options = {.tls = true};
    fixture_serve(&f, steps, 1, &options);
    struct result r = {0}, known = {0}, named = {0};
    struct http_request q = {.method = "POST", .retry = HTTP_RETRY_UNSENT};
    run(&r, q, "/?identifier=hush");
    assert_int_equal(r.err, -EPROTO);
    assert_int_equal(r.attempts, 1);
    assert_false(r.sent);
    assert_null(strstr(r.why, "hush"));
    assert_int_equal(server_requests(f.server), 0);
    setenv("SSL_CERT_FILE", server_certificate(f.server), 1);
    run(&known, q, "/");
    unsetenv("SSL_CERT_FILE");
    assert_int_equal(known.status, 200);
    assert_true(server_http2_offered(f.server));
    setenv("CURL_CA_BUNDLE", server_certificate(f.server), 1);
    run(&named, q, "/");
    unsetenv("CURL_CA_BUNDLE");
    assert_int_equal(named.status, 200);
}

/* A server that speaks no TLS has not seen the request. */
static void failed_handshake_is_retried(void **state)
{
    static const struct step steps[] = {{.reply = "HTTP/1.1 400 Bad\r\n\r\n", .end = STEP_CLOSE}};
    fixture_serve(&f, steps, 1, NULL);
    char url[100];
    snprintf(url, sizeof url, "https://localhost%s/", strrchr(server_url(f.server), ':'));
    struct server *server = f.server;
    f.server = NULL;
    struct http_request q = {.method = "POST", .retry = HTTP_RETRY_UNSENT, .deadline_ms = 900};
    struct result r = {0};
    request_start(&f, &r, &q, url);
    fixture_turns(&f);
    server_stop(server);
    request_wait(&r);
    assert_true(r.attempts >= 1);
    assert_false(r.sent);
    assert_true(r.err < 0);
}

static void stats_count(void **state)
{
    SERVE(&f, {.reply = HEAD_OF("503 Busy") AT_ONCE EMPTY}, {.reply = OK_REPLY(3, "abc")},
          {.reply = HEAD_OF("404 Not Found") EMPTY});
    struct result r = {0}, missing = {0};
    struct http_stats stats;
    run(&r, (struct http_request){0}, "/");
    run(&missing, (struct http_request){0}, "/");
    http_get_stats(f.http, &stats);
    assert_int_equal(stats.requests, 2);
    assert_int_equal(stats.attempts, 3);
    assert_int_equal(stats.errors, 1);
    assert_int_equal(stats.bytes_in, 3);
    assert_int_equal(stats.active + stats.waiting, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(get),
        TEST(bodies),
        TEST(large_body),
        TEST(part_from_memory),
        TEST(part_from_file),
        TEST(empty_part_from_file),
        TEST(file_that_shrank_is_not_sent),
        TEST(connection_is_kept),
        TEST(execution_is_sent_once),
        TEST(unix_socket),
        TEST(loopback_goes_by_no_proxy),
        TEST(others_go_by_the_proxy),
        TEST(nobody_listens),
        TEST(unsent_is_retried),
        TEST(redirect_is_refused),
        TEST(not_modified_is_an_answer),
        TEST(nonsense_is_no_answer),
        TEST(body_has_a_limit),
        TEST(endless_error_is_cut),
        TEST(truncated_body_is_broken),
        TEST(stream),
        TEST(empty_stream_has_a_head),
        TEST(stream_starts_over),
        TEST(error_is_not_streamed),
        TEST(taker_ends_the_stream),
        TEST(passing_errors_are_retried),
        TEST(retries_end),
        TEST(execution_turned_away_is_retried),
        TEST(execution_in_doubt_is_not_retried),
        TEST(never_means_never),
        TEST(wait_beyond_the_deadline_is_not_begun),
        TEST(token_goes_where_it_is_asked_for),
        TEST(refused_token_is_renewed_once),
        TEST(refusal_is_no_execution),
        TEST(no_token_no_request),
        TEST(line_ends_are_refused),
        TEST(urls_are_checked),
        TEST(plain_http_elsewhere_is_refused),
        TEST(origins),
        TEST(certificate_is_checked),
        TEST(failed_handshake_is_retried),
        TEST(stats_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
