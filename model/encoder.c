/* encoder.c - the BERT family: embedders (mean or [CLS] pooling) and pair models (pooler and classifier),
 * from safetensors with the names of the original, or from GGUF (architecture bert); and nomic-bert, which
 * turns queries and keys instead of adding positions, has a SiLU gate and no biases.
 *
 * No padding: the tokens of all sequences of a batch are the rows of one matrix, so products run on [tokens,
 * dim] and only attention looks at where a sequence begins and ends. Weights are packed once at open when the
 * backend has a packed form. With packed weights (avx512), and on scalar, the result of a text does not
 * depend on what it is batched with; avx2 takes another way from OPS_ROWS_FEW rows on, and blas promises
 * nothing.
 *
 * Threads: encoder.lock is held while a turn of at most TURN_TOKENS per thread is computed; tokenising
 * happens outside it. A turn that fits one room is computed by all threads together, range by range. A larger
 * one is cut into batches, and a thread takes a batch through all layers in a room of its own: nobody waits
 * for anybody, and a batch's rows stay in that core's cache. */
#include "device_host.h"
#include "ops.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    TURN_TOKENS = 1024,
    BATCH_TOKENS = 256, /* a batch ends with the sequence that reaches this: weights are read once a batch */
    ROOM_TOKENS = 512,  /* or the longest sequence, if that is more */
    MAX_TOKENS_MAX = 2048, /* longest sequence we accept from a card */
    LAYERS_MAX = 128,
    DIM_MAX = 8192,
    FF_MAX = 65536,
    HEAD_DIM_MAX = 512,
    RANK_MAX = 512,
    ROWS_GRAIN = 16,
};

struct norm {
    float *w, *b;
};
struct dense {
    struct weight w;
    float *b;
};
struct layer {
    struct dense q, k, v, o, gate, up, down; /* gate: rotary models */
    struct norm attn_norm, out_norm;
};

/* Where a batch is computed. */
struct room {
    struct compute compute;
    float *x, *q, *k, *v, *mixed, *inner, *gate, *pooled, *pooled2; /* gate: rotary */
    float *heads; /* per worker: keys (turned) and values of one head of one sequence */
};

struct encoder {
    pthread_mutex_t lock;
    bool lock_ready, normalize, rotary;
    enum encoder_pooling pooling;
    struct model_file *file, *over; /* over: what an overlay changes, or NULL */
    float **merged;                 /* matrices that it changed */
    size_t n_merged;
    struct tokenizer *tokenizer;
    char *name, *query_prefix;
    uint32_t n_layer, dim, n_head, head_dim, n_ff, n_vocab, n_positions, n_types, max_tokens;
    int32_t cls, sep;
    float eps;
    struct weight words, positions, types;
    float *cosine, *sine; /* OWNED, rotary: [max_tokens][head_dim / 2] */
    struct norm embedding_norm;
    struct layer *layers;
    struct dense pooler, classifier; /* w.bytes NULL: none */
    struct cairn_pool *pool;         /* BORROWED */
    struct room together, *alone;    /* alone: [n_alone], none when there is one thread */
    size_t n_alone, room_tokens, head_floats;
    const struct device_api *api;  /* of the device below */
    struct device_encoder *device; /* NULL: the CPU computes; so it does again when the device fails */
    atomic_bool on_device;         /* the same, for who only asks */
};

/* ---- open
 * ------------------------------------------------------------------------------------------------------- */

/* Names differ by format; %u is the layer. */
enum part {
    WORDS,
    POSITIONS,
    TYPES,
    EMB_NORM,
    ATTN_Q,
    ATTN_K,
    ATTN_V,
    ATTN_QKV,
    ATTN_O,
    ATTN_NORM,
    FFN_UP,
    FFN_GATE,
    FFN_DOWN,
    OUT_NORM,
    POOLER,
    CLASSIFIER
};
static const char *const names[][3] = {
  /* of the original, in GGUF, of nomic-bert where they differ; "": never there */
    [WORDS] = {"embeddings.word_embeddings",                  "token_embd",               ""                           },
    [POSITIONS] = {"embeddings.position_embeddings",              "position_embd",            ""                           },
    [TYPES] = {"embeddings.token_type_embeddings",            "token_types",              ""                           },
    [EMB_NORM] = {"embeddings.LayerNorm",                        "token_embd_norm",          "emb_ln"                     },
    [ATTN_Q] = {"encoder.layer.%u.attention.self.query",       "blk.%u.attn_q",            ""                           },
    [ATTN_K] = {"encoder.layer.%u.attention.self.key",         "blk.%u.attn_k",            ""                           },
    [ATTN_V] = {"encoder.layer.%u.attention.self.value",       "blk.%u.attn_v",            ""                           },
    [ATTN_QKV] = {"",                                            "blk.%u.attn_qkv",          "encoder.layers.%u.attn.Wqkv"},
    [ATTN_O] = {"encoder.layer.%u.attention.output.dense",     "blk.%u.attn_output",
               "encoder.layers.%u.attn.out_proj"                                                                       },
    [ATTN_NORM] = {"encoder.layer.%u.attention.output.LayerNorm", "blk.%u.attn_output_norm",
               "encoder.layers.%u.norm1"                                                                               },
    [FFN_UP] = {"encoder.layer.%u.intermediate.dense",         "blk.%u.ffn_up",            "encoder.layers.%u.mlp.fc11" },
    [FFN_GATE] = {"",                                            "blk.%u.ffn_gate",          "encoder.layers.%u.mlp.fc12" },
    [FFN_DOWN] = {"encoder.layer.%u.output.dense",               "blk.%u.ffn_down",          "encoder.layers.%u.mlp.fc2"  },
    [OUT_NORM] = {"encoder.layer.%u.output.LayerNorm",           "blk.%u.layer_output_norm", "encoder.layers.%u.norm2"    },
    [POOLER] = {"pooler.dense",                                "cls",                      ""                           },
    [CLASSIFIER] = {"classifier",                                  "cls.output",               ""                           },
};

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
/* The tensor of a part, with or without the prefix "bert."; `full` gets the name for messages. */
static const struct model_tensor *find(const struct encoder *e, enum part part, uint32_t layer,
                                       const char *what, char full[128])
{
    const struct model_tensor *t = NULL;
    for (int form = 0; form < 4 && !t; form++) {
        char name[96];
        snprintf(name, sizeof name, names[part][form < 2 ? 0 : form - 1], layer);
        snprintf(full, 128, "%s%s.%s", form == 1 ? "bert." : "", name, what);
        t = model_file_tensor(e->file, full);
    }
    if (!t) {
        char name[96];
        const char *rotary = names[part][2];
        snprintf(name, sizeof name, e->rotary && *rotary ? rotary : names[part][0], layer);
        snprintf(full, 128, "%s.%s", name, what);
    }
    return t;
}
/* A tensor of the overlay, named as the original format does; NULL: not changed. */
static const struct model_tensor *find_over(const struct encoder *e, enum part part, uint32_t layer,
                                            const char *what, char full[128])
{
    char name[96];
    if (!e->over)
        return NULL;
    snprintf(name, sizeof name, names[part][0], layer);
    snprintf(full, 128, "%s.%s", name, what);
    return model_file_tensor(e->over, full);
}
#pragma GCC diagnostic pop

