/* vsearch.c - searching one segment: graph walk, two-hop walk under a filter, runs of lists (IVF), flat, and
 * the scan of a filter's rows. All of them fill one pool of candidates sorted by the codes' score; the best
 * of the pool are scored again by their f32 rows, which is what a caller sees.
 *
 * The walk is best-first search over one layer (Malkov and Yashunin 2016, Subramanya et al. 2019), entered at
 * the medoid of the cluster nearest to the query instead of through upper layers. The two-hop walk scores
 * only rows the filter lets through and looks through others to their neighbours (ACORN-1, Patel et al.
 * 2024). Measured on 200,000 x 384: the time goes to cache misses, so rows are prefetched when they are
 * collected and scored four at a time. */
#include "vseg.h"

#include <math.h>
#include <stdlib.h>

#define POOL_MAX 16384u
#define IDLE_MAX 8u
#define EXPANDED 0x80000000u
#define STOP_EVERY 4096u

struct cand {
    float score;
    uint32_t row; /* EXPANDED: its links were read */
};
struct vscratch {
    struct vscratch *next;
    struct cand *pool;
    uint64_t *seen; /* all zero between searches */
    uint32_t *touched, n_touched, seen_words;
    int8_t *codes;
    float *tmp;
    struct cand *lists;
};

/* ---- scratch ---- */

void vscratch_free(struct vscratch *s)
{
    if (!s)
        return;
    cairn_free(s->pool);
    cairn_free(s->seen);
    cairn_free(s->touched);
    cairn_free(s->codes);
    cairn_free(s->tmp);
    cairn_free(s->lists);
    cairn_free(s);
}

struct vscratch *vscratch_pop(struct vcache *c)
{
    struct vscratch *s = c->idle;
    if (s) {
        c->idle = s->next;
        c->n_idle--;
    }
    return s;
}

enum cairn_err vscratch_take(struct vscratch **out, struct vcache *c, struct cairn_why *why)
{
    *out = NULL;
    if (c) {
        pthread_mutex_lock(&c->lock);
        *out = vscratch_pop(c);
        pthread_mutex_unlock(&c->lock);
    }
    if (*out)
        return CAIRN_OK;
    struct vscratch *s = cairn_calloc(1, sizeof(*s));
    if (s) {
        s->pool = cairn_reallocarray(NULL, POOL_MAX + 1, sizeof(*s->pool));
        s->codes = cairn_calloc(1, VECTOR_DIM_MAX);
        s->tmp = cairn_reallocarray(NULL, VECTOR_DIM_MAX, sizeof(float));
        s->lists = cairn_reallocarray(NULL, VSEG_LISTS_MAX, sizeof(*s->lists));
    }
    if (!s || !s->pool || !s->codes || !s->tmp || !s->lists) {
        vscratch_free(s);
        return cairn_fail(why, CAIRN_ENOMEM, "no memory for a vector search");
    }
    *out = s;
    return CAIRN_OK;
}

void vscratch_give(struct vscratch *s, struct vcache *c)
{
    if (s && c) {
        pthread_mutex_lock(&c->lock);
        if (c->n_idle < IDLE_MAX) {
            s->next = c->idle;
            c->idle = s;
            c->n_idle++;
            s = NULL;
        }
        pthread_mutex_unlock(&c->lock);
    }
    vscratch_free(s);
}

static enum cairn_err seen_room(struct vscratch *x, uint32_t n, struct cairn_why *why)
{
    uint32_t words = n / 64 + 1;
    if (words <= x->seen_words)
        return CAIRN_OK;
    uint64_t *seen = cairn_calloc(words, 8);
    uint32_t *touched = cairn_reallocarray(NULL, (size_t)words, 4);
    if (!seen || !touched) {
        cairn_free(seen);
        cairn_free(touched);
        return cairn_fail(why, CAIRN_ENOMEM, "no memory for a vector search");
    }
    cairn_free(x->seen);
    cairn_free(x->touched);
    x->seen = seen;
    x->touched = touched;
    x->seen_words = words;
    return CAIRN_OK;
}

