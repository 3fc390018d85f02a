/* What the parts of the store share: refresh.c (listings), content.c, fetch.c, readahead.c, send.c
 * and write.c (content), change.c (names). */
#ifndef ACAFS_STORE_INTERNAL_H
#define ACAFS_STORE_INTERNAL_H

#include "store/extents.h"
#include "store/readahead.h"
#include "store/record.h"
#include "store/store.h"
#include "util/buf.h"

struct batch;
struct intent;
struct kept;
struct remake;
struct sending;
struct removal;
struct room;
struct shelf;

/* A listing that is asked for, and when the last answer was asked for. */
struct listing_state {
    struct session_call *call;
    struct waitq waiting;
    struct waitq content; /* with the one before, if this takes long */
    int64_t asked_ms;     /* of the one under way */
    uint64_t asked_clock; /* inode_table.clock then */
    int64_t listed_ms;    /* when the last one that was answered was asked; 0: none */
    size_t count;         /* entries of that */
    struct store *store;
    struct loop_timer patience;
    bool slow; /* the one under way takes long */
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

/* Names that are gone here and still on the server, see removal.c. */
struct removals {
    struct removal *list;    /* those that failed last */
    struct removal *by_name; /* the same */
    unsigned active;         /* requests for them under way */
    int64_t hurried_ms;      /* those that failed before are due */
    int refusal;             /* what the pool refused one with last... */
    int64_t told_ms;         /* ...and when a barrier was first told; 0: none was */
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

/* A download on its way into a file's place on disk. */
struct stream {
    struct stream *prev, *next; /* in file->streams */
    struct file *file;
    struct session_call *call;
    uint64_t start;     /* asked from there */
    uint64_t position;  /* where the next bytes go */
    uint64_t stop;      /* asked up to there; UINT64_MAX: to the end */
    struct extent need; /* what somebody waits for, or was last given */
    bool ahead;         /* for nobody yet: gives way to what is asked for */
};

/* The way of a dirty file to the server, which begins when its content is safe here:
 *
 *   NONE ──kept──▶ QUEUED ──its turn──▶ CHECKING ──as we knew it──▶ TELLING ──▶ SENDING ──▶ NONE
 *                   ▲ ▲                   │    │ another version      │           │  │
 *                   │ └──── failed ───────┤    ▼                      │           │  │ refused
 *                   │                     ├─ COMPARING ──the same──▶ NONE ◀───────┘  ▼
 *                   │   (RETRY, waiting)  │    │ other content                    FAILED
 *                   └──────────◀──────────┴────┘ gets a name of its own
 *
 * New content takes it back to NONE from anywhere but SENDING, which is first let end: what the
 * server then has is known. A change of its name that begins takes it back to QUEUED likewise.
 * TELLING: the journal is told before the first byte goes, unless it knows of an upload, so that
 * after a crash only what may be ours on the server is taken for that. */
enum send_state {
    SEND_NONE,
    SEND_QUEUED,
    SEND_CHECKING,
    SEND_COMPARING,
    SEND_TELLING,
    SEND_SENDING,
    SEND_RETRY,
    SEND_FAILED
};

struct file {
    struct file *prev, *next;           /* in store->files, least recently used first */
    struct file *room_prev, *room_next; /* the same of all that share the room */
    struct store *store;
    struct inode *inode;
    enum file_state state;
    int fd;         /* in the cache directory, nameless until kept; -1 while ABSENT */
    uint64_t bytes; /* counted against the cache's size */
    unsigned opens;
    bool backed; /* the kernel reads at fd by itself */

