/* acarun/rpc.c: any line is taken apart, and an answer to it is one line of JSON. */
#include <stdlib.h>
#include <string.h>

#include "acarun/mcp_content.h"
#include "acarun/rpc.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/span.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_line(const struct buf *text)
{
    struct span value;
    if (text->len && (memchr(text->data, '\n', text->len) ||
                      !span_check(text->data, text->len, SPAN_DEPTH + 2, &value, NULL)))
        abort();
}

static void answer(const struct rpc_message *m)
{
    _cleanup_buf_ struct buf result = {0}, error = {0};
    _cleanup_free_ char *path = NULL;
    if (m->kind == RPC_REQUEST && !(m->id && m->method))
        abort();
    if (m->kind == RPC_NOTIFICATION && !m->method)
        abort();
    if (m->kind == RPC_BAD && (!m->code || !m->why))
        abort();
    if (m->params && rpc_result(&result, m->id, m->params) == 0)
        check_line(&result);
    if (rpc_error(&error, m->id, m->code, m->method ? m->method : "") == 0)
        check_line(&error);
    for (unsigned tool = 0; tool < TOOL_NONE; tool++)
        content_check((enum tool)tool, m->params);
    const char *given = json_string(m->params, "path");
    path = given ? content_path(given) : NULL;
    if (path && (*path == '/' || strcmp(path, "..") == 0 || strncmp(path, "../", 3) == 0 ||
                 strstr(path, "/../")))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rpc_line l;
    if (rpc_parse(size ? (const char *)data : "", size, &l) == 0) {
        if (!l.count)
            abort();
        for (size_t i = 0; i < l.count; i++)
            answer(&l.messages[i]);
        rpc_line_free(&l);
    }
    return 0;
}