void vfilter_release(struct vfilter *f)
{
    for (size_t i = 0; i < f->n_members; i++)
        cairn_free(f->members[i].rows);
    cairn_free(f->members);
    f->members = NULL;
    f->n_members = 0;
}

/* ---- a search in progress ---- */

struct search {
    const struct vseg *s;
    const struct vwalk *w;
    struct vscratch *x;
    const struct vkernel *k;
    struct cairn_why *why;
    const int8_t *q;
    uint32_t pad, links_at, n_pool, cap; /* cap: width of the pool */
    uint32_t n_hits;                     /* wanted */
    float qscale;
    bool tail;
    uint64_t n_scored;
};

static inline void prefetch(const uint8_t *p, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(p + i);
}

static inline const uint8_t *hot(struct search *h, uint32_t row)
{
    return vseg_row(h->s, PART_HOT, row, h->why);
}

static inline float score_of(const struct search *h, const uint8_t *row, int32_t dot)
{
    if (!h->tail)
        return (float)dot;
    float t[2];
    memcpy(t, row + h->links_at + 4 * h->s->rec.links, 8);
    return (float)dot * (h->qscale * t[0]) + t[1];
}

/* Puts a candidate where it belongs among the best `cap`; returns its place, or n_pool when it is too bad. */
static inline uint32_t pool_put(struct search *h, float score, uint32_t row)
{
    struct cand *p = h->x->pool;
    uint32_t m = h->n_pool;
    if (m == h->cap && score <= p[m - 1].score)
        return m;
    uint32_t lo = 0, hi = m;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (p[mid].score >= score)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (m < h->cap)
        h->n_pool = ++m;
    memmove(p + lo + 1, p + lo, (size_t)(m - 1 - lo) * sizeof(*p));
    p[lo] = (struct cand){score, row};
    return lo;
}

/* Scores rows at addresses that were prefetched; returns the smallest place in the pool that changed. */
static uint32_t score_rows(struct search *h, const uint32_t *rows, const uint8_t *const *at, uint32_t n)
{
    uint32_t low = UINT32_MAX;
    h->n_scored += n;
    for (uint32_t i = 0; i < n; i += 4) {
        int32_t dot[4];
        uint32_t m = n - i < 4 ? n - i : 4;
        if (m == 4)
            h->k->rows4(at + i, h->q, h->pad, dot);
        else
            for (uint32_t j = 0; j < m; j++)
                dot[j] = h->k->row(at[i + j], h->q, h->pad);
        for (uint32_t j = 0; j < m; j++) {
            float score = score_of(h, at[i + j], dot[j]);
            uint32_t place = pool_put(h, score, rows[i + j]);
            if (place < h->n_pool) {
                low = place < low ? place : low;
                __builtin_prefetch(at[i + j] + h->links_at);
                __builtin_prefetch(at[i + j] + h->links_at + 64);
            }
        }
    }
    return low;
}

static inline bool see(struct vscratch *x, uint32_t row)
{
    uint64_t bit = 1ull << (row & 63), *word = &x->seen[row >> 6];
    if (*word & bit)
        return false;
    if (!*word)
        x->touched[x->n_touched++] = row >> 6;
    *word |= bit;
    return true;
}

static void forget(struct vscratch *x)
{
    for (uint32_t i = 0; i < x->n_touched; i++)
        x->seen[x->touched[i]] = 0;
    x->n_touched = 0;
}

/* The n best lists for the query, best first, in x->lists. */
static enum cairn_err rank_lists(struct search *h, uint32_t want, uint32_t *n_out)
{
    const struct vpart *p = &h->s->part[PART_LISTS];
    struct cand *best = h->x->lists;
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n; i += 4) {
        const uint8_t *at[4];
        int32_t dot[4];
        uint32_t m = p->n - i < 4 ? p->n - i : 4;
        for (uint32_t j = 0; j < m; j++) {
            at[j] = vseg_row(h->s, PART_LISTS, i + j, h->why);
            if (!at[j])
                return CAIRN_ECORRUPT;
        }
        if (m == 4)
            h->k->rows4(at, h->q, h->pad, dot);
        else
            for (uint32_t j = 0; j < m; j++)
                dot[j] = h->k->row(at[j], h->q, h->pad);
        for (uint32_t j = 0; j < m; j++) {
            float score = vseg_list_score(at[j], h->pad, h->qscale, dot[j]);
            if (n == want && score <= best[n - 1].score)
                continue;
            uint32_t k = n < want ? n++ : n - 1;
            for (; k > 0 && best[k - 1].score < score; k--)
                best[k] = best[k - 1];
            best[k] = (struct cand){score, i + j};
        }
    }
    *n_out = n;
    return CAIRN_OK;
}

