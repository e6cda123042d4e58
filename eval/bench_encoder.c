/* eval/bench_encoder.c - encoders of `cairn bench model`: texts of 128 tokens, a corpus of 10 to 250 tokens,
 * one query, pairs. Ours starts at the text, a peer at the token ids that our tokenizer made, so that
 * nobody's Python counts against it. How far vectors and logits are from a float64 forward over the same
 * weights is measured too, of ours and of the peer's int8. */
#include "bench_model.h"

#include <cairn/model.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TEXTS = 64, MIXED = 128, QUERIES = 200, JUDGED = 16, SHORT = 4, QUERY_TOKENS = 16, TOKENS = 128 };

struct corpus {
    const char *test;  /* NULL: none */
    char *text[MIXED]; /* OWNED */
    struct cairn_str views[MIXED];
    size_t n;
    json_t *ids, *types; /* OWNED */
};

struct encoder_side {
    struct encoder *e;
    bool pair;
    struct cairn_str query; /* of pairs */
    json_t *query_ids;      /* OWNED */
    const struct corpus *corpus;
    float *out;
};

static void corpus_release(struct corpus *c)
{
    for (size_t i = 0; i < c->n; i++)
        cairn_free(c->text[i]);
    json_decref(c->ids);
    json_decref(c->types);
}

static enum cairn_err put_ids(json_t *to, const struct encoder *e, struct cairn_str text, unsigned flags,
                              struct cairn_why *why)
{
    int32_t *ids = NULL;
    size_t n = 0;
    enum cairn_err err = tokenizer_encode(encoder_tokenizer(e), text, flags, &ids, &n, why);
    for (size_t i = 0; i < n && !err; i++)
        json_array_append_new(to, json_integer(ids[i]));
    cairn_free(ids);
    return err;
}

/* Words until there are n tokens; the last ones are such that are one token each. */
static enum cairn_err make_text(struct cairn_buf *b, const struct encoder *e, uint64_t *state, size_t n,
                                struct cairn_why *why)
{
    static const char *const words[] = {
        "the",     "of",         "and",       "in",     "for",      "server",      "passage", "index",
        "query",   "backup",     "restoring", "a",      "document", "permissions", "is",      "was",
        "which",   "evidence",   "reranker",  "tokens", "latency",  "two",         "1987",    "memory",
        "quickly", "unanswered", "by",        "not",    "with",     "checksum",    "letters", "river",
        "between", "neighbour",  "measured",  "as",     "under",    "generation",  "thread",  "snapshot",
    };
    json_t *ids = json_array();
    enum cairn_err err = CAIRN_OK;
    cairn_buf_clear(b);
    for (size_t have = 0; have < n && !err;) {
        const char *w = words[lab_rand(state) % (sizeof words / sizeof words[0])];
        json_array_clear(ids);
        err = put_ids(ids, e, cairn_str_of(w), TOKENIZE_PLAIN, why);
        size_t more = json_array_size(ids);
        if (have + more > n) {
            w = "the";
            more = 1;
        }
        cairn_buf_printf(b, "%s%s", have ? " " : "", w);
        have += more;
    }
    json_decref(ids);
    return err || !b->failed ? err : cairn_fail(why, CAIRN_ENOMEM, "text of %zu tokens", n);
}

