/* Model files: a valid one reads back as written; each rule of model/file.c, broken alone, is found and
 * named. */
#include "check.h"
#include "gguf_writer.h"

#include <sys/stat.h>

/* Where each part of the valid file lies, for the cases that break it. */
enum spot {
    SPOT_NONE,
    SPOT_MAGIC,
    SPOT_VERSION,
    SPOT_N_TENSORS,
    SPOT_N_KVS,
    SPOT_KEY_LEN,
    SPOT_KEY,
    SPOT_TYPE,
    SPOT_STRING_LEN,
    SPOT_BOOL,
    SPOT_ARRAY_TYPE,
    SPOT_ARRAY_N,
    SPOT_ALIGN_TYPE,
    SPOT_ALIGN,
    SPOT_NAME_LEN,
    SPOT_NAME,
    SPOT_NAME_2,
    SPOT_N_DIMS,
    SPOT_DIM_0,
    SPOT_DIM_1,
    SPOT_TENSOR_TYPE,
    SPOT_OFFSET,
    SPOT_OFFSET_2,
    SPOT_KEY_2,
    SPOT_LAYERS,
    SPOT_HEADS,
    SPOT_HEADS_KV,
    SPOT_EPS,
    SPOT_STRINGS_LEN,
    SPOT_BOOLS,
    SPOT_SPLIT,
    SPOTS
};

struct tiny {
    struct cairn_buf b;
    size_t at[SPOTS];
};

static struct tiny valid_gguf(void)
{
    struct tiny t = {.at = {0}};
    struct cairn_buf *b = &t.b;
    static const int32_t ints[] = {1, -2, 3};
    static const char *const texts[] = {"x", "yz"};
    cairn_buf_init(b, 0);
    w_header(b, 2, 15);
    t.at[SPOT_VERSION] = 4;
    t.at[SPOT_N_TENSORS] = 8;
    t.at[SPOT_N_KVS] = 16;
    t.at[SPOT_KEY_LEN] = b->len;
    t.at[SPOT_KEY] = b->len + 8;
    t.at[SPOT_TYPE] = b->len + 8 + 20;
    t.at[SPOT_STRING_LEN] = b->len + 8 + 20 + 4;
    w_kv_string(b, "general.architecture", "llama");
    w_kv_bool(b, "t.bool", true);
    t.at[SPOT_BOOL] = b->len - 1;
    t.at[SPOT_ARRAY_TYPE] = b->len + 8 + 6 + 4;
    t.at[SPOT_ARRAY_N] = t.at[SPOT_ARRAY_TYPE] + 4;
    w_kv_i32s(b, "t.ints", ints, 3);
    t.at[SPOT_KEY_2] = b->len + 8;
    t.at[SPOT_STRINGS_LEN] = b->len + 8 + 6 + 4 + 4 + 8;
    w_kv_strings(b, "t.strs", texts, 2);
    t.at[SPOT_ALIGN_TYPE] = b->len + 8 + 17;
    t.at[SPOT_ALIGN] = t.at[SPOT_ALIGN_TYPE] + 4;
    w_kv_u32(b, "general.alignment", 64);
    w_kv_u32(b, "llama.block_count", 2);
    t.at[SPOT_LAYERS] = b->len - 4;
    w_kv_u32(b, "llama.embedding_length", 96);
    w_kv_u32(b, "llama.attention.head_count", 6);
    t.at[SPOT_HEADS] = b->len - 4;
    w_kv_u32(b, "llama.attention.head_count_kv", 3);
    t.at[SPOT_HEADS_KV] = b->len - 4;
    w_kv_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    t.at[SPOT_EPS] = b->len - 4;
    w_string(b, "t.bools");
    w_u32(b, 9);
    w_u32(b, 7);
    w_u64(b, 2);
    t.at[SPOT_BOOLS] = b->len;
    w_bytes(b, "\1\0", 2);
    w_string(b, "t.i64");
    w_u32(b, 11);
    w_u64(b, (uint64_t)-5);
    w_string(b, "t.u64");
    w_u32(b, 10);
    w_u64(b, UINT64_MAX);
    w_string(b, "t.f64");
    w_u32(b, 12);
    double half = 0.5;
    w_bytes(b, &half, sizeof half);
    w_kv_u32(b, "split.count", 1);
    t.at[SPOT_SPLIT] = b->len - 4;
    t.at[SPOT_NAME_LEN] = b->len;
    t.at[SPOT_NAME] = b->len + 8;
    t.at[SPOT_N_DIMS] = b->len + 8 + 2;
    t.at[SPOT_DIM_0] = b->len + 8 + 2 + 4;
    t.at[SPOT_DIM_1] = t.at[SPOT_DIM_0] + 8;
    t.at[SPOT_TENSOR_TYPE] = t.at[SPOT_DIM_1] + 8;
    t.at[SPOT_OFFSET] = t.at[SPOT_TENSOR_TYPE] + 4;
    w_tensor(b, "t0", 2, (const uint64_t[]){64, 3}, TENSOR_Q4_0, 0); /* 108 bytes */
    t.at[SPOT_NAME_2] = b->len + 8;
    w_tensor(b, "t1", 1, (const uint64_t[]){5}, TENSOR_F32, 128);
    t.at[SPOT_OFFSET_2] = b->len - 8;
    w_pad(b, 64);
    w_zeros(b, 128 + 20);
    return t;
}

