#include "acarun/mcp_content.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "acarun/tool.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

enum {
    CLIP_HEAD = 32 << 10, /* of a stream: a model reads all of it, and pays for it */
    CLIP_TAIL = 32 << 10,
    ENTRIES_MAX = 1000,
};

/* --- revisions */

static const char *const versions[] = {
    [MCP_2024_11_05] = "2024-11-05",
    [MCP_2025_03_26] = "2025-03-26",
    [MCP_2025_06_18] = "2025-06-18",
    [MCP_2025_11_25] = "2025-11-25",
};

const char *mcp_version_name(enum mcp_version version)
{
    return versions[version];
}

enum mcp_version mcp_version_choose(const char *asked)
{
    for (unsigned v = 0; v <= MCP_LATEST; v++) {
        if (strcmp(versions[v], asked) == 0)
            return (enum mcp_version)v;
    }
    return MCP_LATEST;
}

cJSON *content_hello(enum mcp_version version)
{
    cJSON *hello = cJSON_CreateObject();
    cJSON_AddStringToObject(hello, "protocolVersion", mcp_version_name(version));
    cJSON_AddObjectToObject(cJSON_AddObjectToObject(hello, "capabilities"), "tools");
    cJSON *server = cJSON_AddObjectToObject(hello, "serverInfo");
    cJSON_AddStringToObject(server, "name", "acarun");
    cJSON_AddStringToObject(server, "version", ACAFS_VERSION);
    cJSON_AddStringToObject(
        hello, "instructions",
        "Python code runs in one sandboxed session, whose variables, imports and files stay from "
        "call to call. The working directory /mnt/data holds the files: upload_file puts data "
        "there, code reads and writes it, download_file brings it back.");
    return hello;
}

/* --- the tools */

/* What a tool takes and gives: JSON schemas in short, each member with its type. */
struct member {
    const char *name, *type, *about;
    bool required, shared; /* shared: only with a directory of this machine */
};

static const struct member list_members[] = {
    {"path", "string", "The directory, relative to /mnt/data; all of it when left out.", false,
     false},
    {"recursive", "boolean", "Whether to list the directories in it too.", false, false},
    {0},
};
static const struct member upload_members[] = {
    {"path", "string", "Where the file goes, relative to /mnt/data.", true, false},
    {"text", "string", "Its content, when that is text.", false, false},
    {"base64", "string", "Its content in base64, when that is no text.", false, false},
    {"local_path", "string", "A file of the user's shared directory to take the content from.",
     false, true},
    {0},
};
static const struct member download_members[] = {
    {"path", "string", "The file, relative to /mnt/data.", true, false},
    {"local_path", "string",
     "A file of the user's shared directory to write it to, instead of showing its content.", false,
     true},
    {0},
};
static const struct member code_results[] = {
    {"result", NULL, "The value of the last expression.", true, false},
    {"stdout", "string", NULL, true, false},
    {"stderr", "string", NULL, true, false},
    {0},
};
static const struct member list_results[] = {
    {"files", "array", NULL, true, false},
    {"left_out", "integer", "Entries that are not in the list.", true, false},
    {0},
};
static const struct member upload_results[] = {
    {"path", "string", NULL, true, false},
    {"size", "integer", NULL, true, false},
    {0},
};

static const struct {
    const char *name, *title, *about;
    const struct member *members, *results;
    bool read_only;
} tools[] = {
    [TOOL_CODE] = {"code_interpreter", "Run Python code", NULL, NULL, code_results, false},
    [TOOL_LIST] = {"list_files", "List files", "Lists the files of the session.", list_members,
                   list_results, true},
    [TOOL_UPLOAD] = {"upload_file", "Upload a file",
                     "Puts a file into the session, in place of any that has its name. Its "
                     "directories are made.",
                     upload_members, upload_results, false},
    [TOOL_DOWNLOAD] = {"download_file", "Download a file",
                       "Gives the content of a file of the session: text, an image, or base64.",
                       download_members, NULL, true},
};