/* An overlay's change of low rank: W + B A, with A [rank, k] as "NAME.a" and B [n, rank] as "NAME.b". */
static enum cairn_err merge(struct encoder *e, struct weight *w, enum part part, uint32_t layer,
                            struct cairn_why *why)
{
    char name[128], other[128];
    const struct model_tensor *a = find_over(e, part, layer, "a", name),
                              *b = find_over(e, part, layer, "b", other);
    if (!a && !b)
        return CAIRN_OK;
    uint64_t rank = a && a->n_dims == 2 ? a->dims[1] : 0;
    if (!b || !rank || rank > RANK_MAX || a->dims[0] != w->k || b->n_dims != 2 || b->dims[0] != rank ||
        b->dims[1] != w->n)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "the overlay's %s and its pair \".b\" do not make a change of [%zu, %zu]", name,
                          w->k, w->n);
    size_t bytes;
    float *to = cairn_mul(w->n, w->k * sizeof(float), &bytes) ? cairn_aligned(64, bytes + 64) : NULL,
          *fa = cairn_reallocarray(NULL, rank * w->k, sizeof *fa),
          *fb = cairn_reallocarray(NULL, rank * w->n, sizeof *fb);
    float **list = cairn_reallocarray(e->merged, e->n_merged + 1, sizeof *list);
    if (list)
        e->merged = list;
    enum cairn_err err = CAIRN_OK;
    if (!to || !fa || !fb || !list) {
        cairn_free(to);
        err = cairn_fail(why, CAIRN_ENOMEM, "tensor %s", name);
    } else {
        e->merged[e->n_merged++] = to;
        tensor_dequantize(a->type, a->bytes, fa, rank * w->k);
        tensor_dequantize(b->type, b->bytes, fb, rank * w->n);
        for (size_t i = 0; i < w->n; i++) {
            float *row = to + i * w->k;
            weight_row(w, i, row);
            for (size_t r = 0; r < rank; r++) {
                float f = fb[i * rank + r];
                for (size_t j = 0; j < w->k; j++)
                    row[j] += f * fa[r * w->k + j];
            }
        }
        w->type = TENSOR_F32;
        w->row_bytes = w->k * sizeof(float);
        w->bytes = (const uint8_t *)to;
    }
    cairn_free(fa);
    cairn_free(fb);
    return err;
}

static enum cairn_err matrix(struct encoder *e, struct weight *w, enum part part, uint32_t layer, uint64_t k,
                             uint64_t n, struct cairn_why *why)
{
    char name[128];
    const struct model_tensor *t = find(e, part, layer, "weight", name);
    if (!t)
        return cairn_fail(why, CAIRN_ECORRUPT, "tensor %s is missing; the file is not a complete encoder",
                          name);
    uint64_t rows = t->n_dims > 1 ? t->dims[1] : 1; /* a single output may be stored as a vector */
    if (t->n_dims > 2 || t->dims[0] != k || (n && rows != n))
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "tensor %s is [%" PRIu64 ", %" PRIu64 "], expected [%" PRIu64 ", %" PRIu64 "]",
                          name, t->dims[0], rows, k, n);
    weight_init(w, t);
    if (!w->row_bytes || w->row_bytes * rows != t->n_bytes)
        return cairn_fail(why, CAIRN_ECORRUPT, "tensor %s: %zu bytes are not %" PRIu64 " rows of %zu", name,
                          t->n_bytes, rows, w->row_bytes);
    return merge(e, w, part, layer, why);
}

static enum cairn_err vector(struct encoder *e, float **out, enum part part, uint32_t layer, const char *what,
                             uint64_t n, struct cairn_why *why)
{
    char name[128];
    const struct model_tensor *t = find_over(e, part, layer, what, name);
    if (!t)
        t = find(e, part, layer, what, name);
    if (!t)
        return cairn_fail(why, CAIRN_ECORRUPT, "tensor %s is missing; the file is not a complete encoder",
                          name);
    if (t->n_dims > 1 || (t->n_dims ? t->dims[0] : 1) != n || !t->n_bytes ||
        tensor_type_bytes(t->type, n) != t->n_bytes)
        return cairn_fail(why, CAIRN_ECORRUPT, "tensor %s does not have %" PRIu64 " elements", name, n);
    *out = cairn_aligned(64, n * sizeof(float) + 64);
    if (!*out)
        return cairn_fail(why, CAIRN_ENOMEM, "tensor %s", name);
    tensor_dequantize(t->type, t->bytes, *out, n);
    return CAIRN_OK;
}

static enum cairn_err read_dense(struct encoder *e, struct dense *d, enum part part, uint32_t layer,
                                 uint64_t k, uint64_t n, struct cairn_why *why)
{
    enum cairn_err err = matrix(e, &d->w, part, layer, k, n, why);
    return err || e->rotary ? err : vector(e, &d->b, part, layer, "bias", n, why);
}
static enum cairn_err read_norm(struct encoder *e, struct norm *n, enum part part, uint32_t layer,
                                struct cairn_why *why)
{
    enum cairn_err err = vector(e, &n->w, part, layer, "weight", e->dim, why);
    return err ? err : vector(e, &n->b, part, layer, "bias", e->dim, why);
}

