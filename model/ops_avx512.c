/* ops_avx512.c - AVX-512 with VNNI: integer products, float32 in and out.
 *
 * Many rows. Activations and weights become 16-bit integers with one float scale per RUN inputs, and vpdpwssd
 * does 32 multiply-adds an instruction, twice the rate of float FMA. Activations are rounded to |a| <=
 * ACT_MAX (15 bits with the sign); a run of weights is scaled so that the sum of its |w| times ACT_MAX stays
 * below 2^31, so no sum can overflow whatever the file holds; that leaves 13 to 14 bits for usual weights.
 * Runs of 128 are a tenth faster, but outliers then cost the small models' logits 1e-2 in places; with 32 the
 * worst seen is 2e-3.
 *
 * Weights of the block types are not rounded: their integers are small enough for exact sums, and what an
 * offset type adds to each weight is taken from the sum of the run's activations, once per run.
 *
 * - activations: tiles of 12 rows, [tile][run][pair][row 0..11] as pairs of int16; then
 *   [tile][run][32] floats: the scales of 12 rows from 0, the sums of their rounded values, scaled, from 16
 * - weights: struct wrun, 32 outputs x RUN inputs, [pair][output] as pairs of int16
 *
 * 24 accumulators (12 rows x 2 vectors of 16 outputs) stay in registers over a run; the runs of one
 * superblock (17 KiB) stay in the first-level cache for all rows.
 *
 * Few rows: ops_avx512_few.c. */
#include "ops_avx512.h"
#include "ops_avx512_few.h"

#include "ops_simd.h"

#include <pthread.h>
#include <string.h>

enum {
    RUN = 32, /* inputs that share a scale, many rows */
    PAIRS = RUN / 2,
    VECTORS = RUN / 16,
    TILE = 12,      /* rows in registers */
    ACT_MAX = 16383 /* many rows */
};
/* (2^31 - 1) / ACT_MAX, less a half for each rounding of a run and what float sums may be off. */
#define WEIGHT_SUM_MAX ((float)(INT32_MAX / ACT_MAX - RUN / 2 - 64))
#define WEIGHT_MAX 32000.0f

struct wrun {
    float scale[OPS_PANEL], min[OPS_PANEL]; /* weight = scale * integer + min */
    int32_t pair[PAIRS][OPS_PANEL];
};
static inline size_t runs_of(size_t k) { return (k + RUN - 1) / RUN; }
static inline size_t tile_bytes(size_t k) { return runs_of(k) * (PAIRS * TILE * 4 + 128); }

static size_t shared_bytes(size_t rows, size_t k)
{
    size_t many = (rows + TILE - 1) / TILE * tile_bytes(k), few = few_shared_bytes(k);
    size_t bytes = int8_shared_bytes(rows, k), blocks = block8_shared_bytes(rows, k);
    many = many > bytes ? many : bytes;
    many = many > blocks ? many : blocks;
    return many > few ? many : few;
}
enum { UNPACK_RUNS = 256 / RUN }; /* a superblock at a time */
static size_t worker_bytes(size_t rows, size_t k)
{
    (void)rows;
    (void)k;
    size_t words = UNPACK_RUNS * sizeof(struct wrun) + (size_t)OPS_ROW_CHUNK * OPS_PANEL * sizeof(float),
           few = few_worker_bytes() + (size_t)FEW_MAX * OPS_PANEL * sizeof(float),
           blocks = block8_worker_bytes();
    words = words > few ? words : few;
    return words > blocks ? words : blocks;
}

