/* api/wire.c - the byte reader and the writer of wire.h. */
#include "wire.h"

#include <math.h>

enum wire_type wire_peek(const struct wire_reader *r)
{
    if (r->at >= r->len)
        return WIRE_NONE;
    uint8_t b = r->p[r->at];
    if (b <= 0x7f || b >= 0xe0)
        return WIRE_INT;
    if (b <= 0x8f)
        return WIRE_MAP;
    if (b <= 0x9f)
        return WIRE_ARRAY;
    if (b <= 0xbf)
        return WIRE_STR;
    if (b == 0xc0)
        return WIRE_NIL;
    if (b == 0xc2 || b == 0xc3)
        return WIRE_BOOL;
    if (b >= 0xc4 && b <= 0xc6)
        return WIRE_BIN;
    if (b == 0xca || b == 0xcb)
        return WIRE_FLOAT;
    if (b >= 0xcc && b <= 0xd3)
        return WIRE_INT;
    if (b >= 0xd9 && b <= 0xdb)
        return WIRE_STR;
    if (b == 0xdc || b == 0xdd)
        return WIRE_ARRAY;
    if (b == 0xde || b == 0xdf)
        return WIRE_MAP;
    return WIRE_NONE;
}

/* Big-endian field of n bytes after the tag; moves past both. */
static bool field(struct wire_reader *r, size_t n, uint64_t *v)
{
    if (r->len - r->at < 1 + n)
        return false;
    *v = 0;
    for (size_t i = 0; i < n; i++)
        *v = *v << 8 | r->p[r->at + 1 + i];
    r->at += 1 + n;
    return true;
}

bool wire_int(struct wire_reader *r, int64_t *v, uint64_t *u, bool *negative)
{
    if (wire_peek(r) != WIRE_INT)
        return false;
    uint8_t b = r->p[r->at];
    uint64_t x = 0;
    int64_t i = 0;
    if (b <= 0x7f) {
        x = b;
        r->at++;
    } else if (b >= 0xe0) {
        i = (int8_t)b;
        r->at++;
    } else if (b <= 0xcf) {
        if (!field(r, (size_t)1 << (b - 0xcc), &x))
            return false;
    } else {
        size_t n = (size_t)1 << (b - 0xd0);
        if (!field(r, n, &x))
            return false;
        switch (n) {
        case 1:
            i = (int8_t)x;
            break;
        case 2:
            i = (int16_t)x;
            break;
        case 4:
            i = (int32_t)x;
            break;
        default:
            i = (int64_t)x;
        }
        x = i >= 0 ? (uint64_t)i : 0;
    }
    *negative = i < 0;
    *v = i < 0 ? i : x > INT64_MAX ? INT64_MAX : (int64_t)x;
    *u = x;
    return true;
}

bool wire_uint(struct wire_reader *r, uint64_t *v)
{
    struct wire_reader t = *r;
    int64_t i;
    bool negative;
    if (!wire_int(&t, &i, v, &negative) || negative)
        return false;
    *r = t;
    return true;
}

bool wire_float(struct wire_reader *r, double *v, bool *single)
{
    if (wire_peek(r) != WIRE_FLOAT)
        return false;
    *single = r->p[r->at] == 0xca;
    uint64_t x;
    if (!field(r, *single ? 4 : 8, &x))
        return false;
    if (*single) {
        uint32_t x4 = (uint32_t)x;
        float f;
        memcpy(&f, &x4, sizeof f);
        *v = (double)f;
    } else {
        memcpy(v, &x, sizeof *v);
    }
    return true;
}

bool wire_bool(struct wire_reader *r, bool *v)
{
    if (wire_peek(r) != WIRE_BOOL)
        return false;
    *v = r->p[r->at++] == 0xc3;
    return true;
}

bool wire_nil(struct wire_reader *r)
{
    if (wire_peek(r) != WIRE_NIL)
        return false;
    r->at++;
    return true;
}

static bool run(struct wire_reader *r, uint64_t n, struct cairn_str *s)
{
    if (n > r->len - r->at)
        return false;
    *s = (struct cairn_str){(const char *)r->p + r->at, (size_t)n};
    r->at += (size_t)n;
    return true;
}

