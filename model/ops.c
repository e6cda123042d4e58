/* ops.c - choosing a backend, cutting matmul and attention into units for the pool, scratch memory. */
#include "ops.h"

#include "quant_rows.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#define CUDA_MODULE "libcairn_cuda.so"

static const struct {
    enum model_backend id;
    const char *name;
} backend_names[] = {
    {BACKEND_AUTO,   "auto"  },
    {BACKEND_SCALAR, "scalar"},
    {BACKEND_BLAS,   "blas"  },
    {BACKEND_AVX2,   "avx2"  },
    {BACKEND_AVX512, "avx512"},
    {BACKEND_CUDA,   "cuda"  },
};

const char *model_backend_name(enum model_backend b)
{
    for (size_t i = 0; i < sizeof backend_names / sizeof backend_names[0]; i++)
        if (backend_names[i].id == b)
            return backend_names[i].name;
    return "unknown";
}

enum model_backend model_backend_by_name(const char *name)
{
    for (size_t i = 0; name && i < sizeof backend_names / sizeof backend_names[0]; i++)
        if (!strcmp(backend_names[i].name, name))
            return backend_names[i].id;
    return BACKEND_AUTO;
}

/* The module stays loaded for the life of the process: its table is static data of its own. */
static const struct ops *cuda_table;
static void cuda_load(void)
{
    void *module = dlopen(CUDA_MODULE, RTLD_NOW | RTLD_LOCAL);
    if (!module)
        return;
    const struct ops *(*entry)(uint32_t);
    void *symbol = dlsym(module, "cairn_cuda_ops");
    if (symbol) {
        memcpy(&entry, &symbol, sizeof entry);
        cuda_table = entry(OPS_ABI);
    }
    if (!cuda_table || cuda_table->abi != OPS_ABI) {
        cuda_table = NULL;
        CAIRN_LOG(MODEL, WARN, "cuda module refused file=%s want_abi=%u", CUDA_MODULE, OPS_ABI);
        dlclose(module);
    }
}
static const struct ops *ops_cuda(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, cuda_load);
    return cuda_table;
}

const struct ops *ops_for(enum model_backend b)
{
    switch (b) {
    case BACKEND_SCALAR:
        return &ops_scalar;
    case BACKEND_BLAS:
        return ops_blas();
    case BACKEND_AVX2:
        return ops_avx2();
    case BACKEND_AVX512:
        return ops_avx512();
    case BACKEND_CUDA:
        return ops_cuda();
    case BACKEND_AUTO:
        break;
    }
    const struct ops *best = ops_avx512();
    if (!best)
        best = ops_avx2();
    if (!best)
        best = ops_blas();
    return best ? best : &ops_scalar;
}

bool model_backend_available(enum model_backend b) { return ops_for(b) != NULL; }

void weight_init(struct weight *w, const struct model_tensor *t)
{
    *w = (struct weight){
        .type = t->type, .k = t->dims[0], .n = t->n_dims > 1 ? t->dims[1] : 1, .bytes = t->bytes};
    w->row_bytes = tensor_type_bytes(t->type, w->k);
}

void weight_row(const struct weight *w, size_t row, float *out)
{
    quant_row(w->type, w->bytes + row * w->row_bytes, out, w->k);
}

bool weight_pack(const struct compute *c, struct weight *w)
{
    return !c->ops->pack || w->packed || c->ops->pack(w);
}

void weight_release(struct weight *w)
{
    cairn_free(w->packed);
    w->packed = NULL;
}

