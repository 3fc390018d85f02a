#include "acapool/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "acapool/listen.h"
#include "local/local.h"
#include "util/text.h"

static const char usage[] =
    "acapool [OPTION…]: a session pool on this machine, with the HTTP API of Azure\n"
    "Container Apps dynamic sessions; each session a python3 in a sandbox.\n"
    "\n"
    "  --listen 127.0.0.1:PORT  listen on a loopback port (0: a free one), with a\n"
    "                           bearer token\n"
    "  --socket PATH            listen on a private Unix socket (the default, where\n"
    "                           `acafs local` looks for it); neither with socket\n"
    "                           activation: what systemd handed over is served\n"
    "  --token-file FILE        the token callers must bear; else one is printed\n"
    "  --cooldown S             seconds until an unused session ends (300)\n"
    "  --max-sessions N         sessions at a time (600)\n"
    "  --execution-timeout S    longest execution (220)\n"
    "  --memory SIZE            memory of a session (2G)\n"
    "  --disk SIZE              files of a session (4G)\n"
    "  --processes N            processes of a session (256)\n"
    "  --data DIR               where sessions' files are while they live (/var/tmp)\n"
    "  --no-sandbox             run sessions' code as you, unprotected\n"
    "  --idle-exit S            end after S seconds without session and request\n"
    "  --daemon                 go to the background once the pool answers\n"
    "  --ready-fd FD            write a line there once the pool answers\n"
    "  --log-level LEVEL        error, warning, info or debug (info)\n"
    "  --version, --help\n";

enum {
    OPT_LISTEN = 256,
    OPT_SOCKET,
    OPT_TOKEN_FILE,
    OPT_COOLDOWN,
    OPT_MAX_SESSIONS,
    OPT_EXECUTION_TIMEOUT,
    OPT_MEMORY,
    OPT_DISK,
    OPT_PROCESSES,
    OPT_DATA,
    OPT_NO_SANDBOX,
    OPT_IDLE_EXIT,
    OPT_DAEMON,
    OPT_READY_FD,
    OPT_LOG_LEVEL,
    OPT_VERSION,
    OPT_HELP,
};

static const struct option longs[] = {
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"token-file", required_argument, NULL, OPT_TOKEN_FILE},
    {"cooldown", required_argument, NULL, OPT_COOLDOWN},
    {"max-sessions", required_argument, NULL, OPT_MAX_SESSIONS},
    {"execution-timeout", required_argument, NULL, OPT_EXECUTION_TIMEOUT},
    {"memory", required_argument, NULL, OPT_MEMORY},
    {"disk", required_argument, NULL, OPT_DISK},
    {"processes", required_argument, NULL, OPT_PROCESSES},
    {"data", required_argument, NULL, OPT_DATA},
    {"no-sandbox", no_argument, NULL, OPT_NO_SANDBOX},
    {"idle-exit", required_argument, NULL, OPT_IDLE_EXIT},
    {"daemon", no_argument, NULL, OPT_DAEMON},
    {"ready-fd", required_argument, NULL, OPT_READY_FD},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static bool number(const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
    if (!isdigit((unsigned char)*text) || strlen(text) > 18)
        return false;
    char *end;
    *out = strtoull(text, &end, 10);
    return !*end && *out >= least && *out <= most;
}

static bool seconds(const char *text, int64_t *out)
{
    uint64_t value;
    if (!number(text, 1, 100u * 86400, &value))
        return false;
    *out = (int64_t)value;
    return true;
}

static bool size(const char *text, uint64_t least, uint64_t *out)
{
    return !text_parse_size(text, out) && *out >= least && *out <= (uint64_t)1 << 50;
}

/* Only loopback: the traffic is not encrypted. */
static bool address(const char *text, struct options *o)
{
    static const char *const hosts[] = {"127.0.0.1", "localhost"};
    const char *colon = strrchr(text, ':');
    uint64_t port;
    if (!colon || !number(colon + 1, 0, 65535, &port))
        return false;
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        if ((size_t)(colon - text) == strlen(hosts[i]) &&
            strncmp(text, hosts[i], strlen(hosts[i])) == 0) {
            o->listen_host = hosts[0];
            o->port = (unsigned)port;
            return true;
        }
    }
    return false;
}

