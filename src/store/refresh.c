/* Listings and how they meet the tree. Three kinds: `tree` is one recursive answer for
 * everything the file calls can show; a directory's own listing where that is not to be had
 * or too large; `hidden` is the helper's word on what both leave out (symlinks, names the file
 * calls refuse). A listing never undoes what was changed here after it was asked for. */
#include "store/internal.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "util/cleanup.h"
#include "util/log.h"
#include "util/text.h"

enum {
    TREE_MAX_ENTRIES = 5000, /* larger trees are listed a directory at a time, once known */
    HIDDEN_MAX_ENTRIES = 2000,
    HIDDEN_PATIENCE_MS = 3000,
    LISTING_REST = 4,            /* times what the last one took */
    LONGEST_LIFE_MS = 60000,     /* for that reason */
    AWAY_MS = 2000,              /* how long a pool that did not answer is not asked again */
    PATIENCE_MS = 3000,          /* with a listing, where an older one could be shown */
    LONGEST_PATIENCE_MS = 10000, /* with one that takes long every time */
    AWAY_PATIENCE_MS = 500,      /* the same of a pool that did not answer when last asked */
    PATH_LIMIT = 4096,
};

bool version_same(const struct version *a, const struct version *b)
{
    if (a->size != b->size && a->size >= 0 && b->size >= 0)
        return false;
    if (a->mtime.tv_nsec < 0 || b->mtime.tv_nsec < 0)
        return true;
    /* Answers of one server may carry 7 or 9 digits of one time. */
    return a->mtime.tv_sec == b->mtime.tv_sec && labs(a->mtime.tv_nsec - b->mtime.tv_nsec) < 1000;
}

static bool is_unreachable(int err)
{
    return err == -EHOSTUNREACH || err == -ETIMEDOUT;
}

/* --- graves */

void store_bury(struct store *s, const struct inode *dir, const char *name)
{
    struct grave *g = s->listings ? calloc(1, sizeof *g) : NULL;
    if (!g || !(g->name = strdup(name))) {
        free(g);
        return;
    }
    g->dir_id = dir->id;
    g->clock = ++s->inodes.clock;
    DL_APPEND(s->graves, g);
}

static bool is_buried(const struct store *s, const struct inode *dir, const char *name,
                      uint64_t asked_clock)
{
    const struct grave *g;
    DL_FOREACH (s->graves, g) {
        if (g->clock > asked_clock && g->dir_id == dir->id && strcmp(g->name, name) == 0)
            return true;
    }
    return false;
}

static void clear_graves(struct store *s)
{
    struct grave *g, *next;
    DL_FOREACH_SAFE (s->graves, g, next) {
        DL_DELETE(s->graves, g);
        free(g->name);
        free(g);
    }
}

/* --- merging */

/* One listing on its way into the tree. */
struct merge {
    bool strange; /* it showed a change of names that was not made here */
    struct store *store;
    uint64_t asked_clock;
    int64_t asked_ms;
    struct inode *top;
    struct inode *last_dir; /* of the entry before: listings come in runs */
    const char *last_path;
};

static void set_version(struct inode *inode, const struct entry *e)
{
    inode->base = (struct version){.size = e->size, .mtime = e->mtime};
    inode->size = e->size;
    if (e->mtime.tv_nsec >= 0)
        inode->mtime = inode->ctime = inode->atime = e->mtime;
    else if (!inode->ctime.tv_sec)
        clock_gettime(CLOCK_REALTIME, &inode->ctime), inode->mtime = inode->atime = inode->ctime;
}

static mode_t listed_mode(const struct store *s, enum entry_kind kind)
{
    switch (kind) {
    case ENTRY_DIRECTORY:
        return S_IFDIR | (0777 & ~s->inodes.umask);
    case ENTRY_SYMLINK:
        return S_IFLNK | 0777;
    case ENTRY_FILE:
        break;
    }
    return S_IFREG | (0666 & ~s->inodes.umask);
}

static void tell_entry(struct store *s, struct inode *dir, const char *name)
{
    if (s->options.events.entry)
        s->options.events.entry(s->options.events.arg, dir, name);
}

