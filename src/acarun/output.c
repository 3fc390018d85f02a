#include "acarun/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utlist.h>

#include "util/cleanup.h"
#include "util/text.h"

enum {
    PIECE = PIPE_BUF, /* a pipe that can be written to takes so much without waiting */
    LOOK_MS = 200,    /* for output_hurry() by another thread */
    HURRY_MAX = 16 << 20,
};

static const char *const image_extensions[] = {"png", "jpg",  "jpeg", "svg", "gif", "webp",
                                               "bmp", "tiff", "pdf",  "img", NULL};

/* A file that is written under another name until the run is over. */
struct file {
    char *temp, *target;
    int fd;
    int err;
    struct file *next;
};

struct stream {
    int terminal;       /* where it is shown, or -1 */
    struct buf pending; /* for the terminal */
    struct buf kept;
    struct file *file; /* or NULL */
    int err;           /* of showing it */
};

struct output {
    struct output_options options;
    struct stream streams[2];
    struct file *files;
    bool one_terminal;   /* stdout is shown where stderr is */
    atomic_bool in_line; /* and the last shown there did not end one */
    atomic_bool hurry;
};

/* --- files */

static void file_free(struct file *f)
{
    if (f->temp)
        unlink(f->temp);
    if (f->fd >= 0)
        close(f->fd);
    free(f->temp);
    free(f->target);
    free(f);
}

static char *path_in(const struct output *o, const char *name, const char *suffix)
{
    struct buf path = {0};
    if (buf_addf(&path, "%s/%s%s", o->options.dir, name, suffix))
        return NULL;
    return buf_take(&path);
}

/* mkostemp() makes files for their owner alone; these are to be as any program's. */
static void set_usual_mode(int fd)
{
    mode_t mask = umask(0);
    umask(mask);
    if (fchmod(fd, 0666 & ~mask))
        return; /* a file system without modes */
}

/* NULL with errno when it can't be made. */
static struct file *file_new(struct output *o, const char *suffix)
{
    struct file *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->fd = -1;
    f->target = path_in(o, o->options.name, suffix);
    f->temp = path_in(o, ".acarun-", "XXXXXX");
    if (f->target && f->temp)
        f->fd = mkostemp(f->temp, O_CLOEXEC);
    if (f->fd < 0) {
        int err = errno;
        free(f->temp);
        f->temp = NULL; /* it was not made */
        file_free(f);
        errno = err;
        return NULL;
    }
    set_usual_mode(f->fd);
    LL_APPEND(o->files, f);
    return f;
}

static void file_write(struct file *f, const void *data, size_t len)
{
    while (len && !f->err) {
        ssize_t n = write(f->fd, data, len);
        if (n < 0 && errno != EINTR)
            f->err = -errno;
        if (n > 0) {
            data = (const char *)data + n;
            len -= (size_t)n;
        }
    }
}

static int file_place(struct file *f)
{
    int fd = f->fd;
    f->fd = -1;
    if (close(fd) && !f->err)
        f->err = -errno;
    if (!f->err && rename(f->temp, f->target))
        f->err = -errno;
    if (f->err)
        return f->err;
    free(f->temp);
    f->temp = NULL;
    return 0;
}

/* --- images of earlier runs */

static bool is_extension(const char *text)
{
    for (const char *const *e = image_extensions; *e; e++) {
        if (strcmp(text, *e) == 0)
            return true;
    }
    return false;
}

/* NAME.result.png, NAME.result-2.svg */
static bool is_image_name(const char *name, const char *found)
{
    static const char middle[] = ".result";
    size_t len = strlen(name);
    if (strncmp(found, name, len) != 0 || strncmp(found + len, middle, sizeof middle - 1) != 0)
        return false;
    found += len + sizeof middle - 1;
    if (*found == '-') {
        size_t digits = strspn(found + 1, "0123456789");
        if (!digits)
            return false;
        found += 1 + digits;
    }
    return *found == '.' && is_extension(found + 1);
}

static void remove_stale_images(const struct output *o)
{
    DIR *dir = opendir(o->options.dir);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        if (is_image_name(o->options.name, entry->d_name))
            unlinkat(dirfd(dir), entry->d_name, 0);
    }
    if (dir)
        closedir(dir);
}

/* --- showing */

/* Waits until the terminal takes something; false when a signal came first, or nothing is waited
 * for any more. */
static bool wait_for_terminal(struct output *o, const struct stream *s, bool last)
{
    struct pollfd fds[] = {{.fd = s->terminal, .events = POLLOUT},
                           {.fd = o->options.signal_fd, .events = POLLIN}};
    for (;;) {
        bool hurry = !last && atomic_load(&o->hurry);
        int n = poll(fds, 2, hurry ? 0 : LOOK_MS);
        if (n > 0 || (n < 0 && errno != EINTR))
            return n < 0 || fds[0].revents;
        if (n == 0 && hurry)
            return false;
    }
}

/* Shows what is pending, but for what must wait while a signal does. */
static void show(struct output *o, struct stream *s, bool last)
{
    size_t done = 0;
    while (done < s->pending.len && !s->err && wait_for_terminal(o, s, last)) {
        size_t left = s->pending.len - done;
        ssize_t n = write(s->terminal, s->pending.data + done, left < PIECE ? left : PIECE);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            s->err = -errno;
        done += n > 0 ? (size_t)n : 0;
        if (n > 0 && (s->terminal == STDERR_FILENO || o->one_terminal))
            atomic_store(&o->in_line, s->pending.data[done - 1] != '\n');
    }
    buf_consume(&s->pending, s->err ? s->pending.len : done);
}

