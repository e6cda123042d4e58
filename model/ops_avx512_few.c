/* ops_avx512_few.c - matmul of few rows for AVX-512 with VNNI. One row is bound by memory, or nearly; from
 * four on the multiplications are the bound: two cores do 32 multiply-adds of 16 bits twice a cycle each.
 *
 * Activations are rounded to 16 bits against one scale per WIDE inputs. The weights stay as the file has
 * them; a superblock is unpacked in registers to 16-bit words, once for up to GROUP rows and two outputs at a
 * time, and vpdpwssd multiplies. The 6-bit scales of the K types are multiplied into the words, so that a
 * whole superblock is one exact integer sum. What the min of a type adds is taken from sums of the
 * activations.
 *
 * A row's sums are made by the same operations in the same order whatever the number of rows: exact integers,
 * then eight float lanes, added to in the order of superblocks, and one tree over the lanes.
 *
 * Order of words. All types are brought to one order of inputs, which the activations are put in when they
 * are rounded. A chunk of 128 inputs is four blocks of 32, a block two halves of 16. Vector 2 * half + odd
 * holds, in lane b of 128 bits, the even or odd inputs of that half of block b: what masks and shifts of the
 * 16-bit words give for every type.
 *
 *   shared scratch  groups of up to GROUP rows; in a group of m rows for each superblock: [row 0..m-1][8
 *                   vectors] words; then for each superblock [row][8] sums of the rounded values of 32
 *                   inputs, scaled; then for each superblock [GROUP] scales. Sums and scales stand twice, for
 *                   the lanes of two outputs that take turns. A row alone also has its bytes
 *                   for each superblock: [chunk][half][high, low] vectors. */
#include "ops_avx512_few.h"

#include "quant_rows.h"

#include <immintrin.h>
#include <string.h>

enum {
    WIDE = 256,      /* inputs that share a scale */
    GROUP = 8,       /* rows multiplied with one unpacking */
    ACT_MAX = 32639, /* 127 * 256 + 127: two signed bytes */
    AHEAD = 6144,    /* bytes that are fetched before they are read: 3072 and 12288 are slower */
    L1_WORDS = 12288 /* of activations that are used again and again while they are in the first cache */
};
_Static_assert((int64_t)16 * 32 * 128 * ACT_MAX <= INT32_MAX, "a superblock's sums fit");

#define INLINE static inline __attribute__((always_inline))

static inline size_t wide_of(size_t k) { return (k + WIDE - 1) / WIDE; }

/* One group of rows in the shared scratch. */
struct group {
    const int16_t *words;
    const float *scale, *sum32;
    const __m512i *bytes; /* one row alone */
};
static size_t group_bytes(size_t k) { return (wide_of(k) * GROUP * (WIDE * 2 + 8 + 64) + 63) / 64 * 64; }
static struct group group_at(const void *shared, size_t k, size_t g, size_t rows)
{
    const char *p = (const char *)shared + g * group_bytes(k);
    struct group a = {.words = (const int16_t *)(const void *)p};
    a.sum32 = (const float *)(const void *)(a.words + wide_of(k) * rows * WIDE);
    a.scale = a.sum32 + wide_of(k) * rows * 16;
    a.bytes = rows == 1 ? (const __m512i *)(const void *)(a.scale + wide_of(k) * 2 * GROUP) : NULL;
    return a;
}
size_t few_shared_bytes(size_t k) { return (FEW_MAX + GROUP - 1) / GROUP * group_bytes(k); }

/* ---- activations
 * ------------------------------------------------------------------------------------------------ */

/* 128 rounded inputs in the order of words. */
static void put_chunk(const __m512i natural[4], int16_t *out)
{
    const __m512i part = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 30, 28, 26, 24, 22, 20, 18, 16, 15,
                                          13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512i a[4];
    for (int i = 0; i < 4; i++)
        a[i] = _mm512_permutexvar_epi16(part, natural[i]);
    __m512i p = _mm512_shuffle_i32x4(a[0], a[1], 0x88), q = _mm512_shuffle_i32x4(a[0], a[1], 0xdd);
    __m512i r = _mm512_shuffle_i32x4(a[2], a[3], 0x88), s = _mm512_shuffle_i32x4(a[2], a[3], 0xdd);
    _mm512_storeu_si512(out, _mm512_shuffle_i32x4(p, r, 0x88));
    _mm512_storeu_si512(out + 32, _mm512_shuffle_i32x4(q, s, 0x88));
    _mm512_storeu_si512(out + 64, _mm512_shuffle_i32x4(p, r, 0xdd));
    _mm512_storeu_si512(out + 96, _mm512_shuffle_i32x4(q, s, 0xdd));
}

