/* merge.c - moves vectors from the delta into segments, and small or half-dead segments into larger ones.
 *
 * One merge at a time in a process (store.merging). A step:
 *   plan     neighbouring sources by age: segments and, at the end, the delta (tiers as in an LSM tree)
 *   copy     live f32 rows of the sources into memory, in short read transactions
 *   build    outside any transaction (vbuild.c)
 *   write    chunks under a new segment number, one write transaction each, taking turns with batches
 *   flip     one transaction: new record in, old records out, codes of the moved delta rows out
 *   clean    chunks of replaced segments and moved f32 rows of the delta, piece by piece
 * Before the flip nothing refers to what was written; after it nothing refers to what is left to clean. So a
 * crash leaves only garbage, and the next merge begins by cleaning it up. Documents deleted while a segment
 * is built are counted as its dead rows at the flip: searches see only live ids. A reader of an older
 * transaction keeps its segments: LMDB does not reuse pages that a reader may see. */
#include "store.h"
#include "vseg.h"

#include <stdio.h>

#define COPY_ROWS 16384u /* of one read transaction */
#define CLEAN_ROWS 8192u /* of one write transaction */
#define TIER 4u

enum cairn_err store_vector_info(struct store_view *v, const char *collection, struct vector_info *out,
                                 struct cairn_why *why)
{
    struct coll_rec coll;
    const struct vset *set;
    *out = (struct vector_info){0};
    enum cairn_err err = coll_get(&v->kv, collection, &coll, why);
    if (!err)
        err = vset_get(&v->kv, coll.id, &set, why);
    if (err)
        return err;
    for (uint32_t i = 0; i < set->n; i++) {
        const struct vseg_rec *r = &set->segs[i].rec;
        out->n_segments++;
        out->n_rows += r->n;
        out->n_dead += r->dead;
        out->hot_bytes += (uint64_t)r->n * vseg_stride(r, PART_HOT);
        for (int p = PART_F32; p < PART_N; p++)
            out->cold_bytes +=
                (uint64_t)vseg_part_rows(r, (enum vseg_part)p) * vseg_stride(r, (enum vseg_part)p);
    }
    out->n_delta = coll.n_vectors - (out->n_rows - out->n_dead);
    return CAIRN_OK;
}

void store_merge_state_get(struct store *s, struct store_merge_state *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->merge_state;
    pthread_mutex_unlock(&s->lock);
}

struct job {
    struct store *s;
    const struct store_merge_opts *o;
    cairn_progress_fn progress;
    void *ctx;
    const struct cairn_stop *stop;
    char collection[COLLECTION_NAME_MAX + 1];
    struct coll_rec coll;
    struct vseg_rec *sources; /* oldest first */
    uint32_t n_sources;
    bool delta;              /* the delta joins them */
    uint32_t first, last, n; /* ids they stand for; rows copied */
    uint32_t *ids;
    float *v;
    size_t cap;
    uint32_t n_made;
};

static void show(void *ctx, const char *phase, uint64_t done, uint64_t total)
{
    struct job *j = ctx;
    pthread_mutex_lock(&j->s->lock);
    j->s->merge_state.phase = phase;
    j->s->merge_state.done = done;
    j->s->merge_state.total = total;
    pthread_mutex_unlock(&j->s->lock);
    if (j->progress)
        j->progress(j->ctx, phase, done, total);
}

/* ---- transactions ---- */

struct write { /* what a transaction's function is given */
    struct job *j;
    void *arg;
};

/* Runs fn in a write transaction of its own; an open batch, empty, is the writer's turn. */
static enum cairn_err in_write(struct job *j, store_write_fn fn, void *arg, struct cairn_why *why)
{
    struct store_batch *turn;
    struct write w = {j, arg};
    enum cairn_err err = store_batch_begin(&turn, j->s, why);
    if (err)
        return err;
    err = store_write(j->s, true, fn, &w, why);
    store_batch_abort(turn);
    return err;
}

/* ---- plan ---- */

static uint32_t rows_alive(const struct vseg_rec *r) { return r->n - r->dead; }

/* Chooses neighbouring sources. Full: everything. Else the delta when it is large enough, and with it every
 * segment before it that is at most TIER times as large as what follows; or a segment more than a fifth dead.
 */
