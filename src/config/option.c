#include "config/option.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "util/log.h"
#include "util/text.h"

#define AT(field) offsetof(struct config, field)
#define ANY 0, 0

const struct option_about option_table[] = {
    {"endpoint", "pool", "endpoint", "ACAFS_POOL_ENDPOINT", OPTION_TEXT, AT(endpoint), "local",
     "URL", "the pool's management endpoint, or local", ANY},
    {"api-version", "pool", "api-version", "ACAFS_API_VERSION", OPTION_TEXT, AT(api_version),
     "auto", "VERSION", "of the pool's API; auto finds out", ANY},
    {"timeout-connect", "pool", "timeout-connect", "ACAFS_TIMEOUT_CONNECT", OPTION_TIME,
     AT(connect_ms), "10", "SECONDS", "to connect", 1, 3600000},
    {"timeout-read", "pool", "timeout-read", "ACAFS_TIMEOUT_READ", OPTION_TIME, AT(read_ms), "60",
     "SECONDS", "without progress before a request is given up", 1, 3600000},
    {"max-retries", "pool", "max-retries", "ACAFS_MAX_RETRIES", OPTION_COUNT, AT(max_retries), "4",
     "N", "of a request that failed for a passing reason", 0, 100},
    {"max-transfers", "pool", "max-transfers", "ACAFS_MAX_TRANSFERS", OPTION_COUNT,
     AT(max_transfers), "16", "N", "requests under way at once", 1, 256},
    {"session", "session", "id", "ACAFS_SESSION", OPTION_TEXT, AT(session), NULL, "ID",
     "the session; not set: a new one, printed", ANY},
    {"restore", "session", "restore", "ACAFS_RESTORE", OPTION_BOOL, AT(restore), "no", NULL,
     "upload again what a recycled session lost", ANY},
    {"keepalive", "session", "keepalive", "ACAFS_KEEPALIVE", OPTION_BOOL, AT(keepalive), "no", NULL,
     "keep the session from expiring", ANY},
    {"credential", "auth", "credential", "ACAFS_CREDENTIAL", OPTION_TEXT, AT(credential), NULL,
     "KIND", "default, none, or one of acafs(8)", ANY},
    {"token-file", "auth", "token-file", "ACAFS_TOKEN_FILE", OPTION_TEXT, AT(token_file), NULL,
     "FILE", "holds a bearer token to use as it is", ANY},
    {"tenant-id", "auth", "tenant-id", "ACAFS_TENANT_ID", OPTION_TEXT, AT(tenant_id), NULL, "ID",
     "as AZURE_TENANT_ID", ANY},
    {"client-id", "auth", "client-id", "ACAFS_CLIENT_ID", OPTION_TEXT, AT(client_id), NULL, "ID",
     "as AZURE_CLIENT_ID", ANY},
    {"client-secret-file", "auth", "client-secret-file", "ACAFS_CLIENT_SECRET_FILE", OPTION_TEXT,
     AT(client_secret_file), NULL, "FILE", "holds the client's secret", ANY},
    {"certificate", "auth", "certificate", "ACAFS_CERTIFICATE", OPTION_TEXT, AT(certificate), NULL,
     "FILE", "the client's, PEM or PKCS#12", ANY},
    {"certificate-password-file", "auth", "certificate-password-file",
     "ACAFS_CERTIFICATE_PASSWORD_FILE", OPTION_TEXT, AT(certificate_password_file), NULL, "FILE",
     "opens the certificate", ANY},
    {"send-certificate-chain", "auth", "send-certificate-chain", "ACAFS_SEND_CERTIFICATE_CHAIN",
     OPTION_BOOL, AT(send_certificate_chain), "no", NULL, "for subject-name authentication", ANY},
    {"authority", "auth", "authority", "ACAFS_AUTHORITY", OPTION_TEXT, AT(authority), NULL, "URL",
     "as AZURE_AUTHORITY_HOST", ANY},
    {"federated-token-file", "auth", "federated-token-file", "ACAFS_FEDERATED_TOKEN_FILE",
     OPTION_TEXT, AT(federated_token_file), NULL, "FILE", "as AZURE_FEDERATED_TOKEN_FILE", ANY},
    {"cache-dir", "cache", "dir", "ACAFS_CACHE_DIR", OPTION_TEXT, AT(cache_dir), NULL, "DIR",
     "on local disk; ~/.cache/acafs, root's /var/cache/acafs", ANY},
    {"cache-size", "cache", "size", "ACAFS_CACHE_SIZE", OPTION_SIZE, AT(cache_size), "2G", "BYTES",
     "that the cache may take", 1 << 20, INT64_MAX},
    {"attr-timeout", "mount", "attr-timeout", "ACAFS_ATTR_TIMEOUT", OPTION_TIME,
     AT(attr_timeout_ms), "5", "SECONDS", "names and attributes are believed", 0, 86400000},
    {"unmount-timeout", "mount", "unmount-timeout", "ACAFS_UNMOUNT_TIMEOUT", OPTION_TIME,
     AT(unmount_timeout_ms), "60", "SECONDS", "for pending uploads when unmounting", 0, 86400000},
    {"all", "mount", "all", "ACAFS_ALL", OPTION_BOOL, AT(all), "no", NULL,
     "mount the whole pool: each directory is a session", ANY},
    {"force", "mount", "force", "ACAFS_FORCE", OPTION_BOOL, AT(force), "no", NULL,
     "with all: rmdir deletes sessions that hold files", ANY},
    {"sync", "mount", "sync", "ACAFS_SYNC", OPTION_BOOL, AT(sync), "no", NULL,
     "close and unlink wait for the session", ANY},
    {"ro", "mount", "ro", "ACAFS_RO", OPTION_BOOL, AT(read_only), "no", NULL, "mount read-only",
     ANY},
    {"allow_other", "mount", "allow_other", "ACAFS_ALLOW_OTHER", OPTION_BOOL, AT(allow_other), "no",
     NULL, "let other users in, by owner and mode", ANY},
    {"uid", "mount", "uid", "ACAFS_UID", OPTION_USER, AT(uid), NULL, "USER",
     "owner of the files; the mounting user", ANY},
    {"gid", "mount", "gid", "ACAFS_GID", OPTION_GROUP, AT(gid), NULL, "GROUP",
     "group of the files; the mounting user's", ANY},
    {"umask", "mount", "umask", "ACAFS_UMASK", OPTION_MODE, AT(umask), "022", "OCTAL",
     "permissions that files lack", 0, 0777},
    {"symlinks", "mount", "symlinks", "ACAFS_SYMLINKS", OPTION_LINKS, AT(symlinks), "contain",
     "WORD", "contain or follow: may they lead out of the session", ANY},
    {"autorun", "jobs", "autorun", "ACAFS_AUTORUN", OPTION_TEXT, AT(autorun), NULL, "GLOB",
     "run matching scripts when they are written", ANY},
    {"log-level", "log", "level", "ACAFS_LOG_LEVEL", OPTION_LEVEL, AT(log_level), "info", "LEVEL",
     "error, warning, info or debug", ANY},
    {"log-format", "log", "format", "ACAFS_LOG_FORMAT", OPTION_FORMAT, AT(log_format), "text",
     "WORD", "text or json, of messages on stderr", ANY},
    {"local-socket", "local", "socket", "ACAFS_LOCAL_SOCKET", OPTION_TEXT, AT(local_socket), NULL,
     "FILE", "where acapool listens", ANY},
    {"local-program", "local", "program", "ACAFS_LOCAL_PROGRAM", OPTION_TEXT, AT(local_pool), NULL,
     "FILE", "the acapool to start", ANY},
    {.name = NULL},
};
_Static_assert(sizeof option_table / sizeof *option_table <= OPTION_LIMIT, "raise OPTION_LIMIT");