    struct stream *streams;
    unsigned stream_count;
    struct extents have;     /* FILLING: valid bytes */
    struct extents given;    /* of these: what was read, oldest first */
    bool all_wanted;         /* FILLING: nothing of it may go again */
    int64_t expected;        /* the whole size by the answers' heads; -1: not told */
    struct timespec served;  /* Last-Modified by the same; tv_nsec -1: not told */
    unsigned restarts;       /* because it changed on the way */
    int fetch_error;         /* of the last download that failed... */
    int64_t fetch_failed_ms; /* ...and when that was */
    uint64_t asked_clock;    /* inode_table.clock when the last download began */
    struct version version;  /* FILLING, WHOLE: the server's file this is a copy of */
    struct waitq waiting;    /* for bytes */

    /* keep.c: what is safe on this disk */
    uint64_t written;     /* counts changes of the content */
    uint64_t kept;        /* `written` of what a crash leaves here */
    uint64_t told;        /* `written` of what records tell of, written or on their way */
    uint64_t content;     /* number of its name in content/, and in the journal; 0: none */
    uint64_t old_content; /* what the journal still names, until the next record */
    bool over_left;       /* not kept yet, in the place of what was to be removed */
    struct kept *keeping; /* the newest on its way */
    struct waitq kept_waiting;

    /* send.c: what is on the server */
    struct file *out_prev, *out_next; /* in store->outbox, unless NONE */
    enum send_state send;
    struct session_call *call; /* CHECKING: a stat; COMPARING: a download */
    int call_fd;               /* COMPARING: its own, for the content may be put away meanwhile */
    struct waiter telling;     /* TELLING */
    struct sending *sender;    /* SENDING */
    uint64_t compared;         /* COMPARING: bytes that were the same */
    struct version theirs;     /* COMPARING: the server's */
    uint64_t saved;            /* `written` of what the server has */
    uint64_t sending;          /* `written` of what is being sent */
    uint64_t sent_size;        /* largest that an upload without an answer may have left there */
    bool maybe_sent;           /* there was one... */
    bool sent_other;           /* ...of content that is not what is here now */
    bool told_unsent;          /* the journal says that no upload was begun */
    bool taken;                /* new here, but the name may not be free on the server: left by the
                                  mount before, or listed since */
    int64_t due_ms;            /* QUEUED, RETRY, FAILED: not before */
    int64_t hurried_ms;        /* when somebody last asked for it to be sent at once */
    unsigned tries;            /* failed uploads in a row */
    int error;                 /* of the last one */
    int64_t failed_ms;         /* when that was */
    struct waitq flushing;
};

struct store {
    struct loop *loop;
    struct session *session;
    struct store_options options;
    struct inode_table inodes;
    struct wakeup wakeup;
    struct shelf *shelf;     /* where content and journal are */
    char *directory;         /* its path */
    struct batch *running;   /* being made durable */
    struct batch *next;      /* to be */
    struct loop_timer begin; /* starts it */
    uint64_t batches, batches_done;
    uint64_t contents; /* the last number given */
    uint64_t compact_size;
    bool whole_due; /* the next batch writes the journal anew */
    bool open;      /* the journal was read, and is written */
    bool replaying, closing;
    struct intent *intents; /* of the mount before: renames whose outcome is not known */

    struct listing_state tree;   /* everything the file calls list, in one answer */
    struct listing_state hidden; /* what they leave out, by the helper */
    struct waitq hidden_settled; /* for those who can do without: it came, failed or takes long */
    bool no_tree;                /* this pool can't list recursively */
    bool hidden_patience_over;   /* plain directories wait no longer for `hidden` */
    struct loop_timer patience;
    struct loop_timer trim;
    int64_t stale_ms;   /* listings asked before this are no news */
    int64_t strange_ms; /* when a listing was asked that showed names come or gone by others' doing:
                           `hidden` may have changed as well */
    uint32_t epoch;     /* numbers listings for inode.seen */
    size_t hidden_names;
    int away; /* -errno while the pool does not answer */
    int64_t away_ms, away_until;
    int64_t listing_took_ms; /* the last one */
    unsigned listings;       /* under way */
    struct grave *graves;    /* while there are any */

