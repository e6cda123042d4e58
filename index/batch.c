/* batch.c - writing. A batch is recorded in memory first: each call checks its arguments against what is
 * stored and what the batch already holds, splits texts into words, and changes nothing. Commit opens one
 * LMDB write transaction, applies the net effect (the last word on each document) and syncs. Because the
 * record does not change while it is applied, a full map only means: abort, grow, apply again. The write
 * transaction is as short as it can be.
 *
 * Order inside the transaction: dropped collections, new and changed collections, then per collection:
 * removals, terms, documents, postings, vectors, sets, counters; records of other rooms; the state, with a
 * new generation when a collection changed. */
#include "postings.h"
#include "store.h"
#include "vindex.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define TEXT_LEVEL 3 /* zstd: past this texts of a few KB hardly shrink */

/* ---- small tables
 * --------------------------------------------------------------------------------------------- */

/* Hash -> index into an array of the caller, who compares. Grows at three quarters. */
struct hmap {
    struct {
        uint64_t hash;
        uint32_t index1; /* 0: free */
    } * slots;
    size_t cap, n;
};

static bool hmap_grow(struct hmap *m)
{
    size_t cap = m->cap ? m->cap * 2 : 256;
    struct hmap bigger = {.slots = cairn_calloc(cap, sizeof(*bigger.slots)), .cap = cap, .n = m->n};
    if (!bigger.slots)
        return false;
    for (size_t i = 0; i < m->cap; i++)
        if (m->slots[i].index1) {
            size_t at = m->slots[i].hash & (cap - 1);
            while (bigger.slots[at].index1)
                at = (at + 1) & (cap - 1);
            bigger.slots[at].hash = m->slots[i].hash;
            bigger.slots[at].index1 = m->slots[i].index1;
        }
    cairn_free(m->slots);
    *m = bigger;
    return true;
}

/* Walks the entries of this hash: start with *at = SIZE_MAX; false: no more. */
static bool hmap_each(const struct hmap *m, uint64_t hash, size_t *at, uint32_t *index)
{
    if (m->cap == 0)
        return false;
    size_t i = *at == SIZE_MAX ? hash & (m->cap - 1) : (*at + 1) & (m->cap - 1);
    for (; m->slots[i].index1; i = (i + 1) & (m->cap - 1))
        if (m->slots[i].hash == hash) {
            *at = i;
            *index = m->slots[i].index1 - 1;
            return true;
        }
    return false;
}

static bool hmap_add(struct hmap *m, uint64_t hash, uint32_t index)
{
    if ((m->n + 1) * 4 > m->cap * 3 && !hmap_grow(m))
        return false;
    size_t at = hash & (m->cap - 1);
    while (m->slots[at].index1)
        at = (at + 1) & (m->cap - 1);
    m->slots[at].hash = hash;
    m->slots[at].index1 = index + 1;
    m->n++;
    return true;
}

/* One more element at the end of array `a` of `n` with room `cap`; NULL: no memory. */
#define PUSH(a, n, cap) (((n) < (cap) || grow((void **)&(a), &(cap), sizeof(*(a)))) ? &(a)[(n)++] : NULL)
static bool grow(void **a, size_t *cap, size_t size)
{
    size_t more = *cap ? *cap * 2 : 64;
    void *p = cairn_reallocarray(*a, more, size);
    if (!p)
        return false;
    *a = p;
    *cap = more;
    return true;
}

static bool str_eq(struct cairn_str a, struct cairn_str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

/* ---- what a batch records
 * ------------------------------------------------------------------------------------- */

struct bcoll {
    struct coll_rec rec; /* as stored when it exists; opts as this batch leaves them */
    bool stored, created, dropped, touched;
    struct cairn_analyzer *analyzer;
    size_t n_ops;
};
struct bterm {
    struct cairn_str word;
    uint32_t coll;          /* index of bcoll */
    uint32_t mark, mark_at; /* the passage that met it last, and where in its list */
    uint32_t heading_mark;
    uint32_t term;     /* in the store; set while applying */
    uint64_t first, n; /* its part of the postings; set while applying */
};
struct bfreq {
    uint32_t term, tf; /* term: index of bterm */
};
struct bpassage {
    uint32_t start, end, n_words, n_freqs;
    struct cairn_str path;
    struct cairn_hash hash;
    const float *vector;
    const struct bfreq *freqs;
};
struct bdoc {
    uint32_t coll;
    bool put, superseded;
    struct cairn_str id, title, path, mime, text;
    struct cairn_hash content_hash;
    int64_t modified_us;
    const struct cairn_str *principals;
    uint32_t n_principals, n_passages;
    const struct bpassage *passages;
    uint32_t first_passage; /* set while applying */
};
struct brecord {
    struct cairn_str key, bytes; /* key: space, 0, key */
    bool put, superseded;
};
struct store_batch {
    struct store *s;
    struct cairn_arena *arena;
    bool broken, may_grow; /* may_grow: it adds something */
    struct bcoll *colls;
    size_t n_colls, cap_colls;
    struct bdoc *docs;
    size_t n_docs, cap_docs;
    struct bterm *terms;
    size_t n_terms, cap_terms;
    struct brecord *records;
    size_t n_records, cap_records;
    struct hmap doc_map, term_map, record_map;
    struct bfreq *freqs; /* of the passage being read */
    size_t n_freqs, cap_freqs;
    uint32_t mark;
};

enum cairn_err store_batch_begin(struct store_batch **out, struct store *s, struct cairn_why *why)
{
    *out = NULL;
    if (s->read_only)
        return cairn_fail(why, CAIRN_ESTATE, "%s is open for reading only", s->dir);
    if (atomic_load(&s->failed))
        return cairn_fail(
            why, CAIRN_ESTATE,
            "%s: an earlier commit met an I/O error; writing stops until the store is closed, checked "
            "(`cairn debug check`) and opened again",
            s->dir);
    struct store_batch *b = cairn_calloc(1, sizeof(*b));
    if (b)
        b->arena = cairn_arena_new((size_t)store_conf(s, "index.batch_bytes_max"));
    if (!b || !b->arena) {
        cairn_free(b);
        return cairn_fail(why, CAIRN_ENOMEM, "batch");
    }
    b->s = s;
    pthread_mutex_lock(&s->lock);
    while (s->writing)
        pthread_cond_wait(&s->changed, &s->lock);
    s->writing = true;
    pthread_mutex_unlock(&s->lock);
    *out = b;
    return CAIRN_OK;
}

void store_batch_abort(struct store_batch *b)
{
    if (!b)
        return;
    struct store *s = b->s;
    for (size_t i = 0; i < b->n_colls; i++)
        analyzer_give(s, b->colls[i].rec.opts.language, b->colls[i].analyzer);
    pthread_mutex_lock(&s->lock);
    s->writing = false;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    cairn_free(b->colls);
    cairn_free(b->docs);
    cairn_free(b->terms);
    cairn_free(b->records);
    cairn_free(b->freqs);
    cairn_free(b->doc_map.slots);
    cairn_free(b->term_map.slots);
    cairn_free(b->record_map.slots);
    cairn_arena_free(b->arena);
    cairn_free(b);
}

static enum cairn_err broken(struct store_batch *b, enum cairn_err err)
{
    if (err)
        b->broken = true;
    return err;
}

static enum cairn_err usable(const struct store_batch *b, struct cairn_why *why)
{
    return b->broken ? cairn_fail(why, CAIRN_ESTATE, "an earlier call of this batch failed; abort it")
                     : CAIRN_OK;
}

static enum cairn_err no_room(struct store_batch *b, struct cairn_why *why)
{
    return cairn_fail(
        why, CAIRN_ENOMEM,
        "no memory for the batch, or it is over index.batch_bytes_max (%.0f bytes); commit smaller batches",
        store_conf(b->s, "index.batch_bytes_max"));
}

static bool keep(struct store_batch *b, struct cairn_str s, struct cairn_str *out)
{
    out->p = s.len ? cairn_arena_strndup(b->arena, s.p, s.len) : "";
    out->len = s.len;
    return out->p != NULL;
}

/* ---- collections
 * ---------------------------------------------------------------------------------------------- */

static bool name_ok(const char *name, size_t cap)
{
    size_t n = strnlen(name, cap);
    if (n == 0 || n >= cap)
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!alnum && (i == 0 || (c != '_' && c != '-')))
            return false;
    }
    return true;
}

