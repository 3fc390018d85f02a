/* What a language model sends may be anything: a call is understood or refused with a reason, and
 * what is answered is JSON that carries its id. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "acarun/sanitize.h"
#include "acarun/tool.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_answer(enum tool_api api, const struct tool_call *call, const struct buf *bytes)
{
    const struct report r = {.state = "failed", .exit_code = 1, .message = call->id};
    _cleanup_buf_ struct buf text = {0};
    assert(tool_answer(api, call, call->code ? &r : NULL, bytes, bytes, &text) == 0);
    assert(text_is_utf8(text.data, text.len));
    _cleanup_json_ cJSON *message = json_parse(text.data, text.len);
    bool chat = api == TOOL_API_CHAT;
    const char *id = json_string(message, chat ? "tool_call_id" : "call_id"),
               *content = json_string(message, chat ? "content" : "output");
    assert(id && strcmp(id, call->id) == 0 && content);
    _cleanup_json_ cJSON *read = json_parse(content, strlen(content));
    assert(json_string(read, call->code ? "stdout" : "error"));
}

static void check_sanitized(char *code)
{
    _cleanup_free_ char *before = strdup(code);
    sanitize_code(code);
    assert(strstr(before, code));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    enum tool_api api = data[0] & 1 ? TOOL_API_CHAT : TOOL_API_RESPONSES;
    _cleanup_buf_ struct buf bytes = {0};
    struct tool_calls calls = {0};
    const char *why = NULL;
    if (buf_add(&bytes, data + 1, size - 1))
        return 0;
    int err = tool_calls_parse(api, bytes.data, bytes.len, &calls, &why);
    assert((err == 0 && calls.count) || (err == -EINVAL && why));
    assert(err || calls.count == 1 || !calls.one);
    assert(text_is_utf8(calls.others.data ? calls.others.data : "", calls.others.len));
    for (size_t i = 0; i < calls.count && !err; i++) {
        assert(calls.calls[i].id && !calls.calls[i].code == !!calls.calls[i].wrong);
        check_answer(api, &calls.calls[i], &bytes);
    }
    tool_calls_free(&calls);
    check_sanitized(bytes.data);
    return 0;
}
