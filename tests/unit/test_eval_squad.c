/* SQuAD's normalisation, exact match and F1: equal to evaluate-v2.0 on 5,000 random pairs and over every code
 * point. */
#include "check.h"

#include <cairn/eval.h>
#include <utf8proc.h>

struct rand {
    uint64_t s;
};
static unsigned below(struct rand *r, unsigned n) { return (unsigned)(test_rand(&r->s) % n); }
#define LEN(a) ((unsigned)(sizeof(a) / sizeof(a)[0]))

static void put_point(struct cairn_buf *b, uint32_t c)
{
    utf8proc_uint8_t out[4];
    cairn_buf_put(b, out, (size_t)utf8proc_encode_char((utf8proc_int32_t)c, out));
}

/* The generator of tests/golden/eval/reference.py. */
static void token(struct rand *r, struct cairn_buf *out)
{
    static const char *const words[] = {"Oslo", "oslo",       "THEN", "then", "anna", "2,000",
                                        "U.S.", "well-known", "it's", "a_b",  "x",    "Banana"};
    static const char *const articles[] = {"a", "an", "the", "A", "An", "THE"};
    static const char *const greek[] = {"\xCE\x9F\xCE\x94\xCE\x9F\xCE\xA3", "\xCE\xA3",
                                        "\xCE\xA3\xCE\x91\xCE\xA3",         "\xCE\x9F\xCE\xA3.",
                                        "\xCE\x91\xCE\xA3'\xCE\x91",        "\xCE\xB1\xCE\xA3\xCC\x81"};
    static const uint32_t ranges[][2] = {
        {0x20,    0x7E   },
        {0xA1,    0x17F  },
        {0x180,   0x24F  },
        {0x2B0,   0x36F  },
        {0x370,   0x377  },
        {0x386,   0x3FF  },
        {0x400,   0x52F  },
        {0x531,   0x556  },
        {0x5D0,   0x5EA  },
        {0x660,   0x669  },
        {0x10A0,  0x10C5 },
        {0x1E00,  0x1EFF },
        {0x2000,  0x206F },
        {0x2150,  0x218B },
        {0x2460,  0x24FF },
        {0x3000,  0x30FF },
        {0x4E00,  0x4EFF },
        {0xFF01,  0xFF5E },
        {0x10400, 0x1044F},
        {0x1F130, 0x1F18F},
        {0x1F600, 0x1F64F},
    };
    unsigned kind = below(r, 8);
    if (kind == 0) {
        cairn_buf_puts(out, articles[below(r, LEN(articles))]);
    } else if (kind == 1) {
        cairn_buf_printf(out, "%u", below(r, 30));
    } else if (kind == 2) {
        cairn_buf_puts(out, greek[below(r, LEN(greek))]);
    } else if (kind < 5) {
        for (unsigned i = 0, n = 1 + below(r, 4); i < n; i++) {
            unsigned k = below(r, LEN(ranges));
            put_point(out, ranges[k][0] + below(r, ranges[k][1] - ranges[k][0] + 1));
        }
    } else {
        cairn_buf_puts(out, words[below(r, LEN(words))]);
    }
}

static void random_pair(uint64_t i, struct cairn_buf *gold, struct cairn_buf *answer)
{
    static const char *const gaps[] = {" ", "  ", "\xC2\xA0", ".", "", ", ", "\xE2\x80\x83", "\t"};
    struct rand r = {0xD1B54A32D192ED03ULL + i};
    cairn_buf_clear(gold);
    cairn_buf_clear(answer);
    cairn_buf_puts(gold, "");
    cairn_buf_puts(answer, "");
    for (unsigned n = below(&r, 7), k = 0; k < n; k++) {
        size_t from = gold->len;
        token(&r, gold);
        size_t to = gold->len;
        cairn_buf_puts(gold, gaps[below(&r, LEN(gaps))]);
        if (below(&r, 3)) {
            char copy[64];
            CHECK(to - from < sizeof copy);
            memcpy(copy, gold->bytes + from, to - from);
            cairn_buf_put(answer, copy, to - from);
            cairn_buf_puts(answer, gaps[below(&r, LEN(gaps))]);
        } else if (below(&r, 2)) {
            token(&r, answer);
            cairn_buf_puts(answer, " ");
        }
    }
}

static char *golden; /* tests/golden/eval/squad.txt */