/* Queries, keys and values of a rotary model lie in one matrix, in that order. */
static enum cairn_err read_qkv(struct encoder *e, struct layer *l, uint32_t i, struct cairn_why *why)
{
    enum cairn_err err;
    if (!e->rotary) {
        if ((err = read_dense(e, &l->q, ATTN_Q, i, e->dim, e->dim, why)) ||
            (err = read_dense(e, &l->k, ATTN_K, i, e->dim, e->dim, why)))
            return err;
        return read_dense(e, &l->v, ATTN_V, i, e->dim, e->dim, why);
    }
    struct dense *parts[] = {&l->q, &l->k, &l->v};
    for (size_t j = 0; j < 3; j++) {
        struct weight *w = &parts[j]->w;
        if ((err = matrix(e, w, ATTN_QKV, i, e->dim, 3 * (uint64_t)e->dim, why)))
            return err;
        w->bytes += j * e->dim * w->row_bytes;
        w->n = e->dim;
    }
    return read_dense(e, &l->gate, FFN_GATE, i, e->dim, e->n_ff, why);
}

/* The file's own number for a key of its architecture. */
static const char *gguf_key(const struct encoder *e, const char *key, char full[64])
{
    snprintf(full, 64, "%s.%s", e->rotary ? "nomic-bert" : "bert", key);
    return full;
}

static enum cairn_err read_rotary(struct encoder *e, struct cairn_why *why)
{
    char key[64];
    double base = 1000.0;
    size_t half = e->head_dim / 2;
    (void)model_file_float(e->file, gguf_key(e, "rope.freq_base", key), &base);
    if (!(base > 0 && base < 1e15) || e->head_dim % 2)
        return cairn_fail(why, CAIRN_ECORRUPT, "rope base %g or head width %u cannot be turned", base,
                          e->head_dim);
    e->cosine = cairn_reallocarray(NULL, e->max_tokens * half, sizeof *e->cosine);
    e->sine = cairn_reallocarray(NULL, e->max_tokens * half, sizeof *e->sine);
    if (!e->cosine || !e->sine)
        return cairn_fail(why, CAIRN_ENOMEM, "angles of %u positions", e->max_tokens);
    for (size_t i = 0; i < e->max_tokens * half; i++) {
        double angle = (double)(i / half) * pow(base, -(double)(i % half) / (double)half);
        e->cosine[i] = (float)cos(angle);
        e->sine[i] = (float)sin(angle);
    }
    return CAIRN_OK;
}

/* Width, depth and vocabulary come from the tensors, the rest from the card, or from the GGUF file where the
 * card is silent. */
static enum cairn_err read_hyper(struct encoder *e, const struct model_card *card, struct cairn_why *why)
{
    char name[128], key[64];
    e->rotary = find(e, ATTN_QKV, 0, "weight", name) && !find(e, POSITIONS, 0, "weight", name);
    const struct model_tensor *words = find(e, WORDS, 0, "weight", name);
    if (!words || words->n_dims != 2 || !words->dims[0] || words->dims[0] > DIM_MAX || !words->dims[1] ||
        words->dims[1] > INT32_MAX)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "tensor %s is missing or not a table of words; an encoder is a BERT model", name);
    e->dim = (uint32_t)words->dims[0];
    e->n_vocab = (uint32_t)words->dims[1];
    while (e->n_layer < LAYERS_MAX && find(e, e->rotary ? ATTN_QKV : ATTN_Q, e->n_layer, "weight", name))
        e->n_layer++;
    const struct model_tensor *up = find(e, FFN_UP, 0, "weight", name);
    if (!e->n_layer || !up || up->n_dims != 2 || !up->dims[1] || up->dims[1] > FF_MAX)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "tensor %s is missing or out of range; the file is not a complete encoder", name);
    e->n_ff = (uint32_t)up->dims[1];
    int64_t heads = card->n_head, longest = card->max_tokens, pooling = card->pooling;
    double eps = card->layer_norm_eps;
    if (!heads)
        (void)model_file_int(e->file, gguf_key(e, "attention.head_count", key), &heads);
    if (!(eps > 0) && !model_file_float(e->file, gguf_key(e, "attention.layer_norm_epsilon", key), &eps))
        eps = 1e-12;
    if (pooling == POOL_NONE && model_file_int(e->file, gguf_key(e, "pooling_type", key), &pooling))
        pooling = pooling == 4 ? POOL_RANK : pooling;
    if (heads < 1 || heads > e->dim || e->dim % heads || e->dim / heads > HEAD_DIM_MAX)
        return cairn_fail(why, CAIRN_ECORRUPT, "n_head %" PRId64 " does not fit a width of %u; mend the card",
                          heads, e->dim);
    if (!(eps > 0 && eps < 1))
        return cairn_fail(why, CAIRN_ECORRUPT, "layer_norm_eps %g is not in (0, 1); mend the card", eps);
    if (pooling < POOL_NONE || pooling > POOL_RANK)
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "pooling %" PRId64 " is not none, mean, cls or rank",
                          pooling);
    e->n_head = (uint32_t)heads;
    e->head_dim = e->dim / e->n_head;
    e->eps = (float)eps;
    e->pooling = (enum encoder_pooling)pooling;
    enum cairn_err err;
    if ((err = matrix(e, &e->words, WORDS, 0, e->dim, e->n_vocab, why)) ||
        (!e->rotary && (err = matrix(e, &e->positions, POSITIONS, 0, e->dim, 0, why))) ||
        (err = matrix(e, &e->types, TYPES, 0, e->dim, 0, why)))
        return err;
    e->n_positions = e->rotary ? MAX_TOKENS_MAX : (uint32_t)e->positions.n;
    e->n_types = (uint32_t)e->types.n;
    if (!longest)
        longest = e->n_positions < 512 ? e->n_positions : 512;
    if (longest < 4 || longest > e->n_positions || longest > MAX_TOKENS_MAX)
        return cairn_fail(why, CAIRN_ECORRUPT, "max_tokens %" PRId64 " is not in 4..%u; mend the card",
                          longest, e->n_positions < MAX_TOKENS_MAX ? e->n_positions : MAX_TOKENS_MAX);
    e->max_tokens = (uint32_t)longest;
    return e->rotary ? read_rotary(e, why) : CAIRN_OK;
}

