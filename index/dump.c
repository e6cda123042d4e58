/* dump.c - the content of the store, without the accidents of its history: one JSON line per record, and a
 * hash. Neither shows passage ids, document numbers or generations: two stores that hold the same give the
 * same bytes. */
#include "store.h"
#include "vindex.h"

#include <stdio.h>
#include <string.h>
#include <zstd.h>

/* ---- walking the content in logical order ---- */

struct content {
    struct kv *kv;
    void *dctx;
    char *piece, *text;
    size_t text_cap;
    float *vector;
};
struct visitor {
    void *ctx;
    enum cairn_err (*collection)(void *ctx, const struct coll_rec *c, struct cairn_why *why);
    enum cairn_err (*document)(void *ctx, const struct coll_rec *c, struct cairn_str id,
                               const struct doc_rec *d, struct cairn_str text, struct cairn_why *why);
    enum cairn_err (*passage)(void *ctx, const struct coll_rec *c, const struct passage_rec *p,
                              struct cairn_str text, const float *vector, struct cairn_why *why);
    enum cairn_err (*record)(void *ctx, struct cairn_str key, struct cairn_str bytes, struct cairn_why *why);
};

static enum cairn_err walk_document(struct content *w, const struct visitor *v, const struct coll_rec *c,
                                    struct cairn_str id, const struct doc_rec *d, struct cairn_why *why)
{
    if (d->text_bytes + 1 > w->text_cap) {
        char *text = cairn_realloc(w->text, (size_t)d->text_bytes + 1);
        if (!text)
            return cairn_fail(why, CAIRN_ENOMEM, "no memory for a text of %llu bytes",
                              (unsigned long long)d->text_bytes);
        w->text = text;
        w->text_cap = (size_t)d->text_bytes + 1;
    }
    enum cairn_err err =
        text_read(w->kv, c->id, d->docno, d->text_bytes, 0, d->text_bytes, w->text, w->dctx, w->piece, why);
    if (!err)
        err = v->document(v->ctx, c, id, d, (struct cairn_str){w->text, (size_t)d->text_bytes}, why);
    for (uint32_t i = 0; i < d->n_passages && !err; i++) {
        struct passage_rec p;
        struct vindex_ref x = {w->kv, c->id, c->opts.dim, c->opts.metric};
        err = passage_get(w->kv, c->id, d->first_passage + i, &p, why);
        if (!err && p.end > d->text_bytes)
            err = cairn_fail(why, CAIRN_ECORRUPT, "collection %s, passage %u: span outside its text",
                             c->opts.name, d->first_passage + i);
        if (!err && c->opts.dim)
            err = vindex_get(&x, d->first_passage + i, w->vector, why);
        if (err == CAIRN_ENOTFOUND)
            err = cairn_fail(why, CAIRN_ECORRUPT, "collection %s, passage %u: it or its vector is missing",
                             c->opts.name, d->first_passage + i);
        if (!err)
            err = v->passage(v->ctx, c, &p, (struct cairn_str){w->text + p.start, p.end - p.start},
                             c->opts.dim ? w->vector : NULL, why);
    }
    return err;
}

static enum cairn_err walk_documents(struct content *w, const struct visitor *v, const struct coll_rec *c,
                                     struct cairn_why *why)
{
    struct kv_cursor cur;
    struct kv_key prefix;
    key_u32(key_reset(&prefix), c->id);
    enum cairn_err err = kv_cursor_open(&cur, w->kv, DB_DOCUMENT, why);
    if (err)
        return err;
    for (err = kv_seek(&cur, &prefix, why); !err && kv_has_prefix(cur.key, &prefix);) {
        struct doc_rec d;
        err = doc_parse(cur.key, cur.payload, &d, why);
        if (!err)
            err = walk_document(w, v, c, (struct cairn_str){cur.key.p + 4, cur.key.len - 4}, &d, why);
        if (!err)
            err = kv_next(&cur, why);
    }
    kv_cursor_close(&cur);
    return err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
}

