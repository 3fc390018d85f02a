#include "store/internal.h"

#include <string.h>

enum {
    WINDOW_FIRST = 4, /* files; doubled by every next one that is read */
    WINDOW_MOST = READAHEAD_NEXT / 2,
    BUDGET = 16 << 20, /* bytes fetched ahead; no more than a quarter of the cache */
    SLACK = 8,         /* files that may be left out in a pattern: parallel readers, filters */
    SOON = 256 << 10,  /* bytes: smaller files are here before another connection would be */
    KEPT_PLACES = 2,   /* transfers that read-ahead leaves to others */
};

/* --- what follows */

static struct inode *next_listed(const struct inode *inode)
{
    return inode->by_name.next;
}

/* Whether the recent files follow each other in the listing. */
static bool go_as_listed(struct store *s, const struct run *run)
{
    const struct inode *at = inode_find(&s->inodes, run->recent[READAHEAD_STEPS - 1]);
    unsigned left = READAHEAD_STEPS - 1;
    for (int step = 0; at && step <= SLACK; step++, at = next_listed(at)) {
        if (at->id == run->recent[left] && left-- == 0)
            return true;
    }
    return false;
}

static void plan_as_listed(struct run *run, const struct inode *from)
{
    for (const struct inode *at = next_listed(from); at && run->planned < READAHEAD_NEXT;
         at = next_listed(at)) {
        if (S_ISREG(at->mode))
            run->next[run->planned++] = at->id;
    }
}

/* The names that follow `from`, in order, behind those that are planned already; *between is how
 * many there are behind `low` and before `from`. One pass: a directory may be large. */
static void plan_by_name(struct run *run, const struct inode *dir, const char *low,
                         const char *from, unsigned *between)
{
    const struct inode *found[READAHEAD_NEXT];
    unsigned room = READAHEAD_NEXT - run->planned, count = 0;
    for (const struct inode *child = dir->children; child; child = next_listed(child)) {
        if (!S_ISREG(child->mode))
            continue;
        if (strcmp(child->name, from) <= 0) {
            *between += strcmp(child->name, low) > 0 && strcmp(child->name, from) < 0;
            continue;
        }
        unsigned slot = count;
        while (slot && strcmp(child->name, found[slot - 1]->name) < 0)
            slot--;
        if (slot == room)
            continue;
        count += count < room;
        memmove(found + slot + 1, found + slot, (count - slot - 1) * sizeof *found);
        found[slot] = child;
    }
    for (unsigned i = 0; i < count; i++)
        run->next[run->planned++] = found[i]->id;
}

static bool names_rise(const struct inode *const recent[READAHEAD_STEPS])
{
    for (int i = 0; i + 1 < READAHEAD_STEPS; i++)
        if (strcmp(recent[i]->name, recent[i + 1]->name) <= 0)
            return false;
    return true;
}

/* Finds the pattern in the recent files, if there is one, and what follows. */
static void plan(struct store *s, struct run *run, const struct inode *dir)
{
    const struct inode *recent[READAHEAD_STEPS];
    for (int i = 0; i < READAHEAD_STEPS; i++) {
        recent[i] = inode_find(&s->inodes, run->recent[i]);
        if (!recent[i] || recent[i]->parent != dir)
            return;
    }
    run->begun = run->missed = 0;
    run->window = WINDOW_FIRST;
    run->by_name = false;
    if (go_as_listed(s, run)) {
        plan_as_listed(run, recent[0]);
        return;
    }
    unsigned between = 0;
    if (!names_rise(recent))
        return;
    run->by_name = true;
    plan_by_name(run, dir, recent[READAHEAD_STEPS - 1]->name, recent[0]->name, &between);
    if (between > SLACK)
        run->planned = 0;
}

/* --- fetching it */

static bool is_ahead(const struct file *f)
{
    return f && f->state == FILE_FILLING && f->streams && f->streams->ahead;
}

static struct file *planned_file(struct store *s, const struct run *run, unsigned i)
{
    const struct inode *inode = run->next[i] ? inode_find(&s->inodes, run->next[i]) : NULL;
    return inode && S_ISREG(inode->mode) ? inode->file : NULL;
}

static bool may_fetch(const struct inode *inode, uint64_t dir)
{
    return inode->parent && inode->parent->id == dir && inode->on_server && inode->size >= 0 &&
           (!inode->file || inode->file->state == FILE_ABSENT);
}

