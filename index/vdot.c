/* vdot.c - int8 dot products, one function per instruction set beside a scalar reference, picked at run time.
 * Sums are integers, so every variant gives the same result bit for bit: 4,096 * 127 * 127 fits an int32. */
#include "vindex.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
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

float vdot_quantise(const float *v, size_t n, int8_t *codes)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(v[i]));
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
