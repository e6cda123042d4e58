/* decoder.cuh - the llama family and Qwen2: open, and a step over a flat batch of rows.
 *
 * A step is cut into passes. Passes of few rows (at most DEVICE_ROWS_FEW) run as a CUDA graph, captured once
 * for each bucket of rows, of key splits, and kind of head; all that changes lies in device
 * buffers. Rows of a bucket beyond the pass have slot -1. Passes of many rows are launched one by one. */
#ifndef CAIRN_CUDA_DECODER_CUH
#define CAIRN_CUDA_DECODER_CUH

#include "context.cuh"

enum { ROW_BUCKETS = 7, SPLIT_BUCKETS = 8, SPLITS_MAX = 1 << (SPLIT_BUCKETS - 1), STEP_ROWS_MAX = 1 << 20 };

/* What follows the last layer. */
enum head { HEAD_NONE, HEAD_LOGITS, HEAD_CHOICE, HEADS };

struct decoder_layer {
    struct matrix q, k, v, o, gate, up, down;
    float *attn_norm, *ffn_norm, *q_bias, *k_bias, *v_bias, *o_bias;
};
struct device_decoder {
    struct context c;
    struct device_decoder_desc h; /* numbers only: its pointers are gone */
    struct decoder_layer *layers; /* on the host */
    struct matrix embedding, output;
    float *output_norm;
    double *rope_step;
    uint32_t split_keys, n_splits, tile_rows;
    /* for max(DEVICE_ROWS_FEW, rows_many) rows */
    float *x, *q, *k, *v, *mixed, *gate, *up;
    float2 *turn;
    /* for DEVICE_ROWS_FEW rows */
    struct planes narrow, wide; /* inputs of n_embd or q_dim, and of n_ff */
    float *last, *logits, *sums;
    float2 *tops;
    /* of a pass: ints on the device, and the same on the host */
    int32_t *tokens, *positions, *slots, *wanted, *chosen;
    struct tile *tiles;
    struct device_choice *choices;
    struct kv_pool pool;
    int32_t *host_ints;
    struct tile *host_tiles;
    struct device_choice host_choices[DEVICE_ROWS_FEW];
    cudaGraphExec_t graphs[ROW_BUCKETS][SPLIT_BUCKETS][HEADS];
};

static uint32_t rows_cap(const struct device_decoder *d)
{
    return d->c.rows_many > DEVICE_ROWS_FEW ? d->c.rows_many : DEVICE_ROWS_FEW;
}

static void device_decoder_close(struct device_decoder *d)
{
    if (!d)
        return;
    if (d->c.stream)
        (void)cudaStreamSynchronize(d->c.stream);
    for (int r = 0; r < ROW_BUCKETS; r++)
        for (int s = 0; s < SPLIT_BUCKETS; s++)
            for (int head = 0; head < HEADS; head++)
                if (d->graphs[r][s][head])
                    (void)cudaGraphExecDestroy(d->graphs[r][s][head]);
    context_close(&d->c);
    free(d->layers);     /* the module's */
    free(d->host_ints);  /* the module's */
    free(d->host_tiles); /* the module's */
    free(d);             /* the module's */
}

static const char *decoder_refusal(const struct device_decoder_desc *h)
{
    if (!h->n_layer || !h->n_embd || !h->n_head || !h->n_kv_head || !h->n_ff || !h->n_vocab || !h->n_ctx ||
        !h->layers || !h->rope_step || !h->output_norm || h->n_head % h->n_kv_head)
        return "the description is not complete";
    if (h->head_dim % 8 || !h->head_dim || h->head_dim > DEVICE_HEAD_MAX)
        return "heads are multiples of 8 and at most 256 wide";
    if (h->n_rope % 2 || h->n_rope > h->head_dim)
        return "more is turned than a head has";
    return NULL;
}

