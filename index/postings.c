/* postings.c - see postings.h. Layout, keys starting with u32 collection:
 *
 *   term     word               -> u32 term
 *   posting  term, 0            -> varint df; front; word (the way back to `term`)
 *   posting  term, upper bound  -> front; varint n; n x (varint id delta, varint tf, varint len)
 *
 * The first delta counts from 0. A block's key is an upper bound of its ids, above all ids of the block
 * before, so that one search from the root finds the block of a passage. The last block of a term is open:
 * its bound is 2^32-1, appending changes no key; with more than 128 postings it is sealed under its last id.
 * Deletes leave bounds as they are. A front is varint n, n x (varint tf, varint len), both descending.
 *
 * Search is block-max WAND (Ding and Suel 2011) in passage order, under the filter; scores are summed in
 * query order in double and compared as float, the form in which they are returned, so that skipping changes
 * neither order nor ties. */
#include "postings.h"
#include "codec.h"
#include "store.h"
#include "vindex.h"

#include <math.h>
#include <stdlib.h>

#define OPEN_BLOCK UINT32_MAX
#define MERGE_BELOW 32u /* a block that deletes left smaller than this joins the next, when they fit */
#define STOP_STEPS 4096u

/* ---- fronts ---- */

bool front_covers(const struct front *f, uint32_t tf, uint32_t len)
{
    for (uint32_t i = 0; i < f->n; i++)
        if (f->at[i].tf >= tf && f->at[i].len <= len)
            return true;
    return false;
}

void front_add(struct front *f, uint32_t tf, uint32_t len)
{
    if (front_covers(f, tf, len))
        return;
    uint32_t n = 0;
    for (uint32_t i = 0; i < f->n; i++) /* what the new pair covers goes */
        if (!(tf >= f->at[i].tf && len <= f->at[i].len))
            f->at[n++] = f->at[i];
    f->n = n;
    if (n == FRONT_MAX) { /* full: the two lowest frequencies become one pair that covers both */
        f->at[n - 2].len = f->at[n - 1].len;
        f->n = n - 1;
        front_add(f, tf, len); /* the new pair may be covered now, or cover the merged one */
        return;
    }
    uint32_t i = n;
    for (; i > 0 && f->at[i - 1].tf < tf; i--)
        f->at[i] = f->at[i - 1];
    f->at[i].tf = tf;
    f->at[i].len = len;
    f->n = n + 1;
}

static void wr_front(struct cairn_buf *b, const struct front *f)
{
    wr_varint(b, f->n);
    for (uint32_t i = 0; i < f->n; i++) {
        wr_varint(b, f->at[i].tf);
        wr_varint(b, f->at[i].len);
    }
}

static void rd_front(struct rd *r, struct front *f)
{
    f->n = rd_var32(r);
    if (f->n > FRONT_MAX) {
        f->n = 0;
        r->bad = true;
    }
    for (uint32_t i = 0; i < f->n; i++) {
        f->at[i].tf = rd_var32(r);
        f->at[i].len = rd_var32(r);
    }
}

/* ---- values ---- */

static struct kv_key *posting_key(struct kv_key *k, uint32_t coll, uint32_t term, uint32_t bound)
{
    return key_u32(key_u32(key_u32(key_reset(k), coll), term), bound);
}

enum cairn_err term_parse(struct cairn_str key, struct cairn_str payload, struct term_head *h,
                          struct cairn_why *why)
{
    struct rd r = rd_of(payload);
    h->df = rd_var32(&r);
    rd_front(&r, &h->front);
    h->word = rd_str(&r);
    return rd_done(&r) && h->df > 0 && h->word.len > 0
               ? CAIRN_OK
               : kv_corrupt(why, DB_POSTING, key.p, key.len, "not a term's head");
}

