/* eval/bench_index.c - `cairn bench index`: the vector index through the store's public calls, beside other
 * libraries on the same vectors, queries and truth. One query a call, one thread, k = 10. Every query is
 * timed in three rounds and its least time kept, so that the work of others on the machine drops out while
 * caches stay as in steady state; the plain mean is given too. Engines take turns: a pass of one, a pass of
 * the next, and again, the best pass of each setting kept. Of two settings the one compared at a recall is
 * the first that reaches it, for every engine. */
#include "bench_index.h"

#include <cairn/index.h>
#include <cblas.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COLLECTION "ann"
enum {
    K = 10,
    BATCH = 1000,
    SINGLES = 200,
    ROUNDS = 3,
    SHARES = 5,
    FILTER_QUERIES = 200,
    DELETE_QUERIES = 1000
};
#define ENOUGH 0.9965

static const uint32_t widths[] = {10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 200, 320, 640};
static const double levels[] = {0.90, 0.95, 0.99};
static const struct {
    const char *principal;
    uint32_t per_mille;
} shares[SHARES] = {
    {"p50", 500},
    {"p20", 200},
    {"p5",  50 },
    {"p1",  10 },
    {"p01", 1  }
};

static double now_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static double cpu_s(void)
{
    struct rusage r;
    (void)getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}
static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
/* ---- the store ---- */

/* Whether a row carries the principal of a share, or falls to a deletion: each share is drawn apart. */
static bool drawn(uint32_t row, uint32_t per_mille, uint64_t seed)
{
    return cairn_xxh64(&row, sizeof row, seed) % 1000 < per_mille;
}

static enum cairn_err put_row(struct index_bench *x, struct store_batch *b, uint32_t row,
                              struct cairn_why *why)
{
    struct cairn_str who[SHARES + 1] = {cairn_str_of("all")};
    struct store_passage p = {.start = 0, .end = 1, .vector = x->base.v + (size_t)row * x->base.dim};
    char id[16];
    snprintf(id, sizeof id, "%09u", row);
    struct store_document d = {.id = cairn_str_of(id),
                               .title = cairn_str_of(""),
                               .path = cairn_str_of(""),
                               .mime = cairn_str_of("text/plain"),
                               .text = cairn_str_of("."),
                               .content_hash = cairn_hash_bytes(id, strlen(id)),
                               .passages = &p,
                               .n_passages = 1};
    if (x->o->filters) {
        d.principals = who;
        d.n_principals = 1;
        for (int i = 0; i < SHARES; i++)
            if (drawn(row, shares[i].per_mille, (uint64_t)i + 1))
                who[d.n_principals++] = cairn_str_of(shares[i].principal);
    }
    return store_put(b, COLLECTION, &d, why);
}

/* Rows [from, to) that pick takes (NULL: all), put or deleted, `size` a commit; *n how many. */
struct change {
    const uint8_t *pick;
    uint32_t from, to, size;
    bool remove;
    double *times; /* of each commit's batch; NULL: not wanted */
};
static enum cairn_err change_rows(struct index_bench *x, struct store *s, const struct change *c, uint32_t *n,
                                  struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    uint32_t row = c->from, batch = 0;
    *n = 0;
    while (row < c->to && !err) {
        struct store_batch *b;
        double begun = now_s();
        uint64_t generation;
        err = store_batch_begin(&b, s, why);
        if (err)
            break;
        for (uint32_t in = 0; row < c->to && in < c->size && !err; row++) {
            char id[16];
            if (c->pick && !c->pick[row])
                continue;
            snprintf(id, sizeof id, "%09u", row);
            err = c->remove ? store_delete(b, COLLECTION, cairn_str_of(id), why) : put_row(x, b, row, why);
            in++;
            ++*n;
        }
        if (!err)
            err = cairn_stopped(&run_stop, why);
        if (err) {
            store_batch_abort(b);
            break;
        }
        err = store_batch_commit(b, &generation, why);
        if (c->times)
            c->times[batch] = now_s() - begun;
        batch++;
        progress(x->o, c->remove ? "deleting" : "inserting", row - c->from, c->to - c->from);
    }
    progress_clear();
    return err;
}

static void merge_progress(void *ctx, const char *what, uint64_t done, uint64_t total)
{
    progress(((struct index_bench *)ctx)->o, what, done, total);
}
static enum cairn_err merge(struct index_bench *x, struct store *s, json_t *to, struct cairn_why *why)
{
    struct store_merge_opts o = {.full = true, .threads = x->o->threads ? (unsigned)x->o->threads : 2};
    uint32_t n = 0;
    double wall = now_s(), cpu = cpu_s();
    enum cairn_err err = store_merge(s, COLLECTION, &o, merge_progress, x, &run_stop, &n, why);
    progress_clear();
    json_put(to, "merge_cpu_s", cpu_s() - cpu);
    json_put(to, "merge_wall_s", now_s() - wall);
    json_put(to, "merge_segments", n);
    return err;
}

