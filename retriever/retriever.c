/* retriever.c - the way of a question through the store and the encoders.
 * A first short view tells what the collection holds; the question is embedded with no view open; the second
 * view gives filter, both legs, fusion and the copies of what may be returned, all of one generation, and is
 * closed before the pair model runs. */
#include "retriever_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define EMBED_BATCH 32u /* texts of one call to the encoder, of similar length */
#define NO_QUESTION                                                                                          \
    0.5f /* share of the pair model's weight where the query is no question (docs/quality.md) */
#define SPARE_COPIES 20u /* beyond k, for duplicates that go behind */

const struct cairn_conf retriever_conf[] = {
    {"retriever.candidates",       400,  1,   1000, true,  "passages that each leg may bring"                },
    {"retriever.rerank_top",       20,   1,   200,  true,  "fused passages that the pair model reads"        },
    {"retriever.rrf_k",            60,   0,   1000, true,  "constant of reciprocal rank fusion"              },
    {"retriever.mmr_lambda",       1,    0,   1,    true,  "relevance against diversity; 1 = relevance only" },
    {"retriever.near_duplicate",   0.98, 0.5, 1.1,  true,
     "cosine from which passages with the same numbers are one; above 1 = off"                               },
    {"retriever.per_document_max", 0,    0,   1000, true,  "passages of one document in a result; 0 = no cap"},
    {"retriever.embed_title",      1,    0,   1,    false,
     "the title stands before the text of a passage when it is embedded"                                     },
    {"retriever.rerank_title",     1,    0,   1,    true,  "the pair model reads the title before the text"  },
};
const size_t retriever_conf_len = sizeof retriever_conf / sizeof retriever_conf[0];

struct retriever {
    struct store *store;
    struct encoder *embedder, *reranker;
    const struct cairn_config *config;
};

static double conf(const struct retriever *r, const char *key)
{
    if (r->config)
        return cairn_config_num(r->config, key);
    for (size_t i = 0; i < retriever_conf_len; i++)
        if (strcmp(retriever_conf[i].key, key) == 0)
            return retriever_conf[i].def;
    CAIRN_CHECK(!"a key of retriever_conf");
    return 0;
}

enum cairn_err retriever_open(struct retriever **out, struct store *s, struct encoder *embedder,
                              struct encoder *reranker, const struct cairn_config *config,
                              struct cairn_why *why)
{
    *out = NULL;
    struct retriever *r = cairn_calloc(1, sizeof(*r));
    if (!r)
        return cairn_fail(why, CAIRN_ENOMEM, "retriever");
    *r = (struct retriever){s, embedder, reranker, config};
    *out = r;
    return CAIRN_OK;
}

void retriever_close(struct retriever *r) { cairn_free(r); }

static void hit_release(struct retrieved *h)
{
    cairn_free(h->document_id);
    cairn_free(h->title);
    cairn_free(h->path);
    cairn_free(h->text);
    cairn_free(h->vector);
    *h = (struct retrieved){0};
}

void retrieval_release(struct retrieval *x)
{
    for (size_t i = 0; i < x->n_hits; i++)
        hit_release(&x->hits[i]);
    cairn_free(x->hits);
    cairn_free(x->query_vector);
    cairn_free(x->dense);
    *x = (struct retrieval){0};
}

/* ---- texts for the encoders
 * ----------------------------------------------------------------------------------------- */

/* Whether text says its title first: at its start, after heading marks. */
static bool begins_with_title(struct cairn_str text, struct cairn_str title)
{
    size_t at = 0;
    while (at < text.len &&
           (text.p[at] == '#' || text.p[at] == ' ' || text.p[at] == '\n' || text.p[at] == '\r'))
        at++;
    return text.len - at >= title.len && memcmp(text.p + at, title.p, title.len) == 0;
}

