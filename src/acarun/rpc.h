/* JSON-RPC 2.0 (https://www.jsonrpc.org/specification) as the Model Context Protocol has it on a
 * stream: one message, or one batch of them, a line. Pure. Identifiers are kept as they stood, for
 * they come back to whom sent them. */
#ifndef ACAFS_ACARUN_RPC_H
#define ACAFS_ACARUN_RPC_H

#include <stdbool.h>
#include <stddef.h>

#include <cjson/cJSON.h>

#include "util/buf.h"

enum {
    RPC_PARSE_ERROR = -32700,
    RPC_INVALID_REQUEST = -32600,
    RPC_METHOD_NOT_FOUND = -32601,
    RPC_INVALID_PARAMS = -32602,
    RPC_INTERNAL_ERROR = -32603,
};

enum rpc_kind { RPC_REQUEST, RPC_NOTIFICATION, RPC_RESPONSE, RPC_BAD };

struct rpc_message {
    enum rpc_kind kind;
    char *id;        /* of a request, and of what is bad where it can be told; else NULL */
    char *method;    /* of requests and notifications */
    cJSON *params;   /* an object, or NULL */
    char *request;   /* params.requestId, a string or number, else NULL */
    char *token;     /* params._meta.progressToken, likewise */
    int code;        /* of what is bad */
    const char *why; /* likewise: a literal */
};

/* Zero-initialise; free with rpc_line_free. */
struct rpc_line {
    struct rpc_message *messages; /* one at least */
    size_t count;
    bool batch;
};
/* 0 or -ENOMEM. What is wrong with a line or a message is told by a message of the kind RPC_BAD. */
int rpc_parse(const char *line, size_t len, struct rpc_line *);
void rpc_line_free(struct rpc_line *);

/* Each appends a message, without the line's end: 0 or -ENOMEM. id NULL: null. */
int rpc_result(struct buf *, const char *id, const cJSON *result);
int rpc_error(struct buf *, const char *id, int code, const char *message);
int rpc_notification(struct buf *, const char *method, const cJSON *params);

#endif
