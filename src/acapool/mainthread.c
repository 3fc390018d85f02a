#include "acapool/mainthread.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utlist.h>

struct mainthread_call {
    void (*fn)(void *arg);
    void *arg;
    bool done;
    struct mainthread_call *prev, *next;
};

int mainthread_init(struct mainthread *m)
{
    *m = (struct mainthread){.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (m->event < 0)
        return -errno;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->done, NULL);
    return 0;
}

void mainthread_destroy(struct mainthread *m)
{
    close(m->event);
    pthread_cond_destroy(&m->done);
    pthread_mutex_destroy(&m->lock);
}

static void wake(struct mainthread *m)
{
    uint64_t one = 1;
    (void)!write(m->event, &one, sizeof one);
}

int mainthread_call(struct mainthread *m, void (*fn)(void *arg), void *arg)
{
    struct mainthread_call call = {.fn = fn, .arg = arg};
    pthread_mutex_lock(&m->lock);
    if (!m->closed) {
        DL_APPEND(m->calls, &call);
        wake(m);
        while (!call.done && !m->closed)
            pthread_cond_wait(&m->done, &m->lock);
        if (!call.done)
            DL_DELETE(m->calls, &call);
    }
    pthread_mutex_unlock(&m->lock);
    return call.done ? 0 : -ESHUTDOWN;
}

void mainthread_stop(struct mainthread *m)
{
    pthread_mutex_lock(&m->lock);
    m->stop = true;
    wake(m);
    pthread_mutex_unlock(&m->lock);
}

bool mainthread_serve(struct mainthread *m)
{
    uint64_t count;
    (void)!read(m->event, &count, sizeof count);
    pthread_mutex_lock(&m->lock);
    while (m->calls) {
        struct mainthread_call *call = m->calls;
        /* Its caller waits, so it stays; but it must not be found again. */
        DL_DELETE(m->calls, call);
        pthread_mutex_unlock(&m->lock);
        call->fn(call->arg);
        pthread_mutex_lock(&m->lock);
        call->done = true;
        pthread_cond_broadcast(&m->done);
    }
    bool stop = m->stop;
    pthread_mutex_unlock(&m->lock);
    return stop;
}

void mainthread_close(struct mainthread *m)
{
    pthread_mutex_lock(&m->lock);
    m->closed = true;
    pthread_cond_broadcast(&m->done);
    pthread_mutex_unlock(&m->lock);
}