static enum cairn_err list_get(struct search *h, uint32_t list, uint32_t *from, uint32_t *to,
                               uint32_t *medoid)
{
    uint32_t v[2], next = h->s->rec.n;
    const uint8_t *p = vseg_row(h->s, PART_LISTS, list, h->why);
    if (!p)
        return CAIRN_ECORRUPT;
    memcpy(v, p + h->pad, 8);
    if (list + 1 < h->s->rec.n_lists) {
        p = vseg_row(h->s, PART_LISTS, list + 1, h->why);
        if (!p)
            return CAIRN_ECORRUPT;
        memcpy(&next, p + h->pad, 4);
    }
    if (v[0] >= next || next > h->s->rec.n || v[1] < v[0] || v[1] >= next)
        return cairn_fail(h->why, CAIRN_ECORRUPT, "a segment's list %u is not a run of rows", list);
    *from = v[0];
    *to = next;
    *medoid = v[1];
    return CAIRN_OK;
}

/* ---- walks ---- */

/* Whether the filter lets a row through. */
static enum cairn_err passes(struct search *h, uint32_t row, bool *yes)
{
    const uint8_t *p = vseg_row(h->s, PART_IDS, row, h->why);
    uint32_t id;
    if (!p)
        return CAIRN_ECORRUPT;
    memcpy(&id, p, 4);
    *yes = idset_has(h->w->filter->set, id);
    return CAIRN_OK;
}

static enum cairn_err bad_link(struct search *h, uint32_t row)
{
    return cairn_fail(h->why, CAIRN_ECORRUPT, "a link of row %u leaves its segment; run `cairn debug check`",
                      row);
}

struct batch {
    uint32_t n, rows[2 * VSEG_LINKS_MAX];
    const uint8_t *at[2 * VSEG_LINKS_MAX];
};

static inline enum cairn_err collect(struct search *h, struct batch *b, uint32_t row)
{
    const uint8_t *at = hot(h, row);
    if (!at)
        return CAIRN_ECORRUPT;
    prefetch(at, h->pad);
    b->rows[b->n] = row;
    b->at[b->n++] = at;
    return CAIRN_OK;
}

/* Collects the unseen neighbours of `at`: all of them, or, filtered, those let through; those that are not go
 * to through[] (to be looked through). */
static enum cairn_err neighbours(struct search *h, const uint8_t *at, uint32_t row, bool filtered,
                                 struct batch *b, uint32_t room, uint32_t *through, uint32_t *n_through)
{
    uint32_t links[VSEG_LINKS_MAX], n = h->s->rec.links;
    memcpy(links, at + h->links_at, (size_t)n * 4);
    for (uint32_t i = 0; i < n && b->n < room; i++) {
        uint32_t v = links[i];
        if (v >= h->s->rec.n) {
            if (v == VSEG_NONE)
                break;
            return bad_link(h, row);
        }
        bool yes = true;
        enum cairn_err err = CAIRN_OK;
        if (!see(h->x, v))
            continue;
        if (filtered)
            err = passes(h, v, &yes);
        if (!err && yes)
            err = collect(h, b, v);
        else if (!err && through) {
            through[(*n_through)++] = v;
            const uint8_t *p = hot(h, v);
            if (!p)
                return CAIRN_ECORRUPT;
            __builtin_prefetch(p + h->links_at);
            __builtin_prefetch(p + h->links_at + 64);
        }
        if (err)
            return err;
    }
    return CAIRN_OK;
}

