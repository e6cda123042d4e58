/* conf.c - what an operator may turn. */
#include <cairn/generator.h>

const struct cairn_conf generator_conf[] = {
    {"generator.context_tokens",        640,                 64,   32768, true,
     "tokens of sources in a prompt; lower ranked sources beyond it are dropped"                                                            },
    {"generator.sources_max",           4,                   1,    64,    true,  "sources offered to the model or to extraction, best first"},
    {"generator.question_tokens_max",   512,                 16,   4096,  true,
     "longest question in tokens (bytes / 4 without a model)"                                                                               },
    {"generator.answer_tokens_max",     200,                 8,    4096,  true,  "tokens written when a request does not say"               },
    {"generator.answer_sentences_max",  512,                 1,    512,   true,
     "sentences of an answer; what is written beyond is left out"                                                                           },
    {"generator.citations_constrained", 0,                   0,    1,     true,
     "1: after [ the model can only write the number of a source and ]"                                                                     },
    {"generator.auto_weight_bytes_min", 700.0 * 1024 * 1024, 0,    1e12,  true,
     "mode auto writes with models of at least this size, and quotes with smaller ones"                                                     },
    {"generator.extract_sentences_max", 2,                   1,    8,     true,  "sentences quoted in mode extract"                         },
    {"generator.extract_share_min",     0.55,                0,    1,     true,
     "a further sentence is quoted when its score is this share of the best one's"                                                          },
    {"generator.relevance_min",         0.12,                0,    1,     true,
     "below this chance that the sources speak of the question the answer is a refusal; 0 is off"                                           },
    {"generator.batch_max",             8,                   1,    16,    false, "answers written at once; more wait"                       },
    {"generator.queue_max",             64,                  1,    4096,  false, "answers that wait to be written; more are refused"        },
    {"generator.prompt_rows",           64,                  8,    240,   false,
     "tokens of new prompts read between two tokens of running answers"                                                                     },
    {"generator.draft_max",             7,                   0,    7,     false,
     "tokens guessed from the sources and verified in one step; 0 is off"                                                                   },
    {"generator.keep_prefixes",         1,                   0,    1,     false,
     "keep computed beginnings of prompts for callers who may read the same"                                                                },
    {"generator.kv_bytes",              0,                   0,    1e15,  false,
     "memory for keys and values of running answers and kept prompts; 0 is that of two full contexts"                                       },
    {"generator.kv_type",               0,                   0,    2,     false,
     "elements of keys and values: 0 is f16, 1 f32, 2 q8 (half the memory of f16, less exact)"                                              },
    {"generator.exact",                 0,                   0,    1,     false,
     "1: inputs of matrices keep 14 bits and more instead of 8; greedy answers then equal the float "
     "reference's, "
     "prompts and drafts take longer"                                                                                                       },
    {"grounding.trained",               1,                   0,    1,     true,
     "1: the shipped trained combiner (generator/grounding.model); 0: the weights set by hand"                                              },
    {"grounding.encoder",               0,                   0,    1,     false,
     "1: an encoder reads claims that the combiner is unsure of: an installed checker, else "
     "claims.safetensors beside the pair model"                                                                                             },
    {"grounding.support_min",           0.5,                 0.05, 0.99,  true,  "a sentence with at least this support is supported"       },
};
const size_t generator_conf_len = sizeof generator_conf / sizeof generator_conf[0];
