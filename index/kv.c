/* kv.c - see kv.h. A value is [u64 LE checksum][payload]; the checksum is XXH3 of the payload, seeded with
 * XXH3 of the database's name and the key, so that a value that lies under another key or in another database
 * does not verify. */
#include "kv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *const kv_db_name[DB_N] = {
    "meta",   "collection", "document", "text",  "hashes", "passage",   "forward", "term",   "posting",
    "vector", "code",       "segment",  "graph", "chunk",  "principal", "acl",     "record",
};

struct kv_key *key_bytes(struct kv_key *k, const void *bytes, size_t len)
{
    if (k->len > KV_KEY_MAX || len > KV_KEY_MAX - k->len) {
        k->len = KV_KEY_MAX + 1;
        return k;
    }
    if (len)
        memcpy(k->b + k->len, bytes, len);
    k->len += len;
    return k;
}

struct kv_key *key_u32(struct kv_key *k, uint32_t v)
{
    uint8_t b[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    return key_bytes(k, b, 4);
}

struct kv_key *key_u64(struct kv_key *k, uint64_t v)
{
    return key_u32(key_u32(k, (uint32_t)(v >> 32)), (uint32_t)v);
}

uint32_t key_read_u32(struct cairn_str key, size_t at)
{
    if (key.len < at + 4)
        return 0;
    const uint8_t *b = (const uint8_t *)key.p + at;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

uint64_t key_read_u64(struct cairn_str key, size_t at)
{
    return (uint64_t)key_read_u32(key, at) << 32 | key_read_u32(key, at + 4);
}

enum cairn_err cairn_err_from_mdb(struct cairn_why *why, int rc, const char *what)
{
    switch (rc) {
    case 0:
        return CAIRN_OK;
    case ENOMEM:
        return cairn_fail(why, CAIRN_ENOMEM, "%s: no memory", what);
    case MDB_NOTFOUND:
        return cairn_fail(why, CAIRN_ENOTFOUND, "%s: not there", what);
    case MDB_MAP_FULL:
        return cairn_fail(
            why, CAIRN_EFULL,
            "%s: the store's map is full; raise index.map_bytes_max and reopen, or delete documents", what);
    case MDB_TXN_FULL:
        return cairn_fail(why, CAIRN_EFULL, "%s: too much for one transaction; use smaller batches", what);
    case ENOSPC:
    case EDQUOT:
        return cairn_fail(why, CAIRN_EFULL, "%s: %s; free disk space and try again, nothing was changed",
                          what, strerror(rc));
    case MDB_READERS_FULL:
        return cairn_fail(why, CAIRN_EBUSY,
                          "%s: all reader slots are taken; try again, or raise index.readers_max and reopen",
                          what);
    case MDB_PANIC:
        return cairn_fail(why, CAIRN_EIO, "%s: an earlier write failed half way; close and reopen the store",
                          what);
    case MDB_VERSION_MISMATCH:
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "%s: written by another version of LMDB", what);
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_BAD_VALSIZE:
    case MDB_INCOMPATIBLE:
        return cairn_fail(why, CAIRN_ECORRUPT, "%s: %s; run `cairn debug check`, restore a backup", what,
                          mdb_strerror(rc));
    case EACCES:
    case EROFS:
    case EPERM:
        return cairn_fail(why, CAIRN_EIO, "%s: %s; check owner and mode of the data directory", what,
                          strerror(rc));
    case ENOENT:
        return cairn_fail(why, CAIRN_ENOTFOUND, "%s: no such file", what);
    default:
        return cairn_fail(why, CAIRN_EIO, "%s: %s", what, mdb_strerror(rc));
    }
}

static enum cairn_err fail_rc(struct kv *kv, int rc, enum kv_db db, struct cairn_why *why)
{
    if (rc == MDB_NOTFOUND)
        return CAIRN_ENOTFOUND;
    if (rc == MDB_MAP_FULL)
        kv->map_full = true;
    char what[48];
    (void)snprintf(what, sizeof(what), "database %s", kv_db_name[db]);
    return cairn_err_from_mdb(why, rc, what);
}

static void key_text(char *out, size_t cap, const uint8_t *key, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len && n + 8 < cap; i++)
        n += (size_t)(key[i] > 0x20 && key[i] < 0x7f && key[i] != '\\'
                          ? snprintf(out + n, cap - n, "%c", key[i])
                          : snprintf(out + n, cap - n, "\\x%02x", key[i]));
    out[n] = '\0';
}

