#include "client/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "local/local.h"
#include "util/cleanup.h"

void client_harden(void)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
#if !defined(__SANITIZE_ADDRESS__)
    prctl(PR_SET_DUMPABLE, 0);
#endif
}

bool client_is_local(const struct config *c)
{
    return strcmp(c->endpoint, "local") == 0;
}

int client_ensure_local(const struct config *c, char **why)
{
    if (!client_is_local(c))
        return 0;
    credential_forget_environment(); /* the pool would inherit them, and it runs foreign code */
    return local_pool_ensure(c->local_socket, c->local_pool, why);
}

int client_credential(struct loop *loop, struct http *http, const struct config *c, bool quiet,
                      struct credential **out, char **why)
{
    const struct credential_options options = {
        .kind = c->credential,
        .token = getenv("ACAFS_TOKEN"),
        .token_file = c->token_file,
        .tenant_id = c->tenant_id,
        .client_id = c->client_id,
        .client_secret_file = c->client_secret_file,
        .certificate = c->certificate,
        .certificate_password_file = c->certificate_password_file,
        .authority = c->authority,
        .federated_token_file = c->federated_token_file,
        .send_certificate_chain = c->send_certificate_chain,
        .quiet = quiet,
    };
    return credential_new(loop, http, &options, out, why);
}

/* Puts in front of *why what it is about. */
static int about(int err, const char *what, char **why)
{
    struct buf line = {0};
    buf_addf(&line, "%s: %s", what, *why ? *why : strerror(-err));
    free(*why);
    *why = buf_take(&line);
    return err;
}

int client_session(const struct client *client, struct loop *loop, const struct config *c,
                   const char *identifier, struct session **out, char **why)
{
    bool local = client_is_local(c);
    const struct session_options options = {
        .endpoint = local ? "http://localhost" : c->endpoint,
        .unix_socket = local ? c->local_socket : NULL,
        .identifier = identifier,
        .api_version = c->api_version,
        .deadline_ms = c->read_ms,
    };
    const struct http_authorizer *auth =
        client->credential ? credential_authorizer(client->credential) : NULL;
    int err = session_new(loop, client->http, auth, &options, out, why);
    return err ? about(err, "session", why) : 0;
}

int client_new(struct client *client, struct loop *loop, const struct config *c,
               const char *user_agent, char **why)
{
    const struct http_options http = {
        .user_agent = user_agent,
        .connect_ms = c->connect_ms,
        .idle_ms = c->read_ms,
        .retries = c->max_retries,
        .max_transfers = c->max_transfers,
    };
    int err = http_new(loop, &http, &client->http);
    if (err)
        return about(err, "http", why);
    if (!client_is_local(c))
        err = client_credential(loop, client->http, c, false, &client->credential, why);
    if (err)
        return about(err, "credential", why);
    return client_session(client, loop, c, c->session, &client->session, why);
}

void client_free(struct client *client)
{
    if (client->session)
        session_free(client->session);
    if (client->credential)
        credential_free(client->credential);
    if (client->http)
        http_free(client->http);
    client->session = NULL;
    client->credential = NULL;
    client->http = NULL;
}

static const char *advice(enum session_hint hint)
{
    switch (hint) {
    case HINT_TOKEN:
        return " (the token was refused: is its audience " CREDENTIAL_RESOURCE "?)";
    case HINT_ROLE:
        return " (the role 'Azure ContainerApps Session Executor' on the pool is missing, or not "
               "yet in effect)";
    default:
        return "";
    }
}

int client_explain(struct buf *out, const struct session_error *e)
{
    int err = e->status ? buf_addf(out, "HTTP %d: ", e->status) : 0;
    const char *message = e->message ? e->message : strerror(-e->err);
    return err ? err : buf_addf(out, "%s%s", message, advice(e->hint));
}
