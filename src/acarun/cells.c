#include "acarun/cells.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "acarun/exit.h"
#include "acarun/notebook.h"
#include "acarun/signals.h"
#include "cell.py.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"

enum { SAVE_EVERY_MS = 60000 };

/* One notebook under way. */
struct run {
    const struct options *given;
    struct options options; /* for its cells */
    const struct place *place;
    int signal_fd;
    struct notebook notebook;
    const char *path;
    char *target;    /* where it is written to, NULL: nowhere */
    struct buf last; /* what stands there, as we know */
    struct direct *direct;
    cJSON *carry; /* what each cell hands on to the next */
    unsigned count;
    size_t code_cells, done, failed;
    int64_t saved_at;
};

/* --- the file */

static int read_file(const char *path, struct buf *out)
{
    enum { BLOCK = 64 << 10 };
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : 1;
    out->len = 0;
    while (n > 0 || (fd >= 0 && n < 0 && errno == EINTR)) {
        if (buf_reserve(out, BLOCK))
            return -ENOMEM;
        n = read(fd, out->data + out->len, BLOCK);
        out->len += n > 0 ? (size_t)n : 0;
    }
    return n < 0 ? -errno : buf_adds(out, "");
}

static char *beside(const char *path, const char *name)
{
    struct buf out = {0};
    const char *slash = strrchr(path, '/');
    int dir = slash ? (int)(slash + 1 - path) : 0;
    return buf_addf(&out, "%.*s%s", dir, path, name) ? NULL : buf_take(&out);
}

