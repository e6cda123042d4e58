/* constrain.c - see constrain.h.
 *
 * The trie lies in breadth-first order: the children of a node stand side by side, ordered by byte, and those
 * of node i end where those of i + 1 begin. Tokens of equal bytes (SentencePiece has a byte token beside the
 * letter) hang on one node in a list.
 *
 * Citations: outside of brackets nearly every token is allowed, so what is forbidden is listed once for an
 * answer: only tokens with a '[' in them can be. Inside, what is allowed is few, and walked.
 * Quotes: the state is the list of places where the text so far occurs. Each place walks the trie along its
 * own text; a token taken keeps the places that it agrees with. So a step costs places times the length of a
 * token, and after the first word there are few. */
#include "constrain.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct constrain_vocab {
    const struct tokenizer *t;
    size_t n, n_nodes, n_ends, n_brackets;
    uint32_t *first;   /* [n_nodes + 1] first child */
    uint8_t *bytes;    /* [n_nodes] the last byte of a node's text */
    int32_t *tokens;   /* [n_nodes] the first token with a node's text; -1: none */
    int32_t *same;     /* [n] the next token with the same bytes; -1: none */
    int32_t *ends;     /* tokens that end a generation */
    int32_t *brackets; /* tokens with a '[' in them */
};

enum {
    OUTSIDE = -1,
    REJECTED = -2,
    PASSAGE_BYTES_MAX = 1 << 26,
    TOKEN_BYTES_MAX = 256, /* longer tokens are left out of the trie, so walks are no deeper */
    NODES_MAX = 1 << 24,
    BEGIN = 1, /* marks of a place in a text to quote from */
    END = 2,
};

struct constrain {
    const struct constrain_vocab *v;
    int32_t *allowed; /* [v->n] */
    float *few;       /* [v->n] their logits */
    size_t n_allowed;
    /* citations */
    int64_t n_sources, number; /* OUTSIDE, or what has been written of a number */
    int32_t *forbidden; /* outside: n_forbidden that never may, then n_opening that leave a bracket open */
    size_t n_forbidden, n_opening;
    /* quotes */
    bool quote, begun;
    char *text;     /* OWNED: the passages, each with a NUL behind it */
    uint8_t *marks; /* BEGIN, END of each byte of text */
    size_t n_places;
    uint32_t *passage_ends;  /* [n_passages] the NULs */
    uint32_t *places;        /* in text, where it may go on */
    uint32_t *stamps, stamp; /* [v->n] in which step a token was listed last */
};

/* ---- the trie ---- */

struct by_bytes {
    struct cairn_str s;
    int32_t id;
};
static int compare(const void *a, const void *b)
{
    const struct by_bytes *x = a, *y = b;
    size_t n = x->s.len < y->s.len ? x->s.len : y->s.len;
    int c = memcmp(x->s.p, y->s.p, n);
    return c ? c : x->s.len != y->s.len ? (x->s.len < y->s.len ? -1 : 1) : (x->id > y->id) - (x->id < y->id);
}

/* Of all tokens in order of their bytes: nodes of one level come from the ranges of the level above. */
struct range {
    uint32_t from, to;
};

static void build_nodes(struct constrain_vocab *v, const struct by_bytes *list, size_t n,
                        struct range *ranges)
{
    size_t n_nodes = 1, level = 0;
    ranges[0] = (struct range){0, (uint32_t)n};
    v->tokens[0] = -1;
    for (size_t node = 0, level_end = 1; node < n_nodes; node++) {
        if (node == level_end) {
            level++;
            level_end = n_nodes;
        }
        v->first[node] = (uint32_t)n_nodes;
        uint32_t i = ranges[node].from, to = ranges[node].to;
        if (node > 0) {
            v->tokens[node] = -1;
            for (; i < to && list[i].s.len == level; i++) {
                v->same[list[i].id] = -1;
                if (v->tokens[node] < 0)
                    v->tokens[node] = list[i].id;
                else
                    v->same[list[i - 1].id] = list[i].id;
            }
        }
        while (i < to) {
            uint32_t from = i;
            uint8_t byte = (uint8_t)list[i].s.p[level];
            while (i < to && (uint8_t)list[i].s.p[level] == byte)
                i++;
            v->bytes[n_nodes] = byte;
            ranges[n_nodes++] = (struct range){from, i};
        }
    }
    v->first[n_nodes] = (uint32_t)n_nodes;
    v->n_nodes = n_nodes;
}

