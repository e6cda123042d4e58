/* api/methods_docs.c - collections and documents.
 * A write prepares everything first (parse, split, embed: seconds) without any lock or view, then takes the
 * writer's lock, looks again at what it relies on, and commits one batch (milliseconds). So a slow put never
 * holds up another writer or a page of the map. */
#include "internal.h"

#define EMBED_STEP 32u /* passages embedded between two looks at the stop token */

static const char *const fusion_names[] = {"minmax", "rrf", "zscore", NULL};

/* ---- collections ---- */

enum cairn_err collection_defaults(struct call *c, const char *name, bool is_public,
                                   struct collection_opts *o, struct cairn_why *why)
{
    *o = (struct collection_opts){.language = "english",
                                  .metric = METRIC_COSINE,
                                  .is_public = is_public,
                                  .fusion = RETRIEVE_FUSION,
                                  .dense_weight = RETRIEVE_DENSE_WEIGHT,
                                  .rerank_weight = RETRIEVE_RERANK_WEIGHT};
    snprintf(o->name, sizeof o->name, "%s", name);
    return service_embedder_for_new(c->s, o->embedder, &o->dim, why);
}

static void pack_collection(struct call *c, struct store_view *v, const struct collection_info *i,
                            bool outermost)
{
    const struct collection_opts *o = &i->opts;
    struct store_filter *f;
    uint64_t allowed = i->n_passages;
    bool all = c->who.all;
    if (!all && store_filter_open(&f, v, o->name, &c->who, NULL) == CAIRN_OK) {
        allowed = store_filter_count(f);
        store_filter_close(f);
    } else if (!all) {
        allowed = 0;
    }
    /* who may not see everything is not told how much there is */
    pk_map(&c->out, 12u + all + (outermost && c->n_warnings > 0));
    pk_kcstr(&c->out, "collection", o->name);
    pk_kcstr(&c->out, "language", o->language);
    pk_kcstr(&c->out, "embedder", o->embedder);
    pk_kuint(&c->out, "dim", o->dim);
    pk_kcstr(&c->out, "metric", vector_metric_names[o->metric <= METRIC_L2 ? o->metric : METRIC_COSINE]);
    pk_kcstr(&c->out, "index", vector_kind_names[o->index <= VECTOR_IVF ? o->index : VECTOR_AUTO]);
    pk_kbool(&c->out, "public", o->is_public);
    pk_kcstr(&c->out, "fusion", fusion_names[o->fusion]);
    pk_knum(&c->out, "dense_weight", (double)o->dense_weight);
    pk_knum(&c->out, "rerank_weight", (double)o->rerank_weight);
    pk_kuint(&c->out, "generation", i->generation);
    pk_kuint(&c->out, "n_passages", allowed);
    if (all)
        pk_kuint(&c->out, "n_documents", i->n_documents);
}

static void read_weights(struct call *c, struct collection_opts *o)
{
    double dense = (double)o->dense_weight, rerank = (double)o->rerank_weight;
    int fusion = (int)o->fusion, index = (int)o->index;
    (void)p_bool(&c->p, "public", &o->is_public);
    (void)p_enum(&c->p, "fusion", fusion_names, &fusion);
    (void)p_num(&c->p, "dense_weight", false, 0, 1, &dense);
    (void)p_num(&c->p, "rerank_weight", false, 0, 1, &rerank);
    (void)p_enum(&c->p, "index", vector_kind_names, &index);
    o->fusion = (enum fusion_kind)fusion;
    o->index = (enum vector_kind)index;
    o->dense_weight = (float)dense;
    o->rerank_weight = (float)rerank;
}

/* Commits, or aborts where err says so. */
static enum cairn_err end_batch(struct call *c, struct store_batch *b, enum cairn_err err,
                                uint64_t *generation)
{
    if (err) {
        store_batch_abort(b);
        return err;
    }
    return store_batch_commit(b, generation, c->why);
}

/* Ends the batch and replies {generation, collection}. */
static enum cairn_err reply_changed(struct call *c, struct store_batch *b, enum cairn_err err,
                                    const char *name)
{
    uint64_t generation;
    err = end_batch(c, b, err, &generation);
    if (err)
        return err;
    call_map(c, 2);
    pk_kuint(&c->out, "generation", generation);
    pk_kcstr(&c->out, "collection", name);
    call_end(c);
    return CAIRN_OK;
}

