/* sampler.c - the next token from logits: greedy, or temperature with min-p and top-p, from a seeded
 * generator of our own so that the same seed gives the same text on every machine. */
#include <cairn/generator.h>

#include <math.h>

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

/* The probability mass at or above p. */
static double mass_from(const float *p, size_t n, float at)
{
    double m = 0;
    for (size_t i = 0; i < n; i++)
        if (p[i] >= at)
            m += (double)p[i];
    return m;
}

int32_t sampler_next(struct sampler *s, const float *logits, size_t n, size_t n_valid, float *scratch)
{
    if (n_valid && n_valid < n)
        n = n_valid;
    if (!n)
        return -1;
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best] || isnan(logits[best]))
            best = i;
    if (!(s->temperature > 0) || isnan(logits[best]) || isinf(logits[best]))
        return (int32_t)best;
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        float e = isnan(logits[i]) ? 0 : expf((logits[i] - logits[best]) / s->temperature);
        if (s->min_p > 0 && e < s->min_p) /* the best has e = 1 */
            e = 0;
        scratch[i] = e;
        total += (double)e;
    }
    if (s->top_p > 0 && s->top_p < 1) {
        /* the smallest probability t such that everything at or above t holds top_p of the mass: found by
         * bisection on the bit pattern (positive floats order as integers), so 150,000 entries need no sort;
         * ties at t stay in together */
        double want = (double)s->top_p * total;
        union {
            float f;
            uint32_t u;
        } lo = {.u = 0}, hi = {.f = 1.0f}, mid;
        while (hi.u - lo.u > 1) {
            mid.u = lo.u + (hi.u - lo.u) / 2;
            if (mass_from(scratch, n, mid.f) >= want)
                lo = mid;
            else
                hi = mid;
        }
        float t = mass_from(scratch, n, hi.f) >= want ? hi.f : lo.f;
        total = 0;
        for (size_t i = 0; i < n; i++) {
            if (scratch[i] < t)
                scratch[i] = 0;
            total += (double)scratch[i];
        }
    }
    double r = (double)(next_random(&s->state) >> 11) * 0x1p-53 * total, sum = 0;
    size_t last = best;
    for (size_t i = 0; i < n; i++) {
        if (scratch[i] <= 0)
            continue;
        sum += (double)scratch[i];
        last = i;
        if (r < sum)
            return (int32_t)i;
    }
    return (int32_t)last;
}