enum cairn_err compute_init(struct compute *c, const struct model_opts *o, size_t rows_max, size_t k_max,
                            size_t keys_max, struct cairn_why *why)
{
    memset(c, 0, sizeof *c);
    c->ops = ops_for(o->backend);
    if (!c->ops)
        return cairn_fail(why, o->backend == BACKEND_CUDA ? CAIRN_EDEVICE : CAIRN_EUNSUPPORTED,
                          o->backend == BACKEND_CUDA
                              ? "backend %s: " CUDA_MODULE " or its device is not there; use backend auto"
                              : "backend %s is not available on this machine; use backend auto",
                          model_backend_name(o->backend));
    c->pool = o->pool;
    c->n_threads = cairn_pool_threads(o->pool);
    c->rows_max = rows_max;
    c->k_max = k_max;
    c->worker_bytes = (c->ops->worker_bytes(rows_max, k_max) + 127) & ~(size_t)127;
    c->scores_ld = (keys_max + OPS_KEY_RUN - 1) / OPS_KEY_RUN * OPS_KEY_RUN;
    c->shared = cairn_aligned(64, c->ops->shared_bytes(rows_max, k_max) + 64);
    c->workers = cairn_aligned(64, c->worker_bytes * c->n_threads + 64);
    c->scores = cairn_aligned(64, (size_t)c->n_threads * OPS_TILE_MAX * c->scores_ld * sizeof(float) + 64);
    if (!c->shared || !c->workers || !c->scores) {
        compute_release(c);
        return cairn_fail(why, CAIRN_ENOMEM, "scratch for %zu rows of %zu", rows_max, k_max);
    }
    return CAIRN_OK;
}

void compute_release(struct compute *c)
{
    cairn_free(c->shared);
    cairn_free(c->workers);
    cairn_free(c->scores);
    c->shared = c->workers = NULL;
    c->scores = NULL;
}

/* ---- matmul
 * ---------------------------------------------------------------------------------------------------- */

enum {
    PREPARE_ROWS = 48,   /* rows per unit of the first step; a multiple of 12 */
    PREPARE_ALONE = 8192 /* fewer inputs are not worth waking the pool */
};

struct matmul_run {
    const struct compute *c;
    const struct matmul_job *jobs;
    const float *x;
    size_t rows, k, n_jobs, n_chunks, prepare_rows, first_unit[OPS_JOBS_MAX + 1];
    bool packed;
};

static void prepare_range(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct matmul_run *m = ctx;
    size_t last = end * m->prepare_rows;
    m->c->ops->prepare(m->c, m->x, m->rows, m->k, begin * m->prepare_rows, last < m->rows ? last : m->rows,
                       m->packed);
}

static void matmul_range(void *ctx, size_t begin, size_t end, unsigned worker)
{
    const struct matmul_run *m = ctx;
    void *scratch = m->c->workers + worker * m->c->worker_bytes;
    for (size_t u = begin; u < end; u++) {
        size_t j = 0;
        while (u >= m->first_unit[j + 1])
            j++;
        size_t at = u - m->first_unit[j], n = m->jobs[j].w->n;
        size_t n0 = at / m->n_chunks * OPS_PANEL, n1 = n0 + OPS_PANEL < n ? n0 + OPS_PANEL : n;
        size_t r0 = at % m->n_chunks * OPS_ROW_CHUNK,
               r1 = r0 + OPS_ROW_CHUNK < m->rows ? r0 + OPS_ROW_CHUNK : m->rows;
        m->c->ops->panel(m->c, &m->jobs[j], m->x, m->rows, n0, n1, r0, r1, scratch);
    }
}

