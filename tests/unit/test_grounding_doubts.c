/* Doubts: one changed word in a claim that keeps close to its source is told, by kind; the nearest true
 * claims are not. */
#include "check.h"

#include <cairn/generator.h>

#include "grounding_internal.h"
#include "tokens.h"
#include "words.h"

static const char source[] = "The harbour bridge was built by Anna Keller in 1931 and repaired by Tom Brandt "
                             "in 1978. Most ferries leave "
                             "before noon. The lamp must not be washed with water. Visitors may park behind "
                             "the mill. The bridge is open "
                             "to cyclists. Some stalls sell bread on Sundays. Soak the beans for 12 hours "
                             "and cook them for 45 minutes. "
                             "The 3 km path leads to the old quarry. About 85 percent of the boats are made "
                             "of oak. Only members use the "
                             "slipway. Dogs are allowed on the beach without a lead. The keeper rarely "
                             "sleeps in the tower. Both towers "
                             "face north. Passengers wait at gate 7.";

struct row {
    const char *claim, *kind;
    bool told; /* a flag of that kind at 0.7 and above */
};

static float surest(const char *question, const char *claim, const char *kind)
{
    TEST_WHY;
    struct ground_source s = {.text = cairn_str_of(source)};
    struct ground_opts o = {.question = cairn_str_of(question)};
    struct grounding *g = NULL;
    struct ground_sentence r;
    CHECK_OK(grounding_open(&g, &s, 1, &o, &why));
    struct cairn_str t = cairn_str_of(claim);
    CHECK_OK(grounding_check(g, t, 0, t.len, &r, &why));
    float best = 0;
    for (size_t i = 0; i < r.n_flags; i++) {
        CHECK(r.flags[i].confidence >= 0 && r.flags[i].confidence <= 1);
        CHECK(r.flags[i].start < r.flags[i].end && r.flags[i].end <= t.len);
        if (strcmp(r.flags[i].kind, kind) == 0 && r.flags[i].confidence > best)
            best = r.flags[i].confidence;
    }
    grounding_close(g);
    return best;
}

static void check_rows(const struct row *rows, size_t n)
{
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        float sure = surest(NULL, rows[i].claim, rows[i].kind);
        if ((sure >= 0.7f) != rows[i].told) {
            print_error("\"%s\": %s %.2f, want %s\n", rows[i].claim, rows[i].kind, (double)sure,
                        rows[i].told ? "told" : "not told");
            bad++;
        }
    }
    CHECK_U64_EQ(bad, 0);
}
#define CHECK_ROWS(rows) check_rows(rows, sizeof rows / sizeof *rows)

static void an_added_negation_is_told(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"The bridge is not open to cyclists.",                    "negation", true },
        {"Visitors may never park behind the mill.",               "negation", true },
        {"Nobody soaks the beans for 12 hours.",                   "negation", true },
        {"The lamp must not be washed with water.",                "negation", false},
        {"You can not wash the lamp with water.",                  "negation", false}, /* the like is said there */
        {"The beach allows dogs without a lead.",                  "negation", false},
        {"Not only cyclists may use the bridge, which is open.",   "negation", false},
        {"The passage does not mention the colour of the bridge.", "negation",
         false                                                                      }, /* no source could deny it */
    };
    CHECK_ROWS(rows);
}

static void a_lost_negation_is_told(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"The lamp must be washed with water.", "negation", true },
        {"Never wash the lamp with water.",     "negation", false},
        {"The bridge is open to all cyclists.", "negation", false},
    };
    CHECK_ROWS(rows);
}

static void a_negation_that_the_question_has_is_its_own(void **state)
{
    UNUSED_STATE(state);
    static const char claim[] = "To cook the beans without salt, soak them for 12 hours.";
    CHECK(surest("How do I cook beans without salt?", claim, "negation") <= 0);
    CHECK(surest("How do I cook beans?", claim, "negation") > 0);
}

static void a_quantifier_of_another_size_is_told(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"Few ferries leave before noon.",          "quantifier", true },
        {"Ferries never leave before noon.",        "quantifier", true },
        {"The keeper usually sleeps in the tower.", "quantifier", true },
        {"Not only members use the slipway.",       "quantifier", true },
        {"Neither towers face north.",              "quantifier", true },
        {"Usually ferries leave before noon.",      "quantifier", false}, /* as much as "most" */
        {"The keeper seldom sleeps in the tower.",  "quantifier", false},
        {"Only members may use the slipway.",       "quantifier", false},
        {"The ferries leave before noon.",          "quantifier", false},
    };
    CHECK_ROWS(rows);
}

static void a_stronger_modal_is_told(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"Visitors must park behind the mill.",      "quantifier", true },
        {"Visitors can park behind the mill.",       "quantifier", false},
        {"You need to soak the beans for 12 hours.", "quantifier", false}, /* what a step is for */
        {"The mill has a place to park behind it.",  "quantifier", false},
    };
    CHECK_ROWS(rows);
}

