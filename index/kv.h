/* kv.h - the border to LMDB: named databases, keys whose integers sort (big-endian), values that carry a
 * checksum bound to database and key, and the one place where LMDB's codes become ours. */
#ifndef CAIRN_INDEX_KV_H
#define CAIRN_INDEX_KV_H

#include <cairn/base.h>
#include <lmdb.h>

#define KV_KEY_MAX 511u /* LMDB's compiled-in limit */
#define KV_CHECKSUM_BYTES 8u

enum kv_db {
    DB_META,
    DB_COLLECTION,
    DB_DOCUMENT,
    DB_TEXT,
    DB_HASHES,
    DB_PASSAGE,
    DB_FORWARD,
    DB_TERM,
    DB_POSTING,
    DB_VECTOR,
    DB_CODE,
    DB_SEGMENT,
    DB_GRAPH,
    DB_CHUNK,
    DB_PRINCIPAL,
    DB_ACL,
    DB_RECORD,
    DB_N
};
extern const char *const kv_db_name[DB_N];

/* One transaction. map_full is set when LMDB said so: the caller may grow the map and run its batch again. */
struct kv {
    MDB_env *env;
    MDB_txn *txn;
    const MDB_dbi *dbi;
    bool map_full;
    struct vcache *vcache; /* of the store, NULL without one */
    struct kv_vset *vsets; /* segments looked up in this transaction (vseg.c) */
};

struct kv_key {
    size_t len; /* over KV_KEY_MAX: too long, refused when used */
    uint8_t b[KV_KEY_MAX + 1];
};
static inline struct kv_key *key_reset(struct kv_key *k)
{
    k->len = 0;
    return k;
}
struct kv_key *key_bytes(struct kv_key *k, const void *bytes, size_t len);
struct kv_key *key_u32(struct kv_key *k, uint32_t v);
struct kv_key *key_u64(struct kv_key *k, uint64_t v);
uint32_t key_read_u32(struct cairn_str key, size_t at); /* 0 when the key is too short */
uint64_t key_read_u64(struct cairn_str key, size_t at);

/* LMDB's or errno's code -> ours, "what: reason, how to mend" in why. */
enum cairn_err cairn_err_from_mdb(struct cairn_why *why, int rc, const char *what);

/* *payload is BORROWED until the transaction ends (or, in a write transaction, until the next write).
 * CAIRN_ENOTFOUND comes without words: whoever asked knows what it means. */
CAIRN_MUST_USE enum cairn_err kv_get(struct kv *kv, enum kv_db db, const struct kv_key *key,
                                     struct cairn_str *payload, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err kv_put(struct kv *kv, enum kv_db db, const struct kv_key *key,
                                     const void *payload, size_t len, struct cairn_why *why);
/* Puts what a buffer holds; a buffer that failed is CAIRN_ENOMEM. */
CAIRN_MUST_USE enum cairn_err kv_put_buf(struct kv *kv, enum kv_db db, const struct kv_key *key,
                                         const struct cairn_buf *b, struct cairn_why *why);
/* Without a checksum, for values that carry their own: the bytes to fill before the next write; and the
 * value. */
CAIRN_MUST_USE enum cairn_err kv_reserve(struct kv *kv, enum kv_db db, const struct kv_key *key, size_t len,
                                         uint8_t **out, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err kv_get_raw(struct kv *kv, enum kv_db db, const struct kv_key *key,
                                         struct cairn_str *value, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err kv_del(struct kv *kv, enum kv_db db, const struct kv_key *key,
                                     struct cairn_why *why);
/* Deletes every key that starts with prefix. */
CAIRN_MUST_USE enum cairn_err kv_drop_prefix(struct kv *kv, enum kv_db db, const struct kv_key *prefix,
                                             struct cairn_why *why);
/* CAIRN_ECORRUPT that names database and key. */
enum cairn_err kv_corrupt(struct cairn_why *why, enum kv_db db, const void *key, size_t len,
                          const char *what);

struct kv_cursor {
    struct kv *kv;
    enum kv_db db;
    MDB_cursor *c;
    struct cairn_str key, payload; /* BORROWED as above */
};
CAIRN_MUST_USE enum cairn_err kv_cursor_open(struct kv_cursor *c, struct kv *kv, enum kv_db db,
                                             struct cairn_why *why);
void kv_cursor_close(struct kv_cursor *c);
/* The first key >= key; CAIRN_ENOTFOUND past the end, without words. */
CAIRN_MUST_USE enum cairn_err kv_seek(struct kv_cursor *c, const struct kv_key *key, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err kv_next(struct kv_cursor *c, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err kv_prev(struct kv_cursor *c,
                                      struct cairn_why *why); /* before a failed seek: the last */
static inline bool kv_has_prefix(struct cairn_str key, const struct kv_key *prefix)
{
    return key.len >= prefix->len &&
           (prefix->len == 0 || __builtin_memcmp(key.p, prefix->b, prefix->len) == 0);
}

#endif
