/* eval/run.h - what the runners share: options, a service to measure, calls as JSON, progress, tables.
 * One thread. SIGINT sets a flag that every long call looks at; the second one ends the process. */
#ifndef CAIRN_EVAL_RUN_H
#define CAIRN_EVAL_RUN_H

#include "internal.h"
#include "stats.h"

#include <cairn/api.h>
#include <jansson.h>
#include <stdio.h>

enum { DONE = 0, FAILED = 1, USAGE = 2, NOT_FOUND = 3 };

#define CONF_MAX 32u
#define NAMES_MAX 16u
struct name_list {
    const char *v[NAMES_MAX];
    size_t n;
};
struct options {
    const char *command; /* "eval retrieval", ... */
    const char *set, *run, *qrels, *data, *models, *profile, *embedder, *reranker, *generator, *backend,
        *legs, *measures, *run_out, *kb, *baseline, *fusion_name, *collection, *mode, *style, *only, *out,
        *probe, *base, *query, *work, *svg, *peers, *peers_script, *join, *tests;
    uint64_t sample, half, draws, fusion, rerank_sample, seed, k, threads, max_tokens, n, dim, queries,
        passes;
    double limit, dense_weight, rerank_weight; /* -1: the default of a new collection */
    const char *conf[CONF_MAX];
    size_t n_conf;
    struct name_list generators, embedders, pairs, shapes, pythons, joins;
    bool json, quiet, both, fail_on_drop, drop_self, quick, fresh, help, filters, deletes, keep, cpu_time;
};
struct option_row {
    const char *name, *arg, *help; /* arg NULL: a flag */
    enum { O_TEXT, O_WHOLE, O_SHARE, O_FLAG, O_CONF, O_LIST } kind;
    size_t at;
};
/* Rows that several commands share. */
#define OPTIONS_MODELS                                                                                       \
    {"models", "DIR", "directory of models (default: $CAIRN_MODELS_DIR, else ~/.cache/cairn/models)",        \
     O_TEXT, offsetof(struct options, models)},                                                              \
        {"profile", "NAME", "standard or small: take this profile's models", O_TEXT,                         \
         offsetof(struct options, profile)},                                                                 \
    {                                                                                                        \
        "embedder", "NAME", "embedding model, or none", O_TEXT, offsetof(struct options, embedder)           \
    }
#define OPTIONS_RERANKER                                                                                     \
    {                                                                                                        \
        "reranker", "NAME", "pair model, or none", O_TEXT, offsetof(struct options, reranker)                \
    }
#define OPTIONS_GENERATOR                                                                                    \
    {                                                                                                        \
        "generator", "NAME", "generator, or none", O_TEXT, offsetof(struct options, generator)               \
    }
#define OPTIONS_RUN                                                                                          \
    {"backend", "NAME", "auto, scalar, blas, avx2, avx512 or cuda", O_TEXT,                                  \
     offsetof(struct options, backend)},                                                                     \
        {"threads", "N", "compute threads (default: cores)", O_WHOLE, offsetof(struct options, threads)},    \
        {"conf", "KEY=VALUE", "a setting, as retriever.rerank_top=50; may be repeated", O_CONF, 0},          \
        {"json", NULL, "one JSON object on stdout", O_FLAG, offsetof(struct options, json)},                 \
    {                                                                                                        \
        "quiet", NULL, "no progress on stderr", O_FLAG, offsetof(struct options, quiet)                      \
    }
#define OPTIONS_BASELINE                                                                                     \
    {"draws", "N", "of the intervals (default 1000; 0: no intervals); a comparison draws 2000", O_WHOLE,     \
     offsetof(struct options, draws)},                                                                       \
        {"baseline", "FILE", "compare with the --out of an earlier run, unit by unit", O_TEXT,               \
         offsetof(struct options, baseline)},                                                                \
    {                                                                                                        \
        "fail-on-drop", NULL, "with --baseline: exit 1 when a measure fell and its interval is below 0",     \
            O_FLAG, offsetof(struct options, fail_on_drop)                                                   \
    }

