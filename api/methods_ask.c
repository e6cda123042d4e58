/* api/methods_ask.c - search, ask and ground.check.
 * What a caller gets to see is checked against the newest generation once more right before it leaves: a
 * passage whose document was deleted, replaced or closed to this caller meanwhile is not shown. search drops
 * such hits (and searches again first); ask fails, because its sentences may rest on them. */
#include "internal.h"

#include <math.h>

#define RETRIES_MAX 3u

static const char *const enforce_names[] = {"mark", "drop", "abstain", NULL};  /* of enum answer_enforce */
static const char *const mode_names[] = {"auto", "generate", "extract", NULL}; /* order of enum answer_mode */
static const char *const rule_names[] = {"default", "none", "citations", "quote",
                                         NULL};                         /* of enum answer_rule */
static const char *const style_names[] = {"sentences", "phrase", NULL}; /* order of enum answer_style */
static const char *const leg_names[] = {"both", "lexical", "dense", NULL};
static const char *const fusion_names[] = {"minmax", "rrf", "zscore", NULL};

/* ---- what search and ask share ---- */

struct query {
    char collection[COLLECTION_NAME_MAX + 1];
    struct retrieve_request r;
    struct retriever *retriever;
    struct collection_info info;
    double dense, rerank, mmr;
    int legs;
    bool explain;
};

static void query_params(struct call *c, struct query *q, uint64_t k)
{
    uint64_t per_document = 0;
    q->dense = q->rerank = q->mmr = NAN;
    q->legs = 0;
    int fusion = -1;
    (void)p_collection(&c->p, q->collection);
    (void)p_uint(&c->p, "k", false, 1, RETRIEVE_K_MAX, &k);
    (void)p_enum(&c->p, "legs", leg_names, &q->legs);
    (void)p_enum(&c->p, "fusion", fusion_names, &fusion);
    (void)p_num(&c->p, "dense_weight", false, 0, 1, &q->dense);
    (void)p_num(&c->p, "rerank_weight", false, 0, 1, &q->rerank);
    (void)p_num(&c->p, "mmr_lambda", false, 0, 1, &q->mmr);
    (void)p_uint(&c->p, "per_document_max", false, 1, RETRIEVE_K_MAX, &per_document);
    p_how(&c->p, &q->r.how);
    (void)p_bool(&c->p, "explain", &q->explain);
    q->r.collection = q->collection;
    q->r.k = (size_t)k;
    q->r.fusion = fusion;
    q->r.dense_weight = isnan(q->dense) ? RETRIEVE_DEFAULT : (float)q->dense;
    q->r.rerank_weight = isnan(q->rerank) ? RETRIEVE_DEFAULT : (float)q->rerank;
    q->r.mmr_lambda = isnan(q->mmr) ? RETRIEVE_DEFAULT : (float)q->mmr;
    q->r.per_document_max = (size_t)per_document;
    q->r.caller = c->who;
}

/* Chooses the legs and the retriever that the collection and the models on disk allow. */
static enum cairn_err query_open(struct call *c, struct query *q)
{
    struct store_view *v;
    struct encoder *e;
    enum cairn_err err = store_view_begin(&v, c->s->store, c->why);
    if (err)
        return err;
    err = store_collection_get(v, q->collection, &q->info, c->why);
    store_view_end(v);
    if (err)
        return err;
    bool brought = q->info.opts.dim > 0 && !*q->info.opts.embedder, /* no model makes the question's vector */
        has_vectors = q->info.opts.dim > 0 && !brought;
    if (q->legs == 2 && brought)
        return cairn_fail(c->why, CAIRN_ESTATE,
                          "param legs: the vectors of collection %s were brought by its clients; use "
                          "vector.search, or \"lexical\"",
                          q->collection);
    if (q->legs == 2 && !has_vectors)
        return cairn_fail(c->why, CAIRN_ESTATE, "param legs: collection %s holds no vectors; use \"lexical\"",
                          q->collection);
    bool dense = has_vectors && q->legs != 1;
    if (dense) {
        err = service_embedder_matches(c->s, &q->info.opts, &e, c->why);
        if (err)
            return cairn_wrap(c->why, err, "legs \"lexical\" needs no embedder");
    }
    float rerank = isnan(q->rerank) ? q->info.opts.rerank_weight : (float)q->rerank;
    bool pair = rerank > 0;
    if (pair && !service_has_model(c->s, MODEL_RERANKER)) {
        if (!isnan(q->rerank)) {
            struct encoder *none;
            err = service_encoder(c->s, MODEL_RERANKER, &none, c->why);
            return err ? cairn_wrap(c->why, err, "param rerank_weight") : CAIRN_OK;
        }
        pair = false;
        q->r.rerank_weight = 0;
        if (!service_goes_without(c->s, MODEL_RERANKER)) /* missing, not left out on purpose */
            call_warn(c, "no reranker on this service: results keep the fused order");
    }
    q->r.legs = (dense ? LEG_DENSE : 0u) | (q->legs != 2 ? LEG_LEXICAL : 0u);
    return service_retriever_with(c->s, dense, pair, &q->retriever, c->why);
}

