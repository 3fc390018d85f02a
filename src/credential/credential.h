/* Bearer tokens for the pool, after DefaultAzureCredential: a chain of credentials, the
 * first that gives a token is kept. See src/README.md and the man page acafs(8).
 *
 * Tokens are cached and refreshed ahead of expiry; one refresh is in flight at a time
 * and every caller waits for that one. Runs on the loop. */
#ifndef ACAFS_CREDENTIAL_CREDENTIAL_H
#define ACAFS_CREDENTIAL_CREDENTIAL_H

#include <time.h>

#include "http/http.h"
#include "loop/loop.h"
#include "util/buf.h"

#define CREDENTIAL_RESOURCE "https://dynamicsessions.io"

struct credential;

/* All strings may be NULL and are copied. */
struct credential_options {
    const char *kind;  /* NULL or "default": the chain; "none"; "token"; or one credential's name
                          as in AZURE_TOKEN_CREDENTIALS (environment, workload-identity,
                          managed-identity, azure-cli, azd; Azure's own names too; prod, dev) */
    const char *token; /* ACAFS_TOKEN: used as it is, before the chain */
    const char *token_file; /* read anew at each need */
    const char *tenant_id, *client_id, *client_secret, *client_secret_file;
    const char *certificate, *certificate_password_file;
    const char *authority; /* AZURE_AUTHORITY_HOST */
    const char *federated_token_file;
    bool send_certificate_chain;
    bool quiet; /* the caller tells of failures: they are not logged */

    /* For tests; zero is the real thing. */
    time_t (*now)(void);
    int64_t imds_backoff_ms;   /* before the first retry; 800 */
    const char *arc_directory; /* where Azure Arc's agent keeps its keys */
};

/* 0, or -errno with *why (malloc'd, one or more lines for people) saying what is wrong with the
 * options. Reads AZURE_* from the environment for what options leave open, and takes the secrets
 * out of it as credential_forget_environment() does. Names of files that are relative are looked
 * for in $CREDENTIALS_DIRECTORY first. */
int credential_new(struct loop *, struct http *, const struct credential_options *,
                   struct credential **out, char **why);
/* Whether there is such a kind. */
bool credential_is_kind(const char *kind);
/* Those who wait are forgotten. */
void credential_free(struct credential *);
/* Overwrites and unsets AZURE_CLIENT_SECRET, ACAFS_TOKEN and the like, so that they show neither in
 * /proc/PID/environ nor in children: for a program that needs no credential. */
void credential_forget_environment(void);

/* The table http wants; owned by the credential. NULL for kind "none". */
const struct http_authorizer *credential_authorizer(struct credential *);

/* A new JSON object for .acafs/status: which credential is in use, expiry, reasons. */
struct cJSON *credential_status(const struct credential *);

/* What each credential of the chain said, in order. For login-check and messages. */
enum credential_state {
    CREDENTIAL_UNTRIED,
    CREDENTIAL_SKIPPED, /* not set up here */
    CREDENTIAL_FAILED,  /* set up, but gave no token */
    CREDENTIAL_CHOSEN,
};
struct credential_link {
    const char *name; /* as Azure's libraries call it */
    enum credential_state state;
    const char *why; /* one line, NULL when untried or chosen */
};
/* False when there is no i-th. Strings live until the credential is used again. */
bool credential_link(const struct credential *, unsigned i, struct credential_link *out);
/* Why there is no token: several lines, every link with its reason and what to do, no '\n' at the
 * end. NULL when the last attempt gave one. */
const char *credential_why(const struct credential *);
/* When the token held ends, in time(2) seconds; 0 when there is none or its end is not known. */
time_t credential_expires(const struct credential *);

#endif
