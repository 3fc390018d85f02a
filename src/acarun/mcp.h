/* acarun mcp: a server of the Model Context Protocol (https://modelcontextprotocol.io) on standard
 * input and output, with tools that run code and move files in one session of a pool. */
#ifndef ACAFS_ACARUN_MCP_H
#define ACAFS_ACARUN_MCP_H

#include "acarun/options.h"

/* Serves until the input ends or a signal comes: the exit code, after saying why when it is not 0.
 * Nothing but messages of the protocol goes to standard output. */
int mcp_run(const struct options *, int signal_fd);

#endif
