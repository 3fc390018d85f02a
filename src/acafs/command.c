#include "acafs/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "acafs/command_line.h"
#include "acafs/notify.h"
#include "acafs/pool.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"

static void reply_error(struct command *c, int err, const char *message)
{
    cJSON_Delete(c->reply);
    c->reply = cJSON_CreateObject();
    cJSON *error = cJSON_AddObjectToObject(c->reply, "error");
    cJSON_AddStringToObject(error, "errno", strerrorname_np(-err));
    cJSON_AddStringToObject(error, "message", message);
    c->err = err;
}

int command_refuse(struct command *c, const char *message)
{
    log_info("control: %s", message);
    reply_error(c, -EINVAL, message);
    return -EINVAL;
}

static void reply_ok(struct command *c)
{
    c->reply = cJSON_CreateObject();
    cJSON_AddBoolToObject(c->reply, "ok", true);
}

/* --- jobs */

static int step_submit(struct command *c)
{
    struct run *run = jobs_find(c->jobs, c->run_id);
    int err = run ? jobs_kept(run, c->waiter) : 0;
    if (err == STORE_WAIT)
        return err;
    if (err) {
        reply_error(c, err, "the job can't be kept in the cache directory");
        return 0;
    }
    c->reply = cJSON_CreateObject();
    cJSON_AddNumberToObject(c->reply, "job", (double)c->run_id);
    return 0;
}

static int step_wait(struct command *c)
{
    struct run *run = jobs_find(c->jobs, c->run_id);
    if (!run) {
        reply_error(c, -ENOENT, "no such job");
        return 0;
    }
    if (run->state != RUN_OVER) {
        waitq_park(&run->changed, c->waiter);
        return STORE_WAIT;
    }
    c->reply = cJSON_Duplicate(run->report, true);
    c->err = run->err;
    return 0;
}

static int start_job(struct command *c, const struct command_line *line)
{
    const char *why;
    struct run *run = jobs_submit(c->jobs, line->request, &why);
    if (!run)
        return command_refuse(c, why);
    c->run_id = run->id;
    return 0;
}

static int start_run(struct command *c, const struct command_line *line)
{
    c->step = step_wait;
    return start_job(c, line);
}

static int start_submit(struct command *c, const struct command_line *line)
{
    c->step = step_submit;
    return start_job(c, line);
}

static int find_job(struct command *c, const struct command_line *line)
{
    c->run_id = line->job;
    return jobs_find(c->jobs, c->run_id) ? 0 : command_refuse(c, "no such job");
}

static int start_wait(struct command *c, const struct command_line *line)
{
    c->step = step_wait;
    return find_job(c, line);
}

static int start_cancel(struct command *c, const struct command_line *line)
{
    int err = find_job(c, line);
    if (!err)
        jobs_cancel(jobs_find(c->jobs, c->run_id));
    c->step = step_submit;
    return err;
}

/* --- the store */

static int step_sync(struct command *c)
{
    const struct mount *m = c->mount;
    int err = m->store ? store_sync(m->store, c->waiter) : pool_sync(m->volume->pool, c->waiter);
    if (err == STORE_WAIT)
        return err;
    if (err)
        reply_error(c, err, "some files are not on the server: see .acafs/status");
    else
        reply_ok(c);
    return 0;
}

static int start_sync(struct command *c, const struct command_line *line)
{
    c->step = step_sync;
    return 0;
}

static int step_show(struct command *c)
{
    int err = notifier_flush(c->mount->notifier, c->waiter, &c->ticket);
    if (err == STORE_WAIT)
        return err;
    if (err)
        reply_error(c, err, strerror(-err));
    else
        reply_ok(c);
    return 0;
}

static int step_refresh(struct command *c)
{
    struct store *s = c->mount->store;
    int err = c->path ? store_refresh_path(s, c->waiter, c->path) : store_refresh_all(s, c->waiter);
    if (err == STORE_WAIT)
        return err;
    if (err) {
        reply_error(c, err,
                    err == -ENOENT ? "there is no such file in the session"
                                   : "the session's files could not be listed");
        return 0;
    }
    c->step = step_show;
    return step_show(c);
}

static int start_refresh(struct command *c, const struct command_line *line)
{
    c->step = step_refresh;
    if (!line->path) {
        store_invalidate(c->mount->store);
        return 0;
    }
    c->path = strdup(line->path);
    return c->path ? 0 : command_refuse(c, "out of memory");
}

static void session_deleted(void *arg, const struct session_error *e)
{
    struct command *c = arg;
    c->call = NULL;
    c->told = true;
    if (e->err)
        store_expect_new(c->mount->store, false);
    if (e->err && e->err != -ENOENT)
        reply_error(c, e->err, e->message ? e->message : strerror(-e->err));
    store_invalidate(c->mount->store);
    waitq_wake(&c->mount->volume->wakeup, &c->asked, 0);
}

static int step_delete(struct command *c)
{
    if (!c->told) {
        waitq_park(&c->asked, c->waiter);
        return STORE_WAIT;
    }
    if (!c->reply)
        reply_ok(c);
    return 0;
}

static int start_delete(struct command *c, const struct command_line *line)
{
    c->step = step_delete;
    store_expect_new(c->mount->store, true);
    c->call = session_delete(c->mount->client.session, session_deleted, c);
    return c->call ? 0 : command_refuse(c, "out of memory");
}

/* --- */

static int (*const starts[WORDS])(struct command *, const struct command_line *) = {
    [WORD_RUN] = start_run,
    [WORD_SUBMIT] = start_submit,
    [WORD_WAIT] = start_wait,
    [WORD_CANCEL] = start_cancel,
    [WORD_SYNC] = start_sync,
    [WORD_REFRESH] = start_refresh,
    [WORD_DELETE_SESSION] = start_delete,
};

int command_start(struct command *c, struct mount *m, struct jobs *jobs, struct waiter *w,
                  const char *text)
{
    struct command_line line = {0};
    *c = (struct command){.mount = m, .jobs = jobs, .waiter = w};
    const char *why = command_line_parse(text, &line);
    if (!m->store && line.word != WORD_SYNC)
        why = "unknown command; here is only sync, and more in the .acafs of each session";
    int err = why ? command_refuse(c, why) : starts[line.word](c, &line);
    command_line_free(&line);
    return err;
}

int command_step(struct command *c)
{
    return c->step(c);
}

void command_end(struct command *c)
{
    if (c->mount)
        waiter_leave(c->waiter);
    if (c->call)
        session_cancel(c->call);
    cJSON_Delete(c->reply);
    free(c->path);
    *c = (struct command){0};
}
