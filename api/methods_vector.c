/* api/methods_vector.c - vector.put and vector.search: for clients that bring their own vectors. A vector is
 * a document of one passage, so ACL, doc.get, doc.delete and the rest hold for it as for any document. */
#include "internal.h"

#include <stdlib.h>

#define RETRIES_MAX 3u

/* ---- vector.put ---- */

static enum cairn_err prepare(struct call *c, const msgpack_object *o, uint32_t i,
                              const struct collection_opts *coll, struct prepared **out)
{
    char where[48];
    struct params p;
    struct cairn_str id = {NULL, 0}, title = {NULL, 0}, text = {"", 0}, *names = NULL;
    size_t n_names = 0;
    uint32_t dim = 0;
    float vector[VECTOR_DIM_MAX];
    struct prepared *d = NULL;
    *out = NULL;
    snprintf(where, sizeof where, "param vectors[%u].", i);
    p_open(&p, o, where, c->why);
    (void)p_str(&p, "id", true, 1, DOCUMENT_ID_MAX, &id);
    (void)p_str(&p, "title", false, 0, 4096, &title);
    (void)p_str(&p, "text", false, 0, PASSAGE_BYTES_MAX, &text);
    (void)p_strs(&p, "principals", false, PRINCIPALS_MAX, PRINCIPAL_MAX, &names, &n_names);
    (void)p_vector(&p, "vector", vector, &dim);
    enum cairn_err err = p_close(&p, NULL);
    if (!err && prepared_check_id(id, c->why) != CAIRN_OK)
        err = cairn_wrap(c->why, CAIRN_EINVAL, "param vectors[%u].id", i);
    else if (!err && dim != coll->dim)
        err = cairn_fail(c->why, CAIRN_EINVAL, "%svector: %u numbers; collection %s holds vectors of %u",
                         where, dim, coll->name, coll->dim);
    if (err) {
        if (id.p)
            err = cairn_wrap(c->why, err, "vector \"%.*s\"",
                             (int)cairn_utf8_floor(id.p, id.len < 80 ? id.len : 80), id.p);
        goto done;
    }
    d = cairn_calloc(1, sizeof *d);
    if (d)
        err = prepared_principals(c, where, names, n_names, d);
    if (err)
        goto done;
    err = cairn_fail(c->why, CAIRN_ENOMEM, "vectors[%u]", i);
    if (!d || !(d->doc = cairn_calloc(1, sizeof *d->doc)) ||
        !(d->doc->passages = cairn_calloc(1, sizeof *d->doc->passages)))
        goto done;
    d->doc->n_passages = 1; /* all of the text, which may be none */
    d->doc->text_len = text.len;
    d->doc->passages[0].end = (uint32_t)text.len;
    if (!(d->doc->passages[0].path = cairn_strdup("")) || !(d->doc->text = str_dup(text)) ||
        !(d->id = str_dup(id)) || !(d->title = str_dup(title)) ||
        !(d->vectors = cairn_reallocarray(NULL, dim, sizeof *d->vectors)))
        goto done;
    memcpy(d->vectors, vector, dim * sizeof *vector);
    d->content_hash = cairn_hash_bytes(text.p, text.len);
    d->modified_us = cairn_wall_us();
    d->keep_acl = !p_has(&p, "principals");
    d->brought = true;
    err = CAIRN_OK;
    if (c->why)
        c->why->text[0] = 0;
done:
    cairn_free(names);
    if (err)
        prepared_free(d);
    else
        *out = d;
    return err;
}

struct by_id {
    const char *id;
    uint32_t at;
};
static int id_order(const void *a, const void *b)
{
    const struct by_id *x = a, *y = b;
    int c = strcmp(x->id, y->id);
    return c ? c : x->at < y->at ? -1 : x->at > y->at;
}

static enum cairn_err no_twins(struct prepared *const *docs, uint32_t n, struct cairn_why *why)
{
    struct by_id *ids = cairn_reallocarray(NULL, n, sizeof *ids);
    enum cairn_err err = ids ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "%u vectors", n);
    for (uint32_t i = 0; i < n && !err; i++)
        ids[i] = (struct by_id){docs[i]->id, i};
    if (!err)
        qsort(ids, n, sizeof *ids, id_order);
    for (uint32_t i = 1; i < n && !err; i++)
        if (strcmp(ids[i - 1].id, ids[i].id) == 0)
            err =
                cairn_fail(why, CAIRN_EINVAL, "param vectors[%u].id: \"%.200s\", the same as vectors[%u].id",
                           ids[i].at, ids[i].id, ids[i - 1].at);
    cairn_free(ids);
    return err;
}

