#include "credential/certificate.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/provider.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <cjson/cJSON.h>

#include "util/cleanup.h"
#include "util/text.h"

enum { ASSERTION_LIFE_S = 600 };

struct certificate {
    EVP_PKEY *key;
    X509 *leaf;
    STACK_OF(X509) * others; /* the rest of the file, in its order; may be NULL */
};

void certificate_free(struct certificate *c)
{
    if (!c)
        return;
    EVP_PKEY_free(c->key);
    X509_free(c->leaf);
    sk_X509_pop_free(c->others, X509_free);
    free(c);
}

/* --- reading */

/* Never asks a terminal. */
static int give_password(char *out, int size, int writing, void *password)
{
    size_t len = password ? strlen(password) : 0;
    if (!len || len > (size_t)size)
        return -1;
    memcpy(out, password, len);
    return (int)len;
}

/* The certificate that belongs to the key is the leaf, wherever it stands. */
static int pick_leaf(struct certificate *c, STACK_OF(X509) * all)
{
    for (int i = 0; i < sk_X509_num(all); i++) {
        if (X509_check_private_key(sk_X509_value(all, i), c->key) == 1) {
            c->leaf = sk_X509_delete(all, i);
            c->others = all;
            return 0;
        }
    }
    sk_X509_pop_free(all, X509_free);
    return -EINVAL;
}

static int read_pem(struct certificate *c, BIO *in, const char *password, const char **why)
{
    c->key = PEM_read_bio_PrivateKey(in, NULL, give_password, (void *)password);
    if (!c->key) {
        *why = password ? "holds no private key that its password opens"
                        : "holds no private key, or one that needs a password";
        return -EINVAL;
    }
    if (BIO_reset(in) != 1)
        return -ENOMEM;
    STACK_OF(X509) *all = sk_X509_new_null();
    X509 *one;
    while (all && (one = PEM_read_bio_X509(in, NULL, give_password, (void *)password)))
        sk_X509_push(all, one);
    if (!all)
        return -ENOMEM;
    *why = sk_X509_num(all) ? "holds no certificate that belongs to its private key"
                            : "holds no certificate";
    return pick_leaf(c, all);
}

static int open_pkcs12(struct certificate *c, PKCS12 *p12, const char *password)
{
    EVP_PKEY_free(c->key);
    X509_free(c->leaf);
    sk_X509_pop_free(c->others, X509_free);
    c->key = NULL;
    c->leaf = NULL;
    c->others = NULL;
    return PKCS12_parse(p12, password, &c->key, &c->leaf, &c->others);
}

static int read_pkcs12(struct certificate *c, BIO *in, const char *password, const char **why)
{
    PKCS12 *p12 = d2i_PKCS12_bio(in, NULL);
    *why = "is neither PEM nor PKCS#12";
    if (!p12)
        return -EINVAL;
    /* No password may have been written as none or as an empty one. */
    int opened = open_pkcs12(c, p12, password) || (!password && open_pkcs12(c, p12, ""));
    if (!opened && PKCS12_verify_mac(p12, password ? password : "", -1)) {
        /* The password is right, so it is the cipher: RC2, as Windows writes. */
        OSSL_PROVIDER *legacy = OSSL_PROVIDER_try_load(NULL, "legacy", 1);
        opened = open_pkcs12(c, p12, password ? password : "");
        OSSL_PROVIDER_unload(legacy);
        *why = "is encrypted in a way that OpenSSL no longer reads";
    } else if (!opened) {
        *why = password ? "does not open with its password" : "needs a password";
    }
    PKCS12_free(p12);
    if (!opened)
        return -EINVAL;
    *why = "holds no private key with its certificate";
    return c->key && c->leaf ? 0 : -EINVAL;
}

int certificate_parse(const void *bytes, size_t len, const char *password, struct certificate **out,
                      const char **why)
{
    struct certificate *c = calloc(1, sizeof *c);
    BIO *in = len <= INT_MAX ? BIO_new_mem_buf(bytes, (int)len) : NULL;
    *why = "out of memory";
    int err = -ENOMEM;
    if (c && in) {
        bool pem = len && memmem(bytes, len, "-----BEGIN ", 11);
        err = pem ? read_pem(c, in, password, why) : read_pkcs12(c, in, password, why);
    }
    BIO_free(in);
    ERR_clear_error();
    if (!err && !EVP_PKEY_is_a(c->key, "RSA")) {
        *why = "holds a key that is not RSA: Entra ID takes RSA certificates only";
        err = -EINVAL;
    }
    if (err) {
        certificate_free(c);
        return err;
    }
    *out = c;
    return 0;
}

/* --- signing */

static int base64url(struct buf *out, const void *data, size_t len)
{
    size_t start = out->len;
    int err = text_base64(out, data, len);
    if (err)
        return err;
    for (size_t i = start; i < out->len; i++) {
        if (out->data[i] == '+')
            out->data[i] = '-';
        else if (out->data[i] == '/')
            out->data[i] = '_';
    }
    while (out->len > start && out->data[out->len - 1] == '=')
        out->data[--out->len] = '\0';
    return 0;
}