static void a_valid_gguf_reads_back_as_written(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct tiny t = valid_gguf();
    struct model_file *f;
    CHECK_OK(model_file_parse(&f, t.b.bytes, t.b.len, &why));
    int64_t i;
    double d;
    bool b;
    struct cairn_str s;
    CHECK(model_file_string(f, "general.architecture", &s) && s.len == 5 && memcmp(s.p, "llama", 5) == 0);
    CHECK(model_file_bool(f, "t.bool", &b) && b);
    CHECK(!model_file_int(f, "t.bool", &i) && !model_file_int(f, "none", &i) &&
          !model_file_int(f, "t.ints", &i));
    CHECK(model_file_int(f, "t.i64", &i) && i == -5);
    CHECK(!model_file_int(f, "t.u64", &i)); /* out of range */
    CHECK(model_file_float(f, "t.f64", &d) && d == 0.5);
    CHECK(model_file_float(f, "llama.attention.layer_norm_rms_epsilon", &d) && d > 0.9e-5 && d < 1.1e-5);
    CHECK_U64_EQ(model_file_array_len(f, "t.ints"), 3);
    CHECK(model_file_array_int(f, "t.ints", 1, &i) && i == -2);
    CHECK(!model_file_array_int(f, "t.ints", 3, &i) && !model_file_array_string(f, "t.ints", 0, &s));
    CHECK(model_file_array_string(f, "t.strs", 1, &s) && s.len == 2 && memcmp(s.p, "yz", 2) == 0);
    CHECK_U64_EQ(model_file_n_tensors(f), 2);
    const struct model_tensor *x = model_file_tensor(f, "t0");
    CHECK(x && x->type == TENSOR_Q4_0 && x->n_dims == 2 && x->dims[0] == 64 && x->dims[1] == 3 &&
          x->dims[2] == 1);
    CHECK_U64_EQ(x->n_bytes, 6 * 18);
    CHECK_U64_EQ((const char *)x->bytes - t.b.bytes, t.b.len - 148);
    x = model_file_tensor(f, "t1");
    CHECK(x && x->n_bytes == 20 && (const char *)x->bytes + 20 == t.b.bytes + t.b.len);
    CHECK(!model_file_tensor(f, "t2"));
    struct cairn_buf json;
    cairn_buf_init(&json, 0);
    CHECK_OK(model_file_describe(f, true, &json, &why));
    CHECK(strstr(json.bytes, "\"Q4_0\":{\"count\":1,\"bytes\":108}") &&
          strstr(json.bytes, "\"weights_bytes\":128"));
    CHECK(
        strstr(json.bytes, "\"kv_bytes_per_token_f16\":384")); /* 2 layers * 3 heads * (16 + 16) * 2 bytes */
    cairn_buf_release(&json);
    model_file_close(f);
    cairn_buf_release(&t.b);
}