static void fetch_planned(struct store *s, struct run *run)
{
    uint64_t budget = s->options.cache_size / 4, ahead = 0;
    unsigned places =
        s->options.max_uploads > KEPT_PLACES ? s->options.max_uploads - KEPT_PLACES : 1;
    budget = budget < BUDGET ? budget : BUDGET;
    for (unsigned i = 0, files = 0; i < run->planned && files < run->window; i++) {
        struct inode *inode = run->next[i] ? inode_find(&s->inodes, run->next[i]) : NULL;
        if (!inode)
            continue;
        files++;
        ahead += inode->size > 0 ? (uint64_t)inode->size : 0;
        if (ahead > budget)
            return;
        if (i < run->begun)
            continue;
        if (may_fetch(inode, run->dir)) {
            if (s->streams >= places)
                return;
            file_fetch_ahead(s, inode);
        }
        run->begun = i + 1;
    }
}

/* Whether it pays to break this download off: short ones are over soon, and may be asked for yet.
 */
static bool worth_dropping(const struct file *f)
{
    return is_ahead(f) && f->inode->size > SOON;
}

static void drop_planned(struct store *s, const struct run *run, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct file *f = planned_file(s, run, i);
        if (worth_dropping(f))
            file_drop(f);
    }
}

static void give_up(struct store *s, struct run *run)
{
    drop_planned(s, run, run->planned);
    run->planned = 0;
}

/* Forgets what lies behind, or was passed over, and plans further when that is needed. */
static void plan_on(struct store *s, struct run *run, const struct inode *dir, unsigned hit)
{
    unsigned gone = hit > SLACK ? hit - SLACK : 0;
    while (gone < run->planned && !run->next[gone])
        gone++;
    drop_planned(s, run, gone);
    run->planned -= gone;
    run->begun -= run->begun < gone ? run->begun : gone;
    memmove(run->next, run->next + gone, run->planned * sizeof *run->next);
    if (run->planned >= WINDOW_MOST || !run->planned)
        return;
    const struct inode *last = inode_find(&s->inodes, run->next[run->planned - 1]);
    unsigned between = 0;
    if (!last || last->parent != dir)
        return;
    if (run->by_name)
        plan_by_name(run, dir, last->name, last->name, &between);
    else
        plan_as_listed(run, last);
}

/* --- from outside */

static struct run *find_run(struct store *s, uint64_t dir)
{
    struct run *oldest = s->ahead.runs;
    for (struct run *run = oldest; run < s->ahead.runs + READAHEAD_RUNS; run++) {
        if (run->dir == dir)
            return run;
        if (run->used < oldest->used)
            oldest = run;
    }
    give_up(s, oldest);
    *oldest = (struct run){.dir = dir};
    return oldest;
}

static bool was_recent(const struct run *run, uint64_t id)
{
    for (int i = 0; i < READAHEAD_STEPS; i++)
        if (run->recent[i] == id)
            return true;
    return false;
}

void readahead_note(struct store *s, struct inode *inode)
{
    struct inode *dir = inode->parent;
    if (inode->id == s->ahead.last || !dir)
        return;
    s->ahead.last = inode->id;
    struct run *run = find_run(s, dir->id);
    run->used = ++s->ahead.uses;
    if (was_recent(run, inode->id))
        return;
    memmove(run->recent + 1, run->recent, sizeof run->recent - sizeof *run->recent);
    run->recent[0] = inode->id;
    unsigned hit = 0;
    while (hit < run->planned && run->next[hit] != inode->id)
        hit++;
    if (hit < run->planned) {
        run->next[hit] = 0;
        run->missed = 0;
        run->window = run->window < WINDOW_MOST ? 2 * run->window : WINDOW_MOST;
        plan_on(s, run, dir, hit);
    } else if (!run->planned || ++run->missed == READAHEAD_STEPS) {
        give_up(s, run);
        plan(s, run, dir);
    }
    fetch_planned(s, run);
}

void readahead_go_on(struct store *s)
{
    for (struct run *run = s->ahead.runs; run < s->ahead.runs + READAHEAD_RUNS; run++)
        if (run->planned)
            fetch_planned(s, run);
}

void readahead_give_way(struct store *s)
{
    if (!s->ahead.streams || s->streams < s->options.max_uploads)
        return;
    for (struct run *run = s->ahead.runs; run < s->ahead.runs + READAHEAD_RUNS; run++) {
        for (unsigned i = run->planned; i-- > 0;) {
            struct file *f = planned_file(s, run, i);
            if (worth_dropping(f)) {
                file_drop(f);
                return;
            }
        }
    }
}
