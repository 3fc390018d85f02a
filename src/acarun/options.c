#include "acarun/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "acarun/exit.h"
#include "util/log.h"

static const char usage[] =
    "usage: acarun [OPTION…] SCRIPT [ARG…]       run a script or notebook (.ipynb)\n"
    "       acarun [OPTION…] -j N SCRIPT…        run several, N at a time\n"
    "       acarun [OPTION…] -c CODE|- [ARG…]    run code, or standard input's\n"
    "       acarun tool-definition|tool-call --api API, acarun mcp    for models\n"
    "What lies in a mount runs in its session, all else in a new one that is deleted\n"
    "afterwards. SCRIPT.stdout, .stderr, .result and images are left beside SCRIPT.\n"
    "  -s, --session ID       in this session, which stays\n"
    "  -p, --pool URL         of this pool; local: one on this machine\n"
    "  -o NAME=VALUE,…        other settings, as of acafs(8)\n"
    "  -t, --timeout SECONDS  end what takes longer\n"
    "  -k, --in-kernel        run SCRIPT where CODE runs, whose variables stay\n"
    "      --json             print one JSON document     -q, --quiet  only errors\n"
    "      --allow-errors     go on after a notebook's cell that failed\n"
    "  -d, --output-dir DIR   for output files            -n, --no-outputs  have none\n"
    "  -S, --sanitize         strip the Markdown that a model put around CODE\n"
    "  -j, --jobs N           how many at once; --fail-fast, --keep-going (usual)\n"
    "      --spread[=K]       in K new sessions (N), which are deleted afterwards\n"
    "      --with FILE        first send FILE; may be repeated\n"
    "      --fetch GLOB       bring files that a script made to SCRIPT.files\n"
    "      --files DIR        of mcp: what its tools may read and write\n"
    "  -a, --api API          of tool-…: chat (Chat Completions) or responses\n"
    "  -h, --help, -V, --version\n"
    "Exit status: the script's; 1 it raised, 64 usage, 66 no such script, 69 no pool,\n"
    "75 throttled, 77 not allowed, 124 timed out, 130 interrupted. See acarun(1).\n";

/* Long options without a letter. */
enum {
    OPTION_JSON = 256,
    OPTION_SPREAD,
    OPTION_WITH,
    OPTION_FETCH,
    OPTION_FAIL_FAST,
    OPTION_KEEP_GOING,
    OPTION_ALLOW_ERRORS,
    OPTION_FILES,
};

static const struct option longs[] = {
    {"session", required_argument, NULL, 's'},
    {"pool", required_argument, NULL, 'p'},
    {"timeout", required_argument, NULL, 't'},
    {"in-kernel", no_argument, NULL, 'k'},
    {"json", no_argument, NULL, OPTION_JSON},
    {"allow-errors", no_argument, NULL, OPTION_ALLOW_ERRORS},
    {"files", required_argument, NULL, OPTION_FILES},
    {"output-dir", required_argument, NULL, 'd'},
    {"no-outputs", no_argument, NULL, 'n'},
    {"sanitize", no_argument, NULL, 'S'},
    {"quiet", no_argument, NULL, 'q'},
    {"api", required_argument, NULL, 'a'},
    {"jobs", required_argument, NULL, 'j'},
    {"spread", optional_argument, NULL, OPTION_SPREAD},
    {"with", required_argument, NULL, OPTION_WITH},
    {"fetch", required_argument, NULL, OPTION_FETCH},
    {"fail-fast", no_argument, NULL, OPTION_FAIL_FAST},
    {"keep-going", no_argument, NULL, OPTION_KEEP_GOING},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {0},
};

static int usage_error(const char *what, const char *which)
{
    log_error("%s%s (acarun --help lists what there is)", what, which);
    return EXIT_BAD_USAGE;
}

static int take_api(struct options *o, const char *name)
{
    if (strcmp(name, "chat") == 0)
        o->api = TOOL_API_CHAT;
    else if (strcmp(name, "responses") == 0)
        o->api = TOOL_API_RESPONSES;
    else
        return usage_error("--api is chat or responses, not ", name);
    return -1;
}

