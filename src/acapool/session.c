#include "acapool/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "acapool/execution.h"
#include "acapool/pool.h"
#include "util/log.h"
#include "util/text.h"

int session_new(struct pool *pool, const char *identifier, const char *path, uid_t uid,
                struct session **out)
{
    struct session *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    *s = (struct session){.pool = pool, .uid = uid, .files = {.root = -1, .incoming = -1}};
    text_uuid(s->guid);
    pthread_mutex_init(&s->sandbox_lock, NULL);
    pthread_mutex_init(&s->lock, NULL);
    for (int i = 0; i < SESSION_KERNELS; i++)
        kernel_init(&s->kernels[i]);
    clock_gettime(CLOCK_REALTIME, &s->created);
    s->accessed = s->created;
    s->used_ms = clock_ms();
    s->identifier = strdup(identifier);
    s->path = strdup(path);
    int err = s->identifier && s->path ? 0 : -ENOMEM;
    if (!err && mkdir(path, 0711))
        err = -errno;
    if (!err)
        err = files_open(&s->files, path, uid);
    if (err)
        session_free(s);
    else
        *out = s;
    return err;
}

void session_free(struct session *s)
{
    executions_free(s);
    for (int i = 0; i < SESSION_KERNELS; i++)
        kernel_destroy(&s->kernels[i]);
    sandbox_unref(s->sandbox);
    files_close(&s->files);
    int err = s->path ? files_remove_tree(AT_FDCWD, s->path) : 0;
    if (err)
        log_warning("%s: removing a session's files: %s", s->path, strerror(-err));
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->sandbox_lock);
    free(s->identifier);
    free(s->path);
    free(s);
}

struct starting {
    struct session *session;
    struct sandbox *sandbox;
    int err;
};

static void start(void *arg)
{
    struct starting *s = arg;
    _cleanup_buf_ struct buf data = {0};
    s->err = buf_addf(&data, "%s/data", s->session->path);
    if (!s->err)
        s->err = sandbox_start(&pool_options(s->session->pool)->sandbox, data.data, s->session->uid,
                               &s->sandbox);
}

/* Process 1 is not easily brought to its end from inside, but the machine may do it. */
static bool ended(const struct sandbox *sb)
{
    char byte;
    return sb->dead || recv(sb->control, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

struct sandbox *session_sandbox(void *session)
{
    struct session *s = session;
    pthread_mutex_lock(&s->sandbox_lock);
    if (s->sandbox && ended(s->sandbox)) {
        sandbox_unref(s->sandbox);
        s->sandbox = NULL;
    }
    if (!s->sandbox && !s->closing) {
        struct starting starting = {.session = s};
        int err = mainthread_call(pool_mainthread(s->pool), start, &starting);
        if (!err)
            err = starting.err;
        if (err)
            log_error("starting a sandbox: %s", strerror(-err));
        s->sandbox = starting.sandbox;
    }
    struct sandbox *found = s->sandbox && !s->closing ? sandbox_ref(s->sandbox) : NULL;
    pthread_mutex_unlock(&s->sandbox_lock);
    return found;
}

void session_kill(struct session *s, bool closing)
{
    pthread_mutex_lock(&s->sandbox_lock);
    s->closing = s->closing || closing;
    if (s->sandbox)
        sandbox_kill(s->sandbox);
    pthread_mutex_unlock(&s->sandbox_lock);
}

bool session_closing(struct session *s)
{
    pthread_mutex_lock(&s->sandbox_lock);
    bool closing = s->closing;
    pthread_mutex_unlock(&s->sandbox_lock);
    return closing;
}

pid_t session_process(struct session *s)
{
    pthread_mutex_lock(&s->sandbox_lock);
    pid_t pid = s->sandbox && !s->sandbox->dead ? s->sandbox->pid : 0;
    pthread_mutex_unlock(&s->sandbox_lock);
    return pid;
}
