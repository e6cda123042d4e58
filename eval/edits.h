/* eval/edits.h - one changed word in a true sentence: the corruption generator of `cairn train grounding
 * --edits` and of `cairn eval grounding --suite edits`. */
#ifndef CAIRN_EVAL_EDITS_H
#define CAIRN_EVAL_EDITS_H

#include "ground_set.h"

enum edit_kind {
    EDIT_NUMBER,
    EDIT_DATE,
    EDIT_UNIT,
    EDIT_NAME,
    EDIT_NEGATION,
    EDIT_QUANTIFIER,
    EDIT_SWAP,     /* two names, or two numbers, of the sentence change places */
    EDIT_OPPOSITE, /* rise, fall */
    EDIT_MODAL,    /* must, may */
    EDIT_WORD,     /* a content word of another source */
    EDIT_SENTENCE, /* a whole sentence of another source */
    EDIT_N
};
extern const char *const edit_names[EDIT_N];

/* Writes the edited sentence to *out (cleared) and the changed bytes of it to *start, *end. False when the
 * sentence has nothing of the kind. source: an edit never writes a value or name that stands there. */
bool edit_make(enum edit_kind kind, struct cairn_str sentence, struct cairn_str source,
               struct cairn_str stranger, uint64_t *state, struct cairn_buf *out, size_t *start, size_t *end);

/* A set of n texts of one to three sentences of the passages under dir (passages.jsonl, corpus.jsonl or a
 * folder of Markdown), three in five with one edit, marked. */
CAIRN_MUST_USE enum cairn_err edits_of_passages(struct ground_set *s, const char *dir, uint64_t n,
                                                uint64_t seed, struct cairn_why *why);

/* A claim of a clean text as it stands, or with one edit, and what the checker says of it. */
struct edit_case {
    const struct ground_set *set;
    const struct judged_text *t;
    struct grounding *g;
    struct cairn_str text;
    struct ground_sentence says;
    size_t start, end; /* changed bytes of the text */
    uint8_t kind;      /* EDIT_N: untouched */
};
typedef enum cairn_err (*edit_case_fn)(void *ctx, const struct edit_case *c, struct cairn_why *why);
/* Every claim of the set's clean texts, then, of each text and kind of edit, one. *clean: how many texts. */
CAIRN_MUST_USE enum cairn_err edit_cases(const struct options *o, struct ground_set *s,
                                         const struct ground_combiner *m, edit_case_fn fn, void *ctx,
                                         size_t *clean, struct cairn_why *why);

/* The table of `--suite edits`; m NULL: the weights set by hand. An exit code. */
int edit_suite(const struct options *o, struct ground_set *s, const struct ground_combiner *m);
/* `cairn train doubts`. An exit code. */
int train_doubts(int argc, char **argv);
/* The times of `--suite time`. */
int ground_time(const struct options *o, struct ground_set *s, const struct ground_combiner *m);
/* One thousand sentences of 30 to 1,000 bytes of the set's passages, checked against their own. */
int extract_suite(const struct options *o, struct ground_set *s, const struct ground_combiner *m);

#endif
