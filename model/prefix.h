/* prefix.h - beginnings of prompts whose pages are kept, so that the next prompt that begins alike does not
 * compute them again. Exact: only equal token ids in equal positions match, and a cache belongs to one opened
 * decoder, so to one model with one set of settings.
 *
 * A tree of pages: a node is one page with its up to KV_PAGE token ids, its parent the page before it. Nodes
 * are either public (tokens that hold no document's and no person's text) or belong to one partition; a
 * lookup sees public nodes and those of its own partition and compares no token of any other: what it gets
 * does not depend on their texts. Its time does on how many nodes there are beside its own, and what is given
 * up for room on what all partitions used last. Where public tokens end inside a page, those positions are
 * copied into a page of their own.
 *
 * Least recently used leaves whose page nobody else holds are given up when pages are wanted.
 * Threads: the caller holds decoder.kv_lock. Nothing here allocates after prefix_open(). */
#ifndef CAIRN_MODEL_PREFIX_H
#define CAIRN_MODEL_PREFIX_H

#include "kv.h"

struct prefix;
CAIRN_MUST_USE enum cairn_err prefix_open(struct prefix **out, struct kv_pool *pool, struct cairn_why *why);
void prefix_close(struct prefix *c); /* gives its pages back; NULL is fine */
/* The longest known beginning of ids: returns how many full pages, put into pages with a reference each; and
 * in *tail, with a reference, a page whose first *n_tail positions follow them (n_tail 0: none). */
size_t prefix_find(struct prefix *c, const int32_t *ids, size_t n, const struct decoder_share *share,
                   uint32_t *pages, uint32_t *tail, size_t *n_tail);
/* Keeps the n positions of a sequence; a last page that is not full is kept with what it has. */
void prefix_keep(struct prefix *c, const int32_t *ids, size_t n, const struct decoder_share *share,
                 const uint32_t *table);
/* Gives pages up until the pool has n free ones; false, and none given up, when it cannot. */
bool prefix_evict(struct prefix *c, size_t n);
void prefix_clear(struct prefix *c); /* forgets all: what the pages hold is gone */
size_t prefix_pages(const struct prefix *c);
size_t prefix_idle(struct prefix *c); /* pages that could be given up: no sequence has them or one below */

#endif
