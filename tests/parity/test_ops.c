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

static bool exact = true; /* inputs of block weights keep more than 8 bits */
static void run(enum model_backend b, struct cairn_pool *pool, struct weight *w, bool pack, const float *x,
                size_t rows, const float *bias, enum matmul_act act, bool add, float *y, size_t ld)
{
    TEST_WHY;
    struct compute c;
    CHECK_OK(compute_init(&c, &(struct model_opts){.backend = b, .pool = pool, .exact = exact}, rows, w->k,
                          16, &why));
    if (pack)
        CHECK(weights_pack(&c, &w, 1));
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
                        double bound = backends[b] != BACKEND_AVX512 ? mode == 1 ? 5e-5 : 1e-5
                                       : mode == 1                   ? 3e-3
                                                                     : 6e-4;
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

/* Weights that are integers of 8 bits times a number per output, as published int8 encoders have them. */
static float *byte_weights(size_t n, size_t k, uint64_t *seed)
{
    float *w = malloc(n * k * sizeof *w);
    for (size_t o = 0; o < n; o++) {
        float step = o % 9 == 8 ? 0.0f : 0.001f * (1.1f + uniform(seed));
        int top = 1 + (int)(test_rand(seed) % 127);
        for (size_t i = 0; i < k; i++)
            w[o * k + i] = step * (float)((int)(test_rand(seed) % (2u * (unsigned)top + 1)) - top);
    }
    return w;
}

/* What a row becomes when each 64 inputs are rounded to 8 bits between the least and the largest, zero
 * included. */
static void round_row(float *x, size_t k)
{
    for (size_t at = 0; at < k; at += 64) {
        size_t n = k - at < 64 ? k - at : 64;
        float low = 0, high = 0;
        for (size_t i = 0; i < n; i++) {
            low = fminf(low, x[at + i]);
            high = fmaxf(high, x[at + i]);
        }
        float s = (high - low) * (1.0f / 255.0f), zero = s > 1e-30f ? rintf(-low * (1.0f / s)) : 0.0f;
        for (size_t i = 0; i < n; i++)
            x[at + i] =
                s > 1e-30f ? s * (fminf(fmaxf(rintf(fmaf(x[at + i], 1.0f / s, zero)), 0), 255) - zero) : 0.0f;
    }
}

static void byte_products_agree_with_rounded_inputs(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    uint64_t seed = 21;
    static const size_t ks[] = {1, 3, 63, 64, 65, 301, 384}, row_counts[] = {1, 5, 6, 13, 270};
    if (!model_backend_available(BACKEND_AVX512)) {
        skip();
        return;
    }
    struct cairn_pool *pool = NULL;
    CHECK_OK(cairn_pool_open(&pool, 3, &why));
    for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
        for (size_t j = 0; j < sizeof row_counts / sizeof row_counts[0]; j++) {
            size_t k = ks[i], rows = row_counts[j], n = 1 + (i * 31 + j * 17) % 77, ld = n + 3;
            float *bytes = byte_weights(n, k, &seed), *x = malloc(rows * k * sizeof *x),
                  *rounded = malloc(rows * k * sizeof *x), *bias = malloc(n * sizeof *bias),
                  *want = malloc(rows * ld * sizeof *want), *got = malloc(rows * ld * sizeof *got),
                  *one = malloc(ld * sizeof *one);
            struct weight w = {
                .type = TENSOR_F32, .n = n, .k = k, .row_bytes = 4 * k, .bytes = (const uint8_t *)bytes};
            for (size_t at = 0; at < rows * k; at++)
                x[at] = uniform(&seed) * (at % 97 == 5 ? 30.0f : 1.0f) * (at / k % 7 == 6 ? 0.0f : 1.0f);
            if (k == 63) { /* the least is -0.500001 steps from zero, by the roundings on the way */
                memset(x, 0, k * sizeof *x);
                x[7] = 3.10612798f;
                x[9] = -0.485992849f;
            }
            for (size_t o = 0; o < n; o++)
                bias[o] = uniform(&seed);
            memcpy(rounded, x, rows * k * sizeof *x);
            for (size_t r = 0; r < rows; r++)
                round_row(rounded + r * k, k);
            for (int mode = 0; mode < 3; mode++) {
                enum matmul_act act = mode == 1 ? ACT_GELU : ACT_NONE;
                for (size_t at = 0; at < rows * ld; at++)
                    want[at] = got[at] = at % ld < n ? (float)(at % 7) : guard;
                run(BACKEND_SCALAR, NULL, &w, false, rounded, rows, mode ? bias : NULL, act, mode == 2, want,
                    ld);
                struct compute c;
                CHECK_OK(compute_init(&c, &(struct model_opts){.backend = BACKEND_AVX512, .pool = pool}, rows,
                                      k, 16, &why));
                CHECK(weights_pack(&c, (struct weight *[]){&w}, 1));
                CHECK_I64_EQ(w.form, WEIGHT_BYTES);
                struct matmul_job job = {
                    .w = &w, .bias = mode ? bias : NULL, .y = got, .ld = ld, .act = act, .add = mode == 2};
                ops_matmul(&c, x, rows, &job, 1);
                for (size_t r = 0; r < rows; r++) {
                    /* a value halfway between two steps may go either way by float rounding: one step then */
                    CHECK_LE(distance(got + r * ld, want + r * ld, n), mode == 1 ? 1e-4 : 2e-5);
                    for (size_t o = n; o < ld; o++)
                        CHECK(got[r * ld + o] == guard);
                }
                if (mode < 2) { /* alone as in company */
                    job.y = one;
                    ops_matmul(&c, x + (rows - 1) * k, 1, &job, 1);
                    CHECK(memcmp(one, got + (rows - 1) * ld, n * sizeof *one) == 0);
                }
                weight_release(&w);
                compute_release(&c);
            }
            free(bytes);
            free(x);
            free(rounded);
            free(bias);
            free(want);
            free(got);
            free(one);
        }
    cairn_pool_close(pool);
}

/* What a row becomes when each 32 inputs are rounded to 8 bits, but for outliers. */
static void round_row_32(float *x, size_t k)
{
    float mean = 0, *top = calloc(k / 32, 2 * sizeof *top), *second = top + k / 32;
    for (size_t i = 0; i < k; i++) {
        float v = fabsf(x[i]), *t = &top[i / 32], *s = &second[i / 32];
        *s = v > *t ? *t : fmaxf(*s, v);
        *t = fmaxf(*t, v);
    }
    for (size_t r = 0; r < k / 32; r++)
        mean += second[r] * second[r];
    mean /= (float)(k / 32);
    for (size_t i = 0; i < k; i++) {
        float t = top[i / 32], s = second[i / 32];
        bool outlier = t * t - s * s > 4.0f * mean;
        float scale = (outlier ? s : t) * (1.0f / 127.0f);
        if (!outlier || fabsf(x[i]) != t)
            x[i] = scale > 0 ? scale * rintf(x[i] * (1.0f / scale)) : 0.0f;
    }
    free(top);
}

/* The same for few rows: runs whose largest is ten times the mean of the row keep 16 bits. */
static void round_row_few(float *x, size_t k)
{
    double mean = 0;
    for (size_t i = 0; i < k; i++)
        mean += (double)fabsf(x[i]) / (double)k;
    for (size_t at = 0; at < k; at += 32) {
        float top = 0;
        for (size_t i = at; i < at + 32; i++)
            top = fmaxf(top, fabsf(x[i]));
        float scale = top * ((double)top >= 10 * mean ? 1.0f / 32639.0f : 1.0f / 127.0f);
        for (size_t i = at; i < at + 32; i++)
            x[i] = scale > 0 ? scale * rintf(x[i] * (1.0f / scale)) : 0.0f;
    }
}

static void few_products_agree_with_rounded_inputs(void **state)
{
    UNUSED_STATE(state);
    enum { N = 35, ROWS = OPS_ROWS_FEW - 1, K_MAX = 1024 };
    uint64_t seed = 24;
    static float x[ROWS * K_MAX], rounded[ROWS * K_MAX], want[ROWS * N], got[ROWS * N];
    if (!model_backend_available(BACKEND_AVX512)) {
        skip();
        return;
    }
    for (size_t t = 0; t < N_TYPES; t++)
        for (size_t rows = 1; rows <= ROWS; rows += 5) {
            size_t k = types[t] >= TENSOR_Q4_K ? K_MAX : 864;
            if (tensor_type_bytes(types[t], 1))
                continue;
            struct weight w = {.type = types[t], .n = N, .k = k, .row_bytes = tensor_type_bytes(types[t], k)};
            uint8_t *bytes = weights(types[t], N, k, &seed);
            w.bytes = bytes;
            for (size_t i = 0; i < rows * k; i++) /* outliers, runs with none */
                x[i] = uniform(&seed) * (test_rand(&seed) % 80 == 0 ? 30.0f : 1.0f) *
                       (i / 32 % 11 == 3 ? 0.0f : 1.0f);
            memcpy(rounded, x, sizeof rounded);
            for (size_t r = 0; r < rows; r++)
                round_row_few(rounded + r * k, k);
            run(BACKEND_SCALAR, NULL, &w, false, rounded, rows, NULL, ACT_NONE, false, want, N);
            exact = false;
            run(BACKEND_AVX512, NULL, &w, false, x, rows, NULL, ACT_NONE, false, got, N);
            exact = true;
            for (size_t r = 0; r < rows; r++)
                CHECK_LE(distance(got + r * N, want + r * N, N), 5e-5);
            free(bytes);
        }
}

static void block_products_agree_with_rounded_inputs(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    uint64_t seed = 23;
    static const size_t row_counts[] = {17, 18, 22, 40, 270};
    if (!model_backend_available(BACKEND_AVX512)) {
        skip();
        return;
    }
    struct cairn_pool *pool = NULL;
    CHECK_OK(cairn_pool_open(&pool, 3, &why));
    exact = false;
    for (size_t t = 0; t < N_TYPES; t++)
        for (size_t j = 0; j < sizeof row_counts / sizeof row_counts[0]; j++) {
            enum tensor_type type = types[t];
            if (tensor_type_bytes(type, 1))
                continue;
            size_t rows = row_counts[j], n = 1 + (t * 31 + j * 17) % 77, ld = n + 3,
                   k = type >= TENSOR_Q4_K ? 256 * (1 + j) : 32 * (1 + 5 * j % 13);
            struct weight w = {.type = type, .n = n, .k = k, .row_bytes = tensor_type_bytes(type, k)};
            uint8_t *bytes = weights(type, n, k, &seed);
            w.bytes = bytes;
            float *x = malloc(rows * k * sizeof *x), *bias = malloc(n * sizeof *bias),
                  *want = malloc(rows * ld * sizeof *want), *got = malloc(rows * ld * sizeof *got),
                  *some = malloc(17 * ld * sizeof *some);
            for (size_t i = 0; i < rows * k; i++) /* outliers, runs with one value, runs with none */
                x[i] = uniform(&seed) * (i % 97 == 5 ? 1000.0f : 1.0f) * (i / 32 % 11 == 3 ? 0.0f : 1.0f) *
                       (i / 32 % 13 == 4 && i % 32 != 9 ? 0.0f : 1.0f);
            for (size_t i = 0; i < n; i++)
                bias[i] = uniform(&seed);
            run(BACKEND_AVX512, pool, &w, false, x + (rows - 17) * k, 17, bias, ACT_NONE, false, some, ld);
            for (size_t i = 0; i < rows * ld; i++)
                got[i] = guard;
            run(BACKEND_AVX512, pool, &w, false, x, rows, bias, ACT_NONE, false, got, ld);
            for (size_t i = 0; i < 17; i++) /* company makes no difference */
                CHECK(memcmp(some + i * ld, got + (rows - 17 + i) * ld, n * sizeof *got) == 0);
            for (size_t r = 0; r < rows; r++)
                round_row_32(x + r * k, k);
            run(BACKEND_SCALAR, NULL, &w, false, x, rows, bias, ACT_NONE, false, want, ld);
            for (size_t r = 0; r < rows; r++) {
                double off = distance(got + r * ld, want + r * ld, n);
                if (!(off <= 5e-5))
                    print_error("%s rows %zu n %zu k %zu row %zu: %g\n", tensor_type_name(type), rows, n, k,
                                r, off);
                CHECK_LE(off, 5e-5);
                for (size_t i = n; i < ld; i++)
                    CHECK(got[r * ld + i] == guard);
            }
            /* what is not finite stays in its row */
            x[3 * k + k - 1] = NAN;
            x[4 * k] = INFINITY;
            run(BACKEND_AVX512, pool, &w, false, x, rows, NULL, ACT_NONE, false, got, ld);
            for (size_t r = 0; r < rows; r++)
                for (size_t o = 0; o < n; o++)
                    CHECK(r == 3 || r == 4 ? !isfinite(got[r * ld + o]) : isfinite(got[r * ld + o]) != 0);
            free(bytes);
            free(x);
            free(bias);
            free(want);
            free(got);
            free(some);
        }
    exact = true;
    cairn_pool_close(pool);
}

static void only_exact_weights_become_bytes(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { N = 33, K = 130 };
    uint64_t seed = 22;
    struct compute c;
    CHECK_OK(compute_init(&c, &(struct model_opts){.backend = BACKEND_AUTO}, 8, K, 16, &why));
    float *w = byte_weights(N, K, &seed), *other = byte_weights(N, K, &seed);
    struct weight a = {.type = TENSOR_F32, .n = N, .k = K, .row_bytes = 4 * K, .bytes = (const uint8_t *)w},
                  b = a;
    b.bytes = (const uint8_t *)other;
    struct weight *both[] = {&a, &b};
    if (!c.ops->pack || c.ops != ops_avx512()) {
        skip();
        free(w);
        free(other);
        compute_release(&c);
        return;
    }
    static const float odd[] = {0.0f, 0.0001f, 128.0f, NAN, INFINITY, 1e-40f};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        float old = other[K + 7];
        for (size_t j = 0; i == 2 && j < K; j++) /* 0, 1 and 128 steps */
            other[K + j] = j == 7 ? 128.0f : (float)(j % 2);
        if (i && i != 2)
            other[K + 7] += odd[i];
        if (i == 5)
            for (size_t j = 0; j < K; j++)
                other[K + j] = odd[i];
        CHECK(weights_pack(&c, both, 2));
        CHECK_I64_EQ(a.form, i ? WEIGHT_WORDS : WEIGHT_BYTES);
        CHECK_I64_EQ(b.form, a.form);
        weight_release(&a);
        weight_release(&b);
        other[K + 7] = old;
    }
    /* what is not finite stays in its row */
    float x[8 * K], y[8 * N];
    for (size_t i = 0; i < 8 * K; i++)
        x[i] = uniform(&seed);
    x[K + 100] = NAN;
    x[2 * K + 129] = INFINITY;
    CHECK(weights_pack(&c, both, 1));
    CHECK_I64_EQ(a.form, WEIGHT_BYTES);
    ops_matmul(&c, x, 8, &(struct matmul_job){.w = &a, .y = y, .ld = N}, 1);
    for (size_t r = 0; r < 8; r++)
        for (size_t o = 0; o < N; o++)
            CHECK(r == 1 || r == 2 ? !isfinite(y[r * N + o]) : isfinite(y[r * N + o]) != 0);
    weight_release(&a);
    compute_release(&c);
    free(w);
    free(other);
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
    for (size_t i = 0; i < ROWS * K_MAX; i++) /* with outliers here and there */
        x[i] = uniform(&seed) * (test_rand(&seed) % 500 == 0 ? 30.0f : 1.0f);
    for (size_t t = 0; t < 2 * N_TYPES; t++) {
        exact = t >= N_TYPES;
        enum tensor_type type = types[t % N_TYPES];
        bool dense = type == TENSOR_F32 || type == TENSOR_F16 || type == TENSOR_BF16;
        size_t k = dense ? 1001 : type >= TENSOR_Q4_K ? K_MAX : 1632;
        struct weight w = {.type = type, .n = N, .k = k, .row_bytes = tensor_type_bytes(type, k)};
        uint8_t *bytes = weights(type, N, k, &seed);
        w.bytes = bytes;
        run(BACKEND_SCALAR, NULL, &w, false, x, ROWS, NULL, ACT_NONE, false, want, N);
        for (size_t b = 0; b < N_BACKENDS; b++) {
            if (!model_backend_available(backends[b]) ||
                backends[b] == BACKEND_BLAS) /* whose kernels are not ours to order */
                continue;
            for (size_t r = 0; r < ROWS; r++) {
                run(backends[b], pool, &w, false, x + r * k, 1, NULL, ACT_NONE, false, alone + r * N, N);
                CHECK_LE(distance(alone + r * N, want + r * N, N), exact ? 6e-4 : 3e-2);
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
            for (int op = 0; op < 8; op++) {
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
                    case 7:
                        p->geglu(y, u, n);
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
            got[0] = NAN;
            o->geglu(got, u, n);
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
            ops_for(backends[b])->geglu(copy, one, 16);
            for (int i = 0; i < 16; i++) {
                double g = (double)far[i], z = 0.79788456080286536 * (g + 0.044715 * g * g * g);
                CHECK_NEAR(copy[i], 0.5 * g * (1 + tanh(z)), 1e-5 + 1e-6 * fabs(g));
            }
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
        {1,  0,   1,  1, 16,  0 },
        {1,  40,  6,  2, 64,  0 },
        {1,  33,  12, 2, 128, 7 },
        {19, 0,   4,  4, 32,  0 },
        {7,  30,  9,  3, 64,  16},
        {33, 5,   2,  1, 24,  4 },
        {5,  3,   2,  2, 10,  0 },
        {17, 15,  3,  1, 48,  1 },
        {9,  150, 4,  2, 64,  0 },
        {70, 60,  2,  2, 32,  50},
    };
    for (size_t i = 0; i < 3 * (sizeof cases / sizeof cases[0]); i++) {
        enum cache_type type = (enum cache_type)(i % 3);
        size_t rows = cases[i / 3].rows, first = cases[i / 3].first, heads = cases[i / 3].heads,
               total = rows + first, hd = cases[i / 3].hd, kv = cases[i / 3].kv, width = heads * hd,
               n_pages = kv_pages_for(total) + 3;
        struct kv_shape shape;
        struct kv_pool *cache = NULL;
        uint32_t table[16];
        CHECK(kv_shape_init(&shape, type, 2, (uint32_t)kv, (uint32_t)hd));
        CHECK_OK(kv_pool_open(&cache, &shape, (uint32_t)n_pages, &why));
        memset(cache->bytes, 0xff, n_pages * shape.page_bytes); /* NaN: what was never put is never used */
        CHECK(kv_take(cache, table, n_pages));
        for (size_t p = n_pages - 1; p > 0; p--) { /* pages lie anywhere */
            size_t other = test_rand(&seed) % (p + 1);
            uint32_t swap = table[p];
            table[p] = table[other];
            table[other] = swap;
        }
        float *k = malloc(kv * hd * 4), *v = malloc(kv * hd * 4);
        for (size_t p = 0; p < total; p++) {
            for (size_t j = 0; j < kv * hd; j++) {
                k[j] = uniform(&seed) * 2;
                v[j] = uniform(&seed);
            }
            kv_write(cache, table, 1, p, k, v);
        }
        float *q = malloc(rows * width * 4), *want = malloc(rows * width * 4),
              *got = malloc(rows * width * 4);
        for (size_t j = 0; j < rows * width; j++)
            q[j] = uniform(&seed) * 3;
        struct attention_item items[2] = {
            {.table = table, .rows = rows, .first = first}
        };
        struct attention a = {.kv = cache,
                              .layer = 1,
                              .n_head = heads,
                              .window = cases[i / 3].window,
                              .items = items,
                              .n_items = 1,
                              .q = q,
                              .out = want};
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
            for (size_t j = 0; j < rows * width; j++)
                CHECK_NEAR(got[j], want[j], 2e-6);
            /* the same rows cut into two items give the same bits */
            memcpy(want, got, rows * width * 4);
            memset(got, 0, rows * width * 4);
            items[0].rows = rows / 2;
            items[1] = (struct attention_item){
                .table = table, .row = rows / 2, .rows = rows - rows / 2, .first = first + rows / 2};
            a.n_items = 2;
            ops_attention(&c, &a);
            CHECK(memcmp(got, want, rows * width * 4) == 0);
            items[0].rows = rows;
            a.n_items = 1;
            compute_release(&c);
        }
        for (size_t p = 0; p < n_pages; p++)
            kv_unref(cache, table[p]);
        kv_pool_close(cache);
        free(k);
        free(v);
        free(q);
        free(want);
        free(got);
    }
    cairn_pool_close(pool);
}

static void halves_round_as_the_hardware_does(void **state)
{
    UNUSED_STATE(state);
    uint64_t seed = 13;
    for (size_t turn = 0; turn < 20000; turn++) {
        float x[33];
        uint16_t want[33], got[33];
        for (size_t i = 0; i < 33; i++) {
            uint32_t bits = (uint32_t)test_rand(&seed);
            if (turn % 2) /* near the range of halves */
                bits = (bits & 0x807fffffu) | (uint32_t)(96 + test_rand(&seed) % 50) << 23;
            if (turn % 4 == 3) /* ties */
                bits &= 0xfffff000u;
            memcpy(&x[i], &bits, 4);
        }
        kv_half(want, x, 33);
        for (size_t b = 0; b < N_BACKENDS; b++)
            if (model_backend_available(backends[b])) {
                ops_for(backends[b])->half(got, x, 33);
                CHECK(memcmp(got, want, sizeof want) == 0);
            }
        for (size_t i = 0; i < 33; i++) { /* and back: within half a unit */
            float back;
            tensor_dequantize(TENSOR_F16, &want[i], &back, 1);
            if (fabsf(x[i]) < 65504.0f)
                CHECK_LE(fabs((double)back - (double)x[i]), fmax(0x1p-25, fabs((double)x[i]) * 0x1p-11));
        }
    }
}

static void mixed_paths_give_each_row_its_own(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { K = 512, N = 70, ROWS = 40 };
    uint64_t seed = 14;
    for (size_t t = 0; t < N_TYPES; t++) {
        struct weight w = {.type = types[t], .n = N, .k = K, .row_bytes = tensor_type_bytes(types[t], K)};
        uint8_t *bytes = weights(types[t], N, K, &seed);
        static float x[ROWS * K], all[ROWS * N], one[N];
        w.bytes = bytes;
        for (size_t i = 0; i < ROWS * K; i++)
            x[i] =
                uniform(&seed) * (i / K % 3 == 1 && test_rand(&seed) % 40 == 0 ? 60.0f : 1.0f); /* outliers */
        for (size_t b = 0; b < N_BACKENDS; b++) {
            if (!model_backend_available(backends[b]) || backends[b] == BACKEND_BLAS)
                continue;
            struct compute c;
            CHECK_OK(compute_init(&c, &(struct model_opts){.backend = backends[b]}, ROWS, K, 16, &why));
            for (size_t few = 0; few <= ROWS; few += few < 20 ? 1 : 10) {
                ops_matmul_mixed(&c, x, few, ROWS - few, &(struct matmul_job){.w = &w, .y = all, .ld = N}, 1);
                for (size_t r = 0; r < ROWS; r += 3) {
                    ops_matmul_mixed(&c, x + r * K, r < few, r >= few,
                                     &(struct matmul_job){.w = &w, .y = one, .ld = N}, 1);
                    CHECK(memcmp(one, all + r * N, sizeof one) == 0);
                }
            }
            compute_release(&c);
        }
        free(bytes);
    }
}

static void backends_have_names(void **state)
{
    UNUSED_STATE(state);
    for (int b = BACKEND_AUTO; b <= BACKEND_CUDA; b++)
        CHECK_I64_EQ(model_backend_by_name(model_backend_name((enum model_backend)b)), b);
    CHECK_I64_EQ(model_backend_by_name("abacus"), BACKEND_AUTO);
    CHECK(model_backend_available(BACKEND_SCALAR) && model_backend_available(BACKEND_AUTO));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(products_agree),
        TEST(byte_products_agree_with_rounded_inputs),
        TEST(block_products_agree_with_rounded_inputs),
        TEST(few_products_agree_with_rounded_inputs),
        TEST(only_exact_weights_become_bytes),
        TEST(sums_do_not_overflow),
        TEST(nan_is_carried_along_and_stays_in_its_row),
        TEST(a_row_does_not_depend_on_its_company),
        TEST(few_rows_give_the_bits_of_one),
        TEST(row_operations_agree),
        TEST(attention_agrees),
        TEST(halves_round_as_the_hardware_does),
        TEST(mixed_paths_give_each_row_its_own),
        TEST(backends_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
