/* quant.cuh - weights on the device, by type: how a file's blocks are laid out anew at upload, and how 32
 * weights come out of them.
 *
 * Blocks of 18, 34 or 210 bytes cannot be read 16 bytes at a time, so quants and scales part:
 *   type          q, per row                                       extra, per row
 *   F32 F16 BF16  the row, padded to 16 bytes                      -
 *   Q8_0          32 bytes per run of 32                           f16 d
 *   Q4_0 Q4_1     16 bytes of nibbles per run of 32                f16 d (Q4_1: and f16 m)
 *   Q5_0 Q5_1     the same                                         f16 d, u32 h as two u16 (Q5_1: d, m, h)
 *   Q4_K Q5_K     the file's 144 or 176 bytes, which divide by 16  -
 *   Q6_K          208 bytes of the file's 210                      f16 d
 *
 * A task is what one lane multiplies at a time: two runs of 16 weights. */
#ifndef CAIRN_CUDA_QUANT_CUH
#define CAIRN_CUDA_QUANT_CUH

#include "cuda.cuh"

enum {
    T_F32 = 0,
    T_F16 = 1,
    T_Q4_0 = 2,
    T_Q4_1 = 3,
    T_Q5_0 = 6,
    T_Q5_1 = 7,
    T_Q8_0 = 8,
    T_Q4_K = 12,
    T_Q5_K = 13,
    T_Q6_K = 14,
    T_BF16 = 30,
};

struct matrix {
    uint32_t type, n, k;
    size_t pitch, extra_pitch; /* bytes of a row */
    const uint8_t *q, *extra;
};

static inline uint32_t type_block(uint32_t type)
{
    return type == T_F32 || type == T_F16 || type == T_BF16 ? 1 : type >= T_Q4_K && type <= T_Q6_K ? 256 : 32;
}
/* Bytes of a block in the file, of it in q, and in extra; 0: unknown type. */
static inline uint32_t type_bytes(uint32_t type)
{
    switch (type) {
    case T_F32:
        return 4;
    case T_F16:
    case T_BF16:
        return 2;
    case T_Q4_0:
        return 18;
    case T_Q4_1:
        return 20;
    case T_Q5_0:
        return 22;
    case T_Q5_1:
        return 24;
    case T_Q8_0:
        return 34;
    case T_Q4_K:
        return 144;
    case T_Q5_K:
        return 176;
    case T_Q6_K:
        return 210;
    }
    return 0;
}
static inline uint32_t type_extra(uint32_t type)
{
    switch (type) {
    case T_Q4_0:
    case T_Q8_0:
    case T_Q6_K:
        return 2;
    case T_Q4_1:
        return 4;
    case T_Q5_0:
        return 6;
    case T_Q5_1:
        return 8;
    }
    return 0;
}

/* Parts the blocks of n_rows rows. One thread a block; elements of float types are blocks of one. */
KERNEL void repack(const uint8_t *from, uint8_t *q, size_t pitch, uint8_t *extra, size_t extra_pitch,
                   uint32_t n_rows, uint32_t n_blocks, uint32_t block_bytes, uint32_t extra_bytes,
                   uint32_t extra_at)
{
    uint32_t b = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    for (; row < n_rows && b < n_blocks; row += gridDim.y) {
        const uint8_t *src = from + ((size_t)row * n_blocks + b) * block_bytes;
        uint8_t *to = q + (size_t)row * pitch + (size_t)b * (block_bytes - extra_bytes);
        uint8_t *to_extra = extra + (size_t)row * extra_pitch + (size_t)b * extra_bytes;
        for (uint32_t i = 0; i < block_bytes; i++)
            if (i >= extra_at && i < extra_at + extra_bytes)
                to_extra[i - extra_at] = src[i];
            else
                *to++ = src[i];
    }
}

/* Two runs of 16 weights; weight = d * (w - OFFSET) + m. */
struct runs {
    int w[8]; /* four weights each, int8 or, with an offset or minimum, small unsigned numbers */
    float d[2], m[2];
};
template <int TYPE> struct traits {
    static const bool floats = TYPE == T_F32 || TYPE == T_F16 || TYPE == T_BF16;
    static const bool k_blocks = TYPE == T_Q4_K || TYPE == T_Q5_K || TYPE == T_Q6_K;
    static const bool minimum = TYPE == T_Q4_1 || TYPE == T_Q5_1 || TYPE == T_Q4_K || TYPE == T_Q5_K;
    static const int offset = TYPE == T_Q4_0 ? 8 : TYPE == T_Q5_0 ? 16 : TYPE == T_Q6_K ? 32 : 0;
};

