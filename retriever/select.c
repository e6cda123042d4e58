/* select.c - which of the ordered candidates are returned: cap per document, duplicates behind the rest,
 * diversity. Two passages are duplicates when their words are equal, or when their vectors nearly are and
 * they state the same numbers and negations. The last part matters: two versions of one rule ("up to EUR
 * 140", "up to EUR 150") have a cosine near 1 and are the passages that must not hide each other. Nothing is
 * lost: with fewer than k others a duplicate is still returned. Maximal marginal relevance: Carbonell and
 * Goldstein 1998. */
#include "retriever_private.h"

#include <math.h>
#include <string.h>

#define COMPARED_MAX                                                                                         \
    200u /* better candidates that one is compared with: bounds the work for k = RETRIEVE_K_MAX */
#define MMR_POOL_MAX 400u

static bool alnum(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80;
}
static unsigned char lower(unsigned char c) { return c >= 'A' && c <= 'Z' ? (unsigned char)(c + 32) : c; }
static bool digit(unsigned char c) { return c >= '0' && c <= '9'; }

bool same_words(struct cairn_str a, struct cairn_str b)
{
    size_t i = 0, k = 0;
    bool begun = false;
    for (;; begun = true) {
        size_t i0 = i, k0 = k;
        while (i < a.len && !alnum((unsigned char)a.p[i]))
            i++;
        while (k < b.len && !alnum((unsigned char)b.p[k]))
            k++;
        if (i == a.len || k == b.len)
            return i == a.len && k == b.len;
        if (begun && (i > i0) != (k > k0)) /* a word ends in one only */
            return false;
        if (lower((unsigned char)a.p[i]) != lower((unsigned char)b.p[k]))
            return false;
        i++, k++;
    }
}

/* The next run of digits at or after *at, or an empty one. */
static struct cairn_str next_number(struct cairn_str s, size_t *at)
{
    while (*at < s.len && !digit((unsigned char)s.p[*at]))
        ++*at;
    size_t start = *at;
    while (*at < s.len && digit((unsigned char)s.p[*at]))
        ++*at;
    return (struct cairn_str){s.p + start, *at - start};
}

static size_t negations(struct cairn_str s)
{
    static const char *const words[] = {"not",    "no",     "never", "without", "none", "nor",
                                        "cannot", "nicht",  "kein",  "keine",   "ohne", "nie",
                                        "except", "unless", "t",     "neither"};
    size_t n = 0;
    for (size_t at = 0; at < s.len;) {
        size_t start = at;
        while (at < s.len && alnum((unsigned char)s.p[at]))
            at++;
        for (size_t i = 0; at > start && i < sizeof words / sizeof words[0]; i++) {
            size_t len = strlen(words[i]), k = 0;
            while (len == at - start && k < len &&
                   lower((unsigned char)s.p[start + k]) == (unsigned char)words[i][k])
                k++;
            n += len == at - start && k == len;
        }
        at += at == start;
    }
    return n;
}

bool same_facts(struct cairn_str a, struct cairn_str b)
{
    size_t i = 0, k = 0;
    for (;;) {
        struct cairn_str x = next_number(a, &i), y = next_number(b, &k);
        if (x.len != y.len || (x.len && memcmp(x.p, y.p, x.len) != 0))
            return false;
        if (!x.len)
            return negations(a) == negations(b);
    }
}

float cosine(const float *a, const float *b, uint32_t dim)
{
    double ab = 0, aa = 0, bb = 0;
    for (uint32_t i = 0; i < dim; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return aa > 0 && bb > 0 ? (float)(ab / sqrt(aa * bb)) : 0.0f;
}

static bool duplicate(const struct selection *s, const struct copy *a, const struct copy *b)
{
    if (memcmp(&a->hash, &b->hash, sizeof a->hash) == 0 || same_words(a->text, b->text))
        return true;
    return a->vector && b->vector && s->near_duplicate <= 1.0f &&
           cosine(a->vector, b->vector, s->dim) > s->near_duplicate && same_facts(a->text, b->text);
}

static size_t cap_documents(const struct selection *s, struct candidate *c, size_t n,
                            const struct copy *copies)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        const struct cairn_str *id = &copies[c[i].row].document_id;
        size_t same = 0;
        for (size_t k = 0; k < kept && same < s->per_document_max; k++) {
            const struct cairn_str *other = &copies[c[k].row].document_id;
            same += other->len == id->len && memcmp(other->p, id->p, id->len) == 0;
        }
        if (same < s->per_document_max)
            c[kept++] = c[i];
    }
    return kept;
}

/* Duplicates move behind the others, in order; returns how many are none. */
static size_t demote_duplicates(const struct selection *s, struct candidate *c, size_t n,
                                const struct copy *copies, struct candidate *aside)
{
    size_t kept = 0, moved = 0;
    for (size_t i = 0; i < n; i++) {
        bool dup = false;
        for (size_t k = 0; k < kept && k < COMPARED_MAX && !dup; k++)
            dup = duplicate(s, &copies[c[k].row], &copies[c[i].row]);
        if (dup)
            aside[moved++] = c[i];
        else
            c[kept++] = c[i];
    }
    for (size_t i = 0; i < moved; i++) {
        c[kept + i] = aside[i];
        if (kept + i && c[kept + i].score > c[kept + i - 1].score) /* scores fall along the list */
            c[kept + i].score = c[kept + i - 1].score;
    }
    return kept;
}

static void diversify(const struct selection *s, struct candidate *c, size_t n, const struct copy *copies,
                      float *nearest)
{
    float min = INFINITY, max = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        min = c[i].score < min ? c[i].score : min;
        max = c[i].score > max ? c[i].score : max;
        nearest[i] = 0;
    }
    for (size_t at = 0; at < n && at < s->k; at++) {
        size_t best = at;
        float best_value = -INFINITY;
        for (size_t i = at; i < n; i++) {
            float relevance = max > min ? (c[i].score - min) / (max - min) : 1.0f;
            float value = s->mmr_lambda * relevance - (1.0f - s->mmr_lambda) * nearest[i];
            if (value > best_value) {
                best_value = value;
                best = i;
            }
        }
        struct candidate chosen = c[best];
        memmove(c + at + 1, c + at, (best - at) * sizeof(*c));
        memmove(nearest + at + 1, nearest + at, (best - at) * sizeof(*nearest));
        c[at] = chosen;
        const float *v = copies[chosen.row].vector;
        for (size_t i = at + 1; v && i < n; i++) {
            const float *u = copies[c[i].row].vector;
            float near = u ? cosine(u, v, s->dim) : 0.0f;
            nearest[i] = near > nearest[i] ? near : nearest[i];
        }
    }
}

enum cairn_err select_hits(const struct selection *s, struct candidate *c, size_t *n,
                           const struct copy *copies, struct cairn_why *why)
{
    if (*n == 0)
        return CAIRN_OK;
    if (s->per_document_max)
        *n = cap_documents(s, c, *n, copies);
    struct candidate *aside = cairn_reallocarray(NULL, *n, sizeof(*aside));
    float *nearest = cairn_reallocarray(NULL, *n, sizeof(*nearest));
    enum cairn_err err =
        aside && nearest ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "selection of %zu candidates", *n);
    if (!err) {
        size_t unique = demote_duplicates(s, c, *n, copies, aside);
        if (s->mmr_lambda < 1.0f)
            diversify(s, c, unique < MMR_POOL_MAX ? unique : MMR_POOL_MAX, copies, nearest);
        if (*n > s->k)
            *n = s->k;
    }
    cairn_free(aside);
    cairn_free(nearest);
    return err;
}
