/* postings.h - words of a collection and where they stand: BM25 with block-max skipping. Threads: as the
 * transaction. */
#ifndef CAIRN_INDEX_POSTINGS_H
#define CAIRN_INDEX_POSTINGS_H

#include "idset.h"
#include "kv.h"

#include <cairn/index.h>

#define POSTINGS_BLOCK_MAX 128u
#define FRONT_MAX 8u

struct posting {
    uint32_t id, tf, len; /* passage, frequency of the word, words of the passage */
};
/* Pairs (tf, len) such that every posting under it has tf <= and len >= one of them: BM25 grows with tf and
 * falls with len, so the best pair under today's k1, b and average length bounds every score, whatever these
 * become. */
struct front {
    uint32_t n;
    struct {
        uint32_t tf, len;
    } at[FRONT_MAX];
};
void front_add(struct front *f, uint32_t tf, uint32_t len);
bool front_covers(const struct front *f, uint32_t tf, uint32_t len);

struct term_head {
    uint32_t df;
    struct front front;
    struct cairn_str word; /* BORROWED */
};
CAIRN_MUST_USE enum cairn_err term_parse(struct cairn_str key, struct cairn_str payload, struct term_head *h,
                                         struct cairn_why *why);
struct block {
    uint32_t n;
    struct front front;
    struct posting at[POSTINGS_BLOCK_MAX];
};
CAIRN_MUST_USE enum cairn_err block_parse(struct cairn_str key, struct cairn_str payload, struct block *b,
                                          struct cairn_why *why);

/* CAIRN_ENOTFOUND without words. */
CAIRN_MUST_USE enum cairn_err term_find(struct kv *kv, uint32_t coll, struct cairn_str word, uint32_t *term,
                                        struct cairn_why *why);
/* Finds or makes; a new term takes *next_term. */
CAIRN_MUST_USE enum cairn_err term_make(struct kv *kv, uint32_t coll, struct cairn_str word,
                                        uint32_t *next_term, uint32_t *term, struct cairn_why *why);
/* ids ascending; each must be there. A term without postings goes away. */
CAIRN_MUST_USE enum cairn_err postings_remove(struct kv *kv, uint32_t coll, uint32_t term,
                                              const uint32_t *ids, size_t n, struct cairn_why *why);
/* Ascending ids above all that the term has. */
CAIRN_MUST_USE enum cairn_err postings_add(struct kv *kv, uint32_t coll, uint32_t term, struct cairn_str word,
                                           const struct posting *add, size_t n, struct cairn_why *why);

struct bm25 {
    double k1, b, avg_len, n_passages;
};
double bm25_idf(const struct bm25 *m, double df);
double bm25_part(const struct bm25 *m, uint32_t tf, uint32_t len); /* without idf */

struct lexical_query {
    const struct cairn_str *words; /* distinct */
    const uint32_t *counts;        /* how often each stands in the query */
    size_t n;
    struct bm25 model;
    const struct idset *filter;
    size_t k;
    bool exhaustive; /* scores every posting: the reference that skipping is tested against */
    const struct cairn_stop *stop;
};
CAIRN_MUST_USE enum cairn_err lexical_search(struct kv *kv, uint32_t coll, const struct lexical_query *q,
                                             struct store_hit *hits, size_t *n_hits, struct cairn_why *why);

#endif
