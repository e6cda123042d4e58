/* context.cuh - one stream, its first error, memory that is released together; weights brought over; and the
 * two kinds of product. Calls after an error do nothing: what is checked is the end of an open or a step. */
#ifndef CAIRN_CUDA_CONTEXT_CUH
#define CAIRN_CUDA_CONTEXT_CUH

#include "attention.cuh"

#ifdef CAIRN_CUDA_HOST /* small, so that tests see every loop turn */
enum {
    STAGING_BYTES = 64 << 10,
    PANEL_BYTES = 64 << 10,
    PANEL_OUTPUTS = 128,
    BLAS_BYTES = 256,
    ROWS_MANY_MAX = 32
};
#else
enum {
    STAGING_BYTES = 32 << 20, /* weights on their way */
    PANEL_BYTES = 32 << 20,   /* halves of a large product's weights at a time: they stay in the L2 cache */
    PANEL_OUTPUTS = 4096,     /* outputs of it at most */
    BLAS_BYTES = 32 << 20,    /* cuBLAS's workspace, ours so that a step allocates nothing */
    ROWS_MANY_MAX = 1 << 16,
};
#endif
/* Rows of a large product when a description does not say: always as many, the rest zeros, so that cuBLAS
 * takes one way for all of them and a row's result keeps its bits. */
enum { ROWS_MANY = 512 };

struct context {
    cudaStream_t stream;
    cublasHandle_t blas;
    int err; /* enum device_err; the first */
    struct block {
        struct block *next;
        void *p;
    } * blocks;
    /* what the large products share */
    uint32_t rows_many, k_max;
    uint16_t *x_half, *w_half;
    float *x_scale, *sums;
};

static thread_local char error_text[512];
/* Keeps the first error of a context. */
static void context_fail(struct context *c, int err, const char *what, const char *detail)
{
    if (c->err)
        return;
    c->err = err;
    snprintf(error_text, sizeof error_text, "%s: %s", what, detail);
}
static bool context_ok(struct context *c, cudaError_t e, const char *what)
{
    if (e != cudaSuccess)
        context_fail(c, e == cudaErrorMemoryAllocation ? DEVICE_NO_MEMORY : DEVICE_LOST, what,
                     cudaGetErrorString(e));
    return !c->err;
}

