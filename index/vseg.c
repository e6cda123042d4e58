/* vseg.c - records, chunks, verification and sets of merged segments. See vseg.h. */
#include "vseg.h"
#include "codec.h"

#include <math.h>
#include <stdio.h>

#define MAGIC 0x31676573u /* "seg1" */

/* ---- records ---- */

static struct kv_key *rec_key(struct kv_key *k, uint32_t coll, uint32_t first)
{
    return key_u32(key_u32(key_reset(k), coll), first);
}

enum cairn_err vseg_rec_parse(struct cairn_str key, struct cairn_str payload, struct vseg_rec *r,
                              struct cairn_why *why)
{
    struct rd d = rd_of(payload);
    *r = (struct vseg_rec){.seg = rd_u64(&d), .first = key_read_u32(key, 4)};
    r->last = rd_u32(&d);
    r->n = rd_u32(&d);
    r->dead = rd_u32(&d);
    r->n_lists = rd_u32(&d);
    r->links = rd_u32(&d);
    r->dim = rd_u32(&d);
    uint32_t metric = rd_u32(&d);
    r->metric = (enum vector_metric)metric;
    r->scale = rd_f32(&d);
    r->rotation = rd_u64(&d);
    bool ok = rd_done(&d) && key.len == 8 && r->last >= r->first && r->n >= 1 && r->n <= VSEG_ROWS_MAX &&
              r->n - 1 <= r->last - r->first && r->dead <= r->n && r->n_lists >= 1 &&
              r->n_lists <= VSEG_LISTS_MAX && r->n_lists <= r->n && r->links >= 4 &&
              r->links <= VSEG_LINKS_MAX && r->dim >= 1 && r->dim <= VECTOR_DIM_MAX && metric <= METRIC_L2 &&
              isfinite(r->scale);
    return ok ? CAIRN_OK : kv_corrupt(why, DB_GRAPH, key.p, key.len, "not a segment record");
}

enum cairn_err vseg_rec_put(struct kv *kv, uint32_t coll, const struct vseg_rec *r, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_buf b;
    cairn_buf_init(&b, 128);
    wr_u64(&b, r->seg);
    wr_u32(&b, r->last);
    wr_u32(&b, r->n);
    wr_u32(&b, r->dead);
    wr_u32(&b, r->n_lists);
    wr_u32(&b, r->links);
    wr_u32(&b, r->dim);
    wr_u32(&b, r->metric);
    wr_f32(&b, r->scale);
    wr_u64(&b, r->rotation);
    enum cairn_err err = kv_put_buf(kv, DB_GRAPH, rec_key(&k, coll, r->first), &b, why);
    cairn_buf_release(&b);
    return err;
}

/* ---- geometry and chunks ---- */

uint32_t vseg_stride(const struct vseg_rec *r, enum vseg_part part)
{
    switch (part) {
    case PART_HOT:
        return vseg_pad(vseg_tail_at(r) + (vseg_has_tail(r) ? 8 : 0));
    case PART_F32:
        return 4 * r->dim;
    case PART_LISTS:
        return vseg_pad(r->dim) + 16;
    case PART_IDS:
    case PART_ORDER:
    case PART_N:
        break;
    }
    return 8;
}

uint32_t vseg_part_rows(const struct vseg_rec *r, enum vseg_part part)
{
    return part == PART_LISTS ? r->n_lists : r->n;
}

unsigned vseg_chunk_shift(uint32_t stride)
{
    unsigned shift = 6; /* a block at least: 64 rows of 16 KiB are 1 MiB */
    while (((uint64_t)stride << (shift + 1)) <= VSEG_CHUNK_BYTES && shift < 22)
        shift++;
    return shift;
}

struct kv_key *vseg_chunk_key(struct kv_key *k, uint32_t coll, uint64_t seg, enum vseg_part part, uint32_t no)
{
    uint8_t p = (uint8_t)part;
    return key_u32(key_bytes(key_u64(key_u32(key_reset(k), coll), seg), &p, 1), no);
}

static uint64_t block_sum(uint32_t coll, uint64_t seg, enum vseg_part part, uint32_t block,
                          const uint8_t *rows, size_t len)
{
    uint64_t place[3] = {coll, seg, (uint64_t)part << 32 | block};
    return cairn_xxh64(rows, len, cairn_xxh64(place, sizeof(place), MAGIC));
}

