/* ops_scalar.c - the reference of every operation, in the plainest form; sums in double where they are long.
 */
#include "ops.h"

#include "quant_rows.h"

#include <math.h>
#include <string.h>

static size_t no_bytes(size_t rows, size_t k)
{
    (void)rows;
    (void)k;
    return 0;
}
static size_t worker_bytes(size_t rows, size_t k)
{
    (void)rows;
    return (k + OPS_PANEL) * sizeof(float);
}

static void panel(const struct compute *c, const struct matmul_job *job, const float *x, size_t rows,
                  enum weight_form form, size_t n0, size_t n1, size_t r0, size_t r1, void *scratch)
{
    (void)form;
    (void)rows;
    const struct weight *w = job->w;
    float *row = scratch;
    for (size_t o = n0; o < n1; o++) {
        quant_row(w->type, w->bytes + o * w->row_bytes, row, w->k);
        for (size_t r = r0; r < r1; r++) {
            const float *in = x + r * w->k;
            double sum = 0;
            for (size_t i = 0; i < w->k; i++)
                sum += (double)row[i] * (double)in[i];
            float one = (float)sum;
            ops_finish(c->ops, job, &one, r, o, o + 1);
        }
    }
}

static float element(enum cache_type t, const char *p, size_t i)
{
    uint16_t half;
    float f;
    switch (t) {
    case CACHE_F32:
        memcpy(&f, p + 4 * i, 4);
        return f;
    case CACHE_F16:
        memcpy(&half, p + 2 * i, 2);
        return quant_f16(half);
    default:
        return (float)(int8_t)p[i];
    }
}
static float scale_of(const struct attend *a, const char *scales, size_t position)
{
    return a->type == CACHE_Q8 ? element(CACHE_F32, scales + attend_page(a, position), position % KV_PAGE)
                               : 1.0f;
}

static void attend(const struct attend *a)
{
    for (unsigned t = 0; t < a->n; t++) {
        float *s = a->scores + t * a->scores_ld, max = -INFINITY;
        for (size_t j = a->lo[t]; j < a->hi[t]; j++) {
            const char *page = a->k + attend_page(a, j);
            size_t at = j % KV_PAGE, from = at / KV_RUN * KV_RUN * a->head_dim + at % KV_RUN;
            double dot = 0;
            for (size_t i = 0; i < a->head_dim; i++)
                dot += (double)a->q[t][i] * (double)element(a->type, page, from + i * KV_RUN);
            s[j] = (float)dot * a->scale * scale_of(a, a->k_scales, j);
            max = fmaxf(max, s[j]);
        }
        double sum = 0;
        for (size_t j = a->lo[t]; j < a->hi[t]; j++) {
            s[j] = expf(s[j] - max);
            sum += (double)s[j];
            s[j] *= scale_of(a, a->v_scales, j);
        }
        for (size_t i = 0; i < a->head_dim; i++) {
            double mixed = 0;
            for (size_t j = a->lo[t]; j < a->hi[t]; j++)
                mixed += (double)s[j] *
                         (double)element(a->type, a->v + attend_page(a, j), j % KV_PAGE * a->head_dim + i);
            a->out[t][i] = (float)(mixed / sum);
        }
    }
}

static void rmsnorm(float *y, const float *x, const float *w, size_t n, float eps)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    float scale = (float)(1.0 / sqrt(sum / (double)n + (double)eps));
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * scale * w[i];
}

static void layernorm(float *y, const float *x, const float *w, const float *b, size_t n, float eps)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    double scale = 1.0 / sqrt(squares / (double)n + (double)eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(((double)x[i] - mean) * scale) * w[i] + b[i];
}

static void rope(float *x, const float *cosine, const float *sine, size_t n_pairs, bool halves)
{
    size_t step = halves ? 1 : 2, apart = halves ? n_pairs : 1;
    for (size_t i = 0; i < n_pairs; i++) {
        float a = x[i * step], b = x[i * step + apart];
        x[i * step] = a * cosine[i] - b * sine[i];
        x[i * step + apart] = a * sine[i] + b * cosine[i];
    }
}

static void swiglu(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static void geglu(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) { /* tanh(z) = 2 sigmoid(2 z) - 1 */
        float g = gate[i], z = 1.5957691216057308f * (g + 0.044715f * g * g * g);
        gate[i] = g / (1.0f + expf(-z)) * up[i];
    }
}

static void gelu(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678118654752f));
}

static void add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

const struct ops ops_scalar = {
    .name = "scalar",
    .tile = OPS_TILE_MAX,
    .shared_bytes = no_bytes,
    .worker_bytes = worker_bytes,
    .panel = panel,
    .attend = attend,
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .rope = rope,
    .swiglu = swiglu,
    .geglu = geglu,
    .gelu = gelu,
    .add = add,
    .half = kv_half,
};
