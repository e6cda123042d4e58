/* eval/forest_fit.c - gradient-boosted trees on the logistic loss. Whole numbers from the bytes to the
 * leaves: sums do not depend on order or on the machine's floats. A feature with a meaning may only move the
 * score that way: a split against it is not made, and the leaves of both sides are kept on their side of the
 * middle. A node's sums by feature and byte are taken from its rows or, for the larger of two children, as
 * the parent's less the smaller one's. */
#include "forest_fit.h"

#include <string.h>

#define STEP_MAX (4 * 65536)

struct sums {
    int64_t g, h;
};
struct grower {
    const struct fit_rows *r;
    const struct fit_opts *o;
    uint32_t *order, *spill; /* rows of the present tree, a node's rows side by side */
    int32_t *g, *h;          /* [n] of each row, times its weight */
    int64_t lambda, side;
    struct sums *bins[FOREST_DEPTH_MAX + 1]; /* [width * 256] for each depth */
    struct tree *tree;
};

static uint32_t drawn(uint64_t seed, uint32_t tree, uint64_t row)
{
    uint64_t v = (seed + 1) * 0x9E3779B97F4A7C15ULL ^ (row + 1) * 0xBF58476D1CE4E5B9ULL ^
                 (uint64_t)(tree + 1) * 0x94D049BB133111EBULL;
    v ^= v >> 31;
    v *= 0xD6E8FEB86659FD93ULL;
    return (uint32_t)(v >> 60);
}

static int64_t step_of(const struct grower *w, struct sums s, int64_t low, int64_t high)
{
    int64_t v = (int64_t)((__int128)s.g * 65536 / (s.h + w->lambda));
    return v < low ? low : v > high ? high : v;
}
static __int128 worth(const struct grower *w, struct sums s)
{
    return (__int128)s.g * s.g / (s.h + w->lambda);
}

static void sum_rows(const struct grower *w, size_t from, size_t to, struct sums *bins)
{
    size_t width = w->r->width;
    memset(bins, 0, width * 256 * sizeof *bins);
    for (size_t i = from; i < to; i++) {
        uint32_t row = w->order[i];
        const uint8_t *x = w->r->x + (size_t)row * width;
        int64_t g = w->g[row], h = w->h[row];
        for (size_t j = 0; j < width; j++) {
            struct sums *b = &bins[j * 256 + x[j]];
            b->g += g;
            b->h += h;
        }
    }
}

struct split {
    uint8_t feature, bin;
    int64_t left, right;
};

static bool best_split(const struct grower *w, const struct sums *bins, int64_t low, int64_t high,
                       struct split *out)
{
    __int128 best = 0;
    bool found = false;
    struct sums all = {0, 0};
    for (size_t b = 0; b < 256; b++)
        all = (struct sums){all.g + bins[b].g, all.h + bins[b].h};
    __int128 whole = worth(w, all);
    for (size_t j = 0; j < w->r->width; j++) {
        int meaning = w->o->meaning[j];
        if (meaning == 2)
            continue;
        struct sums left = {0, 0};
        const struct sums *of = bins + j * 256;
        for (size_t b = 0; b < 255; b++) {
            if (!of[b].h)
                continue;
            left = (struct sums){left.g + of[b].g, left.h + of[b].h};
            struct sums right = {all.g - left.g, all.h - left.h};
            if (left.h < w->side || right.h < w->side)
                continue;
            int64_t l = step_of(w, left, low, high), r = step_of(w, right, low, high);
            if ((meaning > 0 && r < l) || (meaning < 0 && r > l))
                continue;
            __int128 gain = worth(w, left) + worth(w, right) - whole;
            if (gain > best) {
                best = gain;
                found = true;
                *out = (struct split){(uint8_t)j, (uint8_t)b, l, r};
            }
        }
    }
    return found;
}