static int device_decoder_open(struct device_decoder **out, const struct device_decoder_desc *h)
{
    *out = NULL;
    struct device_decoder *d = (struct device_decoder *)calloc(1, sizeof *d); /* the module's */
    if (!d) {
        snprintf(error_text, sizeof error_text, "no host memory");
        return DEVICE_NO_MEMORY;
    }
    struct context *c = &d->c;
    const char *refusal = decoder_refusal(h);
    if (refusal)
        context_fail(c, DEVICE_UNSUPPORTED, "model", refusal);
    d->h = *h;
    d->h.slots_max = h->slots_max ? h->slots_max : DEVICE_ROWS_FEW;
    d->h.n_valid = h->n_valid && h->n_valid < h->n_vocab ? h->n_valid : h->n_vocab;
    uint32_t q_dim = h->n_head * h->head_dim, kv_dim = h->n_kv_head * h->head_dim,
             k_max = h->n_ff > h->n_embd ? h->n_ff : h->n_embd;
    k_max = q_dim > k_max ? q_dim : k_max;
    context_open(c, h->rows_many, k_max);
    uint8_t *staging = context_array<uint8_t>(c, STAGING_BYTES);
    d->layers = (struct decoder_layer *)calloc(h->n_layer, sizeof *d->layers); /* the module's */
    if (!d->layers)
        context_fail(c, DEVICE_NO_MEMORY, "memory", "host");
    for (uint32_t i = 0; i < h->n_layer && !c->err; i++) {
        const struct device_layer *from = &h->layers[i];
        struct decoder_layer *l = &d->layers[i];
        l->q = matrix_upload(c, &from->q, staging);
        l->k = matrix_upload(c, &from->k, staging);
        l->v = matrix_upload(c, &from->v, staging);
        l->o = matrix_upload(c, &from->o, staging);
        l->gate = matrix_upload(c, &from->gate, staging);
        l->up = matrix_upload(c, &from->up, staging);
        l->down = matrix_upload(c, &from->down, staging);
        l->attn_norm = context_upload(c, from->attn_norm, h->n_embd);
        l->ffn_norm = context_upload(c, from->ffn_norm, h->n_embd);
        l->q_bias = context_upload(c, from->q_bias, q_dim);
        l->k_bias = context_upload(c, from->k_bias, kv_dim);
        l->v_bias = context_upload(c, from->v_bias, kv_dim);
        l->o_bias = context_upload(c, from->o_bias, h->n_embd);
    }
    if (!c->err)
        d->embedding = matrix_upload(c, &h->embedding, staging);
    if (!c->err)
        d->output =
            h->output.bytes == h->embedding.bytes ? d->embedding : matrix_upload(c, &h->output, staging);
    if (!c->err) {
        d->output_norm = context_upload(c, h->output_norm, h->n_embd);
        d->rope_step = context_upload(c, h->rope_step, h->n_rope / 2);
    }
    uint32_t rows = rows_cap(d), few = DEVICE_ROWS_FEW;
    d->x = context_array<float>(c, (size_t)rows * h->n_embd);
    d->q = context_array<float>(c, (size_t)rows * q_dim);
    d->k = context_array<float>(c, (size_t)rows * kv_dim);
    d->v = context_array<float>(c, (size_t)rows * kv_dim);
    d->mixed = context_array<float>(c, (size_t)rows * q_dim);
    d->gate = context_array<float>(c, (size_t)rows * h->n_ff);
    d->up = context_array<float>(c, (size_t)rows * h->n_ff);
    d->turn = context_array<float2>(c, (size_t)rows * (h->n_rope / 2));
    d->narrow = planes_new(c, few, q_dim > h->n_embd ? q_dim : h->n_embd);
    d->wide = planes_new(c, few, h->n_ff);
    d->last = context_array<float>(c, (size_t)few * h->n_embd);
    d->logits = context_array<float>(c, (size_t)few * h->n_vocab);
    d->split_keys = ATTEND_KEYS;
    while (((size_t)h->n_ctx + d->split_keys - 1) / d->split_keys > SPLITS_MAX)
        d->split_keys *= 2;
    d->n_splits = (h->n_ctx + d->split_keys - 1) / d->split_keys;
    d->sums = context_array<float>(c, (size_t)few * h->n_head * d->n_splits * h->head_dim);
    d->tops = context_array<float2>(c, (size_t)few * h->n_head * d->n_splits);
    d->tile_rows = h->n_kv_head && h->head_dim <= 128 ? TILE_QUERIES / (h->n_head / h->n_kv_head) : 0;
    d->tokens = context_array<int32_t>(c, 4 * (size_t)rows);
    d->positions = d->tokens ? d->tokens + rows : NULL;
    d->slots = d->tokens ? d->tokens + 2 * rows : NULL;
    d->wanted = d->tokens ? d->tokens + 3 * rows : NULL;
    d->chosen = context_array<int32_t>(c, few);
    d->tiles = context_array<struct tile>(c, rows);
    d->choices = context_array<struct device_choice>(c, few);
    d->host_ints = (int32_t *)calloc(4 * (size_t)rows, sizeof(int32_t)); /* the module's */
    d->host_tiles = (struct tile *)calloc(rows, sizeof *d->host_tiles);  /* the module's */
    if (!d->host_ints || !d->host_tiles)
        context_fail(c, DEVICE_NO_MEMORY, "memory", "host");
    d->pool.n_kv_head = h->n_kv_head;
    d->pool.head_dim = h->head_dim;
    d->pool.ld = (h->n_ctx + DEVICE_PAGE - 1) / DEVICE_PAGE;
    int32_t *tables = context_array<int32_t>(c, (size_t)d->h.slots_max * d->pool.ld);
    d->pool.tables = tables;
    if (!c->err) {
        size_t page = (size_t)2 * kv_dim * DEVICE_PAGE * sizeof(uint16_t) * h->n_layer, available = 0,
               total = 0;
        d->pool.n_pages = h->n_pages;
        if (!h->n_pages && context_ok(c, cudaMemGetInfo(&available, &total), "memory")) {
            size_t fits = available / 2 / page, most = (size_t)d->h.slots_max * d->pool.ld;
            d->pool.n_pages = (uint32_t)(fits < most ? fits : most);
        }
        if (!c->err && d->pool.n_pages < 1)
            context_fail(c, DEVICE_NO_MEMORY, "memory", "no room for a page of keys and values");
        d->pool.halves = context_array<uint16_t>(c, page / sizeof(uint16_t) * d->pool.n_pages);
    }
    if (!c->err) { /* what a pass reads but the first ones have not written: NaN would live on in sums */
        context_ok(c, cudaMemsetAsync(d->chosen, 0, few * sizeof(int32_t), c->stream), "memset");
        context_ok(c, cudaMemsetAsync(tables, 0xff, (size_t)d->h.slots_max * d->pool.ld * 4, c->stream),
                   "memset");
    }
    context_wait(c);
    if (!c->err) {
        *out = d;
        d->h.layers = NULL;
        d->h.rope_step = NULL;
        d->h.output_norm = NULL;
        return DEVICE_OK;
    }
    int err = c->err;
    device_decoder_close(d);
    return err;
}