/* --- finding one */

static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        if (*a != *b && !(*a == '_' && *b == '-') && !(*a == '-' && *b == '_'))
            return false;
    }
    return *a == *b;
}

const struct option_about *option_by_name(const char *name)
{
    for (const struct option_about *o = option_table; o->name; o++) {
        if (same_name(o->name, name))
            return o;
    }
    return NULL;
}

const struct option_about *option_by_key(const char *section, const char *key)
{
    for (const struct option_about *o = option_table; o->name; o++) {
        if (strcmp(o->section, section) == 0 && same_name(o->key, key))
            return o;
    }
    return NULL;
}

bool option_section_exists(const char *section)
{
    for (const struct option_about *o = option_table; o->name; o++) {
        if (strcmp(o->section, section) == 0)
            return true;
    }
    return false;
}

bool option_is_text(enum option_type type)
{
    return type == OPTION_TEXT || type == OPTION_LEVEL || type == OPTION_LINKS ||
           type == OPTION_FORMAT;
}

/* --- values */

static int parse_bool(const char *text, bool *out)
{
    static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false",
                                                                                "off", "0"};
    for (int i = 0; i < 4; i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *out = strcasecmp(text, yes[i]) == 0;
            return 0;
        }
    }
    return -EINVAL;
}

/* Digits alone: no sign, no blanks. */
static int parse_number(const char *text, int base, uint64_t *out)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    errno = 0;
    *out = strtoull(text, &end, base);
    return errno || *end ? -EINVAL : 0;
}

