#include "acafs/request.h"

#include <errno.h>
#include <stdlib.h>

#include <utlist.h>

#include "acafs/caller.h"

enum {
    GRACE_MS = 200, /* runtimes such as Go's interrupt all the time: most answers come first */
    CHANGE_GRACE_MS = 1000, /* what changes the server is better answered by its result */
};

static void request_free(struct request *r)
{
    struct mount *m = r->mount;
    DL_DELETE(m->requests, r);
    waiter_leave(&r->waiter);
    if (r->watched) {
        loop_timer_stop(&r->deadline);
        loop_timer_stop(&r->grace);
    }
    store_change_forget(r->change);
    if (r->inode)
        inode_unpin(store_inodes(m->store), r->inode);
    if (r->other)
        inode_unpin(store_inodes(m->store), r->other);
    free(r->name);
    free(r->to_name);
    buf_free(&r->data);
    free(r);
}

static void end(struct request *r, int err)
{
    fuse_reply_err(r->req, -err);
    request_free(r);
}

static void deadline_passed(void *arg)
{
    end(arg, -ETIMEDOUT);
}

static void grace_over(void *arg)
{
    end(arg, -EINTR);
}

/* How long an interrupted caller is still given its answer. */
static int64_t patience_ms(const struct request *r)
{
    bool changes = r->change || r->ticket || r->begun;
    switch (caller_state(fuse_req_ctx(r->req)->pid)) {
    case CALLER_DIES:
        return 0;
    case CALLER_ASKED:
        return GRACE_MS;
    case CALLER_GOES_ON:
        break;
    }
    return changes ? CHANGE_GRACE_MS : GRACE_MS;
}

static void interrupted(fuse_req_t req, void *arg)
{
    /* libfuse holds a lock here: the answer comes from the timer. */
    struct request *r = arg;
    if (!loop_timer_is_set(&r->grace))
        loop_timer_set(&r->grace, patience_ms(r));
}

static void watch(struct request *r)
{
    loop_timer_init(&r->deadline, r->mount->loop, deadline_passed, r);
    loop_timer_init(&r->grace, r->mount->loop, grace_over, r);
    r->watched = true;
    fuse_req_interrupt_func(r->req, interrupted, r);
}

static int take_step(struct request *r)
{
    int err = r->step ? 0 : -ENOMEM;
    if (!err && r->inode)
        err = mount_recover(r->mount, &r->waiter);
    return err ? err : r->step(r);
}

void request_run(struct request *r)
{
    int err = take_step(r);
    if (err < 0) {
        end(r, err);
    } else if (err == 0) {
        request_free(r);
    } else {
        if (!r->watched)
            watch(r);
        if (r->deadline_ms && !r->change && !r->begun)
            loop_timer_set(&r->deadline, r->deadline_ms);
        else
            loop_timer_stop(&r->deadline);
    }
}

static void woken(struct waiter *w)
{
    request_run((struct request *)w);
}

struct request *request_new(struct mount *m, fuse_req_t req, struct inode *inode,
                            int (*step)(struct request *))
{
    struct request *r = m->volume->ending ? NULL : calloc(1, sizeof *r);
    if (!r) {
        fuse_reply_err(req, m->volume->ending ? ENOTCONN : ENOMEM);
        return NULL;
    }
    waiter_init(&r->waiter, woken);
    r->mount = m;
    r->req = req;
    r->step = step;
    r->inode = inode;
    r->deadline_ms = m->config->read_ms;
    if (inode)
        inode_pin(inode);
    DL_APPEND(m->requests, r);
    return r;
}

void requests_end(struct mount *m, int err)
{
    while (m->requests)
        end(m->requests, err);
}
