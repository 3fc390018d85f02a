#include "acafs/overview.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mntent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "acafs/daemon.h"
#include "util/buf.h"
#include "util/cleanup.h"
#include "util/gauge.h"
#include "util/json.h"
#include "util/log.h"
#include "util/place.h"
#include "util/text.h"

/* Far more than a mount has to say, which may be a hostile user's. */
enum { STATUS_LIMIT = 256 << 20 };

/* --- reading it */

int overview_read(const char *root, struct buf *out)
{
    _cleanup_buf_ struct buf path = {0};
    if (buf_addf(&path, "%s/.acafs/status", root))
        return -ENOMEM;
    _cleanup_close_ int fd = open(path.data, O_RDONLY | O_CLOEXEC);
    ssize_t n = 1;
    while (fd >= 0 && n > 0) {
        if (buf_reserve(out, 1 << 16))
            return -ENOMEM;
        n = read(fd, out->data + out->len, 1 << 16);
        out->len += n > 0 ? (size_t)n : 0;
        if (out->len > STATUS_LIMIT)
            return -EFBIG;
    }
    return fd < 0 || n < 0 ? -errno : buf_adds(out, "");
}

static uint64_t number(const cJSON *object, const char *name)
{
    uint64_t n = 0;
    json_uint(object, name, &n);
    return n;
}

/* Strings of the status come from servers and file names. */
static void print_text(const char *text)
{
    _cleanup_buf_ struct buf line = {0};
    if (text_printable(&line, text, strlen(text), 1000) == 0 && line.data)
        fputs(line.data, stdout);
}

static void print_size(uint64_t bytes)
{
    _cleanup_buf_ struct buf text = {0};
    if (gauge_size(&text, bytes) == 0)
        fputs(text.data, stdout);
}

static void print_field(const char *name, const char *value)
{
    if (!value)
        return;
    printf("%-11s ", name);
    print_text(value);
    putchar('\n');
}

/* --- one mount */

enum { SHOWN_MAX = 40 /* lines of the queue */ };

/* Of many sessions not all files are named. */
static uint64_t count_pending(const cJSON *status)
{
    return (uint64_t)cJSON_GetArraySize(json_array(status, "pending")) +
           number(status, "pending_more");
}

/* The first names alone are told: what ails one mostly ails all. */
static void print_deleting(const cJSON *status, uint64_t files)
{
    uint64_t count = number(status, "pending_deletes");
    const cJSON *first = cJSON_GetArrayItem(json_array(status, "deleting"), 0);
    const char *path = json_string(first, "path"), *error = json_string(first, "error");
    if (!count && !files)
        print_field("queue", "empty: everything is in the session");
    if (!count)
        return;
    printf("%-11s %" PRIu64 " name%s to delete", "queue", count, count > 1 ? "s" : "");
    if (path && error) {
        fputs(": ", stdout);
        print_text(path);
        printf(": %s", error);
    }
    putchar('\n');
}

static void print_pending(const cJSON *status)
{
    const cJSON *pending = json_array(status, "pending"), *file;
    uint64_t bytes = number(status, "pending_bytes"), count = count_pending(status);
    int shown = 0;
    if (!json_object(status, "sessions")) {
        cJSON_ArrayForEach (file, pending) {
            bytes += number(file, "size");
        }
    }
    print_deleting(status, count);
    if (!count)
        return;
    printf("%-11s %" PRIu64 " file%s, ", "queue", count, count > 1 ? "s" : "");
    print_size(bytes);
    puts(" to send");
    cJSON_ArrayForEach (file, pending) {
        if (++shown > SHOWN_MAX)
            break;
        const char *path = json_string(file, "path"), *error = json_string(file, "error");
        fputs("              ", stdout);
        print_text(path ? path : "?");
        printf(" (");
        print_size(number(file, "size"));
        printf("%s%s", error ? "): " : ")", error ? error : "");
        if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(file, "failed")))
            printf(" [refused: kept here]");
        else if (number(file, "tries"))
            printf(" [%" PRIu64 " tries]", number(file, "tries"));
        putchar('\n');
    }
    if (count > SHOWN_MAX)
        printf("              and %" PRIu64 " more\n", count - SHOWN_MAX);
}