/* only: one collection, NULL: all, and the records of other rooms. */
static enum cairn_err walk_content(struct kv *kv, const char *only, const struct visitor *v,
                                   struct cairn_why *why)
{
    struct content w = {.kv = kv,
                        .dctx = ZSTD_createDCtx(),
                        .piece = cairn_malloc(TEXT_PIECE_BYTES),
                        .vector = cairn_reallocarray(NULL, VECTOR_DIM_MAX, sizeof(float))};
    struct kv_cursor c = {0};
    struct kv_key none;
    struct coll_rec rec;
    enum cairn_err err = w.dctx && w.piece && w.vector
                             ? CAIRN_OK
                             : cairn_fail(why, CAIRN_ENOMEM, "no memory to walk the store");
    if (!err && only) {
        err = coll_get(kv, only, &rec, why);
        if (!err)
            err = v->collection(v->ctx, &rec, why);
        if (!err)
            err = walk_documents(&w, v, &rec, why);
    } else if (!err) {
        err = kv_cursor_open(&c, kv, DB_COLLECTION, why);
        if (!err)
            err = kv_seek(&c, key_reset(&none), why);
        while (!err) {
            err = coll_parse(c.key, c.payload, &rec, why);
            if (!err)
                err = v->collection(v->ctx, &rec, why);
            if (!err)
                err = walk_documents(&w, v, &rec, why);
            if (!err)
                err = kv_next(&c, why);
        }
        kv_cursor_close(&c);
        if (err == CAIRN_ENOTFOUND)
            err = kv_cursor_open(&c, kv, DB_RECORD, why);
        if (!err)
            err = kv_seek(&c, key_reset(&none), why);
        while (!err) {
            err = v->record(v->ctx, c.key, c.payload, why);
            if (!err)
                err = kv_next(&c, why);
        }
        kv_cursor_close(&c);
        if (err == CAIRN_ENOTFOUND)
            err = CAIRN_OK;
    }
    (void)ZSTD_freeDCtx(w.dctx);
    cairn_free(w.piece);
    cairn_free(w.text);
    cairn_free(w.vector);
    return err;
}

/* ---- digest: h = H(h, H(item)) over all items ---- */

struct digest {
    struct cairn_hash h;
    struct cairn_buf b;
};

static enum cairn_err digest_item(struct digest *d, char kind, struct cairn_why *why)
{
    if (d->b.failed)
        return cairn_fail(why, CAIRN_ENOMEM, "no memory for the digest");
    struct cairn_hash item = cairn_hash_bytes(d->b.bytes ? d->b.bytes : "", d->b.len);
    uint8_t bytes[65];
    memcpy(bytes, d->h.b, 32);
    memcpy(bytes + 32, item.b, 32);
    bytes[64] = (uint8_t)kind;
    d->h = cairn_hash_bytes(bytes, sizeof(bytes));
    cairn_buf_clear(&d->b);
    return CAIRN_OK;
}

static enum cairn_err digest_collection(void *ctx, const struct coll_rec *c, struct cairn_why *why)
{
    struct digest *d = ctx;
    wr_str(&d->b, cairn_str_of(c->opts.name));
    wr_str(&d->b, cairn_str_of(c->opts.language));
    wr_str(&d->b, cairn_str_of(c->opts.embedder));
    wr_u32(&d->b, c->opts.dim);
    wr_u8(&d->b, (uint8_t)c->opts.metric);
    wr_u8(&d->b, c->opts.is_public);
    wr_u8(&d->b, (uint8_t)c->opts.fusion);
    wr_f32(&d->b, c->opts.dense_weight);
    wr_f32(&d->b, c->opts.rerank_weight);
    wr_u64(&d->b, c->n_documents);
    wr_u64(&d->b, c->n_passages);
    wr_u64(&d->b, c->n_words);
    return digest_item(d, 'c', why);
}

static enum cairn_err digest_document(void *ctx, const struct coll_rec *c, struct cairn_str id,
                                      const struct doc_rec *rec, struct cairn_str text, struct cairn_why *why)
{
    struct digest *d = ctx;
    (void)c;
    wr_str(&d->b, id);
    wr_str(&d->b, rec->title);
    wr_str(&d->b, rec->path);
    wr_str(&d->b, rec->mime);
    wr_u64(&d->b, (uint64_t)rec->modified_us);
    (void)cairn_buf_put(&d->b, rec->content_hash.b, 32);
    struct rd r = rec->principals;
    wr_u32(&d->b, rec->n_principals);
    for (uint32_t i = 0; i < rec->n_principals; i++)
        wr_str(&d->b, rd_str(&r));
    wr_u32(&d->b, rec->n_passages);
    struct cairn_hash h = cairn_hash_bytes(text.p, text.len);
    (void)cairn_buf_put(&d->b, h.b, 32);
    return digest_item(d, 'd', why);
}

