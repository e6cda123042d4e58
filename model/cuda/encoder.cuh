/* encoder.cuh - the BERT family: the tokens of all sequences are the rows of one matrix, without padding but
 * for the last rows of a large product. */
#ifndef CAIRN_CUDA_ENCODER_CUH
#define CAIRN_CUDA_ENCODER_CUH

#include "context.cuh"

struct encoder_dense {
    struct matrix w;
    float *b;
};
struct encoder_norm {
    float *w, *b;
};
struct encoder_layer {
    struct encoder_dense q, k, v, o, up, down;
    struct encoder_norm attn_norm, out_norm;
};
struct device_encoder {
    struct context c;
    uint32_t n_layer, dim, n_head, n_ff, n_vocab, n_positions, n_types, tokens_max;
    float eps;
    struct matrix words, positions, types;
    struct encoder_norm embedding_norm;
    struct encoder_layer *layers;
    float *x, *q, *k, *v, *mixed, *inner, *pooled;
    int32_t *ints, *host_ints; /* ids, types, positions; starts */
    struct tile *tiles, *host_tiles;
};

static void device_encoder_close(struct device_encoder *e)
{
    if (!e)
        return;
    context_close(&e->c);
    free(e->layers);     /* the module's */
    free(e->host_ints);  /* the module's */
    free(e->host_tiles); /* the module's */
    free(e);             /* the module's */
}

/* Weights become halves once: a product then reads them where they are. */
static struct matrix halves_upload(struct context *c, const struct device_matrix *m, uint8_t *staging)
{
    struct matrix w = matrix_upload(c, m, staging);
    if (c->err || w.type == T_F16)
        return w;
    struct matrix h = {};
    h.type = T_F16;
    h.n = w.n;
    h.k = w.k;
    h.pitch = ((size_t)w.k * 2 + 15) / 16 * 16;
    uint16_t *to = (uint16_t *)context_memory(c, w.n, h.pitch);
    h.q = (uint8_t *)to;
    uint32_t tasks = type_block(w.type) == 1 ? w.k : w.k / 32;
#define CONVERT(TYPE)                                                                                        \
    LAUNCH(c, (to_half<TYPE>), dim3((tasks + 127) / 128, w.n < 65535 ? w.n : 65535), dim3(128), 0, w, 0u,    \
           w.n, to, (uint32_t)(h.pitch / 2))
    EACH_TYPE(w.type, CONVERT)
#undef CONVERT
    context_wait(c);
    /* the float copy is the last thing that was allocated before the halves: give it back */
    for (struct context::block **b = &c->blocks; *b && !c->err;) {
        struct context::block *here = *b;
        if (here->p == (void *)w.q || here->p == (void *)w.extra) {
            *b = here->next;
            (void)cudaFree(here->p);
            free(here); /* the module's */
        } else {
            b = &here->next;
        }
    }
    return h;
}
static struct encoder_dense dense_upload(struct context *c, const struct device_dense *from, uint8_t *staging)
{
    struct encoder_dense d;
    d.w = halves_upload(c, &from->w, staging);
    d.b = context_upload(c, from->b, from->w.n);
    return d;
}
static struct encoder_norm norm_upload(struct context *c, const struct device_norm *from, uint32_t n)
{
    struct encoder_norm d;
    d.w = context_upload(c, from->w, n);
    d.b = context_upload(c, from->b, n);
    return d;
}

