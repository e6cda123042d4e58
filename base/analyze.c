/* analyze.c - words of a text: segmentation, folding, stop words, stemming.
 * A word is a run of letters, marks and digits; an apostrophe between letters stays, and so does a period or
 * comma between digits ("3.5", "1,000" - a comma before three digits is dropped, so that 1,000 and 1000
 * meet). Connectors and hyphens split. Han, Hiragana and Katakana runs give overlapping pairs, as they have
 * no spaces to split at; a lone character gives itself. Folding is NFKC_Casefold (Unicode 15 as utf8proc has
 * it), so that full-width and composed forms meet. */
#include <cairn/base.h>

#include <libstemmer.h>
#include <string.h>
#include <utf8proc.h>

#define TEXT_MAX ((size_t)UINT32_MAX - 16)
#define WORD_BYTES_MAX 255u /* longer runs (base64, tables of digits) are cut: they are no words */

struct cairn_analyzer {
    struct sb_stemmer *stemmer;
    const char *const *stop;
    bool strip_marks;
    struct cairn_word *words;
    size_t n, cap;
    struct cairn_buf bytes; /* folded text; words hold offsets until the end of a call */
};

static const char *const stop_english[] = {
    "a",    "an",    "and",   "are",  "as",   "at", "be",  "but",  "by",   "for",  "if",  "in",
    "into", "is",    "it",    "no",   "not",  "of", "on",  "or",   "such", "that", "the", "their",
    "then", "there", "these", "they", "this", "to", "was", "will", "with", NULL};
static const char *const stop_german[] = {
    "aber", "als", "am",  "an",   "auch",  "auf",  "aus",   "bei",   "das",   "dass", "dem",
    "den",  "der", "des", "die",  "ein",   "eine", "einem", "einen", "einer", "es",   "für",
    "im",   "in",  "ist", "mit",  "nicht", "oder", "sich",  "sie",   "sind",  "so",   "und",
    "von",  "war", "wie", "wird", "zu",    "zum",  "zur",   NULL};

enum cairn_err cairn_analyzer_open(struct cairn_analyzer **out, const struct cairn_analyzer_opts *o,
                                   struct cairn_why *why)
{
    *out = NULL;
    const char *language = o && o->language ? o->language : "";
    struct cairn_analyzer *a = cairn_calloc(1, sizeof(*a));
    if (!a)
        return cairn_fail(why, CAIRN_ENOMEM, "analyzer");
    a->strip_marks = o && o->strip_marks;
    cairn_buf_init(&a->bytes, (size_t)1 << 32);
    if (*language) {
        a->stemmer = sb_stemmer_new(language, "UTF_8");
        if (!a->stemmer) {
            cairn_analyzer_close(a);
            return cairn_fail(
                why, CAIRN_EINVAL,
                "language \"%s\" has no Snowball stemmer; use a name like english or de, or \"\" for none",
                language);
        }
        if (!(o && o->keep_stopwords)) {
            if (strcmp(language, "english") == 0 || strcmp(language, "en") == 0)
                a->stop = stop_english;
            else if (strcmp(language, "german") == 0 || strcmp(language, "de") == 0)
                a->stop = stop_german;
        }
    }
    *out = a;
    return CAIRN_OK;
}

void cairn_analyzer_close(struct cairn_analyzer *a)
{
    if (!a)
        return;
    if (a->stemmer)
        sb_stemmer_delete(a->stemmer);
    cairn_free(a->words);
    cairn_buf_release(&a->bytes);
    cairn_free(a);
}

enum kind { KIND_BREAK, KIND_WORD, KIND_DIGIT, KIND_MARK, KIND_IDEOGRAPH };

