/* quant_rows.h - the definition of every weight type, as plain C that turns a run of elements into floats.
 * Included by quant.c (the scalar reference that tests compare with) and by the SIMD files, where the same
 * loops are vectorised for that instruction set. Layouts are those of GGUF, little-endian, packed without
 * alignment.
 *
 *   Q4_0  f16 d, 16 bytes           d * (q - 8)            low nibbles are elements 0..15, high 16..31
 *   Q4_1  f16 d, f16 m, 16 bytes    d * q + m
 *   Q5_0  f16 d, u32 h, 16 bytes    d * (q - 16)           bit j of h is the fifth bit of element j
 *   Q5_1  f16 d, f16 m, u32 h, 16   d * q + m
 *   Q8_0  f16 d, 32 x i8            d * q
 *   Q4_K  f16 d, f16 dmin, 12 bytes of 6-bit (scale, min) for 8 runs of 32, 128 bytes of nibbles
 *   Q5_K  the same with 32 bytes of fifth bits before the nibbles
 *   Q6_K  128 bytes of low nibbles, 64 bytes of high pairs, 16 x i8 scales for runs of 16, f16 d last */
#ifndef CAIRN_MODEL_QUANT_ROWS_H
#define CAIRN_MODEL_QUANT_ROWS_H

#include <cairn/model.h>

#include <string.h>

enum { QK_K = 256, QK = 32 };
enum {
    Q4_0_BYTES = 18,
    Q4_1_BYTES = 20,
    Q5_0_BYTES = 22,
    Q5_1_BYTES = 24,
    Q8_0_BYTES = 34,
    Q4_K_BYTES = 144,
    Q5_K_BYTES = 176,
    Q6_K_BYTES = 210,
};

static inline uint16_t quant_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static inline uint32_t quant_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static inline float quant_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
/* Half to single; subnormals, infinities and NaN included. */
static inline float quant_f16(uint16_t h)
{
#ifdef __F16C__
    return __builtin_ia32_vcvtph2ps((__attribute__((vector_size(16))) short){(short)h})[0];
#else
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
    if (exponent == 31)
        return quant_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) {
        float f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    return quant_bits(sign | (exponent + 112) << 23 | mantissa << 13);
#endif
}
static inline float quant_bf16(uint16_t h) { return quant_bits((uint32_t)h << 16); }

