#include "store/inode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct inode *new_inode(struct inode_table *t, const char *name, mode_t mode)
{
    struct inode *inode = calloc(1, sizeof *inode);
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
    HASH_ADD(by_id, t->by_id, id, sizeof inode->id, inode);
    t->count++;
    return inode;
}

static void free_inode(struct inode_table *t, struct inode *inode)
{
    if (t->release)
        t->release(t->release_arg, inode);
    if (S_ISLNK(inode->mode))
        free(inode->target);
    HASH_DELETE(by_id, t->by_id, inode);
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
    struct inode *inode, *next;
    HASH_ITER (by_id, t->by_id, inode, next) {
        HASH_CLEAR(by_name, inode->children);
    }
    HASH_ITER (by_id, t->by_id, inode, next) {
        free_inode(t, inode);
    }
    *t = (struct inode_table){0};
}

struct inode *inode_find(struct inode_table *t, uint64_t id)
{
    struct inode *inode;
    HASH_FIND(by_id, t->by_id, &id, sizeof id, inode);
    return inode;
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
