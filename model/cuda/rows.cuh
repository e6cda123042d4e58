/* rows.cuh - what is done with rows between products: embedding, rope and the pages of keys and values,
 * halves for the large products, norms and pooling of the encoder, the choice of a token. */
#ifndef CAIRN_CUDA_ROWS_CUH
#define CAIRN_CUDA_ROWS_CUH

#include "gemv.cuh"

enum { ROW_THREADS = 256, CHOOSE_THREADS = 1024 };

/* One row of a table of weights, as floats; the whole block takes part. add: onto what is there. */
template <int TYPE> DEVICE void table_row(const struct matrix *w, uint32_t row, float *to, bool add)
{
    const uint8_t *q = w->q + row * w->pitch, *extra = w->extra + row * w->extra_pitch;
    if (traits<TYPE>::floats) {
        for (uint32_t i = threadIdx.x; i < w->k; i += blockDim.x) {
            float v = plain_weight<TYPE>(q, i);
            to[i] = add ? to[i] + v : v;
        }
    } else {
        for (uint32_t task = threadIdx.x; task < w->k / 32; task += blockDim.x) {
            struct runs r;
            load_runs<TYPE>(q, extra, task, &r);
            uint32_t at[2] = {first_run<TYPE>(task) * 16, second_run<TYPE>(task) * 16};
            for (int i = 0; i < 32; i++) {
                float *p = to + at[i / 16] + i % 16, v = run_weight<TYPE>(&r, i);
                *p = add ? *p + v : v;
            }
        }
    }
}

/* x = the token's row; the row's cosines and sines, from angles in double as on the CPU. */
template <int TYPE>
KERNEL void embed(struct matrix w, const int32_t *tokens, const int32_t *chosen, const int32_t *positions,
                  const double *rope_step, uint32_t n_pairs, float *x, float2 *turn)
{
    uint32_t row = blockIdx.x;
    int32_t token = tokens[row];
    if (token == DEVICE_CHOSEN)
        token = chosen[row];
    table_row<TYPE>(&w, (uint32_t)token < w.n ? (uint32_t)token : 0, x + (size_t)row * w.k, false);
    for (uint32_t i = threadIdx.x; i < n_pairs; i += blockDim.x) {
        double angle = (double)positions[row] * rope_step[i];
        float2 t = {(float)cos(angle), (float)sin(angle)};
        turn[(size_t)row * n_pairs + i] = t;
    }
}

/* Where keys and values lie. A page of a layer: keys [n_kv_head][head_dim / 8][DEVICE_PAGE][8], so that
 * neighbouring lanes with neighbouring keys read neighbouring 16 bytes; values
 * [n_kv_head][DEVICE_PAGE][head_dim]. */
struct kv_pool {
    uint16_t *halves;
    const int32_t *tables; /* [slots][ld] */
    uint32_t ld, n_kv_head, head_dim, n_pages;
};
DEVICE size_t page_halves(const struct kv_pool *p)
{
    return (size_t)2 * p->n_kv_head * DEVICE_PAGE * p->head_dim;
}
/* Keys of a head in the page of `position`, NULL when the sequence has no such page. */
DEVICE uint16_t *page_keys(const struct kv_pool *p, uint32_t layer, int32_t slot, uint32_t position,
                           uint32_t head)
{
    int32_t page = p->tables[(size_t)slot * p->ld + position / DEVICE_PAGE];
    if (page < 0 || (uint32_t)page >= p->n_pages)
        return NULL;
    return p->halves + ((size_t)layer * p->n_pages + (uint32_t)page) * page_halves(p) +
           (size_t)head * DEVICE_PAGE * p->head_dim;
}
DEVICE size_t page_values(const struct kv_pool *p) /* after the keys of the same head */
{
    return (size_t)p->n_kv_head * DEVICE_PAGE * p->head_dim;
}

