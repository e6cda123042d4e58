/* api/methods_sync.c - doc.sync: a collection becomes what its directories hold.
 * Each file is read and hashed; a document whose stored content hash and ACL are the same is passed over, so
 * a sync that was killed goes on where its last commit was, without a checkpoint of its own. Batches are
 * small commits; deletes come last, by a merge of the sorted ids on disk with the sorted ids in the store. A
 * file that is there but cannot be read as a document (skipped by the listing, over a limit, not readable
 * now) is reported, keeps its stored version, and does not stop the others: only what is gone is deleted.
 * ACL: the `acl` parameter ("none", or a file), else acl.json in the root. With neither, a stored ACL is
 * kept: a lost acl.json must not open documents. */
#include "internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

#define FAILED_MAX 1000u
#define PROGRESS_EVERY_US 100000

struct root {
    char *path;
    struct loader_listing list;
    struct loader_acl *acl;
};
struct source_file {
    const struct loader_file *f;
    const struct root *root;
};
struct sync {
    struct call *c;
    char collection[COLLECTION_NAME_MAX + 1];
    struct collection_opts want;
    bool create, exists, drop_acl, delete_missing, only_folders;
    struct root *roots;
    size_t n_roots;
    struct source_file *files; /* sorted by id */
    size_t n_files, n_skipped, n_held;
    struct prepared **batch;
    size_t n_batch, batch_bytes, batch_max, batch_bytes_max;
    struct put_totals totals;
    uint64_t deleted, unchanged, bytes;
    struct {
        char *id, *error;
    } * failed;
    size_t n_failed, n_failed_all;
    int64_t told_us;
    uint64_t seq;
};

/* Each path under the root that remote admins may read, after all links are resolved. */
static enum cairn_err allowed_path(struct call *c, const char *path, struct cairn_why *why)
{
    if (c->caller->local)
        return CAIRN_OK;
    if (!c->s->sync_root)
        return cairn_fail(
            why, CAIRN_EDENIED,
            "doc.sync reads this machine's files, and the server was started without a directory for it "
            "(--sync-root DIR); send the documents with doc.put");
    char *root = realpath(c->s->sync_root, NULL),
         *real = realpath(path, NULL); /* the C library's memory: free() */
    size_t n = root ? strlen(root) : 0;
    bool inside = root && real && strncmp(real, root, n) == 0 &&
                  (real[n] == '/' || real[n] == 0 || (n == 1 && root[0] == '/'));
    free(root); /* realpath's own */
    free(real); /* realpath's own */
    return inside
               ? CAIRN_OK
               : cairn_fail(why, CAIRN_EDENIED, "path \"%.200s\" is not below the server's sync root", path);
}

static bool progress(struct sync *y, const char *what, uint64_t done, uint64_t total, bool force)
{
    int64_t now = cairn_now_us();
    if (!y->c->sink || !y->c->sink->event || (!force && now - y->told_us < PROGRESS_EVERY_US))
        return true;
    y->told_us = now;
    struct cairn_buf b;
    struct pk k;
    cairn_buf_init(&b, 4096);
    pk_init(&k, &b);
    pk_map(&k, 5);
    pk_kcstr(&k, "kind", "progress");
    pk_kuint(&k, "seq", y->seq++);
    pk_kcstr(&k, "what", what);
    pk_kuint(&k, "done", done);
    pk_kuint(&k, "total", total);
    bool go = call_event(y->c, "doc.event", &b);
    cairn_buf_release(&b);
    return go;
}

static enum cairn_err fail_file(struct sync *y, const char *id, const char *error, struct cairn_why *why)
{
    y->n_failed_all++;
    if (y->n_failed == FAILED_MAX)
        return CAIRN_OK;
    void *p = cairn_reallocarray(y->failed, y->n_failed + 1, sizeof *y->failed);
    if (!p)
        return cairn_fail(why, CAIRN_ENOMEM, "report of failed files");
    y->failed = p;
    y->failed[y->n_failed].id = cairn_strdup(id);
    y->failed[y->n_failed].error = cairn_strdup(error);
    if (!y->failed[y->n_failed].id || !y->failed[y->n_failed].error) {
        cairn_free(y->failed[y->n_failed].id);
        cairn_free(y->failed[y->n_failed].error);
        return cairn_fail(why, CAIRN_ENOMEM, "report of failed files");
    }
    y->n_failed++;
    return CAIRN_OK;
}

