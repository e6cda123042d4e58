/* ops_avx512_few.c - matmul of few rows for AVX-512 with VNNI. One row is bound by memory, or nearly; from
 * eight on the multiplications are the bound.
 *
 * The weights stay as the file has them; a superblock of two outputs is unpacked in registers to unsigned
 * bytes, once for up to GROUP rows, and vpdpbusd multiplies them with the inputs: signed bytes, rounded
 * against one scale per run of 32.
 *
 * Outliers. Trained models have inputs many times larger than the rest of their row; rounded to 8 bits, their
 * runs would make most of a row's error. A run whose largest is OUTLIER times the mean of the row keeps 16
 * bits, as two planes of bytes, high and low: the low plane is multiplied as a second row would be. With
 * `exact` all runs do.
 *
 * A row's sums are made by the same operations in the same order whatever the number of rows: the exact
 * integer sum of a run (Q6_K: of half a run), then eight float lanes for the eight runs of a superblock,
 * added to in the order of superblocks, and one tree over the lanes.
 *
 * Order of bytes. All types are brought to one order of inputs, which the inputs are put in when they are
 * rounded: four vectors; lane i of 128 bits holds, as dwords, four inputs of run i, four of run i + 4, four
 * of run i, four of run i + 4. In lanes 0 and 2 vectors 0 to 3 begin at inputs 0, 16, 8 and 24 of their runs,
 * in lanes 1 and 3 at 16, 0, 24 and 8: what nibbles give with the fewest shuffles. So the four products of a
 * lane of 32 bits add up to a run's sum, and those of vectors 0 and 2, or 1 and 3, to that of half a run.
 *
 *   shared scratch  groups of up to GROUP rows; in a group of m rows for each superblock: struct act of the
 *                   high plane of rows 0..m-1, then of the low; then for each superblock [GROUP] bytes: 1
 *                   where there is a low plane. */
#include "ops_avx512_few.h"

#include "quant_rows.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

enum {
    WIDE = 256,
    RUNS = 8,
    GROUP = 4,     /* rows multiplied with one unpacking; with 8 a step of eight waits longer for memory */
    TOP16 = 32639, /* 127 * 256 + 127: two signed bytes */
    AHEAD = 6144,  /* bytes that are fetched before they are read: 3072 and 12288 are slower */
    L1_ACTS = 48   /* superblocks of inputs that are used again and again while they are in the first cache */
};
#define OUTLIER 10.0f

#define INLINE static inline __attribute__((always_inline))

/* One plane of a row's superblock. Numbers of runs stand twice, for the lanes of two outputs that take turns:
 * runs 0 0 4 4 1 1 5 5 2 2 6 6 3 3 7 7. */
struct act {
    _Alignas(64) __m512i q[4];
    __m512 scale, sum; /* sum: of a run's rounded values, scaled */
    __m512i half[2]; /* -32 times the sum of the rounded values of vectors 0 and 2, 1 and 3: Q6_K's offset */
};
/* One group of rows in the shared scratch. */
struct group {
    struct act *high, *low;
    uint8_t *has_low;
};

static inline size_t wide_of(size_t k) { return (k + WIDE - 1) / WIDE; }
static size_t group_bytes(size_t k)
{
    return (wide_of(k) * GROUP * (2 * sizeof(struct act) + 1) + 63) / 64 * 64;
}
static struct group group_at(const void *shared, size_t k, size_t g, size_t rows)
{
    char *p = (char *)(uintptr_t)shared + g * group_bytes(k);
    struct group a = {.high = (struct act *)(void *)p};
    a.low = a.high + wide_of(k) * rows;
    a.has_low = (uint8_t *)(a.low + wide_of(k) * rows);
    return a;
}
size_t few_shared_bytes(size_t k) { return (FEW_MAX + GROUP - 1) / GROUP * group_bytes(k); }

/* ---- inputs ---- */

/* The largest bits of each of eight vectors, in order. Of what is not negative it is the largest float, and
 * what is not finite is larger still. */