enum cairn_err m_collection_create(struct call *c)
{
    struct collection_opts o = {.language = "english",
                                .metric = METRIC_COSINE,
                                .is_public = true,
                                .fusion = RETRIEVE_FUSION,
                                .dense_weight = RETRIEVE_DENSE_WEIGHT,
                                .rerank_weight = RETRIEVE_RERANK_WEIGHT};
    struct cairn_str language = {NULL, 0}, embedder = {NULL, 0};
    uint64_t dim = 0;
    int metric = METRIC_COSINE;
    (void)p_collection(&c->p, o.name);
    (void)p_str(&c->p, "language", false, 0, sizeof o.language - 1, &language);
    (void)p_str(&c->p, "embedder", false, 0, sizeof o.embedder - 1, &embedder);
    (void)p_uint(&c->p, "dim", false, 1, VECTOR_DIM_MAX, &dim);
    bool has_metric = p_enum(&c->p, "metric", vector_metric_names, &metric);
    read_weights(c, &o);
    enum cairn_err err = p_close(&c->p, NULL);
    if (err)
        return err;
    if (language.p) {
        memcpy(o.language, language.p, language.len);
        o.language[language.len] = 0;
    }
    if (o.language[0]) { /* the store would find out at the first word; say it now */
        struct cairn_analyzer *a;
        err = cairn_analyzer_open(&a, &(struct cairn_analyzer_opts){.language = o.language}, c->why);
        if (err)
            return cairn_wrap(c->why, CAIRN_EINVAL, "param language");
        cairn_analyzer_close(a);
    }
    bool goes_without = embedder.p && (!embedder.len || wire_str_is(embedder, "none"));
    if (dim && embedder.p && !goes_without)
        return cairn_fail(
            c->why, CAIRN_EINVAL,
            "param dim: of a collection whose clients bring the vectors; leave out embedder, or dim");
    if (has_metric && !dim)
        return cairn_fail(c->why, CAIRN_EINVAL, "param metric: wants dim too; an embedder's is cosine");
    if (dim) {
        o.dim = (uint32_t)dim;
        o.metric = (enum vector_metric)metric;
    } else if (!goes_without) {
        err = service_embedder_for_new(c->s, o.embedder, &o.dim, c->why);
        if (err)
            return err;
        if (embedder.p && !wire_str_is(embedder, o.embedder))
            return cairn_fail(
                c->why, CAIRN_ESTATE,
                "param embedder: this service embeds with \"%s\"; start it with --embedder %.*s",
                o.embedder[0] ? o.embedder : "none", (int)embedder.len, embedder.p);
    }
    struct store_batch *b;
    uint64_t generation;
    err = store_batch_begin(&b, c->s->store, c->why);
    if (err)
        return err;
    err = store_collection_create(b, &o, c->why);
    err = end_batch(c, b, err, &generation);
    if (err)
        return err;
    call_map(c, 4);
    pk_kuint(&c->out, "generation", generation);
    pk_kcstr(&c->out, "collection", o.name);
    pk_kcstr(&c->out, "embedder", o.embedder);
    pk_kuint(&c->out, "dim", o.dim);
    call_end(c);
    return CAIRN_OK;
}

enum cairn_err m_collection_update(struct call *c)
{
    char name[COLLECTION_NAME_MAX + 1] = "";
    (void)p_collection(&c->p, name);
    if (c->p.err)
        return c->p.err;
    struct store_batch *b;
    struct store_view *v = NULL;
    struct collection_info info;
    enum cairn_err err = store_batch_begin(&b, c->s->store, c->why);
    if (err)
        return err;
    err = store_view_begin(&v, c->s->store, c->why); /* nobody else writes now: what it shows is the latest */
    if (!err)
        err = store_collection_get(v, name, &info, c->why);
    store_view_end(v);
    if (!err) {
        read_weights(c, &info.opts);
        err = p_close(&c->p, NULL);
    }
    if (!err)
        err = store_collection_update(b, &info.opts, c->why);
    return reply_changed(c, b, err, name);
}

enum cairn_err m_collection_list(struct call *c)
{
    struct store_view *v;
    struct collection_info *list = NULL;
    size_t n = 0;
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    err = store_view_begin(&v, c->s->store, c->why);
    if (err)
        return err;
    err = store_collection_list(v, &list, &n, c->why);
    if (!err) {
        call_map(c, 2);
        pk_kuint(&c->out, "generation", store_view_generation(v));
        pk_cstr(&c->out, "collections");
        pk_array(&c->out, n);
        for (size_t i = 0; i < n; i++)
            pack_collection(c, v, &list[i], false);
        call_end(c);
    }
    store_view_end(v);
    cairn_free(list);
    return err;
}

