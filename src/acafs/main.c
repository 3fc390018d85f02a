/* acafs: mounts a session of a pool as a directory. See acafs(8). */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <curl/curl.h>

#include "acafs/daemon.h"
#include "acafs/helper.h"
#include "acafs/login_check.h"
#include "acafs/overview.h"
#include "acafs/tools.h"
#include "acafs/unmount.h"
#include "config/config.h"
#include "session/session.h"
#include "store/fault.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

static const char usage[] =
    "usage: acafs [SOURCE] MOUNTPOINT [-f] [-d] [-o OPTION[=VALUE],…]\n"
    "       acafs [POOL] --all MOUNTPOINT …     a whole pool: a directory per session\n"
    "       acafs status [MOUNTPOINT] [--json]  how a mount is\n"
    "       acafs list                          all mounts of this machine\n"
    "       acafs sync MOUNTPOINT               wait until all is in the session\n"
    "       acafs login-check [POOL]            try the credentials\n"
    "       acafs config                        the settings, and where each is from\n"
    "       acafs config --check FILE           look a configuration file over\n"
    "       acafs config --options              what -o takes, and defaults\n"
    "\n"
    "SOURCE is POOL[#SESSION]. POOL is a management endpoint URL, or `local` (the\n"
    "default), a pool on this machine. Without SESSION a new one is made, and its\n"
    "name printed. To unmount: fusermount3 -u MOUNTPOINT.\n"
    "\n"
    "  -f              stay in the foreground\n"
    "  -d              the same, and trace FUSE requests and those to the pool\n"
    "  -o OPTION,…     settings such as cache-size=4G; each is a key of acafs.conf(5)\n"
    "                  and a variable as well: ACAFS_CACHE_SIZE. The pool's URL is in\n"
    "                  ACAFS_POOL_ENDPOINT, a bearer token may be in ACAFS_TOKEN;\n"
    "                  -o config=FILE or ACAFS_CONFIG names a configuration file\n"
    "  -h, --help      this               -V, --version   which acafs this is\n"
    "\n"
    "See acafs(8) for all of it.\n";

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} subcommands[] = {
    {"status", overview_status}, {"list", overview_list},      {"sync", tool_sync},
    {"config", tool_config},     {"login-check", login_check},
};

typedef int subcommand_fn(int argc, char **argv);

/* NULL when there is none of that name. */
static subcommand_fn *find_subcommand(const char *name)
{
    for (size_t i = 0; i < sizeof subcommands / sizeof *subcommands; i++) {
        if (strcmp(name, subcommands[i].name) == 0)
            return subcommands[i].run;
    }
    return NULL;
}

struct arguments {
    char *source, *mountpoint;
    char *options[64];
    unsigned option_count;
    bool helper; /* mount(8) calls: its flags have other meanings */
    bool foreground, debug, fake, all;
};

static int usage_error(const char *what, const char *which)
{
    log_error("%s%s (acafs --help lists what there is)", what, which);
    return EXIT_USAGE;
}

/* -1 to go on, else the exit code. */
static int parse(int argc, char **argv, struct arguments *a)
{
    static const struct option longs[] = {{"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'V'},
                                          {"all", no_argument, NULL, 'A'},
                                          {0}};
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "o:fdhVsvnt:N:", longs, NULL)) != -1) {
        switch (c) {
        case 'o':
            if (a->option_count == sizeof a->options / sizeof *a->options)
                return usage_error("too many options: -o ", optarg);
            a->options[a->option_count++] = optarg;
            break;
        case 'A':
            a->all = true;
            break;
        case 'd':
            a->debug = true;
            a->foreground = true;
            break;
        case 'f':
            *(a->helper ? &a->fake : &a->foreground) = true;
            break;
        case 's': /* mount(8) hands these on: sloppy, verbose, no mtab, its type and namespace */
        case 't':
        case 'N':
        case 'v':
        case 'n':
            break;
        case 'h':
            fputs(usage, stdout);
            return EXIT_OK;
        case 'V':
            puts("acafs " ACAFS_VERSION);
            return EXIT_OK;
        default:
            return usage_error("unknown or incomplete option ", argv[optind - 1]);
        }
    }
    int left = argc - optind;
    if (left < 1)
        return usage_error("no MOUNTPOINT", "");
    if (!a->helper && find_subcommand(argv[optind]) &&
        (left > 1 || access(argv[optind], F_OK) != 0))
        return usage_error("a command goes first, before any option: acafs ", argv[optind]);
    if (left > 2)
        return usage_error("more than SOURCE and MOUNTPOINT: ", argv[optind + 2]);
    a->source = left == 2 ? argv[optind] : NULL;
    a->mountpoint = argv[argc - 1];
    return -1;
}

/* A whole pool has all of them: one that is named is a mistake, one that is set is for other
 * mounts. */