static void choose(const struct job *j, const struct vset *set, uint64_t n_delta, uint32_t *from,
                   uint32_t *to, bool *delta)
{
    uint64_t min = (uint64_t)store_conf(j->s, "index.merge_rows_min"),
             max = (uint64_t)store_conf(j->s, "index.segment_rows_max"), rows = n_delta;
    *from = *to = set->n;
    *delta = n_delta >= min || (j->o->full && n_delta > 0);
    if (*delta) {
        while (*from > 0) {
            const struct vseg_rec *r = &set->segs[*from - 1].rec;
            if (rows + rows_alive(r) > max || (!j->o->full && rows_alive(r) > TIER * rows))
                break;
            rows += rows_alive(r);
            --*from;
        }
        return;
    }
    for (uint32_t i = set->n; i-- > 0;) {
        const struct vseg_rec *r = &set->segs[i].rec;
        bool joins = i > 0 && (j->o->full || rows_alive(&set->segs[i - 1].rec) <= rows_alive(r)) &&
                     (uint64_t)rows_alive(r) + rows_alive(&set->segs[i - 1].rec) <= max;
        if ((uint64_t)r->dead * 5 > r->n || (j->o->full && r->dead) || joins) {
            *from = joins ? i - 1 : i;
            *to = i + 1;
            if (!j->o->full)
                return;
            uint64_t sum = 0;
            for (uint32_t k = *from; k < *to; k++)
                sum += rows_alive(&set->segs[k].rec);
            while (*from > 0 && sum + rows_alive(&set->segs[*from - 1].rec) <= max)
                sum += rows_alive(&set->segs[--*from].rec);
            return;
        }
    }
}

/* CAIRN_ENOTFOUND: nothing to do. */
static enum cairn_err plan(struct job *j, struct cairn_why *why)
{
    struct store_view *v;
    const struct vset *set = NULL;
    struct vector_info info;
    uint32_t from = 0, to = 0;
    enum cairn_err err = store_view_begin(&v, j->s, why);
    if (err)
        return err;
    err = coll_get(&v->kv, j->collection, &j->coll, why);
    if (!err && j->coll.opts.dim == 0)
        err = CAIRN_ENOTFOUND;
    if (!err)
        err = store_vector_info(v, j->collection, &info, why);
    if (!err)
        err = vset_get(&v->kv, j->coll.id, &set, why);
    if (!err) {
        choose(j, set, info.n_delta, &from, &to, &j->delta);
        j->n_sources = to - from;
        if (!j->n_sources && !j->delta)
            err = CAIRN_ENOTFOUND;
    }
    if (!err) {
        j->sources = cairn_reallocarray(NULL, j->n_sources ? j->n_sources : 1, sizeof(*j->sources));
        if (!j->sources)
            err = cairn_fail(why, CAIRN_ENOMEM, "no memory for a merge");
    }
    if (!err) {
        j->cap = 0;
        for (uint32_t i = 0; i < j->n_sources; i++) {
            j->sources[i] = set->segs[from + i].rec;
            j->cap += rows_alive(&j->sources[i]);
        }
        uint64_t max = (uint64_t)store_conf(j->s, "index.segment_rows_max");
        if (j->delta) /* a delta over the limit becomes several segments, oldest first */
            j->cap = j->cap + info.n_delta > max ? (size_t)max : j->cap + (size_t)info.n_delta;
        j->first = j->n_sources ? j->sources[0].first : set->next_id;
        j->last = j->n_sources ? j->sources[j->n_sources - 1].last : j->first;
    }
    store_view_end(v);
    return err;
}

/* ---- copy ---- */

static enum cairn_err take(struct job *j, uint32_t id, const void *v)
{
    if (j->n == j->cap)
        return CAIRN_EFULL;
    j->ids[j->n] = id;
    memcpy(j->v + (size_t)j->n * j->coll.opts.dim, v, (size_t)j->coll.opts.dim * 4);
    j->n++;
    return CAIRN_OK;
}

