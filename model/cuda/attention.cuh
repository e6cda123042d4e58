/* attention.cuh - attention, the softmax online, for two shapes of work.
 *
 * attend_rows: few rows over paged keys and values. A block takes one row, the query heads of one key-value
 * head, and one split of the keys; combine() adds the splits up in order. Splits lie at multiples of
 * split_keys from position 0, whatever the batch.
 * attend_tile: 64 queries at a time on the tensor cores, over paged keys (pieces of prompts) or over the rows
 * themselves (encoder). Key tiles lie at multiples of 64; a tile that a query may not see leaves its sums
 * bit for bit as they are, so a row does not depend on the tile it is in. */
#ifndef CAIRN_CUDA_ATTENTION_CUH
#define CAIRN_CUDA_ATTENTION_CUH

#include "rows.cuh"

enum { ATTEND_THREADS = 128, ATTEND_KEYS = 256, ATTEND_HEADS = 4, TILE_QUERIES = 64, TILE_KEYS = 64 };
static const float minus_infinity = -INFINITY;

struct attend_rows_args {
    const float *q; /* [rows][n_head * head_dim] */
    const int32_t *positions, *slots;
    struct kv_pool pool;
    uint32_t layer, n_head, window, split_keys, n_splits; /* n_splits: of a row in the partial sums */
    float scale;
    float *sums;  /* [rows][n_head][n_splits][head_dim] */
    float2 *tops; /* [rows][n_head][n_splits]: largest score, sum of weights */
};
DEVICE uint32_t first_key(uint32_t position, uint32_t window)
{
    return window && position + 1 > window ? position + 1 - window : 0;
}