static enum cairn_err store_make(struct index_bench *x, const char *dir, json_t *to, struct cairn_why *why)
{
    struct store *s = NULL;
    struct store_batch *b;
    uint64_t generation;
    uint32_t n = 0, singles = x->base.n / 10 < SINGLES ? x->base.n / 10 : SINGLES,
             grouped = x->base.n - singles;
    double *times = cairn_calloc(SINGLES, sizeof *times);
    struct collection_opts c = {.name = COLLECTION,
                                .embedder = "bench",
                                .dim = x->base.dim,
                                .metric = METRIC_COSINE,
                                .is_public = true,
                                .dense_weight = 1};
    remove_tree(dir);
    enum cairn_err err = times ? cairn_mkdirs(dir, why) : cairn_fail(why, CAIRN_ENOMEM, "times");
    if (!err)
        err = store_open(&s, &(struct store_opts){.dir = dir, .create = true}, why);
    if (!err)
        err = store_batch_begin(&b, s, why);
    if (!err) {
        err = store_collection_create(b, &c, why);
        if (err)
            store_batch_abort(b);
        else
            err = store_batch_commit(b, &generation, why);
    }
    double begun = now_s(), cpu = cpu_s();
    if (!err)
        err = change_rows(x, s, &(struct change){NULL, 0, grouped, BATCH, false, NULL}, &n, why);
    json_put(to, "insert_grouped_rows_per_s", grouped / (now_s() - begun));
    json_put(to, "insert_cpu_s", cpu_s() - cpu);
    if (!err)
        err = change_rows(x, s, &(struct change){NULL, grouped, x->base.n, 1, false, times}, &n, why);
    if (!err && singles) {
        qsort(times, singles, sizeof *times, by_value);
        json_put(to, "insert_single_p50_ms", times[singles / 2] * 1e3);
        json_put(to, "insert_single_p99_ms", times[singles * 99 / 100] * 1e3);
    }
    if (!err)
        err = merge(x, s, to, why);
    store_close(s);
    cairn_free(times);
    return err;
}

static enum cairn_err sizes(struct index_bench *x, struct store *s, json_t *to, struct cairn_why *why)
{
    struct store_view *v = NULL;
    struct vector_info info;
    struct store_stats st;
    enum cairn_err err = store_view_begin(&v, s, why);
    if (!err)
        err = store_vector_info(v, COLLECTION, &info, why);
    store_view_end(v);
    if (!err)
        err = store_stats_get(s, &st, why);
    if (err)
        return err;
    double n = info.n_rows ? (double)info.n_rows : 1;
    json_put(to, "segments", info.n_segments);
    json_put(to, "rows_in_segments", (double)info.n_rows);
    json_put(to, "rows_in_delta", (double)info.n_delta);
    json_put(to, "hot_bytes_per_vector", (double)info.hot_bytes / n);
    json_put(to, "vector_bytes_per_vector", (double)(info.hot_bytes + info.cold_bytes) / n);
    json_put(to, "store_bytes_per_vector", (double)st.map_used_bytes / x->base.n);
    return CAIRN_OK;
}

/* Opens the store and asks once: what a process waits for. Leaves it open. */
static enum cairn_err open_and_ask(struct index_bench *x, struct store **s, const char *dir, json_t *to,
                                   struct cairn_why *why)
{
    struct store_view *v = NULL;
    struct store_filter *f = NULL;
    struct store_hit hits[K];
    size_t n;
    double begun = now_s(), opened;
    enum cairn_err err = store_open(s, &(struct store_opts){.dir = dir}, why);
    opened = now_s();
    if (!err)
        err = store_view_begin(&v, *s, why);
    if (!err)
        err = store_filter_open(&f, v, COLLECTION, &(struct store_caller){.all = true}, why);
    if (!err)
        err = store_search_vector(v, COLLECTION, x->queries.v, x->queries.dim, f, K, NULL, hits, &n, NULL,
                                  NULL, why);
    json_put(to, "open_ms", (opened - begun) * 1e3);
    json_put(to, "open_and_first_answer_ms", (now_s() - begun) * 1e3);
    store_filter_close(f);
    store_view_end(v);
    return err;
}

/* ---- searches ---- */

/* Passage ids to rows of the base, by the documents' ids; outside of all timing. */
static enum cairn_err rows_of(struct store_view *v, const struct store_hit *hits, int32_t *rows, size_t n,
                              struct cairn_why *why)
{
    for (size_t i = 0; i < n; i++) {
        struct passage_info p;
        char id[16] = "";
        rows[i] = -1;
        if (hits[i].passage_id == UINT64_MAX)
            continue;
        enum cairn_err err = store_passage_get(v, COLLECTION, hits[i].passage_id, &p, why);
        if (err)
            return err;
        memcpy(id, p.document_id.p, p.document_id.len < 15 ? p.document_id.len : 15);
        rows[i] = (int32_t)strtol(id, NULL, 10);
    }
    return CAIRN_OK;
}

