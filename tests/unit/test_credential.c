/* What outsiders say, made into values: answers, dates, challenges, claims, quotes, and the
 * memory of secrets. The requests themselves: tests/test_credential.py. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "credential/answer.h"
#include "credential/certificate.h"
#include "credential/process.h"
#include "credential/secret.h"
#include "http/http.h"

enum { NOW = 1700000000 };

typedef int parse_fn(const char *, size_t, time_t, struct token *, const char **);

static void expect_token(parse_fn *parse, const char *body, const char *text, time_t expires,
                         time_t refresh)
{
    struct token t;
    const char *why = NULL;
    int err = parse(body, strlen(body), NOW, &t, &why);
    if (err)
        fail_msg("%s: %s", body, why);
    assert_string_equal(t.text, text);
    assert_int_equal(t.expires, expires);
    assert_int_equal(t.refresh, refresh);
    token_free(&t);
    assert_null(t.text);
}

static void expect_none(parse_fn *parse, const char *body, const char *reason)
{
    struct token t;
    const char *why = NULL;
    assert_int_equal(parse(body, strlen(body), NOW, &t, &why), -EPROTO);
    assert_null(t.text);
    if (!strstr(why, reason))
        fail_msg("%s: %s", body, why);
}

static void test_tokens(void **state)
{
    expect_token(answer_token, "{\"access_token\":\"T\",\"expires_in\":3600}", "T", NOW + 3600, 0);
    expect_token(answer_token,
                 "{\"access_token\":\"T\",\"expires_in\":\"60\",\"token_type\":\"bearer\"}", "T",
                 NOW + 60, 0);
    /* The service's own clock counts: its token may be hours old. */
    expect_token(answer_token,
                 "{\"access_token\":\"T\",\"expires_in\":86400,\"expires_on\":\"1700000500\"}", "T",
                 NOW + 500, 0);
    expect_token(answer_token, "{\"access_token\":\"T\",\"expires_on\":1700000500}", "T", NOW + 500,
                 0);
    expect_token(answer_token,
                 "{\"access_token\":\"T\",\"expires_on\":\"11/14/2023 22:13:20 +00:00\"}", "T", NOW,
                 0);
    expect_token(answer_token, "{\"access_token\":\"T\",\"expires_on\":\"\",\"expires_in\":\"5\"}",
                 "T", NOW + 5, 0);
    expect_token(answer_token, "{\"access_token\":\"T\",\"expires_in\":3600,\"refresh_in\":1800}",
                 "T", NOW + 3600, NOW + 1800);
    expect_token(answer_token, "{\"access_token\":\"T\",\"expires_in\":3600,\"refresh_in\":3600}",
                 "T", NOW + 3600, 0);
    expect_token(answer_token, "{\"access_token\":\"T\",\"expires_in\":3600,\"refresh_in\":\"-1\"}",
                 "T", NOW + 3600, 0);
    /* {"exp":1700000777}, the last resort */
    expect_token(answer_token, "{\"access_token\":\"e30.eyJleHAiOjE3MDAwMDA3Nzd9.x\"}",
                 "e30.eyJleHAiOjE3MDAwMDA3Nzd9.x", NOW + 777, 0);
    expect_none(answer_token, "", "not JSON");
    expect_none(answer_token, "{\"access_token\":\"T\",\"expires_in\":3600", "not JSON");
    expect_none(answer_token, "\"access_token\"", "not JSON");
    expect_none(answer_token, "{\"access_token\":7,\"expires_in\":3600}", "no token");
    expect_none(answer_token, "{\"access_token\":\"a\\u0000b\",\"expires_in\":3600}", "no token");
    expect_none(answer_token, "{\"access_token\":\"a\\nb\",\"expires_in\":3600}", "no token");
    expect_none(answer_token, "{\"access_token\":\"T\",\"expires_on\":99999999999999}", "expires");
    expect_none(answer_token, "{\"access_token\":\"T\",\"expires_on\":null}", "expires");
    expect_none(answer_token,
                "{\"access_token\":\"T\",\"expires_on\":\"13/45/2023 99:00:00 +00:00\"}",
                "expires");
    expect_none(answer_token, "{\"access_token\":\"T\",\"expires_in\":3600,\"token_type\":\"mac\"}",
                "bearer");
}