void ops_matmul(const struct compute *c, const float *x, size_t rows, const struct matmul_job *jobs,
                size_t n_jobs)
{
    CAIRN_CHECK(n_jobs >= 1 && n_jobs <= OPS_JOBS_MAX && rows <= c->rows_max);
    if (!rows)
        return;
    struct matmul_run m = {.c = c, .jobs = jobs, .x = x, .rows = rows, .k = jobs[0].w->k, .n_jobs = n_jobs};
    m.packed = jobs[0].w->packed != NULL;
    m.n_chunks = (rows + OPS_ROW_CHUNK - 1) / OPS_ROW_CHUNK;
    for (size_t j = 0; j < n_jobs; j++) {
        CAIRN_CHECK(jobs[j].w->k == m.k && (jobs[j].w->packed != NULL) == m.packed && m.k <= c->k_max);
        m.first_unit[j + 1] = m.first_unit[j] + (jobs[j].w->n + OPS_PANEL - 1) / OPS_PANEL * m.n_chunks;
    }
    if (c->ops->prepare) {
        m.prepare_rows = m.packed || rows >= OPS_ROWS_FEW ? PREPARE_ROWS
                         : rows * m.k < PREPARE_ALONE     ? rows
                                                          : 1;
        cairn_pool_run(c->pool, (rows + m.prepare_rows - 1) / m.prepare_rows, 1, prepare_range, &m);
    }
    size_t units = m.first_unit[n_jobs];
    size_t grain = rows >= OPS_ROWS_FEW               ? 1
                   : units / (c->n_threads * 16u) < 1 ? 1
                                                      : units / (c->n_threads * 16u);
    cairn_pool_run(c->pool, units, grain < 8 ? grain : 8, matmul_range, &m);
}

void ops_finish(const struct ops *ops, const struct matmul_job *job, float *sums, size_t row, size_t n0,
                size_t n1)
{
    float *y = job->y + row * job->ld + n0;
    size_t n = n1 - n0;
    if (job->bias)
        ops->add(sums, job->bias + n0, n);
    if (job->act == ACT_GELU)
        ops->gelu(sums, n);
    if (job->add)
        ops->add(y, sums, n);
    else
        memcpy(y, sums, n * sizeof *y);
}

/* ---- attention
 * -------------------------------------------------------------------------------------------------- */

struct attention_run {
    const struct compute *c;
    const struct attention *a;
    size_t tiles; /* per key-value head: (row, head of the group) pairs in tiles */
};

static void attention_range(void *ctx, size_t begin, size_t end, unsigned worker)
{
    const struct attention_run *run = ctx;
    const struct attention *a = run->a;
    size_t group = a->n_head / a->n_kv_head, pairs = a->rows * group, tile = run->c->ops->tile,
           width = a->n_head * a->head_dim;
    struct attend t = {.head_dim = a->head_dim,
                       .scale = 1.0f / __builtin_sqrtf((float)a->head_dim),
                       .scores = compute_scores(run->c, worker),
                       .scores_ld = run->c->scores_ld};
    for (size_t u = begin; u < end; u++) {
        size_t kv = u % a->n_kv_head, first = u / a->n_kv_head * tile;
        t.k = a->keys + kv * a->capacity * a->head_dim;
        t.v = a->values + kv * a->capacity * a->head_dim;
        t.n = 0;
        for (size_t p = first; p < pairs && p < first + tile; p++, t.n++) {
            size_t row = p / group, at = row * width + (kv * group + p % group) * a->head_dim,
                   position = a->first + row;
            t.q[t.n] = a->q + at;
            t.out[t.n] = a->out + at;
            t.hi[t.n] = position + 1;
            t.lo[t.n] = a->window && position + 1 > a->window ? position + 1 - a->window : 0;
        }
        run->c->ops->attend(&t);
    }
}

void ops_attention(const struct compute *c, const struct attention *a)
{
    size_t group = a->n_head / a->n_kv_head;
    struct attention_run run = {.c = c, .a = a, .tiles = (a->rows * group + c->ops->tile - 1) / c->ops->tile};
    cairn_pool_run(c->pool, run.tiles * a->n_kv_head, 1, attention_range, &run);
}

void ops_cache_put(float *keys, float *values, size_t capacity, size_t n_kv_head, size_t head_dim,
                   size_t position, const float *k, const float *v)
{
    for (size_t h = 0; h < n_kv_head; h++) {
        float *run = keys + h * capacity * head_dim + position / OPS_KEY_RUN * OPS_KEY_RUN * head_dim +
                     position % OPS_KEY_RUN;
        for (size_t i = 0; i < head_dim; i++)
            run[i * OPS_KEY_RUN] = k[h * head_dim + i];
        memcpy(values + (h * capacity + position) * head_dim, v + h * head_dim, head_dim * sizeof *v);
    }
}
