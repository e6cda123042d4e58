/* eval/train.c - `cairn train grounding`: fits the checker's combiner (generator/combiner.h) to judged sets.
 *
 * Three forests on top of each other: of words, of sentences, of texts. What an upper one learns from must
 * look like what it will see, so the words of a fold are always scored by a forest that did not see that
 * fold; and what is reported on a fold comes from forests none of which saw it. With folds 0..4 that takes a
 * word forest for every pair of folds left out, which the pool fits side by side: each fit is alone on its
 * thread, so the number of threads changes nothing.
 *
 * Words are positive under people's marks. In a set without marks the words of a clean text are negative and
 * those of a bad one are left out. A sentence that makes a claim is positive when a word of it is marked; in
 * a set without marks all claims of a clean text are negative, and a bad text is used when it makes a single
 * claim, because nobody said which sentence is bad. Each set weighs the same; among sentences, and among
 * texts without --style, both classes of a set do too, so that 0.5 is the balanced cut-off: a set's own share
 * of bad texts says nothing about the next one's.
 *
 * Support may only count for support (the tables of meaning below). What is style rather than support -
 * position, length, lists, openings, and means and counts over a text, which say something else of one
 * sentence than of ten - is used only with --style: it helps on texts of the kind it was learned from and on
 * no other. */
#include "edits.h"
#include "forest_fit.h"
#include "ground_set.h"

#include "../generator/combiner.h"
#include "../generator/tokens.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SETS_MAX 8u
#define NO_FOLD GM_FOLDS
#define UNKNOWN 2u
#define SET_MASS ((int64_t)1 << 26)

struct word_rows {
    uint8_t *x; /* [n] of TF_N */
    uint8_t *label, *fold, *set;
    int32_t *margin[GM_FOLDS + 1]; /* by the fold held out besides the row's own */
    size_t n, cap;
};
struct claim_row {
    uint8_t f[GF_N], label, set, fold;
    bool claim;
    uint32_t first, n;
    int32_t by_hand;
};
struct text_row {
    uint32_t first, n;
    uint8_t label, set, fold;
};
struct corpus {
    struct ground_set sets[SETS_MAX];
    size_t n_sets;
    struct word_rows w;
    struct claim_row *claims;
    size_t n_claims, cap_claims;
    struct text_row *texts;
    size_t n_texts, cap_texts;
    struct ground_combiner *words; /* a combiner that has the table of common words alone */
};

#define S 3 /* style: 0 with --style, else not used */
static const int8_t token_meaning[TF_N] = {
    [TF_IN_SOURCE] = -1,    [TF_IN_QUESTION] = 0,  [TF_FUNCTION] = 0,   [TF_DIGIT] = 0,
    [TF_CAP] = 0,           [TF_RUN] = -1,         [TF_RUN_LEFT] = -1,  [TF_RUN_RIGHT] = -1,
    [TF_RARITY] = 0,        [TF_NOVEL_RARITY] = 0, [TF_IDF] = 0,        [TF_COVER] = -1,
    [TF_IN_BEST] = 0,       [TF_SOURCE_COVER] = 0, [TF_NOVEL_2] = 1,    [TF_NOVEL_5] = 1,
    [TF_WITH_PREVIOUS] = 0, [TF_WITH_NEXT] = 0,    [TF_WINDOW] = -1,    [TF_POSITION] = S,
    [TF_PLACE] = S,         [TF_WORDS] = S,        [TF_N_NOVEL] = 1,    [TF_NOVEL_SHARE] = 1,
    [TF_PAIRS] = -1,        [TF_OPENING] = S,      [TF_REFUSAL] = 0,    [TF_PASSAGE] = S,
    [TF_LIST] = S,          [TF_QUESTION] = 0,     [TF_BEGINNING] = -1, [TF_PREVIOUS_NOVEL] = 0,
    [TF_NEXT_NOVEL] = 0,    [TF_NOVEL_RUN] = 1,    [TF_TOP_RARITY] = 0, [TF_VALUE] = 1,
    [TF_NAME] = 1,          [TF_POLARITY] = 1,     [TF_BINDING] = 1,    [TF_ANY_VALUE] = 1,
    [TF_ANY_NAME] = 1,      [TF_ANY_POLARITY] = 1,
};
static const int8_t claim_meaning[CF_N] = {
    [GF_COV1] = -1,          [GF_COV2] = -1,         [GF_CTX] = -1,           [GF_NOVEL] = -1,
    [GF_BIGRAM] = -1,        [GF_RUN3] = -1,         [GF_RUN8] = -1,          [GF_UNC_MAX] = 1,
    [GF_UNC_N] = 1,          [GF_NUM] = 1,           [GF_NUM_AWAY] = 1,       [GF_CONFLICT] = 1,
    [GF_NAME] = 1,           [GF_QUOTE] = 1,         [GF_POLARITY] = 1,       [GF_QUANT] = 1,
    [GF_DIRECTION] = 1,      [GF_BINDING] = 1,       [GF_SWAPPED] = 1,        [GF_LENGTH] = 0,
    [GF_DOUBT_VALUE] = 1,    [GF_DOUBT_NAME] = 1,    [GF_DOUBT_NEGATION] = 1, [GF_DOUBT_QUANTITY] = 1,
    [GF_DOUBT_OPPOSITE] = 1, [GF_DOUBT_BINDING] = 1, [GF_COSINE] = 2,         [CF_MAX] = 1,
    [CF_SMOOTH] = 1,         [CF_TOP3] = 1,          [CF_TOP8] = 1,           [CF_MEAN] = 1,
    [CF_SHARE] = 1,          [CF_COUNT] = 1,         [CF_WORDS] = S,          [CF_CLAIM] = 2,
    [CF_REFUSAL] = 0,        [CF_QUESTION] = 0,      [CF_OPENING] = S,        [CF_PASSAGE] = S,
    [CF_LIST] = S,           [CF_TOP_RARITY] = 0,    [CF_NOVEL_SHARE] = 1,    [CF_POSITION] = S,
};
static const int8_t text_meaning[AF_N] = {
    [AF_MAX] = 1,        [AF_SMOOTH] = 1,
    [AF_TOP5] = 1,       [AF_TOP15] = S,
    [AF_MEAN] = S,       [AF_COUNT] = S,
    [AF_MAX_MEAN] = 1,   [AF_MAX_CLAIM] = 1,
    [AF_MEAN_CLAIM] = S, [AF_FLAGGED] = S,
    [AF_WEAK] = S,       [AF_MIN_COVER] = -1,
    [AF_MEAN_COVER] = S, [AF_MIN_SOURCE_COVER] = -1,
    [AF_MIN_PAIRS] = -1, [AF_MEAN_PAIRS] = S,
    [AF_TOP_RARITY] = 0, [AF_MAX_NOVEL] = 1,
    [AF_NOVEL] = S,      [AF_VALUES] = 1,
    [AF_NAMES] = 1,      [AF_POLARITY] = 1,
    [AF_REFUSALS] = 0,   [AF_QUESTIONS] = 0,
    [AF_WORDS] = S,      [AF_SENTENCES] = S,
    [AF_CLAIMS] = S,     [AF_CLAIM_SHARE] = 0,
    [AF_FIRST] = S,      [AF_LAST] = S,
};
#undef S

