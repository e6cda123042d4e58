/* vbuild.c - building a segment in memory: rotation and codes, clusters (k-means through FAISS's C API), rows
 * sorted by cluster, then one layer of graph over the codes.
 *
 * The graph is built in batches (Manohar et al., ParlayANN, 2024): every row of a batch looks for its
 * neighbours in the graph of the rows before, in parallel and without locks, for nothing is written but its
 * own list; then the reverse links are sorted by target, and each target's list is changed by one thread. So
 * the result does not depend on threads. Neighbours are pruned by HNSW's rule (Malkov and Yashunin 2016,
 * algorithm 4): one that is nearer to a kept neighbour than to the row is left out. Vamana's factor alpha was
 * tried: 1.15 and 1.4 need more distances for the same recall, on synthetic vectors and on real text. While
 * building, lists may hold half as many links again before they are pruned, which makes pruning rare. Rows
 * that no walk would reach get a link from a near row that is reached. */
#include "cluster.h"
#include "vseg.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#define BATCH_SHARE 50u /* a batch is at most 1/50 of all rows */
#define LIST_ROWS 800u
#define TRAIN_PER_LIST 64u
#define SLACK(links) ((links) + (links) / 2)
#define CAND_MAX 1024u

struct cand {
    float sim;
    uint32_t row;
};
struct worker { /* of one thread */
    uint64_t *seen;
    uint32_t *touched, n_touched;
    struct cand *pool, *cands;
    int8_t *q;
};
struct build {
    const struct vbuild_opts *o;
    struct vbuilt *b;
    const struct vkernel *k;
    const uint32_t *ids;
    const float *v;
    uint32_t n, pad, stride, slack, width;
    float *norm2;      /* squared length of what the codes stand for; cosine: of the codes alone */
    uint32_t *list_of; /* by row, then by input position while sorting */
    uint32_t *adj, *deg;
    uint32_t *entry; /* of each list: the first row that was inserted, or NONE */
    uint32_t start;  /* some inserted row */
    const uint32_t *batch;
    struct edge *edges;
    size_t n_edges;
    uint32_t *heads; /* where a target's edges begin */
    size_t n_heads;
    struct worker *workers;
    struct cairn_pool *pool;
    int64_t worked_from;
};
struct edge {
    uint32_t to, from;
};

static enum cairn_err no_memory(struct cairn_why *why)
{
    return cairn_fail(why, CAIRN_ENOMEM, "no memory to build a segment");
}

static inline uint8_t *hot(const struct build *x, uint32_t row)
{
    return x->b->part[PART_HOT] + (size_t)row * x->stride;
}

static void tail_of(const struct build *x, uint32_t row, float t[2])
{
    memcpy(t, hot(x, row) + vseg_tail_at(&x->b->rec), 8);
}

static void signed_codes(const struct build *x, uint32_t row, int8_t *q)
{
    const uint8_t *p = hot(x, row);
    for (uint32_t i = 0; i < x->pad; i++)
        q[i] = (int8_t)(p[i] ^ 0x80);
}

/* Similarity of two rows, larger is nearer: the negated squared distance, or the product under METRIC_DOT. */
static float similarity(const struct build *x, uint32_t a, uint32_t b, int32_t dot)
{
    if (x->o->metric == METRIC_COSINE)
        return 2 * (float)dot - x->norm2[a] - x->norm2[b];
    float ta[2], tb[2];
    tail_of(x, a, ta);
    tail_of(x, b, tb);
    float d = (float)dot * ta[0] * tb[0];
    return x->o->metric == METRIC_DOT ? d : 2 * d - x->norm2[a] - x->norm2[b];
}

static void similarities(const struct build *x, uint32_t a, const int8_t *q, const uint32_t *rows, uint32_t n,
                         float *out)
{
    for (uint32_t i = 0; i < n; i += 4) {
        int32_t dot[4];
        const uint8_t *at[4];
        uint32_t m = n - i < 4 ? n - i : 4;
        for (uint32_t j = 0; j < m; j++)
            at[j] = hot(x, rows[i + j]);
        if (m == 4)
            x->k->rows4(at, q, x->pad, dot);
        else
            for (uint32_t j = 0; j < m; j++)
                dot[j] = x->k->row(at[j], q, x->pad);
        for (uint32_t j = 0; j < m; j++)
            out[i + j] = similarity(x, a, rows[i + j], dot[j]);
    }
}

