/* vdot.c - int8 dot products, one function per instruction set beside a scalar reference, picked at run time.
 * Sums are integers, so every variant gives the same result bit for bit: 4,096 * 127 * 127 fits an int32. */
#include "vindex.h"

#include <math.h>
#include <pthread.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

int32_t vdot_scalar(const int8_t *a, const int8_t *b, size_t n)
{
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (int32_t)a[i] * b[i];
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static int32_t dot_avx2(const int8_t *a, const int8_t *b, size_t n)
{
    __m256i acc = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(a + i)));
        __m256i y = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(b + i)));
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(x, y));
    }
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(acc), _mm256_extracti128_si256(acc, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s) + vdot_scalar(a + i, b + i, n - i);
}

__attribute__((target("avx512f,avx512bw"))) static int32_t dot_avx512(const int8_t *a, const int8_t *b,
                                                                      size_t n)
{
    __m512i acc = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512i x = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(a + i)));
        __m512i y = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(b + i)));
        acc = _mm512_add_epi32(acc, _mm512_madd_epi16(x, y));
    }
    return _mm512_reduce_add_epi32(acc) + vdot_scalar(a + i, b + i, n - i);
}

/* dpbusd multiplies unsigned by signed bytes: with a + 128 it gives dot(a, b) + 128 * sum(b). */
__attribute__((target("avx512f,avx512bw,avx512vnni"))) static int32_t dot_vnni(const int8_t *a,
                                                                               const int8_t *b, size_t n)
{
    __m512i acc = _mm512_setzero_si512(), sum = _mm512_setzero_si512();
    const __m512i flip = _mm512_set1_epi8((char)-128), ones = _mm512_set1_epi8(1);
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        __m512i x = _mm512_xor_si512(_mm512_loadu_si512(a + i), flip);
        __m512i y = _mm512_loadu_si512(b + i);
        acc = _mm512_dpbusd_epi32(acc, x, y);
        sum = _mm512_dpbusd_epi32(sum, ones, y);
    }
    return _mm512_reduce_add_epi32(acc) - 128 * _mm512_reduce_add_epi32(sum) +
           vdot_scalar(a + i, b + i, n - i);
}
#endif

size_t vdot_available(const char *names[4], vdot_fn fns[4])
{
    size_t n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni"))
        names[n] = "avx512vnni", fns[n++] = dot_vnni;
    if (__builtin_cpu_supports("avx512bw"))
        names[n] = "avx512bw", fns[n++] = dot_avx512;
    if (__builtin_cpu_supports("avx2"))
        names[n] = "avx2", fns[n++] = dot_avx2;
#endif
    names[n] = "scalar", fns[n++] = vdot_scalar;
    return n;
}

vdot_fn vdot_best(void)
{
    static _Atomic(vdot_fn) best;
    vdot_fn f = atomic_load_explicit(&best, memory_order_relaxed);
    if (!f) {
        const char *names[4];
        vdot_fn fns[4];
        (void)vdot_available(names, fns);
        f = fns[0];
        atomic_store_explicit(&best, f, memory_order_relaxed);
    }
    return f;
}

/* ---- kernels over segments: rows of codes + 128 (unsigned) against a signed query, and f32 ---- */

static int32_t row_scalar(const uint8_t *row, const int8_t *q, size_t n)
{
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((int32_t)row[i] - 128) * q[i];
    return sum;
}
static void rows4_scalar(const uint8_t *const rows[4], const int8_t *q, size_t n, int32_t out[4])
{
    for (int j = 0; j < 4; j++)
        out[j] = row_scalar(rows[j], q, n);
}

/* f32 sums have 16 lanes, each adding product after product without fusing, folded in halves: the order is
 * part of the contract, so that every variant gives the same bits (this file is compiled without
 * contraction).
 */
