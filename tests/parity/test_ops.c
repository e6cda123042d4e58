/* test_ops.c - every backend against the scalar reference, operation by operation: odd sizes, all weight
 * types, guard bytes around what is written, NaN carried along, and a row's result that does not depend on
 * its company. */
#include "check.h"
#include "ops.h"

#include <math.h>

static const enum model_backend backends[] = {BACKEND_BLAS, BACKEND_AVX2, BACKEND_AVX512};
enum { N_BACKENDS = 3 };
static const enum tensor_type types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q4_0,
                                         TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1, TENSOR_Q8_0,
                                         TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
enum { N_TYPES = sizeof types / sizeof types[0] };
static const float guard = 12345.0f;

static float uniform(uint64_t *seed) { return (float)((double)(test_rand(seed) >> 11) * 0x1p-52 - 1.0); }

/* Random bytes are random weights, but for the half-precision scales: those get small values. */
static uint8_t *weights(enum tensor_type t, size_t n, size_t k, uint64_t *seed)
{
    size_t row = tensor_type_bytes(t, k), total = row * n;
    CHECK(row > 0);
    uint8_t *w = malloc(total);
    if (t == TENSOR_F32) {
        for (size_t i = 0; i < n * k; i++) {
            float f = uniform(seed);
            memcpy(w + 4 * i, &f, 4);
        }
        return w;
    }
    for (size_t i = 0; i < total; i++)
        w[i] = (uint8_t)test_rand(seed);
    const uint16_t small[4] = {0x2c00, 0xac10, 0x2e00, 0x2812};
    size_t block = t == TENSOR_F16 || t == TENSOR_BF16 ? 1
                   : t >= TENSOR_Q4_K                  ? 256
                                                       : 32,
           size = tensor_type_bytes(t, block);
    for (size_t at = 0; at < total; at += size) {
        uint16_t h = small[test_rand(seed) % 4];
        if (t == TENSOR_F16)
            h = (uint16_t)(0x3000 + test_rand(seed) % 0x400 + (test_rand(seed) & 1) * 0x8000);
        if (t == TENSOR_BF16)
            h = (uint16_t)(0x3e00 + test_rand(seed) % 0x80 + (test_rand(seed) & 1) * 0x8000);
        memcpy(w + at + (t == TENSOR_Q6_K ? 208 : 0), &h, 2);
        if (t == TENSOR_Q4_1 || t == TENSOR_Q5_1 || t == TENSOR_Q4_K || t == TENSOR_Q5_K)
            memcpy(w + at + 2, &small[test_rand(seed) % 4], 2);
    }
    return w;
}

static void run(enum model_backend b, struct cairn_pool *pool, struct weight *w, bool pack, const float *x,
                size_t rows, const float *bias, enum matmul_act act, bool add, float *y, size_t ld)
{
    TEST_WHY;
    struct compute c;
    CHECK_OK(compute_init(&c, &(struct model_opts){.backend = b, .pool = pool}, rows, w->k, 16, &why));
    if (pack)
        CHECK(weight_pack(&c, w));
    ops_matmul(&c, x, rows,
               &(struct matmul_job){.w = w, .bias = bias, .y = y, .ld = ld, .act = act, .add = add}, 1);
    weight_release(w);
    compute_release(&c);
}

/* ||a - b|| / ||b|| of one row: NaN fails. */
static double distance(const float *a, const float *b, size_t n)
{
    double off = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(off / (size > 0 ? size : 1));
}

