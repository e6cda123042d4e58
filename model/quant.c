/* quant.c - the scalar reference of every weight type: what quant_rows.h says, compiled for the baseline. */
#include "quant_rows.h"

void tensor_dequantize(enum tensor_type t, const void *src, float *dst, size_t n)
{
    quant_row(t, src, dst, n);
}
