/* Many scripts straight in the pool, on one loop: rooms are sessions, each with lanes in which
 * scripts run one after another.
 *
 *     room:  SENDING (--with) ──▶ open: its lanes start
 *     lane:  idle ──▶ SENDING (script) ──▶ LOOKING (--fetch) ──▶ RUNNING ──▶ FETCHING ──▶ idle
 *
 * A script is put at the session's top, where the files of --with are. Only while another of the
 * same name runs there (never with --fetch, for which a session has one lane) it gets a directory
 * of its own, and those files once more in it.
 *
 * When all lanes are idle for good, sessions of our own are deleted. The first signal ends what
 * runs, the next one ends us where we are. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "acarun/batch.h"
#include "acarun/exit.h"
#include "acarun/fetch.h"
#include "acarun/link.h"
#include "acarun/progress.h"
#include "acarun/signals.h"
#include "job/job.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

struct many;

struct room {
    struct many *many;
    struct session *session;
    char *identifier; /* NULL: the link's own session */
    bool own;         /* to be deleted, */
    bool tried;       /* if it may be there */
    bool open;
    size_t sent; /* files of --with */
    int fd;      /* of the one under way */
    struct session_call *call;
};

struct lane {
    struct many *many;
    struct room *room;
    struct item *item; /* NULL: idle */
    char own[24];      /* the script's own directory in the session, or "" */
    char *path;        /* of the script in the session */
    size_t sent;       /* files of --with in its own directory */
    int fd;
    struct session_call *call;
    struct fetch *fetch;
    char *fetch_dir;
    struct job *job;
    bool begun; /* it, in the session */
};

struct many {
    struct batch *batch;
    struct link link;
    struct room *rooms;
    struct lane *lanes;
    unsigned room_count, lane_count;
    struct loop_fd *signals;
    struct loop_timer begin, tick;
    bool ending; /* the rooms are being deleted */
};

static void lane_next(struct lane *);
static void end_when_idle(struct many *);

/* --- how things end */

/* Ends a lane's script while no job of it runs. */
static void leave(struct lane *l)
{
    struct item *i = l->item;
    session_cancel(l->call);
    l->call = NULL;
    fetch_free(l->fetch);
    l->fetch = NULL;
    cleanup_close(&l->fd);
    l->fd = -1;
    l->item = NULL;
    if (i->report.state[0])
        batch_over(l->many->batch, i, -1, "what it made was not fetched");
    else
        batch_stopped(l->many->batch, i);
}

/* No more of anything: what runs is told to end. */
static void stop(struct many *m)
{
    m->batch->stop = true;
    for (unsigned i = 0; i < m->room_count; i++) {
        struct room *r = &m->rooms[i];
        session_cancel(r->call);
        r->call = NULL;
    }
    for (unsigned i = 0; i < m->lane_count; i++) {
        struct lane *l = &m->lanes[i];
        if (l->job) {
            job_cancel(l->job);
        } else if (l->item) {
            leave(l);
        }
    }
    end_when_idle(m);
}

/* What keeps one script from being run keeps all. */
static bool is_for_all(int err)
{
    return err == -EACCES || err == -EHOSTUNREACH || err == -ENOENT;
}

static void lane_over(struct lane *l, int code, const char *message)
{
    struct many *m = l->many;
    struct item *i = l->item;
    bool stopped_before = m->batch->stop;
    fetch_free(l->fetch);
    l->fetch = NULL;
    cleanup_close(&l->fd);
    l->fd = -1;
    l->item = NULL;
    if (stopped_before && i->report.exit_code == 130)
        batch_stopped(m->batch, i);
    else
        batch_over(m->batch, i, code, message);
    if (m->batch->stop && !stopped_before)
        stop(m);
    lane_next(l);
}

/* When there is a report, its outputs are kept. */
static void lane_failed(struct lane *l, const struct session_error *e)
{
    _cleanup_buf_ struct buf text = {0};
    client_explain(&text, e);
    if (is_for_all(e->err))
        l->many->batch->stop = true;
    lane_over(l, l->item->report.state[0] ? -1 : exit_of_error(e->err),
              text.data ? text.data : strerror(-e->err));
    if (l->many->batch->stop)
        stop(l->many);
}

static void lane_failed_here(struct lane *l, int err)
{
    lane_over(l, EXIT_RAISED, strerror(-err));
}

/* --- a lane */

