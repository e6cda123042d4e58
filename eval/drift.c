/* eval/drift.c - `cairn eval drift`: have questions and scores of a service moved away from what they were?
 * Both sides are answers of server.stats (`cairn debug stat --server ADDRESS --json`). Each of its
 * distributions is compared by the population stability index, sum (p - q) ln(p / q) over buckets, half a
 * count added to each so that an empty bucket is no infinity; by custom under 0.1 is alike and over 0.25
 * another population. Chance alone makes about (buckets - 1) (1/n + 1/m) of it: that much is taken off, so
 * that few questions cry no wolf. */
#include "run.h"

#include <math.h>
#include <string.h>

#define BUCKETS_MAX 64u

struct side {
    double count[BUCKETS_MAX], total;
    size_t n;
};

static bool side_read(struct side *s, const json_t *o)
{
    const json_t *list = json_object_get(o, "counts");
    s->n = json_array_size(list);
    s->total = 0;
    if (s->n < 2 || s->n > BUCKETS_MAX || json_array_size(json_object_get(o, "edges")) + 1 != s->n)
        return false;
    for (size_t i = 0; i < s->n; i++) {
        if (!json_is_number(json_array_get(list, i)))
            return false;
        s->count[i] = json_number_value(json_array_get(list, i));
        s->total += s->count[i];
    }
    return true;
}

static json_t *stats_read(const char *path, struct cairn_why *why, enum cairn_err *err)
{
    json_error_t at;
    json_t *v = file_exists(path) ? json_load_file(path, JSON_REJECT_DUPLICATES, &at) : NULL, *d;
    if (!file_exists(path)) {
        *err = cairn_fail(why, CAIRN_ENOTFOUND, "%s: no such file", path);
        return NULL;
    }
    d = json_object_get(v, "distributions");
    if (!json_is_object(d)) {
        *err = cairn_fail(
            why, CAIRN_EINVAL,
            "%s: holds no \"distributions\"; want what `cairn debug stat --server ADDRESS --json` prints",
            path);
        json_decref(v);
        return NULL;
    }
    json_incref(d);
    json_decref(v);
    return d;
}

static enum cairn_err compare(const struct options *o, json_t *before, json_t *now, json_t **out,
                              size_t *moved, struct cairn_why *why)
{
    const char *name;
    json_t *b;
    *out = json_object();
    json_object_foreach(before, name, b)
    {
        struct side p, q;
        json_t *x = json_object_get(now, name);
        if (!x)
            continue;
        if (!side_read(&p, b) || !side_read(&q, x) ||
            !json_equal(json_object_get(b, "edges"), json_object_get(x, "edges")))
            return cairn_fail(why, CAIRN_EINVAL, "%s: the two have other buckets, or none", name);
        double psi = 0, chance = NAN;
        for (size_t i = 0; i < p.n; i++) {
            double u = (p.count[i] + 0.5) / (p.total + 0.5 * (double)p.n),
                   v = (q.count[i] + 0.5) / (q.total + 0.5 * (double)p.n);
            psi += (v - u) * log(v / u);
        }
        if (p.total > 0 && q.total > 0) {
            chance = (double)(p.n - 1) * (1 / p.total + 1 / q.total);
            psi = fmax(0, psi - chance);
        }
        bool enough = p.total > 0 && q.total > 0, far = enough && psi > o->limit;
        *moved += far;
        json_object_set_new(*out, name,
                            json_pack("{s:f, s:f, s:o, s:b}", "n_reference", p.total, "n_live", q.total,
                                      "psi", enough ? json_real(psi) : json_null(), "moved", far));
    }
    return json_object_size(*out) ? CAIRN_OK
                                  : cairn_fail(why, CAIRN_EINVAL, "the two have no distribution in common");
}

static const struct option_row rows[] = {
    {"reference",     "FILE", "server.stats of the time to compare with",                 O_TEXT,
     offsetof(struct options,                                                                                               baseline)    },
    {"live",          "FILE", "server.stats of now",                                      O_TEXT,  offsetof(struct options, set)         },
    {"limit",         "X",    "index above which a distribution has moved (default 0.2)", O_SHARE,
     offsetof(struct options,                                                                                               limit)       },
    {"fail-on-drift", NULL,   "exit 1 when one has",                                      O_FLAG,  offsetof(struct options, fail_on_drop)},
    {"json",          NULL,   "one JSON object on stdout",                                O_FLAG,  offsetof(struct options, json)        },
};
#define N_ROWS (sizeof rows / sizeof rows[0])

int eval_drift(int argc, char **argv)
{
    struct options o = {.command = "eval drift", .limit = 0.2};
    struct cairn_why why = {{0}};
    int code = options_read(&o, rows, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print(
            "eval drift --reference FILE --live FILE [options]",
            "Compares what questions and scores of a service look like with an earlier time. Both files are\n"
            "what `cairn debug stat --server ADDRESS --json` prints; a service counts from its start.",
            rows, N_ROWS, stdout);
        return finish_output(&o);
    }
    if (!o.set || !o.baseline)
        return tell(&o, USAGE, "want --reference FILE and --live FILE");
    json_t *before = NULL, *now = NULL, *out = NULL;
    size_t moved = 0;
    enum cairn_err err = CAIRN_OK;
    before = stats_read(o.baseline, &why, &err);
    if (!err)
        now = stats_read(o.set, &why, &err);
    if (!err)
        err = compare(&o, before, now, &out, &moved, &why);
    if (err) {
        code = tell_err(&o, err, &why);
    } else if (o.json) {
        code = print_json(&o, out);
    } else {
        const char *name;
        json_t *v;
        printf("%-14s %12s %10s %8s\n", "", "reference", "live", "index");
        json_object_foreach(out, name, v)
        {
            printf("%-14s %12.0f %10.0f ", name, json_real_value(json_object_get(v, "n_reference")),
                   json_real_value(json_object_get(v, "n_live")));
            if (json_is_null(json_object_get(v, "psi")))
                puts("       -");
            else
                printf("%8.3f%s\n", json_real_value(json_object_get(v, "psi")),
                       json_is_true(json_object_get(v, "moved")) ? "  moved" : "");
        }
        code = finish_output(&o);
    }
    if (!code && o.fail_on_drop && moved)
        code = tell(&o, FAILED, "%zu of %zu distributions have moved", moved, json_object_size(out));
    json_decref(before);
    json_decref(now);
    json_decref(out);
    return code;
}