/* Rows [row, row + n) of x, a tile or the start of one; the rest of the tile becomes zero. */
static void tile_make(const struct compute *c, const float *x, size_t k, size_t row, size_t n)
{
    char *tile = c->shared + row / TILE * tile_bytes(k);
    float *scales = (float *)(void *)(tile + runs_of(k) * PAIRS * TILE * 4);
    const __mmask16 rows = (1u << TILE) - 1;
    for (size_t b = 0; b < runs_of(k); b++) {
        int32_t in[16][PAIRS], turned[PAIRS][16];
        float s[16] = {0};
        size_t at = b * RUN, left0 = k - at < 16 ? k - at : 16,
               left1 = k - at <= 16       ? 0
                       : k - at - 16 < 16 ? k - at - 16
                                          : 16;
        for (size_t r = 0; r < n; r++) {
            const float *p = x + (row + r) * k + at;
            vf v0 = vf_load_n(p, left0), v1 = vf_load_n(p + (left1 ? 16 : 0), left1);
            float top = vf_top(vf_max(vf_abs(v0), vf_abs(v1))), inverse;
            s[r] = top * (1.0f / ACT_MAX);
            inverse = s[r] > 0 ? 1.0f / s[r] : 0.0f;
            __m256i q0 = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(vf_mul(v0, vf_set(inverse))));
            __m256i q1 = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(vf_mul(v1, vf_set(inverse))));
            _mm512_storeu_si512(in[r], pair256(q0, q1));
            if (_mm512_fpclass_ps_mask(v0, 0x99) | _mm512_fpclass_ps_mask(v1, 0x99)) /* NaN, infinities */
                s[r] = __builtin_nanf("");
        }
        for (size_t r = n; r < 16; r++)
            _mm512_storeu_si512(in[r], _mm512_setzero_si512());
        transpose16(in[0], PAIRS, turned[0], 16);
        int32_t *out = (int32_t *)(void *)tile + b * PAIRS * TILE;
        __m512i total = _mm512_setzero_si512();
#pragma GCC unroll 16
        for (size_t p = 0; p < PAIRS; p++) {
            __m512i v = _mm512_loadu_si512(turned[p]);
            total = _mm512_dpwssd_epi32(total, v, _mm512_set1_epi16(1));
            _mm512_mask_storeu_epi32(out + p * TILE, rows, v);
        }
        vf_store(scales + b * 32, vf_load(s));
        vf_store(scales + b * 32 + 16, vf_mul(_mm512_cvtepi32_ps(total), vf_load(s)));
    }
}
_Static_assert(PAIRS == 16, "tile_make and transpose16");

static void prepare(const struct compute *c, const float *x, size_t rows, size_t k, size_t begin, size_t end,
                    enum weight_form form)
{
    if (form == WEIGHT_BYTES)
        int8_prepare(c, x, k, begin, end);
    else if (form == WEIGHT_BLOCKS)
        block8_prepare(c, x, rows, k, begin, end);
    else if (rows < OPS_ROWS_FEW && form == WEIGHT_PLAIN)
        few_prepare(c->shared, x, rows, k, begin, end, c->exact);
    else
        for (size_t r = begin; r < end; r += TILE)
            tile_make(c, x, k, r, end - r < TILE ? end - r : TILE);
}

/* ---- many rows
 * -------------------------------------------------------------------------------------------------- */

/* Block types without a detour over floats: one output's superblock, 32 weights an instruction. q is
 * [run][RUN]. */

/* 32 bytes as 32 words. */
static inline __m512i words_at(const uint8_t *p) { return _mm512_cvtepu8_epi16(load256(p)); }

/* What each run of a superblock gets: weight = scale * q + min. */
struct run_scale {
    float scale[UNPACK_RUNS], min[UNPACK_RUNS];
};

