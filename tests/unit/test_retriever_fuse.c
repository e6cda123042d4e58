/* test_retriever_fuse.c - fusion, rerank and selection, by cases worked out by hand. */
#include "check.h"

#include "../../retriever/retriever_private.h"

#include <math.h>

#define N 8u

static void order_is(const struct candidate *c, size_t n, const char *want)
{
    char got[64] = "";
    for (size_t i = 0; i < n; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i ? " " : "", (int)c[i].passage_id);
    CHECK_STR_EQ(got, want);
}

static void minmax_fuses_by_weight(void **state)
{
    UNUSED_STATE(state);
    const struct store_hit lexical[] =
        {
            {1, 10},
            {2, 6 },
            {3, 2 }
    },
                           dense[] = {{2, 0.9f}, {4, 0.8f}, {1, 0.5f}};
    struct candidate c[N];
    struct fusion f = {FUSION_MINMAX, 0.6f, 60};
    /* 1: .4*1 + .6*0 = .4; 2: .4*.5 + .6*1 = .8; 3: 0; 4: .6*.75 = .45 */
    size_t n = fuse(&f, lexical, 3, dense, 3, c);
    CHECK_U64_EQ(n, 4);
    order_is(c, n, "2 4 1 3");
    CHECK_NEAR(c[0].fused, 0.8, 1e-6);
    CHECK_NEAR(c[1].fused, 0.45, 1e-6);
    CHECK_NEAR(c[2].fused, 0.4, 1e-6);
    CHECK_NEAR(c[3].fused, 0, 1e-6);
    CHECK_NEAR(c[0].lexical, 6, 0);
    CHECK_NEAR(c[0].dense, 0.9, 1e-6);
    CHECK(isnan(c[1].lexical) && isnan(c[3].dense) && isnan(c[0].rerank));
    CHECK(c[0].score == c[0].fused);
}

static void zscores_fuse_by_how_far_a_score_stands_out(void **state)
{
    UNUSED_STATE(state);
    /* lexical: mean 6, deviation sqrt(32/3) = 3.266: from the lowest 2.449, 1.225, 0;
     * dense: mean 0.7333, deviation 0.16997: from the lowest 2.353, 1.765, 0 */
    const struct store_hit lexical[] =
        {
            {1, 10},
            {2, 6 },
            {3, 2 }
    },
                           dense[] = {{2, 0.9f}, {4, 0.8f}, {1, 0.5f}}, flat[] = {{5, 1}, {6, 1}};
    struct candidate c[N];
    struct fusion f = {FUSION_ZSCORE, 0.6f, 60};
    size_t n = fuse(&f, lexical, 3, dense, 3, c);
    CHECK_U64_EQ(n, 4);
    order_is(c, n, "2 4 1 3"); /* 1.902, 1.059, 0.980, 0 */
    CHECK_NEAR(c[0].fused, 1, 1e-6);
    CHECK_NEAR(c[1].fused, 0.6 * 1.76505 / (0.4 * 1.22474 + 0.6 * 2.35339), 1e-4);
    CHECK_NEAR(c[2].fused, 0.4 * 2.44949 / (0.4 * 1.22474 + 0.6 * 2.35339), 1e-4);
    CHECK_NEAR(c[3].fused, 0, 1e-6);
    /* a leg whose scores are all alike says nothing, and takes nothing from the other */
    n = fuse(&f, lexical, 3, flat, 2, c);
    order_is(c, n, "1 2 3 5 6");
    n = fuse(&f, NULL, 0, flat, 2, c);
    order_is(c, n, "5 6");
    CHECK_NEAR(c[0].fused, 1, 0);
    n = fuse(&f, lexical, 3, NULL, 0, c);
    order_is(c, n, "1 2 3");
    CHECK_U64_EQ(fuse(&f, lexical, 0, dense, 0, c), 0);
}

