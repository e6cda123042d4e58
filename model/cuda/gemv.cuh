/* gemv.cuh - products of few rows: weights are read once, where they lie; the rows of x as integers.
 *
 * prepare() turns a row into q = 256 hi + lo, signed bytes, against a scale per run of 32 (16 bits: about
 * 3e-5 of the run's largest), so that four weights cost two dp4a. A warp computes GEMV_OUTPUTS outputs for
 * up to 8 rows. Which lane multiplies what, and in which order lanes are summed, depends on k alone: a row's
 * result is the same in any company. Every product and sum of floats is an explicit fmaf, so that the
 * compiler cannot contract the instances differently. */
#ifndef CAIRN_CUDA_GEMV_CUH
#define CAIRN_CUDA_GEMV_CUH

#include "quant.cuh"

enum { GEMV_THREADS = 128, GEMV_OUTPUTS = 2, GEMV_JOBS = 3, PREPARE_THREADS = 256 };
static const uint32_t gemv_per_block = GEMV_THREADS / 32 * GEMV_OUTPUTS;

/* Rows made ready for gemv(). Per run of 16: 16 bytes of hi, 16 of lo; the scale's bits and the sum of q. */
struct planes {
    uint4 *q;
    uint2 *meta;
    float *f; /* the same as floats, for weights of floats */
    uint32_t runs, ld;
};

/* The 32 values of a warp's lanes become two runs. */
DEVICE void planes_put(const struct planes *p, uint32_t row, uint32_t run32, float v)
{
    uint32_t lane = threadIdx.x % 32, top = warp_max_bits(magnitude_bits(v));
    float scale = __uint_as_float(top) / 32512.0f; /* 127 * 256: hi stays a signed byte */
    bool finite = top < 0x7f800000u;
    int q = finite && scale > 0 ? __float2int_rn(v / scale) : 0, hi = (q + 128) >> 8, lo = q - hi * 256;
    int sum = q;
    for (int with = 8; with; with /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, with);
    size_t run = (size_t)row * p->runs + run32 * 2 + lane / 16;
    int8_t *bytes = (int8_t *)(p->q + run * 2);
    bytes[lane % 16] = (int8_t)hi;
    bytes[16 + lane % 16] = (int8_t)lo;
    if (lane % 16 == 0) {
        uint2 m = {finite ? __float_as_uint(scale) : 0x7fc00000u, (uint32_t)sum}; /* NaN goes on */
        p->meta[run] = m;
    }
}

enum prepare_mode { PREPARE_COPY, PREPARE_NORM, PREPARE_SWIGLU };
DEVICE float swiglu_of(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }
/* 1 / the root mean square of a row; the whole block takes part. */
DEVICE float norm_scale(const float *x, uint32_t k, float eps, float *scratch)
{
    float sum = 0;
    for (uint32_t i = threadIdx.x; i < k; i += blockDim.x)
        sum = fmaf(x[i], x[i], sum);
    return 1.0f / sqrtf(block_sum(sum, scratch) / (float)k + eps);
}

/* a: rows of lda floats, taken in the order of index when there is one. b: the weights of the norm, or the
 * "up" rows. Grid (rows, slices); PREPARE_NORM one slice. */
template <int MODE>
KERNEL void prepare(const float *a, const float *b, uint32_t lda, const int32_t *index, uint32_t k, float eps,
                    struct planes out)
{
    SHARED(float, scratch, 32);
    uint32_t row = blockIdx.x, lane = threadIdx.x % 32;
    const float *x = a + (size_t)(index ? (uint32_t)index[row] : row) * lda, *up = b + (size_t)row * lda;
    float scale = MODE == PREPARE_NORM ? norm_scale(x, k, eps, scratch) : 1.0f;
    uint32_t warps = gridDim.y * (blockDim.x / 32), first = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
    for (uint32_t run = first; run * 32 < k; run += warps) {
        uint32_t i = run * 32 + lane;
        float v = 0;
        if (i < k) {
            v = MODE == PREPARE_NORM     ? x[i] * scale * b[i]
                : MODE == PREPARE_SWIGLU ? swiglu_of(x[i], up[i])
                                         : x[i];
            out.f[(size_t)row * out.ld + i] = v;
        }
        planes_put(&out, row, run, v);
    }
}

struct gemv_job {
    struct matrix w;
    const float *bias;
    float *y;
    uint32_t ld, add;
};
struct gemv_args {
    struct planes x;
    uint32_t rows, n_jobs, first_block[GEMV_JOBS + 1];
    struct gemv_job job[GEMV_JOBS]; /* all of one type */
};

