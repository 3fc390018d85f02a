/* What acarun makes of its command line, of code and tool calls, and what it says of a run. */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>

#include <getopt.h>
#include <stdio.h>

#include "acarun/exit.h"
#include "acarun/options.h"
#include "acarun/report.h"
#include "acarun/sanitize.h"
#include "acarun/tool.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"

static void sanitize_follows_the_rule(void **state)
{
    static const struct {
        const char *code, *want;
    } cases[] = {
        {"print(1)", "print(1)"},
        {"", ""},
        {" \t\n", ""},
        {"```", ""},
        {"``` `\n`", ""},
        {"```python\nprint(1)\n```", "print(1)"},
        {"```\nprint(1)\n```\n", "print(1)"},
        {"```PyThOn  x = 1```", "x = 1"},
        {"python\n1 + 1", "1 + 1"},
        {"`1 + 1`", "1 + 1"},
        {"python", ""},
        {"python```", ""},
        {"python`x", "`x"}, /* after the word only white space goes */
        {"```python3\nx", "python3\nx"},
        {"python_code = 1", "python_code = 1"},
        {"pythonic()", "pythonic()"},
        {"python(1)", "python(1)"},
        {"python python x", "python x"}, /* one word */
        {"pytho", "pytho"},
        {"if a:\n    b\n", "if a:\n    b"},
        {"    a\n    b", "a\n    b"},
        {"print('`')", "print('`')"},
        {"\u00a0\u2003```python\u3000x\u2028", "x"},
        {"\x1cx\x1f\x0b\x0c", "x"},
        {"x\u00e9", "x\u00e9"},
        {"x\xc2", "x\xc2"}, /* half a character is none */
        {"\xe2\x80", "\xe2\x80"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *code = strdup(cases[i].code);
        sanitize_code(code);
        assert_string_equal(code, cases[i].want);
        free(code);
    }
}

/* --- the command line */

static int parse(struct options *o, const char *line, char *words)
{
    static char *argv[32];
    int argc = 0;
    strcpy(words, line);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    argv[argc] = NULL;
    optind = 0; /* as in a new process */
    return options_parse(o, argc, argv);
}

static void a_script_and_its_arguments(void **state)
{
    struct options o;
    char words[256];
    assert_int_equal(parse(&o, "acarun -s abcd -t 2.5 x.py -t --json -c", words), -1);
    assert_int_equal(o.command, COMMAND_RUN);
    assert_string_equal(o.script, "x.py");
    assert_string_equal(o.session, "abcd");
    assert_int_equal(o.timeout_ms, 2500);
    assert_false(o.json); /* what follows the script is the script's */
    assert_null(o.code);
    assert_string_equal(o.args[0], "-t");
    assert_string_equal(o.args[2], "-c");
    assert_null(o.args[3]);
    assert_true(options_direct(&o));
}

static void code_and_its_arguments(void **state)
{
    struct options o;
    char words[256];
    assert_int_equal(parse(&o, "acarun --json -c 1+1 -k -c", words), -1);
    assert_string_equal(o.code, "1+1");
    assert_null(o.script);
    assert_true(o.json);
    assert_false(o.in_kernel);
    assert_string_equal(o.args[0], "-k");
    assert_string_equal(o.args[1], "-c");
    assert_null(o.args[2]);
    assert_false(options_direct(&o));
}

static void standard_input_as_code(void **state)
{
    struct options o;
    char words[256];
    assert_int_equal(parse(&o, "acarun -kS - a", words), -1);
    assert_true(o.standard_input && o.in_kernel && o.sanitize);
    assert_null(o.script);
    assert_string_equal(o.args[0], "a");
    /* Behind "--" a word is no option, but "-" is what it is. */
    assert_int_equal(parse(&o, "acarun -- -x.py", words), -1);
    assert_string_equal(o.script, "-x.py");
    assert_false(o.standard_input);
}

static void what_makes_a_run_direct(void **state)
{
    static const char *const lines[] = {"acarun -p local x", "acarun -s abcd x", "acarun -o ro x"};
    struct options o;
    char words[256];
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        assert_int_equal(parse(&o, lines[i], words), -1);
        assert_true(options_direct(&o));
    }
    assert_int_equal(parse(&o, "acarun -q -n -d x y", words), EXIT_BAD_USAGE);
}

