/* test_device.c - finding a module, refusing a wrong one, and models that fall back to the CPU: at open, and
 * when the device fails in the middle of a sequence. argv[1]: the host emulation; argv[2], argv[3]: modules
 * that are none; argv[1] "absent": a program that finds no module at all. */
#include "decoder_internal.h"
#include "device_host.h"
#include "tiny_decoder.h"

#include <dlfcn.h>
#include <math.h>

static char *dir, path[512];
static const char *emulation, *no_entry, *other_abi;
static void (*host_memory)(size_t);
static void (*host_fail_after)(unsigned long);
static size_t (*host_allocated)(void);

static int setup(void **state)
{
    UNUSED_STATE(state);
    dir = test_tmpdir();
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    tiny_decoder_write(path);
    return 0;
}
static int teardown(void **state)
{
    UNUSED_STATE(state);
    test_rmdir(dir);
    return 0;
}

static void modules_that_are_none_are_refused(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const struct device_api *api = NULL;
    char copy[600], command[1400];
    CHECK_ERR(device_load(&api, "/nonexistent/libcairn_cuda.so", &why), CAIRN_ENOTFOUND);
    CHECK(strstr(why.text, "/nonexistent/libcairn_cuda.so") != NULL);
    CHECK_ERR(device_load(&api, path, &why), CAIRN_ENOTFOUND); /* not a library */
    CHECK_ERR(device_load(&api, no_entry, &why), CAIRN_EDEVICE);
    CHECK(strstr(why.text, "cairn_device_open") != NULL);
    CHECK_ERR(device_load(&api, other_abi, &why), CAIRN_EDEVICE);
    CHECK(strstr(why.text, "version") != NULL && api == NULL);
    /* the real entry, asked for a version that it does not speak */
    void *module = dlopen(emulation, RTLD_NOW | RTLD_LOCAL);
    const struct device_api *(*entry)(uint32_t, char *, size_t) = NULL;
    void *symbol = module ? dlsym(module, "cairn_device_open") : NULL;
    memcpy(&entry, &symbol, sizeof entry);
    CHECK(entry && entry(DEVICE_ABI + 1, why.text, sizeof why.text) == NULL && strstr(why.text, "version"));
    /* a driver without a device: a copy, because a library is loaded once */
    snprintf(copy, sizeof copy, "%s/copy.so", dir);
    snprintf(command, sizeof command, "cp '%s' '%s'", emulation, copy);
    CHECK(system(command) == 0 && setenv("CAIRN_CUDA_HOST_DEVICES", "0", 1) == 0);
    CHECK_ERR(device_load(&api, copy, &why), CAIRN_EDEVICE);
    CHECK(strstr(why.text, "no device") != NULL && api == NULL);
    CHECK(unsetenv("CAIRN_CUDA_HOST_DEVICES") == 0);
}

static struct decoder *open_on(enum model_backend backend, enum cache_type cache)
{
    TEST_WHY;
    struct decoder *d = NULL;
    CHECK_OK(decoder_open_file(
        &d, path, &(struct model_opts){.backend = backend, .cache_type = cache, .exact = true}, &why));
    return d;
}
enum { PROMPT = 130, OUT = 40 };
static void prompt_fill(int32_t *ids, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(test_rand(&seed) % TINY_VOCAB);
}

