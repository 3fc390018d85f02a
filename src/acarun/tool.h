/* Tools for language models, in the shapes of Azure OpenAI's two APIs. */
#ifndef ACAFS_ACARUN_TOOL_H
#define ACAFS_ACARUN_TOOL_H

#include "acarun/options.h"
#include "acarun/report.h"

/* The definition of the tool "code_interpreter", as JSON with '\n'. 0 or -ENOMEM. */
int tool_definition(enum tool_api, struct buf *out);

/* A call of it, as the model made it. */
struct tool_call {
    char *id, *code;   /* code is NULL when the model's arguments are none: */
    const char *wrong; /* this is to be told to it (a literal) */
};

/* What an API of a model gave. Zero-initialise; free with tool_calls_free. */
struct tool_calls {
    struct tool_call *calls; /* of this tool, in order: one at least */
    size_t count;
    struct buf others; /* the names of what else is called, on one line; empty: nothing */
    bool one;          /* a call that stood alone, as its answer is to */
};
void tool_calls_free(struct tool_calls *);
/* text: a call, or what holds calls: an array of them, a message, a whole response (of several
 * choices the first). 0, -ENOMEM, or -EINVAL with *why (a literal) when there is none of this tool.
 */
int tool_calls_parse(enum tool_api, const char *text, size_t len, struct tool_calls *,
                     const char **why);

/* What it takes, as a JSON schema, and what it is for. NULL when out of memory. */
cJSON *tool_schema(void);
const char *tool_about(void);

/* What the model reads: a JSON object of result, stdout and stderr, at whose end stands what the
 * report has to say and no traceback tells: the exit code, a timeout, the end of the kernel. 0 or
 * -ENOMEM. */
int tool_content(const struct report *, const struct buf *stdout_text,
                 const struct buf *stderr_text, struct buf *out);

/* The message that answers a call, as JSON: what the code gave, without image data, or
 * (report NULL) what was wrong with the call. 0 or -ENOMEM. */
int tool_answer(enum tool_api, const struct tool_call *, const struct report *,
                const struct buf *stdout_text, const struct buf *stderr_text, struct buf *out);

#endif
