/* doubts.c - what is odd about a claim without being proved: flags that say where to look, which the trained
 * forests weigh and which change no verdict by themselves. The proofs of grounding.c ask for more than these
 * do; their flags get their confidence here too.
 *
 * Each doubt is a word (or two) of the claim and what speaks for and against it: does the evidence have
 * anything of the class, does a source read the same but for this word, is the like said elsewhere of the
 * same word, how close the claim is to its evidence at all. One small logistic for each grade of doubt makes
 * a confidence of it. The evidence: the sentences of the best window and those nearly as well covered; what a
 * source reads like is looked up in all that cover half as much (`wide`). */
#include "doubt_weights.h"
#include "tokens.h"
#include "words.h"

#include <math.h>
#include <string.h>

#define NEAR_BEST 0.95f
#define EVIDENCE_MAX 12u
#define WIDE_BEST 0.5f
#define WIDE_MAX 24u
#define COVER_MIN 0.2f
#define BEARER_WORDS 3u /* how far what a word is said of may be */
#define FRAME_WORDS 4u  /* compared on either side */
#define ANCHORS_MAX 12u
#define CONTEXT_WORDS 4u /* beside an anchor, on either side */
#define CONTEXT_REACH 6u /* and how far they may be in a source */
#define PLACES_MAX 24u   /* of an anchor in the sources */
#define PROOF_MIN 0.5f   /* of a source that says otherwise */
#define TOLD_MIN 0.2f
#define QUANTITY (WORD_MUST | WORD_MAY)

struct evidence {
    uint32_t s[EVIDENCE_MAX];
    size_t n;
    uint32_t wide[WIDE_MAX];
    size_t n_wide;
};
struct doubting {
    struct grounding *g;
    const struct claim *c;
    struct cairn_str text;
    const struct finding *d;
    struct evidence e;
    bool about_text, conditional;
};

static void collect(struct doubting *q)
{
    const struct grounding *g = q->g;
    const struct finding *d = q->d;
    struct evidence *e = &q->e;
    if (d->lo == NONE)
        return;
    for (uint32_t s = d->lo; s <= d->hi && e->n < EVIDENCE_MAX; s++)
        e->s[e->n++] = s;
    for (size_t i = 0; i < e->n; i++)
        e->wide[e->n_wide++] = e->s[i];
    for (size_t i = 0; i < g->n_hit; i++) {
        uint32_t s = g->hit_list[i];
        if (s >= d->lo && s <= d->hi)
            continue;
        if (g->cover[s] >= NEAR_BEST * d->f[GF_COV1] && e->n < EVIDENCE_MAX)
            e->s[e->n++] = s;
        if (g->cover[s] >= WIDE_BEST * d->f[GF_COV1] && e->n_wide < WIDE_MAX)
            e->wide[e->n_wide++] = s;
    }
}

