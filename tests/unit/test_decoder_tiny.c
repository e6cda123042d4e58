/* test_decoder_tiny.c - small random models, written here as GGUF files in every weight type, against a
 * forward in double written here: both families, grouped heads, windows, biases, tied and untied heads; and
 * files that lie. */
#include "check.h"

#include <cairn/model.h>
#include <math.h>

enum {
    EMBD = 256,
    FF = 512,
    HEADS = 4,
    KV = 2,
    HD = 64,
    LAYERS = 2,
    VOCAB = 50,
    TOKENS = 40,
    TENSORS_MAX = 64
};
static const double rope_base = 10000.0;

struct tensor {
    char name[40];
    enum tensor_type type;
    size_t k, n, bytes;
    uint8_t *data;
};
struct tiny {
    bool qwen, tied;
    enum tensor_type type;
    struct tensor tensors[TENSORS_MAX];
    size_t n;
};

static void fill(struct tensor *t, uint64_t *seed)
{
    static const struct {
        enum tensor_type type;
        uint16_t first, second; /* halves that give weights of about 0.06 */
    } scales[] = {
        {TENSOR_Q4_0, 0x2000, 0     },
        {TENSOR_Q4_1, 0x2000, 0xab80},
        {TENSOR_Q5_0, 0x1c00, 0     },
        {TENSOR_Q5_1, 0x1c00, 0xabc0},
        {TENSOR_Q8_0, 0x1000, 0     },
        {TENSOR_Q4_K, 0x0c00, 0x1800},
        {TENSOR_Q5_K, 0x0800, 0x1800},
        {TENSOR_Q6_K, 0x0400, 0     },
    };
    size_t total = t->k * t->n;
    for (size_t i = 0; i < total && t->type == TENSOR_F32; i++) {
        float f = (float)((double)(test_rand(seed) >> 11) * 0x1p-52 - 1.0) * 0.1f + (t->n == 1 ? 0.8f : 0.0f);
        memcpy(t->data + 4 * i, &f, 4);
    }
    if (t->type == TENSOR_F32)
        return;
    for (size_t i = 0; i < t->bytes; i++)
        t->data[i] = (uint8_t)test_rand(seed);
    for (size_t i = 0; i < total && (t->type == TENSOR_F16 || t->type == TENSOR_BF16); i++) {
        uint64_t r = test_rand(seed);
        uint16_t h = (uint16_t)((t->type == TENSOR_F16 ? 0x2800 + r % 0x400 : 0x3d00 + r % 0x80) +
                                (r >> 60 & 1) * 0x8000);
        memcpy(t->data + 2 * i, &h, 2);
    }
    for (size_t s = 0; s < sizeof scales / sizeof scales[0]; s++)
        if (scales[s].type == t->type) {
            size_t block = t->type >= TENSOR_Q4_K ? 256 : 32, size = tensor_type_bytes(t->type, block);
            for (size_t at = 0; at < t->bytes; at += size) {
                memcpy(t->data + at + (t->type == TENSOR_Q6_K ? 208 : 0), &scales[s].first, 2);
                if (scales[s].second)
                    memcpy(t->data + at + 2, &scales[s].second, 2);
            }
        }
}

static void put(struct tiny *m, enum tensor_type type, size_t k, size_t n, uint64_t *seed, const char *format,
                unsigned layer)
{
    CHECK(m->n < TENSORS_MAX);
    struct tensor *t = &m->tensors[m->n++];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(t->name, sizeof t->name, format, layer);
#pragma GCC diagnostic pop
    t->type = type;
    t->k = k;
    t->n = n;
    t->bytes = tensor_type_bytes(type, k) * n;
    t->data = malloc(t->bytes);
    fill(t, seed);
}

