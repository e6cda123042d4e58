/* markdown.c - the outline of CommonMark text, blocks found by libcmark-gfm, tables (GitHub's) by us.
 * The document's text is the file itself, so a piece is a run of whole lines: the parser says which lines a
 * block covers, lines that no block claims (link definitions) become paragraphs. So nothing is lost whatever
 * the parser's positions are.
 *
 * Only the block structure is wanted, but the parser reads inline markup too, and some of that takes
 * quadratic time on hostile input (unclosed brackets, emphasis, entities, raw HTML). So it is given a copy of
 * equal length in which bytes that only matter inside a line are masked by 'x', containers nest at most
 * NEST_MAX deep and indentation counts up to INDENT_MAX columns. Headings are short: their markup is parsed
 * one by one, cut to HEADING_SOURCE_MAX bytes. */
#include "loaders_private.h"

#include <cmark-gfm.h>
#include <string.h>

#define NEST_MAX 64u
#define INDENT_MAX 256u
#define HEADING_SOURCE_MAX 512u
#define FRONT_MATTER_LINES_MAX 256u

struct block {
    enum piece_kind kind;
    unsigned level; /* of a heading that counts */
    bool table;     /* a paragraph that may hold a table */
};
struct markdown {
    struct outline *o;
    const char *text;
    size_t len;
    struct lines lines;
    uint32_t *owner; /* [lines.n] index into blocks + 1; 0: nobody */
    struct block *blocks;
    size_t n, cap;
};

/* Bytes of the line without its end. */
static size_t line_end(const struct markdown *m, size_t line)
{
    size_t start = m->lines.starts[line], end = m->lines.starts[line + 1];
    while (end > start && (m->text[end - 1] == '\n' || m->text[end - 1] == '\r'))
        end--;
    return end;
}

/* ---- the copy that the parser sees
 * ------------------------------------------------------------------------------- */

static bool digit(char c) { return c >= '0' && c <= '9'; }

/* Length of a container marker at s: '>', a bullet or a number; 0 when there is none. */
static size_t marker(const char *s, size_t len)
{
    if (s[0] == '>')
        return 1;
    size_t n = 1;
    if (s[0] != '-' && s[0] != '+' && s[0] != '*') {
        for (n = 0; n < len && n < 9 && digit(s[n]);)
            n++;
        if (n == 0 || n == len || (s[n] != '.' && s[n] != ')'))
            return 0;
        n++;
    }
    return n == len || s[n] == ' ' || s[n] == '\t' ? n : 0;
}

static bool only(const char *s, size_t len, const char *set)
{
    for (size_t i = 0; i < len; i++)
        if (!strchr(set, s[i]))
            return false;
    return true;
}

/* Masks one line [s, s + len) in place; its end is not part of it. */
static void mask_line(char *s, size_t len)
{
    size_t at = 0, markers = 0, indent = 0;
    for (;;) {
        while (at < len && (s[at] == ' ' || s[at] == '\t')) {
            if (++indent > INDENT_MAX)
                s[at] = 'x';
            at++;
        }
        size_t n = at < len ? marker(s + at, len - at) : 0;
        if (!n)
            break;
        if (++markers > NEST_MAX) {
            memset(s + at, 'x', len - at);
            return;
        }
        at += n;
    }
    if (at == len)
        return;
    char c = s[at];
    size_t run = 1;
    while (at + run < len && s[at + run] == c)
        run++;
    if ((c == '-' || c == '_' || c == '*' || c == '=') && only(s + at, len - at, "-_*= \t")) {
        char set[] = {c, ' ', '\t', '\0'};
        if (run < len - at && !only(s + at, len - at, set)) /* neither a rule nor an underline */
            memset(s + at, 'x', len - at);
        else if (c == '*' || c == '_') { /* three are a rule, fewer are emphasis without words */
            size_t marks = 0;
            for (size_t i = at; i < len; i++)
                marks += s[i] == c;
            if (marks < 3)
                memset(s + at, 'x', len - at);
        }
        return;
    }
    if (c == '`' && run >= 3 && !memchr(s + at + run, '`', len - at - run))
        return;
    if (c == '~' && run >= 3)
        return;
    size_t i = at;
    if (c == '<') /* an HTML block may start here: keep how it starts */
        i = at + 9 < len ? at + 9 : len;
    for (; i < len; i++)
        switch (s[i]) {
        case '*':
        case '_':
        case '[':
        case '!':
        case '&':
        case '\\':
        case '`':
            s[i] = 'x';
            break;
        case '<': /* "</script>" ends an HTML block */
            if (i + 1 == len || s[i + 1] != '/')
                s[i] = 'x';
            break;
        default:
            break;
        }
}

