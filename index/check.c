/* check.c - every invariant of the store, read in a child process: damaged pages can kill a reader inside
 * LMDB (a zeroed page aborts, a cut file is SIGBUS), and that must be a finding, not the end of the server.
 * The child writes one line per finding to a pipe. It shares nothing with its parent's handle: it opens the
 * environment again, as another process. */
#include "postings.h"
#include "store.h"
#include "vindex.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#define FINDINGS_MAX 1000u /* further ones are counted, not told */
#define LINE_BYTES_MAX 1024u
#define SETS_CACHED 64u

struct check {
    struct kv kv;
    int fd;
    uint64_t findings;
    struct state st;
    void *dctx;
    char *piece, *text;
    size_t text_cap;
    struct set_count {
        uint32_t set;
        uint64_t n;
    } * sets; /* how many ids each set should have in the collection at hand */
    size_t n_sets, cap_sets;
    struct {
        uint32_t set;
        bool loaded;
        struct idset ids;
    } cache[SETS_CACHED]; /* stored sets of the collection at hand */
};

static void tell(struct check *c, const char *fmt, ...) CAIRN_PRINTF(2, 3);
static void tell(struct check *c, const char *fmt, ...)
{
    char line[LINE_BYTES_MAX];
    va_list ap;
    if (c->findings++ >= FINDINGS_MAX)
        return;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof(line) - 1 ? (size_t)n : sizeof(line) - 2;
    for (size_t i = 0; i < len; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[len++] = '\n';
    for (size_t at = 0; at < len;) {
        ssize_t put = write(c->fd, line + at, len - at);
        if (put <= 0 && errno != EINTR)
            return;
        at += put > 0 ? (size_t)put : 0;
    }
}

static void tell_line(void *ctx, const char *line) { tell(ctx, "%s", line); }

/* A corrupt value ends the walk of its database, not the check. */
static enum cairn_err go_on(struct check *c, enum cairn_err err, const struct cairn_why *why)
{
    if (err == CAIRN_ECORRUPT) {
        tell(c, "%s", why->text);
        return CAIRN_OK;
    }
    return err == CAIRN_ENOTFOUND ? CAIRN_OK : err;
}

/* ---- every value of every database ---- */

static enum cairn_err check_values(struct check *c)
{
    for (int db = 0; db < DB_N; db++) {
        if (db == DB_CHUNK) /* has checksums of its own; read with the segments */
            continue;
        struct kv_cursor cur;
        struct kv_key none;
        struct cairn_why why = {{0}};
        struct cairn_str last = {"", 0};
        enum cairn_err err = kv_cursor_open(&cur, &c->kv, (enum kv_db)db, &why);
        if (!err)
            err = kv_seek(&cur, key_reset(&none), &why);
        while (!err || err == CAIRN_ECORRUPT) {
            size_t n = last.len < cur.key.len ? last.len : cur.key.len;
            int order = n ? memcmp(last.p, cur.key.p, n) : 0;
            if (err)
                tell(c, "%s", why.text);
            else if (last.len && (order > 0 || (order == 0 && last.len >= cur.key.len)))
                tell(c, "database %s: keys are out of order", kv_db_name[db]);
            if (!err)
                last = cur.key;
            err = kv_next(&cur, &why);
        }
        kv_cursor_close(&cur);
        if (err != CAIRN_ENOTFOUND)
            return err;
    }
    return CAIRN_OK;
}

/* ---- documents and passages ---- */

static enum cairn_err count_set(struct check *c, uint32_t set, uint64_t n)
{
    for (size_t i = 0; i < c->n_sets; i++)
        if (c->sets[i].set == set) {
            c->sets[i].n += n;
            return CAIRN_OK;
        }
    if (c->n_sets == c->cap_sets) {
        size_t cap = c->cap_sets ? c->cap_sets * 2 : 64;
        struct set_count *more = cairn_reallocarray(c->sets, cap, sizeof(*more));
        if (!more)
            return CAIRN_ENOMEM;
        c->sets = more;
        c->cap_sets = cap;
    }
    c->sets[c->n_sets++] = (struct set_count){set, n};
    return CAIRN_OK;
}

static enum cairn_err load_text(struct check *c, const struct coll_rec *coll, const struct doc_rec *d,
                                struct cairn_why *why)
{
    if (d->text_bytes > (uint64_t)1 << 30)
        return cairn_fail(why, CAIRN_ECORRUPT, "a text of %llu bytes", (unsigned long long)d->text_bytes);
    if (d->text_bytes + 1 > c->text_cap) {
        char *text = cairn_realloc(c->text, (size_t)d->text_bytes + 1);
        if (!text)
            return cairn_fail(why, CAIRN_ENOMEM, "no memory for a text");
        c->text = text;
        c->text_cap = (size_t)d->text_bytes + 1;
    }
    return text_read(&c->kv, coll->id, d->docno, d->text_bytes, 0, d->text_bytes, c->text, c->dctx, c->piece,
                     why);
}

static enum cairn_err check_document(struct check *c, const struct coll_rec *coll, struct cairn_str id,
                                     const struct doc_rec *d, const struct idset *live, struct idset *seen,
                                     uint64_t *n_words, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str hashes = {"", 0};
    const char *name = coll->opts.name;
    int len = (int)id.len;
    if (d->generation > coll->generation || d->docno >= coll->next_docno ||
        (uint64_t)d->first_passage + d->n_passages > coll->next_passage)
        tell(c, "collection %s, document %.*s: numbers from the future", name, len, id.p);
    enum cairn_err err = load_text(c, coll, d, why);
    bool text_there = !err;
    if (err == CAIRN_ECORRUPT)
        tell(c, "collection %s, document %.*s: %s", name, len, id.p, why->text);
    else if (err)
        return err;
    if (text_there && cairn_utf8_invalid_at(c->text, (size_t)d->text_bytes) < d->text_bytes)
        tell(c, "collection %s, document %.*s: its text is not UTF-8", name, len, id.p);
    err = kv_get(&c->kv, DB_HASHES, key_u64(key_u32(key_reset(&k), coll->id), d->docno), &hashes, why);
    if (err && err != CAIRN_ENOTFOUND && err != CAIRN_ECORRUPT)
        return err;
    bool hashes_there = !err && hashes.len == (size_t)d->n_passages * sizeof(struct cairn_hash);
    if (!hashes_there)
        tell(c, "collection %s, document %.*s: its passages' hashes are missing", name, len, id.p);
    for (uint32_t i = 0; i < d->n_passages; i++) {
        struct passage_rec p;
        uint32_t pid = d->first_passage + i;
        err = passage_get(&c->kv, coll->id, pid, &p, why);
        if (err == CAIRN_ENOTFOUND || err == CAIRN_ECORRUPT) {
            tell(c, "collection %s, document %.*s: passage %u is missing or damaged", name, len, id.p, pid);
            continue;
        }
        if (err)
            return err;
        if (p.ordinal != i || p.document_id.len != id.len || memcmp(p.document_id.p, id.p, id.len) != 0)
            tell(c, "collection %s, passage %u: belongs to another document than %.*s", name, pid, len, id.p);
        if (p.end > d->text_bytes)
            tell(c, "collection %s, passage %u: its span is outside the text", name, pid);
        else if (text_there) {
            struct cairn_hash h = cairn_hash_bytes(c->text + p.start, p.end - p.start);
            if (memcmp(h.b, p.hash.b, sizeof(h.b)) != 0)
                tell(c, "collection %s, passage %u: its text does not have its hash", name, pid);
        }
        if (hashes_there && memcmp(hashes.p + (size_t)i * 32, p.hash.b, 32) != 0)
            tell(c, "collection %s, passage %u: the document lists another hash", name, pid);
        if (!idset_has(live, pid))
            tell(c, "collection %s, passage %u: it is not in the set of live passages", name, pid);
        if (idset_has(seen, pid))
            tell(c, "collection %s, passage %u: two documents have it", name, pid);
        if (!idset_add(seen, pid))
            return cairn_fail(why, CAIRN_ENOMEM, "no memory for a set of passages");
        *n_words += p.n_words;
    }
    return CAIRN_OK;
}

static void forget_sets(struct check *c)
{
    for (uint32_t i = 0; i < SETS_CACHED; i++) {
        idset_release(&c->cache[i].ids);
        c->cache[i].loaded = false;
    }
}

static enum cairn_err stored_set(struct check *c, uint32_t coll, uint32_t set, const struct idset **out,
                                 struct cairn_why *why)
{
    uint32_t at = set % SETS_CACHED;
    *out = &c->cache[at].ids;
    if (c->cache[at].loaded && c->cache[at].set == set)
        return CAIRN_OK;
    idset_release(&c->cache[at].ids);
    c->cache[at].set = set;
    c->cache[at].loaded = true;
    return go_on(c, idset_load(&c->cache[at].ids, &c->kv, coll, set, why), why);
}

static enum cairn_err check_acl(struct check *c, const struct coll_rec *coll, struct cairn_str id,
                                const struct doc_rec *d, struct cairn_why *why)
{
    struct rd r = d->principals;
    for (uint32_t i = 0; i < d->n_principals || (i == 0 && d->n_principals == 0); i++) {
        uint32_t set = SET_NO_ACL;
        enum cairn_err err = CAIRN_OK;
        if (d->n_principals) {
            struct cairn_str name = rd_str(&r);
            err = principal_id(&c->kv, name, &set, why);
            if (err == CAIRN_ENOTFOUND || err == CAIRN_ECORRUPT) {
                tell(c, "collection %s, document %.*s: principal %.*s is unknown", coll->opts.name,
                     (int)id.len, id.p, (int)name.len, name.p);
                continue;
            }
        }
        const struct idset *s = NULL;
        if (!err)
            err = count_set(c, set, d->n_passages);
        if (!err)
            err = stored_set(c, coll->id, set, &s, why);
        if (err)
            return err;
        for (uint32_t p = 0; p < d->n_passages; p++)
            if (!idset_has(s, d->first_passage + p))
                tell(c, "collection %s, passage %u: not in the set of its principal", coll->opts.name,
                     d->first_passage + p);
    }
    return CAIRN_OK;
}

static enum cairn_err check_documents(struct check *c, const struct coll_rec *coll, struct idset *live,
                                      struct cairn_why *why)
{
    struct kv_cursor cur;
    struct kv_key prefix;
    struct idset seen = {0};
    uint64_t n_documents = 0, n_words = 0;
    key_u32(key_reset(&prefix), coll->id);
    enum cairn_err err = kv_cursor_open(&cur, &c->kv, DB_DOCUMENT, why);
    if (err)
        return err;
    for (err = kv_seek(&cur, &prefix, why);; err = kv_next(&cur, why)) {
        if (err == CAIRN_ECORRUPT && kv_has_prefix(cur.key, &prefix))
            continue; /* told by check_values */
        if (err || !kv_has_prefix(cur.key, &prefix))
            break;
        struct doc_rec d;
        struct cairn_str id = {cur.key.p + 4, cur.key.len - 4};
        n_documents++;
        err = doc_parse(cur.key, cur.payload, &d, why);
        if (err == CAIRN_ECORRUPT) {
            tell(c, "%s", why->text);
            continue;
        }
        if (!err)
            err = check_document(c, coll, id, &d, live, &seen, &n_words, why);
        if (!err)
            err = check_acl(c, coll, id, &d, why);
        if (err)
            break;
    }
    kv_cursor_close(&cur);
    if (err == CAIRN_ENOTFOUND)
        err = CAIRN_OK;
    uint64_t n_live = idset_count(live);
    if (!err && (n_documents != coll->n_documents || n_live != coll->n_passages || n_words != coll->n_words ||
                 (coll->opts.dim ? coll->n_passages : 0) != coll->n_vectors))
        tell(c,
             "collection %s: it counts %llu documents, %llu passages, %llu words, %llu vectors; there are "
             "%llu, %llu, "
             "%llu",
             coll->opts.name, (unsigned long long)coll->n_documents, (unsigned long long)coll->n_passages,
             (unsigned long long)coll->n_words, (unsigned long long)coll->n_vectors,
             (unsigned long long)n_documents, (unsigned long long)n_live, (unsigned long long)n_words);
    for (uint32_t id = idset_next(live, 0); !err && id != UINT32_MAX; id = idset_next(live, id + 1))
        if (!idset_has(&seen, id))
            tell(c, "collection %s, passage %u: live, but of no document", coll->opts.name, id);
    idset_release(&seen);
    return err;
}

/* Databases whose keys are (collection, passage): nothing that is not live. */
static enum cairn_err check_orphans(struct check *c, enum kv_db db, const struct coll_rec *coll,
                                    const struct idset *live, struct cairn_why *why)
{
    struct kv_cursor cur;
    struct kv_key prefix;
    uint64_t n = 0;
    key_u32(key_reset(&prefix), coll->id);
    enum cairn_err err = kv_cursor_open(&cur, &c->kv, db, why);
    if (err)
        return err;
    for (err = kv_seek(&cur, &prefix, why);
         (!err || err == CAIRN_ECORRUPT) && kv_has_prefix(cur.key, &prefix); err = kv_next(&cur, why)) {
        n++;
        if (cur.key.len != 8 || !idset_has(live, key_read_u32(cur.key, 4)))
            tell(c, "collection %s: database %s has an entry of no passage (%u)", coll->opts.name,
                 kv_db_name[db], key_read_u32(cur.key, 4));
    }
    kv_cursor_close(&cur);
    if (n != coll->n_passages)
        tell(c, "collection %s: database %s has %llu entries for %llu passages", coll->opts.name,
             kv_db_name[db], (unsigned long long)n, (unsigned long long)coll->n_passages);
    return go_on(c, err, why);
}

/* Databases whose keys are (collection, document number, ...): as many as the documents say. */
static enum cairn_err check_count(struct check *c, enum kv_db db, const struct coll_rec *coll, uint64_t want,
                                  struct cairn_why *why)
{
    struct kv_cursor cur;
    struct kv_key prefix;
    uint64_t n = 0;
    key_u32(key_reset(&prefix), coll->id);
    enum cairn_err err = kv_cursor_open(&cur, &c->kv, db, why);
    if (err)
        return err;
    for (err = kv_seek(&cur, &prefix, why);
         (!err || err == CAIRN_ECORRUPT) && kv_has_prefix(cur.key, &prefix); err = kv_next(&cur, why))
        n++;
    kv_cursor_close(&cur);
    if (n != want)
        tell(c, "collection %s: database %s has %llu entries, its documents need %llu", coll->opts.name,
             kv_db_name[db], (unsigned long long)n, (unsigned long long)want);
    return go_on(c, err, why);
}

static enum cairn_err count_pieces(struct check *c, const struct coll_rec *coll, uint64_t *pieces,
                                   struct cairn_why *why)
{
    struct kv_cursor cur;
    struct kv_key prefix;
    key_u32(key_reset(&prefix), coll->id);
    enum cairn_err err = kv_cursor_open(&cur, &c->kv, DB_DOCUMENT, why);
    if (err)
        return err;
    for (err = kv_seek(&cur, &prefix, why);
         (!err || err == CAIRN_ECORRUPT) && kv_has_prefix(cur.key, &prefix); err = kv_next(&cur, why)) {
        struct doc_rec d;
        if (!err && !doc_parse(cur.key, cur.payload, &d, NULL))
            *pieces += (d.text_bytes + TEXT_PIECE_BYTES - 1) / TEXT_PIECE_BYTES;
    }
    kv_cursor_close(&cur);
    return err == CAIRN_ENOTFOUND || err == CAIRN_ECORRUPT ? CAIRN_OK : err;
}

/* ---- postings ---- */

/* Does the passage's own list of words have this one, this often? */
static enum cairn_err forward_has(struct check *c, uint32_t coll, uint32_t term, const struct posting *p,
                                  bool *has, struct cairn_why *why)
{
    struct kv_key k;
    struct cairn_str v;
    *has = false;
    enum cairn_err err = kv_get(&c->kv, DB_FORWARD, key_u32(key_u32(key_reset(&k), coll), p->id), &v, why);
    if (err == CAIRN_ENOTFOUND || err == CAIRN_ECORRUPT)
        return CAIRN_OK;
    if (err)
        return err;
    struct rd r = rd_of(v);
    uint64_t n_words = rd_varint(&r);
    while (!r.bad && rd_left(&r) && !*has) {
        uint32_t t = rd_var32(&r), tf = rd_var32(&r);
        *has = t == term && tf == p->tf && n_words == p->len;
    }
    return CAIRN_OK;
}

struct term_walk {
    uint32_t term, df, bound, last;
    struct term_head head;
    bool has_head;
};

static enum cairn_err check_block(struct check *c, const struct coll_rec *coll, struct term_walk *t,
                                  const struct kv_cursor *cur, const struct idset *live,
                                  struct cairn_why *why)
{
    struct block b;
    uint32_t bound = key_read_u32(cur->key, 8), before = t->bound;
    enum cairn_err err = block_parse(cur->key, cur->payload, &b, why);
    t->bound = bound;
    if (err == CAIRN_ECORRUPT) {
        tell(c, "%s", why->text);
        return CAIRN_OK;
    }
    for (uint32_t i = 0; i < b.n && !err; i++) {
        const struct posting *p = &b.at[i];
        bool has;
        if (p->id <= before || p->id > bound || p->id <= t->last)
            tell(c, "collection %s, term %u: postings are out of order at passage %u", coll->opts.name,
                 t->term, p->id);
        if (!idset_has(live, p->id))
            tell(c, "collection %s, term %u: a posting of passage %u, which is not live", coll->opts.name,
                 t->term, p->id);
        if (!front_covers(&b.front, p->tf, p->len) || !t->has_head ||
            !front_covers(&t->head.front, p->tf, p->len))
            tell(c, "collection %s, term %u: a maximum lies below passage %u", coll->opts.name, t->term,
                 p->id);
        err = forward_has(c, coll->id, t->term, p, &has, why);
        if (!err && !has)
            tell(c, "collection %s, term %u: passage %u does not list it", coll->opts.name, t->term, p->id);
        t->last = p->id;
    }
    t->df += b.n;
    return err;
}

static void end_term(struct check *c, const struct coll_rec *coll, const struct term_walk *t)
{
    if (t->term && (!t->has_head || t->df != t->head.df))
        tell(c, "collection %s, term %u: %u postings, its head says %u", coll->opts.name, t->term, t->df,
             t->has_head ? t->head.df : 0);
}

static enum cairn_err check_postings(struct check *c, const struct coll_rec *coll, const struct idset *live,
                                     struct cairn_why *why)
{
    struct kv_cursor cur;
    struct kv_key prefix;
    struct term_walk t = {0};
    uint64_t n_terms = 0, n_postings = 0, n_forward = 0, n_words = 0;
    key_u32(key_reset(&prefix), coll->id);
    enum cairn_err err = kv_cursor_open(&cur, &c->kv, DB_POSTING, why);
    if (err)
        return err;
    for (err = kv_seek(&cur, &prefix, why);
         (!err || err == CAIRN_ECORRUPT) && kv_has_prefix(cur.key, &prefix); err = kv_next(&cur, why)) {
        uint32_t term = key_read_u32(cur.key, 4), bound = key_read_u32(cur.key, 8), back;
        if (cur.key.len != 12 || term >= coll->next_term)
            tell(c, "collection %s: a posting under a key that is none", coll->opts.name);
        if (term != t.term) {
            end_term(c, coll, &t);
            n_postings += t.df;
            t = (struct term_walk){.term = term};
        }
        if (err == CAIRN_ECORRUPT)
            continue;
        if (bound != 0) {
            err = check_block(c, coll, &t, &cur, live, why);
            if (err)
                break;
            continue;
        }
        n_terms++;
        err = term_parse(cur.key, cur.payload, &t.head, why);
        t.has_head = !err;
        if (!err)
            err = term_find(&c->kv, coll->id, t.head.word, &back, why);
        if (err == CAIRN_ENOTFOUND || (!err && back != term))
            tell(c, "collection %s, term %u: its word does not lead to it", coll->opts.name, term);
        else if (err == CAIRN_ECORRUPT)
            tell(c, "%s", why->text);
        else if (err)
            break;
    }
    end_term(c, coll, &t);
    n_postings += t.df;
    kv_cursor_close(&cur);
    err = go_on(c, err, why);
    if (!err)
        err = check_count(c, DB_TERM, coll, n_terms, why);
    if (!err)
        err = kv_cursor_open(&cur, &c->kv, DB_FORWARD, why);
    if (err)
        return err;
    for (err = kv_seek(&cur, &prefix, why);
         (!err || err == CAIRN_ECORRUPT) && kv_has_prefix(cur.key, &prefix); err = kv_next(&cur, why)) {
        struct rd r = rd_of(cur.payload);
        if (err)
            continue;
        uint64_t words = rd_varint(&r), sum = 0;
        while (!r.bad && rd_left(&r)) {
            (void)rd_var32(&r);
            sum += rd_var32(&r);
            n_forward++;
        }
        if (r.bad || sum != words)
            tell(c, "collection %s, passage %u: its words do not add up", coll->opts.name,
                 key_read_u32(cur.key, 4));
        n_words += words;
    }
    kv_cursor_close(&cur);
    if (n_forward != n_postings || n_words != coll->n_words)
        tell(c,
             "collection %s: passages list %llu words, postings have %llu; %llu occurrences, it counts %llu",
             coll->opts.name, (unsigned long long)n_forward, (unsigned long long)n_postings,
             (unsigned long long)n_words, (unsigned long long)coll->n_words);
    return go_on(c, err, why);
}

/* ---- sets ---- */

static enum cairn_err check_sets(struct check *c, const struct coll_rec *coll, const struct idset *live,
                                 struct cairn_why *why)
{
    struct kv_cursor cur;
    struct kv_key prefix, next;
    key_u32(key_reset(&prefix), coll->id);
    enum cairn_err err = kv_cursor_open(&cur, &c->kv, DB_ACL, why);
    if (err)
        return err;
    err = kv_seek(&cur, &prefix, why);
    while ((!err || err == CAIRN_ECORRUPT) && kv_has_prefix(cur.key, &prefix)) {
        uint32_t set = key_read_u32(cur.key, 4);
        struct idset s = {0};
        uint64_t want = set == SET_LIVE ? coll->n_passages : 0;
        for (size_t i = 0; i < c->n_sets; i++)
            if (c->sets[i].set == set)
                want = c->sets[i].n;
        err = idset_load(&s, &c->kv, coll->id, set, why);
        if (err == CAIRN_ECORRUPT)
            tell(c, "%s", why->text);
        else if (!err && idset_count(&s) != want)
            tell(c, "collection %s, set %u: %llu passages, its documents have %llu", coll->opts.name, set,
                 (unsigned long long)s.count, (unsigned long long)want);
        idset_and(&s, live);
        if (!err && s.count != idset_count(&s))
            tell(c, "collection %s, set %u: it has passages that are not live", coll->opts.name, set);
        idset_release(&s);
        if (err && err != CAIRN_ECORRUPT)
            break;
        err = set == UINT32_MAX ? CAIRN_ENOTFOUND
                                : kv_seek(&cur, key_u32(key_u32(key_reset(&next), coll->id), set + 1), why);
    }
    kv_cursor_close(&cur);
    return go_on(c, err, why);
}

/* ---- the whole ---- */

static enum cairn_err check_collection(struct check *c, const struct coll_rec *coll, struct cairn_why *why)
{
    struct idset live = {0};
    uint64_t pieces = 0;
    c->n_sets = 0;
    if (coll->generation > c->st.generation || coll->id >= c->st.next_collection)
        tell(c, "collection %s: numbers from the future", coll->opts.name);
    enum cairn_err err = go_on(c, idset_load(&live, &c->kv, coll->id, SET_LIVE, why), why);
    if (!err)
        err = check_documents(c, coll, &live, why);
    if (!err)
        err = check_orphans(c, DB_PASSAGE, coll, &live, why);
    if (!err)
        err = check_orphans(c, DB_FORWARD, coll, &live, why);
    if (!err)
        err = check_count(c, DB_HASHES, coll, coll->n_documents, why);
    if (!err)
        err = count_pieces(c, coll, &pieces, why);
    if (!err)
        err = check_count(c, DB_TEXT, coll, pieces, why);
    if (!err)
        err = check_postings(c, coll, &live, why);
    if (!err)
        err = check_sets(c, coll, &live, why);
    struct vindex_ref x = {&c->kv, coll->id, coll->opts.dim, coll->opts.metric};
    if (!err)
        err = go_on(c, vindex_check(&x, &live, tell_line, c, why), why);
    idset_release(&live);
    forget_sets(c);
    return err;
}

/* Entries of collections that do not exist. */
static enum cairn_err check_strays(struct check *c, const uint32_t *ids, size_t n_ids, struct cairn_why *why)
{
    static const enum kv_db dbs[] = {DB_DOCUMENT, DB_TEXT,   DB_HASHES, DB_PASSAGE, DB_FORWARD, DB_TERM,
                                     DB_POSTING,  DB_VECTOR, DB_CODE,   DB_SEGMENT, DB_GRAPH,   DB_ACL};
    for (size_t i = 0; i < sizeof(dbs) / sizeof(dbs[0]); i++) {
        struct kv_cursor cur;
        struct kv_key k;
        enum cairn_err err = kv_cursor_open(&cur, &c->kv, dbs[i], why);
        if (err)
            return err;
        err = kv_seek(&cur, key_reset(&k), why);
        while (!err || err == CAIRN_ECORRUPT) {
            uint32_t id = key_read_u32(cur.key, 0);
            bool known = false;
            for (size_t j = 0; j < n_ids; j++)
                known = known || ids[j] == id;
            if (!known)
                tell(c, "database %s: entries of collection %u, which does not exist", kv_db_name[dbs[i]],
                     id);
            err = id == UINT32_MAX ? CAIRN_ENOTFOUND : kv_seek(&cur, key_u32(key_reset(&k), id + 1), why);
        }
        kv_cursor_close(&cur);
        if (err != CAIRN_ENOTFOUND)
            return err;
    }
    return CAIRN_OK;
}

static enum cairn_err check_principals(struct check *c, struct cairn_why *why)
{
    struct kv_cursor cur;
    struct kv_key none;
    struct idset seen = {0};
    enum cairn_err err = kv_cursor_open(&cur, &c->kv, DB_PRINCIPAL, why);
    if (err)
        return err;
    for (err = kv_seek(&cur, key_reset(&none), why); !err || err == CAIRN_ECORRUPT;
         err = kv_next(&cur, why)) {
        struct rd r = rd_of(cur.payload);
        uint32_t id = rd_u32(&r);
        if (err)
            continue;
        if (!rd_done(&r) || id < SET_PRINCIPAL_FIRST || id >= c->st.next_principal || idset_has(&seen, id))
            tell(c, "principal %.*s: number %u is out of range or taken twice", (int)cur.key.len, cur.key.p,
                 id);
        else if (!idset_add(&seen, id))
            err = cairn_fail(why, CAIRN_ENOMEM, "no memory for a set of principals");
        if (err)
            break;
    }
    kv_cursor_close(&cur);
    idset_release(&seen);
    return go_on(c, err, why);
}

static enum cairn_err check_all(struct check *c, struct cairn_why *why)
{
    struct kv_cursor cur;
    struct kv_key none;
    uint32_t *ids = NULL;
    size_t n_ids = 0;
    enum cairn_err err = check_values(c);
    if (!err)
        err = state_get(&c->kv, &c->st, why);
    if (!err)
        err = check_principals(c, why);
    if (!err)
        err = kv_cursor_open(&cur, &c->kv, DB_COLLECTION, why);
    if (err)
        return err;
    for (err = kv_seek(&cur, key_reset(&none), why); !err || err == CAIRN_ECORRUPT;
         err = kv_next(&cur, why)) {
        struct coll_rec coll;
        if (!err)
            err = coll_parse(cur.key, cur.payload, &coll, why);
        if (err == CAIRN_ECORRUPT) {
            tell(c, "%s", why->text);
            continue;
        }
        uint32_t *more = cairn_reallocarray(ids, n_ids + 1, sizeof(*ids));
        if (!more) {
            err = cairn_fail(why, CAIRN_ENOMEM, "no memory for the list of collections");
            break;
        }
        ids = more;
        for (size_t i = 0; i < n_ids; i++)
            if (ids[i] == coll.id)
                tell(c, "collection %s: another has its number %u", coll.opts.name, coll.id);
        ids[n_ids++] = coll.id;
        err = check_collection(c, &coll, why);
        if (err)
            break;
    }
    kv_cursor_close(&cur);
    if (err == CAIRN_ENOTFOUND)
        err = check_strays(c, ids, n_ids, why);
    cairn_free(ids);
    return err;
}

static void child_main(const char *path, int fd)
{
    struct check c = {.fd = fd};
    struct cairn_why why = {{0}};
    MDB_env *env;
    MDB_dbi dbi[DB_N];
    struct stat st;
    (void)CAIRN_FAILPOINT("index.check.child");
    char *file = cairn_path_join(path, "data.mdb");
    if (!file || stat(file, &st) != 0) {
        tell(&c, "%s/data.mdb: %s", path, strerror(errno));
        _exit(1);
    }
    size_t map = ((size_t)st.st_size | 0xffff) + 1 + ((size_t)1 << 30);
    enum cairn_err err = env_open(&env, dbi, path, true, false, map, 8, &why);
    if (!err) {
        c.kv = (struct kv){.env = env, .dbi = dbi};
        int rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &c.kv.txn);
        err = rc ? cairn_err_from_mdb(&why, rc, path) : CAIRN_OK;
        c.dctx = ZSTD_createDCtx();
        c.piece = cairn_malloc(TEXT_PIECE_BYTES);
        if (!err && (!c.dctx || !c.piece))
            err = cairn_fail(&why, CAIRN_ENOMEM, "no memory to check the store");
        if (!err)
            err = check_all(&c, &why);
        vsets_release(&c.kv);
        if (c.kv.txn)
            mdb_txn_abort(c.kv.txn);
        mdb_env_close(env);
    }
    if (err)
        tell(&c, "the check did not end: %s", why.text);
    if (c.findings > FINDINGS_MAX)
        (void)dprintf(fd, "and %llu more\n", (unsigned long long)(c.findings - FINDINGS_MAX));
    _exit(err == CAIRN_EUNSUPPORTED ? 3 : c.findings ? 1 : 0);
}

