/* api/cli/ingest.c - `cairn ingest`: a collection becomes what directories hold.
 * On a data directory it is one doc.sync. With --server the files are here and the store is there, so the
 * same comparison (content hash and ACL per document) is made on this side and only what differs is sent by
 * doc.put and doc.delete. A server's documents that this key cannot see are never deleted, and a document
 * whose ACL this key cannot read is never replaced without --acl. */
#include "cli.h"

#include <stdlib.h>
#include <sys/stat.h>

#define BATCH_BYTES ((size_t)2 << 20)
#define BATCH_DOCUMENTS 32u
#define DELETE_IDS 1000u
#define LIST_PAGE 1000u
#define FAILED_SHOWN 20u
#define FILE_BYTES_MAX ((size_t)1 << 30)

static bool is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static char *acl_path(const struct args *a, const char *root) /* OWNED; NULL: none */
{
    struct stat st;
    if (a->acl)
        return strcmp(a->acl, "none") == 0 ? NULL : cairn_strdup(a->acl);
    char *path = cairn_path_join(root, "acl.json");
    if (path && stat(path, &st) == 0)
        return path;
    cairn_free(path);
    return NULL;
}

/* The collection, made with the options given here when it is not there yet. */
static enum cairn_err ensure_collection(struct door *d, const struct args *a, struct cairn_why *why)
{
    struct params p;
    struct cairn_buf result;
    bool any_acl = false;
    params_init(&p);
    cairn_buf_init(&result, 0);
    params_text(&p, "collection", a->pos[0]);
    enum cairn_err err = door_call(d, "collection.describe", &p, NULL, &result, why);
    json_t *j = err ? NULL : out_parse(&result);
    json_t *have = json_object_get(j, "collection");
    have = json_is_object(have) ? have : j;
    if (!err && (a->is_public || a->is_private) && j_true(have, "public") != a->is_public) {
        params_bool(&p, "public", a->is_public);
        cairn_buf_clear(&result);
        err = door_call(d, "collection.update", &p, NULL, &result, why);
    } else if (err == CAIRN_ENOTFOUND) {
        for (size_t i = 1; i < a->n_pos; i++) {
            char *path = acl_path(a, a->pos[i]);
            any_acl |= path != NULL;
            cairn_free(path);
        }
        params_text(&p, "language", a->language);
        params_bool(&p, "public", a->is_public || (!a->is_private && !any_acl));
        err = door_call(d, "collection.create", &p, NULL, &result, why);
        if (err == CAIRN_EEXISTS) /* somebody was faster */
            err = CAIRN_OK;
    }
    if (!err && have && a->language && strcmp(a->language, j_text(have, "language")) != 0 && !a->quiet)
        fprintf(
            stderr,
            "cairn: ingest: the collection's language stays \"%s\"; it is chosen when a collection is made\n",
            j_text(have, "language"));
    json_decref(j);
    params_release(&p);
    cairn_buf_release(&result);
    return err;
}

/* ---- what differs, sent to a server
 * -------------------------------------------------------------------------------------------------- */

struct remote {
    struct door *d;
    const struct args *a;
    struct progress *progress;
    json_t *stored; /* id -> {content_hash, principals} */
    json_t *report; /* the same keys as doc.sync's result */
    size_t document_bytes_max;
    struct params batch; /* the documents; its own count is of documents */
    char *batch_ids[BATCH_DOCUMENTS];
    size_t batch_from[BATCH_DOCUMENTS + 1]; /* where each document begins */
    uint64_t generation, put, deleted, unchanged, skipped, passages, embedded, bytes, failed;
};

static void remote_fail(struct remote *r, const char *id, const char *error)
{
    r->failed++;
    json_array_append_new(json_object_get(r->report, "failed"),
                          json_pack("{s:s,s:s}", "id", id, "error", error));
}

