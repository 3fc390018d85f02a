/* Running notebooks: their cells in order, in the session's own kernel. */
#ifndef ACAFS_ACARUN_CELLS_H
#define ACAFS_ACARUN_CELLS_H

#include "acarun/task.h"

/* Runs options->script and writes the outputs back into it, or into the output directory. place: in
 * a mount, when its root is set. The exit code, after saying how it went. */
int cells_run(const struct options *, const struct place *, int signal_fd);

#endif