static uint32_t device_decoder_pages(const struct device_decoder *d) { return d->pool.n_pages; }

static int device_decoder_copy(struct device_decoder *d, uint32_t to, uint32_t from)
{
    struct context *c = &d->c;
    if (to >= d->pool.n_pages || from >= d->pool.n_pages) {
        snprintf(error_text, sizeof error_text, "copy: page %u or %u is not there", to, from);
        return DEVICE_BAD_CALL;
    }
    context_ok(c, cudaSetDevice(0), "cudaSetDevice");
    LAUNCH(c, copy_page, dim3(16, d->h.n_layer), dim3(ROW_THREADS), 0, d->pool, to, from);
    return c->err;
}

/* ---- a pass */

static void embed_rows(struct device_decoder *d, uint32_t rows)
{
    struct context *c = &d->c;
#define EMBED(TYPE)                                                                                          \
    LAUNCH(c, (embed<TYPE>), dim3(rows), dim3(ROW_THREADS), 0, d->embedding, d->tokens, d->chosen,           \
           d->positions, d->rope_step, d->h.n_rope / 2, d->x, d->turn)
    EACH_TYPE(d->embedding.type, EMBED)
#undef EMBED
}
static void turn_rows(struct device_decoder *d, uint32_t layer, uint32_t rows)
{
    struct context *c = &d->c;
    LAUNCH(c, rope_store, dim3(rows), dim3(ROW_THREADS), 0, d->q, d->k, d->v, d->turn, d->positions, d->slots,
           d->h.n_head, d->h.n_rope / 2, d->h.halves, layer, d->pool);
}
static struct attend_rows_args attend_args(struct device_decoder *d, uint32_t layer, uint32_t first)
{
    struct attend_rows_args a = {};
    a.q = d->q + (size_t)first * d->h.n_head * d->h.head_dim;
    a.positions = d->positions + first;
    a.slots = d->slots + first;
    a.pool = d->pool;
    a.layer = layer;
    a.n_head = d->h.n_head;
    a.window = d->h.window;
    a.split_keys = d->split_keys;
    a.n_splits = d->n_splits;
    a.scale = 1.0f / sqrtf((float)d->h.head_dim);
    a.sums = d->sums;
    a.tops = d->tops;
    return a;
}
static struct gemv_job few_job(const struct matrix *w, const float *bias, float *y, uint32_t ld, bool add)
{
    struct gemv_job j = {*w, bias, y, ld, add};
    return j;
}

