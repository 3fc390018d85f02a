/* The settings of acafs and acarun from their four sources: command line > environment >
 * configuration files > defaults. One table (config.c) holds each option's name in all three,
 * its type, default and one-line description; --help, the man page's table, the sample
 * etc/acafs.conf and `acafs config` are made from or checked against it. */
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
    /* [session] */
    char *session;     /* identifier; NULL: a fresh random UUID */
    /* [auth] */
    char *credential, *token_file, *tenant_id, *client_id, *client_secret_file, *certificate,
        *certificate_password_file, *authority, *federated_token_file;
    bool send_certificate_chain;
    /* [cache] */
    char *cache_dir;
    uint64_t cache_size; /* bytes */
    /* [mount] */
    int64_t attr_timeout_ms;
    int64_t connect_ms, read_ms;
    unsigned max_retries, max_transfers;
    int64_t unmount_timeout_ms;
    bool sync, restore, keepalive, read_only, allow_other;
    uid_t uid;          /* (uid_t)-1: the mounting user */
    gid_t gid;
    mode_t umask;       /* 022 */
    /* [jobs] */
    char *autorun;      /* GLOB or NULL */
    /* [log] */
    char *log_level;
    /* [local] */
    char *local_socket; /* acapool's socket; default $XDG_RUNTIME_DIR/acafs/pool.sock */
    char *local_pool;   /* path of the acapool program */

    /* Options of mount(8) and libfuse handed on as they are ("noatime", "fsname=..."), comma-joined. */
    char *fuse_options;
};

/* A problem is told in *why: malloc'd, one line that names the option, section or key and where
 * it stands. All return 0 or -errno (-EINVAL: bad value or unknown name; -errno of reading). */

/* Defaults, then the configuration files (file NULL: ACAFS_CONFIG, else the system's and the user's,
 * those that exist), then the environment. */
int config_load(struct config *, const char *file, char **why);
/* One "-o" argument: comma-separated name or name=value (backslash escapes a comma). */
int config_mount_options(struct config *, const char *options, char **why);
/* The value of `-o config=FILE` in an "-o" argument, before anything is loaded; malloc'd or NULL. */
char *config_file_option(const char *options);
/* SOURCE: POOL[#SESSION]; either part may be empty. */
int config_source(struct config *, const char *source, char **why);
void config_free(struct config *);

/* Prints the effective settings in the configuration file's form, each with its source. */
void config_print(const struct config *, FILE *);
/* The option table for --help and the man page. */
void config_help(FILE *);

#endif
