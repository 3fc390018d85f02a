/* A growable byte buffer. `data` is always NUL-terminated once anything was
 * added, so text can be used in place. Zero-initialise to start: `struct buf b = {0};` */
#ifndef ACAFS_UTIL_BUF_H
#define ACAFS_UTIL_BUF_H

#include <stddef.h>
#include <stdarg.h>

struct buf {
    char *data;
    size_t len;  /* bytes in use, without the terminating NUL */
    size_t size; /* bytes allocated */
};

/* Each returns 0 or -ENOMEM; on error the buffer is as it was. */
int buf_add(struct buf *, const void *data, size_t len);
int buf_adds(struct buf *, const char *text);
int buf_addf(struct buf *, const char *format, ...) __attribute__((format(printf, 2, 3)));
int buf_vaddf(struct buf *, const char *format, va_list);
/* Makes room for `more` further bytes at data + len; the caller then advances len. */
int buf_reserve(struct buf *, size_t more);

/* Hands the bytes over: the caller frees the returned pointer (never NULL unless out of memory). */
char *buf_take(struct buf *);
/* Drops the first n bytes. */
void buf_consume(struct buf *, size_t n);
void buf_free(struct buf *);
/* As buf_free, after overwriting the bytes: for tokens and secrets. */
void buf_wipe(struct buf *);

#define _cleanup_buf_ __attribute__((cleanup(buf_free)))

#endif
