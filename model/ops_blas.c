/* ops_blas.c - matrix products by OpenBLAS on panels of dequantised weights; the rest is scalar.
 * OpenBLAS is held to one thread: the pool's workers call it, each on its own panel. */
#include "ops.h"

#include "quant_rows.h"

#include <cblas.h>
#include <pthread.h>

static size_t no_bytes(size_t rows, size_t k)
{
    (void)rows;
    (void)k;
    return 0;
}
static size_t worker_bytes(size_t rows, size_t k)
{
    (void)rows;
    return (OPS_PANEL * k + (size_t)OPS_ROW_CHUNK * OPS_PANEL) * sizeof(float);
}

static void panel(const struct compute *c, const struct matmul_job *job, const float *x, size_t rows,
                  enum weight_form form, size_t n0, size_t n1, size_t r0, size_t r1, void *scratch)
{
    (void)form;
    (void)rows;
    const struct weight *w = job->w;
    float *dense = scratch, *sums = dense + OPS_PANEL * w->k;
    size_t n = n1 - n0;
    for (size_t o = 0; o < n; o++)
        quant_row(w->type, w->bytes + (n0 + o) * w->row_bytes, dense + o * w->k, w->k);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)(r1 - r0), (int)n, (int)w->k, 1.0f,
                x + r0 * w->k, (int)w->k, dense, (int)w->k, 0.0f, sums, OPS_PANEL);
    for (size_t r = r0; r < r1; r++)
        ops_finish(c->ops, job, sums + (r - r0) * OPS_PANEL, r, n0, n1);
}

static struct ops table;
static void fill(void)
{
    openblas_set_num_threads(1);
    table = ops_scalar;
    table.name = "blas";
    table.shared_bytes = no_bytes;
    table.worker_bytes = worker_bytes;
    table.panel = panel;
}

const struct ops *ops_blas(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
    return &table;
}
