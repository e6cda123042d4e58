/* decoder.c - the llama family (Llama, Mistral, SmolLM2) and Qwen2 from a GGUF file.
 *
 * Owns the file, its tokenizer, one set of activations and scratch; sequences own their keys and values
 * (float32 so far; half precision would halve them).
 * Threads: decoder.lock is held by every computing call. It is taken before the pool's own lock, never after.
 * Memory: everything is allocated at open and at seq_open; a step allocates nothing.
 * Weights are read from the mapping as they lie in the file. Prefill runs PIECE tokens at a time.
 * A sequence's length moves only when a call has succeeded: what a stopped call wrote behind it is
 * overwritten later. */
#include "ops.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    PIECE = 256,
    N_CTX_DEFAULT = 8192,
    N_CTX_MAX = 1 << 20,
    LAYERS_MAX = 512,
    EMBD_MAX = 1 << 17,
    HEADS_MAX = 1 << 12,
    FF_MAX = 1 << 20,
    HEAD_DIM_MAX = 1024,
    ROWS_ALONE = 4, /* fewer rows are not worth waking the pool for norms and the like */
    MISTRAL_V01_WINDOW = 4096,
};

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
    /* activations for PIECE rows */
    float *x, *h, *q, *k, *v, *mixed, *gate, *up, *cosine, *sine;
};

struct decoder_seq {
    struct decoder *d;
    uint32_t n_ctx, len;
    size_t capacity, layer_floats;
    float *keys, *values;
};

/* ---- open
 * ------------------------------------------------------------------------------------------------------- */

static enum cairn_err number(const struct decoder *d, const char *arch, const char *key, int64_t fallback,
                             int64_t min, int64_t max, uint32_t *out, struct cairn_why *why)
{
    char full[160];
    int64_t v = fallback;
    snprintf(full, sizeof full, "%s.%s", arch, key);
    if (!model_file_int(d->file, full, &v) && fallback < 0)
        return cairn_fail(why, CAIRN_ECORRUPT, "%s is missing; the file is not a complete model", full);
    if (v < min || v > max)
        return cairn_fail(why, CAIRN_ECORRUPT, "%s = %" PRId64 " is not in %" PRId64 "..%" PRId64, full, v,
                          min, max);
    *out = (uint32_t)v;
    return CAIRN_OK;
}

static double real(const struct decoder *d, const char *arch, const char *key, double fallback)
{
    char full[160];
    double v = fallback;
    snprintf(full, sizeof full, "%s.%s", arch, key);
    return model_file_float(d->file, full, &v) ? v : fallback;
}

static enum cairn_err matrix(struct decoder *d, struct weight *w, const char *name, uint64_t k, uint64_t n,
                             struct cairn_why *why)
{
    const struct model_tensor *t = model_file_tensor(d->file, name);
    if (!t)
        return cairn_fail(why, CAIRN_ECORRUPT, "tensor %s is missing; the file is not a complete model",
                          name);
    if (t->n_dims != 2 || t->dims[0] != k || t->dims[1] != n)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "tensor %s is [%" PRIu64 ", %" PRIu64 "], the hyper-parameters say [%" PRIu64
                          ", %" PRIu64 "]",
                          name, t->dims[0], t->n_dims > 1 ? t->dims[1] : 1, k, n);
    weight_init(w, t);
    if (!w->row_bytes || w->row_bytes * n != t->n_bytes)
        return cairn_fail(why, CAIRN_ECORRUPT, "tensor %s: %zu bytes are not %" PRIu64 " rows of %zu", name,
                          t->n_bytes, n, w->row_bytes);
    d->weight_bytes += t->n_bytes;
    return CAIRN_OK;
}

/* One-dimensional, as floats; absent is an error unless optional. */
static enum cairn_err vector(struct decoder *d, float **out, const char *name, uint64_t n, bool optional,
                             struct cairn_why *why)
{
    const struct model_tensor *t = model_file_tensor(d->file, name);
    if (!t && optional)
        return CAIRN_OK;
    if (!t)
        return cairn_fail(why, CAIRN_ECORRUPT, "tensor %s is missing; the file is not a complete model",
                          name);
    if (t->n_dims != 1 || t->dims[0] != n || tensor_type_bytes(t->type, n) != t->n_bytes || !t->n_bytes)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "tensor %s has %" PRIu64 " elements, the hyper-parameters say %" PRIu64, name,
                          t->dims[0], n);
    *out = cairn_aligned(64, n * sizeof(float) + 64);
    if (!*out)
        return cairn_fail(why, CAIRN_ENOMEM, "tensor %s", name);
    tensor_dequantize(t->type, t->bytes, *out, n);
    d->weight_bytes += t->n_bytes;
    return CAIRN_OK;
}

