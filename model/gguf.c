/* gguf.c - parses GGUF versions 2 and 3 into a struct model_file. The rules are numbered in file.c.
 *
 * u32 "GGUF" | u32 version | u64 n_tensors | u64 n_kvs
 * n_kvs     x { u64 len, key; u32 type; value }      string: u64 len, bytes; array: u32 type, u64 n, elements
 * n_tensors x { u64 len, name; u32 n_dims; u64 dims[n_dims]; u32 type; u64 offset }
 * zeros up to general.alignment, then the tensors' bytes; offsets count from there. */
#include "file.h"

enum {
    KV_BYTES_MIN = 8 + 1 + 4 + 1,
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8,
};

#define CUT "the file ends inside it (truncated?); fetch the file again"

static size_t scalar_size(uint32_t type) /* 0: string, array or unknown */
{
    switch (type) {
    case KV_U8:
    case KV_I8:
    case KV_BOOL:
        return 1;
    case KV_U16:
    case KV_I16:
        return 2;
    case KV_U32:
    case KV_I32:
    case KV_F32:
        return 4;
    case KV_U64:
    case KV_I64:
    case KV_F64:
        return 8;
    default:
        return 0;
    }
}

static enum cairn_err broken(struct cairn_why *why, const char *rule, struct cairn_str name, size_t offset,
                             const char *detail)
{
    return cairn_fail(why, CAIRN_ECORRUPT, "%s: '%s' at offset %zu: %s", rule,
                      file_shown(name.p, name.len).text, offset, detail);
}

/* G5. What is named in `of` owns the string. */
static enum cairn_err take_string(struct cursor *c, uint64_t max, struct cairn_str *s, const char *rule,
                                  struct cairn_str of, struct cairn_why *why)
{
    uint64_t len;
    size_t at = c->pos;
    if (!cursor_u64(c, &len) || len > cursor_left(c))
        return broken(why, rule, of, at, CUT);
    if (len > max) {
        char detail[96];
        snprintf(detail, sizeof detail, "%" PRIu64 " bytes, the limit is %" PRIu64, len, max);
        return broken(why, rule, of, at, detail);
    }
    *s = (struct cairn_str){(const char *)cursor_take(c, len), (size_t)len};
    return CAIRN_OK;
}

static enum cairn_err take_array(struct model_file *f, struct cursor *c, struct kv *kv, struct cairn_why *why)
{
    static const char rule[] = "arrays fit into the file";
    uint32_t elem;
    uint64_t n;
    size_t at = c->pos;
    if (!cursor_u32(c, &elem) || !cursor_u64(c, &n))
        return broken(why, rule, kv->key, at, CUT);
    if (elem == KV_ARRAY)
        return broken(why, "arrays hold no arrays", kv->key, at, "a nested array");
    if (elem >= KV_TYPES)
        return broken(why, "value types are known", kv->key, at, "an array of an unknown type");
    kv->elem = (enum kv_type)elem;
    kv->n = n;
    size_t size =
        elem == KV_STRING ? sizeof(uint64_t) : scalar_size(elem); /* of a string at least its length */
    if (n > cursor_left(c) / size)
        return broken(why, rule, kv->key, at, CUT);
    if (elem != KV_STRING) {
        kv->value = cursor_take(c, n * size);
        for (uint64_t i = 0; elem == KV_BOOL && i < n; i++)
            if (kv->value[i] > 1)
                return broken(why, "a bool is 0 or 1", kv->key, at, "an array with another value");
        return CAIRN_OK;
    }
    uint64_t *strings = cairn_arena_alloc(f->arena, (size_t)n * sizeof *strings + 1);
    if (!strings)
        return file_out_of_memory(why);
    for (uint64_t i = 0; i < n; i++) {
        struct cairn_str s;
        strings[i] = c->pos;
        enum cairn_err err = take_string(c, FILE_STRING_MAX, &s, "strings fit into the file", kv->key, why);
        if (err)
            return err;
    }
    kv->value = c->bytes;
    kv->strings = strings;
    return CAIRN_OK;
}

