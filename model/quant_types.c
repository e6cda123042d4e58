/* quant_types.c - the table of tensor types: names, elements and bytes of a block. */
#include <cairn/model.h>

static const struct {
    const char *name;
    uint16_t block, bytes;
} types[] = {
    [TENSOR_F32] = {"F32",  1,   4  },
      [TENSOR_F16] = {"F16",  1,   2  },
    [TENSOR_Q4_0] = {"Q4_0", 32,  18 },
      [TENSOR_Q4_1] = {"Q4_1", 32,  20 },
    [TENSOR_Q5_0] = {"Q5_0", 32,  22 },
      [TENSOR_Q5_1] = {"Q5_1", 32,  24 },
    [TENSOR_Q8_0] = {"Q8_0", 32,  34 },
      [TENSOR_Q4_K] = {"Q4_K", 256, 144},
    [TENSOR_Q5_K] = {"Q5_K", 256, 176},
      [TENSOR_Q6_K] = {"Q6_K", 256, 210},
    [TENSOR_BF16] = {"BF16", 1,   2  },
};

static bool known(enum tensor_type t)
{
    return (unsigned)t < sizeof types / sizeof types[0] && types[t].name != NULL;
}

const char *tensor_type_name(enum tensor_type t) { return known(t) ? types[t].name : NULL; }

size_t tensor_type_bytes(enum tensor_type t, size_t n)
{
    size_t bytes;
    /* divide before multiply: n * 18 / 32 has wrapped to 2 bytes in other loaders */
    if (!known(t) || n % types[t].block != 0 || !cairn_mul(n / types[t].block, types[t].bytes, &bytes))
        return 0;
    return bytes;
}
