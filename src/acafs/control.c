#include "acafs/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "acafs/command.h"
#include "acafs/jobs.h"
#include "acafs/request.h"
#include "acafs/status.h"
#include "util/cleanup.h"
#include "util/log.h"

enum { LINE_LIMIT = 16 << 20, GOODBYE_MS = 2000 };

/* Inode numbers: all have this bit. Fixed ones, then 16 for each job: its directory first. */
static const fuse_ino_t CONTROL_BIT = (fuse_ino_t)1 << 62;
enum {
    NODE_DIR,
    NODE_CONTROL,
    NODE_STATUS,
    NODE_METRICS,
    NODE_POOL, /* the number of those that a pool has */
    NODE_JOBS = NODE_POOL,
    NODE_LOST, /* a symlink to where the cache has files of recycled sessions */
    NODE_FIXED,
    NODES_A_JOB = 16
};
enum { JOB_DIR, JOB_CODE, JOB_STATUS, JOB_STDOUT, JOB_STDERR, JOB_RESULT, JOB_NODES };

static const char *const fixed_names[] = {"", "control", "status", "metrics", "jobs", "lost"};
static const char *const job_names[] = {"", "code", "status", "stdout", "stderr", "result"};

struct control {
    struct mount *mount;
    struct jobs *jobs;
    struct handle *handles;    /* open */
    struct waitq closed;       /* woken when the last one goes, */
    struct loop_timer goodbye; /* or after a moment */
    bool goodbye_due;
};

/* An open file of the control directory. */
struct handle {
    struct waiter waiter; /* first: of the command under way */
    struct handle *prev, *next;
    struct control *control;
    fuse_ino_t ino;
    bool write_only;
    struct buf text;  /* what a read gives: a snapshot, or the reply */
    size_t text_read; /* of a reply: a conversation has no position of its own */
    struct buf line;  /* of the command, until its end came */
    struct command command;
    bool busy;         /* the command is under way */
    struct waitq done; /* requests that wait for it */
};

/* --- numbers and names */

bool control_owns(fuse_ino_t ino)
{
    return ino & CONTROL_BIT;
}

static fuse_ino_t fixed_ino(unsigned node)
{
    return CONTROL_BIT | node;
}

static fuse_ino_t job_ino(uint64_t id, unsigned node)
{
    return CONTROL_BIT | (NODES_A_JOB * id + node);
}

/* The job an inode belongs to (0: none), and which of its files. */
static uint64_t job_of(fuse_ino_t ino, unsigned *node)
{
    fuse_ino_t low = ino & ~CONTROL_BIT;
    *node = (unsigned)(low % NODES_A_JOB);
    return low / NODES_A_JOB;
}

static bool is_dir(fuse_ino_t ino)
{
    unsigned node;
    if (job_of(ino, &node))
        return node == JOB_DIR;
    return node == NODE_DIR || node == NODE_JOBS;
}

static bool is_lost(fuse_ino_t ino)
{
    return ino == fixed_ino(NODE_LOST);
}

static mode_t mode_of(fuse_ino_t ino)
{
    if (is_dir(ino))
        return S_IFDIR | 0700;
    if (is_lost(ino))
        return S_IFLNK | 0777;
    return S_IFREG | (ino == fixed_ino(NODE_CONTROL) ? 0600 : 0400);
}

static unsigned fixed_count(const struct control *c)
{
    return c->jobs ? NODE_FIXED : NODE_POOL;
}

static bool exists(const struct control *c, fuse_ino_t ino)
{
    unsigned node;
    uint64_t id = job_of(ino, &node);
    return id ? node < JOB_NODES && c->jobs && jobs_find(c->jobs, id) : node < fixed_count(c);
}

