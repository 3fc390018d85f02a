#include "credential/answer.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "credential/secret.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

enum {
    LONGEST_TOKEN = 64 << 10,
    LONGEST_LIFE_S = 10 * 365 * 24 * 3600,
    QUOTED = 300, /* bytes of a description */
};

void token_free(struct token *t)
{
    secret_free(t->text);
    *t = (struct token){0};
}

/* --- dates */

/* Fills tm from a format of one letter a field: strptime() without its leniency and locale. */
static bool scan(const char **text, const char *format, struct tm *tm)
{
    const char *s = *text;
    for (; *format; format++) {
        int *field = *format == 'Y'   ? &tm->tm_year
                     : *format == 'm' ? &tm->tm_mon
                     : *format == 'd' ? &tm->tm_mday
                     : *format == 'H' ? &tm->tm_hour
                     : *format == 'M' ? &tm->tm_min
                     : *format == 'S' ? &tm->tm_sec
                                      : NULL;
        if (!field) {
            if (*s++ != *format)
                return false;
            continue;
        }
        int most = *format == 'Y' ? 4 : 2, digits = 0;
        for (*field = 0; digits < most && *s >= '0' && *s <= '9'; digits++)
            *field = *field * 10 + (*s++ - '0');
        if (digits == 0 || (most == 4 && digits < 4))
            return false;
    }
    *text = s;
    return tm->tm_mon >= 1 && tm->tm_mon <= 12 && tm->tm_mday >= 1 && tm->tm_mday <= 31 &&
           tm->tm_hour <= 23 && tm->tm_min <= 59 && tm->tm_sec <= 60;
}

static void as_struct(struct tm *tm)
{
    tm->tm_year -= 1900;
    tm->tm_mon -= 1;
    tm->tm_isdst = -1;
}

static bool platform_date(const char *text, time_t *out)
{
    struct tm tm = {0};
    if (!scan(&text, "m/d/Y H:M:S", &tm))
        return false;
    bool pm = strncmp(text, " PM", 3) == 0, am = strncmp(text, " AM", 3) == 0;
    if (pm || am) {
        if (tm.tm_hour < 1 || tm.tm_hour > 12)
            return false;
        tm.tm_hour = tm.tm_hour % 12 + (pm ? 12 : 0);
        text += 3;
    }
    if (strcmp(text, " +00:00") != 0)
        return false;
    as_struct(&tm);
    *out = timegm(&tm);
    return true;
}

static bool local_date(const char *text, time_t *out)
{
    struct tm tm = {0};
    if (!scan(&text, "Y-m-d H:M:S", &tm))
        return false;
    if (*text == '.') {
        size_t digits = strspn(++text, "0123456789");
        if (!digits)
            return false;
        text += digits;
    }
    if (*text)
        return false;
    as_struct(&tm);
    *out = mktime(&tm);
    return *out != (time_t)-1;
}

int answer_date(const char *text, time_t *out)
{
    struct timespec exact;
    if (strlen(text) > 64)
        return -EINVAL;
    if (text_parse_time(text, &exact) == 0)
        *out = exact.tv_sec;
    else if (!platform_date(text, out) && !local_date(text, out))
        return -EINVAL;
    return *out > 0 ? 0 : -EINVAL;
}

/* --- tokens */

static int fail(const char **why, const char *what)
{
    *why = what;
    return -EPROTO;
}

static int set_token(struct token *out, const char *text, const char **why)
{
    if (!text || !secret_is_word(text) || strlen(text) > LONGEST_TOKEN)
        return fail(why, "the answer holds no token");
    out->text = secret_new(text, strlen(text));
    if (!out->text) {
        *why = "out of memory";
        return -ENOMEM;
    }
    return 0;
}

/* Seconds since 1970 as a number, digits or a date. */
static bool moment(const cJSON *json, const char *name, time_t *out)
{
    uint64_t seconds;
    const char *text = json_string(json, name);
    if (json_uint(json, name, &seconds) && seconds > 0 && seconds < (uint64_t)1 << 40) {
        *out = (time_t)seconds;
        return true;
    }
    return text && answer_date(text, out) == 0;
}