struct broken_case {
    enum spot spot;
    uint64_t value;
    unsigned width; /* bytes of value to write */
    enum cairn_err want;
    const char *says; /* part of why */
};

static const struct broken_case cases[] = {
    {SPOT_MAGIC,       0x46474747,        4, CAIRN_ECORRUPT,     "starts with GGUF"                                       }, /* F2 */
    {SPOT_VERSION,     1,                 4, CAIRN_EUNSUPPORTED, "versions are 2 and 3"                                   }, /* G1 */
    {SPOT_VERSION,     4,                 4, CAIRN_EUNSUPPORTED, "versions are 2 and 3"                                   }, /* G1 */
    {SPOT_VERSION,     0x03000000,        4, CAIRN_EUNSUPPORTED, "little-endian"                                          }, /* G1 */
    {SPOT_N_TENSORS,   UINT64_MAX,        8, CAIRN_ECORRUPT,     "counts fit"                                             }, /* G2 */
    {SPOT_N_TENSORS,   60000,             8, CAIRN_ECORRUPT,     "counts fit"                                             }, /* G2 */
    {SPOT_N_KVS,       UINT64_C(1) << 61, 8, CAIRN_ECORRUPT,     "counts fit"                                             }, /* G2 */
    {SPOT_N_KVS,       65,                8, CAIRN_ECORRUPT,     ""                                                       }, /* G2 */
    {SPOT_KEY_LEN,     0,                 8, CAIRN_ECORRUPT,     "keys have 1 to 256 bytes"                               }, /* G3 */
    {SPOT_KEY_LEN,     257,               8, CAIRN_ECORRUPT,     "keys have 1 to 256 bytes"                               }, /* G3 */
    {SPOT_KEY_LEN,     UINT64_MAX,        8, CAIRN_ECORRUPT,     "keys have 1 to 256 bytes"                               }, /* G3 */
    {SPOT_KEY,         0,                 1, CAIRN_ECORRUPT,     "keys have 1 to 256 bytes"                               }, /* G3 */
    {SPOT_KEY_2,       0x73746e692e74,    6, CAIRN_ECORRUPT,
     "no key twice: 't.ints' at offset"                                                                                   }, /* G3: t.ints again */
    {SPOT_TYPE,        13,                4, CAIRN_ECORRUPT,     "value types are known"                                  }, /* G4 */
    {SPOT_TYPE,        0xffffffff,        4, CAIRN_ECORRUPT,     "value types are known: 'general.architecture'"          }, /* G4 */
    {SPOT_BOOL,        2,                 1, CAIRN_ECORRUPT,     "a bool is 0 or 1: 't.bool' at offset"                   }, /* G4 */
    {SPOT_BOOLS,       7,                 1, CAIRN_ECORRUPT,     "a bool is 0 or 1: 't.bools' at offset"                  }, /* G4 */
    {SPOT_STRING_LEN,  UINT64_MAX,        8, CAIRN_ECORRUPT,
     "strings fit into the file: 'general.architecture'"                                                                  }, /* G5 */
    {SPOT_STRING_LEN,  UINT64_MAX - 7,    8, CAIRN_ECORRUPT,     "strings fit into the file"                              }, /* G5 */
    {SPOT_STRINGS_LEN, 1 << 30,           8, CAIRN_ECORRUPT,     "strings fit into the file: 't.strs'"                    }, /* G5 */
    {SPOT_ARRAY_TYPE,  9,                 4, CAIRN_ECORRUPT,     "arrays hold no arrays: 't.ints'"                        }, /* G6 */
    {SPOT_ARRAY_TYPE,  99,                4, CAIRN_ECORRUPT,     "value types are known"                                  }, /* G6 */
    {SPOT_ARRAY_N,     UINT64_C(1) << 62, 8, CAIRN_ECORRUPT,
     "arrays fit into the file: 't.ints'"                                                                                 }, /* G6: n * 4 wraps to 0 */
    {SPOT_ARRAY_N,     5000,              8, CAIRN_ECORRUPT,     "arrays fit into the file"                               }, /* G6 */
    {SPOT_ALIGN_TYPE,  6,                 4, CAIRN_ECORRUPT,     "general.alignment is a u32"                             }, /* G7: the type is a float */
    {SPOT_ALIGN,       0,                 4, CAIRN_ECORRUPT,     "general.alignment is a u32, a power of two"             }, /* G7 */
    {SPOT_ALIGN,       48,                4, CAIRN_ECORRUPT,     "general.alignment is a u32, a power of two"             }, /* G7 */
    {SPOT_ALIGN,       1 << 17,           4, CAIRN_ECORRUPT,     "general.alignment is a u32, a power of two"             }, /* G7 */
    {SPOT_NAME_LEN,    0,                 8, CAIRN_ECORRUPT,     "tensor names have 1 to 64 bytes"                        }, /* G8 */
    {SPOT_NAME_LEN,    65,                8, CAIRN_ECORRUPT,     "tensor names have 1 to 64 bytes"                        }, /* G8 */
    {SPOT_NAME,        0,                 1, CAIRN_ECORRUPT,     "tensor names have 1 to 64 bytes"                        }, /* G8 */
    {SPOT_NAME_2,      0x3074,            2, CAIRN_ECORRUPT,     "no tensor twice: 't0' at offset"                        }, /* G8 */
    {SPOT_N_DIMS,      0,                 4, CAIRN_ECORRUPT,     "1 to 4 dimensions: 't0'"                                }, /* G9 */
    {SPOT_N_DIMS,      5,                 4, CAIRN_ECORRUPT,     "1 to 4 dimensions: 't0'"                                }, /* G9 */
    {SPOT_N_DIMS,      0xffffffff,        4, CAIRN_ECORRUPT,     "1 to 4 dimensions"                                      }, /* G9 */
    {SPOT_DIM_0,       0,                 8, CAIRN_ECORRUPT,     "dimensions are 1 to 2^31: 't0'"                         }, /* G9 */
    {SPOT_DIM_1,       0,                 8, CAIRN_ECORRUPT,     "dimensions are 1 to 2^31"                               }, /* G9 */
    {SPOT_DIM_1,       INT64_MAX,         8, CAIRN_ECORRUPT,     "dimensions are 1 to 2^31"                               }, /* G9 */
    {SPOT_DIM_1,       UINT64_C(1) << 31, 8, CAIRN_ECORRUPT,     "tensors lie in the file: 't0'"                          }, /* G12: 77 GB */
    {SPOT_TENSOR_TYPE, 4,                 4, CAIRN_EUNSUPPORTED,
     "tensor types are known: 't0' at offset"                                                                             }, /* G10: a hole in the table */
    {SPOT_TENSOR_TYPE, 0x80000000,        4, CAIRN_EUNSUPPORTED, "tensor types are known"                                 }, /* G10 */
    {SPOT_TENSOR_TYPE, 31,                4, CAIRN_EUNSUPPORTED, "tensor types are known"                                 }, /* G10 */
    {SPOT_TENSOR_TYPE, TENSOR_Q6_K,       4, CAIRN_ECORRUPT,     "rows divide into blocks of the type: 't0'"              }, /* G10 */
    {SPOT_DIM_0,       65,                8, CAIRN_ECORRUPT,     "rows divide into blocks of the type"                    }, /* G10 */
    {SPOT_OFFSET_2,    132,               8, CAIRN_ECORRUPT,     "tensor offsets are aligned: 't1'"                       }, /* G11 */
    {SPOT_OFFSET_2,    192,               8, CAIRN_ECORRUPT,     "tensors lie in the file: 't1'"                          }, /* G12 */
    {SPOT_OFFSET,      UINT64_MAX - 63,   8, CAIRN_ECORRUPT,
     "tensors lie in the file: 't0'"                                                                                      }, /* G12: offset + size wraps */
    {SPOT_OFFSET_2,    64,                8, CAIRN_ECORRUPT,     "tensors do not overlap: t0 and t1"                      }, /* G13 */
    {SPOT_LAYERS,      0,                 4, CAIRN_ECORRUPT,     "hyper-parameters are in their ranges: llama.block_count"}, /* G14 */
    {SPOT_LAYERS,      513,               4, CAIRN_ECORRUPT,     "hyper-parameters are in their ranges"                   }, /* G14 */
    {SPOT_HEADS,       0,                 4, CAIRN_ECORRUPT,
     "hyper-parameters are in their ranges"                                                                               }, /* G14: division by zero elsewhere */
    {SPOT_HEADS,       7,                 4, CAIRN_ECORRUPT,     "heads divide the width"                                 }, /* G14 */
    {SPOT_HEADS_KV,    4,                 4, CAIRN_ECORRUPT,     "key-value heads divide the heads"                       }, /* G14 */
    {SPOT_EPS,         0x7fc00000,        4, CAIRN_ECORRUPT,     "hyper-parameters are in their ranges"                   }, /* G14: NaN */
    {SPOT_EPS,         0xbf800000,        4, CAIRN_ECORRUPT,     "hyper-parameters are in their ranges"                   }, /* G14: -1 */
    {SPOT_SPLIT,       3,                 4, CAIRN_EUNSUPPORTED, "a model is one file"                                    }, /* G15 */
};

