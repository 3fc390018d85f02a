#include "credential/credential.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <utlist.h>

#include "credential/chain.h"
#include "credential/link.h"
#include "credential/secret.h"
#include "util/cleanup.h"
#include "util/log.h"

enum {
    AHEAD_S = 300,    /* a token is renewed from so long before its end */
    PAUSE_S = 30,     /* between attempts while the token at hand is good */
    HOLD_S = 5,       /* a failure answers those who ask within so long: not every read of a mount
                         shall run az */
    LOG_PAUSE_S = 60, /* between failures whose words differ; a trace id makes each one differ */
    REFUSALS = 4,     /* in PAUSE_S: a pool that refuses whatever comes is not the token's fault */
    MAX_TOKEN_FILE = 64 << 10,
};

enum source { SOURCE_NONE, SOURCE_TOKEN, SOURCE_FILE, SOURCE_CHAIN };

struct waiter {
    struct waiter *prev, *next;
    http_token_fn *done;
    void *arg;
    unsigned round; /* of deliveries: one that joins during a delivery waits for the next */
};

struct credential {
    struct settings settings;
    struct http_authorizer authorizer;
    enum source source;
    struct chain *chain;
    char *token_file;
    bool told; /* that every user may read the file */
    bool quiet;

    struct token token; /* text NULL: none */
    bool fetching;      /* a walk of the chain is under way */
    time_t pause_until; /* no early renewal before */
    time_t refused_since;
    unsigned refusals; /* from then on */
    struct waiter *waiters;
    unsigned round;

    bool failed;
    time_t failed_at, logged_at;
    int err;
    char *line, *why; /* of the failure: one line, and all of it */
};

/* --- failures */

static void forget_failure(struct credential *c)
{
    free(c->line);
    free(c->why);
    c->line = c->why = NULL;
    c->failed = false;
}

/* Without a credential nothing goes: whoever looks at the log, at any level, sees why. */
static void log_failure(struct credential *c)
{
    const char *text = c->why;
    c->logged_at = c->failed_at;
    while (*text) {
        size_t len = strcspn(text, "\n");
        log_write(c->chain ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING, "%.*s", (int)len, text);
        text += len;
        text += *text == '\n';
    }
}

static bool is_news(const struct credential *c, const char *before)
{
    if (!before)
        return true;
    return strcmp(before, c->why) != 0 &&
           (c->failed_at < c->logged_at || c->failed_at - c->logged_at >= LOG_PAUSE_S);
}

static void note_failure(struct credential *c, int err, const char *line)
{
    _cleanup_free_ char *before = c->why;
    struct buf why = {0};
    c->why = NULL;
    free(c->line);
    c->line = strdup(line);
    c->err = err;
    c->failed = true;
    c->failed_at = c->settings.now();
    if (c->chain)
        chain_explain(c->chain, &why);
    else
        buf_adds(&why, line);
    c->why = buf_take(&why);
    if (c->why && !c->quiet && is_news(c, before))
        log_failure(c);
}

/* --- the chain's tokens */

static bool is_good(const struct credential *c, time_t now)
{
    return c->token.text && (c->token.expires == 0 || now < c->token.expires);
}

static bool is_due(const struct credential *c, time_t now)
{
    const struct token *t = &c->token;
    if (t->expires == 0 || now < c->pause_until)
        return false;
    return now >= t->expires - AHEAD_S || (t->refresh && now >= t->refresh);
}

static void deliver(struct credential *c)
{
    unsigned round = c->round++;
    /* Whoever is told may report the token as refused before the next is told. */
    bool good = c->token.text && !c->failed;
    _cleanup_secret_ char *text = good ? secret_new(c->token.text, strlen(c->token.text)) : NULL;
    _cleanup_free_ char *line = c->line ? strdup(c->line) : NULL;
    int err = text ? 0 : good ? -ENOMEM : c->err;
    while (c->waiters && c->waiters->round <= round) {
        struct waiter *w = c->waiters;
        DL_DELETE(c->waiters, w);
        w->done(w->arg, err, text, err ? line : NULL);
        free(w);
    }
}

static void log_token(const struct credential *c)
{
    char until[32] = "?";
    struct tm tm;
    if (gmtime_r(&c->token.expires, &tm))
        strftime(until, sizeof until, "%Y-%m-%dT%H:%M:%SZ", &tm);
    log_info("%s gave a token, good until %s", chain_kept(c->chain), until);
}

/* A token that is over the moment it comes: this machine's clock is ahead. Whether it serves is for
 * the pool to say; without a pause every request would fetch another. */
static void distrust_clock(struct credential *c, time_t now)
{
    if (c->token.expires == 0 || c->token.expires > now)
        return;
    log_warning("the new token ended %lld s ago by this machine's clock: is it right?",
                (long long)(now - c->token.expires));
    c->token.expires = now + PAUSE_S;
}

