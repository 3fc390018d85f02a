/* The command line of acapool(8). */
#ifndef ACAFS_ACAPOOL_OPTIONS_H
#define ACAFS_ACAPOOL_OPTIONS_H

#include <stdbool.h>

#include "acapool/pool.h"
#include "util/log.h"

struct options {
    const char *listen_host; /* NULL: no TCP */
    unsigned port;
    char *socket;     /* malloc'd; NULL: no Unix socket */
    bool handed_over; /* systemd made the sockets: they take the place of those two */
    const char *token_file;
    bool daemon;
    int ready_fd; /* -1: none */
    enum log_level log_level;
    struct pool_options pool;
};

/* 0: go on; else the program's exit status, in *status, was settled here (help, usage). */
bool options_parse(int argc, char **argv, struct options *out, int *status);
void options_free(struct options *);

#endif
