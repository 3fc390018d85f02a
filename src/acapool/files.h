/* The files of one session, on disk. Code in the session can put symlinks, devices and
 * directories without permissions there at any moment: every step is taken from an open
 * directory, one name at a time, and never through a symlink. Paths are relative to the
 * root, parts joined by '/'; empty parts are skipped, "." and ".." refused (-EINVAL).
 *
 * Errors are those of the system calls; -ELOOP says that a symlink is in the way and
 * -EISDIR/-ENOTDIR/-ENODEV that something else than a file is. Usable from any thread. */
#ifndef ACAFS_ACAPOOL_FILES_H
#define ACAFS_ACAPOOL_FILES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

struct files {
    int root;     /* what the session sees as /mnt/data */
    int incoming; /* half-received uploads: same file system, not visible inside */
    uid_t owner;  /* whose the files are; (uid_t)-1: our own */
};

struct file_info {
    const char *name;
    const char *directory; /* relative to what was listed, "" for its top */
    bool is_directory;
    uint64_t size;
    struct timespec mtime;
};

/* Makes root and incoming below directory `path`. */
int files_open(struct files *, const char *path, uid_t owner);
void files_close(struct files *);

/* Regular files and directories whose names are UTF-8, each directory's sorted, parents
 * before what is in them. fn returns 0, or an error that ends the walk. */
typedef int files_list_fn(void *arg, const struct file_info *);
int files_list(const struct files *, const char *path, bool recursive, files_list_fn *fn,
               void *arg);

/* info's strings are borrowed from name. */
int files_stat(const struct files *, const char *directory, const char *name,
               struct file_info *info);
/* Opens a regular file for reading. */
int files_read(const struct files *, const char *directory, const char *name, int *fd,
               struct file_info *info);
/* A file, a symlink itself, or an empty directory. */
int files_delete(const struct files *, const char *directory, const char *name);

/* An upload: begin, write in pieces, then commit (which makes missing directories and puts
 * the file in place in one step) or abort. */
struct upload {
    const struct files *files;
    int fd;
    char temporary[33];
    uint64_t size;
};
int upload_begin(struct upload *, const struct files *);
int upload_write(struct upload *, const void *data, size_t len);
int upload_commit(struct upload *, const char *directory, const char *name, struct file_info *info);
void upload_abort(struct upload *);

/* Bytes on disk below the root. */
int files_usage(const struct files *, uint64_t *bytes);

/* Removes directory `name` and everything in it, however deep, closed or odd. */
int files_remove_tree(int parent, const char *name);

#endif
