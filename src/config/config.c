#include "config/config.h"

#include <errno.h>
#include <glob.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "config/private.h"
#include "local/local.h"
#include "util/cleanup.h"
#include "util/text.h"

#define SYSTEM_FILE "/etc/acafs/acafs.conf"
#define SYSTEM_FILES "/etc/acafs/conf.d/*.conf"

/* --- one value */

int config_problem(char **why, int err, const char *format, ...)
{
    _cleanup_buf_ struct buf line = {0}, safe = {0};
    va_list ap;
    va_start(ap, format);
    buf_vaddf(&line, format, ap);
    va_end(ap);
    if (line.len && text_printable(&safe, line.data, line.len, 1000) == 0) {
        free(*why);
        *why = buf_take(&safe);
    }
    return err;
}

static struct config_origins *origins(struct config *c)
{
    if (!c->origins)
        c->origins = calloc(1, sizeof *c->origins);
    return c->origins;
}

static int bad_value(const struct option_about *o, const char *value, enum config_level level,
                     const char *origin, char **why)
{
    _cleanup_buf_ struct buf want = {0};
    if (option_want(o, &want))
        return -ENOMEM;
    if (level == LEVEL_COMMAND_LINE)
        return config_problem(why, -EINVAL, "option %s=%s: want %s", o->name, value, want.data);
    if (level == LEVEL_ENVIRONMENT)
        return config_problem(why, -EINVAL, "%s=%s: want %s", o->environment, value, want.data);
    return config_problem(why, -EINVAL, "%s: %s = %s: want %s", origin,
                          level == LEVEL_SESSION ? o->name : o->key, value, want.data);
}

int config_set(struct config *c, const struct option_about *o, const char *value,
               enum config_level level, const char *origin, char **why)
{
    struct config_origins *from = origins(c);
    size_t i = (size_t)(o - option_table);
    if (!from)
        return -ENOMEM;
    struct config scratch = {0}, *to = level < from->level[i] ? &scratch : c;
    int err = option_parse(to, o, value);
    config_free(&scratch);
    if (err == -EINVAL)
        return bad_value(o, value, level, origin, why);
    if (err || to == &scratch)
        return err;
    char *copy = origin ? strdup(origin) : NULL;
    if (origin && !copy)
        return -ENOMEM;
    free(from->origin[i]);
    from->origin[i] = copy;
    from->level[i] = level;
    return 0;
}

void config_free(struct config *c)
{
    for (const struct option_about *o = option_table; o->name; o++) {
        if (option_is_text(o->type))
            free(*(char **)((char *)c + o->at));
    }
    struct config_override *one, *next;
    if (c->origins) {
        LL_FOREACH_SAFE (c->origins->overrides, one, next) {
            free(one->session);
            free(one->value);
            free(one->origin);
            free(one);
        }
        for (int i = 0; i < OPTION_LIMIT; i++)
            free(c->origins->origin[i]);
    }
    free(c->origins);
    free(c->fuse_options);
    *c = (struct config){0};
}

/* --- defaults, files, environment */

static int set_defaults(struct config *c, char **why)
{
    int err = 0;
    c->uid = (uid_t)-1;
    c->gid = (gid_t)-1;
    for (const struct option_about *o = option_table; o->name && !err; o++) {
        if (o->value)
            err = config_set(c, o, o->value, LEVEL_DEFAULT, NULL, why);
    }
    return err;
}

/* mount(8) starts its helpers without HOME. */
static const char *home_directory(void)
{
    const char *home = getenv("HOME");
    if (home && home[0] == '/')
        return home;
    const struct passwd *user = getpwuid(geteuid());
    return user ? user->pw_dir : NULL;
}

/* "$XDG/acafs" or "~/DOT/acafs", or NULL: there is neither. */
static char *user_directory(const char *xdg, const char *dot)
{
    const char *base = getenv(xdg), *home = home_directory();
    char *path = NULL;
    if (base && base[0] == '/')
        return asprintf(&path, "%s/acafs", base) < 0 ? NULL : path;
    if (home && home[0] == '/')
        return asprintf(&path, "%s/%s/acafs", home, dot) < 0 ? NULL : path;
    return NULL;
}