static __m256i tops(const __m512i v[8])
{
    __m512i a[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        a[i] = _mm512_max_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    a[0] = _mm512_max_epi32(_mm512_unpacklo_epi64(a[0], a[1]), _mm512_unpackhi_epi64(a[0], a[1]));
    a[2] = _mm512_max_epi32(_mm512_unpacklo_epi64(a[2], a[3]), _mm512_unpackhi_epi64(a[2], a[3]));
    a[0] = _mm512_max_epi32(_mm512_shuffle_i32x4(a[0], a[2], 0x88), _mm512_shuffle_i32x4(a[0], a[2], 0xdd));
    a[0] = _mm512_max_epi32(a[0], _mm512_shuffle_i32x4(a[0], a[0], 0xb1));
    return _mm512_castsi512_si256(_mm512_shuffle_i32x4(a[0], a[0], 0x08));
}

/* Sixteen vectors of small integers as bytes in the order of bytes. */
static void order(const __m512i v[16], __m512i out[4])
{
    const __m512i turn = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i n[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        n[i] = _mm512_permutexvar_epi32(turn,
                                        _mm512_packs_epi16(_mm512_packs_epi32(v[4 * i], v[4 * i + 1]),
                                                           _mm512_packs_epi32(v[4 * i + 2], v[4 * i + 3])));
    for (int i = 0; i < 2; i++) {
        __m512i a = i ? _mm512_shuffle_i32x4(n[0], n[1], 0x99) : _mm512_shuffle_i32x4(n[0], n[1], 0xcc);
        __m512i b = i ? _mm512_shuffle_i32x4(n[2], n[3], 0x99) : _mm512_shuffle_i32x4(n[2], n[3], 0xcc);
        out[i] = _mm512_unpacklo_epi32(a, b);
        out[i + 2] = _mm512_unpackhi_epi32(a, b);
    }
}

static void plane_make(struct act *a, const __m512i v[16], __m256 scale)
{
    const __m512i twice = _mm512_setr_epi32(0, 0, 4, 4, 1, 1, 5, 5, 2, 2, 6, 6, 3, 3, 7, 7);
    __m512i q[4], sum[2];
    order(v, q);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m512i ones = _mm512_set1_epi8(1);
        __m512i s =
            _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, q[i]), ones, q[i + 2]);
        s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, (_MM_PERM_ENUM)0x4e));
        sum[i] = _mm512_shuffle_epi32(s, (_MM_PERM_ENUM)0x50);
        a->half[i] = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sum[i], 5));
    }
    for (int i = 0; i < 4; i++)
        a->q[i] = q[i];
    a->scale = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(scale));
    a->sum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(sum[0], sum[1])), a->scale);
}

/* 16 inputs from x, or what is left of them. */
static inline __m512 inputs(const float *x, size_t at, size_t k)
{
    size_t left = at >= k ? 0 : k - at < 16 ? k - at : 16;
    return _mm512_maskz_loadu_ps((__mmask16)((1u << left) - 1), x + (left ? at : 0));
}

/* high and low: of superblock b, wide apart. Runs with an input of `most` or more keep 16 bits; returns
 * whether there is one. */
static bool wide_make(struct act *high, struct act *low, const float *x, size_t k, size_t b, float most)
{
    __m512 v[16];
    __m512i top8[8], q[16];
#pragma GCC unroll 16
    for (size_t u = 0; u < 16; u++)
        v[u] = inputs(x, b * WIDE + 16 * u, k);
#pragma GCC unroll 8
    for (size_t r = 0; r < 8; r++)
        top8[r] = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(v[2 * r])),
                                   _mm512_castps_si512(_mm512_abs_ps(v[2 * r + 1])));
    __m256 top = _mm256_castsi256_ps(tops(top8));
    __mmask8 odd = _mm256_cmp_ps_mask(top, _mm256_set1_ps(INFINITY), _CMP_NLT_UQ);
    __mmask8 two = _mm256_cmp_ps_mask(top, _mm256_set1_ps(most), _CMP_GE_OQ);
    __m256 step = _mm256_mul_ps(
        top, _mm256_mask_blend_ps(two, _mm256_set1_ps(1.0f / 127.0f), _mm256_set1_ps(1.0f / TOP16)));
    /* what is smaller cannot be inverted, nor seen */
    step = _mm256_maskz_mov_ps(_mm256_cmp_ps_mask(step, _mm256_set1_ps(1e-30f), _CMP_NLE_UQ), step);
    float inverse[8];
    _mm256_storeu_ps(inverse, _mm256_maskz_div_ps(_mm256_cmp_ps_mask(step, _mm256_setzero_ps(), _CMP_GT_OQ),
                                                  _mm256_set1_ps(1.0f), step));
    step = _mm256_mask_mov_ps(step, odd, _mm256_set1_ps(NAN)); /* NaN and infinities in its run, says all */
#pragma GCC unroll 16
    for (size_t u = 0; u < 16; u++)
        q[u] = _mm512_cvtps_epi32(_mm512_mul_ps(v[u], _mm512_set1_ps(inverse[u / 2])));
    if (two) {
        __m512i rest[16];
        for (size_t u = 0; u < 16; u++) {
            bool both = two >> (u / 2) & 1;
            __m128i shift = _mm_cvtsi32_si128(both ? 8 : 0);
            __m512i h = _mm512_sra_epi32(_mm512_add_epi32(q[u], _mm512_set1_epi32(both ? 128 : 0)), shift);
            rest[u] = _mm512_sub_epi32(q[u], _mm512_sll_epi32(h, shift));
            q[u] = h;
        }
        plane_make(low, rest, _mm256_maskz_mov_ps(two, step));
        step = _mm256_mask_mul_ps(step, two, step, _mm256_set1_ps(256.0f));
    }
    plane_make(high, q, step);
    return two != 0;
}

