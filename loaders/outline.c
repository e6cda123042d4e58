/* outline.c - pieces and heading paths of a text, lines, and what counts as space. */
#include "loaders_private.h"

#include <string.h>

size_t text_space(const char *s, size_t len)
{
    if (len == 0)
        return 0;
    unsigned char c = (unsigned char)s[0];
    if (c < 0x80)
        return c == ' ' || (c >= '\t' && c <= '\r');
    uint32_t cp;
    size_t n = cairn_utf8_next(s, len, &cp);
    if (n == 0)
        return 0;
    bool space = cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 ||
                 cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
    return space ? n : 0;
}

size_t text_space_before(const char *s, size_t len)
{
    size_t n = 1;
    while (n < 4 && n < len && ((unsigned char)s[len - n] & 0xC0) == 0x80)
        n++;
    return len && text_space(s + len - n, n) == n ? n : 0;
}

void text_trim(const char *text, size_t *start, size_t *end)
{
    size_t n;
    while (*start < *end && (n = text_space(text + *start, *end - *start)) > 0)
        *start += n;
    while (*end > *start && (n = text_space_before(text + *start, *end - *start)) > 0)
        *end -= n;
}

bool text_invisible(uint32_t cp, uint32_t prev, uint32_t next)
{
    switch (cp) {
    case 0xAD:   /* soft hyphen */
    case 0x180E: /* Mongolian vowel separator */
    case 0x200B:
    case 0x200E:
    case 0x200F:
    case 0xFEFF:
        return true;
    case 0x200C:
    case 0x200D: /* joiners carry meaning between letters of Persian and Indic scripts and inside emoji, never
                    in ASCII */
        return prev < 0x80 || next < 0x80;
    default:
        return (cp >= 0x202A && cp <= 0x202E) || (cp >= 0x2060 && cp <= 0x206F) ||
               (cp >= 0xE0000 && cp <= 0xE0FFF);
    }
}

size_t text_count_invisible(const char *text, size_t len)
{
    size_t found = 0;
    uint32_t prev = 0, cp = 0, next = 0;
    for (size_t at = 0; at < len;) {
        if ((unsigned char)text[at] < 0x80) { /* the common case, without decoding */
            prev = (unsigned char)text[at++];
            continue;
        }
        size_t n = cairn_utf8_next(text + at, len - at, &cp);
        if (n == 0)
            break;
        if (at + n >= len || !cairn_utf8_next(text + at + n, len - at - n, &next))
            next = 0;
        found += text_invisible(cp, prev, next);
        prev = cp;
        at += n;
    }
    return found;
}

enum cairn_err lines_init(struct lines *l, const char *text, size_t len, struct cairn_why *why)
{
    size_t n = 0;
    for (int pass = 0; pass < 2; pass++) {
        size_t at = 0, k = 0;
        while (at < len) {
            if (pass)
                l->starts[k] = (uint32_t)at;
            k++;
            size_t end = at;
            while (end < len && text[end] != '\n' && text[end] != '\r')
                end++;
            if (end < len)
                end += text[end] == '\r' && end + 1 < len && text[end + 1] == '\n' ? 2 : 1;
            at = end;
        }
        if (pass == 0) {
            n = k;
            l->starts = cairn_reallocarray(NULL, n + 1, sizeof(*l->starts));
            if (!l->starts)
                return cairn_fail(why, CAIRN_ENOMEM, "index of %zu lines", n);
        }
    }
    l->starts[n] = (uint32_t)len;
    l->n = n;
    return CAIRN_OK;
}

void lines_release(struct lines *l)
{
    cairn_free(l->starts);
    *l = (struct lines){0};
}

bool line_blank(const char *text, size_t start, size_t end)
{
    text_trim(text, &start, &end);
    return start == end;
}

static enum cairn_err add_path(struct outline *o, char *path, struct cairn_why *why)
{
    if (o->n_paths == o->cap_paths) {
        size_t cap = o->cap_paths ? o->cap_paths * 2 : 16;
        char **paths = cairn_reallocarray(o->paths, cap, sizeof(*paths));
        if (!paths) {
            cairn_free(path);
            return cairn_fail(why, CAIRN_ENOMEM, "heading path");
        }
        o->paths = paths;
        o->cap_paths = cap;
    }
    o->paths[o->n_paths++] = path;
    return CAIRN_OK;
}

enum cairn_err outline_init(struct outline *o, struct cairn_why *why)
{
    *o = (struct outline){0};
    char *empty = cairn_strndup("", 0);
    if (!empty)
        return cairn_fail(why, CAIRN_ENOMEM, "heading path");
    return add_path(o, empty, why);
}

