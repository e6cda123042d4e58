/* eval/metrics.c - judgements, runs, and trec_eval's measures over them.
 * trec_eval's rules that are easy to get wrong, all kept here: documents of equal score are ordered by id,
 * descending, bytes compared as unsigned (form_res_rels.c); scores are doubles (the trec_eval in pytrec_eval
 * keeps floats: scores that differ by less than a float can tell are ties there and not here); the file's
 * rank column means nothing; gain is the judgement itself and a judgement below 1 gains nothing; recall and
 * average precision divide by all relevant documents, found or not. */
#include "internal.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool eval_grow(void **p, size_t *cap, size_t need, size_t item)
{
    if (need <= *cap)
        return true;
    size_t want = *cap ? *cap * 2 : 8;
    if (want < need)
        want = need;
    void *q = cairn_reallocarray(*p, want, item);
    if (!q)
        return false;
    *p = q;
    *cap = want;
    return true;
}

static enum cairn_err check_id(const char *id, const char *what, struct cairn_why *why)
{
    size_t len = strlen(id);
    if (len == 0 || len > EVAL_ID_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "%s id of %zu bytes: ids have 1 to %u", what, len, EVAL_ID_MAX);
    return CAIRN_OK;
}

/* Rows of a query usually come together, so only the last query is looked at here; finish() joins the others.
 */
enum cairn_err eval_qrels_add(struct eval_qrels *q, const char *query, const char *doc, int rel,
                              struct cairn_why *why)
{
    enum cairn_err err = check_id(query, "query", why);
    if (err || (doc && (err = check_id(doc, "document", why))))
        return err;
    if (q->rows >= EVAL_ROWS_MAX)
        return cairn_fail(why, CAIRN_EFULL, "more than %u judgements", EVAL_ROWS_MAX);
    if (!q->n || strcmp(q->queries[q->n - 1].query, query) != 0) {
        if (!eval_grow((void **)&q->queries, &q->cap, q->n + 1, sizeof *q->queries))
            return cairn_fail(why, CAIRN_ENOMEM, "judgements");
        char *name = cairn_strdup(query);
        if (!name)
            return cairn_fail(why, CAIRN_ENOMEM, "judgements");
        q->queries[q->n++] = (struct eval_qrel){.query = name};
    }
    if (!doc)
        return CAIRN_OK;
    struct eval_qrel *x = &q->queries[q->n - 1];
    char *id = cairn_strdup(doc);
    if (!id || !eval_grow((void **)&x->docs, &x->cap, x->n + 1, sizeof *x->docs)) {
        cairn_free(id);
        return cairn_fail(why, CAIRN_ENOMEM, "judgements");
    }
    x->docs[x->n++] = (struct eval_judged){id, rel};
    q->rows++;
    return CAIRN_OK;
}

enum cairn_err eval_run_add(struct eval_run *r, const char *query, const char *doc, double score,
                            struct cairn_why *why)
{
    enum cairn_err err = check_id(query, "query", why);
    if (err || (doc && (err = check_id(doc, "document", why))))
        return err;
    if (doc && !isfinite(score))
        return cairn_fail(why, CAIRN_EINVAL, "query %s, document %s: the score is not a finite number", query,
                          doc);
    if (r->rows >= EVAL_ROWS_MAX)
        return cairn_fail(why, CAIRN_EFULL, "more than %u lines in a run", EVAL_ROWS_MAX);
    if (!r->n || strcmp(r->queries[r->n - 1].query, query) != 0) {
        if (!eval_grow((void **)&r->queries, &r->cap, r->n + 1, sizeof *r->queries))
            return cairn_fail(why, CAIRN_ENOMEM, "run");
        char *name = cairn_strdup(query);
        if (!name)
            return cairn_fail(why, CAIRN_ENOMEM, "run");
        r->queries[r->n++] = (struct eval_result){.query = name};
    }
    if (!doc)
        return CAIRN_OK;
    struct eval_result *x = &r->queries[r->n - 1];
    char *id = cairn_strdup(doc);
    if (!id || !eval_grow((void **)&x->docs, &x->cap, x->n + 1, sizeof *x->docs)) {
        cairn_free(id);
        return cairn_fail(why, CAIRN_ENOMEM, "run");
    }
    x->docs[x->n++] = (struct eval_scored){id, score};
    r->rows++;
    return CAIRN_OK;
}

