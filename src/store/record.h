/* What the store's journal says, one record a change, each a plain fact that stands whatever the
 * others say. Reading them in order builds the tree that was:
 *
 *     NODE path, facts   what is known of a name; in place of all that was known of it
 *     GONE path          the name is gone, with all below it
 *     MOVE path, other   what is said of `path` and below is so of `other`, whose own is gone
 *     SWAP path, other   the two exchange what is said of them
 *     LEFT path, other   the server still has `path`, which is to be deleted there once what is
 *                        at `other` ("": nothing) is up; facts.base is the version to delete
 *     DONE path          no more; so says a NODE of that path with content, and a MOVE to it
 *     INTENT path, other a rename, or `how`, of these two is about to be asked of the server
 *     SETTLED            it was answered, and recorded if it was made
 *     SESSION identity   of all that is told; "": not known
 *
 * Paths are relative to the session's root; `identity` is in the place of one. Pure: memory to
 * memory. */
#ifndef ACAFS_STORE_RECORD_H
#define ACAFS_STORE_RECORD_H

#include "store/inode.h"

enum record_type {
    RECORD_NODE = 1,
    RECORD_GONE,
    RECORD_MOVE,
    RECORD_SWAP,
    RECORD_LEFT,
    RECORD_DONE,
    RECORD_INTENT,
    RECORD_SETTLED,
    RECORD_SESSION,
    RECORD_TYPES
};

/* Flags of a NODE's facts. */
enum {
    NODE_ON_SERVER = 1,
    NODE_OWN_MODE = 2,
    NODE_OWN_OWNER = 4,
    NODE_UNSENT = 8, /* `content`: no upload of it was begun yet */
    NODE_FLAGS = 15,
};

struct node_facts {
    uint32_t flags;
    uint32_t mode, uid, gid;
    uint64_t content; /* the number of its file in content/; 0: none */
    int64_t size;
    struct timespec mtime, atime, ctime;
    struct version base;
    uint64_t sent; /* so much other content of ours may have come there since; 0: none */
};

struct record {
    enum record_type type;
    const char *path, *other; /* "" where it has none */
    uint32_t how;             /* INTENT: enum session_rename */
    struct node_facts facts;  /* NODE, LEFT */
};

/* The body as journal_frame() takes it: 0 or -ENOMEM. */
int record_write(struct buf *out, const struct record *);
/* The strings point into the body. 0 or -EPROTO. */
int record_read(const void *body, size_t len, struct record *out);

#endif