/* ---- blocks
 * ----------------------------------------------------------------------------------------------------------
 */

static enum cairn_err claim(struct markdown *m, size_t first, size_t last, struct block b, size_t *next,
                            struct cairn_why *why)
{
    if (last >= m->lines.n)
        last = m->lines.n - 1;
    if (first < *next)
        first = *next;
    if (first > last)
        return CAIRN_OK;
    if (m->n == m->cap) {
        size_t cap = m->cap ? m->cap * 2 : 64;
        struct block *blocks = cairn_reallocarray(m->blocks, cap, sizeof(*blocks));
        if (!blocks)
            return cairn_fail(why, CAIRN_ENOMEM, "%zu Markdown blocks", cap);
        m->blocks = blocks;
        m->cap = cap;
    }
    m->blocks[m->n++] = b;
    for (size_t i = first; i <= last; i++)
        m->owner[i] = (uint32_t)m->n;
    *next = last + 1;
    return CAIRN_OK;
}

/* Walks the block nodes without recursion; leaves claim their lines in document order. */
static enum cairn_err walk(struct markdown *m, cmark_node *root, size_t skip_lines, struct cairn_why *why)
{
    size_t next = skip_lines, quote_depth = 0, list_depth = 0;
    enum cairn_err err = CAIRN_OK;
    cmark_node *node = cmark_node_first_child(root);
    while (node && !err) {
        cmark_node_type type = cmark_node_get_type(node);
        bool container = type == CMARK_NODE_BLOCK_QUOTE || type == CMARK_NODE_LIST || type == CMARK_NODE_ITEM;
        if (container && cmark_node_first_child(node)) {
            quote_depth += type == CMARK_NODE_BLOCK_QUOTE;
            list_depth += type == CMARK_NODE_ITEM;
            node = cmark_node_first_child(node);
            continue;
        }
        int from = cmark_node_get_start_line(node), to = cmark_node_get_end_line(node);
        if (from > 0 && to >= from) {
            struct block b = {.kind = list_depth ? PIECE_ITEM : PIECE_PARAGRAPH};
            if (type == CMARK_NODE_HEADING && !quote_depth && !list_depth)
                b = (struct block){.kind = PIECE_HEADING,
                                   .level = (unsigned)cmark_node_get_heading_level(node)};
            else if (type == CMARK_NODE_CODE_BLOCK)
                b.kind = PIECE_CODE;
            else if (type == CMARK_NODE_PARAGRAPH)
                b.table = true;
            err = claim(m, (size_t)from - 1, (size_t)to - 1, b, &next, why);
        }
        while (node && !cmark_node_next(node)) {
            node = cmark_node_parent(node);
            if (node == root)
                return err;
            quote_depth -= node && cmark_node_get_type(node) == CMARK_NODE_BLOCK_QUOTE;
            list_depth -= node && cmark_node_get_type(node) == CMARK_NODE_ITEM;
        }
        node = node ? cmark_node_next(node) : NULL;
    }
    return err;
}

/* ---- headings
 * ----------------------------------------------------------------------------------------------------------
 */