static bool contains_nocase(struct cairn_str s, const char *part)
{
    size_t n = strlen(part);
    for (size_t i = 0; i + n <= s.len; i++)
        if (!strncasecmp(s.p + i, part, n))
            return true;
    return false;
}

static enum cairn_err read_hyper(struct decoder *d, const struct model_opts *o, char arch[16],
                                 struct cairn_why *why)
{
    struct cairn_str s = {0};
    if (!model_file_string(d->file, "general.architecture", &s))
        return cairn_fail(why, CAIRN_ECORRUPT, "general.architecture is missing; a decoder is a GGUF file");
    if (s.len == 5 && !memcmp(s.p, "llama", 5))
        memcpy(arch, "llama", 6);
    else if (s.len == 5 && !memcmp(s.p, "qwen2", 5))
        memcpy(arch, "qwen2", 6);
    else
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "architecture %.*s; decoders are llama and qwen2",
                          (int)(s.len < 64 ? s.len : 64), s.p);
    d->halves = !strcmp(arch, "qwen2");
    const struct model_tensor *embedding = model_file_tensor(d->file, "token_embd.weight");
    if (!embedding || embedding->n_dims != 2 || embedding->dims[1] < 1 || embedding->dims[1] > INT32_MAX)
        return cairn_fail(why, CAIRN_ECORRUPT, "tensor token_embd.weight is missing or not a matrix");
    d->n_vocab = (uint32_t)embedding->dims[1];
    uint32_t context = 0, value_length = 0, experts = 0;
    enum cairn_err err;
    if ((err = number(d, arch, "block_count", -1, 1, LAYERS_MAX, &d->n_layer, why)) ||
        (err = number(d, arch, "embedding_length", -1, 1, EMBD_MAX, &d->n_embd, why)) ||
        (err = number(d, arch, "feed_forward_length", -1, 1, FF_MAX, &d->n_ff, why)) ||
        (err = number(d, arch, "attention.head_count", -1, 1, HEADS_MAX, &d->n_head, why)) ||
        (err = number(d, arch, "attention.head_count_kv", d->n_head, 1, HEADS_MAX, &d->n_kv_head, why)) ||
        (err = number(d, arch, "attention.key_length", d->n_embd / d->n_head, 2, HEAD_DIM_MAX, &d->head_dim,
                      why)) ||
        (err = number(d, arch, "attention.value_length", d->head_dim, 2, HEAD_DIM_MAX, &value_length, why)) ||
        (err = number(d, arch, "rope.dimension_count", d->head_dim, 2, d->head_dim, &d->n_rope, why)) ||
        (err = number(d, arch, "context_length", -1, 1, 1 << 30, &context, why)) ||
        (err = number(d, arch, "expert_count", 0, 0, 1 << 16, &experts, why)) ||
        (err = number(d, arch, "attention.sliding_window", 0, 0, 1 << 30, &d->window, why)))
        return err;
    if (experts)
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "%s.expert_count = %u: mixtures of experts are not supported", arch, experts);
    if (d->n_head % d->n_kv_head)
        return cairn_fail(why, CAIRN_ECORRUPT, "%u heads do not share %u key-value heads evenly", d->n_head,
                          d->n_kv_head);
    if (value_length != d->head_dim || d->head_dim % 2 || d->n_rope % 2)
        return cairn_fail(
            why, CAIRN_EUNSUPPORTED,
            "head of %u with values of %u, %u of it rotated; equal and even sizes are supported", d->head_dim,
            value_length, d->n_rope);
    if (d->n_embd % d->n_head && d->head_dim == d->n_embd / d->n_head)
        return cairn_fail(why, CAIRN_ECORRUPT, "width %u is not divided by %u heads", d->n_embd, d->n_head);
    double eps = real(d, arch, "attention.layer_norm_rms_epsilon", 1e-5);
    if (!(eps > 0 && eps < 1))
        return cairn_fail(why, CAIRN_ECORRUPT, "%s.attention.layer_norm_rms_epsilon = %g is not in (0, 1)",
                          arch, eps);
    d->eps = (float)eps;
    if (o->n_ctx > context || o->n_ctx > N_CTX_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "n_ctx %u: the model was trained for %u; ask for at most that",
                          o->n_ctx, context);
    d->n_ctx = o->n_ctx ? o->n_ctx : context < N_CTX_DEFAULT ? context : N_CTX_DEFAULT;
    /* Mistral 7B v0.1 was trained with a window that its files do not state; later versions have none. */
    struct cairn_str name = {0};
    if (model_file_string(d->file, "general.name", &name) && !d->window && contains_nocase(name, "mistral") &&
        contains_nocase(name, "v0.1") && context > MISTRAL_V01_WINDOW)
        d->window = MISTRAL_V01_WINDOW;
    if (o->window)
        d->window = o->window;
    return CAIRN_OK;
}

