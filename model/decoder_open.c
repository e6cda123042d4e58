/* decoder_open.c - hyper-parameters, rope and weights of a GGUF decoder, checked against each other. */
#include "decoder_internal.h"
#include "device_host.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    N_CTX_DEFAULT = 8192,
    N_CTX_MAX = 1 << 20,
    LAYERS_MAX = 512,
    EMBD_MAX = 1 << 17,
    HEADS_MAX = 1 << 12,
    FF_MAX = 1 << 20,
    HEAD_DIM_MAX = 1024,
    MISTRAL_V01_WINDOW = 4096,
    EXPERTS_MAX = 512,
    GEMMA3_27B_LAYERS = 62,
};

static enum cairn_err number(const struct decoder *d, const char *key, int64_t fallback, int64_t min,
                             int64_t max, uint32_t *out, struct cairn_why *why)
{
    char full[160];
    int64_t v = fallback;
    snprintf(full, sizeof full, "%s.%s", d->arch->name, key);
    if (!model_file_int(d->file, full, &v) && fallback < 0)
        return cairn_fail(why, CAIRN_ECORRUPT, "%s is missing; the file is not a complete model", full);
    if (v < min || v > max)
        return cairn_fail(why, CAIRN_ECORRUPT, "%s = %" PRId64 " is not in %" PRId64 "..%" PRId64, full, v,
                          min, max);
    *out = (uint32_t)v;
    return CAIRN_OK;
}

static double real(const struct decoder *d, const char *key, double fallback)
{
    char full[160];
    double v = fallback;
    snprintf(full, sizeof full, "%s.%s", d->arch->name, key);
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

/* The matrices of all experts lie behind each other in one tensor; out[0], out[3], ... */
static enum cairn_err expert_matrices(struct decoder *d, struct weight *out, const char *name, uint64_t k,
                                      uint64_t n, struct cairn_why *why)
{
    const struct model_tensor *t = model_file_tensor(d->file, name);
    if (!t)
        return cairn_fail(
            why, CAIRN_ECORRUPT,
            "tensor %s is missing; a file made before experts were joined must be converted again", name);
    if (t->n_dims != 3 || t->dims[0] != k || t->dims[1] != n || t->dims[2] != d->n_expert)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "tensor %s is not [%" PRIu64 ", %" PRIu64 ", %u], as the hyper-parameters say",
                          name, k, n, d->n_expert);
    for (uint32_t e = 0; e < d->n_expert; e++) {
        struct weight *w = out + 3 * (size_t)e;
        weight_init(w, t);
        w->n = n;
        w->bytes += (size_t)e * n * w->row_bytes;
        if (!w->row_bytes || w->row_bytes * n * d->n_expert != t->n_bytes)
            return cairn_fail(why, CAIRN_ECORRUPT,
                              "tensor %s: %zu bytes are not %u times %" PRIu64 " rows of %zu", name,
                              t->n_bytes, d->n_expert, n, w->row_bytes);
    }
    d->weight_bytes += t->n_bytes;
    return CAIRN_OK;
}

enum presence { MUST, MAY, NEVER };

/* One-dimensional, as floats. A tensor that the architecture does not have is refused: leaving it out would
 * give wrong answers. */
static enum cairn_err vector(struct decoder *d, float **out, const char *name, uint64_t n,
                             enum presence presence, struct cairn_why *why)
{
    const struct model_tensor *t = model_file_tensor(d->file, name);
    if (!t && presence != MUST)
        return CAIRN_OK;
    if (presence == NEVER)
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "tensor %s is not known in architecture %s", name,
                          d->arch->name);
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

static enum cairn_err read_experts(struct decoder *d, struct cairn_why *why)
{
    enum cairn_err err;
    if ((err = number(d, "expert_count", 0, 0, EXPERTS_MAX, &d->n_expert, why)) || !d->n_expert)
        return err;
    if (!d->arch->experts)
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "%s.expert_count = %u: mixtures of experts are known of llama and qwen3moe",
                          d->arch->name, d->n_expert);
    if ((err = number(d, "expert_used_count", -1, 1, d->n_expert, &d->n_expert_used, why)))
        return err;
    return number(d, "expert_feed_forward_length", d->n_ff, 1, FF_MAX, &d->n_ff, why);
}