/* The numbers of the two runs of a task. */
template <int TYPE> DEVICE uint32_t first_run(uint32_t task)
{
    if (!traits<TYPE>::k_blocks)
        return 2 * task;
    uint32_t c = task % 8, s = task / 8 * 16;
    return TYPE == T_Q6_K ? s + c / 4 * 8 + c % 4 : s + c / 2 * 4 + c % 2;
}
template <int TYPE> DEVICE uint32_t second_run(uint32_t task)
{
    return first_run<TYPE>(task) + (!traits<TYPE>::k_blocks ? 1 : TYPE == T_Q6_K ? 4 : 2);
}

DEVICE uint32_t load_u16(const uint8_t *p) { return *(const uint16_t *)p; }
/* Weights are read once per step: past L1. */
DEVICE uint4 load_stream(const uint8_t *p)
{
#ifdef CAIRN_CUDA_HOST
    return *(const uint4 *)p;
#else
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
#endif
}
/* Four bits to bit 4 of four bytes. */
DEVICE uint32_t fifth_bits(uint32_t h)
{
    return (h & 1) << 4 | (h & 2) << 11 | (h & 4) << 18 | (h & 8) << 25;
}
DEVICE uint32_t byte_of(uint4 v, uint32_t i) /* of the last 12 bytes */
{
    uint32_t word = i < 4 ? v.y : i < 8 ? v.z : v.w;
    return word >> i % 4 * 8 & 255;
}
/* quant_k_scales() of quant_rows.h for one run of 32. */
DEVICE void k_scale(uint4 head, uint32_t unit, float d, float dmin, float *scale, float *m)
{
    uint32_t s, low;
    if (unit < 4) {
        s = byte_of(head, unit) & 63;
        low = byte_of(head, unit + 4) & 63;
    } else {
        s = (byte_of(head, unit + 4) & 15) | byte_of(head, unit - 4) >> 6 << 4;
        low = byte_of(head, unit + 4) >> 4 | byte_of(head, unit) >> 6 << 4;
    }
    *scale = d * (float)s;
    *m = -dmin * (float)low;
}

template <int TYPE>
DEVICE void load_runs(const uint8_t *q, const uint8_t *extra, uint32_t task, struct runs *r)
{
    r->m[0] = r->m[1] = 0;
    if (TYPE == T_Q8_0) {
        uint4 a = load_stream(q + (size_t)task * 32), b = load_stream(q + (size_t)task * 32 + 16);
        r->w[0] = (int)a.x, r->w[1] = (int)a.y, r->w[2] = (int)a.z, r->w[3] = (int)a.w;
        r->w[4] = (int)b.x, r->w[5] = (int)b.y, r->w[6] = (int)b.z, r->w[7] = (int)b.w;
        r->d[0] = r->d[1] = half_to_float((uint16_t)load_u16(extra + 2 * (size_t)task));
        return;
    }
    uint32_t c = task % 8, part = 0;
    uint4 v, head = {}, high = {};
    uint32_t fifth = 0;
    if (TYPE == T_Q4_K || TYPE == T_Q5_K) {
        const uint8_t *b = q + (size_t)(task / 8) * (TYPE == T_Q4_K ? 144 : 176);
        head = *(const uint4 *)b;
        v = load_stream(b + (TYPE == T_Q4_K ? 16 : 48) + c * 16); /* c / 2 the run of 64, c % 2 its half */
        if (TYPE == T_Q5_K)
            high = *(const uint4 *)(b + 16 + c % 2 * 16);
        part = c / 2 * 2; /* bit of the fifth bits, and number of the first run of 32 */
        float d = half_low(head.x), dmin = half_high(head.x);
        k_scale(head, part, d, dmin, &r->d[0], &r->m[0]);
        k_scale(head, part + 1, d, dmin, &r->d[1], &r->m[1]);
    } else if (TYPE == T_Q6_K) {
        const uint8_t *b = q + (size_t)(task / 8) * 208;
        uint32_t half = c / 4, piece = c % 4;
        v = load_stream(b + half * 64 + piece * 16);
        high = *(const uint4 *)(b + 128 + half * 32 + piece % 2 * 16);
        part = piece / 2 * 2; /* shift of the first run's two high bits */
        float d = half_to_float((uint16_t)load_u16(extra + 2 * (size_t)(task / 8)));
        const int8_t *scale = (const int8_t *)(b + 192) + half * 8 + piece;
        r->d[0] = d * (float)scale[0];
        r->d[1] = d * (float)scale[4];
    } else {
        v = load_stream(q + (size_t)task * 16);
        const uint8_t *e = extra + (size_t)task * (TYPE == T_Q4_0   ? 2
                                                   : TYPE == T_Q4_1 ? 4
                                                   : TYPE == T_Q5_0 ? 6
                                                                    : 8);
        r->d[0] = r->d[1] = half_to_float((uint16_t)load_u16(e));
        if (traits<TYPE>::minimum)
            r->m[0] = r->m[1] = half_to_float((uint16_t)load_u16(e + 2));
        if (TYPE == T_Q5_0)
            fifth = load_u16(e + 2) | load_u16(e + 4) << 16;
        if (TYPE == T_Q5_1)
            fifth = load_u16(e + 4) | load_u16(e + 6) << 16;
    }
    const uint32_t low[4] = {v.x, v.y, v.z, v.w}, top[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t a = low[i] & 0x0f0f0f0fu, b = low[i] >> 4 & 0x0f0f0f0fu;
        if (TYPE == T_Q5_0 || TYPE == T_Q5_1) {
            a |= fifth_bits(fifth >> 4 * i);
            b |= fifth_bits(fifth >> (16 + 4 * i));
        }
        if (TYPE == T_Q5_K) {
            a |= (top[i] >> part & 0x01010101u) << 4;
            b |= (top[i] >> (part + 1) & 0x01010101u) << 4;
        }
        if (TYPE == T_Q6_K) {
            a |= (top[i] >> part & 0x03030303u) << 4;
            b |= (top[i] >> (part + 4) & 0x03030303u) << 4;
        }
        r->w[i] = (int)a;
        r->w[i + 4] = (int)b;
    }
}
/* Weight i of 32: the order of the two runs. Bytes of types with offset or minimum are below 128. */
template <int TYPE> DEVICE float run_weight(const struct runs *r, int i)
{
    int w = (int)(int8_t)(r->w[i / 4] >> i % 4 * 8);
    return r->d[i / 16] * (float)(w - traits<TYPE>::offset) + r->m[i / 16];
}
/* One weight of a float type. */
template <int TYPE> DEVICE float plain_weight(const uint8_t *q, uint32_t i)
{
    return TYPE == T_F32   ? ((const float *)q)[i]
           : TYPE == T_F16 ? half_to_float(((const uint16_t *)q)[i])
                           : bf16_to_float(((const uint16_t *)q)[i]);
}

