/* The second look at claims: which claims an encoder is asked about, what it reads, what comes of its answer.
 * The encoder is a token classifier of one random layer, written here; its outputs are checked against a
 * forward pass over ids that are put together here. */
#include "check.h"
#include "unit/gguf_writer.h"

#include "grey.h"
#include "grounding_internal.h"

#include <math.h>

enum { DIM = 32, HEADS = 2, FF = 48, POSITIONS = 300, LETTERS = 26, VOCAB = 6 + 2 * LETTERS, TENSORS = 23 };

static char *dir, file[512], vocab[512];
static uint64_t seed;

struct tensor {
    const char *name;
    size_t n, k; /* n 0: a vector */
};
static const struct tensor tensors[TENSORS] = {
    {"embeddings.word_embeddings.weight",                 VOCAB,     DIM},
    {"embeddings.position_embeddings.weight",             POSITIONS, DIM},
    {"embeddings.token_type_embeddings.weight",           2,         DIM},
    {"embeddings.LayerNorm.weight",                       0,         DIM},
    {"embeddings.LayerNorm.bias",                         0,         DIM},
    {"encoder.layer.0.attention.self.query.weight",       DIM,       DIM},
    {"encoder.layer.0.attention.self.query.bias",         0,         DIM},
    {"encoder.layer.0.attention.self.key.weight",         DIM,       DIM},
    {"encoder.layer.0.attention.self.key.bias",           0,         DIM},
    {"encoder.layer.0.attention.self.value.weight",       DIM,       DIM},
    {"encoder.layer.0.attention.self.value.bias",         0,         DIM},
    {"encoder.layer.0.attention.output.dense.weight",     DIM,       DIM},
    {"encoder.layer.0.attention.output.dense.bias",       0,         DIM},
    {"encoder.layer.0.attention.output.LayerNorm.weight", 0,         DIM},
    {"encoder.layer.0.attention.output.LayerNorm.bias",   0,         DIM},
    {"encoder.layer.0.intermediate.dense.weight",         FF,        DIM},
    {"encoder.layer.0.intermediate.dense.bias",           0,         FF },
    {"encoder.layer.0.output.dense.weight",               DIM,       FF },
    {"encoder.layer.0.output.dense.bias",                 0,         DIM},
    {"encoder.layer.0.output.LayerNorm.weight",           0,         DIM},
    {"encoder.layer.0.output.LayerNorm.bias",             0,         DIM},
    {"classifier.weight",                                 2,         DIM},
    {"classifier.bias",                                   0,         2  },
};
static float head[2][DIM], bias[2];

static float draw(void)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (float)((int64_t)(seed >> 40) - (1 << 23)) / (float)(1 << 23);
}

/* `sure`: the outputs are the constants 0 and `sure`; 0: random. `outputs`: of the classifier. */
static void write_model(float sure, size_t outputs)
{
    TEST_WHY;
    struct cairn_buf b, names;
    size_t at = 0;
    seed = 5;
    cairn_buf_init(&b, 0);
    cairn_buf_init(&names, 0);
    for (size_t i = 0; i < TENSORS; i++) {
        bool of_head = i >= TENSORS - 2;
        size_t n = i == TENSORS - 2 ? outputs : tensors[i].n, k = i == TENSORS - 1 ? outputs : tensors[i].k,
               bytes = k * (n ? n : 1) * sizeof(float);
        char shape[48];
        snprintf(shape, sizeof shape, n ? "%zu,%zu" : "%zu", n ? n : k, k);
        cairn_buf_printf(&names, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                         i ? "," : "{", tensors[i].name, shape, at, at + bytes);
        at += bytes;
        for (size_t j = 0; j < bytes / sizeof(float); j++) {
            float f = strstr(tensors[i].name, "LayerNorm.weight") ? 1 + draw() / 4 : draw() / 2;
            if (of_head && sure != 0)
                f = i == TENSORS - 1 && j == 1 ? sure : 0;
            if (i == TENSORS - 2)
                head[j / DIM][j % DIM] = f;
            if (i == TENSORS - 1)
                bias[j] = f;
            w_f32(&b, f);
        }
    }
    cairn_buf_puts(&names, "}");
    struct cairn_buf whole;
    cairn_buf_init(&whole, 0);
    w_string(&whole, names.bytes);
    w_bytes(&whole, b.bytes, b.len);
    CHECK_OK(cairn_write_file(file, whole.bytes, whole.len, &why));
    cairn_buf_release(&whole);
    cairn_buf_release(&names);
    cairn_buf_release(&b);
}

