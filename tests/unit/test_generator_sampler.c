#include "check.h"

#include <math.h>

#include <cairn/generator.h>

#define N 64
static float scratch[N];

static void greedy_takes_the_largest_and_the_lower_id_of_a_tie(void **state)
{
    UNUSED_STATE(state);
    struct sampler s = {.temperature = 0};
    float l[6] = {0, 3, 1, 3, -2, 9};
    CHECK_I64_EQ(sampler_next(&s, l, 6, 6, scratch), 5);
    CHECK_I64_EQ(sampler_next(&s, l, 6, 5, scratch), 1); /* id 5 is padding */
    l[1] = NAN;
    CHECK_I64_EQ(sampler_next(&s, l, 6, 5, scratch), 3);
    CHECK_I64_EQ(sampler_next(&s, l, 0, 0, scratch), -1);
}

/* Draws and counts; logits are logs of p. */
static void draw(struct sampler *s, const float *p, size_t n, size_t n_valid, size_t *count, size_t draws)
{
    float l[N];
    for (size_t i = 0; i < n; i++)
        l[i] = logf(p[i]);
    memset(count, 0, n * sizeof *count);
    for (size_t i = 0; i < draws; i++) {
        int32_t id = sampler_next(s, l, n, n_valid, scratch);
        CHECK(id >= 0 && (size_t)id < n_valid);
        count[id]++;
    }
}

static void temperature_one_draws_in_proportion(void **state)
{
    UNUSED_STATE(state);
    struct sampler s = {.temperature = 1, .state = 42};
    const float p[4] = {0.5f, 0.25f, 0.15f, 0.1f};
    size_t count[4];
    draw(&s, p, 4, 4, count, 20000);
    for (size_t i = 0; i < 4; i++)
        CHECK_NEAR((double)count[i] / 20000, p[i], 0.02);
    s.temperature = 0.5f; /* squares the odds */
    draw(&s, p, 4, 4, count, 20000);
    CHECK_NEAR((double)count[0] / 20000, 0.25 / (0.25 + 0.0625 + 0.0225 + 0.01), 0.02);
}

static void top_p_keeps_the_smallest_set_that_holds_the_mass(void **state)
{
    UNUSED_STATE(state);
    const float p[5] = {0.1f, 0.4f, 0.05f, 0.3f, 0.15f};
    size_t count[5];
    struct sampler s = {.temperature = 1, .top_p = 0.69f, .state = 1};
    draw(&s, p, 5, 5, count, 5000);
    CHECK(count[1] && count[3] && !count[0] && !count[2] && !count[4]); /* 0.4 + 0.3 */
    CHECK_NEAR((double)count[1] / 5000, 4.0 / 7, 0.03);
    s.top_p = 0.71f;
    draw(&s, p, 5, 5, count, 5000);
    CHECK(count[4] && !count[0] && !count[2]);
    s.top_p = 0.01f;
    draw(&s, p, 5, 5, count, 200);
    CHECK_U64_EQ(count[1], 200);
}

static void min_p_is_a_share_of_the_best(void **state)
{
    UNUSED_STATE(state);
    const float p[4] = {0.5f, 0.26f, 0.14f, 0.1f};
    size_t count[4];
    struct sampler s = {.temperature = 1, .min_p = 0.25f, .state = 3};
    draw(&s, p, 4, 4, count, 5000);
    CHECK(count[0] && count[1] && count[2] && !count[3]);
    s.min_p = 0.6f;
    draw(&s, p, 4, 4, count, 500);
    CHECK_U64_EQ(count[0], 500);
}

static void the_same_seed_draws_the_same(void **state)
{
    UNUSED_STATE(state);
    float l[N];
    for (int i = 0; i < N; i++)
        l[i] = sinf((float)i);
    struct sampler a = {.temperature = 0.8f, .top_p = 0.9f, .state = 7}, b = a, c = a;
    c.state = 8;
    size_t differ = 0;
    for (int i = 0; i < 500; i++) {
        int32_t x = sampler_next(&a, l, N, N, scratch);
        CHECK_I64_EQ(x, sampler_next(&b, l, N, N, scratch));
        differ += x != sampler_next(&c, l, N, N, scratch);
    }
    CHECK_GE(differ, 100);
}

static void padding_is_never_drawn(void **state)
{
    UNUSED_STATE(state);
    float p[N];
    size_t count[N];
    for (int i = 0; i < N; i++)
        p[i] = i >= 60 ? 1.0f : 0.001f;
    struct sampler s = {.temperature = 2, .state = 5};
    draw(&s, p, N, 60, count, 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(greedy_takes_the_largest_and_the_lower_id_of_a_tie),
        TEST(temperature_one_draws_in_proportion),
        TEST(top_p_keeps_the_smallest_set_that_holds_the_mass),
        TEST(min_p_is_a_share_of_the_best),
        TEST(the_same_seed_draws_the_same),
        TEST(padding_is_never_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
