#include "store/inode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS_FIRST = 64 };

/* --- by id: ids are given one after another, so few meet in one slot */

static size_t find_slot(const struct inode_table *t, uint64_t id)
{
    size_t slot = id & (t->slot_count - 1);
    while (t->slots[slot] && t->slots[slot]->id != id)
        slot = (slot + 1) & (t->slot_count - 1);
    return slot;
}

static int make_slots(struct inode_table *t)
{
    if (8 * (t->count + 1) <= 7 * t->slot_count)
        return 0;
    struct inode_table larger = {.slot_count = t->slot_count ? 2 * t->slot_count : SLOTS_FIRST};
    larger.slots = calloc(larger.slot_count, sizeof *larger.slots);
    if (!larger.slots)
        return -ENOMEM;
    struct inode *inode;
    for (size_t at = 0; (inode = inode_next(t, &at));)
        larger.slots[find_slot(&larger, inode->id)] = inode;
    free(t->slots);
    t->slots = larger.slots;
    t->slot_count = larger.slot_count;
    return 0;
}

static void empty_slot(struct inode_table *t, uint64_t id)
{
    size_t hole = find_slot(t, id), mask = t->slot_count - 1;
    t->slots[hole] = NULL;
    /* Those behind it that were pushed on by it move up. */
    for (size_t slot = (hole + 1) & mask; t->slots[slot]; slot = (slot + 1) & mask) {
        struct inode *inode = t->slots[slot];
        size_t home = inode->id & mask;
        if (((slot - home) & mask) < ((slot - hole) & mask))
            continue;
        t->slots[hole] = inode;
        t->slots[slot] = NULL;
        hole = slot;
    }
}

struct inode *inode_next(const struct inode_table *t, size_t *at)
{
    while (*at < t->slot_count)
        if (t->slots[(*at)++])
            return t->slots[*at - 1];
    return NULL;
}

struct inode *inode_find(struct inode_table *t, uint64_t id)
{
    return t->slots[find_slot(t, id)];
}

/* --- lives */

static struct inode *new_inode(struct inode_table *t, const char *name, mode_t mode)
{
    struct inode *inode = make_slots(t) ? NULL : calloc(1, sizeof *inode);
    if (!inode)
        return NULL;
    inode->name = strdup(name);
    if (!inode->name) {
        free(inode);
        return NULL;
    }
    inode->id = t->next_id++;
    inode->mode = mode;
    inode->uid = t->uid;
    inode->gid = t->gid;
    inode->base = (struct version){.size = -1, .mtime = {.tv_nsec = -1}};
    t->slots[find_slot(t, inode->id)] = inode;
    t->count++;
    return inode;
}

static void free_inode(struct inode_table *t, struct inode *inode)
{
    if (t->release)
        t->release(t->release_arg, inode);
    if (S_ISLNK(inode->mode))
        free(inode->target);
    empty_slot(t, inode->id);
    t->count--;
    free(inode->name);
    free(inode);
}

static bool in_use(const struct inode_table *t, const struct inode *inode)
{
    return inode == t->root || inode->parent || inode->nlookup || inode->pins || inode->children;
}

static void free_if_unused(struct inode_table *t, struct inode *inode)
{
    if (!in_use(t, inode))
        free_inode(t, inode);
}

int inode_table_init(struct inode_table *t, uid_t uid, gid_t gid, mode_t umask)
{
    *t = (struct inode_table){
        .next_id = INODE_ROOT_ID, .clock = 1, .uid = uid, .gid = gid, .umask = umask};
    t->root = new_inode(t, "", S_IFDIR | (0777 & ~umask));
    if (!t->root)
        return -ENOMEM;
    t->root->on_server = true;
    clock_gettime(CLOCK_REALTIME, &t->root->mtime);
    t->root->atime = t->root->ctime = t->root->mtime;
    return 0;
}

