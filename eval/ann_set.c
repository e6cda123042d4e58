/* eval/ann_set.c - synthetic vectors, exact truth, recall.
 * The model: a global 96-dimensional subspace with a decaying spectrum; 100 super topics; 2,000 clusters
 * (centre = 0.6 super + 0.8 own), each with 24 directions of its own inside the subspace; x = centre +
 * 0.75 local + 0.20 isotropic noise, to unit length. Sizes follow (rank + 10)^-0.7. One query in ten lies
 * between two clusters. */
#include "ann.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

enum { N_SPACE = 96, N_CLUSTERS = 2000, N_SUPER = 100, N_LOCAL = 24, QUERY_ROWS = 256, BASE_ROWS = 4096 };

struct draw { /* xoshiro256** (Blackman and Vigna), seeded by splitmix64 */
    uint64_t s[4];
    bool have;
    float keep;
};
static uint64_t rotl(uint64_t x, int k) { return x << k | x >> (64 - k); }
static uint64_t draw_u64(struct draw *d)
{
    uint64_t *s = d->s, r = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return r;
}
static double draw_share(struct draw *d) { return (double)(draw_u64(d) >> 11) * 0x1p-53; }
static float draw_gauss(struct draw *d)
{
    if (d->have) {
        d->have = false;
        return d->keep;
    }
    double u = draw_share(d), v = draw_share(d), r = sqrt(-2 * log(u + 1e-300)), a = 6.283185307179586 * v;
    d->have = true;
    d->keep = (float)(r * sin(a));
    return (float)(r * cos(a));
}

static void to_unit(float *x, uint32_t dim)
{
    double t = 0;
    for (uint32_t i = 0; i < dim; i++)
        t += (double)x[i] * x[i];
    float f = (float)(1.0 / sqrt(t + 1e-30));
    for (uint32_t i = 0; i < dim; i++)
        x[i] *= f;
}
void ann_normalise(struct ann_floats *f)
{
    for (uint32_t i = 0; i < f->n; i++)
        to_unit(f->v + (size_t)i * f->dim, f->dim);
}

