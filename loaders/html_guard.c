/* html_guard.c - a walk over the tags of an HTML text before a tree is built from it.
 * The tree builder looks through all open elements at most tags, and compares each attribute with those
 * before it: nesting and attributes without bound cost quadratic time. This walk keeps its own small stack of
 * open elements, by name, and follows the rules of the tree construction as far as depth is concerned: void
 * elements and those that close themselves (li, p, td, ...) do not count, a formatting end tag removes only
 * its own element, an end tag does not reach through a table cell or over an element of another family. Where
 * it still errs, the limits on the tree's memory and time (html.c) hold. */
#include "loaders_private.h"

#include <string.h>

#define TAG_NAME_MAX 24u
#define DEPTH_HARD_MAX 10000u

enum family { COUNTED, IGNORED, FORMATTING, SPECIAL, BARRIER, RAW, FOREIGN };
struct tag {
    char name[TAG_NAME_MAX];
    enum family family;
};
static const struct tag known[] = {
    {"a",          FORMATTING},
    {"b",          FORMATTING},
    {"big",        FORMATTING},
    {"code",       FORMATTING},
    {"em",         FORMATTING},
    {"font",       FORMATTING},
    {"i",          FORMATTING},
    {"nobr",       FORMATTING},
    {"s",          FORMATTING},
    {"small",      FORMATTING},
    {"strike",     FORMATTING},
    {"strong",     FORMATTING},
    {"tt",         FORMATTING},
    {"u",          FORMATTING},
    {"area",       IGNORED   },
    {"base",       IGNORED   },
    {"br",         IGNORED   },
    {"col",        IGNORED   },
    {"embed",      IGNORED   },
    {"hr",         IGNORED   },
    {"img",        IGNORED   },
    {"input",      IGNORED   },
    {"keygen",     IGNORED   },
    {"link",       IGNORED   },
    {"meta",       IGNORED   },
    {"param",      IGNORED   },
    {"source",     IGNORED   },
    {"track",      IGNORED   },
    {"wbr",        IGNORED   },
    {"html",       IGNORED   },
    {"head",       IGNORED   },
    {"body",       IGNORED   },
    {"p",          IGNORED   },
    {"li",         IGNORED   },
    {"dt",         IGNORED   },
    {"dd",         IGNORED   },
    {"tr",         IGNORED   },
    {"td",         IGNORED   },
    {"th",         IGNORED   },
    {"thead",      IGNORED   },
    {"tbody",      IGNORED   },
    {"tfoot",      IGNORED   },
    {"colgroup",   IGNORED   },
    {"option",     IGNORED   },
    {"optgroup",   IGNORED   },
    {"rt",         IGNORED   },
    {"rp",         IGNORED   },
    {"rb",         IGNORED   },
    {"image",      IGNORED   },
    {"table",      BARRIER   },
    {"object",     BARRIER   },
    {"applet",     BARRIER   },
    {"marquee",    BARRIER   },
    {"template",   BARRIER   },
    {"caption",    BARRIER   },
    {"button",     BARRIER   },
    {"select",     BARRIER   },
    {"div",        SPECIAL   },
    {"address",    SPECIAL   },
    {"article",    SPECIAL   },
    {"aside",      SPECIAL   },
    {"blockquote", SPECIAL   },
    {"center",     SPECIAL   },
    {"details",    SPECIAL   },
    {"dir",        SPECIAL   },
    {"dl",         SPECIAL   },
    {"fieldset",   SPECIAL   },
    {"figure",     SPECIAL   },
    {"footer",     SPECIAL   },
    {"form",       SPECIAL   },
    {"h1",         SPECIAL   },
    {"h2",         SPECIAL   },
    {"h3",         SPECIAL   },
    {"h4",         SPECIAL   },
    {"h5",         SPECIAL   },
    {"h6",         SPECIAL   },
    {"header",     SPECIAL   },
    {"main",       SPECIAL   },
    {"menu",       SPECIAL   },
    {"nav",        SPECIAL   },
    {"ol",         SPECIAL   },
    {"pre",        SPECIAL   },
    {"section",    SPECIAL   },
    {"summary",    SPECIAL   },
    {"ul",         SPECIAL   },
    {"listing",    SPECIAL   },
    {"figcaption", SPECIAL   },
    {"hgroup",     SPECIAL   },
    {"script",     RAW       },
    {"style",      RAW       },
    {"textarea",   RAW       },
    {"title",      RAW       },
    {"xmp",        RAW       },
    {"iframe",     RAW       },
    {"noembed",    RAW       },
    {"noframes",   RAW       },
    {"svg",        FOREIGN   },
    {"math",       FOREIGN   },
};

static bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static bool space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r'; }
static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

static struct tag tag_read(const char *s, size_t len, size_t *at)
{
    struct tag t = {{0}, COUNTED};
    size_t n = 0;
    while (*at < len && !space(s[*at]) && s[*at] != '>' && s[*at] != '/') {
        if (n + 1 < TAG_NAME_MAX)
            t.name[n++] = lower(s[*at]);
        ++*at;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i].name, t.name) == 0)
            t.family = known[i].family;
    return t;
}