static enum cairn_err digest_passage(void *ctx, const struct coll_rec *c, const struct passage_rec *p,
                                     struct cairn_str text, const float *vector, struct cairn_why *why)
{
    struct digest *d = ctx;
    (void)text;
    wr_u32(&d->b, p->ordinal);
    wr_u32(&d->b, p->start);
    wr_u32(&d->b, p->end);
    wr_u32(&d->b, p->n_words);
    wr_str(&d->b, p->path);
    (void)cairn_buf_put(&d->b, p->hash.b, 32);
    if (vector)
        (void)cairn_buf_put(&d->b, vector, (size_t)c->opts.dim * sizeof(float));
    return digest_item(d, 'p', why);
}

static enum cairn_err digest_record(void *ctx, struct cairn_str key, struct cairn_str bytes,
                                    struct cairn_why *why)
{
    struct digest *d = ctx;
    wr_str(&d->b, key);
    struct cairn_hash h = cairn_hash_bytes(bytes.p, bytes.len);
    (void)cairn_buf_put(&d->b, h.b, 32);
    return digest_item(d, 'r', why);
}

enum cairn_err digest_run(struct kv *kv, struct cairn_hash *out, struct cairn_why *why)
{
    struct digest d = {0};
    struct visitor v = {&d, digest_collection, digest_document, digest_passage, digest_record};
    cairn_buf_init(&d.b, 0);
    enum cairn_err err = walk_content(kv, NULL, &v, why);
    cairn_buf_release(&d.b);
    *out = d.h;
    return err;
}

enum cairn_err store_digest(struct store_view *v, struct cairn_hash *out, struct cairn_why *why)
{
    return digest_run(&v->kv, out, why);
}

/* ---- JSON lines ---- */

struct dump {
    struct cairn_buf b;
    bool (*line)(void *ctx, const char *json, size_t len);
    void *ctx;
    bool stopped;
};

static void json_str(struct cairn_buf *b, const char *name, struct cairn_str s)
{
    (void)cairn_buf_printf(b, "%s\"%s\":\"", b->bytes && b->len > 1 ? "," : "", name);
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '"' || c == '\\')
            (void)cairn_buf_printf(b, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            (void)cairn_buf_printf(b, "\\u%04x", c);
        else
            (void)cairn_buf_put(b, &c, 1);
    }
    (void)cairn_buf_puts(b, "\"");
}

static void json_num(struct cairn_buf *b, const char *name, uint64_t v)
{
    (void)cairn_buf_printf(b, ",\"%s\":%" PRIu64, name, v);
}

static void json_hex(struct cairn_buf *b, const char *name, const uint8_t *bytes, size_t len)
{
    (void)cairn_buf_printf(b, ",\"%s\":\"", name);
    for (size_t i = 0; i < len; i++)
        (void)cairn_buf_printf(b, "%02x", bytes[i]);
    (void)cairn_buf_puts(b, "\"");
}

static enum cairn_err dump_line(struct dump *d, struct cairn_why *why)
{
    (void)cairn_buf_puts(&d->b, "}");
    if (d->b.failed)
        return cairn_fail(why, CAIRN_ENOMEM, "no memory for a line of the dump");
    d->stopped = !d->line(d->ctx, d->b.bytes, d->b.len);
    cairn_buf_clear(&d->b);
    return d->stopped ? cairn_fail(why, CAIRN_ESTOPPED, "the dump was stopped") : CAIRN_OK;
}

static void dump_start(struct dump *d, const char *kind)
{
    (void)cairn_buf_puts(&d->b, "{");
    json_str(&d->b, "kind", cairn_str_of(kind));
}

static enum cairn_err dump_collection(void *ctx, const struct coll_rec *c, struct cairn_why *why)
{
    static const char *const metrics[] = {"cosine", "dot", "l2"}, *const fusions[] = {"minmax", "rrf",
                                                                                      "zscore"};
    struct dump *d = ctx;
    dump_start(d, "collection");
    json_str(&d->b, "name", cairn_str_of(c->opts.name));
    json_str(&d->b, "language", cairn_str_of(c->opts.language));
    json_str(&d->b, "embedder", cairn_str_of(c->opts.embedder));
    json_num(&d->b, "dim", c->opts.dim);
    json_str(&d->b, "metric", cairn_str_of(metrics[c->opts.metric]));
    json_str(&d->b, "fusion", cairn_str_of(fusions[c->opts.fusion]));
    (void)cairn_buf_printf(&d->b, ",\"is_public\":%s,\"dense_weight\":%.9g,\"rerank_weight\":%.9g",
                           c->opts.is_public ? "true" : "false", (double)c->opts.dense_weight,
                           (double)c->opts.rerank_weight);
    json_num(&d->b, "n_documents", c->n_documents);
    json_num(&d->b, "n_passages", c->n_passages);
    json_num(&d->b, "n_words", c->n_words);
    return dump_line(d, why);
}

