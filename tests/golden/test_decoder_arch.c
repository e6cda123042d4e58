/* test_decoder_arch.c - a small random model of each architecture, written here as a GGUF file, against a
 * numpy float64 forward of the same weights (decoder_reference.py tiny wrote tests/golden/decoder/tiny.txt);
 * and files that an architecture does not allow. */
#include "check.h"
#include "unit/gguf_writer.h"

#include <cairn/model.h>
#include <math.h>

enum { EMBD = 64, HEADS = 4, VOCAB = 48, TOKENS = 20, TENSORS_MAX = 128 };

struct spec {
    const char *name, *arch;
    uint32_t head_dim, kv, layers, ff;
    float base;
    uint32_t window, experts, used;
    bool freqs, untied;
};
static const struct spec specs[] = {
    {"llama3",   "llama",    16, 2, 2, 96, 500000.0f,  0, 0, 0, true,  true },
    {"mistral",  "llama",    16, 1, 2, 96, 10000.0f,   7, 0, 0, false, true },
    {"mixtral",  "llama",    16, 2, 2, 64, 1000000.0f, 0, 4, 2, false, true },
    {"qwen3",    "qwen3",    32, 2, 2, 96, 1000000.0f, 0, 0, 0, false, false},
    {"qwen3moe", "qwen3moe", 32, 2, 2, 32, 1000000.0f, 0, 8, 3, false, true },
    {"gemma3",   "gemma3",   32, 1, 7, 96, 1000000.0f, 8, 0, 0, false, false},
};
enum { SPECS = sizeof specs / sizeof specs[0] };

