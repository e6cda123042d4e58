/* tokenizer.c - vocabularies, special tokens and what is common to the three algorithms (tokenizer_bpe.c,
 * tokenizer_spm.c, tokenizer_wordpiece.c). Immutable once built: any number of threads may encode with one.
 *
 * A vocabulary comes from a file, so it is hostile too. Rules, each with a case in
 * tests/unit/test_tokenizer.c:
 * - T1 tokenizer.ggml.model is gpt2, llama or bert; for gpt2 tokenizer.ggml.pre is one that we know (else
 *   unsupported)
 * - T2 tokens: 1 .. TOKENIZER_VOCAB_MAX strings of <= TOKENIZER_PIECE_MAX bytes,
 *   <= TOKENIZER_POOL_MAX together
 * - T3 token types: as many as tokens, each 1 .. 6; scores (llama): as many as tokens, all finite
 * - T4 merges (gpt2): "LEFT RIGHT" where LEFT, RIGHT and LEFTRIGHT are tokens, and no control tokens
 * - T5 the ids of special tokens are in the vocabulary, or absent (-1 or 2^32 - 1)
 * - T6 byte tokens read <0xNN>
 * - T7 a WordPiece vocabulary has [UNK], [CLS] and [SEP]
 *
 * Where we differ from llama.cpp on purpose: without TOKENIZE_PARSE_SPECIAL no part of a text becomes a
 * control token, and what ends a generation or marks turns in a template counts as one, whatever the file
 * calls it; other user-defined tokens come about by merges, as ordinary ones do (there, user-defined tokens
 * always match, and SentencePiece merges can form "</s>"). */
#include "tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <sys/random.h>

enum cairn_err tokenizer_out_of_memory(struct cairn_why *why)
{
    return cairn_fail(why, CAIRN_ENOMEM,
                      "no memory for the tokenizer; close something or use a smaller text");
}

/* ---- tables
 * ------------------------------------------------------------------------------------------------------- */

static uint64_t random_seed(const void *fallback)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed)
        seed = (uint64_t)(uintptr_t)fallback;
    return seed;
}

enum cairn_err text_table_init(struct text_table *x, struct cairn_arena *arena, size_t n,
                               struct cairn_why *why)
{
    size_t cap = 16;
    while (cap < n * 2)
        cap *= 2;
    x->slots = cairn_arena_alloc(arena, cap * sizeof *x->slots);
    if (!x->slots)
        return tokenizer_out_of_memory(why);
    memset(x->slots, 0xff, cap * sizeof *x->slots); /* id -1 */
    x->mask = cap - 1;
    x->seed = random_seed(x->slots);
    return CAIRN_OK;
}

static struct text_slot *table_slot(const struct text_table *x, const char *p, size_t len, uint64_t space,
                                    uint32_t *tag,
                                    struct cairn_str (*key_of)(const struct tokenizer *, int32_t),
                                    const struct tokenizer *t)
{
    uint64_t h = text_hash(p, len, x->seed + space);
    *tag = (uint32_t)(h >> 32);
    size_t i = (size_t)h & x->mask;
    for (;; i = (i + 1) & x->mask) {
        struct text_slot *s = &x->slots[i];
        if (s->id < 0)
            return s;
        if (s->tag == *tag) {
            struct cairn_str key = key_of(t, s->id);
            if (key.len == len && memcmp(key.p, p, len) == 0)
                return s;
        }
    }
}

int32_t text_table_find(const struct text_table *x, const char *p, size_t len, uint64_t space,
                        struct cairn_str (*key_of)(const struct tokenizer *, int32_t),
                        const struct tokenizer *t)
{
    uint32_t tag;
    return table_slot(x, p, len, space, &tag, key_of, t)->id;
}

void text_table_put(struct text_table *x, const char *p, size_t len, uint64_t space, int32_t id,
                    struct cairn_str (*key_of)(const struct tokenizer *, int32_t), const struct tokenizer *t)
{
    uint32_t tag;
    struct text_slot *s = table_slot(x, p, len, space, &tag, key_of, t);
    *s = (struct text_slot){tag, id}; /* of equal entries the last one wins, as in the reference */
}

/* ---- building
 * ----------------------------------------------------------------------------------------------------- */