static enum cairn_err dump_document(void *ctx, const struct coll_rec *c, struct cairn_str id,
                                    const struct doc_rec *rec, struct cairn_str text, struct cairn_why *why)
{
    struct dump *d = ctx;
    dump_start(d, "document");
    json_str(&d->b, "collection", cairn_str_of(c->opts.name));
    json_str(&d->b, "id", id);
    json_str(&d->b, "title", rec->title);
    json_str(&d->b, "path", rec->path);
    json_str(&d->b, "mime", rec->mime);
    json_hex(&d->b, "content_hash", rec->content_hash.b, 32);
    (void)cairn_buf_printf(&d->b, ",\"modified_us\":%" PRId64 ",\"principals\":[", rec->modified_us);
    struct rd r = rec->principals;
    for (uint32_t i = 0; i < rec->n_principals; i++) {
        struct cairn_buf one;
        cairn_buf_init(&one, 4096);
        json_str(&one, "", rd_str(&r)); /* "":"name" -> "name" */
        if (one.failed)
            d->b.failed = true;
        else
            (void)cairn_buf_printf(&d->b, "%s%s", i ? "," : "", one.bytes + 3);
        cairn_buf_release(&one);
    }
    (void)cairn_buf_puts(&d->b, "]");
    json_num(&d->b, "n_passages", rec->n_passages);
    json_str(&d->b, "text", text);
    return dump_line(d, why);
}

static enum cairn_err dump_passage(void *ctx, const struct coll_rec *c, const struct passage_rec *p,
                                   struct cairn_str text, const float *vector, struct cairn_why *why)
{
    struct dump *d = ctx;
    (void)text;
    dump_start(d, "passage");
    json_str(&d->b, "collection", cairn_str_of(c->opts.name));
    json_str(&d->b, "document_id", p->document_id);
    json_num(&d->b, "ordinal", p->ordinal);
    json_num(&d->b, "start", p->start);
    json_num(&d->b, "end", p->end);
    json_num(&d->b, "n_words", p->n_words);
    json_str(&d->b, "path", p->path);
    json_hex(&d->b, "hash", p->hash.b, 32);
    if (vector) {
        struct cairn_hash h = cairn_hash_bytes(vector, (size_t)c->opts.dim * sizeof(float));
        json_hex(&d->b, "vector_hash", h.b, 32);
    }
    return dump_line(d, why);
}

static enum cairn_err dump_record(void *ctx, struct cairn_str key, struct cairn_str bytes,
                                  struct cairn_why *why)
{
    struct dump *d = ctx;
    size_t space = strnlen(key.p, key.len);
    struct cairn_hash h = cairn_hash_bytes(bytes.p, bytes.len);
    dump_start(d, "record");
    json_str(&d->b, "space", (struct cairn_str){key.p, space});
    /* keys and values of other rooms may be secrets or binary: name the key in hex, the value by its hash */
    json_hex(&d->b, "key", (const uint8_t *)key.p + (key.len - (key.len > space ? key.len - space - 1 : 0)),
             key.len > space ? key.len - space - 1 : 0);
    json_num(&d->b, "bytes", bytes.len);
    json_hex(&d->b, "hash", h.b, 32);
    return dump_line(d, why);
}

enum cairn_err store_dump(struct store_view *v, const char *collection,
                          bool (*line)(void *ctx, const char *json, size_t len), void *ctx,
                          struct cairn_why *why)
{
    struct dump d = {.line = line, .ctx = ctx};
    struct visitor visit = {&d, dump_collection, dump_document, dump_passage, dump_record};
    cairn_buf_init(&d.b, (size_t)1 << 31);
    enum cairn_err err = walk_content(&v->kv, collection, &visit, why);
    cairn_buf_release(&d.b);
    return d.stopped ? CAIRN_OK : err;
}
