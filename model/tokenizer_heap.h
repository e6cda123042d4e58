/* tokenizer_heap.h - pairs of neighbouring symbols that may merge, the one to merge next on top. Pairs are
 * never taken out when one side merges otherwise: who pops one looks whether it still stands. */
#ifndef CAIRN_MODEL_TOKENIZER_HEAP_H
#define CAIRN_MODEL_TOKENIZER_HEAP_H

#include "tokenizer.h"

struct pair {
    float order; /* the least goes first, of equals the leftmost; ranks are exact: there are 2^20 of them */
    uint32_t left, right;
    union {
        struct {
            int32_t left_id, right_id, id; /* bpe: what it was made of, and what it makes */
        };
        uint32_t len; /* spm: bytes of both */
    };
};
_Static_assert(TOKENIZER_MERGES_MAX <= 1 << 24, "ranks as floats");
struct pair_heap {
    struct pair *pairs; /* OWNED */
    size_t n, cap;
};

static inline bool pair_before(const struct pair *a, const struct pair *b)
{
    return a->order != b->order ? a->order < b->order : a->left < b->left;
}

static inline bool heap_push(struct pair_heap *h, struct pair p)
{
    if (h->n == h->cap) {
        size_t cap = h->cap ? h->cap * 2 : 256;
        struct pair *pairs = cairn_reallocarray(h->pairs, cap, sizeof *pairs);
        if (!pairs)
            return false;
        h->pairs = pairs;
        h->cap = cap;
    }
    size_t i = h->n++;
    for (; i > 0 && pair_before(&p, &h->pairs[(i - 1) / 2]); i = (i - 1) / 2)
        h->pairs[i] = h->pairs[(i - 1) / 2];
    h->pairs[i] = p;
    return true;
}

static inline struct pair heap_pop(struct pair_heap *h)
{
    struct pair top = h->pairs[0], last = h->pairs[--h->n];
    size_t i = 0;
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= h->n)
            break;
        c += c + 1 < h->n && pair_before(&h->pairs[c + 1], &h->pairs[c]);
        if (!pair_before(&h->pairs[c], &last))
            break;
        h->pairs[i] = h->pairs[c];
        i = c;
    }
    h->pairs[i] = last;
    return top;
}

#endif