static void each_gguf_rule_is_kept(void **state)
{
    UNUSED_STATE(state);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct broken_case *c = &cases[i];
        TEST_WHY;
        struct tiny t = valid_gguf();
        memcpy(t.b.bytes + t.at[c->spot], &c->value, c->width);
        struct model_file *f = NULL;
        enum cairn_err err = model_file_parse(&f, t.b.bytes, t.b.len, &why);
        if (err != c->want || f != NULL || !strstr(why.text, c->says))
            print_error("case %zu (%s): %s: %s\n", i, c->says, cairn_err_name(err), why.text);
        CHECK(err == c->want && f == NULL && strstr(why.text, c->says));
        cairn_buf_release(&t.b);
    }
}

static void a_cut_file_is_corrupt_at_every_length(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct tiny t = valid_gguf();
    for (size_t len = 0; len < t.b.len; len++) {
        char *copy = malloc(len + 1); /* its own allocation, so that a sanitizer sees a read past the end */
        struct model_file *f;
        memcpy(copy, t.b.bytes, len);
        CHECK_ERR(model_file_parse(&f, copy, len, &why), CAIRN_ECORRUPT);
        CHECK(f == NULL);
        free(copy);
    }
    cairn_buf_release(&t.b);
}

/* A file that passes all rules but G9's product: four dimensions of 2^31 make 2^124. */
static void a_product_of_dimensions_that_wraps_is_corrupt(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_buf b;
    struct model_file *f;
    cairn_buf_init(&b, 0);
    w_header(&b, 1, 0);
    w_tensor(&b, "t", 4, (const uint64_t[]){UINT64_C(1) << 31, UINT64_C(1) << 31, UINT64_C(1) << 31, 2},
             TENSOR_F32, 0);
    w_pad(&b, 32);
    CHECK_ERR(model_file_parse(&f, b.bytes, b.len, &why), CAIRN_ECORRUPT);
    CHECK(strstr(why.text, "the product of dimensions"));
    cairn_buf_release(&b);
}

