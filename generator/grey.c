/* grey.c - a second look at claims in the grey band: an encoder reads the claim with its evidence and says
 * for each token of the claim how much is not supported.
 *
 * Which claims: the combiner's chance lies between two cut-offs, the claim is no copy, and the text has had
 * fewer looks than it may. What it reads: [CLS] claim [SEP] evidence [SEP], TOKENS_MAX tokens;
 * the evidence is all there is when that is short, else the sentences that carry most of the claim's words
 * which no sentence before them has, for their length, in the order of the sources.
 *
 * What comes of it: one number a claim. An overlay's second output at [CLS] is the log-odds that the claim is
 * not supported, at most CAP: of sentences that speak of nothing in the sources it is sure, and the combiner
 * knows those better. Its first, at the tokens, is only there to learn by. Of a classifier made elsewhere it
 * is the largest of second output less first over the claim's tokens. A claim's log-odds are a sum of the
 * combiner's and this; proofs still stand above it. A text's are a sum of the combiner's for the text and the
 * largest of its claims; a text without a grey claim keeps the combiner's. The weights lie beside the
 * overlay's own ("claims.mix"). */
#include "grey.h"

#include "token_head.h"

#include <math.h>
#include <string.h>

#define TOKENS_MAX 256u
#define CLAIM_TOKENS_MAX 100u
#define EVIDENCE_BYTES 720u
#define KNOWN_SHARE 0.2f /* of a word's weight when another sentence has brought it */
#define SHORT_WORDS 8u   /* keeps a heading of two words from being the best for its length */

enum { BY_COMBINER, BY_CLAIM, CONSTANT, TEXT_COMBINER, TEXT_CLAIM, TEXT_CONSTANT, LOW, HIGH, CAP, MIX_N };

struct ground_encoder {
    struct token_head head;
    float mix[MIX_N];
    bool classes; /* the outputs are two classes of a token */
};

enum cairn_err ground_encoder_open(struct ground_encoder **out, const struct model_card *card,
                                   const char *overlay, const struct model_opts *o, struct cairn_why *why)
{
    /* A classifier that was made elsewhere: nobody trained its [CLS], nobody fitted the sum. */
    static const float elsewhere[MIX_N] = {
        [BY_COMBINER] = 0.5f, [BY_CLAIM] = 0.5f, [TEXT_COMBINER] = 0.5f, [TEXT_CLAIM] = 0.5f, [LOW] = 0.1f,
        [HIGH] = 0.9f,        [CAP] = 10};
    *out = NULL;
    struct ground_encoder *e = cairn_calloc(1, sizeof *e);
    if (!e)
        return cairn_fail(why, CAIRN_ENOMEM, "encoder for claims");
    memcpy(e->mix, elsewhere, sizeof e->mix);
    e->classes = !overlay;
    enum cairn_err err = token_head_open(&e->head, card, overlay, overlay ? "claims" : "classifier", o, why);
    if (!err && overlay)
        err = encoder_extra(e->head.encoder, "claims.mix", e->mix, MIX_N, why);
    for (size_t i = 0; i < MIX_N && !err; i++)
        if (!isfinite(e->mix[i]))
            err = cairn_fail(why, CAIRN_ECORRUPT, "%s: number %zu of claims.mix is not finite", overlay, i);
    if (err) {
        ground_encoder_close(e);
        return err;
    }
    *out = e;
    return CAIRN_OK;
}

void ground_encoder_close(struct ground_encoder *e)
{
    if (!e)
        return;
    token_head_release(&e->head);
    cairn_free(e);
}

static float gain(const struct grounding *g, uint32_t sentence, const struct set *known)
{
    const struct gsent *t = &g->sents[sentence];
    float sum = 0;
    for (size_t i = 0; i < g->c.n_slots; i++)
        if ((g->hit[sentence].b[i / 64] >> i % 64) & 1)
            sum += g->c.weight[i] * ((known->b[i / 64] >> i % 64) & 1 ? KNOWN_SHARE : 1);
    return sum / (float)(SHORT_WORDS + t->w1 - t->w0);
}