static enum cairn_err walk(struct search *h, bool filtered)
{
    struct cand *pool = h->x->pool;
    uint32_t room = 2 * h->s->rec.links; /* of a two-hop step; a plain one has at most `links` */
    uint64_t stop_at = STOP_EVERY;
    for (uint32_t cur = 0; cur < h->n_pool;) {
        if (pool[cur].row & EXPANDED) {
            cur++;
            continue;
        }
        uint32_t row = pool[cur].row, through[VSEG_LINKS_MAX], n_through = 0;
        pool[cur].row |= EXPANDED;
        struct batch b = {.n = 0};
        const uint8_t *at = hot(h, row);
        enum cairn_err err = at ? CAIRN_OK : CAIRN_ECORRUPT;
        if (!err)
            err = neighbours(h, at, row, filtered, &b, room, through, &n_through);
        for (uint32_t i = 0; i < n_through && b.n < room && !err; i++) {
            const uint8_t *p = hot(h, through[i]);
            err = p ? neighbours(h, p, through[i], true, &b, room, NULL, NULL) : CAIRN_ECORRUPT;
        }
        if (!err && h->n_scored > stop_at) {
            stop_at = h->n_scored + STOP_EVERY;
            err = cairn_stopped(h->w->stop, h->why);
        }
        if (err)
            return err;
        uint32_t low = score_rows(h, b.rows, b.at, b.n);
        if (low < cur)
            cur = low;
    }
    return CAIRN_OK;
}

static enum cairn_err enter(struct search *h, uint32_t row)
{
    struct batch b = {.n = 0};
    if (!see(h->x, row))
        return CAIRN_OK;
    enum cairn_err err = collect(h, &b, row);
    if (!err)
        (void)score_rows(h, b.rows, b.at, b.n);
    return err;
}

/* Drops from the pool what the filter does not let through. */
static enum cairn_err pool_filter(struct search *h)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < h->n_pool; i++) {
        bool yes;
        enum cairn_err err = passes(h, h->x->pool[i].row & ~EXPANDED, &yes);
        if (err)
            return err;
        if (yes)
            h->x->pool[n++] = h->x->pool[i];
    }
    h->n_pool = n;
    return CAIRN_OK;
}

/* A plain walk. Where rows that do not pass crowd around the query (a deleted topic, a filter by topic) the
 * pool may hold too few that do: then again with a wider one. */
static enum cairn_err graph(struct search *h)
{
    uint32_t n, from, to, medoid;
    bool all = h->w->filter->everything && h->s->rec.dead == 0;
    enum cairn_err err = rank_lists(h, 1, &n);
    if (!err)
        err = list_get(h, h->x->lists[0].row, &from, &to, &medoid);
    for (bool enough = false; !enough && !err;) {
        h->n_pool = 0;
        err = enter(h, medoid);
        if (!err)
            err = walk(h, false);
        forget(h->x);
        if (!err && !all)
            err = pool_filter(h);
        enough = all || (h->n_pool >= h->w->ef / 2 && h->n_pool >= h->n_hits) || h->cap >= POOL_MAX ||
                 h->cap >= h->s->rec.n;
        if (!enough)
            h->cap = h->cap * 2 > POOL_MAX ? POOL_MAX : h->cap * 2;
    }
    return err;
}

/* Enters at the first rows of the nearest lists that the filter lets through; looks at all lists only when
 * the near ones hold none. */
static enum cairn_err two_hop(struct search *h)
{
    enum { NEAR = 32, ENTRIES = 16 };
    uint32_t entries = 0, n_lists = h->s->rec.n_lists;
    enum cairn_err err = CAIRN_OK;
    for (uint32_t want = n_lists < NEAR ? n_lists : NEAR; entries == 0 && !err; want = n_lists) {
        uint32_t n, from, to, medoid;
        err = rank_lists(h, want, &n);
        for (uint32_t i = 0; i < n && entries < ENTRIES && !err; i++) {
            err = list_get(h, h->x->lists[i].row, &from, &to, &medoid);
            for (uint32_t row = from; row < to && entries < ENTRIES && !err; row++) {
                bool yes;
                err = passes(h, row, &yes);
                if (!err && yes) {
                    entries++;
                    err = enter(h, row);
                }
            }
        }
        if (want == n_lists)
            break;
    }
    return err ? err : walk(h, true);
}

