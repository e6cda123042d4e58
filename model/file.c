/* file.c - opens, maps and looks things up in model files; gguf.c and safetensors.c parse them.
 *
 * A model file is hostile until proven otherwise. One cursor (cursor.h) reads it; these rules are checked
 * before anything else sees a byte, and each has a case in tests/unit/test_model_file.c that breaks it alone:
 *
 * - F1 a regular file, opened once, measured after opening, mapped private and read-only
 * - F2 at least the magic; the magic known
 *
 * GGUF:
 * - G1 version 2 or 3, little-endian
 * - G2 counts <= bytes left / smallest record, and <= FILE_KVS_MAX, FILE_TENSORS_MAX
 * - G3 keys of 1 .. FILE_KEY_MAX bytes without NUL, none twice
 * - G4 value types known; a bool is 0 or 1
 * - G5 strings <= bytes left and <= FILE_STRING_MAX
 * - G6 arrays: element type known, no arrays in arrays, count <= bytes left / element size
 * - G7 general.alignment: a u32, a power of two, <= FILE_ALIGNMENT_MAX
 * - G8 tensor names of 1 .. FILE_GGUF_NAME_MAX bytes without NUL, none twice
 * - G9 1 .. 4 dimensions, each 1 .. 2^31, their product in 63 bits
 * - G10 tensor type known (else unsupported); rows divide into its blocks (divided before multiplied)
 * - G11 offsets are multiples of the alignment; the padded start of the bytes lies in the file
 * - G12 offset + size <= bytes of the file
 * - G13 no two tensors share a byte
 * - G14 hyper-parameters in their ranges; heads divide the width, kv heads divide the heads
 * - G15 split files are refused (unsupported)
 *
 * safetensors:
 * - S1 header length 2 .. SAFETENSORS_HEADER_MAX and <= bytes left
 * - S2 the header is one JSON object without duplicate keys
 * - S3 __metadata__ holds strings
 * - S4 each entry has exactly dtype, shape, data_offsets
 * - S5 dtype F32, F16, BF16 (position_ids of integers is checked and left out; else unsupported)
 * - S6 0 .. 4 dimensions of 1 .. 2^31, product checked; bytes = product * size of the dtype
 * - S7 0 <= begin <= end <= bytes after the header
 * - S8 no two tensors share a byte
 *
 * T1 to T7, of vocabularies, are in tokenizer.c.
 *
 * A file that shrinks while mapped raises SIGBUS on access: model files are replaced by rename, never written
 * in place. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "model files are read in place: little-endian only");

enum cairn_err file_out_of_memory(struct cairn_why *why)
{
    return cairn_fail(why, CAIRN_ENOMEM,
                      "no memory for the tables of a model file; close something or use a smaller model");
}

struct shown_name file_shown(const void *p, size_t len)
{
    struct shown_name s;
    const unsigned char *b = p;
    size_t n = len < 64 ? len : 64;
    for (size_t i = 0; i < n; i++)
        s.text[i] = b[i] >= 0x20 && b[i] < 0x7f ? (char)b[i] : '?';
    memcpy(s.text + n, len > n ? "..." : "", len > n ? 4 : 1);
    return s;
}

/* ---- names
 * ------------------------------------------------------------------------------------------------------ */

enum cairn_err name_table_init(struct name_table *t, struct cairn_arena *arena, size_t n,
                               struct cairn_why *why)
{
    size_t cap = 8;
    while (cap < n * 2)
        cap *= 2;
    t->slots = cairn_arena_alloc(arena, cap * sizeof *t->slots);
    if (!t->slots)
        return file_out_of_memory(why);
    t->mask = cap - 1;
    if (getrandom(&t->seed, sizeof t->seed, GRND_NONBLOCK) != (ssize_t)sizeof t->seed)
        t->seed = (uint64_t)(uintptr_t)t; /* early boot: the address layout is the randomness we have */
    return CAIRN_OK;
}

static struct cairn_str kv_name(const struct model_file *f, size_t i) { return f->kvs[i].key; }

