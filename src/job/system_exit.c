/* Tracebacks as the interpreter prints them, and as IPython does:
 *
 *     Traceback (most recent call last):      ---------------------------------------------------
 *       File "x", line 1, in <module>         SystemExit        Traceback (most recent call last)
 *     SystemExit: 7                           Cell In[1], line 1
 *                                             ...
 *     An exception has occurred, use %tb      SystemExit: 7
 *     to see the full traceback. (one line)
 *
 *     SystemExit: 7
 *
 * The exception that was handled meanwhile has its own before it. */
#include "job/system_exit.h"

#include <stdlib.h>
#include <string.h>

static const char name[] = "SystemExit";

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static const char *next_line(const char *line)
{
    const char *end = strchr(line, '\n');
    return end && end[1] ? end + 1 : NULL;
}

static bool is_head(const char *line)
{
    static const char mark[] = "Traceback (most recent call last)";
    if (begins(line, "An exception has occurred, use %tb"))
        return true;
    const char *at = strstr(line, mark);
    size_t word = strcspn(line, " \n");
    return at && (at == line || line + word + strspn(line + word, " ") == at);
}

/* Where a traceback begins in that line: it may follow what the code left unfinished; or NULL. */
static const char *head_in(const char *line)
{
    const char *at = is_head(line) ? line : strstr(line, "Traceback (most recent call last):\n");
    return at && at < line + strcspn(line, "\n") ? at : NULL;
}

/* The line that names the exception of the traceback that begins there; NULL: there is none. */
static const char *exception_of(const char *head)
{
    bool plain = begins(head, "Traceback");
    for (const char *line = next_line(head); line; line = next_line(line)) {
        if (plain && *line != ' ' && *line != '\n')
            return line;
        if (!plain && begins(line, name) && !is_head(line))
            return line;
    }
    return NULL;
}

/* SystemExit: TEXT; what is no number is printed, and the code then is 1. */
static bool take_exception(const char *line, struct system_exit *out)
{
    char *end;
    if (!begins(line, name))
        return false;
    line += sizeof name - 1;
    if (!*line || *line == '\n' || begins(line, ": None\n")) {
        out->code = 0;
        return !*line || line[strcspn(line, "\n") + 1] == '\0';
    }
    if (!begins(line, ": "))
        return false;
    long code = strtol(line += 2, &end, 10);
    bool number = end > line && strspn(end, "\n") == strlen(end);
    out->code = number ? (int)(code & 0xff) : 1;
    out->text = number ? NULL : line;
    return true;
}

/* Whether the traceback is of what was raised while another exception was handled. */
static bool is_chained(const char *err, const char *head)
{
    static const char *const words[] = {
        "\n\nDuring handling of the above exception, another exception occurred:\n\n",
        "\n\nThe above exception was the direct cause of the following exception:\n\n",
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t len = strlen(words[i]);
        if ((size_t)(head - err) >= len && begins(head - len, words[i]))
            return true;
    }
    return false;
}

/* With the line of dashes that IPython draws above. */
static const char *with_rule(const char *err, const char *head)
{
    const char *line = head;
    if (head - err < 2)
        return head;
    for (line--; line > err && line[-1] != '\n';)
        line--;
    size_t dashes = strspn(line, "-");
    return dashes > 20 && line + dashes + 1 == head ? line : head;
}

bool system_exit_find(const char *err, struct system_exit *out)
{
    const char *chain = NULL; /* where the tracebacks that belong together begin */
    *out = (struct system_exit){0};
    for (const char *line = err; line && *line;) {
        const char *head = head_in(line), *exception = head ? exception_of(head) : NULL;
        if (!exception) {
            line = next_line(line);
            continue;
        }
        const char *top = with_rule(err, head);
        if (!chain || !is_chained(err, top))
            chain = top;
        if (take_exception(exception, out)) {
            out->before = (size_t)(chain - err);
            return true;
        }
        line = exception;
    }
    return false;
}