static void random_damage_never_passes_the_bounds(void **state)
{
    UNUSED_STATE(state);
    uint64_t seed = 7;
    size_t refused = 0, rounds = 20000;
    struct tiny t = valid_gguf();
    char *copy = malloc(t.b.len);
    for (size_t i = 0; i < rounds; i++) {
        struct model_file *f = NULL;
        memcpy(copy, t.b.bytes, t.b.len);
        for (int k = 0; k < 3; k++)
            copy[test_rand(&seed) % (t.b.len - 148)] = (char)test_rand(&seed);
        enum cairn_err err = model_file_parse(&f, copy, t.b.len, NULL);
        refused += err != CAIRN_OK;
        for (size_t n = 0; f && n < model_file_n_tensors(f); n++) {
            const struct model_tensor *x = model_file_tensor_at(f, n);
            CHECK((const char *)x->bytes >= copy && x->n_bytes <= t.b.len &&
                  (const char *)x->bytes + x->n_bytes <= copy + t.b.len);
        }
        model_file_close(f);
    }
    CHECK_GE(refused, rounds / 4);
    free(copy);
    cairn_buf_release(&t.b);
}

static void running_out_of_memory_is_an_error_each_time(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct tiny t = valid_gguf();
    for (uint64_t n = 1;; n++) {
        struct model_file *f = NULL;
        cairn_alloc_fail_after(n, false);
        enum cairn_err err = model_file_parse(&f, t.b.bytes, t.b.len, &why);
        cairn_alloc_fail_after(0, false);
        model_file_close(f);
        if (err == CAIRN_OK) {
            CHECK_GE(n, 2);
            break;
        }
        CHECK_I64_EQ(err, CAIRN_ENOMEM);
    }
    cairn_buf_release(&t.b);
}

