/* By downloads: long outputs, the result when it did not fit the answer, images. What can't be
 * fetched after the run is over is told in the message, the rest stands. */
#include "job/private.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"
#include "util/text.h"

enum { TRIES = 3, AGAIN_MS = 300 };

static struct session_call *download(struct job *j, const char *name, uint64_t offset,
                                     const struct session_sink *sink)
{
    char path[JOB_NAME_SIZE + 40];
    snprintf(path, sizeof path, "%s/%s", j->name, name);
    return session_download(j->session, path, offset, sink);
}

/* --- an output: given out as it comes */

static int stream_head(void *arg, uint64_t start, int64_t size, const struct timespec *mtime)
{
    struct job *j = arg;
    j->position = start;
    return start > j->streams[j->fetching].offset ? -EPROTO : 0;
}

static int stream_data(void *arg, const void *data, size_t len)
{
    struct job *j = arg;
    const struct job_stream *s = &j->streams[j->fetching];
    uint64_t known = s->offset - j->position; /* of an earlier try */
    job_heard(j);
    j->position += len;
    if (known >= len)
        return 0;
    job_enter(j);
    job_output(j, j->fetching, (const char *)data + known, len - (size_t)known);
    return job_leave(j) ? 0 : -ECANCELED;
}

static void stream_done(void *arg, const struct session_error *e)
{
    struct job *j = arg;
    j->call = NULL;
    j->bad_downloads = e->err ? j->bad_downloads + 1 : 0;
    if (e->err)
        log_debug("%s: download of output: %s", j->name, e->message ? e->message : "failed");
    j->quiet = 0;
    j->quiet_since = clock_ms();
    watch_at_once(j);
}

void fetch_stream(struct job *j, int stream)
{
    const struct session_sink sink = {
        .on_head = stream_head, .on_data = stream_data, .done = stream_done, .arg = j};
    j->fetching = stream;
    j->call = download(j, stream ? "err" : "out", j->streams[stream].offset, &sink);
    if (!j->call)
        job_lose(j, &(struct session_error){.err = -ENOMEM}, NULL);
}

/* --- the result and the images: into memory */

static struct buf *target(struct job *j)
{
    return j->have_text ? &j->result.images[j->image].bytes : &j->text;
}

static size_t limit(const struct job *j)
{
    if (!j->have_text)
        return RESULT_MAX;
    size_t left = IMAGES_MAX - j->image_bytes;
    return left < IMAGE_MAX ? left : IMAGE_MAX;
}

static int whole_head(void *arg, uint64_t start, int64_t size, const struct timespec *mtime)
{
    struct job *j = arg;
    buf_free(target(j));
    return start ? -EPROTO : size > (int64_t)limit(j) ? -EFBIG : 0;
}

static int whole_data(void *arg, const void *data, size_t len)
{
    struct job *j = arg;
    struct buf *b = target(j);
    return len > limit(j) - b->len ? -EFBIG : buf_add(b, data, len);
}

/* Adds to the message of a run that is over. */
static void remark(struct job *j, const char *what, const struct session_error *e)
{
    struct buf line = {0};
    const char *before = j->status.message;
    buf_addf(&line, "%s%s%s could not be fetched: %s", before ? before : "", before ? "; " : "",
             what, e->message ? e->message : strerror(-e->err));
    free(j->status.message);
    j->status.message = buf_take(&line);
}

static void take_text(struct job *j)
{
    struct buf *b = &j->text;
    cJSON *value = json_parse(b->data ? b->data : "", b->len);
    if (cJSON_IsNull(value)) {
        cJSON_Delete(value);
        value = NULL;
    }
    while (value && b->len && isspace((unsigned char)b->data[b->len - 1]))
        b->len--;
    if (value && buf_add(b, "", 1) == 0)
        j->result.text = buf_take(b);
    j->result.value = value;
    buf_free(b);
}

static void whole_done(void *arg, const struct session_error *e)
{
    struct job *j = arg;
    j->call = NULL;
    if (e->err && e->err != -EFBIG && ++j->bad_fetches < TRIES) {
        loop_timer_set(&j->next, AGAIN_MS);
        return;
    }
    j->bad_fetches = 0;
    if (e->err) {
        buf_free(target(j));
        remark(j, j->have_text ? j->result.images[j->image].name : "the result", e);
    }
    if (j->have_text) {
        j->image_bytes += j->result.images[j->image].bytes.len;
        j->image++;
    }
    j->have_text = true;
    fetch_results(j);
}

static void fetch_whole(struct job *j, const char *name)
{
    const struct session_sink sink = {
        .on_head = whole_head, .on_data = whole_data, .done = whole_done, .arg = j};
    j->call = download(j, name, 0, &sink);
    if (!j->call)
        job_lose(j, &(struct session_error){.err = -ENOMEM}, NULL);
}

/* As the harness names them beside the script; never a name that the session chose. */
static char *image_name(const struct job *j, size_t i)
{
    const char *path = j->spec.path ? j->spec.path : "code", *slash = strrchr(path, '/');
    struct buf name = {0};
    int err = buf_addf(&name, "%s.result", slash ? slash + 1 : path);
    if (!err && j->status.image_count > 1)
        err = buf_addf(&name, "-%zu", i + 1);
    err = err ? err : buf_addf(&name, ".%s", j->status.images[i].extension);
    if (err)
        buf_free(&name);
    return err ? NULL : buf_take(&name);
}

/* The images' names; false when out of memory. */
static bool name_images(struct job *j)
{
    size_t n = j->status.image_count;
    if (!n || j->result.images)
        return true;
    if (!(j->result.images = calloc(n, sizeof *j->result.images)))
        return false;
    for (; j->result.image_count < n; j->result.image_count++) {
        size_t i = j->result.image_count;
        struct job_image *image = &j->result.images[i];
        if (!(image->name = image_name(j, i)))
            return false;
        strcpy(image->extension, j->status.images[i].extension);
    }
    return true;
}

void fetch_results(struct job *j)
{
    bool images_stay = j->spec.keep_outputs && j->spec.path;
    if (!name_images(j)) {
        job_lose(j, &(struct session_error){.err = -ENOMEM}, NULL);
        return;
    }
    if (!j->have_text) {
        fetch_whole(j, "result");
        return;
    }
    if (!images_stay && j->image < j->result.image_count) {
        fetch_whole(j, j->status.images[j->image].file);
        return;
    }
    take_text(j);
    job_fetched(j);
}
