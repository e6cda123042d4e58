/* test_encoder_arch.c - a small random nomic-bert, written here with GGUF's names and with its own in
 * safetensors, against a numpy float64 forward of the same weights (bert_reference.py tiny-nomic wrote
 * tests/golden/encoder/tiny-nomic.txt); and files that lack a part. */
#include "check.h"
#include "unit/gguf_writer.h"

#include <cairn/model.h>
#include <math.h>

enum { DIM = 64, HEADS = 2, FF = 96, LAYERS = 2, VOCAB = 48, TOKENS = 20, TENSORS = 4 + LAYERS * 9 };
static const size_t lens[] = {7, 1, 12};

struct tensor {
    char name[64], own[64]; /* in GGUF; the original's */
    size_t k, n;            /* n 0: a vector */
};

static uint64_t splitmix(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static void put_values(struct cairn_buf *b, const struct tensor *t)
{
    uint64_t seed = 0xCBF29CE484222325u;
    for (const char *p = t->name; *p; p++)
        seed = (seed ^ (uint8_t)*p) * 0x100000001B3u;
    for (size_t i = 0; i < t->k * (t->n ? t->n : 1); i++) {
        float f = (float)((int64_t)(splitmix(seed, i) >> 40) - (1 << 23)) / (float)(1 << 25);
        w_f32(b, strstr(t->name, "norm.weight") ? f + 1.0f : f);
    }
}

static void tensors_of(struct tensor t[TENSORS])
{
    static const struct {
        const char *name, *own;
        size_t k, n;
    } once[] =
        {
            {"token_embd.weight",      "embeddings.word_embeddings.weight",       DIM, VOCAB},
            {"token_types.weight",     "embeddings.token_type_embeddings.weight", DIM, 2    },
            {"token_embd_norm.weight", "emb_ln.weight",                           DIM, 0    },
            {"token_embd_norm.bias",   "emb_ln.bias",                             DIM, 0    },
    },
      each[] = {
          {"attn_qkv.weight", "attn.Wqkv.weight", DIM, 3 * DIM},
          {"attn_output.weight", "attn.out_proj.weight", DIM, DIM},
          {"attn_output_norm.weight", "norm1.weight", DIM, 0},
          {"attn_output_norm.bias", "norm1.bias", DIM, 0},
          {"ffn_up.weight", "mlp.fc11.weight", DIM, FF},
          {"ffn_gate.weight", "mlp.fc12.weight", DIM, FF},
          {"ffn_down.weight", "mlp.fc2.weight", FF, DIM},
          {"layer_output_norm.weight", "norm2.weight", DIM, 0},
          {"layer_output_norm.bias", "norm2.bias", DIM, 0},
      };
    size_t n = 0;
    for (size_t i = 0; i < 4; i++, n++) {
        t[n] = (struct tensor){.k = once[i].k, .n = once[i].n};
        snprintf(t[n].name, sizeof t[n].name, "%s", once[i].name);
        snprintf(t[n].own, sizeof t[n].own, "%s", once[i].own);
    }
    for (unsigned l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < 9; i++, n++) {
            t[n] = (struct tensor){.k = each[i].k, .n = each[i].n};
            snprintf(t[n].name, sizeof t[n].name, "blk.%u.%s", l, each[i].name);
            snprintf(t[n].own, sizeof t[n].own, "encoder.layers.%u.%s", l, each[i].own);
        }
    CHECK_U64_EQ(n, TENSORS);
}

static void write_buf(struct cairn_buf *b, const char *path)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(b->bytes, 1, b->len, f) == b->len && fclose(f) == 0);
    cairn_buf_release(b);
}

static void write_gguf(const struct tensor *t, size_t n, const char *path)
{
    struct cairn_buf b;
    uint64_t offset = 0;
    cairn_buf_init(&b, 0);
    w_header(&b, n, 6);
    w_kv_string(&b, "general.architecture", "nomic-bert");
    w_kv_u32(&b, "nomic-bert.attention.head_count", HEADS);
    w_kv_f32(&b, "nomic-bert.attention.layer_norm_epsilon", 1e-12f);
    w_kv_f32(&b, "nomic-bert.rope.freq_base", 1000.0f);
    w_kv_u32(&b, "nomic-bert.context_length", 128);
    w_kv_u32(&b, "nomic-bert.pooling_type", 1);
    for (size_t i = 0; i < n; i++) {
        w_tensor(&b, t[i].name, t[i].n ? 2 : 1, (const uint64_t[]){t[i].k, t[i].n}, TENSOR_F32, offset);
        offset = (offset + t[i].k * (t[i].n ? t[i].n : 1) * 4 + 31) / 32 * 32;
    }
    for (size_t i = 0; i < n; i++) {
        w_pad(&b, 32);
        put_values(&b, &t[i]);
    }
    w_pad(&b, 32);
    write_buf(&b, path);
}