static void a_question_is_told_from_a_claim(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *query;
        bool asks;
    } rows[] = {
        {"who was the first",                                     true },
        {"Is it safe to drink",                                   true },
        {"In which year did it open",                             true },
        {"What's new",                                            true },
        {"parental leave? ",                                      true },
        {"Wie lange dauert der Urlaub?\"",                        true },
        {"\xE4\xBB\x80\xE4\xB9\x88\xEF\xBC\x9F",                  true },
        {"0-dimensional biomaterials show inductive properties.", false},
        {"dielectric constant of liquids",                        false},
        {"island of the whales",                                  false},
        {"whoever",                                               false},
        {"how",                                                   false},
        {"",                                                      false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (asks(cairn_str_of(rows[i].query)) != rows[i].asks)
            fail_msg("\"%s\"", rows[i].query);
}

static void reciprocal_ranks_fuse_by_weight(void **state)
{
    UNUSED_STATE(state);
    const struct store_hit lexical[] =
        {
            {1, 10   },
            {2, 9.99f}
    },
                           dense[] = {{2, 0.9f}, {3, 0.1f}};
    struct candidate c[N];
    struct fusion f = {FUSION_RRF, 0.25f, 60};
    size_t n = fuse(&f, lexical, 2, dense, 2, c);
    order_is(c, n, "2 1 3");
    CHECK_NEAR(c[0].fused, 0.75 / 62 + 0.25 / 61, 1e-7);
    CHECK_NEAR(c[1].fused, 0.75 / 61, 1e-7);
    CHECK_NEAR(c[2].fused, 0.25 / 62, 1e-7);
}

static void one_leg_keeps_its_order_whatever_the_weight(void **state)
{
    UNUSED_STATE(state);
    const struct store_hit hits[] = {
        {7, 3},
        {5, 2},
        {6, 1}
    };
    struct candidate c[N];
    for (int w = 0; w <= 1; w++) {
        struct fusion f = {FUSION_MINMAX, (float)w, 60};
        size_t n = fuse(&f, hits, 3, NULL, 0, c);
        order_is(c, n, "7 5 6");
        CHECK_NEAR(c[1].fused, 0.5, 1e-6);
        n = fuse(&f, NULL, 0, hits, 3, c);
        order_is(c, n, "7 5 6");
        CHECK_NEAR(c[0].dense, 3, 0);
    }
    struct fusion f = {FUSION_MINMAX, 0.5f, 60};
    CHECK_U64_EQ(fuse(&f, hits, 0, NULL, 0, c), 0);
    /* asked, but it found nothing: the other decides */
    order_is(c, fuse(&f, hits, 3, hits, 0, c), "7 5 6");
}

static void equal_scores_and_ties_go_by_passage_id(void **state)
{
    UNUSED_STATE(state);
    const struct store_hit same[] =
        {
            {9, 2},
            {4, 2},
            {6, 2}
    },
                           one[] = {{5, -3}};
    struct candidate c[N];
    struct fusion f = {FUSION_MINMAX, 0.5f, 60};
    order_is(c, fuse(&f, same, 3, NULL, 0, c), "4 6 9");
    CHECK_NEAR(c[2].fused, 1, 0);
    order_is(c, fuse(&f, same, 3, one, 1, c), "4 5 6 9"); /* a single hit counts fully, negative or not */
    CHECK_NEAR(c[1].fused, 0.5, 0);
}

static void candidates_of(struct candidate *c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        c[i] = (struct candidate){.passage_id = i + 1,
                                  .fused = 1.0f - 0.125f * (float)i,
                                  .rerank = NAN,
                                  .row = i,
                                  .lexical = NAN,
                                  .dense = NAN};
    for (size_t i = 0; i < n; i++)
        c[i].score = c[i].fused;
}

static void the_pair_model_orders_the_top_only(void **state)
{
    UNUSED_STATE(state);
    struct candidate c[N];
    candidates_of(c, 5);
    c[0].rerank = -4;
    c[1].rerank = 0;
    c[2].rerank = 4;
    /* w .5: 1: 0 + .5*1; 2: .5*.5 + .5*.5; 3: .5*1 + 0: all .5, by id */
    rerank_order(c, 5, 3, 0.5f);
    order_is(c, 5, "1 2 3 4 5");
    CHECK_NEAR(c[2].score, 0.5, 1e-6);
    candidates_of(c, 5);
    c[0].rerank = -4;
    c[1].rerank = 0;
    c[2].rerank = 4;
    rerank_order(c, 5, 3, 1);
    order_is(c, 5, "3 2 1 4 5");
    CHECK_NEAR(c[1].score, 0.5, 1e-6);
    for (size_t i = 1; i < 5; i++)
        CHECK(c[i].score < c[i - 1].score);
    CHECK(isnan(c[3].rerank));
    CHECK_NEAR(c[0].fused, 0.75, 1e-6);
    candidates_of(c, 2);
    c[0].rerank = c[1].rerank = 1; /* equal logits say nothing */
    rerank_order(c, 2, 2, 0.9f);
    order_is(c, 2, "1 2");
    rerank_order(c, 0, 0, 0.9f);
}

static struct cairn_str S(const char *s) {
    return cairn_str_of(s);
}

static void
copies_of(struct copy *k, size_t n, const char *const *documents, const char *const *texts,
          const float (*vectors)[2])
{
    for (size_t i = 0; i < n; i++)
        k[i] = (struct copy){.document_id = S(documents ? documents[i] : "d"),
                             .text = S(texts[i]),
                             .hash = cairn_hash_bytes(texts[i], strlen(texts[i])),
                             .vector = vectors ? vectors[i] : NULL};
}

static void a_document_gives_no_more_than_its_cap(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const documents[] = {"a", "a", "b", "a", "b", "c"}, *const texts[] = {"1", "2", "3",
                                                                                             "4", "5", "6"};
    struct candidate c[N];
    struct copy k[N];
    candidates_of(c, 6);
    copies_of(k, 6, documents, texts, NULL);
    struct selection s = {.k = 10, .per_document_max = 1, .mmr_lambda = 1, .near_duplicate = 2};
    size_t n = 6;
    CHECK_OK(select_hits(&s, c, &n, k, &why));
    order_is(c, n, "1 3 6");
    candidates_of(c, 6);
    s.per_document_max = 2;
    s.k = 3;
    n = 6;
    CHECK_OK(select_hits(&s, c, &n, k, &why));
    order_is(c, n, "1 2 3");
    candidates_of(c, 6);
    s.per_document_max = 0;
    s.k = 10;
    n = 6;
    CHECK_OK(select_hits(&s, c, &n, k, &why));
    order_is(c, n, "1 2 3 4 5 6");
    n = 0;
    CHECK_OK(select_hits(&s, c, &n, k, &why));
}

static void a_duplicate_goes_behind_the_rest(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const texts[] = {"Up to EUR 140 a night.", "up to EUR 140, a night",
                                        "Up to EUR 150 a night.", "Something else.",
                                        "Up to EUR 140 per night."};
    static const float vectors[][2] = {
        {1,       0     },
        {1,       0     },
        {0.9999f, 0.001f},
        {0,       1     },
        {0.9999f, 0.001f}
    };
    struct candidate c[N];
    struct copy k[N];
    candidates_of(c, 5);
    copies_of(k, 5, NULL, texts, vectors);
    struct selection s = {.k = 10, .mmr_lambda = 1, .near_duplicate = 0.98f, .dim = 2};
    size_t n = 5;
    CHECK_OK(select_hits(&s, c, &n, k, &why));
    order_is(c, n, "1 3 4 2 5"); /* another price is not a duplicate, another word for "a" is */
    for (size_t i = 1; i < n; i++)
        CHECK(c[i].score <= c[i - 1].score);
    candidates_of(c, 5);
    s.near_duplicate = 1.1f;
    n = 5;
    CHECK_OK(select_hits(&s, c, &n, k, &why));
    order_is(c, n, "1 3 4 5 2"); /* by words only */
    candidates_of(c, 5);
    s.k = 3;
    n = 5;
    CHECK_OK(select_hits(&s, c, &n, k, &why));
    order_is(c, n, "1 3 4");
}

static void words_and_facts_are_compared_as_a_reader_would(void **state)
{
    UNUSED_STATE(state);
    CHECK(same_words(S("A b-c."), S("a  b c")));
    CHECK(!same_words(S("ab c"), S("abc")));
    CHECK(!same_words(S("abc"), S("ab c")));
    CHECK(!same_words(S("a b"), S("a b c")));
    CHECK(!same_words(S("a b c"), S("a b")));
    CHECK(same_words(S(""), S(" . ")));
    CHECK(!same_words(S("\xC3\xA4"), S("\xC3\xB6")));
    CHECK(same_facts(S("from 1.5 to 20"), S("1,5 up to 20 days")));
    CHECK(!same_facts(S("from 1 to 20"), S("from 12 to 0")));
    CHECK(!same_facts(S("1 2"), S("1 2 3")));
    CHECK(!same_facts(S("It is allowed"), S("It is NOT allowed")));
    CHECK(!same_facts(S("You can"), S("You can't")));
    CHECK(same_facts(S("nothing"), S("notable")));
}

static void relevance_gives_way_to_diversity(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const texts[] = {"one", "two", "three", "four"};
    static const float vectors[][2] = {
        {1,     0      },
        {0.95f, 0.3122f},
        {0,     1      },
        {0.6f,  0.8f   }
    };
    struct candidate c[N];
    struct copy k[N];
    candidates_of(c, 4);
    copies_of(k, 4, NULL, texts, vectors);
    struct selection s = {.k = 4, .mmr_lambda = 0.5f, .near_duplicate = 2, .dim = 2};
    size_t n = 4;
    CHECK_OK(select_hits(&s, c, &n, k, &why));
    /* relevance 1, 2/3, 1/3, 0. After 1: 2: .333-.475; 3: .167-0; 4: 0-.3. After 3: 2: .333-.475 = -.142; 4:
     * 0-.4 */
    order_is(c, n, "1 3 2 4");
    candidates_of(c, 4);
    s.mmr_lambda = 0.9f;
    n = 4;
    CHECK_OK(select_hits(&s, c, &n, k, &why));
    order_is(c, n, "1 2 3 4");
}

static void selection_survives_failed_allocations(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const texts[] = {"one", "two"};
    struct candidate c[N];
    struct copy k[N];
    copies_of(k, 2, NULL, texts, NULL);
    struct selection s = {.k = 2, .mmr_lambda = 1, .near_duplicate = 2};
    for (uint64_t at = 1; at <= 2; at++) {
        size_t n = 2;
        candidates_of(c, 2);
        cairn_alloc_fail_after(at, true);
        CHECK_ERR(select_hits(&s, c, &n, k, &why), CAIRN_ENOMEM);
        cairn_alloc_fail_after(0, true);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(minmax_fuses_by_weight),
        TEST(zscores_fuse_by_how_far_a_score_stands_out),
        TEST(a_question_is_told_from_a_claim),
        TEST(reciprocal_ranks_fuse_by_weight),
        TEST(one_leg_keeps_its_order_whatever_the_weight),
        TEST(equal_scores_and_ties_go_by_passage_id),
        TEST(the_pair_model_orders_the_top_only),
        TEST(a_document_gives_no_more_than_its_cap),
        TEST(a_duplicate_goes_behind_the_rest),
        TEST(words_and_facts_are_compared_as_a_reader_would),
        TEST(relevance_gives_way_to_diversity),
        TEST(selection_survives_failed_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
