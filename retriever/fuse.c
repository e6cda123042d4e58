/* fuse.c - two rankings into one, and the pair model's opinion into that.
 * Z-scores over each leg's candidates, then a weighted mean: how far a score stands out among its own, so
 * that a leg with a clear best has more to say than one without (docs/quality.md: better than its better leg
 * on every set, which min-max was not). A passage that a leg did not find has that leg's lowest. The sum is
 * brought to 0..1. Min-max over each leg's candidates, then a weighted mean (grounding research, section 3:
 * better than reciprocal ranks on 27 of 29 sets; raw scores averaged are BM25 alone). A passage that a leg
 * did not find has 0 there. A leg whose scores are all equal says nothing about order: all have 1. Reciprocal
 * rank fusion is Cormack, Clarke and Buettcher 2009. */
#include "retriever_private.h"

#include <math.h>
#include <stdlib.h>

static int by_id(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return x->passage_id < y->passage_id ? -1 : x->passage_id > y->passage_id;
}

static int by_score(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return by_id(a, b);
}

struct range {
    float min, max;
};

static struct range range_of(const struct store_hit *h, size_t n)
{
    struct range r = {INFINITY, -INFINITY};
    for (size_t i = 0; i < n; i++) {
        r.min = h[i].score < r.min ? h[i].score : r.min;
        r.max = h[i].score > r.max ? h[i].score : r.max;
    }
    return r;
}

static double scaled(struct range r, float v)
{
    return r.max > r.min ? ((double)v - (double)r.min) / ((double)r.max - (double)r.min) : 1.0;
}

struct scale {
    struct range r;
    double mean, deviation;
};
static struct scale scale_of(const struct store_hit *h, size_t n)
{
    struct scale s = {.r = range_of(h, n)};
    double square = 0;
    for (size_t i = 0; i < n; i++)
        s.mean += (double)h[i].score / (double)n;
    for (size_t i = 0; i < n; i++)
        square += ((double)h[i].score - s.mean) * ((double)h[i].score - s.mean) / (double)n;
    s.deviation = sqrt(square);
    return s;
}
static double standing(const struct scale *s, double score)
{
    return s->deviation > 0 ? (score - s->mean) / s->deviation : 0;
}

/* Z-scores count from the leg's lowest, which is what a passage has that the leg did not find: then 0 is
 * right for it here too. */
static void add_leg(struct candidate *out, size_t at, const struct fusion *f, const struct store_hit *h,
                    size_t n, double weight, bool dense)
{
    struct scale s = scale_of(h, n);
    for (size_t i = 0; i < n; i++) {
        double part = f->kind == FUSION_RRF ? 1.0 / (f->rrf_k + (double)i + 1.0)
                      : f->kind == FUSION_ZSCORE
                          ? standing(&s, (double)h[i].score) - standing(&s, (double)s.r.min)
                          : scaled(s.r, h[i].score);
        out[at + i] = (struct candidate){.passage_id = h[i].passage_id,
                                         .lexical = dense ? NAN : h[i].score,
                                         .dense = dense ? h[i].score : NAN,
                                         .fused = (float)(weight * part),
                                         .rerank = NAN};
    }
}

size_t fuse(const struct fusion *f, const struct store_hit *lexical, size_t n_lexical,
            const struct store_hit *dense, size_t n_dense, struct candidate *out)
{
    double w = !lexical ? 1.0 : !dense ? 0.0 : (double)f->dense_weight;
    if (!lexical)
        n_lexical = 0;
    if (!dense)
        n_dense = 0;
    add_leg(out, 0, f, lexical, n_lexical, 1.0 - w, false);
    add_leg(out, n_lexical, f, dense, n_dense, w, true);
    size_t total = n_lexical + n_dense, n = 0;
    qsort(out, total, sizeof(*out), by_id);
    for (size_t i = 0; i < total; i++) {
        if (n && out[n - 1].passage_id == out[i].passage_id) {
            out[n - 1].fused += out[i].fused;
            if (isnan(out[n - 1].lexical))
                out[n - 1].lexical = out[i].lexical;
            if (isnan(out[n - 1].dense))
                out[n - 1].dense = out[i].dense;
        } else
            out[n++] = out[i];
    }
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = out[i].fused > most ? out[i].fused : most;
    for (size_t i = 0; i < n; i++) {
        if (f->kind == FUSION_ZSCORE) /* all alike: a ranking without order, as min-max has it */
            out[i].fused = most > 0 ? out[i].fused / most : 1.0f;
        out[i].score = out[i].fused;
    }
    qsort(out, n, sizeof(*out), by_score);
    return n;
}

void rerank_order(struct candidate *c, size_t n, size_t n_reranked, float weight)
{
    struct range logit = {INFINITY, -INFINITY}, fused = {INFINITY, -INFINITY};
    for (size_t i = 0; i < n_reranked; i++) {
        logit.min = c[i].rerank < logit.min ? c[i].rerank : logit.min;
        logit.max = c[i].rerank > logit.max ? c[i].rerank : logit.max;
        fused.min = c[i].fused < fused.min ? c[i].fused : fused.min;
        fused.max = c[i].fused > fused.max ? c[i].fused : fused.max;
    }
    for (size_t i = 0; i < n_reranked; i++)
        c[i].score = (float)((double)weight * scaled(logit, c[i].rerank) +
                             (1.0 - (double)weight) * scaled(fused, c[i].fused));
    for (size_t i = n_reranked; i < n; i++) /* fused is at most 1, and 1 only at the top */
        c[i].score = c[i].fused - 1.0f - 1e-6f;
    if (n_reranked)
        qsort(c, n_reranked, sizeof(*c), by_score);
}