void few_prepare(void *shared, const float *x, size_t rows, size_t k, size_t begin, size_t end, bool exact)
{
    for (size_t r = begin; r < end; r++) {
        size_t first = r / GROUP * GROUP, m = rows - first < GROUP ? rows - first : GROUP;
        struct group g = group_at(shared, k, r / GROUP, m);
        float most = 0.0f;
        if (!exact) {
            __m512 sum = _mm512_setzero_ps();
            for (size_t at = 0; at < k; at += 16)
                sum = _mm512_add_ps(sum, _mm512_abs_ps(inputs(x + r * k, at, k)));
            most = _mm512_reduce_add_ps(sum) * (OUTLIER / (float)k);
        }
        for (size_t b = 0; b < wide_of(k); b++) {
            size_t at = b * m + (r - first);
            g.has_low[b * GROUP + (r - first)] = wide_make(g.high + at, g.low + at, x + r * k, k, b, most);
        }
    }
}

/* ---- weights: a superblock of an output to four vectors of bytes ---- */

INLINE __m512i lanes(int a, int b, int c, int d) /* 32 bits for the dwords of each lane of 128 */
{
    return _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
}
/* The same for runs i and i + 4 of lane i. */
INLINE __m512i lanes2(int r0, int r1, int r2, int r3, int r4, int r5, int r6, int r7)
{
    return _mm512_setr_epi32(r0, r4, r0, r4, r1, r5, r1, r5, r2, r6, r2, r6, r3, r7, r3, r7);
}
INLINE __m512i mask8(__m512i x, int m) { return _mm512_and_si512(x, _mm512_set1_epi8((char)m)); }
INLINE __m512i mask_or(__m512i x, int m, __m512i y) /* (x & m) | y */
{
    return _mm512_ternarylogic_epi32(x, _mm512_set1_epi8((char)m), y, 0xea);
}
INLINE __m512i load512(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE __m128i load128(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
INLINE __m512i load256x2(const uint8_t *p)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* Q4_K and Q5_K: low and high nibbles of 32 bytes are two runs. */
INLINE void bytes_k45(const uint8_t *q, const uint8_t *fifths, __m512i w[4])
{
    __m512i a = load512(q), b = load512(q + 64);
    __m512i p = _mm512_unpacklo_epi32(a, b), r = _mm512_unpackhi_epi32(a, b);
    const __m512i shift = lanes(0, 4, 0, 4);
    w[0] = mask8(_mm512_srlv_epi32(p, shift), 15);
    w[1] = mask8(_mm512_srlv_epi32(_mm512_shuffle_i64x2(p, p, 0xb1), shift), 15);
    w[2] = mask8(_mm512_srlv_epi32(r, shift), 15);
    w[3] = mask8(_mm512_srlv_epi32(_mm512_shuffle_i64x2(r, r, 0xb1), shift), 15);
    if (fifths) { /* bit i of a byte is run i's: turned to bit 4. Run i is in lane i, its inputs from 16 in
                     odd lanes */
        __m512i h = load256x2(fifths);
        const __m512i turn = lanes2(4, 3, 2, 1, 0, 31, 30, 29);
        __m512i h0 = _mm512_unpacklo_epi32(h, h), h1 = _mm512_unpackhi_epi32(h, h);
        w[0] = mask_or(_mm512_rolv_epi32(h0, turn), 16, w[0]);
        w[1] = mask_or(_mm512_rolv_epi32(_mm512_shuffle_i64x2(h0, h0, 0xb1), turn), 16, w[1]);
        w[2] = mask_or(_mm512_rolv_epi32(h1, turn), 16, w[2]);
        w[3] = mask_or(_mm512_rolv_epi32(_mm512_shuffle_i64x2(h1, h1, 0xb1), turn), 16, w[3]);
    }
}

INLINE void bytes_q6_k(const uint8_t *p, __m512i w[4])
{
    __m512i a = load512(p), b = load512(p + 64), ha = load256x2(p + 128), hb = load256x2(p + 160);
    __m512i q0 = _mm512_unpacklo_epi32(a, b), q1 = _mm512_unpackhi_epi32(a, b);
    __m512i h0 = _mm512_unpacklo_epi32(ha, hb), h1 = _mm512_unpackhi_epi32(ha, hb);
    const __m512i shift = lanes(0, 0, 4, 4), turn = lanes(4, 2, 0, 30);
    w[0] = mask8(_mm512_srlv_epi32(_mm512_shuffle_i64x2(q0, q0, 0xcc), shift), 15);
    w[1] = mask8(_mm512_srlv_epi32(_mm512_shuffle_i64x2(q0, q0, 0x99), shift), 15);
    w[2] = mask8(_mm512_srlv_epi32(_mm512_shuffle_i64x2(q1, q1, 0xcc), shift), 15);
    w[3] = mask8(_mm512_srlv_epi32(_mm512_shuffle_i64x2(q1, q1, 0x99), shift), 15);
    w[0] = mask_or(_mm512_rolv_epi32(h0, turn), 0x30, w[0]);
    w[1] = mask_or(_mm512_rolv_epi32(_mm512_shuffle_i64x2(h0, h0, 0xb1), turn), 0x30, w[1]);
    w[2] = mask_or(_mm512_rolv_epi32(h1, turn), 0x30, w[2]);
    w[3] = mask_or(_mm512_rolv_epi32(_mm512_shuffle_i64x2(h1, h1, 0xb1), turn), 0x30, w[3]);
}

/* Four blocks of a type of 32: the lanes of 128 bits. */
INLINE __m512i gather128(const uint8_t *p, size_t size)
{
    __m512i v = _mm512_castsi128_si512(load128(p));
    v = _mm512_inserti32x4(v, load128(p + size), 1);
    v = _mm512_inserti32x4(v, load128(p + 2 * size), 2);
    return _mm512_inserti32x4(v, load128(p + 3 * size), 3);
}
/* Two blocks of Q8_0, as the inputs before they are put in order; the sign bit turned over adds 128. */
INLINE __m512i two_q8_0(const uint8_t *p)
{
    __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)(p + 2)));
    v = _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)(const void *)(p + 2 + Q8_0_BYTES)), 1);
    return _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
}
INLINE void bytes_32(enum tensor_type t, const uint8_t *p, size_t size, __m512i w[4])
{
    if (t == TENSOR_Q8_0) {
        __m512i n0 = two_q8_0(p), n1 = two_q8_0(p + 2 * size), n2 = two_q8_0(p + 4 * size),
                n3 = two_q8_0(p + 6 * size);
        __m512i a0 = _mm512_shuffle_i32x4(n0, n1, 0xcc), b0 = _mm512_shuffle_i32x4(n2, n3, 0xcc);
        __m512i a1 = _mm512_shuffle_i32x4(n0, n1, 0x99), b1 = _mm512_shuffle_i32x4(n2, n3, 0x99);
        w[0] = _mm512_unpacklo_epi32(a0, b0);
        w[1] = _mm512_unpacklo_epi32(a1, b1);
        w[2] = _mm512_unpackhi_epi32(a0, b0);
        w[3] = _mm512_unpackhi_epi32(a1, b1);
        return;
    }
    __m512i a = gather128(p + size - 16, size), b = gather128(p + 5 * size - 16, size);
    __m512i q0 = _mm512_unpacklo_epi32(a, b), q1 = _mm512_unpackhi_epi32(a, b);
    const __m512i even = lanes(0, 4, 0, 4), odd = lanes(4, 0, 4, 0);
    w[0] = mask8(_mm512_srlv_epi32(q0, even), 15);
    w[1] = mask8(_mm512_srlv_epi32(q0, odd), 15);
    w[2] = mask8(_mm512_srlv_epi32(q1, even), 15);
    w[3] = mask8(_mm512_srlv_epi32(q1, odd), 15);
    if (t == TENSOR_Q5_0 ||
        t == TENSOR_Q5_1) { /* bit j is input j's: its byte to all four of a dword, and tested */
        const size_t at = size - 20;
#define FIFTHS(i) (int)quant_u32(p + i * size + at)
        __m512i h =
            lanes2(FIFTHS(0), FIFTHS(1), FIFTHS(2), FIFTHS(3), FIFTHS(4), FIFTHS(5), FIFTHS(6), FIFTHS(7));
        const __m512i bit =
            _mm512_broadcast_i32x4(_mm_setr_epi32(0x08040201, 0x08040201, (int)0x80402010, (int)0x80402010));
        const __m512i dword = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
        const __m512i fifth = _mm512_set1_epi8(16);
        static const int first[4][2] = {
            {0, 2},
            {2, 0},
            {1, 3},
            {3, 1}
        };
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            __m512i byte = _mm512_mullo_epi32(lanes(first[v][0], first[v][1], first[v][0], first[v][1]),
                                              _mm512_set1_epi32(0x01010101));
            __mmask64 is = _mm512_test_epi8_mask(_mm512_shuffle_epi8(h, _mm512_add_epi8(dword, byte)), bit);
            w[v] = _mm512_mask_add_epi8(w[v], is, w[v], fifth);
        }
    }
}

