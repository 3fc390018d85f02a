#include "util/gauge.h"

#include <errno.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    BAR = 20,
    WIDTH = 80,            /* of a terminal that does not tell */
    SHOWN_MS = 1000,       /* what is over sooner needs no line */
    SAID_MS = 3000,        /* the first line of a log */
    SAID_GROWS = 4,        /* the next after so many times as long */
    SAID_MOST_MS = 300000, /* but no longer */
    STILL_MS = 5000,       /* without a byte: worth a word */
};

int gauge_size(struct buf *out, uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double n = (double)bytes;
    unsigned unit = 0;
    while (n >= 1024 && unit < 4) {
        n /= 1024;
        unit++;
    }
    return buf_addf(out, unit ? "%.1f %s" : "%.0f %s", n, units[unit]);
}

void gauge_begin(struct gauge *g, const char *program, const char *what, uint64_t moved)
{
    int64_t now = clock_ms();
    *g = (struct gauge){
        .program = program,
        .what = what,
        .terminal = isatty(STDERR_FILENO),
        .began_ms = now,
        .due_ms = now + SAID_MS,
        .pause_ms = SAID_MS,
        .seen_ms = now,
        .still_since_ms = now,
        .moved_first = moved,
        .moved = moved,
    };
}

/* Smooth, so that it can be read: half of it is from the last two seconds. */
void gauge_measure(struct gauge *g, uint64_t moved)
{
    int64_t now = clock_ms(), ms = now - g->seen_ms;
    if (ms <= 0)
        return;
    double latest = (double)(moved - g->moved) * 1000 / (double)ms;
    double share = ms > 2000 ? 1 : (double)ms / 4000;
    g->rate = g->seen_ms == g->began_ms ? latest : g->rate * (1 - share) + latest * share;
    if (moved != g->moved)
        g->still_since_ms = now;
    g->seen_ms = now;
    g->moved = moved;
}

/* What is there: of the files that are not, the part that was sent counts, too; what was sent twice
 * does not. */
static uint64_t done(const struct gauge *g, uint64_t left, uint64_t moved)
{
    uint64_t whole = g->total - left, sent = moved - g->moved_first;
    uint64_t most = left ? g->total - 1 : g->total;
    sent = sent < most ? sent : most;
    return sent > whole ? sent : whole;
}

static void add_bar(struct buf *line, uint64_t part, uint64_t whole)
{
    unsigned full = whole ? (unsigned)((double)part / (double)whole * BAR) : 0;
    buf_adds(line, "[");
    for (unsigned i = 0; i < BAR; i++)
        buf_adds(line, i < full ? "#" : "-");
    buf_adds(line, "] ");
}

/* How long nothing moved, in milliseconds; 0: that is not worth a word. */
static int64_t still_ms(const struct gauge *g)
{
    int64_t still = clock_ms() - g->still_since_ms;
    return still >= STILL_MS ? still : 0;
}

static void add_trouble(struct buf *line, const struct gauge *g, const char *trouble)
{
    int64_t still = still_ms(g);
    if (trouble)
        buf_addf(line, ": %s", trouble);
    else if (still)
        buf_addf(line, ": nothing moves for %lld s", (long long)still / 1000);
}

static void add_files(struct buf *line, size_t files)
{
    buf_addf(line, "%zu file%s", files, files == 1 ? "" : "s");
}

static void draw(struct gauge *g, size_t files, uint64_t left, const char *trouble)
{
    _cleanup_buf_ struct buf line = {0};
    struct winsize size = {0};
    uint64_t there = done(g, left, g->moved);
    ioctl(STDERR_FILENO, TIOCGWINSZ, &size);
    size_t width = size.ws_col ? size.ws_col : WIDTH;
    buf_addf(&line, "%s: ", g->program);
    add_bar(&line, there, g->total);
    gauge_size(&line, there);
    buf_adds(&line, " of ");
    gauge_size(&line, g->total);
    if (g->rate >= 1 && !trouble && !still_ms(g)) {
        buf_adds(&line, ", ");
        gauge_size(&line, (uint64_t)g->rate);
        buf_adds(&line, "/s");
    }
    buf_adds(&line, ", ");
    add_files(&line, files);
    add_trouble(&line, g, trouble);
    fprintf(stderr, "\r%.*s\033[K", (int)(line.len < width ? line.len : width - 1), line.data);
    fflush(stderr);
    g->drawn = true;
}

static void say(struct gauge *g, size_t files, uint64_t left, const char *trouble)
{
    _cleanup_buf_ struct buf line = {0};
    buf_addf(&line, "%s ", g->what);
    add_files(&line, files);
    buf_adds(&line, " (");
    gauge_size(&line, left);
    buf_adds(&line, ")");
    add_trouble(&line, g, trouble);
    log_warning("%s", line.data);
    g->pause_ms = g->pause_ms * SAID_GROWS;
    g->pause_ms = g->pause_ms < SAID_MOST_MS ? g->pause_ms : SAID_MOST_MS;
    g->due_ms = clock_ms() + g->pause_ms;
}

void gauge_show(struct gauge *g, size_t files, uint64_t left, uint64_t moved, const char *trouble)
{
    int64_t now = clock_ms();
    gauge_measure(g, moved);
    g->total = left > g->total ? left : g->total;
    if (g->terminal && (g->drawn || now - g->began_ms >= SHOWN_MS))
        draw(g, files, left, trouble);
    else if (!g->terminal && now >= g->due_ms)
        say(g, files, left, trouble);
}

void gauge_end(struct gauge *g)
{
    if (g->drawn)
        fputs("\r\033[K", stderr);
    g->drawn = false;
}