/* The head over `rows` rows of x, those of index (on the device). */
static void run_head(struct device_decoder *d, enum head head, const int32_t *index, uint32_t rows)
{
    struct context *c = &d->c;
    if (head == HEAD_NONE)
        return;
    prepare_rows(c, PREPARE_NORM, d->x, d->output_norm, d->h.n_embd, index, rows, d->h.n_embd, d->h.eps,
                 &d->narrow);
    struct gemv_job j = few_job(&d->output, NULL, d->logits, d->h.n_vocab, false);
    product_few(c, &d->narrow, rows, &j, 1);
    if (head == HEAD_CHOICE)
        LAUNCH(c, choose, dim3(rows), dim3(CHOOSE_THREADS), 0, d->logits, d->h.n_vocab, d->h.n_valid,
               d->choices, d->chosen);
}

static void run_few(struct device_decoder *d, uint32_t rows, uint32_t splits, enum head head)
{
    struct context *c = &d->c;
    const struct device_decoder_desc *h = &d->h;
    uint32_t q_dim = h->n_head * h->head_dim, kv_dim = h->n_kv_head * h->head_dim;
    embed_rows(d, rows);
    for (uint32_t i = 0; i < h->n_layer; i++) {
        struct decoder_layer *l = &d->layers[i];
        prepare_rows(c, PREPARE_NORM, d->x, l->attn_norm, h->n_embd, NULL, rows, h->n_embd, h->eps,
                     &d->narrow);
        struct gemv_job qkv[3] = {few_job(&l->q, l->q_bias, d->q, q_dim, false),
                                  few_job(&l->k, l->k_bias, d->k, kv_dim, false),
                                  few_job(&l->v, l->v_bias, d->v, kv_dim, false)};
        product_few(c, &d->narrow, rows, qkv, 3);
        turn_rows(d, i, rows);
        struct attend_rows_args a = attend_args(d, i, 0);
        attention_rows(c, &a, rows, splits, &d->narrow);
        struct gemv_job o = few_job(&l->o, l->o_bias, d->x, h->n_embd, true);
        product_few(c, &d->narrow, rows, &o, 1);
        prepare_rows(c, PREPARE_NORM, d->x, l->ffn_norm, h->n_embd, NULL, rows, h->n_embd, h->eps,
                     &d->narrow);
        struct gemv_job ff[2] = {few_job(&l->gate, NULL, d->gate, h->n_ff, false),
                                 few_job(&l->up, NULL, d->up, h->n_ff, false)};
        product_few(c, &d->narrow, rows, ff, 2);
        prepare_rows(c, PREPARE_SWIGLU, d->gate, d->up, h->n_ff, NULL, rows, h->n_ff, 0, &d->wide);
        struct gemv_job down = few_job(&l->down, NULL, d->x, h->n_embd, true);
        product_few(c, &d->wide, rows, &down, 1);
    }
    run_head(d, head, d->wanted, rows);
}

