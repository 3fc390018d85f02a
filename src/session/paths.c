/* Which names the file calls can say: documented in "Serverless code interpreter sessions"
 * (file names) and by the errors FileNameInvalid and FilePathInvalid. '%' and '+' are allowed
 * there, but servers decode them once too often; index.html is answered with a redirect. */
#include "session/private.h"

#include <ctype.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "util/text.h"

bool path_ok(const char *path)
{
    if (!*path)
        return true;
    for (;;) {
        size_t n = strcspn(path, "/");
        if (!entry_name_ok(path, n))
            return false;
        if (!path[n])
            return true;
        path += n + 1;
    }
}

const char *path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

char *path_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, (size_t)(slash - path)) : strdup("");
}

/* The code point at s (well-formed UTF-8), and its length. */
static unsigned code_point(const unsigned char *s, size_t *len)
{
    *len = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    unsigned c = s[0] & (0x7fU >> *len);
    for (size_t i = 1; i < *len; i++)
        c = c << 6 | (s[i] & 0x3fU);
    return c;
}

/* Letters beyond ASCII: the blocks of scripts in wide use. Other characters (marks, symbols,
 * emoji) may be refused, so they go by the helper: slower, never wrong. */
static bool is_letter(unsigned c)
{
    static const struct {
        unsigned first, last;
    } letters[] = {
        {0xaa, 0xaa},     {0xb5, 0xb5},     {0xba, 0xba},     {0xc0, 0xd6},     {0xd8, 0xf6},
        {0xf8, 0x2c1},    {0x370, 0x373},   {0x376, 0x377},   {0x37b, 0x37d},   {0x386, 0x386},
        {0x388, 0x3ff},   {0x400, 0x481},   {0x48a, 0x52f},   {0x531, 0x556},   {0x561, 0x587},
        {0x5d0, 0x5ea},   {0x620, 0x64a},   {0x671, 0x6d3},   {0x904, 0x939},   {0xe01, 0xe30},
        {0x10d0, 0x10fa}, {0x1e00, 0x1f15}, {0x3041, 0x3096}, {0x30a1, 0x30fa}, {0x3400, 0x4dbf},
        {0x4e00, 0x9fff}, {0xac00, 0xd7a3},
    };
    if (c == 0x3a2 || c == 0x3f6)
        return false;
    for (size_t i = 0; i < sizeof letters / sizeof *letters; i++)
        if (c >= letters[i].first && c <= letters[i].last)
            return true;
    return false;
}

static bool part_plain(const char *part, size_t len, bool file)
{
    if (!text_is_utf8(part, len) || part[0] == ' ' || part[len - 1] == ' ')
        return false;
    for (size_t i = 0; i < len;) {
        unsigned char c = (unsigned char)part[i];
        if (c >= 0x80) {
            size_t n;
            if (!is_letter(code_point((const unsigned char *)part + i, &n)))
                return false;
            i += n;
            continue;
        }
        if (!isalnum(c) && !strchr(" _@$&=;,#^()-", c) && !(file && c == '.'))
            return false;
        i++;
    }
    return !file ||
           (part[len - 1] != '.' && !(len == 10 && strncasecmp(part, "index.html", 10) == 0));
}

bool directory_plain(const struct session *s, const char *path)
{
    if (!*path)
        return true;
    if (s->shape.old || s->subdirectories == PATH_BAD || !path_ok(path))
        return false;
    for (const char *part = path;;) {
        size_t n = strcspn(part, "/");
        if (!part_plain(part, n, false))
            return false;
        if (!part[n])
            return true;
        part += n + 1;
    }
}

bool path_by_file_calls(const struct session *s, const char *path)
{
    bool below = strchr(path, '/') != NULL;
    return session_path_plain(s, path) && (!below || s->subdirectories == PATH_GOOD);
}

bool session_path_plain(const struct session *s, const char *path)
{
    if (!*path || !path_ok(path))
        return !*path;
    const char *name = path_base(path);
    if (!part_plain(name, strlen(name), true))
        return false;
    if (name == path)
        return true;
    char *parent = path_parent(path);
    bool plain = parent && directory_plain(s, parent);
    free(parent);
    return plain;
}

bool name_refused(const struct session_call *c, const char *path)
{
    const struct session_error *e = &c->error;
    if (c->redirected)
        return true;
    if (e->status == 405)
        return true;
    if (e->status != 400)
        return false;
    static const char *const codes[] = {"FileNameInvalid", "FilePathInvalid",
                                        "ERR_SYMLINK_NOT_ALLOWED"};
    for (size_t i = 0; e->code && i < sizeof codes / sizeof *codes; i++)
        if (strcasecmp(e->code, codes[i]) == 0)
            return true;
    if (e->message && strstr(e->message, "ERR_SYMLINK_NOT_ALLOWED"))
        return true;
    return strchr(path, '/') != NULL && e->hint == HINT_NONE;
}

void stage_name(char out[40], const char *prefix)
{
    char hex[17];
    text_random_hex(hex, 8);
    snprintf(out, 40, "%s%s", prefix, hex);
}

bool is_stage_name(const char *name)
{
    static const char *const prefixes[] = {STAGE_PREFIX, PART_PREFIX};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t len = strlen(prefixes[i]);
        if (strncmp(name, prefixes[i], len) == 0)
            return strspn(name + len, "0123456789abcdef") == 16 && !name[len + 16];
    }
    return false;
}

void stage_drop(struct session *s, cJSON *names)
{
    cJSON *request = helper_op("drop", NULL);
    cJSON_AddItemToObject(request, "names", names);
    helper_ask(s, request, NULL, NULL);
}
