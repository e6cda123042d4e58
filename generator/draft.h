/* draft.h - guesses of the next tokens by looking up the last ones: an answer from sources repeats them. A
 * guess costs rows of a step and never changes what is written. */
#ifndef CAIRN_GENERATOR_DRAFT_H
#define CAIRN_GENERATOR_DRAFT_H

#include <cairn/base.h>

/* What followed the last tokens of ids where they stood before: the place whose 4, 3 or 2 tokens before it
 * are the same, longest first, then one inside [from, to), then the latest. Returns how many, <= max. */
size_t draft_find(const int32_t *ids, size_t n, size_t from, size_t to, int32_t *out, size_t max);

/* How many to guess: grows by two while all come true, halves when one does not, and after a guess that was
 * wrong from its first token waits a little. */
struct draft_pace {
    size_t length, rest; /* start: DRAFT_START, 0 */
};
enum { DRAFT_START = 4, DRAFT_MAX = 15, DRAFT_REST = 4 };
void draft_told(struct draft_pace *p, size_t drafted, size_t accepted);

#endif