/* Is the hit still what the store holds and the caller may see? */
static bool still_there(struct call *c, struct store_view *v, const char *collection,
                        const struct retrieved *h)
{
    struct passage_info p;
    struct document_info d;
    return store_passage_get(v, collection, h->passage_id, &p, NULL) == CAIRN_OK &&
           memcmp(&p.hash, &h->hash, sizeof h->hash) == 0 && p.document_id.len == strlen(h->document_id) &&
           memcmp(p.document_id.p, h->document_id, p.document_id.len) == 0 &&
           store_document_get(v, collection, p.document_id, &c->who, &d, NULL, NULL) == CAIRN_OK;
}

/* keep[i] for each hit; *gone counts the others. Nothing to look up while the generation is the one the hits
 * came from. */
static enum cairn_err recheck(struct call *c, const char *collection, const struct retrieval *x,
                              uint64_t *seen_generation, bool *keep, size_t *gone, struct cairn_why *why)
{
    struct store_view *v;
    *gone = 0;
    enum cairn_err err = store_view_begin(&v, c->s->store, why);
    if (err)
        return err;
    bool moved = store_view_generation(v) != *seen_generation;
    for (size_t i = 0; i < x->n_hits; i++) {
        bool there = !moved || still_there(c, v, collection, &x->hits[i]);
        if (keep)
            keep[i] = there;
        *gone += !there;
    }
    if (!*gone)
        *seen_generation = store_view_generation(v);
    store_view_end(v);
    return CAIRN_OK;
}

static void pack_scores(struct pk *k, const struct retrieved *h)
{
    pk_cstr(k, "scores");
    pk_map(k, 4);
    pk_knum(k, "lexical", (double)h->lexical);
    pk_knum(k, "dense", (double)h->dense);
    pk_knum(k, "fused", (double)h->fused);
    pk_knum(k, "rerank", (double)h->rerank);
}

static void pack_explain(struct pk *k, const struct query *q, const struct retrieval *x)
{
    const struct collection_opts *o = &q->info.opts;
    pk_cstr(k, "explain");
    pk_map(k, 8u + (x->plan.path != NULL));
    pk_kuint(k, "n_allowed", x->n_allowed);
    pk_kcstr(k, "legs", leg_names[q->r.legs == LEG_BOTH ? 0 : q->r.legs == LEG_LEXICAL ? 1 : 2]);
    pk_kcstr(k, "fusion", fusion_names[q->r.fusion >= 0 ? q->r.fusion : (int)o->fusion]);
    pk_knum(k, "dense_weight", isnan(q->dense) ? (double)o->dense_weight : q->dense);
    pk_knum(k, "rerank_weight", (double)x->rerank_weight);
    pk_kcstr(k, "embedder", o->embedder);
    pk_kuint(k, "dim", x->dim);
    if (x->plan.path) {
        pk_cstr(k, "plan");
        pack_plan(k, &x->plan);
    }
    pk_cstr(k, "timings_ms");
    pk_map(k, 6);
    pk_knum(k, "embed", (double)x->embed_us / 1e3);
    pk_knum(k, "lexical", (double)x->lexical_us / 1e3);
    pk_knum(k, "dense", (double)x->dense_us / 1e3);
    pk_knum(k, "fuse", (double)x->fuse_us / 1e3);
    pk_knum(k, "rerank", (double)x->rerank_us / 1e3);
    pk_knum(k, "copy", (double)x->copy_us / 1e3);
}

static void count_seen(struct call *c, struct cairn_str query, const struct retrieval *x)
{
    size_t words = 0;
    double lexical = NAN, dense = NAN, rerank = NAN;
    if (c->caller->judging)
        return;
    for (size_t i = 0; i < query.len; i++)
        words += !strchr(" \t\r\n", query.p[i]) && (i == 0 || strchr(" \t\r\n", query.p[i - 1]));
    for (size_t i = 0; i < x->n_hits; i++) {
        lexical = fmax(lexical, (double)x->hits[i].lexical); /* fmax passes over NaN */
        dense = fmax(dense, (double)x->hits[i].dense);
        rerank = fmax(rerank, (double)x->hits[i].rerank);
    }
    metrics_seen(c->s, SEEN_WORDS, (double)words);
    metrics_seen(c->s, SEEN_LEXICAL, lexical);
    metrics_seen(c->s, SEEN_DENSE, dense);
    metrics_seen(c->s, SEEN_RERANK, rerank);
}

/* ---- search ---- */