/* Grid (splits, key-value heads x chunks of HEADS query heads, rows). */
template <int HEADS> KERNEL void __launch_bounds__(ATTEND_THREADS) attend_rows(struct attend_rows_args a)
{
    SHARED(float, q, HEADS *DEVICE_HEAD_MAX);
    SHARED(float, weights, HEADS *ATTEND_KEYS);
    SHARED(float, reduce, HEADS *ATTEND_THREADS * 8);
    SHARED(float, correct, HEADS);
    SHARED(const uint16_t *, pages, ATTEND_KEYS / DEVICE_PAGE + 1);
    uint32_t split = blockIdx.x, row = blockIdx.z, t = threadIdx.x, warp = t / 32, lane = t % 32;
    int32_t slot = a.slots[row];
    if (slot < 0)
        return;
    uint32_t position = (uint32_t)a.positions[row], lo = first_key(position, a.window), hi = position + 1;
    uint32_t begin = split * a.split_keys, end = begin + a.split_keys < hi ? begin + a.split_keys : hi;
    begin = begin > lo ? begin : lo;
    if (begin >= end)
        return;
    uint32_t hd = a.pool.head_dim, group = a.n_head / a.pool.n_kv_head, per = (group + HEADS - 1) / HEADS,
             kv = blockIdx.y / per, head0 = blockIdx.y % per * HEADS,
             heads = group - head0 < HEADS ? group - head0 : HEADS;
    head0 += kv * group;
    for (uint32_t i = t; i < HEADS * hd; i += ATTEND_THREADS)
        q[i] = i / hd < heads ? a.q[((size_t)row * a.n_head + head0) * hd + i] * a.scale : 0;
    /* lanes of a group of `vectors` threads hold 8 dims each of one key's values */
    uint32_t vectors = hd / 8, groups = ATTEND_THREADS / vectors, vector = t % vectors,
             my_group = t / vectors;
    float acc[HEADS][8] = {}, top = minus_infinity, sum = 0; /* top and sum: of head `warp` */
    for (uint32_t j0 = begin; j0 < end; j0 += ATTEND_KEYS) {
        uint32_t n = end - j0 < ATTEND_KEYS ? end - j0 : ATTEND_KEYS, page0 = j0 / DEVICE_PAGE;
        if (t <= ATTEND_KEYS / DEVICE_PAGE && page0 + t <= (j0 + n - 1) / DEVICE_PAGE)
            pages[t] = page_keys(&a.pool, a.layer, slot, (page0 + t) * DEVICE_PAGE, kv);
        __syncthreads();
        for (uint32_t j = t; j < n; j += ATTEND_THREADS) {
            const uint16_t *page = pages[(j0 + j) / DEVICE_PAGE - page0];
            float dot[HEADS] = {};
            for (uint32_t c = 0; page && c < vectors; c++) {
                uint4 k = *(const uint4 *)(page + ((size_t)c * DEVICE_PAGE + (j0 + j) % DEVICE_PAGE) * 8);
                const uint32_t words[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float k0 = half_low(words[i]), k1 = half_high(words[i]);
#pragma unroll
                    for (int h = 0; h < HEADS; h++) {
                        dot[h] = fmaf(q[h * hd + c * 8 + 2 * i], k0, dot[h]);
                        dot[h] = fmaf(q[h * hd + c * 8 + 2 * i + 1], k1, dot[h]);
                    }
                }
            }
#pragma unroll
            for (int h = 0; h < HEADS; h++)
                weights[h * ATTEND_KEYS + j] = page ? dot[h] : minus_infinity;
        }
        __syncthreads();
        if (warp < HEADS) { /* a warp a head */
            float *w = weights + warp * ATTEND_KEYS, most = top, part = 0;
            for (uint32_t j = lane; j < n; j += 32)
                most = fmaxf(most, w[j]);
            most = warp_max(most);
            for (uint32_t j = lane; j < n; j += 32) {
                w[j] = expf(w[j] - most);
                part += w[j];
            }
            float times = expf(top - most);
            sum = fmaf(sum, times, warp_sum(part));
            top = most;
            if (lane == 0)
                correct[warp] = times;
        }
        __syncthreads();
#pragma unroll
        for (int h = 0; h < HEADS; h++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                acc[h][i] *= correct[h];
        for (uint32_t j = my_group; my_group < groups && j < n; j += groups) {
            const uint16_t *page = pages[(j0 + j) / DEVICE_PAGE - page0];
            if (!page)
                continue;
            uint4 v = *(const uint4 *)(page + page_values(&a.pool) + (size_t)((j0 + j) % DEVICE_PAGE) * hd +
                                       vector * 8);
            const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float v0 = half_low(words[i]), v1 = half_high(words[i]);
#pragma unroll
                for (int h = 0; h < HEADS; h++) {
                    acc[h][2 * i] = fmaf(weights[h * ATTEND_KEYS + j], v0, acc[h][2 * i]);
                    acc[h][2 * i + 1] = fmaf(weights[h * ATTEND_KEYS + j], v1, acc[h][2 * i + 1]);
                }
            }
        }
        __syncthreads();
    }
    for (int h = 0; my_group < groups && h < HEADS; h++)
        for (int i = 0; i < 8; i++)
            reduce[(my_group * HEADS + h) * hd + vector * 8 + i] = acc[h][i];
    __syncthreads();
    for (uint32_t u = t; u < heads * hd; u += ATTEND_THREADS) {
        float v = 0;
        for (uint32_t g = 0; g < groups; g++)
            v += reduce[g * HEADS * hd + u];
        a.sums[(((size_t)row * a.n_head + head0 + u / hd) * a.n_splits + split) * hd + u % hd] = v;
    }
    if (warp < heads && lane == 0) {
        float2 one = {top, sum};
        a.tops[((size_t)row * a.n_head + head0 + warp) * a.n_splits + split] = one;
    }
}

/* The splits of a row in order, made ready for the product with the output weights. Grid
 * (n_head * head_dim / 32 / warps, rows). */
KERNEL void combine(struct attend_rows_args a, struct planes out)
{
    uint32_t run = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, row = blockIdx.y, hd = a.pool.head_dim,
             width = a.n_head * hd, i = run * 32 + threadIdx.x % 32;
    if (run * 32 >= width)
        return;
    float v = 0;
    if (i < width && a.slots[row] >= 0) {
        uint32_t position = (uint32_t)a.positions[row], first = first_key(position, a.window) / a.split_keys,
                 last = position / a.split_keys;
        size_t at = ((size_t)row * a.n_head + i / hd) * a.n_splits;
        float top = minus_infinity, sum = 0;
        for (uint32_t s = first; s <= last; s++)
            top = fmaxf(top, a.tops[at + s].x);
        for (uint32_t s = first; s <= last; s++) {
            float times = expf(a.tops[at + s].x - top);
            sum = fmaf(a.tops[at + s].y, times, sum);
            v = fmaf(a.sums[(at + s) * hd + i % hd], times, v);
        }
        v /= sum;
    }
    if (i < width)
        out.f[(size_t)row * out.ld + i] = v;
    if (out.q)
        planes_put(&out, row, run, v);
}