static void run_many(struct device_decoder *d, uint32_t rows, uint32_t n_tiles, uint32_t splits)
{
    struct context *c = &d->c;
    const struct device_decoder_desc *h = &d->h;
    uint32_t q_dim = h->n_head * h->head_dim, kv_dim = h->n_kv_head * h->head_dim;
    embed_rows(d, rows);
    for (uint32_t i = 0; i < h->n_layer && !c->err; i++) {
        struct decoder_layer *l = &d->layers[i];
        half_rows(c, PREPARE_NORM, d->x, l->attn_norm, h->n_embd, rows, h->n_embd, h->eps);
        product_many(c, &l->q, l->q_bias, rows, false, false, d->q, q_dim);
        product_many(c, &l->k, l->k_bias, rows, false, false, d->k, kv_dim);
        product_many(c, &l->v, l->v_bias, rows, false, false, d->v, kv_dim);
        turn_rows(d, i, rows);
        if (n_tiles) {
            struct attend_tile_args a = {};
            a.q = d->q;
            a.out = d->mixed;
            a.tiles = d->tiles;
            a.positions = d->positions;
            a.pool = d->pool;
            a.layer = i;
            a.n_head = h->n_head;
            a.window = h->window;
            a.scale = 1.0f / sqrtf((float)h->head_dim);
            attention_tiles(c, &a, n_tiles, true);
        } else { /* heads too wide for the tiles' registers */
            for (uint32_t first = 0; first < rows; first += DEVICE_ROWS_FEW) {
                struct attend_rows_args a = attend_args(d, i, first);
                struct planes to = {};
                to.f = d->mixed + (size_t)first * q_dim;
                to.ld = q_dim;
                attention_rows(c, &a, rows - first < DEVICE_ROWS_FEW ? rows - first : DEVICE_ROWS_FEW, splits,
                               &to);
            }
        }
        half_rows(c, PREPARE_COPY, d->mixed, NULL, q_dim, rows, q_dim, 0);
        product_many(c, &l->o, l->o_bias, rows, false, true, d->x, h->n_embd);
        half_rows(c, PREPARE_NORM, d->x, l->ffn_norm, h->n_embd, rows, h->n_embd, h->eps);
        product_many(c, &l->gate, NULL, rows, false, false, d->gate, h->n_ff);
        product_many(c, &l->up, NULL, rows, false, false, d->up, h->n_ff);
        half_rows(c, PREPARE_SWIGLU, d->gate, d->up, h->n_ff, rows, h->n_ff, 0);
        product_many(c, &l->down, NULL, rows, false, true, d->x, h->n_embd);
    }
}

/* ---- a step */

/* The graph of a bucket, captured when it is first needed. */
static void launch_few(struct device_decoder *d, int row_bucket, int split_bucket, enum head head)
{
    struct context *c = &d->c;
    cudaGraphExec_t *exec = &d->graphs[row_bucket][split_bucket][head];
    if (!*exec && !c->err) {
        cudaGraph_t graph = NULL;
        uint32_t splits = 1u << split_bucket;
        if (!context_ok(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "capture"))
            return;
        run_few(d, 1u << row_bucket, splits < d->n_splits ? splits : d->n_splits, head);
        cudaError_t ended = cudaStreamEndCapture(c->stream, &graph);
        context_ok(c, ended, "capture");
        if (!c->err)
            context_ok(c, cudaGraphInstantiateWithFlags(exec, graph, 0), "graph");
        if (graph)
            (void)cudaGraphDestroy(graph);
    }
    if (!c->err)
        context_ok(c, cudaGraphLaunch(*exec, c->stream), "step");
}

