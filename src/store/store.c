#include "store/internal.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "util/text.h"

enum { SPACE_TTL_MS = 30000 };

static void release_inode(void *arg, struct inode *inode)
{
    if (S_ISREG(inode->mode) && inode->file)
        store_file_free(inode->file);
    else if (S_ISDIR(inode->mode) && inode->dir)
        store_dir_free(inode->dir);
}

int store_new(struct loop *loop, struct session *session, const struct store_options *options,
              struct store **out, char **why)
{
    *why = NULL;
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->session = session;
    s->options = *options;
    wakeup_init(&s->wakeup, loop);
    int err = inode_table_init(&s->inodes, options->uid, options->gid, options->umask);
    if (err) {
        free(s);
        return err;
    }
    if (options->first_id > s->inodes.next_id)
        s->inodes.next_id = options->first_id;
    s->inodes.release = release_inode;
    s->inodes.release_arg = s;
    store_keep_init(s);
    store_send_init(s);
    store_recycle_init(s);
    s->room = options->room ? options->room : (s->own_room = store_room_new(options->cache_size));
    err = s->room ? room_open(s) : -ENOMEM;
    err = err ? err
              : shelf_open(options, session_endpoint(session), session_identifier(session),
                           &s->shelf, &s->directory, why);
    if (!err)
        err = store_replay(s, why);
    if (err) {
        store_free(s);
        return err;
    }
    s->open = true;
    *out = s;
    return 0;
}

void store_free(struct store *s)
{
    if (!s)
        return;
    if (s->space_call)
        session_cancel(s->space_call);
    s->closing = true;
    store_recycle_free(s);
    store_recover_free(s);
    store_changes_free(s);
    store_removals_free(s);
    store_refresh_free(s);
    inode_table_free(&s->inodes);
    store_send_free(s);
    store_keep_free(s);
    loop_timer_stop(&s->wakeup.timer);
    shelf_unref(s->shelf);
    if (s->room)
        room_close(s);
    store_room_free(s->own_room);
    free(s->directory);
    free(s);
}

bool store_is_idle(const struct store *s)
{
    const struct file *f;
    DL_FOREACH (s->files, f) {
        if (f->written != f->saved || f->keeping || f->send != SEND_NONE || f->opens)
            return false;
    }
    return !s->running && !s->next && !s->intents && !s->streams && !s->outbox && !s->sending &&
           !s->removals.list && !s->changes && !s->change_list && !s->remakes && !s->idle.head &&
           !s->changed.head;
}

struct inode_table *store_inodes(struct store *s)
{
    return &s->inodes;
}

/* Names the client itself uses at the top of the session: acafs-{stage,part,job}-<16 hex>. */
static bool is_reserved(const char *name)
{
    static const char *const prefixes[] = {"acafs-stage-", "acafs-part-", "acafs-job-"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t len = strlen(prefixes[i]);
        if (strncmp(name, prefixes[i], len) == 0 && strspn(name + len, "0123456789abcdef") >= 16)
            return true;
    }
    return strcmp(name, ".acafs") == 0;
}

int store_name_check(const struct inode *dir, const char *name)
{
    size_t len = strlen(name);
    if (len > 255)
        return -ENAMETOOLONG;
    if (!text_is_utf8(name, len))
        return -EILSEQ;
    return dir->id == INODE_ROOT_ID && is_reserved(name) ? -EINVAL : 0;
}

void store_stat(const struct inode *inode, struct stat *st)
{
    *st = (struct stat){
        .st_ino = inode->id,
        .st_mode = inode->mode,
        .st_nlink = S_ISDIR(inode->mode) ? 2
                    : inode->parent      ? 1
                                         : 0,
        .st_uid = inode->uid,
        .st_gid = inode->gid,
        .st_size = inode->size > 0 ? inode->size : 0,
        .st_blksize = 4096,
        .st_atim = inode->atime,
        .st_mtim = inode->mtime,
        .st_ctim = inode->ctime,
    };
    st->st_blocks = (st->st_size + 511) / 512;
}

/* What has no name is nobody's to find again; the root's own are the mount's options. */
static void note_attributes(struct store *s, struct inode *inode)
{
    if (inode->parent)
        store_note(s, inode);
}

void store_set_mode(struct store *s, struct inode *inode, mode_t mode)
{
    inode->mode = (inode->mode & S_IFMT) | (mode & 07777);
    inode->own_mode = true;
    clock_gettime(CLOCK_REALTIME, &inode->ctime);
    note_attributes(s, inode);
}

void store_set_owner(struct store *s, struct inode *inode, uid_t uid, gid_t gid)
{
    if (uid != (uid_t)-1)
        inode->uid = uid;
    if (gid != (gid_t)-1)
        inode->gid = gid;
    inode->own_owner = true;
    clock_gettime(CLOCK_REALTIME, &inode->ctime);
    note_attributes(s, inode);
}

void store_set_times(struct store *s, struct inode *inode, const struct timespec *atime,
                     const struct timespec *mtime)
{
    if (atime)
        inode->atime = *atime;
    if (mtime)
        inode->mtime = *mtime;
    clock_gettime(CLOCK_REALTIME, &inode->ctime);
    note_attributes(s, inode);
}

/* --- space */

static void space_told(void *arg, const struct session_error *e, const struct session_space *space)
{
    struct store *s = arg;
    s->space_call = NULL;
    s->space_ms = clock_ms();
    if (!e->err)
        s->space = *space;
    waitq_wake(&s->wakeup, &s->space_waiting, e->err);
}

int store_space(struct store *s, struct waiter *w, struct session_space *out)
{
    int err = waiter_take_error(w);
    *out = s->space;
    if (err || (s->space_ms && clock_ms() - s->space_ms < SPACE_TTL_MS))
        return s->space.total ? 0 : err;
    if (!s->space_call)
        s->space_call = session_space(s->session, space_told, s);
    if (!s->space_call)
        return -ENOMEM;
    waitq_park(&s->space_waiting, w);
    return STORE_WAIT;
}

void store_get_stats(const struct store *s, struct store_stats *out)
{
    *out = (struct store_stats){
        .inodes = s->inodes.count,
        .hidden = s->hidden_names,
        .cached_bytes = s->cached_bytes,
        .cached_files = s->cached_files,
        .downloads = s->downloads,
        .downloads_ahead = s->downloads_ahead,
        .uploads = s->uploads,
        .refreshes = s->refreshes,
        .cache_hits = s->cache_hits,
        .away = s->away,
        .silent = s->tree.slow,
        .conflicts = s->conflicts,
        .lost = s->lost,
    };
    out->removals = store_removals_count(s);
    const struct file *f;
    DL_FOREACH (s->files, f) {
        if (f->written != f->saved && f->inode->parent) {
            out->dirty_files++;
            out->failed_files += f->send == SEND_FAILED;
            out->dirty_bytes += (uint64_t)f->inode->size;
        }
    }
}

const char *store_directory(const struct store *s)
{
    return s->directory;
}
