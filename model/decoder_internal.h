/* decoder_internal.h - what decoder_open.c makes and decoder.c runs. */
#ifndef CAIRN_MODEL_DECODER_INTERNAL_H
#define CAIRN_MODEL_DECODER_INTERNAL_H

#include "ops.h"
#include "prefix.h"

#include <pthread.h>

struct layer {
    struct weight q, k, v, o, gate, up, down;
    float *attn_norm, *ffn_norm, *q_bias, *k_bias, *v_bias, *o_bias; /* OWNED; biases may be NULL */
};

struct decoder {
    pthread_mutex_t lock;
    bool lock_ready, halves;
    struct model_file *file;
    struct tokenizer *tokenizer; /* NULL: the file has none (tests) */
    char *name;
    uint32_t n_layer, n_embd, n_head, n_kv_head, head_dim, n_ff, n_vocab, n_ctx, n_rope, window;
    float eps;
    struct layer *layers;
    struct weight embedding, output;
    float *output_norm;
    double *rope_step; /* [n_rope / 2] radians per position */
    size_t weight_bytes;
    struct compute compute;
    /* activations for DECODER_ROWS_MAX rows */
    float *x, *h, *q, *k, *v, *mixed, *gate, *up, *cosine, *sine;

    pthread_mutex_t kv_lock; /* guards the two below; taken after lock, or alone */
    struct kv_pool *kv;
    struct prefix *prefix;
    /* the step that runs: its rows, those of few-rows items first, and its items' attention */
    struct row {
        int32_t token;
        uint32_t position;
        const uint32_t *table;
    } rows[DECODER_ROWS_MAX];
    struct attention_item items[DECODER_ITEMS_MAX];
};

struct decoder_seq {
    struct decoder *d;
    uint32_t n_ctx, len, reserved, n_pages;
    uint32_t table[]; /* [n_pages], room for n_ctx */
};

/* The pool of pages and the cache of prefixes; may cut n_ctx down to what o->kv_bytes hold. */
CAIRN_MUST_USE enum cairn_err decoder_kv_open(struct decoder *d, const struct model_opts *o,
                                              struct cairn_why *why);

#endif
