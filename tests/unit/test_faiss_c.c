/* The calls of FAISS's C API that cairn makes, whoever implements them: the library or index/faiss_c.c. */
#include "check.h"

#include <faiss/c_api/Clustering_c.h>
#include <faiss/c_api/IndexFlat_c.h>
#include <faiss/c_api/Index_c.h>
#include <faiss/c_api/error_c.h>
#include <math.h>

static void fill(float *x, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((double)(test_rand(&seed) >> 11) / (double)(1ULL << 53) - 0.5);
}

static double squared(const float *a, const float *b, size_t d)
{
    double sum = 0;
    for (size_t i = 0; i < d; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sum;
}

static size_t nearest(const float *c, size_t k, const float *v, size_t d)
{
    size_t best = 0;
    for (size_t i = 1; i < k; i++)
        if (squared(c + i * d, v, d) < squared(c + best * d, v, d))
            best = i;
    return best;
}

static double objective(const float *c, size_t k, const float *x, size_t n, size_t d)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += squared(c + nearest(c, k, x + i * d, d) * d, x + i * d, d);
    return sum;
}

/* Lloyd as the book has it; an empty cluster stays where it is. */
static void lloyd(float *c, size_t k, const float *x, size_t n, size_t d, unsigned rounds)
{
    double *sum = calloc(k * d, sizeof(*sum));
    size_t *size = calloc(k, sizeof(*size));
    CHECK(sum && size);
    for (unsigned round = 0; round < rounds; round++) {
        memset(sum, 0, k * d * sizeof(*sum));
        memset(size, 0, k * sizeof(*size));
        for (size_t i = 0; i < n; i++) {
            size_t to = nearest(c, k, x + i * d, d);
            size[to]++;
            for (size_t j = 0; j < d; j++)
                sum[to * d + j] += (double)x[i * d + j];
        }
        for (size_t i = 0; i < k * d; i++)
            if (size[i / d])
                c[i] = (float)(sum[i] / (double)size[i / d]);
    }
    free(sum);
    free(size);
}

enum { N = 1500, D = 8, K = 16 };

static void kmeans_is_as_good_as_plain_lloyd(void **state)
{
    UNUSED_STATE(state);
    static float x[N * D], c[K * D], plain[K * D];
    float error = -1;
    fill(x, N * D, 5);
    CHECK_I64_EQ(faiss_kmeans_clustering(D, N, K, x, c, &error), 0);
    double ours = objective(c, K, x, N, D), worst = 0;
    CHECK_NEAR(error, ours, ours * 0.01);
    for (size_t start = 0; start < 5; start++) { /* which points FAISS starts from is its own affair */
        memcpy(plain, x + start * K * D, sizeof(plain));
        lloyd(plain, K, x, N, D, 25);
        double theirs = objective(plain, K, x, N, D);
        worst = theirs > worst ? theirs : worst;
    }
    CHECK_LE(ours, worst * 1.01);
    memcpy(plain, c, sizeof(c));
    lloyd(plain, K, x, N, D, 25); /* from our own end, 25 rounds more */
    CHECK_LE(ours, objective(plain, K, x, N, D) * 1.01);
}

static void the_same_points_give_the_same_centroids(void **state)
{
    UNUSED_STATE(state);
    static float x[N * D], a[K * D], b[K * D];
    fill(x, N * D, 6);
    CHECK_I64_EQ(faiss_kmeans_clustering(D, N, K, x, a, NULL), 0);
    CHECK_I64_EQ(faiss_kmeans_clustering(D, N, K, x, b, NULL), 0);
    CHECK(memcmp(a, b, sizeof(a)) == 0);
}

static void many_points_are_drawn_from_and_many_copies_are_no_harm(void **state)
{
    UNUSED_STATE(state);
    enum { MANY = 20000, FEW = 3 };
    static float x[MANY * 4], c[1200 * 4];
    for (size_t i = 0; i < (size_t)MANY * 4; i++) /* three places far apart */
        x[i] = (float)(i / 4 % FEW) * 10 + (float)(i * 7 % 13) / 100;
    CHECK_I64_EQ(faiss_kmeans_clustering(4, MANY, FEW, x, c, NULL), 0);
    CHECK(isfinite(objective(c, FEW, x, MANY, 4)));
    for (size_t i = 0; i < (size_t)MANY * 4; i++)
        x[i] =
            2; /* all the same: every cluster but one is empty, in every round; more than one tile of them */
    CHECK_I64_EQ(faiss_kmeans_clustering(4, 3000, 1200, x, c, NULL), 0);
    for (size_t i = 0; i < 1200u * 4; i++)
        CHECK(isfinite(c[i]));
    CHECK_LE(objective(c, 1200, x, 3000, 4), 3000 * 0.01);
}

static void points_as_many_as_clusters_are_the_clusters(void **state)
{
    UNUSED_STATE(state);
    static float x[K * D], c[K * D];
    float error = -1;
    fill(x, K * D, 8);
    CHECK_I64_EQ(faiss_kmeans_clustering(D, K, K, x, c, &error), 0);
    CHECK_LE(objective(c, K, x, K, D), 0);
    CHECK_LE(error, 0);
}