/* Turns the queries where they are, puts turned keys and values into their page. Grid (rows). */
KERNEL void rope_store(float *q, const float *k, const float *v, const float2 *turn, const int32_t *positions,
                       const int32_t *slots, uint32_t n_head, uint32_t n_pairs, uint32_t halves,
                       uint32_t layer, struct kv_pool pool)
{
    uint32_t row = blockIdx.x, hd = pool.head_dim, pairs = hd / 2;
    int32_t slot = slots[row];
    if (slot < 0)
        return;
    uint32_t position = (uint32_t)positions[row], at = position % DEVICE_PAGE;
    for (uint32_t u = threadIdx.x; u < (n_head + pool.n_kv_head) * pairs; u += blockDim.x) {
        uint32_t head = u / pairs, i = u % pairs;
        bool is_key = head >= n_head;
        uint32_t kv = head - n_head;
        /* what is not turned keeps its place: pairs beyond n_pairs are (2i, 2i + 1) */
        bool turned = i < n_pairs;
        uint32_t first = turned && halves ? i : 2 * i, second = turned && halves ? i + n_pairs : 2 * i + 1;
        const float *from =
            is_key ? k + ((size_t)row * pool.n_kv_head + kv) * hd : q + ((size_t)row * n_head + head) * hd;
        float a = from[first], b = from[second];
        if (turned) {
            float2 t = turn[(size_t)row * n_pairs + i];
            float c = a * t.x - b * t.y, d = a * t.y + b * t.x;
            a = c;
            b = d;
        }
        if (!is_key) {
            float *to = q + ((size_t)row * n_head + head) * hd;
            to[first] = a;
            to[second] = b;
            continue;
        }
        uint16_t *keys = page_keys(&pool, layer, slot, position, kv);
        if (!keys)
            continue;
        keys[((size_t)(first / 8) * DEVICE_PAGE + at) * 8 + first % 8] = float_to_half(a);
        keys[((size_t)(second / 8) * DEVICE_PAGE + at) * 8 + second % 8] = float_to_half(b);
    }
    for (uint32_t u = threadIdx.x; u < pool.n_kv_head * hd; u += blockDim.x) {
        uint16_t *keys = page_keys(&pool, layer, slot, position, u / hd);
        if (keys)
            keys[page_values(&pool) + (size_t)at * hd + u % hd] =
                float_to_half(v[(size_t)row * pool.n_kv_head * hd + u]);
    }
}

/* Rows as halves for a large product, scaled by a power of two so that no activation leaves the range of a
 * half; undone by finish(). Modes as in prepare(). Grid (rows of the product); rows from n on become zeros.
 */
template <int MODE>
KERNEL void rows_to_half(const float *a, const float *b, uint32_t lda, uint32_t n, uint32_t k, float eps,
                         uint16_t *out, float *scales)
{
    SHARED(float, scratch, 32);
    SHARED(uint32_t, tops, 32);
    uint32_t row = blockIdx.x;
    uint16_t *to = out + (size_t)row * k;
    if (row >= n) {
        for (uint32_t i = threadIdx.x; i < k; i += blockDim.x)
            to[i] = 0;
        return;
    }
    const float *x = a + (size_t)row * lda, *up = b + (size_t)row * lda;
    float norm = MODE == PREPARE_NORM ? norm_scale(x, k, eps, scratch) : 1.0f;
    uint32_t top = 0;
    for (uint32_t i = threadIdx.x; i < k; i += blockDim.x) {
        float v = MODE == PREPARE_NORM     ? x[i] * norm * b[i]
                  : MODE == PREPARE_SWIGLU ? swiglu_of(x[i], up[i])
                                           : x[i];
        uint32_t bits = magnitude_bits(v);
        top = bits > top ? bits : top;
    }
    top = block_max_bits(top, tops);
    /* largest in [2^12, 2^13): sums of products stay far from overflow, small ones keep their bits */
    int exponent = (int)(top >> 23) - 127;
    int shift = top >= 0x7f800000u || top < 0x00800000u ? 0 : 12 - exponent;
    shift = shift > 100 ? 100 : shift < -100 ? -100 : shift;
    float times = __uint_as_float((uint32_t)(127 + shift) << 23);
    if (threadIdx.x == 0)
        scales[row] = __uint_as_float((uint32_t)(127 - shift) << 23);
    for (uint32_t i = threadIdx.x; i < k; i += blockDim.x) {
        float v = MODE == PREPARE_NORM     ? x[i] * norm * b[i]
                  : MODE == PREPARE_SWIGLU ? swiglu_of(x[i], up[i])
                                           : x[i];
        to[i] = float_to_half(v * times);
    }
}