struct search {
    struct store *s;
    struct store_caller caller;
    const struct ann_ids *truth; /* as many queries as it has rows */
    uint32_t ef;                 /* 0: the store's default */
    bool view_each;              /* a view and a filter for every query, timed with it */
};
static enum cairn_err measure(struct index_bench *x, const struct search *want, struct ann_run *run,
                              struct cairn_why *why)
{
    uint32_t nq = want->truth->n, dim = x->queries.dim;
    struct store_hit *hits = cairn_calloc((size_t)nq * K, sizeof *hits);
    int32_t *rows = cairn_calloc((size_t)nq * K, sizeof *rows);
    double *least = cairn_calloc(nq, sizeof *least), total = 0, sum = 0, scored = 0;
    struct store_view *v = NULL;
    struct store_filter *f = NULL;
    struct vector_how how = {.ef = want->ef};
    struct vector_plan plan = {0};
    enum cairn_err err = hits && rows && least ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "%u queries", nq);
    for (int round = 0; round < ROUNDS && !err; round++) {
        /* a view pins pages: not longer than a round */
        err = store_view_begin(&v, want->s, why);
        if (!err)
            err = store_filter_open(&f, v, COLLECTION, &want->caller, why);
        for (uint32_t q = 0; q < nq && !err; q++) {
            struct store_view *own = v;
            struct store_filter *own_f = f;
            struct store_hit *to = hits + (size_t)q * K;
            size_t n = 0;
            double begun = now_s();
            if (want->view_each) {
                own = NULL;
                own_f = NULL;
                err = store_view_begin(&own, want->s, why);
                if (!err)
                    err = store_filter_open(&own_f, own, COLLECTION, &want->caller, why);
            }
            if (!err)
                err = store_search_vector(own, COLLECTION, x->queries.v + (size_t)q * dim, dim, own_f, K,
                                          &how, to, &n, &plan, NULL, why);
            if (want->view_each) {
                store_filter_close(own_f);
                store_view_end(own);
            }
            double t = now_s() - begun;
            total += t;
            least[q] = round == 0 || t < least[q] ? t : least[q];
            scored += round == 0 ? (double)plan.n_scored : 0;
            for (size_t i = n; i < K; i++)
                to[i] = (struct store_hit){.passage_id = UINT64_MAX};
            if (q % 64 == 0 && !err)
                err = cairn_stopped(&run_stop, why);
        }
        if (!err && round == ROUNDS - 1)
            err = rows_of(v, hits, rows, (size_t)nq * K, why);
        store_filter_close(f);
        store_view_end(v);
        f = NULL;
        v = NULL;
    }
    if (!err) {
        qsort(least, nq, sizeof *least, by_value);
        for (uint32_t q = 0; q < nq; q++)
            sum += least[q];
        run->recall = ann_recall(want->truth, rows, nq);
        run->qps = nq / sum;
        run->mean_qps = (double)nq * ROUNDS / total;
        run->p50_us = least[nq / 2] * 1e6;
        run->p99_us = least[(size_t)nq * 99 / 100] * 1e6;
        run->n_scored = scored / nq;
        snprintf(run->path, sizeof run->path, "%s", plan.path ? plan.path : "");
        snprintf(run->engine, sizeof run->engine, "cairn");
        snprintf(run->set, sizeof run->set, "%s", x->label);
        if (want->ef)
            snprintf(run->setting, sizeof run->setting, "ef=%u", want->ef);
        else
            snprintf(run->setting, sizeof run->setting, "default");
    }
    cairn_free(hits);
    cairn_free(rows);
    cairn_free(least);
    return err;
}

static enum cairn_err sweep(struct index_bench *x, struct store *s, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < sizeof widths / sizeof widths[0] && !err; i++) {
        struct search want = {.s = s, .caller = {.all = true}, .truth = &x->truth, .ef = widths[i]};
        struct ann_run run = {.recall = 0};
        progress(x->o, "cairn", i, sizeof widths / sizeof widths[0]);
        err = measure(x, &want, &run, why);
        if (!err)
            err = ann_runs_add(&x->runs, &run, why);
        if (run.recall > ENOUGH)
            break;
    }
    progress_clear();
    return err;
}

static json_t *run_json(const struct ann_run *r)
{
    json_t *o = json_pack("{s:s, s:s, s:s}", "engine", r->engine, "set", r->set, "setting", r->setting);
    json_put(o, "recall", r->recall);
    json_put(o, "qps", r->qps);
    json_put(o, "p50_us", r->p50_us);
    json_put(o, "p99_us", r->p99_us);
    json_put(o, "mean_qps", r->mean_qps);
    if (r->path[0]) {
        json_object_set_new(o, "path", json_string(r->path));
        json_put(o, "n_scored", r->n_scored);
    }
    return o;
}