static enum cairn_err put(struct remote *r, size_t from, size_t n, struct cairn_why *why)
{
    struct params p;
    struct cairn_buf result;
    params_init(&p);
    cairn_buf_init(&result, 0);
    params_text(&p, "collection", r->a->pos[0]);
    pk_cstr(&p.k, "documents");
    pk_array(&p.k, n);
    cairn_buf_put(&p.body, r->batch.body.bytes + r->batch_from[from],
                  r->batch_from[from + n] - r->batch_from[from]);
    p.n++;
    enum cairn_err err = r->batch.body.failed ? cairn_fail(why, CAIRN_ENOMEM, "batch")
                                              : door_call(r->d, "doc.put", &p, NULL, &result, why);
    json_t *j = err ? NULL : out_parse(&result);
    if (j) {
        r->generation = j_whole(j, "generation");
        r->put += j_whole(j, "put");
        r->passages += j_whole(j, "passages");
        r->embedded += j_whole(j, "embedded");
    }
    json_decref(j);
    params_release(&p);
    cairn_buf_release(&result);
    return err;
}

static enum cairn_err flush(struct remote *r, struct cairn_why *why)
{
    size_t n = r->batch.n;
    enum cairn_err err = n ? put(r, 0, n, why) : CAIRN_OK;
    if (err == CAIRN_EINVAL) { /* one document that the server will not take must not cost the others */
        err = CAIRN_OK;
        for (size_t i = 0; i < n && !err; i++) {
            err = put(r, i, 1, why);
            if (err == CAIRN_EINVAL) {
                remote_fail(r, r->batch_ids[i], why->text);
                err = CAIRN_OK;
            }
        }
    }
    for (size_t i = 0; i < n; i++)
        cairn_free(r->batch_ids[i]);
    cairn_buf_clear(&r->batch.body);
    r->batch.n = 0;
    return err;
}

static bool same_principals(json_t *stored, const struct cairn_str *allow, size_t n)
{
    if (json_array_size(stored) != n)
        return false;
    for (size_t i = 0; i < n; i++) {
        json_t *v;
        size_t k;
        bool found = false;
        json_array_foreach(stored, k, v) found |= json_string_length(v) == allow[i].len &&
                                                  memcmp(json_string_value(v), allow[i].p, allow[i].len) == 0;
        if (!found)
            return false;
    }
    return true;
}

static enum cairn_err remote_file(struct remote *r, const struct loader_file *f, const struct loader_acl *acl,
                                  struct cairn_why *why)
{
    char *bytes = NULL, hex[2 * sizeof(struct cairn_hash) + 1];
    size_t len, n_allow = 0;
    const struct cairn_str *allow = NULL;
    struct cairn_why local = {{0}};
    json_t *old = json_object_get(r->stored, f->id), *principals = json_object_get(old, "principals");
    if (old) /* the file is there, whatever may be wrong with it: never deleted */
        (void)json_object_set_new(old, "seen", json_true());
    enum cairn_err err = cairn_read_file(&bytes, &len, f->path, FILE_BYTES_MAX, &local);
    if (!err && len > r->document_bytes_max)
        err = cairn_fail(&local, CAIRN_EFULL,
                         "%zu bytes; the server takes %zu in one value (its api.str_bytes_max)", len,
                         r->document_bytes_max);
    if (err == CAIRN_ENOMEM)
        return cairn_fail(why, err, "%s", local.text);
    if (err) {
        remote_fail(r, f->id, local.text);
        cairn_free(bytes);
        return CAIRN_OK;
    }
    r->bytes += len;
    struct cairn_hash h = cairn_hash_bytes(bytes, len);
    cairn_hex(hex, h.b, sizeof h.b);
    bool acl_known = acl || r->a->acl; /* "none" is a choice too */
    if (acl)
        loader_acl_find(acl, f->id, &allow, &n_allow);
    bool same = old && strcmp(j_text(old, "content_hash"), hex) == 0;
    if (same && (!acl_known || !principals || same_principals(principals, allow, n_allow))) {
        r->unchanged++;
        cairn_free(bytes);
        return CAIRN_OK;
    }
    if (old && !acl_known && !principals) {
        remote_fail(r, f->id,
                    "this key may not see who can read the stored document; give --acl FILE or --acl none");
        cairn_free(bytes);
        return CAIRN_OK;
    }
    if (r->batch.n == BATCH_DOCUMENTS || (r->batch.n && r->batch.body.len + len > BATCH_BYTES))
        err = flush(r, why);
    char *id = err ? NULL : cairn_strdup(f->id);
    if (!err && !id)
        err = cairn_fail(why, CAIRN_ENOMEM, "%s", f->id);
    if (!err) {
        struct pk *k = &r->batch.k;
        size_t n_principals = acl_known ? n_allow : json_array_size(principals);
        pk_map(k, 5);
        pk_kcstr(k, "id", f->id);
        pk_kcstr(k, "path", f->id);
        pk_kuint(k, "modified_us", f->modified_us > 0 ? (uint64_t)f->modified_us : 0);
        pk_cstr(k, "content");
        pk_bin(k, bytes, len);
        pk_cstr(k, "principals");
        pk_array(k, n_principals);
        for (size_t i = 0; i < n_principals; i++) {
            json_t *v = json_array_get(principals, i);
            pk_str(k, acl_known ? allow[i] : (struct cairn_str){json_string_value(v), json_string_length(v)});
        }
        r->batch_ids[r->batch.n++] = id;
        r->batch_from[r->batch.n] = r->batch.body.len;
    }
    cairn_free(bytes);
    return err;
}

