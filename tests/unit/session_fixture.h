/* For the tests of session/: a pool of their own, fake (fake_pool.py) or real (acapool), a client, and
 * calls that are waited for. */
#ifndef ACAFS_TESTS_SESSION_FIXTURE_H
#define ACAFS_TESTS_SESSION_FIXTURE_H

#include "session/session.h"

struct fixture {
    char top[64];    /* the pool's directory */
    char data[80];   /* the session's files; of the fake pool only */
    int pid, in;     /* the pool and its standard input */
    char socket[96]; /* acapool's */
    char url[80];
    struct loop *loop;
    struct http *http;
    struct session *session;

    /* What the last call gave: copies. */
    int err, status;
    char *message;
    struct listing listing;
    bool recursive;
    struct buf content;
    int64_t size;
    unsigned heads;
    struct entry entry;
    struct execution execution;
    cJSON *value;
    struct session_space space;
    unsigned answers, wanted;
    unsigned recycled;
};

int fixture_setup(void **state);
int fixture_setup_acapool(void **state);
int fixture_teardown(void **state);
/* Another client for the same pool. */
void fixture_client(struct fixture *, const char *api_version);
struct session *fixture_session(struct fixture *, const char *api_version);
void fixture_rules(struct fixture *, const char *json);
/* Lines of the pool's log that hold `text`. */
unsigned fixture_count(struct fixture *, const char *text);
void fixture_write(struct fixture *, const char *path, const void *data, size_t len);
bool fixture_holds(struct fixture *, const char *path, const void *data, size_t len);
bool fixture_exists(struct fixture *, const char *path);
/* Files of the client's own below the session's. */
unsigned fixture_stages(struct fixture *);

/* Runs the loop until `call`, which must not be NULL, has been answered. */
void fixture_wait(struct fixture *, struct session_call *call);
/* Until n calls have been answered. */
void fixture_wait_all(struct fixture *, unsigned n);

void on_done(void *arg, const struct session_error *);
void on_list(void *arg, const struct session_error *, const struct session_list_result *);
void on_entry(void *arg, const struct session_error *, const struct entry *);
void on_execution(void *arg, const struct session_error *, const struct execution *);
void on_value(void *arg, const struct session_error *, const cJSON *);
void on_space(void *arg, const struct session_error *, const struct session_space *);
struct session_sink fixture_sink(struct fixture *);

void fixture_upload(struct fixture *, const char *path, const void *data, size_t len);
void fixture_download(struct fixture *, const char *path, uint64_t offset);
/* Bytes in which a piece at the wrong place shows; to be freed. */
char *fixture_pattern(size_t len);

#define assert_well(f)                                                                             \
    do {                                                                                           \
        if ((f)->err)                                                                              \
            fail_msg("error %s: %s", strerror(-(f)->err), (f)->message ? (f)->message : "");       \
    } while (0)

const struct entry *fixture_find(const struct fixture *, const char *directory, const char *name);

#endif
