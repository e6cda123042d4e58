/* read.c - everything a view answers: collections, documents, passages, filters, searches, records. Strings
 * handed out point into LMDB's map or into the view's arena, and live as long as the view. */
#include "postings.h"
#include "store.h"
#include "vindex.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

static void info_of(const struct coll_rec *c, struct collection_info *out)
{
    *out = (struct collection_info){.id = c->id,
                                    .opts = c->opts,
                                    .n_documents = c->n_documents,
                                    .n_passages = c->n_passages,
                                    .n_words = c->n_words,
                                    .generation = c->generation};
}

enum cairn_err store_collection_get(struct store_view *v, const char *name, struct collection_info *out,
                                    struct cairn_why *why)
{
    struct coll_rec c;
    enum cairn_err err = coll_get(&v->kv, name, &c, why);
    if (!err)
        info_of(&c, out);
    return err;
}

enum cairn_err store_collection_list(struct store_view *v, struct collection_info **list, size_t *n,
                                     struct cairn_why *why)
{
    struct kv_cursor c;
    struct kv_key none;
    size_t cap = 0;
    *list = NULL;
    *n = 0;
    enum cairn_err err = kv_cursor_open(&c, &v->kv, DB_COLLECTION, why);
    if (err)
        return err;
    for (err = kv_seek(&c, key_reset(&none), why); !err; err = kv_next(&c, why)) {
        struct coll_rec rec;
        err = coll_parse(c.key, c.payload, &rec, why);
        if (!err && *n == cap) {
            struct collection_info *more = cairn_reallocarray(*list, cap ? cap * 2 : 16, sizeof(*more));
            if (more) {
                *list = more;
                cap = cap ? cap * 2 : 16;
            } else {
                err = cairn_fail(why, CAIRN_ENOMEM, "no memory for %zu collections", *n + 1);
            }
        }
        if (err)
            break;
        info_of(&rec, &(*list)[(*n)++]);
    }
    kv_cursor_close(&c);
    if (err == CAIRN_ENOTFOUND)
        return CAIRN_OK;
    cairn_free(*list);
    *list = NULL;
    *n = 0;
    return err;
}

static void *view_alloc(struct store_view *v, size_t size, enum cairn_err *err, struct cairn_why *why)
{
    if (!v->arena)
        v->arena = cairn_arena_new((size_t)store_conf(v->s, "index.view_bytes_max"));
    void *p = v->arena ? cairn_arena_alloc(v->arena, size) : NULL;
    *err = p ? CAIRN_OK
             : cairn_fail(
                   why, CAIRN_ENOMEM,
                   "no memory for %zu bytes of text, or the view handed out index.view_bytes_max; end it and "
                   "begin another",
                   size);
    return p;
}

static enum cairn_err view_text(struct store_view *v, uint32_t coll, uint64_t docno, uint64_t text_bytes,
                                uint64_t start, uint64_t end, struct cairn_str *out, struct cairn_why *why)
{
    enum cairn_err err;
    if (!v->dctx)
        v->dctx = ZSTD_createDCtx();
    if (!v->piece)
        v->piece = cairn_malloc(TEXT_PIECE_BYTES);
    if (!v->dctx || !v->piece)
        return cairn_fail(why, CAIRN_ENOMEM, "no memory to unpack a text");
    char *bytes = view_alloc(v, (size_t)(end - start) + 1, &err, why);
    if (!err)
        err = text_read(&v->kv, coll, docno, text_bytes, start, end, bytes, v->dctx, v->piece, why);
    *out = (struct cairn_str){bytes, (size_t)(end - start)};
    return err;
}

/* ---- who may see what
 * ----------------------------------------------------------------------------------------- */

static bool holds(const struct store_caller *c, struct cairn_str principal)
{
    if (principal.len == 8 && memcmp(principal.p, "everyone", 8) == 0)
        return true;
    for (size_t i = 0; i < c->n_principals; i++)
        if (c->principals[i].len == principal.len &&
            memcmp(c->principals[i].p, principal.p, principal.len) == 0)
            return true;
    return false;
}

