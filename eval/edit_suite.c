/* eval/edit_suite.c - `cairn eval grounding --suite edits`: one edit in a sentence that people found
 * supported.
 *
 * Every claim of the set's clean texts is scored as it stands; then, of each text and kind of edit, one
 * sentence that has something of the kind is edited and scored in its place. The cut-off of a fold of sources
 * is the lowest at which at most 2 % of the untouched claims of the other four folds alarm; what is told is
 * the share of edited ones that reach it, and the false alarms that the untouched ones of the fold itself
 * give. Two alarms are told apart. `any` is what the service acts on, the lack of support or the
 * contradiction. `typed` asks what the kind's own check says: the confidence of its flag (a value's for
 * numbers, dates and units, a name's, a negation's, ...), 0 without; its cut-off is the same kind of 2 %.
 * `named` is the share of edits under whose changed bytes stands a flag that says what is wrong. */
#include "edits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FALSE_ALARMS 0.02

enum family { F_VALUE, F_NAME, F_NEGATION, F_QUANTITY, F_DIRECTION, F_BINDING, F_N };
static const uint8_t family_of[EDIT_N] = {
    [EDIT_NUMBER] = F_VALUE, [EDIT_DATE] = F_VALUE,         [EDIT_UNIT] = F_VALUE,
    [EDIT_NAME] = F_NAME,    [EDIT_NEGATION] = F_NEGATION,  [EDIT_QUANTIFIER] = F_QUANTITY,
    [EDIT_SWAP] = F_BINDING, [EDIT_OPPOSITE] = F_DIRECTION, [EDIT_MODAL] = F_QUANTITY,
    [EDIT_WORD] = F_N,       [EDIT_SENTENCE] = F_N,
};
static int family_of_flag(const struct ground_flag *f)
{
    static const struct {
        const char *kind;
        int family;
    } list[] = {
        {"number",     F_VALUE    },
        {"date",       F_VALUE    },
        {"time",       F_VALUE    },
        {"identifier", F_VALUE    },
        {"name",       F_NAME     },
        {"negation",   F_NEGATION },
        {"quantifier", F_QUANTITY },
        {"direction",  F_DIRECTION},
        {"binding",    F_BINDING  },
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (strcmp(f->kind, list[i].kind) == 0)
            return list[i].family;
    return F_N;
}

struct scored {
    double score[F_N + 1]; /* by family where its flag stands; last: any */
    uint32_t source;
    uint8_t kind; /* EDIT_N: untouched */
    bool named;
};
struct scores {
    struct scored *r;
    size_t n, cap;
};

static enum cairn_err keep(struct scores *s, struct scored x, struct cairn_why *why)
{
    if (!eval_grow((void **)&s->r, &s->cap, s->n + 1, sizeof *s->r))
        return cairn_fail(why, CAIRN_ENOMEM, "scores");
    s->r[s->n++] = x;
    return CAIRN_OK;
}

static void alarms_of(const struct ground_sentence *s, double out[F_N + 1])
{
    double any = s->verdict == VERDICT_NO_CLAIM ? 0 : fmax(1 - (double)s->score, (double)s->contradiction);
    for (int f = 0; f < F_N; f++)
        out[f] = 0;
    out[F_N] = any;
    for (size_t i = 0; i < s->n_flags; i++) {
        int f = family_of_flag(&s->flags[i]);
        double sure = (double)s->flags[i].confidence;
        if (f < F_N)
            out[f] = fmax(out[f], sure);
        if (f == F_VALUE && s->flags[i].contradiction) /* a value of another place */
            out[F_BINDING] = fmax(out[F_BINDING], sure);
    }
}

struct bench_text {
    const struct ground_set *set;
    const struct judged_text *t;
    struct grounding *g;
    struct cairn_str source, stranger;
    uint64_t state;
    struct cairn_buf edited, whole;
    edit_case_fn fn;
    void *ctx;
};

/* One edit of the kind, in the first sentence from a drawn one that allows it. */
static enum cairn_err try_kind(struct bench_text *b, const struct cairn_span *spans, size_t n, uint8_t kind,
                               struct cairn_why *why)
{
    const char *text = b->t->text;
    size_t from = n ? (size_t)(lab_rand(&b->state) % n) : 0, len = strlen(text);
    for (size_t i = 0; i < n; i++) {
        struct cairn_span x = spans[(from + i) % n];
        struct cairn_str s = {text + x.start, x.end - x.start};
        size_t start, end;
        if (!edit_make((enum edit_kind)kind, s, b->source, b->stranger, &b->state, &b->edited, &start, &end))
            continue;
        cairn_buf_clear(&b->whole);
        if (!cairn_buf_put(&b->whole, text, x.start) ||
            !cairn_buf_put(&b->whole, b->edited.bytes, b->edited.len) ||
            !cairn_buf_put(&b->whole, text + x.end, len - x.end))
            return cairn_fail(why, CAIRN_ENOMEM, "edited text");
        struct edit_case c = {
            .set = b->set,
            .t = b->t,
            .g = b->g,
            .text = {(const char *)b->whole.bytes, b->whole.len},
            .kind = kind,
            .start = x.start + start,
            .end = x.start + end
        };
        enum cairn_err err = grounding_check(b->g, c.text, x.start, x.start + b->edited.len, &c.says, why);
        return err ? err : b->fn(b->ctx, &c, why);
    }
    return CAIRN_OK;
}

static enum cairn_err one_text(struct bench_text *b, struct cairn_why *why)
{
    struct edit_case c = {
        .set = b->set, .t = b->t, .g = b->g, .text = cairn_str_of(b->t->text), .kind = EDIT_N};
    struct cairn_span spans[256];
    size_t n = cairn_sentences(c.text, spans, 256), claims = 0;
    n = n > 256 ? 256 : n;
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < n && !err; i++) {
        err = grounding_check(b->g, c.text, spans[i].start, spans[i].end, &c.says, why);
        if (err || c.says.verdict == VERDICT_NO_CLAIM)
            continue;
        spans[claims++] = spans[i];
        err = b->fn(b->ctx, &c, why);
    }
    for (uint8_t k = 0; k < EDIT_N && !err; k++)
        err = try_kind(b, spans, claims, k, why);
    return err;
}

