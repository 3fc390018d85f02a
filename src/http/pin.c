#include "http/pin.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

static bool same_hex(const char *told, const unsigned char *digest, unsigned len)
{
    for (unsigned i = 0; i < 2 * len; i++) {
        while (*told == ':' || isspace((unsigned char)*told))
            told++;
        char digit = "0123456789abcdef"[digest[i / 2] >> (i % 2 ? 0 : 4) & 15];
        if (tolower((unsigned char)*told++) != digit)
            return false;
    }
    return *told == '\0';
}

/* Stands in for OpenSSL's walk up the chain. */
static int verify(X509_STORE_CTX *context, void *thumbprint)
{
    const EVP_MD *const kinds[] = {EVP_sha1(), EVP_sha256()};
    X509 *peer = X509_STORE_CTX_get0_cert(context);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len;
    for (size_t i = 0; peer && i < sizeof kinds / sizeof *kinds; i++) {
        if (X509_digest(peer, kinds[i], digest, &len) && same_hex(thumbprint, digest, len)) {
            X509_STORE_CTX_set_error(context, X509_V_OK);
            return 1;
        }
    }
    X509_STORE_CTX_set_error(context, X509_V_ERR_CERT_REJECTED);
    return 0;
}

static CURLcode set_verify(CURL *easy, void *context, void *thumbprint)
{
    SSL_CTX_set_cert_verify_callback(context, verify, thumbprint);
    return CURLE_OK;
}

void http_pin(CURL *easy, const char *thumbprint)
{
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
    /* A resumed session shows no certificate. */
    curl_easy_setopt(easy, CURLOPT_SSL_SESSIONID_CACHE, 0L);
    curl_easy_setopt(easy, CURLOPT_SSL_CTX_DATA, (void *)thumbprint);
    if (curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, set_verify)) {
        /* A libcurl without OpenSSL can't pin. An authority list that doesn't exist refuses all. */
        curl_easy_setopt(easy, CURLOPT_CAINFO, "/nonexistent");
    }
}
