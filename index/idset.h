/* idset.h - sets of passage ids in chunks of 65,536: in memory one bitset per chunk that is not empty, in
 * LMDB one value per chunk (a sorted list up to 4,096 ids, else the bitset; the containers of Roaring
 * bitmaps, Lemire et al. 2016), so that a commit rewrites 8 KiB and not a whole set. CRoaring is not used
 * here: its 0.2 interface aborts without memory, and a set as one value would be rewritten whole at every
 * commit. */
#ifndef CAIRN_INDEX_IDSET_H
#define CAIRN_INDEX_IDSET_H

#include "kv.h"

#define IDSET_CHUNK_WORDS 1024u

/* Set numbers below SET_PRINCIPAL_FIRST are ours; a principal's string maps to one from there on. */
enum { SET_LIVE = 0, SET_NO_ACL = 1, SET_EVERYONE = 2, SET_PRINCIPAL_FIRST = 16 };

struct idset {
    uint64_t **chunks; /* NULL: empty chunk */
    uint32_t n_chunks;
    uint64_t count; /* valid after idset_count */
};
void idset_release(struct idset *s);
static inline bool idset_has(const struct idset *s, uint32_t id)
{
    uint32_t c = id >> 16;
    return c < s->n_chunks && s->chunks[c] && (s->chunks[c][(id & 0xffff) >> 6] >> (id & 63) & 1);
}
/* The smallest member >= id, or UINT32_MAX. */
uint32_t idset_next(const struct idset *s, uint32_t id);
bool idset_add(struct idset *s, uint32_t id); /* false: no memory */
uint64_t idset_count(struct idset *s);
void idset_and(struct idset *s, const struct idset *other);
/* Unites set with what is stored. */
CAIRN_MUST_USE enum cairn_err idset_load(struct idset *s, struct kv *kv, uint32_t coll, uint32_t set,
                                         struct cairn_why *why);

struct idset_change {
    uint32_t set, id;
    bool add;
};
/* Applies changes (sorted here in place). A removal of what is not there, or an addition of what is, is
 * CAIRN_ECORRUPT. */
CAIRN_MUST_USE enum cairn_err idset_apply(struct kv *kv, uint32_t coll, struct idset_change *changes,
                                          size_t n, struct cairn_why *why);

#endif