static enum cairn_err remote_list(struct remote *r, struct cairn_why *why)
{
    char *after = NULL;
    enum cairn_err err = CAIRN_OK;
    for (bool more = true; more && !err;) {
        struct params p;
        struct cairn_buf result;
        params_init(&p);
        cairn_buf_init(&result, 0);
        params_text(&p, "collection", r->a->pos[0]);
        params_text(&p, "after", after);
        params_uint(&p, "limit", LIST_PAGE);
        err = door_call(r->d, "doc.list", &p, NULL, &result, why);
        json_t *j = err ? NULL : out_parse(&result), *v;
        size_t i;
        json_array_foreach(json_object_get(j, "documents"), i, v)
        {
            json_t *small = json_pack("{s:O*,s:O*}", "content_hash", json_object_get(v, "content_hash"),
                                      "principals", json_object_get(v, "principals"));
            if (json_object_set_new(r->stored, j_text(v, "id"), small) != 0)
                err = cairn_fail(why, CAIRN_ENOMEM, "list of documents");
        }
        if (!err && !j)
            err = cairn_fail(why, CAIRN_ECORRUPT, "the list of documents could not be read");
        r->generation = j_whole(j, "generation");
        cairn_free(after);
        after = cairn_strdup(json_string_value(json_object_get(j, "next")));
        more = after != NULL;
        json_decref(j);
        params_release(&p);
        cairn_buf_release(&result);
    }
    cairn_free(after);
    return err;
}

/* Marks the documents that no listed file stands for, though the file is there and was skipped. */
static void remote_keep(struct remote *r, const struct loader_listing *lists, size_t n)
{
    const char *id;
    json_t *v;
    json_object_foreach(r->stored, id, v)
    {
        const char *reason = NULL;
        for (size_t i = 0; i < n && !reason && !j_true(v, "seen"); i++)
            reason = loader_listing_holds(&lists[i], cairn_str_of(id));
        if (!reason)
            continue;
        char words[256];
        snprintf(words, sizeof words, "skipped, and its stored version kept: %s", reason);
        remote_fail(r, id, words);
        (void)json_object_set_new(v, "seen", json_true());
    }
}

