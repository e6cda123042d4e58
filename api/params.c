/* api/params.c - reading a request's map: every value is checked for type and range, and an error names the
 * parameter, what came and what is wanted. A key may come once; a key nobody asked for is an error of a write
 * and a warning of a read. */
#include "internal.h"

#include <float.h>
#include <math.h>

const char *p_type_name(const msgpack_object *o)
{
    switch (o->type) {
    case MSGPACK_OBJECT_NIL:
        return "nil";
    case MSGPACK_OBJECT_BOOLEAN:
        return "a boolean";
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return "an integer";
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        return "a float";
    case MSGPACK_OBJECT_STR:
        return "a string";
    case MSGPACK_OBJECT_BIN:
        return "a bin";
    case MSGPACK_OBJECT_ARRAY:
        return "an array";
    case MSGPACK_OBJECT_MAP:
        return "a map";
    default:
        return "an extension";
    }
}

#define P_FAIL(p, ...) ((p)->err = cairn_fail((p)->why, CAIRN_EINVAL, __VA_ARGS__), false)

void p_open(struct params *p, const msgpack_object *map, const char *where, struct cairn_why *why)
{
    *p = (struct params){.why = why};
    snprintf(p->where, sizeof p->where, "%s", where);
    if (map->type == MSGPACK_OBJECT_ARRAY && map->via.array.size == 0)
        return; /* some clients cannot tell an empty map from an empty array */
    if (map->type != MSGPACK_OBJECT_MAP) {
        (void)P_FAIL(p, "%s: got %s, want a map of named parameters", where, p_type_name(map));
        return;
    }
    if (map->via.map.size > PARAMS_MAX) {
        (void)P_FAIL(p, "%s: %u keys, want at most %u", where, map->via.map.size, PARAMS_MAX);
        return;
    }
    p->kv = map->via.map.ptr;
    p->n = map->via.map.size;
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->kv[i].key.type != MSGPACK_OBJECT_STR) {
            (void)P_FAIL(p, "%s: a key is %s, want a string", where, p_type_name(&p->kv[i].key));
            return;
        }
        msgpack_object_str a = p->kv[i].key.via.str;
        for (uint32_t j = 0; j < i; j++) {
            msgpack_object_str b = p->kv[j].key.via.str;
            if (a.size == b.size && memcmp(a.ptr, b.ptr, a.size) == 0) {
                (void)P_FAIL(p, "%s: the key \"%.*s\" comes twice", where, (int)(a.size < 64 ? a.size : 64),
                             a.ptr);
                return;
            }
        }
    }
}

static const msgpack_object *find(const struct params *p, const char *key, uint32_t *at)
{
    size_t len = strlen(key);
    for (uint32_t i = 0; i < p->n; i++) {
        msgpack_object_str k = p->kv[i].key.via.str;
        if (k.size == len && memcmp(k.ptr, key, len) == 0) {
            *at = i;
            return &p->kv[i].val;
        }
    }
    return NULL;
}

bool p_has(const struct params *p, const char *key)
{
    uint32_t at;
    const msgpack_object *o = p->err ? NULL : find(p, key, &at);
    return o && o->type != MSGPACK_OBJECT_NIL;
}

const msgpack_object *p_any(struct params *p, const char *key)
{
    uint32_t at;
    const msgpack_object *o = p->err ? NULL : find(p, key, &at);
    if (!o)
        return NULL;
    p->used |= UINT64_C(1) << at;
    return o->type == MSGPACK_OBJECT_NIL ? NULL : o;
}

static const msgpack_object *take(struct params *p, const char *key, bool need, const char *want)
{
    const msgpack_object *o = p_any(p, key);
    if (!o && need && !p->err)
        (void)P_FAIL(p, "%s%s is missing; want %s", p->where, key, want);
    return o;
}

bool p_str(struct params *p, const char *key, bool need, size_t min, size_t max, struct cairn_str *v)
{
    const msgpack_object *o = take(p, key, need, "a string");
    if (!o)
        return false;
    if (o->type != MSGPACK_OBJECT_STR)
        return P_FAIL(p, "%s%s: got %s, want a string", p->where, key, p_type_name(o));
    if (o->via.str.size < min || o->via.str.size > max)
        return P_FAIL(p, "%s%s: a string of %u bytes, want %zu..%zu", p->where, key, o->via.str.size, min,
                      max);
    *v = (struct cairn_str){o->via.str.ptr, o->via.str.size};
    return true;
}

bool p_uint(struct params *p, const char *key, bool need, uint64_t min, uint64_t max, uint64_t *v)
{
    const msgpack_object *o = take(p, key, need, "an integer");
    if (!o)
        return false;
    if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        return P_FAIL(p, "%s%s: got %" PRId64 ", want %" PRIu64 "..%" PRIu64, p->where, key, o->via.i64, min,
                      max);
    if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
        return P_FAIL(p, "%s%s: got %s, want an integer %" PRIu64 "..%" PRIu64, p->where, key, p_type_name(o),
                      min, max);
    if (o->via.u64 < min || o->via.u64 > max)
        return P_FAIL(p, "%s%s: got %" PRIu64 ", want %" PRIu64 "..%" PRIu64, p->where, key, o->via.u64, min,
                      max);
    *v = o->via.u64;
    return true;
}