enum cairn_err store_check(const char *dir, void (*report)(void *ctx, const char *line), void *ctx,
                           struct cairn_why *why)
{
    struct stat st;
    int fds[2];
    char *path = cairn_path_join(dir, "store");
    if (!path)
        return cairn_fail(why, CAIRN_ENOMEM, "store path");
    if (stat(path, &st) != 0) {
        cairn_free(path);
        return cairn_fail(why, CAIRN_ENOTFOUND, "no store in %s", dir);
    }
    if (pipe(fds) != 0) {
        cairn_free(path);
        return cairn_fail_errno(why, errno, "checking %s", dir);
    }
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(fds[0]);
        static const int deadly[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE,
                                     SIGILL}; /* die of them, whatever the parent does */
        for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++)
            (void)signal(deadly[i], SIG_DFL);
        child_main(path, fds[1]);
    }
    (void)close(fds[1]);
    cairn_free(path);
    if (pid < 0) {
        (void)close(fds[0]);
        return cairn_fail_errno(why, errno, "checking %s", dir);
    }
    FILE *in = fdopen(fds[0], "r");
    char line[LINE_BYTES_MAX + 8], first[256] = "";
    uint64_t n = 0;
    while (in && fgets(line, sizeof(line), in)) {
        line[strcspn(line, "\n")] = '\0';
        if (n++ == 0)
            (void)snprintf(first, sizeof(first), "%.200s", line);
        if (report)
            report(ctx, line);
    }
    if (in)
        (void)fclose(in);
    else
        (void)close(fds[0]);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(status)) {
        (void)snprintf(line, sizeof(line), "reading killed by signal %d: damaged media", WTERMSIG(status));
        if (n++ == 0)
            (void)snprintf(first, sizeof(first), "%.200s", line);
        if (report)
            report(ctx, line);
    } else if (WEXITSTATUS(status) == 3) {
        return cairn_fail(why, CAIRN_EUNSUPPORTED, "%s", first);
    }
    if (n == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return CAIRN_OK;
    return cairn_fail(why, CAIRN_ECORRUPT, "%s: %llu findings, the first: %s; restore a backup", dir,
                      (unsigned long long)n, first);
}