static int no_session(struct config *config)
{
    if (config_on_command_line(config, "session")) {
        log_error("--all mounts every session of the pool: name none (it is MOUNTPOINT/SESSION)");
        return EXIT_USAGE;
    }
    free(config->session);
    config->session = NULL;
    return 0;
}

/* 0, or the exit code after saying what is wrong. */
static int settings(const struct arguments *a, struct config *config)
{
    _cleanup_free_ char *why = NULL, *file = NULL;
    for (unsigned i = 0; i < a->option_count && !file; i++)
        file = config_file_option(a->options[i]);
    int err = config_load(config, file, &why), code = err ? EXIT_CONFIG : EXIT_USAGE;
    for (unsigned i = 0; i < a->option_count && !err; i++)
        err = config_mount_options(config, a->options[i], &why);
    if (!err && a->source)
        err = config_source(config, a->source, &why);
    if (!err && a->all)
        err = config_mount_options(config, "all", &why);
    if (!err)
        err = config_finish(config, &why);
    if (!err)
        return config->all ? no_session(config) : 0;
    log_error("%s", why ? why : strerror(-err));
    return code;
}

static bool is_mounted(const char *path)
{
    FILE *mounts = setmntent("/proc/self/mounts", "r");
    struct mntent *m;
    bool found = false;
    while (mounts && (m = getmntent(mounts)))
        found = found || (strcmp(m->mnt_dir, path) == 0 && strcmp(m->mnt_type, "fuse.acafs") == 0);
    if (mounts)
        endmntent(mounts);
    return found;
}

/* The absolute path of the mount point, or NULL after saying what is wrong with it. */
static char *check_mountpoint(const char *path)
{
    char *full = realpath(path, NULL);
    struct stat st;
    if (!full || stat(full, &st)) {
        /* A mount whose daemon died still has its place in the table. */
        log_error("mount point %s: %s%s", path, strerror(errno),
                  errno == ENOTCONN ? " (its daemon is gone: umount it first)" : "");
    } else if (is_mounted(full)) {
        log_error("mount point %s: a session is mounted there already", path);
    } else if (!S_ISDIR(st.st_mode)) {
        log_error("mount point %s: not a directory", path);
    } else {
        return full;
    }
    free(full);
    return NULL;
}

/* A fresh session where none was named; its name is printed, for it is the only key to it. */
static int choose_session(struct config *config)
{
    const char *why;
    if (config->session) {
        if (session_identifier_check(config->session, &why) == 0)
            return 0;
        log_error("session identifier: %s", why);
        return -1;
    }
    char uuid[37];
    text_uuid(uuid);
    config->session = strdup(uuid);
    if (!config->session)
        return -1;
    printf("session %s\n", uuid);
    fflush(stdout);
    return 0;
}

static int check_endpoint(const struct config *config)
{
    const char *why;
    if (strcmp(config->endpoint, "local") == 0 || http_url_check(config->endpoint, NULL, &why) == 0)
        return 0;
    log_error("pool %s: %s", config->endpoint, why);
    return -1;
}

/* Mounts what the arguments name; the exit code. The config is the caller's to free. */
static int mount_session(const struct arguments *a, struct config *config)
{
    int code = settings(a, config);
    if (code)
        return code;
    _cleanup_free_ char *mountpoint = check_mountpoint(a->mountpoint);
    if (!mountpoint)
        return EXIT_MOUNTPOINT;
    if (check_endpoint(config) || (!config->all && choose_session(config)))
        return EXIT_USAGE;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    const struct daemon_options options = {
        .config = config,
        .source = a->source ? a->source : config->endpoint,
        .mountpoint = mountpoint,
        .foreground = a->foreground,
        .debug = a->debug,
    };
    code = daemon_run(&options);
    curl_global_cleanup();
    return code;
}

int main(int argc, char **argv)
{
    log_init("acafs", LOG_LEVEL_INFO);
    if (fault_init()) {
        log_error("ACAFS_FAULT: no such step: %s", getenv("ACAFS_FAULT"));
        return EXIT_USAGE;
    }
    if (unmount_is(argv[0]))
        return unmount_run(argc, argv);
    subcommand_fn *run = argc > 1 ? find_subcommand(argv[1]) : NULL;
    if (run)
        return run(argc - 1, argv + 1);
    struct arguments a = {.helper = helper_is(argv[0])};
    int code = parse(argc, argv, &a);
    if (code >= 0 || a.fake)
        return code >= 0 ? code : EXIT_OK;
    if (helper_has(a.options, a.option_count, "remount"))
        return helper_remount(a.mountpoint, a.options, a.option_count);
    if (a.helper && a.source && helper_has(a.options, a.option_count, "setuid="))
        return helper_as_user(a.source, a.mountpoint, a.options, a.option_count);
    struct config config = {0};
    code = mount_session(&a, &config);
    config_free(&config);
    return code;
}