/* ---- tiles */

struct tile {
    int32_t first_row, n_rows; /* rows of one sequence, one after the other */
    int32_t slot;              /* paged: of the table; else first row of the sequence */
    int32_t n_keys;            /* not paged: rows of the sequence */
};
struct attend_tile_args {
    const float *q, *k, *v; /* k, v: not paged */
    float *out;
    const struct tile *tiles;
    const int32_t *positions; /* paged */
    struct kv_pool pool;      /* n_kv_head and head_dim count for both */
    uint32_t layer, n_head, window;
    float scale;
};

/* Grid (tiles, key-value heads). D32: head_dim in runs of 32, rounded up. */
template <int D32, bool PAGED>
KERNEL void __launch_bounds__(ATTEND_THREADS) attend_tile(struct attend_tile_args a)
{
    const uint32_t D = D32 * 32, LD = D + 8, LDV = TILE_KEYS + 8; /* + 8: rows in different banks */
    SHARED(uint16_t, keys, TILE_KEYS * (D32 * 32 + 8));
    SHARED(uint16_t, turned, D32 * 32 * (TILE_KEYS + 8)); /* values, [dim][key] */
    const struct tile tile = a.tiles[blockIdx.x];
    uint32_t kv = blockIdx.y, hd = a.pool.head_dim, n_kv = a.pool.n_kv_head, group = a.n_head / n_kv,
             pairs = (uint32_t)tile.n_rows * group, t = threadIdx.x, warp = t / 32, lane = t % 32,
             quad = lane / 4, in_quad = lane % 4;
    /* query p of the tile: row p / group, head p % group of the group */
    for (uint32_t i = t; i < TILE_QUERIES * D; i += ATTEND_THREADS) {
        uint32_t p = i / D, d = i % D;
        float v = 0;
        if (p < pairs && d < hd)
            v = a.q[((size_t)((uint32_t)tile.first_row + p / group) * a.n_head + kv * group + p % group) *
                        hd +
                    d] *
                a.scale;
        keys[p * LD + d] = float_to_half(v);
    }
    __syncthreads();
    uint32_t q[D32 * 2][4];
#pragma unroll
    for (uint32_t s = 0; s < D32 * 2; s++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            q[s][i] = *(const uint32_t *)(keys + (warp * 16 + quad + i % 2 * 8) * LD + s * 16 + i / 2 * 8 +
                                          in_quad * 2);
    /* the two queries of this thread, and the keys that the tile needs */
    uint32_t lo[2], hi[2], from = 0, to = (uint32_t)tile.n_keys;
    for (int i = 0; i < 2; i++) {
        uint32_t p = warp * 16 + quad + (uint32_t)i * 8;
        lo[i] = 0;
        hi[i] = p < pairs ? (uint32_t)tile.n_keys : 0;
        if (PAGED && p < pairs) {
            uint32_t position = (uint32_t)a.positions[(uint32_t)tile.first_row + p / group];
            lo[i] = first_key(position, a.window);
            hi[i] = position + 1;
        }
    }
    if (PAGED) {
        from = first_key((uint32_t)a.positions[tile.first_row], a.window);
        to = (uint32_t)a.positions[tile.first_row + tile.n_rows - 1] + 1;
    }
    float out[D32 * 4][4] = {}, top[2] = {minus_infinity, minus_infinity}, sum[2] = {};
    for (uint32_t j0 = from / TILE_KEYS * TILE_KEYS; j0 < to; j0 += TILE_KEYS) {
        __syncthreads(); /* the last tile is used up */
        const uint16_t *page = PAGED ? page_keys(&a.pool, a.layer, tile.slot, j0, kv) : NULL;
        for (uint32_t u = t; u < TILE_KEYS * (D / 8); u += ATTEND_THREADS) {
            uint32_t key = u % TILE_KEYS, c = u / TILE_KEYS;
            uint4 k = {}, v = {};
            if (j0 + key < to && c * 8 < hd) {
                if (PAGED && page) {
                    k = *(const uint4 *)(page + ((size_t)c * DEVICE_PAGE + key) * 8);
                    v = *(const uint4 *)(page + page_values(&a.pool) + (size_t)key * hd + c * 8);
                } else if (!PAGED) {
                    size_t at = (((size_t)(uint32_t)tile.slot + j0 + key) * n_kv + kv) * hd + c * 8;
                    const float *pk = a.k + at, *pv = a.v + at;
                    k.x = half_pair(pk[0], pk[1]), k.y = half_pair(pk[2], pk[3]);
                    k.z = half_pair(pk[4], pk[5]), k.w = half_pair(pk[6], pk[7]);
                    v.x = half_pair(pv[0], pv[1]), v.y = half_pair(pv[2], pv[3]);
                    v.z = half_pair(pv[4], pv[5]), v.w = half_pair(pv[6], pv[7]);
                }
            }
            *(uint4 *)(keys + key * LD + c * 8) = k;
            const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (uint32_t i = 0; i < 8; i++)
                turned[(c * 8 + i) * LDV + key] = (uint16_t)(words[i / 2] >> i % 2 * 16);
        }
        __syncthreads();
        float s[TILE_KEYS / 8][4] = {};
#pragma unroll
        for (uint32_t n = 0; n < TILE_KEYS / 8; n++)
#pragma unroll
            for (uint32_t step = 0; step < D32 * 2; step++) {
                const uint16_t *k = keys + (n * 8 + quad) * LD + step * 16 + in_quad * 2;
                const uint32_t b[2] = {*(const uint32_t *)k, *(const uint32_t *)(k + 8)};
                mma_16816(s[n], q[step], b);
            }
        float most[2] = {top[0], top[1]}, times[2], part[2] = {};
#pragma unroll
        for (uint32_t n = 0; n < TILE_KEYS / 8; n++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                uint32_t key = j0 + n * 8 + in_quad * 2 + i % 2;
                if (key < lo[i / 2] || key >= hi[i / 2])
                    s[n][i] = minus_infinity;
                most[i / 2] = fmaxf(most[i / 2], s[n][i]);
            }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            for (int with = 1; with < 4; with *= 2)
                most[i] = fmaxf(most[i], __shfl_xor_sync(ALL_LANES, most[i], with));
            times[i] = most[i] == minus_infinity ? 1.0f : expf(top[i] - most[i]);
            top[i] = most[i];
        }
#pragma unroll
        for (uint32_t n = 0; n < TILE_KEYS / 8; n++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                s[n][i] = most[i / 2] == minus_infinity ? 0.0f : expf(s[n][i] - most[i / 2]);
                part[i / 2] += s[n][i];
            }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            for (int with = 1; with < 4; with *= 2)
                part[i] += __shfl_xor_sync(ALL_LANES, part[i], with);
            sum[i] = fmaf(sum[i], times[i], part[i]);
        }
#pragma unroll
        for (uint32_t n = 0; n < D32 * 4; n++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                out[n][i] *= times[i / 2];
#pragma unroll
        for (uint32_t step = 0; step < TILE_KEYS / 16; step++) {
            /* sums of two column tiles lie over the lanes as the left operand of the next product wants them
             */
            const uint32_t p[4] = {half_pair(s[2 * step][0], s[2 * step][1]),
                                   half_pair(s[2 * step][2], s[2 * step][3]),
                                   half_pair(s[2 * step + 1][0], s[2 * step + 1][1]),
                                   half_pair(s[2 * step + 1][2], s[2 * step + 1][3])};
#pragma unroll
            for (uint32_t n = 0; n < D32 * 4; n++) {
                const uint16_t *v = turned + (n * 8 + quad) * LDV + step * 16 + in_quad * 2;
                const uint32_t b[2] = {*(const uint32_t *)v, *(const uint32_t *)(v + 8)};
                mma_16816(out[n], p, b);
            }
        }
    }
#pragma unroll
    for (uint32_t n = 0; n < D32 * 4; n++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t p = warp * 16 + quad + i / 2 * 8, d = n * 8 + in_quad * 2 + i % 2;
            if (p < pairs && d < hd)
                a.out[((size_t)((uint32_t)tile.first_row + p / group) * a.n_head + kv * group + p % group) *
                          hd +
                      d] = out[n][i] / sum[i / 2];
        }
}

#endif
