/* eval/retrieval.c - `cairn eval retrieval`: a set of documents, queries and judgements -> measures of each
 * way to search. The store is cached: its directory is named by the hash of the corpus, the embedder's file
 * and cairn's version, and a killed build goes on where it was. A document is one passage, "title\ntext", cut
 * at PASSAGE_BYTES_MAX; longer ones are counted. Queries are those with a judgement, by sample when asked. */
#include "records.h"
#include "retrieval_set.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COLLECTION "set"
#define PUT_BATCH 64u
#define LEGS 4

static const char *const leg_names[LEGS] = {"lexical", "dense", "fused", "reranked"};

/* ---- store ---- */

static int by_length(const void *a, const void *b)
{
    const struct set_document *const *x = a, *const *y = b;
    return ((*x)->len > (*y)->len) - ((*x)->len < (*y)->len);
}

static enum cairn_err put_documents(struct store *store, struct retriever *r, uint32_t dim,
                                    const struct set_document *const *docs, size_t n, float *vectors,
                                    struct cairn_why *why)
{
    struct store_batch *b = NULL;
    struct cairn_str *texts = cairn_calloc(n, sizeof *texts);
    uint64_t generation;
    enum cairn_err err = texts ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "batch");
    for (size_t i = 0; i < n && !err; i++)
        texts[i] = (struct cairn_str){docs[i]->text, docs[i]->len};
    if (!err && dim)
        err = retriever_embed_passages(r, NULL, texts, n, vectors, &run_stop, why);
    if (!err)
        err = store_batch_begin(&b, store, why);
    for (size_t i = 0; i < n && !err; i++) {
        struct store_passage p = {
            .start = 0, .end = (uint32_t)docs[i]->len, .vector = dim ? vectors + i * dim : NULL};
        struct store_document d = {.id = cairn_str_of(docs[i]->id),
                                   .mime = cairn_str_of("text/plain"),
                                   .text = texts[i],
                                   .content_hash = cairn_hash_bytes(docs[i]->text, docs[i]->len),
                                   .passages = &p,
                                   .n_passages = docs[i]->len ? 1 : 0};
        err = store_put(b, COLLECTION, &d, why);
    }
    if (!err) {
        err = store_batch_commit(b, &generation, why);
        b = NULL;
    }
    if (b)
        store_batch_abort(b);
    cairn_free(texts);
    return err;
}