static enum cairn_err opts_ok(const struct collection_opts *o, struct cairn_why *why)
{
    if (!name_ok(o->name, sizeof(o->name)))
        return cairn_fail(why, CAIRN_EINVAL,
                          "a collection's name has 1 to %u of a-z 0-9 _ - and starts with a letter or digit",
                          COLLECTION_NAME_MAX);
    if (strnlen(o->language, sizeof(o->language)) == sizeof(o->language) ||
        strnlen(o->embedder, sizeof(o->embedder)) == sizeof(o->embedder))
        return cairn_fail(why, CAIRN_EINVAL, "collection %s: language or embedder is not a string", o->name);
    if (o->dim > VECTOR_DIM_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "collection %s: dimension %u is over %u", o->name, o->dim,
                          VECTOR_DIM_MAX);
    if ((unsigned)o->metric > METRIC_L2 || (unsigned)o->fusion > FUSION_ZSCORE ||
        (unsigned)o->index > VECTOR_IVF)
        return cairn_fail(why, CAIRN_EINVAL, "collection %s: unknown metric, index or fusion", o->name);
    if (!(o->dense_weight >= 0 && o->dense_weight <= 1) || !(o->rerank_weight >= 0 && o->rerank_weight <= 1))
        return cairn_fail(why, CAIRN_EINVAL, "collection %s: weights lie between 0 and 1", o->name);
    return CAIRN_OK;
}

/* The collection as this batch sees it; CAIRN_ENOTFOUND with words. */
static enum cairn_err find_coll(struct store_batch *b, const char *name, uint32_t *index,
                                struct cairn_why *why)
{
    bool dropped = false;
    for (size_t i = b->n_colls; i-- > 0;)
        if (strcmp(b->colls[i].rec.opts.name, name ? name : "") == 0) {
            *index = (uint32_t)i;
            if (!b->colls[i].dropped)
                return CAIRN_OK;
            dropped = true;
            break;
        }
    if (dropped)
        return cairn_fail(why, CAIRN_ENOTFOUND, "collection %.80s", name);
    struct coll_rec rec;
    struct kv kv;
    enum cairn_err err = gate_read_begin(b->s, &kv, why);
    if (err)
        return err;
    err = coll_get(&kv, name, &rec, why);
    gate_read_end(b->s, &kv);
    if (err)
        return err;
    struct bcoll *c = PUSH(b->colls, b->n_colls, b->cap_colls);
    if (!c)
        return no_room(b, why);
    *c = (struct bcoll){.rec = rec, .stored = true};
    *index = (uint32_t)(b->n_colls - 1);
    return CAIRN_OK;
}

static enum cairn_err create(struct store_batch *b, const struct collection_opts *o, struct cairn_why *why)
{
    uint32_t at;
    enum cairn_err err = usable(b, why);
    if (!err)
        err = opts_ok(o, why);
    if (err)
        return err;
    err = find_coll(b, o->name, &at, why);
    if (!err)
        return cairn_fail(why, CAIRN_EEXISTS, "collection %s is there already", o->name);
    if (err != CAIRN_ENOTFOUND)
        return err;
    struct cairn_analyzer *a; /* an unknown language is told now, not at the first document */
    err = analyzer_take(b->s, o->language, &a, why);
    if (err)
        return err;
    struct bcoll *c = PUSH(b->colls, b->n_colls, b->cap_colls);
    if (!c) {
        analyzer_give(b->s, o->language, a);
        return no_room(b, why);
    }
    *c = (struct bcoll){.created = true, .touched = true, .analyzer = a};
    c->rec.opts = *o;
    c->rec.next_docno = 1;
    c->rec.next_passage = 1;
    c->rec.next_term = 1;
    b->may_grow = true;
    if (why)
        why->text[0] = '\0';
    return CAIRN_OK;
}

enum cairn_err store_collection_create(struct store_batch *b, const struct collection_opts *o,
                                       struct cairn_why *why)
{
    return broken(b, create(b, o, why));
}

static enum cairn_err update(struct store_batch *b, const struct collection_opts *o, struct cairn_why *why)
{
    uint32_t at;
    enum cairn_err err = usable(b, why);
    if (!err)
        err = opts_ok(o, why);
    if (!err)
        err = find_coll(b, o->name, &at, why);
    if (err)
        return err;
    struct collection_opts *have = &b->colls[at].rec.opts;
    if (strcmp(have->language, o->language) != 0 || strcmp(have->embedder, o->embedder) != 0 ||
        have->dim != o->dim || have->metric != o->metric)
        return cairn_fail(
            why, CAIRN_EINVAL,
            "collection %s: language, embedder, dimension and metric stay as created; make a new collection",
            o->name);
    *have = *o;
    b->colls[at].touched = true;
    return CAIRN_OK;
}

enum cairn_err store_collection_update(struct store_batch *b, const struct collection_opts *o,
                                       struct cairn_why *why)
{
    return broken(b, update(b, o, why));
}

static enum cairn_err drop(struct store_batch *b, const char *name, struct cairn_why *why)
{
    uint32_t at;
    enum cairn_err err = usable(b, why);
    if (!err)
        err = find_coll(b, name, &at, why);
    if (err)
        return err;
    b->colls[at].dropped = true;
    for (size_t i = 0; i < b->n_docs; i++)
        if (b->docs[i].coll == at)
            b->docs[i].superseded = true;
    return CAIRN_OK;
}

enum cairn_err store_collection_drop(struct store_batch *b, const char *name, struct cairn_why *why)
{
    return broken(b, drop(b, name, why));
}

/* ---- documents
 * ------------------------------------------------------------------------------------------------ */

static uint64_t doc_hash(uint32_t coll, struct cairn_str id) { return cairn_xxh64(id.p, id.len, coll + 1); }

static struct bdoc *find_doc(struct store_batch *b, uint32_t coll, struct cairn_str id)
{
    uint32_t i;
    for (size_t at = SIZE_MAX; hmap_each(&b->doc_map, doc_hash(coll, id), &at, &i);)
        if (!b->docs[i].superseded && b->docs[i].coll == coll && str_eq(b->docs[i].id, id))
            return &b->docs[i];
    return NULL;
}

static enum cairn_err add_doc(struct store_batch *b, const struct bdoc *d, struct cairn_why *why)
{
    struct bdoc *old = find_doc(b, d->coll, d->id);
    size_t old_at = old ? (size_t)(old - b->docs) : SIZE_MAX;
    struct bdoc *slot = b->n_docs < UINT32_MAX - 1 ? PUSH(b->docs, b->n_docs, b->cap_docs) : NULL;
    if (!slot)
        return no_room(b, why);
    *slot = *d;
    if (!hmap_add(&b->doc_map, doc_hash(d->coll, d->id), (uint32_t)(b->n_docs - 1))) {
        b->n_docs--;
        return no_room(b, why);
    }
    if (old)
        b->docs[old_at].superseded = true;
    return CAIRN_OK;
}

