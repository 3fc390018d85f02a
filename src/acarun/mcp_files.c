#include "acarun/mcp_files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/text.h"

int shared_open(struct shared_directory *d, const char *dir)
{
    *d = (struct shared_directory){.fd = -1};
    if (!dir)
        return 0;
    d->path = realpath(dir, NULL);
    if (!d->path)
        return -errno;
    d->fd = open(d->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return d->fd < 0 ? -errno : 0;
}

void shared_close(struct shared_directory *d)
{
    if (d->fd >= 0)
        close(d->fd);
    free(d->path);
    *d = (struct shared_directory){.fd = -1};
}

/* The path relative to the directory; NULL when it is absolute and not in it. */
static const char *relative(const struct shared_directory *d, const char *path)
{
    size_t len = strlen(d->path);
    if (*path != '/')
        return path;
    if (len == 1) /* the root itself */
        return path + strspn(path, "/");
    if (strncmp(path, d->path, len) != 0 || (path[len] && path[len] != '/'))
        return NULL;
    path += len;
    return path + strspn(path, "/");
}

/* A descriptor, or -errno. */
static int open_beneath(const struct shared_directory *d, const char *path, uint64_t flags)
{
    const struct open_how how = {.flags = flags | O_CLOEXEC,
                                 .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    const char *below = relative(d, path);
    if (!below)
        return -EXDEV;
    long fd = syscall(SYS_openat2, d->fd, *below ? below : ".", &how, sizeof how);
    return fd < 0 ? -errno : (int)fd;
}

int shared_read(const struct shared_directory *d, const char *path, struct shared_file *f)
{
    struct stat st;
    *f = (struct shared_file){.parent = -1};
    /* O_NONBLOCK: a FIFO must not hold everything up. */
    f->fd = open_beneath(d, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (f->fd < 0)
        return f->fd;
    f->open = true;
    int err = fstat(f->fd, &st)      ? -errno
              : S_ISDIR(st.st_mode)  ? -EISDIR
              : !S_ISREG(st.st_mode) ? -EINVAL
                                     : 0;
    f->size = err ? 0 : (uint64_t)st.st_size;
    if (err)
        shared_file_close(f);
    return err;
}

/* Divides a path: *name is what follows the last '/'. */
static int divide(const char *path, char **parent, char **name)
{
    const char *slash = strrchr(path, '/'), *last = slash ? slash + 1 : path;
    *parent = *name = NULL;
    if (!*last || strcmp(last, ".") == 0 || strcmp(last, "..") == 0)
        return -EISDIR;
    *parent = !slash          ? strdup(".")
              : slash == path ? strdup("/")
                              : strndup(path, (size_t)(slash - path));
    *name = strdup(last);
    return *parent && *name ? 0 : -ENOMEM;
}

static int make_temp(struct shared_file *f)
{
    char random[17], temp[40];
    text_random_hex(random, 8);
    snprintf(temp, sizeof temp, ".acarun-%s", random);
    f->fd = openat(f->parent, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (f->fd < 0)
        return -errno;
    f->temp = strdup(temp);
    return f->temp ? 0 : -ENOMEM;
}

int shared_create(const struct shared_directory *d, const char *path, struct shared_file *f)
{
    char *parent = NULL;
    struct stat st;
    *f = (struct shared_file){.fd = -1, .parent = -1, .open = true};
    int err = divide(path, &parent, &f->name);
    if (!err) {
        f->parent = open_beneath(d, parent, O_PATH | O_DIRECTORY);
        err = f->parent < 0 ? f->parent : 0;
    }
    if (!err && fstatat(f->parent, f->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
        err = -EISDIR;
    err = err ? err : make_temp(f);
    free(parent);
    if (err)
        shared_file_close(f);
    return err;
}

int shared_place(struct shared_file *f)
{
    int fd = f->fd;
    f->fd = -1;
    if (close(fd) || renameat(f->parent, f->temp, f->parent, f->name))
        return -errno;
    free(f->temp);
    f->temp = NULL;
    return 0;
}

void shared_file_close(struct shared_file *f)
{
    if (!f->open)
        return;
    if (f->fd >= 0)
        close(f->fd);
    if (f->temp)
        unlinkat(f->parent, f->temp, 0);
    if (f->parent >= 0)
        close(f->parent);
    free(f->temp);
    free(f->name);
    *f = (struct shared_file){0};
}