/* out[i] = "title\ntext" or the text as it is; the joined ones live in *joined (OWNED). */
static enum cairn_err with_titles(const struct cairn_str *titles, const struct cairn_str *texts, size_t n,
                                  bool titled, struct cairn_str *out, char **joined, struct cairn_why *why)
{
    size_t bytes = 0;
    *joined = NULL;
    for (int pass = 0; pass < 2; pass++) {
        size_t at = 0;
        for (size_t i = 0; i < n; i++) {
            struct cairn_str t = titled && titles ? titles[i] : (struct cairn_str){0};
            if (!t.len || begins_with_title(texts[i], t)) {
                out[i] = texts[i];
                continue;
            }
            size_t len = t.len + 1 + texts[i].len;
            if (pass == 0) {
                if (!cairn_add(bytes, len, &bytes))
                    return cairn_fail(why, CAIRN_ENOMEM, "texts to embed");
                continue;
            }
            char *to = *joined + at;
            memcpy(to, t.p, t.len);
            to[t.len] = '\n';
            memcpy(to + t.len + 1, texts[i].p, texts[i].len);
            out[i] = (struct cairn_str){to, len};
            at += len;
        }
        if (pass == 0 && bytes == 0)
            return CAIRN_OK;
        if (pass == 0 && !(*joined = cairn_malloc(bytes)))
            return cairn_fail(why, CAIRN_ENOMEM, "texts to embed, %zu bytes", bytes);
    }
    return CAIRN_OK;
}

struct by_length {
    struct cairn_str text;
    size_t index;
};

static int shorter(const void *a, const void *b)
{
    const struct by_length *x = a, *y = b;
    if (x->text.len != y->text.len)
        return x->text.len < y->text.len ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* Encodes texts of similar length together, so that little of a batch is padding. query: NULL to embed into
 * [n, width], else the pair model's logits [n]. */
static enum cairn_err encode(struct encoder *e, const struct cairn_str *query, const struct cairn_str *texts,
                             size_t n, size_t width, float *out, const struct cairn_stop *stop,
                             struct cairn_why *why)
{
    if (n == 0)
        return CAIRN_OK;
    struct by_length *order = cairn_reallocarray(NULL, n, sizeof(*order));
    float *got = cairn_reallocarray(NULL, EMBED_BATCH * width, sizeof(*got));
    enum cairn_err err = order && got ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "batch of %zu texts", n);
    for (size_t i = 0; i < n && !err; i++)
        order[i] = (struct by_length){texts[i], i};
    if (!err)
        qsort(order, n, sizeof(*order), shorter);
    for (size_t at = 0; at < n && !err; at += EMBED_BATCH) {
        struct cairn_str batch[EMBED_BATCH];
        size_t m = n - at < EMBED_BATCH ? n - at : EMBED_BATCH;
        for (size_t i = 0; i < m; i++)
            batch[i] = order[at + i].text;
        err = cairn_stopped(stop, why);
        if (!err)
            err = query ? encoder_score_pairs(e, *query, batch, m, got, stop, why)
                        : encoder_embed(e, batch, m, got, stop, why);
        for (size_t i = 0; i < m && !err; i++)
            memcpy(out + order[at + i].index * width, got + i * width, width * sizeof(*out));
    }
    cairn_free(order);
    cairn_free(got);
    return err;
}

enum cairn_err retriever_embed_passages(struct retriever *r, const struct cairn_str *titles,
                                        const struct cairn_str *texts, size_t n, float *out,
                                        const struct cairn_stop *stop, struct cairn_why *why)
{
    if (!r->embedder)
        return cairn_fail(why, CAIRN_ESTATE,
                          "no embedder is loaded: fetch one with scripts/models, or name it with --embedder");
    struct cairn_str *full = cairn_reallocarray(NULL, n ? n : 1, sizeof(*full));
    char *joined = NULL;
    enum cairn_err err = full ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "%zu texts to embed", n);
    if (!err)
        err = with_titles(titles, texts, n, conf(r, "retriever.embed_title") > 0, full, &joined, why);
    if (!err)
        err = encode(r->embedder, NULL, full, n, encoder_dim(r->embedder), out, stop, why);
    cairn_free(full);
    cairn_free(joined);
    return err;
}

static enum cairn_err embed_query(struct retriever *r, struct cairn_str query, float **out,
                                  const struct cairn_stop *stop, struct cairn_why *why)
{
    const char *prefix = encoder_query_prefix(r->embedder);
    struct cairn_buf b;
    cairn_buf_init(&b, 2 * QUERY_BYTES_MAX);
    cairn_buf_puts(&b, prefix ? prefix : "");
    cairn_buf_put(&b, query.p, query.len);
    *out = cairn_reallocarray(NULL, encoder_dim(r->embedder), sizeof(**out));
    enum cairn_err err = CAIRN_OK;
    if (b.failed || !*out)
        err = cairn_fail(why, CAIRN_ENOMEM, "query vector");
    else
        err = encoder_embed(r->embedder, &(struct cairn_str){b.bytes, b.len}, 1, *out, stop, why);
    cairn_buf_release(&b);
    return err;
}

/* ---- one retrieval
 * ------------------------------------------------------------------------------------------------------ */