/* The 6-bit scales and mins of Q4_K and Q5_K. */
static inline void quant_k_scales(const uint8_t *s, uint8_t scale[8], uint8_t min[8])
{
    for (int j = 0; j < 4; j++) {
        scale[j] = s[j] & 63;
        min[j] = s[j + 4] & 63;
        scale[j + 4] = (uint8_t)((s[j + 8] & 15) | (s[j] >> 6) << 4);
        min[j + 4] = (uint8_t)((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
    }
}

static inline void quant_q4_0(const uint8_t *b, float *y)
{
    float d = quant_f16(quant_u16(b));
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((b[2 + j] & 15) - 8);
        y[j + 16] = d * (float)((b[2 + j] >> 4) - 8);
    }
}
static inline void quant_q4_1(const uint8_t *b, float *y)
{
    float d = quant_f16(quant_u16(b)), m = quant_f16(quant_u16(b + 2));
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)(b[4 + j] & 15) + m;
        y[j + 16] = d * (float)(b[4 + j] >> 4) + m;
    }
}
static inline void quant_q5_0(const uint8_t *b, float *y)
{
    float d = quant_f16(quant_u16(b));
    uint32_t h = quant_u32(b + 2);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((int)((b[6 + j] & 15) | (h >> j & 1) << 4) - 16);
        y[j + 16] = d * (float)((int)((b[6 + j] >> 4) | (h >> (j + 16) & 1) << 4) - 16);
    }
}
static inline void quant_q5_1(const uint8_t *b, float *y)
{
    float d = quant_f16(quant_u16(b)), m = quant_f16(quant_u16(b + 2));
    uint32_t h = quant_u32(b + 4);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)(int)((b[8 + j] & 15) | (h >> j & 1) << 4) + m;
        y[j + 16] = d * (float)(int)((b[8 + j] >> 4) | (h >> (j + 16) & 1) << 4) + m;
    }
}
static inline void quant_q8_0(const uint8_t *b, float *y)
{
    float d = quant_f16(quant_u16(b));
    for (int j = 0; j < 32; j++)
        y[j] = d * (float)(int8_t)b[2 + j];
}
static inline void quant_q4_k(const uint8_t *b, float *y)
{
    float d = quant_f16(quant_u16(b)), dmin = quant_f16(quant_u16(b + 2));
    uint8_t scale[8], min[8];
    quant_k_scales(b + 4, scale, min);
    const uint8_t *q = b + 16;
    for (int i = 0; i < 4; i++, q += 32, y += 64) {
        float d0 = d * (float)scale[2 * i], m0 = dmin * (float)min[2 * i];
        float d1 = d * (float)scale[2 * i + 1], m1 = dmin * (float)min[2 * i + 1];
        for (int j = 0; j < 32; j++) {
            y[j] = d0 * (float)(q[j] & 15) - m0;
            y[j + 32] = d1 * (float)(q[j] >> 4) - m1;
        }
    }
}
static inline void quant_q5_k(const uint8_t *b, float *y)
{
    float d = quant_f16(quant_u16(b)), dmin = quant_f16(quant_u16(b + 2));
    uint8_t scale[8], min[8];
    quant_k_scales(b + 4, scale, min);
    const uint8_t *h = b + 16, *q = b + 48;
    for (int i = 0; i < 4; i++, q += 32, y += 64) {
        float d0 = d * (float)scale[2 * i], m0 = dmin * (float)min[2 * i];
        float d1 = d * (float)scale[2 * i + 1], m1 = dmin * (float)min[2 * i + 1];
        for (int j = 0; j < 32; j++) {
            y[j] = d0 * (float)((q[j] & 15) | (h[j] >> (2 * i) & 1) << 4) - m0;
            y[j + 32] = d1 * (float)((q[j] >> 4) | (h[j] >> (2 * i + 1) & 1) << 4) - m1;
        }
    }
}
static inline void quant_q6_k(const uint8_t *b, float *y)
{
    const uint8_t *ql = b, *qh = b + 128;
    const int8_t *scale = (const int8_t *)(b + 192);
    float d = quant_f16(quant_u16(b + 208));
    for (int half = 0; half < 2; half++, ql += 64, qh += 32, scale += 8, y += 128)
        for (int run = 0; run < 2; run++) {
            float d0 = d * (float)scale[run], d1 = d * (float)scale[run + 2];
            float d2 = d * (float)scale[run + 4], d3 = d * (float)scale[run + 6];
            for (int j = run * 16; j < run * 16 + 16; j++) {
                y[j] = d0 * (float)(((ql[j] & 15) | (qh[j] & 3) << 4) - 32);
                y[j + 32] = d1 * (float)(((ql[j + 32] & 15) | (qh[j] >> 2 & 3) << 4) - 32);
                y[j + 64] = d2 * (float)(((ql[j] >> 4) | (qh[j] >> 4 & 3) << 4) - 32);
                y[j + 96] = d3 * (float)(((ql[j + 32] >> 4) | (qh[j] >> 6) << 4) - 32);
            }
        }
}

#define QUANT_EACH(bytes, step, one)                                                                         \
    for (size_t i = 0; i < n; i += (step), b += (bytes))                                                     \
    one(b, dst + i)

/* n elements from the start of a block; n a multiple of the type's block. Unknown types give NaN, never stale
 * memory. */
static inline void quant_row(enum tensor_type t, const void *src, float *dst, size_t n)
{
    const uint8_t *b = src;
    switch (t) {
    case TENSOR_F32:
        memcpy(dst, src, n * 4);
        return;
    case TENSOR_F16:
        for (size_t i = 0; i < n; i++)
            dst[i] = quant_f16(quant_u16(b + 2 * i));
        return;
    case TENSOR_BF16:
        for (size_t i = 0; i < n; i++)
            dst[i] = quant_bf16(quant_u16(b + 2 * i));
        return;
    case TENSOR_Q4_0:
        QUANT_EACH(Q4_0_BYTES, QK, quant_q4_0);
        return;
    case TENSOR_Q4_1:
        QUANT_EACH(Q4_1_BYTES, QK, quant_q4_1);
        return;
    case TENSOR_Q5_0:
        QUANT_EACH(Q5_0_BYTES, QK, quant_q5_0);
        return;
    case TENSOR_Q5_1:
        QUANT_EACH(Q5_1_BYTES, QK, quant_q5_1);
        return;
    case TENSOR_Q8_0:
        QUANT_EACH(Q8_0_BYTES, QK, quant_q8_0);
        return;
    case TENSOR_Q4_K:
        QUANT_EACH(Q4_K_BYTES, QK_K, quant_q4_k);
        return;
    case TENSOR_Q5_K:
        QUANT_EACH(Q5_K_BYTES, QK_K, quant_q5_k);
        return;
    case TENSOR_Q6_K:
        QUANT_EACH(Q6_K_BYTES, QK_K, quant_q6_k);
        return;
    }
    for (size_t i = 0; i < n; i++)
        dst[i] = __builtin_nanf("");
}

#endif