static enum cairn_err take_kv(struct model_file *f, struct cursor *c, size_t i, struct cairn_why *why)
{
    struct kv *kv = &f->kvs[i];
    struct cairn_str nobody = cairn_str_of("(a key)");
    size_t at = c->pos;
    enum cairn_err err = take_string(c, FILE_KEY_MAX, &kv->key, "keys have 1 to 256 bytes", nobody, why);
    if (err)
        return err;
    if (kv->key.len == 0 || memchr(kv->key.p, 0, kv->key.len))
        return broken(why, "keys have 1 to 256 bytes", kv->key, at, "empty, or with a NUL");
    if (!file_add_kv_name(f, i))
        return broken(why, "no key twice", kv->key, at, "seen before");
    uint32_t type;
    at = c->pos;
    if (!cursor_u32(c, &type))
        return broken(why, "value types are known", kv->key, at, CUT);
    if (type >= KV_TYPES)
        return broken(why, "value types are known", kv->key, at, "an unknown type");
    kv->type = (enum kv_type)type;
    if (type == KV_ARRAY)
        return take_array(f, c, kv, why);
    if (type == KV_STRING) {
        struct cairn_str s;
        err = take_string(c, FILE_STRING_MAX, &s, "strings fit into the file", kv->key, why);
        kv->value = (const uint8_t *)s.p;
        kv->n = s.len;
        return err;
    }
    at = c->pos;
    kv->value = cursor_take(c, scalar_size(type));
    kv->n = 1;
    if (!kv->value)
        return broken(why, "values fit into the file", kv->key, at, CUT);
    if (type == KV_BOOL && kv->value[0] > 1)
        return broken(why, "a bool is 0 or 1", kv->key, at, "another value");
    return CAIRN_OK;
}

static enum cairn_err take_tensor(struct model_file *f, struct cursor *c, size_t i, uint64_t *offset,
                                  struct cairn_why *why)
{
    struct model_tensor *t = &f->tensors[i];
    struct cairn_str name;
    size_t at = c->pos;
    enum cairn_err err = take_string(c, FILE_GGUF_NAME_MAX, &name, "tensor names have 1 to 64 bytes",
                                     cairn_str_of("(a tensor)"), why);
    if (err)
        return err;
    if (name.len == 0 || memchr(name.p, 0, name.len))
        return broken(why, "tensor names have 1 to 64 bytes", name, at, "empty, or with a NUL");
    t->name = cairn_arena_strndup(f->arena, name.p, name.len);
    if (!t->name)
        return file_out_of_memory(why);
    if (!file_add_tensor_name(f, i))
        return broken(why, "no tensor twice", name, at, "seen before");
    at = c->pos;
    if (!cursor_u32(c, &t->n_dims) || t->n_dims < 1 || t->n_dims > FILE_DIMS_MAX)
        return broken(why, "tensors have 1 to 4 dimensions", name, at, "another number, or the file ends");
    uint64_t n = 1;
    for (uint32_t d = 0; d < FILE_DIMS_MAX; d++) {
        t->dims[d] = 1;
        at = c->pos;
        if (d < t->n_dims && (!cursor_u64(c, &t->dims[d]) || t->dims[d] < 1 || t->dims[d] > FILE_DIM_MAX))
            return broken(why, "dimensions are 1 to 2^31", name, at, "another value, or the file ends");
        if (__builtin_mul_overflow(n, t->dims[d], &n) || n > INT64_MAX)
            return broken(why, "the product of dimensions fits 63 bits", name, at, "it does not");
    }
    uint32_t type;
    at = c->pos;
    if (!cursor_u32(c, &type) || !cursor_u64(c, offset))
        return broken(why, "tensor records fit into the file", name, at, CUT);
    t->type = (enum tensor_type)type;
    if (!tensor_type_name(t->type))
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "tensor types are known: '%s' at offset %zu has type %" PRIu32
                          "; take a file in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K",
                          file_shown(name.p, name.len).text, at, type);
    size_t row = tensor_type_bytes(t->type, (size_t)t->dims[0]);
    if (!row)
        return broken(why, "rows divide into blocks of the type", name, at, "the first dimension does not");
    if (!cairn_mul(row, (size_t)(n / t->dims[0]), &t->n_bytes))
        return broken(why, "tensor sizes fit 64 bits", name, at, "it does not");
    return CAIRN_OK;
}

