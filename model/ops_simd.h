/* ops_simd.h - the row operations and attention written once for a vector of floats; ops_avx2.c and
 * ops_avx512.c define the vector and include this file. Needs: V (lanes), vf, vi and the functions named
 * vf_*. Everything is static. */

#include "ops_simd_math.h"

#include <cpuid.h>

/* clang 14 does not know the name "f16c" in __builtin_cpu_supports. */
static inline int cpu_has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* Here and below: the rest behind whole vectors is one more vector, masked. */
static void simd_swiglu(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += V) {
        size_t left = n - i < V ? n - i : V;
        vf g = vf_load_n(gate + i, left), u = vf_load_n(up + i, left);
        vf s = vf_div(g, vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_set(0.0f), g))));
        vf_store_n(gate + i, left, vf_mul(s, u));
    }
}

static void simd_geglu(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += V) {
        size_t left = n - i < V ? n - i : V;
        vf g = vf_load_n(gate + i, left), u = vf_load_n(up + i, left);
        vf z = vf_mul(
            g, vf_fma(vf_mul(g, g), vf_set(-1.5957691216057308f * 0.044715f), vf_set(-1.5957691216057308f)));
        vf_store_n(gate + i, left, vf_mul(vf_div(g, vf_add(vf_set(1.0f), vf_exp(z))), u));
    }
}

static void simd_gelu(float *x, size_t n)
{
    for (size_t i = 0; i < n; i += V) {
        size_t left = n - i < V ? n - i : V;
        vf_store_n(x + i, left, vf_gelu(vf_load_n(x + i, left)));
    }
}

static void simd_add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += V) {
        size_t left = n - i < V ? n - i : V;
        vf_store_n(y + i, left, vf_add(vf_load_n(y + i, left), vf_load_n(x + i, left)));
    }
}

static void simd_rmsnorm(float *y, const float *x, const float *w, size_t n, float eps)
{
    vf s = vf_set(0.0f);
    for (size_t i = 0; i < n; i += V) {
        vf a = vf_load_n(x + i, n - i < V ? n - i : V);
        s = vf_fma(a, a, s);
    }
    vf scale = vf_set(1.0f / __builtin_sqrtf(vf_sum(s) / (float)n + eps));
    for (size_t i = 0; i < n; i += V) {
        size_t left = n - i < V ? n - i : V;
        vf_store_n(y + i, left, vf_mul(vf_mul(vf_load_n(x + i, left), scale), vf_load_n(w + i, left)));
    }
}

static void simd_layernorm(float *y, const float *x, const float *w, const float *b, size_t n, float eps)
{
    vf s = vf_set(0.0f);
    for (size_t i = 0; i < n; i += V)
        s = vf_add(s, vf_load_n(x + i, n - i < V ? n - i : V));
    float mean = vf_sum(s) / (float)n;
    double squares = 0; /* two passes: the difference of large sums would lose the variance */
    vf q = vf_set(0.0f);
    size_t i = 0;
    for (; i + V <= n; i += V) {
        vf a = vf_sub(vf_load_n(x + i, V), vf_set(mean));
        q = vf_fma(a, a, q);
    }
    for (; i < n; i++)
        squares += (double)((x[i] - mean) * (x[i] - mean));
    squares += (double)vf_sum(q);
    vf scale = vf_set((float)(1.0 / __builtin_sqrt(squares / (double)n + (double)eps)));
    for (i = 0; i < n; i += V) {
        size_t left = n - i < V ? n - i : V;
        vf a = vf_mul(vf_sub(vf_load_n(x + i, left), vf_set(mean)), scale);
        vf_store_n(y + i, left, vf_fma(a, vf_load_n(w + i, left), vf_load_n(b + i, left)));
    }
}

/* ---- attention: two small matrix products with a softmax between, queries x keys x head_dim
 * ---------------------- */

/* V elements of the cache; `type` is a constant where this is used, here and below. */
static inline __attribute__((always_inline)) vf cache_load(enum cache_type type, const char *p)
{
    return type == CACHE_F32   ? vf_load((const float *)(const void *)p)
           : type == CACHE_F16 ? vf_load_half(p)
                               : vf_load_int8(p);
}
static inline __attribute__((always_inline)) size_t cache_bytes(enum cache_type type)
{
    return type == CACHE_F32 ? 4 : type == CACHE_F16 ? 2 : 1;
}

