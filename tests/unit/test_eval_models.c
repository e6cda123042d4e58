/* test_eval_models.c - `cairn bench model`: what counts as better, how engines are compared, files of random
 * weights that decode, the bandwidth probe, and what is said of peers that are not there. */
#include "check.h"

#include "model_runs.h"

#include <cairn/eval.h>
#include <cairn/model.h>
#include <math.h>

static void add(struct model_runs *r, const char *engine, const char *test, const char *setting,
                unsigned threads, double value)
{
    TEST_WHY;
    struct model_run run = {.threads = threads, .source = -1, .value = value};
    snprintf(run.engine, sizeof run.engine, "%s", engine);
    snprintf(run.model, sizeof run.model, "m");
    snprintf(run.test, sizeof run.test, "%s", test);
    snprintf(run.setting, sizeof run.setting, "%s", setting);
    CHECK_OK(model_runs_add(r, &run, &why));
}

static void the_best_of_every_setting_is_compared(void **state)
{
    UNUSED_STATE(state);
    struct model_runs r = {0};
    add(&r, "cairn", "pp512", "a", 2, 100);
    add(&r, "cairn", "pp512", "a", 2, 120); /* a later pass, better */
    add(&r, "cairn", "pp512", "a", 2, 90);  /* and worse */
    add(&r, "cairn", "pp512", "a", 1, 500); /* other threads are another matter */
    add(&r, "peer", "pp512", "x", 2, 30);
    add(&r, "peer", "pp512", "y", 2, 40);
    CHECK_U64_EQ(r.n, 4);
    CHECK_NEAR(model_runs_best(&r, "cairn", "m", "pp512", 2)->value, 120, 0);
    CHECK_STR_EQ(model_runs_best(&r, "peer", "m", "pp512", 2)->setting, "y");
    CHECK_NEAR(model_runs_ratio(&r, "cairn", "peer", "m", "pp512", 2), 3, 1e-12);
    CHECK(isnan(model_runs_ratio(&r, "cairn", "peer", "m", "pp512", 1)));
    CHECK(!model_runs_best(&r, "cairn", "other", "pp512", 2));
    cairn_free(r.v);
}

static void of_times_the_least_is_the_best(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct model_runs r = {0};
    add(&r, "cairn", "query16", "a", 2, 2);
    add(&r, "cairn", "query16", "a", 2, 1);
    add(&r, "cairn", "query16", "a", 2, 3);
    add(&r, "peer", "query16", "x", 2, 4);
    CHECK_NEAR(model_runs_best(&r, "cairn", "m", "query16", 2)->value, 1, 0);
    CHECK_NEAR(model_runs_ratio(&r, "cairn", "peer", "m", "query16", 2), 4, 1e-12);
    CHECK(model_test_is_time("step8") && model_test_is_time("ttft1000") && !model_test_is_time("tg@512"));
    struct model_run none = {.engine = "cairn",
                             .value = 0}; /* of a clock that stood still, or a broken file */
    CHECK_ERR(model_runs_add(&r, &none, &why), CAIRN_EINVAL);
    none.value = NAN;
    CHECK_ERR(model_runs_add(&r, &none, &why), CAIRN_EINVAL);
    cairn_free(r.v);
}

static void a_file_of_random_weights_decodes(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir(), path[4200];
    struct decoder *d;
    struct decoder_seq *s;
    int32_t ids[3] = {7, 11, 13};
    struct model_opts opts = {.n_ctx = 16};
    snprintf(path, sizeof path, "%s/shape.gguf", dir);
    CHECK_ERR(shape_write("no such shape", path, NULL, &why), CAIRN_ENOTFOUND);
    CHECK(strstr(why.text, "smollm2-135m-q4_0") && access(path, F_OK) != 0);
    CHECK_OK(shape_write("smollm2-135m-q4_0", path, NULL, &why));
    CHECK_OK(decoder_open_file(&d, path, &opts, &why));
    CHECK_U64_EQ(decoder_n_vocab(d), 49152);
    CHECK_OK(decoder_seq_open(&s, d, 0, &why));
    float *logits = cairn_calloc(decoder_n_vocab(d), sizeof *logits), least = INFINITY, most = -INFINITY;
    CHECK_OK(decoder_eval(s, ids, 3, false, logits, NULL, &why));
    for (uint32_t i = 0; i < decoder_n_vocab(d); i++) {
        CHECK(isfinite(logits[i]));
        least = logits[i] < least ? logits[i] : least;
        most = logits[i] > most ? logits[i] : most;
    }
    CHECK(most > least); /* not all zeros: the weights are there */
    cairn_free(logits);
    decoder_seq_close(s);
    decoder_close(d);
    test_rmdir(dir);
}

static void memory_is_read_by_all_ways(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct bandwidth *b;
    struct cairn_pool *pool;
    const char *way = NULL;
    CHECK_OK(cairn_pool_open(&pool, 2, &why));
    CHECK_OK(bandwidth_open(&b, 16 << 20, &why));
    CHECK(bandwidth_measure(b, pool, cairn_now_us, &way) > 0 && way && *way);
    bandwidth_close(b);
    cairn_pool_close(pool);
}

/* Before anything is measured: nobody should wait for an hour to learn it. */
static int with_peer(char *python)
{
    char dir[4200], *tmp = test_tmpdir(), name[] = "model", quick[] = "--quick", peers[] = "--peers",
                    work[] = "--work", models[] = "--models";
    snprintf(dir, sizeof dir, "%s", tmp);
    char bench[] = "bench";
    char *argv[] = {bench, name, quick, work, dir, models, dir, peers, python, NULL};
    int code = bench_main(9, argv);
    test_rmdir(tmp);
    return code;
}
static void peers_that_are_not_there_are_named(void **state)
{
    UNUSED_STATE(state);
    char absent[] = "/nonexistent/python", broken[] = "/bin/false", none[] = "none";
    CHECK_I64_EQ(with_peer(absent), 3);
    CHECK_I64_EQ(with_peer(broken), 1);
    CHECK_I64_EQ(with_peer(none), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_best_of_every_setting_is_compared), TEST(of_times_the_least_is_the_best),
        TEST(a_file_of_random_weights_decodes),      TEST(memory_is_read_by_all_ways),
        TEST(peers_that_are_not_there_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
