/* What .acafs/status, .acafs/metrics and `acafs status` show. */
#ifndef ACAFS_ACAFS_STATUS_H
#define ACAFS_ACAFS_STATUS_H

#include <cjson/cJSON.h>

#include "acafs/jobs.h"
#include "acafs/mount.h"
#include "util/buf.h"

cJSON *status_json(struct mount *, const struct jobs *);
/* Prometheus text format. */
int status_metrics(struct mount *, const struct jobs *, struct buf *out);

#endif