static void unpack_k45(const uint8_t *b, int16_t *q, struct run_scale *out, bool five)
{
    float d = quant_f16(quant_u16(b)), dmin = quant_f16(quant_u16(b + 2));
    struct k_scales s = k_scales(b + 4);
    _mm256_storeu_ps(out->scale, _mm256_mul_ps(_mm512_castps512_ps256(s.scale), _mm256_set1_ps(d)));
    _mm256_storeu_ps(out->min, _mm256_mul_ps(s.min, _mm256_set1_ps(-dmin)));
    const __m512i low = _mm512_set1_epi16(15), fifth = _mm512_set1_epi16(16);
    __m512i h = five ? _mm512_slli_epi16(words_at(b + 16), 4) : _mm512_setzero_si512();
    for (size_t i = 0; i < 4; i++, q += 2 * RUN) {
        __m512i v = words_at(b + (five ? 48 : 16) + 32 * i);
        __m512i q0 = _mm512_and_si512(v, low), q1 = _mm512_srli_epi16(v, 4);
        if (five) {
            q0 = _mm512_or_si512(q0, _mm512_and_si512(h, fifth));
            q1 = _mm512_or_si512(q1, _mm512_and_si512(_mm512_srli_epi16(h, 1), fifth));
            h = _mm512_srli_epi16(h, 2);
        }
        _mm512_storeu_si512(q, q0);
        _mm512_storeu_si512(q + RUN, q1);
    }
}

/* Exact: an integer weight is at most 128 * 32 in size, and 32 * 128 * 32 * ACT_MAX < 2^31. */
static void unpack_q6_k(const uint8_t *b, int16_t *q, struct run_scale *out)
{
    _Static_assert((int64_t)RUN * 128 * 32 * ACT_MAX <= INT32_MAX, "sums of a run fit");
    _mm256_storeu_ps(out->scale, _mm256_set1_ps(quant_f16(quant_u16(b + 208))));
    _mm256_storeu_ps(out->min, _mm256_setzero_ps());
    const __m512i pair = _mm512_set1_epi16(3), nibble = _mm512_set1_epi16(15), offset = _mm512_set1_epi16(32);
    for (size_t half = 0; half < 2; half++) {
        __m512i high = words_at(b + 128 + 32 * half);
        for (size_t i = 0; i < 4; i++, q += RUN) {
            __m512i low = words_at(b + 64 * half + 32 * (i & 1));
            low = _mm512_and_si512(_mm512_srl_epi16(low, _mm_cvtsi32_si128(i < 2 ? 0 : 4)), nibble);
            __m512i top = _mm512_and_si512(_mm512_srl_epi16(high, _mm_cvtsi32_si128(2 * (int)i)), pair);
            __m512i v = _mm512_sub_epi16(_mm512_or_si512(low, _mm512_slli_epi16(top, 4)), offset);
            const int8_t *s = (const int8_t *)(b + 192 + 8 * half + 2 * i);
            __m512i by = _mm512_inserti64x4(_mm512_set1_epi16(s[0]), _mm256_set1_epi16(s[1]), 1);
            _mm512_storeu_si512(q, _mm512_mullo_epi16(v, by));
        }
    }
}

/* One run of the types of 32. */
static void unpack_32(enum tensor_type t, const uint8_t *b, int16_t *q, float *scale, float *min)
{
    __m256i v;
    float d = quant_f16(quant_u16(b)), m;
    switch (t) {
    case TENSOR_Q4_0:
        v = nibbles(b + 2);
        m = -8.0f * d;
        break;
    case TENSOR_Q4_1:
        v = nibbles(b + 4);
        m = quant_f16(quant_u16(b + 2));
        break;
    case TENSOR_Q5_0:
        v = _mm256_or_si256(nibbles(b + 6), fifths(b + 2));
        m = -16.0f * d;
        break;
    case TENSOR_Q5_1:
        v = _mm256_or_si256(nibbles(b + 8), fifths(b + 4));
        m = quant_f16(quant_u16(b + 2));
        break;
    default: /* Q8_0 */
        v = load256(b + 2);
        m = 0.0f;
        break;
    }
    *scale = d;
    *min = m;
    _mm512_storeu_si512(q, _mm512_cvtepi8_epi16(v));
}

/* `runs` runs from the start of a block; false: this type goes over floats. Exact but for the product of the
 * two scales of a K type. */