static enum cairn_err read_hyper(struct decoder *d, const struct model_opts *o, struct cairn_why *why)
{
    struct cairn_str s = {0};
    if (!model_file_string(d->file, "general.architecture", &s))
        return cairn_fail(why, CAIRN_ECORRUPT, "general.architecture is missing; a decoder is a GGUF file");
    d->arch = decoder_arch_find(s);
    if (!d->arch)
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "architecture %.*s; decoders are %s",
                          (int)(s.len < 64 ? s.len : 64), s.p, decoder_arch_names());
    const struct model_tensor *embedding = model_file_tensor(d->file, "token_embd.weight");
    if (!embedding || embedding->n_dims != 2 || embedding->dims[1] < 1 || embedding->dims[1] > INT32_MAX)
        return cairn_fail(why, CAIRN_ECORRUPT, "tensor token_embd.weight is missing or not a matrix");
    d->n_vocab = (uint32_t)embedding->dims[1];
    uint32_t context = 0, value_length = 0;
    enum cairn_err err;
    if ((err = number(d, "block_count", -1, 1, LAYERS_MAX, &d->n_layer, why)) ||
        (err = number(d, "embedding_length", -1, 1, EMBD_MAX, &d->n_embd, why)) ||
        (err = number(d, "feed_forward_length", -1, 1, FF_MAX, &d->n_ff, why)) ||
        (err = number(d, "attention.head_count", -1, 1, HEADS_MAX, &d->n_head, why)) ||
        (err = number(d, "attention.head_count_kv", d->n_head, 1, HEADS_MAX, &d->n_kv_head, why)) ||
        (err =
             number(d, "attention.key_length", d->n_embd / d->n_head, 2, HEAD_DIM_MAX, &d->head_dim, why)) ||
        (err = number(d, "attention.value_length", d->head_dim, 2, HEAD_DIM_MAX, &value_length, why)) ||
        (err = number(d, "rope.dimension_count", d->head_dim, 2, d->head_dim, &d->n_rope, why)) ||
        (err = number(d, "context_length", -1, 1, 1 << 30, &context, why)) ||
        (err = number(d, "attention.sliding_window", 0, 0, 1 << 30, &d->window, why)) ||
        (err = read_experts(d, why)))
        return err;
    d->local_every = d->arch->local_every;
    if (d->local_every && (err = number(d, "attention.sliding_window_pattern", d->local_every, 1, LAYERS_MAX,
                                        &d->local_every, why)))
        return err;
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
    double eps = real(d, "attention.layer_norm_rms_epsilon", 1e-5);
    if (!(eps > 0 && eps < 1))
        return cairn_fail(why, CAIRN_ECORRUPT, "%s.attention.layer_norm_rms_epsilon = %g is not in (0, 1)",
                          d->arch->name, eps);
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

static enum cairn_err read_rope(struct decoder *d, struct cairn_why *why)
{
    double base = real(d, "rope.freq_base", 10000.0), factor = real(d, "rope.scale_linear", 1.0),
           local = real(d, "rope.freq_base_swa", d->arch->local_base);
    char key[64];
    struct cairn_str kind = {0};
    snprintf(key, sizeof key, "%s.rope.scaling.type", d->arch->name);
    if (model_file_string(d->file, key, &kind) && !(kind.len == 4 && !memcmp(kind.p, "none", 4))) {
        if (kind.len != 6 || memcmp(kind.p, "linear", 6))
            return cairn_fail(why, CAIRN_EUNSUPPORTED, "%s = %.*s; none and linear are supported", key,
                              (int)(kind.len < 64 ? kind.len : 64), kind.p);
        factor = real(d, "rope.scaling.factor", factor);
    }
    if (!(base > 0 && base < 1e15) || (d->local_every && !(local > 0 && local < 1e15)) ||
        !(factor > 0 && factor < 1e6))
        return cairn_fail(why, CAIRN_ECORRUPT, "rope base %g or scaling factor %g is out of range", base,
                          factor);
    float *divide = NULL;
    enum cairn_err err = vector(d, &divide, "rope_freqs.weight", d->n_rope / 2, MAY, why);
    if (err)
        return err;
    d->rope_step = cairn_calloc(d->n_rope / 2 * rope_sets(d), sizeof *d->rope_step);
    if (!d->rope_step) {
        cairn_free(divide);
        return cairn_fail(why, CAIRN_ENOMEM, "rope frequencies");
    }
    for (uint32_t i = 0; i < d->n_rope / 2; i++) {
        d->rope_step[i] = pow(base, -2.0 * i / d->n_rope) / factor / (divide ? (double)divide[i] : 1.0);
        if (d->local_every)
            d->rope_step[d->n_rope / 2 + i] = pow(local, -2.0 * i / d->n_rope);
        if (!isfinite(d->rope_step[i]))
            err = cairn_fail(why, CAIRN_ECORRUPT,
                             "tensor rope_freqs.weight has a factor that gives no frequency");
    }
    cairn_free(divide);
    return err;
}

