/* cairn/model.h - model files, tokenizers, encoder (BERT family, nomic-bert), decoder (llama family, Mixtral,
 * Qwen2, Qwen3, Gemma 3), chat templates, registry. Threads: an opened model may be shared; every compute
 * call takes the model's own lock, so calls from many threads queue. A decoder_seq belongs to one thread at a
 * time. Tokenizers and registries are immutable after open. All float arrays are float32, row major, shapes
 * written [rows, columns]. COPIED: we keep our own. OWNED: yours to free. BORROWED: ours, valid until the
 * moment named. */
#ifndef CAIRN_MODEL_H
#define CAIRN_MODEL_H

#include <cairn/base.h>

/* ---- model files: GGUF v2/v3 and safetensors
 * ------------------------------------------------------------------- */

/* GGUF's numbers; safetensors types are mapped onto the same. */
enum tensor_type {
    TENSOR_F32 = 0,
    TENSOR_F16 = 1,
    TENSOR_Q4_0 = 2,
    TENSOR_Q4_1 = 3,
    TENSOR_Q5_0 = 6,
    TENSOR_Q5_1 = 7,
    TENSOR_Q8_0 = 8,
    TENSOR_Q4_K = 12,
    TENSOR_Q5_K = 13,
    TENSOR_Q6_K = 14,
    TENSOR_BF16 = 30,
};
const char *tensor_type_name(enum tensor_type t); /* "Q4_K"; NULL when unknown */
/* Bytes of n consecutive elements (n a multiple of the type's block), 0 when it does not divide or the type
 * is unknown. */
size_t tensor_type_bytes(enum tensor_type t, size_t n);
/* Scalar reference dequantisation of n elements; n a multiple of the block. */
void tensor_dequantize(enum tensor_type t, const void *src, float *dst, size_t n);

struct model_tensor {
    const char *name; /* BORROWED from the file */
    enum tensor_type type;
    uint32_t n_dims;
    uint64_t dims[4]; /* dims[0] is the row length (fastest), as in GGUF; safetensors shapes are reversed into
                         this order */
    const void *bytes; /* BORROWED: inside the mapping, not aligned beyond the file's own alignment */
    size_t n_bytes;
};
struct model_file; /* a mapped, fully validated file */
/* Every rule of the header comment of model/file.c is checked here; a file that breaks one is CAIRN_ECORRUPT
 * with the rule, the name and the offset in why. Types outside the table are CAIRN_EUNSUPPORTED. */
CAIRN_MUST_USE enum cairn_err model_file_open(struct model_file **out, const char *path,
                                              struct cairn_why *why);
/* The same over bytes in memory (fuzzing, tests); bytes are BORROWED until close. */
CAIRN_MUST_USE enum cairn_err model_file_parse(struct model_file **out, const void *bytes, size_t len,
                                               struct cairn_why *why);
void model_file_close(struct model_file *f);
size_t model_file_n_tensors(const struct model_file *f);
const struct model_tensor *model_file_tensor_at(const struct model_file *f, size_t i);
const struct model_tensor *model_file_tensor(const struct model_file *f, const char *name); /* NULL: absent */
/* Metadata. _int accepts any integer type in range; all return false when absent or of another type. */
bool model_file_int(const struct model_file *f, const char *key, int64_t *v);
bool model_file_float(const struct model_file *f, const char *key, double *v);
bool model_file_bool(const struct model_file *f, const char *key, bool *v);
bool model_file_string(const struct model_file *f, const char *key, struct cairn_str *v); /* BORROWED */
size_t model_file_array_len(const struct model_file *f, const char *key);                 /* 0: absent */
bool model_file_array_string(const struct model_file *f, const char *key, size_t i, struct cairn_str *v);
bool model_file_array_int(const struct model_file *f, const char *key, size_t i, int64_t *v);
bool model_file_array_float(const struct model_file *f, const char *key, size_t i, double *v);
/* A JSON object for `cairn model inspect`: format, architecture, hyper-parameters, tensor types with counts
 * and bytes, tokenizer, template, memory needed. Appends to b. */