static enum kind kind_of(uint32_t cp)
{
    if (cp < 0x80) {
        if (cp >= '0' && cp <= '9')
            return KIND_DIGIT;
        return (cp | 32) >= 'a' && (cp | 32) <= 'z' ? KIND_WORD : KIND_BREAK;
    }
    if ((cp >= 0x3040 && cp <= 0x30FF && cp != 0x30FB) || (cp >= 0x3400 && cp <= 0x9FFF) ||
        (cp >= 0xF900 && cp <= 0xFAFF) || (cp >= 0xFF66 && cp <= 0xFF9F) ||
        (cp >= 0x20000 && cp <= 0x3FFFF) || cp == 0x3005)
        return KIND_IDEOGRAPH;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return KIND_WORD;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return KIND_DIGIT;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return KIND_MARK;
    default:
        return KIND_BREAK;
    }
}

static bool is_apostrophe(uint32_t cp) { return cp == '\'' || cp == 0x2019 || cp == 0xFF07; }

/* Folds s[0..len) to the end of bytes; returns its folded length or SIZE_MAX. */
static size_t fold(struct cairn_analyzer *a, const char *s, size_t len)
{
    size_t before = a->bytes.len;
    bool ascii = true;
    for (size_t i = 0; i < len && ascii; i++)
        ascii = (uint8_t)s[i] < 0x80;
    if (ascii) {
        char word[WORD_BYTES_MAX + 1];
        size_t n = 0;
        for (size_t i = 0; i < len && n < WORD_BYTES_MAX; i++) {
            char c = s[i];
            if (c == ',') /* kept in a word only before three digits */
                continue;
            word[n++] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
        }
        return cairn_buf_put(&a->bytes, word, n) ? n : SIZE_MAX;
    }
    utf8proc_int32_t wide[4 * (WORD_BYTES_MAX + 1)];
    unsigned options =
        UTF8PROC_STABLE | UTF8PROC_COMPAT | UTF8PROC_CASEFOLD | UTF8PROC_IGNORE | UTF8PROC_DECOMPOSE;
    if (a->strip_marks)
        options |= UTF8PROC_STRIPMARK;
    /* in bounds: at most 255 bytes in, and a code point of n bytes folds to at most 4 * n (U+FDFA: 18 of 3
     * bytes is checked below) */
    utf8proc_ssize_t n =
        utf8proc_decompose((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)len, wide,
                           (utf8proc_ssize_t)(sizeof(wide) / sizeof(wide[0])), (utf8proc_option_t)options);
    if (n < 0 || (size_t)n > sizeof(wide) / sizeof(wide[0]))
        return cairn_buf_put(&a->bytes, s, len) ? len : SIZE_MAX;
    for (utf8proc_ssize_t i = 0; i < n; i++)
        if (wide[i] == 0x2019)
            wide[i] = '\'';
    n = utf8proc_normalize_utf32(wide, n, (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        utf8proc_uint8_t out[4];
        utf8proc_ssize_t k = utf8proc_encode_char(wide[i], out);
        if (!cairn_buf_put(&a->bytes, out, (size_t)k))
            return SIZE_MAX;
    }
    return a->bytes.len - before;
}

static bool is_stop(const struct cairn_analyzer *a, const char *w, size_t len)
{
    for (const char *const *s = a->stop; s && *s; s++)
        if (strncmp(*s, w, len) == 0 && (*s)[len] == '\0')
            return true;
    return false;
}

/* Adds the word text[start, end), folded and stemmed. */
static bool emit(struct cairn_analyzer *a, struct cairn_str text, size_t start, size_t end, uint32_t position,
                 bool stem)
{
    size_t at = a->bytes.len, used = end - start;
    if (used > WORD_BYTES_MAX)
        used = cairn_utf8_floor(text.p + start, WORD_BYTES_MAX);
    size_t len = fold(a, text.p + start, used);
    if (len == SIZE_MAX)
        return false;
    if (len == 0)
        return true; /* only ignorable characters */
    if (is_stop(a, a->bytes.bytes + at, len)) {
        a->bytes.len = at;
        return true;
    }
    if (stem && a->stemmer) {
        const sb_symbol *stemmed =
            sb_stemmer_stem(a->stemmer, (const sb_symbol *)a->bytes.bytes + at, (int)len);
        if (!stemmed)
            return false;
        int n = sb_stemmer_length(a->stemmer);
        if (n > 0) {
            a->bytes.len = at;
            if (!cairn_buf_put(&a->bytes, stemmed, (size_t)n))
                return false;
            len = (size_t)n;
        }
    }
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 256;
        struct cairn_word *more = cairn_reallocarray(a->words, cap, sizeof(*more));
        if (!more)
            return false;
        a->words = more;
        a->cap = cap;
    }
    a->words[a->n++] = (struct cairn_word){
        .text = {(const char *)(uintptr_t)at, len},
        .start = (uint32_t)start,
        .end = (uint32_t)end,
        .position = position
    };
    return true;
}