static enum cairn_err head_get(struct kv *kv, uint32_t coll, uint32_t term, struct term_head *h,
                               struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    enum cairn_err err = kv_get(kv, DB_POSTING, posting_key(&k, coll, term, 0), &v, why);
    return err ? err : term_parse((struct cairn_str){(const char *)k.b, k.len}, v, h, why);
}

static enum cairn_err head_put(struct kv *kv, uint32_t coll, uint32_t term, const struct term_head *h,
                               struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_buf b;
    cairn_buf_init(&b, 4096);
    wr_varint(&b, h->df);
    wr_front(&b, &h->front);
    wr_str(&b, h->word);
    enum cairn_err err = kv_put_buf(kv, DB_POSTING, posting_key(&k, coll, term, 0), &b, why);
    cairn_buf_release(&b);
    return err;
}

static bool block_decode(struct rd *r, uint32_t n, struct posting *out)
{
    uint32_t id = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t delta = rd_var32(r);
        if (delta == 0 || delta > UINT32_MAX - id)
            return false;
        id += delta;
        out[i].id = id;
        out[i].tf = rd_var32(r);
        out[i].len = rd_var32(r);
    }
    return rd_done(r);
}

enum cairn_err block_parse(struct cairn_str key, struct cairn_str payload, struct block *b,
                           struct cairn_why *why)
{
    struct rd r = rd_of(payload);
    rd_front(&r, &b->front);
    b->n = rd_var32(&r);
    if (r.bad || b->n == 0 || b->n > POSTINGS_BLOCK_MAX || !block_decode(&r, b->n, b->at))
        return kv_corrupt(why, DB_POSTING, key.p, key.len, "not a block of postings");
    return CAIRN_OK;
}

static enum cairn_err block_put(struct kv *kv, uint32_t coll, uint32_t term, uint32_t bound,
                                const struct posting *at, uint32_t n, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_buf b;
    struct front f = {0};
    cairn_buf_init(&b, 8192);
    for (uint32_t i = 0; i < n; i++)
        front_add(&f, at[i].tf, at[i].len);
    wr_front(&b, &f);
    wr_varint(&b, n);
    for (uint32_t i = 0, before = 0; i < n; i++) {
        wr_varint(&b, at[i].id - before);
        wr_varint(&b, at[i].tf);
        wr_varint(&b, at[i].len);
        before = at[i].id;
    }
    enum cairn_err err = kv_put_buf(kv, DB_POSTING, posting_key(&k, coll, term, bound), &b, why);
    cairn_buf_release(&b);
    return err;
}

/* ---- terms ---- */

static struct kv_key *word_key(struct kv_key *k, uint32_t coll, struct cairn_str word)
{
    return key_bytes(key_u32(key_reset(k), coll), word.p, word.len);
}

enum cairn_err term_find(struct kv *kv, uint32_t coll, struct cairn_str word, uint32_t *term,
                         struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    enum cairn_err err = kv_get(kv, DB_TERM, word_key(&k, coll, word), &v, why);
    if (err)
        return err;
    struct rd r = rd_of(v);
    *term = rd_u32(&r);
    return rd_done(&r) ? CAIRN_OK : kv_corrupt(why, DB_TERM, k.b, k.len, "not a term");
}

enum cairn_err term_make(struct kv *kv, uint32_t coll, struct cairn_str word, uint32_t *next_term,
                         uint32_t *term, struct cairn_why *why)
{
    enum cairn_err err = term_find(kv, coll, word, term, why);
    if (err != CAIRN_ENOTFOUND)
        return err;
    if (*next_term == UINT32_MAX)
        return cairn_fail(why, CAIRN_EFULL, "the collection has used all term numbers; rebuild it");
    struct kv_key k;
    uint8_t b[4];
    *term = (*next_term)++;
    memcpy(b, term, 4);
    return kv_put(kv, DB_TERM, word_key(&k, coll, word), b, sizeof(b), why);
}

/* ---- writing ---- */