static int setup(void **state)
{
    UNUSED_STATE(state);
    dir = test_tmpdir();
    snprintf(file, sizeof file, "%s/model.safetensors", dir);
    snprintf(vocab, sizeof vocab, "%s/vocab.txt", dir);
    FILE *f = fopen(vocab, "w");
    if (!f || fputs("[PAD]\n[UNK]\n[CLS]\n[SEP]\n.\n,\n", f) < 0)
        return -1;
    for (int c = 'a'; c <= 'z'; c++)
        fprintf(f, "%c\n##%c\n", c, c);
    return fclose(f) ? -1 : 0;
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
                               .layer_norm_eps = 1e-12,
                               .lower_case = true};
}

static struct ground_encoder *open_encoder(struct cairn_pool *pool)
{
    TEST_WHY;
    struct ground_encoder *e;
    struct model_card c = card();
    CHECK_OK(ground_encoder_open(&e, &c, NULL, &(struct model_opts){.pool = pool, .backend = BACKEND_SCALAR},
                                 &why));
    return e;
}

static const char source[] = "The harbour of Ostend was closed in winter. Ships waited for the tide near the "
                             "lighthouse. The keeper counted them by hand.";
static const char unsure[] = "Ships waited near the harbour for a pilot.";
static const char copied[] = "The keeper counted them by hand.";

static struct grounding *open_checker(const char *text, const struct ground_encoder *e)
{
    TEST_WHY;
    struct grounding *g;
    struct ground_source s = {.text = cairn_str_of(text)};
    CHECK_OK(grounding_open(&g, &s, 1, &(struct ground_opts){.encoder = e}, &why));
    return g;
}

static float support(const char *text, const struct ground_encoder *e, float *chance)
{
    TEST_WHY;
    struct grounding *g = open_checker(source, e);
    struct ground_sentence *list;
    size_t n;
    CHECK_OK(grounding_check_text(g, cairn_str_of(text), &list, &n, NULL, &why));
    CHECK_U64_EQ(n, 1);
    float score = list[0].score;
    if (chance)
        *chance = grounding_chance(g);
    cairn_free(list);
    grounding_close(g);
    return score;
}

static double odds(double p) { return log(p / (1 - p)); }

static void an_unsure_claim_moves_and_a_copy_does_not(void **state)
{
    UNUSED_STATE(state);
    float chance[3], was = support(unsure, NULL, &chance[0]), copy = support(copied, NULL, NULL);
    CHECK(was > 0.1f && was < 0.9f);
    static const float sure[] = {4, -4};
    for (size_t i = 0; i < 2; i++) {
        write_model(sure[i], 2);
        struct ground_encoder *e = open_encoder(NULL);
        CHECK_NEAR(odds((double)support(unsure, e, &chance[1 + i])), 0.5 * odds((double)was) - sure[i] / 2,
                   1e-3);
        CHECK(support(copied, e, NULL) == copy);
        ground_encoder_close(e);
    }
    CHECK(chance[1] > chance[0] && chance[0] > chance[2]);
}

static void the_encoder_reads_claim_and_evidence(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    write_model(0, 2);
    struct model_card c = card();
    struct encoder *plain;
    CHECK_OK(encoder_open(&plain, &c, &(struct model_opts){.backend = BACKEND_SCALAR}, &why));
    int32_t ids[512], types[512], *part;
    size_t n = 0, n_part, len = 0, claim = 0;
    ids[len++] = 2;
    for (int k = 0; k < 2; k++) {
        CHECK_OK(tokenizer_encode(encoder_tokenizer(plain), cairn_str_of(k ? source : unsure), TOKENIZE_PLAIN,
                                  &part, &n_part, &why));
        for (size_t i = 0; i < n_part; i++)
            ids[len++] = part[i];
        ids[len++] = 3;
        claim = k ? claim : n_part;
        cairn_free(part);
    }
    for (n = 0; n < len; n++)
        types[n] = n >= claim + 2;
    static float hidden[512 * DIM];
    CHECK(len <= 256);
    CHECK_OK(encoder_forward(plain, ids, types, &len, 1, hidden, NULL, &why));
    double top = -1e9;
    for (size_t i = 1; i <= claim; i++) {
        double z = (double)(bias[1] - bias[0]);
        for (size_t k = 0; k < DIM; k++)
            z += (double)hidden[i * DIM + k] * (double)(head[1][k] - head[0][k]);
        top = fmax(top, z);
    }
    encoder_close(plain);
    struct cairn_pool *pool;
    CHECK_OK(cairn_pool_open(&pool, 2, &why));
    struct ground_encoder *one = open_encoder(NULL), *two = open_encoder(pool);
    float was = support(unsure, NULL, NULL), now = support(unsure, one, NULL);
    CHECK_NEAR(odds((double)now), 0.5 * odds((double)was) - top / 2, 1e-3);
    CHECK(support(unsure, two, NULL) == now); /* to the bit, with any number of threads */
    ground_encoder_close(one);
    ground_encoder_close(two);
    cairn_pool_close(pool);
}

