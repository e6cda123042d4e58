/* idset.c - see idset.h. Key: u32 collection, u32 set, u32 chunk. Payload: u8 kind; kind 0: u16 LE ids,
 * ascending; kind 1: 8,192 bytes, bit i of byte i/8. */
#include "idset.h"
#include "codec.h"

#include <stdlib.h>

#define LIST_MAX 4096u
enum { KIND_LIST = 0, KIND_BITS = 1 };

void idset_release(struct idset *s)
{
    for (uint32_t i = 0; s->chunks && i < s->n_chunks; i++)
        cairn_free(s->chunks[i]);
    cairn_free(s->chunks);
    *s = (struct idset){0};
}

static uint64_t *chunk_at(struct idset *s, uint32_t chunk)
{
    if (chunk >= s->n_chunks) {
        uint64_t **grown = cairn_reallocarray(s->chunks, (size_t)chunk + 1, sizeof(*grown));
        if (!grown)
            return NULL;
        for (uint32_t i = s->n_chunks; i <= chunk; i++)
            grown[i] = NULL;
        s->chunks = grown;
        s->n_chunks = chunk + 1;
    }
    if (!s->chunks[chunk])
        s->chunks[chunk] = cairn_calloc(IDSET_CHUNK_WORDS, sizeof(uint64_t));
    return s->chunks[chunk];
}

bool idset_add(struct idset *s, uint32_t id)
{
    uint64_t *w = chunk_at(s, id >> 16);
    if (w)
        w[(id & 0xffff) >> 6] |= 1ULL << (id & 63);
    return w != NULL;
}

uint32_t idset_next(const struct idset *s, uint32_t id)
{
    for (uint32_t c = id >> 16; c < s->n_chunks; c++) {
        const uint64_t *w = s->chunks[c];
        uint32_t from = c == id >> 16 ? id & 0xffff : 0;
        for (uint32_t i = from >> 6; w && i < IDSET_CHUNK_WORDS; i++) {
            uint64_t bits = w[i];
            if (i == from >> 6)
                bits &= ~0ULL << (from & 63);
            if (bits)
                return c << 16 | i << 6 | (uint32_t)__builtin_ctzll(bits);
        }
    }
    return UINT32_MAX;
}

static uint32_t words_count(const uint64_t *w)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < IDSET_CHUNK_WORDS; i++)
        n += (uint32_t)__builtin_popcountll(w[i]);
    return n;
}

uint64_t idset_count(struct idset *s)
{
    s->count = 0;
    for (uint32_t c = 0; c < s->n_chunks; c++)
        if (s->chunks[c])
            s->count += words_count(s->chunks[c]);
    return s->count;
}

void idset_and(struct idset *s, const struct idset *other)
{
    for (uint32_t c = 0; c < s->n_chunks; c++) {
        const uint64_t *o = c < other->n_chunks ? other->chunks[c] : NULL;
        if (s->chunks[c] && !o) {
            cairn_free(s->chunks[c]);
            s->chunks[c] = NULL;
        }
        for (uint32_t i = 0; s->chunks[c] && i < IDSET_CHUNK_WORDS; i++)
            s->chunks[c][i] &= o[i];
    }
}

/* ORs a stored chunk into words; false when the bytes break the format. */
static bool chunk_decode(struct cairn_str payload, uint64_t *words)
{
    struct rd r = rd_of(payload);
    uint8_t kind = rd_u8(&r);
    size_t left = rd_left(&r);
    if (kind == KIND_LIST && left % 2 == 0 && left > 0 && left / 2 <= LIST_MAX) {
        uint32_t before = 0;
        for (size_t i = 0; i < left / 2; i++) {
            uint32_t lo = rd_u8(&r), id = lo | (uint32_t)rd_u8(&r) << 8;
            if (i > 0 && id <= before)
                return false;
            words[id >> 6] |= 1ULL << (id & 63);
            before = id;
        }
        return true;
    }
    if (kind != KIND_BITS || left != IDSET_CHUNK_WORDS * 8)
        return false;
    for (uint32_t i = 0; i < IDSET_CHUNK_WORDS; i++)
        words[i] |= rd_u64(&r);
    return true;
}

