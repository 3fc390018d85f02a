#include "util/text.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

int text_percent(struct buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        bool plain = c < 0x80 && (isalnum(c) || strchr("-._~", c)) && c;
        int err = plain ? buf_add(out, &c, 1) : buf_addf(out, "%%%02X", c);
        if (err)
            return err;
    }
    return 0;
}

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int text_base64(struct buf *out, const void *data, size_t len)
{
    const unsigned char *in = data;
    int err = buf_reserve(out, (len + 2) / 3 * 4);
    if (err)
        return err;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t group = (uint32_t)in[i] << 16;
        group |= i + 1 < len ? (uint32_t)in[i + 1] << 8 : 0;
        group |= i + 2 < len ? in[i + 2] : 0;
        char digits[4] = {base64_digits[group >> 18], base64_digits[group >> 12 & 63],
                          i + 1 < len ? base64_digits[group >> 6 & 63] : '=',
                          i + 2 < len ? base64_digits[group & 63] : '='};
        buf_add(out, digits, 4);
    }
    return 0;
}

int text_unbase64(struct buf *out, const char *text, size_t len)
{
    int err = buf_reserve(out, len / 4 * 3 + 3);
    if (err)
        return err;
    uint32_t group = 0;
    int digits = 0, padding = 0;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c == '\n' || c == '\r' || c == ' ' || c == '\t')
            continue;
        const char *at = c ? strchr(base64_digits, c) : NULL;
        if (c == '=' && digits >= 2)
            padding++;
        else if (!at || padding)
            return -EINVAL;
        group = group << 6 | (at ? (uint32_t)(at - base64_digits) : 0);
        if (++digits < 4)
            continue;
        if (padding > 2 || (padding == 1 && group & 0xff) || (padding == 2 && group & 0xffff))
            return -EINVAL;
        char bytes[3] = {(char)(group >> 16), (char)(group >> 8), (char)group};
        buf_add(out, bytes, (size_t)(3 - padding));
        group = 0;
        digits = 0;
        if (padding) {
            while (++i < len) {
                if (!strchr(" \t\r\n", text[i]) || !text[i])
                    return -EINVAL;
            }
        }
    }
    return digits ? -EINVAL : 0;
}

bool text_is_utf8(const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text, *end = s + len;
    while (s < end) {
        unsigned n = *s < 0x80 ? 0 : (*s & 0xe0) == 0xc0 ? 1 : (*s & 0xf0) == 0xe0 ? 2 : 3;
        if (n == 3 && (*s & 0xf8) != 0xf0)
            return false;
        if ((size_t)(end - s) <= n)
            return false;
        uint32_t point = n == 0 ? *s : *s & (0x3fu >> n);
        for (unsigned i = 1; i <= n; i++) {
            if ((s[i] & 0xc0) != 0x80)
                return false;
            point = point << 6 | (s[i] & 0x3f);
        }
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        if (point < least[n] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
            return false;
        s += n + 1;
    }
    return true;
}

/* Takes back the first bytes of a character whose rest does not fit. */
static void take_back(struct buf *out, size_t written)
{
    size_t n = 1;
    while (n <= 3 && n < written && (out->data[out->len - n] & 0xc0) == 0x80)
        n++;
    if (n <= written && (out->data[out->len - n] & 0xc0) == 0xc0)
        out->len -= n;
}

int text_printable(struct buf *out, const char *text, size_t len, size_t limit)
{
    size_t written = 0;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c == '\r' && i + 1 < len && text[i + 1] == '\n')
            continue;
        if (written == limit) {
            if (limit && (c & 0xc0) == 0x80)
                take_back(out, written);
            return buf_adds(out, "...");
        }
        written++;
        bool is_c1 = (c & 0xff) == 0xc2 && i + 1 < len && (text[i + 1] & 0xe0) == 0x80;
        i += is_c1; /* U+0080 to U+009F: terminals obey them as they do ESC */
        if (c == '\n' || c == '\r')
            c = ' ';
        else if ((unsigned char)c < ' ' || c == 0x7f || is_c1)
            c = '?';
        int err = buf_add(out, &c, 1);
        if (err)
            return err;
    }
    return 0;
}

/* Reads exactly `count` digits. */
static bool digits(const char **s, int count, int *out)
{
    *out = 0;
    for (int i = 0; i < count; i++, (*s)++) {
        if (!isdigit((unsigned char)**s))
            return false;
        *out = *out * 10 + (**s - '0');
    }
    return true;
}

int text_parse_time(const char *s, struct timespec *out)
{
    struct tm tm = {0};
    if (!digits(&s, 4, &tm.tm_year) || *s++ != '-' || !digits(&s, 2, &tm.tm_mon) || *s++ != '-' ||
        !digits(&s, 2, &tm.tm_mday) || (*s != 'T' && *s != 't' && *s != ' '))
        return -EINVAL;
    s++;
    if (!digits(&s, 2, &tm.tm_hour) || *s++ != ':' || !digits(&s, 2, &tm.tm_min) || *s++ != ':' ||
        !digits(&s, 2, &tm.tm_sec))
        return -EINVAL;
    if (tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 ||
        tm.tm_min > 59 || tm.tm_sec > 60)
        return -EINVAL;
    long nanoseconds = 0, unit = 100000000;
    if (*s == '.') {
        if (!isdigit((unsigned char)*++s))
            return -EINVAL;
        for (; isdigit((unsigned char)*s); s++, unit /= 10)
            nanoseconds += (*s - '0') * unit;
    }
    long offset = 0;
    if (*s == '+' || *s == '-') {
        int sign = *s++ == '-' ? -1 : 1, hours, minutes;
        if (!digits(&s, 2, &hours) || *s++ != ':' || !digits(&s, 2, &minutes) || hours > 23 ||
            minutes > 59)
            return -EINVAL;
        offset = sign * (hours * 3600L + minutes * 60L);
    } else if (*s == 'Z' || *s == 'z') {
        s++;
    } else {
        return -EINVAL;
    }
    if (*s)
        return -EINVAL;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    out->tv_sec = timegm(&tm) - offset;
    out->tv_nsec = nanoseconds;
    return 0;
}

int text_parse_size(const char *text, uint64_t *out)
{
    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    static const char units[] = "KMGT";
    unsigned shift = 0;
    if (*end) {
        const char *unit = strchr(units, toupper((unsigned char)*end));
        if (!unit)
            return -EINVAL;
        shift = (unsigned)(unit - units + 1) * 10;
        end++;
        if (*end == 'B' || *end == 'b')
            end++;
    }
    if (*end || errno || value > UINT64_MAX >> shift)
        return -EINVAL;
    *out = (uint64_t)value << shift;
    return 0;
}

static void random_bytes(void *out, size_t len)
{
    /* getrandom of up to 256 bytes neither fails nor is cut short once the pool is ready. */
    if (getrandom(out, len, 0) != (ssize_t)len)
        abort();
}

void text_random_hex(char *out, size_t len)
{
    unsigned char bytes[64];
    if (len > sizeof bytes)
        abort();
    random_bytes(bytes, len);
    for (size_t i = 0; i < len; i++)
        sprintf(out + 2 * i, "%02x", bytes[i]);
}

void text_uuid(char out[37])
{
    unsigned char b[16];
    random_bytes(b, sizeof b);
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
             b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
             b[14], b[15]);
}

int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
