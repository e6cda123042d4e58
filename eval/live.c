/* eval/live.c - eval.run: judged queries (search) or questions (ask) against a collection of a running
 * service. What is not ours goes on to the method as it is, so that its own checks, defaults and warnings
 * apply. */
#include "records.h"

#include <stdlib.h>
#include <string.h>

#define UNITS_MAX 2000u
#define DRAWS 1000u
#define WARNINGS_MAX 16u

struct live {
    struct service *s;
    struct api_caller me;
    const struct cairn_stop *stop;
    json_t *rest;     /* parameters of each call */
    json_t *warnings; /* of the calls, each once */
    struct records rec;
};

static void take_warnings(struct live *x, const json_t *result)
{
    const json_t *list = json_object_get(result, "warnings");
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *w = json_array_get(list, i);
        bool known = json_array_size(x->warnings) >= WARNINGS_MAX;
        for (size_t k = 0; k < json_array_size(x->warnings) && !known; k++)
            known = json_equal(json_array_get(x->warnings, k), w);
        if (!known)
            json_array_append(x->warnings, w);
    }
}

static enum cairn_err ask(struct live *x, const char *method, const char *key, json_t *value, json_t **result,
                          struct cairn_why *why)
{
    struct cairn_buf packed, answer, text;
    json_t *p = json_copy(x->rest);
    *result = NULL;
    cairn_buf_init(&packed, 0);
    cairn_buf_init(&answer, 0);
    cairn_buf_init(&text, 0);
    if (p)
        json_object_set(p, key, value);
    char *dumped = p ? json_dumps(p, JSON_COMPACT) : NULL;
    enum cairn_err err = dumped ? api_json_to_msgpack(dumped, strlen(dumped), &packed, why)
                                : cairn_fail(why, CAIRN_ENOMEM, "%s", method);
    free(dumped); /* jansson's */
    json_decref(p);
    if (!err)
        err = service_call(x->s, &x->me, method, packed.bytes, packed.len, NULL, x->stop, &answer, why);
    if (!err)
        err = api_msgpack_to_json(answer.bytes, answer.len, false, &text, why);
    if (!err && !(*result = json_loadb(text.bytes, text.len, JSON_ALLOW_NUL, NULL)))
        err = cairn_fail(why, CAIRN_ENOMEM, "result of %s", method);
    take_warnings(x, *result);
    cairn_buf_release(&packed);
    cairn_buf_release(&answer);
    cairn_buf_release(&text);
    return err;
}

static enum cairn_err add_judged(struct eval_qrels *q, const char *unit, const json_t *relevant,
                                 struct cairn_why *why)
{
    const char *doc;
    json_t *grade;
    enum cairn_err err = CAIRN_OK;
    if (json_is_array(relevant))
        for (size_t i = 0; i < json_array_size(relevant) && !err; i++) {
            doc = json_string_value(json_array_get(relevant, i));
            err = doc ? eval_qrels_add(q, unit, doc, 1, why)
                      : cairn_fail(why, CAIRN_EINVAL, "param queries[%s].relevant: a document's id is text",
                                   unit);
        }
    else if (json_is_object(relevant))
        json_object_foreach((json_t *)(uintptr_t)relevant, doc, grade)
        {
            json_int_t g = json_integer_value(grade);
            if (!err && (!json_is_integer(grade) || g < -1000000 || g > 1000000))
                err = cairn_fail(why, CAIRN_EINVAL, "param queries[%s].relevant: a grade is a whole number",
                                 unit);
            if (!err)
                err = eval_qrels_add(q, unit, doc, (int)g, why);
        }
    else
        err = cairn_fail(why, CAIRN_EINVAL, "param queries[%s].relevant: want {ID: grade} or a list of ids",
                         unit);
    return err;
}

/* A document counts at its best passage. */
static enum cairn_err add_hits(struct eval_run *r, const char *unit, const json_t *hits,
                               struct cairn_why *why)
{
    enum cairn_err err = eval_run_add(r, unit, NULL, 0, why);
    for (size_t i = 0; i < json_array_size(hits) && !err; i++) {
        const char *id = text_of(json_array_get(hits, i), "document_id");
        bool seen = !id;
        for (size_t k = 0; k < i && !seen; k++) {
            const char *other = text_of(json_array_get(hits, k), "document_id");
            seen = other && strcmp(other, id) == 0;
        }
        if (!seen) /* the order is the service's: scores may tie */
            err = eval_run_add(r, unit, id, -(double)i, why);
    }
    return err;
}