static struct tiny *tiny_new(bool qwen, bool tied, enum tensor_type type, uint64_t seed)
{
    struct tiny *m = calloc(1, sizeof *m);
    m->qwen = qwen;
    m->tied = tied;
    m->type = type;
    put(m, type, EMBD, VOCAB, &seed, "token_embd.weight", 0);
    if (!tied)
        put(m, type, EMBD, VOCAB, &seed, "output.weight", 0);
    put(m, TENSOR_F32, EMBD, 1, &seed, "output_norm.weight", 0);
    for (unsigned i = 0; i < LAYERS; i++) {
        put(m, TENSOR_F32, EMBD, 1, &seed, "blk.%u.attn_norm.weight", i);
        put(m, TENSOR_F32, EMBD, 1, &seed, "blk.%u.ffn_norm.weight", i);
        put(m, type, EMBD, HEADS * HD, &seed, "blk.%u.attn_q.weight", i);
        put(m, type, EMBD, KV * HD, &seed, "blk.%u.attn_k.weight", i);
        put(m, type, EMBD, KV * HD, &seed, "blk.%u.attn_v.weight", i);
        put(m, type, HEADS * HD, EMBD, &seed, "blk.%u.attn_output.weight", i);
        put(m, type, EMBD, FF, &seed, "blk.%u.ffn_gate.weight", i);
        put(m, type, EMBD, FF, &seed, "blk.%u.ffn_up.weight", i);
        put(m, type, FF, EMBD, &seed, "blk.%u.ffn_down.weight", i);
        if (qwen) {
            put(m, TENSOR_F32, HEADS * HD, 1, &seed, "blk.%u.attn_q.bias", i);
            put(m, TENSOR_F32, KV * HD, 1, &seed, "blk.%u.attn_k.bias", i);
            put(m, TENSOR_F32, KV * HD, 1, &seed, "blk.%u.attn_v.bias", i);
        }
    }
    return m;
}
static void tiny_free(struct tiny *m)
{
    for (size_t i = 0; i < m->n; i++)
        free(m->tensors[i].data);
    free(m);
}

/* ---- GGUF
 * ------------------------------------------------------------------------------------------------------- */

static void w32(FILE *f, uint32_t v) { fwrite(&v, 4, 1, f); }
static void w64(FILE *f, uint64_t v) { fwrite(&v, 8, 1, f); }
static void wstr(FILE *f, const char *s)
{
    w64(f, strlen(s));
    fwrite(s, 1, strlen(s), f);
}
struct kv_lie {
    const char *key; /* without the architecture */
    uint32_t value;
};
static void kv_u32(FILE *f, const char *arch, const char *key, uint32_t v, const struct kv_lie *lie)
{
    char full[80];
    snprintf(full, sizeof full, "%s.%s", arch, key);
    wstr(f, full);
    w32(f, 4);
    w32(f, lie && !strcmp(lie->key, key) ? lie->value : v);
}
static void tiny_write(const struct tiny *m, const char *path, const char *name, const char *arch,
                       const struct kv_lie *lie)
{
    FILE *f = fopen(path, "wb");
    CHECK(f != NULL);
    w32(f, 0x46554747);
    w32(f, 3);
    w64(f, m->n);
    w64(f, 10);
    wstr(f, "general.architecture");
    w32(f, 8);
    wstr(f, arch);
    wstr(f, "general.name");
    w32(f, 8);
    wstr(f, name);
    kv_u32(f, arch, "context_length", 8192, lie);
    kv_u32(f, arch, "embedding_length", EMBD, lie);
    kv_u32(f, arch, "block_count", LAYERS, lie);
    kv_u32(f, arch, "feed_forward_length", FF, lie);
    kv_u32(f, arch, "attention.head_count", HEADS, lie);
    kv_u32(f, arch, "attention.head_count_kv", KV, lie);
    kv_u32(f, arch, "rope.dimension_count", HD, lie);
    char key[80];
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    wstr(f, key);
    w32(f, 6);
    float eps = 1e-5f;
    fwrite(&eps, 4, 1, f);
    uint64_t offset = 0;
    for (size_t i = 0; i < m->n; i++) {
        const struct tensor *t = &m->tensors[i];
        wstr(f, t->name);
        w32(f, t->n == 1 ? 1 : 2);
        w64(f, t->k);
        if (t->n != 1)
            w64(f, t->n);
        w32(f, (uint32_t)t->type);
        w64(f, offset);
        offset = (offset + t->bytes + 31) / 32 * 32;
    }
    for (size_t i = 0; i < m->n; i++) {
        while (ftell(f) % 32)
            fputc(0, f);
        fwrite(m->tensors[i].data, 1, m->tensors[i].bytes, f);
    }
    while (ftell(f) % 32)
        fputc(0, f);
    CHECK(fclose(f) == 0);
}

/* ---- the same in double
 * ----------------------------------------------------------------------------------------- */