static enum cairn_err read_weights(struct encoder *e, struct cairn_why *why)
{
    enum cairn_err err = read_norm(e, &e->embedding_norm, EMB_NORM, 0, why);
    e->layers = cairn_calloc(e->n_layer, sizeof *e->layers);
    if (!e->layers)
        return cairn_fail(why, CAIRN_ENOMEM, "%u layers", e->n_layer);
    for (uint32_t i = 0; i < e->n_layer && !err; i++) {
        struct layer *l = &e->layers[i];
        if ((err = read_qkv(e, l, i, why)) || (err = read_dense(e, &l->o, ATTN_O, i, e->dim, e->dim, why)) ||
            (err = read_norm(e, &l->attn_norm, ATTN_NORM, i, why)) ||
            (err = read_dense(e, &l->up, FFN_UP, i, e->dim, e->n_ff, why)) ||
            (err = read_dense(e, &l->down, FFN_DOWN, i, e->n_ff, e->dim, why)))
            break;
        err = read_norm(e, &l->out_norm, OUT_NORM, i, why);
    }
    char name[128];
    const struct model_tensor *head = err ? NULL : find(e, CLASSIFIER, 0, "weight", name);
    /* more outputs than one are of another task, and read by who knows it (encoder_extra) */
    if (head && (head->n_dims < 2 || head->dims[1] == 1)) {
        err = read_dense(e, &e->pooler, POOLER, 0, e->dim, e->dim, why);
        if (!err)
            err = read_dense(e, &e->classifier, CLASSIFIER, 0, e->dim, 1, why);
    }
    return err;
}

static float *floats(size_t rows, size_t n)
{
    size_t bytes;
    return cairn_mul(rows, n * sizeof(float), &bytes) ? cairn_aligned(64, bytes + 64) : NULL;
}

static void room_release(struct room *r)
{
    float *all[] = {r->x, r->q, r->k, r->v, r->mixed, r->inner, r->gate, r->pooled, r->pooled2, r->heads};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        cairn_free(all[i]);
    compute_release(&r->compute);
}

static enum cairn_err room_init(const struct encoder *e, struct room *r, const struct model_opts *o,
                                struct cairn_why *why)
{
    size_t n = e->room_tokens;
    enum cairn_err err =
        compute_init(&r->compute, o, n, e->n_ff > e->dim ? e->n_ff : e->dim, e->max_tokens, why);
    if (err)
        return err;
    size_t heads = r->compute.n_threads * 2 * r->compute.scores_ld;
    float **rows[] = {&r->x, &r->q, &r->k, &r->v, &r->mixed, &r->pooled, &r->pooled2};
    bool room = (r->inner = floats(n, e->n_ff)) && (r->gate = floats(e->rotary ? n : 0, e->n_ff)) &&
                (r->heads = floats(heads, e->head_dim));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        room = (*rows[i] = floats(n, e->dim)) && room;
    if (!room)
        return cairn_fail(why, CAIRN_ENOMEM, "activations for %zu tokens of width %u", n, e->dim);
    memset(r->heads, 0, heads * e->head_dim * sizeof(float));
    return CAIRN_OK;
}

static enum cairn_err make_rooms(struct encoder *e, const struct model_opts *o, struct cairn_why *why)
{
    e->pool = o->pool;
    e->room_tokens = e->max_tokens > ROOM_TOKENS ? e->max_tokens : ROOM_TOKENS;
    enum cairn_err err = room_init(e, &e->together, o, why);
    const struct compute *c = &e->together.compute;
    if (!err && c->n_threads > 1) {
        struct model_opts one = *o;
        one.pool = NULL;
        e->alone = cairn_calloc(c->n_threads, sizeof *e->alone);
        e->n_alone = e->alone ? c->n_threads : 0;
        if (!e->alone)
            err = cairn_fail(why, CAIRN_ENOMEM, "rooms of %u threads", c->n_threads);
        for (size_t i = 0; i < e->n_alone && !err; i++)
            err = room_init(e, &e->alone[i], &one, why);
    }
    if (err)
        return err;
    e->head_floats = 2 * c->scores_ld * e->head_dim;
    for (uint32_t i = 0; i < e->n_layer; i++) {
        struct layer *l = &e->layers[i];
        struct weight *qkv[] = {&l->q.w, &l->k.w, &l->v.w}, *mixed[] = {&l->o.w},
                      *up[] = {&l->up.w, &l->gate.w}, *down[] = {&l->down.w};
        if (!weights_pack(c, qkv, 3) || !weights_pack(c, mixed, 1) ||
            !weights_pack(c, up, e->rotary ? 2 : 1) || !weights_pack(c, down, 1))
            return cairn_fail(why, CAIRN_ENOMEM, "packed weights of layer %u", i);
    }
    /* the head too, so that a pair's logit does not depend on how many pairs are scored with it */
    if (e->classifier.w.bytes && (!weights_pack(c, (struct weight *[]){&e->pooler.w}, 1) ||
                                  !weights_pack(c, (struct weight *[]){&e->classifier.w}, 1)))
        return cairn_fail(why, CAIRN_ENOMEM, "packed weights of the classifier");
    return CAIRN_OK;
}

/* The overlay is made for one file: "base_sha256" of its metadata is the card's. */
static enum cairn_err open_over(struct encoder *e, const struct model_card *card, const char *overlay,
                                struct cairn_why *why)
{
    struct cairn_str base;
    enum cairn_err err = model_file_open(&e->over, overlay, why);
    if (err)
        return cairn_wrap(why, err, "%s", overlay);
    if (!model_file_string(e->over, "base_sha256", &base) || !card->sha256 ||
        base.len != strlen(card->sha256) || memcmp(base.p, card->sha256, base.len) != 0)
        return cairn_fail(
            why, CAIRN_ECORRUPT,
            "%s is not made for this model: its base_sha256 is not that of %s; fetch both again", overlay,
            card->name);
    return CAIRN_OK;
}

enum cairn_err encoder_extra(const struct encoder *e, const char *name, float *out, size_t n,
                             struct cairn_why *why)
{
    const struct model_tensor *t = model_file_tensor(e->over ? e->over : e->file, name);
    uint64_t have = t ? 1 : 0;
    for (uint32_t i = 0; t && i < t->n_dims; i++)
        have *= t->dims[i];
    if (!t || have != n || tensor_type_bytes(t->type, n) != t->n_bytes)
        return cairn_fail(why, CAIRN_ECORRUPT, "%s: %s has no tensor %s of %zu numbers", e->name,
                          e->over ? "the overlay" : "its file", name, n);
    tensor_dequantize(t->type, t->bytes, out, n);
    return CAIRN_OK;
}

static struct device_dense device_dense_of(const struct dense *d)
{
    return (struct device_dense){device_matrix_of(&d->w), d->b};
}
static struct device_norm device_norm_of(const struct norm *n) { return (struct device_norm){n->w, n->b}; }

