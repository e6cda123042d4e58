/* vindex.c - see vindex.h. Vectors of a collection live in two places: merged segments (vseg.h), which stand
 * for all passage ids up to a point, and the delta behind that point, which documents' transactions write.
 * Layout of the delta, all keys starting with u32 collection:
 *
 *   vector   passage               -> dim f32 LE: the row as it was given
 *   code     first passage of it   -> u32 rows; u32 dim; rows x u32 ids, ascending; rows x f32 scale;
 *                                     rows x f32 squared norm of scale * code; rows x dim int8
 *   segment  first passage of it   -> u32 rows, u32 dead
 *
 * A run of codes has at most 1,024 rows. Runs grow like a binary counter: new rows take in the last run while
 * that is small or not much larger than they are, so that a commit of one row rewrites little. A removed row
 * loses its f32 row at once; its code stays until a quarter of the run is dead (the filter, being made of
 * live ids, hides it), then the run is rewritten without its dead. Which ids of the delta are dead is known
 * by the f32 row alone. A removed row of a merged segment is only counted there. */
#include "vindex.h"
#include "codec.h"
#include "vseg.h"

#include <math.h>
#include <stdio.h>

#define SEGMENT_ROWS_MAX 1024u
#define SEGMENT_ROWS_SMALL 64u /* a segment up to this size is always taken in */
#define STOP_ROWS 4096u

/* ---- scores ---- */

const char *vindex_refuses(const float *v, uint32_t dim, enum vector_metric metric)
{
    double norm = 0;
    for (uint32_t i = 0; i < dim; i++) {
        if (!isfinite(v[i]))
            return "a vector with NaN or infinity";
        norm += (double)v[i] * v[i];
    }
    if (norm > 1e36)
        return "a vector too large to be squared";
    if (metric == METRIC_COSINE && norm < 1e-30)
        return "a vector without direction (all zero) under the cosine metric";
    return NULL;
}

float vindex_norm(const float *v, uint32_t dim) { return sqrtf(vkernel_best()->dotf(v, v, dim)); }

float vindex_score(enum vector_metric metric, const float *query, float query_norm, const float *row,
                   float row_norm, uint32_t dim)
{
    const struct vkernel *k = vkernel_best();
    if (metric == METRIC_L2)
        return -sqrtf(k->l2f(query, row, dim));
    float dot = k->dotf(query, row, dim), norms = query_norm * row_norm;
    return metric == METRIC_DOT ? dot : norms > 0 ? dot / norms : 0;
}

/* Squared norm of the row that the codes stand for. Cosine and L2 compare decoded rows with each other: near
 * rows share most of their rounding, whereas true norms beside rounded products would leave its full size in
 * small distances. */
static float code_norm(const int8_t *codes, uint32_t dim, float scale)
{
    return (float)vdot_best()(codes, codes, dim) * scale * scale;
}

/* ---- segments ---- */

struct segment {
    uint32_t n, dim;
    const uint8_t *ids, *scales, *norms; /* unaligned */
    const int8_t *codes;
};

static uint32_t at_u32(const uint8_t *p, size_t i)
{
    uint32_t v;
    memcpy(&v, p + i * 4, 4);
    return v;
}
static float at_f32(const uint8_t *p, size_t i)
{
    float v;
    memcpy(&v, p + i * 4, 4);
    return v;
}

static enum cairn_err segment_parse(struct cairn_str key, struct cairn_str payload, uint32_t dim,
                                    struct segment *s, struct cairn_why *why)
{
    struct rd r = rd_of(payload);
    s->n = rd_u32(&r);
    s->dim = rd_u32(&r);
    bool ok = s->n > 0 && s->n <= SEGMENT_ROWS_MAX && s->dim == dim;
    if (ok) {
        s->ids = rd_bytes(&r, (size_t)s->n * 4);
        s->scales = rd_bytes(&r, (size_t)s->n * 4);
        s->norms = rd_bytes(&r, (size_t)s->n * 4);
        s->codes = (const int8_t *)rd_bytes(&r, (size_t)s->n * dim);
        ok = rd_done(&r) && key.len == 8 && at_u32(s->ids, 0) == key_read_u32(key, 4);
    }
    return ok ? CAIRN_OK : kv_corrupt(why, DB_CODE, key.p, key.len, "not a segment of codes");
}

static struct kv_key *row_key(struct kv_key *k, uint32_t coll, uint32_t id)
{
    return key_u32(key_u32(key_reset(k), coll), id);
}

static enum cairn_err meta_get(const struct vindex_ref *x, uint32_t first, uint32_t *n, uint32_t *dead,
                               struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    enum cairn_err err = kv_get(x->kv, DB_SEGMENT, row_key(&k, x->coll, first), &v, why);
    if (err == CAIRN_ENOTFOUND)
        return kv_corrupt(why, DB_SEGMENT, k.b, k.len, "codes without a segment record");
    if (err)
        return err;
    struct rd r = rd_of(v);
    *n = rd_u32(&r);
    *dead = rd_u32(&r);
    if (!rd_done(&r) || *dead > *n || *n == 0)
        return kv_corrupt(why, DB_SEGMENT, k.b, k.len, "not a segment record");
    return CAIRN_OK;
}

