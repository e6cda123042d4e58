/* evidence.c - before a token is written: do the sources answer the question, or only stand near it? A pair
 * model says how near; what a near miss lacks is a specific of the question (a name, a number, a version), so
 * each is looked up in the passage of the best sentence, with its title and path. */
#include "answer_internal.h"
#include "typed.h"
#include "words.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define CONTEXT_BYTES_MAX (GROUND_SOURCE_BYTES_MAX + 4096u)
#define NEAR_LOGIT 1.5f /* candidates this close to the best count as much */
#define TYPED_MAX 64u
#define SOURCE_TYPED_MAX 512u
#define TOKENS_MAX 64u
#define STEM_MIN 5u /* letters that two forms of a word share */

struct token {
    struct cairn_str s;
    bool specific, plain;
};

static bool border(char c) { return strchr(" \t\r\n|*\"'().,:;?!/[]_<>`", c) != NULL; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_upper(unsigned char c, unsigned char next)
{
    return (c >= 'A' && c <= 'Z') || (c == 0xC3 && next >= 0x80 && next <= 0x9E);
}

static size_t tokens(struct cairn_str q, struct token *out)
{
    size_t n = 0, i = 0;
    bool first = true;
    while (i < q.len && n < TOKENS_MAX) {
        while (i < q.len && border(q.p[i])) {
            first = first || strchr(".?!", q.p[i]);
            i++;
        }
        size_t e = i;
        while (e < q.len && (!border(q.p[e]) || (strchr(".,:/", q.p[e]) && e + 1 < q.len &&
                                                 is_digit(q.p[e + 1]) && e > i && is_digit(q.p[e - 1]))))
            e++;
        if (e == i)
            break;
        struct cairn_str s = {q.p + i, e - i};
        bool digit = false;
        for (size_t k = 0; k < s.len; k++)
            digit = digit || is_digit(s.p[k]);
        char low[24];
        size_t m = 0;
        for (; m < s.len && m < sizeof low; m++)
            low[m] = s.p[m] >= 'A' && s.p[m] <= 'Z' ? (char)(s.p[m] + 32) : s.p[m];
        bool function = m == s.len && (word_classes(low, m) & WORD_FUNCTION);
        bool cap = is_upper((unsigned char)s.p[0], s.len > 1 ? (unsigned char)s.p[1] : 0);
        bool lone = s.len == 1 && cap && s.p[0] != 'A' && s.p[0] != 'I'; /* "class D" */
        out[n++] = (struct token){.s = s,
                                  .specific = digit || lone || (cap && !first && !function),
                                  .plain = !digit && !function && s.len > 2};
        if (out[n - 1].specific)
            out[n - 1].plain = false;
        first = false;
        i = e;
    }
    return n;
}

/* Finds the token as a word; a plain word also by its first letters, a name by a longer form of it. */
static bool found(struct cairn_str text, const struct token *t)
{
    size_t at, n = t->s.len;
    for (size_t i = 0; i < n; i++)
        if (is_digit(t->s.p[i]) && typed_find_ident(text, t->s, &at))
            return true;
    size_t want = n;
    if (t->plain)
        want = n > STEM_MIN + 2 ? n - 3 : n > STEM_MIN ? STEM_MIN : n > 3 && t->s.p[n - 1] == 's' ? n - 1 : n;
    else if (n > STEM_MIN)
        want = n - 1; /* German, Germany; a plural */
    want = cairn_utf8_floor(t->s.p, want);
    bool exact = n == 1;
    for (size_t i = 0; i + want <= text.len; i++) {
        if (i && !border(text.p[i - 1]) && text.p[i - 1] != '-')
            continue;
        if (exact ? text.p[i] != t->s.p[0] : strncasecmp(text.p + i, t->s.p, want) != 0)
            continue;
        size_t e = i + want;
        if (want < n || e == text.len || border(text.p[e]) || text.p[e] == '-' ||
            (!exact && e + 1 < text.len && text.p[e] == 's'))
            return true;
    }
    return false;
}
static bool value_found(const struct typed *v, struct cairn_str q, const struct typed *in, size_t n,
                        struct cairn_str text)
{
    size_t at;
    if (v->kind == TYPED_IDENT)
        return typed_find_ident(text, (struct cairn_str){q.p + v->start, v->end - v->start}, &at);
    for (size_t i = 0; i < n; i++)
        if (v->kind == in[i].kind && ((v->kind == TYPED_NUMBER && typed_number_match(v, &in[i])) ||
                                      (v->kind == TYPED_DATE && typed_date_match(v, &in[i])) ||
                                      (v->kind == TYPED_TIME && typed_time_match(v, &in[i]))))
            return true;
    return typed_find_ident(text, (struct cairn_str){q.p + v->start, v->end - v->start}, &at);
}

enum cairn_err evidence_of(const struct answer_request *q, size_t n_sources, const struct extract_list *l,
                           struct answer_evidence *out, struct cairn_why *why)
{
    *out =
        (struct answer_evidence){.chance = NAN, .rerank = NAN, .sentence = NAN, .dense = NAN, .margin = NAN};
    for (size_t i = 0; i < q->n_sources; i++)
        if (!isnan(q->sources[i].rerank) && !(out->rerank >= q->sources[i].rerank))
            out->rerank = q->sources[i].rerank;
    for (size_t i = 0; i < l->n; i++)
        if (!isnan(l->c[i].logit) && !(out->sentence >= l->c[i].logit))
            out->sentence = l->c[i].logit;
    out->typed = l->n && l->c[0].typed ? 1 : 0;
    out->cover = l->n ? l->c[0].cover : 0;
    struct token t[TOKENS_MAX];
    size_t nt = tokens(q->question, t);
    struct typed v[TYPED_MAX], *in = cairn_malloc(SOURCE_TYPED_MAX * sizeof *in);
    if (!in)
        return cairn_fail(why, CAIRN_ENOMEM, "values of the sources");
    size_t nv = typed_scan(q->question, 0, q->question.len, v, TYPED_MAX, NULL);
    uint64_t has_token[TOKENS_MAX] = {0}, has_value[TYPED_MAX] = {0};
    bool in_value[TOKENS_MAX] = {0};
    for (size_t k = 0; k < nv; k++)
        for (size_t i = 0; i < nt; i++) {
            size_t at = (size_t)(t[i].s.p - q->question.p);
            in_value[i] = in_value[i] || (v[k].kind != TYPED_QUOTE && !(v[k].flags & TYPED_WEAK) &&
                                          at < v[k].end && at + t[i].s.len > v[k].start);
        }
    enum cairn_err err = CAIRN_OK;
    for (size_t s = 0; s < n_sources && s < 64 && !err; s++) {
        const struct answer_source *a = &q->sources[s];
        struct cairn_buf b;
        cairn_buf_init(&b, CONTEXT_BYTES_MAX);
        size_t len = cairn_utf8_floor(
            a->text.p, a->text.len < GROUND_SOURCE_BYTES_MAX ? a->text.len : GROUND_SOURCE_BYTES_MAX);
        size_t tl = a->title.len < 1024 ? a->title.len : 1024, pl = a->path.len < 1024 ? a->path.len : 1024;
        if (!cairn_buf_put(&b, a->title.p, tl) || !cairn_buf_puts(&b, "\n") ||
            !cairn_buf_put(&b, a->path.p, pl) || !cairn_buf_puts(&b, "\n") ||
            !cairn_buf_put(&b, a->text.p, len))
            err = cairn_fail(why, CAIRN_ENOMEM, "text of source %zu", s + 1);
        struct cairn_str text = {b.bytes, b.len};
        size_t n = err ? 0 : typed_scan(text, 0, text.len, in, SOURCE_TYPED_MAX, NULL);
        for (size_t i = 0; i < nt && !err; i++)
            has_token[i] |= (uint64_t)found(text, &t[i]) << s;
        for (size_t k = 0; k < nv && !err; k++)
            has_value[k] |= (uint64_t)value_found(&v[k], q->question, in, n, text) << s;
        cairn_buf_release(&b);
    }
    cairn_free(in);
    if (err)
        return err;
    float best = 1e9f;
    for (size_t c = 0; c < (l->n ? l->n : 1); c++) { /* the passage that lacks least among the near best */
        const struct extract_pick *p = &l->c[c];
        if (c && (isnan(p->logit) || p->logit < l->c[0].logit - NEAR_LOGIT))
            continue;
        uint64_t bit = 1ULL << (l->n ? p->source : 0);
        float lacks = 0, nowhere = 0, plain = 0, plains = 0;
        for (size_t i = 0; i < nt; i++) {
            if (in_value[i])
                continue;
            if (t[i].specific) {
                lacks += !(has_token[i] & bit) && __builtin_popcountll(has_token[i]) < 2;
                nowhere += !has_token[i];
            }
            if (t[i].plain) {
                plains += 1;
                plain += !(has_token[i] & bit);
            }
        }
        for (size_t k = 0; k < nv; k++) {
            if (v[k].kind == TYPED_QUOTE || (v[k].flags & TYPED_WEAK))
                continue;
            lacks += !(has_value[k] & bit);
            nowhere += !has_value[k];
        }
        if (lacks + nowhere < best) {
            best = lacks + nowhere;
            out->lacks = 1 - expf(-lacks);
            out->nowhere = 1 - expf(-nowhere);
            out->plain = plains > 0 ? plain / plains : 0;
        }
    }
    return CAIRN_OK;
}

/* For a phrase the reader's margin says most of it: whether these very sentences answer, which nearness does
 * not. What the question names and the passage lacks still counts. Fitted to 400 questions of SQuAD 2 on
 * articles that the reader has not seen, half 1 of docs/quality.md, rounded; the constant is where 14.5 % of
 * their answerable ones fall below the default of generator.relevance_min. Over documents unlike those it
 * knows less than nearness does (AUC 0.85 against 0.91 on data/questions.jsonl), so for sentences it is not
 * asked. */
static float reader_chance(const struct answer_evidence *e)
{
    float margin = fminf(fmaxf(e->margin, -12), 12) / 10, dense = isnan(e->dense) ? 0.4f : e->dense;
    float rerank = isnan(e->rerank) ? 0 : fmaxf(e->rerank, -5) / 5;
    float sentence = isnan(e->sentence) ? 0 : fmaxf(e->sentence, -5) / 5;
    float z = 2.6f * margin + 2.4f * dense - 0.7f * e->lacks - 0.5f * e->nowhere - 0.6f * rerank +
              0.5f * sentence - 2.14f;
    return 1 / (1 + expf(-z));
}

/* Fitted with fixed signs on data/questions.jsonl as the retriever answers them, and on questions of another
 * subject; README has what a fit on one half gives on the other. A pair model's negative logit says little (a
 * question in other words has one too), so below 0 the embedder alone decides. Words that the passage lacks
 * count as far as the sentence looks like an answer: a near miss, not a paraphrase. The constant makes
 * generator.relevance_min mean the same here and in relevance_chance. */
float evidence_chance(const struct answer_evidence *e)
{
    if (!isnan(e->margin))
        return reader_chance(e);
    float near = fmaxf(e->rerank, 0) / 5, dense = e->dense;
    if (isnan(dense))
        dense = 0.4f * fminf(fmaxf((e->rerank + 11) / 11, 0), 1);
    float miss = e->plain / (1 + expf(-e->sentence));
    float z = 1.25f * near + 2.6f * dense - 2.8f * e->lacks - 2.2f * e->nowhere - 2.7f * miss - 2.57f;
    return 1 / (1 + expf(-z));
}