/* The words of a heading's source, without its markup. */
static enum cairn_err heading_words(struct cairn_buf *words, const char *s, size_t len, struct cairn_why *why)
{
    if (len > HEADING_SOURCE_MAX)
        len = cairn_utf8_floor(s, HEADING_SOURCE_MAX);
    cmark_node *root = cmark_parse_document(s, len, CMARK_OPT_DEFAULT);
    cmark_iter *it = root ? cmark_iter_new(root) : NULL;
    if (!it) {
        if (root)
            cmark_node_free(root);
        return cairn_fail(why, CAIRN_ENOMEM, "Markdown heading");
    }
    for (cmark_event_type e; (e = cmark_iter_next(it)) != CMARK_EVENT_DONE;) {
        cmark_node *n = cmark_iter_get_node(it);
        cmark_node_type type = cmark_node_get_type(n);
        if (e != CMARK_EVENT_ENTER)
            continue;
        if (type == CMARK_NODE_TEXT || type == CMARK_NODE_CODE) {
            const char *literal = cmark_node_get_literal(n);
            cairn_buf_puts(words, literal ? literal : "");
        } else if (type == CMARK_NODE_SOFTBREAK || type == CMARK_NODE_LINEBREAK)
            cairn_buf_puts(words, " ");
    }
    cmark_iter_free(it);
    cmark_node_free(root);
    return words->failed ? cairn_fail(why, CAIRN_ENOMEM, "Markdown heading") : CAIRN_OK;
}

static enum cairn_err open_heading(struct markdown *m, size_t start, size_t end, unsigned level,
                                   struct cairn_why *why)
{
    struct cairn_buf words;
    cairn_buf_init(&words, 8 * HEADING_SOURCE_MAX); /* entities may grow */
    enum cairn_err err = heading_words(&words, m->text + start, end - start, why);
    if (!err)
        err = outline_heading(m->o, level, (struct cairn_str){words.bytes, words.len}, why);
    cairn_buf_release(&words);
    return err;
}

/* ---- tables
 * --------------------------------------------------------------------------------------------------------------
 */

/* Cells of a row of a GitHub table; 0 when the line holds no bar. delimiter: whether it is the line under the
 * header. */
static size_t row_cells(const char *s, size_t len, bool *delimiter)
{
    size_t at = 0;
    while (at < len && (s[at] == ' ' || s[at] == '\t' || s[at] == '>'))
        at++;
    while (len > at && (s[len - 1] == ' ' || s[len - 1] == '\t'))
        len--;
    *delimiter = at < len && only(s + at, len - at, "|:- \t") && memchr(s + at, '-', len - at);
    size_t bars = 0, edge = 0;
    for (size_t i = at; i < len; i++) {
        if (s[i] == '\\') {
            i++;
            continue;
        }
        if (s[i] != '|')
            continue;
        bars++;
        edge += i == at || i == len - 1;
    }
    if (!bars || len - at < 2)
        return 0;
    return bars + 1 - edge;
}

static size_t cells_at(const struct markdown *m, size_t line, bool *delimiter)
{
    size_t start = m->lines.starts[line];
    return row_cells(m->text + start, line_end(m, line) - start, delimiter);
}

/* A paragraph's lines [from, to): the text before a table, then its rows. */
static enum cairn_err add_paragraph(struct markdown *m, size_t from, size_t to, enum piece_kind kind,
                                    struct cairn_why *why)
{
    size_t header = to;
    bool delimiter, ignored;
    for (size_t i = from; i + 1 < to && header == to; i++) {
        size_t cells = cells_at(m, i, &ignored);
        if (cells && cells_at(m, i + 1, &delimiter) == cells && delimiter && !ignored)
            header = i;
    }
    const uint32_t *starts = m->lines.starts;
    enum cairn_err err = CAIRN_OK;
    if (header > from) {
        size_t end = line_end(m, header - 1), start = starts[from];
        text_trim(m->text, &start, &end);
        err = outline_add(m->o, m->text, start, end, kind, 0, end > start && m->text[end - 1] == ':', why);
    }
    if (header == to)
        return err;
    uint32_t group = ++m->o->n_groups;
    for (size_t i = header; i < to && !err; i++)
        err = outline_add(m->o, m->text, starts[i], line_end(m, i), PIECE_ROW, group,
                          i < header + 2 && i + 1 < to, why);
    return err;
}

/* ---- front matter
 * -----------------------------------------------------------------------------------------------------------
 */