static int take_timeout(struct options *o, const char *text)
{
    char *end;
    double seconds = strtod(text, &end);
    if (strspn(text, "0123456789.") != strlen(text) || end == text || *end ||
        !(seconds >= 0.001 && seconds < 1e9))
        return usage_error("--timeout is a number of seconds, not ", text);
    o->timeout_ms = (int64_t)(seconds * 1000);
    return -1;
}

static int take_setting(struct options *o, const char *text)
{
    if (o->setting_count == OPTIONS_MAX)
        return usage_error("too many settings: -o ", text);
    o->settings[o->setting_count++] = text;
    return -1;
}

static int take_count(unsigned *count, const char *name, const char *text)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || n < 1 || n > JOBS_MAX)
        return usage_error(name, text);
    *count = (unsigned)n;
    return -1;
}

static int take_item(struct option_list *list, const char *text)
{
    if (list->count == OPTIONS_MAX)
        return usage_error("too many files or patterns: ", text);
    list->values[list->count++] = text;
    return -1;
}

/* What goes with -j. */
static int take_many(struct options *o, int c)
{
    switch (c) {
    case 'j':
        return take_count(&o->jobs, "--jobs is a number from 1 to 64, not ", optarg);
    case OPTION_SPREAD:
        o->spread = true;
        return optarg ? take_count(&o->sessions, "--spread is a number from 1 to 64, not ", optarg)
                      : -1;
    case OPTION_WITH:
        return take_item(&o->with, optarg);
    case OPTION_FETCH:
        return take_item(&o->fetch, optarg);
    case OPTION_FAIL_FAST:
        o->fail_fast = true;
        return -1;
    default:
        o->fail_fast = false;
        return -1;
    }
}

/* word: the last one looked at; a long option that is not known stands there. */
static int refuse(int c, const char *word)
{
    char letter[] = {'-', (char)optopt, '\0'};
    bool is_long = !optopt || strncmp(word, "--", 2) == 0;
    return usage_error(c == ':' ? "no value for " : "unknown option ", is_long ? word : letter);
}

static int take(struct options *o, int c, char **argv)
{
    switch (c) {
    case 'c':
        o->code = optarg;
        return -1;
    case 's':
        o->session = optarg;
        return -1;
    case 'p':
        o->pool = optarg;
        return -1;
    case 'o':
        return take_setting(o, optarg);
    case 't':
        return take_timeout(o, optarg);
    case 'd':
        o->output_dir = optarg;
        return -1;
    case 'k':
        o->in_kernel = true;
        return -1;
    case OPTION_JSON:
        o->json = true;
        return -1;
    case OPTION_ALLOW_ERRORS:
        o->allow_errors = true;
        return -1;
    case OPTION_FILES:
        o->files = optarg;
        return -1;
    case 'n':
        o->no_outputs = true;
        return -1;
    case 'S':
        o->sanitize = true;
        return -1;
    case 'q':
        o->quiet = true;
        return -1;
    case 'a':
        return take_api(o, optarg);
    case 'j':
    case OPTION_SPREAD:
    case OPTION_WITH:
    case OPTION_FETCH:
    case OPTION_FAIL_FAST:
    case OPTION_KEEP_GOING:
        return take_many(o, c);
    case 'h':
        fputs(usage, stdout);
        return EXIT_OK;
    case 'V':
        puts("acarun " ACAFS_VERSION);
        return EXIT_OK;
    default:
        return refuse(c, argv[optind - 1]);
    }
}

static int check_mcp(const struct options *o, int left)
{
    if (left || o->code)
        return usage_error("mcp takes no script", "");
    if (o->api || o->json || o->output_dir || o->no_outputs || o->in_kernel || o->allow_errors ||
        o->jobs || o->spread || o->with.count || o->fetch.count || o->sanitize)
        return usage_error("mcp takes --session, --pool, -o, --timeout, --files and --quiet", "");
    return -1;
}

