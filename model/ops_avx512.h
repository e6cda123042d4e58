/* ops_avx512.h - what the files of the AVX-512 backend share: the vector of 16 floats, the end of a row of
 * sums, and the products of bytes (ops_avx512_int8.c). Included by them alone. */
#ifndef CAIRN_MODEL_OPS_AVX512_H
#define CAIRN_MODEL_OPS_AVX512_H

#include "ops.h"

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

/* Weights as bytes: see ops_avx512_int8.c. */
size_t int8_shared_bytes(size_t rows, size_t k);
bool int8_exact(const struct weight *w); /* each output's weights are integers of 8 bits times one number */
bool int8_pack(struct weight *w);        /* of an exact weight; false: no memory */
void int8_prepare(const struct compute *c, const float *x, size_t k, size_t begin, size_t end);
void int8_panel(const struct compute *c, const struct matmul_job *job, size_t n0, size_t n1, size_t r0,
                size_t r1);

#endif
