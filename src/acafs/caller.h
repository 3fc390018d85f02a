/* The process that waits for a request's answer: what it was interrupted for. From /proc; where
 * that tells nothing (another user's, with hidepid; another PID namespace) it goes on. */
#ifndef ACAFS_ACAFS_CALLER_H
#define ACAFS_ACAFS_CALLER_H

#include <sys/types.h>

enum caller_state {
    CALLER_GOES_ON, /* a timer, a child, a runtime that moves its threads */
    CALLER_ASKED,   /* it handles a signal by which people end programs */
    CALLER_DIES,    /* nobody will read the answer */
};

/* The thread's pending signals say that. */
enum caller_state caller_state(pid_t thread);

#endif
