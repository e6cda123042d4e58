/* eval/train.c - `cairn train grounding`: fits the checker's combiner to judged sets.
 *
 * Gradient-boosted trees of depth 3 on the logistic loss, whole numbers from the 8-bit features to the
 * leaves: sums do not depend on order or on the machine's floats. Every feature but the length may only move
 * the score the way its meaning says (a split against it is not made, and the leaves of both sides are kept
 * on their side of the middle), so that the style of one set cannot enter. Each set weighs the same, and
 * within it both classes: 0.5 is the balanced cut-off.
 *
 * A row is a sentence that makes a claim. In a set with spans it is positive when people marked a code point
 * of it; elsewhere all sentences of a clean text are negative, and a bad text is used only when it makes a
 * single claim, because nobody said which sentence is bad.
 *
 * Five models are fitted without one fold of sources each and reported on what they did not see; the sixth,
 * on everything, is written. One thread. */
#include "ground_set.h"

#include "../generator/trees.h"

#include <stdlib.h>
#include <string.h>

#define SETS_MAX 8u
#define ROUNDS 120u
#define RATE_SHIFT 3u                 /* a step is 1/8 of Newton's */
#define ROUND_MASS ((int64_t)1 << 20) /* weight of a class of a set */
#define LAMBDA (ROUND_MASS / 64)      /* added to each leaf's weight of curvature */
#define SIDE_MASS (ROUND_MASS / 32)   /* least weight of rows on a side */

struct train_row {
    uint8_t x[GF_N], set, fold;
    bool positive;
    int64_t weight;
    int32_t margin;
    unsigned leaf; /* heap index while a tree grows */
};
struct train_rows {
    struct train_row *r;
    size_t n, cap;
};

/* +1: more of it is more unsupported; -1: less; 0: either; 2: not used. */
static const int8_t meaning[GF_N] = {
    [GF_COV1] = -1,    [GF_COV2] = -1,     [GF_CTX] = -1,    [GF_NOVEL] = -1,  [GF_BIGRAM] = -1,
    [GF_RUN3] = -1,    [GF_RUN8] = -1,     [GF_UNC_MAX] = 1, [GF_UNC_N] = 1,   [GF_NUM] = 1,
    [GF_NUM_AWAY] = 1, [GF_CONFLICT] = 1,  [GF_NAME] = 1,    [GF_QUOTE] = 1,   [GF_POLARITY] = 1,
    [GF_QUANT] = 1,    [GF_DIRECTION] = 1, [GF_BINDING] = 1, [GF_SWAPPED] = 1, [GF_LENGTH] = 0,
    [GF_COSINE] = 2,
};

static enum cairn_err rows_of_set(struct train_rows *out, const struct ground_set *s, uint8_t set,
                                  const uint8_t *fold, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < s->n_texts && !err; i++) {
        const struct judged_text *t = &s->texts[i];
        struct grounding *g;
        struct cairn_str text = cairn_str_of(t->text);
        size_t first = out->n, byte = 0, point = 0, n;
        if ((err = cairn_stopped(&run_stop, why)) != CAIRN_OK)
            break;
        n = cairn_sentences(text, NULL, 0);
        struct cairn_span *spans = cairn_reallocarray(NULL, n ? n : 1, sizeof *spans);
        if (!spans)
            return cairn_fail(why, CAIRN_ENOMEM, "sentences");
        (void)cairn_sentences(text, spans, n);
        err = ground_set_open(&g, s, i, t->source, NULL, why);
        for (size_t k = 0; k < n && !err; k++) {
            float f[GF_N];
            bool claim = false, marked = t->positive && !s->has_spans;
            err = grounding_features(g, text, spans[k].start, spans[k].end, f, &claim, why);
            for (; byte < spans[k].end; byte++) {
                if (((unsigned char)t->text[byte] & 0xC0) == 0x80)
                    continue;
                for (size_t m = 0; byte >= spans[k].start && m < t->n_marks && !marked; m++)
                    marked = point >= t->marks[m].start && point < t->marks[m].end;
                point++;
            }
            if (err || !claim)
                continue;
            if (!eval_grow((void **)&out->r, &out->cap, out->n + 1, sizeof *out->r)) {
                err = cairn_fail(why, CAIRN_ENOMEM, "rows");
                continue;
            }
            struct train_row *r = &out->r[out->n++];
            *r = (struct train_row){.set = set, .fold = fold[t->source], .positive = marked};
            for (size_t j = 0; j < GF_N; j++)
                r->x[j] = trees_bin(f[j]);
        }
        grounding_close(g);
        cairn_free(spans);
        if (!s->has_spans && t->positive && out->n - first > 1)
            out->n = first;
    }
    return err;
}