static struct cairn_str tensor_name(const struct model_file *f, size_t i)
{
    return cairn_str_of(f->tensors[i].name);
}

/* The slot that holds the name, or the empty one where it belongs. */
static uint32_t *find_slot(const struct model_file *f, const struct name_table *t,
                           struct cairn_str (*name_of)(const struct model_file *, size_t),
                           struct cairn_str name)
{
    size_t i = (size_t)cairn_xxh64(name.p, name.len, t->seed) & t->mask;
    for (;; i = (i + 1) & t->mask) {
        if (!t->slots[i])
            return &t->slots[i];
        struct cairn_str have = name_of(f, t->slots[i] - 1);
        if (have.len == name.len && memcmp(have.p, name.p, name.len) == 0)
            return &t->slots[i];
    }
}

bool file_add_kv_name(struct model_file *f, size_t i)
{
    uint32_t *slot = find_slot(f, &f->kv_names, kv_name, f->kvs[i].key);
    if (*slot)
        return false;
    *slot = (uint32_t)i + 1;
    return true;
}

bool file_add_tensor_name(struct model_file *f, size_t i)
{
    uint32_t *slot = find_slot(f, &f->tensor_names, tensor_name, tensor_name(f, i));
    if (*slot)
        return false;
    *slot = (uint32_t)i + 1;
    return true;
}

const struct kv *file_kv(const struct model_file *f, const char *key)
{
    uint32_t slot = *find_slot(f, &f->kv_names, kv_name, cairn_str_of(key));
    return slot ? &f->kvs[slot - 1] : NULL;
}

const struct model_tensor *model_file_tensor(const struct model_file *f, const char *name)
{
    uint32_t slot = *find_slot(f, &f->tensor_names, tensor_name, cairn_str_of(name));
    return slot ? &f->tensors[slot - 1] : NULL;
}

size_t model_file_n_tensors(const struct model_file *f) { return f->n_tensors; }

const struct model_tensor *model_file_tensor_at(const struct model_file *f, size_t i)
{
    CAIRN_CHECK(i < f->n_tensors);
    return &f->tensors[i];
}

/* ---- rules shared by both formats
 * -------------------------------------------------------------------------------- */

static int by_bytes(const void *a, const void *b)
{
    const struct model_tensor *const *x = a, *const *y = b;
    uintptr_t p = (uintptr_t)(*x)->bytes, q = (uintptr_t)(*y)->bytes;
    return (p > q) - (p < q);
}

enum cairn_err file_check_overlap(const struct model_file *f, struct cairn_why *why)
{
    const struct model_tensor **order = cairn_reallocarray(NULL, f->n_tensors + 1, sizeof *order);
    if (!order)
        return file_out_of_memory(why);
    for (size_t i = 0; i < f->n_tensors; i++)
        order[i] = &f->tensors[i];
    qsort(order, f->n_tensors, sizeof *order, by_bytes);
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 1; i < f->n_tensors && !err; i++) {
        const struct model_tensor *a = order[i - 1], *b = order[i];
        if ((const uint8_t *)b->bytes - (const uint8_t *)a->bytes < (ptrdiff_t)a->n_bytes)
            err = cairn_fail(
                why, CAIRN_ECORRUPT,
                "tensors do not overlap: %s and %s share bytes at offset %zu; fetch the file again",
                file_shown(a->name, strlen(a->name)).text, file_shown(b->name, strlen(b->name)).text,
                (size_t)((const uint8_t *)b->bytes - f->bytes));
    }
    cairn_free(order);
    return err;
}

struct range_rule {
    const char *key; /* after "<architecture>." */
    int64_t min, max;
};

static enum cairn_err range_error(struct cairn_why *why, const char *key, double v)
{
    return cairn_fail(why, CAIRN_ECORRUPT,
                      "hyper-parameters are in their ranges: %.100s = %g is not; fetch the file again", key,
                      v);
}