static bool unpack_direct(enum tensor_type t, const uint8_t *b, size_t runs, int16_t *q, struct run_scale *s)
{
    size_t size = tensor_type_bytes(t, RUN);
    switch (t) {
    case TENSOR_Q4_K:
        unpack_k45(b, q, s, false);
        return true;
    case TENSOR_Q5_K:
        unpack_k45(b, q, s, true);
        return true;
    case TENSOR_Q6_K:
        unpack_q6_k(b, q, s);
        return true;
    case TENSOR_Q4_0:
    case TENSOR_Q4_1:
    case TENSOR_Q5_0:
    case TENSOR_Q5_1:
    case TENSOR_Q8_0:
        for (size_t i = 0; i < runs; i++)
            unpack_32(t, b + i * size, q + i * RUN, s->scale + i, s->min + i);
        return true;
    default:
        return false;
    }
}

/* Outputs [n0, n1) x inputs [from, from + n) into runs; n <= UNPACK_RUNS * RUN. Missing outputs and inputs
 * are zero. */
static void unpack(const struct weight *w, size_t n0, size_t n1, size_t from, size_t n, struct wrun *out)
{
    int16_t q[OPS_PANEL][RUN * UNPACK_RUNS];
    float dense[RUN * UNPACK_RUNS];
    size_t runs = runs_of(n), skip = tensor_type_bytes(w->type, from);
    for (size_t o = 0; o < OPS_PANEL; o++) {
        if (n0 + o >= n1) {
            memset(q[o], 0, sizeof q[o]);
            for (size_t b = 0; b < runs; b++)
                out[b].scale[o] = out[b].min[o] = 0.0f;
            continue;
        }
        const uint8_t *row = w->bytes + (n0 + o) * w->row_bytes + skip;
        struct run_scale s8;
        if (unpack_direct(w->type, row, runs, q[o], &s8)) {
            for (size_t b = 0; b < runs; b++) {
                out[b].scale[o] = s8.scale[b];
                out[b].min[o] = s8.min[b];
            }
            continue;
        }
        quant_row(w->type, row, dense, n);
        for (size_t i = n; i < runs * RUN; i++)
            dense[i] = 0.0f;
        for (size_t b = 0; b < runs; b++) {
            vf v[VECTORS], max = vf_set(0.0f), sum = vf_set(0.0f);
#pragma GCC unroll 8
            for (size_t u = 0; u < VECTORS; u++) {
                v[u] = vf_load(dense + b * RUN + u * 16);
                vf a = vf_abs(v[u]);
                max = vf_max(max, a);
                sum = vf_add(sum, a);
            }
            /* an infinite or NaN weight makes the sum, and so the scale, not finite */
            float by_sum = vf_sum(sum) * (1.0f / WEIGHT_SUM_MAX), by_max = vf_top(max) * (1.0f / WEIGHT_MAX);
            float s = by_sum > by_max    ? by_sum
                      : by_sum == by_sum ? by_max
                                         : by_sum,
                  inverse = s > 0 ? 1.0f / s : 0.0f;
            out[b].scale[o] = s;
            out[b].min[o] = 0.0f;
#pragma GCC unroll 8
            for (size_t u = 0; u < VECTORS; u++) {
                __m512i i32 = _mm512_cvtps_epi32(vf_mul(v[u], vf_set(inverse)));
                _mm256_storeu_si256((__m256i *)(void *)(q[o] + b * RUN + u * 16), _mm512_cvtepi32_epi16(i32));
            }
        }
    }
    for (size_t b = 0; b < runs; b++)
        for (size_t o = 0; o < OPS_PANEL; o += 16)
            for (size_t p = 0; p < PAIRS; p += 16)
                transpose16((const int32_t *)(const void *)(q[o] + b * RUN + 2 * p), RUN * UNPACK_RUNS / 2,
                            &out[b].pair[p][o], OPS_PANEL);
}

/* Named accumulators and an asm line: with an array, or with the intrinsic, gcc 12 copies each accumulator to
 * memory and back in the inner loop, at half the speed. */
