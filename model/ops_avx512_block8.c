/* ops_avx512_block8.c - the rows of a prompt: block weights as the file has them, times inputs of 8 bits.
 *
 * A superblock of weights becomes unsigned bytes once for up to OPS_ROW_CHUNK rows; vpdpbusd multiplies them
 * with signed bytes at twice the rate of 16-bit pairs. Weights lose nothing: their integers fit, and scale
 * and min of a run are applied to its sum. Inputs are rounded to |q| <= 127 against one scale per RUN of 32.
 *
 * Outliers. Trained models have inputs many times larger than their neighbours; a scale that fits them leaves
 * the other 31 few bits. An outlier is the largest of its run where its square exceeds that of the second
 * largest by OUTLIER times the row's mean of the latter: there the scale is made for the second, and what the
 * byte of the largest lacks is multiplied in float and added. A tenth of the runs have one; without, the
 * error of the logits is two to five times as large (docs/measurements.md).
 *
 *   activations  [row][superblock]: struct act_block, then [segment of SEGMENT rows][superblock]: struct
 * lacks weights      struct panel_block in the worker's scratch, for one superblock x OPS_PANEL outputs
 *
 * 12 integer and 12 float sums (6 rows x 2 vectors of 16 outputs) stay in registers over a superblock;
 * between superblocks the float sums wait in the scratch. A row's result depends on that row alone. */
#include "ops_avx512.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    WIDE = 256,
    RUN = 32,
    RUNS = WIDE / RUN,
    HALVES = WIDE / 16,
    QUADS = WIDE / 4,
    ROWS = 6,
    SEGMENT = 12
};
#define OUTLIER 4.0f

struct act_block {
    _Alignas(64) int8_t q[WIDE];  /* zero past k */
    float scale[RUNS], sum[RUNS]; /* sum: of a run's rounded values, scaled */
    int32_t half[HALVES];         /* -32 times the sum of 16 q: what the offset of Q6_K adds */
};
struct lacks {
    _Alignas(64) uint32_t n;
    struct {
        float value; /* the outlier less scale * q */
        uint8_t row, at;
    } of[SEGMENT * RUNS];
};
struct panel_block {
    _Alignas(64) uint8_t quad[QUADS][OPS_PANEL][4];
    /* weight = scale * byte + min, per run of 32; Q6_K: per 16 */
    float scale[HALVES][OPS_PANEL], min[HALVES][OPS_PANEL];
};

static inline size_t wide_of(size_t k) { return (k + WIDE - 1) / WIDE; }
static inline size_t segments_of(size_t rows) { return (rows + SEGMENT - 1) / SEGMENT; }
size_t block8_shared_bytes(size_t rows, size_t k)
{
    return wide_of(k) * (rows * sizeof(struct act_block) + segments_of(rows) * sizeof(struct lacks));
}
static inline struct act_block *acts_at(const struct compute *c, size_t rows, size_t b, size_t row)
{
    return (struct act_block *)(void *)c->shared + b * rows + row;
}
static inline struct lacks *lacks_at(const struct compute *c, size_t rows, size_t k, size_t b, size_t row)
{
    return (struct lacks *)(void *)acts_at(c, rows, wide_of(k), 0) + b * segments_of(rows) + row / SEGMENT;
}

size_t block8_worker_bytes(void)
{
    return sizeof(struct panel_block) + (size_t)OPS_ROW_CHUNK * OPS_PANEL * sizeof(float);
}

/* ---- activations ---- */

/* The largest and the second largest |x| of a run; place: of the largest, or RUN when it is not alone. */
struct run_top {
    float first, second;
    unsigned place;
};
static struct run_top run_top(const float *x)
{
    vf a0 = vf_abs(vf_load(x)), a1 = vf_abs(vf_load(x + 16));
    struct run_top t = {.first = vf_top(vf_max(a0, a1)), .place = RUN};
    uint32_t is_top = _mm512_cmp_ps_mask(a0, vf_set(t.first), _CMP_EQ_OQ) |
                      (uint32_t)_mm512_cmp_ps_mask(a1, vf_set(t.first), _CMP_EQ_OQ) << 16;
    t.second = t.first;
    if (is_top && !(is_top & (is_top - 1))) {
        t.second = vf_top(vf_max(_mm512_maskz_mov_ps((__mmask16)~is_top, a0),
                                 _mm512_maskz_mov_ps((__mmask16) ~(is_top >> 16), a1)));
        t.place = (unsigned)__builtin_ctz(is_top);
    }
    return t;
}

