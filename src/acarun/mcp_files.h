/* The one directory of this machine from which, and to which, acarun mcp moves files: none unless
 * the user names it. What calls the tools is a language model, which may follow instructions that
 * it found in a web page or a file: with the run of the user's files it could send any of them to a
 * session, or write over them. So paths are resolved by the kernel beneath that directory
 * (openat2(2)): no "..", absolute path or symlink leads out of it. */
#ifndef ACAFS_ACARUN_MCP_FILES_H
#define ACAFS_ACARUN_MCP_FILES_H

#include <stdbool.h>
#include <stdint.h>

struct shared_directory {
    int fd;     /* -1: none */
    char *path; /* canonical */
};
/* dir NULL: none. 0 or -errno. */
int shared_open(struct shared_directory *, const char *dir);
void shared_close(struct shared_directory *);

/* A file in it; zero-initialised it is none. */
struct shared_file {
    int fd;
    uint64_t size;
    int parent;        /* of a new file: its directory, */
    char *temp, *name; /* and its name there until it is whole, and then */
    bool open;
};
/* path: beneath the directory, or absolute and in it. Regular files only. 0 or -errno; -EXDEV: it
 * leads out. */
int shared_read(const struct shared_directory *, const char *path, struct shared_file *);
/* A new file, which takes its place at shared_place(). */
int shared_create(const struct shared_directory *, const char *path, struct shared_file *);
int shared_place(struct shared_file *);
/* Removes a new file that did not take its place. */
void shared_file_close(struct shared_file *);

#endif