#define LANES 16
static float fold(float acc[LANES], float tail)
{
    for (int w = LANES / 2; w > 0; w /= 2)
        for (int j = 0; j < w; j++)
            acc[j] += acc[j + w];
    return acc[0] + tail;
}
static float tail_dot(const float *a, const float *b, size_t i, size_t n)
{
    float sum = 0;
    for (; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}
static float tail_l2(const float *a, const float *b, size_t i, size_t n)
{
    float sum = 0;
    for (; i < n; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}
static float dotf_scalar(const float *a, const float *b, size_t n)
{
    float acc[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            acc[j] += a[i + j] * b[i + j];
    return fold(acc, tail_dot(a, b, i, n));
}
static float l2f_scalar(const float *a, const float *b, size_t n)
{
    float acc[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            float d = a[i + j] - b[i + j];
            acc[j] += d * d;
        }
    return fold(acc, tail_l2(a, b, i, n));
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static inline int32_t sum_avx2(__m256i acc)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(acc), _mm256_extracti128_si256(acc, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}
/* 16-bit products: the byte multiply of AVX2 saturates, this does not. */
__attribute__((target("avx2"))) static int32_t row_avx2(const uint8_t *row, const int8_t *q, size_t n)
{
    __m256i acc = _mm256_setzero_si256(), bias = _mm256_set1_epi16(128);
    for (size_t i = 0; i < n; i += 16) {
        __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(row + i)));
        __m256i y = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(q + i)));
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_sub_epi16(x, bias), y));
    }
    return sum_avx2(acc);
}
__attribute__((target("avx2"))) static void rows4_avx2(const uint8_t *const rows[4], const int8_t *q,
                                                       size_t n, int32_t out[4])
{
    for (int j = 0; j < 4; j++)
        out[j] = row_avx2(rows[j], q, n);
}
__attribute__((target("avx2"))) static float dotf_avx2(const float *a, const float *b, size_t n)
{
    __m256 lo = _mm256_setzero_ps(), hi = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lo = _mm256_add_ps(lo, _mm256_mul_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
        hi = _mm256_add_ps(hi, _mm256_mul_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8)));
    }
    float acc[LANES];
    _mm256_storeu_ps(acc, lo);
    _mm256_storeu_ps(acc + 8, hi);
    return fold(acc, tail_dot(a, b, i, n));
}
__attribute__((target("avx2"))) static float l2f_avx2(const float *a, const float *b, size_t n)
{
    __m256 lo = _mm256_setzero_ps(), hi = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        __m256 x = _mm256_sub_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i));
        __m256 y = _mm256_sub_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8));
        lo = _mm256_add_ps(lo, _mm256_mul_ps(x, x));
        hi = _mm256_add_ps(hi, _mm256_mul_ps(y, y));
    }
    float acc[LANES];
    _mm256_storeu_ps(acc, lo);
    _mm256_storeu_ps(acc + 8, hi);
    return fold(acc, tail_l2(a, b, i, n));
}

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))
VNNI static int32_t row_vnni(const uint8_t *row, const int8_t *q, size_t n)
{
    const __m512i ones = _mm512_set1_epi8((char)128);
    __m512i acc = _mm512_setzero_si512(), sum = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 64) {
        __m512i y = _mm512_loadu_si512(q + i);
        acc = _mm512_dpbusd_epi32(acc, _mm512_loadu_si512(row + i), y);
        sum = _mm512_dpbusd_epi32(sum, ones, y);
    }
    return _mm512_reduce_add_epi32(_mm512_sub_epi32(acc, sum));
}
/* Four rows at once share the loads of the query and one horizontal sum by transposition. */
VNNI static void rows4_vnni(const uint8_t *const rows[4], const int8_t *q, size_t n, int32_t out[4])
{
    const __m512i bias = _mm512_set1_epi8((char)128);
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a, s = a;
    for (size_t i = 0; i < n; i += 64) {
        __m512i y = _mm512_loadu_si512(q + i);
        a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(rows[0] + i), y);
        b = _mm512_dpbusd_epi32(b, _mm512_loadu_si512(rows[1] + i), y);
        c = _mm512_dpbusd_epi32(c, _mm512_loadu_si512(rows[2] + i), y);
        d = _mm512_dpbusd_epi32(d, _mm512_loadu_si512(rows[3] + i), y);
        s = _mm512_dpbusd_epi32(s, bias, y);
    }
    a = _mm512_sub_epi32(a, s);
    b = _mm512_sub_epi32(b, s);
    c = _mm512_sub_epi32(c, s);
    d = _mm512_sub_epi32(d, s);
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i t = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i u = _mm256_add_epi32(_mm512_castsi512_si256(t), _mm512_extracti64x4_epi64(t, 1));
    _mm_storeu_si128((__m128i *)(void *)out,
                     _mm_add_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1)));
}
__attribute__((target("avx512f"))) static float dotf_avx512(const float *a, const float *b, size_t n)
{
    __m512 acc = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        acc = _mm512_add_ps(acc, _mm512_mul_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i)));
    float lanes[LANES];
    _mm512_storeu_ps(lanes, acc);
    return fold(lanes, tail_dot(a, b, i, n));
}
__attribute__((target("avx512f"))) static float l2f_avx512(const float *a, const float *b, size_t n)
{
    __m512 acc = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        __m512 x = _mm512_sub_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i));
        acc = _mm512_add_ps(acc, _mm512_mul_ps(x, x));
    }
    float lanes[LANES];
    _mm512_storeu_ps(lanes, acc);
    return fold(lanes, tail_l2(a, b, i, n));
}
#elif defined(__aarch64__)
static int32_t row_neon(const uint8_t *row, const int8_t *q, size_t n)
{
    int32x4_t acc = vdupq_n_s32(0);
    const uint8x16_t flip = vdupq_n_u8(128);
    for (size_t i = 0; i < n; i += 16) {
        int8x16_t x = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(row + i), flip)), y = vld1q_s8(q + i);
        acc = vpadalq_s16(acc, vmull_s8(vget_low_s8(x), vget_low_s8(y)));
        acc = vpadalq_s16(acc, vmull_s8(vget_high_s8(x), vget_high_s8(y)));
    }
    return vaddvq_s32(acc);
}
static void rows4_neon(const uint8_t *const rows[4], const int8_t *q, size_t n, int32_t out[4])
{
    for (int j = 0; j < 4; j++)
        out[j] = row_neon(rows[j], q, n);
}
#endif

