/* One table per kind of proof: claims that the sources carry, and the nearest claims that they do not. */
#include "check.h"

#include <cairn/generator.h>

#include "grounding_internal.h"

static const char *const sources[] = {
    /* 0 */ "Vacation policy. Full-time employees receive 25 days of paid vacation per year. Part-time staff "
            "in Lyon receive 15 days. "
            "Unused days may be carried over until 31 March 2025. Employees may not carry over more than "
            "five days. Every manager must approve a "
            "request within two weeks. Interns are not eligible for the bonus.",
    /* 1 */
    "The VPN client version 4.2.1 must be installed by Dr. Anna Keller of the Security team. Remote access "
    "requires a hardware token. "
    "Report incidents to security@quellmar.example or at https://intranet.example/incident within 24 hours. "
    "The service account is svc_backup_01. "
    "Error code ERR-4471 means that the certificate has expired.",
    /* 2 */
    "Revenue rose by 12% to $3.4 million in 2023. Operating costs fell to 1,250,000 euros. The board meeting "
    "takes place on 3 April 2024 at 14:30. "
    "The Hamburg office has 320 employees. The audit was conducted by the Federal Office for Information "
    "Security.",
    /* 3 */
    "Access to the laboratory is allowed only from 9:00 to 17:00. Some visitors must wear a badge. The old "
    "building closed in 1998. "
    "The director said: \"Safety is worth more than speed, and it always will be.\" The tank holds 40 litres "
    "at 20 \xC2\xB0"
    "C. "
    "About 70 percent of the samples were frozen before transport.",
};
#define N_SOURCES (sizeof sources / sizeof sources[0])

struct row {
    const char *claim;
    enum verdict verdict;
    const char *flag;  /* a flag that must be there, or NULL */
    int contradiction; /* 1: a source says otherwise must be told; 0: no matter */
    int source;        /* supported: best evidence; -1: no matter */
};
#define S VERDICT_SUPPORTED
#define U VERDICT_UNSUPPORTED
#define N VERDICT_NO_CLAIM

static void check_rows(const struct row *rows, size_t n)
{
    TEST_WHY;
    struct ground_source s[N_SOURCES];
    for (size_t i = 0; i < N_SOURCES; i++)
        s[i] = (struct ground_source){.text = cairn_str_of(sources[i])};
    struct grounding *g = NULL;
    CHECK_OK(grounding_open(&g, s, N_SOURCES, NULL, &why));
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        struct ground_sentence r;
        struct cairn_str t = cairn_str_of(rows[i].claim);
        CHECK_OK(grounding_check(g, t, 0, t.len, &r, &why));
        bool flagged = rows[i].flag == NULL, contradicted = !rows[i].contradiction;
        for (size_t k = 0; k < r.n_flags; k++) {
            flagged = flagged || strcmp(r.flags[k].kind, rows[i].flag) == 0;
            contradicted = contradicted || r.flags[k].contradiction;
            CHECK(r.flags[k].start < r.flags[k].end && r.flags[k].end <= t.len);
        }
        bool placed = rows[i].verdict != S || rows[i].source < 0 ||
                      (r.n_evidence && (int)r.evidence[0].source == rows[i].source);
        if (r.verdict != rows[i].verdict || !flagged || !contradicted || !placed) {
            print_error("\"%s\": %s %.2f, want %s%s%s%s;", rows[i].claim, verdict_name(r.verdict),
                        (double)r.score, verdict_name(rows[i].verdict), flagged ? "" : " with flag ",
                        flagged ? "" : rows[i].flag, contradicted ? "" : " contradicted");
            for (size_t k = 0; k < r.n_flags; k++)
                print_error(" %s%s", r.flags[k].kind, r.flags[k].contradiction ? "!" : "");
            print_error("\n");
            bad++;
        }
        if (r.verdict == S) {
            CHECK(r.n_evidence > 0);
            for (size_t k = 0; k < r.n_evidence; k++)
                CHECK(r.evidence[k].start < r.evidence[k].end &&
                      r.evidence[k].end <= strlen(sources[r.evidence[k].source]));
        }
        if (r.verdict == N)
            CHECK(r.n_evidence == 0 && r.score == 0);
    }
    grounding_close(g);
    CHECK_U64_EQ(bad, 0);
}
#define CHECK_ROWS(rows) check_rows(rows, sizeof rows / sizeof rows[0])