static uint32_t ef_at(const struct index_bench *x, double recall)
{
    const struct ann_run *r = ann_runs_at(&x->runs, x->label, "cairn", recall);
    return r ? (uint32_t)strtoul(r->setting + strlen("ef="), NULL, 10) : 640;
}

static enum cairn_err filtered(struct index_bench *x, struct store *s, struct cairn_why *why)
{
    static const uint32_t filter_widths[] = {0, 32, 64, 128, 256};
    json_t *all = json_array();
    uint8_t *alive = cairn_malloc(x->base.n);
    enum cairn_err err = alive ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "rows of a filter");
    for (int i = 0; i < SHARES && !err; i++) {
        struct ann_ids truth = {0};
        struct cairn_str who = cairn_str_of(shares[i].principal);
        uint32_t n = 0;
        for (uint32_t row = 0; row < x->base.n; row++)
            n += alive[row] = drawn(row, shares[i].per_mille, (uint64_t)i + 1);
        err = ann_exact(&truth, &x->base, &x->queries, FILTER_QUERIES, alive, K, &run_stop, why);
        for (size_t w = 0; w < sizeof filter_widths / sizeof filter_widths[0] && !err; w++) {
            struct search want = {
                s, {&who, 1, false},
                 &truth, filter_widths[w], false
            };
            struct ann_run run = {.recall = 0};
            err = measure(x, &want, &run, why);
            json_t *o = run_json(&run);
            json_put(o, "share", shares[i].per_mille / 1000.0);
            json_put(o, "matches", n);
            json_array_append_new(all, o);
        }
        ann_ids_release(&truth);
    }
    cairn_free(alive);
    json_object_set_new(x->info, "filters", all);
    return err;
}

/* Recall of what is left after deletions, before a merge and after one, and with the rows back. A row that is
 * gone and found again would count as a miss in the truth and an error of the store: it is looked up. */
static enum cairn_err deletions(struct index_bench *x, struct store *s, struct cairn_why *why)
{
    static const struct {
        const char *what;
        uint32_t per_mille; /* rows that are out after the step */
        bool merge;
    } steps[] = {
        {"fresh",                  0,   false},
        {"20 % deleted",           200, false},
        {"20 % deleted, merged",   200, true },
        {"50 % deleted",           500, false},
        {"50 % deleted, merged",   500, true },
        {"inserted again",         0,   false},
        {"inserted again, merged", 0,   true }
    };
    json_t *all = json_array();
    uint32_t n = x->base.n, changed, out = 0, nq = DELETE_QUERIES;
    uint8_t *alive = cairn_malloc(n), *pick = cairn_malloc(n);
    enum cairn_err err = alive && pick ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "rows");
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && !err; i++) {
        struct ann_ids truth = {0};
        json_t *merged = json_object();
        bool remove = steps[i].per_mille > out;
        for (uint32_t row = 0; row < n; row++) { /* the draws nest: 20 % are of the 50 % */
            alive[row] = !drawn(row, steps[i].per_mille, 99);
            pick[row] = alive[row] == drawn(row, out, 99);
        }
        if (steps[i].per_mille != out)
            err = change_rows(x, s, &(struct change){pick, 0, n, BATCH, remove, NULL}, &changed, why);
        out = steps[i].per_mille;
        if (!err && steps[i].merge)
            err = merge(x, s, merged, why);
        if (!err)
            err = ann_exact(&truth, &x->base, &x->queries, nq, alive, K, &run_stop, why);
        for (size_t l = 1; l < sizeof levels / sizeof levels[0] && !err; l++) {
            struct search want = {s, {.all = true}, &truth, ef_at(x, levels[l]), false};
            struct ann_run run = {.recall = 0};
            err = measure(x, &want, &run, why);
            json_t *o = run_json(&run);
            json_object_set_new(o, "state", json_string(steps[i].what));
            json_object_update(o, merged);
            json_array_append_new(all, o);
        }
        json_decref(merged);
        ann_ids_release(&truth);
    }
    cairn_free(alive);
    cairn_free(pick);
    json_object_set_new(x->info, "deletes", all);
    return err;
}

/* ---- sets ---- */

static enum cairn_err index_python(struct index_bench *x, struct cairn_why *why)
{
    /* hnswlib has no binary release: its own setup compiles for this machine */
    static const char *const packages[] = {"numpy",   "pybind11", "scikit-learn", "faiss-cpu", "usearch",
                                           "hnswlib", NULL};
    return peers_python(x->o, x->work, "py", packages, &x->python, why);
}

