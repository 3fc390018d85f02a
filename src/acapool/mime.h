/* The media type of a file by its name, as the service guesses it. */
#ifndef ACAFS_ACAPOOL_MIME_H
#define ACAFS_ACAPOOL_MIME_H

const char *mime_type(const char *name);

#endif