/* ---- runs of rows ---- */

static enum cairn_err score_run(struct search *h, uint32_t from, uint32_t to)
{
    struct batch b = {.n = 0};
    for (uint32_t row = from; row < to; row++) {
        bool yes = true;
        enum cairn_err err = h->w->filter->everything ? CAIRN_OK : passes(h, row, &yes);
        if (!err && yes)
            err = collect(h, &b, row);
        if (!err && row % STOP_EVERY == 0)
            err = cairn_stopped(h->w->stop, h->why);
        if (err)
            return err;
        if (b.n == 16 || row + 1 == to) {
            (void)score_rows(h, b.rows, b.at, b.n);
            b.n = 0;
        }
    }
    return CAIRN_OK;
}

/* The nprobe nearest lists, and further ones while they held too few rows that pass. */
static enum cairn_err ivf(struct search *h, uint32_t *n_read)
{
    uint32_t n, from, to, medoid, n_lists = h->s->rec.n_lists;
    uint32_t want = h->w->nprobe < n_lists ? h->w->nprobe : n_lists;
    enum cairn_err err = CAIRN_OK;
    for (bool again = true; again && !err; want = n_lists) {
        h->n_pool = 0;
        err = rank_lists(h, want, &n);
        for (*n_read = 0; *n_read < n && (*n_read < h->w->nprobe || h->n_pool < h->n_hits) && !err;
             ++*n_read) {
            err = list_get(h, h->x->lists[*n_read].row, &from, &to, &medoid);
            if (!err)
                err = score_run(h, from, to);
        }
        again = h->n_pool < h->n_hits && want < n_lists;
    }
    return err;
}

static int by_row(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The filter's rows in this segment; looked up once per filter. */
static enum cairn_err members(struct search *h, const struct vmembers **out)
{
    struct vfilter *f = h->w->filter;
    const struct vseg_rec *r = &h->s->rec;
    for (size_t i = 0; i < f->n_members; i++)
        if (f->members[i].seg == r->seg) {
            *out = &f->members[i];
            return CAIRN_OK;
        }
    struct vmembers *more = cairn_reallocarray(f->members, f->n_members + 1, sizeof(*more));
    if (!more)
        return cairn_fail(h->why, CAIRN_ENOMEM, "no memory for the rows of a filter");
    f->members = more;
    struct vmembers *m = &more[f->n_members];
    uint32_t cap = f->n < r->n ? (uint32_t)f->n : r->n;
    *m = (struct vmembers){.seg = r->seg, .rows = cairn_reallocarray(NULL, cap ? cap : 1, 4)};
    if (!m->rows)
        return cairn_fail(h->why, CAIRN_ENOMEM, "no memory for the rows of a filter");
    f->n_members++;
    for (uint32_t id = idset_next(f->set, r->first); id <= r->last; id = idset_next(f->set, id + 1)) {
        uint32_t row;
        enum cairn_err err = vseg_find(h->s, id, &row, h->why);
        if (err == CAIRN_ENOTFOUND)
            err = cairn_fail(h->why, CAIRN_ECORRUPT, "passage %u is live and has no row in its segment", id);
        if (!err && m->n == cap)
            err = cairn_fail(h->why, CAIRN_ECORRUPT, "a segment of %u rows holds more passages", r->n);
        if (err) {
            cairn_free(m->rows);
            f->n_members--;
            return err;
        }
        m->rows[m->n++] = row;
        if (id == UINT32_MAX)
            break;
    }
    qsort(m->rows, m->n, sizeof(*m->rows), by_row); /* memory is read in its own order */
    *out = m;
    return CAIRN_OK;
}

/* Scores rows that are nobody's neighbours: only those that enter the full pool cost more than a comparison.
 */
static inline void score_four(struct search *h, const uint32_t *rows, const uint8_t *const *at)
{
    int32_t dot[4];
    h->k->rows4(at, h->q, h->pad, dot);
    if (!h->tail && h->n_pool == h->cap) {
        float worst = h->x->pool[h->cap - 1].score;
        if ((float)dot[0] <= worst && (float)dot[1] <= worst && (float)dot[2] <= worst &&
            (float)dot[3] <= worst)
            return;
    }
    for (uint32_t j = 0; j < 4; j++)
        (void)pool_put(h, score_of(h, at[j], dot[j]), rows[j]);
}

static enum cairn_err scan(struct search *h, const struct vmembers *m)
{
    enum { STEP = 8 };
    const uint8_t *at[2][STEP];
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n;
         i += n) { /* one step ahead, addresses are looked up and memory is asked for */
        uint32_t now = i / STEP % 2, from = i ? i + STEP : 0;
        for (uint32_t r = from; r < m->n && r < i + 2 * STEP; r++) {
            const uint8_t *row = hot(h, m->rows[r]);
            if (!row)
                return CAIRN_ECORRUPT;
            prefetch(row, h->pad);
            at[r / STEP % 2][r % STEP] = row;
        }
        n = m->n - i < STEP ? m->n - i : STEP;
        if (i % STOP_EVERY == 0) {
            enum cairn_err err = cairn_stopped(h->w->stop, h->why);
            if (err)
                return err;
        }
        if (n < STEP) {
            (void)score_rows(h, m->rows + i, at[now], n);
            continue;
        }
        score_four(h, m->rows + i, at[now]);
        score_four(h, m->rows + i + 4, at[now] + 4);
        h->n_scored += STEP;
    }
    return CAIRN_OK;
}

