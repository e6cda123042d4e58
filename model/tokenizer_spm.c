/* tokenizer_spm.c - SentencePiece-style BPE (Llama, Mistral): spaces become U+2581, one is put before the
 * text, then of all neighbours whose concatenation is a token the pair with the highest score merges first,
 * the leftmost of equals. Code points without a token become their byte tokens. Only normal and user-defined
 * tokens can be formed: text never spells a control token. A heap and a linked list: n log n in the length of
 * what is merged.
 *
 * The algorithm knows no words, but where two bytes meet that stand side by side in no token, no merge can
 * reach across: there the text is cut, and the words are merged one by one; those met before are copied
 * (tokenizer_words.h). tests/unit/tokenizer_plain.h merges whole texts, to compare. */
#include "tokenizer_heap.h"
#include "tokenizer_words.h"

#include <math.h>

#define SPACE "\xe2\x96\x81"
#define NONE UINT32_MAX

struct symbol {
    uint32_t at, len; /* bytes; len 0: merged away */
    uint32_t prev, next;
};
struct work {
    const struct tokenizer *t;
    char *bytes;
    struct symbol *symbols;
    struct pair_heap heap;
};

static int32_t find_piece(const struct tokenizer *t, const char *p, size_t len)
{
    return len <= t->longest ? text_table_find(&t->by_piece, p, len, 0, token_name, t) : -1;
}

/* Whether some token has the two side by side. */
static inline bool joined(const struct tokenizer *t, uint8_t a, uint8_t b)
{
    unsigned i = (unsigned)a << 8 | b;
    return t->joined[i >> 6] >> (i & 63) & 1;
}

static float pair_score(const struct work *w, const struct symbol *a, const struct symbol *b)
{
    const char *p = w->bytes + a->at;
    if (!joined(w->t, (uint8_t)p[a->len - 1], (uint8_t)p[a->len]))
        return -INFINITY;
    int32_t id = find_piece(w->t, p, a->len + b->len);
    return id < 0 ? -INFINITY : w->t->scores[id];
}

static bool push_pair(struct work *w, uint32_t left, uint32_t right)
{
    if (left == NONE || right == NONE)
        return true;
    uint32_t len = w->symbols[left].len + w->symbols[right].len;
    int32_t id = find_piece(w->t, w->bytes + w->symbols[left].at, len);
    return id < 0 ||
           heap_push(&w->heap,
                     (struct pair){.order = -w->t->scores[id], .left = left, .right = right, .len = len});
}

static bool merge_all(struct work *w, uint32_t n)
{
    struct symbol *s = w->symbols;
    for (uint32_t i = 0; i + 1 < n; i++)
        if (!push_pair(w, i, i + 1))
            return false;
    while (w->heap.n > 0) {
        struct pair p = heap_pop(&w->heap);
        if (!s[p.left].len || !s[p.right].len || s[p.left].len + s[p.right].len != p.len)
            continue; /* one side has grown or gone since */
        s[p.left].len = p.len;
        s[p.right].len = 0;
        s[p.left].next = s[p.right].next;
        if (s[p.right].next != NONE)
            s[s[p.right].next].prev = p.left;
        if (!push_pair(w, s[p.left].prev, p.left) || !push_pair(w, p.left, s[p.left].next))
            return false;
    }
    return true;
}

enum { SHORT_WORD = 16 }; /* symbols; up to here looking at all pairs is cheaper than a heap */

