/* decoder_internal.h - what decoder_open.c makes and decoder.c runs. */
#ifndef CAIRN_MODEL_DECODER_INTERNAL_H
#define CAIRN_MODEL_DECODER_INTERNAL_H

#include "decoder_arch.h"
#include "ops.h"
#include "prefix.h"

#include <pthread.h>

struct layer {
    struct weight q, k, v, o, gate, up, down;
    struct weight router, *experts; /* OWNED: gate, up, down of each; NULL: dense */
    float *attn_norm, *ffn_norm, *q_bias, *k_bias, *v_bias, *o_bias; /* OWNED; biases may be NULL */
    float *q_norm, *k_norm, *attn_post_norm, *ffn_post_norm; /* OWNED; NULL where the architecture has none */
};

/* Scratch of a mixture: what the router says of each row, and one expert's rows. */
struct decoder_moe {
    float *logits, *shares, *in, *out;
    uint32_t *chosen, *from;
};

struct decoder {
    pthread_mutex_t lock;
    bool lock_ready;
    const struct decoder_arch *arch;
    struct model_file *file;
    struct tokenizer *tokenizer; /* NULL: the file has none (tests) */
    enum chat_template template; /* the card's, else what the file looks like */
    char *name;
    uint32_t n_layer, n_embd, n_head, n_kv_head, head_dim, n_ff, n_vocab, n_ctx, n_rope, window;
    uint32_t n_expert, n_expert_used, local_every; /* as decoder_arch's, or the file's own */
    float eps;
    struct layer *layers;
    struct weight embedding, output;
    float *output_norm;
    double *rope_step; /* [n_rope / 2] radians per position; behind them those of local layers, if any */
    size_t weight_bytes;
    struct compute compute;
    /* activations for DECODER_ROWS_MAX rows */
    float *x, *h, *q, *k, *v, *mixed, *gate, *up, *cosine, *sine;
    struct decoder_moe moe;

    pthread_mutex_t kv_lock; /* guards the two below; taken after lock, or alone */
    struct kv_pool *kv;
    struct prefix *prefix;
    struct decoder_device *device; /* NULL: the CPU computes */
    /* the step that runs: its rows, those of few-rows items first, and its items' attention */
    struct row {
        int32_t token;
        uint32_t position;
        const uint32_t *table;
    } rows[DECODER_ROWS_MAX];
    struct attention_item items[DECODER_ITEMS_MAX];
};

/* Layers that see a window only, and turn by other angles, where an architecture has both kinds. */
static inline bool layer_is_local(const struct decoder *d, uint32_t layer)
{
    return d->local_every && (layer + 1) % d->local_every != 0;
}
static inline uint32_t layer_window(const struct decoder *d, uint32_t layer)
{
    return !d->local_every || layer_is_local(d, layer) ? d->window : 0;
}
/* Angles kept for each row: one set, or two. */
static inline size_t rope_sets(const struct decoder *d) { return d->local_every ? 2 : 1; }

/* Adds the experts' answer for rows of d->h to d->x. */
void decoder_experts(struct decoder *d, const struct layer *l, size_t n_few, size_t n_many);

struct decoder_seq {
    struct decoder *d;
    uint32_t n_ctx, len, reserved, n_pages;
    bool elsewhere;   /* its keys and values are a device's: compute them again when that is gone */
    int32_t *tokens;  /* [n_ctx], for that; NULL without a device */
    uint32_t table[]; /* [n_pages], room for n_ctx */
};

/* The pool of pages and the cache of prefixes; may cut n_ctx down to what o->kv_bytes hold. */
CAIRN_MUST_USE enum cairn_err decoder_kv_open(struct decoder *d, const struct model_opts *o,
                                              struct cairn_why *why);

#endif