static void fill_stat(const struct control *c, fuse_ino_t ino, struct stat *st)
{
    *st = (struct stat){
        .st_ino = mount_ino(c->mount, ino),
        .st_mode = mode_of(ino),
        .st_nlink = is_dir(ino) ? 2 : 1,
        .st_uid = c->mount->volume->owner,
        .st_gid = c->mount->volume->owner_group,
        .st_mtim.tv_sec = c->mount->volume->since,
        .st_ctim.tv_sec = c->mount->volume->since,
        .st_atim.tv_sec = c->mount->volume->since,
    };
}

static void fill_entry(const struct control *c, fuse_ino_t ino, struct fuse_entry_param *e)
{
    *e = (struct fuse_entry_param){.ino = mount_ino(c->mount, ino)};
    fill_stat(c, ino, &e->attr);
}

static fuse_ino_t find_fixed(const struct control *c, const char *name)
{
    for (unsigned i = 1; i < fixed_count(c); i++) {
        if (strcmp(name, fixed_names[i]) == 0)
            return fixed_ino(i);
    }
    return 0;
}

static fuse_ino_t find_job(const struct control *c, const char *name)
{
    char *end;
    uint64_t id = strtoull(name, &end, 10);
    bool number = *name >= '1' && *name <= '9' && !*end;
    return number && jobs_find(c->jobs, id) ? job_ino(id, JOB_DIR) : 0;
}

static fuse_ino_t find_job_file(uint64_t id, const char *name)
{
    for (unsigned i = 1; i < JOB_NODES; i++) {
        if (strcmp(name, job_names[i]) == 0)
            return job_ino(id, i);
    }
    return 0;
}

static fuse_ino_t find(const struct control *c, fuse_ino_t parent, const char *name)
{
    if (parent == INODE_ROOT_ID)
        return fixed_ino(NODE_DIR);
    unsigned node;
    uint64_t id = job_of(parent, &node);
    if (id)
        return node == JOB_DIR ? find_job_file(id, name) : 0;
    if (node == NODE_DIR)
        return find_fixed(c, name);
    return node == NODE_JOBS ? find_job(c, name) : 0;
}

void control_lookup(struct control *c, fuse_req_t req, fuse_ino_t parent, const char *name)
{
    fuse_ino_t ino = find(c, parent, name);
    if (!ino) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    struct fuse_entry_param e;
    fill_entry(c, ino, &e);
    fuse_reply_entry(req, &e);
}

void control_getattr(struct control *c, fuse_req_t req, fuse_ino_t ino)
{
    struct stat st;
    if (!exists(c, ino)) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    fill_stat(c, ino, &st);
    fuse_reply_attr(req, &st, 0);
}

void control_readlink(struct control *c, fuse_req_t req, fuse_ino_t ino)
{
    _cleanup_buf_ struct buf path = {0};
    if (!is_lost(ino))
        fuse_reply_err(req, EINVAL);
    else if (buf_addf(&path, "%s/lost", store_directory(c->mount->store)))
        fuse_reply_err(req, ENOMEM);
    else
        fuse_reply_readlink(req, path.data);
}

/* The entry after `offset` in a directory: its name, number and own offset; false at the end. */
static bool next_entry(const struct control *c, fuse_ino_t dir, uint64_t offset, char name[32],
                       fuse_ino_t *ino, uint64_t *next)
{
    unsigned node;
    uint64_t id = job_of(dir, &node);
    *next = offset + 1;
    if (id || node == NODE_DIR) {
        if (offset + 1 >= (id ? (uint64_t)JOB_NODES : fixed_count(c)))
            return false;
        snprintf(name, 32, "%s", id ? job_names[offset + 1] : fixed_names[offset + 1]);
        *ino = id ? job_ino(id, (unsigned)offset + 1) : fixed_ino((unsigned)offset + 1);
        return true;
    }
    const struct run *run = jobs_next(c->jobs, offset);
    if (!run)
        return false;
    snprintf(name, 32, "%llu", (unsigned long long)run->id);
    *ino = job_ino(run->id, JOB_DIR);
    *next = run->id;
    return true;
}