/* Leaves the ends of the merged symbols in .next and their lengths, as merge_all() does. */
static void merge_short(struct work *w, uint32_t n)
{
    struct symbol *s = w->symbols;
    float scores[SHORT_WORD]; /* of i and i + 1; -INFINITY: no token */
    uint32_t left = n;
    for (uint32_t i = 0; i + 1 < n; i++)
        scores[i] = pair_score(w, &s[i], &s[i + 1]);
    while (left > 1) {
        uint32_t best = 0;
        for (uint32_t i = 1; i + 1 < left; i++)
            best = scores[i] > scores[best] ? i : best;
        if (scores[best] == -INFINITY)
            break;
        s[best].len += s[best + 1].len;
        left--;
        for (uint32_t i = best + 1; i < left; i++)
            s[i] = s[i + 1];
        for (uint32_t i = best + 1; i + 1 < left; i++)
            scores[i] = scores[i + 1];
        if (best > 0)
            scores[best - 1] = pair_score(w, &s[best - 1], &s[best]);
        if (best + 1 < left)
            scores[best] = pair_score(w, &s[best], &s[best + 1]);
    }
    for (uint32_t i = 0; i < left; i++)
        s[i].next = i + 1 < left ? i + 1 : NONE;
}

static void put_symbol(const struct work *w, const struct symbol *s, struct id_list *l)
{
    int32_t id = find_piece(w->t, w->bytes + s->at, s->len);
    if (id >= 0) {
        ids_put(l, id);
        return;
    }
    for (uint32_t i = 0; i < s->len; i++) {
        id = w->t->bytes[(uint8_t)w->bytes[s->at + i]];
        if (id < 0)
            id = w->t->unk;
        if (id >= 0)
            ids_put(l, id);
    }
}

/* Merges text, a word or the whole, with U+2581 in front when prefix. */
static bool put_text(struct work *w, const char *p, size_t text_len, bool prefix, struct id_list *l)
{
    size_t len = 0, n = 0;
    for (size_t i = 0, step; i < text_len + prefix; i += step) {
        size_t at = i - prefix; /* in the text; before it for the prefix */
        uint32_t start = (uint32_t)len, cp;
        step = 1;
        if ((prefix && i == 0) || p[at] == ' ') {
            memcpy(w->bytes + len, SPACE, 3);
            len += 3;
        } else {
            step = cairn_utf8_next(p + at, text_len - at, &cp);
            step += step == 0; /* a stray byte stands alone */
            memcpy(w->bytes + len, p + at, step);
            len += step;
        }
        w->symbols[n] =
            (struct symbol){start, (uint32_t)len - start, n ? (uint32_t)n - 1 : NONE, (uint32_t)n + 1};
        n++;
    }
    w->symbols[n - 1].next = NONE; /* the text is not empty, so neither is this */
    size_t first = l->n;
    int32_t whole = find_piece(w->t, w->bytes, len);
    if (is_whole(w->t, whole)) {
        ids_put(l, whole);
        return true;
    }
    if (n <= SHORT_WORD)
        merge_short(w, (uint32_t)n);
    else if (!merge_all(w, (uint32_t)n))
        return false;
    for (uint32_t i = 0; i != NONE; i = w->symbols[i].next)
        put_symbol(w, &w->symbols[i], l);
    note_whole(w->t, whole, l, first);
    return true;
}

/* The end of the word at p. A space counts as U+2581, whose bytes are e2 96 81. Never inside a code point. */
static const char *word_end(const struct tokenizer *t, const char *p, const char *end)
{
    uint8_t before = (uint8_t)*p == ' ' ? 0x81 : (uint8_t)*p;
    while (++p < end) {
        bool space = *p == ' ';
        uint8_t b = space ? 0xe2 : (uint8_t)*p;
        if (!joined(t, before, b) && (b & 0xc0) != 0x80)
            break;
        before = space ? 0x81 : b;
    }
    return p;
}