/* expires_on before expires_in: a metadata service counts expires_in from the issue of a token
 * that it may have cached for hours. */
static bool expiry(const cJSON *json, time_t now, const char *token, time_t *out)
{
    uint64_t seconds;
    struct claims claims;
    if (moment(json, "expires_on", out)) {
        ;
    } else if (json_uint(json, "expires_in", &seconds) && seconds <= LONGEST_LIFE_S) {
        *out = now + (time_t)seconds;
    } else if (claims_read(token, &claims)) {
        *out = claims.expires;
        claims_free(&claims);
    }
    return *out > 0 && *out <= now + LONGEST_LIFE_S;
}

static void wipe_json(cJSON **json)
{
    /* Strings of the document may be the token. */
    for (cJSON *member = *json ? (*json)->child : NULL; member; member = member->next) {
        if (cJSON_IsString(member))
            explicit_bzero(member->valuestring, strlen(member->valuestring));
    }
    cJSON_Delete(*json);
}
#define _cleanup_secret_json_ __attribute__((cleanup(wipe_json)))

int answer_token(const char *body, size_t len, time_t now, struct token *out, const char **why)
{
    *out = (struct token){0};
    _cleanup_secret_json_ cJSON *json = json_parse(body, len);
    if (!cJSON_IsObject(json))
        return fail(why, "the answer is not JSON");
    const char *type = json_string(json, "token_type");
    if (type && strcasecmp(type, "Bearer") != 0)
        return fail(why, "the answer holds a token that is no bearer token");
    int err = set_token(out, json_string(json, "access_token"), why);
    if (err)
        return err;
    if (!expiry(json, now, out->text, &out->expires)) {
        token_free(out);
        return fail(why, "the answer does not say when the token expires");
    }
    uint64_t ahead;
    if (json_uint(json, "refresh_in", &ahead) && ahead <= LONGEST_LIFE_S &&
        now + (time_t)ahead < out->expires)
        out->refresh = now + (time_t)ahead;
    return 0;
}

static int answer_tool(const char *output, size_t len, time_t now, const char *token_name,
                       struct token *out, const char **why)
{
    *out = (struct token){0};
    _cleanup_secret_json_ cJSON *json = json_parse(output, len);
    if (!cJSON_IsObject(json))
        return fail(why, "its output is not JSON");
    int err = set_token(out, json_string(json, token_name), why);
    if (err == -EPROTO)
        *why = "its output holds no token";
    if (err)
        return err;
    if ((!moment(json, "expires_on", &out->expires) && !moment(json, "expiresOn", &out->expires)) ||
        out->expires > now + LONGEST_LIFE_S) {
        token_free(out);
        return fail(why, "its output does not say when the token expires");
    }
    return 0;
}

int answer_az(const char *output, size_t len, time_t now, struct token *out, const char **why)
{
    return answer_tool(output, len, now, "accessToken", out, why);
}

int answer_azd(const char *output, size_t len, time_t now, struct token *out, const char **why)
{
    return answer_tool(output, len, now, "token", out, why);
}

int answer_plain(const char *text, struct token *out, const char **why)
{
    *out = (struct token){0};
    int err = set_token(out, text, why);
    struct claims claims;
    if (err == -EPROTO)
        *why = "not a token: a token is one word of printable characters";
    if (err || !claims_read(text, &claims))
        return err;
    out->expires = claims.expires;
    claims_free(&claims);
    return 0;
}

/* --- refusals */

