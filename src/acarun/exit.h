/* Exit codes of acarun, as acarun(1) has them; sysexits(3) where those fit. */
#ifndef ACAFS_ACARUN_EXIT_H
#define ACAFS_ACARUN_EXIT_H

enum {
    EXIT_OK = 0,
    EXIT_RAISED = 1,
    EXIT_BAD_USAGE = 64,
    EXIT_BAD_DATA = 65, /* the notebook is none, or the input no tool call */
    EXIT_NO_SCRIPT = 66,
    EXIT_UNREACHABLE = 69,
    EXIT_NO_OUTPUT = 73,   /* the files beside the script can't be written */
    EXIT_NO_TERMINAL = 74, /* standard output or error can't be written */
    EXIT_THROTTLED = 75,
    EXIT_DENIED = 77,
    EXIT_CONFIG = 78,
    EXIT_TIMED_OUT = 124,
    EXIT_INTERRUPTED = 130,
    EXIT_NO_READER = 141, /* as if by SIGPIPE */
};

/* What to exit with when a run could not be started or followed: err is -errno. */
int exit_of_error(int err);

#endif
