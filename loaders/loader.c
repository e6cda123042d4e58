/* loader.c - from a file's bytes to a document: format, encoding, outline, passages; and the room's
 * configuration. */
#include "loaders_private.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define SNIFF_BYTES_MAX 4096u
/* Of 100 bytes of text, not even one is a control character; anything above this is not text. */
#define CONTROL_PER_MILLE_MAX 50u

const struct cairn_conf loaders_conf[] = {
    {"loaders.file_bytes_max",      16.0 * 1024 * 1024,  1024,          256.0 * 1024 * 1024,      true,
     "largest file that is read"                                                                                                                     },
    {"loaders.files_max",           1000000,             1,             100000000,                true, "most files of one source directory"         },
    {"loaders.depth_max",           32,                  1,             256,                      true, "deepest folder of a source directory"       },
    {"loaders.passage_bytes",       900,                 100,           8192,                     true, "size a passage is packed to, in bytes"      },
    {"loaders.passage_bytes_max",   2000,                200,           16384,                    true, "largest passage, in bytes"                  },
    {"loaders.passages_max",        100000,              1,             10000000,                 true, "most passages of one document"              },
    {"loaders.html_depth_max",      1024,                16,            10000,                    true, "deepest nesting of HTML elements"           },
    {"loaders.html_attributes_max", 1000,                16,            100000,                   true, "most attributes of one HTML tag"            },
    {"loaders.html_tree_bytes_max", 512.0 * 1024 * 1024, 1024.0 * 1024, 8.0 * 1024 * 1024 * 1024, true,
     "memory for the tree of one HTML page"                                                                                                          },
    {"loaders.html_seconds_max",    30,                  1,             600,                      true, "time for building the tree of one HTML page"},
};
const size_t loaders_conf_len = sizeof loaders_conf / sizeof loaders_conf[0];

size_t loaders_size(const struct cairn_config *config, const char *key)
{
    if (config)
        return cairn_config_size(config, key);
    for (size_t i = 0; i < loaders_conf_len; i++)
        if (strcmp(loaders_conf[i].key, key) == 0)
            return (size_t)loaders_conf[i].def;
    CAIRN_CHECK(!"a key of loaders_conf");
    return 0;
}

/* ---- formats
 * ------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *extension;
    enum loader_format format; /* UNKNOWN: known not to be text */
} extensions[] = {
    {"md",       LOADER_MARKDOWN},
    {"markdown", LOADER_MARKDOWN},
    {"mdown",    LOADER_MARKDOWN},
    {"mkd",      LOADER_MARKDOWN},
    {"html",     LOADER_HTML    },
    {"htm",      LOADER_HTML    },
    {"xhtml",    LOADER_HTML    },
    {"txt",      LOADER_TEXT    },
    {"text",     LOADER_TEXT    },
    {"log",      LOADER_TEXT    },
    {"rst",      LOADER_TEXT    },
};
static const struct {
    const char *bytes;
    size_t len;
    const char *what;
} magics[] = {
    {"%PDF-",            5, "a PDF file"                                             },
    {"PK\x03\x04",       4, "a ZIP archive or an Office file"                        },
    {"\xD0\xCF\x11\xE0", 4, "an old Office file"                                     },
    {"\x89PNG",          4, "a PNG image"                                            },
    {"\xFF\xD8\xFF",     3, "a JPEG image"                                           },
    {"GIF8",             4, "a GIF image"                                            },
    {"\x1F\x8B",         2, "gzip data"                                              },
    {"\x28\xB5\x2F\xFD", 4, "zstd data"                                              },
    {"{\\rtf",           5, "an RTF file"                                            },
    {"\x7F"
     "ELF",         4, "a program"                                              },
    {"\xFF\xFE",         2, "UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8`"},
    {"\xFE\xFF",         2, "UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8`"},
};

static const char *magic_of(const char *s, size_t len)
{
    for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++)
        if (len >= magics[i].len && memcmp(s, magics[i].bytes, magics[i].len) == 0)
            return magics[i].what;
    return NULL;
}

