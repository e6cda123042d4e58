/* combiner.h - the trained combiner: three forests of small trees in whole numbers, one over the words of a
 * sentence, one over sentences, one over texts, and the table of common words that the first one needs.
 * combiner.c has the file's format. Threads: read-only once made, shared by any number. */
#ifndef CAIRN_GENERATOR_COMBINER_H
#define CAIRN_GENERATOR_COMBINER_H

#include "grounding_internal.h"

/* Of a word; bytes. All over all sources joined. */
enum token_feature {
    TF_IN_SOURCE,   /* the stem stands in a source */
    TF_IN_QUESTION, /* and in the question */
    TF_FUNCTION,    /* a function word */
    TF_DIGIT,
    TF_CAP,       /* a capital, not at the start */
    TF_RUN,       /* longest run of stems copied from a source that covers the word, at most 8 */
    TF_RUN_LEFT,  /* and that ends here */
    TF_RUN_RIGHT, /* and that starts here */
    TF_RARITY,    /* place in the table of common words, 255: not in it */
    TF_NOVEL_RARITY,
    TF_IDF,           /* over the source's sentences */
    TF_COVER,         /* the sentence's GF_COV2 */
    TF_IN_BEST,       /* the word stands in its best evidence sentences */
    TF_SOURCE_COVER,  /* GF_CTX */
    TF_NOVEL_2,       /* share of novel content words within two words */
    TF_NOVEL_5,       /* within five */
    TF_WITH_PREVIOUS, /* stands in one source sentence with the content word before it */
    TF_WITH_NEXT,
    TF_WINDOW,   /* largest share of the seven content words around that one source sentence has */
    TF_POSITION, /* of the sentence in the text */
    TF_PLACE,    /* of the word in the sentence */
    TF_WORDS,    /* of the sentence */
    TF_N_NOVEL,  /* novel content words of the sentence */
    TF_NOVEL_SHARE,
    TF_PAIRS,   /* GF_BIGRAM */
    TF_OPENING, /* the sentence opens with "overall", "it is important", ... */
    TF_REFUSAL,
    TF_PASSAGE, /* it speaks of passages */
    TF_LIST,
    TF_QUESTION,
    TF_BEGINNING, /* a source has a word that begins alike */
    TF_PREVIOUS_NOVEL,
    TF_NEXT_NOVEL,
    TF_NOVEL_RUN,
    TF_TOP_RARITY, /* of the sentence's novel words */
    TF_VALUE,      /* the surest doubt about the word: of a value or quotation */
    TF_NAME,
    TF_POLARITY, /* negation, quantifier, direction */
    TF_BINDING,
    TF_ANY_VALUE, /* the sentence has such a flag */
    TF_ANY_NAME,
    TF_ANY_POLARITY,
    TF_N
};
/* Of a sentence: the alignment features first, as bytes, then these. */
enum claim_feature {
    CF_MAX = GF_N, /* largest chance of a word */
    CF_SMOOTH,     /* largest mean over five words */
    CF_TOP3,
    CF_TOP8,
    CF_MEAN,
    CF_SHARE, /* of words above one half */
    CF_COUNT,
    CF_WORDS,
    CF_CLAIM,
    CF_REFUSAL,
    CF_QUESTION,
    CF_OPENING,
    CF_PASSAGE,
    CF_LIST,
    CF_TOP_RARITY,
    CF_NOVEL_SHARE,
    CF_POSITION,
    CF_N
};
/* Of a text. */
enum text_feature {
    AF_MAX,
    AF_SMOOTH,
    AF_TOP5,
    AF_TOP15,
    AF_MEAN,
    AF_COUNT,
    AF_MAX_MEAN,
    AF_MAX_CLAIM,
    AF_MEAN_CLAIM,
    AF_FLAGGED, /* sentences above one half */
    AF_WEAK,    /* sentences whose words' mean is above 0.3 */
    AF_MIN_COVER,
    AF_MEAN_COVER,
    AF_MIN_SOURCE_COVER,
    AF_MIN_PAIRS,
    AF_MEAN_PAIRS,
    AF_TOP_RARITY,
    AF_MAX_NOVEL,
    AF_NOVEL,
    AF_VALUES,
    AF_NAMES,
    AF_POLARITY,
    AF_REFUSALS,
    AF_QUESTIONS,
    AF_WORDS,
    AF_SENTENCES,
    AF_CLAIMS,
    AF_CLAIM_SHARE,
    AF_FIRST,
    AF_LAST,
    AF_N
};

#define FOREST_TREES_MAX 256u
#define FOREST_DEPTH_MAX 5u
#define FOREST_SPLITS_MAX ((1u << FOREST_DEPTH_MAX) - 1)
#define FOREST_LEAVES_MAX (1u << FOREST_DEPTH_MAX)
#define COMBINER_WORDS_MAX 4096u
#define COMBINER_CARD_MAX 8192u
#define CALIBRATION_MAX 64u

/* Splits as a heap: the children of i are 2i+1 (feature <= bin) and 2i+2. */
struct tree {
    uint8_t feature[FOREST_SPLITS_MAX], bin[FOREST_SPLITS_MAX];
    int32_t leaf[FOREST_LEAVES_MAX]; /* log-odds of "unsupported", in 1/65536 */
};
struct forest {
    uint32_t depth, n;
    int32_t base;
    struct tree trees[FOREST_TREES_MAX];
};
/* Chance by margin: rising steps, between them a line. n 0: the logistic. */
struct calibration {
    uint32_t n;
    int32_t margin[CALIBRATION_MAX], p[CALIBRATION_MAX]; /* p in 1/65536 */
};
enum { FOREST_TOKENS, FOREST_CLAIMS, FOREST_TEXTS, N_FORESTS };
struct ground_combiner {
    struct forest forest[N_FORESTS];
    struct calibration calibration[N_FORESTS]; /* of claims and texts */
    uint32_t word_spans; /* 1: a span is a run of words, learned from people's marks; 0: whole sentences */
    uint32_t n_words;
    uint32_t word[COMBINER_WORDS_MAX], level[COMBINER_WORDS_MAX]; /* by hash; level: place / 16 */
    char card[COMBINER_CARD_MAX];                                 /* lines, for a person */
};

uint8_t to_byte(float f); /* 0..1 in 255 steps; outside and NaN: the nearest end, 0 */
int32_t tree_leaf(const struct tree *t, uint32_t depth, const uint8_t *x);
int32_t forest_margin(const struct forest *f, const uint8_t *x);
/* Of n rows of `width` bytes each. */
void forest_margins(const struct forest *f, const uint8_t *x, size_t width, size_t n, int32_t *out);
/* 65536 / (1 + exp(-margin)), whole numbers only. */
int32_t logistic_16(int32_t margin);
int32_t calibrated_16(const struct calibration *c, int32_t margin);
/* 0 the most common .. 254, 255: not in the table. */
uint8_t combiner_rarity(const struct ground_combiner *c, uint64_t word_key);

/* Text of the file, appended. */
CAIRN_MUST_USE enum cairn_err combiner_write(const struct ground_combiner *c, struct cairn_buf *out,
                                             struct cairn_why *why);
/* *out placed and zeroed. */
CAIRN_MUST_USE enum cairn_err combiner_parse(struct ground_combiner *out, const char *text, size_t len,
                                             struct cairn_why *why);
/* The combiner that is part of the program (grounding.model in this folder). */
const struct ground_combiner *combiner_shipped(void);

#endif
