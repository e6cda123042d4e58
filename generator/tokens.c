/* tokens.c - features of words, sentences and texts for the combiner. They are of three kinds: how the word
 * is found in the sources (alone, in a copied run, beside its neighbours), how the sentence around it is
 * covered, and what the proofs of grounding.c say there. Nothing here allocates. */
#include "tokens.h"
#include "words.h"

#include <math.h>
#include <string.h>

#define RUN_MAX 8u
#define RUN_STEPS_MAX 2048u /* occurrences of one word looked at */
#define WINDOW 3

static uint8_t count_byte(size_t n, size_t step) { return n * step > 255 ? 255 : (uint8_t)(n * step); }
static uint8_t share_byte(size_t part, size_t of) { return (uint8_t)(of ? part * 255 / of : 0); }
static uint8_t bit_byte(bool b) { return b ? 255 : 0; }

static bool has(const struct set *s, size_t i) { return (s->b[i / 64] >> (i % 64)) & 1; }

/* Lower-case beginning of a sentence, list marks left out. */
static void opening_of(struct cairn_str text, size_t start, size_t end, char out[64])
{
    size_t n = 0;
    while (start < end && !((text.p[start] >= 'A' && text.p[start] <= 'Z') ||
                            (text.p[start] >= 'a' && text.p[start] <= 'z')))
        start++;
    for (; start < end && n < 63; start++)
        out[n++] = (char)(text.p[start] >= 'A' && text.p[start] <= 'Z' ? text.p[start] + 32 : text.p[start]);
    out[n] = '\0';
}
static bool opens_aside(const char *s)
{
    static const char *const list[] = {
        "overall",        "in summary",     "in conclusion", "additionally", "it is imp",  "it is worth",
        "it's important", "however",        "note",          "please",       "remember",   "based on",
        "therefore",      "ultimately",     "by following",  "in general",   "it is also", "it's worth",
        "keep in mind",   "furthermore",    "in addition",   "it's also",    "if you",     "as a result",
        "this can",       "this will help", "by ",           "always"};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (strncmp(s, list[i], strlen(list[i])) == 0)
            return true;
    return false;
}
static bool list_item(struct cairn_str text, size_t start, size_t end)
{
    while (start < end && (text.p[start] == ' ' || text.p[start] == '\n'))
        start++;
    if (start < end && (text.p[start] == '-' || text.p[start] == '*' ||
                        (end - start > 2 && memcmp(text.p + start, "\xE2\x80\xA2", 3) == 0)))
        return true;
    size_t d = start;
    while (d < end && text.p[d] >= '0' && text.p[d] <= '9')
        d++;
    return d > start && d < end && d - start <= 2 && (text.p[d] == '.' || text.p[d] == ')');
}
static bool speaks_of_passages(struct cairn_str text, size_t start, size_t end)
{
    for (size_t i = start; i + 7 <= end; i++)
        if ((text.p[i] | 32) == 'p' && memcmp(text.p + i + 1, "assage", 6) == 0)
            return true;
    return false;
}

/* Copied runs of stems. run[p] is the length of the run that ends at source word p and at the present word of
 * the claim; occurrences are walked from the last, so that run[p - 1] is still the previous word's. */
static void copied(struct grounding *g, uint8_t *cover, uint8_t *left, uint8_t *right)
{
    const struct claim *c = &g->c;
    memset(cover, 0, c->n_words);
    memset(left, 0, c->n_words);
    memset(right, 0, c->n_words);
    for (size_t i = 0; i < c->n_words; i++) {
        uint32_t step = ++g->step;
        if (c->words[i].id == NONE)
            continue;
        uint8_t best = 0;
        unsigned looked = 0;
        for (uint32_t p = g->at_head[c->words[i].id]; p != NONE && looked < RUN_STEPS_MAX;
             p = g->at_next[p], looked++) {
            uint8_t run = 1;
            if (i && p && !(g->words[p].flags & W_SOURCE_START) && g->run_step[p - 1] == step - 1)
                run = (uint8_t)(g->run[p - 1] + (g->run[p - 1] < RUN_MAX));
            g->run[p] = run;
            g->run_step[p] = step;
            best = run > best ? run : best;
        }
        left[i] = best;
        for (uint8_t m = 1; m <= best; m++) {
            size_t k = i + 1 - m;
            cover[k] = cover[k] > best ? cover[k] : best;
            right[k] = right[k] > m ? right[k] : m;
        }
    }
}

struct words_read {
    uint16_t slot[GROUND_CLAIM_WORDS_MAX]; /* slot + 1 of the word or of the value around it */
    bool content[GROUND_CLAIM_WORDS_MAX], novel[GROUND_CLAIM_WORDS_MAX];
};

