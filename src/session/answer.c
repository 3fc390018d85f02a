#include "session/answer.h"
#include "session/answer_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <uthash.h>

#include "http/http.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

enum { NAME_LIMIT = 255, PATH_LIMIT = 4096 };

void entry_free(struct entry *e)
{
    free(e->name);
    free(e->directory);
    free(e->target);
    memset(e, 0, sizeof *e);
}

void listing_free(struct listing *l)
{
    for (size_t i = 0; i < l->count; i++)
        entry_free(&l->entries[i]);
    free(l->entries);
    free(l->next);
    memset(l, 0, sizeof *l);
}

void session_info_free(struct session_info *info)
{
    free(info->etag);
    memset(info, 0, sizeof *info);
}

bool entry_name_ok(const char *name, size_t len)
{
    return len >= 1 && len <= NAME_LIMIT && memchr(name, '/', len) == NULL &&
           memchr(name, '\0', len) == NULL && !(len == 1 && name[0] == '.') &&
           !(len == 2 && name[0] == '.' && name[1] == '.');
}

/* The parent as listed ("", ".", "./d", "d/e") in our form; NULL when it could climb
 * or when out of memory. */
static char *parent_path(const char *listed)
{
    if (!listed || strcmp(listed, ".") == 0)
        return strdup("");
    if (strncmp(listed, "./", 2) == 0)
        listed += 2;
    size_t len = strlen(listed);
    if (len == 0)
        return strdup("");
    if (len > PATH_LIMIT)
        return NULL;
    for (const char *part = listed;;) {
        size_t n = strcspn(part, "/");
        if (!entry_name_ok(part, n))
            return NULL;
        if (!part[n])
            return strdup(listed);
        part += n + 1;
    }
}

static const char *either(const cJSON *object, const char *one, const char *two, const char *three)
{
    const char *text = json_string(object, one);
    if (!text)
        text = json_string(object, two);
    return text || !three ? text : json_string(object, three);
}

/* 0, -EINVAL for an entry that can't be shown, or -ENOMEM. `cut` says that the body held
 * a \u0000, which json_parse() turned into U+FFFD. */
static int read_entry(const cJSON *item, bool cut, struct entry *out)
{
    const cJSON *inner = json_object(item, "properties");
    if (inner)
        item = inner;
    const char *name = either(item, "name", "filename", NULL);
    const char *type = json_string(item, "type");
    if (!name || !entry_name_ok(name, strlen(name)) || !text_is_utf8(name, strlen(name)) ||
        (cut && strstr(name, "\xef\xbf\xbd")))
        return -EINVAL;
    if (type && strcasecmp(type, "directory") == 0)
        out->kind = ENTRY_DIRECTORY;
    else if (type && strcmp(type, "symlink") == 0 && json_string(item, "target"))
        out->kind = ENTRY_SYMLINK; /* only the helper tells */
    else if (type && strcasecmp(type, "file") != 0)
        return -EINVAL;

    uint64_t size;
    bool sized = json_uint(item, "sizeInBytes", &size) || json_uint(item, "size", &size);
    out->size = sized && out->kind != ENTRY_DIRECTORY ? (int64_t)size : -1;
    const char *time = either(item, "lastModifiedAt", "lastModifiedTime", "last_modified_time");
    if (!time)
        time = json_string(item, "mtime"); /* the helper's */
    if (!time || text_parse_time(time, &out->mtime))
        out->mtime = (struct timespec){.tv_nsec = -1};
    const char *directory = json_string(item, "directory");
    if (directory && cut && strstr(directory, "\xef\xbf\xbd"))
        return -EINVAL;
    out->directory = parent_path(directory);
    if (!out->directory)
        return -EINVAL;
    uint64_t mode;
    if (json_uint(item, "mode", &mode))
        out->mode = mode & 07777;
    if (out->kind == ENTRY_SYMLINK && !(out->target = strdup(json_string(item, "target"))))
        return -ENOMEM;
    out->name = strdup(name);
    return out->name ? 0 : -ENOMEM;
}

static bool has_nul_escape(const struct answer *a)
{
    return a->body && memmem(a->body, a->len, "\\u0000", 6) != NULL;
}

/* --- lists: a name that comes twice counts once, as it came last. */
struct seen {
    char *key; /* directory '/' name */
    size_t index;
    UT_hash_handle hh;
};

static void seen_free(struct seen **all)
{
    struct seen *s, *next;
    HASH_ITER (hh, *all, s, next) {
        HASH_DEL(*all, s);
        free(s->key);
        free(s);
    }
}