static void header_write(uint8_t h[VSEG_HEADER_BYTES], uint32_t n, uint32_t stride, enum vseg_part part,
                         uint32_t no, uint64_t seg)
{
    uint32_t f[5] = {MAGIC, n, stride, part, no};
    memset(h, 0, VSEG_HEADER_BYTES);
    memcpy(h, f, sizeof(f));
    memcpy(h + 24, &seg, 8);
}

static size_t chunk_bytes(uint32_t n, uint32_t stride)
{
    return VSEG_HEADER_BYTES + (size_t)n * stride + (size_t)((n + VSEG_BLOCK_ROWS - 1) / VSEG_BLOCK_ROWS) * 8;
}

enum cairn_err vseg_chunk_put(struct kv *kv, uint32_t coll, const struct vseg_rec *r, enum vseg_part part,
                              uint32_t no, const uint8_t *rows, struct cairn_why *why)
{
    uint32_t stride = vseg_stride(r, part), total = vseg_part_rows(r, part);
    unsigned shift = vseg_chunk_shift(stride);
    uint32_t from = no << shift, n = total - from < 1u << shift ? total - from : 1u << shift;
    struct kv_key k;
    uint8_t *out;
    enum cairn_err err = kv_reserve(kv, DB_CHUNK, vseg_chunk_key(&k, coll, r->seg, part, no),
                                    chunk_bytes(n, stride), &out, why);
    if (err)
        return err;
    header_write(out, n, stride, part, no, r->seg);
    memcpy(out + VSEG_HEADER_BYTES, rows, (size_t)n * stride);
    uint8_t *sums = out + VSEG_HEADER_BYTES + (size_t)n * stride;
    for (uint32_t i = 0; i < n; i += VSEG_BLOCK_ROWS) {
        size_t len = (size_t)(n - i < VSEG_BLOCK_ROWS ? n - i : VSEG_BLOCK_ROWS) * stride;
        uint64_t sum =
            block_sum(coll, r->seg, part, (from + i) / VSEG_BLOCK_ROWS, rows + (size_t)i * stride, len);
        memcpy(sums, &sum, 8);
        sums += 8;
    }
    return CAIRN_OK;
}

static enum cairn_err part_corrupt(const struct vseg *s, enum vseg_part part, uint32_t row, const char *what,
                                   struct cairn_why *why)
{
    struct kv_key k;
    vseg_chunk_key(&k, s->coll, s->rec.seg, part, row >> s->part[part].shift);
    return kv_corrupt(why, DB_CHUNK, k.b, k.len, what);
}

const uint8_t *vseg_row_slow(const struct vseg *s, enum vseg_part part, uint32_t row, struct cairn_why *why)
{
    const struct vpart *p = &s->part[part];
    if (row >= p->n) {
        (void)part_corrupt(s, part, 0, "a row beyond the segment", why);
        return NULL;
    }
    if (vseg_verified(p, row))
        return vseg_at(p, row);
    uint32_t block = row / VSEG_BLOCK_ROWS, from = block * VSEG_BLOCK_ROWS;
    uint32_t in_chunk = 1u << p->shift, chunk_from = row & ~(in_chunk - 1);
    uint32_t chunk_n = p->n - chunk_from < in_chunk ? p->n - chunk_from : in_chunk;
    uint32_t n =
        chunk_from + chunk_n - from < VSEG_BLOCK_ROWS ? chunk_from + chunk_n - from : VSEG_BLOCK_ROWS;
    const uint8_t *rows = vseg_at(p, from);
    uint64_t want;
    memcpy(&want,
           p->chunks[row >> p->shift] + (size_t)chunk_n * p->stride +
               (size_t)((from - chunk_from) / VSEG_BLOCK_ROWS) * 8,
           8);
    if (want != block_sum(s->coll, s->rec.seg, part, block, rows, (size_t)n * p->stride)) {
        (void)part_corrupt(s, part, row, "rows of vectors do not match their checksum", why);
        return NULL;
    }
    atomic_fetch_or_explicit(&p->ok[block >> 6], 1ull << (block & 63), memory_order_relaxed);
    return vseg_at(p, row);
}

/* ---- rotation and codes ---- */

static void butterflies(float *restrict a, float *restrict b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        float x = a[i], y = b[i];
        a[i] = x + y;
        b[i] = x - y;
    }
}