/* ---- scales: of the eight runs of two outputs, in turns as struct act has them ---- */

struct scales {
    __m512 scale, min; /* weight = scale * byte + min; Q6_K: the scales of vectors 0 and 2, and of 1 and 3 */
};
INLINE __m512 turns(float a, float b) /* a b a b ... */
{
    return _mm512_broadcast_f32x2(_mm_set_ps(0.0f, 0.0f, b, a));
}

INLINE struct scales scales_k45(const uint8_t *p0, const uint8_t *p1)
{
    __m256i x = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(p0)), load128(p1), 1);
    /* d dmin, s0, s1, s2 to scales 0-3, 4-7, mins 0-3, 4-7: six bits, or four and two from the bytes before
     */
    const __m256i shift = _mm256_setr_epi32(0, 0, 0, 4, 0, 0, 0, 4);
    const __m256i low = _mm256_set_epi32(0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f,
                                         0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f);
    const __m256i high = _mm256_set_epi32(0x30303030, 0, 0x30303030, 0, 0x30303030, 0, 0x30303030, 0);
    __m256i r = _mm256_and_si256(_mm256_srlv_epi32(_mm256_shuffle_epi32(x, 0xed), shift), low);
    r = _mm256_ternarylogic_epi32(_mm256_srli_epi32(_mm256_shuffle_epi32(x, 0xa5), 2), high, r, 0xea);
    r = _mm256_shuffle_epi8(
        r, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15)));
    __m128i r0 = _mm256_castsi256_si128(r), r1 = _mm256_extracti128_si256(r, 1);
    __m128 ds = _mm_cvtph_ps(_mm_unpacklo_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
    ds = _mm_xor_ps(ds, _mm_setr_ps(0.0f, -0.0f, 0.0f, -0.0f)); /* d -dmin d -dmin */
    return (struct scales){
        .scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(r0, r1))),
                               _mm512_broadcast_f32x2(_mm_permute_ps(ds, 0x08))),
        .min = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpackhi_epi8(r0, r1))),
                             _mm512_broadcast_f32x2(_mm_permute_ps(ds, 0x0d))),
    };
}