int answer_refusal(struct buf *out, int status, const char *body, size_t len,
                   const char *const *secrets)
{
    _cleanup_json_ cJSON *json = json_parse(body, len);
    /* Some services wrap it: {"error":{"code":…,"message":…}}. */
    const cJSON *inner = json_object(json, "error");
    const char *code = inner ? json_string(inner, "code") : json_string(json, "error");
    const char *text =
        inner ? json_string(inner, "message") : json_string(json, "error_description");
    if (!text)
        text = json_string(json, "message");
    const char *id = json_string(json, "correlation_id");
    int err = buf_addf(out, "HTTP %d", status);
    if (code && !err && !(err = buf_adds(out, " ")))
        err = secret_quote(out, code, strlen(code), 60, secrets);
    if (text && !err && !(err = buf_adds(out, ": ")))
        err = secret_quote(out, text, strcspn(text, "\r\n"), QUOTED, secrets);
    if (id && !err && !(err = buf_adds(out, " (correlation id ")) &&
        !(err = secret_quote(out, id, strlen(id), 60, secrets)))
        err = buf_adds(out, ")");
    return err;
}

/* --- Azure Arc */

char *answer_arc_key(const char *header, const char *directory, const char **why)
{
    *why = "its challenge names no key file";
    if (!header || strncasecmp(header, "Basic ", 6) != 0)
        return NULL;
    header += 6 + strspn(header + 6, " ");
    if (strncasecmp(header, "realm=", 6) != 0)
        return NULL;
    header += 6;
    size_t len = strlen(header);
    if (len >= 2 && *header == '"' && header[len - 1] == '"') {
        header++;
        len -= 2;
    }
    *why = "its challenge names a key file where Azure Arc keeps none: refused";
    size_t head = strlen(directory);
    if (len < head + 1 + 5 || len > 512 || strncmp(header, directory, head) != 0 ||
        header[head] != '/' || strncmp(header + len - 4, ".key", 4) != 0)
        return NULL;
    for (size_t i = head + 1; i < len; i++) {
        if (header[i] == '/' || (unsigned char)header[i] < ' ')
            return NULL;
    }
    return strndup(header, len);
}

/* --- claims */

static char *printable_copy(const char *text)
{
    struct buf out = {0};
    if (!text || !*text || text_printable(&out, text, strlen(text), 200))
        return NULL;
    return buf_take(&out);
}

static cJSON *payload(const char *token)
{
    const char *start = strchr(token, '.');
    const char *end = start ? strchr(start + 1, '.') : NULL;
    if (!end || strlen(token) > LONGEST_TOKEN)
        return NULL;
    struct buf standard = {0}, plain = {0};
    cJSON *json = NULL;
    int err = 0;
    for (const char *c = start + 1; c < end && !err; c++)
        err = buf_add(&standard, *c == '-' ? "+" : *c == '_' ? "/" : c, 1);
    while (!err && standard.len % 4)
        err = buf_adds(&standard, "=");
    if (!err && standard.len && text_unbase64(&plain, standard.data, standard.len) == 0)
        json = json_parse(plain.data ? plain.data : "", plain.len);
    buf_wipe(&standard);
    buf_wipe(&plain);
    return json;
}

bool claims_read(const char *token, struct claims *out)
{
    *out = (struct claims){0};
    _cleanup_json_ cJSON *json = payload(token);
    if (!cJSON_IsObject(json))
        return false;
    static const char *const names[] = {
        "upn", "preferred_username", "unique_name", "email", "app_displayname", "appid", "azp",
        "sub"};
    for (size_t i = 0; i < sizeof names / sizeof *names && !out->principal; i++)
        out->principal = printable_copy(json_string(json, names[i]));
    const char *kind = json_string(json, "idtyp");
    out->is_application = kind ? strcmp(kind, "app") == 0 : !json_string(json, "scp");
    out->tenant = printable_copy(json_string(json, "tid"));
    out->object = printable_copy(json_string(json, "oid"));
    out->audience = printable_copy(json_string(json, "aud"));
    uint64_t end;
    if (json_uint(json, "exp", &end) && end < (uint64_t)1 << 40)
        out->expires = (time_t)end;
    return true;
}

void claims_free(struct claims *c)
{
    free(c->tenant);
    free(c->principal);
    free(c->object);
    free(c->audience);
    *c = (struct claims){0};
}