/* ---- codes and clusters ---- */

static int by_float(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Under cosine all rows share one scale, so that their integer products compare: what covers all but 1/5,000
 * of the coordinates of a sample; the rest is clipped. */
static enum cairn_err choose_scale(struct build *x, struct cairn_why *why)
{
    struct vseg_rec *r = &x->b->rec;
    uint32_t rows = x->n < 512 ? x->n : 512, dim = r->dim;
    float *all = cairn_reallocarray(NULL, (size_t)rows * dim, sizeof(float));
    if (!all)
        return no_memory(why);
    for (uint32_t i = 0; i < rows; i++) {
        const float *v = x->v + (size_t)(uint32_t)((uint64_t)i * x->n / rows) * dim;
        float *t = all + (size_t)i * dim, norm = sqrtf(x->k->dotf(v, v, dim));
        memcpy(t, v, (size_t)dim * 4);
        vseg_rotate(r->rotation, t, dim);
        for (uint32_t j = 0; j < dim; j++)
            t[j] = fabsf(norm > 0 ? t[j] / norm : 0);
    }
    size_t n = (size_t)rows * dim;
    qsort(all, n, sizeof(*all), by_float);
    float most = all[n - 1 - n / 5000];
    r->scale = most > 0 ? most / 127.0f : 1.0f / 127.0f;
    cairn_free(all);
    return CAIRN_OK;
}

/* Centroids of a sample into PART_LISTS, as codes. */
static enum cairn_err make_lists(struct build *x, struct cairn_why *why)
{
    struct vseg_rec *r = &x->b->rec;
    uint32_t dim = r->dim, k = x->n / LIST_ROWS;
    k = k < 1 ? 1 : k > VSEG_LISTS_MAX / 4 ? VSEG_LISTS_MAX / 4 : k;
    uint32_t n_train = k * TRAIN_PER_LIST < x->n ? k * TRAIN_PER_LIST : x->n;
    r->n_lists = k;
    float *train = cairn_reallocarray(NULL, (size_t)n_train * dim, sizeof(float));
    float *centroids = cairn_calloc((size_t)k * dim, sizeof(float));
    x->b->part[PART_LISTS] = cairn_calloc(k, vseg_stride(r, PART_LISTS));
    enum cairn_err err = train && centroids && x->b->part[PART_LISTS] ? CAIRN_OK : no_memory(why);
    for (uint32_t i = 0; i < n_train && !err; i++) {
        const float *v = x->v + (size_t)(uint32_t)((uint64_t)i * x->n / n_train) * dim;
        float norm = r->metric == METRIC_COSINE ? sqrtf(x->k->dotf(v, v, dim)) : 1;
        for (uint32_t j = 0; j < dim; j++)
            train[(size_t)i * dim + j] = norm > 0 ? v[j] / norm : 0;
    }
    if (!err && k == 1) { /* nothing to learn: the mean */
        for (uint32_t i = 0; i < n_train; i++)
            for (uint32_t j = 0; j < dim; j++)
                centroids[j] += train[(size_t)i * dim + j] / (float)n_train;
    } else if (!err) {
        err = cluster_train(train, n_train, dim, k, centroids, why);
    }
    float *tmp = cairn_reallocarray(NULL, dim, sizeof(float));
    if (!tmp && !err)
        err = no_memory(why);
    for (uint32_t i = 0; i < k && !err; i++) {
        int8_t codes[VECTOR_DIM_MAX];
        uint8_t *out = x->b->part[PART_LISTS] + (size_t)i * vseg_stride(r, PART_LISTS);
        memcpy(tmp, centroids + (size_t)i * dim, (size_t)dim * 4);
        float norm2 = x->k->dotf(tmp, tmp, dim), tail[2] = {0, r->metric == METRIC_L2 ? -norm2 : 0};
        vseg_rotate(r->rotation, tmp, dim);
        tail[0] = vdot_quantise(tmp, dim, codes);
        if (r->metric == METRIC_COSINE) /* the centroid's direction counts, not its length */
            tail[0] = norm2 > 0 ? tail[0] / sqrtf(norm2) : 0;
        memcpy(out + x->pad + 8, tail, 8);
        for (uint32_t j = 0; j < dim; j++)
            out[j] = (uint8_t)(codes[j] + 128);
        memset(out + dim, 128, x->pad - dim);
    }
    cairn_free(tmp);
    cairn_free(train);
    cairn_free(centroids);
    return err;
}

static void assign(void *ctx, size_t from, size_t to, unsigned thread)
{
    struct build *x = ctx;
    struct worker *w = &x->workers[thread];
    const struct vseg_rec *r = &x->b->rec;
    uint32_t ls = vseg_stride(r, PART_LISTS);
    float *tmp = (float *)(void *)w->pool; /* CAND_MAX pairs are as long as the longest row */
    for (size_t i = from; i < to; i++) {
        float qscale = vseg_encode(r, x->v + i * r->dim, tmp, w->q);
        float best = -INFINITY;
        for (uint32_t l = 0; l < r->n_lists; l++) {
            const uint8_t *list = x->b->part[PART_LISTS] + (size_t)l * ls;
            float score = vseg_list_score(list, x->pad, qscale, x->k->row(list, w->q, x->pad));
            if (score > best || l == 0) {
                best = score;
                x->list_of[i] = l;
            }
        }
    }
}

static void encode(void *ctx, size_t from, size_t to, unsigned thread)
{
    struct build *x = ctx;
    float *tmp = (float *)(void *)x->workers[thread].pool;
    for (size_t row = from; row < to; row++)
        vseg_encode_row(&x->b->rec, x->v + (size_t)x->b->perm[row] * x->o->dim, tmp, hot(x, (uint32_t)row),
                        &x->norm2[row]);
}

/* Rows by cluster; inside a cluster in the order of ids. Empty lists are left out. */
static enum cairn_err sort_rows(struct build *x, struct cairn_why *why)
{
    struct vseg_rec *r = &x->b->rec;
    uint32_t stride = vseg_stride(r, PART_LISTS), kept = 0, at = 0;
    uint8_t *lists = x->b->part[PART_LISTS];
    uint32_t *count = cairn_calloc(r->n_lists, 4), *first = cairn_calloc(r->n_lists, 4);
    if (!count || !first) {
        cairn_free(count);
        cairn_free(first);
        return no_memory(why);
    }
    for (uint32_t i = 0; i < x->n; i++)
        count[x->list_of[i]]++;
    for (uint32_t l = 0; l < r->n_lists; l++) {
        first[l] = at;
        at += count[l];
        if (count[l] == 0)
            continue;
        uint8_t *to = lists + (size_t)kept++ * stride;
        if (to != lists + (size_t)l * stride)
            memcpy(to, lists + (size_t)l * stride, stride);
        memcpy(to + x->pad, &first[l], 4);
    }
    for (uint32_t i = 0; i < x->n; i++)
        x->b->perm[first[x->list_of[i]]++] = i;
    r->n_lists = kept;
    for (uint32_t l = 0; l < kept; l++) { /* from here on by row */
        uint32_t from, to = x->n;
        memcpy(&from, lists + (size_t)l * stride + x->pad, 4);
        if (l + 1 < kept)
            memcpy(&to, lists + (size_t)(l + 1) * stride + x->pad, 4);
        for (uint32_t row = from; row < to; row++)
            x->list_of[row] = l;
    }
    cairn_free(count);
    cairn_free(first);
    return CAIRN_OK;
}

static void medoids(struct build *x)
{
    const struct vseg_rec *r = &x->b->rec;
    uint32_t stride = vseg_stride(r, PART_LISTS);
    int8_t *q = x->workers[0].q;
    int32_t best = INT32_MIN;
    for (uint32_t row = 0; row < x->n; row++) {
        uint8_t *list = x->b->part[PART_LISTS] + (size_t)x->list_of[row] * stride;
        if (row == 0 || x->list_of[row] != x->list_of[row - 1]) {
            for (uint32_t i = 0; i < x->pad; i++)
                q[i] = (int8_t)(list[i] ^ 0x80);
            best = INT32_MIN;
        }
        int32_t dot = x->k->row(hot(x, row), q, x->pad);
        if (dot > best) {
            best = dot;
            memcpy(list + x->pad + 4, &row, 4);
        }
    }
}

/* ---- the graph ---- */

static bool see(struct worker *w, uint32_t row)
{
    uint64_t bit = 1ull << (row & 63), *word = &w->seen[row >> 6];
    if (*word & bit)
        return false;
    if (!*word)
        w->touched[w->n_touched++] = row >> 6;
    *word |= bit;
    return true;
}

static uint32_t pool_put(struct cand *p, uint32_t *n, uint32_t cap, float sim, uint32_t row)
{
    if (*n == cap && sim <= p[*n - 1].sim)
        return *n;
    uint32_t lo = 0, hi = *n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (p[mid].sim >= sim)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (*n < cap)
        ++*n;
    memmove(p + lo + 1, p + lo, (size_t)(*n - 1 - lo) * sizeof(*p));
    p[lo] = (struct cand){sim, row};
    return lo;
}

#define EXPANDED 0x80000000u
/* The nearest rows to `row` in the graph so far, best first, in w->pool; w->q holds its signed codes. */
static uint32_t nearest(const struct build *x, struct worker *w, uint32_t row, uint32_t width)
{
    uint32_t n = 0, cur = 0, from = x->entry[x->list_of[row]];
    float sim;
    if (from == VSEG_NONE)
        from = x->start;
    w->n_touched = 0;
    (void)see(w, row); /* never its own neighbour */
    if (see(w, from)) {
        similarities(x, row, w->q, &from, 1, &sim);
        (void)pool_put(w->pool, &n, width, sim, from);
    }
    while (cur < n) {
        if (w->pool[cur].row & EXPANDED) {
            cur++;
            continue;
        }
        uint32_t at = w->pool[cur].row, rows[2 * VSEG_LINKS_MAX], m = 0, low = n;
        float sims[2 * VSEG_LINKS_MAX];
        w->pool[cur].row |= EXPANDED;
        const uint32_t *links = x->adj + (size_t)at * x->slack;
        for (uint32_t i = 0; i < x->deg[at]; i++)
            if (see(w, links[i])) {
                const uint8_t *p = hot(x, links[i]);
                for (uint32_t j = 0; j < x->pad; j += 64)
                    __builtin_prefetch(p + j);
                rows[m++] = links[i];
            }
        similarities(x, row, w->q, rows, m, sims);
        for (uint32_t i = 0; i < m; i++) {
            uint32_t place = pool_put(w->pool, &n, width, sims[i], rows[i]);
            if (place < n) {
                low = place < low ? place : low;
                __builtin_prefetch(x->adj + (size_t)rows[i] * x->slack);
                __builtin_prefetch(x->adj + (size_t)rows[i] * x->slack + 16);
            }
        }
        if (low < cur)
            cur = low;
    }
    for (uint32_t i = 0; i < w->n_touched; i++)
        w->seen[w->touched[i]] = 0;
    for (uint32_t i = 0; i < n; i++)
        w->pool[i].row &= ~EXPANDED;
    return n;
}

/* Of candidates sorted best first keeps at most `links` that are not better reached through a kept one. Of
 * copies of one vector it keeps one, so that they cannot fill a list and become an island. */
static uint32_t prune(const struct build *x, const struct cand *c, uint32_t n, uint32_t *out)
{
    uint32_t kept = 0, links = x->o->links;
    for (uint32_t i = 0; i < n && kept < links; i++) {
        int8_t q[VECTOR_DIM_MAX];
        float sims[VSEG_LINKS_MAX];
        /* what a copy of it has: the row's own copies hide each other, not their neighbours */
        float self = x->o->metric == METRIC_DOT ? x->norm2[c[i].row] : 0;
        bool hidden = false;
        if (kept)
            signed_codes(x, c[i].row, q);
        for (uint32_t j = 0; j < kept && !hidden; j += 4) {
            uint32_t m = kept - j < 4 ? kept - j : 4;
            similarities(x, c[i].row, q, out + j, m, sims);
            for (uint32_t t = 0; t < m; t++)
                hidden = hidden || sims[t] > c[i].sim || sims[t] >= self;
        }
        if (!hidden)
            out[kept++] = c[i].row;
    }
    return kept;
}

static void link_batch(void *ctx, size_t from, size_t to, unsigned thread)
{
    struct build *x = ctx;
    struct worker *w = &x->workers[thread];
    for (size_t i = from; i < to; i++) {
        uint32_t row = x->batch[i];
        signed_codes(x, row, w->q);
        uint32_t n = nearest(x, w, row, x->width);
        x->deg[row] = prune(x, w->pool, n, x->adj + (size_t)row * x->slack);
    }
}

static int by_sim(const void *a, const void *b)
{
    const struct cand *x = a, *y = b;
    return x->sim > y->sim ? -1 : x->sim < y->sim ? 1 : x->row < y->row ? -1 : x->row > y->row;
}

/* Prunes the list of a row, its links given in w->cands[0..n). */
static void prune_list(struct build *x, struct worker *w, uint32_t row, uint32_t n)
{
    uint32_t rows[CAND_MAX];
    float sims[CAND_MAX];
    for (uint32_t i = 0; i < n; i++)
        rows[i] = w->cands[i].row;
    signed_codes(x, row, w->q);
    similarities(x, row, w->q, rows, n, sims);
    for (uint32_t i = 0; i < n; i++)
        w->cands[i].sim = sims[i];
    qsort(w->cands, n, sizeof(*w->cands), by_sim);
    x->deg[row] = prune(x, w->cands, n, x->adj + (size_t)row * x->slack);
}

/* Reverse links of the targets heads[from..to). */
static void link_back(void *ctx, size_t from, size_t to, unsigned thread)
{
    struct build *x = ctx;
    struct worker *w = &x->workers[thread];
    for (size_t h = from; h < to; h++) {
        size_t at = x->heads[h], end = h + 1 < x->n_heads ? x->heads[h + 1] : x->n_edges;
        uint32_t row = x->edges[at].to, *adj = x->adj + (size_t)row * x->slack;
        for (; at < end; at++) {
            uint32_t n = x->deg[row], other = x->edges[at].from;
            bool there = false;
            for (uint32_t i = 0; i < n; i++)
                there = there || adj[i] == other;
            if (there)
                continue;
            if (n < x->slack) {
                adj[n] = other;
                x->deg[row] = n + 1;
                continue;
            }
            for (uint32_t i = 0; i < n; i++)
                w->cands[i].row = adj[i];
            w->cands[n].row = other;
            prune_list(x, w, row, n + 1);
        }
    }
}

static void prune_all(void *ctx, size_t from, size_t to, unsigned thread)
{
    struct build *x = ctx;
    struct worker *w = &x->workers[thread];
    for (size_t row = from; row < to; row++) {
        if (x->deg[row] <= x->o->links)
            continue;
        for (uint32_t i = 0; i < x->deg[row]; i++)
            w->cands[i].row = x->adj[row * x->slack + i];
        prune_list(x, w, (uint32_t)row, x->deg[row]);
    }
}

static int by_target(const void *a, const void *b)
{
    const struct edge *x = a, *y = b;
    return x->to < y->to ? -1 : x->to > y->to ? 1 : x->from < y->from ? -1 : x->from > y->from;
}

static enum cairn_err tell(struct build *x, const char *phase, uint64_t done, uint64_t total,
                           struct cairn_why *why)
{
    if (x->o->progress)
        x->o->progress(x->o->ctx, phase, done, total);
    int64_t now = cairn_now_us();
    if (x->o->rest_pct && now > x->worked_from) { /* the throttle: rest for a share of the time worked */
        int64_t rest = (now - x->worked_from) * x->o->rest_pct / (100 - x->o->rest_pct);
        if (rest > 200000)
            rest = 200000;
        struct timespec t = {rest / 1000000, rest % 1000000 * 1000};
        (void)nanosleep(&t, NULL);
        x->worked_from = cairn_now_us();
    }
    return cairn_stopped(x->o->stop, why);
}

static enum cairn_err insert_all(struct build *x, const uint32_t *order, struct cairn_why *why)
{
    uint32_t done = 1;
    size_t cap = 0;
    enum cairn_err err = CAIRN_OK;
    x->start = order[0];
    x->entry[x->list_of[order[0]]] = order[0];
    while (done < x->n && !err) {
        uint32_t most = x->n / BATCH_SHARE > 64 ? x->n / BATCH_SHARE : 64, n = done < most ? done : most;
        n = n < x->n - done ? n : x->n - done;
        n = n > 4096 ? 4096 : n;
        x->batch = order + done;
        cairn_pool_run(x->pool, n, 16, link_batch, x);
        size_t want = (size_t)n * x->o->links;
        if (want > cap) {
            cairn_free(x->edges);
            cairn_free(x->heads);
            x->edges = cairn_reallocarray(NULL, want, sizeof(*x->edges));
            x->heads = cairn_reallocarray(NULL, want, sizeof(*x->heads));
            if (!x->edges || !x->heads)
                return no_memory(why);
            cap = want;
        }
        x->n_edges = x->n_heads = 0;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t row = x->batch[i];
            for (uint32_t j = 0; j < x->deg[row]; j++)
                x->edges[x->n_edges++] = (struct edge){x->adj[(size_t)row * x->slack + j], row};
            if (x->entry[x->list_of[row]] == VSEG_NONE)
                x->entry[x->list_of[row]] = row;
        }
        qsort(x->edges, x->n_edges, sizeof(*x->edges), by_target);
        for (size_t i = 0; i < x->n_edges; i++)
            if (i == 0 || x->edges[i].to != x->edges[i - 1].to)
                x->heads[x->n_heads++] = (uint32_t)i;
        cairn_pool_run(x->pool, x->n_heads, 16, link_back, x);
        done += n;
        err = tell(x, "linking", done, x->n, why);
    }
    return err;
}

