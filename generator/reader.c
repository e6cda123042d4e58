/* reader.c - an encoder over (question, run of sentences) with two outputs for each token: begins the answer,
 * ends it. The pair [CLS], [CLS] stands for "no answer here", as in SQuAD 2 readers (Devlin et al. 2019). The
 * weights are an overlay over the pair model (model.h, encoder_open_over), trained by
 * scripts/train_reader.py.
 *
 * Runs are whole sentences of at most RUN_TOKENS tokens; the next begins with the last sentence of the one
 * before when it fits, so that no answer loses the sentence beside it. Words are tokenised one by one:
 * WordPiece never joins two, so the ids are those of the whole text and each token's bytes are known. */
#include "reader.h"

#include <math.h>
#include <string.h>

#define RUN_TOKENS 96u
#define QUESTION_TOKENS_MAX 60u
#define TOKENS_MAX 320u /* question, run and marks together */
#define ANSWER_TOKENS_MAX 20u
#define BEST_STARTS 20u
#define SENTENCES_MAX 512u

struct reader {
    struct encoder *encoder; /* OWNED */
    uint32_t dim;
    float *head, bias[2]; /* [2, dim] */
    int32_t cls, sep;
};

enum cairn_err reader_open(struct reader **out, const struct model_card *base, const char *overlay,
                           const struct model_opts *o, struct cairn_why *why)
{
    *out = NULL;
    struct reader *r = cairn_calloc(1, sizeof *r);
    if (!r)
        return cairn_fail(why, CAIRN_ENOMEM, "reader");
    enum cairn_err err = encoder_open_over(&r->encoder, base, overlay, o, why);
    if (!err) {
        r->dim = encoder_dim(r->encoder);
        r->cls = tokenizer_find(encoder_tokenizer(r->encoder), "[CLS]");
        r->sep = tokenizer_find(encoder_tokenizer(r->encoder), "[SEP]");
        r->head = cairn_reallocarray(NULL, 2 * (size_t)r->dim, sizeof *r->head);
        if (!r->head)
            err = cairn_fail(why, CAIRN_ENOMEM, "reader");
    }
    if (!err)
        err = encoder_extra(r->encoder, "reader.weight", r->head, 2 * (size_t)r->dim, why);
    if (!err)
        err = encoder_extra(r->encoder, "reader.bias", r->bias, 2, why);
    if (err) {
        reader_close(r);
        return err;
    }
    *out = r;
    return CAIRN_OK;
}

void reader_close(struct reader *r)
{
    if (!r)
        return;
    encoder_close(r->encoder);
    cairn_free(r->head);
    cairn_free(r);
}

/* ---- tokens with their bytes ---- */

struct piece {
    int32_t id;
    uint32_t start, end; /* of the word it belongs to */
};
struct pieces {
    struct piece *at;
    size_t n, cap;
};

