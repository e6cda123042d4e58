/* ops_avx512_int8.c - products of bytes for weights that are bytes already.
 *
 * Encoders that were published as int8 ONNX hold, per output, integers of 8 bits times one number. Kept as
 * those integers nothing of them is lost, vpdpbusd multiplies them at twice the rate of 16-bit pairs, and
 * only the activations are rounded: to 8 bits between the smallest and the largest of each GROUP inputs of a
 * row, zero included. Against float64 that leaves a cosine of 0.9997 and more (docs/measurements.md has the
 * table, and what coarser groups and rounded weights would cost: other weights keep 16 bits for that reason).
 *
 *   activations  [row]: bytes q of all groups, then per group its scale s, then per group s * zero;
 *                x = s * (q - zero)
 *   weights      panels of OPS_PANEL outputs: struct int8_panel, then its groups
 *
 * 12 integer sums and 12 float sums (6 rows x 2 vectors of 16 outputs) stay in registers for a whole row. A
 * row's result depends on that row alone. */
#include "ops_avx512.h"

#include "quant_rows.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { GROUP = 64, QUADS = GROUP / 4, ROWS = 6 };
struct int8_group {
    int8_t quad[QUADS][OPS_PANEL][4]; /* zero past k and past n */
    float sum[OPS_PANEL];             /* of a group's integers: what `zero` adds is taken off with it */
};
struct int8_panel {
    float scale[OPS_PANEL];
    struct int8_group group[];
};
_Static_assert(sizeof(struct int8_group) % 64 == 0 && sizeof(struct int8_panel) % 64 == 0, "aligned vectors");

static inline size_t groups_of(size_t k) { return (k + GROUP - 1) / GROUP; }
static inline size_t panel_bytes(size_t k)
{
    return sizeof(struct int8_panel) + groups_of(k) * sizeof(struct int8_group);
}
static inline size_t row_bytes(size_t k)
{
    return groups_of(k) * GROUP + (2 * groups_of(k) * sizeof(float) + 63) / 64 * 64;
}
size_t int8_shared_bytes(size_t rows, size_t k) { return rows * row_bytes(k); }

/* ---- weights ---- */

/* How many of w's largest value a step goes into: the least count of 127 or less for which all of w are whole
 * steps, to float precision; 0: w is zero; below 0: there is none. */
static int steps_of(const float *w, size_t k, float *top)
{
    const float off_max = 6e-5f; /* 127 times what two roundings leave */
    float most = 0.0f, sum = 0.0f;
    for (size_t i = 0; i < k; i++) {
        float a = fabsf(w[i]);
        most = a > most ? a : most;
        sum += a; /* carries NaN along */
    }
    *top = most;
    if (most == 0.0f && sum == 0.0f)
        return 0;
    if (!(sum < FLT_MAX) || most < FLT_MIN * 256)
        return -1;
    for (int steps = 1; steps <= 127; steps++) {
        float by = (float)steps / most, off = 0.0f;
        for (size_t i = 0; i < k && off <= off_max; i += 16) { /* most counts fail in the first sixteen */
            size_t end = i + 16 < k ? i + 16 : k;
            for (size_t j = i; j < end; j++) {
                float v = w[j] * by, d = fabsf(v - rintf(v));
                off = d > off ? d : off;
            }
        }
        if (off <= off_max)
            return steps;
    }
    return -1;
}