/* Only what is stated is judged: which keys must be there is the forward pass's business. */
enum cairn_err file_check_ranges(const struct model_file *f, struct cairn_why *why)
{
    static const struct range_rule rules[] = {
        {"block_count",              1, FILE_LAYERS_MAX   },
        {"embedding_length",         1, FILE_WIDTH_MAX    },
        {"feed_forward_length",      1, FILE_WIDTH_MAX * 8},
        {"attention.head_count",     1, FILE_HEADS_MAX    },
        {"attention.head_count_kv",  1, FILE_HEADS_MAX    },
        {"attention.key_length",     1, 4096              },
        {"attention.value_length",   1, 4096              },
        {"context_length",           1, FILE_CONTEXT_MAX  },
        {"rope.dimension_count",     1, 4096              },
        {"vocab_size",               1, 1 << 20           },
        {"attention.sliding_window", 0, FILE_CONTEXT_MAX  },
    };
    struct cairn_str arch;
    if (!model_file_string(f, "general.architecture", &arch))
        return CAIRN_OK;
    if (arch.len == 0 || arch.len > 64 || memchr(arch.p, 0, arch.len))
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "general.architecture is a name of 1 to 64 bytes: it has %zu; fetch the file again",
                          arch.len);
    char key[160];
    int64_t v, heads = 0, width = 0, heads_kv = 0, head_size = 0;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        snprintf(key, sizeof key, "%.*s.%s", (int)arch.len, arch.p, rules[i].key);
        const struct kv *kv = file_kv(f, key);
        if (!kv ||
            kv->type == KV_ARRAY) /* per-layer arrays belong to architectures that we refuse later, by name */
            continue;
        if (!model_file_int(f, key, &v))
            return cairn_fail(
                why, CAIRN_ECORRUPT,
                "hyper-parameters are integers: %s is not, or is too large; fetch the file again",
                file_shown(key, strlen(key)).text);
        if (v < rules[i].min || v > rules[i].max)
            return range_error(why, key, (double)v);
    }
#define HYPER(name, var)                                                                                     \
    (snprintf(key, sizeof key, "%.*s." name, (int)arch.len, arch.p), model_file_int(f, key, &var))
    bool has_heads = HYPER("attention.head_count", heads);
    if (has_heads && HYPER("embedding_length", width) && !HYPER("attention.key_length", head_size) &&
        width % heads != 0)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "heads divide the width: %" PRId64 " heads, width %" PRId64
                          "; fetch the file again",
                          heads, width);
    if (has_heads && HYPER("attention.head_count_kv", heads_kv) && heads % heads_kv != 0)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "key-value heads divide the heads: %" PRId64 " and %" PRId64
                          "; fetch the file again",
                          heads_kv, heads);
#undef HYPER
    static const struct {
        const char *key;
        double max; /* 0 < v < max */
    } floats[] = {
        {"attention.layer_norm_rms_epsilon", 1   },
        {"attention.layer_norm_epsilon",     1   },
        {"rope.freq_base",                   1e12}
    };
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        double x;
        snprintf(key, sizeof key, "%.*s.%s", (int)arch.len, arch.p, floats[i].key);
        if (!file_kv(f, key))
            continue;
        if (!model_file_float(f, key, &x) || !(x > 0 && x < floats[i].max))
            return range_error(why, key, model_file_float(f, key, &x) ? x : NAN);
    }
    return CAIRN_OK;
}

/* ---- open, close
 * -------------------------------------------------------------------------------------------------- */

static enum cairn_err parse(struct model_file *f, struct cairn_why *why)
{
    /* the arena holds names and tables only; what they need is in proportion to the file, which bounds it */
    size_t max;
    if (!cairn_mul(f->len, 8, &max) || !cairn_add(max, 64 << 20, &max))
        max = SIZE_MAX;
    f->arena = cairn_arena_new(max);
    if (!f->arena)
        return file_out_of_memory(why);
    if (f->len >= 4 && memcmp(f->bytes, "GGUF", 4) == 0) {
        f->format = FORMAT_GGUF;
        return gguf_parse(f, why);
    }
    /* safetensors has no magic: a u64 length, then '{' */
    if (f->len >= 9 && f->bytes[8] == '{') {
        f->format = FORMAT_SAFETENSORS;
        return safetensors_parse(f, why);
    }
    return cairn_fail(why, CAIRN_ECORRUPT,
                      "a model file starts with GGUF or a safetensors header: %zu bytes, neither at offset "
                      "0; give a .gguf or "
                      ".safetensors file",
                      f->len);
}

