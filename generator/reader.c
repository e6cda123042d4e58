/* reader.c - an encoder over (question, run of sentences) with two outputs for each token: begins the answer,
 * ends it. The pair [CLS], [CLS] stands for "no answer here", as in SQuAD 2 readers (Devlin et al. 2019). The
 * weights are an overlay over the pair model (model.h, encoder_open_over), trained by
 * scripts/train_reader.py.
 *
 * Runs are whole sentences of at most RUN_TOKENS tokens; the next begins with the last sentence of the one
 * before when it fits, so that no answer loses the sentence beside it. */
#include "reader.h"

#include "token_head.h"

#include <math.h>
#include <string.h>

#define RUN_TOKENS 96u
#define QUESTION_TOKENS_MAX 60u
#define TOKENS_MAX 320u /* question, run and marks together */
#define ANSWER_TOKENS_MAX 20u
#define BEST_STARTS 20u
#define SENTENCES_MAX 512u

struct reader {
    struct token_head head;
};

enum cairn_err reader_open(struct reader **out, const struct model_card *base, const char *overlay,
                           const struct model_opts *o, struct cairn_why *why)
{
    *out = NULL;
    struct reader *r = cairn_calloc(1, sizeof *r);
    if (!r)
        return cairn_fail(why, CAIRN_ENOMEM, "reader");
    enum cairn_err err = token_head_open(&r->head, base, overlay, "reader", o, why);
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
    token_head_release(&r->head);
    cairn_free(r);
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

/* logit: of [CLS] first, then of the question; `off` is the run's first. */
static void best_span(const struct piece *p, size_t n, float (*logit)[2], size_t off, struct reader_span *out)
{
    float best = -INFINITY, none = logit[0][0] + logit[0][1];
    size_t from = 0, to = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n && j < i + ANSWER_TOKENS_MAX; j++)
            if (logit[off + i][0] + logit[off + j][1] > best) {
                best = logit[off + i][0] + logit[off + j][1];
                from = i;
                to = j;
            }
    out->start = p[from].start;
    out->end = p[to].end;
    out->margin = best - none;
}

static enum cairn_err read_run(const struct reader *r, const struct pieces *question, const struct pieces *p,
                               const struct run *run, struct reader_span *out, const struct cairn_stop *stop,
                               struct cairn_why *why)
{
    float logit[TOKENS_MAX][2];
    size_t nq = question->n < QUESTION_TOKENS_MAX ? question->n : QUESTION_TOKENS_MAX,
           n = run->last - run->first, room = TOKENS_MAX - nq - 3;
    n = n < room ? n : room;
    enum cairn_err err = token_head_run(&r->head, question->at, nq, p->at + run->first, n, logit, stop, why);
    if (err)
        return err;
    *out = (struct reader_span){.source = run->source, .from = run->from, .to = run->to};
    best_span(p->at + run->first, n, logit, nq + 2, out);
    return CAIRN_OK;
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
    enum cairn_err err = token_head_pieces(&r->head, &question, q->question, 0, q->question.len, why);
    *n = 0;
    for (size_t s = 0; s < n_sources && *n < READER_SPANS_MAX && !err; s++) {
        struct pieces p = {0};
        struct run runs[READER_SPANS_MAX];
        size_t n_runs = *n, first = *n;
        struct cairn_str text = {q->sources[s].text.p, lens[s]};
        err = token_head_pieces(&r->head, &p, text, 0, text.len, why);
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