/* 128 rounded inputs of a row alone, as bytes: a = 256 * high + low. For each half of blocks a vector of high
 * and one of low bytes, lane b being block b. */
static void put_bytes(const __m512i natural[4], __m512i *out)
{
    for (int b = 0; b < 4; b++) {
        __m256i plane[2] = {
            _mm512_cvtepi16_epi8(_mm512_srai_epi16(_mm512_add_epi16(natural[b], _mm512_set1_epi16(128)), 8)),
            _mm512_cvtepi16_epi8(natural[b])};
        for (int i = 0; i < 2; i++) {
            _mm_storeu_si128((__m128i *)(void *)(out + i) + b, _mm256_castsi256_si128(plane[i]));
            _mm_storeu_si128((__m128i *)(void *)(out + 2 + i) + b, _mm256_extracti128_si256(plane[i], 1));
        }
    }
}

static void prepare_row(const struct group *g, const float *x, size_t k, size_t rows, size_t row)
{
    int16_t *words = (int16_t *)(uintptr_t)g->words;
    float *scale = (float *)(uintptr_t)g->scale, *sum32 = (float *)(uintptr_t)g->sum32;
    for (size_t b = 0; b < wide_of(k); b++) {
        __m512 v[16], max = _mm512_setzero_ps();
        __mmask16 wild = 0; /* NaN or infinite: the scale alone says NaN */
        for (size_t u = 0; u < 16; u++) {
            size_t at = b * WIDE + u * 16, left = at >= k ? 0 : k - at < 16 ? k - at : 16;
            v[u] = _mm512_maskz_loadu_ps((__mmask16)((1u << left) - 1), x + (left ? at : 0));
            max = _mm512_max_ps(max, _mm512_abs_ps(v[u]));
            wild |= _mm512_fpclass_ps_mask(v[u], 0x99);
        }
        float s = _mm512_reduce_max_ps(max) * (1.0f / ACT_MAX), inverse = s > 0 && !wild ? 1.0f / s : 0.0f;
        if (!(inverse * 0.0f == 0.0f)) /* the inverse of a subnormal */
            inverse = 0.0f;
        if (wild)
            s = __builtin_nanf("");
        scale[(b * GROUP + row) * 2] = scale[(b * GROUP + row) * 2 + 1] = s;
        __m512i natural[8];
        for (size_t u = 0; u < 8; u++) {
            __m256i q[2];
            int32_t sum = 0;
            for (size_t h = 0; h < 2; h++) {
                __m512i i = _mm512_maskz_cvtps_epi32(wild ? 0 : 0xffff,
                                                     _mm512_mul_ps(v[2 * u + h], _mm512_set1_ps(inverse)));
                q[h] = _mm512_cvtsepi32_epi16(i);
                sum += _mm512_reduce_add_epi32(i);
            }
            natural[u] = _mm512_inserti64x4(_mm512_castsi256_si512(q[0]), q[1], 1);
            float *to = sum32 + (b * rows + row) * 16 + 2 * u;
            to[0] = to[1] = (float)sum * s;
        }
        int16_t *out = words + (b * rows + row) * WIDE;
        put_chunk(natural, out);
        put_chunk(natural + 4, out + 128);
        if (rows == 1)
            for (size_t c = 0; c < 2; c++)
                put_bytes(natural + 4 * c, (__m512i *)(uintptr_t)g->bytes + b * 8 + c * 4);
    }
}

void few_prepare(void *shared, const float *x, size_t rows, size_t k, size_t begin, size_t end)
{
    for (size_t r = begin; r < end; r++) {
        size_t first = r / GROUP * GROUP, n = rows - first < GROUP ? rows - first : GROUP;
        struct group g = group_at(shared, k, r / GROUP, n);
        prepare_row(&g, x + r * k, k, n, r - first);
    }
}

/* ---- weights: one chunk of an output to four vectors of words
 * --------------------------------------------------- */