static bool may_see(const struct store_caller *c, const struct coll_rec *coll, const struct doc_rec *d)
{
    if (c->all)
        return true;
    if (d->n_principals == 0)
        return coll->opts.is_public;
    struct rd r = d->principals;
    for (uint32_t i = 0; i < d->n_principals; i++)
        if (holds(c, rd_str(&r)))
            return true;
    return false;
}

enum cairn_err store_filter_open(struct store_filter **out, struct store_view *v, const char *collection,
                                 const struct store_caller *c, struct cairn_why *why)
{
    *out = NULL;
    struct coll_rec coll;
    enum cairn_err err = coll_get(&v->kv, collection, &coll, why);
    if (err)
        return err;
    struct store_filter *f = cairn_calloc(1, sizeof(*f));
    if (!f)
        return cairn_fail(why, CAIRN_ENOMEM, "filter");
    f->s = v->s;
    f->coll = coll.id;
    f->generation = v->generation;
    f->rows = cairn_calloc(1, sizeof(*f->rows));
    if (!f->rows) {
        store_filter_close(f);
        return cairn_fail(why, CAIRN_ENOMEM, "filter");
    }
    if (c->all) {
        err = idset_load(&f->set, &v->kv, coll.id, SET_LIVE, why);
    } else {
        struct idset live = {0};
        err = idset_load(&f->set, &v->kv, coll.id, SET_EVERYONE, why);
        if (!err && coll.opts.is_public)
            err = idset_load(&f->set, &v->kv, coll.id, SET_NO_ACL, why);
        for (size_t i = 0; i < c->n_principals && !err; i++) {
            uint32_t set;
            err = principal_id(&v->kv, c->principals[i], &set, why);
            if (!err)
                err = idset_load(&f->set, &v->kv, coll.id, set, why);
            else if (err == CAIRN_ENOTFOUND) /* no document names it */
                err = CAIRN_OK;
        }
        if (!err)
            err = idset_load(&live, &v->kv, coll.id, SET_LIVE, why);
        if (!err)
            idset_and(&f->set, &live);
        idset_release(&live);
    }
    if (err) {
        store_filter_close(f);
        return err;
    }
    f->rows->set = &f->set;
    f->rows->n = idset_count(&f->set);
    *out = f;
    return CAIRN_OK;
}

void store_filter_close(struct store_filter *f)
{
    if (!f)
        return;
    if (f->rows)
        vfilter_release(f->rows);
    cairn_free(f->rows);
    idset_release(&f->set);
    cairn_free(f);
}

uint64_t store_filter_count(const struct store_filter *f) { return f->set.count; }

bool store_filter_has(const struct store_filter *f, uint64_t passage_id)
{
    return passage_id <= UINT32_MAX && idset_has(&f->set, (uint32_t)passage_id);
}

static enum cairn_err filter_fits(const struct store_filter *f, const struct store_view *v,
                                  const struct coll_rec *c, struct cairn_why *why)
{
    if (!f)
        return cairn_fail(why, CAIRN_EINVAL, "a search needs a filter: open one for its caller");
    if (f->s != v->s || f->coll != c->id || f->generation != v->generation)
        return cairn_fail(why, CAIRN_EINVAL, "the filter was opened for another collection or view than %s",
                          c->opts.name);
    return CAIRN_OK;
}

/* ---- documents
 * ------------------------------------------------------------------------------------------------ */

static enum cairn_err fill_info(struct store_view *v, struct cairn_str id, const struct doc_rec *d,
                                struct document_info *out, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    *out = (struct document_info){.id = id,
                                  .title = d->title,
                                  .path = d->path,
                                  .mime = d->mime,
                                  .content_hash = d->content_hash,
                                  .modified_us = d->modified_us,
                                  .generation = d->generation,
                                  .n_passages = d->n_passages,
                                  .text_bytes = d->text_bytes,
                                  .n_principals = d->n_principals};
    if (d->n_principals) {
        struct cairn_str *ps = view_alloc(v, d->n_principals * sizeof(*ps), &err, why);
        struct rd r = d->principals;
        for (uint32_t i = 0; i < d->n_principals && !err; i++)
            ps[i] = rd_str(&r);
        out->principals = ps;
    }
    return err;
}

