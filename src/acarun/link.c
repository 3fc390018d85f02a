#include "acarun/link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "acarun/exit.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

static int load_settings(struct link *l, const struct options *o, char **why)
{
    _cleanup_free_ char *file = NULL;
    for (size_t i = 0; i < o->setting_count && !file; i++)
        file = config_file_option(o->settings[i]);
    return config_load(&l->config, file, why);
}

static int take_settings(struct link *l, const struct options *o, char **why)
{
    struct config *c = &l->config;
    int err = 0;
    for (size_t i = 0; i < o->setting_count && !err; i++)
        err = config_mount_options(c, o->settings[i], why);
    if (!err && o->pool)
        err = config_source(c, o->pool, why);
    if (!err && o->session) {
        free(c->session);
        c->session = strdup(o->session);
        err = c->session ? 0 : -ENOMEM;
    }
    return err ? err : config_finish(c, why);
}

static int check_settings(struct link *l)
{
    struct config *c = &l->config;
    const char *wrong;
    if (!client_is_local(c) && http_url_check(c->endpoint, NULL, &wrong)) {
        log_error("pool %s: %s", c->endpoint, wrong);
        return EXIT_BAD_USAGE;
    }
    if (c->session && session_identifier_check(c->session, &wrong)) {
        log_error("session identifier: %s", wrong);
        return EXIT_BAD_USAGE;
    }
    if (!c->session) {
        char uuid[37];
        text_uuid(uuid);
        c->session = strdup(uuid);
        l->own_session = true;
    }
    return c->session ? -1 : EXIT_RAISED;
}

static int say(int code, int err, const char *why)
{
    log_error("%s", why ? why : strerror(-err));
    return code;
}

static int open_client(struct link *l)
{
    _cleanup_free_ char *why = NULL;
    int err = client_ensure_local(&l->config, &why);
    if (err)
        return say(err == -EACCES ? EXIT_DENIED : EXIT_UNREACHABLE, err, why);
    if ((err = loop_new(&l->loop)))
        return say(EXIT_RAISED, err, NULL);
    err =
        client_new(&l->client, l->loop, &l->config, "acarun/" ACAFS_VERSION " (Language=C)", &why);
    if (err)
        return say(err == -EACCES ? EXIT_DENIED : EXIT_CONFIG, err, why);
    return -1;
}

int link_open(struct link *l, const struct options *o)
{
    _cleanup_free_ char *why = NULL;
    client_harden();
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int err = load_settings(l, o, &why);
    if (err)
        return say(EXIT_CONFIG, err, why);
    if ((err = take_settings(l, o, &why)))
        return say(EXIT_BAD_USAGE, err, why);
    int code = check_settings(l);
    return code < 0 ? open_client(l) : code;
}

void link_close(struct link *l)
{
    client_free(&l->client);
    if (l->loop)
        loop_free(l->loop);
    config_free(&l->config);
    curl_global_cleanup();
    *l = (struct link){0};
}
