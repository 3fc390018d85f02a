#include "acafs/command_line.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

static const char no_memory[] = "out of memory";

void command_line_free(struct command_line *l)
{
    cJSON_Delete(l->request);
    free(l->path);
    *l = (struct command_line){0};
}

/* An object: NULL with *why when it is none, or holds what no path, argument or code can. */
static cJSON *parse_object(const char *text, const char **why)
{
    _cleanup_json_ cJSON *json = json_parse(text, strlen(text));
    *why = !cJSON_IsObject(json)              ? "what follows the command is no JSON object"
           : json_has_nul(text, strlen(text)) ? "a command is text: there is a NUL (\\u0000) in it"
                                              : NULL;
    if (*why)
        return NULL;
    cJSON *object = json;
    json = NULL;
    return object;
}

/* --- what follows the word */

static cJSON *words_as_request(char *words)
{
    cJSON *request = cJSON_CreateObject(), *args = cJSON_AddArrayToObject(request, "args");
    char *at = NULL, *word = strtok_r(words, " \t", &at);
    if (word)
        cJSON_AddStringToObject(request, "path", word);
    while ((word = strtok_r(NULL, " \t", &at)))
        cJSON_AddItemToArray(args, cJSON_CreateString(word));
    return request;
}

static const char *take_request(char *rest, struct command_line *out)
{
    const char *why = NULL;
    out->request = *rest == '{' ? parse_object(rest, &why) : words_as_request(rest);
    return out->request || why ? why : no_memory;
}

static const char *take_job(char *rest, struct command_line *out)
{
    if (!*rest || rest[strspn(rest, "0123456789")])
        return "not a job number";
    errno = 0;
    out->job = strtoull(rest, NULL, 10);
    return errno ? "no such job" : NULL;
}

static const char *take_nothing(char *rest, struct command_line *out)
{
    return *rest ? out->word == WORD_SYNC ? "sync takes no arguments"
                                          : "delete-session takes no arguments"
                 : NULL;
}

/* {"path": …}, or all that is there, blanks within it as well. */
static const char *take_path(char *rest, struct command_line *out)
{
    const char *why = NULL, *path = rest;
    _cleanup_json_ cJSON *json = *rest == '{' ? parse_object(rest, &why) : NULL;
    if (why || !*rest)
        return why;
    if (json)
        path = cJSON_GetArraySize(json) == 1 ? json_string(json, "path") : NULL;
    if (!path)
        return "refresh takes {\"path\": …}";
    out->path = strdup(path);
    return out->path ? NULL : no_memory;
}

/* --- */

static const struct {
    const char *name;
    const char *(*take)(char *rest, struct command_line *);
} words[WORDS] = {
    [WORD_RUN] = {"run", take_request},
    [WORD_SUBMIT] = {"submit", take_request},
    [WORD_WAIT] = {"wait", take_job},
    [WORD_CANCEL] = {"cancel", take_job},
    [WORD_SYNC] = {"sync", take_nothing},
    [WORD_REFRESH] = {"refresh", take_path},
    [WORD_DELETE_SESSION] = {"delete-session", take_nothing},
};

static size_t without_blanks(const char *text, size_t len)
{
    while (len && strchr(" \t\r\n", text[len - 1]))
        len--;
    return len;
}

const char *command_line_parse(const char *line, struct command_line *out)
{
    line += strspn(line, " \t\r\n");
    size_t len = without_blanks(line, strlen(line)), n = strcspn(line, " \t\r\n");
    _cleanup_free_ char *text = strndup(line, len);
    out->word = WORDS;
    if (!text)
        return no_memory;
    if (!text_is_utf8(text, len))
        return "a command is UTF-8 text: there are other bytes in it";
    for (unsigned i = 0; i < WORDS; i++) {
        if (strlen(words[i].name) != n || strncmp(words[i].name, text, n) != 0)
            continue;
        out->word = (enum command_word)i;
        return words[i].take(text + n + strspn(text + n, " \t\r\n"), out);
    }
    return "unknown command; there are: run submit wait cancel sync refresh delete-session";
}