/* Puts what the store does not hold yet. */
static enum cairn_err set_build(const struct retrieval_set *s, const struct options *o,
                                struct bench_service *b, struct retriever *r, uint64_t *added,
                                struct cairn_why *why)
{
    struct store *store = service_store(b->s);
    struct store_view *v = NULL;
    struct collection_info info;
    struct encoder *e = NULL;
    uint32_t dim = 0;
    *added = 0;
    enum cairn_err err = CAIRN_OK;
    if (b->names[MODEL_EMBEDDER]) {
        err = service_encoder(b->s, MODEL_EMBEDDER, &e, why);
        dim = err ? 0 : encoder_dim(e);
    }
    if (!err)
        err = store_view_begin(&v, store, why);
    if (err)
        return err;
    err = store_collection_get(v, COLLECTION, &info, why);
    bool stale =
        !err && (info.opts.fusion != RETRIEVE_FUSION || info.opts.dense_weight != RETRIEVE_DENSE_WEIGHT ||
                 info.opts.rerank_weight != RETRIEVE_RERANK_WEIGHT); /* a store of an earlier default */
    if (err == CAIRN_ENOTFOUND || stale) {
        struct store_batch *batch;
        struct collection_opts c = {.language = "english",
                                    .dim = dim,
                                    .metric = METRIC_COSINE,
                                    .is_public = true,
                                    .fusion = RETRIEVE_FUSION,
                                    .dense_weight = RETRIEVE_DENSE_WEIGHT,
                                    .rerank_weight = RETRIEVE_RERANK_WEIGHT};
        uint64_t generation;
        store_view_end(v);
        v = NULL;
        snprintf(c.name, sizeof c.name, COLLECTION);
        snprintf(c.embedder, sizeof c.embedder, "%s", dim ? b->names[MODEL_EMBEDDER] : "");
        err = store_batch_begin(&batch, store, why);
        if (!err) {
            err = stale ? store_collection_update(batch, &c, why) : store_collection_create(batch, &c, why);
            if (err)
                store_batch_abort(batch);
            else
                err = store_batch_commit(batch, &generation, why);
        }
        if (!err)
            err = store_view_begin(&v, store, why);
    }
    const struct set_document **todo = err ? NULL : cairn_calloc(s->n_docs, sizeof *todo);
    float *vectors = err || !dim ? NULL : cairn_calloc((size_t)PUT_BATCH * dim, sizeof *vectors);
    size_t n = 0;
    if (!err && (!todo || (dim && !vectors)))
        err = cairn_fail(why, CAIRN_ENOMEM, "%zu documents", s->n_docs);
    for (size_t i = 0; i < s->n_docs && !err; i++) {
        struct document_info d;
        struct store_caller all = {.all = true};
        err = store_document_get(v, COLLECTION, cairn_str_of(s->docs[i].id), &all, &d, NULL, why);
        if (err == CAIRN_ENOTFOUND) {
            todo[n++] = &s->docs[i];
            err = CAIRN_OK;
        }
    }
    store_view_end(v);
    if (!err && n)
        qsort(todo, n, sizeof *todo, by_length); /* batches of like length waste no padding */
    for (size_t at = 0; at < n && !err; at += PUT_BATCH) {
        size_t m = n - at < PUT_BATCH ? n - at : PUT_BATCH;
        progress(o, "documents", at, n);
        err = put_documents(store, r, dim, todo + at, m, vectors, why);
    }
    progress_clear();
    *added = n;
    cairn_free(todo);
    cairn_free(vectors);
    return err;
}

/* The store of a set, whole: *dir OWNED, b to close. */
static enum cairn_err retrieval_store(struct bench_service *b, struct retriever **r,
                                      const struct retrieval_set *s, const struct options *o, char *names[3],
                                      char *sums[3], char **dir, uint64_t *added, struct cairn_why *why)
{
    const char *parts[] = {s->sum, names[MODEL_EMBEDDER] ? names[MODEL_EMBEDDER] : "none",
                           sums[MODEL_EMBEDDER] ? sums[MODEL_EMBEDDER] : "", NULL};
    *dir = lab_dir(o, s->name, parts);
    enum cairn_err err = *dir ? lab_open(b, o, *dir, false, why) : cairn_fail(why, CAIRN_ENOMEM, "directory");
    if (!err)
        err = service_retriever(b->s, r, why);
    return err ? err : set_build(s, o, b, *r, added, why);
}

enum cairn_err retrieval_store_open(struct bench_service *b, struct retriever **r,
                                    const struct retrieval_set *s, const struct options *o, char *names[3],
                                    char *sums[3], char **dir, struct cairn_why *why)
{
    uint64_t added;
    return retrieval_store(b, r, s, o, names, sums, dir, &added, why);
}

/* ---- runs ---- */

struct leg_run {
    struct eval_run run;
    size_t n; /* queries asked */
    int64_t us;
    double stage_us[6];   /* embed, lexical, dense, fuse, rerank, copy */
    double rerank_weight; /* sum over the queries */
};

static json_t *number_or_null(float v) { return isnan(v) ? json_null() : json_real((double)v); }

static json_t *hits_json(const struct retrieval *x)
{
    json_t *list = json_array();
    for (size_t i = 0; i < x->n_hits; i++) {
        const struct retrieved *h = &x->hits[i];
        json_array_append_new(list, json_pack("{s:s, s:f, s:o, s:o, s:f, s:o}", "id", h->document_id, "score",
                                              (double)h->score, "lexical", number_or_null(h->lexical),
                                              "dense", number_or_null(h->dense), "fused", (double)h->fused,
                                              "rerank", number_or_null(h->rerank)));
    }
    return list;
}