/* Nodes of the trie: the root, and for each token what it does not share with the one before. */
static size_t count_nodes(const struct by_bytes *list, size_t n)
{
    size_t nodes = 1;
    for (size_t i = 0; i < n; i++) {
        size_t shared = 0;
        while (i > 0 && shared < list[i].s.len && shared < list[i - 1].s.len &&
               list[i].s.p[shared] == list[i - 1].s.p[shared])
            shared++;
        nodes += list[i].s.len - shared;
    }
    return nodes;
}

enum cairn_err constrain_vocab_open(struct constrain_vocab **out, const struct tokenizer *t,
                                    struct cairn_why *why)
{
    *out = NULL;
    size_t n_vocab = tokenizer_n_vocab(t), n = 0;
    struct constrain_vocab *v = cairn_calloc(1, sizeof *v);
    struct by_bytes *list = cairn_calloc(n_vocab, sizeof *list);
    struct range *ranges = NULL;
    if (!v || !list)
        goto no_memory;
    v->t = t;
    v->n = n_vocab;
    for (size_t i = 0; i < n_vocab; i++) {
        struct cairn_str s = tokenizer_piece(t, (int32_t)i, false);
        if (tokenizer_is_end(t, (int32_t)i)) {
            v->n_ends++;
        } else if (s.len) {
            if (s.len <= TOKEN_BYTES_MAX)
                list[n++] = (struct by_bytes){s, (int32_t)i};
            v->n_brackets += memchr(s.p, '[', s.len) != NULL;
        }
    }
    qsort(list, n, sizeof *list, compare);
    size_t nodes = count_nodes(list, n), ends = 0, brackets = 0;
    if (nodes > NODES_MAX) {
        cairn_free(list);
        constrain_vocab_close(v);
        return cairn_fail(
            why, CAIRN_EUNSUPPORTED,
            "this model's vocabulary makes a trie of %zu nodes, over %d; ask without constraints", nodes,
            NODES_MAX);
    }
    v->first = cairn_calloc(nodes + 1, sizeof *v->first);
    v->bytes = cairn_calloc(nodes, 1);
    v->tokens = cairn_calloc(nodes, sizeof *v->tokens);
    v->same = cairn_calloc(n_vocab, sizeof *v->same);
    v->ends = cairn_calloc(v->n_ends, sizeof *v->ends);
    v->brackets = cairn_calloc(v->n_brackets, sizeof *v->brackets);
    ranges = cairn_calloc(nodes, sizeof *ranges);
    if (!v->first || !v->bytes || !v->tokens || !v->same || !v->ends || !v->brackets || !ranges)
        goto no_memory;
    build_nodes(v, list, n, ranges);
    CAIRN_DASSERT(v->n_nodes == nodes);
    for (size_t i = 0; i < n_vocab; i++) {
        struct cairn_str s = tokenizer_piece(t, (int32_t)i, false);
        if (tokenizer_is_end(t, (int32_t)i))
            v->ends[ends++] = (int32_t)i;
        else if (s.len && memchr(s.p, '[', s.len))
            v->brackets[brackets++] = (int32_t)i;
    }
    cairn_free(list);
    cairn_free(ranges);
    *out = v;
    return CAIRN_OK;
no_memory:
    cairn_free(list);
    cairn_free(ranges);
    constrain_vocab_close(v);
    return cairn_fail(why, CAIRN_ENOMEM, "a trie over %zu tokens", n_vocab);
}

void constrain_vocab_close(struct constrain_vocab *v)
{
    if (!v)
        return;
    cairn_free(v->first);
    cairn_free(v->bytes);
    cairn_free(v->tokens);
    cairn_free(v->same);
    cairn_free(v->ends);
    cairn_free(v->brackets);
    cairn_free(v);
}

/* 0, the root, is nobody's child: none. */
static uint32_t child(const struct constrain_vocab *v, uint32_t node, uint8_t byte)
{
    const uint8_t *from = v->bytes + v->first[node],
                  *at = memchr(from, byte, v->first[node + 1] - v->first[node]);
    return at ? (uint32_t)(at - v->bytes) : 0;
}