static struct inode *add_listed(struct merge *m, struct inode *dir, const char *name,
                                enum entry_kind kind)
{
    struct store *s = m->store;
    if (is_buried(s, dir, name, m->asked_clock))
        return NULL;
    struct inode *inode = inode_add(&s->inodes, dir, name, listed_mode(s, kind));
    if (!inode)
        return NULL;
    inode->on_server = true;
    inode->seen = s->epoch;
    m->strange = true;
    if (dir->missed)
        tell_entry(s, dir, name);
    return inode;
}

static void remove_listed(struct store *s, struct inode *inode)
{
    struct inode *dir = inode->parent;
    _cleanup_buf_ struct buf path = {0};
    if ((inode->recorded || S_ISDIR(inode->mode)) && inode_path(inode, &path))
        store_record(s, RECORD_GONE, path.data, NULL, false);
    inode_pin(inode);
    if (inode->nlookup)
        tell_entry(s, dir, inode->name);
    inode_remove(&s->inodes, inode);
    if (S_ISREG(inode->mode))
        store_file_orphaned(s, inode);
    inode_unpin(&s->inodes, inode);
}

/* Whether it is gone here; e: what the listing has there, NULL for a directory. */
static bool is_removed(const struct merge *m, const struct inode *dir, const char *name,
                       const struct entry *e)
{
    struct removal *r = store_removal(m->store, dir, name);
    if (!r)
        return false;
    const struct version now = {.size = e ? e->size : -1,
                                .mtime = e ? e->mtime : (struct timespec){.tv_nsec = -1}};
    store_removal_listed(r, e && e->kind == ENTRY_FILE ? &now : NULL, m->asked_ms);
    return true;
}

/* The directory that an entry's path names, made where it is missing; NULL when it can't be. */
static struct inode *find_dir(struct merge *m, const char *path)
{
    if (m->last_path && strcmp(m->last_path, path) == 0)
        return m->last_dir;
    struct inode *dir = m->top;
    while (dir && *path) {
        size_t len = strcspn(path, "/");
        char name[256];
        if (len == 0 || len >= sizeof name)
            return NULL;
        memcpy(name, path, len);
        name[len] = '\0';
        struct inode *child = inode_child(dir, name);
        if (!child && is_removed(m, dir, name, NULL))
            return NULL;
        if (!child)
            child = add_listed(m, dir, name, ENTRY_DIRECTORY);
        if (!child || !S_ISDIR(child->mode))
            return NULL;
        child->seen = m->store->epoch;
        dir = child;
        path += len + (path[len] == '/');
    }
    return dir;
}

static bool ours_is_newer(const struct merge *m, const struct inode *inode)
{
    return inode->changed > m->asked_clock || !inode->on_server || store_file_dirty(inode) ||
           store_changing(m->store, inode);
}

static void update_file(struct merge *m, struct inode *inode, const struct entry *e)
{
    struct store *s = m->store;
    struct version now = {.size = e->size, .mtime = e->mtime};
    if (version_same(&inode->base, &now)) {
        if (inode->base.mtime.tv_nsec < 0 && now.mtime.tv_nsec >= 0) {
            inode->base.mtime = now.mtime;
            if (inode->recorded)
                store_note(s, inode);
        }
        return;
    }
    set_version(inode, e);
    store_file_outdated(s, inode);
    if (s->options.events.content && inode->nlookup)
        s->options.events.content(s->options.events.arg, inode);
}

static void set_target(struct inode *inode, const char *target)
{
    if (inode->target && strcmp(inode->target, target) == 0)
        return;
    char *copy = strdup(target);
    if (!copy)
        return;
    free(inode->target);
    inode->target = copy;
    inode->own_target = false;
    inode->size = (int64_t)strlen(copy);
}

