#include "acafs/notify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

struct notice {
    struct notice *next;
    fuse_ino_t ino;
    char *name;       /* of an entry in that directory; NULL: the content of that inode */
    fuse_ino_t prune; /* not the entry's end: that inode, under that name, is to be forgotten */
    bool is_file;
};

/* What goes to the helper thread in one piece; owns everything it needs there. */
struct batch {
    struct batch *prev, *next;
    struct fuse_session *fuse;
    struct notice *notices;
    struct notifier *notifier; /* NULL: gone meanwhile */
};

struct notifier {
    struct volume *volume;
    struct notice *pending;
    struct batch *batches; /* under way */
    uint64_t sent, done;   /* batches */
    struct waitq waiting;
    struct loop_timer timer;
};

static void free_notices(struct notice *list)
{
    struct notice *n, *next;
    LL_FOREACH_SAFE (list, n, next) {
        free(n->name);
        free(n);
    }
}

/* FUSE_NOTIFY_PRUNE of Linux 6.18 leaves alone what is in use; libfuse does not know it yet. False:
 * neither does the kernel. */
static bool prune(struct fuse_session *fuse, fuse_ino_t ino)
{
    enum { NOTIFY_PRUNE = 9 };
    const struct {
        uint32_t len;
        int32_t code;
        uint64_t unique;
        uint32_t count, padding;
        uint64_t spare, ino;
    } message = {.len = sizeof message, .code = NOTIFY_PRUNE, .count = 1, .ino = ino};
    return write(fuse_session_fd(fuse), &message, sizeof message) >= 0 || errno != EINVAL;
}

static int send_batch(void *arg)
{
    struct batch *b = arg;
    struct notice *n;
    bool can_prune = true;
    LL_FOREACH (b->notices, n) {
        if (n->prune && can_prune)
            can_prune = prune(b->fuse, n->prune);
        /* Without it the entry of a file can go; a directory may be the one that somebody is in. */
        if (n->prune && (can_prune || !n->is_file))
            continue;
        if (n->name)
            fuse_lowlevel_notify_inval_entry(b->fuse, n->ino, n->name, strlen(n->name));
        else
            fuse_lowlevel_notify_inval_inode(b->fuse, n->ino, 0, 0);
    }
    return 0;
}

static void batch_sent(void *arg, int result)
{
    struct batch *b = arg;
    struct notifier *n = b->notifier;
    free_notices(b->notices);
    if (n) {
        DL_DELETE(n->batches, b);
        n->done++;
        waitq_wake(&n->volume->wakeup, &n->waiting, 0);
    }
    free(b);
}

static int send_pending(struct notifier *n)
{
    struct batch *b = calloc(1, sizeof *b);
    if (!b)
        return -ENOMEM;
    *b = (struct batch){.fuse = n->volume->fuse, .notices = n->pending, .notifier = n};
    int err = loop_work(n->volume->loop, send_batch, batch_sent, b);
    if (err) {
        free(b);
        return err;
    }
    DL_APPEND(n->batches, b);
    n->pending = NULL;
    n->sent++;
    return 0;
}

static void timer_fired(void *arg)
{
    struct notifier *n = arg;
    if (n->pending)
        send_pending(n);
}

static struct notice *add(const struct mount *m, uint64_t id, const char *name)
{
    struct notifier *n = m->volume->notifier;
    bool wanted = n->volume->fuse && !n->volume->ending;
    struct notice *notice = wanted ? calloc(1, sizeof *notice) : NULL;
    if (!notice || (name && !(notice->name = strdup(name)))) {
        free(notice);
        return NULL;
    }
    notice->ino = mount_ino(m, id);
    LL_PREPEND(n->pending, notice);
    loop_timer_set(&n->timer, 0);
    return notice;
}

static void entry_changed(void *arg, struct inode *dir, const char *name)
{
    add(arg, dir->id, name);
}

static void content_changed(void *arg, struct inode *inode)
{
    add(arg, inode->id, NULL);
}

/* Waits for no lock of the kernel's, so it is sent from here. */
static void attributes_changed(void *arg, struct inode *inode)
{
    const struct mount *m = arg;
    const struct volume *v = m->volume;
    if (v->fuse && !v->ending)
        fuse_lowlevel_notify_inval_inode(v->fuse, mount_ino(m, inode->id), -1, 0);
}

struct store_events notifier_events(struct mount *m)
{
    return (struct store_events){.entry = entry_changed,
                                 .content = content_changed,
                                 .attributes = attributes_changed,
                                 .arg = m};
}

void notifier_entry(const struct mount *m, uint64_t dir_id, const char *name)
{
    add(m, dir_id, name);
}

/* Directories come before what is in them, mostly, and notices are sent last first. */
void notifier_prune(struct mount *m)
{
    const struct inode *inode;
    for (size_t at = 0; (inode = inode_next(store_inodes(m->store), &at));) {
        if (!inode->nlookup || !inode->parent)
            continue;
        struct notice *notice = add(m, inode->parent->id, inode->name);
        if (notice) {
            notice->prune = mount_ino(m, inode->id);
            notice->is_file = !S_ISDIR(inode->mode);
        }
    }
}

int notifier_flush(struct notifier *n, struct waiter *w, uint64_t *ticket)
{
    int err = !*ticket && n->pending ? send_pending(n) : 0;
    if (err)
        return err;
    if (!*ticket)
        *ticket = n->sent;
    if (n->done >= *ticket)
        return 0;
    waitq_park(&n->waiting, w);
    return STORE_WAIT;
}

struct notifier *notifier_new(struct volume *v)
{
    struct notifier *n = calloc(1, sizeof *n);
    if (!n)
        return NULL;
    n->volume = v;
    loop_timer_init(&n->timer, v->loop, timer_fired, n);
    return n;
}

void notifier_free(struct notifier *n)
{
    if (!n)
        return;
    struct batch *b;
    DL_FOREACH (n->batches, b) {
        b->notifier = NULL;
    }
    loop_timer_stop(&n->timer);
    free_notices(n->pending);
    free(n);
}
