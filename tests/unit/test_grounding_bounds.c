/* Limits, determinism, verbatim extracts, failing memory. */
#include "check.h"

#include <cairn/generator.h>

static void what_is_copied_is_supported(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const char *path = test_shared_file("squad2/passages.jsonl");
    if (!path)
        skip();
    char *bytes = NULL;
    size_t len = 0, checked = 0, false_flags = 0, passages = 0;
    CHECK_OK(cairn_read_file(&bytes, &len, path, 64u << 20, &why));
    for (char *line = bytes; line < bytes + len && passages < 400;) {
        char *end = memchr(line, '\n', (size_t)(bytes + len - line));
        end = end ? end : bytes + len;
        char *text = memmem(line, (size_t)(end - line), "\"text\": \"", 9);
        if (text) { /* the JSON string as it stands is a text as good as any: quotes inside are escaped */
            text += 9;
            struct ground_source s = {
                .text = {text, (size_t)(end - text) > 2 ? (size_t)(end - text) - 2 : 0}
            };
            struct grounding *g = NULL;
            CHECK_OK(grounding_open(&g, &s, 1, NULL, &why));
            struct ground_sentence *list = NULL;
            size_t n = 0;
            float score = 0;
            CHECK_OK(grounding_check_text(g, s.text, &list, &n, &score, &why));
            for (size_t i = 0; i < n; i++) {
                checked++;
                if (list[i].verdict == VERDICT_UNSUPPORTED) {
                    false_flags++;
                    print_error("flagged: %.*s (%.2f)\n", (int)(list[i].end - list[i].start),
                                s.text.p + list[i].start, (double)list[i].score);
                }
            }
            cairn_free(list);
            grounding_close(g);
            passages++;
        }
        line = end + 1;
    }
    cairn_free(bytes);
    print_message("%zu copied sentences of %zu passages, %zu flagged\n", checked, passages, false_flags);
    CHECK_GE(checked, 1000);
    CHECK_U64_EQ(false_flags, 0);
}

static const char *const text_a = "The pump at Lake Harrow starts at 06:00 and stops at 18:30. It moves "
                                  "1,200 litres an hour, and it needs service every 90 days. "
                                  "Jonas Weber signs the log. The spare is stored in Depot 7.";
static const char *const text_b =
    "Depot 7 closes at noon on Fridays. Its keys are with Mira Okafor. Nobody may enter alone.";
static const char *const answer = "The pump starts at 6 am [1]. It moves 1,300 litres an hour [1]. The spare "
                                  "is in Depot 7, whose keys are with Mira Okafor [1][2]. Is that all? "
                                  "Anyone may enter alone.";

static void own_extracts_of_every_length_are_supported(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct ground_source s[2] = {{.text = cairn_str_of(text_a)}, {.text = cairn_str_of(text_b)}};
    struct grounding *g = NULL;
    CHECK_OK(grounding_open(&g, s, 2, NULL, &why));
    for (size_t k = 0; k < 2; k++) {
        struct cairn_span spans[16];
        size_t n = cairn_sentences(s[k].text, spans, 16);
        for (size_t i = 0; i < n; i++) {
            struct ground_sentence r;
            CHECK_OK(grounding_check(g, s[k].text, spans[i].start, spans[i].end, &r, &why));
            CHECK(r.verdict == VERDICT_SUPPORTED);
            CHECK_U64_EQ(r.evidence[0].source, k);
            CHECK(r.evidence[0].start >= spans[i].start && r.evidence[0].end <= spans[i].end);
        }
    }
    grounding_close(g);
}

static void the_same_input_gives_the_same_bytes(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct ground_sentence *first = NULL;
    size_t n_first = 0;
    for (int round = 0; round < 10; round++) {
        struct ground_source s[2] = {{.text = cairn_str_of(text_a)}, {.text = cairn_str_of(text_b)}};
        struct grounding *g = NULL;
        CHECK_OK(grounding_open(&g, s, 2, NULL, &why));
        struct ground_sentence *list = NULL;
        size_t n = 0;
        float score = 0;
        CHECK_OK(grounding_check_text(g, cairn_str_of(answer), &list, &n, &score, &why));
        grounding_close(g);
        if (!round) {
            first = list;
            n_first = n;
            CHECK_U64_EQ(n, 5);
            CHECK(list[0].verdict == VERDICT_SUPPORTED && list[1].verdict == VERDICT_UNSUPPORTED &&
                  list[2].verdict == VERDICT_SUPPORTED);
            CHECK(list[3].verdict == VERDICT_NO_CLAIM && list[4].verdict == VERDICT_UNSUPPORTED);
            continue;
        }
        CHECK_U64_EQ(n, n_first);
        for (size_t i = 0; i < n; i++) {
            CHECK(list[i].score == first[i].score && list[i].contradiction == first[i].contradiction);
            CHECK(list[i].n_evidence == first[i].n_evidence && list[i].n_flags == first[i].n_flags);
            CHECK(memcmp(list[i].evidence, first[i].evidence, sizeof first[i].evidence) == 0);
        }
        cairn_free(list);
    }
    cairn_free(first);
}