static void allow(struct constrain *c, int32_t id)
{
    for (; id >= 0; id = c->v->same[id])
        c->allowed[c->n_allowed++] = id;
}

/* ---- citations ---- */

static int64_t citation_step(int64_t number, uint8_t byte, int64_t n_sources)
{
    if (number == OUTSIDE)
        return byte == '[' ? 0 : OUTSIDE;
    if (byte == ']')
        return number > 0 ? OUTSIDE : REJECTED;
    if (byte < '0' || byte > '9')
        return REJECTED;
    number = number * 10 + (byte - '0');
    return number >= 1 && number <= n_sources ? number : REJECTED;
}
static int64_t citation_run(int64_t number, struct cairn_str s, int64_t n_sources)
{
    for (size_t i = 0; i < s.len && number != REJECTED; i++)
        number = citation_step(number, (uint8_t)s.p[i], n_sources);
    return number;
}

/* Tokens that it takes at least to come out of the bracket. */
static size_t to_close(int64_t number) { return number == OUTSIDE ? 0 : number == 0 ? 2 : 1; }

/* All tokens below node that the grammar takes and that leave `left` enough to close; recursion as deep as a
 * token is long. */
static void citation_walk(struct constrain *c, uint32_t node, int64_t number, size_t left)
{
    const struct constrain_vocab *v = c->v;
    for (uint32_t i = v->first[node]; i < v->first[node + 1]; i++) {
        int64_t next = citation_step(number, v->bytes[i], c->n_sources);
        if (next == REJECTED)
            continue;
        if (to_close(next) <= left)
            allow(c, v->tokens[i]);
        citation_walk(c, i, next, left);
    }
}

static struct constrain *new_constrain(const struct constrain_vocab *v)
{
    struct constrain *c = cairn_calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->v = v;
    c->number = OUTSIDE;
    c->allowed = cairn_reallocarray(NULL, v->n + 1, sizeof *c->allowed);
    c->few = cairn_reallocarray(NULL, v->n + 1, sizeof *c->few);
    return c;
}

enum cairn_err constrain_citations(struct constrain **out, const struct constrain_vocab *v, size_t n_sources,
                                   struct cairn_why *why)
{
    *out = NULL;
    if (n_sources < 1 || n_sources > GROUND_SOURCES_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "citations of %zu sources: 1 to %u can be numbered", n_sources,
                          GROUND_SOURCES_MAX);
    struct constrain *c = new_constrain(v);
    if (c)
        c->forbidden = cairn_reallocarray(NULL, v->n_brackets + 1, sizeof *c->forbidden);
    if (!c || !c->allowed || !c->few || !c->forbidden) {
        constrain_close(c);
        return cairn_fail(why, CAIRN_ENOMEM, "citations of %zu tokens", v->n);
    }
    c->n_sources = (int64_t)n_sources;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < v->n_brackets; i++) {
            int64_t after = citation_run(OUTSIDE, tokenizer_piece(v->t, v->brackets[i], false), c->n_sources);
            if (pass == 0 && after == REJECTED)
                c->forbidden[c->n_forbidden++] = v->brackets[i];
            else if (pass == 1 && after >= 0)
                c->forbidden[c->n_forbidden + c->n_opening++] = v->brackets[i];
        }
    for (int64_t number = 0; number <= c->n_sources && c->n_opening; number++) {
        c->n_allowed = 0;
        citation_walk(c, 0, number, to_close(number) - 1);
        if (!c->n_allowed) {
            constrain_close(c);
            return cairn_fail(why, CAIRN_EUNSUPPORTED,
                              "this model's vocabulary has no token that could follow '[%.*" PRId64
                              "' in a citation; ask without constrained citations",
                              number ? 1 : 0, number);
        }
    }
    *out = c;
    return CAIRN_OK;
}

/* ---- quotes ---- */

/* Letters and digits, roughly: scripts that put spaces between words. In all others a word is a character. */
static bool is_word(uint32_t cp)
{
    if (cp < 128)
        return (cp | 32) - 'a' < 26 || cp - '0' < 10;
    return cp >= 0xaa && cp < 0x2000 && cp != 0xd7 && cp != 0xf7;
}

