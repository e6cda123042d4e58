/* eval/ground_metrics.c - measures of a grounding checker.
 *   auc         chance that a marked answer scores above an unmarked one, ties half
 *   answer_f1   of "marked" over answers, at the cut-off that was best on the other folds
 *   bacc        mean of the recalls of both classes, at its own cut-off
 *   span_f1     micro over code points: marked and flagged / flagged, marked and flagged / marked. Marks of
 * an answer are united first, so that overlapping ones count once (RAGTruth's public code counts them twice)
 *   ece         sum over 15 bins of equal mass of |mean probability - share of marked|, by mass; tied scores
 *               stay in one bin, so that the order of the input changes nothing
 * Nothing is chosen on the answers that it is scored on: cut-offs and calibration (isotonic) come from the
 * other folds, and all answers of a source are in one fold. The bootstrap draws sources, because answers to
 * one source resemble each other; it weighs sorted answers instead of copying them, so a draw is linear. */
#include "ground_metrics.h"
#include "stats.h"

#include <math.h>
#include <stdlib.h>

enum cairn_err gm_folds(uint8_t *fold, size_t n, uint64_t seed, struct cairn_why *why)
{
    uint64_t state = lab_seed(seed);
    size_t *order = cairn_reallocarray(NULL, n ? n : 1, sizeof *order);
    if (!order)
        return cairn_fail(why, CAIRN_ENOMEM, "folds of %zu sources", n);
    for (size_t i = 0; i < n; i++)
        order[i] = i;
    for (size_t i = n; i > 1; i--) {
        size_t k = (size_t)(lab_rand(&state) % i), x = order[i - 1];
        order[i - 1] = order[k];
        order[k] = x;
    }
    for (size_t i = 0; i < n; i++)
        fold[order[i]] = (uint8_t)(i % GM_FOLDS);
    cairn_free(order);
    return CAIRN_OK;
}

/* One row type to sort: weight and hits are 1 and positive of an answer, len and marked of a span. */
struct row {
    double score;
    uint64_t weight, hits;
    uint32_t source;
    size_t at;
};

static int by_score(const void *a, const void *b) /* largest first, then as given: a total order */
{
    const struct row *x = a, *y = b;
    if (x->score < y->score || x->score > y->score)
        return x->score < y->score ? 1 : -1;
    return (x->at > y->at) - (x->at < y->at);
}

static bool tied(const struct row *r, size_t i, size_t n)
{
    return i + 1 < n && r[i].score <= r[i + 1].score;
}

static double f1_of(double hit, double said, double gold)
{
    return said + gold > 0 ? 2 * hit / (said + gold) : 0;
}

/* The cut-off with the best F1, or balanced accuracy, among rows outside the fold; rows sorted. A row is
 * flagged when its score is at least the cut-off. Of equally good ones the highest: fewer flags. */
static double cut_off(const struct row *r, size_t n, const uint8_t *fold, uint8_t out, double gold, bool bacc)
{
    double hit = 0, said = 0, all = 0, best = -1, cut = INFINITY;
    for (size_t i = 0; i < n; i++)
        all += fold[r[i].source] != out ? (double)r[i].weight : 0;
    for (size_t i = 0; i < n; i++) {
        if (fold[r[i].source] != out) {
            hit += (double)r[i].hits;
            said += (double)r[i].weight;
        }
        if (tied(r, i, n))
            continue;
        double clean = all - gold;
        double v = bacc ? (gold > 0 ? hit / gold : 0) + (clean > 0 ? 1 - (said - hit) / clean : 0)
                        : f1_of(hit, said, gold);
        if (v > best) {
            best = v;
            cut = r[i].score;
        }
    }
    return cut;
}

/* Isotonic regression by pooling neighbours, of the rows outside the fold, then looked up for those inside:
 * the pool of the nearest training score at or below, the lowest one beneath all. pool has n rows. */
