/* Starting and watching. A script that says nothing for long is watched by the listing of its
 * folder, which takes no turn in any kernel:
 *
 *     CALL ──output, or soon again──▶ CALL       CALL ──quiet for 10 s──▶ GLANCE
 *     GLANCE ──nothing new──▶ GLANCE             GLANCE ──something new, or 20 s──▶ CALL
 */
#include "job/private.h"

#include <errno.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    FIRST_WAIT_MS = 150,
    WAIT_MS = 250,  /* others of the session's helper wait so long */
    PAUSE_MS = 500, /* together below the second within which output is to be seen */
    SHORT_PAUSE_MS = 50,
    GLANCE_AFTER_MS = 10000,
    GLANCE_EVERY_MS = 700,
    CALL_EVERY_MS = 20000,
    DIED_PAUSE_MS = 200,
    GONE_PAUSE_MS = 300, /* a script may remove its folder; who looks after it puts it back */
    GONE_LOOKS = 6,
};

static void call(struct job *j, const char *verb, int64_t wait_ms, session_value_fn *answered)
{
    j->called_at = clock_ms();
    j->call = session_helper(j->session, job_request(j, verb, wait_ms, PIECE), answered, j);
    if (!j->call)
        job_lose(j, &(struct session_error){.err = -ENOMEM}, NULL);
}

static void look(struct job *j, int64_t wait_ms);

void watch_at_once(struct job *j)
{
    loop_timer_set(&j->next, 0);
}

/* --- what answers mean */

/* Gives out what the answer brings; false when the job is gone. */
static bool give_out(struct job *j, const struct watch_answer *a)
{
    bool came = false;
    job_enter(j);
    for (int i = 0; i < 2; i++) {
        j->streams[i].size = a->streams[i].size;
        came = came || a->streams[i].data.len;
        job_output(j, i, a->streams[i].data.data, a->streams[i].data.len);
    }
    if (came) {
        j->quiet = 0;
        j->quiet_since = clock_ms();
    }
    return job_leave(j);
}

/* Whether there is more to fetch; then it is on its way. */
static bool fetch_more(struct job *j, const struct watch_answer *a)
{
    bool more = false, progress = false;
    for (int i = 0; i < 2; i++) {
        const struct job_stream *s = &j->streams[i];
        if (s->size > s->offset + DOWNLOAD_FROM && j->bad_downloads < 3) {
            fetch_stream(j, i);
            return true;
        }
        more = more || s->size > s->offset;
        progress = progress || a->streams[i].data.len;
    }
    if (!more || !progress)
        return false;
    watch_at_once(j);
    return true;
}

static void over(struct job *j, struct watch_answer *a)
{
    j->status = a->status;
    a->status = (struct run_status){0};
    j->have_text = a->has_result;
    j->text = a->result;
    a->result = (struct buf){0};
    j->phase = JOB_FETCHING;
    fetch_results(j);
}

static void kernel_died(struct job *j)
{
    j->result.kernel_ended = true;
    if (!j->stop_wanted)
        job_end_unexplained(j, "the session's kernel ended while this ran, and its variables and "
                               "imports are gone");
    else if (j->stop_state == JOB_TIMED_OUT)
        job_end(j, JOB_TIMED_OUT, 124,
                "timed out; the session's kernel had to be ended, and its variables and imports "
                "are gone");
    else
        job_end(j, JOB_CANCELED, 130,
                "Canceled; the session's kernel had to be ended, and its variables and imports are "
                "gone");
}

static void died(struct job *j)
{
    if (++j->died < 2)
        loop_timer_set(&j->next, DIED_PAUSE_MS); /* it may be only just being born */
    else if (j->in_kernel)
        kernel_died(j);
    else
        job_end_unexplained(j, "what watched the script in the session was ended");
}

static void gone(struct job *j)
{
    if (++j->gone < GONE_LOOKS) {
        loop_timer_set(&j->next, GONE_PAUSE_MS);
        return;
    }
    j->result.untraced = j->spec.resume;
    job_end_unexplained(j, "the session lost the run: it was recycled, or its files removed");
}

static void later(struct job *j)
{
    int64_t pause = j->quiet ? (int64_t)SHORT_PAUSE_MS << (j->quiet < 5 ? j->quiet : 5) : 0;
    if (!j->quiet)
        pause = SHORT_PAUSE_MS;
    j->quiet++;
    loop_timer_set(&j->next, pause < PAUSE_MS ? pause : PAUSE_MS);
}

