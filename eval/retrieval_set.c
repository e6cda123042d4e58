/* eval/retrieval_set.c - see retrieval_set.h. Files of the directory, the first that is there:
 * - corpus.jsonl, passages.jsonl: {_id, title, text}: one passage each, "title\ntext"
 * - documents.jsonl: {_id, title, text}: cut into passages ID#0, ID#1 ... by the loader's rules
 * - queries.jsonl, questions.jsonl: {_id or id, text or question}
 * - tasks.jsonl: {id, conversation: [{speaker, text}]}: the last turn asks
 * - qrels.tsv, qrels/test.tsv, qrels.txt; none: a question's passage_id is its one relevant passage (SQuAD),
 * or the passage of doc_id in which its first answer begins (COVID-QA: answers [{text, start}], start in code
 *   points); questions with is_impossible are left out */
#include "retrieval_set.h"

#include <stdlib.h>
#include <string.h>

void retrieval_set_release(struct retrieval_set *s)
{
    for (size_t i = 0; i < s->n_docs; i++) {
        cairn_free(s->docs[i].id);
        cairn_free(s->docs[i].text);
    }
    for (size_t i = 0; i < s->n_queries; i++) {
        cairn_free(s->queries[i].id);
        cairn_free(s->queries[i].text);
    }
    cairn_free(s->docs);
    cairn_free(s->queries);
    eval_qrels_release(&s->qrels);
    cairn_free(s->name);
    *s = (struct retrieval_set){0};
}

/* An id may be a string or a whole number. out holds EVAL_ID_MAX + 1. */
static bool id_of(const json_t *o, const char *key, const char *other, char *out)
{
    const json_t *v = json_object_get(o, key);
    if (!v && other)
        v = json_object_get(o, other);
    if (json_is_integer(v))
        return snprintf(out, EVAL_ID_MAX + 1, "%" JSON_INTEGER_FORMAT, json_integer_value(v)) > 0;
    const char *s = json_string_value(v);
    if (!s || !*s || strlen(s) > EVAL_ID_MAX)
        return false;
    memcpy(out, s, strlen(s) + 1);
    return true;
}

static struct set_document *add_passage(struct retrieval_set *s, char *id, char *text)
{
    if (!id || !text || !eval_grow((void **)&s->docs, &s->cap_docs, s->n_docs + 1, sizeof *s->docs)) {
        cairn_free(id);
        cairn_free(text);
        return NULL;
    }
    struct set_document *d = &s->docs[s->n_docs++];
    *d = (struct set_document){.id = id, .text = text, .len = strlen(text)};
    if (d->len > PASSAGE_BYTES_MAX) {
        d->len = cairn_utf8_floor(d->text, PASSAGE_BYTES_MAX);
        s->n_cut++;
    }
    return d;
}

static enum cairn_err document_fields(const json_t *o, char *id, const char **title, const char **text,
                                      struct cairn_why *why)
{
    *title = text_of(o, "title");
    *text = text_of(o, "text");
    if (!*title)
        *title = "";
    return id_of(o, "_id", "id", id) && *text
               ? CAIRN_OK
               : cairn_fail(why, CAIRN_EINVAL, "a document wants \"_id\" (1 to %u bytes) and \"text\"",
                            EVAL_ID_MAX);
}

static enum cairn_err add_document(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    char id[EVAL_ID_MAX + 1];
    const char *title, *text;
    (void)line;
    enum cairn_err err = document_fields(o, id, &title, &text, why);
    if (!err && !add_passage(ctx, cairn_strdup(id),
                             *title ? cairn_asprintf("%s\n%s", title, text) : cairn_strdup(text)))
        err = cairn_fail(why, CAIRN_ENOMEM, "documents");
    return err;
}

static size_t code_points(const char *p, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)p[i] & 0xC0) != 0x80;
    return n;
}

/* As a service would cut it; every passage under the document's title. */
static enum cairn_err add_long_document(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    struct retrieval_set *s = ctx;
    char id[EVAL_ID_MAX + 1];
    const char *title, *text;
    struct loader_document *d = NULL;
    (void)line;
    enum cairn_err err = document_fields(o, id, &title, &text, why);
    if (!err)
        err = loader_parse(&d, "document.txt", text, strlen(text), LOADER_TEXT, NULL, why);
    for (size_t i = 0, at = 0, cp = 0; !err && i < d->n_passages; i++) {
        const struct loader_passage *p = &d->passages[i];
        cp += code_points(d->text + at, p->start - at);
        at = p->start;
        char *piece = cairn_asprintf("%s%s%.*s", title, *title ? "\n" : "", (int)(p->end - p->start),
                                     d->text + p->start);
        struct set_document *x = add_passage(s, cairn_asprintf("%s#%zu", id, i), piece);
        if (!x) {
            err = cairn_fail(why, CAIRN_ENOMEM, "documents");
            break;
        }
        x->from = cp;
        x->to = cp + code_points(d->text + p->start, p->end - p->start);
    }
    loader_document_free(d);
    return err;
}

