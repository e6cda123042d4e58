/* Intervals and paired comparisons: coverage on drawn data, exact small cases, records written and read. */
#include "check.h"
#include "stats.h"

#include <math.h>

static uint64_t draw(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 0x2545F4914F6CDD1DULL;
}
static double unit(uint64_t *s) { return (double)(draw(s) >> 11) / 9007199254740992.0; }

static void intervals_hold_the_truth_as_often_as_they_say(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { SETS = 2000, N = 100 };
    uint64_t s = 42;
    size_t held = 0;
    for (size_t k = 0; k < SETS; k++) {
        double v[N];
        struct stats_interval x;
        for (size_t i = 0; i < N; i++) { /* as nDCG is: many ones, some in between, some zeros; mean 0.6 */
            double u = unit(&s);
            v[i] = u < 0.4 ? 1 : u < 0.8 ? unit(&s) : 0;
        }
        CHECK_OK(stats_bootstrap(v, N, 400, k, &x, &why));
        held += x.low <= 0.6 && 0.6 <= x.high;
    }
    CHECK_GE(held, 0.93 * SETS);
    CHECK_LE(held, 0.97 * SETS);
}

static void the_same_seed_gives_the_same_interval(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const double v[5] = {0, 0.25, 0.5, 1, 1};
    struct stats_interval a, b;
    CHECK_OK(stats_bootstrap(v, 5, 1000, 7, &a, &why));
    CHECK_OK(stats_bootstrap(v, 5, 1000, 7, &b, &why));
    CHECK(a.low == b.low && a.high == b.high);
    CHECK_NEAR(a.mean, 0.55, 1e-12);
    CHECK(a.low < a.mean && a.mean < a.high);
    CHECK_OK(
        stats_bootstrap(v, 5, 1000, 0x8a47cee458e02d49u, &a, &why)); /* of a state that would never move */
    CHECK(a.low < a.mean && a.mean < a.high);
    CHECK_OK(stats_bootstrap(v, 0, 1000, 7, &a, &why));
    CHECK(isnan(a.mean) && isnan(a.low));
    CHECK_ERR(stats_bootstrap(v, 5, STATS_DRAWS_MAX + 1, 7, &a, &why), CAIRN_EINVAL);
}

/* With n units there are 2^n ways to turn the signs; for five differences that are all 1, two of 32 are as
 * far from 0. */
static void randomisation_counts_signs(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const double before[5] = {0, 1, 2, 3, 4}, now[5] = {1, 2, 3, 4, 5};
    struct stats_pair p;
    CHECK_OK(stats_paired(before, now, 5, 50000, 1, &p, &why));
    CHECK_NEAR(p.mean, 1, 1e-12);
    CHECK_NEAR(p.before, 2, 1e-12);
    CHECK_NEAR(p.now, 3, 1e-12);
    CHECK_NEAR(p.low, 1, 1e-12);
    CHECK_NEAR(p.p, 2.0 / 32, 0.006);
    CHECK_OK(stats_paired(before, before, 5, 1000, 1, &p, &why));
    CHECK_NEAR(p.p, 1, 1e-12);
}

static void a_difference_without_effect_is_seldom_found(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { SETS = 1000, N = 40 };
    uint64_t s = 3;
    size_t found = 0, outside = 0;
    for (size_t k = 0; k < SETS; k++) {
        double a[N], b[N];
        struct stats_pair p;
        for (size_t i = 0; i < N; i++) {
            a[i] = unit(&s);
            b[i] = unit(&s);
        }
        CHECK_OK(stats_paired(a, b, N, 400, k, &p, &why));
        found += p.p < 0.05;
        outside += p.low > 0 || p.high < 0;
    }
    CHECK_GE(found, 0.03 * SETS);
    CHECK_LE(found, 0.07 * SETS);
    CHECK_LE(outside, 0.09 * SETS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(intervals_hold_the_truth_as_often_as_they_say),
        TEST(the_same_seed_gives_the_same_interval),
        TEST(randomisation_counts_signs),
        TEST(a_difference_without_effect_is_seldom_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