enum cairn_err m_collection_describe(struct call *c)
{
    char name[COLLECTION_NAME_MAX + 1] = "";
    struct store_view *v;
    struct collection_info info;
    (void)p_collection(&c->p, name);
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    err = store_view_begin(&v, c->s->store, c->why);
    if (err)
        return err;
    err = store_collection_get(v, name, &info, c->why);
    if (!err) {
        pack_collection(c, v, &info, true);
        call_end(c);
    }
    store_view_end(v);
    return err;
}

enum cairn_err m_collection_drop(struct call *c)
{
    char name[COLLECTION_NAME_MAX + 1] = "";
    (void)p_collection(&c->p, name);
    enum cairn_err err = p_close(&c->p, NULL);
    if (err)
        return err;
    struct store_batch *b;
    err = store_batch_begin(&b, c->s->store, c->why);
    if (err)
        return err;
    err = store_collection_drop(b, name, c->why);
    return reply_changed(c, b, err, name);
}

/* ---- prepared documents ---- */

void prepared_free(struct prepared *d)
{
    if (!d)
        return;
    loader_document_free(d->doc);
    cairn_free(d->id);
    cairn_free(d->title);
    cairn_free(d->path);
    cairn_free(d->mime);
    for (size_t i = 0; d->principals && i < d->n_principals; i++)
        cairn_free(d->principals[i]);
    cairn_free(d->principals);
    cairn_free(d->vectors);
    cairn_free(d->have_vector);
    cairn_free(d);
}

enum cairn_err prepared_check_id(struct cairn_str id, struct cairn_why *why)
{
    if (id.len == 0 || id.len > DOCUMENT_ID_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "an id of %zu bytes, want 1..%u", id.len, DOCUMENT_ID_MAX);
    for (size_t i = 0; i < id.len; i++)
        if ((unsigned char)id.p[i] < 0x20 || id.p[i] == 0x7f)
            return cairn_fail(why, CAIRN_EINVAL, "the id has a control character at byte %zu", i);
    if (cairn_utf8_invalid_at(id.p, id.len) < id.len)
        return cairn_fail(why, CAIRN_EINVAL, "the id is not UTF-8 at byte %zu",
                          cairn_utf8_invalid_at(id.p, id.len));
    return CAIRN_OK;
}

static struct cairn_str passage_text(const struct prepared *d, size_t i)
{
    const struct loader_passage *p = &d->doc->passages[i];
    return (struct cairn_str){d->doc->text + p->start, p->end - p->start};
}

static const char *title_of(const struct prepared *d)
{
    return d->title ? d->title : d->doc->title ? d->doc->title : "";
}

/* Vectors of passages that the stored version of the document has too. A vector may depend on the title, so
 * another title means none is kept. They are copied: the stored version may be gone when the batch is
 * written. */
static enum cairn_err keep_vectors(struct call *c, struct store_view *v, const char *collection, uint32_t dim,
                                   struct prepared *d, struct cairn_why *why)
{
    struct document_info old;
    struct store_caller all = {.all = true};
    enum cairn_err err = store_document_get(v, collection, cairn_str_of(d->id), &all, &old, NULL, why);
    if (err == CAIRN_ENOTFOUND)
        return CAIRN_OK;
    (void)c;
    if (err || old.title.len != strlen(title_of(d)) || memcmp(old.title.p, title_of(d), old.title.len) != 0)
        return err;
    for (size_t i = 0; i < d->doc->n_passages; i++) {
        struct cairn_str t = passage_text(d, i);
        struct cairn_hash h = cairn_hash_bytes(t.p, t.len);
        err = store_vector_by_hash(v, collection, cairn_str_of(d->id), &h, d->vectors + i * dim, why);
        if (err && err != CAIRN_ENOTFOUND)
            return err;
        d->have_vector[i] = err == CAIRN_OK;
    }
    return CAIRN_OK;
}

