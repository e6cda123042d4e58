/* tokenizer_plain.h - BPE and SentencePiece as the definitions say them, slowly: the text as an array of code
 * points, its words by the expressions' rules one after the other, and of all pairs the best again and again.
 * What model/tokenizer_{bpe,spm}.c are compared with. */
#ifndef CAIRN_TESTS_TOKENIZER_PLAIN_H
#define CAIRN_TESTS_TOKENIZER_PLAIN_H

#include "tokenizer.h"

#include <stdlib.h>
#include <utf8proc.h>

struct plain {
    const struct tokenizer *t;
    size_t n; /* code points; [n] is the end, of class 'e' */
    uint32_t *cps, *at;
    char *classes, *bytes; /* 'l' letter, 'n' number, 's' space, 'o' other; the text, mended */
    int32_t *ids;
    size_t n_ids;
};

static inline char plain_class(uint32_t cp)
{
    if (cp == ' ' || (cp >= 9 && cp <= 13) || cp == 0x85)
        return 's';
    switch (utf8proc_category_string((utf8proc_int32_t)cp)[0]) {
    case 'L':
        return 'l';
    case 'N':
        return 'n';
    case 'Z':
        return 's';
    default:
        return 'o';
    }
}

static inline void plain_open(struct plain *x, const struct tokenizer *t, struct cairn_str text, bool bpe)
{
    *x = (struct plain){.t = t};
    x->cps = malloc((text.len + 2) * sizeof *x->cps);
    x->at = malloc((text.len + 2) * sizeof *x->at);
    x->classes = malloc(text.len + 2);
    x->bytes = malloc((text.len + 1) * 3 + 1);
    x->ids = malloc((text.len + 1) * 3 * sizeof *x->ids);
    size_t len = 0;
    for (size_t i = 0; i < text.len; x->n++) {
        uint32_t cp = 0xfffd;
        size_t n = cairn_utf8_next(text.p + i, text.len - i, &cp);
        const char *p = n || !bpe ? text.p + i : "\xef\xbf\xbd";
        size_t take = n ? n : bpe ? 3 : 1;
        x->at[x->n] = (uint32_t)len;
        x->cps[x->n] = cp;
        x->classes[x->n] = plain_class(cp);
        memcpy(x->bytes + len, p, take);
        len += take;
        i += n ? n : 1;
    }
    x->at[x->n] = (uint32_t)len;
    x->cps[x->n] = 0;
    x->classes[x->n] = 'e';
}
static inline void plain_close(struct plain *x)
{
    free(x->cps);
    free(x->at);
    free(x->classes);
    free(x->bytes);
    free(x->ids);
}

static inline void plain_merge(struct plain *x, size_t from, size_t to)
{
    const uint8_t *p = (const uint8_t *)x->bytes + x->at[from];
    size_t n = x->at[to] - x->at[from];
    if (x->t->pre == PRE_LLAMA3)
        for (int32_t id = 0; id < (int32_t)x->t->n; id++) {
            struct cairn_str s = token_piece(x->t, id);
            if (x->t->types[id] == TOKEN_NORMAL && s.len == n && memcmp(s.p, p, n) == 0) {
                x->ids[x->n_ids++] = id;
                return;
            }
        }
    int32_t *ids = x->ids + x->n_ids;
    for (size_t i = 0; i < n; i++)
        ids[i] = x->t->bytes[p[i]];
    for (;;) {
        int32_t best = INT32_MAX, joined = -1;
        size_t where = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            int32_t rank, id;
            if (bpe_merge(x->t, ids[i], ids[i + 1], &rank, &id) && rank < best) {
                best = rank;
                joined = id;
                where = i;
            }
        }
        if (joined < 0)
            break;
        ids[where] = joined;
        n--;
        memmove(ids + where + 1, ids + where + 2, (n - where - 1) * sizeof *ids);
    }
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= 0)
            x->ids[x->n_ids++] = ids[i];
}