static enum cairn_err remote_delete(struct remote *r, struct cairn_why *why)
{
    const char *id;
    json_t *v;
    void *it = json_object_iter(r->stored);
    enum cairn_err err = CAIRN_OK;
    while (it && !err) {
        struct cairn_buf ids, result;
        struct params p;
        struct pk k;
        size_t n = 0;
        cairn_buf_init(&ids, 0);
        cairn_buf_init(&result, 0);
        pk_init(&k, &ids);
        for (; it && n < DELETE_IDS; it = json_object_iter_next(r->stored, it)) {
            id = json_object_iter_key(it);
            v = json_object_iter_value(it);
            if (!j_true(v, "seen")) {
                pk_cstr(&k, id);
                n++;
            }
        }
        params_init(&p);
        params_text(&p, "collection", r->a->pos[0]);
        pk_cstr(&p.k, "ids");
        pk_array(&p.k, n);
        cairn_buf_put(&p.body, ids.bytes ? ids.bytes : "", ids.len);
        p.n++;
        if (n)
            err = ids.failed ? cairn_fail(why, CAIRN_ENOMEM, "list of documents")
                             : door_call(r->d, "doc.delete", &p, NULL, &result, why);
        json_t *j = n && !err ? out_parse(&result) : NULL;
        if (j) {
            r->deleted += j_whole(j, "deleted");
            r->generation = j_whole(j, "generation");
        }
        json_decref(j);
        params_release(&p);
        cairn_buf_release(&ids);
        cairn_buf_release(&result);
    }
    return err;
}

/* How large one value of a message may be. */
static void remote_limits(struct remote *r)
{
    struct cairn_buf result;
    r->document_bytes_max = (size_t)4 << 20;
    cairn_buf_init(&result, 0);
    if (door_call(r->d, "server.info", NULL, NULL, &result, NULL) == CAIRN_OK) {
        json_t *j = out_parse(&result);
        json_t *row;
        size_t i;
        json_array_foreach(json_object_get(j, "config"), i,
                           row) /* only admins are told; others get the default */
            if (strcmp(j_text(row, "key"), "api.str_bytes_max") == 0 && j_whole(row, "value"))
                r->document_bytes_max = (size_t)j_whole(row, "value");
        json_decref(j);
    }
    cairn_buf_release(&result);
}

static enum cairn_err remote_sync(struct remote *r, bool delete_missing, struct cairn_config *config,
                                  struct cairn_why *why)
{
    const struct args *a = r->a;
    struct loader_listing lists[LIST_MAX] = {0};
    struct loader_acl *acls[LIST_MAX] = {0};
    size_t total = 0, done = 0, n_roots = a->n_pos - 1;
    json_t *taken = json_object();
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < n_roots && !err; i++) {
        char *path = acl_path(a, a->pos[i + 1]);
        err = loader_list(&lists[i], a->pos[i + 1], config, why);
        if (!err && path)
            err = loader_acl_open(&acls[i], path, why);
        cairn_free(path);
        total += lists[i].n;
        r->skipped += lists[i].n_skipped;
    }
    if (!err)
        err = ensure_collection(r->d, a, why);
    if (!err)
        err = remote_list(r, why);
    if (!err && !total && delete_missing && json_object_size(r->stored))
        err = cairn_fail(
            why, CAIRN_ESTATE,
            "the source holds no readable file, and the collection %zu documents: is it mounted? To empty a "
            "collection, drop it or delete its documents",
            json_object_size(r->stored));
    if (!err)
        remote_limits(r);
    for (size_t i = 0; i < n_roots && !err; i++)
        for (size_t k = 0; k < lists[i].n && !err; k++) {
            const struct loader_file *f = &lists[i].files[k];
            progress_update(r->progress, "files", done++, total);
            if (interrupted())
                err = cairn_fail(why, CAIRN_ESTOPPED,
                                 "interrupted; what was sent is stored, and the next run goes on from there");
            else if (json_object_get(taken, f->id))
                remote_fail(r, f->id, "two paths have a file of this id; the first was taken");
            else if (json_object_set_new(taken, f->id, json_true()) != 0)
                err = cairn_fail(why, CAIRN_ENOMEM, "%s", f->id);
            else
                err = remote_file(r, f, acls[i], why);
        }
    if (!err)
        err = flush(r, why);
    if (!err)
        remote_keep(r, lists, n_roots);
    if (!err && delete_missing)
        err = remote_delete(r, why);
    for (size_t i = 0; i < r->batch.n; i++)
        cairn_free(r->batch_ids[i]);
    for (size_t i = 0; i < n_roots; i++) {
        loader_listing_release(&lists[i]);
        loader_acl_close(acls[i]);
    }
    json_decref(taken);
    return err;
}

