/* ops.c - choosing a backend, cutting matmul and attention into units for the pool, scratch memory. */
#include "ops.h"

#include "device_host.h"
#include "quant_rows.h"

#include <string.h>

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
    case BACKEND_CUDA: /* a model on a device computes here what the device does not, and when it fails */
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

bool model_backend_available(enum model_backend b)
{
    return b == BACKEND_CUDA ? device_find(NULL) != NULL : ops_for(b) != NULL;
}

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

bool weights_pack(const struct compute *c, struct weight *const *w, size_t n)
{
    return !c->ops->pack || c->ops->pack(w, n);
}

void weight_release(struct weight *w)
{
    cairn_free(w->packed);
    w->packed = NULL;
    w->form = WEIGHT_PLAIN;
}

enum cairn_err compute_init(struct compute *c, const struct model_opts *o, size_t rows_max, size_t k_max,
                            size_t keys_max, struct cairn_why *why)
{
    memset(c, 0, sizeof *c);
    c->ops = ops_for(o->backend);
    if (!c->ops)
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "backend %s is not available on this machine; use backend auto",
                          model_backend_name(o->backend));
    c->pool = o->pool;
    c->exact = o->exact;
    c->n_threads = cairn_pool_threads(o->pool);
    c->rows_max = rows_max;
    c->k_max = k_max;
    c->worker_bytes = (c->ops->worker_bytes(rows_max, k_max) + 127) & ~(size_t)127;
    c->scores_ld = (keys_max + KV_RUN - 1) / KV_RUN * KV_RUN;
    c->shared = cairn_aligned(64, c->ops->shared_bytes(rows_max, k_max) + 64);
    c->shared_few = cairn_aligned(64, c->ops->shared_bytes(OPS_ROWS_FEW - 1, k_max) + 64);
    c->workers = cairn_aligned(64, c->worker_bytes * c->n_threads + 64);
    c->scores = cairn_aligned(64, (size_t)c->n_threads * OPS_TILE_MAX * c->scores_ld * sizeof(float) + 64);
    if (!c->shared || !c->shared_few || !c->workers || !c->scores) {
        compute_release(c);
        return cairn_fail(why, CAIRN_ENOMEM, "scratch for %zu rows of %zu", rows_max, k_max);
    }
    return CAIRN_OK;
}

void compute_release(struct compute *c)
{
    cairn_free(c->shared);
    cairn_free(c->shared_few);
    cairn_free(c->workers);
    cairn_free(c->scores);
    c->shared = c->shared_few = c->workers = NULL;
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
    size_t path_rows; /* the count of rows by which a backend chooses its path */
    enum weight_form form;
    const struct matmul_run *few; /* the same jobs for rows of the other path, in the same pass, or NULL */
};

static void prepare_range(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct matmul_run *m = ctx;
    size_t last = end * m->prepare_rows;
    m->c->ops->prepare(m->c, m->x, m->path_rows, m->k, begin * m->prepare_rows,
                       last < m->rows ? last : m->rows, m->form);
}

static void matmul_range(void *ctx, size_t begin, size_t end, unsigned worker)
{
    const struct matmul_run *m = ctx;
    const struct matmul_run *few = m->few;
    void *scratch = m->c->workers + worker * m->c->worker_bytes;
    for (size_t u = begin; u < end; u++) {
        size_t j = 0;
        while (u >= m->first_unit[j + 1])
            j++;
        size_t at = u - m->first_unit[j], n = m->jobs[j].w->n;
        size_t n0 = at / m->n_chunks * OPS_PANEL, n1 = n0 + OPS_PANEL < n ? n0 + OPS_PANEL : n;
        size_t r0 = at % m->n_chunks * OPS_ROW_CHUNK,
               r1 = r0 + OPS_ROW_CHUNK < m->rows ? r0 + OPS_ROW_CHUNK : m->rows;
        m->c->ops->panel(m->c, &m->jobs[j], m->x, m->path_rows, m->form, n0, n1, r0, r1, scratch);
        if (few && r0 == 0) /* the weights of this panel are in the cache now */
            few->c->ops->panel(few->c, &few->jobs[j], few->x, few->path_rows, few->form, n0, n1, 0, few->rows,
                               scratch);
    }
}

static void matmul_init(struct matmul_run *m, const struct compute *c, const float *x, size_t rows,
                        size_t path_rows, const struct matmul_job *jobs, size_t n_jobs)
{
    CAIRN_CHECK(n_jobs >= 1 && n_jobs <= OPS_JOBS_MAX && rows <= c->rows_max);
    *m = (struct matmul_run){.c = c,
                             .jobs = jobs,
                             .x = x,
                             .rows = rows,
                             .k = jobs[0].w->k,
                             .n_jobs = n_jobs,
                             .path_rows = path_rows};
    m->form = jobs[0].w->form;
    m->n_chunks = (rows + OPS_ROW_CHUNK - 1) / OPS_ROW_CHUNK;
    for (size_t j = 0; j < n_jobs; j++) {
        CAIRN_CHECK(jobs[j].w->k == m->k && jobs[j].w->form == m->form && m->k <= c->k_max);
        m->first_unit[j + 1] = m->first_unit[j] + (jobs[j].w->n + OPS_PANEL - 1) / OPS_PANEL * m->n_chunks;
    }
    bool blocks = m->form == WEIGHT_PLAIN && c->ops->blocks && !c->exact && path_rows >= OPS_ROWS_FEW;
    for (size_t j = 0; j < n_jobs && blocks; j++)
        blocks = tensor_type_bytes(jobs[j].w->type, 1) == 0; /* elements stand in blocks */
    if (blocks)
        m->form = WEIGHT_BLOCKS;
    if (!c->ops->prepare)
        return;
    m->prepare_rows = m->form != WEIGHT_PLAIN || path_rows >= OPS_ROWS_FEW ? PREPARE_ROWS
                      : rows * m->k < PREPARE_ALONE                        ? rows
                                                                           : 1;
    cairn_pool_run(c->pool, (rows + m->prepare_rows - 1) / m->prepare_rows, 1, prepare_range, m);
}

