/* Recovery: the journal's records, read in order, make the tree that the mount before left: names
 * with their attributes, content that is not on the server yet, and what is left to be deleted
 * there. Then the journal is written anew, and the queue goes on. A listing corrects the rest.
 *
 * A rename that was asked of the server when the mount before ended may have been made or not:
 * it was if the old name is gone there, or, where two names were to be exchanged, if a file that
 * was known there has another version in its place. That is looked at before the tree is shown. */
#include "store/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "store/journal.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum { SETTLE_MS = 1000 /* for what the mount before asked of the server when it ended */ };

/* A rename whose outcome is not known. */
struct intent {
    struct intent *prev, *next;
    struct store *store;
    char *from, *to;
    enum session_rename how;
    struct session_call *call;
};

/* A removal as read: its file may still move. */
struct left {
    UT_hash_handle hh; /* by path */
    char *path, *after;
    struct version base;
};

struct replay {
    struct store *store;
    struct left *left;
};

/* --- names */

/* The inode at a path, or NULL. */
static struct inode *find(struct store *s, const char *path)
{
    struct inode *inode = s->inodes.root;
    while (inode && *path) {
        char name[256];
        size_t len = strcspn(path, "/");
        if (len == 0 || len >= sizeof name || !S_ISDIR(inode->mode))
            return NULL;
        memcpy(name, path, len);
        name[len] = '\0';
        inode = inode_child(inode, name);
        path += len + (path[len] == '/');
    }
    return inode;
}

/* The directory of a path, made where it is missing; *name is the rest. NULL for nonsense. */
static struct inode *make_dir_of(struct store *s, const char *path, const char **name)
{
    struct inode *dir = s->inodes.root;
    for (;;) {
        char part[256];
        size_t len = strcspn(path, "/");
        if (len == 0 || len >= sizeof part)
            return NULL;
        if (!path[len]) {
            *name = path;
            return dir;
        }
        memcpy(part, path, len);
        part[len] = '\0';
        struct inode *child = inode_child(dir, part);
        if (!child) {
            child = inode_add(&s->inodes, dir, part, S_IFDIR | (0777 & ~s->inodes.umask));
            if (child)
                child->on_server = true;
        }
        if (!child || !S_ISDIR(child->mode))
            return NULL;
        dir = child;
        path += len + 1;
    }
}

/* --- records */

static void set_facts(const struct store *s, struct inode *inode, const struct node_facts *f)
{
    mode_t listed = S_ISDIR(f->mode) ? 0777 : 0666;
    inode->mode = f->mode;
    if (!(f->flags & NODE_OWN_MODE) && !S_ISLNK(f->mode))
        inode->mode = (f->mode & S_IFMT) | (listed & ~s->inodes.umask);
    inode->uid = f->flags & NODE_OWN_OWNER ? f->uid : s->inodes.uid;
    inode->gid = f->flags & NODE_OWN_OWNER ? f->gid : s->inodes.gid;
    inode->size = f->size;
    inode->mtime = f->mtime;
    inode->atime = f->atime;
    inode->ctime = f->ctime;
    inode->base = f->base;
    inode->on_server = f->flags & NODE_ON_SERVER;
    inode->own_mode = f->flags & NODE_OWN_MODE;
    inode->own_owner = f->flags & NODE_OWN_OWNER;
    inode->recorded = true;
}

static int read_node(struct store *s, const struct record *r)
{
    const char *name;
    struct inode *dir = make_dir_of(s, r->path, &name);
    if (!dir || (!S_ISREG(r->facts.mode) && !S_ISDIR(r->facts.mode) && !S_ISLNK(r->facts.mode)))
        return 0;
    struct inode *inode = inode_child(dir, name);
    if (inode && (inode->mode & S_IFMT) != (r->facts.mode & S_IFMT)) {
        inode_remove(&s->inodes, inode);
        inode = NULL;
    }
    if (!inode && !(inode = inode_add(&s->inodes, dir, name, r->facts.mode)))
        return -ENOMEM;
    set_facts(s, inode, &r->facts);
    if (!S_ISREG(inode->mode))
        return 0;
    struct file *f = inode->file;
    if (r->facts.content && !(f = file_get(s, inode)))
        return -ENOMEM;
    if (f) {
        f->content = r->facts.content;
        /* else the mount before may have been about it */
        f->maybe_sent = r->facts.content && !(r->facts.flags & NODE_UNSENT);
        f->sent_other = r->facts.sent > 0;
        f->sent_size = r->facts.sent;
    }
    return 0;
}

static void read_gone(struct store *s, const char *path)
{
    struct inode *inode = find(s, path);
    if (inode && inode->parent)
        inode_remove(&s->inodes, inode);
}