static bool take(struct options *o, int option, const char *value)
{
    enum { MEGABYTE = 1 << 20, LEAST_MEMORY = 64 << 20 };
    struct pool_options *p = &o->pool;
    uint64_t n;
    switch (option) {
    case OPT_LISTEN:
        return address(value, o);
    case OPT_SOCKET:
        free(o->socket);
        o->socket = *value ? strdup(value) : NULL;
        return o->socket;
    case OPT_TOKEN_FILE:
        o->token_file = value;
        return *value;
    case OPT_COOLDOWN:
        return seconds(value, &p->cooldown_s);
    case OPT_MAX_SESSIONS:
        return number(value, 1, 10000, &p->max_sessions);
    case OPT_EXECUTION_TIMEOUT:
        return seconds(value, &p->execution_timeout_s);
    case OPT_MEMORY:
        return size(value, LEAST_MEMORY, &p->sandbox.limits.memory);
    case OPT_DISK:
        return size(value, MEGABYTE, &p->disk);
    case OPT_PROCESSES:
        return number(value, 8, 100000, &p->sandbox.limits.processes);
    case OPT_DATA:
        p->data = value;
        return *value;
    case OPT_NO_SANDBOX:
        p->sandbox.bare = true;
        return true;
    case OPT_IDLE_EXIT:
        return seconds(value, &p->idle_exit_s);
    case OPT_DAEMON:
        o->daemon = true;
        return true;
    case OPT_READY_FD:
        if (!number(value, 3, 1 << 20, &n))
            return false;
        o->ready_fd = (int)n;
        return true;
    case OPT_LOG_LEVEL:
        return !log_level_parse(value, &o->log_level);
    default:
        return false;
    }
}

static const char *name_of(int option)
{
    for (const struct option *o = longs; o->name; o++) {
        if (o->val == option)
            return o->name;
    }
    return "?";
}

static bool settle(struct options *o)
{
    o->handed_over = listen_is_handed_over();
    o->pool.sandbox.limits.disk = o->pool.disk;
    if (o->handed_over && (o->listen_host || o->socket)) {
        log_error("--listen and --socket can't be used with sockets that systemd hands over");
        return false;
    }
    if (o->token_file && !o->listen_host && !o->handed_over) {
        log_error("--token-file is for --listen: a Unix socket needs no token");
        return false;
    }
    if (!o->handed_over && !o->listen_host && !o->socket)
        o->socket = local_pool_socket();
    return true;
}

bool options_parse(int argc, char **argv, struct options *out, int *status)
{
    *out = (struct options){
        .ready_fd = -1,
        .log_level = LOG_LEVEL_INFO,
        .pool = {.cooldown_s = 300,
                 .execution_timeout_s = 220,
                 .max_sessions = 600,
                 .disk = (uint64_t)4 << 30,
                 .sandbox = {.limits = {.memory = (uint64_t)2 << 30, .processes = 256}}}};
    opterr = 0;
    *status = EX_USAGE;
    int option;
    while ((option = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
        if (option == OPT_HELP || option == OPT_VERSION) {
            printf("%s", option == OPT_HELP ? usage : "acapool " ACAFS_VERSION "\n");
            *status = 0;
            return false;
        }
        if (option == '?' || option == ':') {
            log_error(option == ':' ? "%s needs a value" : "unknown option %s", argv[optind - 1]);
            return false;
        }
        if (take(out, option, optarg))
            continue;
        if (option == OPT_LISTEN)
            log_error("--listen %s: want 127.0.0.1:PORT: nothing but loopback, for what goes over "
                      "it is not encrypted",
                      optarg);
        else
            log_error("--%s %s: not a value it can have (see --help)", name_of(option), optarg);
        return false;
    }
    if (optind < argc) {
        log_error("unexpected argument %s", argv[optind]);
        return false;
    }
    return settle(out);
}

void options_free(struct options *o)
{
    free(o->socket);
}
