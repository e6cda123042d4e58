/* eval/ground_set.h - a judged grounding set in memory, shared by `cairn eval grounding` and `cairn train
 * grounding`; grounding.c reads it. */
#ifndef CAIRN_EVAL_GROUND_SET_H
#define CAIRN_EVAL_GROUND_SET_H

#include "ground_metrics.h"
#include "run.h"

#include <cairn/generator.h>

struct text_source {
    char *key;
    char **pieces; /* the passages */
    size_t n, cap;
};
struct mark {
    size_t start, end; /* code points */
};
struct judged_text {
    uint32_t source;
    char *question, *text;
    bool positive;
    struct mark *marks;
    size_t n_marks, cap_marks;
};
struct ground_set {
    struct text_source *sources;
    struct judged_text *texts;
    uint32_t *table; /* open addressing by key, at most half full; 0 empty, else index + 1 */
    size_t n_sources, cap_sources, n_texts, cap_texts, n_table;
    const struct ground_encoder *encoder; /* BORROWED; NULL: none */
    size_t encoder_claims_max;            /* as of ground_opts */
    bool has_spans;
    bool marks_are_changes; /* not people's: the marks say what was edited; to learn from, not to judge by */
    bool claimless_is_bad;  /* a text without a claim counts as unsupported (BEGIN's "generic") */
};

/* *s zeroed before; release it also after a failure. */
CAIRN_MUST_USE enum cairn_err ground_set_read(struct ground_set *s, const char *dir, struct cairn_why *why);
void ground_set_release(struct ground_set *s);
/* Keeps the texts of one half (1 or 2) of the sources, by the hash of their keys. */
void ground_set_half(struct ground_set *s, uint64_t half);
/* For sets that are made rather than read. The source of this key, added with its text when new; a text; a
 * mark on the text added last, in code points. */
CAIRN_MUST_USE enum cairn_err ground_set_source(struct ground_set *s, const char *key, const char *text,
                                                uint32_t *out, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err ground_set_text(struct ground_set *s, uint32_t source, const char *question,
                                              const char *text, bool positive, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err ground_set_mark(struct ground_set *s, size_t start, size_t end,
                                              struct cairn_why *why);
/* on[byte]: is it under a mark? The number of code points that are. */
size_t marks_unite(const struct judged_text *t, bool *on, size_t bytes);
/* A checker for text number `text` over the passages of `source` (its own, or another's). */
CAIRN_MUST_USE enum cairn_err ground_set_open(struct grounding **g, const struct ground_set *s, size_t text,
                                              uint32_t source, const struct ground_combiner *combiner,
                                              struct cairn_why *why);
/* The last part of a path; BORROWED. */
const char *ground_set_name(const char *path, size_t *len);
/* Appends a line a claim (claim_rows.c has the format). */
CAIRN_MUST_USE enum cairn_err claim_rows(FILE *to, const struct ground_set *s, const char *name,
                                         const uint8_t *fold,
                                         const struct ground_combiner *const of_fold[GM_FOLDS],
                                         struct cairn_why *why);
/* Measures and prints; o: set, seed, k (draws), json. of_fold: NULL the weights set by hand. */
int ground_set_report(const struct options *o, struct ground_set *s,
                      const struct ground_combiner *const of_fold[GM_FOLDS]);

#endif
