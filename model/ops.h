/* ops.h - the one table of operations that encoder and decoder are written in, and its implementations.
 *
 * A backend fills `struct ops`; entries that are not worth a second version are taken from the scalar table.
 * All float arrays are row major. Row operations work on one row and leave threads to the caller; matmul and
 * attention run on the pool through ops_matmul() and ops_attention(), which cut the work into units and hand
 * each worker its own scratch. Nothing here allocates: scratch is sized once by compute_init().
 *
 * Numbers: outputs are float32. The AVX-512 backend multiplies integers: activations rounded to 15 bits
 * against a scale per 32 (many rows) or 16 bits against a scale per 256 (few rows), so about 1e-4 relative
 * error; all others multiply floats. Order of summation: a row's result does not depend on which other rows
 * are computed with it, except that fewer than OPS_ROWS_FEW rows take the other path of the AVX-512 backend
 * (unless the weight is packed) and of the AVX2 one.
 *
 * The CUDA backend is a module, libcairn_cuda.so, opened at run time; it exports
 *     const struct ops *cairn_cuda_ops(uint32_t abi);
 * which returns NULL for an abi it does not know or without a device. The binary itself needs no driver. */
#ifndef CAIRN_MODEL_OPS_H
#define CAIRN_MODEL_OPS_H

#include <cairn/model.h>

#define OPS_ABI 1u
enum {
    OPS_ROWS_FEW = 17,   /* fewer rows: weights are read in place; more: unpacked once for all rows */
    OPS_JOBS_MAX = 4,    /* weights that share one input in one ops_matmul() */
    OPS_KEY_RUN = 16,    /* keys lie in runs of 16 positions, transposed: [position / 16][head_dim][16] */
    OPS_TILE_MAX = 8,    /* queries that one attend() call may carry */
    OPS_PANEL = 32,      /* outputs per unit of a matmul */
    OPS_ROW_CHUNK = 264, /* rows per unit of a matmul */
};

/* y = W x: n outputs, k inputs, rows of row_bytes in the file's layout. */
struct weight {
    enum tensor_type type;
    size_t n, k, row_bytes;
    const uint8_t *bytes; /* BORROWED from the mapping */
    void *packed;         /* the backend's own layout, or NULL; released by weight_release() */
};
void weight_init(struct weight *w, const struct model_tensor *t); /* dims[0] = k, dims[1] = n */
void weight_row(const struct weight *w, size_t row, float *out);  /* one row as floats: the embedding table */

enum matmul_act { ACT_NONE, ACT_GELU };
struct matmul_job {
    const struct weight *w;
    const float *bias; /* [n] or NULL */
    float *y;          /* [rows, ld] */
    size_t ld;
    enum matmul_act act;
    bool add; /* y += instead of y = (no act then) */
};

/* Up to OPS_TILE_MAX queries against the keys and values of one head. Query i sees keys [lo[i], hi[i]), never
 * empty. */
struct attend {
    unsigned n;
    const float *q[OPS_TILE_MAX];
    float *out[OPS_TILE_MAX];
    size_t lo[OPS_TILE_MAX], hi[OPS_TILE_MAX];
    const float *k; /* runs of OPS_KEY_RUN, transposed */
    const float *v; /* [position][head_dim] */
    size_t head_dim;
    float scale;
    float *scores; /* scratch: n rows of scores_ld floats; scores_ld >= hi rounded up to OPS_KEY_RUN */
    size_t scores_ld;
};

struct compute;
struct ops {
    uint32_t abi;
    const char *name;
    unsigned tile; /* queries per attend() that suit it, <= OPS_TILE_MAX */

    /* matmul in two steps. Bytes shared by all workers, and per worker, for up to rows x k inputs. */
    size_t (*shared_bytes)(size_t rows, size_t k);
    size_t (*worker_bytes)(size_t rows, size_t k);
    /* Makes rows [begin, end) of x ready in the shared scratch; NULL: x is used as it is. With OPS_ROWS_FEW
     * rows or more, or packed weights, begin is a multiple of 12. */
    void (*prepare)(const struct compute *c, const float *x, size_t rows, size_t k, size_t begin, size_t end,
                    bool packed);
    /* Outputs [n0, n1), at most OPS_PANEL, of rows [r0, r1), at most OPS_ROW_CHUNK. */
    void (*panel)(const struct compute *c, const struct matmul_job *job, const float *x, size_t rows,
                  size_t n0, size_t n1, size_t r0, size_t r1, void *scratch);
    /* A layout that is made once, for weights that are used often and fit in memory twice; NULL: none. Sets
     * w->packed. */
    bool (*pack)(struct weight *w);

    void (*attend)(const struct attend *a);
    void (*rmsnorm)(float *y, const float *x, const float *w, size_t n, float eps);
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, size_t n,
                      float eps); /* y may be x */
    /* One head: pairs (2i, 2i+1), or with halves (i, i + n_pairs), turned by the angle whose cosine and sine
     * are given. */
    void (*rope)(float *x, const float *cosine, const float *sine, size_t n_pairs, bool halves);
    void (*swiglu)(float *gate, const float *up, size_t n); /* gate = silu(gate) * up */
    void (*gelu)(float *x, size_t n);                       /* the erf form */
    void (*add)(float *y, const float *x, size_t n);        /* y += x */
};

/* NULL when this machine or build cannot run it; AUTO never gives NULL. */
const struct ops *ops_for(enum model_backend b);
extern const struct ops ops_scalar;
const struct ops *ops_blas(void);
const struct ops *ops_avx2(void);
const struct ops *ops_avx512(void);

/* What one model step computes with. */
struct compute {
    const struct ops *ops;
    struct cairn_pool *pool; /* BORROWED, may be NULL */
    unsigned n_threads;
    size_t rows_max, k_max, worker_bytes, scores_ld;
    char *shared, *workers; /* OWNED */
    float *scores;          /* OWNED: per worker OPS_TILE_MAX rows of scores_ld */
};
CAIRN_MUST_USE enum cairn_err compute_init(struct compute *c, const struct model_opts *o, size_t rows_max,
                                           size_t k_max, size_t keys_max, struct cairn_why *why);
void compute_release(struct compute *c);
static inline float *compute_scores(const struct compute *c, unsigned worker)
{
    return c->scores + (size_t)worker * OPS_TILE_MAX * c->scores_ld;
}
bool weight_pack(const struct compute *c, struct weight *w); /* false: no memory */
void weight_release(struct weight *w);

/* All jobs read the same x [rows, k]. */
void ops_matmul(const struct compute *c, const float *x, size_t rows, const struct matmul_job *jobs,
                size_t n_jobs);

/* Causal attention of `rows` new positions, the first at `first`, over a cache of all positions so far.
 * keys: [n_kv_head][capacity / 16][head_dim][16], values: [n_kv_head][capacity][head_dim]. */
struct attention {
    const float *q, *keys, *values;
    float *out;                                                        /* like q: [rows, n_head * head_dim] */
    size_t rows, first, capacity, n_head, n_kv_head, head_dim, window; /* window 0: none */
};
void ops_attention(const struct compute *c, const struct attention *a);
/* Puts one row [n_kv_head * head_dim] of keys and of values at `position` of the cache. */
void ops_cache_put(float *keys, float *values, size_t capacity, size_t n_kv_head, size_t head_dim,
                   size_t position, const float *k, const float *v);

/* Bias, activation, addition: what every backend does with a row of sums. */
void ops_finish(const struct ops *ops, const struct matmul_job *job, float *sums, size_t row, size_t n0,
                size_t n1);

#endif
