#include "acarun/notebook.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "acarun/report.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

enum { OUTPUT_DEPTH = SPAN_DEPTH - 8 }; /* it goes into a notebook */

void notebook_free(struct notebook *n)
{
    for (size_t i = 0; i < n->cell_count; i++) {
        free(n->cells[i].source);
        buf_free(&n->cells[i].outputs);
    }
    free(n->cells);
    buf_free(&n->text);
    *n = (struct notebook){0};
}

/* --- reading */

static int refuse(char **why, const char *text)
{
    *why = strdup(text);
    return *why ? -EINVAL : -ENOMEM;
}

static int refuse_json(char **why, const struct buf *text, size_t wrong)
{
    struct buf line = {0};
    size_t number = 1;
    for (size_t i = 0; i < wrong; i++)
        number += text->data[i] == '\n';
    if (buf_addf(&line, "line %zu: this is no JSON", number))
        return -ENOMEM;
    *why = buf_take(&line);
    return -EINVAL;
}

/* Text that the format allows to be divided into lines. */
static char *joined(struct span s)
{
    struct span item = {0};
    struct buf text = {0};
    if (!span_is(s, '['))
        return span_string(s);
    int err = buf_adds(&text, "");
    while (!err && span_next(s, &item)) {
        _cleanup_free_ char *line = span_string(item);
        err = line ? buf_adds(&text, line) : -EINVAL;
    }
    if (err)
        buf_free(&text);
    return err ? NULL : buf_take(&text);
}

static bool is_text(struct span s, const char *text)
{
    _cleanup_free_ char *own = span_string(s);
    return own && strcmp(own, text) == 0;
}

static bool has_tag(struct span cell, const char *tag)
{
    struct span tags = span_member(span_member(cell, "metadata"), "tags"), item = {0};
    while (span_next(tags, &item)) {
        if (is_text(item, tag))
            return true;
    }
    return false;
}

static int read_cell(struct span whole, struct notebook_cell *out, char **why)
{
    *out = (struct notebook_cell){.whole = whole};
    if (!is_text(span_member(whole, "cell_type"), "code"))
        return span_is(whole, '{') ? 0 : refuse(why, "a cell is no JSON object");
    out->source = joined(span_member(whole, "source"));
    if (!out->source)
        return refuse(why, "the source of a cell is no text");
    out->may_fail = has_tag(whole, "raises-exception");
    out->old_count = span_member(whole, "execution_count");
    out->old = span_member(whole, "outputs");
    return 0;
}

static int read_cells(struct span cells, struct notebook *out, char **why)
{
    struct span item = {0};
    size_t n = 0;
    if (!span_is(cells, '['))
        return refuse(why, "it has no cells");
    while (span_next(cells, &item))
        n++;
    out->cells = calloc(n ? n : 1, sizeof *out->cells);
    if (!out->cells)
        return -ENOMEM;
    item = (struct span){0};
    while (span_next(cells, &item)) {
        int err = read_cell(item, &out->cells[out->cell_count++], why);
        if (err)
            return err;
    }
    return 0;
}

/* Notebooks say it in one place or both, or not at all. */
static bool is_python(struct span top)
{
    struct span metadata = span_member(top, "metadata");
    struct span said[] = {
        span_member(span_member(metadata, "kernelspec"), "language"),
        span_member(span_member(metadata, "language_info"), "name"),
    };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        _cleanup_free_ char *language = span_string(said[i]);
        if (language && *language && strcasecmp(language, "python") != 0 &&
            strcasecmp(language, "ipython") != 0)
            return false;
    }
    return true;
}

int notebook_parse(const char *text, size_t len, struct notebook *out, char **why)
{
    struct span top;
    size_t wrong;
    *out = (struct notebook){0};
    *why = NULL;
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        len -= 3;
    }
    if (buf_adds(&out->text, "") || buf_add(&out->text, text, len))
        return -ENOMEM;
    if (!span_check(out->text.data, len, SPAN_DEPTH, &top, &wrong))
        return refuse_json(why, &out->text, wrong);
    struct span version = span_member(top, "nbformat");
    if (!version.at)
        return refuse(why, "this is no notebook");
    if (version.len != 1 || *version.at != '4')
        return refuse(
            why, "another version of the notebook format than 4: open it in Jupyter and save it");
    if (!is_python(top))
        return refuse(why, "it is of another language than Python, which is what sessions run");
    return read_cells(span_member(top, "cells"), out, why);
}

