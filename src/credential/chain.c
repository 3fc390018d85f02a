#include "credential/chain.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util/cleanup.h"

/* The order of DefaultAzureCredential in Azure's SDK for Go. */
static const struct link *const order[] = {&environment_link, &workload_link, &managed_link,
                                           &az_link, &azd_link};
enum { LINKS = sizeof order / sizeof *order };

/*     IDLE ──chain_start──▶ ASKING link i ──given──▶ IDLE, i is kept
 *                             ▲    │
 *                             └────┤ unavailable, or a developer's tool failed: the next
 *                                  └──failed, or none is left──▶ IDLE
 */
struct chain {
    struct settings *settings;
    struct place {
        bool takes_part;
        enum credential_state state;
        char *why;
    } places[LINKS];
    int kept; /* -1: none yet */
    int at;   /* the link being asked */
    void *asking;
    struct loop_timer step;
    int err; /* of the last link that failed */
    outcome_fn *done;
    void *arg;
};

/* --- which links */

static bool is_named(const struct link *l, const char *word)
{
    return strcasecmp(word, l->name) == 0 || strcasecmp(word, l->word) == 0;
}

bool chain_has(const char *word)
{
    bool found = strcasecmp(word, "prod") == 0 || strcasecmp(word, "dev") == 0;
    for (int i = 0; i < LINKS; i++)
        found = found || is_named(order[i], word);
    return found;
}

static int unknown(const char *word, char **why)
{
    struct buf text = {0};
    buf_addf(&text,
             "AZURE_TOKEN_CREDENTIALS (or [auth] credential) %s: not known; there are prod, dev",
             word);
    for (int i = 0; i < LINKS; i++)
        buf_addf(&text, ", %s", order[i]->name);
    *why = buf_take(&text);
    return -EINVAL;
}

static int choose(struct chain *c, struct settings *s, char **why)
{
    const char *word = s->kind;
    bool prod = !word || strcasecmp(word, "prod") == 0, dev = !word || strcasecmp(word, "dev") == 0;
    unsigned count = 0;
    for (int i = 0; i < LINKS; i++) {
        bool named = word && is_named(order[i], word);
        c->places[i].takes_part = named || (order[i]->developer ? dev : prod);
        count += c->places[i].takes_part;
    }
    s->alone = count == 1;
    return count ? 0 : unknown(word, why);
}

/* --- the walk */

static void forget(struct chain *c, int i)
{
    free(c->places[i].why);
    c->places[i].why = NULL;
    c->places[i].state = CREDENTIAL_UNTRIED;
}

static void end(struct chain *c, struct outcome *o)
{
    outcome_fn *done = c->done;
    c->done = NULL;
    done(c->arg, o);
}

/* Whether place i says it all: it ended the walk, or it was asked alone. */
static bool has_last_word(const struct chain *c, int i)
{
    const struct place *p = &c->places[i];
    if (c->settings->alone)
        return c->kept >= 0 ? i == c->kept : p->takes_part;
    return p->state == CREDENTIAL_FAILED && !order[i]->developer;
}

static void end_without(struct chain *c)
{
    _cleanup_buf_ struct buf why = {0};
    struct outcome o = {.verdict = TOKEN_UNAVAILABLE, .err = c->err};
    for (int i = 0; i < LINKS && !why.len; i++) {
        if (c->places[i].why && has_last_word(c, i))
            buf_addf(&why, "%s: %s", order[i]->name, c->places[i].why);
    }
    if (!why.len)
        buf_adds(&why, "no credential gave a token: `acafs login-check` shows why");
    o.why = why.data;
    end(c, &o);
}