template <int TYPE, int ROWS>
DEVICE void gemv_quantised(const struct gemv_args *a, const struct matrix *w, uint32_t out0, uint32_t row0,
                           float acc[GEMV_OUTPUTS][ROWS])
{
    uint32_t lane = threadIdx.x % 32, n_tasks = w->k / 32;
    for (uint32_t task = lane; task < n_tasks; task += 32) {
        struct runs r[GEMV_OUTPUTS];
#pragma unroll
        for (int o = 0; o < GEMV_OUTPUTS; o++) {
            uint32_t out = out0 + o < w->n ? out0 + o : w->n - 1;
            load_runs<TYPE>(w->q + out * w->pitch, w->extra + out * w->extra_pitch, task, &r[o]);
        }
        const uint32_t at[2] = {first_run<TYPE>(task), second_run<TYPE>(task)};
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            uint32_t row = row0 + i < a->rows ? row0 + i : a->rows - 1;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                size_t run = (size_t)row * a->x.runs + at[half];
                uint4 hi = a->x.q[run * 2], lo = a->x.q[run * 2 + 1];
                uint2 meta = a->x.meta[run];
                float scale = __uint_as_float(meta.x);
                int sum = (int)meta.y;
                const int h[4] = {(int)hi.x, (int)hi.y, (int)hi.z, (int)hi.w},
                          l[4] = {(int)lo.x, (int)lo.y, (int)lo.z, (int)lo.w};
#pragma unroll
                for (int o = 0; o < GEMV_OUTPUTS; o++) {
                    int high = 0, low = 0;
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        high = __dp4a(r[o].w[half * 4 + j], h[j], high);
                        low = __dp4a(r[o].w[half * 4 + j], l[j], low);
                    }
                    /* below 2^31: 16 weights of at most 128 times 32512 */
                    float dot = (float)(high * 256 + low - traits<TYPE>::offset * sum);
                    float part = traits<TYPE>::minimum ? r[o].m[half] * (float)sum : 0.0f;
                    acc[o][i] = fmaf(scale, fmaf(r[o].d[half], dot, part), acc[o][i]);
                }
            }
        }
    }
}

/* Weights of floats: 8 (F32: 4) a lane at a time, then the rest of the row one by one. */
template <int TYPE, int ROWS>
DEVICE void gemv_floats(const struct gemv_args *a, const struct matrix *w, uint32_t out0, uint32_t row0,
                        float acc[GEMV_OUTPUTS][ROWS])
{
    const uint32_t width = TYPE == T_F32 ? 4 : 8;
    uint32_t lane = threadIdx.x % 32, whole = w->k / width;
    for (uint32_t task = lane; task < whole; task += 32) {
        float v[GEMV_OUTPUTS][8];
#pragma unroll
        for (int o = 0; o < GEMV_OUTPUTS; o++) {
            uint32_t out = out0 + o < w->n ? out0 + o : w->n - 1;
            uint4 p = load_stream(w->q + out * w->pitch + (size_t)task * 16);
            const uint32_t words[4] = {p.x, p.y, p.z, p.w};
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (TYPE == T_F32) {
                    v[o][j] = __uint_as_float(words[j]);
                } else if (TYPE == T_F16) {
                    v[o][2 * j] = half_low(words[j]);
                    v[o][2 * j + 1] = half_high(words[j]);
                } else {
                    v[o][2 * j] = __uint_as_float(words[j] << 16);
                    v[o][2 * j + 1] = __uint_as_float(words[j] & 0xffff0000u);
                }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            uint32_t row = row0 + i < a->rows ? row0 + i : a->rows - 1;
            const float *x = a->x.f + (size_t)row * a->x.ld + task * width;
#pragma unroll
            for (uint32_t j = 0; j < width; j++)
#pragma unroll
                for (int o = 0; o < GEMV_OUTPUTS; o++)
                    acc[o][i] = fmaf(v[o][j], x[j], acc[o][i]);
        }
    }
    for (uint32_t at = whole * width + lane; at < w->k; at += 32)
        for (int i = 0; i < ROWS; i++) {
            uint32_t row = row0 + i < a->rows ? row0 + i : a->rows - 1;
            for (int o = 0; o < GEMV_OUTPUTS; o++) {
                uint32_t out = out0 + o < w->n ? out0 + o : w->n - 1;
                acc[o][i] = fmaf(plain_weight<TYPE>(w->q + out * w->pitch, at),
                                 a->x.f[(size_t)row * a->x.ld + at], acc[o][i]);
            }
        }
}

/* Grid (blocks of all jobs, rows / ROWS). */
template <int TYPE, int ROWS> KERNEL void __launch_bounds__(GEMV_THREADS) gemv(struct gemv_args a)
{
    uint32_t j = 0, lane = threadIdx.x % 32, row0 = blockIdx.y * ROWS;
    while (blockIdx.x >= a.first_block[j + 1])
        j++;
    const struct gemv_job job = a.job[j];
    uint32_t out0 = (blockIdx.x - a.first_block[j]) * gemv_per_block + threadIdx.x / 32 * GEMV_OUTPUTS;
    float acc[GEMV_OUTPUTS][ROWS] = {};
    if (traits<TYPE>::floats)
        gemv_floats<TYPE, ROWS>(&a, &job.w, out0, row0, acc);
    else
        gemv_quantised<TYPE, ROWS>(&a, &job.w, out0, row0, acc);
#pragma unroll
    for (int o = 0; o < GEMV_OUTPUTS; o++)
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            float sum = warp_sum(acc[o][i]);
            uint32_t out = out0 + o, row = row0 + i;
            if (lane == 0 && out < job.w.n && row < a.rows) {
                float *y = job.y + (size_t)row * job.ld + out;
                if (job.bias)
                    sum += job.bias[out];
                *y = job.add ? *y + sum : sum;
            }
        }
}

#endif
