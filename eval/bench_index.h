/* eval/bench_index.h - what the files of `cairn bench index` share; `cairn bench model` runs its peers with
 * it too. */
#ifndef CAIRN_EVAL_BENCH_INDEX_H
#define CAIRN_EVAL_BENCH_INDEX_H

#include "ann.h"
#include "run.h"

struct index_bench {
    const struct options *o;
    const char *work;
    char label[ANN_NAME_MAX];                  /* of the set, in results */
    char *base_path, *query_path, *truth_path; /* OWNED */
    char *stem;                                /* OWNED: WORK/KEY, files of this set begin so */
    char *python;                              /* OWNED; NULL: no peers */
    struct ann_floats base, queries;
    struct ann_ids truth;
    struct ann_runs runs;
    json_t *info; /* OWNED: all but the runs */
};

/* The file was made after the base was: what was built from an older one is stale. */
bool made_after(const char *path, const char *base_path);
/* Runs a program; its stdout and stderr go to log. An exit code other than 0 is CAIRN_ESTATE with the log's
 * last line. */
CAIRN_MUST_USE enum cairn_err peers_exec(const char *const *argv, const char *log, struct cairn_why *why);
#define PEER_PACKAGES_MAX 16
/* Makes the Python environment WORK/NAME with these packages (NULL ends them) when it is absent; *python
 * OWNED. */
CAIRN_MUST_USE enum cairn_err peers_python(const struct options *o, const char *work, const char *name,
                                           const char *const *packages, char **python, struct cairn_why *why);
/* One pass of one peer: builds its index if need be, adds its runs, and notes its build in x->info. */
CAIRN_MUST_USE enum cairn_err peers_pass(struct index_bench *x, const char *name, struct cairn_why *why);

#endif