/* The node's bins are at w->bins[depth]; they are given up to its children. */
static void grow(struct grower *w, uint32_t node, uint32_t depth, size_t from, size_t to, int64_t low,
                 int64_t high)
{
    uint32_t splits = (1u << w->o->depth) - 1;
    struct sums *bins = w->bins[depth];
    if (node >= splits) {
        struct sums all = {0, 0};
        for (size_t i = from; i < to; i++)
            all = (struct sums){all.g + w->g[w->order[i]], all.h + w->h[w->order[i]]};
        w->tree->leaf[node - splits] = (int32_t)(step_of(w, all, low, high) * (int64_t)w->o->rate / 64);
        return;
    }
    struct split s = {0, 255, 0, 0};
    int64_t ll = low, lh = high, rl = low, rh = high;
    bool found = from < to && best_split(w, bins, low, high, &s);
    if (found && w->o->meaning[s.feature]) {
        int64_t middle = (s.left + s.right) / 2;
        if (w->o->meaning[s.feature] > 0)
            lh = rl = middle;
        else
            ll = rh = middle;
    }
    w->tree->feature[node] = s.feature;
    w->tree->bin[node] = s.bin;
    size_t mid = from, n = 0;
    for (size_t i = from; i < to; i++) {
        uint32_t row = w->order[i];
        if (w->r->x[(size_t)row * w->r->width + s.feature] > s.bin)
            w->spill[n++] = row;
        else
            w->order[mid++] = row;
    }
    memcpy(w->order + mid, w->spill, n * sizeof *w->spill);
    bool last = 2 * node + 1 >= splits;
    struct sums *next = w->bins[depth + 1];
    size_t size = w->r->width * 256;
    if (last) {
        grow(w, 2 * node + 1, depth + 1, from, mid, ll, lh);
        grow(w, 2 * node + 2, depth + 1, mid, to, rl, rh);
        return;
    }
    bool left_small = mid - from <= to - mid;
    /* The smaller child first, from its rows; what is left of the parent's sums is the larger one's. */
    sum_rows(w, left_small ? from : mid, left_small ? mid : to, next);
    for (size_t i = 0; i < size; i++)
        bins[i] = (struct sums){bins[i].g - next[i].g, bins[i].h - next[i].h};
    grow(w, left_small ? 2 * node + 1 : 2 * node + 2, depth + 1, left_small ? from : mid,
         left_small ? mid : to, left_small ? ll : rl, left_small ? lh : rh);
    memcpy(next, bins, size * sizeof *next);
    grow(w, left_small ? 2 * node + 2 : 2 * node + 1, depth + 1, left_small ? mid : from,
         left_small ? to : mid, left_small ? rl : ll, left_small ? rh : lh);
}

enum cairn_err forest_fit(struct forest *out, const struct fit_rows *r, const struct fit_opts *o,
                          struct cairn_why *why)
{
    memset(out, 0, sizeof *out);
    out->depth = o->depth;
    size_t n = r->n ? r->n : 1;
    struct grower w = {.r = r, .o = o};
    int32_t *margin = cairn_calloc(n, sizeof *margin);
    w.order = cairn_reallocarray(NULL, n, sizeof *w.order);
    w.spill = cairn_reallocarray(NULL, n, sizeof *w.spill);
    w.g = cairn_reallocarray(NULL, n, sizeof *w.g);
    w.h = cairn_reallocarray(NULL, n, sizeof *w.h);
    bool ok = margin && w.order && w.spill && w.g && w.h && o->rounds <= FOREST_TREES_MAX;
    for (size_t d = 0; d <= o->depth; d++) {
        w.bins[d] = cairn_reallocarray(NULL, r->width * 256, sizeof **w.bins);
        ok = ok && w.bins[d];
    }
    enum cairn_err err = ok ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "trees over %zu rows", r->n);
    int64_t all = 0, pos = 0;
    for (size_t i = 0; i < r->n && !err; i++) {
        all += r->weight[i];
        pos += r->positive[i] ? r->weight[i] : 0;
    }
    if (!err && (!pos || pos == all)) { /* nothing to tell apart: the forest says its base */
        out->base = !all || r->offset ? 0 : pos ? STEP_MAX : -STEP_MAX;
    } else if (!err) {
        /* the base by bisection of the logistic, so that it needs no logarithm */
        int32_t low = -STEP_MAX, high = STEP_MAX, share = (int32_t)((__int128)pos * 65536 / all);
        while (low < high) {
            int32_t mid = low + (high - low) / 2;
            if (logistic_16(mid) < share)
                low = mid + 1;
            else
                high = mid;
        }
        out->base = r->offset ? 0 : low;
        w.lambda = (int64_t)((__int128)all * 65536 * o->lambda / 4096);
        w.side = (int64_t)((__int128)all * 65536 * o->side / 4096);
        for (size_t i = 0; i < r->n; i++)
            margin[i] = out->base + (r->offset ? r->offset[i] : 0);
    }
    for (uint32_t t = 0; !err && all && pos && pos < all && t < o->rounds; t++) {
        size_t m = 0;
        for (size_t i = 0; i < r->n; i++) {
            if (!r->weight[i] || drawn(o->seed, t, i) >= o->sample)
                continue;
            int32_t p = logistic_16(margin[i]);
            w.g[i] = (int32_t)(((r->positive[i] ? 65536 : 0) - p) * (int64_t)r->weight[i] >> 4);
            w.h[i] = (int32_t)(((int64_t)p * (65536 - p) >> 16) * r->weight[i] >> 4);
            w.order[m++] = (uint32_t)i;
        }
        w.tree = &out->trees[t];
        int64_t lambda = w.lambda, side = w.side;
        w.lambda = lambda * o->sample / 256;
        w.side = side * o->sample / 256;
        sum_rows(&w, 0, m, w.bins[0]);
        grow(&w, 0, 0, 0, m, -STEP_MAX, STEP_MAX);
        w.lambda = lambda;
        w.side = side;
        for (size_t i = 0; i < r->n; i++)
            if (r->weight[i])
                margin[i] += tree_leaf(w.tree, o->depth, r->x + i * r->width);
        out->n = t + 1;
    }
    cairn_free(margin);
    cairn_free(w.order);
    cairn_free(w.spill);
    cairn_free(w.g);
    cairn_free(w.h);
    for (size_t d = 0; d <= o->depth; d++)
        cairn_free(w.bins[d]);
    return err;
}