static void f1_and_exact_match_equal_the_script_on_random_pairs(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_buf gold, answer;
    cairn_buf_init(&gold, 0);
    cairn_buf_init(&answer, 0);
    const char *p = strchr(golden, '\n') + 1;
    size_t equal = 0, partial = 0;
    for (uint64_t i = 0; i < 5000; i++) {
        random_pair(i, &gold, &answer);
        char *end;
        bool want = strtol(p, &end, 10), got;
        double want_f1 = strtod(end, &end), f1;
        CHECK(*end == '\n');
        p = end + 1;
        const char *golds[] = {gold.bytes};
        struct eval_answer_score score;
        CHECK_OK(eval_answer(golds, 1, answer.bytes, &score, &why));
        got = score.exact > 0;
        CHECK_OK(eval_f1(gold.bytes, answer.bytes, &f1, &why));
        if (got != want || !(f1 - want_f1 < 1e-9 && want_f1 - f1 < 1e-9))
            print_error("pair %d: \"%s\" and \"%s\"\n", (int)i, gold.bytes, answer.bytes);
        CHECK_I64_EQ(got, want);
        CHECK_NEAR(f1, want_f1, 1e-9);
        equal += got;
        partial += f1 > 0 && f1 < 1;
    }
    CHECK_I64_EQ(*p, 0);
    CHECK_GE(equal, 200);
    CHECK_GE(partial, 2000);
    cairn_buf_release(&gold);
    cairn_buf_release(&answer);
}

static void every_code_point_is_normalised_as_python_does(void **state)
{
    UNUSED_STATE(state);
    struct cairn_buf all;
    cairn_buf_init(&all, 0);
    for (uint32_t c = 1; c < 0x10EC0; c++) {
        if ((c >= 0xD800 && c <= 0xDFFF) || c == 0xCF3 ||
            c == 0xECE) /* the two are younger than Unicode 14 */
            continue;
        utf8proc_uint8_t u[4];
        int n = (int)utf8proc_encode_char((utf8proc_int32_t)c, u);
        char text[32];
        int k = snprintf(text, sizeof text, "\xCE\x91%.*sa \xCE\xA3%.*s", n, (char *)u, n, (char *)u);
        char *s = eval_normalize(text, (size_t)k);
        CHECK(s != NULL);
        cairn_buf_puts(&all, s);
        cairn_buf_puts(&all, "\n");
        cairn_free(s);
    }
    CHECK(!all.failed);
    struct cairn_hash h = cairn_hash_bytes(all.bytes, all.len);
    char hex[65];
    cairn_hex(hex, h.b, 32);
    CHECK(strncmp(golden, hex, 64) == 0);
    cairn_buf_release(&all);
}

static void normal_is(const char *text, const char *want)
{
    char *s = eval_normalize(text, strlen(text));
    CHECK_STR_EQ(s, want);
    cairn_free(s);
}

static void normalisation_keeps_what_is_not_ascii(void **state)
{
    UNUSED_STATE(state);
    normal_is("  The U.S. -- an a\tEND ", "us end");
    normal_is("a_b the_n", "ab then"); /* punctuation goes first: no article is left */
    normal_is("\xE2\x80\x9Cthe\xE2\x80\x9D",
              "\xE2\x80\x9C \xE2\x80\x9D"); /* curly quotes stay, and end a word */
    normal_is("\xC4\xB0stanbul", "i\xCC\x87stanbul");
    normal_is("\xCE\x9F\xCE\xA3", "\xCE\xBF\xCF\x82");
    normal_is("x\xFFy", "x\xEF\xBF\xBDy");
    normal_is("", "");
    normal_is("the", "");
}

static void the_best_gold_counts_and_none_means_empty(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct eval_answer_score s;
    const char *const gold[] = {"30 days", "thirty days", "the"};
    CHECK_OK(eval_answer(gold, 3, "Up to thirty days [1].", &s, &why));
    CHECK_NEAR(s.exact, 0, 0);
    CHECK_NEAR(s.contains, 1, 0);
    CHECK_NEAR(s.token_recall, 1, 0);
    CHECK_NEAR(s.f1, 2 * (2.0 / 5) / (2.0 / 5 + 1), 1e-12);
    CHECK_OK(eval_answer(gold, 3, "130 days", &s, &why));
    CHECK_NEAR(s.contains, 0, 0); /* whole words */
    CHECK_NEAR(s.token_recall, 0.5, 0);
    CHECK_OK(eval_answer(gold, 3, "", &s, &why));
    CHECK_NEAR(s.f1 + s.exact + s.contains, 0, 0); /* a gold of nothing but articles is no gold */
    CHECK_OK(eval_answer(NULL, 0, "", &s, &why));
    CHECK_NEAR(s.f1 + s.exact, 2, 0);
    CHECK_OK(eval_answer(NULL, 0, "no", &s, &why));
    CHECK_NEAR(s.f1 + s.exact, 0, 0);
}

int main(void)
{
    TEST_WHY;
    size_t len;
    if (cairn_read_file(&golden, &len, "tests/golden/eval/squad.txt", 1 << 24, &why) != CAIRN_OK ||
        !strchr(golden, '\n')) {
        fprintf(stderr, "%s\n", why.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        TEST(f1_and_exact_match_equal_the_script_on_random_pairs),
        TEST(every_code_point_is_normalised_as_python_does),
        TEST(normalisation_keeps_what_is_not_ascii),
        TEST(the_best_gold_counts_and_none_means_empty),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cairn_free(golden);
    return failed;
}
