/* decoder_internal.h - what decoder_open.c makes and decoder.c runs. */
#ifndef CAIRN_MODEL_DECODER_INTERNAL_H
#define CAIRN_MODEL_DECODER_INTERNAL_H

#include "ops.h"

#include <pthread.h>

enum { DECODER_PIECE = 256 }; /* rows that one pass computes; longer prompts are cut */

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
    /* activations for DECODER_PIECE rows */
    float *x, *h, *q, *k, *v, *mixed, *gate, *up, *cosine, *sine;
};

struct decoder_seq {
    struct decoder *d;
    uint32_t n_ctx, len;
    size_t capacity, layer_floats;
    float *keys, *values;
};

#endif