static enum cairn_err alloc_vocab(struct tokenizer *t, size_t n, size_t pool, struct cairn_why *why)
{
    t->n = n;
    t->names = cairn_arena_alloc(t->arena, pool + 1);
    t->name_at = cairn_arena_alloc(t->arena, (n + 1) * sizeof *t->name_at);
    t->types = cairn_arena_alloc(t->arena, n);
    t->ends = cairn_arena_alloc(t->arena, n);
    if (!t->names || !t->name_at || !t->types || !t->ends)
        return tokenizer_out_of_memory(why);
    return text_table_init(&t->by_name, t->arena, n, why);
}

static enum cairn_err load_names(struct tokenizer *t, const struct model_file *f, struct cairn_why *why)
{
    size_t n = model_file_array_len(f, "tokenizer.ggml.tokens"), pool = 0;
    struct cairn_str s;
    if (n < 1 || n > TOKENIZER_VOCAB_MAX)
        return cairn_fail(
            why, CAIRN_ECORRUPT,
            "a vocabulary has 1 to %d tokens: tokenizer.ggml.tokens has %zu; fetch the file again",
            TOKENIZER_VOCAB_MAX, n);
    for (size_t i = 0; i < n; i++) {
        if (!model_file_array_string(f, "tokenizer.ggml.tokens", i, &s) || s.len > TOKENIZER_PIECE_MAX ||
            (pool += s.len) > TOKENIZER_POOL_MAX)
            return cairn_fail(why, CAIRN_ECORRUPT,
                              "tokens are strings of at most %d bytes, %d together: "
                              "tokenizer.ggml.tokens[%zu] is not; fetch the "
                              "file again",
                              TOKENIZER_PIECE_MAX, TOKENIZER_POOL_MAX, i);
    }
    enum cairn_err err = alloc_vocab(t, n, pool, why);
    if (err)
        return err;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (!model_file_array_string(f, "tokenizer.ggml.tokens", i, &s))
            continue; /* seen above */
        memcpy(t->names + at, s.p, s.len);
        t->name_at[i] = (uint32_t)at;
        at += s.len;
        t->name_at[i + 1] = (uint32_t)at;
    }
    return CAIRN_OK;
}

static enum cairn_err load_types(struct tokenizer *t, const struct model_file *f, struct cairn_why *why)
{
    size_t n = model_file_array_len(f, "tokenizer.ggml.token_type");
    if (n != 0 && n != t->n)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "there are as many token types as tokens: tokenizer.ggml.token_type has %zu for "
                          "%zu; fetch the file again",
                          n, t->n);
    for (size_t i = 0; i < t->n; i++) {
        int64_t v = TOKEN_NORMAL;
        if (n && (!model_file_array_int(f, "tokenizer.ggml.token_type", i, &v) || v < TOKEN_NORMAL ||
                  v > TOKEN_BYTE))
            return cairn_fail(why, CAIRN_ECORRUPT,
                              "token types are integers 1 to 6: tokenizer.ggml.token_type[%zu] is not; fetch "
                              "the file again",
                              i);
        t->types[i] = (uint8_t)v;
    }
    return CAIRN_OK;
}

/* T5. Leaves *id when the key is absent. */
static enum cairn_err load_id(const struct tokenizer *t, const struct model_file *f, const char *key,
                              int32_t *id, struct cairn_why *why)
{
    int64_t v;
    if (!model_file_int(f, key, &v))
        return CAIRN_OK;
    if (v == -1 || v == UINT32_MAX) {
        *id = -1;
        return CAIRN_OK;
    }
    if (v < 0 || v >= (int64_t)t->n)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "special tokens are in the vocabulary: %s = %" PRId64
                          " of %zu; fetch the file again",
                          key, v, t->n);
    *id = (int32_t)v;
    return CAIRN_OK;
}

static bool is_special(const struct tokenizer *t, size_t id)
{
    return (t->types[id] == TOKEN_CONTROL || t->types[id] == TOKEN_USER) &&
           t->name_at[id + 1] > t->name_at[id];
}

static int longest_first(const void *a, const void *b, void *ctx)
{
    const struct tokenizer *t = ctx;
    struct cairn_str x = token_name(t, *(const int32_t *)a), y = token_name(t, *(const int32_t *)b);
    if (x.p[0] != y.p[0])
        return (unsigned char)x.p[0] < (unsigned char)y.p[0] ? -1 : 1;
    return (x.len < y.len) - (x.len > y.len);
}

