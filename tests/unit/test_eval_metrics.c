/* trec_eval's measures: equal to trec_eval itself on 1,000 random runs with ties (tests/golden/eval), and its
 * rules one by one. */
#include "check.h"

#include <cairn/eval.h>

static const char *const measure_names[] = {"ndcg", "ndcg@5",    "ndcg@10",  "recall@5", "recall@20",
                                            "map",  "map@10",    "mrr",      "mrr@5",    "P@5",
                                            "P@20", "success@1", "success@5"};
#define N_MEASURES (sizeof measure_names / sizeof measure_names[0])

struct rand {
    uint64_t s;
};
static unsigned below(struct rand *r, unsigned n) { return (unsigned)(test_rand(&r->s) % n); }

/* The generator of tests/golden/eval/reference.py. */
static void random_case(uint64_t i, struct eval_qrels *q, struct eval_run *run)
{
    static const char *const forms[] = {"d%u", "D-%u", "%u", "\xC3\xA9%u", "d%u.0", "\xF0\x90\x90\x80%u"};
    TEST_WHY;
    struct rand r = {0x9E3779B97F4A7C15ULL + i};
    for (unsigned n = 1 + below(&r, 4), k = 0; k < n; k++) {
        char name[16], doc[32];
        snprintf(name, sizeof name, "q%u", k);
        bool judged_query = below(&r, 10), run_query = below(&r, 10);
        unsigned n_judged = 0;
        if (run_query)
            CHECK_OK(eval_run_add(run, name, NULL, 0, &why));
        for (unsigned d = 0, nd = below(&r, 60); d < nd; d++) {
            unsigned form = below(&r, 6), digits = d;
            switch (form) { /* formats must be literals */
            case 0:
                snprintf(doc, sizeof doc, "d%u", digits);
                break;
            case 1:
                snprintf(doc, sizeof doc, "D-%u", digits);
                break;
            case 4:
                snprintf(doc, sizeof doc, "d%u.0", digits);
                break;
            default:
                snprintf(doc, sizeof doc, "%.*s%u", (int)(strlen(forms[form]) - 2), forms[form], digits);
            }
            unsigned judged = below(&r, 3), rel = below(&r, 6), found = below(&r, 2), score = below(&r, 8),
                     nudge = below(&r, 4);
            if (judged_query && judged == 0)
                CHECK_OK(eval_qrels_add(q, name, doc, n_judged++ || rel > 0 ? (int)rel - 1 : 0, &why));
            if (run_query && found)
                CHECK_OK(
                    eval_run_add(run, name, doc, score / 4.0 - 1.0 + (nudge == 0 ? 1.0 / 1024 : 0.0), &why));
        }
    }
    CHECK_OK(eval_qrels_finish(q, &why));
    CHECK_OK(eval_run_finish(run, &why));
}

static void measures_equal_trec_eval_on_random_runs_with_ties(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct eval_measure m[N_MEASURES];
    for (size_t j = 0; j < N_MEASURES; j++)
        CHECK_OK(eval_measure_parse(&m[j], measure_names[j], &why));
    char *text;
    size_t len;
    CHECK_OK(cairn_read_file(&text, &len, "tests/golden/eval/metrics.txt", 1 << 24, &why));
    const char *p = text;
    size_t ties = 0, unlike = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        struct eval_qrels q = {0};
        struct eval_run run = {0};
        random_case(i, &q, &run);
        char *end;
        size_t n_all = strtoul(p, &end, 10), n_both = strtoul(end, &end, 10), n = 0;
        double all[N_MEASURES], both[N_MEASURES];
        eval_means(&q, &run, m, N_MEASURES, EVAL_ALL, all, &n, NULL, NULL);
        CHECK_U64_EQ(n, n_all);
        eval_means(&q, &run, m, N_MEASURES, EVAL_BOTH, both, &n, NULL, NULL);
        CHECK_U64_EQ(n, n_both);
        unlike += n_all != n_both;
        for (size_t j = 0; j < N_MEASURES; j++) {
            double sum = strtod(end, &end);
            if (!(all[j] * (double)n_all - sum < 1e-8 && sum - all[j] * (double)n_all < 1e-8))
                print_error("run %d %s\n", (int)i, measure_names[j]);
            CHECK_NEAR(all[j], n_all ? sum / (double)n_all : 0, 1e-9);
            CHECK_NEAR(both[j], n_both ? sum / (double)n_both : 0, 1e-9);
        }
        CHECK(*end == '\n');
        p = end + 1;
        for (size_t k = 0; k < run.n; k++)
            for (size_t d = 1; d < run.queries[k].n; d++)
                ties += run.queries[k].docs[d - 1].score == run.queries[k].docs[d].score;
        eval_qrels_release(&q);
        eval_run_release(&run);
    }
    CHECK_U64_EQ((size_t)(p - text), len);
    CHECK_GE(ties, 5000); /* the cases are what they claim to be */
    CHECK_GE(unlike, 100);
    cairn_free(text);
}

