/* extract.c - answering by quotation: which sentences of the sources carry the answer. Lexical cover of the
 * question finds candidates; the pair model, else the embedder, orders them. */
#include "answer_internal.h"

#include <math.h>
#include <string.h>

#define CANDIDATES_MAX 16u
#define TEXT_BYTES_MAX 2048u /* of one candidate given to a model */

static float logistic(float x) { return 1 / (1 + expf(-x)); }

static struct cairn_str trimmed(struct cairn_str t, size_t *start)
{
    size_t i = 0;
    while (i < t.len && strchr(" \t\r\n>*-+", t.p[i])) /* list and quote marks */
        i++;
    size_t d = i;
    while (d < t.len && d - i < 3 && t.p[d] >= '0' && t.p[d] <= '9')
        d++;
    if (d > i && d + 1 < t.len && (t.p[d] == '.' || t.p[d] == ')') && t.p[d + 1] == ' ')
        i = d + 2;
    *start += i;
    return (struct cairn_str){t.p + i, t.len - i};
}

enum cairn_err extract_pick_sentences(struct grounding *g, const struct answer_request *q,
                                      struct encoder *reranker, struct encoder *embedder, size_t max,
                                      float share_min, struct extract_pick *out, size_t *n_out,
                                      const struct cairn_stop *stop, struct cairn_why *why)
{
    struct extract_pick c[CANDIDATES_MAX];
    size_t n = 0;
    *n_out = 0;
    for (size_t i = 0; i < grounding_n_sentences(g); i++) {
        struct ground_evidence e = grounding_sentence(g, i);
        struct cairn_str t =
            trimmed((struct cairn_str){q->sources[e.source].text.p + e.start, e.end - e.start}, &e.start);
        size_t words = 0;
        for (size_t k = 0; k < t.len; k++)
            words += (k == 0 || t.p[k - 1] == ' ' || t.p[k - 1] == '\n') && t.p[k] != ' ' && t.p[k] != '|';
        if (words < 3 || t.len > TEXT_BYTES_MAX || !grounding_is_claim(t))
            continue;
        /* the retriever's order breaks ties: 2 % a rank */
        struct extract_pick p = {e.source, e.start, e.end, e.score - 0.02f * (float)e.source};
        size_t k = n < CANDIDATES_MAX ? n++ : CANDIDATES_MAX;
        if (k == CANDIDATES_MAX) {
            if (c[CANDIDATES_MAX - 1].score >= p.score)
                continue;
            k--;
        }
        while (k && c[k - 1].score < p.score) {
            c[k] = c[k - 1];
            k--;
        }
        c[k] = p;
    }
    if (!n)
        return CAIRN_OK;
    struct cairn_buf b[CANDIDATES_MAX];
    struct cairn_str texts[CANDIDATES_MAX + 1];
    float logits[CANDIDATES_MAX];
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < n; i++)
        cairn_buf_init(&b[i], 4 * TEXT_BYTES_MAX);
    for (size_t i = 0; i < n && !err; i++) { /* the title says what the sentence speaks of */
        const struct answer_source *s = &q->sources[c[i].source];
        size_t title = cairn_utf8_floor(s->title.p, s->title.len < 200 ? s->title.len : 200);
        if ((title && (!cairn_buf_put(&b[i], s->title.p, title) || !cairn_buf_puts(&b[i], ": "))) ||
            !cairn_buf_put(&b[i], s->text.p + c[i].start, c[i].end - c[i].start))
            err = cairn_fail(why, CAIRN_ENOMEM, "candidate sentences");
        texts[i] = (struct cairn_str){b[i].bytes, b[i].len};
    }
    if (!err && reranker) {
        err = encoder_score_pairs(reranker, q->question, texts, n, logits, stop, why);
        for (size_t i = 0; i < n && !err; i++)
            c[i].score = 0.25f * c[i].score + 0.75f * logistic(logits[i] / 2);
    } else if (!err && embedder) {
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
                c[i].score = 0.4f * c[i].score + 0.6f * (float)fmax(0, dot / sqrt(a * z));
            }
            cairn_free(v);
        }
    }
    for (size_t i = 0; i < n; i++)
        cairn_buf_release(&b[i]);
    if (err)
        return err;
    for (size_t i = 1; i < n; i++) /* insertion: stable */
        for (size_t k = i; k && c[k - 1].score < c[k].score; k--) {
            struct extract_pick t = c[k];
            c[k] = c[k - 1];
            c[k - 1] = t;
        }
    for (size_t i = 0; i < n && *n_out < max; i++) {
        if (*n_out && c[i].score < share_min * out[0].score)
            break;
        bool twice = false; /* the same sentence in two sources */
        for (size_t k = 0; k < *n_out; k++)
            twice =
                twice || (out[k].end - out[k].start == c[i].end - c[i].start &&
                          memcmp(q->sources[out[k].source].text.p + out[k].start,
                                 q->sources[c[i].source].text.p + c[i].start, c[i].end - c[i].start) == 0);
        if (!twice)
            out[(*n_out)++] = c[i];
    }
    return CAIRN_OK;
}