/* The device, or a line in the log that says why not. */
static void open_device(struct encoder *e, const struct model_opts *o)
{
    const struct device_api *api = device_wanted(o, e->name);
    if (api && e->rotary) {
        device_refused(e->name, "rotary encoders are computed on the CPU");
        return;
    }
    struct device_encoder_layer *layers = api ? cairn_calloc(e->n_layer, sizeof *layers) : NULL;
    if (!api)
        return;
    for (uint32_t i = 0; layers && i < e->n_layer; i++) {
        const struct layer *l = &e->layers[i];
        layers[i] = (struct device_encoder_layer){.q = device_dense_of(&l->q),
                                                  .k = device_dense_of(&l->k),
                                                  .v = device_dense_of(&l->v),
                                                  .o = device_dense_of(&l->o),
                                                  .up = device_dense_of(&l->up),
                                                  .down = device_dense_of(&l->down),
                                                  .attn_norm = device_norm_of(&l->attn_norm),
                                                  .out_norm = device_norm_of(&l->out_norm)};
    }
    e->api = api;
    if (!layers)
        device_refused(e->name, "no memory");
    else if (api->encoder_open(&e->device, &(struct device_encoder_desc){
                                               .n_layer = e->n_layer,
                                               .dim = e->dim,
                                               .n_head = e->n_head,
                                               .n_ff = e->n_ff,
                                               .n_vocab = e->n_vocab,
                                               .n_positions = e->n_positions,
                                               .n_types = e->n_types,
                                               .tokens_max = (uint32_t)e->room_tokens,
                                               .rows_many = (uint32_t)e->room_tokens,
                                               .eps = e->eps,
                                               .words = device_matrix_of(&e->words),
                                               .positions = device_matrix_of(&e->positions),
                                               .types = device_matrix_of(&e->types),
                                               .embedding_norm = device_norm_of(&e->embedding_norm),
                                               .layers = layers}))
        device_refused(e->name, api->error());
    atomic_store(&e->on_device, e->device != NULL);
    cairn_free(layers);
}

enum cairn_err encoder_open(struct encoder **out, const struct model_card *card, const struct model_opts *o,
                            struct cairn_why *why)
{
    return encoder_open_over(out, card, NULL, o, why);
}

enum cairn_err encoder_open_over(struct encoder **out, const struct model_card *card, const char *overlay,
                                 const struct model_opts *o, struct cairn_why *why)
{
    static const struct model_opts defaults;
    *out = NULL;
    o = o ? o : &defaults;
    if (!card || !card->path || !card->name)
        return cairn_fail(why, CAIRN_EINVAL, "encoder_open: a card needs a name and a path");
    struct encoder *e = cairn_calloc(1, sizeof *e);
    if (!e)
        return cairn_fail(why, CAIRN_ENOMEM, "encoder handle");
    enum cairn_err err = CAIRN_OK;
    if (pthread_mutex_init(&e->lock, NULL)) {
        err = cairn_fail(why, CAIRN_ENOMEM, "encoder lock");
        goto done;
    }
    e->lock_ready = true;
    e->normalize = card->normalize;
    e->name = cairn_strdup(card->name);
    e->query_prefix = cairn_strdup(card->query_prefix ? card->query_prefix : "");
    if (!e->name || !e->query_prefix) {
        err = cairn_fail(why, CAIRN_ENOMEM, "encoder name");
        goto done;
    }
    if ((err = model_file_open(&e->file, card->path, why)) ||
        (overlay && (err = open_over(e, card, overlay, why))) || (err = read_hyper(e, card, why)) ||
        (err = read_weights(e, why)) || (err = make_rooms(e, o, why)))
        goto done;
    err = card->vocab ? tokenizer_from_wordpiece(&e->tokenizer, card->vocab, card->lower_case, why)
                      : tokenizer_from_gguf(&e->tokenizer, e->file, why);
    if (err)
        goto done;
    e->cls = tokenizer_find(e->tokenizer, "[CLS]");
    e->sep = tokenizer_find(e->tokenizer, "[SEP]");
    if (tokenizer_n_vocab(e->tokenizer) > e->n_vocab || e->cls < 0 || e->sep < 0) {
        err = cairn_fail(
            why, CAIRN_ECORRUPT,
            "a vocabulary of %zu does not belong to this model: it has %u words and needs [CLS] and [SEP]",
            tokenizer_n_vocab(e->tokenizer), e->n_vocab);
        goto done;
    }
    open_device(e, o);
    *out = e;
    e = NULL;
done:
    encoder_close(e);
    return err ? cairn_wrap(why, err, "%s", card->path) : CAIRN_OK;
}

static void dense_release(struct dense *d)
{
    weight_release(&d->w);
    cairn_free(d->b);
}
static void norm_release(struct norm *n)
{
    cairn_free(n->w);
    cairn_free(n->b);
}

void encoder_close(struct encoder *e)
{
    if (!e)
        return;
    if (e->device)
        e->api->encoder_close(e->device);
    for (uint32_t i = 0; e->layers && i < e->n_layer; i++) {
        struct layer *l = &e->layers[i];
        struct dense *all[] = {&l->q, &l->k, &l->v, &l->o, &l->up, &l->down, &l->gate};
        for (size_t j = 0; j < sizeof all / sizeof all[0]; j++)
            dense_release(all[j]);
        norm_release(&l->attn_norm);
        norm_release(&l->out_norm);
    }
    cairn_free(e->layers);
    norm_release(&e->embedding_norm);
    dense_release(&e->pooler);
    dense_release(&e->classifier);
    for (size_t i = 0; i < e->n_alone; i++)
        room_release(&e->alone[i]);
    cairn_free(e->alone);
    room_release(&e->together);
    tokenizer_close(e->tokenizer);
    for (size_t i = 0; i < e->n_merged; i++)
        cairn_free(e->merged[i]);
    cairn_free(e->merged);
    cairn_free(e->cosine);
    cairn_free(e->sine);
    model_file_close(e->over);
    model_file_close(e->file);
    cairn_free(e->name);
    cairn_free(e->query_prefix);
    if (e->lock_ready)
        pthread_mutex_destroy(&e->lock);
    cairn_free(e);
}

uint32_t encoder_dim(const struct encoder *e) { return e->dim; }
const char *encoder_name(const struct encoder *e) { return e->name; }
const char *encoder_backend_name(const struct encoder *e)
{
    return atomic_load(&e->on_device) ? model_backend_name(BACKEND_CUDA) : e->together.compute.ops->name;
}
const char *encoder_query_prefix(const struct encoder *e) { return e->query_prefix; }
const struct tokenizer *encoder_tokenizer(const struct encoder *e) { return e->tokenizer; }
uint32_t encoder_max_tokens(const struct encoder *e) { return e->max_tokens; }

