/* What the parts of the store share: refresh.c (listings), content.c, fetch.c, send.c and write.c
 * (content), change.c (names). */
#ifndef ACAFS_STORE_INTERNAL_H
#define ACAFS_STORE_INTERNAL_H

#include "store/store.h"
#include "util/buf.h"

/* A listing that is asked for, and when the last answer was asked for. */
struct listing_state {
    struct session_call *call;
    struct waitq waiting;
    int64_t asked_ms;     /* of the one under way */
    uint64_t asked_clock; /* inode_table.clock then */
    int64_t listed_ms;    /* when the last one that was answered was asked; 0: none */
    size_t count;         /* entries of that */
};

/* A directory's own listing, where the whole tree is not listed at once. */
struct dir {
    struct store *store;
    struct inode *inode;
    struct listing_state listing;
};

/* A name that was taken away here while a listing was under way, which may still hold it. */
struct grave {
    struct grave *prev, *next;
    uint64_t dir_id;
    uint64_t clock;
    char *name;
};

/* Content of a regular file at hand. The server's copy and ours:
 *
 *            read, write                all bytes here
 *   ABSENT ───────────────▶ FILLING ─────────────────▶ WHOLE ──┐
 *     ▲ ▲                     │ │                       │ ▲     │ evicted, or
 *     │ └──── failed ─────────┘ │ truncate to 0         │ │     │ changed on
 *     │                         ▼                 write │ │ up  │ the server
 *     │                       DIRTY ◀───────────────────┘ │     │
 *     │                         └─────────────────────────┘     │
 *     └─────────────────────────────────────────────────────────┘
 */
enum file_state { FILE_ABSENT, FILE_FILLING, FILE_WHOLE, FILE_DIRTY };

struct file {
    struct file *prev, *next; /* in store->files, least recently used first */
    struct store *store;
    struct inode *inode;
    enum file_state state;
    int fd;         /* nameless file in the cache directory; -1 while ABSENT */
    uint64_t bytes; /* counted against the cache's size */
    unsigned opens;

    struct session_call *download;
    uint64_t filled;        /* FILLING: valid bytes from 0 */
    uint64_t position;      /* where the next bytes of the download go */
    int64_t expected;       /* the whole size by the answer's head; -1: not told */
    uint64_t asked_clock;   /* inode_table.clock when the download began */
    struct version version; /* FILLING, WHOLE: the server's file this is a copy of */
    struct waitq waiting;   /* for bytes */

    struct session_call *upload;
    uint64_t written;  /* counts changes of the content */
    uint64_t saved;    /* `written` of what the server has */
    uint64_t sending;  /* `written` of what is being sent */
    unsigned tries;    /* failed uploads in a row */
    int error;         /* of the last upload */
    int64_t failed_ms; /* when that was */
    struct waitq flushing;
};

struct store {
    struct loop *loop;
    struct session *session;
    struct store_options options;
    struct inode_table inodes;
    struct wakeup wakeup;
    int cache_dir_fd;

    struct listing_state tree;   /* everything the file calls list, in one answer */
    struct listing_state hidden; /* what they leave out, by the helper */
    struct waitq hidden_settled; /* for those who can do without: it came, failed or takes long */
    bool no_tree;                /* this pool can't list recursively */
    bool hidden_patience_over;   /* plain directories wait no longer for `hidden` */
    struct loop_timer patience;
    int64_t stale_ms;   /* listings asked before this are no news */
    int64_t strange_ms; /* when a listing was asked that showed names come or gone by others' doing:
                           `hidden` may have changed as well */
    uint32_t epoch;     /* numbers listings for inode.seen */
    size_t hidden_names;
    int away; /* -errno while the pool does not answer */
    int64_t away_until;
    unsigned listings;    /* under way */
    struct grave *graves; /* while there are any */

    struct file *files;
    uint64_t cached_bytes;
    size_t cached_files;
    unsigned uploading;
    struct loop_timer retry;
    struct waitq idle;    /* store_sync: woken when an upload ends */
    unsigned changes;     /* under way */
    struct waitq changed; /* woken when a change ends */
    struct change *change_list;

    struct session_space space;
    int64_t space_ms;
    struct session_call *space_call;
    struct waitq space_waiting;

    uint64_t downloads, uploads, refreshes, cache_hits;
};

/* The error that a wake carried, once. */
int waiter_take_error(struct waiter *);
bool version_same(const struct version *, const struct version *);

/* refresh.c */
void store_refresh_free(struct store *);
void store_dir_free(struct dir *);
/* Remembers that a name was taken away here. */
void store_bury(struct store *, const struct inode *dir, const char *name);

/* content.c: the place of content on disk, and the room it takes */
int store_files_init(struct store *, char **why);
void store_files_free(struct store *);
/* The inode's file, made where it has none. NULL when out of memory. */
struct file *file_get(struct store *, struct inode *);
void store_file_free(struct file *);
/* Moves it to the end of what is evicted first. */
void file_used(struct file *);
/* Gives it an empty place on disk: 0, -ENOSPC, -errno. */
int file_new_content(struct file *);
/* Room for it to reach `end` bytes: 0 or -ENOSPC. */
int file_reserve(struct file *, uint64_t end);
/* Tells the bytes it takes, when it shrank or is whole. */
void file_account(struct file *, uint64_t bytes);
/* Back to ABSENT; a download ends. */
void file_drop(struct file *);
bool store_file_dirty(const struct inode *);

/* fetch.c: content from the server */
/* Whole, but of another version than the server's. */
bool file_outdated(const struct file *);
/* Fetches all of it: before it is changed, or its name goes while it is open. */
int store_file_whole(struct store *, struct waiter *, struct inode *);
/* The server's copy is another than `version` was: clean content is dropped. */
void store_file_outdated(struct store *, struct inode *);

/* send.c: content to the server */
void file_send(struct file *);
/* Waits until nothing at or below the inode is being uploaded. */
int store_uploads_below(struct store *, struct waiter *, struct inode *);
/* The name is gone for good: nothing of it is sent any more. */
void store_file_orphaned(struct store *, struct inode *);

/* change.c */
/* Whether a change of this name or one above it is under way. */
bool store_changing(const struct store *, const struct inode *);
void store_changes_free(struct store *);

#endif
