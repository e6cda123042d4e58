/* ops_avx2.c - AVX2 with FMA and F16C: float products on weights dequantised a run at a time, in registers of
 * 8 floats. Few rows: each weight row is dequantised 256 elements at a time and multiplied with every input
 * row. Many rows: a panel of 16 outputs x 256 inputs is dequantised and turned once, then used for six rows
 * at a time. */
#include "ops.h"

#include "quant_rows.h"

#include <immintrin.h>
#include <pthread.h>
#include <string.h>

enum { V = 8 };
typedef __m256 vf;
static inline vf vf_set(float x) { return _mm256_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
static inline __m256i vf_mask(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf vf_load_n(const float *p, size_t n)
{
    return n == V ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, vf_mask(n));
}
static inline void vf_store_n(float *p, size_t n, vf x)
{
    if (n == V)
        _mm256_storeu_ps(p, x);
    else
        _mm256_maskstore_ps(p, vf_mask(n), x);
}
static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline vf vf_scale2(vf p, vf n) /* p * 2^n, n whole and in [-126, 127] */
{
    __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(e));
}
static inline float vf_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float vf_top(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
static inline vf vf_load_half(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline void vf_store_half(void *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
static inline vf vf_load_int8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
#include "ops_simd.h"

enum { RUN = 256, COLUMNS = 16, ROWS = 6 };

static size_t no_bytes(size_t rows, size_t k)
{
    (void)rows;
    (void)k;
    return 0;
}
static size_t worker_bytes(size_t rows, size_t k)
{
    (void)rows;
    (void)k;
    return (2 * RUN * COLUMNS + (size_t)OPS_ROW_CHUNK * OPS_PANEL) * sizeof(float);
}

static float dot(const float *a, const float *b, size_t n)
{
    vf s[4] = {vf_set(0.0f), vf_set(0.0f), vf_set(0.0f), vf_set(0.0f)};
    size_t i = 0;
    for (; i + 4 * V <= n; i += 4 * V)
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++)
            s[u] = vf_fma(vf_load(a + i + u * V), vf_load(b + i + u * V), s[u]);
    for (; i < n; i += V) {
        size_t left = n - i < V ? n - i : V;
        s[0] = vf_fma(vf_load_n(a + i, left), vf_load_n(b + i, left), s[0]);
    }
    return vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
}

static inline __attribute__((always_inline)) void tile(const float *x, size_t k, const float *turned,
                                                       size_t run, float *sums, unsigned n)
{
    vf s[ROWS][2];
#pragma GCC unroll 6
    for (unsigned r = 0; r < n; r++) {
        s[r][0] = vf_load(sums + r * OPS_PANEL);
        s[r][1] = vf_load(sums + r * OPS_PANEL + V);
    }
    for (size_t i = 0; i < run; i++) {
        vf w0 = vf_load(turned + i * COLUMNS), w1 = vf_load(turned + i * COLUMNS + V);
#pragma GCC unroll 6
        for (unsigned r = 0; r < n; r++) {
            vf a = vf_set(x[r * k + i]);
            s[r][0] = vf_fma(a, w0, s[r][0]);
            s[r][1] = vf_fma(a, w1, s[r][1]);
        }
    }
#pragma GCC unroll 6
    for (unsigned r = 0; r < n; r++) {
        vf_store(sums + r * OPS_PANEL, s[r][0]);
        vf_store(sums + r * OPS_PANEL + V, s[r][1]);
    }
}

static void panel(const struct compute *c, const struct matmul_job *job, const float *x, size_t rows,
                  enum weight_form form, size_t n0, size_t n1, size_t r0, size_t r1, void *scratch)
{
    (void)form;
    const struct weight *w = job->w;
    size_t k = w->k;
    float *dense = scratch, *turned = dense + RUN * COLUMNS, *sums = turned + RUN * COLUMNS;
    memset(sums, 0, (r1 - r0) * OPS_PANEL * sizeof *sums);
    if (rows < OPS_ROWS_FEW) {
        for (size_t i = 0; i < k; i += RUN) {
            size_t run = k - i < RUN ? k - i : RUN, skip = tensor_type_bytes(w->type, i);
            for (size_t o = n0; o < n1; o++) {
                quant_row(w->type, w->bytes + o * w->row_bytes + skip, dense, run);
                for (size_t r = r0; r < r1; r++)
                    sums[(r - r0) * OPS_PANEL + o - n0] += dot(dense, x + r * k + i, run);
            }
        }
    } else {
        for (size_t o = n0; o < n1; o += COLUMNS) {
            size_t n = n1 - o < COLUMNS ? n1 - o : COLUMNS;
            for (size_t i = 0; i < k; i += RUN) {
                size_t run = k - i < RUN ? k - i : RUN, skip = tensor_type_bytes(w->type, i);
                for (size_t j = 0; j < COLUMNS; j++) {
                    if (j < n)
                        quant_row(w->type, w->bytes + (o + j) * w->row_bytes + skip, dense, run);
                    else
                        memset(dense, 0, run * sizeof *dense);
                    for (size_t u = 0; u < run; u++)
                        turned[u * COLUMNS + j] = dense[u];
                }
                for (size_t r = r0; r < r1; r += ROWS) {
                    const float *in = x + r * k + i;
                    float *s = sums + (r - r0) * OPS_PANEL + (o - n0);
                    switch (r1 - r) {
                    case 1:
                        tile(in, k, turned, run, s, 1);
                        break;
                    case 2:
                        tile(in, k, turned, run, s, 2);
                        break;
                    case 3:
                        tile(in, k, turned, run, s, 3);
                        break;
                    case 4:
                        tile(in, k, turned, run, s, 4);
                        break;
                    case 5:
                        tile(in, k, turned, run, s, 5);
                        break;
                    default:
                        tile(in, k, turned, run, s, 6);
                        break;
                    }
                }
            }
        }
    }
    for (size_t r = r0; r < r1; r++)
        ops_finish(c->ops, job, sums + (r - r0) * OPS_PANEL, r, n0, n1);
}

static struct ops table;
static void fill(void)
{
    table = ops_scalar;
    table.name = "avx2";
    table.shared_bytes = no_bytes;
    table.worker_bytes = worker_bytes;
    table.panel = panel;
    table.attend = simd_attend;
    table.rmsnorm = simd_rmsnorm;
    table.layernorm = simd_layernorm;
    table.swiglu = simd_swiglu;
    table.geglu = simd_geglu;
    table.gelu = simd_gelu;
    table.add = simd_add;
    table.half = simd_half;
}

const struct ops *ops_avx2(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !cpu_has_f16c())
        return NULL;
    pthread_once(&once, fill);
    return &table;
}
