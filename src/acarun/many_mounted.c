/* Many scripts in the session of a mount, whose jobs run one after another: so many as were asked
 * for wait in its queue, each with a thread that submits it, waits for it, and takes the next. The
 * main thread draws, and cancels what runs at a signal; at the second the process ends. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "acarun/batch.h"
#include "acarun/exit.h"
#include "acarun/mounted.h"
#include "acarun/progress.h"
#include "acarun/signals.h"
#include "util/log.h"

struct worker {
    struct mounts *all;
    pthread_t thread;
    struct item *item; /* under way, or NULL */
    uint64_t job;      /* of it, once submitted; else 0 */
};

struct mounts {
    struct batch *batch;
    pthread_mutex_t turn; /* of taking a script and submitting it, so that jobs keep their order */
    pthread_mutex_t lock; /* of everything here, and of the batch; taken second */
    struct worker workers[JOBS_MAX];
    unsigned running;
};

/* Submits it, and lets the next one have its turn: 0 or the exit code. */
static int submit(struct worker *w, const struct task *t)
{
    uint64_t job = 0;
    int code = mounted_submit(t, &w->item->place, &job);
    pthread_mutex_lock(&w->all->lock);
    bool stop = w->all->batch->stop;
    w->job = job;
    pthread_mutex_unlock(&w->all->lock);
    pthread_mutex_unlock(&w->all->turn);
    if (job && stop)
        mounted_cancel(&w->item->place, job);
    return code;
}

/* Without the lock: the code, or -1. */
static int run_item(struct worker *w, struct task *t)
{
    const struct place *p = &w->item->place;
    int code = submit(w, t);
    if (code)
        return code;
    uint64_t job = w->job; /* this thread's to change */
    code = mounted_wait(t, p, job);
    int err = code < 0 && !t->harness_outputs ? mounted_read(t, p, job) : 0;
    if (err)
        log_error("%s: %s", w->item->script, strerror(-err));
    return err ? EXIT_NO_OUTPUT : code;
}

static void cancel_others(struct mounts *all)
{
    for (unsigned i = 0; i < all->batch->options->jobs; i++) {
        const struct worker *w = &all->workers[i];
        if (w->item && w->job)
            mounted_cancel(&w->item->place, w->job);
    }
}

static void take_end(struct worker *w, int code)
{
    struct batch *b = w->all->batch;
    struct item *i = w->item;
    bool stopped_before = b->stop;
    w->item = NULL;
    w->job = 0;
    if (stopped_before && code < 0 && i->report.exit_code == EXIT_INTERRUPTED)
        batch_stopped(b, i);
    else
        batch_over(b, i, code, NULL);
    if (code == EXIT_DENIED || code == EXIT_UNREACHABLE) /* the next would fare no better */
        b->stop = true;
    if (b->stop && !stopped_before)
        cancel_others(w->all);
}

/* False when there is no more; else it is the caller's turn until it has submitted. */
static bool take_next(struct worker *w)
{
    pthread_mutex_lock(&w->all->turn);
    pthread_mutex_lock(&w->all->lock);
    w->item = batch_next(w->all->batch);
    pthread_mutex_unlock(&w->all->lock);
    if (!w->item)
        pthread_mutex_unlock(&w->all->turn);
    return w->item;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct batch *b = w->all->batch;
    while (take_next(w)) {
        struct options options = *b->options;
        static const char *const no_args[] = {NULL};
        options.script = w->item->script;
        options.args = no_args;
        struct task t = {.options = &options,
                         .output = w->item->output,
                         .signal_fd = b->signal_fd,
                         .harness_outputs = !options.no_outputs && !options.output_dir,
                         .report = &w->item->report};
        int code = run_item(w, &t);
        pthread_mutex_lock(&w->all->lock);
        take_end(w, code);
        pthread_mutex_unlock(&w->all->lock);
    }
    pthread_mutex_lock(&w->all->lock);
    w->all->running--;
    pthread_mutex_unlock(&w->all->lock);
    return NULL;
}

static void take_signal(struct mounts *all)
{
    if (!signals_take(all->batch->signal_fd))
        return;
    if (all->batch->canceled)
        _exit(EXIT_INTERRUPTED);
    all->batch->canceled = all->batch->stop = true;
    cancel_others(all);
}

/* Until every worker is done. */
static void watch(struct mounts *all)
{
    struct pollfd fd = {.fd = all->batch->signal_fd, .events = POLLIN};
    pthread_mutex_lock(&all->lock);
    while (all->running) {
        pthread_mutex_unlock(&all->lock);
        int n = poll(&fd, 1, PROGRESS_MS / 4);
        pthread_mutex_lock(&all->lock);
        if (n > 0)
            take_signal(all);
        progress_draw(all->batch->progress);
    }
    pthread_mutex_unlock(&all->lock);
}

void many_mounted(struct batch *b)
{
    struct mounts all = {
        .batch = b, .turn = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER};
    unsigned started = 0, wanted = b->options->jobs;
    pthread_mutex_lock(&all.lock);
    while (started < wanted) {
        struct worker *w = &all.workers[started];
        w->all = &all;
        if (pthread_create(&w->thread, NULL, work, w))
            break;
        started++;
    }
    all.running = started;
    pthread_mutex_unlock(&all.lock);
    if (!started) {
        log_error("threads: %s", strerror(EAGAIN));
        b->code = EXIT_RAISED;
    }
    watch(&all);
    while (started)
        pthread_join(all.workers[--started].thread, NULL);
}