bool p_num(struct params *p, const char *key, bool need, double min, double max, double *v)
{
    const msgpack_object *o = take(p, key, need, "a number");
    if (!o)
        return false;
    double x;
    if (o->type == MSGPACK_OBJECT_FLOAT32 || o->type == MSGPACK_OBJECT_FLOAT64)
        x = o->via.f64;
    else if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
        x = (double)o->via.u64;
    else if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        x = (double)o->via.i64;
    else
        return P_FAIL(p, "%s%s: got %s, want a number %g..%g", p->where, key, p_type_name(o), min, max);
    if (!(x >= min && x <= max))
        return P_FAIL(p, "%s%s: got %g, want %g..%g", p->where, key, x, min, max);
    *v = x;
    return true;
}

bool p_bool(struct params *p, const char *key, bool *v)
{
    const msgpack_object *o = take(p, key, false, "a boolean");
    if (!o)
        return false;
    if (o->type != MSGPACK_OBJECT_BOOLEAN)
        return P_FAIL(p, "%s%s: got %s, want true or false", p->where, key, p_type_name(o));
    *v = o->via.boolean;
    return true;
}

bool p_bin(struct params *p, const char *key, size_t max, struct cairn_str *v)
{
    const msgpack_object *o = take(p, key, false, "a bin");
    if (!o)
        return false;
    if (o->type != MSGPACK_OBJECT_BIN)
        return P_FAIL(p, "%s%s: got %s, want a bin", p->where, key, p_type_name(o));
    if (o->via.bin.size > max)
        return P_FAIL(p, "%s%s: a bin of %u bytes, want at most %zu", p->where, key, o->via.bin.size, max);
    *v = (struct cairn_str){o->via.bin.ptr, o->via.bin.size};
    return true;
}

bool p_enum(struct params *p, const char *key, const char *const *names, int *v)
{
    char all[160] = "";
    size_t len = 0;
    for (int i = 0; names[i] && len < sizeof all; i++)
        len += (size_t)snprintf(all + len, sizeof all - len, "%s%s", i ? ", " : "", names[i]);
    const msgpack_object *o = take(p, key, false, all);
    if (!o)
        return false;
    if (o->type != MSGPACK_OBJECT_STR)
        return P_FAIL(p, "%s%s: got %s, want one of: %s", p->where, key, p_type_name(o), all);
    struct cairn_str s = {o->via.str.ptr, o->via.str.size};
    for (int i = 0; names[i]; i++) {
        if (wire_str_is(s, names[i])) {
            *v = i;
            return true;
        }
    }
    return P_FAIL(p, "%s%s: got \"%.*s\", want one of: %s", p->where, key, (int)(s.len < 64 ? s.len : 64),
                  s.p, all);
}

bool p_array(struct params *p, const char *key, bool need, size_t max, const msgpack_object_array **v)
{
    const msgpack_object *o = take(p, key, need, "an array");
    if (!o)
        return false;
    if (o->type != MSGPACK_OBJECT_ARRAY)
        return P_FAIL(p, "%s%s: got %s, want an array", p->where, key, p_type_name(o));
    if (o->via.array.size > max)
        return P_FAIL(p, "%s%s: %u entries, want at most %zu", p->where, key, o->via.array.size, max);
    *v = &o->via.array;
    return true;
}

bool p_strs(struct params *p, const char *key, bool need, size_t max, size_t str_max, struct cairn_str **list,
            size_t *n)
{
    const msgpack_object_array *a;
    if (!p_array(p, key, need, max, &a))
        return false;
    for (uint32_t i = 0; i < a->size; i++) {
        if (a->ptr[i].type != MSGPACK_OBJECT_STR)
            return P_FAIL(p, "%s%s[%u]: got %s, want a string", p->where, key, i, p_type_name(&a->ptr[i]));
        if (a->ptr[i].via.str.size > str_max)
            return P_FAIL(p, "%s%s[%u]: a string of %u bytes, want at most %zu", p->where, key, i,
                          a->ptr[i].via.str.size, str_max);
    }
    struct cairn_str *l = cairn_calloc(a->size, sizeof *l);
    if (!l) {
        p->err = cairn_fail(p->why, CAIRN_ENOMEM, "%s%s", p->where, key);
        return false;
    }
    for (uint32_t i = 0; i < a->size; i++)
        l[i] = (struct cairn_str){a->ptr[i].via.str.ptr, a->ptr[i].via.str.size};
    *list = l;
    *n = a->size;
    return true;
}

