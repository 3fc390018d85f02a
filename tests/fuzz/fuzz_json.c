/* util/json.c: any bytes either parse into a document that prints and parses again, or are refused. */
#include <stdlib.h>
#include <string.h>

#include "util/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cJSON *json = json_parse((const char *)data, size);
    if (!json)
        return 0;
    char *text = cJSON_PrintUnformatted(json);
    cJSON *again = text ? json_parse(text, strlen(text)) : NULL;
    if (text && !again)
        abort();
    cJSON_Delete(again);
    free(text);
    cJSON_Delete(json);
    return 0;
}