static enum cairn_err meta_put(const struct vindex_ref *x, uint32_t first, uint32_t n, uint32_t dead,
                               struct cairn_why *why)
{
    struct kv_key k;
    uint8_t b[8];
    memcpy(b, &n, 4);
    memcpy(b + 4, &dead, 4);
    return kv_put(x->kv, DB_SEGMENT, row_key(&k, x->coll, first), b, sizeof(b), why);
}

/* Rows on their way into segments. */
struct rows {
    uint32_t *ids;
    float *scales, *norms;
    int8_t *codes;
    uint32_t n;
};
static void rows_release(struct rows *r)
{
    cairn_free(r->ids);
    cairn_free(r->scales);
    cairn_free(r->norms);
    cairn_free(r->codes);
    *r = (struct rows){0};
}
static enum cairn_err rows_init(struct rows *r, size_t cap, uint32_t dim, struct cairn_why *why)
{
    size_t bytes;
    *r = (struct rows){0};
    if (!cairn_mul(cap, dim, &bytes))
        return cairn_fail(why, CAIRN_ENOMEM, "too many vectors in one batch");
    r->ids = cairn_reallocarray(NULL, cap, 4);
    r->scales = cairn_reallocarray(NULL, cap, 4);
    r->norms = cairn_reallocarray(NULL, cap, 4);
    r->codes = cairn_malloc(bytes);
    if (r->ids && r->scales && r->norms && r->codes)
        return CAIRN_OK;
    rows_release(r);
    return cairn_fail(why, CAIRN_ENOMEM, "no memory for %zu rows of codes", cap);
}

static enum cairn_err segment_write(const struct vindex_ref *x, const struct rows *r, uint32_t from,
                                    uint32_t n, uint32_t dead, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    wr_u32(&b, n);
    wr_u32(&b, x->dim);
    (void)cairn_buf_put(&b, r->ids + from, (size_t)n * 4);
    (void)cairn_buf_put(&b, r->scales + from, (size_t)n * 4);
    (void)cairn_buf_put(&b, r->norms + from, (size_t)n * 4);
    (void)cairn_buf_put(&b, r->codes + (size_t)from * x->dim, (size_t)n * x->dim);
    enum cairn_err err = kv_put_buf(x->kv, DB_CODE, row_key(&k, x->coll, r->ids[from]), &b, why);
    cairn_buf_release(&b);
    return err ? err : meta_put(x, r->ids[from], n, dead, why);
}

static enum cairn_err segment_delete(const struct vindex_ref *x, uint32_t first, struct cairn_why *why)
{
    struct kv_key k;
    enum cairn_err err = kv_del(x->kv, DB_CODE, row_key(&k, x->coll, first), why);
    if (!err)
        err = kv_del(x->kv, DB_SEGMENT, &k, why);
    return err == CAIRN_ENOTFOUND ? kv_corrupt(why, DB_SEGMENT, k.b, k.len, "a segment is missing") : err;
}

static enum cairn_err row_alive(const struct vindex_ref *x, uint32_t id, bool *alive, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    enum cairn_err err = kv_get(x->kv, DB_VECTOR, row_key(&k, x->coll, id), &v, why);
    *alive = !err;
    return err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
}

/* Copies the rows of a stored segment to r (which has room); drop_dead leaves out those without an f32 row.
 */
static enum cairn_err segment_read(const struct vindex_ref *x, uint32_t first, bool drop_dead, struct rows *r,
                                   struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    struct segment s;
    enum cairn_err err = kv_get(x->kv, DB_CODE, row_key(&k, x->coll, first), &v, why);
    if (err == CAIRN_ENOTFOUND)
        return kv_corrupt(why, DB_CODE, k.b, k.len, "a segment record without codes");
    if (!err)
        err = segment_parse((struct cairn_str){(const char *)k.b, k.len}, v, x->dim, &s, why);
    for (uint32_t i = 0; !err && i < s.n; i++) {
        bool alive = true;
        uint32_t id = at_u32(s.ids, i);
        if (drop_dead)
            err = row_alive(x, id, &alive, why);
        if (err || !alive)
            continue;
        r->ids[r->n] = id;
        r->scales[r->n] = at_f32(s.scales, i);
        r->norms[r->n] = at_f32(s.norms, i);
        memcpy(r->codes + (size_t)r->n * x->dim, s.codes + (size_t)i * x->dim, x->dim);
        r->n++;
    }
    return err;
}

/* First id of the segment that would hold id: the last one that starts at or before it. CAIRN_ENOTFOUND:
 * none. */
static enum cairn_err segment_of(const struct vindex_ref *x, uint32_t id, uint32_t *first,
                                 struct cairn_why *why)
{
    struct kv_cursor c;
    struct kv_key k, prefix;
    key_u32(key_reset(&prefix), x->coll);
    enum cairn_err err = kv_cursor_open(&c, x->kv, DB_SEGMENT, why);
    if (err)
        return err;
    err = kv_seek(&c, row_key(&k, x->coll, id), why);
    if (err == CAIRN_ENOTFOUND || (!err && (!kv_has_prefix(c.key, &prefix) || key_read_u32(c.key, 4) != id)))
        err = kv_prev(&c, why); /* after a seek past the end LMDB's PREV gives the last */
    if (!err && !kv_has_prefix(c.key, &prefix))
        err = CAIRN_ENOTFOUND;
    if (!err)
        *first = key_read_u32(c.key, 4);
    kv_cursor_close(&c);
    return err;
}