/* Copies up to COPY_ROWS live rows with ids from *at on; *at: where to go on, UINT32_MAX: done. */
static enum cairn_err copy_some(struct job *j, uint32_t *at, struct cairn_why *why)
{
    struct store_view *v;
    struct idset live = {0};
    struct coll_rec coll;
    const struct vset *set;
    struct kv_cursor c = {0};
    struct kv_key k, prefix;
    uint32_t id = *at, taken = 0;
    enum cairn_err err = store_view_begin(&v, j->s, why);
    if (err)
        return err;
    err = coll_get(&v->kv, j->collection, &coll, why);
    if (!err && coll.id != j->coll.id)
        err = CAIRN_ENOTFOUND;
    if (!err)
        err = idset_load(&live, &v->kv, coll.id, SET_LIVE, why);
    if (!err)
        err = vset_get(&v->kv, coll.id, &set, why);
    if (!err)
        err = kv_cursor_open(&c, &v->kv, DB_VECTOR, why);
    key_u32(key_reset(&prefix), j->coll.id);
    *at = UINT32_MAX;
    uint32_t end = j->delta ? UINT32_MAX : j->last;
    for (id = idset_next(&live, id); !err && id != UINT32_MAX && id <= end; id = idset_next(&live, id + 1)) {
        const struct vseg *s = vset_of(set, id);
        uint32_t row;
        if (taken++ == COPY_ROWS) {
            *at = id;
            break;
        }
        if (s) {
            err = vseg_find(s, id, &row, why);
            if (err == CAIRN_ENOTFOUND)
                err = cairn_fail(why, CAIRN_ECORRUPT, "passage %u is live and has no row in its segment", id);
            const uint8_t *p = err ? NULL : vseg_row(s, PART_F32, row, why);
            if (!err && !p)
                err = CAIRN_ECORRUPT;
            if (!err)
                err = take(j, id, p);
        } else {
            err = kv_seek(&c, key_u32(key_u32(key_reset(&k), coll.id), id), why);
            if (err == CAIRN_ENOTFOUND || (!err && (c.key.len != 8 || memcmp(c.key.p, k.b, 8) != 0 ||
                                                    c.payload.len != (size_t)coll.opts.dim * 4)))
                err = cairn_fail(why, CAIRN_ECORRUPT, "passage %u is live and has no vector", id);
            if (!err)
                err = take(j, id, c.payload.p);
        }
        if (err == CAIRN_EFULL) { /* the rest is for the next segment */
            err = CAIRN_OK;
            break;
        }
        j->last = id > j->last ? id : j->last;
    }
    kv_cursor_close(&c);
    idset_release(&live);
    store_view_end(v);
    return err;
}

static enum cairn_err copy(struct job *j, struct cairn_why *why)
{
    uint32_t dim = j->coll.opts.dim, at = j->first;
    j->n = 0;
    j->ids = cairn_reallocarray(NULL, j->cap ? j->cap : 1, 4);
    j->v = cairn_reallocarray(NULL, j->cap ? j->cap : 1, (size_t)dim * 4);
    if (!j->ids || !j->v)
        return cairn_fail(why, CAIRN_ENOMEM,
                          "no memory for a merge of %zu vectors; lower index.segment_rows_max", j->cap);
    enum cairn_err err = CAIRN_OK;
    while (at != UINT32_MAX && !err) {
        err = copy_some(j, &at, why);
        if (!err) {
            show(j, "copying", j->n, j->cap);
            err = cairn_stopped(j->stop, why);
        }
    }
    return err;
}

/* ---- write, flip, clean ---- */

static enum cairn_err next_seg(struct job *j, struct kv *kv, uint64_t *seg, struct cairn_why *why)
{
    MDB_cursor *c;
    MDB_val k, v;
    struct kv_key after;
    *seg = mdb_txn_id(kv->txn);
    int rc = mdb_cursor_open(kv->txn, kv->dbi[DB_CHUNK], &c);
    if (rc)
        return cairn_err_from_mdb(why, rc, "database chunk");
    /* numbers follow the commits; after a compacting copy, which counts anew, the largest in use */
    key_u32(key_reset(&after), j->coll.id + 1);
    k = (MDB_val){after.len, after.b};
    rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
    rc = mdb_cursor_get(c, &k, &v, rc == MDB_NOTFOUND ? MDB_LAST : MDB_PREV);
    struct cairn_str key = {k.mv_data, k.mv_size};
    if (rc == 0 && key.len == 17 && key_read_u32(key, 0) == j->coll.id && key_read_u64(key, 4) >= *seg)
        *seg = key_read_u64(key, 4) + 1;
    mdb_cursor_close(c);
    return rc && rc != MDB_NOTFOUND ? cairn_err_from_mdb(why, rc, "database chunk") : CAIRN_OK;
}