static void fetched(void *arg, int err, const char *why, unsigned count)
{
    struct lane *l = arg;
    l->item->fetched = count;
    if (err)
        lane_over(l, err == -ENOSPC || err == -EACCES ? EXIT_NO_OUTPUT : exit_of_error(err),
                  why ? why : strerror(-err));
    else
        lane_over(l, -1, NULL);
}

static void job_begun(void *arg)
{
    struct lane *l = arg;
    l->begun = true;
}

static void waits(void *arg, const struct session_error *e, int64_t patience_ms)
{
    const struct lane *l = arg;
    _cleanup_buf_ struct buf text = {0};
    client_explain(&text, e);
    batch_waits(l->item, text.data ? text.data : strerror(-e->err));
}

static void put_out(void *arg, int stream, const void *data, size_t len)
{
    struct lane *l = arg;
    l->begun = true;
    batch_output(l->item, stream, data, len);
}

static void job_over(void *arg, const struct job_result *result)
{
    struct lane *l = arg;
    l->job = NULL;
    int err = result->error.err && !l->begun
                  ? 0
                  : task_take_result(&l->item->report, l->item->output, result);
    if (result->error.err)
        lane_failed(l, &result->error);
    else if (err)
        lane_over(l, EXIT_NO_OUTPUT, strerror(-err));
    else if (l->fetch && !l->many->batch->stop)
        fetch_changed(l->fetch);
    else
        lane_over(l, -1, NULL);
}

static void run_script(struct lane *l)
{
    struct many *m = l->many;
    const struct options *o = m->batch->options;
    const struct job_spec spec = {
        .path = l->path,
        .in_kernel = o->in_kernel,
        .timeout_ms = o->timeout_ms,
        .others = (m->lane_count + m->room_count - 1) / m->room_count - 1,
    };
    const struct job_events events = {
        .begun = job_begun, .waits = waits, .output = put_out, .done = job_over, .arg = l};
    l->begun = false;
    l->job = job_start(m->link.loop, l->room->session, &spec, &events);
    if (!l->job)
        lane_failed_here(l, -ENOMEM);
}

static void remembered(void *arg, int err, const char *why, unsigned count)
{
    struct lane *l = arg;
    if (err)
        lane_over(l, exit_of_error(err), why ? why : strerror(-err));
    else
        run_script(l);
}

/* The first look is over: the next call to the same object is the second. */
static void looked(void *arg, int err, const char *why, unsigned count)
{
    struct lane *l = arg;
    if (l->item->report.state[0])
        fetched(l, err, why, count);
    else
        remembered(l, err, why, count);
}

static void look(struct lane *l)
{
    const struct options *o = l->many->batch->options;
    struct buf dir = {0};
    free(l->fetch_dir);
    if (buf_addf(&dir, "%s/%s.files", o->output_dir ? o->output_dir : l->item->dir, l->item->name))
        buf_free(&dir);
    l->fetch_dir = dir.data;
    l->fetch = dir.data ? fetch_new(l->room->session, &o->fetch, l->fetch_dir, looked, l) : NULL;
    if (l->fetch)
        fetch_remember(l->fetch);
    else
        lane_failed_here(l, -ENOMEM);
}

static void sent(void *, const struct session_error *, const struct entry *);

/* Sends a file of --with to the lane's own directory. */
static void send_with(struct lane *l, const char *file)
{
    struct stat st;
    _cleanup_free_ char *copy = strdup(file);
    _cleanup_buf_ struct buf path = {0};
    cleanup_close(&l->fd);
    l->fd = open(file, O_RDONLY | O_CLOEXEC);
    if (l->fd < 0 || fstat(l->fd, &st))
        lane_over(l, EXIT_NO_SCRIPT, strerror(errno));
    else if (!copy || buf_addf(&path, "%s/%s", l->own, basename(copy)) ||
             !(l->call = session_upload(l->room->session, path.data, l->fd, (uint64_t)st.st_size,
                                        sent, l)))
        lane_failed_here(l, -ENOMEM);
}

static void sent(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct lane *l = arg;
    const struct options *o = l->many->batch->options;
    l->call = NULL;
    if (e->err) {
        lane_failed(l, e);
        return;
    }
    if (!o->quiet)
        log_set_level(LOG_LEVEL_WARNING);
    if (*l->own && l->sent < o->with.count)
        send_with(l, o->with.values[l->sent++]);
    else if (o->fetch.count)
        look(l);
    else
        run_script(l);
}

