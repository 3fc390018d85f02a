/* Somebody else changed a file on the server that was changed here as well: theirs keeps the
 * name, ours goes up as NAME.conflict-TIME. */
#include "store/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "store/fault.h"
#include "util/cleanup.h"
#include "util/log.h"

enum { NAME_LIMIT = 255 };

/* As much of the name as leaves room for the tail, cut between characters. */
static size_t room_for(const char *name, size_t tail)
{
    size_t len = strlen(name);
    if (len + tail <= NAME_LIMIT)
        return len;
    len = NAME_LIMIT - tail;
    while (len && ((unsigned char)name[len] & 0xc0) == 0x80)
        len--;
    return len;
}

static void conflict_name(const struct inode *inode, char out[NAME_LIMIT + 1])
{
    char time_text[20], tail[48];
    struct tm tm;
    time_t now = time(NULL);
    gmtime_r(&now, &tm);
    strftime(time_text, sizeof time_text, "%Y%m%dT%H%M%SZ", &tm);
    for (unsigned n = 1;; n++) {
        if (n == 1)
            snprintf(tail, sizeof tail, ".conflict-%s", time_text);
        else
            snprintf(tail, sizeof tail, ".conflict-%s-%u", time_text, n);
        snprintf(out, NAME_LIMIT + 1, "%.*s%s", (int)room_for(inode->name, strlen(tail)),
                 inode->name, tail);
        if (!inode_child(inode->parent, out))
            return;
    }
}

static void tell_kernel(struct store *s, struct inode *dir, const char *name)
{
    if (s->options.events.entry)
        s->options.events.entry(s->options.events.arg, dir, name);
}

/* Their file takes the name in the tree; its attributes are the next listing's business. */
static void put_theirs(struct file *f, struct inode *dir, const char *name)
{
    struct store *s = f->store;
    struct inode *theirs = inode_add(&s->inodes, dir, name, S_IFREG | (0666 & ~s->inodes.umask));
    if (!theirs)
        return;
    theirs->on_server = true;
    theirs->base = f->theirs;
    theirs->size = f->theirs.size;
    if (f->theirs.mtime.tv_nsec >= 0)
        theirs->mtime = f->theirs.mtime;
    else
        clock_gettime(CLOCK_REALTIME, &theirs->mtime);
    theirs->atime = theirs->ctime = theirs->mtime;
}

void file_conflict(struct file *f)
{
    struct store *s = f->store;
    struct inode *inode = f->inode, *dir = inode->parent;
    char name[NAME_LIMIT + 1];
    _cleanup_buf_ struct buf old_path = {0}, new_path = {0};
    conflict_name(inode, name);
    _cleanup_free_ char *old_name = strdup(inode->name);
    if (!old_name || !inode_path(inode, &old_path) || !inode_child_path(dir, name, &new_path) ||
        inode_move(&s->inodes, inode, dir, name)) {
        file_failed(f, -ENOMEM, NULL);
        return;
    }
    fault_point("conflict-renamed");
    log_warning("%s: changed on the server and here: the server's stays, yours is now %s",
                old_path.data, new_path.data);
    s->conflicts++;
    inode->on_server = false;
    inode->base = (struct version){.size = -1, .mtime = {.tv_nsec = -1}};
    f->maybe_sent = f->sent_other = f->taken = false;
    f->sent_size = 0;
    store_record(s, RECORD_MOVE, old_path.data, new_path.data, true);
    store_note(s, inode);
    put_theirs(f, dir, old_name);
    tell_kernel(s, dir, old_name);
    tell_kernel(s, dir, name);
    file_unqueue(f);
    file_queue(f);
}
