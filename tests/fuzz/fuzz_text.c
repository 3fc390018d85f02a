/* util/text.c: base64 is decoded only where encoding gives the same text, and what is made fit for
 * a URL, a terminal or JSON is. */
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good)
        abort();
}

static void check_base64(const char *text, size_t len)
{
    _cleanup_buf_ struct buf bytes = {0}, again = {0}, bare = {0};
    if (text_unbase64(&bytes, text, len))
        return;
    for (size_t i = 0; i < len; i++) {
        if (!strchr(" \t\r\n", text[i]))
            check(buf_add(&bare, text + i, 1) == 0);
    }
    check(text_base64(&again, bytes.data, bytes.len) == 0);
    check(again.len == bare.len && (!bare.len || memcmp(again.data, bare.data, bare.len) == 0));
}

static void check_escapes(const char *text, size_t len)
{
    _cleanup_buf_ struct buf url = {0}, shown = {0};
    check(text_percent(&url, text, len) == 0 && text_printable(&shown, text, len, 10) == 0);
    for (size_t i = 0; i < url.len; i++)
        check((unsigned char)url.data[i] > ' ' && (unsigned char)url.data[i] < 0x7f);
    for (size_t i = 0; i < shown.len; i++)
        check((unsigned char)shown.data[i] >= ' ' && shown.data[i] != 0x7f);
    check(!text_is_utf8(text, len) || text_is_utf8(shown.data ? shown.data : "", shown.len));
}

/* As JSON has it: the escape by itself, or behind pairs of backslashes. */
static void check_nul(const char *text, size_t len)
{
    _cleanup_json_ cJSON *json = json_parse(text, len);
    if (json && json_has_nul(text, len))
        check(memmem(text, len, "\\u0000", 6));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ char *text = strndup((const char *)data, size);
    struct timespec when;
    uint64_t number;
    check(text);
    check_base64((const char *)data, size);
    check_escapes((const char *)data, size);
    check_nul((const char *)data, size);
    text_is_utf8((const char *)data, size);
    text_parse_size(text, &number);
    if (text_parse_time(text, &when) == 0)
        check(when.tv_nsec >= 0 && when.tv_nsec < 1000000000);
    return 0;
}
