/* Bearer tokens for the pool, after DefaultAzureCredential: a chain of credentials, the
 * first that gives a token is kept. See src/README.md and the man page acafs(8).
 *
 * Tokens are cached and refreshed ahead of expiry; one refresh is in flight at a time
 * and every caller waits for that one. Runs on the loop. */
#ifndef ACAFS_CREDENTIAL_CREDENTIAL_H
#define ACAFS_CREDENTIAL_CREDENTIAL_H

#include "http/http.h"
#include "loop/loop.h"
#include "util/buf.h"

struct credential;

/* All strings may be NULL and are copied. */
struct credential_options {
    const char *kind;  /* NULL or "default": the chain; "none"; "token"; or one credential's name
                          as in AZURE_TOKEN_CREDENTIALS (environment, workload-identity,
                          managed-identity, azure-cli, azd; Azure's own names too) */
    const char *token; /* ACAFS_TOKEN: used as it is, before the chain */
    const char *token_file; /* read anew at each need */
    const char *tenant_id, *client_id, *client_secret, *client_secret_file;
    const char *certificate, *certificate_password_file;
    const char *authority;  /* AZURE_AUTHORITY_HOST */
    const char *federated_token_file;
    bool send_certificate_chain;
};

/* 0, or -errno with *why (malloc'd, one or more lines for people) saying what is wrong with the
 * options. Reads AZURE_* from the environment for what options leave open. */
int credential_new(struct loop *, struct http *, const struct credential_options *,
                   struct credential **out, char **why);
void credential_free(struct credential *);

/* The table http wants; owned by the credential. NULL for kind "none". */
const struct http_authorizer *credential_authorizer(struct credential *);

/* Appends a JSON object for .acafs/status: which credential is in use, expiry, reasons. */
struct cJSON *credential_status(const struct credential *);

#endif
