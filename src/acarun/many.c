/* acarun -j N: from the command line to the exit code; how each script is run is the business of
 * many_direct.c and many_mounted.c. */
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "acarun/batch.h"
#include "acarun/exit.h"
#include "acarun/mounted.h"
#include "acarun/progress.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

/* --- items */

static int open_output(const struct batch *b, struct item *i, char **why)
{
    const struct options *o = b->options;
    bool beside = !o->no_outputs && !o->output_dir;
    const struct output_options options = {
        .dir = o->output_dir              ? o->output_dir
               : beside && !i->place.root ? i->dir
                                          : NULL,
        .name = i->name,
        .streams = true,
        .signal_fd = b->signal_fd,
    };
    return output_new(&options, &i->output, why);
}

struct item *batch_next(struct batch *b)
{
    while (!b->stop && b->next < b->count) {
        struct item *i = &b->items[b->next++];
        _cleanup_free_ char *why = NULL;
        i->state = ITEM_RUNNING;
        i->since = clock_ms();
        progress_started(b->progress, i);
        if (open_output(b, i, &why) == 0)
            return i;
        batch_over(b, i, EXIT_NO_OUTPUT, why);
    }
    return NULL;
}

static void close_item(struct item *i)
{
    output_free(i->output);
    i->output = NULL;
    i->took_ms = clock_ms() - i->since;
}

void batch_over(struct batch *b, struct item *i, int code, const char *message)
{
    const struct report *r = &i->report;
    _cleanup_free_ char *why = NULL;
    _cleanup_buf_ struct buf result = {0};
    if (code < 0 && (report_result(r, &result) || output_finish(i->output, result.data, &why))) {
        code = EXIT_NO_OUTPUT;
        message = why;
    }
    close_item(i);
    i->state = ITEM_OVER;
    i->code = code < 0 ? r->exit_code : code;
    if (code < 0)
        message = r->message ? r->message : message;
    i->message = message ? strdup(message) : NULL;
    if (i->code && b->options->fail_fast)
        b->stop = true;
    progress_ended(b->progress, i);
}

void batch_stopped(struct batch *b, struct item *i)
{
    close_item(i);
    i->state = ITEM_STOPPED;
    progress_ended(b->progress, i);
}

/* The last line that is not empty. */
static void take_last_line(struct item *i, const char *data, size_t len)
{
    while (len && (data[len - 1] == '\n' || data[len - 1] == '\r'))
        len--;
    const char *start = len ? memrchr(data, '\n', len) : NULL;
    size_t skip = start ? (size_t)(start + 1 - data) : 0;
    _cleanup_buf_ struct buf line = {0};
    if (!len || text_printable(&line, data + skip, len - skip, 200) || !line.len)
        return;
    free(i->last_line);
    i->last_line = buf_take(&line);
}

void batch_output(struct item *i, int stream, const void *data, size_t len)
{
    output_write(i->output, stream, data, len);
    take_last_line(i, data, len);
}

void batch_waits(struct item *i, const char *why)
{
    take_last_line(i, why, strlen(why));
}

/* --- taking the command line in */

/* -1, or the exit code after saying what is wrong. */
static int take_script(const struct options *o, struct item *i)
{
    struct stat st;
    int err = stat(i->script, &st) ? -errno : S_ISDIR(st.st_mode) ? -EISDIR : 0;
    _cleanup_free_ char *for_name = strdup(i->script), *for_dir = strdup(i->script);
    if (!for_name || !for_dir)
        return EXIT_RAISED;
    if (!err) {
        i->name = strdup(basename(for_name));
        i->dir = realpath(dirname(for_dir), NULL);
        err = i->name && i->dir ? 0 : -errno;
    }
    if (!err && !options_direct(o)) {
        err = place_find(i->script, &i->place);
        err = err == -ENOENT ? 0 : err;
    }
    if (!err)
        return -1;
    log_error("%s: %s", i->script, mounted_explain(err));
    return err == -ENOTCONN ? EXIT_UNREACHABLE : EXIT_NO_SCRIPT;
}

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* Outputs of two scripts must not meet. */
static int check_pair(const struct options *o, const struct item *a, const struct item *b)
{
    if (!same(a->place.root, b->place.root)) {
        log_error("%s and %s: -j runs scripts of one mount, or of none", a->script, b->script);
        return EXIT_BAD_USAGE;
    }
    if (!same(a->name, b->name) || (!o->output_dir && !same(a->dir, b->dir)))
        return -1;
    log_error("%s and %s: their outputs would have the same names", a->script, b->script);
    return EXIT_BAD_USAGE;
}

static int check_items(const struct batch *b)
{
    const struct options *o = b->options;
    for (size_t i = 0; i < b->count; i++) {
        for (size_t k = i + 1; k < b->count; k++) {
            int code = check_pair(o, &b->items[i], &b->items[k]);
            if (code >= 0)
                return code;
        }
    }
    if (b->items[0].place.root && o->with.count) {
        log_error("--with is for sessions of the pool: a mount has its files");
        return EXIT_BAD_USAGE;
    }
    return -1;
}

static int take_items(struct batch *b)
{
    const struct options *o = b->options;
    while (o->scripts[b->count])
        b->count++;
    if (!(b->items = calloc(b->count, sizeof *b->items)))
        return EXIT_RAISED;
    for (size_t n = 0; n < b->count; n++) {
        struct item *i = &b->items[n];
        i->script = o->scripts[n];
        i->report.images = cJSON_CreateArray();
        int code = take_script(o, i);
        if (code >= 0)
            return code;
    }
    return check_items(b);
}

static void batch_free(struct batch *b)
{
    for (size_t n = 0; b->items && n < b->count; n++) {
        struct item *i = &b->items[n];
        output_free(i->output);
        report_free(&i->report);
        place_free(&i->place);
        free(i->name);
        free(i->dir);
        free(i->message);
        free(i->last_line);
    }
    free(b->items);
    progress_free(b->progress);
}

/* --- the end */

static int worst_code(const struct batch *b)
{
    int worst = b->code;
    if (b->canceled)
        return EXIT_INTERRUPTED;
    for (size_t n = 0; n < b->count; n++) {
        const struct item *i = &b->items[n];
        if (i->state == ITEM_OVER && i->code > worst)
            worst = i->code;
    }
    return worst;
}

static int finish(struct batch *b)
{
    progress_free(b->progress);
    b->progress = NULL;
    int err = b->options->quiet ? 0 : progress_table(b);
    if (err == -EPIPE)
        return EXIT_NO_READER;
    if (err) {
        log_error("standard output: %s", strerror(-err));
        return EXIT_NO_TERMINAL;
    }
    return worst_code(b);
}

int many_run(const struct options *o, int signal_fd)
{
    struct batch b = {.options = o, .signal_fd = signal_fd};
    int code = take_items(&b);
    if (code < 0 && !(b.progress = progress_new(&b, o->quiet)))
        code = EXIT_RAISED;
    if (code < 0) {
        if (b.items[0].place.root)
            many_mounted(&b);
        else
            many_direct(&b);
        code = finish(&b);
    }
    batch_free(&b);
    return code;
}