/* ---- writing ---- */

static enum cairn_err remove_rows(const struct vindex_ref *x, const uint32_t *ids, size_t n,
                                  struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    struct kv_key k;
    for (size_t i = 0; i < n && !err; i++) {
        err = kv_del(x->kv, DB_VECTOR, row_key(&k, x->coll, ids[i]), why);
        if (err == CAIRN_ENOTFOUND)
            err = kv_corrupt(why, DB_VECTOR, k.b, k.len, "a passage without its vector");
    }
    for (size_t i = 0; i < n && !err;) {
        uint32_t first, next = UINT32_MAX, rows, dead;
        err = segment_of(x, ids[i], &first, why);
        if (err == CAIRN_ENOTFOUND)
            err = kv_corrupt(why, DB_SEGMENT, row_key(&k, x->coll, ids[i])->b, 8, "a vector in no segment");
        struct kv_cursor c = {0};
        if (!err)
            err = kv_cursor_open(&c, x->kv, DB_SEGMENT, why);
        if (!err) { /* how far this segment reaches */
            struct kv_key prefix;
            key_u32(key_reset(&prefix), x->coll);
            enum cairn_err end = kv_seek(&c, row_key(&k, x->coll, first + 1), why);
            if (!end && kv_has_prefix(c.key, &prefix))
                next = key_read_u32(c.key, 4);
            err = end == CAIRN_ENOTFOUND ? CAIRN_OK : end;
        }
        kv_cursor_close(&c);
        if (!err)
            err = meta_get(x, first, &rows, &dead, why);
        if (err)
            break;
        for (; i < n && ids[i] < next; i++)
            dead++;
        if (dead > rows) {
            err = kv_corrupt(why, DB_SEGMENT, row_key(&k, x->coll, first)->b, 8, "more dead rows than rows");
        } else if (dead * 4 <= rows) {
            err = meta_put(x, first, rows, dead, why);
        } else {
            struct rows r;
            err = rows_init(&r, rows, x->dim, why);
            if (!err)
                err = segment_read(x, first, true, &r, why);
            if (!err)
                err = segment_delete(x, first, why);
            if (!err && r.n > 0)
                err = segment_write(x, &r, 0, r.n, 0, why);
            rows_release(&r);
        }
    }
    return err;
}

/* How many rows of the segments at the end join n_new rows; *first: where they begin. */
static enum cairn_err tail_to_merge(const struct vindex_ref *x, size_t n_new, uint32_t before, size_t *n_old,
                                    uint32_t *first, struct cairn_why *why)
{
    *n_old = 0;
    *first = before;
    while (n_new + *n_old < SEGMENT_ROWS_MAX) {
        uint32_t seg, rows, dead;
        enum cairn_err err = *first == 0 ? CAIRN_ENOTFOUND : segment_of(x, *first - 1, &seg, why);
        if (err == CAIRN_ENOTFOUND)
            return CAIRN_OK;
        if (!err)
            err = meta_get(x, seg, &rows, &dead, why);
        if (err)
            return err;
        size_t have = n_new + *n_old;
        if (have + rows > SEGMENT_ROWS_MAX || (rows >= SEGMENT_ROWS_SMALL && rows > 2 * have))
            return CAIRN_OK;
        *n_old += rows;
        *first = seg;
    }
    return CAIRN_OK;
}

static enum cairn_err add_rows(const struct vindex_ref *x, const struct vindex_row *added, size_t n,
                               struct cairn_why *why)
{
    struct kv_key k;
    struct rows r;
    size_t n_old, row_bytes = (size_t)x->dim * 4;
    uint32_t first;
    enum cairn_err err = tail_to_merge(x, n, added[0].id, &n_old, &first, why);
    if (err)
        return err;
    err = rows_init(&r, n + n_old, x->dim, why);
    if (err)
        return err;
    for (uint32_t at = first; n_old > 0 && !err && at < added[0].id;) { /* take in, oldest first */
        struct kv_cursor c;
        struct kv_key prefix;
        key_u32(key_reset(&prefix), x->coll);
        err = kv_cursor_open(&c, x->kv, DB_SEGMENT, why);
        if (err)
            break;
        err = kv_seek(&c, row_key(&k, x->coll, at), why);
        uint32_t seg = !err && kv_has_prefix(c.key, &prefix) ? key_read_u32(c.key, 4) : UINT32_MAX;
        kv_cursor_close(&c);
        if (err == CAIRN_ENOTFOUND || (!err && seg >= added[0].id)) {
            err = CAIRN_OK;
            break;
        }
        if (!err)
            err = segment_read(x, seg, true, &r, why);
        if (!err)
            err = segment_delete(x, seg, why);
        at = seg + 1;
    }
    for (size_t i = 0; i < n && !err; i++) {
        r.ids[r.n] = added[i].id;
        r.scales[r.n] = vdot_quantise(added[i].v, x->dim, r.codes + (size_t)r.n * x->dim);
        r.norms[r.n] = code_norm(r.codes + (size_t)r.n * x->dim, x->dim, r.scales[r.n]);
        r.n++;
        err = kv_put(x->kv, DB_VECTOR, row_key(&k, x->coll, added[i].id), added[i].v, row_bytes, why);
    }
    for (uint32_t at = 0; at < r.n && !err; at += SEGMENT_ROWS_MAX)
        err = segment_write(x, &r, at, r.n - at < SEGMENT_ROWS_MAX ? r.n - at : SEGMENT_ROWS_MAX, 0, why);
    rows_release(&r);
    return err;
}

