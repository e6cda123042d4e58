/* api/keys.c - API keys.
 * A key is "cairn_<id>_<secret>_<checksum>": id 16 hex digits, secret 256 random bits in 43 base64url
 * characters, checksum 8 hex digits over all before it, so that a mistyped key and a key in a log can be told
 * by eye and by tools. Stored is only BLAKE2b-256 of the whole, keyed with a random value of this store
 * (record "key_secret" in space "meta"). Password hashing would add nothing to 256 random bits and would let
 * anybody burn our time. The table of all keys is kept in memory; only this process writes the store, so it
 * is exact. A read-only service looks at the store's last commit first, because there another process writes.
 * Record (space "key", key = id): a msgpack map, see key_pack. */
#include "internal.h"

#include <sodium.h>

#define KEYS_MAX 10000u
#define KEY_TEXT_LEN (6u + 16u + 1u + 43u + 1u + 8u)
#define KEY_CHECKED_LEN (6u + 16u + 1u + 43u)

const char *api_role_name(enum api_role r)
{
    static const char *const names[] = {"none", "read_only", "user", "admin"};
    return (unsigned)r < 4 ? names[r] : "none";
}

static bool role_by_name(struct cairn_str s, enum api_role *r)
{
    for (int i = ROLE_READ_ONLY; i <= ROLE_ADMIN; i++) {
        if (wire_str_is(s, api_role_name((enum api_role)i))) {
            *r = (enum api_role)i;
            return true;
        }
    }
    return false;
}

static void key_checksum(char out[9], const char *text)
{
    uint64_t h =
        cairn_xxh64(text, KEY_CHECKED_LEN, 0x6361697261); /* not a secret: finds typing errors only */
    uint8_t b[4] = {(uint8_t)(h >> 24), (uint8_t)(h >> 16), (uint8_t)(h >> 8), (uint8_t)h};
    cairn_hex(out, b, 4);
}

static void key_digest(const struct service *s, const char *text, size_t len, uint8_t out[32])
{
    (void)crypto_generichash(out, 32, (const unsigned char *)text, len, s->secret, sizeof s->secret);
}

static void key_pack(struct pk *k, const struct key_row *row)
{
    const struct api_key_info *i = &row->info;
    pk_map(k, 7);
    pk_kcstr(k, "name", i->name);
    pk_kcstr(k, "role", api_role_name(i->role));
    pk_kint(k, "created_us", i->created_us);
    pk_kint(k, "expires_us", i->expires_us);
    pk_kbool(k, "revoked", i->revoked);
    pk_cstr(k, "principals");
    pk_array(k, i->n_principals);
    for (size_t n = 0; n < i->n_principals; n++)
        pk_cstr(k, i->principals[n]);
    pk_cstr(k, "digest");
    pk_bin(k, row->digest, sizeof row->digest);
}

static bool copy_str(char *out, size_t size, struct cairn_str s)
{
    if (s.len >= size)
        return false;
    memcpy(out, s.p, s.len);
    out[s.len] = 0;
    return true;
}

static bool key_unpack(struct key_row *row, struct cairn_str id, struct cairn_str bytes)
{
    struct wire_reader map = {(const uint8_t *)bytes.p, bytes.len, 0}, v;
    struct cairn_str s;
    uint64_t u, n;
    bool negative;
    *row = (struct key_row){0};
    if (!copy_str(row->info.id, sizeof row->info.id, id))
        return false;
    if (!wire_map_find(&map, "name", &v) || !wire_str(&v, &s) ||
        !copy_str(row->info.name, sizeof row->info.name, s))
        return false;
    if (!wire_map_find(&map, "role", &v) || !wire_str(&v, &s) || !role_by_name(s, &row->info.role))
        return false;
    if (!wire_map_find(&map, "created_us", &v) || !wire_int(&v, &row->info.created_us, &u, &negative))
        return false;
    if (!wire_map_find(&map, "expires_us", &v) || !wire_int(&v, &row->info.expires_us, &u, &negative))
        return false;
    if (!wire_map_find(&map, "revoked", &v) || !wire_bool(&v, &row->info.revoked))
        return false;
    if (!wire_map_find(&map, "digest", &v) || !wire_bin(&v, &s) || s.len != sizeof row->digest)
        return false;
    memcpy(row->digest, s.p, s.len);
    if (!wire_map_find(&map, "principals", &v) || !wire_array(&v, &n) || n > PRINCIPALS_MAX)
        return false;
    for (uint64_t i = 0; i < n; i++)
        if (!wire_str(&v, &s) || !copy_str(row->info.principals[i], sizeof row->info.principals[0], s))
            return false;
    row->info.n_principals = (size_t)n;
    return true;
}