/* --- writing */

static int add_count(const struct notebook_cell *c, struct buf *out)
{
    return c->count ? buf_addf(out, "%u", c->count) : buf_adds(out, "null");
}

static int add_outputs(const struct notebook_cell *c, struct buf *out)
{
    if (!c->outputs.len)
        return buf_adds(out, "[]");
    int err = buf_adds(out, "[\n");
    err = err ? err : buf_add(out, c->outputs.data, c->outputs.len);
    return err ? err : buf_adds(out, "\n   ]");
}

/* The members that a cell lacks, behind its first bracket. */
static int add_missing(const struct notebook_cell *c, struct buf *out)
{
    int err = 0;
    if (!c->old_count.at) {
        err = buf_adds(out, "\n   \"execution_count\": ");
        err = err ? err : add_count(c, out);
        err = err ? err : buf_adds(out, ",");
    }
    if (!c->old.at && !err) {
        err = buf_adds(out, "\n   \"outputs\": ");
        err = err ? err : add_outputs(c, out);
        err = err ? err : buf_adds(out, ",");
    }
    return err;
}

/* Adds the text from *at to the end of a cell, with what is new in it. */
static int add_cell(const struct notebook_cell *c, const char **at, struct buf *out)
{
    bool count_first = c->old_count.at < c->old.at;
    int err = buf_add(out, *at, (size_t)(c->whole.at + 1 - *at));
    *at = c->whole.at + 1;
    err = err ? err : add_missing(c, out);
    for (int i = 0; i < 2 && !err; i++) {
        bool is_count = count_first == (i == 0);
        struct span old = is_count ? c->old_count : c->old;
        if (!old.at)
            continue;
        err = buf_add(out, *at, (size_t)(old.at - *at));
        err = err ? err : is_count ? add_count(c, out) : add_outputs(c, out);
        *at = old.at + old.len;
    }
    return err;
}

int notebook_write(const struct notebook *n, struct buf *out)
{
    const char *at = n->text.data;
    int err = 0;
    for (size_t i = 0; i < n->cell_count && !err; i++) {
        if (n->cells[i].source)
            err = add_cell(&n->cells[i], &at, out);
    }
    return err ? err : buf_add(out, at, (size_t)(n->text.data + n->text.len - at));
}

/* --- the outputs of a cell */

/* A list under way. A stream goes on as one output until something else comes. */
struct list {
    struct buf *json;
    const struct buf *streams[2];
    size_t given[2]; /* bytes of each that are in the list, or left out */
    int stream;      /* that is being given, or -1 */
    struct buf run;  /* its bytes */
    size_t start;    /* of the list in json */
};

static int begin_output(struct list *l)
{
    return l->json->len > l->start ? buf_adds(l->json, ",\n    ") : buf_adds(l->json, "    ");
}

/* Text as Jupyter writes it: an array of lines. */
static int add_lines(struct buf *json, const char *text, size_t len)
{
    int err = buf_adds(json, "[");
    for (size_t at = 0; at < len && !err;) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t n = end ? (size_t)(end + 1 - (text + at)) : len - at;
        err = buf_adds(json, at ? ",\n      " : "\n      ");
        err = err ? err : report_json_string(json, text + at, n, NULL);
        at += n;
    }
    return err ? err : buf_adds(json, "\n     ]");
}

static int end_stream(struct list *l)
{
    int err = 0;
    if (l->run.len) {
        err = begin_output(l);
        err = err ? err
                  : buf_addf(l->json,
                             "{\n     \"name\": \"%s\",\n     \"output_type\": \"stream\",\n"
                             "     \"text\": ",
                             l->stream ? "stderr" : "stdout");
        err = err ? err : add_lines(l->json, l->run.data, l->run.len);
        err = err ? err : buf_adds(l->json, "\n    }");
    }
    buf_free(&l->run);
    l->stream = -1;
    return err;
}