static void read_words(const struct grounding *g, const struct finding *d, struct words_read *r)
{
    const struct claim *c = &g->c;
    for (size_t i = 0; i < c->n_words; i++) {
        const struct gword *w = &c->words[i];
        r->slot[i] = c->word_slot[i];
        for (size_t k = 0; k < c->n_typed && !r->slot[i]; k++)
            if (c->typed_slot[k] && w->start < c->typed[k].end && w->end > c->typed[k].start)
                r->slot[i] = c->typed_slot[k];
        r->content[i] = (w->flags & W_CONTENT) != 0;
        r->novel[i] = r->content[i] && (r->slot[i] ? !has(&d->everywhere, r->slot[i] - 1u) : w->id == NONE);
    }
}

/* Does one source sentence have both? 1 yes, 0 no, 128 when there is nothing to ask. */
static uint8_t together(const struct grounding *g, const struct words_read *r, size_t n, size_t i, int side)
{
    if (!r->content[i] || !r->slot[i])
        return 128;
    size_t k = i;
    do {
        if (side < 0 ? k == 0 : k + 1 >= n)
            return 128;
        k = side < 0 ? k - 1 : k + 1;
    } while (!r->content[k] || !r->slot[k]);
    size_t a = r->slot[i] - 1u, b = r->slot[k] - 1u;
    for (size_t s = 0; s < g->n_hit; s++)
        if (has(&g->hit[g->hit_list[s]], a) && has(&g->hit[g->hit_list[s]], b))
            return 255;
    return 0;
}

/* Largest share of the content words around i that one source sentence has. */
static uint8_t window_share(const struct grounding *g, const struct words_read *r, size_t n, size_t i)
{
    uint16_t list[2 * WINDOW + 1];
    size_t m = 0, best = 0;
    int left = 0;
    for (size_t k = i + 1; k-- > 0 && left <= WINDOW;)
        if (r->content[k] && r->slot[k]) {
            list[m++] = (uint16_t)(r->slot[k] - 1u);
            left++;
        }
    int right = 0;
    for (size_t k = i + 1; k < n && right < WINDOW && m < 2 * WINDOW + 1; k++)
        if (r->content[k] && r->slot[k]) {
            list[m++] = (uint16_t)(r->slot[k] - 1u);
            right++;
        }
    for (size_t s = 0; s < g->n_hit && best < m; s++) {
        const struct set *h = &g->hit[g->hit_list[s]];
        size_t got = 0;
        for (size_t k = 0; k < m; k++)
            got += has(h, list[k]);
        best = got > best ? got : best;
    }
    return share_byte(best, m);
}

/* Is the doubt about this word? Of two that are exchanged it is about each, not about what lies between. */
static bool about(const struct doubt *o, const struct gword *w)
{
    if (o->grade == DOUBT_EXCHANGED)
        return w->start == o->start || w->end == o->end;
    return o->start < w->end && o->end > w->start;
}
static const uint8_t token_of[DOUBT_N] = {
    [DOUBT_VALUE] = TF_VALUE,         [DOUBT_NUMBER] = TF_VALUE,      [DOUBT_UNIT] = TF_VALUE,
    [DOUBT_NAME] = TF_NAME,           [DOUBT_NEGATED] = TF_POLARITY,  [DOUBT_NOT_NEGATED] = TF_POLARITY,
    [DOUBT_QUANTIFIER] = TF_POLARITY, [DOUBT_MODAL] = TF_POLARITY,    [DOUBT_OPPOSITE] = TF_POLARITY,
    [DOUBT_EXCHANGED] = TF_BINDING,   [DOUBT_DISPLACED] = TF_BINDING, [DOUBT_APART] = TF_BINDING,
};