CAIRN_MUST_USE enum cairn_err model_file_describe(const struct model_file *f, bool with_tensors,
                                                  struct cairn_buf *b, struct cairn_why *why);

/* ---- tokenizers
 * -------------------------------------------------------------------------------------------------- */

struct tokenizer;
CAIRN_MUST_USE enum cairn_err tokenizer_from_gguf(struct tokenizer **out, const struct model_file *f,
                                                  struct cairn_why *why); /* copies what it needs */
CAIRN_MUST_USE enum cairn_err tokenizer_from_wordpiece(struct tokenizer **out, const char *vocab_path,
                                                       bool lower_case, struct cairn_why *why);
void tokenizer_close(struct tokenizer *t);
enum tokenizer_flags {
    TOKENIZE_PLAIN = 0,
    TOKENIZE_ADD_SPECIAL = 1, /* bos/eos or [CLS]/[SEP] as the model wants them */
    TOKENIZE_PARSE_SPECIAL =
        2, /* text such as <|im_end|> becomes the control token: only for our own template pieces */
};
/* *ids is OWNED (cairn_free). Any bytes are accepted; invalid UTF-8 is handled as the reference tokenizer
 * does (byte fallback or U+FFFD). */
CAIRN_MUST_USE enum cairn_err tokenizer_encode(const struct tokenizer *t, struct cairn_str text,
                                               unsigned flags, int32_t **ids, size_t *n,
                                               struct cairn_why *why);
/* Raw bytes of a token; BORROWED. Control tokens give an empty string unless with_control. */
struct cairn_str tokenizer_piece(const struct tokenizer *t, int32_t id, bool with_control);
/* Text of ids (SentencePiece: without the leading space). Appends to b. */
CAIRN_MUST_USE enum cairn_err tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n,
                                               struct cairn_buf *b, struct cairn_why *why);
size_t tokenizer_n_vocab(const struct tokenizer *t);
int32_t tokenizer_find(const struct tokenizer *t,
                       const char *piece); /* exact vocabulary entry, control tokens too; -1: none */
bool tokenizer_is_control(const struct tokenizer *t, int32_t id);
bool tokenizer_is_end(const struct tokenizer *t, int32_t id); /* eos, eot, <|im_end|>, ... */
const char *tokenizer_kind(
    const struct tokenizer *t); /* "wordpiece", "bpe/qwen2", "bpe/smollm", "bpe/gpt-2", "bpe/llama3", "spm" */

/* ---- chat templates
 * ----------------------------------------------------------------------------------------------- */

enum chat_template {
    CHAT_NONE,
    CHAT_CHATML,
    CHAT_MISTRAL_V1,
    CHAT_MISTRAL_V3,
    CHAT_QWEN3,
    CHAT_LLAMA3,
    CHAT_GEMMA
};
/* "chatml", "mistral-v1", "mistral-v3", "qwen3", "llama-3", "gemma"; CHAT_NONE when unknown */
enum chat_template chat_template_by_name(const char *name);
enum chat_template chat_template_detect(
    const struct model_file *f); /* from tokenizer.chat_template and the vocabulary; never runs Jinja */
const char *chat_template_name(enum chat_template t);
struct chat_message {
    const char *role; /* "system", "user", "assistant" */
    struct cairn_str content;
};
/* Token ids of the conversation with the assistant's turn opened. Contents are tokenised with special tokens
 * off, so no document or user text can produce a control token. *ids OWNED. */
CAIRN_MUST_USE enum cairn_err chat_encode(const struct tokenizer *t, enum chat_template tmpl,
                                          const struct chat_message *m, size_t n_messages, int32_t **ids,
                                          size_t *n, struct cairn_why *why);

/* ---- registry: a directory of model directories, each with a card.json
 * --------------------------------------------- */