static void a_text_has_so_many_looks_and_the_next_one_as_many(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    write_model(4, 2);
    struct ground_encoder *e = open_encoder(NULL);
    struct cairn_buf text;
    cairn_buf_init(&text, 0);
    for (unsigned i = 0; i < GROUND_ENCODER_CLAIMS_MAX + 3; i++)
        cairn_buf_printf(&text, "%s ", unsure);
    struct grounding *with = open_checker(source, e), *without = open_checker(source, NULL);
    for (int turn = 0; turn < 2; turn++) {
        struct ground_sentence *a, *b;
        size_t n, m, changed = 0;
        CHECK_OK(grounding_check_text(with, (struct cairn_str){text.bytes, text.len}, &a, &n, NULL, &why));
        CHECK_OK(grounding_check_text(without, (struct cairn_str){text.bytes, text.len}, &b, &m, NULL, &why));
        CHECK_U64_EQ(n, GROUND_ENCODER_CLAIMS_MAX + 3);
        CHECK_U64_EQ(n, m);
        for (size_t i = 0; i < n; i++)
            changed += a[i].score != b[i].score;
        CHECK_U64_EQ(changed, GROUND_ENCODER_CLAIMS_MAX);
        cairn_free(a);
        cairn_free(b);
    }
    grounding_close(with);
    grounding_close(without);
    cairn_buf_release(&text);
    ground_encoder_close(e);
}

static void evidence_is_what_brings_the_claims_words(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_buf b;
    float f[GF_N];
    uint32_t list[GREY_SENTENCES_MAX];
    cairn_buf_init(&b, 0);
    for (int i = 0; i < 30; i++)
        cairn_buf_printf(&b, "Nothing of the kind was said on page %d of the report. ", 100 + i);
    cairn_buf_puts(&b, source);
    struct grounding *g = open_checker(b.bytes, NULL);
    CHECK_OK(grounding_align(g, cairn_str_of(unsure), f, &why));
    size_t n = grey_evidence(g, list);
    CHECK_U64_EQ(n, 2);
    CHECK_U64_EQ(list[0], 30);
    CHECK_U64_EQ(list[1], 31);
    grounding_close(g);
    g = open_checker(source, NULL); /* a short source is read whole */
    CHECK_OK(grounding_align(g, cairn_str_of(unsure), f, &why));
    CHECK_U64_EQ(grey_evidence(g, list), 3);
    grounding_close(g);
    cairn_buf_release(&b);
}

static void a_model_with_another_head_is_refused(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct ground_encoder *e;
    struct model_card c = card();
    write_model(0, 2);
    for (uint64_t nth = 1;; nth++) {
        cairn_alloc_fail_after(nth, true);
        enum cairn_err err = ground_encoder_open(&e, &c, NULL, NULL, &why);
        cairn_alloc_fail_after(0, false);
        ground_encoder_close(e);
        if (!err)
            break;
        CHECK_I64_EQ(err, CAIRN_ENOMEM);
    }
    write_model(0, 1);
    CHECK_ERR(ground_encoder_open(&e, &c, NULL, NULL, &why), CAIRN_ECORRUPT);
    CHECK(e == NULL);
    ground_encoder_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_unsure_claim_moves_and_a_copy_does_not),
        TEST(the_encoder_reads_claim_and_evidence),
        TEST(a_text_has_so_many_looks_and_the_next_one_as_many),
        TEST(evidence_is_what_brings_the_claims_words),
        TEST(a_model_with_another_head_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
