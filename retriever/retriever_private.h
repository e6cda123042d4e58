/* retriever_private.h - the parts of a retrieval that are arithmetic: fusion, rerank, selection. No store, no
 * model. */
#ifndef CAIRN_RETRIEVER_PRIVATE_H
#define CAIRN_RETRIEVER_PRIVATE_H

#include <cairn/retriever.h>

struct candidate {
    uint64_t passage_id;
    float lexical, dense; /* raw; NaN: that leg did not find it */
    float fused;
    float rerank; /* raw logit; NaN: not reranked */
    float score;  /* final */
    size_t row;   /* where its copy lies */
};
struct fusion {
    enum fusion_kind kind;
    float dense_weight; /* 0..1; a leg that was not asked leaves its share to the other */
    double rrf_k;
};
/* Joins two rankings (best first) into one: out holds n_lexical + n_dense. A leg is NULL when it was not
 * asked. Order: fused score, then lower passage id. score = fused. */
size_t fuse(const struct fusion *f, const struct store_hit *lexical, size_t n_lexical,
            const struct store_hit *dense, size_t n_dense, struct candidate *out);
/* The first n_reranked carry a logit: score = weight * minmax(logit) + (1 - weight) * minmax(fused) among
 * them, and they are ordered by it; the others keep their order below, with scores under 0. */
void rerank_order(struct candidate *c, size_t n, size_t n_reranked, float weight);

/* What selection needs to know of candidate i (after ordering); rows by candidate.row. */
struct copy {
    struct cairn_str document_id, text;
    struct cairn_hash hash;
    const float *vector; /* [dim] or NULL */
};
struct selection {
    size_t k, per_document_max; /* 0: no cap */
    float mmr_lambda;           /* 1: off */
    float near_duplicate; /* cosine above which two passages that state the same numbers are one; > 1: off */
    uint32_t dim;
};
/* Orders and cuts c to at most k: past the cap a document's passages are dropped; a duplicate of a better
 * candidate goes behind all that are none; then maximal marginal relevance. Returns the number kept. */
CAIRN_MUST_USE enum cairn_err select_hits(const struct selection *s, struct candidate *c, size_t *n,
                                          const struct copy *copies, struct cairn_why *why);
/* Equal but for case, space and punctuation. */
bool same_words(struct cairn_str a, struct cairn_str b);
/* The same numbers in the same order and as many negations: versions of one rule differ in these. */
bool same_facts(struct cairn_str a, struct cairn_str b);
/* Is the query a question? By "?" at its end or, in English, its first word. */
bool asks(struct cairn_str query);
float cosine(const float *a, const float *b, uint32_t dim);

#endif