enum cairn_err m_search(struct call *c)
{
    struct query q = {0};
    struct retrieval x = {0};
    bool *keep = NULL;
    size_t gone = 0;
    (void)p_str(&c->p, "query", true, 1, QUERY_BYTES_MAX, &q.r.query);
    query_params(c, &q, 10);
    enum cairn_err err = p_close(&c->p, c);
    if (!err)
        err = query_open(c, &q);
    q.r.with_dense = !err && (q.r.legs & LEG_DENSE) && !q.r.how.exact && upkeep_wants(c->s->upkeep);
    for (unsigned turn = 0; !err; turn++) {
        err = retrieve(q.retriever, &q.r, &x, c->stop, c->why);
        if (err)
            return err == CAIRN_EINVAL ? cairn_wrap(c->why, err, "param query") : err;
        if (x.dense)
            upkeep_sample(c->s->upkeep, q.collection, &c->who, x.query_vector, x.dim, x.dense_k, x.dense,
                          x.n_dense, x.generation, x.plan.share);
        q.r.with_dense = false;
        keep = cairn_calloc(x.n_hits, sizeof *keep);
        uint64_t seen = x.generation;
        err = keep ? recheck(c, q.collection, &x, &seen, keep, &gone, c->why)
                   : cairn_fail(c->why, CAIRN_ENOMEM, "%zu hits", x.n_hits);
        if (err || !gone || turn == RETRIES_MAX)
            break;
        retrieval_release(&x);
        cairn_free(keep);
        keep = NULL;
        x = (struct retrieval){0};
    }
    if (!err) {
        count_seen(c, q.r.query, &x);
        struct pk *k = &c->out;
        call_map(c, 2u + q.explain);
        pk_kuint(k, "generation", x.generation);
        pk_cstr(k, "hits");
        pk_array(k, x.n_hits - gone);
        for (size_t i = 0; i < x.n_hits; i++) {
            const struct retrieved *h = &x.hits[i];
            if (!keep[i])
                continue;
            pk_map(k, 10);
            pk_kcstr(k, "document_id", h->document_id);
            pk_kuint(k, "passage_id", h->passage_id);
            pk_khash(k, "passage_hash", &h->hash);
            pk_knum(k, "score", (double)h->score);
            pk_kuint(k, "start", h->start);
            pk_kuint(k, "end", h->end);
            pk_kcstr(k, "text", h->text);
            pk_kcstr(k, "path", h->path);
            pk_kcstr(k, "title", h->title);
            pack_scores(k, h);
        }
        if (q.explain)
            pack_explain(k, &q, &x);
        call_end(c);
    }
    retrieval_release(&x);
    cairn_free(keep);
    return err;
}

/* ---- ask ---- */

struct ask {
    struct call *c;
    struct query q;
    struct retrieval x;
    uint64_t seen_generation, seq, n_sentence;
    struct cairn_buf event, text; /* text: the answer so far */
    enum cairn_err err;           /* why events stopped */
    struct cairn_str *stops;      /* BORROWED from the params */
    char **stop;                  /* their copies */
    size_t n_stops;
    struct generator *generator;
    struct decoder *decoder; /* NULL: none needed or none there */
    struct answer_source *sources;
    struct answer_request want;
    struct answer answer;
    bool answered; /* answer is to be released */
};

/* The span of the source that carries a claim, on code point borders. */
static struct cairn_span evidence_span(const struct retrieved *h, const struct ground_evidence *e)
{
    size_t len = strlen(h->text);
    struct cairn_span s = {e->start < len ? e->start : len, e->end < len ? e->end : len};
    while (s.start > 0 && ((unsigned char)h->text[s.start] & 0xc0) == 0x80)
        s.start--;
    while (s.end < len && ((unsigned char)h->text[s.end] & 0xc0) == 0x80)
        s.end++;
    if (s.end <= s.start)
        s = (struct cairn_span){0, len};
    return s;
}

static size_t citations_of(const struct ask *a, const struct ground_sentence *s,
                           size_t list[GROUND_EVIDENCE_MAX])
{
    size_t n = 0;
    if (s->verdict != VERDICT_SUPPORTED)
        return 0;
    for (size_t i = 0; i < s->n_evidence && i < GROUND_EVIDENCE_MAX; i++)
        if (s->evidence[i].source < a->x.n_hits && ground_evidence_cited(s, i))
            list[n++] = i;
    return n;
}

/* n pairs of the sentence's map: text, start, end, verdict, score, citations. */
#define SENTENCE_PAIRS 6u
static size_t pack_sentence(const struct ask *a, struct pk *k, struct cairn_str text,
                            const struct ground_sentence *s)
{
    size_t list[GROUND_EVIDENCE_MAX], n = citations_of(a, s, list);
    size_t end = s->end < text.len ? s->end : text.len, start = s->start < end ? s->start : end;
    pk_kstr(k, "text", (struct cairn_str){text.p + start, end - start});
    pk_kuint(k, "start", start);
    pk_kuint(k, "end", end);
    pk_kcstr(k, "verdict", verdict_name(s->verdict));
    pk_knum(k, "score", (double)s->score);
    pk_cstr(k, "citations");
    pk_array(k, n);
    for (size_t i = 0; i < n; i++) {
        const struct ground_evidence *e = &s->evidence[list[i]];
        const struct retrieved *h = &a->x.hits[e->source];
        struct cairn_span at = evidence_span(h, e);
        pk_map(k, 8);
        pk_kuint(k, "n", e->source + 1u);
        pk_kcstr(k, "document_id", h->document_id);
        pk_kuint(k, "passage_id", h->passage_id);
        pk_khash(k, "passage_hash", &h->hash);
        pk_kuint(k, "start", h->start + at.start); /* in the document's text */
        pk_kuint(k, "end", h->start + at.end);
        pk_kstr(k, "text", (struct cairn_str){h->text + at.start, at.end - at.start});
        pk_knum(k, "score", (double)e->score);
    }
    return n;
}

static void pack_sources(const struct ask *a, struct pk *k)
{
    pk_cstr(k, "sources");
    pk_array(k, a->x.n_hits);
    for (size_t i = 0; i < a->x.n_hits; i++) {
        const struct retrieved *h = &a->x.hits[i];
        pk_map(k, 9);
        pk_kuint(k, "n", i + 1);
        pk_kcstr(k, "document_id", h->document_id);
        pk_kuint(k, "passage_id", h->passage_id);
        pk_khash(k, "passage_hash", &h->hash);
        pk_kcstr(k, "title", h->title);
        pk_kcstr(k, "path", h->path);
        pk_kuint(k, "start", h->start);
        pk_kuint(k, "end", h->end);
        pk_knum(k, "score", (double)h->score);
    }
}