/* ---- f32 ranking ---- */

static enum cairn_err rank(struct search *h, uint32_t n_rank, struct topk *top)
{
    enum { AHEAD = 6 };
    const struct vseg *s = h->s;
    const struct cand *pool = h->x->pool;
    uint32_t dim = s->rec.dim, bytes = 4 * dim, n = h->n_pool < n_rank ? h->n_pool : n_rank;
    for (uint32_t i = 0; i < n && i < 2 * AHEAD; i++) {
        uint32_t row = pool[i].row & ~EXPANDED;
        __builtin_prefetch(vseg_at(&s->part[PART_IDS], row));
        if (i < AHEAD)
            prefetch(vseg_at(&s->part[PART_F32], row), bytes);
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t row = pool[i].row & ~EXPANDED, id;
        if (i + AHEAD < n)
            prefetch(vseg_at(&s->part[PART_F32], pool[i + AHEAD].row & ~EXPANDED), bytes);
        if (i + 2 * AHEAD < n)
            __builtin_prefetch(vseg_at(&s->part[PART_IDS], pool[i + 2 * AHEAD].row & ~EXPANDED));
        const uint8_t *meta = vseg_row(s, PART_IDS, row, h->why);
        if (!meta)
            return CAIRN_ECORRUPT;
        memcpy(&id, meta, 4);
        if (!idset_has(h->w->filter->set, id))
            continue;
        const uint8_t *v = vseg_row(s, PART_F32, row, h->why);
        if (!v)
            return CAIRN_ECORRUPT;
        float score, norm;
        memcpy(&norm, meta + 4, 4);
        if (((uintptr_t)v & 3) == 0) {
            score =
                vindex_score(s->rec.metric, h->w->v, h->w->norm, (const float *)(const void *)v, norm, dim);
        } else {
            memcpy(h->x->tmp, v, bytes);
            score = vindex_score(s->rec.metric, h->w->v, h->w->norm, h->x->tmp, norm, dim);
        }
        topk_push(top, (struct store_hit){id, score});
    }
    return CAIRN_OK;
}

/* ---- the planner ---- */

enum path { BY_SCAN, BY_FLAT, BY_IVF, BY_TWO_HOP, BY_GRAPH };