static size_t count_controls(const char *s, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        n += (c < 0x20 && !(c >= '\t' && c <= '\r') && c != 0x1B) || c == 0x7F;
    }
    return n;
}

static bool too_many_controls(const char *s, size_t len)
{
    return count_controls(s, len) * 1000 > len * CONTROL_PER_MILLE_MAX;
}

static bool binary(const char *s, size_t len)
{
    return memchr(s, '\0', len) || magic_of(s, len) || too_many_controls(s, len);
}

static bool starts_with(const char *s, size_t len, const char *word)
{
    size_t n = strlen(word);
    return len >= n && strncasecmp(s, word, n) == 0;
}

enum loader_format loader_detect(const char *path, const void *bytes, size_t len)
{
    const char *name = path ? strrchr(path, '/') : NULL;
    name = name ? name + 1 : path;
    if (!name || !*name)
        return LOADER_UNKNOWN;
    const char *s = bytes;
    if (s && len > SNIFF_BYTES_MAX)
        len = SNIFF_BYTES_MAX;
    if (s && binary(s, len))
        return LOADER_UNKNOWN;
    const char *dot = strrchr(name, '.');
    if (dot)
        for (size_t i = 0; i < sizeof extensions / sizeof extensions[0]; i++)
            if (strcasecmp(dot + 1, extensions[i].extension) == 0)
                return extensions[i].format;
    if (!s)
        return LOADER_UNKNOWN;
    size_t at = len >= 3 && memcmp(s, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    for (size_t n; at < len && (n = text_space(s + at, len - at)) > 0;)
        at += n;
    if (starts_with(s + at, len - at, "<!doctype html") || starts_with(s + at, len - at, "<html"))
        return LOADER_HTML;
    /* the last code point may be cut by the sniffing */
    return cairn_utf8_invalid_at(s, len) + 4 > len ? LOADER_TEXT : LOADER_UNKNOWN;
}

const char *loader_mime(enum loader_format f)
{
    switch (f) {
    case LOADER_TEXT:
        return "text/plain";
    case LOADER_MARKDOWN:
        return "text/markdown";
    case LOADER_HTML:
        return "text/html";
    case LOADER_UNKNOWN:
        break;
    }
    return "application/octet-stream";
}

/* ---- parsing
 * ----------------------------------------------------------------------------------------------------------
 */

void loader_document_free(struct loader_document *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->n_passages; i++)
        cairn_free(d->passages[i].path);
    cairn_free(d->passages);
    cairn_free(d->title);
    cairn_free(d->text);
    cairn_free(d);
}

/* A name for an error message: printable, not too long. */
static const char *shown(const char *name) { return name && *name ? name : "(no name)"; }

static enum cairn_err check_bytes(const char *name, const char *s, size_t len, struct cairn_why *why)
{
    const char *what = magic_of(s, len);
    if (what)
        return cairn_fail(why, CAIRN_EINVAL, "%.200s: is %s; plain text, Markdown and HTML in UTF-8 are read",
                          shown(name), what);
    const char *nul = memchr(s, '\0', len);
    if (nul)
        return cairn_fail(why, CAIRN_EINVAL,
                          "%.200s: binary content: a zero byte at offset %zu; give a text file in UTF-8",
                          shown(name), (size_t)(nul - s));
    if (too_many_controls(s, len))
        return cairn_fail(
            why, CAIRN_EINVAL,
            "%.200s: binary content: %zu control characters in %zu bytes; give a text file in UTF-8",
            shown(name), count_controls(s, len), len);
    size_t bad = cairn_utf8_invalid_at(s, len);
    if (bad < len)
        return cairn_fail(why, CAIRN_EINVAL,
                          "%.200s: not UTF-8: byte 0x%02X at offset %zu; convert the file, for example with "
                          "`iconv -f WINDOWS-1252 -t UTF-8`",
                          shown(name), (unsigned char)s[bad], bad);
    return CAIRN_OK;
}