static bool ascii_punctuation(unsigned char c)
{
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
}
static bool blank(unsigned char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* Appends the tokens of text[start, end). */
static enum cairn_err put_pieces(const struct reader *r, struct pieces *p, struct cairn_str text,
                                 size_t start, size_t end, struct cairn_why *why)
{
    for (size_t i = start; i < end;) {
        if (blank((unsigned char)text.p[i])) {
            i++;
            continue;
        }
        size_t e = i + 1;
        if (!ascii_punctuation((unsigned char)text.p[i]))
            while (e < end && !blank((unsigned char)text.p[e]) &&
                   !ascii_punctuation((unsigned char)text.p[e]))
                e++;
        int32_t *ids = NULL;
        size_t n = 0;
        enum cairn_err err =
            tokenizer_encode(encoder_tokenizer(r->encoder), (struct cairn_str){text.p + i, e - i},
                             TOKENIZE_PLAIN, &ids, &n, why);
        if (err)
            return err;
        if (p->n + n > p->cap) {
            size_t cap = 2 * p->cap + n + 256;
            struct piece *more = cairn_reallocarray(p->at, cap, sizeof *more);
            if (!more) {
                cairn_free(ids);
                return cairn_fail(why, CAIRN_ENOMEM, "tokens of a source");
            }
            p->at = more;
            p->cap = cap;
        }
        for (size_t k = 0; k < n; k++)
            p->at[p->n++] = (struct piece){ids[k], (uint32_t)i, (uint32_t)e};
        cairn_free(ids);
        i = e;
    }
    return CAIRN_OK;
}

/* ---- runs ---- */

struct run {
    uint32_t source;
    size_t from, to;    /* bytes */
    size_t first, last; /* pieces [first, last) of the source */
};

static size_t count_pieces(const struct pieces *p, size_t *at, size_t end)
{
    size_t n = 0;
    while (*at < p->n && p->at[*at].start < end) {
        ++*at;
        n++;
    }
    return n;
}

static enum cairn_err runs_of(const struct pieces *p, uint32_t source, struct cairn_str text,
                              struct run *runs, size_t *n_runs, struct cairn_why *why)
{
    struct cairn_span *s = cairn_reallocarray(NULL, SENTENCES_MAX, sizeof *s);
    size_t *sizes = cairn_reallocarray(NULL, SENTENCES_MAX + 1, sizeof *sizes); /* pieces before sentence i */
    if (!s || !sizes) {
        cairn_free(s);
        cairn_free(sizes);
        return cairn_fail(why, CAIRN_ENOMEM, "sentences of a source");
    }
    size_t n = cairn_sentences(text, s, SENTENCES_MAX), at = 0;
    n = n < SENTENCES_MAX ? n : SENTENCES_MAX;
    sizes[0] = 0;
    for (size_t i = 0; i < n; i++)
        sizes[i + 1] = sizes[i] + count_pieces(p, &at, s[i].end);
    for (size_t i = 0; i < n && *n_runs < READER_SPANS_MAX;) {
        size_t j = i + 1;
        while (j < n && sizes[j + 1] - sizes[i] <= RUN_TOKENS)
            j++;
        if (sizes[j] > sizes[i])
            runs[(*n_runs)++] = (struct run){source, s[i].start, s[j - 1].end, sizes[i], sizes[j]};
        if (j >= n)
            break;
        i = j - 1 > i && sizes[j + 1] - sizes[j - 1] <= RUN_TOKENS ? j - 1 : j;
    }
    cairn_free(s);
    cairn_free(sizes);
    return CAIRN_OK;
}

/* ---- reading ---- */

static void best_span(const struct reader *r, const struct piece *p, size_t n, const float *hidden,
                      size_t off, struct reader_span *out)
{
    float begin[TOKENS_MAX], end[TOKENS_MAX], none = r->bias[0] + r->bias[1];
    for (size_t k = 0; k < r->dim; k++)
        none += hidden[k] * (r->head[k] + r->head[r->dim + k]);
    for (size_t i = 0; i < n; i++) {
        const float *h = hidden + (off + i) * r->dim;
        double b = r->bias[0], e = r->bias[1];
        for (size_t k = 0; k < r->dim; k++) {
            b += (double)h[k] * (double)r->head[k];
            e += (double)h[k] * (double)r->head[r->dim + k];
        }
        begin[i] = (float)b;
        end[i] = (float)e;
    }
    float best = -INFINITY;
    size_t from = 0, to = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n && j < i + ANSWER_TOKENS_MAX; j++)
            if (begin[i] + end[j] > best) {
                best = begin[i] + end[j];
                from = i;
                to = j;
            }
    float next = -INFINITY;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n && j < i + ANSWER_TOKENS_MAX; j++)
            if ((j < from || i > to) && begin[i] + end[j] > next)
                next = begin[i] + end[j];
    out->start = p[from].start;
    out->end = p[to].end;
    out->margin = best - none;
    out->lead = isfinite(next) ? best - next : best - none;
}