/* The passage of document id that holds a code point; NULL: none. */
static const struct set_document *passage_at(const struct retrieval_set *s, const char *id, size_t at)
{
    size_t len = strlen(id);
    for (size_t i = 0; i < s->n_docs; i++) {
        const struct set_document *d = &s->docs[i];
        if (strncmp(d->id, id, len) == 0 && d->id[len] == '#' && at >= d->from && at < d->to)
            return d;
    }
    return NULL;
}

/* SQuAD: passage_id. COVID-QA: the passage in which the first answer begins. */
static enum cairn_err judged_inside(const struct retrieval_set *s, const json_t *o, char *doc,
                                    struct cairn_why *why)
{
    if (id_of(o, "passage_id", NULL, doc))
        return CAIRN_OK;
    const json_t *start = json_object_get(json_array_get(json_object_get(o, "answers"), 0), "start");
    char id[EVAL_ID_MAX + 1];
    if (!id_of(o, "doc_id", NULL, id) || !json_is_integer(start) || json_integer_value(start) < 0)
        return cairn_fail(why, CAIRN_EINVAL,
                          "no qrels.tsv, and in the question neither \"passage_id\" nor \"doc_id\" with "
                          "\"answers\": [{\"start\"}]");
    const struct set_document *d = passage_at(s, id, (size_t)json_integer_value(start));
    if (!d)
        return cairn_fail(why, CAIRN_EINVAL,
                          "the answer begins at %" JSON_INTEGER_FORMAT " of %s, where no passage is",
                          json_integer_value(start), id);
    memcpy(doc, d->id, strlen(d->id) + 1);
    return CAIRN_OK;
}

static enum cairn_err add_query(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    struct retrieval_set *s = ctx;
    char id[EVAL_ID_MAX + 1], doc[EVAL_ID_MAX + 1];
    const char *text = text_of(o, "text");
    (void)line;
    if (!text)
        text = text_of(o, "question");
    const json_t *turns = json_object_get(o, "conversation");
    if (!text && json_array_size(turns))
        text = text_of(json_array_get(turns, json_array_size(turns) - 1), "text");
    if (!id_of(o, "_id", "id", id) || !text || !*text)
        return cairn_fail(why, CAIRN_EINVAL,
                          "a query wants \"_id\" or \"id\", and \"text\", \"question\" or \"conversation\"");
    if (s->qrels_inside) {
        if (json_is_true(json_object_get(o, "is_impossible")))
            return CAIRN_OK;
        enum cairn_err err = judged_inside(s, o, doc, why);
        if (!err)
            err = eval_qrels_add(&s->qrels, id, doc, 1, why);
        if (err)
            return err;
    }
    if (!eval_grow((void **)&s->queries, &s->cap_queries, s->n_queries + 1, sizeof *s->queries))
        return cairn_fail(why, CAIRN_ENOMEM, "queries");
    struct set_query *q = &s->queries[s->n_queries];
    *q = (struct set_query){cairn_strdup(id), cairn_strdup(text)};
    if (!q->id || !q->text) {
        cairn_free(q->id);
        cairn_free(q->text);
        return cairn_fail(why, CAIRN_ENOMEM, "queries");
    }
    s->n_queries++;
    return CAIRN_OK;
}

/* The first of the names that is there; OWNED; NULL with why filled. */
static char *one_of(const char *dir, const char *const *names, struct cairn_why *why)
{
    for (size_t i = 0; names[i]; i++) {
        char *path = cairn_path_join(dir, names[i]);
        if (path && file_exists(path))
            return path;
        cairn_free(path);
    }
    (void)cairn_fail(why, CAIRN_ENOTFOUND, "%s: holds neither %s nor %s", dir, names[0], names[1]);
    return NULL;
}

static int document_by_id(const void *a, const void *b)
{
    return strcmp(((const struct set_document *)a)->id, ((const struct set_document *)b)->id);
}