/* From now on the run may be under way: it must not be started once more. */
static void tell_begun(struct job *j, const struct watch_answer *a)
{
    bool known = a->state != WATCH_GONE && a->state != WATCH_MISSING && a->state != WATCH_REPLACED;
    if (j->begun || !known || a->state == WATCH_OVER) /* of which `done` tells */
        return;
    j->begun = true;
    if (j->events.begun)
        j->events.begun(j->events.arg);
}

static void act(struct job *j, struct watch_answer *a)
{
    j->phase = JOB_WATCHING;
    tell_begun(j, a);
    if (a->state != WATCH_DIED)
        j->died = 0;
    if (a->state != WATCH_GONE)
        j->gone = 0;
    if (a->state <= WATCH_DIED && (!give_out(j, a) || fetch_more(j, a)))
        return;
    if (j->in_kernel && kernel_watched(j, a))
        return;
    switch (a->state) {
    case WATCH_RUNNING:
        later(j);
        return;
    case WATCH_OVER:
        over(j, a);
        return;
    case WATCH_DIED:
        died(j);
        return;
    case WATCH_GONE:
        gone(j);
        return;
    case WATCH_MISSING:
        job_end_missing(j);
        return;
    case WATCH_REPLACED:
        job_end_replaced(j);
        return;
    case WATCH_NO_PROCESS:
        log_warning("no process can be started in the session (%s): using its kernel",
                    a->why ? a->why : "?");
        j->in_kernel = j->no_process = true;
        kernel_start(j);
        return;
    }
}

static void watched(void *arg, const struct session_error *e, const cJSON *value)
{
    struct job *j = arg;
    struct watch_answer a;
    j->call = NULL;
    if (e->err) {
        job_bear(j, e);
        return;
    }
    int err = watch_answer_parse(value, &a);
    if (err) {
        job_lose(j, &(struct session_error){.err = err},
                 "the session's answer about the run makes no sense");
        return;
    }
    j->trouble_since = 0;
    job_heard(j);
    act(j, &a);
    watch_answer_free(&a);
}

/* --- the folder's listing */

static bool is_news(const struct job *j, const struct listing *listing)
{
    static const char *const names[] = {"out", "err"};
    if (!listing->count)
        return true; /* a run has files: let watch.py say what became of it */
    for (size_t i = 0; i < listing->count; i++) {
        const struct entry *e = &listing->entries[i];
        if (strcmp(e->name, "status.json") == 0)
            return true;
        for (int n = 0; n < 2; n++)
            if (strcmp(e->name, names[n]) == 0 && e->size > (int64_t)j->streams[n].offset)
                return true;
    }
    return false;
}

static void glanced(void *arg, const struct session_error *e, const struct session_list_result *r)
{
    struct job *j = arg;
    j->call = NULL;
    if (e->err || is_news(j, r->listing))
        look(j, 0);
    else
        loop_timer_set(&j->next, GLANCE_EVERY_MS);
}

static bool glance(struct job *j)
{
    int64_t now = clock_ms();
    if (j->in_kernel || j->trouble_since || j->died || j->stop_wanted ||
        now - j->quiet_since < GLANCE_AFTER_MS || now - j->called_at > CALL_EVERY_MS)
        return false;
    j->call = session_list(j->session, j->name, false, glanced, j);
    return j->call != NULL;
}

/* --- steps */

static int64_t share(const struct job *j, int64_t wait_ms)
{
    return wait_ms / (1 + (int64_t)j->spec.others);
}

static void look(struct job *j, int64_t wait_ms)
{
    call(j, "look", share(j, wait_ms), watched);
}

void watch_again(struct job *j)
{
    if (j->call || glance(j))
        return;
    bool more = false;
    for (int i = 0; i < 2; i++)
        more = more || j->streams[i].size > j->streams[i].offset;
    look(j, more || j->died || j->executed ? 0 : WAIT_MS);
}

void watch_start(struct job *j)
{
    j->quiet_since = clock_ms();
    if (j->in_kernel)
        kernel_start(j);
    else
        call(j, "start", share(j, FIRST_WAIT_MS), watched);
}

static void sent(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct job *j = arg;
    j->call = NULL;
    if (e->err) {
        job_bear(j, e);
        return;
    }
    j->phase = JOB_STARTING;
    watch_start(j);
}

void watch_send(struct job *j)
{
    j->call =
        session_upload_bytes(j->session, j->upload, j->spec.code, strlen(j->spec.code), sent, j);
    if (!j->call)
        job_lose(j, &(struct session_error){.err = -ENOMEM}, NULL);
}
