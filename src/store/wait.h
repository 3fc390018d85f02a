/* Waiting without threads. An operation that can't go on parks its waiter on a queue and
 * returns STORE_WAIT; when what it waits for has happened, its `wake` runs and the operation
 * takes its steps again from the top. Wakes run from the loop, never from within the
 * call that caused them, so no caller needs to fear what a woken operation does. */
#ifndef ACAFS_STORE_WAIT_H
#define ACAFS_STORE_WAIT_H

#include <stdint.h>

#include "loop/loop.h"

/* Returned instead of 0 or -errno: the waiter is parked; call again when woken. */
enum { STORE_WAIT = 1 };

struct waiter {
    struct waiter *prev, *next; /* in `on`, or in the ready list */
    struct waitq *on;           /* NULL: not parked */
    struct wakeup *woken_by;    /* whose ready list it is in; NULL: none */
    void (*wake)(struct waiter *);
    int64_t born; /* clock_ms() when the operation began: news from later than that will do */
    int err;      /* why what it waited for failed: consumed by the next call that would wait */
};

/* Collects woken waiters until the loop's next turn. */
struct wakeup {
    struct waiter *ready;
    struct loop_timer timer;
};

struct waitq {
    struct waiter *head;
};

void wakeup_init(struct wakeup *, struct loop *);
void waiter_init(struct waiter *, void (*wake)(struct waiter *));
void waitq_park(struct waitq *, struct waiter *);
/* The error that a wake carried, once. */
int waiter_take_error(struct waiter *);
/* Takes a waiter off whatever it is on: it will not be woken. */
void waiter_leave(struct waiter *);
/* Wakes all, each with err (0: go on). */
void waitq_wake(struct wakeup *, struct waitq *, int err);

#endif