static double *dense(const struct tiny *m, const char *format, unsigned layer) /* NULL: none */
{
    char name[40];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(name, sizeof name, format, layer);
#pragma GCC diagnostic pop
    for (size_t i = 0; i < m->n; i++)
        if (!strcmp(m->tensors[i].name, name)) {
            size_t total = m->tensors[i].k * m->tensors[i].n;
            float *f = malloc(total * sizeof *f);
            double *d = malloc(total * sizeof *d);
            tensor_dequantize(m->tensors[i].type, m->tensors[i].data, f, total);
            for (size_t j = 0; j < total; j++)
                d[j] = (double)f[j];
            free(f);
            return d;
        }
    return NULL;
}
static void product(const struct tiny *m, const char *what, unsigned layer, const double *x, double *y,
                    size_t k, size_t n, bool add)
{
    char name[40];
    snprintf(name, sizeof name, "blk.%%u.%s.weight", what);
    double *w = dense(m, name, layer);
    snprintf(name, sizeof name, "blk.%%u.%s.bias", what);
    double *b = dense(m, name, layer);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t o = 0; o < n; o++) {
            double s = b ? b[o] : 0;
            for (size_t i = 0; i < k; i++)
                s += w[o * k + i] * x[t * k + i];
            y[t * n + o] = add ? y[t * n + o] + s : s;
        }
    free(w);
    free(b);
}
static void norm(const struct tiny *m, const char *name, unsigned layer, const double *x, double *y)
{
    double *w = dense(m, name, layer);
    for (size_t t = 0; t < TOKENS; t++) {
        double s = 0;
        for (size_t i = 0; i < EMBD; i++)
            s += x[t * EMBD + i] * x[t * EMBD + i];
        for (size_t i = 0; i < EMBD; i++)
            y[t * EMBD + i] = x[t * EMBD + i] / sqrt(s / EMBD + 1e-5) * w[i];
    }
    free(w);
}
static void turn(double *x, size_t heads, bool halves)
{
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < HD / 2; i++) {
                double angle = (double)t * pow(rope_base, -2.0 * (double)i / HD);
                double *p = x + (t * heads + h) * HD, *a = p + (halves ? i : 2 * i),
                       *b = p + (halves ? i + HD / 2 : 2 * i + 1);
                double u = *a * cos(angle) - *b * sin(angle), v = *a * sin(angle) + *b * cos(angle);
                *a = u;
                *b = v;
            }
}
static void forward(const struct tiny *m, const int32_t *tokens, size_t window, double *logits)
{
    static double x[TOKENS * EMBD], h[TOKENS * EMBD], q[TOKENS * HEADS * HD], k[TOKENS * KV * HD],
        v[TOKENS * KV * HD], mixed[TOKENS * HEADS * HD], gate[TOKENS * FF], up[TOKENS * FF];
    double *embedding = dense(m, "token_embd.weight", 0),
           *head = m->tied ? dense(m, "token_embd.weight", 0) : dense(m, "output.weight", 0);
    for (size_t t = 0; t < TOKENS; t++)
        memcpy(x + t * EMBD, embedding + (size_t)tokens[t] * EMBD, EMBD * sizeof *x);
    for (unsigned l = 0; l < LAYERS; l++) {
        norm(m, "blk.%u.attn_norm.weight", l, x, h);
        product(m, "attn_q", l, h, q, EMBD, HEADS * HD, false);
        product(m, "attn_k", l, h, k, EMBD, KV * HD, false);
        product(m, "attn_v", l, h, v, EMBD, KV * HD, false);
        turn(q, HEADS, m->qwen);
        turn(k, KV, m->qwen);
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t a = 0; a < HEADS; a++) {
                size_t g = a / (HEADS / KV), from = window && t + 1 > window ? t + 1 - window : 0;
                double p[TOKENS], sum = 0, *out = mixed + (t * HEADS + a) * HD;
                for (size_t j = from; j <= t; j++) {
                    double s = 0;
                    for (size_t i = 0; i < HD; i++)
                        s += q[(t * HEADS + a) * HD + i] * k[(j * KV + g) * HD + i];
                    p[j] = exp(s / sqrt(HD));
                    sum += p[j];
                }
                for (size_t i = 0; i < HD; i++) {
                    out[i] = 0;
                    for (size_t j = from; j <= t; j++)
                        out[i] += p[j] / sum * v[(j * KV + g) * HD + i];
                }
            }
        product(m, "attn_output", l, mixed, x, HEADS * HD, EMBD, true);
        norm(m, "blk.%u.ffn_norm.weight", l, x, h);
        product(m, "ffn_gate", l, h, gate, EMBD, FF, false);
        product(m, "ffn_up", l, h, up, EMBD, FF, false);
        for (size_t i = 0; i < TOKENS * FF; i++)
            gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
        product(m, "ffn_down", l, gate, x, FF, EMBD, true);
    }
    norm(m, "output_norm.weight", 0, x, h);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t o = 0; o < VOCAB; o++) {
            double s = 0;
            for (size_t i = 0; i < EMBD; i++)
                s += head[o * EMBD + i] * h[t * EMBD + i];
            logits[t * VOCAB + o] = s;
        }
    free(embedding);
    free(head);
}