static uint64_t splitmix(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* ---- files ---- */

struct tensor {
    char name[48];
    uint64_t dims[3];
    uint32_t n_dims;
};
struct model {
    struct tensor tensors[TENSORS_MAX];
    size_t n;
};

static void add(struct model *m, const char *prefix, const char *name, uint64_t k, uint64_t n,
                uint64_t experts)
{
    CHECK(m->n < TENSORS_MAX);
    struct tensor *t = &m->tensors[m->n++];
    snprintf(t->name, sizeof t->name, "%s%s.weight", prefix, name);
    *t = (struct tensor){
        .dims = {k, n, experts},
        .n_dims = experts ? 3
                  : n     ? 2
                          : 1
    };
    snprintf(t->name, sizeof t->name, "%s%s.weight", prefix, name);
}

static void tensors_of(const struct spec *s, struct model *m)
{
    bool gemma = !strcmp(s->arch, "gemma3"), qk = gemma || !strncmp(s->arch, "qwen3", 5);
    m->n = 0;
    add(m, "", "token_embd", EMBD, VOCAB, 0);
    add(m, "", "output_norm", EMBD, 0, 0);
    if (s->untied)
        add(m, "", "output", EMBD, VOCAB, 0);
    if (s->freqs)
        add(m, "", "rope_freqs", s->head_dim / 2, 0, 0);
    for (uint32_t i = 0; i < s->layers; i++) {
        char at[16];
        snprintf(at, sizeof at, "blk.%u.", i);
        add(m, at, "attn_norm", EMBD, 0, 0);
        add(m, at, "attn_q", EMBD, HEADS * s->head_dim, 0);
        add(m, at, "attn_k", EMBD, s->kv * s->head_dim, 0);
        add(m, at, "attn_v", EMBD, s->kv * s->head_dim, 0);
        add(m, at, "attn_output", HEADS * s->head_dim, EMBD, 0);
        if (qk) {
            add(m, at, "attn_q_norm", s->head_dim, 0, 0);
            add(m, at, "attn_k_norm", s->head_dim, 0, 0);
        }
        if (gemma) {
            add(m, at, "post_attention_norm", EMBD, 0, 0);
            add(m, at, "post_ffw_norm", EMBD, 0, 0);
        }
        add(m, at, "ffn_norm", EMBD, 0, 0);
        if (s->experts) {
            add(m, at, "ffn_gate_inp", EMBD, s->experts, 0);
            add(m, at, "ffn_gate_exps", EMBD, s->ff, s->experts);
            add(m, at, "ffn_up_exps", EMBD, s->ff, s->experts);
            add(m, at, "ffn_down_exps", s->ff, EMBD, s->experts);
        } else {
            add(m, at, "ffn_gate", EMBD, s->ff, 0);
            add(m, at, "ffn_up", EMBD, s->ff, 0);
            add(m, at, "ffn_down", s->ff, EMBD, 0);
        }
    }
}

static size_t elements(const struct tensor *t)
{
    size_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        n *= t->dims[i];
    return n;
}

static void put_values(struct cairn_buf *b, const struct tensor *t)
{
    uint64_t seed = 0xCBF29CE484222325u;
    for (const char *p = t->name; *p; p++)
        seed = (seed ^ (uint8_t)*p) * 0x100000001B3u;
    for (size_t i = 0; i < elements(t); i++) {
        float f = (float)((int64_t)(splitmix(seed, i) >> 40) - (1 << 23)) / (float)(1 << 25);
        if (strstr(t->name, "norm"))
            f += 1.0f;
        if (!strcmp(t->name, "rope_freqs.weight"))
            f = 4.5f + f * 14.0f;
        w_f32(b, f);
    }
}

static void put_u32(struct cairn_buf *b, const struct spec *s, const char *key, uint32_t v)
{
    char full[80];
    snprintf(full, sizeof full, "%s.%s", s->arch, key);
    w_kv_u32(b, full, v);
}
static void put_f32(struct cairn_buf *b, const struct spec *s, const char *key, float v)
{
    char full[80];
    snprintf(full, sizeof full, "%s.%s", s->arch, key);
    w_kv_f32(b, full, v);
}

static void write_model(const struct spec *s, const struct model *m, const char *path)
{
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    bool own_ff = !strcmp(s->arch, "qwen3moe"); /* experts of another size than the key that all files have */
    w_header(&b, m->n, 16 + own_ff);
    w_kv_string(&b, "general.architecture", s->arch);
    w_kv_string(&b, "tokenizer.ggml.model", "no_vocab");
    put_u32(&b, s, "vocab_size", VOCAB);
    put_u32(&b, s, "context_length", 256);
    put_u32(&b, s, "embedding_length", EMBD);
    put_u32(&b, s, "block_count", s->layers);
    put_u32(&b, s, "feed_forward_length", own_ff ? 3 * s->ff : s->ff);
    if (own_ff)
        put_u32(&b, s, "expert_feed_forward_length", s->ff);
    put_u32(&b, s, "attention.head_count", HEADS);
    put_u32(&b, s, "attention.head_count_kv", s->kv);
    put_u32(&b, s, "attention.key_length", s->head_dim);
    put_u32(&b, s, "attention.value_length", s->head_dim);
    put_u32(&b, s, "attention.sliding_window", s->window);
    put_u32(&b, s, "expert_count", s->experts);
    put_u32(&b, s, "expert_used_count", s->used);
    put_f32(&b, s, "attention.layer_norm_rms_epsilon", 1e-6f);
    put_f32(&b, s, "rope.freq_base", s->base);
    uint64_t offset = 0;
    for (size_t i = 0; i < m->n; i++) {
        const struct tensor *t = &m->tensors[i];
        w_tensor(&b, t->name, t->n_dims, t->dims, TENSOR_F32, offset);
        offset = (offset + elements(t) * 4 + 31) / 32 * 32;
    }
    for (size_t i = 0; i < m->n; i++) {
        w_pad(&b, 32);
        put_values(&b, &m->tensors[i]);
    }
    w_pad(&b, 32);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(b.bytes, 1, b.len, f) == b.len && fclose(f) == 0);
    cairn_buf_release(&b);
}

/* ---- tests ---- */

static double want[SPECS][TOKENS][VOCAB];

static int read_golden(void **state)
{
    UNUSED_STATE(state);
    FILE *f = fopen("tests/golden/decoder/tiny.txt", "r");
    static char line[1 << 14];
    if (!f)
        return -1;
    for (size_t i = 0; i < SPECS; i++)
        for (size_t t = 0; t < TOKENS; t++) {
            size_t n = strlen(specs[i].name);
            if (!fgets(line, sizeof line, f) || strncmp(line, specs[i].name, n) != 0 || line[n] != ' ')
                return -1;
            char *p = line + n;
            for (size_t v = 0; v < VOCAB; v++)
                want[i][t][v] = strtod(p, &p);
        }
    return fclose(f);
}