void control_readdir(struct control *c, fuse_req_t req, fuse_ino_t dir, size_t size, off_t offset,
                     bool plus)
{
    _cleanup_buf_ struct buf out = {0};
    if (!is_dir(dir) || buf_reserve(&out, size)) {
        fuse_reply_err(req, is_dir(dir) ? ENOMEM : ENOTDIR);
        return;
    }
    char name[32];
    fuse_ino_t ino;
    uint64_t at = (uint64_t)offset, next;
    while (next_entry(c, dir, at, name, &ino, &next)) {
        struct fuse_entry_param e;
        fill_entry(c, ino, &e);
        size_t room = size - out.len;
        size_t used =
            plus ? fuse_add_direntry_plus(req, out.data + out.len, room, name, &e, (off_t)next)
                 : fuse_add_direntry(req, out.data + out.len, room, name, &e.attr, (off_t)next);
        if (used > room)
            break;
        out.len += used;
        at = next;
    }
    fuse_reply_buf(req, out.data, out.len);
}

/* --- contents */

static void put_json(struct buf *out, cJSON *json)
{
    _cleanup_free_ char *text = cJSON_Print(json);
    if (text)
        buf_addf(out, "%s\n", text);
    cJSON_Delete(json);
}

static cJSON *run_status(const struct run *run)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "job", (double)run->id);
    cJSON_AddStringToObject(json, "state", run_state_name(run));
    if (run->path)
        cJSON_AddStringToObject(json, "path", run->path);
    cJSON *args = cJSON_AddArrayToObject(json, "args");
    for (char **arg = run->args; *arg; arg++)
        cJSON_AddItemToArray(args, cJSON_CreateString(*arg));
    cJSON_AddNumberToObject(json, "stdout_bytes", (double)run->streams[0].len);
    cJSON_AddNumberToObject(json, "stderr_bytes", (double)run->streams[1].len);
    return json;
}

cJSON *control_status(const struct control *c)
{
    return c->jobs ? status_json(c->mount, c->jobs) : status_pool_json(c->mount->volume);
}

static void fill_text(struct handle *h)
{
    struct control *c = h->control;
    unsigned node;
    uint64_t id = job_of(h->ino, &node);
    if (!id) {
        if (node == NODE_STATUS)
            put_json(&h->text, control_status(c));
        else if (node == NODE_METRICS)
            status_metrics(c->mount, c->jobs, &h->text);
        return;
    }
    const struct run *run = jobs_find(c->jobs, id);
    if (!run)
        return;
    if (node == JOB_CODE)
        buf_addf(&h->text, "%s\n", run->code ? run->code : run->path);
    else if (node == JOB_STATUS)
        put_json(&h->text, run_status(run));
    else if (node == JOB_RESULT && run->report)
        put_json(&h->text, cJSON_Duplicate(run->report, true));
}

static void command_woken(struct waiter *);

static void handle_free(struct handle *h)
{
    DL_DELETE(h->control->handles, h);
    command_end(&h->command);
    buf_free(&h->text);
    buf_free(&h->line);
    free(h);
}

void control_open(struct control *c, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct handle *h =
        exists(c, ino) && !is_dir(ino) && !is_lost(ino) ? calloc(1, sizeof *h) : NULL;
    if (!h) {
        fuse_reply_err(req, is_dir(ino) ? EISDIR : ENOENT);
        return;
    }
    h->control = c;
    h->ino = ino;
    h->write_only = (fi->flags & O_ACCMODE) == O_WRONLY;
    DL_APPEND(c->handles, h);
    waiter_init(&h->waiter, command_woken);
    fill_text(h);
    fi->fh = (uintptr_t)h;
    fi->direct_io = 1;
    fi->nonseekable = 0;
    if (fuse_reply_open(req, fi))
        handle_free(h);
}

static struct handle *handle_of(const struct fuse_file_info *fi)
{
    return (struct handle *)(uintptr_t)fi->fh;
}

static void reply_text(fuse_req_t req, const struct buf *text, size_t size, uint64_t offset)
{
    size_t left = offset < text->len ? text->len - (size_t)offset : 0;
    fuse_reply_buf(req, left ? text->data + offset : NULL, left < size ? left : size);
}