static void numbers_must_be_in_a_source(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"Full-time employees receive 25 days of paid vacation per year.",          S, "verbatim", 0, 0 },
        {"Full-time employees receive twenty-five days of paid vacation per year.", S, NULL,       0, 0 },
        {"Full-time employees receive 30 days of paid vacation per year.",          U, "number",   1, -1},
        {"Full-time employees receive thirty days of paid vacation per year.",      U, "number",   1, -1},
        {"Full-time employees get 25 vacation days a year.",                        S, NULL,       0, 0 },
        {"Employees may not carry over more than 5 days.",                          S, NULL,       0, 0 },
        {"Employees may not carry over more than 7 days.",                          U, "number",   1, -1},
        {"Every manager must approve a request within 14 days.",                    S, NULL,       0, 0 },
        {"Every manager must approve a request within 3 weeks.",                    U, "number",   0, -1},
        {"Revenue rose by 12% to $3.4 million.",                                    S, NULL,       0, 2 },
        {"Revenue rose by 12 percent to 3,400,000 dollars.",                        S, NULL,       0, 2 },
        {"Revenue rose by 21% to $3.4 million.",                                    U, "number",   1, -1},
        {"Revenue rose by 12% to $3.4 billion.",                                    U, "number",   0, -1},
        {"Revenue rose by 12% to 3.4 million euros.",                               U, "number",   0, -1},
        {"Operating costs fell to 1.25 million euros.",                             S, NULL,       0, 2 },
        {"Operating costs fell to EUR 1,250,000.",                                  S, NULL,       0, 2 },
        {"Operating costs fell to 1,350,000 euros.",                                U, "number",   1, -1},
        {"The Hamburg office has 320 employees.",                                   S, "verbatim", 0, 2 },
        {"The Hamburg office has 230 employees.",                                   U, "number",   1, -1},
        {"The Hamburg office has about 325 employees.",                             S, NULL,       0, 2 },
        {"The Hamburg office has about 400 employees.",                             U, "number",   0, -1},
        {"The tank holds 40 litres at 20 \xC2\xB0"
         "C.",                                                             S, NULL,       0, 3 },
        {"The tank holds 40,000 ml at 68 \xC2\xB0"
         "F.",                                                             S, NULL,       0, 3 },
        {"The tank holds 40 gallons at 20 \xC2\xB0"
         "C.",                                                             U, "number",   0, -1},
        {"Report incidents within 24 hours.",                                       S, NULL,       0, 1 },
        {"Report incidents within 1 day.",                                          S, NULL,       0, 1 },
        {"Report incidents within 48 hours.",                                       U, "number",   1, -1},
        {"About 70 percent of the samples were frozen before transport.",           S, NULL,       0, 3 },
        {"About 90 percent of the samples were frozen before transport.",           U, "number",   1, -1},
    };
    CHECK_ROWS(rows);
}

static void dates_and_times_must_agree_in_any_format(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"Unused days may be carried over until 31 March 2025.",         S, NULL,   0, 0 },
        {"Unused days may be carried over until March 31, 2025.",        S, NULL,   0, 0 },
        {"Unused days may be carried over until 2025-03-31.",            S, NULL,   0, 0 },
        {"Unused days may be carried over until 31.03.2025.",            S, NULL,   0, 0 },
        {"Unused days may be carried over until 3/31/2025.",             S, NULL,   0, 0 },
        {"Unused days may be carried over until March 2025.",            S, NULL,   0, 0 },
        {"Unused days may be carried over until 30 April 2025.",         U, "date", 1, -1},
        {"Unused days may be carried over until 31 March 2026.",         U, "date", 1, -1},
        {"Unused days may be carried over until 2025-04-30.",            U, "date", 1, -1},
        {"The board meeting takes place on April 3rd, 2024 at 2:30 pm.", S, NULL,   0, 2 },
        {"The board meeting takes place on April 3rd, 2024 at 4:30 pm.", U, "time", 1, -1},
        {"The board meeting takes place on 4 April 2024.",               U, "date", 1, -1},
        {"Access to the laboratory is allowed only from 9 am to 5 pm.",  S, NULL,   0, 3 },
        {"Access to the laboratory is allowed only from 9 am to 6 pm.",  U, "time", 0, -1},
        {"The old building closed in 1998.",                             S, NULL,   0, 3 },
        {"The old building closed in 1989.",                             U, "date", 0, -1},
        {"Revenue rose by 12% in 2023.",                                 S, NULL,   0, 2 },
        {"Revenue rose by 12% in 2021.",                                 U, "date", 0, -1},
    };
    CHECK_ROWS(rows);
}

