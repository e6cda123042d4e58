/* safetensors.c - parses safetensors into a struct model_file. The rules are numbered in file.c.
 *
 * - u64 n
 * - n bytes of JSON: {"name": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [begin, end]}, ...,
 *   "__metadata__": {"key": "text"}}
 * - the tensors' bytes; offsets count from there
 *
 * Shapes are slowest first; ours are fastest first, as in GGUF. A dimensionless tensor becomes {1}. */
#include "file.h"

#include <jansson.h>

static enum cairn_err broken(struct cairn_why *why, const char *rule, const char *name, const char *detail)
{
    return cairn_fail(why, CAIRN_ECORRUPT, "%s: '%s' in the header at offset 8: %s; fetch the file again",
                      rule, file_shown(name, strlen(name)).text, detail);
}

static enum cairn_err take_metadata(struct model_file *f, json_t *meta, struct cairn_why *why)
{
    if (!json_is_object(meta) || json_object_size(meta) > FILE_KVS_MAX)
        return broken(why, "__metadata__ is an object of at most 65536 strings", "__metadata__", "it is not");
    f->kvs = cairn_arena_alloc(f->arena, json_object_size(meta) * sizeof *f->kvs + 1);
    if (!f->kvs)
        return file_out_of_memory(why);
    const char *key;
    json_t *value;
    json_object_foreach(meta, key, value)
    {
        size_t key_len = strlen(key);
        if (!json_is_string(value) || json_string_length(value) > FILE_STRING_MAX || key_len == 0 ||
            key_len > FILE_KEY_MAX)
            return broken(why, "__metadata__ holds short keys and strings", key, "it does not");
        struct kv *kv = &f->kvs[f->n_kvs];
        kv->type = KV_STRING;
        kv->n = json_string_length(value);
        kv->value = (const uint8_t *)cairn_arena_strndup(f->arena, json_string_value(value), (size_t)kv->n);
        kv->key = (struct cairn_str){cairn_arena_strndup(f->arena, key, key_len), key_len};
        if (!kv->value || !kv->key.p)
            return file_out_of_memory(why);
        if (!file_add_kv_name(f, f->n_kvs))
            return broken(why, "no key twice", key, "seen before");
        f->n_kvs++;
    }
    return CAIRN_OK;
}

/* Bytes of one element; 0 unknown. *ours is false for types that we check but do not load. */
static size_t dtype_bytes(const char *dtype, enum tensor_type *type, bool *ours)
{
    static const struct {
        const char *name;
        size_t bytes;
        int type;
    } dtypes[] = {
        {"F32",  4, TENSOR_F32 },
        {"F16",  2, TENSOR_F16 },
        {"BF16", 2, TENSOR_BF16},
        {"I64",  8, -1         },
        {"I32",  4, -1         }
    };
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, dtype) == 0) {
            *ours = dtypes[i].type >= 0;
            *type = *ours ? (enum tensor_type)dtypes[i].type : TENSOR_F32;
            return dtypes[i].bytes;
        }
    }
    return 0;
}

/* A non-negative integer of a JSON array; false when it is anything else. */
static bool read_index(const json_t *array, size_t i, uint64_t *v)
{
    const json_t *x = json_array_get(array, i);
    if (!json_is_integer(x) || json_integer_value(x) < 0)
        return false;
    *v = (uint64_t)json_integer_value(x);
    return true;
}