static enum cairn_err text_ok(const char *what, struct cairn_str s, size_t max, bool printable,
                              struct cairn_why *why)
{
    if (s.len > max)
        return cairn_fail(why, CAIRN_EFULL, "%s has %zu bytes; the limit is %zu", what, s.len, max);
    if (s.len > 0 && !s.p)
        return cairn_fail(why, CAIRN_EINVAL, "%s is missing", what);
    size_t bad = cairn_utf8_invalid_at(s.p, s.len);
    if (bad < s.len)
        return cairn_fail(why, CAIRN_EINVAL, "%s is not UTF-8 at byte %zu", what, bad);
    for (size_t i = 0; printable && i < s.len; i++)
        if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f)
            return cairn_fail(why, CAIRN_EINVAL, "%s has a control character at byte %zu", what, i);
    return CAIRN_OK;
}

static enum cairn_err find_term(struct store_batch *b, uint32_t coll, struct cairn_str word, uint32_t *index)
{
    if (word.len > TERM_BYTES_MAX)
        word.len = cairn_utf8_floor(word.p, TERM_BYTES_MAX);
    uint64_t hash = cairn_xxh64(word.p, word.len, coll + 1);
    for (size_t at = SIZE_MAX; hmap_each(&b->term_map, hash, &at, index);)
        if (b->terms[*index].coll == coll && str_eq(b->terms[*index].word, word))
            return CAIRN_OK;
    struct bterm t = {.coll = coll};
    if (b->n_terms >= UINT32_MAX - 1 || !keep(b, word, &t.word))
        return CAIRN_ENOMEM;
    struct bterm *slot = PUSH(b->terms, b->n_terms, b->cap_terms);
    if (!slot)
        return CAIRN_ENOMEM;
    *slot = t;
    *index = (uint32_t)(b->n_terms - 1);
    if (hmap_add(&b->term_map, hash, *index))
        return CAIRN_OK;
    b->n_terms--;
    return CAIRN_ENOMEM;
}

/* Counts the words of text into b->freqs. A heading's word counts once per passage, however often it stands
 * in title and path: enough to find a passage by its heading, too little to outrank what the passage says. */
static enum cairn_err count_words(struct store_batch *b, uint32_t coll, struct cairn_str text, bool heading,
                                  uint32_t *n_words, struct cairn_why *why)
{
    const struct cairn_word *words;
    size_t n;
    enum cairn_err err = cairn_analyze(b->colls[coll].analyzer, text, &words, &n, why);
    for (size_t i = 0; i < n && !err; i++) {
        uint32_t t;
        if (words[i].text.len == 0)
            continue;
        if (find_term(b, coll, words[i].text, &t))
            return no_room(b, why);
        struct bterm *term = &b->terms[t];
        if (heading && term->heading_mark == b->mark)
            continue;
        if (heading)
            term->heading_mark = b->mark;
        if (term->mark != b->mark) {
            struct bfreq *f = PUSH(b->freqs, b->n_freqs, b->cap_freqs);
            if (!f)
                return no_room(b, why);
            *f = (struct bfreq){t, 0};
            term->mark = b->mark;
            term->mark_at = (uint32_t)(b->n_freqs - 1);
        }
        b->freqs[term->mark_at].tf++;
        ++*n_words;
    }
    return err;
}

/* A vector of the document's former version (in this batch or stored) with this hash; *out in the arena,
 * NULL: none. */
static enum cairn_err old_vector(struct store_batch *b, struct kv *kv, uint32_t coll,
                                 const struct bdoc *before, const struct doc_rec *stored,
                                 const struct cairn_str *hashes, const struct cairn_hash *hash,
                                 const float **out, struct cairn_why *why)
{
    const struct coll_rec *rec = &b->colls[coll].rec;
    *out = NULL;
    if (before) {
        for (uint32_t i = 0; before->put && i < before->n_passages && !*out; i++)
            if (memcmp(before->passages[i].hash.b, hash->b, sizeof(hash->b)) == 0)
                *out = before->passages[i].vector;
        return CAIRN_OK;
    }
    for (uint32_t i = 0; stored && i < stored->n_passages; i++) {
        if (memcmp(hashes->p + (size_t)i * sizeof(hash->b), hash->b, sizeof(hash->b)) != 0)
            continue;
        float *v = cairn_arena_alloc(b->arena, (size_t)rec->opts.dim * sizeof(float));
        if (!v)
            return no_room(b, why);
        struct vindex_ref x = {kv, rec->id, rec->opts.dim, rec->opts.metric};
        enum cairn_err err = vindex_get(&x, stored->first_passage + i, v, why);
        if (err == CAIRN_ENOTFOUND)
            return cairn_fail(why, CAIRN_ECORRUPT,
                              "collection %s, passage %u: its vector is missing; run `cairn debug check`",
                              rec->opts.name, stored->first_passage + i);
        *out = v;
        return err;
    }
    return CAIRN_OK;
}

static enum cairn_err hashes_get(struct kv *kv, uint32_t coll, const struct doc_rec *d,
                                 struct cairn_str *hashes, struct cairn_why *why)
{
    struct kv_key k;
    enum cairn_err err = kv_get(kv, DB_HASHES, key_u64(key_u32(key_reset(&k), coll), d->docno), hashes, why);
    if (err == CAIRN_ENOTFOUND || (!err && hashes->len != (size_t)d->n_passages * sizeof(struct cairn_hash)))
        return kv_corrupt(why, DB_HASHES, k.b, k.len, "hashes of a document's passages are missing");
    return err;
}

static enum cairn_err read_passages(struct store_batch *b, struct bdoc *d, const struct store_document *in,
                                    struct kv *kv, const struct bdoc *before, const struct doc_rec *stored,
                                    struct cairn_why *why)
{
    struct coll_rec *rec = &b->colls[d->coll].rec;
    uint32_t dim = rec->opts.dim;
    struct bpassage *ps = cairn_arena_alloc(b->arena, (in->n_passages ? in->n_passages : 1) * sizeof(*ps));
    if (!ps)
        return no_room(b, why);
    struct cairn_str hashes = {"", 0};
    enum cairn_err err = stored && !before ? hashes_get(kv, rec->id, stored, &hashes, why) : CAIRN_OK;
    for (size_t i = 0; i < in->n_passages && !err; i++) {
        const struct store_passage *from = &in->passages[i];
        struct bpassage *p = &ps[i];
        if (from->start > from->end || from->end > in->text.len)
            return cairn_fail(why, CAIRN_EINVAL,
                              "document %.*s, passage %zu: span %u..%u is not in its %zu bytes of text",
                              (int)in->id.len, in->id.p, i, from->start, from->end, in->text.len);
        struct cairn_str text = {in->text.p + from->start, from->end - from->start};
        if (text.len > PASSAGE_BYTES_MAX)
            return cairn_fail(why, CAIRN_EFULL, "document %.*s, passage %zu: %zu bytes; the limit is %u",
                              (int)in->id.len, in->id.p, i, text.len, PASSAGE_BYTES_MAX);
        if (cairn_utf8_invalid_at(text.p, text.len) < text.len)
            return cairn_fail(why, CAIRN_EINVAL,
                              "document %.*s, passage %zu: its span cuts a UTF-8 character", (int)in->id.len,
                              in->id.p, i);
        err = text_ok("a passage's path", from->path, PASSAGE_BYTES_MAX, false, why);
        if (err)
            return err;
        p->start = from->start;
        p->end = from->end;
        p->hash = cairn_hash_bytes(text.p, text.len);
        if (!keep(b, from->path, &p->path))
            return no_room(b, why);
        if (dim && from->vector) {
            const char *bad = vindex_refuses(from->vector, dim, rec->opts.metric);
            if (bad)
                return cairn_fail(why, CAIRN_EINVAL, "document %.*s, passage %zu: %s", (int)in->id.len,
                                  in->id.p, i, bad);
            float *v = cairn_arena_alloc(b->arena, (size_t)dim * sizeof(float));
            if (!v)
                return no_room(b, why);
            memcpy(v, from->vector, (size_t)dim * sizeof(float));
            p->vector = v;
        } else if (dim) {
            err = old_vector(b, kv, d->coll, before, stored, &hashes, &p->hash, &p->vector, why);
            if (!err && !p->vector)
                return cairn_fail(
                    why, CAIRN_EINVAL,
                    "document %.*s, passage %zu: no vector, and no former version has its text; embed it",
                    (int)in->id.len, in->id.p, i);
            if (err)
                return err;
        } else if (from->vector) {
            return cairn_fail(why, CAIRN_EINVAL, "collection %s holds no vectors", rec->opts.name);
        }
        b->mark++;
        b->n_freqs = 0;
        err = count_words(b, d->coll, text, false, &p->n_words, why);
        if (!err && in->title.len)
            err = count_words(b, d->coll, in->title, true, &p->n_words, why);
        if (!err && from->path.len)
            err = count_words(b, d->coll, from->path, true, &p->n_words, why);
        if (err)
            return err;
        struct bfreq *freqs = cairn_arena_alloc(b->arena, (b->n_freqs ? b->n_freqs : 1) * sizeof(*freqs));
        if (!freqs)
            return no_room(b, why);
        if (b->n_freqs)
            memcpy(freqs, b->freqs, b->n_freqs * sizeof(*freqs));
        p->freqs = freqs;
        p->n_freqs = (uint32_t)b->n_freqs;
    }
    d->passages = ps;
    d->n_passages = (uint32_t)in->n_passages;
    return err;
}

