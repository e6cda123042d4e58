/* grounding_internal.h - what the combiner sees; for tests and for fitting its weights. */
#ifndef CAIRN_GENERATOR_GROUNDING_INTERNAL_H
#define CAIRN_GENERATOR_GROUNDING_INTERNAL_H

#include <cairn/generator.h>

enum ground_feature {
    GF_COV1,      /* idf-weighted share of the claim's content words in the best single evidence sentence */
    GF_COV2,      /* the same for the best two neighbouring sentences */
    GF_CTX,       /* the same for the whole source */
    GF_NOVEL,     /* the same for two sentences, over words that are not in the question */
    GF_BIGRAM,    /* share of neighbouring stem pairs found in the source */
    GF_RUN3,      /* share of words inside copied runs of three words and more */
    GF_RUN8,      /* share of words inside copied runs of eight words and more */
    GF_UNC_MAX,   /* largest idf among content words that the source lacks, over the largest possible */
    GF_UNC_N,     /* number of such words, 1 - exp(-n/3) */
    GF_NUM,       /* 1: a number, date, time or identifier that the source lacks */
    GF_NUM_AWAY,  /* 1: a number that the source has, but not near the evidence */
    GF_CONFLICT,  /* 1: the evidence has another number or date of the same kind instead */
    GF_NAME,      /* 1: a name that the source lacks */
    GF_QUOTE,     /* 1: a quotation that is not verbatim */
    GF_POLARITY,  /* 1: negated here and not there, or the reverse */
    GF_QUANT,     /* 1: all against some, must against may */
    GF_DIRECTION, /* 1: an opposite word */
    GF_BINDING,   /* 1: two anchors that never meet within one evidence sentence and its neighbours */
    GF_SWAPPED,   /* 1: a word of the claim stands only with another value of the same kind */
    GF_LENGTH,    /* content words, 1 - exp(-n/10) */
    GF_COSINE, /* (cosine with the best evidence sentence - baseline) / (1 - baseline), 0 without an embedder
                */
    /* the surest doubt of a kind (doubts.h), over all sources; 0 without */
    GF_DOUBT_VALUE,
    GF_DOUBT_NAME,
    GF_DOUBT_NEGATION,
    GF_DOUBT_QUANTITY,
    GF_DOUBT_OPPOSITE,
    GF_DOUBT_BINDING,
    GF_N
};

/* What the trained combiner reads of a sentence; BORROWED until the next sentence. */
struct ground_words {
    size_t n;              /* words */
    const uint8_t *x;      /* [n] rows of TF_N bytes (combiner.h) */
    uint8_t f[GF_N];       /* the sentence's features */
    const uint32_t *spans; /* [2 n] byte spans of the words in the text */
    const int32_t *margin; /* [n] log-odds of "unsupported" in 1/65536; 0 without a combiner */
    int32_t by_hand;       /* the same of the sentence, by the weights set by hand and the proofs */
    bool claim;
};
CAIRN_MUST_USE enum cairn_err grounding_words(struct grounding *g, struct cairn_str text, size_t start,
                                              size_t end, struct ground_words *out, struct cairn_why *why);
/* As grounding_chance, of a text without a claim too; NaN without a combiner. */
float grounding_text_chance(const struct grounding *g);
/* Of a folded stem, as claims and sources have it. */
uint64_t grounding_word_key(struct cairn_str stem);

/* Aligns any text (a question, say) with the sources; then grounding_sentence gives each source sentence with
 * its share of the text's content words as score. */
CAIRN_MUST_USE enum cairn_err grounding_align(struct grounding *g, struct cairn_str text, float f[GF_N],
                                              struct cairn_why *why);
size_t grounding_n_sentences(const struct grounding *g);
struct ground_evidence grounding_sentence(const struct grounding *g, size_t i);

/* Does the sentence state anything that a source could carry? Questions, greetings, headings, list
 * introductions, refusals and talk about the answer itself do not. */
bool grounding_is_claim(struct cairn_str sentence);
/* "The sources do not say ...", "I cannot answer ...", "NOT FOUND". */
bool grounding_is_refusal(struct cairn_str sentence);

#endif
