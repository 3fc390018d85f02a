/* What the files of answer.c share. */
#ifndef ACAFS_SESSION_ANSWER_PRIVATE_H
#define ACAFS_SESSION_ANSWER_PRIVATE_H

#include "session/answer.h"

enum { MESSAGE_LIMIT = 500, CODE_LIMIT = 100 };

/* Parses the body of a 2xx answer: 0, or fills error (the service's, or -EPROTO). */
int answer_document(const struct answer *, cJSON **out, struct session_error *);
/* Fills error with -EPROTO and a literal of ours; returns -EPROTO. */
int answer_nonsense(struct session_error *, const char *message);
int answer_no_memory(struct session_error *);
/* A copy fit for a terminal, NULL for NULL, "" and when out of memory. */
char *answer_line(const char *text, size_t limit);
/* The error object of a document, in either of its places, or NULL. */
const cJSON *answer_error_object(const cJSON *document);
/* The entries of an array as lists and the helper give them: 0 or -ENOMEM, with out to be freed
 * by listing_free() all the same. cut: the text held a \u0000. */
int answer_entries(const cJSON *array, bool cut, struct listing *out);
/* One entry, as the helper describes it: 0, -EINVAL or -ENOMEM with nothing to free. */
int answer_one_entry(const cJSON *, struct entry *out);

#endif