static void simd_half(uint16_t *out, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + V <= n; i += V)
        vf_store_half(out + i, vf_load(x + i));
    kv_half(out + i, x + i, n - i);
}

/* Scores of n queries against `runs` runs of one page from run0: 16 keys each, 16 / V vectors. Four sums in
 * flight do not hide the latency of a multiply-add, eight do. */
static inline __attribute__((always_inline)) void attend_runs(const struct attend *a, enum cache_type type,
                                                              unsigned n, unsigned first, size_t run0,
                                                              unsigned runs)
{
    enum { PARTS = KV_RUN / V };
    vf scale = vf_set(a->scale);
    size_t page = attend_page(a, run0 * KV_RUN), at = run0 * KV_RUN % KV_PAGE;
    size_t next = KV_RUN * a->head_dim * cache_bytes(type), vector = V * cache_bytes(type);
    const char *key = a->k + page + at * a->head_dim * cache_bytes(type);
    vf s[4][2];
#pragma GCC unroll 4
    for (unsigned t = 0; t < n; t++)
#pragma GCC unroll 2
        for (unsigned p = 0; p < runs * PARTS; p++)
            s[t][p] = vf_set(0.0f);
    for (size_t i = 0; i < a->head_dim; i++, key += KV_RUN * cache_bytes(type)) {
        vf k[2];
#pragma GCC unroll 2
        for (unsigned p = 0; p < runs * PARTS; p++)
            k[p] = cache_load(type, key + p / PARTS * next + p % PARTS * vector);
#pragma GCC unroll 4
        for (unsigned t = 0; t < n; t++) {
            vf q = vf_set(a->q[first + t][i]);
#pragma GCC unroll 2
            for (unsigned p = 0; p < runs * PARTS; p++)
                s[t][p] = vf_fma(q, k[p], s[t][p]);
        }
    }
#pragma GCC unroll 4
    for (unsigned t = 0; t < n; t++)
#pragma GCC unroll 2
        for (unsigned p = 0; p < runs * PARTS; p++) {
            vf score = vf_mul(s[t][p], scale);
            if (type == CACHE_Q8)
                score =
                    vf_mul(score, vf_load((const float *)(const void *)(a->k_scales + page) + at + p * V));
            vf_store(a->scores + (first + t) * a->scores_ld + run0 * KV_RUN + p * V, score);
        }
}

static inline __attribute__((always_inline)) void attend_scores(const struct attend *a, enum cache_type type,
                                                                unsigned n, unsigned first, size_t run0,
                                                                size_t run1)
{
    if ((int)V == (int)KV_RUN) {
        if (run0 % 2 && run0 < run1) /* a pair of runs lies in one page */
            attend_runs(a, type, n, first, run0++, 1);
        for (; run0 + 2 <= run1; run0 += 2)
            attend_runs(a, type, n, first, run0, 2 * V / KV_RUN);
    }
    for (; run0 < run1; run0++)
        attend_runs(a, type, n, first, run0, 1);
}

/* out[d .. d + parts * V) of n queries. */
static inline __attribute__((always_inline)) void attend_mix(const struct attend *a, enum cache_type type,
                                                             unsigned n, unsigned first, unsigned parts,
                                                             size_t d, size_t j0, size_t j1,
                                                             const float *inverse)
{
    vf o[4][4];
#pragma GCC unroll 4
    for (unsigned t = 0; t < n; t++)
#pragma GCC unroll 4
        for (unsigned p = 0; p < parts; p++)
            o[t][p] = vf_set(0.0f);
    const float *s = a->scores + first * a->scores_ld;
    size_t step = a->head_dim * cache_bytes(type), vector = V * cache_bytes(type);
    for (size_t j = j0; j < j1;) {
        size_t page = attend_page(a, j), at = j % KV_PAGE,
               end = j1 - j < KV_PAGE - at ? j1 : j + KV_PAGE - at;
        const char *value = a->v + page + at * step + d * cache_bytes(type);
        for (; j < end; j++, value += step) {
            vf v[4];
#pragma GCC unroll 4
            for (unsigned p = 0; p < parts; p++)
                v[p] = cache_load(type, value + p * vector);
#pragma GCC unroll 4
            for (unsigned t = 0; t < n; t++) {
                vf w = vf_set(s[t * a->scores_ld + j]);
#pragma GCC unroll 4
                for (unsigned p = 0; p < parts; p++)
                    o[t][p] = vf_fma(w, v[p], o[t][p]);
            }
        }
    }
#pragma GCC unroll 4
    for (unsigned t = 0; t < n; t++)
#pragma GCC unroll 4
        for (unsigned p = 0; p < parts; p++)
            vf_store(a->out[first + t] + d + p * V, vf_mul(o[t][p], vf_set(inverse[t])));
}

