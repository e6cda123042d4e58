/* Measures of the grounding checker against brute force and cases counted by hand. */
#include "check.h"

#include "ground_metrics.h"

#include <math.h>
#include <string.h>

static void auc_is_the_share_of_pairs_in_order(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct gm_answer a[200];
    uint8_t fold[40];
    uint64_t marked[40] = {0}, s = 7;
    for (size_t i = 0; i < 200; i++) {
        s = s * 6364136223846793005ULL + 1442695040888963407ULL;
        a[i] = (struct gm_answer){
            .score = (double)(s >> 33) / 2147483648.0, .positive = s >> 60 & 1, .source = (uint32_t)(i / 5)};
        a[i].score = floor(a[i].score * 20) / 20; /* many ties */
    }
    struct gm_set set = {.answers = a, .n_answers = 200, .n_sources = 40, .marked = marked};
    struct gm_result r, again;
    CHECK_OK(gm_folds(fold, 40, 1, &why));
    CHECK_OK(gm_decide(&set, fold, &why));
    CHECK_OK(gm_measure(&set, true, 200, 3, &r, &why));
    CHECK_OK(gm_measure(&set, true, 200, 3, &again, &why));
    double wins = 0, pairs = 0;
    for (size_t i = 0; i < 200; i++)
        for (size_t k = 0; k < 200; k++)
            if (a[i].positive && !a[k].positive) {
                pairs++;
                wins += a[i].score > a[k].score ? 1 : a[i].score < a[k].score ? 0 : 0.5;
            }
    CHECK_NEAR(r.value[GM_AUC], wins / pairs, 1e-12);
    CHECK(memcmp(&r, &again, sizeof r) == 0);
    CHECK(r.low[GM_AUC] <= r.value[GM_AUC] && r.value[GM_AUC] <= r.high[GM_AUC]);
    size_t per[GM_FOLDS] = {0};
    for (size_t i = 0; i < 40; i++)
        per[fold[i]]++;
    for (size_t f = 0; f < GM_FOLDS; f++)
        CHECK_U64_EQ(per[f], 8);
}

static void span_f1_counts_code_points_and_what_no_sentence_covers(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct gm_answer a[1] = {
        {.score = 1, .positive = true, .f1_says = true, .bacc_says = true}
    };
    struct gm_span p[2] = {
        {.len = 10, .marked = 6, .says = true},
        {.len = 8,         .marked = 2            }
    };
    uint64_t marked[1] = {10}; /* two of them between the sentences */
    struct gm_set set = {a, p, 1, 2, 1, marked};
    struct gm_result r;
    CHECK_OK(gm_measure(&set, true, 0, 1, &r, &why));
    CHECK_NEAR(r.value[GM_SPAN_F1], 60, 1e-9); /* 2 * 6 / (10 + 10) */
    CHECK_NEAR(r.value[GM_ANSWER_F1], 100, 1e-9);
    CHECK(isnan(r.value[GM_AUC]) && isnan(r.value[GM_BACC])); /* one class only */
}

static void a_probability_that_is_right_has_no_calibration_error(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct gm_answer a[100];
    uint64_t marked[1] = {0};
    for (size_t i = 0; i < 100; i++)
        a[i] = (struct gm_answer){.score = 0.25, .calibrated = 0.75, .positive = i % 4 == 0};
    struct gm_set set = {.answers = a, .n_answers = 100, .n_sources = 1, .marked = marked};
    struct gm_result r;
    CHECK_OK(gm_measure(&set, true, 0, 1, &r, &why));
    CHECK_NEAR(r.value[GM_ECE], 0, 1e-12);
    CHECK_NEAR(r.value[GM_ECE_CALIBRATED], 0.5, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(auc_is_the_share_of_pairs_in_order),
        TEST(span_f1_counts_code_points_and_what_no_sentence_covers),
        TEST(a_probability_that_is_right_has_no_calibration_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
