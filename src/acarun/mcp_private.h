/* Inside acarun mcp:
 *
 *     mcp.c          ── messages in and out, what they ask for, and the end
 *     mcp_tools.c    ── calls of the tools: each is one job, or one call to the session
 *     mcp_files.c    ── the files of this machine that were shared
 *     mcp_content.c  ── what is said about the tools and by them; pure
 *     rpc.c          ── JSON-RPC; pure
 */
#ifndef ACAFS_ACARUN_MCP_PRIVATE_H
#define ACAFS_ACARUN_MCP_PRIVATE_H

#include "acarun/link.h"
#include "acarun/mcp_content.h"
#include "acarun/mcp_files.h"
#include "acarun/rpc.h"
#include "job/job.h"

/* Answers to a batch go out together. */
struct batch {
    unsigned waiting; /* calls that are still to be answered */
    struct buf text;
};

/* A call of a tool. */
struct call {
    struct call *prev, *next;
    struct mcp *mcp;
    char *id, *token; /* the request's; of its progress, or NULL */
    struct batch *batch;
    enum tool tool;
    cJSON *arguments;
    char *path; /* in the session */
    struct session_call *under_way;
    struct clip out, err; /* of code */
    struct buf content;   /* of a download */
    struct shared_file local;
    uint64_t position; /* in either */
    unsigned progress; /* notifications so far */
    bool canceled;     /* it gets no answer */
};

/*     SERVING ──the input ends──▶ DRAINING ──all is answered, or signal, or nobody reads──▶
 * STOPPING └───────────────signal, or nobody reads───────────────────────────────▶ STOPPING
 *     STOPPING ──no job is left, or late──▶ DELETING (a session of our own) ──▶ the end */
enum phase { SERVING, DRAINING, STOPPING, DELETING };

struct mcp {
    const struct options *options;
    struct link link;
    struct shared_directory shared;
    int signal_fd, output_fd;
    struct loop_fd *input, *output, *signals;
    struct buf in, out;
    size_t searched; /* bytes of in that hold no line's end */
    bool too_long;   /* the line is, and what comes of it is dropped */
    enum phase phase;
    struct loop_timer late;
    struct session_call *deletion;
    enum mcp_version version;
    struct call *calls; /* oldest first */
    struct job *job;    /* of the oldest call of code: one kernel does one thing at a time */
    struct call *runs;  /* that call; NULL when it was forgotten */
    struct loop_timer beat;
    bool used;      /* the session may exist */
    bool recycled;  /* and was seen to be a new one, which no answer has told yet; */
    bool restarted; /* or its kernel was, likewise */
    int code;
};

/* --- mcp.c */
/* Each answers a call and forgets it; the result is taken over. */
void mcp_answer(struct call *, cJSON *result);
void mcp_answer_error(struct call *, int code, const char *message);
void mcp_notify(struct mcp *, const char *method, cJSON *params);
void mcp_forget(struct call *);
/* A job or a call came to its end. */
void mcp_ended(struct mcp *);

/* --- mcp_tools.c */
/* Begins a call, which is in the list: NULL, or what is wrong with its arguments (a literal). */
const char *tool_begin(struct call *);
void tool_cancel(struct call *);
/* Starts the next call of code when none is under way. */
void tool_next(struct mcp *);
void tool_beat(void *mcp);

#endif