static enum cairn_err flush(struct sync *y, struct cairn_why *why)
{
    const struct collection_opts *want = y->create && !y->exists ? &y->want : NULL;
    if (!y->n_batch)
        return CAIRN_OK;
    enum cairn_err err = put_batch(y->c, y->collection, want, y->batch, y->n_batch, &y->totals, why);
    if (y->totals.refused) { /* one document the store will not take must not cost the others */
        err = CAIRN_OK;
        for (size_t i = 0; i < y->n_batch && !err; i++) {
            err = put_batch(y->c, y->collection, want, &y->batch[i], 1, &y->totals, why);
            if (y->totals.refused)
                err = fail_file(y, y->batch[i]->id, why ? why->text : "refused by the store", why);
            else if (!err)
                y->exists = true, want = NULL;
        }
    }
    if (!err && y->totals.put)
        y->exists = true;
    for (size_t i = 0; i < y->n_batch; i++)
        prepared_free(y->batch[i]);
    y->n_batch = y->batch_bytes = 0;
    return err;
}

static bool same_principals(const struct document_info *d, const struct cairn_str *allow, size_t n)
{
    if (d->n_principals != n) /* the store keeps a set; so does a sane acl.json, and a repeated name costs one
                                 more put, not a mistake */
        return false;
    for (size_t i = 0; i < n; i++) {
        bool found = false;
        for (size_t k = 0; k < n && !found; k++)
            found = d->principals[k].len == allow[i].len &&
                    memcmp(d->principals[k].p, allow[i].p, allow[i].len) == 0;
        if (!found)
            return false;
    }
    return true;
}

static enum cairn_err sync_file(struct sync *y, const struct source_file *sf, struct cairn_why *why)
{
    const struct loader_file *f = sf->f;
    const struct cairn_str *allow = NULL;
    size_t n_allow = 0, len = 0;
    char *bytes = NULL;
    struct prepared *d = NULL;
    struct store_view *v = NULL;
    struct document_info old;
    struct cairn_why local = {{0}};
    bool have_acl = sf->root->acl != NULL || y->drop_acl;
    if (sf->root->acl)
        loader_acl_find(sf->root->acl, f->id, &allow, &n_allow);
    enum cairn_err err = prepared_check_id(cairn_str_of(f->id), &local);
    if (!err)
        err = cairn_read_file(&bytes, &len, f->path, conf_size(y->c->s, "loaders.file_bytes_max"), &local);
    if (err == CAIRN_ENOMEM)
        return cairn_fail(why, err, "%s", local.text);
    if (err)
        return fail_file(y, f->id, local.text, why);
    y->bytes += len;
    struct cairn_hash h = cairn_hash_bytes(bytes, len);
    if (y->exists) {
        struct store_caller all = {.all = true};
        err = store_view_begin(&v, y->c->s->store, why);
        if (!err)
            err = store_document_get(v, y->collection, cairn_str_of(f->id), &all, &old, NULL, &local);
        if (!err && memcmp(&old.content_hash, &h, sizeof h) == 0 &&
            (!have_acl || same_principals(&old, allow, n_allow))) {
            y->unchanged++;
            goto done;
        }
        if (err && err != CAIRN_ENOTFOUND) {
            err = cairn_fail(why, err, "%s", local.text);
            goto done;
        }
    }
    err = CAIRN_OK;
    d = cairn_calloc(1, sizeof *d);
    bool ok = d && (d->id = cairn_strdup(f->id)) && (d->path = cairn_strdup(f->id)) &&
              (d->principals = cairn_calloc(n_allow, sizeof *d->principals));
    for (size_t i = 0; i < n_allow && ok; i++) {
        d->principals[i] = str_dup(allow[i]);
        ok = d->principals[i] != NULL;
        d->n_principals = i + 1;
    }
    store_view_end(v);
    v = NULL;
    if (!ok) {
        err = cairn_fail(why, CAIRN_ENOMEM, "%s", f->id);
        goto done;
    }
    err = loader_parse(&d->doc, f->id, bytes, len, LOADER_UNKNOWN, y->c->s->config, &local);
    if (err) {
        err = err == CAIRN_ENOMEM ? cairn_fail(why, err, "%s", local.text)
                                  : fail_file(y, f->id, local.text, why);
        goto done;
    }
    d->keep_acl = !have_acl;
    d->content_hash = h;
    d->modified_us = f->modified_us;
    d->mime = cairn_strdup(loader_mime(d->doc->format));
    if (!d->mime) {
        err = cairn_fail(why, CAIRN_ENOMEM, "%s", f->id);
        goto done;
    }
    y->batch_bytes += d->doc->text_len;
    y->batch[y->n_batch++] = d;
    d = NULL;
    if (y->n_batch == y->batch_max || y->batch_bytes >= y->batch_bytes_max)
        err = flush(y, why);
done:
    store_view_end(v);
    prepared_free(d);
    cairn_free(bytes);
    return err;
}