struct mixture {
    uint32_t dim;
    float *space, *super, *centre, *local, lambda[N_SPACE], scale[N_LOCAL];
    double upto[N_CLUSTERS];
};
static void mixture_release(struct mixture *m)
{
    cairn_free(m->space);
    cairn_free(m->super);
    cairn_free(m->centre);
    cairn_free(m->local);
}
static void in_space(struct mixture *m, struct draw *d, float *out)
{
    memset(out, 0, (size_t)m->dim * sizeof *out);
    for (int r = 0; r < N_SPACE; r++) {
        float g = draw_gauss(d) * m->lambda[r];
        for (uint32_t i = 0; i < m->dim; i++)
            out[i] += g * m->space[(size_t)r * m->dim + i];
    }
    to_unit(out, m->dim);
}
static enum cairn_err mixture_init(struct mixture *m, struct draw *d, uint32_t dim, struct cairn_why *why)
{
    float *own = cairn_calloc(dim, sizeof *own), norm = 0;
    double total = 0;
    m->dim = dim;
    m->space = cairn_calloc((size_t)N_SPACE * dim, sizeof(float));
    m->super = cairn_calloc((size_t)N_SUPER * dim, sizeof(float));
    m->centre = cairn_calloc((size_t)N_CLUSTERS * dim, sizeof(float));
    m->local = cairn_calloc((size_t)N_CLUSTERS * N_LOCAL * dim, sizeof(float));
    if (!own || !m->space || !m->super || !m->centre || !m->local) {
        cairn_free(own);
        return cairn_fail(why, CAIRN_ENOMEM, "clusters of %u dimensions", dim);
    }
    for (int r = 0; r < N_SPACE; r++) {
        float *row = m->space + (size_t)r * dim;
        for (uint32_t i = 0; i < dim; i++)
            row[i] = draw_gauss(d);
        to_unit(row, dim);
        m->lambda[r] = powf(1 + (float)r, -0.4f);
    }
    for (int i = 0; i < N_SUPER; i++)
        in_space(m, d, m->super + (size_t)i * dim);
    for (int k = 0; k < N_LOCAL; k++) {
        m->scale[k] = powf(1 + (float)k, -0.35f);
        norm += m->scale[k] * m->scale[k];
    }
    for (int k = 0; k < N_LOCAL; k++)
        m->scale[k] /= sqrtf(norm);
    for (int c = 0; c < N_CLUSTERS; c++) {
        float *p = m->centre + (size_t)c * dim;
        in_space(m, d, own);
        const float *q = m->super + (size_t)(draw_u64(d) % N_SUPER) * dim;
        for (uint32_t i = 0; i < dim; i++)
            p[i] = 0.6f * q[i] + 0.8f * own[i];
        to_unit(p, dim);
        for (int k = 0; k < N_LOCAL; k++)
            in_space(m, d, m->local + ((size_t)c * N_LOCAL + (size_t)k) * dim);
        total += pow(c + 10, -0.7);
        m->upto[c] = total;
    }
    cairn_free(own);
    return CAIRN_OK;
}
static void mixture_draw(struct mixture *m, struct draw *d, float *x, bool query)
{
    double u = draw_share(d) * m->upto[N_CLUSTERS - 1];
    int lo = 0, hi = N_CLUSTERS - 1, other = -1;
    float w = 1, noise = 0.20f / sqrtf((float)m->dim);
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (m->upto[mid] < u)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (query && draw_share(d) < 0.1) {
        other = (int)(draw_u64(d) % N_CLUSTERS);
        w = (float)(0.4 + 0.4 * draw_share(d));
    }
    for (uint32_t i = 0; i < m->dim; i++)
        x[i] = w * m->centre[(size_t)lo * m->dim + i] +
               (other >= 0 ? (1 - w) * m->centre[(size_t)other * m->dim + i] : 0);
    for (int k = 0; k < N_LOCAL; k++) {
        float g = 0.75f * m->scale[k] * draw_gauss(d);
        const float *l = m->local + ((size_t)lo * N_LOCAL + (size_t)k) * m->dim;
        for (uint32_t i = 0; i < m->dim; i++)
            x[i] += g * l[i];
    }
    for (uint32_t i = 0; i < m->dim; i++)
        x[i] += noise * draw_gauss(d);
    to_unit(x, m->dim);
}

enum cairn_err ann_generate(struct ann_floats *base, struct ann_floats *queries, uint32_t n, uint32_t dim,
                            uint32_t n_queries, uint64_t seed, struct cairn_why *why)
{
    struct mixture m = {0};
    struct draw d = {{0}, false, 0};
    uint64_t z = seed;
    enum cairn_err err = CAIRN_OK;
    *base = *queries = (struct ann_floats){0};
    if (n == 0 || n > ANN_ROWS_MAX || n_queries == 0 || n_queries > ANN_ROWS_MAX || dim == 0 ||
        dim > ANN_DIM_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "a set of %u x %u with %u queries: out of range", n, dim,
                          n_queries);
    for (int i = 0; i < 4; i++) {
        z += 0x9e3779b97f4a7c15u;
        uint64_t x = z;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
        x = (x ^ x >> 27) * 0x94d049bb133111ebu;
        d.s[i] = x ^ x >> 31;
    }
    *base = (struct ann_floats){cairn_calloc(n, (size_t)dim * sizeof(float)), n, dim};
    *queries = (struct ann_floats){cairn_calloc(n_queries, (size_t)dim * sizeof(float)), n_queries, dim};
    if (!base->v || !queries->v)
        err = cairn_fail(why, CAIRN_ENOMEM, "%u vectors of %u", n, dim);
    if (!err)
        err = mixture_init(&m, &d, dim, why);
    for (size_t i = 0; i < n && !err; i++)
        mixture_draw(&m, &d, base->v + i * dim, false);
    for (size_t i = 0; i < n_queries && !err; i++)
        mixture_draw(&m, &d, queries->v + i * dim, true);
    mixture_release(&m);
    if (err) {
        ann_floats_release(base);
        ann_floats_release(queries);
    }
    return err;
}