static enum cairn_err read_layer_dense(struct decoder *d, uint32_t i, struct cairn_why *why)
{
    struct layer *l = &d->layers[i];
    enum cairn_err err;
    char name[64];
    snprintf(name, sizeof name, "blk.%u.ffn_gate.weight", i);
    if ((err = matrix(d, &l->gate, name, d->n_embd, d->n_ff, why)))
        return err;
    snprintf(name, sizeof name, "blk.%u.ffn_up.weight", i);
    if ((err = matrix(d, &l->up, name, d->n_embd, d->n_ff, why)))
        return err;
    snprintf(name, sizeof name, "blk.%u.ffn_down.weight", i);
    return matrix(d, &l->down, name, d->n_ff, d->n_embd, why);
}

static enum cairn_err read_layer_experts(struct decoder *d, uint32_t i, struct cairn_why *why)
{
    struct layer *l = &d->layers[i];
    enum cairn_err err;
    char name[64];
    l->experts = cairn_calloc(d->n_expert, 3 * sizeof *l->experts);
    if (!l->experts)
        return cairn_fail(why, CAIRN_ENOMEM, "%u experts", d->n_expert);
    snprintf(name, sizeof name, "blk.%u.ffn_gate_inp.weight", i);
    if ((err = matrix(d, &l->router, name, d->n_embd, d->n_expert, why)))
        return err;
    snprintf(name, sizeof name, "blk.%u.ffn_gate_exps.weight", i);
    if ((err = expert_matrices(d, l->experts, name, d->n_embd, d->n_ff, why)))
        return err;
    snprintf(name, sizeof name, "blk.%u.ffn_up_exps.weight", i);
    if ((err = expert_matrices(d, l->experts + 1, name, d->n_embd, d->n_ff, why)))
        return err;
    snprintf(name, sizeof name, "blk.%u.ffn_down_exps.weight", i);
    return expert_matrices(d, l->experts + 2, name, d->n_ff, d->n_embd, why);
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
        {&l->q, "attn_q",      d->n_embd, q_dim    },
        {&l->k, "attn_k",      d->n_embd, kv_dim   },
        {&l->v, "attn_v",      d->n_embd, kv_dim   },
        {&l->o, "attn_output", q_dim,     d->n_embd},
    };
    const enum presence qk = d->arch->qk_norm ? MUST : NEVER, post = d->arch->post_norms ? MUST : NEVER;
    const struct {
        float **v;
        const char *name;
        uint64_t n;
        enum presence presence;
    } vectors[] = {
        {&l->attn_norm,      "attn_norm.weight",           d->n_embd,   MUST},
        {&l->ffn_norm,       "ffn_norm.weight",            d->n_embd,   MUST},
        {&l->q_bias,         "attn_q.bias",                q_dim,       MAY },
        {&l->k_bias,         "attn_k.bias",                kv_dim,      MAY },
        {&l->v_bias,         "attn_v.bias",                kv_dim,      MAY },
        {&l->o_bias,         "attn_output.bias",           d->n_embd,   MAY },
        {&l->q_norm,         "attn_q_norm.weight",         d->head_dim, qk  },
        {&l->k_norm,         "attn_k_norm.weight",         d->head_dim, qk  },
        {&l->attn_post_norm, "post_attention_norm.weight", d->n_embd,   post},
        {&l->ffn_post_norm,  "post_ffw_norm.weight",       d->n_embd,   post},
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
        enum cairn_err err = vector(d, vectors[j].v, name, vectors[j].n, vectors[j].presence, why);
        if (err)
            return err;
    }
    /* Gemma 3 27B scales its scores by the width of a head of the residual stream, not by the head's own. */
    double scale = sqrt((double)d->head_dim * d->n_head / d->n_embd);
    for (uint32_t j = 0; d->arch->scale_embedding && d->n_layer == GEMMA3_27B_LAYERS && j < d->head_dim; j++)
        l->q_norm[j] = (float)(l->q_norm[j] * scale);
    return d->n_expert ? read_layer_experts(d, i, why) : read_layer_dense(d, i, why);
}