static enum cairn_err no_document(const char *collection, struct cairn_str id, struct cairn_why *why)
{
    return cairn_fail(why, CAIRN_ENOTFOUND, "document %.*s in collection %s",
                      id.len <= DOCUMENT_ID_MAX ? (int)id.len : 0, id.p, collection);
}

enum cairn_err store_document_get(struct store_view *v, const char *collection, struct cairn_str id,
                                  const struct store_caller *c, struct document_info *out,
                                  struct cairn_str *text, struct cairn_why *why)
{
    struct coll_rec coll;
    struct doc_rec d;
    struct kv_key k;
    enum cairn_err err = coll_get(&v->kv, collection, &coll, why);
    if (err)
        return err;
    err = doc_get(&v->kv, coll.id, id, &d, why);
    if (err == CAIRN_ENOTFOUND || (!err && !may_see(c, &coll, &d)))
        return no_document(collection, id, why);
    if (err)
        return err;
    key_bytes(key_u32(key_reset(&k), coll.id), id.p, id.len);
    char *own = view_alloc(v, id.len + 1, &err, why); /* the caller's id may go before the view does */
    if (err)
        return err;
    memcpy(own, id.p, id.len);
    err = fill_info(v, (struct cairn_str){own, id.len}, &d, out, why);
    if (!err && text)
        err = view_text(v, coll.id, d.docno, d.text_bytes, 0, d.text_bytes, text, why);
    return err;
}

enum cairn_err store_document_list(struct store_view *v, const char *collection, const struct store_caller *c,
                                   struct cairn_str after, size_t max, struct document_info **list, size_t *n,
                                   struct cairn_why *why)
{
    *list = NULL;
    *n = 0;
    struct coll_rec coll;
    enum cairn_err err = coll_get(&v->kv, collection, &coll, why);
    if (err)
        return err;
    if (after.len > DOCUMENT_ID_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "a document id of %zu bytes to list after; the limit is %u",
                          after.len, DOCUMENT_ID_MAX);
    struct kv_key prefix, from;
    struct kv_cursor cur;
    size_t cap = 0;
    key_u32(key_reset(&prefix), coll.id);
    key_bytes(key_u32(key_reset(&from), coll.id), after.p, after.len);
    err = kv_cursor_open(&cur, &v->kv, DB_DOCUMENT, why);
    if (err)
        return err;
    err = kv_seek(&cur, &from, why);
    for (; !err && *n < max && kv_has_prefix(cur.key, &prefix); err = err ? err : kv_next(&cur, why)) {
        struct doc_rec d;
        struct cairn_str id = {cur.key.p + 4, cur.key.len - 4};
        if (id.len == after.len && (id.len == 0 || memcmp(id.p, after.p, id.len) == 0))
            continue;
        err = doc_parse(cur.key, cur.payload, &d, why);
        if (err || !may_see(c, &coll, &d))
            continue;
        if (*n == cap) {
            size_t more = cap ? cap * 2 : 64;
            struct document_info *bigger =
                cairn_reallocarray(*list, more < max ? more : max, sizeof(*bigger));
            if (!bigger) {
                err = cairn_fail(why, CAIRN_ENOMEM, "no memory for %zu documents", more);
                continue;
            }
            *list = bigger;
            cap = more < max ? more : max;
        }
        err = fill_info(v, id, &d, &(*list)[*n], why);
        *n += !err;
    }
    kv_cursor_close(&cur);
    if (!err || err == CAIRN_ENOTFOUND)
        return CAIRN_OK;
    cairn_free(*list);
    *list = NULL;
    *n = 0;
    return err;
}

/* ---- passages
 * ------------------------------------------------------------------------------------------------- */

static enum cairn_err no_passage(const char *collection, uint64_t id, struct cairn_why *why)
{
    return cairn_fail(why, CAIRN_ENOTFOUND, "passage %" PRIu64 " in collection %s", id, collection);
}