struct loading {
    struct key_row *rows;
    size_t n, cap;
    bool bad, nomem;
};

static bool load_one(void *ctx, struct cairn_str key, struct cairn_str bytes)
{
    struct loading *l = ctx;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 8;
        struct key_row *rows = cairn_reallocarray(l->rows, cap, sizeof *rows);
        if (!rows) {
            l->nomem = true;
            return false;
        }
        l->rows = rows;
        l->cap = cap;
    }
    if (key_unpack(&l->rows[l->n], key, bytes))
        l->n++;
    else
        l->bad = true;
    return !l->bad;
}

/* keys_mu is held. */
static enum cairn_err load_locked(struct service *s, struct store_view *v, struct cairn_why *why)
{
    struct loading l = {0};
    struct cairn_str secret;
    enum cairn_err err = store_record_get(v, "meta", cairn_str_of("key_secret"), &secret, why);
    bool has_secret = err == CAIRN_OK && secret.len == sizeof s->secret;
    if (err && err != CAIRN_ENOTFOUND)
        return err;
    err = store_record_each(v, "key", (struct cairn_str){"", 0}, load_one, &l, why);
    if (!err && l.nomem)
        err = cairn_fail(why, CAIRN_ENOMEM, "table of keys");
    if (!err && (l.bad || (l.n > 0 && !has_secret)))
        err = cairn_fail(why, CAIRN_ECORRUPT, "a key record is damaged; restore the store from a backup");
    if (err) {
        cairn_free(l.rows);
        return err;
    }
    cairn_free(s->keys);
    s->keys = l.rows;
    s->n_keys = l.n;
    s->has_secret = has_secret;
    if (has_secret)
        memcpy(s->secret, secret.p, sizeof s->secret);
    s->keys_commit = store_view_commit(v);
    s->keys_loaded = true;
    return CAIRN_OK;
}

enum cairn_err keys_load(struct service *s, struct cairn_why *why)
{
    struct store_view *v;
    enum cairn_err err = store_view_begin(&v, s->store, why);
    if (err)
        return err;
    pthread_mutex_lock(&s->keys_mu);
    err = load_locked(s, v, why);
    pthread_mutex_unlock(&s->keys_mu);
    store_view_end(v);
    return err;
}

/* keys_mu is held. A service that cannot write shares its store with one that can. */
static enum cairn_err refresh(struct service *s, struct cairn_why *why)
{
    if (!s->read_only)
        return CAIRN_OK;
    struct store_view *v;
    enum cairn_err err = store_view_begin(&v, s->store, why);
    if (err)
        return err;
    if (store_view_commit(v) != s->keys_commit)
        err = load_locked(s, v, why);
    store_view_end(v);
    return err;
}

size_t keys_count(struct service *s)
{
    pthread_mutex_lock(&s->keys_mu);
    size_t n = refresh(s, NULL) == CAIRN_OK ? s->n_keys : SIZE_MAX; /* unknown counts as "there are keys" */
    pthread_mutex_unlock(&s->keys_mu);
    return n;
}

static struct key_row *row_of(struct service *s, const char *id, size_t len)
{
    for (size_t i = 0; i < s->n_keys; i++)
        if (strlen(s->keys[i].info.id) == len && memcmp(s->keys[i].info.id, id, len) == 0)
            return &s->keys[i];
    return NULL;
}

