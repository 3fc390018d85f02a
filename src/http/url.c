#include "http/http.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include <curl/curl.h>

static char *part_of(CURLU *u, CURLUPart part, unsigned flags)
{
    char *text = NULL;
    return curl_url_get(u, part, &text, flags) == CURLUE_OK ? text : NULL;
}

static bool is_loopback(const char *host)
{
    if (strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0)
        return true;
    /* 127.0.0.0/8, as an address and nothing that only begins like one */
    unsigned dots = 0;
    for (const char *c = host; *c; c++) {
        dots += *c == '.';
        if (!strchr("0123456789.", *c))
            return false;
    }
    return dots == 3 && strncmp(host, "127.", 4) == 0;
}

int http_url_check(const char *url, const char *unix_socket, const char **why)
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
    else if (!https && !unix_socket && !is_loopback(host))
        *why = "plain http:// is for loopback addresses only: use https://";
    else
        *why = NULL;
    curl_free(scheme);
    curl_free(host);
    curl_free(user);
    curl_free(password);
    curl_url_cleanup(u);
    return *why ? -EINVAL : 0;
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
