/* html.c - the visible text of an HTML page, and its outline. libgumbo builds the tree, as the HTML standard
 * says.
 *
 * Hostile pages: gumbo checks no allocation and frees its tree recursively, so it gets an allocator of ours
 * that keeps a list of what is in use, counts it against a limit and against the clock, and leaves the parser
 * by longjmp when a limit is passed; the tree is freed by that list. Our own walk has a stack on the heap.
 *
 * What is text: everything a reader sees, without script, style, templates, navigation, form controls,
 * elements hidden by an attribute or an inline style, deleted text (del, s), and page headers or footers made
 * mostly of links. Characters that are never shown are left out and counted. Headings become "# ..." lines,
 * list items "- ..." or "3. ...", rows of data tables "a | b"; tables used for layout are read as the blocks
 * they hold. Superscript digits are written "^2" so that ten to the sixth does not read 106. */
#include "loaders_private.h"

#include <gumbo.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#define LIST_INDENT_MAX 8u
#define LAYOUT_CELLS_MAX 1u   /* a table whose rows have no more cells than this is layout */
#define CLOCK_EVERY 4096u     /* allocations between two looks at the clock */
#define STYLE_BYTES_MAX 8192u /* of an inline style that is read */

/* ---- the parser's memory
 * ----------------------------------------------------------------------------------------- */

struct held { /* before each piece of the parser's memory; 16-byte aligned */
    struct held *prev, *next;
    size_t size, pad;
};
struct parser_memory {
    struct held list; /* ring */
    size_t used, max, calls;
    int64_t deadline_us;
    jmp_buf leave;
    enum cairn_err err;
};

static void *parser_alloc(void *ctx, size_t size)
{
    struct parser_memory *m = ctx;
    if (size > m->max - m->used)
        m->err = CAIRN_EFULL;
    else if (++m->calls % CLOCK_EVERY == 0 && cairn_now_us() > m->deadline_us)
        m->err = CAIRN_EINVAL;
    struct held *h = m->err ? NULL : cairn_malloc(sizeof(*h) + size);
    if (!h) {
        if (!m->err)
            m->err = CAIRN_ENOMEM;
        longjmp(m->leave, 1);
    }
    *h = (struct held){m->list.prev, &m->list, size, 0};
    m->list.prev->next = h;
    m->list.prev = h;
    m->used += size;
    return h + 1;
}

static void parser_free(void *ctx, void *p)
{
    struct parser_memory *m = ctx;
    if (!p)
        return;
    struct held *h = (struct held *)p - 1;
    h->prev->next = h->next;
    h->next->prev = h->prev;
    m->used -= h->size;
    cairn_free(h);
}

static void parser_memory_release(struct parser_memory *m)
{
    for (struct held *h = m->list.next, *next; h != &m->list; h = next) {
        next = h->next;
        cairn_free(h);
    }
}

static GumboOutput *parse(struct parser_memory *m, const char *html, size_t len)
{
    GumboOptions options = kGumboDefaultOptions;
    options.allocator = parser_alloc;
    options.deallocator = parser_free;
    options.userdata = m;
    options.max_errors = 0;
    if (setjmp(m->leave))
        return NULL;
    return gumbo_parse_with_options(&options, html, len);
}

/* ---- what is seen
 * ----------------------------------------------------------------------------------------------------- */

static const char *attribute(const GumboNode *n, const char *name)
{
    const GumboAttribute *a = gumbo_get_attribute(&n->v.element.attributes, name);
    return a ? a->value : NULL;
}

static bool word_is(const char *s, size_t len, const char *word)
{
    size_t n = strlen(word);
    return len >= n && strncasecmp(s, word, n) == 0 && (len == n || s[n] == ' ' || s[n] == '!');
}

/* "0", "0px", "0.0%": a number that is nothing. */
static bool zero(const char *s, size_t len)
{
    size_t i = 0;
    while (i < len && (s[i] == '0' || s[i] == '.'))
        i++;
    return i && (i == len || s[i] < '1' || s[i] > '9');
}

