/* Lines of the control file: each is understood whole, or refused with a reason. */
#include <stdlib.h>
#include <string.h>

#include "acafs/command_line.h"
#include "acafs/job_request.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good)
        abort();
}

/* A request that was taken is one for the harness: text, a path that stays below the top. */
static void check_request(const cJSON *request)
{
    struct run run = {0};
    check(cJSON_IsObject(request));
    const char *why = job_request_take(request, &run);
    if (!why) {
        check(!run.path != !run.code && run.args && run.spec.timeout_ms >= 0);
        check(!run.path || (*run.path && *run.path != '/' && !strstr(run.path, "//")));
        check(!run.path || (strncmp(run.path, "../", 3) != 0 && !strstr(run.path, "/../")));
        check(!run.path || text_is_utf8(run.path, strlen(run.path)));
        for (char **arg = run.args; *arg; arg++)
            check(text_is_utf8(*arg, strlen(*arg)));
    }
    for (char **arg = run.args; arg && *arg; arg++)
        free(*arg);
    free(run.args);
    free(run.path);
    free(run.code);
    free(run.code_name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ char *line = strndup((const char *)data, size);
    struct command_line parsed = {0};
    const char *why = line ? command_line_parse(line, &parsed) : "";
    if (!why) {
        bool runs = parsed.word == WORD_RUN || parsed.word == WORD_SUBMIT;
        check(parsed.word < WORDS && !parsed.request == !runs);
        check(!parsed.path || parsed.word == WORD_REFRESH);
        check(text_is_utf8(line, strlen(line)));
    }
    if (parsed.request)
        check_request(parsed.request);
    command_line_free(&parsed);
    return 0;
}