static inline __m512i dot_pairs(__m512i sum, __m512i a, __m512i w)
{
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(w));
    return sum;
}
#define EACH_ROW(one) one(0) one(1) one(2) one(3) one(4) one(5) one(6) one(7) one(8) one(9) one(10) one(11)
#define ROW_ZERO(r) __m512i a##r = _mm512_setzero_si512(), b##r = a##r;
#define ROW_STEP(r)                                                                                          \
    if (rows > r) {                                                                                          \
        __m512i x = _mm512_set1_epi32(a[r]);                                                                 \
        a##r = dot_pairs(a##r, x, w0);                                                                       \
        b##r = dot_pairs(b##r, x, w1);                                                                       \
    }
#define ROW_SUM(r)                                                                                           \
    if (rows > r) {                                                                                          \
        vf s = vf_set(scales[r]), t = vf_set(scales[r + 16]);                                                \
        float *y = sums + r * OPS_PANEL;                                                                     \
        vf y0 = vf_fma(_mm512_cvtepi32_ps(a##r), vf_mul(s, s0), vf_load(y));                                 \
        vf y1 = vf_fma(_mm512_cvtepi32_ps(b##r), vf_mul(s, s1), vf_load(y + 16));                            \
        vf_store(y, mins ? vf_fma(t, m0, y0) : y0);                                                          \
        vf_store(y + 16, mins ? vf_fma(t, m1, y1) : y1);                                                     \
    }
static inline __attribute__((always_inline)) void tile_run(const int32_t *a, const struct wrun *w,
                                                           size_t pairs, const float *scales, float *sums,
                                                           unsigned rows, bool mins)
{
    EACH_ROW(ROW_ZERO)
    for (size_t p = 0; p < pairs; p++, a += TILE) {
        __m512i w0 = _mm512_loadu_si512(w->pair[p]), w1 = _mm512_loadu_si512(w->pair[p] + 16);
        EACH_ROW(ROW_STEP)
    }
    vf s0 = vf_load(w->scale), s1 = vf_load(w->scale + 16);
    vf m0 = vf_load(w->min), m1 = vf_load(w->min + 16);
    EACH_ROW(ROW_SUM)
}

/* Types whose weights are offset from zero. A zero offset adds nothing, so both forms give one result. */
static bool has_mins(enum tensor_type t)
{
    return t == TENSOR_Q4_0 || t == TENSOR_Q4_1 || t == TENSOR_Q5_0 || t == TENSOR_Q5_1 || t == TENSOR_Q4_K ||
           t == TENSOR_Q5_K;
}

#define TILE_CASE(n)                                                                                         \
    case n:                                                                                                  \
        tile_run(a, w, pairs, scales, sums, n, true);                                                        \
        break
static void tile_any(const int32_t *a, const struct wrun *w, size_t pairs, const float *scales, float *sums,
                     size_t rows, bool mins)
{
    switch (rows) {
        TILE_CASE(1);
        TILE_CASE(2);
        TILE_CASE(3);
        TILE_CASE(4);
        TILE_CASE(5);
        TILE_CASE(6);
        TILE_CASE(7);
        TILE_CASE(8);
        TILE_CASE(9);
        TILE_CASE(10);
        TILE_CASE(11);
    default:
        if (mins)
            tile_run(a, w, pairs, scales, sums, TILE, true);
        else
            tile_run(a, w, pairs, scales, sums, TILE, false);
        break;
    }
}

static void panel_many(const struct compute *c, const struct matmul_job *job, size_t n0, size_t n1, size_t r0,
                       size_t r1, void *scratch)
{
    const struct weight *w = job->w;
    size_t k = w->k, runs = runs_of(k);
    bool mins = has_mins(w->type);
    struct wrun *own = scratch;
    float *sums = (float *)(void *)((char *)scratch + UNPACK_RUNS * sizeof(struct wrun));
    memset(sums, 0, (r1 - r0) * OPS_PANEL * sizeof *sums);
    for (size_t b = 0; b < runs; b++) {
        size_t left = k - b * RUN < RUN ? k - b * RUN : RUN;
        const struct wrun *run;
        if (w->form == WEIGHT_WORDS) {
            run = (const struct wrun *)w->packed + n0 / OPS_PANEL * runs + b;
        } else {
            if (b % UNPACK_RUNS == 0)
                unpack(w, n0, n1, b * RUN, k - b * RUN < UNPACK_RUNS * RUN ? k - b * RUN : UNPACK_RUNS * RUN,
                       own);
            run = own + b % UNPACK_RUNS;
        }
        for (size_t r = r0; r < r1; r += TILE) {
            const char *tile = c->shared + r / TILE * tile_bytes(k);
            const float *scales = (const float *)(const void *)(tile + runs * PAIRS * TILE * 4) + b * 32;
            tile_any((const int32_t *)(const void *)tile + b * PAIRS * TILE, run, (left + 1) / 2, scales,
                     sums + (r - r0) * OPS_PANEL, r1 - r, mins);
        }
    }
    for (size_t r = r0; r < r1; r++)
        finish(job, sums + (r - r0) * OPS_PANEL, r, n0, n1);
}

static bool pack_words(struct weight *w)
{
    size_t runs = runs_of(w->k), panels = (w->n + OPS_PANEL - 1) / OPS_PANEL;
    struct wrun *out = cairn_aligned(64, panels * runs * sizeof *out);
    if (!out)
        return false;
    for (size_t p = 0; p < panels; p++)
        for (size_t b = 0; b < runs; b += UNPACK_RUNS) {
            size_t n0 = p * OPS_PANEL, n1 = n0 + OPS_PANEL < w->n ? n0 + OPS_PANEL : w->n, from = b * RUN;
            unpack(w, n0, n1, from, w->k - from < UNPACK_RUNS * RUN ? w->k - from : UNPACK_RUNS * RUN,
                   out + p * runs + b);
        }
    w->packed = out;
    w->form = WEIGHT_WORDS;
    return true;
}

static bool pack(struct weight *const *w, size_t n)
{
    size_t done = 0;
    while (done < n && int8_pack(w[done]) == INT8_PACKED)
        done++;
    if (done == n)
        return true;
    while (done)
        weight_release(w[--done]);
    for (; done < n; done++)
        if (!pack_words(w[done]))
            return false;
    return true;
}

static void panel(const struct compute *c, const struct matmul_job *job, const float *x, size_t rows,
                  enum weight_form form, size_t n0, size_t n1, size_t r0, size_t r1, void *scratch)
{
    const struct weight *w = job->w;
    if (form == WEIGHT_BYTES) {
        int8_panel(c, job, n0, n1, r0, r1);
        return;
    }
    if (form == WEIGHT_BLOCKS) {
        block8_panel(c, job, rows, n0, n1, r0, r1, scratch);
        return;
    }
    if (rows >= OPS_ROWS_FEW || w->form == WEIGHT_WORDS) {
        panel_many(c, job, n0, n1, r0, r1, scratch);
        return;
    }
    float *sums = (float *)(void *)((char *)scratch + few_worker_bytes());
    few_panel(c->shared, w, x, rows, n0, n1, scratch, sums);
    for (size_t r = r0; r < r1; r++)
        finish(job, sums + r * OPS_PANEL, r, n0, n1);
}

static struct ops table;
static void fill(void)
{
    table = ops_scalar;
    table.name = "avx512";
    table.shared_bytes = shared_bytes;
    table.worker_bytes = worker_bytes;
    table.prepare = prepare;
    table.panel = panel;
    table.blocks = true;
    table.pack = pack;
    table.attend = simd_attend;
    table.rmsnorm = simd_rmsnorm;
    table.layernorm = simd_layernorm;
    table.swiglu = simd_swiglu;
    table.geglu = simd_geglu;
    table.gelu = simd_gelu;
    table.add = simd_add;
    table.half = simd_half;
}

const struct ops *ops_avx512(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("fma") || !cpu_has_f16c())
        return NULL;
    pthread_once(&once, fill);
    return &table;
}