bool wire_str(struct wire_reader *r, struct cairn_str *s)
{
    if (wire_peek(r) != WIRE_STR)
        return false;
    uint8_t b = r->p[r->at];
    uint64_t n = b & 31u;
    if (b <= 0xbf)
        r->at++;
    else if (!field(r, (size_t)1 << (b - 0xd9), &n))
        return false;
    return run(r, n, s);
}

bool wire_bin(struct wire_reader *r, struct cairn_str *s)
{
    uint64_t n;
    if (wire_peek(r) != WIRE_BIN || !field(r, (size_t)1 << (r->p[r->at] - 0xc4), &n))
        return false;
    return run(r, n, s);
}

bool wire_array(struct wire_reader *r, uint64_t *n)
{
    if (wire_peek(r) != WIRE_ARRAY)
        return false;
    uint8_t b = r->p[r->at];
    if (b <= 0x9f) {
        *n = b & 15u;
        r->at++;
        return true;
    }
    return field(r, b == 0xdc ? 2 : 4, n);
}

bool wire_map(struct wire_reader *r, uint64_t *n)
{
    if (wire_peek(r) != WIRE_MAP)
        return false;
    uint8_t b = r->p[r->at];
    if (b <= 0x8f) {
        *n = b & 15u;
        r->at++;
        return true;
    }
    return field(r, b == 0xde ? 2 : 4, n);
}

bool wire_skip(struct wire_reader *r)
{
    uint64_t owed = 1;
    while (owed > 0) {
        uint64_t n, u;
        int64_t i;
        double d;
        bool f;
        struct cairn_str s;
        bool ok;
        owed--;
        switch (wire_peek(r)) {
        case WIRE_NIL:
            ok = wire_nil(r);
            break;
        case WIRE_BOOL:
            ok = wire_bool(r, &f);
            break;
        case WIRE_INT:
            ok = wire_int(r, &i, &u, &f);
            break;
        case WIRE_FLOAT:
            ok = wire_float(r, &d, &f);
            break;
        case WIRE_STR:
            ok = wire_str(r, &s);
            break;
        case WIRE_BIN:
            ok = wire_bin(r, &s);
            break;
        case WIRE_ARRAY:
            ok = wire_array(r, &n);
            owed += ok ? n : 0;
            break;
        case WIRE_MAP:
            ok = wire_map(r, &n);
            owed += ok ? 2 * n : 0;
            break;
        default:
            ok = false;
        }
        if (!ok || owed > r->len - r->at)
            return false;
    }
    return true;
}

bool wire_map_find(const struct wire_reader *map, const char *key, struct wire_reader *value)
{
    struct wire_reader r = *map;
    uint64_t n;
    if (!wire_map(&r, &n))
        return false;
    for (uint64_t i = 0; i < n; i++) {
        struct cairn_str k = {NULL, 0};
        bool is_str = wire_peek(&r) == WIRE_STR;
        if (is_str ? !wire_str(&r, &k) : !wire_skip(&r))
            return false;
        if (is_str && wire_str_is(k, key)) {
            *value = r;
            return true;
        }
        if (!wire_skip(&r))
            return false;
    }
    return false;
}

bool wire_envelope(struct wire_envelope *out, const uint8_t *bytes, size_t len, struct cairn_why *why)
{
    struct wire_reader r = {bytes, len, 0};
    uint64_t n, kind, id = 0, n_params;
    *out = (struct wire_envelope){0};
    if (!wire_array(&r, &n) || n < 3 || n > 4 || !wire_uint(&r, &kind) || kind > 2 ||
        n != (kind == 2 ? 3u : 4u)) {
        (void)cairn_fail(why, CAIRN_ECORRUPT,
                         "not a msgpack-RPC message: want [0, msgid, method, params] or [2, method, params]");
        return false;
    }
    out->kind = (enum wire_kind)kind;
    if (kind != WIRE_NOTIFICATION && (!wire_uint(&r, &id) || id > UINT32_MAX)) {
        (void)cairn_fail(why, CAIRN_ECORRUPT, "the msgid is not an unsigned 32-bit integer");
        return false;
    }
    out->msgid = (uint32_t)id;
    if (kind == WIRE_RESPONSE)
        return true;
    /* pynvim names the methods of its own notifications in bin: the format before there was a str type. */
    if (!(wire_peek(&r) == WIRE_BIN ? wire_bin(&r, &out->method) : wire_str(&r, &out->method))) {
        (void)cairn_fail(why, CAIRN_ECORRUPT, "the method is not a string");
        return false;
    }
    if (out->method.len > WIRE_METHOD_MAX ||
        cairn_utf8_invalid_at(out->method.p, out->method.len) != out->method.len)
        out->method = (struct cairn_str){"", 0};
    struct wire_reader v = r;
    out->params_ok = wire_array(&v, &n_params) && n_params <= 1;
    out->params = v;
    return true;
}

