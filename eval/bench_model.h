/* eval/bench_model.h - the state of one `cairn bench model`, shared by its decoder and its encoder half. */
#ifndef CAIRN_EVAL_BENCH_MODEL_H
#define CAIRN_EVAL_BENCH_MODEL_H

#include "model_runs.h"
#include "run.h"

#define SECONDS_EACH(x) ((x)->o->quick ? 0.1 : 0.5) /* of one test, at least one call */

struct model_bench {
    const struct options *o;
    const char *work;
    char *tmp; /* OWNED directory, removed at the end */
    struct peer {
        const char *python;
        bool llama, onnx; /* what it has */
    } peers[NAMES_MAX];
    size_t n_peers;
    char *own_python;    /* OWNED: of the environment made here */
    unsigned threads[2]; /* the limits that are measured, the main one last */
    size_t n_threads;
    struct model_runs runs;
    json_t *info; /* OWNED: all but the runs */
    int64_t (*clock_us)(void);
};

/* Seconds of the best call of those that fit in `seconds`, at least one. */
typedef enum cairn_err (*bench_call)(void *ctx, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err bench_best(const struct model_bench *x, double seconds, bench_call fn,
                                         void *ctx, double *best, struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err bench_add(struct model_bench *x, const char *engine, const char *model,
                                        const char *test, const char *setting, unsigned threads, int source,
                                        double value, struct cairn_why *why);
bool bench_wants(const struct model_bench *x, const char *test); /* --tests */
/* The object that info keeps of a model. BORROWED. */
json_t *bench_model_info(struct model_bench *x, const char *model, const char *role);
/* Runs the peers' script of one environment and adds its runs; cfg is consumed. *result OWNED, NULL when the
 * peer failed, which is told and noted but no error. */
CAIRN_MUST_USE enum cairn_err bench_peer(struct model_bench *x, size_t peer, const char *engine,
                                         const char *model, unsigned threads, json_t *cfg, json_t **result,
                                         struct cairn_why *why);
/* An encoder, as embedder or as pair model. */
CAIRN_MUST_USE enum cairn_err bench_encoder(struct model_bench *x, const struct model_card *card,
                                            struct cairn_why *why);

#endif