static void test_tools(void **state)
{
    setenv("TZ", "Europe/Berlin", 1);
    tzset();
    /* newer versions tell both; the number is not in doubt when clocks change */
    expect_token(answer_az,
                 "{\"accessToken\":\"T\",\"expiresOn\":\"2023-11-14 23:13:20.000000\","
                 "\"expires_on\":1700000100}",
                 "T", NOW + 100, 0);
    expect_token(answer_az, "{\"accessToken\":\"T\",\"expiresOn\":\"2023-11-14 23:13:20.123456\"}",
                 "T", NOW, 0);
    expect_token(answer_az, "{\"accessToken\":\"T\",\"expiresOn\":\"2023-07-14 23:13:20.0\"}", "T",
                 1689369200, 0);
    expect_token(answer_azd, "{\"token\":\"T\",\"expiresOn\":\"2023-11-14T22:13:21Z\"}", "T",
                 NOW + 1, 0);
    expect_token(answer_azd, "{\"token\":\"T\",\"expiresOn\":\"2023-11-14T22:13:21.5+00:00\"}", "T",
                 NOW + 1, 0);
    expect_none(answer_az, "WARNING: x\n{}", "not JSON");
    expect_none(answer_az, "{\"token\":\"T\",\"expires_on\":1700000100}", "no token");
    expect_none(answer_azd, "{\"accessToken\":\"T\",\"expires_on\":1700000100}", "no token");
    expect_none(answer_az, "{\"accessToken\":\"T\",\"expiresOn\":\"2023-11-14 23:13:20.\"}",
                "expires");
    expect_none(answer_az, "{\"accessToken\":\"T\",\"expiresOn\":\"2023-11-14 23:13\"}", "expires");
}

static void test_dates(void **state)
{
    static const struct {
        const char *text;
        time_t when;
    } good[] = {
        {"11/14/2023 22:13:20 +00:00", NOW},
        {"11/14/2023 10:13:20 PM +00:00", NOW},
        {"1/6/2020 5:24:12 AM +00:00", 1578288252},
        {"01/06/2020 12:00:00 AM +00:00", 1578268800},
        {"01/06/2020 12:00:00 PM +00:00", 1578312000},
        {"2023-11-14T22:13:20Z", NOW},
    };
    static const char *const bad[] = {
        "",
        "now",
        "11/14/2023",
        "11/14/2023 22:13:20",
        "11/14/2023 22:13:20 +01:00",
        "11/14/2023 13:13:20 PM +00:00",
        "11/14/2023 0:13:20 AM +00:00",
        "14/11/2023 22:13:20 +00:00",
        "11/14/23 22:13:20 +00:00",
        "11/14/2023 22:13:20 +00:00x",
        "1969-01-01T00:00:00Z",
        "2023-11-14T22:13:20Z and a good deal more that no date can be, however one looks at it",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        time_t when = 0;
        assert_int_equal(answer_date(good[i].text, &when), 0);
        assert_int_equal(when, good[i].when);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        time_t when = 0;
        if (answer_date(bad[i], &when) == 0)
            fail_msg("%s was taken for a date", bad[i]);
    }
}

static void expect_refusal(int status, const char *body, const char *text)
{
    struct buf out = {0};
    const char *const secrets[] = {"hush", NULL};
    assert_int_equal(answer_refusal(&out, status, body, strlen(body), secrets), 0);
    assert_string_equal(out.data, text);
    buf_free(&out);
}

static void test_refusals(void **state)
{
    expect_refusal(401, "", "HTTP 401");
    expect_refusal(502, "<html>", "HTTP 502");
    expect_refusal(400, "{\"error\":\"invalid_request\"}", "HTTP 400 invalid_request");
    expect_refusal(
        401,
        "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7: no hush.\\r\\nTrace\","
        "\"correlation_id\":\"c-1\"}",
        "HTTP 401 invalid_client: AADSTS7: no ****. (correlation id c-1)");
    expect_refusal(403, "{\"error\":{\"code\":\"Nope\",\"message\":\"a\\u001b[31mb\"}}",
                   "HTTP 403 Nope: a?[31mb");
    expect_refusal(500, "{\"error\":7,\"error_description\":[]}", "HTTP 500");
}