/* ---- tests
 * ------------------------------------------------------------------------------------------------------ */

static void check(bool qwen, bool tied, enum tensor_type type, uint32_t window)
{
    TEST_WHY;
    static const enum model_backend backends[] = {BACKEND_SCALAR, BACKEND_BLAS, BACKEND_AVX2, BACKEND_AVX512,
                                                  BACKEND_CUDA};
    char *dir = test_tmpdir(), path[512];
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    struct tiny *m = tiny_new(qwen, tied, type, 77 + (uint64_t)type);
    tiny_write(m, path, "tiny", qwen ? "qwen2" : "llama", NULL);
    int32_t tokens[TOKENS];
    uint64_t seed = 21;
    for (size_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)(test_rand(&seed) % VOCAB);
    static double want[TOKENS * VOCAB];
    static float got[TOKENS * VOCAB];
    forward(m, tokens, window, want);
    struct cairn_pool *pool = NULL;
    CHECK_OK(cairn_pool_open(&pool, 2, &why));
    /* keys and values of float32 add no error of their own to the kernels', those of 16 bits a little; a
     * prompt's inputs of 8 bits, which rows of this width feel most, more */
    static const struct {
        enum cache_type cache;
        bool exact;
        double bound;
    } ways[] = {
        {CACHE_F32, true,  1e-3},
        {CACHE_F16, true,  3e-3},
        {CACHE_F32, false, 5e-2}
    };
    enum { WAYS = sizeof ways / sizeof ways[0] };
    for (size_t b = 0; b < WAYS * sizeof backends / sizeof backends[0]; b++) {
        enum model_backend backend = backends[b / WAYS];
        double bound = ways[b % WAYS].bound;
        if (!model_backend_available(backend) || (backend == BACKEND_CUDA && b % WAYS != 1))
            continue;
        struct decoder *d = NULL;
        struct decoder_seq *s = NULL;
        CHECK_OK(decoder_open_file(&d, path,
                                   &(struct model_opts){.pool = pool,
                                                        .backend = backend,
                                                        .n_ctx = 64,
                                                        .window = window,
                                                        .cache_type = ways[b % WAYS].cache,
                                                        .exact = ways[b % WAYS].exact},
                                   &why));
        CHECK_STR_EQ(decoder_backend_name(d), model_backend_name(backend));
        CHECK_OK(decoder_seq_open(&s, d, 0, &why));
        for (int way = 0; way < 3; way++) { /* at once; in two; the last five one by one */
            decoder_seq_truncate(s, 0);
            size_t cut = way == 0 ? TOKENS : way == 1 ? 17 : TOKENS - 5;
            CHECK_OK(decoder_eval(s, tokens, cut, true, got, NULL, &why));
            for (size_t i = cut; i < TOKENS;) {
                size_t n = way == 1 ? TOKENS - cut : 1;
                CHECK_OK(decoder_eval(s, tokens + i, n, true, got + i * VOCAB, NULL, &why));
                i += n;
            }
            CHECK_I64_EQ(decoder_seq_len(s), TOKENS);
            for (size_t t = 0; t < TOKENS; t++) {
                double off = 0, size = 0;
                for (size_t i = 0; i < VOCAB; i++) {
                    double e = (double)got[t * VOCAB + i] - want[t * VOCAB + i];
                    off += e * e;
                    size += want[t * VOCAB + i] * want[t * VOCAB + i];
                }
                if (!(sqrt(off / size) < bound))
                    print_error("%s %s way %d token %zu\n", decoder_backend_name(d), tensor_type_name(type),
                                way, t);
                CHECK_LE(sqrt(off / size), bound);
            }
        }
        float last[VOCAB];
        decoder_seq_truncate(s, TOKENS - 1);
        CHECK_OK(decoder_eval(s, tokens + TOKENS - 1, 1, false, last, NULL, &why));
        for (size_t i = 0; i < VOCAB; i++)
            CHECK_NEAR(last[i], got[(TOKENS - 1) * VOCAB + i], 1e-2);
        decoder_seq_close(s);
        decoder_close(d);
    }
    cairn_pool_close(pool);
    tiny_free(m);
    test_rmdir(dir);
}