static double one(const char *measure, const struct eval_qrels *q, const struct eval_run *r)
{
    TEST_WHY;
    struct eval_measure m;
    double v;
    CHECK_OK(eval_measure_parse(&m, measure, &why));
    eval_means(q, r, &m, 1, EVAL_ALL, &v, NULL, NULL, NULL);
    return v;
}

static void equal_scores_are_ordered_by_id_descending(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct eval_qrels q = {0};
    struct eval_run r = {0};
    CHECK_OK(eval_qrels_add(&q, "1", "d10", 1, &why));
    CHECK_OK(eval_run_add(&r, "1", "d10", 0.5, &why));
    CHECK_OK(eval_run_add(&r, "1", "d9", 0.5, &why));
    CHECK_OK(eval_qrels_finish(&q, &why));
    CHECK_OK(eval_run_finish(&r, &why));
    CHECK_STR_EQ(r.queries[0].docs[0].doc, "d9"); /* "d9" > "d10" byte by byte */
    CHECK_NEAR(one("mrr", &q, &r), 0.5, 0);
    eval_run_drop_self(&r);
    CHECK_U64_EQ(r.queries[0].n, 2);
    eval_qrels_release(&q);
    eval_run_release(&r);
}

static void recall_is_not_capped_and_precision_divides_by_k(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct eval_qrels q = {0};
    struct eval_run r = {0};
    for (int i = 0; i < 4; i++) {
        char doc[16];
        snprintf(doc, sizeof doc, "d%d", i);
        CHECK_OK(eval_qrels_add(&q, "1", doc, i + 1, &why));
    }
    CHECK_OK(eval_qrels_add(&q, "2", "x", 1, &why)); /* no result: counts 0 */
    CHECK_OK(eval_run_add(&r, "1", "d3", 3, &why));
    CHECK_OK(eval_run_add(&r, "1", "d0", 2, &why));
    CHECK_OK(eval_run_add(&r, "1", "1", 1, &why)); /* its own id */
    CHECK_OK(eval_qrels_finish(&q, &why));
    CHECK_OK(eval_run_finish(&r, &why));
    eval_run_drop_self(&r);
    CHECK_U64_EQ(r.queries[0].n, 2);
    CHECK_NEAR(one("recall@2", &q, &r), 0.25, 1e-15); /* 2 of 4, halved by the missing query */
    CHECK_NEAR(one("P@10", &q, &r), 0.1, 1e-15);
    CHECK_NEAR(one("success@1", &q, &r), 0.5, 1e-15);
    CHECK_NEAR(one("map", &q, &r), 0.25, 1e-15);
    /* gain is linear: (4 + 1/log2 3) / (4 + 3/log2 3 + 2/2 + 1/log2 5) */
    CHECK_NEAR(one("ndcg", &q, &r),
               (4 + 0.63092975357145742) / (4 + 3 * 0.63092975357145742 + 1 + 0.43067655807339306) / 2,
               1e-12);
    eval_qrels_release(&q);
    eval_run_release(&r);
}