/* Marks what a walk from any medoid reaches; stack holds n. Returns how many. */
static uint32_t reach(const struct build *x, uint64_t *seen, uint32_t *stack)
{
    uint32_t n = 0, total = 0, stride = vseg_stride(&x->b->rec, PART_LISTS);
    memset(seen, 0, ((size_t)x->n / 64 + 1) * 8);
    for (uint32_t l = 0; l < x->b->rec.n_lists; l++) {
        uint32_t row;
        memcpy(&row, x->b->part[PART_LISTS] + (size_t)l * stride + x->pad + 4, 4);
        seen[row >> 6] |= 1ull << (row & 63);
        stack[n++] = row;
    }
    while (n) {
        uint32_t row = stack[--n];
        total++;
        for (uint32_t i = 0; i < x->deg[row]; i++) {
            uint32_t to = x->adj[(size_t)row * x->slack + i];
            if (seen[to >> 6] >> (to & 63) & 1)
                continue;
            seen[to >> 6] |= 1ull << (to & 63);
            stack[n++] = to;
        }
    }
    return total;
}

/* Gives every row that no walk reaches a link from a near row that is reached: where one has room there, else
 * in place of a link to a row that has others. Rows of one list are near; so the list's rows are looked at
 * when the search finds none. */
static enum cairn_err connect(struct build *x, struct cairn_why *why)
{
    uint64_t *seen = cairn_calloc((size_t)x->n / 64 + 1, 8);
    uint32_t *stack = cairn_reallocarray(NULL, x->n, 4), *in = cairn_calloc(x->n, 4);
    struct worker *w = &x->workers[0];
    enum cairn_err err = seen && stack && in ? CAIRN_OK : no_memory(why);
    for (unsigned round = 0; round < 16 && !err && reach(x, seen, stack) < x->n; round++) {
        memset(in, 0, (size_t)x->n * 4);
        for (uint32_t row = 0; row < x->n; row++)
            for (uint32_t i = 0; i < x->deg[row]; i++)
                in[x->adj[(size_t)row * x->slack + i]]++;
        for (uint32_t row = 0; row < x->n && !err; row++) {
            if (seen[row >> 6] >> (row & 63) & 1)
                continue;
            signed_codes(x, row, w->q);
            uint32_t n = nearest(x, w, row, x->width), from = VSEG_NONE, links = x->o->links;
            for (uint32_t i = 0; i < n && from == VSEG_NONE; i++)
                if ((seen[w->pool[i].row >> 6] >> (w->pool[i].row & 63) & 1) &&
                    x->deg[w->pool[i].row] < links)
                    from = w->pool[i].row;
            uint32_t slot = from == VSEG_NONE ? 0 : x->deg[from];
            for (uint32_t i = 0; i < n && from == VSEG_NONE; i++) {
                uint32_t r = w->pool[i].row;
                if (!(seen[r >> 6] >> (r & 63) & 1))
                    continue;
                for (uint32_t j = x->deg[r]; j-- > 0 && from == VSEG_NONE;)
                    if (in[x->adj[(size_t)r * x->slack + j]] > 1) {
                        from = r;
                        slot = j;
                    }
            }
            for (uint32_t r = 0; r < x->n && from == VSEG_NONE; r++)
                if ((seen[r >> 6] >> (r & 63) & 1) && x->deg[r] < links) {
                    from = r;
                    slot = x->deg[r];
                }
            if (from == VSEG_NONE)
                continue;
            if (slot < x->deg[from])
                in[x->adj[(size_t)from * x->slack + slot]]--;
            else
                x->deg[from]++;
            x->adj[(size_t)from * x->slack + slot] = row;
            in[row]++;
            seen[row >> 6] |= 1ull << (row & 63); /* what hangs on it is found by the next round */
        }
        err = cairn_stopped(x->o->stop, why);
    }
    cairn_free(seen);
    cairn_free(stack);
    cairn_free(in);
    return err;
}

