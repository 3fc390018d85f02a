/* Certificates pinned by thumbprint, as Service Fabric's token service has them: its certificate
 * is its own, and the platform tells the thumbprint in the environment. */
#ifndef ACAFS_HTTP_PIN_H
#define ACAFS_HTTP_PIN_H

#include <curl/curl.h>

/* From now on the handle's TLS peer is whoever holds the certificate with this thumbprint (hex,
 * SHA-1 or SHA-256, colons and spaces ignored; borrowed), and nobody else. Names, dates and issuers
 * don't count. */
void http_pin(CURL *, const char *thumbprint);

#endif
