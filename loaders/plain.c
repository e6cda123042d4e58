/* plain.c - the outline of plain text: paragraphs by blank lines, list items by their marks, headings by the
 * habits of people who write text files: a short first line, a line underlined with === or ---, a short line
 * above an indented block. Headings only shape paths and where passages break; the text stays as it is. */
#include "loaders_private.h"

#include <string.h>

#define TITLE_BYTES_MAX 100u
#define HEADING_LINE_MAX 60u

struct line {
    size_t start, end; /* trimmed */
    size_t indent;
};

static struct line line_at(const char *text, const struct lines *l, size_t i)
{
    struct line x = {.start = l->starts[i], .end = l->starts[i + 1]};
    text_trim(text, &x.start, &x.end);
    x.indent = x.start - l->starts[i];
    return x;
}

static size_t length(struct line x) { return x.end - x.start; }

static bool underline(const char *text, struct line x)
{
    char c = text[x.start];
    if (length(x) < 3 || (c != '=' && c != '-' && c != '~'))
        return false;
    for (size_t i = x.start; i < x.end; i++)
        if (text[i] != c)
            return false;
    return true;
}

/* A bullet or a number or letter with a mark, then a space. */
static bool item(const char *text, struct line x)
{
    const char *s = text + x.start;
    size_t len = length(x), n = 0;
    if (len < 2)
        return false;
    if (memchr("-*+", s[0], 3))
        return s[1] == ' ';
    if (len > 3 && memcmp(s, "\xE2\x80\xA2", 3) == 0)
        return true;
    while (n < len && n < 3 && s[n] >= '0' && s[n] <= '9')
        n++;
    if (n == 0 && ((s[0] >= 'a' && s[0] <= 'z') || (s[0] >= 'A' && s[0] <= 'Z')))
        n = s[1] == ')';
    return n && n + 1 < len && (s[n] == '.' || s[n] == ')') && s[n + 1] == ' ';
}

static bool ends_like_text(const char *text, struct line x)
{
    return strchr(".,;:?!", text[x.end - 1]) != NULL;
}

enum cairn_err plain_outline(struct outline *o, const char *text, size_t len, struct cairn_why *why)
{
    struct lines l;
    enum cairn_err err = lines_init(&l, text, len, why);
    bool first = true, fresh = true; /* no line yet; the last line was blank */
    size_t open = 0, open_end = 0;   /* the paragraph that is being read */
    enum piece_kind kind = PIECE_PARAGRAPH;
    for (size_t i = 0; i <= l.n && !err; i++) {
        struct line x = i < l.n ? line_at(text, &l, i) : (struct line){0};
        struct line below = i + 1 < l.n ? line_at(text, &l, i + 1) : (struct line){0};
        bool blank = length(x) == 0;
        unsigned level = 0;
        bool underlined = false;
        if (!blank && fresh && x.indent == 0 && length(x) <= TITLE_BYTES_MAX && !underline(text, x)) {
            underlined = length(below) && underline(text, below);
            if (underlined)
                level = text[below.start] == '=' ? 1 : 2;
            else if (first && !ends_like_text(text, x) && !item(text, x))
                level = 1;
            else if (length(below) && below.indent >= 2 && !ends_like_text(text, x) &&
                     length(x) <= HEADING_LINE_MAX && !memchr("-*+", text[x.start], 3))
                level = 2;
        }
        bool starts_item = !blank && !level && item(text, x);
        if (open_end && (blank || level || starts_item)) {
            err = outline_add(o, text, open, open_end, kind, 0, text[open_end - 1] == ':', why);
            open_end = 0;
        }
        if (blank || err) {
            fresh = true;
            continue;
        }
        if (level) {
            err = outline_heading(o, level, (struct cairn_str){text + x.start, length(x)}, why);
            if (!err)
                err = outline_add(o, text, x.start, underlined ? below.end : x.end, PIECE_HEADING, 0, false,
                                  why);
            i += underlined;
            fresh = false;
        } else {
            if (!open_end) {
                open = x.start;
                kind = starts_item ? PIECE_ITEM : PIECE_PARAGRAPH;
            }
            open_end = x.end;
            fresh = false;
        }
        first = false;
    }
    lines_release(&l);
    return err;
}
