/* What the givers of tokens answer, from bytes to typed values. Pure functions; every byte is
 * hostile. Shapes: the authority and the metadata services answer RFC 6749's JSON with
 * variations, az and azd print documents of their own. */
#ifndef ACAFS_CREDENTIAL_ANSWER_H
#define ACAFS_CREDENTIAL_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "util/buf.h"

/* A bearer token. Zero-initialise; token_free wipes. */
struct token {
    char *text;     /* a secret of secret.h */
    time_t expires; /* 0: not known */
    time_t refresh; /* when to ask for the next, from refresh_in; 0: was not told */
};
void token_free(struct token *);

/* Each fills out and returns 0, or -EPROTO with *why (a literal) saying what is wrong, or -ENOMEM. `now`
 * is when the answer came. */
int answer_token(const char *body, size_t len, time_t now, struct token *out, const char **why);
int answer_az(const char *output, size_t len, time_t now, struct token *out, const char **why);
int answer_azd(const char *output, size_t len, time_t now, struct token *out, const char **why);
/* A token as it is, its end taken from its own claims where it has such. */
int answer_plain(const char *text, struct token *out, const char **why);

/* Appends what an error answer says: the code, the first line of the description and the
 * correlation id where there are such, else the status alone. 0 or -ENOMEM. */
int answer_refusal(struct buf *out, int status, const char *body, size_t len,
                   const char *const *secrets);

/* The dates App Service and az write: "MM/DD/YYYY HH:MM:SS[ AM|PM] +00:00", RFC 3339,
 * and "YYYY-MM-DD HH:MM:SS[.f]" in local time. 0 or -EINVAL. */
int answer_date(const char *text, time_t *out);

/* The path in `Basic realm=PATH` of Azure Arc's challenge, where it is NAME.key in `directory`:
 * malloc'd, or NULL with *why (a literal). Touches no file. */
char *answer_arc_key(const char *www_authenticate, const char *directory, const char **why);

/* What a JWT says of itself, not verified: for people only. Strings are malloc'd, printable, or
 * NULL. False when the token is no JWT. */
struct claims {
    char *tenant, *principal, *object, *audience;
    bool is_application;
    time_t expires;
};
bool claims_read(const char *token, struct claims *out);
void claims_free(struct claims *);

#endif