static const char *step_refusal(const struct device_decoder *d, const struct device_step *s)
{
    if (!s->n_rows || s->n_rows > STEP_ROWS_MAX || s->n_many > s->n_rows || s->n_slots > d->h.slots_max ||
        s->tables_ld > d->pool.ld || s->n_wanted > s->n_rows)
        return "a count is out of range";
    for (uint32_t r = 0; r < s->n_rows; r++) {
        if (s->slots[r] < 0 || (uint32_t)s->slots[r] >= s->n_slots)
            return "a row's slot is not there";
        if (s->positions[r] < 0 || (uint32_t)s->positions[r] >= d->h.n_ctx ||
            (uint32_t)s->positions[r] / DEVICE_PAGE >= s->tables_ld)
            return "a row's position is beyond its table";
        int32_t page =
            s->tables[(size_t)s->slots[r] * s->tables_ld + (uint32_t)s->positions[r] / DEVICE_PAGE];
        if (page < 0 || (uint32_t)page >= d->pool.n_pages)
            return "a row has no page to write to";
        if (s->tokens[r] < DEVICE_CHOSEN || s->tokens[r] >= (int32_t)d->h.n_vocab ||
            (s->tokens[r] == DEVICE_CHOSEN && r >= DEVICE_ROWS_FEW))
            return "a row's token is not there";
    }
    for (uint32_t i = 0; i < s->n_wanted; i++)
        if (s->wanted[i] >= s->n_rows || (i && s->wanted[i] <= s->wanted[i - 1]))
            return "wanted rows are not ascending";
    return NULL;
}

/* Outputs [first, first + n) of the step's are in logits and chosen. */
static void take_outputs(struct device_decoder *d, const struct device_step *s, uint32_t first, uint32_t n)
{
    struct context *c = &d->c;
    if (s->logits)
        context_copy_out(c, s->logits + (size_t)first * d->h.n_vocab, d->logits,
                         (size_t)n * d->h.n_vocab * sizeof(float));
    if (s->chosen)
        context_copy_out(c, s->chosen + first, d->chosen, n * sizeof(int32_t));
}
static enum head step_head(const struct device_step *s, uint32_t n)
{
    return !n ? HEAD_NONE : s->logits && !s->chosen && !s->choices ? HEAD_LOGITS : HEAD_CHOICE;
}
static void put_choices(struct device_decoder *d, const struct device_step *s, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < DEVICE_ROWS_FEW; i++) {
        struct device_choice greedy = {};
        d->host_choices[i] = s->choices && i < n ? s->choices[first + i] : greedy;
    }
    context_copy_in(&d->c, d->choices, d->host_choices, sizeof d->host_choices);
}

static void pass_few(struct device_decoder *d, const struct device_step *s, uint32_t first, uint32_t n,
                     uint32_t out, uint32_t n_out)
{
    struct context *c = &d->c;
    int bucket = 0, split_bucket = 0;
    while (1u << bucket < n)
        bucket++;
    uint32_t rows = 1u << bucket, cap = rows_cap(d), splits = 1;
    int32_t *ints = d->host_ints;
    for (uint32_t r = 0; r < rows; r++) {
        bool here = r < n;
        ints[r] = here ? s->tokens[first + r] : 0;
        ints[cap + r] = here ? s->positions[first + r] : 0;
        ints[2 * cap + r] = here ? s->slots[first + r] : -1;
        ints[3 * cap + r] = r < n_out ? (int32_t)(s->wanted[out + r] - first) : 0;
        uint32_t need = (uint32_t)ints[cap + r] / d->split_keys + 1;
        splits = need > splits ? need : splits;
    }
    while (1u << split_bucket < splits)
        split_bucket++;
    context_copy_in(c, d->tokens, ints, 4 * (size_t)cap * sizeof *ints);
    if (step_head(s, n_out) == HEAD_CHOICE)
        put_choices(d, s, out, n_out);
    launch_few(d, bucket, split_bucket, step_head(s, n_out));
    if (n_out)
        take_outputs(d, s, out, n_out);
}

