/* grounding_weights.h - the combiner's numbers: one logistic over the features of grounding_internal.h.
 * Set by hand after a sign-constrained logistic regression on half of RAGTruth-QA, WiCE and BEGIN (sources
 * with an even number; equal mass per set), rounded; the README has what they give on the other half. The
 * signs are fixed by meaning, so a feature that only reads the style of one set cannot enter. */
#ifndef CAIRN_GENERATOR_GROUNDING_WEIGHTS_H
#define CAIRN_GENERATOR_GROUNDING_WEIGHTS_H

#include "grounding_internal.h"

#define GROUND_SUPPORT_MIN 0.5f
/* Proofs stand above the sum: a score is cut to these when a value is absent from every source, or a source
 * says otherwise. */
#define PROOF_ABSENT_MAX 0.3f
#define PROOF_CONTRADICTED_MAX 0.45f
#define PROOF_VERBATIM 0.99f
/* The same as log-odds of "unsupported" in 1/65536. */
#define PROOF_ABSENT_MARGIN 55528
#define PROOF_CONTRADICTED_MARGIN 13151
#define PROOF_VERBATIM_MARGIN (-301150)

static const float weights_plain[GF_N + 1] = {
    [GF_COV2] = 2.9f,     [GF_BIGRAM] = 1.5f,    [GF_RUN8] = 0.4f,      [GF_UNC_N] = -0.6f,
    [GF_NUM] = -2.4f,     [GF_NUM_AWAY] = -0.7f, [GF_CONFLICT] = -0.3f, [GF_NAME] = -2.2f,
    [GF_QUOTE] = -0.7f,   [GF_POLARITY] = -1.0f, [GF_QUANT] = -0.5f,    [GF_DIRECTION] = -1.5f,
    [GF_BINDING] = -0.3f, [GF_LENGTH] = 1.1f,    [GF_N] = -1.6f,
};
/* The cosine adds for a paraphrase (high cosine, few shared words) and takes away where nothing is near. */
static const float weights_cosine[GF_N + 1] = {
    [GF_COV2] = 2.4f,     [GF_BIGRAM] = 1.3f,    [GF_RUN8] = 0.4f,      [GF_UNC_N] = -0.6f,
    [GF_NUM] = -2.4f,     [GF_NUM_AWAY] = -0.7f, [GF_CONFLICT] = -0.3f, [GF_NAME] = -2.2f,
    [GF_QUOTE] = -0.7f,   [GF_POLARITY] = -1.0f, [GF_QUANT] = -0.5f,    [GF_DIRECTION] = -1.5f,
    [GF_BINDING] = -0.3f, [GF_LENGTH] = 1.0f,    [GF_COSINE] = 2.0f,    [GF_N] = -2.5f,
};

#endif
