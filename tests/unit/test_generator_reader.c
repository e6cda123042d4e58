/* The span reader over the pair model: the same margins as the script that trained it computes in f32, spans
 * on word borders, an overlay refused over another model. READER_FILE is the repository's overlay. */
#include "check.h"

#include "reader.h"

#include <math.h>

static struct model_registry *registry;
static const struct model_card *card;
static struct reader *reader;

static int open_reader(void **state)
{
    UNUSED_STATE(state);
    struct cairn_why why = {{0}};
    if (!test_model_file("ms-marco-minilm-l-12-v2", "model.safetensors"))
        return 0;
    if (model_registry_open(&registry, test_models_dir(), &why) ||
        model_registry_find(registry, MODEL_RERANKER, "ms-marco-minilm-l-12-v2", &card, &why) ||
        reader_open(&reader, card, READER_FILE, NULL, &why)) {
        print_error("%s\n", why.text);
        return 1;
    }
    return 0;
}
static int close_reader(void **state)
{
    UNUSED_STATE(state);
    reader_close(reader);
    model_registry_close(registry);
    return 0;
}

static const char text[] =
    "The embargo began in October 1973. Prices rose to nearly $12 a barrel by March 1974.";

static struct reader_span best(const char *question, const struct answer_source *sources, size_t n)
{
    struct cairn_why why = {{0}};
    struct reader_span s[READER_SPANS_MAX];
    size_t lens[8], n_spans;
    for (size_t i = 0; i < n; i++)
        lens[i] = sources[i].text.len;
    struct answer_request q = {.question = cairn_str_of(question), .sources = sources, .n_sources = n};
    CHECK_OK(reader_read(reader, &q, lens, n, s, &n_spans, NULL, &why));
    CHECK(n_spans >= 1 && n_spans <= READER_SPANS_MAX);
    for (size_t i = 1; i < n_spans; i++)
        CHECK(s[i].margin <= s[i - 1].margin);
    return s[0];
}

static void margins_are_those_of_the_training_script(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *question, *span;
        double margin;
    } rows[] = {
        {"When did the embargo begin?",                 "October 1973", 4.3786  },
        {"What was the price of oil in March of 1974?", "$12",          0.6255  },
        {"Who began the embargo?",                      "The embargo",  -4.6883 },
        {"What did Rollo eat?",                         "embargo",      -14.1913},
    };
    if (!reader)
        skip();
    const struct answer_source source = {.text = cairn_str_of(text)};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct reader_span s = best(rows[i].question, &source, 1);
        if (s.end - s.start != strlen(rows[i].span) ||
            memcmp(text + s.start, rows[i].span, s.end - s.start) != 0)
            fail_msg("\"%s\": \"%.*s\"", rows[i].question, (int)(s.end - s.start), text + s.start);
        CHECK_NEAR(s.margin, rows[i].margin,
                   0.5); /* float sums in another order, activations of fewer bits */
        CHECK_U64_EQ(s.from, 0);
        CHECK_U64_EQ(s.to, sizeof text - 1);
    }
}

static void a_number_is_never_cut(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *text, *cut, *whole;
    } rows[] = {
        {"a density of 4,097.9 people", "4",             "4,097.9"           },
        {"a density of 4,097.9 people", "097",           "4,097.9"           },
        {"a density of 4,097.9 people", "9 people",      "4,097.9 people"    },
        {"a density of 4,097.9 people", "density of 4,", "density of 4,097.9"},
        {"open at 10:45, not 9.",       "45",            "10:45"             },
        {"open at 10:45, not 9.",       "9",             "9"                 },
        {"version 2.0",                 "0",             "2.0"               },
        {"12",                          "1",             "12"                },
        {"in 1990, 2000 and so on",     "1990",          "1990"              },
        {"it ends. 5 more",             "5 more",        "5 more"            },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct cairn_str t = cairn_str_of(rows[i].text);
        struct reader_span s = {.start = (size_t)(strstr(t.p, rows[i].cut) - t.p), .to = t.len};
        s.end = s.start + strlen(rows[i].cut);
        reader_whole_numbers(t, &s);
        if (s.end - s.start != strlen(rows[i].whole) ||
            memcmp(t.p + s.start, rows[i].whole, s.end - s.start) != 0)
            fail_msg("\"%s\" of \"%s\": \"%.*s\"", rows[i].cut, t.p, (int)(s.end - s.start), t.p + s.start);
    }
    struct reader_span s = {.start = 1, .end = 2, .from = 1, .to = 2}; /* never beyond its run */
    reader_whole_numbers(cairn_str_of("1234"), &s);
    CHECK(s.start == 1 && s.end == 2);
}

static void the_source_with_the_answer_comes_first_wherever_it_stands(void **state)
{
    UNUSED_STATE(state);
    if (!reader)
        skip();
    const struct answer_source in[3] = {
        {.text = cairn_str_of("Gr\xC3\xBC\xC3\x9F"
                              "e aus K\xC3\xB6ln. Nothing is said of oil here.")},
        {.text = cairn_str_of("")},
        {.text = cairn_str_of(text)}};
    struct reader_span s = best("When did the embargo begin?", in, 3);
    CHECK_U64_EQ(s.source, 2);
    CHECK(memcmp(text + s.start, "October 1973", 12) == 0);
}

