/* The seam of this module: each credential of the chain is one `struct link`, a table of
 * functions. What they are set up with is in struct settings. */
#ifndef ACAFS_CREDENTIAL_LINK_H
#define ACAFS_CREDENTIAL_LINK_H

#include <stdbool.h>
#include <time.h>

#include "credential/answer.h"
#include "credential/credential.h"

#define CREDENTIAL_SCOPE CREDENTIAL_RESOURCE "/.default"

/* Options and environment together; what is not set is NULL, never empty. */
struct settings {
    struct loop *loop;
    struct http *http;
    time_t (*now)(void);
    char *kind;
    char *tenant, *client;
    char *tool_tenant; /* the tenant az and azd are asked for: only when the options name it */
    char *secret;      /* of secret.h, as is certificate_password */
    char *secret_file;
    char *certificate, *certificate_password, *certificate_password_file;
    bool send_chain;
    char *authority; /* without '/' at its end */
    char *federated_file;
    /* What platforms set for their managed identities. */
    char *identity_endpoint, *identity_thumbprint, *imds_endpoint, *msi_endpoint, *pod_authority;
    char *ml_client; /* DEFAULT_IDENTITY_CLIENT_ID: Azure ML's identity unless another is named */
    char *identity_header, *msi_secret; /* of secret.h */
    char *arc_directory;
    int64_t imds_backoff_ms;
    bool alone; /* nothing comes after it: one credential was named, or one gave a token and is kept */
};
int settings_load(struct settings *, const struct credential_options *, char **why);
void settings_free(struct settings *);

enum verdict {
    TOKEN_GIVEN,
    TOKEN_UNAVAILABLE, /* not set up here: the next link's turn */
    TOKEN_FAILED,      /* set up, but refused or broken: the end, unless it is a developer's tool */
};

struct outcome {
    enum verdict verdict;
    int err;            /* -errno for the requests that wait, unless given */
    struct token token; /* whoever takes it zeroes it; else it is wiped */
    const char *why;    /* one line, unless given; no secret in it */
};
typedef void outcome_fn(void *arg, struct outcome *);

struct link {
    const char *name; /* as in AZURE_TOKEN_CREDENTIALS */
    const char *word; /* as in [auth] credential */
    bool developer;   /* a tool of developers: its failures pass on */
    /* Asks for a token. done runs exactly once: from within (then NULL is returned), or later,
     * unless cancel comes first. */
    void *(*start)(const struct settings *, outcome_fn *done, void *arg);
    void (*cancel)(void *attempt);
};

extern const struct link environment_link, workload_link, managed_link, az_link, azd_link;

/* Shorthands for outcomes without a token; why is a literal or lives during the call. */
void outcome_unavailable(outcome_fn *, void *arg, const char *why);
void outcome_failed(outcome_fn *, void *arg, int err, const char *why);

#endif
