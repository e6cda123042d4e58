/* tokenizer_wordpiece.c - BERT's normalisation and WordPiece, as Hugging Face's BertTokenizer does it:
 * drop NUL, U+FFFD and control characters; spaces around each CJK ideograph; for lower-case models canonical
 * decomposition without nonspacing marks, then lower case; cut at white space and around each punctuation
 * character (all ASCII symbols count); then the longest piece that fits, again and again. A word of more than
 * WORDPIECE_WORD_MAX code points, or with a part that fits nothing, is [UNK].
 *
 * Pieces are kept as the text they stand for: word-initial ones with a space in front, the others bare. */
#include "tokenizer.h"

#include <utf8proc.h>

enum { SPACE_INITIAL, SPACE_INNER }; /* key spaces of by_piece */
enum { WORD_BYTES_MAX = WORDPIECE_WORD_MAX * 4 };

struct word {
    char bytes[WORD_BYTES_MAX];
    size_t len, n_cps; /* n_cps may pass the maximum: then bytes are not kept */
};

static struct cairn_str initial_key(const struct tokenizer *t, int32_t id)
{
    struct cairn_str s = token_piece(t, id);
    return s.len && s.p[0] == ' ' ? (struct cairn_str){s.p + 1, s.len - 1} : (struct cairn_str){"", SIZE_MAX};
}

static struct cairn_str inner_key(const struct tokenizer *t, int32_t id)
{
    struct cairn_str s = token_piece(t, id);
    return s.len && s.p[0] == ' ' ? (struct cairn_str){"", SIZE_MAX}
                                  : s; /* the length says: equal to nothing */
}

static void put_word(const struct tokenizer *t, struct word *w, struct id_list *l)
{
    if (w->n_cps == 0)
        return;
    size_t first = l->n, at = 0;
    bool fits = w->n_cps <= WORDPIECE_WORD_MAX;
    while (fits && at < w->len) {
        size_t len = w->len - at < t->longest ? w->len - at : t->longest;
        int32_t id = -1;
        for (; len > 0; len--) {
            if (at + len < w->len && ((uint8_t)w->bytes[at + len] & 0xc0) == 0x80)
                continue; /* not inside a code point */
            id = at ? text_table_find(&t->by_piece, w->bytes + at, len, SPACE_INNER, inner_key, t)
                    : text_table_find(&t->by_piece, w->bytes, len, SPACE_INITIAL, initial_key, t);
            if (id >= 0)
                break;
        }
        fits = id >= 0;
        if (fits)
            ids_put(l, id);
        at += len;
    }
    if (!fits) {
        l->n = first;
        ids_put(l, t->unk);
    }
    w->len = w->n_cps = 0;
}

static void put_cp(struct word *w, uint32_t cp)
{
    if (w->n_cps++ < WORDPIECE_WORD_MAX)
        w->len += (size_t)utf8proc_encode_char((utf8proc_int32_t)cp, (utf8proc_uint8_t *)w->bytes + w->len);
}

