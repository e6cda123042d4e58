/* withhold.c - what is taken back of an answer that is written: verdicts that a number belies, sentences, and
 * citation marks whose source does not carry their sentence. */
#include "answer_internal.h"
#include "grounding_weights.h"
#include "phrase.h"
#include "typed.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MARK_IDS_MAX 8u
#define EVIDENCE_NEAR                                                                                        \
    0.8f /* further spans are cited when their support is at least this share of the best span's */

bool ground_evidence_cited(const struct ground_sentence *s, size_t i)
{
    return s->verdict == VERDICT_SUPPORTED && i < s->n_evidence &&
           (i == 0 || s->evidence[i].score >= EVIDENCE_NEAR * s->evidence[0].score);
}

void withhold_numbers(struct ground_sentence *s, struct cairn_str text, const struct cairn_str *passages,
                      size_t n_passages, float support_min)
{
    struct cairn_str cited[GROUND_EVIDENCE_MAX];
    size_t n = 0;
    if (s->verdict != VERDICT_SUPPORTED)
        return;
    for (size_t i = 0; i < s->n_evidence; i++)
        if (ground_evidence_cited(s, i) && s->evidence[i].source < n_passages)
            cited[n++] = passages[s->evidence[i].source];
    if (phrase_numbers_in(text, s->start, s->end, cited, n))
        return;
    s->verdict = VERDICT_UNSUPPORTED;
    s->score = fminf(s->score, fminf(PROOF_ABSENT_MAX, nextafterf(support_min, 0)));
    s->n_evidence = 0;
    for (size_t i = 0; i < s->n_cited; i++) {
        s->citations_dropped += s->cited_ok[i];
        s->cited_ok[i] = false;
    }
    if (s->n_flags < GROUND_FLAGS_MAX)
        s->flags[s->n_flags++] = (struct ground_flag){.kind = "number", .start = s->start, .end = s->end};
}

static bool carried(const struct ground_sentence *s, uint32_t id)
{
    for (size_t i = 0; i < s->n_cited; i++)
        if (s->cited[i] + 1 == id)
            return s->cited_ok[i];
    return false;
}

/* Rewrites the marks of a sentence to the sources that carry it; cut[] says which bytes go. Numbers that no
 * source can have ("[2019]", "[0]") and what stands between backquotes are not marks. */
static void cut_marks(struct answer *a, const struct ground_sentence *s, uint8_t *cut)
{
    struct cairn_str text = {a->text, a->text_len};
    bool code = false;
    size_t kept = s->start; /* behind the last byte that stays */
    for (size_t i = s->start, m; i < s->end; i += m) {
        uint32_t ids[MARK_IDS_MAX];
        size_t n = 0, n_ok = 0, len = 0;
        bool mark = false;
        char left[8 * MARK_IDS_MAX];
        m = !code && a->text[i] == '[' ? typed_citation(text, i, s->end, ids, MARK_IDS_MAX, &n) : 0;
        for (size_t k = 0; k < n; k++) {
            mark = mark || (ids[k] >= 1 && ids[k] <= GROUND_SOURCES_MAX);
            if (carried(s, ids[k]))
                len += (size_t)snprintf(left + len, sizeof left - len, "%c%u", n_ok++ ? ',' : '[', ids[k]);
        }
        if (!m || !mark || n_ok == n) {
            code ^= a->text[i] == '`';
            m = m ? m : 1;
            if (a->text[i] != ' ')
                kept = i + m;
            continue;
        }
        memset(cut + i, 1, m);
        if (n_ok) {
            left[len++] = ']';
            memcpy(a->text + i, left, len);
            memset(cut + i, 0, len);
            kept = i + m;
        } else if (kept > s->start) { /* "06:00 [3]." becomes "06:00." */
            memset(cut + kept, 1, i - kept);
        } else { /* "[3] The pump" becomes "The pump" */
            for (; i + m < s->end && a->text[i + m] == ' '; m++)
                cut[i + m] = 1;
        }
    }
}

static bool blank(const struct answer *a, const struct ground_sentence *s, const uint8_t *cut)
{
    for (size_t i = s->start; i < s->end; i++)
        if (!cut[i] && !strchr(" \t\r\n", a->text[i]))
            return false;
    return true;
}

/* Takes the cut bytes out of the text and moves every offset. */
static void close_up(struct answer *a, const bool *drop, const uint8_t *cut, uint32_t *moved)
{
    size_t out = 0, keep = 0;
    for (size_t i = 0; i < a->text_len; i++) {
        moved[i] = (uint32_t)out;
        if (!cut[i])
            a->text[out++] = a->text[i];
    }
    moved[a->text_len] = (uint32_t)out;
    a->text_len = out;
    a->text[out] = '\0';
    for (size_t i = 0; i < a->n_sentences; i++) {
        if (drop[i])
            continue;
        struct ground_sentence s = a->sentences[i];
        s.start = moved[s.start];
        s.end = moved[s.end];
        for (size_t k = 0; k < s.n_flags; k++) {
            s.flags[k].start = moved[s.flags[k].start];
            s.flags[k].end = moved[s.flags[k].end];
        }
        a->sentences[keep++] = s;
    }
    a->n_sentences = keep;
}

enum cairn_err withhold(struct answer *a, bool *drop, bool marks, bool *changed, struct cairn_why *why)
{
    *changed = false;
    uint8_t *cut = cairn_calloc(a->text_len + 1, sizeof *cut);
    uint32_t *moved = cairn_calloc(a->text_len + 1, sizeof *moved);
    if (!cut || !moved) {
        cairn_free(cut);
        cairn_free(moved);
        return cairn_fail(why, CAIRN_ENOMEM, "answer of %zu bytes", a->text_len);
    }
    size_t at = 0, kept = 0; /* at: the end of the sentence before */
    for (size_t i = 0; i < a->n_sentences; i++) {
        struct ground_sentence *s = &a->sentences[i];
        if (marks && !drop[i]) {
            size_t n = 0;
            cut_marks(a, s, cut);
            for (size_t k = 0; k < s->n_cited; k++)
                if (s->cited_ok[k]) {
                    s->cited[n] = s->cited[k];
                    s->cited_ok[n++] = true;
                }
            s->n_cited = n;
            drop[i] = blank(a, s, cut); /* it was nothing but a mark */
        }
        if (drop[i])
            memset(cut + at, 1, s->end - at);
        else if (!kept++ && i) /* no white space before the first */
            memset(cut + at, 1, s->start - at);
        at = s->end;
    }
    *changed = memchr(cut, 1, a->text_len) != NULL;
    if (*changed) {
        memset(cut + at, 1, a->text_len - at);
        close_up(a, drop, cut, moved);
    }
    cairn_free(cut);
    cairn_free(moved);
    return CAIRN_OK;
}
