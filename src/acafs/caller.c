#include "acafs/caller.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"

/* Empty when it is not told. */
static void read_status(pid_t thread, char *text, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", (int)thread);
    _cleanup_close_ int fd = thread > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd >= 0 ? read(fd, text, size - 1) : -1;
    text[n > 0 ? n : 0] = '\0';
}

static uint64_t signal_mask(const char *status, const char *name)
{
    const char *line = strstr(status, name);
    return line ? strtoull(line + strlen(name), NULL, 16) : 0;
}

static uint64_t bit(int signal)
{
    return (uint64_t)1 << (signal - 1);
}

enum caller_state caller_state(pid_t thread)
{
    char status[4096];
    read_status(thread, status, sizeof status);
    uint64_t pending = signal_mask(status, "\nSigPnd:") | signal_mask(status, "\nShdPnd:");
    pending &= ~signal_mask(status, "\nSigBlk:");
    uint64_t stops = bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);
    uint64_t harmless = signal_mask(status, "\nSigCgt:") | signal_mask(status, "\nSigIgn:") | stops;
    /* The kernel adds SIGKILL for each thread when a signal is about to end them all. */
    if (pending & (bit(SIGKILL) | ~harmless))
        return CALLER_DIES;
    uint64_t ends = bit(SIGINT) | bit(SIGTERM) | bit(SIGHUP) | bit(SIGQUIT);
    return pending & ends ? CALLER_ASKED : CALLER_GOES_ON;
}