INLINE __m512i lanes(int a, int b, int c, int d) /* 16-bit counts per lane of 128 bits */
{
    return _mm512_set_epi16((short)d, (short)d, (short)d, (short)d, (short)d, (short)d, (short)d, (short)d,
                            (short)c, (short)c, (short)c, (short)c, (short)c, (short)c, (short)c, (short)c,
                            (short)b, (short)b, (short)b, (short)b, (short)b, (short)b, (short)b, (short)b,
                            (short)a, (short)a, (short)a, (short)a, (short)a, (short)a, (short)a, (short)a);
}
INLINE __m512i lanes32(int a, int b, int c, int d)
{
    return _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
}
INLINE __m512i mask16(__m512i x, int m) { return _mm512_and_si512(x, _mm512_set1_epi16((short)m)); }
INLINE __m512i load128x4(const uint8_t *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
}
/* (x & m) | y */
INLINE __m512i mask_or(__m512i x, int m, __m512i y)
{
    return _mm512_ternarylogic_epi32(x, _mm512_set1_epi16((short)m), y, 0xea);
}

/* Q4_K and Q5_K: low and high nibbles of 32 bytes are two blocks. */
INLINE void words_k45(const uint8_t *q, const uint8_t *fifths, int c, __m512i scale, __m512i w[4])
{
    __m512i b = _mm512_loadu_si512(q + 64 * c);
    __m512i u0 = _mm512_shuffle_i64x2(b, b, 0xa0), u1 = _mm512_shuffle_i64x2(b, b, 0xf5);
    const __m512i even = lanes(0, 4, 0, 4), odd = lanes(8, 12, 8, 12);
    w[0] = mask16(_mm512_srlv_epi16(u0, even), 15);
    w[1] = mask16(_mm512_srlv_epi16(u0, odd), 15);
    w[2] = mask16(_mm512_srlv_epi16(u1, even), 15);
    w[3] = mask16(_mm512_srlv_epi16(u1, odd), 15);
    if (fifths) { /* bit b of a byte belongs to block b of the superblock: turned to bit 4 */
        __m512i h0 = load128x4(fifths), h1 = load128x4(fifths + 16);
        const __m512i he = c ? lanes32(0, 31, 30, 29) : lanes32(4, 3, 2, 1),
                      ho = c ? lanes32(24, 23, 22, 21) : lanes32(28, 27, 26, 25);
        w[0] = mask_or(_mm512_rolv_epi32(h0, he), 16, w[0]);
        w[1] = mask_or(_mm512_rolv_epi32(h0, ho), 16, w[1]);
        w[2] = mask_or(_mm512_rolv_epi32(h1, he), 16, w[2]);
        w[3] = mask_or(_mm512_rolv_epi32(h1, ho), 16, w[3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        w[i] = _mm512_mullo_epi16(w[i], scale);
}
INLINE __m512i scale_k45(__m512i scales, int c) /* byte 4c + b to the words of lane b */
{
    const __m512i spread =
        lanes(0x8000 | (4 * c), 0x8000 | (4 * c + 1), 0x8000 | (4 * c + 2), 0x8000 | (4 * c + 3));
    return _mm512_shuffle_epi8(scales, spread);
}

INLINE void words_q6_k(const uint8_t *b, int c, __m512i w[4])
{
    __m512i low = _mm512_loadu_si512(b + 64 * c);
    __m512i u0 = _mm512_shuffle_i64x2(low, low, 0x88), u1 = _mm512_shuffle_i64x2(low, low, 0xdd);
    __m512i h0 = load128x4(b + 128 + 32 * c), h1 = load128x4(b + 144 + 32 * c);
    const __m512i even = lanes(0, 0, 4, 4), odd = lanes(8, 8, 12, 12);
    const __m512i he = lanes32(4, 2, 0, 30), ho = lanes32(28, 26, 24, 22);
    w[0] = mask_or(_mm512_rolv_epi32(h0, he), 0x30, mask16(_mm512_srlv_epi16(u0, even), 15));
    w[1] = mask_or(_mm512_rolv_epi32(h0, ho), 0x30, mask16(_mm512_srlv_epi16(u0, odd), 15));
    w[2] = mask_or(_mm512_rolv_epi32(h1, he), 0x30, mask16(_mm512_srlv_epi16(u1, even), 15));
    w[3] = mask_or(_mm512_rolv_epi32(h1, ho), 0x30, mask16(_mm512_srlv_epi16(u1, odd), 15));
    __m512i s = _mm512_castsi256_si512(
        _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(b + 192))));
    __m512i s0 = _mm512_permutexvar_epi16(lanes(8 * c, 8 * c + 2, 8 * c + 4, 8 * c + 6), s);
    __m512i s1 = _mm512_permutexvar_epi16(lanes(8 * c + 1, 8 * c + 3, 8 * c + 5, 8 * c + 7), s);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        w[i] = _mm512_mullo_epi16(_mm512_sub_epi16(w[i], _mm512_set1_epi16(32)), i < 2 ? s0 : s1);
}

/* Four blocks of a type of 32: the lanes of 128 bits. */
INLINE __m512i gather128(const uint8_t *p, size_t size)
{
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(p + size)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(p + 2 * size)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(p + 3 * size)), 3);
}
INLINE __m512i word_if(__m512i bits, __m512i which) /* the fifth bit of a word whose bit is set */
{
    return _mm512_maskz_mov_epi16(_mm512_test_epi16_mask(bits, which), _mm512_set1_epi16(16));
}
INLINE void words_32(enum tensor_type t, const uint8_t *p, size_t size, __m512i w[4])
{
    if (t == TENSOR_Q8_0) {
        __m512i a = gather128(p + 2, size), b = gather128(p + 18, size);
        w[0] = _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8);
        w[1] = _mm512_srai_epi16(a, 8);
        w[2] = _mm512_srai_epi16(_mm512_slli_epi16(b, 8), 8);
        w[3] = _mm512_srai_epi16(b, 8);
        return;
    }
    __m512i u = gather128(p + size - 16, size);
    w[0] = mask16(u, 15);
    w[1] = mask16(_mm512_srli_epi16(u, 8), 15);
    w[2] = mask16(_mm512_srli_epi16(u, 4), 15);
    w[3] = _mm512_srli_epi16(u, 12);
    if (t == TENSOR_Q5_0 || t == TENSOR_Q5_1) { /* bit j is input j's: spread over words, tested in place */
        __m512i h = gather128(p + size - 20, size);
        __m512i h0 = _mm512_shuffle_epi8(h, _mm512_set1_epi16(0x0100)),
                h1 = _mm512_shuffle_epi8(h, _mm512_set1_epi16(0x0302));
        const __m512i even = _mm512_set4_epi32(0x40001000, 0x04000100, 0x00400010, 0x00040001),
                      odd = _mm512_set4_epi32((int)0x80002000, 0x08000200, 0x00800020, 0x00080002);
        w[0] = _mm512_or_si512(w[0], word_if(h0, even));
        w[1] = _mm512_or_si512(w[1], word_if(h0, odd));
        w[2] = _mm512_or_si512(w[2], word_if(h1, even));
        w[3] = _mm512_or_si512(w[3], word_if(h1, odd));
    }
}

