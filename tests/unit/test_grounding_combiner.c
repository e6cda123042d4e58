/* The trained combiner's file: what is written is read back; what is cut or out of range is refused; one that
 * came with the program is sound. */
#include "check.h"

#include "combiner.h"

#include <math.h>
#include <string.h>

static void the_logistic_is_right_to_a_65536th(void **state)
{
    UNUSED_STATE(state);
    for (int32_t m = -8 * 65536; m <= 8 * 65536; m += 997)
        CHECK_NEAR(logistic_16(m) / 65536.0, 1 / (1 + exp(-m / 65536.0)), 2.0 / 65536);
    CHECK_I64_EQ(logistic_16(0), 32768);
}

static struct ground_combiner *drawn(void)
{
    struct ground_combiner *c = cairn_calloc(1, sizeof *c);
    static const uint32_t width[N_FORESTS] = {TF_N, CF_N, AF_N};
    uint64_t state = 7;
    CHECK(c != NULL);
    strncpy(c->card, "licence: none\ntwo lines\n", sizeof c->card - 1);
    c->n_words = 5;
    for (uint32_t i = 0; i < 5; i++) {
        c->word[i] = 1000 * i + 7;
        c->level[i] = 4 - i;
    }
    for (size_t k = 0; k < N_FORESTS; k++) {
        struct forest *f = &c->forest[k];
        f->depth = 2 + (uint32_t)k % 3;
        f->n = 3;
        f->base = -3;
        for (size_t t = 0; t < f->n; t++) {
            for (size_t i = 0; i < (1u << f->depth) - 1; i++) {
                state = state * 6364136223846793005ULL + 1442695040888963407ULL;
                f->trees[t].feature[i] = (uint8_t)((state >> 33) % width[k]);
                f->trees[t].bin[i] = (uint8_t)(state >> 50);
            }
            for (size_t i = 0; i < 1u << f->depth; i++)
                f->trees[t].leaf[i] = (int32_t)(i * 1000) - 4000;
        }
    }
    c->calibration[FOREST_TEXTS] = (struct calibration){
        2, {-65536, 65536},
         {1000,   60000}
    };
    return c;
}

static void a_file_reads_back_and_a_damaged_one_is_refused(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct ground_combiner *c = drawn(), *back = cairn_calloc(1, sizeof *back);
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    CHECK_OK(combiner_write(c, &b, &why));
    CHECK_OK(combiner_parse(back, (const char *)b.bytes, b.len, &why));
    CHECK(memcmp(back, c, sizeof *c) == 0);
    for (size_t n = 0; n + 6 < b.len; n++) { /* the last number may lose digits and stay one */
        memset(back, 0, sizeof *back);
        CHECK_ERR(combiner_parse(back, (const char *)b.bytes, n, &why), CAIRN_ECORRUPT);
    }
    static const char wrong[] =
        "cairn-grounding 3\nspans 0 words 0\ntokens features 999 trees 0 depth 3 base 0\n";
    CHECK_ERR(combiner_parse(back, wrong, sizeof wrong - 1, &why), CAIRN_ECORRUPT);
    cairn_buf_release(&b);
    cairn_free(back);
    cairn_free(c);
}

static void rows_together_and_one_by_one_give_the_same(void **state)
{
    UNUSED_STATE(state);
    struct ground_combiner *c = drawn();
    uint8_t x[21][TF_N];
    int32_t out[21];
    for (size_t i = 0; i < sizeof x; i++)
        x[i / TF_N][i % TF_N] = (uint8_t)(i * 37 + i / 11);
    for (size_t n = 0; n <= 21; n++) {
        forest_margins(&c->forest[FOREST_TOKENS], x[0], TF_N, n, out);
        for (size_t i = 0; i < n; i++)
            CHECK_I64_EQ(out[i], forest_margin(&c->forest[FOREST_TOKENS], x[i]));
    }
    cairn_free(c);
}

static void a_calibration_rises_and_keeps_to_its_ends(void **state)
{
    UNUSED_STATE(state);
    struct calibration c = {
        3, {-100, 0,  100  },
         {10,   20, 60000}
    };
    CHECK_I64_EQ(calibrated_16(&c, -5000), 10);
    CHECK_I64_EQ(calibrated_16(&c, 0), 20);
    CHECK_I64_EQ(calibrated_16(&c, 50), 30010);
    CHECK_I64_EQ(calibrated_16(&c, 5000), 60000);
    c.n = 0;
    CHECK_I64_EQ(calibrated_16(&c, 0), 32768);
}

static void the_shipped_one_is_sound_and_says_what_it_is_made_of(void **state)
{
    UNUSED_STATE(state);
    const struct ground_combiner *c = combiner_shipped();
    for (size_t k = 0; k < N_FORESTS; k++)
        CHECK(c->forest[k].n > 0);
    for (size_t k = FOREST_CLAIMS; k < N_FORESTS; k++)
        for (uint32_t i = 1; i < c->calibration[k].n; i++)
            CHECK(c->calibration[k].p[i] >= c->calibration[k].p[i - 1]);
    CHECK(strstr(c->card, "licence of the data: ") && !strstr(c->card, "not stated"));
    CHECK(!strstr(c->card, "ragtruth")); /* MS MARCO's terms: not for a shipped model */
    for (uint32_t i = 1; i < c->n_words; i++)
        CHECK(c->word[i] >= c->word[i - 1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_logistic_is_right_to_a_65536th),
        TEST(a_file_reads_back_and_a_damaged_one_is_refused),
        TEST(rows_together_and_one_by_one_give_the_same),
        TEST(a_calibration_rises_and_keeps_to_its_ends),
        TEST(the_shipped_one_is_sound_and_says_what_it_is_made_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
