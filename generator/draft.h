/* draft.h - guesses of the next tokens by looking up the last ones: an answer from sources repeats them. A
 * guess costs rows of a step and never changes what is written. */
#ifndef CAIRN_GENERATOR_DRAFT_H
#define CAIRN_GENERATOR_DRAFT_H

#include <cairn/base.h>

/* What followed the last tokens of ids where they stood before: the place with up to four tokens before it
 * the same, the more the better, then one inside [from, to), then the latest. Returns how many, <= max; few
 * when only one or two tokens are the same. */
size_t draft_find(const int32_t *ids, size_t n, size_t from, size_t to, int32_t *out, size_t max);

/* How many to guess: two more after a guess that came true, half after one that did not. */
enum { DRAFT_MAX = 7, DRAFT_START = DRAFT_MAX };
size_t draft_length(size_t length, size_t drafted, size_t accepted);

#endif