static enum cairn_err read_rope(struct decoder *d, const char *arch, struct cairn_why *why)
{
    double base = real(d, arch, "rope.freq_base", 10000.0), factor = real(d, arch, "rope.scale_linear", 1.0);
    char key[64];
    struct cairn_str kind = {0};
    snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    if (model_file_string(d->file, key, &kind) && !(kind.len == 4 && !memcmp(kind.p, "none", 4))) {
        if (kind.len != 6 || memcmp(kind.p, "linear", 6))
            return cairn_fail(why, CAIRN_EUNSUPPORTED, "%s = %.*s; none and linear are supported", key,
                              (int)(kind.len < 64 ? kind.len : 64), kind.p);
        factor = real(d, arch, "rope.scaling.factor", factor);
    }
    if (!(base > 0 && base < 1e15) || !(factor > 0 && factor < 1e6))
        return cairn_fail(why, CAIRN_ECORRUPT, "rope base %g or scaling factor %g is out of range", base,
                          factor);
    float *divide = NULL;
    enum cairn_err err = vector(d, &divide, "rope_freqs.weight", d->n_rope / 2, true, why);
    if (err)
        return err;
    d->rope_step = cairn_calloc(d->n_rope / 2, sizeof *d->rope_step);
    if (!d->rope_step) {
        cairn_free(divide);
        return cairn_fail(why, CAIRN_ENOMEM, "rope frequencies");
    }
    for (uint32_t i = 0; i < d->n_rope / 2; i++) {
        d->rope_step[i] = pow(base, -2.0 * i / d->n_rope) / factor / (divide ? (double)divide[i] : 1.0);
        if (!isfinite(d->rope_step[i]))
            err = cairn_fail(why, CAIRN_ECORRUPT,
                             "tensor rope_freqs.weight has a factor that gives no frequency");
    }
    cairn_free(divide);
    return err;
}

static enum cairn_err read_layer(struct decoder *d, uint32_t i, struct cairn_why *why)
{
    struct layer *l = &d->layers[i];
    uint64_t q_dim = (uint64_t)d->n_head * d->head_dim, kv_dim = (uint64_t)d->n_kv_head * d->head_dim;
    const struct {
        struct weight *w;
        const char *name;
        uint64_t k, n;
    } matrices[] = {
        {&l->q,    "attn_q",      d->n_embd, q_dim    },
        {&l->k,    "attn_k",      d->n_embd, kv_dim   },
        {&l->v,    "attn_v",      d->n_embd, kv_dim   },
        {&l->o,    "attn_output", q_dim,     d->n_embd},
        {&l->gate, "ffn_gate",    d->n_embd, d->n_ff  },
        {&l->up,   "ffn_up",      d->n_embd, d->n_ff  },
        {&l->down, "ffn_down",    d->n_ff,   d->n_embd},
    };
    const struct {
        float **v;
        const char *name;
        uint64_t n;
        bool optional;
    } vectors[] = {
        {&l->attn_norm, "attn_norm.weight", d->n_embd, false},
        {&l->ffn_norm,  "ffn_norm.weight",  d->n_embd, false},
        {&l->q_bias,    "attn_q.bias",      q_dim,     true },
        {&l->k_bias,    "attn_k.bias",      kv_dim,    true },
        {&l->v_bias,    "attn_v.bias",      kv_dim,    true },
        {&l->o_bias,    "attn_output.bias", d->n_embd, true },
    };
    char name[64];
    for (size_t j = 0; j < sizeof matrices / sizeof matrices[0]; j++) {
        snprintf(name, sizeof name, "blk.%u.%s.weight", i, matrices[j].name);
        enum cairn_err err = matrix(d, matrices[j].w, name, matrices[j].k, matrices[j].n, why);
        if (err)
            return err;
    }
    for (size_t j = 0; j < sizeof vectors / sizeof vectors[0]; j++) {
        snprintf(name, sizeof name, "blk.%u.%s", i, vectors[j].name);
        enum cairn_err err = vector(d, vectors[j].v, name, vectors[j].n, vectors[j].optional, why);
        if (err)
            return err;
    }
    return CAIRN_OK;
}

