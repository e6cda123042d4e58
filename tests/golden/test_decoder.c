/* test_decoder.c - the decoder against a float32 forward in numpy over the same files (decoder_reference.py
 * wrote tests/golden/decoder/): 64 greedy tokens of five prompts, and logits at each position of a 256-token
 * prompt. */
#include "check.h"

#include <cairn/model.h>
#include <math.h>

enum { PROMPTS = 5, GREEDY = 64, LONG = 256, TOP = 8, PROJECTIONS = 16, PROMPT_MAX = 512 };

struct golden {
    int32_t prompt[PROMPTS][PROMPT_MAX], greedy[PROMPTS][GREEDY], text[LONG];
    size_t n_prompt[PROMPTS], n_prompts, n_positions;
    struct {
        double norm, value[TOP], projection[PROJECTIONS];
        int32_t id[TOP];
    } at[LONG];
};

static size_t numbers(char *line, int32_t *out, size_t max)
{
    size_t n = 0;
    char *end;
    for (char *p = line;; p = end) {
        long v = strtol(p, &end, 10);
        if (end == p)
            return n;
        CHECK(n < max);
        out[n++] = (int32_t)v;
    }
}

static struct golden *golden_read(const char *path)
{
    FILE *f = fopen(path, "r");
    CHECK(f != NULL);
    struct golden *g = calloc(1, sizeof *g);
    static char line[1 << 16];
    while (fgets(line, sizeof line, f)) {
        if (!strncmp(line, "long ", 5)) {
            CHECK_I64_EQ(numbers(line + 5, g->text, LONG), LONG);
        } else if (!strncmp(line, "prompt ", 7)) {
            CHECK(g->n_prompts < PROMPTS);
            g->n_prompt[g->n_prompts] = numbers(line + 7, g->prompt[g->n_prompts], PROMPT_MAX);
        } else if (!strncmp(line, "greedy ", 7)) {
            CHECK_I64_EQ(numbers(line + 7, g->greedy[g->n_prompts], GREEDY), GREEDY);
            g->n_prompts++;
        } else if (!strncmp(line, "position ", 9)) {
            CHECK(g->n_positions < LONG);
            char *p = line + 9;
            g->at[g->n_positions].norm = strtod(p, &p);
            for (int i = 0; i < TOP; i++) {
                g->at[g->n_positions].id[i] = (int32_t)strtol(p, &p, 10);
                g->at[g->n_positions].value[i] = strtod(p, &p);
            }
            for (int i = 0; i < PROJECTIONS; i++)
                g->at[g->n_positions].projection[i] = strtod(p, &p);
            g->n_positions++;
        }
    }
    fclose(f);
    CHECK_I64_EQ(g->n_prompts, PROMPTS);
    CHECK_I64_EQ(g->n_positions, LONG);
    return g;
}