INLINE struct scales scales_q6_k(const uint8_t *p0, const uint8_t *p1)
{
    __m128i a = load128(p0 + 192), b = load128(p1 + 192);
    __m256i both =
        _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi8(a, b)), /* two bytes a half */
                                _mm_unpackhi_epi8(a, b), 1);
    both = _mm256_permutexvar_epi16(_mm256_setr_epi16(0, 8, 3, 11, 4, 12, 7, 15, 1, 9, 2, 10, 5, 13, 6, 14),
                                    both);
    __m512 d = turns(quant_f16(quant_u16(p0 + 208)), quant_f16(quant_u16(p1 + 208)));
    return (struct scales){
        .scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(both))), d),
        .min = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(both, 1))), d)};
}

/* The heads of eight blocks as dwords, runs 0 4 1 5 2 6 3 7: the low word is the scale, the high the min of a
 * type that has one. */
INLINE __m256i heads_32(enum tensor_type t, const uint8_t *p, size_t size)
{
    if (t == TENSOR_Q8_0) {
        const __m512i at =
            _mm512_castsi256_si512(_mm256_setr_epi16(0, 0, 0, 0, 17, 0, 17, 0, 34, 0, 34, 0, 51, 0, 51, 0));
        __m512i a = _mm512_maskz_permutex2var_epi16(0x1111, load512(p), at, load512(p + 64));
        __m512i b =
            _mm512_maskz_permutex2var_epi16(0x4444, load512(p + 4 * size), at, load512(p + 4 * size + 64));
        return _mm512_castsi512_si256(_mm512_or_si512(a, b));
    }
    if (t == TENSOR_Q4_0) {
        const __m512i at =
            _mm512_castsi256_si512(_mm256_setr_epi16(0, 0, 36, 0, 9, 0, 45, 0, 18, 0, 54, 0, 27, 0, 63, 0));
        return _mm512_castsi512_si256(_mm512_permutex2var_epi16(load512(p), at, load512(p + 64)));
    }
    if (t == TENSOR_Q4_1) {
        const __m512i at = _mm512_castsi256_si512(_mm256_setr_epi32(0, 16, 5, 21, 10, 26, 15, 31));
        return _mm512_castsi512_si256(_mm512_permutex2var_epi32(load512(p), at, load512(p + 4 * size)));
    }
#define HEAD(i) (int)quant_u32(p + i * size)
    return _mm256_setr_epi32(HEAD(0), HEAD(4), HEAD(1), HEAD(5), HEAD(2), HEAD(6), HEAD(3), HEAD(7));
}
INLINE struct scales scales_32(enum tensor_type t, const uint8_t *p0, const uint8_t *p1, size_t size,
                               __mmask16 there)
{
    __m256i a = heads_32(t, p0, size), b = heads_32(t, p1, size);
    struct scales s;
    s.scale = _mm512_maskz_cvtph_ps(there, _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xaa));
    if (t == TENSOR_Q4_1 || t == TENSOR_Q5_1)
        s.min = _mm512_maskz_cvtph_ps(there, _mm256_blend_epi16(_mm256_srli_epi32(a, 16), b, 0xaa));
    else
        s.min = _mm512_mul_ps(s.scale, _mm512_set1_ps(t == TENSOR_Q4_0   ? -8.0f
                                                      : t == TENSOR_Q5_0 ? -16.0f
                                                                         : -128.0f));
    return s;
}

/* ---- products ---- */

/* An asm line: with the intrinsic gcc 12 copies accumulators to memory and back. */
INLINE __m512i dot(__m512i sum, __m512i w, __m512i a)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(a));
    return sum;
}

