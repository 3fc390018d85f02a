#include "session_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "util/cleanup.h"

static void start_pool(struct fixture *f)
{
    int in[2], out[2];
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    f->pid = fork();
    if (f->pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        execl("/usr/bin/python3", "python3", getenv("ACAFS_FAKE_POOL"), f->top, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    f->in = in[1];
    /* The whole line: an unbuffered Python (PYTHONUNBUFFERED) writes its end by itself, and would
     * die of a pipe that was closed before. */
    FILE *port = fdopen(out[0], "re");
    char line[16] = "";
    assert_non_null(port);
    assert_non_null(fgets(line, sizeof line, port));
    assert_non_null(strchr(line, '\n'));
    fclose(port);
    snprintf(f->url, sizeof f->url, "http://127.0.0.1:%d/pool", atoi(line));
}

/* acapool on a private socket; it writes a line to --ready-fd once it answers. */
static void start_acapool(struct fixture *f)
{
    int ready[2];
    char fd[12], line;
    assert_int_equal(pipe(ready), 0);
    snprintf(fd, sizeof fd, "%d", ready[1]);
    snprintf(f->socket, sizeof f->socket, "%s/s/pool.sock", f->top);
    strcpy(f->url, "http://localhost");
    f->pid = fork();
    if (f->pid == 0) {
        const char *program = getenv("ACAPOOL");
        close(ready[0]);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        execl(program, program, "--socket", f->socket, "--ready-fd", fd, "--log-level", "warning",
              (char *)NULL);
        _exit(127);
    }
    close(ready[1]);
    if (read(ready[0], &line, 1) != 1)
        fail_msg("acapool did not start");
    close(ready[0]);
}

static void recycled(void *arg)
{
    ((struct fixture *)arg)->recycled++;
}

struct session *fixture_session(struct fixture *f, const char *api_version)
{
    struct session *session = NULL;
    const struct session_options options = {.endpoint = f->url,
                                            .unix_socket = *f->socket ? f->socket : NULL,
                                            .identifier = "test|session",
                                            .api_version = api_version,
                                            .deadline_ms = 20000};
    char *why = NULL;
    assert_int_equal(session_new(f->loop, f->http, NULL, &options, &session, &why), 0);
    return session;
}

void fixture_client(struct fixture *f, const char *api_version)
{
    session_free(f->session);
    f->session = fixture_session(f, api_version);
    session_on_recycled(f->session, recycled, f);
}

static int setup(void **state, void (*start)(struct fixture *))
{
    struct fixture *f = calloc(1, sizeof *f);
    if (!f)
        return -1;
    f->in = -1;
    strcpy(f->top, "/tmp/acafs-session-XXXXXX");
    if (!mkdtemp(f->top))
        return -1;
    snprintf(f->data, sizeof f->data, "%s/data", f->top);
    start(f);
    const struct http_options options = {.retries = 2};
    if (loop_new(&f->loop) || http_new(f->loop, &options, &f->http))
        return -1;
    fixture_client(f, NULL);
    *state = f;
    return 0;
}

int fixture_setup(void **state)
{
    return setup(state, start_pool);
}

int fixture_setup_acapool(void **state)
{
    return setup(state, start_acapool);
}

static void forget_results(struct fixture *f)
{
    free(f->message);
    listing_free(&f->listing);
    buf_free(&f->content);
    entry_free(&f->entry);
    execution_free(&f->execution);
    cJSON_Delete(f->value);
    f->message = NULL;
    f->value = NULL;
    f->heads = f->answers = 0;
}

int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    session_free(f->session);
    http_free(f->http);
    loop_free(f->loop);
    if (f->in >= 0)
        close(f->in);
    else
        kill(f->pid, SIGTERM);
    waitpid(f->pid, NULL, 0);
    forget_results(f);
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", f->top);
    int err = system(command);
    free(f);
    return err;
}

static void write_file(const char *directory, const char *path, const void *data, size_t len)
{
    char whole[512];
    snprintf(whole, sizeof whole, "%s/%s", directory, path);
    for (char *slash = strchr(whole + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(whole, 0777);
        *slash = '/';
    }
    FILE *file = fopen(whole, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

void fixture_rules(struct fixture *f, const char *json)
{
    write_file(f->top, "rules.json", json, strlen(json));
}

void fixture_write(struct fixture *f, const char *path, const void *data, size_t len)
{
    write_file(f->data, path, data, len);
}

bool fixture_exists(struct fixture *f, const char *path)
{
    char whole[512];
    struct stat st;
    snprintf(whole, sizeof whole, "%s/%s", f->data, path);
    return lstat(whole, &st) == 0;
}

bool fixture_holds(struct fixture *f, const char *path, const void *data, size_t len)
{
    char whole[512];
    snprintf(whole, sizeof whole, "%s/%s", f->data, path);
    FILE *file = fopen(whole, "re");
    if (!file)
        return false;
    char *got = malloc(len + 1);
    assert_non_null(got);
    bool same = fread(got, 1, len + 1, file) == len && memcmp(got, data, len) == 0;
    free(got);
    fclose(file);
    return same;
}

static unsigned stages;

static int count_stage(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    stages += strncmp(path + ftw->base, "acafs-", 6) == 0;
    return 0;
}

unsigned fixture_stages(struct fixture *f)
{
    stages = 0;
    assert_int_equal(nftw(f->data, count_stage, 8, FTW_PHYS), 0);
    return stages;
}

unsigned fixture_count(struct fixture *f, const char *text)
{
    char path[96], line[4096];
    unsigned count = 0;
    snprintf(path, sizeof path, "%s/log", f->top);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    while (fgets(line, sizeof line, file))
        count += strstr(line, text) != NULL;
    fclose(file);
    return count;
}

/* --- waiting */

static void too_long(void *arg)
{
    loop_quit(((struct fixture *)arg)->loop, 1);
}

void fixture_wait_all(struct fixture *f, unsigned n)
{
    struct loop_timer timer;
    loop_timer_init(&timer, f->loop, too_long, f);
    loop_timer_set(&timer, 30000);
    f->wanted = n;
    int late = f->answers < n ? loop_run(f->loop) : 0;
    loop_timer_stop(&timer);
    if (late)
        fail_msg("%u of %u calls were answered in time", f->answers, n);
}

void fixture_wait(struct fixture *f, struct session_call *call)
{
    assert_non_null(call);
    forget_results(f);
    fixture_wait_all(f, 1);
}

static void answered(struct fixture *f, const struct session_error *e)
{
    f->err = e->err;
    f->status = e->status;
    free(f->message);
    f->message = e->message ? strdup(e->message) : NULL;
    if (++f->answers == f->wanted)
        loop_quit(f->loop, 0);
}

void on_done(void *arg, const struct session_error *e)
{
    answered(arg, e);
}

void on_list(void *arg, const struct session_error *e, const struct session_list_result *r)
{
    struct fixture *f = arg;
    if (r) {
        f->recursive = r->recursive;
        /* Taken over from the call, which frees what is left. */
        struct listing *l = (struct listing *)r->listing;
        f->listing = *l;
        memset(l, 0, sizeof *l);
    }
    answered(f, e);
}

void on_entry(void *arg, const struct session_error *e, const struct entry *entry)
{
    struct fixture *f = arg;
    if (entry) {
        entry_free(&f->entry);
        f->entry = *entry;
        f->entry.name = strdup(entry->name);
        f->entry.directory = strdup(entry->directory);
        f->entry.target = NULL;
    }
    answered(f, e);
}

void on_execution(void *arg, const struct session_error *e, const struct execution *x)
{
    struct fixture *f = arg;
    if (x) {
        struct execution *mine = (struct execution *)x;
        f->execution = *mine;
        memset(mine, 0, sizeof *mine);
    }
    answered(f, e);
}

void on_value(void *arg, const struct session_error *e, const cJSON *value)
{
    struct fixture *f = arg;
    cJSON_Delete(f->value);
    f->value = cJSON_Duplicate(value, true);
    answered(f, e);
}

void on_space(void *arg, const struct session_error *e, const struct session_space *space)
{
    struct fixture *f = arg;
    if (space)
        f->space = *space;
    answered(f, e);
}

static int on_head(void *arg, uint64_t start, int64_t size, const struct timespec *mtime)
{
    struct fixture *f = arg;
    f->heads++;
    f->size = size;
    if (start > f->content.len)
        buf_reserve(&f->content, start - f->content.len);
    f->content.len = start;
    return 0;
}

static int on_data(void *arg, const void *data, size_t len)
{
    return buf_add(&((struct fixture *)arg)->content, data, len);
}

struct session_sink fixture_sink(struct fixture *f)
{
    return (struct session_sink){.on_head = on_head, .on_data = on_data, .done = on_done, .arg = f};
}

void fixture_upload(struct fixture *f, const char *path, const void *data, size_t len)
{
    fixture_wait(f, session_upload_bytes(f->session, path, data, len, on_entry, f));
}

void fixture_download(struct fixture *f, const char *path, uint64_t offset)
{
    const struct session_sink sink = fixture_sink(f);
    fixture_wait(f, session_download(f->session, path, offset, &sink));
}

char *fixture_pattern(size_t len)
{
    char *data = malloc(len + 1);
    assert_non_null(data);
    for (size_t i = 0; i < len; i++)
        data[i] = (char)(i * 31 + i / 251);
    return data;
}

const struct entry *fixture_find(const struct fixture *f, const char *directory, const char *name)
{
    for (size_t i = 0; i < f->listing.count; i++) {
        const struct entry *e = &f->listing.entries[i];
        if (strcmp(e->directory, directory) == 0 && strcmp(e->name, name) == 0)
            return e;
    }
    return NULL;
}
