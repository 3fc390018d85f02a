#include "loop/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <utlist.h>

#include "util/log.h"
#include "util/text.h"

enum { LONGEST_POLL_MS = 3600 * 1000 };
#define LONGEST_TIMER_MS (INT64_MAX / 4)

struct loop_fd {
    struct loop_fd *prev, *next;
    struct loop *loop;
    int fd;
    short events;
    size_t slot; /* in the poll set of this turn; SIZE_MAX: not in it */
    loop_fd_fn *fn;
    void *arg;
    bool gone; /* removed during a turn: freed after it */
};

struct work {
    struct work *prev, *next;
    int (*work)(void *arg);
    void (*done)(void *arg, int result);
    void *arg;
    int result;
};

struct loop {
    CURLM *multi;
    loop_transfer_fn *transfer;
    void *transfer_arg;
    struct loop_fd *fds;
    size_t fd_count;
    struct curl_waitfd *poll_set;
    size_t poll_size;
    bool in_turn;
    struct loop_timer **heap;
    size_t heap_len, heap_size;
    uint64_t settings; /* of timers, ever */
    bool quit;
    int code;
    /* The helper thread and what it shares, under the lock. */
    pthread_t thread;
    bool thread_runs, thread_quit;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct work *todo, *finished;
};

int loop_new(struct loop **out)
{
    struct loop *l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    l->multi = curl_multi_init();
    if (!l->multi) {
        free(l);
        return -ENOMEM;
    }
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->more, NULL);
    *out = l;
    return 0;
}

CURLM *loop_multi(struct loop *l)
{
    return l->multi;
}

void loop_set_transfers(struct loop *l, loop_transfer_fn *fn, void *arg)
{
    l->transfer = fn;
    l->transfer_arg = arg;
}

void loop_quit(struct loop *l, int code)
{
    l->quit = true;
    l->code = code;
}

void loop_wakeup(struct loop *l)
{
    int saved = errno; /* of the code that the signal interrupted */
    curl_multi_wakeup(l->multi);
    errno = saved;
}

/* --- timers: a binary heap by time and, where that is the same, the order in which they were
 * set; each knows its slot */

static bool comes_before(const struct loop_timer *a, const struct loop_timer *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void heap_put(struct loop *l, size_t slot, struct loop_timer *t)
{
    l->heap[slot] = t;
    t->heap_slot = (int)slot;
}

static void sift_up(struct loop *l, size_t slot)
{
    struct loop_timer *t = l->heap[slot];
    while (slot && comes_before(t, l->heap[(slot - 1) / 2])) {
        heap_put(l, slot, l->heap[(slot - 1) / 2]);
        slot = (slot - 1) / 2;
    }
    heap_put(l, slot, t);
}

static void sift_down(struct loop *l, size_t slot)
{
    struct loop_timer *t = l->heap[slot];
    for (;;) {
        size_t child = 2 * slot + 1;
        if (child >= l->heap_len)
            break;
        if (child + 1 < l->heap_len && comes_before(l->heap[child + 1], l->heap[child]))
            child++;
        if (!comes_before(l->heap[child], t))
            break;
        heap_put(l, slot, l->heap[child]);
        slot = child;
    }
    heap_put(l, slot, t);
}

void loop_timer_init(struct loop_timer *t, struct loop *l, void (*fn)(void *), void *arg)
{
    *t = (struct loop_timer){.loop = l, .fn = fn, .arg = arg, .heap_slot = -1};
}

void loop_timer_stop(struct loop_timer *t)
{
    struct loop *l = t->loop;
    if (!l || t->heap_slot < 0)
        return;
    size_t slot = (size_t)t->heap_slot;
    t->heap_slot = -1;
    struct loop_timer *last = l->heap[--l->heap_len];
    if (last == t)
        return;
    heap_put(l, slot, last);
    sift_up(l, slot);
    sift_down(l, (size_t)last->heap_slot);
}

static void make_room_for_timer(struct loop *l)
{
    if (l->heap_len < l->heap_size)
        return;
    size_t size = l->heap_size ? 2 * l->heap_size : 64;
    struct loop_timer **heap = realloc(l->heap, size * sizeof *heap);
    if (!heap)
        abort(); /* a deadline that is never kept is worse */
    l->heap = heap;
    l->heap_size = size;
}

void loop_timer_set(struct loop_timer *t, int64_t ms)
{
    struct loop *l = t->loop;
    loop_timer_stop(t);
    make_room_for_timer(l);
    t->at = clock_ms() + (ms < 0 ? 0 : ms > LONGEST_TIMER_MS ? LONGEST_TIMER_MS : ms);
    t->order = l->settings++;
    heap_put(l, l->heap_len++, t);
    sift_up(l, l->heap_len - 1);
}

bool loop_timer_is_set(const struct loop_timer *t)
{
    return t->loop && t->heap_slot >= 0;
}

/* Those that are due now. What they set runs in the next turn: it is never earlier than
 * `now`, so it stands behind all of them. */
static void run_timers(struct loop *l)
{
    int64_t now = clock_ms();
    uint64_t set_before = l->settings;
    while (l->heap_len && l->heap[0]->at <= now && l->heap[0]->order < set_before) {
        struct loop_timer *t = l->heap[0];
        loop_timer_stop(t);
        t->fn(t->arg);
    }
}

static int until_next_timer(const struct loop *l)
{
    if (!l->heap_len)
        return LONGEST_POLL_MS;
    int64_t left = l->heap[0]->at - clock_ms();
    return left < 0 ? 0 : left > LONGEST_POLL_MS ? LONGEST_POLL_MS : (int)left;
}

/* --- descriptors */

struct loop_fd *loop_fd_add(struct loop *l, int fd, short events, loop_fd_fn *fn, void *arg)
{
    struct loop_fd *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    *f = (struct loop_fd){
        .loop = l, .fd = fd, .events = events, .slot = SIZE_MAX, .fn = fn, .arg = arg};
    DL_APPEND(l->fds, f);
    l->fd_count++;
    return f;
}

void loop_fd_events(struct loop_fd *f, short events)
{
    f->events = events;
}

void loop_fd_del(struct loop_fd *f)
{
    if (!f)
        return;
    if (f->loop->in_turn) {
        f->gone = true;
        return;
    }
    DL_DELETE(f->loop->fds, f);
    f->loop->fd_count--;
    free(f);
}

static unsigned fill_poll_set(struct loop *l)
{
    if (l->poll_size < l->fd_count) {
        struct curl_waitfd *set = realloc(l->poll_set, l->fd_count * sizeof *set);
        if (!set)
            abort();
        l->poll_set = set;
        l->poll_size = l->fd_count;
    }
    unsigned n = 0;
    struct loop_fd *f;
    DL_FOREACH (l->fds, f) {
        f->slot = SIZE_MAX;
        if (!f->events)
            continue;
        f->slot = n;
        l->poll_set[n++] = (struct curl_waitfd){.fd = f->fd, .events = f->events};
    }
    return n;
}

static void run_fds(struct loop *l)
{
    struct loop_fd *f, *next;
    l->in_turn = true;
    DL_FOREACH (l->fds, f) {
        short ready = f->slot == SIZE_MAX ? 0 : l->poll_set[f->slot].revents;
        /* An earlier callback may have lost interest on behalf of this one. */
        if (ready && f->events && !f->gone)
            f->fn(f->arg, ready);
    }
    l->in_turn = false;
    DL_FOREACH_SAFE (l->fds, f, next) {
        if (f->gone)
            loop_fd_del(f);
    }
}

/* --- transfers */

static void run_transfers(struct loop *l)
{
    int running, left;
    curl_multi_perform(l->multi, &running);
    CURLMsg *msg;
    while ((msg = curl_multi_info_read(l->multi, &left))) {
        if (msg->msg == CURLMSG_DONE && l->transfer)
            l->transfer(l->transfer_arg, msg->easy_handle, msg->data.result);
    }
}

/* --- work */

static void *helper(void *arg)
{
    struct loop *l = arg;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->todo && !l->thread_quit)
            pthread_cond_wait(&l->more, &l->lock);
        struct work *w = l->todo;
        if (!w)
            break;
        DL_DELETE(l->todo, w);
        pthread_mutex_unlock(&l->lock);
        w->result = w->work(w->arg);
        pthread_mutex_lock(&l->lock);
        DL_APPEND(l->finished, w);
        curl_multi_wakeup(l->multi);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static int start_helper(struct loop *l)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&l->thread, NULL, helper, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    l->thread_runs = err == 0;
    return -err;
}

