/* The store: the session's files as a tree with content on local disk. Knows the session
 * client below it and nothing of FUSE above it.
 *
 * What is written here is safe on this disk before its close is answered (store_commit), and on
 * the server some time later; store_flush and store_sync wait for that. A journal (record.h) tells
 * what is not on the server yet, and what the server has no place for: mode, owner and times. After
 * a crash the next store of that session goes on from there. Symlinks and empty directories are
 * made in the session and need no telling.
 *
 * Files are deleted here and in the journal, whatever the pool does, and on the server behind that,
 * many side by side; so are files renamed whose content is not there yet. Other changes of names
 * are made on the server before they are answered, and refused at once while it does not answer.
 * Where the server refuses to delete a file it is shown again. One that somebody else changed
 * since the server was last asked about it, no longer ago than the attribute timeout, stays.
 *
 * Content never takes the place of a version on the server that was not known here: then it goes
 * up beside it, as NAME.conflict-TIME.
 *
 * Functions that may have to wait take a waiter (see wait.h): they return 0, -errno, or STORE_WAIT
 * after parking it; the caller calls again, with the same arguments, when woken. Whoever gives
 * up early calls waiter_leave(), and store_change_forget() for a change under way, which then
 * finishes by itself. */
#ifndef ACAFS_STORE_STORE_H
#define ACAFS_STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "loop/loop.h"
#include "session/session.h"
#include "store/inode.h"
#include "store/wait.h"

struct store;
struct room;
struct change;

/* What the kernel's caches should hear of: changes that did not come through it. */
struct store_events {
    void (*entry)(void *arg, struct inode *dir, const char *name);
    void (*content)(void *arg, struct inode *inode);
    void (*attributes)(void *arg, struct inode *inode); /* before this returns */
    void *arg;
};

struct store_options {
    const char *cache_dir; /* made where it is missing; each session has a directory there */
    uint64_t cache_size;   /* bytes of content on disk: clean files go first, then parts of what is
                              read, then -ENOSPC */
    struct room *room;     /* shared with other stores of this process; or NULL */
    int64_t attr_timeout_ms;
    unsigned max_uploads;
    uid_t uid;
    gid_t gid;
    mode_t umask;
    bool restore;      /* a session that was replaced by an empty one is filled again */
    bool keepalive;    /* it is used now and then, so that it does not expire */
    uint64_t first_id; /* inodes have ids from there on; 0: from the beginning */
    struct store_events events;
};

/* What several stores may have together, each within its own cache_size: so many bytes of content,
 * and the descriptors of the process. Clean content goes first, least recently used first, of any
 * of them. NULL: out of memory. */
struct room *store_room_new(uint64_t bytes);
/* After the last of its stores. */
void store_room_free(struct room *);
/* How many stores this process has descriptors for. */
size_t store_room_stores(void);

/* 0, or -errno with *why (malloc'd, one line); -EMFILE when the room has no descriptors for one
 * more, -EBUSY when another process has this session in
 * this cache directory. Reads what the store before left, and sends it when the loop runs. */
int store_new(struct loop *, struct session *, const struct store_options *, struct store **out,
              char **why);
/* Ends all transfers; what is kept and not sent is the next store's. */
void store_free(struct store *);
/* Finds out what became of renames that the store before was about: before the first listing. */
int store_recover(struct store *, struct waiter *);
/* Nothing is pending or being changed, and nobody waits for it: it can be freed and made anew, and
 * nobody sees it. */
bool store_is_idle(const struct store *);
/* Drops the content that may be fetched again, open files' apart. */
void store_evict(struct store *);
/* Where the directories of a pool's sessions are; malloc'd. */
char *store_pool_directory(const char *cache_dir, const char *endpoint);
/* Makes that: 0, or -errno with *why (malloc'd, one line) where no session could be kept. */
int store_pool_prepare(const char *cache_dir, const char *endpoint, char **why);
/* Where the session's content and journal are. */
const char *store_directory(const struct store *);
struct inode_table *store_inodes(struct store *);

/* --- names and attributes */

/* Makes the listing of a directory no older than the attribute timeout, or, up to twice as old,
 * has it renewed while the old one is still good for an answer. When the pool is away, or has kept
 * silent for some seconds, any will do. */
int store_fresh(struct store *, struct waiter *, struct inode *dir);
/* As above, for the attributes of any inode. */
int store_fresh_attr(struct store *, struct waiter *, struct inode *);
/* Milliseconds for which what store_fresh() said of this inode still holds. */
int64_t store_ttl_ms(const struct store *, const struct inode *);
/* The same for which names there are in a directory. */
int64_t store_names_ttl_ms(const struct store *, const struct inode *dir);
/* That there is no such name is never told from an old listing. */
int store_lookup(struct store *, struct waiter *, struct inode *dir, const char *name,
                 struct inode **out);
/* Forgets what listings said: the next look asks the server. */
void store_invalidate(struct store *);
/* Asks for everything anew, changes told to the events. */
int store_refresh_all(struct store *, struct waiter *);
/* As above for one directory, or for the one that holds a file: -ENOENT when there is none. Parts
 * of the path are joined by '/'; those that say nothing are passed over. */
int store_refresh_path(struct store *, struct waiter *, const char *path);
/* -ENAMETOOLONG, -EILSEQ for names that are not UTF-8, -EINVAL for reserved ones; 0. */
int store_name_check(const struct inode *dir, const char *name);
void store_stat(const struct inode *, struct stat *);

