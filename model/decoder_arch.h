/* decoder_arch.h - where decoder architectures differ, one row each. decoder_open.c reads a file by it, the
 * layer loop asks it, and nothing else compares names. */
#ifndef CAIRN_MODEL_DECODER_ARCH_H
#define CAIRN_MODEL_DECODER_ARCH_H

#include <cairn/base.h>

struct decoder_arch {
    const char *name;     /* general.architecture, and the prefix of the file's keys */
    bool halves;          /* rope turns (i, i + half) instead of neighbours */
    bool qk_norm;         /* each head of queries and keys goes through an RMS norm before rope */
    bool post_norms;      /* what attention and feed-forward give is normed before it is added */
    bool scale_embedding; /* by the square root of the width */
    bool gelu;            /* the gate is tanh-GELU instead of SiLU */
    bool experts;         /* files may be mixtures: softmax over the experts chosen */
    uint32_t local_every; /* n: all layers but each nth see a window only and turn by local_base; 0: none */
    double local_base;
};
/* NULL: unknown. */
const struct decoder_arch *decoder_arch_find(struct cairn_str name);
/* "llama, qwen2, ..." */
const char *decoder_arch_names(void);

#endif