static void meanings(int8_t *out, const int8_t *table, size_t n, bool style)
{
    for (size_t i = 0; i < n; i++)
        out[i] = table[i] == 3 ? (style ? 0 : 2) : table[i];
}

/* ---- reading ---- */

static enum cairn_err corpus_grow(struct corpus *c, size_t words, struct cairn_why *why)
{
    struct word_rows *w = &c->w;
    size_t need = w->n + words;
    if (need > w->cap) {
        size_t cap = w->cap ? w->cap : 4096;
        while (cap < need)
            cap *= 2;
        uint8_t *x = cairn_reallocarray(w->x, cap, TF_N);
        w->x = x ? x : w->x;
        uint8_t *l = cairn_reallocarray(w->label, cap, 1);
        w->label = l ? l : w->label;
        uint8_t *f = cairn_reallocarray(w->fold, cap, 1);
        w->fold = f ? f : w->fold;
        uint8_t *s = cairn_reallocarray(w->set, cap, 1);
        w->set = s ? s : w->set;
        if (!x || !l || !f || !s)
            return cairn_fail(why, CAIRN_ENOMEM, "rows of %zu words", cap);
        w->cap = cap;
    }
    if (!eval_grow((void **)&c->claims, &c->cap_claims, c->n_claims + 1, sizeof *c->claims) ||
        !eval_grow((void **)&c->texts, &c->cap_texts, c->n_texts + 1, sizeof *c->texts))
        return cairn_fail(why, CAIRN_ENOMEM, "rows");
    return CAIRN_OK;
}

static void corpus_release(struct corpus *c)
{
    for (size_t i = 0; i < c->n_sets; i++)
        ground_set_release(&c->sets[i]);
    cairn_free(c->w.x);
    cairn_free(c->w.label);
    cairn_free(c->w.fold);
    cairn_free(c->w.set);
    for (size_t k = 0; k <= GM_FOLDS; k++)
        cairn_free(c->w.margin[k]);
    cairn_free(c->claims);
    cairn_free(c->texts);
    ground_combiner_close(c->words);
}