/* ---- products
 * ---------------------------------------------------------------------------------------------------- */

/* An asm line: with the intrinsic gcc 12 copies accumulators to memory and back. */
INLINE __m512i dot_words(__m512i sum, __m512i a, __m512i w)
{
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(w));
    return sum;
}

struct few_job {
    const uint8_t *w[2]; /* two outputs */
    const uint8_t *end;  /* of the tensor */
    struct group a;
    const float *x;   /* float weights: the rows */
    size_t k, b0, b1; /* superblocks */
    size_t ahead;     /* to what is read next but one: from here on, or pairs of outputs away */
    bool in_order;    /* whole rows: then the lines are fetched in the order of memory */
    float *lanes;     /* [row][LANES_LD], added to */
};
enum { LANES_LD = OPS_PANEL / 2 * 16 };

/* Two vectors of sums to one: the lanes of two outputs take turns. Q6_K's lanes are too full to add as
 * integers. */
INLINE __m512 fold(__m512i a, __m512i b, bool full)
{
    __m512i low = _mm512_unpacklo_epi32(a, b), high = _mm512_unpackhi_epi32(a, b);
    return full ? _mm512_add_ps(_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high))
                : _mm512_cvtepi32_ps(_mm512_add_epi32(low, high));
}
INLINE __m512 turns(float a, float b) /* a b a b ... */
{
    return _mm512_broadcast_f32x2(_mm_set_ps(0.0f, 0.0f, b, a));
}

