/* doubts.c - what is odd about a claim without being proved: flags that say where to look, which the trained
 * forests weigh and which change no verdict by themselves. The proofs of grounding.c ask for more than these
 * do. Against the evidence sentences: those of the best window and those nearly as well covered. */
#include "tokens.h"
#include "words.h"

#include <string.h>

#define NEAR_BEST 0.95f
#define EVIDENCE_MAX 12u
#define COVER_MIN 0.2f
#define REPEATED_MIN 0.5f /* of a negated sentence that the claim repeats without its negation */
#define QUANTITY (WORD_UNIVERSAL | WORD_PARTIAL | WORD_MUST | WORD_MAY)

struct evidence {
    uint32_t s[EVIDENCE_MAX];
    size_t n;
};

/* share: of the confidence that the claim's nearness gives. */
static void doubt(struct finding *d, const char *kind, size_t start, size_t end, float share)
{
    for (size_t i = 0; i < d->n_flags; i++)
        if (strcmp(d->flags[i].kind, kind) == 0 && d->flags[i].start < end && d->flags[i].end > start)
            return;
    if (d->n_flags < GROUND_FLAGS_MAX)
        d->flags[d->n_flags++] = (struct ground_flag){kind, start, end, false, share};
}

static void collect(const struct grounding *g, const struct finding *d, struct evidence *e)
{
    e->n = 0;
    for (uint32_t s = d->lo; s <= d->hi && e->n < EVIDENCE_MAX; s++)
        e->s[e->n++] = s;
    for (size_t i = 0; i < g->n_hit && e->n < EVIDENCE_MAX; i++) {
        uint32_t s = g->hit_list[i];
        if (g->cover[s] >= NEAR_BEST * d->f[GF_COV1] && (s < d->lo || s > d->hi))
            e->s[e->n++] = s;
    }
}

static bool unit_word(struct cairn_str text, const struct gword *w)
{
    static const char list[] =
        " percent degrees degree dollars euros pounds pound ounces ounce inches inch feet "
        "foot miles mile meters metres kilometers km cm mm kg mg g grams gram milligrams "
        "cups cup tablespoons tablespoon tbsp teaspoons teaspoon tsp minutes minute hours "
        "hour days day weeks week months month years year seconds second million billion "
        "thousand trillion calories fahrenheit celsius gallons gallon quarts liters ";
    char low[20] = " ";
    size_t n = w->end - w->start;
    if (n > sizeof low - 3)
        return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)text.p[w->start + i];
        low[1 + i] = (char)(b >= 'A' && b <= 'Z' ? b + 32 : b);
    }
    low[n + 1] = ' ';
    low[n + 2] = '\0';
    return strstr(list, low) != NULL;
}

static struct cairn_str text_at(const struct grounding *g, uint32_t word)
{
    size_t s = 0;
    while (s + 1 < g->n_sources && g->sources[s].w1 <= word)
        s++;
    return g->sources[s].text;
}

/* A number that the sources have, with another unit only. */
static void units(const struct grounding *g, struct cairn_str text, struct finding *d)
{
    const struct claim *c = &g->c;
    for (size_t i = 0; i + 1 < c->n_words; i++) {
        const struct gword *w = &c->words[i], *u = w + 1;
        if (!(w->flags & W_DIGIT) || w->id == NONE || u->start - w->end > 2 || !unit_word(text, u))
            continue;
        bool same = false, other = false;
        unsigned looked = 0;
        for (uint32_t p = g->at_head[w->id]; p != NONE && !same && looked < CHAIN_STEPS_MAX;
             p = g->at_next[p], looked++) {
            if (p + 1 >= g->n_words || (g->words[p + 1].flags & W_SOURCE_START))
                continue;
            same = g->words[p + 1].key == u->key;
            other = other || unit_word(text_at(g, p), &g->words[p + 1]);
        }
        if (!same && other)
            doubt(d, "number", w->start, u->end, 1);
    }
}