struct few_job {
    const uint8_t *w; /* the first output */
    size_t n, row_bytes;
    const uint8_t *end; /* of the tensor */
    size_t k, b0, b1;   /* superblocks */
    struct group a;
    const float *x; /* float weights: the rows */
    float *lanes;   /* [row][LANES_LD]; added to unless b0 is 0 */
    /* From the pair of outputs that is read to what is fetched: two pieces, `apart`, for each superblock, a
     * `step` further. The last pairs, so many outputs, fetch what the next call reads. */
    ptrdiff_t ahead, ahead_last;
    size_t n_last, apart, step;
};
enum { LANES_LD = OPS_PANEL / 2 * 16 };

/* The prefetcher of the machine does not follow two short rows, so their lines are fetched early. In the
 * order of memory, which whole rows allow, it joins in: a third faster. */
INLINE void fetch(const struct few_job *j, const uint8_t *p, size_t size)
{
#pragma GCC unroll 8
    for (size_t i = 0; i < size; i += 64) {
        _mm_prefetch((const char *)p + i, _MM_HINT_NTA);
        _mm_prefetch((const char *)p + j->apart + i, _MM_HINT_NTA);
    }
}
static void fetch_plan(struct few_job *j, size_t wide)
{
    size_t blocks = (j->k + WIDE - 1) / WIDE, read = 2 * (j->b1 - j->b0) * wide, even = (j->n + 1) / 2 * 2;
    if (j->b1 - j->b0 == blocks) {
        j->ahead = (ptrdiff_t)(j->row_bytes + AHEAD);
        j->apart = wide;
        j->step = 2 * wide;
        return;
    }
    j->n_last = 2 * ((AHEAD + read - 1) / read);
    j->n_last = j->n_last < even ? j->n_last : even;
    j->ahead = (ptrdiff_t)(j->n_last * j->row_bytes);
    j->ahead_last = j->b1 == blocks ? j->ahead - (ptrdiff_t)(j->b0 * wide)
                                    : j->ahead - (ptrdiff_t)(even * j->row_bytes) + (ptrdiff_t)(read / 2);
    j->apart = j->row_bytes;
    j->step = wide;
}

/* The sums of two outputs, in turns. */
INLINE __m512i fold(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}
INLINE __m512 plane_add(__m512 y, const struct act *a, const __m512i w0[4], const __m512i w1[4],
                        const struct scales *s, bool halves)
{
    __m512i s0 = _mm512_setzero_si512(), s1 = s0, t0 = s0, t1 = s0, q[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        q[i] = a->q[i];
    s0 = dot(dot(s0, w0[0], q[0]), w0[2], q[2]);
    s1 = dot(dot(s1, w1[0], q[0]), w1[2], q[2]);
    if (halves) {
        t0 = dot(dot(t0, w0[1], q[1]), w0[3], q[3]);
        t1 = dot(dot(t1, w1[1], q[1]), w1[3], q[3]);
        __m512 of0 = _mm512_cvtepi32_ps(_mm512_add_epi32(fold(s0, s1), a->half[0]));
        __m512 of1 = _mm512_cvtepi32_ps(_mm512_add_epi32(fold(t0, t1), a->half[1]));
        return _mm512_fmadd_ps(_mm512_fmadd_ps(of1, s->min, _mm512_mul_ps(of0, s->scale)), a->scale, y);
    }
    s0 = dot(dot(s0, w0[1], q[1]), w0[3], q[3]);
    s1 = dot(dot(s1, w1[1], q[1]), w1[3], q[3]);
    y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(fold(s0, s1)), _mm512_mul_ps(s->scale, a->scale), y);
    return _mm512_fmadd_ps(a->sum, s->min, y);
}

#define EACH_ROW(one) one(0) one(1) one(2) one(3) one(4) one(5) one(6) one(7)
#define ROW_LOAD(r)                                                                                          \
    __m512 y_##r = m > r && j->b0 ? _mm512_loadu_ps(lanes + r * LANES_LD) : _mm512_setzero_ps();
