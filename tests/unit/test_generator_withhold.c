/* What is taken back of an answer: sentences, marks, verdicts; and that every offset follows. */
#include "check.h"

#include "answer_internal.h"

static struct answer of(const char *text)
{
    struct cairn_span spans[16];
    struct answer a = {.text = cairn_strdup(text), .text_len = strlen(text), .mode = ANSWER_GENERATE};
    a.n_sentences = cairn_sentences((struct cairn_str){a.text, a.text_len}, spans, 16);
    CHECK(a.n_sentences <= 16);
    a.sentences = cairn_calloc(a.n_sentences + 1, sizeof *a.sentences);
    CHECK(a.text && a.sentences);
    for (size_t i = 0; i < a.n_sentences; i++)
        a.sentences[i] = (struct ground_sentence){.start = spans[i].start, .end = spans[i].end, .score = 1};
    return a;
}
static void cites(struct ground_sentence *s, uint32_t number, bool ok)
{
    s->cited[s->n_cited] = number - 1;
    s->cited_ok[s->n_cited++] = ok;
}
static void sentence_is(const struct answer *a, size_t i, const char *want)
{
    const struct ground_sentence *s = &a->sentences[i];
    CHECK(i < a->n_sentences && s->start <= s->end && s->end <= a->text_len);
    if (s->end - s->start != strlen(want) || memcmp(a->text + s->start, want, strlen(want)) != 0) {
        print_error("sentence %zu of \"%s\" is \"%.*s\"\n", i, a->text, (int)(s->end - s->start),
                    a->text + s->start);
        fail();
    }
}

static void dropped_sentences_leave_no_gap(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char text[] = "The pump starts. It sings.\n\nIt stops at noon. The end.";
    static const char *const want[] = {
        text,
        "It sings.\n\nIt stops at noon. The end.",
        "The pump starts.\n\nIt stops at noon. The end.",
        "It stops at noon. The end.",
        "The pump starts. It sings. The end.",
        "It sings. The end.",
        "The pump starts. The end.",
        "The end.",
        "The pump starts. It sings.\n\nIt stops at noon.",
        "It sings.\n\nIt stops at noon.",
        "The pump starts.\n\nIt stops at noon.",
        "It stops at noon.",
        "The pump starts. It sings.",
        "It sings.",
        "The pump starts.",
        "",
    };
    static const char *const sentences[] = {"The pump starts.", "It sings.", "It stops at noon.", "The end."};
    for (unsigned mask = 0; mask < 16; mask++) {
        struct answer a = of(text);
        bool drop[16] = {0}, changed;
        CHECK_U64_EQ(a.n_sentences, 4);
        for (size_t i = 0; i < 4; i++) {
            drop[i] = (mask >> i) & 1;
            a.sentences[i].flags[0] =
                (struct ground_flag){.start = a.sentences[i].start + 1, .end = a.sentences[i].end};
            a.sentences[i].n_flags = 1;
        }
        CHECK_OK(withhold(&a, drop, true, &changed, &why));
        CHECK(changed == (mask != 0));
        CHECK_STR_EQ(a.text, want[mask]);
        CHECK_U64_EQ(a.text_len, strlen(want[mask]));
        for (size_t i = 0, k = 0; i < 4; i++) {
            if (drop[i])
                continue;
            sentence_is(&a, k, sentences[i]);
            CHECK_U64_EQ(a.sentences[k].flags[0].start, a.sentences[k].start + 1);
            CHECK_U64_EQ(a.sentences[k].flags[0].end, a.sentences[k].end);
            k++;
        }
        answer_release(&a);
    }
}

