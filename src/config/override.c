/* [session NAME]: the settings of one session. */
#include "config/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

/* What one session of a pool that is mounted whole may have of its own. The rest is about the
 * mount, the connections or the credential, of which there is one for all. */
static const char *const of_one[] = {
    "api-version", "restore", "keepalive", "cache-size", "attr-timeout", "sync",    "ro",
    "force",       "uid",     "gid",       "umask",      "symlinks",     "autorun", NULL};

static bool is_of_one(const struct option_about *o)
{
    const char *const *name = of_one;
    while (*name && strcmp(*name, o->name))
        name++;
    return *name;
}

int config_take_overrides(struct config *c, char **why)
{
    const struct config_override *one;
    int err = 0;
    LL_FOREACH (c->origins->overrides, one) {
        if (!err && c->session && strcmp(one->session, c->session) == 0)
            err = config_set(c, one->option, one->value, LEVEL_SESSION, one->origin, why);
    }
    return err;
}

/* Nothing that points elsewhere is shared. */
static int copy(const struct config *from, struct config *to)
{
    int err = 0;
    *to = *from;
    to->fuse_options = NULL;
    to->origins = calloc(1, sizeof *to->origins);
    if (to->origins)
        memcpy(to->origins->level, from->origins->level, sizeof to->origins->level);
    for (const struct option_about *o = option_table; o->name; o++) {
        char **text = (char **)((char *)to + o->at);
        if (option_is_text(o->type) && *text && !(*text = strdup(*text)))
            err = -ENOMEM;
    }
    return to->origins ? err : -ENOMEM;
}

static struct config *new_copy(const struct config *c)
{
    struct config *own = malloc(sizeof *own);
    if (own && copy(c, own)) {
        config_free(own);
        free(own);
        return NULL;
    }
    return own;
}

int config_of_session(const struct config *c, const char *session, struct config **out, char **why)
{
    const struct config_override *one;
    struct config *own = NULL;
    int err = 0;
    LL_FOREACH (c->origins->overrides, one) {
        if (err || strcmp(one->session, session) || !is_of_one(one->option))
            continue;
        if (!own && !(own = new_copy(c)))
            err = -ENOMEM;
        else
            err = config_set(own, one->option, one->value, LEVEL_SESSION, one->origin, why);
    }
    if (err && own) {
        config_free(own);
        free(own);
        own = NULL;
    }
    *out = own;
    return err;
}

void config_each_of_all(const struct config *c,
                        void (*fn)(void *arg, const char *option, const char *origin), void *arg)
{
    const struct config_override *one;
    LL_FOREACH (c->origins->overrides, one) {
        if (!is_of_one(one->option))
            fn(arg, one->option->name, one->origin);
    }
}
