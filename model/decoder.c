/* decoder.c - the llama family (Llama, Mistral, SmolLM2) and Qwen2 from a GGUF file.
 *
 * Owns the file, its tokenizer, one set of activations and scratch; sequences own their keys and values
 * (float32 so far; half precision would halve them).
 * Threads: decoder.lock is held by every computing call. It is taken before the pool's own lock, never after.
 * Memory: everything is allocated at open and at seq_open; a step allocates nothing.
 * Weights are read from the mapping as they lie in the file. Prefill runs DECODER_PIECE tokens at a time.
 * A sequence's length moves only when a call has succeeded: what a stopped call wrote behind it is
 * overwritten later. */
#include "decoder_internal.h"

#include <math.h>
#include <string.h>

enum { ROWS_ALONE = 4 }; /* fewer rows are not worth waking the pool for norms and the like */

const char *decoder_name(const struct decoder *d) { return d->name; }
const char *decoder_backend_name(const struct decoder *d) { return d->compute.ops->name; }
const struct tokenizer *decoder_tokenizer(const struct decoder *d) { return d->tokenizer; }
enum chat_template decoder_template(const struct decoder *d) { return chat_template_detect(d->file); }
uint32_t decoder_n_ctx(const struct decoder *d) { return d->n_ctx; }
uint32_t decoder_n_vocab(const struct decoder *d) { return d->n_vocab; }

static size_t capacity_for(uint32_t n_ctx)
{
    return ((size_t)n_ctx + OPS_KEY_RUN - 1) / OPS_KEY_RUN * OPS_KEY_RUN;
}

void decoder_memory(const struct decoder *d, size_t *weights, size_t *kv_per_seq)
{
    *weights = d->weight_bytes;
    *kv_per_seq = 2 * sizeof(float) * capacity_for(d->n_ctx) * d->n_kv_head * d->head_dim * d->n_layer;
}

/* ---- sequences
 * -------------------------------------------------------------------------------------------------- */

enum cairn_err decoder_seq_open(struct decoder_seq **out, struct decoder *d, uint32_t n_ctx,
                                struct cairn_why *why)
{
    *out = NULL;
    if (n_ctx > d->n_ctx)
        return cairn_fail(why, CAIRN_EINVAL, "a sequence of %u: the decoder was opened for %u", n_ctx,
                          d->n_ctx);
    struct decoder_seq *s = cairn_calloc(1, sizeof *s);
    if (!s)
        return cairn_fail(why, CAIRN_ENOMEM, "sequence handle");
    s->d = d;
    s->n_ctx = n_ctx ? n_ctx : d->n_ctx;
    s->capacity = capacity_for(s->n_ctx);
    s->layer_floats = s->capacity * d->n_kv_head * d->head_dim;
    s->keys = cairn_calloc(s->layer_floats,
                           d->n_layer * sizeof(float)); /* zero pages: touched as the sequence grows */
    s->values = cairn_calloc(s->layer_floats, d->n_layer * sizeof(float));
    if (!s->keys || !s->values) {
        size_t mib = 2 * s->layer_floats * d->n_layer * sizeof(float) >> 20;
        decoder_seq_close(s);
        return cairn_fail(why, CAIRN_ENOMEM, "%zu MiB of keys and values; ask for a smaller n_ctx", mib);
    }
    *out = s;
    return CAIRN_OK;
}

void decoder_seq_close(struct decoder_seq *s)
{
    if (!s)
        return;
    cairn_free(s->keys);
    cairn_free(s->values);
    cairn_free(s);
}

uint32_t decoder_seq_len(const struct decoder_seq *s) { return s->len; }

void decoder_seq_truncate(struct decoder_seq *s, uint32_t len)
{
    if (len < s->len)
        s->len = len;
}

/* ---- a step
 * ----------------------------------------------------------------------------------------------------- */

struct step {
    struct decoder *d;
    struct decoder_seq *s;
    const int32_t *tokens;
    size_t n, first; /* rows, position of the first */
    uint32_t layer;
    const float *norm;
};

static void each_row(const struct step *st, size_t n, cairn_range_fn fn)
{
    if (n < ROWS_ALONE)
        fn((void *)(uintptr_t)st, 0, n, 0);
    else
        cairn_pool_run(st->d->compute.pool, n, n < OPS_ROWS_FEW ? 1 : 8, fn, (void *)(uintptr_t)st);
}

static void rows_embed(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct step *st = ctx;
    struct decoder *d = st->d;
    for (size_t r = begin; r < end; r++) {
        weight_row(&d->embedding, (size_t)st->tokens[r], d->x + r * d->n_embd);
        for (uint32_t i = 0; i < d->n_rope / 2; i++) {
            double angle = (double)(st->first + r) * d->rope_step[i];
            d->cosine[r * (d->n_rope / 2) + i] = (float)cos(angle);
            d->sine[r * (d->n_rope / 2) + i] = (float)sin(angle);
        }
    }
}

static void rows_norm(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct step *st = ctx;
    struct decoder *d = st->d;
    for (size_t r = begin; r < end; r++)
        d->compute.ops->rmsnorm(d->h + r * d->n_embd, d->x + r * d->n_embd, st->norm, d->n_embd, d->eps);
}

