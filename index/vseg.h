/* vseg.h - merged vector segments: immutable rows in chunks, read in place from LMDB's map.
 *
 * A segment holds the rows of one range of passage ids, sorted by cluster. The same rows are a graph (each
 * row carries its links), an IVF index (each cluster is a run of rows) and a flat table. Its record stands in
 * database graph under (collection, first id); its chunks in database chunk under (collection, segment
 * number, part, chunk number). Segment numbers are never used twice. Records change (count of dead rows),
 * chunks never.
 *
 * Chunk: 48 bytes of header (so that rows begin on a cache line: LMDB's data of large values begins 16 bytes
 * into a page), rows of one stride, then one u64 XXH3 per VSEG_BLOCK_ROWS rows, seeded with segment, part and
 * place. A block is verified when it is first touched by a process, and remembered; a block that does not
 * verify is CAIRN_ECORRUPT. Links are checked against the row count by whoever follows them.
 *
 * Threads: a vset is read by any number of threads; a scratch by one. */
#ifndef CAIRN_INDEX_VSEG_H
#define CAIRN_INDEX_VSEG_H

#include "vindex.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define VSEG_BLOCK_ROWS 64u
#define VSEG_HEADER_BYTES 48u
#define VSEG_CHUNK_BYTES (16u << 20)
#define VSEG_ROWS_MAX (1u << 24)
#define VSEG_LISTS_MAX 4096u
#define VSEG_LINKS_MAX 64u
#define VSEG_HITS_MAX 4096u /* of one search; more are found exactly */
#define VSEG_NONE UINT32_MAX

/* hot: u8 codes padded to 64, u32 links, for dot and L2 then f32 scale and f32 bias, padded to 64
 * f32: the rows as they were given; ids: u32 passage, f32 norm, by row; order: u32 passage, u32 row, by
 * passage; lists: u8 codes of the centroid, u32 first row, u32 medoid row, f32 scale, f32 bias */
enum vseg_part { PART_HOT, PART_F32, PART_IDS, PART_ORDER, PART_LISTS, PART_N };