/* Rows of one sentence. marks are in code points: *byte and *point say how far the text has been counted. */
static enum cairn_err add_sentence(struct corpus *c, const struct judged_text *t, bool spans, uint8_t set,
                                   uint8_t fold, const struct ground_words *r, struct cairn_span at,
                                   const bool *on, struct cairn_why *why)
{
    enum cairn_err err = corpus_grow(c, r->n, why);
    if (err)
        return err;
    struct claim_row *row = &c->claims[c->n_claims++];
    *row = (struct claim_row){.set = set,
                              .fold = fold,
                              .claim = r->claim,
                              .first = (uint32_t)c->w.n,
                              .n = (uint32_t)r->n,
                              .by_hand = r->by_hand};
    memcpy(row->f, r->f, GF_N);
    bool any = false;
    for (size_t b = at.start; b < at.end; b++)
        any = any || on[b];
    for (size_t i = 0; i < r->n; i++) {
        bool marked = false;
        for (size_t b = r->spans[2 * i]; b < r->spans[2 * i + 1]; b++)
            marked = marked || on[b];
        size_t w = c->w.n++;
        memcpy(c->w.x + w * TF_N, r->x + i * TF_N, TF_N);
        c->w.label[w] = spans ? marked : t->positive ? UNKNOWN : 0;
        c->w.fold[w] = fold;
        c->w.set[w] = set;
    }
    row->label = spans ? any : t->positive;
    return CAIRN_OK;
}

static enum cairn_err read_set(struct corpus *c, uint8_t set, const uint8_t *fold, struct cairn_why *why)
{
    const struct ground_set *s = &c->sets[set];
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < s->n_texts && !err; i++) {
        const struct judged_text *t = &s->texts[i];
        struct cairn_str text = cairn_str_of(t->text);
        struct grounding *g = NULL;
        if ((err = cairn_stopped(&run_stop, why)) != CAIRN_OK)
            break;
        size_t n = cairn_sentences(text, NULL, 0), first = c->n_claims, claims = 0;
        struct cairn_span *spans = cairn_reallocarray(NULL, n ? n : 1, sizeof *spans);
        bool *on = cairn_calloc(text.len + 1, sizeof *on);
        if (!spans || !on)
            err = cairn_fail(why, CAIRN_ENOMEM, "sentences");
        else
            err = ground_set_open(&g, s, i, t->source, c->words, why);
        if (!err) {
            (void)cairn_sentences(text, spans, n);
            (void)marks_unite(t, on, text.len);
        }
        for (size_t k = 0; k < n && !err; k++) {
            struct ground_words r;
            err = grounding_words(g, text, spans[k].start, spans[k].end, &r, why);
            if (!err)
                err = add_sentence(c, t, s->has_spans || s->marks_are_changes, set, fold[t->source], &r,
                                   spans[k], on, why);
            claims += !err && r.claim;
        }
        grounding_close(g);
        cairn_free(spans);
        cairn_free(on);
        if (err)
            break;
        for (size_t k = first; k < c->n_claims; k++)
            if (!c->claims[k].claim || (!s->has_spans && !s->marks_are_changes && t->positive && claims > 1))
                c->claims[k].label = UNKNOWN;
        if (!eval_grow((void **)&c->texts, &c->cap_texts, c->n_texts + 1, sizeof *c->texts))
            return cairn_fail(why, CAIRN_ENOMEM, "rows");
        c->texts[c->n_texts++] = (struct text_row){.first = (uint32_t)first,
                                                   .n = (uint32_t)(c->n_claims - first),
                                                   .label = t->positive,
                                                   .set = set,
                                                   .fold = fold[t->source]};
    }
    return err;
}

/* ---- the table of common words: the stems in most sources, over all sets ---- */

struct count {
    uint64_t key;
    uint32_t n, last;
};
static int by_count(const void *a, const void *b)
{
    const struct count *x = a, *y = b;
    if (x->n != y->n)
        return x->n > y->n ? -1 : 1;
    return (x->key > y->key) - (x->key < y->key);
}
struct hash_level {
    uint32_t word, level;
};
static int by_word(const void *a, const void *b)
{
    const struct hash_level *x = a, *y = b;
    if (x->word != y->word)
        return x->word < y->word ? -1 : 1;
    return (x->level > y->level) - (x->level < y->level);
}

static enum cairn_err common_words(struct corpus *c, struct cairn_why *why)
{
    size_t cap = 1u << 16, n = 0;
    uint32_t source = 0;
    struct count *t = cairn_calloc(cap, sizeof *t);
    struct cairn_analyzer *a = NULL;
    c->words = cairn_calloc(1, sizeof *c->words);
    enum cairn_err err = t && c->words ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "table of common words");
    if (!err)
        err = cairn_analyzer_open(
            &a, &(struct cairn_analyzer_opts){.language = "english", .keep_stopwords = true}, why);
    for (size_t s = 0; s < c->n_sets && !err; s++)
        for (size_t i = 0; i < c->sets[s].n_sources && !err; i++, source++)
            for (size_t k = 0; k < c->sets[s].sources[i].n && !err; k++) {
                const struct cairn_word *w;
                size_t m;
                err = cairn_analyze(a, cairn_str_of(c->sets[s].sources[i].pieces[k]), &w, &m, why);
                for (size_t j = 0; j < m && !err; j++) {
                    uint64_t key = grounding_word_key(w[j].text);
                    size_t at = (size_t)key & (cap - 1);
                    while (t[at].n && t[at].key != key)
                        at = (at + 1) & (cap - 1);
                    if (t[at].n && t[at].last == source)
                        continue;
                    n += t[at].n == 0;
                    t[at] = (struct count){key, t[at].n + 1, source};
                    if (2 * n < cap)
                        continue;
                    struct count *old = t;
                    t = cairn_calloc(2 * cap, sizeof *t);
                    if (!t) {
                        t = old;
                        err = cairn_fail(why, CAIRN_ENOMEM, "table of common words");
                        break;
                    }
                    for (size_t q = 0; q < cap; q++) {
                        if (!old[q].n)
                            continue;
                        size_t to = (size_t)old[q].key & (2 * cap - 1);
                        while (t[to].n)
                            to = (to + 1) & (2 * cap - 1);
                        t[to] = old[q];
                    }
                    cairn_free(old);
                    cap *= 2;
                }
            }
    cairn_analyzer_close(a);
    if (!err) {
        qsort(t, cap, sizeof *t, by_count);
        size_t keep = n < COMBINER_WORDS_MAX ? n : COMBINER_WORDS_MAX;
        struct hash_level list[COMBINER_WORDS_MAX];
        for (size_t i = 0; i < keep; i++)
            list[i] = (struct hash_level){(uint32_t)t[i].key, (uint32_t)i};
        qsort(list, keep, sizeof *list, by_word);
        for (size_t i = 0; i < keep; i++) {
            c->words->word[i] = list[i].word;
            c->words->level[i] = list[i].level;
        }
        c->words->n_words = (uint32_t)keep;
    }
    cairn_free(t);
    return err;
}

