/* eval/train_doubts.c - `cairn train doubts`: fits generator/doubt_weights.h, the small logistics that give a
 * doubt its confidence, to single edits in claims that people found supported (edits.h).
 *
 * A doubt about an untouched claim is a false one; one about the changed bytes of an edited claim, of a grade
 * that looks for this kind of edit, is a right one; others say nothing. Untouched claims weigh as much as
 * edited ones, each set the same: so a confidence is the chance that the claim was edited where one of two
 * was, and grades of one kind of flag can be compared. What a feature means fixes the sign of its weight.
 * Coordinate by coordinate, Newton's step with the square of the weights as penalty; no random numbers. */
#include "edits.h"

#include "../generator/doubts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SETS_MAX 8u
#define SWEEPS 400
#define PENALTY 2.0
#define WEIGHT_MAX 8.0

static const char *const grade_names[DOUBT_N] = {"VALUE",    "NUMBER",      "UNIT",       "NAME",
                                                 "NEGATED",  "NOT_NEGATED", "QUANTIFIER", "MODAL",
                                                 "OPPOSITE", "EXCHANGED",   "DISPLACED",  "APART"};
static const uint8_t edits_of_grade[DOUBT_N][3] = {
  /* EDIT_N: no more */
    [DOUBT_VALUE] = {EDIT_NUMBER, EDIT_DATE, EDIT_UNIT},
    [DOUBT_NUMBER] = {EDIT_NUMBER,           EDIT_N         },
    [DOUBT_UNIT] = {EDIT_UNIT,           EDIT_N  },
    [DOUBT_NAME] = {EDIT_NAME,           EDIT_N         },
    [DOUBT_NEGATED] = {EDIT_NEGATION,           EDIT_N},
    [DOUBT_NOT_NEGATED] = {EDIT_NEGATION,           EDIT_N         },
    [DOUBT_QUANTIFIER] = {EDIT_QUANTIFIER,           EDIT_N},
    [DOUBT_MODAL] = {EDIT_MODAL,           EDIT_N              },
    [DOUBT_OPPOSITE] = {EDIT_OPPOSITE,           EDIT_N},
    [DOUBT_EXCHANGED] = {EDIT_SWAP,           EDIT_N                  },
    [DOUBT_DISPLACED] = {EDIT_SWAP,           EDIT_N},
    [DOUBT_APART] = {EDIT_SWAP,           EDIT_N                  },
};

static const struct {
    const char *name;
    int sign;
} features[DX_N] = {
#define F(x, s) [DX_##x] = {#x, s}
    F(ONE, 0),         F(COVER, 0),  F(PAIRS, 0),        F(EDIT, 0),       F(ABOUT_TEXT, -1),
    F(SAYING, -1),     F(PROOF, 1),  F(CONTRADICTED, 0), F(ABSENT, 1),     F(JOIN, 1),
    F(READS_ON, 1),    F(PLAIN, 1),  F(UNKNOWN, 0),      F(SAID, -1),      F(OPPOSITE, -1),
    F(SOFT, -1),       F(HEDGED, 0), F(ASIDE, -1),       F(COMMON, -1),    F(FRAME, 1),
    F(FRAME_SAME, -1), F(OTHER, 1),  F(BEARER_OTHER, 1), F(SAME_WORD, -1), F(SOMEWHERE, -1),
    F(ZERO, 0),        F(FEW, 0),    F(SOME, 0),         F(MANY, 0),       F(MOST, 0),
    F(ALL, 0),         F(ONLY, 0),   F(AFTER_NOT, 0),    F(MUST, 0),       F(GAIN, 1),
    F(PAIR_GAIN, 1),   F(OWN, -1),   F(REVERSED, 1),     F(JOINED, -1),    F(DIGITS, 0),
#undef F
};

struct row {
    float x[DX_N];
    double weight, z;
    uint8_t grade, set;
    bool right;
};
struct reading {
    struct row *r;
    size_t n, cap;
    size_t claims[SETS_MAX][EDIT_N + 1]; /* how many of each kind */
    uint8_t set;
};

