/* eval/claim_rows.c - `cairn train grounding --claims FILE`: what scripts/train_claims.py reads, a claim a
 * line:
 *
 *   {set, text, fold, claim, evidence, marks [[start, end]] or null, label 0, 1 or null, p, chance, positive}
 *
 * The evidence is what the encoder would be given. marks are code points of the claim; null: nobody marked
 * any. label null: something in the text is not supported, nobody said where; then a line of the whole text
 * with label 1 and "whole": true follows its claims. p and chance are what a combiner that did not see the
 * fold says of the claim and of the text. */
#include "ground_set.h"

#include "../generator/grey.h"
#include "../generator/grounding_internal.h"

#include <string.h>

struct rows {
    FILE *to;
    const struct ground_set *set;
    const char *name;
    const uint8_t *fold;
};

static size_t points(const char *p, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        k += ((unsigned char)p[i] & 0xC0) != 0x80;
    return k;
}

static enum cairn_err one_row(const struct rows *r, size_t i, struct grounding *g, struct cairn_span at,
                              bool whole, bool alone, double p, double chance, struct cairn_why *why)
{
    const struct judged_text *t = &r->set->texts[i];
    struct ground_words w;
    uint32_t list[GREY_SENTENCES_MAX];
    struct cairn_buf evidence;
    enum cairn_err err = grounding_words(g, cairn_str_of(t->text), at.start, at.end, &w, why);
    if (err || (!w.claim && !whole))
        return err;
    cairn_buf_init(&evidence, 0);
    size_t n = grey_evidence(g, list), from = points(t->text, at.start),
           to = from + points(t->text + at.start, at.end - at.start);
    bool ok = true, marked = r->set->has_spans || r->set->marks_are_changes, any = false;
    for (size_t k = 0; k < n && ok; k++) {
        struct ground_evidence e = grounding_sentence(g, list[k]);
        const char *source = r->set->sources[t->source].pieces[e.source];
        ok = (!k || cairn_buf_puts(&evidence, " ")) &&
             cairn_buf_put(&evidence, source + e.start, e.end - e.start);
    }
    json_t *row = json_object(), *marks = json_array();
    for (size_t k = 0; k < t->n_marks; k++) {
        size_t a = t->marks[k].start > from ? t->marks[k].start : from,
               b = t->marks[k].end < to ? t->marks[k].end : to;
        if (a < b)
            json_array_append_new(marks, json_pack("[ii]", (int)(a - from), (int)(b - from)));
        any = any || a < b;
    }
    bool known = marked || whole || alone || !t->positive;
    json_object_set_new(row, "set", json_string(r->name));
    json_object_set_new(row, "text", json_integer((json_int_t)i));
    json_object_set_new(row, "fold", json_integer(r->fold[t->source]));
    json_object_set_new(row, "claim", json_stringn(t->text + at.start, at.end - at.start));
    json_object_set_new(row, "evidence",
                        json_stringn(evidence.len ? (const char *)evidence.bytes : "", evidence.len));
    json_object_set_new(row, "marks", marked || !t->positive ? json_incref(marks) : json_null());
    json_object_set_new(row, "label", known ? json_integer(marked ? any : t->positive) : json_null());
    json_object_set_new(row, "p", json_real(p));
    json_object_set_new(row, "chance", json_real(chance));
    json_object_set_new(row, "positive", json_boolean(t->positive));
    if (whole)
        json_object_set_new(row, "whole", json_true());
    if (!ok)
        err = cairn_fail(why, CAIRN_ENOMEM, "evidence of a claim of text %zu", i);
    else if (json_dumpf(row, r->to, JSON_COMPACT) || fputc('\n', r->to) == EOF)
        err = cairn_fail(why, CAIRN_EIO, "a claim of text %zu could not be written", i);
    json_decref(marks);
    json_decref(row);
    cairn_buf_release(&evidence);
    return err;
}

enum cairn_err claim_rows(FILE *to, const struct ground_set *s, const char *name, const uint8_t *fold,
                          const struct ground_combiner *const of_fold[GM_FOLDS], struct cairn_why *why)
{
    const struct rows r = {to, s, name, fold};
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < s->n_texts && !err; i++) {
        const struct judged_text *t = &s->texts[i];
        struct grounding *g = NULL;
        struct ground_sentence *list = NULL;
        size_t n = 0, claims = 0;
        struct cairn_span whole = {0, strlen(t->text)};
        if ((err = cairn_stopped(&run_stop, why)) != CAIRN_OK)
            break;
        err = ground_set_open(&g, s, i, t->source, of_fold[fold[t->source]], why);
        if (!err)
            err = grounding_check_text(g, cairn_str_of(t->text), &list, &n, NULL, why);
        double chance = err ? 0 : (double)grounding_chance(g);
        for (size_t k = 0; k < n; k++)
            claims += list[k].verdict != VERDICT_NO_CLAIM;
        for (size_t k = 0; k < n && !err; k++)
            if (list[k].verdict != VERDICT_NO_CLAIM)
                err = one_row(&r, i, g, (struct cairn_span){list[k].start, list[k].end}, false, claims == 1,
                              1 - (double)list[k].score, chance, why);
        if (!err && t->positive && claims != 1 && !s->has_spans && !s->marks_are_changes)
            err = one_row(&r, i, g, whole, true, false, chance, chance, why);
        cairn_free(list);
        grounding_close(g);
    }
    return err;
}
