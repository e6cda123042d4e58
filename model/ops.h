/* ops.h - the one table of operations that encoder and decoder are written in, and its implementations.
 *
 * A backend fills `struct ops`; entries that are not worth a second version are taken from the scalar table.
 * All float arrays are row major. Row operations work on one row and leave threads to the caller; matmul and
 * attention run on the pool through ops_matmul() and ops_attention(), which cut the work into units and hand
 * each worker its own scratch. Nothing here allocates: scratch is sized once by compute_init().
 *
 * Numbers: outputs are float32. The AVX-512 backend multiplies integers. Inputs of block weights are rounded
 * to 8 bits against a scale per 32, outliers apart (ops_avx512_few.c, ops_avx512_block8.c); with
 * compute.exact they keep 16 bits (few rows) or 15 (many), as those of other weights do; the other backends
 * multiply floats. Order of summation: a row's result does not depend on which other rows are computed with
 * it, except that fewer than OPS_ROWS_FEW rows take the other path of the AVX2 and AVX-512 backends (unless
 * the weight is packed); BLAS promises nothing of the kind.
 *
 * A device does not fill this table: its seam is a whole step (device.h). */
#ifndef CAIRN_MODEL_OPS_H
#define CAIRN_MODEL_OPS_H

#include "kv.h"

enum {
    OPS_ROWS_FEW = 17,   /* fewer rows: weights are read in place; more: unpacked once for all rows */
    OPS_JOBS_MAX = 4,    /* weights that share one input in one ops_matmul() */
    OPS_TILE_MAX = 8,    /* queries that one attend() call may carry */
    OPS_PANEL = 32,      /* outputs per unit of a matmul */
    OPS_ROW_CHUNK = 264, /* rows per unit of a matmul */
};

/* How a weight lies in memory: as in the file, or packed as integers of 16 or 8 bits. A matmul has a form
 * too: that of its weights, or BLOCKS for block types as in the file times inputs of 8 bits. */
enum weight_form { WEIGHT_PLAIN, WEIGHT_WORDS, WEIGHT_BYTES, WEIGHT_BLOCKS };

/* y = W x: n outputs, k inputs, rows of row_bytes in the file's layout. */
struct weight {
    enum tensor_type type;
    size_t n, k, row_bytes;
    const uint8_t *bytes; /* BORROWED from the mapping */
    enum weight_form form;
    void *packed; /* the backend's own layout, or NULL when plain; released by weight_release() */
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
 * empty. Its result does not depend on the other queries. */
struct attend {
    unsigned n;
    const float *q[OPS_TILE_MAX];
    float *out[OPS_TILE_MAX];
    size_t lo[OPS_TILE_MAX], hi[OPS_TILE_MAX];
    enum cache_type type;
    const uint32_t *table; /* pages of KV_PAGE positions, or NULL: 0, 1, 2 ... */
    size_t page_bytes;     /* from one page id to the next */
    /* of page 0: keys in transposed runs of KV_RUN, values [position][head_dim], with Q8 a scale per position
     */
    const char *k, *v, *k_scales, *v_scales;
    size_t head_dim;
    float scale;
    float *scores; /* scratch: n rows of scores_ld floats; scores_ld >= hi rounded up to KV_RUN */
    size_t scores_ld;
};
/* Where the page of `position` lies behind page 0. */
static inline size_t attend_page(const struct attend *a, size_t position)
{
    size_t page = position / KV_PAGE;
    return (a->table ? a->table[page] : page) * a->page_bytes;
}

struct compute;
struct ops {
    const char *name;
    bool blocks;   /* knows WEIGHT_BLOCKS */
    unsigned tile; /* queries per attend() that suit it, <= OPS_TILE_MAX */