/* What a node's sums say: the best step is g/h. All in 1/65536 of a row's weight. */
struct sums {
    int64_t g, h, weight;
};

static __int128 worth(const struct sums *s) { return (__int128)s->g * s->g / (s->h + LAMBDA * 65536); }

static int64_t step_of(const struct sums *s, int64_t low, int64_t high)
{
    int64_t v = (int64_t)((__int128)s->g * 65536 / (s->h + LAMBDA * 65536));
    return v < low ? low : v > high ? high : v;
}

static void sum_bins(const struct train_rows *rows, uint8_t out, unsigned node, struct sums bins[GF_N][256])
{
    memset(bins, 0, GF_N * sizeof *bins);
    for (size_t i = 0; i < rows->n; i++) {
        const struct train_row *r = &rows->r[i];
        if (r->leaf != node || r->fold == out)
            continue;
        int64_t p = trees_logistic(r->margin);
        int64_t g = ((r->positive ? 65536 : 0) - p) * r->weight, h = (p * (65536 - p) >> 16) * r->weight;
        for (size_t j = 0; j < GF_N; j++) {
            struct sums *b = &bins[j][r->x[j]];
            b->g += g;
            b->h += h;
            b->weight += r->weight;
        }
    }
}

/* The best allowed split of a node; false when none gains. */
static bool best_split(struct sums bins[GF_N][256], int64_t low, int64_t high, uint8_t *feature, uint8_t *bin,
                       int64_t *left_step, int64_t *right_step)
{
    __int128 best = 0;
    bool found = false;
    for (size_t j = 0; j < GF_N; j++) {
        struct sums all = {0}, left = {0};
        if (meaning[j] == 2)
            continue;
        for (size_t b = 0; b < 256; b++)
            all = (struct sums){all.g + bins[j][b].g, all.h + bins[j][b].h, all.weight + bins[j][b].weight};
        for (size_t b = 0; b < 255; b++) {
            left =
                (struct sums){left.g + bins[j][b].g, left.h + bins[j][b].h, left.weight + bins[j][b].weight};
            struct sums right = {all.g - left.g, all.h - left.h, all.weight - left.weight};
            if (!bins[j][b].weight || left.weight < SIDE_MASS || right.weight < SIDE_MASS)
                continue;
            int64_t l = step_of(&left, low, high), r = step_of(&right, low, high);
            if ((meaning[j] > 0 && r < l) || (meaning[j] < 0 && r > l))
                continue;
            __int128 gain = worth(&left) + worth(&right) - worth(&all);
            if (gain > best) {
                best = gain;
                found = true;
                *feature = (uint8_t)j;
                *bin = (uint8_t)b;
                *left_step = l;
                *right_step = r;
            }
        }
    }
    return found;
}