/* Rows that a merged segment stands for are only counted as dead there. *n_merged: how many of ids[] they
 * are. */
static enum cairn_err remove_merged(const struct vindex_ref *x, const uint32_t *ids, size_t n,
                                    size_t *n_merged, struct cairn_why *why)
{
    const struct vset *set;
    enum cairn_err err = vset_get(x->kv, x->coll, &set, why);
    size_t i = 0;
    for (uint32_t at = 0; !err && at < set->n; at++) {
        struct vseg_rec r = set->segs[at].rec;
        size_t from = i;
        for (; i < n && ids[i] <= r.last && !err; i++) {
            struct kv_key k; /* not yet cleaned up after a merge */
            err = kv_del(x->kv, DB_VECTOR, row_key(&k, x->coll, ids[i]), why);
            if (err == CAIRN_ENOTFOUND)
                err = CAIRN_OK;
            if (!err && (ids[i] < r.first || r.dead == r.n))
                err = kv_corrupt(why, DB_GRAPH, row_key(&k, x->coll, ids[i])->b, 8, "a vector in no segment");
            r.dead++;
        }
        if (!err && i > from)
            err = vseg_rec_put(x->kv, x->coll, &r, why);
    }
    vsets_release(x->kv);
    *n_merged = i;
    return err;
}

enum cairn_err vindex_apply(const struct vindex_ref *x, const uint32_t *removed, size_t n_removed,
                            const struct vindex_row *added, size_t n_added, struct cairn_why *why)
{
    size_t merged = 0;
    enum cairn_err err = n_removed ? remove_merged(x, removed, n_removed, &merged, why) : CAIRN_OK;
    if (!err && n_removed > merged)
        err = remove_rows(x, removed + merged, n_removed - merged, why);
    return err || n_added == 0 ? err : add_rows(x, added, n_added, why);
}

enum cairn_err vindex_moved(const struct vindex_ref *x, uint32_t last, struct cairn_why *why)
{
    struct kv_key prefix;
    key_u32(key_reset(&prefix), x->coll);
    for (;;) {
        struct kv_cursor c;
        struct segment s;
        uint32_t first = 0;
        struct rows r = {0};
        enum cairn_err err = kv_cursor_open(&c, x->kv, DB_CODE, why);
        if (err)
            return err;
        err = kv_seek(&c, &prefix, why);
        if (!err && (!kv_has_prefix(c.key, &prefix) || key_read_u32(c.key, 4) > last))
            err = CAIRN_ENOTFOUND;
        if (!err) {
            first = key_read_u32(c.key, 4);
            err = segment_parse(c.key, c.payload, x->dim, &s, why);
        }
        if (!err && at_u32(s.ids, s.n - 1) > last) { /* some of it is newer than the merge */
            err = rows_init(&r, s.n, x->dim, why);
            if (!err)
                err = segment_read(x, first, true, &r, why);
        }
        kv_cursor_close(&c);
        if (err)
            rows_release(&r);
        if (err)
            return err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
        err = segment_delete(x, first, why);
        uint32_t from = 0;
        while (from < r.n && r.ids[from] <= last)
            from++;
        if (!err && from < r.n)
            err = segment_write(x, &r, from, r.n - from, 0, why);
        rows_release(&r);
        if (err)
            return err;
    }
}

enum cairn_err vindex_drop(const struct vindex_ref *x, struct cairn_why *why)
{
    static const enum kv_db dbs[] = {DB_VECTOR, DB_CODE, DB_SEGMENT, DB_GRAPH, DB_CHUNK};
    struct kv_key k;
    key_u32(key_reset(&k), x->coll);
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < sizeof(dbs) / sizeof(dbs[0]) && !err; i++)
        err = kv_drop_prefix(x->kv, dbs[i], &k, why);
    vsets_release(x->kv);
    return err;
}

/* ---- reading ---- */

static enum cairn_err row_copy(const struct vindex_ref *x, const struct kv_key *k, struct cairn_str v,
                               float *out, struct cairn_why *why)
{
    if (v.len != (size_t)x->dim * 4)
        return kv_corrupt(why, DB_VECTOR, k->b, k->len, "a vector of another dimension");
    memcpy(out, v.p, v.len);
    return CAIRN_OK;
}