/* Checker: a token classifier of two outputs, for generator.h's ground_encoder_open. */
enum model_role { MODEL_GENERATOR, MODEL_EMBEDDER, MODEL_RERANKER, MODEL_CHECKER };
#define MODEL_ROLES 4u
const char *model_role_name(enum model_role r);
struct model_card {
    char *name, *path, *vocab; /* path: the file cairn loads; vocab may be NULL (GGUF carries its own) */
    enum model_role role;
    char *architecture, *profile, *licence, *source, *sha256, *query_prefix,
        *template_name; /* any may be NULL */
    int pooling;        /* enum encoder_pooling */
    bool normalize, lower_case;
    uint32_t max_tokens, n_head;
    double layer_norm_eps;
    uint64_t bytes;
};
struct model_registry;
/* dir NULL: $CAIRN_MODELS_DIR, else $XDG_CACHE_HOME/cairn/models, else ~/.cache/cairn/models.
 * A missing directory is an empty registry. */
CAIRN_MUST_USE enum cairn_err model_registry_open(struct model_registry **out, const char *dir,
                                                  struct cairn_why *why);
void model_registry_close(struct model_registry *r);
size_t model_registry_count(const struct model_registry *r);
const struct model_card *model_registry_at(const struct model_registry *r, size_t i);
/* By name; or name NULL: the best of the role (profile standard before small before others). CAIRN_ESTATE
 * with how to fetch it when none. */
CAIRN_MUST_USE enum cairn_err model_registry_find(const struct model_registry *r, enum model_role role,
                                                  const char *name, const struct model_card **card,
                                                  struct cairn_why *why);
/* Validates FILE (opens it fully), makes dir/NAME with a link or copy and a card. */
CAIRN_MUST_USE enum cairn_err model_registry_add(struct model_registry *r, const char *file, const char *name,
                                                 enum model_role role, bool copy, struct cairn_why *why);

/* ---- backends
 * ---------------------------------------------------------------------------------------------------------
 */

/* AUTO takes the fastest that this machine runs: cuda, avx512, avx2, blas, scalar. A model that a device does
 * not take, or a device that fails, leaves the work to the CPU and a line in the log. All give the same
 * answers within the bounds of tests/parity. */
enum model_backend { BACKEND_AUTO, BACKEND_SCALAR, BACKEND_BLAS, BACKEND_AVX2, BACKEND_AVX512, BACKEND_CUDA };
const char *model_backend_name(enum model_backend b);
enum model_backend model_backend_by_name(const char *name); /* unknown: BACKEND_AUTO */
bool model_backend_available(enum model_backend b);
/* The device behind BACKEND_CUDA, which AUTO takes too where it is: name, architecture, memory. NULL: none.
 */
const char *model_device_name(void);
/* Bytes per second that a kernel reads `bytes` of the device's memory with: what decoding is measured
 * against. CAIRN_EDEVICE without a device, CAIRN_ENOMEM when there is no room. */
CAIRN_MUST_USE enum cairn_err model_device_bandwidth(size_t bytes, double *bytes_per_s,
                                                     struct cairn_why *why);

/* Elements of a decoder's keys and values. Q8: one byte each and a scale per position and head. */
enum cache_type { CACHE_F16, CACHE_F32, CACHE_Q8 };

struct model_opts {
    struct cairn_pool *pool;    /* BORROWED; NULL: one thread */
    enum model_backend backend; /* AUTO */
    bool exact;                 /* decoder: inputs of matrices are never rounded to 8 bits: ops.h */
    uint32_t n_ctx;             /* decoder: 0 = the smaller of the file's and 8192 */
    uint32_t window;            /* decoder: sliding window override, 0 = the file's / model's own */
    enum cache_type cache_type; /* decoder: F16 */
    size_t kv_bytes; /* decoder: keys and values of all sequences together; 0 = of two sequences of n_ctx */
};

/* ---- encoder
 * ------------------------------------------------------------------------------------------------------------
 */

enum encoder_pooling { POOL_NONE, POOL_MEAN, POOL_CLS, POOL_RANK };
struct encoder;
CAIRN_MUST_USE enum cairn_err encoder_open(struct encoder **out, const struct model_card *card,
                                           const struct model_opts *o, struct cairn_why *why);