static void hadamard(float *v, uint32_t n) /* n: a power of two */
{
    uint32_t h = 1;
    for (; n >= 4 && h == 1; h = 4) /* the first two stages at once: too short for vectors */
        for (uint32_t i = 0; i < n; i += 4) {
            float a = v[i] + v[i + 1], b = v[i] - v[i + 1], c = v[i + 2] + v[i + 3], d = v[i + 2] - v[i + 3];
            v[i] = a + c;
            v[i + 1] = b + d;
            v[i + 2] = a - c;
            v[i + 3] = b - d;
        }
    for (; h < n; h *= 2)
        for (uint32_t i = 0; i < n; i += 2 * h)
            butterflies(v + i, v + i + h, h);
    float f = 1.0f / sqrtf((float)n);
    for (uint32_t i = 0; i < n; i++)
        v[i] *= f;
}

void vseg_rotate(uint64_t seed, float *v, uint32_t dim)
{
    uint32_t p = 1;
    while (p * 2 <= dim)
        p *= 2;
    unsigned rounds = p == dim ? 2 : 4;
    for (unsigned round = 0; round < rounds; round++) {
        for (uint32_t i = 0; i < dim; i += 64) { /* splitmix64: 64 signs a step */
            uint64_t x = seed + (round * 64ull + i / 64 + 1) * 0x9E3779B97F4A7C15ull;
            x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
            x = (x ^ x >> 27) * 0x94D049BB133111EBull;
            x ^= x >> 31;
            for (uint32_t j = i; j < dim && j < i + 64; j++, x >>= 1) {
                uint32_t bits;
                memcpy(&bits, &v[j], 4);
                bits ^= (uint32_t)(x & 1) << 31;
                memcpy(&v[j], &bits, 4);
            }
        }
        hadamard(round % 2 ? v + (dim - p) : v, p);
    }
}

float vseg_encode(const struct vseg_rec *r, const float *v, float *tmp, int8_t *codes)
{
    memcpy(tmp, v, (size_t)r->dim * 4);
    vseg_rotate(r->rotation, tmp, r->dim);
    uint32_t pad = vseg_pad(r->dim);
    memset(codes + r->dim, 0, pad - r->dim);
    return vdot_quantise(tmp, r->dim, codes) * (r->metric == METRIC_L2 ? 2.0f : 1.0f);
}

void vseg_encode_row(const struct vseg_rec *r, const float *v, float *tmp, uint8_t *out, float *norm2)
{
    int8_t codes[VECTOR_DIM_MAX];
    float scale = 1;
    uint32_t pad = vseg_pad(r->dim);
    memcpy(tmp, v, (size_t)r->dim * 4);
    vseg_rotate(r->rotation, tmp, r->dim);
    if (r->metric == METRIC_COSINE) {
        float norm = vindex_norm(v, r->dim), inv = norm > 0 ? 1 / (norm * r->scale) : 0;
        for (uint32_t i = 0; i < r->dim; i++) {
            float q = tmp[i] * inv;
            codes[i] = (int8_t)(q >= 127 ? 127 : q <= -127 ? -127 : lrintf(q));
        }
    } else {
        scale = vdot_quantise(tmp, r->dim, codes);
    }
    int64_t sum = 0;
    for (uint32_t i = 0; i < r->dim; i++) {
        sum += codes[i] * codes[i];
        out[i] = (uint8_t)(codes[i] + 128);
    }
    memset(out + r->dim, 128, pad - r->dim);
    *norm2 = (float)sum * scale * scale;
    if (vseg_has_tail(r)) {
        float tail[2] = {scale, r->metric == METRIC_L2 ? -*norm2 : 0};
        memcpy(out + vseg_tail_at(r), tail, 8);
    }
}

/* ---- sets ---- */

void vcache_init(struct vcache *c)
{
    *c = (struct vcache){0};
    pthread_mutex_init(&c->lock, NULL);
}

static void ok_unref(struct vseg_ok *ok)
{
    if (!ok || atomic_fetch_sub(&ok->refs, 1) != 1)
        return;
    for (int p = 0; p < PART_N; p++)
        cairn_free(ok->bits[p]);
    cairn_free(ok);
}

static void vset_unref(struct vset *set)
{
    if (!set || atomic_fetch_sub(&set->refs, 1) != 1)
        return;
    for (uint32_t i = 0; set->segs && i < set->n; i++) {
        for (int p = 0; p < PART_N; p++)
            cairn_free(set->segs[i].part[p].chunks);
        ok_unref(set->segs[i].ok);
    }
    cairn_free(set->segs);
    cairn_free(set);
}

