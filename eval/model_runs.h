/* eval/model_runs.h - numbers of `cairn bench model`, the bandwidth probe, files in known shapes. */
#ifndef CAIRN_EVAL_MODEL_RUNS_H
#define CAIRN_EVAL_MODEL_RUNS_H

#include <cairn/base.h>

enum { MODEL_TEXT_MAX = 80, MODEL_RUNS_MAX = 4096 };

/* One measured number. Milliseconds where model_test_is_time(), else a rate. */
struct model_run {
    char engine[16], model[MODEL_TEXT_MAX], test[16], setting[MODEL_TEXT_MAX];
    unsigned threads; /* the limit it ran under; a peer may have done better with fewer */
    int source;       /* which of the peers' environments; -1: not one of them */
    double value;
};
struct model_runs {
    struct model_run *v; /* OWNED */
    size_t n, cap;
};
bool model_test_is_time(const char *test);
/* A run of the same engine, model, test, setting and threads is replaced when this one is better. */
CAIRN_MUST_USE enum cairn_err model_runs_add(struct model_runs *r, const struct model_run *run,
                                             struct cairn_why *why);
/* The best setting; NULL: none was measured. */
const struct model_run *model_runs_best(const struct model_runs *r, const char *engine, const char *model,
                                        const char *test, unsigned threads);
/* How many times better `engine` is than `than`; NaN when one of them is missing. */
double model_runs_ratio(const struct model_runs *r, const char *engine, const char *than, const char *model,
                        const char *test, unsigned threads);

/* What this machine can read, from a buffer that is as large as the weights: the best of several ways to walk
 * it, by all threads of the pool. The bar that decoding is held against. */
struct bandwidth;
CAIRN_MUST_USE enum cairn_err bandwidth_open(struct bandwidth **out, size_t bytes, struct cairn_why *why);
void bandwidth_close(struct bandwidth *b);
/* GB/s, best of a few walks of each way; *way is static text. clock: microseconds of some clock. */
double bandwidth_measure(struct bandwidth *b, struct cairn_pool *pool, int64_t (*clock_us)(void),
                         const char **way);

/* A GGUF file of random weights in the shape of a known model, for speed alone: no vocabulary, so it says
 * nothing. name is "smollm2-135m-q8_0" and the like; CAIRN_ENOTFOUND lists what there is. */
CAIRN_MUST_USE enum cairn_err shape_write(const char *name, const char *path, const struct cairn_stop *stop,
                                          struct cairn_why *why);

#endif