enum cairn_err store_passage_get(struct store_view *v, const char *collection, uint64_t id,
                                 struct passage_info *out, struct cairn_why *why)
{
    struct coll_rec coll;
    struct passage_rec p;
    struct doc_rec d;
    enum cairn_err err = coll_get(&v->kv, collection, &coll, why);
    if (err)
        return err;
    err = id <= UINT32_MAX ? passage_get(&v->kv, coll.id, (uint32_t)id, &p, why) : CAIRN_ENOTFOUND;
    if (err == CAIRN_ENOTFOUND)
        return no_passage(collection, id, why);
    if (!err)
        err = doc_get(&v->kv, coll.id, p.document_id, &d, why);
    if (err == CAIRN_ENOTFOUND || (!err && (p.end > d.text_bytes || d.first_passage + p.ordinal != id)))
        return cairn_fail(why, CAIRN_ECORRUPT,
                          "collection %s, passage %" PRIu64
                          ": it and its document do not agree; run `cairn debug "
                          "check`, restore a backup",
                          collection, id);
    if (err)
        return err;
    *out = (struct passage_info){.id = id,
                                 .document_id = p.document_id,
                                 .title = d.title,
                                 .document_path = d.path,
                                 .path = p.path,
                                 .ordinal = p.ordinal,
                                 .start = p.start,
                                 .end = p.end,
                                 .hash = p.hash,
                                 .document_generation = d.generation};
    return view_text(v, coll.id, d.docno, d.text_bytes, p.start, p.end, &out->text, why);
}

static enum cairn_err has_vectors(const struct coll_rec *c, struct cairn_why *why)
{
    return c->opts.dim ? CAIRN_OK
                       : cairn_fail(why, CAIRN_ESTATE, "collection %s holds no vectors", c->opts.name);
}

enum cairn_err store_passage_vector(struct store_view *v, const char *collection, uint64_t id, float *out,
                                    struct cairn_why *why)
{
    struct coll_rec coll;
    enum cairn_err err = coll_get(&v->kv, collection, &coll, why);
    if (!err)
        err = has_vectors(&coll, why);
    if (err)
        return err;
    struct vindex_ref x = {&v->kv, coll.id, coll.opts.dim, coll.opts.metric};
    err = id <= UINT32_MAX ? vindex_get(&x, (uint32_t)id, out, why) : CAIRN_ENOTFOUND;
    return err == CAIRN_ENOTFOUND ? no_passage(collection, id, why) : err;
}

enum cairn_err store_vector_by_hash(struct store_view *v, const char *collection,
                                    struct cairn_str document_id, const struct cairn_hash *hash, float *out,
                                    struct cairn_why *why)
{
    struct coll_rec coll;
    struct doc_rec d;
    struct kv_key k;
    struct cairn_str hashes;
    enum cairn_err err = coll_get(&v->kv, collection, &coll, why);
    if (!err)
        err = has_vectors(&coll, why);
    if (err)
        return err;
    err = doc_get(&v->kv, coll.id, document_id, &d, why);
    if (err == CAIRN_ENOTFOUND)
        return no_document(collection, document_id, why);
    if (!err)
        err = kv_get(&v->kv, DB_HASHES, key_u64(key_u32(key_reset(&k), coll.id), d.docno), &hashes, why);
    if (err == CAIRN_ENOTFOUND || (!err && hashes.len != (size_t)d.n_passages * sizeof(*hash)))
        return kv_corrupt(why, DB_HASHES, k.b, k.len, "hashes of a document's passages are missing");
    if (err)
        return err;
    for (uint32_t i = 0; i < d.n_passages; i++)
        if (memcmp(hashes.p + (size_t)i * sizeof(*hash), hash->b, sizeof(*hash)) == 0)
            return store_passage_vector(v, collection, (uint64_t)d.first_passage + i, out, why);
    return cairn_fail(why, CAIRN_ENOTFOUND, "a passage with this hash in document %.*s", (int)document_id.len,
                      document_id.p);
}

/* ---- searches
 * ------------------------------------------------------------------------------------------------- */