static bool looks_for(uint8_t grade, uint8_t kind)
{
    for (size_t i = 0; i < 3 && edits_of_grade[grade][i] < EDIT_N; i++)
        if (edits_of_grade[grade][i] == kind)
            return true;
    return false;
}

static enum cairn_err read_case(void *ctx, const struct edit_case *c, struct cairn_why *why)
{
    struct reading *d = ctx;
    size_t n;
    const struct doubt *o = grounding_doubts(c->g, &n);
    d->claims[d->set][c->kind]++;
    bool gone = c->end == c->start;
    for (size_t i = 0; i < n; i++) {
        bool right = c->kind < EDIT_N;
        if (right && !looks_for(o[i].grade, c->kind))
            continue;
        if (right && o[i].grade == DOUBT_EXCHANGED)
            right = o[i].start <= c->start && o[i].end >= c->end && o[i].start + 2 > c->start &&
                    o[i].end < c->end + 3;
        else if (right)
            right = o[i].start < c->end + gone && o[i].end + gone > c->start;
        if (right != (c->kind < EDIT_N))
            continue;
        if (!eval_grow((void **)&d->r, &d->cap, d->n + 1, sizeof *d->r))
            return cairn_fail(why, CAIRN_ENOMEM, "rows");
        struct row *r = &d->r[d->n++];
        *r = (struct row){.grade = o[i].grade, .set = d->set, .right = right};
        memcpy(r->x, o[i].x, sizeof r->x);
    }
    return CAIRN_OK;
}

static void weigh(struct reading *d, size_t n_sets)
{
    for (size_t i = 0; i < d->n; i++) {
        struct row *r = &d->r[i];
        size_t edited = 0, untouched = d->claims[r->set][EDIT_N];
        for (size_t k = 0; k < 3 && edits_of_grade[r->grade][k] < EDIT_N; k++)
            edited += d->claims[r->set][edits_of_grade[r->grade][k]];
        r->weight = 2000.0 / (double)n_sets / (double)(r->right ? edited : untouched);
    }
}

static void fit_grade(struct reading *d, uint8_t grade, double w[DX_N])
{
    for (size_t i = 0; i < d->n; i++)
        d->r[i].z = 0;
    for (size_t j = 0; j < DX_N; j++)
        w[j] = 0;
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (size_t j = 0; j < DX_N; j++) {
            double slope = j ? -PENALTY * w[j] : -0.01 * w[j], bend = j ? PENALTY : 0.01;
            for (size_t i = 0; i < d->n; i++) {
                const struct row *r = &d->r[i];
                double x = (double)r->x[j];
                if (r->grade != grade || x == 0)
                    continue;
                double p = 1 / (1 + exp(-r->z));
                slope += r->weight * ((double)r->right - p) * x;
                bend += r->weight * fmax(p * (1 - p), 0.01) * x * x;
            }
            double to = fmin(WEIGHT_MAX, fmax(-WEIGHT_MAX, w[j] + slope / bend));
            to = features[j].sign > 0 ? fmax(0, to) : features[j].sign < 0 ? fmin(0, to) : to;
            double step = to - w[j];
            w[j] = to;
            for (size_t i = 0; i < d->n && step != 0; i++)
                if (d->r[i].grade == grade)
                    d->r[i].z += step * (double)d->r[i].x[j];
        }
}

