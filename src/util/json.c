#include "util/json.h"

#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

enum { JSON_MAX_DEPTH = 128 };

/* cJSON's own nesting limit (1,000) is fixed at its build; ours is stricter. Looks at
 * brackets outside strings only, and rewrites \u0000 as U+FFFD on the way. */
static bool prepare(char *text, size_t len)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\') {
                if (i + 5 < len && memcmp(text + i, "\\u0000", 6) == 0)
                    memcpy(text + i, "\\ufffd", 6);
                i++;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_MAX_DEPTH)
                return false;
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return true;
}

/* Backslashes stand within strings only, and each takes the next character along. */
bool json_has_nul(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\\')
            continue;
        if (len - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0)
            return true;
        i++;
    }
    return false;
}

cJSON *json_parse(const char *text, size_t len)
{
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        len -= 3;
    }
    if (len == 0)
        return NULL;
    _cleanup_free_ char *copy = malloc(len + 1);
    if (!copy)
        return NULL;
    memcpy(copy, text, len);
    copy[len] = '\0';
    if (!prepare(copy, len))
        return NULL;
    const char *end = NULL;
    cJSON *json = cJSON_ParseWithLengthOpts(copy, len, &end, false);
    if (!json)
        return NULL;
    while (end < copy + len && strchr(" \t\r\n", *end) && *end)
        end++;
    if (end != copy + len) {
        cJSON_Delete(json);
        return NULL;
    }
    return json;
}

const char *json_string(const cJSON *object, const char *name)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
}

const cJSON *json_object(const cJSON *object, const char *name)
{
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsObject(member) ? member : NULL;
}

const cJSON *json_array(const cJSON *object, const char *name)
{
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsArray(member) ? member : NULL;
}

bool json_uint(const cJSON *object, const char *name, uint64_t *out)
{
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
    if (cJSON_IsNumber(member)) {
        double value = member->valuedouble;
        if (!(value >= 0 && value <= 9007199254740992.0) || value != (double)(uint64_t)value)
            return false;
        *out = (uint64_t)value;
        return true;
    }
    const char *digits = cJSON_GetStringValue(member);
    if (!digits || !*digits || strlen(digits) > 15 || digits[strspn(digits, "0123456789")])
        return false;
    *out = strtoull(digits, NULL, 10);
    return true;
}

bool json_bool(const cJSON *object, const char *name, bool *out)
{
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsBool(member))
        return false;
    *out = cJSON_IsTrue(member);
    return true;
}