static void run_make(const float *x, float top, struct act_block *b, size_t run)
{
    vf v0 = vf_load(x), v1 = vf_load(x + 16);
    bool odd = _mm512_fpclass_ps_mask(v0, 0x99) | _mm512_fpclass_ps_mask(v1, 0x99); /* NaN, infinities */
    float s = top * (1.0f / 127.0f);
    s = s > 1e-30f ? s : 0.0f; /* what is smaller cannot be inverted, nor seen */
    float inverse = s > 0 ? 1.0f / s : 0.0f;
    __mmask16 finite = odd ? 0 : 0xffff;
    const __m512i most = _mm512_set1_epi32(127), least = _mm512_set1_epi32(-127);
    __m512i q0 = _mm512_maskz_cvtps_epi32(finite, vf_mul(v0, vf_set(inverse)));
    __m512i q1 = _mm512_maskz_cvtps_epi32(finite, vf_mul(v1, vf_set(inverse)));
    q0 = _mm512_max_epi32(_mm512_min_epi32(q0, most), least);
    q1 = _mm512_max_epi32(_mm512_min_epi32(q1, most), least);
    _mm_storeu_si128((__m128i *)(void *)(b->q + run * RUN), _mm512_cvtepi32_epi8(q0));
    _mm_storeu_si128((__m128i *)(void *)(b->q + run * RUN + 16), _mm512_cvtepi32_epi8(q1));
    int32_t s0 = _mm512_reduce_add_epi32(q0), s1 = _mm512_reduce_add_epi32(q1);
    b->half[2 * run] = -32 * s0;
    b->half[2 * run + 1] = -32 * s1;
    b->scale[run] = odd ? NAN : s;
    b->sum[run] = (float)(s0 + s1) * s;
}

/* k is a multiple of every type's block, so of RUN. */
static void row_make(const struct compute *c, const float *x, size_t rows, size_t k, size_t row)
{
    float mean = 0.0f;
    if (k % WIDE)
        memset(acts_at(c, rows, k / WIDE, row), 0, sizeof(struct act_block));
    for (size_t at = 0; at < k; at += RUN) {
        struct act_block *to = acts_at(c, rows, at / WIDE, row);
        size_t run = at % WIDE / RUN;
        struct run_top t = run_top(x + at);
        to->scale[run] = t.first; /* until the run is made */
        to->sum[run] = t.second;
        to->half[2 * run] = (int32_t)t.place;
        mean += t.second * t.second;
    }
    float least = OUTLIER * mean / (float)(k / RUN);
    for (size_t at = 0; at < k; at += RUN) {
        struct act_block *to = acts_at(c, rows, at / WIDE, row);
        size_t run = at % WIDE / RUN, place = (size_t)to->half[2 * run];
        float first = to->scale[run], second = to->sum[run];
        bool outlier = place < RUN && first * first - second * second > least && first < FLT_MAX;
        run_make(x + at, outlier ? second : first, to, run);
        if (outlier && to->scale[run] >= 0) { /* not NaN */
            struct lacks *l = lacks_at(c, rows, k, at / WIDE, row);
            l->of[l->n].value = x[at + place] - to->scale[run] * (float)to->q[run * RUN + place];
            l->of[l->n].row = (uint8_t)(row % SEGMENT);
            l->of[l->n++].at = (uint8_t)(run * RUN + place);
        }
    }
}

void block8_prepare(const struct compute *c, const float *x, size_t rows, size_t k, size_t begin, size_t end)
{
    for (size_t r = begin; r < end; r++) {
        for (size_t b = 0; r % SEGMENT == 0 && b < wide_of(k); b++)
            lacks_at(c, rows, k, b, r)->n = 0;
        row_make(c, x + r * k, rows, k, r);
    }
}