static enum cairn_err keep_principals(struct store_batch *b, struct bdoc *d, const struct store_document *in,
                                      struct cairn_why *why)
{
    struct cairn_str *ps =
        cairn_arena_alloc(b->arena, (in->n_principals ? in->n_principals : 1) * sizeof(*ps));
    if (!ps)
        return no_room(b, why);
    for (size_t i = 0; i < in->n_principals; i++) { /* sorted, each once */
        struct cairn_str p = in->principals[i];
        size_t at = 0;
        int order = 1;
        for (; at < d->n_principals; at++) {
            size_t n = p.len < ps[at].len ? p.len : ps[at].len;
            order = memcmp(p.p, ps[at].p, n);
            if (order == 0)
                order = (p.len > ps[at].len) - (p.len < ps[at].len);
            if (order <= 0)
                break;
        }
        if (at < d->n_principals && order == 0)
            continue;
        memmove(ps + at + 1, ps + at, (d->n_principals - at) * sizeof(*ps));
        if (!keep(b, p, &ps[at]))
            return no_room(b, why);
        d->n_principals++;
    }
    d->principals = ps;
    return CAIRN_OK;
}

static enum cairn_err document_ok(struct store_batch *b, const struct store_document *d,
                                  struct cairn_why *why)
{
    enum cairn_err err;
    if (d->id.len == 0)
        return cairn_fail(why, CAIRN_EINVAL, "a document needs an id");
    if ((err = text_ok("a document's id", d->id, DOCUMENT_ID_MAX, true, why)) ||
        (err = text_ok("a document's title", d->title, PASSAGE_BYTES_MAX, false, why)) ||
        (err = text_ok("a document's path", d->path, PASSAGE_BYTES_MAX, false, why)) ||
        (err = text_ok("a document's type", d->mime, 256, true, why)) ||
        (err = text_ok("a document's text", d->text, (size_t)store_conf(b->s, "index.document_bytes_max"),
                       false, why)))
        return cairn_wrap(why, err, "document %.*s", d->id.len <= DOCUMENT_ID_MAX ? (int)d->id.len : 0,
                          d->id.p);
    if (d->n_passages > (size_t)store_conf(b->s, "index.passages_per_document_max"))
        return cairn_fail(
            why, CAIRN_EFULL, "document %.*s: %zu passages; index.passages_per_document_max is %.0f",
            (int)d->id.len, d->id.p, d->n_passages, store_conf(b->s, "index.passages_per_document_max"));
    if (d->n_principals > PRINCIPALS_MAX)
        return cairn_fail(why, CAIRN_EFULL, "document %.*s: %zu principals; the limit is %u", (int)d->id.len,
                          d->id.p, d->n_principals, PRINCIPALS_MAX);
    for (size_t i = 0; i < d->n_principals; i++) {
        if (d->principals[i].len == 0)
            return cairn_fail(why, CAIRN_EINVAL, "document %.*s: an empty principal", (int)d->id.len,
                              d->id.p);
        if ((err = text_ok("a principal", d->principals[i], PRINCIPAL_MAX, true, why)))
            return cairn_wrap(why, err, "document %.*s", (int)d->id.len, d->id.p);
    }
    return CAIRN_OK;
}

static enum cairn_err put(struct store_batch *b, const char *collection, const struct store_document *in,
                          struct cairn_why *why)
{
    uint32_t coll;
    enum cairn_err err = usable(b, why);
    if (!err)
        err = find_coll(b, collection, &coll, why);
    if (!err)
        err = document_ok(b, in, why);
    if (!err && !b->colls[coll].analyzer)
        err = analyzer_take(b->s, b->colls[coll].rec.opts.language, &b->colls[coll].analyzer, why);
    if (err)
        return err;
    struct bdoc d = {
        .coll = coll, .put = true, .content_hash = in->content_hash, .modified_us = in->modified_us};
    if (!keep(b, in->id, &d.id) || !keep(b, in->title, &d.title) || !keep(b, in->path, &d.path) ||
        !keep(b, in->mime, &d.mime) || !keep(b, in->text, &d.text))
        return no_room(b, why);
    err = keep_principals(b, &d, in, why);
    if (err)
        return err;
    const struct bdoc *before = find_doc(b, coll, in->id);
    struct kv kv;
    struct doc_rec stored;
    err = gate_read_begin(b->s, &kv, why);
    if (err)
        return err;
    bool is_stored = false;
    if (b->colls[coll].stored) {
        err = doc_get(&kv, b->colls[coll].rec.id, in->id, &stored, why);
        is_stored = !err;
        if (err == CAIRN_ENOTFOUND)
            err = CAIRN_OK;
    }
    if (!err)
        err = read_passages(b, &d, in, &kv, before, is_stored ? &stored : NULL, why);
    gate_read_end(b->s, &kv);
    if (!err)
        err = add_doc(b, &d, why);
    if (err)
        return err;
    b->colls[coll].touched = true;
    b->may_grow = true;
    return CAIRN_OK;
}

enum cairn_err store_put(struct store_batch *b, const char *collection, const struct store_document *d,
                         struct cairn_why *why)
{
    return broken(b, put(b, collection, d, why));
}

enum cairn_err store_delete(struct store_batch *b, const char *collection, struct cairn_str id,
                            struct cairn_why *why)
{
    uint32_t coll;
    enum cairn_err err = usable(b, why);
    if (!err)
        err = find_coll(b, collection, &coll, why);
    if (err)
        return err == CAIRN_ENOTFOUND ? err : broken(b, err);
    struct bdoc *before = find_doc(b, coll, id);
    bool there = before && before->put;
    bool stored = false;
    if (b->colls[coll].stored && !(before && !before->put)) {
        struct kv kv;
        struct doc_rec rec;
        err = gate_read_begin(b->s, &kv, why);
        if (err)
            return broken(b, err);
        err = doc_get(&kv, b->colls[coll].rec.id, id, &rec, why);
        gate_read_end(b->s, &kv);
        stored = !err;
        if (err && err != CAIRN_ENOTFOUND)
            return broken(b, err);
    }
    if (!there && !stored)
        return cairn_fail(why, CAIRN_ENOTFOUND, "document %.*s in collection %s",
                          id.len <= DOCUMENT_ID_MAX ? (int)id.len : 0, id.p, collection);
    struct bdoc d = {.coll = coll};
    if (!keep(b, id, &d.id))
        return broken(b, no_room(b, why));
    b->colls[coll].touched = true;
    return broken(b, add_doc(b, &d, why));
}

