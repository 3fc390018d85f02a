/* Where a test may have the daemon die: ACAFS_FAULT=STEP (or STEP:N for the Nth time) kills it
 * with SIGKILL at that step of the store, as a power cut would. Always compiled in, so that what is
 * tested is what ships; without the variable a step costs one comparison. The steps are listed in
 * fault.c. */
#ifndef ACAFS_STORE_FAULT_H
#define ACAFS_STORE_FAULT_H

#include <stdbool.h>

/* Reads the variable: -EINVAL for a step that there is not. Before any thread is started. */
int fault_init(void);
/* Whether this is the time to die: for steps that do half of something first. */
bool fault_due(const char *step);
void fault_die(void);
/* Dies, if this is the time. Any thread. */
void fault_point(const char *step);

#endif
