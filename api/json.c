/* api/json.c - msgpack to JSON and back, for the command's --json and for logs. Depth is bounded in both
 * directions (WIRE_DEPTH_MAX), so recursion is too. bin is written as base64; NaN and infinity as null. */
#include "wire.h"

#include <jansson.h>
#include <math.h>
#include <sodium.h>

static void write_string(struct cairn_buf *out, struct cairn_str s)
{
    cairn_buf_put(out, "\"", 1);
    size_t from = 0;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f)
            continue;
        cairn_buf_put(out, s.p + from, i - from);
        from = i + 1;
        switch (c) {
        case '"':
            cairn_buf_puts(out, "\\\"");
            break;
        case '\\':
            cairn_buf_puts(out, "\\\\");
            break;
        case '\n':
            cairn_buf_puts(out, "\\n");
            break;
        case '\r':
            cairn_buf_puts(out, "\\r");
            break;
        case '\t':
            cairn_buf_puts(out, "\\t");
            break;
        default:
            cairn_buf_printf(out, "\\u%04x", c);
        }
    }
    cairn_buf_put(out, s.p + from, s.len - from);
    cairn_buf_put(out, "\"", 1);
}

/* The shortest of %.6g.. that reads back the same value. */
static void write_number(struct cairn_buf *out, double v, bool single)
{
    char text[40];
    if (!isfinite(v)) {
        cairn_buf_puts(out, "null");
        return;
    }
    for (int digits = single ? 6 : 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (single ? strtof(text, NULL) == (float)v : strtod(text, NULL) == v)
            break;
    }
    cairn_buf_puts(out, text);
    if (!strpbrk(text, ".en"))
        cairn_buf_puts(out, ".0");
}

static void newline(struct cairn_buf *out, bool pretty, unsigned depth)
{
    if (!pretty)
        return;
    cairn_buf_put(out, "\n", 1);
    for (unsigned i = 0; i < depth; i++)
        cairn_buf_put(out, "  ", 2);
}

static enum cairn_err to_json(struct wire_reader *r, bool pretty, unsigned depth, struct cairn_buf *out,
                              struct cairn_why *why)
{
    uint64_t n, u;
    int64_t i;
    double d;
    bool f;
    struct cairn_str s;
    size_t at = r->at;
    switch (wire_peek(r)) {
    case WIRE_NIL:
        (void)wire_nil(r);
        cairn_buf_puts(out, "null");
        return CAIRN_OK;
    case WIRE_BOOL:
        (void)wire_bool(r, &f);
        cairn_buf_puts(out, f ? "true" : "false");
        return CAIRN_OK;
    case WIRE_INT:
        if (!wire_int(r, &i, &u, &f))
            break;
        if (f)
            cairn_buf_printf(out, "%" PRId64, i);
        else
            cairn_buf_printf(out, "%" PRIu64, u);
        return CAIRN_OK;
    case WIRE_FLOAT:
        if (!wire_float(r, &d, &f))
            break;
        write_number(out, d, f);
        return CAIRN_OK;
    case WIRE_STR:
        if (!wire_str(r, &s))
            break;
        size_t bad = cairn_utf8_invalid_at(s.p, s.len);
        if (bad < s.len)
            return cairn_fail(why, CAIRN_ECORRUPT, "a string at offset %zu is not UTF-8 (byte %zu)", at, bad);
        write_string(out, s);
        return CAIRN_OK;
    case WIRE_BIN: {
        if (!wire_bin(r, &s))
            break;
        size_t size = sodium_base64_encoded_len(s.len, sodium_base64_VARIANT_ORIGINAL);
        char *text = cairn_malloc(size);
        if (!text)
            return cairn_fail(why, CAIRN_ENOMEM, "base64 of %zu bytes", s.len);
        sodium_bin2base64(text, size, (const unsigned char *)s.p, s.len, sodium_base64_VARIANT_ORIGINAL);
        write_string(out, cairn_str_of(text));
        cairn_free(text);
        return CAIRN_OK;
    }
    case WIRE_ARRAY:
    case WIRE_MAP: {
        bool map = wire_peek(r) == WIRE_MAP;
        if (!(map ? wire_map(r, &n) : wire_array(r, &n)))
            break;
        if (depth >= WIRE_DEPTH_MAX)
            return cairn_fail(why, CAIRN_EFULL, "nested deeper than %u", WIRE_DEPTH_MAX);
        cairn_buf_puts(out, map ? "{" : "[");
        for (uint64_t k = 0; k < n; k++) {
            if (k > 0)
                cairn_buf_puts(out, ",");
            newline(out, pretty, depth + 1);
            if (map) {
                if (wire_peek(r) == WIRE_INT && wire_int(r, &i, &u, &f)) {
                    if (f)
                        cairn_buf_printf(out, "\"%" PRId64 "\"", i);
                    else
                        cairn_buf_printf(out, "\"%" PRIu64 "\"", u);
                } else if (wire_peek(r) == WIRE_STR) {
                    enum cairn_err err = to_json(r, pretty, depth + 1, out, why);
                    if (err)
                        return err;
                } else {
                    return cairn_fail(why, CAIRN_EINVAL,
                                      "a map key at offset %zu is neither a string nor an integer", r->at);
                }
                cairn_buf_puts(out, pretty ? ": " : ":");
            }
            enum cairn_err err = to_json(r, pretty, depth + 1, out, why);
            if (err)
                return err;
        }
        if (n > 0)
            newline(out, pretty, depth);
        cairn_buf_puts(out, map ? "}" : "]");
        return CAIRN_OK;
    }
    case WIRE_NONE:
        break;
    }
    return cairn_fail(why, CAIRN_ECORRUPT, "not msgpack, or cut short, at offset %zu of %zu", at, r->len);
}