static void the_tools_options(void **state)
{
    struct options o;
    char words[256];
    assert_int_equal(parse(&o, "acarun tool-definition --api chat", words), -1);
    assert_int_equal(o.command, COMMAND_TOOL_DEFINITION);
    assert_int_equal(o.api, TOOL_API_CHAT);
    assert_int_equal(parse(&o, "acarun tool-call -a responses -s abcd", words), -1);
    assert_int_equal(o.command, COMMAND_TOOL_CALL);
    assert_int_equal(o.api, TOOL_API_RESPONSES);
    assert_string_equal(o.session, "abcd");
    /* A script may be called so. */
    assert_int_equal(parse(&o, "acarun ./tool-call", words), -1);
    assert_int_equal(o.command, COMMAND_RUN);
}

static void many_scripts(void **state)
{
    struct options o;
    char words[256];
    assert_int_equal(parse(&o, "acarun -j 4 a.py b.py", words), -1);
    assert_int_equal(o.jobs, 4);
    assert_string_equal(o.scripts[1], "b.py");
    assert_null(o.scripts[2]);
    assert_null(o.script);
    assert_false(o.spread || o.fail_fast || options_direct(&o));
    assert_int_equal(
        parse(&o, "acarun --jobs 4 --spread=4 --with a --with b --fetch * --fail-fast -n x", words),
        -1);
    assert_true(o.spread && o.fail_fast && o.no_outputs && options_direct(&o));
    assert_int_equal(o.sessions, 4);
    assert_int_equal(o.with.count, 2);
    assert_string_equal(o.with.values[1], "b");
    assert_string_equal(o.fetch.values[0], "*");
    assert_int_equal(parse(&o, "acarun -j 1 --fail-fast --keep-going --spread x", words), -1);
    assert_int_equal(o.sessions, 0);
    assert_false(o.fail_fast);
}

static void bad_command_lines(void **state)
{
    static const char *const lines[] = {
        "acarun",
        "acarun -c",
        "acarun --nonsense x",
        "acarun -Z x",
        "acarun -t x x",
        "acarun -t 0 x",
        "acarun -t 1e9 x",
        "acarun -t 1.2.3 x",
        "acarun -t . x",
        "acarun -t 9999999999 x",
        "acarun --api chat x",
        "acarun --sanitize x",
        "acarun -n -d . x",
        "acarun -j 0 x",
        "acarun -j 65 x",
        "acarun -j +1 x",
        "acarun -j 1x x",
        "acarun -j 2",
        "acarun -j 2 -c 1",
        "acarun -j 2 -",
        "acarun -j 2 --json x",
        "acarun -j 2 --sanitize x",
        "acarun -j 2 --api chat x",
        "acarun -j 2 --spread= x",
        "acarun -j 2 --spread -s abcd x",
        "acarun -j 2 --fetch * x",
        "acarun -j 2 --spread=1 --fetch * x",
        "acarun -j 2 -n -d . x",
        "acarun --spread x",
        "acarun --with x y",
        "acarun --fetch x y",
        "acarun tool-call",
        "acarun tool-call --api chat x",
        "acarun tool-call --api gopher",
        "acarun tool-definition --api chat -c 1",
    };
    struct options o;
    char words[256];
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_int_equal(parse(&o, lines[i], words), EXIT_BAD_USAGE);
}

static void more_settings_than_there_is_room_for(void **state)
{
    struct options o;
    char program[] = "acarun", letter[] = "-o", setting[] = "ro", script[] = "x.py";
    char *argv[2 * OPTIONS_MAX + 8] = {program};
    int argc = 1;
    for (int i = 0; i <= OPTIONS_MAX; i++) {
        argv[argc++] = letter;
        argv[argc++] = setting;
    }
    argv[argc++] = script;
    optind = 0;
    assert_int_equal(options_parse(&o, argc, argv), EXIT_BAD_USAGE);
}