/* ---- weights ---- */

/* One output's superblock as 256 bytes in order. */
static void unpack_k45(const uint8_t *b, uint8_t *q, float *scale, float *min, bool five)
{
    float d = quant_f16(quant_u16(b)), dmin = quant_f16(quant_u16(b + 2));
    struct k_scales s = k_scales(b + 4);
    _mm256_storeu_ps(scale, _mm256_mul_ps(_mm512_castps512_ps256(s.scale), _mm256_set1_ps(d)));
    _mm256_storeu_ps(min, _mm256_mul_ps(s.min, _mm256_set1_ps(-dmin)));
    const __m512i low = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16);
    __m512i high = _mm512_setzero_si512();
    if (five) /* bits 2i and 2i + 1 belong to runs 2i and 2i + 1 */
        high = pair256(load256(b + 16), _mm256_srli_epi16(load256(b + 16), 1));
    for (size_t i = 0; i < 4; i++) {
        __m256i v = load256(b + (five ? 48 : 16) + 32 * i);
        __m512i w = _mm512_and_si512(pair256(v, _mm256_srli_epi16(v, 4)), low);
        if (five) {
            __m512i h = _mm512_srl_epi16(high, _mm_cvtsi32_si128(2 * (int)i));
            w = _mm512_or_si512(w, _mm512_and_si512(_mm512_slli_epi16(h, 4), fifth));
        }
        _mm512_storeu_si512(q + 64 * i, w);
    }
}

static void unpack_q6_k(const uint8_t *b, uint8_t *q, float *scale, float *min)
{
    vf s = vf_mul(
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(b + 192)))),
        vf_set(quant_f16(quant_u16(b + 208))));
    vf_store(scale, s);
    vf_store(min, vf_mul(s, vf_set(-32.0f)));
    const __m512i nibble = _mm512_set1_epi8(15), pair = _mm512_set1_epi8(0x30);
    for (size_t half = 0; half < 2; half++) {
        __m512i low = _mm512_loadu_si512(b + 64 * half);
        __m256i h = load256(b + 128 + 32 * half);
        __m512i high = pair256(h, _mm256_srli_epi16(h, 2));
        _mm512_storeu_si512(q + 128 * half,
                            _mm512_or_si512(_mm512_and_si512(low, nibble),
                                            _mm512_and_si512(_mm512_slli_epi16(high, 4), pair)));
        _mm512_storeu_si512(q + 128 * half + 64,
                            _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(low, 4), nibble),
                                            _mm512_and_si512(high, pair)));
    }
}

static void unpack_32(enum tensor_type t, const uint8_t *b, uint8_t *q, float *scale, float *min)
{
    float d = quant_f16(quant_u16(b));
    __m256i v;
    *scale = d;
    switch (t) {
    case TENSOR_Q4_0:
        v = nibbles(b + 2);
        *min = -8.0f * d;
        break;
    case TENSOR_Q4_1:
        v = nibbles(b + 4);
        *min = quant_f16(quant_u16(b + 2));
        break;
    case TENSOR_Q5_0:
        v = _mm256_or_si256(nibbles(b + 6), fifths(b + 2));
        *min = -16.0f * d;
        break;
    case TENSOR_Q5_1:
        v = _mm256_or_si256(nibbles(b + 8), fifths(b + 4));
        *min = quant_f16(quant_u16(b + 2));
        break;
    default: /* Q8_0: the sign bit turned over adds 128 */
        v = _mm256_xor_si256(load256(b + 2), _mm256_set1_epi8((char)0x80));
        *min = -128.0f * d;
        break;
    }
    _mm256_storeu_si256((__m256i *)(void *)q, v);
}

