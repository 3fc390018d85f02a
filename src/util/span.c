#include "util/span.h"

#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

struct cursor {
    const char *at, *end;
    int depth; /* that is left */
};

static bool value(struct cursor *);

static void space(struct cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r'))
        c->at++;
}

static bool take(struct cursor *c, char wanted)
{
    if (c->at == c->end || *c->at != wanted)
        return false;
    c->at++;
    return true;
}

static bool word(struct cursor *c, const char *text)
{
    while (*text) {
        if (!take(c, *text++))
            return false;
    }
    return true;
}

static bool digits(struct cursor *c)
{
    const char *start = c->at;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9')
        c->at++;
    return c->at > start;
}

static bool number(struct cursor *c)
{
    take(c, '-');
    if (!take(c, '0') && !digits(c))
        return false;
    if (take(c, '.') && !digits(c))
        return false;
    if (!take(c, 'e') && !take(c, 'E'))
        return true;
    if (!take(c, '+'))
        take(c, '-');
    return digits(c);
}

static bool escape(struct cursor *c)
{
    if (c->at == c->end)
        return false;
    if (!take(c, 'u')) {
        bool known = *c->at && strchr("\"\\/bfnrt", *c->at);
        c->at += known;
        return known;
    }
    for (int i = 0; i < 4; i++) {
        if (c->at == c->end || !*c->at || !strchr("0123456789abcdefABCDEF", *c->at))
            return false;
        c->at++;
    }
    return true;
}

static bool string(struct cursor *c)
{
    if (!take(c, '"'))
        return false;
    while (c->at < c->end && *c->at != '"') {
        if (take(c, '\\')) {
            if (!escape(c))
                return false;
        } else if ((unsigned char)*c->at < ' ') {
            return false;
        } else {
            c->at++;
        }
    }
    return take(c, '"');
}

static bool member(struct cursor *c)
{
    if (!string(c))
        return false;
    space(c);
    return take(c, ':') && value(c);
}

/* The items between two brackets. */
static bool items(struct cursor *c, char last, bool (*item)(struct cursor *))
{
    c->at++;
    space(c);
    if (take(c, last))
        return true;
    for (;;) {
        space(c);
        if (!item(c))
            return false;
        space(c);
        if (take(c, last))
            return true;
        if (!take(c, ','))
            return false;
    }
}

static bool value(struct cursor *c)
{
    space(c);
    if (c->at == c->end || c->depth-- == 0)
        return false;
    bool good;
    switch (*c->at) {
    case '{':
        good = items(c, '}', member);
        break;
    case '[':
        good = items(c, ']', value);
        break;
    case '"':
        good = string(c);
        break;
    case 't':
        good = word(c, "true");
        break;
    case 'f':
        good = word(c, "false");
        break;
    case 'n':
        good = word(c, "null");
        break;
    default:
        good = number(c);
        break;
    }
    c->depth++;
    return good;
}

/* How much of a text is UTF-8. */
static size_t utf8_length(const char *text, size_t len)
{
    size_t at = 0, n = 0;
    for (; at < len; at += n) {
        for (n = 1; n <= 4 && n <= len - at && !text_is_utf8(text + at, n);)
            n++;
        if (n > 4 || n > len - at)
            break;
    }
    return at;
}

bool span_check(const char *text, size_t len, int depth, struct span *out, size_t *wrong)
{
    struct cursor c = {.at = text, .end = text + len, .depth = depth};
    bool good = value(&c);
    if (good) {
        const char *first = text;
        while (strchr(" \t\r\n", *first))
            first++;
        *out = (struct span){first, (size_t)(c.at - first)};
        space(&c);
        good = c.at == c.end;
    }
    size_t at = (size_t)(c.at - text);
    if (good && !text_is_utf8(text, len)) {
        good = false;
        at = utf8_length(text, len);
    }
    if (wrong)
        *wrong = at;
    return good;
}

/* --- in checked text */

bool span_is(struct span s, char first)
{
    return s.len && *s.at == first;
}

/* The end of the value that begins at `at`, which may be followed by others. */
static const char *skip(const char *at, const char *end)
{
    int depth = 0;
    bool in_string = false;
    for (; at < end; at++) {
        if (in_string) {
            if (*at == '\\')
                at++;
            else if (*at == '"')
                in_string = false;
        } else if (*at == '"') {
            in_string = true;
        } else if (*at == '[' || *at == '{') {
            depth++;
        } else if (*at == ']' || *at == '}') {
            if (--depth < 0)
                return at;
        } else if (depth == 0 && strchr(", \t\r\n:", *at)) {
            return at;
        }
        if (depth == 0 && !in_string && (*at == '"' || *at == ']' || *at == '}'))
            return at + 1;
    }
    return end;
}

/* The next value at or after `at`, past white space and this punctuation; none at the end. */
static struct span next_value(const char *at, const char *end)
{
    while (at < end && strchr(", \t\r\n:", *at))
        at++;
    if (at == end || *at == ']' || *at == '}')
        return (struct span){0};
    return (struct span){at, (size_t)(skip(at, end) - at)};
}

static bool is_named(struct span key, const char *name)
{
    if (!memchr(key.at, '\\', key.len))
        return key.len == strlen(name) + 2 && memcmp(key.at + 1, name, key.len - 2) == 0;
    _cleanup_free_ char *text = span_string(key);
    return text && strcmp(text, name) == 0;
}

struct span span_member(struct span object, const char *name)
{
    struct span found = {0};
    if (!span_is(object, '{'))
        return found;
    const char *end = object.at + object.len;
    struct span key = next_value(object.at + 1, end);
    while (key.at) {
        struct span each = next_value(key.at + key.len, end);
        if (is_named(key, name))
            found = each;
        key = next_value(each.at + each.len, end);
    }
    return found;
}

bool span_next(struct span array, struct span *item)
{
    if (!span_is(array, '['))
        return false;
    *item = next_value(item->at ? item->at + item->len : array.at + 1, array.at + array.len);
    return item->at;
}

char *span_string(struct span s)
{
    if (!span_is(s, '"'))
        return NULL;
    _cleanup_json_ cJSON *json = json_parse(s.at, s.len);
    const char *text = cJSON_GetStringValue(json);
    return text ? strdup(text) : NULL;
}