static inline __attribute__((always_inline)) void attend_group(const struct attend *a, enum cache_type type,
                                                               unsigned n, unsigned first)
{
    enum { PARTS = V == 16 ? 4 : 2 };
    size_t lo = a->lo[first], hi = a->hi[first];
    for (unsigned t = 1; t < n; t++) {
        lo = a->lo[first + t] < lo ? a->lo[first + t] : lo;
        hi = a->hi[first + t] > hi ? a->hi[first + t] : hi;
    }
    size_t run0 = lo / KV_RUN, run1 = (hi + KV_RUN - 1) / KV_RUN;
    attend_scores(a, type, n, first, run0, run1);
    float inverse[4];
    for (unsigned t = 0; t < n; t++) {
        float *s = a->scores + (first + t) * a->scores_ld;
        size_t l = a->lo[first + t], h = a->hi[first + t];
        vf m = vf_set(-__builtin_inff());
        size_t j = l;
        for (; j + V <= h; j += V)
            m = vf_max(m, vf_load(s + j));
        float max = vf_top(m);
        for (; j < h; j++)
            max = s[j] > max ? s[j] : max;
        vf sum = vf_set(0.0f);
        for (j = l; j < h; j += V) {
            size_t left = h - j < V ? h - j : V;
            vf e = vf_exp(vf_sub(vf_load_n(s + j, left), vf_set(max)));
            vf_store_n(s + j, left, e);
            sum = vf_add(sum, left == V ? e : vf_load_n(s + j, left));
        }
        for (j = lo; j < l; j++)
            s[j] = 0.0f;
        for (j = h; j < hi; j++)
            s[j] = 0.0f;
        inverse[t] = 1.0f / vf_sum(sum);
        for (j = l; type == CACHE_Q8 && j < h; j++) /* the values' scales go with their weights */
            s[j] *= ((const float *)(const void *)(a->v_scales + attend_page(a, j)))[j % KV_PAGE];
    }
    size_t d = 0;
    for (; d + PARTS * V <= a->head_dim; d += PARTS * V)
        attend_mix(a, type, n, first, PARTS, d, lo, hi, inverse);
    for (; PARTS > 2 && d + 2 * V <= a->head_dim; d += 2 * V)
        attend_mix(a, type, n, first, 2, d, lo, hi, inverse);
    for (; d < a->head_dim; d += V)
        attend_mix(a, type, n, first, 1, d, lo, hi, inverse);
}

static inline __attribute__((always_inline)) void attend_type(const struct attend *a, enum cache_type type)
{
    unsigned t = 0;
    for (; t + 4 <= a->n; t += 4)
        attend_group(a, type, 4, t);
    switch (a->n - t) {
    case 3:
        attend_group(a, type, 3, t);
        break;
    case 2:
        attend_group(a, type, 2, t);
        break;
    case 1:
        attend_group(a, type, 1, t);
        break;
    default:
        break;
    }
}

static void simd_attend(const struct attend *a)
{
    if (a->head_dim % V)
        ops_scalar.attend(a);
    else if (a->type == CACHE_F32)
        attend_type(a, CACHE_F32);
    else if (a->type == CACHE_F16)
        attend_type(a, CACHE_F16);
    else
        attend_type(a, CACHE_Q8);
}