/* ---- safetensors
 * --------------------------------------------------------------------------------------------------- */

#define META                                                                                                 \
    "\"__metadata__\":{\"general.architecture\":\"bert\",\"bert.block_count\":\"6\",\"eps\":\"1e-12\","      \
    "\"lower\":\"true\"}"
#define T_A "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
#define T_B "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]}"

static enum cairn_err parse_safetensors(const char *header, size_t n_bytes, struct model_file **f,
                                        struct cairn_buf *b, struct cairn_why *why)
{
    cairn_buf_init(b, 0);
    w_safetensors(b, header, n_bytes);
    return model_file_parse(f, b->bytes, b->len, why);
}

static void a_valid_safetensors_reads_back_as_written(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_buf b;
    struct model_file *f;
    CHECK_OK(
        parse_safetensors("{" META "," T_A "," T_B
                          ",\"x.position_ids\":{\"dtype\":\"I64\",\"shape\":[1,1],\"data_offsets\":[32,40]}"
                          ",\"s\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[40,42]}}",
                          42, &f, &b, &why));
    CHECK_U64_EQ(model_file_n_tensors(f), 3); /* position_ids is left out */
    const struct model_tensor *x = model_file_tensor(f, "a");
    CHECK(x && x->type == TENSOR_F32 && x->n_dims == 2 && x->dims[0] == 3 && x->dims[1] == 2 &&
          x->n_bytes == 24);
    CHECK((const char *)x->bytes == b.bytes + b.len - 42);
    x = model_file_tensor(f, "s");
    CHECK(x && x->type == TENSOR_F16 && x->n_dims == 1 && x->dims[0] == 1);
    CHECK(!model_file_tensor(f, "x.position_ids"));
    int64_t i;
    double d;
    bool lower;
    CHECK(model_file_int(f, "bert.block_count", &i) && i == 6);
    CHECK(model_file_float(f, "eps", &d) && d == 1e-12);
    CHECK(model_file_bool(f, "lower", &lower) && lower);
    CHECK(!model_file_int(f, "general.architecture", &i));
    model_file_close(f);
    cairn_buf_release(&b);
}

