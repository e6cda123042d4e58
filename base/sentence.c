/* sentence.c - where sentences end, by rules: terminators, what stands before them (abbreviations, initials,
 * list numbers) and after them (closing marks, citations, case of the next word), and line structure (lists,
 * headings, tables, blank lines). */
#include <cairn/base.h>

#include <string.h>
#include <strings.h>

#define WORD_BYTES_MAX 32u     /* looked at before a period: bounds the work on one */
#define BRACKET_BYTES_MAX 300u /* a parenthesis open for longer than this no longer protects a period */

static const char *const abbreviations[] = {
    "mr",  "mrs",  "ms",   "dr",   "prof", "sr",  "jr",  "st",  "vs",   "etc", "al",   "fig",  "figs",
    "eq",  "sec",  "ch",   "vol",  "pp",   "ed",  "eds", "inc", "ltd",  "co",  "corp", "dept", "approx",
    "est", "min",  "max",  "jan",  "feb",  "mar", "apr", "jun", "jul",  "aug", "sep",  "sept", "oct",
    "nov", "dec",  "gen",  "col",  "capt", "lt",  "sgt", "rev", "hon",  "ave", "blvd", "bzw",  "ca",
    "cf",  "resp", "incl", "excl", "tel",  "ext", "ref", "usw", "evtl", "ggf", NULL};
static const char *const before_number[] = {"no", "nos", "nr", "art", "p", "para", "par", "cl", NULL};
static const char *const starters[] = {"The", "A",    "An", "In",   "It",  "This",  "That", "These",
                                       "He",  "She",  "We", "They", "If",  "For",   "On",   "At",
                                       "By",  "When", "As", "But",  "And", "There", NULL};

static bool in_list(const char *const *list, const char *w, size_t len, bool fold)
{
    for (; *list; list++)
        if (strlen(*list) == len && (fold ? strncasecmp(*list, w, len) : strncmp(*list, w, len)) == 0)
            return true;
    return false;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\f' || c == '\v';
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (uint8_t)c >= 0x80;
}

/* Length of a sentence terminator at i, 0 when none. */
static size_t terminator(struct cairn_str t, size_t i)
{
    char c = t.p[i];
    if (c == '.' || c == '!' || c == '?')
        return 1;
    if (t.len - i >= 3) {
        static const char *const wide[] = {"\u3002", "\uFF01", "\uFF1F", "\u2026", "\uFF0E", "\u0964"};
        for (size_t k = 0; k < sizeof(wide) / sizeof(wide[0]); k++)
            if (memcmp(t.p + i, wide[k], 3) == 0)
                return 3;
    }
    return 0;
}

/* Past quotes and brackets that close after a terminator. */
static size_t skip_closers(struct cairn_str t, size_t i)
{
    for (;;) {
        if (i < t.len && memchr("\"')]}*_`", t.p[i], 8) != NULL) {
            i++;
        } else if (t.len - i >= 3 &&
                   (memcmp(t.p + i, "\u201D", 3) == 0 || memcmp(t.p + i, "\u2019", 3) == 0 ||
                    memcmp(t.p + i, "\u300D", 3) == 0)) {
            i += 3;
        } else if (t.len - i >= 2 && memcmp(t.p + i, "\u00BB", 2) == 0) {
            i += 2;
        } else {
            return i;
        }
    }
}

/* Past citation marks such as [1], [2, 3], with at most one space before each. */
static size_t skip_citations(struct cairn_str t, size_t i)
{
    for (;;) {
        size_t j = i;
        if (j < t.len && t.p[j] == ' ')
            j++;
        if (j >= t.len || t.p[j] != '[')
            return i;
        size_t k = j + 1, digits = 0;
        while (k < t.len && (is_digit(t.p[k]) || t.p[k] == ',' || t.p[k] == ' '))
            digits += is_digit(t.p[k++]);
        if (digits == 0 || k >= t.len || t.p[k] != ']' || k - j > 24)
            return i;
        i = k + 1;
    }
}

/* "Site | Street | Lead": a table row without a border. */
static bool table_row(struct cairn_str t, size_t i)
{
    for (; i + 2 < t.len && t.p[i] != '\n'; i++)
        if (memcmp(t.p + i, " | ", 3) == 0)
            return true;
    return false;
}

/* A line that stands alone: heading, table row, list item, quote, fence. */
static bool structural_line(struct cairn_str t, size_t i)
{
    while (i < t.len && (t.p[i] == ' ' || t.p[i] == '\t'))
        i++;
    if (i >= t.len)
        return false;
    char c = t.p[i];
    if (c == '#' || c == '|' || c == '>')
        return true;
    if (t.len - i >= 3 && (memcmp(t.p + i, "```", 3) == 0 || memcmp(t.p + i, "---", 3) == 0 ||
                           memcmp(t.p + i, "\u2022", 3) == 0))
        return true;
    if ((c == '-' || c == '*' || c == '+') && i + 1 < t.len && t.p[i + 1] == ' ')
        return true;
    size_t d = i;
    while (d < t.len && d - i < 4 && is_digit(t.p[d]))
        d++;
    if (d > i && d + 1 < t.len && (t.p[d] == '.' || t.p[d] == ')') && t.p[d + 1] == ' ')
        return true;
    return table_row(t, i);
}

