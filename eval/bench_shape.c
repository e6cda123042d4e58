/* eval/bench_shape.c - GGUF files of random weights in known shapes. Speed depends on shapes and types alone,
 * so models that no package carries can be measured, on both sides, from a file made here. Values are small
 * enough that activations stay finite through all layers. */
#include "model_runs.h"

#include "run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ALIGNMENT = 32, PATTERN = 1 << 20, TENSORS_A_LAYER = 9 };

static const struct shape {
    const char *name;
    uint32_t n_layer, n_embd, n_head, n_kv_head, n_ff, n_vocab, n_ctx;
    float rope_base;
    bool tied;
    enum tensor_type type;
} shapes[] = {
    {"smollm2-135m-q8_0", 30, 576,  9,  3, 1536,  49152, 8192,  1e5f, true,  TENSOR_Q8_0},
    {"smollm2-135m-q4_0", 30, 576,  9,  3, 1536,  49152, 8192,  1e5f, true,  TENSOR_Q4_0},
    {"mistral-7b-q4_0",   32, 4096, 32, 8, 14336, 32000, 32768, 1e4f, false, TENSOR_Q4_0},
    {"mistral-7b-q8_0",   32, 4096, 32, 8, 14336, 32000, 32768, 1e4f, false, TENSOR_Q8_0},
};
#define N_SHAPES (sizeof shapes / sizeof shapes[0])

struct writer {
    FILE *f;
    struct cairn_buf head;
    uint64_t n_tensors, offset; /* offset of the next tensor's bytes */
    bool bytes;                 /* the second round: bytes instead of entries */
    uint8_t *pattern;
    uint64_t state;
    const struct cairn_stop *stop;
};

static void put_u32(struct cairn_buf *b, uint32_t v) { cairn_buf_put(b, &v, sizeof v); }
static void put_u64(struct cairn_buf *b, uint64_t v) { cairn_buf_put(b, &v, sizeof v); }
static void put_text(struct cairn_buf *b, const char *s)
{
    put_u64(b, strlen(s));
    cairn_buf_puts(b, s);
}
static void kv_text(struct cairn_buf *b, const char *key, const char *v)
{
    put_text(b, key);
    put_u32(b, 8);
    put_text(b, v);
}
static void kv_u32(struct cairn_buf *b, const char *key, uint32_t v)
{
    put_text(b, key);
    put_u32(b, 4);
    put_u32(b, v);
}
static void kv_f32(struct cairn_buf *b, const char *key, float v)
{
    put_text(b, key);
    put_u32(b, 6);
    cairn_buf_put(b, &v, sizeof v);
}

/* Whole blocks of a type, random but for their scale: a half whose weights come to about 0.02. */
static size_t make_pattern(struct writer *w, enum tensor_type type)
{
    size_t block = tensor_type_bytes(type, 32), n = PATTERN / block * block;
    uint16_t scale = type == TENSOR_Q8_0 ? 0x0a00 : 0x1a00; /* 1.8e-4 and 2.9e-3 */
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t r = lab_rand(&w->state);
        memcpy(w->pattern + i, &r, sizeof r);
    }
    for (size_t i = 0; i < n; i += block)
        memcpy(w->pattern + i, &scale, sizeof scale);
    return n;
}

