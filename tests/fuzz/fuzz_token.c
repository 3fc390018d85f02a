/* What gives tokens may say anything. The first byte picks who is speaking. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "credential/answer.h"
#include "credential/certificate.h"
#include "credential/secret.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int err, struct token *t, const char *why)
{
    assert(err ? !t->text && why : t->text && secret_is_word(t->text));
    token_free(t);
}

static void fuzz_text(const char *text, size_t len)
{
    const char *const secrets[] = {"hush", NULL};
    static const char directory[] = "/var/opt/azcmagent/tokens";
    struct buf out = {0};
    const char *why;
    time_t when;
    secret_quote(&out, text, len, 300, secrets);
    assert(!out.len || !memmem(out.data, out.len, "hush", 4));
    buf_free(&out);
    answer_refusal(&out, 400, text, len, secrets);
    assert(!memmem(out.data, out.len, "hush", 4));
    buf_free(&out);
    answer_date(text, &when);
    char *path = answer_arc_key(text, directory, &why);
    assert(!path || (strncmp(path, directory, sizeof directory - 1) == 0 &&
                     strrchr(path, '/') == path + sizeof directory - 1));
    free(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    char *text = malloc(size);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    struct token t;
    struct claims claims;
    const char *why = NULL;
    int err;
    switch (data[0] % 6) {
    case 0:
        err = answer_token(text, size - 1, 1700000000, &t, &why);
        check(err, &t, why);
        break;
    case 1:
        err = answer_az(text, size - 1, 1700000000, &t, &why);
        check(err, &t, why);
        break;
    case 2:
        err = answer_azd(text, size - 1, 1700000000, &t, &why);
        check(err, &t, why);
        break;
    case 3:
        if (claims_read(text, &claims))
            claims_free(&claims);
        break;
    case 4: {
        struct certificate *c = NULL;
        if (certificate_parse(text, size - 1, "x", &c, &why) == 0)
            certificate_free(c);
        break;
    }
    default:
        fuzz_text(text, size - 1);
    }
    free(text);
    return 0;
}