static enum cairn_err usable(const struct api_key_info *i, struct cairn_why *why)
{
    if (i->revoked)
        return cairn_fail(why, CAIRN_EUNAUTH, "unknown key; an admin makes one with `cairn key create`");
    if (i->expires_us && cairn_wall_us() >= i->expires_us)
        return cairn_fail(why, CAIRN_EUNAUTH,
                          "the key %s has expired; an admin makes a new one with `cairn key create`", i->id);
    return CAIRN_OK;
}

enum cairn_err api_key_check(struct service *s, const char *secret, size_t len, struct api_key_info *out,
                             struct cairn_why *why)
{
    static const uint8_t none[32];
    uint8_t digest[32] = {0};
    char sum[9];
    bool formed = len == KEY_TEXT_LEN && memcmp(secret, "cairn_", 6) == 0;
    pthread_mutex_lock(&s->keys_mu);
    enum cairn_err err = refresh(s, why);
    if (err) {
        pthread_mutex_unlock(&s->keys_mu);
        return err;
    }
    /* The same work for a known and an unknown id: one keyed hash, one comparison. */
    key_digest(s, secret, len < KEY_TEXT_LEN ? len : KEY_TEXT_LEN, digest);
    struct key_row *row = formed ? row_of(s, secret + 6, 16) : NULL;
    if (formed)
        key_checksum(sum, secret);
    bool same = sodium_memcmp(digest, row ? row->digest : none, sizeof digest) == 0;
    bool ok = same && row && s->has_secret && memcmp(sum, secret + KEY_CHECKED_LEN + 1, 8) == 0;
    if (ok)
        *out = row->info;
    pthread_mutex_unlock(&s->keys_mu);
    sodium_memzero(digest, sizeof digest);
    if (!ok)
        return cairn_fail(why, CAIRN_EUNAUTH, "unknown key; an admin makes one with `cairn key create`");
    return usable(out, why);
}

enum cairn_err keys_look(struct service *s, const char *id, struct api_key_info *out, struct cairn_why *why)
{
    pthread_mutex_lock(&s->keys_mu);
    enum cairn_err err = refresh(s, why);
    struct key_row *row = err ? NULL : row_of(s, id, strlen(id));
    if (row)
        *out = row->info;
    pthread_mutex_unlock(&s->keys_mu);
    if (err)
        return err;
    return row ? usable(out, why) : cairn_fail(why, CAIRN_EUNAUTH, "the key %s is gone", id);
}

size_t keys_copy(struct service *s, struct api_key_info **out)
{
    pthread_mutex_lock(&s->keys_mu);
    (void)refresh(s, NULL);
    size_t n = s->n_keys;
    *out = cairn_calloc(n, sizeof **out);
    for (size_t i = 0; *out && i < n; i++)
        (*out)[i] = s->keys[i].info;
    pthread_mutex_unlock(&s->keys_mu);
    return *out ? n : 0;
}

static enum cairn_err store_row(struct service *s, struct store_batch *b, const struct key_row *row,
                                struct cairn_why *why)
{
    struct cairn_buf buf;
    cairn_buf_init(&buf, 64u << 10);
    struct pk k;
    pk_init(&k, &buf);
    key_pack(&k, row);
    enum cairn_err err =
        buf.failed ? cairn_fail(why, CAIRN_ENOMEM, "key record")
                   : store_record_put(b, "key", cairn_str_of(row->info.id), buf.bytes, buf.len, why);
    cairn_buf_release(&buf);
    (void)s;
    return err;
}

enum cairn_err api_key_create(struct service *s, const struct api_key_info *want, char secret[80],
                              struct api_key_info *out, struct cairn_why *why)
{
    if (s->read_only)
        return cairn_fail(why, CAIRN_ESTATE, "the store is open for reading only; a key cannot be made");
    if (want->role < ROLE_READ_ONLY || want->role > ROLE_ADMIN)
        return cairn_fail(why, CAIRN_EINVAL, "a key needs a role: read_only, user or admin");
    if (want->n_principals > PRINCIPALS_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "%zu principals, want at most %u", want->n_principals,
                          PRINCIPALS_MAX);
    if (sodium_init() < 0)
        return cairn_fail(why, CAIRN_EIO, "no random numbers from the system");
    pthread_mutex_lock(&s->keys_mu);
    bool room = s->n_keys < KEYS_MAX;
    pthread_mutex_unlock(&s->keys_mu);
    if (!room)
        return cairn_fail(why, CAIRN_EFULL, "the store holds %u keys, its limit", KEYS_MAX);

