/* test_encoder.c - embedders and the pair model against a float64 forward in numpy over the same files
 * (encoder_golden.py wrote tests/golden/encoder/). */
#include "check.h"

#include <cairn/model.h>
#include <math.h>

enum { N = 100 };

struct lines {
    char *bytes;
    struct cairn_str at[N];
};
static struct lines lines_read(const char *path)
{
    TEST_WHY;
    struct lines l = {0};
    size_t len = 0, n = 0, start = 0;
    CHECK_OK(cairn_read_file(&l.bytes, &len, path, 1 << 24, &why));
    for (size_t i = 0; i < len; i++)
        if (l.bytes[i] == '\n') {
            CHECK(n < N);
            l.at[n++] = (struct cairn_str){l.bytes + start, i - start};
            start = i + 1;
        }
    CHECK_I64_EQ(n, N);
    return l;
}

struct fixture {
    struct cairn_pool *pool;
    struct model_registry *registry;
    struct encoder *e;
};
static bool fixture_open(struct fixture *f, enum model_role role, const char *name,
                         enum model_backend backend)
{
    TEST_WHY;
    memset(f, 0, sizeof *f);
    if (!test_model_file(name, "model.safetensors") || !model_backend_available(backend))
        return false;
    const struct model_card *card = NULL;
    CHECK_OK(model_registry_open(&f->registry, test_models_dir(), &why));
    CHECK_OK(model_registry_find(f->registry, role, name, &card, &why));
    CHECK_OK(cairn_pool_open(&f->pool, 0, &why));
    CHECK_OK(encoder_open(&f->e, card, &(struct model_opts){.pool = f->pool, .backend = backend}, &why));
    return true;
}
static void fixture_close(struct fixture *f)
{
    encoder_close(f->e);
    cairn_pool_close(f->pool);
    model_registry_close(f->registry);
}

static void check_vectors(const char *name, enum model_backend backend)
{
    TEST_WHY;
    struct fixture f;
    if (!fixture_open(&f, MODEL_EMBEDDER, name, backend)) {
        skip();
        return;
    }
    struct lines texts = lines_read("tests/golden/encoder/texts.txt");
    size_t dim = encoder_dim(f.e), len = 0;
    char path[256], *halves = NULL;
    snprintf(path, sizeof path, "tests/golden/encoder/%s.f16", name);
    CHECK_OK(cairn_read_file(&halves, &len, path, 1 << 24, &why));
    CHECK_I64_EQ(len, N * dim * 2);
    float *want = malloc(N * dim * sizeof *want), *got = malloc(N * dim * sizeof *got),
          *one = malloc(dim * sizeof *one);
    tensor_dequantize(TENSOR_F16, halves, want, N * dim);
    CHECK_OK(encoder_embed(f.e, texts.at, N, got, NULL, &why));
    double worst = 2;
    for (size_t i = 0; i < N; i++) {
        double dot = 0, a = 0, b = 0;
        for (size_t j = 0; j < dim; j++) {
            dot += (double)want[i * dim + j] * (double)got[i * dim + j];
            a += (double)want[i * dim + j] * (double)want[i * dim + j];
            b += (double)got[i * dim + j] * (double)got[i * dim + j];
        }
        double cosine = dot / sqrt(a * b);
        if (!(cosine >= 0.9995))
            print_error("text %zu of %zu bytes\n", i, texts.at[i].len);
        CHECK_GE(cosine, 0.9995);
        CHECK_NEAR(b, 1.0, 1e-5);
        worst = cosine < worst ? cosine : worst;
    }
    print_message("%s on %s: smallest cosine of %d texts %.7f\n", name, encoder_backend_name(f.e), N, worst);
    /* company makes no difference */
    for (size_t i = 0; i < N; i += 9) {
        CHECK_OK(encoder_embed(f.e, &texts.at[i], 1, one, NULL, &why));
        for (size_t j = 0; j < dim;
             j++) /* to the bit where weights are packed, else but for the order of sums */
            CHECK_NEAR(one[j], got[i * dim + j], strcmp(encoder_backend_name(f.e), "avx512") ? 1e-5 : 0.0);
    }
    struct cairn_stop stop = {.deadline_us = 1};
    CHECK_ERR(encoder_embed(f.e, texts.at, N, got, &stop, &why), CAIRN_EDEADLINE);
    CHECK_ERR(encoder_score_pairs(f.e, texts.at[0], texts.at, 1, one, NULL, &why), CAIRN_ESTATE);
    cairn_free(halves);
    cairn_free(texts.bytes);
    free(want);
    free(got);
    free(one);
    fixture_close(&f);
}