static int write_all(int fd, const struct buf *text)
{
    for (size_t done = 0; done < text->len;) {
        ssize_t n = write(fd, text->data + done, text->len - done);
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Mode and owner as the file before had them, or as any new file's. */
static void set_mode(int fd, const char *path)
{
    struct stat st;
    if (stat(path, &st)) {
        mode_t mask = umask(0);
        umask(mask);
        st.st_mode = 0666 & ~mask;
    } else if (fchown(fd, st.st_uid, st.st_gid)) {
        log_debug("%s: its owner changes: %s", path, strerror(errno));
    }
    if (fchmod(fd, st.st_mode & 07777))
        log_debug("%s: its mode changes: %s", path, strerror(errno));
}

/* Whole, or not at all. In a mount close() is enough: fsync() would wait for the server, and fail
 * when that is away, where the mount itself uploads later. */
static int replace_file(const char *path, const struct buf *text, bool in_mount)
{
    _cleanup_free_ char *temp = beside(path, ".acarun-XXXXXX");
    int fd = temp ? mkostemp(temp, O_CLOEXEC) : -1;
    if (fd < 0)
        return temp ? -errno : -ENOMEM;
    set_mode(fd, path);
    int err = write_all(fd, text);
    if (!err && !in_mount && fsync(fd) && errno != EINVAL)
        err = -errno;
    if (close(fd) && !err)
        err = -errno;
    if (!err && rename(temp, path))
        err = -errno;
    if (err)
        unlink(temp);
    return err;
}

/* Somebody else wrote the notebook meanwhile: it stays theirs. */
static char *conflict_name(const char *path)
{
    struct buf out = {0};
    struct tm now;
    time_t t = time(NULL);
    char stamp[32];
    strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%S", localtime_r(&t, &now));
    int stem = (int)(strlen(path) - strlen(".ipynb"));
    return buf_addf(&out, "%.*s.conflict-%s.ipynb", stem, path, stamp) ? NULL : buf_take(&out);
}

static bool is_unchanged(const struct run *r)
{
    _cleanup_buf_ struct buf now = {0};
    int err = read_file(r->target, &now);
    if (err == -ENOENT || r->given->output_dir)
        return true;
    return !err && now.len == r->last.len && memcmp(now.data, r->last.data, now.len) == 0;
}

/* The exit code, 0 when all is well. */
static int save(struct run *r)
{
    _cleanup_buf_ struct buf text = {0};
    if (!r->target)
        return EXIT_OK;
    int err = notebook_write(&r->notebook, &text);
    bool conflict = !err && !is_unchanged(r);
    if (conflict) {
        char *other = conflict_name(r->target);
        log_error("%s was changed meanwhile: the outputs go to %s", r->path, other ? other : "?");
        free(r->target);
        r->target = other;
    }
    if (!err)
        err = r->target ? replace_file(r->target, &text, r->place->root) : -ENOMEM;
    if (err) {
        log_error("%s: %s", r->target ? r->target : r->path, strerror(-err));
        return EXIT_NO_OUTPUT;
    }
    buf_free(&r->last);
    r->last = text;
    text = (struct buf){0};
    r->saved_at = clock_ms();
    return conflict ? EXIT_NO_OUTPUT : EXIT_OK;
}

/* --- one cell */

static int add_base64(struct buf *code, const char *text)
{
    int err = buf_adds(code, "b('");
    err = err ? err : text_base64(code, text, strlen(text));
    return err ? err : buf_adds(code, "')");
}

/* run_cell(source, number, carry) of cell.py. Everything that varies is in base64; no name is left
 * behind. NULL when out of memory. */
static char *cell_code(const struct run *r, const struct notebook_cell *c)
{
    struct buf code = {0};
    _cleanup_free_ char *carry = cJSON_PrintUnformatted(r->carry);
    int err = carry ? buf_adds(&code, "(lambda d, b: (__import__('builtins').exec(compile(") : -1;
    err = err ? err : add_base64(&code, cell_py);
    err = err ? err : buf_adds(&code, ", '<acarun>', 'exec'), d), d['run_cell'](");
    err = err ? err : add_base64(&code, c->source);
    err = err ? err : buf_addf(&code, ", %u, ", r->count);
    err = err ? err : add_base64(&code, carry);
    err = err ? err
              : buf_adds(&code, "))[1])({'__name__': 'acarun_cell'}, "
                                "__import__('binascii').a2b_base64)");
    if (err)
        buf_free(&code);
    return err ? NULL : buf_take(&code);
}

/* Why it did not end by itself; all NULL: it did. */
static struct notebook_failure failure_of(const struct report *report)
{
    const char *message = report->message ? report->message : report->state;
    if (strcmp(report->state, "timed-out") == 0)
        return (struct notebook_failure){"TimeoutError", message};
    if (strcmp(report->state, "canceled") == 0)
        return (struct notebook_failure){"KeyboardInterrupt", message};
    if (strcmp(report->state, "lost") == 0)
        return (struct notebook_failure){"DeadKernelError", message};
    return (struct notebook_failure){"RuntimeError", message};
}

static bool is_ended(struct run *r, const struct report *report, const cJSON *told)
{
    const cJSON *carry = json_object(told, "carry");
    if (!carry)
        return false;
    cJSON_Delete(r->carry);
    r->carry = cJSON_Duplicate(carry, true);
    return strcmp(report->state, "lost") != 0;
}

/* Shows and tells why a cell failed: whether the rest may run. */
static bool bear(const struct run *r, const struct notebook_cell *c, const cJSON *error)
{
    const char *name = json_string(error, "name"), *message = json_string(error, "message"),
               *traceback = json_string(error, "traceback");
    if (c->may_fail)
        return true;
    if (traceback)
        fputs(traceback, stderr);
    log_error("%s: cell %u failed: %s%s%s", r->path, r->count, name ? name : "?",
              message && *message ? ": " : "", message ? message : "");
    return r->given->allow_errors;
}

/* -1 to go on, else the exit code. */
static int take_end(struct run *r, struct notebook_cell *c, const struct task *t)
{
    const struct report *report = t->report;
    const cJSON *told = report->value, *error = json_object(told, "error");
    bool ended = is_ended(r, report, told), well = strcmp(report->state, "succeeded") == 0;
    struct notebook_failure failure = failure_of(report);
    int err = notebook_outputs(told, output_kept(t->output, 1), output_kept(t->output, 2),
                               ended ? NULL : &failure, &c->outputs);
    c->count = r->count;
    if (err) {
        log_error("%s: %s", r->path, strerror(-err));
        return EXIT_RAISED;
    }
    r->failed += (error || !ended || !well) && !c->may_fail;
    if (ended && well)
        return !error || bear(r, c, error) ? -1 : EXIT_RAISED;
    log_error("%s: cell %u: %s", r->path, r->count, failure.message);
    bool late = strcmp(report->state, "timed-out") == 0; /* but the kernel lives */
    if (ended && late && r->given->allow_errors)
        return -1;
    return report->exit_code ? report->exit_code : EXIT_RAISED;
}

static int run_task(struct run *r, struct task *t)
{
    if (r->place->root)
        return mounted_run(t, r->place);
    int code = EXIT_RAISED;
    if (!r->direct)
        r->direct = direct_open(&r->options, r->signal_fd, &code);
    return r->direct ? direct_task(r->direct, t) : code;
}

static int run_cell(struct run *r, struct notebook_cell *c)
{
    const struct output_options streams = {.show = true, .keep = true, .signal_fd = r->signal_fd};
    struct report report = {.images = cJSON_CreateArray()};
    struct task task = {
        .options = &r->options, .code_name = "-c", .signal_fd = r->signal_fd, .report = &report};
    _cleanup_free_ char *code = NULL, *why = NULL;
    r->count++;
    task.code = code = cell_code(r, c);
    int result = code && output_new(&streams, &task.output, &why) == 0 ? -1 : EXIT_RAISED;
    result = result < 0 ? run_task(r, &task) : result;
    if (result < 0) {
        output_finish(task.output, NULL, &why);
        result = take_end(r, c, &task);
    } else if (result == EXIT_INTERRUPTED) {
        struct notebook_failure failure = {"KeyboardInterrupt", "Canceled"};
        notebook_outputs(NULL, output_kept(task.output, 1), output_kept(task.output, 2), &failure,
                         &c->outputs);
    }
    output_free(task.output);
    report_free(&report);
    return result;
}

/* --- the notebook */

static bool is_blank(const char *source)
{
    return source[strspn(source, " \t\r\n\f")] == '\0';
}

static int run_cells(struct run *r)
{
    struct notebook *n = &r->notebook;
    int code = -1;
    for (size_t i = 0; i < n->cell_count && code < 0; i++) {
        struct notebook_cell *c = &n->cells[i];
        if (!c->source || is_blank(c->source))
            continue;
        if (signals_take(r->signal_fd))
            return EXIT_INTERRUPTED;
        log_info("%s: cell %u of %zu", r->path, r->count + 1, r->code_cells);
        code = run_cell(r, c);
        r->done += code < 0;
        if (code < 0 && clock_ms() - r->saved_at > SAVE_EVERY_MS && save(r))
            code = EXIT_NO_OUTPUT;
    }
    return code;
}

static int load(struct run *r)
{
    _cleanup_free_ char *why = NULL;
    int err = read_file(r->path, &r->last);
    if (err) {
        log_error("%s: %s", r->path, strerror(-err));
        return EXIT_NO_SCRIPT;
    }
    err = notebook_parse(r->last.data, r->last.len, &r->notebook, &why);
    if (err) {
        log_error("%s: %s", r->path, why ? why : strerror(-err));
        return EXIT_BAD_DATA;
    }
    for (size_t i = 0; i < r->notebook.cell_count; i++) {
        const char *source = r->notebook.cells[i].source;
        r->code_cells += source && !is_blank(source);
    }
    return -1;
}

static int choose_target(struct run *r)
{
    struct buf path = {0};
    _cleanup_free_ char *copy = strdup(r->path);
    if (r->given->no_outputs)
        return -1;
    if (!r->given->output_dir)
        r->target = realpath(r->path, NULL); /* a symlink stays one */
    else if (copy && buf_addf(&path, "%s/%s", r->given->output_dir, basename(copy)) == 0)
        r->target = buf_take(&path);
    return r->target ? -1 : EXIT_RAISED;
}

/* Where its cells begin: the notebook's own directory. */
static int set_start(struct run *r)
{
    struct buf cwd = {0};
    const char *path = r->place->root ? r->place->path : "", *slash = strrchr(path, '/');
    int dir = slash ? (int)(slash - path) : 0;
    r->carry = cJSON_CreateObject();
    if (!r->carry || buf_addf(&cwd, "/mnt/data%s%.*s", dir ? "/" : "", dir, path))
        return EXIT_RAISED;
    cJSON_AddStringToObject(r->carry, "cwd", cwd.data);
    buf_free(&cwd);
    return -1;
}

static int finish(struct run *r, int code)
{
    int64_t cells = (int64_t)r->done;
    if (r->count && (code < 0 || r->done || r->failed || code == EXIT_INTERRUPTED)) {
        int bad = save(r);
        if (bad)
            return bad;
    }
    if (code >= 0)
        return code;
    log_info("%s: %lld cell%s ran%s", r->path, (long long)cells, cells == 1 ? "" : "s",
             r->target ? ", their outputs are in it" : "");
    return r->failed ? EXIT_RAISED : EXIT_OK;
}

int cells_run(const struct options *o, const struct place *place, int signal_fd)
{
    struct run r = {.given = o, .options = *o, .place = place, .signal_fd = signal_fd};
    r.path = o->script;
    r.options.script = NULL;
    r.options.in_kernel = true;
    r.saved_at = clock_ms();
    int code = load(&r);
    code = code < 0 ? choose_target(&r) : code;
    code = code < 0 ? set_start(&r) : code;
    code = code < 0 ? finish(&r, run_cells(&r)) : code;
    if (r.direct)
        direct_close(r.direct);
    cJSON_Delete(r.carry);
    notebook_free(&r.notebook);
    buf_free(&r.last);
    free(r.target);
    return code;
}