static void test_arc_challenges(void **state)
{
    static const char directory[] = "/var/opt/azcmagent/tokens";
    static const char *const good[] = {
        "Basic realm=/var/opt/azcmagent/tokens/a.key",
        "basic realm=\"/var/opt/azcmagent/tokens/a.key\"",
    };
    static const char *const bad[] = {
        "Basic realm=/var/opt/azcmagent/tokens/../../../../etc/x.key",
        "Basic realm=/var/opt/azcmagent/tokens/b/a.key",
        "Basic realm=/var/opt/azcmagent/tokensb/a.key",
        "Basic realm=/var/opt/azcmagent/tokens/.key",
        "Basic realm=/var/opt/azcmagent/tokens/a.key/",
        "Basic realm=/var/opt/azcmagent/tokens/a.txt",
        "Basic realm=/var/opt/azcmagent/tokens/a\n.key",
        "Basic realm=/etc/a.key",
        "Basic realm=a.key",
        "Basic realm=",
        "Basic realm=\"",
        "Bearer realm=/var/opt/azcmagent/tokens/a.key",
        "Basic",
        "",
    };
    const char *why;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        char *path = answer_arc_key(good[i], directory, &why);
        assert_non_null(path);
        assert_string_equal(path, "/var/opt/azcmagent/tokens/a.key");
        free(path);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *path = answer_arc_key(bad[i], directory, &why);
        if (path)
            fail_msg("%s was accepted", bad[i]);
        assert_non_null(why);
    }
    assert_null(answer_arc_key(NULL, directory, &why));
}