static bool add_thumbprint(cJSON *header, const char *name, const X509 *leaf, const EVP_MD *kind)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len;
    _cleanup_buf_ struct buf text = {0};
    return X509_digest(leaf, kind, digest, &len) && base64url(&text, digest, len) == 0 &&
           cJSON_AddStringToObject(header, name, text.data);
}

/* x5c is standard base64, not the URL kind (RFC 7515, 4.1.6). */
static bool add_der(cJSON *list, X509 *one)
{
    unsigned char *der = NULL;
    int len = i2d_X509(one, &der);
    _cleanup_buf_ struct buf text = {0};
    bool ok = len > 0 && text_base64(&text, der, (size_t)len) == 0 &&
              cJSON_AddItemToArray(list, cJSON_CreateString(text.data));
    OPENSSL_free(der);
    return ok;
}

/* The one that certifies `below`; else the first. */
static int find_issuer(STACK_OF(X509) * all, X509 *below)
{
    for (int i = 0; i < sk_X509_num(all); i++) {
        if (X509_check_issued(sk_X509_value(all, i), below) == X509_V_OK)
            return i;
    }
    return 0;
}

/* From the leaf up, each certified by the next (RFC 7515, 4.1.6), however the file has them. */
static bool add_chain(cJSON *list, const struct certificate *c)
{
    STACK_OF(X509) *left = c->others ? sk_X509_dup(c->others) : sk_X509_new_null();
    X509 *one = c->leaf;
    bool ok = left && add_der(list, one);
    while (ok && sk_X509_num(left) > 0) {
        one = sk_X509_delete(left, find_issuer(left, one));
        ok = add_der(list, one);
    }
    sk_X509_free(left);
    return ok;
}

static cJSON *new_header(const struct certificate *c, bool send_chain)
{
    cJSON *header = cJSON_CreateObject();
    bool ok = cJSON_AddStringToObject(header, "alg", "PS256") &&
              cJSON_AddStringToObject(header, "typ", "JWT") &&
              add_thumbprint(header, "x5t", c->leaf, EVP_sha1()) &&
              add_thumbprint(header, "x5t#S256", c->leaf, EVP_sha256());
    if (ok && send_chain) {
        cJSON *list = cJSON_AddArrayToObject(header, "x5c");
        ok = list && add_chain(list, c);
    }
    if (ok)
        return header;
    cJSON_Delete(header);
    return NULL;
}

static cJSON *new_claims(const char *audience, const char *client, time_t now)
{
    char id[37];
    text_uuid(id);
    cJSON *claims = cJSON_CreateObject();
    if (cJSON_AddStringToObject(claims, "aud", audience) &&
        cJSON_AddStringToObject(claims, "iss", client) &&
        cJSON_AddStringToObject(claims, "sub", client) &&
        cJSON_AddStringToObject(claims, "jti", id) &&
        cJSON_AddNumberToObject(claims, "nbf", (double)now) &&
        cJSON_AddNumberToObject(claims, "exp", (double)(now + ASSERTION_LIFE_S)))
        return claims;
    cJSON_Delete(claims);
    return NULL;
}

static int add_part(struct buf *out, const cJSON *json)
{
    _cleanup_free_ char *text = json ? cJSON_PrintUnformatted(json) : NULL;
    return text ? base64url(out, text, strlen(text)) : -ENOMEM;
}

static int sign(EVP_PKEY *key, const char *text, size_t len, struct buf *out)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *how = NULL;
    size_t size = (size_t)EVP_PKEY_get_size(key);
    _cleanup_free_ unsigned char *signature = malloc(size);
    int err = -EIO;
    if (context && signature && EVP_DigestSignInit(context, &how, EVP_sha256(), NULL, key) == 1 &&
        EVP_PKEY_CTX_set_rsa_padding(how, RSA_PKCS1_PSS_PADDING) == 1 &&
        EVP_PKEY_CTX_set_rsa_pss_saltlen(how, RSA_PSS_SALTLEN_DIGEST) == 1 &&
        EVP_DigestSign(context, signature, &size, (const unsigned char *)text, len) == 1)
        err = base64url(out, signature, size);
    EVP_MD_CTX_free(context);
    ERR_clear_error();
    return err;
}

int certificate_assertion(const struct certificate *c, const char *audience, const char *client,
                          time_t now, bool send_chain, struct buf *out)
{
    _cleanup_json_ cJSON *header = new_header(c, send_chain);
    _cleanup_json_ cJSON *claims = new_claims(audience, client, now);
    struct buf signature = {0};
    size_t start = out->len;
    int err = add_part(out, header);
    err = err ? err : buf_adds(out, ".");
    err = err ? err : add_part(out, claims);
    err = err ? err : sign(c->key, out->data + start, out->len - start, &signature);
    err = err ? err : buf_adds(out, ".");
    err = err ? err : buf_add(out, signature.data, signature.len);
    buf_wipe(&signature);
    return err;
}