static void limits_are_errors_that_name_themselves(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static char big[GROUND_TEXT_BYTES_MAX + 2];
    memset(big, 'a', sizeof big - 1);
    struct ground_source s[GROUND_SOURCES_MAX + 1];
    for (size_t i = 0; i <= GROUND_SOURCES_MAX; i++)
        s[i] = (struct ground_source){.text = cairn_str_of("A source.")};
    struct grounding *g = NULL;
    CHECK_ERR(grounding_open(&g, s, GROUND_SOURCES_MAX + 1, NULL, &why), CAIRN_EFULL);
    s[0].text = (struct cairn_str){big, GROUND_SOURCE_BYTES_MAX + 1};
    CHECK_ERR(grounding_open(&g, s, 1, NULL, &why), CAIRN_EFULL);
    s[0].text = cairn_str_of("broken \xFF byte");
    CHECK_ERR(grounding_open(&g, s, 1, NULL, &why), CAIRN_EINVAL);
    s[0].text = cairn_str_of("A source.");
    CHECK_ERR(grounding_open(&g, s, 1, &(struct ground_opts){.language = "klingon"}, &why), CAIRN_EINVAL);
    CHECK_ERR(grounding_open(&g, s, 1, &(struct ground_opts){.question = cairn_str_of("\xC3\x28")}, &why),
              CAIRN_EINVAL);
    CHECK(g == NULL);
    CHECK_OK(grounding_open(&g, s, GROUND_SOURCES_MAX, NULL, &why));
    struct ground_sentence r, *list = NULL;
    size_t n;
    CHECK_ERR(
        grounding_check_text(g, (struct cairn_str){big, GROUND_TEXT_BYTES_MAX + 1}, &list, &n, NULL, &why),
        CAIRN_EFULL);
    CHECK_ERR(grounding_check(g, cairn_str_of("short"), 2, 9, &r, &why), CAIRN_EINVAL);
    CHECK_ERR(grounding_check(g, cairn_str_of("bad \x80"), 0, 5, &r, &why), CAIRN_EINVAL);
    grounding_close(g);
}

static void a_sentence_too_long_to_read_is_not_vouched_for(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    for (int i = 0; i < 700; i++)
        CHECK(cairn_buf_printf(&b, "word%c%c ", 'a' + i % 26, 'a' + i / 26 % 26));
    struct ground_source s = {
        .text = {b.bytes, b.len}
    };
    struct grounding *g = NULL;
    CHECK_OK(grounding_open(&g, &s, 1, NULL, &why));
    struct ground_sentence r;
    CHECK_OK(grounding_check(g, s.text, 0, b.len, &r, &why));
    CHECK(r.verdict == VERDICT_UNSUPPORTED);
    CHECK_OK(grounding_check(g, s.text, 0, 400, &r, &why));
    CHECK(r.verdict == VERDICT_SUPPORTED);
    grounding_close(g);
    cairn_buf_release(&b);
}

static void nothing_supports_without_sources(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct grounding *g = NULL;
    CHECK_OK(grounding_open(&g, NULL, 0, NULL, &why));
    struct ground_sentence *list = NULL;
    size_t n = 0;
    float score = 1;
    CHECK_OK(grounding_check_text(g, cairn_str_of(answer), &list, &n, &score, &why));
    for (size_t i = 0; i < n; i++)
        CHECK(list[i].verdict != VERDICT_SUPPORTED);
    CHECK(score == 0);
    cairn_free(list);
    CHECK_OK(grounding_check_text(g, cairn_str_of(""), &list, &n, &score, &why));
    CHECK(n == 0 && score == 1);
    cairn_free(list);
    grounding_close(g);
}

static void every_failed_allocation_is_an_error_without_a_leak(void **state)
{
    UNUSED_STATE(state);
    size_t failed = 0;
    for (uint64_t nth = 1; nth < 500; nth++) {
        struct cairn_why why = {{0}};
        struct ground_source s[2] = {{.text = cairn_str_of(text_a)}, {.text = cairn_str_of(text_b)}};
        struct grounding *g = NULL;
        struct ground_sentence *list = NULL;
        size_t n = 0;
        cairn_alloc_fail_after(nth, true);
        uint64_t before = cairn_alloc_count();
        enum cairn_err err = grounding_open(
            &g, s, 2, &(struct ground_opts){.question = cairn_str_of("When does the pump start?")}, &why);
        if (!err)
            err = grounding_check_text(g, cairn_str_of(answer), &list, &n, NULL, &why);
        bool reached = cairn_alloc_count() - before >= nth;
        cairn_alloc_fail_after(0, false);
        cairn_free(list);
        grounding_close(g);
        if (!reached)
            break;
        if (err) {
            CHECK_I64_EQ(err, CAIRN_ENOMEM);
            CHECK(why.text[0]);
            failed++;
        }
    }
    CHECK_GE(failed, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_copied_is_supported),
        TEST(own_extracts_of_every_length_are_supported),
        TEST(the_same_input_gives_the_same_bytes),
        TEST(limits_are_errors_that_name_themselves),
        TEST(a_sentence_too_long_to_read_is_not_vouched_for),
        TEST(nothing_supports_without_sources),
        TEST(every_failed_allocation_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
