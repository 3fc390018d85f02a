#include "acafs/unmount.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <mntent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "acafs/daemon.h"
#include "acafs/overview.h"
#include "util/buf.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"

enum {
    ANSWER_S = 5,            /* for a daemon to tell of itself; one that does not hangs */
    QUIET_MS = 1000,         /* of waiting that is not worth a word */
    MARGIN_MS = 10000,       /* beyond its unmount-timeout: it ends in order */
    LONGEST_MS = 900000,     /* whatever a mount says, which may be a hostile user\'s */
    EXIT_NOT_UNMOUNTED = 32, /* as umount(8) has it */
};

/* What the daemon of the mount says of itself. */
struct about {
    pid_t pid;
    int64_t timeout_ms;
};

bool unmount_is(const char *argv0)
{
    const char *slash = strrchr(argv0, '/');
    return strncmp(slash ? slash + 1 : argv0, "umount.", 7) == 0;
}

/* --- asking the daemon */

static unsigned long owner(const struct mntent *m, const char *option)
{
    const char *at = hasmntopt(m, option);
    const char *value = at ? strchr(at, '=') : NULL;
    return value ? strtoul(value + 1, NULL, 10) : 0;
}

/* Root reads nobody's mount by being root: becomes who mounted. False: nothing is mounted there. */
static bool become_owner(const char *point)
{
    FILE *mounts = setmntent("/proc/self/mounts", "r");
    const struct mntent *m;
    bool found = false;
    uid_t uid = 0;
    gid_t gid = 0;
    while (mounts && (m = getmntent(mounts))) {
        if (strcmp(m->mnt_dir, point) || strcmp(m->mnt_type, "fuse.acafs"))
            continue;
        found = true;
        uid = (uid_t)owner(m, "user_id");
        gid = (gid_t)owner(m, "group_id");
    }
    if (mounts)
        endmntent(mounts);
    if (found && geteuid() == 0)
        found = !setgroups(0, NULL) && !setresgid(gid, gid, gid) && !setresuid(uid, uid, uid);
    return found;
}

static bool read_about(const char *point, struct about *about)
{
    _cleanup_buf_ struct buf text = {0};
    if (overview_read(point, &text))
        return false;
    _cleanup_json_ cJSON *status = json_parse(text.data, text.len);
    uint64_t pid = 0, ms = 0;
    json_uint(status, "pid", &pid);
    json_uint(status, "unmount_timeout_ms", &ms);
    *about = (struct about){.pid = pid > INT_MAX ? 0 : (pid_t)pid,
                            .timeout_ms = ms > LONGEST_MS ? LONGEST_MS : (int64_t)ms};
    return about->pid > 0;
}

/* In a process of its own, whose death ends the question to a daemon that hangs. */
static void ask_and_exit(const char *point, int out)
{
    struct about about;
    alarm(ANSWER_S);
    if (!become_owner(point) || !read_about(point, &about))
        _exit(EXIT_OTHER);
    _exit(write(out, &about, sizeof about) == sizeof about ? EXIT_OK : EXIT_OTHER);
}

/* False: it can't be told who serves that mount, so nobody will be waited for. */
static bool ask(const char *point, struct about *about)
{
    int ends[2], status;
    if (pipe2(ends, O_CLOEXEC))
        return false;
    pid_t child = fork();
    if (child == 0)
        ask_and_exit(point, ends[1]);
    close(ends[1]);
    bool told = child > 0 && read(ends[0], about, sizeof *about) == sizeof *about;
    close(ends[0]);
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return told;
}

/* A descriptor of the daemon's process, or -1: in another namespace its number is someone else's.
 */
static int open_daemon(const struct about *about)
{
    char path[64], name[32] = "";
    int fd = pidfd_open(about->pid, 0);
    snprintf(path, sizeof path, "/proc/%d/comm", (int)about->pid);
    _cleanup_close_ int comm = fd < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (comm >= 0 && read(comm, name, sizeof name - 1) > 0 &&
        (strncmp(name, "acafs", 5) == 0 || strncmp(name, "mount.", 6) == 0))
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* --- unmounting */

/* A user's way. */
static int call_fusermount(const char *point, bool lazy)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        execlp("fusermount3", "fusermount3", lazy ? "-uz" : "-u", point, (char *)NULL);
        log_error("fusermount3: %s (it is in the package fuse3)", strerror(errno));
        _exit(EXIT_OTHER);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_OTHER;
}

/* Not by umount(8), which would ask a daemon that hangs. */
static int unmount(const char *point, bool lazy, bool force)
{
    if (geteuid() != 0)
        return call_fusermount(point, lazy);
    if (umount2(point, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0) | (force ? MNT_FORCE : 0)) == 0)
        return EXIT_OK;
    log_error("%s: %s", point,
              errno == EINVAL  ? "not mounted"
              : errno == EBUSY ? "target is busy"
                               : strerror(errno));
    return EXIT_NOT_UNMOUNTED;
}

static void wait_for_end(int daemon, const struct about *about, const char *point)
{
    struct pollfd end = {.fd = daemon, .events = POLLIN};
    if (poll(&end, 1, QUIET_MS) > 0)
        return;
    log_info("%s is unmounted; waiting until what is pending is in the session", point);
    if (poll(&end, 1, (int)(about->timeout_ms + MARGIN_MS - QUIET_MS)) == 0)
        log_warning("%s: not all is in the session yet: its daemon still runs", point);
}

int unmount_run(int argc, char **argv)
{
    const char *point = NULL;
    bool lazy = false, force = false;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-') {
            point = point ? point : argv[i];
            continue;
        }
        lazy = lazy || strchr(argv[i], 'l');
        force = force || strchr(argv[i], 'f');
    }
    if (!point) {
        log_error("usage: umount.fuse.acafs DIR [-fl]");
        return EXIT_USAGE;
    }
    struct about about = {0};
    bool waits = !lazy && !force && ask(point, &about);
    _cleanup_close_ int daemon = waits ? open_daemon(&about) : -1;
    int code = unmount(point, lazy, force);
    if (!code && daemon >= 0)
        wait_for_end(daemon, &about, point);
    return code;
}