struct chunk {
    struct vbuilt *b;
    enum vseg_part part;
    uint32_t no;
    const uint8_t *rows;
};
static enum cairn_err put_chunk(void *ctx, struct kv *kv, struct cairn_why *why)
{
    struct write *w = ctx;
    struct job *j = w->j;
    struct chunk *c = w->arg;
    if (c->part == PART_HOT && c->no == 0) { /* the first one takes the number */
        enum cairn_err err = next_seg(j, kv, &c->b->rec.seg, why);
        if (err)
            return err;
    }
    return vseg_chunk_put(kv, j->coll.id, &c->b->rec, c->part, c->no, c->rows, why);
}

static enum cairn_err write_chunks(struct job *j, struct vbuilt *b, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    uint32_t dim = j->coll.opts.dim, done = 0;
    uint8_t *f32 = cairn_malloc((size_t)(4 * dim) << vseg_chunk_shift(4 * dim));
    if (!f32)
        return cairn_fail(why, CAIRN_ENOMEM, "no memory for a merge");
    for (int p = 0; p < PART_N && !err; p++) {
        uint32_t n = vseg_part_rows(&b->rec, (enum vseg_part)p),
                 stride = vseg_stride(&b->rec, (enum vseg_part)p);
        unsigned shift = vseg_chunk_shift(stride);
        for (uint32_t no = 0; no <= (n - 1) >> shift && !err; no++) {
            uint32_t from = no << shift, rows = n - from < 1u << shift ? n - from : 1u << shift;
            struct chunk c = {b, (enum vseg_part)p, no, NULL};
            if (p == PART_F32) {
                for (uint32_t i = 0; i < rows; i++)
                    memcpy(f32 + (size_t)i * stride, j->v + (size_t)b->perm[from + i] * dim, stride);
                c.rows = f32;
            } else {
                c.rows = b->part[p] + (size_t)from * stride;
            }
            if (CAIRN_FAILPOINT("index.merge.chunk"))
                err = cairn_fail(why, CAIRN_EIO, "failpoint while writing a segment");
            if (!err)
                err = in_write(j, put_chunk, &c, why);
            show(j, "writing", ++done, 0);
            if (!err)
                err = cairn_stopped(j->stop, why);
        }
    }
    cairn_free(f32);
    return err;
}

/* Whether the records of the sources still stand as they were copied (deletes only change `dead`). */
static enum cairn_err same_sources(struct job *j, struct kv *kv, struct cairn_why *why)
{
    struct coll_rec coll;
    enum cairn_err err = coll_get(kv, j->collection, &coll, why);
    if (!err && coll.id != j->coll.id)
        err = cairn_fail(why, CAIRN_ENOTFOUND, "collection %s was made anew", j->collection);
    for (uint32_t i = 0; i < j->n_sources && !err; i++) {
        struct kv_key k;
        struct cairn_str v;
        struct vseg_rec r;
        err = kv_get(kv, DB_GRAPH, key_u32(key_u32(key_reset(&k), coll.id), j->sources[i].first), &v, why);
        if (!err)
            err = vseg_rec_parse((struct cairn_str){(const char *)k.b, k.len}, v, &r, why);
        if (err == CAIRN_ENOTFOUND || (!err && r.seg != j->sources[i].seg))
            err = cairn_fail(why, CAIRN_ECORRUPT, "a segment changed while it was merged");
    }
    return err;
}

static enum cairn_err flip(void *ctx, struct kv *kv, struct cairn_why *why)
{
    struct write *w = ctx;
    struct job *j = w->j;
    struct vbuilt *b = w->arg;
    struct idset live = {0};
    enum cairn_err err = same_sources(j, kv, why);
    for (uint32_t i = 0; i < j->n_sources && !err; i++) {
        struct kv_key k;
        err = kv_del(kv, DB_GRAPH, key_u32(key_u32(key_reset(&k), j->coll.id), j->sources[i].first), why);
    }
    if (!err && b) {
        err = idset_load(&live, kv, j->coll.id, SET_LIVE, why);
        b->rec.dead = 0;
        for (uint32_t i = 0; i < j->n && !err; i++)
            b->rec.dead += !idset_has(&live, j->ids[i]);
        if (!err)
            err = vseg_rec_put(kv, j->coll.id, &b->rec, why);
        idset_release(&live);
    }
    if (!err && j->delta && b) {
        struct vindex_ref x = {kv, j->coll.id, j->coll.opts.dim, j->coll.opts.metric};
        err = vindex_moved(&x, j->last, why);
    }
    return err;
}

/* Deletes chunks that no record refers to, and f32 rows of the delta that a segment stands for: a piece a
 * call. *arg: whether there may be more. */