static void products_agree(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    uint64_t seed = 5;
    struct cairn_pool *pool = NULL;
    CHECK_OK(cairn_pool_open(&pool, 3, &why));
    static const size_t row_counts[] = {1, 2, 7, 8, 13, 16, 17, 40, 270};
    for (size_t t = 0; t < N_TYPES; t++)
        for (size_t r = 0; r < sizeof row_counts / sizeof row_counts[0]; r++) {
            bool dense = types[t] == TENSOR_F32 || types[t] == TENSOR_F16 || types[t] == TENSOR_BF16;
            size_t rows = row_counts[r], n = rows > 100 ? 33 : 77, ld = n + 3;
            size_t k = types[t] >= TENSOR_Q4_K && !dense ? 512 : dense ? 301 - r : 32 * (3 + 7 * r % 17);
            struct weight w = {.type = types[t], .n = n, .k = k, .row_bytes = tensor_type_bytes(types[t], k)};
            uint8_t *bytes = weights(types[t], n, k, &seed);
            w.bytes = bytes;
            float *x = malloc(rows * k * sizeof *x), *bias = malloc(n * sizeof *bias);
            float *want = malloc(rows * ld * sizeof *want), *got = malloc(rows * ld * sizeof *got);
            for (size_t i = 0; i < rows * k; i++)
                x[i] = uniform(&seed) * (i % 97 == 5 ? 30.0f : 1.0f); /* outliers */
            for (size_t i = 0; i < n; i++)
                bias[i] = uniform(&seed);
            for (int mode = 0; mode < 3; mode++) {
                for (size_t i = 0; i < rows * ld; i++)
                    want[i] = i % ld < n ? (float)(i % 7) : guard;
                float *start = malloc(rows * ld * sizeof *start);
                memcpy(start, want, rows * ld * sizeof *start);
                enum matmul_act act = mode == 1 ? ACT_GELU : ACT_NONE;
                run(BACKEND_SCALAR, NULL, &w, false, x, rows, mode ? bias : NULL, act, mode == 2, want, ld);
                for (size_t b = 0; b < N_BACKENDS; b++)
                    for (int pack = 0; pack < 2; pack++) {
                        if (!model_backend_available(backends[b]))
                            continue;
                        memcpy(got, start, rows * ld * sizeof *got);
                        run(backends[b], pool, &w, pack, x, rows, mode ? bias : NULL, act, mode == 2, got,
                            ld);
                        /* GELU leaves little of a row of large negative sums: the same error then weighs more
                         */
                        double bound = backends[b] != BACKEND_AVX512 ? 1e-5 : mode == 1 ? 3e-3 : 6e-4;
                        for (size_t i = 0; i < rows; i++) {
                            double off = distance(got + i * ld, want + i * ld, n);
                            if (!(off <= bound))
                                print_error("%s %s rows %zu k %zu row %zu mode %d pack %d: %g\n",
                                            model_backend_name(backends[b]), tensor_type_name(types[t]), rows,
                                            k, i, mode, pack, off);
                            CHECK_LE(off, bound);
                            for (size_t j = n; j < ld; j++)
                                CHECK(got[i * ld + j] == guard);
                        }
                    }
                free(start);
            }
            free(bytes);
            free(x);
            free(bias);
            free(want);
            free(got);
        }
    cairn_pool_close(pool);
}

/* The integer kernels must hold for weights and inputs that are all as large as their scale allows. */
static void sums_do_not_overflow(void **state)
{
    UNUSED_STATE(state);
    enum { K = 512, N = 32, ROWS = 24 };
    static float w[N * K], x[ROWS * K], want[ROWS * N], got[ROWS * N];
    for (size_t i = 0; i < N * K; i++)
        w[i] = i / K % 2 ? 1.0f : i % 32 ? 0.0f : 1000.0f;
    for (size_t i = 0; i < ROWS * K; i++)
        x[i] = i / K % 2 ? 3e4f : -3e4f;
    struct weight wt = {.type = TENSOR_F32, .n = N, .k = K, .row_bytes = 4 * K, .bytes = (const uint8_t *)w};
    run(BACKEND_SCALAR, NULL, &wt, false, x, ROWS, NULL, ACT_NONE, false, want, N);
    for (size_t b = 0; b < N_BACKENDS; b++)
        if (model_backend_available(backends[b])) {
            run(backends[b], NULL, &wt, true, x, ROWS, NULL, ACT_NONE, false, got, N);
            CHECK_LE(distance(got, want, ROWS * N), 1e-4);
        }
    static uint8_t q6[N * K / 256 * 210]; /* d = 1, scales of -128, q = -32 */
    for (size_t i = 0; i < sizeof q6; i++)
        q6[i] = i % 210 == 209 ? 0x3c : i % 210 >= 192 && i % 210 < 208 ? 0x80 : 0x00;
    struct weight least = {.type = TENSOR_Q6_K, .n = N, .k = K, .row_bytes = K / 256 * 210, .bytes = q6};
    for (size_t rows = 1; rows <= ROWS; rows += 23) {
        run(BACKEND_SCALAR, NULL, &least, false, x, rows, NULL, ACT_NONE, false, want, N);
        for (size_t b = 0; b < N_BACKENDS; b++)
            if (model_backend_available(backends[b])) {
                run(backends[b], NULL, &least, false, x, rows, NULL, ACT_NONE, false, got, N);
                CHECK_LE(distance(got, want, rows * N), 1e-4);
            }
    }
    static uint8_t q8[N * K / 32 * 34];
    for (size_t i = 0; i < sizeof q8; i++)
        q8[i] = i % 34 == 0 ? 0x00 : i % 34 == 1 ? 0x3c : 0x80; /* d = 1, q = -128 */
    struct weight low = {.type = TENSOR_Q8_0, .n = N, .k = K, .row_bytes = K / 32 * 34, .bytes = q8};
    for (size_t rows = 1; rows <= ROWS; rows += 23) {
        run(BACKEND_SCALAR, NULL, &low, false, x, rows, NULL, ACT_NONE, false, want, N);
        for (size_t b = 0; b < N_BACKENDS; b++)
            if (model_backend_available(backends[b])) {
                run(backends[b], NULL, &low, false, x, rows, NULL, ACT_NONE, false, got, N);
                CHECK_LE(distance(got, want, rows * N), 1e-4);
            }
    }
}