static enum cairn_err sources_hold(struct ask *a)
{
    size_t gone;
    enum cairn_err err = recheck(a->c, a->q.collection, &a->x, &a->seen_generation, NULL, &gone, a->c->why);
    if (!err && gone)
        err =
            cairn_fail(a->c->why, CAIRN_ESTATE, "a source was changed or deleted while answering; ask again");
    return err;
}

static bool send_event(struct ask *a)
{
    a->err = sources_hold(a);
    if (!a->err && !call_event(a->c, "ask.event", &a->event))
        a->err = cairn_fail(a->c->why, CAIRN_ESTOPPED, "cancelled");
    return a->err == CAIRN_OK;
}

static bool on_event(void *ctx, const struct answer_event *e)
{
    struct ask *a = ctx;
    struct pk k;
    cairn_buf_clear(&a->event);
    pk_init(&k, &a->event);
    if (e->kind == ANSWER_EVENT_DELTA) {
        if (!cairn_buf_put(&a->text, e->delta.p, e->delta.len)) {
            a->err = cairn_fail(a->c->why, CAIRN_ENOMEM, "answer");
            return false;
        }
        pk_map(&k, 3);
        pk_kcstr(&k, "kind", "delta");
        pk_kuint(&k, "seq", a->seq++);
        pk_kstr(&k, "text", e->delta);
    } else if (e->kind == ANSWER_EVENT_RESTART) {
        cairn_buf_clear(&a->text);
        a->n_sentence = 0;
        pk_map(&k, 3);
        pk_kcstr(&k, "kind", "restart");
        pk_kuint(&k, "seq", a->seq++);
        pk_kcstr(&k, "reason", e->reason);
    } else {
        pk_map(&k, 3 + SENTENCE_PAIRS);
        pk_kcstr(&k, "kind", "sentence");
        pk_kuint(&k, "seq", a->seq++);
        pk_kuint(&k, "index", a->n_sentence++);
        (void)pack_sentence(a, &k, (struct cairn_str){a->text.bytes ? a->text.bytes : "", a->text.len},
                            e->sentence);
    }
    return send_event(a);
}

struct count_ctx {
    uint64_t n;
};
static bool count_one(void *ctx, struct cairn_str key, struct cairn_str bytes)
{
    (void)key;
    (void)bytes;
    ((struct count_ctx *)ctx)->n++;
    return true;
}
struct oldest_ctx {
    char (*keys)[25];
    size_t n, max;
};
static bool oldest_one(void *ctx, struct cairn_str key, struct cairn_str bytes)
{
    struct oldest_ctx *o = ctx;
    (void)bytes;
    if (key.len < sizeof o->keys[0]) {
        memcpy(o->keys[o->n], key.p, key.len);
        o->keys[o->n++][key.len] = 0;
    }
    return o->n < o->max;
}

/* The record of promise 7: enough to give the same answer again and to prove which one was given; no text of
 * documents or people. Keys sort by time, so the oldest are the first. */
static enum cairn_err keep_answer(struct ask *a, const struct answer *w, const char *model,
                                  const char *sha256, uint64_t seed, char id[25], struct cairn_why *why)
{
    struct service *s = a->c->s;
    struct store_view *v = NULL;
    struct store_batch *b = NULL;
    struct cairn_buf rec;
    struct pk k;
    enum { PRUNE = 64 };
    char old[PRUNE][25];
    struct oldest_ctx o = {old, 0, PRUNE};
    uint64_t generation;
    cairn_buf_init(&rec, 1u << 20);
    pthread_mutex_lock(&s->answers_mu);
    enum cairn_err err = store_view_begin(&v, s->store, why);
    if (!err && !s->answers_counted) {
        struct count_ctx n = {0};
        err = store_record_each(v, "answer", (struct cairn_str){"", 0}, count_one, &n, why);
        s->n_answers = n.n;
        s->answers_counted = !err;
    }
    if (!err && s->n_answers >= conf_size(s, "api.answers_max"))
        err = store_record_each(v, "answer", (struct cairn_str){"", 0}, oldest_one, &o, why);
    store_view_end(v);
    snprintf(id, 25, "%016" PRIx64 "%08" PRIx32, (uint64_t)cairn_wall_us(), (uint32_t)s->answer_turn++);
    pk_init(&k, &rec);
    pk_map(&k, 9);
    pk_kuint(&k, "generation", a->x.generation);
    pk_kcstr(&k, "collection", a->q.collection);
    pk_khash(&k, "prompt_hash", &w->prompt_hash);
    pk_kcstr(&k, "model", model);
    pk_kcstr(&k, "model_sha256", sha256);
    pk_kuint(&k, "seed", seed);
    pk_kcstr(&k, "mode", mode_names[w->mode]);
    pk_kcstr(&k, "refusal", w->refusal == REFUSAL_NONE ? NULL : refusal_name(w->refusal));
    pk_cstr(&k, "verdicts");
    pk_array(&k, w->n_sentences);
    for (size_t i = 0; i < w->n_sentences; i++) {
        pk_array(&k, 4);
        pk_uint(&k, w->sentences[i].start);
        pk_uint(&k, w->sentences[i].end);
        pk_cstr(&k, verdict_name(w->sentences[i].verdict));
        pk_num(&k, (double)w->sentences[i].score);
    }
    if (!err && rec.failed)
        err = cairn_fail(why, CAIRN_ENOMEM, "answer record");
    if (!err)
        err = store_batch_begin(&b, s->store, why);
    if (!err)
        err = store_record_put(b, "answer", cairn_str_of(id), rec.bytes, rec.len, why);
    for (size_t i = 0; i < o.n && !err; i++) {
        err = store_record_delete(b, "answer", cairn_str_of(old[i]), why);
        if (err == CAIRN_ENOTFOUND)
            err = CAIRN_OK;
    }
    if (!err) {
        err = store_batch_commit(b, &generation, why);
        b = NULL;
    }
    if (b)
        store_batch_abort(b);
    if (!err)
        s->n_answers += 1 - o.n;
    pthread_mutex_unlock(&s->answers_mu);
    cairn_buf_release(&rec);
    return err;
}