/* ---- writer ---- */

static int write_buf(void *b, const char *bytes, size_t len) { return cairn_buf_put(b, bytes, len) ? 0 : -1; }

void pk_init(struct pk *k, struct cairn_buf *b)
{
    k->b = b;
    msgpack_packer_init(&k->p, b, write_buf);
}
void pk_map(struct pk *k, size_t n) { (void)msgpack_pack_map(&k->p, n); }
void pk_array(struct pk *k, size_t n) { (void)msgpack_pack_array(&k->p, n); }
void pk_str(struct pk *k, struct cairn_str s)
{
    (void)msgpack_pack_str(&k->p, s.len);
    if (s.len)
        (void)msgpack_pack_str_body(&k->p, s.p, s.len);
}
void pk_cstr(struct pk *k, const char *s)
{
    if (s)
        pk_str(k, cairn_str_of(s));
    else
        pk_nil(k);
}
void pk_bin(struct pk *k, const void *p, size_t len)
{
    (void)msgpack_pack_bin(&k->p, len);
    if (len)
        (void)msgpack_pack_bin_body(&k->p, p, len);
}
void pk_uint(struct pk *k, uint64_t v) { (void)msgpack_pack_uint64(&k->p, v); }
void pk_int(struct pk *k, int64_t v) { (void)msgpack_pack_int64(&k->p, v); }
void pk_num(struct pk *k, double v)
{
    if (isfinite(v))
        (void)msgpack_pack_double(&k->p, v);
    else
        pk_nil(k);
}
void pk_bool(struct pk *k, bool v) { (void)(v ? msgpack_pack_true(&k->p) : msgpack_pack_false(&k->p)); }
void pk_nil(struct pk *k) { (void)msgpack_pack_nil(&k->p); }
void pk_kstr(struct pk *k, const char *key, struct cairn_str s)
{
    pk_cstr(k, key);
    pk_str(k, s);
}
void pk_kcstr(struct pk *k, const char *key, const char *s)
{
    pk_cstr(k, key);
    pk_cstr(k, s);
}
void pk_kuint(struct pk *k, const char *key, uint64_t v)
{
    pk_cstr(k, key);
    pk_uint(k, v);
}
void pk_kint(struct pk *k, const char *key, int64_t v)
{
    pk_cstr(k, key);
    pk_int(k, v);
}
void pk_knum(struct pk *k, const char *key, double v)
{
    pk_cstr(k, key);
    pk_num(k, v);
}
void pk_kbool(struct pk *k, const char *key, bool v)
{
    pk_cstr(k, key);
    pk_bool(k, v);
}
void pk_khash(struct pk *k, const char *key, const struct cairn_hash *h)
{
    char hex[65];
    cairn_hex(hex, h->b, sizeof h->b);
    pk_kcstr(k, key, hex);
}

void wire_pack_error(struct pk *k, bool as_map, enum cairn_err err, const char *text)
{
    const char *name = cairn_err_name(err);
    /* A message may quote the caller's own bytes; what leaves must be UTF-8, whatever came in. */
    size_t len = cairn_utf8_invalid_at(text, strlen(text));
    struct cairn_str message = {text, len};
    if (as_map) {
        pk_map(k, 3);
        pk_kcstr(k, "code", name);
        pk_kstr(k, "message", message);
        pk_cstr(k, "data");
        pk_nil(k);
        return;
    }
    char line[640];
    int n = snprintf(line, sizeof line, "%s: %.*s", name, (int)message.len, message.p);
    pk_str(k, (struct cairn_str){line, n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1});
}

enum cairn_err wire_err_by_name(struct cairn_str name)
{
    for (int e = -1; e >= CAIRN_ESTATE; e--)
        if (wire_str_is(name, cairn_err_name((enum cairn_err)e)))
            return (enum cairn_err)e;
    return CAIRN_EIO;
}