static enum cairn_err set_files(struct index_bench *x, struct cairn_why *why)
{
    const struct options *o = x->o;
    uint32_t nq_max = (uint32_t)o->queries;
    enum cairn_err err = CAIRN_OK;
    if (o->base) {
        char *key = cairn_asprintf("%s|%s|%u", o->base, o->query, nq_max);
        const char *name = strrchr(o->base, '/');
        snprintf(x->label, sizeof x->label, "%.40s", o->set ? o->set : name ? name + 1 : o->base);
        x->stem =
            key ? cairn_asprintf("%s/file-%016" PRIx64, x->work, cairn_xxh64(key, strlen(key), 0)) : NULL;
        cairn_free(key);
    } else if (!o->set || strcmp(o->set, "syn") == 0) {
        bool usual = o->n == 200000 && o->dim == 384;
        snprintf(x->label, sizeof x->label, usual ? "syn" : "syn-%" PRIu64 "x%" PRIu64, o->n, o->dim);
        /* queries are drawn after the base: sets that differ in their number share it, and its indexes */
        x->stem = cairn_asprintf("%s/syn-%" PRIu64 "-%" PRIu64 "-%" PRIu64, x->work, o->n, o->dim, o->seed);
    } else if (strcmp(o->set, "lsa") == 0) {
        snprintf(x->label, sizeof x->label, "lsa");
        x->stem = cairn_asprintf("%s/lsa", x->work);
    } else {
        return cairn_fail(why, CAIRN_EINVAL, "--set %s: want syn or lsa, or --base and --query files",
                          o->set);
    }
    if (x->stem) {
        x->base_path = cairn_asprintf("%s.base.npy", x->stem);
        x->query_path = strcmp(x->label, "lsa") == 0 ? cairn_asprintf("%s.query.npy", x->stem)
                                                     : cairn_asprintf("%s.query.%u.npy", x->stem, nq_max);
        x->truth_path = cairn_asprintf("%s.truth.%u.npy", x->stem, nq_max);
    }
    if (!x->base_path || !x->query_path || !x->truth_path)
        return cairn_fail(why, CAIRN_ENOMEM, "paths");
    if (o->base && (o->fresh || !file_exists(x->base_path) || !file_exists(x->query_path))) {
        err = ann_floats_read(&x->base, o->base, 0, why);
        if (!err)
            err = ann_floats_read(&x->queries, o->query, nq_max, why);
        if (!err) {
            ann_normalise(&x->base);
            ann_normalise(&x->queries);
        }
    } else if (strcmp(x->label, "lsa") == 0 && (!file_exists(x->base_path) || !file_exists(x->query_path))) {
        const char *script = o->peers_script ? o->peers_script : "eval/peers_ann.py";
        char *log = cairn_asprintf("%s.log", x->stem);
        err = log ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "paths");
        if (!err && !x->python)
            err = index_python(x, why);
        const char *argv[] = {x->python, script, "lsa", x->base_path, x->query_path, NULL};
        progress(o, "real text: TF-IDF and SVD", 0, 0);
        if (!err)
            err = peers_exec(argv, log, why);
        progress_clear();
        cairn_free(log);
    } else if (!o->base && (!file_exists(x->base_path) || !file_exists(x->query_path))) {
        progress(o, "drawing vectors", 0, 0);
        err = ann_generate(&x->base, &x->queries, (uint32_t)o->n, (uint32_t)o->dim, nq_max, o->seed, why);
        progress_clear();
    }
    if (!err && x->base.v) {
        if (o->base || !file_exists(x->base_path)) /* syn's would be the same bytes */
            err = ann_floats_write(x->base_path, &x->base, why);
        if (!err)
            err = ann_floats_write(x->query_path, &x->queries, why);
        if (!err && file_exists(x->truth_path))
            (void)unlink(x->truth_path);
    } else if (!err) {
        err = ann_floats_read(&x->base, x->base_path, 0, why);
        if (!err)
            err = ann_floats_read(&x->queries, x->query_path, nq_max, why);
    }
    if (err)
        return err;
    if (file_exists(x->truth_path)) {
        err = ann_ids_read(&x->truth, x->truth_path, 0, why);
        if (!err && (x->truth.k != K || x->truth.n != x->queries.n))
            err = cairn_fail(why, CAIRN_ECORRUPT, "%s: of other queries; remove it", x->truth_path);
        return err;
    }
    progress(o, "exact truth", 0, 0);
    double begun = now_s();
    err = ann_exact(&x->truth, &x->base, &x->queries, x->queries.n, NULL, K, &run_stop, why);
    json_put(x->info, "exact_s", now_s() - begun);
    progress_clear();
    return err ? err : ann_ids_write(x->truth_path, &x->truth, why);
}

/* ---- output ---- */

