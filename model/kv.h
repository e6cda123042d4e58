/* kv.h - keys and values of all sequences of a decoder: one pool of pages, allocated once.
 *
 * A page holds KV_PAGE consecutive positions of a sequence, for all layers and key-value heads. A sequence is
 * a block table, an array of page ids: position p lies in page table[p / KV_PAGE] at p % KV_PAGE. Pages are
 * counted by reference: sequences that begin alike share full pages, and a page with a second owner is only
 * read. Nothing clears a page: what lies at positions behind a sequence's length is never used.
 *
 * Bytes of a page: block_bytes for each (layer, head), layers outermost; a block is
 *   0                  keys    [KV_PAGE / KV_RUN][head_dim][KV_RUN]  runs of 16 positions, transposed
 *   values_at          values  [KV_PAGE][head_dim]
 *   key_scales_at      floats  [KV_PAGE]                             Q8 only: key = scale * integer
 *   value_scales_at    floats  [KV_PAGE]                             Q8 only
 * Elements are float32, IEEE half or int8, as cache_type says. Page ids run from 0 to n_pages - 1.
 *
 * A device keeps a pool of its own over the same ids and block tables and may order a block as suits it. The
 * bytes here are there all the same, untouched, for the day that the device fails.
 *
 * Threads: the caller holds one lock around take, ref, unref and counts (decoder.kv_lock). Bytes of a page
 * belong to its owner: writing needs the only reference. */
#ifndef CAIRN_MODEL_KV_H
#define CAIRN_MODEL_KV_H

#include <cairn/model.h>

enum {
    KV_PAGE = 64, /* positions of a page */
    KV_RUN = 16,  /* positions whose keys lie transposed together */
    KV_PAGES_MAX = 1 << 24,
};

struct kv_shape {
    enum cache_type type;
    uint32_t n_layer, n_head, head_dim;               /* n_head: of keys and values */
    size_t values_at, key_scales_at, value_scales_at; /* in a block */
    size_t block_bytes, page_bytes;
};
/* False when a page would be too large to address. */
bool kv_shape_init(struct kv_shape *s, enum cache_type type, uint32_t n_layer, uint32_t n_head,
                   uint32_t head_dim);
static inline size_t kv_block_at(const struct kv_shape *s, size_t layer, size_t head)
{
    return (layer * s->n_head + head) * s->block_bytes;
}
static inline size_t kv_pages_for(size_t positions) { return (positions + KV_PAGE - 1) / KV_PAGE; }

struct kv_pool {
    struct kv_shape shape;
    char *bytes; /* OWNED [n_pages * page_bytes], touched as pages are used */
    uint32_t n_pages, n_free;
    uint32_t *refs, *free; /* OWNED: references of each page; a stack of free ids */
    /* A device that keeps the pages instead of the bytes here is told of each copy; NULL: the bytes count. */
    void (*copied)(void *ctx, uint32_t to, uint32_t from);
    void *copied_ctx;
    void (*half)(uint16_t *out, const float *x,
                 size_t n); /* kv_half() of a row; a backend has a faster one */
};
CAIRN_MUST_USE enum cairn_err kv_pool_open(struct kv_pool **out, const struct kv_shape *shape,
                                           uint32_t n_pages, struct cairn_why *why);
void kv_pool_close(struct kv_pool *p); /* NULL is fine; CAIRN_CHECKs that no page is held */
static inline char *kv_page(const struct kv_pool *p, uint32_t id)
{
    return p->bytes + (size_t)id * p->shape.page_bytes;
}
/* n pages with one reference each; false, and none taken, when fewer are free. */
CAIRN_MUST_USE bool kv_take(struct kv_pool *p, uint32_t *ids, size_t n);
void kv_ref(struct kv_pool *p, uint32_t id);
void kv_unref(struct kv_pool *p, uint32_t id); /* the last one frees the page */

/* Row [n_head * head_dim] of keys and of values at `position` of a sequence, one layer. */
void kv_write(const struct kv_pool *p, const uint32_t *table, size_t layer, size_t position, const float *k,
              const float *v);
/* The first n positions of page `from`, nothing behind them, into page `to`. */
void kv_copy(const struct kv_pool *p, uint32_t to, uint32_t from, size_t n);

/* Singles to halves, nearest even, as F16C rounds. */
void kv_half(uint16_t *out, const float *x, size_t n);

#endif
