/* Configuration files: INI, parsed by inih. */
#include "config/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <ini.h>
#include <utlist.h>

#include "util/cleanup.h"

enum { FILE_LIMIT = 1 << 20 };

/* One file while it is parsed. Stops at the first problem: `err` is set then. */
struct parse {
    struct config *config;
    const char *file, *at; /* what is left of the text */
    unsigned line;         /* of the line handed out last, from 1 */
    char **why;
    int err;
};

/* inih's fgets. */
static char *next_line(char *out, int size, void *stream)
{
    struct parse *p = stream;
    if (!*p->at || p->err || size < 2)
        return NULL;
    size_t len = strcspn(p->at, "\n");
    bool whole = p->at[len] == '\n';
    p->line += p->line == 0 || p->at[-1] == '\n';
    len += whole;
    if (len > (size_t)size - 1)
        len = (size_t)size - 1;
    memcpy(out, p->at, len);
    out[len] = '\0';
    p->at += len;
    return out;
}

static int refuse(struct parse *p, const char *what, const char *name)
{
    p->err = config_problem(p->why, -EINVAL, "%s:%u: %s%s", p->file, p->line, what, name);
    return 0;
}

static int take_override(struct parse *p, const char *session, const char *name, const char *value)
{
    const struct option_about *o = option_by_name(name);
    if (!o || strcmp(o->name, "session") == 0)
        return refuse(p, o ? "not possible in a [session NAME]: " : "unknown option ", name);
    struct config scratch = {0};
    _cleanup_free_ char *origin = NULL;
    if (asprintf(&origin, "%s:%u", p->file, p->line) < 0)
        return !(p->err = -ENOMEM);
    p->err = config_set(&scratch, o, value, LEVEL_SESSION, origin, p->why);
    config_free(&scratch);
    struct config_override *one = p->err ? NULL : calloc(1, sizeof *one);
    if (!one)
        return !(p->err = p->err ? p->err : -ENOMEM);
    *one = (struct config_override){
        .option = o, .session = strdup(session), .value = strdup(value), .origin = origin};
    origin = NULL;
    LL_APPEND(p->config->origins->overrides, one);
    return one->session && one->value ? 1 : !(p->err = -ENOMEM);
}

/* inih's handler: 0 on a problem. */
static int take(void *arg, const char *section, const char *name, const char *value)
{
    struct parse *p = arg;
    if (p->err)
        return 0;
    if (!*section)
        return refuse(p, "no [section] before ", name);
    if (strncmp(section, "session ", 8) == 0)
        return take_override(p, section + 8 + strspn(section + 8, " "), name, value);
    if (!option_section_exists(section))
        return refuse(p, "unknown section ", section);
    const struct option_about *o = option_by_key(section, name);
    if (!o)
        return refuse(p, "unknown key ", name);
    _cleanup_free_ char *origin = NULL;
    if (asprintf(&origin, "%s:%u", p->file, p->line) < 0)
        return !(p->err = -ENOMEM);
    p->err = config_set(p->config, o, value, LEVEL_FILE, origin, p->why);
    return p->err == 0;
}

static int parse_text(struct config *c, const char *file, const char *text, char **why)
{
    struct parse p = {.config = c, .file = file, .at = text, .why = why};
    ini_allow_multiline = false; /* an indented line is one of its own */
    ini_use_stack = false;       /* lines of any length */
    ini_allow_realloc = true;
    int line = ini_parse_stream(next_line, &p, take, &p);
    if (line < 0)
        return -ENOMEM;
    if (p.err && (unsigned)line >= p.line)
        return p.err;
    if (line > 0)
        return config_problem(why, -EINVAL, "%s:%d: neither [section] nor key = value", file, line);
    return 0;
}

static int read_all(int fd, struct buf *text)
{
    struct stat st;
    if (fstat(fd, &st))
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    for (;;) {
        if (buf_reserve(text, 4096))
            return -ENOMEM;
        ssize_t n = read(fd, text->data + text->len, 4096);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            return buf_adds(text, "");
        text->len += n > 0 ? (size_t)n : 0;
        if (text->len > FILE_LIMIT)
            return -EFBIG;
    }
}

int config_read_file(struct config *c, const char *file, bool missing_ok, char **why)
{
    _cleanup_close_ int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && missing_ok && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    _cleanup_buf_ struct buf text = {0};
    int err = fd < 0 ? -errno : read_all(fd, &text);
    if (err)
        return config_problem(why, err, "%s: %s", file, strerror(-err));
    if (text.len && memchr(text.data, '\0', text.len))
        return config_problem(why, -EINVAL, "%s: not a text file", file);
    return text.len ? parse_text(c, file, text.data, why) : 0;
}
