#include "acafs/link_target.h"

#include <errno.h>
#include <string.h>

static const char root[] = "/mnt/data"; /* in the session */

/* Directories from the session's top to the one that holds it. */
static unsigned depth_of(const struct inode *inode)
{
    unsigned depth = 0;
    for (const struct inode *dir = inode->parent; dir && dir->parent; dir = dir->parent)
        depth++;
    return depth;
}

/* The part after ".." and slashes, where the target begins with that; else NULL. */
static const char *after_up(const char *target)
{
    if (strncmp(target, "..", 2) != 0 || (target[2] && target[2] != '/'))
        return NULL;
    return target + 2 + strspn(target + 2, "/");
}

static bool goes_up(const char *path)
{
    while (*path) {
        if (after_up(path))
            return true;
        path += strcspn(path, "/");
        path += strspn(path, "/");
    }
    return false;
}

static int below_root(const struct inode *inode, struct buf *out)
{
    const char *rest = inode->target + sizeof root - 1;
    rest += strspn(rest, "/");
    if (goes_up(rest))
        return -EPERM;
    int err = 0;
    unsigned depth = depth_of(inode);
    for (unsigned i = 0; i < depth && !err; i++)
        err = buf_adds(out, i + 1 < depth || *rest ? "../" : "..");
    return err ? err : buf_adds(out, *rest || depth ? rest : ".");
}

int link_target(const struct inode *inode, struct buf *out)
{
    const char *target = inode->target ? inode->target : "", *rest = target, *next;
    size_t len = sizeof root - 1;
    if (inode->own_target)
        return buf_adds(out, target);
    if (strncmp(target, root, len) == 0 && (!target[len] || target[len] == '/'))
        return below_root(inode, out);
    for (unsigned left = depth_of(inode); (next = after_up(rest)); rest = next) {
        if (left-- == 0)
            return -EPERM;
    }
    return *target == '/' || goes_up(rest) ? -EPERM : buf_adds(out, target);
}