/* After a large product: scale, bias, activation, addition. Grid (n / ROW_THREADS, rows). */
KERNEL void finish(const float *sums, uint32_t ld_sums, const float *scales, const float *bias, uint32_t n,
                   uint32_t gelu, uint32_t add, float *y, uint32_t ld)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (i >= n)
        return;
    float v = sums[(size_t)row * ld_sums + i] * scales[row];
    if (bias)
        v += bias[i];
    if (gelu)
        v = 0.5f * v * (1.0f + erff(v * 0.70710678118654752f));
    float *to = y + (size_t)row * ld + i;
    *to = add ? *to + v : v;
}

/* One page of every layer into another. Grid (pieces, layers). */
KERNEL void copy_page(struct kv_pool pool, uint32_t to, uint32_t from)
{
    size_t n = page_halves(&pool) / 8, layer = (size_t)blockIdx.y * pool.n_pages;
    const uint4 *src = (const uint4 *)(pool.halves + (layer + from) * page_halves(&pool));
    uint4 *dst = (uint4 *)(pool.halves + (layer + to) * page_halves(&pool));
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        dst[i] = src[i];
}

/* ---- encoder */

/* The whole block normalises one row where it lies. */
DEVICE void layernorm_row(float *x, const float *w, const float *b, uint32_t n, float eps, float *scratch)
{
    float sum = 0, squares = 0;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += x[i];
    float mean = block_sum(sum, scratch) / (float)n;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        squares = fmaf(x[i] - mean, x[i] - mean, squares);
    float scale = 1.0f / sqrtf(block_sum(squares, scratch) / (float)n + eps);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        x[i] = (x[i] - mean) * scale * w[i] + b[i];
}
KERNEL void layernorm(float *x, const float *w, const float *b, uint32_t n, float eps)
{
    SHARED(float, scratch, 32);
    layernorm_row(x + (size_t)blockIdx.x * n, w, b, n, eps, scratch);
}
/* One table after the other, then the norm. */
template <int TYPE> KERNEL void embed_add(struct matrix w, const int32_t *ids, float *x, uint32_t add)
{
    uint32_t id = (uint32_t)ids[blockIdx.x];
    table_row<TYPE>(&w, id < w.n ? id : 0, x + (size_t)blockIdx.x * w.k, add != 0);
}
/* The mean of each sequence's rows, or its first row. Grid (sequences, dim / ROW_THREADS). */
KERNEL void pool_rows(const float *x, const int32_t *starts, uint32_t dim, uint32_t mean, float *out)
{
    uint32_t s = blockIdx.x, i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= dim)
        return;
    uint32_t first = (uint32_t)starts[s], last = mean ? (uint32_t)starts[s + 1] : first + 1;
    float sum = x[(size_t)first * dim + i];
    for (uint32_t row = first + 1; row < last; row++)
        sum += x[(size_t)row * dim + i];
    out[(size_t)s * dim + i] = sum / (float)(last - first);
}

/* ---- the choice of a token: generator/sampler.c's rules, one block a row */

/* Over the block, in the order of threads. */
DEVICE double block_total(double v, double *scratch)
{
    for (int with = 16; with; with /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, with);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        scratch[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0;
    for (int with = 16; with; with /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, with);
    return v;
}
/* A logit as a number that orders like it; NaN below all. */
DEVICE uint32_t logit_order(float v)
{
    uint32_t u = __float_as_uint(v);
    return v != v ? 0 : u >> 31 ? ~u : u | 0x80000000u;
}
DEVICE float logit_weight(float v, float best, const struct device_choice *c)
{
    float e = v != v ? 0.0f : expf((v - best) / c->temperature);
    return c->min_p > 0 && e < c->min_p ? 0.0f : e;
}
/* The largest t such that the weights at or above t hold `want` of the mass (by_count: number `want`):
 * bisection over the bits of a positive float, so nothing is sorted; equals of t stay together. */
DEVICE float weight_floor(const float *x, uint32_t n, float best, const struct device_choice *c,
                          float at_least, double want, bool by_count, double *scratch)
{
    uint32_t lo = 0, hi = __float_as_uint(1.0f);
    while (hi - lo >= 1) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        float t = __uint_as_float(mid);
        double sum = 0;
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
            float e = logit_weight(x[i], best, c);
            if (e >= t && e >= at_least)
                sum += by_count ? 1.0 : (double)e;
        }
        if (block_total(sum, scratch) >= want)
            lo = mid;
        else
            hi = mid - 1;
    }
    return __uint_as_float(lo);
}