static enum cairn_err clean_some(void *ctx, struct kv *kv, struct cairn_why *why)
{
    struct write *w = ctx;
    struct job *j = w->j;
    bool *more = w->arg;
    const struct vset *set;
    struct kv_key k, prefix;
    MDB_cursor *c = NULL;
    MDB_val key, v;
    uint32_t n = 0;
    *more = false;
    enum cairn_err err = vset_get(kv, j->coll.id, &set, why);
    if (err)
        return err;
    key_u32(key_reset(&prefix), j->coll.id);
    for (int pass = 0; pass < 2 && !err && !*more; pass++) {
        enum kv_db db = pass ? DB_VECTOR : DB_CHUNK;
        int rc = mdb_cursor_open(kv->txn, kv->dbi[db], &c);
        if (rc)
            return cairn_err_from_mdb(why, rc, "cleaning up after a merge");
        k = prefix;
        key = (MDB_val){k.len, k.b};
        for (rc = mdb_cursor_get(c, &key, &v, MDB_SET_RANGE); rc == 0 && !err;) {
            struct cairn_str s = {key.mv_data, key.mv_size};
            if (!kv_has_prefix(s, &prefix))
                break;
            bool garbage;
            if (pass) {
                garbage = key_read_u32(s, 4) < set->next_id;
                if (!garbage)
                    break;
            } else {
                garbage = true;
                for (uint32_t i = 0; i < set->n; i++)
                    garbage = garbage && set->segs[i].rec.seg != key_read_u64(s, 4);
                if (!garbage) { /* on to the next segment */
                    key_u64(key_u32(key_reset(&k), j->coll.id), key_read_u64(s, 4) + 1);
                    key = (MDB_val){k.len, k.b};
                    rc = mdb_cursor_get(c, &key, &v, MDB_SET_RANGE);
                    continue;
                }
            }
            if (n == CLEAN_ROWS || (!pass && n == 16)) {
                *more = true;
                break;
            }
            rc = mdb_cursor_del(c, 0);
            n++;
            key = (MDB_val){k.len, k.b};
            if (rc == 0)
                rc = mdb_cursor_get(c, &key, &v, MDB_SET_RANGE);
        }
        mdb_cursor_close(c);
        if (!err && rc && rc != MDB_NOTFOUND) {
            kv->map_full = kv->map_full || rc == MDB_MAP_FULL;
            err = cairn_err_from_mdb(why, rc, "cleaning up after a merge");
        }
    }
    return err;
}

static enum cairn_err clean(struct job *j, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (bool more = true; more && !err;) {
        if (CAIRN_FAILPOINT("index.merge.cleanup"))
            return cairn_fail(why, CAIRN_EIO, "failpoint while cleaning up after a merge");
        err = in_write(j, clean_some, &more, why);
        show(j, "cleaning", 0, 0);
        if (!err)
            err = cairn_stopped(j->stop, why);
    }
    return err;
}

static enum cairn_err step(struct job *j, struct cairn_why *why)
{
    struct vbuilt b = {0};
    enum cairn_err err = copy(j, why);
    if (!err && j->n > 0) {
        struct vbuild_opts o = {.dim = j->coll.opts.dim,
                                .metric = j->coll.opts.metric,
                                .links = (uint32_t)store_conf(j->s, "index.links"),
                                .width = (uint32_t)store_conf(j->s, "index.build_width"),
                                .threads = j->o->threads,
                                .rest_pct = j->o->rest_pct,
                                .progress = show,
                                .ctx = j,
                                .stop = j->stop};
        err = vbuild(&b, &o, j->ids, j->v, j->n, why);
        b.rec.first = j->first;
        b.rec.last = j->last;
        if (!err)
            err = write_chunks(j, &b, why);
    }
    if (!err && CAIRN_FAILPOINT("index.merge.before_flip"))
        err = cairn_fail(why, CAIRN_EIO, "failpoint before a segment is made visible");
    if (!err)
        err = in_write(j, flip, j->n ? &b : NULL, why);
    if (!err && CAIRN_FAILPOINT("index.merge.after_flip"))
        err = cairn_fail(why, CAIRN_EIO, "failpoint after a segment was made visible");
    if (!err) {
        j->n_made += j->n > 0;
        pthread_mutex_lock(&j->s->lock);
        j->s->merge_state.n_merges += j->n > 0;
        pthread_mutex_unlock(&j->s->lock);
        CAIRN_LOG(INDEX, INFO, "vectors merged collection=%s rows=%u sources=%u delta=%d", j->collection,
                  j->n, j->n_sources, j->delta);
    }
    vbuilt_release(&b);
    return err;
}

