/* The room that content takes on local disk, and what goes first when there is none: clean content
 * that nobody has open, least recently used first, of any of the stores that share the room; then
 * parts of what is read (shed.c). */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include <utlist.h>

#include "util/text.h"

enum {
    RESERVED_FDS = 128,    /* of the process's limit, for everything but stores */
    STORE_FDS = 4,         /* a store's own: lock, journal and directories */
    DISK_LEFT = 128 << 20, /* the disk is full for us when others have no more than that... */
    DISK_SHARE = 50,       /* ...or a fiftieth of it, if that is less */
    DISK_CHECK_MS = 200,
};

struct room {
    struct file *files; /* by room_prev and room_next, least recently used first */
    uint64_t size, bytes;
    size_t fds; /* content's and the stores' own */
    int64_t checked_ms;
    int64_t disk_room; /* bytes that we may still take of the disk, when last looked */
    bool away;         /* that the pool does not answer was told, for all of them */
};

struct room *store_room_new(uint64_t bytes)
{
    struct room *r = calloc(1, sizeof *r);
    if (r)
        r->size = bytes;
    return r;
}

void store_room_free(struct room *r)
{
    free(r);
}

/* --- what is in it */

static size_t fd_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur < 2 * RESERVED_FDS)
        return RESERVED_FDS;
    return limit.rlim_cur - RESERVED_FDS;
}

size_t store_room_stores(void)
{
    return fd_limit() / STORE_FDS;
}

void room_add(struct file *f)
{
    DL_APPEND(f->store->files, f);
    DL_APPEND2(f->store->room->files, f, room_prev, room_next);
}

void room_remove(struct file *f)
{
    DL_DELETE(f->store->files, f);
    DL_DELETE2(f->store->room->files, f, room_prev, room_next);
}

void file_used(struct file *f)
{
    room_remove(f);
    room_add(f);
}

void file_account(struct file *f, uint64_t bytes)
{
    struct room *r = f->store->room;
    r->disk_room += (int64_t)(f->bytes - bytes);
    r->bytes += bytes - f->bytes;
    f->store->cached_bytes += bytes - f->bytes;
    f->bytes = bytes;
}

void room_took_place(struct file *f, bool taken)
{
    f->store->cached_files += taken ? 1 : (size_t)-1;
    f->store->room->fds += taken ? 1 : (size_t)-1;
}

/* --- making more */

static void evict_one(struct file *f)
{
    struct inode *inode = f->inode;
    inode->file = NULL;
    store_file_free(f);
}

/* Whether the disk that the cache is on can take so much more and have something left for others.
 */
static bool disk_has_room(const struct store *s, uint64_t more)
{
    struct room *r = s->room;
    struct statvfs fs;
    int64_t now = clock_ms();
    if (now - r->checked_ms < DISK_CHECK_MS && r->disk_room >= (int64_t)more)
        return true;
    r->checked_ms = now;
    if (fstatvfs(shelf_content(s->shelf), &fs))
        return true;
    uint64_t share = (uint64_t)fs.f_blocks * fs.f_frsize / DISK_SHARE;
    uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize;
    r->disk_room = (int64_t)(left - (share < DISK_LEFT ? share : DISK_LEFT));
    return r->disk_room >= (int64_t)more;
}

/* A store may have less of the room than there is. */
static bool has_share(const struct store *s, uint64_t more)
{
    return !more || s->cached_bytes + more <= s->options.cache_size;
}

static bool has_room(const struct store *s, uint64_t more, size_t fds, size_t limit)
{
    const struct room *r = s->room;
    return r->fds + fds <= limit &&
           (!more || (r->bytes + more <= r->size && disk_has_room(s, more)));
}

static uint64_t excess(uint64_t bytes, uint64_t most)
{
    return bytes > most ? bytes - most : 0;
}

/* How much of this file would have to go. */
static uint64_t missing(const struct store *s, const struct file *f, uint64_t more)
{
    uint64_t room = excess(s->room->bytes + more, s->room->size);
    uint64_t share = f->store == s ? excess(s->cached_bytes + more, s->options.cache_size) : 0;
    return room > share ? room : share;
}

static bool may_go(const struct file *f)
{
    return !f->opens && file_idle(f);
}

/* Makes room for `more` bytes and so many descriptors: 0, or -ENOSPC when what is left may not be
 * dropped. What is written takes even what was fetched and nobody read yet. */
static int make_room(const struct store *s, const struct file *keep, uint64_t more, size_t fds)
{
    size_t limit = fd_limit();
    struct file *f, *next;
    DL_FOREACH_SAFE2(s->room->files, f, next, room_next)
    {
        bool room = has_room(s, more, fds, limit);
        if (room && has_share(s, more))
            return 0;
        if (f != keep && may_go(f) && (!room || f->store == s))
            evict_one(f);
    }
    DL_FOREACH2(more ? s->room->files : NULL, f, room_next)
    {
        if (has_room(s, more, fds, limit) && has_share(s, more))
            return 0;
        file_shed(f, missing(s, f, more), keep->state != FILE_FILLING);
    }
    return has_room(s, more, fds, limit) && has_share(s, more) ? 0 : -ENOSPC;
}

int room_make(struct file *f, uint64_t more)
{
    return make_room(f->store, f, more, f->fd < 0 ? 1 : 0);
}

int room_exceed(struct file *f, uint64_t more)
{
    if (!disk_has_room(f->store, more))
        return -ENOSPC;
    file_account(f, f->bytes + more);
    return 0;
}

int room_for_left(struct file *f)
{
    size_t limit = fd_limit();
    while (f->store->room->fds >= limit) {
        if (!room_spare_fd(f->store))
            return -EMFILE;
    }
    return 0;
}

int room_open(struct store *s)
{
    if (make_room(s, NULL, 0, STORE_FDS))
        return -EMFILE;
    s->room->fds += STORE_FDS;
    s->in_room = true;
    return 0;
}

void room_close(struct store *s)
{
    if (s->in_room)
        s->room->fds -= STORE_FDS;
    s->in_room = false;
}

bool room_spare_fd(const struct store *s)
{
    struct file *f;
    DL_FOREACH2(s->room->files, f, room_next)
    {
        if (f->fd >= 0 && may_go(f)) {
            evict_one(f);
            return true;
        }
    }
    return false;
}

bool room_tell_away(struct room *r, bool away)
{
    bool news = r->away != away;
    r->away = away;
    return news;
}

void store_evict(struct store *s)
{
    struct file *f, *next;
    DL_FOREACH_SAFE (s->files, f, next) {
        if (may_go(f))
            evict_one(f);
    }
}
