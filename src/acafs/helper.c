#include "acafs/helper.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "acafs/daemon.h"
#include "util/buf.h"
#include "util/cleanup.h"
#include "util/log.h"

bool helper_is(const char *argv0)
{
    const char *slash = strrchr(argv0, '/');
    return strncmp(slash ? slash + 1 : argv0, "mount.", 6) == 0;
}

/* Calls fn for each comma-separated option until it says true. */
static bool each(char *const *options, size_t count, bool (*fn)(const char *option, void *arg),
                 void *arg)
{
    for (size_t i = 0; i < count; i++) {
        _cleanup_free_ char *copy = strdup(options[i]);
        char *at = NULL;
        for (char *o = copy ? strtok_r(copy, ",", &at) : NULL; o; o = strtok_r(NULL, ",", &at)) {
            if (fn(o, arg))
                return true;
        }
    }
    return false;
}

static bool is_same(const char *option, void *arg)
{
    const char *wanted = arg;
    size_t len = strlen(wanted);
    return wanted[len - 1] == '=' ? strncmp(option, wanted, len) == 0 : strcmp(option, wanted) == 0;
}

bool helper_has(char *const *options, size_t count, const char *option)
{
    return each(options, count, is_same, (void *)option);
}

/* --- remount */

static bool take_flag(const char *option, void *arg)
{
    static const struct {
        const char *name;
        unsigned long set, clear;
    } flags[] = {
        {"ro", MS_RDONLY, 0},     {"rw", 0, MS_RDONLY},   {"nosuid", MS_NOSUID, 0},
        {"suid", 0, MS_NOSUID},   {"nodev", MS_NODEV, 0}, {"dev", 0, MS_NODEV},
        {"noexec", MS_NOEXEC, 0}, {"exec", 0, MS_NOEXEC}, {"noatime", MS_NOATIME, 0},
        {"atime", 0, MS_NOATIME}, {"relatime", 0, 0},     {"remount", 0, 0},
        {"defaults", 0, 0},
    };
    unsigned long *now = arg;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (strcmp(option, flags[i].name) == 0) {
            *now = (*now | flags[i].set) & ~flags[i].clear;
            return false;
        }
    }
    return false; /* mount(8) repeats what fstab and the mount table say: that stays as it is */
}

int helper_remount(const char *mountpoint, char *const *options, size_t count)
{
    unsigned long flags = MS_NOSUID | MS_NODEV;
    each(options, count, take_flag, &flags);
    if (mount(NULL, mountpoint, NULL, MS_REMOUNT | flags, NULL) == 0)
        return EXIT_OK;
    log_error("mount point %s: remount: %s", mountpoint, strerror(errno));
    return errno == EPERM ? EXIT_DENIED : EXIT_MOUNTPOINT;
}

/* --- as another user */

int helper_as_user(const char *source, const char *mountpoint, char *const *options, size_t count)
{
    _cleanup_buf_ struct buf what = {0}, all = {0};
    if (buf_addf(&what, "acafs#%s", source))
        return EXIT_OTHER;
    for (size_t i = 0; i < count; i++) {
        if (buf_addf(&all, "%s%s", i ? "," : "", options[i]))
            return EXIT_OTHER;
    }
    /* They would tell of whoever calls, not of that user. */
    static const char *const callers[] = {"HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
                                          "XDG_RUNTIME_DIR"};
    for (size_t i = 0; i < sizeof callers / sizeof *callers; i++)
        unsetenv(callers[i]);
    /* mount(8) passes no PATH on, and where there is none nothing is looked for in sbin. */
    static const char *const places[] = {"/sbin/mount.fuse3", "/usr/sbin/mount.fuse3",
                                         "mount.fuse3"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        execlp(places[i], "mount.fuse3", what.data, mountpoint, "-o", all.data, (char *)NULL);
    log_error("mount.fuse3: %s (it is in the package fuse3)", strerror(errno));
    return EXIT_OTHER;
}
