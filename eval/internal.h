/* eval/internal.h - what the files of this room share. */
#ifndef CAIRN_EVAL_INTERNAL_H
#define CAIRN_EVAL_INTERNAL_H

#include <cairn/eval.h>

#define EVAL_MEASURES_MAX 64u
#define EVAL_FILE_MAX ((size_t)4 << 30) /* bytes of one input file */

bool eval_grow(void **p, size_t *cap, size_t need, size_t item);
/* Both normalised: needle stands in hay as whole words. */
bool eval_has_words(const char *hay, const char *needle);

#endif
