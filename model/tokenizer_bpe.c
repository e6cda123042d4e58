/* tokenizer_bpe.c - byte-level BPE of the GPT-2 family: cut the text into words with the model's
 * pre-tokenizer, then merge bytes pair by pair, lowest rank first, leftmost of equals.
 *
 * The pre-tokenizers are regular expressions in the models' own files; here they are scanners over code point
 * classes, which hand each word on as they find it:
 *   gpt-2      's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   smollm     each \p{N} apart, then gpt-2 on what lies between
 *   qwen2      (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|
 *              \s*[\r\n]+|\s+(?!\S)|\s+
 *   llama-bpe  qwen2 with \p{N}{1,3}; a word that is a token is that token, whatever its merges give
 * As in llama.cpp, Qwen2 text is not brought to NFC first (the model's Python tokenizer does that), and a
 * byte that is not UTF-8 counts as U+FFFD. Bytes without a token of their own are dropped, as there.
 *
 * Where the time goes: most words are a token by themselves (one look-up), most others have been met before
 * in the same call (tokenizer_words.h); merging is the rest. tests/unit/tokenizer_plain.h does it all the
 * slow way, to compare. */
#include "tokenizer_heap.h"
#include "tokenizer_words.h"

#include <sys/random.h>
#include <utf8proc.h>

/* ---- classes of code points
 * ------------------------------------------------------------------------------------------ */

enum { CLASS_OTHER, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE, CLASS_END };

static uint8_t class_of_wide(uint32_t cp)
{
    if (cp == 0x85)
        return CLASS_SPACE;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return CLASS_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return CLASS_NUMBER;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return CLASS_SPACE;
    default:
        return CLASS_OTHER;
    }
}

/* Of the first code point at p, and its length; CLASS_END with length 0 at the end. The text is valid. */
static inline uint8_t class_at(const char *p, const char *end, size_t *len)
{
    if (p == end) {
        *len = 0;
        return CLASS_END;
    }
    uint32_t cp = (uint8_t)*p;
    *len = 1;
    if (cp < 128) {
        if ((cp | 32) - 'a' < 26)
            return CLASS_LETTER;
        if (cp - '0' < 10)
            return CLASS_NUMBER;
        return cp == ' ' || cp - '\t' < 5 ? CLASS_SPACE : CLASS_OTHER;
    }
    *len = cairn_utf8_next(p, (size_t)(end - p), &cp);
    return class_of_wide(cp);
}

/* ---- one call's working memory
 * ---------------------------------------------------------------------------------------- */

struct symbol {
    int32_t id; /* -1: a byte without a token; merges with nothing */
    uint32_t prev, next;
};
struct work {
    const struct tokenizer *t;
    struct id_list *out;
    struct word_cache words;
    struct symbol *symbols;
    size_t symbols_cap;
    struct pair_heap heap;
};

#define NONE UINT32_MAX

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= UINT64_C(0xd6e8feb86659fd93);
    x ^= x >> 32;
    x *= UINT64_C(0xd6e8feb86659fd93);
    return x ^ (x >> 32);
}

static const struct merge_slot *find_merge(const struct tokenizer *t, int32_t left, int32_t right)
{
    if (left < 0 || right < 0)
        return NULL;
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)mix(pair + t->merges_seed) & t->merges_mask;
    for (;; i = (i + 1) & t->merges_mask) {
        if (t->merges[i].pair == pair)
            return &t->merges[i];
        if (t->merges[i].pair == UINT64_MAX)
            return NULL;
    }
}

bool bpe_merge(const struct tokenizer *t, int32_t left, int32_t right, int32_t *rank, int32_t *id)
{
    const struct merge_slot *m = find_merge(t, left, right);
    if (m) {
        *rank = m->rank;
        *id = m->id;
    }
    return m != NULL;
}

/* ---- merging
 * -----------------------------------------------------------------------------------------------------------
 */

