/* Whole answers with the small models: every sentence has a verdict, events come before the return, quotes
 * are verbatim. */
#include "check.h"

#include <math.h>

#include <cairn/generator.h>

#include "answer_internal.h"

static struct model_registry *registry;
static struct decoder *dec;
static struct encoder *emb;
static struct generator *gen, *quoting; /* quoting: no models at all */

static int open_models(void **state)
{
    UNUSED_STATE(state);
    struct cairn_why why = {{0}};
    const struct model_card *card = NULL;
    if (generator_open(&quoting, NULL, NULL, NULL, NULL, &why))
        return 1;
    if (!test_model_file("smollm2-135m-instruct-q4_1", "model.gguf") ||
        !test_model_file("all-minilm-l6-v2", "model.safetensors"))
        return 0;
    if (model_registry_open(&registry, test_models_dir(), &why) ||
        model_registry_find(registry, MODEL_GENERATOR, "smollm2-135m-instruct-q4_1", &card, &why) ||
        decoder_open(&dec, card, NULL, &why) ||
        model_registry_find(registry, MODEL_EMBEDDER, "all-minilm-l6-v2", &card, &why) ||
        encoder_open(&emb, card, NULL, &why) || generator_open(&gen, dec, emb, NULL, NULL, &why)) {
        print_error("%s\n", why.text);
        return 1;
    }
    return 0;
}
static int close_models(void **state)
{
    UNUSED_STATE(state);
    generator_close(gen);
    generator_close(quoting);
    decoder_close(dec);
    encoder_close(emb);
    model_registry_close(registry);
    return 0;
}

static const char *const texts[] = {
    "The water pump at Lake Harrow is tested every Monday at 06:00. Jonas Weber signs the test log.\nThe "
    "pump moves 1,200 litres an hour.",
    "# Depot 7\n\nDepot 7 closes at noon on Fridays. The keys of the depot are kept by Mira Okafor.\n\n- "
    "Nobody may enter alone.\n- Wear a helmet.",
};
static struct answer_source sources[2];
static struct answer_request request(const char *question, enum answer_mode mode)
{
    for (size_t i = 0; i < 2; i++)
        sources[i] = (struct answer_source){.title = cairn_str_of(i ? "Depot" : "Pump"),
                                            .text = cairn_str_of(texts[i]),
                                            .score = 1,
                                            .dense = NAN,
                                            .rerank = NAN};
    return (struct answer_request){
        .question = cairn_str_of(question), .sources = sources, .n_sources = 2, .mode = mode};
}

struct seen {
    char text[4096];
    size_t len, sentences, cancel_after, deltas, restarts;
    size_t last_end;
    char reason[16];  /* of the last restart */
    char first[4096]; /* what the first took back */
};
static bool on_event(void *ctx, const struct answer_event *e)
{
    struct seen *s = ctx;
    if (e->kind == ANSWER_EVENT_DELTA) {
        CHECK(e->delta.len > 0 && s->len + e->delta.len < sizeof s->text);
        CHECK(cairn_utf8_invalid_at(e->delta.p, e->delta.len) == e->delta.len);
        memcpy(s->text + s->len, e->delta.p, e->delta.len);
        s->len += e->delta.len;
        s->deltas++;
    } else if (e->kind == ANSWER_EVENT_RESTART) {
        if (!s->restarts)
            memcpy(s->first, s->text, s->len);
        s->len = s->sentences = s->last_end = 0;
        memset(s->text, 0, sizeof s->text);
        snprintf(s->reason, sizeof s->reason, "%s", e->reason);
        s->restarts++;
    } else {
        CHECK(e->sentence->end <= s->len); /* the text of a verdict came before it */
        CHECK(e->sentence->start >= s->last_end);
        s->last_end = e->sentence->end;
        s->sentences++;
    }
    return !(s->cancel_after && s->deltas >= s->cancel_after);
}

/* What the model wrote, whatever became of it. */
static const char *written(const struct seen *s) { return s->restarts ? s->first : s->text; }