static void check_spec(size_t which, enum model_backend backend, struct cairn_pool *pool, const char *path)
{
    TEST_WHY;
    static float got[TOKENS * VOCAB];
    int32_t tokens[TOKENS];
    struct decoder *d = NULL;
    struct decoder_seq *s = NULL;
    for (size_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)(splitmix(7, i) % VOCAB);
    CHECK_OK(decoder_open_file(
        &d, path,
        &(struct model_opts){.pool = pool, .backend = backend, .cache_type = CACHE_F32, .exact = true},
        &why));
    CHECK_OK(decoder_seq_open(&s, d, 64, &why));
    for (int way = 0; way < 3; way++) { /* at once; in two; the last five one by one */
        size_t cut = way == 0 ? TOKENS : way == 1 ? 11 : TOKENS - 5;
        decoder_seq_truncate(s, 0);
        CHECK_OK(decoder_eval(s, tokens, cut, true, got, NULL, &why));
        for (size_t i = cut, n; i < TOKENS; i += n) {
            n = way == 1 ? TOKENS - cut : 1;
            CHECK_OK(decoder_eval(s, tokens + i, n, true, got + i * VOCAB, NULL, &why));
        }
        for (size_t t = 0; t < TOKENS; t++) {
            double off = 0, size = 0;
            for (size_t v = 0; v < VOCAB; v++) {
                double e = (double)got[t * VOCAB + v] - want[which][t][v];
                off += e * e;
                size += want[which][t][v] * want[which][t][v];
            }
            if (!(sqrt(off / size) <= 1e-3))
                print_error("%s, %s: way %d, token %zu\n", specs[which].name, decoder_backend_name(d), way,
                            t);
            CHECK_LE(sqrt(off / size), 1e-3);
        }
    }
    decoder_seq_close(s);
    decoder_close(d);
}

static void each_architecture_gives_the_logits_of_the_reference(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const enum model_backend backends[] = {BACKEND_SCALAR, BACKEND_BLAS, BACKEND_AVX2, BACKEND_AVX512};
    static struct model m;
    char *dir = test_tmpdir(), path[512];
    struct cairn_pool *pool = NULL;
    CHECK_OK(cairn_pool_open(&pool, 2, &why));
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    for (size_t i = 0; i < SPECS; i++) {
        tensors_of(&specs[i], &m);
        write_model(&specs[i], &m, path);
        for (size_t b = 0; b < sizeof backends / sizeof backends[0]; b++)
            if (model_backend_available(backends[b]))
                check_spec(i, backends[b], pool, path);
    }
    cairn_pool_close(pool);
    test_rmdir(dir);
}

/* Experts gather rows of all sequences, and a layer may look back less far than its neighbours: neither may
 * show. */
static void a_sequence_gets_in_company_what_it_gets_alone(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static struct model m;
    char *dir = test_tmpdir(), path[512];
    int32_t tokens[TOKENS];
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    for (size_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)(splitmix(9, i) % VOCAB);
    for (size_t i = 0; i < SPECS; i++) {
        struct decoder *d = NULL;
        struct decoder_seq *s[4] = {NULL};
        float alone[2][VOCAB], together[2][VOCAB];
        tensors_of(&specs[i], &m);
        write_model(&specs[i], &m, path);
        CHECK_OK(decoder_open_file(&d, path, NULL, &why));
        for (size_t k = 0; k < 4; k++)
            CHECK_OK(decoder_seq_open(&s[k], d, 32, &why));
        for (size_t k = 0; k < 2; k++) /* of two, one has read ten tokens */
            CHECK_OK(decoder_eval(s[2 * k], tokens, 10, false, NULL, NULL, &why));
        const struct decoder_item items[] = {
            {.seq = s[0],            .tokens = tokens + 10, .n = 1,         .n_logits = 1 },
            {           .seq = s[1],  .tokens = tokens + 3,               .n = 12,  .n_logits = 1, .prompt = true},
            {           .seq = s[2], .tokens = tokens + 10,                .n = 1,  .n_logits = 1              },
            { .seq = s[3],               .tokens = tokens + 3,                       .n = 12, .n_logits = 1,               .prompt = true}
        };
        for (size_t k = 0; k < 2; k++)
            CHECK_OK(decoder_step(d, &items[k], 1, alone[k], &why));
        CHECK_OK(decoder_step(d, items + 2, 2, together[0], &why));
        CHECK(memcmp(alone, together, sizeof alone) == 0);
        for (size_t k = 0; k < 4; k++)
            decoder_seq_close(s[k]);
        decoder_close(d);
    }
    test_rmdir(dir);
}