static void test_claims(void **state)
{
    /* {"tid":"t-1","upn":"ann@x.org","oid":"o-1","aud":"https://dynamicsessions.io","exp":1700000000,
     *  "scp":"user_impersonation"} */
    static const char user[] =
        "e30."
        "eyJ0aWQiOiJ0LTEiLCJ1cG4iOiJhbm5AeC5vcmciLCJvaWQiOiJvLTEiLCJhdWQiOiJodHRwczovL2R5bmFtaWNzZX"
        "Nz"
        "aW9ucy5pbyIsImV4cCI6MTcwMDAwMDAwMCwic2NwIjoidXNlcl9pbXBlcnNvbmF0aW9uIn0.c2ln";
    struct claims c;
    assert_true(claims_read(user, &c));
    assert_string_equal(c.tenant, "t-1");
    assert_string_equal(c.principal, "ann@x.org");
    assert_string_equal(c.object, "o-1");
    assert_string_equal(c.audience, "https://dynamicsessions.io");
    assert_int_equal(c.expires, 1700000000);
    assert_false(c.is_application);
    claims_free(&c);
    static const char *const none[] = {"",   "x",    "a.b",       "a.b.c",
                                       "..", "a..c", "e30.W10.x", "e30.!!!!.x"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_false(claims_read(none[i], &c));
    assert_true(claims_read("e30.e30.x", &c));
    assert_null(c.principal);
    assert_true(c.is_application);
    claims_free(&c);
}

static void expect_quote(const char *said, const char *shown)
{
    struct buf out = {0};
    const char *const secrets[] = {"hush-hush", "", NULL};
    assert_int_equal(secret_quote(&out, said, strlen(said), 400, secrets), 0);
    assert_string_equal(out.data ? out.data : "", shown);
    buf_free(&out);
}

static void test_quotes(void **state)
{
    expect_quote("", "");
    expect_quote("plain words\nin two lines\x1b[0m", "plain words in two lines?[0m");
    expect_quote("it was hush-hush!", "it was ****!");
    expect_quote("{\"accessToken\": \"abc\", \"x\": 1}", "{\"accessToken\": \"****\", \"x\": 1}");
    expect_quote("{\"access_token\":\"abc", "{\"access_token\":\"****");
    expect_quote("{\"token\":7}", "{\"token\":7}");
    expect_quote("see eyJhbGciOiJub25lIn0.e30.x now", "see **** now");
    expect_quote("0123456789abcdef0123456789abcdef0123456789abcdef0", "****");
    expect_quote("id 66666666-7777-8888-9999-000000000000 stays",
                 "id 66666666-7777-8888-9999-000000000000 stays");
    expect_quote("https://aka.ms/azsdk/python/identity/environmentcredential/troubleshoot",
                 "https://aka.ms/azsdk/python/identity/environmentcredential/troubleshoot");
}

static void test_words(void **state)
{
    assert_true(secret_is_word("a-Z0.~_=+/"));
    assert_false(secret_is_word(""));
    assert_false(secret_is_word("a b"));
    assert_false(secret_is_word("a\r\nb"));
    assert_false(secret_is_word("\xc3\xa4"));
}

static void test_memory(void **state)
{
    char *secret = secret_new("abc", 3);
    assert_string_equal(secret, "abc");
    secret_free(secret);
    char *large = secret_new(NULL, 100000);
    assert_int_equal(large[99999], 0);
    assert_int_equal(large[100000], 0);
    secret_free(large);
    secret_free(NULL);
}

static void test_environment(void **state)
{
    char *value;
    setenv("ACAFS_TEST_SECRET", "abc", 1);
    char *place = getenv("ACAFS_TEST_SECRET");
    assert_int_equal(secret_take_environment("ACAFS_TEST_SECRET", &value), 0);
    assert_string_equal(value, "abc");
    assert_null(getenv("ACAFS_TEST_SECRET"));
    (void)place; /* glibc keeps setenv's copy: overwritten, not freed */
    assert_string_equal(place, "");
    secret_free(value);
    assert_int_equal(secret_take_environment("ACAFS_TEST_SECRET", &value), 0);
    assert_null(value);
}

static void test_files(void **state)
{
    char path[] = "/tmp/acafs-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "word \r\n\n", 8), 8);
    char *text;
    size_t len;
    struct buf why = {0};
    assert_int_equal(secret_read(path, 100, true, NULL, &text, &len, &why), 0);
    assert_string_equal(text, "word");
    assert_int_equal(len, 4);
    secret_free(text);
    assert_int_equal(secret_read(path, 100, false, NULL, &text, &len, &why), 0);
    assert_int_equal(len, 8);
    secret_free(text);
    assert_int_equal(secret_read(path, 7, false, NULL, &text, &len, &why), -EFBIG);
    assert_null(text);
    assert_non_null(strstr(why.data, path));
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(secret_read(path, 100, true, NULL, &text, &len, &why), -ENODATA);
    unlink(path);
    assert_int_equal(secret_read(path, 100, true, NULL, &text, &len, &why), -ENOENT);
    buf_free(&why);
    close(fd);
}

static void test_program_search(void **state)
{
    setenv("PATH", "bin:.:/nowhere:/bin", 1);
    char *path = process_find("sh");
    assert_non_null(path);
    assert_string_equal(path, "/bin/sh");
    free(path);
    assert_null(process_find("no-such-program-at-all"));
    setenv("PATH", ":::", 1);
    assert_null(process_find("sh"));
    setenv("PATH", "/etc", 1);
    assert_null(process_find("passwd")); /* there, but no program */
}

static void test_metadata_urls(void **state)
{
    static const char *const good[] = {
        "http://169.254.169.254/x", "http://127.0.0.1:8081/msi", "http://localhost:40342/",
        "http://172.16.1.2:8081/",  "http://10.0.0.4/",          "http://192.168.3.4/",
        "http://[fe80::1]/",        "http://[fd00:ec2::254]/",   "https://example.com/x",
    };
    static const char *const bad[] = {
        "http://8.8.8.8/",
        "http://172.32.0.1/",
        "http://169.255.0.1/",
        "http://11.0.0.1/",
        "http://[2001:db8::1]/",
        "http://example.com/",
        "http://10.0.0.4.example.com/",
        "ftp://10.0.0.4/",
        "http://u:p@10.0.0.4/",
        "",
    };
    const char *why;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (http_metadata_check(good[i], &why))
            fail_msg("%s: %s", good[i], why);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (http_metadata_check(bad[i], &why) == 0)
            fail_msg("%s was accepted", bad[i]);
    }
    /* What metadata may, the pool and the authority may not. */
    assert_int_equal(http_url_check("http://10.0.0.4/", NULL, &why), -EINVAL);
}

static void test_certificates(void **state)
{
    static const char *const none[] = {
        "",
        "junk",
        "-----BEGIN ",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n",
    };
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        struct certificate *c = NULL;
        const char *why = NULL;
        assert_int_equal(certificate_parse(none[i], strlen(none[i]), NULL, &c, &why), -EINVAL);
        assert_non_null(why);
        assert_null(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),         cmocka_unit_test(test_tools),
        cmocka_unit_test(test_dates),          cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_arc_challenges), cmocka_unit_test(test_claims),
        cmocka_unit_test(test_quotes),         cmocka_unit_test(test_words),
        cmocka_unit_test(test_memory),         cmocka_unit_test(test_environment),
        cmocka_unit_test(test_files),          cmocka_unit_test(test_program_search),
        cmocka_unit_test(test_metadata_urls),  cmocka_unit_test(test_certificates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