void tokens_read(struct grounding *g, struct cairn_str text, size_t start, size_t end,
                 const struct finding *d, uint8_t (*x)[TF_N])
{
    const struct claim *c = &g->c;
    size_t n = c->n_words;
    uint8_t cover[GROUND_CLAIM_WORDS_MAX], left[GROUND_CLAIM_WORDS_MAX], right[GROUND_CLAIM_WORDS_MAX];
    struct words_read r;
    copied(g, cover, left, right);
    read_words(g, d, &r);
    size_t contents = 0, novel = 0;
    uint8_t top = 0, rarity[GROUND_CLAIM_WORDS_MAX];
    for (size_t i = 0; i < n; i++) {
        rarity[i] = g->combiner ? combiner_rarity(g->combiner, c->words[i].key) : 0;
        contents += r.content[i];
        novel += r.novel[i];
        top = r.novel[i] && rarity[i] > top ? rarity[i] : top;
    }
    char opening[64];
    opening_of(text, start, end, opening);
    bool question = end > start && text.p[end - 1] == '?';
    struct cairn_str sentence = {text.p + start, end - start};
    uint8_t shared[TF_N] = {
        [TF_COVER] = to_byte(d->f[GF_COV2]),
        [TF_SOURCE_COVER] = to_byte(d->f[GF_CTX]),
        [TF_PAIRS] = to_byte(d->f[GF_BIGRAM]),
        [TF_POSITION] = to_byte((float)start / ((float)start + 500)),
        [TF_WORDS] = count_byte(n, 4),
        [TF_N_NOVEL] = count_byte(novel, 12),
        [TF_NOVEL_SHARE] = share_byte(novel, contents),
        [TF_OPENING] = bit_byte(opens_aside(opening)),
        [TF_REFUSAL] = bit_byte(grounding_is_refusal(sentence)),
        [TF_PASSAGE] = bit_byte(speaks_of_passages(text, start, end)),
        [TF_LIST] = bit_byte(list_item(text, start, end)),
        [TF_QUESTION] = bit_byte(question),
        [TF_TOP_RARITY] = top,
        [TF_ANY_VALUE] = bit_byte(d->f[GF_NUM] > 0 || d->f[GF_QUOTE] > 0 || d->f[GF_CONFLICT] > 0),
        [TF_ANY_NAME] = bit_byte(d->f[GF_NAME] > 0),
        [TF_ANY_POLARITY] = bit_byte(d->f[GF_POLARITY] > 0 || d->f[GF_QUANT] > 0 || d->f[GF_DIRECTION] > 0),
    };
    unsigned run = 0;
    for (size_t i = 0; i < n; i++) {
        const struct gword *w = &c->words[i];
        uint8_t *o = x[i];
        memcpy(o, shared, TF_N);
        bool there = r.slot[i] ? has(&d->everywhere, r.slot[i] - 1u) : w->id != NONE;
        o[TF_IN_SOURCE] = bit_byte(there);
        o[TF_IN_QUESTION] = bit_byte(r.slot[i] && c->word_slot[i] && !has(&c->novel, r.slot[i] - 1u));
        o[TF_FUNCTION] = bit_byte(!r.content[i]);
        o[TF_DIGIT] = bit_byte((w->flags & W_DIGIT) != 0);
        o[TF_CAP] = bit_byte((w->flags & W_CAP) && i);
        o[TF_RUN] = cover[i];
        o[TF_RUN_LEFT] = left[i];
        o[TF_RUN_RIGHT] = right[i];
        o[TF_RARITY] = rarity[i];
        o[TF_NOVEL_RARITY] = r.novel[i] ? rarity[i] : 0;
        o[TF_IDF] = w->id == NONE ? 255 : to_byte(g->idf[w->id] / 8);
        o[TF_IN_BEST] = r.content[i] ? 0 : 128;
        for (uint32_t s = d->lo; r.slot[i] && d->lo != NONE && s <= d->hi; s++)
            if (has(&g->hit[s], r.slot[i] - 1u))
                o[TF_IN_BEST] = 255;
        size_t c2 = 0, n2 = 0, c5 = 0, n5 = 0;
        for (size_t k = i > 5 ? i - 5 : 0; k < n && k <= i + 5; k++) {
            bool two = k + 2 >= i && k <= i + 2;
            c5 += r.content[k];
            n5 += r.novel[k];
            c2 += two && r.content[k];
            n2 += two && r.novel[k];
        }
        o[TF_NOVEL_2] = share_byte(n2, c2);
        o[TF_NOVEL_5] = share_byte(n5, c5);
        o[TF_WITH_PREVIOUS] = together(g, &r, n, i, -1);
        o[TF_WITH_NEXT] = together(g, &r, n, i, 1);
        o[TF_WINDOW] = window_share(g, &r, n, i);
        o[TF_PLACE] = n > 1 ? share_byte(i, n - 1) : 0;
        o[TF_BEGINNING] = bit_byte(there || (c->word_slot[i] && has(&d->near, c->word_slot[i] - 1u)));
        o[TF_PREVIOUS_NOVEL] = bit_byte(i && r.novel[i - 1]);
        o[TF_NEXT_NOVEL] = bit_byte(i + 1 < n && r.novel[i + 1]);
        run = there ? 0 : run + 1;
        o[TF_NOVEL_RUN] = count_byte(run, 16);
        for (size_t k = 0; k < g->n_doubts; k++)
            if (about(&g->doubts[k], w)) {
                uint8_t *to = &o[token_of[g->doubts[k].grade]], sure = to_byte(g->doubts[k].confidence);
                *to = *to > sure ? *to : sure;
            }
    }
}