static void write_safetensors(const struct tensor *t, size_t n, const char *path)
{
    struct cairn_buf b, head;
    size_t at = 0;
    cairn_buf_init(&b, 0);
    cairn_buf_init(&head, 0);
    for (size_t i = 0; i < n; i++) {
        size_t bytes = t[i].k * (t[i].n ? t[i].n : 1) * 4;
        char shape[48];
        snprintf(shape, sizeof shape, t[i].n ? "%zu,%zu" : "%zu", t[i].n ? t[i].n : t[i].k, t[i].k);
        cairn_buf_printf(&head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                         i ? "," : "{", t[i].own, shape, at, at + bytes);
        at += bytes;
    }
    cairn_buf_puts(&head, "}");
    w_string(&b, head.bytes);
    for (size_t i = 0; i < n; i++)
        put_values(&b, &t[i]);
    cairn_buf_release(&head);
    write_buf(&b, path);
}

static double want[TOKENS][DIM];
static struct tensor tensors[TENSORS];
static char *dir, file[512], vocab[512];

static int setup(void **state)
{
    UNUSED_STATE(state);
    FILE *f = fopen("tests/golden/encoder/tiny-nomic.txt", "r");
    for (size_t i = 0; i < TOKENS * DIM; i++)
        if (!f || fscanf(f, "%lf", &want[i / DIM][i % DIM]) != 1)
            return -1;
    fclose(f);
    tensors_of(tensors);
    dir = test_tmpdir();
    snprintf(file, sizeof file, "%s/model", dir);
    snprintf(vocab, sizeof vocab, "%s/vocab.txt", dir);
    f = fopen(vocab, "w");
    return !f || fputs("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n", f) < 0 || fclose(f) ? -1 : 0;
}
static int teardown(void **state)
{
    UNUSED_STATE(state);
    test_rmdir(dir);
    return 0;
}
static struct model_card card(void)
{
    static char name[] = "tiny";
    return (struct model_card){.name = name,
                               .path = file,
                               .vocab = vocab,
                               .n_head = HEADS,
                               .pooling = POOL_MEAN,
                               .layer_norm_eps = 1e-12,
                               .normalize = true};
}

static void nomic_bert_gives_the_rows_of_the_reference(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const enum model_backend backends[] = {BACKEND_SCALAR, BACKEND_BLAS, BACKEND_AVX2, BACKEND_AVX512};
    static float got[TOKENS * DIM];
    int32_t ids[TOKENS];
    for (size_t i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)(splitmix(7, i) % VOCAB);
    struct cairn_pool *pool = NULL;
    CHECK_OK(cairn_pool_open(&pool, 2, &why));
    for (int form = 0; form < 2; form++) {
        (form ? write_safetensors : write_gguf)(tensors, TENSORS, file);
        struct model_card c = card();
        for (size_t b = 0; b < sizeof backends / sizeof backends[0]; b++) {
            struct encoder *e = NULL;
            if (!model_backend_available(backends[b]))
                continue;
            CHECK_OK(encoder_open(&e, &c, &(struct model_opts){.pool = pool, .backend = backends[b]}, &why));
            CHECK_OK(encoder_forward(e, ids, NULL, lens, 3, got, NULL, &why));
            for (size_t t = 0; t < TOKENS; t++) {
                double off = 0, size = 0;
                for (size_t i = 0; i < DIM; i++) {
                    double d = (double)got[t * DIM + i] - want[t][i];
                    off += d * d;
                    size += want[t][i] * want[t][i];
                }
                CHECK_LE(sqrt(off / size), 1e-3);
            }
            encoder_close(e);
        }
    }
    cairn_pool_close(pool);
}

static void a_part_that_is_missing_is_named(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    for (size_t i = 0; i < TENSORS; i++) {
        struct tensor t[TENSORS];
        struct encoder *e = NULL;
        struct model_card c = card();
        memcpy(t, tensors, sizeof t);
        t[i] = t[TENSORS - 1];
        write_safetensors(t, TENSORS - 1, file);
        enum cairn_err err = encoder_open(&e, &c, NULL, &why);
        encoder_close(e);
        if (strncmp(tensors[i].own, "encoder.layers.1.attn.Wqkv", 26) == 0)
            CHECK_OK(err); /* that is a model of one layer */
        else
            CHECK_I64_EQ(err, CAIRN_ECORRUPT);
        if (strncmp(tensors[i].own, "encoder.layers.1.mlp", 20) == 0)
            CHECK(strstr(why.text, tensors[i].own));
    }
}

static void no_memory_is_an_error_and_not_a_leak(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct model_card c = card();
    write_gguf(tensors, TENSORS, file);
    for (uint64_t nth = 1;; nth++) {
        struct encoder *e = NULL;
        cairn_alloc_fail_after(nth, true);
        enum cairn_err err = encoder_open(&e, &c, NULL, &why);
        cairn_alloc_fail_after(0, false);
        encoder_close(e);
        if (!err)
            break;
        CHECK_I64_EQ(err, CAIRN_ENOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nomic_bert_gives_the_rows_of_the_reference),
        TEST(a_part_that_is_missing_is_named),
        TEST(no_memory_is_an_error_and_not_a_leak),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