static int parse_time(const char *text, uint64_t *ms)
{
    static const struct {
        const char *unit;
        double ms;
    } units[] = {{"", 1e3}, {"s", 1e3}, {"ms", 1}, {"m", 6e4}, {"h", 3.6e6}};
    size_t len = strspn(text, "0123456789.");
    char digits[32], *end;
    if (!isdigit((unsigned char)*text) || len >= sizeof digits)
        return -EINVAL;
    memcpy(digits, text, len);
    digits[len] = '\0';
    double value = strtod(digits, &end);
    if (*end || value > 1e12)
        return -EINVAL;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(text + len, units[i].unit) == 0) {
            *ms = (uint64_t)(value * units[i].ms + 0.5);
            return 0;
        }
    }
    return -EINVAL;
}

static int parse_id(const struct option_about *o, const char *text, uint64_t *out)
{
    if (parse_number(text, 10, out) == 0)
        return *out < UINT32_MAX ? 0 : -EINVAL; /* (uid_t)-1 is no one */
    if (o->type == OPTION_USER) {
        const struct passwd *user = getpwnam(text);
        *out = user ? user->pw_uid : 0;
        return user ? 0 : -EINVAL;
    }
    const struct group *group = getgrnam(text);
    *out = group ? group->gr_gid : 0;
    return group ? 0 : -EINVAL;
}

static int parse_numeric(const struct option_about *o, const char *text, uint64_t *out)
{
    switch (o->type) {
    case OPTION_SIZE:
        return text_parse_size(text, out);
    case OPTION_TIME:
        return parse_time(text, out);
    case OPTION_MODE:
        return parse_number(text, 8, out);
    case OPTION_USER:
    case OPTION_GROUP:
        return parse_id(o, text, out);
    default:
        return parse_number(text, 10, out);
    }
}

/* They would reach terminals, logs and headers. */
static bool has_control(const char *text)
{
    while (*text && (unsigned char)*text >= ' ' && *text != 0x7f)
        text++;
    return *text;
}

static int set_text(char **at, const char *text)
{
    char *copy = *text ? strdup(text) : NULL;
    if (*text && !copy)
        return -ENOMEM;
    free(*at);
    *at = copy;
    return 0;
}

static void set_number(void *at, enum option_type type, uint64_t value)
{
    switch (type) {
    case OPTION_SIZE:
        *(uint64_t *)at = value;
        return;
    case OPTION_TIME:
        *(int64_t *)at = (int64_t)value;
        return;
    case OPTION_USER:
        *(uid_t *)at = (uid_t)value;
        return;
    case OPTION_GROUP:
        *(gid_t *)at = (gid_t)value;
        return;
    case OPTION_MODE:
        *(mode_t *)at = (mode_t)value;
        return;
    default:
        *(unsigned *)at = (unsigned)value;
    }
}