/* Why a document without a listed file is kept; NULL: its file is gone. */
static const char *held_by_a_root(const struct sync *y, struct cairn_str id)
{
    const char *reason = NULL;
    for (size_t i = 0; i < y->n_roots && !reason; i++)
        reason = loader_listing_holds(&y->roots[i].list, id);
    return reason;
}

static enum cairn_err keep_stale(struct sync *y, struct cairn_str id, const char *reason,
                                 struct cairn_why *why)
{
    char text[DOCUMENT_ID_MAX + 1], words[256];
    snprintf(text, sizeof text, "%.*s", (int)id.len, id.p);
    snprintf(words, sizeof words, "skipped, and its stored version kept: %s", reason);
    return fail_file(y, text, words, why);
}

/* Documents of the store that no file stands for: two sorted runs, merged in pages. */
static enum cairn_err sweep(struct sync *y, struct cairn_why *why)
{
    size_t at = 0, n = 0;
    char after[DOCUMENT_ID_MAX + 1] = "";
    size_t after_len = 0;
    struct store_caller all = {.all = true};
    enum cairn_err err = CAIRN_OK;
    for (bool more = true; more && !err;) {
        struct store_view *v;
        struct document_info *list = NULL;
        char **gone = NULL;
        struct store_batch *b = NULL;
        size_t n_gone = 0;
        err = store_view_begin(&v, y->c->s->store, why);
        if (err)
            return err;
        err = store_document_list(v, y->collection, &all, (struct cairn_str){after, after_len}, 256, &list,
                                  &n, why);
        if (!err && !(gone = cairn_calloc(n, sizeof *gone)))
            err = cairn_fail(why, CAIRN_ENOMEM, "sweep");
        for (size_t i = 0; i < n && !err; i++) {
            int order = -1;
            for (; at < y->n_files; at++) {
                const char *id = y->files[at].f->id;
                size_t len = strlen(id), m = len < list[i].id.len ? len : list[i].id.len;
                order = memcmp(id, list[i].id.p, m);
                order = order ? order : (len > list[i].id.len) - (len < list[i].id.len);
                if (order >= 0)
                    break;
            }
            if (at < y->n_files && order == 0)
                continue;
            const char *held = held_by_a_root(y, list[i].id);
            if (held)
                err = keep_stale(y, list[i].id, held, why);
            else if (y->delete_missing)
                err =
                    (gone[n_gone] = str_dup(list[i].id)) ? CAIRN_OK : cairn_fail(why, CAIRN_ENOMEM, "sweep");
            n_gone += gone[n_gone] != NULL;
        }
        more = n == 256;
        if (n && !err) {
            memcpy(after, list[n - 1].id.p, list[n - 1].id.len);
            after_len = list[n - 1].id.len;
        }
        /* neither waiting for the writer's turn nor a commit may hold up growth of the map */
        store_view_end(v);
        cairn_free(list);
        if (!err && n_gone)
            err = cairn_stopped(y->c->stop, why);
        if (!err && n_gone) {
            uint64_t done = 0;
            err = store_batch_begin(&b, y->c->s->store, why);
            for (size_t i = 0; i < n_gone && !err; i++) {
                err = store_delete(b, y->collection, cairn_str_of(gone[i]), why);
                done += !err;
                if (err == CAIRN_ENOTFOUND)
                    err = CAIRN_OK;
            }
            if (!err) {
                err = store_batch_commit(b, &y->totals.generation, why);
                b = NULL;
            }
            if (b)
                store_batch_abort(b);
            if (!err) {
                y->deleted += done;
                atomic_fetch_add(&y->c->s->metrics.deleted, done);
            }
        }
        for (size_t i = 0; i < n_gone; i++)
            cairn_free(gone[i]);
        cairn_free(gone);
        if (!err && !progress(y, "delete", y->deleted, 0, false))
            err = cairn_fail(why, CAIRN_ESTOPPED, "cancelled");
    }
    return err;
}

