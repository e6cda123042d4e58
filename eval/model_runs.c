/* eval/model_runs.c - the numbers of `cairn bench model`: the best of each, and how engines compare. */
#include "model_runs.h"

#include "internal.h"

#include <math.h>
#include <string.h>

bool model_test_is_time(const char *test)
{
    static const char *const times[] = {"step", "ttft", "hit", "query", "open"};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++)
        if (strncmp(test, times[i], strlen(times[i])) == 0)
            return true;
    return false;
}

static bool better(const struct model_run *a, const struct model_run *than)
{
    return model_test_is_time(a->test) ? a->value < than->value : a->value > than->value;
}

enum cairn_err model_runs_add(struct model_runs *r, const struct model_run *run, struct cairn_why *why)
{
    if (!(run->value > 0) || !isfinite(run->value))
        return cairn_fail(why, CAIRN_EINVAL, "%s, %s, %s: %g is not a speed", run->engine, run->model,
                          run->test, run->value);
    for (size_t i = 0; i < r->n; i++) {
        struct model_run *old = &r->v[i];
        if (old->threads != run->threads || strcmp(old->engine, run->engine) != 0 ||
            strcmp(old->model, run->model) != 0 || strcmp(old->test, run->test) != 0 ||
            strcmp(old->setting, run->setting) != 0)
            continue;
        if (better(run, old))
            *old = *run;
        return CAIRN_OK;
    }
    if (r->n >= MODEL_RUNS_MAX)
        return cairn_fail(why, CAIRN_EFULL, "more than %d numbers", MODEL_RUNS_MAX);
    if (!eval_grow((void **)&r->v, &r->cap, r->n + 1, sizeof *r->v))
        return cairn_fail(why, CAIRN_ENOMEM, "runs");
    r->v[r->n++] = *run;
    return CAIRN_OK;
}

const struct model_run *model_runs_best(const struct model_runs *r, const char *engine, const char *model,
                                        const char *test, unsigned threads)
{
    const struct model_run *best = NULL;
    for (size_t i = 0; i < r->n; i++) {
        const struct model_run *x = &r->v[i];
        if (x->threads == threads && strcmp(x->engine, engine) == 0 && strcmp(x->model, model) == 0 &&
            strcmp(x->test, test) == 0 && (!best || better(x, best)))
            best = x;
    }
    return best;
}

double model_runs_ratio(const struct model_runs *r, const char *engine, const char *than, const char *model,
                        const char *test, unsigned threads)
{
    const struct model_run *a = model_runs_best(r, engine, model, test, threads),
                           *b = model_runs_best(r, than, model, test, threads);
    if (!a || !b)
        return NAN;
    return model_test_is_time(test) ? b->value / a->value : a->value / b->value;
}
