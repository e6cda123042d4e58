/* eval/stats.h - what may be said of a mean and of two means over the same units (queries, questions):
 * stats.c has the definitions. No file, no clock. Threads: any. The same seed gives the same draws on every
 * machine. */
#ifndef CAIRN_EVAL_STATS_H
#define CAIRN_EVAL_STATS_H

#include <cairn/base.h>

#define STATS_DRAWS_MAX 100000u

/* xorshift64*, the same draws on every machine; the state is never 0: lab_seed makes one of any seed. */
uint64_t lab_rand(uint64_t *state);
uint64_t lab_seed(uint64_t seed);

struct stats_interval {
    double mean, low, high;
};
struct stats_pair {
    size_t n;
    double before, now;     /* means */
    double mean, low, high; /* of now - before */
    double p;               /* two-sided: chance of a difference at least as large if the two were alike */
};
/* n 0: all NaN. draws 0: low and high are the mean. */
CAIRN_MUST_USE enum cairn_err stats_bootstrap(const double *v, size_t n, size_t draws, uint64_t seed,
                                              struct stats_interval *out, struct cairn_why *why);
/* before[i] and now[i] are of one unit. */
CAIRN_MUST_USE enum cairn_err stats_paired(const double *before, const double *now, size_t n, size_t draws,
                                           uint64_t seed, struct stats_pair *out, struct cairn_why *why);

#endif
