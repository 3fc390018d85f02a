#include "store/extents.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The first extent that ends at or behind `at`. */
static size_t find(const struct extents *e, uint64_t at)
{
    size_t low = 0, high = e->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (e->list[middle].end < at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int insert(struct extents *e, size_t slot, uint64_t start, uint64_t end)
{
    struct extent *list = realloc(e->list, (e->count + 1) * sizeof *list);
    if (!list)
        return -ENOMEM;
    e->list = list;
    memmove(list + slot + 1, list + slot, (e->count - slot) * sizeof *list);
    list[slot] = (struct extent){start, end};
    e->count++;
    return 0;
}

int extents_add(struct extents *e, uint64_t start, uint64_t end)
{
    if (start >= end)
        return 0;
    size_t slot = find(e, start);
    if (slot == e->count || e->list[slot].start > end)
        return insert(e, slot, start, end);
    struct extent *into = &e->list[slot];
    if (start < into->start)
        into->start = start;
    if (end <= into->end)
        return 0;
    into->end = end;
    size_t last = slot + 1; /* behind those that it reaches by now */
    while (last < e->count && e->list[last].start <= end)
        last++;
    if (e->list[last - 1].end > into->end)
        into->end = e->list[last - 1].end;
    memmove(into + 1, e->list + last, (e->count - last) * sizeof *into);
    e->count -= last - slot - 1;
    return 0;
}

uint64_t extents_remove(struct extents *e, uint64_t start, uint64_t end)
{
    uint64_t gone = 0;
    size_t slot = find(e, start + 1), left;
    if (start >= end)
        return 0;
    if (slot < e->count && e->list[slot].start < start) {
        struct extent *cut = &e->list[slot++];
        if (cut->end > end && insert(e, slot, end, cut->end))
            return 0;
        cut = &e->list[slot - 1];
        gone += (cut->end < end ? cut->end : end) - start;
        cut->end = start;
    }
    for (left = slot; left < e->count && e->list[left].end <= end; left++)
        gone += e->list[left].end - e->list[left].start;
    memmove(e->list + slot, e->list + left, (e->count - left) * sizeof *e->list);
    e->count -= left - slot;
    if (slot < e->count && e->list[slot].start < end) {
        gone += end - e->list[slot].start;
        e->list[slot].start = end;
    }
    return gone;
}

static bool holds(const struct extents *e, size_t slot, uint64_t at)
{
    return slot < e->count && e->list[slot].start <= at && at < e->list[slot].end;
}

uint64_t extents_end(const struct extents *e, uint64_t at)
{
    size_t slot = find(e, at + 1);
    return holds(e, slot, at) ? e->list[slot].end : at;
}

uint64_t extents_start(const struct extents *e, uint64_t at)
{
    if (at == 0)
        return 0;
    size_t slot = find(e, at);
    return holds(e, slot, at - 1) ? e->list[slot].start : at;
}

uint64_t extents_next(const struct extents *e, uint64_t at)
{
    size_t slot = find(e, at);
    if (slot < e->count && e->list[slot].end == at)
        slot++;
    return slot == e->count ? UINT64_MAX : e->list[slot].start > at ? e->list[slot].start : at;
}

void extents_clear(struct extents *e)
{
    free(e->list);
    *e = (struct extents){0};
}