/* n texts of between lo and hi tokens, the special ones counted; a text of a pair is behind the query. */
static enum cairn_err corpus_make(struct corpus *c, const struct encoder_side *m, const char *test, size_t n,
                                  size_t lo, size_t hi, struct cairn_why *why)
{
    const struct tokenizer *t = encoder_tokenizer(m->e);
    json_t *cls = json_integer(tokenizer_find(t, "[CLS]")), *sep = json_integer(tokenizer_find(t, "[SEP]"));
    uint64_t state = 0xc0ffee + lo;
    struct cairn_buf b;
    enum cairn_err err = CAIRN_OK;
    cairn_buf_init(&b, 1 << 16);
    *c = (struct corpus){.test = test, .ids = json_array(), .types = json_array()};
    size_t around = m->pair ? 3 + json_array_size(m->query_ids) : 2;
    while (c->n < n && !err) {
        json_t *ids = json_array(), *types = json_array();
        err = make_text(&b, m->e, &state, lo + lab_rand(&state) % (hi - lo + 1) - around, why);
        json_array_append(ids, cls);
        if (m->pair) {
            json_array_extend(ids, m->query_ids);
            json_array_append(ids, sep);
        }
        size_t second = m->pair ? json_array_size(ids) : SIZE_MAX;
        if (!err)
            err = put_ids(ids, m->e, (struct cairn_str){b.bytes, b.len}, TOKENIZE_PLAIN, why);
        json_array_append(ids, sep);
        for (size_t i = 0; i < json_array_size(ids); i++)
            json_array_append_new(types, json_integer(i >= second));
        json_array_append_new(c->ids, ids);
        json_array_append_new(c->types, types);
        if (!err && !(c->text[c->n] = cairn_strndup(b.bytes, b.len)))
            err = cairn_fail(why, CAIRN_ENOMEM, "texts");
        if (err)
            break;
        c->views[c->n] = (struct cairn_str){c->text[c->n], b.len};
        c->n++;
    }
    json_decref(cls);
    json_decref(sep);
    cairn_buf_release(&b);
    return err;
}

static enum cairn_err encoder_once(void *ctx, struct cairn_why *why)
{
    struct encoder_side *m = ctx;
    const struct corpus *c = m->corpus;
    return m->pair ? encoder_score_pairs(m->e, m->query, c->views, c->n, m->out, &run_stop, why)
                   : encoder_embed(m->e, c->views, c->n, m->out, &run_stop, why);
}

static enum cairn_err encoder_pass(struct model_bench *x, struct encoder_side *m, const struct corpus *all,
                                   size_t n, unsigned threads, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    double *ms = cairn_calloc(QUERIES, sizeof *ms);
    if (!ms)
        return cairn_fail(why, CAIRN_ENOMEM, "times");
    for (size_t i = 0; i < n && !err; i++) {
        double s, value;
        m->corpus = &all[i];
        if (!bench_wants(x, m->corpus->test))
            continue;
        progress(x->o, m->corpus->test, i, n);
        if (m->corpus->n > 1) {
            err = bench_best(x, SECONDS_EACH(x), encoder_once, m, &s, why);
            value = (double)m->corpus->n / s;
        } else {
            size_t asked = x->o->quick ? QUERIES / 4 : QUERIES;
            for (size_t q = 0; q < asked && !err; q++) {
                int64_t from = x->clock_us();
                err = encoder_once(m, why);
                ms[q] = (double)(x->clock_us() - from) / 1e3;
            }
            value = quantile(ms, asked, 0.5);
        }
        if (!err)
            err = bench_add(x, "cairn", encoder_name(m->e), m->corpus->test, encoder_backend_name(m->e),
                            threads, -1, value, why);
    }
    progress_clear();
    cairn_free(ms);
    return err;
}

/* ---- peers ---- */

static json_t *first_of(const json_t *list, size_t n)
{
    json_t *part = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append(part, json_array_get(list, i));
    return part;
}

/* What the script needs to know of the model, and the texts that are judged. */
static json_t *config(const struct model_bench *x, const struct model_card *card, const struct corpus *judged)
{
    const char *slash = strrchr(card->path, '/');
    size_t n = x->o->quick ? SHORT : JUDGED;
    char *stem = cairn_asprintf("%s/%s", x->work, card->name),
         *path = cairn_asprintf("%.*s/card.json", slash ? (int)(slash - card->path) : 1,
                                slash ? card->path : ".");
    json_t *cfg = stem && path
                      ? json_pack("{s:s,s:s,s:s,s:i,s:o,s:o}", "model", card->path, "card", path, "stem",
                                  stem, "queries", x->o->quick ? QUERIES / 4 : QUERIES, "ids",
                                  first_of(judged->ids, n), "types", first_of(judged->types, n))
                      : NULL;
    cairn_free(stem);
    cairn_free(path);
    return cfg;
}

