#include "acapool/watch.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"

struct process {
    pid_t pid, parent;
    uint64_t resident;
};

struct processes {
    struct process *all;
    size_t count, room;
};

/* "PID (NAME) STATE PPID …", RSS is the 24th field; NAME may hold anything. */
static bool parse_stat(char *text, struct process *out)
{
    char *after = strrchr(text, ')');
    if (!after)
        return false;
    int parent;
    long resident;
    if (sscanf(after + 1,
               " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %*u "
               "%*u %ld",
               &parent, &resident) != 2)
        return false;
    out->parent = parent;
    out->resident = resident > 0 ? (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
    return true;
}

static bool read_stat(int proc, const char *pid, struct process *out)
{
    char path[32], text[1024];
    snprintf(path, sizeof path, "%.20s/stat", pid);
    _cleanup_close_ int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (len <= 0)
        return false;
    text[len] = '\0';
    out->pid = atoi(pid);
    return parse_stat(text, out);
}

static int by_pid(const void *a, const void *b)
{
    pid_t x = ((const struct process *)a)->pid, y = ((const struct process *)b)->pid;
    return (x > y) - (x < y);
}

static int add(struct processes *list, const struct process *one)
{
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 256;
        struct process *all = realloc(list->all, room * sizeof *all);
        if (!all)
            return -ENOMEM;
        list->all = all;
        list->room = room;
    }
    list->all[list->count++] = *one;
    return 0;
}

static int read_processes(struct processes *list)
{
    DIR *proc = opendir("/proc");
    if (!proc)
        return -errno;
    int err = 0;
    for (struct dirent *entry; !err && (entry = readdir(proc));) {
        struct process one;
        if (isdigit((unsigned char)entry->d_name[0]) && read_stat(dirfd(proc), entry->d_name, &one))
            err = add(list, &one);
    }
    closedir(proc);
    if (list->count)
        qsort(list->all, list->count, sizeof *list->all, by_pid);
    return err;
}

/* Which of the watched this process descends from, and how far; NULL: none. */
static struct watched *owner(const struct processes *list, const struct process *p,
                             struct watched *watched, size_t count, unsigned *generation)
{
    for (*generation = 0; p && *generation < 1000; (*generation)++) {
        for (size_t i = 0; i < count; i++) {
            if (watched[i].root == p->pid)
                return &watched[i];
        }
        struct process key = {.pid = p->parent};
        p = bsearch(&key, list->all, list->count, sizeof *list->all, by_pid);
    }
    return NULL;
}

int watch_memory(struct watched *watched, size_t count)
{
    struct processes list = {0};
    int err = read_processes(&list);
    for (size_t i = 0; i < count; i++) {
        watched[i].memory = 0;
        watched[i].largest = 0;
    }
    uint64_t *largest = calloc(count ? count : 1, sizeof *largest);
    if (!err && !largest)
        err = -ENOMEM;
    for (size_t i = 0; !err && i < list.count; i++) {
        unsigned generation;
        struct watched *w = owner(&list, &list.all[i], watched, count, &generation);
        if (!w)
            continue;
        w->memory += list.all[i].resident;
        if (generation > w->spared && list.all[i].resident > largest[w - watched]) {
            largest[w - watched] = list.all[i].resident;
            w->largest = list.all[i].pid;
        }
    }
    free(largest);
    free(list.all);
    return err;
}
