#include "acarun/progress.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/cleanup.h"
#include "util/gauge.h"
#include "util/text.h"

enum { NAME_WIDTH = 40, WIDTH = 80, HEIGHT = 24, MESSAGE_MAX = 300, TRAFFIC_LEAST = 1 << 20 };

struct progress {
    const struct batch *batch;
    bool quiet, terminal;
    unsigned drawn; /* lines on the terminal that are to be drawn over */
    struct gauge sent, received;
};

/* --- words */

/* Columns of UTF-8, one for each character. */
static size_t columns(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

/* Cuts text, which is fit for a terminal, to so many columns. */
static void cut(struct buf *text, size_t width)
{
    size_t at = 0, n = 0;
    while (at < text->len && n <= width) {
        if (((unsigned char)text->data[at] & 0xc0) != 0x80 && ++n > width)
            break;
        at++;
    }
    if (at < text->len) {
        text->len = at;
        text->data[at] = '\0';
    }
}

static void add_padded(struct buf *line, const char *text, size_t width)
{
    size_t have = columns(text);
    buf_adds(line, text);
    while (have++ < width)
        buf_adds(line, " ");
}

static void printable(struct buf *out, const char *text)
{
    text_printable(out, text, strlen(text), MESSAGE_MAX);
    if (!out->data)
        buf_adds(out, "");
}

static void add_seconds(struct buf *line, int64_t ms)
{
    buf_addf(line, "%lld.%lld s", (long long)ms / 1000, (long long)ms % 1000 / 100);
}

/* How an item is, in a word or two. */
static void add_state(struct buf *out, const struct item *i)
{
    if (i->state == ITEM_WAITING || (i->state == ITEM_STOPPED && !i->since))
        buf_adds(out, "not run");
    else if (i->state == ITEM_STOPPED)
        buf_adds(out, "stopped");
    else if (i->code == 0)
        buf_adds(out, "ok");
    else if (i->code == 124)
        buf_adds(out, "timed out");
    else if (i->code == 130)
        buf_adds(out, "canceled");
    else
        buf_addf(out, "exit %d", i->code);
}

/* --- while they run */

static void erase(struct progress *p)
{
    if (p->drawn)
        fprintf(stderr, "\033[%uA\r\033[J", p->drawn);
    p->drawn = 0;
}

static void size_of_terminal(unsigned *width, unsigned *height)
{
    struct winsize size = {0};
    ioctl(STDERR_FILENO, TIOCGWINSZ, &size);
    *width = size.ws_col ? size.ws_col : WIDTH;
    *height = size.ws_row ? size.ws_row : HEIGHT;
}

static void draw_item(struct progress *p, const struct item *i, unsigned width)
{
    _cleanup_buf_ struct buf line = {0}, name = {0}, said = {0};
    printable(&name, i->script);
    cut(&name, NAME_WIDTH);
    add_padded(&line, name.data, 20);
    buf_adds(&line, "  ");
    add_seconds(&line, clock_ms() - i->since);
    if (i->last_line) {
        printable(&said, i->last_line);
        buf_addf(&line, "  %s", said.data);
    }
    cut(&line, width - 1);
    fprintf(stderr, "%s\n", line.data);
    p->drawn++;
}

static void add_traffic(struct buf *line, const struct gauge *g, const char *what)
{
    uint64_t bytes = g->moved - g->moved_first;
    if (bytes < TRAFFIC_LEAST)
        return;
    buf_adds(line, ", ");
    gauge_size(line, bytes);
    buf_addf(line, " %s", what);
    if (g->rate < 1)
        return;
    buf_adds(line, " (");
    gauge_size(line, (uint64_t)g->rate);
    buf_adds(line, "/s)");
}

static void draw_total(struct progress *p, unsigned width)
{
    _cleanup_buf_ struct buf line = {0};
    size_t over = 0, failed = 0;
    for (size_t n = 0; n < p->batch->count; n++) {
        const struct item *i = &p->batch->items[n];
        over += i->state == ITEM_OVER;
        failed += i->state == ITEM_OVER && i->code;
    }
    buf_addf(&line, "%zu of %zu done, %zu failed", over, p->batch->count, failed);
    add_traffic(&line, &p->sent, "sent");
    add_traffic(&line, &p->received, "received");
    cut(&line, width - 1);
    fprintf(stderr, "%s\n", line.data);
    p->drawn++;
}

void progress_traffic(struct progress *p, uint64_t sent, uint64_t received)
{
    gauge_measure(&p->sent, sent);
    gauge_measure(&p->received, received);
}

void progress_draw(struct progress *p)
{
    if (!p->terminal || p->quiet)
        return;
    unsigned width, height;
    size_of_terminal(&width, &height);
    erase(p);
    for (size_t n = 0; n < p->batch->count && p->drawn + 2 < height; n++) {
        if (p->batch->items[n].state == ITEM_RUNNING)
            draw_item(p, &p->batch->items[n], width);
    }
    draw_total(p, width);
    fflush(stderr);
}

void progress_started(struct progress *p, const struct item *i)
{
    if (p->quiet || p->terminal)
        return;
    _cleanup_buf_ struct buf name = {0};
    printable(&name, i->script);
    fprintf(stderr, "%s: started\n", name.data);
}

void progress_ended(struct progress *p, const struct item *i)
{
    if (p->quiet)
        return;
    _cleanup_buf_ struct buf line = {0};
    printable(&line, i->script);
    buf_adds(&line, ": ");
    add_state(&line, i);
    buf_adds(&line, " after ");
    add_seconds(&line, i->took_ms);
    if (i->message && i->code) {
        buf_adds(&line, ": ");
        text_printable(&line, i->message, strlen(i->message), MESSAGE_MAX);
    }
    erase(p);
    fprintf(stderr, "%s\n", line.data);
    progress_draw(p);
}

struct progress *progress_new(const struct batch *b, bool quiet)
{
    struct progress *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    *p = (struct progress){.batch = b, .quiet = quiet, .terminal = isatty(STDERR_FILENO)};
    gauge_begin(&p->sent, NULL, NULL, 0);
    gauge_begin(&p->received, NULL, NULL, 0);
    return p;
}

void progress_free(struct progress *p)
{
    if (!p)
        return;
    erase(p);
    fflush(stderr);
    free(p);
}

/* --- afterwards */

static size_t name_width(const struct batch *b)
{
    size_t width = 6;
    for (size_t n = 0; n < b->count; n++) {
        _cleanup_buf_ struct buf name = {0};
        printable(&name, b->items[n].script);
        size_t have = columns(name.data);
        width = have > width ? have : width;
    }
    return width < NAME_WIDTH ? width : NAME_WIDTH;
}

static void print_row(const struct item *i, size_t width)
{
    _cleanup_buf_ struct buf line = {0}, name = {0}, state = {0}, time = {0};
    printable(&name, i->script);
    add_state(&state, i);
    if (i->since)
        add_seconds(&time, i->took_ms);
    add_padded(&line, name.data, width);
    buf_adds(&line, "  ");
    add_padded(&line, state.data, 9);
    buf_addf(&line, "  %9s", time.data ? time.data : "");
    if (i->message && *i->message) {
        buf_adds(&line, "  ");
        text_printable(&line, i->message, strlen(i->message), MESSAGE_MAX);
    }
    while (line.len && line.data[line.len - 1] == ' ')
        line.data[--line.len] = '\0';
    printf("%s\n", line.data);
}

int progress_table(const struct batch *b)
{
    size_t width = name_width(b), ok = 0, failed = 0;
    printf("%-*s  %-9s  %9s  %s\n", (int)width, "SCRIPT", "STATUS", "TIME", "MESSAGE");
    for (size_t n = 0; n < b->count; n++) {
        const struct item *i = &b->items[n];
        print_row(i, width);
        ok += i->state == ITEM_OVER && !i->code;
        failed += i->state == ITEM_OVER && i->code;
    }
    printf("%zu ok, %zu failed", ok, failed);
    if (ok + failed < b->count)
        printf(", %zu not run to the end", b->count - ok - failed);
    printf("\n");
    return fflush(stdout) ? -errno : 0;
}
