/* eval/forest_fit.h - gradient-boosted trees in whole numbers, for `cairn train grounding`. */
#ifndef CAIRN_EVAL_FOREST_FIT_H
#define CAIRN_EVAL_FOREST_FIT_H

#include "../generator/combiner.h"

struct fit_rows {
    const uint8_t *x; /* [n] rows of `width` bytes */
    size_t n, width;
    const uint8_t *positive; /* [n] */
    const int32_t *weight;   /* [n], 0: left out; at most 2^15 */
    const int32_t *offset;   /* [n] what the forest adds to, or NULL */
};
struct fit_opts {
    uint32_t depth, rounds, rate; /* rate: a step is rate/64 of Newton's */
    uint32_t sample;              /* of 16 rows, how many each tree sees */
    uint64_t seed;
    const int8_t *meaning; /* [width] +1 more of it is more unsupported, -1 less, 0 either, 2 not used */
    uint32_t lambda, side; /* 1/4096 of the whole weight: added to a leaf, least on a side */
};
/* The same rows give the same forest on any machine and thread. *out placed. */
CAIRN_MUST_USE enum cairn_err forest_fit(struct forest *out, const struct fit_rows *r,
                                         const struct fit_opts *o, struct cairn_why *why);

#endif
