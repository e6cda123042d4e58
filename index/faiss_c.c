/* faiss_c.c - the functions of FAISS's C API that cairn calls, for systems that ship its headers without
 * libfaiss_c (Debian 12). Compiled only there; the contract is that of the headers in faiss/c_api. Written
 * for cairn: Lloyd's k-means over one matrix product a pass (Johnson et al. 2017, section 4), exact search
 * for tests. Deterministic for the same input and BLAS. Threads: any, each with its own data; the error text
 * is the thread's. */
#include <cairn/base.h>

#include <cblas.h>
#include <faiss/c_api/Clustering_c.h>
#include <faiss/c_api/IndexFlat_c.h>
#include <faiss/c_api/Index_c.h>
#include <faiss/c_api/error_c.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PASSES 20
#define ROWS 1024u /* of one matrix product */

const char *faiss_get_last_error(void);
static _Thread_local char last_error[160];
const char *faiss_get_last_error(void) { return last_error; }

static int fail(const char *text)
{
    (void)snprintf(last_error, sizeof(last_error), "%s", text);
    return -1;
}

static float norm2(const float *v, size_t d)
{
    double sum = 0;
    for (size_t i = 0; i < d; i++)
        sum += (double)v[i] * v[i];
    return (float)sum;
}

/* products[i][j] = x[i] . y[j] */
static void products(const float *x, size_t n, const float *y, size_t k, size_t d, float *out)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)k, (int)d, 1.0f, x, (int)d, y, (int)d,
                0.0f, out, (int)k);
}

struct kmeans {
    size_t d, n, k;
    const float *x;
    float *centroids, *norms, *dots;
    double *sums;
    uint32_t *list, *count;
};

/* Assigns every vector to its nearest centroid; returns the summed squared distance. */
static double assign(struct kmeans *m)
{
    double error = 0;
    for (size_t j = 0; j < m->k; j++)
        m->norms[j] = norm2(m->centroids + j * m->d, m->d);
    for (size_t from = 0; from < m->n; from += ROWS) {
        size_t rows = m->n - from < ROWS ? m->n - from : ROWS;
        products(m->x + from * m->d, rows, m->centroids, m->k, m->d, m->dots);
        for (size_t i = 0; i < rows; i++) {
            size_t best = 0;
            float least = INFINITY;
            for (size_t j = 0; j < m->k; j++) {
                float dist = m->norms[j] - 2 * m->dots[i * m->k + j];
                if (dist < least) {
                    least = dist;
                    best = j;
                }
            }
            m->list[from + i] = (uint32_t)best;
            error += (double)least + norm2(m->x + (from + i) * m->d, m->d);
        }
    }
    return error > 0 ? error : 0;
}

/* Means of the lists; an empty list takes half of the largest by two centroids a little apart. */
static void update(struct kmeans *m)
{
    memset(m->sums, 0, m->k * m->d * sizeof(*m->sums));
    memset(m->count, 0, m->k * sizeof(*m->count));
    for (size_t i = 0; i < m->n; i++) {
        double *sum = m->sums + m->list[i] * m->d;
        m->count[m->list[i]]++;
        for (size_t t = 0; t < m->d; t++)
            sum[t] += m->x[i * m->d + t];
    }
    for (size_t j = 0; j < m->k; j++)
        for (size_t t = 0; t < m->d && m->count[j]; t++)
            m->centroids[j * m->d + t] = (float)(m->sums[j * m->d + t] / m->count[j]);
    for (size_t j = 0; j < m->k; j++) {
        if (m->count[j])
            continue;
        size_t large = 0;
        for (size_t i = 1; i < m->k; i++)
            if (m->count[i] > m->count[large])
                large = i;
        for (size_t t = 0; t < m->d; t++) {
            float c = m->centroids[large * m->d + t], e = t % 2 ? 1.0f / 1024 : -1.0f / 1024;
            m->centroids[j * m->d + t] = c * (1 + e);
            m->centroids[large * m->d + t] = c * (1 - e);
        }
        m->count[j] = m->count[large] / 2;
        m->count[large] -= m->count[j];
    }
}

