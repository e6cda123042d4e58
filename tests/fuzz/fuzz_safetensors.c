/* Any bytes as a safetensors file. The first eight bytes are set to the true header length for every second
 * input, so that the header's rules are reached, not only the length's. Seeds: fuzz_safetensors --seeds DIR.
 */
#include "../unit/gguf_writer.h"

#include <stdio.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static void use(const uint8_t *bytes, size_t len)
{
    struct model_file *f;
    struct cairn_why why;
    struct cairn_buf b;
    volatile uint8_t sum = 0;
    if (model_file_parse(&f, bytes, len, &why) != CAIRN_OK)
        return;
    for (size_t i = 0; i < model_file_n_tensors(f); i++) {
        const struct model_tensor *t = model_file_tensor_at(f, i);
        const uint8_t *p = t->bytes;
        sum = (uint8_t)(sum + p[0] + p[t->n_bytes - 1]);
        CAIRN_CHECK(model_file_tensor(f, t->name) == t);
    }
    int64_t i;
    double d;
    bool yes;
    struct cairn_str s;
    (void)model_file_int(f, "bert.block_count", &i);
    (void)model_file_float(f, "eps", &d);
    (void)model_file_bool(f, "lower", &yes);
    (void)model_file_string(f, "format", &s);
    cairn_buf_init(&b, 1 << 22);
    (void)!model_file_describe(f, true, &b, &why);
    cairn_buf_release(&b);
    model_file_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    use(bytes, len);
    /* the last '}' ends the header of the second try */
    size_t end = len;
    while (end > 8 && bytes[end - 1] != '}')
        end--;
    if (end <= 8)
        return 0;
    uint8_t *copy = cairn_malloc(len);
    uint64_t n = end - 8;
    if (!copy)
        return 0;
    memcpy(copy, bytes, len);
    memcpy(copy, &n, sizeof n);
    use(copy, len);
    cairn_free(copy);
    return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    if (*argc != 3 || strcmp((*argv)[1], "--seeds") != 0)
        return 0;
    static const char *const headers[] = {
        "{\"__metadata__\":{\"general.architecture\":\"bert\",\"bert.block_count\":\"6\",\"eps\":\"1e-12\","
        "\"lower\":\"true\"},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},\"b\":{\"dtype\":\"BF16\","
        "\"shape\":[4],\"data_offsets\":[24,32]}}",
        "{\"position_ids\":{\"dtype\":\"I64\",\"shape\":[1,2],\"data_offsets\":[0,16]},\"s\":{\"dtype\":"
        "\"F16\",\"shape\":[],\"data_offsets\":[16,18]}}",
    };
    for (size_t i = 0; i < 2; i++) {
        struct cairn_buf b;
        struct cairn_why why;
        char path[4096];
        cairn_buf_init(&b, 0);
        w_safetensors(&b, headers[i], 32);
        snprintf(path, sizeof path, "%s/%zu.safetensors", (*argv)[2], i);
        if (cairn_write_file(path, b.bytes, b.len, &why) != CAIRN_OK)
            fprintf(stderr, "%s\n", why.text);
        cairn_buf_release(&b);
    }
    exit(0);
}
