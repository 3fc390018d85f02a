/* The table of options, and values as text. Of config alone. */
#ifndef ACAFS_CONFIG_OPTION_H
#define ACAFS_CONFIG_OPTION_H

#include <stddef.h>

#include "config/config.h"
#include "util/buf.h"

enum option_type {
    OPTION_TEXT,
    OPTION_BOOL,
    OPTION_SIZE, /* bytes: 4096, 64K, 2G */
    OPTION_TIME, /* seconds as people write them: 10, 0.5, 250ms, 5m, 1h; kept in milliseconds */
    OPTION_COUNT,
    OPTION_USER, /* number or name */
    OPTION_GROUP,
    OPTION_MODE,   /* octal */
    OPTION_LEVEL,  /* error, warning, info, debug */
    OPTION_LINKS,  /* contain, follow */
    OPTION_FORMAT, /* text, json */
};

struct option_about {
    const char *name;          /* on the command line */
    const char *section, *key; /* in the configuration file */
    const char *environment;
    enum option_type type;
    size_t at;         /* offset in struct config */
    const char *value; /* default as text; NULL: not set, or made by config_finish */
    const char *metavar, *help;
    uint64_t min, max; /* of numbers; max 0: any */
};

/* In the order of the sample file; ends with a NULL name. */
extern const struct option_about option_table[];
enum { OPTION_LIMIT = 64 };

/* NULL when there is none. '_' and '-' are the same in names. */
const struct option_about *option_by_name(const char *name);
const struct option_about *option_by_key(const char *section, const char *key);
bool option_section_exists(const char *section);
/* Whether the struct holds it as text of its own. */
bool option_is_text(enum option_type);

/* Takes a value: 0, -ENOMEM, or -EINVAL. An empty text is "not set" for text. */
int option_parse(struct config *, const struct option_about *, const char *text);
/* Appends what a value must be: "a number from 1 to 256". */
int option_want(const struct option_about *, struct buf *);
/* Appends the value as option_parse would take it; nothing when it is not set. */
int option_format(const struct config *, const struct option_about *, struct buf *);

#endif