struct taking {
    struct eval_measure m[64];
    char names[64][24];
    size_t n;
    struct records *to;
    enum cairn_err err;
    struct cairn_why *why;
};
static void take(void *ctx, const char *query, const double *values)
{
    struct taking *t = ctx;
    for (size_t i = 0; i < t->n && !t->err; i++)
        t->err = records_add(t->to, query, t->names[i], values[i], t->why);
}

static enum cairn_err run_queries(struct live *x, const json_t *queries, const json_t *measures,
                                  struct cairn_why *why)
{
    struct eval_qrels q = {0};
    struct eval_run r = {0};
    struct taking *t = cairn_calloc(1, sizeof *t);
    enum cairn_err err = t ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "measures");
    static const char *const defaults[] = {"ndcg@10", "recall@10", "mrr@10"};
    size_t n = json_array_size(measures);
    for (size_t i = 0; i < (n ? n : 3) && !err; i++) {
        const char *name = n ? json_string_value(json_array_get(measures, i)) : defaults[i];
        if (!name || strlen(name) >= sizeof t->names[0] || t->n == 64)
            err = cairn_fail(why, CAIRN_EINVAL, "param measures: at most 64 names, as \"ndcg@10\"");
        else if (!(err = eval_measure_parse(&t->m[t->n], name, why)))
            snprintf(t->names[t->n++], sizeof t->names[0], "%s", name);
    }
    for (size_t i = 0; i < json_array_size(queries) && !err; i++) {
        const json_t *o = json_array_get(queries, i);
        char unit[24];
        json_t *result = NULL;
        snprintf(unit, sizeof unit, "%zu", i);
        if (!text_of(o, "query"))
            err = cairn_fail(why, CAIRN_EINVAL, "param queries[%zu]: want {query, relevant}", i);
        if (!err)
            err = add_judged(&q, unit, json_object_get(o, "relevant"), why);
        if (!err)
            err = ask(x, "search", "query", json_object_get(o, "query"), &result, why);
        if (!err)
            err = add_hits(&r, unit, json_object_get(result, "hits"), why);
        json_decref(result);
    }
    if (!err)
        err = eval_qrels_finish(&q, why);
    if (!err)
        err = eval_run_finish(&r, why);
    if (!err) {
        double mean[64];
        t->to = &x->rec;
        t->why = why;
        eval_means(&q, &r, t->m, t->n, EVAL_ALL, mean, NULL, take, t);
        err = t->err;
    }
    cairn_free(t);
    eval_qrels_release(&q);
    eval_run_release(&r);
    return err;
}

static enum cairn_err run_questions(struct live *x, const json_t *questions, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < json_array_size(questions) && !err; i++) {
        const json_t *o = json_array_get(questions, i), *gold = json_object_get(o, "answers"),
                     *flag = json_object_get(o, "answerable");
        const char **golds = cairn_calloc(json_array_size(gold), sizeof *golds);
        bool answerable = flag ? json_is_true(flag) : json_array_size(gold) > 0;
        size_t n = 0;
        char unit[24];
        json_t *result = NULL;
        struct eval_answer_score score = {0};
        snprintf(unit, sizeof unit, "%zu", i);
        if (!golds)
            err = cairn_fail(why, CAIRN_ENOMEM, "answers");
        for (size_t k = 0; k < json_array_size(gold) && !err; k++)
            if (json_is_string(json_array_get(gold, k)))
                golds[n++] = json_string_value(json_array_get(gold, k));
        if (!err && (!text_of(o, "question") || (answerable && !n)))
            err = cairn_fail(why, CAIRN_EINVAL, "param questions[%zu]: want {question, answers, answerable}",
                             i);
        if (!err)
            err = ask(x, "ask", "question", json_object_get(o, "question"), &result, why);
        bool refused = json_is_object(json_object_get(result, "refusal"));
        if (!err) {
            char *plain = answer_without_marks(refused ? "" : text_of(result, "text"));
            err = plain ? eval_answer(answerable ? golds : NULL, answerable ? n : 0, plain, &score, why)
                        : cairn_fail(why, CAIRN_ENOMEM, "answer");
            cairn_free(plain);
        }
        if (!err && answerable) {
            if (!(err = records_add(&x->rec, unit, "f1", score.f1, why)) &&
                !(err = records_add(&x->rec, unit, "em", score.exact, why)) &&
                !(err = records_add(&x->rec, unit, "contains", score.contains, why)))
                err = records_add(&x->rec, unit, "wrong_refusals", refused, why);
        } else if (!err) {
            err = records_add(&x->rec, unit, "refusal_accuracy", refused, why);
        }
        json_decref(result);
        cairn_free(golds);
    }
    return err;
}

