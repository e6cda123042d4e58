/* gguf_writer.h - writes small GGUF and safetensors files into memory, so that a test can make a valid one
 * and break it in one place. Lengths and types are written as told, true or not. */
#ifndef CAIRN_TESTS_GGUF_WRITER_H
#define CAIRN_TESTS_GGUF_WRITER_H

#include <cairn/base.h>
#include <cairn/model.h>
#include <stdlib.h>
#include <string.h>

static inline void w_bytes(struct cairn_buf *b, const void *p, size_t n)
{
    if (!cairn_buf_put(b, p, n))
        abort();
}
static inline void w_u32(struct cairn_buf *b, uint32_t v) { w_bytes(b, &v, sizeof v); }
static inline void w_u64(struct cairn_buf *b, uint64_t v) { w_bytes(b, &v, sizeof v); }
static inline void w_f32(struct cairn_buf *b, float v) { w_bytes(b, &v, sizeof v); }
static inline void w_string(struct cairn_buf *b, const char *s)
{
    w_u64(b, strlen(s));
    w_bytes(b, s, strlen(s));
}
static inline void w_header(struct cairn_buf *b, uint64_t n_tensors, uint64_t n_kvs)
{
    w_bytes(b, "GGUF", 4);
    w_u32(b, 3);
    w_u64(b, n_tensors);
    w_u64(b, n_kvs);
}
static inline void w_kv_string(struct cairn_buf *b, const char *key, const char *value)
{
    w_string(b, key);
    w_u32(b, 8);
    w_string(b, value);
}
static inline void w_kv_u32(struct cairn_buf *b, const char *key, uint32_t value)
{
    w_string(b, key);
    w_u32(b, 4);
    w_u32(b, value);
}
static inline void w_kv_f32(struct cairn_buf *b, const char *key, float value)
{
    w_string(b, key);
    w_u32(b, 6);
    w_f32(b, value);
}
static inline void w_kv_bool(struct cairn_buf *b, const char *key, bool value)
{
    w_string(b, key);
    w_u32(b, 7);
    w_bytes(b, value ? "\1" : "\0", 1);
}
static inline void w_kv_strings(struct cairn_buf *b, const char *key, const char *const *values, size_t n)
{
    w_string(b, key);
    w_u32(b, 9);
    w_u32(b, 8);
    w_u64(b, n);
    for (size_t i = 0; i < n; i++)
        w_string(b, values[i]);
}
static inline void w_kv_i32s(struct cairn_buf *b, const char *key, const int32_t *values, size_t n)
{
    w_string(b, key);
    w_u32(b, 9);
    w_u32(b, 5);
    w_u64(b, n);
    w_bytes(b, values, n * sizeof *values);
}
static inline void w_kv_f32s(struct cairn_buf *b, const char *key, const float *values, size_t n)
{
    w_string(b, key);
    w_u32(b, 9);
    w_u32(b, 6);
    w_u64(b, n);
    w_bytes(b, values, n * sizeof *values);
}
static inline void w_tensor(struct cairn_buf *b, const char *name, uint32_t n_dims, const uint64_t *dims,
                            uint32_t type, uint64_t offset)
{
    w_string(b, name);
    w_u32(b, n_dims);
    for (uint32_t d = 0; d < n_dims; d++)
        w_u64(b, dims[d]);
    w_u32(b, type);
    w_u64(b, offset);
}
static inline void w_pad(struct cairn_buf *b, size_t alignment)
{
    while (b->len % alignment)
        w_bytes(b, "", 1);
}
static inline void w_zeros(struct cairn_buf *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        w_bytes(b, "", 1);
}
/* A safetensors file: the header as given, then n_bytes zeros. */
static inline void w_safetensors(struct cairn_buf *b, const char *header, size_t n_bytes)
{
    w_string(b, header);
    w_zeros(b, n_bytes);
}

/* The character that GPT-2 writes for a byte, as UTF-8. */
static inline void w_byte_name(unsigned byte, char name[3])
{
    unsigned next = 256, cp = 0;
    for (unsigned b = 0; b <= byte; b++)
        cp = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b : next++;
    name[0] = (char)(cp < 128 ? cp : 0xc0 | cp >> 6);
    name[1] = (char)(cp < 128 ? 0 : 0x80 | (cp & 63));
    name[2] = 0;
}

/* A byte-level BPE vocabulary over "abc", space (U+0120) and newline (U+010A): ids in order. */
static const char *const tiny_bpe_tokens[] = {"a",
                                              "b",
                                              "c",
                                              "\xc4\xa0",
                                              "\xc4\x8a",
                                              "ab",
                                              "abc",
                                              "\xc4\xa0"
                                              "ab",
                                              "<|endoftext|>",
                                              "<|im_start|>",
                                              "<|im_end|>",
                                              "bc",
                                              "<tool>"};
static const int32_t tiny_bpe_types[] = {1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 1, 4};
static const char *const tiny_bpe_merges[] = {"a b", "ab c", "\xc4\xa0 ab", "b c"};
enum { TINY_BPE_TOKENS = 13, TINY_BPE_MERGES = 4, TINY_BPE_KVS = 8 };
static inline void w_tiny_bpe(struct cairn_buf *b) /* TINY_BPE_KVS pairs */
{
    w_kv_string(b, "tokenizer.ggml.model", "gpt2");
    w_kv_string(b, "tokenizer.ggml.pre", "qwen2");
    w_kv_strings(b, "tokenizer.ggml.tokens", tiny_bpe_tokens, TINY_BPE_TOKENS);
    w_kv_i32s(b, "tokenizer.ggml.token_type", tiny_bpe_types, TINY_BPE_TOKENS);
    w_kv_strings(b, "tokenizer.ggml.merges", tiny_bpe_merges, TINY_BPE_MERGES);
    w_kv_u32(b, "tokenizer.ggml.eos_token_id", 10);
    w_kv_u32(b, "tokenizer.ggml.bos_token_id", 8);
    w_kv_string(b, "tokenizer.chat_template", "{{ '<|im_start|>' + message.role }}");
}
/* A SentencePiece vocabulary in which "</s>" could be formed by merges, were control tokens not left out. */
static const char *const tiny_spm_tokens[] = {"<unk>",
                                              "<s>",
                                              "</s>",
                                              "<0x0A>",
                                              "\xe2\x96\x81",
                                              "a",
                                              "b",
                                              "ab",
                                              "\xe2\x96\x81"
                                              "ab",
                                              "<",
                                              "/",
                                              "s",
                                              ">",
                                              "</",
                                              "s>",
                                              "[INST]",
                                              "[/INST]",
                                              "<0x58>"};
static const int32_t tiny_spm_types[] = {2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 6};
static const float tiny_spm_scores[] = {0, 0, 9, 0, -9, -8, -7, -1, -2, -9, -9, -9, -9, -3, -4, 0, 0, 0};
enum { TINY_SPM_TOKENS = 18, TINY_SPM_KVS = 4 };
static inline void w_tiny_spm(struct cairn_buf *b)
{
    w_kv_string(b, "tokenizer.ggml.model", "llama");
    w_kv_strings(b, "tokenizer.ggml.tokens", tiny_spm_tokens, TINY_SPM_TOKENS);
    w_kv_i32s(b, "tokenizer.ggml.token_type", tiny_spm_types, TINY_SPM_TOKENS);
    w_kv_f32s(b, "tokenizer.ggml.scores", tiny_spm_scores, TINY_SPM_TOKENS);
}

#endif