static int read_move(struct store *s, const struct record *r)
{
    struct inode *inode = find(s, r->path);
    const char *name;
    struct inode *dir = make_dir_of(s, r->other, &name);
    if (!dir || !inode || !inode->parent || inode_below(dir, inode)) {
        read_gone(s, r->other);
        return 0;
    }
    struct inode *there = inode_child(dir, name);
    if (there == inode)
        return 0;
    if (there)
        inode_remove(&s->inodes, there);
    return inode_move(&s->inodes, inode, dir, name);
}

static void read_swap(struct store *s, const struct record *r)
{
    struct inode *a = find(s, r->path), *b = find(s, r->other);
    if (a && b && a->parent && b->parent && !inode_below(a, b) && !inode_below(b, a)) {
        inode_swap(&s->inodes, a, b);
    } else if (a != b && (!a || !b)) {
        struct record one = {.path = a ? r->path : r->other, .other = a ? r->other : r->path};
        read_move(s, &one);
    }
}

static void free_left(struct replay *p, struct left *l)
{
    if (l->path)
        HASH_DEL(p->left, l);
    free(l->path);
    free(l->after);
    free(l);
}

static void read_done(struct replay *p, const char *path)
{
    struct left *l;
    HASH_FIND_STR(p->left, path, l);
    if (l)
        free_left(p, l);
}

static int read_left(struct replay *p, const struct record *r)
{
    read_done(p, r->path);
    struct left *l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    l->path = strdup(r->path);
    l->after = strdup(r->other);
    l->base = r->facts.base;
    if (l->path)
        HASH_ADD_KEYPTR(hh, p->left, l->path, strlen(l->path), l);
    if (l->path && l->after)
        return 0;
    free_left(p, l);
    return -ENOMEM;
}

/* `from` or what is below it becomes the same of `to`. */
static int rebase(char **path, const char *from, const char *to)
{
    size_t len = strlen(from);
    char *moved;
    if (strncmp(*path, from, len) != 0 || ((*path)[len] && (*path)[len] != '/'))
        return 0;
    if (asprintf(&moved, "%s%s", to, *path + len) < 0)
        return -ENOMEM;
    free(*path);
    *path = moved;
    return 0;
}

/* The file that a removal waits for goes with its name; what the server has at the removal's own
 * path goes with a directory above it alone. */
static int move_left(struct replay *p, const char *from, const char *to)
{
    struct left *l, *next, *all = p->left;
    int err = 0;
    p->left = NULL;
    HASH_ITER (hh, all, l, next) {
        HASH_DEL(all, l);
        if (!err)
            err = rebase(&l->after, from, to);
        if (!err && strcmp(l->path, from) != 0)
            err = rebase(&l->path, from, to);
        HASH_ADD_KEYPTR(hh, p->left, l->path, strlen(l->path), l);
    }
    return err;
}

/* By way of a path that no file has. */
static int swap_left(struct replay *p, const struct record *r)
{
    static const char aside[] = "/";
    int err = move_left(p, r->path, aside);
    err = err ? err : move_left(p, r->other, r->path);
    return err ? err : move_left(p, aside, r->other);
}

static void free_intent(struct intent *i)
{
    DL_DELETE(i->store->intents, i);
    if (i->call)
        session_cancel(i->call);
    free(i->from);
    free(i->to);
    free(i);
}

static int read_intent(struct store *s, const struct record *r)
{
    struct intent *i = calloc(1, sizeof *i);
    if (!i)
        return -ENOMEM;
    i->store = s;
    i->how = (enum session_rename)r->how;
    DL_APPEND(s->intents, i);
    i->from = strdup(r->path);
    i->to = strdup(r->other);
    return i->from && i->to ? 0 : -ENOMEM;
}

static void read_settled(struct store *s, const struct record *r)
{
    struct intent *i, *next;
    DL_FOREACH_SAFE (s->intents, i, next) {
        if (strcmp(i->from, r->path) == 0 && strcmp(i->to, r->other) == 0)
            free_intent(i);
    }
}

static int read_session(struct store *s, const char *identity)
{
    free(s->identity);
    s->identity = *identity ? strdup(identity) : NULL;
    return *identity && !s->identity ? -ENOMEM : 0;
}