/* One word of a name is nowhere. */
static void names(const struct grounding *g, struct finding *d)
{
    const struct claim *c = &g->c;
    for (size_t k = 0; k < c->n_names; k++)
        for (uint32_t i = c->names[k].w0; i < c->names[k].w1; i++) {
            size_t slot = c->word_slot[i] - 1u;
            bool there = ((d->everywhere.b[slot / 64] | d->near.b[slot / 64]) >> (slot % 64)) & 1,
                 asked = !((c->novel.b[slot / 64] >> (slot % 64)) & 1);
            if (!there && !asked && c->names[k].w1 - c->names[k].w0 > 1)
                doubt(d, "name", c->words[i].start, c->words[i].end, 1);
        }
}

static bool sentence_has(const struct grounding *g, uint32_t s, uint8_t classes)
{
    for (uint32_t w = g->sents[s].w0; w < g->sents[s].w1; w++)
        if (g->words[w].classes & classes)
            return true;
    return false;
}

static void negations(const struct grounding *g, const struct evidence *e, struct finding *d)
{
    const struct claim *c = &g->c;
    bool theirs = false, all = true;
    for (size_t k = 0; k < e->n; k++) {
        bool has = sentence_has(g, e->s[k], WORD_NEGATOR | WORD_SOFT_NEGATOR);
        theirs = theirs || has;
        all = all && has;
    }
    bool mine = false;
    for (size_t i = 0; i < c->n_words; i++) {
        bool idle = i + 1 < c->n_words && (c->words[i + 1].classes & WORD_COMPARATIVE);
        if (!(c->words[i].classes & (WORD_NEGATOR | WORD_SOFT_NEGATOR)))
            continue;
        mine = true;
        if (!theirs && (c->words[i].classes & WORD_NEGATOR) && !idle)
            doubt(d, "negation", c->words[i].start, c->words[i].end, 1);
    }
    if (mine || !all || !e->n || d->edit < REPEATED_MIN)
        return;
    for (size_t i = 0; i < c->n_words; i++)
        for (uint32_t w = g->sents[e->s[0]].w0; w < g->sents[e->s[0]].w1; w++)
            if (g->words[w].key == c->words[i].key && (g->words[w].scope & SCOPE_NEGATED)) {
                doubt(d, "negation", c->words[i].start, c->words[i].end, 1);
                return;
            }
}

/* The first content word after w, before `end`. */
static const struct gword *bearer(const struct gword *w, const struct gword *end)
{
    for (size_t k = 1; w + k < end && k <= 3; k++)
        if (w[k].flags & W_CONTENT)
            return &w[k];
    return NULL;
}
/* Does an evidence sentence say another quantifier or modal of what the claim's word i is said of? */
static bool same_bearer(const struct grounding *g, const struct evidence *e, size_t i)
{
    const struct claim *c = &g->c;
    const struct gword *mine = bearer(&c->words[i], c->words + c->n_words);
    for (size_t k = 0; k < e->n && mine; k++) {
        const struct gword *end = g->words + g->sents[e->s[k]].w1;
        for (const struct gword *w = g->words + g->sents[e->s[k]].w0; w < end; w++) {
            const struct gword *theirs = w->classes & QUANTITY ? bearer(w, end) : NULL;
            if (theirs && theirs->key == mine->key)
                return true;
        }
    }
    return false;
}

/* The claim's quantifier or modal stands in no evidence, and one stands there that the claim has not. */
static void quantities(const struct grounding *g, const struct evidence *e, struct finding *d)
{
    const struct claim *c = &g->c;
    bool other = false;
    for (size_t k = 0; k < e->n && !other; k++)
        for (uint32_t w = g->sents[e->s[k]].w0; w < g->sents[e->s[k]].w1 && !other; w++) {
            if (!(g->words[w].classes & QUANTITY))
                continue;
            other = true;
            for (size_t i = 0; i < c->n_words; i++)
                other = other && c->words[i].raw != g->words[w].raw;
        }
    for (size_t i = 0; i < c->n_words && other; i++) {
        if (!(c->words[i].classes & QUANTITY))
            continue;
        bool there = false;
        for (size_t k = 0; k < e->n && !there; k++)
            for (uint32_t w = g->sents[e->s[k]].w0; w < g->sents[e->s[k]].w1 && !there; w++)
                there = g->words[w].raw == c->words[i].raw;
        if (!there)
            doubt(d, "quantifier", c->words[i].start, c->words[i].end, same_bearer(g, e, i) ? 1 : 0.5f);
    }
}