static void covered(const struct answer *a)
{
    size_t at = 0;
    for (size_t i = 0; i < a->n_sentences; i++) {
        for (; at < a->sentences[i].start; at++)
            CHECK(strchr(" \t\r\n", a->text[at])); /* no text outside the sentences */
        CHECK(a->sentences[i].end > a->sentences[i].start);
        at = a->sentences[i].end;
    }
    for (; at < a->text_len; at++)
        CHECK(strchr(" \t\r\n", a->text[at]));
}

/* White space joined, for comparing a quote with its source. */
static void joined(const char *s, size_t n, char *out)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        char c = strchr("\t\r\n", s[i]) ? ' ' : s[i];
        if (c != ' ' || (m && out[m - 1] != ' '))
            out[m++] = c;
    }
    out[m] = '\0';
}

static void extracts_are_verbatim_cited_and_supported(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const struct {
        const char *question, *inside;
    } rows[] = {
        {"When is the water pump tested?",              "every Monday at 06:00"},
        {"How many litres an hour does the pump move?", "1,200 litres"         },
        {"Who keeps the keys of the depot?",            "Mira Okafor"          },
        {"When does Depot 7 close on Fridays?",         "closes at noon"       },
    };
    for (size_t g = 0; g < 2; g++) {
        if (g && !gen)
            continue;
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            struct answer_request q = request(rows[i].question, ANSWER_EXTRACT);
            struct seen seen = {.len = 0};
            q.on_event = on_event;
            q.ctx = &seen;
            struct answer a;
            CHECK_OK(generator_answer(g ? gen : quoting, &q, &a, NULL, &why));
            CHECK(a.refusal == REFUSAL_NONE && a.mode == ANSWER_EXTRACT && a.n_sentences >= 1);
            if (!strstr(a.text, rows[i].inside)) {
                print_error("\"%s\" -> \"%s\"\n", rows[i].question, a.text);
                fail();
            }
            CHECK_STR_EQ(seen.text, a.text);
            CHECK_U64_EQ(seen.sentences, a.n_sentences);
            covered(&a);
            for (size_t k = 0; k < a.n_sentences; k++) {
                const struct ground_sentence *s = &a.sentences[k];
                CHECK(s->verdict == VERDICT_SUPPORTED && s->n_evidence > 0 && s->n_cited == 1 &&
                      s->cited_ok[0]);
                CHECK(s->evidence[0].source == s->cited[0]);
                char quote[1024], whole[1024];
                size_t mark = s->end;
                while (a.text[mark - 1] != '[')
                    mark--;
                joined(a.text + s->start, mark - 2 - s->start, quote);
                joined(texts[s->cited[0]], strlen(texts[s->cited[0]]), whole);
                CHECK(strstr(whole, quote));
            }
            answer_release(&a);
        }
    }
}

static void no_evidence_is_a_refusal_with_a_reason(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct answer a;
    struct answer_request q = request("When is the pump tested?", ANSWER_AUTO);
    q.n_sources = 0;
    CHECK_OK(generator_answer(quoting, &q, &a, NULL, &why));
    CHECK(a.refusal == REFUSAL_NO_PASSAGES && a.refusal_message && a.text_len == 0 && a.n_sentences == 0);
    CHECK_STR_EQ(a.finish, "refused");
    answer_release(&a);
    q = request("Which spices belong into a Thai curry?", ANSWER_AUTO);
    CHECK_OK(generator_answer(quoting, &q, &a, NULL, &why));
    CHECK_STR_EQ(refusal_name(a.refusal), "low_relevance");
    answer_release(&a);
    q = request("", ANSWER_AUTO);
    CHECK_ERR(generator_answer(quoting, &q, &a, NULL, &why), CAIRN_EINVAL);
    q = request("When is the pump tested?", ANSWER_GENERATE);
    CHECK_ERR(generator_answer(quoting, &q, &a, NULL, &why), CAIRN_ESTATE);
    sources[1].text = cairn_str_of("bad \xFF");
    q = request("When?", ANSWER_EXTRACT);
    sources[1].text = cairn_str_of("bad \xFF");
    CHECK_ERR(generator_answer(quoting, &q, &a, NULL, &why), CAIRN_EINVAL);
}

