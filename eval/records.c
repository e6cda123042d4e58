/* eval/records.c - see records.h. A name whose larger values are worse begins with "wrong", "leak" or
 * "false": there a rise is the drop. */
#include "records.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DRAWS 2000u

enum cairn_err records_add(struct records *r, const char *unit, const char *name, double value,
                           struct cairn_why *why)
{
    if (r->n >= RECORDS_MAX)
        return cairn_fail(why, CAIRN_EFULL, "more than %u values", RECORDS_MAX);
    if (!isfinite(value))
        return cairn_fail(why, CAIRN_EINVAL, "%s of %s is no finite number", name, unit);
    if (!eval_grow((void **)&r->rows, &r->cap, r->n + 1, sizeof *r->rows))
        return cairn_fail(why, CAIRN_ENOMEM, "values");
    struct record x = {cairn_strdup(unit), cairn_strdup(name), value};
    if (!x.unit || !x.name) {
        cairn_free(x.unit);
        cairn_free(x.name);
        return cairn_fail(why, CAIRN_ENOMEM, "values");
    }
    r->rows[r->n++] = x;
    return CAIRN_OK;
}

static enum cairn_err read_line(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    const char *unit = text_of(o, "unit"), *name;
    json_t *values = json_object_get(o, "values"), *v;
    enum cairn_err err = CAIRN_OK;
    (void)line;
    if (!unit || !json_is_object(values))
        return cairn_fail(why, CAIRN_EINVAL,
                          "not a record: want \"unit\" and \"values\", as --out of `cairn eval` writes them");
    json_object_foreach(values, name, v)
    {
        if (!err)
            err = json_is_number(v) ? records_add(ctx, unit, name, json_number_value(v), why)
                                    : cairn_fail(why, CAIRN_EINVAL, "the value of \"%s\" is no number", name);
    }
    return err;
}

/* Lines of other kinds of record are CAIRN_EINVAL. */
static enum cairn_err records_read(struct records *r, const char *path, struct cairn_why *why)
{
    enum cairn_err err = each_json(path, read_line, r, why);
    return err ? err : records_finish(r, why);
}

static int by_name(const void *a, const void *b)
{
    const struct record *x = a, *y = b;
    int c = strcmp(x->name, y->name);
    return c ? c : strcmp(x->unit, y->unit);
}

enum cairn_err records_finish(struct records *r, struct cairn_why *why)
{
    if (r->n)
        qsort(r->rows, r->n, sizeof *r->rows, by_name);
    for (size_t i = 1; i < r->n; i++)
        if (by_name(&r->rows[i - 1], &r->rows[i]) == 0)
            return cairn_fail(why, CAIRN_EINVAL, "%s has two values of %s", r->rows[i].unit, r->rows[i].name);
    return CAIRN_OK;
}

void records_release(struct records *r)
{
    for (size_t i = 0; i < r->n; i++) {
        cairn_free(r->rows[i].unit);
        cairn_free(r->rows[i].name);
    }
    cairn_free(r->rows);
    *r = (struct records){0};
}

/* Rows [from, end) have one name. */
static size_t name_end(const struct records *r, size_t from)
{
    size_t end = from;
    while (end < r->n && strcmp(r->rows[end].name, r->rows[from].name) == 0)
        end++;
    return end;
}

enum cairn_err records_intervals(const struct records *r, size_t draws, uint64_t seed, json_t **out,
                                 struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    double *v = cairn_reallocarray(NULL, r->n ? r->n : 1, sizeof *v);
    *out = json_object();
    if (!v || !*out)
        err = cairn_fail(why, CAIRN_ENOMEM, "intervals");
    for (size_t from = 0, end; draws && from < r->n && !err; from = end) {
        struct stats_interval x;
        end = name_end(r, from);
        for (size_t i = from; i < end; i++)
            v[i - from] = r->rows[i].value;
        err = stats_bootstrap(v, end - from, draws, seed, &x, why);
        if (!err)
            json_object_set_new(*out, r->rows[from].name, json_pack("[f, f]", x.low, x.high));
    }
    cairn_free(v);
    if (err) {
        json_decref(*out);
        *out = NULL;
    }
    return err;
}

static bool less_is_better(const char *name)
{
    return strncmp(name, "wrong", 5) == 0 || strncmp(name, "leak", 4) == 0 || strncmp(name, "false", 5) == 0;
}

/* {NAME: {n, before, now, difference, low, high, p, drop}} over the names and units that both have; drop: the
 * interval lies below 0. *drops counts them. Both finished. OWNED. */
