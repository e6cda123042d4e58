/* eval/retrieval_set.h - a judged set for retrieval in memory: BEIR's layout, SQuAD's, COVID-QA's and
 * MTRAG's. */
#ifndef CAIRN_EVAL_RETRIEVAL_SET_H
#define CAIRN_EVAL_RETRIEVAL_SET_H

#include "run.h"

struct set_document {
    char *id, *text;
    size_t len;
    size_t from, to; /* of a passage cut from a document: code points of that document; else 0 */
};
struct set_query {
    char *id, *text;
};
struct retrieval_set {
    char *name;
    struct set_document *docs;
    size_t n_docs, cap_docs, n_cut;
    struct set_query *queries; /* in the file's order */
    size_t n_queries, cap_queries;
    struct eval_qrels qrels;
    bool qrels_inside; /* the judgements stand in the questions */
    char sum[65];
};

/* o: set, qrels. */
CAIRN_MUST_USE enum cairn_err retrieval_set_read(struct retrieval_set *s, const struct options *o,
                                                 struct cairn_why *why);
/* Keeps the judged queries; of those one half (1 or 2, by the hash of their ids; 0: both), then a sample of n
 * (0: all). Judgements of others go, but for n 0 and half 0. */
CAIRN_MUST_USE enum cairn_err retrieval_set_sample(struct retrieval_set *s, uint64_t half, uint64_t n,
                                                   uint64_t seed, struct cairn_why *why);
void retrieval_set_release(struct retrieval_set *s);
/* The set's store, built where it is not whole (retrieval.c). b to close, *dir OWNED, both also after a
 * failure. */
CAIRN_MUST_USE enum cairn_err retrieval_store_open(struct bench_service *b, struct retriever **r,
                                                   const struct retrieval_set *s, const struct options *o,
                                                   char *names[3], char *sums[3], char **dir,
                                                   struct cairn_why *why);

#endif