#define ROW_STORE(r)                                                                                         \
    if (m > r)                                                                                               \
        _mm512_storeu_ps(lanes + r * LANES_LD, y_##r);
#define ROW_ADD(r)                                                                                           \
    if (m > r) {                                                                                             \
        y_##r = plane_add(y_##r, high + r, w0, w1, &s, type == TENSOR_Q6_K);                                 \
        if (has_low[r])                                                                                      \
            y_##r = plane_add(y_##r, low + r, w0, w1, &s, type == TENSOR_Q6_K);                              \
    }

/* Lanes whose run is one of the first n. */
static __mmask16 runs_there(size_t n)
{
    unsigned there = 0;
    for (unsigned r = 0; r < RUNS && r < n; r++)
        there |= 3u << (r % 4 * 4 + r / 4 * 2);
    return (__mmask16)there;
}

INLINE void products(const struct few_job *j, enum tensor_type type, unsigned m)
{
    const bool k45 = type == TENSOR_Q4_K || type == TENSOR_Q5_K;
    const size_t wide = type == TENSOR_Q4_K   ? Q4_K_BYTES
                        : type == TENSOR_Q5_K ? Q5_K_BYTES
                        : type == TENSOR_Q6_K ? Q6_K_BYTES
                        : type == TENSOR_Q4_0 ? RUNS * Q4_0_BYTES
                        : type == TENSOR_Q4_1 ? RUNS * Q4_1_BYTES
                        : type == TENSOR_Q5_0 ? RUNS * Q5_0_BYTES
                        : type == TENSOR_Q5_1 ? RUNS * Q5_1_BYTES
                                              : RUNS * Q8_0_BYTES,
                 size = wide / RUNS;
    for (size_t o = 0; o < j->n; o += 2) {
        const uint8_t *w = j->w + o * j->row_bytes + j->b0 * wide,
                      *next = w + (o + j->n_last < j->n ? j->ahead : j->ahead_last);
        size_t other = o + 1 < j->n ? j->row_bytes : 0; /* the last one alone: twice */
        float *lanes = j->lanes + o * 8;
        EACH_ROW(ROW_LOAD)
        for (size_t b = j->b0; b < j->b1; b++, w += wide, next += j->step) {
            const uint8_t *p0 = w, *p1 = w + other, *has_low = j->a.has_low + b * GROUP;
            const struct act *high = j->a.high + b * m, *low = j->a.low + b * m;
            __m512i w0[4], w1[4];
            struct scales s;
            fetch(j, next, wide);
            if (k45) {
                const size_t at = type == TENSOR_Q4_K ? 16 : 48;
                s = scales_k45(p0, p1);
                bytes_k45(p0 + at, type == TENSOR_Q4_K ? NULL : p0 + 16, w0);
                bytes_k45(p1 + at, type == TENSOR_Q4_K ? NULL : p1 + 16, w1);
            } else if (type == TENSOR_Q6_K) {
                s = scales_q6_k(p0, p1);
                bytes_q6_k(p0, w0);
                bytes_q6_k(p1, w1);
            } else {
                /* past the end of a row inputs are zero, and so must be the scales of the blocks read there
                 */
                __mmask16 there = 0xffff;
                uint8_t rest[2][RUNS * Q8_0_BYTES];
                size_t blocks = j->k / QK - b * RUNS;
                if (blocks < RUNS) {
                    there = runs_there(blocks);
                    if (p0 + wide > j->end || p1 + wide > j->end) { /* do not read past the tensor */
                        memset(rest, 0, sizeof rest);
                        p0 = memcpy(rest[0], p0, blocks * size);
                        p1 = memcpy(rest[1], p1, blocks * size);
                    }
                }
                s = scales_32(type, p0, p1, size, there);
                bytes_32(type, p0, size, w0);
                bytes_32(type, p1, size, w1);
            }
            EACH_ROW(ROW_ADD)
        }
        EACH_ROW(ROW_STORE)
    }
}

/* Float types: sixteen inputs at a time, the same lanes. */
INLINE __m512 floats_at(enum tensor_type t, const uint8_t *w, size_t i, __mmask16 in)
{
    if (t == TENSOR_F32)
        return _mm512_maskz_loadu_ps(in, w + 4 * i);
    __m256i h = _mm256_maskz_loadu_epi16(in, w + 2 * i);
    return t == TENSOR_F16 ? _mm512_cvtph_ps(h)
                           : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
#define ROW_FLOAT(r) __m512 t0_##r = _mm512_setzero_ps(), t1_##r = t0_##r;
#define ROW_FLOAT_STEP(r)                                                                                    \
    if (m > r) {                                                                                             \
        __m512 v = _mm512_maskz_loadu_ps(in, x + r * k + i);                                                 \
        t0_##r = _mm512_fmadd_ps(v, v0, t0_##r);                                                             \
        t1_##r = _mm512_fmadd_ps(v, v1, t1_##r);                                                             \
    }
#define ROW_FLOAT_END(r)                                                                                     \
    if (m > r)                                                                                               \
        _mm512_storeu_ps(lanes + r * LANES_LD, _mm512_add_ps(_mm512_unpacklo_ps(t0_##r, t1_##r),             \
                                                             _mm512_unpackhi_ps(t0_##r, t1_##r)));
INLINE void products_float(const struct few_job *j, enum tensor_type type, unsigned m)
{
    size_t k = j->k;
    const float *x = j->x;
    for (size_t o = 0; o < j->n; o += 2) {
        const uint8_t *p0 = j->w + o * j->row_bytes, *p1 = o + 1 < j->n ? p0 + j->row_bytes : p0;
        float *lanes = j->lanes + o * 8;
        EACH_ROW(ROW_FLOAT)
        for (size_t i = 0; i < k; i += 16) {
            __mmask16 in = (__mmask16)(k - i < 16 ? (1u << (k - i)) - 1 : 0xffffu);
            __m512 v0 = floats_at(type, p0, i, in), v1 = floats_at(type, p1, i, in);
            EACH_ROW(ROW_FLOAT_STEP)
        }
        EACH_ROW(ROW_FLOAT_END)
    }
}

#define FOR_ROWS(n, call)                                                                                    \
    case n:                                                                                                  \
        call(n);                                                                                             \
        break;
#define FOR_EACH_ROWS(call)                                                                                  \
    switch (m) {                                                                                             \
        FOR_ROWS(1, call)                                                                                    \
        FOR_ROWS(2, call)                                                                                    \
        FOR_ROWS(3, call)                                                                                    \
        FOR_ROWS(4, call)                                                                                    \
        FOR_ROWS(5, call)                                                                                    \
        FOR_ROWS(6, call)                                                                                    \
        FOR_ROWS(7, call)                                                                                    \
    default:                                                                                                 \
        call(8);                                                                                             \
        break;                                                                                               \
    }
#define FEW(type)                                                                                            \
    static void few_##type(const struct few_job *j, unsigned m) { FOR_EACH_ROWS(FEW_##type) }
#define FEW_Q4_K(n) products(j, TENSOR_Q4_K, n)
#define FEW_Q5_K(n) products(j, TENSOR_Q5_K, n)
#define FEW_Q6_K(n) products(j, TENSOR_Q6_K, n)
#define FEW_Q4_0(n) products(j, TENSOR_Q4_0, n)
#define FEW_Q4_1(n) products(j, TENSOR_Q4_1, n)
#define FEW_Q5_0(n) products(j, TENSOR_Q5_0, n)
#define FEW_Q5_1(n) products(j, TENSOR_Q5_1, n)
#define FEW_Q8_0(n) products(j, TENSOR_Q8_0, n)
#define FEW_F32(n) products_float(j, TENSOR_F32, n)
#define FEW_F16(n) products_float(j, TENSOR_F16, n)
#define FEW_BF16(n) products_float(j, TENSOR_BF16, n)
FEW(Q4_K)
FEW(Q5_K)
FEW(Q6_K)
FEW(Q4_0)
FEW(Q4_1)
FEW(Q5_0)
FEW(Q5_1)
FEW(Q8_0)
FEW(F32)
FEW(F16)
FEW(BF16)

static void few_products(enum tensor_type t, const struct few_job *j, unsigned m)
{
    switch (t) {
    case TENSOR_Q4_K:
        few_Q4_K(j, m);
        break;
    case TENSOR_Q5_K:
        few_Q5_K(j, m);
        break;
    case TENSOR_Q6_K:
        few_Q6_K(j, m);
        break;
    case TENSOR_Q4_0:
        few_Q4_0(j, m);
        break;
    case TENSOR_Q4_1:
        few_Q4_1(j, m);
        break;
    case TENSOR_Q5_0:
        few_Q5_0(j, m);
        break;
    case TENSOR_Q5_1:
        few_Q5_1(j, m);
        break;
    case TENSOR_Q8_0:
        few_Q8_0(j, m);
        break;
    case TENSOR_F32:
        few_F32(j, m);
        break;
    case TENSOR_F16:
        few_F16(j, m);
        break;
    case TENSOR_BF16:
        few_BF16(j, m);
        break;
    }
}

/* The lanes of eight pairs of outputs to sixteen sums, in turns: one tree, whatever else is summed beside. */
static __m512 sum_lanes(const float *in)
{
    __m512 a[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512d p = _mm512_loadu_pd(in + 32 * i), q = _mm512_loadu_pd(in + 32 * i + 16);
        a[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a[0], a[1], 0x88), _mm512_shuffle_f32x4(a[0], a[1], 0xdd));
}

size_t few_worker_bytes(void) { return (size_t)GROUP * LANES_LD * sizeof(float); }

void few_panel(const void *shared, const struct weight *w, const float *x, size_t rows, size_t n0, size_t n1,
               void *scratch, float *sums)
{
    float *lanes = scratch;
    bool wide = w->type != TENSOR_F32 && w->type != TENSOR_F16 && w->type != TENSOR_BF16;
    for (size_t r = 0; r < rows; r += GROUP) {
        size_t m = rows - r < GROUP ? rows - r : GROUP, blocks = wide ? wide_of(w->k) : 1;
        size_t step = wide ? L1_ACTS / m : 1;
        struct few_job j = {.w = w->bytes + n0 * w->row_bytes,
                            .n = n1 - n0,
                            .row_bytes = w->row_bytes,
                            .end = w->bytes + w->n * w->row_bytes,
                            .k = w->k,
                            .a = group_at(shared, w->k, r / GROUP, m),
                            .x = x + r * w->k,
                            .lanes = lanes};
        for (j.b0 = 0; j.b0 < blocks; j.b0 = j.b1) {
            j.b1 = blocks - j.b0 < step ? blocks : j.b0 + step;
            if (wide)
                fetch_plan(&j, tensor_type_bytes(w->type, WIDE));
            few_products(w->type, &j, (unsigned)m);
        }
        for (size_t i = 0; i < m; i++)
            for (size_t o = 0; o < n1 - n0; o += 16)
                _mm512_storeu_ps(sums + (r + i) * OPS_PANEL + o, sum_lanes(lanes + i * LANES_LD + o * 8));
    }
}