static enum cairn_err embed_missing(struct call *c, struct prepared **docs, size_t n, uint32_t dim,
                                    uint64_t *embedded, struct cairn_why *why)
{
    size_t total = 0, at = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < docs[i]->doc->n_passages; k++)
            total += !docs[i]->have_vector[k];
    *embedded = total;
    if (!total)
        return CAIRN_OK;
    struct retriever *r;
    enum cairn_err err = service_retriever_with(c->s, true, false, &r, why);
    if (err)
        return err;
    struct cairn_str *titles = cairn_calloc(total, sizeof *titles),
                     *texts = cairn_calloc(total, sizeof *texts);
    float **to = cairn_calloc(total, sizeof *to),
          *out = cairn_reallocarray(NULL, (size_t)EMBED_STEP * dim, sizeof *out);
    if (!titles || !texts || !to || !out) {
        err = cairn_fail(why, CAIRN_ENOMEM, "%zu passages to embed", total);
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < docs[i]->doc->n_passages; k++) {
            if (docs[i]->have_vector[k])
                continue;
            titles[at] = cairn_str_of(title_of(docs[i]));
            texts[at] = passage_text(docs[i], k);
            to[at++] = docs[i]->vectors + k * dim;
        }
    }
    for (at = 0; at < total; at += EMBED_STEP) {
        size_t m = total - at < EMBED_STEP ? total - at : EMBED_STEP;
        err = cairn_stopped(c->stop, why);
        if (!err)
            err = retriever_embed_passages(r, titles + at, texts + at, m, out, c->stop, why);
        if (err)
            goto done;
        for (size_t i = 0; i < m; i++)
            memcpy(to[at + i], out + i * dim, dim * sizeof *out);
    }
done:
    cairn_free(titles);
    cairn_free(texts);
    cairn_free(to);
    cairn_free(out);
    return err;
}

static enum cairn_err put_one(struct store_batch *b, const char *collection, const struct prepared *d,
                              uint32_t dim, struct cairn_why *why)
{
    const struct loader_document *doc = d->doc;
    struct store_passage *p = cairn_calloc(doc->n_passages, sizeof *p);
    struct cairn_str *names = cairn_calloc(d->n_principals, sizeof *names);
    enum cairn_err err;
    if (!p || !names) {
        err = cairn_fail(why, CAIRN_ENOMEM, "document %s", d->id);
    } else {
        for (size_t i = 0; i < doc->n_passages; i++)
            p[i] = (struct store_passage){doc->passages[i].start, doc->passages[i].end,
                                          cairn_str_of(doc->passages[i].path),
                                          dim ? d->vectors + i * dim : NULL};
        for (size_t i = 0; i < d->n_principals; i++)
            names[i] = cairn_str_of(d->principals[i]);
        err = store_put(b, collection,
                        &(struct store_document){
                            .id = cairn_str_of(d->id),
                            .title = cairn_str_of(title_of(d)),
                            .path = cairn_str_of(d->path ? d->path : ""),
                            .mime = cairn_str_of(d->mime ? d->mime : ""),
                            .text = {doc->text, doc->text_len},
                            .content_hash = d->content_hash,
                            .modified_us = d->modified_us,
                            .principals = names,
                            .n_principals = d->n_principals,
                            .passages = p,
                            .n_passages = doc->n_passages
        },
                        why);
    }
    cairn_free(p);
    cairn_free(names);
    return err ? cairn_wrap(why, err, "document %.200s", d->id) : CAIRN_OK;
}

/* A caller who does not see everything may not overwrite what it does not see. */
static enum cairn_err may_replace(struct call *c, struct store_view *v, const char *collection,
                                  const struct prepared *d, struct cairn_why *why)
{
    struct document_info info;
    struct store_caller all = {.all = true};
    if (c->who.all)
        return CAIRN_OK;
    enum cairn_err err = store_document_get(v, collection, cairn_str_of(d->id), &all, &info, NULL, why);
    if (err)
        return err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
    err = store_document_get(v, collection, cairn_str_of(d->id), &c->who, &info, NULL, why);
    return err == CAIRN_ENOTFOUND
               ? cairn_fail(why, CAIRN_EDENIED, "document %.200s: this id is not yours to replace", d->id)
               : err;
}

/* Who may read the stored version may read the new one: an ACL goes only when a put says so. */
static enum cairn_err keep_acl(struct store_view *v, const char *collection, struct prepared *d,
                               struct cairn_why *why)
{
    struct document_info old;
    struct store_caller all = {.all = true};
    for (size_t i = 0; d->principals && i < d->n_principals; i++) /* of an earlier try */
        cairn_free(d->principals[i]);
    d->n_principals = 0;
    enum cairn_err err = store_document_get(v, collection, cairn_str_of(d->id), &all, &old, NULL, why);
    if (err)
        return err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
    char **names = cairn_reallocarray(d->principals, old.n_principals ? old.n_principals : 1, sizeof *names);
    if (!names)
        return cairn_fail(why, CAIRN_ENOMEM, "document %.200s", d->id);
    d->principals = names;
    for (; d->n_principals < old.n_principals; d->n_principals++)
        if (!(names[d->n_principals] = str_dup(old.principals[d->n_principals])))
            return cairn_fail(why, CAIRN_ENOMEM, "document %.200s", d->id);
    return CAIRN_OK;
}