static void pack_timings(struct pk *k, const struct retrieval *x, const struct answer *w, int64_t retrieve_us,
                         int64_t total_us)
{
    const struct {
        const char *name;
        int64_t us;
    } t[] = {
        {"embed",       x->embed_us      },
        {"lexical",     x->lexical_us    },
        {"dense",       x->dense_us      },
        {"fuse",        x->fuse_us       },
        {"rerank",      x->rerank_us     },
        {"retrieve",    retrieve_us      },
        {"prompt",      w->prompt_us     },
        {"prefill",     w->prefill_us    },
        {"first_token", w->first_token_us},
        {"decode",      w->decode_us     },
        {"check",       w->check_us      },
        {"total",       total_us         }
    };
    pk_cstr(k, "timings_ms");
    pk_map(k, sizeof t / sizeof t[0]);
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++)
        pk_knum(k, t[i].name, (double)t[i].us / 1e3);
}

static enum cairn_err ask_params(struct ask *a)
{
    struct call *c = a->c;
    uint64_t max_tokens = 0;
    double temperature = 0, top_p = 0, min_p = 0;
    int mode = ANSWER_AUTO, rule = ANSWER_RULE_CONFIG, style = ANSWER_SENTENCES, enforce = ENFORCE_MARK;
    (void)p_str(&c->p, "question", true, 1, QUERY_BYTES_MAX, &a->want.question);
    query_params(c, &a->q, 5);
    (void)p_enum(&c->p, "mode", mode_names, &mode);
    (void)p_enum(&c->p, "rule", rule_names, &rule);
    (void)p_enum(&c->p, "style", style_names, &style);
    (void)p_uint(&c->p, "max_tokens", false, 1, 1u << 20, &max_tokens);
    (void)p_num(&c->p, "temperature", false, 0, 10, &temperature);
    (void)p_num(&c->p, "top_p", false, 0, 1, &top_p);
    (void)p_num(&c->p, "min_p", false, 0, 1, &min_p);
    (void)p_uint(&c->p, "seed", false, 0, UINT64_MAX, &a->want.seed);
    (void)p_strs(&c->p, "stop", false, 16, 256, &a->stops, &a->n_stops);
    (void)p_enum(&c->p, "enforce", enforce_names, &enforce);
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    for (size_t i = 0; i < a->n_stops; i++)
        if (a->stops[i].len == 0)
            return cairn_fail(c->why, CAIRN_EINVAL, "param stop[%zu]: empty", i);
    if (a->q.r.k > 64)
        return cairn_fail(c->why, CAIRN_EINVAL, "param k: got %zu, want 1..64 sources for an answer",
                          a->q.r.k);
    a->want.mode = (enum answer_mode)mode;
    a->want.rule = (enum answer_rule)rule;
    a->want.style = (enum answer_style)style;
    a->want.enforce = (enum answer_enforce)enforce;
    a->want.max_tokens = (uint32_t)max_tokens;
    a->want.temperature = (float)temperature;
    a->want.top_p = (float)top_p;
    a->want.min_p = (float)min_p;
    a->stop = cairn_calloc(a->n_stops, sizeof *a->stop);
    if (!a->stop)
        return cairn_fail(c->why, CAIRN_ENOMEM, "question");
    for (size_t i = 0; i < a->n_stops; i++)
        if (!(a->stop[i] = str_dup(a->stops[i])))
            return cairn_fail(c->why, CAIRN_ENOMEM, "question");
    a->want.stop = (const char *const *)a->stop;
    a->want.n_stop = a->n_stops;
    return CAIRN_OK;
}

static enum cairn_err ask_models(struct ask *a)
{
    struct call *c = a->c;
    enum answer_mode mode = a->want.mode;
    bool decoder =
        mode != ANSWER_EXTRACT && (mode == ANSWER_GENERATE || service_has_model(c->s, MODEL_GENERATOR));
    if (!decoder && mode == ANSWER_AUTO)
        call_warn(c, "no generator on this service: the answer quotes the sources");
    enum cairn_err err = decoder ? service_decoder(c->s, &a->decoder, c->why) : CAIRN_OK;
    return err ? err : service_generator_with(c->s, decoder, &a->generator, c->why);
}