/* Is the word in a list " a b c ", case apart? */
static bool listed(struct cairn_str text, const struct gword *w, const char *list)
{
    char low[24] = " ";
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
static bool unit_word(struct cairn_str text, const struct gword *w)
{
    return listed(text, w,
                  " percent degrees degree dollars euros pounds pound ounces ounce inches inch feet "
                  "foot miles mile meters metres kilometers km cm mm kg mg g grams gram milligrams "
                  "cups cup tablespoons tablespoon tbsp teaspoons teaspoon tsp minutes minute hours "
                  "hour days day weeks week months month years year seconds second million billion "
                  "thousand trillion calories fahrenheit celsius gallons gallon quarts liters ");
}
static const char saying[] =
    " mention mentions mentioned provide provides provided specify specifies specified specific specifically "
    "explicit explicitly state states stated discuss discussed address addressed cover covered contain "
    "contained "
    "include included describe described give given exhaustive answer applicable information details clear ";
static const char about_text[] =
    " passage passages source sources document documents context text information "
    "article note question answer based ";

static struct cairn_str text_at(const struct grounding *g, uint32_t word)
{
    size_t s = 0;
    while (s + 1 < g->n_sources && g->sources[s].w1 <= word)
        s++;
    return g->sources[s].text;
}

static struct doubt *doubt(struct doubting *q, enum doubt_grade grade, const char *kind, size_t start,
                           size_t end)
{
    struct grounding *g = q->g;
    if (g->n_doubts == DOUBTS_MAX)
        return NULL;
    struct doubt *o = &g->doubts[g->n_doubts++];
    *o = (struct doubt){.kind = kind, .start = start, .end = end, .grade = (uint8_t)grade};
    o->x[DX_ONE] = 1;
    o->x[DX_COVER] = q->d->f[GF_COV2];
    o->x[DX_PAIRS] = q->d->f[GF_BIGRAM];
    o->x[DX_EDIT] = q->d->edit;
    o->x[DX_ABOUT_TEXT] = q->about_text;
    return o;
}

/* ---- places ---- */

/* Words in common before claim word i and source word p, both excluded, within the source. */
static unsigned left_of(const struct grounding *g, size_t i, uint32_t p)
{
    unsigned n = 0;
    while (n < FRAME_WORDS && n < i && !(g->words[p - n].flags & W_SOURCE_START) && p > n &&
           g->c.words[i - 1 - n].id == g->words[p - 1 - n].id)
        n++;
    return n;
}
/* And from i and p on. */
static unsigned right_from(const struct grounding *g, size_t i, uint32_t p)
{
    unsigned n = 0;
    while (n < FRAME_WORDS && i + n < g->c.n_words && p + n < g->n_words &&
           !(n && (g->words[p + n].flags & W_SOURCE_START)) && g->c.words[i + n].id == g->words[p + n].id)
        n++;
    return n;
}
static float fitting(unsigned left, unsigned right)
{
    return left && right ? (float)(left + right) / (2 * FRAME_WORDS) : 0;
}

/* A source that reads the same without claim words [from, to): *join from both sides, *on the words after
 * alone (where no word of `classes` or of a level stands right before them). */
static void reads_without(const struct doubting *q, size_t from, size_t to, uint8_t classes, float *join,
                          float *on)
{
    const struct grounding *g = q->g;
    *join = *on = 0;
    if (to >= q->c->n_words)
        return;
    for (size_t k = 0; k < q->e.n_wide; k++) {
        const struct gsent *t = &g->sents[q->e.wide[k]];
        for (uint32_t p = t->w0; p < t->w1; p++) {
            if (g->words[p].id != q->c->words[to].id)
                continue;
            unsigned r = right_from(g, to, p), l = left_of(g, from, p);
            *join = fmaxf(*join, fitting(l, r));
            bool other = false;
            for (uint32_t b = p; b > t->w0 && p - b < 2; b--)
                other = other || (g->words[b - 1].classes & classes) || g->words[b - 1].level;
            if (!other)
                *on = fmaxf(*on, (float)r / FRAME_WORDS);
        }
    }
}

/* The first content word after w, before `end`. */
static const struct gword *bearer(const struct gword *w, const struct gword *end)
{
    for (size_t k = 1; w + k < end && k <= BEARER_WORDS; k++)
        if (w[k].flags & W_CONTENT)
            return &w[k];
    return NULL;
}

static bool evidence_has(const struct doubting *q, uint8_t classes)
{
    for (size_t k = 0; k < q->e.n; k++)
        for (uint32_t w = q->g->sents[q->e.s[k]].w0; w < q->g->sents[q->e.s[k]].w1; w++)
            if (q->g->words[w].classes & classes)
                return true;
    return false;
}
static bool evidence_has_key(const struct doubting *q, uint64_t key)
{
    for (size_t k = 0; k < q->e.n; k++)
        for (uint32_t w = q->g->sents[q->e.s[k]].w0; w < q->g->sents[q->e.s[k]].w1; w++)
            if (q->g->words[w].key == key)
                return true;
    return false;
}
/* Has the evidence an opposite of the word, or the word with a negative beginning? */
static bool opposite_there(const struct doubting *q, const struct gword *w)
{
    const struct grounding *g = q->g;
    for (size_t k = 0; k < g->n_opposites; k++)
        if (g->opposite_keys[k] == w->key && evidence_has_key(q, g->opposite_keys[k ^ 1]))
            return true;
    return false;
}

static bool proof_at(const struct finding *d, const char *kind, size_t start, size_t end)
{
    for (size_t i = 0; i < d->n_flags; i++)
        if (strcmp(d->flags[i].kind, kind) == 0 && d->flags[i].start < end && d->flags[i].end > start)
            return true;
    return false;
}
/* Bytes from word i over what it is said of. */
static size_t reach_end(const struct claim *c, size_t i)
{
    size_t e = i + BEARER_WORDS < c->n_words ? i + BEARER_WORDS : c->n_words - 1;
    return c->words[e].end;
}

/* ---- negation ---- */

static float share_with(const struct grounding *g, uint8_t classes)
{
    size_t n = 0;
    for (size_t s = 0; s < g->n_sents; s++)
        for (uint32_t w = g->sents[s].w0; w < g->sents[s].w1; w++)
            if (g->words[w].classes & classes) {
                n++;
                break;
            }
    return g->n_sents ? (float)n / (float)g->n_sents : 0;
}

/* What the sources say of the word that is negated here. */
static void negated_bearer(const struct doubting *q, const struct gword *b, struct doubt *o)
{
    const struct grounding *g = q->g;
    if (!b)
        return;
    o->x[DX_SAYING] = listed(q->text, b, saying);
    o->x[DX_UNKNOWN] = b->id == NONE;
    o->x[DX_OPPOSITE] = opposite_there(q, b);
    if (b->id == NONE)
        return;
    unsigned looked = 0;
    for (uint32_t p = g->at_head[b->id]; p != NONE && looked < CHAIN_STEPS_MAX; p = g->at_next[p], looked++)
        if (g->words[p].scope & SCOPE_NEGATED)
            o->x[DX_SAID] = 1;
    o->x[DX_PLAIN] = !o->x[DX_SAID] && evidence_has_key(q, b->key);
}

/* "not only", "no later than" negate nothing. */
static bool idle(const struct doubting *q, size_t i)
{
    const struct claim *c = q->c;
    const struct gword *w = &c->words[i];
    if (i + 1 >= c->n_words || !(w[1].classes & WORD_COMPARATIVE))
        return false;
    return listed(q->text, &w[1], " only just ") || listed(q->text, w, " no ") ||
           (i + 2 < c->n_words && listed(q->text, &w[2], " than "));
}
static bool asked(const struct grounding *g, uint64_t key)
{
    for (size_t i = 0; i < g->n_question; i++)
        if (g->question_keys[i] == key)
            return true;
    return false;
}
/* "The passage does not mention ...": no source negates what it does not speak of. */
static bool says_what_lacks(const struct doubting *q, size_t i)
{
    const struct gword *b = bearer(&q->c->words[i], q->c->words + q->c->n_words);
    return q->about_text && b && listed(q->text, b, saying);
}

/* It denies a phrase rather than the clause: "without", "but not", ", not". */
static bool aside(const struct doubting *q, size_t i)
{
    const struct gword *w = &q->c->words[i];
    if (listed(q->text, w, " without nor neither "))
        return true;
    return i && (listed(q->text, w - 1, " but or and if ") ||
                 memchr(q->text.p + w[-1].end, ',', w->start - w[-1].end) != NULL);
}

static void negators(struct doubting *q)
{
    const struct claim *c = q->c;
    bool soft = evidence_has(q, WORD_SOFT_NEGATOR), hard = evidence_has(q, WORD_NEGATOR);
    float common = -1;
    for (size_t i = 0; i < c->n_words; i++) {
        const struct gword *w = &c->words[i];
        if (!(w->classes & WORD_NEGATOR) || idle(q, i) || asked(q->g, w->key) || says_what_lacks(q, i))
            continue;
        struct doubt *o = doubt(q, DOUBT_NEGATED, "negation", w->start, w->end);
        if (!o)
            return;
        if (common < 0)
            common = share_with(q->g, WORD_NEGATOR);
        const struct gword *b = bearer(w, c->words + c->n_words);
        negated_bearer(q, b, o);
        o->x[DX_PROOF] = proof_at(q->d, "negation", w->start, reach_end(c, i));
        o->x[DX_ABSENT] = !hard;
        o->x[DX_SOFT] = soft;
        o->x[DX_COMMON] = fminf(1, 3 * common);
        o->x[DX_HEDGED] = q->conditional;
        o->x[DX_ASIDE] = aside(q, i);
        reads_without(q, i, i + 1, WORD_NEGATOR | WORD_SOFT_NEGATOR, &o->x[DX_JOIN], &o->x[DX_READS_ON]);
    }
}

/* The negator before source word p, or NONE. */
static uint32_t negator_before(const struct grounding *g, uint32_t p, uint32_t w0)
{
    for (uint32_t k = p; k > w0 && p - k < 4; k--)
        if (g->words[k - 1].classes & WORD_NEGATOR)
            return k - 1;
    return NONE;
}

static void not_negated_at(struct doubting *q, size_t i, uint32_t s, uint32_t p, bool mine)
{
    const struct grounding *g = q->g;
    const struct claim *c = q->c;
    uint32_t neg = negator_before(g, p, g->sents[s].w0);
    if (neg == NONE)
        return;
    struct doubt *o = doubt(q, DOUBT_NOT_NEGATED, "negation", c->words[i].start, c->words[i].end);
    if (!o)
        return;
    uint32_t gap = p - neg - 1;
    bool same = gap <= i;
    for (uint32_t k = 0; k < gap && same; k++)
        same = c->words[i - 1 - k].id == g->words[p - 1 - k].id;
    if (same)
        o->x[DX_JOIN] = fitting(left_of(g, i - gap, neg), right_from(g, i, p));
    o->x[DX_READS_ON] = (float)right_from(g, i, p) / FRAME_WORDS;
    o->x[DX_COVER] = g->cover[s];
    o->x[DX_PROOF] = proof_at(q->d, "negation", c->words[i].start, c->words[i].end);
    o->x[DX_SOFT] = mine;
    o->x[DX_HEDGED] = q->conditional;
    o->x[DX_OPPOSITE] = opposite_there(q, &c->words[i]);
    for (size_t k = 0; k < q->e.n_wide; k++)
        for (uint32_t w = g->sents[q->e.wide[k]].w0; w < g->sents[q->e.wide[k]].w1; w++)
            if (g->words[w].id == c->words[i].id && !(g->words[w].scope & SCOPE_NEGATED))
                o->x[DX_SAID] = 1;
}

static void not_negated(struct doubting *q)
{
    const struct grounding *g = q->g;
    const struct claim *c = q->c;
    bool mine = false;
    for (size_t i = 0; i < c->n_words; i++)
        mine = mine || (c->words[i].classes & (WORD_NEGATOR | WORD_SOFT_NEGATOR));
    for (size_t i = 0; i < c->n_words; i++) {
        const struct gword *w = &c->words[i];
        if (!(w->flags & W_CONTENT) || w->id == NONE || (w->scope & SCOPE_NEGATED))
            continue;
        bool done = false;
        for (size_t k = 0; k < q->e.n && !done; k++) {
            const struct gsent *t = &g->sents[q->e.s[k]];
            for (uint32_t p = t->w0; p < t->w1 && !done; p++)
                if (g->words[p].id == w->id && (g->words[p].scope & SCOPE_NEGATED)) {
                    not_negated_at(q, i, q->e.s[k], p, mine);
                    done = true;
                }
        }
    }
}

/* ---- quantifiers and modals ---- */

static uint8_t level_at(const struct gword *w, const struct gword *begin, struct cairn_str text)
{
    bool a_few = w->level == LEVEL_FEW && w > begin && listed(text, w - 1, " a ");
    return a_few ? LEVEL_SOME : w->level;
}
static float level_gap(uint8_t a, uint8_t b)
{
    if (a == LEVEL_ONLY || b == LEVEL_ONLY)
        return a == b ? 0 : 0.4f;
    return (float)(a > b ? a - b : b - a) / (LEVEL_ALL - LEVEL_ZERO);
}
/* must and may. "you need to" says what a step is for rather than what is a duty; "has" is mostly a verb of
 * its own. */
static uint8_t modal_at(const struct gword *w, struct cairn_str text)
{
    return listed(text, w, " have has need needs ") ? 0 : w->classes & QUANTITY;
}
static bool claim_has_raw(const struct claim *c, uint32_t raw)
{
    for (size_t i = 0; i < c->n_words; i++)
        if (c->words[i].raw == raw)
            return true;
    return false;
}

/* How far source word p is from claim word i as a quantifier (0: the same, at most 1) or as a modal (0 or 1);
 * below 0: it is none. */
static float apart(const struct doubting *q, size_t i, bool modal, uint32_t p, const struct gsent *t,
                   struct cairn_str text)
{
    const struct gword *w = &q->g->words[p], *begin = q->g->words + t->w0;
    const struct claim *c = q->c;
    if (modal) {
        uint8_t theirs = modal_at(w, text), mine = modal_at(&c->words[i], q->text);
        return !theirs ? -1 : theirs == mine ? 0 : 1;
    }
    if (!w->level)
        return -1;
    return level_gap(level_at(w, begin, text), level_at(&c->words[i], c->words, q->text));
}

static void quantity_at(struct doubting *q, size_t i, bool modal)
{
    const struct grounding *g = q->g;
    const struct claim *c = q->c;
    const struct gword *w = &c->words[i], *mine = bearer(w, c->words + c->n_words);
    struct doubt *o = doubt(q, modal ? DOUBT_MODAL : DOUBT_QUANTIFIER, "quantifier", w->start, w->end);
    if (!o)
        return;
    uint8_t level = level_at(w, c->words, q->text);
    if (modal)
        o->x[DX_MUST] = (w->classes & WORD_MUST) != 0;
    else
        o->x[DX_ZERO + level - LEVEL_ZERO] = 1;
    o->x[DX_AFTER_NOT] = i && (w[-1].classes & WORD_NEGATOR);
    o->x[DX_PROOF] = proof_at(q->d, "quantifier", w->start, reach_end(c, i));
    o->x[DX_HEDGED] = q->conditional;
    o->x[DX_ABSENT] = 1;
    if (mine) {
        o->x[DX_UNKNOWN] = mine->id == NONE;
        o->x[DX_PLAIN] = mine->id != NONE && evidence_has_key(q, mine->key);
        o->x[DX_SAYING] = listed(q->text, mine, saying);
    }
    for (size_t k = 0; k < q->e.n_wide; k++) {
        const struct gsent *t = &g->sents[q->e.wide[k]];
        struct cairn_str text = g->sources[t->source].text;
        bool near = false;
        for (size_t m = 0; m < q->e.n; m++)
            near = near || q->e.s[m] == q->e.wide[k];
        for (uint32_t p = t->w0; p < t->w1; p++) {
            float gap = apart(q, i, modal, p, t, text);
            if (gap < 0)
                continue;
            const struct gword *theirs = bearer(&g->words[p], g->words + t->w1);
            bool bears = mine && theirs && theirs->key == mine->key;
            float fit = fitting(left_of(g, i, p), i + 1 < c->n_words ? right_from(g, i + 1, p + 1) : 0);
            bool like = gap < 0.3f;
            o->x[DX_FRAME] = fmaxf(o->x[DX_FRAME], like ? 0 : fit);
            o->x[DX_FRAME_SAME] = fmaxf(o->x[DX_FRAME_SAME], like ? fit : 0);
            if (like && bears)
                o->x[DX_SAID] = 1;
            if (bears)
                o->x[DX_BEARER_OTHER] = fmaxf(o->x[DX_BEARER_OTHER], gap);
            if (!near)
                continue;
            if (like)
                o->x[DX_ABSENT] = 0;
            if (g->words[p].raw == w->raw)
                o->x[DX_SAME_WORD] = 1;
            else if (!claim_has_raw(c, g->words[p].raw))
                o->x[DX_OTHER] = fmaxf(o->x[DX_OTHER], gap);
        }
    }
    o->x[DX_SOFT] = !modal && level <= LEVEL_FEW && evidence_has(q, WORD_NEGATOR | WORD_SOFT_NEGATOR);
    o->x[DX_SOMEWHERE] = w->id != NONE;
    /* "hardly any" and "not only" are one */
    size_t to = i + 1;
    if (to < c->n_words && listed(q->text, w, " hardly ") && listed(q->text, w + 1, " any "))
        to++;
    reads_without(q, i && listed(q->text, w, " only ") && (w[-1].classes & WORD_NEGATOR) ? i - 1 : i, to,
                  modal ? QUANTITY : WORD_NEGATOR, &o->x[DX_JOIN], &o->x[DX_READS_ON]);
}

static void quantities(struct doubting *q)
{
    const struct claim *c = q->c;
    for (size_t i = 0; i < c->n_words; i++) {
        if (c->words[i].level)
            quantity_at(q, i, false);
        else if (modal_at(&c->words[i], q->text))
            quantity_at(q, i, true);
    }
}

/* ---- opposites ---- */

static void opposites(struct doubting *q)
{
    const struct grounding *g = q->g;
    const struct claim *c = q->c;
    for (size_t i = 0; i < c->n_words; i++)
        for (size_t k = 0; k < g->n_opposites; k++) {
            uint64_t other = g->opposite_keys[k ^ 1];
            if (g->opposite_keys[k] != c->words[i].key || other == c->words[i].key)
                continue;
            bool both = false;
            for (size_t j = 0; j < c->n_words; j++)
                both = both || c->words[j].key == other;
            if (both || evidence_has_key(q, c->words[i].key) || !evidence_has_key(q, other))
                continue;
            struct doubt *o = doubt(q, DOUBT_OPPOSITE, "direction", c->words[i].start, c->words[i].end);
            if (!o)
                return;
            o->x[DX_PROOF] = proof_at(q->d, "direction", c->words[i].start, c->words[i].end);
            o->x[DX_SOMEWHERE] = c->words[i].id != NONE;
            o->x[DX_HEDGED] = (c->words[i].scope & (SCOPE_NEGATED | SCOPE_UNSURE)) != 0;
            for (size_t m = 0; m < q->e.n_wide; m++)
                for (uint32_t p = g->sents[q->e.wide[m]].w0; p < g->sents[q->e.wide[m]].w1; p++)
                    if (g->words[p].key == other) {
                        unsigned l = left_of(g, i, p), r = right_from(g, i + 1, p + 1);
                        o->x[DX_FRAME] = fmaxf(o->x[DX_FRAME], (float)(l + r) / (2 * FRAME_WORDS));
                    }
        }
}

/* ---- values and names ---- */

/* A number that the sources have, with another unit only, or bare and the unit nowhere. */
static void units(struct doubting *q)
{
    const struct grounding *g = q->g;
    const struct claim *c = q->c;
    for (size_t i = 0; i + 1 < c->n_words; i++) {
        const struct gword *w = &c->words[i], *u = w + 1;
        if (!(w->flags & W_DIGIT) || w->id == NONE || u->start - w->end > 2 || !unit_word(q->text, u))
            continue;
        bool same = false, other = false;
        unsigned looked = 0;
        for (uint32_t p = g->at_head[w->id]; p != NONE && !same && looked < CHAIN_STEPS_MAX;
             p = g->at_next[p], looked++)
            for (uint32_t k = 1; k <= BEARER_WORDS && p + k < g->n_words; k++) {
                const struct gword *v = &g->words[p + k];
                if (v->flags & (W_SOURCE_START | W_DIGIT))
                    break;
                if (v->key != u->key && !unit_word(text_at(g, p), v))
                    continue;
                same = v->key == u->key; /* "80 (eighty) years" */
                other = other || !same;
                break;
            }
        struct doubt *o =
            same || (!other && u->id != NONE) ? NULL : doubt(q, DOUBT_UNIT, "number", w->start, u->end);
        if (o)
            o->x[DX_OTHER] = other;
    }
}

/* One word of a name is nowhere. */
static void names(struct doubting *q)
{
    const struct claim *c = q->c;
    const struct finding *d = q->d;
    for (size_t k = 0; k < c->n_names; k++)
        for (uint32_t i = c->names[k].w0; i < c->names[k].w1; i++) {
            size_t slot = c->word_slot[i] - 1u;
            bool there = ((d->everywhere.b[slot / 64] | d->near.b[slot / 64]) >> (slot % 64)) & 1,
                 asked = !((c->novel.b[slot / 64] >> (slot % 64)) & 1);
            if (!there && !asked && c->names[k].w1 - c->names[k].w0 > 1)
                (void)doubt(q, DOUBT_NAME, "name", c->words[i].start, c->words[i].end);
        }
}

/* "passage 2", "step 4", "1." at the start point at a place and state nothing. */
static bool points(const struct doubting *q, size_t i)
{
    const struct gword *w = &q->c->words[i];
    if (!i)
        return w->end < q->text.len && strchr(".):", q->text.p[w->end]) != NULL;
    return listed(q->text, w - 1, " passage passages step steps source sources document documents and ");
}

/* Numbers that the sources have by rounding only, or where they have another one in the same place. */
static void numbers(struct doubting *q)
{
    const struct grounding *g = q->g;
    const struct claim *c = q->c;
    for (size_t i = 0; i < c->n_words; i++) {
        const struct gword *w = &c->words[i];
        if (!(w->flags & W_DIGIT) || points(q, i) || proof_at(q->d, "number", w->start, w->end) ||
            proof_at(q->d, "date", w->start, w->end) || proof_at(q->d, "time", w->start, w->end) ||
            proof_at(q->d, "identifier", w->start, w->end))
            continue;
        float other = 0, same = 0;
        bool near = false;
        for (size_t k = 0; k < q->e.n_wide; k++) {
            const struct gsent *t = &g->sents[q->e.wide[k]];
            for (uint32_t p = t->w0; p < t->w1; p++) {
                if (!(g->words[p].flags & W_DIGIT) && g->words[p].id != w->id)
                    continue;
                unsigned l = left_of(g, i, p), r = i + 1 < c->n_words ? right_from(g, i + 1, p + 1) : 0;
                float fit = (float)(l + r) / (2 * FRAME_WORDS);
                near = near || g->words[p].id == w->id;
                if (g->words[p].id == w->id)
                    same = fmaxf(same, fit);
                else
                    other = fmaxf(other, fit);
            }
        }
        if (near ? other <= same : (w->id != NONE && other <= 0))
            continue;
        struct doubt *o = doubt(q, DOUBT_NUMBER, "number", w->start, w->end);
        if (!o)
            return;
        o->x[DX_FRAME] = other;
        o->x[DX_FRAME_SAME] = same;
        o->x[DX_SAME_WORD] = near;
        o->x[DX_UNKNOWN] = w->id == NONE;
        for (size_t k = 0; k < c->n_typed; k++)
            if (c->typed[k].start < w->end && c->typed[k].end > w->start) {
                o->x[DX_HEDGED] = (c->typed[k].flags & TYPED_APPROX) != 0;
                o->x[DX_SAID] = c->typed_slot[k] && !(c->typed[k].flags & TYPED_APPROX);
            }
    }
}

/* ---- who did what: two anchors exchanged ---- */

enum anchor_kind { NAME_WORDS, WHOLE_NAMES, NUMBERS };
struct anchor { /* claim words [from, to), found in the sources by the last of them */
    size_t from, to, n_places;
    uint32_t place[PLACES_MAX];
};
struct anchors {
    struct anchor a[ANCHORS_MAX];
    size_t n;
};

static bool name_word(const struct doubting *q, size_t i)
{
    const struct gword *w = &q->c->words[i];
    if (!i || (w->flags & (W_CAP | W_CONTENT)) != (W_CAP | W_CONTENT) || (w->flags & W_DIGIT))
        return false;
    uint32_t p = w->start;
    while (p > w[-1].end && strchr(" *\"'(", q->text.p[p - 1]))
        p--;
    return !(p > w[-1].end && strchr(".:!?\n-", q->text.p[p - 1]));
}

static void collect_anchors(const struct doubting *q, enum anchor_kind kind, struct anchors *out)
{
    const struct grounding *g = q->g;
    const struct claim *c = q->c;
    out->n = 0;
    for (size_t i = 0, to; i < c->n_words && out->n < ANCHORS_MAX; i = to) {
        to = i + 1;
        if (!(kind == NUMBERS ? (c->words[i].flags & W_DIGIT) && !points(q, i) : name_word(q, i)))
            continue;
        while (kind == WHOLE_NAMES && to < c->n_words && name_word(q, to) &&
               c->words[to].start == c->words[to - 1].end + 1)
            to++;
        if (c->words[to - 1].id == NONE)
            continue;
        struct anchor *a = &out->a[out->n++];
        a->from = i;
        a->to = to;
        a->n_places = 0;
        for (uint32_t p = g->at_head[c->words[to - 1].id]; p != NONE && a->n_places < PLACES_MAX;
             p = g->at_next[p])
            a->place[a->n_places++] = p;
    }
}

static bool within(size_t i, const struct anchor *a) { return i >= a->from && i < a->to; }

/* Does source word z, m words before (side < 0) or after p, lie in p's source? */
static bool reach(const struct grounding *g, uint32_t p, int side, uint32_t m, uint32_t *z)
{
    if (side < 0 ? p < m : p + m >= g->n_words)
        return false;
    *z = side < 0 ? p - m : p + m;
    return !(g->words[side < 0 ? *z + 1 : *z].flags & W_SOURCE_START);
}

/* How near source place p has the word: best on the side where the claim has it. */
static float nearness(const struct grounding *g, uint32_t p, int side, uint32_t id)
{
    float got = 0;
    for (int where = -1; where <= 1; where += 2) {
        uint32_t z;
        for (uint32_t m = 1; m <= CONTEXT_REACH && reach(g, p, where, m, &z); m++)
            if (g->words[z].id == id)
                got = fmaxf(got, (where == side ? 1 : 0.5f) * (1 - 0.1f * (float)m));
    }
    return got;
}

/* How well the claim's words around `at` (but for those of `other`) are those around one of the places of
 * `what`. The nearer on both sides the more. */
static float context(const struct doubting *q, const struct anchor *at, const struct anchor *other,
                     const struct anchor *what)
{
    const struct claim *c = q->c;
    float best = 0;
    for (size_t k = 0; k < what->n_places; k++) {
        float sum = 0;
        for (int side = -1; side <= 1; side += 2) {
            unsigned used = 0;
            size_t j = side < 0 ? at->from : at->to - 1;
            while (used < CONTEXT_WORDS && (side < 0 ? j > 0 : j + 1 < c->n_words)) {
                j = side < 0 ? j - 1 : j + 1;
                const struct gword *w = &c->words[j];
                if (!(w->flags & (W_CONTENT | W_DIGIT)) || within(j, other))
                    continue;
                used++;
                if (w->id != NONE)
                    sum += nearness(q->g, what->place[k], side, w->id) / (float)used;
            }
        }
        best = fmaxf(best, sum);
    }
    return best;
}

/* How many of the two neighbours of `at` in the claim, `other` standing where `at` did if they are exchanged,
 * are neighbours of `what` at its places. */
static int neighbours(const struct doubting *q, const struct anchor *at, const struct anchor *other,
                      const struct anchor *what)
{
    const struct grounding *g = q->g;
    const struct claim *c = q->c;
    bool left = false, right = false;
    for (size_t k = 0; k < what->n_places; k++) {
        uint32_t p = what->place[k], z, first = p;
        for (size_t i = what->to - 1;
             i > what->from && reach(g, first, -1, 1, &z) && g->words[z].id == c->words[i - 1].id; i--)
            first = z;
        if (at->from && reach(g, first, -1, 1, &z)) {
            size_t j = within(at->from - 1, other) && what == other ? at->to - 1 : at->from - 1;
            left = left || c->words[j].id == g->words[z].id;
        }
        if (at->to < c->n_words && reach(g, p, 1, 1, &z)) {
            size_t j = within(at->to, other) && what == other ? at->from : at->to;
            right = right || c->words[j].id == g->words[z].id;
        }
    }
    return left + right;
}

/* An evidence sentence has b before a, and none has a before b. */
static bool reversed(const struct doubting *q, uint32_t a, uint32_t b)
{
    const struct grounding *g = q->g;
    bool reverse = false;
    for (size_t k = 0; k < q->e.n; k++) {
        uint32_t first_a = NONE, last_b = NONE, first_b = NONE;
        for (uint32_t p = g->sents[q->e.s[k]].w0; p < g->sents[q->e.s[k]].w1; p++) {
            if (g->words[p].id == a && first_a == NONE)
                first_a = p;
            if (g->words[p].id == b) {
                first_b = first_b == NONE ? p : first_b;
                last_b = p;
            }
        }
        if (first_a == NONE || last_b == NONE)
            continue;
        if (first_a < last_b)
            return false;
        reverse = reverse || first_b < first_a;
    }
    return reverse;
}

static bool joined(const struct doubting *q, size_t from, size_t to)
{
    for (size_t j = from; j < to; j++)
        if (!listed(q->text, &q->c->words[j], " and or ") && !(q->c->words[j].flags & (W_CAP | W_DIGIT)))
            return false;
    return from < to;
}

/* Would each stand better where the other does? */
static void exchanged(struct doubting *q, enum anchor_kind kind)
{
    const struct claim *c = q->c;
    struct anchors all;
    collect_anchors(q, kind, &all);
    for (size_t i = 0; i < all.n; i++)
        for (size_t k = i + 1; k < all.n; k++) {
            const struct anchor *a = &all.a[i], *b = &all.a[k];
            uint32_t id_a = c->words[a->to - 1].id, id_b = c->words[b->to - 1].id;
            if (id_a == id_b || (kind == WHOLE_NAMES && a->to - a->from < 2 && b->to - b->from < 2))
                continue;
            float own = context(q, a, b, a) + context(q, b, a, b),
                  other = context(q, a, b, b) + context(q, b, a, a);
            int pairs = neighbours(q, a, b, a) + neighbours(q, b, a, b),
                swapped = neighbours(q, a, b, b) + neighbours(q, b, a, a);
            bool reverse = reversed(q, id_a, id_b);
            if (other <= own && swapped <= pairs && !reverse)
                continue;
            struct doubt *o =
                doubt(q, DOUBT_EXCHANGED, "binding", c->words[a->from].start, c->words[b->to - 1].end);
            if (!o)
                return;
            o->x[DX_GAIN] = fmaxf(0, fminf(1, 0.5f + (other - own) / 6));
            o->x[DX_PAIR_GAIN] = 0.5f + (float)(swapped - pairs) / 8;
            o->x[DX_OWN] = fminf(1, own / 6);
            o->x[DX_SAID] = (float)pairs / 4;
            o->x[DX_REVERSED] = reverse;
            o->x[DX_JOINED] = joined(q, a->to, b->from);
            o->x[DX_DIGITS] = kind == NUMBERS;
        }
}

/* ---- from doubts to flags ---- */

static void of_proofs(struct doubting *q)
{
    const struct finding *d = q->d;
    for (size_t i = 0; i < d->n_flags; i++) {
        const struct ground_flag *f = &d->flags[i];
        bool binding = strcmp(f->kind, "binding") == 0, opposed = strcmp(f->kind, "negation") == 0 ||
                                                                  strcmp(f->kind, "quantifier") == 0 ||
                                                                  strcmp(f->kind, "direction") == 0;
        if (opposed)
            continue;
        struct doubt *o = doubt(q,
                                binding ? f->contradiction ? DOUBT_DISPLACED : DOUBT_APART
                                : strcmp(f->kind, "name") == 0 ? DOUBT_NAME
                                                               : DOUBT_VALUE,
                                f->kind, f->start, f->end);
        if (!o)
            return;
        o->x[DX_PROOF] = 1;
        o->x[DX_CONTRADICTED] = f->contradiction;
    }
}

static float weighed(const struct doubt *o)
{
    float z = 0;
    for (size_t i = 0; i < DX_N; i++)
        z += doubt_weights[o->grade][i] * o->x[i];
    return 1 / (1 + expf(-z));
}

static bool overlaps(const struct ground_flag *f, const struct doubt *o)
{
    return strcmp(f->kind, o->kind) == 0 && f->start < o->end && f->end > o->start;
}

/* The flags of proofs stay and take the confidence of the doubt about the same place, or about what is said
 * of it; then the surest doubts about other places. */
static void tell(const struct doubting *q, struct finding *d)
{
    struct grounding *g = q->g;
    for (size_t k = 0; k < d->n_flags; k++) {
        struct ground_flag *f = &d->flags[k];
        float best = -1;
        for (size_t i = 0; i < g->n_doubts; i++)
            if (overlaps(f, &g->doubts[i]) || (strcmp(f->kind, g->doubts[i].kind) == 0 &&
                                               g->doubts[i].end <= f->start && g->doubts[i].x[DX_PROOF] > 0))
                best = fmaxf(best, g->doubts[i].confidence);
        f->confidence = best < 0 || (f->contradiction && best < PROOF_MIN) ? PROOF_MIN : best;
    }
    bool used[DOUBTS_MAX] = {0};
    while (d->n_flags < GROUND_FLAGS_MAX) {
        size_t best = DOUBTS_MAX;
        for (size_t i = 0; i < g->n_doubts; i++)
            if (!used[i] && (best == DOUBTS_MAX || g->doubts[i].confidence > g->doubts[best].confidence))
                best = i;
        if (best == DOUBTS_MAX || g->doubts[best].confidence < TOLD_MIN)
            return;
        used[best] = true;
        const struct doubt *o = &g->doubts[best];
        bool there = false;
        for (size_t k = 0; k < d->n_flags; k++)
            there = there || overlaps(&d->flags[k], o);
        if (!there)
            d->flags[d->n_flags++] = (struct ground_flag){o->kind, o->start, o->end, false, o->confidence};
    }
}

void doubts_find(struct grounding *g, struct cairn_str text, struct finding *d)
{
    struct doubting q = {.g = g, .c = &g->c, .text = text, .d = d};
    g->n_doubts = 0;
    if (d->verbatim) { /* nothing is odd about a copy */
        size_t n = 0;
        for (size_t i = 0; i < d->n_flags; i++)
            if (strcmp(d->flags[i].kind, "verbatim") == 0)
                d->flags[n++] = d->flags[i];
        d->n_flags = n;
        return;
    }
    for (size_t i = 0; i < g->c.n_words; i++) {
        q.about_text = q.about_text || listed(text, &g->c.words[i], about_text);
        q.conditional = q.conditional || listed(text, &g->c.words[i], " if unless whether ");
    }
    of_proofs(&q);
    units(&q);
    names(&q);
    if (g->english) {
        collect(&q);
        negators(&q);
        quantities(&q);
    }
    if (g->english && d->lo != NONE && d->f[GF_COV1] >= COVER_MIN) {
        numbers(&q);
        not_negated(&q);
        opposites(&q);
        exchanged(&q, NAME_WORDS);
        exchanged(&q, WHOLE_NAMES);
        exchanged(&q, NUMBERS);
    }
    for (size_t i = 0; i < g->n_doubts; i++)
        g->doubts[i].confidence = weighed(&g->doubts[i]);
    static const uint8_t feature[DOUBT_N] = {
        [DOUBT_VALUE] = GF_DOUBT_VALUE,         [DOUBT_NUMBER] = GF_DOUBT_VALUE,
        [DOUBT_UNIT] = GF_DOUBT_VALUE,          [DOUBT_NAME] = GF_DOUBT_NAME,
        [DOUBT_NEGATED] = GF_DOUBT_NEGATION,    [DOUBT_NOT_NEGATED] = GF_DOUBT_NEGATION,
        [DOUBT_QUANTIFIER] = GF_DOUBT_QUANTITY, [DOUBT_MODAL] = GF_DOUBT_QUANTITY,
        [DOUBT_OPPOSITE] = GF_DOUBT_OPPOSITE,   [DOUBT_EXCHANGED] = GF_DOUBT_BINDING,
        [DOUBT_DISPLACED] = GF_DOUBT_BINDING,   [DOUBT_APART] = GF_DOUBT_BINDING,
    };
    for (size_t i = 0; i < g->n_doubts; i++) {
        float *f = &d->f[feature[g->doubts[i].grade]];
        *f = fmaxf(*f, g->doubts[i].confidence);
    }
    tell(&q, d);
}

const struct doubt *grounding_doubts(const struct grounding *g, size_t *n)
{
    *n = g->n_doubts;
    return g->doubts;
}