void inode_table_free(struct inode_table *t)
{
    struct inode *inode;
    for (size_t at = 0; (inode = inode_next(t, &at));)
        HASH_CLEAR(by_name, inode->children);
    for (size_t slot = 0; slot < t->slot_count; slot++) {
        while (t->slots[slot]) /* another may move up */
            free_inode(t, t->slots[slot]);
    }
    free(t->slots);
    *t = (struct inode_table){0};
}

struct inode *inode_child(const struct inode *dir, const char *name)
{
    struct inode *child;
    HASH_FIND(by_name, dir->children, name, strlen(name), child);
    return child;
}

static void attach(struct inode *dir, struct inode *inode)
{
    inode->parent = dir;
    HASH_ADD_KEYPTR(by_name, dir->children, inode->name, strlen(inode->name), inode);
}

static void detach(struct inode *inode)
{
    HASH_DELETE(by_name, inode->parent->children, inode);
    inode->parent = NULL;
}

struct inode *inode_add(struct inode_table *t, struct inode *dir, const char *name, mode_t mode)
{
    struct inode *inode = new_inode(t, name, mode);
    if (inode)
        attach(dir, inode);
    return inode;
}

void inode_remove(struct inode_table *t, struct inode *inode)
{
    /* Depth first without recursion: a hostile listing may be deep. */
    struct inode *top = inode;
    while (inode->children || inode != top) {
        if (inode->children) {
            inode = inode->children;
            continue;
        }
        struct inode *parent = inode->parent;
        detach(inode);
        free_if_unused(t, inode);
        inode = parent;
    }
    detach(top);
    free_if_unused(t, top);
}

int inode_move(struct inode_table *t, struct inode *inode, struct inode *dir, const char *name)
{
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    detach(inode);
    free(inode->name);
    inode->name = copy;
    attach(dir, inode);
    inode_touch(t, inode);
    return 0;
}

int inode_swap(struct inode_table *t, struct inode *a, struct inode *b)
{
    struct inode *a_dir = a->parent, *b_dir = b->parent;
    char *a_name = a->name;
    detach(a);
    detach(b);
    a->name = b->name;
    b->name = a_name;
    attach(b_dir, a);
    attach(a_dir, b);
    inode_touch(t, a);
    inode_touch(t, b);
    return 0;
}

bool inode_below(const struct inode *inode, const struct inode *dir)
{
    while (inode && inode != dir)
        inode = inode->parent;
    return inode == dir;
}

bool inode_in_use(const struct inode_table *t)
{
    const struct inode *inode;
    for (size_t at = 0; (inode = inode_next(t, &at));) {
        if (inode != t->root && (inode->nlookup || inode->pins))
            return true;
    }
    return false;
}

void inode_looked_up(struct inode *inode)
{
    inode->nlookup++;
}

void inode_forget(struct inode_table *t, struct inode *inode, uint64_t count)
{
    inode->nlookup -= count < inode->nlookup ? count : inode->nlookup;
    free_if_unused(t, inode);
}

void inode_pin(struct inode *inode)
{
    inode->pins++;
}

void inode_unpin(struct inode_table *t, struct inode *inode)
{
    inode->pins--;
    free_if_unused(t, inode);
}

bool inode_path(const struct inode *inode, struct buf *out)
{
    size_t len = 0;
    const struct inode *i;
    for (i = inode; i->parent; i = i->parent)
        len += strlen(i->name) + 1;
    if (i->id != INODE_ROOT_ID || buf_reserve(out, len))
        return false;
    if (len == 0)
        return true;
    char *end = out->data + out->len + len - 1;
    out->len += len - 1;
    *end = '\0';
    for (i = inode; i->parent; i = i->parent) {
        size_t n = strlen(i->name);
        end -= n;
        memcpy(end, i->name, n);
        if (i->parent->parent)
            *--end = '/';
    }
    return true;
}

bool inode_child_path(const struct inode *dir, const char *name, struct buf *out)
{
    if (!inode_path(dir, out))
        return false;
    return (!dir->parent || buf_adds(out, "/") == 0) && buf_adds(out, name) == 0;
}

void inode_touch(struct inode_table *t, struct inode *inode)
{
    inode->changed = ++t->clock;
}