static int read_system_files(struct config *c, char **why)
{
    glob_t found;
    int err = config_read_file(c, SYSTEM_FILE, true, why);
    if (err || glob(SYSTEM_FILES, 0, NULL, &found))
        return err;
    for (size_t i = 0; i < found.gl_pathc && !err; i++)
        err = config_read_file(c, found.gl_pathv[i], true, why);
    globfree(&found);
    return err;
}

static int read_files(struct config *c, char **why)
{
    int err = read_system_files(c, why);
    _cleanup_free_ char *directory = user_directory("XDG_CONFIG_HOME", ".config"), *file = NULL;
    if (err || !directory)
        return err;
    if (asprintf(&file, "%s/acafs.conf", directory) < 0)
        return -ENOMEM;
    return config_read_file(c, file, true, why);
}

static int read_environment(struct config *c, char **why)
{
    int err = 0;
    for (const struct option_about *o = option_table; o->name && !err; o++) {
        const char *value = getenv(o->environment);
        if (value && *value)
            err = config_set(c, o, value, LEVEL_ENVIRONMENT, o->environment, why);
    }
    return err;
}

int config_load(struct config *c, const char *file, char **why)
{
    *c = (struct config){0};
    int err = origins(c) ? set_defaults(c, why) : -ENOMEM;
    const char *named = file ? file : getenv("ACAFS_CONFIG");
    if (!err)
        err = named && *named ? config_read_file(c, named, false, why) : read_files(c, why);
    return err ? err : read_environment(c, why);
}

int config_check_file(const char *file, config_judge *judge, char **why)
{
    struct config config = {0};
    int err = origins(&config) ? 0 : -ENOMEM;
    if (!err) {
        config.origins->judge = judge;
        err = config_read_file(&config, file, false, why);
    }
    config_free(&config);
    return err;
}

/* --- the command line */

/* Options of mount(8), of libfuse and of fusermount3 that are handed on as they are... */
static const char *const handed_on[] = {
    "fsname",   "subtype", "dev",       "nodev",       "suid",       "nosuid",
    "exec",     "noexec",  "atime",     "noatime",     "dirsync",    "auto_unmount",
    "max_read", "context", "fscontext", "rootcontext", "defcontext", NULL};
/* ... and those that say something to mount(8) alone, or that hold here anyway. */
static const char *const passed_over[] = {"defaults",   "auto",        "noauto",
                                          "user",       "nouser",      "users",
                                          "nousers",    "owner",       "group",
                                          "nofail",     "_netdev",     "relatime",
                                          "norelatime", "strictatime", "nostrictatime",
                                          "diratime",   "nodiratime",  "lazytime",
                                          "nolazytime", "async",       "default_permissions",
                                          "comment",    NULL};

static bool one_of(const char *const *list, const char *name)
{
    while (*list && strcmp(*list, name))
        list++;
    return *list;
}

static int hand_on(struct config *c, const char *option)
{
    _cleanup_buf_ struct buf all = {0};
    if (c->fuse_options && (buf_adds(&all, c->fuse_options) || buf_adds(&all, ",")))
        return -ENOMEM;
    for (; *option; option++) {
        if ((*option == ',' || *option == '\\') && buf_adds(&all, "\\"))
            return -ENOMEM;
        if (buf_add(&all, option, 1))
            return -ENOMEM;
    }
    free(c->fuse_options);
    c->fuse_options = buf_take(&all);
    return c->fuse_options ? 0 : -ENOMEM;
}

/* "name" or "name=value". */
static int take_option(struct config *c, const char *text, char **why)
{
    const char *equals = strchrnul(text, '=');
    _cleanup_free_ char *name = strndup(text, (size_t)(equals - text));
    if (!name)
        return -ENOMEM;
    if (!*name)
        return *equals ? config_problem(why, -EINVAL, "option %s: no name", text) : 0;
    if (strcmp(name, "config") == 0)
        return *equals ? 0 : config_problem(why, -EINVAL, "option config: want a file");
    if (one_of(handed_on, name))
        return hand_on(c, text);
    if (one_of(passed_over, name) || strncmp(name, "x-", 2) == 0)
        return 0;
    const char *value = *equals ? equals + 1 : NULL;
    if (strcmp(text, "rw") == 0)
        value = "no";
    const struct option_about *o = option_by_name(strcmp(text, "rw") == 0 ? "ro" : name);
    if (!o)
        return config_problem(why, -EINVAL, "unknown option %s", name);
    if (!value && o->type != OPTION_BOOL)
        return config_problem(why, -EINVAL, "option %s: want a value: %s=%s", name, o->name,
                              o->metavar);
    return config_set(c, o, value ? value : "yes", LEVEL_COMMAND_LINE, "command line", why);
}

