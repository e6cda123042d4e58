/* phrase.c - see phrase.h. */
#include "phrase.h"
#include "typed.h"
#include "words.h"

#include <string.h>
#include <strings.h>

#define WORDS_MAX 64u
#define SENTENCES_MAX 512u

static bool space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool word_byte(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char)c >= 0x80;
}
static char low(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

struct cairn_str phrase_trim(struct cairn_str t)
{
    static const char *const leads[] = {"answer:", "short answer:", "the answer is"};
    size_t from = 0, to = 0;
    while (from < t.len && space(t.p[from]))
        from++;
    for (size_t i = 0; i < sizeof leads / sizeof leads[0]; i++) {
        size_t n = strlen(leads[i]);
        if (t.len - from >= n && strncasecmp(t.p + from, leads[i], n) == 0) {
            from += n;
            while (from < t.len && space(t.p[from]))
                from++;
        }
    }
    const char *nl = memchr(t.p + from, '\n', t.len - from);
    to = nl ? (size_t)(nl - t.p) : t.len;
    for (bool changed = true; changed && from < to;) {
        changed = false;
        if (space(t.p[to - 1]) || strchr(".,;:*`", t.p[to - 1])) {
            to--;
            changed = true;
        } else if (t.p[to - 1] == ']') {
            size_t open = to;
            while (open > from && t.p[open - 1] != '[')
                open--;
            uint32_t n[8];
            size_t n_marks = 0;
            if (open > from && typed_citation((struct cairn_str){t.p, to}, open - 1, to, n, 8, &n_marks)) {
                to = open - 1;
                changed = true;
            }
        } else if (to - from >= 2 && t.p[from] == t.p[to - 1] && (t.p[from] == '"' || t.p[from] == '\'')) {
            from++;
            to--;
            changed = true;
        }
        while (from < to && (space(t.p[from]) || t.p[from] == '*' || t.p[from] == '`')) {
            from++;
            changed = true;
        }
    }
    return (struct cairn_str){t.p + from, to - from};
}

/* The next word at or after *at; punctuation inside numbers and words ("1,000", "U.S.") splits on both sides
 * alike. */
static bool next_word(struct cairn_str t, size_t *at, struct cairn_span *w)
{
    while (*at < t.len && !word_byte(t.p[*at]))
        ++*at;
    w->start = *at;
    while (*at < t.len && word_byte(t.p[*at]))
        ++*at;
    w->end = *at;
    return w->end > w->start;
}
static bool same_word(struct cairn_str a, struct cairn_span x, struct cairn_str b, struct cairn_span y)
{
    if (x.end - x.start != y.end - y.start)
        return false;
    for (size_t i = 0; i < x.end - x.start; i++)
        if (low(a.p[x.start + i]) != low(b.p[y.start + i]))
            return false;
    return true;
}

struct cairn_span phrase_sentence(struct cairn_str source, size_t start, size_t end)
{
    struct cairn_span s[SENTENCES_MAX], out = {start, end};
    size_t n = cairn_sentences(source, s, SENTENCES_MAX);
    for (size_t i = 0; i < n && i < SENTENCES_MAX; i++) {
        if (s[i].end <= start || s[i].start >= end)
            continue;
        out.start = s[i].start < out.start ? s[i].start : out.start;
        out.end = s[i].end > out.end ? s[i].end : out.end;
    }
    return out;
}

/* Content words of the question that stand in the text, by their first letters. */
static size_t shared_words(struct cairn_str question, struct cairn_str text)
{
    size_t n = 0, i = 0;
    struct cairn_span w, x;
    while (next_word(question, &i, &w)) {
        char word[32];
        size_t len = w.end - w.start;
        if (len < 2 || len >= sizeof word)
            continue;
        for (size_t k = 0; k < len; k++)
            word[k] = low(question.p[w.start + k]);
        if (word_classes(word, len) & WORD_FUNCTION)
            continue;
        struct cairn_span stem = {w.start, w.start + (len > 6 ? 6 : len)};
        bool found = false;
        for (size_t k = 0; !found && next_word(text, &k, &x);) {
            struct cairn_span y = {x.start, x.end - x.start > 6 ? x.start + 6 : x.end};
            found = same_word(question, stem, text, y);
        }
        n += found;
    }
    return n;
}

bool phrase_find(struct cairn_str phrase, const struct answer_request *q, const size_t *lens,
                 size_t n_sources, const struct reader_span *spans, size_t n_spans, struct phrase_place *out)
{
    struct cairn_span w[WORDS_MAX];
    size_t n = 0, at = 0;
    while (n < WORDS_MAX && next_word(phrase, &at, &w[n]))
        n++;
    if (!n || n == WORDS_MAX)
        return false;
    long best = -1;
    for (size_t s = 0; s < n_sources; s++) {
        struct cairn_str t = {q->sources[s].text.p, lens[s]};
        struct cairn_span x;
        for (size_t i = 0; next_word(t, &i, &x);) {
            if (!same_word(phrase, w[0], t, x))
                continue;
            struct cairn_span y = x;
            size_t k = x.end, m = 1;
            while (m < n && next_word(t, &k, &y) && same_word(phrase, w[m], t, y))
                m++;
            if (m < n)
                continue;
            long rank = (long)n_spans; /* of the best span that it meets */
            for (size_t r = 0; r < n_spans; r++)
                if (spans[r].source == s && spans[r].start < y.end && x.start < spans[r].end) {
                    rank = (long)r;
                    break;
                }
            struct cairn_span sentence = phrase_sentence(t, x.start, y.end);
            long score = ((long)n_spans - rank) * 1000 +
                         (long)shared_words(q->question, (struct cairn_str){t.p + sentence.start,
                                                                            sentence.end - sentence.start});
            if (score > best) {
                best = score;
                *out = (struct phrase_place){(uint32_t)s, x.start, y.end, sentence.start, sentence.end};
            }
        }
    }
    return best >= 0;
}

/* ---- numbers ---- */

/* A number with its inner separators, "1,000.5"; without the commas in out. */
static size_t digits_at(struct cairn_str t, size_t at, char *out, size_t max, size_t *n)
{
    size_t i = at;
    *n = 0;
    while (i < t.len && (is_digit(t.p[i]) || (t.p[i] == '.' && i + 1 < t.len && is_digit(t.p[i + 1])) ||
                         (t.p[i] == ',' && i + 3 < t.len && is_digit(t.p[i + 1]) && is_digit(t.p[i + 2]) &&
                          is_digit(t.p[i + 3])))) {
        if (t.p[i] != ',' && *n < max)
            out[(*n)++] = t.p[i];
        i++;
    }
    return i;
}

static bool has_digits(struct cairn_str t, const char *want, size_t n_want)
{
    char got[64];
    for (size_t i = 0; i < t.len;) {
        size_t n = 0;
        if (!is_digit(t.p[i])) {
            i++;
            continue;
        }
        i = digits_at(t, i, got, sizeof got, &n);
        if (n == n_want && memcmp(got, want, n) == 0)
            return true;
    }
    return false;
}

/* "7" stands in a passage that says seven. */
static bool has_spelled(struct cairn_str t, const char *digits, size_t n)
{
    static const char *const words[] = {"zero",     "one",      "two",      "three",   "four",    "five",
                                        "six",      "seven",    "eight",    "nine",    "ten",     "eleven",
                                        "twelve",   "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
                                        "eighteen", "nineteen", "twenty"};
    size_t v = 0, at = 0;
    struct cairn_span w;
    for (size_t i = 0; i < n; i++)
        v = v < 100 ? v * 10 + (size_t)(digits[i] - '0') : v;
    if (v >= sizeof words / sizeof words[0] || n > 2)
        return false;
    struct cairn_str word = cairn_str_of(words[v]);
    while (next_word(t, &at, &w))
        if (same_word(t, w, word, (struct cairn_span){0, word.len}))
            return true;
    return false;
}

bool phrase_numbers_in(struct cairn_str text, size_t start, size_t end, const struct cairn_str *passages,
                       size_t n_passages)
{
    for (size_t i = start; i < end;) {
        uint32_t marks[8];
        size_t n_marks, skip = typed_citation(text, i, end, marks, 8, &n_marks), n = 0;
        char digits[64];
        if (skip) {
            i += skip;
            continue;
        }
        if (!is_digit(text.p[i])) {
            i++;
            continue;
        }
        size_t stop = digits_at((struct cairn_str){text.p, end}, i, digits, sizeof digits, &n);
        bool found = false;
        for (size_t p = 0; p < n_passages && !found; p++)
            found = has_digits(passages[p], digits, n) || has_spelled(passages[p], digits, n);
        if (!found)
            return false;
        i = stop;
    }
    return true;
}