static cJSON *schema(const struct member *members, bool shared)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "type", "object");
    cJSON *properties = cJSON_AddObjectToObject(object, "properties"),
          *required = cJSON_CreateArray();
    for (const struct member *m = members; m->name; m++) {
        if (m->shared && !shared)
            continue;
        cJSON *property = cJSON_AddObjectToObject(properties, m->name);
        if (m->type)
            cJSON_AddStringToObject(property, "type", m->type);
        if (m->about)
            cJSON_AddStringToObject(property, "description", m->about);
        if (m->required)
            cJSON_AddItemToArray(required, cJSON_CreateString(m->name));
    }
    if (cJSON_GetArraySize(required))
        cJSON_AddItemToObject(object, "required", required);
    else
        cJSON_Delete(required);
    return object;
}

/* Hints for clients that ask the user before a call. */
static void add_annotations(cJSON *tool, unsigned i, bool shared)
{
    cJSON *hints = cJSON_AddObjectToObject(tool, "annotations");
    cJSON_AddStringToObject(hints, "title", tools[i].title);
    bool writes_here = shared && i == TOOL_DOWNLOAD;
    cJSON_AddBoolToObject(hints, "readOnlyHint", tools[i].read_only && !writes_here);
    cJSON_AddBoolToObject(hints, "openWorldHint", false);
}

cJSON *content_tools(enum mcp_version version, bool shared)
{
    cJSON *result = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(result, "tools");
    for (unsigned i = 0; i < TOOL_NONE; i++) {
        cJSON *tool = cJSON_CreateObject();
        cJSON_AddItemToArray(list, tool);
        cJSON_AddStringToObject(tool, "name", tools[i].name);
        if (version >= MCP_2025_06_18)
            cJSON_AddStringToObject(tool, "title", tools[i].title);
        cJSON_AddStringToObject(tool, "description",
                                tools[i].about ? tools[i].about : tool_about());
        cJSON_AddItemToObject(tool, "inputSchema",
                              tools[i].members ? schema(tools[i].members, shared) : tool_schema());
        if (version >= MCP_2025_06_18 && tools[i].results)
            cJSON_AddItemToObject(tool, "outputSchema", schema(tools[i].results, shared));
        if (version >= MCP_2025_03_26)
            add_annotations(tool, i, shared);
    }
    return result;
}

enum tool tool_by_name(const char *name)
{
    for (unsigned i = 0; name && i < TOOL_NONE; i++) {
        if (strcmp(tools[i].name, name) == 0)
            return (enum tool)i;
    }
    return TOOL_NONE;
}

static bool is_type(const cJSON *value, const char *type)
{
    return strcmp(type, "string") == 0 ? cJSON_IsString(value) : cJSON_IsBool(value);
}

const char *content_check(enum tool tool, const cJSON *arguments)
{
    static const char *const sources[] = {"text", "base64", "local_path"};
    if (tool == TOOL_CODE)
        return json_string(arguments, "python_code") ? NULL : "python_code must be a string";
    for (const struct member *m = tools[tool].members; m->name; m++) {
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(arguments, m->name);
        if (!value && m->required)
            return "path is missing";
        if (value && !is_type(value, m->type))
            return strcmp(m->type, "string") == 0 ? "path, text, base64 and local_path are strings"
                                                  : "recursive is true or false";
    }
    unsigned given = 0;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        given += json_string(arguments, sources[i]) != NULL;
    return tool == TOOL_UPLOAD && given != 1 ? "give one of text, base64 and local_path" : NULL;
}

char *content_path(const char *given)
{
    static const char root[] = "/mnt/data";
    struct buf path = {0};
    size_t len = sizeof root - 1;
    if (strncmp(given, root, len) == 0 && (!given[len] || given[len] == '/'))
        given += len;
    else if (*given == '/')
        return NULL;
    int err = buf_adds(&path, "");
    while (*given && !err) {
        size_t n = strcspn(given, "/");
        bool here = n == 0 || (n == 1 && *given == '.');
        if (n == 2 && strncmp(given, "..", 2) == 0)
            err = -EINVAL;
        if (!here && path.len)
            err = err ? err : buf_adds(&path, "/");
        if (!here)
            err = err ? err : buf_add(&path, given, n);
        given += n + (given[n] == '/');
    }
    if (err)
        buf_free(&path);
    return err ? NULL : buf_take(&path);
}

/* --- streams */