enum { SHORT_WORD = 24 }; /* up to here looking at all pairs is cheaper than a heap */

static void merge_short(struct work *w, const uint8_t *p, size_t n)
{
    const struct tokenizer *t = w->t;
    int32_t ids[SHORT_WORD], ranks[SHORT_WORD], joined[SHORT_WORD]; /* of i and i + 1 */
    for (size_t i = 0; i < n; i++)
        ids[i] = t->bytes[p[i]];
    for (size_t i = 0; i + 1 < n; i++)
        if (!bpe_merge(t, ids[i], ids[i + 1], &ranks[i], &joined[i]))
            ranks[i] = INT32_MAX;
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            best = ranks[i] < ranks[best] ? i : best;
        if (ranks[best] == INT32_MAX)
            break;
        ids[best] = joined[best];
        n--;
        for (size_t i = best + 1; i < n; i++)
            ids[i] = ids[i + 1];
        for (size_t i = best + 1; i + 1 < n; i++) {
            ranks[i] = ranks[i + 1];
            joined[i] = joined[i + 1];
        }
        if (best > 0 && !bpe_merge(t, ids[best - 1], ids[best], &ranks[best - 1], &joined[best - 1]))
            ranks[best - 1] = INT32_MAX;
        if (best + 1 < n && !bpe_merge(t, ids[best], ids[best + 1], &ranks[best], &joined[best]))
            ranks[best] = INT32_MAX;
    }
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= 0)
            ids_put(w->out, ids[i]);
}

static bool push_pair(struct work *w, uint32_t left, uint32_t right)
{
    if (left == NONE || right == NONE)
        return true;
    const struct merge_slot *m = find_merge(w->t, w->symbols[left].id, w->symbols[right].id);
    return !m || heap_push(&w->heap, (struct pair){.order = (float)m->rank,
                                                   .left = left,
                                                   .right = right,
                                                   .left_id = w->symbols[left].id,
                                                   .right_id = w->symbols[right].id,
                                                   .id = m->id});
}

static bool merge_long(struct work *w, const uint8_t *p, size_t n)
{
    if (n > w->symbols_cap) {
        struct symbol *symbols = cairn_reallocarray(w->symbols, n, sizeof *symbols);
        if (!symbols)
            return false;
        w->symbols = symbols;
        w->symbols_cap = n;
    }
    struct symbol *s = w->symbols;
    for (uint32_t i = 0; i < n; i++)
        s[i] = (struct symbol){w->t->bytes[p[i]], i ? i - 1 : NONE, i + 1 < n ? i + 1 : NONE};
    w->heap.n = 0;
    for (uint32_t i = 0; i + 1 < n; i++)
        if (!push_pair(w, i, i + 1))
            return false;
    while (w->heap.n > 0) {
        struct pair m = heap_pop(&w->heap);
        if (s[m.left].next != m.right || s[m.left].id != m.left_id || s[m.right].id != m.right_id)
            continue; /* one side has been merged away since */
        s[m.left].id = m.id;
        s[m.right].id = -2; /* gone: no later pair may find it */
        s[m.left].next = s[m.right].next;
        if (s[m.right].next != NONE)
            s[s[m.right].next].prev = m.left;
        if (!push_pair(w, s[m.left].prev, m.left) || !push_pair(w, m.left, s[m.left].next))
            return false;
    }
    for (uint32_t i = 0; i != NONE && i < n; i = s[i].next)
        if (s[i].id >= 0)
            ids_put(w->out, s[i].id);
    return true;
}

static bool put_word(struct work *w, const char *p, const char *to)
{
    const struct tokenizer *t = w->t;
    size_t n = (size_t)(to - p), first = w->out->n;
    if (words_put(&w->words, p, n, w->out))
        return true;
    int32_t id = n <= t->longest ? text_table_find(&t->by_piece, p, n, 0, token_piece, t) : -1;
    if (is_whole(t, id)) {
        ids_put(w->out, id);
    } else {
        if (n <= SHORT_WORD)
            merge_short(w, (const uint8_t *)p, n);
        else if (!merge_long(w, (const uint8_t *)p, n))
            return false;
        note_whole(t, id, w->out, first);
    }
    words_keep(&w->words, p, n, w->out, first);
    return true;
}

