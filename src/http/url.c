#include "http/call.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include <curl/curl.h>

static char *part_of(CURLU *u, CURLUPart part, unsigned flags)
{
    char *text = NULL;
    return curl_url_get(u, part, &text, flags) == CURLUE_OK ? text : NULL;
}

/* localhost, which curl never looks up, 127.0.0.0/8 and ::1; no other name. */
static bool is_loopback(const char *host)
{
    struct in_addr four;
    if (strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0)
        return true;
    return inet_pton(AF_INET, host, &four) == 1 && ntohl(four.s_addr) >> 24 == 127;
}

bool url_is_loopback(const char *url)
{
    CURLU *u = curl_url();
    char *host =
        u && !curl_url_set(u, CURLUPART_URL, url, 0) ? part_of(u, CURLUPART_HOST, 0) : NULL;
    bool loopback = host && is_loopback(host);
    curl_free(host);
    curl_url_cleanup(u);
    return loopback;
}

/* Addresses that never leave the machine's own network; names are not looked up. */
static bool is_private(const char *host)
{
    struct in_addr four;
    struct in6_addr six;
    char bare[INET6_ADDRSTRLEN + 1];
    if (inet_pton(AF_INET, host, &four) == 1) {
        uint32_t a = ntohl(four.s_addr);
        return a >> 16 == 0xa9fe || a >> 24 == 10 || a >> 20 == 0xac1 || a >> 16 == 0xc0a8;
    }
    size_t len = strlen(host);
    if (len < 4 || len - 2 >= sizeof bare || *host != '[' || host[len - 1] != ']')
        return false;
    memcpy(bare, host + 1, len - 2);
    bare[len - 2] = '\0';
    return inet_pton(AF_INET6, bare, &six) == 1 &&
           (IN6_IS_ADDR_LINKLOCAL(&six) || (six.s6_addr[0] & 0xfe) == 0xfc);
}

enum plain { PLAIN_LOOPBACK, PLAIN_PRIVATE, PLAIN_ANY };

static bool plain_allowed(enum plain plain, const char *host)
{
    return plain == PLAIN_ANY || is_loopback(host) || (plain == PLAIN_PRIVATE && is_private(host));
}

static int url_check(const char *url, enum plain plain, const char **why)
{
    CURLU *u = curl_url();
    *why = "not a URL that can be used";
    if (!u || strlen(url) > 8192 || curl_url_set(u, CURLUPART_URL, url, 0)) {
        curl_url_cleanup(u);
        return -EINVAL;
    }
    char *scheme = part_of(u, CURLUPART_SCHEME, 0), *host = part_of(u, CURLUPART_HOST, 0),
         *user = part_of(u, CURLUPART_USER, 0), *password = part_of(u, CURLUPART_PASSWORD, 0);
    bool https = scheme && strcmp(scheme, "https") == 0;
    if (!scheme || !host || !*host)
        ;
    else if (!https && strcmp(scheme, "http") != 0)
        *why = "the URL must begin with https://";
    else if (user || password)
        *why = "the URL must not hold a user name or password";
    else if (!https && !plain_allowed(plain, host))
        *why = plain == PLAIN_PRIVATE
                   ? "plain http:// is for loopback, link-local and private addresses only"
                   : "plain http:// is for loopback addresses only: use https://";
    else
        *why = NULL;
    curl_free(scheme);
    curl_free(host);
    curl_free(user);
    curl_free(password);
    curl_url_cleanup(u);
    return *why ? -EINVAL : 0;
}

int http_url_check(const char *url, const char *unix_socket, const char **why)
{
    return url_check(url, unix_socket ? PLAIN_ANY : PLAIN_LOOPBACK, why);
}

int http_metadata_check(const char *url, const char **why)
{
    return url_check(url, PLAIN_PRIVATE, why);
}

static bool same_part(CURLU *a, CURLU *b, CURLUPart part, unsigned flags)
{
    char *x = part_of(a, part, flags), *y = part_of(b, part, flags);
    bool same = x && y && strcasecmp(x, y) == 0;
    curl_free(x);
    curl_free(y);
    return same;
}

bool http_same_origin(const char *a, const char *b)
{
    CURLU *ua = curl_url(), *ub = curl_url();
    bool same = ua && ub && !curl_url_set(ua, CURLUPART_URL, a, 0) &&
                !curl_url_set(ub, CURLUPART_URL, b, 0) && same_part(ua, ub, CURLUPART_SCHEME, 0) &&
                same_part(ua, ub, CURLUPART_HOST, 0) &&
                same_part(ua, ub, CURLUPART_PORT, CURLU_DEFAULT_PORT);
    curl_url_cleanup(ua);
    curl_url_cleanup(ub);
    return same;
}
