#include "store/fault.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const char *const steps[] = {
    "content-named",    /* content of a closed file got its name, nothing is synced */
    "content-synced",   /* and is on disk; no record tells of it */
    "record-torn",      /* half of the records were written */
    "record-written",   /* all of them, not synced */
    "journal-synced",   /* and on disk; nobody was told */
    "content-unnamed",  /* content that no record tells of was deleted */
    "compact-written",  /* the short journal is complete beside the long one */
    "compact-renamed",  /* and has taken its place */
    "upload-done",      /* the server has the file; no record tells so */
    "change-intended",  /* a change of names is about to be asked of the server */
    "change-made",      /* the server made it; no record tells so */
    "removal-begun",    /* the server is about to be asked to delete a name */
    "removal-done",     /* it did; no record tells so */
    "conflict-renamed", /* the local copy got its name in the tree; no record tells so */
    "job-kept",         /* a job is on disk; nobody was told */
    "job-named",        /* and what its run is to be called; nothing is started */
    "job-begun",        /* the session runs it; nothing tells so */
    "job-done",         /* and how it went was heard; nothing tells so */
    "job-told",         /* that is on disk; the session is not cleared */
};

static const char *armed;
static atomic_int left;

int fault_init(void)
{
    const char *text = getenv("ACAFS_FAULT");
    if (!text || !*text)
        return 0;
    size_t len = strcspn(text, ":");
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (strlen(steps[i]) == len && strncmp(text, steps[i], len) == 0)
            armed = steps[i];
    }
    int times = text[len] ? atoi(text + len + 1) : 1;
    atomic_store(&left, times);
    return armed && times > 0 ? 0 : -EINVAL;
}

bool fault_due(const char *step)
{
    return armed && strcmp(armed, step) == 0 && atomic_fetch_sub(&left, 1) == 1;
}

void fault_die(void)
{
    raise(SIGKILL);
}

void fault_point(const char *step)
{
    if (fault_due(step))
        fault_die();
}