struct run {
    struct retriever *r;
    const struct retrieve_request *q;
    struct retrieval *out;
    const struct cairn_stop *stop;
    struct cairn_why *why;
    struct collection_info info;
    bool lexical, dense, rerank;
    size_t k, per_document_max;
    float dense_weight, rerank_weight, mmr_lambda;
    enum fusion_kind fusion;
    struct store_hit *lexical_hits, *dense_hits;
    struct candidate *candidates;
    size_t n_candidates;
    struct retrieved *rows; /* copies of the first n_rows candidates */
    size_t n_rows;
};

static bool share(float v) { return v >= 0.0f && v <= 1.0f; }

static enum cairn_err check_request(const struct retrieve_request *q, struct cairn_why *why)
{
    if (!q->collection || !*q->collection)
        return cairn_fail(why, CAIRN_EINVAL, "no collection named");
    size_t at = 0;
    while (at < q->query.len && (unsigned char)q->query.p[at] <= ' ')
        at++;
    if (at == q->query.len)
        return cairn_fail(why, CAIRN_EINVAL, "the query is empty");
    if (q->query.len > QUERY_BYTES_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "the query has %zu bytes, more than %u: shorten it",
                          q->query.len, QUERY_BYTES_MAX);
    at = cairn_utf8_invalid_at(q->query.p, q->query.len);
    if (at < q->query.len)
        return cairn_fail(why, CAIRN_EINVAL, "the query is not valid UTF-8 at byte %zu", at);
    if (q->k > RETRIEVE_K_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "k = %zu is more than %u", q->k, RETRIEVE_K_MAX);
    if (q->legs & ~(unsigned)LEG_BOTH)
        return cairn_fail(why, CAIRN_EINVAL, "legs = %u: 1 lexical, 2 dense, 3 or 0 both", q->legs);
    if (q->fusion < -1 || q->fusion > FUSION_ZSCORE)
        return cairn_fail(why, CAIRN_EINVAL, "fusion = %d is not known", q->fusion);
    if ((q->dense_weight != RETRIEVE_DEFAULT && !share(q->dense_weight)) ||
        (q->rerank_weight != RETRIEVE_DEFAULT && !share(q->rerank_weight)) ||
        (q->mmr_lambda != RETRIEVE_DEFAULT && !share(q->mmr_lambda)))
        return cairn_fail(why, CAIRN_EINVAL,
                          "dense_weight, rerank_weight and mmr_lambda lie between 0 and 1");
    if (q->caller.n_principals > PRINCIPALS_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "%zu principals are more than %u", q->caller.n_principals,
                          PRINCIPALS_MAX);
    for (size_t i = 0; i < q->caller.n_principals; i++)
        if (q->caller.principals[i].len == 0 || q->caller.principals[i].len > PRINCIPAL_MAX)
            return cairn_fail(why, CAIRN_EINVAL, "principal %zu: 1 to %u bytes", i, PRINCIPAL_MAX);
    return CAIRN_OK;
}

bool asks(struct cairn_str query)
{
    static const char *const words[] = {"who",  "whom", "whose",    "what",    "which", "when", "where",
                                        "why",  "how",  "is",       "are",     "was",   "were", "do",
                                        "does", "did",  "can",      "could",   "will",  "may",  "must",
                                        "has",  "have", "in which", "at what", "should"};
    for (size_t i = query.len; i > 0; i--) { /* "?", or that of another script, at the end */
        if (query.p[i - 1] == '?')
            return true;
        if (i >= 3 &&
            (memcmp(query.p + i - 3, "\xEF\xBC\x9F", 3) == 0 || memcmp(query.p + i - 3, "\xD8\x9F", 2) == 0))
            return true;
        if (!strchr(" \t\r\n\"')", query.p[i - 1]))
            break;
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i]);
        if (query.len > n && strncasecmp(query.p, words[i], n) == 0 && strchr(" '\t", query.p[n]))
            return true;
    }
    return false;
}