/* details: {query id: {hits}}, or NULL. */
static enum cairn_err run_leg(const struct retrieval_set *s, const struct options *o, struct retriever *r,
                              int leg, const size_t *at, size_t n, struct leg_run *out, uint64_t *generation,
                              json_t *details, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < n && !err; i++) {
        const struct set_query *q = &s->queries[at ? at[i] : i];
        struct retrieval x = {0};
        struct retrieve_request want = {.collection = COLLECTION,
                                        .query = cairn_str_of(q->text),
                                        .caller = {.all = true},
                                        .k = (size_t)o->k,
                                        .legs = leg == 0   ? LEG_LEXICAL
                                                : leg == 1 ? LEG_DENSE
                                                           : LEG_BOTH,
                                        .fusion = (int)o->fusion,
                                        .dense_weight = o->dense_weight < 0 ? RETRIEVE_DENSE_WEIGHT
                                                                            : (float)o->dense_weight,
                                        .rerank_weight = leg < 3                ? 0
                                                         : o->rerank_weight < 0 ? RETRIEVE_DEFAULT
                                                                                : (float)o->rerank_weight,
                                        .mmr_lambda = 1,
                                        .how.exact = true};
        progress(o, leg_names[leg], i, n);
        if (want.query.len > QUERY_BYTES_MAX)
            want.query.len = cairn_utf8_floor(q->text, QUERY_BYTES_MAX);
        int64_t from = cairn_now_us();
        err = retrieve(r, &want, &x, &run_stop, why);
        out->us += cairn_now_us() - from;
        if (!err)
            err = eval_run_add(&out->run, q->id, NULL, 0, why);
        for (size_t k = 0; k < x.n_hits && !err; k++)
            err = eval_run_add(&out->run, q->id, x.hits[k].document_id, (double)x.hits[k].score, why);
        const int64_t us[6] = {x.embed_us, x.lexical_us, x.dense_us, x.fuse_us, x.rerank_us, x.copy_us};
        for (int k = 0; k < 6; k++)
            out->stage_us[k] += (double)us[k];
        out->rerank_weight += (double)x.rerank_weight;
        *generation = x.generation;
        if (details && !err) {
            json_t *of = json_object_get(details, q->id);
            if (!of) {
                of = json_pack("{s:s, s:s, s:{}, s:{}}", "unit", q->id, "query", q->text, "values", "hits");
                json_object_set_new(details, q->id, of);
            }
            json_object_set_new(json_object_get(of, "hits"), leg_names[leg], hits_json(&x));
        }
        retrieval_release(&x);
    }
    progress_clear();
    out->n = n;
    return err ? err : eval_run_finish(&out->run, why);
}

static enum cairn_err write_run(const char *path, const char *leg, const struct eval_run *run,
                                struct cairn_why *why)
{
    struct cairn_buf b;
    cairn_buf_init(&b, EVAL_FILE_MAX);
    char *name = cairn_asprintf("%s.%s", path, leg);
    for (size_t i = 0; i < run->n; i++)
        for (size_t k = 0; k < run->queries[i].n; k++)
            cairn_buf_printf(&b, "%s Q0 %s %zu %.9g cairn-%s\n", run->queries[i].query,
                             run->queries[i].docs[k].doc, k + 1, run->queries[i].docs[k].score, leg);
    enum cairn_err err = !name || b.failed ? cairn_fail(why, CAIRN_ENOMEM, "run of %s", leg)
                                           : cairn_write_file(name, b.bytes ? b.bytes : "", b.len, why);
    cairn_buf_release(&b);
    cairn_free(name);
    return err;
}

/* ---- output ---- */