/* ---- records of other rooms
 * ----------------------------------------------------------------------------------- */

static const char *const spaces[] = {"key",      "job",   "answer", "audit", "meta",        "usage",
                                     "feedback", "model", "cache",  "agent", "conversation"};

enum cairn_err record_key(const char *space, struct cairn_str key, bool may_be_empty, struct kv_key *k,
                          struct cairn_why *why)
{
    bool known = false;
    for (size_t i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++)
        known = known || (space && strcmp(spaces[i], space) == 0);
    if (!known)
        return cairn_fail(why, CAIRN_EINVAL, "no space of records is called %.40s", space ? space : "(none)");
    if ((key.len == 0 && !may_be_empty) || key.len > RECORD_KEY_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "a record's key of %zu bytes; 1 to %u are allowed", key.len,
                          RECORD_KEY_MAX);
    key_bytes(key_bytes(key_reset(k), space, strlen(space) + 1), key.p, key.len);
    return CAIRN_OK;
}

static struct brecord *find_record(struct store_batch *b, struct cairn_str key)
{
    uint32_t i;
    for (size_t at = SIZE_MAX; hmap_each(&b->record_map, cairn_xxh64(key.p, key.len, 0), &at, &i);)
        if (!b->records[i].superseded && str_eq(b->records[i].key, key))
            return &b->records[i];
    return NULL;
}

static enum cairn_err add_record(struct store_batch *b, const struct kv_key *k, bool is_put,
                                 struct cairn_str bytes, struct cairn_why *why)
{
    struct brecord r = {.put = is_put}, *old = find_record(b, (struct cairn_str){(const char *)k->b, k->len});
    if (!keep(b, (struct cairn_str){(const char *)k->b, k->len}, &r.key) || !keep(b, bytes, &r.bytes))
        return no_room(b, why);
    size_t old_at = old ? (size_t)(old - b->records) : SIZE_MAX;
    struct brecord *slot = PUSH(b->records, b->n_records, b->cap_records);
    if (!slot)
        return no_room(b, why);
    *slot = r;
    if (!hmap_add(&b->record_map, cairn_xxh64(r.key.p, r.key.len, 0), (uint32_t)(b->n_records - 1))) {
        b->n_records--;
        return no_room(b, why);
    }
    if (old)
        b->records[old_at].superseded = true;
    b->may_grow = b->may_grow || is_put;
    return CAIRN_OK;
}

enum cairn_err store_record_put(struct store_batch *b, const char *space, struct cairn_str key,
                                const void *bytes, size_t len, struct cairn_why *why)
{
    struct kv_key k;
    enum cairn_err err = usable(b, why);
    if (!err)
        err = record_key(space, key, false, &k, why);
    if (!err && len > RECORD_BYTES_MAX)
        err = cairn_fail(why, CAIRN_EFULL, "a record of %zu bytes; the limit is %u", len, RECORD_BYTES_MAX);
    if (!err)
        err = add_record(b, &k, true, (struct cairn_str){bytes, len}, why);
    return broken(b, err);
}

enum cairn_err store_record_delete(struct store_batch *b, const char *space, struct cairn_str key,
                                   struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    enum cairn_err err = usable(b, why);
    if (!err)
        err = record_key(space, key, false, &k, why);
    if (err)
        return broken(b, err);
    struct brecord *before = find_record(b, (struct cairn_str){(const char *)k.b, k.len});
    bool there = before && before->put;
    if (!before) {
        struct kv kv;
        err = gate_read_begin(b->s, &kv, why);
        if (err)
            return broken(b, err);
        err = kv_get(&kv, DB_RECORD, &k, &v, why);
        gate_read_end(b->s, &kv);
        if (err && err != CAIRN_ENOTFOUND)
            return broken(b, err);
        there = !err;
    }
    if (!there)
        return cairn_fail(why, CAIRN_ENOTFOUND, "record %.*s in space %s", (int)key.len, key.p, space);
    return broken(b, add_record(b, &k, false, (struct cairn_str){"", 0}, why));
}

/* ---- applying
 * ------------------------------------------------------------------------------------------------- */

struct gone {
    uint32_t term, id;
};
/* Work of one collection inside the transaction. */
struct apply {
    struct store_batch *b;
    struct kv *kv;
    struct state *st;
    uint64_t generation;
    struct coll_rec rec;
    uint32_t coll; /* index of bcoll */
    struct gone *gone;
    size_t n_gone, cap_gone;
    struct idset_change *sets;
    size_t n_sets, cap_sets;
    uint32_t *dead;
    size_t n_dead, cap_dead;
    struct vindex_row *rows;
    size_t n_rows, cap_rows;
    struct cairn_buf buf;
    ZSTD_CCtx *cctx;
    char *packed;
    size_t packed_cap;
};

static void apply_release(struct apply *a)
{
    cairn_free(a->gone);
    cairn_free(a->sets);
    cairn_free(a->dead);
    cairn_free(a->rows);
    cairn_buf_release(&a->buf);
    (void)ZSTD_freeCCtx(a->cctx);
    cairn_free(a->packed);
}

static enum cairn_err no_memory(struct cairn_why *why)
{
    return cairn_fail(why, CAIRN_ENOMEM, "no memory to commit the batch");
}

static enum cairn_err change_set(struct apply *a, uint32_t set, uint32_t id, bool add, struct cairn_why *why)
{
    struct idset_change *c = PUSH(a->sets, a->n_sets, a->cap_sets);
    if (!c)
        return no_memory(why);
    *c = (struct idset_change){set, id, add};
    return CAIRN_OK;
}

static enum cairn_err change_sets(struct apply *a, const uint32_t *sets, uint32_t n_sets, uint32_t first,
                                  uint32_t n, bool add, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (uint32_t i = 0; i < n && !err; i++) {
        err = change_set(a, SET_LIVE, first + i, add, why);
        for (uint32_t j = 0; j < n_sets && !err; j++)
            err = change_set(a, sets[j], first + i, add, why);
    }
    return err;
}

/* Deletes what must be there. */
static enum cairn_err del(struct kv *kv, enum kv_db db, const struct kv_key *k, struct cairn_why *why)
{
    enum cairn_err err = kv_del(kv, db, k, why);
    return err == CAIRN_ENOTFOUND ? kv_corrupt(why, db, k->b, k->len, "a part of a document is missing")
                                  : err;
}

static enum cairn_err remove_passage(struct apply *a, uint32_t id, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    enum cairn_err err = kv_get(a->kv, DB_FORWARD, key_u32(key_u32(key_reset(&k), a->rec.id), id), &v, why);
    if (err == CAIRN_ENOTFOUND)
        return kv_corrupt(why, DB_FORWARD, k.b, k.len, "words of a passage are missing");
    if (err)
        return err;
    struct rd r = rd_of(v);
    uint64_t n_words = rd_varint(&r);
    while (!r.bad && rd_left(&r)) {
        struct gone *g = PUSH(a->gone, a->n_gone, a->cap_gone);
        if (!g)
            return no_memory(why);
        *g = (struct gone){rd_var32(&r), id};
        (void)rd_var32(&r);
    }
    if (r.bad || n_words > a->rec.n_words)
        return kv_corrupt(why, DB_FORWARD, k.b, k.len, "not the words of a passage");
    a->rec.n_words -= n_words;
    err = del(a->kv, DB_FORWARD, &k, why);
    if (!err)
        err = del(a->kv, DB_PASSAGE, &k, why);
    if (!err && a->rec.opts.dim) {
        uint32_t *d = PUSH(a->dead, a->n_dead, a->cap_dead);
        if (!d)
            return no_memory(why);
        *d = id;
    }
    return err;
}