static void grow(struct ground_tree *t, struct train_rows *rows, uint8_t out, unsigned node, int64_t low,
                 int64_t high, struct sums bins[GF_N][256])
{
    sum_bins(rows, out, node, bins);
    if (node >= TREE_SPLITS) {
        struct sums all = {0};
        for (size_t b = 0; b < 256; b++)
            all = (struct sums){all.g + bins[0][b].g, all.h + bins[0][b].h, 0};
        t->leaf[node - TREE_SPLITS] = (int32_t)(step_of(&all, low, high) / (1 << RATE_SHIFT));
        return;
    }
    uint8_t feature = 0, bin = 255; /* everything to the left */
    int64_t l = 0, r = 0, ll = low, lh = high, rl = low, rh = high;
    if (best_split(bins, low, high, &feature, &bin, &l, &r) && meaning[feature]) {
        int64_t middle = (l + r) / 2;
        if (meaning[feature] > 0)
            lh = rl = middle;
        else
            ll = rh = middle;
    }
    t->feature[node] = feature;
    t->bin[node] = bin;
    for (size_t i = 0; i < rows->n; i++)
        if (rows->r[i].leaf == node)
            rows->r[i].leaf = 2 * node + 1 + (rows->r[i].x[feature] > bin);
    grow(t, rows, out, 2 * node + 1, ll, lh, bins);
    grow(t, rows, out, 2 * node + 2, rl, rh, bins);
}

/* Without the rows of fold `out`; GM_FOLDS: all rows. */
static enum cairn_err fit(struct ground_trees **model, struct train_rows *rows, uint8_t out, size_t n_sets,
                          struct cairn_why *why)
{
    int64_t count[SETS_MAX][2] = {{0}};
    struct sums(*bins)[256] = cairn_reallocarray(NULL, GF_N, sizeof *bins);
    struct ground_trees *t = cairn_calloc(1, sizeof *t);
    *model = NULL;
    if (!bins || !t) {
        cairn_free(bins);
        cairn_free(t);
        return cairn_fail(why, CAIRN_ENOMEM, "trees");
    }
    for (size_t i = 0; i < rows->n; i++)
        count[rows->r[i].set][rows->r[i].positive] += rows->r[i].fold != out;
    for (size_t i = 0; i < rows->n; i++) {
        struct train_row *r = &rows->r[i];
        int64_t n = count[r->set][r->positive];
        r->weight = n ? ROUND_MASS / (int64_t)n_sets / n : 0;
        r->margin = 0;
    }
    for (t->n = 0; t->n < ROUNDS; t->n++) {
        for (size_t i = 0; i < rows->n; i++)
            rows->r[i].leaf = 0;
        grow(&t->trees[t->n], rows, out, 0, -4 * 65536, 4 * 65536, bins);
        for (size_t i = 0; i < rows->n; i++)
            rows->r[i].margin += tree_leaf(&t->trees[t->n], rows->r[i].x);
    }
    cairn_free(bins);
    *model = t;
    return CAIRN_OK;
}

static const struct option_row rows_help[] = {
    {"set",   "DIR",                                              "a judged set, as of `cairn eval grounding`; may be given again (at most 8)", O_CONF,                  0     },
    { "licence", "TEXT",              "of those sets, for the model's card",                                                                       O_TEXT, offsetof(struct options,    kb)},
    { "out", "FILE",                               "the model to write",                                                                       O_TEXT, offsetof(struct options,   out)},
    { "seed",    "N",       "of the folds and the bootstrap (default 1)",                                                                      O_WHOLE, offsetof(struct options,  seed)},
    { "draws",    "N", "of the bootstrap (default 1000; 0: no intervals)",                                                                      O_WHOLE, offsetof(struct options,     k)},
    { "json",   NULL,                     "one JSON object for each set",                                                                       O_FLAG, offsetof(struct options,  json)},
    { "quiet",   NULL,                                      "no progress",                                                                       O_FLAG, offsetof(struct options, quiet)},
};
#define N_ROWS (sizeof rows_help / sizeof *rows_help)