/* The end of the word that starts at i (a word or digit character). */
static size_t word_end(struct cairn_str t, size_t i, bool *digits)
{
    enum kind last = KIND_BREAK;
    *digits = false;
    while (i < t.len) {
        uint32_t cp, next;
        size_t n = cairn_utf8_next(t.p + i, t.len - i, &cp);
        if (n == 0)
            return i;
        enum kind k = kind_of(cp);
        if (k == KIND_WORD || k == KIND_DIGIT || (k == KIND_MARK && last != KIND_BREAK)) {
            *digits = *digits || k == KIND_DIGIT;
            if (k != KIND_MARK)
                last = k;
            i += n;
            continue;
        }
        size_t m = i + n < t.len ? cairn_utf8_next(t.p + i + n, t.len - i - n, &next) : 0;
        if (m == 0)
            return i;
        if (is_apostrophe(cp) && last == KIND_WORD && kind_of(next) == KIND_WORD) {
            i += n;
        } else if (cp == '.' && last == KIND_DIGIT && kind_of(next) == KIND_DIGIT) {
            i += n;
        } else if (cp == ',' && last == KIND_DIGIT && i + 4 <= t.len) {
            size_t d = 0;
            while (i + 1 + d < t.len && d < 4 && t.p[i + 1 + d] >= '0' && t.p[i + 1 + d] <= '9')
                d++;
            if (d != 3)
                return i;
            i += n;
        } else {
            return i;
        }
    }
    return i;
}

enum cairn_err cairn_analyze(struct cairn_analyzer *a, struct cairn_str text, const struct cairn_word **words,
                             size_t *n, struct cairn_why *why)
{
    *words = NULL;
    *n = 0;
    if (text.len > TEXT_MAX)
        return cairn_fail(why, CAIRN_EFULL, "text of %zu bytes, at most %zu", text.len, TEXT_MAX);
    a->n = 0;
    cairn_buf_clear(&a->bytes);
    uint32_t position = 0;
    size_t ideograph_end =
        SIZE_MAX; /* of the ideograph just passed: a last one of a run is in the pair before it */
    bool ok = true;
    for (size_t i = 0; i < text.len && ok;) {
        uint32_t cp;
        size_t len = cairn_utf8_next(text.p + i, text.len - i, &cp);
        if (len == 0)
            return cairn_fail(why, CAIRN_EINVAL, "invalid UTF-8 at byte %zu", i);
        enum kind k = kind_of(cp);
        if (k == KIND_WORD || k == KIND_DIGIT) {
            bool digits;
            size_t end = word_end(text, i, &digits);
            ok = emit(a, text, i, end, position++, !digits);
            i = end;
        } else if (k == KIND_IDEOGRAPH) {
            uint32_t next;
            size_t m = i + len < text.len ? cairn_utf8_next(text.p + i + len, text.len - i - len, &next) : 0;
            bool pair = m > 0 && kind_of(next) == KIND_IDEOGRAPH;
            if (pair)
                ok = emit(a, text, i, i + len + m, position++, false);
            else if (ideograph_end != i)
                ok = emit(a, text, i, i + len, position++, false);
            i += len;
            ideograph_end = i;
        } else {
            i += len;
        }
    }
    if (!ok)
        return cairn_fail(why, CAIRN_ENOMEM, "words of a text of %zu bytes", text.len);
    for (size_t i = 0; i < a->n; i++) /* offsets become pointers now that bytes will not move */
        a->words[i].text.p = a->bytes.bytes + (uintptr_t)a->words[i].text.p;
    *words = a->words;
    *n = a->n;
    return CAIRN_OK;
}