bool p_collection(struct params *p, char *out)
{
    struct cairn_str s;
    if (!p_str(p, "collection", true, 1, COLLECTION_NAME_MAX, &s))
        return false;
    for (size_t i = 0; i < s.len; i++) {
        char ch = s.p[i];
        bool letter = (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9');
        if (!letter && !(i > 0 && (ch == '_' || ch == '-')))
            return P_FAIL(p,
                          "%scollection: \"%.*s\"; want a-z, 0-9, _ and -, starting with a letter or digit",
                          p->where, (int)s.len, s.p);
    }
    memcpy(out, s.p, s.len);
    out[s.len] = 0;
    return true;
}

bool p_vector(struct params *p, const char *key, float *out, uint32_t *dim)
{
    const msgpack_object *o = take(p, key, true, "an array of numbers, or a bin of little-endian f32");
    if (!o)
        return false;
    size_t n;
    if (o->type == MSGPACK_OBJECT_BIN && o->via.bin.size % 4)
        return P_FAIL(p, "%s%s: a bin of %u bytes, want whole little-endian f32", p->where, key,
                      o->via.bin.size);
    if (o->type == MSGPACK_OBJECT_BIN)
        n = o->via.bin.size / 4;
    else if (o->type == MSGPACK_OBJECT_ARRAY)
        n = o->via.array.size;
    else
        return P_FAIL(p, "%s%s: got %s, want an array of numbers, or a bin of little-endian f32", p->where,
                      key, p_type_name(o));
    if (n == 0 || n > VECTOR_DIM_MAX)
        return P_FAIL(p, "%s%s: %zu numbers, want 1..%u", p->where, key, n, VECTOR_DIM_MAX);
    for (uint32_t i = 0; i < n; i++) {
        double x;
        if (o->type == MSGPACK_OBJECT_BIN) {
            const uint8_t *b = (const uint8_t *)o->via.bin.ptr + (size_t)4 * i;
            uint32_t bits =
                (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
            float f;
            memcpy(&f, &bits, sizeof f);
            x = (double)f;
        } else {
            const msgpack_object *e = &o->via.array.ptr[i];
            if (e->type == MSGPACK_OBJECT_FLOAT32 || e->type == MSGPACK_OBJECT_FLOAT64)
                x = e->via.f64;
            else if (e->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
                x = (double)e->via.u64;
            else if (e->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
                x = (double)e->via.i64;
            else
                return P_FAIL(p, "%s%s[%u]: got %s, want a number", p->where, key, i, p_type_name(e));
        }
        if (!(fabs(x) <= FLT_MAX))
            return P_FAIL(p, "%s%s[%u]: got %g, want a finite number within f32", p->where, key, i, x);
        out[i] = (float)x;
    }
    *dim = (uint32_t)n;
    return true;
}

const char *const vector_kind_names[] = {"auto", "flat", "hnsw", "ivf", NULL};
const char *const vector_metric_names[] = {"cosine", "dot", "l2", NULL};

void p_how(struct params *p, struct vector_how *how)
{
    int kind = VECTOR_AUTO;
    uint64_t ef = 0, nprobe = 0;
    (void)p_bool(p, "exact", &how->exact);
    (void)p_enum(p, "index", vector_kind_names, &kind);
    (void)p_uint(p, "ef", false, 1, VECTOR_WIDTH_MAX, &ef);
    (void)p_uint(p, "nprobe", false, 1, VECTOR_WIDTH_MAX, &nprobe);
    how->kind = (enum vector_kind)kind;
    how->ef = (uint32_t)ef;
    how->nprobe = (uint32_t)nprobe;
}

enum cairn_err p_close(struct params *p, struct call *warn)
{
    for (uint32_t i = 0; i < p->n && !p->err; i++) {
        if (p->used >> i & 1)
            continue;
        msgpack_object_str k = p->kv[i].key.via.str;
        int len = (int)(k.size < 64 ? k.size : 64);
        len = (int)cairn_utf8_floor(k.ptr, (size_t)len);
        if (warn)
            call_warn(warn, "%s\"%.*s\" is not a parameter of this method and was ignored", p->where, len,
                      k.ptr);
        else
            (void)P_FAIL(p, "%s\"%.*s\" is not a parameter of this method", p->where, len, k.ptr);
    }
    return p->err;
}

void call_warn(struct call *c, const char *fmt, ...)
{
    if (c->n_warnings == WARNINGS_MAX)
        return;
    char *w = c->warnings[c->n_warnings++];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(w, sizeof c->warnings[0], fmt, ap);
    va_end(ap);
    w[cairn_utf8_floor(w, strlen(w))] = 0;
}

void call_map(struct call *c, size_t n) { pk_map(&c->out, n + (c->n_warnings > 0)); }

void call_end(struct call *c)
{
    if (!c->n_warnings)
        return;
    pk_cstr(&c->out, "warnings");
    pk_array(&c->out, c->n_warnings);
    for (unsigned i = 0; i < c->n_warnings; i++)
        pk_cstr(&c->out, c->warnings[i]);
}

bool call_event(struct call *c, const char *name, const struct cairn_buf *map)
{
    if (!c->sink || !c->sink->event || map->failed)
        return true;
    return c->sink->event(c->sink->ctx, name, map->bytes, map->len);
}