    /* matmul in two steps. Bytes shared by all workers, and per worker, for up to rows x k inputs. */
    size_t (*shared_bytes)(size_t rows, size_t k);
    size_t (*worker_bytes)(size_t rows, size_t k);
    /* Makes rows [begin, end) of x ready in the shared scratch; NULL: x is used as it is. With OPS_ROWS_FEW
     * rows or more, or packed weights, begin is a multiple of 12. */
    void (*prepare)(const struct compute *c, const float *x, size_t rows, size_t k, size_t begin, size_t end,
                    enum weight_form form);
    /* Outputs [n0, n1), at most OPS_PANEL, of rows [r0, r1), at most OPS_ROW_CHUNK. */
    void (*panel)(const struct compute *c, const struct matmul_job *job, const float *x, size_t rows,
                  enum weight_form form, size_t n0, size_t n1, size_t r0, size_t r1, void *scratch);
    /* A layout that is made once, for weights that are used often and fit in memory twice; NULL: none. All n
     * get the same form. */
    bool (*pack)(struct weight *const *w, size_t n);

    void (*attend)(const struct attend *a);
    void (*rmsnorm)(float *y, const float *x, const float *w, size_t n, float eps);
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, size_t n,
                      float eps); /* y may be x */
    /* One head: pairs (2i, 2i+1), or with halves (i, i + n_pairs), turned by the angle whose cosine and sine
     * are given. */
    void (*rope)(float *x, const float *cosine, const float *sine, size_t n_pairs, bool halves);
    void (*swiglu)(float *gate, const float *up, size_t n); /* gate = silu(gate) * up */
    void (*geglu)(float *gate, const float *up, size_t n);  /* gate = gelu(gate) * up, the tanh form */
    void (*gelu)(float *x, size_t n);                       /* the erf form */
    void (*add)(float *y, const float *x, size_t n);        /* y += x */
    void (*half)(uint16_t *out, const float *x, size_t n);  /* kv_half() */
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
    bool exact;              /* inputs keep more than 8 bits: no WEIGHT_BLOCKS */
    unsigned n_threads;
    size_t rows_max, k_max, worker_bytes, scores_ld;
    char *shared, *shared_few, *workers; /* OWNED */
    float *scores;                       /* OWNED: per worker OPS_TILE_MAX rows of scores_ld */
};
CAIRN_MUST_USE enum cairn_err compute_init(struct compute *c, const struct model_opts *o, size_t rows_max,
                                           size_t k_max, size_t keys_max, struct cairn_why *why);
void compute_release(struct compute *c);
static inline float *compute_scores(const struct compute *c, unsigned worker)
{
    return c->scores + (size_t)worker * OPS_TILE_MAX * c->scores_ld;
}
/* Weights that read the same input, as ops_matmul() wants them. false: no memory. */
bool weights_pack(const struct compute *c, struct weight *const *w, size_t n);
void weight_release(struct weight *w);

/* All jobs read the same x [rows, k]. Fewer than OPS_ROWS_FEW rows take the few-rows path. */
void ops_matmul(const struct compute *c, const float *x, size_t rows, const struct matmul_job *jobs,
                size_t n_jobs);
/* The first n_few rows of x take the few-rows path, n_many after them the other, however many they are: what
 * a row's result is then depends on nothing but the row. */
void ops_matmul_mixed(const struct compute *c, const float *x, size_t n_few, size_t n_many,
                      const struct matmul_job *jobs, size_t n_jobs);

/* Causal attention of a batch of rows over the pages of their sequences, one layer. */
struct attention_item {
    const uint32_t *table;
    size_t row, rows, first; /* rows [row, row + rows) are positions from `first` */
};
struct attention {
    const struct kv_pool *kv;
    size_t layer, n_head, window; /* window 0: none */
    const struct attention_item *items;
    size_t n_items;
    const float *q;
    float *out; /* like q: [rows, n_head * head_dim] */
};
void ops_attention(const struct compute *c, const struct attention *a);
/* One row [head_dim] of keys and of values at `position` of a text that lies in line, as float32. */
void ops_cache_put(float *keys, float *values, size_t head_dim, size_t position, const float *k,
                   const float *v);

/* Bias, activation, addition: what every backend does with a row of sums. */
void ops_finish(const struct ops *ops, const struct matmul_job *job, float *sums, size_t row, size_t n0,
                size_t n1);

#endif
