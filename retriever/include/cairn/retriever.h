/* cairn/retriever.h - a question -> the passages that can answer it: lexical + dense under the ACL bitmap,
 * weighted fusion, pair-model rerank, diversity, copied out of the read view. Threads: a retriever is shared
 * by all; each call opens and closes its own view. COPIED / OWNED / BORROWED as in base.h. */
#ifndef CAIRN_RETRIEVER_H
#define CAIRN_RETRIEVER_H

#include <cairn/base.h>
#include <cairn/index.h>
#include <cairn/model.h>

extern const struct cairn_conf
    retriever_conf[]; /* retriever.candidates, retriever.rerank_top, retriever.mmr_lambda, retriever.rrf_k,
                         retriever.per_document_max ... */
extern const size_t retriever_conf_len;

struct retriever;
/* All BORROWED and must outlive it; embedder and reranker may be NULL (lexical only; no rerank). */
CAIRN_MUST_USE enum cairn_err retriever_open(struct retriever **out, struct store *s,
                                             struct encoder *embedder, struct encoder *reranker,
                                             const struct cairn_config *config, struct cairn_why *why);
void retriever_close(struct retriever *r);

enum retrieve_legs { LEG_LEXICAL = 1, LEG_DENSE = 2, LEG_BOTH = 3 };
#define RETRIEVE_DEFAULT (-1.0f)
/* What a new collection has (docs/quality.md). */
#define RETRIEVE_FUSION FUSION_ZSCORE
#define RETRIEVE_DENSE_WEIGHT 0.7f
#define RETRIEVE_RERANK_WEIGHT 0.4f
#define RETRIEVE_K_MAX 1000u
#define QUERY_BYTES_MAX 16384u
struct retrieve_request {
    const char *collection;
    struct cairn_str query;
    struct store_caller caller;
    size_t k;            /* 0: 10 */
    unsigned legs;       /* 0: both, as far as the collection has them */
    int fusion;          /* enum fusion_kind, -1: the collection's */
    float dense_weight;  /* RETRIEVE_DEFAULT: the collection's */
    float rerank_weight; /* RETRIEVE_DEFAULT: the collection's, half of it where the query asks nothing; 0 =
                            off */
    float mmr_lambda;    /* RETRIEVE_DEFAULT: config; 1 = no diversity */
    size_t per_document_max; /* 0: config */
    struct vector_how how;   /* of the dense leg */
    bool with_vectors;       /* copy passage vectors into hits (checker, MMR by caller) */
    bool with_dense;         /* copy what the dense leg found, for measuring its recall */
};
struct retrieved {
    uint64_t passage_id;
    char *document_id, *title, *path, *text; /* path: "file > headings" */
    uint32_t start, end, ordinal;
    struct cairn_hash hash;
    float score;                         /* final, larger is better */
    float lexical, dense, fused, rerank; /* raw sub-scores; NaN = that stage did not see it */
    float *vector;                       /* [dim] or NULL */
};
struct retrieval {
    uint64_t generation;
    uint32_t dim;
    struct retrieved *hits; /* best first: scores fall along the list unless mmr_lambda < 1 */
    size_t n_hits;
    uint64_t n_allowed;      /* passages the caller may see in this collection */
    float rerank_weight;     /* of this query; 0: not reranked */
    float *query_vector;     /* [dim] or NULL */
    struct vector_plan plan; /* of the dense leg; path NULL: it did not run */
    struct store_hit
        *dense; /* [n_dense] of the dense_k it was asked for, best first; NULL unless with_dense */
    size_t n_dense, dense_k;
    int64_t embed_us, lexical_us, dense_us, fuse_us, rerank_us, copy_us;
};
CAIRN_MUST_USE enum cairn_err retrieve(struct retriever *r, const struct retrieve_request *q,
                                       struct retrieval *out, const struct cairn_stop *stop,
                                       struct cairn_why *why);
void retrieval_release(struct retrieval *x);
/* Vectors of passages to be stored: title and heading path may be prepended by policy here, and nowhere else.
 * out [n, dim]. */
CAIRN_MUST_USE enum cairn_err retriever_embed_passages(struct retriever *r, const struct cairn_str *titles,
                                                       const struct cairn_str *texts, size_t n, float *out,
                                                       const struct cairn_stop *stop, struct cairn_why *why);

#endif