static void link_done(void *arg, struct outcome *o)
{
    struct chain *c = arg;
    struct place *p = &c->places[c->at];
    c->asking = NULL;
    if (o->verdict == TOKEN_GIVEN) {
        p->state = CREDENTIAL_CHOSEN;
        c->kept = c->at;
        c->settings->alone = true;
        end(c, o);
        return;
    }
    p->state = o->verdict == TOKEN_FAILED ? CREDENTIAL_FAILED : CREDENTIAL_SKIPPED;
    p->why = strdup(o->why ? o->why : strerror(-o->err));
    if (o->verdict == TOKEN_FAILED || c->settings->alone) /* it may be there another time */
        c->err = o->err ? o->err : -EACCES;
    bool pass_on = c->kept < 0 && (o->verdict == TOKEN_UNAVAILABLE || order[c->at]->developer);
    c->at = pass_on ? c->at + 1 : LINKS;
    /* Links may answer from within start(): the next is asked from the loop, not from here. */
    loop_timer_set(&c->step, 0);
}

static void step(void *arg)
{
    struct chain *c = arg;
    while (c->at < LINKS && !c->places[c->at].takes_part)
        c->at++;
    if (c->at == LINKS) {
        end_without(c);
        return;
    }
    void *attempt = order[c->at]->start(c->settings, link_done, c);
    if (attempt)
        c->asking = attempt;
}

void chain_start(struct chain *c, outcome_fn *done, void *arg)
{
    c->done = done;
    c->arg = arg;
    c->err = -EACCES;
    c->at = c->kept >= 0 ? c->kept : 0;
    for (int i = c->at; i < LINKS; i++)
        forget(c, i);
    loop_timer_set(&c->step, 0);
}

/* --- */

int chain_new(struct settings *s, struct chain **out, char **why)
{
    struct chain *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->settings = s;
    c->kept = -1;
    loop_timer_init(&c->step, s->loop, step, c);
    int err = choose(c, s, why);
    if (err) {
        chain_free(c);
        return err;
    }
    *out = c;
    return 0;
}

void chain_free(struct chain *c)
{
    if (!c)
        return;
    if (c->asking)
        order[c->at]->cancel(c->asking);
    loop_timer_stop(&c->step);
    for (int i = 0; i < LINKS; i++)
        forget(c, i);
    free(c);
}

bool chain_link(const struct chain *c, unsigned i, struct credential_link *out)
{
    if (i >= LINKS)
        return false;
    const struct place *p = &c->places[i];
    *out = (struct credential_link){.name = order[i]->name, .state = p->state, .why = p->why};
    if (!p->takes_part)
        out->why = "left out by AZURE_TOKEN_CREDENTIALS or [auth] credential";
    return true;
}

const char *chain_kept(const struct chain *c)
{
    return c->kept < 0 ? NULL : order[c->kept]->name;
}

/* --- words */

static const char advice[] =
    "What gives a token, any one of:\n"
    "  your own login:       az login (or azd auth login)\n"
    "  a service principal:  AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET\n"
    "                        (or AZURE_CLIENT_CERTIFICATE_PATH)\n"
    "  a managed identity:   assign one to this machine or app; AZURE_CLIENT_ID names a\n"
    "                        user-assigned one\n"
    "  a token you have:     ACAFS_TOKEN";

static const char *how(const struct place *p)
{
    switch (p->state) {
    case CREDENTIAL_SKIPPED:
        return "skipped: ";
    case CREDENTIAL_FAILED:
        return "failed: ";
    case CREDENTIAL_CHOSEN:
        return "gave a token";
    case CREDENTIAL_UNTRIED:
        break;
    }
    return p->takes_part ? "not asked" : "left out by AZURE_TOKEN_CREDENTIALS or [auth] credential";
}

int chain_explain(const struct chain *c, struct buf *out)
{
    int err = buf_adds(out, "no token for " CREDENTIAL_RESOURCE ":");
    const char *stopped = NULL;
    for (int i = 0; i < LINKS && !err; i++) {
        const struct place *p = &c->places[i];
        if (p->state == CREDENTIAL_FAILED && !order[i]->developer)
            stopped = order[i]->name;
        err = buf_addf(out, "\n  %s: %s%s", order[i]->name, how(p), p->why ? p->why : "");
    }
    if (err)
        return err;
    if (stopped)
        return buf_addf(out,
                        "\n%s is set up, so nothing after it was asked: correct it, or unset it.",
                        stopped);
    return buf_addf(out, "\n%s", advice);
}