static bool style_hides(const char *style)
{
    size_t len = strnlen(style, STYLE_BYTES_MAX);
    for (size_t at = 0; at < len;) {
        size_t end = at;
        while (end < len && style[end] != ';')
            end++;
        const char *colon = memchr(style + at, ':', end - at);
        if (colon) {
            size_t name = at, name_end = (size_t)(colon - style), value = name_end + 1, value_end = end;
            text_trim(style, &name, &name_end);
            text_trim(style, &value, &value_end);
            const char *v = style + value;
            size_t v_len = value_end - value, n_len = name_end - name;
            if (n_len == 7 && !strncasecmp(style + name, "display", 7) && word_is(v, v_len, "none"))
                return true;
            if (n_len == 10 && !strncasecmp(style + name, "visibility", 10) &&
                (word_is(v, v_len, "hidden") || word_is(v, v_len, "collapse")))
                return true;
            if (n_len == 7 && !strncasecmp(style + name, "opacity", 7) && zero(v, v_len))
                return true;
            if (n_len == 9 && !strncasecmp(style + name, "font-size", 9) && zero(v, v_len))
                return true;
        }
        at = end + 1;
    }
    return false;
}

static bool tag_text_is(const GumboNode *n, const char *name)
{
    GumboStringPiece s = n->v.element.original_tag;
    if (!s.data || !s.length)
        return false;
    gumbo_tag_from_original_text(&s);
    return s.length == strlen(name) && strncasecmp(s.data, name, s.length) == 0;
}

static bool unseen(const GumboNode *n)
{
    switch (n->v.element.tag) {
    case GUMBO_TAG_HEAD:
    case GUMBO_TAG_SCRIPT:
    case GUMBO_TAG_STYLE:
    case GUMBO_TAG_NOSCRIPT:
    case GUMBO_TAG_TEMPLATE:
    case GUMBO_TAG_NAV:
    case GUMBO_TAG_IFRAME:
    case GUMBO_TAG_NOFRAMES:
    case GUMBO_TAG_NOEMBED:
    case GUMBO_TAG_OBJECT:
    case GUMBO_TAG_EMBED:
    case GUMBO_TAG_APPLET:
    case GUMBO_TAG_SVG:
    case GUMBO_TAG_CANVAS:
    case GUMBO_TAG_AUDIO:
    case GUMBO_TAG_VIDEO:
    case GUMBO_TAG_SELECT:
    case GUMBO_TAG_DATALIST:
    case GUMBO_TAG_BUTTON:
    case GUMBO_TAG_TEXTAREA:
    case GUMBO_TAG_PROGRESS:
    case GUMBO_TAG_METER:
    case GUMBO_TAG_DEL:
    case GUMBO_TAG_S:
    case GUMBO_TAG_STRIKE:
    case GUMBO_TAG_TITLE:
        return true;
    case GUMBO_TAG_UNKNOWN:
        if (tag_text_is(n, "dialog") && !attribute(n, "open"))
            return true;
        break;
    default:
        break;
    }
    const char *style = attribute(n, "style");
    return attribute(n, "hidden") || (style && style_hides(style));
}

/* ---- walking without recursion
 * ------------------------------------------------------------------------------------------ */

struct step {
    const GumboNode *node;
    unsigned child;
};
struct walk {
    struct step *steps;
    size_t n, cap;
};

static const GumboVector *children(const GumboNode *n)
{
    if (n->type == GUMBO_NODE_ELEMENT || n->type == GUMBO_NODE_TEMPLATE)
        return &n->v.element.children;
    return n->type == GUMBO_NODE_DOCUMENT ? &n->v.document.children : &kGumboEmptyVector;
}

static bool walk_push(struct walk *w, const GumboNode *n)
{
    if (w->n == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 64;
        struct step *steps = cairn_reallocarray(w->steps, cap, sizeof(*steps));
        if (!steps)
            return false;
        w->steps = steps;
        w->cap = cap;
    }
    w->steps[w->n++] = (struct step){n, 0};
    return true;
}

/* What a look into a subtree found. Visits at most `budget` nodes. */
struct look {
    size_t text, link_text, cells_max, links;
    bool table, heading, ok;
    char first; /* first byte of its text */
};

