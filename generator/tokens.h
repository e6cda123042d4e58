/* tokens.h - what the combiner sees of each word of a claim, of the claim, and of a whole text, as bytes:
 * whole numbers from here on, so that one model gives the same bits on every machine. */
#ifndef CAIRN_GENERATOR_TOKENS_H
#define CAIRN_GENERATOR_TOKENS_H

#include "grounding_state.h"

/* Features of each word, from what `d` found over all sources. x has c.n_words rows. */
void tokens_read(struct grounding *g, struct cairn_str text, size_t start, size_t end,
                 const struct finding *d, uint8_t (*x)[TF_N]);

/* Joins the words' margins (log-odds of "unsupported", 1/65536) with the claim's alignment. */
void claim_features(const uint8_t f[GF_N], bool claim, size_t n_words, const int32_t *margin,
                    const uint8_t *x, uint8_t out[CF_N]); /* x: the first word's row, or NULL for none */

/* The weights set by hand, the forest over claims and the doubts as one margin. */
int32_t claim_margin(int32_t by_hand, int32_t forest, const uint8_t x[CF_N]);
/* by_hand: of the weakest claim; forest: over texts. */
int32_t text_margin(int32_t by_hand, int32_t forest);

/* by_hand, chance: of the sentence; margin: of its words. */
void text_add(struct text_sums *t, const uint8_t x[CF_N], int32_t by_hand, int32_t chance, size_t n_words,
              const int32_t *margin);
void text_features(const struct text_sums *t, uint8_t out[AF_N]);

#endif