static enum cairn_err query_words(struct store_view *v, const struct coll_rec *coll, struct cairn_str query,
                                  struct cairn_buf *bytes, struct cairn_str **words, uint32_t **counts,
                                  size_t *n, struct cairn_why *why)
{
    struct cairn_analyzer *a;
    const struct cairn_word *all;
    size_t n_all = 0;
    *n = 0;
    size_t bad = cairn_utf8_invalid_at(query.p, query.len);
    if (bad < query.len)
        return cairn_fail(why, CAIRN_EINVAL, "the query is not UTF-8 at byte %zu", bad);
    enum cairn_err err = analyzer_take(v->s, coll->opts.language, &a, why);
    if (err)
        return err;
    err = cairn_analyze(a, query, &all, &n_all, why);
    if (!err) {
        size_t cap = n_all < QUERY_TERMS_MAX ? n_all : QUERY_TERMS_MAX;
        *words = cairn_reallocarray(NULL, cap + 1, sizeof(**words));
        *counts = cairn_calloc(cap + 1, sizeof(**counts));
        if (!*words || !*counts)
            err = cairn_fail(why, CAIRN_ENOMEM, "no memory for a query of %zu words", n_all);
        for (size_t i = 0; i < n_all && !err; i++) {
            struct cairn_str w = all[i].text;
            size_t at = 0;
            if (w.len > TERM_BYTES_MAX)
                w.len = cairn_utf8_floor(w.p, TERM_BYTES_MAX);
            for (; at < *n; at++) /* p holds an offset until the buffer stops moving */
                if ((*words)[at].len == w.len &&
                    memcmp(bytes->bytes + (uintptr_t)(*words)[at].p, w.p, w.len) == 0)
                    break;
            if (at == *n) {
                if (*n == cap || w.len == 0)
                    continue;
                (*words)[(*n)++] = (struct cairn_str){(const char *)(uintptr_t)bytes->len, w.len};
                if (!cairn_buf_put(bytes, w.p, w.len)) {
                    err = cairn_fail(why, CAIRN_ENOMEM, "no memory for a query of %zu words", n_all);
                    break;
                }
            }
            (*counts)[at]++;
        }
        if (!err && bytes->failed)
            err = cairn_fail(why, CAIRN_ENOMEM, "no memory for a query of %zu words", n_all);
        for (size_t i = 0; i < *n && !err; i++)
            (*words)[i].p = bytes->bytes + (uintptr_t)(*words)[i].p;
    }
    analyzer_give(v->s, coll->opts.language, a);
    return err;
}

enum cairn_err store_search_lexical_how(struct store_view *v, const char *collection, struct cairn_str query,
                                        const struct store_filter *f, size_t k, bool exhaustive,
                                        struct store_hit *hits, size_t *n_hits, const struct cairn_stop *stop,
                                        struct cairn_why *why)
{
    *n_hits = 0;
    struct coll_rec coll;
    enum cairn_err err = coll_get(&v->kv, collection, &coll, why);
    if (!err)
        err = filter_fits(f, v, &coll, why);
    if (!err)
        err = cairn_stopped(stop, why);
    if (!err && k > SEARCH_HITS_MAX)
        err = cairn_fail(why, CAIRN_EINVAL, "%zu hits asked for; the limit is %u", k, SEARCH_HITS_MAX);
    if (err)
        return err;
    struct cairn_str *words = NULL;
    uint32_t *counts = NULL;
    struct cairn_buf bytes;
    cairn_buf_init(&bytes, 0);
    struct lexical_query q = {.filter = &f->set, .k = k, .exhaustive = exhaustive, .stop = stop};
    err = query_words(v, &coll, query, &bytes, &words, &counts, &q.n, why);
    if (!err) {
        double n = (double)coll.n_passages, avg = n > 0 ? (double)coll.n_words / n : 0;
        q.words = words;
        q.counts = counts;
        q.model = (struct bm25){store_conf(v->s, "store.bm25_k1"), store_conf(v->s, "store.bm25_b"),
                                avg > 1 ? avg : 1, n};
        err = lexical_search(&v->kv, coll.id, &q, hits, n_hits, why);
    }
    cairn_free(words);
    cairn_free(counts);
    cairn_buf_release(&bytes);
    return err;
}

enum cairn_err store_search_lexical(struct store_view *v, const char *collection, struct cairn_str query,
                                    const struct store_filter *f, size_t k, struct store_hit *hits,
                                    size_t *n_hits, const struct cairn_stop *stop, struct cairn_why *why)
{
    return store_search_lexical_how(v, collection, query, f, k, false, hits, n_hits, stop, why);
}