static int add_entry(struct listing *out, struct seen **all, struct entry *entry)
{
    struct buf key = {0};
    if (buf_addf(&key, "%s/%s", entry->directory, entry->name))
        return -ENOMEM;
    struct seen *known;
    HASH_FIND(hh, *all, key.data, key.len, known);
    if (known) {
        buf_free(&key);
        entry_free(&out->entries[known->index]);
        out->entries[known->index] = *entry;
        return 0;
    }
    known = calloc(1, sizeof *known);
    if (!known) {
        buf_free(&key);
        return -ENOMEM;
    }
    known->index = out->count;
    size_t len = key.len;
    known->key = buf_take(&key);
    HASH_ADD_KEYPTR(hh, *all, known->key, len, known);
    out->entries[out->count++] = *entry;
    return 0;
}

int answer_entries(const cJSON *array, bool cut, struct listing *out)
{
    int n = cJSON_GetArraySize(array);
    out->entries = calloc((size_t)n + 1, sizeof *out->entries);
    struct seen *all __attribute__((cleanup(seen_free))) = NULL;
    const cJSON *item;
    int err = out->entries ? 0 : -ENOMEM;
    if (err)
        return err;
    cJSON_ArrayForEach (item, array) {
        struct entry entry = {0};
        out->placed = out->placed || json_string(item, "directory");
        err = read_entry(item, cut, &entry);
        if (!err)
            err = add_entry(out, &all, &entry);
        if (err)
            entry_free(&entry);
        if (err == -ENOMEM)
            return err;
        if (err)
            out->skipped++;
    }
    return 0;
}

int answer_one_entry(const cJSON *item, struct entry *out)
{
    int err = read_entry(item, false, out);
    if (err)
        entry_free(out);
    return err;
}

/* The page may be an array, or {"value": array or null}. NULL: neither; *empty: no entries. */
static const cJSON *list_array(const cJSON *body, bool *empty)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(body, "value");
    *empty = cJSON_IsNull(body) || cJSON_IsNull(value);
    return cJSON_IsArray(body) ? body : json_array(body, "value");
}

static int next_page(const cJSON *body, const char *base, struct listing *out,
                     struct session_error *e)
{
    const char *next = json_string(body, "nextLink");
    if (!next || !*next)
        return 0;
    if (!http_same_origin(next, base))
        return answer_nonsense(e, "the next page of a list is said to be on another host");
    out->next = strdup(next);
    return out->next ? 0 : answer_no_memory(e);
}

int answer_list(const struct answer *a, const char *base, struct listing *out,
                struct session_error *e)
{
    memset(out, 0, sizeof *out);
    _cleanup_json_ cJSON *body = NULL;
    int err = answer_document(a, &body, e);
    if (err)
        return err;
    bool empty;
    const cJSON *array = list_array(body, &empty);
    if (!array && !empty)
        return answer_nonsense(e, "the pool's list of files has no list in it");
    if (array && answer_entries(array, has_nul_escape(a), out))
        err = answer_no_memory(e);
    if (!err)
        err = next_page(body, base, out, e);
    if (err)
        listing_free(out);
    return err;
}

int answer_entry(const struct answer *a, struct entry *out, struct session_error *e)
{
    memset(out, 0, sizeof *out);
    _cleanup_json_ cJSON *body = NULL;
    int err = answer_document(a, &body, e);
    if (err)
        return err;
    bool empty;
    const cJSON *array = list_array(body, &empty);
    err = read_entry(array ? cJSON_GetArrayItem(array, 0) : body, has_nul_escape(a), out);
    if (err)
        entry_free(out);
    if (err == -ENOMEM)
        return answer_no_memory(e);
    return err ? answer_nonsense(e, "the pool's answer about a file names none") : 0;
}

int answer_session(const struct answer *a, struct session_info *out, struct session_error *e)
{
    memset(out, 0, sizeof *out);
    _cleanup_json_ cJSON *body = NULL;
    int err = answer_document(a, &body, e);
    if (err)
        return err;
    if (!cJSON_IsObject(body))
        return answer_nonsense(e, "the pool's answer about the session is no object");
    out->etag = answer_line(json_string(body, "etag"), MESSAGE_LIMIT);
    const char *expires = either(body, "expireAt", "expiresAt", NULL);
    if (!expires || text_parse_time(expires, &out->expires))
        out->expires = (struct timespec){.tv_nsec = -1};
    return 0;
}
