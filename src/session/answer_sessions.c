/* The list of a pool's sessions: {"sessions": [...]}, {"value": [...]} or an array, of objects with
 * an identifier. */
#include "session/answer.h"
#include "session/answer_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "http/http.h"
#include "util/cleanup.h"
#include "util/json.h"

int session_identifier_check(const char *identifier, const char **why)
{
    size_t len = strlen(identifier);
    if (len < 4 || len > 128) {
        *why = "a session's identifier has 4 to 128 characters";
        return -EINVAL;
    }
    /* The documentation's list, and '_', which both specifications have. */
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "_|-&^%$#(){}[];<>";
    if (strspn(identifier, allowed) != len) {
        *why =
            "a session's identifier is made of letters, digits and _ | - & ^ % $ # ( ) { } [ ] ; "
            "< >";
        return -EINVAL;
    }
    return 0;
}

void session_names_free(struct session_names *n)
{
    for (size_t i = 0; i < n->count; i++)
        free(n->names[i]);
    free(n->names);
    free(n->next);
    memset(n, 0, sizeof *n);
}

static const char *identifier_of(const cJSON *item)
{
    const cJSON *inner = json_object(item, "properties");
    const char *name = json_string(inner ? inner : item, "identifier");
    return name ? name : cJSON_GetStringValue(item);
}

static int take_names(const cJSON *array, struct session_names *out)
{
    const cJSON *item;
    const char *why;
    out->names = calloc((size_t)cJSON_GetArraySize(array) + 1, sizeof *out->names);
    if (!out->names)
        return -ENOMEM;
    cJSON_ArrayForEach (item, array) {
        const char *name = identifier_of(item);
        if (!name || session_identifier_check(name, &why)) {
            out->hidden++;
            continue;
        }
        if (!(out->names[out->count] = strdup(name)))
            return -ENOMEM;
        out->count++;
    }
    return 0;
}

/* The next page: a URL of the pool's; one that is relative to who knows what only says that there
 * is one. */
static int take_next(const cJSON *body, const char *base, struct session_names *out,
                     struct session_error *e)
{
    const char *next = json_string(body, "nextLink");
    out->more = next && *next;
    if (!out->more || !strstr(next, "://"))
        return 0;
    if (!http_same_origin(next, base))
        return answer_nonsense(e, "the next page of a list is said to be on another host");
    out->next = strdup(next);
    return out->next ? 0 : answer_no_memory(e);
}

int answer_sessions(const struct answer *a, const char *base, struct session_names *out,
                    struct session_error *e)
{
    memset(out, 0, sizeof *out);
    _cleanup_json_ cJSON *body = NULL;
    int err = answer_document(a, &body, e);
    if (err)
        return err;
    const cJSON *sessions = cJSON_GetObjectItemCaseSensitive(body, "sessions");
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(body, "value");
    const cJSON *list = cJSON_IsArray(body) ? body : sessions ? sessions : value;
    if (!cJSON_IsArray(list) && !cJSON_IsNull(list))
        return answer_nonsense(e, "the pool's list of sessions has no list in it");
    if (cJSON_IsArray(list) && take_names(list, out))
        err = answer_no_memory(e);
    if (!err)
        err = take_next(body, base, out, e);
    if (err)
        session_names_free(out);
    return err;
}
