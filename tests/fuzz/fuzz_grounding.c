/* Any text against any sources: the first two bytes cut the input into sources, question and checked text,
 * and say which combiner. What comes back keeps the header's promises, and now and then it is checked that a
 * second run gives the same bytes. */
#include <cairn/generator.h>

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void promise(bool kept)
{
    if (!kept)
        abort();
}

static enum cairn_err check(const struct ground_source s[2], const struct ground_opts *o,
                            struct cairn_str text, struct ground_sentence **list, size_t *n, float *score,
                            float *chance)
{
    struct grounding *g = NULL;
    enum cairn_err err = grounding_open(&g, s, 2, o, NULL);
    if (err)
        return err;
    err = grounding_check_text(g, text, list, n, score, NULL);
    *chance = err ? 0 : grounding_chance(g);
    grounding_close(g);
    return err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3 || size > 16384)
        return 0;
    const char *p = (const char *)data + 2;
    size_t n = size - 2, a = n * data[0] / 256, b = a + (n - a) * (data[1] / 4u) / 256;
    struct ground_source s[2] = {{.text = {p, a / 2}}, {.text = {p + a / 2, a - a / 2}}};
    struct ground_opts o = {
        .question = {p + a, b - a},
          .by_hand = (data[1] & 3) == 3
    };
    struct cairn_str text = {p + b, n - b};
    struct ground_sentence *list = NULL, *again = NULL;
    size_t count = 0, twice = 0;
    float score = 0, chance = 0, score2 = 0, chance2 = 0;
    if (check(s, &o, text, &list, &count, &score, &chance) != CAIRN_OK)
        return 0;
    for (size_t i = 0; i < count; i++) {
        const struct ground_sentence *t = &list[i];
        promise(t->start < t->end && t->end <= text.len && t->score >= 0 && t->score <= 1);
        promise(t->contradiction >= 0 && t->contradiction <= 1 && t->n_cited <= 8);
        promise(!i || t->start >= list[i - 1].end);
        for (size_t k = 0; k < t->n_evidence; k++)
            promise(t->evidence[k].source < 2 && t->evidence[k].start < t->evidence[k].end &&
                    t->evidence[k].end <= s[t->evidence[k].source].text.len);
        for (size_t k = 0; k < t->n_flags; k++)
            promise(t->flags[k].start <= t->flags[k].end && t->flags[k].end <= text.len &&
                    t->flags[k].confidence >= 0 && t->flags[k].confidence <= 1);
    }
    promise(score >= 0 && score <= 1 && chance >= 0 && chance <= 1);
    if ((data[size - 1] & 31) == 0) {
        promise(check(s, &o, text, &again, &twice, &score2, &chance2) == CAIRN_OK && twice == count);
        promise(memcmp(&score, &score2, sizeof score) == 0 && memcmp(&chance, &chance2, sizeof chance) == 0);
        for (size_t i = 0; i < count; i++)
            promise(list[i].verdict == again[i].verdict && list[i].n_flags == again[i].n_flags &&
                    memcmp(&list[i].score, &again[i].score, sizeof list[i].score) == 0);
        cairn_free(again);
    }
    cairn_free(list);
    return 0;
}