static int read_one(void *arg, const void *body, size_t len)
{
    struct replay *p = arg;
    struct store *s = p->store;
    struct record r;
    if (record_read(body, len, &r))
        return -EPROTO; /* whole, but not ours: of a later version */
    int err = 0;
    switch (r.type) {
    case RECORD_NODE:
        if (r.facts.content)
            read_done(p, r.path);
        return read_node(s, &r);
    case RECORD_GONE:
        read_gone(s, r.path);
        return 0;
    case RECORD_MOVE:
        read_done(p, r.other);
        err = read_move(s, &r);
        return err ? err : move_left(p, r.path, r.other);
    case RECORD_SWAP:
        read_swap(s, &r);
        return swap_left(p, &r);
    case RECORD_LEFT:
        return read_left(p, &r);
    case RECORD_DONE:
        read_done(p, r.path);
        return 0;
    case RECORD_INTENT:
        return read_intent(s, &r);
    case RECORD_SETTLED:
        read_settled(s, &r);
        return 0;
    case RECORD_SESSION:
        return read_session(s, r.path);
    case RECORD_TYPES:
        break;
    }
    return -EPROTO;
}

/* --- content */

static int open_content(struct file *f)
{
    char name[24];
    struct stat st;
    snprintf(name, sizeof name, "%llu", (unsigned long long)f->content);
    int err = room_for_left(f);
    if (err)
        return err;
    f->fd = openat(shelf_content(f->store->shelf), name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (f->fd < 0 || fstat(f->fd, &st) || !S_ISREG(st.st_mode))
        return f->fd < 0 ? -errno : -EIO;
    room_took_place(f, true);
    f->state = FILE_DIRTY;
    f->written = f->kept = f->told = 1;
    f->taken = true;
    f->inode->size = st.st_size;
    if (f->sent_size < (uint64_t)st.st_size)
        f->sent_size = (uint64_t)st.st_size;
    file_account(f, (uint64_t)st.st_size);
    return 0;
}

static void lose(struct file *f, int err)
{
    struct inode *inode = f->inode;
    _cleanup_buf_ struct buf path = {0};
    inode_path(inode, &path);
    log_error("%s: its content that was not on the server yet can't be read: %s", path.data,
              strerror(-err));
    f->content = 0;
    inode->file = NULL;
    store_file_free(f);
}

/* Names that were never on the server and have no content: their file was never closed. */
static bool is_nothing(const struct inode *inode)
{
    return S_ISREG(inode->mode) && inode->parent && !inode->on_server &&
           (!inode->file || inode->file->state == FILE_ABSENT);
}

/* Says nothing of the content: another time it may be read. */
static bool is_passing(int err)
{
    return err == -EMFILE || err == -ENFILE || err == -ENOMEM;
}

static int open_contents(struct store *s, size_t *opened)
{
    struct file *f, *next_file;
    size_t count = 0;
    DL_FOREACH_SAFE (s->files, f, next_file) {
        int err = f->content ? open_content(f) : 0;
        if (is_passing(err))
            return err;
        if (err)
            lose(f, err);
        count += !err && f->content;
        if (f->content > s->contents)
            s->contents = f->content;
    }
    for (uint64_t id = INODE_ROOT_ID; id < s->inodes.next_id; id++) {
        struct inode *inode = inode_find(&s->inodes, id);
        if (inode && is_nothing(inode))
            inode_remove(&s->inodes, inode);
    }
    if (count)
        log_info("%zu files of the mount before are not on the server yet", count);
    *opened = count;
    return 0;
}

/* Content that no record names: of files that were not closed, or are on the server. */
static int delete_strays(struct store *s)
{
    int fd = fcntl(shelf_content(s->shelf), F_DUPFD_CLOEXEC, 0);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        return -errno;
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        char *end;
        uint64_t content = strtoull(entry->d_name, &end, 10);
        if (*end || end == entry->d_name)
            continue;
        const struct file *f;
        DL_SEARCH_SCALAR(s->files, f, content, content);
        if (!f)
            unlinkat(fd, entry->d_name, 0);
        if (content > s->contents)
            s->contents = content;
    }
    closedir(dir);
    return 0;
}

/* Whether the name has content to be sent. Without, what is told of it are attributes of a new file
 * that was not closed when it ended. */
static bool has_new_file(struct store *s, struct inode *dir, const char *name)
{
    struct inode *inode = inode_child(dir, name);
    if (inode && S_ISREG(inode->mode) && !store_file_dirty(inode)) {
        inode_remove(&s->inodes, inode);
        inode = NULL;
    }
    return inode;
}

static void begin_removals(struct replay *p)
{
    struct store *s = p->store;
    struct left *l, *next;
    HASH_ITER (hh, p->left, l, next) {
        const char *name;
        struct inode *dir = make_dir_of(s, l->path, &name);
        struct inode *after = *l->after ? find(s, l->after) : NULL;
        if (dir && !has_new_file(s, dir, name))
            store_remove_later(s, dir, name, &l->base, 0, after, NULL);
        free_left(p, l);
    }
}