/* Whether a script of that name runs at the top of the lane's session. */
static bool is_top_taken(const struct lane *l)
{
    const struct many *m = l->many;
    for (unsigned i = 0; i < m->lane_count; i++) {
        const struct lane *other = &m->lanes[i];
        if (other != l && other->room == l->room && other->item && !*other->own &&
            strcmp(other->item->name, l->item->name) == 0)
            return true;
    }
    return false;
}

static int place_script(struct lane *l)
{
    struct buf path = {0};
    size_t number = (size_t)(l->item - l->many->batch->items) + 1;
    l->own[0] = '\0';
    l->sent = 0;
    if (is_top_taken(l))
        snprintf(l->own, sizeof l->own, "acarun-%zu", number);
    free(l->path);
    l->path = NULL;
    if (buf_addf(&path, "%s%s%s", l->own, *l->own ? "/" : "", l->item->name))
        return -ENOMEM;
    l->path = buf_take(&path);
    return 0;
}

static void lane_next(struct lane *l)
{
    struct many *m = l->many;
    struct stat st;
    if (l->item)
        return; /* it went on meanwhile */
    l->item = l->room->open ? batch_next(m->batch) : NULL;
    if (!l->item) {
        end_when_idle(m);
        return;
    }
    if (place_script(l)) {
        lane_failed_here(l, -ENOMEM);
        return;
    }
    l->fd = open(l->item->script, O_RDONLY | O_CLOEXEC);
    if (l->fd < 0 || fstat(l->fd, &st)) {
        lane_over(l, EXIT_NO_SCRIPT, strerror(errno));
        return;
    }
    l->room->tried = true;
    l->call = session_upload(l->room->session, l->path, l->fd, (uint64_t)st.st_size, sent, l);
    if (!l->call)
        lane_failed_here(l, -ENOMEM);
}

/* --- a room */

static void room_next(struct room *);

static void fail_all(struct many *m, int code, const char *what, const char *why)
{
    log_error("%s: %s", what, why);
    m->batch->code = code;
    stop(m);
}

static void file_sent(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct room *r = arg;
    const char *file = r->many->batch->options->with.values[r->sent];
    r->call = NULL;
    cleanup_close(&r->fd);
    r->fd = -1;
    if (e->err) {
        _cleanup_buf_ struct buf text = {0};
        client_explain(&text, e);
        fail_all(r->many, exit_of_error(e->err), file, text.data ? text.data : strerror(-e->err));
        return;
    }
    r->sent++;
    room_next(r);
}

static void open_room(struct room *r)
{
    struct many *m = r->many;
    r->open = true;
    for (unsigned i = 0; i < m->lane_count; i++) {
        if (m->lanes[i].room == r)
            lane_next(&m->lanes[i]);
    }
}

/* Sends the next file of --with, or opens the room. */
static void room_next(struct room *r)
{
    struct many *m = r->many;
    const struct option_list *with = &m->batch->options->with;
    if (m->batch->stop)
        return;
    if (r->sent == with->count) {
        open_room(r);
        return;
    }
    const char *file = with->values[r->sent];
    _cleanup_free_ char *copy = strdup(file);
    struct stat st;
    r->fd = open(file, O_RDONLY | O_CLOEXEC);
    int err = r->fd < 0 || fstat(r->fd, &st) ? -errno : S_ISREG(st.st_mode) ? 0 : -EISDIR;
    if (err) {
        fail_all(m, EXIT_NO_SCRIPT, file, strerror(-err));
        return;
    }
    r->tried = true;
    if (copy)
        r->call =
            session_upload(r->session, basename(copy), r->fd, (uint64_t)st.st_size, file_sent, r);
    if (!r->call)
        fail_all(m, EXIT_RAISED, file, strerror(ENOMEM));
}

static void room_deleted(void *arg, const struct session_error *e)
{
    struct room *r = arg;
    r->call = NULL;
    if (e->err && e->err != -ENOENT && r->open)
        log_warning("session %s stays until it expires: %s", r->identifier,
                    e->message ? e->message : strerror(-e->err));
    end_when_idle(r->many);
}

static void delete_rooms(struct many *m)
{
    m->ending = true;
    for (unsigned i = 0; i < m->room_count; i++) {
        struct room *r = &m->rooms[i];
        if (r->own && r->tried)
            r->call = session_delete(r->session, room_deleted, r);
    }
}

static void end_when_idle(struct many *m)
{
    const struct batch *b = m->batch;
    for (unsigned i = 0; i < m->lane_count; i++) {
        if (m->lanes[i].item)
            return;
    }
    for (unsigned i = 0; i < m->room_count; i++) {
        if (m->rooms[i].call)
            return;
    }
    if (!m->ending && (b->stop || b->next == b->count))
        delete_rooms(m);
    else if (!m->ending)
        return;
    for (unsigned i = 0; i < m->room_count; i++) {
        if (m->rooms[i].call)
            return;
    }
    loop_quit(m->link.loop, 0);
}