enum cairn_err spm_encode(const struct tokenizer *t, struct cairn_str text, struct id_list *l,
                          struct cairn_why *why)
{
    bool ok, prefix = t->space_prefix;
    size_t longest = 0; /* bytes to merge at once */
    for (const char *p = text.p, *end = p + text.len, *to; p < end; p = to) {
        to = word_end(t, p, end);
        longest = (size_t)(to - p) > longest ? (size_t)(to - p) : longest;
    }
    struct work w = {.t = t};
    struct word_cache cache = {0};
    w.bytes = cairn_malloc(longest * 3 + 3); /* a space becomes three bytes */
    w.symbols = cairn_reallocarray(NULL, longest + 1, sizeof *w.symbols);
    ok = w.bytes && w.symbols && words_open(&cache, text.p, text.len);
    for (const char *p = text.p, *end = p + text.len, *to; ok && p < end; p = to, prefix = false) {
        to = word_end(t, p, end);
        size_t first = l->n;
        if (prefix) {
            ok = put_text(&w, p, (size_t)(to - p), true, l);
        } else if (!words_put(&cache, p, (size_t)(to - p), l)) {
            ok = put_text(&w, p, (size_t)(to - p), false, l);
            words_keep(&cache, p, (size_t)(to - p), l, first);
        }
    }
    words_close(&cache);
    cairn_free(w.bytes);
    cairn_free(w.symbols);
    cairn_free(w.heap.pairs);
    return ok && !l->failed ? CAIRN_OK : tokenizer_out_of_memory(why);
}

/* ---- building
 * -------------------------------------------------------------------------------------------------------------
 */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* The byte of "<0xNN>", or -1. */
static int byte_of_name(struct cairn_str s)
{
    if (s.len != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>')
        return -1;
    int hi = hex_digit(s.p[3]), lo = hex_digit(s.p[4]);
    return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}

enum cairn_err spm_build(struct tokenizer *t, const struct model_file *f, struct cairn_why *why)
{
    size_t n = model_file_array_len(f, "tokenizer.ggml.scores");
    if (n != t->n)
        return cairn_fail(
            why, CAIRN_ECORRUPT,
            "there are as many scores as tokens: tokenizer.ggml.scores has %zu for %zu; fetch the file again",
            n, t->n);
    t->scores = cairn_arena_alloc(t->arena, n * sizeof *t->scores);
    t->pieces = cairn_arena_alloc(t->arena, t->name_at[t->n] + 1);
    t->piece_at = cairn_arena_alloc(t->arena, (t->n + 1) * sizeof *t->piece_at);
    t->whole = cairn_arena_alloc(t->arena, n * sizeof *t->whole);
    t->joined = cairn_arena_alloc(t->arena, 65536 / 8);
    if (!t->scores || !t->pieces || !t->piece_at || !t->whole || !t->joined)
        return tokenizer_out_of_memory(why);
    enum cairn_err err = text_table_init(&t->by_piece, t->arena, n, why);
    size_t at = 0;
    for (size_t i = 0; i < n && !err; i++) {
        double score;
        struct cairn_str s = token_name(t, (int32_t)i);
        if (!model_file_array_float(f, "tokenizer.ggml.scores", i, &score) || !isfinite(score))
            return cairn_fail(
                why, CAIRN_ECORRUPT,
                "scores are finite floats: tokenizer.ggml.scores[%zu] is not; fetch the file again", i);
        t->scores[i] = (float)score;
        if (t->types[i] == TOKEN_BYTE) {
            int b = byte_of_name(s);
            if (b < 0)
                return cairn_fail(
                    why, CAIRN_ECORRUPT,
                    "byte tokens read <0xNN>: tokenizer.ggml.tokens[%zu] does not; fetch the file again", i);
            t->bytes[b] = (int32_t)i;
            t->pieces[at++] = (char)b;
        } else {
            for (size_t k = 0; k < s.len;) {
                bool space = s.len - k >= 3 && memcmp(s.p + k, SPACE, 3) == 0;
                t->pieces[at++] = space ? ' ' : s.p[k];
                k += space ? 3 : 1;
            }
        }
        t->piece_at[i + 1] = (uint32_t)at;
        if (s.len > 0 && (t->types[i] == TOKEN_NORMAL || t->types[i] == TOKEN_USER)) {
            text_table_put(&t->by_piece, s.p, s.len, 0, (int32_t)i, token_name, t);
            t->longest = s.len > t->longest ? s.len : t->longest;
            for (size_t k = 1; k < s.len; k++) {
                unsigned two = (unsigned)(uint8_t)s.p[k - 1] << 8 | (uint8_t)s.p[k];
                t->joined[two >> 6] |= UINT64_C(1) << (two & 63);
            }
        }
    }
    return err;
}
