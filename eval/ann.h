/* eval/ann.h - vector sets, exact truth, and what a run of `cairn bench index` gave.
 * Sets are held in memory, row major. A file's header is a claim: it is compared with the file's size before
 * anything is allocated. */
#ifndef CAIRN_EVAL_ANN_H
#define CAIRN_EVAL_ANN_H

#include "internal.h"

#define ANN_ROWS_MAX 100000000u
#define ANN_DIM_MAX 4096u
#define ANN_RUNS_MAX 1024u
#define ANN_NAME_MAX 48u

struct ann_floats {
    float *v; /* OWNED; NULL: none */
    uint32_t n, dim;
};
struct ann_ids {
    int32_t *v; /* OWNED; -1 fills a row that has fewer */
    uint32_t n, k;
};
void ann_floats_release(struct ann_floats *f);
void ann_ids_release(struct ann_ids *f);

/* By the end of the name: .npy (little-endian f4 or i4, C order, two axes), .fvecs, .ivecs. Rows past n_max
 * are not read (0: all). */
CAIRN_MUST_USE enum cairn_err ann_floats_read(struct ann_floats *out, const char *path, uint32_t n_max,
                                              struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err ann_ids_read(struct ann_ids *out, const char *path, uint32_t n_max,
                                           struct cairn_why *why);
/* As .npy, beside and renamed. */
CAIRN_MUST_USE enum cairn_err ann_floats_write(const char *path, const struct ann_floats *f,
                                               struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err ann_ids_write(const char *path, const struct ann_ids *f, struct cairn_why *why);

/* Clustered vectors of unit length with a low intrinsic dimension; the same arguments give the same bytes. */
CAIRN_MUST_USE enum cairn_err ann_generate(struct ann_floats *base, struct ann_floats *queries, uint32_t n,
                                           uint32_t dim, uint32_t n_queries, uint64_t seed,
                                           struct cairn_why *why);
void ann_normalise(struct ann_floats *f); /* rows to unit length; a zero row stays */

/* Exact top k by inner product of the first n_queries, over rows whose alive[] is not 0 (NULL: all). */
CAIRN_MUST_USE enum cairn_err ann_exact(struct ann_ids *out, const struct ann_floats *base,
                                        const struct ann_floats *queries, uint32_t n_queries,
                                        const uint8_t *alive, uint32_t k, const struct cairn_stop *stop,
                                        struct cairn_why *why);
/* Share of the true ids found in the rows of got; both hold k a query. */
double ann_recall(const struct ann_ids *truth, const int32_t *got, uint32_t n_queries);

/* One setting of one engine on one set. */
struct ann_run {
    char engine[ANN_NAME_MAX], set[ANN_NAME_MAX], setting[ANN_NAME_MAX];
    double recall, qps, mean_qps, p50_us, p99_us; /* qps: of each query's least time; mean_qps: of all time */
    char path[16];                                /* what the planner did; "": a peer */
    double n_scored;                              /* codes compared a query, mean */
};
struct ann_runs {
    struct ann_run *v; /* OWNED */
    size_t n, cap;
};
/* A run of the same engine, set and setting is replaced when this one is faster. */
CAIRN_MUST_USE enum cairn_err ann_runs_add(struct ann_runs *r, const struct ann_run *run,
                                           struct cairn_why *why);
/* The first setting, by recall upwards, that reaches it: nothing is interpolated, for any engine. NULL: none
 * does. */
const struct ann_run *ann_runs_at(const struct ann_runs *r, const char *set, const char *engine,
                                  double recall);
/* The engine that is not `not_this` with the largest QPS at that recall; NULL: none reaches it. */
const struct ann_run *ann_runs_best(const struct ann_runs *r, const char *set, const char *not_this,
                                    double recall);
/* Recall against QPS (log) of every engine of the set, `ours` drawn heavier. */
CAIRN_MUST_USE enum cairn_err ann_svg(struct cairn_buf *out, const struct ann_runs *r, const char *set,
                                      const char *title, const char *ours, struct cairn_why *why);

#endif