/* One line for each value of an object. */
static enum cairn_err write_lines(const char *path, const json_t *lines, struct cairn_why *why)
{
    struct cairn_buf b;
    const char *key;
    json_t *v;
    cairn_buf_init(&b, EVAL_FILE_MAX);
    json_object_foreach((json_t *)(uintptr_t)lines, key, v)
    {
        char *line = json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(8));
        if (line && cairn_buf_puts(&b, line))
            cairn_buf_puts(&b, "\n");
        else
            b.failed = true;
        free(line); /* jansson's */
    }
    enum cairn_err err = b.failed ? cairn_fail(why, CAIRN_ENOMEM, "%s", path)
                                  : cairn_write_file(path, b.bytes ? b.bytes : "", b.len, why);
    cairn_buf_release(&b);
    return err;
}

struct measures {
    struct eval_measure m[EVAL_MEASURES_MAX];
    char names[EVAL_MEASURES_MAX][24];
    size_t n;
};

static enum cairn_err measures_read(struct measures *m, const char *list, struct cairn_why *why)
{
    m->n = 0;
    for (const char *p = list; *p;) {
        size_t len = strcspn(p, ",");
        if (m->n == EVAL_MEASURES_MAX || len >= sizeof m->names[0])
            return cairn_fail(why, CAIRN_EINVAL, "--measures: at most %u names of less than %zu bytes",
                              EVAL_MEASURES_MAX, sizeof m->names[0]);
        memcpy(m->names[m->n], p, len);
        m->names[m->n][len] = 0;
        enum cairn_err err = eval_measure_parse(&m->m[m->n], m->names[m->n], why);
        if (err)
            return err;
        m->n++;
        p += len + (p[len] == ',');
    }
    return m->n ? CAIRN_OK : cairn_fail(why, CAIRN_EINVAL, "--measures names none");
}

/* Values of each query go to records under "LEG MEASURE". */
struct taking {
    const struct measures *m;
    const char *leg;
    struct records *to;
    enum cairn_err err;
    struct cairn_why *why;
};
static void take_values(void *ctx, const char *query, const double *values)
{
    struct taking *t = ctx;
    for (size_t i = 0; i < t->m->n && !t->err; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s %s", t->leg, t->m->names[i]);
        t->err = records_add(t->to, query, name, values[i], t->why);
    }
}

static json_t *means_json(const struct measures *m, const struct eval_qrels *q, const struct eval_run *run,
                          enum eval_queries which, struct taking *take, size_t *n)
{
    double mean[EVAL_MEASURES_MAX];
    json_t *o = json_object();
    eval_means(q, run, m->m, m->n, which, mean, n, take_values, take);
    for (size_t i = 0; i < m->n; i++)
        json_object_set_new(o, m->names[i], json_real(mean[i]));
    return o;
}

static void print_table(const struct measures *m, json_t *metrics, json_t *intervals)
{
    const char *leg;
    json_t *values;
    printf("%-10s", "");
    for (size_t i = 0; i < m->n; i++)
        printf(" %-22s", m->names[i]);
    putchar('\n');
    json_object_foreach(metrics, leg, values)
    {
        printf("%-10s", leg);
        for (size_t i = 0; i < m->n; i++) {
            char name[64];
            snprintf(name, sizeof name, "%s %s", leg, m->names[i]);
            json_t *x = json_object_get(intervals, name);
            printf(" %.4f", json_real_value(json_object_get(values, m->names[i])));
            if (x)
                printf(" [%.3f, %.3f] ", json_real_value(json_array_get(x, 0)),
                       json_real_value(json_array_get(x, 1)));
            else
                printf("%-16s", "");
        }
        putchar('\n');
    }
}