static void opposites(const struct grounding *g, const struct evidence *e, struct finding *d)
{
    const struct claim *c = &g->c;
    for (size_t i = 0; i < c->n_words; i++)
        for (size_t k = 0; k < g->n_opposites; k++) {
            if (g->opposite_keys[k] != c->words[i].key || g->opposite_keys[k ^ 1] == c->words[i].key)
                continue;
            bool mine = false, theirs = false;
            for (size_t q = 0; q < e->n; q++)
                for (uint32_t w = g->sents[e->s[q]].w0; w < g->sents[e->s[q]].w1; w++) {
                    mine = mine || g->words[w].key == c->words[i].key;
                    theirs = theirs || g->words[w].key == g->opposite_keys[k ^ 1];
                }
            for (size_t j = 0; j < c->n_words; j++)
                theirs = theirs && c->words[j].key != g->opposite_keys[k ^ 1];
            if (theirs && !mine)
                doubt(d, "direction", c->words[i].start, c->words[i].end, 1);
        }
}

/* Two names or numbers that stand in one evidence sentence the other way round only. */
static void orders(const struct grounding *g, const struct evidence *e, struct finding *d)
{
    const struct claim *c = &g->c;
    const struct gword *before = NULL;
    for (size_t i = 0; i < c->n_words; i++) {
        const struct gword *w = &c->words[i];
        if (w->id == NONE || !(w->flags & (W_DIGIT | W_CAP)) || !(w->flags & (W_CONTENT | W_DIGIT)) || !i)
            continue;
        if (before && before->id != w->id) {
            bool same = false, reverse = false;
            for (size_t k = 0; k < e->n && !same; k++) {
                uint32_t first_a = NONE, last_b = NONE, first_b = NONE;
                for (uint32_t p = g->sents[e->s[k]].w0; p < g->sents[e->s[k]].w1; p++) {
                    if (g->words[p].id == before->id && first_a == NONE)
                        first_a = p;
                    if (g->words[p].id == w->id) {
                        first_b = first_b == NONE ? p : first_b;
                        last_b = p;
                    }
                }
                if (first_a == NONE || last_b == NONE)
                    continue;
                same = first_a < last_b;
                reverse = reverse || first_b < first_a;
            }
            if (reverse && !same)
                doubt(d, "binding", before->start, w->end, (before->flags & w->flags & W_DIGIT) ? 1 : 0.8f);
        }
        before = w;
    }
}

void doubts_find(const struct grounding *g, struct cairn_str text, struct finding *d)
{
    struct evidence e = {.n = 0};
    size_t proofs = d->n_flags;
    if (!d->verbatim)
        units(g, text, d);
    if (!d->verbatim && g->english && d->lo != NONE && d->f[GF_COV1] >= COVER_MIN) {
        collect(g, d, &e);
        orders(g, &e, d);
    }
    size_t strong = d->n_flags;
    if (!d->verbatim)
        names(g, d);
    if (!d->verbatim && g->english && d->lo != NONE && d->f[GF_COV1] >= COVER_MIN) {
        negations(g, &e, d);
        quantities(g, &e, d);
        opposites(g, &e, d);
    }
    /* One odd word weighs the more the closer the rest keeps to a source. Two anchors that never meet are the
     * weakest sign of all. */
    float near = (d->f[GF_COV2] + d->f[GF_BIGRAM]) / 2;
    for (size_t i = 0; i < d->n_flags; i++) {
        struct ground_flag *f = &d->flags[i];
        bool apart = i < proofs && !f->contradiction && strcmp(f->kind, "binding") == 0;
        float share = i < proofs ? 1 : f->confidence;
        f->confidence = apart ? near / 2 : (i < strong ? 0.5f + near / 2 : near) * share;
    }
}