static enum cairn_err index_names(struct tokenizer *t, struct cairn_why *why)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) {
        struct cairn_str s = token_name(t, (int32_t)i);
        text_table_put(&t->by_name, s.p, s.len, 0, (int32_t)i, token_name, t);
        n += is_special(t, i);
    }
    t->specials = cairn_arena_alloc(t->arena, (n + 1) * sizeof *t->specials);
    if (!t->specials)
        return tokenizer_out_of_memory(why);
    n = 0;
    for (size_t i = 0; i < t->n; i++)
        if (is_special(t, i))
            t->specials[n++] = (int32_t)i;
    qsort_r(t->specials, n, sizeof *t->specials, longest_first, t);
    size_t at = 0;
    for (unsigned b = 0; b < 256; b++) {
        t->special_at[b] = (uint32_t)at;
        while (at < n && (unsigned char)token_name(t, t->specials[at]).p[0] == b)
            at++;
    }
    t->special_at[256] = (uint32_t)n;
    return CAIRN_OK;
}

/* Control tokens after which nothing sensible follows, whatever the file calls them. */
static void mark_ends(struct tokenizer *t)
{
    static const char *const names[] = {
        "<|im_end|>", "<|endoftext|>", "<|eot_id|>",  "<|eom_id|>",    "<|end_of_text|>",
        "<|end|>",    "<end_of_turn>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int32_t id = tokenizer_find(t, names[i]);
        if (id >= 0 && (t->types[id] == TOKEN_CONTROL || t->types[id] == TOKEN_USER))
            t->ends[id] = 1;
    }
    if (t->eos >= 0)
        t->ends[t->eos] = 1;
}

static enum cairn_err load_specials(struct tokenizer *t, const struct model_file *f, struct cairn_why *why)
{
    bool spm = t->model == TOKENIZER_SPM, bert = t->model == TOKENIZER_WORDPIECE;
    int32_t eot = -1, pad = -1, sep = bert ? tokenizer_find(t, "[SEP]") : -1,
            cls = bert ? tokenizer_find(t, "[CLS]") : -1;
    t->bos = spm && t->n > 1 ? 1 : -1;
    t->eos = spm && t->n > 2 ? 2 : -1;
    t->unk = spm ? 0 : bert ? tokenizer_find(t, "[UNK]") : -1;
    const struct {
        const char *key;
        int32_t *id;
    } ids[] = {
        {"tokenizer.ggml.bos_token_id",       &t->bos},
        {"tokenizer.ggml.eos_token_id",       &t->eos},
        {"tokenizer.ggml.eot_token_id",       &eot   },
        {"tokenizer.ggml.unknown_token_id",   &t->unk},
        {"tokenizer.ggml.padding_token_id",   &pad   },
        {"tokenizer.ggml.cls_token_id",       &cls   },
        {"tokenizer.ggml.separator_token_id", &sep   },
        {"tokenizer.ggml.seperator_token_id", &sep   }, /* as files spell it */
    };
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        enum cairn_err err = load_id(t, f, ids[i].key, ids[i].id, why);
        if (err)
            return err;
    }
    mark_ends(t);
    if (eot >= 0)
        t->ends[eot] = 1;
    for (size_t i = 0; i < t->n; i++) /* or merges could let any text end a turn */
        if (t->ends[i] || (t->types[i] == TOKEN_USER && chat_marks_turns(token_name(t, (int32_t)i))))
            t->types[i] = TOKEN_CONTROL;
    bool add_bos = spm || t->pre == PRE_LLAMA3, add_eos = false;
    t->space_prefix = spm;
    (void)model_file_bool(f, "tokenizer.ggml.add_bos_token", &add_bos);
    (void)model_file_bool(f, "tokenizer.ggml.add_eos_token", &add_eos);
    if (spm)
        (void)model_file_bool(f, "tokenizer.ggml.add_space_prefix", &t->space_prefix);
    t->head = bert ? cls : add_bos ? t->bos : -1;
    t->tail = bert ? sep : add_eos ? t->eos : -1;
    if (bert && (cls < 0 || sep < 0 || t->unk < 0))
        return cairn_fail(
            why, CAIRN_ECORRUPT,
            "a WordPiece vocabulary has [UNK], [CLS] and [SEP]: this one has not; fetch the file again");
    if ((bert || spm) && t->unk >= 0) { /* text gives it, so it may steer nothing */
        if (t->unk == t->head || t->unk == t->tail || t->unk == t->bos || t->ends[t->unk])
            return cairn_fail(
                why, CAIRN_ECORRUPT,
                "token %d is the unknown token and a control token at once: text could begin or "
                "end a turn; convert the file again",
                t->unk);
        t->types[t->unk] = TOKEN_UNKNOWN; /* files call it a control token, but text does give it */
    }
    return CAIRN_OK;
}