/* Whether at, inside a text, is between code points and not within a word. */
static bool is_boundary(struct cairn_str s, size_t at)
{
    const char *p = s.p + at;
    if (((uint8_t)p[0] & 0xc0) == 0x80)
        return false;
    size_t back = 1;
    while (back < 4 && back < at && ((uint8_t)p[-(ptrdiff_t)back] & 0xc0) == 0x80)
        back++;
    uint32_t before = 0, after = 0;
    (void)cairn_utf8_next(p - back, back, &before);
    (void)cairn_utf8_next(p, s.len - at, &after);
    return !is_word(before) || !is_word(after);
}

/* Where a span may begin and end: marks[0 .. len]. */
static enum cairn_err mark(struct cairn_str s, enum quote_unit unit, uint8_t *marks, struct cairn_why *why)
{
    if (unit == QUOTE_SENTENCES) {
        size_t n = cairn_sentences(s, NULL, 0);
        struct cairn_span *spans = cairn_reallocarray(NULL, n + 1, sizeof *spans);
        if (!spans)
            return cairn_fail(why, CAIRN_ENOMEM, "%zu sentences to quote", n);
        (void)cairn_sentences(s, spans, n);
        for (size_t i = 0; i < n; i++) {
            marks[spans[i].start] |= BEGIN;
            marks[spans[i].end] |= END;
        }
        marks[s.len] |= END; /* white space may follow the last sentence */
        cairn_free(spans);
        return CAIRN_OK;
    }
    for (size_t i = 0; i <= s.len; i++)
        if (i == 0 || i == s.len || is_boundary(s, i))
            marks[i] = i < s.len && !strchr(" \t\r\n", s.p[i]) ? BEGIN | END : END;
    return CAIRN_OK;
}

enum cairn_err constrain_quote(struct constrain **out, const struct constrain_vocab *v,
                               const struct cairn_str *passages, size_t n_passages, enum quote_unit unit,
                               struct cairn_why *why)
{
    *out = NULL;
    size_t len = 0, at = 0;
    for (size_t i = 0; i < n_passages; i++)
        if (!cairn_add(len, passages[i].len + 1, &len) || len > PASSAGE_BYTES_MAX)
            return cairn_fail(why, CAIRN_EINVAL, "passages to quote have at most %d bytes together",
                              PASSAGE_BYTES_MAX);
    struct constrain *c = new_constrain(v);
    if (c) {
        c->quote = true;
        c->text = cairn_malloc(len + 1);
        c->marks = cairn_calloc(len + 1, 1);
        c->stamps = cairn_calloc(v->n, sizeof *c->stamps);
        c->places = cairn_reallocarray(NULL, len + 1, sizeof *c->places);
        c->passage_ends = cairn_reallocarray(NULL, n_passages + 1, sizeof *c->passage_ends);
    }
    if (!c || !c->allowed || !c->few || !c->text || !c->marks || !c->stamps || !c->places ||
        !c->passage_ends) {
        constrain_close(c);
        return cairn_fail(why, CAIRN_ENOMEM, "%zu bytes to quote from", len);
    }
    for (size_t i = 0; i < n_passages; i++) {
        memcpy(c->text + at, passages[i].p, passages[i].len);
        enum cairn_err err = mark(passages[i], unit, c->marks + at, why);
        if (err) {
            constrain_close(c);
            return err;
        }
        at += passages[i].len;
        c->text[at] = 0;
        c->passage_ends[i] = (uint32_t)at++;
    }
    for (size_t i = 0; i < len; i++)
        if (c->text[i] && (c->marks[i] & BEGIN))
            c->places[c->n_places++] = (uint32_t)i;
    *out = c;
    return CAIRN_OK;
}

/* Tokens on the trie's path along the text at p, each listed once. */
static void quote_walk(struct constrain *c, uint32_t node, const char *p)
{
    const struct constrain_vocab *v = c->v;
    for (; *p && (node = child(v, node, (uint8_t)*p)); p++) {
        int32_t id = v->tokens[node];
        if (id >= 0 && c->stamps[id] != c->stamp) {
            c->stamps[id] = c->stamp;
            allow(c, id);
        }
    }
}