static void each_safetensors_rule_is_kept(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *header;
        enum cairn_err want;
        const char *says;
    } broken[] = {
        {"{" T_A "," T_A "}",                                                                      CAIRN_ECORRUPT,     "is JSON"                    }, /* S2: twice */
        {"{" T_A,                                                                                  CAIRN_ECORRUPT,     "is JSON"                    }, /* S2 */
        {"{\"__metadata__\":{\"a\":1}}",                                                           CAIRN_ECORRUPT,     "short keys and strings: 'a'"}, /* S3 */
        {"{\"__metadata__\":[]}",                                                                  CAIRN_ECORRUPT,     "__metadata__ is an object"  }, /* S3 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3]}}",                                            CAIRN_ECORRUPT,     "entries have dtype"         }, /* S4 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24],\"x\":0}}",              CAIRN_ECORRUPT,
         "entries have dtype"                                                                                                                       }, /* S4 */
        {"{\"a\":7}",                                                                              CAIRN_ECORRUPT,     "entries have dtype"         }, /* S4 */
        {"{\"a\":{\"dtype\":3,\"shape\":[6],\"data_offsets\":[0,24]}}",                            CAIRN_ECORRUPT,
         "entries have dtype"                                                                                                                       }, /* S4 */
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[3],\"data_offsets\":[0,24]}}",                      CAIRN_EUNSUPPORTED,
         "'a' has F64"                                                                                                                              }, /* S5 */
        {"{\"a\":{\"dtype\":\"I64\",\"shape\":[3],\"data_offsets\":[0,24]}}",                      CAIRN_EUNSUPPORTED,
         "'a' has I64"                                                                                                                              }, /* S5 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,2,3],\"data_offsets\":[0,24]}}",              CAIRN_ECORRUPT,
         "0 to 4 dimensions"                                                                                                                        }, /* S6 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",                       CAIRN_ECORRUPT,
         "dimensions are 1 to 2^31"                                                                                                                 }, /* S6 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-6],\"data_offsets\":[0,24]}}",                     CAIRN_ECORRUPT,
         "dimensions are 1 to 2^31"                                                                                                                 }, /* S6 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[6.0],\"data_offsets\":[0,24]}}",                    CAIRN_ECORRUPT,
         "dimensions are 1 to 2^31"                                                                                                                 }, /* S6 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2147483648,2147483648,4],\"data_offsets\":[0,0]}}",
         CAIRN_ECORRUPT,                                                                                               "the product of dimensions"  }, /* S6: 2^64 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,20]}}",                      CAIRN_ECORRUPT,
         "span shape times dtype"                                                                                                                   }, /* S6 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[12,36]}}",                     CAIRN_ECORRUPT,
         "data_offsets lie in"                                                                                                                      }, /* S7 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[24,0]}}",                      CAIRN_ECORRUPT,
         "data_offsets lie in"                                                                                                                      }, /* S7 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[-24,0]}}",                     CAIRN_ECORRUPT,
         "data_offsets lie in"                                                                                                                      }, /* S7 */
        {"{" T_A ",\"b\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16,32]}}",             CAIRN_ECORRUPT,
         "do not overlap"                                                                                                                           }, /* S8 */
        {"{\"__metadata__\":{\"general.architecture\":\"bert\",\"bert.block_count\":\"9999\"}}",
         CAIRN_ECORRUPT,                                                                                               "in their ranges"            },
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        TEST_WHY;
        struct cairn_buf b;
        struct model_file *f = NULL;
        enum cairn_err err = parse_safetensors(broken[i].header, 32, &f, &b, &why);
        if (err != broken[i].want || !strstr(why.text, broken[i].says))
            print_error("case %zu (%s): %s: %s\n", i, broken[i].says, cairn_err_name(err), why.text);
        CHECK(err == broken[i].want && f == NULL && strstr(why.text, broken[i].says));
        cairn_buf_release(&b);
    }
}

/* S1 */
static void a_safetensors_header_that_lies_about_its_length_is_corrupt(void **state)
{
    UNUSED_STATE(state);
    static const uint64_t lengths[] = {0, 1, 100000001, UINT64_MAX, UINT64_MAX - 7, 1000};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        TEST_WHY;
        struct cairn_buf b;
        struct model_file *f;
        cairn_buf_init(&b, 0);
        w_safetensors(&b, "{" T_A "}", 24);
        memcpy(b.bytes, &lengths[i], 8);
        CHECK_ERR(model_file_parse(&f, b.bytes, b.len, &why), CAIRN_ECORRUPT);
        CHECK(strstr(why.text, "a safetensors header has 2 to 100000000 bytes"));
        cairn_buf_release(&b);
    }
}