void vcache_stale(struct vcache *c)
{
    pthread_mutex_lock(&c->lock);
    for (struct vset *s = c->sets; s; s = s->next)
        s->txn = 0;
    pthread_mutex_unlock(&c->lock);
}

void vcache_release(struct vcache *c)
{
    while (c->sets) {
        struct vset *s = c->sets;
        c->sets = s->next;
        vset_unref(s);
    }
    while (c->idle)
        vscratch_free(vscratch_pop(c));
    pthread_mutex_destroy(&c->lock);
}

static enum cairn_err load_part(struct kv *kv, struct vseg *s, enum vseg_part part, struct cairn_why *why)
{
    struct vpart *p = &s->part[part];
    p->n = vseg_part_rows(&s->rec, part);
    p->stride = vseg_stride(&s->rec, part);
    p->shift = vseg_chunk_shift(p->stride);
    p->ok = s->ok->bits[part];
    uint32_t n_chunks = ((p->n - 1) >> p->shift) + 1;
    p->chunks = cairn_reallocarray(NULL, n_chunks, sizeof(*p->chunks));
    if (!p->chunks)
        return cairn_fail(why, CAIRN_ENOMEM, "no memory for the addresses of a segment");
    for (uint32_t i = 0; i < n_chunks; i++) {
        struct kv_key k;
        struct cairn_str v;
        uint8_t want[VSEG_HEADER_BYTES];
        uint32_t rows = p->n - (i << p->shift) < 1u << p->shift ? p->n - (i << p->shift) : 1u << p->shift;
        enum cairn_err err =
            kv_get_raw(kv, DB_CHUNK, vseg_chunk_key(&k, s->coll, s->rec.seg, part, i), &v, why);
        if (err == CAIRN_ENOTFOUND)
            return kv_corrupt(why, DB_CHUNK, k.b, k.len, "a chunk of a segment is missing");
        if (err)
            return err;
        header_write(want, rows, p->stride, part, i, s->rec.seg);
        if (v.len != chunk_bytes(rows, p->stride) || memcmp(v.p, want, sizeof(want)) != 0)
            return kv_corrupt(why, DB_CHUNK, k.b, k.len, "not a chunk of its segment");
        p->chunks[i] = (const uint8_t *)v.p + VSEG_HEADER_BYTES;
    }
    return CAIRN_OK;
}

static struct vseg_ok *ok_new(const struct vseg_rec *r)
{
    struct vseg_ok *ok = cairn_calloc(1, sizeof(*ok));
    if (!ok)
        return NULL;
    atomic_init(&ok->refs, 1);
    for (int p = 0; p < PART_N; p++) {
        ok->bits[p] = cairn_calloc(vseg_part_rows(r, (enum vseg_part)p) / 4096 + 1, 8);
        if (!ok->bits[p]) {
            ok_unref(ok);
            return NULL;
        }
    }
    return ok;
}

/* What another set has verified of the same segment holds here too: chunks never change. */
static struct vseg_ok *ok_of(const struct vset *before, const struct vseg_rec *r)
{
    for (uint32_t i = 0; before && i < before->n; i++)
        if (before->segs[i].rec.seg == r->seg && before->segs[i].rec.n == r->n) {
            atomic_fetch_add(&before->segs[i].ok->refs, 1);
            return before->segs[i].ok;
        }
    return ok_new(r);
}

static enum cairn_err vset_load(struct vset **out, struct kv *kv, uint32_t coll, const struct vset *before,
                                struct cairn_why *why)
{
    *out = NULL;
    struct vset *set = cairn_calloc(1, sizeof(*set));
    if (!set)
        return cairn_fail(why, CAIRN_ENOMEM, "no memory for the segments of a collection");
    atomic_init(&set->refs, 1);
    set->coll = coll;
    set->txn = mdb_txn_id(kv->txn);
    struct kv_cursor c;
    struct kv_key prefix;
    key_u32(key_reset(&prefix), coll);
    enum cairn_err err = kv_cursor_open(&c, kv, DB_GRAPH, why);
    uint32_t cap = 0;
    if (!err)
        for (err = kv_seek(&c, &prefix, why); !err && kv_has_prefix(c.key, &prefix); err = kv_next(&c, why)) {
            if (set->n == cap) {
                cap = cap ? cap * 2 : 8;
                struct vseg *more = cairn_reallocarray(set->segs, cap, sizeof(*more));
                if (!more) {
                    err = cairn_fail(why, CAIRN_ENOMEM, "no memory for the segments of a collection");
                    break;
                }
                set->segs = more;
            }
            struct vseg *s = &set->segs[set->n];
            *s = (struct vseg){.coll = coll};
            err = vseg_rec_parse(c.key, c.payload, &s->rec, why);
            if (!err && set->n && s->rec.first < set->next_id)
                err = kv_corrupt(why, DB_GRAPH, c.key.p, c.key.len, "segments overlap");
            if (err)
                break;
            set->n++;
            set->next_id = s->rec.last + 1;
            s->ok = ok_of(before, &s->rec);
            if (!s->ok)
                err = cairn_fail(why, CAIRN_ENOMEM, "no memory for a segment");
            for (int p = 0; p < PART_N && !err; p++)
                err = load_part(kv, s, (enum vseg_part)p, why);
            if (err)
                break;
        }
    kv_cursor_close(&c);
    if (err == CAIRN_ENOTFOUND)
        err = CAIRN_OK;
    if (err) {
        vset_unref(set);
        return err;
    }
    *out = set;
    return CAIRN_OK;
}

