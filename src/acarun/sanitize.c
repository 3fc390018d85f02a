#include "acarun/sanitize.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

/* White space as Python's str has it, in UTF-8; each of the longer ones is of three bytes. */
static const char *const wide_spaces[] = {
    "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006", "\u2007",
    "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000",
};

static bool is_wide_space(const char *s, size_t len)
{
    if (len == 2)
        return memcmp(s, "\xc2\x85", 2) == 0 || memcmp(s, "\xc2\xa0", 2) == 0;
    for (size_t i = 0; len == 3 && i < sizeof wide_spaces / sizeof *wide_spaces; i++) {
        if (memcmp(s, wide_spaces[i], 3) == 0)
            return true;
    }
    return false;
}

static bool is_narrow_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f');
}

/* The length of the white space character at the start of s (end: its end), 0 when it is none. */
static size_t space_at(const char *s, const char *end)
{
    if (s < end && is_narrow_space(*s))
        return 1;
    for (size_t len = 2; len <= 3; len++) {
        if ((size_t)(end - s) >= len && is_wide_space(s, len))
            return len;
    }
    return 0;
}

static size_t space_before(const char *start, const char *s)
{
    if (s > start && is_narrow_space(s[-1]))
        return 1;
    for (size_t len = 2; len <= 3; len++) {
        if ((size_t)(s - start) >= len && is_wide_space(s - len, len))
            return len;
    }
    return 0;
}

void sanitize_code(char *code)
{
    static const char word[] = "python";
    const size_t word_len = sizeof word - 1;
    const char *start = code, *end = code + strlen(code);
    size_t n;
    while (start < end && (n = *start == '`' ? 1 : space_at(start, end)))
        start += n;
    if ((size_t)(end - start) >= word_len && strncasecmp(start, word, word_len) == 0) {
        const char *after = start + word_len;
        if (after == end || *after == '`' || space_at(after, end))
            start = after;
    }
    while ((n = space_at(start, end)))
        start += n;
    while (end > start && (n = end[-1] == '`' ? 1 : space_before(start, end)))
        end -= n;
    memmove(code, start, (size_t)(end - start));
    code[end - start] = '\0';
}