static enum path choose(const struct vwalk *w, const struct vseg_rec *r, struct vector_plan *plan)
{
    double members = w->share * r->n; /* expected in this segment */
    if (w->kind == VECTOR_FLAT) {
        plan->reason = "asked for";
        return BY_FLAT;
    }
    if (!w->filter->everything && members <= w->scan_max) {
        plan->reason = "few rows pass the filter";
        return BY_SCAN;
    }
    if (w->kind == VECTOR_IVF) {
        plan->reason = "asked for";
        return BY_IVF;
    }
    if (r->n <= 256) {
        plan->reason = "a small segment";
        return BY_FLAT;
    }
    if (w->filter->everything || w->share > 0.3) {
        plan->reason = w->filter->everything ? "every row passes" : "most rows pass the filter";
        return BY_GRAPH;
    }
    plan->reason = "some rows pass the filter";
    return BY_TWO_HOP;
}

enum cairn_err vseg_search(const struct vseg *s, const struct vwalk *w, struct vscratch *x, struct topk *top,
                           struct vector_plan *plan, struct cairn_why *why)
{
    static const char *const names[] = {"scan", "flat", "ivf", "two_hop", "graph"};
    struct search h = {.s = s, .w = w, .x = x, .k = vkernel_best(), .why = why, .q = x->codes};
    h.pad = vseg_pad(s->rec.dim);
    h.links_at = h.pad;
    h.tail = vseg_has_tail(&s->rec);
    if (w->share <= 0)
        return CAIRN_OK;
    enum cairn_err err = seen_room(x, s->rec.n, why);
    if (err)
        return err;
    h.qscale = vseg_encode(&s->rec, w->v, x->tmp, x->codes);
    enum path path = choose(w, &s->rec, plan);
    plan->path = names[path];
    uint32_t k = (uint32_t)top->k, n_rank;
    CAIRN_CHECK(top->k <= VSEG_HITS_MAX);
    h.n_hits = k;
    /* Rows that do not pass, dead ones too, stand in the pool of a plain walk: it must be wider by as much.
     */
    double share = w->share * (s->rec.n - s->rec.dead) / s->rec.n;
    double width = w->ef > k ? w->ef : k, wider = path == BY_GRAPH && share < 1 ? 1 / fmax(share, 0.01) : 1;
    width *= wider;
    if (path == BY_TWO_HOP &&
        w->share < 0.15) /* few neighbours pass: measured at 5 %, recall needs three times the width */
        width *= fmin(0.15 / w->share, 8);
    h.cap = width > POOL_MAX ? POOL_MAX : (uint32_t)width;
    n_rank = 24 + (w->ef > 24 ? (w->ef - 24) / 4 : 0);
    n_rank = n_rank < 2 * k ? 2 * k : n_rank;
    if (path == BY_SCAN && n_rank > 24 && 2 * k <= 24)
        n_rank = 24; /* all codes were seen: enough on every set tried, whatever the width asked for */
    if (path == BY_SCAN || path == BY_FLAT || path == BY_IVF)
        h.cap = n_rank;
    if (h.cap > s->rec.n)
        h.cap = s->rec.n;
    const struct vmembers *m = NULL;
    switch (path) {
    case BY_SCAN:
        err = members(&h, &m);
        if (!err)
            err = scan(&h, m);
        break;
    case BY_FLAT:
        err = score_run(&h, 0, s->rec.n);
        break;
    case BY_IVF:
        err = ivf(&h, &plan->nprobe);
        break;
    case BY_TWO_HOP:
        err = two_hop(&h);
        plan->ef = h.cap;
        break;
    case BY_GRAPH:
        err = graph(&h);
        plan->ef = h.cap;
        break;
    }
    if (!err && h.n_pool < k && (path == BY_TWO_HOP || path == BY_GRAPH)) {
        /* the rows that pass lie apart, or there are not as many: every one of them is looked at */
        plan->reason = "the walk found too few";
        plan->path = names[BY_SCAN];
        forget(x);
        h.n_pool = 0;
        err = members(&h, &m);
        if (!err)
            err = scan(&h, m);
    }
    forget(x);
    plan->n_scored += h.n_scored;
    return err ? err : rank(&h, n_rank, top);
}
