/* eval/stats.c - bootstrap and randomisation over units.
 *
 * Interval: the percentile bootstrap (Efron 1979): `draws` samples of n units with replacement, the 2.5 and
 * 97.5 percent points of their means (Sakai 2006 for retrieval). Of two runs the differences of a unit are
 * drawn, so both see the same units. p: the signs of the differences are turned at random (Fisher's
 * randomisation test; Smucker, Allan and Carterette 2007 found it the one to use for retrieval); (1 + draws
 * at least as far from 0) / (1 + draws). */
#include "stats.h"

#include <math.h>
#include <stdlib.h>

uint64_t lab_rand(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 0x2545F4914F6CDD1DULL;
}

uint64_t lab_seed(uint64_t seed)
{
    uint64_t s = seed * 0x9E3779B97F4A7C15ULL + 0xD1B54A32D192ED03ULL;
    return s ? s : 1; /* from 0 it would never move */
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double mean_of(const double *v, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += v[i];
    return n ? sum / (double)n : NAN;
}

enum cairn_err stats_bootstrap(const double *v, size_t n, size_t draws, uint64_t seed,
                               struct stats_interval *out, struct cairn_why *why)
{
    double mean = mean_of(v, n);
    *out = (struct stats_interval){mean, mean, mean};
    if (!n || !draws)
        return CAIRN_OK;
    if (draws > STATS_DRAWS_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "%zu draws: at most %u", draws, STATS_DRAWS_MAX);
    double *means = cairn_reallocarray(NULL, draws, sizeof *means);
    if (!means)
        return cairn_fail(why, CAIRN_ENOMEM, "%zu draws", draws);
    uint64_t state = lab_seed(seed);
    for (size_t d = 0; d < draws; d++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += v[lab_rand(&state) % n];
        means[d] = sum / (double)n;
    }
    qsort(means, draws, sizeof *means, by_value);
    out->low = means[(size_t)(0.025 * (double)(draws - 1) + 0.5)];
    out->high = means[(size_t)(0.975 * (double)(draws - 1) + 0.5)];
    cairn_free(means);
    return CAIRN_OK;
}

enum cairn_err stats_paired(const double *before, const double *now, size_t n, size_t draws, uint64_t seed,
                            struct stats_pair *out, struct cairn_why *why)
{
    *out = (struct stats_pair){
        .n = n, .before = mean_of(before, n), .now = mean_of(now, n), .mean = NAN, .p = NAN};
    double *d = cairn_reallocarray(NULL, n ? n : 1, sizeof *d);
    if (!d)
        return cairn_fail(why, CAIRN_ENOMEM, "%zu differences", n);
    for (size_t i = 0; i < n; i++)
        d[i] = now[i] - before[i];
    struct stats_interval x;
    enum cairn_err err = stats_bootstrap(d, n, draws, seed, &x, why);
    if (!err) {
        out->mean = x.mean;
        out->low = x.low;
        out->high = x.high;
    }
    if (!err && n) {
        uint64_t state = lab_seed(seed + 1);
        double least = fabs(x.mean) * (double)n * (1 - 1e-12); /* rounding must not lose equal sums */
        size_t far = 0;
        for (size_t k = 0; k < draws; k++) {
            double sum = 0;
            for (size_t i = 0; i < n; i++)
                sum += lab_rand(&state) >> 63 ? d[i] : -d[i];
            far += fabs(sum) >= least;
        }
        out->p = (1.0 + (double)far) / (1.0 + (double)draws);
    }
    cairn_free(d);
    return err;
}
