/* grey.h - the second look: what grounding.c asks of the encoder for a claim that the combiner is unsure of.
 * grey.c has the rules. */
#ifndef CAIRN_GENERATOR_GREY_H
#define CAIRN_GENERATOR_GREY_H

#include "grounding_state.h"

#define GREY_SENTENCES_MAX 24u /* of evidence */

/* *p, the combiner's chance that the present claim is unsupported, becomes that of both, where the claim is
 * to be looked at. After align. */
CAIRN_MUST_USE enum cairn_err grey_weigh(struct grounding *g, struct cairn_str text, size_t start, size_t end,
                                         float *p, struct cairn_why *why);
/* The text's chance with what was seen in its claims. */
float grey_text(const struct grounding *g, float p);

/* Which source sentences the encoder reads with the present claim, ascending. For who trains one. After
 * align. */
size_t grey_evidence(const struct grounding *g, uint32_t out[GREY_SENTENCES_MAX]);

#endif