static int by_judged_query(const void *a, const void *b)
{
    return strcmp(((const struct eval_qrel *)a)->query, ((const struct eval_qrel *)b)->query);
}
static int by_result_query(const void *a, const void *b)
{
    return strcmp(((const struct eval_result *)a)->query, ((const struct eval_result *)b)->query);
}
static int by_judged_doc(const void *a, const void *b)
{
    return strcmp(((const struct eval_judged *)a)->doc, ((const struct eval_judged *)b)->doc);
}
static int by_scored_doc(const void *a, const void *b)
{
    return strcmp(((const struct eval_scored *)a)->doc, ((const struct eval_scored *)b)->doc);
}
static int by_rank(const void *a, const void *b)
{
    const struct eval_scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return strcmp(y->doc, x->doc);
}

enum cairn_err eval_qrels_finish(struct eval_qrels *q, struct cairn_why *why)
{
    if (q->n)
        qsort(q->queries, q->n, sizeof *q->queries, by_judged_query);
    size_t kept = 0;
    for (size_t i = 0; i < q->n; i++) {
        struct eval_qrel *x = &q->queries[i], *last = kept ? &q->queries[kept - 1] : NULL;
        if (!last || strcmp(last->query, x->query) != 0) {
            q->queries[kept++] = *x;
            continue;
        }
        if (!eval_grow((void **)&last->docs, &last->cap, last->n + x->n, sizeof *last->docs)) {
            /* what is left of the array stays whole: move the rest down behind what was kept */
            memmove(&q->queries[kept], x, (q->n - i) * sizeof *x);
            q->n = kept + q->n - i;
            return cairn_fail(why, CAIRN_ENOMEM, "judgements");
        }
        if (x->n)
            memcpy(last->docs + last->n, x->docs, x->n * sizeof *x->docs);
        last->n += x->n;
        cairn_free(x->docs);
        cairn_free(x->query);
    }
    q->n = kept;
    for (size_t i = 0; i < q->n; i++) {
        struct eval_qrel *x = &q->queries[i];
        if (x->n)
            qsort(x->docs, x->n, sizeof *x->docs, by_judged_doc);
        for (size_t j = 1; j < x->n; j++)
            if (strcmp(x->docs[j - 1].doc, x->docs[j].doc) == 0)
                return cairn_fail(why, CAIRN_EINVAL, "query %s: document %s is judged twice", x->query,
                                  x->docs[j].doc);
    }
    return CAIRN_OK;
}

enum cairn_err eval_run_finish(struct eval_run *r, struct cairn_why *why)
{
    if (r->n)
        qsort(r->queries, r->n, sizeof *r->queries, by_result_query);
    size_t kept = 0;
    for (size_t i = 0; i < r->n; i++) {
        struct eval_result *x = &r->queries[i], *last = kept ? &r->queries[kept - 1] : NULL;
        if (!last || strcmp(last->query, x->query) != 0) {
            r->queries[kept++] = *x;
            continue;
        }
        if (!eval_grow((void **)&last->docs, &last->cap, last->n + x->n, sizeof *last->docs)) {
            memmove(&r->queries[kept], x, (r->n - i) * sizeof *x);
            r->n = kept + r->n - i;
            return cairn_fail(why, CAIRN_ENOMEM, "run");
        }
        if (x->n)
            memcpy(last->docs + last->n, x->docs, x->n * sizeof *x->docs);
        last->n += x->n;
        cairn_free(x->docs);
        cairn_free(x->query);
    }
    r->n = kept;
    for (size_t i = 0; i < r->n; i++) {
        struct eval_result *x = &r->queries[i];
        if (!x->n)
            continue;
        qsort(x->docs, x->n, sizeof *x->docs, by_scored_doc);
        for (size_t j = 1; j < x->n; j++)
            if (strcmp(x->docs[j - 1].doc, x->docs[j].doc) == 0)
                return cairn_fail(why, CAIRN_EINVAL, "query %s: document %s was retrieved twice", x->query,
                                  x->docs[j].doc);
        qsort(x->docs, x->n, sizeof *x->docs, by_rank);
    }
    return CAIRN_OK;
}

void eval_qrels_release(struct eval_qrels *q)
{
    for (size_t i = 0; i < q->n; i++) {
        for (size_t j = 0; j < q->queries[i].n; j++)
            cairn_free(q->queries[i].docs[j].doc);
        cairn_free(q->queries[i].docs);
        cairn_free(q->queries[i].query);
    }
    cairn_free(q->queries);
    *q = (struct eval_qrels){0};
}

void eval_run_release(struct eval_run *r)
{
    for (size_t i = 0; i < r->n; i++) {
        for (size_t j = 0; j < r->queries[i].n; j++)
            cairn_free(r->queries[i].docs[j].doc);
        cairn_free(r->queries[i].docs);
        cairn_free(r->queries[i].query);
    }
    cairn_free(r->queries);
    *r = (struct eval_run){0};
}