static void every_generated_sentence_has_a_verdict(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    if (!gen)
        skip();
    for (int round = 0; round < 3; round++) {
        struct answer_request q =
            request("When is the water pump tested, and who signs the log?", ANSWER_GENERATE);
        struct seen seen = {.len = 0};
        q.on_event = on_event;
        q.ctx = &seen;
        q.max_tokens = 60;
        q.temperature = round == 2 ? 0.9f : 0;
        q.seed = 11;
        struct answer a, b;
        CHECK_OK(generator_answer(gen, &q, &a, NULL, &why));
        CHECK(a.prompt_tokens > 50 && a.completion_tokens > 0 && a.completion_tokens <= 60);
        if (a.refusal == REFUSAL_NONE) {
            CHECK_STR_EQ(seen.text, a.text);
            CHECK_U64_EQ(seen.sentences, a.n_sentences);
            CHECK_GE(a.n_sentences, 1);
            covered(&a);
        } else {
            CHECK(a.text_len == 0 && a.refusal_message);
        }
        CHECK(a.first_token_us > 0 && a.prefill_us > 0);
        /* the same request, with the fixed prefix now cached, gives the same answer */
        struct seen again = {.len = 0};
        q.ctx = &again;
        CHECK_OK(generator_answer(gen, &q, &b, NULL, &why));
        CHECK_STR_EQ(again.text, seen.text);
        CHECK(memcmp(&a.prompt_hash, &b.prompt_hash, sizeof a.prompt_hash) == 0);
        CHECK(a.refusal == b.refusal && a.n_sentences == b.n_sentences);
        answer_release(&a);
        answer_release(&b);
    }
}

static void cancelling_ends_the_answer_where_it_is(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    if (!gen)
        skip();
    struct answer_request q = request("Tell me all about the pump.", ANSWER_GENERATE);
    struct seen seen = {.cancel_after = 3};
    q.on_event = on_event;
    q.ctx = &seen;
    q.max_tokens = 60;
    struct answer a;
    CHECK_OK(generator_answer(gen, &q, &a, NULL, &why));
    if (seen.deltas >= 3) {
        CHECK_STR_EQ(a.finish, "cancelled");
        CHECK_U64_EQ(seen.deltas, 3);
        covered(&a);
    }
    answer_release(&a);
    struct cairn_stop stop = {.deadline_us = cairn_now_us() - 1};
    CHECK_ERR(generator_answer(gen, &q, &a, &stop, &why), CAIRN_EDEADLINE);
    struct cairn_stop gone = {.deadline_us = 0};
    atomic_store(&gone.cancelled, true);
    CHECK_ERR(generator_answer(gen, &q, &a, &gone, &why), CAIRN_ESTOPPED);
}

static void relevance_grows_with_the_pair_model_and_with_cover(void **state)
{
    UNUSED_STATE(state);
    float f[GF_N] = {0};
    CHECK(relevance_chance(-11, f) < 0.05f);
    CHECK(relevance_chance(5, f) > 0.8f);
    CHECK(relevance_chance(NAN, f) < 0.12f);
    f[GF_COV2] = f[GF_CTX] = 1;
    CHECK(relevance_chance(NAN, f) > 0.9f);
    f[GF_NUM] = 1; /* asks for an identifier that no source has */
    CHECK(relevance_chance(2, f) < 0.5f);
}