static enum cairn_err choose_model(struct tokenizer *t, const struct model_file *f, struct cairn_why *why)
{
    static const struct {
        const char *pre, *kind;
        enum tokenizer_pre id;
    } pres[] = {
        {"gpt-2",     "bpe/gpt-2",  PRE_GPT2  },
        {"smollm",    "bpe/smollm", PRE_SMOLLM},
        {"qwen2",     "bpe/qwen2",  PRE_QWEN2 },
        {"llama-bpe", "bpe/llama3", PRE_LLAMA3}
    };
    struct cairn_str model, pre = {"", 0};
    if (!model_file_string(f, "tokenizer.ggml.model", &model))
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "the file has no tokenizer (tokenizer.ggml.model); convert it with its tokenizer");
    if (model.len == 5 && memcmp(model.p, "llama", 5) == 0) {
        t->model = TOKENIZER_SPM;
        t->kind = "spm";
        return CAIRN_OK;
    }
    if (model.len == 4 && memcmp(model.p, "bert", 4) == 0) {
        t->model = TOKENIZER_WORDPIECE;
        t->kind = "wordpiece";
        t->lower_case = true;
        return CAIRN_OK;
    }
    char shown[65];
    if (model.len != 4 || memcmp(model.p, "gpt2", 4) != 0) {
        snprintf(shown, sizeof shown, "%.*s", (int)(model.len < 64 ? model.len : 64), model.p);
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "tokenizer.ggml.model is gpt2, llama or bert: '%s' is not known here", shown);
    }
    t->model = TOKENIZER_BPE;
    (void)model_file_string(f, "tokenizer.ggml.pre", &pre);
    for (size_t i = 0; i < sizeof pres / sizeof pres[0]; i++) {
        if (pre.len == strlen(pres[i].pre) && memcmp(pre.p, pres[i].pre, pre.len) == 0) {
            t->pre = pres[i].id;
            t->kind = pres[i].kind;
            return CAIRN_OK;
        }
    }
    snprintf(shown, sizeof shown, "%.*s", (int)(pre.len < 64 ? pre.len : 64), pre.p);
    return cairn_fail(
        why, CAIRN_EUNSUPPORTED,
        "tokenizer.ggml.pre is gpt-2, smollm, qwen2 or llama-bpe: '%s' is not known here, and a guess "
        "would give wrong tokens",
        shown);
}

static struct tokenizer *new_tokenizer(void)
{
    struct tokenizer *t = cairn_calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->arena = cairn_arena_new(0);
    if (!t->arena) {
        cairn_free(t);
        return NULL;
    }
    t->bos = t->eos = t->unk = t->head = t->tail = -1;
    memset(t->bytes, 0xff, sizeof t->bytes);
    return t;
}

static enum cairn_err build_gguf(struct tokenizer *t, const struct model_file *f, struct cairn_why *why)
{
    enum cairn_err err = choose_model(t, f, why);
    if (!err)
        err = load_names(t, f, why);
    if (!err)
        err = load_types(t, f, why);
    if (!err)
        err = index_names(t, why);
    if (!err)
        err = load_specials(t, f, why);
    if (err)
        return err;
    return t->model == TOKENIZER_BPE   ? bpe_build(t, f, why)
           : t->model == TOKENIZER_SPM ? spm_build(t, f, why)
                                       : wordpiece_build(t, true, why);
}

enum cairn_err tokenizer_from_gguf(struct tokenizer **out, const struct model_file *f, struct cairn_why *why)
{
    *out = NULL;
    struct tokenizer *t = new_tokenizer();
    if (!t)
        return tokenizer_out_of_memory(why);
    enum cairn_err err = build_gguf(t, f, why);
    if (err) {
        tokenizer_close(t);
        return err;
    }
    *out = t;
    return CAIRN_OK;
}