/* Intervals, comparison with --baseline, --out; all of one result. */
static enum cairn_err finish_records(const struct options *o, const struct measures *m, struct records *rec,
                                     json_t *details, json_t *result, int *code, struct cairn_why *why)
{
    json_t *intervals = NULL;
    enum cairn_err err = records_finish(rec, why);
    if (!err)
        err = records_intervals(rec, (size_t)o->draws, o->seed, &intervals, why);
    if (!err) {
        json_object_set(result, "intervals", intervals);
        if (!o->json)
            print_table(m, json_object_get(result, "metrics"), intervals);
        err = records_against(o, rec, result, code, why);
    }
    if (!err && o->out) {
        for (size_t i = 0; i < rec->n; i++) {
            json_t *of = json_object_get(details, rec->rows[i].unit);
            if (!of) { /* judged, never asked: an interval counts it too */
                of = json_pack("{s:s, s:{}}", "unit", rec->rows[i].unit, "values");
                json_object_set_new(details, rec->rows[i].unit, of);
            }
            json_object_set_new(json_object_get(of, "values"), rec->rows[i].name,
                                json_real(rec->rows[i].value));
        }
        err = write_lines(o->out, details, why);
    }
    json_decref(intervals);
    return err;
}

static int score_run(const struct options *o, const struct measures *m)
{
    struct eval_qrels q = {0};
    struct eval_run r = {0};
    struct records rec = {0};
    struct cairn_why why = {{0}};
    int code = DONE;
    enum cairn_err err =
        !file_exists(o->qrels) ? cairn_fail(&why, CAIRN_ENOTFOUND, "--qrels %s: no such file", o->qrels)
        : !file_exists(o->run) ? cairn_fail(&why, CAIRN_ENOTFOUND, "--run %s: no such file", o->run)
                               : eval_qrels_read(&q, o->qrels, &why);
    if (!err)
        err = eval_run_read(&r, o->run, &why);
    json_t *v = NULL, *details = json_object();
    if (!err) {
        size_t n = 0;
        struct taking take = {m, "run", &rec, CAIRN_OK, &why};
        if (o->drop_self)
            eval_run_drop_self(&r);
        json_t *values = means_json(m, &q, &r, o->both ? EVAL_BOTH : EVAL_ALL, &take, &n);
        v = json_pack("{s:s, s:I, s:{s:o}, s:{s:s, s:s}}", "set", o->qrels, "n_queries", (json_int_t)n,
                      "metrics", "run", values, "settings", "run", o->run, "queries",
                      o->both ? "both" : "all");
        err = take.err;
        if (!err)
            err = finish_records(o, m, &rec, details, v, &code, &why);
        if (!err && !o->json)
            printf("%zu queries\n", n);
    }
    if (err) {
        code = tell_err(o, err, &why);
    } else {
        int printed = o->json ? print_json(o, v) : finish_output(o);
        code = code ? code : printed;
    }
    json_decref(v);
    json_decref(details);
    records_release(&rec);
    eval_qrels_release(&q);
    eval_run_release(&r);
    return code;
}

/* ---- the command ---- */

