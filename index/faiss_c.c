/* faiss_c.c - the functions of FAISS's C API that cairn calls, for distributions that ship its headers
 * without the library (Debian 12). Built only where CMake finds no libfaiss_c; names, signatures and results
 * are those of /usr/include/faiss/c_api.
 *
 * k-means follows faiss::Clustering with its defaults: 25 rounds of Lloyd, at most 256 points of a centroid,
 * drawn at random (seed 1234), the start a random choice of points, an empty cluster filled by splitting a
 * large one. The random numbers are ours, so centroids differ from FAISS's; the same input always gives the
 * same ones. It ends early when no point changes sides. Distances come from sgemm in tiles, so the scratch
 * memory stands fixed whatever n and k are. The flat index is an oracle: plain loops in double, ties by
 * lower label. Threads: every function from any; an index is not locked; the last error is the thread's. */
#include <cairn/base.h>

#include <cblas.h>
#include <faiss/c_api/Clustering_c.h>
#include <faiss/c_api/IndexFlat_c.h>
#include <faiss/c_api/Index_c.h>
#include <faiss/c_api/error_c.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ROUNDS 25
#define POINTS_PER_CENTROID_MAX 256u
#define TILE_ROWS 256u
#define TILE_CENTROIDS 1024u
#define DIM_MAX 65536u

static _Thread_local char last_error[200];

const char *faiss_get_last_error(void); /* the header, being C++ too, leaves out the void */
const char *faiss_get_last_error(void) { return last_error; }

__attribute__((format(printf, 2, 3))) static int fail(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(last_error, sizeof(last_error), format, args);
    va_end(args);
    return code;
}

static uint64_t next_random(uint64_t *state) /* splitmix64 (Steele, Lea and Flood 2014) */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

struct kmeans {
    size_t d, n, k; /* n: of the points drawn */
    const float *x;
    float *centroids; /* [k][d], the caller's */
    size_t *order;    /* point i is row order[i] of x */
    uint32_t *side;   /* [n] cluster of point i */
    size_t *size;     /* [k] */
    float *half_norm; /* [k] |c|^2 / 2 */
    float *rows;      /* [TILE_ROWS][d] */
    float *dots;      /* [TILE_ROWS][TILE_CENTROIDS] */
    uint64_t random;
};

static void kmeans_release(struct kmeans *m)
{
    cairn_free(m->order);
    cairn_free(m->side);
    cairn_free(m->size);
    cairn_free(m->half_norm);
    cairn_free(m->rows);
    cairn_free(m->dots);
}

static double squared_norm(const float *v, size_t d)
{
    double sum = 0;
    for (size_t i = 0; i < d; i++)
        sum += (double)v[i] * (double)v[i];
    return sum;
}

/* Every point to its nearest centroid, ties to the lower one. Returns the sum of squared distances. */
static double assign(struct kmeans *m, size_t *n_moved)
{
    double total = 0;
    float best[TILE_ROWS];
    uint32_t to[TILE_ROWS];
    *n_moved = 0;
    for (size_t c = 0; c < m->k; c++)
        m->half_norm[c] = (float)(squared_norm(m->centroids + c * m->d, m->d) / 2);
    for (size_t at = 0; at < m->n; at += TILE_ROWS) {
        size_t rows = m->n - at < TILE_ROWS ? m->n - at : TILE_ROWS;
        for (size_t i = 0; i < rows; i++) {
            memcpy(m->rows + i * m->d, m->x + m->order[at + i] * m->d, m->d * sizeof(float));
            best[i] = -INFINITY;
            to[i] = 0;
        }
        for (size_t c0 = 0; c0 < m->k; c0 += TILE_CENTROIDS) {
            size_t cs = m->k - c0 < TILE_CENTROIDS ? m->k - c0 : TILE_CENTROIDS;
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)cs, (int)m->d, 1.0f, m->rows,
                        (int)m->d, m->centroids + c0 * m->d, (int)m->d, 0.0f, m->dots, (int)TILE_CENTROIDS);
            for (size_t i = 0; i < rows; i++)
                for (size_t c = 0; c < cs; c++) {
                    float near = m->dots[i * TILE_CENTROIDS + c] - m->half_norm[c0 + c];
                    if (near > best[i]) {
                        best[i] = near;
                        to[i] = (uint32_t)(c0 + c);
                    }
                }
        }
        for (size_t i = 0; i < rows; i++) {
            double far = squared_norm(m->rows + i * m->d, m->d) - 2 * (double)best[i];
            total += far > 0 ? far : 0; /* rounding may leave it just below */
            *n_moved += m->side[at + i] != to[i];
            m->side[at + i] = to[i];
        }
    }
    return total;
}

