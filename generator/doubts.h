/* doubts.h - what is odd about a claim without being proved, with what speaks for and against each doubt.
 * doubts.c finds them and weighs what it found by doubt_weights.h, which `cairn train doubts` fits. */
#ifndef CAIRN_GENERATOR_DOUBTS_H
#define CAIRN_GENERATOR_DOUBTS_H

#include <cairn/base.h>

#define DOUBTS_MAX 64u /* about one claim; more are not looked at */

enum doubt_grade {                /* each has its own weights */
                   DOUBT_VALUE,   /* a value, date or quotation that is nowhere (proved) */
                   DOUBT_NUMBER,  /* a number that is right by rounding only, or where the source has another
                                     one */
                   DOUBT_UNIT,    /* a number that the sources have with other units only */
                   DOUBT_NAME,    /* a name, or a word of it, that is nowhere */
                   DOUBT_NEGATED, /* a negator of the claim */
                   DOUBT_NOT_NEGATED, /* a word that the source negates and the claim does not */
                   DOUBT_QUANTIFIER,
                   DOUBT_MODAL,
                   DOUBT_OPPOSITE,
                   DOUBT_EXCHANGED, /* two names or numbers, each where the other should be */
                   DOUBT_DISPLACED, /* a value that the sources give to something else (proved) */
                   DOUBT_APART,     /* two anchors that never meet (proved) */
                   DOUBT_N
};
/* What is known of a doubt, 0..1. Each has one meaning in all grades. */
enum doubt_feature {
    DX_ONE,
    DX_COVER,        /* of the claim by its evidence */
    DX_PAIRS,        /* neighbouring words of the claim that are neighbours in a source */
    DX_EDIT,         /* how much of a source sentence the claim repeats */
    DX_ABOUT_TEXT,   /* the claim speaks of the passages or of itself */
    DX_SAYING,       /* it is about saying, providing, mentioning */
    DX_PROOF,        /* grounding.c says so too */
    DX_CONTRADICTED, /* and that a source says otherwise */
    DX_ABSENT,       /* the evidence has nothing of the class */
    DX_JOIN,         /* a source reads the same but for this word: words in common on both sides */
    DX_READS_ON,     /* the same of the words after it alone */
    DX_PLAIN,        /* what it is said of stands in the evidence without it */
    DX_UNKNOWN,      /* what it is said of is in no source */
    DX_SAID,         /* a source says the like of the same word */
    DX_OPPOSITE,     /* the evidence has the opposite of what it is said of */
    DX_SOFT,         /* the evidence has a word that may come to the same */
    DX_ASIDE,        /* it is about a phrase, not the clause: "without", "but not" */
    DX_HEDGED,       /* "if", "may", "whether" */
    DX_COMMON,       /* source sentences with words of the class */
    DX_FRAME,        /* a source has another word of the class in the same place */
    DX_FRAME_SAME,   /* or this one */
    DX_OTHER,        /* the evidence has another word of the class that the claim has not: how far that is */
    DX_BEARER_OTHER, /* said of the same word */
    DX_SAME_WORD,    /* the evidence has this very word */
    DX_SOMEWHERE,    /* a source has it */
    DX_ZERO,         /* the word's level: none, few, some, many, most, all, only */
    DX_FEW,
    DX_SOME,
    DX_MANY,
    DX_MOST,
    DX_ALL,
    DX_ONLY,
    DX_AFTER_NOT,
    DX_MUST,
    DX_GAIN,      /* exchanged, the two stand among more words that they have beside them in the sources */
    DX_PAIR_GAIN, /* and have more neighbours that they have there */
    DX_OWN,       /* as they stand they have such words */
    DX_REVERSED,  /* an evidence sentence has them the other way round only */
    DX_JOINED,    /* "A and B" */
    DX_DIGITS,    /* numbers, no names */
    DX_N
};

struct doubt {
    const char *kind; /* of the flag */
    size_t start, end;
    uint8_t grade;
    bool contradiction;
    float x[DX_N], confidence;
};

struct grounding;
struct finding;
/* Adds flags to what was found over all sources, and gives the proofs' flags their confidence. */
void doubts_find(struct grounding *g, struct cairn_str text, struct finding *d);
/* What the last check found; BORROWED until the next. */
const struct doubt *grounding_doubts(const struct grounding *g, size_t *n);

#endif