static void exchanged_names_and_numbers_are_told(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"The bridge was built by Tom Brandt and repaired by Anna Keller.",  "binding", true },
        {"Soak the beans for 45 hours and cook them for 12 minutes.",        "binding", true },
        {"Anna Keller built the harbour bridge and Tom Brandt repaired it.", "binding", false},
        {"Tom Brandt repaired the bridge that was built by Anna Keller.",    "binding",
         false                                                                               }, /* order alone is nothing */
        {"Cook the beans for 45 minutes, after you soak them for 12 hours.", "binding", false},
        {"7. Passengers wait at gate 7.",                                    "binding", false},
    };
    CHECK_ROWS(rows);
}

static void numbers_and_units_are_held_to_their_place(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"The 3 miles path leads to the old quarry.",      "number", true },
        {"Soak the beans for 12 days.",                    "number", true },
        {"About 86 percent of the boats are made of oak.", "number", true }, /* finer than the source */
        {"The path of 3 km leads to the old quarry.",      "number", false},
        {"Soak the beans for twelve hours.",               "number", false},
        {"85% of the boats are of oak.",                   "number", false},
    };
    CHECK_ROWS(rows);
}

static void a_copy_has_nothing_odd(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const copies[] = {"The lamp must not be washed with water.",
                                         "Only members use the slipway.",
                                         "Dogs are allowed on the beach without a lead."};
    struct ground_source s = {.text = cairn_str_of(source)};
    struct grounding *g = NULL;
    CHECK_OK(grounding_open(&g, &s, 1, NULL, &why));
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++) {
        struct ground_sentence r;
        size_t n;
        CHECK_OK(grounding_check(g, cairn_str_of(copies[i]), 0, strlen(copies[i]), &r, &why));
        (void)grounding_doubts(g, &n);
        CHECK(n == 0 && r.n_flags == 1);
        CHECK_STR_EQ(r.flags[0].kind, "verbatim");
    }
    grounding_close(g);
}

static void doubts_are_of_the_last_claim_alone(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct ground_source s = {.text = cairn_str_of(source)};
    struct grounding *g = NULL;
    struct ground_sentence r;
    size_t n;
    CHECK_OK(grounding_open(&g, &s, 1, &(struct ground_opts){.by_hand = true}, &why));
    static const char odd[] = "Few ferries never leave before noon.", none[] = "Thank you!";
    CHECK_OK(grounding_check(g, cairn_str_of(odd), 0, strlen(odd), &r, &why));
    (void)grounding_doubts(g, &n);
    CHECK(n > 0);
    CHECK_OK(grounding_check(g, cairn_str_of(none), 0, strlen(none), &r, &why));
    (void)grounding_doubts(g, &n);
    CHECK_U64_EQ(n, 0);
    grounding_close(g);
}

static void many_odd_words_stay_within_bounds(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    for (int i = 0; i < 60; i++)
        CHECK(cairn_buf_puts(&b, i % 3 ? "never all Keller 12 " : "few not Brandt 45 must "));
    struct ground_source s = {.text = cairn_str_of(source)};
    struct grounding *g = NULL;
    struct ground_sentence r;
    size_t n;
    CHECK_OK(grounding_open(&g, &s, 1, NULL, &why));
    struct cairn_str t = {(const char *)b.bytes, b.len};
    CHECK_OK(grounding_check(g, t, 0, t.len, &r, &why));
    (void)grounding_doubts(g, &n);
    CHECK(n <= DOUBTS_MAX && r.n_flags <= GROUND_FLAGS_MAX);
    grounding_close(g);
    cairn_buf_release(&b);
}

static void surer_doubts_never_lower_the_alarm(void **state)
{
    UNUSED_STATE(state);
    uint8_t x[CF_N] = {0};
    for (size_t k = GF_DOUBT_VALUE; k <= GF_DOUBT_BINDING; k++) {
        int32_t before = claim_margin(1000, -2000, x);
        for (unsigned v = 0; v < 256; v++) {
            x[k] = (uint8_t)v;
            int32_t m = claim_margin(1000, -2000, x);
            CHECK(m >= before);
            before = m;
        }
        x[k] = 0;
    }
    CHECK_I64_EQ(claim_margin(4000, 2000, x), 4000);
}

static void levels_are_ordered(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *word;
        unsigned level;
    } rows[] = {
        {"never",   LEVEL_ZERO},
        {"rarely",  LEVEL_FEW },
        {"some",    LEVEL_SOME},
        {"often",   LEVEL_MANY},
        {"usually", LEVEL_MOST},
        {"every",   LEVEL_ALL },
        {"only",    LEVEL_ONLY},
        {"bridge",  LEVEL_NONE}
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CHECK_U64_EQ(word_classes(rows[i].word, strlen(rows[i].word)) >> 8, rows[i].level);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_added_negation_is_told),
        TEST(a_lost_negation_is_told),
        TEST(a_negation_that_the_question_has_is_its_own),
        TEST(a_quantifier_of_another_size_is_told),
        TEST(a_stronger_modal_is_told),
        TEST(exchanged_names_and_numbers_are_told),
        TEST(numbers_and_units_are_held_to_their_place),
        TEST(a_copy_has_nothing_odd),
        TEST(doubts_are_of_the_last_claim_alone),
        TEST(many_odd_words_stay_within_bounds),
        TEST(surer_doubts_never_lower_the_alarm),
        TEST(levels_are_ordered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