/* From behind the tag's name to behind its '>'. */
static size_t attributes_skip(const char *s, size_t len, size_t *at, bool *self_closing)
{
    size_t n = 0;
    *self_closing = false;
    while (*at < len && s[*at] != '>') {
        if (space(s[*at]) || s[*at] == '/') {
            *self_closing = s[*at] == '/';
            ++*at;
            continue;
        }
        *self_closing = false;
        n++;
        ++*at; /* a name starts with any character, '=' too */
        while (*at < len && !space(s[*at]) && s[*at] != '>' && s[*at] != '/' && s[*at] != '=')
            ++*at;
        size_t eq = *at;
        while (eq < len && space(s[eq]))
            eq++;
        if (eq >= len || s[eq] != '=')
            continue;
        *at = eq + 1;
        while (*at < len && space(s[*at]))
            ++*at;
        if (*at < len && (s[*at] == '"' || s[*at] == '\'')) {
            const char *end = memchr(s + *at + 1, s[*at], len - *at - 1);
            *at = end ? (size_t)(end - s) + 1 : len;
        } else
            while (*at < len && !space(s[*at]) && s[*at] != '>')
                ++*at;
    }
    *at += *at < len;
    return n;
}

/* Behind the end of a comment or declaration that starts at s[at] = "<!" or "<?". */
static size_t markup_skip(const char *s, size_t len, size_t at)
{
    if (len - at >= 4 && memcmp(s + at, "<!--", 4) == 0) {
        size_t i = at + 4;
        if (i < len && s[i] == '>')
            return i + 1;
        if (i + 1 < len && s[i] == '-' && s[i + 1] == '>')
            return i + 2;
        for (; i + 2 < len; i++) {
            const char *dash = memchr(s + i, '-', len - i);
            if (!dash)
                return len;
            i = (size_t)(dash - s);
            if (i + 2 < len && s[i + 1] == '-' &&
                (s[i + 2] == '>' || (s[i + 2] == '!' && i + 3 < len && s[i + 3] == '>')))
                return i + (s[i + 2] == '>' ? 3 : 4);
        }
        return len;
    }
    const char *end = memchr(s + at, '>', len - at);
    return end ? (size_t)(end - s) + 1 : len;
}

/* Behind the text of a raw element: at its end tag, or the end. */
static size_t raw_skip(const char *s, size_t len, size_t at, const char *name)
{
    size_t n = strlen(name);
    while (at < len) {
        const char *lt = memchr(s + at, '<', len - at);
        if (!lt)
            return len;
        at = (size_t)(lt - s);
        if (at + 2 + n <= len && s[at + 1] == '/') {
            size_t i = 0;
            while (i < n && lower(s[at + 2 + i]) == name[i])
                i++;
            if (i == n)
                return at;
        }
        at++;
    }
    return len;
}

struct open {
    struct tag *tags;
    size_t n;
};

static void open_close(struct open *o, const struct tag *t)
{
    for (size_t i = o->n; i-- > 0;) {
        if (strcmp(o->tags[i].name, t->name) == 0) {
            if (t->family == FORMATTING && i + 1 < o->n) {
                memmove(o->tags + i, o->tags + i + 1, (o->n - i - 1) * sizeof(*o->tags));
                o->n--;
            } else
                o->n = i;
            return;
        }
        enum family f = o->tags[i].family;
        if (f == BARRIER && t->family != BARRIER)
            return;
        if (t->family == COUNTED && f == SPECIAL)
            return;
    }
}

enum cairn_err html_guard(const char *html, size_t len, size_t depth_max, size_t attributes_max,
                          struct cairn_why *why)
{
    if (depth_max > DEPTH_HARD_MAX)
        depth_max = DEPTH_HARD_MAX;
    struct open o = {.tags = cairn_reallocarray(NULL, depth_max + 1, sizeof(*o.tags))};
    if (!o.tags)
        return cairn_fail(why, CAIRN_ENOMEM, "stack of %zu elements", depth_max);
    size_t at = 0, foreign = 0; /* foreign: index + 1 of the outermost svg or math */
    enum cairn_err err = CAIRN_OK;
    while (!err && at < len) {
        const char *lt = memchr(html + at, '<', len - at);
        if (!lt || (at = (size_t)(lt - html)) + 1 >= len)
            break;
        char c = html[at + 1];
        if (c == '!' || c == '?') {
            at = markup_skip(html, len, at);
            continue;
        }
        bool closing = c == '/';
        size_t tag_at = at;
        at += closing ? 2 : 1;
        if (at >= len || !letter(html[at])) {
            if (closing)
                at = markup_skip(html, len, tag_at);
            continue;
        }
        struct tag t = tag_read(html, len, &at);
        bool self_closing;
        size_t attributes = attributes_skip(html, len, &at, &self_closing);
        if (attributes > attributes_max) {
            err = cairn_fail(why, CAIRN_EINVAL,
                             "HTML: the tag <%s> at byte %zu has more than %zu attributes: no page needs "
                             "that; repair the file",
                             t.name, tag_at, attributes_max);
            break;
        }
        if (foreign && t.family != FOREIGN && t.family != SPECIAL && t.family != BARRIER)
            t.family = COUNTED; /* inside svg nothing closes itself but by a slash */
        if (closing) {
            open_close(&o, &t);
            if (foreign > o.n)
                foreign = 0;
        } else if (t.family == RAW)
            at = raw_skip(html, len, at, t.name);
        else if (strcmp(t.name, "plaintext") == 0)
            break;
        else if (t.family != IGNORED && !(self_closing && (foreign || t.family == FOREIGN))) {
            if (o.n >= depth_max) {
                err = cairn_fail(why, CAIRN_EINVAL,
                                 "HTML: elements nested deeper than %zu at byte %zu: close the elements, or "
                                 "raise loaders.html_depth_max",
                                 depth_max, tag_at);
                break;
            }
            o.tags[o.n++] = t;
            if (t.family == FOREIGN && !foreign)
                foreign = o.n;
        }
    }
    cairn_free(o.tags);
    return err;
}