/* ---- a batch
 * ---------------------------------------------------------------------------------------------------- */

struct batch {
    struct encoder *e;
    struct room *room;
    const int32_t *ids, *types; /* types NULL: all 0 */
    const size_t *lens;
    size_t first_seq, first_token; /* in the call */
    size_t n_seqs, n;              /* sequences, tokens */
    const size_t *starts;          /* [n_seqs] first row of each */
    const size_t *position;        /* [n] */
    bool taken;                    /* room->x holds a row a sequence: the device has pooled */
    const struct norm *norm;
};

static void rows_embed(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct batch *b = ctx;
    struct encoder *e = b->e;
    const struct ops *ops = b->room->compute.ops;
    for (size_t r = begin; r < end; r++) {
        float *x = b->room->x + r * e->dim, *other = b->room->q + r * e->dim;
        weight_row(&e->words, (size_t)b->ids[r], x);
        if (!e->rotary) {
            weight_row(&e->positions, b->position[r], other);
            ops->add(x, other, e->dim);
        }
        weight_row(&e->types, b->types ? (size_t)b->types[r] : 0, other);
        ops->add(x, other, e->dim);
        ops->layernorm(x, x, e->embedding_norm.w, e->embedding_norm.b, e->dim, e->eps);
    }
}

static void rows_norm(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct batch *b = ctx;
    struct encoder *e = b->e;
    for (size_t r = begin; r < end; r++) {
        float *x = b->room->x + r * e->dim;
        b->room->compute.ops->layernorm(x, x, b->norm->w, b->norm->b, e->dim, e->eps);
    }
}

/* Rotary models: queries and keys by their position. */
static void rows_turn(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct batch *b = ctx;
    const struct room *room = b->room;
    const struct encoder *e = b->e;
    size_t half = e->head_dim / 2;
    for (size_t r = begin; r < end; r++)
        for (size_t at = r * e->dim; at < (r + 1) * e->dim; at += e->head_dim) {
            const float *c = e->cosine + b->position[r] * half, *s = e->sine + b->position[r] * half;
            room->compute.ops->rope(room->q + at, c, s, half, true);
            room->compute.ops->rope(room->k + at, c, s, half, true);
        }
}

static void rows_gate(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    const struct batch *b = ctx;
    const struct room *room = b->room;
    size_t n_ff = b->e->n_ff;
    for (size_t r = begin; r < end; r++)
        room->compute.ops->swiglu(room->gate + r * n_ff, room->inner + r * n_ff, n_ff);
}

/* The feed-forward's inner rows: gelu(up x), or silu(gate x) * (up x). */
static const float *run_inner(struct batch *b, const struct layer *l)
{
    const struct encoder *e = b->e;
    const struct room *room = b->room;
    const struct matmul_job jobs[] = {
        {.w = &l->up.w,
         .bias = l->up.b,
         .y = room->inner,
         .ld = e->n_ff,
         .act = e->rotary ? ACT_NONE : ACT_GELU},
        {.w = &l->gate.w, .y = room->gate, .ld = e->n_ff}
    };
    ops_matmul(&room->compute, room->x, b->n, jobs, e->rotary ? 2 : 1);
    if (!e->rotary)
        return room->inner;
    cairn_pool_run(room->compute.pool, b->n, ROWS_GRAIN, rows_gate, b);
    return room->gate;
}

/* Units are (sequence, head). */
static void heads_attend(void *ctx, size_t begin, size_t end, unsigned worker)
{
    const struct batch *b = ctx;
    const struct room *room = b->room;
    const struct compute *c = &room->compute;
    struct encoder *e = b->e;
    size_t hd = e->head_dim, dim = e->dim;
    float *keys = room->heads + worker * e->head_floats, *values = keys + e->head_floats / 2;
    for (size_t u = begin; u < end; u++) {
        size_t s = u / e->n_head, h = u % e->n_head, len = b->lens[s], at = b->starts[s] * dim + h * hd;
        for (size_t j = 0; j < len; j++)
            ops_cache_put(keys, values, hd, j, room->k + at + j * dim, room->v + at + j * dim);
        struct attend t = {.type = CACHE_F32,
                           .page_bytes = KV_PAGE * hd * sizeof(float),
                           .k = (const char *)keys,
                           .v = (const char *)values,
                           .head_dim = hd,
                           .scale = 1.0f / sqrtf((float)hd),
                           .scores = compute_scores(c, worker),
                           .scores_ld = c->scores_ld};
        for (size_t row = 0; row < len; row += t.n) {
            t.n = 0;
            for (size_t i = row; i < len && t.n < c->ops->tile; i++, t.n++) {
                t.q[t.n] = room->q + at + i * dim;
                t.out[t.n] = room->mixed + at + i * dim;
                t.lo[t.n] = 0;
                t.hi[t.n] = len;
            }
            c->ops->attend(&t);
        }
    }
}

/* Last layer's output in room->x. */
static void run_batch(struct batch *b)
{
    struct encoder *e = b->e;
    const struct room *room = b->room;
    const struct compute *c = &room->compute;
    size_t n = b->n, dim = e->dim;
    cairn_pool_run(c->pool, n, ROWS_GRAIN, rows_embed, b);
    for (uint32_t i = 0; i < e->n_layer; i++) {
        const struct layer *l = &e->layers[i];
        ops_matmul(c, room->x, n,
                   (struct matmul_job[]){
                       {.w = &l->q.w, .bias = l->q.b, .y = room->q, .ld = dim},
                       {.w = &l->k.w, .bias = l->k.b, .y = room->k, .ld = dim},
                       {.w = &l->v.w, .bias = l->v.b, .y = room->v, .ld = dim}
        },
                   3);
        if (e->rotary)
            cairn_pool_run(c->pool, n, ROWS_GRAIN, rows_turn, b);
        cairn_pool_run(c->pool, b->n_seqs * e->n_head, 1, heads_attend, b);
        ops_matmul(c, room->mixed, n,
                   &(struct matmul_job){.w = &l->o.w, .bias = l->o.b, .y = room->x, .ld = dim, .add = true},
                   1);
        b->norm = &l->attn_norm;
        cairn_pool_run(c->pool, n, ROWS_GRAIN, rows_norm, b);
        ops_matmul(
            c, run_inner(b, l), n,
            &(struct matmul_job){.w = &l->down.w, .bias = l->down.b, .y = room->x, .ld = dim, .add = true},
            1);
        b->norm = &l->out_norm;
        cairn_pool_run(c->pool, n, ROWS_GRAIN, rows_norm, b);
    }
}

