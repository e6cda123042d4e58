/* file.h - the inside of struct model_file, shared by the two parsers (gguf.c, safetensors.c) and describe.c.
 */
#ifndef CAIRN_MODEL_FILE_H
#define CAIRN_MODEL_FILE_H

#include <cairn/model.h>

#include "cursor.h"

enum {
    FILE_KVS_MAX = 65536,
    FILE_TENSORS_MAX = 65536,
    FILE_KEY_MAX = 256,         /* bytes */
    FILE_STRING_MAX = 1 << 20,  /* bytes of a metadata string */
    FILE_TENSOR_NAME_MAX = 256, /* bytes; the GGUF sheet says 64, safetensors says nothing */
    FILE_GGUF_NAME_MAX = 64,
    FILE_DIMS_MAX = 4,
    FILE_ALIGNMENT_MAX = 64 << 10,
    FILE_ALIGNMENT_DEFAULT = 32,
    FILE_LAYERS_MAX = 512,
    FILE_WIDTH_MAX = 1 << 17,
    FILE_HEADS_MAX = 1 << 12,
    FILE_CONTEXT_MAX = 1 << 21,
    SAFETENSORS_HEADER_MAX = 100 * 1000 * 1000,
};
#define FILE_DIM_MAX (UINT64_C(1) << 31)

/* GGUF's value types. */
enum kv_type {
    KV_U8,
    KV_I8,
    KV_U16,
    KV_I16,
    KV_U32,
    KV_I32,
    KV_F32,
    KV_BOOL,
    KV_STRING,
    KV_ARRAY,
    KV_U64,
    KV_I64,
    KV_F64,
    KV_TYPES
};

struct kv {
    struct cairn_str key; /* inside the mapping (GGUF) or the arena (safetensors) */
    enum kv_type type, elem;
    const uint8_t *value;    /* scalar, or first element; of a string its bytes */
    uint64_t n;              /* bytes of a string, elements of an array */
    const uint64_t *strings; /* array of strings: offset of each one's length field from the file's start */
};

/* Open addressing over indices, half empty at most; the seed is random, so that a file cannot choose its
 * collisions. */
struct name_table {
    uint32_t *slots; /* index + 1; 0 empty */
    size_t mask;
    uint64_t seed;
};

enum file_format { FORMAT_GGUF, FORMAT_SAFETENSORS };

struct model_file {
    enum file_format format;
    uint32_t version;
    const uint8_t *bytes;
    size_t len;
    bool mapped;
    struct cairn_arena *arena; /* names, tables */
    struct kv *kvs;
    size_t n_kvs;
    struct name_table kv_names;
    struct model_tensor *tensors;
    size_t n_tensors;
    struct name_table tensor_names;
};

/* On failure the half-built file is released by the caller. */
enum cairn_err gguf_parse(struct model_file *f, struct cairn_why *why);
enum cairn_err safetensors_parse(struct model_file *f, struct cairn_why *why);

enum cairn_err name_table_init(struct name_table *t, struct cairn_arena *arena, size_t n,
                               struct cairn_why *why);
/* False when the name is there already. */
bool file_add_kv_name(struct model_file *f, size_t i);
bool file_add_tensor_name(struct model_file *f, size_t i);
const struct kv *file_kv(const struct model_file *f, const char *key);
enum cairn_err file_out_of_memory(struct cairn_why *why);
/* No two tensors share a byte. */
enum cairn_err file_check_overlap(const struct model_file *f, struct cairn_why *why);
/* Hyper-parameters, where the file states them, are in their ranges. */
enum cairn_err file_check_ranges(const struct model_file *f, struct cairn_why *why);
/* At most 64 bytes of a name, with anything unprintable shown as '?'; for messages. */
struct shown_name {
    char text[80];
};
struct shown_name file_shown(const void *p, size_t len);

#endif
