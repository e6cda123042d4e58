/* unit/loaders_promise.h - what every parsed document keeps, whatever went in: shared by tests and fuzzing.
 */
#ifndef CAIRN_TESTS_LOADERS_PROMISE_H
#define CAIRN_TESTS_LOADERS_PROMISE_H

#include <cairn/loaders.h>
#include <string.h>

static inline bool promise_space(const char *s, size_t len, size_t *n)
{
    static const char *const wide[] = {"\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80",
                                       "\xE2\x80\x81", "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84",
                                       "\xE2\x80\x85", "\xE2\x80\x86", "\xE2\x80\x87", "\xE2\x80\x88",
                                       "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8", "\xE2\x80\xA9",
                                       "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"};
    *n = 1;
    if (*s == ' ' || (*s >= '\t' && *s <= '\r'))
        return true;
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++)
        if (strlen(wide[i]) <= len && memcmp(s, wide[i], strlen(wide[i])) == 0) {
            *n = strlen(wide[i]);
            return true;
        }
    return false;
}

static inline bool promise_border(const struct loader_document *d, size_t at)
{
    return at == d->text_len || ((unsigned char)d->text[at] & 0xC0) != 0x80;
}

/* NULL when all promises hold, else which one does not. */
static inline const char *promise_broken(const struct loader_document *d, size_t passage_max)
{
    if (!d->text || !d->title || d->n_passages == 0)
        return "a document has a text, a title and a passage";
    if (d->text[d->text_len] != '\0' || cairn_utf8_invalid_at(d->text, d->text_len) != d->text_len)
        return "the text is valid UTF-8";
    size_t at = 0;
    for (size_t i = 0; i <= d->n_passages; i++) {
        size_t start = i < d->n_passages ? d->passages[i].start : d->text_len;
        if (start < at)
            return "passages are in order and do not overlap";
        for (size_t n; at < start; at += n)
            if (!promise_space(d->text + at, start - at, &n))
                return "only space lies between passages";
        if (i == d->n_passages)
            break;
        const struct loader_passage *p = &d->passages[i];
        if (p->end <= p->start || p->end > d->text_len)
            return "a passage is not empty and lies inside the text";
        if (!promise_border(d, p->start) || !promise_border(d, p->end))
            return "a passage does not cut a code point";
        if (p->end - p->start > passage_max)
            return "a passage is not longer than the limit";
        if (!p->path || cairn_utf8_invalid_at(p->path, strlen(p->path)) != strlen(p->path))
            return "a passage's path is valid UTF-8";
        at = p->end;
    }
    return NULL;
}

#endif