/* A seeded shuffle, the same everywhere: early rows give the graph its long links. */
static void shuffle(uint32_t *order, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    for (uint32_t i = n; i > 1; i--) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        uint32_t j = (uint32_t)((seed >> 33) % i), t = order[i - 1];
        order[i - 1] = order[j];
        order[j] = t;
    }
}

static void finish(struct build *x)
{
    struct vbuilt *b = x->b;
    uint32_t links = x->o->links;
    for (uint32_t row = 0; row < x->n; row++) {
        uint8_t *out = hot(x, row) + x->pad;
        for (uint32_t i = 0; i < links; i++) {
            uint32_t to = i < x->deg[row] ? x->adj[(size_t)row * x->slack + i] : VSEG_NONE;
            memcpy(out + (size_t)i * 4, &to, 4);
        }
        const float *v = x->v + (size_t)b->perm[row] * x->o->dim;
        float norm = sqrtf(x->k->dotf(v, v, x->o->dim));
        memcpy(b->part[PART_IDS] + (size_t)row * 8, &x->ids[b->perm[row]], 4);
        memcpy(b->part[PART_IDS] + (size_t)row * 8 + 4, &norm, 4);
        memcpy(b->part[PART_ORDER] + (size_t)b->perm[row] * 8, &x->ids[b->perm[row]], 4);
        memcpy(b->part[PART_ORDER] + (size_t)b->perm[row] * 8 + 4, &row, 4);
    }
}