static void rows_rope(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct step *st = ctx;
    struct decoder *d = st->d;
    size_t half = d->n_rope / 2;
    float *keys = st->s->keys + st->layer * st->s->layer_floats,
          *values = st->s->values + st->layer * st->s->layer_floats;
    for (size_t r = begin; r < end; r++) {
        const float *c = d->cosine + r * half, *s = d->sine + r * half;
        float *q = d->q + r * d->n_head * d->head_dim, *k = d->k + r * d->n_kv_head * d->head_dim;
        for (uint32_t h = 0; h < d->n_head; h++)
            d->compute.ops->rope(q + h * d->head_dim, c, s, half, d->halves);
        for (uint32_t h = 0; h < d->n_kv_head; h++)
            d->compute.ops->rope(k + h * d->head_dim, c, s, half, d->halves);
        ops_cache_put(keys, values, st->s->capacity, d->n_kv_head, d->head_dim, st->first + r, k,
                      d->v + r * d->n_kv_head * d->head_dim);
    }
}

static void rows_swiglu(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct step *st = ctx;
    struct decoder *d = st->d;
    for (size_t r = begin; r < end; r++)
        d->compute.ops->swiglu(d->gate + r * d->n_ff, d->up + r * d->n_ff, d->n_ff);
}

/* At most DECODER_PIECE tokens. logits: n_logits rows for the last n_logits tokens. */
static void run_piece(struct step *st, float *logits, size_t n_logits)
{
    struct decoder *d = st->d;
    const struct compute *c = &d->compute;
    size_t n = st->n, q_dim = (size_t)d->n_head * d->head_dim, kv_dim = (size_t)d->n_kv_head * d->head_dim;
    each_row(st, n, rows_embed);
    for (st->layer = 0; st->layer < d->n_layer; st->layer++) {
        const struct layer *l = &d->layers[st->layer];
        st->norm = l->attn_norm;
        each_row(st, n, rows_norm);
        ops_matmul(c, d->h, n,
                   (struct matmul_job[]){
                       {.w = &l->q, .bias = l->q_bias, .y = d->q, .ld = q_dim },
                       {.w = &l->k, .bias = l->k_bias, .y = d->k, .ld = kv_dim},
                       {.w = &l->v, .bias = l->v_bias, .y = d->v, .ld = kv_dim}
        },
                   3);
        each_row(st, n, rows_rope);
        ops_attention(c, &(struct attention){.q = d->q,
                                             .keys = st->s->keys + st->layer * st->s->layer_floats,
                                             .values = st->s->values + st->layer * st->s->layer_floats,
                                             .out = d->mixed,
                                             .rows = n,
                                             .first = st->first,
                                             .capacity = st->s->capacity,
                                             .n_head = d->n_head,
                                             .n_kv_head = d->n_kv_head,
                                             .head_dim = d->head_dim,
                                             .window = d->window});
        ops_matmul(
            c, d->mixed, n,
            &(struct matmul_job){.w = &l->o, .bias = l->o_bias, .y = d->x, .ld = d->n_embd, .add = true}, 1);
        st->norm = l->ffn_norm;
        each_row(st, n, rows_norm);
        ops_matmul(
            c, d->h, n,
            (struct matmul_job[]){
                {.w = &l->gate, .y = d->gate, .ld = d->n_ff},
                {.w = &l->up,   .y = d->up,   .ld = d->n_ff}
        },
            2);
        each_row(st, n, rows_swiglu);
        ops_matmul(c, d->gate, n,
                   &(struct matmul_job){.w = &l->down, .y = d->x, .ld = d->n_embd, .add = true}, 1);
    }
    if (!n_logits)
        return;
    st->norm = d->output_norm;
    each_row(st, n, rows_norm);
    ops_matmul(c, d->h + (n - n_logits) * d->n_embd, n_logits,
               &(struct matmul_job){.w = &d->output, .y = logits, .ld = d->n_vocab}, 1);
}

enum cairn_err decoder_eval(struct decoder_seq *s, const int32_t *tokens, size_t n, bool all_logits,
                            float *logits, const struct cairn_stop *stop, struct cairn_why *why)
{
    struct decoder *d = s->d;
    if (!n)
        return cairn_fail(why, CAIRN_EINVAL, "decoder_eval: no tokens");
    if (n > s->n_ctx - s->len)
        return cairn_fail(why, CAIRN_EFULL,
                          "%zu tokens after %u do not fit in a context of %u; shorten the prompt", n, s->len,
                          s->n_ctx);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= d->n_vocab)
            return cairn_fail(why, CAIRN_EINVAL, "token %" PRId32 " at %zu is not in 0..%u", tokens[i], i,
                              d->n_vocab - 1);
    enum cairn_err err = cairn_stopped(stop, why);
    if (err)
        return err;
    pthread_mutex_lock(&d->lock);
    for (size_t done = 0; done < n && !err;) {
        struct step st = {.d = d,
                          .s = s,
                          .tokens = tokens + done,
                          .n = n - done < DECODER_PIECE ? n - done : DECODER_PIECE,
                          .first = s->len + done};
        bool last = done + st.n == n;
        size_t n_logits = !logits ? 0 : all_logits ? st.n : last;
        run_piece(&st, logits && all_logits ? logits + done * d->n_vocab : logits, n_logits);
        done += st.n;
        if (!last)
            err = cairn_stopped(stop, why);
    }
    if (!err)
        s->len += (uint32_t)n;
    pthread_mutex_unlock(&d->lock);
    return err;
}