static struct look look_into(const GumboNode *root, size_t budget)
{
    struct look k = {.ok = true};
    struct walk w = {0};
    size_t link_depth = 0; /* walk depth of the outermost open link */
    k.ok = walk_push(&w, root);
    while (k.ok && w.n && budget) {
        struct step *s = &w.steps[w.n - 1];
        const GumboVector *c = children(s->node);
        if (s->child == c->length) {
            w.n--;
            if (link_depth > w.n)
                link_depth = 0;
            continue;
        }
        const GumboNode *n = c->data[s->child++];
        budget--;
        if (n->type == GUMBO_NODE_TEXT) {
            size_t len = strlen(n->v.text.text);
            if (!k.text)
                k.first = n->v.text.text[strspn(n->v.text.text, " \t\n\f\r")];
            k.text += len;
            k.link_text += link_depth ? len : 0;
        } else if (n->type == GUMBO_NODE_ELEMENT && !unseen(n)) {
            GumboTag tag = n->v.element.tag;
            k.table |= tag == GUMBO_TAG_TABLE;
            k.heading |= tag >= GUMBO_TAG_H1 && tag <= GUMBO_TAG_H6;
            if (tag == GUMBO_TAG_TR) {
                size_t cells = 0;
                for (unsigned i = 0; i < n->v.element.children.length; i++) {
                    const GumboNode *cell = n->v.element.children.data[i];
                    cells += cell->type == GUMBO_NODE_ELEMENT &&
                             (cell->v.element.tag == GUMBO_TAG_TD || cell->v.element.tag == GUMBO_TAG_TH);
                }
                k.cells_max = cells > k.cells_max ? cells : k.cells_max;
            }
            k.ok = walk_push(&w, n);
            if (tag == GUMBO_TAG_A) {
                k.links++;
                link_depth = link_depth ? link_depth : w.n;
            }
        }
    }
    cairn_free(w.steps);
    return k;
}

/* ---- writing the text
 * ----------------------------------------------------------------------------------------------------- */

struct page {
    struct outline *o;
    struct cairn_buf text;
    struct cairn_buf words; /* of the open heading */
    struct cairn_why *why;
    enum cairn_err err;
    size_t n_invisible;
    uint32_t prev; /* last code point seen, for text_invisible */

    bool open;                         /* a block has text */
    size_t start;                      /* of it */
    unsigned breaks;                   /* newlines wanted before the next block */
    bool space, line;                  /* a space or line break is owed inside the block */
    unsigned pre, heading, row, lists; /* depths; heading: level; lists: open lists */
    bool item;                         /* the next text starts a list item */
    struct {
        bool ordered;
        long number;
    } list[LIST_INDENT_MAX + 1];
    uint32_t group;      /* of the open table */
    bool header, filled; /* the row holds th; the row has text */
    bool glue;
    size_t tables;
};

static enum piece_kind page_kind(const struct page *p)
{
    return p->heading ? PIECE_HEADING
           : p->row   ? PIECE_ROW
           : p->pre   ? PIECE_CODE
           : p->lists ? PIECE_ITEM
                      : PIECE_PARAGRAPH;
}

/* Ends the open block; the next one starts after `breaks` newlines at least. */
static void block_end(struct page *p, unsigned breaks)
{
    if (p->open && !p->err) {
        size_t end = p->text.len;
        if (p->heading)
            p->err =
                outline_heading(p->o, p->heading, (struct cairn_str){p->words.bytes, p->words.len}, p->why);
        if (!p->err)
            p->err = outline_add(p->o, p->text.bytes, p->start, end, page_kind(p), p->row ? p->group : 0,
                                 p->glue || (!p->row && end && p->text.bytes[end - 1] == ':'), p->why);
        p->breaks = 0;
    }
    cairn_buf_clear(&p->words);
    p->open = p->space = p->line = p->glue = false;
    if (p->breaks < breaks)
        p->breaks = breaks;
}

static void put(struct page *p, const char *s, size_t n) { cairn_buf_put(&p->text, s, n); }