static enum cairn_err missing(uint32_t coll, uint32_t term, uint32_t bound, struct cairn_why *why)
{
    struct kv_key k;
    posting_key(&k, coll, term, bound);
    return kv_corrupt(why, DB_POSTING, k.b, k.len, "a posting of a passage is missing");
}

/* Reads the block that holds id (bound >= id); *bound is its key. */
static enum cairn_err block_of(struct kv_cursor *c, uint32_t coll, uint32_t term, uint32_t id,
                               struct block *b, uint32_t *bound, struct cairn_why *why)
{
    struct kv_key k, prefix;
    key_u32(key_u32(key_reset(&prefix), coll), term);
    enum cairn_err err = kv_seek(c, posting_key(&k, coll, term, id), why);
    if (!err && !kv_has_prefix(c->key, &prefix))
        err = CAIRN_ENOTFOUND;
    if (err)
        return err;
    *bound = key_read_u32(c->key, 8);
    return block_parse(c->key, c->payload, b, why);
}

/* A block shrunk by deletes joins its successor under the successor's bound. */
static enum cairn_err block_shrunk(struct kv *kv, struct kv_cursor *c, uint32_t coll, uint32_t term,
                                   uint32_t bound, struct block *b, struct block *next, struct cairn_why *why)
{
    struct kv_key k;
    posting_key(&k, coll, term, bound);
    if (b->n == 0)
        return kv_del(kv, DB_POSTING, &k, why);
    uint32_t next_bound;
    if (b->n < MERGE_BELOW && bound != OPEN_BLOCK) {
        enum cairn_err err = block_of(c, coll, term, bound + 1, next, &next_bound, why);
        if (!err && b->n + next->n <= POSTINGS_BLOCK_MAX * 3 / 4) {
            memcpy(b->at + b->n, next->at, next->n * sizeof(next->at[0]));
            err = kv_del(kv, DB_POSTING, &k, why);
            return err ? err : block_put(kv, coll, term, next_bound, b->at, b->n + next->n, why);
        }
        if (err && err != CAIRN_ENOTFOUND)
            return err;
    }
    return block_put(kv, coll, term, bound, b->at, b->n, why);
}

enum cairn_err postings_remove(struct kv *kv, uint32_t coll, uint32_t term, const uint32_t *ids, size_t n,
                               struct cairn_why *why)
{
    struct term_head h;
    char word[KV_KEY_MAX];
    enum cairn_err err = head_get(kv, coll, term, &h, why);
    if (err == CAIRN_ENOTFOUND || (!err && (h.df < n || h.word.len > sizeof(word))))
        err = missing(coll, term, 0, why);
    struct kv_cursor c = {0};
    if (!err) {
        memcpy(word, h.word.p, h.word.len); /* the next write ends the loan */
        h.word.p = word;
        err = kv_cursor_open(&c, kv, DB_POSTING, why);
    }
    for (size_t i = 0; i < n && !err;) {
        struct block b, next;
        uint32_t bound = 0, kept = 0;
        err = block_of(&c, coll, term, ids[i], &b, &bound, why);
        if (err == CAIRN_ENOTFOUND)
            err = missing(coll, term, ids[i], why);
        if (err)
            break;
        for (uint32_t j = 0; j < b.n; j++) {
            if (i < n && b.at[j].id == ids[i])
                i++;
            else
                b.at[kept++] = b.at[j];
        }
        if (kept == b.n || (i < n && ids[i] <= bound && bound != OPEN_BLOCK))
            err = missing(coll, term, ids[i], why);
        b.n = kept;
        if (!err)
            err = block_shrunk(kv, &c, coll, term, bound, &b, &next, why);
    }
    kv_cursor_close(&c);
    if (err)
        return err;
    h.df -= (uint32_t)n;
    if (h.df > 0)
        return head_put(kv, coll, term, &h, why);
    struct kv_key k;
    err = kv_del(kv, DB_POSTING, posting_key(&k, coll, term, 0), why);
    if (!err)
        err = kv_del(kv, DB_TERM, word_key(&k, coll, h.word), why);
    return err == CAIRN_ENOTFOUND ? missing(coll, term, 0, why) : err;
}

