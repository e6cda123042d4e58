/* words.h - word classes the checker decides by: function words, negators, quantifiers, modals, opposites.
 * English; other languages get the language-free signals only. */
#ifndef CAIRN_GENERATOR_WORDS_H
#define CAIRN_GENERATOR_WORDS_H

#include <cairn/base.h>

enum word_class {
    WORD_FUNCTION = 1,      /* carries no content of its own */
    WORD_NEGATOR = 2,       /* turns what follows into its opposite */
    WORD_UNIVERSAL = 4,     /* all, every, always */
    WORD_PARTIAL = 8,       /* some, often */
    WORD_MUST = 16,         /* must, required */
    WORD_MAY = 32,          /* may, optional */
    WORD_COMPARATIVE = 64,  /* later, more, only: "no later than" negates nothing */
    WORD_SOFT_NEGATOR = 128 /* avoid, prevent: turns, but not as "not" does */
};
/* Quantifiers and adverbs of frequency by how much they say; "only" is none of these. */
enum word_level {
    LEVEL_NONE,
    LEVEL_ZERO,
    LEVEL_FEW,
    LEVEL_SOME,
    LEVEL_MANY,
    LEVEL_MOST,
    LEVEL_ALL,
    LEVEL_ONLY
};
/* The classes, and above them (<< 8) the level. word is lower-case ASCII (others have no class). */
unsigned word_classes(const char *word, size_t len);
/* Space-separated opposites: "a b a b ...". Each pair is one group. */
extern const char word_opposites[];

#endif