/* Lines of a YAML header between "---" lines at the very top, or 0. Its "title:" names the document. */
static enum cairn_err front_matter(struct markdown *m, size_t *n_lines, struct cairn_why *why)
{
    *n_lines = 0;
    struct cairn_str title = {0};
    for (size_t i = 0; i < m->lines.n && i < FRONT_MATTER_LINES_MAX; i++) {
        const char *s = m->text + m->lines.starts[i];
        size_t len = line_end(m, i) - m->lines.starts[i];
        while (len && (s[len - 1] == ' ' || s[len - 1] == '\t'))
            len--;
        bool fence = len == 3 && memcmp(s, "---", 3) == 0;
        if (i == 0 && !fence)
            return CAIRN_OK;
        if (i && (fence || (len == 3 && memcmp(s, "...", 3) == 0))) {
            *n_lines = i + 1;
            break;
        }
        if (len > 6 && memcmp(s, "title:", 6) == 0) {
            size_t from = 6, to = len;
            text_trim(s, &from, &to);
            if (to > from + 1 && (s[from] == '"' || s[from] == '\'') && s[to - 1] == s[from])
                from++, to--;
            title = (struct cairn_str){s + from, to - from};
        }
    }
    if (!*n_lines || !title.len)
        return CAIRN_OK;
    if (title.len > HEADING_BYTES_MAX)
        title.len = cairn_utf8_floor(title.p, HEADING_BYTES_MAX);
    m->o->title = cairn_strndup(title.p, title.len);
    return m->o->title ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "title");
}

/* ---- all of it
 * -----------------------------------------------------------------------------------------------------------------
 */

static enum cairn_err parse_blocks(struct markdown *m, size_t skip_lines, struct cairn_why *why)
{
    char *copy = cairn_strndup(m->text, m->len);
    if (!copy)
        return cairn_fail(why, CAIRN_ENOMEM, "copy of %zu bytes", m->len);
    for (size_t i = 0; i < m->lines.n; i++) {
        size_t start = m->lines.starts[i], end = line_end(m, i);
        if (i < skip_lines)
            memset(copy + start, ' ', end - start);
        else
            mask_line(copy + start, end - start);
    }
    cmark_node *root = cmark_parse_document(copy, m->len, CMARK_OPT_DEFAULT);
    cairn_free(copy);
    if (!root)
        return cairn_fail(why, CAIRN_ENOMEM, "Markdown tree");
    enum cairn_err err = walk(m, root, skip_lines, why);
    cmark_node_free(root);
    return err;
}

static enum cairn_err add_pieces(struct markdown *m, size_t skip_lines, struct cairn_why *why)
{
    const uint32_t *starts = m->lines.starts;
    enum cairn_err err = CAIRN_OK;
    if (skip_lines)
        err = outline_add(m->o, m->text, 0, line_end(m, skip_lines - 1), PIECE_PARAGRAPH, 0, false, why);
    for (size_t i = skip_lines, j; i < m->lines.n && !err; i = j) {
        uint32_t owner = m->owner[i];
        bool blank = !owner && line_blank(m->text, starts[i], starts[i + 1]);
        for (j = i + 1; j < m->lines.n && m->owner[j] == owner; j++)
            if (!owner && (blank || line_blank(m->text, starts[j], starts[j + 1])))
                break;
        if (blank)
            continue;
        struct block b = owner ? m->blocks[owner - 1] : (struct block){.kind = PIECE_PARAGRAPH};
        size_t start = starts[i], end = line_end(m, j - 1);
        if (b.kind == PIECE_HEADING)
            err = open_heading(m, start, end, b.level, why);
        if (!err && b.table)
            err = add_paragraph(m, i, j, b.kind, why);
        else if (!err)
            err = outline_add(m->o, m->text, start, end, b.kind, 0, false, why);
    }
    return err;
}

enum cairn_err markdown_outline(struct outline *o, const char *text, size_t len, struct cairn_why *why)
{
    struct markdown m = {.o = o, .text = text, .len = len};
    size_t skip_lines = 0;
    enum cairn_err err = lines_init(&m.lines, text, len, why);
    if (err)
        return err;
    m.owner = cairn_calloc(m.lines.n + 1, sizeof(*m.owner));
    if (!m.owner)
        err = cairn_fail(why, CAIRN_ENOMEM, "owners of %zu lines", m.lines.n);
    if (!err)
        err = front_matter(&m, &skip_lines, why);
    if (!err)
        err = parse_blocks(&m, skip_lines, why);
    if (!err)
        err = add_pieces(&m, skip_lines, why);
    cairn_free(m.blocks);
    cairn_free(m.owner);
    lines_release(&m.lines);
    return err;
}