/* --- in order */

static void begin(void *arg)
{
    struct many *m = arg;
    for (unsigned i = 0; i < m->room_count && !m->batch->stop; i++)
        room_next(&m->rooms[i]);
}

static void tick(void *arg)
{
    struct many *m = arg;
    struct http_stats http;
    http_get_stats(m->link.client.http, &http);
    progress_traffic(m->batch->progress, http.bytes_out, http.bytes_in);
    progress_draw(m->batch->progress);
    loop_timer_set(&m->tick, PROGRESS_MS);
}

static void signalled(void *arg, short revents)
{
    struct many *m = arg;
    if (!signals_take(m->batch->signal_fd))
        return;
    if (m->batch->canceled) {
        loop_quit(m->link.loop, 0);
        return;
    }
    m->batch->canceled = true;
    stop(m);
}

static int new_session(struct many *m, struct room *r)
{
    char uuid[37];
    _cleanup_free_ char *why = NULL;
    text_uuid(uuid);
    if (!(r->identifier = strdup(uuid)))
        return -ENOMEM;
    r->own = true;
    int err =
        client_session(&m->link.client, m->link.loop, &m->link.config, uuid, &r->session, &why);
    if (err)
        log_error("%s", why ? why : strerror(-err));
    return err;
}

static int make_rooms(struct many *m)
{
    const struct options *o = m->batch->options;
    size_t lanes = o->jobs < m->batch->count ? o->jobs : m->batch->count;
    size_t rooms = !o->spread ? 1 : o->sessions && o->sessions < lanes ? o->sessions : lanes;
    m->rooms = calloc(rooms, sizeof *m->rooms);
    m->lanes = calloc(lanes, sizeof *m->lanes);
    if (!m->rooms || !m->lanes)
        return -ENOMEM;
    m->lane_count = (unsigned)lanes;
    for (; m->room_count < rooms; m->room_count++) {
        struct room *r = &m->rooms[m->room_count];
        *r = (struct room){.many = m, .fd = -1};
        int err = o->spread ? new_session(m, r) : 0;
        if (err)
            return err;
        if (!o->spread) {
            r->session = m->link.client.session;
            r->own = m->link.own_session;
            r->identifier = strdup(m->link.config.session);
        }
    }
    for (unsigned i = 0; i < lanes; i++)
        m->lanes[i] = (struct lane){.many = m, .room = &m->rooms[i % rooms], .fd = -1};
    return 0;
}

static void tear_down(struct many *m)
{
    for (unsigned i = 0; m->lanes && i < m->lane_count; i++) {
        struct lane *l = &m->lanes[i];
        if (l->job)
            job_abandon(l->job);
        session_cancel(l->call);
        fetch_free(l->fetch);
        cleanup_close(&l->fd);
        free(l->path);
        free(l->fetch_dir);
        if (l->item)
            batch_stopped(m->batch, l->item);
    }
    for (unsigned i = 0; m->rooms && i < m->room_count; i++) {
        struct room *r = &m->rooms[i];
        session_cancel(r->call);
        cleanup_close(&r->fd);
        if (r->session && r->session != m->link.client.session)
            session_free(r->session);
        free(r->identifier);
    }
    free(m->lanes);
    free(m->rooms);
    if (m->signals)
        loop_fd_del(m->signals);
    if (m->link.loop) {
        loop_timer_stop(&m->begin);
        loop_timer_stop(&m->tick);
    }
    link_close(&m->link);
}

void many_direct(struct batch *b)
{
    struct many m = {.batch = b};
    int code = link_open(&m.link, b->options);
    if (code < 0) {
        loop_timer_init(&m.begin, m.link.loop, begin, &m);
        loop_timer_init(&m.tick, m.link.loop, tick, &m);
        m.signals = loop_fd_add(m.link.loop, b->signal_fd, CURL_WAIT_POLLIN, signalled, &m);
        log_set_level(LOG_LEVEL_ERROR);
        code = m.signals && make_rooms(&m) == 0 ? -1 : EXIT_RAISED;
    }
    if (code < 0) {
        loop_timer_set(&m.begin, 0);
        loop_timer_set(&m.tick, PROGRESS_MS);
        loop_run(m.link.loop);
    } else {
        b->code = code;
    }
    tear_down(&m);
}