enum int8_packed int8_pack(struct weight *w)
{
    size_t panels = (w->n + OPS_PANEL - 1) / OPS_PANEL, bytes = panel_bytes(w->k),
           padded = groups_of(w->k) * GROUP;
    float *row = cairn_reallocarray(NULL, padded, sizeof *row);
    char *out = cairn_aligned(64, panels * bytes);
    enum int8_packed done = row && out ? INT8_PACKED : INT8_NO_MEMORY;
    if (out)
        memset(out, 0, panels * bytes);
    for (size_t o = 0; o < w->n && done == INT8_PACKED; o++) {
        struct int8_panel *p = (struct int8_panel *)(void *)(out + o / OPS_PANEL * bytes);
        size_t at = o % OPS_PANEL;
        float top;
        weight_row(w, o, row);
        memset(row + w->k, 0, (padded - w->k) * sizeof *row);
        int steps = steps_of(row, w->k, &top);
        if (steps < 0)
            done = INT8_NOT_EXACT;
        if (steps <= 0)
            continue;
        float by = (float)steps / top;
        p->scale[at] = top / (float)steps;
        for (size_t g = 0; g < groups_of(w->k); g++) {
            int8_t q[GROUP];
            int sum = 0;
            for (size_t i = 0; i < GROUP; i++) {
                q[i] = (int8_t)rintf(row[g * GROUP + i] * by);
                sum += q[i];
            }
            for (size_t i = 0; i < QUADS; i++)
                memcpy(p->group[g].quad[i][at], q + 4 * i, 4);
            p->group[g].sum[at] = (float)sum;
        }
    }
    cairn_free(row);
    if (done == INT8_PACKED) {
        w->packed = out;
        w->form = WEIGHT_BYTES;
    } else {
        cairn_free(out);
    }
    return done;
}

/* ---- activations ---- */

/* (largest of a, largest of b) in the two lowest lanes. */
static inline __m128 tops(__m512 a, __m512 b)
{
    __m256 x = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m256 y = _mm256_max_ps(_mm512_castps512_ps256(b), _mm512_extractf32x8_ps(b, 1));
    __m256 z = _mm256_max_ps(_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(z), _mm256_extractf128_ps(z, 1));
    return _mm_max_ps(h, _mm_movehl_ps(h, h));
}

static inline void group_make(const float *x, size_t left, uint8_t *q, float *scale, float *zero)
{
    vf v[4], high = vf_set(0.0f), low = high;
    __mmask16 odd = 0;
#pragma GCC unroll 4
    for (size_t u = 0; u < 4; u++) {
        size_t n = left >= 16 * u + 16 ? 16 : left > 16 * u ? left - 16 * u : 0;
        v[u] = n == 16 ? vf_load(x + 16 * u) : vf_load_n(x + (n ? 16 * u : 0), n);
        high = vf_max(high, v[u]);
        low = vf_min(low, v[u]);
        odd |= _mm512_fpclass_ps_mask(v[u], 0x99); /* NaN, infinities */
    }
    __m128 t = tops(high, vf_sub(vf_set(0.0f), low));
    float below = _mm_cvtss_f32(_mm_movehdup_ps(t)), s = (_mm_cvtss_f32(t) + below) * (1.0f / 255.0f);
    s = s > 1e-30f ? s : 0.0f;
    float inverse = s > 0 ? 1.0f / s : 0.0f, z = rintf(below * inverse);
#pragma GCC unroll 4
    for (size_t u = 0; u < 4; u++) {
        /* z is rounded from the rounded product, the sum from the exact one: the least value may come out as
         * a little more than half below zero, and narrowing would take -1 for the largest byte */
        __m512i steps = _mm512_cvtps_epi32(vf_fma(v[u], vf_set(inverse), vf_set(z)));
        steps = _mm512_max_epi32(steps, _mm512_setzero_si512());
        _mm_storeu_si128((__m128i *)(void *)(q + 16 * u), _mm512_cvtusepi32_epi8(steps));
    }
    *scale = odd ? NAN : s;
    *zero = s * z;
}

void int8_prepare(const struct compute *c, const float *x, size_t k, size_t begin, size_t end)
{
    size_t groups = groups_of(k);
    for (size_t r = begin; r < end; r++) {
        uint8_t *q = (uint8_t *)c->shared + r * row_bytes(k);
        float *scale = (float *)(void *)(q + groups * GROUP), *zero = scale + groups;
        for (size_t g = 0; g < groups; g++)
            group_make(x + r * k + g * GROUP, k - g * GROUP, q + g * GROUP, scale + g, zero + g);
    }
}

/* ---- products ---- */

