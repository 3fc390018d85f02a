#include "store/wait.h"

#include <stddef.h>

#include <utlist.h>

#include "util/text.h"

static void run_ready(void *arg)
{
    struct wakeup *wakeup = arg;
    /* Only those that are ready now: a woken operation may wake others for the next turn. */
    struct waiter *batch = wakeup->ready, *last = batch ? batch->prev : NULL;
    while (wakeup->ready) {
        struct waiter *w = wakeup->ready;
        DL_DELETE(wakeup->ready, w);
        w->prev = w->next = NULL;
        w->woken_by = NULL;
        w->wake(w);
        if (w == last)
            break;
    }
    if (wakeup->ready)
        loop_timer_set(&wakeup->timer, 0);
}

void wakeup_init(struct wakeup *wakeup, struct loop *loop)
{
    wakeup->ready = NULL;
    loop_timer_init(&wakeup->timer, loop, run_ready, wakeup);
}

void waiter_init(struct waiter *w, void (*wake)(struct waiter *))
{
    *w = (struct waiter){.wake = wake, .born = clock_ms()};
}

void waitq_park(struct waitq *q, struct waiter *w)
{
    DL_APPEND(q->head, w);
    w->on = q;
}

int waiter_take_error(struct waiter *w)
{
    int err = w->err;
    w->err = 0;
    return err;
}

void waiter_leave(struct waiter *w)
{
    if (w->on)
        DL_DELETE(w->on->head, w);
    else if (w->woken_by)
        DL_DELETE(w->woken_by->ready, w);
    w->on = NULL;
    w->woken_by = NULL;
    w->prev = w->next = NULL;
}

void waitq_wake(struct wakeup *wakeup, struct waitq *q, int err)
{
    if (!q->head)
        return;
    struct waiter *w;
    DL_FOREACH (q->head, w) {
        w->on = NULL;
        w->woken_by = wakeup;
        w->err = err;
    }
    DL_CONCAT(wakeup->ready, q->head);
    q->head = NULL;
    loop_timer_set(&wakeup->timer, 0);
}
