/* describe.c - a model file as JSON for `cairn model inspect`. */
#include "decoder_arch.h"
#include "file.h"

#include <jansson.h>
#include <math.h>

/* jansson refuses strings that are not UTF-8; a file may hold any bytes. */
static json_t *json_text(struct cairn_str s)
{
    json_t *j = json_stringn(s.p, s.len);
    if (j)
        return j;
    struct shown_name shown = file_shown(s.p, s.len);
    return json_string(shown.text);
}

static json_t *value_json(const struct model_file *f, const struct kv *kv)
{
    struct cairn_str s;
    int64_t i;
    double d;
    bool b;
    char key[FILE_KEY_MAX + 1];
    memcpy(key, kv->key.p, kv->key.len); /* 1 .. FILE_KEY_MAX, no NUL: rule G3 */
    key[kv->key.len] = 0;
    if (kv->type == KV_ARRAY)
        return json_pack("{s:I}", "n", (json_int_t)kv->n);
    if (kv->type == KV_STRING && model_file_string(f, key, &s))
        return s.len <= 256 ? json_text(s) : json_pack("{s:I}", "bytes", (json_int_t)s.len);
    if (model_file_bool(f, key, &b))
        return json_boolean(b);
    if (model_file_int(f, key, &i))
        return json_integer(i);
    if (model_file_float(f, key, &d))
        return isfinite(d) ? json_real(d) : json_null(); /* NaN and infinity have no JSON */
    return json_null();
}

/* Key after "<architecture>."; 0 when absent. */
static int64_t hyper(const struct model_file *f, struct cairn_str arch, const char *name)
{
    char key[160];
    int64_t v = 0;
    snprintf(key, sizeof key, "%.*s.%s", (int)(arch.len < 64 ? arch.len : 64), arch.p, name);
    return model_file_int(f, key, &v) ? v : 0;
}

static json_t *metadata_json(const struct model_file *f)
{
    json_t *o = json_object();
    for (size_t i = 0; o && i < f->n_kvs; i++) {
        const struct kv *kv = &f->kvs[i];
        char key[FILE_KEY_MAX + 1];
        memcpy(key, kv->key.p, kv->key.len);
        key[kv->key.len] = 0;
        if (json_object_set_new(o, key, value_json(f, kv)) != 0) /* a key that is not UTF-8 */
            (void)json_object_set_new(o, file_shown(kv->key.p, kv->key.len).text, value_json(f, kv));
    }
    return o;
}

static json_t *types_json(const struct model_file *f, uint64_t *total, uint64_t *elements)
{
    json_t *o = json_object();
    for (unsigned t = 0; t <= TENSOR_BF16; t++) {
        uint64_t count = 0, bytes = 0;
        for (size_t i = 0; i < f->n_tensors; i++) {
            const struct model_tensor *x = &f->tensors[i];
            if ((unsigned)x->type != t)
                continue;
            count++;
            bytes += x->n_bytes;
            *elements += x->dims[0] * x->dims[1] * x->dims[2] * x->dims[3];
        }
        *total += bytes;
        if (count)
            (void)json_object_set_new(
                o, tensor_type_name((enum tensor_type)t),
                json_pack("{s:I,s:I}", "count", (json_int_t)count, "bytes", (json_int_t)bytes));
    }
    return o;
}

static json_t *tensors_json(const struct model_file *f)
{
    json_t *a = json_array();
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct model_tensor *x = &f->tensors[i];
        json_t *dims = json_array();
        for (uint32_t d = 0; d < x->n_dims; d++)
            (void)json_array_append_new(dims, json_integer((json_int_t)x->dims[d]));
        json_t *o = json_pack("{s:o,s:s,s:o,s:I,s:I}", "name", json_text(cairn_str_of(x->name)), "type",
                              tensor_type_name(x->type), "dims", dims, "bytes", (json_int_t)x->n_bytes,
                              "offset", (json_int_t)((const uint8_t *)x->bytes - f->bytes));
        (void)json_array_append_new(a, o);
    }
    return a;
}

static json_t *tokenizer_json(const struct model_file *f)
{
    struct tokenizer *t;
    struct cairn_why why = {{0}};
    if (model_file_array_len(f, "tokenizer.ggml.tokens") == 0)
        return json_null();
    if (tokenizer_from_gguf(&t, f, &why) != CAIRN_OK)
        return json_pack("{s:o}", "error", json_text(cairn_str_of(why.text)));
    json_t *o =
        json_pack("{s:s,s:I}", "kind", tokenizer_kind(t), "n_vocab", (json_int_t)tokenizer_n_vocab(t));
    tokenizer_close(t);
    return o;
}

static json_t *memory_json(const struct model_file *f, struct cairn_str arch, uint64_t weights)
{
    int64_t layers = hyper(f, arch, "block_count"), heads = hyper(f, arch, "attention.head_count"),
            heads_kv = hyper(f, arch, "attention.head_count_kv"), width = hyper(f, arch, "embedding_length"),
            key = hyper(f, arch, "attention.key_length"), value = hyper(f, arch, "attention.value_length"),
            context = hyper(f, arch, "context_length");
    json_t *o = json_pack("{s:I}", "weights_bytes", (json_int_t)weights);
    bool decoder = decoder_arch_find(arch) != NULL;
    if (!decoder || layers < 1 || heads < 1 || width < 1)
        return o;
    /* the ranges that file.c checked keep this far from overflow */
    heads_kv = heads_kv > 0 ? heads_kv : heads;
    key = key > 0 ? key : width / heads;
    value = value > 0 ? value : width / heads;
    int64_t per_token = layers * heads_kv * (key + value) * 2;
    (void)json_object_set_new(o, "kv_bytes_per_token_f16", json_integer(per_token));
    if (context > 0)
        (void)json_object_set_new(o, "kv_bytes_full_context_f16", json_integer(per_token * context));
    return o;
}

static int put_text(const char *bytes, size_t len, void *buf)
{
    return cairn_buf_put(buf, bytes, len) ? 0 : -1;
}

enum cairn_err model_file_describe(const struct model_file *f, bool with_tensors, struct cairn_buf *b,
                                   struct cairn_why *why)
{
    struct cairn_str arch = {"", 0};
    uint64_t bytes = 0, elements = 0;
    (void)model_file_string(f, "general.architecture", &arch);
    json_t *types = types_json(f, &bytes, &elements);
    json_t *o =
        json_pack("{s:s,s:o,s:I,s:I,s:I,s:o,s:o,s:s,s:o,s:o}", "format",
                  f->format == FORMAT_GGUF ? "gguf" : "safetensors", "architecture",
                  arch.len ? json_text(arch) : json_null(), "file_bytes", (json_int_t)f->len, "n_tensors",
                  (json_int_t)f->n_tensors, "n_weights", (json_int_t)elements, "tensor_types", types,
                  "tokenizer", tokenizer_json(f), "template", chat_template_name(chat_template_detect(f)),
                  "memory", memory_json(f, arch, bytes), "metadata", metadata_json(f));
    if (o && f->format == FORMAT_GGUF)
        (void)json_object_set_new(o, "version", json_integer(f->version));
    if (o && with_tensors)
        (void)json_object_set_new(o, "tensors", tensors_json(f));
    if (!o)
        return file_out_of_memory(why);
    int failed = json_dump_callback(o, put_text, b, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(o);
    return failed ? cairn_fail(why, CAIRN_EFULL,
                               "the description does not fit in %zu bytes; leave the tensors out", b->max)
                  : CAIRN_OK;
}
