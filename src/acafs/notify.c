#include "acafs/notify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

struct notice {
    struct notice *next;
    uint64_t id;
    char *name; /* of an entry in directory id; NULL: the content of inode id */
};

/* What goes to the helper thread in one piece; owns everything it needs. */
struct batch {
    struct fuse_session *fuse;
    struct notice *notices;
    void (*done)(void *arg);
    void *arg;
};

struct notifier {
    struct mount *mount;
    struct notice *pending;
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

static int send_batch(void *arg)
{
    struct batch *b = arg;
    struct notice *n;
    LL_FOREACH (b->notices, n) {
        if (n->name)
            fuse_lowlevel_notify_inval_entry(b->fuse, n->id, n->name, strlen(n->name));
        else
            fuse_lowlevel_notify_inval_inode(b->fuse, n->id, 0, 0);
    }
    return 0;
}

static void batch_sent(void *arg, int result)
{
    struct batch *b = arg;
    free_notices(b->notices);
    if (b->done)
        b->done(b->arg);
    free(b);
}

static int send_pending(struct notifier *n, void (*done)(void *arg), void *arg)
{
    struct batch *b = calloc(1, sizeof *b);
    if (!b)
        return -ENOMEM;
    *b = (struct batch){.fuse = n->mount->fuse, .notices = n->pending, .done = done, .arg = arg};
    int err = loop_work(n->mount->loop, send_batch, batch_sent, b);
    if (err)
        free(b);
    else
        n->pending = NULL;
    return err;
}

static void timer_fired(void *arg)
{
    struct notifier *n = arg;
    if (n->pending)
        send_pending(n, NULL, NULL);
}

static void add(struct notifier *n, uint64_t id, const char *name)
{
    bool wanted = n->mount->fuse && !n->mount->ending;
    struct notice *notice = wanted ? calloc(1, sizeof *notice) : NULL;
    if (!notice || (name && !(notice->name = strdup(name)))) {
        free(notice);
        return;
    }
    notice->id = id;
    LL_PREPEND(n->pending, notice);
    loop_timer_set(&n->timer, 0);
}

static void entry_changed(void *arg, struct inode *dir, const char *name)
{
    add(arg, dir->id, name);
}

static void content_changed(void *arg, struct inode *inode)
{
    add(arg, inode->id, NULL);
}

struct store_events notifier_events(struct notifier *n)
{
    return (struct store_events){.entry = entry_changed, .content = content_changed, .arg = n};
}

int notifier_barrier(struct notifier *n, void (*done)(void *arg), void *arg)
{
    return send_pending(n, done, arg);
}

struct notifier *notifier_new(struct mount *m)
{
    struct notifier *n = calloc(1, sizeof *n);
    if (!n)
        return NULL;
    n->mount = m;
    loop_timer_init(&n->timer, m->loop, timer_fired, n);
    return n;
}

void notifier_free(struct notifier *n)
{
    if (!n)
        return;
    loop_timer_stop(&n->timer);
    free_notices(n->pending);
    free(n);
}
