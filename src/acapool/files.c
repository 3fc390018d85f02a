#include "acapool/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/buf.h"
#include "util/cleanup.h"
#include "util/text.h"

enum {
    LIST_DEPTH = 256,  /* levels that a recursive listing goes down */
    REMOVE_DEPTH = 64, /* levels that removal holds open at once */
    ENTRY_BYTES = 512, /* what a name counts for in usage */
    OPEN_DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
};

static void cleanup_dir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}
#define _cleanup_dir_ __attribute__((cleanup(cleanup_dir)))

static bool dots(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

static bool own(const struct files *f)
{
    return f->owner == (uid_t)-1;
}

static int make_directory(int parent, const char *name, uid_t owner, mode_t mode, int *fd)
{
    if (mkdirat(parent, name, mode) && errno != EEXIST)
        return -errno;
    *fd = openat(parent, name, OPEN_DIRECTORY);
    if (*fd < 0)
        return -errno;
    if (owner != (uid_t)-1 && fchown(*fd, owner, owner))
        return -errno;
    return fchmod(*fd, mode) ? -errno : 0;
}

int files_open(struct files *f, const char *path, uid_t owner)
{
    *f = (struct files){.root = -1, .incoming = -1, .owner = owner};
    _cleanup_close_ int top = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (top < 0)
        return -errno;
    int err = make_directory(top, "data", owner, 0700, &f->root);
    if (!err)
        err = make_directory(top, "incoming", (uid_t)-1, 0700, &f->incoming);
    if (err)
        files_close(f);
    return err;
}

void files_close(struct files *f)
{
    if (f->root >= 0)
        close(f->root);
    if (f->incoming >= 0)
        close(f->incoming);
    f->root = f->incoming = -1;
}

/* O_DIRECTORY | O_NOFOLLOW says ENOTDIR of a symlink too; tell the two apart. */
static int why_not_directory(int parent, const char *name, int err)
{
    struct stat st;
    if (err == ENOTDIR && !fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) && S_ISLNK(st.st_mode))
        return -ELOOP;
    return -err;
}

static int step(const struct files *f, int parent, const char *name, bool create, int *fd)
{
    *fd = openat(parent, name, OPEN_DIRECTORY);
    if (*fd >= 0)
        return 0;
    if (errno != ENOENT || !create)
        return why_not_directory(parent, name, errno);
    /* EEXIST: someone else was quicker, which is as good. */
    if (mkdirat(parent, name, 0777) && errno != EEXIST)
        return -errno;
    *fd = openat(parent, name, OPEN_DIRECTORY);
    if (*fd < 0)
        return why_not_directory(parent, name, errno);
    if (!own(f) && fchown(*fd, f->owner, f->owner))
        return -errno;
    return fchmod(*fd, 0777) ? -errno : 0;
}

/* Opens the directory at path: the one way from a path to a descriptor. */
static int walk(const struct files *f, const char *path, bool create, int *out)
{
    int fd = fcntl(f->root, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return -errno;
    char name[256];
    for (const char *part = path ? path : ""; *part;) {
        size_t len = strcspn(part, "/");
        if (len >= sizeof name) {
            close(fd);
            return -ENAMETOOLONG;
        }
        memcpy(name, part, len);
        name[len] = '\0';
        part += len + (part[len] == '/');
        if (len == 0)
            continue;
        int next = -1;
        int err = dots(name) ? -EINVAL : step(f, fd, name, create, &next);
        close(fd);
        fd = next;
        if (err) {
            if (fd >= 0)
                close(fd);
            return err;
        }
    }
    *out = fd;
    return 0;
}

static bool fill(struct file_info *info, const char *name, const char *directory,
                 const struct stat *st)
{
    *info = (struct file_info){.name = name,
                               .directory = directory,
                               .is_directory = S_ISDIR(st->st_mode),
                               .size = (uint64_t)st->st_size,
                               .mtime = st->st_mtim};
    return S_ISDIR(st->st_mode) || S_ISREG(st->st_mode);
}

static int listed(const struct dirent *entry)
{
    return !dots(entry->d_name) && text_is_utf8(entry->d_name, strlen(entry->d_name));
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

struct listing_walk {
    files_list_fn *fn;
    void *arg;
    bool recursive;
    struct buf directory;
};

static int list_one(struct listing_walk *w, int fd, int depth);

static int list_entry(struct listing_walk *w, int fd, int depth, const char *name)
{
    struct stat st;
    struct file_info info;
    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) ||
        !fill(&info, name, w->directory.data ? w->directory.data : "", &st))
        return 0; /* gone since, or nothing the service shows */
    int err = w->fn(w->arg, &info);
    if (err || !info.is_directory || !w->recursive || depth == LIST_DEPTH)
        return err;
    _cleanup_close_ int child = openat(fd, name, OPEN_DIRECTORY);
    if (child < 0)
        return 0; /* gone, replaced, or closed to us: listed itself, but not what is in it */
    size_t before = w->directory.len;
    err = buf_addf(&w->directory, "%s%s", before ? "/" : "", name);
    if (!err)
        err = list_one(w, child, depth + 1);
    w->directory.len = before;
    if (w->directory.data)
        w->directory.data[before] = '\0';
    return err;
}