/* Before the first text of a block: the newlines owed and its mark. */
static void block_begin(struct page *p)
{
    if (p->text.len)
        put(p, "\n\n", p->breaks > 1 ? 2 : 1);
    p->breaks = 0;
    p->open = true;
    p->start = p->text.len;
    if (p->heading) {
        put(p, "######", p->heading);
        put(p, " ", 1);
    } else if (p->lists && !p->row) {
        unsigned depth = p->lists > LIST_INDENT_MAX ? LIST_INDENT_MAX : p->lists;
        for (unsigned i = 1; i < depth; i++)
            put(p, "  ", 2);
        if (p->item && p->list[depth].ordered)
            cairn_buf_printf(&p->text, "%ld. ", p->list[depth].number);
        else
            put(p, p->item ? "- " : "  ", 2);
        p->item = false;
    }
}

static void write_bytes(struct page *p, const char *s, size_t n)
{
    if (!p->open)
        block_begin(p);
    else if (p->line)
        put(p, "\n", 1);
    else if (p->space)
        put(p, " ", 1);
    if (p->heading && p->words.len < 4 * HEADING_BYTES_MAX) {
        if (p->space || p->line)
            cairn_buf_put(&p->words, " ", 1);
        cairn_buf_put(&p->words, s, n);
    }
    p->space = p->line = false;
    put(p, s, n);
}

static void write_text(struct page *p, const char *s)
{
    size_t len = strlen(s);
    bool pre = p->pre && !p->row && !p->heading;
    for (size_t at = 0; at < len && !p->text.failed;) {
        size_t space = text_space(s + at, len - at);
        if (space && pre && p->open) {
            put(p, s + at, space);
            at += space;
            continue;
        }
        if (space) {
            p->space |= p->open;
            if (pre) { /* indentation of the first line */
                size_t first = at;
                while (at < len && (space = text_space(s + at, len - at)) > 0)
                    at += space;
                while (first < at && memchr(s + first, '\n', at - first))
                    first++;
                if (at < len && first < at) {
                    block_begin(p);
                    put(p, s + first, at - first);
                }
                continue;
            }
            at += space;
            continue;
        }
        uint32_t cp, next = 0;
        size_t n = cairn_utf8_next(s + at, len - at, &cp);
        if (n == 0)
            break; /* gumbo writes valid UTF-8 only */
        if (at + n < len && !cairn_utf8_next(s + at + n, len - at - n, &next))
            next = 0;
        bool hidden = text_invisible(cp, p->prev, next) || cp < 0x20 || (cp >= 0x7F && cp < 0xA0);
        p->prev = cp;
        p->n_invisible += hidden;
        p->filled |= !hidden;
        if (!hidden)
            write_bytes(p, s + at, n);
        at += n;
    }
}

/* ---- elements
 * -----------------------------------------------------------------------------------------------------------------
 */

/* 0: inside a line; else the newlines around the block. */
static unsigned block_breaks(GumboTag tag)
{
    switch (tag) {
    case GUMBO_TAG_P:
    case GUMBO_TAG_H1:
    case GUMBO_TAG_H2:
    case GUMBO_TAG_H3:
    case GUMBO_TAG_H4:
    case GUMBO_TAG_H5:
    case GUMBO_TAG_H6:
    case GUMBO_TAG_PRE:
    case GUMBO_TAG_LISTING:
    case GUMBO_TAG_XMP:
    case GUMBO_TAG_PLAINTEXT:
    case GUMBO_TAG_BLOCKQUOTE:
    case GUMBO_TAG_TABLE:
    case GUMBO_TAG_FIGURE:
    case GUMBO_TAG_HR:
    case GUMBO_TAG_ARTICLE:
    case GUMBO_TAG_SECTION:
    case GUMBO_TAG_MAIN:
    case GUMBO_TAG_ASIDE:
    case GUMBO_TAG_HEADER:
    case GUMBO_TAG_FOOTER:
    case GUMBO_TAG_FIELDSET:
    case GUMBO_TAG_DETAILS:
    case GUMBO_TAG_DL:
        return 2;
    case GUMBO_TAG_UL:
    case GUMBO_TAG_OL:
    case GUMBO_TAG_MENU:
    case GUMBO_TAG_DIR:
    case GUMBO_TAG_LI:
    case GUMBO_TAG_DIV:
    case GUMBO_TAG_DT:
    case GUMBO_TAG_DD:
    case GUMBO_TAG_ADDRESS:
    case GUMBO_TAG_CENTER:
    case GUMBO_TAG_FORM:
    case GUMBO_TAG_FIGCAPTION:
    case GUMBO_TAG_LEGEND:
    case GUMBO_TAG_SUMMARY:
    case GUMBO_TAG_HGROUP:
    case GUMBO_TAG_CAPTION:
    case GUMBO_TAG_BODY:
    case GUMBO_TAG_TR:
    case GUMBO_TAG_TD: /* of a layout table */
    case GUMBO_TAG_TH:
    case GUMBO_TAG_OPTION:
        return 1;
    default:
        return 0;
    }
}

