/* A client certificate and the assertion that proves one holds it. */
#ifndef ACAFS_CREDENTIAL_CERTIFICATE_H
#define ACAFS_CREDENTIAL_CERTIFICATE_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "util/buf.h"

struct certificate;

/* Private key and certificate, with whatever further certificates stand there, out of the bytes of a
 * PEM or PKCS#12 file. password may be NULL. 0, or -EINVAL with *why (a literal), or -ENOMEM. */
int certificate_parse(const void *bytes, size_t len, const char *password,
                      struct certificate **out, const char **why);
void certificate_free(struct certificate *);

/* Appends a signed JWT (PS256) by which `client` shows `audience` that it is the certificate's
 * holder, valid for ten minutes from now. send_chain: with all certificates (x5c), for
 * applications that trust by subject and issuer. Of a secret's kind: wipe it. 0, -EIO or -ENOMEM. */
int certificate_assertion(const struct certificate *, const char *audience, const char *client,
                          time_t now, bool send_chain, struct buf *out);

#endif