/* Which legs run, and the collection's weights where the request has none. */
static enum cairn_err plan(struct run *x)
{
    const struct collection_opts *o = &x->info.opts;
    const struct retrieve_request *q = x->q;
    unsigned legs = q->legs ? q->legs : (unsigned)LEG_BOTH;
    bool has_vectors = o->dim > 0 && *o->embedder; /* else no model makes a question's vector */
    if (legs == LEG_DENSE && !has_vectors)
        return cairn_fail(x->why, CAIRN_ESTATE,
                          "collection %s holds no vectors of a model: ask its lexical leg", o->name);
    if (legs == LEG_DENSE && !x->r->embedder)
        return cairn_fail(x->why, CAIRN_ESTATE, "no embedder is loaded: load %s, or ask the lexical leg",
                          o->embedder);
    x->dense = (legs & LEG_DENSE) && has_vectors && x->r->embedder;
    x->lexical = (legs & LEG_LEXICAL) || !x->dense;
    if (x->dense && strcmp(o->embedder, encoder_name(x->r->embedder)) != 0)
        return cairn_fail(
            x->why, CAIRN_ESTATE,
            "collection %s holds vectors of %s, but %s is loaded: load %s, or ask the lexical leg", o->name,
            o->embedder, encoder_name(x->r->embedder), o->embedder);
    if (x->dense && o->dim != encoder_dim(x->r->embedder))
        return cairn_fail(
            x->why, CAIRN_ESTATE,
            "collection %s holds vectors of %u numbers, but %s gives %u: load the model it was made with",
            o->name, o->dim, o->embedder, encoder_dim(x->r->embedder));
    x->fusion = q->fusion == -1 ? o->fusion : (enum fusion_kind)q->fusion;
    x->dense_weight = q->dense_weight == RETRIEVE_DEFAULT ? o->dense_weight : q->dense_weight;
    x->rerank_weight = q->rerank_weight;
    if (q->rerank_weight ==
        RETRIEVE_DEFAULT) /* the pair model has learnt from questions, and says less of claims */
        x->rerank_weight = asks(q->query) ? o->rerank_weight : NO_QUESTION * o->rerank_weight;
    x->mmr_lambda =
        q->mmr_lambda == RETRIEVE_DEFAULT ? (float)conf(x->r, "retriever.mmr_lambda") : q->mmr_lambda;
    x->per_document_max =
        q->per_document_max ? q->per_document_max : (size_t)conf(x->r, "retriever.per_document_max");
    x->k = q->k ? q->k : 10;
    x->rerank = x->r->reranker && x->rerank_weight > 0;
    x->out->rerank_weight = x->rerank ? x->rerank_weight : 0;
    return CAIRN_OK;
}

/* The legs and their fusion, inside the view. */
static enum cairn_err search(struct run *x, struct store_view *v, const struct store_filter *f)
{
    size_t want = (size_t)conf(x->r, "retriever.candidates"), n_lexical = 0, n_dense = 0;
    if (want < x->k)
        want = x->k;
    x->lexical_hits = cairn_reallocarray(NULL, want, sizeof(*x->lexical_hits));
    x->dense_hits = cairn_reallocarray(NULL, want, sizeof(*x->dense_hits));
    x->candidates = cairn_reallocarray(NULL, 2 * want, sizeof(*x->candidates));
    if (!x->lexical_hits || !x->dense_hits || !x->candidates)
        return cairn_fail(x->why, CAIRN_ENOMEM, "%zu candidates", want);
    int64_t t0 = cairn_now_us();
    enum cairn_err err = CAIRN_OK;
    if (x->lexical)
        err = store_search_lexical(v, x->q->collection, x->q->query, f, want, x->lexical_hits, &n_lexical,
                                   x->stop, x->why);
    int64_t t1 = cairn_now_us();
    if (!err && x->dense)
        err = store_search_vector(v, x->q->collection, x->out->query_vector, x->info.opts.dim, f, want,
                                  &x->q->how, x->dense_hits, &n_dense, &x->out->plan, x->stop, x->why);
    int64_t t2 = cairn_now_us();
    if (err)
        return err;
    struct fusion how = {
        .kind = x->fusion, .dense_weight = x->dense_weight, .rrf_k = conf(x->r, "retriever.rrf_k")};
    x->n_candidates = fuse(&how, x->lexical ? x->lexical_hits : NULL, n_lexical,
                           x->dense ? x->dense_hits : NULL, n_dense, x->candidates);
    if (x->dense && x->q->with_dense) {
        x->out->dense_k = want;
        x->out->n_dense = n_dense;
        x->out->dense = cairn_reallocarray(NULL, n_dense ? n_dense : 1, sizeof(*x->out->dense));
        if (!x->out->dense)
            return cairn_fail(x->why, CAIRN_ENOMEM, "copy of %zu dense hits", n_dense);
        memcpy(x->out->dense, x->dense_hits, n_dense * sizeof(*x->out->dense));
    }
    x->out->lexical_us = t1 - t0;
    x->out->dense_us = t2 - t1;
    x->out->fuse_us = cairn_now_us() - t2;
    return CAIRN_OK;
}

