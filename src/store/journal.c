/* The file: "acafsj1\n", then for each record
 *     length of the body, 4 bytes, little endian
 *     CRC-32C of that length and the body, 4 bytes, little endian
 *     the body */
#include "store/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/fault.h"
#include "util/cleanup.h"

static const char magic[8] = "acafsj1\n";
static const char file_name[] = "journal", new_name[] = "journal.new";

enum { HEAD = 8 };

struct journal {
    int dir_fd; /* our own */
    int fd;
    uint64_t size;
    bool cut_due; /* what is behind `size` could not be cut off yet */
};

/* --- framing */

/* Castagnoli, bit by bit: records are short and few. */
static uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    const unsigned char *p = data;
    crc = ~crc;
    while (len--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

static void put32(unsigned char *at, uint32_t n)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(n >> 8 * i);
}

static uint32_t get32(const unsigned char *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint32_t checksum(const unsigned char head[4], const void *body, size_t len)
{
    return crc32c(crc32c(0, head, 4), body, len);
}

int journal_frame(struct buf *out, const void *body, size_t len)
{
    unsigned char head[HEAD];
    if (len > JOURNAL_RECORD_MAX)
        return -EMSGSIZE;
    put32(head, (uint32_t)len);
    put32(head + 4, checksum(head, body, len));
    if (buf_reserve(out, HEAD + len))
        return -ENOMEM;
    buf_add(out, head, HEAD);
    return buf_add(out, body, len);
}

size_t journal_scan(const void *data, size_t len, journal_record_fn *fn, void *arg)
{
    const unsigned char *p = data;
    size_t at = 0;
    while (len - at >= HEAD) {
        size_t body = get32(p + at);
        if (body > JOURNAL_RECORD_MAX || body > len - at - HEAD ||
            get32(p + at + 4) != checksum(p + at, p + at + HEAD, body))
            break;
        if (fn(arg, p + at + HEAD, body))
            break;
        at += HEAD + body;
    }
    return at;
}

/* --- the file */

struct reading {
    journal_record_fn *fn;
    void *arg;
    int err;
};

static int take(void *arg, const void *body, size_t len)
{
    struct reading *r = arg;
    return r->err = r->fn(r->arg, body, len);
}

/* Hands out what the file holds; sets size to where its last whole record ends. */
static int read_records(struct journal *j, uint64_t len, struct reading *r)
{
    if (len < sizeof magic)
        return 0; /* cut off while it was made */
    const char *data = mmap(NULL, len, PROT_READ, MAP_PRIVATE, j->fd, 0);
    if (data == MAP_FAILED)
        return -errno;
    int err = memcmp(data, magic, sizeof magic) ? -EPROTO : 0;
    if (!err)
        j->size = sizeof magic + journal_scan(data + sizeof magic, len - sizeof magic, take, r);
    munmap((void *)data, len);
    return err ? err : r->err;
}

static int write_all(int fd, const void *data, size_t len, uint64_t at)
{
    const char *p = data;
    while (len) {
        ssize_t n = pwrite(fd, p, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        p += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* Whatever was written behind the last whole record goes. */
static int cut(struct journal *j)
{
    j->cut_due = true;
    if (ftruncate(j->fd, (off_t)j->size))
        return -errno;
    j->cut_due = false;
    return 0;
}

static int begin(struct journal *j)
{
    int err = write_all(j->fd, magic, sizeof magic, 0);
    if (err)
        return err;
    j->size = sizeof magic;
    return fsync(j->fd) || fsync(j->dir_fd) ? -errno : 0;
}

int journal_open(int dir_fd, journal_record_fn *fn, void *arg, struct journal **out,
                 uint64_t *dropped)
{
    struct journal *j = calloc(1, sizeof *j);
    if (!j)
        return -ENOMEM;
    struct stat st = {0};
    struct reading r = {.fn = fn, .arg = arg};
    j->dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
    j->fd = openat(dir_fd, file_name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    int err = j->dir_fd < 0 || j->fd < 0 || fstat(j->fd, &st) ? -errno : 0;
    if (!err)
        err = read_records(j, (uint64_t)st.st_size, &r);
    *dropped = err ? 0 : (uint64_t)st.st_size - j->size;
    if (!err && (uint64_t)st.st_size != j->size)
        err = cut(j);
    if (!err && j->size == 0)
        err = begin(j);
    if (err) {
        journal_close(j);
        return err;
    }
    *out = j;
    return 0;
}

void journal_close(struct journal *j)
{
    if (!j)
        return;
    if (j->fd >= 0)
        close(j->fd);
    if (j->dir_fd >= 0)
        close(j->dir_fd);
    free(j);
}

int journal_append(struct journal *j, const struct buf *frames, bool durable)
{
    int err = j->cut_due ? cut(j) : 0;
    if (err)
        return err;
    if (frames->len && fault_due("record-torn")) {
        write_all(j->fd, frames->data, frames->len / 2 + 1, j->size);
        fault_die();
    }
    err = write_all(j->fd, frames->data, frames->len, j->size);
    fault_point("record-written");
    if (!err && durable && fdatasync(j->fd))
        err = -errno;
    if (err) {
        cut(j);
        return err;
    }
    j->size += frames->len;
    return 0;
}

int journal_replace(struct journal *j, const struct buf *frames)
{
    _cleanup_close_ int fd =
        openat(j->dir_fd, new_name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int err = write_all(fd, magic, sizeof magic, 0);
    if (!err)
        err = write_all(fd, frames->data, frames->len, sizeof magic);
    if (!err && fsync(fd))
        err = -errno;
    fault_point("compact-written");
    if (!err && renameat(j->dir_fd, new_name, j->dir_fd, file_name))
        err = -errno;
    if (err) {
        unlinkat(j->dir_fd, new_name, 0);
        return err;
    }
    fault_point("compact-renamed");
    close(j->fd);
    j->fd = fd;
    fd = -1;
    j->size = sizeof magic + frames->len;
    j->cut_due = false;
    return fsync(j->dir_fd) ? -errno : 0;
}

uint64_t journal_size(const struct journal *j)
{
    return j->size;
}