/* ||a - b|| / ||b|| of one row of logits. */
static double distance(const float *a, const float *b)
{
    double off = 0, size = 0;
    for (size_t i = 0; i < TINY_VOCAB; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(off / size);
}

/* A prompt and OUT tokens after it: logits of each. fail_at: the device fails in the step of this token. */
static void follow(struct decoder_seq *s, const int32_t *ids, float logits[][TINY_VOCAB], size_t fail_at)
{
    TEST_WHY;
    CHECK_OK(decoder_eval(s, ids, PROMPT, false, logits[0], NULL, &why));
    for (size_t i = 0; i < OUT; i++) {
        if (i == fail_at)
            host_fail_after(5);
        CHECK_OK(decoder_eval(s, ids + PROMPT + i, 1, false, logits[i + 1], NULL, &why));
    }
    CHECK_I64_EQ(decoder_seq_len(s), PROMPT + OUT);
}

static void a_request_outlives_its_device(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static float want[2][OUT + 1][TINY_VOCAB], got[OUT + 1][TINY_VOCAB];
    int32_t ids[2][PROMPT + OUT];
    struct decoder_seq *s = NULL, *t = NULL;
    struct decoder *cpu = open_on(BACKEND_SCALAR, CACHE_F16);
    for (int i = 0; i < 2; i++) {
        prompt_fill(ids[i], PROMPT + OUT, 5 + (uint64_t)i);
        CHECK_OK(decoder_seq_open(&s, cpu, 0, &why));
        follow(s, ids[i], want[i], SIZE_MAX);
        decoder_seq_close(s);
    }
    decoder_close(cpu);
    for (size_t fail_at = 0; fail_at <= 2; fail_at++) { /* never, at once, in the middle */
        struct decoder *d = open_on(BACKEND_AUTO, CACHE_F16);
        CHECK_STR_EQ(decoder_backend_name(d), "cuda");
        CHECK_OK(decoder_seq_open(&t, d, 0, &why));
        CHECK_OK(decoder_eval(t, ids[1], PROMPT, false, got[0], NULL, &why));
        CHECK_LE(distance(got[0], want[1][0]), 1e-2);
        CHECK_OK(decoder_seq_open(&s, d, 0, &why));
        follow(s, ids[0], got, fail_at ? (fail_at - 1) * 17 : SIZE_MAX);
        for (size_t i = 0; i <= OUT; i++)
            CHECK_LE(distance(got[i], want[0][i]), 1e-2);
        CHECK((strcmp(decoder_backend_name(d), "cuda") == 0) == (fail_at == 0));
        /* the sequence that waited meanwhile goes on too */
        for (size_t i = 0; i < OUT; i++) {
            CHECK_OK(decoder_eval(t, ids[1] + PROMPT + i, 1, false, got[i + 1], NULL, &why));
            CHECK_LE(distance(got[i + 1], want[1][i + 1]), 1e-2);
        }
        decoder_seq_close(s);
        decoder_seq_close(t);
        decoder_close(d);
        host_fail_after(0);
        CHECK_I64_EQ(host_allocated(), 0);
    }
}

/* Kept beginnings live on the device, die with it, and are kept anew on the CPU. */
static void kept_beginnings_are_those_of_the_device(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    int32_t prompt[PROMPT];
    float want[TINY_VOCAB], got[TINY_VOCAB];
    const struct decoder_share share = {.n_public = 20, .has_partition = true};
    host_fail_after(0);
    prompt_fill(prompt, PROMPT, 9);
    struct decoder *d = open_on(BACKEND_CUDA, CACHE_F16);
    struct decoder_seq *s = NULL;
    for (int round = 0; round < 4; round++) {
        size_t known = round == 1 || round == 3 ? PROMPT - 1 : 0;
        CHECK_OK(decoder_seq_open(&s, d, 0, &why));
        if (round == 2) { /* fails while the prompt is computed, before anything could be found */
            CHECK_I64_EQ(decoder_prefix_find(s, prompt, PROMPT, &share), PROMPT - 1);
            host_fail_after(3);
        } else {
            CHECK_I64_EQ(decoder_prefix_find(s, prompt, PROMPT, &share), known);
        }
        size_t len = decoder_seq_len(s);
        CHECK_OK(decoder_step(
            d,
            &(struct decoder_item){
                .seq = s, .tokens = prompt + len, .n = PROMPT - len, .n_logits = 1, .prompt = true},
            1, round == 0 ? want : got, &why));
        CHECK(strcmp(decoder_backend_name(d), "cuda") == 0 ? round < 2 : round >= 2);
        if (round)
            CHECK_LE(distance(got, want), round == 1 ? 0 : 1e-2);
        decoder_prefix_keep(s, prompt, PROMPT, &share);
        decoder_seq_close(s);
    }
    decoder_close(d);
    host_fail_after(0);
    CHECK_I64_EQ(host_allocated(), 0);
}

/* Pages are copied, given back, taken and copied to again between two steps: each has the bytes that it would
 * have if every copy were done when it is asked for. */
static void copies_between_steps_are_those_of_their_moment(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { N = 3 };
    int32_t ids[KV_PAGE + 1];
    float want[N][TINY_VOCAB], got[TINY_VOCAB];
    struct decoder_seq *s[N];
    uint32_t at[N]; /* the page of each sequence */
    host_fail_after(0);
    struct decoder *d = open_on(BACKEND_CUDA, CACHE_F16);
    for (int i = 0; i < N; i++) {
        prompt_fill(ids, KV_PAGE, 20 + (uint64_t)i);
        ids[KV_PAGE] = 1;
        CHECK_OK(decoder_seq_open(&s[i], d, 0, &why));
        CHECK_OK(decoder_eval(s[i], ids, KV_PAGE, false, NULL, NULL, &why));
        CHECK_OK(decoder_eval(s[i], ids + KV_PAGE, 1, false, want[i], NULL, &why));
        decoder_seq_truncate(s[i], KV_PAGE);
        at[i] = s[i]->table[0];
    }
    uint64_t seed = 31;
    for (int round = 0; round < 20; round++) {
        uint32_t spare[3];
        CHECK(kv_take(d->kv, spare, 3));
        if (round == 0) { /* spare 0 <- A; A <- B; spare 1 <- spare 0 */
            kv_copy(d->kv, spare[0], at[0], KV_PAGE);
            kv_copy(d->kv, at[0], at[1], KV_PAGE);
            kv_copy(d->kv, spare[1], spare[0], KV_PAGE);
            uint32_t left = at[0];
            at[0] = spare[1];
            spare[1] = left;
        }
        for (int i = 0; round && i < 12; i++) { /* rings, chains, pages copied to twice */
            size_t who = test_rand(&seed) % N, to = test_rand(&seed) % 3;
            uint32_t left = at[who];
            kv_copy(d->kv, spare[to], left, KV_PAGE);
            at[who] = spare[to];
            spare[to] = left;
            if (test_rand(&seed) % 4 == 0)
                kv_copy(d->kv, left, at[(who + 1) % N], KV_PAGE);
        }
        for (int i = 0; i < 3; i++)
            if (round % 2 == 0 || i)
                kv_unref(d->kv, spare[i]);
        for (int i = 0; i < N; i++)
            s[i]->table[0] = at[i];
        for (int i = 0; i < N; i++) {
            CHECK_OK(decoder_eval(s[i], ids + KV_PAGE, 1, false, got, NULL, &why));
            CHECK(memcmp(got, want[i], sizeof got) == 0);
            decoder_seq_truncate(s[i], KV_PAGE);
        }
        if (round % 2)
            kv_unref(d->kv, spare[0]);
    }
    CHECK_STR_EQ(decoder_backend_name(d), "cuda");
    for (int i = 0; i < N; i++)
        decoder_seq_close(s[i]);
    decoder_close(d);
    CHECK_I64_EQ(host_allocated(), 0);
}

/* The device takes single tokens first and prompts behind them, whatever the caller's order. */
static void logits_come_in_the_order_of_the_items(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { N = 5 };
    static const struct {
        size_t n, n_logits;
        bool prompt;
    } kinds[N] = {
        {20, 1, true },
        {2,  2, false},
        {17, 3, true },
        {9,  0, true },
        {1,  1, false}
    };
    int32_t ids[N][20];
    float want[7][TINY_VOCAB], got[7][TINY_VOCAB];
    struct decoder_item items[N];
    struct decoder_seq *s[N];
    host_fail_after(0);
    struct decoder *d = open_on(BACKEND_CUDA, CACHE_F16);
    size_t row = 0;
    for (int i = 0; i < N; i++) {
        prompt_fill(ids[i], 20, 40 + (uint64_t)i);
        CHECK_OK(decoder_seq_open(&s[i], d, 0, &why));
        items[i] = (struct decoder_item){.seq = s[i],
                                         .tokens = ids[i],
                                         .n = kinds[i].n,
                                         .n_logits = kinds[i].n_logits,
                                         .prompt = kinds[i].prompt};
        CHECK_OK(decoder_step(d, &items[i], 1, want[row], &why));
        row += kinds[i].n_logits;
        decoder_seq_truncate(s[i], 0);
    }
    CHECK_U64_EQ(row, 7);
    CHECK_OK(decoder_step(d, items, N, got[0], &why));
    CHECK(memcmp(got, want, sizeof got) == 0);
    CHECK_STR_EQ(decoder_backend_name(d), "cuda");
    for (int i = 0; i < N; i++)
        decoder_seq_close(s[i]);
    decoder_close(d);
    CHECK_I64_EQ(host_allocated(), 0);
}

static void a_model_that_the_device_does_not_take_runs_on_the_cpu(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct decoder *d = open_on(BACKEND_CUDA, CACHE_Q8);
    CHECK(strcmp(decoder_backend_name(d), "cuda") != 0);
    decoder_close(d);
    double rate = 0;
    CHECK_OK(model_device_bandwidth(1 << 16, &rate, &why));
    CHECK(rate > 0 && model_device_name() != NULL);
    host_memory(200 << 10);
    CHECK_ERR(model_device_bandwidth(1 << 20, &rate, &why), CAIRN_ENOMEM);
    d = open_on(BACKEND_CUDA, CACHE_F16);
    CHECK(strcmp(decoder_backend_name(d), "cuda") != 0);
    CHECK_I64_EQ(host_allocated(), 0);
    float logits[TINY_VOCAB];
    struct decoder_seq *s = NULL;
    CHECK_OK(decoder_seq_open(&s, d, 0, &why));
    CHECK_OK(decoder_eval(s, (int32_t[]){1, 2, 3}, 3, false, logits, NULL, &why));
    decoder_seq_close(s);
    decoder_close(d);
    host_memory((size_t)1 << 30);
    d = open_on(BACKEND_SCALAR, CACHE_F16);
    CHECK_STR_EQ(decoder_backend_name(d), "scalar");
    decoder_close(d);
}

static void vectors_are_the_cpus_before_and_after_a_failure(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { DIM = 384 };
    static float want[2 * DIM], got[2 * DIM];
    struct model_registry *r = NULL;
    host_fail_after(0);
    const struct model_card *card = NULL;
    if (!test_model_file("all-minilm-l6-v2", "model.safetensors"))
        skip();
    CHECK_OK(model_registry_open(&r, test_models_dir(), &why));
    CHECK_OK(model_registry_find(r, MODEL_EMBEDDER, "all-minilm-l6-v2", &card, &why));
    const struct cairn_str texts[] = {cairn_str_of("stones"), cairn_str_of("a heap of stones marks a trail")};
    for (int backend = 0; backend < 2; backend++) {
        struct encoder *e = NULL;
        CHECK_OK(encoder_open(
            &e, card, &(struct model_opts){.backend = backend ? BACKEND_CUDA : BACKEND_SCALAR}, &why));
        CHECK_STR_EQ(encoder_backend_name(e), backend ? "cuda" : "scalar");
        for (int round = 0; round <= backend; round++) {
            CHECK_OK(encoder_embed(e, texts, 2, backend ? got : want, NULL, &why));
            for (size_t t = 0; t < 2 && backend; t++) {
                double dot = 0;
                for (size_t i = 0; i < DIM; i++)
                    dot += (double)got[t * DIM + i] * (double)want[t * DIM + i];
                CHECK_GE(dot, 0.99995);
            }
            CHECK(!backend || (strcmp(encoder_backend_name(e), "cuda") == 0) == (round == 0));
            if (backend && !round)
                host_fail_after(20);
        }
        encoder_close(e);
    }
    host_fail_after(0);
    model_registry_close(r);
    CHECK_I64_EQ(host_allocated(), 0);
}

static void without_a_module_the_cpu_computes(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    CHECK(device_find(&why) == NULL && why.text[0]);
    CHECK(!model_backend_available(BACKEND_CUDA) && model_device_name() == NULL);
    double rate = 1;
    CHECK_ERR(model_device_bandwidth(1 << 16, &rate, &why), CAIRN_EDEVICE);
    struct decoder *d = open_on(BACKEND_CUDA, CACHE_F16), *automatic = open_on(BACKEND_AUTO, CACHE_F16);
    CHECK_STR_EQ(decoder_backend_name(d), decoder_backend_name(automatic));
    CHECK(strcmp(decoder_backend_name(d), "cuda") != 0);
    decoder_close(d);
    decoder_close(automatic);
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "absent")) {
        const struct CMUnitTest absent[] = {TEST(without_a_module_the_cpu_computes)};
        return setenv("CAIRN_CUDA_MODULE", "/nonexistent/module.so", 1) ||
               cmocka_run_group_tests(absent, setup, teardown);
    }
    if (argc != 4 || setenv("CAIRN_CUDA_MODULE", argv[1], 1)) {
        print_error("usage: test_device EMULATION NO_ENTRY OTHER_ABI | absent\n");
        return 1;
    }
    emulation = argv[1];
    no_entry = argv[2];
    other_abi = argv[3];
    void *module = dlopen(emulation, RTLD_NOW | RTLD_LOCAL);
    const struct {
        const char *name;
        void *to;
    } symbols[] = {
        {"cuda_host_memory",     &host_memory    },
        {"cuda_host_fail_after", &host_fail_after},
        {"cuda_host_allocated",  &host_allocated }
    };
    for (size_t i = 0; module && i < sizeof symbols / sizeof symbols[0]; i++) {
        void *symbol = dlsym(module, symbols[i].name);
        memcpy(symbols[i].to, &symbol, sizeof symbol);
    }
    if (!host_memory || !host_fail_after || !host_allocated) {
        print_error("%s is not the emulation\n", emulation);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        TEST(modules_that_are_none_are_refused),
        TEST(a_request_outlives_its_device),
        TEST(kept_beginnings_are_those_of_the_device),
        TEST(copies_between_steps_are_those_of_their_moment),
        TEST(logits_come_in_the_order_of_the_items),
        TEST(a_model_that_the_device_does_not_take_runs_on_the_cpu),
        TEST(vectors_are_the_cpus_before_and_after_a_failure),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