enum cairn_err kv_corrupt(struct cairn_why *why, enum kv_db db, const void *key, size_t len, const char *what)
{
    char text[160];
    key_text(text, sizeof(text), key, len);
    return cairn_fail(why, CAIRN_ECORRUPT,
                      "database %s, key %s: %s; run `cairn debug check`, restore a backup", kv_db_name[db],
                      text, what);
}

static uint64_t checksum(enum kv_db db, const void *key, size_t key_len, const void *payload, size_t len)
{
    uint64_t seed = cairn_xxh64(key, key_len, (uint64_t)db * 0x9E3779B97F4A7C15ULL + strlen(kv_db_name[db]));
    return cairn_xxh64(payload, len, seed);
}

static enum cairn_err verify(enum kv_db db, const MDB_val *k, const MDB_val *v, struct cairn_str *payload,
                             struct cairn_why *why)
{
    uint64_t want;
    if (v->mv_size < KV_CHECKSUM_BYTES)
        return kv_corrupt(why, db, k->mv_data, k->mv_size, "value is too short");
    memcpy(&want, v->mv_data, sizeof(want));
    const char *p = (const char *)v->mv_data + KV_CHECKSUM_BYTES;
    size_t len = v->mv_size - KV_CHECKSUM_BYTES;
    if (want != checksum(db, k->mv_data, k->mv_size, p, len))
        return kv_corrupt(why, db, k->mv_data, k->mv_size, "checksum does not match");
    *payload = (struct cairn_str){p, len};
    return CAIRN_OK;
}

static enum cairn_err key_val(const struct kv_key *key, enum kv_db db, MDB_val *k, struct cairn_why *why)
{
    if (key->len == 0 || key->len > KV_KEY_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "database %s: a key of %zu bytes; 1 to %u are allowed",
                          kv_db_name[db], key->len, KV_KEY_MAX);
    *k = (MDB_val){key->len, (void *)(uintptr_t)key->b};
    return CAIRN_OK;
}

enum cairn_err kv_get_raw(struct kv *kv, enum kv_db db, const struct kv_key *key, struct cairn_str *value,
                          struct cairn_why *why)
{
    MDB_val k, v;
    *value = (struct cairn_str){"", 0};
    enum cairn_err err = key_val(key, db, &k, why);
    if (err)
        return err;
    int rc = mdb_get(kv->txn, kv->dbi[db], &k, &v);
    if (rc)
        return fail_rc(kv, rc, db, why);
    *value = (struct cairn_str){v.mv_data, v.mv_size};
    return CAIRN_OK;
}

enum cairn_err kv_get(struct kv *kv, enum kv_db db, const struct kv_key *key, struct cairn_str *payload,
                      struct cairn_why *why)
{
    struct cairn_str value;
    enum cairn_err err = kv_get_raw(kv, db, key, &value, why);
    *payload = (struct cairn_str){"", 0};
    if (err)
        return err;
    MDB_val k = {key->len, (void *)(uintptr_t)key->b}, v = {value.len, (void *)(uintptr_t)value.p};
    return verify(db, &k, &v, payload, why);
}

enum cairn_err kv_reserve(struct kv *kv, enum kv_db db, const struct kv_key *key, size_t len, uint8_t **out,
                          struct cairn_why *why)
{
    MDB_val k, v = {len, NULL};
    *out = NULL;
    enum cairn_err err = key_val(key, db, &k, why);
    if (err)
        return err;
    int rc = mdb_put(kv->txn, kv->dbi[db], &k, &v, MDB_RESERVE);
    *out = rc ? NULL : v.mv_data;
    return rc ? fail_rc(kv, rc, db, why) : CAIRN_OK;
}

