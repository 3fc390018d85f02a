#include "util/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/text.h"

/* The one piece of program-wide state outside main's context: where lines go. */
static struct {
    const char *program;
    enum log_level level;
    enum log_sink sink;
    const char *mount;
} logger = {"acafs", LOG_LEVEL_INFO, LOG_SINK_STDERR, NULL};

static const char *const words[] = {
    [LOG_LEVEL_ERROR] = "error",
    [LOG_LEVEL_WARNING] = "warning",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_DEBUG] = "debug",
};

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

void log_set_mount(const char *mountpoint)
{
    logger.mount = mountpoint;
}

int log_level_parse(const char *word, enum log_level *out)
{
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

/* Control characters are gone by now, or of a mount point, and escaped. */
static void add_json(struct buf *out, const char *name, const char *value)
{
    bool good = text_is_utf8(value, strlen(value));
    buf_addf(out, "%s\"%s\":\"", out->len ? "," : "{", name);
    for (const char *c = value; *c; c++) {
        if ((unsigned char)*c < ' ')
            buf_addf(out, "\\u%04x", (unsigned)*c);
        else if ((unsigned char)*c >= 0x80 && !good)
            buf_adds(out, "?");
        else
            buf_addf(out, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
    }
    buf_adds(out, "\"");
}

/* One write, so that lines of several threads do not mix. */
static void write_json(enum log_level level, const char *message)
{
    _cleanup_buf_ struct buf line = {0};
    struct timespec now;
    struct tm tm;
    char seconds[32], time[48];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(time, sizeof time, "%s.%03ldZ", seconds, now.tv_nsec / 1000000);
    add_json(&line, "time", time);
    add_json(&line, "level", words[level]);
    add_json(&line, "program", logger.program);
    if (logger.mount)
        add_json(&line, "mount", logger.mount);
    add_json(&line, "message", message);
    buf_adds(&line, "}\n");
    if (line.data && write(STDERR_FILENO, line.data, line.len) < 0)
        return; /* nobody listens */
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
    case LOG_SINK_JSON:
        write_json(level, line);
        break;
    case LOG_SINK_STDERR:
        dprintf(STDERR_FILENO, "%s: %s\n", logger.program, line);
        break;
    }
}