/* Rows [first, first + n) as halves, one thread a task (float types: an element); grid (tasks, rows). */
template <int TYPE>
KERNEL void to_half(struct matrix w, uint32_t first, uint32_t n, uint16_t *out, uint32_t ld)
{
    uint32_t task = blockIdx.x * blockDim.x + threadIdx.x;
    for (uint32_t row = blockIdx.y; row < n; row += gridDim.y) {
        const uint8_t *q = w.q + (first + row) * w.pitch, *extra = w.extra + (first + row) * w.extra_pitch;
        uint16_t *to = out + (size_t)row * ld;
        if (traits<TYPE>::floats) {
            if (task < w.k)
                to[task] = float_to_half(plain_weight<TYPE>(q, task));
        } else if (task < w.k / 32) {
            struct runs r;
            load_runs<TYPE>(q, extra, task, &r);
            const uint32_t at[2] = {first_run<TYPE>(task) * 16, second_run<TYPE>(task) * 16};
            for (int half = 0; half < 2; half++)
                for (int i = 0; i < 2; i++) {
                    uint32_t p[4];
                    for (int j = 0; j < 4; j++)
                        p[j] = half_pair(run_weight<TYPE>(&r, half * 16 + i * 8 + j * 2),
                                         run_weight<TYPE>(&r, half * 16 + i * 8 + j * 2 + 1));
                    uint4 both = {p[0], p[1], p[2], p[3]};
                    *(uint4 *)(to + at[half] + i * 8) = both;
                }
        }
    }
}

/* CALL(TYPE) for a type known at run time. */
#define EACH_TYPE(type, CALL)                                                                                \
    switch (type) {                                                                                          \
    case T_F32:                                                                                              \
        CALL(T_F32);                                                                                         \
        break;                                                                                               \
    case T_F16:                                                                                              \
        CALL(T_F16);                                                                                         \
        break;                                                                                               \
    case T_BF16:                                                                                             \
        CALL(T_BF16);                                                                                        \
        break;                                                                                               \
    case T_Q4_0:                                                                                             \
        CALL(T_Q4_0);                                                                                        \
        break;                                                                                               \
    case T_Q4_1:                                                                                             \
        CALL(T_Q4_1);                                                                                        \
        break;                                                                                               \
    case T_Q5_0:                                                                                             \
        CALL(T_Q5_0);                                                                                        \
        break;                                                                                               \
    case T_Q5_1:                                                                                             \
        CALL(T_Q5_1);                                                                                        \
        break;                                                                                               \
    case T_Q8_0:                                                                                             \
        CALL(T_Q8_0);                                                                                        \
        break;                                                                                               \
    case T_Q4_K:                                                                                             \
        CALL(T_Q4_K);                                                                                        \
        break;                                                                                               \
    case T_Q5_K:                                                                                             \
        CALL(T_Q5_K);                                                                                        \
        break;                                                                                               \
    case T_Q6_K:                                                                                             \
        CALL(T_Q6_K);                                                                                        \
        break;                                                                                               \
    }

#endif
