/* acarun: runs Python in a session of a pool, or of a mount. See acarun(1). */
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "acarun/batch.h"
#include "acarun/cells.h"
#include "acarun/exit.h"
#include "acarun/mcp.h"
#include "acarun/mounted.h"
#include "acarun/sanitize.h"
#include "acarun/signals.h"
#include "acarun/task.h"
#include "acarun/tool.h"
#include "util/cleanup.h"
#include "util/log.h"

enum { INPUT_BLOCK = 64 << 10 };

/* One invocation. */
struct acarun {
    struct options options;
    struct task task;
    struct report report;
    struct place place;    /* in a mount, when root is set */
    struct direct *direct; /* else, for several runs */
    struct buf input;      /* all of standard input */
    char *code, *name, *dir;
};

/* --- what is run */

static int read_input(struct acarun *a)
{
    ssize_t n = 1;
    while (n > 0 || (n < 0 && errno == EINTR)) {
        if (buf_reserve(&a->input, INPUT_BLOCK))
            return -ENOMEM;
        n = read(STDIN_FILENO, a->input.data + a->input.len, INPUT_BLOCK);
        a->input.len += n > 0 ? (size_t)n : 0;
    }
    if (n < 0)
        return -errno;
    return buf_adds(&a->input, "");
}

/* -1 to go on, else the exit code. */
static int take_code(struct acarun *a)
{
    const struct options *o = &a->options;
    int err = o->standard_input ? read_input(a) : 0;
    if (err) {
        log_error("standard input: %s", strerror(-err));
        return EXIT_NO_SCRIPT;
    }
    if (o->standard_input && a->input.len && memchr(a->input.data, '\0', a->input.len)) {
        log_error("standard input: there is a NUL byte in it, so it is no Python");
        return EXIT_BAD_USAGE;
    }
    a->code = strdup(o->code ? o->code : a->input.data);
    if (!a->code)
        return EXIT_RAISED;
    if (o->sanitize)
        sanitize_code(a->code);
    a->task.code = a->code;
    a->task.code_name = o->standard_input ? "-" : "-c";
    return -1;
}

/* Says why there is nothing to run: the exit code. */
static int no_script(const char *path, int err)
{
    log_error("%s: %s", path, mounted_explain(err));
    return err == -ENOTCONN ? EXIT_UNREACHABLE : EXIT_NO_SCRIPT;
}

/* Whether the session is that of a mount; -1 to go on, else the exit code. */
static int take_place(struct acarun *a)
{
    const struct options *o = &a->options;
    if (options_direct(o))
        return -1;
    int err = place_find(o->script ? o->script : ".", &a->place);
    if (err == -ENOTCONN)
        return no_script(o->script ? o->script : "the current directory", err);
    return err == 0 || err == -ENOENT || !o->script ? -1 : no_script(o->script, err);
}

static int take_script(struct acarun *a)
{
    const char *script = a->options.script;
    struct stat st;
    int err = stat(script, &st) ? -errno : S_ISDIR(st.st_mode) ? -EISDIR : 0;
    if (err)
        return no_script(script, err);
    _cleanup_free_ char *for_name = strdup(script), *for_dir = strdup(script);
    a->name = for_name ? strdup(basename(for_name)) : NULL;
    a->dir = for_dir ? strdup(dirname(for_dir)) : NULL;
    return a->name && a->dir ? -1 : EXIT_RAISED;
}

static int open_output(struct acarun *a, bool show, bool keep)
{
    const struct options *o = &a->options;
    bool beside = o->script && !o->no_outputs && !o->output_dir;
    a->task.harness_outputs = beside && a->place.root;
    const struct output_options options = {
        .show = show,
        .keep = keep,
        .dir = o->output_dir              ? o->output_dir
               : beside && !a->place.root ? a->dir
                                          : NULL,
        .name = a->name ? a->name : "code",
        .streams = true,
        .signal_fd = a->task.signal_fd,
    };
    _cleanup_free_ char *why = NULL;
    if (output_new(&options, &a->task.output, &why) == 0)
        return -1;
    log_error("%s", why ? why : "out of memory");
    return EXIT_NO_OUTPUT;
}

