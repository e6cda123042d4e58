/* ops_avx512.h - what the files of the AVX-512 backend share: the vector of 16 floats, the end of a row of
 * sums, and the products of bytes (ops_avx512_int8.c). Included by them alone. */
#ifndef CAIRN_MODEL_OPS_AVX512_H
#define CAIRN_MODEL_OPS_AVX512_H

#include "ops.h"
#include "quant_rows.h"

#include <immintrin.h>

enum { V = 16 };
typedef __m512 vf;
static inline vf vf_set(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
static inline __mmask16 vf_mask(size_t n) { return (__mmask16)((1u << n) - 1); }
static inline vf vf_load_n(const float *p, size_t n) { return _mm512_maskz_loadu_ps(vf_mask(n), p); }
static inline void vf_store_n(float *p, size_t n, vf x) { _mm512_mask_storeu_ps(p, vf_mask(n), x); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vf_abs(vf a) { return _mm512_abs_ps(a); }
static inline vf vf_scale2(vf p, vf n) { return _mm512_scalef_ps(p, n); }
static inline float vf_sum(vf a) { return _mm512_reduce_add_ps(a); }
static inline float vf_top(vf a) { return _mm512_reduce_max_ps(a); }
static inline vf vf_load_half(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline void vf_store_half(void *p, vf x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
static inline vf vf_load_int8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
#include "ops_simd_math.h"

/* ops_finish() in one pass. */
static inline void finish(const struct matmul_job *job, const float *sums, size_t row, size_t n0, size_t n1)
{
    float *y = job->y + row * job->ld + n0;
    for (size_t i = 0; i < n1 - n0; i += V) {
        size_t left = n1 - n0 - i < V ? n1 - n0 - i : V;
        vf v = vf_load(sums + i);
        if (job->bias)
            v = vf_add(v, vf_load_n(job->bias + n0 + i, left));
        if (job->act == ACT_GELU)
            v = vf_gelu(v);
        if (job->add)
            v = vf_add(vf_load_n(y + i, left), v);
        vf_store_n(y + i, left, v);
    }
}

static inline __m512i pair256(__m256i low, __m256i high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
static inline void transpose16(const int32_t *in, size_t in_ld, int32_t *out, size_t out_ld)
{
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        a[i] = _mm512_loadu_si512(in + (size_t)i * in_ld);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512i p = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88),
                q = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        __m512i r = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88),
                s = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
        _mm512_storeu_si512(out + (size_t)i * out_ld, _mm512_shuffle_i32x4(p, r, 0x88));
        _mm512_storeu_si512(out + (size_t)(i + 4) * out_ld, _mm512_shuffle_i32x4(q, s, 0x88));
        _mm512_storeu_si512(out + (size_t)(i + 8) * out_ld, _mm512_shuffle_i32x4(p, r, 0xdd));
        _mm512_storeu_si512(out + (size_t)(i + 12) * out_ld, _mm512_shuffle_i32x4(q, s, 0xdd));
    }
}

static inline __m256i load256(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
static inline __m256i nibbles(const uint8_t *p)
{
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_and_si256(_mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1),
                            _mm256_set1_epi8(15));
}

static inline __m256i fifths(const uint8_t *p) { return _mm256_maskz_set1_epi8((__mmask32)quant_u32(p), 16); }
struct k_scales {
    vf scale;
    __m256 min;
};
static inline struct k_scales k_scales(const uint8_t *s)
{
    uint32_t s0 = quant_u32(s), s1 = quant_u32(s + 4), s2 = quant_u32(s + 8);
    uint32_t scale1 = (s2 & 0x0f0f0f0fu) | (s0 >> 6 & 0x03030303u) << 4;
    uint32_t min1 = (s2 >> 4 & 0x0f0f0f0fu) | (s1 >> 6 & 0x03030303u) << 4;
    uint64_t scale = (s0 & 0x3f3f3f3fu) | (uint64_t)scale1 << 32,
             min = (s1 & 0x3f3f3f3fu) | (uint64_t)min1 << 32;
    struct k_scales k;
    k.scale =
        _mm512_castps256_ps512(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)scale))));
    k.min = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)min)));
    return k;
}

/* Weights as bytes: see ops_avx512_int8.c. */
size_t int8_shared_bytes(size_t rows, size_t k);
enum int8_packed { INT8_PACKED, INT8_NOT_EXACT, INT8_NO_MEMORY };
/* Exact: each output's weights are integers of 8 bits times one number. */
enum int8_packed int8_pack(struct weight *w);
void int8_prepare(const struct compute *c, const float *x, size_t k, size_t begin, size_t end);
void int8_panel(const struct compute *c, const struct matmul_job *job, size_t n0, size_t n1, size_t r0,
                size_t r1);

/* Block weights times bytes: see ops_avx512_block8.c. */
size_t block8_shared_bytes(size_t rows, size_t k);
size_t block8_worker_bytes(void);
void block8_prepare(const struct compute *c, const float *x, size_t rows, size_t k, size_t begin, size_t end);
void block8_panel(const struct compute *c, const struct matmul_job *job, size_t rows, size_t n0, size_t n1,
                  size_t r0, size_t r1, void *scratch);

#endif