static char *str_copy(struct cairn_str s) { return cairn_strndup(s.len ? s.p : "", s.len); }

static enum cairn_err copy_row(struct run *x, struct store_view *v, struct candidate *c)
{
    struct passage_info p;
    enum cairn_err err = store_passage_get(v, x->q->collection, c->passage_id, &p, x->why);
    if (err == CAIRN_ENOTFOUND) /* a leg named a passage that is not there */
        return cairn_fail(x->why, CAIRN_ECORRUPT,
                          "collection %s: passage %" PRIu64 " is indexed but absent: run `cairn debug check`",
                          x->q->collection, c->passage_id);
    if (err)
        return err;
    struct retrieved *h = &x->rows[x->n_rows];
    struct cairn_str file = p.document_path.len ? p.document_path : p.document_id;
    *h = (struct retrieved){.passage_id = p.id,
                            .document_id = str_copy(p.document_id),
                            .title = str_copy(p.title),
                            .text = str_copy(p.text),
                            .path = cairn_asprintf("%.*s%s%.*s", (int)file.len, file.len ? file.p : "",
                                                   p.path.len ? " > " : "", (int)p.path.len,
                                                   p.path.len ? p.path.p : ""),
                            .start = p.start,
                            .end = p.end,
                            .ordinal = p.ordinal,
                            .hash = p.hash};
    c->row = x->n_rows++; /* from here on the run releases it */
    if (!h->document_id || !h->title || !h->text || !h->path)
        return cairn_fail(x->why, CAIRN_ENOMEM, "copy of a passage");
    if (!x->info.opts.dim)
        return CAIRN_OK;
    h->vector = cairn_reallocarray(NULL, x->info.opts.dim, sizeof(*h->vector));
    if (!h->vector)
        return cairn_fail(x->why, CAIRN_ENOMEM, "copy of a vector");
    return store_passage_vector(v, x->q->collection, p.id, h->vector, x->why);
}

static enum cairn_err copy_rows(struct run *x, struct store_view *v)
{
    size_t rerank_top = x->rerank ? (size_t)conf(x->r, "retriever.rerank_top") : 0, n = x->k + SPARE_COPIES;
    if (n < rerank_top)
        n = rerank_top;
    if (n > x->n_candidates || x->per_document_max || x->mmr_lambda < 1.0f)
        n = x->n_candidates;
    x->n_candidates = n;
    x->rows = cairn_calloc(n, sizeof(*x->rows));
    if (!x->rows)
        return cairn_fail(x->why, CAIRN_ENOMEM, "copies of %zu passages", n);
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < n && !err; i++)
        err = copy_row(x, v, &x->candidates[i]);
    return err;
}

static enum cairn_err in_view(struct run *x, struct store_view *v)
{
    struct collection_info now;
    enum cairn_err err = store_collection_get(v, x->q->collection, &now, x->why);
    if (err)
        return err;
    if (now.id != x->info.id || now.opts.dim != x->info.opts.dim ||
        strcmp(now.opts.embedder, x->info.opts.embedder) != 0)
        return cairn_fail(x->why, CAIRN_EBUSY, "collection %s was replaced while it was searched: try again",
                          x->q->collection);
    x->out->generation = store_view_generation(v);
    x->out->dim = now.opts.dim;
    struct store_filter *f = NULL;
    err = store_filter_open(&f, v, x->q->collection, &x->q->caller, x->why);
    if (err)
        return err;
    x->out->n_allowed = store_filter_count(f);
    if (x->out->n_allowed)
        err = search(x, v, f);
    store_filter_close(f);
    if (err || !x->n_candidates)
        return err;
    int64_t t = cairn_now_us();
    err = copy_rows(x, v);
    x->out->copy_us = cairn_now_us() - t;
    return err;
}