/* Outputs [n0, n1) of superblock b, `runs` of it there; missing outputs are zero. */
static void unpack(const struct weight *w, size_t n0, size_t n1, size_t b, size_t runs,
                   struct panel_block *out)
{
    _Alignas(64) uint8_t q[OPS_PANEL][WIDE];
    _Alignas(64) float scale[OPS_PANEL][HALVES] = {{0}}, min[OPS_PANEL][HALVES] = {{0}};
    size_t skip = tensor_type_bytes(w->type, b * WIDE), wide = tensor_type_bytes(w->type, WIDE),
           size = wide / RUNS;
    for (size_t o = 0; o < OPS_PANEL; o++) {
        if (n0 + o >= n1) {
            memset(q[o], 0, WIDE);
            continue;
        }
        const uint8_t *p = w->bytes + (n0 + o) * w->row_bytes + skip;
        for (size_t ahead = 0; ahead < wide; ahead += 64) /* too many streams for the hardware to follow */
            __builtin_prefetch(p + wide + ahead);
        if (w->type == TENSOR_Q4_K || w->type == TENSOR_Q5_K)
            unpack_k45(p, q[o], scale[o], min[o], w->type == TENSOR_Q5_K);
        else if (w->type == TENSOR_Q6_K)
            unpack_q6_k(p, q[o], scale[o], min[o]);
        else
            for (size_t i = 0; i < runs; i++)
                unpack_32(w->type, p + i * size, q[o] + i * RUN, scale[o] + i, min[o] + i);
    }
    for (size_t o = 0; o < OPS_PANEL; o += 16) {
        for (size_t i = 0; i < runs * RUN / 4; i += 16)
            transpose16((const int32_t *)(const void *)q[o] + i, WIDE / 4, (int32_t *)(void *)out->quad[i][o],
                        OPS_PANEL);
        transpose16((const int32_t *)(const void *)scale[o], HALVES, (int32_t *)(void *)&out->scale[0][o],
                    OPS_PANEL);
        transpose16((const int32_t *)(const void *)min[o], HALVES, (int32_t *)(void *)&out->min[0][o],
                    OPS_PANEL);
    }
}

/* ---- products ---- */

/* As in ops_avx512.c: named sums and an asm line, or gcc 12 moves every sum to memory and back. */
static inline __m512i dot_quads(__m512i sum, __m512i w, __m512i a)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(a));
    return sum;
}
static inline int32_t quad_at(const int8_t *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return v;
}
#define EACH_ROW(one) one(0) one(1) one(2) one(3) one(4) one(5)
#define ROW_LOAD(r)                                                                                          \
    vf y##r = vf_set(0.0f), z##r = y##r;                                                                     \
    const struct act_block *x##r = a + (rows > r ? r : 0);                                                   \
    if (rows > r) {                                                                                          \
        y##r = vf_load(sums + r * OPS_PANEL);                                                                \
        z##r = vf_load(sums + r * OPS_PANEL + 16);                                                           \
    }
#define ROW_ZERO(r)                                                                                          \
    __m512i a##r = halves ? _mm512_set1_epi32(x##r->half[i]) : _mm512_setzero_si512(), b##r = a##r;
