/* grounding_state.h - what the checker holds: the sources read once, the present claim, what one set of
 * sources says about it. For grounding.c and tokens.c; grounding.c explains the tables. */
#ifndef CAIRN_GENERATOR_GROUNDING_STATE_H
#define CAIRN_GENERATOR_GROUNDING_STATE_H

#include "combiner.h"
#include "doubts.h"
#include "typed.h"

#define SLOTS_MAX 256u /* content words and values of one claim that are told apart */
#define CLAIM_TYPED_MAX 64u
#define SENT_TYPED_MAX 256u /* values read in one source sentence */
#define QUESTION_WORDS_MAX 256u
#define OPPOSITES_MAX 2048u
#define CLAIM_NAMES_MAX 24u
#define CHAIN_STEPS_MAX 64u /* occurrences of a word triple looked at */
#define CANDIDATES_MAX 8u   /* near-best evidence sentences examined for polarity, and embedded */
#define VECTORS_MAX 4096u   /* source sentences whose vectors are kept */
#define NONE UINT32_MAX
#define TYPED_WEIGHT 1.5f /* a value's share in coverage, in units of idf */
#define IDF_MIN 0.2f
#define SWAPPED_SENTENCES_MAX 2u /* a word that stands in more places distinguishes nothing */
#define SWAPPED_COVER_MIN 0.5f   /* below, the other sentence speaks of something else */
#define POLARITY_COVER_MIN 0.5f  /* below, the best sentence need not speak of the same thing */
#define EDIT_COVER_MIN 0.4f
#define EDIT_MIN                                                                                             \
    0.5f /* a source sentence that the claim repeats to this share: a changed word is a contradiction */
#define COPIED_BYTES_MIN 20u
#define FRAGMENT_SLOTS_MAX 2u
#define FRAGMENT_NEAR 2u            /* sentences on either side */
#define FRAGMENT_QUESTION_MIN 0.34f /* share of the question's words */

enum { W_CONTENT = 1, W_CAP = 2, W_ACRONYM = 4, W_DIGIT = 8, W_SOURCE_START = 16 };
enum { SCOPE_NEGATED = 1, SCOPE_ALL = 2, SCOPE_SOME = 4, SCOPE_MUST = 8, SCOPE_MAY = 16, SCOPE_UNSURE = 32 };

struct gword {
    uint64_t key; /* of the folded stem */
    uint32_t id, raw, start, end;
    uint8_t flags, classes, scope, level; /* level: enum word_level */
};
struct gsent {
    uint32_t w0, w1, t0, t1;
    size_t start, end;
    uint32_t source, vector; /* vector: index into vectors or NONE */
};
struct gsource {
    struct cairn_str text;
    const float *vector;
    uint32_t w0, w1, s0, s1;
};
struct set { /* which slots of the claim are there */
    uint64_t b[SLOTS_MAX / 64];
};
struct name {
    uint32_t w0, w1;
};
struct map_slot {
    uint64_t key, value;
};

/* Sums over the sentences of a text; zeroed before the first. */
struct text_sums {
    uint32_t at_p[256]; /* words by their chance of being unsupported */
    uint32_t n_words, n_sentences, n_claims, n_flagged, n_weak;
    uint32_t max_p, max_mean, max_claim, sum_claim, max_smooth;
    uint32_t min_cov, sum_cov, min_ctx, min_pairs, sum_pairs, max_rarity, max_novel, sum_novel;
    uint32_t values, names, polarity, refusals, questions, first_claim, last_claim;
    int32_t max_margin; /* of the weakest claim; 0 without one */
};