/* Where both reach the recall; "hnswlib" and the fastest of the others. */
static json_t *ratios(struct index_bench *x)
{
    json_t *all = json_object(), *names = json_object();
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        const struct ann_run *own = ann_runs_at(&x->runs, x->label, "cairn", levels[i]),
                             *old = ann_runs_at(&x->runs, x->label, "hnswlib", levels[i]),
                             *best = ann_runs_best(&x->runs, x->label, "cairn", levels[i]);
        char key[ANN_NAME_MAX + 16];
        json_t *o = json_object();
        snprintf(key, sizeof key, "%s@%.2f", x->label, levels[i]);
        if (own && old)
            json_put(o, "hnswlib", own->qps / old->qps);
        if (own && best) {
            json_put(o, "best_peer", own->qps / best->qps);
            json_object_set_new(names, key, json_string(best->engine));
        }
        json_object_set_new(all, key, o);
    }
    json_object_set_new(x->info, "best_peers", names);
    return all;
}

static void print_object(const json_t *v, int depth)
{
    const char *key;
    json_t *m;
    json_object_foreach((json_t *)(uintptr_t)v, key, m)
    {
        if (json_is_object(m)) {
            printf("%*s%s\n", depth * 2, "", key);
            print_object(m, depth + 1);
        } else if (json_is_number(m)) {
            printf("%*s%-*s %14.2f\n", depth * 2, "", 34 - depth * 2, key, json_number_value(m));
        } else if (json_is_string(m)) {
            printf("%*s%-*s %s\n", depth * 2, "", 34 - depth * 2, key, json_string_value(m));
        }
    }
}
static double num(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }
static void print_rows(const json_t *rows, const char *title, bool filters)
{
    size_t i;
    json_t *o;
    if (json_array_size(rows) == 0)
        return;
    printf("\n%-26s %-14s %7s %9s %9s %9s %9s %8s  %s\n", title, "setting", "recall", "qps", "mean qps",
           "p50 us", "p99 us", "scored", "path");
    json_array_foreach(rows, i, o)
    {
        char left[64];
        const char *state = json_string_value(json_object_get(o, "state")),
                   *path = json_string_value(json_object_get(o, "path"));
        if (filters)
            snprintf(left, sizeof left, "%g %% (%.0f)", num(o, "share") * 100, num(o, "matches"));
        else
            snprintf(left, sizeof left, "%s",
                     state ? state : json_string_value(json_object_get(o, "engine")));
        printf("%-26s %-14s %7.4f %9.0f %9.0f %9.1f %9.1f %8.0f  %s\n", left,
               json_string_value(json_object_get(o, "setting")), num(o, "recall"), num(o, "qps"),
               num(o, "mean_qps"), num(o, "p50_us"), num(o, "p99_us"), num(o, "n_scored"), path ? path : "");
    }
}

static int print_result(struct index_bench *x)
{
    json_t *runs = json_array(), *r = ratios(x);
    for (size_t i = 0; i < x->runs.n; i++)
        json_array_append_new(runs, run_json(&x->runs.v[i]));
    json_object_set_new(x->info, "runs", runs);
    json_object_set_new(x->info, "ratios", r);
    if (x->o->json)
        return print_json(x->o, x->info);
    print_object(x->info, 0);
    print_rows(runs, "engine", false);
    print_rows(json_object_get(x->info, "filters"), "share (matches)", true);
    print_rows(json_object_get(x->info, "deletes"), "state", false);
    return finish_output(x->o);
}

static enum cairn_err picture(struct index_bench *x, struct cairn_why *why)
{
    struct cairn_buf b;
    char title[128];
    cairn_buf_init(&b, 1 << 20);
    snprintf(title, sizeof title, "%s: %u x %u, %u queries, k = %d", x->label, x->base.n, x->base.dim,
             x->queries.n, K);
    enum cairn_err err = ann_svg(&b, &x->runs, x->label, title, "cairn", why);
    if (!err)
        err = cairn_write_file(x->o->svg, b.bytes, b.len, why);
    cairn_buf_release(&b);
    return err;
}

/* The runs of an earlier result on the same set count as passes of this one: long measurements can be taken
 * in pieces, when the machine is quiet. */