static enum cairn_err records_compare(const struct records *before, const struct records *now, size_t draws,
                                      uint64_t seed, json_t **out, size_t *drops, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    size_t most = before->n < now->n ? before->n : now->n;
    double *x = cairn_reallocarray(NULL, most ? most : 1, sizeof *x),
           *y = cairn_reallocarray(NULL, most ? most : 1, sizeof *y);
    *out = json_object();
    *drops = 0;
    if (!x || !y || !*out)
        err = cairn_fail(why, CAIRN_ENOMEM, "%zu values to compare", most);
    for (size_t i = 0, k = 0; i < now->n && !err;) {
        size_t end = name_end(now, i), n = 0;
        const char *name = now->rows[i].name;
        for (; i < end; i++) {
            while (k < before->n && by_name(&before->rows[k], &now->rows[i]) < 0)
                k++;
            if (k < before->n && by_name(&before->rows[k], &now->rows[i]) == 0) {
                x[n] = before->rows[k].value;
                y[n++] = now->rows[i].value;
            }
        }
        struct stats_pair p;
        if (!n)
            continue;
        err = stats_paired(x, y, n, draws, seed, &p, why);
        if (err)
            break;
        bool drop = less_is_better(name) ? p.low > 0 : p.high < 0;
        *drops += drop;
        json_object_set_new(*out, name,
                            json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:b}", "n", (json_int_t)n,
                                      "before", p.before, "now", p.now, "difference", p.mean, "low", p.low,
                                      "high", p.high, "p", p.p, "drop", drop));
    }
    cairn_free(x);
    cairn_free(y);
    if (!err && !json_object_size(*out))
        err = cairn_fail(why, CAIRN_EINVAL, "the two have no unit and name in common");
    if (err) {
        json_decref(*out);
        *out = NULL;
    }
    return err;
}

static double number_at(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static void print_comparison(json_t *c)
{
    const char *name;
    json_t *v;
    printf("%-26s %6s %8s %8s %9s %20s %7s\n", "", "n", "before", "now", "diff", "interval", "p");
    json_object_foreach(c, name, v)
    {
        printf("%-26s %6d %8.4f %8.4f %+9.4f [%+8.4f, %+8.4f] %7.4f%s\n", name,
               (int)json_integer_value(json_object_get(v, "n")), number_at(v, "before"), number_at(v, "now"),
               number_at(v, "difference"), number_at(v, "low"), number_at(v, "high"), number_at(v, "p"),
               json_is_true(json_object_get(v, "drop")) ? "  drop" : "");
    }
}

enum cairn_err records_against(const struct options *o, const struct records *now, json_t *result, int *code,
                               struct cairn_why *why)
{
    struct records before = {0};
    json_t *c = NULL;
    size_t drops = 0;
    if (!o->baseline)
        return CAIRN_OK;
    enum cairn_err err = records_read(&before, o->baseline, why);
    if (!err)
        err = records_compare(&before, now, DRAWS, o->seed, &c, &drops, why);
    if (!err && !o->json)
        print_comparison(c);
    if (!err && o->fail_on_drop && drops)
        *code = tell(o, FAILED, "%zu of %zu measures are below %s, their intervals too", drops,
                     json_object_size(c), o->baseline);
    if (!err)
        json_object_set(result, "baseline", c);
    json_decref(c);
    records_release(&before);
    return err;
}

static const struct option_row rows[] = {
    {"before",       "FILE", "records of the one, from --out of `cairn eval`",         O_TEXT,
     offsetof(struct options,                                                                                            baseline)    },
    {"now",          "FILE", "records of the other",                                   O_TEXT,  offsetof(struct options, set)         },
    {"seed",         "S",    "of the draws (default 0)",                               O_WHOLE, offsetof(struct options, seed)        },
    {"fail-on-drop", NULL,   "exit 1 when a measure fell and its interval is below 0", O_FLAG,
     offsetof(struct options,                                                                                            fail_on_drop)},
    {"json",         NULL,   "one JSON object on stdout",                              O_FLAG,  offsetof(struct options, json)        },
};
#define N_ROWS (sizeof rows / sizeof rows[0])

int eval_compare(int argc, char **argv)
{
    struct options o = {.command = "eval compare"};
    struct records now = {0};
    struct cairn_why why = {{0}};
    int code = options_read(&o, rows, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print("eval compare --before FILE --now FILE [options]",
                      "Compares two runs over the queries or questions that both have: the mean difference, "
                      "its 95 % interval by a\npaired bootstrap of 2,000 draws, and p by randomisation.",
                      rows, N_ROWS, stdout);
        return finish_output(&o);
    }
    if (!o.set || !o.baseline)
        return tell(&o, USAGE, "want --before FILE and --now FILE");
    json_t *result = json_object();
    enum cairn_err err = records_read(&now, o.set, &why);
    if (!err)
        err = records_against(&o, &now, result, &code, &why);
    if (err)
        code = tell_err(&o, err, &why);
    else if (o.json) {
        int printed = print_json(&o, result);
        code = code ? code : printed;
    }
    json_decref(result);
    records_release(&now);
    return code;
}
