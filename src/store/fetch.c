/* Fetching: content streams in from the server while it is read. See enum file_state.
 *
 * A file is fetched from its beginning to its end, unless it is read far from what is at hand or
 * will be soon: there a second stream begins, of a part that grows while reading goes on
 * behind it. Servers without ranges give everything from the start.
 *
 * What does not fit into the cache is never here as a whole: what was read gives way to what is
 * read next (shed.c), and a stream that fills the cache with what nobody has asked for yet ends;
 * the next read begins another. That takes ranges. */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    NEAR = 2 << 20, /* so much is here sooner than the answer to another request */
    PART_FIRST = 1 << 20,
    PART_GROWTH = 4,          /* of what was read in one piece before it */
    PART_LONGEST = 256 << 20, /* longer parts go to the end of the file */
    STREAMS_MAX = 4,          /* of one file */
    RESTARTS_MAX = 3,
};

bool file_idle(const struct file *f)
{
    return (f->state == FILE_WHOLE || (f->state == FILE_FILLING && !f->streams)) &&
           !f->waiting.head;
}

bool file_outdated(const struct file *f)
{
    bool settled = f->state == FILE_WHOLE || (f->state == FILE_FILLING && !f->streams);
    return settled && !f->backed && !version_same(&f->version, &f->inode->base);
}

/* --- streams */

static void stream_free(struct stream *st)
{
    struct file *f = st->file;
    struct store *s = f->store;
    s->streams--;
    s->ahead.streams -= st->ahead;
    f->stream_count--;
    DL_DELETE(f->streams, st);
    free(st);
}

void file_stop_fetching(struct file *f)
{
    while (f->streams) {
        session_cancel(f->streams->call);
        stream_free(f->streams);
    }
    extents_clear(&f->have);
    file_forget_served(f);
    f->all_wanted = false;
    f->expected = -1;
    f->served = (struct timespec){.tv_nsec = -1};
}

static bool same_file(const struct file *f, int64_t size, const struct timespec *mtime)
{
    const struct version told = {.size = f->expected, .mtime = f->served};
    const struct version now = {.size = size,
                                .mtime = mtime ? *mtime : (struct timespec){.tv_nsec = -1}};
    return version_same(&told, &now);
}

/* The server's file is another by now than the listing said: this is how long it is. When it is
 * longer, the kernel must hear of it before the first bytes, or it cuts the new content where the
 * old one ended. That a read came to the end early, the kernel sees itself, and only then. */
static void learn_size(struct file *f)
{
    struct inode *inode = f->inode;
    const struct store_events *events = &f->store->options.events;
    if (inode->size == f->expected)
        return;
    bool grew = inode->size >= 0 && inode->size < f->expected;
    inode->size = f->expected;
    inode->base = (struct version){.size = inode->size, .mtime = {.tv_nsec = -1}};
    f->version = inode->base;
    if (grew && events->attributes && inode->nlookup)
        events->attributes(events->arg, inode);
}

static int stream_head(void *arg, uint64_t start, int64_t size, const struct timespec *mtime)
{
    struct stream *st = arg;
    struct file *f = st->file;
    if (start > st->start)
        return -EPROTO;
    if (!same_file(f, size, mtime))
        return -ESTALE;
    if (start < st->start) {
        /* No ranges here: one stream from the start serves all. */
        if (f->stream_count > 1 || f->have.count)
            return -ECANCELED;
        st->stop = UINT64_MAX;
    }
    st->position = start;
    if (size >= 0) {
        f->expected = size;
        learn_size(f);
    }
    if (mtime)
        f->served = *mtime;
    return 0;
}

/* It will never be here as a whole. */
static bool is_too_large(const struct file *f)
{
    return f->inode->size >= 0 && (uint64_t)f->inode->size > f->store->options.cache_size;
}

/* What is missing can be asked for by itself. */
static bool comes_in_parts(const struct file *f)
{
    return session_ranges(f->store->session) != 0 && f->inode->size >= 0 &&
           (!f->restarts || is_too_large(f));
}

/* The cache is full of what is open. What somebody waits for has its place all the same. */
static int make_do(struct stream *st, size_t len)
{
    struct file *f = st->file;
    if (f->all_wanted || !comes_in_parts(f))
        return -ENOSPC;
    if (st->position >= st->need.end)
        return -ECANCELED;
    file_shed(f, len, true);
    int err = file_reserve(f, f->bytes + len);
    return err == -ENOSPC ? room_exceed(f, len) : err;
}

static int keep(struct stream *st, const void *data, size_t len)
{
    struct file *f = st->file;
    uint64_t at = st->position;
    int err = 0;
    if (extents_end(&f->have, at) < at + len)
        err = file_reserve(f, f->bytes + len);
    if (err == -ENOSPC)
        err = make_do(st, len);
    if (err)
        return err;
    ssize_t n = pwrite(f->fd, data, len, (off_t)at);
    if (n != (ssize_t)len)
        return n < 0 ? -errno : -ENOSPC;
    return extents_add(&f->have, at, at + len);
}