static int by_text(const void *a, const void *b)
{
    const struct cairn_str *x = a, *y = b;
    int c = memcmp(x->p, y->p, x->len < y->len ? x->len : y->len);
    return c ? c : (x->len > y->len) - (x->len < y->len);
}

/* Callers of one partition may read the same passages: computed prompts are shared among them and with nobody
 * else, or how fast an answer begins would tell what others were shown. The collection is part of it, because
 * a key may be kept out of some, and another may write a guess into one it reads. */
static enum cairn_err ask_partition(struct ask *a)
{
    const struct store_caller *who = &a->c->who;
    struct cairn_str names[PRINCIPALS_MAX];
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    CAIRN_CHECK(who->n_principals <= PRINCIPALS_MAX);
    if (who->n_principals)
        memcpy(names, who->principals, who->n_principals * sizeof *names);
    qsort(names, who->n_principals, sizeof *names, by_text);
    (void)cairn_buf_printf(&b, "%d %zu:%s", who->all, strlen(a->q.collection), a->q.collection);
    for (size_t i = 0; i < who->n_principals; i++) {
        (void)cairn_buf_printf(&b, " %zu:", names[i].len);
        (void)cairn_buf_put(&b, names[i].p, names[i].len);
    }
    a->want.partition = cairn_hash_bytes(b.bytes, b.len);
    a->want.has_partition = !b.failed;
    cairn_buf_release(&b);
    return a->want.has_partition ? CAIRN_OK : cairn_fail(a->c->why, CAIRN_ENOMEM, "question");
}

/* Retrieves, and tells the sources as the first event. */
static enum cairn_err ask_sources(struct ask *a)
{
    struct call *c = a->c;
    a->q.r.query = a->want.question;
    a->q.r.with_vectors = true;
    enum cairn_err err = retrieve(a->q.retriever, &a->q.r, &a->x, c->stop, c->why);
    if (err == CAIRN_EINVAL)
        return cairn_wrap(c->why, err, "param question");
    if (err)
        return err;
    count_seen(c, a->want.question, &a->x);
    a->seen_generation = a->x.generation;
    a->sources = cairn_calloc(a->x.n_hits, sizeof *a->sources);
    if (!a->sources)
        return cairn_fail(c->why, CAIRN_ENOMEM, "question");
    for (size_t i = 0; i < a->x.n_hits; i++) {
        const struct retrieved *h = &a->x.hits[i];
        a->sources[i] = (struct answer_source){.title = cairn_str_of(h->title),
                                               .path = cairn_str_of(h->path),
                                               .text = cairn_str_of(h->text),
                                               .score = h->score,
                                               .dense = h->dense,
                                               .rerank = h->rerank,
                                               .vector = h->vector};
    }
    a->want.sources = a->sources;
    a->want.n_sources = a->x.n_hits;
    a->want.language = a->q.info.opts.language;
    if (!c->sink || !c->sink->event)
        return CAIRN_OK;
    a->want.on_event = on_event;
    a->want.ctx = a;
    struct pk k;
    pk_init(&k, &a->event);
    pk_map(&k, 4);
    pk_kcstr(&k, "kind", "sources");
    pk_kuint(&k, "seq", a->seq++);
    pk_kuint(&k, "generation", a->x.generation);
    pack_sources(a, &k);
    return send_event(a) ? CAIRN_OK : a->err;
}

static enum cairn_err ask_answer(struct ask *a)
{
    struct call *c = a->c;
    enum cairn_err err = ask_partition(a);
    if (err)
        return err;
    err = generator_answer(a->generator, &a->want, &a->answer, c->stop, c->why);
    a->answered = !err;
    if (a->err)
        err = a->err; /* the reason the generator was stopped for; why holds its words when it came last */
    if (a->err == CAIRN_ESTATE)
        (void)cairn_fail(c->why, a->err, "a source was changed or deleted while answering; ask again");
    if (!err)
        err = cairn_stopped(c->stop, c->why);
    if (err == CAIRN_EDEADLINE && a->answered && a->answer.text_len)
        err = CAIRN_OK; /* what was written and checked in time is given; finish says why it ends there */
    return err;
}

static void pack_evidence(struct pk *k, const struct answer_evidence *e)
{
    const struct {
        const char *name;
        float v;
    } all[] = {
        {"chance",   e->chance  },
        {"rerank",   e->rerank  },
        {"sentence", e->sentence},
        {"dense",    e->dense   },
        {"margin",   e->margin  },
        {"cover",    e->cover   },
        {"lacks",    e->lacks   },
        {"nowhere",  e->nowhere },
        {"plain",    e->plain   },
        {"typed",    e->typed   }
    };
    pk_cstr(k, "evidence");
    pk_map(k, sizeof all / sizeof all[0]);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        pk_knum(k, all[i].name, (double)all[i].v);
}