enum cairn_err retrieval_set_read(struct retrieval_set *s, const struct options *o, struct cairn_why *why)
{
    static const char *const corpora[] = {"corpus.jsonl", "passages.jsonl", "documents.jsonl", NULL};
    static const char *const queries[] = {"queries.jsonl", "questions.jsonl", "tasks.jsonl", NULL};
    static const char *const judged[] = {"qrels.tsv", "qrels/test.tsv", "qrels.txt", NULL};
    const char *base = o->set;
    size_t len = strlen(base);
    while (len > 1 && base[len - 1] == '/')
        len--;
    size_t from = len;
    while (from > 0 && base[from - 1] != '/')
        from--;
    s->name = cairn_strndup(base + from, len - from);
    if (!s->name)
        return cairn_fail(why, CAIRN_ENOMEM, "set");
    if (!file_exists(o->set))
        return cairn_fail(why, CAIRN_ENOTFOUND, "--set %s: no such directory", o->set);
    char *corpus = one_of(o->set, corpora, why), *query = corpus ? one_of(o->set, queries, why) : NULL;
    char *qrels = o->qrels ? cairn_strdup(o->qrels) : one_of(o->set, judged, NULL);
    enum cairn_err err = corpus && query ? CAIRN_OK : CAIRN_ENOTFOUND;
    s->qrels_inside = !qrels;
    if (!err)
        err =
            each_json(corpus, strstr(corpus, "/documents.jsonl") ? add_long_document : add_document, s, why);
    if (!err)
        err = each_json(query, add_query, s, why);
    if (!err && qrels)
        err = file_exists(qrels) ? eval_qrels_read(&s->qrels, qrels, why)
                                 : cairn_fail(why, CAIRN_ENOTFOUND, "%s: no such file", qrels);
    else if (!err)
        err = eval_qrels_finish(&s->qrels, why);
    uint8_t sum[32];
    if (!err)
        err = cairn_sha256_file(sum, corpus, NULL, NULL, why);
    if (!err)
        cairn_hex(s->sum, sum, 32);
    cairn_free(corpus);
    cairn_free(query);
    cairn_free(qrels);
    if (!err && (!s->n_docs || !s->n_queries))
        err = cairn_fail(why, CAIRN_EINVAL, "%s: %zu documents and %zu queries", o->set, s->n_docs,
                         s->n_queries);
    if (err)
        return err;
    qsort(s->docs, s->n_docs, sizeof *s->docs, document_by_id);
    for (size_t i = 1; i < s->n_docs; i++)
        if (strcmp(s->docs[i - 1].id, s->docs[i].id) == 0)
            return cairn_fail(why, CAIRN_EINVAL, "%s: document %s stands twice in the corpus", o->set,
                              s->docs[i].id);
    return CAIRN_OK;
}

enum cairn_err retrieval_set_sample(struct retrieval_set *s, uint64_t half, uint64_t n, uint64_t seed,
                                    struct cairn_why *why)
{
    size_t kept = 0, n_at = 0;
    for (size_t i = 0; i < s->n_queries; i++) {
        const char *id = s->queries[i].id;
        if (eval_qrels_find(&s->qrels, id) &&
            (!half || 1 + (cairn_hash_bytes(id, strlen(id)).b[0] & 1u) == half)) {
            struct set_query x = s->queries[kept];
            s->queries[kept++] = s->queries[i];
            s->queries[i] = x;
        }
    }
    bool part = half || (n && n < kept);
    size_t *at = sample_of(kept, n, seed, &n_at);
    bool *stays = cairn_calloc(s->qrels.n, sizeof *stays);
    enum cairn_err err = at && stays ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "sample");
    for (size_t i = 0; i < n_at && !err; i++) {
        struct set_query x = s->queries[i];
        s->queries[i] = s->queries[at[i]];
        s->queries[at[i]] = x;
        if (part)
            stays[eval_qrels_find(&s->qrels, s->queries[i].id) - s->qrels.queries] = true;
    }
    for (size_t i = n_at; i < s->n_queries && !err; i++) {
        cairn_free(s->queries[i].id);
        cairn_free(s->queries[i].text);
    }
    if (!err) {
        s->n_queries = n_at;
        if (part) { /* a sample is scored over itself; without one, judged queries that the set lacks
                                count 0 */
            size_t m = 0;
            for (size_t i = 0; i < s->qrels.n; i++) {
                struct eval_qrel x = s->qrels.queries[i];
                if (stays[i]) {
                    s->qrels.queries[i] = s->qrels.queries[m];
                    s->qrels.queries[m++] = x;
                }
            }
            struct eval_qrels gone = {.queries = NULL};
            for (size_t i = m; i < s->qrels.n; i++) {
                gone.queries = &s->qrels.queries[i];
                for (size_t j = 0; j < gone.queries->n; j++)
                    cairn_free(gone.queries->docs[j].doc);
                cairn_free(gone.queries->docs);
                cairn_free(gone.queries->query);
            }
            s->qrels.n = m;
        }
        if (!s->n_queries)
            err = cairn_fail(why, CAIRN_EINVAL, "no query has a judgement");
    }
    cairn_free(at);
    cairn_free(stays);
    return err;
}
