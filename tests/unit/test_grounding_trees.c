/* The trained combiner's file: what is written is read back; what is cut or out of range is refused. */
#include "check.h"

#include "trees.h"

#include <math.h>
#include <string.h>

static void the_logistic_is_right_to_a_65536th(void **state)
{
    UNUSED_STATE(state);
    for (int32_t m = -8 * 65536; m <= 8 * 65536; m += 997)
        CHECK_NEAR(trees_logistic(m) / 65536.0, 1 / (1 + exp(-m / 65536.0)), 2.0 / 65536);
    CHECK_I64_EQ(trees_logistic(0), 32768);
}

static void a_file_reads_back_and_a_damaged_one_is_refused(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct ground_trees t = {.n = 2, .base = -3}, *back;
    strncpy(t.card, "licence: none\ntwo lines\n", sizeof t.card - 1);
    for (size_t i = 0; i < TREE_SPLITS; i++)
        t.trees[1].feature[i] = (uint8_t)(i % GF_N), t.trees[1].bin[i] = (uint8_t)(30 * i);
    for (size_t i = 0; i < TREE_LEAVES; i++)
        t.trees[1].leaf[i] = (int32_t)i * -1000;
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    CHECK_OK(trees_write(&t, &b, &why));
    CHECK_OK(trees_parse(&back, (const char *)b.bytes, b.len, &why));
    CHECK(memcmp(back, &t, sizeof t) == 0);
    ground_trees_close(back);
    for (size_t n = 0; n + 6 < b.len; n++) /* the last leaf may lose digits and stay a number */
        CHECK_ERR(trees_parse(&back, (const char *)b.bytes, n, &why), CAIRN_ECORRUPT);
    static const char wrong[] = "cairn-grounding-trees 1\nfeatures 999 trees 0 depth 3 base 0\n";
    CHECK_ERR(trees_parse(&back, wrong, sizeof wrong - 1, &why), CAIRN_ECORRUPT);
    cairn_buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_logistic_is_right_to_a_65536th),
        TEST(a_file_reads_back_and_a_damaged_one_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