size_t grey_evidence(const struct grounding *g, uint32_t out[GREY_SENTENCES_MAX])
{
    size_t n = 0, bytes = 0;
    for (size_t s = 0; s < g->n_sources; s++)
        bytes += g->sources[s].text.len;
    if (bytes <= EVIDENCE_BYTES && g->n_sents <= GREY_SENTENCES_MAX) {
        for (uint32_t s = 0; s < g->n_sents; s++)
            out[n++] = s;
        return n;
    }
    struct set known = {{0}};
    for (bytes = 0; n < GREY_SENTENCES_MAX;) {
        float most = 0;
        uint32_t best = NONE;
        for (size_t i = 0; i < g->n_hit; i++) {
            uint32_t s = g->hit_list[i];
            size_t len = g->sents[s].end - g->sents[s].start;
            float x = n && bytes + len > EVIDENCE_BYTES ? 0 : gain(g, s, &known);
            for (size_t k = 0; k < n; k++)
                x = out[k] == s ? 0 : x;
            if (x > most) {
                most = x;
                best = s;
            }
        }
        if (best == NONE)
            break;
        for (size_t i = 0; i < sizeof known.b / sizeof *known.b; i++)
            known.b[i] |= g->hit[best].b[i];
        bytes += g->sents[best].end - g->sents[best].start;
        out[n++] = best;
    }
    for (size_t i = 1; i < n; i++)
        for (size_t k = i; k && out[k] < out[k - 1]; k--) {
            uint32_t t = out[k];
            out[k] = out[k - 1];
            out[k - 1] = t;
        }
    return n;
}

static float log_odds(float p)
{
    p = fminf(fmaxf(p, 1e-4f), 1 - 1e-4f);
    return logf(p / (1 - p));
}

enum cairn_err grey_weigh(struct grounding *g, struct cairn_str text, size_t start, size_t end, float *p,
                          struct cairn_why *why)
{
    const struct ground_encoder *e = g->encoder;
    if (!e || *p < e->mix[LOW] || *p > e->mix[HIGH] || g->n_looked >= g->looked_max)
        return CAIRN_OK;
    struct pieces claim = {0}, evidence = {0};
    uint32_t list[GREY_SENTENCES_MAX];
    float logit[TOKENS_MAX][2];
    size_t n = grey_evidence(g, list), most = encoder_max_tokens(e->head.encoder);
    most = most < TOKENS_MAX ? most : TOKENS_MAX;
    enum cairn_err err = token_head_pieces(&e->head, &claim, text, start, end, why);
    claim.n = claim.n < CLAIM_TOKENS_MAX ? claim.n : CLAIM_TOKENS_MAX;
    claim.n = claim.n < (most - 3) / 2 ? claim.n : (most - 3) / 2;
    for (size_t i = 0; i < n && !err; i++) {
        const struct gsent *t = &g->sents[list[i]];
        err = token_head_pieces(&e->head, &evidence, g->sources[t->source].text, t->start, t->end, why);
    }
    size_t room = most - 3 - claim.n;
    evidence.n = evidence.n < room ? evidence.n : room;
    if (!err && claim.n)
        err = token_head_run(&e->head, claim.at, claim.n, evidence.at, evidence.n, logit, g->stop, why);
    if (!err && claim.n) {
        float seen = e->classes ? -INFINITY : logit[0][1];
        for (size_t i = 1; i <= claim.n && e->classes; i++)
            seen = fmaxf(seen, logit[i][1] - logit[i][0]);
        seen = fminf(seen, e->mix[CAP]);
        g->seen_most = g->n_looked ? fmaxf(g->seen_most, seen) : seen;
        g->n_looked++;
        if (e->mix[BY_CLAIM] > 0)
            *p = 1 / (1 + expf(-(e->mix[BY_COMBINER] * log_odds(*p) + e->mix[BY_CLAIM] * seen +
                                 e->mix[CONSTANT])));
    }
    cairn_free(claim.at);
    cairn_free(evidence.at);
    return err;
}

float grey_text(const struct grounding *g, float p)
{
    if (!g->encoder || !g->n_looked)
        return p;
    const float *m = g->encoder->mix;
    float z = m[TEXT_COMBINER] * log_odds(p) + m[TEXT_CLAIM] * g->seen_most + m[TEXT_CONSTANT];
    return 1 / (1 + expf(-z));
}