static enum cairn_err read_weights(struct decoder *d, struct cairn_why *why)
{
    enum cairn_err err = matrix(d, &d->embedding, "token_embd.weight", d->n_embd, d->n_vocab, why);
    if (!err)
        err = vector(d, &d->output_norm, "output_norm.weight", d->n_embd, false, why);
    d->output = d->embedding; /* tied */
    if (!err && model_file_tensor(d->file, "output.weight"))
        err = matrix(d, &d->output, "output.weight", d->n_embd, d->n_vocab, why);
    d->layers = cairn_calloc(d->n_layer, sizeof *d->layers);
    if (!d->layers)
        return cairn_fail(why, CAIRN_ENOMEM, "%u layers", d->n_layer);
    for (uint32_t i = 0; i < d->n_layer && !err; i++)
        err = read_layer(d, i, why);
    return err;
}

static float *floats(size_t rows, size_t n)
{
    size_t bytes;
    return cairn_mul(rows, n * sizeof(float), &bytes) ? cairn_aligned(64, bytes + 64) : NULL;
}

static enum cairn_err make_room(struct decoder *d, const struct model_opts *o, struct cairn_why *why)
{
    size_t q_dim = (size_t)d->n_head * d->head_dim, kv_dim = (size_t)d->n_kv_head * d->head_dim;
    size_t k_max = d->n_ff > d->n_embd ? d->n_ff : d->n_embd;
    if (q_dim > k_max)
        k_max = q_dim;
    enum cairn_err err = compute_init(&d->compute, o, PIECE, k_max, d->n_ctx, why);
    if (err)
        return err;
    d->x = floats(PIECE, d->n_embd);
    d->h = floats(PIECE, d->n_embd);
    d->q = floats(PIECE, q_dim);
    d->k = floats(PIECE, kv_dim);
    d->v = floats(PIECE, kv_dim);
    d->mixed = floats(PIECE, q_dim);
    d->gate = floats(PIECE, d->n_ff);
    d->up = floats(PIECE, d->n_ff);
    d->cosine = floats(PIECE, d->n_rope / 2);
    d->sine = floats(PIECE, d->n_rope / 2);
    if (!d->x || !d->h || !d->q || !d->k || !d->v || !d->mixed || !d->gate || !d->up || !d->cosine ||
        !d->sine)
        return cairn_fail(why, CAIRN_ENOMEM, "activations for %d tokens of width %u", PIECE, d->n_embd);
    return CAIRN_OK;
}

/* Ask for the weights before the first step needs them. */
static void read_ahead(const struct decoder *d)
{
    uintptr_t first = UINTPTR_MAX, last = 0, page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < model_file_n_tensors(d->file); i++) {
        const struct model_tensor *t = model_file_tensor_at(d->file, i);
        uintptr_t at = (uintptr_t)t->bytes;
        first = at < first ? at : first;
        last = at + t->n_bytes > last ? at + t->n_bytes : last;
    }
    if (first < last)
        (void)madvise((void *)(first & ~(page - 1)), last - (first & ~(page - 1)), MADV_WILLNEED);
}