static void print_cache(const cJSON *status)
{
    const cJSON *cache = json_object(status, "cache");
    printf("%-11s ", "cache");
    print_size(number(cache, "bytes"));
    printf(" of ");
    print_size(number(cache, "limit"));
    printf(", %" PRIu64 " files; %" PRIu64 " names known\n", number(cache, "files"),
           number(cache, "inodes"));
}

static void print_credential(const cJSON *status)
{
    const cJSON *credential = json_object(status, "credential");
    if (!credential)
        return;
    const char *in_use = json_string(credential, "in_use");
    print_field("credential", in_use ? in_use : "none yet");
    print_field("token until", json_string(credential, "expires"));
    print_field("problem", json_string(credential, "error"));
}

/* Of a whole pool. */
static void print_sessions(const cJSON *status)
{
    const cJSON *sessions = json_object(status, "sessions");
    if (!sessions)
        return;
    printf("%-11s %" PRIu64 ", %" PRIu64 " of them open", "sessions", number(sessions, "known"),
           number(sessions, "open"));
    if (number(sessions, "hidden"))
        printf("; %" PRIu64 " can't be shown", number(sessions, "hidden"));
    puts(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(sessions, "listed"))
             ? "; the pool does not list others"
             : "");
}

/* What is wrong with the way to the pool, or NULL. */
static const char *away(const cJSON *status)
{
    const char *why = json_string(status, "away");
    bool reachable = true;
    json_bool(status, "reachable", &reachable);
    return why || reachable ? why : "has not answered for some seconds";
}

static void print_status(const cJSON *status)
{
    const cJSON *counters = json_object(status, "counters");
    print_sessions(status);
    print_field("session", json_string(status, "session"));
    print_field("pool", json_string(status, "pool"));
    print_field("mounted on", json_string(status, "mountpoint"));
    print_field("since", json_string(status, "since"));
    print_field("expires", json_string(status, "expires"));
    if (number(status, "recycled"))
        printf("%-11s %" PRIu64 " times since\n", "recycled", number(status, "recycled"));
    print_field("away", away(status));
    if (number(status, "conflicts"))
        printf("%-11s %" PRIu64 " files that others changed too are there as NAME.conflict-TIME\n",
               "conflicts", number(status, "conflicts"));
    if (number(status, "lost"))
        printf("%-11s %" PRIu64 " files of a recycled session are in .acafs/lost\n", "lost",
               number(status, "lost"));
    print_credential(status);
    print_pending(status);
    printf("%-11s %" PRIu64 " waiting or running\n", "jobs", number(status, "jobs_waiting"));
    print_cache(status);
    printf("%-11s %" PRIu64 ", %" PRIu64 " failed; ", "requests", number(counters, "requests"),
           number(counters, "errors"));
    print_size(number(counters, "bytes_in"));
    printf(" received, ");
    print_size(number(counters, "bytes_out"));
    puts(" sent");
}

/* The one that the path, or else the working directory, lies in. */
static int find(const char *path, struct place *place)
{
    int err = place_find(path ? path : ".", place);
    if (err == -ENOENT && !path)
        log_error("the working directory is in no mounted session: name one (acafs list)");
    else if (err)
        log_error("%s: %s", path ? path : ".",
                  err == -ENOENT ? "no session is mounted there" : strerror(-err));
    return err;
}

int overview_status(int argc, char **argv)
{
    const char *path = NULL;
    bool json = false, wrong = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else if (argv[i][0] == '-' || path)
            wrong = true;
        else
            path = argv[i];
    }
    if (wrong) {
        log_error("usage: acafs status [MOUNTPOINT] [--json]");
        return EXIT_USAGE;
    }
    struct place place;
    _cleanup_buf_ struct buf text = {0};
    if (find(path, &place))
        return EXIT_MOUNTPOINT;
    int err = overview_read(place.root, &text);
    if (err)
        log_error("%s: %s", place.root, strerror(-err));
    place_free(&place);
    if (err)
        return err == -EACCES ? EXIT_DENIED : EXIT_OTHER;
    _cleanup_json_ cJSON *status = json_parse(text.data, text.len);
    if (json)
        fputs(text.data, stdout);
    else
        print_status(status);
    return fflush(stdout) ? EXIT_OTHER : EXIT_OK;
}

/* --- all mounts */