static inline size_t plain_run(const struct plain *x, size_t i, size_t end, char class)
{
    while (i < end && x->classes[i] == class)
        i++;
    return i;
}
static inline size_t plain_contraction(const struct plain *x, size_t i, size_t end, bool any_case)
{
    static const char *const all[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    for (size_t k = 0; x->cps[i] == '\'' && k < 7; k++) {
        size_t n = strlen(all[k]), at = 0;
        for (; at < n && i + 1 + at < end; at++) {
            uint32_t c = x->cps[i + 1 + at];
            if (c != (uint32_t)all[k][at] && !(any_case && c + 32 == (uint32_t)all[k][at]))
                break;
        }
        if (at == n)
            return i + 1 + n;
    }
    return 0;
}
static inline size_t plain_space(const struct plain *x, size_t i, size_t end)
{
    size_t to = plain_run(x, i, end, 's');
    return to < end && to - i > 1 ? to - 1 : to;
}
static inline bool plain_newline(uint32_t cp) { return cp == '\r' || cp == '\n'; }

static inline void plain_gpt2(struct plain *x, size_t i, size_t end)
{
    for (size_t to; i < end; i = to) {
        to = plain_contraction(x, i, end, false);
        for (size_t k = 0; !to && k < 3; k++) { /* " ?" and a run of one class */
            size_t first = i + (x->cps[i] == ' ' && i + 1 < end);
            if (x->classes[first] == "lno"[k])
                to = plain_run(x, first, end, "lno"[k]);
        }
        if (!to)
            to = plain_space(x, i, end);
        plain_merge(x, i, to);
    }
}
static inline void plain_smollm(struct plain *x)
{
    for (size_t i = 0, to; i < x->n; i = to) {
        for (to = i; to < x->n && x->classes[to] != 'n'; to++)
            ;
        plain_gpt2(x, i, to);
        for (; to < x->n && x->classes[to] == 'n'; to++)
            plain_merge(x, to, to + 1);
    }
}
static inline void plain_qwen2(struct plain *x, size_t digits)
{
    for (size_t i = 0, to; i < x->n; i = to) {
        char class = x->classes[i], next = x->classes[i + 1];
        to = plain_contraction(x, i, x->n, true);
        if (!to && class == 'l')
            to = plain_run(x, i, x->n, 'l');
        if (!to && class != 'n' && !plain_newline(x->cps[i]) && next == 'l')
            to = plain_run(x, i + 1, x->n, 'l');
        if (!to && class == 'n')
            to = plain_run(x, i, i + digits < x->n ? i + digits : x->n, 'n');
        if (!to && (class == 'o' || (x->cps[i] == ' ' && next == 'o'))) {
            to = plain_run(x, i + (class != 'o'), x->n, 'o');
            while (to < x->n && plain_newline(x->cps[to]))
                to++;
        }
        if (!to) {
            size_t run = plain_run(x, i, x->n, 's');
            for (size_t k = i; k < run; k++)
                to = plain_newline(x->cps[k]) ? k + 1 : to;
            to = to ? to : plain_space(x, i, x->n);
        }
        plain_merge(x, i, to);
    }
}

static inline int32_t plain_spm_find(const struct tokenizer *t, const char *p, size_t len)
{
    int32_t id = text_table_find(&t->by_name, p, len, 0, token_name, t);
    return id >= 0 && (t->types[id] == TOKEN_NORMAL || t->types[id] == TOKEN_USER) ? id : -1;
}
static inline void plain_spm(struct plain *x)
{
    char *bytes = malloc((x->n + 2) * 4);
    size_t *at = malloc((x->n + 3) * sizeof *at), n = 0, len = 0;
    for (size_t i = 0; i < x->n + x->t->space_prefix; i++, n++) {
        size_t k = i - x->t->space_prefix;
        bool space = (x->t->space_prefix && i == 0) || x->cps[k] == ' ';
        size_t take = space ? 3 : x->at[k + 1] - x->at[k];
        memcpy(bytes + len, space ? "\xe2\x96\x81" : x->bytes + x->at[k], take);
        at[n] = len;
        len += take;
    }
    at[n] = len;
    for (;;) {
        float best = 0;
        size_t where = n;
        for (size_t i = 0; i + 1 < n; i++) {
            int32_t id = plain_spm_find(x->t, bytes + at[i], at[i + 2] - at[i]);
            if (id >= 0 && (where == n || x->t->scores[id] > best)) {
                best = x->t->scores[id];
                where = i;
            }
        }
        if (where == n)
            break;
        memmove(at + where + 1, at + where + 2, (n - where - 1) * sizeof *at);
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        int32_t id = plain_spm_find(x->t, bytes + at[i], at[i + 1] - at[i]);
        if (id >= 0)
            x->ids[x->n_ids++] = id;
        for (size_t k = at[i]; id < 0 && k < at[i + 1]; k++) {
            int32_t byte = x->t->bytes[(uint8_t)bytes[k]];
            if (byte >= 0 || x->t->unk >= 0)
                x->ids[x->n_ids++] = byte >= 0 ? byte : x->t->unk;
        }
    }
    free(bytes);
    free(at);
}

/* The ids of text (not empty) are x->ids, x->n_ids, until plain_close(). */
static inline void plain_encode(struct plain *x, const struct tokenizer *t, struct cairn_str text)
{
    plain_open(x, t, text, t->model == TOKENIZER_BPE);
    if (t->model == TOKENIZER_SPM)
        plain_spm(x);
    else if (t->pre == PRE_SMOLLM)
        plain_smollm(x);
    else if (t->pre == PRE_GPT2)
        plain_gpt2(x, 0, x->n);
    else
        plain_qwen2(x, t->pre == PRE_LLAMA3 ? 3 : 1);
}

#endif