/* Takes a stored document away; CAIRN_ENOTFOUND when there is none. */
static enum cairn_err remove_document(struct apply *a, struct cairn_str id, struct cairn_why *why)
{
    struct doc_rec d;
    struct kv_key k;
    uint32_t sets[PRINCIPALS_MAX + 1], n_sets = 0;
    enum cairn_err err = doc_get(a->kv, a->rec.id, id, &d, why);
    if (err)
        return err;
    for (uint32_t i = 0; i < d.n_principals && !err; i++) {
        struct cairn_str name = rd_str(&d.principals);
        err = principal_id(a->kv, name, &sets[n_sets++], why);
        if (err == CAIRN_ENOTFOUND)
            err = kv_corrupt(why, DB_PRINCIPAL, name.p, name.len, "a document's principal is unknown");
    }
    if (d.n_principals == 0)
        sets[n_sets++] = SET_NO_ACL;
    if (!err && (a->rec.n_documents == 0 || a->rec.n_passages < d.n_passages))
        err = kv_corrupt(why, DB_COLLECTION, a->rec.opts.name, strlen(a->rec.opts.name),
                         "it counts too few documents");
    if (!err)
        err = change_sets(a, sets, n_sets, d.first_passage, d.n_passages, false, why);
    uint64_t pieces = (d.text_bytes + TEXT_PIECE_BYTES - 1) / TEXT_PIECE_BYTES;
    for (uint64_t i = 0; i < pieces && !err; i++)
        err = del(a->kv, DB_TEXT, key_u32(key_u64(key_u32(key_reset(&k), a->rec.id), d.docno), (uint32_t)i),
                  why);
    if (!err)
        err = del(a->kv, DB_HASHES, key_u64(key_u32(key_reset(&k), a->rec.id), d.docno), why);
    for (uint32_t i = 0; i < d.n_passages && !err; i++)
        err = remove_passage(a, d.first_passage + i, why);
    if (!err)
        err = del(a->kv, DB_DOCUMENT, key_bytes(key_u32(key_reset(&k), a->rec.id), id.p, id.len), why);
    if (err)
        return err;
    a->rec.n_documents--;
    a->rec.n_passages -= d.n_passages;
    return CAIRN_OK;
}

static int by_term(const void *x, const void *y)
{
    const struct gone *a = x, *b = y;
    if (a->term != b->term)
        return a->term < b->term ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

static enum cairn_err remove_postings(struct apply *a, struct cairn_why *why)
{
    if (a->n_gone == 0)
        return CAIRN_OK;
    qsort(a->gone, a->n_gone, sizeof(*a->gone), by_term);
    uint32_t *ids = cairn_reallocarray(NULL, a->n_gone, sizeof(*ids));
    if (!ids)
        return no_memory(why);
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < a->n_gone && !err;) {
        size_t n = 0;
        uint32_t term = a->gone[i].term;
        for (; i < a->n_gone && a->gone[i].term == term; i++)
            ids[n++] = a->gone[i].id;
        err = postings_remove(a->kv, a->rec.id, term, ids, n, why);
    }
    cairn_free(ids);
    return err;
}

static int by_id(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return (a > b) - (a < b);
}

static enum cairn_err put_text(struct apply *a, const struct bdoc *d, uint64_t docno, struct cairn_why *why)
{
    if (!a->cctx) {
        a->packed_cap = ZSTD_compressBound(TEXT_PIECE_BYTES);
        a->packed = cairn_malloc(a->packed_cap);
        a->cctx = ZSTD_createCCtx();
    }
    if (!a->cctx || !a->packed)
        return no_memory(why);
    enum cairn_err err = CAIRN_OK;
    for (size_t at = 0; at < d->text.len && !err; at += TEXT_PIECE_BYTES) {
        size_t n = d->text.len - at < TEXT_PIECE_BYTES ? d->text.len - at : TEXT_PIECE_BYTES;
        size_t len = ZSTD_compressCCtx(a->cctx, a->packed, a->packed_cap, d->text.p + at, n, TEXT_LEVEL);
        if (ZSTD_isError(len))
            return cairn_fail(why, CAIRN_ENOMEM, "packing a document's text: %s", ZSTD_getErrorName(len));
        struct kv_key k;
        key_u32(key_u64(key_u32(key_reset(&k), a->rec.id), docno), (uint32_t)(at / TEXT_PIECE_BYTES));
        err = kv_put(a->kv, DB_TEXT, &k, a->packed, len, why);
    }
    return err;
}

static enum cairn_err put_passage(struct apply *a, const struct bdoc *d, uint32_t ordinal,
                                  struct cairn_why *why)
{
    const struct bpassage *p = &d->passages[ordinal];
    uint32_t id = d->first_passage + ordinal;
    struct kv_key k;
    key_u32(key_u32(key_reset(&k), a->rec.id), id);
    cairn_buf_clear(&a->buf);
    wr_str(&a->buf, d->id);
    wr_u32(&a->buf, ordinal);
    wr_u32(&a->buf, p->start);
    wr_u32(&a->buf, p->end);
    wr_u32(&a->buf, p->n_words);
    (void)cairn_buf_put(&a->buf, p->hash.b, sizeof(p->hash.b));
    wr_str(&a->buf, p->path);
    enum cairn_err err = kv_put_buf(a->kv, DB_PASSAGE, &k, &a->buf, why);
    cairn_buf_clear(&a->buf);
    wr_varint(&a->buf, p->n_words);
    for (uint32_t i = 0; i < p->n_freqs; i++) {
        wr_varint(&a->buf, a->b->terms[p->freqs[i].term].term);
        wr_varint(&a->buf, p->freqs[i].tf);
    }
    if (!err)
        err = kv_put_buf(a->kv, DB_FORWARD, &k, &a->buf, why);
    if (!err && a->rec.opts.dim) {
        struct vindex_row *r = PUSH(a->rows, a->n_rows, a->cap_rows);
        if (!r)
            return no_memory(why);
        *r = (struct vindex_row){id, p->vector};
    }
    a->rec.n_words += p->n_words;
    return err;
}

static enum cairn_err principal_make(struct apply *a, struct cairn_str name, uint32_t *set,
                                     struct cairn_why *why)
{
    enum cairn_err err = principal_id(a->kv, name, set, why);
    if (err != CAIRN_ENOTFOUND)
        return err;
    if (a->st->next_principal == UINT32_MAX)
        return cairn_fail(why, CAIRN_EFULL, "the store has used all principal numbers");
    struct kv_key k;
    uint8_t bytes[4];
    *set = a->st->next_principal++;
    memcpy(bytes, set, 4);
    return kv_put(a->kv, DB_PRINCIPAL, key_bytes(key_reset(&k), name.p, name.len), bytes, 4, why);
}

