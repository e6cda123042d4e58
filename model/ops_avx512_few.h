/* ops_avx512_few.h - matmul of up to FEW_MAX rows for the AVX-512 backend: weights are read in place, once.
 */
#ifndef CAIRN_MODEL_OPS_AVX512_FEW_H
#define CAIRN_MODEL_OPS_AVX512_FEW_H

#include "ops.h"

enum { FEW_MAX = OPS_ROWS_FEW - 1 };

/* Bytes of the shared scratch, and of a worker's. */
size_t few_shared_bytes(size_t k);
size_t few_worker_bytes(void);
/* Rows [begin, end) of x [rows, k] into the shared scratch; exact: to 16 bits, all of them. */
void few_prepare(void *shared, const float *x, size_t rows, size_t k, size_t begin, size_t end, bool exact);
/* sums [rows][OPS_PANEL] = outputs [n0, n1) of w for all rows. x is read for float weights alone. */
void few_panel(const void *shared, const struct weight *w, const float *x, size_t rows, size_t n0, size_t n1,
               void *scratch, float *sums);

#endif
