/* cairn/loaders.h - bytes of a file -> text and passages; a directory as a source.
 * Threads: stateless; any thread. Parsing of untrusted HTML happens in this process with a bounded tree
 * (loaders.* limits). COPIED: we keep our own. OWNED: yours to free. BORROWED: ours, valid until the moment
 * named. */
#ifndef CAIRN_LOADERS_H
#define CAIRN_LOADERS_H

#include <cairn/base.h>

extern const struct cairn_conf loaders_conf[]; /* loaders.file_bytes_max, loaders.passage_bytes (target),
                                                  loaders.passage_bytes_max, loaders.html_depth_max, ... */
extern const size_t loaders_conf_len;

enum loader_format { LOADER_UNKNOWN, LOADER_TEXT, LOADER_MARKDOWN, LOADER_HTML };
/* By extension, then by content. UNKNOWN: not a format we read (binary, empty name). */
enum loader_format loader_detect(const char *path, const void *bytes, size_t len);
const char *loader_mime(enum loader_format f);

struct loader_passage {
    uint32_t start,
        end;    /* byte span in doc->text, on code point borders, never empty, in order, not overlapping */
    char *path; /* headings joined by " > ", "" at the top */
};
struct loader_document {
    char *title; /* first heading, <title>, or file name */
    char *text;  /* valid UTF-8. Markdown and plain text: the file itself (BOM dropped, CRLF kept); HTML: the
                    visible text, tables as  "cell | cell" rows, list items as "- item" ("3. item" in numbered
                    lists), headings as "# heading" lines */
    size_t text_len;
    enum loader_format format;
    struct cairn_hash content_hash; /* of the source bytes */
    struct loader_passage *passages;
    size_t n_passages;
    size_t n_invisible; /* zero-width, direction and tag characters: left out of HTML's text, still in that of
                           other formats */
};
/* name is used for detection and as fallback title. Empty file, binary content, invalid UTF-8 (with the byte
 * offset), too large: EINVAL / EFULL. format LOADER_UNKNOWN: detect. config may be NULL. */
CAIRN_MUST_USE enum cairn_err loader_parse(struct loader_document **out, const char *name, const void *bytes,
                                           size_t len, enum loader_format format,
                                           const struct cairn_config *config, struct cairn_why *why);
void loader_document_free(struct loader_document *d);

/* One file of a source directory. */
struct loader_file {
    char *path; /* on disk */
    char *id;   /* relative to the source root, '/' separated: becomes the document id */
    uint64_t bytes;
    int64_t modified_us;
};
/* All readable files below root (or root itself when it is a file), sorted by id, of known formats; hidden
 * files, acl.json, symbolic links that leave the root and files over the limit are skipped and counted. */
struct loader_held {
    char *id;     /* of a file; of a folder with '/' at its end, "" for the root */
    char *reason; /* why it was skipped */
};
struct loader_listing {
    struct loader_file *files;
    size_t n, n_skipped;
    char *skipped_note;       /* first few skipped names with reasons; may be NULL */
    struct loader_held *held; /* skipped names that are there nevertheless, sorted by id */
    size_t n_held;
};
CAIRN_MUST_USE enum cairn_err loader_list(struct loader_listing *out, const char *root,
                                          const struct cairn_config *config, struct cairn_why *why);
void loader_listing_release(struct loader_listing *l);
/* Why a document of this id must not be taken for gone although no file of the listing has its id: the file,
 * or a folder on the way to it, is there and was skipped. NULL: it is gone. BORROWED from l. */
const char *loader_listing_holds(const struct loader_listing *l, struct cairn_str id);

/* acl.json: {"groups": [...], "rules": [{"path": "finance/" + "*", "allow": ["finance"]}, ...]}: the first
 * rule whose pattern matches the id wins
 * ('*' matches any run of characters, '/' too; '?' one). No rule: no ACL (then the collection's is_public
 * decides). */
struct loader_acl;
CAIRN_MUST_USE enum cairn_err loader_acl_open(struct loader_acl **out, const char *path,
                                              struct cairn_why *why);
void loader_acl_close(struct loader_acl *a);
/* allow BORROWED from a. */
void loader_acl_find(const struct loader_acl *a, const char *id, const struct cairn_str **allow, size_t *n);

#endif