int clip_add(struct clip *c, const void *data, size_t len)
{
    size_t room = CLIP_HEAD - c->head.len, n = len < room ? len : room;
    int err = buf_add(&c->head, data, n);
    err = err ? err : buf_add(&c->tail, (const char *)data + n, len - n);
    if (!err && c->tail.len > 2 * CLIP_TAIL) {
        c->left_out += c->tail.len - CLIP_TAIL;
        buf_consume(&c->tail, c->tail.len - CLIP_TAIL);
    }
    return err;
}

int clip_text(const struct clip *c, struct buf *out)
{
    size_t more = c->tail.len > CLIP_TAIL ? c->tail.len - CLIP_TAIL : 0;
    uint64_t left_out = c->left_out + more;
    int err = buf_adds(out, "");
    err = err || !c->head.len ? err : buf_add(out, c->head.data, c->head.len);
    if (!err && left_out)
        err = buf_addf(out, "\n[... %llu bytes left out: write them to a file to keep them ...]\n",
                       (unsigned long long)left_out);
    return err || !c->tail.len ? err : buf_add(out, c->tail.data + more, c->tail.len - more);
}

void clip_free(struct clip *c)
{
    buf_free(&c->head);
    buf_free(&c->tail);
    c->left_out = 0;
}

/* --- results */

static cJSON *result_new(void)
{
    cJSON *result = cJSON_CreateObject();
    if (result && !cJSON_AddArrayToObject(result, "content")) {
        cJSON_Delete(result);
        return NULL;
    }
    return result;
}

static cJSON *add_content(cJSON *result, const char *type)
{
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "type", type);
    cJSON_AddItemToArray(cJSON_GetObjectItemCaseSensitive(result, "content"), item);
    return item;
}

void content_add_text(cJSON *result, const char *text)
{
    cJSON_AddStringToObject(add_content(result, "text"), "text", text);
}

cJSON *content_error(const char *text)
{
    cJSON *result = result_new();
    content_add_text(result, text);
    cJSON_AddBoolToObject(result, "isError", true);
    return result;
}

/* text: a JSON object. Clients of older revisions have it as text alone. */
static cJSON *structured_result(enum mcp_version version, const char *text, bool failed)
{
    cJSON *result = result_new();
    content_add_text(result, text);
    if (version >= MCP_2025_06_18)
        cJSON_AddRawToObject(result, "structuredContent", text);
    cJSON_AddBoolToObject(result, "isError", failed);
    return result;
}

cJSON *content_structured(enum mcp_version version, cJSON *structured)
{
    _cleanup_json_ cJSON *own = structured;
    _cleanup_free_ char *text = cJSON_PrintUnformatted(own);
    return text ? structured_result(version, text, false) : NULL;
}

cJSON *content_code(enum mcp_version version, const struct report *r, const struct clip *out,
                    const struct clip *err)
{
    _cleanup_buf_ struct buf out_text = {0}, err_text = {0}, text = {0};
    if (clip_text(out, &out_text) || clip_text(err, &err_text) ||
        tool_content(r, &out_text, &err_text, &text))
        return NULL;
    return structured_result(version, text.data, r->exit_code != 0);
}

static const struct {
    const char *extension, *mime, *magic;
    size_t len, at; /* of the magic, and where it stands */
} images[] = {
    {"png", "image/png", "\x89PNG\r\n\x1a\n", 8, 0},
    {"jpg", "image/jpeg", "\xff\xd8\xff", 3, 0},
    {"jpeg", "image/jpeg", "\xff\xd8\xff", 3, 0},
    {"gif", "image/gif", "GIF8", 4, 0},
    {"webp", "image/webp", "WEBP", 4, 8},
    {"svg", "image/svg+xml", NULL, 0, 0},
    {"bmp", "image/bmp", NULL, 0, 0},
    {"tiff", "image/tiff", NULL, 0, 0},
};

static int add_base64(cJSON *item, const char *name, const struct buf *bytes)
{
    _cleanup_buf_ struct buf text = {0};
    if (buf_adds(&text, "") || text_base64(&text, bytes->data, bytes->len) ||
        !cJSON_AddStringToObject(item, name, text.data))
        return -ENOMEM;
    return 0;
}

static void add_image(cJSON *result, const char *mime, const struct buf *bytes)
{
    cJSON *item = add_content(result, "image");
    add_base64(item, "data", bytes);
    cJSON_AddStringToObject(item, "mimeType", mime);
}

