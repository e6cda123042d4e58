/* answer_internal.h - parts of an answer that answer.c joins; for tests. */
#ifndef CAIRN_GENERATOR_ANSWER_INTERNAL_H
#define CAIRN_GENERATOR_ANSWER_INTERNAL_H

#include "grounding_internal.h"

/* Chance that the sources speak of the question: a logistic over what is known (rerank NaN: unknown; f from
 * grounding_align of the question). */
float relevance_chance(float rerank, const float f[GF_N]);

/* A source sentence chosen as (part of) an answer. */
struct extract_pick {
    uint32_t source;
    size_t start, end;
    float score;
};
/* The best sentences of g's sources for the question, best first; g was aligned with the question. reranker
 * and embedder may be NULL. */
CAIRN_MUST_USE enum cairn_err extract_pick_sentences(struct grounding *g, const struct answer_request *q,
                                                     struct encoder *reranker, struct encoder *embedder,
                                                     size_t max, float share_min, struct extract_pick *out,
                                                     size_t *n, const struct cairn_stop *stop,
                                                     struct cairn_why *why);

#endif