/* The same with an overlay: a safetensors file of changes to the card's model, for another task: "NAME.a" and
 * "NAME.b" (low-rank changes of a matrix), "NAME.bias" and norms (in place of the model's), and tensors of
 * its own, which encoder_extra reads; without an overlay that reads the model's. overlay NULL: none. */
CAIRN_MUST_USE enum cairn_err encoder_open_over(struct encoder **out, const struct model_card *card,
                                                const char *overlay, const struct model_opts *o,
                                                struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err encoder_extra(const struct encoder *e, const char *name, float *out, size_t n,
                                            struct cairn_why *why);
void encoder_close(struct encoder *e);
uint32_t encoder_dim(const struct encoder *e);
const char *encoder_name(const struct encoder *e);
const char *encoder_backend_name(const struct encoder *e);
const char *encoder_query_prefix(const struct encoder *e); /* "" when none */
const struct tokenizer *encoder_tokenizer(const struct encoder *e);
uint32_t
encoder_max_tokens(const struct encoder *e); /* longer texts are cut to this many tokens, specials included */
/* out is [n, dim]; pooled, and L2-normalised when the card says so. An empty text gives the vector of
 * [CLS][SEP]. */
CAIRN_MUST_USE enum cairn_err encoder_embed(struct encoder *e, const struct cairn_str *texts, size_t n,
                                            float *out, const struct cairn_stop *stop, struct cairn_why *why);
/* Pair model: one logit per (query, text); the text is cut to fit. CAIRN_ESTATE when the model has no
 * classifier head. */
CAIRN_MUST_USE enum cairn_err encoder_score_pairs(struct encoder *e, struct cairn_str query,
                                                  const struct cairn_str *texts, size_t n, float *logits,
                                                  const struct cairn_stop *stop, struct cairn_why *why);
/* The lowest level, for tests and references: ids [sum of lens], types (token types) may be NULL; hidden [sum
 * of lens, dim] last layer. */
CAIRN_MUST_USE enum cairn_err encoder_forward(struct encoder *e, const int32_t *ids, const int32_t *types,
                                              const size_t *lens, size_t n_seqs, float *hidden,
                                              const struct cairn_stop *stop, struct cairn_why *why);

/* ---- decoder
 * ---------------------------------------------------------------------------------------------------------------
 */

struct decoder;
struct decoder_seq; /* one sequence: its pages of keys and values, and its length */
CAIRN_MUST_USE enum cairn_err decoder_open(struct decoder **out, const struct model_card *card,
                                           const struct model_opts *o, struct cairn_why *why);
/* Tests: straight from a GGUF file. */
CAIRN_MUST_USE enum cairn_err decoder_open_file(struct decoder **out, const char *path,
                                                const struct model_opts *o, struct cairn_why *why);
void decoder_close(struct decoder *d); /* close its sequences first */
const char *decoder_name(const struct decoder *d);
const char *decoder_backend_name(const struct decoder *d);
const struct tokenizer *decoder_tokenizer(const struct decoder *d);
enum chat_template decoder_template(const struct decoder *d); /* the card's, else as the file looks */
uint32_t decoder_n_ctx(const struct decoder *d);
uint32_t decoder_n_vocab(const struct decoder *d);
/* A sequence takes pages as it grows. n_ctx 0: the decoder's. */
CAIRN_MUST_USE enum cairn_err decoder_seq_open(struct decoder_seq **out, struct decoder *d, uint32_t n_ctx,
                                               struct cairn_why *why);
void decoder_seq_close(struct decoder_seq *s);
uint32_t decoder_seq_len(const struct decoder_seq *s);
void decoder_seq_truncate(struct decoder_seq *s, uint32_t len); /* forget positions >= len */
/* Takes the pages of n positions now and keeps them until close, so that growing to n cannot fail.
 * CAIRN_EFULL when too few are free: try again when another sequence was closed. */
CAIRN_MUST_USE enum cairn_err decoder_seq_reserve(struct decoder_seq *s, uint32_t n, struct cairn_why *why);

/* One pass over the weights for rows of several sequences. What a row's results are does not depend on what
 * else is in the step (nor, for a prompt, on how it is cut into steps), on every backend but blas. One thing
 * does count: a prompt's item that wants more than DECODER_LOGITS_FEW rows of logits gets them by the kernels
 * for many rows, which round otherwise. */
enum {
    DECODER_ROWS_MAX = 256,  /* tokens of a step */
    DECODER_ITEMS_MAX = 64,  /* sequences of a step */
    DECODER_LOGITS_FEW = 16, /* rows of logits that cost little more than one */
};
struct decoder_item {
    struct decoder_seq *seq; /* not twice in one step */
    const int32_t *tokens;
    size_t n, n_logits; /* of the last n_logits tokens the logits are wanted */
    bool prompt;        /* by the kernels for many rows; else by those for few, as single tokens are */
};
/* logits: [sum of n_logits, n_vocab], items in order. On any error no sequence has changed its length.
 * CAIRN_EFULL when a sequence's n_ctx is exceeded, or no page of keys and values is left. */
CAIRN_MUST_USE enum cairn_err decoder_step(struct decoder *d, const struct decoder_item *items,
                                           size_t n_items, float *logits, struct cairn_why *why);
/* Appends n tokens of one sequence, as a prompt unless they are few. logits: NULL, or [n_vocab] of the last
 * token, or with all_logits [n, n_vocab]. Runs in steps and checks stop between them; on any error the
 * sequence keeps its old length. */
CAIRN_MUST_USE enum cairn_err decoder_eval(struct decoder_seq *s, const int32_t *tokens, size_t n,
                                           bool all_logits, float *logits, const struct cairn_stop *stop,
                                           struct cairn_why *why);

/* ---- beginnings of prompts, kept for the next prompt that begins alike */

/* Who may share: the first n_public tokens (our own words, no document's and no person's) are kept for all;
 * what follows only for callers of the same partition, which the caller makes from what those may read. */
struct decoder_share {
    size_t n_public;
    bool has_partition; /* else nothing but the public tokens is kept or found */
    struct cairn_hash partition;
};
/* Into an empty sequence, before its pages are reserved: the longest known beginning of ids, less than all of
 * it, so that there is a token left to compute. Returns its length; the logits that follow are those of a
 * sequence that computed it. */
uint32_t decoder_prefix_find(struct decoder_seq *s, const int32_t *ids, size_t n,
                             const struct decoder_share *share);
/* Keeps the first n positions, computed as a prompt from ids. While the sequence lives on, n should be a
 * multiple of DECODER_PAGE: the rest of a shared page is copied when it grows. */
enum { DECODER_PAGE = 64 };
void decoder_prefix_keep(struct decoder_seq *s, const int32_t *ids, size_t n,
                         const struct decoder_share *share);

/* Bytes of the weights, mapped or held. */
size_t decoder_weight_bytes(const struct decoder *d);
struct decoder_kv { /* keys and values of all sequences, and kept beginnings */
    enum cache_type type;
    size_t page_bytes, n_pages, n_free, n_kept; /* pages; kept ones count as free when no sequence has them */
};
void decoder_kv_get(struct decoder *d, struct decoder_kv *out);

/* ---- memory
 * ---------------------------------------------------------------------------------------------------------------
 */

/* Bytes of a process that computes with a model, at its peak. */
struct model_need {
    uint64_t mapped; /* pages of the file that computing reads; the kernel may take them back */
    uint64_t held;   /* our own copies: tables, tokenizer, packed weights, activations */
    uint64_t kv;     /* decoder: keys and values of all sequences, when all pages are used */
    uint32_t n_ctx;
};
/* Opens the model as o says, counts, and closes it. f is the file at path, open; card may be NULL for a
 * decoder. To be called while no other thread allocates. */
CAIRN_MUST_USE enum cairn_err model_need_of(struct model_need *out, const struct model_file *f,
                                            const char *path, const struct model_card *card,
                                            const struct model_opts *o, struct cairn_why *why);

#endif
