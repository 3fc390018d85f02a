/* Lets other threads have something done by the main thread: sandboxes die with the thread
 * that started them (PR_SET_PDEATHSIG), and connections' threads come and go. */
#ifndef ACAFS_ACAPOOL_MAINTHREAD_H
#define ACAFS_ACAPOOL_MAINTHREAD_H

#include <pthread.h>
#include <stdbool.h>

struct mainthread_call;

struct mainthread {
    pthread_mutex_t lock;
    pthread_cond_t done;
    struct mainthread_call *calls;
    int event; /* eventfd: readable when there is something to do */
    bool stop; /* asked for, by any thread */
    bool closed;
};

int mainthread_init(struct mainthread *);
void mainthread_destroy(struct mainthread *);

/* Runs fn(arg) on the main thread and waits for it: 0, or -ESHUTDOWN if it never will be run. */
int mainthread_call(struct mainthread *, void (*fn)(void *arg), void *arg);
/* Asks the main thread to end the program. */
void mainthread_stop(struct mainthread *);

/* On the main thread, when event is readable: runs what is asked for. True: stop. */
bool mainthread_serve(struct mainthread *);
/* On the main thread: from now on calls fail. */
void mainthread_close(struct mainthread *);

#endif
