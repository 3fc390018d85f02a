#include "credential/link.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "credential/secret.h"
#include "util/cleanup.h"

static time_t system_time(void)
{
    return time(NULL);
}

/* --- collecting */

static int copy(char **out, const char *value)
{
    *out = NULL;
    if (!value || !*value)
        return 0;
    *out = strdup(value);
    return *out ? 0 : -ENOMEM;
}

/* The option, else the variable. */
static int choose(char **out, const char *option, const char *variable)
{
    return copy(out, option && *option ? option : getenv(variable));
}

/* AZURE_TOKEN_CREDENTIALS, which Azure's libraries read without the blanks around it. */
static int copy_word(char **out, const char *value)
{
    value = value ? value + strspn(value, " \t") : "";
    int err = copy(out, value);
    for (size_t len = *out ? strlen(*out) : 0; len && strchr(" \t", (*out)[len - 1]);)
        (*out)[--len] = '\0';
    return err;
}

static int choose_file(char **out, const char *option, const char *variable)
{
    const char *name = option && *option ? option : variable ? getenv(variable) : NULL;
    *out = NULL;
    if (!name || !*name)
        return 0;
    *out = secret_path(name);
    return *out ? 0 : -ENOMEM;
}

static int collect_secrets(struct settings *s, const struct credential_options *o)
{
    int err = secret_take_environment("AZURE_CLIENT_SECRET", &s->secret);
    if (!err && o->client_secret && *o->client_secret) {
        secret_free(s->secret);
        s->secret = secret_new(o->client_secret, strlen(o->client_secret));
        err = s->secret ? 0 : -ENOMEM;
    }
    err = err ? err : choose_file(&s->secret_file, o->client_secret_file, NULL);
    err = err ? err
              : secret_take_environment("AZURE_CLIENT_CERTIFICATE_PASSWORD",
                                        &s->certificate_password);
    err =
        err ? err : choose_file(&s->certificate_password_file, o->certificate_password_file, NULL);
    err = err ? err : secret_take_environment("IDENTITY_HEADER", &s->identity_header);
    return err ? err : secret_take_environment("MSI_SECRET", &s->msi_secret);
}

static int collect_platform(struct settings *s)
{
    static const struct {
        const char *variable;
        size_t at;
    } map[] = {
        {"IDENTITY_ENDPOINT", offsetof(struct settings, identity_endpoint)},
        {"IDENTITY_SERVER_THUMBPRINT", offsetof(struct settings, identity_thumbprint)},
        {"IMDS_ENDPOINT", offsetof(struct settings, imds_endpoint)},
        {"MSI_ENDPOINT", offsetof(struct settings, msi_endpoint)},
        {"AZURE_POD_IDENTITY_AUTHORITY_HOST", offsetof(struct settings, pod_authority)},
        {"DEFAULT_IDENTITY_CLIENT_ID", offsetof(struct settings, ml_client)},
    };
    int err = 0;
    for (size_t i = 0; i < sizeof map / sizeof *map && !err; i++)
        err = copy((char **)((char *)s + map[i].at), getenv(map[i].variable));
    return err;
}

static bool means_yes(const char *word)
{
    return word && (strcasecmp(word, "true") == 0 || strcmp(word, "1") == 0);
}

static int collect(struct settings *s, const struct credential_options *o)
{
    s->now = o->now ? o->now : system_time;
    s->imds_backoff_ms = o->imds_backoff_ms ? o->imds_backoff_ms : 800;
    s->send_chain =
        o->send_certificate_chain || means_yes(getenv("AZURE_CLIENT_SEND_CERTIFICATE_CHAIN"));
    int err = collect_secrets(s, o);
    err = err ? err : collect_platform(s);
    bool whole = o->kind && *o->kind && strcmp(o->kind, "default") != 0;
    err = err ? err : copy_word(&s->kind, whole ? o->kind : getenv("AZURE_TOKEN_CREDENTIALS"));
    err = err ? err : choose(&s->tenant, o->tenant_id, "AZURE_TENANT_ID");
    err = err ? err : copy(&s->tool_tenant, o->tenant_id);
    err = err ? err : choose(&s->client, o->client_id, "AZURE_CLIENT_ID");
    err = err ? err : choose(&s->authority, o->authority, "AZURE_AUTHORITY_HOST");
    err = err ? err : choose_file(&s->certificate, o->certificate, "AZURE_CLIENT_CERTIFICATE_PATH");
    err = err ? err
              : choose_file(&s->federated_file, o->federated_token_file,
                            "AZURE_FEDERATED_TOKEN_FILE");
    return err ? err
               : copy(&s->arc_directory,
                      o->arc_directory ? o->arc_directory : "/var/opt/azcmagent/tokens");
}

