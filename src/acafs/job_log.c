#include "acafs/job_log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utlist.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/log.h"

static const char *const endings[] = {".out", ".err", "", ".new"}; /* the streams first */
enum { STREAMS = 2, DOCUMENT = 2, NEW_DOCUMENT, ENDINGS };

struct job_log {
    struct loop *loop;
    int dir_fd;
    struct writing *writings; /* under way */
    bool closed;              /* goes with the last of them */
};

struct writing {
    struct writing *prev, *next;
    struct job_log *log;
    uint64_t id;
    char *text; /* NULL: the job is dropped */
    void (*done)(void *arg, int err);
    void *arg;
};

struct file_name {
    char text[32];
};

static struct file_name name_of(uint64_t id, int ending)
{
    struct file_name name;
    snprintf(name.text, sizeof name.text, "%llu%s", (unsigned long long)id, endings[ending]);
    return name;
}

/* The job that a file belongs to, and which of its files; 0: none of ours. */
static uint64_t parse_name(const char *name, int *ending)
{
    char *end;
    uint64_t id = *name >= '1' && *name <= '9' ? strtoull(name, &end, 10) : 0;
    for (*ending = 0; id && *ending < ENDINGS; ++*ending) {
        if (strcmp(end, endings[*ending]) == 0)
            return id;
    }
    return 0;
}

/* --- on the helper thread */

static int write_all(int fd, const char *data, size_t len)
{
    while (len) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

static int sync_stream(int dir_fd, const char *name)
{
    _cleanup_close_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    return fdatasync(fd) ? -errno : 0;
}

static int write_document(const struct writing *w)
{
    int dir = w->log->dir_fd, err = 0;
    struct file_name name = name_of(w->id, DOCUMENT), new = name_of(w->id, NEW_DOCUMENT);
    for (int i = 0; i < STREAMS && !err; i++)
        err = sync_stream(dir, name_of(w->id, i).text);
    _cleanup_close_ int fd =
        err ? -1
            : openat(dir, new.text, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err ? err : -errno;
    err = write_all(fd, w->text, strlen(w->text));
    if (!err && (fdatasync(fd) || renameat(dir, new.text, dir, name.text) || fsync(dir)))
        err = -errno;
    if (err)
        unlinkat(dir, new.text, 0);
    return err;
}

/* The document first: without it the rest belongs to no job. */
static int drop(const struct writing *w)
{
    unlinkat(w->log->dir_fd, name_of(w->id, DOCUMENT).text, 0);
    for (int i = 0; i < STREAMS; i++)
        unlinkat(w->log->dir_fd, name_of(w->id, i).text, 0);
    return 0;
}

static int work(void *arg)
{
    const struct writing *w = arg;
    return w->text ? write_document(w) : drop(w);
}

/* --- on the loop */

static void log_free(struct job_log *log)
{
    if (log->dir_fd >= 0)
        close(log->dir_fd);
    free(log);
}

static void worked(void *arg, int err)
{
    struct writing *w = arg;
    struct job_log *log = w->log;
    DL_DELETE(log->writings, w);
    if (w->done)
        w->done(w->arg, err);
    free(w->text);
    free(w);
    if (log->closed && !log->writings)
        log_free(log);
}

static int begin(struct job_log *log, const struct writing *what)
{
    struct writing *w = malloc(sizeof *w);
    if (!w)
        return -ENOMEM;
    *w = *what;
    w->log = log;
    DL_APPEND(log->writings, w);
    if (loop_work(log->loop, work, worked, w) == 0)
        return 0;
    DL_DELETE(log->writings, w);
    free(w);
    return -ENOMEM;
}

void job_log_put(struct job_log *log, uint64_t id, const cJSON *document,
                 void (*done)(void *arg, int err), void *arg)
{
    struct writing w = {.id = id, .done = done, .arg = arg};
    w.text = cJSON_PrintUnformatted(document);
    if (!w.text || begin(log, &w)) {
        free(w.text);
        done(arg, -ENOMEM);
    }
}

void job_log_drop(struct job_log *log, uint64_t id)
{
    struct writing w = {.id = id};
    if (begin(log, &w))
        log_warning("job %llu could not be taken out of the cache", (unsigned long long)id);
}

void job_log_forget(struct job_log *log, const void *arg)
{
    struct writing *w;
    DL_FOREACH (log->writings, w) {
        if (w->arg == arg)
            w->done = NULL;
    }
}

int job_log_stream(struct job_log *log, uint64_t id, int stream)
{
    int fd = openat(log->dir_fd, name_of(id, stream).text,
                    O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? -errno : fd;
}

/* --- reading */

static cJSON *read_document(int dir_fd, const char *name)
{
    struct stat st;
    _cleanup_free_ char *text = NULL;
    _cleanup_close_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) || !(text = malloc((size_t)st.st_size + 1)))
        return NULL;
    size_t len = 0;
    while (len < (size_t)st.st_size) {
        ssize_t n = read(fd, text + len, (size_t)st.st_size - len);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    return json_parse(text, len);
}

int job_log_read(struct job_log *log, void (*fn)(void *arg, uint64_t id, const cJSON *), void *arg)
{
    int fd = openat(log->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    if (!dir) {
        int err = -errno;
        if (fd >= 0)
            close(fd);
        return err;
    }
    while ((entry = readdir(dir))) {
        int ending;
        uint64_t id = parse_name(entry->d_name, &ending);
        if (id && ending == DOCUMENT) {
            _cleanup_json_ cJSON *document = read_document(log->dir_fd, entry->d_name);
            fn(arg, id, document);
        } else if (id && (ending == NEW_DOCUMENT ||
                          faccessat(log->dir_fd, name_of(id, DOCUMENT).text, F_OK, 0))) {
            unlinkat(log->dir_fd, entry->d_name, 0);
        }
    }
    closedir(dir);
    return 0;
}

/* --- */

int job_log_open(struct loop *loop, const char *directory, struct job_log **out)
{
    _cleanup_close_ int parent = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct job_log *log = parent < 0 ? NULL : calloc(1, sizeof *log);
    if (!log)
        return parent < 0 ? -errno : -ENOMEM;
    log->loop = loop;
    log->dir_fd = mkdirat(parent, "jobs", 0700) && errno != EEXIST
                      ? -1
                      : openat(parent, "jobs", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    int err = log->dir_fd < 0 || fsync(parent) ? -errno : 0;
    if (err)
        log_free(log);
    else
        *out = log;
    return err;
}

void job_log_close(struct job_log *log)
{
    if (!log)
        return;
    struct writing *w;
    DL_FOREACH (log->writings, w) {
        w->done = NULL;
    }
    log->closed = true;
    if (!log->writings)
        log_free(log);
}
