/* The subcommands of acafs that talk to a mount, and `acafs config`. */
#ifndef ACAFS_ACAFS_TOOLS_H
#define ACAFS_ACAFS_TOOLS_H

/* Each takes its own argv and returns the exit code. */
int tool_sync(int argc, char **argv);
int tool_config(int argc, char **argv);

#endif