static enum cairn_err open_bytes(struct model_file **out, const void *bytes, size_t len, bool mapped,
                                 struct cairn_why *why)
{
    *out = NULL;
    struct model_file *f = cairn_calloc(1, sizeof *f);
    if (!f) {
        if (mapped)
            munmap((void *)(uintptr_t)bytes, len);
        return file_out_of_memory(why);
    }
    f->bytes = bytes;
    f->len = len;
    f->mapped = mapped;
    enum cairn_err err = parse(f, why);
    if (err) {
        model_file_close(f);
        return err;
    }
    *out = f;
    return CAIRN_OK;
}

enum cairn_err model_file_parse(struct model_file **out, const void *bytes, size_t len, struct cairn_why *why)
{
    return open_bytes(out, bytes, len, false, why);
}

enum cairn_err model_file_open(struct model_file **out, const char *path, struct cairn_why *why)
{
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* NONBLOCK: a fifo must not hang us */
    if (fd < 0)
        return cairn_fail_errno(why, errno, "open model file %s", path);
    struct stat st;
    enum cairn_err err = CAIRN_OK;
    void *map = MAP_FAILED;
    if (fstat(fd, &st) < 0) {
        err = cairn_fail_errno(why, errno, "stat model file %s", path);
    } else if (!S_ISREG(st.st_mode)) {
        err = cairn_fail(why, CAIRN_EINVAL,
                         "model file %.300s is not a regular file; give a .gguf or .safetensors file", path);
    } else if (st.st_size <= 0) {
        err = cairn_fail(why, CAIRN_ECORRUPT, "model file %.300s is empty; fetch it again", path);
    } else {
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED)
            err = cairn_fail_errno(why, errno, "map model file %s", path);
    }
    close(fd);
    if (err)
        return err;
    err = open_bytes(out, map, (size_t)st.st_size, true, why);
    return err ? cairn_wrap(why, err, "%.200s", path) : CAIRN_OK;
}

void model_file_close(struct model_file *f)
{
    if (!f)
        return;
    cairn_arena_free(f->arena);
    if (f->mapped)
        munmap((void *)(uintptr_t)f->bytes, f->len);
    cairn_free(f);
}

/* ---- metadata
 * ------------------------------------------------------------------------------------------------------ */

static size_t scalar_bytes(enum kv_type t)
{
    static const uint8_t bytes[KV_TYPES] = {
        [KV_U8] = 1,  [KV_I8] = 1,   [KV_U16] = 2, [KV_I16] = 2, [KV_U32] = 4, [KV_I32] = 4,
        [KV_F32] = 4, [KV_BOOL] = 1, [KV_U64] = 8, [KV_I64] = 8, [KV_F64] = 8};
    return bytes[t];
}

static bool read_int(enum kv_type t, const uint8_t *p, int64_t *v)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } u;
    memcpy(&u, p, scalar_bytes(t));
    switch (t) {
    case KV_U8:
        *v = u.u8;
        return true;
    case KV_I8:
        *v = u.i8;
        return true;
    case KV_U16:
        *v = u.u16;
        return true;
    case KV_I16:
        *v = u.i16;
        return true;
    case KV_U32:
        *v = u.u32;
        return true;
    case KV_I32:
        *v = u.i32;
        return true;
    case KV_I64:
        *v = u.i64;
        return true;
    case KV_U64:
        if (u.u64 > INT64_MAX)
            return false;
        *v = (int64_t)u.u64;
        return true;
    default:
        return false;
    }
}

static bool read_float(enum kv_type t, const uint8_t *p, double *v)
{
    if (t == KV_F32) {
        float x;
        memcpy(&x, p, sizeof x);
        *v = (double)x;
        return true;
    }
    if (t == KV_F64) {
        memcpy(v, p, sizeof *v);
        return true;
    }
    return false;
}

