/* eval/ann.c - `cairn eval ann`: the vector leg of a judged set's store, as the planner runs it, against
 * exact search: recall of the k nearest, over the set's queries. A passage as near as the k-th true one
 * counts, so that ties are no misses. */
#include "records.h"
#include "retrieval_set.h"

#include <stdlib.h>
#include <string.h>

#define COLLECTION "set"

static enum cairn_err nearest(struct retriever *r, const struct options *o, const char *text, bool exact,
                              struct retrieval *x, int64_t *us, struct cairn_why *why)
{
    struct retrieve_request want = {.collection = COLLECTION,
                                    .query = cairn_str_of(text),
                                    .caller = {.all = true},
                                    .k = (size_t)o->k,
                                    .legs = LEG_DENSE,
                                    .fusion = -1,
                                    .dense_weight = RETRIEVE_DEFAULT,
                                    .mmr_lambda = 1,
                                    .with_dense = true,
                                    .how.exact = exact};
    enum cairn_err err = retrieve(r, &want, x, &run_stop, why);
    *us += err ? 0 : x->dense_us;
    return err;
}

static double recall_of(const struct retrieval *found, const struct retrieval *truth, size_t k)
{
    size_t n = truth->n_dense < k ? truth->n_dense : k, hits = 0;
    if (!n)
        return 1;
    float least = truth->dense[n - 1].score;
    for (size_t i = 0; i < found->n_dense && i < n; i++)
        hits += found->dense[i].score >= least;
    return (double)hits / (double)n;
}

/* One line a query, as --baseline reads them. */
static enum cairn_err write_records(const char *path, const struct records *rec, struct cairn_why *why)
{
    struct cairn_buf b;
    cairn_buf_init(&b, EVAL_FILE_MAX);
    for (size_t i = 0; i < rec->n; i++) {
        json_t *v = json_pack("{s:s, s:{s:f}}", "unit", rec->rows[i].unit, "values", rec->rows[i].name,
                              rec->rows[i].value);
        char *line = v ? json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
        if (!line || !cairn_buf_printf(&b, "%s\n", line))
            b.failed = true;
        free(line); /* jansson's */
        json_decref(v);
    }
    enum cairn_err err =
        b.failed ? cairn_fail(why, CAIRN_ENOMEM, "records") : cairn_write_file(path, b.bytes, b.len, why);
    cairn_buf_release(&b);
    return err;
}

static int ann_run(const struct options *o)
{
    struct retrieval_set s = {0};
    struct bench_service b = {0};
    struct retriever *r = NULL;
    struct records rec = {0};
    struct cairn_why why = {{0}};
    char *names[3] = {0}, *sums[3] = {0}, *dir = NULL;
    const char *path = NULL;
    int64_t us[2] = {0, 0};
    double sum = 0;
    int code = DONE;
    run_watch();
    enum cairn_err err = lab_models(o, names, sums, &why);
    if (!err && !names[MODEL_EMBEDDER])
        err = cairn_fail(&why, CAIRN_ESTATE,
                         "no embedder: fetch one with scripts/models, or name it with --embedder");
    if (!err)
        err = retrieval_set_read(&s, o, &why);
    if (!err)
        err = retrieval_set_sample(&s, 0, o->sample, o->seed, &why);
    if (!err)
        err = retrieval_store_open(&b, &r, &s, o, names, sums, &dir, &why);
    for (size_t i = 0; i < s.n_queries && !err; i++) {
        struct retrieval found = {0}, truth = {0};
        progress(o, "queries", i, s.n_queries);
        err = nearest(r, o, s.queries[i].text, false, &found, &us[0], &why);
        if (!err)
            err = nearest(r, o, s.queries[i].text, true, &truth, &us[1], &why);
        if (!err) {
            double v = recall_of(&found, &truth, (size_t)o->k);
            sum += v;
            path = found.plan.path;
            err = records_add(&rec, s.queries[i].id, "recall", v, &why);
        }
        retrieval_release(&found);
        retrieval_release(&truth);
    }
    progress_clear();
    json_t *intervals = NULL, *result = NULL;
    if (!err)
        err = records_finish(&rec, &why);
    if (!err)
        err = records_intervals(&rec, (size_t)o->draws, o->seed, &intervals, &why);
    if (!err) {
        double n = (double)s.n_queries;
        result = json_pack("{s:s, s:I, s:I, s:{s:f}, s:O, s:{s:f, s:f}, s:{s:s, s:I}}", "set", s.name,
                           "n_queries", (json_int_t)s.n_queries, "k", (json_int_t)o->k, "metrics", "recall",
                           sum / n, "intervals", intervals, "timings", "search_us", (double)us[0] / n,
                           "exact_us", (double)us[1] / n, "settings", "path", path ? path : "none",
                           "n_documents", (json_int_t)s.n_docs);
        if (!o->json) {
            const json_t *x = json_object_get(intervals, "recall");
            printf("%s: %zu documents, %zu queries, path %s\nrecall@%d %.4f", s.name, s.n_docs, s.n_queries,
                   path ? path : "none", (int)o->k, sum / n);
            if (x)
                printf(" [%.4f, %.4f]", json_real_value(json_array_get(x, 0)),
                       json_real_value(json_array_get(x, 1)));
            printf(", %.0f us a search, exact %.0f us\n", (double)us[0] / n, (double)us[1] / n);
        }
        err = records_against(o, &rec, result, &code, &why);
        if (!err && o->out)
            err = write_records(o->out, &rec, &why);
    }
    int printed = err ? tell_err(o, err, &why) : o->json ? print_json(o, result) : finish_output(o);
    code = code ? code : printed;
    json_decref(intervals);
    json_decref(result);
    records_release(&rec);
    cairn_free(dir);
    lab_close(&b);
    lab_models_free(names, sums);
    retrieval_set_release(&s);
    return code;
}

static const struct option_row rows[] = {
    {"set",    "DIR",  "a judged set, as `cairn eval retrieval` reads it",    O_TEXT,  offsetof(struct options, set)   },
    {"k",      "N",    "neighbours (default 10)",                             O_WHOLE, offsetof(struct options, k)     },
    {"sample", "N",    "only N of the judged queries, drawn by --seed",       O_WHOLE,
     offsetof(struct options,                                                                                   sample)},
    {"seed",   "S",    "of the sample (default 0)",                           O_WHOLE, offsetof(struct options, seed)  },
    {"out",    "FILE", "one JSON line for each query: its recall",            O_TEXT,  offsetof(struct options, out)   },
    OPTIONS_BASELINE,
    {"data",   "DIR",  "where stores are kept (default ~/.cache/cairn/eval)", O_TEXT,
     offsetof(struct options,                                                                                   data)  },
    OPTIONS_MODELS,
    OPTIONS_RUN,
};
#define N_ROWS (sizeof rows / sizeof rows[0])

int eval_ann(int argc, char **argv)
{
    struct options o = {.command = "eval ann", .k = 10, .draws = 1000, .reranker = "none"};
    int code = options_read(&o, rows, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print(
            "eval ann --set DIR [options]",
            "Recall of the vector index against exact search on a judged set's own queries. `cairn bench "
            "index` measures\nspeed at a recall, beside other programs.",
            rows, N_ROWS, stdout);
        return finish_output(&o);
    }
    if (!o.set)
        return tell(&o, USAGE, "want --set DIR; --help says more");
    if (o.k < 1 || o.k > RETRIEVE_K_MAX)
        return tell(&o, USAGE, "--k wants 1 to %u", RETRIEVE_K_MAX);
    return ann_run(&o);
}