/* The prefetcher of the machine does not follow two short rows, so the lines of superblock b of both are
 * fetched early. In the order of memory it joins in: a third faster. */
INLINE void fetch(const struct few_job *j, const uint8_t *p0, const uint8_t *p1, size_t b, size_t size)
{
    if (j->in_order) {
        const uint8_t *p = j->w[0] + 2 * b * size + j->ahead;
#pragma GCC unroll 16
        for (size_t i = 0; i < 2 * size; i += 64)
            _mm_prefetch((const char *)p + i, _MM_HINT_NTA);
        return;
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < size; i += 64) {
        _mm_prefetch((const char *)p0 + j->ahead + i, _MM_HINT_NTA);
        _mm_prefetch((const char *)p1 + j->ahead + i, _MM_HINT_NTA);
    }
}

#define EACH_ROW(one) one(0) one(1) one(2) one(3) one(4) one(5) one(6) one(7)
#define ROW_ZERO(r) __m512i s0_##r = _mm512_setzero_si512(), s1_##r = s0_##r;
#define ROW_STEP(r)                                                                                          \
    if (m > r) {                                                                                             \
        __m512i a = x[r * 8 + v];                                                                            \
        s0_##r = dot_words(s0_##r, a, w0[v]);                                                                \
        s1_##r = dot_words(s1_##r, a, w1[v]);                                                                \
    }
#define EACH_STEP                                                                                            \
    _Pragma("GCC unroll 4") for (int v = 0; v < 4; v++) { EACH_ROW(ROW_STEP) }

#define ROW_LOAD(r) __m512 y_##r = m > r ? _mm512_loadu_ps(j->lanes + r * LANES_LD) : _mm512_setzero_ps();
#define ROW_STORE(r)                                                                                         \
    if (m > r)                                                                                               \
        _mm512_storeu_ps(j->lanes + r * LANES_LD, y_##r);
#define ROW_FOLD_K(r)                                                                                        \
    if (m > r) {                                                                                             \
        __m512 by = _mm512_mul_ps(_mm512_set1_ps(scale[2 * r]), h.d);                                        \
        y_##r = _mm512_fmadd_ps(fold(s0_##r, s1_##r, type == TENSOR_Q6_K), by, y_##r);                       \
        if (type != TENSOR_Q6_K)                                                                             \
            y_##r = _mm512_fnmadd_ps(sum32[r], h.min, y_##r);                                                \
    }

/* The heads of a superblock of Q4_K or Q5_K for two outputs. */
struct heads_k45 {
    __m512i scale[2]; /* eight bytes, again and again */
    __m512 d, min;    /* in turns */
};
INLINE struct heads_k45 heads_k45(const uint8_t *p0, const uint8_t *p1)
{
    __m256i x =
        _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p0)),
                                _mm_loadu_si128((const __m128i *)(const void *)p1), 1);
    /* d dmin, s0, s1, s2 to scales 0-3, 4-7, mins 0-3, 4-7: six bits, or four and two from the bytes before
     */
    const __m256i shift = _mm256_setr_epi32(0, 0, 0, 4, 0, 0, 0, 4);
    const __m256i low = _mm256_set_epi32(0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f,
                                         0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f);
    const __m256i high = _mm256_set_epi32(0x30303030, 0, 0x30303030, 0, 0x30303030, 0, 0x30303030, 0);
    __m256i r = _mm256_and_si256(_mm256_srlv_epi32(_mm256_shuffle_epi32(x, 0xed), shift), low);
    r = _mm256_ternarylogic_epi32(_mm256_srli_epi32(_mm256_shuffle_epi32(x, 0xa5), 2), high, r, 0xea);
    __m128i r0 = _mm256_castsi256_si128(r), r1 = _mm256_extracti128_si256(r, 1);
    __m128 ds = _mm_cvtph_ps(_mm_unpacklo_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
    __m512 mins = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpackhi_epi8(r0, r1)));
    return (struct heads_k45){
        .scale = {_mm512_broadcastq_epi64(r0), _mm512_broadcastq_epi64(r1)},
        .d = _mm512_broadcast_f32x2(_mm_permute_ps(ds, 0x08)),
        .min = _mm512_mul_ps(mins, _mm512_broadcast_f32x2(_mm_permute_ps(ds, 0x0d))),
    };
}

