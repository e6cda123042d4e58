/* What is copied from a source is supported by it: 1,000 sentences drawn from data/kb, no false flag. */
#include "check.h"

#include <cairn/generator.h>
#include <ftw.h>

#define EXTRACTS 1000
#define FILES_MAX 200

static char *texts[FILES_MAX];
static size_t lens[FILES_MAX], n_texts;

static int read_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)at;
    const char *dot = strrchr(path, '.');
    struct cairn_why why;
    if (kind == FTW_F && dot && (strcmp(dot, ".md") == 0 || strcmp(dot, ".txt") == 0) && st->st_size > 200 &&
        n_texts < FILES_MAX &&
        cairn_read_file(&texts[n_texts], &lens[n_texts], path, GROUND_SOURCE_BYTES_MAX, &why) == CAIRN_OK)
        n_texts++;
    return 0;
}

static int by_text(const void *a, const void *b) /* the walk's order is the file system's */
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void a_thousand_extracts_raise_no_flag(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    CHECK(nftw("data/kb", read_one, 16, FTW_PHYS) == 0);
    CHECK_GE(n_texts, 20);
    qsort(texts, n_texts, sizeof *texts, by_text);
    for (size_t i = 0; i < n_texts; i++)
        lens[i] = strlen(texts[i]);
    uint64_t draw = 12345;
    size_t done = 0, claims = 0;
    while (done < EXTRACTS) {
        draw = draw * 6364136223846793005ULL + 1442695040888963407ULL;
        size_t at = (size_t)(draw >> 33) % n_texts;
        struct cairn_span spans[400];
        size_t n = cairn_sentences((struct cairn_str){texts[at], lens[at]}, spans, 400);
        n = n > 400 ? 400 : n;
        struct cairn_span x = spans[(size_t)(draw >> 20) % (n ? n : 1)];
        if (!n || x.end - x.start < 30)
            continue;
        struct ground_source s[2] = {{.text = {texts[(at + 1) % n_texts], lens[(at + 1) % n_texts]}},
                                     {.text = {texts[at], lens[at]}}};
        struct grounding *g;
        struct ground_sentence *list;
        size_t k;
        float score;
        CHECK_OK(grounding_open(&g, s, 2,
                                &(struct ground_opts){.question = cairn_str_of("What is the rule?")}, &why));
        CHECK_OK(grounding_check_text(g, (struct cairn_str){texts[at] + x.start, x.end - x.start}, &list, &k,
                                      &score, &why));
        for (size_t i = 0; i < k; i++) {
            if (list[i].verdict == VERDICT_UNSUPPORTED) {
                print_error("flagged (%.2f): %.*s\n", (double)list[i].score,
                            (int)(list[i].end - list[i].start), texts[at] + x.start + list[i].start);
                fail();
            }
            claims += list[i].verdict == VERDICT_SUPPORTED;
        }
        cairn_free(list);
        grounding_close(g);
        done++;
    }
    CHECK_GE(claims, EXTRACTS / 2); /* "no claim" is not how it is reached */
    for (size_t i = 0; i < n_texts; i++)
        cairn_free(texts[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(a_thousand_extracts_raise_no_flag)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