/* As in ops_avx512.c: named sums and an asm line, or gcc 12 moves every sum to memory and back. */
static inline __m512i dot_quads(__m512i sum, __m512i a, __m512i w)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(w));
    return sum;
}
static inline int32_t quad_at(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return v;
}
#define EACH_ROW(one) one(0) one(1) one(2) one(3) one(4) one(5)
#define ROW_START(r) vf y##r = vf_set(0.0f), z##r = y##r;
#define ROW_ZERO(r) __m512i a##r = _mm512_setzero_si512(), b##r = a##r;
#define ROW_STEP(r)                                                                                          \
    if (rows > r) {                                                                                          \
        __m512i x = _mm512_set1_epi32(quad_at(a + r * stride + 4 * p));                                      \
        a##r = dot_quads(a##r, x, w0);                                                                       \
        b##r = dot_quads(b##r, x, w1);                                                                       \
    }
#define ROW_SUM(r)                                                                                           \
    if (rows > r) {                                                                                          \
        const float *scale = (const float *)(const void *)(scales + r * stride);                             \
        vf s = vf_set(scale[g]), t = vf_set(scale[groups + g]);                                              \
        y##r = _mm512_fnmadd_ps(t, o0, vf_fma(_mm512_cvtepi32_ps(a##r), s, y##r));                           \
        z##r = _mm512_fnmadd_ps(t, o1, vf_fma(_mm512_cvtepi32_ps(b##r), s, z##r));                           \
    }
#define ROW_STORE(r)                                                                                         \
    if (rows > r) {                                                                                          \
        vf_store(sums + r * OPS_PANEL, vf_mul(y##r, s0));                                                    \
        vf_store(sums + r * OPS_PANEL + 16, vf_mul(z##r, s1));                                               \
    }
static inline __attribute__((always_inline)) void rows_run(const uint8_t *a, size_t stride, size_t groups,
                                                           const struct int8_panel *w, float *sums,
                                                           unsigned rows)
{
    const uint8_t *scales = a + groups * GROUP;
    EACH_ROW(ROW_START)
    for (size_t g = 0; g < groups; g++, a += GROUP) {
        const struct int8_group *wg = &w->group[g];
        EACH_ROW(ROW_ZERO)
        for (size_t p = 0; p < QUADS; p++) {
            __m512i w0 = _mm512_load_si512(wg->quad[p]), w1 = _mm512_load_si512(wg->quad[p] + 16);
            EACH_ROW(ROW_STEP)
        }
        vf o0 = _mm512_load_ps(wg->sum), o1 = _mm512_load_ps(wg->sum + 16);
        EACH_ROW(ROW_SUM)
    }
    vf s0 = _mm512_load_ps(w->scale), s1 = _mm512_load_ps(w->scale + 16);
    EACH_ROW(ROW_STORE)
}

#define ROWS_CASE(n)                                                                                         \
    case n:                                                                                                  \
        rows_run(a, row_bytes(k), groups_of(k), w, sums, n);                                                 \
        break
void int8_panel(const struct compute *c, const struct matmul_job *job, size_t n0, size_t n1, size_t r0,
                size_t r1)
{
    size_t k = job->w->k;
    const struct int8_panel *w =
        (const void *)((const char *)job->w->packed + n0 / OPS_PANEL * panel_bytes(k));
    for (size_t r = r0; r < r1; r += ROWS) {
        const uint8_t *a = (const uint8_t *)c->shared + r * row_bytes(k);
        float sums[ROWS * OPS_PANEL];
        size_t n = r1 - r < ROWS ? r1 - r : ROWS;
        switch (n) {
            ROWS_CASE(1);
            ROWS_CASE(2);
            ROWS_CASE(3);
            ROWS_CASE(4);
            ROWS_CASE(5);
        default:
            rows_run(a, row_bytes(k), groups_of(k), w, sums, ROWS);
            break;
        }
        for (size_t i = 0; i < n; i++)
            finish(job, sums + i * OPS_PANEL, r + i, n0, n1);
    }
}