static enum cairn_err onnx_pass(struct model_bench *x, size_t peer, const struct model_card *card,
                                const struct corpus *all, size_t n, const struct corpus *judged, bool scan,
                                unsigned threads, json_t **result, struct cairn_why *why)
{
    json_t *cfg = config(x, card, judged), *texts = json_object(), *keep = json_object();
    *result = NULL;
    for (size_t i = 0; i < n; i++) {
        const struct model_run *best =
            model_runs_best(&x->runs, "onnxruntime", card->name, all[i].test, threads);
        if (!bench_wants(x, all[i].test))
            continue;
        if (!scan && best && best->source != (int)peer)
            continue;
        json_object_set_new(texts, all[i].test,
                            json_pack("{s:O,s:O}", "ids", all[i].ids, "types", all[i].types));
        if (!scan && best)
            json_object_set_new(keep, all[i].test, json_pack("[s]", best->setting));
    }
    bool any = json_object_size(texts) > 0;
    json_object_set_new(cfg, "texts", texts);
    json_object_set_new(cfg, "keep", keep);
    if (!cfg || !any) {
        json_decref(cfg);
        return cfg ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "configuration of a peer");
    }
    return bench_peer(x, peer, "onnxruntime", card->name, threads, cfg, result, why);
}

/* ---- against float64 ---- */

static double at(const json_t *rows, size_t i, size_t k)
{
    const json_t *row = json_array_get(rows, i);
    return json_number_value(json_is_array(row) ? json_array_get(row, k) : row);
}

/* The least cosine over the texts; of a pair model the largest distance of logits. */
static double worst(const json_t *truth, const json_t *rows, size_t dim)
{
    double least = NAN;
    for (size_t i = 0; i < json_array_size(truth); i++) {
        double dot = 0, a = 0, b = 0;
        for (size_t k = 0; k < dim; k++) {
            double u = at(truth, i, k), v = at(rows, i, k);
            dot += u * v;
            a += u * u;
            b += v * v;
        }
        double one = dim == 1 ? fabs(at(truth, i, 0) - at(rows, i, 0)) : dot / sqrt(a * b);
        least = i == 0 || (dim == 1 ? one > least : one < least) ? one : least;
    }
    return least;
}

static enum cairn_err judge(struct model_bench *x, struct encoder_side *m, const struct model_card *card,
                            const struct corpus *judged, size_t peer, const json_t *theirs,
                            struct cairn_why *why)
{
    json_t *truth = NULL, *ours = json_array(),
           *info = bench_model_info(x, card->name, model_role_name(card->role)), *rows;
    size_t dim = m->pair ? 1 : encoder_dim(m->e), n = x->o->quick ? SHORT : JUDGED;
    const char *what = m->pair ? "logit_error_max" : "cosine_min", *kind;
    enum cairn_err err =
        bench_peer(x, peer, "reference", card->name, 1, config(x, card, judged), &truth, why);
    m->corpus = judged;
    if (!err && truth)
        err = encoder_once(m, why);
    if (!err && truth) {
        json_t *o = json_object();
        for (size_t i = 0; i < n; i++) {
            json_t *row = json_array();
            for (size_t k = 0; k < dim; k++)
                json_array_append_new(row, json_real((double)m->out[i * dim + k]));
            json_array_append_new(ours, row);
        }
        json_put(o, "cairn", worst(json_object_get(truth, "out"), ours, dim));
        json_object_foreach((json_t *)(uintptr_t)json_object_get(theirs, "out"), kind, rows)
        {
            char key[64];
            snprintf(key, sizeof key, "onnxruntime %.32s", kind);
            json_put(o, key, worst(json_object_get(truth, "out"), rows, dim));
        }
        json_object_set_new(info, what, o);
    }
    json_decref(ours);
    json_decref(truth);
    return err;
}