static void matmul_do(struct matmul_run *m)
{
    size_t units = m->first_unit[m->n_jobs];
    size_t grain = m->path_rows >= OPS_ROWS_FEW          ? 1
                   : units / (m->c->n_threads * 16u) < 1 ? 1
                                                         : units / (m->c->n_threads * 16u);
    cairn_pool_run(m->c->pool, units, grain < 8 ? grain : 8, matmul_range, m);
}

void ops_matmul(const struct compute *c, const float *x, size_t rows, const struct matmul_job *jobs,
                size_t n_jobs)
{
    struct matmul_run m;
    if (!rows)
        return;
    matmul_init(&m, c, x, rows, rows, jobs, n_jobs);
    matmul_do(&m);
}

void ops_matmul_mixed(const struct compute *c, const float *x, size_t n_few, size_t n_many,
                      const struct matmul_job *jobs, size_t n_jobs)
{
    enum { FEW = OPS_ROWS_FEW - 1 };
    struct matmul_job at[2][OPS_JOBS_MAX];
    struct compute other = *c; /* each path has its own form of the rows */
    struct matmul_run few, many;
    other.shared = c->shared_few;
    CAIRN_CHECK(n_jobs >= 1 && n_jobs <= OPS_JOBS_MAX);
    memcpy(at[0], jobs, n_jobs * sizeof *jobs);
    while (n_few + n_many) {
        size_t n = n_few < FEW ? n_few : FEW;
        bool last = n == n_few && n_many;
        if (n)
            matmul_init(&few, &other, x, n, n, at[0], n_jobs);
        n_few -= n;
        x += n * jobs[0].w->k;
        memcpy(at[1], at[0], n_jobs * sizeof *jobs);
        for (size_t j = 0; j < n_jobs; j++)
            at[1][j].y += n * at[1][j].ld;
        if (last) {
            matmul_init(&many, c, x, n_many, n_many > OPS_ROWS_FEW ? n_many : OPS_ROWS_FEW, at[1], n_jobs);
            many.few = n ? &few : NULL;
            matmul_do(&many);
            return;
        }
        matmul_do(&few);
        memcpy(at[0], at[1], n_jobs * sizeof *jobs);
    }
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
};

/* Tiles of an item for one key-value head: (row, head of the group) pairs. */
static size_t tiles_of(const struct attention_run *run, const struct attention_item *i)
{
    size_t group = run->a->n_head / run->a->kv->shape.n_head, tile = run->c->ops->tile;
    return (i->rows * group + tile - 1) / tile;
}

static void attention_range(void *ctx, size_t begin, size_t end, unsigned worker)
{
    const struct attention_run *run = ctx;
    const struct attention *a = run->a;
    const struct kv_shape *s = &a->kv->shape;
    size_t group = a->n_head / s->n_head, tile = run->c->ops->tile, width = a->n_head * s->head_dim;
    struct attend t = {.type = s->type,
                       .page_bytes = s->page_bytes,
                       .head_dim = s->head_dim,
                       .scale = 1.0f / __builtin_sqrtf((float)s->head_dim),
                       .scores = compute_scores(run->c, worker),
                       .scores_ld = run->c->scores_ld};
    const struct attention_item *item = a->items;
    size_t before = 0; /* units of the items in front of this one */
    for (size_t u = begin; u < end; u++) {
        while (u >= before + tiles_of(run, item) * s->n_head)
            before += tiles_of(run, item++) * s->n_head;
        size_t kv = (u - before) % s->n_head, first = (u - before) / s->n_head * tile,
               pairs = item->rows * group;
        const char *block = a->kv->bytes + kv_block_at(s, a->layer, kv);
        t.table = item->table;
        t.k = block;
        t.v = block + s->values_at;
        t.k_scales = block + s->key_scales_at;
        t.v_scales = block + s->value_scales_at;
        t.n = 0;
        for (size_t p = first; p < pairs && p < first + tile; p++, t.n++) {
            size_t row = p / group, at = (item->row + row) * width + (kv * group + p % group) * s->head_dim,
                   position = item->first + row;
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
    struct attention_run run = {.c = c, .a = a};
    size_t units = 0;
    for (size_t i = 0; i < a->n_items; i++)
        units += tiles_of(&run, &a->items[i]) * a->kv->shape.n_head;
    cairn_pool_run(c->pool, units, 1, attention_range, &run);
}

void ops_cache_put(float *keys, float *values, size_t head_dim, size_t position, const float *k,
                   const float *v)
{
    float *run = keys + position / KV_RUN * KV_RUN * head_dim + position % KV_RUN;
    for (size_t i = 0; i < head_dim; i++)
        run[i * KV_RUN] = k[i];
    memcpy(values + position * head_dim, v, head_dim * sizeof *v);
}