static void fetched(void *arg, struct outcome *o)
{
    struct credential *c = arg;
    time_t now = c->settings.now();
    c->fetching = false;
    c->pause_until = now + PAUSE_S;
    if (o->verdict == TOKEN_GIVEN) {
        forget_failure(c);
        token_free(&c->token);
        c->token = o->token;
        o->token = (struct token){0};
        log_token(c);
        distrust_clock(c, now);
    } else if (is_good(c, now)) {
        log_warning("no new token yet, the old one is good for another %lld s: %s",
                    (long long)(c->token.expires - now), o->why);
    } else {
        token_free(&c->token);
        note_failure(c, o->err ? o->err : -EACCES, o->why);
    }
    deliver(c);
}

static void fetch(struct credential *c)
{
    if (c->fetching)
        return;
    c->fetching = true;
    chain_start(c->chain, fetched, c);
}

static void *get_from_chain(struct credential *c, http_token_fn *done, void *arg)
{
    time_t now = c->settings.now();
    if (is_good(c, now)) {
        if (is_due(c, now))
            fetch(c);
        done(arg, 0, c->token.text, NULL);
        return NULL;
    }
    if (c->failed && !c->fetching && now >= c->failed_at && now - c->failed_at < HOLD_S) {
        done(arg, c->err, NULL, c->line);
        return NULL;
    }
    struct waiter *w = calloc(1, sizeof *w);
    if (!w) {
        done(arg, -ENOMEM, NULL, "out of memory");
        return NULL;
    }
    *w = (struct waiter){.done = done, .arg = arg, .round = c->round};
    DL_APPEND(c->waiters, w);
    fetch(c);
    return w;
}

/* --- tokens given as they are */

static void read_token_file(struct credential *c)
{
    _cleanup_buf_ struct buf why = {0};
    _cleanup_secret_ char *text = NULL;
    size_t len;
    struct token fresh = {0};
    const char *wrong;
    int err = secret_read(c->token_file, MAX_TOKEN_FILE, true, &c->told, &text, &len, &why);
    if (!err && c->token.text && strcmp(c->token.text, text) == 0)
        return;
    if (!err && (err = answer_plain(text, &fresh, &wrong)))
        buf_addf(&why, "%s: %s", c->token_file, wrong);
    token_free(&c->token);
    if (err) {
        note_failure(c, -EACCES, why.data ? why.data : "out of memory");
        return;
    }
    forget_failure(c);
    c->token = fresh;
}

static void get_given(struct credential *c, http_token_fn *done, void *arg)
{
    if (c->source == SOURCE_FILE)
        read_token_file(c);
    if (c->token.text)
        done(arg, 0, c->token.text, NULL);
    else
        done(arg, c->err, NULL, c->line);
}

/* --- what http sees */

static void *get(void *self, http_token_fn *done, void *arg)
{
    struct credential *c = self;
    if (c->source == SOURCE_CHAIN)
        return get_from_chain(c, done, arg);
    get_given(c, done, arg);
    return NULL;
}

static void cancel(void *self, void *handle)
{
    struct credential *c = self;
    struct waiter *w = handle;
    DL_DELETE(c->waiters, w);
    free(w);
}

static bool refused_too_often(struct credential *c)
{
    time_t now = c->settings.now();
    if (now < c->refused_since || now - c->refused_since >= PAUSE_S) {
        c->refused_since = now;
        c->refusals = 0;
    }
    return ++c->refusals > REFUSALS;
}

static void refused(void *self, const char *token)
{
    struct credential *c = self;
    if (!c->token.text || strcmp(c->token.text, token) != 0)
        return; /* an older one: the next is here already */
    if (refused_too_often(c))
        return;
    log_info("the pool refused the token");
    token_free(&c->token);
    if (c->source == SOURCE_TOKEN)
        note_failure(c, -EACCES,
                     "ACAFS_TOKEN: the pool refused this token (401): it has expired, or is "
                     "not for " CREDENTIAL_RESOURCE);
}

const struct http_authorizer *credential_authorizer(struct credential *c)
{
    return c && c->source != SOURCE_NONE ? &c->authorizer : NULL;
}

/* --- making */

static int copy_error(char **why, const char *text)
{
    *why = strdup(text);
    return -EINVAL;
}

static bool is_word(const char *kind, const char *word)
{
    return kind && strcmp(kind, word) == 0;
}

bool credential_is_kind(const char *kind)
{
    return is_word(kind, "default") || is_word(kind, "none") || is_word(kind, "token") ||
           chain_has(kind);
}