static enum cairn_err tensor(struct writer *w, const char *name, enum tensor_type type, uint64_t k,
                             uint64_t n, struct cairn_why *why)
{
    uint64_t total = tensor_type_bytes(type, k) * n,
             padded = (total + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
    if (!w->bytes) {
        put_text(&w->head, name);
        put_u32(&w->head, n > 1 ? 2 : 1);
        put_u64(&w->head, k);
        if (n > 1)
            put_u64(&w->head, n);
        put_u32(&w->head, (uint32_t)type);
        put_u64(&w->head, w->offset);
        w->offset += padded;
        w->n_tensors++;
        return CAIRN_OK;
    }
    size_t have = PATTERN;
    if (type == TENSOR_F32) {
        float one = 1;
        for (size_t i = 0; i < PATTERN; i += sizeof one)
            memcpy(w->pattern + i, &one, sizeof one);
    } else {
        have = make_pattern(w, type);
    }
    for (uint64_t at = 0; at < total;) {
        size_t part = total - at < have ? (size_t)(total - at) : have;
        enum cairn_err err = cairn_stopped(w->stop, why);
        if (err)
            return err;
        if (fwrite(w->pattern, 1, part, w->f) != part)
            return cairn_fail_errno(why, errno, "writing tensor %s", name);
        at += part;
    }
    static const uint8_t zeros[ALIGNMENT];
    if (fwrite(zeros, 1, (size_t)(padded - total), w->f) != padded - total)
        return cairn_fail_errno(why, errno, "writing tensor %s", name);
    return CAIRN_OK;
}

static enum cairn_err tensors(struct writer *w, const struct shape *s, struct cairn_why *why)
{
    uint64_t kv = (uint64_t)s->n_embd / s->n_head * s->n_kv_head;
    const struct {
        const char *name;
        enum tensor_type type;
        uint64_t k, n;
    } each[TENSORS_A_LAYER] = {
        {"attn_norm",   TENSOR_F32, s->n_embd, 1        },
        {"attn_q",      s->type,    s->n_embd, s->n_embd},
        {"attn_k",      s->type,    s->n_embd, kv       },
        {"attn_v",      s->type,    s->n_embd, kv       },
        {"attn_output", s->type,    s->n_embd, s->n_embd},
        {"ffn_norm",    TENSOR_F32, s->n_embd, 1        },
        {"ffn_gate",    s->type,    s->n_embd, s->n_ff  },
        {"ffn_up",      s->type,    s->n_embd, s->n_ff  },
        {"ffn_down",    s->type,    s->n_ff,   s->n_embd},
    };
    enum cairn_err err = tensor(w, "token_embd.weight", s->type, s->n_embd, s->n_vocab, why);
    if (!err)
        err = tensor(w, "output_norm.weight", TENSOR_F32, s->n_embd, 1, why);
    if (!err && !s->tied)
        err = tensor(w, "output.weight", s->type, s->n_embd, s->n_vocab, why);
    for (uint32_t i = 0; i < s->n_layer; i++)
        for (size_t j = 0; j < TENSORS_A_LAYER && !err; j++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%u.%s.weight", i, each[j].name);
            err = tensor(w, name, each[j].type, each[j].k, each[j].n, why);
        }
    return err;
}

static void metadata(struct cairn_buf *b, const struct shape *s, uint64_t n_tensors)
{
    uint32_t file_type = s->type == TENSOR_Q8_0 ? 7 : 2;
    cairn_buf_puts(b, "GGUF");
    put_u32(b, 3);
    put_u64(b, n_tensors);
    put_u64(b, 14);
    kv_text(b, "general.architecture", "llama");
    kv_text(b, "general.name", s->name);
    kv_u32(b, "general.file_type", file_type);
    kv_u32(b, "llama.block_count", s->n_layer);
    kv_u32(b, "llama.context_length", s->n_ctx);
    kv_u32(b, "llama.embedding_length", s->n_embd);
    kv_u32(b, "llama.feed_forward_length", s->n_ff);
    kv_u32(b, "llama.attention.head_count", s->n_head);
    kv_u32(b, "llama.attention.head_count_kv", s->n_kv_head);
    kv_u32(b, "llama.vocab_size", s->n_vocab);
    kv_u32(b, "llama.rope.dimension_count", s->n_embd / s->n_head);
    kv_f32(b, "llama.rope.freq_base", s->rope_base);
    kv_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    kv_text(b, "tokenizer.ggml.model", "no_vocab");
}

static enum cairn_err unknown(const char *name, struct cairn_why *why)
{
    struct cairn_buf names;
    cairn_buf_init(&names, 4096);
    for (size_t i = 0; i < N_SHAPES; i++)
        cairn_buf_printf(&names, "%s%s", i ? ", " : "", shapes[i].name);
    enum cairn_err err = cairn_fail(why, CAIRN_ENOTFOUND, "no shape \"%.60s\"; there are %s", name,
                                    names.bytes ? names.bytes : "none");
    cairn_buf_release(&names);
    return err;
}

enum cairn_err shape_write(const char *name, const char *path, const struct cairn_stop *stop,
                           struct cairn_why *why)
{
    const struct shape *s = NULL;
    for (size_t i = 0; i < N_SHAPES; i++)
        if (strcmp(shapes[i].name, name) == 0)
            s = &shapes[i];
    if (!s)
        return unknown(name, why);
    struct writer w = {.state = 0x5eed, .stop = stop, .pattern = cairn_malloc(PATTERN)};
    struct cairn_buf start;
    cairn_buf_init(&start, 1 << 20);
    cairn_buf_init(&w.head, 1 << 20);
    enum cairn_err err = w.pattern ? tensors(&w, s, why) : cairn_fail(why, CAIRN_ENOMEM, "shape %s", name);
    metadata(&start, s, w.n_tensors);
    if (!err && !cairn_buf_put(&start, w.head.bytes, w.head.len))
        err = cairn_fail(why, CAIRN_ENOMEM, "shape %s", name);
    while (!err && start.len % ALIGNMENT)
        cairn_buf_put(&start, "", 1);
    if (!err && !(w.f = fopen(path, "wbe")))
        err = cairn_fail_errno(why, errno, "%s", path);
    w.bytes = true;
    if (!err && fwrite(start.bytes, 1, start.len, w.f) != start.len)
        err = cairn_fail_errno(why, errno, "%s", path);
    if (!err)
        err = tensors(&w, s, why);
    if (w.f && fclose(w.f) && !err)
        err = cairn_fail_errno(why, errno, "%s", path);
    if (err && w.f)
        (void)unlink(path);
    cairn_buf_release(&start);
    cairn_buf_release(&w.head);
    cairn_free(w.pattern);
    return err ? cairn_wrap(why, err, "shape %s", name) : CAIRN_OK;
}