    struct key_row *row = cairn_calloc(1, sizeof *row);
    if (!row)
        return cairn_fail(why, CAIRN_ENOMEM, "key");
    row->info = *want;
    row->info.revoked = false;
    row->info.created_us = cairn_wall_us();
    uint8_t id[8], random[32], first_secret[32];
    randombytes_buf(id, sizeof id);
    randombytes_buf(random, sizeof random);
    cairn_hex(row->info.id, id, sizeof id);
    char body[sodium_base64_ENCODED_LEN(32, sodium_base64_VARIANT_URLSAFE_NO_PADDING)];
    sodium_bin2base64(body, sizeof body, random, sizeof random, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    char sum[9];
    (void)snprintf(secret, 80, "cairn_%s_%s", row->info.id, body);
    key_checksum(sum, secret);
    (void)snprintf(secret + KEY_CHECKED_LEN, 80 - KEY_CHECKED_LEN, "_%s", sum);
    sodium_memzero(random, sizeof random);
    sodium_memzero(body, sizeof body);

    struct store_batch *b = NULL;
    enum cairn_err err =
        store_batch_begin(&b, s->store, why); /* from here no other thread makes a first secret */
    if (err)
        goto done;
    err = keys_load(s, why); /* another thread may have committed the first secret a moment ago */
    if (err)
        goto done;
    pthread_mutex_lock(&s->keys_mu);
    bool has_secret = s->has_secret;
    pthread_mutex_unlock(&s->keys_mu);
    if (!has_secret) {
        randombytes_buf(first_secret, sizeof first_secret);
        err = store_record_put(b, "meta", cairn_str_of("key_secret"), first_secret, sizeof first_secret, why);
        if (err)
            goto done;
        (void)crypto_generichash(row->digest, 32, (unsigned char *)secret, KEY_TEXT_LEN, first_secret,
                                 sizeof first_secret);
        sodium_memzero(first_secret, sizeof first_secret);
    } else {
        key_digest(s, secret, KEY_TEXT_LEN, row->digest);
    }
    err = store_row(s, b, row, why);
    if (err)
        goto done;
    uint64_t generation;
    err = store_batch_commit(b, &generation, why);
    b = NULL;
    if (!err)
        err = keys_load(s, why);
    if (!err && out)
        *out = row->info;
done:
    if (b)
        store_batch_abort(b);
    if (err)
        sodium_memzero(secret, 80);
    cairn_free(row);
    return err;
}

enum cairn_err key_revoke(struct service *s, struct cairn_str id, uint64_t *generation, struct cairn_why *why)
{
    if (s->read_only)
        return cairn_fail(why, CAIRN_ESTATE, "the store is open for reading only; a key cannot be revoked");
    struct key_row *row = cairn_calloc(1, sizeof *row);
    if (!row)
        return cairn_fail(why, CAIRN_ENOMEM, "key");
    pthread_mutex_lock(&s->keys_mu);
    struct key_row *have = row_of(s, id.p, id.len);
    if (have)
        *row = *have;
    pthread_mutex_unlock(&s->keys_mu);
    struct store_batch *b = NULL;
    enum cairn_err err = CAIRN_OK;
    if (!have)
        err = cairn_fail(why, CAIRN_ENOTFOUND, "no key \"%.*s\"; key.list shows them",
                         (int)(id.len < 32 ? id.len : 32), id.p);
    row->info.revoked = true; /* the record stays: a store that had a key never falls back to open access */
    if (!err)
        err = store_batch_begin(&b, s->store, why);
    if (!err)
        err = store_row(s, b, row, why);
    if (!err) {
        err = store_batch_commit(b, generation, why);
        b = NULL;
    }
    if (!err)
        err = keys_load(s, why);
    if (b)
        store_batch_abort(b);
    cairn_free(row);
    return err;
}

/* ---- methods ---- */

static void pack_info(struct pk *k, const struct api_key_info *i, const char *secret)
{
    pk_kcstr(k, "id", i->id);
    if (secret)
        pk_kcstr(k, "key", secret);
    pk_kcstr(k, "name", i->name);
    pk_kcstr(k, "role", api_role_name(i->role));
    pk_cstr(k, "principals");
    pk_array(k, i->n_principals);
    for (size_t n = 0; n < i->n_principals; n++)
        pk_cstr(k, i->principals[n]);
    pk_kint(k, "created_us", i->created_us);
    pk_kint(k, "expires_us", i->expires_us);
    pk_kbool(k, "revoked", i->revoked);
}

enum cairn_err m_key_create(struct call *c)
{
    static const char *const roles[] = {"read_only", "user", "admin", NULL};
    struct cairn_str name = {"", 0}, *names = NULL;
    size_t n = 0;
    int role = -1;
    uint64_t expires_s = 0;
    (void)p_str(&c->p, "name", false, 0, 64, &name);
    (void)p_enum(&c->p, "role", roles, &role);
    (void)p_uint(&c->p, "expires_s", false, 1, UINT64_C(3200000000), &expires_s);
    (void)p_strs(&c->p, "principals", false, PRINCIPALS_MAX, PRINCIPAL_MAX, &names, &n);
    enum cairn_err err = p_close(&c->p, NULL);
    if (!err && role < 0)
        err = cairn_fail(c->why, CAIRN_EINVAL, "param role is missing; want one of: read_only, user, admin");
    struct api_key_info *want = cairn_calloc(1, sizeof *want), *made = cairn_calloc(1, sizeof *made);
    char secret[80] = "";
    if (!err && (!want || !made))
        err = cairn_fail(c->why, CAIRN_ENOMEM, "key");
    for (size_t i = 0; i < n && !err; i++) {
        if (names[i].len == 0)
            err = cairn_fail(c->why, CAIRN_EINVAL, "param principals[%zu]: empty", i);
        else
            memcpy(want->principals[i], names[i].p, names[i].len);
    }
    if (!err) {
        want->n_principals = n;
        want->role = (enum api_role)(ROLE_READ_ONLY + role);
        want->expires_us = expires_s ? cairn_wall_us() + (int64_t)expires_s * 1000000 : 0;
        memcpy(want->name, name.p, name.len);
        err = api_key_create(c->s, want, secret, made, c->why);
    }
    if (!err) {
        call_map(c, 8);
        pack_info(&c->out, made, secret);
        call_end(c);
    }
    sodium_memzero(secret, sizeof secret);
    cairn_free(names);
    cairn_free(want);
    cairn_free(made);
    return err;
}

enum cairn_err m_key_list(struct call *c)
{
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    struct api_key_info *list;
    size_t n = keys_copy(c->s, &list);
    call_map(c, 1);
    pk_cstr(&c->out, "keys");
    pk_array(&c->out, n);
    for (size_t i = 0; i < n; i++) {
        pk_map(&c->out, 7);
        pack_info(&c->out, &list[i], NULL);
    }
    call_end(c);
    cairn_free(list);
    return CAIRN_OK;
}

enum cairn_err m_key_revoke(struct call *c)
{
    struct cairn_str id = {"", 0};
    (void)p_str(&c->p, "id", true, 1, 16, &id);
    enum cairn_err err = p_close(&c->p, NULL);
    uint64_t generation = 0;
    if (!err)
        err = key_revoke(c->s, id, &generation, c->why);
    if (err)
        return err;
    call_map(c, 3);
    pk_kuint(&c->out, "generation", generation);
    pk_kstr(&c->out, "id", id);
    pk_kbool(&c->out, "revoked", true);
    call_end(c);
    return CAIRN_OK;
}
