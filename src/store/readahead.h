/* Read-ahead across files: whoever opens the files of a directory one after another, in the order
 * of its listing or of their names, gets the next ones fetched meanwhile, in parallel, more of
 * them the longer it goes on. When the pattern breaks, what is still on its way is given up. */
#ifndef ACAFS_STORE_READAHEAD_H
#define ACAFS_STORE_READAHEAD_H

#include <stdbool.h>
#include <stdint.h>

struct store;
struct inode;

enum {
    READAHEAD_RUNS = 4,  /* directories that are watched at once */
    READAHEAD_NEXT = 64, /* siblings that are planned for */
    READAHEAD_STEPS = 3, /* files read in order that make a pattern, or not that break it */
};

/* Somebody's way through one directory. Files are told by their inode ids; 0: none. */
struct run {
    uint64_t dir;
    uint64_t recent[READAHEAD_STEPS]; /* the files read last, the newest first */
    uint64_t next[READAHEAD_NEXT];    /* what is expected to follow; 0: was read already */
    unsigned planned;                 /* entries of `next`; 0: no pattern yet */
    unsigned begun;                   /* up to there they were fetched, if need be */
    unsigned window;                  /* how many are to be fetched ahead */
    unsigned missed;                  /* files read since that were not expected */
    bool by_name;                     /* in the order of names, else of the listing */
    uint64_t used;                    /* when, in readahead.uses */
};

struct readahead {
    struct run runs[READAHEAD_RUNS];
    uint64_t last; /* the file that was noted last */
    uint64_t uses;
    unsigned streams; /* under way for nobody yet */
};

/* This file is being read. */
void readahead_note(struct store *, struct inode *);
/* A download ended: there is a place for another. */
void readahead_go_on(struct store *);
/* A download that somebody waits for needs a place. */
void readahead_give_way(struct store *);

#endif