/* ---- pre-tokenizers: where the word at p ends
 * ---------------------------------------------------------------------------------------------------- */

/* Bytes of an English contraction at p, 0: none. */
static size_t contraction(const char *p, const char *end, bool any_case)
{
    if (*p != '\'' || end - p < 2)
        return 0;
    char fold = any_case ? 32 : 0; /* only letters are compared, and nothing else lands on one of them */
    char a = (char)(p[1] | fold), b = end - p > 2 ? (char)(p[2] | fold) : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

static const char *run_of(const char *p, const char *end, uint8_t class)
{
    size_t len;
    while (class_at(p, end, &len) == class)
        p += len;
    return p;
}

/* \s+(?!\S): all of a run that ends the text, else all but its last, which goes with the word after it. */
static const char *scan_space(const char *p, const char *end, bool digits_apart)
{
    const char *last = p;
    size_t len, n = 0;
    uint8_t class;
    for (; (class = class_at(p, end, &len)) == CLASS_SPACE; p += len, n++)
        last = p;
    return n < 2 || class == CLASS_END || (digits_apart && class == CLASS_NUMBER) ? p : last;
}

static const char *scan_gpt2(const char *p, const char *end, bool digits_apart)
{
    size_t len, next_len, n = contraction(p, end, false);
    if (n)
        return p + n;
    uint8_t class = class_at(p, end, &len);
    if (digits_apart && class == CLASS_NUMBER)
        return p + len;
    if (*p == ' ') {
        uint8_t next = class_at(p + 1, end, &next_len);
        if (next != CLASS_SPACE && next != CLASS_END && !(digits_apart && next == CLASS_NUMBER))
            return run_of(p + 1 + next_len, end, next);
    }
    return class == CLASS_SPACE ? scan_space(p, end, digits_apart) : run_of(p + len, end, class);
}

static bool is_newline(char c) { return c == '\r' || c == '\n'; }

static const char *scan_qwen2(const char *p, const char *end, unsigned n_digits)
{
    size_t len, next_len, n = contraction(p, end, true);
    if (n)
        return p + n;
    uint8_t class = class_at(p, end, &len);
    if (class == CLASS_LETTER)
        return run_of(p + len, end, CLASS_LETTER);
    if (class == CLASS_NUMBER) {
        for (unsigned i = 0; i < n_digits && class_at(p, end, &len) == CLASS_NUMBER; i++)
            p += len;
        return p;
    }
    uint8_t next = class_at(p + len, end, &next_len);
    if (next == CLASS_LETTER && !is_newline(*p))
        return run_of(p + len + next_len, end, CLASS_LETTER);
    if (class == CLASS_OTHER || (*p == ' ' && next == CLASS_OTHER)) {
        p = run_of(p + len, end, CLASS_OTHER);
        while (p < end && is_newline(*p))
            p++;
        return p;
    }
    const char *to = run_of(p, end, CLASS_SPACE), *newline = to;
    while (newline > p && !is_newline(newline[-1]))
        newline--;
    return newline > p ? newline : scan_space(p, end, false);
}

/* ---- encoding
 * ------------------------------------------------------------------------------------------------------------
 */

/* The text with U+FFFD for each byte that is not UTF-8; OWNED, NULL on no memory. */
static char *mend(struct cairn_str *text)
{
    char *bytes = cairn_malloc(text->len * 3);
    size_t at = 0;
    for (size_t i = 0; bytes && i < text->len;) {
        uint32_t cp;
        size_t len = cairn_utf8_next(text->p + i, text->len - i, &cp);
        memcpy(bytes + at, len ? text->p + i : "\xef\xbf\xbd", len ? len : 3);
        at += len ? len : 3;
        i += len ? len : 1;
    }
    *text = (struct cairn_str){bytes, at};
    return bytes;
}

enum cairn_err bpe_encode(const struct tokenizer *t, struct cairn_str text, struct id_list *l,
                          struct cairn_why *why)
{
    _Static_assert((uint64_t)TOKENIZER_TEXT_MAX * 3 < UINT32_MAX, "offsets are 32 bit");
    struct work w = {.t = t, .out = l};
    char *mended = NULL;
    bool ok = cairn_utf8_invalid_at(text.p, text.len) == text.len || (mended = mend(&text));
    ok = ok && words_open(&w.words, text.p, text.len);
    for (const char *p = text.p, *end = text.p + text.len, *to; ok && p < end; p = to) {
        to = t->pre == PRE_QWEN2    ? scan_qwen2(p, end, 1)
             : t->pre == PRE_LLAMA3 ? scan_qwen2(p, end, 3)
                                    : scan_gpt2(p, end, t->pre == PRE_SMOLLM);
        ok = put_word(&w, p, to);
    }
    words_close(&w.words);
    cairn_free(mended);
    cairn_free(w.symbols);
    cairn_free(w.heap.pairs);
    return ok && !l->failed ? CAIRN_OK : tokenizer_out_of_memory(why);
}

/* ---- building
 * -------------------------------------------------------------------------------------------------------------
 */

/* GPT-2 writes bytes as printable characters: those that are printable stay, the others become U+0100 and up,
 * in order. */
static uint32_t char_of_byte(unsigned b)
{
    static const struct {
        unsigned from, to;
    } same[] = {
        {33,  126},
        {161, 172},
        {174, 255}
    };
    uint32_t next = 256;
    for (unsigned i = 0; i <= b; i++) {
        bool keep = false;
        for (size_t k = 0; k < 3; k++)
            keep |= i >= same[k].from && i <= same[k].to;
        if (i == b)
            return keep ? i : next;
        next += !keep;
    }
    return 0; /* not reached */
}

static enum cairn_err build_pieces(struct tokenizer *t, struct cairn_why *why)
{
    int16_t byte_of[512];
    memset(byte_of, 0xff, sizeof byte_of);
    for (unsigned b = 0; b < 256; b++)
        byte_of[char_of_byte(b)] = (int16_t)b;
    t->pieces = cairn_arena_alloc(t->arena, t->name_at[t->n] + 1); /* never longer than the name */
    t->piece_at = cairn_arena_alloc(t->arena, (t->n + 1) * sizeof *t->piece_at);
    if (!t->pieces || !t->piece_at)
        return tokenizer_out_of_memory(why);
    size_t at = 0;
    for (size_t i = 0; i < t->n; i++) {
        struct cairn_str s = token_name(t, (int32_t)i);
        size_t start = at;
        bool mapped = t->types[i] == TOKEN_NORMAL || t->types[i] == TOKEN_UNUSED;
        for (size_t k = 0, len; mapped && k < s.len; k += len) {
            uint32_t cp = 0;
            len = cairn_utf8_next(s.p + k, s.len - k, &cp);
            mapped = len > 0 && cp < 512 && byte_of[cp] >= 0;
            if (mapped)
                t->pieces[at++] = (char)byte_of[cp];
        }
        if (!mapped) {
            at = start;
            memcpy(t->pieces + at, s.p, s.len);
            at += s.len;
        }
        t->piece_at[i + 1] = (uint32_t)at;
    }
    for (unsigned b = 0; b < 256; b++) {
        uint32_t cp = char_of_byte(b);
        char name[3] = {(char)cp, 0, 0};
        if (cp >= 128) {
            name[0] = (char)(0xc0 | cp >> 6);
            name[1] = (char)(0x80 | (cp & 63));
        }
        int32_t id = tokenizer_find(t, name);
        t->bytes[b] = id >= 0 && t->types[id] == TOKEN_NORMAL ? id : -1;
    }
    t->whole = cairn_arena_alloc(t->arena, t->n * sizeof *t->whole);
    if (!t->whole)
        return tokenizer_out_of_memory(why);
    enum cairn_err err = text_table_init(&t->by_piece, t->arena, t->n, why);
    for (size_t i = 0; i < t->n && !err; i++) {
        struct cairn_str s = token_piece(t, (int32_t)i);
        if (t->types[i] != TOKEN_NORMAL || s.len == 0)
            continue;
        text_table_put(&t->by_piece, s.p, s.len, 0, (int32_t)i, token_piece, t);
        t->longest = s.len > t->longest ? s.len : t->longest;
        if (t->pre == PRE_LLAMA3)
            atomic_store_explicit(&t->whole[i], WHOLE_YES, memory_order_relaxed);
    }
    return err;
}

static int32_t find_part(const struct tokenizer *t, const char *p, size_t len)
{
    int32_t id = text_table_find(&t->by_name, p, len, 0, token_name, t);
    /* a merge that forms a control token would let any text spell one */
    return id >= 0 && t->types[id] != TOKEN_CONTROL ? id : -1;
}

enum cairn_err bpe_build(struct tokenizer *t, const struct model_file *f, struct cairn_why *why)
{
    enum cairn_err err = build_pieces(t, why);
    if (err)
        return err;
    size_t n = model_file_array_len(f, "tokenizer.ggml.merges"), cap = 16;
    if (n < 1 || n > TOKENIZER_MERGES_MAX)
        return cairn_fail(
            why, CAIRN_ECORRUPT,
            "a BPE vocabulary has 1 to %d merges: tokenizer.ggml.merges has %zu; fetch the file again",
            TOKENIZER_MERGES_MAX, n);
    while (cap < n * 2)
        cap *= 2;
    t->merges = cairn_arena_alloc(t->arena, cap * sizeof *t->merges);
    char *joined = cairn_arena_alloc(t->arena, TOKENIZER_PIECE_MAX + 1);
    if (!t->merges || !joined)
        return tokenizer_out_of_memory(why);
    memset(t->merges, 0xff, cap * sizeof *t->merges);
    t->merges_mask = cap - 1;
    if (getrandom(&t->merges_seed, sizeof t->merges_seed, GRND_NONBLOCK) < 0)
        t->merges_seed = (uint64_t)(uintptr_t)t->merges;
    for (size_t i = 0; i < n; i++) {
        struct cairn_str s;
        int32_t left = -1, right = -1, id = -1;
        const char *space = NULL;
        if (model_file_array_string(f, "tokenizer.ggml.merges", i, &s) && s.len >= 3 &&
            s.len <= TOKENIZER_PIECE_MAX)
            space = memchr(s.p + 1, ' ', s.len - 1);
        if (space) {
            size_t a = (size_t)(space - s.p), b = s.len - a - 1;
            memcpy(joined, s.p, a);
            memcpy(joined + a, space + 1, b);
            left = find_part(t, s.p, a);
            right = find_part(t, space + 1, b);
            id = find_part(t, joined, a + b);
        }
        if (left < 0 || right < 0 || id < 0)
            return cairn_fail(why, CAIRN_ECORRUPT,
                              "merges join two tokens into a third: tokenizer.ggml.merges[%zu] does not; "
                              "fetch the file again",
                              i);
        uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
        size_t at = (size_t)mix(pair + t->merges_seed) & t->merges_mask;
        while (t->merges[at].pair != UINT64_MAX && t->merges[at].pair != pair)
            at = (at + 1) & t->merges_mask;
        if (t->merges[at].pair == UINT64_MAX) /* the first of equals counts */
            t->merges[at] = (struct merge_slot){pair, (int32_t)i, id};
    }
    return CAIRN_OK;
}