/* ---- fitting ---- */

/* Equal mass a set, and with `classes` a class of it too; left out are unknown rows and the folds. */
static void weigh(int32_t *weight, const uint8_t *label, const uint8_t *set, const uint8_t *fold, size_t n,
                  uint8_t out_a, uint8_t out_b, bool classes)
{
    int64_t count[SETS_MAX][2] = {{0}};
    for (size_t i = 0; i < n; i++)
        if (label[i] != UNKNOWN && fold[i] != out_a && fold[i] != out_b)
            count[set[i]][classes ? label[i] : 0]++;
    int64_t most = 1;
    for (size_t i = 0; i < n; i++) {
        bool in = label[i] != UNKNOWN && fold[i] != out_a && fold[i] != out_b;
        int64_t v = in ? SET_MASS / count[set[i]][classes ? label[i] : 0] : 0;
        most = v > most ? v : most;
        weight[i] = (int32_t)v;
    }
    for (size_t i = 0; i < n; i++) { /* at most 2^15, and never lost to rounding */
        if (weight[i] && most > 32767)
            weight[i] = (int32_t)((int64_t)weight[i] * 32767 / most);
        weight[i] = weight[i] || label[i] == UNKNOWN || fold[i] == out_a || fold[i] == out_b ? weight[i] : 1;
    }
}

struct word_fits {
    struct corpus *c;
    const struct options *o;
    struct forest out[GM_FOLDS + 1][GM_FOLDS + 1];
    uint8_t pair[(GM_FOLDS + 1) * (GM_FOLDS + 2) / 2][2];
    struct cairn_why why[(GM_FOLDS + 1) * (GM_FOLDS + 2) / 2];
    enum cairn_err err[(GM_FOLDS + 1) * (GM_FOLDS + 2) / 2];
    int8_t meaning[TF_N];
};

static void fit_words(void *ctx, size_t begin, size_t end, unsigned worker)
{
    struct word_fits *f = ctx;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const struct word_rows *w = &f->c->w;
        uint8_t a = f->pair[i][0], b = f->pair[i][1];
        int32_t *weight = cairn_reallocarray(NULL, w->n ? w->n : 1, sizeof *weight);
        f->err[i] = weight ? cairn_stopped(&run_stop, &f->why[i])
                           : cairn_fail(&f->why[i], CAIRN_ENOMEM, "weights of %zu words", w->n);
        if (!f->err[i]) {
            weigh(weight, w->label, w->set, w->fold, w->n, a, b, false);
            f->err[i] =
                forest_fit(&f->out[a][b], &(struct fit_rows){w->x, w->n, TF_N, w->label, weight, NULL},
                           &(struct fit_opts){.depth = 5,
                                              .rounds = 160,
                                              .rate = 6,
                                              .sample = 8,
                                              .seed = f->o->seed,
                                              .meaning = f->meaning,
                                              .lambda = 1,
                                              .side = 1},
                           &f->why[i]);
        }
        cairn_free(weight);
    }
}

static const struct forest *words_without(const struct word_fits *f, uint8_t a, uint8_t b)
{
    return a < b ? &f->out[a][b] : &f->out[b][a];
}

struct margins_job {
    struct corpus *c;
    const struct word_fits *f;
};
static void word_margins(void *ctx, size_t begin, size_t end, unsigned worker)
{
    struct margins_job *m = ctx;
    struct word_rows *w = &m->c->w;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        for (uint8_t k = 0; k <= GM_FOLDS; k++)
            w->margin[k][i] = forest_margin(words_without(m->f, w->fold[i], w->fold[i] == k ? NO_FOLD : k),
                                            w->x + i * TF_N);
}