static struct kv_key *chunk_key(struct kv_key *k, uint32_t coll, uint32_t set, uint32_t chunk)
{
    return key_u32(key_u32(key_u32(key_reset(k), coll), set), chunk);
}

enum cairn_err idset_load(struct idset *s, struct kv *kv, uint32_t coll, uint32_t set, struct cairn_why *why)
{
    struct kv_key k;
    struct kv_cursor c;
    enum cairn_err err = kv_cursor_open(&c, kv, DB_ACL, why);
    if (err)
        return err;
    key_u32(key_u32(key_reset(&k), coll), set);
    for (err = kv_seek(&c, &k, why); !err && kv_has_prefix(c.key, &k); err = kv_next(&c, why)) {
        uint32_t chunk = key_read_u32(c.key, 8);
        if (c.key.len != 12 || chunk > 0xffff) {
            err = kv_corrupt(why, DB_ACL, c.key.p, c.key.len, "not the key of a set");
            break;
        }
        uint64_t *w = chunk_at(s, chunk);
        if (!w) {
            err = cairn_fail(why, CAIRN_ENOMEM, "no memory for a set of passages");
            break;
        }
        if (!chunk_decode(c.payload, w)) {
            err = kv_corrupt(why, DB_ACL, c.key.p, c.key.len, "not a set of ids");
            break;
        }
    }
    kv_cursor_close(&c);
    return err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
}

static int by_set_id(const void *a, const void *b)
{
    const struct idset_change *x = a, *y = b;
    if (x->set != y->set)
        return x->set < y->set ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static enum cairn_err chunk_store(struct kv *kv, const struct kv_key *k, const uint64_t *words,
                                  struct cairn_why *why)
{
    uint32_t n = words_count(words);
    if (n == 0)
        return kv_del(kv, DB_ACL, k, why);
    uint8_t bytes[1 + IDSET_CHUNK_WORDS * 8];
    size_t len = 0;
    bytes[len++] = n <= LIST_MAX ? KIND_LIST : KIND_BITS;
    for (uint32_t i = 0; i < IDSET_CHUNK_WORDS; i++) {
        uint64_t w = words[i];
        if (n > LIST_MAX) {
            for (unsigned b = 0; b < 64; b += 8)
                bytes[len++] = (uint8_t)(w >> b);
        } else {
            for (; w; w &= w - 1) {
                uint32_t id = i << 6 | (uint32_t)__builtin_ctzll(w);
                bytes[len++] = (uint8_t)id;
                bytes[len++] = (uint8_t)(id >> 8);
            }
        }
    }
    return kv_put(kv, DB_ACL, k, bytes, len, why);
}

enum cairn_err idset_apply(struct kv *kv, uint32_t coll, struct idset_change *changes, size_t n,
                           struct cairn_why *why)
{
    if (n > 1)
        qsort(changes, n, sizeof(*changes), by_set_id);
    for (size_t i = 0; i < n;) {
        uint64_t words[IDSET_CHUNK_WORDS] = {0};
        struct kv_key k;
        struct cairn_str payload;
        uint32_t set = changes[i].set, chunk = changes[i].id >> 16;
        enum cairn_err err = kv_get(kv, DB_ACL, chunk_key(&k, coll, set, chunk), &payload, why);
        if (err && err != CAIRN_ENOTFOUND)
            return err;
        bool existed = !err;
        if (existed && !chunk_decode(payload, words))
            return kv_corrupt(why, DB_ACL, k.b, k.len, "not a set of ids");
        for (; i < n && changes[i].set == set && changes[i].id >> 16 == chunk; i++) {
            uint64_t *w = &words[(changes[i].id & 0xffff) >> 6], bit = 1ULL << (changes[i].id & 63);
            if (changes[i].add == ((*w & bit) != 0))
                return kv_corrupt(why, DB_ACL, k.b, k.len, "a set does not agree with its documents");
            *w ^= bit;
        }
        err = chunk_store(kv, &k, words, why);
        if (err == CAIRN_ENOTFOUND && !existed)
            err = CAIRN_OK; /* an empty chunk that was never stored */
        if (err)
            return err;
    }
    return CAIRN_OK;
}