/* What is taken from room->x when a batch is done. */
typedef void (*take_fn)(const struct batch *b, void *out);
static const float *first_row(const struct batch *b, size_t s)
{
    return b->room->x + (b->taken ? s : b->starts[s]) * b->e->dim;
}

/* False: no device, or it failed and is given up. The encoder's lock is held. */
static bool device_batch(struct batch *b, enum device_take take)
{
    struct encoder *e = b->e;
    if (!e->device)
        return false;
    b->taken = take != DEVICE_TAKE_ALL;
    if (!e->api->encoder_forward(e->device, b->ids, b->types, b->lens, b->n_seqs, take, b->room->x))
        return true;
    device_refused(e->name, e->api->error());
    e->api->encoder_close(e->device);
    e->device = NULL;
    atomic_store(&e->on_device, false);
    b->taken = false;
    return false;
}

struct turn {
    struct encoder *e;
    struct batch *batches;
    take_fn take;
    void *out;
};
static void turn_range(void *ctx, size_t begin, size_t end, unsigned worker)
{
    const struct turn *t = ctx;
    for (size_t i = begin; i < end; i++) {
        t->batches[i].room = &t->e->alone[worker];
        run_batch(&t->batches[i]);
        t->take(&t->batches[i], t->out);
    }
}

static enum cairn_err run_all(struct encoder *e, const int32_t *ids, const int32_t *types, const size_t *lens,
                              size_t n_seqs, enum device_take rows, take_fn take, void *out,
                              const struct cairn_stop *stop, struct cairn_why *why)
{
    /* a device takes a room full at a time */
    size_t threads = e->n_alone && !atomic_load(&e->on_device) ? e->n_alone : 1,
           turn_max = threads * TURN_TOKENS;
    if (threads == 1 || turn_max < e->room_tokens)
        turn_max = e->room_tokens;
    size_t *starts = cairn_reallocarray(NULL, turn_max, sizeof *starts),
           *position = cairn_reallocarray(NULL, turn_max, sizeof *position);
    struct batch *batches = cairn_reallocarray(NULL, turn_max, sizeof *batches);
    enum cairn_err err = starts && position && batches
                             ? CAIRN_OK
                             : cairn_fail(why, CAIRN_ENOMEM, "row numbers of %zu tokens", turn_max);
    for (size_t first = 0, token = 0; first < n_seqs && !err;) {
        if ((err = cairn_stopped(stop, why)))
            break;
        size_t n = 0, last = first, n_batches = 0;
        while (last < n_seqs && n + lens[last] <= turn_max)
            n += lens[last++];
        /* batches of equal size, as many as the threads or a multiple of that */
        size_t rounds = (n + threads * BATCH_TOKENS - 1) / (threads * BATCH_TOKENS),
               size = n <= e->room_tokens ? n : (n + threads * rounds - 1) / (threads * rounds);
        for (size_t s = first, at = 0; s < last;) {
            struct batch b = {.e = e,
                              .room = &e->together,
                              .ids = ids + token,
                              .types = types ? types + token : NULL,
                              .lens = lens + s,
                              .first_seq = s,
                              .first_token = token,
                              .starts = starts + (s - first),
                              .position = position + at};
            for (; s < last && b.n < size && b.n + lens[s] <= e->room_tokens; s++) {
                starts[s - first] = b.n;
                for (size_t j = 0; j < lens[s]; j++)
                    position[at++] = j;
                b.n += lens[s];
                b.n_seqs++;
            }
            token += b.n;
            batches[n_batches++] = b;
        }
        pthread_mutex_lock(&e->lock);
        if (n_batches > 1) {
            cairn_pool_run(e->pool, n_batches, 1, turn_range,
                           &(struct turn){.e = e, .batches = batches, .take = take, .out = out});
        } else {
            if (!device_batch(&batches[0], rows))
                run_batch(&batches[0]);
            take(&batches[0], out);
        }
        pthread_mutex_unlock(&e->lock);
        first = last;
    }
    cairn_free(starts);
    cairn_free(position);
    cairn_free(batches);
    return err;
}

static void take_hidden(const struct batch *b, void *out)
{
    memcpy((float *)out + b->first_token * b->e->dim, b->room->x, b->n * b->e->dim * sizeof(float));
}

static void take_vectors(const struct batch *b, void *out)
{
    const struct encoder *e = b->e;
    for (size_t s = 0; s < b->n_seqs; s++) {
        float *y = (float *)out + (b->first_seq + s) * e->dim;
        const float *x = first_row(b, s);
        memcpy(y, x, e->dim * sizeof *y);
        if (e->pooling == POOL_MEAN && !b->taken) {
            for (size_t j = 1; j < b->lens[s]; j++)
                b->room->compute.ops->add(y, x + j * e->dim, e->dim);
            for (uint32_t i = 0; i < e->dim; i++)
                y[i] /= (float)b->lens[s];
        }
        if (!e->normalize)
            continue;
        double square = 0;
        for (uint32_t i = 0; i < e->dim; i++)
            square += (double)y[i] * (double)y[i];
        double scale = square > 0 ? 1.0 / sqrt(square) : 0.0;
        for (uint32_t i = 0; i < e->dim; i++)
            y[i] = (float)((double)y[i] * scale);
    }
}

static void take_logits(const struct batch *b, void *out)
{
    const struct encoder *e = b->e;
    const struct room *r = b->room;
    for (size_t s = 0; s < b->n_seqs; s++)
        memcpy(r->pooled + s * e->dim, first_row(b, s), e->dim * sizeof *r->x);
    ops_matmul(&r->compute, r->pooled, b->n_seqs,
               &(struct matmul_job){.w = &e->pooler.w, .bias = e->pooler.b, .y = r->pooled2, .ld = e->dim},
               1);
    for (size_t i = 0; i < b->n_seqs * e->dim; i++)
        r->pooled2[i] = tanhf(r->pooled2[i]);
    ops_matmul(&r->compute, r->pooled2, b->n_seqs,
               &(struct matmul_job){
                   .w = &e->classifier.w, .bias = e->classifier.b, .y = (float *)out + b->first_seq, .ld = 1},
               1);
}