static void pack_answer(struct ask *a, const char *model, const char *answer_id, int64_t from_us,
                        int64_t retrieve_us)
{
    struct call *c = a->c;
    struct pk *k = &c->out;
    const struct answer *w = &a->answer;
    struct cairn_str text = {w->text ? w->text : "", w->text_len};
    uint64_t n_citations = 0;
    call_map(c, 15u + 2u * a->q.explain);
    pk_kuint(k, "generation", a->x.generation);
    pk_kstr(k, "text", text);
    pk_cstr(k, "sentences");
    pk_array(k, w->n_sentences);
    for (size_t i = 0; i < w->n_sentences; i++) {
        pk_map(k, SENTENCE_PAIRS);
        n_citations += pack_sentence(a, k, text, &w->sentences[i]);
        atomic_fetch_add(&c->s->metrics.sentences[w->sentences[i].verdict], 1);
    }
    pk_cstr(k, "refusal");
    if (w->refusal == REFUSAL_NONE) {
        pk_nil(k);
    } else {
        pk_map(k, 2);
        pk_kcstr(k, "reason", refusal_name(w->refusal));
        pk_kcstr(k, "message", w->refusal_message ? w->refusal_message : "");
        atomic_fetch_add(&c->s->metrics.refusals, 1);
    }
    pk_kcstr(k, "model", model);
    pk_cstr(k, "usage");
    pk_map(k, 5);
    pk_kuint(k, "prompt_tokens", w->prompt_tokens);
    pk_kuint(k, "cached_tokens", w->cached_tokens);
    pk_kuint(k, "completion_tokens", w->completion_tokens);
    pk_kuint(k, "drafted_tokens", w->drafted_tokens);
    pk_kuint(k, "accepted_tokens", w->accepted_tokens);
    pk_kcstr(k, "mode", mode_names[w->mode]);
    pk_kcstr(k, "finish", w->finish);
    pk_knum(k, "support_score", (double)w->support_score);
    pk_kuint(k, "citations_dropped", w->citations_dropped);
    pk_kuint(k, "sources_used", w->sources_used);
    pk_khash(k, "prompt_hash", &w->prompt_hash);
    pk_kcstr(k, "answer_id", answer_id);
    pack_sources(a, k);
    pack_timings(k, &a->x, w, retrieve_us, cairn_now_us() - from_us);
    if (!c->caller->judging) {
        metrics_seen(c->s, SEEN_CHANCE, (double)w->evidence.chance);
        metrics_seen(c->s, SEEN_MARGIN, (double)w->evidence.margin);
    }
    if (a->q.explain) {
        pack_explain(k, &a->q, &a->x);
        pack_evidence(k, &w->evidence);
    }
    call_end(c);
    atomic_fetch_add(&c->s->metrics.prompt_tokens, w->prompt_tokens);
    atomic_fetch_add(&c->s->metrics.completion_tokens, w->completion_tokens);
    atomic_fetch_add(&c->s->metrics.citations, n_citations);
    atomic_fetch_add(&c->s->metrics.citations_dropped, w->citations_dropped);
}

static void ask_free(struct ask *a)
{
    if (a->answered)
        answer_release(&a->answer);
    retrieval_release(&a->x);
    for (size_t i = 0; a->stop && i < a->n_stops; i++)
        cairn_free(a->stop[i]);
    cairn_free(a->stop);
    cairn_free(a->stops);
    cairn_free(a->sources);
    cairn_buf_release(&a->event);
    cairn_buf_release(&a->text);
    cairn_free(a);
}

enum cairn_err m_ask(struct call *c)
{
    int64_t from = cairn_now_us(), retrieve_us = 0;
    struct ask *a = cairn_calloc(1, sizeof *a);
    if (!a)
        return cairn_fail(c->why, CAIRN_ENOMEM, "question");
    a->c = c;
    cairn_buf_init(&a->event, 1u << 20);
    cairn_buf_init(&a->text, 1u << 20);
    enum cairn_err err = ask_params(a);
    if (!err)
        err = query_open(c, &a->q);
    if (!err)
        err = ask_models(a);
    if (!err) {
        err = ask_sources(a);
        retrieve_us = cairn_now_us() - from;
    }
    if (!err)
        err = ask_answer(a);
    if (err)
        goto done;
    const char *model = a->answer.mode == ANSWER_EXTRACT || !a->decoder ? "" : decoder_name(a->decoder);
    char id[25] = "";
    if (conf_on(c->s, "api.keep_answers") && !c->s->read_only && !c->caller->judging) {
        struct cairn_why kept = {{0}};
        if (keep_answer(a, &a->answer, model, model[0] ? c->s->decoder_sha256 : "", a->want.seed, id,
                        &kept) != CAIRN_OK) {
            CAIRN_LOG(API, WARN, "answer record not stored why=\"%s\"", kept.text);
            call_warn(c, "the record of this answer was not stored: %.100s", kept.text);
            id[0] = 0;
        }
    }
    err = sources_hold(a); /* last of all: nothing of a deleted document leaves */
    if (!err)
        pack_answer(a, model, id[0] ? id : NULL, from, retrieve_us);
done:
    ask_free(a);
    return err;
}

/* ---- ground.check ---- */

static size_t code_points(const char *p, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        k += ((unsigned char)p[i] & 0xC0) != 0x80;
    return k;
}

