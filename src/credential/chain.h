/* The chain: its order, which links of it take part, the walk along it, and the words for a walk
 * that found no token. The first link that gives a token is asked alone from then on. */
#ifndef ACAFS_CREDENTIAL_CHAIN_H
#define ACAFS_CREDENTIAL_CHAIN_H

#include "credential/link.h"

struct chain;

/* Chooses the links by settings->kind, and notes there when it is one alone. 0, -ENOMEM, or -EINVAL
 * with *why (malloc'd) for a word that names none. The settings are borrowed. */
int chain_new(struct settings *, struct chain **out, char **why);
void chain_free(struct chain *);
/* Whether a word names links. */
bool chain_has(const char *word);

/* Asks for a token, one walk at a time. done runs once, from the loop; outcome.why is one line.
 * chain_free() forgets it. */
void chain_start(struct chain *, outcome_fn *done, void *arg);

/* The i-th link, those that don't take part included; false when there is none. */
bool chain_link(const struct chain *, unsigned i, struct credential_link *out);
/* Name of the link that gave the last token, or NULL. */
const char *chain_kept(const struct chain *);

/* After a walk without a token: every link with its reason, and what to do. */
int chain_explain(const struct chain *, struct buf *out);

#endif