/* One token a line, numbered from 0. */
static enum cairn_err build_lines(struct tokenizer *t, const char *bytes, size_t len, struct cairn_why *why)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += bytes[i] == '\n';
    n += len > 0 && bytes[len - 1] != '\n';
    if (n < 1 || n > TOKENIZER_VOCAB_MAX || len > TOKENIZER_POOL_MAX)
        return cairn_fail(
            why, CAIRN_ECORRUPT,
            "a vocabulary has 1 to %d lines, at most %d bytes: this one has %zu and %zu; give vocab.txt",
            TOKENIZER_VOCAB_MAX, TOKENIZER_POOL_MAX, n, len);
    enum cairn_err err = alloc_vocab(t, n, len, why);
    if (err)
        return err;
    size_t at = 0, i = 0;
    for (const char *p = bytes, *end = bytes + len; p < end; i++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl ? nl : end, *next = nl ? nl + 1 : end;
        while (stop > p && (stop[-1] == '\r' || stop[-1] == ' '))
            stop--;
        if (stop - p > TOKENIZER_PIECE_MAX)
            return cairn_fail(why, CAIRN_ECORRUPT,
                              "tokens have at most %d bytes: line %zu has %zu; give vocab.txt",
                              TOKENIZER_PIECE_MAX, i + 1, (size_t)(stop - p));
        memcpy(t->names + at, p, (size_t)(stop - p));
        t->name_at[i] = (uint32_t)at;
        at += (size_t)(stop - p);
        t->name_at[i + 1] = (uint32_t)at;
        t->types[i] = TOKEN_NORMAL;
        p = next;
    }
    for (i = 0; i < n; i++) {
        static const char *const controls[] = {"[PAD]", "[CLS]", "[SEP]", "[MASK]"};
        struct cairn_str s = token_name(t, (int32_t)i);
        for (size_t k = 0; k < sizeof controls / sizeof controls[0]; k++)
            if (s.len == strlen(controls[k]) && memcmp(s.p, controls[k], s.len) == 0)
                t->types[i] = TOKEN_CONTROL;
        if (s.len == 5 && memcmp(s.p, "[UNK]", 5) == 0)
            t->types[i] = TOKEN_UNKNOWN;
    }
    err = index_names(t, why);
    if (err)
        return err;
    t->unk = tokenizer_find(t, "[UNK]");
    t->head = tokenizer_find(t, "[CLS]");
    t->tail = tokenizer_find(t, "[SEP]");
    if (t->unk < 0 || t->head < 0 || t->tail < 0)
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "a WordPiece vocabulary has [UNK], [CLS] and [SEP]: this one has not; give the "
                          "vocab.txt of the model");
    return wordpiece_build(t, false, why);
}

enum cairn_err tokenizer_from_wordpiece_bytes(struct tokenizer **out, const char *bytes, size_t len,
                                              bool lower_case, struct cairn_why *why)
{
    *out = NULL;
    struct tokenizer *t = new_tokenizer();
    if (!t)
        return tokenizer_out_of_memory(why);
    t->model = TOKENIZER_WORDPIECE;
    t->kind = "wordpiece";
    t->lower_case = lower_case;
    enum cairn_err err = build_lines(t, bytes, len, why);
    if (err) {
        tokenizer_close(t);
        return err;
    }
    *out = t;
    return CAIRN_OK;
}

enum cairn_err tokenizer_from_wordpiece(struct tokenizer **out, const char *vocab_path, bool lower_case,
                                        struct cairn_why *why)
{
    *out = NULL;
    char *bytes;
    size_t len;
    enum cairn_err err = cairn_read_file(&bytes, &len, vocab_path, TOKENIZER_POOL_MAX, why);
    if (err)
        return err;
    err = tokenizer_from_wordpiece_bytes(out, bytes, len, lower_case, why);
    cairn_free(bytes);
    return err ? cairn_wrap(why, err, "%.200s", vocab_path) : CAIRN_OK;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    cairn_arena_free(t->arena);
    cairn_free(t);
}

/* ---- encoding
 * ------------------------------------------------------------------------------------------------------ */

static enum cairn_err encode_plain(const struct tokenizer *t, struct cairn_str text, struct id_list *l,
                                   struct cairn_why *why)
{
    if (text.len == 0)
        return CAIRN_OK;
    switch (t->model) {
    case TOKENIZER_BPE:
        return bpe_encode(t, text, l, why);
    case TOKENIZER_SPM:
        return spm_encode(t, text, l, why);
    case TOKENIZER_WORDPIECE:
        break;
    }
    return wordpiece_encode(t, text, l, why);
}