/* Runs it: -1 when there is a report. */
static int run(struct acarun *a)
{
    struct task *t = &a->task;
    t->options = &a->options;
    t->report = &a->report;
    a->report.images = cJSON_CreateArray();
    int code = a->place.root ? mounted_run(t, &a->place)
               : a->direct   ? direct_task(a->direct, t)
                             : direct_run(t);
    if (code >= 0)
        return code;
    _cleanup_free_ char *why = NULL;
    _cleanup_buf_ struct buf result = {0};
    if (report_result(&a->report, &result) == 0 && output_finish(t->output, result.data, &why) == 0)
        return -1;
    output_end_line(t->output);
    log_error("%s", why ? why : "out of memory");
    return EXIT_NO_OUTPUT;
}

/* --- what is said of it */

static void say_images(const struct report *r)
{
    const cJSON *image;
    unsigned lost = 0;
    cJSON_ArrayForEach (image, r->images) {
        const cJSON *path = cJSON_GetObjectItemCaseSensitive(image, "path");
        if (path)
            log_info("image: %s", path->valuestring);
        lost += !path;
    }
    if (lost)
        log_info("%u image%s not kept: --output-dir DIR or --json keeps them", lost,
                 lost > 1 ? "s" : "");
}

static void say(const struct acarun *a)
{
    const struct report *r = &a->report;
    bool told = r->exit_code && r->exit_code != EXIT_NO_SCRIPT && r->exit_code < 124 &&
                strcmp(r->state, "failed") == 0; /* by its traceback, or by nothing, as it wanted */
    bool fails = r->message && r->exit_code && !told;
    bool tells =
        !a->options.quiet && ((r->message && !r->exit_code) || cJSON_GetArraySize(r->images));
    if (fails || tells)
        output_end_line(a->task.output);
    if (fails)
        log_error("%s", r->message);
    else if (r->message && !r->exit_code && !a->options.quiet)
        log_info("%s", r->message);
    if (!a->options.quiet)
        say_images(r);
}

/* The value of code, as an interpreter shows it; of scripts it is in a file. */
static int show_value(const struct acarun *a)
{
    const struct report *r = &a->report;
    if (!r->value || !a->task.code || cJSON_GetArraySize(r->images))
        return 0;
    _cleanup_free_ char *text = cJSON_PrintUnformatted(r->value);
    return text && printf("%s\n", text) < 0 ? -errno : 0;
}

static int show_document(const struct acarun *a)
{
    const struct output *o = a->task.output;
    _cleanup_buf_ struct buf text = {0};
    int err = report_json(&a->report, output_kept(o, 1), output_kept(o, 2),
                          *a->task.session ? a->task.session : NULL, &text);
    return !err && fwrite(text.data, 1, text.len, stdout) != text.len ? -errno : err;
}

/* What to exit with, once all is shown. */
static int ended(const struct acarun *a, int err)
{
    if (!err)
        err = output_error(a->task.output);
    if (!err && fflush(stdout))
        err = -errno;
    if (err == -EPIPE)
        return EXIT_NO_READER;
    if (!err)
        return a->report.exit_code;
    log_error("standard output: %s", strerror(-err));
    return EXIT_NO_TERMINAL;
}

/* --- commands */

static int notebook_command(struct acarun *a)
{
    int code = take_place(a);
    return code < 0 ? cells_run(&a->options, &a->place, a->task.signal_fd) : code;
}

static int run_command(struct acarun *a)
{
    const struct options *o = &a->options;
    if (o->jobs)
        return many_run(o, a->task.signal_fd);
    if (options_notebook(o->script))
        return notebook_command(a);
    int code = o->script ? take_script(a) : take_code(a);
    code = code < 0 ? take_place(a) : code;
    code = code < 0 ? open_output(a, !o->json, o->json) : code;
    code = code < 0 ? run(a) : code;
    if (code >= 0)
        return code;
    int err = o->json ? show_document(a) : show_value(a);
    fflush(stdout);
    if (!o->json)
        say(a);
    return ended(a, err);
}