/* What takes no script: the tools for language models. */
static int check_tool(const struct options *o, int left)
{
    if (left || o->code)
        return usage_error("tool-definition and tool-call take no script", "");
    if (!o->api)
        return usage_error("--api is missing: chat or responses", "");
    if (o->json)
        return usage_error("tool-definition and tool-call print JSON without --json", "");
    return -1;
}

static int check_many(struct options *o, int left, char **operands)
{
    if (!left || o->code)
        return usage_error(o->code ? "-j is for scripts, not for -c" : "no SCRIPT", "");
    if (o->json || o->sanitize)
        return usage_error("-j goes neither with --json nor with --sanitize", "");
    if (o->spread && o->session)
        return usage_error("--spread makes sessions of its own: leave out --session", "");
    if (o->fetch.count && !o->spread)
        return usage_error("--fetch needs --spread: in one session it is not known whose a file is",
                           "");
    if (o->fetch.count && o->sessions && o->sessions < o->jobs)
        return usage_error("--fetch needs a session for each that runs: --spread is less than -j",
                           "");
    if (o->no_outputs && o->output_dir)
        return usage_error("--no-outputs and --output-dir exclude each other", "");
    for (int i = 0; i < left; i++) {
        if (strcmp(operands[i], "-") == 0)
            return usage_error("-j is for scripts, not for standard input", "");
        if (options_notebook(operands[i]))
            return usage_error("-j is for scripts, not for notebooks: ", operands[i]);
    }
    o->scripts = (const char *const *)operands;
    return -1;
}

static int check_notebook(const struct options *o)
{
    if (!options_notebook(o->script))
        return o->allow_errors ? usage_error("--allow-errors is for notebooks", "") : -1;
    if (*o->args)
        return usage_error("a notebook takes no arguments", "");
    return o->json ? usage_error("--json is for scripts and code, not for notebooks", "") : -1;
}

static int check_run(struct options *o, int left, char **operands)
{
    if (o->api)
        return usage_error("--api is for tool-definition and tool-call", "");
    if (o->jobs)
        return check_many(o, left, operands);
    if (o->spread || o->with.count || o->fetch.count)
        return usage_error("--spread, --with and --fetch go with -j", "");
    if (!o->code && !left)
        return usage_error("no SCRIPT", "");
    if (!o->code) {
        o->standard_input = strcmp(operands[0], "-") == 0;
        o->script = o->standard_input ? NULL : operands[0];
        operands++;
    }
    o->args = (const char *const *)operands;
    if (o->sanitize && o->script)
        return usage_error("--sanitize is for -c and -, not for scripts", "");
    if (o->no_outputs && o->output_dir)
        return usage_error("--no-outputs and --output-dir exclude each other", "");
    return check_notebook(o);
}

int options_parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){0};
    if (argc > 1 && strcmp(argv[1], "tool-definition") == 0)
        o->command = COMMAND_TOOL_DEFINITION;
    else if (argc > 1 && strcmp(argv[1], "tool-call") == 0)
        o->command = COMMAND_TOOL_CALL;
    else if (argc > 1 && strcmp(argv[1], "mcp") == 0)
        o->command = COMMAND_MCP;
    if (o->command != COMMAND_RUN) {
        argc--;
        argv++;
    }
    int c, code;
    opterr = 0;
    /* What follows the script, or the code of -c, is theirs. */
    while (!o->code &&
           (c = getopt_long(argc, argv, "+:c:s:p:o:t:d:knSqa:j:hV", longs, NULL)) != -1) {
        if ((code = take(o, c, argv)) >= 0)
            return code;
    }
    int left = argc - optind;
    if (o->files && o->command != COMMAND_MCP)
        return usage_error("--files is for mcp", "");
    if (o->command == COMMAND_MCP)
        return check_mcp(o, left);
    return o->command == COMMAND_RUN ? check_run(o, left, argv + optind) : check_tool(o, left);
}

bool options_notebook(const char *path)
{
    static const char suffix[] = ".ipynb";
    size_t len = path ? strlen(path) : 0;
    return len >= sizeof suffix && strcmp(path + len - (sizeof suffix - 1), suffix) == 0;
}

bool options_direct(const struct options *o)
{
    return o->pool || o->session || o->setting_count || o->spread;
}