enum cairn_err edit_cases(const struct options *o, struct ground_set *s, const struct ground_combiner *m,
                          edit_case_fn fn, void *ctx, size_t *clean, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    *clean = 0;
    for (size_t i = 0; i < s->n_texts && !err; i++) {
        struct bench_text b = {.set = s, .t = &s->texts[i], .fn = fn, .ctx = ctx};
        /* drawn by the text alone, so that a half of the set has the edits that the whole has */
        b.state = (o->seed * 0x9E3779B97F4A7C15ULL + 7) ^ cairn_xxh64(b.t->text, strlen(b.t->text), o->seed);
        b.state += !b.state;
        const struct text_source *src = &s->sources[b.t->source],
                                 *other = &s->sources[(b.t->source + (s->n_sources + 1) / 2) % s->n_sources];
        progress(o, "editing", i + 1, s->n_texts);
        if (b.t->positive || !other->n || !src->n)
            continue;
        ++*clean;
        struct cairn_buf joined;
        cairn_buf_init(&b.edited, 0);
        cairn_buf_init(&b.whole, 0);
        cairn_buf_init(&joined, 0);
        for (size_t k = 0; k < src->n && !err; k++)
            if (!cairn_buf_puts(&joined, src->pieces[k]) || !cairn_buf_puts(&joined, "\n"))
                err = cairn_fail(why, CAIRN_ENOMEM, "passages");
        b.source = (struct cairn_str){(const char *)joined.bytes, joined.len};
        b.stranger = cairn_str_of(other->pieces[0]);
        if (!err)
            err = cairn_stopped(&run_stop, why);
        if (!err)
            err = ground_set_open(&b.g, s, i, b.t->source, m, why);
        if (!err)
            err = one_text(&b, why);
        grounding_close(b.g);
        cairn_buf_release(&b.edited);
        cairn_buf_release(&b.whole);
        cairn_buf_release(&joined);
    }
    progress_clear();
    return err;
}

struct suite {
    struct scores all;
    FILE *lines; /* NULL: none */
};

