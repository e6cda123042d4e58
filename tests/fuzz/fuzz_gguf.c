/* Any bytes as a GGUF file: the parser, the metadata, the tokenizer built from it, its template, a text
 * through both, and the description. Seeds: fuzz_gguf --seeds DIR writes small valid files; with no file
 * libFuzzer starts from nothing. */
#include "../unit/gguf_writer.h"

#include <stdio.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static void use_tensors(const struct model_file *f)
{
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < model_file_n_tensors(f); i++) {
        const struct model_tensor *t = model_file_tensor_at(f, i);
        const uint8_t *p = t->bytes;
        sum = (uint8_t)(sum + p[0] + p[t->n_bytes - 1]); /* the ends: a sanitizer sees what lies outside */
        CAIRN_CHECK(model_file_tensor(f, t->name) == t);
        CAIRN_CHECK(tensor_type_bytes(t->type, (size_t)t->dims[0]) > 0);
    }
}

static void use_tokenizer(const struct model_file *f)
{
    static const char text[] = "ab abc\n</s><|im_end|> \xc3\xa9 \xe4\xb8\xad\xff don't 123  x";
    static const struct chat_message message = {
        "user", {text, sizeof text - 1}
    };
    struct tokenizer *t;
    struct cairn_why why;
    if (tokenizer_from_gguf(&t, f, &why) != CAIRN_OK)
        return;
    for (unsigned flags = 0; flags < 4; flags++) {
        int32_t *ids;
        size_t n;
        struct cairn_buf b;
        if (tokenizer_encode(t, cairn_str_of(text), flags, &ids, &n, &why) != CAIRN_OK)
            continue;
        for (size_t i = 0; i < n; i++) {
            CAIRN_CHECK(ids[i] >= 0 && (size_t)ids[i] < tokenizer_n_vocab(t));
            CAIRN_CHECK(flags || !tokenizer_is_control(t, ids[i]));
            (void)tokenizer_piece(t, ids[i], true);
            (void)tokenizer_is_end(t, ids[i]);
        }
        cairn_buf_init(&b, 1 << 20);
        (void)!tokenizer_decode(t, ids, n, &b, &why);
        cairn_buf_release(&b);
        cairn_free(ids);
    }
    for (enum chat_template c = CHAT_CHATML; c <= CHAT_MISTRAL_V3; c++) {
        int32_t *ids;
        size_t n;
        if (chat_encode(t, c, &message, 1, &ids, &n, &why) == CAIRN_OK)
            cairn_free(ids);
    }
    tokenizer_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct model_file *f;
    struct cairn_why why;
    struct cairn_buf b;
    if (model_file_parse(&f, bytes, len, &why) != CAIRN_OK)
        return 0;
    use_tensors(f);
    use_tokenizer(f);
    (void)chat_template_detect(f);
    cairn_buf_init(&b, 1 << 22);
    (void)!model_file_describe(f, true, &b, &why);
    cairn_buf_release(&b);
    model_file_close(f);
    return 0;
}

static void put_seed(const char *dir, const char *name, struct cairn_buf *b)
{
    struct cairn_why why;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (cairn_write_file(path, b->bytes, b->len, &why) != CAIRN_OK)
        fprintf(stderr, "%s\n", why.text);
    cairn_buf_clear(b);
}

static void write_seeds(const char *dir)
{
    static const char *const words[] = {"[PAD]",
                                        "[UNK]",
                                        "[CLS]",
                                        "[SEP]",
                                        "\xe2\x96\x81"
                                        "ab",
                                        "c",
                                        "\xe2\x96\x81x"};
    static const int32_t word_types[] = {3, 2, 3, 3, 1, 1, 1};
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    w_header(&b, 2, TINY_BPE_KVS + 4);
    w_kv_string(&b, "general.architecture", "llama");
    w_kv_u32(&b, "general.alignment", 32);
    w_kv_u32(&b, "llama.block_count", 2);
    w_kv_u32(&b, "llama.attention.head_count", 4);
    w_tiny_bpe(&b);
    w_tensor(&b, "token_embd.weight", 2, (const uint64_t[]){32, 13}, TENSOR_Q8_0, 0);
    w_tensor(&b, "output_norm.weight", 1, (const uint64_t[]){8}, TENSOR_F32, 448);
    w_pad(&b, 32);
    w_zeros(&b, 480);
    put_seed(dir, "bpe.gguf", &b);
    w_header(&b, 0, TINY_SPM_KVS);
    w_tiny_spm(&b);
    put_seed(dir, "spm.gguf", &b);
    w_header(&b, 0, 3);
    w_kv_string(&b, "tokenizer.ggml.model", "bert");
    w_kv_strings(&b, "tokenizer.ggml.tokens", words, 7);
    w_kv_i32s(&b, "tokenizer.ggml.token_type", word_types, 7);
    put_seed(dir, "bert.gguf", &b);
    cairn_buf_release(&b);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    if (*argc == 3 && strcmp((*argv)[1], "--seeds") == 0) {
        write_seeds((*argv)[2]);
        exit(0);
    }
    return 0;
}