enum cairn_err put_batch(struct call *c, const char *collection, const struct collection_opts *want,
                         struct prepared **docs, size_t n, struct put_totals *t, struct cairn_why *why)
{
    struct store_view *v = NULL;
    struct store_batch *b = NULL;
    struct collection_info info;
    struct encoder *e;
    bool brought = n && docs[0]->brought;
    t->refused = false;
    enum cairn_err err = store_view_begin(&v, c->s->store, why);
    if (err)
        return err;
    err = store_collection_get(v, collection, &info, why);
    bool exists = err == CAIRN_OK;
    if (err == CAIRN_ENOTFOUND && want) {
        info = (struct collection_info){.opts = *want};
        err = CAIRN_OK;
    } else if (err == CAIRN_ENOTFOUND) {
        err = cairn_fail(why, CAIRN_ENOTFOUND,
                         "no collection %s; make it with collection.create, or put with create: true",
                         collection);
    }
    uint32_t dim = err ? 0 : info.opts.dim;
    if (!err && dim && !*info.opts.embedder && !brought)
        err =
            cairn_fail(why, CAIRN_ESTATE,
                       "the vectors of collection %s are brought by its clients; use vector.put", collection);
    else if (!err && brought && (!dim || *info.opts.embedder))
        err = cairn_fail(why, CAIRN_ESTATE,
                         "collection %s %s; vector.put wants one made by collection.create with dim",
                         collection, dim ? "embeds its documents itself" : "holds no vectors");
    else if (!err && dim && !brought)
        err = service_embedder_matches(c->s, &info.opts, &e, why);
    uint64_t embedded = 0, passages = 0;
    for (size_t i = 0; i < n && !err; i++) {
        size_t m = docs[i]->doc->n_passages;
        passages += m;
        if (brought) {
            err = exists ? may_replace(c, v, collection, docs[i], why) : CAIRN_OK;
            continue;
        }
        cairn_free(docs[i]->vectors);
        cairn_free(docs[i]->have_vector);
        docs[i]->have_vector = cairn_calloc(m, sizeof(bool));
        docs[i]->vectors = dim ? cairn_reallocarray(NULL, m * dim, sizeof(float)) : NULL;
        if (!docs[i]->have_vector || (dim && !docs[i]->vectors))
            err = cairn_fail(why, CAIRN_ENOMEM, "vectors of document %.200s", docs[i]->id);
        else if (exists)
            err = may_replace(c, v, collection, docs[i], why);
        if (!err && dim && exists)
            err = keep_vectors(c, v, collection, dim, docs[i], why);
    }
    store_view_end(v);
    v = NULL;
    if (!err && dim && !brought)
        err = embed_missing(c, docs, n, dim, &embedded, why);
    if (!err)
        err = cairn_stopped(c->stop, why);
    if (!err)
        err = store_batch_begin(&b, c->s->store, why);
    if (err)
        return err;
    /* The collection may have come, gone or changed meanwhile; from here on nothing moves. */
    struct collection_info now;
    err = store_view_begin(&v, c->s->store, why);
    if (!err) {
        err = store_collection_get(v, collection, &now, why);
        if (err == CAIRN_ENOTFOUND && want)
            err = store_collection_create(b, want, why);
        else if (!err && (now.opts.dim != dim || strcmp(now.opts.embedder, info.opts.embedder) != 0))
            err = cairn_fail(why, CAIRN_EBUSY, "collection %s was replaced meanwhile; try again", collection);
        for (size_t i = 0; i < n && !err; i++) {
            err = may_replace(c, v, collection, docs[i], why);
            if (!err && docs[i]->keep_acl)
                err = keep_acl(v, collection, docs[i], why);
        }
        store_view_end(v);
    }
    for (size_t i = 0; i < n && !err; i++) {
        err = put_one(b, collection, docs[i], dim, why);
        t->refused = err == CAIRN_EINVAL || err == CAIRN_EFULL;
        if (err && brought)
            err = cairn_wrap(why, err, "param vectors[%zu]", i);
    }
    if (err) {
        store_batch_abort(b);
        return err;
    }
    err = store_batch_commit(b, &t->generation, why);
    if (err)
        return err;
    t->put += n;
    t->passages += passages;
    t->embedded += embedded;
    atomic_fetch_add(&c->s->metrics.put, n);
    atomic_fetch_add(&c->s->metrics.embedded, embedded);
    return CAIRN_OK;
}

/* ---- doc.put ---- */