enum cairn_err postings_add(struct kv *kv, uint32_t coll, uint32_t term, struct cairn_str word,
                            const struct posting *add, size_t n, struct cairn_why *why)
{
    struct term_head h;
    struct kv_key k;
    struct cairn_str v;
    struct block b = {0};
    enum cairn_err err = head_get(kv, coll, term, &h, why);
    if (err == CAIRN_ENOTFOUND) {
        h = (struct term_head){0};
        err = CAIRN_OK;
    } else if (!err) { /* a term that has been sealed to the last posting has no open block */
        err = kv_get(kv, DB_POSTING, posting_key(&k, coll, term, OPEN_BLOCK), &v, why);
        if (!err)
            err = block_parse((struct cairn_str){(const char *)k.b, k.len}, v, &b, why);
        else if (err == CAIRN_ENOTFOUND)
            err = CAIRN_OK;
    }
    if (err)
        return err;
    h.word = word;
    h.df += (uint32_t)n;
    for (size_t i = 0; i < n && !err; i++) {
        if (b.n == POSTINGS_BLOCK_MAX) {
            err = block_put(kv, coll, term, b.at[b.n - 1].id, b.at, b.n, why);
            b.n = 0;
        }
        b.at[b.n++] = add[i];
        front_add(&h.front, add[i].tf, add[i].len);
    }
    if (!err)
        err = block_put(kv, coll, term, OPEN_BLOCK, b.at, b.n, why);
    return err ? err : head_put(kv, coll, term, &h, why);
}

/* ---- BM25 ---- */

double bm25_idf(const struct bm25 *m, double df)
{
    return log(1.0 + (m->n_passages - df + 0.5) / (df + 0.5));
}

double bm25_part(const struct bm25 *m, uint32_t tf, uint32_t len)
{
    double norm = m->k1 * (1.0 - m->b + m->b * (double)len / m->avg_len);
    return (double)tf * (m->k1 + 1.0) / ((double)tf + norm);
}

static double front_bound(const struct bm25 *m, const struct front *f, double weight)
{
    double most = 0;
    for (uint32_t i = 0; i < f->n; i++)
        most = fmax(most, bm25_part(m, f->at[i].tf, f->at[i].len));
    return weight * most * (1.0 + 1e-9); /* rounding must not turn a bound into less than a score */
}

/* ---- search ---- */

struct walk {
    struct kv_cursor c;
    struct kv_key prefix;
    uint32_t coll, term;
    double weight, bound; /* of the whole term */
    uint32_t doc;         /* where it stands; UINT32_MAX: at its end */
    uint32_t block_end;   /* the block under the cursor holds nothing above this */
    double block_bound;
    bool open, decoded, done; /* open: a block is under the cursor; done: no block is left */
    struct rd body;
    uint32_t n, pos;
    struct posting at[POSTINGS_BLOCK_MAX];
};

static enum cairn_err walk_load(struct walk *w, enum cairn_err got, const struct bm25 *m,
                                struct cairn_why *why)
{
    if (got == CAIRN_ENOTFOUND || (!got && !kv_has_prefix(w->c.key, &w->prefix))) {
        w->done = true;
        w->block_end = UINT32_MAX;
        w->block_bound = 0;
        return CAIRN_OK;
    }
    if (got)
        return got;
    struct front f;
    w->body = rd_of(w->c.payload);
    rd_front(&w->body, &f);
    w->n = rd_var32(&w->body);
    if (w->body.bad || w->n == 0 || w->n > POSTINGS_BLOCK_MAX || w->c.key.len != 12)
        return kv_corrupt(why, DB_POSTING, w->c.key.p, w->c.key.len, "not a block of postings");
    w->block_end = key_read_u32(w->c.key, 8);
    w->block_bound = front_bound(m, &f, w->weight);
    w->decoded = false;
    w->open = true;
    return CAIRN_OK;
}

