#include "acafs/tools.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "acafs/daemon.h"
#include "config/config.h"
#include "util/buf.h"
#include "util/cleanup.h"
#include "util/log.h"

/* Opens a file of a mount's .acafs; says what is wrong and returns -1 when that fails. */
static int open_control(const char *mountpoint, const char *name, int flags)
{
    _cleanup_buf_ struct buf path = {0};
    buf_addf(&path, "%s/.acafs/%s", mountpoint, name);
    int fd = open(path.data, flags | O_CLOEXEC);
    if (fd < 0)
        log_error("%s: %s", mountpoint,
                  errno == ENOENT || errno == ENOTDIR ? "no session is mounted there"
                                                      : strerror(errno));
    return fd;
}

int tool_sync(int argc, char **argv)
{
    if (argc != 2) {
        log_error("usage: acafs sync MOUNTPOINT");
        return EXIT_USAGE;
    }
    _cleanup_close_ int fd = open_control(argv[1], "control", O_WRONLY);
    if (fd < 0)
        return EXIT_MOUNTPOINT;
    if (write(fd, "sync\n", 5) == 5)
        return EXIT_OK;
    log_error("%s: %s: see %s/.acafs/status", argv[1], strerror(errno), argv[1]);
    return EXIT_OTHER;
}

int tool_config(int argc, char **argv)
{
    _cleanup_free_ char *why = NULL;
    int err;
    if (argc == 3 && strcmp(argv[1], "--check") == 0) {
        err = config_check_file(argv[2], &why);
    } else if (argc == 1) {
        struct config config = {0};
        err = config_load(&config, NULL, &why);
        if (!err)
            err = config_finish(&config, &why);
        if (!err)
            config_print(&config, stdout);
        config_free(&config);
    } else {
        log_error("usage: acafs config [--check FILE]");
        return EXIT_USAGE;
    }
    if (err)
        log_error("%s", why ? why : strerror(-err));
    return err ? EXIT_CONFIG : EXIT_OK;
}