/* Adds the answer of a call that was run, if it was one to be run. */
static int add_answer(struct acarun *a, const struct tool_call *call, struct buf *answers)
{
    static const struct buf none = {0};
    const struct output *o = a->task.output;
    if (o && strcmp(a->report.state, "canceled") == 0)
        return EXIT_INTERRUPTED;
    int err = answers->len > 1 ? buf_adds(answers, ",") : 0;
    err = err ? err
              : tool_answer(a->options.api, call, o ? &a->report : NULL,
                            o ? output_kept(o, 1) : &none, o ? output_kept(o, 2) : &none, answers);
    if (err)
        log_error("%s", strerror(-err));
    return err ? EXIT_RAISED : -1;
}

static int answer_call(struct acarun *a, const struct tool_call *call, struct buf *answers)
{
    int code = -1;
    a->task.code = call->code;
    a->task.code_name = "-c";
    if (call->code && !a->place.root && !a->direct)
        a->direct = direct_open(&a->options, a->task.signal_fd, &code);
    if (call->code && code < 0)
        code = open_output(a, false, true);
    if (call->code && code < 0)
        code = run(a);
    code = code < 0 ? add_answer(a, call, answers) : code;
    output_free(a->task.output);
    a->task.output = NULL;
    report_free(&a->report);
    return code;
}

/* One after another, in one session; the first that can't be run ends it. */
static int answer_calls(struct acarun *a, const struct tool_calls *calls, struct buf *answers)
{
    int code = take_place(a);
    for (size_t i = 0; i < calls->count && code < 0; i++) {
        char name[32];
        snprintf(name, sizeof name, "code-%zu", i + 1);
        free(a->name);
        a->name = calls->one ? NULL : strdup(name);
        code = answer_call(a, &calls->calls[i], answers);
    }
    return code;
}

static int call_command(struct acarun *a)
{
    struct tool_calls calls = {0};
    _cleanup_buf_ struct buf answers = {0};
    const char *why = NULL;
    int err = read_input(a), code = EXIT_BAD_DATA;
    if (!err)
        err = tool_calls_parse(a->options.api, a->input.data, a->input.len, &calls, &why);
    if (!err && calls.others.len)
        log_info("not answered, for others to do: %s", calls.others.data);
    if (err)
        log_error("tool call on standard input: %s", why ? why : strerror(-err));
    else if (buf_adds(&answers, calls.one ? "" : "["))
        code = EXIT_RAISED;
    else
        code = answer_calls(a, &calls, &answers);
    if (answers.len > 1 &&
        (printf("%s%s\n", answers.data, calls.one ? "" : "]") < 0 || fflush(stdout)))
        code = code < 0 ? EXIT_NO_TERMINAL : code;
    tool_calls_free(&calls);
    return code < 0 ? EXIT_OK : code;
}

static int definition_command(struct acarun *a)
{
    _cleanup_buf_ struct buf text = {0};
    if (tool_definition(a->options.api, &text))
        return EXIT_RAISED;
    fputs(text.data, stdout);
    return fflush(stdout) ? EXIT_NO_TERMINAL : EXIT_OK;
}

static int mcp_command(struct acarun *a)
{
    return mcp_run(&a->options, a->task.signal_fd);
}

static void acarun_free(struct acarun *a)
{
    if (a->direct)
        direct_close(a->direct);
    output_free(a->task.output);
    report_free(&a->report);
    place_free(&a->place);
    buf_free(&a->input);
    free(a->code);
    free(a->name);
    free(a->dir);
}

int main(int argc, char **argv)
{
    static int (*const commands[])(struct acarun *) = {
        [COMMAND_RUN] = run_command,
        [COMMAND_TOOL_DEFINITION] = definition_command,
        [COMMAND_TOOL_CALL] = call_command,
        [COMMAND_MCP] = mcp_command,
    };
    struct acarun a = {0};
    log_init("acarun", LOG_LEVEL_INFO);
    int code = options_parse(&a.options, argc, argv);
    if (code >= 0)
        return code;
    if (a.options.quiet)
        log_set_level(LOG_LEVEL_ERROR);
    a.task.signal_fd = signals_open();
    if (a.task.signal_fd < 0) {
        log_error("signals: %s", strerror(-a.task.signal_fd));
        return EXIT_RAISED;
    }
    code = commands[a.options.command](&a);
    acarun_free(&a);
    return code;
}