/* An empty cluster takes half of one chosen by size: both keep its centroid, pushed apart a little. */
static void split_for_empty(struct kmeans *m)
{
    size_t c;
    const float push = 1.0f / 1024;
    for (size_t empty = 0; empty < m->k; empty++) {
        if (m->size[empty])
            continue;
        /* Points that are not the only one of theirs: n - k or more of them, so the walk ends before k. */
        uint64_t draw = next_random(&m->random) % (m->n - m->k);
        for (c = 0; c < m->k; c++) {
            uint64_t spare = m->size[c] ? m->size[c] - 1 : 0;
            if (draw < spare)
                break;
            draw -= spare;
        }
        float *a = m->centroids + empty * m->d, *b = m->centroids + c * m->d;
        for (size_t i = 0; i < m->d; i++) {
            a[i] = b[i] * (i % 2 ? 1 - push : 1 + push);
            b[i] = b[i] * (i % 2 ? 1 + push : 1 - push);
        }
        m->size[empty] = m->size[c] / 2;
        m->size[c] -= m->size[empty];
    }
}

static void move_centroids(struct kmeans *m)
{
    memset(m->centroids, 0, m->k * m->d * sizeof(float));
    memset(m->size, 0, m->k * sizeof(*m->size));
    for (size_t i = 0; i < m->n; i++) {
        const float *row = m->x + m->order[i] * m->d;
        float *c = m->centroids + m->side[i] * m->d;
        m->size[m->side[i]]++;
        for (size_t j = 0; j < m->d; j++)
            c[j] += row[j];
    }
    for (size_t c = 0; c < m->k; c++)
        for (size_t j = 0; m->size[c] && j < m->d; j++)
            m->centroids[c * m->d + j] /= (float)m->size[c];
    split_for_empty(m);
}

int faiss_kmeans_clustering(size_t d, size_t n, size_t k, const float *x, float *centroids, float *q_error)
{
    size_t floats;
    if (d == 0 || k == 0 || d > DIM_MAX || k > UINT32_MAX || !x || !centroids || !cairn_mul(n, d, &floats) ||
        floats > SIZE_MAX / sizeof(float))
        return fail(FAISS_EXCEPT, "kmeans: d=%zu n=%zu k=%zu is not a clustering", d, n, k);
    if (n < k)
        return fail(FAISS_EXCEPT,
                    "Number of training points (%zu) should be at least as large as number of clusters (%zu)",
                    n, k);
    for (size_t i = 0; i < floats; i++)
        if (!isfinite(x[i]))
            return fail(FAISS_EXCEPT, "input contains NaN's or Inf's");
    if (q_error)
        *q_error = 0;
    if (n == k) {
        memcpy(centroids, x, floats * sizeof(float));
        return OK;
    }
    struct kmeans m = {.d = d, .k = k, .x = x, .centroids = centroids, .random = 1234};
    m.n = n / k >= POINTS_PER_CENTROID_MAX ? k * POINTS_PER_CENTROID_MAX : n;
    m.order = cairn_reallocarray(NULL, n, sizeof(*m.order));
    m.side = cairn_calloc(m.n, sizeof(*m.side));
    m.size = cairn_calloc(k, sizeof(*m.size));
    m.half_norm = cairn_calloc(k, sizeof(float));
    m.rows = cairn_reallocarray(NULL, TILE_ROWS * d, sizeof(float));
    m.dots = cairn_reallocarray(NULL, (size_t)TILE_ROWS * TILE_CENTROIDS, sizeof(float));
    if (!m.order || !m.side || !m.size || !m.half_norm || !m.rows || !m.dots) {
        kmeans_release(&m);
        return fail(STD_EXCEPT, "kmeans: out of memory");
    }
    for (size_t i = 0; i < n; i++)
        m.order[i] = i;
    for (size_t i = 0; i < m.n; i++) { /* Fisher and Yates: the first k of the draw are the start */
        size_t j = i + (size_t)(next_random(&m.random) % (n - i)), kept = m.order[i];
        m.order[i] = m.order[j];
        m.order[j] = kept;
    }
    for (size_t c = 0; c < k; c++)
        memcpy(centroids + c * d, x + m.order[c] * d, d * sizeof(float));
    for (int round = 0; round < ROUNDS; round++) {
        size_t n_moved;
        double total = assign(&m, &n_moved);
        if (q_error)
            *q_error = (float)total;
        if (round > 0 && n_moved == 0)
            break;
        move_centroids(&m);
    }
    kmeans_release(&m);
    return OK;
}

