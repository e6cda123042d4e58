/* Phrases: cleaned, found again in the sources, and numbers held against passages. No model. */
#include "check.h"
#include "phrase.h"

static struct cairn_str S(const char *s) {
    return cairn_str_of(s);
}

static void
phrase_is(const char *wrote, const char *want)
{
    struct cairn_str got = phrase_trim(S(wrote));
    if (got.len != strlen(want) || memcmp(got.p, want, got.len) != 0)
        fail_msg("\"%s\" became \"%.*s\", not \"%s\"", wrote, (int)got.len, got.p, want);
}

static void marks_quotes_and_introductions_are_no_part_of_a_phrase(void **state)
{
    (void)state;
    phrase_is("October 1973", "October 1973");
    phrase_is("  \"October 1973.\" [1]\n", "October 1973");
    phrase_is("Answer: nearly $12 [2].", "nearly $12");
    phrase_is("**Rollo** [1, 2]", "Rollo");
    phrase_is("Rollo\nBecause he came first.", "Rollo");
    phrase_is("The answer is 'a spirit'.", "a spirit");
    phrase_is("array[i]", "array[i]"); /* no citation */
    phrase_is("", "");
    phrase_is(" .,;", "");
    phrase_is("\"", "\"");
}

static const char one[] =
    "The embargo began in October 1973. Prices rose to nearly\n$12 a barrel by March 1974.",
                  two[] = "A second crisis came in 1979. In October 1973 nobody had foreseen it.";

static struct answer_request request(struct answer_source sources[2], const char *question)
{
    sources[0] = (struct answer_source){.text = S(one)};
    sources[1] = (struct answer_source){.text = S(two)};
    return (struct answer_request){.question = S(question), .sources = sources, .n_sources = 2};
}

static void a_phrase_is_found_where_the_question_points(void **state)
{
    (void)state;
    struct answer_source sources[2];
    const size_t lens[2] = {sizeof one - 1, sizeof two - 1};
    struct phrase_place p;
    struct answer_request q = request(sources, "When did the embargo begin?");
    assert_true(phrase_find(S("october 1973"), &q, lens, 2, NULL, 0, &p));
    CHECK_U64_EQ(p.source, 0);
    assert_int_equal(memcmp(one + p.start, "October 1973", p.end - p.start), 0);
    CHECK_U64_EQ(p.from, 0);
    CHECK_U64_EQ(p.to, strlen("The embargo began in October 1973."));
    q = request(sources, "What had nobody foreseen?");
    assert_true(phrase_find(S("October 1973"), &q, lens, 2, NULL, 0, &p));
    CHECK_U64_EQ(p.source, 1);
    /* a line break inside is no other word; half a word is */
    assert_true(phrase_find(S("nearly $12"), &q, lens, 2, NULL, 0, &p));
    assert_false(phrase_find(S("Octob 1973"), &q, lens, 2, NULL, 0, &p));
    assert_false(phrase_find(S("1973 October"), &q, lens, 2, NULL, 0, &p));
    assert_false(phrase_find(S(""), &q, lens, 2, NULL, 0, &p));
    /* what is beyond the part that was read is not there */
    const size_t less[2] = {10, 10};
    assert_false(phrase_find(S("October 1973"), &q, less, 2, NULL, 0, &p));
}

static void the_reader_decides_between_places(void **state)
{
    (void)state;
    struct answer_source sources[2];
    const size_t lens[2] = {sizeof one - 1, sizeof two - 1};
    struct answer_request q = request(sources, "When did the embargo begin?");
    size_t at = (size_t)(strstr(two, "October") - two);
    struct reader_span span = {.source = 1, .start = at, .end = at + 7};
    struct phrase_place p;
    assert_true(phrase_find(S("October 1973"), &q, lens, 2, &span, 1, &p));
    CHECK_U64_EQ(p.source, 1);
}

static void numbers_must_stand_in_a_passage(void **state)
{
    (void)state;
    static const struct {
        const char *text, *passage;
        bool ok;
    } rows[] = {
        {"It began in 1973 [7].",          "The crisis of 1973",         true },
        {"It began in 1974.",              "The crisis of 1973",         false},
        {"It cost 1,000 euros.",           "1000 euros were paid",       true },
        {"It cost 1000 euros.",            "a price of 1,000 euros",     true },
        {"It took 7 days.",                "after seven days",           true },
        {"It took 7 days.",                "after seventeen days",       false},
        {"It took 21 days.",               "after twenty-one days",      false},
        {"No number here.",                "",                           true },
        {"Between 3 and 5 [1] were lost.", "3 to 4 ships",               false},
        {"12 of 100",                      "112 and 100",                false},
        {"on 2, 3 and 4 May",              "on 2, 3 and 4 May they met", true },
        {"It is 3.5 m long",               "3 m and 5 m",                false},
        {"It is 3.5 m long",               "a length of 3.5.",           true },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct cairn_str passage = S(rows[i].passage), text = S(rows[i].text);
        if (phrase_numbers_in(text, 0, text.len, &passage, 1) != rows[i].ok)
            fail_msg("\"%s\" against \"%s\"", rows[i].text, rows[i].passage);
    }
    struct cairn_str text = S("7");
    assert_false(phrase_numbers_in(text, 0, text.len, NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marks_quotes_and_introductions_are_no_part_of_a_phrase),
        cmocka_unit_test(a_phrase_is_found_where_the_question_points),
        cmocka_unit_test(the_reader_decides_between_places),
        cmocka_unit_test(numbers_must_stand_in_a_passage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
