/* The settings of acafs and acarun from their sources: command line > environment >
 * [session NAME] of the configuration files > their other sections > defaults. One table
 * (option.c) holds each option's name in all of them, its type, default and one-line description;
 * the manual pages, README.md's table, the sample etc/acafs.conf and `acafs config` are made from
 * it or checked against it. */
#ifndef ACAFS_CONFIG_CONFIG_H
#define ACAFS_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

struct config {
    /* [pool] */
    char *endpoint;    /* URL or "local" */
    char *api_version; /* "auto" or a version */
    int64_t connect_ms, read_ms;
    unsigned max_retries, max_transfers;
    /* [session] */
    char *session; /* identifier; NULL: a fresh random UUID */
    bool restore, keepalive;
    /* [auth]; NULL: not set */
    char *credential, *token_file, *tenant_id, *client_id, *client_secret_file, *certificate,
        *certificate_password_file, *authority, *federated_token_file;
    bool send_certificate_chain;
    /* [cache] */
    char *cache_dir;
    uint64_t cache_size; /* bytes */
    /* [mount] */
    int64_t attr_timeout_ms, unmount_timeout_ms;
    bool sync, read_only, allow_other;
    bool all;   /* a whole pool: each directory is a session */
    bool force; /* there, rmdir deletes sessions that hold files */
    uid_t uid;  /* (uid_t)-1: the mounting user */
    gid_t gid;  /* (gid_t)-1: that user's group */
    mode_t umask;
    char *symlinks; /* contain, follow */
    /* [jobs] */
    char *autorun; /* GLOB or NULL */
    /* [log] */
    char *log_level;
    char *log_format; /* text, json */
    /* [local] */
    char *local_socket; /* acapool's socket; default $XDG_RUNTIME_DIR/acafs/pool.sock */
    char *local_pool;   /* path of the acapool program, or NULL: beside this one, else in PATH */

    /* Options of mount(8) and libfuse handed on as they are ("noatime", "fsname=..."),
     * comma-joined; NULL: none. */
    char *fuse_options;

    struct config_origins *origins; /* where each value came from */
};

/* A problem is told in *why: malloc'd, one line that names the option, section or key and where
 * it stands. All return 0 or -errno (-EINVAL: bad value or unknown name; -errno of reading).
 * In this order: load, mount_options and source as given, finish; whatever they return, the
 * config is config_free's. */

/* Defaults, then the configuration files, then the environment. file: the one to read; NULL:
 * ACAFS_CONFIG, else /etc/acafs/acafs.conf, the files of /etc/acafs/conf.d, and the user's
 * $XDG_CONFIG_HOME/acafs/acafs.conf, those that exist. */
int config_load(struct config *, const char *file, char **why);
/* One "-o" argument: comma-separated name or name=value (a backslash takes the next byte as it is).
 */
int config_mount_options(struct config *, const char *options, char **why);
/* The value of `config=FILE` in an "-o" argument, before anything is loaded; malloc'd or NULL. */
char *config_file_option(const char *options);
/* SOURCE: POOL[#SESSION]; either part may be empty. After the mount options: -EINVAL where these
 * said something else. */
int config_source(struct config *, const char *source, char **why);
/* What depends on the rest: [session NAME], and defaults made from the environment. */
int config_finish(struct config *, char **why);
void config_free(struct config *);

/* The settings of one session of a pool that is mounted whole, by its [session NAME]: *out is to be
 * freed by config_free() and free(), NULL where they are those of all. */
int config_of_session(const struct config *, const char *session, struct config **out, char **why);
/* Calls fn for each line of a [session NAME] that says nothing there: it is about all of them. */
void config_each_of_all(const struct config *,
                        void (*fn)(void *arg, const char *option, const char *origin), void *arg);

/* Whether the command line sets that option. */
bool config_on_command_line(const struct config *, const char *name);
/* What those who use a text setting say of its value: 0, or -errno with *why. */
typedef int config_judge(const char *option, const char *value, const char **why);
/* Whether that file could be read by config_load, and its values be used. */
int config_check_file(const char *file, config_judge *, char **why);

/* Prints the effective settings in the configuration file's form, each with its origin. */
void config_print(const struct config *, FILE *);
/* A line per option: its name, meaning and default. */
void config_options(FILE *);

#endif