const struct eval_qrel *eval_qrels_find(const struct eval_qrels *q, const char *query)
{
    struct eval_qrel key = {.query = (char *)(uintptr_t)query};
    return q->n ? bsearch(&key, q->queries, q->n, sizeof key, by_judged_query) : NULL;
}

const struct eval_result *eval_run_find(const struct eval_run *r, const char *query)
{
    struct eval_result key = {.query = (char *)(uintptr_t)query};
    return r->n ? bsearch(&key, r->queries, r->n, sizeof key, by_result_query) : NULL;
}

void eval_run_drop_self(struct eval_run *r)
{
    for (size_t i = 0; i < r->n; i++) {
        struct eval_result *x = &r->queries[i];
        for (size_t j = 0; j < x->n; j++) {
            if (strcmp(x->docs[j].doc, x->query) != 0)
                continue;
            cairn_free(x->docs[j].doc);
            memmove(&x->docs[j], &x->docs[j + 1], (x->n - j - 1) * sizeof x->docs[0]);
            x->n--;
            break; /* an id is there once */
        }
    }
}

/* ---- files ---- */

/* Splits a line in place at blanks and tabs; returns how many columns there are, at most max + 1. */
static size_t columns(char *line, char **col, size_t max)
{
    size_t n = 0;
    for (char *p = line; *p;) {
        while (*p == ' ' || *p == '\t' || *p == '\r')
            p++;
        if (!*p)
            break;
        if (n == max)
            return max + 1;
        col[n++] = p;
        while (*p && *p != ' ' && *p != '\t' && *p != '\r')
            p++;
        if (*p)
            *p++ = 0;
    }
    return n;
}

static bool whole_number(const char *s, int *v)
{
    char *end;
    long x = strtol(s, &end, 10);
    if (end == s || *end || x < -1000000 || x > 1000000)
        return false;
    *v = (int)x;
    return true;
}

enum cairn_err eval_qrels_read(struct eval_qrels *q, const char *path, struct cairn_why *why)
{
    char *text;
    size_t len;
    enum cairn_err err = cairn_read_file(&text, &len, path, EVAL_FILE_MAX, why);
    if (err)
        return err;
    size_t no = 0;
    for (char *p = text, *next; !err && p < text + len; p = next) {
        char *end = memchr(p, '\n', (size_t)(text + len - p));
        next = end ? end + 1 : text + len;
        if (end)
            *end = 0;
        no++;
        char *col[5];
        size_t n = columns(p, col, 4);
        int rel;
        if (n == 0 || (no == 1 && n == 3 && !whole_number(col[2], &rel))) /* BEIR's heading */
            continue;
        if ((n != 3 && n != 4) || !whole_number(col[n - 1], &rel))
            err = cairn_fail(why, CAIRN_EINVAL,
                             "%s:%zu: not a judgement: want \"query document relevance\" or \"query 0 "
                             "document relevance\"",
                             path, no);
        else
            err = eval_qrels_add(q, col[0], col[n - 2], rel, why);
    }
    cairn_free(text);
    return err ? err : eval_qrels_finish(q, why);
}

enum cairn_err eval_run_read(struct eval_run *r, const char *path, struct cairn_why *why)
{
    char *text;
    size_t len;
    enum cairn_err err = cairn_read_file(&text, &len, path, EVAL_FILE_MAX, why);
    if (err)
        return err;
    size_t no = 0;
    for (char *p = text, *next; !err && p < text + len; p = next) {
        char *end = memchr(p, '\n', (size_t)(text + len - p));
        next = end ? end + 1 : text + len;
        if (end)
            *end = 0;
        no++;
        char *col[7], *stop;
        size_t n = columns(p, col, 6);
        if (n == 0)
            continue;
        double score = n == 6 || n == 5 ? strtod(col[4], &stop) : 0;
        if ((n != 6 && n != 5) || stop == col[4] || *stop)
            err = cairn_fail(why, CAIRN_EINVAL,
                             "%s:%zu: not a line of a run: want \"query Q0 document rank score tag\"", path,
                             no);
        else
            err = eval_run_add(r, col[0], col[2], score, why);
    }
    cairn_free(text);
    return err ? err : eval_run_finish(r, why);
}

/* ---- measures ---- */