/* Output of a job that runs: waits for more, until it is over. */
static int step_stream(struct request *r)
{
    const struct handle *h = r->handle;
    unsigned node;
    struct run *run = jobs_find(h->control->jobs, job_of(h->ino, &node));
    if (!run)
        return -ENOENT;
    const struct output *out = &run->streams[node == JOB_STDERR];
    if (r->offset >= out->len && run->state != RUN_OVER) {
        waitq_park(&run->changed, &r->waiter);
        return STORE_WAIT;
    }
    uint64_t left = r->offset < out->len ? out->len - r->offset : 0;
    if (!left) {
        fuse_reply_buf(r->req, NULL, 0);
        return 0;
    }
    struct fuse_bufvec data = FUSE_BUFVEC_INIT(left < r->size ? (size_t)left : r->size);
    data.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    data.buf[0].fd = out->fd;
    data.buf[0].pos = (off_t)r->offset;
    fuse_reply_data(r->req, &data, 0);
    return 0;
}

static int step_reply(struct request *r)
{
    struct handle *h = r->handle;
    if (h->busy) {
        waitq_park(&h->done, &r->waiter);
        return STORE_WAIT;
    }
    size_t left = h->text.len - h->text_read, size = left < r->size ? left : r->size;
    fuse_reply_buf(r->req, size ? h->text.data + h->text_read : NULL, size);
    h->text_read += size;
    return 0;
}

void control_read(struct control *c, fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                  struct fuse_file_info *fi)
{
    struct handle *h = handle_of(fi);
    unsigned node;
    uint64_t id = job_of(ino, &node);
    bool is_stream = id && (node == JOB_STDOUT || node == JOB_STDERR);
    if (!is_stream && (id || node != NODE_CONTROL)) {
        reply_text(req, &h->text, size, (uint64_t)offset);
        return;
    }
    struct request *r = request_new(c->mount, req, NULL, is_stream ? step_stream : step_reply);
    if (!r)
        return;
    r->deadline_ms = 0; /* as long as the command or the job takes; it can be interrupted */
    r->handle = h;
    r->size = size;
    r->offset = (uint64_t)offset;
    request_run(r);
}

/* --- conversations */

static void finish(struct handle *h)
{
    _cleanup_free_ char *text = cJSON_PrintUnformatted(h->command.reply);
    h->text.len = 0;
    if (text)
        buf_addf(&h->text, "%s\n", text);
    h->busy = false;
    waitq_wake(&h->control->mount->volume->wakeup, &h->done, 0);
}

static void command_woken(struct waiter *w)
{
    struct handle *h = (struct handle *)w;
    if (command_step(&h->command) != STORE_WAIT)
        finish(h);
}

/* Starts the command in h->line: 0 or -EINVAL. */
static int start_command(struct handle *h)
{
    command_end(&h->command);
    waiter_init(&h->waiter, command_woken);
    int err =
        command_start(&h->command, h->control->mount, h->control->jobs, &h->waiter, h->line.data);
    h->line.len = 0;
    h->busy = true;
    h->text_read = 0;
    if (err)
        finish(h);
    else
        command_woken(&h->waiter);
    return err;
}

static size_t blanks(const char *data, size_t size)
{
    size_t n = 0;
    while (n < size && data[n] && strchr(" \t\r\n", data[n]))
        n++;
    return n;
}

/* What keeps these bytes from being the line's next ones, and its end if there is one; or NULL. */
static const char *line_problem(const struct handle *h, const char *data, size_t size,
                                const char *end)
{
    size_t more = end ? (size_t)(data + size - end) : 0;
    if (memchr(data, '\0', size))
        return "a command is text: there is a NUL byte in it";
    if (end && blanks(end, more) != more)
        return "one command a write: none of these was started";
    return h->line.len + size > LINE_LIMIT ? "a command is no longer than 16 MiB" : NULL;
}

