/* What acarun mcp says about its tools, and what the tools say. Pure. */
#ifndef ACAFS_ACARUN_MCP_CONTENT_H
#define ACAFS_ACARUN_MCP_CONTENT_H

#include <stdbool.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "acarun/report.h"
#include "session/answer.h"
#include "util/buf.h"

/* Revisions of the protocol, oldest first. */
enum mcp_version {
    MCP_2024_11_05,
    MCP_2025_03_26,
    MCP_2025_06_18,
    MCP_2025_11_25,
    MCP_LATEST = MCP_2025_11_25
};
const char *mcp_version_name(enum mcp_version);
/* The one asked for, else the latest. */
enum mcp_version mcp_version_choose(const char *asked);

enum tool { TOOL_CODE, TOOL_LIST, TOOL_UPLOAD, TOOL_DOWNLOAD, TOOL_NONE };
enum tool tool_by_name(const char *name);

/* The result of tools/list. shared: whether there is a directory of this machine for the tools. */
cJSON *content_tools(enum mcp_version, bool shared);
/* The result of initialize. */
cJSON *content_hello(enum mcp_version);

/* Whether arguments are what the tool's schema asks for: NULL, or what is wrong (a literal). */
const char *content_check(enum tool, const cJSON *arguments);

/* A path as models write it: relative to /mnt/data, or below it. malloc'd, normal, "" for the top;
 * NULL when it leads elsewhere. */
char *content_path(const char *given);

/* The beginning and the end of a stream; zero-initialise. */
struct clip {
    struct buf head, tail;
    uint64_t left_out;
};
int clip_add(struct clip *, const void *data, size_t len);
/* All that is left of it, with a line that says what is not. 0 or -ENOMEM. */
int clip_text(const struct clip *, struct buf *out);
void clip_free(struct clip *);

/* Results of tools/call. NULL only when out of memory. */
cJSON *content_error(const char *text);
/* structured (taken over) as content, and as text. */
cJSON *content_structured(enum mcp_version, cJSON *structured);
/* images of the report: as job_image, by its index. */
cJSON *content_code(enum mcp_version, const struct report *, const struct clip *out,
                    const struct clip *err);
/* Adds an image to a result. */
void content_add_image(cJSON *result, const char *extension, const struct buf *bytes);
/* Adds a remark. */
void content_add_text(cJSON *result, const char *text);
/* top: the path that was listed. */
cJSON *content_listing(enum mcp_version, const char *top, const struct listing *);
/* A file's content: as text, as an image, or as a resource. */
cJSON *content_file(const char *path, const struct buf *bytes);

#endif