static enum loader_format format_of(struct cairn_str mime)
{
    static const struct {
        const char *mime;
        enum loader_format f;
    } known[] = {
        {"text/plain",            LOADER_TEXT    },
        {"text/markdown",         LOADER_MARKDOWN},
        {"text/html",             LOADER_HTML    },
        {"application/xhtml+xml", LOADER_HTML    }
    };
    const char *semi = mime.len ? memchr(mime.p, ';', mime.len) : NULL;
    struct cairn_str m = {mime.p, semi ? (size_t)(semi - mime.p) : mime.len};
    while (m.len && m.p[m.len - 1] == ' ')
        m.len--;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (wire_str_is(m, known[i].mime))
            return known[i].f;
    return LOADER_UNKNOWN;
}

enum cairn_err prepared_principals(struct call *c, const char *where, const struct cairn_str *names, size_t n,
                                   struct prepared *d)
{
    bool admin = c->caller->local || c->caller->role == ROLE_ADMIN;
    d->principals = cairn_calloc(n, sizeof *d->principals);
    if (!d->principals)
        return cairn_fail(c->why, CAIRN_ENOMEM, "%sprincipals", where);
    for (size_t k = 0; k < n; k++) {
        bool held = admin || wire_str_is(names[k], "everyone");
        for (size_t h = 0; h < c->caller->n_principals && !held; h++)
            held = c->caller->principals[h].len == names[k].len &&
                   memcmp(c->caller->principals[h].p, names[k].p, names[k].len) == 0;
        if (names[k].len == 0)
            return cairn_fail(c->why, CAIRN_EINVAL, "%sprincipals[%zu]: empty", where, k);
        if (!held)
            return cairn_fail(c->why, CAIRN_EDENIED,
                              "%sprincipals[%zu]: the key does not hold this principal", where, k);
        if (!(d->principals[d->n_principals++] = str_dup(names[k])))
            return cairn_fail(c->why, CAIRN_ENOMEM, "%sprincipals", where);
    }
    return CAIRN_OK;
}

static enum cairn_err prepare_params(struct call *c, const msgpack_object *o, uint32_t i,
                                     struct prepared **out)
{
    char where[48];
    struct params p;
    struct cairn_str id = {NULL, 0}, title = {NULL, 0}, text = {NULL, 0}, content = {NULL, 0},
                     mime = {NULL, 0}, path = {NULL, 0};
    struct cairn_str *names = NULL;
    size_t n_names = 0, max = conf_size(c->s, "loaders.file_bytes_max");
    uint64_t modified = 0;
    *out = NULL;
    snprintf(where, sizeof where, "param documents[%u].", i);
    p_open(&p, o, where, c->why);
    (void)p_str(&p, "id", true, 1, DOCUMENT_ID_MAX, &id);
    (void)p_str(&p, "title", false, 0, 4096, &title);
    (void)p_str(&p, "path", false, 0, 4096, &path);
    (void)p_str(&p, "text", false, 0, max, &text);
    (void)p_bin(&p, "content", max, &content);
    (void)p_str(&p, "mime", false, 1, 128, &mime);
    (void)p_uint(&p, "modified_us", false, 0, INT64_MAX, &modified);
    (void)p_strs(&p, "principals", false, PRINCIPALS_MAX, PRINCIPAL_MAX, &names, &n_names);
    enum cairn_err err = p_close(&p, NULL);
    struct prepared *d = NULL;
    if (!err)
        err = prepared_check_id(id, c->why);
    if (!err && (text.p != NULL) == (content.p != NULL))
        err = cairn_fail(c->why, CAIRN_EINVAL,
                         "%stext: want either text (a string) or content (a bin), and not both", where);
    enum loader_format format = mime.p ? format_of(mime) : LOADER_UNKNOWN;
    if (!err && mime.p && format == LOADER_UNKNOWN)
        err =
            cairn_fail(c->why, CAIRN_EINVAL, "%smime: \"%.*s\", want text/plain, text/markdown or text/html",
                       where, (int)mime.len, mime.p);
    bool keep = !p_has(&p, "principals");
    if (err)
        goto done;
    err = cairn_fail(c->why, CAIRN_ENOMEM, "documents[%u]", i);
    d = cairn_calloc(1, sizeof *d);
    if (!d || !(d->id = str_dup(id)) || (title.p && title.len && !(d->title = str_dup(title))) ||
        (path.p && !(d->path = str_dup(path))))
        goto done;
    d->keep_acl = keep;
    err = prepared_principals(c, where, names, n_names, d);
    if (err)
        goto done;
    struct cairn_str bytes = text.p ? text : content;
    if (format == LOADER_UNKNOWN && text.p) {
        format = loader_detect(d->id, bytes.p, bytes.len);
        if (format == LOADER_UNKNOWN)
            format = LOADER_TEXT; /* it came as a string: it is text whatever its id looks like */
    }
    err = loader_parse(&d->doc, d->id, bytes.p, bytes.len, format, c->s->config, c->why);
    if (err) {
        err = cairn_wrap(c->why, err == CAIRN_ECORRUPT ? CAIRN_EINVAL : err, "document %.200s", d->id);
        goto done;
    }
    d->content_hash = d->doc->content_hash;
    d->modified_us = (int64_t)modified;
    d->mime = cairn_strdup(loader_mime(d->doc->format));
    if (!d->mime)
        err = cairn_fail(c->why, CAIRN_ENOMEM, "documents[%u]", i);
done:
    cairn_free(names);
    if (err)
        prepared_free(d);
    else
        *out = d;
    return err;
}