enum cairn_err eval_measure_parse(struct eval_measure *out, const char *name, struct cairn_why *why)
{
    static const struct {
        const char *name;
        enum eval_kind kind;
        bool cut; /* only with a cut */
    } kinds[] = {
        {"ndcg",       EVAL_NDCG,    false},
        {"recall",     EVAL_RECALL,  true },
        {"map",        EVAL_MAP,     false},
        {"mrr",        EVAL_MRR,     false},
        {"recip_rank", EVAL_MRR,     false},
        {"P",          EVAL_P,       true },
        {"success",    EVAL_SUCCESS, true },
    };
    const char *at = strchr(name, '@');
    size_t len = at ? (size_t)(at - name) : strlen(name);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strlen(kinds[i].name) != len || strncmp(kinds[i].name, name, len) != 0)
            continue;
        unsigned long k = 0;
        if (at) {
            char *end;
            k = isdigit((unsigned char)at[1]) ? strtoul(at + 1, &end, 10) : 0;
            if (k == 0 || k > 1000000 || *end)
                break;
        } else if (kinds[i].cut) {
            break;
        }
        *out = (struct eval_measure){kinds[i].kind, (size_t)k};
        return CAIRN_OK;
    }
    return cairn_fail(why, CAIRN_EINVAL,
                      "measure %.40s: ndcg, map and mrr (all also @K), recall@K, P@K and success@K are known",
                      name);
}

static int judgement(const struct eval_qrel *q, const char *doc)
{
    struct eval_judged key = {(char *)(uintptr_t)doc, 0};
    const struct eval_judged *j = q->n ? bsearch(&key, q->docs, q->n, sizeof key, by_judged_doc) : NULL;
    return j && j->rel > 0 ? j->rel : 0;
}

static int descending(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static double ideal_gain(const struct eval_qrel *q, size_t k, size_t n_rel)
{
    int *gain = n_rel ? cairn_reallocarray(NULL, n_rel, sizeof *gain) : NULL;
    if (!gain)
        return 0;
    size_t n = 0;
    for (size_t i = 0; i < q->n; i++)
        if (q->docs[i].rel > 0)
            gain[n++] = q->docs[i].rel;
    qsort(gain, n, sizeof *gain, descending);
    double sum = 0;
    for (size_t i = 0; i < n && i < k; i++)
        sum += gain[i] / log2((double)i + 2);
    cairn_free(gain);
    return sum;
}

double eval_measure(const struct eval_measure *m, const struct eval_qrel *q, const struct eval_result *r)
{
    size_t n_rel = 0, k = m->k ? m->k : SIZE_MAX, n = r ? r->n : 0, found = 0;
    for (size_t i = 0; i < q->n; i++)
        n_rel += q->docs[i].rel > 0;
    if (n > k)
        n = k;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        int gain = judgement(q, r->docs[i].doc);
        if (!gain)
            continue;
        found++;
        switch (m->kind) {
        case EVAL_NDCG:
            sum += gain / log2((double)i + 2);
            break;
        case EVAL_MAP:
            sum += (double)found / (double)(i + 1);
            break;
        case EVAL_MRR:
            return 1.0 / (double)(i + 1);
        case EVAL_SUCCESS:
            return 1;
        case EVAL_RECALL:
        case EVAL_P:
            break;
        }
    }
    if (!n_rel)
        return 0;
    switch (m->kind) {
    case EVAL_NDCG: {
        double ideal = ideal_gain(q, k, n_rel);
        return ideal > 0 ? sum / ideal : 0;
    }
    case EVAL_MAP:
        return sum / (double)n_rel;
    case EVAL_RECALL:
        return (double)found / (double)n_rel;
    case EVAL_P:
        return (double)found / (double)k;
    case EVAL_MRR:
    case EVAL_SUCCESS:
        break;
    }
    return 0;
}

void eval_means(const struct eval_qrels *q, const struct eval_run *r, const struct eval_measure *m, size_t n,
                enum eval_queries which, double *mean, size_t *n_queries,
                void (*each)(void *ctx, const char *query, const double *values), void *ctx)
{
    size_t count = 0;
    double value[EVAL_MEASURES_MAX];
    CAIRN_CHECK(n <= EVAL_MEASURES_MAX);
    for (size_t j = 0; j < n; j++)
        mean[j] = 0;
    for (size_t i = 0; i < q->n; i++) {
        const struct eval_result *x = eval_run_find(r, q->queries[i].query);
        if (!x && which == EVAL_BOTH)
            continue;
        count++;
        for (size_t j = 0; j < n; j++)
            mean[j] += value[j] = eval_measure(&m[j], &q->queries[i], x);
        if (each)
            each(ctx, q->queries[i].query, value);
    }
    for (size_t j = 0; count && j < n; j++)
        mean[j] /= (double)count;
    if (n_queries)
        *n_queries = count;
}