/* Rising shares of positives by margin, pooled where they would fall, thinned to what the file holds. */
struct scored {
    int32_t margin;
    int32_t weight;
    uint8_t positive;
};
static int by_margin(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->margin != y->margin)
        return x->margin < y->margin ? -1 : 1;
    return (int)x->positive - (int)y->positive;
}
struct pooled {
    int64_t weight, hits, margin; /* margin: weighted sum */
};
static enum cairn_err calibrate(struct calibration *out, struct scored *s, size_t n, struct cairn_why *why)
{
    struct pooled *p = cairn_reallocarray(NULL, n ? n : 1, sizeof *p);
    int64_t all = 0, least;
    size_t m = 0;
    if (!p)
        return cairn_fail(why, CAIRN_ENOMEM, "calibration of %zu rows", n);
    qsort(s, n, sizeof *s, by_margin);
    for (size_t i = 0; i < n; i++)
        all += s[i].weight;
    /* a pool of less than a fortieth of the mass says little: neighbours join before the pooling */
    least = all / 40;
    for (size_t i = 0; i < n; i++) {
        if (!m || p[m - 1].weight >= least)
            p[m++] = (struct pooled){0};
        p[m - 1].weight += s[i].weight;
        p[m - 1].hits += s[i].positive ? s[i].weight : 0;
        p[m - 1].margin += (int64_t)s[i].margin * s[i].weight;
    }
    size_t k = 0;
    for (size_t i = 0; i < m; i++) {
        p[k++] = p[i];
        while (k > 1 &&
               (__int128)p[k - 1].hits * p[k - 2].weight < (__int128)p[k - 2].hits * p[k - 1].weight) {
            p[k - 2].weight += p[k - 1].weight;
            p[k - 2].hits += p[k - 1].hits;
            p[k - 2].margin += p[k - 1].margin;
            k--;
        }
    }
    out->n = 0;
    for (size_t i = 0; i < k && out->n < CALIBRATION_MAX; i++) {
        if (!p[i].weight)
            continue;
        /* one row more of either class: a pool of one class is not certain */
        int64_t one = all / (int64_t)(n ? n : 1) + 1;
        out->margin[out->n] = (int32_t)(p[i].margin / p[i].weight);
        out->p[out->n] = (int32_t)((__int128)(p[i].hits + one) * 65536 / (p[i].weight + 2 * one));
        if (out->n && out->p[out->n] < out->p[out->n - 1])
            out->p[out->n] = out->p[out->n - 1];
        out->n++;
    }
    cairn_free(p);
    return CAIRN_OK;
}