#ifdef CAIRN_CUDA_HOST
#define LAUNCH(c, kernel, grid, block, shared, ...)                                                          \
    ((c)->err ? (void)0                                                                                      \
              : (void)context_ok(                                                                            \
                    c, cuda_host_launch(#kernel, kernel, grid, block, shared, (c)->stream, __VA_ARGS__),     \
                    #kernel))
#else
template <typename... P, typename... A>
static cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t s,
                          A... args)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = s;
    return cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}
#define LAUNCH(c, kernel, grid, block, shared, ...)                                                          \
    ((c)->err ? (void)0                                                                                      \
              : (void)context_ok(c, launch(kernel, grid, block, shared, (c)->stream, __VA_ARGS__), #kernel))
#endif

static void *context_memory(struct context *c, size_t n, size_t size)
{
    void *p = NULL;
    struct context::block *b = NULL;
    if (c->err)
        return NULL;
    if (n && size > SIZE_MAX / n / 2) {
        context_fail(c, DEVICE_UNSUPPORTED, "memory", "a size that overflows");
        return NULL;
    }
    cudaError_t e = cudaMalloc(&p, n * size);
    if (e == cudaErrorMemoryAllocation) {
        char text[128];
        size_t available = 0, total = 0;
        (void)cudaGetLastError(); /* a refusal is not a broken device */
        (void)cudaMemGetInfo(&available, &total);
        snprintf(text, sizeof text, "%zu MiB do not fit, %zu of %zu MiB are free", n * size >> 20,
                 available >> 20, total >> 20);
        context_fail(c, DEVICE_NO_MEMORY, "memory", text);
        return NULL;
    }
    if (!context_ok(c, e, "cudaMalloc"))
        return NULL;
    b = (struct context::block *)calloc(1, sizeof *b); /* the module's */
    if (!b) {
        cudaFree(p);
        context_fail(c, DEVICE_NO_MEMORY, "memory", "host list");
        return NULL;
    }
    b->p = p;
    b->next = c->blocks;
    c->blocks = b;
    return p;
}
template <typename T> static T *context_array(struct context *c, size_t n)
{
    return (T *)context_memory(c, n ? n : 1, sizeof(T));
}
static void context_copy_in(struct context *c, void *to, const void *from, size_t n)
{
    if (!c->err && n)
        context_ok(c, cudaMemcpyAsync(to, from, n, cudaMemcpyHostToDevice, c->stream), "copy to the device");
}
static void context_copy_out(struct context *c, void *to, const void *from, size_t n)
{
    if (!c->err && n)
        context_ok(c, cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToHost, c->stream),
                   "copy from the device");
}
static void context_wait(struct context *c)
{
    if (!c->err)
        context_ok(c, cudaStreamSynchronize(c->stream), "device");
}
template <typename T> static T *context_upload(struct context *c, const T *from, size_t n)
{
    T *to = from ? context_array<T>(c, n) : NULL;
    if (to)
        context_copy_in(c, to, from, n * sizeof(T));
    return to;
}

/* The scratch of the large products, for inputs of at most k_max. */
static void context_open(struct context *c, uint32_t rows_many, uint32_t k_max)
{
    context_ok(c, cudaSetDevice(0), "cudaSetDevice");
    if (!c->err)
        context_ok(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "stream");
    c->rows_many = rows_many ? rows_many : ROWS_MANY;
    c->rows_many = c->rows_many < ROWS_MANY_MAX ? c->rows_many : ROWS_MANY_MAX;
    c->k_max = k_max;
    size_t panel = PANEL_BYTES / 2 > (size_t)64 * k_max ? PANEL_BYTES / 2 : (size_t)64 * k_max;
    c->x_half = context_array<uint16_t>(c, (size_t)c->rows_many * k_max);
    c->w_half = context_array<uint16_t>(c, panel);
    c->x_scale = context_array<float>(c, c->rows_many);
    c->sums = context_array<float>(c, (size_t)c->rows_many * PANEL_OUTPUTS);
    void *workspace = context_memory(c, BLAS_BYTES, 1);
    if (!c->err && (cublasCreate(&c->blas) != CUBLAS_STATUS_SUCCESS ||
                    cublasSetStream(c->blas, c->stream) != CUBLAS_STATUS_SUCCESS ||
                    cublasSetWorkspace(c->blas, workspace, BLAS_BYTES) != CUBLAS_STATUS_SUCCESS))
        context_fail(c, DEVICE_LOST, "cuBLAS", "it does not start");
}
static void context_close(struct context *c)
{
    if (c->stream)
        (void)cudaStreamSynchronize(c->stream);
    if (c->blas)
        (void)cublasDestroy(c->blas);
    while (c->blocks) {
        struct context::block *b = c->blocks;
        c->blocks = b->next;
        (void)cudaFree(b->p);
        free(b); /* the module's */
    }
    if (c->stream)
        (void)cudaStreamDestroy(c->stream);
}

/* ---- weights */

static struct matrix matrix_upload(struct context *c, const struct device_matrix *m, uint8_t *staging)
{
    struct matrix w = {};
    if (!m->bytes || c->err)
        return w;
    uint32_t block = type_block(m->type), bytes = type_bytes(m->type), extra = type_extra(m->type);
    if (!bytes || !m->n || !m->k || m->k % block) {
        context_fail(c, DEVICE_UNSUPPORTED, "weights", "a type or width that is not computed");
        return w;
    }
    uint32_t n_blocks = m->k / block;
    size_t row = (size_t)n_blocks * bytes;
    w.type = m->type;
    w.n = m->n;
    w.k = m->k;
    w.pitch = ((size_t)n_blocks * (bytes - extra) + 15) / 16 * 16;
    w.extra_pitch = (size_t)n_blocks * extra;
    uint8_t *q = context_array<uint8_t>(c, w.pitch * m->n),
            *e = context_array<uint8_t>(c, w.extra_pitch * m->n);
    w.q = q;
    w.extra = e;
    if (c->err)
        return w;
    if (!extra && w.pitch == row) {
        context_copy_in(c, q, m->bytes, row * m->n);
        return w;
    }
    uint32_t at_once = STAGING_BYTES / row > m->n ? m->n : (uint32_t)(STAGING_BYTES / row);
    if (!at_once) {
        context_fail(c, DEVICE_UNSUPPORTED, "weights", "a row of more than 32 MiB");
        return w;
    }
    for (uint32_t first = 0; first < m->n && !c->err; first += at_once) {
        uint32_t n = m->n - first < at_once ? m->n - first : at_once;
        context_copy_in(c, staging, (const uint8_t *)m->bytes + first * row, n * row);
        LAUNCH(c, repack, dim3((n_blocks + 127) / 128, n < 65535 ? n : 65535), dim3(128), 0, staging,
               q + first * w.pitch, w.pitch, e + first * w.extra_pitch, w.extra_pitch, n, n_blocks, bytes,
               extra, m->type == T_Q6_K ? 208u : 0u);
    }
    return w;
}

/* ---- products of few rows */

static struct planes planes_new(struct context *c, uint32_t rows, uint32_t k_max)
{
    struct planes p = {};
    p.runs = (k_max + 31) / 32 * 2;
    p.ld = p.runs * 16;
    p.q = context_array<uint4>(c, (size_t)rows * p.runs * 2);
    p.meta = context_array<uint2>(c, (size_t)rows * p.runs);
    p.f = context_array<float>(c, (size_t)rows * p.ld);
    return p;
}
static void prepare_rows(struct context *c, int mode, const float *a, const float *b, uint32_t lda,
                         const int32_t *index, uint32_t rows, uint32_t k, float eps, struct planes *x)
{
    uint32_t per = PREPARE_THREADS / 32, slices = mode == PREPARE_NORM ? 1 : (k + 32 * per - 1) / (32 * per);
    dim3 grid(rows, slices), block(PREPARE_THREADS);
    if (mode == PREPARE_NORM)
        LAUNCH(c, (prepare<PREPARE_NORM>), grid, block, 0, a, b, lda, index, k, eps, *x);
    else if (mode == PREPARE_SWIGLU)
        LAUNCH(c, (prepare<PREPARE_SWIGLU>), grid, block, 0, a, b, lda, index, k, eps, *x);
    else
        LAUNCH(c, (prepare<PREPARE_COPY>), grid, block, 0, a, a, lda, index, k, eps, *x);
}
/* Jobs that share x; of any types: one launch for each type. */
static void product_few(struct context *c, const struct planes *x, uint32_t rows, const struct gemv_job *jobs,
                        uint32_t n_jobs)
{
    bool done[GEMV_JOBS] = {};
    for (uint32_t first = 0; first < n_jobs; first++) {
        if (done[first])
            continue;
        struct gemv_args a = {};
        a.x = *x;
        a.rows = rows;
        uint32_t type = jobs[first].w.type;
        for (uint32_t j = first; j < n_jobs; j++)
            if (jobs[j].w.type == type) {
                a.first_block[a.n_jobs + 1] =
                    a.first_block[a.n_jobs] + (jobs[j].w.n + gemv_per_block - 1) / gemv_per_block;
                a.job[a.n_jobs++] = jobs[j];
                done[j] = true;
            }
        uint32_t blocks = a.first_block[a.n_jobs];
        for (uint32_t j = a.n_jobs; j < GEMV_JOBS; j++)
            a.first_block[j + 1] = blocks;
        dim3 block(GEMV_THREADS);
#define GEMV(TYPE)                                                                                           \
    if (rows == 1)                                                                                           \
        LAUNCH(c, (gemv<TYPE, 1>), dim3(blocks, 1), block, 0, a);                                            \
    else if (rows == 2)                                                                                      \
        LAUNCH(c, (gemv<TYPE, 2>), dim3(blocks, 1), block, 0, a);                                            \
    else if (rows <= 4)                                                                                      \
        LAUNCH(c, (gemv<TYPE, 4>), dim3(blocks, 1), block, 0, a);                                            \
    else                                                                                                     \
        LAUNCH(c, (gemv<TYPE, 8>), dim3(blocks, (rows + 7) / 8), block, 0, a)
        EACH_TYPE(type, GEMV)
#undef GEMV
    }
}

/* ---- products of many rows */

/* c->x_half is made from rows of floats; `rows` of them, the rest up to rows_many zeros. */
static void half_rows(struct context *c, int mode, const float *a, const float *b, uint32_t lda,
                      uint32_t rows, uint32_t k, float eps)
{
    dim3 grid(c->rows_many), block(ROW_THREADS);
    if (mode == PREPARE_NORM)
        LAUNCH(c, (rows_to_half<PREPARE_NORM>), grid, block, 0, a, b, lda, rows, k, eps, c->x_half,
               c->x_scale);
    else if (mode == PREPARE_SWIGLU)
        LAUNCH(c, (rows_to_half<PREPARE_SWIGLU>), grid, block, 0, a, b, lda, rows, k, eps, c->x_half,
               c->x_scale);
    else
        LAUNCH(c, (rows_to_half<PREPARE_COPY>), grid, block, 0, a, a, lda, rows, k, eps, c->x_half,
               c->x_scale);
}
/* y [rows, ld] = W x_half, a panel of outputs at a time. */
static void product_many(struct context *c, const struct matrix *w, const float *bias, uint32_t rows,
                         bool gelu, bool add, float *y, uint32_t ld)
{
    bool in_place = w->type == T_F16 && w->pitch % 16 == 0;
    size_t fits = PANEL_BYTES / 2 / w->k / 64 * 64;
    uint32_t panel = fits < 64 ? 64 : fits > PANEL_OUTPUTS ? PANEL_OUTPUTS : (uint32_t)fits;
    if (in_place)
        panel = PANEL_OUTPUTS;
    for (uint32_t first = 0; first < w->n && !c->err; first += panel) {
        uint32_t n = w->n - first < panel ? w->n - first : panel;
        const void *weights = w->q + first * w->pitch;
        uint32_t ldw = (uint32_t)(w->pitch / 2);
        if (!in_place) {
            uint32_t tasks = type_block(w->type) == 1 ? w->k : w->k / 32;
            dim3 grid((tasks + 127) / 128, n), block(128);
#define TO_HALF(TYPE) LAUNCH(c, (to_half<TYPE>), grid, block, 0, *w, first, n, c->w_half, w->k)
            EACH_TYPE(w->type, TO_HALF)
#undef TO_HALF
            weights = c->w_half;
            ldw = w->k;
        }
        const float one = 1, zero = 0;
        if (!c->err && cublasGemmEx(c->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)n, (int)c->rows_many, (int)w->k,
                                    &one, weights, CUDA_R_16F, (int)ldw, c->x_half, CUDA_R_16F, (int)w->k,
                                    &zero, c->sums, CUDA_R_32F, PANEL_OUTPUTS, CUBLAS_COMPUTE_32F,
                                    CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS)
            context_fail(c, DEVICE_LOST, "cublasGemmEx", "it refuses");
        LAUNCH(c, finish, dim3((n + ROW_THREADS - 1) / ROW_THREADS, rows), dim3(ROW_THREADS), 0, c->sums,
               (uint32_t)PANEL_OUTPUTS, c->x_scale, bias ? bias + first : NULL, n, (uint32_t)gelu,
               (uint32_t)add, y + first, ld);
    }
}

/* ---- attention */

static void attention_tiles(struct context *c, const struct attend_tile_args *a, uint32_t n_tiles, bool paged)
{
    dim3 grid(n_tiles, a->pool.n_kv_head), block(ATTEND_THREADS);
    uint32_t d32 = (a->pool.head_dim + 31) / 32;
#define TILE(D)                                                                                              \
    if (paged)                                                                                               \
        LAUNCH(c, (attend_tile<D, true>), grid, block, 0, *a);                                               \
    else                                                                                                     \
        LAUNCH(c, (attend_tile<D, false>), grid, block, 0, *a)
    switch (d32) {
    case 1:
        TILE(1);
        break;
    case 2:
        TILE(2);
        break;
    case 3:
        TILE(3);
        break;
    case 4:
        TILE(4);
        break;
    }
#undef TILE
}
static uint32_t chunk_heads(uint32_t group)
{
    uint32_t chunks = (group + ATTEND_HEADS - 1) / ATTEND_HEADS;
    return (group + chunks - 1) / chunks;
}
/* splits: as many as any of these rows may need. */
static void attention_rows(struct context *c, const struct attend_rows_args *a, uint32_t rows,
                           uint32_t splits, struct planes *out)
{
    uint32_t group = a->n_head / a->pool.n_kv_head, heads = chunk_heads(group),
             width = a->n_head * a->pool.head_dim, warps = ROW_THREADS / 32;
    dim3 grid(splits, a->pool.n_kv_head * ((group + heads - 1) / heads), rows), block(ATTEND_THREADS);
    switch (heads) {
    case 1:
        LAUNCH(c, (attend_rows<1>), grid, block, 0, *a);
        break;
    case 2:
        LAUNCH(c, (attend_rows<2>), grid, block, 0, *a);
        break;
    case 3:
        LAUNCH(c, (attend_rows<3>), grid, block, 0, *a);
        break;
    case 4:
        LAUNCH(c, (attend_rows<4>), grid, block, 0, *a);
        break;
    }
    LAUNCH(c, combine, dim3(((width + 31) / 32 + warps - 1) / warps, rows), dim3(ROW_THREADS), 0, *a, *out);
}

#endif