/* A transaction keeps the sets it used (kv->vsets); the cache keeps the newest of each collection. */
struct kv_vset {
    struct vset *set;
    struct kv_vset *next;
};

enum cairn_err vset_get(struct kv *kv, uint32_t coll, const struct vset **out, struct cairn_why *why)
{
    *out = NULL;
    for (struct kv_vset *h = kv->vsets; h; h = h->next)
        if (h->set->coll == coll) {
            *out = h->set;
            return CAIRN_OK;
        }
    struct kv_vset *held = cairn_calloc(1, sizeof(*held));
    if (!held)
        return cairn_fail(why, CAIRN_ENOMEM, "no memory for the segments of a collection");
    struct vset *before = NULL;
    uint64_t txn = mdb_txn_id(kv->txn);
    if (kv->vcache) {
        pthread_mutex_lock(&kv->vcache->lock);
        for (before = kv->vcache->sets; before && before->coll != coll;)
            before = before->next;
        if (before)
            atomic_fetch_add(&before->refs, 1);
        bool same = before && before->txn == txn; /* read under the lock: vcache_stale writes it */
        pthread_mutex_unlock(&kv->vcache->lock);
        if (same)
            held->set = before;
    }
    enum cairn_err err = held->set ? CAIRN_OK : vset_load(&held->set, kv, coll, before, why);
    if (!err && held->set != before && kv->vcache) {
        pthread_mutex_lock(&kv->vcache->lock);
        struct vset **at = &kv->vcache->sets;
        while (*at && (*at)->coll != coll)
            at = &(*at)->next;
        if (!*at || (*at)->txn <= txn) {
            struct vset *old = *at;
            held->set->next = old ? old->next : NULL;
            *at = held->set;
            atomic_fetch_add(&held->set->refs, 1);
            vset_unref(old);
        }
        pthread_mutex_unlock(&kv->vcache->lock);
    }
    if (held->set != before)
        vset_unref(before);
    if (err) {
        cairn_free(held);
        return err;
    }
    held->next = kv->vsets;
    kv->vsets = held;
    *out = held->set;
    return CAIRN_OK;
}

void vsets_release(struct kv *kv)
{
    while (kv->vsets) {
        struct kv_vset *h = kv->vsets;
        kv->vsets = h->next;
        vset_unref(h->set);
        cairn_free(h);
    }
}

const struct vseg *vset_of(const struct vset *set, uint32_t id)
{
    uint32_t lo = 0, hi = set->n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (set->segs[mid].rec.last < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < set->n && set->segs[lo].rec.first <= id ? &set->segs[lo] : NULL;
}

enum cairn_err vseg_find(const struct vseg *s, uint32_t id, uint32_t *row, struct cairn_why *why)
{
    uint32_t lo = 0, hi = s->rec.n;
    if (s->rec.last - s->rec.first == s->rec.n - 1) { /* no gaps: its place is known */
        lo = id - s->rec.first;
        hi = lo + 1;
    }
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2, pair[2];
        const uint8_t *p = vseg_row(s, PART_ORDER, mid, why);
        if (!p)
            return CAIRN_ECORRUPT;
        memcpy(pair, p, 8);
        if (pair[0] == id) {
            if (pair[1] >= s->rec.n)
                return part_corrupt(s, PART_ORDER, mid, "a row beyond the segment", why);
            *row = pair[1];
            return CAIRN_OK;
        }
        if (pair[0] < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return CAIRN_ENOTFOUND;
}
