/* session/answer.c: whatever a pool says is taken or refused, and what is taken can be shown. */
#include <stdlib.h>
#include <string.h>

#include "session/answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void list(const struct answer *a)
{
    struct listing l;
    struct session_error e;
    answer_list(a, "https://pool.example/files", &l, &e);
    for (size_t i = 0; i < l.count; i++) {
        if (!entry_name_ok(l.entries[i].name, strlen(l.entries[i].name)))
            abort();
        if (l.entries[i].directory[0] == '/' || strstr(l.entries[i].directory, "/../"))
            abort();
    }
    listing_free(&l);
    session_error_free(&e);
}

static void rest(const struct answer *a)
{
    struct session_error e;
    struct entry entry;
    answer_entry(a, &entry, &e);
    entry_free(&entry);
    session_error_free(&e);
    struct execution x;
    answer_execute(a, &x, &e);
    if (strchr(x.extension, '/'))
        abort();
    execution_free(&x);
    session_error_free(&e);
    struct session_names names;
    answer_sessions(a, "https://pool.example/listSessions", &names, &e);
    for (size_t i = 0; i < names.count; i++) {
        if (!entry_name_ok(names.names[i], strlen(names.names[i])))
            abort();
    }
    session_names_free(&names);
    session_error_free(&e);
    struct session_info info;
    answer_session(a, &info, &e);
    session_info_free(&info);
    session_error_free(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int statuses[] = {200, 202, 204, 302, 400, 401, 404, 429, 500};
    if (size == 0)
        return 0;
    char *text = malloc(size);
    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    struct answer a = {.status = statuses[data[0] % (sizeof statuses / sizeof *statuses)],
                       .body = text,
                       .len = size - 1};
    list(&a);
    rest(&a);
    free(text);
    return 0;
}