static enum cairn_err take_tensor(struct model_file *f, const char *name, json_t *entry, const uint8_t *bytes,
                                  size_t room, struct cairn_why *why)
{
    size_t name_len = strlen(name);
    if (name_len == 0 || name_len > FILE_TENSOR_NAME_MAX)
        return broken(why, "tensor names have 1 to 256 bytes", name, "another length");
    const json_t *dtype = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape"),
                 *offsets = json_object_get(entry, "data_offsets");
    if (!json_is_object(entry) || json_object_size(entry) != 3 || !json_is_string(dtype) ||
        !json_is_array(shape) || !json_is_array(offsets) || json_array_size(offsets) != 2)
        return broken(why, "entries have dtype, shape and data_offsets", name,
                      "missing, more, or of another type");
    struct model_tensor *t = &f->tensors[f->n_tensors];
    bool ours = false;
    size_t size = dtype_bytes(json_string_value(dtype), &t->type, &ours);
    bool is_index = name_len >= 12 && strcmp(name + name_len - 12, "position_ids") == 0;
    if (!size || (!ours && !is_index))
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "tensor types are F32, F16, BF16: '%s' has %s; convert the file",
                          file_shown(name, name_len).text,
                          file_shown(json_string_value(dtype), json_string_length(dtype)).text);
    size_t n_dims = json_array_size(shape);
    if (n_dims > FILE_DIMS_MAX)
        return broken(why, "tensors have 0 to 4 dimensions", name, "more");
    t->n_dims = n_dims ? (uint32_t)n_dims : 1;
    uint64_t n = 1;
    for (size_t d = 0; d < FILE_DIMS_MAX; d++)
        t->dims[d] = 1;
    for (size_t d = 0; d < n_dims; d++) {
        uint64_t dim;
        if (!read_index(shape, d, &dim) || dim < 1 || dim > FILE_DIM_MAX)
            return broken(why, "dimensions are 1 to 2^31", name, "another value");
        t->dims[n_dims - 1 - d] = dim;
        if (__builtin_mul_overflow(n, dim, &n) || n > INT64_MAX)
            return broken(why, "the product of dimensions fits 63 bits", name, "it does not");
    }
    uint64_t begin, end;
    if (!read_index(offsets, 0, &begin) || !read_index(offsets, 1, &end) || begin > end || end > room)
        return broken(why, "data_offsets lie in the file", name, "they do not (truncated?)");
    if (!cairn_mul((size_t)n, size, &t->n_bytes) || t->n_bytes != end - begin)
        return broken(why, "data_offsets span shape times dtype", name, "they do not");
    t->bytes = bytes + begin;
    t->name = cairn_arena_strndup(f->arena, name, name_len);
    if (!t->name)
        return file_out_of_memory(why);
    if (!ours)
        return CAIRN_OK; /* the next entry takes its place */
    if (!file_add_tensor_name(f, f->n_tensors))
        return broken(why, "no tensor twice", name, "seen before");
    f->n_tensors++;
    return CAIRN_OK;
}

static enum cairn_err take_header(struct model_file *f, json_t *root, const uint8_t *bytes, size_t room,
                                  struct cairn_why *why)
{
    size_t n = json_object_size(root);
    if (n > FILE_TENSORS_MAX)
        return broken(why, "at most 65536 tensors", "(tensors)", "more");
    f->tensors = cairn_arena_alloc(f->arena, n * sizeof *f->tensors + 1);
    if (!f->tensors)
        return file_out_of_memory(why);
    json_t *meta = json_object_get(root, "__metadata__");
    enum cairn_err err = name_table_init(&f->kv_names, f->arena, meta ? json_object_size(meta) : 0, why);
    if (!err)
        err = name_table_init(&f->tensor_names, f->arena, n, why);
    if (!err && meta)
        err = take_metadata(f, meta, why);
    const char *name;
    json_t *entry;
    if (err)
        return err;
    json_object_foreach(root, name, entry)
    {
        if (entry != meta && (err = take_tensor(f, name, entry, bytes, room, why)))
            return err;
    }
    err = file_check_overlap(f, why);
    return err ? err : file_check_ranges(f, why);
}

enum cairn_err safetensors_parse(struct model_file *f, struct cairn_why *why)
{
    struct cursor c = {f->bytes, f->len, 0};
    uint64_t n;
    if (!cursor_u64(&c, &n) || n < 2 || n > SAFETENSORS_HEADER_MAX || n > cursor_left(&c))
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "a safetensors header has 2 to 100000000 bytes and fits into the file: at offset 0 "
                          "it says otherwise "
                          "(truncated?); fetch the file again");
    const char *header = (const char *)cursor_take(&c, n);
    json_error_t jerr;
    json_t *root = json_loadb(header, (size_t)n, JSON_REJECT_DUPLICATES, &jerr);
    if (!root)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "a safetensors header is JSON: %.120s at offset %d; fetch the file again",
                          file_shown(jerr.text, strlen(jerr.text)).text, 8 + jerr.position);
    enum cairn_err err = json_is_object(root)
                             ? take_header(f, root, f->bytes + c.pos, cursor_left(&c), why)
                             : broken(why, "a safetensors header is a JSON object", "(header)", "it is not");
    json_decref(root);
    return err;
}
