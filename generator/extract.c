/* extract.c - answering by quotation: which sentences of the sources carry the answer. The pair model (else
 * the embedder, else shared words) orders a bounded number of candidates; each is shown to it with what it
 * stands under: its heading, the question or list introduction above it, the column heads of its table. The
 * quote itself stays as it is written. */
#include "answer_internal.h"

#include <math.h>
#include <string.h>

#define TEXT_BYTES_MAX 2048u /* of one candidate given to a model */
#define CONTEXT_BYTES_MAX 200u
#define CELLS_MAX 32u
#define RANK_COST 0.02f  /* the retriever's order breaks ties */
#define TYPE_LOGIT 1.5f  /* a sentence without a value of the kind asked for, in units of the pair model */
#define COVER_LOGIT 1.0f /* all words of the question instead of none */
#define SECOND_LOGIT                                                                                         \
    0.75f /* a second sentence is quoted when the pair model likes it this much less at most */

static float logistic(float x) { return 1 / (1 + expf(-x)); }

static struct cairn_str trimmed(struct cairn_str t, size_t *start)
{
    size_t i = 0;
    while (i < t.len && (strchr(" \t\r\n>", t.p[i]) || (strchr("*-+", t.p[i]) && i + 1 < t.len &&
                                                        t.p[i + 1] == ' '))) /* list and quote marks */
        i++;
    size_t d = i;
    while (d < t.len && d - i < 3 && t.p[d] >= '0' && t.p[d] <= '9')
        d++;
    if (d > i && d + 1 < t.len && (t.p[d] == '.' || t.p[d] == ')') && t.p[d + 1] == ' ')
        i = d + 2;
    *start += i;
    return (struct cairn_str){t.p + i, t.len - i};
}

/* ---- where a sentence stands ---- */

static struct cairn_str line_at(struct cairn_str t, size_t at)
{
    size_t s = at, e = at;
    while (s > 0 && t.p[s - 1] != '\n')
        s--;
    while (e < t.len && t.p[e] != '\n')
        e++;
    while (s < e && strchr(" \t\r", t.p[s]))
        s++;
    while (e > s && strchr(" \t\r", t.p[e - 1]))
        e--;
    return (struct cairn_str){t.p + s, e - s};
}
static bool is_row(struct cairn_str line)
{
    if (line.len < 3)
        return false;
    for (size_t i = 0; i + 2 < line.len; i++)
        if (line.p[i] == ' ' && line.p[i + 1] == '|' && line.p[i + 2] == ' ')
            return true;
    return line.p[0] == '|' && line.p[line.len - 1] == '|';
}
static bool is_rule(struct cairn_str line)
{
    for (size_t i = 0; i < line.len; i++)
        if (!strchr("|-: =+", line.p[i]))
            return false;
    return line.len > 0;
}
/* Rows above `at` in the same table; *head is its first one. */
static size_t rows_above(struct cairn_str t, size_t at, struct cairn_str *head)
{
    size_t n = 0, i = at;
    while (i > 0 && t.p[i - 1] != '\n')
        i--;
    while (i > 0) {
        struct cairn_str line = line_at(t, i - 1);
        if (!is_row(line))
            break;
        *head = line;
        n++;
        i = (size_t)(line.p - t.p);
        while (i > 0 && t.p[i - 1] != '\n')
            i--;
    }
    return n;
}
static size_t cells(struct cairn_str row, struct cairn_str *out)
{
    size_t n = 0, i = row.len && row.p[0] == '|' ? 1 : 0;
    while (i < row.len && n < CELLS_MAX) {
        size_t e = i;
        while (e < row.len && row.p[e] != '|')
            e++;
        size_t a = i, b = e;
        while (a < b && row.p[a] == ' ')
            a++;
        while (b > a && row.p[b - 1] == ' ')
            b--;
        out[n++] = (struct cairn_str){row.p + a, b - a};
        i = e + 1;
    }
    return n;
}
static bool next_line_is_row(struct cairn_str t, size_t at)
{
    while (at < t.len && t.p[at] != '\n')
        at++;
    return at + 1 < t.len && is_row(line_at(t, at + 1));
}
/* The line that a sentence answers or belongs under: the last question, or a list's introduction when nothing
 * but its items stands between. */
