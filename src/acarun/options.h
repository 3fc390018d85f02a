/* The command line of acarun. */
#ifndef ACAFS_ACARUN_OPTIONS_H
#define ACAFS_ACARUN_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum command { COMMAND_RUN, COMMAND_TOOL_DEFINITION, COMMAND_TOOL_CALL, COMMAND_MCP };
enum tool_api { TOOL_API_NONE, TOOL_API_CHAT, TOOL_API_RESPONSES };

enum { OPTIONS_MAX = 64, JOBS_MAX = 64 };

/* Strings are those of argv. */
struct options {
    enum command command;
    enum tool_api api;
    const char *script;      /* or one of the next two */
    const char *code;        /* -c */
    bool standard_input;     /* - */
    const char *const *args; /* of the script, NULL-terminated */
    const char *pool, *session;
    const char *settings[OPTIONS_MAX]; /* -o */
    size_t setting_count;
    const char *output_dir;
    const char *files; /* the directory that mcp shares, or NULL */
    bool in_kernel, json, sanitize, quiet;
    bool allow_errors; /* of a notebook's cells */
    bool no_outputs;
    int64_t timeout_ms;
    unsigned jobs;              /* -j: how many scripts at once; 0: one script, with arguments */
    const char *const *scripts; /* with jobs: NULL-terminated */
    bool fail_fast, spread;
    unsigned sessions; /* --spread=K; 0: as many as jobs */
    struct option_list {
        const char *values[OPTIONS_MAX];
        size_t count;
    } with, fetch;
};

/* -1 to go on, else the exit code: help or the version was printed, or what is wrong was said. */
int options_parse(struct options *, int argc, char **argv);

/* Whether a script's name is a notebook's; NULL: no. */
bool options_notebook(const char *path);

/* Whether a pool or a session was named, so that no mount is asked. */
bool options_direct(const struct options *);

#endif