static void merge_entry(struct merge *m, const struct entry *e)
{
    struct store *s = m->store;
    struct inode *dir = find_dir(m, e->directory);
    m->last_dir = dir;
    m->last_path = e->directory;
    if (!dir || store_name_check(dir, e->name) == -EINVAL || is_removed(m, dir, e->name, e))
        return;
    struct inode *inode = inode_child(dir, e->name);
    mode_t mode = listed_mode(s, e->kind);
    if (inode && ours_is_newer(m, inode)) {
        inode->seen = s->epoch;
        if (!inode->on_server && S_ISREG(inode->mode) && inode->file)
            inode->file->taken = true;
        return;
    }
    if (inode && (inode->mode & S_IFMT) != (mode & S_IFMT)) {
        if (store_dirty_below(s, inode))
            return; /* their file where a directory was that holds ours: nothing of ours goes */
        remove_listed(s, inode);
        inode = NULL;
    }
    bool is_new = !inode;
    if (is_new && !(inode = add_listed(m, dir, e->name, e->kind)))
        return;
    inode->seen = s->epoch;
    if (e->kind == ENTRY_SYMLINK)
        set_target(inode, e->target ? e->target : "");
    if (is_new || e->kind == ENTRY_DIRECTORY) {
        int64_t size = inode->size;
        if (e->mtime.tv_nsec >= 0 || is_new)
            set_version(inode, e);
        if (e->kind != ENTRY_FILE)
            inode->size = size;
    } else if (e->kind == ENTRY_FILE) {
        update_file(m, inode, e);
    }
}

/* What a kind of listing has the last word on. */
typedef bool covers_fn(const struct store *, const struct inode *, const char *path);

static bool covered_by_files(const struct store *s, const struct inode *inode, const char *path)
{
    return !S_ISLNK(inode->mode) && session_path_plain(s->session, path);
}

static bool covered_by_hidden(const struct store *s, const struct inode *inode, const char *path)
{
    return !covered_by_files(s, inode, path);
}

static bool covered_by_own(const struct store *s, const struct inode *inode, const char *path)
{
    return true;
}

/* Takes away below dir what the listing covers and did not have. */
static void sweep(struct merge *m, struct inode *dir, covers_fn *covers, bool deep)
{
    struct store *s = m->store;
    struct inode *child, *next;
    HASH_ITER (by_name, dir->children, child, next) {
        if (child->seen != s->epoch && !ours_is_newer(m, child)) {
            _cleanup_buf_ struct buf path = {0};
            if (inode_path(child, &path) && covers(s, child, path.data)) {
                m->strange = true;
                if (!store_dirty_below(s, child)) {
                    remove_listed(s, child);
                    continue;
                }
                child->on_server = false; /* made anew by what goes up into it */
            }
        }
        if (deep && S_ISDIR(child->mode) && child->children)
            sweep(m, child, covers, deep);
    }
}

static void merge_listing(struct store *s, struct inode *top, const struct listing *listing,
                          const struct listing_state *state, covers_fn *covers, bool deep)
{
    s->epoch++;
    struct merge m = {
        .store = s, .asked_clock = state->asked_clock, .asked_ms = state->asked_ms, .top = top};
    for (size_t i = 0; i < listing->count; i++) {
        const struct entry *e = &listing->entries[i];
        if (strlen(e->directory) + strlen(e->name) < PATH_LIMIT)
            merge_entry(&m, e);
    }
    sweep(&m, top, covers, deep);
    if (m.strange && state != &s->hidden && state->listed_ms &&
        s->hidden.asked_ms < state->asked_ms) {
        s->strange_ms = state->asked_ms;
        s->hidden_patience_over = false;
    }
    s->hidden_names = listing->skipped;
}

/* --- asking */

void store_set_away(struct store *s, int err)
{
    if (!s->away && room_tell_away(s->room, true))
        log_warning("the pool does not answer (%s): showing what is known", strerror(-err));
    s->away = err;
    s->away_ms = clock_ms();
    s->away_until = s->away_ms + AWAY_MS;
}

/* What a long answer took on its way is a multiple of what stays. */
static void give_memory_back(void *arg)
{
    malloc_trim(0);
}