/* --- checking */

static int refuse(char **why, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int refuse(char **why, const char *format, ...)
{
    va_list args;
    struct buf text = {0};
    va_start(args, format);
    buf_vaddf(&text, format, args);
    va_end(args);
    *why = buf_take(&text);
    return -EINVAL;
}

/* https://HOST; the scheme may be left out and blanks surround it, as Azure's libraries allow. */
static int settle_authority(struct settings *s, char **why)
{
    struct buf url = {0};
    const char *given = s->authority ? s->authority : "https://login.microsoftonline.com";
    given += strspn(given, " \t\r\n");
    int err = buf_addf(&url, "%s%s", strstr(given, "://") ? "" : "https://", given);
    while (!err && url.len && strchr("/ \t\r\n", url.data[url.len - 1]))
        url.data[--url.len] = '\0';
    free(s->authority);
    if (!(s->authority = buf_take(&url)) || err)
        return -ENOMEM;
    const char *wrong = NULL;
    if (http_url_check(s->authority, NULL, &wrong))
        return refuse(why, "AZURE_AUTHORITY_HOST (or [auth] authority) %s: %s", s->authority,
                      wrong);
    if (strpbrk(s->authority, "?#"))
        return refuse(why, "AZURE_AUTHORITY_HOST (or [auth] authority) %s: no query belongs there",
                      s->authority);
    return 0;
}

/* What Entra ID allows; it becomes part of a path and of az's arguments. */
static bool tenant_is_sound(const char *tenant)
{
    for (const char *c = tenant; *c; c++) {
        if (!isalnum((unsigned char)*c) && *c != '-' && *c != '.')
            return false;
    }
    return *tenant != '-' && strlen(tenant) < 256 && strspn(tenant, ".") < strlen(tenant);
}

int settings_load(struct settings *s, const struct credential_options *o, char **why)
{
    int err = collect(s, o);
    if (!err)
        err = settle_authority(s, why);
    if (!err && s->tenant && !tenant_is_sound(s->tenant))
        err = refuse(why,
                     "AZURE_TENANT_ID (or [auth] tenant-id) %s: a tenant is its id or domain: "
                     "letters, digits, '.' and '-'",
                     s->tenant);
    return err;
}

void settings_free(struct settings *s)
{
    char *plain[] = {s->kind,           s->tenant,
                     s->client,         s->tool_tenant,
                     s->secret_file,    s->certificate,
                     s->authority,      s->certificate_password_file,
                     s->federated_file, s->identity_endpoint,
                     s->imds_endpoint,  s->identity_thumbprint,
                     s->msi_endpoint,   s->pod_authority,
                     s->arc_directory,  s->ml_client};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        free(plain[i]);
    secret_free(s->secret);
    secret_free(s->certificate_password);
    secret_free(s->identity_header);
    secret_free(s->msi_secret);
    *s = (struct settings){0};
}

/* --- */

void outcome_unavailable(outcome_fn *done, void *arg, const char *why)
{
    struct outcome o = {.verdict = TOKEN_UNAVAILABLE, .err = -EACCES, .why = why};
    done(arg, &o);
}

void outcome_failed(outcome_fn *done, void *arg, int err, const char *why)
{
    struct outcome o = {.verdict = TOKEN_FAILED, .err = err, .why = why};
    done(arg, &o);
}