static struct cairn_str lead_of(struct cairn_str t, size_t at)
{
    struct cairn_str lead = {0};
    bool list = false;
    size_t i = 0;
    while (i < at) {
        struct cairn_str line = line_at(t, i);
        size_t end = (size_t)(line.p - t.p) + line.len;
        if (end >= at)
            break;
        size_t n = line.len;
        while (n && strchr("*_ ", line.p[n - 1]))
            n--;
        bool item = line.len && (strchr("-*+|", line.p[0]) || is_row(line));
        bool bold = line.len > 4 && memcmp(line.p, "**", 2) == 0 && n + 2 == line.len;
        if (n && (line.p[0] == '#' || line.p[n - 1] == '?' || bold)) {
            lead = line;
            list = false;
        } else if (n && line.p[n - 1] == ':') {
            lead = line;
            list = true;
        } else if (n && list && !item) {
            lead = (struct cairn_str){0};
        }
        i = end + 1;
        while (i < at && (t.p[i - 1] != '\n'))
            i++;
    }
    return lead;
}

/* What the pair model reads: "heading: introduction: column head cell; ..." */
static bool put_text(struct cairn_buf *b, const struct answer_source *s, const struct extract_pick *p)
{
    struct cairn_str where = s->path.len ? s->path : s->title,
                     sentence = {s->text.p + p->start, p->end - p->start};
    for (size_t i = 0; i + 2 < where.len; i++) /* "document > title > section" */
        if (memcmp(where.p + i, " > ", 3) == 0) {
            where = (struct cairn_str){where.p + i + 3, where.len - i - 3};
            break;
        }
    size_t n = cairn_utf8_floor(where.p, where.len < CONTEXT_BYTES_MAX ? where.len : CONTEXT_BYTES_MAX);
    bool ok = !n || (cairn_buf_put(b, where.p, n) && cairn_buf_puts(b, ": "));
    struct cairn_str lead = lead_of(s->text, p->start);
    while (lead.len && strchr("#*_ ", lead.p[0])) {
        lead.p++;
        lead.len--;
    }
    while (lead.len && strchr("*_: ", lead.p[lead.len - 1]))
        lead.len--;
    bool told = where.len >= lead.len && lead.len &&
                memcmp(where.p + where.len - lead.len, lead.p, lead.len) == 0; /* the path ends with it */
    if (lead.len && lead.len <= CONTEXT_BYTES_MAX && !told)
        ok = ok && cairn_buf_put(b, lead.p, lead.len) &&
             cairn_buf_puts(b, lead.p[lead.len - 1] == '?' ? " " : ": ");
    struct cairn_str head = {0}, h[CELLS_MAX], c[CELLS_MAX];
    if (p->row && rows_above(s->text, p->start, &head)) {
        size_t nh = cells(head, h), nc = cells(sentence, c);
        if (nh == nc) {
            for (size_t i = 0; i < nc && ok; i++)
                ok = (!h[i].len || (cairn_buf_put(b, h[i].p, h[i].len) && cairn_buf_puts(b, " "))) &&
                     cairn_buf_put(b, c[i].p, c[i].len) && cairn_buf_puts(b, i + 1 < nc ? "; " : ".");
            return ok;
        }
        ok = ok && cairn_buf_put(b, head.p, head.len) && cairn_buf_puts(b, " ");
    }
    return ok && cairn_buf_put(b, sentence.p, sentence.len);
}

/* ---- candidates ---- */

static bool before(const struct extract_pick *a, const struct extract_pick *b) { return a->score > b->score; }

static void collect(const struct grounding *g, const struct answer_request *q, struct extract_list *l)
{
    l->n = 0;
    for (size_t i = 0; i < grounding_n_sentences(g); i++) {
        struct ground_evidence e = grounding_sentence(g, i);
        struct cairn_str text = q->sources[e.source].text;
        struct cairn_str t = trimmed((struct cairn_str){text.p + e.start, e.end - e.start}, &e.start);
        size_t words = 0;
        for (size_t k = 0; k < t.len; k++)
            words += (k == 0 || strchr(" \n|", t.p[k - 1])) && !strchr(" \n|-", t.p[k]);
        struct cairn_str line = line_at(text, e.start), head;
        struct extract_pick p = {.source = e.source,
                                 .start = e.start,
                                 .end = e.end,
                                 .cover = e.score,
                                 .logit = NAN,
                                 .row = is_row(line)};
        if (p.row ? words < 2 || is_rule(line) : words < 3)
            continue;
        if (t.len > TEXT_BYTES_MAX || !grounding_is_claim(t))
            continue;
        if (p.row && rows_above(text, e.start, &head) == 0 && next_line_is_row(text, e.start))
            continue; /* column heads alone say nothing */
        size_t last = t.len;
        while (last && strchr("*_ ", t.p[last - 1]))
            last--;
        if (last && t.p[last - 1] == '?') /* the question of a list of questions */
            continue;
        p.typed = answer_has(l->asks, t, q->question);
        p.score = e.score - RANK_COST * (float)e.source + (p.typed && l->asks != ASKED_ANY ? 0.1f : 0);
        size_t k = l->n < EXTRACT_CANDIDATES_MAX ? l->n++ : EXTRACT_CANDIDATES_MAX;
        if (k == EXTRACT_CANDIDATES_MAX) {
            if (!before(&p, &l->c[k - 1]))
                continue;
            k--;
        }
        while (k && before(&p, &l->c[k - 1])) {
            l->c[k] = l->c[k - 1];
            k--;
        }
        l->c[k] = p;
    }
}