static const char *const *words_of(enum option_type type)
{
    static const char *const links[] = {"contain", "follow"}, *const formats[] = {"text", "json"};
    return type == OPTION_LINKS ? links : formats;
}

static bool is_word_of(enum option_type type, const char *text)
{
    const char *const *words = words_of(type);
    return strcmp(text, words[0]) == 0 || strcmp(text, words[1]) == 0;
}

int option_parse(struct config *c, const struct option_about *o, const char *text)
{
    void *at = (char *)c + o->at;
    enum log_level level;
    uint64_t value;
    switch (o->type) {
    case OPTION_LEVEL:
        return log_level_parse(text, &level) ? -EINVAL : set_text(at, text);
    case OPTION_LINKS:
    case OPTION_FORMAT:
        return is_word_of(o->type, text) ? set_text(at, text) : -EINVAL;
    case OPTION_TEXT:
        return has_control(text) ? -EINVAL : set_text(at, text);
    case OPTION_BOOL:
        return parse_bool(text, at);
    default:
        if (parse_numeric(o, text, &value) || (o->max && (value < o->min || value > o->max)))
            return -EINVAL;
        set_number(at, o->type, value);
        return 0;
    }
}

static int format_size(struct buf *out, uint64_t value)
{
    static const char units[] = "\0KMGT";
    int i = 0;
    while (i < 4 && value && value % 1024 == 0) {
        value /= 1024;
        i++;
    }
    return buf_addf(out, i ? "%" PRIu64 "%c" : "%" PRIu64, value, units[i]);
}

static int format_time(struct buf *out, int64_t ms)
{
    return ms % 1000 ? buf_addf(out, "%" PRId64 "ms", ms) : buf_addf(out, "%" PRId64, ms / 1000);
}

int option_want(const struct option_about *o, struct buf *out)
{
    switch (o->type) {
    case OPTION_TEXT:
        return buf_adds(out, "one line of text, without control characters");
    case OPTION_LEVEL:
        return buf_adds(out, "error, warning, info or debug");
    case OPTION_LINKS:
    case OPTION_FORMAT:
        return buf_addf(out, "%s or %s", words_of(o->type)[0], words_of(o->type)[1]);
    case OPTION_BOOL:
        return buf_adds(out, "yes or no");
    case OPTION_SIZE:
        return buf_adds(out, "a size as 512M or 2G, at least ") ?: format_size(out, o->min);
    case OPTION_TIME:
        return buf_adds(out, "a time as 10, 250ms or 5m, at most ")
                   ?: format_time(out, (int64_t)o->max);
    case OPTION_MODE:
        return buf_adds(out, "an octal number up to 777");
    case OPTION_USER:
        return buf_adds(out, "a user's name or number");
    case OPTION_GROUP:
        return buf_adds(out, "a group's name or number");
    case OPTION_COUNT:
        return buf_addf(out, "a number from %" PRIu64 " to %" PRIu64, o->min, o->max);
    }
    return -EINVAL;
}

int option_format(const struct config *c, const struct option_about *o, struct buf *out)
{
    const void *at = (const char *)c + o->at;
    const char *text;
    switch (o->type) {
    case OPTION_TEXT:
    case OPTION_LEVEL:
    case OPTION_LINKS:
    case OPTION_FORMAT:
        text = *(char *const *)at;
        return text ? buf_adds(out, text) : 0;
    case OPTION_BOOL:
        return buf_adds(out, *(const bool *)at ? "yes" : "no");
    case OPTION_SIZE:
        return format_size(out, *(const uint64_t *)at);
    case OPTION_TIME:
        return format_time(out, *(const int64_t *)at);
    case OPTION_MODE:
        return buf_addf(out, "%03o", *(const mode_t *)at);
    case OPTION_USER:
        return *(const uid_t *)at == (uid_t)-1 ? 0 : buf_addf(out, "%u", *(const uid_t *)at);
    case OPTION_GROUP:
        return *(const gid_t *)at == (gid_t)-1 ? 0 : buf_addf(out, "%u", *(const gid_t *)at);
    case OPTION_COUNT:
        return buf_addf(out, "%u", *(const unsigned *)at);
    }
    return -EINVAL;
}
