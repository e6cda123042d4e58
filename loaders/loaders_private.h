/* loaders_private.h - what the files of this room share: the outline of a text, and the parsers that make
 * one. An outline is the text's pieces (headings, paragraphs, list items, table rows, code) in order, not
 * overlapping, covering all non-space text; split.c packs pieces into passages. Parsers differ, the splitter
 * is one. */
#ifndef CAIRN_LOADERS_PRIVATE_H
#define CAIRN_LOADERS_PRIVATE_H

#include <cairn/loaders.h>

#define HEADING_BYTES_MAX 200u /* of one heading in a path */
#define PATH_BYTES_MAX 512u    /* headings joined by " > " */
#define HEADINGS_MAX 65536u    /* of one document: bounds the memory of paths */
#define HEADING_LEVELS 6u

enum piece_kind { PIECE_HEADING, PIECE_PARAGRAPH, PIECE_ITEM, PIECE_ROW, PIECE_CODE };
struct piece {
    uint32_t start, end; /* trimmed, never empty */
    uint32_t path;       /* index into outline->paths */
    uint32_t group;      /* pieces of one table share a number; 0: none */
    uint8_t kind;
    bool glue; /* stays with the next piece where the limits allow: a table's header row, "as follows:" */
};
struct outline {
    struct piece *pieces;
    size_t n, cap;
    char **paths; /* [0] is "" */
    size_t n_paths, cap_paths;
    char *levels[HEADING_LEVELS]; /* the open heading of each level, or NULL */
    uint32_t n_groups;
    char *title;       /* from the text: first heading, front matter, <title>; may be NULL */
    size_t n_headings; /* of any level */
};
CAIRN_MUST_USE enum cairn_err outline_init(struct outline *o, struct cairn_why *why);
void outline_release(struct outline *o);
/* Adds [start, end) of text, trimmed; nothing when only space is left. The path is that of the last heading.
 */
CAIRN_MUST_USE enum cairn_err outline_add(struct outline *o, const char *text, size_t start, size_t end,
                                          enum piece_kind kind, uint32_t group, bool glue,
                                          struct cairn_why *why);
/* Opens a heading: later pieces, itself included, get its path. title is plain text of any length; spaces are
 * squeezed. */
CAIRN_MUST_USE enum cairn_err outline_heading(struct outline *o, unsigned level, struct cairn_str title,
                                              struct cairn_why *why);

/* Space that no passage has to cover: ASCII white space and the Unicode spaces. Length in bytes at s, or 0.
 */
size_t text_space(const char *s, size_t len);
/* The same, ending at s + len. */
size_t text_space_before(const char *s, size_t len);
void text_trim(const char *text, size_t *start, size_t *end);
/* Characters that are never shown: zero-width space and joiners outside of scripts that need them, direction
 * overrides, tags, supplementary variation selectors, soft hyphens. prev and next: the neighbouring code
 * points, 0 at the ends. */
bool text_invisible(uint32_t cp, uint32_t prev, uint32_t next);
size_t text_count_invisible(const char *text, size_t len);

/* Lines end with \n, \r\n or \r, as in CommonMark. starts[n] is len. */
struct lines {
    uint32_t *starts;
    size_t n;
};
CAIRN_MUST_USE enum cairn_err lines_init(struct lines *l, const char *text, size_t len,
                                         struct cairn_why *why);
void lines_release(struct lines *l);
bool line_blank(const char *text, size_t start, size_t end);

CAIRN_MUST_USE enum cairn_err markdown_outline(struct outline *o, const char *text, size_t len,
                                               struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err plain_outline(struct outline *o, const char *text, size_t len,
                                            struct cairn_why *why);
struct html_limits {
    size_t depth_max, attributes_max, tree_bytes_max, text_bytes_max;
    int64_t parse_us_max;
};
/* *text OWNED. n_invisible: characters left out because they are never shown. */
CAIRN_MUST_USE enum cairn_err html_outline(struct outline *o, char **text, size_t *text_len,
                                           size_t *n_invisible, const char *html, size_t len,
                                           const struct html_limits *limits, struct cairn_why *why);
/* Walks the tags without building anything: EINVAL when elements are nested deeper or have more attributes
 * than allowed, which would cost the tree builder quadratic time. */
CAIRN_MUST_USE enum cairn_err html_guard(const char *html, size_t len, size_t depth_max,
                                         size_t attributes_max, struct cairn_why *why);

struct split_limits {
    size_t target, max, passages_max;
};
CAIRN_MUST_USE enum cairn_err split_passages(struct loader_passage **out, size_t *n, const struct outline *o,
                                             const char *text, const struct split_limits *limits,
                                             struct cairn_why *why);

/* A number of loaders_conf: from config, or its default when config is NULL. */
size_t loaders_size(const struct cairn_config *config, const char *key);

#endif
