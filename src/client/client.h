/* From settings to a session client: the engine, the credential and the session that acafs and
 * acarun talk to their pool with. */
#ifndef ACAFS_CLIENT_CLIENT_H
#define ACAFS_CLIENT_CLIENT_H

#include "config/config.h"
#include "credential/credential.h"
#include "http/http.h"
#include "loop/loop.h"
#include "session/session.h"

/* Zero-initialise. */
struct client {
    struct http *http;
    struct credential *credential; /* NULL: the pool on this machine */
    struct session *session;
};

/* Takes tokens out of the reach of core dumps and of other processes. */
void client_harden(void);

/* Whether the pool is the one on this machine. */
bool client_is_local(const struct config *);
/* Makes sure that the pool on this machine runs, when that is the one: 0, or -errno with *why
 * (malloc'd, one line). Blocks for as long as that takes. */
int client_ensure_local(const struct config *, char **why);

/* The credential that the settings ask for: 0, or -errno with *why as above. quiet: its failures
 * are not logged, the caller tells of them. */
int client_credential(struct loop *, struct http *, const struct config *, bool quiet,
                      struct credential **out, char **why);

/* For the session that the settings name: 0, or -errno with *why as above, one line that begins
 * with what it is about. Whatever it returns, client_free() ends it. user_agent: "program/version
 * (Language=C)". */
int client_new(struct client *, struct loop *, const struct config *, const char *user_agent,
               char **why);
void client_free(struct client *);
/* Another session of the same pool, over the same engine and credential; the caller's, who frees it
 * before the client. 0 or -errno with *why. */
int client_session(const struct client *, struct loop *, const struct config *,
                   const char *identifier, struct session **out, char **why);

/* Appends what a person can make of an error: status, message, and what to do about it. */
int client_explain(struct buf *, const struct session_error *);

#endif