static void quote_allowed(struct constrain *c)
{
    const struct constrain_vocab *v = c->v;
    uint32_t after_space = c->begun ? 0 : child(v, 0, ' ');
    bool end = false;
    c->stamp++;
    for (size_t i = 0; i < c->n_places; i++) {
        quote_walk(c, 0, c->text + c->places[i]);
        if (after_space)
            quote_walk(c, after_space, c->text + c->places[i]);
        end = end || (c->begun && (c->marks[c->places[i]] & END));
    }
    for (size_t i = 0; end && i < v->n_ends; i++)
        c->allowed[c->n_allowed++] = v->ends[i];
}

static void quote_accept(struct constrain *c, struct cairn_str s)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_places; i++) {
        const char *p = c->text + c->places[i];
        size_t skip = !c->begun && s.len && s.p[0] == ' '; /* no place begins with a space */
        /* the NUL behind a passage is in no token that was allowed, so this stops there */
        if (strncmp(p, s.p + skip, s.len - skip) == 0)
            c->places[n++] = c->places[i] + (uint32_t)(s.len - skip);
    }
    c->n_places = n;
    c->begun = true;
}

bool constrain_source(const struct constrain *c, size_t *passage)
{
    if (!c->quote || !c->begun || !c->n_places)
        return false;
    size_t i = 0;
    while (i + 1 < c->n_places && !(c->marks[c->places[i]] & END))
        i++;
    *passage = 0;
    while (c->passage_ends[*passage] < c->places[i])
        ++*passage;
    return true;
}

/* ---- both ---- */

void constrain_close(struct constrain *c)
{
    if (!c)
        return;
    cairn_free(c->allowed);
    cairn_free(c->few);
    cairn_free(c->forbidden);
    cairn_free(c->text);
    cairn_free(c->marks);
    cairn_free(c->passage_ends);
    cairn_free(c->places);
    cairn_free(c->stamps);
    cairn_free(c);
}

/* One of c->allowed: their logits are gathered, so the sampler looks at no others. */
static int32_t choose(struct constrain *c, struct sampler *s, const float *logits, size_t n, float *scratch)
{
    size_t count = 0;
    int32_t best = -1;
    for (size_t i = 0; i < c->n_allowed; i++) {
        int32_t id = c->allowed[i];
        if ((size_t)id >= n)
            continue;
        c->allowed[count++] = id;
        float x = logits[id], y = best < 0 ? NAN : logits[best];
        if (best < 0 || x > y || (isnan(y) && !isnan(x)) || (x == y && id < best))
            best = id;
    }
    if (!count || !(s->temperature > 0))
        return best;
    for (size_t i = 0; i < count; i++)
        c->few[i] = logits[c->allowed[i]];
    int32_t at = sampler_next(s, c->few, count, count, scratch);
    return at < 0 ? -1 : c->allowed[at];
}

int32_t constrain_next(struct constrain *c, struct sampler *s, float *logits, size_t n, float *scratch,
                       size_t left)
{
    c->n_allowed = 0;
    n = n < c->v->n ? n : c->v->n;
    if (!c->quote && c->number == OUTSIDE) {
        size_t all = c->n_forbidden + (left <= 2 ? c->n_opening : 0);
        for (size_t i = 0; i < all; i++) {
            int32_t id = c->forbidden[i];
            bool opens = i >= c->n_forbidden;
            if ((size_t)id < n &&
                (!opens ||
                 to_close(citation_run(OUTSIDE, tokenizer_piece(c->v->t, id, false), c->n_sources)) >= left))
                logits[id] = -INFINITY;
        }
        return sampler_next(s, logits, n, n, scratch);
    }
    if (c->quote)
        quote_allowed(c);
    else
        citation_walk(c, 0, c->number, left ? left - 1 : 0);
    return choose(c, s, logits, n, scratch);
}

void constrain_accept(struct constrain *c, int32_t id)
{
    struct cairn_str s = tokenizer_piece(c->v->t, id, false);
    if (c->quote)
        quote_accept(c, s);
    else
        c->number = citation_run(c->number, s, c->n_sources);
}

int32_t constrain_choose(void *ctx, struct sampler *s, float *logits, size_t n, float *scratch, size_t left)
{
    struct constrain *c = ctx;
    int32_t id = constrain_next(c, s, logits, n, scratch, left);
    if (id >= 0 && !tokenizer_is_end(c->v->t, id))
        constrain_accept(c, id);
    return id;
}