static int device_encoder_open(struct device_encoder **out, const struct device_encoder_desc *h)
{
    *out = NULL;
    struct device_encoder *e = (struct device_encoder *)calloc(1, sizeof *e); /* the module's */
    if (!e) {
        snprintf(error_text, sizeof error_text, "no host memory");
        return DEVICE_NO_MEMORY;
    }
    struct context *c = &e->c;
    if (!h->n_head || h->dim % h->n_head || h->dim / h->n_head % 8 || h->dim / h->n_head > 128 ||
        !h->tokens_max || !h->layers)
        context_fail(c, DEVICE_UNSUPPORTED, "model", "heads are multiples of 8 and at most 128 wide");
    e->n_layer = h->n_layer;
    e->dim = h->dim;
    e->n_head = h->n_head;
    e->n_ff = h->n_ff;
    e->n_vocab = h->n_vocab;
    e->n_positions = h->n_positions;
    e->n_types = h->n_types;
    e->tokens_max = h->tokens_max;
    e->eps = h->eps;
    context_open(c, h->rows_many, h->n_ff > h->dim ? h->n_ff : h->dim);
    uint8_t *staging = context_array<uint8_t>(c, STAGING_BYTES);
    e->layers = (struct encoder_layer *)calloc(h->n_layer, sizeof *e->layers); /* the module's */
    if (!e->layers)
        context_fail(c, DEVICE_NO_MEMORY, "memory", "host");
    for (uint32_t i = 0; i < h->n_layer && !c->err; i++) {
        const struct device_encoder_layer *from = &h->layers[i];
        struct encoder_layer *l = &e->layers[i];
        l->q = dense_upload(c, &from->q, staging);
        l->k = dense_upload(c, &from->k, staging);
        l->v = dense_upload(c, &from->v, staging);
        l->o = dense_upload(c, &from->o, staging);
        l->up = dense_upload(c, &from->up, staging);
        l->down = dense_upload(c, &from->down, staging);
        l->attn_norm = norm_upload(c, &from->attn_norm, h->dim);
        l->out_norm = norm_upload(c, &from->out_norm, h->dim);
    }
    if (!c->err) {
        e->words = matrix_upload(c, &h->words, staging);
        e->positions = matrix_upload(c, &h->positions, staging);
        e->types = matrix_upload(c, &h->types, staging);
        e->embedding_norm = norm_upload(c, &h->embedding_norm, h->dim);
    }
    size_t rows = (h->tokens_max + c->rows_many - 1) / c->rows_many * c->rows_many;
    e->x = context_array<float>(c, rows * h->dim);
    e->q = context_array<float>(c, rows * h->dim);
    e->k = context_array<float>(c, rows * h->dim);
    e->v = context_array<float>(c, rows * h->dim);
    e->mixed = context_array<float>(c, rows * h->dim);
    e->inner = context_array<float>(c, rows * h->n_ff);
    e->pooled = context_array<float>(c, rows * h->dim);
    e->ints = context_array<int32_t>(c, 4 * rows + 1);
    e->tiles = context_array<struct tile>(c, rows);
    e->host_ints = (int32_t *)calloc(4 * rows + 1, sizeof(int32_t));    /* the module's */
    e->host_tiles = (struct tile *)calloc(rows, sizeof *e->host_tiles); /* the module's */
    if (!e->host_ints || !e->host_tiles)
        context_fail(c, DEVICE_NO_MEMORY, "memory", "host");
    context_wait(c);
    if (!c->err) {
        *out = e;
        return DEVICE_OK;
    }
    int err = c->err;
    device_encoder_close(e);
    return err;
}

/* y = W x + b over all n rows, rows_many at a time. */
static void encoder_product(struct device_encoder *e, const float *x, uint32_t n, uint32_t k,
                            const struct encoder_dense *const *jobs, float *const *y, uint32_t n_jobs,
                            bool gelu, bool add)
{
    struct context *c = &e->c;
    for (uint32_t first = 0; first < n && !c->err; first += c->rows_many) {
        uint32_t rows = n - first < c->rows_many ? n - first : c->rows_many;
        half_rows(c, PREPARE_COPY, x + (size_t)first * k, NULL, k, rows, k, 0);
        for (uint32_t j = 0; j < n_jobs; j++)
            product_many(c, &jobs[j]->w, jobs[j]->b, rows, gelu, add, y[j] + (size_t)first * jobs[j]->w.n,
                         jobs[j]->w.n);
    }
}
static void encoder_embed(struct device_encoder *e, const struct matrix *table, const int32_t *ids,
                          uint32_t n, bool add)
{
    struct context *c = &e->c;
#define EMBED(TYPE)                                                                                          \
    LAUNCH(c, (embed_add<TYPE>), dim3(n), dim3(ROW_THREADS), 0, *table, ids, e->x, (uint32_t)add)
    EACH_TYPE(table->type, EMBED)
#undef EMBED
}
static void encoder_layernorm(struct device_encoder *e, const struct encoder_norm *norm, uint32_t n)
{
    struct context *c = &e->c;
    LAUNCH(c, layernorm, dim3(n), dim3(ROW_THREADS), 0, e->x, norm->w, norm->b, e->dim, e->eps);
}

