/* test_text.c - UTF-8, words and sentences. */
#include "check.h"

static void utf8_follows_rfc_3629(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *s;
        size_t len, bad;
    } cases[] = {
        {"plain ascii text",                     16, 16},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9,  9 },
        {"ab\xff",                               3,  2 },
        {"\xc0\x80",                             2,  0 },
        {"\xed\xa0\x80",                         3,  0 },
        {"\xf4\x90\x80\x80",                     4,  0 },
        {"a\xe2\x82",                            3,  1 },
        {"\x80",                                 1,  0 },
        {"12345678\xc1\xbf",                     10, 8 },
        {"\xe0\x80\xaf",                         3,  0 },
        {"",                                     0,  0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        CHECK_U64_EQ(cairn_utf8_invalid_at(cases[i].s, cases[i].len), cases[i].bad);
    CHECK_U64_EQ(cairn_utf8_floor("a\xe2\x82\xac", 4), 4);
    CHECK_U64_EQ(cairn_utf8_floor("a\xe2\x82\xac", 3), 1);
    CHECK_U64_EQ(cairn_utf8_floor("a\xe2\x82\xac", 2), 1);
    CHECK_U64_EQ(cairn_utf8_floor("abc", 3), 3);
}

/* Words joined by spaces, spans checked against the input. */
static void expect_words(const char *language, const char *text, const char *want)
{
    TEST_WHY;
    struct cairn_analyzer *a;
    struct cairn_analyzer_opts o = {.language = language};
    CHECK_OK(cairn_analyzer_open(&a, &o, &why));
    const struct cairn_word *w;
    size_t n;
    CHECK_OK(cairn_analyze(a, cairn_str_of(text), &w, &n, &why));
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    for (size_t i = 0; i < n; i++) {
        CHECK(w[i].start < w[i].end && w[i].end <= strlen(text));
        CHECK(i == 0 || w[i].position > w[i - 1].position);
        CHECK(cairn_buf_printf(&b, "%s%.*s", i ? " " : "", (int)w[i].text.len, w[i].text.p));
    }
    CHECK_STR_EQ(b.bytes ? b.bytes : "", want);
    cairn_buf_release(&b);
    cairn_analyzer_close(a);
}

static void words_are_folded_split_and_stemmed(void **state)
{
    UNUSED_STATE(state);
    expect_words("", "The quick-brown FOX_trots, 1,000 times v2.3 (3.5%)!",
                 "the quick brown fox trots 1000 times v2.3 3.5");
    expect_words("english", "The runners are running to the companies' offices", "runner run compani offic");
    expect_words("", "Caf\xc3\xa9 CAFE\xcc\x81 \xef\xbc\xa1\xef\xbc\xa2\xef\xbc\xa3",
                 "caf\xc3\xa9 caf\xc3\xa9 abc");
    expect_words("", "don\xe2\x80\x99t DON'T rock 'n' roll", "don't don't rock n roll");
    expect_words("german", "Die H\xc3\xa4user stehen", "haus steh");
    expect_words("", "\xe6\x9d\xb1\xe4\xba\xac\xe9\x83\xbd x \xe6\x9d\xb1",
                 "\xe6\x9d\xb1\xe4\xba\xac \xe4\xba\xac\xe9\x83\xbd x \xe6\x9d\xb1");
    expect_words("", "1,5 and 12,3456 and 1,000,000", "1 5 and 12 3456 and 1000000");
    expect_words("", "", "");
    expect_words("", "\xef\xb7\xba\xef\xb7\xba",
                 "\xd8\xb5\xd9\x84\xd9\x89 \xd8\xa7\xd9\x84\xd9\x84\xd9\x87 \xd8\xb9\xd9\x84\xd9\x8a\xd9\x87 "
                 "\xd9\x88\xd8\xb3\xd9\x84\xd9\x85"
                 "\xd8\xb5\xd9\x84\xd9\x89 \xd8\xa7\xd9\x84\xd9\x84\xd9\x87 \xd8\xb9\xd9\x84\xd9\x8a\xd9\x87 "
                 "\xd9\x88\xd8\xb3\xd9\x84\xd9\x85");
}

static void an_analyzer_refuses_what_it_cannot_do(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_analyzer *a;
    struct cairn_analyzer_opts o = {.language = "klingon"};
    CHECK_ERR(cairn_analyzer_open(&a, &o, &why), CAIRN_EINVAL);
    CHECK(a == NULL);
    CHECK_OK(cairn_analyzer_open(&a, NULL, &why));
    const struct cairn_word *w;
    size_t n;
    CHECK_ERR(cairn_analyze(a, (struct cairn_str){"ab \xff", 4}, &w, &n, &why), CAIRN_EINVAL);
    CHECK(strstr(why.text, "byte 3") != NULL);
    for (uint64_t i = 1; i < 12; i++) {
        cairn_alloc_fail_after(i, true);
        enum cairn_err err = cairn_analyze(a, cairn_str_of("some words to be found here"), &w, &n, &why);
        CHECK(err == CAIRN_OK || err == CAIRN_ENOMEM);
    }
    cairn_alloc_fail_after(0, false);
    char *big = cairn_malloc(100000);
    memset(big, 'a', 100000);
    CHECK_OK(cairn_analyze(a, (struct cairn_str){big, 100000}, &w, &n, &why));
    CHECK(n == 1 && w[0].text.len <= 255 && w[0].end == 100000);
    cairn_free(big);
    cairn_analyzer_close(a);
}