/* Temperature makes the small model write what no source says; auto then takes it back and quotes. */
static void auto_takes_back_what_no_source_carries(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const struct model_card *card = NULL;
    struct encoder *pair = NULL;
    struct generator *g = NULL;
    if (!gen || !test_model_file("ms-marco-minilm-l-12-v2", "model.safetensors"))
        skip();
    CHECK_OK(model_registry_find(registry, MODEL_RERANKER, "ms-marco-minilm-l-12-v2", &card, &why));
    CHECK_OK(encoder_open(&pair, card, NULL, &why));
    struct cairn_config *config = cairn_config_new();
    CHECK_OK(cairn_config_add_table(config, generator_conf, generator_conf_len, &why));
    CHECK_OK(cairn_config_set(config, "generator.auto_weight_bytes_min", "0", &why));
    CHECK_OK(generator_open(&g, dec, emb, pair, config, &why));
    size_t quoted = 0;
    for (uint64_t seed = 1; seed <= 40 && quoted < 2; seed++) {
        struct seen seen = {0};
        struct answer a;
        struct answer_request q = request("How many litres an hour does the water pump move?", ANSWER_AUTO);
        q.temperature = 4;
        q.seed = seed;
        q.max_tokens = 12;
        q.on_event = on_event;
        q.ctx = &seen;
        CHECK_OK(generator_answer(g, &q, &a, NULL, &why));
        CHECK_STR_EQ(seen.text, a.text);
        CHECK_U64_EQ(seen.sentences, a.n_sentences);
        CHECK(a.evidence.chance > 0 && a.evidence.chance < 1); /* whatever was done in between */
        CHECK(!isnan(a.evidence.rerank) && !isnan(a.evidence.sentence) && isnan(a.evidence.margin));
        if (a.refusal == REFUSAL_NONE && a.mode == ANSWER_EXTRACT) {
            CHECK_STR_EQ(seen.reason, "quoted");
            CHECK_U64_EQ(seen.restarts, 1);
            CHECK(strstr(a.text, "1,200 litres") != NULL);
            CHECK_GE(a.completion_tokens, 1);
            quoted++;
        }
        answer_release(&a);
    }
    CHECK_GE(quoted, 1);
    generator_close(g);
    encoder_close(pair);
    cairn_config_free(config);
}

/* What was streamed since the last restart is the answer, whatever was taken back of it. */
static void the_stream_ends_as_the_answer(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    if (!gen)
        skip();
    size_t checked = 0, refused = 0;
    for (uint64_t seed = 0; seed < 36; seed++) {
        struct seen seen = {0};
        struct answer a;
        struct answer_request q =
            request("When is the water pump tested, and who signs the log?", ANSWER_GENERATE);
        q.temperature = seed % 2 ? 0.5f : 1.1f;
        q.seed = seed;
        q.max_tokens = 50;
        q.enforce = (enum answer_enforce)(seed % 3);
        q.on_event = on_event;
        q.ctx = &seen;
        CHECK_OK(generator_answer(gen, &q, &a, NULL, &why));
        CHECK_STR_EQ(seen.text, a.text);
        CHECK_U64_EQ(seen.sentences, a.n_sentences);
        covered(&a);
        for (size_t i = 0; i < a.n_sentences; i++) {
            CHECK(q.enforce == ENFORCE_MARK || a.sentences[i].verdict != VERDICT_UNSUPPORTED);
            for (size_t k = 0; k < a.sentences[i].n_cited; k++)
                CHECK(a.sentences[i].cited_ok[k] && a.sentences[i].verdict == VERDICT_SUPPORTED);
            const char *mark = strstr(a.text + a.sentences[i].start, "[2]");
            if (mark && mark < a.text + a.sentences[i].end)
                CHECK(a.sentences[i].verdict == VERDICT_SUPPORTED);
        }
        checked += strcmp(seen.reason, "checked") == 0;
        refused += strcmp(seen.reason, "refused") == 0;
        answer_release(&a);
    }
    print_message("%zu told again, %zu refused\n", checked, refused);
    CHECK_GE(checked, 1);
    CHECK_GE(refused, 1);
    struct generator_stats x;
    generator_stats_get(gen, &x);
    CHECK(x.steps >= 36 && x.rows >= x.steps && x.prompt_tokens > 36 * 50 && x.completion_tokens >= 36);
    CHECK(x.cached_tokens > 0 && x.cached_tokens < x.prompt_tokens && x.accepted <= x.drafted);
    CHECK(x.running == 0 && x.waiting == 0 && x.rejected == 0);
    CHECK(x.kv_pages_free <= x.kv_pages && x.kv_page_bytes > 0);
    generator_stats_get(quoting, &x);
    CHECK(x.steps == 0 && x.prompt_tokens == 0 && x.kv_pages == 0);
}