static void long_sources_are_read_in_runs(void **state)
{
    UNUSED_STATE(state);
    if (!reader)
        skip();
    struct cairn_buf b;
    cairn_buf_init(&b, 1 << 20);
    for (int i = 0; i < 40; i++)
        cairn_buf_printf(&b, "Sentence number %d speaks of the weather in the hills and says little else. ",
                         i);
    size_t at = b.len;
    cairn_buf_puts(&b, text);
    struct answer_source source = {
        .text = {b.bytes, b.len}
    };
    struct reader_span s = best("When did the embargo begin?", &source, 1);
    CHECK(s.start >= at && memcmp(b.bytes + s.start, "October 1973", 12) == 0);
    CHECK(s.from <= s.start && s.end <= s.to && s.to - s.from < 600);
    cairn_buf_release(&b);
}

struct heard {
    char text[256];
    size_t n_sentences;
    enum verdict verdict;
};
static bool hear(void *ctx, const struct answer_event *e)
{
    struct heard *h = ctx;
    size_t at = strlen(h->text);
    if (e->kind == ANSWER_EVENT_DELTA)
        snprintf(h->text + at, sizeof h->text - at, "%.*s", (int)e->delta.len, e->delta.p);
    if (e->kind == ANSWER_EVENT_SENTENCE) {
        h->n_sentences++;
        h->verdict = e->sentence->verdict;
    }
    return true;
}

static void a_phrase_is_cited_and_streamed_whole(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    if (!reader)
        skip();
    struct generator *g;
    struct answer a;
    struct heard h = {.text = ""};
    const struct answer_source in[2] = {
        {.text = cairn_str_of("Nothing is said of it here."), .score = 1, .dense = NAN, .rerank = NAN},
        {.text = cairn_str_of(text),                          .score = 1, .dense = NAN, .rerank = NAN}
    };
    struct answer_request q = {.question = cairn_str_of("When did the embargo begin?"),
                               .sources = in,
                               .n_sources = 2,
                               .mode = ANSWER_EXTRACT,
                               .style = ANSWER_PHRASE,
                               .on_event = hear,
                               .ctx = &h};
    CHECK_OK(generator_open(&g, NULL, NULL, NULL, NULL, &why));
    generator_use_reader(g, reader);
    CHECK_OK(generator_answer(g, &q, &a, NULL, &why));
    CHECK_I64_EQ(a.refusal, REFUSAL_NONE);
    CHECK_STR_EQ(a.text, "October 1973 [2]");
    CHECK_STR_EQ(h.text, a.text);
    CHECK_U64_EQ(h.n_sentences, 1);
    CHECK(h.verdict == VERDICT_SUPPORTED && a.n_sentences == 1 && a.sentences[0].n_evidence == 1);
    CHECK_U64_EQ(a.sentences[0].evidence[0].source, 1);
    CHECK_U64_EQ(a.sentences[0].evidence[0].end, strlen("The embargo began in October 1973."));
    CHECK(a.evidence.margin > 3 && a.evidence.chance > 0.12f);
    answer_release(&a);
    q.question =
        cairn_str_of("What did Rollo eat?"); /* the reader finds nothing: refused before anything is said */
    h = (struct heard){.text = ""};
    CHECK_OK(generator_answer(g, &q, &a, NULL, &why));
    CHECK_I64_EQ(a.refusal, REFUSAL_LOW_RELEVANCE);
    CHECK_STR_EQ(h.text, "");
    answer_release(&a);
    generator_close(g);
    /* without a reader a phrase cannot be found: sentences are quoted */
    q.question = cairn_str_of("When did the embargo begin?");
    CHECK_OK(generator_open(&g, NULL, NULL, NULL, NULL, &why));
    CHECK_OK(generator_answer(g, &q, &a, NULL, &why));
    CHECK(a.refusal == REFUSAL_NONE && strstr(a.text, "The embargo began in October 1973."));
    answer_release(&a);
    generator_close(g);
}

static void an_overlay_goes_over_its_own_model_only(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct reader *r;
    if (!reader)
        skip();
    struct model_card other = *card;
    other.sha256 = (char *)(uintptr_t) "00";
    CHECK_ERR(reader_open(&r, &other, READER_FILE, NULL, &why), CAIRN_ECORRUPT);
    CHECK(strstr(why.text, "base_sha256") && !r);
    CHECK(reader_open(&r, card, "/nonexistent/reader", NULL, &why) != CAIRN_OK && !r);
    CHECK_ERR(reader_open(&r, card, card->path, NULL, &why), CAIRN_ECORRUPT); /* no overlay at all */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(margins_are_those_of_the_training_script),
        TEST(a_number_is_never_cut),
        TEST(the_source_with_the_answer_comes_first_wherever_it_stands),
        TEST(long_sources_are_read_in_runs),
        TEST(a_phrase_is_cited_and_streamed_whole),
        TEST(an_overlay_goes_over_its_own_model_only),
    };
    return cmocka_run_group_tests(tests, open_reader, close_reader);
}
