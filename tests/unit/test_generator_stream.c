#include "check.h"

#include "stream.h"

/* Feeds text in pieces of n bytes; out gathers what became final, in order. */
static void feed(struct stream *s, const char *text, size_t piece, char *out, size_t cap)
{
    size_t len = strlen(text), from, at = 0;
    for (size_t i = 0; i < len; i += piece) {
        stream_add(s, text + i, len - i < piece ? len - i : piece, &from);
        CHECK_U64_EQ(from, at);
        CHECK(cairn_utf8_invalid_at(s->text + from, s->final - from) ==
              s->final - from); /* whole code points only */
        CHECK(s->final >= at && s->final < cap);
        memcpy(out + at, s->text + at, s->final - at);
        at = s->final;
    }
    stream_end(s, &from);
    memcpy(out + at, s->text + at, s->final - at);
    out[s->final] = '\0';
}

static void text_comes_through_whole_however_it_is_cut(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const char *text = "Gr\xC3\xBC\xC3\x9F"
                       "e \xE2\x82\xAC 5 \xF0\x9F\x98\x80 ok";
    for (size_t piece = 1; piece <= 8; piece++) {
        struct stream s;
        char out[256];
        CHECK_OK(stream_init(&s, NULL, 0, &why));
        feed(&s, text, piece, out, sizeof out);
        CHECK_STR_EQ(out, text);
        CHECK(!s.stopped);
        stream_release(&s);
    }
}

static void broken_bytes_become_replacement_signs(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    for (size_t piece = 1; piece <= 5; piece++) {
        struct stream s;
        char out[256];
        CHECK_OK(stream_init(&s, NULL, 0, &why));
        feed(&s,
             "a\xFF"
             "b\xC3(c\xE2\x82",
             piece, out, sizeof out);
        CHECK(cairn_utf8_invalid_at(out, strlen(out)) == strlen(out));
        CHECK(strncmp(out,
                      "a\xEF\xBF\xBD"
                      "b\xEF\xBF\xBD(c\xEF\xBF\xBD",
                      11) == 0);
        stream_release(&s);
    }
}

static void a_stop_string_is_found_across_pieces_and_never_shown(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const stop[] = {"###", "\nQuestion:"};
    for (size_t piece = 1; piece <= 12; piece++) {
        struct stream s;
        char out[256];
        CHECK_OK(stream_init(&s, stop, 2, &why));
        feed(&s, "one ## two\nQuest and\nQuestion: more ### end", piece, out, sizeof out);
        CHECK_STR_EQ(out, "one ## two\nQuest and");
        CHECK(s.stopped);
        size_t from;
        stream_add(&s, "late", 4, &from);
        CHECK_U64_EQ(s.final, strlen(out));
        stream_release(&s);
        CHECK_OK(stream_init(&s, stop, 2, &why));
        feed(&s, "ends with a prefix ##", piece, out, sizeof out);
        CHECK_STR_EQ(out, "ends with a prefix ##");
        stream_release(&s);
    }
    struct stream s;
    CHECK_ERR(stream_init(&s, (const char *const[]){""}, 1, &why), CAIRN_EINVAL);
    CHECK_ERR(stream_init(&s, stop, STREAM_STOPS_MAX + 1, &why), CAIRN_EINVAL);
}

static void held_back_text_is_not_final(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const stop[] = {"STOP"};
    struct stream s;
    size_t from;
    CHECK_OK(stream_init(&s, stop, 1, &why));
    stream_add(&s, "abST", 4, &from);
    CHECK_U64_EQ(s.final, 2);
    stream_add(&s, "ART", 3, &from);
    CHECK_U64_EQ(from, 2);
    CHECK_U64_EQ(s.final, 7);
    stream_add(&s, "\xE2\x82", 2, &from);
    CHECK_U64_EQ(s.final, 7);
    stream_add(&s, "\xAC", 1, &from);
    CHECK_U64_EQ(s.final, 10);
    stream_release(&s);
}

static void sentences_come_out_once_and_cover_the_text(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const char *text =
        "The limit is 3.5 GB [1]. Ask Dr. Keller first. [2] It is free.\n\n- one item\n- another item";
    struct cairn_span want[16];
    size_t n_want = cairn_sentences(cairn_str_of(text), want, 16);
    for (size_t piece = 1; piece <= 9; piece++) {
        struct stream s;
        size_t from, n = 0;
        struct cairn_span span;
        CHECK_OK(stream_init(&s, NULL, 0, &why));
        for (size_t i = 0; i < strlen(text); i += piece) {
            stream_add(&s, text + i, strlen(text) - i < piece ? strlen(text) - i : piece, &from);
            while (stream_sentence(&s, false, &span)) {
                CHECK(n < n_want);
                CHECK_U64_EQ(span.start, want[n].start);
                CHECK_U64_EQ(span.end, want[n].end);
                n++;
            }
        }
        CHECK_GE(n, 2); /* not all at the end */
        stream_end(&s, &from);
        while (stream_sentence(&s, true, &span)) {
            CHECK(n < n_want);
            CHECK_U64_EQ(span.end, want[n].end);
            n++;
        }
        CHECK_U64_EQ(n, n_want);
        stream_release(&s);
    }
}

static void a_loop_is_seen_and_a_list_is_not(void **state)
{
    UNUSED_STATE(state);
    int32_t ids[400];
    for (int i = 0; i < 400; i++)
        ids[i] = i % 10;
    CHECK(!stream_looping(ids, 20));
    CHECK(stream_looping(ids, 30));
    for (int i = 0; i < 400; i++)
        ids[i] = i < 30 ? i : 5;
    CHECK(!stream_looping(ids, 40));
    CHECK(stream_looping(ids, 60));
    for (int i = 0; i < 400; i++)
        ids[i] = i % 10 == 9 ? 1000 + i : i % 10; /* nine equal, one new: a list */
    CHECK(!stream_looping(ids, 400));
    CHECK(!stream_looping(ids, 0));
}

static void the_text_limit_ends_the_text(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct stream s;
    size_t from;
    CHECK_OK(stream_init(&s, NULL, 0, &why));
    char piece[1000];
    memset(piece, 'x', sizeof piece);
    for (int i = 0; i < 100; i++)
        stream_add(&s, piece, sizeof piece, &from);
    CHECK(s.full && s.final <= STREAM_TEXT_BYTES_MAX);
    stream_release(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(text_comes_through_whole_however_it_is_cut),
        TEST(broken_bytes_become_replacement_signs),
        TEST(a_stop_string_is_found_across_pieces_and_never_shown),
        TEST(held_back_text_is_not_final),
        TEST(sentences_come_out_once_and_cover_the_text),
        TEST(a_loop_is_seen_and_a_list_is_not),
        TEST(the_text_limit_ends_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