enum cairn_err vindex_get(const struct vindex_ref *x, uint32_t id, float *out, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    const struct vset *set;
    enum cairn_err err = vset_get(x->kv, x->coll, &set, why);
    const struct vseg *s = err ? NULL : vset_of(set, id);
    if (s) {
        uint32_t row;
        err = vseg_find(s, id, &row, why);
        const uint8_t *p = err ? NULL : vseg_row(s, PART_F32, row, why);
        if (!err && !p)
            err = CAIRN_ECORRUPT;
        if (!err)
            memcpy(out, p, (size_t)x->dim * 4);
        return err;
    }
    if (!err)
        err = kv_get(x->kv, DB_VECTOR, row_key(&k, x->coll, id), &v, why);
    return err ? err : row_copy(x, &k, v, out, why);
}

/* Every row of a segment that the filter lets through, in the order of rows: a stream through memory. */
static enum cairn_err exact_segment(const struct vseg *s, const struct vindex_query *q, float norm,
                                    float *row, struct topk *top, struct cairn_why *why)
{
    for (uint32_t i = 0; i < s->rec.n; i++) {
        uint32_t id;
        float row_norm;
        enum cairn_err err = i % STOP_ROWS ? CAIRN_OK : cairn_stopped(q->stop, why);
        const uint8_t *meta = err ? NULL : vseg_row(s, PART_IDS, i, why);
        if (!meta)
            return err ? err : CAIRN_ECORRUPT;
        memcpy(&id, meta, 4);
        if (!idset_has(q->filter->set, id))
            continue;
        const uint8_t *v = vseg_row(s, PART_F32, i, why);
        if (!v)
            return CAIRN_ECORRUPT;
        memcpy(&row_norm, meta + 4, 4);
        memcpy(row, v, (size_t)s->rec.dim * 4);
        float score = vindex_score(s->rec.metric, q->v, norm, row, row_norm, s->rec.dim);
        topk_push(top, (struct store_hit){id, score});
    }
    return CAIRN_OK;
}

/* The delta: ids from `from` on. */
static enum cairn_err scan_exact(const struct vindex_ref *x, const struct vindex_query *q, uint32_t from,
                                 float norm, float *row, struct topk *top, struct cairn_why *why)
{
    struct kv_cursor c;
    struct kv_key k, prefix;
    key_u32(key_reset(&prefix), x->coll);
    enum cairn_err err = kv_cursor_open(&c, x->kv, DB_VECTOR, why);
    if (err)
        return err;
    size_t seen = 0;
    uint32_t want = idset_next(q->filter->set, from);
    bool seek = true;
    while (want != UINT32_MAX && !err) {
        if (seen++ % STOP_ROWS == 0)
            err = cairn_stopped(q->stop, why);
        if (!err) /* a short step is cheaper by NEXT than by a search from the root */
            err = seek ? kv_seek(&c, row_key(&k, x->coll, want), why) : kv_next(&c, why);
        if (err || !kv_has_prefix(c.key, &prefix))
            break;
        uint32_t id = key_read_u32(c.key, 4);
        if (idset_has(q->filter->set, id)) {
            if (c.payload.len != (size_t)x->dim * 4)
                err = kv_corrupt(why, DB_VECTOR, c.key.p, c.key.len, "a vector of another dimension");
            else
                memcpy(row, c.payload.p, c.payload.len);
            if (!err)
                topk_push(top, (struct store_hit){id, vindex_score(x->metric, q->v, norm, row,
                                                                   vindex_norm(row, x->dim), x->dim)});
        }
        want = id == UINT32_MAX ? id : idset_next(q->filter->set, id + 1);
        seek = want - id > 8;
    }
    kv_cursor_close(&c);
    return err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
}

static enum cairn_err scan_codes(const struct vindex_ref *x, const struct vindex_query *q, int8_t *qcodes,
                                 struct topk *top, uint64_t *n_scored, struct cairn_why *why)
{
    float qscale = vdot_quantise(q->v, x->dim, qcodes), qnorm = code_norm(qcodes, x->dim, qscale);
    vdot_fn dot = vdot_best();
    struct kv_cursor c;
    struct kv_key prefix;
    key_u32(key_reset(&prefix), x->coll);
    enum cairn_err err = kv_cursor_open(&c, x->kv, DB_CODE, why);
    if (err)
        return err;
    for (err = kv_seek(&c, &prefix, why); !err && kv_has_prefix(c.key, &prefix); err = kv_next(&c, why)) {
        struct segment s;
        err = cairn_stopped(q->stop, why);
        if (!err)
            err = segment_parse(c.key, c.payload, x->dim, &s, why);
        if (err)
            break;
        *n_scored += s.n;
        for (uint32_t i = 0; i < s.n; i++) {
            uint32_t id = at_u32(s.ids, i);
            if (!idset_has(q->filter->set, id))
                continue;
            float norm = at_f32(s.norms, i);
            float score =
                (float)dot(qcodes, s.codes + (size_t)i * x->dim, x->dim) * qscale * at_f32(s.scales, i);
            if (x->metric == METRIC_COSINE)
                score = norm > 0 ? score / sqrtf(norm) : 0; /* the query's norm changes no order */
            else if (x->metric == METRIC_L2)
                score = 2 * score - norm - qnorm;
            topk_push(top, (struct store_hit){id, score});
        }
    }
    kv_cursor_close(&c);
    return err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
}