static enum cairn_err open_path(struct decoder **out, const char *path, const char *name, bool need_tokenizer,
                                const struct model_opts *o, struct cairn_why *why)
{
    static const struct model_opts defaults;
    char arch[16] = "";
    *out = NULL;
    o = o ? o : &defaults;
    struct decoder *d = cairn_calloc(1, sizeof *d);
    if (!d)
        return cairn_fail(why, CAIRN_ENOMEM, "decoder handle");
    enum cairn_err err = CAIRN_OK;
    if (pthread_mutex_init(&d->lock, NULL)) {
        err = cairn_fail(why, CAIRN_ENOMEM, "decoder lock");
        goto done;
    }
    d->lock_ready = true;
    d->name = cairn_strdup(name);
    if (!d->name) {
        err = cairn_fail(why, CAIRN_ENOMEM, "decoder name");
        goto done;
    }
    if ((err = model_file_open(&d->file, path, why)) || (err = read_hyper(d, o, arch, why)) ||
        (err = read_rope(d, arch, why)) || (err = read_weights(d, why)) || (err = make_room(d, o, why)))
        goto done;
    struct cairn_str kind = {0};
    bool has_tokenizer = model_file_string(d->file, "tokenizer.ggml.model", &kind) &&
                         !(kind.len == 8 && !memcmp(kind.p, "no_vocab", 8));
    if (has_tokenizer) {
        if ((err = tokenizer_from_gguf(&d->tokenizer, d->file, why)))
            goto done;
        if (tokenizer_n_vocab(d->tokenizer) > d->n_vocab) {
            err = cairn_fail(why, CAIRN_ECORRUPT,
                             "the tokenizer knows %zu tokens, token_embd.weight has %u rows",
                             tokenizer_n_vocab(d->tokenizer), d->n_vocab);
            goto done;
        }
    } else if (need_tokenizer) {
        err = cairn_fail(why, CAIRN_ECORRUPT, "%s carries no tokenizer; a generator needs one in its file",
                         path);
        goto done;
    }
    read_ahead(d);
    *out = d;
    d = NULL;
done:
    decoder_close(d);
    return err ? cairn_wrap(why, err, "%s", path) : CAIRN_OK;
}

enum cairn_err decoder_open(struct decoder **out, const struct model_card *card, const struct model_opts *o,
                            struct cairn_why *why)
{
    *out = NULL;
    if (!card || !card->path || !card->name)
        return cairn_fail(why, CAIRN_EINVAL, "decoder_open: a card needs a name and a path");
    return open_path(out, card->path, card->name, true, o, why);
}

enum cairn_err decoder_open_file(struct decoder **out, const char *path, const struct model_opts *o,
                                 struct cairn_why *why)
{
    const char *slash = strrchr(path, '/');
    return open_path(out, path, slash ? slash + 1 : path, false, o, why);
}

void decoder_close(struct decoder *d)
{
    if (!d)
        return;
    for (uint32_t i = 0; d->layers && i < d->n_layer; i++) {
        struct layer *l = &d->layers[i];
        float *vectors[] = {l->attn_norm, l->ffn_norm, l->q_bias, l->k_bias, l->v_bias, l->o_bias};
        for (size_t j = 0; j < sizeof vectors / sizeof vectors[0]; j++)
            cairn_free(vectors[j]);
    }
    cairn_free(d->layers);
    float *rooms[] = {d->output_norm, d->x,    d->h,  d->q,      d->k,   d->v,
                      d->mixed,       d->gate, d->up, d->cosine, d->sine};
    for (size_t j = 0; j < sizeof rooms / sizeof rooms[0]; j++)
        cairn_free(rooms[j]);
    cairn_free(d->rope_step);
    compute_release(&d->compute);
    tokenizer_close(d->tokenizer);
    model_file_close(d->file);
    cairn_free(d->name);
    if (d->lock_ready)
        pthread_mutex_destroy(&d->lock);
    cairn_free(d);
}

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
        cairn_pool_run(st->d->compute.pool, n, 8, fn, (void *)(uintptr_t)st);
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

/* At most PIECE tokens. logits: n_logits rows for the last n_logits tokens. */
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
                          .n = n - done < PIECE ? n - done : PIECE,
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