/* Deep nesting must not exhaust the stack. */
static void a_deeply_nested_header_is_corrupt(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_buf b, header;
    struct model_file *f;
    cairn_buf_init(&header, 0);
    w_bytes(&header, "{\"a\":", 5);
    for (int i = 0; i < 1000000; i++)
        w_bytes(&header, "[", 1);
    CHECK_ERR(parse_safetensors(header.bytes, 0, &f, &b, &why), CAIRN_ECORRUPT);
    cairn_buf_release(&b);
    cairn_buf_release(&header);
}

/* ---- files
 * -----------------------------------------------------------------------------------------------------------
 */

static void what_is_not_a_model_file_says_so(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir(), *path = NULL;
    struct model_file *f;
    CHECK(asprintf(&path, "%s/f", dir) > 0);
    CHECK_ERR(model_file_open(&f, path, &why), CAIRN_ENOTFOUND);
    CHECK_ERR(model_file_open(&f, dir, &why), CAIRN_EINVAL); /* F1 */
    CHECK(strstr(why.text, "not a regular file"));
    CHECK(mkfifo(path, 0600) == 0);
    CHECK_ERR(model_file_open(&f, path, &why), CAIRN_EINVAL); /* F1: and no hang */
    CHECK(unlink(path) == 0);
    CHECK_OK(cairn_write_file(path, "", 0, &why));
    CHECK_ERR(model_file_open(&f, path, &why), CAIRN_ECORRUPT);
    CHECK_OK(cairn_write_file(path, "PK\3\4 a zip archive", 18, &why));
    CHECK_ERR(model_file_open(&f, path, &why), CAIRN_ECORRUPT); /* F2 */
    CHECK(strstr(why.text, dir));
    struct tiny t = valid_gguf();
    CHECK_OK(cairn_write_file(path, t.b.bytes, t.b.len, &why));
    CHECK_OK(model_file_open(&f, path, &why));
    CHECK_U64_EQ(model_file_n_tensors(f), 2);
    model_file_close(f);
    model_file_close(NULL);
    cairn_buf_release(&t.b);
    free(path);
    test_rmdir(dir);
}

static void the_shared_tiny_models_open(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *file;
        size_t tensors, tokens;
    } files[] = {
        {"tiny-models/tinyllm.gguf",         48, 512  },
        {"tiny-models/vocab-bert-bge.gguf",  0,  30522},
        {"tiny-models/vocab-llama-spm.gguf", 0,  32000}
    };
    size_t seen = 0;
    for (size_t i = 0; i < 3; i++) {
        TEST_WHY;
        const char *path = test_shared_file(files[i].file);
        struct model_file *f;
        if (!path)
            continue;
        CHECK_OK(model_file_open(&f, path, &why));
        CHECK_U64_EQ(model_file_n_tensors(f), files[i].tensors);
        CHECK_U64_EQ(model_file_array_len(f, "tokenizer.ggml.tokens"), files[i].tokens);
        model_file_close(f);
        seen++;
    }
    if (!seen)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_valid_gguf_reads_back_as_written),
        TEST(each_gguf_rule_is_kept),
        TEST(a_cut_file_is_corrupt_at_every_length),
        TEST(a_product_of_dimensions_that_wraps_is_corrupt),
        TEST(random_damage_never_passes_the_bounds),
        TEST(running_out_of_memory_is_an_error_each_time),
        TEST(a_valid_safetensors_reads_back_as_written),
        TEST(each_safetensors_rule_is_kept),
        TEST(a_safetensors_header_that_lies_about_its_length_is_corrupt),
        TEST(a_deeply_nested_header_is_corrupt),
        TEST(what_is_not_a_model_file_says_so),
        TEST(the_shared_tiny_models_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