static int refuse_line(struct handle *h, const char *why)
{
    command_end(&h->command);
    h->line.len = h->text_read = 0;
    int err = command_refuse(&h->command, why);
    finish(h);
    return err;
}

/* A handle that only writes has the command's error in its write. */
static int step_written(struct request *r)
{
    struct handle *h = r->handle;
    if (h->busy && h->write_only) {
        waitq_park(&h->done, &r->waiter);
        return STORE_WAIT;
    }
    if (h->write_only && h->command.err)
        return h->command.err;
    if (r->size)
        fuse_reply_write(r->req, r->size);
    else
        fuse_reply_err(r->req, 0);
    return 0;
}

static void answer_written(struct handle *h, fuse_req_t req, size_t size)
{
    struct request *r = request_new(h->control->mount, req, NULL, step_written);
    if (!r)
        return;
    r->deadline_ms = 0;
    r->handle = h;
    r->size = size;
    request_run(r);
}

void control_write(struct control *c, fuse_req_t req, const char *data, size_t size,
                   struct fuse_file_info *fi)
{
    struct handle *h = handle_of(fi);
    if (h->ino != fixed_ino(NODE_CONTROL) || h->busy) {
        fuse_reply_err(req, h->busy ? EBUSY : EPERM);
        return;
    }
    size_t skip = h->line.len ? 0 : blanks(data, size);
    if (skip == size) { /* a blank line is no command */
        fuse_reply_write(req, size);
        return;
    }
    const char *end = memchr(data + skip, '\n', size - skip), *from = data + skip;
    const char *why = line_problem(h, from, size - skip, end);
    int err = why ? refuse_line(h, why)
                  : buf_add(&h->line, from, end ? (size_t)(end - from) : size - skip);
    if (!err && end)
        err = start_command(h);
    if (err)
        fuse_reply_err(req, -err);
    else
        answer_written(h, req, size);
}

/* A last line without its end counts as whole. */
void control_flush(struct control *c, fuse_req_t req, struct fuse_file_info *fi)
{
    struct handle *h = handle_of(fi);
    int err = h->line.len ? start_command(h) : 0;
    if (err)
        fuse_reply_err(req, -err);
    else
        answer_written(h, req, 0);
}

void control_release(struct control *c, fuse_req_t req, struct fuse_file_info *fi)
{
    struct handle *h = handle_of(fi);
    waitq_wake(&c->mount->volume->wakeup, &h->done, 0);
    handle_free(h);
    if (!c->handles)
        waitq_wake(&c->mount->volume->wakeup, &c->closed, 0);
    fuse_reply_err(req, 0);
}

struct jobs *control_jobs(struct control *c)
{
    return c->jobs;
}

static void waited_enough(void *arg)
{
    struct control *c = arg;
    c->goodbye_due = false;
    waitq_wake(&c->mount->volume->wakeup, &c->closed, 0);
}

int control_drain(struct control *c, struct waiter *w)
{
    if (jobs_waiting(c->jobs))
        c->goodbye_due = true; /* who follows them is to hear of their end */
    int err = jobs_drain(c->jobs, w);
    if (err || !c->goodbye_due || !c->handles)
        return err;
    if (!loop_timer_is_set(&c->goodbye))
        loop_timer_set(&c->goodbye, GOODBYE_MS);
    waitq_park(&c->closed, w);
    return STORE_WAIT;
}

struct control *control_new(struct mount *m)
{
    struct control *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->mount = m;
    loop_timer_init(&c->goodbye, m->loop, waited_enough, c);
    c->jobs = m->store ? jobs_new(m) : NULL;
    if (m->store && !c->jobs) {
        free(c);
        return NULL;
    }
    return c;
}

bool control_is_idle(const struct control *c)
{
    return !c->handles && jobs_are_idle(c->jobs);
}

void control_free(struct control *c)
{
    if (!c)
        return;
    while (c->handles)
        handle_free(c->handles);
    loop_timer_stop(&c->goodbye);
    jobs_free(c->jobs);
    free(c);
}
