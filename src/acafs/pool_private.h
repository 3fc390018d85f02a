/* What the files of the pool share: pool.c (the table of sessions), pool_names.c (what the pool
 * tells of them, and is told), pool_open.c (opened and closed), pool_keep.c (kept from expiring).
 */
#ifndef ACAFS_ACAFS_POOL_PRIVATE_H
#define ACAFS_ACAFS_POOL_PRIVATE_H

#include "acafs/pool.h"

enum { ASK_AGAIN_MS = 60000 /* a pool that did not tell what it has */ };

struct grave;
struct inquiry;
struct ping;

/* What asking for a session that there is not does, on this pool. */
enum asking { ASKING_UNKNOWN, ASKING_HARMLESS, ASKING_MAKES_ONE };

struct pool {
    struct volume *volume;
    struct mount root;
    /* pool.c */
    struct member *by_name;
    struct member **slots; /* by slot; NULL: free */
    uint32_t slot_count, first_free;
    /* pool_names.c */
    struct inquiry *inquiries;
    struct session_call *listing;
    struct waitq listed;
    int64_t asked_ms;  /* of the list under way */
    int64_t listed_ms; /* when the one that was last answered was asked; 0: none */
    int64_t mute_ms;   /* when the pool last said that it does not tell; 0: it does */
    uint32_t epoch;    /* of the list that was last taken */
    size_t hidden;
    int away;
    char *trouble;
    struct grave *graves; /* while a list is under way */
    int64_t missed_ms;    /* when the kernel was last told that there is no such name */
    enum asking asking;
    struct session_call *probing;
    struct waitq probed;
    char probe[37]; /* an identifier that nobody has */
    /* pool_open.c */
    struct waitq closed; /* a session that was deleted */
    char *marks;         /* open_mark.h */
    struct loop_timer idle;
    unsigned open_count;
    bool moved;  /* sessions were opened or closed since it last ran */
    bool resume; /* there are some to be resumed */
    /* pool_keep.c */
    struct loop_timer keep;
    struct ping *pings;
};

/* --- pool.c */
struct member *pool_find(const struct pool *, const char *name);
/* The member of that name, made when there is none; NULL: out of memory or slots. */
struct member *pool_get(struct pool *, const char *name);
/* Forgets a member that nobody needs to know. */
void pool_drop_unused(struct pool *, struct member *);

/* --- pool_names.c */
/* Whether it is being made or removed. */
bool pool_asked_about(const struct pool *, const struct member *);
void pool_ask_list(struct pool *);
/* Once the first list came: says so where the pool does not tell. */
void pool_names_begin(struct pool *);
/* Whoever waits is told that it ends. */
void pool_names_free(struct pool *);

/* --- pool_open.c */
int pool_open_init(struct pool *);
/* Has those opened that a mount before did not close. */
void pool_resume(struct pool *);
/* Closes those that were deleted, as soon as nothing of theirs is being written; true: one of that
 * name (NULL: any) later. */
bool pool_close_gone(struct pool *, const char *name);
/* Looks at once what may be closed. */
void pool_look_idle(struct pool *);
void pool_open_free(struct pool *);

/* --- pool_keep.c */
void pool_keep_init(struct pool *);
/* It is closed, and its expiry was known to be then (tv_nsec -1: not): kept on, if that is wanted.
 */
void pool_keep(struct pool *, struct member *, const struct timespec *expires);
/* It is being deleted. */
void pool_keep_stop(struct member *);
void pool_keep_free(struct pool *);

#endif
