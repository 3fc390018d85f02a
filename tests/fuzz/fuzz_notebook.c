/* acarun/notebook.c and util/span.c: any bytes are refused, or come back as a notebook that reads
 * the same; and whatever a session tells of a cell, the outputs are a JSON array's items. */
#include <stdlib.h>
#include <string.h>

#include "acarun/notebook.h"
#include "util/cleanup.h"
#include "util/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void outputs(const char *text, size_t len, struct buf *list)
{
    static const struct notebook_failure failure = {"E", "\x80\n"};
    struct buf out = {(char *)text, len, 0}, err = {(char *)text, len / 2, 0};
    _cleanup_json_ cJSON *told = json_parse(text, len);
    _cleanup_buf_ struct buf array = {0};
    struct span value;
    if (notebook_outputs(told, &out, &err, len % 2 ? &failure : NULL, list) ||
        buf_addf(&array, "[%s]", list->data ? list->data : ""))
        return;
    if (!span_check(array.data, array.len, SPAN_DEPTH, &value, NULL))
        abort();
}

static void check(const struct notebook *n, const char *text, size_t len)
{
    struct notebook again;
    char *why = NULL;
    if (notebook_parse(text, len, &again, &why) || again.cell_count != n->cell_count)
        abort();
    for (size_t i = 0; i < n->cell_count; i++) {
        const char *a = n->cells[i].source, *b = again.cells[i].source;
        if (!a != !b || (a && strcmp(a, b) != 0))
            abort();
    }
    notebook_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct notebook n;
    char *why = NULL;
    _cleanup_buf_ struct buf list = {0}, text = {0};
    const char *input = size ? (const char *)data : "";
    outputs(input, size, &list);
    if (notebook_parse(input, size, &n, &why) == 0) {
        for (size_t i = 0; i < n.cell_count; i++) {
            n.cells[i].count = (unsigned)i;
            if (list.len)
                buf_add(&n.cells[i].outputs, list.data, list.len);
        }
        if (notebook_write(&n, &text) == 0)
            check(&n, text.data ? text.data : "", text.len);
    }
    free(why);
    notebook_free(&n);
    return 0;
}