/* What a file has that its architecture has not is refused, not left out; and what it lacks. */
static void a_file_of_another_shape_is_refused(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const struct {
        size_t spec;                /* whose tensors */
        const char *arch;           /* what the file calls itself */
        uint32_t experts, used;     /* what it says of them */
        const char *without, *said; /* a tensor left out; a word of the message */
        enum cairn_err want;
    } cases[] = {
        {3, "llama",  0, 0, NULL,                         "attn_q_norm",            CAIRN_EUNSUPPORTED},
        {5, "qwen3",  0, 0, NULL,                         "post_attention_norm",    CAIRN_EUNSUPPORTED},
        {0, "qwen3",  0, 0, NULL,                         "attn_q_norm",            CAIRN_ECORRUPT    },
        {5, "gemma3", 0, 0, "blk.6.post_ffw_norm.weight", "post_ffw_norm",          CAIRN_ECORRUPT    },
        {2, "qwen2",  4, 2, NULL,                         "qwen2.expert_count = 4", CAIRN_EUNSUPPORTED},
        {2, "llama",  8, 2, NULL,                         "ffn_gate_inp",           CAIRN_ECORRUPT    },
        {2, "llama",  4, 5, NULL,                         "expert_used_count = 5",  CAIRN_ECORRUPT    },
        {2, "llama",  4, 0, NULL,                         "expert_used_count = 0",  CAIRN_ECORRUPT    },
        {2, "llama",  0, 0, NULL,                         "blk.0.ffn_gate.weight",  CAIRN_ECORRUPT    },
        {2, "llama",  4, 2, "blk.1.ffn_down_exps.weight", "converted again",        CAIRN_ECORRUPT    },
        {0, "llama",  4, 2, NULL,                         "ffn_gate_inp",           CAIRN_ECORRUPT    },
    };
    static struct model m;
    char *dir = test_tmpdir(), path[512];
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct spec s = specs[cases[i].spec];
        struct decoder *d = NULL;
        tensors_of(&s, &m);
        s.arch = cases[i].arch;
        s.experts = cases[i].experts;
        s.used = cases[i].used;
        for (size_t t = 0; t < m.n && cases[i].without; t++)
            if (!strcmp(m.tensors[t].name, cases[i].without))
                m.tensors[t] = m.tensors[--m.n];
        write_model(&s, &m, path);
        CHECK_ERR(decoder_open_file(&d, path, NULL, &why), cases[i].want);
        if (!strstr(why.text, cases[i].said))
            print_error("case %zu: %s\n", i, why.text);
        CHECK(d == NULL && strstr(why.text, cases[i].said));
    }
    test_rmdir(dir);
}

static void no_memory_is_an_error_and_a_step_takes_none(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static struct model m;
    char *dir = test_tmpdir(), path[512];
    int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    for (size_t i = 2; i < SPECS; i += 3) { /* mixtral, gemma3 */
        tensors_of(&specs[i], &m);
        write_model(&specs[i], &m, path);
        for (uint64_t nth = 1;; nth++) {
            struct decoder *d = NULL;
            struct decoder_seq *s = NULL;
            cairn_alloc_fail_after(nth, true);
            enum cairn_err err = decoder_open_file(&d, path, &(struct model_opts){.n_ctx = 64}, &why);
            if (!err)
                err = decoder_seq_open(&s, d, 0, &why);
            uint64_t before = cairn_alloc_count();
            if (!err) {
                CHECK_OK(decoder_eval(s, tokens, 10, false, NULL, NULL, &why));
                CHECK_U64_EQ(cairn_alloc_count(), before);
            }
            cairn_alloc_fail_after(0, false);
            decoder_seq_close(s);
            decoder_close(d);
            if (!err)
                break;
            CHECK_I64_EQ(err, CAIRN_ENOMEM);
        }
    }
    test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_architecture_gives_the_logits_of_the_reference),
        TEST(a_sequence_gets_in_company_what_it_gets_alone),
        TEST(a_file_of_another_shape_is_refused),
        TEST(no_memory_is_an_error_and_a_step_takes_none),
    };
    return cmocka_run_group_tests(tests, read_golden, NULL);
}
