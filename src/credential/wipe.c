/* What remains of secrets outside their own pages.
 *
 * Tokens pass through libcurl, OpenSSL, nghttp2 and cJSON, which all leave copies in memory that
 * they free. So free() of a program that holds credentials overwrites what it is given:
 * glibc lets a program have its own, for every library in it. Blocks of a megabyte and
 * more hold file content and are left alone. */
#include "credential/secret.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

enum { STACK_BELOW = 64 << 10 };

void secret_wipe_on_free(void)
{
}

/* The C library moves and compares strings in vector registers, and leaves them as they are. From
 * there they get into core images, and onto the stack whenever something saves the registers. */
static void wipe_registers(void)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vzeroall" ::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                               "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                               "xmm15");
    if (__builtin_cpu_supports("avx512f"))
        __asm__ volatile(".irp n,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n\t"
                         "vpxord %%zmm\\n, %%zmm\\n, %%zmm\\n\n\t"
                         ".endr" ::
                             :);
#endif
}

static void __attribute__((noinline)) wipe_stack(void)
{
    char below[STACK_BELOW];
    explicit_bzero(below, sizeof below);
}

void secret_wipe_traces(void)
{
    wipe_registers();
    wipe_stack();
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_ALLOCATOR 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define OWN_ALLOCATOR 1
#endif
#endif

#if defined(__GLIBC__) && !defined(OWN_ALLOCATOR)

enum { LARGEST_WIPED = 1 << 20 };

extern void __libc_free(void *);
extern void *__libc_realloc(void *, size_t);

static void wipe(void *block, size_t size)
{
    if (size < LARGEST_WIPED)
        explicit_bzero(block, size);
}

void free(void *block)
{
    if (!block)
        return;
    int err = errno; /* callers rely on free() keeping it */
    wipe(block, malloc_usable_size(block));
    __libc_free(block);
    errno = err;
}

/* A block that may move is copied here, so that the place it leaves is overwritten. */
void *realloc(void *block, size_t size)
{
    size_t old = block ? malloc_usable_size(block) : 0;
    if (!block || old >= LARGEST_WIPED)
        return __libc_realloc(block, size);
    if (!size) {
        free(block);
        return NULL;
    }
    if (size <= old && size >= old / 2)
        return block;
    void *moved = malloc(size);
    if (!moved)
        return NULL;
    memcpy(moved, block, old < size ? old : size);
    free(block);
    return moved;
}

#endif