static void names_identifiers_and_quotes_must_be_there(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"The VPN client must be installed by Dr. Anna Keller.",                            S, NULL,         0, 1 },
        {"The VPN client must be installed by Keller.",                                     S, NULL,         0, 1 },
        {"The VPN client must be installed by Dr. Peter Huber.",                            U, "name",       0, -1},
        {"Anna Keller's Security team must install the VPN client.",                        S, NULL,         0, 1 },
        {"The audit was conducted by the FOIS.",                                            S, NULL,         0, 2 },
        {"The audit was conducted by the NSA.",                                             U, "name",       0, -1},
        {"The VPN client version 4.2.1 must be installed.",                                 S, NULL,         0, 1 },
        {"The VPN client version 4.3.1 must be installed.",                                 U, "identifier", 0, -1},
        {"The VPN client v4.2.1 must be installed.",                                        S, NULL,         0, 1 },
        {"Report incidents to security@quellmar.example.",                                  S, NULL,         0, 1 },
        {"Report incidents to help@quellmar.example.",                                      U, "identifier", 0, -1},
        {"Report incidents at https://intranet.example/incident.",                          S, NULL,         0, 1 },
        {"Report incidents at https://intranet.example/accident.",                          U, "identifier", 0, -1},
        {"The service account is svc_backup_01.",                                           S, NULL,         0, 1 },
        {"The service account is svc_backup_02.",                                           U, "identifier", 0, -1},
        {"Error code ERR-4471 means that the certificate has expired.",                     S, NULL,         0, 1 },
        {"Error code ERR-4417 means that the certificate has expired.",                     U, "identifier", 0, -1},
        {"The director said: \"Safety is worth more than speed\".",                         S, NULL,         0, 3 },
        {"The director said that \xE2\x80\x9Csafety is worth more than speed\xE2\x80\x9D.", S, NULL,         0, 3 },
        {"The director said: \"Safety is ... more than speed\".",                           S, NULL,         0, 3 },
        {"The director said: \"Speed is worth more than safety\".",                         U, "quote",      0, -1},
    };
    CHECK_ROWS(rows);
}

static void a_turned_sense_is_not_support(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"Employees may carry over more than five days.",             U, "negation",   1, -1},
        {"Interns are eligible for the bonus.",                       U, "negation",   1, -1},
        {"Interns aren't eligible for the bonus.",                    S, NULL,         0, 0 },
        {"Remote access does not require a hardware token.",          U, "negation",   1, -1},
        {"Revenue fell by 12% to $3.4 million in 2023.",              U, "direction",  1, -1},
        {"Operating costs rose to 1,250,000 euros.",                  U, "direction",  1, -1},
        {"Access to the laboratory is forbidden from 9:00 to 17:00.", U, "direction",  1, -1},
        {"All visitors must wear a badge.",                           U, "quantifier", 1, -1},
        {"Some visitors must wear a badge.",                          S, NULL,         0, 3 },
        {"Some visitors may wear a badge.",                           U, "quantifier", 1, -1},
        {"The old building opened in 1998.",                          U, "direction",  1, -1},
    };
    CHECK_ROWS(rows);
}

static void a_value_of_somebody_else_is_not_support(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"Part-time staff in Lyon receive 15 days.",              S, NULL,      0, 0 },
        {"Part-time staff in Lyon receive 25 days.",              U, "binding", 1, -1},
        {"Full-time employees receive 25 days of paid vacation.", S, NULL,      0, 0 },
        {"Full-time employees receive 15 days of paid vacation.", U, "binding", 1, -1},
    };
    CHECK_ROWS(rows);
}

static void new_content_is_not_supported(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"The laboratory has a swimming pool and a sauna.",                  U, "coverage", 0, -1},
        {"Employees can lease a bicycle after the probation period.",        U, "coverage", 0, -1},
        {"The certificate is renewed by an external supplier every spring.", U, NULL,       0, -1},
        {"Remote access requires a hardware token.",                         S, "verbatim", 0, 1 },
        {"A hardware token is required for remote access.",                  S, NULL,       0, 1 },
    };
    CHECK_ROWS(rows);
}