    struct file *files;
    unsigned streams; /* downloads under way */
    struct readahead ahead;
    struct room *room, *own_room; /* own_room: or NULL, when it is shared */
    bool in_room;
    uint64_t cached_bytes;
    size_t cached_files;
    int64_t settled_ms;  /* until then requests of the mount before may still be carried out */
    struct file *outbox; /* dirty files that are kept, oldest first */
    unsigned sending;    /* CHECKING, COMPARING or SENDING */
    struct loop_timer pump;
    struct removals removals;
    struct waitq idle;    /* store_sync: woken when an upload ends, or all removals under way */
    unsigned changes;     /* under way */
    struct waitq changed; /* woken when a change ends */
    struct change *change_list;

    uint64_t generation;    /* of the session, as last seen */
    char *identity;         /* of the session, as the journal has it; NULL: not known */
    bool identity_heard;    /* from the session itself... */
    unsigned identity_asks; /* ...which was asked so often */
    bool deleted;           /* its next end is wanted */
    bool emptiness_told;    /* the session was asked whether it is another: a listing of nothing is
                               true */
    struct remake *remakes; /* directories and symlinks on their way back */
    struct session_call *info_call; /* asks for the session's etag and expiry */
    int64_t info_ms;                /* when that was asked last */
    struct timespec info_asked;     /* the same */
    uint64_t info_generation;       /* of the session, then */
    struct loop_timer touch;        /* keepalive */
    size_t conflicts, lost;

    struct session_space space;
    int64_t space_ms;
    struct session_call *space_call;
    struct waitq space_waiting;