int store_replay(struct store *s, char **why)
{
    struct replay p = {.store = s};
    uint64_t dropped;
    s->replaying = true;
    int err = journal_open(shelf_dir(s->shelf), read_one, &p, shelf_journal(s->shelf), &dropped);
    if (!err && dropped)
        log_warning("journal in %s: %llu bytes of an interrupted write dropped", s->directory,
                    (unsigned long long)dropped);
    size_t opened = 0;
    if (!err)
        err = open_contents(s, &opened);
    if (!err) {
        if (opened || p.left || s->intents)
            s->settled_ms = clock_ms() + SETTLE_MS;
        err = delete_strays(s);
    }
    s->replaying = err; /* then it ends here, and everything stays as it is on disk */
    if (!err && s->identity)
        err = session_expect(s->session, s->identity);
    if (!err)
        begin_removals(&p);
    while (p.left)
        free_left(&p, p.left);
    if (!err)
        err = store_compact_now(s);
    if (err && asprintf(why, "journal in %s: %s", s->directory,
                        err == -EPROTO ? "not one that this version of acafs can read"
                                       : strerror(-err)) < 0)
        *why = NULL;
    struct file *f;
    DL_FOREACH (s->files, f) {
        if (f->written != f->saved)
            file_queue(f);
    }
    return err;
}

/* --- renames that the mount before was about */

static void settle(struct intent *i, bool made)
{
    struct store *s = i->store;
    const struct record r = {.path = i->from, .other = i->to};
    if (made && i->how == RENAME_SWAP) {
        read_swap(s, &r);
        store_record(s, RECORD_SWAP, i->from, i->to, true);
    } else if (made) {
        read_move(s, &r);
        store_record(s, RECORD_MOVE, i->from, i->to, true);
    }
    store_record(s, RECORD_SETTLED, i->from, i->to, true);
    free_intent(i);
    waitq_wake(&s->wakeup, &s->changed, 0);
    loop_timer_set(&s->pump, 0);
}

/* A file at or below the inode whose version on the server was known. */
static struct inode *known_file(struct inode *inode)
{
    struct inode *child, *next, *found = NULL;
    if (!inode || !S_ISDIR(inode->mode))
        return inode && S_ISREG(inode->mode) && inode->on_server && inode->base.mtime.tv_nsec >= 0
                   ? inode
                   : NULL;
    HASH_ITER (by_name, inode->children, child, next) {
        if (!found)
            found = known_file(child);
    }
    return found;
}

/* By what an exchange is known to have been made or not: NULL where it makes no difference. */
static struct inode *probe_of(const struct intent *i)
{
    struct inode *probe = known_file(find(i->store, i->from));
    return probe ? probe : known_file(find(i->store, i->to));
}

static bool was_made(const struct intent *i, const struct entry *entry)
{
    if (i->how != RENAME_SWAP)
        return !entry;
    const struct inode *probe = probe_of(i);
    if (!probe || !entry) /* one of the two names is gone by another's doing, or it went with one */
        return probe && probe != find(i->store, i->from) && probe != find(i->store, i->to);
    const struct version now = {.size = entry->size, .mtime = entry->mtime};
    return !version_same(&probe->base, &now);
}

static void looked(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct intent *i = arg;
    i->call = NULL;
    if (e->err && e->err != -ENOENT) {
        waitq_wake(&i->store->wakeup, &i->store->changed, e->err);
        return;
    }
    settle(i, was_made(i, e->err ? NULL : entry));
}

static int look(struct intent *i)
{
    struct store *s = i->store;
    _cleanup_buf_ struct buf path = {0};
    const struct inode *probe = i->how == RENAME_SWAP ? probe_of(i) : NULL;
    if (probe && !inode_path(probe, &path))
        return -ENOMEM;
    i->call = session_stat(s->session, probe ? path.data : i->from, looked, i);
    return i->call ? 0 : -ENOMEM;
}

int store_recover(struct store *s, struct waiter *w)
{
    int err = waiter_take_error(w);
    struct intent *i, *next;
    if (err)
        return err;
    DL_FOREACH_SAFE (s->intents, i, next) {
        if (i->call)
            continue;
        if (i->how == RENAME_SWAP && !probe_of(i))
            settle(i, false); /* both names are there either way */
        else if ((err = look(i)))
            return err;
    }
    if (!s->intents) {
        store_ask_info(s);
        return 0;
    }
    waitq_park(&s->changed, w);
    return STORE_WAIT;
}

void store_recover_free(struct store *s)
{
    while (s->intents)
        free_intent(s->intents);
}
