/* token_head.c - see token_head.h. The sums of a head are in double, in one order. */
#include "token_head.h"

#include <stdio.h>

enum cairn_err token_head_open(struct token_head *h, const struct model_card *base, const char *overlay,
                               const char *name, const struct model_opts *o, struct cairn_why *why)
{
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    enum cairn_err err = encoder_open_over(&h->encoder, base, overlay, o, why);
    if (err)
        return err;
    h->dim = encoder_dim(h->encoder);
    h->cls = tokenizer_find(encoder_tokenizer(h->encoder), "[CLS]");
    h->sep = tokenizer_find(encoder_tokenizer(h->encoder), "[SEP]");
    h->weight = cairn_reallocarray(NULL, 2 * (size_t)h->dim, sizeof *h->weight);
    if (!h->weight)
        return cairn_fail(why, CAIRN_ENOMEM, "outputs for each token");
    err = encoder_extra(h->encoder, weight, h->weight, 2 * (size_t)h->dim, why);
    return err ? err : encoder_extra(h->encoder, bias, h->bias, 2, why);
}

void token_head_release(struct token_head *h)
{
    encoder_close(h->encoder);
    cairn_free(h->weight);
}

static bool ascii_punctuation(unsigned char c)
{
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
}
static bool blank(unsigned char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

enum cairn_err token_head_pieces(const struct token_head *h, struct pieces *p, struct cairn_str text,
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
            tokenizer_encode(encoder_tokenizer(h->encoder), (struct cairn_str){text.p + i, e - i},
                             TOKENIZE_PLAIN, &ids, &n, why);
        if (err)
            return err;
        if (p->n + n > p->cap) {
            size_t cap = 2 * p->cap + n + 256;
            struct piece *more = cairn_reallocarray(p->at, cap, sizeof *more);
            if (!more) {
                cairn_free(ids);
                return cairn_fail(why, CAIRN_ENOMEM, "tokens of a text");
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

enum cairn_err token_head_run(const struct token_head *h, const struct piece *a, size_t na,
                              const struct piece *b, size_t nb, float (*out)[2],
                              const struct cairn_stop *stop, struct cairn_why *why)
{
    size_t len = na + nb + 3, at = 0;
    int32_t *ids = cairn_reallocarray(NULL, 2 * len, sizeof *ids), *types = ids ? ids + len : NULL;
    float *hidden = cairn_reallocarray(NULL, len * h->dim, sizeof *hidden);
    enum cairn_err err =
        ids && hidden ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "hidden states of %zu tokens", len);
    if (!err) {
        ids[at++] = h->cls;
        for (size_t i = 0; i < na; i++)
            ids[at++] = a[i].id;
        ids[at++] = h->sep;
        for (size_t i = 0; i < nb; i++)
            ids[at++] = b[i].id;
        ids[at] = h->sep;
        for (size_t i = 0; i < len; i++)
            types[i] = i >= na + 2;
        err = encoder_forward(h->encoder, ids, types, &len, 1, hidden, stop, why);
    }
    for (size_t i = 0; i < len && !err; i++)
        for (size_t r = 0; r < 2; r++) {
            const float *x = hidden + i * h->dim, *w = h->weight + r * h->dim;
            double sum = (double)h->bias[r];
            for (size_t k = 0; k < h->dim; k++)
                sum += (double)x[k] * (double)w[k];
            out[i][r] = (float)sum;
        }
    cairn_free(ids);
    cairn_free(hidden);
    return err;
}