int faiss_kmeans_clustering(size_t d, size_t n, size_t k, const float *x, float *centroids, float *q_error)
{
    struct kmeans m = {.d = d, .n = n, .k = k, .x = x, .centroids = centroids};
    size_t cells, products_n;
    if (d == 0 || k == 0 || n < k)
        return fail("k-means needs at least one vector per centroid");
    if (n > UINT32_MAX || d > INT32_MAX || k > INT32_MAX || !cairn_mul(k, d, &cells) ||
        !cairn_mul(ROWS, k, &products_n))
        return fail("k-means: too many vectors");
    for (size_t i = 0; i < n * d; i++)
        if (!isfinite(x[i]))
            return fail("k-means: NaN or infinity in a vector");
    m.norms = cairn_reallocarray(NULL, k, sizeof(float));
    m.dots = cairn_reallocarray(NULL, products_n, sizeof(float));
    m.sums = cairn_reallocarray(NULL, cells, sizeof(double));
    m.list = cairn_reallocarray(NULL, n, sizeof(uint32_t));
    m.count = cairn_reallocarray(NULL, k, sizeof(uint32_t));
    int rc = m.norms && m.dots && m.sums && m.list && m.count ? 0 : fail("k-means: no memory");
    double error = 0, before = INFINITY;
    for (size_t j = 0; rc == 0 && j < k;
         j++) /* evenly spaced vectors to begin with: seeded by the input alone */
        memcpy(centroids + j * d, x + (j * n / k) * d, d * sizeof(float));
    for (int pass = 0; rc == 0 && pass < PASSES; pass++) {
        error = assign(&m);
        if (error >= before * 0.9995)
            break;
        before = error;
        update(&m);
    }
    if (rc == 0)
        *q_error = (float)error;
    cairn_free(m.norms);
    cairn_free(m.dots);
    cairn_free(m.sums);
    cairn_free(m.list);
    cairn_free(m.count);
    return rc;
}

/* ---- exact search ---- */

struct FaissIndex_H {
    int d;
    idx_t n;
    FaissMetricType metric;
    float *x;
};

int faiss_IndexFlat_new_with(FaissIndexFlat **p_index, idx_t d, FaissMetricType metric)
{
    *p_index = NULL;
    if (d < 1 || d > 65536 || (metric != METRIC_INNER_PRODUCT && metric != METRIC_L2))
        return fail("a flat index has 1 to 65536 dimensions, and inner product or L2");
    struct FaissIndex_H *index = cairn_calloc(1, sizeof(*index));
    if (!index)
        return fail("no memory for an index");
    index->d = (int)d;
    index->metric = metric;
    *p_index = index;
    return 0;
}

void faiss_Index_free(FaissIndex *obj)
{
    if (obj)
        cairn_free(obj->x);
    cairn_free(obj);
}

int faiss_Index_add(FaissIndex *index, idx_t n, const float *x)
{
    size_t row = (size_t)index->d * sizeof(float);
    if (n < 0 || n > INT32_MAX - index->n)
        return fail("too many vectors for a flat index");
    float *more = cairn_reallocarray(index->x, (size_t)(index->n + n) + 1, row);
    if (!more)
        return fail("no memory for vectors");
    index->x = more;
    memcpy(more + (size_t)index->n * (size_t)index->d, x, (size_t)n * row);
    index->n += n;
    return 0;
}

/* Best first; ties by lower label; missing results have label -1. */
int faiss_Index_search(const FaissIndex *index, idx_t n, const float *x, idx_t k, float *distances,
                       idx_t *labels)
{
    size_t d = (size_t)index->d;
    float *dots = cairn_reallocarray(NULL, ROWS, sizeof(float));
    if (!dots || k < 1)
        return cairn_free(dots), fail(k < 1 ? "k is at least 1" : "no memory for a search");
    bool l2 = index->metric == METRIC_L2;
    for (idx_t q = 0; q < n; q++) {
        float *best = distances + q * k;
        idx_t *ids = labels + q * k, have = 0;
        float q2 = l2 ? norm2(x + (size_t)q * d, d) : 0;
        for (idx_t from = 0; from < index->n; from += ROWS) {
            size_t rows = index->n - from < ROWS ? (size_t)(index->n - from) : ROWS;
            products(x + (size_t)q * d, 1, index->x + (size_t)from * d, rows, d, dots);
            for (size_t i = 0; i < rows; i++) {
                const float *row = index->x + ((size_t)from + i) * d;
                float s = l2 ? -(q2 + norm2(row, d) - 2 * dots[i]) : dots[i];
                if (have == k && !(s > best[k - 1]))
                    continue;
                idx_t at = have < k ? have++ : k - 1;
                for (; at > 0 && best[at - 1] < s; at--) {
                    best[at] = best[at - 1];
                    ids[at] = ids[at - 1];
                }
                best[at] = s;
                ids[at] = from + (idx_t)i;
            }
        }
        for (idx_t i = 0; i < k; i++) {
            if (i >= have)
                ids[i] = -1;
            best[i] = i >= have ? (l2 ? INFINITY : -INFINITY) : l2 ? fmaxf(-best[i], 0) : best[i];
        }
    }
    cairn_free(dots);
    return 0;
}