static void every_weight_type_gives_the_right_logits(void **state)
{
    UNUSED_STATE(state);
    static const enum tensor_type types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q4_0,
                                             TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1, TENSOR_Q8_0,
                                             TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        check(i % 2, i % 3 == 0, types[i], 0);
}
static void both_families_tied_and_untied_with_and_without_a_window(void **state)
{
    UNUSED_STATE(state);
    for (int i = 0; i < 8; i++)
        check(i & 1, i & 2, TENSOR_Q8_0, i & 4 ? 7 : 0);
}

static void files_that_lie_are_refused(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const struct kv_lie lies[] = {
        {"embedding_length",        512},
        {"block_count",             3  },
        {"feed_forward_length",     256},
        {"attention.head_count",    2  },
        {"attention.head_count_kv", 4  },
        {"attention.head_count_kv", 3  },
        {"attention.head_count",    0  },
        {"embedding_length",        0  },
        {"rope.dimension_count",    128},
    };
    char *dir = test_tmpdir(), path[512];
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    struct tiny *m = tiny_new(false, true, TENSOR_Q8_0, 5);
    struct decoder *d = NULL;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        tiny_write(m, path, "tiny", "llama", &lies[i]);
        CHECK_ERR(decoder_open_file(&d, path, NULL, &why), CAIRN_ECORRUPT);
        CHECK(d == NULL);
    }
    tiny_write(m, path, "tiny", "mamba", NULL);
    CHECK_ERR(decoder_open_file(&d, path, NULL, &why), CAIRN_EUNSUPPORTED);
    m->n--; /* the last tensor is missing */
    tiny_write(m, path, "tiny", "llama", NULL);
    CHECK_ERR(decoder_open_file(&d, path, NULL, &why), CAIRN_ECORRUPT);
    m->n++;
    tiny_write(m, path, "tiny", "llama", NULL);
    CHECK_ERR(decoder_open_file(&d, path, &(struct model_opts){.n_ctx = 9000}, &why), CAIRN_EINVAL);
    struct model_card card = {.name = (char[]){"tiny"}, .path = path};
    CHECK_ERR(decoder_open(&d, &card, NULL, &why), CAIRN_ECORRUPT); /* no tokenizer */
    tiny_free(m);
    test_rmdir(dir);
}

static void no_memory_is_an_error_and_not_a_leak(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir(), path[512];
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    struct tiny *m = tiny_new(true, false, TENSOR_Q8_0, 5);
    tiny_write(m, path, "tiny", "qwen2", NULL);
    int32_t token = 1;
    for (uint64_t nth = 1;; nth++) {
        struct decoder *d = NULL;
        struct decoder_seq *s = NULL;
        cairn_alloc_fail_after(nth, true);
        enum cairn_err err = decoder_open_file(&d, path, &(struct model_opts){.n_ctx = 64}, &why);
        if (!err)
            err = decoder_seq_open(&s, d, 0, &why);
        uint64_t before = cairn_alloc_count();
        if (!err) {
            CHECK_OK(decoder_eval(s, &token, 1, false, NULL, NULL, &why));
            CHECK_I64_EQ(cairn_alloc_count(), before); /* a step allocates nothing */
        }
        cairn_alloc_fail_after(0, false);
        decoder_seq_close(s);
        decoder_close(d);
        if (!err)
            break;
        CHECK_I64_EQ(err, CAIRN_ENOMEM);
    }
    tiny_free(m);
    test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_weight_type_gives_the_right_logits),
        TEST(both_families_tied_and_untied_with_and_without_a_window),
        TEST(files_that_lie_are_refused),
        TEST(no_memory_is_an_error_and_not_a_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