/* Text without a verdict never is part of an answer. */
static void an_answer_ends_where_its_verdicts_end(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    if (!gen)
        skip();
    struct cairn_config *config = cairn_config_new();
    struct generator *g;
    size_t cut = 0;
    CHECK_OK(cairn_config_add_table(config, generator_conf, generator_conf_len, &why));
    CHECK_OK(cairn_config_set(config, "generator.answer_sentences_max", "1", &why));
    CHECK_OK(generator_open(&g, dec, emb, NULL, config, &why));
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct seen seen = {0};
        struct answer a;
        struct answer_request q = request("Tell me about the water pump.", ANSWER_GENERATE);
        q.temperature = seed ? 0.7f : 0;
        q.seed = seed;
        q.max_tokens = 60;
        q.on_event = on_event;
        q.ctx = &seen;
        CHECK_OK(generator_answer(g, &q, &a, NULL, &why));
        CHECK(a.n_sentences <= 1);
        covered(&a);
        CHECK_STR_EQ(seen.text, a.text);
        CHECK_U64_EQ(seen.sentences, a.n_sentences);
        cut += a.n_sentences == 1 && strcmp(a.finish, "length") == 0 && a.completion_tokens < q.max_tokens;
        answer_release(&a);
    }
    CHECK_GE(cut, 1);
    generator_close(g);
    cairn_config_free(config);
}

/* Deltas of a quotation: cut by a stop string, or beginning with the words that a model refuses with. */
static void quotations_are_streamed_whatever_they_say(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const stop[] = {"Monday"};
    struct seen seen = {0};
    struct answer a;
    struct answer_request q = request("When is the water pump tested?", ANSWER_EXTRACT);
    q.stop = stop;
    q.n_stop = 1;
    q.on_event = on_event;
    q.ctx = &seen;
    CHECK_OK(generator_answer(quoting, &q, &a, NULL, &why));
    CHECK_STR_EQ(a.finish, "stop");
    CHECK_STR_EQ(a.text, "The water pump at Lake Harrow is tested every ");
    CHECK_STR_EQ(seen.text, a.text);
    CHECK_U64_EQ(seen.sentences, 1);
    CHECK(a.first_token_us > 0);
    answer_release(&a);
    for (enum answer_style style = ANSWER_SENTENCES; style <= ANSWER_PHRASE; style++) {
        seen = (struct seen){0};
        q = request("What does the pump print for the error NOT FOUND?", ANSWER_EXTRACT);
        sources[0].text = cairn_str_of("NOT FOUND is the error that the pump prints when no sensor answers.");
        q.style = style;
        q.on_event = on_event;
        q.ctx = &seen;
        CHECK_OK(generator_answer(quoting, &q, &a, NULL, &why));
        CHECK(a.refusal == REFUSAL_NONE);
        CHECK(strstr(a.text, "NOT FOUND is the error"));
        CHECK_STR_EQ(seen.text, a.text);
        CHECK_U64_EQ(seen.sentences, a.n_sentences);
        answer_release(&a);
    }
}

/* Without a look at the evidence nothing of it is known. */
static void evidence_not_looked_at_is_not_known(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct answer a;
    struct answer_request q = request("When is the water pump tested?", ANSWER_EXTRACT);
    q.n_sources = 0;
    CHECK_OK(generator_answer(quoting, &q, &a, NULL, &why));
    const struct answer_evidence *e = &a.evidence;
    CHECK(isnan(e->chance) && isnan(e->rerank) && isnan(e->sentence) && isnan(e->dense) && isnan(e->margin));
    CHECK(isnan(e->cover) && isnan(e->lacks) && isnan(e->nowhere) && isnan(e->plain) && isnan(e->typed));
    answer_release(&a);
}