/* How far code points have been counted in the text. */
struct counted {
    size_t byte, point;
};
static void put_claim(struct pk *k, struct cairn_str text, const struct ground_source *src, size_t n_sources,
                      const struct ground_sentence *t, struct counted *at)
{
    size_t cited = t->verdict == VERDICT_SUPPORTED ? t->n_evidence : 0;
    pk_map(k, 11);
    pk_kstr(k, "text", (struct cairn_str){text.p + t->start, t->end - t->start});
    pk_kuint(k, "start_pos", t->start);
    pk_kuint(k, "end_pos", t->end);
    at->point += code_points(text.p + at->byte, t->start - at->byte);
    pk_kuint(k, "start_point", at->point);
    at->point += code_points(text.p + t->start, t->end - t->start);
    pk_kuint(k, "end_point", at->point);
    at->byte = t->end;
    pk_kcstr(k, "verdict", verdict_name(t->verdict));
    pk_knum(k, "score", (double)t->score);
    pk_knum(k, "contradiction", (double)t->contradiction);
    pk_cstr(k, "citation_indices");
    pk_array(k, cited);
    for (size_t j = 0; j < cited; j++)
        pk_uint(k, t->evidence[j].source);
    pk_cstr(k, "evidence");
    pk_array(k, t->n_evidence);
    for (size_t j = 0; j < t->n_evidence; j++) {
        const struct ground_evidence *v = &t->evidence[j];
        struct cairn_str of = v->source < n_sources ? src[v->source].text : (struct cairn_str){"", 0};
        size_t end = v->end < of.len ? v->end : of.len, start = v->start < end ? v->start : end;
        pk_map(k, 5);
        pk_kuint(k, "source", v->source);
        pk_kuint(k, "start", start);
        pk_kuint(k, "end", end);
        pk_kstr(k, "text", (struct cairn_str){of.p + start, end - start});
        pk_knum(k, "score", (double)v->score);
    }
    pk_cstr(k, "flags");
    pk_array(k, t->n_flags);
    for (size_t j = 0; j < t->n_flags; j++) {
        const struct ground_flag *f = &t->flags[j];
        size_t from = code_points(text.p, f->start);
        pk_map(k, 7);
        pk_kcstr(k, "kind", f->kind);
        pk_kuint(k, "start", f->start);
        pk_kuint(k, "end", f->end);
        pk_kuint(k, "start_point", from);
        pk_kuint(k, "end_point", from + code_points(text.p + f->start, f->end - f->start));
        pk_kbool(k, "contradiction", f->contradiction);
        pk_knum(k, "confidence", (double)f->confidence);
    }
}

enum cairn_err m_ground_check(struct call *c)
{
    struct cairn_str text = {NULL, 0}, question = {"", 0}, language = {NULL, 0};
    const msgpack_object_array *list = NULL;
    double support_min = 0;
    struct ground_source src[GROUND_SOURCES_MAX];
    struct encoder *e = NULL;
    const struct ground_encoder *claims = NULL;
    struct grounding *g = NULL;
    struct ground_sentence *s = NULL;
    size_t n = 0;
    struct counted at = {0, 0};
    float support = 0, baseline = 0;
    char lang[24] = "english";
    (void)p_str(&c->p, "text", true, 1, GROUND_TEXT_BYTES_MAX, &text);
    (void)p_array(&c->p, "sources", true, GROUND_SOURCES_MAX, &list);
    (void)p_str(&c->p, "question", false, 0, QUERY_BYTES_MAX, &question);
    (void)p_str(&c->p, "language", false, 0, sizeof lang - 1, &language);
    (void)p_num(&c->p, "support_min", false, 0, 1, &support_min);
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    if (list->size == 0)
        return cairn_fail(c->why, CAIRN_EINVAL,
                          "param sources: empty; want at least one text to check against");
    for (uint32_t i = 0; i < list->size && !err; i++) {
        const msgpack_object *o = &list->ptr[i];
        src[i] = (struct ground_source){
            {NULL, 0},
            NULL
        };
        if (o->type == MSGPACK_OBJECT_STR) {
            src[i].text = (struct cairn_str){o->via.str.ptr, o->via.str.size};
        } else {
            char where[48];
            struct params p;
            snprintf(where, sizeof where, "param sources[%u].", i);
            p_open(&p, o, where, c->why);
            (void)p_str(&p, "text", true, 0, GROUND_SOURCE_BYTES_MAX, &src[i].text);
            err = p_close(&p, c);
        }
    }
    if (err)
        return err;
    if (support_min <= 0)
        support_min = cairn_config_num(c->s->config, "grounding.support_min");
    if (language.p) {
        memcpy(lang, language.p, language.len);
        lang[language.len] = 0;
    }
    if (service_has_model(c->s, MODEL_EMBEDDER))
        err = service_support_embedder(c->s, &e, &baseline, c->why);
    if (!err)
        err = service_claims(c->s, &claims, c->why);
    if (!err)
        err = grounding_open(&g, src, list->size,
                             &(struct ground_opts){.embedder = e,
                                                   .encoder = claims,
                                                   .language = lang,
                                                   .question = question,
                                                   .by_hand = !conf_on(c->s, "grounding.trained"),
                                                   .support_min = (float)support_min,
                                                   .embed_baseline = baseline,
                                                   .stop = c->stop},
                             c->why);
    if (!err)
        err = grounding_check_text(g, text, &s, &n, &support, c->why);
    if (!err) {
        struct pk *k = &c->out;
        call_map(c, 3);
        pk_knum(k, "support_score", (double)support);
        pk_knum(k, "p_unsupported", (double)grounding_chance(g));
        pk_cstr(k, "claims");
        pk_array(k, n);
        for (size_t i = 0; i < n; i++)
            put_claim(k, text, src, list->size, &s[i], &at);
        call_end(c);
    }
    cairn_free(s);
    grounding_close(g);
    return err;
}