static int list_one(struct listing_walk *w, int fd, int depth)
{
    struct dirent **entries = NULL;
    int count = scandirat(fd, ".", &entries, listed, by_bytes);
    if (count < 0)
        return depth ? 0 : -errno;
    int err = 0;
    for (int i = 0; i < count; i++) {
        if (!err)
            err = list_entry(w, fd, depth, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return err;
}

int files_list(const struct files *f, const char *path, bool recursive, files_list_fn *fn,
               void *arg)
{
    _cleanup_close_ int fd = -1;
    int err = walk(f, path, false, &fd);
    if (err)
        return err;
    struct listing_walk w = {.fn = fn, .arg = arg, .recursive = recursive};
    err = list_one(&w, fd, 0);
    buf_free(&w.directory);
    return err;
}

static int look_up(const struct files *f, const char *directory, const char *name, int *parent,
                   struct file_info *info)
{
    if (dots(name) || strchr(name, '/'))
        return -EINVAL;
    int err = walk(f, directory, false, parent);
    if (err)
        return err;
    struct stat st;
    if (fstatat(*parent, name, &st, AT_SYMLINK_NOFOLLOW))
        return -errno;
    if (!fill(info, name, directory ? directory : "", &st))
        return S_ISLNK(st.st_mode) ? -ELOOP : -ENODEV;
    return 0;
}

int files_stat(const struct files *f, const char *directory, const char *name,
               struct file_info *info)
{
    _cleanup_close_ int parent = -1;
    return look_up(f, directory, name, &parent, info);
}

int files_read(const struct files *f, const char *directory, const char *name, int *fd,
               struct file_info *info)
{
    _cleanup_close_ int parent = -1;
    int err = look_up(f, directory, name, &parent, info);
    if (!err && info->is_directory)
        err = -EISDIR;
    if (err)
        return err;
    /* Not to wait for a writer, should it have become a pipe since. */
    *fd = openat(parent, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (*fd < 0)
        return -errno;
    struct stat st;
    err = fstat(*fd, &st) ? -errno : 0;
    if (!err && (!fill(info, name, info->directory, &st) || info->is_directory))
        err = -ENODEV;
    if (err) {
        close(*fd);
        *fd = -1;
    }
    return err;
}

int files_delete(const struct files *f, const char *directory, const char *name)
{
    if (dots(name) || strchr(name, '/'))
        return -EINVAL;
    _cleanup_close_ int parent = -1;
    int err = walk(f, directory, false, &parent);
    if (err)
        return err;
    if (!unlinkat(parent, name, 0))
        return 0;
    if (errno != EISDIR)
        return -errno;
    return unlinkat(parent, name, AT_REMOVEDIR) ? -errno : 0;
}

int upload_begin(struct upload *u, const struct files *f)
{
    *u = (struct upload){.files = f, .fd = -1};
    text_random_hex(u->temporary, 16);
    u->fd = openat(f->incoming, u->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return u->fd < 0 ? -errno : 0;
}

int upload_write(struct upload *u, const void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(u->fd, (const char *)data + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    u->size += len;
    return 0;
}

/* As the service does: whoever runs in the session may do anything with the file. */
static int hand_over(struct upload *u)
{
    if (!own(u->files) && fchown(u->fd, u->files->owner, u->files->owner))
        return -errno;
    return fchmod(u->fd, 0777) ? -errno : 0;
}

int upload_commit(struct upload *u, const char *directory, const char *name, struct file_info *info)
{
    if (dots(name) || strchr(name, '/'))
        return -EINVAL;
    _cleanup_close_ int parent = -1;
    int err = walk(u->files, directory, true, &parent);
    if (!err)
        err = hand_over(u);
    if (!err && renameat(u->files->incoming, u->temporary, parent, name))
        err = -errno;
    if (err)
        return err;
    u->temporary[0] = '\0';
    struct stat st;
    err = fstat(u->fd, &st) ? -errno : 0;
    if (!err)
        fill(info, name, directory ? directory : "", &st);
    close(u->fd);
    u->fd = -1;
    return err;
}

void upload_abort(struct upload *u)
{
    if (u->fd >= 0)
        close(u->fd);
    if (u->temporary[0])
        unlinkat(u->files->incoming, u->temporary, 0);
    *u = (struct upload){.fd = -1};
}

static uint64_t usage(int fd, int depth)
{
    _cleanup_dir_ DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return 0;
    }
    uint64_t sum = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct stat st;
        if (dots(entry->d_name) || fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW))
            continue;
        /* Each entry takes something, and a file of several names is there once. */
        sum += ENTRY_BYTES + (uint64_t)st.st_blocks * 512 / (S_ISDIR(st.st_mode) ? 1 : st.st_nlink);
        if (!S_ISDIR(st.st_mode) || depth == LIST_DEPTH)
            continue;
        int child = openat(fd, entry->d_name, OPEN_DIRECTORY);
        if (child >= 0)
            sum += usage(child, depth + 1);
    }
    return sum;
}

int files_usage(const struct files *f, uint64_t *bytes)
{
    int fd = openat(f->root, ".", OPEN_DIRECTORY);
    if (fd < 0)
        return -errno;
    *bytes = usage(fd, 0);
    return 0;
}

/* Removal. Directories deeper than REMOVE_DEPTH are first brought up to the top, so that
 * neither descriptors nor stack grow with what a session did. */
struct removal {
    int top;
    unsigned long brought; /* names its directories */
};

static int open_to_remove(int parent, const char *name)
{
    int fd = openat(parent, name, OPEN_DIRECTORY);
    if (fd >= 0 || errno != EACCES)
        return fd;
    fchmodat(parent, name, 0700, 0); /* ours, but closed to us; no symlink, or EACCES came not */
    return openat(parent, name, OPEN_DIRECTORY);
}

static int clear(struct removal *r, int fd, int depth);

static int remove_entry(struct removal *r, int parent, const char *name, int depth)
{
    if (!unlinkat(parent, name, 0) || errno == ENOENT)
        return 0;
    if (errno != EISDIR)
        return -errno;
    if (!unlinkat(parent, name, AT_REMOVEDIR))
        return 0;
    if (depth == REMOVE_DEPTH) {
        char up[32];
        snprintf(up, sizeof up, "acapool-%lu", r->brought++);
        return renameat(parent, name, r->top, up) ? -errno : 0;
    }
    int fd = open_to_remove(parent, name);
    if (fd < 0)
        return -errno;
    int err = clear(r, fd, depth + 1);
    if (err)
        return err;
    return unlinkat(parent, name, AT_REMOVEDIR) && errno != ENOENT ? -errno : 0;
}

/* Takes fd over. */
static int clear(struct removal *r, int fd, int depth)
{
    (void)!fchmod(fd, 0700); /* what that could not open, the removals below report */
    _cleanup_dir_ DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -errno;
    }
    int err = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (dots(entry->d_name))
            continue;
        int failed = remove_entry(r, fd, entry->d_name, depth);
        err = err ? err : failed;
    }
    return err;
}

int files_remove_tree(int parent, const char *name)
{
    struct removal r = {.top = open_to_remove(parent, name)};
    if (r.top < 0)
        return errno == ENOENT ? 0 : -errno;
    _cleanup_close_ int top = r.top;
    int err;
    unsigned long before;
    do {
        before = r.brought;
        int fd = openat(top, ".", OPEN_DIRECTORY);
        err = fd < 0 ? -errno : clear(&r, fd, 0);
    } while (!err && r.brought != before);
    if (err)
        return err;
    return unlinkat(parent, name, AT_REMOVEDIR) ? -errno : 0;
}