struct pool {
    double lowest, weight, hits;
};
static void calibrate(struct gm_answer *a, const struct row *r, size_t n, const uint8_t *fold, uint8_t out,
                      struct pool *pool)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (fold[r[i].source] == out)
            continue;
        if (k && pool[k - 1].lowest <= r[i].score) { /* a tie: never apart */
            pool[k - 1].weight++;
            pool[k - 1].hits += (double)r[i].hits;
        } else {
            pool[k++] = (struct pool){r[i].score, 1, (double)r[i].hits};
        }
    }
    size_t m = 0;
    for (size_t i = 0; i < k; i++) { /* scores fall, so shares must not rise */
        pool[m++] = pool[i];
        while (m > 1 && pool[m - 1].hits * pool[m - 2].weight >= pool[m - 2].hits * pool[m - 1].weight) {
            pool[m - 2].weight += pool[m - 1].weight;
            pool[m - 2].hits += pool[m - 1].hits;
            pool[m - 2].lowest = pool[m - 1].lowest;
            m--;
        }
    }
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (fold[r[i].source] != out)
            continue;
        while (at + 1 < m && pool[at].lowest > r[i].score)
            at++;
        a[r[i].at].calibrated = m ? pool[at].hits / pool[at].weight : 0;
    }
}

static struct row *rows_of_answers(const struct gm_set *s, bool calibrated)
{
    struct row *r = cairn_reallocarray(NULL, s->n_answers ? s->n_answers : 1, sizeof *r);
    for (size_t i = 0; r && i < s->n_answers; i++) {
        const struct gm_answer *a = &s->answers[i];
        r[i] = (struct row){calibrated ? a->calibrated : a->score, 1, a->positive, a->source, i};
    }
    if (r)
        qsort(r, s->n_answers, sizeof *r, by_score);
    return r;
}

enum cairn_err gm_decide(struct gm_set *s, const uint8_t *fold, struct cairn_why *why)
{
    struct row *a = rows_of_answers(s, false);
    struct row *p = cairn_reallocarray(NULL, s->n_spans ? s->n_spans : 1, sizeof *p);
    struct pool *pool = cairn_reallocarray(NULL, s->n_answers ? s->n_answers : 1, sizeof *pool);
    enum cairn_err err = CAIRN_OK;
    if (!a || !p || !pool) {
        err = cairn_fail(why, CAIRN_ENOMEM, "cut-offs of %zu answers", s->n_answers);
        goto done;
    }
    for (size_t i = 0; i < s->n_spans; i++)
        p[i] = (struct row){s->spans[i].score, s->spans[i].len, s->spans[i].marked, s->spans[i].source, i};
    qsort(p, s->n_spans, sizeof *p, by_score);
    for (uint8_t f = 0; f < GM_FOLDS; f++) {
        double gold = 0, marked = 0;
        for (size_t i = 0; i < s->n_answers; i++)
            gold += fold[a[i].source] != f && a[i].hits ? 1 : 0;
        for (size_t i = 0; i < s->n_sources && s->n_spans; i++)
            marked += fold[i] != f ? (double)s->marked[i] : 0;
        double f1 = cut_off(a, s->n_answers, fold, f, gold, false);
        double bacc = cut_off(a, s->n_answers, fold, f, gold, true);
        double span = cut_off(p, s->n_spans, fold, f, marked, false);
        for (size_t i = 0; i < s->n_answers; i++) {
            struct gm_answer *x = &s->answers[i];
            if (fold[x->source] == f) {
                x->f1_says = x->score >= f1;
                x->bacc_says = x->score >= bacc;
            }
        }
        for (size_t i = 0; i < s->n_spans; i++)
            if (fold[s->spans[i].source] == f)
                s->spans[i].says = s->spans[i].score >= span;
        calibrate(s->answers, a, s->n_answers, fold, f, pool);
    }
done:
    cairn_free(a);
    cairn_free(p);
    cairn_free(pool);
    return err;
}

static double auc(const struct row *r, size_t n, const uint32_t *w)
{
    double wins = 0, above = 0, pos = 0, neg = 0, gp = 0, gn = 0;
    for (size_t i = 0; i < n; i++) { /* highest first: a negative loses to every positive above it */
        *(r[i].hits ? &gp : &gn) += w[r[i].source];
        if (tied(r, i, n))
            continue;
        wins += gn * (above + gp / 2);
        above += gp;
        pos += gp;
        neg += gn;
        gp = gn = 0;
    }
    return pos > 0 && neg > 0 ? wins / (pos * neg) : NAN;
}