static void what_claims_nothing_has_no_verdict_to_carry(void **state)
{
    UNUSED_STATE(state);
    static const struct row rows[] = {
        {"Hello!",                                      N, NULL, 0, -1},
        {"Thank you for your question.",                N, NULL, 0, -1},
        {"Here are the steps:",                         N, NULL, 0, -1},
        {"To request vacation, follow these steps:",    N, NULL, 0, -1},
        {"## Vacation",                                 N, NULL, 0, -1},
        {"Do you want to know more?",                   N, NULL, 0, -1},
        {"NOT FOUND",                                   N, NULL, 0, -1},
        {"The sources do not mention a swimming pool.", N, NULL, 0, -1},
        {"I cannot answer this question.",              N, NULL, 0, -1},
        {"I hope this helps.",                          N, NULL, 0, -1},
        {"Let me know if you have other questions.",    N, NULL, 0, -1},
        {"[1][2]",                                      N, NULL, 0, -1},
        {"---",                                         N, NULL, 0, -1},
    };
    CHECK_ROWS(rows);
}

static void citations_are_kept_only_where_they_carry(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct ground_source s[N_SOURCES];
    for (size_t i = 0; i < N_SOURCES; i++)
        s[i] = (struct ground_source){.text = cairn_str_of(sources[i])};
    struct grounding *g = NULL;
    CHECK_OK(grounding_open(&g, s, N_SOURCES, NULL, &why));
    static const struct {
        const char *claim;
        size_t n_cited;
        uint32_t dropped;
        uint32_t kept; /* 0-based source of the mark that stays, 9: none */
    } rows[] = {
        {"The Hamburg office has 320 employees. [3]",       1, 0, 2},
        {"The Hamburg office has 320 employees [3].",       1, 0, 2},
        {"The Hamburg office has 320 employees. [1]",       1, 1, 9},
        {"The Hamburg office has 320 employees. [1][3]",    2, 1, 2},
        {"The Hamburg office has 320 employees. [1, 3]",    2, 1, 2},
        {"The Hamburg office has 320 employees. [7]",       0, 1, 9},
        {"The Hamburg office has 320 employees. [0][3][3]", 1, 1, 2},
        {"The Hamburg office has 999 employees. [3]",       1, 1, 9},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct cairn_str t = cairn_str_of(rows[i].claim);
        struct ground_sentence r;
        CHECK_OK(grounding_check(g, t, 0, t.len, &r, &why));
        CHECK_U64_EQ(r.n_cited, rows[i].n_cited);
        CHECK_U64_EQ(r.citations_dropped, rows[i].dropped);
        uint32_t kept = 9;
        for (size_t k = 0; k < r.n_cited; k++)
            if (r.cited_ok[k])
                kept = r.cited[k];
        CHECK_U64_EQ(kept, rows[i].kept);
        if (r.verdict == S) /* evidence is there whatever the marks say */
            CHECK_U64_EQ(r.evidence[0].source, 2);
    }
    grounding_close(g);
}

static void evidence_spans_are_bytes_of_the_source(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const char *text =
        "Die \xC3\x96"
        "ffnungszeiten \xE2\x80\x93 sehr kurz. K\xC3\xA4the Lindqvist leitet das B\xC3\xBCro in L\xC3\xBC"
        "beck. Das \xE4\xB8\xAD\xE6\x96\x87 Zeichen bleibt.";
    struct ground_source s = {.text = cairn_str_of(text)};
    struct grounding *g = NULL;
    CHECK_OK(grounding_open(&g, &s, 1, &(struct ground_opts){.language = "german"}, &why));
    const char *answer = "\xC3\x84hm. K\xC3\xA4the Lindqvist leitet das B\xC3\xBCro in L\xC3\xBC"
                         "beck. [1] K\xC3\xA4the Lindqvist leitet das Lager in Kiel.";
    struct ground_sentence *list = NULL;
    size_t n = 0;
    float score = 0;
    CHECK_OK(grounding_check_text(g, cairn_str_of(answer), &list, &n, &score, &why));
    CHECK_U64_EQ(n, 3);
    CHECK(list[1].verdict == S);
    CHECK_U64_EQ(list[1].start, 6);
    CHECK(memcmp(answer + list[1].end - 3, "[1]", 3) == 0);
    const char *want = strstr(text, "K\xC3\xA4the");
    CHECK_U64_EQ(list[1].evidence[0].start, (size_t)(want - text));
    CHECK(memcmp(text + list[1].evidence[0].start, answer + list[1].start,
                 list[1].evidence[0].end - list[1].evidence[0].start) == 0);
    CHECK(list[2].verdict == U);
    CHECK(score > 0.3f && score < 0.7f);
    cairn_free(list);
    grounding_close(g);
}

