/* tokenizer_bpe.c - byte-level BPE of the GPT-2 family: cut the text into words with the model's
 * pre-tokenizer, then merge bytes pair by pair, lowest rank first, leftmost of equals.
 *
 * The pre-tokenizers are regular expressions in the models' own files; here they are scanners over code point
 * classes: gpt-2   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ smollm  each
 * \p{N} apart, then gpt-2 on what lies between qwen2
 * (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|
 * ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ As in llama.cpp, Qwen2 text is not brought to NFC first
 * (the model's Python tokenizer does that), and a byte that is not UTF-8 counts as U+FFFD. Bytes without a
 * token of their own are dropped, as there. */
#include "tokenizer.h"

#include <sys/random.h>
#include <utf8proc.h>

/* ---- classes of code points
 * ------------------------------------------------------------------------------------------ */

enum { CLASS_OTHER, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE, CLASS_END };

static uint8_t class_of(uint32_t cp)
{
    if (cp < 128) {
        if ((cp | 32) - 'a' < 26)
            return CLASS_LETTER;
        if (cp - '0' < 10)
            return CLASS_NUMBER;
        return cp == ' ' || cp - '\t' < 5 ? CLASS_SPACE : CLASS_OTHER;
    }
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

/* ---- one call's working memory
 * ---------------------------------------------------------------------------------------- */

struct symbol {
    int32_t id; /* -1: a byte without a token; merges with nothing */
    uint32_t prev, next;
};
struct pair {
    int32_t rank, left_id, right_id, id;
    uint32_t left, right;
};
struct work {
    const struct tokenizer *t;
    struct id_list *out;
    char *bytes;      /* the text, valid UTF-8 */
    uint32_t *at;     /* n + 1 offsets of code points in bytes */
    uint32_t *cps;    /* code points */
    uint8_t *classes; /* n + 1; the last is CLASS_END */
    struct symbol *symbols;
    size_t symbols_cap;
    struct pair *heap;
    size_t n_heap, heap_cap;
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

/* ---- merging
 * -----------------------------------------------------------------------------------------------------------
 */

enum { SHORT_WORD = 24 }; /* up to here looking at all pairs is cheaper than a heap */

static void merge_short(struct work *w, const uint8_t *p, size_t n)
{
    const struct tokenizer *t = w->t;
    int32_t ids[SHORT_WORD];
    const struct merge_slot *pairs[SHORT_WORD]; /* of i and i + 1 */
    for (size_t i = 0; i < n; i++)
        ids[i] = t->bytes[p[i]];
    for (size_t i = 0; i + 1 < n; i++)
        pairs[i] = find_merge(t, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = n;
        for (size_t i = 0; i + 1 < n; i++)
            if (pairs[i] && (best == n || pairs[i]->rank < pairs[best]->rank))
                best = i;
        if (best == n)
            break;
        ids[best] = pairs[best]->id;
        n--;
        memmove(&ids[best + 1], &ids[best + 2], (n - best - 1) * sizeof *ids);
        if (best + 1 < n)
            memmove(&pairs[best + 1], &pairs[best + 2], (n - best - 2) * sizeof *pairs);
        if (best > 0)
            pairs[best - 1] = find_merge(t, ids[best - 1], ids[best]);
        if (best + 1 < n)
            pairs[best] = find_merge(t, ids[best], ids[best + 1]);
    }
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= 0)
            ids_put(w->out, ids[i]);
}

static bool before(const struct pair *a, const struct pair *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static bool heap_push(struct work *w, struct pair p)
{
    if (w->n_heap == w->heap_cap) {
        size_t cap = w->heap_cap ? w->heap_cap * 2 : 256;
        struct pair *heap = cairn_reallocarray(w->heap, cap, sizeof *heap);
        if (!heap)
            return false;
        w->heap = heap;
        w->heap_cap = cap;
    }
    size_t i = w->n_heap++;
    for (; i > 0 && before(&p, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = p;
    return true;
}

static struct pair heap_pop(struct work *w)
{
    struct pair top = w->heap[0], last = w->heap[--w->n_heap];
    size_t i = 0;
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= w->n_heap)
            break;
        c += c + 1 < w->n_heap && before(&w->heap[c + 1], &w->heap[c]);
        if (!before(&w->heap[c], &last))
            break;
        w->heap[i] = w->heap[c];
        i = c;
    }
    w->heap[i] = last;
    return top;
}

static bool push_pair(struct work *w, uint32_t left, uint32_t right)
{
    if (left == NONE || right == NONE)
        return true;
    const struct merge_slot *m = find_merge(w->t, w->symbols[left].id, w->symbols[right].id);
    return !m || heap_push(w, (struct pair){m->rank, w->symbols[left].id, w->symbols[right].id, m->id, left,
                                            right});
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
    w->n_heap = 0;
    for (uint32_t i = 0; i + 1 < n; i++)
        if (!push_pair(w, i, i + 1))
            return false;
    while (w->n_heap > 0) {
        struct pair m = heap_pop(w);
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

/* The word of code points [from, to). */
static bool put_word(struct work *w, size_t from, size_t to)
{
    const uint8_t *p = (const uint8_t *)w->bytes + w->at[from];
    size_t n = w->at[to] - w->at[from];
    if (n <= SHORT_WORD) {
        merge_short(w, p, n);
        return true;
    }
    return merge_long(w, p, n);
}

/* ---- pre-tokenizers
 * ---------------------------------------------------------------------------------------------------- */

/* Code points of an English contraction at i, 0: none. */
static size_t contraction(const struct work *w, size_t i, size_t end, bool any_case)
{
    if (w->cps[i] != '\'' || i + 1 >= end)
        return 0;
    uint32_t a = w->cps[i + 1], b = i + 2 < end ? w->cps[i + 2] : 0;
    if (any_case && a < 128)
        a |= 32; /* letters only are compared, and no other ASCII character lands on one of them */
    if (any_case && b < 128)
        b |= 32;
    if (any_case && (w->classes[i + 1] != CLASS_LETTER))
        return 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if (i + 2 < end && ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')))
        return w->classes[i + 2] == CLASS_LETTER ? 3 : 0;
    return 0;
}

static size_t run_of(const struct work *w, size_t i, size_t end, uint8_t class)
{
    while (i < end && w->classes[i] == class)
        i++;
    return i;
}

static bool scan_gpt2(struct work *w, size_t i, size_t end)
{
    while (i < end) {
        size_t to, start = i;
        if ((to = contraction(w, i, end, false))) {
            i += to;
        } else {
            size_t first = w->cps[i] == ' ' && i + 1 < end ? i + 1 : i;
            uint8_t class = w->classes[first];
            if (class != CLASS_SPACE) {
                i = run_of(w, first, end, class);
            } else {
                to = run_of(w, i, end, CLASS_SPACE);
                i = to < end && to - i > 1 ? to - 1 : to; /* the last space goes with the word after it */
            }
        }
        if (!put_word(w, start, i))
            return false;
    }
    return true;
}

static bool scan_smollm(struct work *w, size_t i, size_t end)
{
    while (i < end) {
        size_t to = i;
        while (to < end && w->classes[to] != CLASS_NUMBER)
            to++;
        if (!scan_gpt2(w, i, to))
            return false;
        for (i = to; i < end && w->classes[i] == CLASS_NUMBER; i++)
            if (!put_word(w, i, i + 1))
                return false;
    }
    return true;
}

static bool is_newline(uint32_t cp) { return cp == '\r' || cp == '\n'; }

static size_t scan_qwen2_space(const struct work *w, size_t i, size_t end)
{
    size_t to = run_of(w, i, end, CLASS_SPACE), newline = 0;
    for (size_t k = i; k < to; k++)
        if (is_newline(w->cps[k]))
            newline = k + 1;
    if (newline)
        return newline;
    return to < end && to - i > 1 ? to - 1 : to;
}

static bool scan_qwen2(struct work *w, size_t i, size_t end)
{
    while (i < end) {
        size_t start = i, n = contraction(w, i, end, true);
        uint8_t class = w->classes[i], next = w->classes[i + 1]; /* CLASS_END after the last */
        if (n) {
            i += n;
        } else if (class == CLASS_LETTER ||
                   (next == CLASS_LETTER && class != CLASS_NUMBER && !is_newline(w->cps[i]))) {
            i = run_of(w, i + 1, end, CLASS_LETTER);
        } else if (class == CLASS_NUMBER) {
            i++;
        } else if (class == CLASS_OTHER || (w->cps[i] == ' ' && next == CLASS_OTHER)) {
            i = run_of(w, i + (class != CLASS_OTHER), end, CLASS_OTHER);
            while (i < end && is_newline(w->cps[i]))
                i++;
        } else {
            i = scan_qwen2_space(w, i, end);
        }
        if (!put_word(w, start, i))
            return false;
    }
    return true;
}

/* ---- encoding
 * ------------------------------------------------------------------------------------------------------------
 */

/* Fills bytes, at, cps, classes; returns the number of code points. */
static size_t decode(struct work *w, struct cairn_str text)
{
    size_t n = 0, at = 0;
    for (size_t i = 0; i < text.len; n++) {
        uint32_t cp;
        size_t len = cairn_utf8_next(text.p + i, text.len - i, &cp);
        w->at[n] = (uint32_t)at;
        if (len) {
            memcpy(w->bytes + at, text.p + i, len);
            at += len;
            i += len;
        } else {
            cp = 0xfffd;
            memcpy(w->bytes + at, "\xef\xbf\xbd", 3);
            at += 3;
            i++;
        }
        w->cps[n] = cp;
        w->classes[n] = class_of(cp);
    }
    w->at[n] = (uint32_t)at;
    w->cps[n] = 0;
    w->classes[n] = CLASS_END;
    return n;
}

enum cairn_err bpe_encode(const struct tokenizer *t, struct cairn_str text, struct id_list *l,
                          struct cairn_why *why)
{
    _Static_assert((uint64_t)TOKENIZER_TEXT_MAX * 3 < UINT32_MAX, "offsets are 32 bit");
    struct work w = {.t = t, .out = l};
    w.bytes = cairn_malloc(text.len * 3 + 1); /* a stray byte becomes three */
    w.at = cairn_reallocarray(NULL, text.len + 1, sizeof *w.at);
    w.cps = cairn_reallocarray(NULL, text.len + 1, sizeof *w.cps);
    w.classes = cairn_malloc(text.len + 1);
    bool ok = w.bytes && w.at && w.cps && w.classes;
    if (ok) {
        size_t n = decode(&w, text);
        ok = t->pre == PRE_QWEN2    ? scan_qwen2(&w, 0, n)
             : t->pre == PRE_SMOLLM ? scan_smollm(&w, 0, n)
                                    : scan_gpt2(&w, 0, n);
    }
    cairn_free(w.bytes);
    cairn_free(w.at);
    cairn_free(w.cps);
    cairn_free(w.classes);
    cairn_free(w.symbols);
    cairn_free(w.heap);
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
    return CAIRN_OK;
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