static void bge_small_agrees_with_the_reference(void **state)
{
    UNUSED_STATE(state);
    check_vectors("bge-small-en-v1.5", BACKEND_AUTO);
}
static void minilm_agrees_with_the_reference(void **state)
{
    UNUSED_STATE(state);
    check_vectors("all-minilm-l6-v2", BACKEND_AUTO);
}
static void minilm_agrees_with_the_reference_on_blas(void **state)
{
    UNUSED_STATE(state);
    check_vectors("all-minilm-l6-v2", BACKEND_BLAS);
}
static void minilm_agrees_with_the_reference_on_avx2(void **state)
{
    UNUSED_STATE(state);
    check_vectors("all-minilm-l6-v2", BACKEND_AVX2);
}

static void pair_logits_agree_with_the_reference(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f;
    if (!fixture_open(&f, MODEL_RERANKER, "ms-marco-minilm-l-12-v2", BACKEND_AUTO)) {
        skip();
        return;
    }
    struct lines pairs = lines_read("tests/golden/encoder/pairs.txt");
    struct lines logits = lines_read("tests/golden/encoder/ms-marco-minilm-l-12-v2.logits");
    double worst = 0;
    for (size_t i = 0; i < N; i++) {
        const char *tab = memchr(pairs.at[i].p, '\t', pairs.at[i].len);
        CHECK(tab != NULL);
        struct cairn_str query = {pairs.at[i].p, (size_t)(tab - pairs.at[i].p)};
        struct cairn_str texts[2] = {
            {tab + 1,   pairs.at[i].len - query.len - 1},
            {"another", 7                              }
        };
        float got[2], alone;
        CHECK_OK(encoder_score_pairs(f.e, query, texts, 2, got, NULL, &why));
        double off = fabs((double)got[0] - strtod(logits.at[i].p, NULL));
        CHECK_LE(off, 0.05);
        worst = off > worst ? off : worst;
        if (i % 20)
            continue;
        CHECK_OK(encoder_score_pairs(f.e, query, texts, 1, &alone, NULL, &why));
        CHECK(memcmp(&alone, got, sizeof alone) == 0);
    }
    print_message("%s: largest difference of %d logits %.5f\n", encoder_backend_name(f.e), N, worst);
    float vector[4096];
    CHECK(encoder_dim(f.e) <= 4096);
    CHECK_ERR(encoder_embed(f.e, pairs.at, 1, vector, NULL, &why), CAIRN_ESTATE);
    int32_t ids[3] = {1, 2, -1};
    size_t len = 3;
    CHECK_ERR(encoder_forward(f.e, ids, NULL, &len, 1, vector, NULL, &why), CAIRN_EINVAL);
    len = encoder_max_tokens(f.e) + 1;
    CHECK_ERR(encoder_forward(f.e, ids, NULL, &len, 1, vector, NULL, &why), CAIRN_EINVAL);
    cairn_free(pairs.bytes);
    cairn_free(logits.bytes);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(bge_small_agrees_with_the_reference),      TEST(minilm_agrees_with_the_reference),
        TEST(minilm_agrees_with_the_reference_on_blas), TEST(minilm_agrees_with_the_reference_on_avx2),
        TEST(pair_logits_agree_with_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