static int choose_source(struct credential *c, const struct credential_options *o, char **why)
{
    const char *kind = o->kind && *o->kind ? o->kind : "default";
    bool default_kind = is_word(kind, "default"), token_kind = is_word(kind, "token");
    const char *wrong;
    if (is_word(kind, "none")) {
        c->source = SOURCE_NONE;
        return 0;
    }
    if (o->token && *o->token) {
        c->source = SOURCE_TOKEN;
        int err = answer_plain(o->token, &c->token, &wrong);
        return err == -EPROTO ? copy_error(why, "ACAFS_TOKEN: not a token: a token is one word of "
                                                "printable characters")
                              : err;
    }
    if (o->token_file && *o->token_file && (default_kind || token_kind)) {
        c->source = SOURCE_FILE;
        c->token_file = secret_path(o->token_file);
        return c->token_file ? 0 : -ENOMEM;
    }
    if (token_kind)
        return copy_error(why, "credential = token needs ACAFS_TOKEN or [auth] token-file");
    c->source = SOURCE_CHAIN;
    return chain_new(&c->settings, &c->chain, why);
}

int credential_new(struct loop *loop, struct http *http, const struct credential_options *o,
                   struct credential **out, char **why)
{
    secret_wipe_on_free();
    *why = NULL;
    struct credential *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->settings.loop = loop;
    c->settings.http = http;
    c->quiet = o->quiet;
    c->authorizer =
        (struct http_authorizer){.self = c, .get = get, .cancel = cancel, .refused = refused};
    int err = settings_load(&c->settings, o, why);
    err = err ? err : choose_source(c, o, why);
    credential_forget_environment(); /* only now: o->token may point at the variable itself */
    if (err) {
        credential_free(c);
        return err;
    }
    *out = c;
    return 0;
}

void credential_forget_environment(void)
{
    secret_forget_environment();
}

void credential_free(struct credential *c)
{
    if (!c)
        return;
    struct waiter *w, *next;
    DL_FOREACH_SAFE (c->waiters, w, next) {
        DL_DELETE(c->waiters, w);
        free(w);
    }
    chain_free(c->chain);
    token_free(&c->token);
    forget_failure(c);
    free(c->token_file);
    settings_free(&c->settings);
    free(c);
}

/* --- telling */

bool credential_link(const struct credential *c, unsigned i, struct credential_link *out)
{
    if (c->source == SOURCE_CHAIN)
        return chain_link(c->chain, i, out);
    if (i > 0 || c->source == SOURCE_NONE)
        return false;
    *out = (struct credential_link){
        .name = c->source == SOURCE_TOKEN ? "ACAFS_TOKEN" : "token-file",
        .state = c->token.text ? CREDENTIAL_CHOSEN
                 : c->failed   ? CREDENTIAL_FAILED
                               : CREDENTIAL_UNTRIED,
        .why = c->token.text ? NULL : c->line,
    };
    return true;
}

const char *credential_why(const struct credential *c)
{
    return c->failed ? c->why : NULL;
}

time_t credential_expires(const struct credential *c)
{
    return c->token.expires;
}

static void add_time(cJSON *object, const char *name, time_t when)
{
    char text[32];
    struct tm tm;
    if (when && gmtime_r(&when, &tm) && strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm))
        cJSON_AddStringToObject(object, name, text);
    else
        cJSON_AddNullToObject(object, name);
}

static void add_string(cJSON *object, const char *name, const char *text)
{
    if (text)
        cJSON_AddStringToObject(object, name, text);
    else
        cJSON_AddNullToObject(object, name);
}

static const char *in_use(const struct credential *c)
{
    switch (c->source) {
    case SOURCE_NONE:
        return "none";
    case SOURCE_TOKEN:
        return "ACAFS_TOKEN";
    case SOURCE_FILE:
        return "token-file";
    case SOURCE_CHAIN:
        break;
    }
    return chain_kept(c->chain);
}

cJSON *credential_status(const struct credential *c)
{
    static const char *const states[] = {"untried", "skipped", "failed", "chosen"};
    cJSON *status = cJSON_CreateObject();
    add_string(status, "in_use", in_use(c));
    cJSON_AddBoolToObject(status, "has_token", c->token.text != NULL);
    add_time(status, "expires", c->token.expires);
    cJSON_AddBoolToObject(status, "refreshing", c->fetching);
    add_string(status, "error", c->failed ? c->line : NULL);
    cJSON *links = cJSON_AddArrayToObject(status, "links");
    struct credential_link l;
    for (unsigned i = 0; credential_link(c, i, &l); i++) {
        cJSON *link = cJSON_CreateObject();
        cJSON_AddStringToObject(link, "name", l.name);
        cJSON_AddStringToObject(link, "state", states[l.state]);
        add_string(link, "reason", l.why);
        cJSON_AddItemToArray(links, link);
    }
    return status;
}
