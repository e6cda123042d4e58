/* The grounding sets' readers, the corruption generator, the fit and the trainer. */
#include "check.h"

#include "edits.h"
#include "forest_fit.h"
#include "ground_set.h"

#include <cairn/eval.h>
#include <fcntl.h>
#include <string.h>

static void write_to(const char *dir, const char *name, const char *text)
{
    TEST_WHY;
    char *path = cairn_path_join(dir, name);
    CHECK_OK(cairn_write_file(path, text, strlen(text), &why));
    cairn_free(path);
}

/* ---- readers ---- */

static void ragtruth_gives_passages_questions_and_marks(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir();
    struct ground_set s = {0};
    write_to(dir, "sources.jsonl",
             "{\"source_id\": \"7\", \"question\": \"How hot?\", \"passages\": \"passage 1:It is "
             "hot.\\n\\npassage "
             "2:It is cold.\"}\n");
    write_to(dir, "responses.jsonl",
             "{\"source_id\": \"7\", \"response\": \"It is \\u00e9t\\u00e9.\", \"labels\": [{\"start\": 6, "
             "\"end\": "
             "9}]}\n{\"source_id\": \"7\", \"response\": \"It is hot.\", \"labels\": []}\n");
    CHECK_OK(ground_set_read(&s, dir, &why));
    CHECK(s.has_spans && s.n_sources == 1 && s.n_texts == 2 && s.sources[0].n == 2);
    CHECK_STR_EQ(s.sources[0].pieces[0], "It is hot.");
    CHECK_STR_EQ(s.sources[0].pieces[1], "It is cold.");
    CHECK_STR_EQ(s.texts[0].question, "How hot?");
    CHECK(s.texts[0].positive && s.texts[0].n_marks == 1 && s.texts[0].marks[0].start == 6 &&
          s.texts[0].marks[0].end == 9 && !s.texts[1].positive);
    ground_set_release(&s);
    write_to(dir, "responses.jsonl", "{\"source_id\": \"8\", \"response\": \"x\", \"labels\": []}\n");
    CHECK_ERR(ground_set_read(&s, dir, &why), CAIRN_EINVAL); /* an answer to nothing */
    ground_set_release(&s);
    write_to(dir, "responses.jsonl",
             "{\"source_id\": \"7\", \"response\": \"x\", \"labels\": [{\"start\": 3, \"end\": 1}]}\n");
    CHECK_ERR(ground_set_read(&s, dir, &why), CAIRN_EINVAL);
    ground_set_release(&s);
    test_rmdir(dir);
}