static int64_t patience_ms(const struct store *s)
{
    int64_t usual = 2 * s->listing_took_ms;
    if (s->away)
        return AWAY_PATIENCE_MS;
    usual = usual < LONGEST_PATIENCE_MS ? usual : LONGEST_PATIENCE_MS;
    return usual > PATIENCE_MS ? usual : PATIENCE_MS;
}

static void patience_over(void *arg)
{
    struct listing_state *state = arg;
    struct store *s = state->store;
    state->slow = true;
    if (state == &s->tree && state->listed_ms && !s->away)
        log_warning("the pool has not answered for %lld s: showing what was known before",
                    (long long)(clock_ms() - state->asked_ms) / 1000);
    waitq_wake(&s->wakeup, &state->content, 0);
}

static void stop_patience(struct listing_state *state)
{
    if (state->patience.fn)
        loop_timer_stop(&state->patience);
    state->slow = false;
}

static void end_listing(struct store *s, struct listing_state *state, int err)
{
    state->call = NULL;
    if (state == &s->tree && state->slow && !err && !s->away)
        log_info("the pool answers again");
    stop_patience(state);
    if (--s->listings == 0)
        clear_graves(s);
    if (!err) {
        state->listed_ms = state->asked_ms;
        s->listing_took_ms = clock_ms() - state->asked_ms;
    }
    if (state->count > TREE_MAX_ENTRIES) {
        if (!s->trim.fn)
            loop_timer_init(&s->trim, s->loop, give_memory_back, s);
        loop_timer_set(&s->trim, 0); /* the listing is not freed yet */
    }
    store_note_reach(s, err);
    waitq_wake(&s->wakeup, &state->waiting, err);
    waitq_wake(&s->wakeup, &state->content, err);
    if (s->removals.list)
        loop_timer_set(&s->pump, 0);
}

static void begin_listing(struct store *s, struct listing_state *state)
{
    state->asked_ms = clock_ms();
    state->asked_clock = s->inodes.clock;
    state->store = s;
    if (!state->patience.fn)
        loop_timer_init(&state->patience, s->loop, patience_over, state);
    loop_timer_set(&state->patience, patience_ms(s));
    s->refreshes++;
    s->listings++;
}

/* Takes back begin_listing() where the call could not be made. */
static int begun(struct store *s, struct listing_state *state)
{
    if (state->call)
        return 0;
    stop_patience(state);
    s->listings--;
    return -ENOMEM;
}

static void tree_listed(void *, const struct session_error *, const struct session_list_result *);

static void emptiness_told(void *arg, const struct session_error *e,
                           const struct session_info *info)
{
    struct store *s = arg;
    s->emptiness_told = true;
    store_recycle_check(s);
    s->tree.call = session_list(s->session, "", !s->no_tree, tree_listed, s);
    if (!s->tree.call)
        end_listing(s, &s->tree, -ENOMEM);
}

/* All files gone at once: has the session ended, as answers about files may not tell? Then what
 * is here is all there is of them. */
static bool is_suspicious(const struct store *s, const struct session_list_result *r)
{
    return r->listing->count == 0 && s->tree.count > 0 && !s->emptiness_told;
}

static void tree_listed(void *arg, const struct session_error *e,
                        const struct session_list_result *r)
{
    struct store *s = arg;
    store_recycle_check(s);
    if (!e->err && is_suspicious(s, r)) {
        s->tree.call = session_info(s->session, emptiness_told, s);
        if (s->tree.call)
            return;
    }
    s->emptiness_told = false;
    if (!e->err) {
        s->no_tree = !r->recursive;
        merge_listing(s, s->inodes.root, r->listing, &s->tree, covered_by_files, r->recursive);
        s->tree.count = r->listing->count;
        store_ask_identity(s);
    }
    end_listing(s, &s->tree, e->err);
}

static void hidden_listed(void *arg, const struct session_error *e,
                          const struct session_list_result *r)
{
    struct store *s = arg;
    store_recycle_check(s);
    loop_timer_stop(&s->patience);
    s->hidden_patience_over = e->err != 0;
    if (!e->err) {
        merge_listing(s, s->inodes.root, r->listing, &s->hidden, covered_by_hidden, true);
        s->hidden.count = r->listing->count;
    } else {
        log_info("hidden names could not be listed: %s",
                 e->message ? e->message : strerror(-e->err));
    }
    end_listing(s, &s->hidden, e->err);
    waitq_wake(&s->wakeup, &s->hidden_settled, 0);
}