struct vseg_rec {
    uint64_t seg;
    uint32_t first, last; /* passage ids it stands for, all of them, dead ones too */
    uint32_t n, dead, n_lists, links, dim;
    enum vector_metric metric;
    float scale; /* cosine: code = rotated unit row / scale */
    uint64_t rotation;
};
CAIRN_MUST_USE enum cairn_err vseg_rec_parse(struct cairn_str key, struct cairn_str payload,
                                             struct vseg_rec *r, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err vseg_rec_put(struct kv *kv, uint32_t coll, const struct vseg_rec *r,
                                           struct cairn_why *why);

/* Geometry that follows from a record. */
static inline uint32_t vseg_pad(uint32_t bytes) { return (bytes + 63u) & ~63u; }
uint32_t vseg_stride(const struct vseg_rec *r, enum vseg_part part);
uint32_t vseg_part_rows(const struct vseg_rec *r, enum vseg_part part);
unsigned vseg_chunk_shift(uint32_t stride); /* rows of a chunk: 1 << shift */
static inline bool vseg_has_tail(const struct vseg_rec *r) { return r->metric != METRIC_COSINE; }
static inline uint32_t vseg_tail_at(const struct vseg_rec *r) { return vseg_pad(r->dim) + 4 * r->links; }
struct kv_key *vseg_chunk_key(struct kv_key *k, uint32_t coll, uint64_t seg, enum vseg_part part,
                              uint32_t no);
/* Writes n rows (at most one chunk's) as chunk `no`. */
CAIRN_MUST_USE enum cairn_err vseg_chunk_put(struct kv *kv, uint32_t coll, const struct vseg_rec *r,
                                             enum vseg_part part, uint32_t no, const uint8_t *rows,
                                             struct cairn_why *why);

/* Random rotation: rounds of seeded signs and Walsh-Hadamard transforms over overlapping halves (as in
 * Gao and Long, RaBitQ, 2024). Keeps lengths and dot products; evens out skewed dimensions. In place. */
void vseg_rotate(uint64_t seed, float *v, uint32_t dim);
/* Larger is nearer: how near a centroid is to a query of these codes, for dot the integer product. */
static inline float vseg_list_score(const uint8_t *list, uint32_t pad, float qscale, int32_t dot)
{
    float t[2];
    __builtin_memcpy(t, list + pad + 8, 8);
    return (float)dot * (qscale * t[0]) + t[1];
}
/* Signed codes of a query or a row for this segment, padded with zeros; returns the scale of the codes
 * (doubled under L2, where scores are 2 q.r - r.r). */
float vseg_encode(const struct vseg_rec *r, const float *v, float *tmp, int8_t *codes);

/* A row as it stands in PART_HOT, but for its links: codes, and the tail where there is one. *norm2: squared
 * length of what the codes stand for (cosine: of the codes alone). tmp holds dim. */
void vseg_encode_row(const struct vseg_rec *r, const float *v, float *tmp, uint8_t *out, float *norm2);

struct vpart {
    uint32_t n, stride;
    unsigned shift;
    const uint8_t **chunks; /* first rows */
    _Atomic(uint64_t) *ok;  /* a bit a block; in the shared struct vseg_ok */
};
struct vseg_ok { /* which blocks were verified; shared by all sets that hold the segment */
    atomic_uint refs;
    _Atomic(uint64_t) *bits[PART_N];
};
struct vseg {
    struct vseg_rec rec;
    uint32_t coll;
    struct vpart part[PART_N];
    struct vseg_ok *ok;
};
/* The segments of a collection in one transaction. */
struct vset {
    atomic_uint refs;
    uint32_t coll, n, next_id; /* next_id: rows from here on are in the delta */
    uint64_t txn;              /* 0: its addresses are stale, only what was verified is of use */
    struct vset *next;
    struct vseg *segs;
};
/* Sets by collection of the newest transaction seen, and scratch memory not in use. One per store. */
struct vcache {
    pthread_mutex_t lock;
    struct vset *sets;
    struct vscratch *idle;
    unsigned n_idle;
};
void vcache_init(struct vcache *c);
void vcache_stale(struct vcache *c); /* the map has moved */
void vcache_release(struct vcache *c);
/* BORROWED until vsets_release(kv). */
CAIRN_MUST_USE enum cairn_err vset_get(struct kv *kv, uint32_t coll, const struct vset **out,
                                       struct cairn_why *why);
void vsets_release(struct kv *kv); /* before the transaction ends, or after it changed segments */

/* NULL (with words) when the block does not verify. */
const uint8_t *vseg_row_slow(const struct vseg *s, enum vseg_part part, uint32_t row, struct cairn_why *why);
static inline const uint8_t *vseg_at(const struct vpart *p, uint32_t row)
{
    return p->chunks[row >> p->shift] + (size_t)(row & ((1u << p->shift) - 1)) * p->stride;
}
static inline bool vseg_verified(const struct vpart *p, uint32_t row)
{
    return atomic_load_explicit(&p->ok[row >> 12], memory_order_relaxed) >> (row >> 6 & 63) & 1;
}
static inline const uint8_t *vseg_row(const struct vseg *s, enum vseg_part part, uint32_t row,
                                      struct cairn_why *why)
{
    const struct vpart *p = &s->part[part];
    return vseg_verified(p, row) ? vseg_at(p, row) : vseg_row_slow(s, part, row, why);
}
/* The segment that stands for a passage, NULL: the delta does, or none. */
const struct vseg *vset_of(const struct vset *set, uint32_t id);
/* Row of a passage; CAIRN_ENOTFOUND without words. */
CAIRN_MUST_USE enum cairn_err vseg_find(const struct vseg *s, uint32_t id, uint32_t *row,
                                        struct cairn_why *why);

/* ---- searching (vsearch.c) ---- */
struct vscratch; /* visited bits, pools, codes */
CAIRN_MUST_USE enum cairn_err vscratch_take(struct vscratch **out, struct vcache *c, struct cairn_why *why);
void vscratch_give(struct vscratch *s, struct vcache *c);
void vscratch_free(struct vscratch *s);
struct vscratch *vscratch_pop(struct vcache *c); /* an idle one, or NULL; the caller holds the lock */

/* Rows of a segment that a filter lets through, kept with the filter. */
struct vmembers {
    uint64_t seg;
    uint32_t *rows, n;
};
struct vfilter {
    const struct idset *set;
    uint64_t n;      /* members */
    bool everything; /* all live rows of the collection */
    struct vmembers *members;
    size_t n_members;
};
void vfilter_release(struct vfilter *f);
struct vwalk {
    const float *v;
    float norm;
    struct vfilter *filter;
    double share;
    enum vector_kind kind;
    uint32_t ef, nprobe, scan_max;
    const struct cairn_stop *stop;
};
/* Pushes the best of the segment, scored by f32. */
CAIRN_MUST_USE enum cairn_err vseg_search(const struct vseg *s, const struct vwalk *w, struct vscratch *x,
                                          struct topk *top, struct vector_plan *plan, struct cairn_why *why);

/* ---- building (vbuild.c) ---- */
struct vbuild_opts {
    uint32_t dim, links, width; /* width: candidates an insertion looks at */
    enum vector_metric metric;
    unsigned threads, rest_pct;
    cairn_progress_fn progress;
    void *ctx;
    const struct cairn_stop *stop;
};
/* A built segment in memory: parts as they will stand in chunks, but for f32 rows, which are
 * rows_f32[perm[i]].
 */
struct vbuilt {
    struct vseg_rec rec;
    uint8_t *part[PART_N]; /* PART_F32 NULL */
    uint32_t *perm;        /* row -> position in the input */
};
/* ids ascending; v: [n][dim]. The same input gives the same bytes with any number of threads (another
 * OpenBLAS may cluster otherwise). rec.seg, first and last are left to the caller. */
CAIRN_MUST_USE enum cairn_err vbuild(struct vbuilt *out, const struct vbuild_opts *o, const uint32_t *ids,
                                     const float *v, uint32_t n, struct cairn_why *why);
void vbuilt_release(struct vbuilt *b);

#endif