enum cairn_err encoder_forward(struct encoder *e, const int32_t *ids, const int32_t *types,
                               const size_t *lens, size_t n_seqs, float *hidden,
                               const struct cairn_stop *stop, struct cairn_why *why)
{
    for (size_t s = 0, at = 0; s < n_seqs; s++) {
        if (lens[s] < 1 || lens[s] > e->max_tokens)
            return cairn_fail(why, CAIRN_EINVAL, "sequence %zu has %zu tokens; 1 to %u are allowed", s,
                              lens[s], e->max_tokens);
        for (size_t j = 0; j < lens[s]; j++, at++) {
            if (ids[at] < 0 || (uint32_t)ids[at] >= e->n_vocab)
                return cairn_fail(why, CAIRN_EINVAL, "token %" PRId32 " at %zu is not in 0..%u", ids[at], at,
                                  e->n_vocab - 1);
            if (types && (types[at] < 0 || (uint32_t)types[at] >= e->n_types))
                return cairn_fail(why, CAIRN_EINVAL, "token type %" PRId32 " at %zu is not in 0..%u",
                                  types[at], at, e->n_types - 1);
        }
    }
    return run_all(e, ids, types, lens, n_seqs, DEVICE_TAKE_ALL, take_hidden, hidden, stop, why);
}

/* ---- texts
 * ------------------------------------------------------------------------------------------------------ */

/* Sequences being put together; each append may fail. */
struct tokens {
    int32_t *ids, *types;
    size_t *lens, n, cap;
};
static void tokens_release(struct tokens *t)
{
    cairn_free(t->ids);
    cairn_free(t->types);
    cairn_free(t->lens);
}
static bool tokens_room(struct tokens *t, size_t more, bool types)
{
    if (t->cap - t->n >= more)
        return true;
    size_t cap = t->cap * 2 + more;
    int32_t *ids = cairn_reallocarray(t->ids, cap, sizeof *ids);
    if (ids)
        t->ids = ids;
    int32_t *kinds = ids && types ? cairn_reallocarray(t->types, cap, sizeof *kinds) : NULL;
    if (kinds)
        t->types = kinds;
    if (!ids || (types && !kinds))
        return false;
    t->cap = cap;
    return true;
}
static void tokens_put(struct tokens *t, int32_t id, int32_t type)
{
    t->ids[t->n] = id;
    if (t->types)
        t->types[t->n] = type;
    t->n++;
}

enum cairn_err encoder_embed(struct encoder *e, const struct cairn_str *texts, size_t n, float *out,
                             const struct cairn_stop *stop, struct cairn_why *why)
{
    if (e->pooling != POOL_MEAN && e->pooling != POOL_CLS)
        return cairn_fail(why, CAIRN_ESTATE, "%s has no pooling to make a vector of a text; use an embedder",
                          e->name);
    if (!n)
        return CAIRN_OK;
    struct tokens t = {.lens = cairn_calloc(n, sizeof *t.lens)};
    enum cairn_err err = t.lens ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "%zu texts", n);
    for (size_t i = 0; i < n && !err; i++) {
        int32_t *ids = NULL;
        size_t len = 0;
        if ((err = tokenizer_encode(e->tokenizer, texts[i], TOKENIZE_PLAIN, &ids, &len, why)))
            break;
        if (len > e->max_tokens - 2)
            len = e->max_tokens - 2;
        if (tokens_room(&t, len + 2, false)) {
            tokens_put(&t, e->cls, 0);
            for (size_t j = 0; j < len; j++)
                tokens_put(&t, ids[j], 0);
            tokens_put(&t, e->sep, 0);
            t.lens[i] = len + 2;
        } else {
            err = cairn_fail(why, CAIRN_ENOMEM, "tokens of %zu texts", n);
        }
        cairn_free(ids);
        if (!err)
            err = cairn_stopped(stop, why);
    }
    if (!err)
        err =
            run_all(e, t.ids, NULL, t.lens, n, e->pooling == POOL_MEAN ? DEVICE_TAKE_MEAN : DEVICE_TAKE_FIRST,
                    take_vectors, out, stop, why);
    tokens_release(&t);
    return err;
}

/* [CLS] query [SEP] text [SEP], types 0 and 1. A query longer than half the model's length is cut to that
 * half. */
enum cairn_err encoder_score_pairs(struct encoder *e, struct cairn_str query, const struct cairn_str *texts,
                                   size_t n, float *logits, const struct cairn_stop *stop,
                                   struct cairn_why *why)
{
    if (!e->classifier.w.bytes || e->n_types < 2)
        return cairn_fail(why, CAIRN_ESTATE, "%s has no classifier over pairs; use a reranker", e->name);
    if (!n)
        return CAIRN_OK;
    int32_t *q = NULL;
    size_t q_len = 0;
    enum cairn_err err = tokenizer_encode(e->tokenizer, query, TOKENIZE_PLAIN, &q, &q_len, why);
    if (err)
        return err;
    if (q_len > e->max_tokens / 2 - 1)
        q_len = e->max_tokens / 2 - 1;
    struct tokens t = {.lens = cairn_calloc(n, sizeof *t.lens)};
    if (!t.lens)
        err = cairn_fail(why, CAIRN_ENOMEM, "%zu pairs", n);
    for (size_t i = 0; i < n && !err; i++) {
        int32_t *ids = NULL;
        size_t len = 0, room = e->max_tokens - 3 - q_len;
        if ((err = tokenizer_encode(e->tokenizer, texts[i], TOKENIZE_PLAIN, &ids, &len, why)))
            break;
        if (len > room)
            len = room;
        if (tokens_room(&t, q_len + len + 3, true)) {
            tokens_put(&t, e->cls, 0);
            for (size_t j = 0; j < q_len; j++)
                tokens_put(&t, q[j], 0);
            tokens_put(&t, e->sep, 0);
            for (size_t j = 0; j < len; j++)
                tokens_put(&t, ids[j], 1);
            tokens_put(&t, e->sep, 1);
            t.lens[i] = q_len + len + 3;
        } else {
            err = cairn_fail(why, CAIRN_ENOMEM, "tokens of %zu pairs", n);
        }
        cairn_free(ids);
        if (!err)
            err = cairn_stopped(stop, why);
    }
    if (!err)
        err = run_all(e, t.ids, t.types, t.lens, n, DEVICE_TAKE_FIRST, take_logits, logits, stop, why);
    tokens_release(&t);
    cairn_free(q);
    return err;
}
