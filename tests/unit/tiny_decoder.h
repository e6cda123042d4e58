/* tiny_decoder.h - a decoder file with random Q4_0 weights and no tokenizer, for tests of sequences, steps
 * and schedules: small enough to run thousands of steps, quantised so that the kernels for few and for many
 * rows differ as they do in real models. */
#ifndef CAIRN_TESTS_TINY_DECODER_H
#define CAIRN_TESTS_TINY_DECODER_H

#include "check.h"
#include "gguf_writer.h"

enum {
    TINY_EMBD = 64,
    TINY_FF = 128,
    TINY_HEADS = 4,
    TINY_KV = 2,
    TINY_HD = 32,
    TINY_LAYERS = 2,
    TINY_VOCAB = 64,
    TINY_CTX = 1024
};

/* speaks: with the tokenizer of w_tiny_bpe. */
static inline void tiny_decoder_write_as(const char *path, bool speaks)
{
    static const struct {
        const char *name;
        uint64_t k, n; /* n 0: a vector of floats */
    } t[] = {
        {"token_embd.weight",  TINY_EMBD,            TINY_VOCAB          },
        {"output.weight",      TINY_EMBD,            TINY_VOCAB          },
        {"output_norm.weight", TINY_EMBD,            0                   },
        {"attn_norm.weight",   TINY_EMBD,            0                   },
        {"ffn_norm.weight",    TINY_EMBD,            0                   },
        {"attn_q.weight",      TINY_EMBD,            TINY_HEADS * TINY_HD},
        {"attn_k.weight",      TINY_EMBD,            TINY_KV * TINY_HD   },
        {"attn_v.weight",      TINY_EMBD,            TINY_KV * TINY_HD   },
        {"attn_output.weight", TINY_HEADS * TINY_HD, TINY_EMBD           },
        {"ffn_gate.weight",    TINY_EMBD,            TINY_FF             },
        {"ffn_up.weight",      TINY_EMBD,            TINY_FF             },
        {"ffn_down.weight",    TINY_FF,              TINY_EMBD           },
    };
    enum { KINDS = sizeof t / sizeof t[0], ONCE = 3 };
    struct cairn_buf head, body;
    cairn_buf_init(&head, 0);
    cairn_buf_init(&body, 0);
    w_header(&head, ONCE + TINY_LAYERS * (KINDS - ONCE), 9 + (speaks ? TINY_BPE_KVS : 0));
    if (speaks)
        w_tiny_bpe(&head);
    w_kv_string(&head, "general.architecture", "llama");
    w_kv_u32(&head, "llama.block_count", TINY_LAYERS);
    w_kv_u32(&head, "llama.embedding_length", TINY_EMBD);
    w_kv_u32(&head, "llama.feed_forward_length", TINY_FF);
    w_kv_u32(&head, "llama.attention.head_count", TINY_HEADS);
    w_kv_u32(&head, "llama.attention.head_count_kv", TINY_KV);
    w_kv_u32(&head, "llama.attention.key_length", TINY_HD);
    w_kv_u32(&head, "llama.attention.value_length", TINY_HD);
    w_kv_u32(&head, "llama.context_length", TINY_CTX);
    uint64_t seed = 4711;
    for (int layer = -1; layer < TINY_LAYERS; layer++)
        for (int i = layer < 0 ? 0 : ONCE; i < (layer < 0 ? ONCE : KINDS); i++) {
            char name[64];
            if (layer < 0)
                snprintf(name, sizeof name, "%s", t[i].name);
            else
                snprintf(name, sizeof name, "blk.%d.%s", layer, t[i].name);
            w_pad(&body, 32);
            w_tensor(&head, name, t[i].n ? 2 : 1, (uint64_t[]){t[i].k, t[i].n},
                     t[i].n ? TENSOR_Q4_0 : TENSOR_F32, body.len);
            for (uint64_t j = 0; j < t[i].k && !t[i].n; j++)
                w_f32(&body, 0.7f + (float)(test_rand(&seed) % 100) / 200);
            for (uint64_t j = 0; j < t[i].n * t[i].k / 32; j++) {
                uint16_t d = (uint16_t)(0x2900 + test_rand(&seed) % 256); /* weights of about 0.2 */
                w_bytes(&body, &d, 2);
                for (int b = 0; b < 16; b++) {
                    uint8_t q = (uint8_t)test_rand(&seed);
                    w_bytes(&body, &q, 1);
                }
            }
        }
    w_pad(&head, 32);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(head.bytes, 1, head.len, f) == head.len &&
          fwrite(body.bytes, 1, body.len, f) == body.len && fclose(f) == 0);
    cairn_buf_release(&head);
    cairn_buf_release(&body);
}
static inline void tiny_decoder_write(const char *path) { tiny_decoder_write_as(path, false); }

#endif