/* The special token that text begins with, the longest; -1: none. */
static int32_t special_at(const struct tokenizer *t, struct cairn_str text)
{
    unsigned b = (unsigned char)text.p[0];
    for (uint32_t i = t->special_at[b]; i < t->special_at[b + 1]; i++) {
        struct cairn_str s = token_name(t, t->specials[i]);
        if (s.len <= text.len && memcmp(s.p, text.p, s.len) == 0)
            return t->specials[i];
    }
    return -1;
}

static enum cairn_err encode_parsed(const struct tokenizer *t, struct cairn_str text, struct id_list *l,
                                    struct cairn_why *why)
{
    size_t from = 0, at = 0;
    while (at < text.len) {
        int32_t id = special_at(t, (struct cairn_str){text.p + at, text.len - at});
        if (id < 0) {
            at++;
            continue;
        }
        enum cairn_err err = encode_plain(t, (struct cairn_str){text.p + from, at - from}, l, why);
        if (err)
            return err;
        ids_put(l, id);
        at += token_name(t, id).len;
        from = at;
    }
    return encode_plain(t, (struct cairn_str){text.p + from, text.len - from}, l, why);
}

enum cairn_err tokenizer_encode(const struct tokenizer *t, struct cairn_str text, unsigned flags,
                                int32_t **ids, size_t *n, struct cairn_why *why)
{
    *ids = NULL;
    *n = 0;
    if (text.len > TOKENIZER_TEXT_MAX)
        return cairn_fail(why, CAIRN_EINVAL,
                          "a text to tokenize has at most %d bytes: this one has %zu; split it",
                          TOKENIZER_TEXT_MAX, text.len);
    struct id_list l = {0};
    (void)ids_grow(&l); /* so that no text still gives an array */
    if ((flags & TOKENIZE_ADD_SPECIAL) && t->head >= 0)
        ids_put(&l, t->head);
    enum cairn_err err =
        (flags & TOKENIZE_PARSE_SPECIAL) ? encode_parsed(t, text, &l, why) : encode_plain(t, text, &l, why);
    if ((flags & TOKENIZE_ADD_SPECIAL) && t->tail >= 0)
        ids_put(&l, t->tail);
    if (!err && l.failed)
        err = tokenizer_out_of_memory(why);
    if (err) {
        cairn_free(l.ids);
        return err;
    }
    *ids = l.ids;
    *n = l.n;
    return CAIRN_OK;
}

/* ---- decoding
 * ------------------------------------------------------------------------------------------------------ */

struct cairn_str tokenizer_piece(const struct tokenizer *t, int32_t id, bool with_control)
{
    if (id < 0 || (size_t)id >= t->n)
        return (struct cairn_str){"", 0};
    uint8_t type = t->types[id];
    if (type == TOKEN_CONTROL || type == TOKEN_UNKNOWN || type == TOKEN_UNUSED)
        return with_control ? token_name(t, id) : (struct cairn_str){"", 0};
    return token_piece(t, id);
}

enum cairn_err tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, struct cairn_buf *b,
                                struct cairn_why *why)
{
    bool strip = t->space_prefix || t->model == TOKENIZER_WORDPIECE;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= t->n)
            return cairn_fail(why, CAIRN_EINVAL,
                              "token %" PRId32 " is not in the vocabulary of %zu; send ids of this model",
                              ids[i], t->n);
        struct cairn_str s = tokenizer_piece(t, ids[i], false);
        size_t skip = strip && s.len > 0 && s.p[0] == ' ';
        strip = strip && s.len == 0; /* only the first text loses its space */
        if (!cairn_buf_put(b, s.p + skip, s.len - skip))
            return cairn_fail(why, CAIRN_EFULL,
                              "the text of %zu tokens does not fit in %zu bytes; decode fewer", n, b->max);
    }
    return CAIRN_OK;
}

size_t tokenizer_n_vocab(const struct tokenizer *t) { return t->n; }

int32_t tokenizer_find(const struct tokenizer *t, const char *piece)
{
    return text_table_find(&t->by_name, piece, strlen(piece), 0, token_name, t);
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (size_t)id < t->n && t->types[id] == TOKEN_CONTROL;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (size_t)id < t->n && t->ends[id];
}

const char *tokenizer_kind(const struct tokenizer *t) { return t->kind; }