/* {n, metrics: {NAME: mean}, intervals: {NAME: [low, high]}}, and warnings when there are any */
static enum cairn_err put_result(const struct live *x, size_t n, struct cairn_buf *result,
                                 struct cairn_why *why)
{
    json_t *intervals = NULL, *metrics = json_object();
    enum cairn_err err = records_intervals(&x->rec, DRAWS, 0, &intervals, why);
    for (size_t i = 0; i < x->rec.n && !err;) {
        size_t from = i;
        double sum = 0;
        for (; i < x->rec.n && strcmp(x->rec.rows[i].name, x->rec.rows[from].name) == 0; i++)
            sum += x->rec.rows[i].value;
        json_object_set_new(metrics, x->rec.rows[from].name, json_real(sum / (double)(i - from)));
    }
    json_t *v =
        err ? NULL
            : json_pack("{s:I, s:O, s:O}", "n", (json_int_t)n, "metrics", metrics, "intervals", intervals);
    if (v && json_array_size(x->warnings))
        json_object_set(v, "warnings", x->warnings);
    char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
    if (!err)
        err = text ? api_json_to_msgpack(text, strlen(text), result, why)
                   : cairn_fail(why, CAIRN_ENOMEM, "result");
    free(text); /* jansson's */
    json_decref(v);
    json_decref(metrics);
    json_decref(intervals);
    return err;
}

enum cairn_err eval_live(struct service *s, const struct api_caller *me, const void *params,
                         size_t params_len, const struct cairn_stop *stop, struct cairn_buf *result,
                         struct cairn_why *why)
{
    struct cairn_buf text;
    cairn_buf_init(&text, (size_t)1 << 30);
    enum cairn_err err = api_msgpack_to_json(params, params_len, false, &text, why);
    json_t *p = err ? NULL : json_loadb(text.bytes, text.len, JSON_ALLOW_NUL, NULL);
    cairn_buf_release(&text);
    if (!err && !json_is_object(p))
        err = cairn_fail(why, CAIRN_EINVAL, "eval.run: parameters are a map");
    struct live x = {.s = s, .me = *me, .stop = stop, .rest = p, .warnings = json_array()};
    x.me.judging = true;
    json_t *queries = json_incref(json_object_get(p, "queries")),
           *questions = json_incref(json_object_get(p, "questions")),
           *measures = json_incref(json_object_get(p, "measures"));
    size_t n = json_array_size(queries) + json_array_size(questions);
    if (!err && (json_is_array(queries) == json_is_array(questions) || !n || n > UNITS_MAX))
        err = cairn_fail(why, CAIRN_EINVAL, "eval.run wants either queries or questions, 1 to %u of them",
                         UNITS_MAX);
    if (!err && measures && !json_is_null(measures) && (questions || !json_array_size(measures)))
        err = questions
                  ? cairn_fail(why, CAIRN_EINVAL,
                               "param measures: of queries; questions give f1, em, contains and refusals")
                  : cairn_fail(why, CAIRN_EINVAL, "param measures: want names, as [\"ndcg@10\"]");
    static const char *const ours[] = {"queries", "questions", "measures", "deadline_ms"};
    for (size_t i = 0; i < sizeof ours / sizeof ours[0] && !err; i++)
        json_object_del(p, ours[i]);
    if (!err)
        err = queries ? run_queries(&x, queries, measures, why) : run_questions(&x, questions, why);
    if (!err)
        err = records_finish(&x.rec, why);
    if (!err)
        err = put_result(&x, n, result, why);
    records_release(&x.rec);
    json_decref(queries);
    json_decref(questions);
    json_decref(measures);
    json_decref(x.warnings);
    json_decref(p);
    return err;
}