/* Mean of the k words with the highest chance, from a count of words by chance. */
static uint8_t top_mean(const uint32_t at_p[256], uint32_t k, uint32_t n)
{
    uint32_t left = k < n ? k : n, sum = 0;
    for (uint32_t p = 256, take = left; p-- > 0 && take;) {
        uint32_t m = at_p[p] < take ? at_p[p] : take;
        sum += m * p;
        take -= m;
    }
    return (uint8_t)(left ? sum / left : 0);
}
static uint32_t p_byte(int32_t margin)
{
    int32_t p = logistic_16(margin) >> 8;
    return p > 255 ? 255 : (uint32_t)p;
}
/* Largest mean over five neighbouring words; at the ends the last one counts again. */
static uint32_t smooth_max(const int32_t *margin, size_t n)
{
    uint32_t best = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t sum = 0;
        for (int k = -2; k <= 2; k++) {
            size_t at = i + (size_t)(k + 2) < 2 ? 0 : i + (size_t)(k + 2) - 2;
            sum += p_byte(margin[at < n ? at : n - 1]);
        }
        best = sum > best ? sum : best;
    }
    return best / 5;
}

void claim_features(const uint8_t f[GF_N], bool claim, size_t n, const int32_t *margin, const uint8_t *x,
                    uint8_t out[CF_N])
{
    uint32_t at_p[256] = {0}, sum = 0, over = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t p = p_byte(margin[i]);
        at_p[p]++;
        sum += p;
        over += p >= 128;
    }
    memcpy(out, f, GF_N);
    out[CF_MAX] = top_mean(at_p, 1, (uint32_t)n);
    out[CF_SMOOTH] = (uint8_t)smooth_max(margin, n);
    out[CF_TOP3] = top_mean(at_p, 3, (uint32_t)n);
    out[CF_TOP8] = top_mean(at_p, 8, (uint32_t)n);
    out[CF_MEAN] = (uint8_t)(n ? sum / n : 0);
    out[CF_SHARE] = share_byte(over, n);
    out[CF_COUNT] = count_byte(over, 10);
    out[CF_WORDS] = count_byte(n, 4);
    out[CF_CLAIM] = bit_byte(claim);
    static const struct {
        uint8_t to, from;
    } copy[] = {
        {CF_REFUSAL,     TF_REFUSAL    },
        {CF_QUESTION,    TF_QUESTION   },
        {CF_OPENING,     TF_OPENING    },
        {CF_PASSAGE,     TF_PASSAGE    },
        {CF_LIST,        TF_LIST       },
        {CF_TOP_RARITY,  TF_TOP_RARITY },
        {CF_NOVEL_SHARE, TF_NOVEL_SHARE},
        {CF_POSITION,    TF_POSITION   },
    };
    for (size_t k = 0; k < sizeof copy / sizeof *copy; k++)
        out[copy[k].to] = x ? x[copy[k].from] : 0;
}

/* On texts that the forest never saw the hand is the better guide, and a sure doubt says what both miss: one
 * changed word in a claim that is close to its source. A doubt counts by the fourth power of its confidence,
 * so that only a sure one does. The parts were weighed with half 1 of RAGTruth-QA in sight (docs/quality.md).
 */
int32_t claim_margin(int32_t by_hand, int32_t forest, const uint8_t x[CF_N])
{
    static const struct {
        uint8_t from;
        int32_t weight;
    } doubts[] = {
        {GF_DOUBT_VALUE,    32768},
        {GF_DOUBT_NAME,     16384},
        {GF_DOUBT_OPPOSITE, 32768},
        {GF_DOUBT_BINDING,  65536}
    };
    int64_t sum = (int64_t)by_hand * 3 / 4 + forest / 2;
    for (size_t i = 0; i < sizeof doubts / sizeof *doubts; i++) {
        int64_t d = x[doubts[i].from];
        sum += d * d * d * d * doubts[i].weight / (255LL * 255 * 255 * 255);
    }
    return (int32_t)sum;
}

int32_t text_margin(int32_t by_hand, int32_t forest) { return by_hand + forest / 2; }

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }
static uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