static enum cairn_err write_weights(const struct options *o, double w[DOUBT_N][DX_N], struct cairn_why *why)
{
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    bool ok =
        cairn_buf_puts(&b, "/* doubt_weights.h - log-odds of a doubt by what is known of it; written by\n"
                           " * `cairn train doubts` (docs/quality.md has the command). */\n"
                           "#ifndef CAIRN_GENERATOR_DOUBT_WEIGHTS_H\n"
                           "#define CAIRN_GENERATOR_DOUBT_WEIGHTS_H\n\n"
                           "#include \"doubts.h\"\n\n"
                           "static const float doubt_weights[DOUBT_N][DX_N] = {\n");
    for (size_t g = 0; ok && g < DOUBT_N; g++) {
        ok = cairn_buf_printf(&b, "    [DOUBT_%s] = {\n", grade_names[g]);
        for (size_t j = 0; ok && j < DX_N; j++)
            if (fabs(w[g][j]) >= 0.005)
                ok = cairn_buf_printf(&b, "        [DX_%s] = %.2ff,\n", features[j].name, w[g][j]);
        ok = ok && cairn_buf_puts(&b, "    },\n");
    }
    ok = ok && cairn_buf_puts(&b, "};\n\n#endif\n");
    enum cairn_err err =
        ok ? cairn_write_file(o->out, b.bytes, b.len, why) : cairn_fail(why, CAIRN_ENOMEM, "weights");
    cairn_buf_release(&b);
    return err;
}

static const struct option_row rows_help[] = {
    {"set",   "DIR",                                            "a judged set, as of `cairn eval grounding`; may be given again (at most 8)", O_CONF,                  0     },
    { "edits",  "DIR", "passages whose sentences are copied and edited",                                                                       O_TEXT,
     offsetof(struct options,                                                                                                                                           base)},
    { "n",    "N",                   "of such texts (default 4000)",                                                                      O_WHOLE, offsetof(struct options,     n)},
    { "half",  "1|2",            "only one half of each set's sources",                                                                      O_WHOLE, offsetof(struct options,  half)},
    { "out", "FILE",                     "the weights to write, as C",                                                                       O_TEXT, offsetof(struct options,   out)},
    { "seed",    "N",                       "of the edits (default 1)",                                                                      O_WHOLE, offsetof(struct options,  seed)},
    { "quiet",   NULL,                                    "no progress",                                                                       O_FLAG, offsetof(struct options, quiet)},
};

int train_doubts(int argc, char **argv)
{
    struct options o = {.command = "train doubts", .seed = 1, .n = 4000};
    int code = options_read(&o, rows_help, sizeof rows_help / sizeof *rows_help, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print("train doubts --set DIR [--set DIR ...] --out FILE [options]",
                      "Fits the confidences of the grounding checker's doubts to single edits.", rows_help,
                      sizeof rows_help / sizeof *rows_help, stdout);
        return finish_output(&o);
    }
    size_t n_sets = o.n_conf + (o.base != NULL);
    if (!n_sets || n_sets > SETS_MAX || !o.out || o.half > 2)
        return tell(&o, USAGE, "1 to %u --set DIR or --edits DIR, and --out FILE; --help says more",
                    SETS_MAX);
    run_watch();
    struct cairn_why why = {0};
    struct reading *d = cairn_calloc(1, sizeof *d);
    enum cairn_err err = d ? CAIRN_OK : cairn_fail(&why, CAIRN_ENOMEM, "rows");
    for (size_t i = 0; i < n_sets && !err; i++) {
        struct ground_set s = {0};
        size_t clean;
        d->set = (uint8_t)i;
        err = i < o.n_conf ? ground_set_read(&s, o.conf[i], &why)
                           : edits_of_passages(&s, o.base, o.n, o.seed, &why);
        if (!err && o.half)
            ground_set_half(&s, o.half);
        if (!err)
            err = edit_cases(&o, &s, NULL, read_case, d, &clean, &why);
        ground_set_release(&s);
    }
    double w[DOUBT_N][DX_N];
    if (!err) {
        weigh(d, n_sets);
        for (uint8_t g = 0; g < DOUBT_N; g++) {
            size_t n[2] = {0, 0};
            for (size_t i = 0; i < d->n; i++)
                if (d->r[i].grade == g)
                    n[d->r[i].right]++;
            fit_grade(d, g, w[g]);
            printf("%-12s %8zu right %8zu false\n", grade_names[g], n[1], n[0]);
        }
        err = write_weights(&o, w, &why);
    }
    if (d)
        cairn_free(d->r);
    cairn_free(d);
    return err ? tell_err(&o, err, &why) : finish_output(&o);
}