/* One row alone is bound by the unpacking, so Q4_K and Q5_K then keep their bytes: two planes of inputs,
 * whose sums fit in 16 bits and are multiplied with the 6-bit scales. The lanes hold the same integers as
 * with words. (Q6_K would need a third plane for its offset, which the first cache has no room for.) */
struct one {
    __m512i high, low;
};
INLINE void one_step(struct one *s, __m512i q0, __m512i q1, const __m512i *x, __m512i scale)
{
    __m512i z = _mm512_setzero_si512();
    __m512i high = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(z, q0, x[0]), q1, x[2]);
    __m512i low = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(z, q0, x[1]), q1, x[3]);
    s->high = dot_words(s->high, high, scale);
    s->low = dot_words(s->low, low, scale);
}
INLINE __m512i mask8(__m512i x, int m) { return _mm512_and_si512(x, _mm512_set1_epi8((char)m)); }
INLINE __m512i mask8_or(__m512i x, int m, __m512i y) /* (x & m) | y */
{
    return _mm512_ternarylogic_epi32(x, _mm512_set1_epi8((char)m), y, 0xea);
}
INLINE void one_k45(struct one *s, const uint8_t *q, const uint8_t *fifths, int c, __m512i scales,
                    const __m512i *x)
{
    __m512i b = _mm512_loadu_si512(q + 64 * c);
    const __m512i shift = lanes(0, 4, 0, 4);
    __m512i q0 = mask8(_mm512_srlv_epi16(_mm512_shuffle_i64x2(b, b, 0xa0), shift), 15),
            q1 = mask8(_mm512_srlv_epi16(_mm512_shuffle_i64x2(b, b, 0xf5), shift), 15);
    if (fifths) {
        const __m512i turn = c ? lanes32(0, 31, 30, 29) : lanes32(4, 3, 2, 1);
        q0 = mask8_or(_mm512_rolv_epi32(load128x4(fifths), turn), 16, q0);
        q1 = mask8_or(_mm512_rolv_epi32(load128x4(fifths + 16), turn), 16, q1);
    }
    const int none = (int)0x80808000;
    const __m512i spread =
        lanes32(none | (4 * c), none | (4 * c + 1), none | (4 * c + 2), none | (4 * c + 3));
    one_step(s, q0, q1, x, _mm512_shuffle_epi8(scales, spread));
}
INLINE void products_k(const struct few_job *j, enum tensor_type type, unsigned m)
{
    const size_t size = type == TENSOR_Q4_K ? Q4_K_BYTES : type == TENSOR_Q5_K ? Q5_K_BYTES : Q6_K_BYTES;
    const uint8_t *p0 = j->w[0] + j->b0 * size, *p1 = j->w[1] + j->b0 * size;
    EACH_ROW(ROW_LOAD)
    for (size_t b = j->b0; b < j->b1; b++, p0 += size, p1 += size) {
        const __m512i *x = (const __m512i *)(const void *)(j->a.words + b * m * WIDE);
        const __m512 *sum32 = (const __m512 *)(const void *)(j->a.sum32 + b * m * 16);
        fetch(j, p0, p1, b, size);
        struct heads_k45 h = {0};
        if (type == TENSOR_Q6_K)
            h.d = turns(quant_f16(quant_u16(p0 + 208)), quant_f16(quant_u16(p1 + 208)));
        else
            h = heads_k45(p0, p1);
        const float *scale = j->a.scale + b * 2 * GROUP;
        EACH_ROW(ROW_ZERO)
        bool bytes = m == 1 && type != TENSOR_Q6_K;
        if (bytes) {
            struct one s0 = {s0_0, s0_0}, s1 = s0;
            const size_t at = type == TENSOR_Q4_K ? 16 : 48;
            const __m512i *planes = j->a.bytes + b * 8;
#pragma GCC unroll 2
            for (int c = 0; c < 2; c++, planes += 4) {
                one_k45(&s0, p0 + at, type == TENSOR_Q4_K ? NULL : p0 + 16, c, h.scale[0], planes);
                one_k45(&s1, p1 + at, type == TENSOR_Q4_K ? NULL : p1 + 16, c, h.scale[1], planes);
            }
            s0_0 = _mm512_add_epi32(_mm512_slli_epi32(s0.high, 8), s0.low);
            s1_0 = _mm512_add_epi32(_mm512_slli_epi32(s1.high, 8), s1.low);
        }
#pragma GCC unroll 2
        for (int c = 0; c < 2 && !bytes; c++, x += 4) {
            __m512i w0[4], w1[4];
            if (type == TENSOR_Q6_K) {
                words_q6_k(p0, c, w0);
                words_q6_k(p1, c, w1);
            } else {
                size_t at = type == TENSOR_Q4_K ? 16 : 48;
                words_k45(p0 + at, type == TENSOR_Q4_K ? NULL : p0 + 16, c, scale_k45(h.scale[0], c), w0);
                words_k45(p1 + at, type == TENSOR_Q4_K ? NULL : p1 + 16, c, scale_k45(h.scale[1], c), w1);
            }
            EACH_STEP
        }
        EACH_ROW(ROW_FOLD_K)
    }
    EACH_ROW(ROW_STORE)
}