static enum cairn_err read_run(const struct reader *r, const struct pieces *question, const struct pieces *p,
                               const struct run *run, struct reader_span *out, const struct cairn_stop *stop,
                               struct cairn_why *why)
{
    int32_t ids[TOKENS_MAX], types[TOKENS_MAX];
    size_t nq = question->n < QUESTION_TOKENS_MAX ? question->n : QUESTION_TOKENS_MAX, len = 0,
           n = run->last - run->first, room = TOKENS_MAX - nq - 3;
    n = n < room ? n : room;
    ids[len++] = r->cls;
    for (size_t i = 0; i < nq; i++)
        ids[len++] = question->at[i].id;
    ids[len++] = r->sep;
    size_t off = len;
    for (size_t i = 0; i < n; i++)
        ids[len++] = p->at[run->first + i].id;
    ids[len++] = r->sep;
    for (size_t i = 0; i < len; i++)
        types[i] = i >= off;
    float *hidden = cairn_reallocarray(NULL, len * r->dim, sizeof *hidden);
    if (!hidden)
        return cairn_fail(why, CAIRN_ENOMEM, "reader");
    enum cairn_err err = encoder_forward(r->encoder, ids, types, &len, 1, hidden, stop, why);
    if (!err) {
        *out = (struct reader_span){.source = run->source, .from = run->from, .to = run->to};
        best_span(r, p->at + run->first, n, hidden, off, out);
    }
    cairn_free(hidden);
    return err;
}

static bool digit_at(struct cairn_str text, size_t i)
{
    return i < text.len && text.p[i] >= '0' && text.p[i] <= '9';
}
static bool inside_number(struct cairn_str text, size_t i)
{
    return i && i < text.len && strchr(".,:", text.p[i]) && digit_at(text, i - 1) && digit_at(text, i + 1);
}
void reader_whole_numbers(struct cairn_str text, struct reader_span *s)
{
    while (s->start > s->from &&
           ((digit_at(text, s->start) && digit_at(text, s->start - 1)) ||
            (digit_at(text, s->start) && inside_number(text, s->start - 1)) || inside_number(text, s->start)))
        s->start--;
    while (s->end < s->to &&
           ((digit_at(text, s->end - 1) && digit_at(text, s->end)) ||
            (digit_at(text, s->end) && inside_number(text, s->end - 1)) || inside_number(text, s->end)))
        s->end++;
}

enum cairn_err reader_read(const struct reader *r, const struct answer_request *q, const size_t *lens,
                           size_t n_sources, struct reader_span *out, size_t *n,
                           const struct cairn_stop *stop, struct cairn_why *why)
{
    struct pieces question = {0};
    enum cairn_err err = put_pieces(r, &question, q->question, 0, q->question.len, why);
    *n = 0;
    for (size_t s = 0; s < n_sources && *n < READER_SPANS_MAX && !err; s++) {
        struct pieces p = {0};
        struct run runs[READER_SPANS_MAX];
        size_t n_runs = *n, first = *n;
        struct cairn_str text = {q->sources[s].text.p, lens[s]};
        err = put_pieces(r, &p, text, 0, text.len, why);
        if (!err)
            err = runs_of(&p, (uint32_t)s, text, runs, &n_runs, why);
        for (size_t i = first; i < n_runs && !err; i++) {
            err = read_run(r, &question, &p, &runs[i], &out[*n], stop, why);
            if (err)
                break;
            reader_whole_numbers(text, &out[(*n)++]);
        }
        cairn_free(p.at);
    }
    cairn_free(question.at);
    for (size_t i = 1; i < *n && !err; i++) /* insertion: stable */
        for (size_t k = i; k && out[k].margin > out[k - 1].margin; k--) {
            struct reader_span t = out[k];
            out[k] = out[k - 1];
            out[k - 1] = t;
        }
    return err;
}