static void dir_listed(void *arg, const struct session_error *e,
                       const struct session_list_result *r)
{
    struct dir *d = arg;
    struct store *s = d->store;
    struct inode *inode = d->inode;
    inode_pin(inode);
    store_recycle_check(s);
    if (!e->err) {
        _cleanup_buf_ struct buf path = {0};
        bool plain =
            inode_child_path(inode, "x", &path) && session_path_plain(s->session, path.data);
        merge_listing(s, inode, r->listing, &d->listing, plain ? covered_by_files : covered_by_own,
                      false);
        d->listing.count = r->listing->count;
    } else if (e->err == -ENOENT && inode->parent && !store_changing(s, inode) &&
               inode->changed <= d->listing.asked_clock) {
        if (store_dirty_below(s, inode))
            inode->on_server = false;
        else
            remove_listed(s, inode);
    }
    end_listing(s, &d->listing, e->err);
    inode_unpin(&s->inodes, inode);
}

static void hidden_patience(void *arg)
{
    struct store *s = arg;
    s->hidden_patience_over = true;
    waitq_wake(&s->wakeup, &s->hidden_settled, 0);
}

int store_ask_tree(struct store *s)
{
    if (s->tree.call)
        return 0;
    begin_listing(s, &s->tree);
    s->tree.call = session_list(s->session, "", !s->no_tree, tree_listed, s);
    return begun(s, &s->tree);
}

static int ask_hidden(struct store *s)
{
    if (s->hidden.call)
        return 0;
    begin_listing(s, &s->hidden);
    if (!s->patience.fn)
        loop_timer_init(&s->patience, s->loop, hidden_patience, s);
    s->hidden_patience_over = false;
    loop_timer_set(&s->patience, HIDDEN_PATIENCE_MS);
    s->hidden.call = session_list_hidden(s->session, hidden_listed, s);
    return begun(s, &s->hidden);
}

static int ask_dir(struct store *s, struct inode *inode, struct listing_state **out)
{
    if (!inode->dir) {
        if (!(inode->dir = calloc(1, sizeof *inode->dir)))
            return -ENOMEM;
        *inode->dir = (struct dir){.store = s, .inode = inode};
    }
    struct dir *d = inode->dir;
    *out = &d->listing;
    if (d->listing.call)
        return 0;
    _cleanup_buf_ struct buf path = {0};
    if (!inode_path(inode, &path))
        return -ENOENT;
    begin_listing(s, &d->listing);
    d->listing.call = session_list(s->session, path.data, false, dir_listed, d);
    return begun(s, &d->listing);
}

/* --- freshness */

static bool dir_is_plain(const struct store *s, const struct inode *dir)
{
    _cleanup_buf_ struct buf path = {0};
    return inode_child_path(dir, "x", &path) && session_path_plain(s->session, path.data);
}

/* When the news on a directory's content was asked for; 0: never, or it is known to be old. */
static int64_t news_ms(const struct store *s, const struct inode *dir, bool plain)
{
    int64_t at =
        plain ? (s->no_tree && dir != s->inodes.root ? 0 : s->tree.listed_ms) : s->hidden.listed_ms;
    if (dir->dir && dir->dir->listing.listed_ms > at)
        at = dir->dir->listing.listed_ms;
    return at > s->stale_ms ? at : 0;
}

int64_t store_news_ms(const struct store *s, const struct inode *dir)
{
    return news_ms(s, dir, dir_is_plain(s, dir));
}

/* How long news are good: a listing that takes long is not asked for all the time. */
static int64_t lifetime_ms(const struct store *s)
{
    int64_t least = s->listing_took_ms * LISTING_REST;
    least = least < LONGEST_LIFE_MS ? least : LONGEST_LIFE_MS;
    return s->options.attr_timeout_ms && s->options.attr_timeout_ms < least
               ? least
               : s->options.attr_timeout_ms;
}