/* The source 1 carries every sentence, 2 and 3 none. */
static void marks_of_sources_that_do_not_carry_go(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const struct {
        const char *text, *want;
    } rows[] = {
        {"It is tested at 06:00 [1].",                    "It is tested at 06:00 [1]."               },
        {"It is tested at 06:00 [3].",                    "It is tested at 06:00."                   },
        {"It is tested at 06:00[3].",                     "It is tested at 06:00."                   },
        {"It is tested [3][2] at 06:00 [1].",             "It is tested at 06:00 [1]."               },
        {"It is tested at 06:00. [2]",                    "It is tested at 06:00."                   },
        {"[2] It is tested at 06:00.",                    "It is tested at 06:00."                   },
        {"It is tested [1, 3] at 06:00 [ 3 ; 1 ].",       "It is tested [1] at 06:00 [1]."           },
        {"It is tested [17] at 06:00 [1].",               "It is tested at 06:00 [1]."               },
        {"In [2019] it was `pump[2]` and [0] [sic] [3].", "In [2019] it was `pump[2]` and [0] [sic]."},
        {"[3]",                                           ""                                         },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct answer a = of(rows[i].text);
        bool drop[16] = {0}, changed;
        CHECK_U64_EQ(a.n_sentences, 1);
        cites(&a.sentences[0], 3, false);
        cites(&a.sentences[0], 1, true);
        cites(&a.sentences[0], 2, false);
        CHECK_OK(withhold(&a, drop, true, &changed, &why));
        CHECK_STR_EQ(a.text, rows[i].want);
        CHECK(changed == (strcmp(rows[i].text, rows[i].want) != 0));
        CHECK_U64_EQ(a.n_sentences, rows[i].want[0] != 0);
        if (a.n_sentences) {
            sentence_is(&a, 0, rows[i].want);
            CHECK(a.sentences[0].n_cited == 1 && a.sentences[0].cited[0] == 0 && a.sentences[0].cited_ok[0]);
        }
        answer_release(&a);
        /* quoted words stay */
        a = of(rows[i].text);
        CHECK_OK(withhold(&a, drop, false, &changed, &why));
        CHECK(changed == drop[0]);
        answer_release(&a);
    }
    /* the second sentence moves with what the first loses */
    struct answer a = of("It is tested [2]. It stops [1].");
    bool drop[16] = {0}, changed;
    CHECK_U64_EQ(a.n_sentences, 2);
    cites(&a.sentences[0], 2, false);
    cites(&a.sentences[1], 1, true);
    CHECK_OK(withhold(&a, drop, true, &changed, &why));
    CHECK_STR_EQ(a.text, "It is tested. It stops [1].");
    sentence_is(&a, 0, "It is tested.");
    sentence_is(&a, 1, "It stops [1].");
    answer_release(&a);
}

static void a_number_that_nothing_cited_has_takes_the_verdict_back(void **state)
{
    UNUSED_STATE(state);
    struct cairn_str passages[2] = {cairn_str_of("The pump moves 1,200 litres."), cairn_str_of("It is red.")};
    struct answer a = of("The pump moves 1,300 litres [1].");
    struct ground_sentence *s = &a.sentences[0], kept;
    s->verdict = VERDICT_SUPPORTED;
    s->evidence[0] = (struct ground_evidence){.source = 0, .score = 0.9f};
    s->n_evidence = 1;
    cites(s, 1, true);
    kept = *s;
    withhold_numbers(s, cairn_str_of("The pump moves 1,200 litres [1]."), passages, 2, 0.5f);
    CHECK(memcmp(s, &kept, sizeof kept) == 0);
    withhold_numbers(s, cairn_str_of(a.text), passages, 2, 0.2f);
    CHECK(s->verdict == VERDICT_UNSUPPORTED && s->n_evidence == 0);
    CHECK(s->score < 0.2f); /* a verdict and its score say the same */
    CHECK(!s->cited_ok[0]);
    CHECK_U64_EQ(s->citations_dropped, 1);
    CHECK_STR_EQ(s->flags[0].kind, "number");
    answer_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(dropped_sentences_leave_no_gap),
        TEST(marks_of_sources_that_do_not_carry_go),
        TEST(a_number_that_nothing_cited_has_takes_the_verdict_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
