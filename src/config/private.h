/* What the files of config share. */
#ifndef ACAFS_CONFIG_PRIVATE_H
#define ACAFS_CONFIG_PRIVATE_H

#include "config/option.h"

/* Where a value may come from: what is further down wins. */
enum config_level {
    LEVEL_DEFAULT,
    LEVEL_FILE,
    LEVEL_SESSION, /* [session NAME] of a file */
    LEVEL_ENVIRONMENT,
    LEVEL_COMMAND_LINE,
};

/* A line of a [session NAME] section: taken when the session is known. */
struct config_override {
    struct config_override *next;
    const struct option_about *option;
    char *session, *value, *origin;
};

struct config_origins {
    enum config_level level[OPTION_LIMIT];
    char *origin[OPTION_LIMIT]; /* NULL: default */
    struct config_override *overrides;
    config_judge *judge; /* or NULL: values are judged when they are used */
};

/* Takes a value unless one from a higher level is there already; it is checked either way.
 * origin: where it stands, as problems and `acafs config` tell it. */
int config_set(struct config *, const struct option_about *, const char *value, enum config_level,
               const char *origin, char **why);

/* *why = the formatted line, made fit for a terminal; gives err back. */
int config_problem(char **why, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Takes the lines of [session NAME] for the session that is set. */
int config_take_overrides(struct config *, char **why);

/* One file. missing_ok: -ENOENT and -ENOTDIR are no errors. */
int config_read_file(struct config *, const char *file, bool missing_ok, char **why);

#endif