enum cairn_err store_search_vector(struct store_view *v, const char *collection, const float *query,
                                   uint32_t dim, const struct store_filter *f, size_t k,
                                   const struct vector_how *how, struct store_hit *hits, size_t *n_hits,
                                   struct vector_plan *plan, const struct cairn_stop *stop,
                                   struct cairn_why *why)
{
    static const struct vector_how defaults;
    struct vector_plan unseen;
    *n_hits = 0;
    how = how ? how : &defaults;
    plan = plan ? plan : &unseen;
    *plan = (struct vector_plan){.path = "none", .reason = "nothing to search"};
    struct coll_rec coll;
    enum cairn_err err = coll_get(&v->kv, collection, &coll, why);
    if (!err)
        err = has_vectors(&coll, why);
    if (!err)
        err = filter_fits(f, v, &coll, why);
    if (err)
        return err;
    if (dim != coll.opts.dim)
        return cairn_fail(
            why, CAIRN_EINVAL,
            "a query vector of %u numbers; collection %s holds %u (embedder %s): use its embedder", dim,
            coll.opts.name, coll.opts.dim, coll.opts.embedder);
    if (k > SEARCH_HITS_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "%zu hits asked for; the limit is %u", k, SEARCH_HITS_MAX);
    const char *bad = vindex_refuses(query, dim, coll.opts.metric);
    if (bad)
        return cairn_fail(why, CAIRN_EINVAL, "the query is %s", bad);
    if (how->ef > VECTOR_WIDTH_MAX || how->nprobe > VECTOR_WIDTH_MAX || (unsigned)how->kind > VECTOR_IVF)
        return cairn_fail(why, CAIRN_EINVAL, "ef and nprobe lie between 1 and %u", VECTOR_WIDTH_MAX);
    struct vindex_ref x = {&v->kv, coll.id, dim, coll.opts.metric};
    struct vindex_query q = {.v = query,
                             .filter = f->rows,
                             .k = k < f->set.count ? k : (size_t)f->set.count,
                             .exact = how->exact,
                             .n_vectors = coll.n_vectors,
                             .kind = how->kind ? how->kind : coll.opts.index,
                             .ef = how->ef ? how->ef : (uint32_t)store_conf(v->s, "index.ef_search"),
                             .nprobe = how->nprobe ? how->nprobe : (uint32_t)store_conf(v->s, "index.nprobe"),
                             .scan_max = (uint32_t)store_conf(v->s, "index.scan_rows_max"),
                             .stop = stop};
    q.rerank = (size_t)((double)q.k * store_conf(v->s, "index.rerank_factor")) + 32;
    if (q.rerank > f->set.count)
        q.rerank = (size_t)f->set.count;
    f->rows->everything = f->set.count == coll.n_vectors;
    return vindex_search(&x, &q, hits, n_hits, plan, why);
}

/* ---- records of other rooms
 * ----------------------------------------------------------------------------------- */

enum cairn_err store_record_get(struct store_view *v, const char *space, struct cairn_str key,
                                struct cairn_str *bytes, struct cairn_why *why)
{
    struct kv_key k;
    enum cairn_err err = record_key(space, key, false, &k, why);
    if (err)
        return err;
    err = kv_get(&v->kv, DB_RECORD, &k, bytes, why);
    return err == CAIRN_ENOTFOUND
               ? cairn_fail(why, err, "record %.*s in space %s", (int)key.len, key.p, space)
               : err;
}

enum cairn_err store_record_each(struct store_view *v, const char *space, struct cairn_str prefix,
                                 bool (*fn)(void *ctx, struct cairn_str key, struct cairn_str bytes),
                                 void *ctx, struct cairn_why *why)
{
    struct kv_key k;
    struct kv_cursor c;
    enum cairn_err err = record_key(space, prefix, true, &k, why);
    if (!err)
        err = kv_cursor_open(&c, &v->kv, DB_RECORD, why);
    if (err)
        return err;
    size_t skip = strlen(space) + 1;
    for (err = kv_seek(&c, &k, why); !err && kv_has_prefix(c.key, &k); err = kv_next(&c, why))
        if (!fn(ctx, (struct cairn_str){c.key.p + skip, c.key.len - skip}, c.payload))
            break;
    kv_cursor_close(&c);
    return err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
}