/* As decoder_reference.py: splitmix64 of the id. */
static uint64_t signs(uint64_t id)
{
    uint64_t z = id + 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static int32_t argmax(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return (int32_t)best;
}

static void check_logits(struct decoder *d, const struct golden *g)
{
    TEST_WHY;
    size_t n_vocab = decoder_n_vocab(d);
    float *logits = malloc(LONG * n_vocab * sizeof *logits);
    struct decoder_seq *s = NULL;
    CHECK(logits != NULL);
    CHECK_OK(decoder_seq_open(&s, d, 512, &why));
    CHECK_OK(decoder_eval(s, g->text, LONG, true, logits, NULL, &why));
    double worst = 0, worst_top = 0;
    for (size_t p = 0; p < LONG; p++) {
        const float *row = logits + p * n_vocab;
        double sums[PROJECTIONS] = {0}, square = 0, norm2 = 0;
        for (size_t i = 0; i < n_vocab; i++) {
            uint64_t bits = signs(i);
            norm2 += (double)row[i] * (double)row[i];
            for (int j = 0; j < PROJECTIONS; j++)
                sums[j] += bits >> j & 1 ? -(double)row[i] : (double)row[i];
        }
        for (int j = 0; j < PROJECTIONS; j++)
            square += (sums[j] - g->at[p].projection[j]) * (sums[j] - g->at[p].projection[j]) / PROJECTIONS;
        double error = sqrt(square) / g->at[p].norm;
        CHECK_LE(error, 1e-2);
        CHECK_NEAR(sqrt(norm2) / g->at[p].norm, 1.0, 1e-2);
        worst = error > worst ? error : worst;
        for (int i = 0; i < TOP; i++) {
            double off = fabs((double)row[g->at[p].id[i]] - g->at[p].value[i]);
            CHECK_LE(off, 0.1 + 1e-2 * fabs(g->at[p].value[i]));
            worst_top = off > worst_top ? off : worst_top;
        }
    }
    print_message(
        "%s: logits at %d positions: largest relative error %.2e, largest error of a top logit %.4f\n",
        decoder_backend_name(d), LONG, worst, worst_top);

    /* In pieces, and one by one at the end: the same, but for rounding. */
    float *last = malloc(n_vocab * sizeof *last);
    decoder_seq_truncate(s, 0);
    CHECK_OK(decoder_eval(s, g->text, 100, false, NULL, NULL, &why));
    CHECK_OK(decoder_eval(s, g->text + 100, LONG - 103, false, NULL, NULL, &why));
    for (size_t i = LONG - 3; i < LONG; i++)
        CHECK_OK(decoder_eval(s, g->text + i, 1, false, last, NULL, &why));
    double diff = 0;
    for (size_t i = 0; i < n_vocab; i++) {
        double e = (double)last[i] - (double)logits[(LONG - 1) * n_vocab + i];
        diff += e * e;
    }
    CHECK_LE(sqrt(diff) / g->at[LONG - 1].norm, 5e-3);
    CHECK_I64_EQ(argmax(last, n_vocab), argmax(logits + (LONG - 1) * n_vocab, n_vocab));
    free(last);
    free(logits);
    decoder_seq_close(s);
}

static void check_greedy(struct decoder *d, const struct golden *g)
{
    TEST_WHY;
    size_t n_vocab = decoder_n_vocab(d), equal = 0;
    float *logits = malloc(n_vocab * sizeof *logits);
    for (size_t p = 0; p < PROMPTS; p++) {
        struct decoder_seq *s = NULL;
        CHECK_OK(decoder_seq_open(&s, d, 1024, &why));
        CHECK_OK(decoder_eval(s, g->prompt[p], g->n_prompt[p], false, logits, NULL, &why));
        for (int i = 0; i < GREEDY; i++) {
            int32_t id = argmax(logits, n_vocab);
            if (id != g->greedy[p][i])
                print_error("prompt %zu, token %d: %d, reference %d (logits %.5f and %.5f)\n", p, i, id,
                            g->greedy[p][i], (double)logits[id], (double)logits[g->greedy[p][i]]);
            CHECK_I64_EQ(id, g->greedy[p][i]);
            equal++;
            if (i + 1 < GREEDY)
                CHECK_OK(decoder_eval(s, &id, 1, false, logits, NULL, &why));
        }
        decoder_seq_close(s);
    }
    print_message("%s: %zu greedy tokens of %d prompts equal the reference's\n", decoder_backend_name(d),
                  equal, PROMPTS);
    free(logits);
}

/* Inputs rounded to 8 bits against the same decoder without: how far the distribution of the next token
 * moves, at each position of a text that is read as a prompt, or by the kernels for few rows. */
static void check_rounded(const char *path, const struct golden *g, struct cairn_pool *pool, bool prompt,
                          double kl_max, double agree_min)
{
    TEST_WHY;
    enum { PIECE = 16 };
    struct decoder *d[2] = {NULL, NULL};
    struct decoder_seq *s[2] = {NULL, NULL};
    float *logits[2];
    for (int i = 0; i < 2; i++) {
        CHECK_OK(decoder_open_file(&d[i], path,
                                   &(struct model_opts){.pool = pool, .n_ctx = 1024, .exact = i == 0}, &why));
        CHECK_OK(decoder_seq_open(&s[i], d[i], 512, &why));
        logits[i] = malloc(PIECE * (size_t)decoder_n_vocab(d[i]) * sizeof *logits[i]);
        CHECK(logits[i] != NULL);
    }
    size_t n_vocab = decoder_n_vocab(d[0]), agree = 0;
    double kl = 0, kl_worst = 0;
    for (size_t at = 0; at < LONG; at += PIECE) {
        for (int i = 0; i < 2; i++) {
            struct decoder_item item = {
                .seq = s[i], .tokens = g->text + at, .n = PIECE, .n_logits = PIECE, .prompt = prompt};
            CHECK_OK(decoder_step(d[i], &item, 1, logits[i], &why));
        }
        for (size_t p = 0; p < PIECE; p++) {
            const float *a = logits[0] + p * n_vocab, *b = logits[1] + p * n_vocab;
            int32_t top = argmax(a, n_vocab);
            double sum_a = 0, sum_b = 0, mean = 0;
            for (size_t i = 0; i < n_vocab; i++) {
                double e = exp((double)a[i] - (double)a[top]);
                sum_a += e;
                sum_b += exp((double)b[i] - (double)a[top]);
                mean += e * ((double)a[i] - (double)b[i]);
            }
            double of = mean / sum_a + log(sum_b / sum_a);
            agree += argmax(b, n_vocab) == top;
            kl += of / LONG;
            kl_worst = of > kl_worst ? of : kl_worst;
        }
    }
    print_message("%s, rounded %s: same first choice at %zu of %d positions, KL mean %.5f, worst %.4f\n",
                  decoder_backend_name(d[1]), prompt ? "prompts" : "few rows", agree, LONG, kl, kl_worst);
    CHECK_LE(kl, kl_max);
    CHECK_GE((double)agree / LONG, agree_min);
    for (int i = 0; i < 2; i++) {
        free(logits[i]);
        decoder_seq_close(s[i]);
        decoder_close(d[i]);
    }
}

static void check_model(const char *model, enum model_backend backend, bool exact, bool greedy)
{
    TEST_WHY;
    const char *path = test_model_file(model, "model.gguf");
    if (!path || !model_backend_available(backend)) {
        skip();
        return;
    }
    char golden[256];
    snprintf(golden, sizeof golden, "tests/golden/decoder/%s.txt", model);
    struct golden *g = golden_read(golden);
    struct cairn_pool *pool = NULL;
    struct decoder *d = NULL;
    CHECK_OK(cairn_pool_open(&pool, 0, &why));
    CHECK_OK(decoder_open_file(
        &d, path, &(struct model_opts){.pool = pool, .backend = backend, .n_ctx = 1024, .exact = exact},
        &why));
    if (greedy)
        check_greedy(d, g);
    if (exact)
        check_logits(d, g);
    decoder_close(d);
    cairn_pool_close(pool);
    free(g);
}

/* The same text on every kind of kernel: what the scalar one writes is the reference. */
static void check_backends(const char *model, size_t prompts)
{
    TEST_WHY;
    const enum model_backend kinds[] = {BACKEND_SCALAR, BACKEND_AVX2, BACKEND_AVX512, BACKEND_CUDA};
    const char *path = test_model_file(model, "model.gguf");
    if (!path) {
        skip();
        return;
    }
    char golden[256];
    snprintf(golden, sizeof golden, "tests/golden/decoder/%s.txt", model);
    struct golden *g = golden_read(golden);
    struct cairn_pool *pool = NULL;
    CHECK_OK(cairn_pool_open(&pool, 0, &why));
    static int32_t want[PROMPTS][LONG];
    for (size_t b = 0; b < sizeof kinds / sizeof *kinds; b++) {
        struct decoder *d = NULL;
        if (!model_backend_available(kinds[b]))
            continue;
        CHECK_OK(decoder_open_file(
            &d, path, &(struct model_opts){.pool = pool, .backend = kinds[b], .n_ctx = 1024, .exact = true},
            &why));
        size_t n_vocab = decoder_n_vocab(d), differ = 0;
        float *logits = malloc(n_vocab * sizeof *logits);
        CHECK(logits != NULL);
        for (size_t p = 0; p < prompts; p++) {
            struct decoder_seq *s = NULL;
            CHECK_OK(decoder_seq_open(&s, d, 1024, &why));
            CHECK_OK(decoder_eval(s, g->prompt[p], g->n_prompt[p], false, logits, NULL, &why));
            for (int i = 0; i < LONG; i++) {
                int32_t id = argmax(logits, n_vocab);
                if (!b)
                    want[p][i] = id;
                if (id != want[p][i]) {
                    print_error("prompt %zu, token %d: %d, scalar %d (logits %.5f and %.5f)\n", p, i, id,
                                want[p][i], (double)logits[id], (double)logits[want[p][i]]);
                    differ++;
                    break;
                }
                CHECK_OK(decoder_eval(s, &id, 1, false, logits, NULL, &why));
            }
            decoder_seq_close(s);
        }
        print_message("%s: %zu of %zu prompts with the same %d tokens\n", decoder_backend_name(d),
                      prompts - differ, prompts, LONG);
        CHECK_U64_EQ(differ, 0);
        free(logits);
        decoder_close(d);
    }
    cairn_pool_close(pool);
    free(g);
}

static void the_small_model_writes_what_the_reference_writes(void **state)
{
    UNUSED_STATE(state);
    check_model("smollm2-135m-instruct-q4_1", BACKEND_AUTO, true, true);
}
static void the_small_model_agrees_on_blas(void **state)
{
    UNUSED_STATE(state);
    check_model("smollm2-135m-instruct-q4_1", BACKEND_BLAS, true, false);
}
static void the_small_model_agrees_on_avx2(void **state)
{
    UNUSED_STATE(state);
    check_model("smollm2-135m-instruct-q4_1", BACKEND_AVX2, true, true);
}
static void the_small_model_writes_the_same_on_a_device(void **state)
{
    UNUSED_STATE(state);
    check_model("smollm2-135m-instruct-q4_1", BACKEND_CUDA, true, true);
}
static void the_standard_model_writes_what_the_reference_writes(void **state)
{
    UNUSED_STATE(state);
    check_model("qwen2.5-coder-1.5b-instruct-q4_k_m", BACKEND_AUTO, true, true);
}

static void every_backend_writes_the_same(void **state)
{
    UNUSED_STATE(state);
    check_backends("smollm2-135m-instruct-q4_1", getenv("CAIRN_TEST_LONG") ? PROMPTS : 1);
}
static void every_backend_writes_the_same_with_the_standard_model(void **state)
{
    UNUSED_STATE(state);
    if (!getenv("CAIRN_TEST_LONG")) { /* minutes, nearly all of it the scalar kernels */
        print_message("SKIP: CAIRN_TEST_LONG is not set\n");
        skip();
        return;
    }
    check_backends("qwen2.5-coder-1.5b-instruct-q4_k_m", 1);
}

static void check_model_rounded(const char *model, bool prompt, double kl_max, double agree_min)
{
    TEST_WHY;
    const char *path = test_model_file(model, "model.gguf");
    if (!path) {
        skip();
        return;
    }
    char golden[256];
    snprintf(golden, sizeof golden, "tests/golden/decoder/%s.txt", model);
    struct golden *g = golden_read(golden);
    struct cairn_pool *pool = NULL;
    CHECK_OK(cairn_pool_open(&pool, 0, &why));
    check_rounded(path, g, pool, prompt, kl_max, agree_min);
    cairn_pool_close(pool);
    free(g);
}
static void rounded_inputs_move_the_small_model_little(void **state)
{
    UNUSED_STATE(state);
    for (int prompt = 0; prompt < 2; prompt++)
        check_model_rounded("smollm2-135m-instruct-q4_1", prompt, 0.002, 0.95);
}
static void rounded_inputs_move_the_standard_model_little(void **state)
{
    UNUSED_STATE(state);
    for (int prompt = 0; prompt < 2; prompt++)
        check_model_rounded("qwen2.5-coder-1.5b-instruct-q4_k_m", prompt, 0.001, 0.98);
}
static void rounded_inputs_leave_what_the_standard_model_writes(void **state)
{
    UNUSED_STATE(state);
    check_model("qwen2.5-coder-1.5b-instruct-q4_k_m", BACKEND_AUTO, false, true);
}

static void a_stopped_or_refused_call_leaves_the_sequence_as_it_was(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const char *path = test_model_file("smollm2-135m-instruct-q4_1", "model.gguf");
    if (!path) {
        skip();
        return;
    }
    struct decoder *d = NULL;
    struct decoder_seq *s = NULL;
    int32_t tokens[70] = {1, 2, 3};
    CHECK_OK(decoder_open_file(&d, path, &(struct model_opts){.n_ctx = 64}, &why));
    CHECK_OK(decoder_seq_open(&s, d, 0, &why));
    CHECK_OK(decoder_eval(s, tokens, 3, false, NULL, NULL, &why));
    CHECK_ERR(decoder_eval(s, tokens, 62, false, NULL, NULL, &why), CAIRN_EFULL);
    struct cairn_stop stop = {.deadline_us = 1};
    CHECK_ERR(decoder_eval(s, tokens, 3, false, NULL, &stop, &why), CAIRN_EDEADLINE);
    tokens[1] = (int32_t)decoder_n_vocab(d);
    CHECK_ERR(decoder_eval(s, tokens, 3, false, NULL, NULL, &why), CAIRN_EINVAL);
    tokens[1] = -1;
    CHECK_ERR(decoder_eval(s, tokens, 3, false, NULL, NULL, &why), CAIRN_EINVAL);
    CHECK_ERR(decoder_eval(s, tokens, 0, false, NULL, NULL, &why), CAIRN_EINVAL);
    CHECK_I64_EQ(decoder_seq_len(s), 3);
    struct decoder_seq *too_long = NULL;
    CHECK_ERR(decoder_seq_open(&too_long, d, 65, &why), CAIRN_EINVAL);
    CHECK(too_long == NULL);
    decoder_seq_close(s);
    decoder_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_stopped_or_refused_call_leaves_the_sequence_as_it_was),
        TEST(the_small_model_writes_what_the_reference_writes),
        TEST(the_small_model_agrees_on_blas),
        TEST(the_small_model_agrees_on_avx2),
        TEST(the_small_model_writes_the_same_on_a_device),
        TEST(the_standard_model_writes_what_the_reference_writes),
        TEST(every_backend_writes_the_same),
        TEST(every_backend_writes_the_same_with_the_standard_model),
        TEST(rounded_inputs_move_the_small_model_little),
        TEST(rounded_inputs_move_the_standard_model_little),
        TEST(rounded_inputs_leave_what_the_standard_model_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
