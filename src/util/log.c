#include "util/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

/* The one piece of program-wide state outside main's context: where lines go. */
static struct {
    const char *program;
    enum log_level level;
    enum log_sink sink;
} logger = {"acafs", LOG_LEVEL_INFO, LOG_SINK_STDERR};

static const int syslog_priority[] = {
    [LOG_LEVEL_ERROR] = LOG_ERR,
    [LOG_LEVEL_WARNING] = LOG_WARNING,
    [LOG_LEVEL_INFO] = LOG_INFO,
    [LOG_LEVEL_DEBUG] = LOG_DEBUG,
};

void log_init(const char *program, enum log_level level)
{
    logger.program = program;
    logger.level = level;
}

void log_set_sink(enum log_sink sink)
{
    logger.sink = sink;
    if (sink == LOG_SINK_SYSLOG)
        openlog(logger.program, LOG_PID, LOG_DAEMON);
}

void log_set_level(enum log_level level)
{
    logger.level = level;
}

int log_level_parse(const char *word, enum log_level *out)
{
    static const char *const words[] = {"error", "warning", "info", "debug"};
    for (unsigned i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(word, words[i]) == 0) {
            *out = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

bool log_enabled(enum log_level level)
{
    return level <= logger.level;
}

void log_write(enum log_level level, const char *format, ...)
{
    if (!log_enabled(level))
        return;
    char line[2048];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0)
        return;
    for (char *c = line; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    }
    switch (logger.sink) {
    case LOG_SINK_SYSLOG:
        syslog(syslog_priority[level], "%s", line);
        break;
    case LOG_SINK_JOURNAL:
        dprintf(STDERR_FILENO, "<%d>%s\n", syslog_priority[level], line);
        break;
    case LOG_SINK_STDERR:
        dprintf(STDERR_FILENO, "%s: %s\n", logger.program, line);
        break;
    }
}