static const struct option_row rows[] = {
    {"set",           "DIR",  "corpus.jsonl or passages.jsonl, queries.jsonl or questions.jsonl, qrels.tsv",            O_TEXT,
     offsetof(struct options,                                                                                                                             set)          },
    {"run",           "FILE", "score this TREC run instead of searching; wants --qrels",                                O_TEXT,
     offsetof(struct options,                                                                                                                             run)          },
    {"qrels",         "FILE", "judgements, BEIR's three columns or TREC's four (default: those of the set)",            O_TEXT,
     offsetof(struct options,                                                                                                                             qrels)        },
    {"sample",        "N",    "only N of the judged queries, drawn by --seed",                                          O_WHOLE,
     offsetof(struct options,                                                                                                                             sample)       },
    {"half",          "1|2",  "only one half of the judged queries, split by their ids: one to tune on, one to report",
     O_WHOLE,                                                                                                                    offsetof(struct options, half)         },
    {"rerank-sample", "N",    "only N of those for the reranked leg, which is slow",                                    O_WHOLE,
     offsetof(struct options,                                                                                                                             rerank_sample)},
    {"seed",          "S",    "of the sample (default 0)",                                                              O_WHOLE, offsetof(struct options, seed)         },
    {"legs",          "LIST", "of lexical,dense,fused,reranked (default: all that the models allow)",                   O_TEXT,
     offsetof(struct options,                                                                                                                             legs)         },
    {"k",             "N",    "documents retrieved for each query (default 100)",                                       O_WHOLE, offsetof(struct options, k)            },
    {"fusion",        "KIND", "zscore, minmax or rrf (default: a new collection's)",                                    O_TEXT,
     offsetof(struct options,                                                                                                                             fusion_name)  },
    {"dense-weight",  "X",    "share of the dense leg in fusion (default: a new collection's)",                         O_SHARE,
     offsetof(struct options,                                                                                                                             dense_weight) },
    {"rerank-weight", "X",    "share of the pair model (default: a new collection's)",                                  O_SHARE,
     offsetof(struct options,                                                                                                                             rerank_weight)},
    {"measures",      "LIST", "default ndcg@10,recall@100,mrr@10,map; also P@K, success@K, map@K, ndcg",                O_TEXT,
     offsetof(struct options,                                                                                                                             measures)     },
    {"both",          NULL,
     "mean over queries with judgement and result (default: all of the judgements, as trec_eval -c)",                   O_FLAG,
     offsetof(struct options,                                                                                                                             both)         },
    {"drop-self",     NULL,   "drop documents whose id is the query's",                                                 O_FLAG,
     offsetof(struct options,                                                                                                                             drop_self)    },
    {"run-out",       "FILE", "write the runs in TREC format to FILE.LEG",                                              O_TEXT,
     offsetof(struct options,                                                                                                                             run_out)      },
    {"out",           "FILE", "one JSON line for each query: its values, its hits and their scores",                    O_TEXT,
     offsetof(struct options,                                                                                                                             out)          },
    OPTIONS_BASELINE,
    {"data",          "DIR",  "where stores are kept (default ~/.cache/cairn/eval)",                                    O_TEXT,
     offsetof(struct options,                                                                                                                             data)         },
    OPTIONS_MODELS,
    OPTIONS_RERANKER,
    OPTIONS_RUN,
};
#define N_ROWS (sizeof rows / sizeof rows[0])

static bool legs_read(const char *list, bool wanted[LEGS])
{
    for (const char *p = list; *p;) {
        size_t len = strcspn(p, ",");
        int k = 0;
        while (k < LEGS && (strlen(leg_names[k]) != len || strncmp(leg_names[k], p, len) != 0))
            k++;
        if (k == LEGS)
            return false;
        wanted[k] = true;
        p += len + (p[len] == ',');
    }
    return *list != 0;
}

static json_t *text_json(const char *s) { return s ? json_string(s) : json_null(); }