static bool list_tag(GumboTag t)
{
    return t == GUMBO_TAG_UL || t == GUMBO_TAG_OL || t == GUMBO_TAG_MENU || t == GUMBO_TAG_DIR;
}

static long list_number(const GumboNode *n, const char *name, long otherwise)
{
    const char *s = attribute(n, name);
    if (!s)
        return otherwise;
    char *end;
    long v = strtol(s, &end, 10);
    return end == s || v < -999999 || v > 999999 ? otherwise : v;
}

#define LOOK_NODES_MAX 20000u

/* True when the element's children are to be visited. */
static bool element_enter(struct page *p, const GumboNode *n, bool *data_table)
{
    GumboTag tag = n->v.element.tag;
    if (unseen(n))
        return false;
    *data_table = false;
    if (p->row) { /* a cell is one line: blocks in it are words side by side */
        if (tag == GUMBO_TAG_TD || tag == GUMBO_TAG_TH) {
            p->header |= tag == GUMBO_TAG_TH;
            if (p->row++ > 1) {
                bool filled = p->filled;
                p->space = p->open; /* "a |", then " b" */
                write_bytes(p, "|", 1);
                p->filled = filled;
                p->space = true;
            }
        } else if (block_breaks(tag) || tag == GUMBO_TAG_BR)
            p->space |= p->open;
    } else if (tag == GUMBO_TAG_BR) {
        if (p->pre && p->open)
            put(p, "\n", 1);
        else if (p->heading)
            p->space |= p->open;
        else
            p->line |= p->open;
    } else if (tag == GUMBO_TAG_TR && p->group) {
        block_end(p, 1);
        p->row = 1;
        p->header = p->filled = false;
    } else if (block_breaks(tag) && !p->heading) {
        block_end(p, p->lists && block_breaks(tag) > 1 && tag != GUMBO_TAG_TABLE ? 1 : block_breaks(tag));
        if (tag >= GUMBO_TAG_H1 && tag <= GUMBO_TAG_H6) {
            if (!p->lists && !p->group)
                p->heading = (unsigned)(tag - GUMBO_TAG_H1) + 1;
        } else if (list_tag(tag)) {
            p->lists++;
            unsigned depth = p->lists > LIST_INDENT_MAX ? LIST_INDENT_MAX : p->lists;
            p->list[depth].ordered = tag == GUMBO_TAG_OL;
            p->list[depth].number = list_number(n, "start", 1) - 1;
        } else if (tag == GUMBO_TAG_LI && p->lists) {
            unsigned depth = p->lists > LIST_INDENT_MAX ? LIST_INDENT_MAX : p->lists;
            p->list[depth].number = list_number(n, "value", p->list[depth].number + 1);
            p->item = true;
        } else if (tag == GUMBO_TAG_TABLE && !p->group) {
            const char *role = attribute(n, "role");
            struct look k = look_into(n, LOOK_NODES_MAX);
            if (!k.ok)
                p->err = cairn_fail(p->why, CAIRN_ENOMEM, "HTML table");
            *data_table = !k.table && !k.heading && k.cells_max > LAYOUT_CELLS_MAX &&
                          !(role && !strcmp(role, "presentation"));
            if (*data_table)
                p->group = ++p->o->n_groups;
        } else if (tag == GUMBO_TAG_HEADER || tag == GUMBO_TAG_FOOTER) {
            struct look k = look_into(n, LOOK_NODES_MAX);
            if (!k.ok)
                p->err = cairn_fail(p->why, CAIRN_ENOMEM, "HTML page header");
            if (!k.heading && 2 * k.link_text > k.text)
                return false;
        }
        p->pre += tag == GUMBO_TAG_PRE || tag == GUMBO_TAG_LISTING || tag == GUMBO_TAG_XMP ||
                  tag == GUMBO_TAG_PLAINTEXT;
    } else if (tag == GUMBO_TAG_SUP) {
        struct look k = look_into(n, 64);
        if (k.links && k.first != '[' && k.first)
            write_bytes(p, "[", 1);
        else if (!k.links && ((k.first >= '0' && k.first <= '9') || k.first == '-' || k.first == '+' ||
                              k.first == '\xE2'))
            write_bytes(p, "^", 1);
    } else if (tag == GUMBO_TAG_Q)
        write_text(p, "\"");
    return true;
}

