/* doubt_weights.h - log-odds of a doubt by what is known of it; written by
 * `cairn train doubts` (docs/quality.md has the command). */
#ifndef CAIRN_GENERATOR_DOUBT_WEIGHTS_H
#define CAIRN_GENERATOR_DOUBT_WEIGHTS_H

#include "doubts.h"

static const float doubt_weights[DOUBT_N][DX_N] = {
    [DOUBT_VALUE] =
        {
                       [DX_ONE] = 2.93f,
                       [DX_COVER] = -0.69f,
                       [DX_PAIRS] = 0.89f,
                       [DX_EDIT] = -0.22f,
                       [DX_PROOF] = 0.01f,
                       [DX_CONTRADICTED] = 1.40f,
                       },
    [DOUBT_NUMBER] =
        {
                       [DX_ONE] = -1.12f,
                       [DX_COVER] = 1.14f,
                       [DX_PAIRS] = -0.53f,
                       [DX_EDIT] = 0.02f,
                       [DX_UNKNOWN] = 1.59f,
                       [DX_SAID] = -1.52f,
                       [DX_HEDGED] = 1.51f,
                       [DX_FRAME] = 0.33f,
                       [DX_FRAME_SAME] = -0.01f,
                       [DX_SAME_WORD] = -0.74f,
                       },
    [DOUBT_UNIT] =
        {
                       [DX_ONE] = 3.19f,
                       [DX_COVER] = -0.11f,
                       [DX_PAIRS] = 0.80f,
                       [DX_EDIT] = -0.68f,
                       [DX_OTHER] = 1.86f,
                       },
    [DOUBT_NAME] =
        {
                       [DX_ONE] = 1.83f,
                       [DX_COVER] = 1.11f,
                       [DX_PAIRS] = 1.75f,
                       [DX_EDIT] = 0.70f,
                       [DX_PROOF] = 0.05f,
                       },
    [DOUBT_NEGATED] =
        {
                       [DX_ONE] = 2.35f,
                       [DX_COVER] = 0.83f,
                       [DX_PAIRS] = -0.89f,
                       [DX_EDIT] = -0.03f,
                       [DX_SAYING] = -0.01f,
                       [DX_PROOF] = 0.83f,
                       [DX_ABSENT] = 1.46f,
                       [DX_JOIN] = 0.73f,
                       [DX_READS_ON] = 1.31f,
                       [DX_PLAIN] = 0.62f,
                       [DX_UNKNOWN] = 0.38f,
                       [DX_SAID] = -2.35f,
                       [DX_OPPOSITE] = -1.00f,
                       [DX_SOFT] = -0.51f,
                       [DX_ASIDE] = -2.38f,
                       [DX_HEDGED] = 0.28f,
                       [DX_COMMON] = -1.64f,
                       },
    [DOUBT_NOT_NEGATED] =
        {
                       [DX_ONE] = -2.28f,
                       [DX_COVER] = 0.70f,
                       [DX_PAIRS] = 0.49f,
                       [DX_EDIT] = 0.96f,
                       [DX_PROOF] = 0.80f,
                       [DX_JOIN] = 1.26f,
                       [DX_READS_ON] = 0.88f,
                       [DX_SAID] = -0.46f,
                       [DX_SOFT] = -0.10f,
                       [DX_HEDGED] = -0.09f,
                       },
    [DOUBT_QUANTIFIER] =
        {
                       [DX_ONE] = 0.10f,          [DX_COVER] = 0.07f,      [DX_PAIRS] = 1.26f,                        [DX_EDIT] = 0.13f,
                       [DX_PROOF] = 0.75f, [DX_ABSENT] = 1.05f,       [DX_JOIN] = 0.14f,       [DX_UNKNOWN] = -0.16f,
                       [DX_SAID] = -1.58f, [DX_HEDGED] = -0.06f,      [DX_FRAME] = 1.12f,      [DX_FRAME_SAME] = -1.94f,
                       [DX_OTHER] = 1.48f, [DX_BEARER_OTHER] = 3.70f, [DX_SOMEWHERE] = -1.30f, [DX_ZERO] = 0.92f,
                       [DX_FEW] = 2.56f,   [DX_SOME] = -0.27f,        [DX_MANY] = -1.33f,      [DX_MOST] = -0.90f,
                       [DX_ALL] = -0.87f,  [DX_ONLY] = -0.11f,        [DX_AFTER_NOT] = 3.83f,
                       },
    [DOUBT_MODAL] =
        {
                       [DX_ONE] = -1.85f,         [DX_COVER] = -0.31f,      [DX_PAIRS] = 1.80f,       [DX_EDIT] = 0.11f,
                       [DX_ABOUT_TEXT] = -0.36f, [DX_SAYING] = -0.08f,     [DX_PROOF] = 0.34f, [DX_ABSENT] = 1.76f,
                       [DX_READS_ON] = 0.18f,    [DX_UNKNOWN] = -1.13f,    [DX_SAID] = -1.15f, [DX_HEDGED] = -0.03f,
                       [DX_FRAME] = 0.70f,       [DX_FRAME_SAME] = -0.65f, [DX_OTHER] = 1.62f, [DX_BEARER_OTHER] = 0.66f,
                       [DX_SAME_WORD] = -1.43f,  [DX_SOMEWHERE] = -0.16f,  [DX_MUST] = 4.44f,
                       },
    [DOUBT_OPPOSITE] =
        {
                       [DX_ONE] = 1.62f,
                       [DX_COVER] = 0.69f,
                       [DX_PAIRS] = 0.35f,
                       [DX_EDIT] = 1.39f,
                       [DX_PROOF] = 1.16f,
                       [DX_HEDGED] = -1.33f,
                       [DX_FRAME] = 2.30f,
                       [DX_SOMEWHERE] = -0.97f,
                       },
    [DOUBT_EXCHANGED] =
        {
                       [DX_ONE] = -8.00f,
                       [DX_COVER] = 1.81f,
                       [DX_PAIRS] = 0.12f,
                       [DX_EDIT] = -0.18f,
                       [DX_ABOUT_TEXT] = -0.36f,
                       [DX_SAID] = -2.35f,
                       [DX_GAIN] = 6.11f,
                       [DX_PAIR_GAIN] = 7.82f,
                       [DX_OWN] = -0.52f,
                       [DX_REVERSED] = 0.96f,
                       [DX_DIGITS] = -1.21f,
                       },
    [DOUBT_DISPLACED] =
        {
                       [DX_ONE] = -4.41f,
                       [DX_COVER] = -0.02f,
                       [DX_PAIRS] = -0.01f,
                       [DX_EDIT] = -0.01f,
                       [DX_CONTRADICTED] = -0.02f,
                       },
    [DOUBT_APART] =
        {
                       [DX_ONE] = -1.03f,
                       [DX_COVER] = -0.08f,
                       [DX_PAIRS] = -0.63f,
                       [DX_EDIT] = -0.95f,
                       [DX_ABOUT_TEXT] = -0.16f,
                       },
};

#endif