/* The upper two forests for held-out fold k; NO_FOLD: for the model that is written. */
static enum cairn_err fit_upper(struct ground_combiner *m, const struct corpus *c, const struct options *o,
                                uint8_t k, struct cairn_why *why)
{
    size_t nc = c->n_claims, nt = c->n_texts;
    uint8_t *cx = cairn_calloc(nc + 1, CF_N), *label = cairn_calloc(nc + nt + 1, 1),
            *set = cairn_calloc(nc + nt + 1, 1), *fold = cairn_calloc(nc + nt + 1, 1),
            *tx = cairn_calloc(nt + 1, AF_N);
    int32_t *weight = cairn_calloc(nc + nt + 1, sizeof *weight),
            *margin = cairn_calloc(nc + 1, sizeof *margin),
            *offset = cairn_calloc(nc + nt + 1, sizeof *offset);
    struct scored *scored = cairn_calloc(nc + nt + 1, sizeof *scored);
    enum cairn_err err = cx && label && set && fold && tx && weight && margin && offset && scored
                             ? CAIRN_OK
                             : cairn_fail(why, CAIRN_ENOMEM, "rows of %zu sentences", nc);
    int8_t claims_mean[CF_N], texts_mean[AF_N];
    meanings(claims_mean, claim_meaning, CF_N, o->both);
    meanings(texts_mean, text_meaning, AF_N, o->both);
    const struct fit_opts claim_opts = {.depth = 3,
                                        .rounds = 100,
                                        .rate = 6,
                                        .sample = 12,
                                        .seed = o->seed,
                                        .meaning = claims_mean,
                                        .lambda = 8,
                                        .side = 16},
                          text_opts = {.depth = 2,
                                       .rounds = 150,
                                       .rate = 5,
                                       .sample = 12,
                                       .seed = o->seed,
                                       .meaning = texts_mean,
                                       .lambda = 16,
                                       .side = 64};
    for (size_t i = 0; i < nc && !err; i++) {
        const struct claim_row *r = &c->claims[i];
        label[i] = r->label;
        set[i] = r->set;
        fold[i] = r->fold;
        offset[i] = r->by_hand / 2;
        claim_features(r->f, r->claim, r->n, c->w.margin[k] + r->first,
                       r->n ? c->w.x + (size_t)r->first * TF_N : NULL, cx + i * CF_N);
    }
    /* j = k: the forest that is kept; the others score what it will be calibrated on */
    for (uint8_t j = 0; j <= GM_FOLDS && !err; j++) {
        struct forest f = {0};
        if (j == GM_FOLDS && k != NO_FOLD)
            continue;
        weigh(weight, label, set, fold, nc, j, k, true);
        err = forest_fit(&f, &(struct fit_rows){cx, nc, CF_N, label, weight, offset}, &claim_opts, why);
        for (size_t i = 0; i < nc && !err; i++)
            if (fold[i] == j && j != k)
                margin[i] =
                    claim_margin(c->claims[i].by_hand, forest_margin(&f, cx + i * CF_N), cx + i * CF_N);
        if (j == k)
            m->forest[FOREST_CLAIMS] = f;
    }
    if (!err) {
        size_t n = 0;
        weigh(weight, label, set, fold, nc, k, k, true);
        for (size_t i = 0; i < nc; i++)
            if (weight[i])
                scored[n++] = (struct scored){margin[i], weight[i], label[i]};
        err = calibrate(&m->calibration[FOREST_CLAIMS], scored, n, why);
    }
    for (size_t i = 0; i < nt && !err; i++) {
        const struct text_row *t = &c->texts[i];
        struct text_sums sums = {0};
        label[i] = t->label;
        set[i] = t->set;
        fold[i] = t->fold;
        for (size_t q = t->first; q < t->first + t->n; q++) {
            const struct claim_row *r = &c->claims[q];
            int32_t p = calibrated_16(&m->calibration[FOREST_CLAIMS], margin[q]);
            text_add(&sums, cx + q * CF_N, r->by_hand, p, r->n, c->w.margin[k] + r->first);
        }
        /* fitted on top of half of what the weakest claim says by hand; text_margin counts it by half again
         */
        offset[i] = sums.max_margin / 2;
        if (!sums.n_claims && sums.refusals)
            label[i] = UNKNOWN; /* never asked of the forest */
        text_features(&sums, tx + i * AF_N);
    }
    size_t n = 0;
    for (uint8_t j = 0; j <= GM_FOLDS && !err; j++) {
        struct forest f = {0};
        if (j == GM_FOLDS && k != NO_FOLD)
            continue;
        weigh(weight, label, set, fold, nt, j, k, !o->both);
        err = forest_fit(&f, &(struct fit_rows){tx, nt, AF_N, label, weight, offset}, &text_opts, why);
        for (size_t i = 0; i < nt && !err; i++)
            if (fold[i] == j && j != k && label[i] != UNKNOWN)
                scored[n++] = (struct scored){text_margin(2 * offset[i], forest_margin(&f, tx + i * AF_N)), 0,
                                              label[i]};
        if (j == k)
            m->forest[FOREST_TEXTS] = f;
    }
    if (!err) {
        /* each set its own share of the mass, as in the fit */
        weigh(weight, label, set, fold, nt, k, k, !o->both);
        size_t at = 0;
        for (uint8_t j = 0; j < GM_FOLDS; j++)
            for (size_t i = 0; i < nt && j != k; i++)
                if (fold[i] == j && label[i] != UNKNOWN)
                    scored[at++].weight = weight[i];
        err = calibrate(&m->calibration[FOREST_TEXTS], scored, n, why);
    }
    cairn_free(cx);
    cairn_free(label);
    cairn_free(set);
    cairn_free(fold);
    cairn_free(tx);
    cairn_free(weight);
    cairn_free(margin);
    cairn_free(offset);
    cairn_free(scored);
    return err;
}

struct upper_fits {
    const struct corpus *c;
    const struct options *o;
    struct ground_combiner **models;
    enum cairn_err err[GM_FOLDS + 1];
    struct cairn_why why[GM_FOLDS + 1];
};
static void fit_uppers(void *ctx, size_t begin, size_t end, unsigned worker)
{
    struct upper_fits *u = ctx;
    (void)worker;
    for (size_t k = begin; k < end; k++)
        u->err[k] = fit_upper(u->models[k], u->c, u->o, (uint8_t)k, &u->why[k]);
}

