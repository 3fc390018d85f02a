/* What a job is to do, as whoever submits it says it. Pure. */
#ifndef ACAFS_ACAFS_JOB_REQUEST_H
#define ACAFS_ACAFS_JOB_REQUEST_H

#include "acafs/jobs.h"

/* Takes a request (jobs_submit() has its members) as the run's path, code, args and spec, which are
 * the run's to free: NULL, or what is wrong with it (a literal). */
const char *job_request_take(const cJSON *request, struct run *);

#endif