static void add_resource(cJSON *result, const char *path, const char *mime, const struct buf *bytes)
{
    _cleanup_buf_ struct buf uri = {0};
    buf_adds(&uri, "session:///mnt/data/");
    while (*path) {
        size_t n = strcspn(path, "/");
        text_percent(&uri, path, n);
        path += n;
        if (*path == '/' && buf_adds(&uri, "/") == 0)
            path++;
    }
    cJSON *item = cJSON_AddObjectToObject(add_content(result, "resource"), "resource");
    cJSON_AddStringToObject(item, "uri", uri.data ? uri.data : "");
    cJSON_AddStringToObject(item, "mimeType", mime);
    add_base64(item, "blob", bytes);
}

void content_add_image(cJSON *result, const char *extension, const struct buf *bytes)
{
    for (size_t i = 0; i < sizeof images / sizeof *images; i++) {
        if (strcmp(images[i].extension, extension) == 0) {
            add_image(result, images[i].mime, bytes);
            return;
        }
    }
    char name[40];
    snprintf(name, sizeof name, "image.%s", extension);
    add_resource(result, name,
                 strcmp(extension, "pdf") == 0 ? "application/pdf" : "application/octet-stream",
                 bytes);
}

/* --- files */

static const char *image_type(const struct buf *bytes)
{
    for (size_t i = 0; i < sizeof images / sizeof *images; i++) {
        size_t len = images[i].len, at = images[i].at;
        if (len && bytes->len >= at + len && memcmp(bytes->data + at, images[i].magic, len) == 0)
            return images[i].mime;
    }
    return NULL;
}

cJSON *content_file(const char *path, const struct buf *bytes)
{
    cJSON *result = result_new();
    const char *mime = image_type(bytes);
    if (mime)
        add_image(result, mime, bytes);
    else if (!bytes->len)
        content_add_text(result, "");
    else if (text_is_utf8(bytes->data, bytes->len) && !memchr(bytes->data, '\0', bytes->len))
        content_add_text(result, bytes->data);
    else
        add_resource(result, path, "application/octet-stream", bytes);
    cJSON_AddBoolToObject(result, "isError", false);
    return result;
}

/* What the client itself leaves at the top for a while is no file of the user's. */
static bool is_ours(const char *path)
{
    static const char *const prefixes[] = {"acafs-stage-", "acafs-part-", "acafs-job-"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t len = strlen(prefixes[i]);
        if (strncmp(path, prefixes[i], len) == 0 && strspn(path + len, "0123456789abcdef") >= 16)
            return true;
    }
    return false;
}

static char *entry_path(const char *top, const struct entry *e)
{
    struct buf path = {0};
    int err = buf_addf(&path, "%s%s%s%s%s", top, *top ? "/" : "", e->directory,
                       *e->directory ? "/" : "", e->name);
    return err ? NULL : buf_take(&path);
}

static cJSON *entry_json(const char *path, const struct entry *e)
{
    static const char *const kinds[] = {
        [ENTRY_FILE] = "file", [ENTRY_DIRECTORY] = "directory", [ENTRY_SYMLINK] = "symlink"};
    char stamp[40];
    struct tm when;
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "path", path);
    cJSON_AddStringToObject(item, "type", kinds[e->kind]);
    if (e->kind == ENTRY_FILE && e->size >= 0)
        cJSON_AddNumberToObject(item, "size", (double)e->size);
    if (e->mtime.tv_nsec >= 0 && gmtime_r(&e->mtime.tv_sec, &when) &&
        strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", &when))
        cJSON_AddStringToObject(item, "modified", stamp);
    return item;
}

cJSON *content_listing(enum mcp_version version, const char *top, const struct listing *l)
{
    cJSON *json = cJSON_CreateObject(), *files = cJSON_AddArrayToObject(json, "files");
    size_t shown = 0, left_out = l->skipped;
    for (size_t i = 0; i < l->count; i++) {
        _cleanup_free_ char *path = entry_path(top, &l->entries[i]);
        if (!path || is_ours(path))
            continue;
        if (shown++ < ENTRIES_MAX)
            cJSON_AddItemToArray(files, entry_json(path, &l->entries[i]));
        else
            left_out++;
    }
    cJSON_AddNumberToObject(json, "left_out", (double)left_out);
    return content_structured(version, json);
}
