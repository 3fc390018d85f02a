#include "credential/secret.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

/* --- memory */

/* In front of each secret, in its first page. */
struct region {
    size_t size; /* of the mapping */
    char text[];
};

char *secret_new(const char *text, size_t len)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (len > SIZE_MAX / 2)
        return NULL;
    size_t size = (sizeof(struct region) + len + 1 + page - 1) / page * page;
    struct region *r = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r == MAP_FAILED)
        return NULL;
    /* Both are a second line of defence: where a limit forbids them, go on without. */
    madvise(r, size, MADV_DONTDUMP);
    mlock(r, size);
    r->size = size;
    if (text)
        memcpy(r->text, text, len);
    return r->text;
}

void secret_free(char *secret)
{
    if (!secret)
        return;
    struct region *r = (struct region *)(secret - offsetof(struct region, text));
    size_t size = r->size;
    explicit_bzero(r, size);
    munmap(r, size);
    secret_wipe_traces();
}

/* --- the environment */

const char *const secret_variables[] = {
    "ACAFS_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_PASSWORD",
    "IDENTITY_HEADER",
    "MSI_SECRET",
    NULL,
};

/* The string stands where the kernel shows it as /proc/PID/environ. */
static void forget_variable(const char *name)
{
    char *value = getenv(name);
    if (!value)
        return;
    explicit_bzero(value, strlen(value));
    unsetenv(name);
}

int secret_take_environment(const char *name, char **out)
{
    *out = NULL;
    const char *value = getenv(name);
    if (value && *value && !(*out = secret_new(value, strlen(value))))
        return -ENOMEM;
    forget_variable(name);
    return 0;
}

void secret_forget_environment(void)
{
    for (const char *const *name = secret_variables; *name; name++)
        forget_variable(*name);
}

/* --- files */

static int complain(struct buf *why, const char *path, int err, const char *text)
{
    buf_addf(why, "%s: %s", path, text ? text : strerror(-err));
    return err;
}

int secret_read(const char *path, size_t max, bool text, bool *told, char **out, size_t *len,
                struct buf *why)
{
    *out = NULL;
    *len = 0;
    /* Not to wait for the other end of a FIFO. */
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st))
        return complain(why, path, -errno, NULL);
    if (!S_ISREG(st.st_mode))
        return complain(why, path, -EINVAL, "not a regular file");
    if (st.st_size > (off_t)max)
        return complain(why, path, -EFBIG, "too large for what it should hold");
    if (st.st_mode & S_IROTH && !(told && *told))
        log_warning("%s: holds a secret, but every user may read it: chmod o-r it", path);
    if (told)
        *told = st.st_mode & S_IROTH;
    _cleanup_secret_ char *bytes = secret_new(NULL, max);
    if (!bytes)
        return complain(why, path, -ENOMEM, NULL);
    size_t have = 0;
    ssize_t n;
    while (have < max && (n = read(fd, bytes + have, max - have)) != 0) {
        if (n < 0 && errno != EINTR)
            return complain(why, path, -errno, NULL);
        have += n > 0 ? (size_t)n : 0;
    }
    while (text && have && isspace((unsigned char)bytes[have - 1]))
        have--;
    bytes[have] = '\0';
    if (!have)
        return complain(why, path, -ENODATA, "the file is empty");
    *out = bytes;
    *len = have;
    bytes = NULL;
    return 0;
}

char *secret_path(const char *name)
{
    if (*name == '/')
        return strdup(name);
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    _cleanup_buf_ struct buf path = {0};
    if (directory && *directory) {
        if (buf_addf(&path, "%s/%s", directory, name))
            return NULL;
        if (access(path.data, F_OK) == 0)
            return buf_take(&path);
        buf_free(&path);
    }
    /* The daemon may leave the directory that the name is relative to. */
    char here[PATH_MAX];
    if (!getcwd(here, sizeof here))
        return strdup(name);
    return buf_addf(&path, "%s/%s", here, name) ? NULL : buf_take(&path);
}

/* --- text */

bool secret_is_word(const char *text)
{
    const char *c = text;
    while (*c > ' ' && *c <= '~')
        c++;
    return c > text && *c == '\0';
}

enum {
    SHORTEST_TOKEN = 48
}; /* no word of a message is that long; paths and URLs have other marks */

static bool is_token_char(char c)
{
    return isalnum((unsigned char)c) || (c && strchr("-_.~+=", c));
}

/* How many bytes at text to hide: a known secret, or a run such as only tokens are. */
static size_t secret_at(const char *text, size_t left, bool at_word, const char *const *secrets)
{
    for (; secrets && *secrets; secrets++) {
        size_t len = strlen(*secrets);
        if (len && len <= left && memcmp(text, *secrets, len) == 0)
            return len;
    }
    size_t run = 0;
    while (at_word && run < left && is_token_char(text[run]))
        run++;
    bool jwt = run > 3 && memcmp(text, "eyJ", 3) == 0;
    return jwt || run >= SHORTEST_TOKEN ? run : 0;
}

/* The value of a member such as "accessToken": "…", whatever it looks like. */
static size_t member_value(const char *text, size_t left)
{
    static const char *const names[] = {"\"accessToken\"", "\"access_token\"", "\"token\"",
                                        "\"refresh_token\"", "\"client_secret\""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t at = strlen(names[i]);
        if (at > left || memcmp(text, names[i], at) != 0)
            continue;
        while (at < left && (text[at] == ':' || isspace((unsigned char)text[at])))
            at++;
        return at < left && text[at] == '"' ? at + 1 : 0;
    }
    return 0;
}

int secret_quote(struct buf *out, const char *said, size_t len, size_t limit,
                 const char *const *secrets)
{
    struct buf clean = {0};
    int err = 0;
    for (size_t i = 0; i < len && !err;) {
        size_t hide = secret_at(said + i, len - i, i == 0 || !is_token_char(said[i - 1]), secrets);
        size_t head = hide ? 0 : member_value(said + i, len - i);
        if (head) {
            err = buf_add(&clean, said + i, head);
            i += head;
            while (i < len && said[i] != '"')
                i++;
            hide = 1;
        } else {
            i += hide;
        }
        if (hide)
            err = err ? err : buf_adds(&clean, "****");
        else
            err = buf_add(&clean, said + i++, 1);
        if (hide && head && i < len)
            err = err ? err : buf_add(&clean, said + i++, 1);
    }
    if (!err && clean.len)
        err = text_printable(out, clean.data, clean.len, limit);
    buf_wipe(&clean);
    return err;
}