static enum cairn_err search_exact(const struct vindex_ref *x, const struct vindex_query *q,
                                   const struct vset *set, float norm, float *row, struct topk *top,
                                   struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (uint32_t i = 0; i < set->n && !err; i++)
        err = exact_segment(&set->segs[i], q, norm, row, top, why);
    return err ? err : scan_exact(x, q, set->next_id, norm, row, top, why);
}

/* The delta by its codes, the best of them by their f32 rows. */
static enum cairn_err search_delta(const struct vindex_ref *x, const struct vindex_query *q, float norm,
                                   float *row, struct topk *top, struct vector_plan *plan,
                                   struct cairn_why *why)
{
    struct topk best = {.k = q->rerank > q->k ? q->rerank : q->k};
    int8_t *codes = cairn_malloc(x->dim);
    best.heap = cairn_reallocarray(NULL, best.k, sizeof(*best.heap));
    enum cairn_err err =
        codes && best.heap ? CAIRN_OK
                           : cairn_fail(why, CAIRN_ENOMEM, "no memory for a vector search of %zu hits", q->k);
    if (!err)
        err = scan_codes(x, q, codes, &best, &plan->n_scored, why);
    for (size_t i = 0; i < best.n && !err; i++) {
        struct kv_key k;
        struct cairn_str v;
        uint32_t id = (uint32_t)best.heap[i].passage_id;
        err = kv_get(x->kv, DB_VECTOR, row_key(&k, x->coll, id), &v, why);
        if (err == CAIRN_ENOTFOUND)
            err = kv_corrupt(why, DB_VECTOR, k.b, k.len, "a live code without its vector");
        if (!err)
            err = row_copy(x, &k, v, row, why);
        if (!err)
            topk_push(top, (struct store_hit){id, vindex_score(x->metric, q->v, norm, row,
                                                               vindex_norm(row, x->dim), x->dim)});
    }
    cairn_free(codes);
    cairn_free(best.heap);
    return err;
}

static enum cairn_err search_segments(const struct vindex_ref *x, const struct vindex_query *q,
                                      const struct vset *set, float norm, struct topk *top,
                                      struct vector_plan *plan, struct cairn_why *why)
{
    struct vwalk w = {.v = q->v,
                      .norm = norm,
                      .filter = q->filter,
                      .share = plan->share,
                      .kind = q->kind,
                      .ef = q->ef,
                      .nprobe = q->nprobe,
                      .scan_max = q->scan_max,
                      .stop = q->stop};
    struct vscratch *scratch;
    enum cairn_err err = vscratch_take(&scratch, x->kv->vcache, why);
    if (err)
        return err;
    uint32_t largest = 0;
    struct vector_plan most = *plan;
    for (uint32_t i = 0; i < set->n && !err; i++) { /* the plan told is the largest segment's */
        err = vseg_search(&set->segs[i], &w, scratch, top, plan, why);
        if (set->segs[i].rec.n > largest) {
            largest = set->segs[i].rec.n;
            most = *plan;
        }
    }
    most.n_scored = plan->n_scored;
    *plan = most;
    vscratch_give(scratch, x->kv->vcache);
    return err;
}

enum cairn_err vindex_search(const struct vindex_ref *x, const struct vindex_query *q, struct store_hit *hits,
                             size_t *n_hits, struct vector_plan *plan, struct cairn_why *why)
{
    *n_hits = 0;
    if (q->k == 0)
        return CAIRN_OK;
    struct topk top = {.heap = hits, .k = q->k};
    const struct vset *set;
    enum cairn_err err = vset_get(x->kv, x->coll, &set, why);
    if (err)
        return err;
    uint64_t in_segments = 0;
    for (uint32_t i = 0; i < set->n; i++)
        in_segments += set->segs[i].rec.n - set->segs[i].rec.dead;
    plan->n_segments = set->n;
    plan->n_delta = q->n_vectors > in_segments ? q->n_vectors - in_segments : 0;
    plan->share = q->n_vectors ? (double)q->filter->n / (double)q->n_vectors : 0;
    float norm = vindex_norm(q->v, x->dim), *row = cairn_reallocarray(NULL, x->dim, sizeof(float));
    if (!row)
        return cairn_fail(why, CAIRN_ENOMEM, "no memory for a vector search of %zu hits", q->k);
    if (q->exact || (set->n && q->k > VSEG_HITS_MAX)) {
        plan->path = "exact";
        plan->reason = q->exact ? "asked for" : "more hits than a walk keeps";
        err = search_exact(x, q, set, norm, row, &top, why);
        plan->n_scored = q->filter->n;
    } else {
        plan->path = "delta";
        plan->reason = "no segment yet";
        if (set->n)
            err = search_segments(x, q, set, norm, &top, plan, why);
        if (!err && plan->n_delta)
            err = search_delta(x, q, norm, row, &top, plan, why);
    }
    if (!err) {
        topk_sort(&top);
        *n_hits = top.n;
    }
    cairn_free(row);
    return err;
}

/* ---- checking ---- */