static enum cairn_err read_weights(struct decoder *d, struct cairn_why *why)
{
    enum cairn_err err = matrix(d, &d->embedding, "token_embd.weight", d->n_embd, d->n_vocab, why);
    if (!err)
        err = vector(d, &d->output_norm, "output_norm.weight", d->n_embd, MUST, why);
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
    enum cairn_err err = compute_init(&d->compute, o, DECODER_ROWS_MAX, k_max, d->n_ctx, why);
    if (err)
        return err;
    d->kv->half = d->compute.ops->half;
    d->x = floats(DECODER_ROWS_MAX, d->n_embd);
    d->h = floats(DECODER_ROWS_MAX, d->n_embd);
    d->q = floats(DECODER_ROWS_MAX, q_dim);
    d->k = floats(DECODER_ROWS_MAX, kv_dim);
    d->v = floats(DECODER_ROWS_MAX, kv_dim);
    d->mixed = floats(DECODER_ROWS_MAX, q_dim);
    d->gate = floats(DECODER_ROWS_MAX, d->n_ff);
    d->up = floats(DECODER_ROWS_MAX, d->n_ff);
    d->cosine = floats(DECODER_ROWS_MAX, d->n_rope / 2 * rope_sets(d));
    d->sine = floats(DECODER_ROWS_MAX, d->n_rope / 2 * rope_sets(d));
    if (d->n_expert) {
        struct decoder_moe *m = &d->moe;
        m->logits = floats(DECODER_ROWS_MAX, d->n_expert);
        m->shares = floats(DECODER_ROWS_MAX, d->n_expert_used);
        m->in = floats(DECODER_ROWS_MAX, d->n_embd);
        m->out = floats(DECODER_ROWS_MAX, d->n_embd);
        m->chosen = cairn_calloc((size_t)DECODER_ROWS_MAX * d->n_expert_used, sizeof *m->chosen);
        m->from = cairn_calloc((size_t)DECODER_ROWS_MAX * d->n_expert_used, sizeof *m->from);
        if (!m->logits || !m->shares || !m->in || !m->out || !m->chosen || !m->from)
            return cairn_fail(why, CAIRN_ENOMEM, "rows of %u experts", d->n_expert);
    }
    if (!d->x || !d->h || !d->q || !d->k || !d->v || !d->mixed || !d->gate || !d->up || !d->cosine ||
        !d->sine)
        return cairn_fail(why, CAIRN_ENOMEM, "activations for %d tokens of width %u", DECODER_ROWS_MAX,
                          d->n_embd);
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

/* tmpl CHAT_NONE: as the file looks. */
static enum cairn_err open_path(struct decoder **out, const char *path, const char *name,
                                enum chat_template tmpl, bool need_tokenizer, const struct model_opts *o,
                                struct cairn_why *why)
{
    static const struct model_opts defaults;
    *out = NULL;
    o = o ? o : &defaults;
    struct decoder *d = cairn_calloc(1, sizeof *d);
    if (!d)
        return cairn_fail(why, CAIRN_ENOMEM, "decoder handle");
    enum cairn_err err = CAIRN_OK;
    if (pthread_mutex_init(&d->lock, NULL) || pthread_mutex_init(&d->kv_lock, NULL)) {
        err = cairn_fail(why, CAIRN_ENOMEM, "decoder lock");
        goto done;
    }
    d->lock_ready = true;
    d->name = cairn_strdup(name);
    if (!d->name) {
        err = cairn_fail(why, CAIRN_ENOMEM, "decoder name");
        goto done;
    }
    if ((err = model_file_open(&d->file, path, why)) || (err = read_hyper(d, o, why)) ||
        (err = read_rope(d, why)) || (err = read_weights(d, why)) || (err = decoder_kv_open(d, o, why)) ||
        (err = make_room(d, o, why)))
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
    d->template = tmpl ? tmpl : chat_template_detect(d->file);
    decoder_device_open(d, o);
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
    return open_path(out, card->path, card->name, chat_template_by_name(card->template_name), true, o, why);
}

enum cairn_err decoder_open_file(struct decoder **out, const char *path, const struct model_opts *o,
                                 struct cairn_why *why)
{
    const char *slash = strrchr(path, '/');
    return open_path(out, path, slash ? slash + 1 : path, CHAT_NONE, false, o, why);
}

void decoder_close(struct decoder *d)
{
    if (!d)
        return;
    for (uint32_t i = 0; d->layers && i < d->n_layer; i++) {
        struct layer *l = &d->layers[i];
        float *vectors[] = {l->attn_norm, l->ffn_norm, l->q_bias, l->k_bias,         l->v_bias,
                            l->o_bias,    l->q_norm,   l->k_norm, l->attn_post_norm, l->ffn_post_norm};
        for (size_t j = 0; j < sizeof vectors / sizeof vectors[0]; j++)
            cairn_free(vectors[j]);
        cairn_free(l->experts);
    }
    cairn_free(d->layers);
    cairn_free(d->moe.chosen);
    cairn_free(d->moe.from);
    float *rooms[] = {d->output_norm, d->x,          d->h,          d->q,      d->k,
                      d->v,           d->mixed,      d->gate,       d->up,     d->cosine,
                      d->sine,        d->moe.logits, d->moe.shares, d->moe.in, d->moe.out};
    for (size_t j = 0; j < sizeof rooms / sizeof rooms[0]; j++)
        cairn_free(rooms[j]);
    cairn_free(d->rope_step);
    compute_release(&d->compute);
    decoder_device_close(d);
    prefix_close(d->prefix);
    kv_pool_close(d->kv);
    tokenizer_close(d->tokenizer);
    model_file_close(d->file);
    cairn_free(d->name);
    if (d->lock_ready) {
        pthread_mutex_destroy(&d->lock);
        pthread_mutex_destroy(&d->kv_lock);
    }
    cairn_free(d);
}