static enum cairn_err put_document(struct apply *a, struct bdoc *d, struct cairn_why *why)
{
    struct kv_key k;
    uint32_t sets[PRINCIPALS_MAX + 1], n_sets = 0;
    uint64_t docno = a->rec.next_docno++;
    enum cairn_err err = CAIRN_OK;
    for (uint32_t i = 0; i < d->n_principals && !err; i++)
        err = principal_make(a, d->principals[i], &sets[n_sets++], why);
    if (d->n_principals == 0)
        sets[n_sets++] = SET_NO_ACL;
    if (!err)
        err = change_sets(a, sets, n_sets, d->first_passage, d->n_passages, true, why);
    cairn_buf_clear(&a->buf);
    wr_u64(&a->buf, docno);
    wr_u64(&a->buf, a->generation);
    wr_u64(&a->buf, (uint64_t)d->modified_us);
    (void)cairn_buf_put(&a->buf, d->content_hash.b, sizeof(d->content_hash.b));
    wr_u32(&a->buf, d->first_passage);
    wr_u32(&a->buf, d->n_passages);
    wr_u64(&a->buf, d->text.len);
    wr_str(&a->buf, d->title);
    wr_str(&a->buf, d->path);
    wr_str(&a->buf, d->mime);
    wr_varint(&a->buf, d->n_principals);
    for (uint32_t i = 0; i < d->n_principals; i++)
        wr_str(&a->buf, d->principals[i]);
    if (!err)
        err = kv_put_buf(a->kv, DB_DOCUMENT, key_bytes(key_u32(key_reset(&k), a->rec.id), d->id.p, d->id.len),
                         &a->buf, why);
    cairn_buf_clear(&a->buf);
    for (uint32_t i = 0; i < d->n_passages; i++)
        (void)cairn_buf_put(&a->buf, d->passages[i].hash.b, sizeof(d->passages[i].hash.b));
    if (!err)
        err = kv_put_buf(a->kv, DB_HASHES, key_u64(key_u32(key_reset(&k), a->rec.id), docno), &a->buf, why);
    if (!err)
        err = put_text(a, d, docno, why);
    for (uint32_t i = 0; i < d->n_passages && !err; i++)
        err = put_passage(a, d, i, why);
    a->rec.n_documents++;
    a->rec.n_passages += d->n_passages;
    return err;
}

/* Words in order, so that new terms and their keys are written from left to right. */
static int by_word(const void *x, const void *y, void *terms)
{
    const struct bterm *t = terms, *a = &t[*(const uint32_t *)x], *b = &t[*(const uint32_t *)y];
    size_t n = a->word.len < b->word.len ? a->word.len : b->word.len;
    int order = memcmp(a->word.p, b->word.p, n);
    return order ? order : (a->word.len > b->word.len) - (a->word.len < b->word.len);
}

/* Gathers, per term, the postings of all documents put into this collection; then writes each term once. */
static enum cairn_err put_postings(struct apply *a, const uint32_t *order, size_t n_order,
                                   uint64_t n_postings, struct cairn_why *why)
{
    struct store_batch *b = a->b;
    struct posting *all = cairn_reallocarray(NULL, (size_t)n_postings + 1, sizeof(*all));
    if (!all)
        return no_memory(why);
    uint64_t at = 0;
    for (size_t i = 0; i < n_order; i++) {
        struct bterm *t = &b->terms[order[i]];
        t->first = at;
        at += t->n;
        t->n = 0;
    }
    for (size_t i = 0; i < b->n_docs; i++) { /* in the order of passage ids, so each term's part is sorted */
        const struct bdoc *d = &b->docs[i];
        if (d->coll != a->coll || d->superseded || !d->put)
            continue;
        for (uint32_t j = 0; j < d->n_passages; j++)
            for (uint32_t f = 0; f < d->passages[j].n_freqs; f++) {
                struct bterm *t = &b->terms[d->passages[j].freqs[f].term];
                all[t->first + t->n++] = (struct posting){d->first_passage + j, d->passages[j].freqs[f].tf,
                                                          d->passages[j].n_words};
            }
    }
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < n_order && !err; i++) {
        struct bterm *t = &b->terms[order[i]];
        err = postings_add(a->kv, a->rec.id, t->term, t->word, all + t->first, (size_t)t->n, why);
    }
    cairn_free(all);
    return err;
}

static enum cairn_err put_documents(struct apply *a, struct cairn_why *why)
{
    struct store_batch *b = a->b;
    for (size_t i = 0; i < b->n_terms; i++)
        b->terms[i].n = 0;
    uint64_t n_postings = 0;
    for (size_t i = 0; i < b->n_docs; i++) {
        struct bdoc *d = &b->docs[i];
        if (d->coll != a->coll || d->superseded || !d->put)
            continue;
        if (a->rec.next_passage > PASSAGE_IDS_MAX - d->n_passages)
            return cairn_fail(
                why, CAIRN_EFULL,
                "collection %s has used its %u passage ids; put its documents into a new collection",
                a->rec.opts.name, PASSAGE_IDS_MAX);
        d->first_passage = a->rec.next_passage;
        a->rec.next_passage += d->n_passages;
        for (uint32_t j = 0; j < d->n_passages; j++)
            for (uint32_t f = 0; f < d->passages[j].n_freqs; f++, n_postings++)
                b->terms[d->passages[j].freqs[f].term].n++;
    }
    uint32_t *order = cairn_reallocarray(NULL, b->n_terms + 1, sizeof(*order));
    if (!order)
        return no_memory(why);
    size_t n_order = 0;
    for (size_t i = 0; i < b->n_terms; i++)
        if (b->terms[i].coll == a->coll && b->terms[i].n > 0)
            order[n_order++] = (uint32_t)i;
    qsort_r(order, n_order, sizeof(*order), by_word, b->terms);
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < n_order && !err; i++) {
        struct bterm *t = &b->terms[order[i]];
        err = term_make(a->kv, a->rec.id, t->word, &a->rec.next_term, &t->term, why);
    }
    for (size_t i = 0; i < b->n_docs && !err; i++) {
        struct bdoc *d = &b->docs[i];
        if (d->coll == a->coll && !d->superseded && d->put)
            err = put_document(a, d, why);
    }
    if (!err && CAIRN_FAILPOINT("index.apply.middle"))
        err = cairn_fail(why, CAIRN_EIO, "failpoint between documents and postings");
    if (!err)
        err = put_postings(a, order, n_order, n_postings, why);
    cairn_free(order);
    return err;
}

static enum cairn_err apply_coll(struct apply *a, struct cairn_why *why)
{
    struct store_batch *b = a->b;
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < b->n_docs && !err; i++) {
        struct bdoc *d = &b->docs[i];
        if (d->coll != a->coll || d->superseded)
            continue;
        err = remove_document(a, d->id, why);
        if (err == CAIRN_ENOTFOUND) /* new; or put and deleted in this batch */
            err = CAIRN_OK;
    }
    if (!err)
        err = remove_postings(a, why);
    if (!err)
        err = put_documents(a, why);
    if (!err && a->n_dead)
        qsort(a->dead, a->n_dead, sizeof(*a->dead), by_id);
    if (!err && a->rec.opts.dim) {
        struct vindex_ref x = {a->kv, a->rec.id, a->rec.opts.dim, a->rec.opts.metric};
        err = vindex_apply(&x, a->dead, a->n_dead, a->rows, a->n_rows, why);
        a->rec.n_vectors = a->rec.n_vectors - a->n_dead + a->n_rows;
    }
    if (!err)
        err = idset_apply(a->kv, a->rec.id, a->sets, a->n_sets, why);
    a->rec.generation = a->generation;
    return err ? err : coll_put(a->kv, &a->rec, why);
}