/* ---- the flat index ---- */

struct FaissIndex_H {
    size_t d, n;
    FaissMetricType metric;
    float *rows;
};

int faiss_IndexFlat_new_with(FaissIndexFlat **p_index, idx_t d, FaissMetricType metric)
{
    *p_index = NULL;
    if (d < 1 || d > (idx_t)DIM_MAX || (metric != METRIC_INNER_PRODUCT && metric != METRIC_L2))
        return fail(FAISS_EXCEPT, "IndexFlat: d=%lld, metric %d: not served", (long long)d, (int)metric);
    FaissIndexFlat *ix = cairn_calloc(1, sizeof(*ix));
    if (!ix)
        return fail(STD_EXCEPT, "IndexFlat: out of memory");
    ix->d = (size_t)d;
    ix->metric = metric;
    *p_index = ix;
    return OK;
}

void faiss_Index_free(FaissIndex *ix)
{
    if (ix)
        cairn_free(ix->rows);
    cairn_free(ix);
}

int faiss_Index_add(FaissIndex *ix, idx_t n, const float *x)
{
    if (n < 0 || (n > 0 && !x) || (size_t)n > SIZE_MAX / sizeof(float) / ix->d - ix->n)
        return fail(FAISS_EXCEPT, "IndexFlat: %lld vectors cannot be added", (long long)n);
    if (n == 0)
        return OK;
    float *rows = cairn_reallocarray(ix->rows, (ix->n + (size_t)n) * ix->d, sizeof(float));
    if (!rows)
        return fail(STD_EXCEPT, "IndexFlat: out of memory");
    memcpy(rows + ix->n * ix->d, x, (size_t)n * ix->d * sizeof(float));
    ix->rows = rows;
    ix->n += (size_t)n;
    return OK;
}

int faiss_Index_search(const FaissIndex *ix, idx_t n, const float *x, idx_t k, float *distances,
                       idx_t *labels)
{
    if (n < 0 || k < 1 || (n > 0 && (!x || !distances || !labels)))
        return fail(FAISS_EXCEPT, "IndexFlat: n=%lld k=%lld is not a search", (long long)n, (long long)k);
    float sign = ix->metric == METRIC_L2 ? 1.0f : -1.0f; /* sign * distance: smaller is nearer */
    for (idx_t q = 0; q < n; q++) {
        const float *query = x + (size_t)q * ix->d;
        float *far = distances + q * k;
        idx_t *label = labels + q * k, found = 0;
        for (size_t r = 0; r < ix->n; r++) {
            const float *row = ix->rows + r * ix->d;
            double sum = 0;
            for (size_t j = 0; j < ix->d; j++) {
                double a = (double)query[j], b = (double)row[j];
                sum += ix->metric == METRIC_L2 ? (a - b) * (a - b) : a * b;
            }
            float f = (float)sum;
            if (f != f || (found == k && !(sign * f < sign * far[k - 1])))
                continue;
            idx_t at = found < k ? found++ : k - 1;
            for (; at > 0 && sign * f < sign * far[at - 1]; at--) {
                far[at] = far[at - 1];
                label[at] = label[at - 1];
            }
            far[at] = f;
            label[at] = (idx_t)r;
        }
        for (idx_t at = found; at < k; at++) {
            far[at] = sign * FLT_MAX;
            label[at] = -1;
        }
    }
    return OK;
}
