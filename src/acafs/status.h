/* What .acafs/status, .acafs/metrics and `acafs status` show. */
#ifndef ACAFS_ACAFS_STATUS_H
#define ACAFS_ACAFS_STATUS_H

#include <cjson/cJSON.h>

#include "acafs/jobs.h"
#include "acafs/mount.h"
#include "util/buf.h"

cJSON *status_json(struct mount *, const struct jobs *);
/* Of a whole pool. */
cJSON *status_pool_json(const struct volume *);
/* Prometheus text format; without jobs: of a whole pool. */
int status_metrics(struct mount *, const struct jobs *, struct buf *out);

#endif