/* "32" stands somewhere in most texts: with a question, its words have to stand there too. */
static void a_bare_value_needs_the_question_near_it(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const struct {
        const char *question, *claim;
        enum verdict verdict;
    } rows[] = {
        {"How many employees has the Hamburg office?",    "320",     S},
        {"How many employees has the Hamburg office?",    "320 [3]", S},
        {"How many bicycles were leased to the interns?", "320",     U},
        {"How many litres does the tank hold?",           "40",      S},
        {"How tall is the tower of the cathedral?",       "40",      U},
        {"When did the old building close?",              "1998.",   S},
        {"When did the director join the company?",       "1998.",   U},
    };
    struct ground_source s[N_SOURCES];
    for (size_t i = 0; i < N_SOURCES; i++)
        s[i] = (struct ground_source){.text = cairn_str_of(sources[i])};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct ground_opts o = {.question = cairn_str_of(rows[i].question)};
        struct grounding *g = NULL;
        struct ground_sentence r;
        struct cairn_str t = cairn_str_of(rows[i].claim);
        CHECK_OK(grounding_open(&g, s, N_SOURCES, &o, &why));
        CHECK_OK(grounding_check(g, t, 0, t.len, &r, &why));
        if (r.verdict != rows[i].verdict) {
            print_error("\"%s\" to \"%s\": %s %.2f\n", rows[i].claim, rows[i].question,
                        verdict_name(r.verdict), (double)r.score);
            fail();
        }
        grounding_close(g);
    }
}

/* An opposite word somewhere in a long sentence or row is no contradiction: it has to stand in the same
 * place. */
static void opposites_elsewhere_contradict_nothing(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char contract[] = "# Hosting contract\n\nThe basic fee paid monthly to Dataharbor Nord is "
                                   "EUR 46,300; power is metered and "
                                   "invoiced annually at cost, and free credits end with the first "
                                   "year.\n\nOperating costs rose in May.";
    static const struct {
        const char *claim;
        enum verdict verdict;
    } rows[] = {
        {"The basic monthly fee paid to Dataharbor Nord is EUR 46,300.",   S},
        {"The basic fee paid to Dataharbor Nord last year is EUR 46,300.", S},
        {"The basic monthly fee paid to Dataharbor Nord is EUR 64,300.",   U},
        {"Operating costs fell in May.",                                   U},
    };
    struct ground_source s = {.text = cairn_str_of(contract)};
    struct grounding *g = NULL;
    /* the rule alone: what the trained forests make of "last year" is theirs to say */
    CHECK_OK(grounding_open(&g, &s, 1, &(struct ground_opts){.by_hand = true}, &why));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct ground_sentence r;
        struct cairn_str t = cairn_str_of(rows[i].claim);
        CHECK_OK(grounding_check(g, t, 0, t.len, &r, &why));
        if (r.verdict != rows[i].verdict) {
            print_error("\"%s\": %s %.2f\n", rows[i].claim, verdict_name(r.verdict), (double)r.score);
            fail();
        }
    }
    grounding_close(g);
}

static void sources_without_a_word_carry_nothing(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const empty[] = {"", "##", " \n\n", "| --- |\n|---|"};
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) {
        struct ground_source s = {.text = cairn_str_of(empty[i])};
        struct grounding *g = NULL;
        struct ground_sentence r;
        struct cairn_str t = cairn_str_of("The Hamburg office has 320 employees.");
        CHECK_OK(grounding_open(&g, &s, 1, NULL, &why));
        CHECK_OK(grounding_check(g, t, 0, t.len, &r, &why));
        CHECK(r.verdict == U && r.n_evidence == 0);
        grounding_close(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(sources_without_a_word_carry_nothing),
        TEST(a_bare_value_needs_the_question_near_it),
        TEST(opposites_elsewhere_contradict_nothing),
        TEST(numbers_must_be_in_a_source),
        TEST(dates_and_times_must_agree_in_any_format),
        TEST(names_identifiers_and_quotes_must_be_there),
        TEST(a_turned_sense_is_not_support),
        TEST(a_value_of_somebody_else_is_not_support),
        TEST(new_content_is_not_supported),
        TEST(what_claims_nothing_has_no_verdict_to_carry),
        TEST(citations_are_kept_only_where_they_carry),
        TEST(evidence_spans_are_bytes_of_the_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
