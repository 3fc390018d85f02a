/* Everything that acapool parses of what comes from outside. The first byte says which. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "acapool/form.h"
#include "acapool/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int condition)
{
    if (!condition)
        abort();
}

static void on_part(void *arg, const char *name, const char *file_name)
{
    check(strlen(name) < 10000 && (!file_name || strlen(file_name) < 10000));
}

static void on_data(void *arg, const void *data, size_t len)
{
    size_t *sum = arg;
    *sum += len;
}

/* In pieces of a size that the input chooses: the parts must not be more than was fed. */
static void feed_form(const char *text, size_t len)
{
    size_t sum = 0, piece = len ? (unsigned char)text[0] + 1u : 1;
    struct form_handler handler = {on_part, on_data, &sum};
    struct form form;
    check(!form_init(&form, "multipart/form-data; boundary=B", &handler));
    for (size_t at = 0; at < len; at += piece) {
        if (form_feed(&form, text + at, piece < len - at ? piece : len - at))
            break;
    }
    check(sum <= len);
    form_free(&form);
}

static void parse_target(const char *text)
{
    struct target t;
    if (target_parse(text, &t))
        return;
    for (size_t i = 0; i < t.count; i++) {
        wire_file_name_ok(t.segment[i]);
        wire_directory_ok(t.segment[i]);
        wire_identifier_ok(t.segment[i]);
        if (wire_file_name_ok(t.segment[i]))
            check(!strchr(t.segment[i], '/') && strcmp(t.segment[i], "..") != 0);
    }
    free(t.storage);
}

static void parse_headers(const char *text)
{
    uint64_t first, last;
    if (wire_range(text, 1000, &first, &last) == RANGE_PART)
        check(first <= last && last < 1000);
    time_t date;
    if (!wire_parse_date(text, &date)) {
        char again[32];
        wire_format_date(date, again);
    }
    struct buf out = {0};
    form_parameter(text, "filename", &out);
    out.len = 0;
    wire_bearer(text);
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    char *text = malloc(size);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    struct buf clean = {0};
    switch (data[0] % 4) {
    case 0:
        feed_form(text, size - 1);
        break;
    case 1:
        parse_target(text);
        break;
    case 2:
        parse_headers(text);
        break;
    case 3:
        wire_clean(&clean, text, size - 1, 100);
        check(clean.len <= 400);
        break;
    }
    buf_free(&clean);
    free(text);
    return 0;
}