/* ---- exact search: panels of sgemm, a heap of the k best a query, its least at the root ---- */

struct best {
    float score;
    int32_t id;
};
static void sift(struct best *h, uint32_t k, uint32_t i)
{
    for (;;) {
        uint32_t c = 2 * i + 1;
        if (c >= k)
            return;
        if (c + 1 < k && h[c + 1].score < h[c].score)
            c++;
        if (h[i].score <= h[c].score)
            return;
        struct best t = h[i];
        h[i] = h[c];
        h[c] = t;
        i = c;
    }
}

enum cairn_err ann_exact(struct ann_ids *out, const struct ann_floats *base, const struct ann_floats *queries,
                         uint32_t n_queries, const uint8_t *alive, uint32_t k, const struct cairn_stop *stop,
                         struct cairn_why *why)
{
    uint32_t dim = base->dim, nq = n_queries < queries->n ? n_queries : queries->n;
    *out = (struct ann_ids){NULL, nq, k};
    if (dim != queries->dim)
        return cairn_fail(why, CAIRN_EINVAL, "queries have %u dimensions, the base has %u", queries->dim,
                          dim);
    float *panel = cairn_calloc((size_t)QUERY_ROWS * BASE_ROWS, sizeof *panel);
    struct best *heap = cairn_calloc((size_t)nq * k, sizeof *heap);
    out->v = cairn_calloc((size_t)nq * k, sizeof *out->v);
    enum cairn_err err =
        panel && heap && out->v ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "the truth of %u queries", nq);
    for (size_t i = 0; !err && i < (size_t)nq * k; i++)
        heap[i] = (struct best){-INFINITY, -1};
    for (uint32_t q0 = 0; q0 < nq && !err; q0 += QUERY_ROWS) {
        uint32_t m = nq - q0 < QUERY_ROWS ? nq - q0 : QUERY_ROWS;
        for (uint32_t b0 = 0; b0 < base->n && !err; b0 += BASE_ROWS) {
            uint32_t n = base->n - b0 < BASE_ROWS ? base->n - b0 : BASE_ROWS;
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)dim, 1,
                        queries->v + (size_t)q0 * dim, (int)dim, base->v + (size_t)b0 * dim, (int)dim, 0,
                        panel, BASE_ROWS);
            for (uint32_t i = 0; i < m; i++) {
                struct best *h = heap + (size_t)(q0 + i) * k;
                const float *row = panel + (size_t)i * BASE_ROWS;
                for (uint32_t j = 0; j < n; j++) {
                    if (row[j] > h[0].score && (!alive || alive[b0 + j])) {
                        h[0] = (struct best){row[j], (int32_t)(b0 + j)};
                        sift(h, k, 0);
                    }
                }
            }
            err = cairn_stopped(stop, why);
        }
    }
    for (size_t i = 0; !err && i < (size_t)nq * k; i += k) {
        for (uint32_t e = k; e-- > 0;) { /* the least goes last */
            out->v[i + e] = heap[i].id;
            heap[i] = heap[i + e];
            sift(heap + i, e, 0);
        }
    }
    cairn_free(panel);
    cairn_free(heap);
    if (err)
        ann_ids_release(out);
    return err;
}

double ann_recall(const struct ann_ids *truth, const int32_t *got, uint32_t n_queries)
{
    size_t found = 0, wanted = 0;
    for (uint32_t q = 0; q < n_queries && q < truth->n; q++) {
        const int32_t *t = truth->v + (size_t)q * truth->k, *g = got + (size_t)q * truth->k;
        for (uint32_t i = 0; i < truth->k; i++) {
            wanted += t[i] >= 0;
            for (uint32_t j = 0; j < truth->k && t[i] >= 0; j++)
                if (g[j] == t[i]) {
                    found++;
                    break;
                }
        }
    }
    return wanted ? (double)found / (double)wanted : 1;
}