enum cairn_err api_msgpack_to_json(const void *msgpack, size_t len, bool pretty, struct cairn_buf *out,
                                   struct cairn_why *why)
{
    struct wire_reader r = {msgpack, len, 0};
    enum cairn_err err = to_json(&r, pretty, 0, out, why);
    if (err)
        return err;
    if (r.at != len)
        return cairn_fail(why, CAIRN_ECORRUPT, "%zu bytes after the value", len - r.at);
    return out->failed ? cairn_fail(why, CAIRN_ENOMEM, "JSON of %zu bytes of msgpack", len) : CAIRN_OK;
}

static enum cairn_err from_json(json_t *j, unsigned depth, struct pk *k, struct cairn_why *why)
{
    switch (json_typeof(j)) {
    case JSON_OBJECT: {
        const char *key;
        json_t *v;
        if (depth >= WIRE_DEPTH_MAX)
            return cairn_fail(why, CAIRN_EFULL, "JSON nested deeper than %u", WIRE_DEPTH_MAX);
        pk_map(k, json_object_size(j));
        json_object_foreach(j, key, v)
        {
            pk_cstr(k, key);
            enum cairn_err err = from_json(v, depth + 1, k, why);
            if (err)
                return err;
        }
        return CAIRN_OK;
    }
    case JSON_ARRAY: {
        if (depth >= WIRE_DEPTH_MAX)
            return cairn_fail(why, CAIRN_EFULL, "JSON nested deeper than %u", WIRE_DEPTH_MAX);
        pk_array(k, json_array_size(j));
        for (size_t i = 0; i < json_array_size(j); i++) {
            enum cairn_err err = from_json(json_array_get(j, i), depth + 1, k, why);
            if (err)
                return err;
        }
        return CAIRN_OK;
    }
    case JSON_STRING:
        pk_str(k, (struct cairn_str){json_string_value(j), json_string_length(j)});
        return CAIRN_OK;
    case JSON_INTEGER:
        pk_int(k, json_integer_value(j));
        return CAIRN_OK;
    case JSON_REAL:
        pk_num(k, json_real_value(j));
        return CAIRN_OK;
    case JSON_TRUE:
    case JSON_FALSE:
        pk_bool(k, json_is_true(j));
        return CAIRN_OK;
    case JSON_NULL:
        break;
    }
    pk_nil(k);
    return CAIRN_OK;
}

enum cairn_err api_json_to_msgpack(const char *json, size_t len, struct cairn_buf *out, struct cairn_why *why)
{
    json_error_t e;
    json_t *j = json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (!j)
        return cairn_fail(why, CAIRN_EINVAL, "JSON line %d column %d: %s", e.line, e.column, e.text);
    struct pk k;
    pk_init(&k, out);
    enum cairn_err err = from_json(j, 0, &k, why);
    json_decref(j);
    if (!err && out->failed)
        err = cairn_fail(why, CAIRN_ENOMEM, "msgpack of %zu bytes of JSON", len);
    return err;
}
