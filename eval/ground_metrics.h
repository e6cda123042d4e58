/* eval/ground_metrics.h - measures of a grounding checker, over values given to them; ground_metrics.c has
 * the definitions. No file, no model, no clock. Threads: any. A larger score means "more likely unsupported".
 */
#ifndef CAIRN_EVAL_GROUND_METRICS_H
#define CAIRN_EVAL_GROUND_METRICS_H

#include <cairn/base.h>

#define GM_FOLDS 5u
#define GM_BINS 15u /* of the calibration error */

struct gm_answer {
    double score;      /* any scale; only its order and gm_decide's cut-offs use it */
    bool positive;     /* people marked something in it */
    uint32_t source;   /* [0, n_sources): the unit that is split and drawn */
    double calibrated; /* set by gm_decide: probability, from the other folds */
    bool f1_says;      /* set by gm_decide: over the cut-off that was best for F1 on the other folds */
    bool bacc_says;    /* the same for balanced accuracy */
};
struct gm_span { /* a piece of an answer that is flagged as a whole or not at all */
    double score;
    uint32_t source;
    uint64_t len, marked; /* code points, and those of them that people marked */
    bool says;            /* set by gm_decide */
};
struct gm_set {
    struct gm_answer *answers; /* BORROWED */
    struct gm_span *spans;     /* BORROWED; n_spans 0: the set has no spans */
    size_t n_answers, n_spans;
    size_t n_sources;
    const uint64_t *marked; /* [n_sources] marked code points of all its answers; spans need not cover them */
};
enum gm_measure { GM_AUC, GM_ANSWER_F1, GM_SPAN_F1, GM_BACC, GM_ECE, GM_ECE_CALIBRATED, GM_N };
struct gm_result {
    double value[GM_N], low[GM_N], high[GM_N]; /* AUC and ECE 0..1, the others percent; NaN: not defined */
};

/* The fold of each source, [n_sources]: a seeded shuffle dealt out in turn. */
CAIRN_MUST_USE enum cairn_err gm_folds(uint8_t *fold, size_t n_sources, uint64_t seed, struct cairn_why *why);
/* Cut-offs and calibration of each fold from the other four. */
CAIRN_MUST_USE enum cairn_err gm_decide(struct gm_set *s, const uint8_t *fold, struct cairn_why *why);
/* After gm_decide. draws 0: values alone; else intervals too, 2.5 to 97.5 percent over sources drawn with
 * replacement; decisions stay as they are. probability: the score is one, so that its ECE is defined. */
CAIRN_MUST_USE enum cairn_err gm_measure(const struct gm_set *s, bool probability, size_t draws,
                                         uint64_t seed, struct gm_result *out, struct cairn_why *why);

#endif