/* DONE, or USAGE after a message. Options are "--name value" or "--name=value". */
int options_read(struct options *o, const struct option_row *rows, size_t n, int argc, char **argv);
void options_print(const char *usage, const char *details, const struct option_row *rows, size_t n, FILE *to);

/* "cairn: COMMAND: text" on stderr. */
int tell(const struct options *o, int code, const char *fmt, ...) CAIRN_PRINTF(3, 4);
int tell_err(const struct options *o, enum cairn_err err, const struct cairn_why *why);

extern struct cairn_stop run_stop;
void run_watch(void); /* SIGINT from now on */
void progress(const struct options *o, const char *what, uint64_t done, uint64_t total);
void progress_clear(void);

/* A service with the models that the options name. */
struct bench_service {
    struct service *s;
    struct cairn_config *config;
    char *names[3]; /* OWNED, by enum model_role; NULL: none */
};
/* DIR is made when absent. generator false: without one. */
CAIRN_MUST_USE enum cairn_err lab_open(struct bench_service *b, const struct options *o, const char *dir,
                                       bool generator, struct cairn_why *why);
void lab_close(struct bench_service *b);
/* The names and files' sums of the models, for a store's key and for the settings printed. */
CAIRN_MUST_USE enum cairn_err lab_models(const struct options *o, char *names[3], char *sums[3],
                                         struct cairn_why *why);
void lab_models_free(char *names[3], char *sums[3]);
/* --data, else ~/.cache/cairn/eval; OWNED. name-KEY below it, KEY from the parts (NULL-terminated list). */
char *lab_dir(const struct options *o, const char *name, const char *const *parts);
/* params is consumed. *result OWNED (json_decref). */
CAIRN_MUST_USE enum cairn_err lab_call(struct bench_service *b, const struct options *o, const char *method,
                                       json_t *params, bool events, json_t **result, struct cairn_why *why);

/* JSON lines of a file; each line an object. fn returns an error to stop. */
CAIRN_MUST_USE enum cairn_err
each_json(const char *path, enum cairn_err (*fn)(void *ctx, json_t *o, size_t line, struct cairn_why *why),
          void *ctx, struct cairn_why *why);
/* Each "question" of a file of JSON lines; one without any is CAIRN_EINVAL. */
struct texts {
    char **v; /* OWNED */
    size_t n, cap;
};
CAIRN_MUST_USE enum cairn_err questions_read(struct texts *t, const char *path, struct cairn_why *why);
void texts_free(struct texts *t);
const char *text_of(const json_t *o, const char *key); /* NULL when absent or no string */
bool file_exists(const char *path);

/* A sample of n of total indices, ascending; n 0 or more than total: all. The same seed gives the same
 * sample. OWNED. */
size_t *sample_of(size_t total, uint64_t n, uint64_t seed, size_t *n_out);

void json_put(json_t *o, const char *key, double v); /* null when not finite */
double seconds_since(int64_t us);                    /* of cairn_now_us() */
double quantile(double *v, size_t n, double q);      /* sorts v; nearest rank; NaN when n is 0 */
void remove_tree(const char *path);

/* Prints v on stdout, one line. */
int print_json(const struct options *o, json_t *v);
int finish_output(const struct options *o);

/* "[1]" and "[1, 2]" are marks, not words of the answer. OWNED; NULL without memory. */
char *answer_without_marks(const char *text);

int eval_retrieval(int argc, char **argv);
int eval_answers(int argc, char **argv);
int eval_grounding(int argc, char **argv);
int eval_compare(int argc, char **argv);
int eval_drift(int argc, char **argv);
int eval_ann(int argc, char **argv);
int eval_report(int argc, char **argv);
int eval_all(int argc, char **argv);
/* parts: [{command, result}]. */
CAIRN_MUST_USE enum cairn_err report_write(const char *path, json_t *parts, struct cairn_why *why);
int bench_probe(const struct options *o);
int bench_index(int argc, char **argv);
int bench_answers(int argc, char **argv);
int bench_model(int argc, char **argv);

#endif
