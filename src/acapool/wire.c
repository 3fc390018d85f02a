#include "acapool/wire.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util/text.h"

enum { NAME_BYTES = 255, PATH_BYTES = 4096 };

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes in place. */
static int unescape(char *text, bool plus_is_space)
{
    char *to = text;
    for (const char *from = text; *from; from++) {
        char c = *from;
        if (c == '%') {
            int high = hex_digit(from[1]);
            int low = high < 0 ? -1 : hex_digit(from[2]);
            if (low < 0 || (high == 0 && low == 0))
                return -EINVAL;
            c = (char)(high << 4 | low);
            from += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        *to++ = c;
    }
    *to = '\0';
    return 0;
}

static int parse_query(char *query, struct target *out)
{
    char *rest = query, *field;
    while ((field = strsep(&rest, "&"))) {
        if (!*field)
            continue;
        if (out->parameters == TARGET_PARAMETERS)
            return -E2BIG;
        char *value = strchr(field, '=');
        if (value)
            *value++ = '\0';
        else
            value = strchr(field, '\0');
        if (unescape(field, true) || unescape(value, true))
            return -EINVAL;
        out->parameter[out->parameters++] = (struct target_parameter){field, value};
    }
    return 0;
}

/* Takes the pool's own path off the front. */
static void drop_prefix(struct target *t)
{
    static const char *const words[] = {"subscriptions", NULL, "resourceGroups", NULL,
                                        "sessionPools",  NULL};
    enum { WORDS = sizeof words / sizeof *words };
    if (t->count < WORDS)
        return;
    for (size_t i = 0; i < WORDS; i++) {
        if (words[i] && strcasecmp(words[i], t->segment[i]) != 0)
            return;
    }
    t->count -= WORDS;
    memmove(t->segment, t->segment + WORDS, t->count * sizeof *t->segment);
}

static int parse_path(char *path, struct target *out)
{
    char *rest = path, *segment;
    while ((segment = strsep(&rest, "/"))) {
        if (!*segment)
            continue;
        if (out->count == TARGET_SEGMENTS)
            return -E2BIG;
        if (unescape(segment, false))
            return -EINVAL;
        out->segment[out->count++] = segment;
    }
    drop_prefix(out);
    return 0;
}

int target_parse(const char *raw, struct target *out)
{
    *out = (struct target){0};
    if (*raw != '/')
        return -EINVAL;
    out->storage = strdup(raw);
    if (!out->storage)
        return -ENOMEM;
    char *query = strchr(out->storage, '?');
    if (query)
        *query++ = '\0';
    int err = parse_path(out->storage, out);
    if (!err && query)
        err = parse_query(query, out);
    if (err) {
        free(out->storage);
        *out = (struct target){0};
    }
    return err;
}

const char *target_parameter(const struct target *t, const char *name)
{
    for (size_t i = 0; i < t->parameters; i++) {
        if (strcasecmp(t->parameter[i].name, name) == 0)
            return t->parameter[i].value;
    }
    return NULL;
}

/* Non-ASCII is allowed where it is a letter; C1 controls are not. */
static bool plain_text(const char *text, const char *punctuation)
{
    size_t len = strlen(text);
    if (!text_is_utf8(text, len))
        return false;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == 0xc2 && (unsigned char)text[i + 1] < 0xa0)
            return false;
        if (c < 0x80 && !isalnum(c) && !strchr(punctuation, c))
            return false;
    }
    return true;
}

bool wire_file_name_ok(const char *name)
{
    size_t len = strlen(name);
    return len > 0 && len <= NAME_BYTES && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           plain_text(name, "-_ .@$&=;,#%^()");
}

bool wire_directory_ok(const char *path)
{
    if (strlen(path) > PATH_BYTES || !plain_text(path, "/-_ @$&=;,#%^()"))
        return false;
    for (const char *part = path; *part;) {
        size_t len = strcspn(part, "/");
        if (len > NAME_BYTES)
            return false;
        part += len + (part[len] == '/');
    }
    return true;
}