enum cairn_err extract_score(struct grounding *g, const struct answer_request *q, struct encoder *reranker,
                             struct encoder *embedder, struct extract_list *l, const struct cairn_stop *stop,
                             struct cairn_why *why)
{
    l->asks = question_asks(q->question);
    collect(g, q, l);
    size_t n = l->n;
    if (!n || (!reranker && !embedder))
        return CAIRN_OK;
    struct cairn_buf b[EXTRACT_CANDIDATES_MAX];
    struct cairn_str texts[EXTRACT_CANDIDATES_MAX + 1];
    float logits[EXTRACT_CANDIDATES_MAX];
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < n; i++)
        cairn_buf_init(&b[i], 8 * TEXT_BYTES_MAX);
    for (size_t i = 0; i < n && !err; i++) {
        if (!put_text(&b[i], &q->sources[l->c[i].source], &l->c[i]))
            err = cairn_fail(why, CAIRN_ENOMEM, "candidate sentences");
        texts[i] = (struct cairn_str){b[i].bytes, b[i].len};
    }
    if (!err && reranker) {
        err = encoder_score_pairs(reranker, q->question, texts, n, logits, stop, why);
        for (size_t i = 0; i < n && !err; i++) {
            struct extract_pick *p = &l->c[i];
            p->logit = logits[i];
            p->score = logistic((logits[i] + COVER_LOGIT * p->cover - (p->typed ? 0 : TYPE_LOGIT) -
                                 RANK_COST * (float)p->source) /
                                2);
        }
    } else if (!err) {
        size_t dim = encoder_dim(embedder);
        float *v = cairn_malloc((n + 1) * dim * sizeof *v);
        if (!v) {
            err = cairn_fail(why, CAIRN_ENOMEM, "vectors of candidate sentences");
        } else {
            texts[n] = q->question;
            err = encoder_embed(embedder, texts, n + 1, v, stop, why);
            for (size_t i = 0; i < n && !err; i++) {
                double dot = 0, a = 1e-12, z = 1e-12;
                for (size_t k = 0; k < dim; k++) {
                    dot += (double)v[i * dim + k] * (double)v[n * dim + k];
                    a += (double)v[i * dim + k] * (double)v[i * dim + k];
                    z += (double)v[n * dim + k] * (double)v[n * dim + k];
                }
                l->c[i].score = 0.4f * l->c[i].score + 0.6f * (float)fmax(0, dot / sqrt(a * z));
            }
            cairn_free(v);
        }
    }
    for (size_t i = 0; i < n; i++)
        cairn_buf_release(&b[i]);
    if (err)
        return err;
    for (size_t i = 1; i < n; i++) /* insertion: stable */
        for (size_t k = i; k && before(&l->c[k], &l->c[k - 1]); k--) {
            struct extract_pick t = l->c[k];
            l->c[k] = l->c[k - 1];
            l->c[k - 1] = t;
        }
    return CAIRN_OK;
}

size_t extract_choose(const struct extract_list *l, const struct answer_request *q, size_t max,
                      float share_min, struct extract_pick *out)
{
    size_t n = 0;
    for (size_t i = 0; i < l->n && n < max; i++) {
        const struct extract_pick *c = &l->c[i];
        if (n && (c->score < share_min * out[0].score ||
                  (!isnan(c->logit) && c->logit < out[0].logit - SECOND_LOGIT)))
            break;
        bool twice = false; /* the same sentence in two sources */
        for (size_t k = 0; k < n; k++)
            twice = twice || (out[k].end - out[k].start == c->end - c->start &&
                              memcmp(q->sources[out[k].source].text.p + out[k].start,
                                     q->sources[c->source].text.p + c->start, c->end - c->start) == 0);
        if (!twice)
            out[n++] = *c;
    }
    return n;
}