    uint64_t downloads, downloads_ahead, uploads, refreshes, cache_hits;
};

bool version_same(const struct version *, const struct version *);

/* refresh.c */
void store_set_away(struct store *, int err);
/* Asks for the whole tree, if that is not under way: 0 or -ENOMEM. */
int store_ask_tree(struct store *);
void store_refresh_free(struct store *);
void store_dir_free(struct dir *);
/* When the news on the files of a directory were asked for; 0: never, or they are old. */
int64_t store_news_ms(const struct store *, const struct inode *dir);
/* Has the names of a directory listed, if that is not under way: true when an answer will come.
 * Not where the last was longer than `most`, or the helper would have to. */
bool store_ask_names(struct store *, struct inode *dir, size_t most);
bool store_names_awaited(struct store *, struct inode *dir);
/* Remembers that a name was taken away here. */
void store_bury(struct store *, const struct inode *dir, const char *name);

/* shelf.c: the directory of this session on disk, locked; it outlives the store while the helper
 * thread works there */
int shelf_open(const struct store_options *, const char *endpoint, const char *identifier,
               struct shelf **out, char **path, char **why);
struct shelf *shelf_ref(struct shelf *);
void shelf_unref(struct shelf *);
int shelf_dir(const struct shelf *);
int shelf_content(const struct shelf *);
struct journal **shelf_journal(struct shelf *);

/* room.c: the room that content takes */
void room_add(struct file *);
void room_remove(struct file *);
/* Moves it to the end of what is evicted first. */
void file_used(struct file *);
/* Tells the bytes it takes, when it shrank or is whole. */
void file_account(struct file *, uint64_t bytes);
/* It has a descriptor, or not any more. */
void room_took_place(struct file *, bool taken);
/* Makes room for it to have so many bytes more, and a descriptor: 0 or -ENOSPC. */
int room_make(struct file *, uint64_t more);
/* Takes more than the cache's size for it, but not beyond the disk's: 0 or -ENOSPC. */
int room_exceed(struct file *, uint64_t more);
/* A descriptor, for content that is there already: 0 or -EMFILE. */
int room_for_left(struct file *);
/* The descriptors of the store itself: 0 or -EMFILE. */
int room_open(struct store *);
void room_close(struct store *);
/* Frees a descriptor if there is one to be freed. */
bool room_spare_fd(const struct store *);
/* That the pool does not answer, or does again, is told once for all that share the room: whether
 * it is to be told now. */
bool room_tell_away(struct room *, bool away);

/* content.c: content on disk */
/* The inode's file, made where it has none. NULL when out of memory. */
struct file *file_get(struct store *, struct inode *);
void store_file_free(struct file *);
/* Gives it an empty place on disk: 0, -ENOSPC, -errno. */
int file_new_content(struct file *);
/* Room for it to reach `end` bytes: 0 or -ENOSPC. */
int file_reserve(struct file *, uint64_t end);
/* Back to ABSENT; a download ends. */
void file_drop(struct file *);
bool store_file_dirty(const struct inode *);
/* Whether there is such a file at or below the inode. */
bool store_dirty_below(struct store *, const struct inode *);

/* keep.c: the journal, and content that it names. Records are written in the order in which
 * they are told, by the helper thread, many at a time. */
/* Tells what is known of an inode, if anything need be. */
uint64_t store_note(struct store *, struct inode *);
/* Tells a change of names; the batch's number, for store_recorded(). `durable`: someone waits. */
uint64_t store_record(struct store *, enum record_type, const char *path, const char *other,
                      bool durable);
uint64_t store_record_left(struct store *, const char *path, const char *after,
                           const struct version *base);
uint64_t store_record_intent(struct store *, const char *path, const char *other, int how);
/* Waits until that batch is durable. */
int store_recorded(struct store *, struct waiter *, uint64_t batch);
/* Waits until it is in the journal, where the end of this process leaves it. */
int store_written(struct store *, struct waiter *, uint64_t batch);
/* One record, framed. */
int store_frame(struct buf *out, const struct record *);
/* Makes the file's content durable with the next batch: 0 or -errno. */
int file_keep(struct file *);
/* Has no name on disk any more once a record says so. */
void file_unname(struct file *);
/* It is freed: nothing under way tells of it. */
void file_keep_forget(struct file *);
void store_keep_init(struct store *);
void store_keep_free(struct store *);
/* Rewrites the journal from the tree, at once: at the start. */
int store_compact_now(struct store *);

/* recover.c: the tree that the journal tells of */
int store_replay(struct store *, char **why);
void store_recover_free(struct store *);

/* shed.c: what does not fit here as a whole is read in parts */
/* These bytes were read. */
void file_note_served(struct file *, uint64_t start, uint64_t end);
void file_forget_served(struct file *);
/* Drops so many bytes or more of it, as far as they can be fetched again and nobody waits for them:
 * of what was read, oldest first; with `unread` also of the rest. */
void file_shed(struct file *, uint64_t bytes, bool unread);

/* fetch.c: content from the server */
/* Ends the downloads and forgets which bytes are here. */
void file_stop_fetching(struct file *);
/* Nothing is lost or interrupted when its content goes. */
bool file_idle(const struct file *);
/* Begins to fetch all of an absent file, for nobody yet. */
int file_fetch_ahead(struct store *, struct inode *);
/* At hand, but of another version than the server's. */
bool file_outdated(const struct file *);
/* Fetches all of it: before it is changed, or its name goes while it is open. */
int store_file_whole(struct store *, struct waiter *, struct inode *);
/* The server's copy is another than `version` was: clean content is dropped. */
void store_file_outdated(struct store *, struct inode *);

/* send.c: content to the server */
/* It is kept: sends it, a moment later. */
void file_queue(struct file *);
/* Was changed or lost its name: what is under way for the old content ends. */
void file_unqueue(struct file *);
/* An upload that is under way ends now; the server may have got it. */
void file_cancel_upload(struct file *);
/* The upload goes on without the file, for a removal; NULL when there is none. */
struct sending *file_detach_upload(struct file *);
void sending_cancel(struct sending *);
void sending_for_removal(struct sending *, struct removal *);
/* Puts it in the queue as due now, whatever it failed with before. */
void file_hurry(struct file *);
/* The server has, as *now says, what is here. */
void file_saved(struct file *, uint64_t written, const struct version *now);
/* The way on from COMPARING and CHECKING. */
void file_failed(struct file *, int err, const char *message);
/* Sends what is due, and sees to it that the rest is when it is. */
void store_pump(struct store *);
void store_send_init(struct store *);
void store_send_free(struct store *);
/* Another try would end the same way until somebody changes something. */
bool store_is_refusal(int err);
/* How long to wait after that many failures in a row, in milliseconds. */
int64_t store_backoff_ms(unsigned tries);
/* Waits until nothing at or below the inode is being uploaded or removed; 0: none is, and none will
 * be if a change of it begins at once. */
int store_uploads_below(struct store *, struct waiter *, struct inode *);
/* What the server has under the names at and below the inode may be anything: nothing there is
 * taken for an upload of ours. */
void store_uploads_doubt(struct store *, const struct inode *);
/* The name is gone for good: nothing of it is sent any more. */
void store_file_orphaned(struct store *, struct inode *);
/* The pool did not answer a moment ago. */
bool store_pool_away(const struct store *);
/* The pool did not answer: nothing is tried for a moment. It did: all that waits is. */
void store_note_reach(struct store *, int err);

/* removal.c: names that the server still has and that are gone here */
/* Has dir/name deleted on the server once `after` (or NULL) is up and the upload there (or NULL;
 * taken over) is over; the batch's number. seen_ms: when the server last told that `base` is what
 * it has; 0: before it is deleted that is looked at. */
uint64_t store_remove_later(struct store *, struct inode *dir, const char *name,
                            const struct version *base, int64_t seen_ms, struct inode *after,
                            struct sending *);
void store_removal_sent(struct removal *);
/* A listing asked for then has that version, or NULL: no file, under its name. */
void store_removal_listed(struct removal *, const struct version *, int64_t asked_ms);
struct removal *store_removal(const struct store *, const struct inode *dir, const char *name);
/* The name gets a new file, in whose place the server then has the old one: its version. The
 * journal says so only with the file's content: until then a crash leaves the removal, which ends
 * unless it is begun. */
void store_removal_replace(struct store *, struct removal *, struct version *base);
/* The file may not be sent yet: what was there before it is being deleted. */
bool store_removal_in_way(struct store *, const struct file *);
/* Begins those that are due: when the next one is, in clock_ms(); INT64_MAX: none. */
int64_t store_removals_pump(struct store *);
/* True while there are some, or some failed before `since`; *err: what one failed with later. */
bool store_removals_left(struct store *, int64_t since, int *err);
bool store_removals_below(const struct store *, const struct inode *);
int store_removals_note(struct store *, struct buf *frames);
size_t store_removals_count(const struct store *);
void store_removals_free(struct store *);

/* conflict.c */
/* Someone else's version is on the server: ours gets a name of its own. */
void file_conflict(struct file *);

/* recycle.c: the session was replaced by an empty one */
void store_recycle_init(struct store *);
void store_recycle_free(struct store *);
/* Looks whether it was; before a listing is believed. */
void store_recycle_check(struct store *);
/* Asks for the session's etag and expiry. */
void store_ask_info(struct store *);
/* The session was used: asks when it expires now, if that was not asked for long. */
void store_note_use(struct store *);
/* The session answers, and exists now: asks again, should it not have been heard who it is. */
void store_ask_identity(struct store *);
/* For a journal that is written anew: which session it tells of. */
int store_identity_note(const struct store *, struct buf *frames);

/* change.c */
/* Whether a change of this name or one above it is under way. */
bool store_changing(const struct store *, const struct inode *);
void store_changes_free(struct store *);
/* The intents of changes under way, for a journal that is written anew. */
int store_changes_note(struct store *, struct buf *frames);

#endif
