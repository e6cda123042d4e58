/* door.cu - single kernels with pointers of the host, for tests: built into a module beside the real table.
 */
#include "../../model/cuda/module.cu"

#define DOOR extern "C" __attribute__((visibility("default")))

/* y [rows, ld] of rows of x [rows, k], through the kernels for few or for many rows. */
DOOR int door_product(const struct device_matrix *m, const float *x, uint32_t rows, int many,
                      const float *bias, int gelu, int add, float *y, uint32_t ld)
{
    struct context c = {};
    context_open(&c, 0, m->k);
    uint8_t *staging = context_array<uint8_t>(&c, STAGING_BYTES);
    struct matrix w = matrix_upload(&c, m, staging);
    float *dx = context_upload(&c, x, (size_t)rows * m->k), *dy = context_upload(&c, y, (size_t)rows * ld);
    float *db = context_upload(&c, bias, m->n);
    if (many) {
        for (uint32_t first = 0; first < rows && !c.err; first += c.rows_many) {
            uint32_t n = rows - first < c.rows_many ? rows - first : c.rows_many;
            half_rows(&c, PREPARE_COPY, dx + (size_t)first * m->k, NULL, m->k, n, m->k, 0);
            product_many(&c, &w, db, n, gelu, add, dy + (size_t)first * ld, ld);
        }
    } else {
        struct planes p = planes_new(&c, rows, m->k);
        prepare_rows(&c, PREPARE_COPY, dx, NULL, m->k, NULL, rows, m->k, 0, &p);
        struct gemv_job j = few_job(&w, db, dy, ld, add);
        product_few(&c, &p, rows, &j, 1);
    }
    context_copy_out(&c, y, dy, (size_t)rows * ld * sizeof *y);
    context_wait(&c);
    context_close(&c);
    return c.err;
}

DOOR int door_choose(const float *logits, uint32_t n_vocab, uint32_t n_valid,
                     const struct device_choice *choices, uint32_t rows, int32_t *chosen)
{
    struct context c = {};
    context_open(&c, 0, 64);
    float *dl = context_upload(&c, logits, (size_t)rows * n_vocab);
    struct device_choice *dc = context_upload(&c, choices, rows);
    int32_t *out = context_array<int32_t>(&c, rows);
    LAUNCH(&c, choose, dim3(rows), dim3(CHOOSE_THREADS), 0, dl, n_vocab, n_valid, dc, out);
    context_copy_out(&c, chosen, out, rows * sizeof *chosen);
    context_wait(&c);
    context_close(&c);
    return c.err;
}