struct claim {
    struct gword words[GROUND_CLAIM_WORDS_MAX];
    size_t n_words;
    bool cut;
    struct typed typed[CLAIM_TYPED_MAX];
    size_t n_typed;
    uint16_t word_slot[GROUND_CLAIM_WORDS_MAX], typed_slot[CLAIM_TYPED_MAX]; /* slot + 1, 0: none */
    float weight[SLOTS_MAX];
    size_t slot_word[SLOTS_MAX]; /* a word of the slot, or SIZE_MAX for a value */
    size_t n_slots, n_word_slots;
    struct set novel; /* slots that are not in the question */
    struct name names[CLAIM_NAMES_MAX];
    size_t n_names;
    float total, total_novel;
    uint32_t cited[8];
    size_t n_cited;
    uint32_t cited_bad; /* marks that name no source */
};

struct grounding {
    struct cairn_analyzer *analyzer;
    bool english;
    struct encoder *embedder;
    uint32_t dim;
    float baseline, support_min;
    const struct ground_combiner *combiner; /* BORROWED; NULL: the weights set by hand */
    const struct cairn_stop *stop;          /* BORROWED, or NULL */
    const struct ground_encoder *encoder;   /* BORROWED; NULL: no second look */
    size_t n_looked, looked_max;            /* claims of the text that had one */
    float seen_most;                        /* the largest that it said of one */
    struct gsource *sources;
    size_t n_sources;
    struct gword *words;
    size_t n_words, cap_words;
    struct gsent *sents;
    size_t n_sents, cap_sents;
    struct typed *typed;
    size_t n_typed, cap_typed;
    /* interned stems: open addressing, value = id */
    struct map_slot *ids;
    size_t ids_cap, n_ids;
    float *idf;             /* [n_ids] */
    uint16_t *slot_of;      /* [n_ids], slot + 1 of the present claim */
    struct map_slot *marks; /* pairs, initials, acronyms, beginnings -> bitmap of sources */
    size_t marks_cap;
    uint32_t *chain_head, *chain_next; /* exact word triples */
    size_t chain_cap;
    uint32_t *at_head, *at_next; /* places of each stem, from the last */
    uint8_t *run;                /* [n_words] tokens.c: copied runs */
    uint32_t *run_step, step;
    struct set *hit;    /* [n_sents] of the present claim */
    uint32_t *hit_list; /* the sentences with anything of it */
    size_t n_hit;
    float *cover;      /* [n_sents] */
    uint32_t *anchors; /* [n_sents] */
    float *vectors, *scratch;
    size_t n_vectors, cap_vectors;
    uint64_t question_keys[QUESTION_WORDS_MAX];
    bool question_content[QUESTION_WORDS_MAX];
    size_t n_question;
    char *question;
    struct typed question_typed[CLAIM_TYPED_MAX];
    size_t n_question_typed;
    const uint64_t *opposite_keys; /* BORROWED; pairs: [2 * group + side] */
    size_t n_opposites;
    struct claim c;
    struct cairn_span *spans; /* scratch for splitting */
    size_t cap_spans;
    uint8_t x[GROUND_CLAIM_WORDS_MAX][TF_N]; /* of the present claim's words */
    int32_t margin[GROUND_CLAIM_WORDS_MAX];
    uint32_t word_spans[2 * GROUND_CLAIM_WORDS_MAX];
    struct text_sums sums;           /* of the text that grounding_check_text goes through */
    struct doubt doubts[DOUBTS_MAX]; /* about the present claim */
    size_t n_doubts;
    bool any_claim;
    float lowest; /* support of its weakest claim */
};

struct finding { /* what one set of sources says about the claim */
    float f[GF_N];
    struct set everywhere, near; /* slots that stand there; absent ones with a word that begins alike */
    uint32_t lo, hi;             /* evidence sentences, inclusive; NONE: none */
    bool verbatim;
    uint32_t run_source;
    size_t run_start, run_end; /* bytes of the longest copied run in that source */
    struct ground_flag flags[GROUND_FLAGS_MAX];
    size_t n_flags;
    float contradiction;
    float edit; /* share of the words of a near-best evidence sentence that the claim has too */
};

#endif