static enum cairn_err card_write(struct ground_trees *t, const struct options *o,
                                 const struct ground_set *sets, const struct train_rows *rows,
                                 struct cairn_why *why)
{
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    bool ok = cairn_buf_printf(
        &b,
        "cairn %s, seed %" PRIu64 ": %zu sentences, %u trees\n"
        "licence of the data: %s\n"
        "a probability at equal classes; held-out measures: cairn train grounding prints them\n",
        CAIRN_VERSION, o->seed, rows->n, ROUNDS, o->kb ? o->kb : "not stated");
    for (size_t i = 0; ok && i < o->n_conf; i++) {
        const char *name = strrchr(o->conf[i], '/');
        ok = cairn_buf_printf(&b, "set %s: %zu answers, %zu sources\n", name ? name + 1 : o->conf[i],
                              sets[i].n_texts, sets[i].n_sources);
    }
    enum cairn_err err = CAIRN_OK;
    if (!ok || b.len >= sizeof t->card)
        err = cairn_fail(why, CAIRN_EFULL, "the model's card is over %u bytes", TREE_CARD_MAX);
    else
        memcpy(t->card, b.bytes, b.len);
    cairn_buf_clear(&b);
    if (!err)
        err = trees_write(t, &b, why);
    if (!err)
        err = cairn_write_file(o->out, b.bytes, b.len, why);
    cairn_buf_release(&b);
    return err;
}

static int train_grounding(int argc, char **argv)
{
    struct options o = {.command = "train grounding", .seed = 1, .k = 1000};
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
    if (!o.n_conf || o.n_conf > SETS_MAX || !o.out)
        return tell(&o, USAGE, "1 to %u --set DIR, and --out FILE; --help says more", SETS_MAX);
    if (o.k > 100000)
        return tell(&o, USAGE, "--draws: at most 100000");
    run_watch();
    struct cairn_why why = {0};
    struct ground_set sets[SETS_MAX] = {0};
    struct train_rows rows = {0};
    struct ground_trees *models[GM_FOLDS + 1] = {0};
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < o.n_conf && !err; i++) {
        err = ground_set_read(&sets[i], o.conf[i], &why);
        uint8_t *fold = err ? NULL : cairn_calloc(sets[i].n_sources, sizeof *fold);
        if (!err && !fold)
            err = cairn_fail(&why, CAIRN_ENOMEM, "folds");
        if (!err)
            err = gm_folds(fold, sets[i].n_sources, o.seed, &why); /* the folds of the report */
        if (!err)
            err = rows_of_set(&rows, &sets[i], (uint8_t)i, fold, &why);
        cairn_free(fold);
    }
    for (uint8_t f = 0; f <= GM_FOLDS && !err; f++) {
        err = fit(&models[f], &rows, f, o.n_conf, &why);
        progress(&o, "fitting", f + 1u, GM_FOLDS + 1);
    }
    progress_clear();
    if (!err)
        err = card_write(models[GM_FOLDS], &o, sets, &rows, &why);
    if (err)
        code = tell_err(&o, err, &why);
    for (size_t i = 0; i < o.n_conf && !code; i++) {
        const struct ground_trees *trees[GM_FOLDS];
        for (size_t f = 0; f < GM_FOLDS; f++)
            trees[f] = models[f];
        o.set = o.conf[i];
        code = ground_set_report(&o, &sets[i], trees);
    }
    for (size_t f = 0; f <= GM_FOLDS; f++)
        ground_trees_close(models[f]);
    for (size_t i = 0; i < o.n_conf; i++)
        ground_set_release(&sets[i]);
    cairn_free(rows.r);
    return code;
}

int train_main(int argc, char **argv)
{
    static const char help[] = "usage: cairn train grounding --set DIR --out FILE [options]\n\n"
                               "`cairn train grounding --help` says more.\n";
    if (argc >= 2 && strcmp(argv[1], "grounding") == 0)
        return train_grounding(argc - 1, argv + 1);
    bool asked = argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    fputs(help, asked ? stdout : stderr);
    return asked ? DONE : USAGE;
}
