/* A body: type (1 byte), `how` (1), path and other (each 2 bytes of length, the bytes, NUL), and
 * where the type has facts 16 numbers of 8 bytes, the last not in old journals. Little endian. */
#include "store/record.h"

#include <errno.h>
#include <string.h>

enum { FACTS = 16, FACTS_OLD = 15, PATH_LIMIT = 1 << 14 };

static bool has_facts(enum record_type type)
{
    return type == RECORD_NODE || type == RECORD_LEFT;
}

/* --- writing */

static int put(struct buf *out, uint64_t n, int bytes)
{
    unsigned char raw[8];
    for (int i = 0; i < bytes; i++)
        raw[i] = (unsigned char)(n >> 8 * i);
    return buf_add(out, raw, (size_t)bytes);
}

static int put_text(struct buf *out, const char *text)
{
    size_t len = text ? strlen(text) : 0;
    if (len >= PATH_LIMIT)
        return -ENAMETOOLONG;
    int err = put(out, len, 2);
    return err ? err : buf_add(out, text ? text : "", len + 1);
}

int record_write(struct buf *out, const struct record *r)
{
    int err = put(out, r->type, 1);
    err = err ? err : put(out, r->how, 1);
    err = err ? err : put_text(out, r->path);
    err = err ? err : put_text(out, r->other);
    if (err || !has_facts(r->type))
        return err;
    const struct node_facts *f = &r->facts;
    const uint64_t numbers[FACTS] = {
        f->flags,
        f->mode,
        f->uid,
        f->gid,
        f->content,
        (uint64_t)f->size,
        (uint64_t)f->mtime.tv_sec,
        (uint64_t)f->mtime.tv_nsec,
        (uint64_t)f->atime.tv_sec,
        (uint64_t)f->atime.tv_nsec,
        (uint64_t)f->ctime.tv_sec,
        (uint64_t)f->ctime.tv_nsec,
        (uint64_t)f->base.size,
        (uint64_t)f->base.mtime.tv_sec,
        (uint64_t)f->base.mtime.tv_nsec,
        f->sent,
    };
    for (int i = 0; i < FACTS && !err; i++)
        err = put(out, numbers[i], 8);
    return err;
}

/* --- reading */

struct cursor {
    const unsigned char *at;
    size_t left;
};

static bool get(struct cursor *c, int bytes, uint64_t *n)
{
    if (c->left < (size_t)bytes)
        return false;
    *n = 0;
    for (int i = 0; i < bytes; i++)
        *n |= (uint64_t)c->at[i] << 8 * i;
    c->at += bytes;
    c->left -= (size_t)bytes;
    return true;
}

static bool get_text(struct cursor *c, const char **out)
{
    uint64_t len;
    if (!get(c, 2, &len) || len >= PATH_LIMIT || c->left < len + 1 || c->at[len] != '\0' ||
        memchr(c->at, '\0', len))
        return false;
    *out = (const char *)c->at;
    c->at += len + 1;
    c->left -= len + 1;
    return true;
}

/* tv_nsec -1: not known. */
static bool is_time(const struct timespec *t)
{
    return t->tv_nsec >= -1 && t->tv_nsec < 1000000000;
}

static bool get_facts(struct cursor *c, struct node_facts *f)
{
    uint64_t n[FACTS] = {0};
    int count = c->left == FACTS_OLD * 8 ? FACTS_OLD : FACTS;
    for (int i = 0; i < count; i++) {
        if (!get(c, 8, &n[i]))
            return false;
    }
    *f = (struct node_facts){
        .flags = (uint32_t)n[0],
        .mode = (uint32_t)n[1],
        .uid = (uint32_t)n[2],
        .gid = (uint32_t)n[3],
        .content = n[4],
        .size = (int64_t)n[5],
        .mtime = {(time_t)n[6], (long)n[7]},
        .atime = {(time_t)n[8], (long)n[9]},
        .ctime = {(time_t)n[10], (long)n[11]},
        .base = {.size = (int64_t)n[12], .mtime = {(time_t)n[13], (long)n[14]}},
        .sent = n[15],
    };
    return n[0] <= NODE_FLAGS && n[1] <= UINT32_MAX && n[2] <= UINT32_MAX && n[3] <= UINT32_MAX &&
           is_time(&f->mtime) && is_time(&f->atime) && is_time(&f->ctime) &&
           is_time(&f->base.mtime);
}

int record_read(const void *body, size_t len, struct record *out)
{
    struct cursor c = {.at = body, .left = len};
    uint64_t type, how;
    *out = (struct record){0};
    if (!get(&c, 1, &type) || type < RECORD_NODE || type >= RECORD_TYPES || !get(&c, 1, &how) ||
        !get_text(&c, &out->path) || !get_text(&c, &out->other))
        return -EPROTO;
    out->type = (enum record_type)type;
    out->how = (uint32_t)how;
    if (has_facts(out->type) && !get_facts(&c, &out->facts))
        return -EPROTO;
    return c.left ? -EPROTO : 0;
}