struct vcheck {
    const struct vindex_ref *x;
    struct idset coded;
    void (*report)(void *ctx, const char *line);
    void *ctx;
};

static void finding(struct vcheck *k, uint32_t id, const char *what)
{
    char line[160];
    (void)snprintf(line, sizeof(line), "collection %u, passage %u: %s", k->x->coll, id, what);
    k->report(k->ctx, line);
}

static enum cairn_err check_segment(struct vcheck *k, const struct segment *s, const struct idset *live,
                                    uint32_t *last, float *row, int8_t *codes, struct cairn_why *why)
{
    uint32_t rows = 0, dead = 0, alive = 0;
    enum cairn_err err = meta_get(k->x, at_u32(s->ids, 0), &rows, &dead, why);
    for (uint32_t i = 0; i < s->n && !err; i++) {
        uint32_t id = at_u32(s->ids, i);
        if (id <= *last)
            finding(k, id, "codes are not in the order of ids");
        *last = id;
        if (!idset_has(live, id))
            continue;
        alive++;
        if (!idset_add(&k->coded, id))
            return cairn_fail(why, CAIRN_ENOMEM, "no memory for a set of passages");
        err = vindex_get(k->x, id, row, why);
        if (err == CAIRN_ENOTFOUND) {
            err = CAIRN_OK;
            continue; /* told once, by the walk over live passages */
        }
        if (err)
            break;
        if (vdot_quantise(row, k->x->dim, codes) != at_f32(s->scales, i) ||
            memcmp(codes, s->codes + (size_t)i * k->x->dim, k->x->dim) != 0 ||
            code_norm(codes, k->x->dim, at_f32(s->scales, i)) != at_f32(s->norms, i))
            finding(k, id, "the int8 code does not follow from the vector");
    }
    if (!err && (rows != s->n || dead != s->n - alive))
        finding(k, at_u32(s->ids, 0), "the segment's record miscounts its rows");
    return err;
}

/* One merged segment: rows and order agree, ids are unique and inside the range, links stay inside and reach
 * every live row from the medoids, codes follow from the f32 rows, dead rows are counted. Adds what it holds
 * to k->coded. */
static enum cairn_err check_merged(struct vcheck *k, const struct vseg *s, const struct idset *live,
                                   float *row, struct cairn_why *why)
{
    const struct vseg_rec *r = &s->rec;
    uint32_t n = r->n, pad = vseg_pad(r->dim), n_stack = 0, alive = 0, last = 0, n_row = 0;
    uint64_t *seen = cairn_calloc((size_t)n / 64 + 1, 8);
    uint32_t *stack = cairn_reallocarray(NULL, n, 4);
    uint8_t *codes = cairn_malloc(vseg_stride(r, PART_HOT)); /* its tail is written too */
    float *tmp = cairn_reallocarray(NULL, r->dim, sizeof(float));
    enum cairn_err err = seen && stack && codes && tmp
                             ? CAIRN_OK
                             : cairn_fail(why, CAIRN_ENOMEM, "no memory to check vectors");
    for (uint32_t i = 0; i < n && !err; i++) { /* order: ascending, and the rows say the same */
        uint32_t pair[2], id = 0;
        const uint8_t *p = vseg_row(s, PART_ORDER, i, why), *m = NULL;
        if (p)
            memcpy(pair, p, 8);
        if (p && pair[1] < n)
            m = vseg_row(s, PART_IDS, pair[1], why);
        if (m)
            memcpy(&id, m, 4);
        if (!p || (pair[1] < n && !m))
            err = CAIRN_ECORRUPT;
        else if (pair[1] >= n || id != pair[0] || pair[0] < r->first || pair[0] > r->last ||
                 (i && pair[0] <= last))
            finding(k, pair[0], "a segment's table of passages does not agree with its rows");
        last = err ? 0 : pair[0];
    }
    for (uint32_t l = 0, next = 0; l < r->n_lists && !err; l++) {
        uint32_t v[2];
        const uint8_t *p = vseg_row(s, PART_LISTS, l, why);
        if (!p) {
            err = CAIRN_ECORRUPT;
            break;
        }
        memcpy(v, p + pad, 8);
        if (l ? v[0] <= next : v[0] != 0)
            finding(k, r->first, "a segment's lists are not runs of its rows");
        next = v[0];
        if (v[1] >= n || v[1] < v[0]) {
            finding(k, r->first, "a medoid outside its list");
        } else if (!(seen[v[1] >> 6] >> (v[1] & 63) & 1)) {
            seen[v[1] >> 6] |= 1ull << (v[1] & 63);
            stack[n_stack++] = v[1];
        }
    }
    while (n_stack && !err) {
        const uint8_t *p = vseg_row(s, PART_HOT, stack[--n_stack], why);
        if (!p)
            err = CAIRN_ECORRUPT;
        for (uint32_t i = 0; i < r->links && !err; i++) {
            uint32_t to;
            memcpy(&to, p + pad + 4 * i, 4);
            if (to == VSEG_NONE)
                break;
            if (to >= n) {
                finding(k, r->first, "a link leaves its segment");
            } else if (!(seen[to >> 6] >> (to & 63) & 1)) {
                seen[to >> 6] |= 1ull << (to & 63);
                stack[n_stack++] = to;
            }
        }
    }
    for (; n_row < n && !err; n_row++) {
        uint32_t id;
        float norm, norm2;
        const uint8_t *m = vseg_row(s, PART_IDS, n_row, why), *v = vseg_row(s, PART_F32, n_row, why),
                      *h = vseg_row(s, PART_HOT, n_row, why);
        if (!m || !v || !h) {
            err = CAIRN_ECORRUPT;
            break;
        }
        memcpy(&id, m, 4);
        memcpy(&norm, m + 4, 4);
        memcpy(row, v, (size_t)r->dim * 4);
        vseg_encode_row(r, row, tmp, codes, &norm2);
        if (norm != vindex_norm(row, r->dim) || memcmp(codes, h, pad) != 0)
            finding(k, id, "the int8 code does not follow from the vector");
        if (!idset_has(live, id))
            continue;
        alive++;
        const char *bad = vindex_refuses(row, r->dim, r->metric);
        if (bad)
            finding(k, id, bad);
        if (!(seen[n_row >> 6] >> (n_row & 63) & 1))
            finding(k, id, "no walk reaches its row");
        if (idset_has(&k->coded, id))
            finding(k, id, "two rows for one passage");
        else if (!idset_add(&k->coded, id))
            err = cairn_fail(why, CAIRN_ENOMEM, "no memory for a set of passages");
    }
    if (!err && r->dead != n - alive)
        finding(k, r->first, "the segment's record miscounts its dead rows");
    cairn_free(seen);
    cairn_free(stack);
    cairn_free(codes);
    cairn_free(tmp);
    return err;
}