static enum cairn_err rerank(struct run *x)
{
    size_t n = (size_t)conf(x->r, "retriever.rerank_top");
    if (n > x->n_candidates)
        n = x->n_candidates;
    struct cairn_str *texts = cairn_reallocarray(NULL, n, sizeof(*texts));
    struct cairn_str *titles = cairn_reallocarray(NULL, n, sizeof(*titles));
    struct cairn_str *full = cairn_reallocarray(NULL, n, sizeof(*full));
    float *logits = cairn_reallocarray(NULL, n, sizeof(*logits));
    char *joined = NULL;
    enum cairn_err err = texts && titles && full && logits
                             ? CAIRN_OK
                             : cairn_fail(x->why, CAIRN_ENOMEM, "%zu pairs to rerank", n);
    for (size_t i = 0; i < n && !err; i++) {
        const struct retrieved *h = &x->rows[x->candidates[i].row];
        texts[i] = cairn_str_of(h->text);
        titles[i] = cairn_str_of(h->title);
    }
    if (!err)
        err = with_titles(titles, texts, n, conf(x->r, "retriever.rerank_title") > 0, full, &joined, x->why);
    if (!err)
        err = encode(x->r->reranker, &x->q->query, full, n, 1, logits, x->stop, x->why);
    for (size_t i = 0; i < n && !err; i++)
        x->candidates[i].rerank = logits[i];
    if (!err)
        rerank_order(x->candidates, x->n_candidates, n, x->rerank_weight);
    cairn_free(texts);
    cairn_free(titles);
    cairn_free(full);
    cairn_free(logits);
    cairn_free(joined);
    return err;
}

/* Chooses among the copies and hands the chosen ones over. */
static enum cairn_err hand_over(struct run *x)
{
    struct copy *copies = cairn_calloc(x->n_rows, sizeof(*copies));
    if (!copies)
        return cairn_fail(x->why, CAIRN_ENOMEM, "selection of %zu passages", x->n_rows);
    for (size_t i = 0; i < x->n_rows; i++)
        copies[i] = (struct copy){cairn_str_of(x->rows[i].document_id), cairn_str_of(x->rows[i].text),
                                  x->rows[i].hash, x->rows[i].vector};
    struct selection s = {.k = x->k,
                          .per_document_max = x->per_document_max,
                          .mmr_lambda = x->mmr_lambda,
                          .near_duplicate = (float)conf(x->r, "retriever.near_duplicate"),
                          .dim = x->info.opts.dim};
    size_t n = x->n_candidates;
    enum cairn_err err = select_hits(&s, x->candidates, &n, copies, x->why);
    cairn_free(copies);
    if (err)
        return err;
    x->out->hits = cairn_calloc(n, sizeof(*x->out->hits));
    if (!x->out->hits)
        return cairn_fail(x->why, CAIRN_ENOMEM, "%zu hits", n);
    for (size_t i = 0; i < n; i++) {
        const struct candidate *c = &x->candidates[i];
        struct retrieved *h = &x->out->hits[i];
        *h = x->rows[c->row];
        x->rows[c->row] = (struct retrieved){0};
        h->score = c->score;
        h->lexical = c->lexical;
        h->dense = c->dense;
        h->fused = c->fused;
        h->rerank = c->rerank;
        if (!x->q->with_vectors) {
            cairn_free(h->vector);
            h->vector = NULL;
        }
    }
    x->out->n_hits = n;
    return CAIRN_OK;
}

static enum cairn_err look_up(struct run *x)
{
    struct store_view *v = NULL;
    enum cairn_err err = store_view_begin(&v, x->r->store, x->why);
    if (err)
        return err;
    err = store_collection_get(v, x->q->collection, &x->info, x->why);
    store_view_end(v);
    return err ? err : plan(x);
}

enum cairn_err retrieve(struct retriever *r, const struct retrieve_request *q, struct retrieval *out,
                        const struct cairn_stop *stop, struct cairn_why *why)
{
    *out = (struct retrieval){0};
    enum cairn_err err = check_request(q, why);
    if (err)
        return err;
    struct run x = {.r = r, .q = q, .out = out, .stop = stop, .why = why};
    err = look_up(&x);
    if (!err)
        err = cairn_stopped(stop, why);
    if (!err && x.dense) {
        int64_t t = cairn_now_us();
        err = embed_query(r, q->query, &out->query_vector, stop, why);
        out->embed_us = cairn_now_us() - t;
    }
    struct store_view *v = NULL;
    if (!err)
        err = store_view_begin(&v, r->store, why);
    if (!err) {
        err = in_view(&x, v);
        store_view_end(v);
    }
    if (!err && x.rerank && x.n_candidates) {
        int64_t t = cairn_now_us();
        err = rerank(&x);
        out->rerank_us = cairn_now_us() - t;
    }
    if (!err && x.n_candidates)
        err = hand_over(&x);
    for (size_t i = 0; i < x.n_rows; i++)
        hit_release(&x.rows[i]);
    cairn_free(x.rows);
    cairn_free(x.lexical_hits);
    cairn_free(x.dense_hits);
    cairn_free(x.candidates);
    if (err)
        retrieval_release(out);
    return err;
}