/* Every number of few rows gives a row the bits that it has alone, for every type and for inputs that do not
 * fit in the first cache; and the sums are those of the reference. */
static void few_rows_give_the_bits_of_one(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { N = 35, ROWS = OPS_ROWS_FEW - 1, K_MAX = 2304 };
    uint64_t seed = 21;
    struct cairn_pool *pool = NULL;
    CHECK_OK(cairn_pool_open(&pool, 2, &why));
    float *x = malloc(ROWS * K_MAX * sizeof *x), *alone = malloc(ROWS * N * sizeof *alone),
          *some = malloc(ROWS * N * sizeof *some), *want = malloc(ROWS * N * sizeof *want);
    for (size_t i = 0; i < ROWS * K_MAX; i++)
        x[i] = uniform(&seed);
    for (size_t t = 0; t < N_TYPES; t++) {
        bool dense = types[t] == TENSOR_F32 || types[t] == TENSOR_F16 || types[t] == TENSOR_BF16;
        size_t k = dense ? 1001 : types[t] >= TENSOR_Q4_K ? K_MAX : 1632;
        struct weight w = {.type = types[t], .n = N, .k = k, .row_bytes = tensor_type_bytes(types[t], k)};
        uint8_t *bytes = weights(types[t], N, k, &seed);
        w.bytes = bytes;
        run(BACKEND_SCALAR, NULL, &w, false, x, ROWS, NULL, ACT_NONE, false, want, N);
        for (size_t b = 0; b < N_BACKENDS; b++) {
            if (!model_backend_available(backends[b]) ||
                backends[b] == BACKEND_BLAS) /* whose kernels are not ours to order */
                continue;
            for (size_t r = 0; r < ROWS; r++) {
                run(backends[b], pool, &w, false, x + r * k, 1, NULL, ACT_NONE, false, alone + r * N, N);
                CHECK_LE(distance(alone + r * N, want + r * N, N), 6e-4);
            }
            for (size_t rows = 2; rows <= ROWS; rows++) {
                run(backends[b], pool, &w, false, x, rows, NULL, ACT_NONE, false, some, N);
                CHECK(memcmp(some, alone, rows * N * sizeof *some) == 0);
            }
        }
        free(bytes);
    }
    free(x);
    free(alone);
    free(some);
    free(want);
    cairn_pool_close(pool);
}

static void nan_is_carried_along_and_stays_in_its_row(void **state)
{
    UNUSED_STATE(state);
    enum { K = 256, N = 40 };
    uint64_t seed = 9;
    for (size_t t = 0; t < N_TYPES; t++)
        for (size_t rows = 3; rows <= 19; rows += 16)
            for (size_t b = 0; b < N_BACKENDS; b++) {
                if (!model_backend_available(backends[b]))
                    continue;
                struct weight w = {
                    .type = types[t], .n = N, .k = K, .row_bytes = tensor_type_bytes(types[t], K)};
                uint8_t *bytes = weights(types[t], N, K, &seed);
                w.bytes = bytes;
                float x[19 * K], y[19 * N];
                for (size_t i = 0; i < rows * K; i++)
                    x[i] = uniform(&seed);
                x[K + 200] = NAN;
                x[2 * K + 7] = INFINITY;
                run(backends[b], NULL, &w, false, x, rows, NULL, ACT_NONE, false, y, N);
                for (size_t r = 0; r < rows; r++)
                    for (size_t o = 0; o < N; o++)
                        CHECK(r == 1   ? isnan(y[r * N + o])
                              : r == 2 ? !isfinite(y[r * N + o])
                                       : isfinite(y[r * N + o]) != 0);
                free(bytes);
            }
}