/* Models without fold 0..4, and the sixth of everything. */
static enum cairn_err fit_all(struct ground_combiner *models[GM_FOLDS + 1], struct corpus *c,
                              const struct options *o, struct cairn_why *why)
{
    struct cairn_pool *pool = NULL;
    struct word_fits *f = cairn_calloc(1, sizeof *f);
    struct upper_fits *u = cairn_calloc(1, sizeof *u);
    size_t n = 0;
    enum cairn_err err =
        f && u ? cairn_pool_open(&pool, (unsigned)o->threads, why) : cairn_fail(why, CAIRN_ENOMEM, "fits");
    if (err)
        goto done;
    f->c = c;
    f->o = o;
    meanings(f->meaning, token_meaning, TF_N, o->both);
    for (uint8_t a = 0; a <= GM_FOLDS; a++)
        for (uint8_t b = a; b <= GM_FOLDS; b++)
            if (a < b || a == NO_FOLD) {
                f->pair[n][0] = a;
                f->pair[n++][1] = b;
            }
    cairn_pool_run(pool, n, 1, fit_words, f);
    for (size_t i = 0; i < n && !err; i++)
        err = f->err[i] ? cairn_wrap(why, f->err[i], "%s", f->why[i].text) : CAIRN_OK;
    for (size_t k = 0; k <= GM_FOLDS && !err; k++) {
        models[k] = cairn_calloc(1, sizeof *models[k]);
        c->w.margin[k] = cairn_reallocarray(NULL, c->w.n ? c->w.n : 1, sizeof **c->w.margin);
        if (!models[k] || !c->w.margin[k])
            err = cairn_fail(why, CAIRN_ENOMEM, "margins of %zu words", c->w.n);
    }
    if (err)
        goto done;
    cairn_pool_run(pool, c->w.n, 4096, word_margins, &(struct margins_job){c, f});
    u->c = c;
    u->o = o;
    u->models = models;
    cairn_pool_run(pool, GM_FOLDS + 1, 1, fit_uppers, u);
    for (size_t k = 0; k <= GM_FOLDS && !err; k++) {
        err = u->err[k] ? cairn_wrap(why, u->err[k], "%s", u->why[k].text) : CAIRN_OK;
        models[k]->word_spans = c->sets[0].has_spans;
        models[k]->n_words = c->words->n_words;
        memcpy(models[k]->word, c->words->word, sizeof c->words->word);
        memcpy(models[k]->level, c->words->level, sizeof c->words->level);
        models[k]->forest[FOREST_TOKENS] = f->out[k][NO_FOLD];
    }
done:
    cairn_free(f);
    cairn_free(u);
    cairn_pool_close(pool);
    return err;
}

/* ---- the command ---- */

static const struct option_row rows_help[] = {
    {"set",   "DIR",                                                                  "a judged set, as of `cairn eval grounding`; may be given again (at most 8)", O_CONF,                  0     },
    { "edits",  "DIR", "passages whose sentences are copied and edited (see `--suite edits`)",                                                                       O_TEXT,
     offsetof(struct options,                                                                                                                                                                 base)},
    { "n",    "N",                                          "edited texts (default 4000)",                                                                      O_WHOLE, offsetof(struct options,     n)},
    { "licence", "TEXT",                                  "of those sets, for the model's card",                                                                       O_TEXT, offsetof(struct options,    kb)},
    { "out", "FILE",                                                   "the model to write",                                                                       O_TEXT, offsetof(struct options,   out)},
    { "claims", "FILE", "also write each claim with its evidence, for scripts/train_claims.py",                                                                       O_TEXT,
     offsetof(struct options,                                                                                                                                                              run_out)},
    { "style",   NULL,   "let position, length, lists and openings count (for the set alone)",                                                                       O_FLAG,
     offsetof(struct options,                                                                                                                                                                 both)},
    { "seed",    "N",                 "of the folds, the fits and the bootstrap (default 1)",                                                                      O_WHOLE,
     offsetof(struct options,                                                                                                                                                                 seed)},
    { "draws",    "N",                     "of the bootstrap (default 1000; 0: no intervals)",                                                                      O_WHOLE, offsetof(struct options,     k)},
    { "threads",    "N",                     "default 1; the model is the same with any number",                                                                      O_WHOLE,
     offsetof(struct options,                                                                                                                                                              threads)},
    { "json",   NULL,                                         "one JSON object for each set",                                                                       O_FLAG, offsetof(struct options,  json)},
    { "quiet",   NULL,                                                          "no progress",                                                                       O_FLAG, offsetof(struct options, quiet)},
};
#define N_ROWS (sizeof rows_help / sizeof *rows_help)

static enum cairn_err card_write(struct ground_combiner *m, const struct options *o, const struct corpus *c,
                                 struct cairn_why *why)
{
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    bool ok = cairn_buf_printf(&b,
                               "cairn %s, seed %" PRIu64 "%s: %zu words, %zu sentences, %zu texts\n"
                               "licence of the data: %s\n"
                               "held-out measures: cairn train grounding prints them; docs/quality.md\n",
                               CAIRN_VERSION, o->seed, o->both ? ", with style" : "", c->w.n, c->n_claims,
                               c->n_texts, o->kb ? o->kb : "not stated");
    for (size_t i = 0; ok && i < c->n_sets; i++) {
        const char *path = i < o->n_conf ? o->conf[i] : o->base, *name = strrchr(path, '/');
        ok = cairn_buf_printf(&b, "%s %s: %zu texts, %zu sources\n", i < o->n_conf ? "set" : "edits of",
                              name ? name + 1 : path, c->sets[i].n_texts, c->sets[i].n_sources);
    }
    enum cairn_err err = CAIRN_OK;
    if (!ok || b.len >= sizeof m->card)
        err = cairn_fail(why, CAIRN_EFULL, "the model's card is over %u bytes", COMBINER_CARD_MAX);
    else
        memcpy(m->card, b.bytes, b.len);
    cairn_buf_clear(&b);
    if (!err)
        err = combiner_write(m, &b, why);
    if (!err)
        err = cairn_write_file(o->out, b.bytes, b.len, why);
    cairn_buf_release(&b);
    return err;
}

