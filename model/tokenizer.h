/* tokenizer.h - the inside of struct tokenizer, shared by its three algorithms. */
#ifndef CAIRN_MODEL_TOKENIZER_H
#define CAIRN_MODEL_TOKENIZER_H

#include <cairn/model.h>
#include <stdio.h>
#include <string.h>

enum {
    TOKENIZER_VOCAB_MAX = 1 << 20, /* tokens */
    TOKENIZER_MERGES_MAX = 1 << 20,
    TOKENIZER_PIECE_MAX = 64 << 10, /* bytes of one token */
    TOKENIZER_POOL_MAX = 256 << 20, /* bytes of all tokens */
    TOKENIZER_TEXT_MAX = 64 << 20,  /* bytes of one text to encode */
    WORDPIECE_WORD_MAX = 100,       /* code points; longer words are [UNK], as in the reference */
};

enum tokenizer_model { TOKENIZER_WORDPIECE, TOKENIZER_BPE, TOKENIZER_SPM };
enum tokenizer_pre { PRE_NONE, PRE_GPT2, PRE_SMOLLM, PRE_QWEN2, PRE_LLAMA3 };
/* GGUF's numbers. */
enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE };

/* Open addressing, at most half full, seeded at random. The tag spares most comparisons. */
struct text_slot {
    uint32_t tag;
    int32_t id; /* -1: empty */
};
struct text_table {
    struct text_slot *slots;
    size_t mask;
    uint64_t seed;
};

struct merge_slot {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: empty */
    int32_t rank, id;
};

struct tokenizer {
    enum tokenizer_model model;
    enum tokenizer_pre pre;
    const char *kind;
    struct cairn_arena *arena; /* all of the below */
    size_t n;
    char *names, *pieces;         /* vocabulary entries as written; the bytes that each stands for */
    uint32_t *name_at, *piece_at; /* n + 1 offsets each */
    uint8_t *types;               /* enum token_type */
    uint8_t *ends;                /* 1: ends a generation */
    float *scores;                /* spm */
    struct text_table by_name;    /* all entries */
    struct text_table by_piece;   /* bpe, spm: what merges may form; wordpiece: pieces, see there */
    atomic_uchar *whole;          /* bpe, spm: of each token, see tokenizer_words.h */
    uint64_t *joined;             /* spm: a bit per two bytes that stand side by side in a token that
                                     merges may form, see there */
    struct merge_slot *merges;    /* bpe */
    size_t merges_mask;
    uint64_t merges_seed;
    int32_t bytes[256];                /* bpe, spm: token of a byte; -1: none */
    int32_t bos, eos, unk, head, tail; /* head, tail: what ADD_SPECIAL puts around; -1: none */
    bool space_prefix, lower_case;
    int32_t *specials; /* control and user-defined tokens by first byte, longest first */
    uint32_t special_at[257];
    size_t longest; /* bytes of the longest piece that the algorithm may form */
};

/* Growing output. */
struct id_list {
    int32_t *ids;
    size_t n, cap;
    bool failed;
};
static inline bool ids_grow(struct id_list *l)
{
    size_t cap = l->cap ? l->cap * 2 : 64;
    int32_t *ids = l->failed ? NULL : cairn_reallocarray(l->ids, cap, sizeof *ids);
    if (!ids) {
        l->failed = true;
        return false;
    }
    l->ids = ids;
    l->cap = cap;
    return true;
}
static inline void ids_put(struct id_list *l, int32_t id)
{
    if (l->n < l->cap || ids_grow(l))
        l->ids[l->n++] = id;
}

static inline struct cairn_str token_name(const struct tokenizer *t, int32_t id)
{
    return (struct cairn_str){t->names + t->name_at[id], t->name_at[id + 1] - t->name_at[id]};
}
static inline struct cairn_str token_piece(const struct tokenizer *t, int32_t id)
{
    return (struct cairn_str){t->pieces + t->piece_at[id], t->piece_at[id + 1] - t->piece_at[id]};
}

/* Seeded: a vocabulary or text that makes many collisions would have to know the seed. */
static inline uint64_t text_hash(const char *p, size_t len, uint64_t seed)
{
    uint64_t a = 0, b = 0;
    if (len > 16)
        return cairn_xxh64(p, len, seed);
    if (len >= 8) {
        memcpy(&a, p, 8);
        memcpy(&b, p + len - 8, 8);
    } else if (len >= 4) {
        memcpy(&a, p, 4);
        memcpy(&b, p + len - 4, 4);
    } else if (len > 0) {
        a = (uint64_t)(uint8_t)p[0] << 16 | (uint64_t)(uint8_t)p[len / 2] << 8 | (uint8_t)p[len - 1];
    }
    __extension__ typedef unsigned __int128 wide;
    wide m =
        (wide)(a ^ seed ^ UINT64_C(0x9e3779b97f4a7c15)) * (b ^ (seed >> 7) ^ UINT64_C(0xd6e8feb86659fd93));
    uint64_t h = (uint64_t)m ^ (uint64_t)(m >> 64) ^ len;
    h *= UINT64_C(0x9fb21c651e98df25);
    return h ^ h >> 29;
}

enum cairn_err text_table_init(struct text_table *x, struct cairn_arena *arena, size_t n,
                               struct cairn_why *why);
/* -1: none. space separates keys of several kinds in one table; key_of gives the key of an entry. */
int32_t text_table_find(const struct text_table *x, const char *p, size_t len, uint64_t space,
                        struct cairn_str (*key_of)(const struct tokenizer *, int32_t),
                        const struct tokenizer *t);
void text_table_put(struct text_table *x, const char *p, size_t len, uint64_t space, int32_t id,
                    struct cairn_str (*key_of)(const struct tokenizer *, int32_t), const struct tokenizer *t);

/* What tokenizer_from_wordpiece() reads from a file. */
CAIRN_MUST_USE enum cairn_err tokenizer_from_wordpiece_bytes(struct tokenizer **out, const char *bytes,
                                                             size_t len, bool lower_case,
                                                             struct cairn_why *why);

/* Plain text, no specials. Return CAIRN_ENOMEM at most; l->failed says the same. */
enum cairn_err bpe_encode(const struct tokenizer *t, struct cairn_str text, struct id_list *l,
                          struct cairn_why *why);
enum cairn_err spm_encode(const struct tokenizer *t, struct cairn_str text, struct id_list *l,
                          struct cairn_why *why);
enum cairn_err wordpiece_encode(const struct tokenizer *t, struct cairn_str text, struct id_list *l,
                                struct cairn_why *why);

/* Called once names and types stand; they make pieces and tables. */
enum cairn_err bpe_build(struct tokenizer *t, const struct model_file *f, struct cairn_why *why);
enum cairn_err spm_build(struct tokenizer *t, const struct model_file *f, struct cairn_why *why);
/* gguf: entries carry U+2581 before word-initial pieces; else "##" before the others. */
enum cairn_err wordpiece_build(struct tokenizer *t, bool gguf, struct cairn_why *why);

/* What merging two tokens gives, and when (the lowest rank goes first); false: they do not merge. */
bool bpe_merge(const struct tokenizer *t, int32_t left, int32_t right, int32_t *rank, int32_t *id);

/* Whether a chat template puts a token of this name by its id: text must not become one. */
bool chat_marks_turns(struct cairn_str name);

enum cairn_err tokenizer_out_of_memory(struct cairn_why *why);

#endif
