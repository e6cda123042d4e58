/* device.h - the seam between encoder and decoder and a module that computes on a device of its own.
 *
 * The seam is "a model opened from checked weights" and "a step over a flat batch of rows", not one
 * operation: between operations nothing crosses the bus. A module is one shared library, libcairn_cuda.so,
 * found by device.c at run time; the binary itself needs no driver. It exports const struct device_api
 * *cairn_device_open(uint32_t abi, char *why, size_t why_len); which gives NULL and a sentence when it does
 * not know the abi or finds no device.
 *
 * This header is plain C and includes nothing of ours: the module is built from it alone.
 * Threads: a model belongs to one thread at a time (its owner's lock); models are independent.
 * Errors: enum device_err; error() then has a sentence of the calling thread. After DEVICE_LOST every call on
 * that device fails until the process ends; close is still allowed.
 * Numbers: a row's result does not depend on the rows it is computed with. Rows of kind "few" are multiplied
 * with activations of 16 bits against a scale per run of 32 (weights of floats: with floats), rows of kind
 * "many" in half precision; sums are float32, keys and values half. */
#ifndef CAIRN_MODEL_DEVICE_H
#define CAIRN_MODEL_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#define DEVICE_ABI 2u
enum {
    DEVICE_PAGE = 64,     /* positions in a page of keys and values */
    DEVICE_CHOSEN = -1,   /* as a token: the one that the last step chose for the output of this row number */
    DEVICE_ROWS_FEW = 64, /* rows that one pass of the small kernels takes; more are passed over in turn */
    DEVICE_HEAD_MAX = 256, /* widest head, a multiple of 8 */
};
enum device_err {
    DEVICE_OK,
    DEVICE_NO_MEMORY,
    DEVICE_LOST,        /* the device or its driver failed */
    DEVICE_UNSUPPORTED, /* the model has a shape or type that the module does not compute */
    DEVICE_BAD_CALL,    /* the caller broke this header */
};

/* n rows of k weights as they lie in a model file; bytes NULL: absent. */
struct device_matrix {
    uint32_t type, n, k; /* type: GGUF's number */
    const void *bytes;   /* BORROWED until open returns */
};
struct device_layer {
    struct device_matrix q, k, v, o, gate, up, down;
    const float *attn_norm, *ffn_norm, *q_bias, *k_bias, *v_bias, *o_bias; /* biases may be NULL */
};
struct device_decoder_desc {
    uint32_t n_layer, n_embd, n_head, n_kv_head, head_dim, n_ff, n_vocab, n_ctx, n_rope, window;
    uint32_t n_valid;   /* tokens that may be chosen: ids below this; 0 = n_vocab */
    uint32_t halves;    /* rope pairs (i, i + n_rope / 2) instead of (2i, 2i + 1) */
    uint32_t rows_many; /* rows of a pass of the large kernels; 0 = 512 */
    uint32_t slots_max; /* sequences that one step may name; 0 = 64 */
    uint32_t n_pages;   /* of keys and values; 0 = what half of the free memory holds */
    float eps;
    const double *rope_step; /* [n_rope / 2] radians per position */
    const struct device_layer *layers;
    struct device_matrix embedding, output;
    const float *output_norm;
};

/* How one output is chosen. temperature 0: the largest logit, the lowest id of equals. Else by the rules of
 * generator/sampler.c, with draw in [0, 1) from the caller's generator. */
struct device_choice {
    float temperature, top_p, min_p;
    uint32_t top_k; /* 0: all */
    double draw;
};
/* Rows in the order of their positions within each sequence. A row's keys and values are written to its page
 * before any row of the step reads them. */
struct device_step {
    uint32_t n_rows, n_many;           /* the last n_many rows are of kind "many": pieces of prompts */
    const int32_t *tokens, *positions; /* [n_rows] */
    const int32_t *slots;              /* [n_rows] row of `tables` */
    const int32_t *tables;             /* [n_slots][tables_ld] page numbers, -1: none yet */
    uint32_t n_slots, tables_ld;       /* tables_ld * DEVICE_PAGE > every position */
    const uint32_t *wanted;            /* [n_wanted] row numbers, ascending, whose outputs are asked for */
    uint32_t n_wanted;
    const struct device_choice *choices; /* [n_wanted] or NULL: all with temperature 0 */
    float *logits;                       /* [n_wanted][n_vocab] or NULL */
    int32_t *chosen;                     /* [n_wanted] or NULL. With neither, the call returns at once. */
};

struct device_norm {
    const float *w, *b;
};
struct device_dense {
    struct device_matrix w;
    const float *b;
};
struct device_encoder_layer {
    struct device_dense q, k, v, o, up, down;
    struct device_norm attn_norm, out_norm;
};
struct device_encoder_desc {
    uint32_t n_layer, dim, n_head, n_ff, n_vocab, n_positions, n_types;
    uint32_t tokens_max; /* in one forward */
    uint32_t rows_many;  /* as above */
    float eps;
    struct device_matrix words, positions, types;
    struct device_norm embedding_norm;
    const struct device_encoder_layer *layers;
};
enum device_take { DEVICE_TAKE_ALL, DEVICE_TAKE_MEAN, DEVICE_TAKE_FIRST };

struct device_decoder;
struct device_encoder;
struct device_api {
    uint32_t abi;
    const char *backend; /* "cuda" */
    const char *device;  /* for people: name, architecture, memory */
    const char *(*error)(void);
    int (*memory)(uint64_t *available, uint64_t *total);
    /* Bytes per second of a kernel that only reads: what decode is measured against. */
    int (*bandwidth)(uint64_t bytes, double *bytes_per_s);

    int (*decoder_open)(struct device_decoder **out, const struct device_decoder_desc *desc);
    void (*decoder_close)(struct device_decoder *d); /* NULL is fine */
    uint32_t (*decoder_pages)(const struct device_decoder *d);
    int (*decoder_step)(struct device_decoder *d, const struct device_step *s);
    /* The whole page `from` into page `to`, before what the next step does. */
    int (*decoder_copy)(struct device_decoder *d, uint32_t to, uint32_t from);

    int (*encoder_open)(struct device_encoder **out, const struct device_encoder_desc *desc);
    void (*encoder_close)(struct device_encoder *e);
    /* ids [sum of lens], types may be NULL; out: [sum of lens, dim], or [n_seqs, dim] for MEAN and FIRST. */
    int (*encoder_forward)(struct device_encoder *e, const int32_t *ids, const int32_t *types,
                           const size_t *lens, size_t n_seqs, int take, float *out);
};

#endif