/* A line of --out: the claim as it was scored, what each alarm says of it, and the flags. */
static enum cairn_err tell_case(FILE *to, const struct edit_case *c, const struct scored *row,
                                struct cairn_why *why)
{
    static const char *const families[F_N + 1] = {"value",     "name",    "negation", "quantifier",
                                                  "direction", "binding", "any"};
    const struct ground_sentence *r = &c->says;
    json_t *v = json_pack("{s:s, s:s, s:s%}", "kind", c->kind < EDIT_N ? edit_names[c->kind] : "untouched",
                          "source", c->set->sources[c->t->source].key, "text", c->text.p + r->start,
                          r->end - r->start),
           *flags = json_array();
    for (int f = 0; f <= F_N; f++)
        json_object_set_new(v, families[f], json_real(row->score[f]));
    for (size_t i = 0; i < r->n_flags; i++)
        json_array_append_new(flags,
                              json_pack("{s:s, s:s%, s:f, s:b}", "kind", r->flags[i].kind, "text",
                                        c->text.p + r->flags[i].start, r->flags[i].end - r->flags[i].start,
                                        "confidence", (double)r->flags[i].confidence, "contradiction",
                                        (int)r->flags[i].contradiction));
    json_object_set_new(v, "named", json_boolean(row->named));
    json_object_set_new(v, "flags", flags);
    bool ok = v && json_dumpf(v, to, JSON_COMPACT | JSON_PRESERVE_ORDER) == 0 && fputc('\n', to) != EOF;
    json_decref(v);
    return ok ? CAIRN_OK : cairn_fail(why, CAIRN_EIO, "line of --out");
}

static enum cairn_err score_case(void *ctx, const struct edit_case *c, struct cairn_why *why)
{
    struct suite *u = ctx;
    struct scored row = {.source = c->t->source, .kind = c->kind};
    alarms_of(&c->says, row.score);
    bool gone = c->end == c->start;
    for (size_t k = 0; k < c->says.n_flags && c->kind < EDIT_N; k++) {
        const struct ground_flag *f = &c->says.flags[k];
        row.named = row.named || (strcmp(f->kind, "verbatim") != 0 && strcmp(f->kind, "coverage") != 0 &&
                                  f->start < c->end + gone && f->end + gone > c->start);
    }
    enum cairn_err err = u->lines ? tell_case(u->lines, c, &row, why) : CAIRN_OK;
    return err ? err : keep(&u->all, row, why);
}

static int by_fall(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Lowest cut-off with at most 2 % of the untouched ones outside the fold at or above it. */
static double cut_off(const struct scores *s, const uint8_t *fold, uint8_t out, int family, double *room)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++)
        if (s->r[i].kind == EDIT_N && fold[s->r[i].source] != out)
            room[n++] = s->r[i].score[family];
    qsort(room, n, sizeof *room, by_fall);
    size_t most = (size_t)(FALSE_ALARMS * (double)n);
    return n ? nextafter(room[most < n ? most : n - 1], INFINITY) : INFINITY;
}

static double share(size_t part, size_t of) { return of ? (double)part / (double)of : 0; }

int edit_suite(const struct options *o, struct ground_set *s, const struct ground_combiner *m)
{
    struct cairn_why why = {0};
    struct suite u = {0};
    size_t clean = 0;
    s->encoder_claims_max = SIZE_MAX; /* each claim is a question of its own here */
    uint8_t *fold = cairn_calloc(s->n_sources, sizeof *fold);
    enum cairn_err err =
        fold ? gm_folds(fold, s->n_sources, o->seed, &why) : cairn_fail(&why, CAIRN_ENOMEM, "folds");
    u.lines = o->out && !err ? fopen(o->out, "w") : NULL;
    if (o->out && !err && !u.lines)
        err = cairn_fail(&why, CAIRN_EIO, "%s cannot be written", o->out);
    if (!err)
        err = edit_cases(o, s, m, score_case, &u, &clean, &why);
    if (u.lines && fclose(u.lines) != 0 && !err)
        err = cairn_fail(&why, CAIRN_EIO, "%s: what was written may be lost", o->out);
    struct scores all = u.all;
    double *room = err ? NULL : cairn_reallocarray(NULL, all.n + 1, sizeof *room);
    if (!err && !room)
        err = cairn_fail(&why, CAIRN_ENOMEM, "scores");
    int code = DONE;
    size_t n[EDIT_N + 1] = {0}, hit[EDIT_N + 1] = {0}, typed[EDIT_N] = {0}, false_typed[F_N + 1] = {0},
                      named[EDIT_N + 1] = {0};
    for (uint8_t f = 0; f < GM_FOLDS && !err; f++) {
        double cut[F_N + 1];
        for (int k = 0; k <= F_N; k++)
            cut[k] = cut_off(&all, fold, f, k, room);
        for (size_t i = 0; i < all.n; i++) {
            const struct scored *r = &all.r[i];
            if (fold[r->source] != f)
                continue;
            n[r->kind]++;
            hit[r->kind] += r->score[F_N] >= cut[F_N];
            named[r->kind] += r->named;
            if (r->kind < EDIT_N)
                typed[r->kind] += r->score[family_of[r->kind]] >= cut[family_of[r->kind]];
            for (int k = 0; k <= F_N && r->kind == EDIT_N; k++)
                false_typed[k] += r->score[k] >= cut[k];
        }
    }
    if (err) {
        code = tell_err(o, err, &why);
    } else if (o->json) {
        json_t *v = json_object();
        for (size_t k = 0; k < EDIT_N; k++)
            json_object_set_new(v, edit_names[k],
                                json_pack("{s:i, s:f, s:f, s:f, s:f}", "n", (int)n[k], "any",
                                          share(hit[k], n[k]), "typed", share(typed[k], n[k]),
                                          "typed_false_alarms", share(false_typed[family_of[k]], n[EDIT_N]),
                                          "named", share(named[k], n[k])));
        json_object_set_new(
            v, "untouched",
            json_pack("{s:i, s:f}", "n", (int)n[EDIT_N], "any", share(hit[EDIT_N], n[EDIT_N])));
        code = print_json(o, v);
        json_decref(v);
    } else {
        printf(
            "single edits in %zu clean texts; cut-offs from the other four folds at %.0f %% false alarms\n\n"
            "%-12s %8s %8s %8s %12s %8s\n",
            clean, 100 * FALSE_ALARMS, "edit", "n", "any", "typed", "its alarms", "named");
        for (size_t k = 0; k < EDIT_N; k++)
            printf("%-12s %8zu %7.1f%% %7.1f%% %11.1f%% %7.1f%%\n", edit_names[k], n[k],
                   100 * share(hit[k], n[k]), 100 * share(typed[k], n[k]),
                   100 * share(false_typed[family_of[k]], n[EDIT_N]), 100 * share(named[k], n[k]));
        printf("%-12s %8zu %7.1f%%\n", "untouched", n[EDIT_N], 100 * share(hit[EDIT_N], n[EDIT_N]));
        code = finish_output(o);
    }
    cairn_free(room);
    cairn_free(fold);
    cairn_free(all.r);
    return code;
}

