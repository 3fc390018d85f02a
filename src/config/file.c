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
    const char *file, *at;      /* what is left of the text */
    unsigned line;              /* of the line handed out last, from 1 */
    unsigned set[OPTION_LIMIT]; /* the lines that set them; 0: none does yet */
    const char *session;        /* NAME of the last [session NAME], in the text */
    size_t session_len;
    struct config_override *before; /* overrides of earlier files end here; NULL: there are none */
    char **why;
    int err;
};

/* NAME where a line is [session NAME]. inih would end it at the first ']', which identifiers may
 * have, and keeps no more than 49 bytes of it. No identifier has a blank, as comments after a line
 * do. */
static void note_session(struct parse *p, const char *line, size_t len)
{
    static const char begin[] = "[session ";
    size_t blank = strspn(line, " \t\r\v\f");
    if (len < blank + sizeof begin - 1 || strncmp(line + blank, begin, sizeof begin - 1) != 0)
        return;
    const char *name = line + blank + sizeof begin - 1, *comment = name;
    name += strspn(name, " \t");
    while (comment < line + len && !(comment[0] == ';' && strchr(" \t", comment[-1])))
        comment++;
    const char *end = memrchr(name, ']', comment > name ? (size_t)(comment - name) : 0);
    p->session = name;
    p->session_len = end ? (size_t)(end - name) : 0;
}

/* inih's fgets. */
static char *next_line(char *out, int size, void *stream)
{
    struct parse *p = stream;
    if (!*p->at || p->err || size < 2)
        return NULL;
    size_t len = strcspn(p->at, "\n");
    bool whole = p->at[len] == '\n';
    if (p->line == 0 || p->at[-1] == '\n') {
        p->line++;
        note_session(p, p->at, len);
    }
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

/* A second line for the same is a mistake: one of the two would be passed over. */
static int refuse_second(struct parse *p, const char *name, const char *first)
{
    p->err = config_problem(p->why, -EINVAL, "%s:%u: %s is set already, at %s", p->file, p->line,
                            name, first);
    return 0;
}

/* Whether those who use it would take it; true where nobody was asked to look. */
static bool is_usable(struct parse *p, const char *option, const char *name, const char *value)
{
    config_judge *judge = p->config->origins->judge;
    const char *what = NULL;
    int err = judge && *value ? judge(option, value, &what) : 0;
    if (err)
        p->err = config_problem(p->why, err, "%s:%u: %s = %s: %s", p->file, p->line, name, value,
                                what ? what : strerror(-err));
    return !err;
}

static const struct config_override *find_override(const struct parse *p, const char *session,
                                                   const struct option_about *o)
{
    const struct config_override *one = p->before ? p->before->next : p->config->origins->overrides;
    while (one && (one->option != o || strcmp(one->session, session)))
        one = one->next;
    return one;
}

static int take_override(struct parse *p, const char *name, const char *value)
{
    const struct option_about *o = option_by_name(name);
    _cleanup_free_ char *session = strndup(p->session, p->session_len);
    if (!session)
        return !(p->err = -ENOMEM);
    if (!*session || !is_usable(p, "session", "session", session))
        return p->err ? 0 : refuse(p, "no NAME in [session NAME]", "");
    if (!o || strcmp(o->name, "session") == 0)
        return refuse(p, o ? "not possible in a [session NAME]: " : "unknown option ", name);
    const struct config_override *first = find_override(p, session, o);
    if (first)
        return refuse_second(p, o->name, first->origin);
    if (!is_usable(p, o->name, o->name, value))
        return 0;
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
        .option = o, .session = session, .value = strdup(value), .origin = origin};
    origin = session = NULL;
    LL_APPEND(p->config->origins->overrides, one);
    return one->value ? 1 : !(p->err = -ENOMEM);
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
        return take_override(p, name, value);
    if (!option_section_exists(section))
        return refuse(p, "unknown section ", section);
    const struct option_about *o = option_by_key(section, name);
    if (!o)
        return refuse(p, "unknown key ", name);
    unsigned *set = &p->set[o - option_table];
    if (*set) {
        char first[16];
        snprintf(first, sizeof first, "line %u", *set);
        return refuse_second(p, o->key, first);
    }
    *set = p->line;
    if (!is_usable(p, o->name, o->key, value))
        return 0;
    _cleanup_free_ char *origin = NULL;
    if (asprintf(&origin, "%s:%u", p->file, p->line) < 0)
        return !(p->err = -ENOMEM);
    p->err = config_set(p->config, o, value, LEVEL_FILE, origin, p->why);
    return p->err == 0;
}

static int parse_text(struct config *c, const char *file, const char *text, char **why)
{
    static const char byte_order_mark[] = "\xef\xbb\xbf";
    if (strncmp(text, byte_order_mark, 3) == 0)
        text += 3;
    struct parse p = {.config = c, .file = file, .at = text, .why = why, .session = ""};
    LL_FOREACH (c->origins->overrides, p.before) {
        if (!p.before->next)
            break;
    }
    ini_allow_multiline = false; /* an indented line is one of its own */
    ini_use_stack = false;       /* lines of any length */
    ini_allow_realloc = true;
    ini_max_line = FILE_LIMIT + 2;
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
    if (S_ISREG(st.st_mode) && (st.st_mode & S_IWOTH))
        return -EPERM; /* anybody could have it send our token to a pool of their own */
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
        return config_problem(why, err, "%s: %s", file,
                              err == -EPERM ? "anybody may write to it: chmod o-w"
                                            : strerror(-err));
    if (text.len && memchr(text.data, '\0', text.len))
        return config_problem(why, -EINVAL, "%s: not a text file", file);
    return text.len ? parse_text(c, file, text.data, why) : 0;
}
