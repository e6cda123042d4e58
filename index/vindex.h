/* vindex.h - the vector index of a collection, behind functions that do not say how it works: rows by passage
 * id, added and removed inside the batch's transaction, searched under a set of ids. Inside: a delta
 * (vindex.c) and merged segments (vseg.h). Threads: as the transaction given. */
#ifndef CAIRN_INDEX_VINDEX_H
#define CAIRN_INDEX_VINDEX_H

#include "idset.h"
#include "kv.h"

#include <cairn/index.h>

struct vindex_ref {
    struct kv *kv;
    uint32_t coll, dim;
    enum vector_metric metric;
};
struct vindex_row {
    uint32_t id;
    const float *v; /* [dim], finite */
};
/* Both sorted by id; added ids are above every id ever added. A removed id that is not there is
 * CAIRN_ECORRUPT. */
CAIRN_MUST_USE enum cairn_err vindex_apply(const struct vindex_ref *x, const uint32_t *removed,
                                           size_t n_removed, const struct vindex_row *added, size_t n_added,
                                           struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err vindex_drop(const struct vindex_ref *x, struct cairn_why *why);
/* out holds dim; CAIRN_ENOTFOUND without words. */
CAIRN_MUST_USE enum cairn_err vindex_get(const struct vindex_ref *x, uint32_t id, float *out,
                                         struct cairn_why *why);
/* A merge put rows up to `last` into a segment: their codes leave the delta. */
CAIRN_MUST_USE enum cairn_err vindex_moved(const struct vindex_ref *x, uint32_t last, struct cairn_why *why);
struct vfilter; /* vseg.h */
struct vindex_query {
    const float *v;
    struct vfilter *filter;
    size_t k;
    bool exact;
    size_t rerank;      /* delta: candidates by code, at least k */
    uint64_t n_vectors; /* of the collection */
    enum vector_kind kind;
    uint32_t ef, nprobe, scan_max; /* scan_max: filters of up to so many rows are scanned */
    const struct cairn_stop *stop;
};
CAIRN_MUST_USE enum cairn_err vindex_search(const struct vindex_ref *x, const struct vindex_query *q,
                                            struct store_hit *hits, size_t *n_hits, struct vector_plan *plan,
                                            struct cairn_why *why);
/* report per broken invariant, given the ids that must be there; false from report: enough. */
CAIRN_MUST_USE enum cairn_err vindex_check(const struct vindex_ref *x, const struct idset *live,
                                           void (*report)(void *ctx, const char *line), void *ctx,
                                           struct cairn_why *why);
/* NULL when a vector may be stored or asked with, else what is wrong with it. */
const char *vindex_refuses(const float *v, uint32_t dim, enum vector_metric metric);
/* Larger is better; the one function by which hits are ranked, exact or not. */
float vindex_score(enum vector_metric metric, const float *query, float query_norm, const float *row,
                   float row_norm, uint32_t dim);
float vindex_norm(const float *v, uint32_t dim);

/* ---- kernels (vdot.c) ---- */
/* Codes are within -127..127; every variant gives the same integer. */
typedef int32_t (*vdot_fn)(const int8_t *a, const int8_t *b, size_t n);
int32_t vdot_scalar(const int8_t *a, const int8_t *b, size_t n);
/* Those this machine can run: names and functions, the fastest first; returns their number (at most 4). */
size_t vdot_available(const char *names[4], vdot_fn fns[4]);
vdot_fn vdot_best(void);
/* scale such that v is about scale * code; 0 for a zero row. */
float vdot_quantise(const float *v, size_t n, int8_t *codes);

/* Kernels over segment rows: n is a multiple of 64; row holds codes + 128, q the signed codes of the query;
 * integers and floats are the same bits in every variant. */
struct vkernel {
    const char *name;
    int32_t (*row)(const uint8_t *row, const int8_t *q, size_t n);
    void (*rows4)(const uint8_t *const rows[4], const int8_t *q, size_t n, int32_t out[4]);
    float (*dotf)(const float *a, const float *b, size_t n);
    float (*l2f)(const float *a, const float *b, size_t n); /* squared distance */
};
size_t vkernel_available(struct vkernel out[4]); /* the fastest first; returns their number */
const struct vkernel *vkernel_best(void);

/* ---- best k of many (also used by the lexical search) ---- */
struct topk {
    struct store_hit *heap; /* worst first; holds k */
    size_t k, n;
};
/* Score larger is better, then the smaller id. */
static inline bool hit_before(const struct store_hit *a, const struct store_hit *b)
{
    return a->score > b->score || (a->score == b->score && a->passage_id < b->passage_id);
}
void topk_push(struct topk *t, struct store_hit h);
static inline bool topk_full(const struct topk *t) { return t->n == t->k; }
void topk_sort(struct topk *t); /* best first; ends the heap */

#endif