/* ---- one model ---- */

static enum cairn_err encoder_at(struct model_bench *x, const struct model_card *card, unsigned threads,
                                 bool last, struct cairn_why *why)
{
    struct corpus all[3] = {{0}};
    struct encoder_side m = {.pair = card->role == MODEL_RERANKER, .query_ids = json_array()};
    struct cairn_pool *pool = NULL;
    struct cairn_buf query;
    uint64_t state = 11;
    size_t n = 0, short_by = x->o->quick ? 4 : 1;
    cairn_buf_init(&query, 4096);
    enum cairn_err err = cairn_pool_open(&pool, threads, why);
    struct model_opts opts = {.pool = pool,
                              .backend = x->o->backend ? model_backend_by_name(x->o->backend) : BACKEND_AUTO};
    int64_t from = cairn_now_us();
    if (!err)
        err = encoder_open(&m.e, card, &opts, why);
    if (!err)
        err = bench_add(x, "cairn", card->name, "open", encoder_backend_name(m.e), threads, -1,
                        seconds_since(from) * 1e3, why);
    if (!err)
        err = make_text(&query, m.e, &state, QUERY_TOKENS - 2, why);
    if (!err)
        err = put_ids(m.query_ids, m.e, (struct cairn_str){query.bytes, query.len}, TOKENIZE_PLAIN, why);
    m.query = (struct cairn_str){query.bytes, query.len};
    if (!err && m.pair) {
        err = corpus_make(&all[n++], &m, "pairs128", TEXTS / short_by, TOKENS, TOKENS, why);
    } else if (!err) {
        uint32_t longest = encoder_max_tokens(m.e) < 250 ? encoder_max_tokens(m.e) : 250;
        err = corpus_make(&all[n++], &m, "texts128", TEXTS / short_by, TOKENS, TOKENS, why);
        if (!err)
            err = corpus_make(&all[n++], &m, "mixed", MIXED / short_by, 10, longest, why);
        if (!err)
            err = corpus_make(&all[n++], &m, "query16", 1, QUERY_TOKENS, QUERY_TOKENS, why);
    }
    if (!err && !(m.out = cairn_calloc(MIXED, (m.pair ? 1 : encoder_dim(m.e)) * sizeof(float))))
        err = cairn_fail(why, CAIRN_ENOMEM, "vectors");
    const struct corpus *judged = &all[m.pair ? 0 : 1];
    json_t *theirs = NULL;
    for (uint64_t pass = 0; pass < x->o->passes && !err; pass++) {
        err = encoder_pass(x, &m, all, n, threads, why);
        for (size_t i = 0; i < x->n_peers && !err; i++) {
            json_t *result = NULL;
            if (!x->peers[i].onnx)
                continue;
            err = onnx_pass(x, i, card, all, n, judged, pass == 0, threads, &result, why);
            if (!theirs && pass == 0) {
                theirs = result;
                continue;
            }
            json_decref(result);
        }
    }
    for (size_t i = 0; i < x->n_peers && !err && last; i++)
        if (x->peers[i].onnx) {
            err = judge(x, &m, card, judged, i, theirs, why);
            break;
        }
    json_decref(theirs);
    for (size_t i = 0; i < 3; i++)
        corpus_release(&all[i]);
    json_decref(m.query_ids);
    cairn_buf_release(&query);
    cairn_free(m.out);
    encoder_close(m.e);
    cairn_pool_close(pool);
    return err;
}

enum cairn_err bench_encoder(struct model_bench *x, const struct model_card *card, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    (void)bench_model_info(x, card->name, model_role_name(card->role));
    for (size_t i = 0; i < x->n_threads && !err; i++)
        err = encoder_at(x, card, x->threads[i], i + 1 == x->n_threads, why);
    return err;
}