enum cairn_err m_doc_put(struct call *c)
{
    char name[COLLECTION_NAME_MAX + 1] = "";
    const msgpack_object_array *a = NULL;
    bool create = false;
    (void)p_collection(&c->p, name);
    (void)p_array(&c->p, "documents", true, conf_size(c->s, "api.put_documents_max"), &a);
    (void)p_bool(&c->p, "create", &create);
    enum cairn_err err = p_close(&c->p, NULL);
    if (err)
        return err;
    if (create && !c->caller->local && c->caller->role != ROLE_ADMIN)
        return cairn_fail(c->why, CAIRN_EDENIED, "param create: making a collection needs the role admin");
    if (a->size == 0)
        return cairn_fail(c->why, CAIRN_EINVAL, "param documents: empty; want at least one document");
    struct prepared **docs = cairn_calloc(a->size, sizeof *docs);
    struct put_totals t = {0};
    struct collection_opts want;
    if (!docs)
        return cairn_fail(c->why, CAIRN_ENOMEM, "%u documents", a->size);
    for (uint32_t i = 0; i < a->size && !err; i++) {
        err = prepare_params(c, &a->ptr[i], i, &docs[i]);
        for (uint32_t j = 0; j < i && !err; j++)
            if (strcmp(docs[i]->id, docs[j]->id) == 0)
                err = cairn_fail(c->why, CAIRN_EINVAL, "param documents[%u].id: the same as documents[%u].id",
                                 i, j);
        if (!err)
            err = cairn_stopped(c->stop, c->why);
    }
    if (!err && create) {
        struct store_view *v;
        struct collection_info info;
        err = store_view_begin(&v, c->s->store, c->why);
        if (!err) {
            create = store_collection_get(v, name, &info, NULL) == CAIRN_ENOTFOUND;
            store_view_end(v);
        }
        if (!err && create)
            err = collection_defaults(c, name, true, &want, c->why);
    }
    if (!err)
        err = put_batch(c, name, create ? &want : NULL, docs, a->size, &t, c->why);
    for (uint32_t i = 0; i < a->size; i++)
        prepared_free(docs[i]);
    cairn_free(docs);
    if (err)
        return err;
    call_map(c, 4);
    pk_kuint(&c->out, "generation", t.generation);
    pk_kuint(&c->out, "put", t.put);
    pk_kuint(&c->out, "passages", t.passages);
    pk_kuint(&c->out, "embedded", t.embedded);
    call_end(c);
    return CAIRN_OK;
}

/* ---- doc.get, list, delete ---- */

static void pack_document(struct pk *k, const struct document_info *d, size_t more)
{
    pk_map(k, 9 + more);
    pk_kstr(k, "id", d->id);
    pk_kstr(k, "title", d->title);
    pk_kstr(k, "path", d->path);
    pk_kstr(k, "mime", d->mime);
    pk_khash(k, "content_hash", &d->content_hash);
    pk_kint(k, "modified_us", d->modified_us);
    pk_kuint(k, "document_generation", d->generation);
    pk_kuint(k, "n_passages", d->n_passages);
    pk_kuint(k, "text_bytes", d->text_bytes);
}

static void pack_principals(struct pk *k, const struct document_info *d)
{
    pk_cstr(k, "principals");
    pk_array(k, d->n_principals);
    for (size_t i = 0; i < d->n_principals; i++)
        pk_str(k, d->principals[i]);
}