static int by_id(const void *a, const void *b)
{
    const struct source_file *x = a, *y = b;
    int order = strcmp(x->f->id, y->f->id);
    return order ? order : (x->root > y->root) - (x->root < y->root);
}

static enum cairn_err open_root(struct sync *y, struct root *r, struct cairn_str path, struct cairn_str acl,
                                struct cairn_why *why)
{
    r->path = str_dup(path);
    char *acl_path = NULL;
    enum cairn_err err = r->path ? allowed_path(y->c, r->path, why) : cairn_fail(why, CAIRN_ENOMEM, "path");
    if (!err)
        err = loader_list(&r->list, r->path, y->c->s->config, why);
    struct stat st;
    y->only_folders &= !err && stat(r->path, &st) == 0 && S_ISDIR(st.st_mode);
    if (err || y->drop_acl)
        return err;
    acl_path = acl.p ? str_dup(acl) : cairn_path_join(r->path, "acl.json");
    if (!acl_path)
        return cairn_fail(why, CAIRN_ENOMEM, "path");
    if (acl.p)
        err = allowed_path(y->c, acl_path, why);
    if (!err && (acl.p || stat(acl_path, &st) == 0))
        err = loader_acl_open(&r->acl, acl_path, why);
    cairn_free(acl_path);
    return err;
}

/* given: delete_missing is the caller's word; by default a single file says nothing about the others. */
static enum cairn_err sync_start(struct sync *y, struct cairn_str *paths, size_t n, struct cairn_str acl,
                                 bool given, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    bool any_acl = false;
    y->only_folders = true;
    y->roots = cairn_calloc(n, sizeof *y->roots);
    if (!y->roots)
        return cairn_fail(why, CAIRN_ENOMEM, "sources");
    for (size_t i = 0; i < n && !err; i++) {
        y->n_roots = i + 1;
        err = open_root(y, &y->roots[i], paths[i], acl, why);
        y->n_files += y->roots[i].list.n;
        y->n_skipped += y->roots[i].list.n_skipped;
        y->n_held += y->roots[i].list.n_held;
        any_acl |= y->roots[i].acl != NULL;
    }
    if (err)
        return err;
    y->delete_missing = given ? y->delete_missing : y->only_folders;
    y->files = cairn_calloc(y->n_files, sizeof *y->files);
    y->batch = cairn_calloc(y->batch_max, sizeof *y->batch);
    if (!y->files || !y->batch)
        return cairn_fail(why, CAIRN_ENOMEM, "%zu files", y->n_files);
    size_t at = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < y->roots[i].list.n; k++)
            y->files[at++] = (struct source_file){&y->roots[i].list.files[k], &y->roots[i]};
    qsort(y->files, y->n_files, sizeof *y->files, by_id);
    at = 0;
    for (size_t i = 0; i < y->n_files && !err; i++) { /* the first root that has an id owns it */
        if (at > 0 && strcmp(y->files[at - 1].f->id, y->files[i].f->id) == 0)
            err =
                fail_file(y, y->files[i].f->id, "two paths have a file of this id; the first was taken", why);
        else
            y->files[at++] = y->files[i];
    }
    y->n_files = at;

    struct store_view *v;
    struct collection_info info;
    if (!err)
        err = store_view_begin(&v, y->c->s->store, why);
    if (err)
        return err;
    err = store_collection_get(v, y->collection, &info, why);
    y->exists = err == CAIRN_OK;
    store_view_end(v);
    if (err == CAIRN_ENOTFOUND)
        err = y->create
                  ? collection_defaults(y->c, y->collection, !any_acl, &y->want, why)
                  : cairn_fail(why, CAIRN_ENOTFOUND,
                               "no collection %s; make it with collection.create, or sync with create: true",
                               y->collection);
    if (!err && y->exists && info.opts.dim && !*info.opts.embedder)
        return cairn_fail(why, CAIRN_ESTATE,
                          "the vectors of collection %s are brought by its clients; use vector.put",
                          y->collection);
    if (!err && y->exists && y->n_files == 0 && y->delete_missing && info.n_documents > 0)
        return cairn_fail(why, CAIRN_ESTATE,
                          "the source holds no readable file, and the collection %" PRIu64
                          " documents: is it mounted? To empty a collection, drop it or delete its documents",
                          info.n_documents);
    return err;
}

