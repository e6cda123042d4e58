/* decoder_arch.c - the table of decoder_arch.h. Mixtral files call themselves llama, as do Mistral, Llama 3
 * (whose scaled frequencies come as the tensor rope_freqs) and SmolLM2. Gemma's norms are stored with their
 * 1 added. */
#include "decoder_arch.h"

#include <string.h>

static const struct decoder_arch archs[] = {
  /* name     halves qk_norm post_norms scale_embedding gelu experts local_every, local_base */
    {"llama",    false, false, false, false, false, true,  0, 0    },
    {"qwen2",    true,  false, false, false, false, false, 0, 0    },
    {"qwen3",    true,  true,  false, false, false, false, 0, 0    },
    {"qwen3moe", true,  true,  false, false, false, true,  0, 0    },
    {"gemma3",   true,  true,  true,  true,  true,  false, 6, 10000},
};

const struct decoder_arch *decoder_arch_find(struct cairn_str name)
{
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++)
        if (name.len == strlen(archs[i].name) && memcmp(name.p, archs[i].name, name.len) == 0)
            return &archs[i];
    return NULL;
}

const char *decoder_arch_names(void) { return "llama, qwen2, qwen3, qwen3moe and gemma3"; }
