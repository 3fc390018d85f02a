/* The developers' tools, az and azd: whoever is logged in there gets a token. */
#include "credential/link.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "credential/process.h"
#include "credential/secret.h"
#include "util/cleanup.h"
#include "util/json.h"

enum {
    DEADLINE_MS = 10000,
    QUOTED = 300,
};

struct tool {
    const char *program, *title;
    const char *const *arguments; /* after the program's name */
    const char *tenant_option;
    const char *extra; /* environment */
    int (*parse)(const char *, size_t, time_t, struct token *, const char **why);
    const char *const *login_marks; /* in its stderr: nobody is logged in */
    const char *login;
};

static const struct tool az = {
    .program = "az",
    .title = "the Azure CLI",
    .arguments = (const char *const[]){"account", "get-access-token", "--output", "json",
                                       "--resource", CREDENTIAL_RESOURCE, NULL},
    .tenant_option = "--tenant",
    .extra = "AZURE_CORE_NO_COLOR=true",
    .parse = answer_az,
    .login_marks = (const char *const[]){"az login", "az account set", NULL},
    .login = "az login",
};

static const struct tool azd = {
    .program = "azd",
    .title = "the Azure Developer CLI",
    .arguments = (const char *const[]){"auth", "token", "--output", "json", "--no-prompt",
                                       "--scope", CREDENTIAL_SCOPE, NULL},
    .tenant_option = "--tenant-id",
    .parse = answer_azd,
    .login_marks = (const char *const[]){"azd auth login", "not logged in", NULL},
    .login = "azd auth login",
};

struct attempt {
    const struct settings *settings;
    const struct tool *tool;
    outcome_fn *done;
    void *arg;
    struct process *process;
};

/* --- what it said */

static bool names(const struct buf *errors, const char *word)
{
    return errors->len && memmem(errors->data, errors->len, word, strlen(word));
}

/* What Entra ID refused (AADSTS…) ends with the advice to log in, too; but its words say more. */
static bool nobody_logged_in(const struct tool *t, const struct buf *errors)
{
    if (names(errors, "AADSTS"))
        return false;
    for (const char *const *mark = t->login_marks; *mark; mark++) {
        if (names(errors, *mark))
            return true;
    }
    return false;
}

static void quote(struct buf *why, const char *text, size_t len)
{
    static const char blanks[] = " \t\r\n";
    while (len && strchr(blanks, *text)) {
        text++;
        len--;
    }
    while (len && strchr(blanks, text[len - 1]))
        len--;
    if (len)
        secret_quote(why, text, len, QUOTED, NULL);
}

/* azd wraps what it says, a line each: {"type":"consoleMessage",…,"data":{"message":"…"}}. */
static void quote_errors(struct buf *why, const struct buf *said)
{
    const char *text = said->data ? said->data : "";
    _cleanup_json_ cJSON *json = json_parse(text, strcspn(text, "\n"));
    const char *message = json_string(json_object(json, "data"), "message");
    if (message)
        quote(why, message, strlen(message));
    else
        quote(why, text, said->len);
}

static void failure(const struct tool *t, const struct process_result *r, struct buf *why)
{
    if (r->err == -ETIMEDOUT)
        buf_addf(why, "%s gave no answer within 10 s and was killed", t->program);
    else if (r->err == -EFBIG)
        buf_addf(why, "%s printed far more than a token", t->program);
    else if (r->err)
        buf_addf(why, "%s could not be watched: %s", t->program, strerror(-r->err));
    else if (r->exit_code < 0)
        buf_addf(why, "%s was killed by a signal", t->program);
    else
        buf_addf(why, "%s ended with %d: ", t->program, r->exit_code);
    if (!r->err && r->exit_code >= 0)
        quote_errors(why, r->errors->len ? r->errors : r->out);
}

static void ended(void *arg, const struct process_result *r)
{
    struct attempt *a = arg;
    const struct tool *t = a->tool;
    struct outcome o = {.verdict = TOKEN_FAILED, .err = -EACCES};
    _cleanup_buf_ struct buf why = {0};
    const char *wrong;
    if (r->err || r->exit_code != 0) {
        if (!r->err && nobody_logged_in(t, r->errors)) {
            o.verdict = TOKEN_UNAVAILABLE;
            buf_addf(&why, "%s is not logged in: run `%s`", t->program, t->login);
        } else {
            failure(t, r, &why);
        }
    } else if (t->parse(r->out->data ? r->out->data : "", r->out->len, a->settings->now(), &o.token,
                        &wrong)) {
        buf_addf(&why, "%s ran, but %s", t->program, wrong);
    } else {
        o.verdict = TOKEN_GIVEN;
    }
    o.why = why.len ? why.data : NULL;
    a->done(a->arg, &o);
    token_free(&o.token);
    free(a);
}

/* --- running it */

static void *start(const struct tool *t, const struct settings *s, outcome_fn *done, void *arg)
{
    _cleanup_free_ char *program = process_find(t->program);
    _cleanup_buf_ struct buf why = {0};
    if (!program) {
        buf_addf(&why, "%s (%s) is not installed, or not in PATH", t->title, t->program);
        outcome_unavailable(done, arg, why.data);
        return NULL;
    }
    const char *argv[16] = {program};
    unsigned n = 1;
    for (const char *const *argument = t->arguments; *argument; argument++)
        argv[n++] = *argument;
    if (s->tool_tenant) {
        argv[n++] = t->tenant_option;
        argv[n++] = s->tool_tenant;
    }
    struct attempt *a = calloc(1, sizeof *a);
    int err = a ? 0 : -ENOMEM;
    if (a) {
        *a = (struct attempt){.settings = s, .tool = t, .done = done, .arg = arg};
        err = process_start(s->loop, argv, t->extra, DEADLINE_MS, ended, a, &a->process);
    }
    if (!err)
        return a;
    free(a);
    buf_addf(&why, "%s can't be run: %s", program, strerror(-err));
    outcome_failed(done, arg, -EACCES, why.data);
    return NULL;
}

static void *start_az(const struct settings *s, outcome_fn *done, void *arg)
{
    return start(&az, s, done, arg);
}

static void *start_azd(const struct settings *s, outcome_fn *done, void *arg)
{
    return start(&azd, s, done, arg);
}

static void cancel(void *attempt)
{
    struct attempt *a = attempt;
    process_cancel(a->process);
    free(a);
}

const struct link az_link = {
    .name = "AzureCliCredential",
    .word = "azure-cli",
    .developer = true,
    .start = start_az,
    .cancel = cancel,
};

const struct link azd_link = {
    .name = "AzureDeveloperCliCredential",
    .word = "azd",
    .developer = true,
    .start = start_azd,
    .cancel = cancel,
};