/* ---- the command
 * --------------------------------------------------------------------------------------------------------------------------
 */

static bool on_progress(void *ctx, const char *name, const void *msgpack, size_t len)
{
    struct wire_reader r = {msgpack, len, 0}, v;
    struct cairn_str what = {"", 0};
    uint64_t done = 0, total = 0;
    char word[32];
    (void)name;
    if (wire_map_find(&r, "what", &v) && wire_str(&v, &what) && wire_map_find(&r, "done", &v) &&
        wire_uint(&v, &done)) {
        if (wire_map_find(&r, "total", &v))
            (void)wire_uint(&v, &total);
        snprintf(word, sizeof word, "%.*s", (int)(what.len < sizeof word - 1 ? what.len : sizeof word - 1),
                 what.p);
        progress_update(ctx, word, done, total);
    }
    return !interrupted();
}

static int report(const struct args *a, json_t *j, int64_t us)
{
    json_t *failed = json_object_get(j, "failed"), *v;
    size_t i;
    char size[32];
    double seconds = (double)us / 1e6;
    json_array_foreach(failed, i, v)
    {
        if (i == FAILED_SHOWN && !a->json) {
            fprintf(stderr, "cairn: ingest: and %zu more\n", json_array_size(failed) - i);
            break;
        }
        if (!a->json)
            (void)fail_text(a, 0, "%s: %s", j_text(v, "id"), j_text(v, "error"));
    }
    if (a->json) {
        json_dumpf(j, stdout, JSON_COMPACT);
        fputc('\n', stdout);
    } else {
        format_bytes(size, j_whole(j, "bytes"));
        printf("%s: put %" PRIu64 ", unchanged %" PRIu64 ", deleted %" PRIu64 ", skipped %" PRIu64
               ", failed %" PRIu64 "\n",
               a->pos[0], j_whole(j, "put"), j_whole(j, "unchanged"), j_whole(j, "deleted"),
               j_whole(j, "skipped"), j_whole(j, "n_failed"));
        printf("%" PRIu64 " passages, %" PRIu64 " embedded, %s read in %.1f s, generation %" PRIu64 "\n",
               j_whole(j, "passages"), j_whole(j, "embedded"), size, seconds, j_whole(j, "generation"));
    }
    return j_whole(j, "n_failed") ? EXIT_FAILED : EXIT_DONE;
}

static int ingest_local(struct args *a, struct door *d, struct progress *progress, bool delete_missing,
                        json_t **out)
{
    struct params p;
    struct cairn_buf result;
    struct cairn_why why = {{0}};
    struct list paths = {.n = a->n_pos - 1};
    for (size_t i = 1; i < a->n_pos; i++)
        paths.v[i - 1] = a->pos[i];
    params_init(&p);
    cairn_buf_init(&result, 0);
    params_text(&p, "collection", a->pos[0]);
    params_list(&p, "paths", &paths);
    params_text(&p, "acl", a->acl);
    params_bool(&p, "delete_missing", delete_missing);
    params_bool(&p, "create", true);
    enum cairn_err err =
        a->language || a->is_public || a->is_private ? ensure_collection(d, a, &why) : CAIRN_OK;
    if (!err)
        err = door_call(d, "doc.sync", &p, &(struct api_sink){on_progress, progress}, &result, &why);
    if (!err &&
        cairn_config_num(d->config, "api.merge") != 0) { /* so that the first search is as fast as any */
        uint32_t n = 0;
        err = store_merge(service_store(d->service), a->pos[0], &(struct store_merge_opts){.threads = 1},
                          progress_update, progress, &d->stop, &n, &why);
    }
    progress_end(progress);
    if (!err)
        *out = out_parse(&result);
    int code = EXIT_DONE;
    if (err && interrupted())
        code = fail_text(a, EXIT_FAILED,
                         "interrupted; what was committed is stored, and the next run goes on from there");
    else if (err)
        code = fail_with(a, err, &why);
    else if (!*out)
        code = fail_text(a, EXIT_FAILED, "the report could not be read");
    params_release(&p);
    cairn_buf_release(&result);
    return code;
}

