/* The inode table: a tree of names over inodes with ids of their own, which live as long as
 * the tree, the kernel (lookup count), an open file or a pin needs them. An inode that was
 * unlinked or replaced while in use stays, without a name. Ids are never used twice, so
 * the generation is always 0. Pure bookkeeping: no network, no disk. */
#ifndef ACAFS_STORE_INODE_H
#define ACAFS_STORE_INODE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include <uthash.h>

#include "util/buf.h"

struct file;
struct dir;

enum { INODE_ROOT_ID = 1 };

/* What the server was last known to hold under an inode's name. */
struct version {
    int64_t size;          /* -1: not known */
    struct timespec mtime; /* tv_nsec -1: not known */
};

/* There may be a million: with its share of the tables no more than 256 bytes beside the name. */
struct inode {
    UT_hash_handle by_name; /* among parent->children */
    struct inode *parent;   /* NULL: the root, or without a name any more */
    struct inode *children; /* directories: by name */
    union {
        struct file *file; /* regular files: content at hand, or NULL */
        struct dir *dir;   /* directories: state of its listing, or NULL */
        char *target;      /* symlinks */
    };
    char *name; /* "" for the root */
    uint64_t id;
    uint64_t nlookup;
    int64_t size; /* as shown; -1: not known */
    struct timespec mtime, atime, ctime;
    struct version base; /* the server's file that this one is a copy of */
    uint64_t changed;    /* table->clock of the last change made here */
    uint32_t seen;       /* the last listing that had it */
    uint32_t pins;       /* operations and open handles that hold it */
    mode_t mode;         /* with the type */
    uid_t uid;
    gid_t gid;
    bool on_server : 1;  /* the server has something under this name */
    bool missed : 1;     /* directories: the kernel may know that some name is not there */
    bool own_mode : 1;   /* mode was set here: listings do not change it */
    bool own_owner : 1;  /* uid or gid were set here */
    bool recorded : 1;   /* the journal tells of it */
    bool own_target : 1; /* symlinks: the target was set here */
};

struct inode_table {
    struct inode **slots; /* by id, in the first free slot from id modulo their number on */
    size_t slot_count;    /* a power of two; never all in use */
    struct inode *root;
    uint64_t next_id;
    uint64_t clock; /* counts changes made here; orders them against listings */
    size_t count;
    uid_t uid; /* owner and permission mask of what the server lists */
    gid_t gid;
    mode_t umask;
    /* Releases what hangs on an inode (file, dir) when it is freed. */
    void (*release)(void *arg, struct inode *);
    void *release_arg;
};

int inode_table_init(struct inode_table *, uid_t, gid_t, mode_t umask);
void inode_table_free(struct inode_table *);

/* NULL when there is none. */
struct inode *inode_find(struct inode_table *, uint64_t id);
/* All inodes, one after another; *at starts at 0. None may be added or freed meanwhile. */
struct inode *inode_next(const struct inode_table *, size_t *at);
struct inode *inode_child(const struct inode *dir, const char *name);

/* A new inode under a name that is free in dir; mode with its type. NULL when out of memory. */
struct inode *inode_add(struct inode_table *, struct inode *dir, const char *name, mode_t mode);
/* Takes the name away, with everything below it; freed now or when the last user goes. */
void inode_remove(struct inode_table *, struct inode *);
/* Moves to a name that is free in dir. 0 or -ENOMEM. */
int inode_move(struct inode_table *, struct inode *, struct inode *dir, const char *name);
/* Exchanges the names of two inodes, neither below the other. 0 or -ENOMEM. */
int inode_swap(struct inode_table *, struct inode *, struct inode *);
/* Whether `inode` is `dir` or below it. */
bool inode_below(const struct inode *inode, const struct inode *dir);

/* Whether the kernel or an operation holds any but the root. */
bool inode_in_use(const struct inode_table *);
void inode_looked_up(struct inode *);
void inode_forget(struct inode_table *, struct inode *, uint64_t count);
void inode_pin(struct inode *);
void inode_unpin(struct inode_table *, struct inode *);

/* The path relative to the root, "" for the root; false when it has no name or memory ran out. */
bool inode_path(const struct inode *, struct buf *out);
/* The path `name` would have in dir. */
bool inode_child_path(const struct inode *dir, const char *name, struct buf *out);

/* Marks a change made here: listings that were asked before it do not undo it. */
void inode_touch(struct inode_table *, struct inode *);

#endif