static void claims_replies_and_stances_are_read(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const struct {
        const char *file, *text;
        bool positive[3], claimless;
    } rows[] = {
        {"claims.jsonl",
         "{\"claim\": \"A.\", \"label\": \"supported\", \"evidence\": [\"A.\", \"B.\"]}\n"
         "{\"claim\": \"C.\", \"label\": \"partially_supported\", \"evidence\": [\"A.\", \"B.\"]}\n"
         "{\"claim\": \"D.\", \"label\": \"not_supported\", \"evidence\": []}\n",                      {false, true, true},
         false},
        {"begin_dev_x.jsonl",
         "{\"knowledge\": \"k\", \"response\": \"a\", \"begin_label\": \"Fully attributable\"}\n"
         "{\"knowledge\": \"k\", \"response\": \"b\", \"begin_label\": \"Generic\"}\n"
         "{\"knowledge\": \"l\", \"response\": \"c\", \"begin_label\": \"Not fully attributable\"}\n", {false, true, true},
         true },
        {"stance.jsonl",
         "{\"claim\": \"a\", \"evidence\": \"k\", \"stance\": \"completely-support\"}\n"
         "{\"claim\": \"b\", \"evidence\": \"k\", \"stance\": \"refute\"}\n"
         "{\"claim\": \"c\", \"evidence\": \"l\", \"stance\": \"irrelevant\"}\n",                      {false, true, true},
         false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *dir = test_tmpdir();
        struct ground_set s = {0};
        write_to(dir, rows[i].file, rows[i].text);
        CHECK_OK(ground_set_read(&s, dir, &why));
        CHECK_U64_EQ(s.n_texts, 3);
        CHECK_U64_EQ(s.n_sources, 2); /* what shares a source is never split */
        CHECK(s.texts[0].source == s.texts[1].source && s.texts[0].source != s.texts[2].source);
        CHECK(s.claimless_is_bad == rows[i].claimless && !s.has_spans);
        for (size_t k = 0; k < 3; k++)
            CHECK(s.texts[k].positive == rows[i].positive[k]);
        ground_set_release(&s);
        write_to(dir, rows[i].file, "{\"claim\": 3}\n");
        CHECK_ERR(ground_set_read(&s, dir, &why), CAIRN_EINVAL);
        ground_set_release(&s);
        test_rmdir(dir);
    }
    char *dir = test_tmpdir();
    struct ground_set s = {0};
    CHECK_ERR(ground_set_read(&s, dir, &why), CAIRN_ENOTFOUND);
    ground_set_release(&s);
    test_rmdir(dir);
}

static void what_an_edited_summary_changed_is_marked(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir();
    struct ground_set s = {0};
    write_to(dir, "x.documents.jsonl", "{\"_id\": \"d\", \"text\": \"t\"}\n");
    write_to(dir, "x.summaries.jsonl",
             "{\"doc_id\": \"d\", \"summary\": \"The \\u00e9lan rose by five.\", \"label\": 0, "
             "\"original_summary\": "
             "\"The \\u00e9lan fell by five.\"}\n"
             "{\"doc_id\": \"d\", \"summary\": \"It rose.\", \"label\": 0, \"original_summary\": \"It never "
             "rose.\"}\n"
             "{\"doc_id\": \"d\", \"summary\": \"It went up.\", \"label\": 1, \"original_summary\": \"It "
             "rose.\"}\n");
    CHECK_OK(ground_set_read(&s, dir, &why));
    CHECK(s.marks_are_changes && !s.has_spans && s.n_texts == 3);
    CHECK(s.texts[0].n_marks == 1 && s.texts[0].marks[0].start == 9 && s.texts[0].marks[0].end == 13);
    CHECK(s.texts[1].n_marks == 1 && s.texts[1].marks[0].start == 3); /* a word gone: the one after it */
    CHECK(s.texts[2].n_marks == 0 && !s.texts[2].positive);
    ground_set_release(&s);
    test_rmdir(dir);
}

/* ---- edits ---- */

static void every_edit_changes_what_it_says(void **state)
{
    UNUSED_STATE(state);
    static const char sentence[] =
        "In March 1987, all 40 workers of Ondola must not raise the 12 miles of high rails "
        "near Hamburg because Berta said so before lunch.",
                      stranger[] = "The quiet library in Rostock lends novels to every reader on weekdays.";
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    for (int k = 0; k < EDIT_N; k++) {
        uint64_t seed = 5, again = 5;
        size_t start, end, s2, e2;
        char first[300];
        CHECK(edit_make((enum edit_kind)k, cairn_str_of(sentence), cairn_str_of(sentence),
                        cairn_str_of(stranger), &seed, &b, &start, &end));
        CHECK(b.len < sizeof first && start <= end && end <= b.len);
        memcpy(first, b.bytes, b.len);
        first[b.len] = 0;
        CHECK(strcmp(first, sentence) != 0);
        /* outside the changed bytes it is the sentence */
        CHECK(strncmp(first, sentence, start) == 0);
        CHECK(strcmp(first + end, sentence + strlen(sentence) - (b.len - end)) == 0);
        CHECK(edit_make((enum edit_kind)k, cairn_str_of(sentence), cairn_str_of(sentence),
                        cairn_str_of(stranger), &again, &b, &s2, &e2));
        CHECK(s2 == start && e2 == end && b.len == strlen(first) && memcmp(b.bytes, first, b.len) == 0);
    }
    uint64_t seed = 1;
    size_t start, end;
    static const char plain[] = "Cairns mark the trail across the moor";
    for (int k = 0; k < EDIT_NEGATION; k++) /* nothing of the kind in it */
        CHECK(!edit_make((enum edit_kind)k, cairn_str_of(plain), cairn_str_of(plain), cairn_str_of(stranger),
                         &seed, &b, &start, &end));
    cairn_buf_release(&b);
}

static void write_passages(const char *dir)
{
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    static const char *const towns[] = {"Hamburg", "Rostock", "Bremen", "Kiel", "Lund", "Turku"};
    for (int i = 0; i < 30; i++)
        CHECK(cairn_buf_printf(
            &b,
            "{\"text\": \"The office in %s opened in %d and has %d employees today. All visitors "
            "must sign in at the front desk before nine in the morning. The rent increased by "
            "%d percent in June, which most tenants there can not afford. It is higher than in "
            "%s, where the landlord is a small family firm.\"}\n",
            towns[i % 6], 1950 + i, 20 + 3 * i, 2 + i, towns[(i + 1) % 6]));
    CHECK(cairn_buf_put(&b, "", 1));
    write_to(dir, "passages.jsonl", (const char *)b.bytes);
    cairn_buf_release(&b);
}

static void texts_with_edits_repeat_and_their_marks_fit(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir();
    struct ground_set a = {0}, b = {0};
    write_passages(dir);
    CHECK_OK(edits_of_passages(&a, dir, 200, 9, &why));
    CHECK_OK(edits_of_passages(&b, dir, 200, 9, &why));
    CHECK(a.n_texts == b.n_texts && a.n_texts >= 190);
    size_t bad = 0;
    for (size_t i = 0; i < a.n_texts; i++) {
        const struct judged_text *t = &a.texts[i];
        CHECK_STR_EQ(t->text, b.texts[i].text);
        CHECK(t->positive == (t->n_marks > 0));
        for (size_t k = 0; k < t->n_marks; k++)
            CHECK(t->marks[k].start < t->marks[k].end && t->marks[k].end <= strlen(t->text));
        bad += t->positive;
    }
    CHECK(bad * 2 > a.n_texts && bad < a.n_texts); /* three in five, drawn */
    ground_set_release(&a);
    ground_set_release(&b);
    test_rmdir(dir);
}

static void halves_part_the_sources(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir();
    struct ground_set whole = {0}, half[2] = {{0}, {0}};
    write_passages(dir);
    CHECK_OK(edits_of_passages(&whole, dir, 200, 9, &why));
    for (int i = 0; i < 2; i++) {
        CHECK_OK(edits_of_passages(&half[i], dir, 200, 9, &why));
        ground_set_half(&half[i], (uint64_t)i + 1);
        CHECK(half[i].n_texts > 0);
    }
    CHECK_U64_EQ(half[0].n_texts + half[1].n_texts, whole.n_texts);
    for (size_t i = 0; i < half[0].n_texts; i++)
        for (size_t k = 0; k < half[1].n_texts; k++)
            CHECK(half[0].texts[i].source != half[1].texts[k].source);
    ground_set_release(&whole);
    ground_set_release(&half[0]);
    ground_set_release(&half[1]);
    test_rmdir(dir);
}

struct seen {
    size_t n, edited;
    uint64_t sum;
};
static enum cairn_err see(void *ctx, const struct edit_case *c, struct cairn_why *why)
{
    struct seen *s = ctx;
    (void)why;
    CHECK(c->says.start < c->says.end && c->says.end <= c->text.len);
    CHECK(c->kind == EDIT_N || (c->start >= c->says.start && c->start <= c->end && c->end <= c->says.end));
    s->n++;
    s->edited += c->kind < EDIT_N;
    s->sum += cairn_xxh64(c->text.p + c->says.start, c->says.end - c->says.start, c->kind);
    return CAIRN_OK;
}

/* What is edited depends on the text alone: so what is read on a half stands in the whole too. */
static void a_half_has_the_edits_of_the_whole(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir();
    struct seen got[3] = {{0}, {0}, {0}};
    write_passages(dir);
    for (int i = 0; i < 3; i++) {
        struct ground_set s = {0};
        struct options o = {.seed = 4, .quiet = true};
        size_t clean;
        CHECK_OK(edits_of_passages(&s, dir, 60, 9, &why));
        if (i)
            ground_set_half(&s, (uint64_t)i);
        CHECK_OK(edit_cases(&o, &s, NULL, see, &got[i], &clean, &why));
        CHECK(got[i].edited > 0 && got[i].n > got[i].edited);
        ground_set_release(&s);
    }
    CHECK_U64_EQ(got[1].n + got[2].n, got[0].n);
    CHECK_U64_EQ(got[1].sum + got[2].sum, got[0].sum);
    test_rmdir(dir);
}

/* ---- the fit ---- */

static void a_forest_learns_a_rule_and_keeps_to_meanings(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { N = 600, W = 3 };
    static uint8_t x[N][W], label[N];
    static int32_t weight[N];
    static struct forest f, again;
    uint64_t s = 3;
    for (size_t i = 0; i < N; i++) {
        for (size_t k = 0; k < W; k++) {
            s = s * 6364136223846793005ULL + 1442695040888963407ULL;
            x[i][k] = (uint8_t)(s >> 40);
        }
        label[i] = x[i][0] > 100 && x[i][1] < 180;
        weight[i] = i % 5 ? 100 : 0; /* a fifth unseen */
    }
    static const int8_t free_of[W] = {0, 0, 0}, against[W] = {-1, 2, 0};
    struct fit_opts o = {.depth = 3,
                         .rounds = 60,
                         .rate = 16,
                         .sample = 12,
                         .seed = 1,
                         .meaning = free_of,
                         .lambda = 1,
                         .side = 1};
    struct fit_rows r = {x[0], N, W, label, weight, NULL};
    CHECK_OK(forest_fit(&f, &r, &o, &why));
    CHECK_OK(forest_fit(&again, &r, &o, &why));
    CHECK(memcmp(&f, &again, sizeof f) == 0);
    size_t right = 0, unseen = 0;
    for (size_t i = 0; i < N; i += 5) {
        right += (forest_margin(&f, x[i]) > 0) == label[i];
        unseen++;
    }
    CHECK_GE(right, unseen * 95 / 100);
    /* feature 0 may only lower, 1 is not used: then no margin rises with 0, whatever the others are */
    o.meaning = against;
    CHECK_OK(forest_fit(&f, &r, &o, &why));
    for (size_t i = 0; i < N; i++) {
        uint8_t low[W] = {0, x[i][1], x[i][2]}, high[W] = {255, x[i][1], x[i][2]}, other[W] = {0, 0, x[i][2]};
        CHECK(forest_margin(&f, low) >= forest_margin(&f, high));
        CHECK_I64_EQ(forest_margin(&f, low), forest_margin(&f, other));
    }
}

/* ---- the trainer ---- */

static int quietly(int (*command)(int, char **), int argc, const char **argv)
{
    int saved = dup(STDOUT_FILENO), null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(saved >= 0 && null >= 0);
    fflush(stdout);
    CHECK(dup2(null, STDOUT_FILENO) >= 0);
    int code = command(argc, (char **)(uintptr_t)argv);
    fflush(stdout);
    CHECK(dup2(saved, STDOUT_FILENO) >= 0);
    close(saved);
    close(null);
    return code;
}

static void the_model_is_the_same_for_any_number_of_threads(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir(), *file[2], *bytes[2];
    size_t len[2];
    static const char *const threads[2] = {"1", "3"};
    write_passages(dir);
    for (int i = 0; i < 2; i++) {
        file[i] = cairn_path_join(dir, i ? "b.model" : "a.model");
        const char *argv[] = {"train",     "grounding", "--edits", dir, "--n",       "40",
                              "--out",     file[i],     "--draws", "0", "--licence", "ours",
                              "--threads", threads[i],  "--quiet", NULL};
        CHECK_I64_EQ(quietly(train_main, (int)(sizeof argv / sizeof *argv) - 1, argv), 0);
        CHECK_OK(cairn_read_file(&bytes[i], &len[i], file[i], 1 << 20, &why));
    }
    CHECK(len[0] == len[1] && memcmp(bytes[0], bytes[1], len[0]) == 0);
    struct ground_combiner *c;
    CHECK_OK(ground_combiner_open(&c, file[0], &why));
    CHECK(strstr(c->card, "licence of the data: ours") && c->word_spans == 1);
    ground_combiner_close(c);
    const char *eval[] = {"eval", "grounding", "--set", dir, "--model", file[0], NULL};
    CHECK_I64_EQ(quietly(eval_main, 6, eval), 3); /* passages alone are no judged set */
    for (int i = 0; i < 2; i++) {
        cairn_free(bytes[i]);
        cairn_free(file[i]);
    }
    test_rmdir(dir);
}

static void the_weights_of_doubts_are_the_same_again(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir(), *file[2], *bytes[2];
    size_t len[2];
    write_passages(dir);
    for (int i = 0; i < 2; i++) {
        file[i] = cairn_path_join(dir, i ? "b.h" : "a.h");
        const char *argv[] = {"train", "doubts", "--edits", dir,       "--n",
                              "40",    "--out",  file[i],   "--quiet", NULL};
        CHECK_I64_EQ(quietly(train_main, (int)(sizeof argv / sizeof *argv) - 1, argv), 0);
        CHECK_OK(cairn_read_file(&bytes[i], &len[i], file[i], 1 << 20, &why));
    }
    CHECK(len[0] == len[1] && memcmp(bytes[0], bytes[1], len[0]) == 0);
    CHECK(strstr(bytes[0], "[DOUBT_NEGATED]") && strstr(bytes[0], "[DX_ONE]"));
    char *lines = cairn_path_join(dir, "lines.jsonl"), *text;
    size_t n;
    const char *eval[] = {"eval",  "grounding", "--edits", dir,     "--n", "40",      "--suite",
                          "edits", "--half",    "1",       "--out", lines, "--quiet", NULL};
    CHECK_I64_EQ(quietly(eval_main, (int)(sizeof eval / sizeof *eval) - 1, eval), 0);
    CHECK_OK(cairn_read_file(&text, &n, lines, 1 << 20, &why));
    CHECK(strstr(text, "\"kind\":\"untouched\"") && strstr(text, "\"kind\":\"negation\""));
    eval[9] = "3";
    CHECK_I64_EQ(quietly(eval_main, (int)(sizeof eval / sizeof *eval) - 1, eval), 2);
    cairn_free(text);
    cairn_free(lines);
    for (int i = 0; i < 2; i++) {
        cairn_free(bytes[i]);
        cairn_free(file[i]);
    }
    test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ragtruth_gives_passages_questions_and_marks),
        TEST(claims_replies_and_stances_are_read),
        TEST(what_an_edited_summary_changed_is_marked),
        TEST(every_edit_changes_what_it_says),
        TEST(texts_with_edits_repeat_and_their_marks_fit),
        TEST(halves_part_the_sources),
        TEST(a_half_has_the_edits_of_the_whole),
        TEST(a_forest_learns_a_rule_and_keeps_to_meanings),
        TEST(the_model_is_the_same_for_any_number_of_threads),
        TEST(the_weights_of_doubts_are_the_same_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