/* Copies the next of the comma-separated options without its backslashes; NULL: out of memory. */
static char *next_option(const char **options)
{
    struct buf one = {0};
    const char *p = *options;
    for (; *p && *p != ','; p++) {
        if (*p == '\\' && p[1])
            p++;
        if (buf_add(&one, p, 1))
            break;
    }
    *options = *p ? p + 1 : p;
    if (buf_adds(&one, "")) {
        buf_free(&one);
        return NULL;
    }
    return buf_take(&one);
}

int config_mount_options(struct config *c, const char *options, char **why)
{
    int err = 0;
    while (*options && !err) {
        _cleanup_free_ char *option = next_option(&options);
        err = option ? take_option(c, option, why) : -ENOMEM;
    }
    return err;
}

char *config_file_option(const char *options)
{
    while (*options) {
        _cleanup_free_ char *option = next_option(&options);
        if (option && strncmp(option, "config=", 7) == 0)
            return strdup(option + 7);
    }
    return NULL;
}

/* The value that SOURCE has for an option, which -o may have said, too. */
static int set_from_source(struct config *c, const char *name, const char *value, char **why)
{
    const struct option_about *o = option_by_name(name);
    _cleanup_buf_ struct buf said = {0};
    if (config_on_command_line(c, name) && !option_format(c, o, &said) &&
        strcmp(said.data ? said.data : "", value) != 0)
        return config_problem(why, -EINVAL, "SOURCE names another %s than -o %s=: say it once",
                              o->section, name);
    return config_set(c, o, value, LEVEL_COMMAND_LINE, "command line", why);
}

int config_source(struct config *c, const char *source, char **why)
{
    const char *hash = strchrnul(source, '#');
    _cleanup_free_ char *pool = strndup(source, (size_t)(hash - source));
    int err = pool ? 0 : -ENOMEM;
    if (!err && *pool)
        err = set_from_source(c, "endpoint", pool, why);
    if (!err && *hash && hash[1])
        err = set_from_source(c, "session", hash + 1, why);
    return err;
}

bool config_on_command_line(const struct config *c, const char *name)
{
    return c->origins->level[option_by_name(name) - option_table] == LEVEL_COMMAND_LINE;
}

/* --- what depends on the rest */

int config_finish(struct config *c, char **why)
{
    int err = config_take_overrides(c, why);
    if (err)
        return err;
    if (!c->cache_dir)
        c->cache_dir = geteuid() == 0 && !getenv("XDG_CACHE_HOME")
                           ? strdup("/var/cache/acafs")
                           : user_directory("XDG_CACHE_HOME", ".cache");
    if (!c->cache_dir)
        return config_problem(why, -EINVAL, "cache-dir: not set, and there is no home directory");
    if (c->cache_dir[0] != '/')
        return config_problem(why, -EINVAL, "cache-dir %s: want an absolute path", c->cache_dir);
    if (!c->local_socket)
        c->local_socket = local_pool_socket();
    return c->local_socket ? 0 : -ENOMEM;
}

/* --- showing them */

void config_print(const struct config *c, FILE *out)
{
    const char *section = "";
    for (const struct option_about *o = option_table; o->name; o++) {
        const char *origin = c->origins->origin[o - option_table];
        _cleanup_buf_ struct buf value = {0};
        if (option_format(c, o, &value))
            return;
        if (strcmp(section, o->section))
            fprintf(out, "%s[%s]\n", *section ? "\n" : "", o->section);
        section = o->section;
        int width =
            fprintf(out, "%s%s = %s", value.len ? "" : "# ", o->key, value.len ? value.data : "");
        fprintf(out, "%*s ; %s\n", width < 40 ? 40 - width : 0, "",
                origin      ? origin
                : value.len ? "default"
                            : "not set");
    }
}

void config_options(FILE *out)
{
    for (const struct option_about *o = option_table; o->name; o++) {
        char name[64];
        snprintf(name, sizeof name, o->metavar ? "%s=%s" : "%s", o->name, o->metavar);
        fprintf(out, "%-30s  %s%s%s%s\n", name, o->help, o->value && o->metavar ? " (" : "",
                o->value && o->metavar ? o->value : "", o->value && o->metavar ? ")" : "");
    }
}