/* Puts the cursor on the block that would hold doc, without decoding it. */
static enum cairn_err walk_shallow(struct walk *w, uint32_t doc, const struct bm25 *m, struct cairn_why *why)
{
    if (w->done || (w->open && doc <= w->block_end))
        return CAIRN_OK;
    struct kv_key k;
    enum cairn_err err;
    if (w->open) { /* most steps go to the neighbour */
        err = walk_load(w, kv_next(&w->c, why), m, why);
        if (err || w->done || doc <= w->block_end)
            return err;
    }
    return walk_load(w, kv_seek(&w->c, posting_key(&k, w->coll, w->term, doc ? doc : 1), why), m, why);
}

/* Stands on the first posting >= doc. */
static enum cairn_err walk_to(struct walk *w, uint32_t doc, const struct bm25 *m, struct cairn_why *why)
{
    for (;;) {
        enum cairn_err err = walk_shallow(w, doc, m, why);
        if (err)
            return err;
        if (w->done) {
            w->doc = UINT32_MAX;
            return CAIRN_OK;
        }
        if (!w->decoded) {
            struct rd r = w->body;
            if (!block_decode(&r, w->n, w->at))
                return kv_corrupt(why, DB_POSTING, w->c.key.p, w->c.key.len, "not a block of postings");
            w->decoded = true;
            w->pos = 0;
        }
        while (w->pos < w->n && w->at[w->pos].id < doc)
            w->pos++;
        if (w->pos < w->n) {
            w->doc = w->at[w->pos].id;
            return CAIRN_OK;
        }
        if (w->block_end == UINT32_MAX) { /* the open block is the last */
            w->done = true;
            w->doc = UINT32_MAX;
            return CAIRN_OK;
        }
        doc = w->block_end + 1;
    }
}

static void order_by_doc(struct walk **by, size_t n) /* nearly sorted: insertion */
{
    for (size_t i = 1; i < n; i++) {
        struct walk *w = by[i];
        size_t j = i;
        for (; j > 0 && by[j - 1]->doc > w->doc; j--)
            by[j] = by[j - 1];
        by[j] = w;
    }
}

static void score_doc(struct walk *walks, size_t n, uint32_t doc, const struct bm25 *m, struct topk *top)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        if (walks[i].doc == doc)
            sum +=
                walks[i].weight * bm25_part(m, walks[i].at[walks[i].pos].tf, walks[i].at[walks[i].pos].len);
    topk_push(top, (struct store_hit){doc, (float)sum});
}

static enum cairn_err run_exhaustive(struct walk *walks, size_t n, const struct lexical_query *q,
                                     struct topk *top, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (;;) {
        uint32_t doc = UINT32_MAX;
        for (size_t i = 0; i < n; i++)
            doc = walks[i].doc < doc ? walks[i].doc : doc;
        if (doc == UINT32_MAX || err)
            return err;
        if (idset_has(q->filter, doc))
            score_doc(walks, n, doc, &q->model, top);
        for (size_t i = 0; i < n && !err; i++)
            if (walks[i].doc == doc)
                err = walk_to(&walks[i], doc + 1, &q->model, why);
    }
}

