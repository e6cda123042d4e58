/* constrain.h - the next token under a rule about the text: citations that name a source, or nothing but a
 * span of the passages. Rules speak of bytes, so they hold for any tokenizer: a trie over the bytes of all
 * tokens says which may come next, and what a rule leaves is found by walking it, not by trying all tokens.
 * Threads: a constrain_vocab is read-only and shared; a constrain belongs to one answer. */
#ifndef CAIRN_GENERATOR_CONSTRAIN_H
#define CAIRN_GENERATOR_CONSTRAIN_H

#include <cairn/generator.h>

struct constrain_vocab;
/* t is BORROWED until close. */
CAIRN_MUST_USE enum cairn_err constrain_vocab_open(struct constrain_vocab **out, const struct tokenizer *t,
                                                   struct cairn_why *why);
void constrain_vocab_close(struct constrain_vocab *v);

struct constrain;
/* After '[' comes the number of a source, 1 to n_sources without leading zeros, and ']'. CAIRN_EUNSUPPORTED
 * when the vocabulary cannot write that. */
CAIRN_MUST_USE enum cairn_err constrain_citations(struct constrain **out, const struct constrain_vocab *v,
                                                  size_t n_sources, struct cairn_why *why);
/* The text is a span of one of the passages, from the beginning of a word or sentence to the end of one; a
 * space in front does not count, for tokenizers that put one there. */
enum quote_unit { QUOTE_WORDS, QUOTE_SENTENCES };
CAIRN_MUST_USE enum cairn_err constrain_quote(struct constrain **out, const struct constrain_vocab *v,
                                              const struct cairn_str *passages, size_t n_passages,
                                              enum quote_unit unit, struct cairn_why *why);
void constrain_close(struct constrain *c);

/* As sampler_next(), among the tokens that may come next. logits [n] of those that may not can be
 * overwritten. left: tokens that the answer may still have, this one counted: no citation is begun that could
 * not be ended. -1: no token may come, the text ends here. */
int32_t constrain_next(struct constrain *c, struct sampler *s, float *logits, size_t n, float *scratch,
                       size_t left);
/* The text goes on with this token, one of constrain_next(). */
void constrain_accept(struct constrain *c, int32_t id);
/* Both in one, and end tokens are not accepted: what a schedule asks for (schedule.h). ctx: a constrain. */
int32_t constrain_choose(void *ctx, struct sampler *s, float *logits, size_t n, float *scratch, size_t left);
/* Quote: the first passage in which the text could end here, else one in which it goes on. False before a
 * token, and for citations. */
bool constrain_source(const struct constrain *c, size_t *passage);

#endif