enum cairn_err kv_put(struct kv *kv, enum kv_db db, const struct kv_key *key, const void *payload, size_t len,
                      struct cairn_why *why)
{
    uint8_t *out;
    enum cairn_err err = kv_reserve(kv, db, key, len + KV_CHECKSUM_BYTES, &out, why);
    if (err)
        return err;
    uint64_t sum = checksum(db, key->b, key->len, payload, len);
    memcpy(out, &sum, sizeof(sum));
    if (len)
        memcpy(out + KV_CHECKSUM_BYTES, payload, len);
    return CAIRN_OK;
}

enum cairn_err kv_put_buf(struct kv *kv, enum kv_db db, const struct kv_key *key, const struct cairn_buf *b,
                          struct cairn_why *why)
{
    if (b->failed)
        return cairn_fail(why, CAIRN_ENOMEM, "no memory for a value of database %s", kv_db_name[db]);
    return kv_put(kv, db, key, b->bytes, b->len, why);
}

enum cairn_err kv_del(struct kv *kv, enum kv_db db, const struct kv_key *key, struct cairn_why *why)
{
    MDB_val k;
    enum cairn_err err = key_val(key, db, &k, why);
    if (err)
        return err;
    int rc = mdb_del(kv->txn, kv->dbi[db], &k, NULL);
    return rc ? fail_rc(kv, rc, db, why) : CAIRN_OK;
}

enum cairn_err kv_drop_prefix(struct kv *kv, enum kv_db db, const struct kv_key *prefix,
                              struct cairn_why *why)
{
    MDB_cursor *c;
    MDB_val k = {prefix->len, (void *)(uintptr_t)prefix->b}, v;
    int rc = mdb_cursor_open(kv->txn, kv->dbi[db], &c);
    if (rc)
        return fail_rc(kv, rc, db, why);
    rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
    while (rc == 0 && kv_has_prefix((struct cairn_str){k.mv_data, k.mv_size}, prefix)) {
        rc = mdb_cursor_del(c, 0);
        if (rc == 0) /* the cursor stands on the next key already, but its page may have gone: look again */
            k = (MDB_val){prefix->len, (void *)(uintptr_t)prefix->b},
            rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
    }
    mdb_cursor_close(c);
    return rc && rc != MDB_NOTFOUND ? fail_rc(kv, rc, db, why) : CAIRN_OK;
}

enum cairn_err kv_cursor_open(struct kv_cursor *c, struct kv *kv, enum kv_db db, struct cairn_why *why)
{
    *c = (struct kv_cursor){.kv = kv, .db = db};
    int rc = mdb_cursor_open(kv->txn, kv->dbi[db], &c->c);
    return rc ? fail_rc(kv, rc, db, why) : CAIRN_OK;
}

void kv_cursor_close(struct kv_cursor *c)
{
    if (c->c)
        mdb_cursor_close(c->c);
    c->c = NULL;
}

static enum cairn_err cursor_get(struct kv_cursor *c, MDB_val *k, MDB_cursor_op op, struct cairn_why *why)
{
    MDB_val v;
    int rc = mdb_cursor_get(c->c, k, &v, op);
    if (rc)
        return fail_rc(c->kv, rc, c->db, why);
    c->key = (struct cairn_str){k->mv_data, k->mv_size};
    return verify(c->db, k, &v, &c->payload, why);
}

enum cairn_err kv_seek(struct kv_cursor *c, const struct kv_key *key, struct cairn_why *why)
{
    MDB_val k = {key->len, (void *)(uintptr_t)key->b};
    return key->len ? cursor_get(c, &k, MDB_SET_RANGE, why) : cursor_get(c, &k, MDB_FIRST, why);
}

enum cairn_err kv_next(struct kv_cursor *c, struct cairn_why *why)
{
    MDB_val k = {0, NULL};
    return cursor_get(c, &k, MDB_NEXT, why);
}

enum cairn_err kv_prev(struct kv_cursor *c, struct cairn_why *why)
{
    MDB_val k = {0, NULL};
    return cursor_get(c, &k, MDB_PREV, why);
}