/* Of all sets, with what the combiners that did not see a fold say of it. */
static enum cairn_err claims_write(const struct options *o, const struct corpus *c,
                                   struct ground_combiner *const models[GM_FOLDS + 1], struct cairn_why *why)
{
    const struct ground_combiner *of_fold[GM_FOLDS];
    FILE *to = fopen(o->run_out, "w");
    if (!to)
        return cairn_fail(why, CAIRN_EIO, "%s cannot be written: %s", o->run_out, strerror(errno));
    for (size_t f = 0; f < GM_FOLDS; f++)
        of_fold[f] = models[f];
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < c->n_sets && !err; i++) {
        size_t len;
        const char *name = ground_set_name(i < o->n_conf ? o->conf[i] : o->base, &len);
        char *copy = cairn_strndup(name, len);
        uint8_t *fold = cairn_calloc(c->sets[i].n_sources, sizeof *fold);
        err = copy && fold ? gm_folds(fold, c->sets[i].n_sources, o->seed, why)
                           : cairn_fail(why, CAIRN_ENOMEM, "folds");
        if (!err)
            err = claim_rows(to, &c->sets[i], copy, fold, of_fold, why);
        cairn_free(copy);
        cairn_free(fold);
    }
    if (fclose(to) != 0 && !err)
        err = cairn_fail(why, CAIRN_EIO, "%s could not be written whole", o->run_out);
    return err;
}

static int train_grounding(int argc, char **argv)
{
    struct options o = {.command = "train grounding", .seed = 1, .k = 1000, .threads = 1, .n = 4000};
    int code = options_read(&o, rows_help, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print(
            "train grounding --set DIR [--set DIR ...] --out FILE [options]",
            "Fits the grounding checker's combiner to judged sets and reports it on the sources that "
            "each fold did not see.",
            rows_help, N_ROWS, stdout);
        return finish_output(&o);
    }
    if (o.n_conf + (o.base != NULL) < 1 || o.n_conf + (o.base != NULL) > SETS_MAX || !o.out)
        return tell(&o, USAGE, "1 to %u --set DIR or --edits DIR, and --out FILE; --help says more",
                    SETS_MAX);
    if (o.k > 100000 || !o.threads || o.threads > 64)
        return tell(&o, USAGE, "--draws: at most 100000; --threads: 1 to 64");
    run_watch();
    struct cairn_why why = {0};
    struct corpus *c = cairn_calloc(1, sizeof *c);
    struct ground_combiner *models[GM_FOLDS + 1] = {0};
    enum cairn_err err = c ? CAIRN_OK : cairn_fail(&why, CAIRN_ENOMEM, "sets");
    for (size_t i = 0; !err && i < o.n_conf; i++) {
        c->n_sets = i + 1;
        err = ground_set_read(&c->sets[i], o.conf[i], &why);
    }
    if (!err && o.base) {
        c->n_sets = o.n_conf + 1;
        err = edits_of_passages(&c->sets[o.n_conf], o.base, o.n, o.seed, &why);
    }
    if (!err)
        err = common_words(c, &why);
    for (size_t i = 0; !err && i < c->n_sets; i++) {
        uint8_t *fold = cairn_calloc(c->sets[i].n_sources, sizeof *fold);
        if (!fold)
            err = cairn_fail(&why, CAIRN_ENOMEM, "folds");
        if (!err)
            err = gm_folds(fold, c->sets[i].n_sources, o.seed, &why); /* the folds of the report */
        if (!err)
            err = read_set(c, (uint8_t)i, fold, &why);
        cairn_free(fold);
        progress(&o, "reading", i + 1, c->n_sets);
    }
    if (!err)
        err = fit_all(models, c, &o, &why);
    progress_clear();
    if (!err)
        err = card_write(models[GM_FOLDS], &o, c, &why);
    if (!err && o.run_out)
        err = claims_write(&o, c, models, &why);
    if (err)
        code = tell_err(&o, err, &why);
    for (size_t i = 0; c && i < c->n_sets && !code; i++) {
        const struct ground_combiner *trees[GM_FOLDS];
        for (size_t f = 0; f < GM_FOLDS; f++)
            trees[f] = models[f];
        o.set = i < o.n_conf ? o.conf[i] : o.base;
        code = ground_set_report(&o, &c->sets[i], trees);
    }
    for (size_t f = 0; f <= GM_FOLDS; f++)
        ground_combiner_close(models[f]);
    if (c)
        corpus_release(c);
    cairn_free(c);
    return code;
}

int train_main(int argc, char **argv)
{
    static const char help[] = "usage: cairn train grounding|doubts --set DIR --out FILE [options]\n\n"
                               "`cairn train grounding --help` says more.\n";
    if (argc >= 2 && strcmp(argv[1], "grounding") == 0)
        return train_grounding(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "doubts") == 0)
        return train_doubts(argc - 1, argv + 1);
    bool asked = argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    fputs(help, asked ? stdout : stderr);
    return asked ? DONE : USAGE;
}
