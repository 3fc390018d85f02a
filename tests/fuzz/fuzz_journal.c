/* A journal of any bytes, and the records in it: nothing is read beyond its end, and what is
 * read back whole writes the same again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "store/journal.h"
#include "store/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int take(void *arg, const void *body, size_t len)
{
    struct record r;
    struct buf again = {0};
    if (record_read(body, len, &r) == 0 && record_write(&again, &r) == 0 &&
        (again.len != len || memcmp(again.data, body, len)))
        abort();
    buf_free(&again);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (journal_scan(data, size, take, NULL) > size)
        abort();
    take(NULL, data, size); /* past the checksum */
    return 0;
}