enum cairn_err m_doc_sync(struct call *c)
{
    struct sync *y = cairn_calloc(1, sizeof *y);
    if (!y)
        return cairn_fail(c->why, CAIRN_ENOMEM, "sync");
    struct cairn_str path = {NULL, 0}, acl = {NULL, 0}, *paths = NULL;
    size_t n = 0;
    uint64_t batch_bytes = conf_size(c->s, "api.sync_batch_bytes");
    y->c = c;
    y->delete_missing = true;
    y->batch_max = conf_size(c->s, "api.sync_batch_documents");
    (void)p_collection(&c->p, y->collection);
    (void)p_str(&c->p, "path", false, 1, 4095, &path);
    (void)p_strs(&c->p, "paths", false, 64, 4095, &paths, &n);
    (void)p_str(&c->p, "acl", false, 1, 4095, &acl);
    (void)p_bool(&c->p, "delete_missing", &y->delete_missing);
    (void)p_bool(&c->p, "create", &y->create);
    (void)p_uint(&c->p, "batch_bytes", false, 1, (uint64_t)256 << 20, &batch_bytes);
    bool given = p_has(&c->p, "delete_missing");
    enum cairn_err err = p_close(&c->p, NULL);
    y->batch_bytes_max = (size_t)batch_bytes;
    if (!err && (path.p != NULL) == (paths != NULL))
        err = cairn_fail(c->why, CAIRN_EINVAL,
                         "param path: want either path (a string) or paths (an array of strings)");
    if (!err && paths && n == 0)
        err = cairn_fail(c->why, CAIRN_EINVAL, "param paths: empty");
    if (acl.p && wire_str_is(acl, "none")) {
        y->drop_acl = true;
        acl.p = NULL;
    }
    if (!err)
        err = sync_start(y, paths ? paths : &path, paths ? n : 1, acl, given, c->why);
    for (size_t i = 0; i < y->n_files && !err; i++) {
        err = cairn_stopped(c->stop, c->why);
        if (!err && !progress(y, "files", i, y->n_files, i == 0))
            err = cairn_fail(c->why, CAIRN_ESTOPPED, "cancelled");
        if (!err)
            err = sync_file(y, &y->files[i], c->why);
    }
    if (!err)
        err = flush(y, c->why);
    if (!err)
        (void)progress(y, "files", y->n_files, y->n_files, true);
    if (!err && (y->delete_missing || y->n_held) && y->exists)
        err = sweep(y, c->why);
    if (!err && !y->totals.generation) { /* nothing changed: say what there is */
        struct store_view *v;
        err = store_view_begin(&v, c->s->store, c->why);
        if (!err) {
            y->totals.generation = store_view_generation(v);
            store_view_end(v);
        }
    }
    if (!err) {
        call_map(c, 10);
        pk_kuint(&c->out, "generation", y->totals.generation);
        pk_kuint(&c->out, "put", y->totals.put);
        pk_kuint(&c->out, "deleted", y->deleted);
        pk_kuint(&c->out, "unchanged", y->unchanged);
        pk_kuint(&c->out, "skipped", y->n_skipped);
        pk_kuint(&c->out, "passages", y->totals.passages);
        pk_kuint(&c->out, "embedded", y->totals.embedded);
        pk_kuint(&c->out, "bytes", y->bytes);
        pk_kuint(&c->out, "n_failed", y->n_failed_all);
        pk_cstr(&c->out, "failed");
        pk_array(&c->out, y->n_failed);
        for (size_t i = 0; i < y->n_failed; i++) {
            pk_map(&c->out, 2);
            pk_kcstr(&c->out, "id", y->failed[i].id);
            pk_kcstr(&c->out, "error", y->failed[i].error);
        }
        call_end(c);
    }
    for (size_t i = 0; i < y->n_batch; i++)
        prepared_free(y->batch[i]);
    for (size_t i = 0; i < y->n_failed; i++) {
        cairn_free(y->failed[i].id);
        cairn_free(y->failed[i].error);
    }
    for (size_t i = 0; i < y->n_roots; i++) {
        loader_listing_release(&y->roots[i].list);
        loader_acl_close(y->roots[i].acl);
        cairn_free(y->roots[i].path);
    }
    cairn_free(y->failed);
    cairn_free(y->batch);
    cairn_free(y->files);
    cairn_free(y->roots);
    cairn_free(paths);
    cairn_free(y);
    return err;
}