/* safetensors metadata is all strings: copies one that is short enough to be a number. */
static bool number_text(const struct model_file *f, const struct kv *kv, char buf[64])
{
    if (f->format != FORMAT_SAFETENSORS || kv->type != KV_STRING || kv->n == 0 || kv->n >= 64)
        return false;
    memcpy(buf, kv->value, (size_t)kv->n);
    buf[kv->n] = 0;
    return strlen(buf) == kv->n && (buf[0] == '-' || (buf[0] >= '0' && buf[0] <= '9'));
}

bool model_file_int(const struct model_file *f, const char *key, int64_t *v)
{
    const struct kv *kv = file_kv(f, key);
    if (!kv || kv->type == KV_ARRAY)
        return false;
    char buf[64], *end;
    if (number_text(f, kv, buf)) {
        errno = 0;
        long long x = strtoll(buf, &end, 10);
        if (errno || *end)
            return false;
        *v = x;
        return true;
    }
    return kv->type != KV_STRING && read_int(kv->type, kv->value, v);
}

bool model_file_float(const struct model_file *f, const char *key, double *v)
{
    const struct kv *kv = file_kv(f, key);
    if (!kv || kv->type == KV_ARRAY)
        return false;
    char buf[64], *end;
    if (number_text(f, kv, buf)) {
        double x = strtod(buf, &end);
        if (*end || !isfinite(x))
            return false;
        *v = x;
        return true;
    }
    return kv->type != KV_STRING && read_float(kv->type, kv->value, v);
}

bool model_file_bool(const struct model_file *f, const char *key, bool *v)
{
    const struct kv *kv = file_kv(f, key);
    if (kv && f->format == FORMAT_SAFETENSORS && kv->type == KV_STRING) {
        bool yes = kv->n == 4 && memcmp(kv->value, "true", 4) == 0;
        if (!yes && !(kv->n == 5 && memcmp(kv->value, "false", 5) == 0))
            return false;
        *v = yes;
        return true;
    }
    if (!kv || kv->type != KV_BOOL)
        return false;
    *v = kv->value[0] != 0;
    return true;
}

bool model_file_string(const struct model_file *f, const char *key, struct cairn_str *v)
{
    const struct kv *kv = file_kv(f, key);
    if (!kv || kv->type != KV_STRING)
        return false;
    *v = (struct cairn_str){(const char *)kv->value, (size_t)kv->n};
    return true;
}

static const struct kv *array_kv(const struct model_file *f, const char *key, size_t i)
{
    const struct kv *kv = file_kv(f, key);
    return kv && kv->type == KV_ARRAY && i < kv->n ? kv : NULL;
}

size_t model_file_array_len(const struct model_file *f, const char *key)
{
    const struct kv *kv = array_kv(f, key, 0);
    return kv ? (size_t)kv->n : 0;
}

bool model_file_array_string(const struct model_file *f, const char *key, size_t i, struct cairn_str *v)
{
    const struct kv *kv = array_kv(f, key, i);
    if (!kv || kv->elem != KV_STRING)
        return false;
    uint64_t len;
    memcpy(&len, f->bytes + kv->strings[i], sizeof len); /* checked when the table was made */
    *v = (struct cairn_str){(const char *)f->bytes + kv->strings[i] + sizeof len, (size_t)len};
    return true;
}

bool model_file_array_int(const struct model_file *f, const char *key, size_t i, int64_t *v)
{
    const struct kv *kv = array_kv(f, key, i);
    return kv && kv->elem != KV_STRING && read_int(kv->elem, kv->value + i * scalar_bytes(kv->elem), v);
}

bool model_file_array_float(const struct model_file *f, const char *key, size_t i, double *v)
{
    const struct kv *kv = array_kv(f, key, i);
    return kv && kv->elem != KV_STRING && read_float(kv->elem, kv->value + i * scalar_bytes(kv->elem), v);
}