int loop_work(struct loop *l, int (*work)(void *), void (*done)(void *, int), void *arg)
{
    struct work *w = l->thread_quit ? NULL : calloc(1, sizeof *w);
    if (!w || (!l->thread_runs && start_helper(l))) {
        free(w);
        return -ENOMEM;
    }
    *w = (struct work){.work = work, .done = done, .arg = arg};
    pthread_mutex_lock(&l->lock);
    DL_APPEND(l->todo, w);
    pthread_cond_signal(&l->more);
    pthread_mutex_unlock(&l->lock);
    return 0;
}

static void run_finished(struct loop *l)
{
    if (!l->thread_runs)
        return;
    pthread_mutex_lock(&l->lock);
    struct work *list = l->finished;
    l->finished = NULL;
    pthread_mutex_unlock(&l->lock);
    struct work *w, *next;
    DL_FOREACH_SAFE (list, w, next) {
        DL_DELETE(list, w);
        w->done(w->arg, w->result);
        free(w);
    }
}

/* --- */

/* Sleeps until something is to be done: no longer than curl's own timers allow, which is 0 for a
 * handle that was just added. */
static void wait_for_events(struct loop *l)
{
    unsigned n = fill_poll_set(l);
    CURLMcode code = curl_multi_poll(l->multi, l->poll_set, n, until_next_timer(l), NULL);
    if (code == CURLM_OK)
        return;
    /* More descriptors than RLIMIT_NOFILE, or no memory: timers still run, without spinning. */
    const struct timespec pause = {.tv_nsec = 100 * 1000 * 1000};
    log_error("waiting for events failed: %s (%s)", curl_multi_strerror(code), strerror(errno));
    nanosleep(&pause, NULL);
}

int loop_run(struct loop *l)
{
    l->quit = false;
    while (!l->quit) {
        run_transfers(l);
        run_timers(l);
        run_finished(l);
        if (l->quit)
            break;
        wait_for_events(l);
        run_fds(l);
    }
    return l->code;
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    if (l->thread_runs) {
        pthread_mutex_lock(&l->lock);
        l->thread_quit = true;
        pthread_cond_signal(&l->more);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL); /* it ends when nothing is left to do */
        run_finished(l);
    }
    pthread_cond_destroy(&l->more);
    pthread_mutex_destroy(&l->lock);
    curl_multi_cleanup(l->multi);
    free(l->heap);
    free(l->poll_set);
    free(l);
}