#define ROW_START_32(r) __m512 t_##r = _mm512_setzero_ps();
#define ROW_FOLD_32(r)                                                                                       \
    if (m > r)                                                                                               \
        t_##r = _mm512_fmadd_ps(fold(s0_##r, s1_##r, false), d, t_##r);
#define ROW_END_32(r)                                                                                        \
    if (m > r) {                                                                                             \
        y_##r = _mm512_fmadd_ps(t_##r, _mm512_set1_ps(scale[2 * r]), y_##r);                                 \
        if (type != TENSOR_Q8_0)                                                                             \
            y_##r = _mm512_fmadd_ps(sum32[r], min, y_##r);                                                   \
    }

/* The first four bytes of eight blocks of two outputs, in turns. */
INLINE __m512i heads_32(const uint8_t *p0, const uint8_t *p1, size_t size)
{
    __m512i h = _mm512_set1_epi32((int)quant_u32(p0));
#pragma GCC unroll 16
    for (unsigned i = 1; i < 16; i++)
        h = _mm512_mask_set1_epi32(h, (__mmask16)(1u << i), (int)quant_u32((i & 1 ? p1 : p0) + i / 2 * size));
    return h;
}

INLINE void products_32(const struct few_job *j, enum tensor_type type, unsigned m)
{
    const size_t size = type == TENSOR_Q4_0   ? Q4_0_BYTES
                        : type == TENSOR_Q4_1 ? Q4_1_BYTES
                        : type == TENSOR_Q5_0 ? Q5_0_BYTES
                        : type == TENSOR_Q5_1 ? Q5_1_BYTES
                                              : Q8_0_BYTES;
    EACH_ROW(ROW_LOAD)
    for (size_t b = j->b0; b < j->b1; b++) {
        const __m512i *x = (const __m512i *)(const void *)(j->a.words + b * m * WIDE);
        const __m512 *sum32 = (const __m512 *)(const void *)(j->a.sum32 + b * m * 16);
        const float *scale = j->a.scale + b * 2 * GROUP;
        const uint8_t *p0 = j->w[0] + b * 8 * size, *p1 = j->w[1] + b * 8 * size;
        fetch(j, p0, p1, b, 8 * size);
        uint8_t rest[2][8 * Q8_0_BYTES];
        size_t blocks = j->k / QK - b * 8;
        __mmask16 there = (__mmask16)(blocks < 8 ? (1u << 2 * blocks) - 1 : 0xffffu);
        if (blocks < 8 &&
            (p0 + 8 * size > j->end || p1 + 8 * size > j->end)) { /* do not read past the tensor */
            memset(rest, 0, sizeof rest);
            p0 = memcpy(rest[0], p0, blocks * size);
            p1 = memcpy(rest[1], p1, blocks * size);
        }
        /* past the end of a row inputs are zero, and so must be the scales of the blocks read there */
        __m512i heads = _mm512_maskz_mov_epi32(there, heads_32(p0, p1, size));
        __m512 all = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(heads)), min = _mm512_setzero_ps();
        if (type == TENSOR_Q4_0)
            min = _mm512_mul_ps(all, _mm512_set1_ps(-8.0f));
        else if (type == TENSOR_Q5_0)
            min = _mm512_mul_ps(all, _mm512_set1_ps(-16.0f));
        else if (type != TENSOR_Q8_0)
            min = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(heads, 16)));
        EACH_ROW(ROW_START_32)