static double ece(const struct row *r, size_t n, const uint32_t *w)
{
    double all = 0, seen = 0, sum = 0, bw = 0, bp = 0, bh = 0;
    for (size_t i = 0; i < n; i++)
        all += w[r[i].source];
    unsigned bin = 1;
    for (size_t i = 0; i < n; i++) {
        double k = w[r[i].source];
        bw += k;
        bp += k * r[i].score;
        bh += k * (double)r[i].hits;
        seen += k;
        if (tied(r, i, n) || (i + 1 < n && seen * GM_BINS < all * bin))
            continue;
        sum += fabs(bp - bh);
        bw = bp = bh = 0;
        while (bin < GM_BINS && seen * GM_BINS >= all * bin)
            bin++;
    }
    (void)bw;
    return all > 0 ? sum / all : NAN;
}

static void measure(const struct gm_set *s, const struct row *raw, const struct row *cal, bool probability,
                    const uint32_t *w, double v[GM_N])
{
    double tp = 0, fp = 0, fn = 0, btp = 0, bfp = 0, pos = 0, all = 0, hit = 0, said = 0, marked = 0;
    for (size_t i = 0; i < s->n_answers; i++) {
        const struct gm_answer *a = &s->answers[i];
        double k = w[a->source];
        all += k;
        pos += a->positive ? k : 0;
        tp += a->positive && a->f1_says ? k : 0;
        fp += !a->positive && a->f1_says ? k : 0;
        fn += a->positive && !a->f1_says ? k : 0;
        btp += a->positive && a->bacc_says ? k : 0;
        bfp += !a->positive && a->bacc_says ? k : 0;
    }
    for (size_t i = 0; i < s->n_spans; i++) {
        double k = s->spans[i].says ? w[s->spans[i].source] : 0;
        hit += k * (double)s->spans[i].marked;
        said += k * (double)s->spans[i].len;
    }
    for (size_t i = 0; i < s->n_sources && s->n_spans; i++)
        marked += w[i] * (double)s->marked[i];
    v[GM_AUC] = auc(raw, s->n_answers, w);
    v[GM_ANSWER_F1] = 100 * f1_of(tp, tp + fp, tp + fn);
    v[GM_SPAN_F1] = s->n_spans ? 100 * f1_of(hit, said, marked) : NAN;
    v[GM_BACC] = pos > 0 && all > pos ? 50 * (btp / pos + 1 - bfp / (all - pos)) : NAN;
    v[GM_ECE] = probability ? ece(raw, s->n_answers, w) : NAN;
    v[GM_ECE_CALIBRATED] = ece(cal, s->n_answers, w);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum cairn_err gm_measure(const struct gm_set *s, bool probability, size_t draws, uint64_t seed,
                          struct gm_result *out, struct cairn_why *why)
{
    struct row *raw = rows_of_answers(s, false), *cal = rows_of_answers(s, true);
    uint32_t *w = cairn_calloc(s->n_sources ? s->n_sources : 1, sizeof *w);
    double *all = cairn_reallocarray(NULL, (draws ? draws : 1) * GM_N, sizeof *all);
    enum cairn_err err = CAIRN_OK;
    if (!raw || !cal || !w || !all) {
        err = cairn_fail(why, CAIRN_ENOMEM, "measures of %zu answers", s->n_answers);
        goto done;
    }
    for (size_t i = 0; i < s->n_sources; i++)
        w[i] = 1;
    measure(s, raw, cal, probability, w, out->value);
    for (int m = 0; m < GM_N; m++)
        out->low[m] = out->high[m] = NAN;
    uint64_t state = lab_seed(seed);
    for (size_t d = 0; d < draws; d++) {
        double v[GM_N];
        for (size_t i = 0; i < s->n_sources; i++)
            w[i] = 0;
        for (size_t i = 0; i < s->n_sources; i++)
            w[(size_t)(lab_rand(&state) % s->n_sources)]++;
        measure(s, raw, cal, probability, w, v);
        for (size_t m = 0; m < GM_N; m++)
            all[m * draws + d] = v[m];
    }
    for (size_t m = 0; m < GM_N && draws; m++) {
        size_t n = 0; /* a draw without one of the classes has no AUC: it is left out */
        for (size_t d = 0; d < draws; d++)
            if (!isnan(all[m * draws + d]))
                all[m * draws + n++] = all[m * draws + d];
        if (!n)
            continue;
        qsort(&all[m * draws], n, sizeof *all, by_value);
        out->low[m] = all[m * draws + (size_t)(0.025 * (double)(n - 1) + 0.5)];
        out->high[m] = all[m * draws + (size_t)(0.975 * (double)(n - 1) + 0.5)];
    }
done:
    cairn_free(raw);
    cairn_free(cal);
    cairn_free(w);
    cairn_free(all);
    return err;
}