/* Whole-line items end at their newline; a list item may run on. */
static bool closed_line(struct cairn_str t, size_t line)
{
    while (line < t.len && (t.p[line] == ' ' || t.p[line] == '\t'))
        line++;
    return line < t.len && (t.p[line] == '#' || t.p[line] == '|' || table_row(t, line));
}

/* Does the period at i end a sentence that started at `start`? `after` is past closers and citations. */
static bool period_ends(struct cairn_str t, size_t start, size_t i, size_t after)
{
    size_t w = i;
    while (w > start && i - w < WORD_BYTES_MAX && (is_letter(t.p[w - 1]) || t.p[w - 1] == '.'))
        w--;
    size_t len = i - w;
    size_t next = after;
    while (next < t.len && is_space(t.p[next]))
        next++;
    bool lower_next = next < t.len && t.p[next] >= 'a' && t.p[next] <= 'z';
    bool digit_next = next < t.len && is_digit(t.p[next]);
    if (lower_next)
        return false;
    if (len == 0) { /* "1." at the start of a list item */
        size_t d = i;
        while (d > start && i - d < WORD_BYTES_MAX && is_digit(t.p[d - 1]))
            d--;
        return d != start || d == i;
    }
    if (in_list(abbreviations, t.p + w, len, true))
        return next >= t.len;
    if (digit_next && in_list(before_number, t.p + w, len, true))
        return false;
    if (memchr(t.p + w, '.', len)) { /* e.g. U.S. p.m. */
        if ((len == 3 && strncasecmp(t.p + w, "e.g", 3) == 0) ||
            (len == 3 && strncasecmp(t.p + w, "i.e", 3) == 0))
            return false;
        size_t e = next;
        while (e < t.len && is_letter(t.p[e]))
            e++;
        return next >= t.len || in_list(starters, t.p + next, e - next, false);
    }
    if (len == 1 && t.p[w] >= 'A' && t.p[w] <= 'Z' &&
        (w == start || is_space(t.p[w - 1]) || t.p[w - 1] == '('))
        return next >= t.len || t.p[w] == 'I'; /* an initial */
    return true;
}

static size_t add(struct cairn_span *spans, size_t max, size_t n, struct cairn_str t, size_t start,
                  size_t end)
{
    while (start < end && is_space(t.p[start]))
        start++;
    while (end > start && is_space(t.p[end - 1]))
        end--;
    if (start == end)
        return n;
    if (n < max)
        spans[n] = (struct cairn_span){start, end};
    return n + 1;
}

size_t cairn_sentences(struct cairn_str t, struct cairn_span *spans, size_t max)
{
    size_t n = 0, start = 0, open_at = 0;
    bool closed = closed_line(t, 0);
    unsigned depth = 0;
    for (size_t i = 0; i < t.len;) {
        while (start < i && is_space(t.p[start]))
            start++;
        char c = t.p[i];
        if (c == '\n') {
            size_t next = i + 1;
            while (next < t.len && (t.p[next] == ' ' || t.p[next] == '\t' || t.p[next] == '\r'))
                next++;
            bool blank = next >= t.len || t.p[next] == '\n';
            if (blank || closed || structural_line(t, i + 1)) {
                n = add(spans, max, n, t, start, i);
                start = i + 1;
                depth = 0;
            }
            closed = closed_line(t, ++i);
            continue;
        }
        if (c == '(') {
            if (depth++ == 0)
                open_at = i;
        } else if (c == ')' && depth > 0) {
            depth--;
        }
        size_t len = closed ? 0 : terminator(t, i);
        if (len == 0) {
            i++;
            continue;
        }
        size_t end = i + len;
        while (end < t.len && terminator(t, end) > 0)
            end += terminator(t, end);
        bool wide = len == 3 && memcmp(t.p + i, "\u2026", 3) != 0;
        size_t after = skip_citations(t, skip_closers(t, end));
        bool at_space = after >= t.len || is_space(t.p[after]);
        bool protected = depth > 0 && c == '.' && i - open_at < BRACKET_BYTES_MAX &&
                         memchr(t.p + end, ')', after - end) == NULL;
        if (protected || (!wide && !at_space) ||
            (c == '.' && end == i + 1 && !period_ends(t, start, i, after))) {
            i = end;
            continue;
        }
        n = add(spans, max, n, t, start, after);
        start = i = after;
        depth = 0;
    }
    return add(spans, max, n, t, start, t.len);
}