static int ingest_remote(struct args *a, struct door *d, struct progress *progress, bool delete_missing,
                         json_t **out)
{
    struct cairn_why why = {{0}};
    struct cairn_config *config;
    struct remote *r = cairn_calloc(1, sizeof *r);
    int code = config_open(&config, a);
    if (code || !r) {
        cairn_free(r);
        return code ? code : fail_text(a, EXIT_FAILED, "out of memory");
    }
    r->d = d;
    r->a = a;
    r->progress = progress;
    r->stored = json_object();
    r->report = json_pack("{s:[]}", "failed");
    params_init(&r->batch);
    enum cairn_err err = r->stored && r->report ? remote_sync(r, delete_missing, config, &why)
                                                : cairn_fail(&why, CAIRN_ENOMEM, "ingest");
    progress_end(progress);
    if (err) {
        code = fail_with(a, err, &why);
    } else {
        *out = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:O}", "generation", (json_int_t)r->generation,
                         "put", (json_int_t)r->put, "deleted", (json_int_t)r->deleted, "unchanged",
                         (json_int_t)r->unchanged, "skipped", (json_int_t)r->skipped, "passages",
                         (json_int_t)r->passages, "embedded", (json_int_t)r->embedded, "bytes",
                         (json_int_t)r->bytes, "n_failed", (json_int_t)r->failed, "failed",
                         json_object_get(r->report, "failed"));
        if (!*out)
            code = fail_text(a, EXIT_FAILED, "out of memory");
    }
    params_release(&r->batch);
    json_decref(r->stored);
    json_decref(r->report);
    cairn_config_free(config);
    cairn_free(r);
    return code;
}

static int ingest(struct args *a)
{
    struct door d;
    struct progress progress;
    json_t *result = NULL;
    if (a->is_public && a->is_private)
        return fail_usage(a, "--public and --private exclude each other");
    bool all_directories = true;
    for (size_t i = 1; i < a->n_pos; i++) {
        struct stat st;
        if (stat(a->pos[i], &st) != 0)
            return fail_text(a, EXIT_NOT_FOUND, "%s: no such file or directory", a->pos[i]);
        all_directories &= is_directory(a->pos[i]);
    }
    bool delete_missing = !a->no_delete && all_directories; /* a single file says nothing about the others */
    int code = door_open(&d, a, DOOR_CREATE, false);
    if (code)
        return code;
    progress_begin(&progress, a);
    interrupt_watch(&d.stop);
    code = d.client ? ingest_remote(a, &d, &progress, delete_missing, &result)
                    : ingest_local(a, &d, &progress, delete_missing, &result);
    interrupt_watch(NULL);
    if (!code)
        code = report(a, result, cairn_now_us() - progress.begun_us);
    json_decref(result);
    door_close(&d);
    return out_finish(a, code);
}

static const struct opt ingest_opts[] = {
    OPT(TEXT, "acl", "FILE", acl, "who may read what, or none (default: acl.json in PATH when there is one)"),
    OPT(FLAG, "no-delete", NULL, no_delete, "keep documents whose file is gone"),
    OPT(TEXT, "language", "L", language, "of a new collection, for stemming; \"\": none (default english)"),
    OPT(FLAG, "public", NULL, is_public,
        "documents without an ACL are readable by all (default when there is no acl.json)"),
    OPT(FLAG, "private", NULL, is_private,
        "documents without an ACL are readable by nobody (default when there is one)"),
    OPTS_ACROSS};
static const struct command commands[] = {
    COMMAND("ingest", "COLLECTION PATH...", "make a collection hold what directories hold",
            "Reads plain text, Markdown and HTML. Only new and changed files are parsed and embedded; "
            "documents whose file is gone are "
            "deleted (not when a PATH is a single file, nor with --no-delete). Each batch is one commit: a "
            "run that was stopped goes on "
            "where it was. Files that cannot be read as documents are named, and the exit code is 1.",
            ingest_opts, 2, LIST_MAX, ingest)};
const struct command_group ingest_commands = {commands, sizeof commands / sizeof commands[0]};