size_t vkernel_available(struct vkernel out[4])
{
    size_t n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni"))
        out[n++] = (struct vkernel){"avx512vnni", row_vnni, rows4_vnni, dotf_avx512, l2f_avx512};
    if (__builtin_cpu_supports("avx2"))
        out[n++] = (struct vkernel){"avx2", row_avx2, rows4_avx2, dotf_avx2, l2f_avx2};
#elif defined(__aarch64__)
    out[n++] = (struct vkernel){"neon", row_neon, rows4_neon, dotf_scalar, l2f_scalar};
#endif
    out[n++] = (struct vkernel){"scalar", row_scalar, rows4_scalar, dotf_scalar, l2f_scalar};
    return n;
}

static struct vkernel best_kernel;
static void choose_kernel(void)
{
    struct vkernel all[4];
    (void)vkernel_available(all);
    best_kernel = all[0];
}
const struct vkernel *vkernel_best(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, choose_kernel);
    return &best_kernel;
}

float vdot_quantise(const float *v, size_t n, int8_t *codes)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fabsf(v[i]) > most ? fabsf(v[i]) : most;
    float scale = most / 127.0f;
    if (!(scale > 0)) { /* a zero row, or one so small that its scale underflows */
        memset(codes, 0, n);
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        float q = v[i] / scale;
        codes[i] = (int8_t)(q >= 127.0f ? 127 : q <= -127.0f ? -127 : lrintf(q));
    }
    return scale;
}

/* ---- best k ---- */

static void sift_down(struct store_hit *h, size_t n, size_t i)
{
    for (;;) {
        size_t worst = i, l = 2 * i + 1, r = l + 1;
        if (l < n && hit_before(&h[worst], &h[l]))
            worst = l;
        if (r < n && hit_before(&h[worst], &h[r]))
            worst = r;
        if (worst == i)
            return;
        struct store_hit t = h[i];
        h[i] = h[worst];
        h[worst] = t;
        i = worst;
    }
}

void topk_push(struct topk *t, struct store_hit h)
{
    if (t->k == 0)
        return;
    if (t->n == t->k) {
        if (!hit_before(&h, &t->heap[0]))
            return;
        t->heap[0] = h;
        sift_down(t->heap, t->n, 0);
        return;
    }
    size_t i = t->n++;
    t->heap[i] = h;
    while (i > 0 && hit_before(&t->heap[(i - 1) / 2], &t->heap[i])) {
        struct store_hit x = t->heap[i];
        t->heap[i] = t->heap[(i - 1) / 2];
        t->heap[(i - 1) / 2] = x;
        i = (i - 1) / 2;
    }
}

void topk_sort(struct topk *t)
{
    for (size_t n = t->n; n > 1; n--) {
        struct store_hit x = t->heap[0];
        t->heap[0] = t->heap[n - 1];
        t->heap[n - 1] = x;
        sift_down(t->heap, n - 1, 0);
    }
}