static void expect_sentences(const char *text, const char *const *want, size_t n_want)
{
    struct cairn_span spans[64];
    size_t n = cairn_sentences(cairn_str_of(text), spans, 64);
    for (size_t i = 0; i < n && i < n_want; i++) {
        size_t len = spans[i].end - spans[i].start;
        if (strlen(want[i]) != len || memcmp(text + spans[i].start, want[i], len) != 0) {
            print_error("sentence %zu is \"%.*s\", want \"%s\"\n", i, (int)len, text + spans[i].start,
                        want[i]);
            fail();
        }
    }
    CHECK_U64_EQ(n, n_want);
}
#define SENTENCES(text, ...)                                                                                 \
    do {                                                                                                     \
        const char *const want_[] = {__VA_ARGS__};                                                           \
        expect_sentences(text, want_, sizeof want_ / sizeof want_[0]);                                       \
    } while (0)

static void sentences_end_where_a_reader_ends_them(void **state)
{
    UNUSED_STATE(state);
    SENTENCES("One. Two! Three?", "One.", "Two!", "Three?");
    SENTENCES("Dr. Smith paid $3.50 to Acme Inc. yesterday. He left.",
              "Dr. Smith paid $3.50 to Acme Inc. yesterday.", "He left.");
    SENTENCES("See e.g. Berlin. J. R. Tolkien wrote it.", "See e.g. Berlin.", "J. R. Tolkien wrote it.");
    SENTENCES("It costs 5 euros [1]. It is new. [2][3] Buy it.", "It costs 5 euros [1].", "It is new. [2][3]",
              "Buy it.");
    SENTENCES("# Title\nBody text runs\nover lines. Next\n\n- item one\n- item two\n1. first\n2. second",
              "# Title", "Body text runs\nover lines.", "Next", "- item one", "- item two", "1. first",
              "2. second");
    SENTENCES("| a | b |\n| 1. | 2 |\ntext", "| a | b |", "| 1. | 2 |", "text");
    SENTENCES("He said \"Go.\" She went.", "He said \"Go.\"", "She went.");
    SENTENCES("\xe6\x9d\xb1\xe4\xba\xac\xe3\x80\x82\xe5\xa4\xa7\xe9\x98\xaa\xe3\x80\x82",
              "\xe6\x9d\xb1\xe4\xba\xac\xe3\x80\x82", "\xe5\xa4\xa7\xe9\x98\xaa\xe3\x80\x82");
    SENTENCES("The limit (see Smith et al. 2020, no. 5) holds. Yes.",
              "The limit (see Smith et al. 2020, no. 5) holds.", "Yes.");
    SENTENCES("Version 2.4.1 of the U.S. edition shipped at 5 p.m. The next one is late.",
              "Version 2.4.1 of the U.S. edition shipped at 5 p.m.", "The next one is late.");
    SENTENCES("no end", "no end");
    expect_sentences(" \n\t ", NULL, 0);
    expect_sentences("", NULL, 0);
}

static void sentences_cover_all_text_in_order_on_random_input(void **state)
{
    UNUSED_STATE(state);
    static const char *const pieces[] = {
        "a", "B",  ". ", ".",  "!", "\n",       "\n\n",         " ",    "[1]",         "(", ")",
        "1", "\"", "- ", "# ", "|", "\xc3\xa9", "\xe3\x80\x82", "e.g.", "\xe2\x80\xa6"};
    uint64_t seed = 42;
    for (int round = 0; round < 3000; round++) {
        char text[512] = "";
        for (size_t k = test_rand(&seed) % 60; k > 0; k--)
            strcat(text, pieces[test_rand(&seed) % (sizeof pieces / sizeof pieces[0])]);
        struct cairn_span spans[512];
        size_t n = cairn_sentences(cairn_str_of(text), spans, 512), at = 0;
        for (size_t i = 0; i <= n; i++) {
            size_t end = i < n ? spans[i].start : strlen(text);
            for (; at < end; at++)
                CHECK(strchr(" \n\t\r\f\v", text[at]) != NULL);
            if (i < n) {
                CHECK(spans[i].start < spans[i].end && spans[i].end <= strlen(text));
                at = spans[i].end;
            }
        }
        CHECK_U64_EQ(cairn_sentences(cairn_str_of(text), NULL, 0), n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(utf8_follows_rfc_3629),
        TEST(words_are_folded_split_and_stemmed),
        TEST(an_analyzer_refuses_what_it_cannot_do),
        TEST(sentences_end_where_a_reader_ends_them),
        TEST(sentences_cover_all_text_in_order_on_random_input),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