static bool is_cjk(uint32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
           (c >= 0x2a700 && c <= 0x2b73f) || (c >= 0x2b740 && c <= 0x2b81f) ||
           (c >= 0x2b820 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static bool is_space(uint32_t c, utf8proc_category_t cat)
{
    return c == '\t' || c == '\n' || c == '\r' || cat == UTF8PROC_CATEGORY_ZS ||
           cat == UTF8PROC_CATEGORY_ZL || cat == UTF8PROC_CATEGORY_ZP;
}

static bool is_dropped(uint32_t c, utf8proc_category_t cat)
{
    if (c == '\t' || c == '\n' || c == '\r')
        return false;
    return c == 0 || c == 0xfffd || cat == UTF8PROC_CATEGORY_CC || cat == UTF8PROC_CATEGORY_CF ||
           cat == UTF8PROC_CATEGORY_CO || cat == UTF8PROC_CATEGORY_CS;
}

static bool is_punctuation(uint32_t c)
{
    if (c < 128)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return true;
    default:
        return false;
    }
}

/* One code point after normalisation. */
static void put_normal(const struct tokenizer *t, struct word *w, uint32_t c, struct id_list *l)
{
    if (is_punctuation(c)) {
        put_word(t, w, l);
        put_cp(w, c);
        put_word(t, w, l);
    } else {
        put_cp(w, c);
    }
}

static void put_wide(const struct tokenizer *t, struct word *w, uint32_t c, struct id_list *l)
{
    utf8proc_category_t cat = utf8proc_category((utf8proc_int32_t)c);
    if (is_dropped(c, cat))
        return;
    bool apart = is_cjk(c);
    if (is_space(c, cat) || apart)
        put_word(t, w, l);
    if (is_space(c, cat))
        return;
    if (t->lower_case) {
        utf8proc_int32_t parts[32];
        int class = 0;
        utf8proc_ssize_t n =
            utf8proc_decompose_char((utf8proc_int32_t)c, parts, 32, UTF8PROC_DECOMPOSE, &class);
        if (n < 1 || n > 32) {
            parts[0] = (utf8proc_int32_t)c;
            n = 1;
        }
        for (utf8proc_ssize_t i = 0; i < n; i++)
            if (utf8proc_category(parts[i]) != UTF8PROC_CATEGORY_MN)
                put_normal(t, w, (uint32_t)utf8proc_tolower(parts[i]), l);
    } else {
        put_normal(t, w, c, l);
    }
    if (apart)
        put_word(t, w, l);
}

enum cairn_err wordpiece_encode(const struct tokenizer *t, struct cairn_str text, struct id_list *l,
                                struct cairn_why *why)
{
    struct word w;
    w.len = w.n_cps = 0;
    for (size_t i = 0; i < text.len;) {
        uint8_t b = (uint8_t)text.p[i];
        if (b < 128) { /* most text */
            i++;
            if (b == ' ' || b == '\t' || b == '\n' || b == '\r')
                put_word(t, &w, l);
            else if (b >= 32 && b != 127)
                put_normal(t, &w, t->lower_case && b >= 'A' && b <= 'Z' ? b + 32u : b, l);
            continue;
        }
        uint32_t cp;
        size_t len = cairn_utf8_next(text.p + i, text.len - i, &cp);
        if (len)
            put_wide(t, &w, cp, l);
        i += len ? len : 1; /* a stray byte is U+FFFD, and that is dropped */
    }
    put_word(t, &w, l);
    return l->failed ? tokenizer_out_of_memory(why) : CAIRN_OK;
}

enum cairn_err wordpiece_build(struct tokenizer *t, bool gguf, struct cairn_why *why)
{
    static const char mark[] = "\xe2\x96\x81";
    t->pieces =
        cairn_arena_alloc(t->arena, t->name_at[t->n] + t->n + 1); /* at most one space longer than the name */
    t->piece_at = cairn_arena_alloc(t->arena, (t->n + 1) * sizeof *t->piece_at);
    if (!t->pieces || !t->piece_at)
        return tokenizer_out_of_memory(why);
    enum cairn_err err = text_table_init(&t->by_piece, t->arena, t->n, why);
    if (err)
        return err;
    size_t at = 0;
    for (size_t i = 0; i < t->n; i++) {
        struct cairn_str s = token_name(t, (int32_t)i);
        bool marked = gguf ? s.len >= 3 && memcmp(s.p, mark, 3) == 0 : s.len > 2 && memcmp(s.p, "##", 2) == 0;
        bool initial = marked == gguf;
        size_t skip = !marked ? 0 : gguf ? 3 : 2;
        if (initial)
            t->pieces[at++] = ' ';
        memcpy(t->pieces + at, s.p + skip, s.len - skip);
        at += s.len - skip;
        t->piece_at[i + 1] = (uint32_t)at;
        if (t->types[i] != TOKEN_NORMAL || s.len == skip)
            continue;
        text_table_put(&t->by_piece, s.p + skip, s.len - skip, initial ? SPACE_INITIAL : SPACE_INNER,
                       (int32_t)i, initial ? initial_key : inner_key, t);
        t->longest = s.len - skip > t->longest ? s.len - skip : t->longest;
    }
    return CAIRN_OK;
}
