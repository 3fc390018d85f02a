#include "acarun/exit.h"

#include <errno.h>

int exit_of_error(int err)
{
    switch (err) {
    case 0:
        return EXIT_OK;
    case -EACCES:
        return EXIT_DENIED;
    case -EAGAIN:
    case -EBUSY:
        return EXIT_THROTTLED;
    case -EHOSTUNREACH:
    case -ETIMEDOUT:
    case -ENOTCONN:
    case -ECONNABORTED:
    case -EPROTO:
    case -EIO:
    case -ENOENT: /* no session pool answers there, or the mount went away */
        return EXIT_UNREACHABLE;
    case -EINTR:
        return EXIT_INTERRUPTED;
    default:
        return EXIT_RAISED;
    }
}