static int stream_data(void *arg, const void *data, size_t len)
{
    struct stream *st = arg;
    struct file *f = st->file;
    if (f->expected >= 0 && len > (uint64_t)f->expected - st->position)
        return -EPROTO;
    int err = keep(st, data, len);
    if (err)
        return err;
    st->position += len;
    waitq_wake(&f->store->wakeup, &f->waiting, 0);
    /* What follows came by another stream, and what does not can be asked for. */
    bool enough = extents_end(&f->have, st->position) > st->position + NEAR;
    return enough && session_ranges(f->store->session) != 0 ? -ECANCELED : 0;
}

/* --- ends */

static void become_whole(struct file *f)
{
    if (ftruncate(f->fd, (off_t)f->expected) == 0)
        learn_size(f);
    f->state = FILE_WHOLE;
    f->restarts = 0;
    file_account(f, (uint64_t)f->expected);
    file_stop_fetching(f);
}

static void fetch_failed(struct file *f, int err, const char *message, bool ahead)
{
    struct inode *inode = f->inode;
    /* Renamed on the way: what waits asks again under the new name. */
    bool again = err == -ENOENT && inode->parent && inode->changed > f->asked_clock;
    if (err == -ESTALE && f->restarts < RESTARTS_MAX) {
        f->restarts++;
        again = true;
    }
    if (!again && !ahead)
        log_warning("%s: download failed: %s", inode->name, message ? message : strerror(-err));
    f->restarts = again ? f->restarts : 0;
    f->fetch_error = again ? 0 : err;
    f->fetch_failed_ms = clock_ms();
    file_drop(f);
    waitq_wake(&f->store->wakeup, &f->waiting, again ? 0 : err);
}

/* What an answer that came to its end says about the file. */
static int stream_result(struct stream *st)
{
    struct file *f = st->file;
    if (st->stop != UINT64_MAX)
        return 0;
    if (st->position == st->start && st->start > 0)
        return -ESTALE; /* shorter than it was said to be */
    if (f->expected < 0)
        f->expected = (int64_t)st->position;
    return st->position == (uint64_t)f->expected ? 0 : -EIO;
}

static void stream_done(void *arg, const struct session_error *e)
{
    struct stream *st = arg;
    struct file *f = st->file;
    bool ahead = st->ahead;
    struct store *s = f->store;
    int err = e->err ? e->err : stream_result(st);
    stream_free(st);
    if (err && err != -ECANCELED)
        fetch_failed(f, err, e->message, ahead);
    else if (f->expected >= 0 && extents_end(&f->have, 0) == (uint64_t)f->expected)
        become_whole(f);
    waitq_wake(&s->wakeup, &f->waiting, 0);
    readahead_go_on(s);
}

/* --- beginnings */

static int stream_start(struct file *f, uint64_t start, uint64_t stop, bool ahead)
{
    struct store *s = f->store;
    _cleanup_buf_ struct buf path = {0};
    if (!inode_path(f->inode, &path))
        return -ESTALE;
    struct stream *st = calloc(1, sizeof *st);
    if (!st)
        return -ENOMEM;
    *st =
        (struct stream){.file = f, .start = start, .position = start, .stop = stop, .ahead = ahead};
    const struct session_sink sink = {.on_head = stream_head,
                                      .on_data = stream_data,
                                      .done = stream_done,
                                      .arg = st,
                                      .no_namesake = !inode_child(s->inodes.root, f->inode->name),
                                      .length = stop == UINT64_MAX ? 0 : stop - start};
    if (!ahead)
        readahead_give_way(s);
    st->call = session_download(s->session, path.data, start, &sink);
    if (!st->call) {
        free(st);
        return -ENOMEM;
    }
    DL_APPEND(f->streams, st);
    f->stream_count++;
    f->asked_clock = s->inodes.clock;
    s->streams++;
    s->ahead.streams += ahead;
    s->downloads++;
    s->downloads_ahead += ahead;
    return 0;
}

static int begin(struct file *f)
{
    int err = file_new_content(f);
    if (err)
        return err;
    f->state = FILE_FILLING;
    f->version = f->inode->base;
    return 0;
}

/* The stream that brings the byte at `at`: soon, or at all where another can't. */
static struct stream *stream_for(const struct file *f, uint64_t at, bool soon)
{
    struct stream *st;
    DL_FOREACH (f->streams, st) {
        if (st->position <= at && at < st->stop && (!soon || at - st->position <= NEAR))
            return st;
    }
    return NULL;
}

static bool in_parts(const struct file *f, uint64_t at)
{
    if (!comes_in_parts(f) || f->inode->size <= NEAR)
        return false;
    return at > NEAR || f->have.count || f->streams;
}