static enum cairn_err drop_coll(struct kv *kv, const struct coll_rec *c, struct cairn_why *why)
{
    static const enum kv_db dbs[] = {DB_DOCUMENT, DB_TEXT, DB_HASHES,  DB_PASSAGE,
                                     DB_FORWARD,  DB_TERM, DB_POSTING, DB_ACL};
    struct kv_key k;
    key_u32(key_reset(&k), c->id);
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < sizeof(dbs) / sizeof(dbs[0]) && !err; i++)
        err = kv_drop_prefix(kv, dbs[i], &k, why);
    if (!err)
        err = vindex_drop(&(struct vindex_ref){kv, c->id, c->opts.dim, c->opts.metric}, why);
    return err ? err
               : del(kv, DB_COLLECTION, key_bytes(key_reset(&k), c->opts.name, strlen(c->opts.name)), why);
}

static enum cairn_err apply_colls(struct store_batch *b, struct kv *kv, struct state *st,
                                  struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < b->n_colls && !err; i++)
        if (b->colls[i].dropped && b->colls[i].stored)
            err = drop_coll(kv, &b->colls[i].rec, why);
    for (size_t i = 0; i < b->n_colls && !err; i++) {
        struct bcoll *c = &b->colls[i];
        if (c->dropped || !c->touched)
            continue;
        struct apply a = {
            .b = b, .kv = kv, .st = st, .generation = st->generation, .rec = c->rec, .coll = (uint32_t)i};
        cairn_buf_init(&a.buf, (size_t)1 << 31);
        if (c->created) {
            if (st->next_collection > COLLECTIONS_MAX)
                err = cairn_fail(why, CAIRN_EFULL, "the store has made %u collections, its limit",
                                 COLLECTIONS_MAX);
            a.rec.id = st->next_collection++;
        }
        if (!err)
            err = apply_coll(&a, why);
        apply_release(&a);
    }
    return err;
}

static enum cairn_err apply_records(struct store_batch *b, struct kv *kv, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < b->n_records && !err; i++) {
        const struct brecord *r = &b->records[i];
        struct kv_key k;
        if (r->superseded)
            continue;
        key_bytes(key_reset(&k), r->key.p, r->key.len);
        err = r->put ? kv_put(kv, DB_RECORD, &k, r->bytes.p, r->bytes.len, why)
                     : kv_del(kv, DB_RECORD, &k, why);
        if (err == CAIRN_ENOTFOUND) /* put and deleted in this batch */
            err = CAIRN_OK;
    }
    return err;
}

static enum cairn_err commit_txn(struct store *s, MDB_txn *txn, bool *full, struct cairn_why *why)
{
    if (CAIRN_FAILPOINT("index.commit.before")) {
        mdb_txn_abort(txn);
        return cairn_fail(why, CAIRN_EIO, "failpoint before commit");
    }
    int rc;
    if (CAIRN_FAILPOINT("index.commit.eio")) {
        mdb_txn_abort(txn);
        rc = EIO;
    } else if (CAIRN_FAILPOINT("index.commit.enospc")) {
        mdb_txn_abort(txn);
        rc = ENOSPC;
    } else {
        rc = mdb_txn_commit(txn);
    }
    *full = rc == MDB_MAP_FULL;
    (void)CAIRN_FAILPOINT("index.commit.after");
    enum cairn_err err = rc ? cairn_err_from_mdb(why, rc, "committing a batch") : CAIRN_OK;
    if (err ==
        CAIRN_EIO) { /* the kernel may have dropped what it could not write: never try again on this handle */
        atomic_store(&s->failed, true);
        CAIRN_LOG(INDEX, ERROR, "commit failed, store stops writing rc=%d", rc);
        return cairn_wrap(why, err,
                          "%s stops writing; close it, check the disk and `cairn debug check`, open it again",
                          s->dir);
    }
    return err;
}

/* Whether the batch makes a new generation: records of other rooms are not content. */
static bool changes_content(const struct store_batch *b)
{
    for (size_t i = 0; i < b->n_colls; i++)
        if (b->colls[i].dropped ? b->colls[i].stored : b->colls[i].touched)
            return true;
    return false;
}

struct applied {
    struct store_batch *b;
    uint64_t generation;
};

static enum cairn_err apply_batch(void *ctx, struct kv *kv, struct cairn_why *why)
{
    struct applied *a = ctx;
    struct state st;
    enum cairn_err err = state_get(kv, &st, why);
    st.generation += changes_content(a->b);
    if (!err)
        err = apply_colls(a->b, kv, &st, why);
    if (!err)
        err = apply_records(a->b, kv, why);
    if (!err)
        err = state_put(kv, &st, why);
    a->generation = st.generation;
    return err == CAIRN_ENOTFOUND ? cairn_fail(why, CAIRN_ECORRUPT,
                                               "the store lost a part of a document; run `cairn "
                                               "debug check`, restore a backup")
                                  : err;
}

static enum cairn_err write_once(struct store *s, store_write_fn fn, void *ctx, bool *full,
                                 struct cairn_why *why)
{
    struct kv kv = {.env = s->env, .dbi = s->dbi};
    *full = false;
    int rc = mdb_txn_begin(s->env, NULL, 0, &kv.txn);
    if (rc) {
        enum cairn_err err = cairn_err_from_mdb(why, rc, "beginning a batch");
        if (err == CAIRN_EIO)
            atomic_store(&s->failed, true);
        return err;
    }
    enum cairn_err err = fn(ctx, &kv, why);
    vsets_release(&kv);
    if (err) {
        mdb_txn_abort(kv.txn);
        *full = kv.map_full;
        return err;
    }
    return commit_txn(s, kv.txn, full, why);
}

/* A batch that only deletes may pass map_bytes_max a little: pages of old versions become free only after a
 * commit, and a full store must still be able to shrink. Growth is undone afterwards. */
enum cairn_err store_write(struct store *s, bool may_grow, store_write_fn fn, void *ctx,
                           struct cairn_why *why)
{
    size_t max = (size_t)store_conf(s, "index.map_bytes_max");
    if (atomic_load(&s->failed))
        return cairn_fail(why, CAIRN_ESTATE,
                          "%s: an earlier commit met an I/O error; close it and open it again", s->dir);
    for (;;) {
        bool full;
        MDB_envinfo info;
        enum cairn_err err = write_once(s, fn, ctx, &full, why);
        if (!full)
            return err;
        if (mdb_env_info(s->env, &info))
            return cairn_fail(why, CAIRN_EIO, "%s: cannot read the size of the map", s->path);
        size_t have = info.me_mapsize, want = have * 2 < max ? have * 2 : max;
        bool last_resort = have >= max;
        if (last_resort && may_grow)
            return err; /* the words of MDB_MAP_FULL */
        if (last_resort)
            want = have + DELETE_HEADROOM_BYTES;
        if (last_resort && have >= max + 4 * DELETE_HEADROOM_BYTES)
            return err;
        err = gate_resize(s, want, why);
        if (err)
            return err;
        CAIRN_LOG(INDEX, INFO, "map grown old_bytes=%zu new_bytes=%zu", have, want);
    }
}

enum cairn_err store_batch_commit(struct store_batch *b, uint64_t *generation, struct cairn_why *why)
{
    struct store *s = b->s;
    struct applied a = {.b = b};
    enum cairn_err err = usable(b, why);
    if (!err)
        err = store_write(s, b->may_grow, apply_batch, &a, why);
    MDB_envinfo info;
    size_t max = (size_t)store_conf(s, "index.map_bytes_max");
    struct cairn_why shrink;
    if (!b->may_grow && !mdb_env_info(s->env, &info) && info.me_mapsize > max && gate_resize(s, max, &shrink))
        CAIRN_LOG(INDEX, WARN, "map not shrunk back reason=\"%s\"",
                  shrink.text); /* the next delete tries again */
    if (!err && generation)
        *generation = a.generation;
    store_batch_abort(b);
    return err;
}