static enum cairn_err look_up(struct call *c, const char *name, struct collection_info *info)
{
    struct store_view *v;
    enum cairn_err err = store_view_begin(&v, c->s->store, c->why);
    if (err)
        return err;
    err = store_collection_get(v, name, info, c->why);
    store_view_end(v);
    if (err == CAIRN_ENOTFOUND)
        return cairn_wrap(c->why, err, "collection.create {dim} makes one for vectors");
    if (!err && !info->opts.dim)
        err = cairn_fail(c->why, CAIRN_ESTATE,
                         "collection %s holds no vectors; one for them is made by collection.create with dim",
                         name);
    return err;
}

enum cairn_err m_vector_put(struct call *c)
{
    char name[COLLECTION_NAME_MAX + 1] = "";
    const msgpack_object_array *a = NULL;
    struct collection_info info;
    struct put_totals t = {0};
    (void)p_collection(&c->p, name);
    (void)p_array(&c->p, "vectors", true, conf_size(c->s, "api.put_vectors_max"), &a);
    enum cairn_err err = p_close(&c->p, NULL);
    if (!err && a->size == 0)
        err = cairn_fail(c->why, CAIRN_EINVAL, "param vectors: empty; want at least one vector");
    if (!err)
        err = look_up(c, name, &info);
    if (!err && *info.opts.embedder)
        err = cairn_fail(
            c->why, CAIRN_ESTATE,
            "collection %s embeds its documents with %s; use doc.put, or make a collection with dim", name,
            info.opts.embedder);
    if (err)
        return err;
    struct prepared **docs = cairn_calloc(a->size, sizeof *docs);
    if (!docs)
        return cairn_fail(c->why, CAIRN_ENOMEM, "%u vectors", a->size);
    for (uint32_t i = 0; i < a->size && !err; i++) {
        err = prepare(c, &a->ptr[i], i, &info.opts, &docs[i]);
        if (!err)
            err = cairn_stopped(c->stop, c->why);
    }
    if (!err)
        err = no_twins(docs, a->size, c->why);
    if (!err)
        err = put_batch(c, name, NULL, docs, a->size, &t, c->why);
    for (uint32_t i = 0; i < a->size; i++)
        prepared_free(docs[i]);
    cairn_free(docs);
    if (err)
        return err;
    call_map(c, 2);
    pk_kuint(&c->out, "generation", t.generation);
    pk_kuint(&c->out, "put", t.put);
    call_end(c);
    return CAIRN_OK;
}

/* ---- vector.search ---- */

void pack_plan(struct pk *k, const struct vector_plan *p)
{
    pk_map(k, 8);
    pk_kcstr(k, "path", p->path);
    pk_kcstr(k, "reason", p->reason);
    pk_knum(k, "share", p->share);
    pk_kuint(k, "n_segments", p->n_segments);
    pk_kuint(k, "n_delta", p->n_delta);
    pk_kuint(k, "n_scored", p->n_scored);
    pk_kuint(k, "ef", p->ef);
    pk_kuint(k, "nprobe", p->nprobe);
}

struct vector_query {
    char collection[COLLECTION_NAME_MAX + 1];
    float vector[VECTOR_DIM_MAX];
    uint32_t dim, collection_id;
    uint64_t k, generation;
    struct vector_how how;
    struct vector_plan plan;
    bool explain, with_text;
    struct store_hit *hits;
    size_t n_hits;
};

static enum cairn_err search_once(struct call *c, struct vector_query *q)
{
    struct store_view *v;
    struct store_filter *f = NULL;
    struct collection_info info;
    enum cairn_err err = store_view_begin(&v, c->s->store, c->why);
    if (err)
        return err;
    err = store_collection_get(v, q->collection, &info, c->why);
    if (!err && info.opts.dim != q->dim)
        err = info.opts.dim
                  ? cairn_fail(c->why, CAIRN_EINVAL,
                               "param vector: %u numbers; collection %s holds vectors of %u", q->dim,
                               q->collection, info.opts.dim)
                  : cairn_fail(c->why, CAIRN_ESTATE, "collection %s holds no vectors", q->collection);
    if (!err)
        err = store_filter_open(&f, v, q->collection, &c->who, c->why);
    if (!err) {
        err = store_search_vector(v, q->collection, q->vector, q->dim, f, (size_t)q->k, &q->how, q->hits,
                                  &q->n_hits, &q->plan, c->stop, c->why);
        if (err == CAIRN_EINVAL)
            err = cairn_wrap(c->why, err, "param vector");
    }
    q->collection_id = err ? 0 : info.id;
    q->generation = store_view_generation(v);
    store_filter_close(f);
    store_view_end(v);
    return err;
}