static bool all_of(const char *text, size_t least, size_t most, const char *punctuation)
{
    size_t len = strlen(text);
    if (len < least || len > most)
        return false;
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c >= 0x80 || (!isalnum((unsigned char)*c) && !strchr(punctuation, *c)))
            return false;
    }
    return true;
}

bool wire_identifier_ok(const char *identifier)
{
    return all_of(identifier, 4, 128, "|-&^%$#(){}[];<>_");
}

bool wire_operation_id_ok(const char *id)
{
    return all_of(id, 1, 128, "-_.:");
}

const char *wire_base_name(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

const char *wire_bearer(const char *header)
{
    if (!header || strncasecmp(header, "Bearer ", 7) != 0)
        return NULL;
    header += 7;
    return header + strspn(header, " ");
}

/* Digits only, no overflow. */
static bool parse_number(const char **at, uint64_t *out)
{
    if (!isdigit((unsigned char)**at))
        return false;
    uint64_t value = 0;
    for (; isdigit((unsigned char)**at); (*at)++) {
        unsigned digit = (unsigned)(**at - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *out = value;
    return true;
}

enum wire_range wire_range(const char *header, uint64_t size, uint64_t *first, uint64_t *last)
{
    if (!header || strncasecmp(header, "bytes=", 6) != 0 || size == 0)
        return RANGE_WHOLE;
    const char *at = header + 6 + strspn(header + 6, " \t");
    uint64_t from = 0, to = UINT64_MAX;
    bool suffix = *at == '-';
    if (!suffix && !parse_number(&at, &from))
        return RANGE_WHOLE;
    if (*at++ != '-')
        return RANGE_WHOLE;
    bool bounded = parse_number(&at, &to);
    if (at[strspn(at, " \t")] || (suffix && !bounded) || (!suffix && bounded && to < from))
        return RANGE_WHOLE;
    if (suffix) {
        if (to == 0)
            return RANGE_UNSATISFIABLE;
        from = to < size ? size - to : 0;
        to = UINT64_MAX;
    }
    if (from >= size)
        return RANGE_UNSATISFIABLE;
    *first = from;
    *last = to < size ? to : size - 1;
    return RANGE_PART;
}

int wire_parse_date(const char *text, time_t *out)
{
    static const char *const forms[] = {"%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT",
                                        "%a %b %d %H:%M:%S %Y"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct tm tm = {0};
        const char *end = strptime(text, forms[i], &tm);
        if (!end || *end)
            continue;
        *out = timegm(&tm);
        return 0;
    }
    return -EINVAL;
}

/* The program keeps the C locale, so these are the English names that HTTP wants. */
void wire_format_date(time_t time, char out[32])
{
    struct tm tm = {0};
    if (!gmtime_r(&time, &tm) || !strftime(out, 32, "%a, %d %b %Y %H:%M:%S GMT", &tm))
        *out = '\0'; /* a year of more than 7 digits */
}

void wire_format_time(const struct timespec *time, int digits, char out[40])
{
    struct tm tm = {0};
    long fraction = time->tv_nsec;
    for (int i = digits; i < 9; i++)
        fraction /= 10;
    size_t len = 0;
    if (gmtime_r(&time->tv_sec, &tm))
        len = strftime(out, 29, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + len, 40 - len, ".%0*ldZ", digits, fraction);
}

/* Bytes of the well-formed character at data, 0 if there is none. */
static size_t character(const char *data, size_t len)
{
    for (size_t n = 1; n <= 4 && n <= len; n++) {
        if (text_is_utf8(data, n))
            return n;
    }
    return 0;
}

int wire_clean(struct buf *out, const char *data, size_t len, size_t limit)
{
    int err = 0;
    while (len && limit && !err) {
        size_t plain = 0;
        while (plain < len && plain < limit && (unsigned char)data[plain] < 0x80)
            plain++;
        if (plain) {
            err = buf_add(out, data, plain);
            limit -= plain;
        } else {
            plain = character(data, len);
            err = plain ? buf_add(out, data, plain) : buf_adds(out, "\xef\xbf\xbd");
            plain = plain ? plain : 1;
            limit--;
        }
        data += plain;
        len -= plain;
    }
    return err;
}