#define ROW_STEP(r)                                                                                          \
    if (rows > r) {                                                                                          \
        __m512i v = _mm512_set1_epi32(quad_at(x##r->q + 4 * p));                                             \
        a##r = dot_quads(a##r, w0, v);                                                                       \
        b##r = dot_quads(b##r, w1, v);                                                                       \
    }
#define ROW_SUM(r)                                                                                           \
    if (rows > r) {                                                                                          \
        vf s = vf_set(x##r->scale[i / (halves ? 2 : 1)]);                                                    \
        y##r = vf_fma(_mm512_cvtepi32_ps(a##r), vf_mul(s, s0), y##r);                                        \
        z##r = vf_fma(_mm512_cvtepi32_ps(b##r), vf_mul(s, s1), z##r);                                        \
        if (!halves) {                                                                                       \
            vf t = vf_set(x##r->sum[i]);                                                                     \
            y##r = vf_fma(t, m0, y##r);                                                                      \
            z##r = vf_fma(t, m1, z##r);                                                                      \
        }                                                                                                    \
    }
#define ROW_STORE(r)                                                                                         \
    if (rows > r) {                                                                                          \
        vf_store(sums + r * OPS_PANEL, y##r);                                                                \
        vf_store(sums + r * OPS_PANEL + 16, z##r);                                                           \
    }
/* halves: Q6_K, a scale per 16 and the offset as the integer sum's start. */
static inline __attribute__((always_inline)) void rows_run(const struct act_block *a,
                                                           const struct panel_block *w, size_t runs,
                                                           float *sums, unsigned rows, bool halves)
{
    EACH_ROW(ROW_LOAD)
    size_t steps = halves ? 4 : 8;
    for (size_t i = 0, p = 0; i < (halves ? 2 * runs : runs); i++) {
        EACH_ROW(ROW_ZERO)
        for (size_t end = p + steps; p < end; p++) {
            __m512i w0 = _mm512_load_si512(w->quad[p]), w1 = _mm512_load_si512(w->quad[p] + 16);
            EACH_ROW(ROW_STEP)
        }
        vf s0 = vf_load(w->scale[i]), s1 = vf_load(w->scale[i] + 16);
        vf m0 = vf_load(w->min[i]), m1 = vf_load(w->min[i] + 16);
        EACH_ROW(ROW_SUM)
    }
    EACH_ROW(ROW_STORE)
}

/* What the bytes of outliers lack; sums: of the segment's first row. */
static void lacks_add(const struct lacks *l, const struct panel_block *w, float *sums, bool halves)
{
    for (size_t j = 0; j < l->n; j++) {
        size_t at = l->of[j].at, i = at / (halves ? 16 : RUN);
        float *to = sums + l->of[j].row * (size_t)OPS_PANEL;
        vf x = vf_set(l->of[j].value);
        __m128i shift = _mm_cvtsi32_si128(8 * (int)(at % 4));
        for (size_t o = 0; o < OPS_PANEL; o += 16) {
            __m512i q = _mm512_srl_epi32(_mm512_load_si512(w->quad[at / 4] + o), shift);
            vf v = vf_fma(_mm512_cvtepi32_ps(_mm512_and_si512(q, _mm512_set1_epi32(255))),
                          vf_load(w->scale[i] + o), vf_load(w->min[i] + o));
            vf_store(to + o, vf_fma(x, v, vf_load(to + o)));
        }
    }
}

#define ROWS_CASE(n)                                                                                         \
    case n:                                                                                                  \
        if (halves)                                                                                          \
            rows_run(a, w, runs, to, n, true);                                                               \
        else                                                                                                 \
            rows_run(a, w, runs, to, n, false);                                                              \
        break
void block8_panel(const struct compute *c, const struct matmul_job *job, size_t rows, size_t n0, size_t n1,
                  size_t r0, size_t r1, void *scratch)
{
    struct panel_block *w = scratch;
    float *sums = (float *)(void *)(w + 1);
    size_t k = job->w->k, wide = wide_of(k);
    bool halves = job->w->type == TENSOR_Q6_K;
    memset(sums, 0, (r1 - r0) * OPS_PANEL * sizeof *sums);
    for (size_t b = 0; b < wide; b++) {
        size_t left = k - b * WIDE, runs = left < WIDE ? left / RUN : RUNS;
        unpack(job->w, n0, n1, b, runs, w);
        for (size_t r = r0; r < r1; r += ROWS) {
            const struct act_block *a = acts_at(c, rows, b, r);
            float *to = sums + (r - r0) * OPS_PANEL;
            switch (r1 - r < ROWS ? r1 - r : ROWS) {
                ROWS_CASE(1);
                ROWS_CASE(2);
                ROWS_CASE(3);
                ROWS_CASE(4);
                ROWS_CASE(5);
                ROWS_CASE(6);
            default:
                break;
            }
        }
        for (size_t r = r0; r < r1; r += SEGMENT)
            lacks_add(lacks_at(c, rows, k, b, r), w, sums + (r - r0) * OPS_PANEL, halves);
    }
    for (size_t r = r0; r < r1; r++)
        finish(job, sums + (r - r0) * OPS_PANEL, r, n0, n1);
}
_Static_assert(OPS_ROW_CHUNK % SEGMENT == 0 && SEGMENT % ROWS == 0, "a unit of rows is whole segments");