static void twice_is_an_error_and_so_is_no_number(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct eval_qrels q = {0};
    struct eval_run r = {0};
    CHECK_OK(eval_qrels_add(&q, "1", "d", 1, &why));
    CHECK_OK(eval_qrels_add(&q, "2", "d", 1, &why));
    CHECK_OK(eval_qrels_add(&q, "1", "d", 0, &why));
    CHECK_ERR(eval_qrels_finish(&q, &why), CAIRN_EINVAL);
    CHECK_OK(eval_run_add(&r, "1", "d", 1, &why));
    CHECK_OK(eval_run_add(&r, "2", "d", 1, &why));
    CHECK_OK(eval_run_add(&r, "1", "d", 2, &why));
    CHECK_ERR(eval_run_add(&r, "1", "e", 0.0 / 0.0, &why), CAIRN_EINVAL);
    CHECK_ERR(eval_run_add(&r, "", "e", 0, &why), CAIRN_EINVAL);
    CHECK_ERR(eval_run_finish(&r, &why), CAIRN_EINVAL);
    eval_qrels_release(&q);
    eval_run_release(&r);
    struct eval_measure m;
    static const char *const bad[] = {"ndcg@0", "ndcg@", "recall", "P",  "map@x",
                                      "map@1x", "MAP",   "",       "@5", "ndcg@-1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_ERR(eval_measure_parse(&m, bad[i], &why), CAIRN_EINVAL);
}

static void files_of_both_layouts_are_read(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir();
    char *path = cairn_path_join(dir, "f");
    static const struct {
        const char *text;
        bool good;
        size_t rows;
    } qrels[] = {
        {"query-id\tcorpus-id\tscore\n1\td1\t2\n1\td2\t0\n", true,  2}, /* BEIR */
        {"1 0 d1 2\n2 0 d1 -1\r\n\n1 0 d2 1",                true,  3}, /* TREC, queries apart */
        {"1 0 d1\n",                                         true,  0}, /* a heading, as far as three columns tell */
        {"1 0 d1 x\n",                                       false, 0},
        {"1 d1\n",                                           false, 0},
        {"1 0 d 1 5\n",                                      false, 0},
        {"1 0 d 99999999999\n",                              false, 0},
        {"",                                                 true,  0},
    };
    for (size_t i = 0; i < sizeof qrels / sizeof qrels[0]; i++) {
        struct eval_qrels q = {0};
        CHECK_OK(cairn_write_file(path, qrels[i].text, strlen(qrels[i].text), &why));
        if (qrels[i].good) {
            CHECK_OK(eval_qrels_read(&q, path, &why));
            CHECK_U64_EQ(q.rows, qrels[i].rows);
        } else {
            CHECK_ERR(eval_qrels_read(&q, path, &why), CAIRN_EINVAL);
        }
        eval_qrels_release(&q);
    }
    static const char *const bad_runs[] = {"1 Q0 d 1 x tag\n", "1 Q0 d 1\n", "1 Q0 d 1 nan tag\n",
                                           "1 Q0 d 1 1 tag\n1 Q0 d 2 2 tag\n"};
    for (size_t i = 0; i < sizeof bad_runs / sizeof bad_runs[0]; i++) {
        struct eval_run r = {0};
        CHECK_OK(cairn_write_file(path, bad_runs[i], strlen(bad_runs[i]), &why));
        CHECK_ERR(eval_run_read(&r, path, &why), CAIRN_EINVAL);
        eval_run_release(&r);
    }
    struct eval_run r = {0};
    static const char good[] = "1 Q0 a 9 0.25 t\n2 Q0 a 1 3 t\n1 Q0 b 7 1e3 t\n";
    CHECK_OK(cairn_write_file(path, good, sizeof good - 1, &why));
    CHECK_OK(eval_run_read(&r, path, &why));
    CHECK_U64_EQ(r.n, 2);
    CHECK_STR_EQ(eval_run_find(&r, "1")->docs[0].doc, "b");
    CHECK(!eval_run_find(&r, "3"));
    eval_run_release(&r);
    cairn_free(path);
    test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(measures_equal_trec_eval_on_random_runs_with_ties),
        TEST(equal_scores_are_ordered_by_id_descending),
        TEST(recall_is_not_capped_and_precision_divides_by_k),
        TEST(twice_is_an_error_and_so_is_no_number),
        TEST(files_of_both_layouts_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
