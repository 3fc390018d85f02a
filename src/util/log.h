/* The log of a program: to stderr with the program's name in front, or to syslog
 * once the daemon has detached. A message is one line; control characters in it
 * (they come from servers and file names) are shown as '?'. Never pass a token.
 *
 * Log once, where an error is handled; name the file, the operation, the cause
 * and what to do. Usable from any thread. */
#ifndef ACAFS_UTIL_LOG_H
#define ACAFS_UTIL_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum log_sink {
    LOG_SINK_STDERR,  /* "acafs: text" */
    LOG_SINK_JOURNAL, /* "<3>text" on stderr, as systemd reads it */
    LOG_SINK_JSON, /* {"time":…,"level":…,"program":…,"mount":…,"message":…} on stderr */
    LOG_SINK_SYSLOG,
};

void log_init(const char *program, enum log_level level);
void log_set_sink(enum log_sink);
void log_set_level(enum log_level);
/* What the messages are about, for JSON; NULL: nothing. Borrowed. */
void log_set_mount(const char *mountpoint);
/* -EINVAL for a word that is no level; the words are error, warning, info, debug. */
int log_level_parse(const char *word, enum log_level *out);
bool log_enabled(enum log_level);

void log_write(enum log_level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
    do {                                                                                           \
        if (log_enabled(LOG_LEVEL_DEBUG))                                                          \
            log_write(LOG_LEVEL_DEBUG, __VA_ARGS__);                                               \
    } while (0)

#endif