static int retrieval_run(const struct options *o, const struct measures *m, const bool asked[LEGS])
{
    struct retrieval_set s = {0};
    struct bench_service b = {0};
    struct retriever *r = NULL;
    struct cairn_why why = {{0}};
    char *names[3] = {0}, *sums[3] = {0}, *dir = NULL;
    struct records rec = {0};
    json_t *metrics = json_object(), *counts = json_object(), *timings = json_object(),
           *details = o->out ? json_object() : NULL;
    uint64_t generation = 0, added = 0;
    double rerank_weight = o->rerank_weight < 0 ? (double)RETRIEVE_RERANK_WEIGHT : o->rerank_weight;
    size_t *at = NULL, n_at = 0;
    int code = DONE;
    run_watch();
    enum cairn_err err = lab_models(o, names, sums, &why);
    if (!err)
        err = retrieval_set_read(&s, o, &why);
    if (!err)
        err = retrieval_set_sample(&s, o->half, o->sample, o->seed, &why);
    int64_t from = cairn_now_us();
    if (!err)
        err = retrieval_store(&b, &r, &s, o, names, sums, &dir, &added, &why);
    json_object_set_new(timings, "build_s", json_real((double)(cairn_now_us() - from) / 1e6));
    json_object_set_new(timings, "documents_built", json_integer((json_int_t)added));
    if (!err) {
        at = sample_of(s.n_queries, o->rerank_sample, o->seed + 1, &n_at);
        err = at ? CAIRN_OK : cairn_fail(&why, CAIRN_ENOMEM, "sample");
    }
    for (int leg = 0; leg < LEGS && !err; leg++) {
        static const char *const stages[6] = {"embed", "lexical", "dense", "fuse", "rerank", "copy"};
        struct leg_run x = {0};
        bool can = (leg == 0 || b.names[MODEL_EMBEDDER]) && (leg < 3 || b.names[MODEL_RERANKER]),
             part = leg == 3 && n_at < s.n_queries;
        if (!asked[leg])
            continue;
        if (!can) {
            if (o->legs)
                err = cairn_fail(&why, CAIRN_EINVAL, "--legs %s: no %s", leg_names[leg],
                                 leg < 3 ? "embedder" : "embedder and reranker");
            continue;
        }
        err = run_leg(&s, o, r, leg, part ? at : NULL, part ? n_at : s.n_queries, &x, &generation, details,
                      &why);
        if (!err && o->drop_self)
            eval_run_drop_self(&x.run);
        if (!err && o->run_out)
            err = write_run(o->run_out, leg_names[leg], &x.run, &why);
        if (!err) {
            size_t n;
            struct taking take = {m, leg_names[leg], &rec, CAIRN_OK, &why};
            json_object_set_new(
                metrics, leg_names[leg],
                means_json(m, &s.qrels, &x.run, part || o->both ? EVAL_BOTH : EVAL_ALL, &take, &n));
            err = take.err;
            json_object_set_new(counts, leg_names[leg], json_integer((json_int_t)n));
            json_t *t = json_object();
            json_object_set_new(t, "query_ms", json_real((double)x.us / 1e3 / (double)x.n));
            for (int k = 0; k < 6; k++)
                json_object_set_new(t, stages[k], json_real(x.stage_us[k] / 1e3 / (double)x.n));
            json_object_set_new(timings, leg_names[leg], t);
            if (leg == 3) /* the mean: the collection's, or half of it for queries that are no questions */
                rerank_weight = x.rerank_weight / (double)x.n;
        }
        eval_run_release(&x.run);
    }
    if (err) {
        code = tell_err(o, err, &why);
    } else {
        struct collection_info info = {0};
        struct store_view *v;
        if (store_view_begin(&v, service_store(b.s), &why) == CAIRN_OK) {
            if (store_collection_get(v, COLLECTION, &info, &why) != CAIRN_OK)
                info = (struct collection_info){0};
            store_view_end(v);
        }
        json_t *settings = json_pack(
            "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:f, s:f, s:f, s:s, s:s}", "n_documents",
            (json_int_t)s.n_docs, "documents_cut", (json_int_t)s.n_cut, "k", (json_int_t)o->k, "sample",
            (json_int_t)o->sample, "half", (json_int_t)o->half, "seed", (json_int_t)o->seed, "rerank_top",
            (json_int_t)cairn_config_num(b.config, "retriever.rerank_top"), "embedder",
            text_json(b.names[MODEL_EMBEDDER]), "reranker", text_json(b.names[MODEL_RERANKER]),
            "dense_weight", o->dense_weight < 0 ? (double)RETRIEVE_DENSE_WEIGHT : o->dense_weight,
            "rerank_weight", rerank_weight, "n_words", (double)info.n_words, "queries",
            o->both ? "both" : "all", "data", dir);
        json_t *v1 = json_pack("{s:s, s:I, s:I, s:O, s:O, s:O, s:O}", "set", s.name, "n_queries",
                               (json_int_t)s.n_queries, "generation", (json_int_t)generation, "metrics",
                               metrics, "queries", counts, "settings", settings, "timings", timings);
        if (!o->json)
            printf("%s: %zu documents, %zu queries, generation %" PRIu64 "\n", s.name, s.n_docs, s.n_queries,
                   generation);
        err = finish_records(o, m, &rec, details, v1, &code, &why);
        int printed = err ? tell_err(o, err, &why) : o->json ? print_json(o, v1) : finish_output(o);
        code = code ? code : printed;
        json_decref(v1);
        json_decref(settings);
    }
    cairn_free(at);
    cairn_free(dir);
    lab_close(&b);
    lab_models_free(names, sums);
    retrieval_set_release(&s);
    json_decref(metrics);
    json_decref(counts);
    json_decref(timings);
    json_decref(details);
    records_release(&rec);
    return code;
}