static void exit_codes_of_errors(void **state)
{
    static const struct {
        int err, code;
    } cases[] = {
        {0, EXIT_OK},
        {-EACCES, EXIT_DENIED},
        {-EAGAIN, EXIT_THROTTLED},
        {-EBUSY, EXIT_THROTTLED},
        {-EHOSTUNREACH, EXIT_UNREACHABLE},
        {-ETIMEDOUT, EXIT_UNREACHABLE},
        {-EIO, EXIT_UNREACHABLE},
        {-EPROTO, EXIT_UNREACHABLE},
        {-ENOENT, EXIT_UNREACHABLE},
        {-ENOTCONN, EXIT_UNREACHABLE},
        {-EINTR, EXIT_INTERRUPTED},
        {-ENOMEM, EXIT_RAISED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(exit_of_error(cases[i].err), cases[i].code);
}

/* --- what is said of a run */

static struct buf bytes_of(const void *data, size_t len)
{
    struct buf b = {0};
    assert_int_equal(buf_add(&b, data, len), 0);
    return b;
}

static void strings_of_any_bytes(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *want;
        bool exact;
    } cases[] = {
        {"", 0, "\"\"", true},
        {"a", 1, "\"a\"", true},
        {"\"\\/", 3, "\"\\\"\\\\/\"", true},
        {"\n\t\r", 3, "\"\\n\\t\\r\"", true},
        {"\0\x1b\x7f", 3, "\"\\u0000\\u001b\\u007f\"", true},
        {"\u00fc\u20ac\U0001f600", 9, "\"\u00fc\u20ac\U0001f600\"", true},
        {"a\xff"
         "b",
         3,
         "\"a\ufffd"
         "b\"",
         false},
        {"\xe2\x82", 2, "\"\ufffd\ufffd\"", false},
        {"\xed\xa0\x80", 3, "\"\ufffd\ufffd\ufffd\"", false}, /* half of a pair */
        {"\xc0\x80", 2, "\"\ufffd\ufffd\"", false},           /* a long way to say NUL */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        _cleanup_buf_ struct buf json = {0};
        bool exact;
        assert_int_equal(report_json_string(&json, cases[i].bytes, cases[i].len, &exact), 0);
        assert_string_equal(json.data, cases[i].want);
        assert_int_equal(exact, cases[i].exact);
    }
}

static void every_byte_makes_a_string_that_parses(void **state)
{
    char all[512];
    for (int i = 0; i < 512; i++)
        all[i] = (char)(i * 7);
    for (size_t from = 0; from < 256; from++) {
        _cleanup_buf_ struct buf json = {0};
        assert_int_equal(report_json_string(&json, all + from, 256, NULL), 0);
        _cleanup_json_ cJSON *value = json_parse(json.data, json.len);
        assert_true(cJSON_IsString(value));
        assert_true(text_is_utf8(json.data, json.len));
    }
}

static void the_document_of_a_run(void **state)
{
    struct report r = {.exit_code = 3, .milliseconds = 12};
    strcpy(r.state, "failed");
    r.message = strdup("why \"this\"");
    r.value = cJSON_Parse("{\"a\": [1, null]}");
    r.images = cJSON_Parse("[{\"name\": \"x.png\"}]");
    _cleanup_buf_ struct buf out = bytes_of("text\n", 5), err = bytes_of("\xff\0", 2), json = {0};
    assert_int_equal(report_json(&r, &out, &err, "session-1", &json), 0);
    assert_int_equal(json.data[json.len - 1], '\n');
    _cleanup_json_ cJSON *got = json_parse(json.data, json.len);
    _cleanup_json_ cJSON *want = cJSON_Parse(
        "{\"status\": \"failed\", \"exit_code\": 3, \"stdout\": \"text\\n\", \"stderr\": "
        "\"\\ufffd\\ufffd\", \"stderr_base64\": \"/wA=\", \"result\": {\"a\": [1, null]}, "
        "\"images\": [{\"name\": \"x.png\"}], \"milliseconds\": 12, \"message\": \"why "
        "\\\"this\\\"\", \"session\": \"session-1\"}");
    assert_true(cJSON_Compare(got, want, true));
    report_free(&r);
    assert_null(r.message);
}

static void the_document_of_an_empty_run(void **state)
{
    static const struct buf none = {0};
    const struct report r = {.state = "succeeded"};
    _cleanup_buf_ struct buf json = {0};
    assert_int_equal(report_json(&r, &none, &none, NULL, &json), 0);
    _cleanup_json_ cJSON *got = json_parse(json.data, json.len);
    _cleanup_json_ cJSON *want = cJSON_Parse(
        "{\"status\": \"succeeded\", \"exit_code\": 0, \"stdout\": \"\", \"stderr\": \"\", "
        "\"result\": null, \"images\": [], \"milliseconds\": 0, \"message\": null, "
        "\"session\": null}");
    assert_true(cJSON_Compare(got, want, true));
}

/* --- tools */

static int parse_calls(enum tool_api api, const char *text, struct tool_calls *calls,
                       const char **why)
{
    *calls = (struct tool_calls){0};
    return tool_calls_parse(api, text, strlen(text), calls, why);
}

static void tool_calls_in_both_shapes(void **state)
{
    struct tool_calls calls;
    const char *why;
    assert_int_equal(parse_calls(TOOL_API_CHAT,
                                 "{\"id\": \"call_1\", \"type\": \"function\", \"function\": {"
                                 "\"name\": \"code_interpreter\", \"arguments\": "
                                 "\"{\\\"python_code\\\": \\\"```python\\\\n1```\\\"}\"}}",
                                 &calls, &why),
                     0);
    assert_true(calls.count == 1 && calls.one && !calls.others.len);
    assert_string_equal(calls.calls->id, "call_1");
    assert_string_equal(calls.calls->code, "1"); /* as models write it: sanitized */
    assert_null(calls.calls->wrong);
    tool_calls_free(&calls);
    assert_int_equal(parse_calls(TOOL_API_RESPONSES,
                                 "\xef\xbb\xbf {\"type\": \"function_call\", \"id\": \"fc\", "
                                 "\"call_id\": \"call_2\", \"name\": \"code_interpreter\", "
                                 "\"arguments\": \"{\\\"python_code\\\": \\\"\\\"}\"}\n",
                                 &calls, &why),
                     0);
    assert_string_equal(calls.calls->id, "call_2");
    assert_string_equal(calls.calls->code, "");
    tool_calls_free(&calls);
}

#define CHAT_CALL(id, name)                                                                        \
    "{\"id\":\"" id "\",\"type\":\"function\",\"function\":{\"name\":\"" name                      \
    "\",\"arguments\":\"{}\"}}"
#define RESPONSES_CALL(id, name)                                                                   \
    "{\"type\":\"function_call\",\"call_id\":\"" id "\",\"name\":\"" name "\",\"arguments\":\"{}"  \
    "\"}"
#define CHAT_CALLS                                                                                 \
    "[" CHAT_CALL("a", "code_interpreter") "," CHAT_CALL(                                          \
        "x", "look\\nup") ","                                                                      \
                          "{\"id\":\"y\",\"type\":\"custom\",\"custom\":{\"name\":\"other\","      \
                          "\"input\":\"\"}}," CHAT_CALL("b", "code_interpreter") "]"
#define RESPONSES_ITEMS                                                                            \
    "[{\"type\":\"reasoning\",\"summary\":[]}," RESPONSES_CALL(                                    \
        "a",                                                                                       \
        "code_interpreter") "," RESPONSES_CALL("x",                                                \
                                               "look\\nup") ",{\"type\":\"custom_tool_"            \
                                                            "call\",\"name\":\"other\"}"           \
                                                            "," RESPONSES_CALL(                    \
                                                                "b",                               \
                                                                "code_"                            \
                                                                "interpr"                          \
                                                                "eter") ",{\"type\":\"message\","  \
                                                                        "\"content\":[]}]"

static void tool_calls_in_what_holds_them(void **state)
{
    static const struct {
        enum tool_api api;
        const char *text;
    } cases[] = {
        {TOOL_API_CHAT, CHAT_CALLS},
        {TOOL_API_CHAT, "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":" CHAT_CALLS "}"},
        {TOOL_API_CHAT, "{\"choices\":[{\"message\":{\"tool_calls\":" CHAT_CALLS "}},{}]}"},
        {TOOL_API_CHAT, "{\"index\":0,\"message\":{\"tool_calls\":" CHAT_CALLS "}}"},
        {TOOL_API_RESPONSES, RESPONSES_ITEMS},
        {TOOL_API_RESPONSES, "{\"object\":\"response\",\"output\":" RESPONSES_ITEMS "}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tool_calls calls;
        const char *why;
        assert_int_equal(parse_calls(cases[i].api, cases[i].text, &calls, &why), 0);
        assert_true(calls.count == 2 && !calls.one);
        assert_string_equal(calls.calls[0].id, "a");
        assert_string_equal(calls.calls[1].id, "b");
        assert_string_equal(calls.others.data, "look up, other");
        tool_calls_free(&calls);
    }
}

static void what_the_model_got_wrong(void **state)
{
    static const char *const arguments[] = {"\"no json\"",
                                            "\"[]\"",
                                            "\"{}\"",
                                            "\"\"",
                                            "5",
                                            "null",
                                            "{\"python_code\": \"1\"}",
                                            "\"{\\\"python_code\\\": [\\\"1\\\"]}\"",
                                            "\"{\\\"python_code\\\": \\\"\\\\u0000\\\"}\""};
    for (size_t i = 0; i < sizeof arguments / sizeof *arguments; i++) {
        char text[300];
        const char *why;
        struct tool_calls calls;
        snprintf(text, sizeof text,
                 "{\"id\": \"x\", \"type\": \"function\", \"function\": {\"name\": "
                 "\"code_interpreter\", \"arguments\": %s}}",
                 arguments[i]);
        assert_int_equal(parse_calls(TOOL_API_CHAT, text, &calls, &why), 0);
        assert_null(calls.calls->code);
        assert_non_null(calls.calls->wrong);
        _cleanup_buf_ struct buf answer = {0};
        assert_int_equal(tool_answer(TOOL_API_CHAT, calls.calls, NULL, NULL, NULL, &answer), 0);
        _cleanup_json_ cJSON *message = json_parse(answer.data, answer.len);
        const char *content = json_string(message, "content");
        _cleanup_json_ cJSON *said = json_parse(content, strlen(content));
        assert_string_equal(json_string(said, "error"), calls.calls->wrong);
        tool_calls_free(&calls);
    }
}

static void what_is_no_tool_call(void **state)
{
    static const struct {
        enum tool_api api;
        const char *text;
    } cases[] = {
        {TOOL_API_CHAT, ""},
        {TOOL_API_CHAT, "[]"},
        {TOOL_API_CHAT, "\"x\""},
        {TOOL_API_CHAT, "{}"},
        {TOOL_API_CHAT, "{\"id\": \"x\", \"type\": \"function\"}"},
        {TOOL_API_CHAT, "{\"id\": \"x\", \"type\": \"function\", \"function\": {\"name\": \"y\"}}"},
        {TOOL_API_CHAT, "{\"id\": 1, \"type\": \"function\", \"function\": {\"name\": "
                        "\"code_interpreter\", \"arguments\": \"{}\"}}"},
        {TOOL_API_RESPONSES, "{\"id\": \"x\", \"type\": \"function\", \"function\": {\"name\": "
                             "\"code_interpreter\", \"arguments\": \"{}\"}}"},
        {TOOL_API_RESPONSES, "{\"type\": \"function_call\", \"name\": \"code_interpreter\"}"},
        {TOOL_API_CHAT, "{\"role\":\"assistant\",\"content\":\"no\",\"tool_calls\":null}"},
        {TOOL_API_CHAT, "{\"choices\":[]}"},
        {TOOL_API_CHAT, "{\"tool_calls\":[" CHAT_CALL("a", "other") "]}"},
        {TOOL_API_CHAT, "{\"tool_calls\":" RESPONSES_ITEMS "}"},
        {TOOL_API_CHAT, "[" CHAT_CALL("a", "code_interpreter") ",{\"type\":\"function\"}]"},
        {TOOL_API_RESPONSES, "{\"output\":[{\"type\":\"message\"}]}"},
        {TOOL_API_RESPONSES, "{\"output\":" CHAT_CALLS "}"},
        {TOOL_API_CHAT, "{\"id\": \"\xff\", \"type\": \"function\", \"function\": {\"name\": "
                        "\"code_interpreter\", \"arguments\": \"{}\"}}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tool_calls calls;
        const char *why;
        assert_int_equal(parse_calls(cases[i].api, cases[i].text, &calls, &why), -EINVAL);
        assert_non_null(why);
        tool_calls_free(&calls);
    }
}

/* The answer's message, and what the model reads in it. */
static cJSON *answer_of(enum tool_api api, const struct report *r, const struct buf *out,
                        const struct buf *err, cJSON **read)
{
    char id[] = "call_1", code[] = "x";
    const struct tool_call call = {.id = id, .code = code};
    _cleanup_buf_ struct buf text = {0};
    assert_int_equal(tool_answer(api, &call, r, out, err, &text), 0);
    cJSON *message = json_parse(text.data, text.len);
    const char *content = json_string(message, api == TOOL_API_CHAT ? "content" : "output");
    *read = json_parse(content, strlen(content));
    return message;
}

static void answers_in_both_shapes(void **state)
{
    struct report r = {.state = "succeeded", .value = cJSON_CreateNumber(5)};
    _cleanup_buf_ struct buf out = bytes_of("a\n", 2), err = bytes_of("\xff", 1);
    _cleanup_json_ cJSON *read = NULL, *again = NULL;
    _cleanup_json_ cJSON *chat = answer_of(TOOL_API_CHAT, &r, &out, &err, &read);
    _cleanup_json_ cJSON *responses = answer_of(TOOL_API_RESPONSES, &r, &out, &err, &again);
    _cleanup_json_ cJSON *want =
        cJSON_Parse("{\"result\": 5, \"stdout\": \"a\\n\", \"stderr\": \"\\ufffd\"}");
    assert_true(cJSON_Compare(read, want, true) && cJSON_Compare(again, want, true));
    assert_string_equal(json_string(chat, "role"), "tool");
    assert_string_equal(json_string(chat, "tool_call_id"), "call_1");
    assert_string_equal(json_string(chat, "name"), "code_interpreter");
    assert_string_equal(json_string(responses, "type"), "function_call_output");
    assert_string_equal(json_string(responses, "call_id"), "call_1");
    report_free(&r);
}

static void an_end_without_a_traceback_is_told(void **state)
{
    static const struct buf none = {0};
    struct report r = {.state = "timed-out", .exit_code = 124, .message = strdup("timed out")};
    _cleanup_json_ cJSON *read = NULL;
    _cleanup_json_ cJSON *message = answer_of(TOOL_API_CHAT, &r, &none, &none, &read);
    assert_non_null(message);
    assert_string_equal(json_string(read, "stderr"), "timed out");
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(read, "result")));
    report_free(&r);
    static const struct {
        struct report report;
        const char *err, *said;
    } cases[] = {
        {{.state = "failed", .exit_code = 3}, "", "exit 3"},
        {{.state = "failed", .exit_code = 3}, "warned", "warned\nexit 3"},
        {{.state = "failed", .exit_code = 1, .message = (char *)"E: x"},
         "Trace\nE: x\n",
         "Trace\nE: x\n"},
        {{.state = "lost", .exit_code = 1, .message = (char *)"died"}, "warned\n", "warned\ndied"},
        {{.state = "succeeded", .message = (char *)"left out"}, "", "left out"},
        {{.state = "succeeded"}, "warned\n", "warned\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        _cleanup_buf_ struct buf err = bytes_of(cases[i].err, strlen(cases[i].err));
        _cleanup_json_ cJSON *said = NULL;
        _cleanup_json_ cJSON *whole =
            answer_of(TOOL_API_CHAT, &cases[i].report, &none, &err, &said);
        assert_non_null(whole);
        assert_string_equal(json_string(said, "stderr"), cases[i].said);
    }
}

/* What stands in a line of MCP is on one line, whatever a session gives for JSON. */
static void a_value_is_told_as_it_is_or_made_anew(void **state)
{
    static const struct buf none = {0};
    static const struct {
        const char *text, *told;
    } cases[] = {
        {"12345678901234567890123", "12345678901234567890123"},
        {" [1, 0.10] \n", "[1, 0.10]"},
        {"[1,\n2]", "[1,2]"},
        {"\"a\\n\"", "\"a\\n\""},
        {"NaN", "null"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        _cleanup_free_ char *text = strdup(cases[i].text);
        _cleanup_buf_ struct buf said = {0}, want = {0};
        struct report r = {.state = "succeeded", .text = text};
        _cleanup_json_ cJSON *value = json_parse(text, strlen(text));
        r.value = value;
        assert_int_equal(tool_content(&r, &none, &none, &said), 0);
        assert_int_equal(
            buf_addf(&want, "{\"result\": %s, \"stdout\": \"\", \"stderr\": \"\"}", cases[i].told),
            0);
        assert_string_equal(said.data, want.data);
    }
}

static void definitions_in_both_shapes(void **state)
{
    _cleanup_buf_ struct buf one = {0}, two = {0};
    assert_int_equal(tool_definition(TOOL_API_CHAT, &one), 0);
    assert_int_equal(tool_definition(TOOL_API_RESPONSES, &two), 0);
    _cleanup_json_ cJSON *chat = json_parse(one.data, one.len);
    _cleanup_json_ cJSON *responses = json_parse(two.data, two.len);
    cJSON *function = cJSON_DetachItemFromObject(chat, "function");
    cJSON_AddStringToObject(function, "type", "function");
    assert_true(cJSON_Compare(function, responses, true)); /* the same but for the inner object */
    assert_string_equal(json_string(responses, "name"), "code_interpreter");
    cJSON_Delete(function);
}

static void leaves(const struct report *r, const char *text)
{
    _cleanup_buf_ struct buf json = {0};
    assert_int_equal(report_result(r, &json), 0);
    assert_string_equal(json.data, text);
}

static void results_are_written_as_python_does(void **state)
{
    struct report r = {.state = "succeeded"};
    leaves(&r, "null");
    r.value = cJSON_Parse("{\"a,:\\\"b\\\\\":[1,{\"c\":null}],\"d\":\"\\\\\",\"e\":{}}");
    leaves(&r, "{\"a,:\\\"b\\\\\": [1, {\"c\": null}], \"d\": \"\\\\\", \"e\": {}}");
    r.text = strdup("100000000000000000000000000001");
    leaves(&r, "100000000000000000000000000001");
    strcpy(r.state, "lost");
    leaves(&r, "{\"status\": \"lost\", \"message\": \"\"}");
    r.message = strdup("it \"broke\"\xff");
    leaves(&r, "{\"status\": \"lost\", \"message\": \"it \\\"broke\\\"\xef\xbf\xbd\"}");
    report_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sanitize_follows_the_rule),
        cmocka_unit_test(a_script_and_its_arguments),
        cmocka_unit_test(code_and_its_arguments),
        cmocka_unit_test(standard_input_as_code),
        cmocka_unit_test(what_makes_a_run_direct),
        cmocka_unit_test(the_tools_options),
        cmocka_unit_test(many_scripts),
        cmocka_unit_test(bad_command_lines),
        cmocka_unit_test(more_settings_than_there_is_room_for),
        cmocka_unit_test(exit_codes_of_errors),
        cmocka_unit_test(strings_of_any_bytes),
        cmocka_unit_test(every_byte_makes_a_string_that_parses),
        cmocka_unit_test(the_document_of_a_run),
        cmocka_unit_test(the_document_of_an_empty_run),
        cmocka_unit_test(tool_calls_in_both_shapes),
        cmocka_unit_test(tool_calls_in_what_holds_them),
        cmocka_unit_test(a_value_is_told_as_it_is_or_made_anew),
        cmocka_unit_test(what_the_model_got_wrong),
        cmocka_unit_test(what_is_no_tool_call),
        cmocka_unit_test(answers_in_both_shapes),
        cmocka_unit_test(an_end_without_a_traceback_is_told),
        cmocka_unit_test(definitions_in_both_shapes),
        cmocka_unit_test(results_are_written_as_python_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