static void element_leave(struct page *p, const GumboNode *n, bool data_table)
{
    GumboTag tag = n->v.element.tag;
    if (p->row) {
        if (tag == GUMBO_TAG_TR) {
            if (!p->filled && p->open) { /* only bars: no row */
                p->text.len = p->start;
                while (p->text.len && p->text.bytes[p->text.len - 1] == '\n')
                    p->text.len--;
                if (p->text.bytes)
                    p->text.bytes[p->text.len] = '\0';
                p->open = p->space = false;
            }
            p->glue = p->header;
            block_end(p, 1);
            p->row = 0;
        } else if (block_breaks(tag))
            p->space |= p->open;
    } else if (p->heading) {
        if (tag >= GUMBO_TAG_H1 && tag <= GUMBO_TAG_H6) {
            block_end(p, 2);
            p->heading = 0;
        } else
            p->space |= p->open && block_breaks(tag);
    } else if (block_breaks(tag)) {
        p->glue = tag == GUMBO_TAG_CAPTION;
        block_end(p, p->lists > 1 || (p->lists && !list_tag(tag)) ? 1
                     : list_tag(tag)                              ? 2
                                                                  : block_breaks(tag));
        p->lists -= list_tag(tag) && p->lists;
        p->item &= !(tag == GUMBO_TAG_LI);
        p->pre -= p->pre && (tag == GUMBO_TAG_PRE || tag == GUMBO_TAG_LISTING || tag == GUMBO_TAG_XMP ||
                             tag == GUMBO_TAG_PLAINTEXT);
        if (data_table)
            p->group = 0;
    } else if (tag == GUMBO_TAG_SUP) {
        struct look k = look_into(n, 64);
        if (k.links && k.first != '[' && k.first && p->open) {
            p->space = p->line = false;
            write_bytes(p, "]", 1);
        }
    } else if (tag == GUMBO_TAG_Q && p->open) {
        p->space = false;
        write_text(p, "\"");
    }
}

static void page_write(struct page *p, const GumboNode *root)
{
    struct walk w = {0};
    const GumboNode *data_table = NULL; /* data tables do not nest */
    if (!walk_push(&w, root))
        p->err = cairn_fail(p->why, CAIRN_ENOMEM, "HTML tree");
    while (!p->err && w.n) {
        if (p->text.failed) {
            p->err =
                p->text.len + 64 >= p->text.max
                    ? cairn_fail(p->why, CAIRN_EFULL, "the text of the page is over %zu bytes", p->text.max)
                    : cairn_fail(p->why, CAIRN_ENOMEM, "text of a page");
            break;
        }
        struct step *s = &w.steps[w.n - 1];
        const GumboVector *c = children(s->node);
        if (s->child == c->length) {
            const GumboNode *n = s->node;
            w.n--;
            if (n->type == GUMBO_NODE_ELEMENT) {
                element_leave(p, n, n == data_table);
                if (n == data_table)
                    data_table = NULL;
            }
            continue;
        }
        const GumboNode *n = c->data[s->child++];
        if (n->type == GUMBO_NODE_TEXT || n->type == GUMBO_NODE_CDATA || n->type == GUMBO_NODE_WHITESPACE)
            write_text(p, n->v.text.text);
        else if (n->type == GUMBO_NODE_ELEMENT) {
            bool data;
            if (!element_enter(p, n, &data))
                continue;
            if (data)
                data_table = n;
            if (!walk_push(&w, n))
                p->err = cairn_fail(p->why, CAIRN_ENOMEM, "HTML tree");
        }
    }
    block_end(p, 1);
    cairn_free(w.steps);
}