static bool good_enough(const struct store *s, const struct waiter *w, int64_t news)
{
    return news && (news >= w->born || clock_ms() - news < lifetime_ms(s));
}

/* As old as that they are still told, while newer ones are on their way. */
static bool will_do(const struct store *s, int64_t news)
{
    return news && clock_ms() - news < 2 * lifetime_ms(s);
}

/* Whether the listing of everything is what tells of a plain directory. */
static bool in_tree(const struct store *s, const struct inode *dir)
{
    return dir == s->inodes.root || (!s->no_tree && s->tree.count <= TREE_MAX_ENTRIES);
}

bool store_ask_names(struct store *s, struct inode *dir, size_t most)
{
    struct listing_state *state = &s->tree;
    if (!dir_is_plain(s, dir))
        return false;
    if (in_tree(s, dir))
        return s->tree.count <= most && store_ask_tree(s) == 0;
    size_t count = dir->dir ? dir->dir->listing.count : 0;
    return count <= most && ask_dir(s, dir, &state) == 0;
}

bool store_names_awaited(struct store *s, struct inode *dir)
{
    return s->tree.call || (dir->dir && dir->dir->listing.call);
}

/* Directories made here whose listing was never asked are known to hold what was put there. */
static int fresh(struct store *s, struct waiter *w, struct inode *dir, bool exact)
{
    int err = waiter_take_error(w);
    bool plain = dir_is_plain(s, dir);
    int64_t news = news_ms(s, dir, plain);
    if (err)
        return is_unreachable(err) && (s->tree.listed_ms || news) ? 0 : err;
    if (dir != s->inodes.root && (!dir->parent || !dir->on_server))
        return 0;
    bool may_wait = plain && !s->hidden_patience_over;
    bool strange = may_wait && s->hidden.listed_ms <= s->strange_ms;
    bool hidden_due = (may_wait && s->hidden.listed_ms <= s->stale_ms) || (strange && exact);
    if (strange && !hidden_due && !s->away)
        ask_hidden(s); /* nobody waits for it */
    if (good_enough(s, w, news) && !hidden_due)
        return 0;
    if (s->away && clock_ms() < s->away_until)
        return s->tree.listed_ms ? 0 : s->away;
    if (hidden_due) {
        err = ask_hidden(s);
        if (!err && good_enough(s, w, news)) {
            waitq_park(&s->hidden_settled, w);
            return STORE_WAIT;
        }
    }
    struct listing_state *state = NULL;
    if (plain && in_tree(s, dir)) {
        state = &s->tree;
        err = err ? err : store_ask_tree(s);
    } else if (!plain && s->hidden.count <= HIDDEN_MAX_ENTRIES) {
        state = &s->hidden;
        err = err ? err : ask_hidden(s);
    } else {
        err = err ? err : ask_dir(s, dir, &state);
    }
    if (err)
        return err;
    if (state->slow && s->away)
        return s->tree.listed_ms ? 0 : s->away;
    bool content = !exact && !hidden_due && news;
    if (content && (will_do(s, news) || state->slow))
        return 0;
    waitq_park(content || s->away ? &state->content : &state->waiting, w);
    return STORE_WAIT;
}

int store_fresh(struct store *s, struct waiter *w, struct inode *dir)
{
    return fresh(s, w, dir, false);
}

int store_fresh_attr(struct store *s, struct waiter *w, struct inode *inode)
{
    if (!inode->parent || store_file_dirty(inode) || !inode->on_server)
        return 0;
    return store_fresh(s, w, inode->parent);
}

int64_t store_names_ttl_ms(const struct store *s, const struct inode *dir)
{
    int64_t left = news_ms(s, dir, dir_is_plain(s, dir)) + lifetime_ms(s) - clock_ms();
    return left > 0 ? left : 0;
}

int64_t store_ttl_ms(const struct store *s, const struct inode *inode)
{
    return store_names_ttl_ms(s, inode->parent ? inode->parent : s->inodes.root);
}