static enum cairn_err merge_collection(struct job *j, struct cairn_why *why)
{
    enum cairn_err err = clean(j, why); /* what a killed merge left */
    for (bool due = !err; due;) {
        err = plan(j, why);
        due = !err;
        if (due)
            err = step(j, why);
        if (due && (!err || err == CAIRN_ENOTFOUND)) {
            enum cairn_err cleaned = clean(j, why);
            err = err ? err : cleaned;
        }
        cairn_free(j->sources);
        cairn_free(j->ids);
        cairn_free(j->v);
        j->sources = NULL;
        j->ids = NULL;
        j->v = NULL;
        due = due && !err;
    }
    return err == CAIRN_ENOTFOUND ? CAIRN_OK : err; /* nothing is due; or the collection was dropped */
}

/* Chunks of a collection that was dropped while a merge was killed: nobody else would find them. */
static enum cairn_err clean_strays(struct job *j, const struct collection_info *list, size_t n,
                                   struct cairn_why *why)
{
    for (uint32_t id = 0;;) {
        struct store_view *v;
        MDB_cursor *c;
        struct kv_key from;
        MDB_val k, data;
        enum cairn_err err = store_view_begin(&v, j->s, why);
        if (err)
            return err;
        key_u32(key_reset(&from), id);
        k = (MDB_val){from.len, from.b};
        int rc = mdb_cursor_open(v->kv.txn, v->kv.dbi[DB_CHUNK], &c);
        if (!rc) {
            rc = mdb_cursor_get(c, &k, &data, MDB_SET_RANGE);
            if (!rc)
                id = key_read_u32((struct cairn_str){k.mv_data, k.mv_size}, 0);
            mdb_cursor_close(c);
        }
        store_view_end(v);
        if (rc)
            return rc == MDB_NOTFOUND ? CAIRN_OK : cairn_err_from_mdb(why, rc, "database chunk");
        bool known = false;
        for (size_t i = 0; i < n; i++)
            known = known || list[i].id == id;
        if (!known) {
            j->coll = (struct coll_rec){.id = id};
            err = clean(j, why);
        }
        if (err || id == UINT32_MAX)
            return err;
        id++;
    }
}

enum cairn_err store_merge(struct store *s, const char *collection, const struct store_merge_opts *o,
                           cairn_progress_fn progress, void *ctx, const struct cairn_stop *stop,
                           uint32_t *n_merged, struct cairn_why *why)
{
    static const struct store_merge_opts defaults;
    struct job j = {.s = s, .o = o ? o : &defaults, .progress = progress, .ctx = ctx, .stop = stop};
    struct collection_info *list = NULL;
    struct store_view *v;
    size_t n = 0;
    *n_merged = 0;
    if (j.o->rest_pct > 90)
        return cairn_fail(why, CAIRN_EINVAL, "a merge that rests %u %% of the time; 0 to 90", j.o->rest_pct);
    if (s->read_only)
        return cairn_fail(why, CAIRN_ESTATE, "%s is open for reading only", s->dir);
    pthread_mutex_lock(&s->lock);
    bool busy = s->merging;
    s->merging = true;
    pthread_mutex_unlock(&s->lock);
    if (busy)
        return cairn_fail(why, CAIRN_EBUSY, "%s: vectors are being merged already", s->dir);
    enum cairn_err err = store_view_begin(&v, s, why);
    if (!err) {
        struct coll_rec named;
        err = collection ? coll_get(&v->kv, collection, &named, why) : CAIRN_OK;
        if (!err)
            err = store_collection_list(v, &list, &n, why);
        store_view_end(v);
    }
    if (!err && !collection)
        err = clean_strays(&j, list, n, why);
    for (size_t i = 0; i < n && !err; i++) {
        if (collection && strcmp(collection, list[i].opts.name) != 0)
            continue;
        (void)snprintf(j.collection, sizeof(j.collection), "%s", list[i].opts.name);
        j.coll = (struct coll_rec){.id = list[i].id};
        err = merge_collection(&j, why);
    }
    cairn_free(list);
    *n_merged = j.n_made;
    pthread_mutex_lock(&s->lock);
    s->merging = false;
    s->merge_state.phase = NULL;
    pthread_mutex_unlock(&s->lock);
    return err;
}