static enum cairn_err join_runs(struct index_bench *x, struct cairn_why *why)
{
    char *text = NULL;
    size_t len, i;
    json_t *v = NULL, *run, *peers = json_object_get(x->info, "peers");
    enum cairn_err err = cairn_read_file(&text, &len, x->o->join, 16 << 20, why);
    if (!err && (!(v = json_loadb(text, len, 0, NULL)) || !json_is_array(json_object_get(v, "runs"))))
        err = cairn_fail(why, CAIRN_ECORRUPT, "%s: not what --json prints", x->o->join);
    json_array_foreach(json_object_get(v, "runs"), i, run)
    {
        struct ann_run r = {.recall = num(run, "recall"),
                            .qps = num(run, "qps"),
                            .mean_qps = num(run, "mean_qps"),
                            .p50_us = num(run, "p50_us"),
                            .p99_us = num(run, "p99_us"),
                            .n_scored = num(run, "n_scored")};
        const char *engine = text_of(run, "engine"), *set = text_of(run, "set"),
                   *setting = text_of(run, "setting"), *path = text_of(run, "path");
        if (err)
            break;
        if (!engine || !set || !setting || strcmp(set, x->label) != 0) {
            err = cairn_fail(why, CAIRN_EINVAL, "%s: run %zu is not of the set %s", x->o->join, i, x->label);
            break;
        }
        snprintf(r.engine, sizeof r.engine, "%s", engine);
        snprintf(r.set, sizeof r.set, "%s", set);
        snprintf(r.setting, sizeof r.setting, "%s", setting);
        snprintf(r.path, sizeof r.path, "%s", path ? path : "");
        err = ann_runs_add(&x->runs, &r, why);
    }
    if (!err)
        json_object_update_missing(peers, json_object_get(v, "peers"));
    json_decref(v);
    cairn_free(text);
    return err;
}

/* ---- the command ---- */

static enum cairn_err bench_set(struct index_bench *x, struct cairn_why *why)
{
    static const char every[] = "hnswlib,faiss-hnsw-sq8,faiss-ivf-pq,usearch-f32,usearch-i8";
    const struct options *o = x->o;
    struct store *s = NULL;
    json_t *own = json_object();
    char *dir = NULL, *ready = NULL, *list = cairn_strdup(o->peers ? o->peers : every);
    bool with_peers = !o->quick && list && strcmp(list, "none") != 0;
    enum cairn_err err = list ? cairn_mkdirs(x->work, why) : cairn_fail(why, CAIRN_ENOMEM, "peers");
    json_object_set_new(x->info, "cairn", own);
    json_object_set_new(x->info, "peers", json_object());
    if (!err && with_peers) {
        err = index_python(x, why);
        if (err && err != CAIRN_ESTOPPED) { /* cairn alone is still worth its numbers */
            (void)tell(o, FAILED, "%s; going on without peers", why->text);
            json_object_set_new(x->info, "without_peers", json_string(why->text));
            with_peers = false;
            err = CAIRN_OK;
        }
    }
    if (!err)
        err = set_files(x, why);
    if (!err) {
        json_object_set_new(x->info, "set", json_string(x->label));
        json_put(x->info, "n", x->base.n);
        json_put(x->info, "dim", x->base.dim);
        json_put(x->info, "queries", x->queries.n);
        dir = cairn_asprintf("%s.%s", x->stem, o->filters ? "acl.store" : "store");
        ready = cairn_asprintf("%s/ready", dir ? dir : "");
        err = dir && ready ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "paths");
    }
    if (!err && !(o->keep && made_after(ready, x->base_path)))
        err = store_make(x, dir, own, why);
    if (!err)
        err = o->deletes ? CAIRN_OK : cairn_write_file(ready, "", 0, why);
    if (!err && o->deletes && file_exists(ready))
        (void)unlink(ready);
    if (!err)
        err = open_and_ask(x, &s, dir, own, why);
    if (!err)
        err = sizes(x, s, own, why);
    for (uint64_t pass = 0; pass < o->passes && !err; pass++) {
        err = sweep(x, s, why);
        char *rest = NULL;
        char *names = with_peers ? cairn_strdup(list) : NULL;
        for (char *name = names ? strtok_r(names, ",", &rest) : NULL; name && !err;
             name = strtok_r(NULL, ",", &rest)) {
            struct cairn_why own_why = {{0}};
            enum cairn_err failed = peers_pass(x, name, &own_why);
            if (failed == CAIRN_ESTOPPED)
                err = cairn_fail(why, failed, "%s", own_why.text);
            else if (failed)
                (void)tell(o, FAILED, "%s: %s; going on without this pass of it", name, own_why.text);
        }
        cairn_free(names);
    }
    if (!err) {
        struct search each = {s, {.all = true}, &x->truth, ef_at(x, 0.95), true};
        struct ann_run run = {.recall = 0};
        err = measure(x, &each, &run, why);
        if (!err)
            json_object_set_new(own, "view_per_query", run_json(&run));
    }
    if (!err && o->filters)
        err = filtered(x, s, why);
    if (!err && o->deletes)
        err = deletions(x, s, why);
    store_close(s);
    if (!err && o->join)
        err = join_runs(x, why);
    if (!err && o->svg)
        err = picture(x, why);
    cairn_free(dir);
    cairn_free(ready);
    cairn_free(list);
    return err;
}