void outline_release(struct outline *o)
{
    for (size_t i = 0; i < o->n_paths; i++)
        cairn_free(o->paths[i]);
    for (size_t i = 0; i < HEADING_LEVELS; i++)
        cairn_free(o->levels[i]);
    cairn_free(o->paths);
    cairn_free(o->pieces);
    cairn_free(o->title);
    *o = (struct outline){0};
}

enum cairn_err outline_add(struct outline *o, const char *text, size_t start, size_t end,
                           enum piece_kind kind, uint32_t group, bool glue, struct cairn_why *why)
{
    text_trim(text, &start, &end);
    if (start == end)
        return CAIRN_OK;
    CAIRN_CHECK(o->n == 0 || start >= o->pieces[o->n - 1].end);
    if (o->n == o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 64;
        struct piece *pieces = cairn_reallocarray(o->pieces, cap, sizeof(*pieces));
        if (!pieces)
            return cairn_fail(why, CAIRN_ENOMEM, "outline of %zu pieces", cap);
        o->pieces = pieces;
        o->cap = cap;
    }
    o->pieces[o->n++] = (struct piece){.start = (uint32_t)start,
                                       .end = (uint32_t)end,
                                       .path = (uint32_t)(o->n_paths - 1),
                                       .group = group,
                                       .kind = (uint8_t)kind,
                                       .glue = glue};
    return CAIRN_OK;
}

/* Spaces squeezed to one, invisible characters and controls left out, cut to max bytes on a code point.
 * OWNED. */
static char *clean_title(struct cairn_str s, size_t max)
{
    struct cairn_buf b;
    cairn_buf_init(&b, max + 8);
    bool space = false;
    uint32_t prev = 0;
    for (size_t at = 0; at < s.len;) {
        size_t n = text_space(s.p + at, s.len - at);
        if (n) {
            space = b.len > 0;
            at += n;
            continue;
        }
        uint32_t cp, next;
        n = cairn_utf8_next(s.p + at, s.len - at, &cp);
        if (n == 0)
            break;
        if (at + n >= s.len || !cairn_utf8_next(s.p + at + n, s.len - at - n, &next))
            next = 0;
        if (!text_invisible(cp, prev, next) && cp >= 0x20 && cp != 0x7F) {
            if (b.len + n + space > max)
                break;
            if (space)
                cairn_buf_put(&b, " ", 1);
            cairn_buf_put(&b, s.p + at, n);
            space = false;
        }
        prev = cp;
        at += n;
    }
    char *out = b.failed ? NULL : cairn_strndup(b.bytes ? b.bytes : "", b.len);
    cairn_buf_release(&b);
    return out;
}

enum cairn_err outline_heading(struct outline *o, unsigned level, struct cairn_str title,
                               struct cairn_why *why)
{
    if (o->n_headings >= HEADINGS_MAX)
        return cairn_fail(why, CAIRN_EFULL, "more than %u headings in one document: split the file",
                          HEADINGS_MAX);
    o->n_headings++;
    level = level < 1 ? 1 : level > HEADING_LEVELS ? HEADING_LEVELS : level;
    for (unsigned i = level - 1; i < HEADING_LEVELS; i++) {
        cairn_free(o->levels[i]);
        o->levels[i] = NULL;
    }
    char *text = clean_title(title, HEADING_BYTES_MAX);
    if (!text)
        return cairn_fail(why, CAIRN_ENOMEM, "heading");
    if (text[0] && !o->title) {
        o->title = cairn_strdup(text);
        if (!o->title) {
            cairn_free(text);
            return cairn_fail(why, CAIRN_ENOMEM, "title");
        }
    }
    o->levels[level - 1] = text;
    struct cairn_buf path;
    cairn_buf_init(&path, PATH_BYTES_MAX + 8);
    for (unsigned i = 0; i < level; i++) {
        if (!o->levels[i] || !o->levels[i][0])
            continue;
        size_t sep = path.len ? 3 : 0, n = strlen(o->levels[i]), room = PATH_BYTES_MAX - path.len - sep;
        if (path.len + sep >= PATH_BYTES_MAX)
            break;
        if (n > room)
            n = cairn_utf8_floor(o->levels[i], room);
        if (sep)
            cairn_buf_put(&path, " > ", 3);
        cairn_buf_put(&path, o->levels[i], n);
    }
    char *joined = path.failed ? NULL : cairn_strndup(path.bytes ? path.bytes : "", path.len);
    cairn_buf_release(&path);
    if (!joined)
        return cairn_fail(why, CAIRN_ENOMEM, "heading path");
    return add_path(o, joined, why);
}