static void a_row_does_not_depend_on_its_company(void **state)
{
    UNUSED_STATE(state);
    enum { K = 320, N = 70, ROWS = 300 };
    uint64_t seed = 10;
    uint8_t *bytes = weights(TENSOR_Q4_1, N, K, &seed);
    struct weight w = {
        .type = TENSOR_Q4_1, .n = N, .k = K, .row_bytes = tensor_type_bytes(TENSOR_Q4_1, K), .bytes = bytes};
    float *x = malloc(ROWS * K * sizeof *x), *all = malloc(ROWS * N * sizeof *all),
          *some = malloc(ROWS * N * sizeof *some);
    for (size_t i = 0; i < ROWS * K; i++)
        x[i] = uniform(&seed);
    for (size_t b = 0; b < N_BACKENDS; b++) {
        if (!model_backend_available(backends[b]) ||
            backends[b] == BACKEND_BLAS) /* whose kernels are not ours to order */
            continue;
        run(backends[b], NULL, &w, false, x, ROWS, NULL, ACT_NONE, false, all, N);
        for (size_t first = 0; first + 29 <= ROWS; first += 29) {
            run(backends[b], NULL, &w, false, x + first * K, 29, NULL, ACT_NONE, false, some, N);
            CHECK(memcmp(some, all + first * N, 29 * N * sizeof *some) == 0);
        }
        run(backends[b], NULL, &w, true, x + 5 * K, 1, NULL, ACT_NONE, false, some, N);
        CHECK_LE(distance(some, all + 5 * N, N), backends[b] == BACKEND_AVX512 ? 0.0 : 1e-6);
    }
    free(bytes);
    free(x);
    free(all);
    free(some);
}

static void row_operations_agree(void **state)
{
    UNUSED_STATE(state);
    uint64_t seed = 11;
    for (size_t n = 1; n < 300; n += n < 40 ? 1 : 37) {
        float x[304], u[304], w[304], c[304], want[304], got[304];
        for (size_t i = 0; i < 304; i++) {
            x[i] = uniform(&seed) * 6.0f;
            u[i] = uniform(&seed);
            w[i] = uniform(&seed);
            c[i] = uniform(&seed);
        }
        for (size_t b = 0; b < N_BACKENDS; b++) {
            const struct ops *o = ops_for(backends[b]);
            if (!o)
                continue;
            for (int op = 0; op < 7; op++) {
                float *side[2] = {want, got};
                for (int s = 0; s < 2; s++) {
                    const struct ops *p = s ? o : &ops_scalar;
                    float *y = side[s];
                    memcpy(y, x, sizeof want);
                    for (size_t i = n; i < 304; i++)
                        y[i] = guard;
                    switch (op) {
                    case 0:
                        p->rmsnorm(y, x, w, n, 1e-5f);
                        break;
                    case 1:
                        p->layernorm(y, y, w, c, n, 1e-12f);
                        break;
                    case 2:
                        p->swiglu(y, u, n);
                        break;
                    case 3:
                        p->gelu(y, n);
                        break;
                    case 4:
                        p->add(y, u, n);
                        break;
                    default:
                        p->rope(y, u, w, n / 2, op == 6);
                        break;
                    }
                    for (size_t i = n; i < 304; i++)
                        CHECK(y[i] == guard);
                }
                if (op == 1 && n == 1)
                    continue; /* no variance: only the bias and rounding are left */
                for (size_t i = 0; i < n; i++)
                    CHECK_NEAR(got[i], want[i], 2e-6 + 2e-5 * fabs((double)want[i]));
            }
            memcpy(got, x, sizeof got);
            got[n / 2] = NAN;
            o->gelu(got, n);
            CHECK(isnan(got[n / 2]));
            got[0] = NAN;
            o->swiglu(got, u, n);
            CHECK(isnan(got[0]));
        }
    }
    float far[16] = {-200, -100,  -88,  -20,   0,      20,     88,      100,
                     200,  -1000, 1000, 1e30f, -1e30f, 1e-30f, -1e-30f, 3},
          one[16], copy[16];
    for (int i = 0; i < 16; i++)
        one[i] = 1;
    for (size_t b = 0; b < N_BACKENDS; b++)
        if (ops_for(backends[b])) {
            memcpy(copy, far, sizeof far);
            ops_for(backends[b])->swiglu(copy, one, 16);
            for (int i = 0; i < 16; i++)
                CHECK_NEAR(copy[i], (double)far[i] / (1 + exp(-(double)far[i])),
                           1e-6 + 1e-6 * fabs((double)far[i]));
            memcpy(copy, far, sizeof far);
            ops_for(backends[b])->gelu(copy, 16);
            for (int i = 0; i < 16; i++)
                CHECK_NEAR(copy[i], 0.5 * (double)far[i] * (1 + erf((double)far[i] * 0.70710678118654752)),
                           1e-5 + 1e-6 * fabs((double)far[i]));
        }
}