/* Begins a stream for the byte at `at`, which is not here and not expected soon. */
static int fetch_from(struct file *f, uint64_t at, uint64_t end)
{
    if (!in_parts(f, at))
        return stream_for(f, at, false) ? 0 : stream_start(f, 0, UINT64_MAX, false);
    if (f->stream_count >= STREAMS_MAX)
        return 0; /* the next that ends makes room */
    uint64_t before = at - extents_start(&f->have, at), next = extents_next(&f->have, at);
    uint64_t length = before * PART_GROWTH > PART_FIRST ? before * PART_GROWTH : PART_FIRST;
    if (length < end - at)
        length = end - at;
    uint64_t stop =
        length > PART_LONGEST || at + length >= (uint64_t)f->inode->size ? UINT64_MAX : at + length;
    return stream_start(f, at, stop < next ? stop : next, false);
}

static uint64_t missing_from(const struct file *f, uint64_t offset, uint64_t end)
{
    uint64_t at = extents_end(&f->have, offset);
    if (f->expected >= 0 && end > (uint64_t)f->expected)
        end = (uint64_t)f->expected;
    return at >= end && f->expected >= 0 ? UINT64_MAX : at;
}

static void note_need(struct stream *st, uint64_t start, uint64_t end)
{
    struct extent *need = &st->need;
    bool met = need->end <= st->position;
    need->start = met || start < need->start ? start : need->start;
    need->end = met || end > need->end ? end : need->end;
}

/* Sees to it that the byte at `at` is on its way for somebody who reads [offset, end). */
static int want(struct file *f, uint64_t offset, uint64_t at, uint64_t end)
{
    struct stream *st = stream_for(f, at, true);
    int err = st ? 0 : fetch_from(f, at, end);
    if (!st)
        st = stream_for(f, at, true);
    if (err || !st)
        return err; /* or one that comes by later, or ends before */
    note_need(st, offset, end);
    f->store->ahead.streams -= st->ahead;
    st->ahead = false;
    return 0;
}

/* Waits until [offset, end) is here, or all that there is of it. */
static int need_bytes(struct store *s, struct waiter *w, struct inode *inode, uint64_t offset,
                      uint64_t end)
{
    int err = waiter_take_error(w);
    if (err)
        return err;
    struct file *f = file_get(s, inode);
    if (!f)
        return -ENOMEM;
    readahead_note(s, inode);
    if (file_outdated(f))
        file_drop(f);
    if (f->state == FILE_WHOLE || f->state == FILE_DIRTY) {
        file_used(f);
        return 0;
    }
    /* Who was woken for bytes that came may find them dropped again, with all that came. Were that
     * one to ask anew, it could go on like that for ever. */
    if (f->state == FILE_ABSENT && f->fetch_error && w->born < f->fetch_failed_ms)
        return f->fetch_error;
    if (is_too_large(f) && (end == UINT64_MAX || session_ranges(s->session) == 0))
        return -ENOSPC;
    if (f->state == FILE_ABSENT && (err = begin(f)))
        return err;
    f->all_wanted = f->all_wanted || end == UINT64_MAX;
    uint64_t at = missing_from(f, offset, end);
    if (at >= end && end != UINT64_MAX)
        return 0;
    if (at < end && (err = want(f, offset, at, end))) {
        if (!f->streams)
            file_drop(f);
        return err;
    }
    waitq_park(&f->waiting, w);
    return STORE_WAIT;
}

int file_fetch_ahead(struct store *s, struct inode *inode)
{
    struct file *f = file_get(s, inode);
    if (!f)
        return -ENOMEM;
    int err = begin(f);
    err = err ? err : stream_start(f, 0, UINT64_MAX, true);
    if (err)
        file_drop(f);
    return err;
}

int store_file_whole(struct store *s, struct waiter *w, struct inode *inode)
{
    return need_bytes(s, w, inode, 0, UINT64_MAX);
}

void store_file_outdated(struct store *s, struct inode *inode)
{
    struct file *f = inode->file;
    if (f && !f->opens && file_outdated(f))
        file_drop(f);
    /* Open or on its way: the next read sees file_outdated(). */
}

int store_read(struct store *s, struct waiter *w, struct inode *inode, uint64_t offset, size_t len,
               int *fd, size_t *available)
{
    uint64_t end = offset + len;
    if (inode->size >= 0 && end > (uint64_t)inode->size)
        end = (uint64_t)inode->size;
    int err = need_bytes(s, w, inode, offset, end);
    if (err)
        return err;
    struct file *f = inode->file;
    uint64_t have =
        f->state == FILE_FILLING ? extents_end(&f->have, offset) : (uint64_t)inode->size;
    *fd = f->fd;
    *available = offset >= have ? 0 : have - offset < len ? (size_t)(have - offset) : len;
    if (f->state == FILE_FILLING)
        file_note_served(f, offset, offset + *available);
    return 0;
}
