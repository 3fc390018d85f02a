/* job/answer.c: whatever a session says about a run is taken or refused, and what is taken can be
 * shown and makes no path that climbs. */
#include <stdlib.h>
#include <string.h>

#include "job/answer.h"
#include "util/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_line(const char *line)
{
    for (; line && *line; line++)
        if ((unsigned char)*line < 0x20 || *line == 0x7f)
            abort();
}

static void check_status(const struct run_status *s)
{
    if (s->exit_code < 0 || s->exit_code > 255 ||
        (s->exit_code == 0) != (s->state == JOB_SUCCEEDED))
        abort();
    check_line(s->message);
    for (size_t i = 0; i < s->image_count; i++)
        if (strncmp(s->images[i].file, "image-", 6) != 0 || strchr(s->images[i].file, '/') ||
            strpbrk(s->images[i].extension, "./") || !*s->images[i].extension)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cJSON *json = json_parse((const char *)data, size);
    struct watch_answer a;
    if (watch_answer_parse(json, &a) == 0) {
        for (int i = 0; i < 2; i++)
            if (a.streams[i].data.len > a.streams[i].size)
                abort();
        if (a.state == WATCH_OVER)
            check_status(&a.status);
        check_line(a.why);
        watch_answer_free(&a);
    }
    cJSON_Delete(json);
    return 0;
}
