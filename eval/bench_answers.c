/* eval/bench_answers.c - `cairn bench answers`: how soon an answer begins and how fast it is written, on
 * judged questions with about a thousand tokens of sources. Each question is asked twice, so that the second
 * prompt finds the first one computed; then once more in a service that guesses nothing. Texts are compared:
 * a draft must change none. Greedy. */
#include "run.h"

#include <stdlib.h>
#include <string.h>

#define COLLECTION "bench"

enum { ANSWERED_MAX = 256, TOKENS_MAX = 96 };

struct sums {
    double first[ANSWERED_MAX], prefill[ANSWERED_MAX];
    size_t n;
    double prompt, cached, written, decode_ms, drafted, accepted;
};
struct asked {
    struct sums cold, again, plain;
    char *text[ANSWERED_MAX]; /* OWNED, of the cold ones */
    size_t question[ANSWERED_MAX], n, n_asked, same;
};
static double number(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }

/* *answer is NULL when it is a refusal. */
static enum cairn_err ask(struct bench_service *b, const struct options *o, const char *question,
                          struct sums *sums, json_t **answer, struct cairn_why *why)
{
    json_t *a = NULL;
    *answer = NULL;
    enum cairn_err err = lab_call(b, o, "ask",
                                  json_pack("{s:s, s:s, s:s, s:[s], s:i, s:i}", "collection", COLLECTION,
                                            "question", question, "mode", "generate", "principals",
                                            "everyone", "max_tokens", (int)TOKENS_MAX, "k", 16),
                                  false, &a, why);
    if (err)
        return err;
    const json_t *t = json_object_get(a, "timings_ms"), *u = json_object_get(a, "usage");
    if (number(u, "completion_tokens") == 0) {
        json_decref(a);
        return CAIRN_OK;
    }
    sums->prefill[sums->n] = number(t, "prefill");
    sums->first[sums->n++] = number(t, "retrieve") + number(t, "first_token");
    sums->prompt += number(u, "prompt_tokens");
    sums->cached += number(u, "cached_tokens");
    sums->written += number(u, "completion_tokens") - 1; /* the first one is the prompt's */
    sums->decode_ms += number(t, "decode");
    sums->drafted += number(u, "drafted_tokens");
    sums->accepted += number(u, "accepted_tokens");
    *answer = a;
    return CAIRN_OK;
}

static void put_sums(json_t *to, const char *name, struct sums *s)
{
    json_t *o = json_object();
    json_put(o, "first_token_ms_p50", quantile(s->first, s->n, 0.5)); /* from the question: search included */
    json_put(o, "prefill_ms_p50", quantile(s->prefill, s->n, 0.5));
    json_put(o, "prompt_tokens_mean", s->prompt / (double)s->n);
    json_put(o, "cached_tokens_mean", s->cached / (double)s->n);
    json_put(o, "completion_tokens_mean", s->written / (double)s->n + 1);
    json_put(o, "decode_tokens_per_s", s->written / s->decode_ms * 1e3);
    json_put(o, "drafted", s->drafted);
    json_put(o, "accepted", s->accepted);
    (void)json_object_set_new(to, name, o);
}

static enum cairn_err open_service(struct bench_service *b, const struct options *o, const char *dir,
                                   const char *kb, struct cairn_why *why)
{
    json_t *r = NULL;
    enum cairn_err err = lab_open(b, o, dir, true, why);
    if (!err)
        err = lab_call(b, o, "doc.sync",
                       json_pack("{s:s, s:s, s:b}", "collection", COLLECTION, "path", kb, "create", 1), true,
                       &r, why);
    if (!err)
        json_decref(r);
    return err;
}

static enum cairn_err ask_guessing(const struct options *o, const char *dir, const char *kb,
                                   const struct texts *q, size_t want, struct asked *x, struct cairn_why *why)
{
    struct bench_service b = {0};
    enum cairn_err err = open_service(&b, o, dir, kb, why);
    for (size_t i = 0; i < q->n && x->n < want && !err; i++) {
        json_t *a = NULL, *more = NULL;
        size_t at = i * 37 % q->n; /* of all kinds; 37 is prime */
        progress(o, "answers", x->n, want);
        err = ask(&b, o, q->v[at], &x->cold, &a, why);
        x->n_asked += !err;
        if (!err && a) {
            const char *text = text_of(a, "text");
            x->question[x->n] = at;
            x->text[x->n] = cairn_strdup(text ? text : "");
            err = x->text[x->n++] ? ask(&b, o, q->v[at], &x->again, &more, why)
                                  : cairn_fail(why, CAIRN_ENOMEM, "answer");
        }
        json_decref(a);
        json_decref(more);
    }
    lab_close(&b);
    return err;
}

