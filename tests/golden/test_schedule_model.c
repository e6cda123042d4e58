/* test_schedule_model.c - a real model writes the same 256 tokens token by token, with drafts, in company and
 * after a kept beginning; greedy and seeded. */
#include "check.h"
#include "draft.h"
#include "schedule.h"

enum { PROMPTS = 3, WRITE = 256 };

static const char *const texts[PROMPTS] = {
    "Repeat this text word by word: The water pump at Lake Harrow is tested every Monday at 06:00. Jonas "
    "Weber "
    "signs the test log. The pump moves 1,200 litres an hour. The keys of the depot are kept by Mira Okafor. "
    "Nobody may enter alone. Depot 7 closes at noon on Fridays.",
    "Write a list of ten rules for a depot. Rule 1: Depot 7 closes at noon on Fridays. Rule 2: Nobody may "
    "enter "
    "alone. Rule 3: Wear a helmet.",
    "Tell a story about a lighthouse keeper and a whale.",
};

static void the_same_text_however_it_is_computed(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const char *path = test_model_file("smollm2-135m-instruct-q4_1", "model.gguf");
    if (!path) {
        skip();
        return;
    }
    struct cairn_pool *pool = NULL;
    struct decoder *d = NULL;
    CHECK_OK(cairn_pool_open(&pool, 0, &why));
    CHECK_OK(decoder_open_file(&d, path, &(struct model_opts){.pool = pool, .n_ctx = 1024}, &why));
    const struct tokenizer *t = decoder_tokenizer(d);
    size_t n_vocab = decoder_n_vocab(d), n[PROMPTS], n_want[PROMPTS];
    float *logits = malloc(n_vocab * sizeof *logits), *scratch = malloc(n_vocab * sizeof *scratch);
    int32_t *ids[PROMPTS];
    static int32_t want[PROMPTS][WRITE];
    struct sampler sampler[PROMPTS];
    memset(sampler, 0, sizeof sampler);
    sampler[2] = (struct sampler){.temperature = 0.7f, .top_p = 0.95f, .state = 5};
    for (size_t i = 0; i < PROMPTS; i++) {
        struct chat_message m = {"user", cairn_str_of(texts[i])};
        struct sampler s = sampler[i];
        struct decoder_seq *seq = NULL;
        CHECK_OK(chat_encode(t, decoder_template(d), &m, 1, &ids[i], &n[i], &why));
        CHECK_OK(decoder_seq_open(&seq, d, 0, &why));
        CHECK_OK(decoder_eval(seq, ids[i], n[i], false, logits, NULL, &why));
        for (n_want[i] = 0; n_want[i] < WRITE; n_want[i]++) {
            int32_t id = sampler_next(&s, logits, n_vocab, tokenizer_n_vocab(t), scratch);
            if (tokenizer_is_end(t, id))
                break;
            want[i][n_want[i]] = id;
            CHECK_OK(decoder_eval(seq, &id, 1, false, logits, NULL, &why));
        }
        decoder_seq_close(seq);
    }
    struct schedule *s = NULL;
    CHECK_OK(schedule_open(
        &s, d,
        &(struct schedule_opts){
            .batch_max = 4, .queue_max = 8, .prompt_rows = 16, .draft_max = DRAFT_MAX, .keep_prefixes = true},
        &why));
    size_t written = 0;
    for (int together = 0; together < 2; together++)
        for (size_t first = 0; first < PROMPTS; first += together ? PROMPTS : 1) {
            size_t last = together ? PROMPTS : first + 1;
            struct schedule_job *j[PROMPTS] = {0};
            for (size_t i = first; i < last; i++)
                CHECK_OK(schedule_submit(s,
                                         &(struct schedule_request){.ids = ids[i],
                                                                    .n = n[i],
                                                                    .share = {.has_partition = true},
                                                                    .max_tokens = WRITE,
                                                                    .sampler = sampler[i]},
                                         &j[i], &why));
            for (size_t i = first; i < last; i++) {
                int32_t id;
                for (size_t k = 0; k < n_want[i]; k++) {
                    CHECK_OK(schedule_next(j[i], &id, &why));
                    CHECK_I64_EQ(id, want[i][k]);
                    written++;
                }
                CHECK_OK(schedule_next(j[i], &id, &why));
                CHECK_I64_EQ(id, -1);
                struct schedule_usage u;
                schedule_usage_get(j[i], &u);
                CHECK_U64_EQ(u.cached_tokens, together ? n[i] - 1 : u.cached_tokens);
                schedule_drop(j[i]);
            }
        }
    struct generator_stats st;
    schedule_stats_get(s, &st);
    CHECK(st.accepted > 50);
    print_message("%zu tokens in %" PRIu64 " steps, %" PRIu64 " of %" PRIu64 " drafted tokens came true\n",
                  written, st.steps, st.accepted, st.drafted);
    schedule_close(s);
    for (size_t i = 0; i < PROMPTS; i++)
        cairn_free(ids[i]);
    free(logits);
    free(scratch);
    decoder_close(d);
    cairn_pool_close(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(the_same_text_however_it_is_computed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