static void workers_free(struct build *x, unsigned n)
{
    for (unsigned i = 0; x->workers && i < n; i++) {
        struct worker *w = &x->workers[i];
        cairn_free(w->seen);
        cairn_free(w->touched);
        cairn_free(w->pool);
        cairn_free(w->cands);
        cairn_free(w->q);
    }
    cairn_free(x->workers);
}

static bool workers_make(struct build *x, unsigned n)
{
    x->workers = cairn_calloc(n, sizeof(*x->workers));
    for (unsigned i = 0; x->workers && i < n; i++) {
        struct worker *w = &x->workers[i];
        w->seen = cairn_calloc((size_t)x->n / 64 + 1, 8);
        w->touched = cairn_reallocarray(NULL, (size_t)x->n / 64 + 1, 4);
        w->pool = cairn_reallocarray(NULL, VECTOR_DIM_MAX, sizeof(*w->pool));
        w->cands = cairn_reallocarray(NULL, CAND_MAX, sizeof(*w->cands));
        w->q = cairn_calloc(1, VECTOR_DIM_MAX);
        if (!w->seen || !w->touched || !w->pool || !w->cands || !w->q)
            return false;
    }
    return x->workers != NULL;
}

enum cairn_err vbuild(struct vbuilt *out, const struct vbuild_opts *o, const uint32_t *ids, const float *v,
                      uint32_t n, struct cairn_why *why)
{
    *out = (struct vbuilt){0};
    CAIRN_CHECK(n >= 1 && n <= VSEG_ROWS_MAX && o->links >= 4 && o->links <= VSEG_LINKS_MAX);
    out->rec = (struct vseg_rec){.n = n,
                                 .links = o->links,
                                 .dim = o->dim,
                                 .metric = o->metric,
                                 .scale = 1,
                                 .rotation = 0x6361697261ull + o->dim};
    struct build x = {.o = o,
                      .b = out,
                      .k = vkernel_best(),
                      .ids = ids,
                      .v = v,
                      .n = n,
                      .pad = vseg_pad(o->dim),
                      .stride = vseg_stride(&out->rec, PART_HOT),
                      .slack = SLACK(o->links),
                      .width = o->width < CAND_MAX ? o->width : CAND_MAX,
                      .worked_from = cairn_now_us()};
    unsigned threads = o->threads ? o->threads : 1;
    uint32_t *order = cairn_reallocarray(NULL, n, 4);
    out->part[PART_HOT] = cairn_calloc(n, x.stride);
    out->part[PART_IDS] = cairn_calloc(n, 8);
    out->part[PART_ORDER] = cairn_calloc(n, 8);
    out->perm = cairn_reallocarray(NULL, n, 4);
    x.norm2 = cairn_reallocarray(NULL, n, sizeof(float));
    x.list_of = cairn_reallocarray(NULL, n, 4);
    x.adj = cairn_reallocarray(NULL, (size_t)n * x.slack, 4);
    x.deg = cairn_calloc(n, 4);
    bool ok = order && out->part[PART_HOT] && out->part[PART_IDS] && out->part[PART_ORDER] && out->perm &&
              x.norm2 && x.list_of && x.adj && x.deg && workers_make(&x, threads);
    enum cairn_err err = ok ? CAIRN_OK : no_memory(why);
    if (!err)
        err = cairn_pool_open(&x.pool, threads, why);
    if (!err && o->metric == METRIC_COSINE)
        err = choose_scale(&x, why);
    if (!err)
        err = tell(&x, "clustering", 0, n, why);
    if (!err)
        err = make_lists(&x, why);
    if (!err) {
        cairn_pool_run(x.pool, n, 64, assign, &x);
        err = sort_rows(&x, why);
    }
    if (!err)
        x.entry = cairn_reallocarray(NULL, out->rec.n_lists, 4);
    if (!err && !x.entry)
        err = no_memory(why);
    if (!err) {
        memset(x.entry, 0xff, (size_t)out->rec.n_lists * 4);
        cairn_pool_run(x.pool, n, 64, encode, &x);
        medoids(&x);
        shuffle(order, n, out->rec.rotation);
        err = insert_all(&x, order, why);
    }
    if (!err) {
        cairn_pool_run(x.pool, n, 256, prune_all, &x);
        err = connect(&x, why);
    }
    if (!err)
        finish(&x);
    cairn_pool_close(x.pool);
    workers_free(&x, threads);
    cairn_free(order);
    cairn_free(x.norm2);
    cairn_free(x.list_of);
    cairn_free(x.adj);
    cairn_free(x.deg);
    cairn_free(x.entry);
    cairn_free(x.edges);
    cairn_free(x.heads);
    if (err)
        vbuilt_release(out);
    return err;
}

void vbuilt_release(struct vbuilt *b)
{
    for (int p = 0; p < PART_N; p++)
        cairn_free(b->part[p]);
    cairn_free(b->perm);
    *b = (struct vbuilt){0};
}
