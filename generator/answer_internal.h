/* answer_internal.h - parts of an answer that answer.c joins; for tests. */
#ifndef CAIRN_GENERATOR_ANSWER_INTERNAL_H
#define CAIRN_GENERATOR_ANSWER_INTERNAL_H

#include "grounding_internal.h"

/* Chance that the sources speak of the question: a logistic over what is known (rerank NaN: unknown; f from
 * grounding_align of the question). */
float relevance_chance(float rerank, const float f[GF_N]);

/* What a question asks for, by its question words. */
enum asked {
    ASKED_ANY,
    ASKED_NUMBER,
    ASKED_MONEY,
    ASKED_PERCENT,
    ASKED_DATE,
    ASKED_DURATION,
    ASKED_PERSON,
    ASKED_VALUE, /* any number, date or time: never asked, only looked for */
};
enum asked question_asks(struct cairn_str question);
/* Does the text have a value of this kind that the question does not already have? True for ASKED_ANY. */
bool answer_has(enum asked kind, struct cairn_str text, struct cairn_str question);

#define EXTRACT_CANDIDATES_MAX 24u
/* A source sentence that may be (part of) an answer. */
struct extract_pick {
    uint32_t source;
    size_t start, end;
    float score; /* 0..1 with a model */
    float cover; /* share of the question's words */
    float logit; /* the pair model's, NaN without one */
    bool typed;  /* has what the question asks for */
    bool row;    /* of a table */
};
struct extract_list {
    enum asked asks;
    struct extract_pick c[EXTRACT_CANDIDATES_MAX]; /* best first */
    size_t n;
};
/* Candidates of g's sources for the question; g was aligned with it. reranker and embedder may be NULL. */
CAIRN_MUST_USE enum cairn_err extract_score(struct grounding *g, const struct answer_request *q,
                                            struct encoder *reranker, struct encoder *embedder,
                                            struct extract_list *l, const struct cairn_stop *stop,
                                            struct cairn_why *why);
/* The best one, and up to max - 1 more whose score is a share of its score; no sentence twice. */
size_t extract_choose(const struct extract_list *l, const struct answer_request *q, size_t max,
                      float share_min, struct extract_pick *out);

/* A carried sentence with a number that none of its cited passages has is not vouched for, whatever else
 * carries it. */
void withhold_numbers(struct ground_sentence *s, struct cairn_str text, const struct cairn_str *passages,
                      size_t n_passages, float support_min);
/* Leaves out the sentences that drop names and, with marks, every citation mark of the others whose source
 * does not carry its sentence; drop then names the sentences that were nothing else, too. Every offset moves
 * with the text. */
CAIRN_MUST_USE enum cairn_err withhold(struct answer *a, bool *drop, bool marks, bool *changed,
                                       struct cairn_why *why);

CAIRN_MUST_USE enum cairn_err evidence_of(const struct answer_request *q, size_t n_sources,
                                          const struct extract_list *l, struct answer_evidence *out,
                                          struct cairn_why *why);
/* Chance that the sources hold the answer; needs a pair model's logits. Same scale as relevance_chance. */
float evidence_chance(const struct answer_evidence *e);

#endif
