/* The one event loop of a program: curl's transfers, file descriptors, timers and
 * results of helper threads, all waited on together in curl_multi_poll().
 *
 * Everything here runs on, and is called from, the loop's thread; only
 * loop_wakeup() may be called from elsewhere (also from a signal handler).
 * Callbacks may add and remove descriptors, timers and work, their own included;
 * nothing is called after it was removed. */
#ifndef ACAFS_LOOP_LOOP_H
#define ACAFS_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include <curl/curl.h>

struct loop;
struct loop_fd;

/* 0 or -errno. */
int loop_new(struct loop **out);
/* Every descriptor, timer and transfer must be gone; waits for work under way and calls its
 * `done`, which can't add more. */
void loop_free(struct loop *);

/* Runs until loop_quit(), and returns the code given to it. May be run again. */
int loop_run(struct loop *);
void loop_quit(struct loop *, int code);
void loop_wakeup(struct loop *);

/* --- transfers: one owner (http) adds easy handles to the multi handle and is told
 * of each that ends. The loop calls curl_multi_perform() and reads the messages. */
typedef void loop_transfer_fn(void *arg, CURL *easy, CURLcode result);
CURLM *loop_multi(struct loop *);
void loop_set_transfers(struct loop *, loop_transfer_fn *, void *arg);

/* --- descriptors: called with the ready events (CURL_WAIT_POLLIN, _POLLOUT, _POLLPRI;
 * an error or hang-up shows as readable). The descriptor stays the caller's to close,
 * after loop_fd_del(). NULL when out of memory. */
typedef void loop_fd_fn(void *arg, short revents);
struct loop_fd *loop_fd_add(struct loop *, int fd, short events, loop_fd_fn *, void *arg);
void loop_fd_events(struct loop_fd *, short events);
void loop_fd_del(struct loop_fd *);

/* --- timers: embedded in their owner, who calls loop_timer_init() once. Setting one
 * that is set moves it; 0 ms runs it in the next turn of the loop, after the
 * callbacks of this one: the way to answer later than now. One call per setting. */
struct loop_timer {
    struct loop *loop;
    void (*fn)(void *arg);
    void *arg;
    int64_t at;     /* clock_ms() time */
    uint64_t order; /* which of those due at the same time was set first: they run in that order */
    int heap_slot;  /* the loop's; -1 while not set */
};
void loop_timer_init(struct loop_timer *, struct loop *, void (*fn)(void *arg), void *arg);
void loop_timer_set(struct loop_timer *, int64_t ms_from_now);
void loop_timer_stop(struct loop_timer *);
bool loop_timer_is_set(const struct loop_timer *);

/* --- work that may block (fsync, kernel notices): `work` runs on the helper thread
 * and owns no state but what arg hands it; `done` then runs on the loop with what
 * work returned. Items run one after another, in order. 0 or -ENOMEM. */
int loop_work(struct loop *, int (*work)(void *arg), void (*done)(void *arg, int result),
              void *arg);

#endif