static int device_encoder_forward(struct device_encoder *e, const int32_t *ids, const int32_t *types,
                                  const size_t *lens, size_t n_seqs, int take, float *out)
{
    struct context *c = &e->c;
    if (c->err) {
        snprintf(error_text, sizeof error_text, "the device failed in an earlier batch");
        return c->err;
    }
    size_t n = 0, n_tiles = 0, rows = e->tokens_max;
    int32_t *host = e->host_ints;
    for (size_t s = 0; s < n_seqs; s++) {
        if (!lens[s] || lens[s] > e->n_positions || n + lens[s] > rows) {
            snprintf(error_text, sizeof error_text, "forward: sequence %zu is empty or too long", s);
            return DEVICE_BAD_CALL;
        }
        host[3 * rows + s] = (int32_t)n;
        for (size_t at = 0; at < lens[s]; at += TILE_QUERIES) {
            struct tile t = {(int32_t)(n + at),
                             (int32_t)(lens[s] - at < TILE_QUERIES ? lens[s] - at : TILE_QUERIES), (int32_t)n,
                             (int32_t)lens[s]};
            e->host_tiles[n_tiles++] = t;
        }
        for (size_t j = 0; j < lens[s]; j++, n++) {
            host[n] = ids[n];
            host[rows + n] = types ? types[n] : 0;
            host[2 * rows + n] = (int32_t)j;
            if (host[n] < 0 || (uint32_t)host[n] >= e->n_vocab || host[rows + n] < 0 ||
                (uint32_t)host[rows + n] >= e->n_types) {
                snprintf(error_text, sizeof error_text, "forward: token %zu is not in the tables", n);
                return DEVICE_BAD_CALL;
            }
        }
    }
    if (!n)
        return DEVICE_OK;
    host[3 * rows + n_seqs] = (int32_t)n;
    context_ok(c, cudaSetDevice(0), "cudaSetDevice");
    context_copy_in(c, e->ints, host, (3 * rows + n_seqs + 1) * sizeof *host);
    context_copy_in(c, e->tiles, e->host_tiles, n_tiles * sizeof *e->host_tiles);
    uint32_t n_rows = (uint32_t)n, dim = e->dim;
    encoder_embed(e, &e->words, e->ints, n_rows, false);
    encoder_embed(e, &e->positions, e->ints + 2 * rows, n_rows, true);
    encoder_embed(e, &e->types, e->ints + rows, n_rows, true);
    encoder_layernorm(e, &e->embedding_norm, n_rows);
    for (uint32_t i = 0; i < e->n_layer && !c->err; i++) {
        struct encoder_layer *l = &e->layers[i];
        const struct encoder_dense *qkv[3] = {&l->q, &l->k, &l->v}, *o = &l->o, *up = &l->up,
                                   *down = &l->down;
        float *to[3] = {e->q, e->k, e->v};
        encoder_product(e, e->x, n_rows, dim, qkv, to, 3, false, false);
        struct attend_tile_args a = {};
        a.q = e->q;
        a.k = e->k;
        a.v = e->v;
        a.out = e->mixed;
        a.tiles = e->tiles;
        a.pool.n_kv_head = e->n_head;
        a.pool.head_dim = dim / e->n_head;
        a.n_head = e->n_head;
        a.scale = 1.0f / sqrtf((float)a.pool.head_dim);
        attention_tiles(c, &a, (uint32_t)n_tiles, false);
        encoder_product(e, e->mixed, n_rows, dim, &o, &e->x, 1, false, true);
        encoder_layernorm(e, &l->attn_norm, n_rows);
        encoder_product(e, e->x, n_rows, dim, &up, &e->inner, 1, true, false);
        encoder_product(e, e->inner, n_rows, e->n_ff, &down, &e->x, 1, false, true);
        encoder_layernorm(e, &l->out_norm, n_rows);
    }
    if (take == DEVICE_TAKE_ALL) {
        context_copy_out(c, out, e->x, n * dim * sizeof *out);
    } else {
        LAUNCH(c, pool_rows, dim3((uint32_t)n_seqs, (dim + ROW_THREADS - 1) / ROW_THREADS), dim3(ROW_THREADS),
               0, e->x, e->ints + 3 * rows, dim, (uint32_t)(take == DEVICE_TAKE_MEAN), e->pooled);
        context_copy_out(c, out, e->pooled, n_seqs * dim * sizeof *out);
    }
    context_wait(c);
    return c->err;
}

#endif