/* Under the rule for quotes the model chooses where to begin and to end; the words are the source's. */
static void a_quote_is_the_sources_words(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    if (!gen)
        skip();
    struct cairn_config *config = cairn_config_new();
    struct generator *undrafted;
    CHECK_OK(cairn_config_add_table(config, generator_conf, generator_conf_len, &why));
    CHECK_OK(cairn_config_set(config, "generator.draft_max", "0", &why));
    CHECK_OK(generator_open(&undrafted, dec, emb, NULL, config, &why));
    static const char *const questions[] = {"When is the water pump tested?",
                                            "Who keeps the keys of the depot?", "May I enter alone?"};
    for (size_t i = 0; i < 6; i++) {
        struct answer_request q = request(questions[i % 3], ANSWER_GENERATE);
        struct seen seen = {.len = 0}, plain = {.len = 0};
        struct answer a;
        q.rule = ANSWER_RULE_QUOTE;
        q.temperature = i < 3 ? 0 : 1.5f;
        q.seed = i;
        q.max_tokens = 30;
        q.on_event = on_event;
        q.ctx = &seen;
        CHECK_OK(generator_answer(gen, &q, &a, NULL, &why));
        answer_release(&a);
        q.ctx = &plain;
        CHECK_OK(generator_answer(undrafted, &q, &a, NULL, &why));
        CHECK_STR_EQ(written(&plain), written(&seen)); /* guesses change nothing */
        unsigned number = 0;
        const char *quote = written(&seen), *mark = strrchr(quote, '[');
        CHECK(mark && mark > quote + 1 && sscanf(mark, "[%u]", &number) == 1);
        CHECK(number >= 1 && number <= 2);
        const char *from = quote + (quote[0] == ' ');
        CHECK(memmem(texts[number - 1], strlen(texts[number - 1]), from, (size_t)(mark - 1 - from)));
        answer_release(&a);
    }
    generator_close(undrafted);
    cairn_config_free(config);
}

static size_t wrong_marks(const char *text, size_t n_sources)
{
    size_t wrong = 0;
    for (const char *p = text; (p = strchr(p, '[')); p++) {
        char *end;
        unsigned long n = p[1] >= '1' && p[1] <= '9' ? strtoul(p + 1, &end, 10) : 0;
        wrong += n < 1 || n > n_sources || *end != ']';
    }
    return wrong;
}

static void constrained_citations_name_sources_and_change_nothing_else(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    if (!gen)
        skip();
    struct cairn_config *config = cairn_config_new();
    struct generator *constrained;
    CHECK_OK(cairn_config_add_table(config, generator_conf, generator_conf_len, &why));
    CHECK_OK(cairn_config_set(config, "generator.citations_constrained", "1", &why));
    CHECK_OK(generator_open(&constrained, dec, emb, NULL, config, &why));
    for (size_t i = 0; i < 4; i++) {
        struct answer_request q = request("When is the water pump tested?", ANSWER_GENERATE);
        struct answer_source none[2] = {sources[0], sources[1]};
        struct seen seen[2] = {{.len = 0}, {.len = 0}};
        struct answer a[2];
        q.sources = none;
        q.max_tokens = 40;
        q.temperature = i ? 1.2f : 0;
        q.seed = i;
        q.on_event = on_event;
        for (size_t k = 0; k < 2; k++) {
            q.ctx = &seen[k];
            q.rule = k && i % 2 ? ANSWER_RULE_CITATIONS : ANSWER_RULE_CONFIG;
            CHECK_OK(generator_answer(k ? (i % 2 ? gen : constrained) : gen, &q, &a[k], NULL, &why));
            answer_release(&a[k]);
        }
        CHECK_U64_EQ(wrong_marks(written(&seen[1]), 2), 0);
        if (i == 0 && wrong_marks(written(&seen[0]), 2) == 0) /* greedy, and the rule never bound */
            CHECK_STR_EQ(written(&seen[1]), written(&seen[0]));
    }
    generator_close(constrained);
    cairn_config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(extracts_are_verbatim_cited_and_supported),
        TEST(no_evidence_is_a_refusal_with_a_reason),
        TEST(every_generated_sentence_has_a_verdict),
        TEST(cancelling_ends_the_answer_where_it_is),
        TEST(relevance_grows_with_the_pair_model_and_with_cover),
        TEST(auto_takes_back_what_no_source_carries),
        TEST(the_stream_ends_as_the_answer),
        TEST(an_answer_ends_where_its_verdicts_end),
        TEST(quotations_are_streamed_whatever_they_say),
        TEST(evidence_not_looked_at_is_not_known),
        TEST(a_quote_is_the_sources_words),
        TEST(constrained_citations_name_sources_and_change_nothing_else),
    };
    return cmocka_run_group_tests(tests, open_models, close_models);
}