int extract_suite(const struct options *o, struct ground_set *s, const struct ground_combiner *m)
{
    enum { EXTRACTS = 1000 };
    struct cairn_why why = {0};
    uint64_t state = o->seed * 0x9E3779B97F4A7C15ULL + 3;
    size_t n = 0, claims = 0, flagged = 0;
    enum cairn_err err = CAIRN_OK;
    for (size_t tries = 0; n < EXTRACTS && tries < 100 * EXTRACTS && !err; tries++) {
        size_t i = (size_t)(lab_rand(&state) % s->n_texts);
        const struct text_source *src = &s->sources[s->texts[i].source];
        struct cairn_str piece = cairn_str_of(src->n ? src->pieces[(size_t)(lab_rand(&state) % src->n)] : "");
        struct cairn_span spans[256];
        size_t found = cairn_sentences(piece, spans, 256);
        found = found > 256 ? 256 : found;
        if (!found)
            continue;
        struct cairn_span x = spans[(size_t)(lab_rand(&state) % found)];
        if (x.end - x.start < 30 || x.end - x.start > 1000)
            continue;
        struct grounding *g = NULL;
        struct ground_sentence *list = NULL;
        size_t k = 0;
        err = cairn_stopped(&run_stop, &why);
        if (!err)
            err = ground_set_open(&g, s, i, s->texts[i].source, m, &why);
        if (!err)
            err = grounding_check_text(g, (struct cairn_str){piece.p + x.start, x.end - x.start}, &list, &k,
                                       NULL, &why);
        for (size_t q = 0; q < k && !err; q++) {
            claims += list[q].verdict != VERDICT_NO_CLAIM;
            flagged += list[q].verdict == VERDICT_UNSUPPORTED;
            if (list[q].verdict == VERDICT_UNSUPPORTED && !o->json)
                printf("flagged (%.2f): %.*s\n", (double)list[q].score, (int)(list[q].end - list[q].start),
                       piece.p + x.start + list[q].start);
        }
        n++;
        cairn_free(list);
        grounding_close(g);
    }
    if (err)
        return tell_err(o, err, &why);
    if (o->json) {
        json_t *v = json_pack("{s:i, s:i, s:i}", "n", (int)n, "claims", (int)claims, "flagged", (int)flagged);
        int code = print_json(o, v);
        json_decref(v);
        return code;
    }
    printf("%zu extracts, %zu claims, %zu flagged\n", n, claims, flagged);
    return finish_output(o);
}
