#include "job/answer.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/json.h"
#include "util/text.h"

enum { IMAGES_LIMIT = 10000, MESSAGE_LIMIT = 1000 };

void run_status_free(struct run_status *s)
{
    free(s->message);
    free(s->images);
    *s = (struct run_status){0};
}

void watch_answer_free(struct watch_answer *a)
{
    for (int i = 0; i < 2; i++)
        buf_free(&a->streams[i].data);
    buf_free(&a->result);
    run_status_free(&a->status);
    free(a->why);
    *a = (struct watch_answer){0};
}

/* The index of a word in a list, or -1. */
static int word_index(const char *word, const char *const words[], size_t n)
{
    for (size_t i = 0; word && i < n; i++)
        if (words[i] && strcmp(word, words[i]) == 0)
            return (int)i;
    return -1;
}

static int take_line(const char *text, char **out)
{
    struct buf line = {0};
    if (!text || !*text)
        return 0;
    if (text_printable(&line, text, strlen(text), MESSAGE_LIMIT)) {
        buf_free(&line);
        return -ENOMEM;
    }
    *out = buf_take(&line);
    return *out ? 0 : -ENOMEM;
}

static int take_base64(const cJSON *object, const char *name, struct buf *out)
{
    const char *text = json_string(object, name);
    if (!text)
        return -EPROTO;
    int err = text_unbase64(out, text, strlen(text));
    return err == -EINVAL ? -EPROTO : err;
}

static int take_stream(const cJSON *value, const char *name, struct buf *data, uint64_t *size)
{
    const cJSON *piece = json_object(value, name);
    if (!json_uint(piece, "size", size))
        return -EPROTO;
    int err = take_base64(piece, "data", data);
    return !err && data->len > *size ? -EPROTO : err;
}

/* image-N.EXTENSION, nothing else: it becomes part of paths. */
static bool take_image(const cJSON *item, struct run_image *out)
{
    const char *file = json_string(item, "file"), *extension = json_string(item, "extension");
    if (!file || !extension || strlen(file) >= sizeof out->file ||
        strlen(extension) >= sizeof out->extension || !*extension)
        return false;
    for (const char *c = extension; *c; c++)
        if (!isalnum((unsigned char)*c) || isupper((unsigned char)*c))
            return false;
    if (strncmp(file, "image-", 6) != 0)
        return false;
    size_t digits = strspn(file + 6, "0123456789");
    const char *rest = file + 6 + digits;
    if (!digits || *rest != '.' || strcmp(rest + 1, extension) != 0)
        return false;
    strcpy(out->file, file);
    strcpy(out->extension, extension);
    return true;
}

static int take_images(const cJSON *images, struct run_status *out)
{
    int n = cJSON_GetArraySize(images);
    const cJSON *item;
    if (n == 0)
        return 0;
    if (n > IMAGES_LIMIT)
        return -EPROTO;
    if (!(out->images = calloc((size_t)n, sizeof *out->images)))
        return -ENOMEM;
    cJSON_ArrayForEach (item, images) {
        if (!take_image(item, &out->images[out->image_count]))
            return -EPROTO;
        out->image_count++;
    }
    return 0;
}

static int take_status(const cJSON *status, struct run_status *out)
{
    static const char *const states[] = {[JOB_SUCCEEDED] = "succeeded",
                                         [JOB_FAILED] = "failed",
                                         [JOB_CANCELED] = "canceled",
                                         [JOB_TIMED_OUT] = "timed-out"};
    uint64_t code, milliseconds = 0;
    int state = word_index(json_string(status, "state"), states, sizeof states / sizeof *states);
    if (state < 0 || !json_uint(status, "exit_code", &code) || code > 255)
        return -EPROTO;
    json_uint(status, "milliseconds", &milliseconds);
    out->state = (enum job_state)state;
    out->exit_code = (int)code;
    out->milliseconds = (int64_t)milliseconds;
    if ((code == 0) != (state == JOB_SUCCEEDED))
        return -EPROTO;
    int err = take_line(json_string(status, "message"), &out->message);
    return err ? err : take_images(json_array(status, "images"), out);
}

static int take_members(const cJSON *value, struct watch_answer *out)
{
    int err = 0;
    if (out->state == WATCH_NO_PROCESS)
        return take_line(json_string(value, "why"), &out->why);
    if (out->state > WATCH_DIED)
        return 0;
    static const char *const names[] = {"out", "err"};
    for (int i = 0; i < 2 && !err; i++)
        err = take_stream(value, names[i], &out->streams[i].data, &out->streams[i].size);
    if (err || out->state != WATCH_OVER)
        return err;
    out->has_result = json_string(value, "result") != NULL;
    if (out->has_result)
        err = take_base64(value, "result", &out->result);
    return err ? err : take_status(json_object(value, "status"), &out->status);
}

int watch_answer_parse(const cJSON *value, struct watch_answer *out)
{
    static const char *const states[] = {[WATCH_RUNNING] = "running",
                                         [WATCH_OVER] = "over",
                                         [WATCH_DIED] = "died",
                                         [WATCH_GONE] = "gone",
                                         [WATCH_MISSING] = "missing",
                                         [WATCH_REPLACED] = "replaced",
                                         [WATCH_NO_PROCESS] = "no process"};
    int state = word_index(json_string(value, "state"), states, sizeof states / sizeof *states);
    *out = (struct watch_answer){0};
    if (state < 0)
        return -EPROTO;
    out->state = (enum watch_state)state;
    int err = take_members(value, out);
    if (err)
        watch_answer_free(out);
    return err;
}