static void pass_many(struct device_decoder *d, const struct device_step *s, uint32_t first, uint32_t n,
                      uint32_t out, uint32_t n_out)
{
    struct context *c = &d->c;
    uint32_t cap = rows_cap(d), n_tiles = 0, splits = 1;
    int32_t *ints = d->host_ints;
    for (uint32_t r = 0; r < n; r++) {
        ints[r] = s->tokens[first + r];
        ints[cap + r] = s->positions[first + r];
        ints[2 * cap + r] = s->slots[first + r];
        uint32_t need = (uint32_t)ints[cap + r] / d->split_keys + 1;
        splits = need > splits ? need : splits;
    }
    for (uint32_t i = 0; i < n_out; i++)
        ints[3 * cap + i] = (int32_t)(s->wanted[out + i] - first);
    for (uint32_t r = 0; d->tile_rows && r < n;) { /* runs of a slot's consecutive positions */
        uint32_t run = 1;
        while (r + run < n && run < d->tile_rows && ints[2 * cap + r + run] == ints[2 * cap + r] &&
               ints[cap + r + run] == ints[cap + r] + (int32_t)run)
            run++;
        struct tile t = {(int32_t)r, (int32_t)run, ints[2 * cap + r], 0};
        d->host_tiles[n_tiles++] = t;
        r += run;
    }
    context_copy_in(c, d->tokens, ints, 4 * (size_t)cap * sizeof *ints);
    context_copy_in(c, d->tiles, d->host_tiles, n_tiles * sizeof *d->host_tiles);
    run_many(d, n, n_tiles, splits);
    for (uint32_t done = 0; done < n_out && !c->err; done += DEVICE_ROWS_FEW) {
        uint32_t some = n_out - done < DEVICE_ROWS_FEW ? n_out - done : DEVICE_ROWS_FEW;
        if (step_head(s, some) == HEAD_CHOICE)
            put_choices(d, s, out + done, some);
        run_head(d, step_head(s, some), d->wanted + done, some);
        take_outputs(d, s, out + done, some);
    }
}

static int device_decoder_step(struct device_decoder *d, const struct device_step *s)
{
    struct context *c = &d->c;
    if (c->err) {
        snprintf(error_text, sizeof error_text, "the device failed in an earlier step");
        return c->err;
    }
    const char *refusal = step_refusal(d, s);
    if (refusal) {
        snprintf(error_text, sizeof error_text, "step: %s", refusal);
        return DEVICE_BAD_CALL;
    }
    context_ok(c, cudaSetDevice(0), "cudaSetDevice");
    for (uint32_t i = 0; i < s->n_slots && !c->err; i++)
        context_copy_in(c, (int32_t *)d->pool.tables + (size_t)i * d->pool.ld,
                        s->tables + (size_t)i * s->tables_ld, s->tables_ld * sizeof(int32_t));
    uint32_t few = s->n_rows - s->n_many, out = 0;
    for (uint32_t first = 0; first < s->n_rows && !c->err;) {
        bool many = first >= few;
        uint32_t most = many ? c->rows_many : DEVICE_ROWS_FEW, left = (many ? s->n_rows : few) - first,
                 n = left < most ? left : most, n_out = 0;
        while (out + n_out < s->n_wanted && s->wanted[out + n_out] < first + n)
            n_out++;
        if (many)
            pass_many(d, s, first, n, out, n_out);
        else
            pass_few(d, s, first, n, out, n_out);
        out += n_out;
        first += n;
    }
    if (s->logits || s->chosen)
        context_wait(c);
    return c->err;
}

#endif