static char *title_from_name(const char *name)
{
    const char *slash = name ? strrchr(name, '/') : NULL;
    return cairn_strdup(slash ? slash + 1 : name ? name : "");
}

static enum cairn_err outline_of(struct loader_document *d, struct outline *o, const char *s, size_t len,
                                 const struct cairn_config *config, struct cairn_why *why)
{
    if (d->format == LOADER_HTML) {
        struct html_limits limits = {
            .depth_max = loaders_size(config, "loaders.html_depth_max"),
            .attributes_max = loaders_size(config, "loaders.html_attributes_max"),
            .tree_bytes_max = loaders_size(config, "loaders.html_tree_bytes_max"),
            .text_bytes_max =
                2 * loaders_size(config, "loaders.file_bytes_max"), /* marks and entities make it longer */
            .parse_us_max = (int64_t)loaders_size(config, "loaders.html_seconds_max") * 1000000,
        };
        return html_outline(o, &d->text, &d->text_len, &d->n_invisible, s, len, &limits, why);
    }
    d->text = cairn_strndup(s, len);
    if (!d->text)
        return cairn_fail(why, CAIRN_ENOMEM, "text of %zu bytes", len);
    d->text_len = len;
    d->n_invisible = text_count_invisible(s, len);
    return d->format == LOADER_MARKDOWN ? markdown_outline(o, d->text, len, why)
                                        : plain_outline(o, d->text, len, why);
}

enum cairn_err loader_parse(struct loader_document **out, const char *name, const void *bytes, size_t len,
                            enum loader_format format, const struct cairn_config *config,
                            struct cairn_why *why)
{
    *out = NULL;
    const char *s = bytes;
    size_t file_max = loaders_size(config, "loaders.file_bytes_max");
    if (len > file_max)
        return cairn_fail(why, CAIRN_EFULL, "%.200s: %zu bytes are more than loaders.file_bytes_max = %zu",
                          shown(name), len, file_max);
    if (len == 0 || !s)
        return cairn_fail(why, CAIRN_EINVAL, "%.200s: empty file", shown(name));
    enum cairn_err err = check_bytes(name, s, len, why);
    if (err)
        return err;
    if (format == LOADER_UNKNOWN)
        format = loader_detect(name && *name ? name : "text", s, len);
    if (format == LOADER_UNKNOWN)
        return cairn_fail(why, CAIRN_EINVAL,
                          "%.200s: not a format we read; plain text, Markdown and HTML are", shown(name));

    struct outline o = {0};
    struct loader_document *d = cairn_calloc(1, sizeof(*d));
    if (!d)
        return cairn_fail(why, CAIRN_ENOMEM, "document");
    d->format = format;
    d->content_hash = cairn_hash_bytes(s, len);
    size_t bom = len >= 3 && memcmp(s, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    err = outline_init(&o, why);
    if (!err)
        err = outline_of(d, &o, s + bom, len - bom, config, why);
    if (!err && o.n == 0)
        err = cairn_fail(why, CAIRN_EINVAL, "empty: there is no text to read in it");
    if (!err) {
        struct split_limits limits = {
            .target = loaders_size(config, "loaders.passage_bytes"),
            .max = loaders_size(config, "loaders.passage_bytes_max"),
            .passages_max = loaders_size(config, "loaders.passages_max"),
        };
        if (limits.target > limits.max)
            limits.target = limits.max;
        err = split_passages(&d->passages, &d->n_passages, &o, d->text, &limits, why);
    }
    if (!err) {
        d->title = o.title ? cairn_strdup(o.title) : title_from_name(name);
        if (!d->title)
            err = cairn_fail(why, CAIRN_ENOMEM, "title");
    }
    outline_release(&o);
    if (err) {
        loader_document_free(d);
        return cairn_wrap(why, err, "%.200s", shown(name));
    }
    *out = d;
    return CAIRN_OK;
}