void text_add(struct text_sums *t, const uint8_t x[CF_N], int32_t by_hand, int32_t chance, size_t n_words,
              const int32_t *margin)
{
    uint32_t claim_p = chance >> 8 > 255 ? 255 : (uint32_t)chance >> 8;
    if (!t->n_sentences)
        t->min_cov = t->min_ctx = t->min_pairs = 255;
    t->n_sentences++;
    t->n_words += (uint32_t)n_words;
    for (size_t i = 0; i < n_words; i++)
        t->at_p[p_byte(margin[i])]++;
    t->max_p = larger(t->max_p, x[CF_MAX]);
    t->max_smooth = larger(t->max_smooth, x[CF_SMOOTH]);
    t->max_mean = larger(t->max_mean, x[CF_MEAN]);
    t->n_weak += x[CF_MEAN] > 76;
    t->refusals += x[CF_REFUSAL] > 0;
    t->questions += x[CF_QUESTION] > 0;
    if (!x[CF_CLAIM])
        return;
    if (!t->n_claims)
        t->first_claim = claim_p;
    t->max_margin = !t->n_claims || by_hand > t->max_margin ? by_hand : t->max_margin;
    t->last_claim = claim_p;
    t->n_claims++;
    t->n_flagged += claim_p >= 128;
    t->max_claim = larger(t->max_claim, claim_p);
    t->sum_claim += claim_p;
    t->min_cov = smaller(t->min_cov, x[GF_COV2]);
    t->sum_cov += x[GF_COV2];
    t->min_ctx = smaller(t->min_ctx, x[GF_CTX]);
    t->min_pairs = smaller(t->min_pairs, x[GF_BIGRAM]);
    t->sum_pairs += x[GF_BIGRAM];
    t->max_rarity = larger(t->max_rarity, x[CF_TOP_RARITY]);
    t->max_novel = larger(t->max_novel, x[CF_NOVEL_SHARE]);
    t->sum_novel += x[CF_NOVEL_SHARE];
    t->values += x[GF_NUM] > 0 || x[GF_QUOTE] > 0 || x[GF_CONFLICT] > 0;
    t->names += x[GF_NAME] > 0;
    t->polarity += x[GF_POLARITY] > 0 || x[GF_QUANT] > 0 || x[GF_DIRECTION] > 0 || x[GF_SWAPPED] > 0;
}

void text_features(const struct text_sums *t, uint8_t out[AF_N])
{
    uint32_t claims = t->n_claims ? t->n_claims : 1, over = 0, sum = 0;
    for (uint32_t p = 0; p < 256; p++) {
        over += p >= 128 ? t->at_p[p] : 0;
        sum += p * t->at_p[p];
    }
    const uint32_t v[AF_N] = {
        [AF_MAX] = t->max_p,
        [AF_SMOOTH] = t->max_smooth,
        [AF_TOP5] = top_mean(t->at_p, 5, t->n_words),
        [AF_TOP15] = top_mean(t->at_p, 15, t->n_words),
        [AF_MEAN] = t->n_words ? sum / t->n_words : 0,
        [AF_COUNT] = over * 3,
        [AF_MAX_MEAN] = t->max_mean,
        [AF_MAX_CLAIM] = t->max_claim,
        [AF_MEAN_CLAIM] = t->sum_claim / claims,
        [AF_FLAGGED] = t->n_flagged * 12,
        [AF_WEAK] = t->n_weak * 12,
        [AF_MIN_COVER] = t->min_cov,
        [AF_MEAN_COVER] = t->sum_cov / claims,
        [AF_MIN_SOURCE_COVER] = t->min_ctx,
        [AF_MIN_PAIRS] = t->min_pairs,
        [AF_MEAN_PAIRS] = t->sum_pairs / claims,
        [AF_TOP_RARITY] = t->max_rarity,
        [AF_MAX_NOVEL] = t->max_novel,
        [AF_NOVEL] = t->sum_novel / claims,
        [AF_VALUES] = t->values * 20,
        [AF_NAMES] = t->names * 20,
        [AF_POLARITY] = t->polarity * 20,
        [AF_REFUSALS] = t->refusals * 40,
        [AF_QUESTIONS] = t->questions * 40,
        [AF_WORDS] = t->n_words / 2,
        [AF_SENTENCES] = t->n_sentences * 8,
        [AF_CLAIMS] = t->n_claims * 8,
        [AF_CLAIM_SHARE] = t->n_sentences ? t->n_claims * 255 / t->n_sentences : 0,
        [AF_FIRST] = t->first_claim,
        [AF_LAST] = t->last_claim,
    };
    for (size_t k = 0; k < AF_N; k++)
        out[k] = (uint8_t)(v[k] > 255 ? 255 : v[k]);
}