/* What the streams put out up to these sizes. */
static int give_streams(struct list *l, const uint64_t upto[2])
{
    int err = 0;
    for (int i = 0; i < 2 && !err; i++) {
        const struct buf *all = l->streams[i];
        size_t end = upto[i] < all->len ? (size_t)upto[i] : all->len;
        if (end <= l->given[i])
            continue;
        if (l->stream != i)
            err = end_stream(l);
        l->stream = i;
        err = err ? err : buf_add(&l->run, all->data + l->given[i], end - l->given[i]);
        l->given[i] = end;
    }
    return err;
}

static bool is_output(struct span s)
{
    static const char *const types[] = {"display_data", "execute_result", "error"};
    struct span type = span_member(s, "output_type");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (span_is(s, '{') && is_text(type, types[i]))
            return true;
    }
    return false;
}

/* One output in cell.py's own words, indented to its place: line ends are never within strings. */
static int give_output(struct list *l, const char *text)
{
    struct span s;
    if (!span_check(text, strlen(text), OUTPUT_DEPTH, &s, NULL) || !is_output(s))
        return 0;
    int err = end_stream(l);
    err = err ? err : begin_output(l);
    for (size_t i = 0; i < s.len && !err;) {
        const char *end = memchr(s.at + i, '\n', s.len - i);
        size_t n = end ? (size_t)(end + 1 - (s.at + i)) : s.len - i;
        err = buf_add(l->json, s.at + i, n);
        if (end && !err)
            err = buf_adds(l->json, "    ");
        i += n;
    }
    return err;
}

/* Everything so far is to be forgotten. */
static void forget(struct list *l, const uint64_t upto[2])
{
    l->json->len = l->start;
    if (l->json->data)
        l->json->data[l->start] = '\0';
    for (int i = 0; i < 2; i++)
        l->given[i] = upto[i] < l->streams[i]->len ? (size_t)upto[i] : l->streams[i]->len;
    buf_free(&l->run);
    l->stream = -1;
}

static int give_step(struct list *l, const cJSON *step)
{
    uint64_t upto[2];
    bool cleared = false;
    const char *output = json_string(step, "output");
    if (!json_uint(step, "out", &upto[0]) || !json_uint(step, "err", &upto[1]))
        return 0;
    if (json_bool(step, "clear", &cleared) && cleared) {
        forget(l, upto);
        return 0;
    }
    int err = give_streams(l, upto);
    return err || !output ? err : give_output(l, output);
}

static int give_failure(struct list *l, const struct notebook_failure *f)
{
    _cleanup_buf_ struct buf line = {0};
    int err = end_stream(l);
    err = err ? err : begin_output(l);
    err = err ? err : buf_addf(&line, "%s: %s", f->name, f->message);
    err = err ? err : buf_adds(l->json, "{\n     \"ename\": ");
    err = err ? err : report_json_string(l->json, f->name, strlen(f->name), NULL);
    err = err ? err : buf_adds(l->json, ",\n     \"evalue\": ");
    err = err ? err : report_json_string(l->json, f->message, strlen(f->message), NULL);
    err =
        err ? err : buf_adds(l->json, ",\n     \"output_type\": \"error\",\n     \"traceback\": ");
    err = err ? err : add_lines(l->json, line.data, line.len);
    return err ? err : buf_adds(l->json, "\n    }");
}

int notebook_outputs(const cJSON *told, const struct buf *out, const struct buf *err,
                     const struct notebook_failure *failure, struct buf *json)
{
    static const uint64_t all[2] = {UINT64_MAX, UINT64_MAX};
    struct list l = {.json = json, .streams = {out, err}, .stream = -1, .start = json->len};
    const cJSON *step;
    int bad = 0;
    cJSON_ArrayForEach (step, json_array(told, "steps")) {
        bad = bad ? bad : give_step(&l, step);
    }
    bad = bad ? bad : give_streams(&l, all);
    bad = bad ? bad : end_stream(&l);
    bad = bad || !failure ? bad : give_failure(&l, failure);
    buf_free(&l.run);
    return bad;
}