static enum cairn_err run_wand(struct walk *walks, struct walk **by, size_t n, const struct lexical_query *q,
                               struct topk *top, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (uint64_t steps = 0; !err; steps++) {
        if (steps % STOP_STEPS == 0 && (err = cairn_stopped(q->stop, why)))
            break;
        order_by_doc(by, n);
        /* With a full heap a passage must beat the worst hit: an equal score has the higher id and loses. */
        bool full = topk_full(top);
        float worst = full ? top->heap[0].score : 0;
        double sum = 0;
        size_t pivot = 0;
        for (; pivot < n && by[pivot]->doc != UINT32_MAX; pivot++) {
            sum += by[pivot]->bound;
            if (!full || (float)sum > worst)
                break;
        }
        if (pivot == n || by[pivot]->doc == UINT32_MAX)
            break;
        uint32_t doc = by[pivot]->doc;
        while (pivot + 1 < n && by[pivot + 1]->doc == doc)
            pivot++;
        uint32_t allowed = idset_next(q->filter, doc);
        if (allowed != doc) { /* nothing between may be seen: all go to the next that may */
            for (size_t i = 0; i <= pivot && !err; i++)
                err = walk_to(by[i], allowed, &q->model, why);
            continue;
        }
        uint32_t end = UINT32_MAX;
        sum = 0;
        for (size_t i = 0; i <= pivot && !err; i++) {
            err = walk_shallow(by[i], doc, &q->model, why);
            sum += by[i]->block_bound;
            end = by[i]->block_end < end ? by[i]->block_end : end;
        }
        if (err)
            break;
        if (full &&
            (float)sum <=
                worst) { /* these blocks cannot hold a hit: behind the first to end, or the next term */
            uint32_t next = end == UINT32_MAX ? end : end + 1;
            if (pivot + 1 < n && by[pivot + 1]->doc < next)
                next = by[pivot + 1]->doc;
            if (next <= doc)
                next = doc + 1;
            for (size_t i = 0; i <= pivot && !err; i++)
                if (by[i]->doc < next)
                    err = walk_to(by[i], next, &q->model, why);
            continue;
        }
        if (by[0]->doc == doc) {
            score_doc(walks, n, doc, &q->model, top);
            for (size_t i = 0; i <= pivot && !err; i++)
                err = walk_to(by[i], doc + 1, &q->model, why);
        } else {
            for (size_t i = 0; i <= pivot && !err && by[i]->doc < doc; i++)
                err = walk_to(by[i], doc, &q->model, why);
        }
    }
    return err;
}

enum cairn_err lexical_search(struct kv *kv, uint32_t coll, const struct lexical_query *q,
                              struct store_hit *hits, size_t *n_hits, struct cairn_why *why)
{
    *n_hits = 0;
    if (q->k == 0 || q->n == 0 || q->model.n_passages == 0 || idset_next(q->filter, 0) == UINT32_MAX)
        return CAIRN_OK;
    struct topk top = {.heap = hits, .k = q->k};
    struct walk *walks = cairn_calloc(q->n, sizeof(*walks));
    struct walk **by = cairn_calloc(q->n, sizeof(struct walk *));
    enum cairn_err err =
        walks && by ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "no memory for a query of %zu words", q->n);
    size_t n = 0;
    uint32_t first = idset_next(q->filter, 0);
    for (size_t i = 0; i < q->n && !err; i++) {
        struct walk *w = &walks[n];
        struct term_head h;
        err = term_find(kv, coll, q->words[i], &w->term, why);
        if (err == CAIRN_ENOTFOUND) {
            err = CAIRN_OK;
            continue;
        }
        if (!err)
            err = head_get(kv, coll, w->term, &h, why);
        if (err == CAIRN_ENOTFOUND)
            err = missing(coll, w->term, 0, why);
        if (err)
            break;
        w->coll = coll;
        w->weight = bm25_idf(&q->model, h.df) * q->counts[i];
        w->bound = front_bound(&q->model, &h.front, w->weight);
        key_u32(key_u32(key_reset(&w->prefix), coll), w->term);
        by[n++] = w;
        err = kv_cursor_open(&w->c, kv, DB_POSTING, why);
        if (!err)
            err = walk_to(w, first, &q->model, why);
    }
    if (!err)
        err = q->exhaustive ? run_exhaustive(walks, n, q, &top, why) : run_wand(walks, by, n, q, &top, why);
    if (!err) {
        topk_sort(&top);
        *n_hits = top.n;
    }
    for (size_t i = 0; walks && i < q->n; i++)
        kv_cursor_close(&walks[i].c);
    cairn_free(walks);
    cairn_free(by);
    return err;
}
