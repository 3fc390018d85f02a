/* Where a file lies in a mounted session. */
#ifndef ACAFS_UTIL_PLACE_H
#define ACAFS_UTIL_PLACE_H

struct place {
    char *root; /* of the mounted session */
    char *path; /* below it, "" for the root itself */
};
void place_free(struct place *);

/* Finds the mount that the file or directory lies in: 0, -ENOENT when there is none of a session (out
 * is then empty), or another -errno. The last part of the path may be a symlink: it is not
 * followed. */
int place_find(const char *path, struct place *out);

#endif
