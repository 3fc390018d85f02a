/* Files that the cache has no room for as a whole, read in parts. What was read goes first, in the
 * order in which it was read: who reads on, or here and there, mostly does not come back, and what
 * does is fetched again. */
#include "store/internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

enum {
    SHED_LEAST = 256 << 10, /* at once */
    BLOCK = 4096,           /* of the disk */
    SERVED_MAX = 512,       /* pieces remembered; what was read earlier counts as unread */
    SERVED_NEAR = 8,        /* readers at once whose pieces grow */
};

void file_forget_served(struct file *f)
{
    extents_clear(&f->given);
}

static void remove_served(struct extents *served, size_t slot)
{
    memmove(served->list + slot, served->list + slot + 1,
            (served->count - slot - 1) * sizeof *served->list);
    served->count--;
}

void file_note_served(struct file *f, uint64_t start, uint64_t end)
{
    struct extents *served = &f->given;
    size_t first = served->count > SERVED_NEAR ? served->count - SERVED_NEAR : 0;
    for (size_t i = served->count; i-- > first;) {
        struct extent *e = &served->list[i];
        if (e->start <= start && start <= e->end) {
            e->end = end > e->end ? end : e->end;
            return;
        }
    }
    if (start == end)
        return;
    if (served->count == SERVED_MAX)
        remove_served(served, 0);
    struct extent *list = realloc(served->list, (served->count + 1) * sizeof *list);
    if (!list)
        return; /* it counts as unread */
    served->list = list;
    list[served->count++] = (struct extent){start, end};
}

/* Whether somebody waits for bytes of [start, end); *start is moved behind them, or *end before. */
static bool is_needed(const struct file *f, uint64_t *start, uint64_t *end)
{
    const struct stream *st;
    DL_FOREACH (f->streams, st) {
        if (st->need.start >= *end || st->need.end <= *start)
            continue;
        if (st->need.start > *start)
            *end = st->need.start;
        else
            *start = st->need.end < *end ? st->need.end : *end;
    }
    return *start >= *end;
}

/* Whole blocks are given back where what is beside it in them went before. */
static void punch(const struct file *f, uint64_t start, uint64_t end)
{
    uint64_t down = start / BLOCK * BLOCK, up = (end + BLOCK - 1) / BLOCK * BLOCK;
    if (extents_next(&f->have, down) >= start)
        start = down;
    if (extents_next(&f->have, end) >= up)
        end = up;
    fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start,
              (off_t)(end - start));
}

static uint64_t drop_part(struct file *f, uint64_t start, uint64_t end)
{
    uint64_t gone = extents_remove(&f->have, start, end);
    if (!gone)
        return 0;
    punch(f, start, end);
    file_account(f, f->bytes > gone ? f->bytes - gone : 0);
    return gone;
}

/* Drops up to `most` bytes of the beginning of a piece. */
static uint64_t drop_some(struct file *f, struct extent piece, uint64_t most)
{
    if (is_needed(f, &piece.start, &piece.end))
        return 0;
    if (piece.end - piece.start > most)
        piece.end = piece.start + most;
    return drop_part(f, piece.start, piece.end);
}

static uint64_t shed_served(struct file *f, uint64_t bytes)
{
    struct extents *served = &f->given;
    uint64_t gone = 0;
    for (size_t i = 0; i < served->count && gone < bytes;) {
        struct extent *e = &served->list[i];
        gone += drop_some(f, *e, bytes - gone);
        e->start = extents_next(&f->have, e->start);
        if (e->start >= e->end)
            remove_served(served, i);
        else
            i++; /* somebody waits for some of it */
    }
    return gone;
}

static uint64_t shed_unread(struct file *f, uint64_t bytes)
{
    uint64_t gone = 0;
    for (size_t i = f->have.count; i-- > 0 && gone < bytes;)
        gone += drop_some(f, f->have.list[i], bytes - gone);
    return gone;
}

void file_shed(struct file *f, uint64_t bytes, bool unread)
{
    if (!bytes || f->state != FILE_FILLING || f->all_wanted ||
        session_ranges(f->store->session) == 0)
        return;
    uint64_t most = bytes > SHED_LEAST ? bytes : SHED_LEAST;
    uint64_t gone = shed_served(f, most);
    if (unread && gone < bytes)
        shed_unread(f, most - gone);
}
