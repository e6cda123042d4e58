/* eval/ground_time.c - `cairn eval grounding --suite time`: what a check costs. Texts of 120 to 160 words of
 * the set, each against five passages of 200 words: its own source's text first, then what follows in the
 * set. Every text is checked three times and its least time kept, so that what else the machine does counts
 * less; opening reads the passages anew, checking reuses them. One thread, no encoder. */
#include "edits.h"

#include <stdlib.h>
#include <string.h>

#define PASSAGES 5u
#define PASSAGE_WORDS 200u
#define ROUNDS 3
#define TEXTS_MAX 1000u

static size_t count_words(const char *p)
{
    size_t n = 0;
    for (bool in = false; *p; p++) {
        bool space = strchr(" \n\t\r", *p) != NULL;
        n += !space && !in;
        in = !space;
    }
    return n;
}

/* 1,000 words from this source on, in five buffers. */
static bool passages_from(const struct ground_set *s, uint32_t source, struct cairn_buf out[PASSAGES])
{
    size_t k = 0, words = 0;
    cairn_buf_clear(&out[0]);
    for (size_t i = 0; i < s->n_sources; i++) {
        const struct text_source *t = &s->sources[(source + i) % s->n_sources];
        for (size_t q = 0; q < t->n; q++)
            for (const char *p = t->pieces[q]; *p;) {
                size_t space = strspn(p, " \n\t\r"), len = strcspn(p + space, " \n\t\r");
                if (!cairn_buf_put(&out[k], p, space + len))
                    return false;
                p += space + len;
                if (len && ++words == PASSAGE_WORDS) {
                    words = 0;
                    if (++k == PASSAGES)
                        return true;
                    cairn_buf_clear(&out[k]);
                }
            }
    }
    return false;
}

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int ground_time(const struct options *o, struct ground_set *s, const struct ground_combiner *m)
{
    struct cairn_why why = {0};
    struct cairn_buf b[PASSAGES];
    int64_t whole[TEXTS_MAX], check[TEXTS_MAX];
    size_t n = 0, words = 0;
    enum cairn_err err = CAIRN_OK;
    for (size_t k = 0; k < PASSAGES; k++)
        cairn_buf_init(&b[k], 0);
    for (size_t i = 0; i < s->n_texts && n < TEXTS_MAX && !err; i++) {
        const struct judged_text *t = &s->texts[i];
        size_t len = count_words(t->text);
        if (len < 120 || len > 160 || !passages_from(s, t->source, b))
            continue;
        struct ground_source given[PASSAGES];
        for (size_t k = 0; k < PASSAGES; k++)
            given[k] = (struct ground_source){
                .text = {(const char *)b[k].bytes, b[k].len}
            };
        struct ground_opts opts = {.question = cairn_str_of(t->question), .combiner = m, .by_hand = !m};
        whole[n] = check[n] = INT64_MAX;
        for (int r = 0; r < ROUNDS && !err; r++) {
            struct grounding *g = NULL;
            struct ground_sentence *list = NULL;
            size_t found;
            int64_t begun = cairn_now_us(), opened;
            err = grounding_open(&g, given, PASSAGES, &opts, &why);
            opened = cairn_now_us();
            if (!err)
                err = grounding_check_text(g, cairn_str_of(t->text), &list, &found, NULL, &why);
            int64_t end = cairn_now_us();
            whole[n] = end - begun < whole[n] ? end - begun : whole[n];
            check[n] = end - opened < check[n] ? end - opened : check[n];
            cairn_free(list);
            grounding_close(g);
        }
        words += len;
        n++;
    }
    for (size_t k = 0; k < PASSAGES; k++)
        cairn_buf_release(&b[k]);
    if (err)
        return tell_err(o, err, &why);
    if (!n)
        return tell(o, FAILED, "%s: no text of 120 to 160 words", o->set);
    qsort(whole, n, sizeof *whole, by_time);
    qsort(check, n, sizeof *check, by_time);
    if (o->json) {
        json_t *v = json_pack("{s:i, s:I, s:I, s:I, s:I}", "n", (int)n, "p50_us", (json_int_t)whole[n / 2],
                              "p99_us", (json_int_t)whole[n * 99 / 100], "reused_p50_us",
                              (json_int_t)check[n / 2], "reused_p99_us", (json_int_t)check[n * 99 / 100]);
        int code = print_json(o, v);
        json_decref(v);
        return code;
    }
    printf("%zu texts of %zu words on average, five passages of %u words\n"
           "opened and checked: p50 %" PRId64 " us, p99 %" PRId64 " us; passages read before: p50 %" PRId64
           " us, p99 %" PRId64 " us\n",
           n, words / n, PASSAGE_WORDS, whole[n / 2], whole[n * 99 / 100], check[n / 2], check[n * 99 / 100]);
    return finish_output(o);
}