static void what_cannot_be_clustered_is_refused_in_words(void **state)
{
    UNUSED_STATE(state);
    static float x[K * D], c[K * D];
    fill(x, K * D, 9);
    CHECK(faiss_kmeans_clustering(D, K - 1, K, x, c, NULL) != 0);
    CHECK(strstr(faiss_get_last_error(), "training points"));
    x[3] = NAN;
    CHECK(faiss_kmeans_clustering(D, K, 2, x, c, NULL) != 0);
    CHECK(faiss_get_last_error()[0]);
}

#ifdef CAIRN_FAISS_OWN
static void a_failed_allocation_is_an_error(void **state)
{
    UNUSED_STATE(state);
    static float x[N * D], c[K * D];
    unsigned failed = 0;
    fill(x, N * D, 10);
    for (uint64_t nth = 1; nth < 50; nth++) {
        cairn_alloc_fail_after(nth, true);
        int code = faiss_kmeans_clustering(D, N, K, x, c, NULL);
        cairn_alloc_fail_after(0, false);
        if (!code)
            break;
        CHECK(strstr(faiss_get_last_error(), "memory"));
        failed++;
    }
    CHECK_GE(failed, 3);
    CHECK_LE(failed, 48);
    CHECK(faiss_kmeans_clustering(0, N, K, x, c, NULL) != 0);
    CHECK(faiss_kmeans_clustering(D, N, 0, x, c, NULL) != 0);
}
#endif

static double value(FaissMetricType metric, const float *a, const float *b, size_t d)
{
    double dot = 0;
    for (size_t i = 0; i < d; i++)
        dot += (double)a[i] * (double)b[i];
    return metric == METRIC_L2 ? squared(a, b, d) : dot;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void flat_search_finds_what_plain_loops_find(void **state)
{
    UNUSED_STATE(state);
    enum { ROWS = 300, DIM = 7, QUERIES = 25, TOP = 10 };
    static float x[ROWS * DIM], q[QUERIES * DIM], far[QUERIES * TOP];
    static idx_t label[QUERIES * TOP];
    fill(x, ROWS * DIM, 11);
    memcpy(x + 100 * DIM, x, 100u * DIM * sizeof(float)); /* ties: rows 100..199 are rows 0..99 again */
    fill(q, QUERIES * DIM, 12);
    memcpy(q, x, DIM * sizeof(float));
    static const FaissMetricType metrics[] = {METRIC_INNER_PRODUCT, METRIC_L2};
    for (size_t m = 0; m < 2; m++) {
        FaissIndexFlat *ix;
        CHECK_I64_EQ(faiss_IndexFlat_new_with(&ix, DIM, metrics[m]), 0);
        CHECK_I64_EQ(faiss_Index_add(ix, 120, x), 0);
        CHECK_I64_EQ(faiss_Index_add(ix, ROWS - 120, x + 120 * DIM), 0);
        CHECK_I64_EQ(faiss_Index_search(ix, QUERIES, q, TOP, far, label), 0);
        for (size_t i = 0; i < QUERIES; i++) {
            double want[ROWS];
            bool seen[ROWS] = {false};
            for (size_t r = 0; r < ROWS; r++)
                want[r] = (m == 0 ? -1 : 1) * value(metrics[m], q + i * DIM, x + r * DIM, DIM);
            qsort(want, ROWS, sizeof(want[0]), by_value);
            for (size_t t = 0; t < TOP; t++) {
                idx_t l = label[i * TOP + t];
                CHECK(l >= 0 && l < ROWS && !seen[l]);
                seen[l] = true;
                double got = (double)far[i * TOP + t];
                CHECK_NEAR(got, (m == 0 ? -1 : 1) * want[t], 1e-5);
                CHECK_NEAR(got, value(metrics[m], q + i * DIM, x + l * DIM, DIM), 1e-5);
#ifdef CAIRN_FAISS_OWN /* the library does not say which of two equals comes first; ours: the lower */
                CHECK(t == 0 || far[i * TOP + t] != far[i * TOP + t - 1] || label[i * TOP + t - 1] < l);
#endif
            }
        }
        faiss_Index_free(ix);
    }
}

static void fewer_rows_than_asked_are_filled_up_with_no_label(void **state)
{
    UNUSED_STATE(state);
    static const float x[] = {1, 0, 0, 1};
    float far[4];
    idx_t label[4];
    FaissIndexFlat *ix;
    CHECK_I64_EQ(faiss_IndexFlat_new_with(&ix, 2, METRIC_L2), 0);
    CHECK_I64_EQ(faiss_Index_search(ix, 1, x, 4, far, label), 0);
    CHECK_I64_EQ(label[0], -1);
    CHECK_I64_EQ(faiss_Index_add(ix, 2, x), 0);
    CHECK_I64_EQ(faiss_Index_search(ix, 1, x + 2, 4, far, label), 0);
    CHECK_I64_EQ(label[0], 1);
    CHECK_I64_EQ(label[1], 0);
    CHECK_I64_EQ(label[2], -1);
    CHECK_I64_EQ(label[3], -1);
    faiss_Index_free(ix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kmeans_is_as_good_as_plain_lloyd),
        TEST(the_same_points_give_the_same_centroids),
        TEST(many_points_are_drawn_from_and_many_copies_are_no_harm),
        TEST(points_as_many_as_clusters_are_the_clusters),
        TEST(what_cannot_be_clustered_is_refused_in_words),
#ifdef CAIRN_FAISS_OWN
        TEST(a_failed_allocation_is_an_error),
#endif
        TEST(flat_search_finds_what_plain_loops_find),
        TEST(fewer_rows_than_asked_are_filled_up_with_no_label),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