void output_write(struct output *o, int stream, const void *data, size_t len)
{
    struct stream *s = &o->streams[stream == 2];
    if (s->file)
        file_write(s->file, data, len);
    if (o->options.keep && buf_add(&s->kept, data, len))
        s->err = -ENOMEM;
    if (s->terminal < 0 || s->err || (atomic_load(&o->hurry) && s->pending.len > HURRY_MAX))
        return;
    if (buf_add(&s->pending, data, len))
        s->err = -ENOMEM;
    show(o, s, false);
}

static bool is_one_file(int fd, int other)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

void output_end_line(struct output *o)
{
    if (o && atomic_exchange(&o->in_line, false))
        fputc('\n', stderr);
}

void output_hurry(struct output *o)
{
    atomic_store(&o->hurry, true);
}

bool output_no_reader(const struct output *o)
{
    return o->streams[0].err == -EPIPE;
}

int output_error(const struct output *o)
{
    return o->streams[0].err ? o->streams[0].err : o->streams[1].err;
}

const struct buf *output_kept(const struct output *o, int stream)
{
    return &o->streams[stream == 2].kept;
}

/* --- images */

static int image_in_entry(cJSON *entry, const void *data, size_t len)
{
    _cleanup_buf_ struct buf base64 = {0};
    if (text_base64(&base64, data, len) || buf_adds(&base64, "") ||
        !cJSON_AddStringToObject(entry, "base64_data", base64.data))
        return -ENOMEM;
    return 0;
}

int output_image(struct output *o, unsigned number, const char *extension, const void *data,
                 size_t len, cJSON *entry)
{
    _cleanup_buf_ struct buf suffix = {0}, name = {0};
    if (!is_extension(extension))
        extension = "img";
    if (buf_adds(&suffix, ".result") || (number && buf_addf(&suffix, "-%u", number)) ||
        buf_addf(&suffix, ".%s", extension) ||
        buf_addf(&name, "%s%s", o->options.name, suffix.data))
        return -ENOMEM;
    cJSON_AddStringToObject(entry, "name", name.data);
    cJSON_AddStringToObject(entry, "format", extension);
    if (!o->options.dir)
        return image_in_entry(entry, data, len);
    struct file *f = file_new(o, suffix.data);
    if (!f)
        return -errno;
    cJSON_AddStringToObject(entry, "path", f->target);
    file_write(f, data, len);
    return f->err;
}

/* --- from start to end */

static int fail(int err, const char *what, char **why)
{
    _cleanup_buf_ struct buf text = {0}, line = {0};
    buf_adds(&text, what);
    text_printable(&line, text.data, text.len, 400);
    buf_addf(&line, ": %s", strerror(-err));
    *why = buf_take(&line);
    return err;
}

static int open_streams(struct output *o, char **why)
{
    static const char *const suffixes[] = {".stdout", ".stderr"};
    size_t len = strlen(o->options.name) + strlen(suffixes[0]);
    int err = len > NAME_MAX ? -ENAMETOOLONG : 0;
    for (int i = 0; i < 2 && !err; i++) {
        o->streams[i].file = file_new(o, suffixes[i]);
        if (!o->streams[i].file)
            err = -errno;
    }
    return err ? fail(err, o->options.dir, why) : 0;
}

int output_new(const struct output_options *options, struct output **out, char **why)
{
    struct output *o = calloc(1, sizeof *o);
    *out = o;
    if (!o)
        return -ENOMEM;
    o->options = *options;
    for (int i = 0; i < 2; i++)
        o->streams[i].terminal = options->show ? i + 1 : -1;
    o->one_terminal = is_one_file(STDOUT_FILENO, STDERR_FILENO);
    return options->dir && options->streams ? open_streams(o, why) : 0;
}

void output_free(struct output *o)
{
    struct file *f, *next;
    if (!o)
        return;
    LL_FOREACH_SAFE (o->files, f, next) {
        file_free(f);
    }
    for (int i = 0; i < 2; i++) {
        buf_free(&o->streams[i].pending);
        buf_free(&o->streams[i].kept);
    }
    free(o);
}

static int write_result(struct output *o, const char *result)
{
    struct file *f = file_new(o, ".result");
    if (!f)
        return -errno;
    file_write(f, result, strlen(result));
    file_write(f, "\n", 1);
    return f->err;
}

static int place_files(struct output *o, const char *result, char **why)
{
    if (!o->options.dir)
        return 0;
    struct file *f;
    int err = o->options.streams ? write_result(o, result) : 0;
    if (err)
        return fail(err, o->options.dir, why);
    if (o->options.streams)
        remove_stale_images(o);
    LL_FOREACH (o->files, f) {
        if ((err = file_place(f)))
            return fail(err, f->target, why);
    }
    return 0;
}

int output_finish(struct output *o, const char *result, char **why)
{
    int err = place_files(o, result, why);
    for (int i = 0; i < 2; i++)
        show(o, &o->streams[i], true);
    return err;
}