static enum cairn_err ask_plainly(const struct options *o, const char *dir, const char *kb,
                                  const struct texts *q, struct asked *x, struct cairn_why *why)
{
    struct bench_service b = {0};
    struct options plain = *o;
    if (plain.n_conf == CONF_MAX)
        return cairn_fail(why, CAIRN_EFULL, "--conf: at most %u", CONF_MAX - 1);
    plain.conf[plain.n_conf++] = "generator.draft_max=0";
    enum cairn_err err = open_service(&b, &plain, dir, kb, why);
    for (size_t i = 0; i < x->n && !err; i++) {
        json_t *a = NULL;
        progress(o, "without drafts", i, x->n);
        err = ask(&b, &plain, q->v[x->question[i]], &x->plain, &a, why);
        const char *text = a ? text_of(a, "text") : NULL;
        x->same += text && strcmp(text, x->text[i]) == 0;
        json_decref(a);
    }
    lab_close(&b);
    return err;
}

static const struct option_row rows[] = {
    {"kb",     "DIR", "documents to ask, questions.jsonl beside it (default data/kb)", O_TEXT,
     offsetof(struct options,                                                                                            kb)    },
    {"data",   "DIR", "where the store is kept (default ~/.cache/cairn/eval)",         O_TEXT,
     offsetof(struct options,                                                                                            data)  },
    {"sample", "N",   "questions that are answered (default 8)",                       O_WHOLE, offsetof(struct options, sample)},
    OPTIONS_MODELS,
    OPTIONS_RERANKER,
    OPTIONS_GENERATOR,
    OPTIONS_RUN,
};
#define N_ROWS (sizeof rows / sizeof rows[0])

int bench_answers(int argc, char **argv)
{
    struct options o = {.command = "bench answers", .rerank_weight = -1, .sample = 8};
    struct cairn_why why = {{0}};
    int code = options_read(&o, rows, N_ROWS, argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print("bench answers [options]",
                      "Time to the first token, cold and when asked again, and tokens a "
                      "second with and without drafts, with about 1,000 tokens of sources.",
                      rows, N_ROWS, stdout);
        return finish_output(&o);
    }
    /* what the user sets comes later and wins */
    if (o.n_conf + 2 > CONF_MAX)
        return tell(&o, USAGE, "--conf may be given at most %u times", CONF_MAX - 2);
    memmove(o.conf + 2, o.conf, o.n_conf * sizeof *o.conf);
    o.conf[0] = "generator.context_tokens=1000";
    o.conf[1] = "generator.sources_max=16";
    o.n_conf += 2;
    const char *kb = o.kb ? o.kb : "data/kb";
    char *dir = lab_dir(&o, "bench-answers", (const char *const[]){kb, NULL}),
         *path = cairn_asprintf("%s/../questions.jsonl", kb);
    struct texts q = {0};
    struct asked *x = cairn_calloc(1, sizeof *x);
    size_t want = o.sample && o.sample < ANSWERED_MAX ? (size_t)o.sample : ANSWERED_MAX;
    run_watch();
    enum cairn_err err = dir && path && x ? CAIRN_OK : cairn_fail(&why, CAIRN_ENOMEM, "paths");
    if (!err)
        err = questions_read(&q, path, &why);
    if (!err)
        err = ask_guessing(&o, dir, kb, &q, want, x, &why);
    if (!err)
        err = ask_plainly(&o, dir, kb, &q, x, &why);
    progress_clear();
    if (err) {
        code = tell_err(&o, err, &why);
    } else {
        json_t *out = json_object();
        json_put(out, "asked", (double)x->n_asked);
        json_put(out, "answered", (double)x->n);
        json_put(out, "same_text_without_drafts", (double)x->same);
        put_sums(out, "cold", &x->cold);
        put_sums(out, "again", &x->again);
        put_sums(out, "without_drafts", &x->plain);
        code = print_json(&o, out);
        json_decref(out);
    }
    for (size_t i = 0; x && i < x->n; i++)
        cairn_free(x->text[i]);
    texts_free(&q);
    cairn_free(x);
    cairn_free(dir);
    cairn_free(path);
    return code;
}