static enum cairn_err read_alignment(const struct model_file *f, uint32_t *alignment, struct cairn_why *why)
{
    *alignment = FILE_ALIGNMENT_DEFAULT;
    const struct kv *kv = file_kv(f, "general.alignment");
    if (!kv)
        return CAIRN_OK;
    if (kv->type == KV_U32) /* the type is looked at before the value */
        memcpy(alignment, kv->value, sizeof *alignment);
    if (kv->type != KV_U32 || *alignment == 0 || (*alignment & (*alignment - 1)) != 0 ||
        *alignment > FILE_ALIGNMENT_MAX)
        return broken(why, "general.alignment is a u32, a power of two, at most 65536", kv->key,
                      (size_t)(kv->value - f->bytes), "another type or value");
    return CAIRN_OK;
}

static enum cairn_err place_tensors(struct model_file *f, size_t header_end, const uint64_t *offsets,
                                    struct cairn_why *why)
{
    uint32_t alignment;
    enum cairn_err err = read_alignment(f, &alignment, why);
    if (err || f->n_tensors == 0)
        return err;
    size_t start;
    if (!cairn_add(header_end, alignment - 1, &start) || (start &= ~(size_t)(alignment - 1)) > f->len)
        return broken(why, "the tensors' bytes start in the file", cairn_str_of("(padding)"), header_end,
                      CUT);
    size_t room = f->len - start;
    for (size_t i = 0; i < f->n_tensors; i++) {
        struct model_tensor *t = &f->tensors[i];
        struct cairn_str name = cairn_str_of(t->name);
        if (offsets[i] % alignment != 0)
            return broken(why, "tensor offsets are aligned", name, start,
                          "its offset is not a multiple of the alignment");
        if (offsets[i] > room || t->n_bytes > room - offsets[i])
            return broken(why, "tensors lie in the file", name, start, CUT);
        t->bytes = f->bytes + start + offsets[i];
    }
    return file_check_overlap(f, why);
}

enum cairn_err gguf_parse(struct model_file *f, struct cairn_why *why)
{
    struct cursor c = {f->bytes, f->len, 4};
    uint64_t n_tensors, n_kvs;
    if (!cursor_u32(&c, &f->version) || !cursor_u64(&c, &n_tensors) || !cursor_u64(&c, &n_kvs))
        return broken(why, "a GGUF header has 24 bytes", cairn_str_of("(header)"), c.pos, CUT);
    if ((f->version & 0xffff) == 0)
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "GGUF files are little-endian: version %#" PRIx32
                          " at offset 4 is byte-swapped; take the little-endian file",
                          f->version);
    if (f->version != 2 && f->version != 3)
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "GGUF versions are 2 and 3: version %" PRIu32 " at offset 4; convert the file anew",
                          f->version);
    if (n_kvs > FILE_KVS_MAX || n_kvs > cursor_left(&c) / KV_BYTES_MIN)
        return broken(why, "counts fit into the file", cairn_str_of("(keys)"), 16,
                      "more keys than 65536 or than bytes allow");
    if (n_tensors > FILE_TENSORS_MAX || n_tensors > cursor_left(&c) / TENSOR_BYTES_MIN)
        return broken(why, "counts fit into the file", cairn_str_of("(tensors)"), 8,
                      "more tensors than 65536 or than bytes allow");
    f->kvs = cairn_arena_alloc(f->arena, (size_t)n_kvs * sizeof *f->kvs + 1);
    f->tensors = cairn_arena_alloc(f->arena, (size_t)n_tensors * sizeof *f->tensors + 1);
    uint64_t *offsets = cairn_arena_alloc(f->arena, (size_t)n_tensors * sizeof *offsets + 1);
    if (!f->kvs || !f->tensors || !offsets)
        return file_out_of_memory(why);
    enum cairn_err err = name_table_init(&f->kv_names, f->arena, (size_t)n_kvs, why);
    if (!err)
        err = name_table_init(&f->tensor_names, f->arena, (size_t)n_tensors, why);
    for (; f->n_kvs < n_kvs && !err; f->n_kvs++)
        err = take_kv(f, &c, f->n_kvs, why);
    if (err)
        return err;
    int64_t parts;
    if (model_file_int(f, "split.count", &parts) && parts > 1)
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "a model is one file: split.count says %" PRId64
                          "; join the parts with the converter's merge",
                          parts);
    for (; f->n_tensors < n_tensors && !err; f->n_tensors++)
        err = take_tensor(f, &c, f->n_tensors, &offsets[f->n_tensors], why);
    if (!err)
        err = place_tensors(f, c.pos, offsets, why);
    return err ? err : file_check_ranges(f, why);
}