/* The text of <title>, if there is one in the head. */
static enum cairn_err page_title(struct outline *o, const GumboNode *root, struct cairn_why *why)
{
    const GumboVector *top = &root->v.element.children;
    for (unsigned i = 0; i < top->length; i++) {
        const GumboNode *head = top->data[i];
        if (head->type != GUMBO_NODE_ELEMENT || head->v.element.tag != GUMBO_TAG_HEAD)
            continue;
        for (unsigned k = 0; k < head->v.element.children.length; k++) {
            const GumboNode *t = head->v.element.children.data[k];
            if (t->type != GUMBO_NODE_ELEMENT || t->v.element.tag != GUMBO_TAG_TITLE ||
                !t->v.element.children.length)
                continue;
            const GumboNode *s = t->v.element.children.data[0];
            if (s->type != GUMBO_NODE_TEXT)
                continue;
            struct outline words = {0}; /* squeezed and cut as headings are */
            enum cairn_err err = outline_heading(&words, 1, cairn_str_of(s->v.text.text), why);
            if (!err) {
                o->title = words.title;
                words.title = NULL;
            }
            outline_release(&words);
            return err;
        }
    }
    return CAIRN_OK;
}

enum cairn_err html_outline(struct outline *o, char **text, size_t *text_len, size_t *n_invisible,
                            const char *html, size_t len, const struct html_limits *limits,
                            struct cairn_why *why)
{
    *text = NULL;
    *text_len = *n_invisible = 0;
    enum cairn_err err = html_guard(html, len, limits->depth_max, limits->attributes_max, why);
    if (err)
        return err;
    struct parser_memory *m = cairn_calloc(1, sizeof(*m));
    if (!m)
        return cairn_fail(why, CAIRN_ENOMEM, "HTML parser");
    m->list.prev = m->list.next = &m->list;
    m->max = limits->tree_bytes_max;
    m->deadline_us = cairn_now_us() + limits->parse_us_max;
    struct page p = {.o = o, .why = why};
    cairn_buf_init(&p.text, limits->text_bytes_max);
    cairn_buf_init(&p.words, 8 * HEADING_BYTES_MAX);
    GumboOutput *tree = parse(m, html, len);
    if (!tree) {
        if (m->err == CAIRN_EFULL)
            err = cairn_fail(why, CAIRN_EFULL,
                             "HTML: the tree needs more than %zu bytes: split the page, or raise "
                             "loaders.html_tree_bytes_max",
                             m->max);
        else if (m->err == CAIRN_EINVAL)
            err = cairn_fail(why, CAIRN_EINVAL,
                             "HTML: building the tree took longer than %g s, its tags are badly nested: "
                             "repair the file, or raise "
                             "loaders.html_seconds_max",
                             (double)limits->parse_us_max / 1e6);
        else
            err = cairn_fail(why, CAIRN_ENOMEM, "HTML tree");
        goto done;
    }
    page_write(&p, tree->root);
    err = p.err;
    if (!err && !o->title)
        err = page_title(o, tree->root, why);
    if (!err) {
        *text_len = p.text.len;
        *text = p.text.bytes ? cairn_buf_steal(&p.text) : cairn_strndup("", 0);
        *n_invisible = p.n_invisible;
        if (!*text)
            err = cairn_fail(why, CAIRN_ENOMEM, "text of a page");
    }
done:
    parser_memory_release(m);
    cairn_free(m);
    cairn_buf_release(&p.text);
    cairn_buf_release(&p.words);
    return err;
}