/* The hits out of the newest view; *moved and nothing packed when it is not the one they were found in. At
 * last, what is gone or closed to the caller by now is left out. */
static enum cairn_err pack_hits(struct call *c, struct vector_query *q, bool at_last, bool *moved)
{
    struct store_view *v;
    struct store_filter *f = NULL;
    struct collection_info info;
    enum cairn_err err = store_view_begin(&v, c->s->store, c->why);
    if (err)
        return err;
    *moved = store_view_generation(v) != q->generation;
    if (*moved && !at_last) {
        store_view_end(v);
        return CAIRN_OK;
    }
    if (*moved) {
        size_t n = 0;
        err = store_collection_get(v, q->collection, &info, c->why);
        if (!err && info.id != q->collection_id)
            err = cairn_fail(c->why, CAIRN_EBUSY,
                             "collection %s was replaced while it was searched: try again", q->collection);
        if (!err)
            err = store_filter_open(&f, v, q->collection, &c->who, c->why);
        for (size_t i = 0; i < q->n_hits && !err; i++)
            if (store_filter_has(f, q->hits[i].passage_id)) /* ids of passages are never used again */
                q->hits[n++] = q->hits[i];
        store_filter_close(f);
        q->n_hits = n;
    }
    struct pk *k = &c->out;
    if (!err) {
        call_map(c, 2u + q->explain);
        pk_kuint(k, "generation", store_view_generation(v));
        pk_cstr(k, "hits");
        pk_array(k, q->n_hits);
    }
    for (size_t i = 0; i < q->n_hits && !err; i++) {
        struct passage_info p;
        err = store_passage_get(v, q->collection, q->hits[i].passage_id, &p, c->why);
        if (err)
            break;
        pk_map(k, 3u + 2u * q->with_text);
        pk_kstr(k, "id", p.document_id);
        pk_knum(k, "score", (double)q->hits[i].score);
        pk_kuint(k, "passage_id", p.id);
        if (q->with_text) {
            pk_kstr(k, "title", p.title);
            pk_kstr(k, "text", p.text);
        }
    }
    if (!err && q->explain) {
        pk_cstr(k, "explain");
        pack_plan(k, &q->plan);
    }
    if (!err)
        call_end(c);
    store_view_end(v);
    return err;
}

enum cairn_err m_vector_search(struct call *c)
{
    struct vector_query *q = cairn_calloc(1, sizeof *q);
    if (!q)
        return cairn_fail(c->why, CAIRN_ENOMEM, "vector query");
    q->k = 10;
    (void)p_collection(&c->p, q->collection);
    (void)p_vector(&c->p, "vector", q->vector, &q->dim);
    (void)p_uint(&c->p, "k", false, 1, RETRIEVE_K_MAX, &q->k);
    p_how(&c->p, &q->how);
    (void)p_bool(&c->p, "with_text", &q->with_text);
    (void)p_bool(&c->p, "explain", &q->explain);
    enum cairn_err err = p_close(&c->p, c);
    if (!err && !(q->hits = cairn_calloc((size_t)q->k, sizeof *q->hits)))
        err = cairn_fail(c->why, CAIRN_ENOMEM, "%" PRIu64 " hits", q->k);
    bool moved = true;
    for (unsigned turn = 0; !err && moved && turn <= RETRIES_MAX; turn++) {
        err = search_once(c, q);
        if (!err && turn == 0 && !q->how.exact && upkeep_wants(c->s->upkeep))
            upkeep_sample(c->s->upkeep, q->collection, &c->who, q->vector, q->dim, (size_t)q->k, q->hits,
                          q->n_hits, q->generation, q->plan.share);
        if (!err)
            err = pack_hits(c, q, turn == RETRIES_MAX, &moved);
    }
    cairn_free(q->hits);
    cairn_free(q);
    return err;
}