KERNEL void __launch_bounds__(CHOOSE_THREADS) choose(const float *logits, uint32_t n_vocab, uint32_t n,
                                                     const struct device_choice *choices, int32_t *chosen)
{
    SHARED(double, scratch, 32);
    SHARED(uint32_t, best_order, 32);
    SHARED(uint32_t, best_id, 32);
    SHARED(double, before, CHOOSE_THREADS);
    SHARED(uint32_t, last, CHOOSE_THREADS);
    uint32_t row = blockIdx.x, t = threadIdx.x, order = 0, id = n;
    const float *x = logits + (size_t)row * n_vocab;
    for (uint32_t i = t; i < n; i += blockDim.x) {
        uint32_t o = logit_order(x[i]);
        if (o > order) {
            order = o;
            id = i;
        }
    }
    for (int round = 0; round < 2; round++) { /* lanes, then warps: larger wins, of equals the lower id */
        for (int with = 16; with; with /= 2) {
            uint32_t o = __shfl_xor_sync(ALL_LANES, order, with), i = __shfl_xor_sync(ALL_LANES, id, with);
            if (o > order || (o == order && i < id)) {
                order = o;
                id = i;
            }
        }
        if (round)
            break;
        if (t % 32 == 0) {
            best_order[t / 32] = order;
            best_id[t / 32] = id;
        }
        __syncthreads();
        order = t % 32 < blockDim.x / 32 ? best_order[t % 32] : 0;
        id = t % 32 < blockDim.x / 32 ? best_id[t % 32] : n;
    }
    if (id >= n)
        id = 0; /* all NaN */
    const struct device_choice c = choices[row];
    float best = x[id];
    if (!(c.temperature > 0) || best != best || magnitude_bits(best) >= 0x7f800000u) {
        if (t == 0)
            chosen[row] = (int32_t)id;
        return;
    }
    float at_least = 0;
    if (c.top_k && c.top_k < n)
        at_least = weight_floor(x, n, best, &c, 0, (double)c.top_k, true, scratch);
    double total = 0;
    if (c.top_p > 0 && c.top_p < 1) {
        for (uint32_t i = t; i < n; i += blockDim.x) {
            float e = logit_weight(x[i], best, &c);
            total += e >= at_least ? (double)e : 0.0;
        }
        total = block_total(total, scratch);
        float p = weight_floor(x, n, best, &c, at_least, (double)c.top_p * total, false, scratch);
        at_least = p > at_least ? p : at_least;
    }
    /* each thread a stretch of ids; thread 0 adds the stretches up in order, and the one that the draw falls
     * into walks it */
    uint32_t stretch = (n + blockDim.x - 1) / blockDim.x, first = t * stretch,
             end = first + stretch < n ? first + stretch : n;
    double mine = 0;
    uint32_t latest = n;
    for (uint32_t i = first; i < end; i++) {
        float e = logit_weight(x[i], best, &c);
        if (e > 0 && e >= at_least) {
            mine += (double)e;
            latest = i;
        }
    }
    before[t] = mine;
    last[t] = latest;
    __syncthreads();
    if (t)
        return;
    total = 0;
    for (uint32_t w = 0; w < blockDim.x; w++)
        total += before[w];
    double draw = c.draw * total, sum = 0;
    int32_t pick = (int32_t)id;
    bool found = false;
    for (uint32_t w = 0; w < blockDim.x && !found; w++) {
        if (last[w] < n)
            pick = (int32_t)last[w];
        if (!(draw < sum + before[w])) {
            sum += before[w];
            continue;
        }
        for (uint32_t i = w * stretch; i < w * stretch + stretch && i < n && !found; i++) {
            float e = logit_weight(x[i], best, &c);
            if (!(e > 0) || e < at_least)
                continue;
            sum += (double)e;
            pick = (int32_t)i;
            found = draw < sum;
        }
        found = true; /* rounding: the last of the stretch */
    }
    chosen[row] = pick;
}

#endif