static void attention_agrees(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    uint64_t seed = 12;
    struct cairn_pool *pool = NULL;
    CHECK_OK(cairn_pool_open(&pool, 2, &why));
    static const struct {
        size_t rows, first, heads, kv, hd, window;
    } cases[] = {
        {1,  0,  1,  1, 16,  0 },
        {1,  40, 6,  2, 64,  0 },
        {1,  33, 12, 2, 128, 7 },
        {19, 0,  4,  4, 32,  0 },
        {7,  30, 9,  3, 64,  16},
        {33, 5,  2,  1, 24,  4 },
        {5,  3,  2,  2, 10,  0 },
        {17, 15, 3,  1, 48,  1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t total = cases[i].rows + cases[i].first, hd = cases[i].hd, capacity = (total + 15) / 16 * 16;
        size_t width = cases[i].heads * hd, kv_width = cases[i].kv * hd;
        float *keys = malloc(capacity * kv_width * 4), *values = malloc(capacity * kv_width * 4);
        for (size_t j = 0; j < capacity * kv_width; j++)
            keys[j] = values[j] = NAN; /* what was never put must never be used */
        float *k = malloc(kv_width * 4), *v = malloc(kv_width * 4);
        for (size_t p = 0; p < total; p++) {
            for (size_t j = 0; j < kv_width; j++) {
                k[j] = uniform(&seed) * 2;
                v[j] = uniform(&seed);
            }
            ops_cache_put(keys, values, capacity, cases[i].kv, hd, p, k, v);
        }
        float *q = malloc(cases[i].rows * width * 4), *want = malloc(cases[i].rows * width * 4),
              *got = malloc(cases[i].rows * width * 4);
        for (size_t j = 0; j < cases[i].rows * width; j++)
            q[j] = uniform(&seed) * 3;
        struct attention a = {.q = q,
                              .keys = keys,
                              .values = values,
                              .out = want,
                              .rows = cases[i].rows,
                              .first = cases[i].first,
                              .capacity = capacity,
                              .n_head = cases[i].heads,
                              .n_kv_head = cases[i].kv,
                              .head_dim = hd,
                              .window = cases[i].window};
        struct compute c;
        CHECK_OK(compute_init(&c, &(struct model_opts){.backend = BACKEND_SCALAR}, 1, 16, total, &why));
        ops_attention(&c, &a);
        compute_release(&c);
        for (size_t b = 0; b < N_BACKENDS; b++) {
            if (!model_backend_available(backends[b]))
                continue;
            CHECK_OK(compute_init(&c, &(struct model_opts){.backend = backends[b], .pool = pool}, 1, 16,
                                  total, &why));
            a.out = got;
            ops_attention(&c, &a);
            compute_release(&c);
            for (size_t j = 0; j < cases[i].rows * width; j++)
                CHECK_NEAR(got[j], want[j], 2e-6);
        }
        free(keys);
        free(values);
        free(k);
        free(v);
        free(q);
        free(want);
        free(got);
    }
    cairn_pool_close(pool);
}

static void backends_have_names_and_say_when_they_are_absent(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    for (int b = BACKEND_AUTO; b <= BACKEND_CUDA; b++)
        CHECK_I64_EQ(model_backend_by_name(model_backend_name((enum model_backend)b)), b);
    CHECK_I64_EQ(model_backend_by_name("abacus"), BACKEND_AUTO);
    CHECK(model_backend_available(BACKEND_SCALAR) && model_backend_available(BACKEND_AUTO));
    if (!model_backend_available(BACKEND_CUDA)) {
        struct compute c;
        CHECK_ERR(compute_init(&c, &(struct model_opts){.backend = BACKEND_CUDA}, 1, 16, 16, &why),
                  CAIRN_EDEVICE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(products_agree),
        TEST(sums_do_not_overflow),
        TEST(nan_is_carried_along_and_stays_in_its_row),
        TEST(a_row_does_not_depend_on_its_company),
        TEST(few_rows_give_the_bits_of_one),
        TEST(row_operations_agree),
        TEST(attention_agrees),
        TEST(backends_have_names_and_say_when_they_are_absent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