#pragma GCC unroll 2
        for (int c = 0; c < 2; c++, x += 4) {
            if (c && blocks <= 4)
                break;
            EACH_ROW(ROW_ZERO)
            __m512i w0[4], w1[4];
            words_32(type, p0 + 4 * size * (size_t)c, size, w0);
            words_32(type, p1 + 4 * size * (size_t)c, size, w1);
            EACH_STEP
            const int at = 8 * c;
            __m512 d = _mm512_permutexvar_ps(_mm512_setr_epi32(at, at + 1, at, at + 1, at + 2, at + 3, at + 2,
                                                               at + 3, at + 4, at + 5, at + 4, at + 5, at + 6,
                                                               at + 7, at + 6, at + 7),
                                             all);
            EACH_ROW(ROW_FOLD_32)
        }
        EACH_ROW(ROW_END_32)
    }
    EACH_ROW(ROW_STORE)
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
        _mm512_storeu_ps(j->lanes + r * LANES_LD, _mm512_add_ps(_mm512_unpacklo_ps(t0_##r, t1_##r),          \
                                                                _mm512_unpackhi_ps(t0_##r, t1_##r)));
INLINE void products_float(const struct few_job *j, enum tensor_type type, unsigned m)
{
    size_t k = j->k;
    const float *x = j->x;
    EACH_ROW(ROW_FLOAT)
    for (size_t i = 0; i < k; i += 16) {
        __mmask16 in = (__mmask16)(k - i < 16 ? (1u << (k - i)) - 1 : 0xffffu);
        __m512 v0 = floats_at(type, j->w[0], i, in), v1 = floats_at(type, j->w[1], i, in);
        EACH_ROW(ROW_FLOAT_STEP)
    }
    EACH_ROW(ROW_FLOAT_END)
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
#define FEW_Q4_K(n) products_k(j, TENSOR_Q4_K, n)
#define FEW_Q5_K(n) products_k(j, TENSOR_Q5_K, n)
#define FEW_Q6_K(n) products_k(j, TENSOR_Q6_K, n)
#define FEW_Q4_0(n) products_32(j, TENSOR_Q4_0, n)
#define FEW_Q4_1(n) products_32(j, TENSOR_Q4_1, n)
#define FEW_Q5_0(n) products_32(j, TENSOR_Q5_0, n)
#define FEW_Q5_1(n) products_32(j, TENSOR_Q5_1, n)
#define FEW_Q8_0(n) products_32(j, TENSOR_Q8_0, n)
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

static void few_pair(enum tensor_type t, const struct few_job *j, unsigned m)
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
        size_t step = wide ? L1_WORDS / (m * WIDE) : 1;
        memset(lanes, 0, m * LANES_LD * sizeof *lanes);
        struct few_job j = {.a = group_at(shared, w->k, r / GROUP, m),
                            .k = w->k,
                            .x = x + r * w->k,
                            .end = w->bytes + w->n * w->row_bytes};
        for (j.b0 = 0; j.b0 < blocks; j.b0 = j.b1) {
            j.b1 = blocks - j.b0 < step ? blocks : j.b0 + step;
            j.in_order = j.b1 - j.b0 == blocks;
            size_t pair = 2 * w->row_bytes;
            j.ahead = j.in_order ? w->row_bytes + AHEAD : (AHEAD + pair - 1) / pair * pair;
            for (size_t o = n0; o < n1; o += 2) {
                j.w[0] = w->bytes + o * w->row_bytes;
                j.w[1] = o + 1 < n1 ? j.w[0] + w->row_bytes : j.w[0]; /* the last one alone: twice */
                j.lanes = lanes + (o - n0) * 8;
                few_pair(w->type, &j, (unsigned)m);
            }
        }
        for (size_t i = 0; i < m; i++)
            for (size_t o = 0; o < n1 - n0; o += 16)
                _mm512_storeu_ps(sums + (r + i) * OPS_PANEL + o, sum_lanes(lanes + i * LANES_LD + o * 8));
    }
}