int store_lookup(struct store *s, struct waiter *w, struct inode *dir, const char *name,
                 struct inode **out)
{
    int err = store_name_check(dir, name);
    if (err)
        return err == -EINVAL || err == -EILSEQ ? -ENOENT : err;
    if (!S_ISDIR(dir->mode))
        return -ENOTDIR;
    err = fresh(s, w, dir, false);
    if (err)
        return err;
    *out = inode_child(dir, name);
    if (*out)
        return 0;
    err = fresh(s, w, dir, true); /* what is not known may have come */
    if (err)
        return err;
    dir->missed = true;
    return -ENOENT;
}

void store_invalidate(struct store *s)
{
    s->stale_ms = clock_ms();
    s->hidden_patience_over = false;
    s->away = 0;
}

int store_refresh_all(struct store *s, struct waiter *w)
{
    int err = waiter_take_error(w);
    if (err)
        return err;
    s->away = 0;
    bool tree_due = s->tree.listed_ms <= w->born;
    bool hidden_due = s->hidden.listed_ms <= w->born && !s->hidden_patience_over;
    if (!tree_due && !hidden_due)
        return 0;
    err = tree_due ? store_ask_tree(s) : 0;
    if (!err && hidden_due)
        err = ask_hidden(s);
    if (err)
        return err;
    waitq_park(tree_due ? &s->tree.waiting : &s->hidden_settled, w);
    return STORE_WAIT;
}

static int await_listing(struct listing_state *state, struct waiter *w, int err)
{
    if (err)
        return err;
    waitq_park(&state->waiting, w);
    return STORE_WAIT;
}

/* Waits for news on a directory's own content from after the waiter's birth; hidden: also on what
 * its listing may leave out. */
static int fresh_dir(struct store *s, struct waiter *w, struct inode *dir, bool hidden)
{
    struct listing_state *state;
    if (!dir->dir || dir->dir->listing.listed_ms <= w->born) {
        int err = ask_dir(s, dir, &state);
        return err ? err : await_listing(state, w, 0);
    }
    if (hidden && dir_is_plain(s, dir) && s->hidden.listed_ms <= w->born)
        return await_listing(&s->hidden, w, ask_hidden(s));
    return 0;
}

/* The next part of a path, its length; 0 at the end. */
static size_t next_part(const char **path)
{
    for (;;) {
        *path += strspn(*path, "/");
        size_t len = strcspn(*path, "/");
        if (len != 1 || **path != '.')
            return len;
        ++*path;
    }
}

int store_refresh_path(struct store *s, struct waiter *w, const char *path)
{
    int err = waiter_take_error(w);
    struct inode *inode = s->inodes.root;
    size_t len;
    while (!err && (len = next_part(&path))) {
        char name[256];
        if (len >= sizeof name || !S_ISDIR(inode->mode))
            return -ENOENT;
        memcpy(name, path, len);
        name[len] = '\0';
        path += len;
        struct inode *child = inode_child(inode, name);
        if (!child)
            err = fresh_dir(s, w, inode, true);
        if (!child && !err)
            return -ENOENT;
        if (child)
            inode = child;
    }
    if (err)
        return err;
    if (S_ISDIR(inode->mode))
        return fresh_dir(s, w, inode, true);
    return fresh_dir(s, w, inode->parent, S_ISLNK(inode->mode));
}

void store_dir_free(struct dir *d)
{
    if (d->listing.call) {
        session_cancel(d->listing.call);
        d->store->listings--;
    }
    stop_patience(&d->listing);
    waitq_wake(&d->store->wakeup, &d->listing.waiting, -ENOENT);
    waitq_wake(&d->store->wakeup, &d->listing.content, -ENOENT);
    free(d);
}

void store_refresh_free(struct store *s)
{
    if (s->tree.call)
        session_cancel(s->tree.call);
    if (s->hidden.call)
        session_cancel(s->hidden.call);
    stop_patience(&s->tree);
    stop_patience(&s->hidden);
    if (s->patience.fn)
        loop_timer_stop(&s->patience);
    if (s->trim.fn)
        loop_timer_stop(&s->trim);
    clear_graves(s);
}