/* --- content. A file stays pinned from open to close. */

/* Opens; *keep tells whether the kernel's pages of it are still good. trunc empties it without
 * fetching what was there. */
int store_open(struct store *, struct inode *, bool trunc, bool *keep);
void store_close(struct store *, struct inode *);
/* Lends the content of an inode that is open once, complete and clean, to a reader that does not
 * come here: a descriptor, borrowed, and when it was last written; or -1. Until store_unback() it
 * stays in that place. */
int store_back(struct inode *, struct timespec *written);
void store_unback(struct inode *);
/* Somebody to whom it was lent may have changed it: then it goes to the server. *written is
 * set anew. */
void store_written_past(struct store *, struct inode *, struct timespec *written);
/* A new regular file, open, which the server hears of at its first flush. */
int store_create(struct store *, struct waiter *, struct inode *dir, const char *name, mode_t mode,
                 struct inode **out);
/* Waits until [offset, offset + len) can be read, as far as the file reaches: *fd is borrowed
 * until the next call, *available the bytes there (0 at the end). */
int store_read(struct store *, struct waiter *, struct inode *, uint64_t offset, size_t len,
               int *fd, size_t *available);
int store_write(struct store *, struct waiter *, struct inode *, uint64_t offset, const void *data,
                size_t len);
int store_truncate(struct store *, struct waiter *, struct inode *, uint64_t size);
/* Waits until everything written before the first call is safe on this disk; *ticket starts at 0.
 * The error of a file that the server refuses for good, too. */
int store_commit(struct store *, struct waiter *, struct inode *, uint64_t *ticket);
/* As above, for the change of names and attributes made before the first call. */
int store_commit_names(struct store *, struct waiter *, uint64_t *ticket);
/* As above, but in the journal is enough: the end of this process leaves it, a power cut may not.
 */
int store_commit_told(struct store *, struct waiter *, uint64_t *ticket);
/* Waits until everything written before the first call is on the server; *ticket starts at 0. */
int store_flush(struct store *, struct waiter *, struct inode *, uint64_t *ticket);
/* Waits until nothing is left to be sent or deleted, or was tried since and failed: then the first
 * error. A refusal to delete is told once. */
int store_sync(struct store *, struct waiter *);
/* What sending the file last failed with, 0: nothing is wrong with it. */
int store_error(const struct inode *);
/* Whether the session is about to be ended by its user's wish: then nothing of it is kept. */
void store_expect_new(struct store *, bool expected);

/* --- changes of names. *change starts as NULL. */
int store_unlink(struct store *, struct waiter *, struct inode *dir, const char *name,
                 struct change **);
/* Waits until what was deleted of that name, or with NULL in or below dir, is gone from the server,
 * or the error with which that failed since. */
int store_removal_wait(struct store *, struct waiter *, const struct inode *dir, const char *name);
/* Waits for what was deleted below it. */
int store_rmdir(struct store *, struct waiter *, struct inode *dir, const char *name,
                struct change **);
int store_mkdir(struct store *, struct waiter *, struct inode *dir, const char *name, mode_t mode,
                struct change **, struct inode **out);
int store_symlink(struct store *, struct waiter *, struct inode *dir, const char *name,
                  const char *target, struct change **, struct inode **out);
int store_rename(struct store *, struct waiter *, struct inode *from_dir, const char *from,
                 struct inode *to_dir, const char *to, enum session_rename, struct change **);
void store_change_forget(struct change *);

/* Mode, owner and times are kept here: the API has no place for them. */
void store_set_mode(struct store *, struct inode *, mode_t mode);
void store_set_owner(struct store *, struct inode *, uid_t uid, gid_t gid);
void store_set_times(struct store *, struct inode *, const struct timespec *atime,
                     const struct timespec *mtime);

/* Space of the session's disk, asked at most every 30 s. */
int store_space(struct store *, struct waiter *, struct session_space *out);

/* --- for status */
struct store_pending {
    const struct inode *inode;
    uint64_t size;
    unsigned tries;
    int err;     /* last error, 0: none yet */
    bool kept;   /* safe on this disk */
    bool failed; /* refused: not tried again by itself */
    bool uploading;
};
struct store_stats {
    size_t inodes, hidden; /* hidden: names listings held that Linux can't show */
    uint64_t cached_bytes;
    size_t cached_files;
    size_t dirty_files, failed_files;
    size_t removals;        /* names still to be deleted on the server */
    size_t conflicts, lost; /* files, so far */
    uint64_t dirty_bytes;
    uint64_t downloads, uploads,
        downloads_ahead, /* of the downloads: files that nobody had asked for yet */
        refreshes, cache_hits;
    int away;    /* -errno while the pool does not answer, else 0 */
    bool silent; /* it was asked, and takes its time */
};
void store_get_stats(const struct store *, struct store_stats *);
struct store_deletion {
    const struct inode *dir;
    const char *name;
    unsigned tries;
    int err; /* last error, 0: none yet */
};
/* Calls fn for each name not yet deleted on the server. */
void store_each_removal(const struct store *, void (*fn)(void *arg, const struct store_deletion *),
                        void *arg);
/* Calls fn for each file not yet on the server. */
void store_each_pending(struct store *, void (*fn)(void *arg, const struct store_pending *),
                        void *arg);

#endif