enum cairn_err vindex_check(const struct vindex_ref *x, const struct idset *live,
                            void (*report)(void *ctx, const char *line), void *ctx, struct cairn_why *why)
{
    struct vcheck k = {.x = x, .report = report, .ctx = ctx};
    struct kv_key prefix, key;
    struct kv_cursor c = {0};
    key_u32(key_reset(&prefix), x->coll);
    float *row = cairn_reallocarray(NULL, x->dim ? x->dim : 1, sizeof(float));
    int8_t *codes = cairn_malloc(x->dim);
    uint32_t last = 0;
    size_t n_codes = 0, n_metas = 0;
    const struct vset *set = NULL;
    enum cairn_err err =
        row && codes ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "no memory to check vectors");
    if (!err)
        err = vset_get(x->kv, x->coll, &set, why);
    for (uint32_t i = 0; !err && i < set->n; i++)
        err = check_merged(&k, &set->segs[i], live, row, why);
    if (!err)
        err = kv_cursor_open(&c, x->kv, DB_CODE, why);
    if (!err) {
        for (err = kv_seek(&c, &prefix, why); !err && kv_has_prefix(c.key, &prefix);) {
            struct segment s;
            n_codes++;
            err = segment_parse(c.key, c.payload, x->dim, &s, why);
            if (!err)
                err = check_segment(&k, &s, live, &last, row, codes, why);
            if (!err)
                err = kv_next(&c, why);
        }
        if (err == CAIRN_ENOTFOUND)
            err = CAIRN_OK;
    }
    kv_cursor_close(&c);
    if (!err)
        err = kv_cursor_open(&c, x->kv, DB_SEGMENT, why);
    if (!err) {
        for (err = kv_seek(&c, &prefix, why); !err && kv_has_prefix(c.key, &prefix); err = kv_next(&c, why))
            n_metas++;
        if (err == CAIRN_ENOTFOUND)
            err = CAIRN_OK;
    }
    kv_cursor_close(&c);
    if (!err && n_codes != n_metas)
        finding(&k, 0, "segment records and code segments differ in number");
    if (!err)
        err = kv_cursor_open(&c, x->kv, DB_VECTOR, why);
    if (!err) {
        for (err = kv_seek(&c, &prefix, why); !err && kv_has_prefix(c.key, &prefix); err = kv_next(&c, why)) {
            uint32_t id = key_read_u32(c.key, 4);
            if (c.key.len == 8 && id < set->next_id) /* a merge has not cleaned up yet */
                continue;
            if (c.key.len != 8 || !idset_has(live, id)) {
                finding(&k, id, "a vector of no passage");
                continue;
            }
            err = row_copy(x, row_key(&key, x->coll, id), c.payload, row, why);
            if (err)
                break;
            const char *bad = vindex_refuses(row, x->dim, x->metric);
            if (bad)
                finding(&k, id, bad);
        }
        if (err == CAIRN_ENOTFOUND)
            err = CAIRN_OK;
    }
    kv_cursor_close(&c);
    for (uint32_t id = idset_next(live, 0); !err && x->dim && id != UINT32_MAX;
         id = idset_next(live, id + 1)) {
        bool there = id < set->next_id; /* its segment was walked above */
        if (!there)
            err = row_alive(x, id, &there, why);
        if (!err && !there)
            finding(&k, id, "a passage without its vector");
        if (!err && !idset_has(&k.coded, id))
            finding(&k, id, "a passage without its int8 code");
    }
    idset_release(&k.coded);
    cairn_free(row);
    cairn_free(codes);
    return err;
}