enum { PATIENCE_MS = 3000 /* with the daemon of one of them */ };

/* getmntent(3) leaves some of the kernel's escapes as they are: '#' is \043. */
static void decode(char *text)
{
    char *to = text;
    for (const char *from = text; *from;) {
        unsigned c;
        if (*from == '\\' && sscanf(from + 1, "%3o", &c) == 1 &&
            strspn(from + 1, "01234567") >= 3) {
            *to++ = (char)c;
            from += 4;
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
}

/* Writes the error, then the text. */
static void read_for(const char *root, int to)
{
    struct buf text = {0};
    int err = overview_read(root, &text);
    bool well = write(to, &err, sizeof err) == sizeof err;
    for (size_t at = 0; well && !err && at < text.len;) {
        ssize_t n = write(to, text.data + at, text.len - at);
        well = n > 0;
        at += n > 0 ? (size_t)n : 0;
    }
    _exit(0);
}

/* What comes until its end: 0, or -ETIMEDOUT. */
static int collect(int from, struct buf *out)
{
    struct pollfd p = {.fd = from, .events = POLLIN};
    int64_t end = clock_ms() + PATIENCE_MS;
    for (;;) {
        int64_t left = end - clock_ms();
        if (left <= 0 || poll(&p, 1, (int)left) == 0)
            return -ETIMEDOUT;
        if (buf_reserve(out, 1 << 16))
            return -ENOMEM;
        ssize_t n = read(from, out->data + out->len, 1 << 16);
        if (n <= 0)
            return n < 0 ? -errno : 0;
        out->len += (size_t)n;
    }
}

/* As overview_read(), by a process of its own: a read from a mount whose daemon does not answer
 * can't be given up. */
static int read_in_time(const char *root, struct buf *text)
{
    int ends[2], err;
    if (pipe2(ends, O_CLOEXEC))
        return -errno;
    pid_t child = fork();
    if (child == 0)
        read_for(root, ends[1]);
    _cleanup_close_ int from = ends[0];
    close(ends[1]);
    if (child < 0)
        return -errno;
    _cleanup_buf_ struct buf all = {0};
    int told = collect(from, &all);
    if (told)
        kill(child, SIGKILL); /* which may come to nothing: it is not waited for */
    else
        waitpid(child, NULL, 0);
    if (told || all.len < sizeof err)
        return told ? told : -EIO;
    memcpy(&err, all.data, sizeof err);
    if (err)
        return err;
    return buf_add(text, all.data + sizeof err, all.len - sizeof err) ?: buf_adds(text, "");
}

static void print_mount(const struct mntent *m)
{
    decode(m->mnt_dir);
    decode(m->mnt_fsname);
    _cleanup_buf_ struct buf text = {0};
    int err = read_in_time(m->mnt_dir, &text);
    _cleanup_json_ cJSON *status = err ? NULL : json_parse(text.data, text.len);
    const char *trouble = away(status);
    uint64_t pending = status ? count_pending(status) : 0;
    print_text(m->mnt_dir);
    putchar('\t');
    print_text(m->mnt_fsname);
    putchar('\t');
    if (err)
        print_text(err == -EACCES      ? "somebody else's"
                   : err == -ENOTCONN  ? "its daemon is gone: umount it"
                   : err == -ETIMEDOUT ? "its daemon does not answer"
                                       : strerror(-err));
    else if (trouble)
        printf("away: %s", trouble);
    else
        fputs("ok", stdout);
    if (pending)
        printf(", %" PRIu64 " to send", pending);
    if (number(status, "pending_deletes"))
        printf(", %" PRIu64 " to delete", number(status, "pending_deletes"));
    putchar('\n');
}

int overview_list(int argc, char **argv)
{
    if (argc != 1) {
        log_error("usage: acafs list");
        return EXIT_USAGE;
    }
    FILE *mounts = setmntent("/proc/self/mounts", "r");
    if (!mounts) {
        log_error("/proc/self/mounts: %s", strerror(errno));
        return EXIT_OTHER;
    }
    const struct mntent *m;
    while ((m = getmntent(mounts))) {
        if (strcmp(m->mnt_type, "fuse.acafs") == 0)
            print_mount(m);
    }
    endmntent(mounts);
    return fflush(stdout) ? EXIT_OTHER : EXIT_OK;
}