int eval_retrieval(int argc, char **argv)
{
    struct options o = {.command = "eval retrieval",
                        .k = UINT64_MAX, /* not given */
                        .dense_weight = -1,
                        .rerank_weight = -1,
                        .draws = 1000,
                        .measures = "ndcg@10,recall@100,mrr@10,map"};
    struct measures m;
    struct cairn_why why = {{0}};
    bool asked[LEGS] = {false};
    int code = options_read(&o, rows, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print("eval retrieval --set DIR [options]  |  --run FILE --qrels FILE",
                      "Searches a judged set by words, by vectors, by both, and reranked, and prints "
                      "trec_eval's measures of each.\n"
                      "The store is built once and kept. Depth is --k, so map is map@K.",
                      rows, N_ROWS, stdout);
        return finish_output(&o);
    }
    if (!o.set == !o.run)
        return tell(&o, USAGE, "want either --set DIR or --run FILE; --help says more");
    if (o.run && !o.qrels)
        return tell(&o, USAGE, "--run wants --qrels FILE");
    if (o.run && (o.sample || o.half || o.rerank_sample || o.legs || o.fusion_name || o.run_out ||
                  o.k != UINT64_MAX || o.dense_weight >= 0 || o.rerank_weight >= 0))
        return tell(&o, USAGE,
                    "--run scores a run as it is: --sample, --half, --rerank-sample, --legs, --k, --fusion, "
                    "--run-out and weights are of a search");
    if (o.k == UINT64_MAX)
        o.k = 100;
    if (o.k < 1 || o.k > RETRIEVE_K_MAX)
        return tell(&o, USAGE, "--k wants 1 to %u", RETRIEVE_K_MAX);
    static const char *const fusions[] = {"minmax", "rrf", "zscore"};
    o.fusion = RETRIEVE_FUSION;
    for (uint64_t i = 0; o.fusion_name && i < 3; i++)
        if (strcmp(fusions[i], o.fusion_name) == 0)
            o.fusion = i;
    if (o.fusion_name && strcmp(fusions[o.fusion], o.fusion_name) != 0)
        return tell(&o, USAGE, "--fusion wants zscore, minmax or rrf, not \"%s\"", o.fusion_name);
    if (o.half > 2)
        return tell(&o, USAGE, "--half wants 1 or 2");
    if (o.draws > STATS_DRAWS_MAX)
        return tell(&o, USAGE, "--draws wants at most %u", STATS_DRAWS_MAX);
    if (o.legs ? !legs_read(o.legs, asked) : false)
        return tell(&o, USAGE, "--legs wants a list of lexical, dense, fused, reranked, not \"%s\"", o.legs);
    for (int i = 0; i < LEGS && !o.legs; i++)
        asked[i] = true;
    if (measures_read(&m, o.measures, &why))
        return tell(&o, USAGE, "%s", why.text);
    return o.run ? score_run(&o, &m) : retrieval_run(&o, &m, asked);
}