static const struct option_row rows[] = {
    {"set",          "NAME", "syn (made here) or lsa (real text: descriptions of packages); default syn",      O_TEXT,
     offsetof(struct options,                                                                                                                    set)         },
    {"n",            "N",    "vectors of syn (default 200000)",                                                O_WHOLE, offsetof(struct options, n)           },
    {"dim",          "D",    "dimensions of syn (default 384)",                                                O_WHOLE, offsetof(struct options, dim)         },
    {"queries",      "Q",    "queries at most (default 5000)",                                                 O_WHOLE, offsetof(struct options, queries)     },
    {"seed",         "S",    "of syn (default 7)",                                                             O_WHOLE, offsetof(struct options, seed)        },
    {"base",         "FILE", "your vectors: .npy or .fvecs; with --query",                                     O_TEXT,  offsetof(struct options, base)        },
    {"query",        "FILE", "your queries: .npy or .fvecs",                                                   O_TEXT,  offsetof(struct options, query)       },
    {"work",         "DIR",  "where sets, indexes and stores are kept (default var/bench)",                    O_TEXT,
     offsetof(struct options,                                                                                                                    work)        },
    {"peers",        "LIST", "hnswlib,faiss-hnsw,faiss-hnsw-sq8,faiss-ivf-pq,usearch-f32,usearch-i8, or none",
     O_TEXT,                                                                                                            offsetof(struct options, peers)       },
    {"peers-script", "FILE", "runs the peers (default eval/peers_ann.py)",                                     O_TEXT,
     offsetof(struct options,                                                                                                                    peers_script)},
    {"passes",       "P",    "of every engine in turn, the best kept (default 3)",                             O_WHOLE,
     offsetof(struct options,                                                                                                                    passes)      },
    {"threads",      "N",    "of merges (default 2); searches use one",                                        O_WHOLE, offsetof(struct options, threads)     },
    {"filters",      NULL,   "give documents allow lists and search as callers who see 50, 20, 5, 1, 0.1 %",   O_FLAG,
     offsetof(struct options,                                                                                                                    filters)     },
    {"deletes",      NULL,   "recall after deleting 20 and 50 % and after inserting again",                    O_FLAG,
     offsetof(struct options,                                                                                                                    deletes)     },
    {"keep",         NULL,   "search the store of an earlier run instead of making it anew",                   O_FLAG,
     offsetof(struct options,                                                                                                                    keep)        },
    {"fresh",        NULL,   "read --base and --query again",                                                  O_FLAG,  offsetof(struct options, fresh)       },
    {"join",         "FILE", "an earlier --json of the same set: its runs count as further passes",            O_TEXT,
     offsetof(struct options,                                                                                                                    join)        },
    {"svg",          "FILE", "draw recall against queries per second",                                         O_TEXT,  offsetof(struct options, svg)         },
    {"quick",        NULL,   "2000 x 32, 200 queries, one pass, no peers: does it run at all",                 O_FLAG,
     offsetof(struct options,                                                                                                                    quick)       },
    {"json",         NULL,   "one JSON object on stdout",                                                      O_FLAG,  offsetof(struct options, json)        },
    {"quiet",        NULL,   "no progress on stderr",                                                          O_FLAG,  offsetof(struct options, quiet)       },
};
#define N_ROWS (sizeof rows / sizeof rows[0])

int bench_index(int argc, char **argv)
{
    struct options o = {
        .command = "bench index", .n = 200000, .dim = 384, .queries = 5000, .seed = 7, .passes = 3};
    struct cairn_why why = {{0}};
    int code = options_read(&o, rows, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print(
            "bench index [options]",
            "The vector index beside hnswlib, faiss-cpu and usearch (from PyPI), on one thread: recall "
            "against exact search, queries per second, build, size.",
            rows, N_ROWS, stdout);
        return finish_output(&o);
    }
    if (!o.base != !o.query)
        return tell(&o, USAGE, "--base and --query go together");
    if (o.quick) {
        o.n = 2000;
        o.dim = 32;
        o.queries = 200;
        o.passes = 1;
    }
    if (o.n < 100 || o.n > ANN_ROWS_MAX || o.dim < 2 || o.dim > VECTOR_DIM_MAX || o.queries < 1 ||
        o.queries > 1000000 || o.passes < 1 || o.passes > 100 || o.threads > 256)
        return tell(&o, USAGE, "--n 100 to %u, --dim 2 to %u, --queries 1 to 1000000, --passes 1 to 100",
                    ANN_ROWS_MAX, VECTOR_DIM_MAX);
    struct index_bench x = {.o = &o, .work = o.work ? o.work : "var/bench", .info = json_object()};
    run_watch();
    openblas_set_num_threads(2); /* of the truth; searches of the store do not use it */
    enum cairn_err err = bench_set(&x, &why);
    code = err ? tell_err(&o, err, &why) : print_result(&x);
    ann_floats_release(&x.base);
    ann_floats_release(&x.queries);
    ann_ids_release(&x.truth);
    cairn_free(x.runs.v);
    cairn_free(x.base_path);
    cairn_free(x.query_path);
    cairn_free(x.truth_path);
    cairn_free(x.stem);
    cairn_free(x.python);
    json_decref(x.info);
    return code;
}