enum cairn_err m_doc_get(struct call *c)
{
    char name[COLLECTION_NAME_MAX + 1] = "";
    struct cairn_str id = {NULL, 0}, text = {"", 0};
    bool with_text = true;
    struct store_view *v;
    struct document_info d;
    (void)p_collection(&c->p, name);
    (void)p_str(&c->p, "id", true, 1, DOCUMENT_ID_MAX, &id);
    (void)p_bool(&c->p, "with_text", &with_text);
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    err = store_view_begin(&v, c->s->store, c->why);
    if (err)
        return err;
    err = store_document_get(v, name, id, &c->who, &d, with_text ? &text : NULL, c->why);
    if (!err) {
        bool admin = c->caller->local || c->caller->role == ROLE_ADMIN;
        pack_document(&c->out, &d, 1u + admin + with_text + (c->n_warnings > 0));
        pk_kuint(&c->out, "generation", store_view_generation(v));
        if (admin)
            pack_principals(&c->out, &d);
        if (with_text)
            pk_kstr(&c->out, "text", text);
        call_end(c);
    }
    store_view_end(v);
    return err;
}

enum cairn_err m_doc_list(struct call *c)
{
    char name[COLLECTION_NAME_MAX + 1] = "";
    struct cairn_str after = {"", 0};
    uint64_t limit = 100;
    struct store_view *v;
    struct document_info *list = NULL;
    size_t n = 0;
    (void)p_collection(&c->p, name);
    (void)p_str(&c->p, "after", false, 0, DOCUMENT_ID_MAX, &after);
    (void)p_uint(&c->p, "limit", false, 1, 1000, &limit);
    enum cairn_err err = p_close(&c->p, c);
    if (err)
        return err;
    err = store_view_begin(&v, c->s->store, c->why);
    if (err)
        return err;
    err = store_document_list(v, name, &c->who, after, (size_t)limit, &list, &n, c->why);
    if (!err) {
        call_map(c, 3);
        pk_kuint(&c->out, "generation", store_view_generation(v));
        pk_cstr(&c->out, "documents");
        pk_array(&c->out, n);
        bool admin = c->caller->local || c->caller->role == ROLE_ADMIN;
        for (size_t i = 0; i < n; i++) {
            pack_document(&c->out, &list[i], admin);
            if (admin)
                pack_principals(&c->out, &list[i]);
        }
        pk_cstr(&c->out, "next");
        if (n == limit)
            pk_str(&c->out, list[n - 1].id);
        else
            pk_nil(&c->out);
        call_end(c);
    }
    store_view_end(v);
    cairn_free(list);
    return err;
}

enum cairn_err m_doc_delete(struct call *c)
{
    char name[COLLECTION_NAME_MAX + 1] = "";
    struct cairn_str *ids = NULL;
    size_t n = 0;
    uint64_t deleted = 0, missing = 0, generation = 0;
    struct store_batch *b = NULL;
    struct store_view *v = NULL;
    struct collection_info info;
    struct document_info d;
    (void)p_collection(&c->p, name);
    (void)p_strs(&c->p, "ids", true, 65536, DOCUMENT_ID_MAX, &ids, &n);
    enum cairn_err err = p_close(&c->p, NULL);
    if (!err && n == 0)
        err = cairn_fail(c->why, CAIRN_EINVAL, "param ids: empty; want at least one id");
    if (!err)
        err = store_batch_begin(&b, c->s->store, c->why);
    if (!err)
        err = store_view_begin(&v, c->s->store, c->why);
    if (!err)
        err = store_collection_get(v, name, &info, c->why);
    for (size_t i = 0; i < n && !err; i++) {
        /* what the caller may not see does not exist for it */
        if (!c->who.all)
            err = store_document_get(v, name, ids[i], &c->who, &d, NULL, c->why);
        if (!err)
            err = store_delete(b, name, ids[i], c->why);
        if (err == CAIRN_ENOTFOUND) {
            missing++;
            err = CAIRN_OK;
        } else if (!err) {
            deleted++;
        }
    }
    generation = v ? store_view_generation(v) : 0; /* when there is nothing to delete */
    store_view_end(v);
    if (!err && deleted > 0) {
        err = store_batch_commit(b, &generation, c->why);
        b = NULL;
    }
    if (b)
        store_batch_abort(b);
    cairn_free(ids);
    if (err)
        return err;
    atomic_fetch_add(&c->s->metrics.deleted, deleted);
    call_map(c, 3);
    pk_kuint(&c->out, "generation", generation);
    pk_kuint(&c->out, "deleted", deleted);
    pk_kuint(&c->out, "missing", missing);
    call_end(c);
    return CAIRN_OK;
}
